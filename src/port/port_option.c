/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may be said about a port.  A kind describes its keys in a table (struct port_option_def):
 * the kind of value and its range.  Everything a user wrote is held against these tables here, in
 * one place, before a provider sees it - by `ringway check` without opening anything, and when a
 * port is added or changed.  So providers only read (port_conf_number() and its neighbours), and
 * what they read is right.
 */
#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "base/nearest.h"
#include "base/text.h"
#include "pkt/offload.h"
#include "port/port.h"

bool port_name_ok(const char *name)
{
    size_t n = strlen(name);
    bool ok = n > 0 && n <= PORT_NAME_MAX && isalnum((unsigned char)name[0]);

    for (size_t i = 0; ok && i < n; i++) {
        ok = isalnum((unsigned char)name[i]) || strchr("._-", name[i]);
    }
    return ok;
}

const struct port_ops *port_kind(const char *kind, struct err *e)
{
    const struct port_ops *const *k = port_kinds();
    const char *names[32];
    char all[200] = "";
    size_t n = 0;

    kind = kind ? kind : PORT_KIND_DEFAULT;
    for (; *k; k++) {
        if (!strcmp((*k)->kind, kind)) {
            return *k;
        }
        if (n < ARRAY_SIZE(names)) {
            size_t at = strlen(all);

            snprintf(all + at, sizeof(all) - at, "%s%s", n ? ", " : "", (*k)->kind);
            names[n++] = (*k)->kind;
        }
    }

    const char *near = nearest(kind, names, n);

    err_set(e, -EINVAL, "unknown kind of port \"%.40s\"; %s%s%s", kind,
            near ? "did you mean \"" : "there are ", near ? near : all, near ? "\"?" : "");
    return NULL;
}

const struct port_option_def *port_option(const struct port_ops *ops,
                                          const struct port_option_def *more, const char *key,
                                          struct err *e)
{
    const struct port_option_def *const tables[] = {ops->options, more};
    const char *names[64];
    size_t n = 0;

    for (unsigned t = 0; t < ARRAY_SIZE(tables); t++) {
        for (const struct port_option_def *d = tables[t]; d && d->key; d++) {
            if (!strcmp(d->key, key)) {
                return d;
            }
            if (n < ARRAY_SIZE(names)) {
                names[n++] = d->key;
            }
        }
    }

    const char *near = nearest(key, names, n);

    err_set(e, -EINVAL, "unknown key \"%.40s\" for a %s port%s%s%s", key, ops->kind,
            near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    return NULL;
}

/* Is it one of "this|that"? */
static bool is_one_of(const char *words, const char *value)
{
    size_t len = strlen(value);

    for (const char *w = words; w; w = strchr(w, '|') ? strchr(w, '|') + 1 : NULL) {
        if (len && strcspn(w, "|") == len && !strncmp(w, value, len)) {
            return true;
        }
    }
    return false;
}

static int check_number(const struct port_option_def *d, const char *value, struct err *e)
{
    bool octal = d->type == PORT_OCTAL;
    uint64_t v;

    if (text_number(value, octal ? 8 : 10, d->max, &v) && v >= d->min) {
        return 0;
    }
    return err_set(e, -EINVAL,
                   octal ? "%s=%.40s is not an octal number from %llo to %llo"
                         : "%s=%.40s is not a number from %llu to %llu",
                   d->key, value, (unsigned long long)d->min, (unsigned long long)d->max);
}

int port_value_check(const struct port_option_def *d, const char *value, struct err *e)
{
    uint8_t mac[6];

    switch (d->type) {
    case PORT_TEXT:
    case PORT_PATH:
        break;
    case PORT_YES_NO:
        if (strcmp(value, "yes") && strcmp(value, "no")) {
            return err_set(e, -EINVAL, "%s=%.40s is neither yes nor no", d->key, value);
        }
        break;
    case PORT_NUMBER:
    case PORT_OCTAL:
        return check_number(d, value, e);
    case PORT_WORD:
        if (!is_one_of(d->words, value)) {
            return err_set(e, -EINVAL, "%s=%.40s is none of %s", d->key, value, d->words);
        }
        break;
    case PORT_MAC:
        if (text_read_mac(value, mac) || mac[0] & 1) {
            return err_set(e, -EINVAL, "%s=%.40s is not the address of a station, as in %s=%s",
                           d->key, value, d->key, "52:54:00:12:34:56");
        }
        break;
    }
    return d->check ? d->check(value, e) : 0;
}

int port_conf_check(const struct port_conf *c, const struct port_option_def *more, struct err *e)
{
    const struct port_ops *ops = port_kind(c->kind, e);

    if (!ops) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < c->n_opt; i++) {
        const struct port_option_def *d = port_option(ops, more, c->opt[i].key, e);
        int rc = d ? port_value_check(d, c->opt[i].value, e) : -EINVAL;

        if (rc) {
            return rc;
        }
    }
    return ops->check ? ops->check(c, e) : 0;
}

const char *port_conf_get(const struct port_conf *c, const char *key)
{
    for (unsigned i = 0; i < c->n_opt; i++) {
        if (!strcmp(c->opt[i].key, key)) {
            return c->opt[i].value;
        }
    }
    return NULL;
}

static uint64_t value_of(const struct port_conf *c, const char *key, int base, uint64_t otherwise)
{
    const char *v = port_conf_get(c, key);

    if (v) {
        text_number(v, base, UINT64_MAX, &otherwise);
    }
    return otherwise;
}

uint64_t port_conf_number(const struct port_conf *c, const char *key, uint64_t otherwise)
{
    return value_of(c, key, 10, otherwise);
}

uint64_t port_conf_octal(const struct port_conf *c, const char *key, uint64_t otherwise)
{
    return value_of(c, key, 8, otherwise);
}

bool port_conf_is(const struct port_conf *c, const char *key, const char *value)
{
    const char *v = port_conf_get(c, key);

    return v && !strcmp(v, value);
}

int port_check_offload(const char *value, struct err *e)
{
    uint16_t mask;

    return offload_parse(value, &mask)
               ? err_set(e, -EINVAL,
                         "offloads '%.60s': use csum, tso, tso4, tso6, ecn, uso, uso4, uso6, ufo, all or "
                         "none, joined by +",
                         value)
               : 0;
}

uint16_t port_conf_offload(const struct port_conf *c, const char *key, uint16_t otherwise)
{
    const char *value = port_conf_get(c, key);

    if (value) {
        offload_parse(value, &otherwise);
    }
    return otherwise;
}

/* owner= and group=: names or numbers. (uid_t)-1 is no user: chown takes it for "leave it". */
static bool read_id(const char *value, uint32_t *id)
{
    uint64_t v;
    bool ok = text_number(value, 10, UINT32_MAX - 1, &v);

    *id = ok ? (uint32_t)v : UINT32_MAX;
    return ok;
}

static bool read_owner(const char *value, uid_t *uid)
{
    const struct passwd *pw = getpwnam(value);

    *uid = pw ? pw->pw_uid : (uid_t)-1;
    return pw || read_id(value, uid);
}

static bool read_group(const char *value, gid_t *gid)
{
    const struct group *gr = getgrnam(value);

    *gid = gr ? gr->gr_gid : (gid_t)-1;
    return gr || read_id(value, gid);
}

int port_check_owner(const char *value, struct err *e)
{
    uid_t uid;

    return read_owner(value, &uid) ? 0
                                   : err_set(e, -EINVAL, "owner=%.40s: there is no such user", value);
}

int port_check_group(const char *value, struct err *e)
{
    gid_t gid;

    return read_group(value, &gid)
               ? 0
               : err_set(e, -EINVAL, "group=%.40s: there is no such group", value);
}

uid_t port_conf_owner(const struct port_conf *c)
{
    const char *value = port_conf_get(c, "owner");
    uid_t uid = (uid_t)-1;

    if (value) {
        read_owner(value, &uid);
    }
    return uid;
}

gid_t port_conf_group(const struct port_conf *c)
{
    const char *value = port_conf_get(c, "group");
    gid_t gid = (gid_t)-1;

    if (value) {
        read_group(value, &gid);
    }
    return gid;
}

mode_t port_conf_mode(const struct port_conf *c)
{
    return (mode_t)port_conf_octal(c, "mode", 0660);
}

int port_check_client(const struct port_conf *c, struct err *e)
{
    if (port_conf_get(c, "client") && port_conf_get(c, "path")) {
        return err_set(e, -EINVAL, "client= and path= exclude each other");
    }
    return 0;
}
