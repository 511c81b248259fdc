/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kind "qemu-dgram": QEMU's -netdev dgram over UNIX sockets.  Theory of operation
 *
 * The protocol: one datagram is one frame; no virtio-net header, nothing is negotiated.  Each side has
 * a socket file of its own and sends to the other's: ours is path=, QEMU's (local.path) is peer=.
 *
 * Copies and system calls.  One recvmmsg brings up to a burst of frames, the first bytes of each
 * straight into the batch's snapshot, the rest into a private buffer; one sendmmsg hands many frames to
 * the kernel from the sender's memory.  As for a tap, no byte of payload is touched here.
 *
 * Coming and going.  Datagram sockets know no connection, so nothing tells that a peer has started or
 * ended.  Our socket is connect()ed to the peer's file: the kernel then refuses datagrams of anybody
 * else, and sending needs no path.  connect() is tried when something arrives while nobody is there,
 * and repeated every LOOK_MS, which finds a QEMU that was restarted (a new socket at the same path) or
 * is gone (ECONNREFUSED), and changes nothing otherwise.  The queue is attached while there is a peer;
 * what arrives before waits in the socket.
 *
 * Threads: the kernel keeps datagrams apart, so tx takes no lock.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "port/kinds.h"
#include "port/sock_out.h"
#include "vhost/vu_sock.h"

#define LOOK_MS   1000
#define DGRAM_BUF 65536 /* per frame, what does not fit in the snapshot; pages come on demand */
#define SNAP_ROOM (PKT_SNAP - VNET_HDR_LEN)
static_assert(DGRAM_BUF + SNAP_ROOM >= PKT_MAX_LEN, "any frame fits");

/* A worker's scratch while it receives. */
struct dgram_scratch {
    struct mmsghdr msg[PKT_BURST];
    struct iovec iov[PKT_BURST][2];
};
static_assert(sizeof(struct dgram_scratch) <= WCTX_SCRATCH, "see port.h");

struct port_dgram {
    struct port port; /* first: a struct port * is a struct port_dgram * */
    struct rxq q;     /* q.fd is the socket */
    uint8_t *buf;     /* PKT_BURST buffers of DGRAM_BUF bytes */
    char *path, *peer;
    struct vu_sock_file made;
    struct event *look;    /* timer */
    struct event *arrival; /* pending while there is no peer */
    bool up;               /* written by control, read by workers: there is a peer */
    int code;              /* why there is none, to log each cause once */
    uint64_t n_connects;
    char last_error[480];
};

static struct port_dgram *dgram_of(struct port *p)
{
    return container_of(p, struct port_dgram, port);
}

/* ---- worker: receive ---------------------------------------------------------------------------- */

static void prepare(const struct port_dgram *d, struct batch *b, struct dgram_scratch *t)
{
    for (unsigned i = 0; i < PKT_BURST; i++) {
        t->iov[i][0] = (struct iovec){batch_snap(b, i) + VNET_HDR_LEN, SNAP_ROOM};
        t->iov[i][1] = (struct iovec){d->buf + (size_t)i * DGRAM_BUF, DGRAM_BUF};
        t->msg[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = t->iov[i], .msg_iovlen = 2}};
    }
}

/* Datagram i as the next packet of the batch. */
static void lend(const struct port_dgram *d, struct batch *b, unsigned i, uint32_t len)
{
    struct pkt *k = &b->pkt[b->n++];
    uint32_t snap = MIN(len, (uint32_t)SNAP_ROOM);

    *k = (struct pkt){.data = batch_snap(b, i) + VNET_HDR_LEN,
                      .len = len,
                      .snap_len = (uint16_t)snap,
                      .n_spans = len > snap,
                      .span = {(const uint8_t GUEST *)d->buf + (size_t)i * DGRAM_BUF, len - snap}};
    pkt_plain_header(k->data);
}

static uint32_t dgram_rx(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct port_dgram *d = container_of(q, struct port_dgram, q);
    struct port_counters *c = &d->port.counters[w->id];
    struct dgram_scratch *t = w->rx_scratch;
    uint64_t bytes = 0;

    prepare(d, b, t);
    int n = recvmmsg(q->fd, t->msg, PKT_BURST, MSG_DONTWAIT, NULL);
    if (n >= 0 ? n < PKT_BURST : errno == EAGAIN) {
        q->ready = false; /* what comes from now on is a new edge */
    }
    for (int i = 0; i < n; i++) {
        uint32_t len = t->msg[i].msg_len;
        bool giant = len > PKT_MAX_LEN || t->msg[i].msg_hdr.msg_flags & MSG_TRUNC;

        b->n_loans++;
        w->spent += len;
        if (unlikely(giant || len < PKT_MIN_LEN)) {
            port_count_drop(&d->port, w, giant ? DROP_GIANT : DROP_RUNT, 1);
            continue;
        }
        lend(d, b, (unsigned)i, len);
        bytes += len;
    }
    w->spent += SOCK_CALL_COST;
    if (unlikely(read_once(&d->port.down))) {
        port_count_drop(&d->port, w, DROP_LINK_DOWN, b->n);
        b->n = 0;
        return 0;
    }
    write_once(&c->rx_frames, c->rx_frames + b->n);
    write_once(&c->rx_bytes, c->rx_bytes + bytes);
    return b->n;
}

static void dgram_rx_done(struct rxq *q, struct batch *b, struct wctx *w)
{
    /* The loans are this port's own buffers: the next rx overwrites them. */
}

static bool dgram_arm(struct rxq *q)
{
    return q->ready; /* the fd is watched edge-triggered: it is always armed */
}

static void dgram_disarm(struct rxq *q)
{
}

/* ---- worker: send ------------------------------------------------------------------------------- */

/* Frame i did not go. */
static void refuse(struct sock_out *o, unsigned i, int code)
{
    switch (code) {
    case EAGAIN:
    case ENOBUFS:
    case EINTR:
        o->closed = DROP_TX_FULL;
        break;
    case ECONNREFUSED:
    case ENOTCONN:
    case ECONNRESET:
        o->closed = DROP_NOT_READY;
        o->port->env->post(o->port->env->ctx, o->port);
        break;
    case EFAULT:
        pkt_touch(o->frame[i].p);
        break;
    }
    if (o->closed == DROP_N) {
        sock_out_lost(o, i, i + 1, DROP_TX_ERROR);
    } else {
        sock_out_lost(o, i, o->n, o->closed);
    }
}

static void dgram_send(struct sock_out *o)
{
    for (unsigned i = 0; i < o->n; i++) {
        const struct sock_frame *f = &o->frame[i];

        o->msg[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &o->iov[f->iov], .msg_iovlen = f->n_iov}};
    }
    for (unsigned i = 0; i < o->n && o->closed == DROP_N;) {
        int n = sendmmsg(dgram_of(o->port)->q.fd, &o->msg[i], o->n - i, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0) {
            sock_out_sent(o, i, i + (unsigned)n);
            i += (unsigned)n; /* if some are left, the next call says why */
        } else {
            refuse(o, i++, errno);
        }
    }
}

static void dgram_tx(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n, struct wctx *w)
{
    struct sock_out *o = w->tx_scratch;

    if (unlikely(read_once(&p->down) || !read_once(&dgram_of(p)->up))) {
        port_count_drop(p, w, read_once(&p->down) ? DROP_LINK_DOWN : DROP_NOT_READY, n);
        return;
    }
    o->port = p;
    o->w = w;
    o->prefixed = false;
    o->send = dgram_send;
    sock_out_batch(o, b, idx, n);
}

/* ---- control: the peer -------------------------------------------------------------------------- */

static void update_ready(struct port_dgram *d)
{
    d->port.env->ready(d->port.env->ctx, &d->port, d->up && !d->port.down);
}

static void part(struct port_dgram *d)
{
    write_once(&d->up, false);
    update_ready(d);
    d->port.env->detach(d->port.env->ctx, &d->q);
}

static void missed(struct port_dgram *d, const struct err *why)
{
    if (d->up) {
        log_info_limited("port %s: peer gone: %s", d->port.name, why->text);
        part(d);
    } else if (why->code != d->code) {
        log_info_limited("port %s: %s; will try again until a peer is there", d->port.name, why->text);
    }
    d->code = why->code;
    snprintf(d->last_error, sizeof(d->last_error), "%s", why->text);
}

/* Find the peer, or out that it is gone. */
static void look(struct port_dgram *d)
{
    const struct port_env *env = d->port.env;
    struct err e = {0};
    int rc = vu_sock_join(d->q.fd, d->peer, &e);

    if (!rc && !d->up) {
        rc = env->attach(env->ctx, &d->q, &e);
    }
    if (rc) {
        missed(d, &e);
        return;
    }
    if (!d->up) {
        event_del(d->arrival);
        d->n_connects++;
        d->code = 0;
        log_info_limited("port %s: peer found at %s", d->port.name, d->peer);
        write_once(&d->up, true);
        update_ready(d);
    }
}

static void on_look(evutil_socket_t fd, short what, void *arg)
{
    const struct timeval again = {LOOK_MS / 1000, LOOK_MS % 1000 * 1000};
    struct port_dgram *d = arg;

    look(d);
    if (!d->up) {
        event_add(d->arrival, NULL);
    }
    event_add(d->look, &again);
}

/* Once per LOOK_MS at most: whoever can write to our file can send without being the peer. */
static void on_arrival(evutil_socket_t fd, short what, void *arg)
{
    look(arg);
}

/* A worker's frame was refused: there is nobody. */
static void dgram_event(struct port *p)
{
    look(dgram_of(p));
}

/* ---- control: life ------------------------------------------------------------------------------ */

static void set_mtu(struct port_dgram *d, uint64_t mtu)
{
    write_once(&d->port.max_len, port_mtu_len((uint32_t)mtu));
}

static int dgram_set(struct port *p, const char *key, const char *value, struct err *e)
{
    if (!strcmp(key, "mtu")) {
        set_mtu(dgram_of(p), strtoul(value, NULL, 10));
    } else { /* link */
        write_once(&p->down, !strcmp(value, "down"));
        update_ready(dgram_of(p));
    }
    return 0;
}

static void dgram_destroy(struct port *p)
{
    struct port_dgram *d = dgram_of(p);

    if (d->up) {
        part(d);
    }
    p->env->barrier(p->env->ctx);
    if (d->look) {
        event_free(d->look);
    }
    if (d->arrival) {
        event_free(d->arrival);
    }
    if (d->q.fd >= 0) {
        vu_sock_unlink(d->path, &d->made);
        close(d->q.fd);
    }
    if (d->buf) {
        munmap(d->buf, (size_t)PKT_BURST * DGRAM_BUF);
    }
    free(d->path);
    free(d->peer);
    port_fini(p);
    free(d);
}

static int dgram_open(struct port_dgram *d, const struct port_conf *c, struct err *e)
{
    const struct port_env *env = d->port.env;
    const char *path = port_conf_get(c, "path"), *peer = port_conf_get(c, "peer");

    d->path = path ? strdup(path) : port_socket_path(env, c, "");
    d->peer = peer ? strdup(peer) : port_socket_path(env, c, ".peer");
    d->buf = mmap(NULL, (size_t)PKT_BURST * DGRAM_BUF, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    d->buf = d->buf == MAP_FAILED ? NULL : d->buf;
    if (!d->path || !d->peer || !d->buf) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    int fd = vu_sock_listen(d->path, SOCK_DGRAM, port_conf_owner(c), port_conf_group(c),
                            port_conf_mode(c), &d->made, e);
    if (fd < 0) {
        return fd;
    }
    d->q = (struct rxq){.port = &d->port, .fd = fd, .event_driven = true};
    d->look = evtimer_new(env->evbase, on_look, d);
    d->arrival = event_new(env->evbase, fd, EV_READ, on_arrival, d);
    if (!d->look || !d->arrival || event_add(d->look, &(struct timeval){0})) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    return 0;
}

static int dgram_create(struct port **out, const struct port_conf *c, const struct port_env *env,
                        struct err *e)
{
    struct port_dgram *d = calloc(1, sizeof(*d));

    if (!d) {
        return err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    d->q.fd = -1;
    int rc = port_init(&d->port, &port_qemu_dgram_ops, c, env, e);
    if (rc) {
        free(d);
        return rc;
    }
    set_mtu(d, port_conf_number(c, "mtu", UINT16_MAX));
    rc = dgram_open(d, c, e);
    if (rc) {
        dgram_destroy(&d->port);
        return err_prefix(e, "port %s", c->name);
    }
    *out = &d->port;
    return 0;
}

static void dgram_show(const struct port *p, json_t *o)
{
    const struct port_dgram *d = dgram_of((struct port *)(uintptr_t)p);

    json_object_set_new(o, "socket", json_string(d->path));
    json_object_set_new(o, "peer", json_string(d->peer));
    json_object_set_new(o, "state", json_string(d->up ? "connected" : "waiting"));
    json_object_set_new(o, "connects", json_integer((json_int_t)d->n_connects));
    json_object_set_new(o, "last_error", *d->last_error ? json_string(d->last_error) : json_null());
}

static int dgram_check(const struct port_conf *c, struct err *e)
{
    const char *path = port_conf_get(c, "path"), *peer = port_conf_get(c, "peer");

    return path && peer && !strcmp(path, peer)
               ? err_set(e, -EINVAL, "path= and peer= are the same file: each side has one of its own")
               : 0;
}

static const struct port_option_def dgram_options[] = {
    {"path", "our socket, which QEMU sends to (default RUNDIR/NAME.sock)", .type = PORT_PATH},
    {"peer", "QEMU's socket, which we send to (default RUNDIR/NAME.peer.sock)", .type = PORT_PATH},
    PORT_OPTIONS_SOCKET,
    {"mtu", "largest IP packet sent to the peer, bytes (default 65535)", .changeable = true,
     .type = PORT_NUMBER, .min = 68, .max = 65535},
    PORT_OPTION_LINK,
    {"mac", "the guest's address, for the printed arguments", .type = PORT_MAC},
    {NULL},
};

const struct port_ops port_qemu_dgram_ops = {
    .kind = "qemu-dgram",
    .help = "two UNIX sockets for QEMU's -netdev dgram: one frame per datagram",
    .options = dgram_options,
    .check = dgram_check,
    .create = dgram_create,
    .destroy = dgram_destroy,
    .rx = dgram_rx,
    .rx_done = dgram_rx_done,
    .tx = dgram_tx,
    .arm = dgram_arm,
    .disarm = dgram_disarm,
    .set = dgram_set,
    .event = dgram_event,
    .show = dgram_show,
};
