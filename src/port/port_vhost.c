/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user port: runs the rings of a vhost-user front-end (QEMU, cloud-hypervisor, virtio-user).
 *
 * This is the control half: it answers vu_dev's callbacks, builds a struct vq per running ring, hands
 * transmit rings (odd index) to a worker and publishes receive rings (even index) for egress.  The
 * half that moves frames is port_vhost_hot.c; what both know is in port_vhost.h.
 *
 * Frames go to a receive ring only once its driver has posted buffers there: some front-ends enable
 * every ring and keep to themselves how many the guest uses.  A ring that is still empty is looked
 * at again by a timer.  The first pair is an exception: it is the one that any driver uses.
 */
#include "port/port.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "base/log.h"
#include "base/text.h"
#include "port/kinds.h"
#include "port/port_vhost.h"
#include "vhost/vu_backend.h"
#include "vnet/features.h"

#ifdef COPY_COUNT
_Thread_local uint64_t vq_locks_counted;
#endif

#define LOOK_MIN_MS 50 /* between two looks at rings without buffers; doubles up to */
#define LOOK_MAX_MS 1000

static struct port_vhost *vhost_of(struct port *p)
{
    return container_of(p, struct port_vhost, port);
}

static bool port_vhost_arm(struct rxq *q)
{
    struct ring *r = &container_of(q, struct vq, rxq)->ring;
    bool work = ring_dev_arm(r->layout, r);

    return work || read_once(&vhost_of(q->port)->announce);
}

static void port_vhost_disarm(struct rxq *q)
{
    struct ring *r = &container_of(q, struct vq, rxq)->ring;

    ring_dev_disarm(r->layout, r);
}

/* Has the driver ever posted buffers here? */
static bool look_shown(struct vq *vq)
{
    vq->shown = vq->shown || vq->rxq.queue == 0 || ring_dev_more(vq->ring.layout, &vq->ring);
    return vq->shown;
}

/* The receive rings that run and were shown buffers, into the half that no worker looks at. */
static const struct out_rings *list_rings(struct port_vhost *pv)
{
    struct out_rings *o = &pv->rings_room[pv->rings == &pv->rings_room[0]];

    *o = (struct out_rings){.steer = pv->steer};
    memset(o->of_pair, NOT_RUNNING, sizeof(o->of_pair));
    for (unsigned pair = 0; pair < VHOST_PAIRS; pair++) {
        struct vq *vq = pv->vq[2 * pair];

        if (vq && vq->shown) {
            o->of_pair[pair] = (uint8_t)o->n;
            o->ring[o->n++] = vq;
        }
    }
    return o;
}

/* Guests with one pair are not watched. */
static void set_learning(struct port_vhost *pv, bool on)
{
    for (unsigned i = 1; i < VU_MAX_RINGS; i += 2) {
        if (pv->vq[i]) {
            store_release(&pv->vq[i]->steer, on ? pv->steer : NULL);
        }
    }
}

/* The set of receive rings is another one. Barrier: no worker uses the old set when this returns. */
static void publish_rings(struct port_vhost *pv)
{
    const struct port_env *env = pv->port.env;
    const struct out_rings *o = list_rings(pv);

    store_release(&pv->rings, o);
    store_release(&pv->out, o->n == 1 ? o->ring[0] : NULL);
    set_learning(pv, o->n > 1);
    env->ready(env->ctx, &pv->port, o->n > 0);
    env->barrier(env->ctx);
}

static void look_again(struct port_vhost *pv, unsigned ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    pv->look_ms = ms;
    event_add(pv->look, &tv);
}

/* Rings that were empty when they started may have buffers now. */
static void on_look(evutil_socket_t fd, short what, void *arg)
{
    struct port_vhost *pv = arg;
    bool news = false, again = false;

    for (unsigned i = 0; i < VU_MAX_RINGS; i += 2) {
        if (pv->vq[i] && !pv->vq[i]->shown) {
            news |= look_shown(pv->vq[i]);
            again |= !pv->vq[i]->shown;
        }
    }
    if (news) {
        publish_rings(pv);
    }
    if (again) {
        look_again(pv, MIN(2 * pv->look_ms, LOOK_MAX_MS));
    }
}

/* A receive ring runs. */
static int add_out(struct port_vhost *pv, struct vq *vq, struct err *e)
{
    if (vq->rxq.queue && !pv->steer && !(pv->steer = steer_create())) {
        return err_set(e, -ENOMEM, "port %s: out of memory", pv->port.name);
    }
    if (look_shown(vq)) {
        publish_rings(pv);
    } else {
        look_again(pv, LOOK_MIN_MS);
    }
    return 0;
}

/* Into the half that no worker looks at. NULL costs the ring least. */
static const struct ring_log *log_of(struct vq *vq, const struct ring_log *log)
{
    struct ring_log *room = &vq->log_room[vq->ring.log == &vq->log_room[0]];

    *room = *log;
    return log->map ? room : NULL;
}

static int on_ring_start(void *ctx, unsigned idx, const struct vu_ring_conf *c, uint64_t features,
                         const struct gmem *mem, struct err *e)
{
    struct port_vhost *pv = ctx;
    const struct port_env *env = pv->port.env;
    struct vq *vq = aligned_alloc(CACHE_LINE, sizeof(*vq));
    struct ring_setup setup = {
        .layout = features & VIRTIO_BIT(F_RING_PACKED) ? RING_PACKED : RING_SPLIT,
        .desc = c->desc,
        .avail = c->avail,
        .used = c->used,
        .num = c->num,
        .base = c->base,
        .resume = c->resume,
        .event_idx = features & VIRTIO_BIT(F_EVENT_IDX),
        .indirect = features & VIRTIO_BIT(F_INDIRECT_DESC),
        .write = idx % 2 == 0,
        .on_empty = features & VIRTIO_BIT(F_NOTIFY_ON_EMPTY),
        .mem = mem,
    };

    if (!vq) {
        return err_set(e, -ENOMEM, "port %s: out of memory", pv->port.name);
    }
    pv->port.node = gmem_node(mem); /* its driver runs: there is something in it by now */
    *vq = (struct vq){
        .rxq = {.port = &pv->port, .queue = (uint16_t)(idx / 2), .fd = c->kick_fd},
        .hdr_len = vnet_hdr_len(features),
        .plain = vnet_hdr_len(features) == VNET_HDR_LEN,
        .shared = idx % 2 == 0 && env->n_workers > 1,
        .mergeable = features & VIRTIO_BIT(NET_F_MRG_RXBUF),
        .sends = offload_sent(features),
        .takes = offload_taken(features) & pv->rx_offload,
        .call_fd = c->call_fd,
    };
    setup.log = log_of(vq, &c->log);
    ring_init(&vq->ring, &setup);
    ring_dev_disarm(setup.layout, &vq->ring);
    vq->steer = pv->rings->n > 1 ? pv->steer : NULL;
    pv->vq[idx] = vq;
    int rc = idx % 2 ? env->attach(env->ctx, &vq->rxq, e) : add_out(pv, vq, e);
    if (rc) {
        pv->vq[idx] = NULL;
        free(vq);
        return rc;
    }
    if (vq->call_fd >= 0) {
        env->signal(env->ctx, vq->call_fd); /* the driver may have missed one before */
    }
    return 0;
}

static uint16_t on_ring_stop(void *ctx, unsigned idx)
{
    struct port_vhost *pv = ctx;
    struct vq *vq = pv->vq[idx];

    pv->vq[idx] = NULL;
    if (idx % 2) {
        pv->port.env->detach(pv->port.env->ctx, &vq->rxq);
    } else {
        publish_rings(pv);
    }
    uint16_t live = ring_base(&vq->ring);
    free(vq);
    return live;
}

static void on_ring_call(void *ctx, unsigned idx, int call_fd)
{
    struct port_vhost *pv = ctx;
    const struct port_env *env = pv->port.env;

    write_once(&pv->vq[idx]->call_fd, call_fd);
    env->barrier(env->ctx);
    if (call_fd >= 0) {
        env->signal(env->ctx, call_fd);
    }
}

static void on_ring_log(void *ctx, unsigned idx, const struct ring_log *log)
{
    struct port_vhost *pv = ctx;
    struct vq *vq = pv->vq[idx];

    store_release(&vq->ring.log, log_of(vq, log));
}

static void on_barrier(void *ctx)
{
    struct port_vhost *pv = ctx;

    pv->port.env->barrier(pv->port.env->ctx);
}

static void on_mem_swap(void *ctx, const struct gmem *mem)
{
    struct port_vhost *pv = ctx;

    for (unsigned i = 0; i < VU_MAX_RINGS; i++) {
        if (pv->vq[i]) {
            store_release(&pv->vq[i]->ring.mem, mem);
        }
    }
    pv->port.env->barrier(pv->port.env->ctx);
}

/* The guest has moved here and does not announce itself: tell the other ports, and those behind them,
 * as it would. Its worker sends the frame, so that it takes the way of all frames. */
static void on_rarp(void *ctx, const uint8_t mac[6])
{
    struct port_vhost *pv = ctx;
    const struct port_env *env = pv->port.env;
    uint64_t key = 0;

    env->learn(env->ctx, &pv->port, mac);
    memcpy(&key, mac, 6);
    store_release(&pv->announce, key);
    if (pv->vq[1] && pv->vq[1]->rxq.fd >= 0) {
        env->signal(env->ctx, pv->vq[1]->rxq.fd); /* a worker that sleeps looks when it is kicked */
    }
}

static void set_max_len(struct port_vhost *pv, uint16_t guest_mtu)
{
    uint32_t conf = pv->mtu_conf ? pv->mtu_conf : UINT16_MAX;
    uint32_t mtu = MIN(conf, guest_mtu ? guest_mtu : UINT16_MAX);

    write_once(&pv->port.max_len, port_mtu_len(mtu));
}

static int on_mtu(void *ctx, uint16_t mtu)
{
    struct port_vhost *pv = ctx;

    if (mtu < 68 || (pv->mtu_conf && mtu > pv->mtu_conf)) {
        return -EINVAL;
    }
    set_max_len(pv, mtu);
    return 0;
}

static void on_link(void *ctx, bool up, const char *why)
{
    struct port_vhost *pv = ctx;

    static struct log_limit limit; /* a peer can come and go as fast as it likes */

    if (log_limit_ok(&limit, 20)) {
        log_info("port %s: front-end %s%s%s", pv->port.name, up ? "connected" : "gone",
                 why ? ": " : "", why ? why : "");
    }
    if (!up) {
        set_max_len(pv, 0);
    }
}

static void on_signal(void *ctx, int fd)
{
    struct port_vhost *pv = ctx;

    pv->port.env->signal(pv->port.env->ctx, fd);
}

static const struct vu_ops vu_callbacks = {
    .ring_start = on_ring_start,
    .ring_stop = on_ring_stop,
    .ring_call = on_ring_call,
    .mem_swap = on_mem_swap,
    .ring_log = on_ring_log,
    .barrier = on_barrier,
    .rarp = on_rarp,
    .mtu = on_mtu,
    .link = on_link,
    .signal = on_signal,
};

/* A worker found a fault and asked for us. */
static void port_vhost_event(struct port *port)
{
    struct port_vhost *pv = vhost_of(port);

    for (unsigned i = 0; i < VU_MAX_RINGS; i++) {
        struct vq *vq = pv->vq[i];
        enum ring_fault f = vq ? read_once(&vq->ring.broken) : RING_FAULT_NONE;

        if (f == RING_FAULT_MEMORY_GONE || f == RING_FAULT_LOG_GONE) {
            vu_dev_kill(pv->dev, ring_fault_text(f));
            return;
        }
        if (f) {
            vu_dev_ring_broken(pv->dev, i, ring_fault_text(f)); /* stops it: the vq is gone */
        }
    }
}

static const struct port_option_def vhost_options[] = {
    {"client", "connect to the front-end that listens on this socket, and reconnect",
     .type = PORT_PATH},
    {"path", "listen on this socket (default RUNDIR/NAME.sock)", .type = PORT_PATH},
    PORT_OPTIONS_SOCKET,
    {"mtu", "largest IP packet sent to the guest, bytes (default: what the front-end says)",
     .changeable = true, .type = PORT_NUMBER, .min = 68, .max = 65535},
    {"offload", "what the guest is offered, both ways: words like csum+tso4+uso (default all but ufo)",
     .check = port_check_offload},
    {"rx-offload", "what is sent to the guest at most, of what it takes (default all)",
     .changeable = true, .check = port_check_offload},
    PORT_OPTION_LINK,
    {"config", "yes: tell MAC, MTU and link to a front-end that asks (cloud-hypervisor; QEMU warns)",
     .type = PORT_YES_NO},
    {"mac", "the guest's address, for config=yes and the printed arguments", .type = PORT_MAC},
    {"queues", "queue pairs that a guest may use (default 128)", .type = PORT_NUMBER, .min = 1,
     .max = VHOST_PAIRS},
    {"any-fs", "yes: accept guest memory on any file system (a page fault there can block)",
     .type = PORT_YES_NO},
    {NULL},
};

static void port_vhost_destroy(struct port *port)
{
    struct port_vhost *pv = vhost_of(port);

    vu_dev_destroy(pv->dev);
    if (pv->look) {
        event_free(pv->look);
    }
    steer_destroy(pv->steer);
    port_fini(port);
    free(pv);
}

/* What a front-end that asks is told of the device. */
static void tell_config(struct port_vhost *pv)
{
    struct vnet_config c = {.mtu = pv->mtu_conf ? pv->mtu_conf : VNET_MTU_DEFAULT};
    const char *mac = port_conf_get(&pv->port.conf, "mac");

    if (mac) {
        text_read_mac(mac, c.mac);
    }
    vu_dev_set_config(pv->dev, &c);
}

static void config_features(const struct port_conf *c, struct vu_conf *v)
{
    v->config = port_conf_is(c, "config", "yes");
    if (v->config) {
        v->features |= VIRTIO_BIT(NET_F_STATUS);
        v->features |= port_conf_get(c, "mac") ? VIRTIO_BIT(NET_F_MAC) : 0;
    }
}

static int port_vhost_create(struct port **out, const struct port_conf *c,
                             const struct port_env *env, struct err *e)
{
    struct port_vhost *pv = calloc(1, sizeof(*pv));
    const char *client = port_conf_get(c, "client"), *path = port_conf_get(c, "path");
    struct vu_conf v = {.name = c->name,
                        .owner = port_conf_owner(c),
                        .group = port_conf_group(c),
                        .mode = port_conf_mode(c),
                        .fs = port_conf_is(c, "any-fs", "yes") ? GMEM_FS_ANY : GMEM_FS_MEMORY_ONLY};
    char *listen_path = NULL, *state_path = NULL;
    int rc;

    if (!pv) {
        return err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    rc = port_init(&pv->port, HOT_BEST(port_vhost_ops), c, env, e);
    if (rc) {
        free(pv);
        return rc;
    }
    if (!client && !path && !(listen_path = port_socket_path(env, c, ""))) {
        rc = err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    if (!rc && asprintf(&state_path, "%s/%s.rings", env->rundir, c->name) < 0) {
        state_path = NULL;
        rc = err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    v.state_path = state_path;
    pv->rings = &pv->rings_room[0];
    pv->look = evtimer_new(env->evbase, on_look, pv);
    if (!rc && !pv->look) {
        rc = err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    if (!rc) {
        pv->mtu_conf = (uint16_t)port_conf_number(c, "mtu", 0);
        pv->rx_offload = port_conf_offload(c, "rx-offload", OFFLOAD_ALL);
        set_max_len(pv, 0);
        v.features = VNET_FEATURES_OFFERED |
                     offload_features(port_conf_offload(c, "offload", OFFLOAD_DEFAULT));
        config_features(c, &v);
        v.max_rings = 2 * (unsigned)port_conf_number(c, "queues", VHOST_PAIRS);
        if (v.max_rings == 2) {
            v.features &= ~VIRTIO_BIT(NET_F_MQ);
        }
        v.client = client != NULL;
        v.path = client ? client : path ? path : listen_path;
        rc = vu_dev_create(&pv->dev, &v, &vu_callbacks, pv, env->evbase, e);
    }
    free(listen_path);
    free(state_path);
    if (!rc) {
        tell_config(pv);
    }
    if (!rc && pv->port.down) {
        vu_dev_set_link(pv->dev, false, NULL);
    }
    if (rc) {
        port_vhost_destroy(&pv->port);
        return rc;
    }
    *out = &pv->port;
    return 0;
}

/* The guest may have turned its large receive off, and nothing on the socket says so. */
static void set_rx_offload(struct port_vhost *pv, const char *value, uint64_t features)
{
    offload_parse(value, &pv->rx_offload);
    for (unsigned i = 0; i < VU_MAX_RINGS; i += 2) {
        if (pv->vq[i]) {
            write_once(&pv->vq[i]->takes, (uint16_t)(offload_taken(features) & pv->rx_offload));
        }
    }
}

static int set_link(struct port_vhost *pv, bool down, struct err *e)
{
    bool was = pv->port.down;

    write_once(&pv->port.down, down); /* before: what is dropped from now on is dropped for this */
    int rc = vu_dev_set_link(pv->dev, !down, e);
    if (rc) {
        write_once(&pv->port.down, was);
    }
    return rc;
}

static int port_vhost_set(struct port *port, const char *key, const char *value, struct err *e)
{
    struct port_vhost *pv = vhost_of(port);
    struct vu_info info;

    if (!strcmp(key, "link")) {
        return set_link(pv, !strcmp(value, "down"), e);
    }
    vu_dev_info(pv->dev, &info);
    if (!strcmp(key, "rx-offload")) {
        set_rx_offload(pv, value, info.negotiated);
    } else { /* mtu */
        pv->mtu_conf = (uint16_t)strtoul(value, NULL, 10);
        set_max_len(pv, info.mtu);
        tell_config(pv);
    }
    return 0;
}

/* What the front-end or the driver behind it does not take of what is offered. */
static json_t *show_lacks(const struct vu_info *i)
{
    json_t *a, *protocol;

    if (i->negotiating) {
        return json_null();
    }
    a = port_feature_names(i->offered & ~i->negotiated, virtio_feature_name);
    protocol = port_feature_names(i->protocol_offered & ~i->protocol_features,
                                  vu_protocol_feature_name);
    json_array_extend(a, protocol);
    json_decref(protocol);
    return a;
}

static json_t *show_ring(const struct port_vhost *pv, unsigned idx, const struct vu_ring_info *r)
{
    const struct vq *vq = pv->vq[idx];
    json_t *o = json_pack("{s:i, s:s, s:i, s:b, s:b, s:b, s:b}", "index", (int)idx, "direction",
                          idx % 2 ? "from-guest" : "to-guest", "size", (int)r->num, "running",
                          r->running, "enabled", r->enabled, "broken", r->broken, "polled",
                          r->polled);

    if (r->why) {
        json_object_set_new(o, "why", json_string(r->why));
    }
    if (vq) {
        json_object_set_new(o, "frames", json_integer((json_int_t)read_once(&vq->frames)));
    }
    if (vq && idx % 2 == 0) {
        json_object_set_new(o, "steered", json_boolean(vq->shown));
    }
    if (vq && !read_once(&vq->ring.broken)) {
        json_object_set_new(o, "fill", json_integer(ring_dev_fill(&vq->ring)));
    }
    return o;
}

static void port_vhost_show(const struct port *port, json_t *o)
{
    const struct port_vhost *pv = container_of((struct port *)(uintptr_t)port, struct port_vhost,
                                               port);
    struct vu_info i;
    json_t *rings = json_array();

    vu_dev_info(pv->dev, &i);
    for (unsigned idx = 0; idx < i.n_rings; idx++) {
        struct vu_ring_info r;

        if (vu_dev_ring_info(pv->dev, idx, &r)) {
            json_array_append_new(rings, show_ring(pv, idx, &r));
        }
    }
    json_object_set_new(o, "socket", json_string(i.path));
    json_object_set_new(o, "role", json_string(i.client ? "client" : "server"));
    json_object_set_new(o, "state", json_string(i.state));
    json_object_set_new(o, "peer_pid", json_integer(i.peer_pid));
    json_object_set_new(o, "features", port_feature_names(i.negotiated, virtio_feature_name));
    json_object_set_new(o, "features_offered", port_feature_names(i.offered, virtio_feature_name));
    json_object_set_new(o, "protocol_features",
                        port_feature_names(i.protocol_features, vu_protocol_feature_name));
    json_object_set_new(o, "peer_lacks", show_lacks(&i));
    json_object_set_new(o, "memory_regions", json_integer(i.n_regions));
    json_object_set_new(o, "memory_bytes", json_integer((json_int_t)i.mem_bytes));
    json_object_set_new(o, "memory_node", i.node < 0 ? json_null() : json_integer(i.node));
    json_object_set_new(o, "logging", json_boolean(i.logging));
    json_object_set_new(o, "dirty_log_bytes", json_integer((json_int_t)i.log_bytes));
    json_object_set_new(o, "status", json_integer(i.status));
    json_object_set_new(o, "messages", json_integer((json_int_t)i.n_messages));
    json_object_set_new(o, "messages_refused", json_integer((json_int_t)i.n_refused));
    json_object_set_new(o, "connects", json_integer((json_int_t)i.n_connects));
    json_object_set_new(o, "last_error", i.last_error[0] ? json_string(i.last_error) : json_null());
    json_object_set_new(o, "rings", rings);
}

/* One table per machine level: they differ in who moves the frames. */
#define VHOST_OPS(level)                                                                           \
    const struct port_ops port_vhost_ops_##level = {                                               \
        .kind = "vhost-user",                                                                      \
        .help = "a UNIX socket that a virtual machine or virtio-user process plugs into",          \
        .options = vhost_options,                                                                  \
        .check = port_check_client,                                                                \
        .create = port_vhost_create,                                                               \
        .destroy = port_vhost_destroy,                                                             \
        .rx = port_vhost_rx_##level,                                                               \
        .rx_done = port_vhost_rx_done_##level,                                                     \
        .tx = port_vhost_tx_##level,                                                               \
        .arm = port_vhost_arm,                                                                     \
        .disarm = port_vhost_disarm,                                                               \
        .set = port_vhost_set,                                                                     \
        .event = port_vhost_event,                                                                 \
        .show = port_vhost_show,                                                                   \
    };
HOT_FOR_LEVELS(VHOST_OPS)
