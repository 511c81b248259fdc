/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kind "qemu-stream": QEMU's -netdev stream over a UNIX socket.  Theory of operation
 *
 * The protocol: each frame behind its length, 32 bits, big-endian.  No virtio-net header, nothing is
 * negotiated, so neither side may leave work to the other (pkt/segment.h does it on the way out).  Who
 * speaks it: QEMU since 7.2 for any card that it emulates, and other programs that took it over.
 *
 *     QEMU                     kernel                  this process
 *     e1000 --- writev ---> socket queue --- recv ---> in[]  -> rx (loans of it)
 *           <-- read ------ socket queue <-- sendmsg -- tx (the sender's memory)
 *
 * Copies.  Towards QEMU the kernel makes the only one of ours (and QEMU more).  From QEMU one recv
 * brings many frames into a private buffer, from which they are lent: the receiving port makes the
 * usual one copy.  A frame that is not there as a whole when all others are used up is moved to the
 * front of the buffer, once.
 *
 * The other end is hostile.  Nothing waits for it: the socket is non-blocking, and a frame for which
 * there is no room is dropped (tx-full).  When the kernel took only part of a frame, the rest is copied
 * aside (`rest`), because the loan ends: it must be finished before the next frame, by whoever comes
 * first, the next tx or the control thread when the socket becomes writable.  Lengths are believed
 * within bounds: of less than a header a runt, of more than a frame a giant, which is skipped; one that
 * no frame could ever have means that this is another protocol, and the connection ends.
 *
 * Polling.  As for a tap the queue is event-driven: rx is called while q->ready, which it clears when
 * the kernel says EAGAIN.  EPOLLOUT is waited for only while there is a rest.
 *
 * Threads.  in, from, to, skip: the worker that has the queue.  rest: under the lock.  Control changes fd
 * only while `up` is false and after a barrier.  Which worker sends does not matter; the lock is held for
 * non-blocking system calls at most.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/burst_lock.h"
#include "base/log.h"
#include "pkt/lend.h"
#include "port/kinds.h"
#include "port/sock_out.h"
#include "vhost/vu_meet.h"

#define PREFIX   4
#define IN_SIZE  (256u << 10)
#define SKIP_MAX (1u << 20) /* a frame longer than this is no frame */
static_assert(IN_SIZE >= 2 * (PREFIX + PKT_MAX_LEN), "what is incomplete leaves room to read");

/* Why the worker will read no more of a connection. */
enum over { OVER_NOT, OVER_CLOSED, OVER_BROKEN, OVER_LOST };

struct port_stream {
    struct port port; /* first: a struct port * is a struct port_stream * */
    struct rxq q;     /* q.fd is the connection */
    struct vu_meet *meet;
    struct event *writable; /* NULL while there is no connection */
    bool up;                /* written by control, read by workers: q.fd may be used */
    enum over over;         /* the worker found the end, and asked for control */
    int code;               /* with OVER_BROKEN */
    uint64_t n_connects;
    char last_error[480];
    /* the worker that has the queue */
    uint8_t *in;
    uint32_t from, to; /* what is not used up yet */
    uint32_t skip;     /* bytes to come that belong to a giant */
    /* under the lock */
    uint32_t lock CACHE_ALIGNED;
    uint32_t rest_at, rest_len;
    uint8_t rest[PREFIX + PKT_MAX_LEN];
};

static struct port_stream *stream_of(struct port *p)
{
    return container_of(p, struct port_stream, port);
}

/* ---- worker: receive ---------------------------------------------------------------------------- */

static void end_here(struct port_stream *s, enum over why, int code)
{
    s->q.ready = false;
    s->code = code;
    store_release(&s->over, why);
    s->port.env->post(s->port.env->ctx, &s->port);
}

/* Read more behind what is incomplete; false: there is nothing. */
static bool refill(struct port_stream *s, struct wctx *w)
{
    if (s->from) {
        memmove(s->in, s->in + s->from, s->to - s->from);
        s->to -= s->from;
        s->from = 0;
    }
    ssize_t n = recv(s->q.fd, s->in + s->to, IN_SIZE - s->to, MSG_DONTWAIT);

    if (n > 0) {
        s->to += (uint32_t)n;
        w->spent += (uint64_t)n + SOCK_CALL_COST;
        return true;
    }
    if (n == 0) {
        end_here(s, OVER_CLOSED, 0);
    } else if (errno == EAGAIN) {
        s->q.ready = false;
    } else if (errno != EINTR) {
        end_here(s, OVER_BROKEN, errno);
    }
    return false;
}

static uint32_t take_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Up to a burst of what is complete, of giants their beginning. */
static void take_frames(struct port_stream *s, struct batch *b, struct wctx *w)
{
    while (b->n_loans < PKT_BURST) {
        uint32_t skipped = MIN(s->skip, s->to - s->from);

        s->skip -= skipped;
        s->from += skipped;
        if (s->skip || s->to - s->from < PREFIX) {
            return;
        }
        uint32_t len = take_be32(s->in + s->from);
        if (unlikely(len > PKT_MAX_LEN)) {
            port_count_drop(&s->port, w, DROP_GIANT, 1);
            b->n_loans++;
            s->skip = len;
            s->from += PREFIX;
            if (len > SKIP_MAX) {
                end_here(s, OVER_LOST, 0);
                return;
            }
            continue;
        }
        if (s->to - s->from - PREFIX < len) {
            return;
        }
        b->n_loans++;
        if (unlikely(len < PKT_MIN_LEN)) {
            port_count_drop(&s->port, w, DROP_RUNT, 1);
        } else {
            pkt_lend(b, s->in + s->from + PREFIX, len);
        }
        s->from += PREFIX + len;
    }
}

static uint32_t stream_rx(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct port_stream *s = container_of(q, struct port_stream, q);
    struct port_counters *c = &s->port.counters[w->id];
    uint64_t bytes = 0;

    if (unlikely(s->over != OVER_NOT)) {
        q->ready = false;
        return 0;
    }
    take_frames(s, b, w);
    if (!b->n_loans && refill(s, w)) {
        take_frames(s, b, w);
    }
    if (unlikely(read_once(&s->port.down))) {
        port_count_drop(&s->port, w, DROP_LINK_DOWN, b->n);
        b->n = 0;
        return 0;
    }
    for (uint32_t i = 0; i < b->n; i++) {
        bytes += b->pkt[i].len;
    }
    write_once(&c->rx_frames, c->rx_frames + b->n);
    write_once(&c->rx_bytes, c->rx_bytes + bytes);
    return b->n;
}

static void stream_rx_done(struct rxq *q, struct batch *b, struct wctx *w)
{
    /* The loans are this port's own buffer: the next rx may overwrite it. */
}

static bool stream_arm(struct rxq *q)
{
    return q->ready; /* the fd is watched edge-triggered: it is always armed */
}

static void stream_disarm(struct rxq *q)
{
}

/* ---- send: workers, and control for the rest of a frame ----------------------------------------- */

/* Under the lock: 0 if there is no rest any more, or -errno. */
static int send_rest(struct port_stream *s)
{
    while (s->rest_at < s->rest_len) {
        ssize_t n = send(s->q.fd, s->rest + s->rest_at, s->rest_len - s->rest_at,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        s->rest_at += (uint32_t)MAX(n, 0);
    }
    return 0;
}

/* Under the lock: the kernel took `done` bytes of this frame; keep the others. */
static void keep_rest(struct port_stream *s, const struct sock_out *o, const struct sock_frame *f,
                      size_t done)
{
    s->rest_at = s->rest_len = 0;
    for (unsigned i = 0; i < f->n_iov; i++) {
        const struct iovec *v = &o->iov[f->iov + i];
        size_t skip = MIN(done, v->iov_len);

        done -= skip;
        if (v->iov_len > skip) {
            copy_bytes(s->rest + s->rest_len, (const uint8_t *)v->iov_base + skip,
                       (uint32_t)(v->iov_len - skip));
            s->rest_len += (uint32_t)(v->iov_len - skip);
        }
    }
}

static enum drop drop_of(int code)
{
    switch (code) {
    case EAGAIN:
    case EINTR:
    case ENOBUFS:
        return DROP_TX_FULL;
    case EPIPE:
    case ECONNRESET:
        return DROP_NOT_READY;
    default:
        return DROP_TX_ERROR;
    }
}

/* Nothing of these frames went. */
static void refuse(struct sock_out *o, int code)
{
    for (unsigned i = 0; code == EFAULT && i < o->n; i++) {
        pkt_touch(o->frame[i].p);
    }
    sock_out_lost(o, 0, o->n, drop_of(code));
    o->closed = code == EFAULT ? DROP_N : drop_of(code);
}

/* Under the lock: the kernel took so many bytes of all frames. True if it left a rest. */
static bool settle(struct port_stream *s, struct sock_out *o, size_t taken)
{
    size_t sum = 0;
    unsigned i = 0;

    while (i < o->n && sum + PREFIX + o->frame[i].len <= taken) {
        sum += PREFIX + o->frame[i++].len;
    }
    bool part = sum < taken;
    if (part) {
        keep_rest(s, o, &o->frame[i++], taken - sum);
    }
    sock_out_sent(o, 0, i);
    if (i < o->n) {
        sock_out_lost(o, i, o->n, DROP_TX_FULL);
    }
    o->closed = part || i < o->n ? DROP_TX_FULL : DROP_N;
    return part;
}

static void stream_send(struct sock_out *o)
{
    struct port_stream *s = stream_of(o->port);
    struct msghdr m = {.msg_iov = o->iov, .msg_iovlen = o->n_iov};
    bool part = false;

    burst_lock(&s->lock, true);
    int rc = send_rest(s);
    ssize_t n = rc ? 0 : sendmsg(s->q.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (rc || n < 0) {
        refuse(o, rc ? -rc : errno);
    } else {
        part = settle(s, o, (size_t)n);
    }
    burst_unlock(&s->lock, true);
    if (part) {
        s->port.env->post(s->port.env->ctx, &s->port);
    }
}

static void stream_tx(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n, struct wctx *w)
{
    struct sock_out *o = w->tx_scratch;

    if (unlikely(read_once(&p->down) || !load_acquire(&stream_of(p)->up))) {
        port_count_drop(p, w, read_once(&p->down) ? DROP_LINK_DOWN : DROP_NOT_READY, n);
        return;
    }
    o->port = p;
    o->w = w;
    o->prefixed = true;
    o->send = stream_send;
    sock_out_batch(o, b, idx, n);
}

/* ---- control: a connection ---------------------------------------------------------------------- */

static void update_ready(struct port_stream *s)
{
    s->port.env->ready(s->port.env->ctx, &s->port, s->up && !s->port.down);
}

static bool has_rest(struct port_stream *s)
{
    burst_lock(&s->lock, true);
    int rc = send_rest(s);
    burst_unlock(&s->lock, true);
    return rc == -EAGAIN || rc == -ENOBUFS || rc == -ENOMEM; /* anything else: rx finds the end */
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct port_stream *s = arg;

    if (has_rest(s)) {
        event_add(s->writable, NULL);
    }
}

static void disconnect(struct port_stream *s, const char *why)
{
    const struct port_env *env = s->port.env;

    if (s->q.fd < 0) {
        return;
    }
    snprintf(s->last_error, sizeof(s->last_error), "%s", why);
    log_info_limited("port %s: peer gone: %s", s->port.name, why);
    write_once(&s->up, false);
    update_ready(s);
    if (s->q.worker) {
        env->detach(env->ctx, &s->q); /* a barrier: nobody sends either */
    } else {
        env->barrier(env->ctx);
    }
    if (s->writable) {
        event_free(s->writable);
        s->writable = NULL;
    }
    close(s->q.fd);
    s->q.fd = -1;
    if (s->meet) {
        vu_meet_parted(s->meet);
    }
}

static bool on_met(void *ctx, int fd, const struct vu_peer *peer)
{
    struct port_stream *s = ctx;
    const struct port_env *env = s->port.env;
    struct err e = {0};

    s->q = (struct rxq){.port = &s->port, .fd = fd, .event_driven = true};
    s->over = OVER_NOT;
    s->from = s->to = s->skip = s->rest_at = s->rest_len = 0;
    s->writable = event_new(env->evbase, fd, EV_WRITE, on_writable, s);
    int rc = s->writable ? env->attach(env->ctx, &s->q, &e) : err_set(&e, -ENOMEM, "out of memory");

    if (rc) {
        log_error("port %s: cannot serve a peer: %s", s->port.name, e.text);
        if (s->writable) {
            event_free(s->writable);
            s->writable = NULL;
        }
        close(fd);
        s->q.fd = -1;
        return false;
    }
    s->n_connects++;
    log_info_limited("port %s: peer connected: process %ld (%s)", s->port.name, (long)peer->pid,
                     peer->comm);
    store_release(&s->up, true);
    update_ready(s);
    return true;
}

static bool on_second(void *ctx)
{
    struct port_stream *s = ctx;

    if (!vu_meet_hung_up(s->q.fd)) {
        return false;
    }
    disconnect(s, "it closed the connection");
    return true;
}

static void on_missed(void *ctx, const struct err *why)
{
    struct port_stream *s = ctx;

    snprintf(s->last_error, sizeof(s->last_error), "%s", why->text);
}

static const struct vu_meet_ops meet_ops = {.met = on_met, .left = on_second, .missed = on_missed};

/* A worker found the end of a connection, or left a rest. */
static void stream_event(struct port *p)
{
    struct port_stream *s = stream_of(p);
    char why[sizeof(s->last_error)];

    if (s->q.fd < 0) {
        return;
    }
    switch (load_acquire(&s->over)) {
    case OVER_NOT:
        if (has_rest(s)) {
            event_add(s->writable, NULL);
        }
        break;
    case OVER_CLOSED:
        disconnect(s, "it closed the connection");
        break;
    case OVER_BROKEN:
        snprintf(why, sizeof(why), "cannot read: %s", strerror(s->code));
        disconnect(s, why);
        break;
    case OVER_LOST:
        log_warn_limited("port %s: %u bytes long is no frame: the peer does not speak the protocol of "
                         "-netdev stream; ended its connection",
                         p->name, s->skip);
        disconnect(s, "it sent a length that no frame has: another protocol?");
        break;
    }
}

/* ---- control: life ------------------------------------------------------------------------------ */

static void set_mtu(struct port_stream *s, uint64_t mtu)
{
    write_once(&s->port.max_len, port_mtu_len((uint32_t)mtu));
}

static int stream_set(struct port *p, const char *key, const char *value, struct err *e)
{
    if (!strcmp(key, "mtu")) {
        set_mtu(stream_of(p), strtoul(value, NULL, 10));
    } else { /* link */
        write_once(&p->down, !strcmp(value, "down"));
        update_ready(stream_of(p));
    }
    return 0;
}

static void stream_destroy(struct port *p)
{
    struct port_stream *s = stream_of(p);

    disconnect(s, "the port was removed");
    vu_meet_destroy(s->meet);
    free(s->in);
    port_fini(p);
    free(s);
}

static int stream_listen(struct port_stream *s, const struct port_conf *c, struct err *e)
{
    const struct port_env *env = s->port.env;
    const char *client = port_conf_get(c, "client"), *path = port_conf_get(c, "path");
    struct vu_meet_conf m = {.name = c->name,
                             .whom = "peer",
                             .client = client != NULL,
                             .owner = port_conf_owner(c),
                             .group = port_conf_group(c),
                             .mode = port_conf_mode(c)};
    char *made = client || path ? NULL : port_socket_path(env, c, "");

    m.path = client ? client : path ? path : made;
    int rc = m.path ? vu_meet_create(&s->meet, &m, &meet_ops, s, env->evbase, e)
                    : err_set(e, -ENOMEM, "out of memory");
    free(made);
    return rc;
}

static int stream_create(struct port **out, const struct port_conf *c, const struct port_env *env,
                         struct err *e)
{
    struct port_stream *s = aligned_alloc(CACHE_LINE, sizeof(*s));

    if (!s) {
        return err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    memset(s, 0, sizeof(*s));
    s->q.fd = -1;
    int rc = port_init(&s->port, &port_qemu_stream_ops, c, env, e);
    if (rc) {
        free(s);
        return rc;
    }
    set_mtu(s, port_conf_number(c, "mtu", UINT16_MAX));
    s->in = malloc(IN_SIZE);
    rc = s->in ? stream_listen(s, c, e) : err_set(e, -ENOMEM, "out of memory");
    if (rc) {
        stream_destroy(&s->port);
        return err_prefix(e, "port %s", c->name);
    }
    *out = &s->port;
    return 0;
}

static void stream_show(const struct port *p, json_t *o)
{
    const struct port_stream *s = stream_of((struct port *)(uintptr_t)p);
    bool client = port_conf_get(&p->conf, "client");

    json_object_set_new(o, "socket", json_string(vu_meet_path(s->meet)));
    json_object_set_new(o, "role", json_string(client ? "client" : "server"));
    json_object_set_new(o, "state", json_string(vu_meet_state(s->meet)));
    json_object_set_new(o, "peer_pid", json_integer(vu_meet_peer(s->meet)->pid));
    json_object_set_new(o, "connects", json_integer((json_int_t)s->n_connects));
    json_object_set_new(o, "last_error", *s->last_error ? json_string(s->last_error) : json_null());
}

static const struct port_option_def stream_options[] = {
    {"client", "connect to the QEMU that listens on this socket (server=on), and reconnect",
     .type = PORT_PATH},
    {"path", "listen on this socket (default RUNDIR/NAME.sock)", .type = PORT_PATH},
    PORT_OPTIONS_SOCKET,
    {"mtu", "largest IP packet sent to the peer, bytes (default 65535)", .changeable = true,
     .type = PORT_NUMBER, .min = 68, .max = 65535},
    PORT_OPTION_LINK,
    {"mac", "the guest's address, for the printed arguments", .type = PORT_MAC},
    {NULL},
};

const struct port_ops port_qemu_stream_ops = {
    .kind = "qemu-stream",
    .help = "a UNIX socket for QEMU's -netdev stream: a card that QEMU emulates (e1000, rtl8139, ...)",
    .options = stream_options,
    .check = port_check_client,
    .create = stream_create,
    .destroy = stream_destroy,
    .rx = stream_rx,
    .rx_done = stream_rx_done,
    .tx = stream_tx,
    .arm = stream_arm,
    .disarm = stream_disarm,
    .set = stream_set,
    .event = stream_event,
    .show = stream_show,
};
