/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all ports have in common: how a port is written on the command line, the table of kinds, and
 * the part of struct port that no provider should write twice.
 */
#include "port/port.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/node.h"
#include "port/kinds.h"

static const struct port_ops *const kinds[] = {PORT_KINDS NULL};

const struct port_ops *const *port_kinds(void)
{
    return kinds;
}

int port_conf_set(struct port_conf *c, const char *key, const char *value)
{
    char *v = strdup(value);

    if (!v) {
        return -ENOMEM;
    }
    for (unsigned i = 0; i < c->n_opt; i++) {
        if (!strcmp(c->opt[i].key, key)) {
            free(c->opt[i].value);
            c->opt[i].value = v;
            return 0;
        }
    }
    struct port_opt *grown = realloc(c->opt, (c->n_opt + 1) * sizeof(*grown));
    char *k = strdup(key);

    if (grown) {
        c->opt = grown;
    }
    if (!grown || !k) {
        free(k);
        free(v);
        return -ENOMEM;
    }
    c->opt[c->n_opt++] = (struct port_opt){k, v};
    return 0;
}

void port_conf_unset(struct port_conf *c, const char *key)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < c->n_opt; i++) {
        if (!strcmp(c->opt[i].key, key)) {
            free(c->opt[i].key);
            free(c->opt[i].value);
        } else {
            c->opt[kept++] = c->opt[i];
        }
    }
    c->n_opt = kept;
}

void port_conf_take_options(struct port_conf *to, struct port_conf *from)
{
    struct port_opt *opt = to->opt;
    unsigned n = to->n_opt;

    to->opt = from->opt;
    to->n_opt = from->n_opt;
    from->opt = opt;
    from->n_opt = n;
}

void port_conf_free(struct port_conf *c)
{
    for (unsigned i = 0; i < c->n_opt; i++) {
        free(c->opt[i].key);
        free(c->opt[i].value);
    }
    free(c->opt);
    free(c->name);
    free(c->kind);
    *c = (struct port_conf){0};
}

int port_conf_copy(struct port_conf *to, const struct port_conf *from)
{
    *to = (struct port_conf){.name = strdup(from->name),
                             .kind = strdup(from->kind ? from->kind : PORT_KIND_DEFAULT),
                             .line = from->line};
    bool ok = to->name && to->kind;

    for (unsigned i = 0; ok && i < from->n_opt; i++) {
        ok = !port_conf_set(to, from->opt[i].key, from->opt[i].value);
    }
    if (!ok) {
        port_conf_free(to);
        return -ENOMEM;
    }
    return 0;
}

/* One "key=value" of a port argument, or a word alone (the kind, or a key that means yes). */
static int parse_word(struct port_conf *c, char *word, bool first, const char *arg, struct err *e)
{
    char *eq = strchr(word, '=');

    if (!*word) {
        return err_set(e, -EINVAL, "port '%s': an empty word between commas", arg);
    }
    if (!eq && first) {
        free(c->kind);
        c->kind = strdup(word);
        return c->kind ? 0 : -ENOMEM;
    }
    if (eq) {
        *eq = '\0';
    }
    if (!*word) {
        return err_set(e, -EINVAL, "port '%s': a value without a key", arg);
    }
    if (port_conf_get(c, word)) {
        return err_set(e, -EINVAL, "port '%s': %s is given twice", arg, word);
    }
    return port_conf_set(c, word, eq ? eq + 1 : "yes");
}

int port_conf_parse(struct port_conf *c, const char *arg, struct err *e)
{
    const char *eq = strchr(arg, '=');
    char *rest = NULL, *word, *save = NULL;
    int rc = 0;

    *c = (struct port_conf){.name = eq ? strndup(arg, (size_t)(eq - arg)) : strdup(arg),
                            .kind = strdup(PORT_KIND_DEFAULT)};
    if (!c->name || !c->kind || (eq && !(rest = strdup(eq + 1)))) {
        rc = err_set(e, -ENOMEM, "out of memory");
    }
    if (!rc && eq && !*rest) {
        rc = err_set(e, -EINVAL, "port '%s': nothing after '='; write NAME or NAME=KIND,key=value",
                     arg);
    }
    bool first = true;
    for (word = rest; !rc && word; word = save) {
        save = strchr(word, ',');
        if (save) {
            *save++ = '\0';
        }
        rc = parse_word(c, word, first, arg, e);
        first = false;
    }
    free(rest);
    if (rc) {
        port_conf_free(c);
    }
    return rc;
}

char *port_socket_path(const struct port_env *env, const struct port_conf *c, const char *more)
{
    char *path;

    return asprintf(&path, "%s/%s%s.sock", env->rundir, c->name, more) < 0 ? NULL : path;
}

int port_create(struct port **out, const struct port_conf *c, const struct port_env *env,
                struct err *e)
{
    if (!port_name_ok(c->name)) {
        return err_set(e, -EINVAL,
                       "'%.80s' is no port name: up to %d letters, digits, '.', '_' or '-', the first "
                       "a letter or digit",
                       c->name, PORT_NAME_MAX);
    }
    int rc = port_conf_check(c, NULL, e);

    return rc ? err_prefix(e, "port %s", c->name)
              : port_kind(c->kind, NULL)->create(out, c, env, e);
}

int port_init(struct port *p, const struct port_ops *ops, const struct port_conf *c,
              const struct port_env *env, struct err *e)
{
    size_t bytes = env->n_workers * sizeof(struct port_counters);

    p->ops = p->kind_ops = ops;
    p->captures = NULL;
    p->env = env;
    p->id = PORT_NONE;
    p->max_len = PKT_MAX_LEN;
    p->ready = false;
    p->node = NODE_ANY;
    p->down = port_conf_is(c, "link", "down");
    p->counters = aligned_alloc(CACHE_LINE, bytes);
    if (!p->counters || port_conf_copy(&p->conf, c)) {
        free(p->counters);
        return err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    memset(p->counters, 0, bytes);
    p->name = p->conf.name;
    return 0;
}

void port_fini(struct port *p)
{
    free(p->counters);
    port_conf_free(&p->conf);
}

void port_counters_sum(const struct port *p, struct port_counters *out)
{
    memset(out, 0, sizeof(*out));
    for (unsigned w = 0; w < p->env->n_workers; w++) {
        const struct port_counters *c = &p->counters[w];

        out->rx_frames += read_once(&c->rx_frames);
        out->rx_bytes += read_once(&c->rx_bytes);
        out->tx_frames += read_once(&c->tx_frames);
        out->tx_bytes += read_once(&c->tx_bytes);
        for (unsigned d = 0; d < DROP_N; d++) {
            out->drop[d] += read_once(&c->drop[d]);
        }
    }
}

json_t *port_feature_names(uint64_t bits, const char *(*name)(unsigned))
{
    json_t *a = json_array();

    for (unsigned i = 0; i < 64; i++) {
        if (bits >> i & 1) {
            json_array_append_new(a, name(i) ? json_string(name(i)) : json_sprintf("bit %u", i));
        }
    }
    return a;
}
