/* SPDX-License-Identifier: Apache-2.0 */
#include "dp/vlan.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- sets --------------------------------------------------------------------------------- */

bool vlan_set_empty(const struct vlan_set *s)
{
    return !vlan_set_next(s, 1);
}

uint16_t vlan_set_next(const struct vlan_set *s, uint16_t vid)
{
    for (unsigned k = vid / 64; k < ARRAY_SIZE(s->bit); k++) {
        uint64_t bits = s->bit[k];

        if (k == vid / 64) {
            bits &= ~0ull << (vid % 64);
        }
        if (bits) {
            return (uint16_t)(k * 64 + (unsigned)__builtin_ctzll(bits));
        }
    }
    return 0;
}

/* A VID at *p, which moves behind it; 0 if there is none. */
static uint16_t read_vid(const char **p)
{
    char *end;

    if (!isdigit((unsigned char)**p)) {
        return 0;
    }
    unsigned long v = strtoul(*p, &end, 10);

    *p = end;
    return v <= VLAN_VID_MAX ? (uint16_t)v : 0;
}

int vlan_set_parse(struct vlan_set *s, const char *text, struct err *e)
{
    const char *p = text;

    *s = (struct vlan_set){0};
    if (!strcmp(text, "none")) {
        return 0;
    }
    do {
        uint16_t from = read_vid(&p), to = from;

        if (*p == '-') {
            p++;
            to = read_vid(&p);
        }
        if (!from || to < from || (*p && *p != '+' && *p != ',')) {
            return err_set(e, -EINVAL,
                           "\"%.40s\" is not a list of VLANs from 1 to %d like 10 or 10-20+30",
                           text, VLAN_VID_MAX);
        }
        for (uint16_t vid = from; vid <= to; vid++) {
            vlan_set_put(s, vid, true);
        }
    } while (*p++);
    return 0;
}

char *vlan_set_text(const struct vlan_set *s)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    bool first = true;

    if (!f) {
        return NULL;
    }
    for (uint16_t from = vlan_set_next(s, 1); from;) {
        uint16_t to = from;

        while (to < VLAN_VID_MAX && vlan_set_has(s, (uint16_t)(to + 1))) {
            to++;
        }
        fprintf(f, to > from ? "%s%u-%u" : "%s%u", first ? "" : "+", from, to);
        first = false;
        from = vlan_set_next(s, (uint16_t)(to + 1));
    }
    if (first) {
        fputs("none", f);
    }
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    return text;
}

uint16_t vlan_proto_parse(const char *text)
{
    return !strcmp(text, "802.1Q")    ? VLAN_PROTO_8021Q
           : !strcmp(text, "802.1ad") ? VLAN_PROTO_8021AD
                                      : 0;
}

const char *vlan_proto_name(uint16_t tpid)
{
    return tpid == VLAN_PROTO_8021AD ? "802.1ad" : "802.1Q";
}

/* --- the keys of a port ------------------------------------------------------------------- */

enum { KEY_VLAN, KEY_QINQ, KEY_TRUNK, KEY_NATIVE, KEY_PVID, KEY_UNTAGGED, KEY_PROTOCOL, N_KEYS };

static const char *const keys[N_KEYS] = {
    [KEY_VLAN] = "vlan",
    [KEY_QINQ] = "qinq",
    [KEY_TRUNK] = "trunk",
    [KEY_NATIVE] = "native",
    [KEY_PVID] = "pvid",
    [KEY_UNTAGGED] = "untagged",
    [KEY_PROTOCOL] = "vlan-protocol",
};

#define BIT(k) (1u << (k))
/* Which others a key cannot stand beside. */
static const unsigned excludes[N_KEYS] = {
    [KEY_VLAN] =
        BIT(KEY_QINQ) | BIT(KEY_TRUNK) | BIT(KEY_NATIVE) | BIT(KEY_PVID) | BIT(KEY_UNTAGGED),
    [KEY_QINQ] = BIT(KEY_VLAN) | BIT(KEY_TRUNK) | BIT(KEY_NATIVE) | BIT(KEY_PVID) |
                 BIT(KEY_UNTAGGED) | BIT(KEY_PROTOCOL),
    [KEY_TRUNK] = BIT(KEY_VLAN) | BIT(KEY_QINQ),
    [KEY_NATIVE] = BIT(KEY_VLAN) | BIT(KEY_QINQ) | BIT(KEY_PVID) | BIT(KEY_UNTAGGED),
    [KEY_PVID] = BIT(KEY_VLAN) | BIT(KEY_QINQ) | BIT(KEY_NATIVE),
    [KEY_UNTAGGED] = BIT(KEY_VLAN) | BIT(KEY_QINQ) | BIT(KEY_NATIVE),
    [KEY_PROTOCOL] = BIT(KEY_QINQ),
};

static unsigned find_key(const char *key)
{
    unsigned k = 0;

    while (k < N_KEYS && strcmp(keys[k], key)) {
        k++;
    }
    return k;
}

bool vlan_key(const char *key)
{
    return find_key(key) < N_KEYS;
}

bool vlan_key_list(const char *key)
{
    unsigned k = find_key(key);

    return k == KEY_TRUNK || k == KEY_UNTAGGED;
}

/* Is it given, with a VLAN? Only an empty trunk= says something by itself. */
static bool given(const struct port_conf *c, unsigned key)
{
    const char *v = port_conf_get(c, keys[key]);

    return v && (key == KEY_TRUNK || key == KEY_PROTOCOL || (strcmp(v, "none") && strcmp(v, "0")));
}

static int check_exclusive(const struct port_conf *c, struct err *e)
{
    for (unsigned a = 0; a < N_KEYS; a++) {
        for (unsigned b = 0; b < a; b++) {
            if ((excludes[a] & BIT(b)) && given(c, a) && given(c, b)) {
                return err_set(e, -EINVAL, "%s and %s exclude each other", keys[b], keys[a]);
            }
        }
    }
    return 0;
}

static int check_list(const char *key, const char *value, struct err *e)
{
    struct vlan_set s;

    return vlan_set_parse(&s, value, e) ? err_prefix(e, "%s", key) : 0;
}

int vlan_check_trunk(const char *value, struct err *e)
{
    return check_list(keys[KEY_TRUNK], value, e);
}

int vlan_check_untagged(const char *value, struct err *e)
{
    return check_list(keys[KEY_UNTAGGED], value, e);
}

static uint16_t read_one(const struct port_conf *c, unsigned key)
{
    return (uint16_t)port_conf_number(c, keys[key], 0);
}

static void read_list(const struct port_conf *c, unsigned key, struct vlan_set *s)
{
    const char *text = port_conf_get(c, keys[key]);

    *s = (struct vlan_set){0};
    if (text) {
        vlan_set_parse(s, text, NULL);
    }
}

static void add_access(struct vlan_conf *v, uint16_t vid)
{
    if (vid) {
        v->pvid = vid;
        vlan_set_put(&v->member, vid, true);
        vlan_set_put(&v->untagged, vid, true);
    }
}

int vlan_conf_read(struct vlan_conf *v, const struct port_conf *c, struct err *e)
{
    const char *protocol = port_conf_get(c, keys[KEY_PROTOCOL]);
    uint16_t qinq = read_one(c, KEY_QINQ);

    *v = (struct vlan_conf){.protocol = qinq       ? VLAN_PROTO_8021AD
                                        : protocol ? vlan_proto_parse(protocol)
                                                   : 0,
                            .pvid = read_one(c, KEY_PVID)};
    read_list(c, KEY_TRUNK, &v->member);
    read_list(c, KEY_UNTAGGED, &v->untagged);
    for (unsigned k = 0; k < ARRAY_SIZE(v->member.bit); k++) {
        v->member.bit[k] |= v->untagged.bit[k];
    }
    vlan_set_put(&v->member, v->pvid, v->pvid);
    add_access(v, read_one(c, KEY_VLAN));
    add_access(v, read_one(c, KEY_NATIVE));
    add_access(v, qinq);
    v->own = !vlan_set_empty(&v->member) || given(c, KEY_TRUNK);
    return check_exclusive(c, e);
}

static int put_number(struct port_conf *c, unsigned key, uint16_t vid)
{
    char text[8];

    snprintf(text, sizeof(text), "%u", vid);
    return port_conf_set(c, keys[key], text);
}

static int put_list(struct port_conf *c, unsigned key, const struct vlan_set *s)
{
    char *text = vlan_set_text(s);
    int rc = text ? port_conf_set(c, keys[key], text) : -ENOMEM;

    free(text);
    return rc;
}

/* Trunk with a native VLAN, if that is all there is to say; else in parts. */
static int put_trunk(struct port_conf *c, const struct vlan_conf *v)
{
    struct vlan_set tagged = v->member, alone = {0};
    int rc = 0;

    for (unsigned k = 0; k < ARRAY_SIZE(tagged.bit); k++) {
        tagged.bit[k] &= ~v->untagged.bit[k];
    }
    vlan_set_put(&alone, v->pvid, v->pvid);
    bool native = v->pvid && !memcmp(&alone, &v->untagged, sizeof(alone));

    if (!vlan_set_empty(&tagged) || vlan_set_empty(&v->member)) {
        rc = put_list(c, KEY_TRUNK, &tagged);
    }
    if (!rc && native) {
        return put_number(c, KEY_NATIVE, v->pvid);
    }
    if (!rc && !vlan_set_empty(&v->untagged)) {
        rc = put_list(c, KEY_UNTAGGED, &v->untagged);
    }
    return rc || !v->pvid ? rc : put_number(c, KEY_PVID, v->pvid);
}

int vlan_conf_write(const struct vlan_conf *v, struct port_conf *c)
{
    struct vlan_conf access = {.own = true};

    for (unsigned k = 0; k < N_KEYS; k++) {
        port_conf_unset(c, keys[k]);
    }
    add_access(&access, v->pvid);
    access.protocol = v->protocol;
    bool one = v->pvid && !memcmp(&access.member, &v->member, sizeof(access.member)) &&
               !memcmp(&access.untagged, &v->untagged, sizeof(access.untagged));

    if (v->own && one && v->protocol == VLAN_PROTO_8021AD) {
        return put_number(c, KEY_QINQ, v->pvid);
    }
    int rc = v->protocol ? port_conf_set(c, keys[KEY_PROTOCOL], vlan_proto_name(v->protocol)) : 0;

    if (rc || !v->own) {
        return rc;
    }
    return one ? put_number(c, KEY_VLAN, v->pvid) : put_trunk(c, v);
}

int vlan_conf_set_key(struct port_conf *c, const char *key, const char *value)
{
    unsigned which = find_key(key);

    for (unsigned k = 0; k < N_KEYS; k++) {
        if (excludes[which] & BIT(k)) {
            port_conf_unset(c, keys[k]);
        }
    }
    int rc = port_conf_set(c, key, value);

    if (!rc && !given(c, which)) {
        port_conf_unset(c, key);
    }
    return rc;
}
