/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing the configuration: the running state becomes a JSON object with the keys of the file, and
 * such an object becomes YAML that conf_yaml.c reads back to the same state.
 */
#include "ctl/conf.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/* --- the running state as an object ------------------------------------------------------- */

static void put_workers(json_t *o, const struct dp *dp)
{
    struct worker_info w[WORKER_MAX];
    unsigned n = dp_workers(dp, w, WORKER_MAX);
    char list[WORKER_MAX * 5] = "";
    size_t used = 0;

    for (unsigned i = 0; i < n; i++) {
        if (w[i].cpu < 0) {
            return;
        }
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%d", i ? "," : "", w[i].cpu);
    }
    if (n) {
        json_object_set_new(o, "workers", json_string(list));
    }
}

static json_t *bridges_of(const struct dp *dp)
{
    static struct bridge_conf b[BRIDGE_MAX];
    unsigned n = dp_bridge_list(dp, b, BRIDGE_MAX);
    json_t *o = json_object();

    for (unsigned i = 0; i < n; i++) {
        json_object_set_new(
            o, b[i].name,
            json_pack("{s:i, s:b, s:s, s:s, s:i}", "age", (int)b[i].age, "forward-reserved",
                      (int)b[i].forward_reserved, "vlan-filtering",
                      conf_vlan_filtering(b[i].vlan_filtering), "vlan-protocol",
                      vlan_proto_name(b[i].vlan_protocol), "vlan-default-pvid",
                      (int)b[i].vlan_default_pvid));
    }
    return o;
}

static json_t *port_of(const struct dp *dp, const struct port *p)
{
    const struct mactab *t = dp_mactab(dp);
    uint32_t limit = mactab_limit(t, p->id);
    const char *bridge = dp_port_bridge(dp, p);
    json_t *o = json_pack("{s:s}", "kind", p->ops->kind);

    for (unsigned i = 0; i < p->conf.n_opt; i++) {
        json_object_set_new(o, p->conf.opt[i].key, json_string(p->conf.opt[i].value));
    }
    if (bridge) {
        json_object_set_new(o, "bridge", json_string(bridge));
    }
    if (dp_port_isolated(dp, p)) {
        json_object_set_new(o, "isolated", json_true());
    } else {
        json_object_del(o, "isolated");
    }
    if (limit != mactab_size(t) / 2) {
        json_object_set_new(o, "mac-limit", json_integer(limit));
    } else {
        json_object_del(o, "mac-limit");
    }
    return o;
}

struct macs_arg {
    const struct dp *dp;
    json_t *list;
    struct port **port;
    unsigned n_ports;
};

static void add_static(void *arg, const struct mac_entry *m)
{
    struct macs_arg *a = arg;
    char text[18];
    uint8_t mac[6];
    uint16_t vlan = 0;

    if (!m->is_static) {
        return;
    }
    for (int i = 0; i < 6; i++) {
        mac[i] = (uint8_t)(m->key >> (8 * i));
    }
    for (unsigned i = 0; i < a->n_ports; i++) {
        if (a->port[i]->id == m->port) {
            text_write_mac(text, mac);
            dp_fid_bridge(a->dp, (uint16_t)(m->key >> 48), &vlan);
            json_t *o = json_pack("{s:s, s:s}", "mac", text, "port", a->port[i]->name);

            if (vlan) {
                json_object_set_new(o, "vlan", json_integer(vlan));
            }
            json_array_append_new(a->list, o);
        }
    }
}

json_t *conf_from_dp(const struct dp *dp, const struct conf *boot)
{
    static struct port *port[PORT_MAX];
    unsigned n = dp_ports(dp, port, PORT_MAX);
    json_t *o = json_object(), *ports = json_object();
    struct macs_arg macs = {dp, json_array(), port, n};

    put_workers(o, dp);
    json_object_set_new(o, "mac-size", json_integer(boot->mac_size));
    json_object_set_new(o, "poll-us", json_integer(boot->poll_us));
    json_object_set_new(o, "balance-ms", json_integer(boot->balance_ms));
    json_object_set_new(o, "log-level", json_string(log_level_name(log_get_level())));
    if (boot->rundir) {
        json_object_set_new(o, "rundir", json_string(boot->rundir));
    }
    json_object_set_new(o, "bridges", bridges_of(dp));
    for (unsigned i = 0; i < n; i++) {
        json_object_set_new(ports, port[i]->name, port_of(dp, port[i]));
    }
    json_object_set_new(o, "ports", ports);
    mactab_each(dp_mactab(dp), add_static, &macs);
    json_object_set_new(o, "macs", macs.list);
    return o;
}

/* --- an object as YAML --------------------------------------------------------------------- */

/* May this text stand without quotes, for every YAML reader? (52:54 is a number to some.) */
static bool plain_ok(const char *s)
{
    static const char *const special[] = {"y",    "n",     "yes", "no",  "on",
                                          "true", "false", "off", "null"};
    bool digits = *s != 0;

    for (const char *p = s; *p; p++) {
        digits = digits && isdigit((unsigned char)*p);
    }
    if (digits && (s[0] != '0' || !s[1])) {
        return true;
    }
    if (!isalpha((unsigned char)s[0]) && s[0] != '/') {
        return false;
    }
    for (const char *p = s; *p; p++) {
        if (!isalnum((unsigned char)*p) && !strchr("._-/", *p)) {
            return false;
        }
    }
    for (unsigned i = 0; i < ARRAY_SIZE(special); i++) {
        if (!strcasecmp(s, special[i])) {
            return false;
        }
    }
    return true;
}

static void put_text(FILE *f, const char *s)
{
    if (plain_ok(s)) {
        fputs(s, f);
        return;
    }
    fputc('"', f);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if (c == '"' || c == '\\') {
            fprintf(f, "\\%c", c);
        } else if (c < 0x20 || c == 0x7f) {
            fprintf(f, "\\x%02x", c);
        } else {
            fputc(c, f);
        }
    }
    fputc('"', f);
}

static void put_scalar(FILE *f, const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_STRING:
        put_text(f, json_string_value(v));
        break;
    case JSON_INTEGER:
        fprintf(f, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
        break;
    case JSON_TRUE:
        fputs("yes", f);
        break;
    case JSON_FALSE:
        fputs("no", f);
        break;
    default:
        fputs("null", f);
        break;
    }
}

static void put_map(FILE *f, const json_t *o, int indent);

static void put_list(FILE *f, const json_t *list, int indent)
{
    size_t i;
    json_t *item;

    json_array_foreach (list, i, item) {
        const char *sep = "";
        const char *key;
        json_t *v;

        fprintf(f, "%*s- {", indent, "");
        json_object_foreach (item, key, v) {
            fputs(sep, f);
            put_text(f, key);
            fputs(": ", f);
            put_scalar(f, v);
            sep = ", ";
        }
        fputs("}\n", f);
    }
}

static void put_map(FILE *f, const json_t *o, int indent)
{
    const char *key;
    json_t *v;

    json_object_foreach ((json_t *)(uintptr_t)o, key, v) {
        bool empty = (json_is_object(v) && !json_object_size(v)) ||
                     (json_is_array(v) && !json_array_size(v));

        if (empty) {
            continue;
        }
        fprintf(f, "%*s", indent, "");
        put_text(f, key);
        if (json_is_object(v)) {
            fputs(":\n", f);
            put_map(f, v, indent + 2);
        } else if (json_is_array(v)) {
            fputs(":\n", f);
            put_list(f, v, indent + 2);
        } else {
            fputs(": ", f);
            put_scalar(f, v);
            fputc('\n', f);
        }
    }
}

char *conf_to_yaml(const json_t *config)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    if (!f) {
        return NULL;
    }
    put_map(f, config, 0);
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    return text;
}
