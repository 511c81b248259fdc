/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The switch as the control thread knows it: which ports and bridges there are, by name and number.
 *
 * Everything here is plain data of one thread.  What workers may see is built from it as a struct
 * view after every change (dp_rebuild) and swapped; see dp/bridge.h.
 *
 * A port is taken away in this order, so that nobody ever meets a dead one: out of the view, barrier,
 * its addresses forgotten, its queues detached (barrier), destroyed, and only then its number reused.
 */
#include "dp/dp_int.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/evsignal.h"
#include "base/log.h"
#include "base/nearest.h"
#include "base/node.h"
#include "dp/pins.h"
#include "dp/vlan_hot.h"
#include "dp/worker.h"
#include "port/capture.h"
#include "port/steer.h"

#define AGE_ROUND_S 8 /* the whole table is looked at once in so many seconds */
#define POLL_US_DEFAULT 50

/* ---- the view ---------------------------------------------------------------------------------- */

static void view_free(struct view *v)
{
    for (unsigned i = 0; v && i < BRIDGE_MAX; i++) {
        free(v->bridge[i].member);
    }
    if (v) {
        free(v->vlans);
    }
    free(v);
}

static struct view *view_build(const struct dp *dp)
{
    struct view *v = calloc(1, sizeof(*v));

    for (unsigned i = 0; v && i < BRIDGE_MAX; i++) {
        const struct dp_bridge *b = &dp->bridge[i];

        if (!b->fid) {
            continue;
        }
        v->bridge[i] = (struct view_bridge){.fid = b->fid,
                                            .forward_reserved = b->conf.forward_reserved,
                                            .member = calloc(b->n_ports + 1, sizeof(uint16_t))};
        if (!v->bridge[i].member) {
            view_free(v);
            return NULL;
        }
    }
    for (unsigned id = 0; v && id < PORT_MAX; id++) {
        const struct dp_port *p = &dp->port[id];

        if (p->port) {
            struct view_bridge *b = &v->bridge[p->bridge - dp->bridge];

            b->member[b->n++] = (uint16_t)id;
            v->port[id] = (struct view_port){
                .port = p->port, .bridge = b, .isolated = p->isolated};
        }
    }
    if (v && dp_view_vlans(dp, v)) {
        view_free(v);
        return NULL;
    }
    return v;
}

/* When this returns no worker sees the old view, and it is gone. */
static void view_swap(struct dp *dp, struct view *fresh)
{
    struct view *old = dp->view;

    store_release(&dp->view, fresh);
    if (!dp->no_threads) {
        worker_barrier();
    }
    view_free(old);
}

int dp_rebuild(struct dp *dp, struct err *e)
{
    struct view *fresh = view_build(dp);

    if (!fresh) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    view_swap(dp, fresh);
    return 0;
}

/* ---- what ports may ask (struct port_env) ------------------------------------------------------- */

static int env_attach(void *ctx, struct rxq *q, struct err *e)
{
    struct dp *dp = ctx;

    return placement_attach(&dp->place, q, e);
}

static void env_detach(void *ctx, struct rxq *q)
{
    struct dp *dp = ctx;

    placement_detach(&dp->place, q);
}

static void env_barrier(void *ctx)
{
    struct dp *dp = ctx;

    if (!dp->no_threads) {
        worker_barrier();
    }
}

static void env_ready(void *ctx, struct port *p, bool ready)
{
    (void)ctx;
    write_once(&p->ready, ready);
}

static void env_learn(void *ctx, struct port *p, const uint8_t mac[6])
{
    struct dp *dp = ctx;

    if (p->id != PORT_NONE) {
        uint16_t fid = dp_untagged_fid(dp, p->id);

        if (fid) {
            mactab_seen(dp->macs, mac_key(mac, fid), p->id);
        }
    }
}

static void env_signal(void *ctx, int fd)
{
    struct dp *dp = ctx;

    evsignal_send(dp->signal, &fd, 1);
}

static void env_post(void *ctx, struct port *p) /* any thread */
{
    struct dp *dp = ctx;
    uint64_t one = 1;

    if (p->id == PORT_NONE || !posted_set(&dp->posted, p->id)) {
        return; /* asked already */
    }
    ssize_t r = write(dp->postfd, &one, sizeof(one)); /* our own, non-blocking */
    (void)r;
}

static void on_post(evutil_socket_t fd, short what, void *arg)
{
    struct dp *dp = arg;
    uint64_t n;
    ssize_t r = read(fd, &n, sizeof(n));

    (void)r;
    (void)what;
    for (unsigned k = 0; k < POSTED_WORDS; k++) {
        uint64_t bits = posted_take(&dp->posted, k);

        for (; bits; bits &= bits - 1) {
            struct port *p = dp->port[k * 64 + (unsigned)__builtin_ctzll(bits)].port;

            if (p && p->ops->event) {
                p->ops->event(p);
            }
        }
    }
}

const struct port_env *dp_env(const struct dp *dp)
{
    return &dp->env;
}

struct mactab *dp_mactab(const struct dp *dp)
{
    return dp->macs;
}

/* ---- time -------------------------------------------------------------------------------------- */

static uint16_t bridge_age(void *arg, uint16_t fid)
{
    const struct dp *dp = arg;
    const struct dp_bridge *b = dp_bridge_of_fid(dp, fid, NULL);

    return b ? (uint16_t)b->conf.age : 0;
}

void dp_tick(struct dp *dp)
{
    steer_set_now((uint16_t)(clock_ns() / 1000000000u));
    mactab_set_now(dp->macs, (uint16_t)((clock_ns() - dp->start_ns) / 1000000000u % 65535));
    mactab_age(dp->macs, bridge_age, dp, mactab_buckets(dp->macs) / AGE_ROUND_S + 1);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    dp_tick(arg);
}

void dp_balance(struct dp *dp)
{
    placement_measure(&dp->place);
    if (dp->balance) {
        placement_balance(&dp->place);
    }
}

uint64_t dp_moves(const struct dp *dp)
{
    return dp->place.moves;
}

static void on_balance(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    dp_balance(arg);
}

/* ---- bridges ----------------------------------------------------------------------------------- */

struct dp_bridge *dp_bridge_find(const struct dp *dp, const char *name)
{
    for (unsigned i = 0; i < BRIDGE_MAX; i++) {
        if (dp->bridge[i].fid && !strcmp(dp->bridge[i].conf.name, name)) {
            return (struct dp_bridge *)(uintptr_t)&dp->bridge[i];
        }
    }
    return NULL;
}

int dp_bridge_set(struct dp *dp, const struct bridge_conf *c, struct err *e)
{
    struct dp_bridge *b = dp_bridge_find(dp, c->name);

    if (!c->name[0]) {
        return err_set(e, -EINVAL, "a bridge needs a name");
    }
    if (c->age > 65000) {
        return err_set(e, -EINVAL, "bridge %s: age %u is more than 65000 seconds", c->name, c->age);
    }
    for (unsigned i = 0; !b && i < BRIDGE_MAX; i++) {
        if (!dp->bridge[i].fid) {
            b = &dp->bridge[i];
            *b = (struct dp_bridge){.fid = (uint16_t)(i + 1)};
        }
    }
    if (!b) {
        return err_set(e, -ENOSPC, "no room for bridge %s: there are %d already", c->name,
                       BRIDGE_MAX);
    }
    struct bridge_conf before = b->conf;

    b->conf = *c;
    int rc = dp_vlans_update(dp, b, true, e);
    if (rc) {
        b->conf = before;
        b->fid = before.name[0] ? b->fid : 0; /* it is none yet */
    }
    return rc;
}

int dp_bridge_del(struct dp *dp, const char *name, struct err *e)
{
    struct dp_bridge *b = dp_bridge_find(dp, name);

    if (!b) {
        return err_set(e, -ENOENT, "there is no bridge '%.63s'", name);
    }
    if (b->n_ports) {
        return err_set(e, -EBUSY, "bridge %s still has %u ports; delete them first", name,
                       b->n_ports);
    }
    b->fid = 0; /* it has no ports, so no VLANs with members either */
    int rc = dp_rebuild(dp, e);
    free(b->vlan_fid);
    b->vlan_fid = NULL;
    return rc;
}

unsigned dp_bridge_list(const struct dp *dp, struct bridge_conf *out, unsigned max)
{
    unsigned n = 0;

    for (unsigned i = 0; i < BRIDGE_MAX; i++) {
        if (dp->bridge[i].fid && n < max) {
            out[n++] = dp->bridge[i].conf;
        }
    }
    return n;
}

/* ---- ports ------------------------------------------------------------------------------------- */

/* Keys of a port that are the bridge's business. */
static const struct port_option_def bridge_keys[] = {
    {"bridge", "the bridge that the port belongs to (default br0)"},
    {"isolated", "yes: exchange no frames with other isolated ports", .changeable = true,
     .type = PORT_YES_NO},
    {"mac-limit", "addresses that may be learnt behind the port (default: half of the table)",
     .changeable = true, .type = PORT_NUMBER, .max = UINT32_MAX},
    {"vlan", "access port: the VLAN of its untagged frames", .changeable = true,
     .type = PORT_NUMBER, .max = VLAN_VID_MAX},
    {"trunk", "VLANs that it carries tagged, as 10 or 10-20+30", .changeable = true,
     .check = vlan_check_trunk},
    {"native", "VLAN of its untagged frames beside those of trunk=", .changeable = true,
     .type = PORT_NUMBER, .max = VLAN_VID_MAX},
    {"qinq", "802.1ad VLAN of all its frames, those with 802.1Q tags included",
     .changeable = true, .type = PORT_NUMBER, .max = VLAN_VID_MAX},
    {"pvid", "VLAN of untagged frames from it, where native= does not say it", .changeable = true,
     .type = PORT_NUMBER, .max = VLAN_VID_MAX},
    {"untagged", "VLANs that leave through it untagged, as 10 or 10-20+30", .changeable = true,
     .check = vlan_check_untagged},
    {"vlan-protocol", "of its tags (default: what its bridge says)", .changeable = true,
     .type = PORT_WORD, .words = VLAN_PROTO_WORDS},
    {"pin", "which worker polls which queue: QUEUE:WORKER, several joined by + (default none)",
     .changeable = true, .check = pins_check},
    {NULL},
};

const struct port_option_def *dp_port_options(void)
{
    return bridge_keys;
}

int dp_port_check(const struct port_conf *c, struct err *e)
{
    struct vlan_conf v;
    int rc = port_conf_check(c, bridge_keys, e);

    return rc ? rc : vlan_conf_read(&v, c, e);
}

static bool is_bridge_key(const char *key)
{
    for (const struct port_option_def *d = bridge_keys; d->key; d++) {
        if (!strcmp(d->key, key)) {
            return true;
        }
    }
    return false;
}

static int check_limit(const struct dp *dp, const char *name, uint64_t limit, struct err *e)
{
    return limit <= mactab_size(dp->macs)
               ? 0
               : err_set(e, -EINVAL, "port %s: mac-limit=%llu is more than the table's %u entries",
                         name, (unsigned long long)limit, mactab_size(dp->macs));
}

struct port *dp_port(const struct dp *dp, const char *name)
{
    for (unsigned i = 0; i < PORT_MAX; i++) {
        if (dp->port[i].port && !strcmp(dp->port[i].port->name, name)) {
            return dp->port[i].port;
        }
    }
    return NULL;
}

struct port *dp_find_port(const struct dp *dp, const char *name, struct err *e)
{
    struct port *p = dp_port(dp, name), *all[PORT_MAX];
    const char *names[PORT_MAX];

    if (!p) {
        unsigned n = dp_ports(dp, all, PORT_MAX);

        for (unsigned i = 0; i < n; i++) {
            names[i] = all[i]->name;
        }
        const char *near = nearest(name, names, n);
        err_set(e, -ENOENT, "there is no port %.63s%s%s%s", name, near ? "; did you mean " : "",
                near ? near : "", near ? "?" : "");
    }
    return p;
}

static int by_order(const void *a, const void *b)
{
    const struct dp_port *x = *(const struct dp_port *const *)a;
    const struct dp_port *y = *(const struct dp_port *const *)b;

    return (x->order > y->order) - (x->order < y->order);
}

unsigned dp_ports(const struct dp *dp, struct port **out, unsigned max)
{
    const struct dp_port *slot[PORT_MAX];
    unsigned n = 0;

    for (unsigned i = 0; i < PORT_MAX; i++) {
        if (dp->port[i].port) {
            slot[n++] = &dp->port[i];
        }
    }
    qsort(slot, n, sizeof(slot[0]), by_order);
    for (unsigned i = 0; i < MIN(n, max); i++) {
        out[i] = slot[i]->port;
    }
    return MIN(n, max);
}

const char *dp_port_bridge(const struct dp *dp, const struct port *p)
{
    return dp->port[p->id].bridge->conf.name;
}

bool dp_port_isolated(const struct dp *dp, const struct port *p)
{
    return dp->port[p->id].isolated;
}

static struct dp_bridge *bridge_get(struct dp *dp, const char *name, struct err *e)
{
    struct bridge_conf c = {BRIDGE_CONF_DEFAULTS};
    struct dp_bridge *b = dp_bridge_find(dp, name);

    if (!b) {
        if (strlen(name) > PORT_NAME_MAX) {
            err_set(e, -EINVAL, "bridge name '%.20s...' is longer than %d bytes", name,
                    PORT_NAME_MAX);
            return NULL;
        }
        snprintf(c.name, sizeof(c.name), "%s", name);
        b = dp_bridge_set(dp, &c, e) ? NULL : dp_bridge_find(dp, name);
    }
    return b;
}

/* The bridge's keys of a new port, checked before anything is made. */
struct bridge_opts {
    const char *bridge;
    bool isolated;
    uint32_t limit;
    struct vlan_conf vlan;
};

static int take_bridge_keys(const struct dp *dp, const struct port_conf *c, struct bridge_opts *o,
                            struct port_conf *rest, struct err *e)
{
    const char *bridge = port_conf_get(c, "bridge");
    uint64_t limit = port_conf_number(c, "mac-limit", mactab_size(dp->macs) / 2);
    int rc = port_conf_check(c, bridge_keys, e);

    rc = rc ? err_prefix(e, "port %s", c->name) : check_limit(dp, c->name, limit, e);
    rc = rc ? rc : placement_check_pins(&dp->place, c->name, port_conf_get(c, "pin"), e);
    *o = (struct bridge_opts){.bridge = bridge ? bridge : BRIDGE_DEFAULT,
                              .isolated = port_conf_is(c, "isolated", "yes"),
                              .limit = (uint32_t)limit};
    if (!rc && vlan_conf_read(&o->vlan, c, e)) {
        rc = err_prefix(e, "port %s", c->name);
    }
    if (rc) {
        return rc;
    }
    if (port_conf_copy(rest, c)) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    for (const struct port_option_def *d = bridge_keys; d->key; d++) {
        port_conf_unset(rest, d->key);
    }
    return 0;
}

static int free_slot(const struct dp *dp)
{
    for (int i = 0; i < PORT_MAX; i++) {
        if (!dp->port[i].port) {
            return i;
        }
    }
    return -1;
}

/* No worker sees the port any more. */
static void port_bury(struct dp *dp, struct port *p)
{
    mactab_flush(dp->macs, p->id, -1, true);
    capture_port_gone(p);
    p->ops->destroy(p);
}

/* What can fail comes first: then the port is still there, whole. */
static int port_remove(struct dp *dp, struct port *p, struct err *e)
{
    struct dp_port *slot = &dp->port[p->id];

    slot->bridge->n_ports--;
    slot->port = NULL;
    int rc = dp_vlans_update(dp, slot->bridge, true, e);
    if (rc) {
        slot->port = p;
        slot->bridge->n_ports++;
        return rc;
    }
    port_bury(dp, p);
    return 0;
}

int dp_port_add(struct dp *dp, const struct port_conf *c, struct err *e)
{
    struct port_conf rest;
    struct bridge_opts o;
    struct port *p = NULL;
    int slot = free_slot(dp), rc;

    if (dp_port(dp, c->name)) {
        return err_set(e, -EEXIST, "there is a port '%s' already", c->name);
    }
    if (slot < 0) {
        return err_set(e, -ENOSPC, "no room for port %s: there are %d already", c->name, PORT_MAX);
    }
    rc = take_bridge_keys(dp, c, &o, &rest, e);
    if (rc) {
        return rc;
    }
    bool new_bridge = !dp_bridge_find(dp, o.bridge);
    struct dp_bridge *b = bridge_get(dp, o.bridge, e);
    rc = b ? port_create(&p, &rest, &dp->env, e) : e ? e->code : -EINVAL;
    port_conf_free(&rest);
    if (rc) {
        if (b && new_bridge) {
            dp_bridge_del(dp, o.bridge, NULL); /* nobody asked for the bridge alone */
        }
        return rc;
    }
    /* What `show config` prints is what was asked for, bridge keys included. */
    for (unsigned i = 0; i < c->n_opt; i++) {
        if (is_bridge_key(c->opt[i].key)) {
            port_conf_set(&p->conf, c->opt[i].key, c->opt[i].value);
        }
    }
    write_once(&p->id, (uint16_t)slot);
    mactab_set_limit(dp->macs, p->id, o.limit);
    dp->port[slot] = (struct dp_port){p, b, o.isolated, dp->n_added++, o.vlan};
    b->n_ports++;
    rc = placement_pin(&dp->place, p, e); /* queues that were there before their pins */
    rc = rc ? rc : dp_vlans_update(dp, b, false, e);
    if (rc) { /* no worker has seen it: taking it back cannot fail */
        dp->port[slot].port = NULL;
        b->n_ports--;
        port_bury(dp, p);
        if (new_bridge) {
            dp_bridge_del(dp, o.bridge, NULL);
        }
    }
    return rc;
}

int dp_port_del(struct dp *dp, const char *name, struct err *e)
{
    struct port *p = dp_find_port(dp, name, e);

    return p ? port_remove(dp, p, e) : -ENOENT;
}

/* Refuse keys that the kind does not have or that cannot change while the port runs, and values. */
static int check_change(const struct port *p, const char *key, const char *value, struct err *e)
{
    const struct port_option_def *d = port_option(p->ops, bridge_keys, key, e);

    if (!d) {
        return err_prefix(e, "port %s", p->name);
    }
    if (!d->changeable) {
        return err_set(e, -EBUSY,
                       "port %s: %s cannot change while the port exists; delete it and add it again",
                       p->name, key);
    }
    return port_value_check(d, value, e) ? err_prefix(e, "port %s", p->name) : 0;
}

/* Queues go where they are pinned now; those that are free again stay where they are. */
static int set_pins(struct dp *dp, struct port *p, const char *pins, struct err *e)
{
    int rc = placement_check_pins(&dp->place, p->name, pins, e);

    if (!rc && port_conf_set(&p->conf, "pin", pins)) {
        rc = err_set(e, -ENOMEM, "out of memory");
    }
    return rc ? rc : placement_pin(&dp->place, p, e);
}

int dp_queue_pin(struct dp *dp, const char *name, unsigned queue, int worker, struct err *e)
{
    struct port *p = dp_find_port(dp, name, e);

    if (!p) {
        return -ENOENT;
    }
    if (queue >= PINS_QUEUES) {
        return err_set(e, -EINVAL, "port %s: queue %u: queues are 0 to %d", name, queue,
                       PINS_QUEUES - 1);
    }
    char *pins = pins_with(port_conf_get(&p->conf, "pin"), queue, worker);
    int rc = pins ? set_pins(dp, p, pins, e) : err_set(e, -ENOMEM, "out of memory");

    free(pins);
    return rc;
}

int dp_port_set(struct dp *dp, const char *name, const char *key, const char *value, struct err *e)
{
    struct port *p = dp_find_port(dp, name, e);

    if (!p) {
        return -ENOENT;
    }
    int rc = check_change(p, key, value, e);
    if (rc) {
        return rc;
    }
    if (!strcmp(key, "pin")) {
        return set_pins(dp, p, value, e);
    }
    if (!strcmp(key, "isolated")) {
        dp->port[p->id].isolated = !strcmp(value, "yes");
        rc = dp_rebuild(dp, e);
    } else if (vlan_key(key)) {
        return dp_vlan_set_key(dp, p, key, value, e);
    } else if (!strcmp(key, "mac-limit")) {
        unsigned long limit = strtoul(value, NULL, 10);

        rc = check_limit(dp, name, limit, e);
        if (!rc) {
            mactab_set_limit(dp->macs, p->id, (uint32_t)limit);
        }
    } else {
        rc = p->ops->set(p, key, value, e);
    }
    if (!rc && port_conf_set(&p->conf, key, value)) {
        rc = err_set(e, -ENOMEM, "out of memory");
    }
    return rc;
}

int dp_capture(struct dp *dp, const char *port, const struct capture_conf *c, struct capture **out,
               struct err *e)
{
    struct port *p = dp_find_port(dp, port, e);

    return p ? capture_start(out, p, c, e) : -ENOENT;
}

/* ---- workers ----------------------------------------------------------------------------------- */

unsigned dp_workers(const struct dp *dp, struct worker_info *out, unsigned max)
{
    unsigned n = MIN(dp->place.n_workers, max);

    for (unsigned i = 0; i < n; i++) {
        worker_info(dp->place.worker[i], &out[i]);
    }
    return n;
}

unsigned dp_worker_queues(const struct dp *dp, unsigned worker, struct rxq **out, unsigned max)
{
    const struct worker *w = worker < dp->place.n_workers ? dp->place.worker[worker] : NULL;
    unsigned n = w ? MIN(worker_n_queues(w), max) : 0;

    for (unsigned i = 0; i < n; i++) {
        out[i] = worker_queue(w, i);
    }
    return n;
}

uint32_t dp_run_once(struct dp *dp)
{
    uint32_t frames = 0;

    for (unsigned i = 0; i < dp->place.n_workers; i++) {
        frames += worker_round(dp->place.worker[i]);
    }
    return frames;
}

/* ---- life -------------------------------------------------------------------------------------- */

static int start_workers(struct dp *dp, const struct dp_conf *c, struct err *e)
{
    for (unsigned i = 0; i < c->n_workers; i++) {
        struct worker_conf wc = {.id = i,
                                 .cpu = c->worker_cpu ? c->worker_cpu[i] : -1,
                                 .poll_us = c->poll_us ? c->poll_us : POLL_US_DEFAULT,
                                 .no_thread = c->no_threads,
                                 .view = &dp->view,
                                 .macs = dp->macs};
        int rc = worker_create(&dp->place.worker[i], &wc, e);

        if (rc) {
            return rc;
        }
        dp->place.n_workers++;
    }
    return 0;
}

static int start_events(struct dp *dp, const struct dp_conf *c, struct err *e)
{
    struct timeval second = {.tv_sec = 1};
    unsigned ms = dp->balance ? c->balance_ms : BALANCE_MS_DEFAULT;
    struct timeval balance = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    dp->postfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    dp->post_event = event_new(c->evbase, dp->postfd, EV_READ | EV_PERSIST, on_post, dp);
    dp->tick_event = event_new(c->evbase, -1, EV_PERSIST, on_tick, dp);
    dp->balance_event = event_new(c->evbase, -1, EV_PERSIST, on_balance, dp);
    if (dp->postfd < 0 || !dp->post_event || !dp->tick_event || !dp->balance_event ||
        event_add(dp->post_event, NULL) || event_add(dp->tick_event, &second) ||
        event_add(dp->balance_event, &balance)) {
        return err_set(e, -ENOMEM, "cannot set up the event loop");
    }
    return 0;
}

int dp_create(struct dp **out, const struct dp_conf *c, struct err *e)
{
    struct dp *dp;
    int rc;

    if (!c->n_workers || c->n_workers > WORKER_MAX) {
        return err_set(e, -EINVAL, "%u workers: from 1 to %d are possible", c->n_workers,
                       WORKER_MAX);
    }
    node_init();
    rc = gmem_init(e);
    dp = rc ? NULL : calloc(1, sizeof(*dp));
    if (!dp) {
        return rc ? rc : err_set(e, -ENOMEM, "out of memory");
    }
    dp->postfd = -1;
    dp->no_threads = c->no_threads;
    dp->balance = c->balance_ms > 0;
    dp->rundir = strdup(c->rundir ? c->rundir : ".");
    dp->macs = mactab_create(c->mac_size ? c->mac_size : MACTAB_DEFAULT_SIZE);
    dp->view = calloc(1, sizeof(*dp->view));
    dp->last = calloc(1, sizeof(*dp->last));
    dp->start_ns = clock_ns();
    if (!dp->rundir || !dp->macs || !dp->view || !dp->last) {
        rc = err_set(e, -ENOMEM, "out of memory");
    }
    dp->env = (struct port_env){.evbase = c->evbase,
                                .rundir = dp->rundir,
                                .n_workers = c->n_workers,
                                .ctx = dp,
                                .attach = env_attach,
                                .detach = env_detach,
                                .barrier = env_barrier,
                                .ready = env_ready,
                                .learn = env_learn,
                                .signal = env_signal,
                                .post = env_post};
    rc = rc ? rc : evsignal_create(&dp->signal, e);
    rc = rc ? rc : start_events(dp, c, e);
    rc = rc ? rc : start_workers(dp, c, e);
    if (rc) {
        dp_destroy(dp);
        return rc;
    }
    *out = dp;
    return 0;
}

void dp_destroy(struct dp *dp)
{
    if (!dp) {
        return;
    }
    if (dp->last) {
        view_swap(dp, dp->last);
    }
    for (unsigned i = 0; i < PORT_MAX; i++) {
        struct port *p = dp->port[i].port;

        dp->port[i].port = NULL;
        if (p) {
            port_bury(dp, p);
        }
    }
    for (unsigned i = 0; i < dp->place.n_workers; i++) {
        worker_destroy(dp->place.worker[i]);
    }
    if (dp->post_event) {
        event_free(dp->post_event);
    }
    if (dp->tick_event) {
        event_free(dp->tick_event);
    }
    if (dp->balance_event) {
        event_free(dp->balance_event);
    }
    if (dp->postfd >= 0) {
        close(dp->postfd);
    }
    evsignal_destroy(dp->signal);
    mactab_destroy(dp->macs);
    view_free(dp->view);
    for (unsigned i = 0; i < BRIDGE_MAX; i++) {
        free(dp->bridge[i].vlan_fid);
    }
    free(dp->rundir);
    free(dp);
}
