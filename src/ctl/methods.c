/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The methods of the control socket, one function each, and the table that names them.  Members of
 * results are snake_case; keys of ports are as in the configuration file.  docs/control.md is the
 * reference.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "ctl/ctl_int.h"
#include "pkt/drop.h"
#include "port/capture.h"

#ifndef RINGWAY_VERSION
#error "RINGWAY_VERSION comes from the build"
#endif

/* --- reading parameters ------------------------------------------------------------------- */

/* A string parameter; *out is NULL when an optional one is left out. */
static int want_string(const json_t *params, const char *key, bool required, const char **out,
                       struct err *e)
{
    const json_t *v = json_object_get(params, key);

    *out = NULL;
    if (!v || json_is_null(v)) {
        return required ? err_set(e, CTL_BAD_PARAMS, "parameter \"%s\" is missing", key) : 0;
    }
    if (!json_is_string(v)) {
        return err_set(e, CTL_BAD_PARAMS, "parameter \"%s\" must be a string", key);
    }
    *out = json_string_value(v);
    return 0;
}

/* Another function said what is wrong with its value. */
static int bad_params(struct err *e, const char *key)
{
    err_prefix(e, "parameter \"%s\"", key);
    return e->code = CTL_BAD_PARAMS;
}

static int want_mac(const json_t *params, uint8_t mac[6], struct err *e)
{
    const char *text;
    int rc = want_string(params, "mac", true, &text, e);

    if (!rc && text_read_mac(text, mac)) {
        return err_set(e, CTL_BAD_PARAMS, "\"%.80s\" is not a MAC address like 52:54:00:12:34:56",
                       text);
    }
    return rc;
}

static int want_number(const json_t *params, const char *key, json_int_t min, json_int_t max,
                       json_int_t *out, struct err *e)
{
    const json_t *v = json_object_get(params, key);

    if (!v || json_is_null(v)) {
        return 0;
    }
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) {
        return err_set(e, CTL_BAD_PARAMS,
                       "parameter \"%s\" must be a whole number from %lld to %lld", key,
                       (long long)min, (long long)max);
    }
    *out = json_integer_value(v);
    return 0;
}

/* An optional VLAN; 0 when it is left out. */
static int want_vlan(const json_t *params, uint16_t *out, struct err *e)
{
    json_int_t vid = 0;
    int rc = want_number(params, "vlan", 1, VLAN_VID_MAX, &vid, e);

    *out = (uint16_t)vid;
    return rc;
}

/* A port that must exist, or NULL in *out when the optional parameter is left out. */
static int want_port(struct ctl *c, const json_t *params, const char *key, bool required,
                     struct port **out, struct err *e)
{
    const char *name;
    int rc = want_string(params, key, required, &name, e);

    *out = NULL;
    if (rc || !name) {
        return rc;
    }
    *out = dp_find_port(c->dp, name, e);
    return *out ? 0 : -ENOENT;
}

/* {name: [...]}: what add() says of the port that params have under key, or of all ports. */
static int list_ports(struct ctl *c, const json_t *params, const char *key, const char *name,
                      void (*add)(const struct ctl *c, const struct port *p, json_t *list),
                      json_t **result, struct err *e)
{
    struct port *one, *all[PORT_MAX];
    int rc = want_port(c, params, key, false, &one, e);

    if (rc) {
        return rc;
    }
    unsigned n = one ? 0 : dp_ports(c->dp, all, PORT_MAX);
    json_t *list = json_array();

    if (one) {
        add(c, one, list);
    }
    for (unsigned i = 0; i < n; i++) {
        add(c, all[i], list);
    }
    *result = json_pack("{s:o}", name, list);
    return 0;
}

/* --- ports -------------------------------------------------------------------------------- */

static json_t *options_json(const struct port_conf *conf)
{
    json_t *o = json_object();

    for (unsigned i = 0; i < conf->n_opt; i++) {
        json_object_set_new(o, conf->opt[i].key, json_string(conf->opt[i].value));
    }
    return o;
}

static json_t *direction_json(uint64_t frames, uint64_t bytes, double pps, double byte_rate)
{
    return json_pack("{s:I, s:I, s:f, s:f}", "frames", (json_int_t)frames, "bytes",
                     (json_int_t)bytes, "pps", pps, "bps", byte_rate * 8);
}

static json_t *port_json(const struct ctl *c, const struct port *p)
{
    const struct mactab *t = dp_mactab(c->dp);
    struct port_rates r = rates_port(c->rates, p);
    const char *bridge = dp_port_bridge(c->dp, p);
    struct port_counters n;
    json_t *o = json_object(), *state = json_object();
    uint64_t drops = 0;
    double drop_rate = 0;

    port_counters_sum(p, &n);
    for (unsigned i = 0; i < DROP_N; i++) {
        drops += n.drop[i];
        drop_rate += r.drop[i];
    }
    json_object_set_new(o, "name", json_string(p->name));
    json_object_set_new(o, "kind", json_string(p->ops->kind));
    json_object_set_new(o, "bridge", bridge ? json_string(bridge) : json_null());
    json_object_set_new(o, "ready", json_boolean(read_once(&p->ready)));
    json_object_set_new(o, "isolated", json_boolean(dp_port_isolated(c->dp, p)));
    json_object_set_new(o, "max_frame", json_integer(p->max_len));
    json_object_set_new(o, "options", options_json(&p->conf));
    json_object_set_new(o, "rx", direction_json(n.rx_frames, n.rx_bytes, r.rx_frames, r.rx_bytes));
    json_object_set_new(o, "tx", direction_json(n.tx_frames, n.tx_bytes, r.tx_frames, r.tx_bytes));
    json_object_set_new(o, "drops", json_integer((json_int_t)drops));
    json_object_set_new(o, "drops_pps", json_real(drop_rate));
    json_object_set_new(o, "macs",
                        json_pack("{s:I, s:I, s:I}", "learnt", (json_int_t)mactab_count(t, p->id),
                                  "limit", (json_int_t)mactab_limit(t, p->id), "refused",
                                  (json_int_t)mactab_limited(t, p->id)));
    json_object_set_new(o, "captures", json_integer(capture_count(p)));
    if (p->ops->show) {
        p->ops->show(p, state);
    }
    json_object_set_new(o, "state", state);
    return o;
}

static void add_port(const struct ctl *c, const struct port *p, json_t *list)
{
    json_array_append_new(list, port_json(c, p));
}

static int ports_list(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    return list_ports(c, params, "name", "ports", add_port, result, e);
}

/* Options may be written as strings, numbers or booleans. */
static int add_options(struct port_conf *conf, const json_t *options, struct err *e)
{
    const char *key;
    json_t *v;

    json_object_foreach ((json_t *)(uintptr_t)options, key, v) {
        char number[32];
        const char *text = json_string_value(v);

        if (json_is_integer(v)) {
            snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(v));
            text = number;
        } else if (json_is_boolean(v)) {
            text = json_is_true(v) ? "yes" : "no";
        }
        if (!text) {
            return err_set(e, CTL_BAD_PARAMS,
                           "option \"%.80s\" must be a string, a number or a boolean", key);
        }
        if (port_conf_set(conf, key, text)) {
            return err_set(e, -ENOMEM, "out of memory");
        }
    }
    return 0;
}

static int port_add(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    const json_t *options = json_object_get(params, "options");
    const char *name, *kind;
    struct port_conf conf = {0};
    int rc = want_string(params, "name", true, &name, e);

    if (!rc) {
        rc = want_string(params, "kind", false, &kind, e);
    }
    if (rc) {
        return rc;
    }
    if (options && !json_is_object(options)) {
        return err_set(e, CTL_BAD_PARAMS, "parameter \"options\" must be an object");
    }
    if (!port_name_ok(name)) {
        return err_set(e, -EINVAL,
                       "\"%.80s\" is not a name: up to %d letters, digits, '.', '_' and '-', the "
                       "first a letter or digit",
                       name, PORT_NAME_MAX);
    }
    conf.name = strdup(name);
    conf.kind = strdup(kind ? kind : PORT_KIND_DEFAULT);
    rc = conf.name && conf.kind ? add_options(&conf, options, e)
                                : err_set(e, -ENOMEM, "out of memory");
    if (!rc) {
        rc = dp_port_add(c->dp, &conf, e);
    }
    port_conf_free(&conf);
    if (!rc) {
        *result = port_json(c, dp_port(c->dp, name));
    }
    return rc;
}

static int port_del(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    struct port *p;
    int rc = want_port(c, params, "name", true, &p, e);

    return rc ? rc : dp_port_del(c->dp, p->name, e);
}

static int port_set(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    const char *key, *value;
    struct port *p;
    int rc = want_port(c, params, "name", true, &p, e);

    if (!rc) {
        rc = want_string(params, "key", true, &key, e);
    }
    if (!rc) {
        rc = want_string(params, "value", true, &value, e);
    }
    return rc ? rc : dp_port_set(c->dp, p->name, key, value, e);
}

/* worker left out or null: the queue may go anywhere again. */
static int queue_pin(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    json_int_t queue = -1, worker = -1;
    struct port *p;
    int rc = want_port(c, params, "port", true, &p, e);

    rc = rc ? rc : want_number(params, "queue", 0, INT32_MAX, &queue, e);
    rc = rc ? rc : want_number(params, "worker", 0, INT32_MAX, &worker, e);
    if (!rc && queue < 0) {
        rc = err_set(e, CTL_BAD_PARAMS, "parameter \"queue\" is missing");
    }
    return rc ? rc : dp_queue_pin(c->dp, p->name, (unsigned)queue, (int)worker, e);
}

/* --- drops -------------------------------------------------------------------------------- */

static void add_drops(const struct ctl *c, const struct port *p, json_t *list)
{
    struct port_rates r = rates_port(c->rates, p);
    struct port_counters n;

    port_counters_sum(p, &n);
    for (unsigned i = 0; i < DROP_N; i++) {
        char text[256];

        if (!n.drop[i]) {
            continue;
        }
        snprintf(text, sizeof(text), drop_info[i].text, p->name);
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:I, s:f, s:s}", "port", p->name, "reason",
                                        drop_info[i].name, "frames", (json_int_t)n.drop[i], "pps",
                                        r.drop[i], "text", text));
    }
}

static int drops_list(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    return list_ports(c, params, "port", "drops", add_drops, result, e);
}

/* --- captures ----------------------------------------------------------------------------- */

static int want_bool(const json_t *params, const char *key, bool *out, struct err *e)
{
    const json_t *v = json_object_get(params, key);

    if (v && !json_is_boolean(v)) {
        return err_set(e, CTL_BAD_PARAMS, "parameter \"%s\" must be true or false", key);
    }
    *out = json_is_true(v);
    return 0;
}

static int want_direction(const json_t *params, uint8_t *dirs, struct err *e)
{
    static const struct {
        const char *word;
        uint8_t dirs;
    } words[] = {
        {"in", CAPTURE_IN}, {"out", CAPTURE_OUT}, {"inout", CAPTURE_IN | CAPTURE_OUT}};
    const char *text;
    int rc = want_string(params, "direction", false, &text, e);

    for (unsigned i = 0; !rc && i < ARRAY_SIZE(words); i++) {
        if (!strcmp(text ? text : "inout", words[i].word)) {
            *dirs = words[i].dirs;
            return 0;
        }
    }
    return rc ? rc : err_set(e, CTL_BAD_PARAMS, "parameter \"direction\" is none of in, out, inout");
}

/* What the numbers in records mean. */
static json_t *reasons_json(const struct port *p)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < DROP_N; i++) {
        char text[256];

        snprintf(text, sizeof(text), drop_info[i].text, p->name);
        json_array_append_new(list, json_pack("{s:s, s:s}", "name", drop_info[i].name, "text", text));
    }
    return list;
}

static int capture_begin(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    struct capture_conf conf = {0};
    json_int_t snaplen = CAPTURE_SNAPLEN, buffer = CAPTURE_RING_DEFAULT;
    struct port *p;
    int rc = want_port(c, params, "port", true, &p, e);

    rc = rc ? rc : want_string(params, "filter", false, &conf.filter, e);
    rc = rc ? rc : want_direction(params, &conf.dirs, e);
    rc = rc ? rc : want_bool(params, "drops", &conf.drops, e);
    rc = rc ? rc : want_number(params, "snaplen", 1, UINT32_MAX, &snaplen, e);
    rc = rc ? rc : want_number(params, "buffer", CAPTURE_RING_MIN, CAPTURE_RING_MAX, &buffer, e);
    if (!rc && c->capture) {
        rc = err_set(e, -EBUSY, "one capture per connection");
    }
    if (rc) {
        return rc;
    }
    conf.snaplen = (uint32_t)snaplen;
    conf.ring_bytes = (uint32_t)buffer;
    rc = dp_capture(c->dp, p->name, &conf, &c->capture, e);
    if (!rc) {
        *result = json_pack("{s:I, s:o}", "bytes", (json_int_t)capture_mem(c->capture)->bytes,
                            "reasons", reasons_json(p));
    }
    return rc;
}

/* --- addresses ---------------------------------------------------------------------------- */

struct mac_walk {
    const struct dp *dp;
    const char *bridge;         /* NULL: all */
    uint16_t vlan;              /* 0: all */
    const struct port *only;    /* NULL: all */
    const char *name[PORT_MAX]; /* of each port number, NULL: none */
    json_int_t skip, seen;
    json_t *list;
};

static void mac_visit(void *arg, const struct mac_entry *m)
{
    struct mac_walk *w = arg;
    uint16_t vlan;
    const char *bridge = dp_fid_bridge(w->dp, (uint16_t)(m->key >> 48), &vlan);
    const char *port = m->port < PORT_MAX ? w->name[m->port] : NULL;
    uint8_t mac[6];
    char text[18];

    if (!bridge || !port || (w->only && w->only->id != m->port) ||
        (w->bridge && strcmp(w->bridge, bridge)) || (w->vlan && w->vlan != vlan)) {
        return;
    }
    if (w->seen++ < w->skip || json_array_size(w->list) == CTL_MACS_PER_REPLY) {
        return;
    }
    for (int i = 0; i < 6; i++) {
        mac[i] = (uint8_t)(m->key >> (8 * i));
    }
    text_write_mac(text, mac);
    json_array_append_new(w->list,
                          json_pack("{s:s, s:s, s:o, s:s, s:b, s:i}", "mac", text, "bridge", bridge,
                                    "vlan", vlan ? json_integer(vlan) : json_null(), "port", port,
                                    "static", (int)m->is_static, "age", (int)m->age));
}

/* A page of the table: it may hold millions, and one answer must stay small. */
static int macs_list(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    static struct mac_walk w;
    static struct port *port[PORT_MAX];
    struct port *only;
    int rc;

    w = (struct mac_walk){.dp = c->dp};
    rc = want_port(c, params, "port", false, &only, e);
    if (!rc) {
        rc = want_string(params, "bridge", false, &w.bridge, e);
    }
    if (!rc) {
        rc = want_vlan(params, &w.vlan, e);
    }
    if (!rc) {
        rc = want_number(params, "from", 0, UINT32_MAX, &w.skip, e);
    }
    if (rc) {
        return rc;
    }
    w.only = only;
    for (unsigned i = 0, n = dp_ports(c->dp, port, PORT_MAX); i < n; i++) {
        if (port[i]->id < PORT_MAX) {
            w.name[port[i]->id] = port[i]->name;
        }
    }
    w.list = json_array();
    mactab_each(dp_mactab(c->dp), mac_visit, &w);

    json_int_t next = w.skip + (json_int_t)json_array_size(w.list);

    *result = json_pack("{s:o, s:I, s:I, s:I, s:o}", "macs", w.list, "matching", w.seen, "total",
                        (json_int_t)mactab_total(dp_mactab(c->dp)), "size",
                        (json_int_t)mactab_size(dp_mactab(c->dp)), "next",
                        next < w.seen ? json_integer(next) : json_null());
    return 0;
}

static int mac_add(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    uint8_t mac[6];
    uint16_t vlan;
    struct port *p;
    int rc = want_mac(params, mac, e);

    if (!rc) {
        rc = want_port(c, params, "port", true, &p, e);
    }
    if (!rc) {
        rc = want_vlan(params, &vlan, e);
    }
    return rc ? rc : dp_mac_add(c->dp, p->name, mac, vlan, e);
}

static int mac_del(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    const char *bridge;
    uint8_t mac[6];
    uint16_t vlan;
    int rc = want_mac(params, mac, e);

    if (!rc) {
        rc = want_string(params, "bridge", false, &bridge, e);
    }
    if (!rc) {
        rc = want_vlan(params, &vlan, e);
    }
    return rc ? rc : dp_mac_del(c->dp, bridge ? bridge : BRIDGE_DEFAULT, mac, vlan, e);
}

static int mac_flush(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    const char *bridge;
    struct port *p;
    uint16_t vlan;
    int rc = want_port(c, params, "port", false, &p, e);

    if (!rc) {
        rc = want_string(params, "bridge", false, &bridge, e);
    }
    if (!rc) {
        rc = want_vlan(params, &vlan, e);
    }
    if (!rc) {
        rc = dp_mac_flush(c->dp, bridge, p ? p->name : NULL, vlan, e);
    }
    if (rc < 0) {
        return rc;
    }
    *result = json_pack("{s:i}", "flushed", rc);
    return 0;
}

/* --- bridges ------------------------------------------------------------------------------ */

static unsigned bridges(struct ctl *c, const struct bridge_conf **out)
{
    static struct bridge_conf b[BRIDGE_MAX];

    *out = b;
    return dp_bridge_list(c->dp, b, BRIDGE_MAX);
}

static unsigned ports_in(struct ctl *c, const char *bridge)
{
    static struct port *port[PORT_MAX];
    unsigned n = dp_ports(c->dp, port, PORT_MAX), in = 0;

    for (unsigned i = 0; i < n; i++) {
        const char *b = dp_port_bridge(c->dp, port[i]);

        in += b && !strcmp(b, bridge);
    }
    return in;
}

static int bridge_list(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    const struct bridge_conf *b;
    unsigned n = bridges(c, &b);
    json_t *list = json_array();

    for (unsigned i = 0; i < n; i++) {
        json_array_append_new(
            list, json_pack("{s:s, s:i, s:b, s:i, s:s, s:b, s:s, s:i}", "name", b[i].name, "age",
                            (int)b[i].age, "forward_reserved", (int)b[i].forward_reserved, "ports",
                            (int)ports_in(c, b[i].name), "vlan_filtering",
                            conf_vlan_filtering(b[i].vlan_filtering), "filters_vlans",
                            (int)dp_bridge_filters(c->dp, b[i].name), "vlan_protocol",
                            vlan_proto_name(b[i].vlan_protocol), "vlan_default_pvid",
                            (int)b[i].vlan_default_pvid));
    }
    *result = json_pack("{s:o}", "bridges", list);
    return 0;
}

/* One parameter of bridge.set: the member's name is the key's, with '_' for '-'. */
static int bridge_member(struct bridge_conf *b, const char *key, const json_t *params,
                         struct err *e)
{
    char member[32], number[24];
    const char *text = number;

    snprintf(member, sizeof(member), "%s", key);
    for (char *p = member; *p; p++) {
        *p = *p == '-' ? '_' : *p;
    }
    const json_t *v = json_object_get(params, member);
    if (!v || json_is_null(v)) {
        return 0;
    }
    if (json_is_integer(v)) {
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    } else if (json_is_boolean(v)) {
        text = json_is_true(v) ? "yes" : "no";
    } else {
        text = json_string_value(v);
    }
    if (!text) {
        return err_set(e, CTL_BAD_PARAMS,
                       "parameter \"%s\" must be a number, a boolean or a string", member);
    }
    return conf_bridge_key(b, key, text, e) ? bad_params(e, member) : 0;
}

/* Creates or changes: members that are left out keep their value (or the default). */
static int bridge_set(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    struct bridge_conf conf = {BRIDGE_CONF_DEFAULTS};
    const struct bridge_conf *b;
    const char *name;
    int rc = want_string(params, "name", true, &name, e);

    if (rc) {
        return rc;
    }
    if (!port_name_ok(name)) {
        return err_set(e, -EINVAL, "\"%.80s\" is not a name for a bridge", name);
    }
    for (unsigned i = 0, n = bridges(c, &b); i < n; i++) {
        if (!strcmp(b[i].name, name)) {
            conf = b[i];
        }
    }
    snprintf(conf.name, sizeof(conf.name), "%s", name);
    for (const char *const *k = conf_bridge_keys; *k && !rc; k++) {
        rc = bridge_member(&conf, *k, params, e);
    }
    return rc ? rc : dp_bridge_set(c->dp, &conf, e);
}

static int bridge_del(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    const char *name;
    int rc = want_string(params, "name", true, &name, e);

    return rc ? rc : dp_bridge_del(c->dp, name, e);
}

/* --- VLANs -------------------------------------------------------------------------------- */

/* VLANs in a row with the same flags are one entry, as bridge(8) shows them. */
static json_t *vlans_json(const struct vlan_conf *v)
{
    json_t *list = json_array();

    for (uint16_t from = vlan_set_next(&v->member, 1); from;) {
        bool untagged = vlan_set_has(&v->untagged, from), pvid = from == v->pvid;
        uint16_t to = from;

        while (!pvid && vlan_set_has(&v->member, to + 1) && to + 1 != v->pvid &&
               vlan_set_has(&v->untagged, to + 1) == untagged) {
            to++;
        }
        json_t *o = json_pack("{s:i}", "vlan", (int)from);

        if (to > from) {
            json_object_set_new(o, "vlan_end", json_integer(to));
        }
        json_object_set_new(o, "pvid", json_boolean(pvid));
        json_object_set_new(o, "untagged", json_boolean(untagged));
        json_array_append_new(list, o);
        from = vlan_set_next(&v->member, to + 1);
    }
    return list;
}

static void add_vlans(const struct ctl *c, const struct port *p, json_t *list)
{
    struct vlan_conf v;
    bool filters = dp_vlan_get(c->dp, p, &v);

    json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:s, s:o}", "port", p->name, "bridge",
                                          dp_port_bridge(c->dp, p), "filtering", (int)filters,
                                          "protocol", vlan_proto_name(v.protocol), "vlans",
                                          filters ? vlans_json(&v) : json_array()));
}

static int vlans_list(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    return list_ports(c, params, "port", "ports", add_vlans, result, e);
}

/* VLANs as a number or as a list in a string. */
static int want_vids(const json_t *params, struct vlan_set *out, struct err *e)
{
    const json_t *v = json_object_get(params, "vid");
    char number[24];
    const char *text = json_string_value(v);

    if (json_is_integer(v)) {
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(v));
        text = number;
    }
    if (!text) {
        return err_set(e, CTL_BAD_PARAMS,
                       "parameter \"vid\" must be a number or a list like \"10-20+30\"");
    }
    return vlan_set_parse(out, text, e) ? bad_params(e, "vid") : 0;
}

static int want_flag(const json_t *params, const char *key, bool *out, struct err *e)
{
    const json_t *v = json_object_get(params, key);

    *out = json_is_true(v);
    return !v || json_is_boolean(v) ? 0
                                    : err_set(e, CTL_BAD_PARAMS,
                                              "parameter \"%s\" must be true or false", key);
}

static int vlan_add(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    bool pvid, untagged;
    struct vlan_set vids;
    struct port *p;
    int rc = want_port(c, params, "port", true, &p, e);

    if (!rc) {
        rc = want_vids(params, &vids, e);
    }
    if (!rc) {
        rc = want_flag(params, "pvid", &pvid, e);
    }
    if (!rc) {
        rc = want_flag(params, "untagged", &untagged, e);
    }
    return rc ? rc : dp_vlan_add(c->dp, p->name, &vids, pvid, untagged, e);
}

static int vlan_del(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    struct vlan_set vids;
    struct port *p;
    int rc = want_port(c, params, "port", true, &p, e);

    if (!rc) {
        rc = want_vids(params, &vids, e);
    }
    return rc ? rc : dp_vlan_del(c->dp, p->name, &vids, e);
}

/* --- the switch --------------------------------------------------------------------------- */

static json_t *queues_json(struct ctl *c, unsigned worker)
{
    static struct rxq *q[PORT_MAX];
    unsigned n = dp_worker_queues(c->dp, worker, q, ARRAY_SIZE(q));
    json_t *list = json_array();

    for (unsigned i = 0; i < MIN(n, ARRAY_SIZE(q)); i++) {
        json_array_append_new(
            list, json_pack("{s:s, s:i, s:f, s:b, s:i, s:I, s:I, s:I}", "port", q[i]->port->name,
                            "queue", (int)q[i]->queue, "load", q[i]->load, "pinned",
                            (int)q[i]->pinned, "budget", q[i]->bursts * PKT_BURST, "turns",
                            (json_int_t)read_once(&q[i]->turns), "busy_turns",
                            (json_int_t)read_once(&q[i]->busy_turns), "chains",
                            (json_int_t)read_once(&q[i]->chains)));
    }
    return list;
}

static json_t *number_or_null(int v)
{
    return v < 0 ? json_null() : json_integer(v);
}

static int workers_list(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    struct worker_info w[WORKER_MAX];
    unsigned n = dp_workers(c->dp, w, WORKER_MAX);
    json_t *list = json_array();

    for (unsigned i = 0; i < n; i++) {
        struct worker_rates r = rates_worker(c->rates, w[i].id);

        json_array_append_new(
            list,
            json_pack("{s:i, s:o, s:o, s:b, s:o, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}",
                      "id", (int)w[i].id, "cpu", number_or_null(w[i].cpu), "node",
                      number_or_null(w[i].node), "asleep",
                      (int)w[i].asleep, "queues", queues_json(c, w[i].id), "frames",
                      (json_int_t)w[i].frames, "rounds", (json_int_t)w[i].rounds, "busy_rounds",
                      (json_int_t)w[i].busy_rounds, "sleeps", (json_int_t)w[i].sleeps, "signals",
                      (json_int_t)w[i].signals, "pps", r.frames, "sleeps_per_s", r.sleeps,
                      "signals_per_s", r.signals, "busy", r.busy, "polling", r.idle, "sleeping",
                      r.sleep));
    }
    *result = json_pack("{s:o, s:I}", "workers", list, "moves", (json_int_t)dp_moves(c->dp));
    return 0;
}

static int config_get(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    json_t *config = conf_from_dp(c->dp, &c->boot);
    char *text = config ? conf_to_yaml(config) : NULL;

    if (!text) {
        json_decref(config);
        return err_set(e, -ENOMEM, "out of memory");
    }
    *result = json_pack("{s:o, s:s}", "config", config, "text", text);
    free(text);
    return 0;
}

static int version(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    *result = json_pack("{s:s, s:s, s:i, s:f, s:s?}", "name", "ringway", "version", RINGWAY_VERSION,
                        "pid", (int)getpid(), "uptime_s",
                        (double)(clock_ns() - c->started_ns) / 1e9, "rundir", c->boot.rundir);
    return 0;
}

static int stop(struct ctl *c, const json_t *params, json_t **result, struct err *e)
{
    c->stop = true;
    *result = json_pack("{s:i}", "pid", (int)getpid());
    return 0;
}

#define PARAMS(...) ((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

const struct ctl_method ctl_methods[] = {
    {"ports.list", PARAMS("name"), ports_list},
    {"port.add", PARAMS("name", "kind", "options"), port_add},
    {"port.del", PARAMS("name"), port_del},
    {"port.set", PARAMS("name", "key", "value"), port_set},
    {"queue.pin", PARAMS("port", "queue", "worker"), queue_pin},
    {"drops.list", PARAMS("port"), drops_list},
    {"capture.start", PARAMS("port", "filter", "direction", "drops", "snaplen", "buffer"),
     capture_begin},
    {"macs.list", PARAMS("port", "bridge", "vlan", "from"), macs_list},
    {"mac.add", PARAMS("mac", "port", "vlan"), mac_add},
    {"mac.del", PARAMS("mac", "bridge", "vlan"), mac_del},
    {"mac.flush", PARAMS("port", "bridge", "vlan"), mac_flush},
    {"bridges.list", PARAMS(), bridge_list},
    {"bridge.set", PARAMS("name", "age", "forward_reserved", "vlan_filtering", "vlan_protocol",
                          "vlan_default_pvid"),
     bridge_set},
    {"bridge.del", PARAMS("name"), bridge_del},
    {"vlans.list", PARAMS("port"), vlans_list},
    {"vlan.add", PARAMS("port", "vid", "pvid", "untagged"), vlan_add},
    {"vlan.del", PARAMS("port", "vid"), vlan_del},
    {"workers.list", PARAMS(), workers_list},
    {"config.get", PARAMS(), config_get},
    {"version", PARAMS(), version},
    {"stop", PARAMS(), stop},
    {NULL, NULL, NULL},
};
