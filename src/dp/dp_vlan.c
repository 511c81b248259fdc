/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VLANs and addresses of a running switch.
 *
 * A bridge's own fid is the number of its slot plus one.  On a bridge that filters VLANs, each VLAN
 * that has a member gets one of the others, so that addresses are learnt per VLAN; with its last
 * member it is given back.  The order of a change: new fids, new view, barrier, stale addresses
 * forgotten, and only then are fids free for somebody else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/text.h"
#include "dp/dp_int.h"
#include "dp/vlan_hot.h"

/* --- what is in force --------------------------------------------------------------------- */

static bool filters(const struct dp *dp, const struct dp_bridge *b)
{
    if (b->conf.vlan_filtering != VLAN_FILTERING_AUTO) {
        return b->conf.vlan_filtering == VLAN_FILTERING_YES;
    }
    for (unsigned i = 0; i < PORT_MAX; i++) {
        if (dp->port[i].port && dp->port[i].bridge == b && dp->port[i].vlan.own) {
            return true;
        }
    }
    return false;
}

bool dp_bridge_filters(const struct dp *dp, const char *bridge)
{
    const struct dp_bridge *b = dp_bridge_find(dp, bridge);

    return b && b->vlan_fid;
}

/* The VLANs of a port with its bridge's defaults. */
static struct vlan_conf effective(const struct dp_port *p)
{
    const struct bridge_conf *b = &p->bridge->conf;
    struct vlan_conf v = p->vlan;

    v.protocol = v.protocol ? v.protocol : b->vlan_protocol;
    if (!v.own && b->vlan_default_pvid) {
        v.pvid = b->vlan_default_pvid;
        vlan_set_put(&v.member, v.pvid, true);
        vlan_set_put(&v.untagged, v.pvid, true);
    }
    return v;
}

bool dp_vlan_get(const struct dp *dp, const struct port *p, struct vlan_conf *out)
{
    *out = effective(&dp->port[p->id]);
    return dp->port[p->id].bridge->vlan_fid;
}

int dp_view_vlans(const struct dp *dp, struct view *v)
{
    unsigned n = 0;

    for (unsigned id = 0; id < PORT_MAX; id++) {
        n += dp->port[id].port && dp->port[id].bridge->vlan_fid;
    }
    v->vlans = n ? calloc(n, sizeof(*v->vlans)) : NULL;
    if (n && !v->vlans) {
        return -ENOMEM;
    }
    for (unsigned id = 0; id < PORT_MAX && n; id++) {
        const struct dp_port *p = &dp->port[id];

        if (p->port && p->bridge->vlan_fid) {
            struct vlan_conf c = effective(p);

            n--;
            v->vlans[n] = (struct view_vlan){.fid = p->bridge->vlan_fid,
                                             .tpid = c.protocol,
                                             .pvid = c.pvid,
                                             .member = c.member,
                                             .untagged = c.untagged};
            v->port[id].vlan = &v->vlans[n];
        }
    }
    return 0;
}

/* --- fids --------------------------------------------------------------------------------- */

struct dp_bridge *dp_bridge_of_fid(const struct dp *dp, uint16_t fid, uint16_t *vid)
{
    bool own = fid <= BRIDGE_MAX;
    uint16_t bridge = own ? fid : dp->fid[fid].bridge;
    const struct dp_bridge *b = bridge ? &dp->bridge[bridge - 1] : NULL;

    if (vid) {
        *vid = own ? 0 : dp->fid[fid].vid;
    }
    return b && b->fid ? (struct dp_bridge *)(uintptr_t)b : NULL;
}

const char *dp_fid_bridge(const struct dp *dp, uint16_t fid, uint16_t *vlan)
{
    const struct dp_bridge *b = dp_bridge_of_fid(dp, fid, vlan);

    return b ? b->conf.name : NULL;
}

uint16_t dp_untagged_fid(const struct dp *dp, uint16_t port)
{
    const struct dp_bridge *b = dp->port[port].bridge;

    return b->vlan_fid ? b->vlan_fid[effective(&dp->port[port]).pvid] : b->fid;
}

static uint16_t fid_take(struct dp *dp, const struct dp_bridge *b, uint16_t vid)
{
    for (unsigned tries = 0; tries < ARRAY_SIZE(dp->fid); tries++) {
        uint16_t fid = (uint16_t)dp->fid_at++;

        if (fid > BRIDGE_MAX && !dp->fid[fid].bridge) {
            dp->fid[fid] = (struct dp_fid){b->fid, vid};
            return fid;
        }
    }
    return 0;
}

/* Give back what is in `table` and not in `keep` (NULL: nothing). */
static void fids_release(struct dp *dp, const uint16_t *table, const uint16_t *keep)
{
    for (unsigned vid = 0; table && vid <= VLAN_VID_MAX; vid++) {
        if (table[vid] && (!keep || keep[vid] != table[vid])) {
            dp->fid[table[vid]] = (struct dp_fid){0};
        }
    }
}

/* The fid of each VLAN of b that has members; those that it has now stay the same. */
static int fids_make(struct dp *dp, const struct dp_bridge *b, uint16_t **out, struct err *e)
{
    uint16_t *table = calloc(VLAN_VID_MAX + 2, sizeof(*table));
    struct vlan_set used = {0};

    if (!table) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    for (unsigned i = 0; i < PORT_MAX; i++) {
        if (dp->port[i].port && dp->port[i].bridge == b) {
            struct vlan_conf v = effective(&dp->port[i]);

            for (unsigned k = 0; k < ARRAY_SIZE(used.bit); k++) {
                used.bit[k] |= v.member.bit[k];
            }
        }
    }
    for (uint16_t vid = vlan_set_next(&used, 1); vid; vid = vlan_set_next(&used, vid + 1)) {
        table[vid] = b->vlan_fid ? b->vlan_fid[vid] : 0;
        table[vid] = table[vid] ? table[vid] : fid_take(dp, b, vid);
        if (!table[vid]) {
            fids_release(dp, table, b->vlan_fid);
            free(table);
            return err_set(e, -ENOSPC,
                           "bridge %s: no room for VLAN %u; all bridges together can have %d VLANs "
                           "with members",
                           b->conf.name, vid, UINT16_MAX - BRIDGE_MAX);
        }
    }
    *out = table;
    return 0;
}

/* --- changes ------------------------------------------------------------------------------ */

struct stale {
    const struct dp *dp;
    const struct dp_bridge *bridge;
};

/* Is this address where no frame of its port can be any more? */
static bool is_stale(void *arg, const struct mac_entry *m)
{
    const struct stale *s = arg;
    const struct dp_port *p = &s->dp->port[m->port];
    uint16_t vid;
    const struct dp_bridge *b = dp_bridge_of_fid(s->dp, (uint16_t)(m->key >> 48), &vid);

    if (b != s->bridge) {
        return false;
    }
    if (!p->port || p->bridge != b || !vid != !b->vlan_fid) {
        return true;
    }
    struct vlan_conf v = effective(p);
    return vid && !vlan_set_has(&v.member, vid);
}

/* Static addresses of a bridge that begins to filter, or ends. */
struct statics {
    struct stale stale;
    unsigned n, room;
    struct mac_entry *entry;
    bool failed; /* no memory for all of them */
};

static void collect_static(void *arg, const struct mac_entry *m)
{
    struct statics *s = arg;

    if (m->is_static && is_stale(&s->stale, m) && s->stale.dp->port[m->port].port) {
        if (s->n == s->room) {
            unsigned room = s->room * 2 + 16;
            struct mac_entry *bigger = realloc(s->entry, room * sizeof(*bigger));

            if (!bigger) {
                s->failed = true;
                return;
            }
            s->entry = bigger;
            s->room = room;
        }
        s->entry[s->n++] = *m;
    }
}

/* They are now in their port's pvid, or, without VLANs, simply there. */
static void put_statics(struct dp *dp, struct statics *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        const struct mac_entry *m = &s->entry[i];
        uint16_t fid = dp_untagged_fid(dp, m->port);
        uint64_t key = (m->key & 0xffffffffffffull) | (uint64_t)fid << 48;

        if (!fid || mactab_add_static(dp->macs, key, m->port)) {
            uint8_t mac[6];
            char text[18];

            for (unsigned k = 0; k < 6; k++) {
                mac[k] = (uint8_t)(m->key >> (8 * k));
            }
            text_write_mac(text, mac);
            log_warn("port %s: its static address %s was forgotten with its VLAN",
                     dp->port[m->port].port->name, text);
        }
    }
    free(s->entry);
}

int dp_vlans_update(struct dp *dp, struct dp_bridge *b, bool less, struct err *e)
{
    uint16_t *old = b->vlan_fid, *table = NULL;
    bool filter = filters(dp, b);
    int rc = 0;

    if (!filter && !old) {
        return dp_rebuild(dp, e);
    }
    if (filter) {
        rc = fids_make(dp, b, &table, e);
    }
    if (rc) {
        return rc;
    }
    b->vlan_fid = table;
    rc = dp_rebuild(dp, e);
    if (rc) {
        fids_release(dp, table, old);
        b->vlan_fid = old;
        free(table);
        return rc;
    }
    struct statics s = {.stale = {dp, b}};
    if (!old != !table && b->n_ports) {
        log_info("bridge %s %s", b->conf.name,
                 table ? "filters VLANs from now on" : "does not filter VLANs any more");
        mactab_each(dp->macs, collect_static, &s);
    }
    if (s.failed) {
        log_warn("bridge %s: out of memory: static addresses were forgotten", b->conf.name);
    }
    if (less || !old || !table) {
        mactab_forget(dp->macs, is_stale, &s.stale);
    }
    fids_release(dp, old, table);
    put_statics(dp, &s);
    free(old);
    return 0;
}

/* Give a port new VLANs, and the keys that say so: all of it or nothing. c is used up. */
static int change(struct dp *dp, struct port *p, const struct vlan_conf *v, struct port_conf *c,
                  bool less, struct err *e)
{
    struct dp_port *slot = &dp->port[p->id];
    struct vlan_conf before = slot->vlan;

    slot->vlan = *v;
    int rc = dp_vlans_update(dp, slot->bridge, less, e);
    if (rc) {
        slot->vlan = before;
        rc = err_prefix(e, "port %s", p->name);
    } else {
        port_conf_take_options(&p->conf, c);
    }
    port_conf_free(c);
    return rc;
}

static int change_and_write(struct dp *dp, struct port *p, const struct vlan_conf *v, bool less,
                            struct err *e)
{
    struct port_conf c;

    if (port_conf_copy(&c, &p->conf)) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    if (vlan_conf_write(v, &c)) {
        port_conf_free(&c);
        return err_set(e, -ENOMEM, "out of memory");
    }
    return change(dp, p, v, &c, less, e);
}

int dp_vlan_set_key(struct dp *dp, struct port *p, const char *key, const char *value,
                    struct err *e)
{
    struct port_conf c;
    struct vlan_conf v;
    int rc = port_conf_copy(&c, &p->conf) || vlan_conf_set_key(&c, key, value)
                 ? err_set(e, -ENOMEM, "out of memory")
                 : 0;

    if (!rc && vlan_conf_read(&v, &c, e)) {
        rc = err_prefix(e, "port %s", p->name);
    }
    if (rc) {
        port_conf_free(&c);
        return rc;
    }
    return change(dp, p, &v, &c, true, e);
}

/* What `vlan add` and `vlan del` start from. */
static struct vlan_conf starting_point(const struct dp *dp, const struct port *p)
{
    const struct dp_port *slot = &dp->port[p->id];
    struct vlan_conf v = effective(slot);

    v.own = true;
    v.protocol = slot->vlan.protocol;
    return v;
}

int dp_vlan_add(struct dp *dp, const char *port, const struct vlan_set *vids, bool pvid,
                bool untagged, struct err *e)
{
    struct port *p = dp_find_port(dp, port, e);
    uint16_t first = vlan_set_next(vids, 1);

    if (!p) {
        return -ENOENT;
    }
    if (!first) {
        return err_set(e, -EINVAL, "port %s: add which VLAN?", port);
    }
    if (pvid && vlan_set_next(vids, first + 1)) {
        return err_set(e, -EINVAL, "port %s: the pvid is one VLAN, not several", port);
    }
    struct vlan_conf v = starting_point(dp, p);
    for (uint16_t vid = first; vid; vid = vlan_set_next(vids, vid + 1)) {
        vlan_set_put(&v.member, vid, true);
        vlan_set_put(&v.untagged, vid, untagged);
        v.pvid = pvid ? vid : v.pvid == vid ? 0 : v.pvid;
    }
    return change_and_write(dp, p, &v, false, e);
}

int dp_vlan_del(struct dp *dp, const char *port, const struct vlan_set *vids, struct err *e)
{
    struct port *p = dp_find_port(dp, port, e);
    bool any = false;

    if (!p) {
        return -ENOENT;
    }
    struct vlan_conf v = starting_point(dp, p);
    for (uint16_t vid = vlan_set_next(vids, 1); vid; vid = vlan_set_next(vids, vid + 1)) {
        any |= vlan_set_has(&v.member, vid);
        vlan_set_put(&v.member, vid, false);
        vlan_set_put(&v.untagged, vid, false);
        v.pvid = v.pvid == vid ? 0 : v.pvid;
    }
    return any ? change_and_write(dp, p, &v, true, e)
               : err_set(e, -ENOENT, "port %s is not a member of %s", port,
                         vlan_set_empty(vids) ? "no VLAN" : "any of these VLANs");
}

/* --- addresses ---------------------------------------------------------------------------- */

int dp_mac_add(struct dp *dp, const char *port, const uint8_t mac[6], uint16_t vlan, struct err *e)
{
    struct port *p = dp_find_port(dp, port, e);

    if (!p) {
        return -ENOENT;
    }
    if (mac[0] & 1) {
        return err_set(e, -EINVAL, "a multicast address cannot be behind one port");
    }
    const struct dp_bridge *b = dp->port[p->id].bridge;
    struct vlan_conf v = effective(&dp->port[p->id]);
    if (vlan && !b->vlan_fid) {
        return err_set(e, -EINVAL, "bridge %s does not filter VLANs: leave vlan %u out",
                       b->conf.name, vlan);
    }
    if (vlan && !vlan_set_has(&v.member, vlan)) {
        return err_set(e, -EINVAL, "port %s is not a member of VLAN %u", port, vlan);
    }
    uint16_t fid = vlan ? b->vlan_fid[vlan] : dp_untagged_fid(dp, p->id);
    if (!fid) {
        return err_set(e, -EINVAL, "port %s has no pvid: say in which VLAN the address is", port);
    }
    int rc = mactab_add_static(dp->macs, mac_key(mac, fid), p->id);
    if (rc == -EEXIST) {
        return err_set(e, rc, "this address is a static entry of another port; delete it first");
    }
    return rc ? err_set(e, rc, "the MAC table is full (%u entries)", mactab_size(dp->macs)) : 0;
}

int dp_mac_del(struct dp *dp, const char *bridge, const uint8_t mac[6], uint16_t vlan,
               struct err *e)
{
    struct dp_bridge *b = dp_bridge_find(dp, bridge ? bridge : BRIDGE_DEFAULT);
    bool any = false;

    if (!b) {
        return err_set(e, -ENOENT, "there is no bridge '%.63s'", bridge ? bridge : BRIDGE_DEFAULT);
    }
    if (!b->vlan_fid) {
        any = !vlan && !mactab_del(dp->macs, mac_key(mac, b->fid));
    }
    for (uint16_t vid = 1; b->vlan_fid && vid <= VLAN_VID_MAX; vid++) {
        if (b->vlan_fid[vid] && (!vlan || vid == vlan)) {
            any |= !mactab_del(dp->macs, mac_key(mac, b->vlan_fid[vid]));
        }
    }
    return any ? 0
               : err_set(e, -ENOENT, "bridge %s does not know this address%s", b->conf.name,
                         vlan ? " in this VLAN" : "");
}

struct flush {
    const struct dp *dp;
    const struct dp_bridge *bridge;
    const struct port *port;
    uint16_t vlan;
};

static bool to_flush(void *arg, const struct mac_entry *m)
{
    const struct flush *f = arg;
    uint16_t vid;
    const struct dp_bridge *b = dp_bridge_of_fid(f->dp, (uint16_t)(m->key >> 48), &vid);

    return !m->is_static && (!f->bridge || f->bridge == b) && (!f->vlan || f->vlan == vid) &&
           (!f->port || f->port->id == m->port);
}

int dp_mac_flush(struct dp *dp, const char *bridge, const char *port, uint16_t vlan, struct err *e)
{
    struct flush f = {.dp = dp,
                      .bridge = bridge ? dp_bridge_find(dp, bridge) : NULL,
                      .port = port ? dp_find_port(dp, port, e) : NULL,
                      .vlan = vlan};

    if (bridge && !f.bridge) {
        return err_set(e, -ENOENT, "there is no bridge '%.63s'", bridge);
    }
    if (port && !f.port) {
        return -ENOENT;
    }
    return (int)mactab_forget(dp->macs, to_flush, &f);
}
