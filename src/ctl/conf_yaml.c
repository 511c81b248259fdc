/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the configuration file.  libyaml builds a tree of nodes that know their place in the
 * file; tables of keys say which function reads the value of which key.  The first error ends it,
 * as FILE:LINE:COLUMN: sentence.
 */
#include "ctl/conf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/nearest.h"
#include "base/text.h"

struct reader {
    yaml_document_t doc;
    const char *name;
    struct conf *c;
    struct err *e;
};

struct key_def {
    const char *key; /* NULL ends the table */
    int (*read)(struct reader *r, const yaml_node_t *value, void *obj);
};

static int fail(struct reader *r, yaml_mark_t at, int code, const char *fmt, ...) PRINTF_LIKE(4, 5);

static int fail(struct reader *r, yaml_mark_t at, int code, const char *fmt, ...)
{
    char text[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return err_set(r->e, code, "%s:%zu:%zu: %s", r->name, at.line + 1, at.column + 1, text);
}

/* An error that another function described: put the place in front. */
static int fail_at(struct reader *r, yaml_mark_t at)
{
    return err_prefix(r->e, "%s:%zu:%zu", r->name, at.line + 1, at.column + 1);
}

static const yaml_node_t *node(struct reader *r, int index)
{
    return yaml_document_get_node(&r->doc, index);
}

/* The text of a scalar, NULL (and an error) if it is something else or holds a NUL byte. */
static const char *text_of(struct reader *r, const yaml_node_t *n, const char *what)
{
    if (n->type != YAML_SCALAR_NODE) {
        fail(r, n->start_mark, -EINVAL, "%s must be a single value, not a %s", what,
             n->type == YAML_MAPPING_NODE ? "mapping" : "list");
        return NULL;
    }
    if (strlen((const char *)n->data.scalar.value) != n->data.scalar.length) {
        fail(r, n->start_mark, -EINVAL, "%s contains a NUL byte", what);
        return NULL;
    }
    return (const char *)n->data.scalar.value;
}

/* "key:" with nothing behind it, or an explicit null. */
static bool is_null(const yaml_node_t *n)
{
    const char *v = (const char *)n->data.scalar.value;

    return n->type == YAML_SCALAR_NODE && n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*v || !strcmp(v, "~") || !strcmp(v, "null"));
}

static int unknown_key(struct reader *r, const yaml_node_t *key, const char *word,
                       const struct key_def *keys, const char *what)
{
    const char *words[16] = {0};
    char all[200] = "";
    size_t n = 0;

    for (; keys->key && n < ARRAY_SIZE(words); keys++) {
        size_t used = strlen(all);

        snprintf(all + used, sizeof(all) - used, "%s%s", n ? ", " : "", keys->key);
        words[n++] = keys->key;
    }

    const char *near = nearest(word, words, n);

    if (near) {
        return fail(r, key->start_mark, -EINVAL, "unknown key \"%s\" in %s; did you mean \"%s\"?",
                    word, what, near);
    }
    return fail(r, key->start_mark, -EINVAL, "unknown key \"%s\" in %s; valid keys are: %s", word,
                what, all);
}

static int expect_map(struct reader *r, const yaml_node_t *n, const char *what)
{
    if (n->type != YAML_MAPPING_NODE) {
        return fail(r, n->start_mark, -EINVAL, "%s must be a mapping (key: value)", what);
    }
    return 0;
}

/* A mapping with known keys. */
static int read_map(struct reader *r, const yaml_node_t *n, const struct key_def *keys, void *obj,
                    const char *what)
{
    int rc = expect_map(r, n, what);
    uint64_t seen = 0;

    if (rc) {
        return rc;
    }
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = node(r, p->key);
        const char *word = text_of(r, k, "a key");
        unsigned i = 0;

        if (!word) {
            return -EINVAL;
        }
        while (keys[i].key && strcmp(keys[i].key, word)) {
            i++;
        }
        if (!keys[i].key) {
            return unknown_key(r, k, word, keys, what);
        }
        if (seen & 1ull << i) {
            return fail(r, k->start_mark, -EINVAL, "key \"%s\" is given twice in %s", word, what);
        }
        seen |= 1ull << i;
        rc = keys[i].read(r, node(r, p->value), obj);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

/* Append one zeroed element to an array of the configuration. */
static void *grow(struct reader *r, void *array, unsigned *n, size_t size, unsigned max,
                  const yaml_node_t *at, const char *what)
{
    if (*n == max) {
        fail(r, at->start_mark, -E2BIG, "more than %u %s", max, what);
        return NULL;
    }

    char **a = array;
    char *bigger = realloc(*a, (*n + 1) * size);

    if (!bigger) {
        err_set(r->e, -ENOMEM, "out of memory");
        return NULL;
    }
    *a = bigger;
    memset(bigger + *n * size, 0, size);
    return bigger + (*n)++ * size;
}

/* --- bridges: ---------------------------------------------------------------------------- */

static int bridge_key(struct reader *r, const yaml_node_t *n, void *obj, const char *key)
{
    const char *text = text_of(r, n, key);

    if (!text) {
        return -EINVAL;
    }
    return conf_bridge_key(obj, key, text, r->e) ? fail_at(r, n->start_mark) : 0;
}

static int bridge_age(struct reader *r, const yaml_node_t *n, void *obj)
{
    return bridge_key(r, n, obj, "age");
}

static int bridge_forward_reserved(struct reader *r, const yaml_node_t *n, void *obj)
{
    return bridge_key(r, n, obj, "forward-reserved");
}

static int bridge_vlan_filtering(struct reader *r, const yaml_node_t *n, void *obj)
{
    return bridge_key(r, n, obj, "vlan-filtering");
}

static int bridge_vlan_protocol(struct reader *r, const yaml_node_t *n, void *obj)
{
    return bridge_key(r, n, obj, "vlan-protocol");
}

static int bridge_vlan_default_pvid(struct reader *r, const yaml_node_t *n, void *obj)
{
    return bridge_key(r, n, obj, "vlan-default-pvid");
}

static const struct key_def bridge_keys[] = {
    {"age", bridge_age},
    {"forward-reserved", bridge_forward_reserved},
    {"vlan-filtering", bridge_vlan_filtering},
    {"vlan-protocol", bridge_vlan_protocol},
    {"vlan-default-pvid", bridge_vlan_default_pvid},
    {NULL, NULL},
};

/* The name of a bridge or port that a mapping gives as a key. */
static const char *read_name(struct reader *r, const yaml_node_t *k, const char *what)
{
    const char *name = text_of(r, k, what);

    if (name && !port_name_ok(name)) {
        fail(r, k->start_mark, -EINVAL,
             "\"%.80s\" is not a name: up to %d letters, digits, '.', '_' and '-', the first a "
             "letter or digit",
             name, PORT_NAME_MAX);
        return NULL;
    }
    return name;
}

static int read_bridges(struct reader *r, const yaml_node_t *n, void *obj)
{
    struct conf *c = obj;

    if (is_null(n)) {
        return 0;
    }
    if (expect_map(r, n, "bridges")) {
        return -EINVAL;
    }
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = node(r, p->key), *v = node(r, p->value);
        const char *name = read_name(r, k, "the name of a bridge");

        if (!name) {
            return -EINVAL;
        }
        for (unsigned i = 0; i < c->n_bridges; i++) {
            if (!strcmp(c->bridge[i].name, name)) {
                return fail(r, k->start_mark, -EEXIST, "bridge %s is named twice", name);
            }
        }

        struct bridge_conf *b =
            grow(r, &c->bridge, &c->n_bridges, sizeof(*b), BRIDGE_MAX, k, "bridges");

        if (!b) {
            return -ENOMEM;
        }
        *b = (struct bridge_conf){BRIDGE_CONF_DEFAULTS};
        snprintf(b->name, sizeof(b->name), "%s", name);
        b->line = (unsigned)k->start_mark.line + 1;
        if (!is_null(v) && read_map(r, v, bridge_keys, b, "a bridge")) {
            return -EINVAL;
        }
    }
    return 0;
}

/* --- ports: ------------------------------------------------------------------------------ */

/* Ports know yes and no; YAML's other words for them mean the same. */
static const char *port_value(const yaml_node_t *n, const char *text)
{
    static const char *const yes[] = {"true", "on"}, *const no[] = {"false", "off"};

    for (unsigned i = 0; n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && i < 2; i++) {
        if (!strcasecmp(text, yes[i])) {
            return "yes";
        }
        if (!strcasecmp(text, no[i])) {
            return "no";
        }
    }
    return text;
}

/* [10-20, 30] is what people write for 10-20+30. NULL after an error. */
static const char *join(struct reader *r, const yaml_node_t *n, const char *key, char *out,
                        size_t size)
{
    size_t used = 0;

    out[0] = 0;
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        const char *text = text_of(r, node(r, *i), key);

        if (!text) {
            return NULL;
        }
        used += (size_t)snprintf(out + used, size - used, "%s%s", used ? "+" : "", text);
        if (used >= size) {
            fail(r, n->start_mark, -E2BIG, "%s is a list of more than %zu characters", key, size);
            return NULL;
        }
    }
    return used ? out : "none";
}

/* The keys of a port depend on its kind, which may stand behind them. */
static int read_port_options(struct reader *r, const yaml_node_t *n, struct port_conf *p)
{
    for (yaml_node_pair_t *o = n->data.mapping.pairs.start; o < n->data.mapping.pairs.top; o++) {
        const yaml_node_t *k = node(r, o->key), *v = node(r, o->value);
        const char *key = text_of(r, k, "a key");
        char list[CONF_LIST_MAX];
        const char *value = !key                                                        ? NULL
                            : v->type == YAML_SEQUENCE_NODE && vlan_key_list(key)
                                ? join(r, v, key, list, sizeof(list))
                                : text_of(r, v, key);

        if (!value) {
            return -EINVAL;
        }
        bool null_kind = !strcmp(key, "kind") && !strcmp(value, "null"); /* there is one */

        if (v->type == YAML_SCALAR_NODE && is_null(v) && !null_kind) {
            return fail(r, k->start_mark, -EINVAL, "key \"%s\" needs a value", key);
        }
        if (!strcmp(key, "kind") ? p->kind != NULL : port_conf_get(p, key) != NULL) {
            return fail(r, k->start_mark, -EINVAL, "key \"%s\" is given twice for port %s", key,
                        p->name);
        }
        if (!strcmp(key, "kind")) {
            p->kind = strdup(value);
            if (!p->kind) {
                return err_set(r->e, -ENOMEM, "out of memory");
            }
        } else if (port_conf_set(p, key, value == list ? value : port_value(v, value))) {
            return err_set(r->e, -ENOMEM, "out of memory");
        }
    }
    return 0;
}

/* Where the word stands that dp_port_check() complains about. */
static yaml_mark_t bad_word_mark(struct reader *r, const yaml_node_t *n, const struct port_conf *p)
{
    const struct port_ops *ops = port_kind(p->kind, NULL);

    for (yaml_node_pair_t *o = n->data.mapping.pairs.start; o < n->data.mapping.pairs.top; o++) {
        const yaml_node_t *k = node(r, o->key), *v = node(r, o->value);
        const char *key = (const char *)k->data.scalar.value;
        bool is_kind = !strcmp(key, "kind");

        if (!ops || is_kind) {
            if (!ops && is_kind) {
                return v->start_mark;
            }
            continue;
        }
        const struct port_option_def *d = port_option(ops, dp_port_options(), key, NULL);

        if (!d) {
            return k->start_mark;
        }
        if (port_value_check(d, port_conf_get(p, key), NULL)) {
            return v->start_mark;
        }
    }
    return n->start_mark;
}

static int read_port(struct reader *r, const yaml_node_t *k, const yaml_node_t *v,
                     struct port_conf *p)
{
    const char *name = read_name(r, k, "the name of a port");
    int rc = 0;

    if (!name) {
        return -EINVAL;
    }
    p->line = (unsigned)k->start_mark.line + 1;
    p->name = strdup(name);
    if (v->type == YAML_MAPPING_NODE) {
        rc = read_port_options(r, v, p);
    } else if (!is_null(v)) {
        /* `tap0: tap` is short for `tap0: {kind: tap}` */
        const char *kind = text_of(r, v, "a port");

        rc = kind ? 0 : -EINVAL;
        p->kind = kind ? strdup(kind) : NULL;
    }
    if (rc) {
        return rc;
    }
    if (!p->kind) {
        p->kind = strdup(PORT_KIND_DEFAULT);
    }
    if (!p->name || !p->kind) {
        return err_set(r->e, -ENOMEM, "out of memory");
    }
    if (dp_port_check(p, r->e)) {
        return fail_at(r, v->type == YAML_MAPPING_NODE ? bad_word_mark(r, v, p) : v->start_mark);
    }
    return 0;
}

static int read_ports(struct reader *r, const yaml_node_t *n, void *obj)
{
    struct conf *c = obj;

    if (is_null(n)) {
        return 0;
    }
    if (expect_map(r, n, "ports")) {
        return -EINVAL;
    }
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = node(r, p->key);
        struct port_conf port = {0};
        int rc = read_port(r, k, node(r, p->value), &port);

        if (!rc && conf_add_port(c, &port, r->e)) {
            rc = fail_at(r, k->start_mark);
        }
        port_conf_free(&port);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

/* --- macs: ------------------------------------------------------------------------------- */

static int mac_address(struct reader *r, const yaml_node_t *n, void *obj)
{
    struct conf_mac *m = obj;
    const char *text = text_of(r, n, "mac");

    if (!text) {
        return -EINVAL;
    }
    if (text_read_mac(text, m->mac)) {
        return fail(r, n->start_mark, -EINVAL,
                    "\"%.80s\" is not a MAC address like 52:54:00:12:34:56", text);
    }
    m->line = (unsigned)n->start_mark.line + 1;
    return 0;
}

static int mac_port(struct reader *r, const yaml_node_t *n, void *obj)
{
    struct conf_mac *m = obj;
    const char *name = read_name(r, n, "port");

    if (!name) {
        return -EINVAL;
    }
    snprintf(m->port, sizeof(m->port), "%s", name);
    return 0;
}

static int mac_vlan(struct reader *r, const yaml_node_t *n, void *obj)
{
    struct conf_mac *m = obj;
    const char *text = text_of(r, n, "vlan");
    uint64_t vid;

    if (!text) {
        return -EINVAL;
    }
    if (!text_number(text, 10, VLAN_VID_MAX, &vid) || !vid) {
        return fail(r, n->start_mark, -EINVAL, "vlan \"%.40s\" is not a number from 1 to %d", text,
                    VLAN_VID_MAX);
    }
    m->vlan = (uint16_t)vid;
    return 0;
}

static const struct key_def mac_keys[] = {
    {"mac", mac_address},
    {"port", mac_port},
    {"vlan", mac_vlan},
    {NULL, NULL},
};

static int read_macs(struct reader *r, const yaml_node_t *n, void *obj)
{
    struct conf *c = obj;

    if (is_null(n)) {
        return 0;
    }
    if (n->type != YAML_SEQUENCE_NODE) {
        return fail(r, n->start_mark, -EINVAL, "macs must be a list of {mac: ..., port: ...}");
    }
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        const yaml_node_t *item = node(r, *i);
        struct conf_mac *m =
            grow(r, &c->mac, &c->n_macs, sizeof(*m), CONF_MAC_SIZE_MAX, item, "static addresses");

        if (!m) {
            return -ENOMEM;
        }

        int rc = read_map(r, item, mac_keys, m, "a static address");

        if (rc) {
            return rc;
        }
        if (!m->line || !m->port[0]) {
            return fail(r, item->start_mark, -EINVAL, "a static address needs both mac and port");
        }
    }
    return 0;
}

/* --- the top level ----------------------------------------------------------------------- */

static int read_workers(struct reader *r, const yaml_node_t *n, void *obj)
{
    struct conf *c = obj;

    if (is_null(n)) {
        return 0;
    }
    if (n->type != YAML_SEQUENCE_NODE) {
        const char *list = text_of(r, n, "workers");

        if (!list) {
            return -EINVAL;
        }
        return conf_add_cpus(c, list, r->e) ? fail_at(r, n->start_mark) : 0;
    }
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        const yaml_node_t *item = node(r, *i);
        const char *cpu = text_of(r, item, "a worker's CPU");

        if (!cpu) {
            return -EINVAL;
        }
        if (conf_add_cpus(c, cpu, r->e)) {
            return fail_at(r, item->start_mark);
        }
    }
    return 0;
}

static int read_mac_size(struct reader *r, const yaml_node_t *n, void *obj)
{
    const char *text = text_of(r, n, "mac-size");

    if (!text) {
        return -EINVAL;
    }
    return conf_set_mac_size(obj, text, r->e) ? fail_at(r, n->start_mark) : 0;
}

static int read_poll_us(struct reader *r, const yaml_node_t *n, void *obj)
{
    const char *text = text_of(r, n, "poll-us");

    if (!text) {
        return -EINVAL;
    }
    return conf_set_poll_us(obj, text, r->e) ? fail_at(r, n->start_mark) : 0;
}

static int read_balance_ms(struct reader *r, const yaml_node_t *n, void *obj)
{
    const char *text = text_of(r, n, "balance-ms");

    if (!text) {
        return -EINVAL;
    }
    return conf_set_balance_ms(obj, text, r->e) ? fail_at(r, n->start_mark) : 0;
}

static int read_log_level(struct reader *r, const yaml_node_t *n, void *obj)
{
    struct conf *c = obj;
    const char *text = text_of(r, n, "log-level");

    if (!text) {
        return -EINVAL;
    }
    c->log_level = log_level_parse(text);
    if (c->log_level < 0) {
        return fail(r, n->start_mark, -EINVAL,
                    "log-level \"%.80s\" is none of error, warn, info, debug", text);
    }
    return 0;
}

static int read_rundir(struct reader *r, const yaml_node_t *n, void *obj)
{
    struct conf *c = obj;
    const char *text = text_of(r, n, "rundir");

    if (!text) {
        return -EINVAL;
    }
    if (text[0] != '/') {
        return fail(r, n->start_mark, -EINVAL, "rundir must be an absolute path");
    }
    c->rundir = strdup(text);
    return c->rundir ? 0 : err_set(r->e, -ENOMEM, "out of memory");
}

static const struct key_def top_keys[] = {
    {"workers", read_workers},       {"mac-size", read_mac_size},   {"poll-us", read_poll_us},
    {"balance-ms", read_balance_ms}, {"log-level", read_log_level}, {"rundir", read_rundir},
    {"bridges", read_bridges},       {"ports", read_ports},         {"macs", read_macs},
    {NULL, NULL},
};

/* Static addresses name ports, which may stand behind them in the file. */
static int check_mac_ports(struct reader *r)
{
    const struct conf *c = r->c;

    for (unsigned i = 0; i < c->n_macs; i++) {
        unsigned p = 0;

        while (p < c->n_ports && strcmp(c->port[p].name, c->mac[i].port)) {
            p++;
        }
        if (p == c->n_ports) {
            return err_set(r->e, -ENOENT, "%s:%u: there is no port %s under ports:", r->name,
                           c->mac[i].line, c->mac[i].port);
        }
    }
    return 0;
}

static int read_document(struct reader *r)
{
    const yaml_node_t *root = yaml_document_get_root_node(&r->doc);

    if (!root || is_null(root)) {
        return 0; /* an empty file asks for a switch without ports */
    }

    int rc = read_map(r, root, top_keys, r->c, "the configuration");

    return rc ? rc : check_mac_ports(r);
}

static int syntax_error(struct reader *r, const yaml_parser_t *p)
{
    if (p->error == YAML_MEMORY_ERROR) {
        return err_set(r->e, -ENOMEM, "out of memory");
    }
    if (p->error == YAML_READER_ERROR) {
        return err_set(r->e, -EINVAL, "%s: byte %zu: %s", r->name, p->problem_offset, p->problem);
    }
    return fail(r, p->problem_mark, -EINVAL, "%s%s%s", p->context ? p->context : "",
                p->context ? ": " : "", p->problem);
}

int conf_parse(struct conf *c, const char *name, const char *text, size_t len, struct err *e)
{
    struct reader r = {.name = name, .c = c, .e = e};
    yaml_parser_t p;
    int rc;

    if (!yaml_parser_initialize(&p)) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    yaml_parser_set_input_string(&p, (const unsigned char *)text, len);
    c->file = strdup(name);
    if (!yaml_parser_load(&p, &r.doc)) {
        rc = syntax_error(&r, &p);
        yaml_parser_delete(&p);
        return rc;
    }
    rc = read_document(&r);
    yaml_document_delete(&r.doc);
    if (!rc && yaml_parser_load(&p, &r.doc)) {
        const yaml_node_t *more = yaml_document_get_root_node(&r.doc);

        if (more) {
            rc = fail(&r, more->start_mark, -EINVAL, "a second document; one file holds one");
        }
        yaml_document_delete(&r.doc);
    } else if (!rc) {
        rc = syntax_error(&r, &p);
    }
    yaml_parser_delete(&p);
    return rc;
}

int conf_load(struct conf *c, const char *file, struct err *e)
{
    FILE *f = fopen(file, "re");

    if (!f) {
        return err_set(e, -errno, "cannot read %s: %s", file, strerror(errno));
    }

    char *text = malloc(CONF_FILE_MAX + 1);
    size_t len = text ? fread(text, 1, CONF_FILE_MAX + 1, f) : 0;
    int rc;

    if (!text) {
        rc = err_set(e, -ENOMEM, "out of memory");
    } else if (ferror(f)) {
        rc = err_set(e, -EIO, "cannot read %s: %s", file, strerror(errno));
    } else if (len > CONF_FILE_MAX) {
        rc = err_set(e, -EFBIG, "%s is larger than %d bytes", file, CONF_FILE_MAX);
    } else {
        rc = conf_parse(c, file, text, len, e);
    }
    free(text);
    fclose(f);
    return rc;
}
