/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user front-end port: the half that moves frames.  Compiled once per machine level (base/cpu.h).
 *
 *   rx   used receive slots come back; first bytes to the snapshot, the rest is lent from the slot.
 *        The loan is the slot; rx_done posts it again.
 *   tx   a free transmit slot, the one copy into it, posted; all of a call are published at once.
 *
 * The layout of the rings is looked at once per call.
 */
#include <string.h>

#include "base/burst_lock.h"
#include "pkt/flowhash.h"
#include "pkt/segment_put.h"
#include "port/port_virtio.h"

#define RX_AHEAD 6 /* slots are prefetched so many frames before they are read */

static struct port_virtio *virtio_of(struct port *p)
{
    return container_of(p, struct port_virtio, port);
}

/* The back-end wrote nonsense into a ring: have the control thread hang up. */
static COLD void tell_broken(struct port *p)
{
    p->env->post(p->env->ctx, p);
}

static ALWAYS_INLINE void publish(const enum ring_layout l, struct vu_fe_ring *r, struct wctx *w)
{
    if (ring_drv_publish(l, &r->drv)) {
        wctx_signal(w, r->kick_fd);
    }
}

/* ---- from the back-end ------------------------------------------------------------------------- */

/* The frame whose buffers are used[0 .. n), of which the first is in the snapshot at room. DROP_N, or
 * why it goes no further. */
static ALWAYS_INLINE int rx_frame(const struct virtio_pair *v, struct batch *b, struct pkt *p,
                                  uint8_t *room, const struct ring_drv_used *used, uint32_t n)
{
    const uint32_t snap = MIN(used->len, (uint32_t)PKT_SNAP);
    struct gspan *spans = &b->spans[b->n_spans];
    uint64_t total = used->len;
    uint32_t n_spans = 0;
    struct vnet_hdr said;

    if (used->len > snap) {
        spans[n_spans++] = (struct gspan){(const uint8_t GUEST *)used->token + snap, used->len - snap};
    }
    for (uint32_t i = 1; i < n; i++) {
        total += used[i].len;
        if (used[i].len) {
            spans[n_spans++] = (struct gspan){(const uint8_t GUEST *)used[i].token, used[i].len};
        }
    }
    if (unlikely(total - (VNET_HDR_LEN + PKT_MIN_LEN) > PKT_MAX_LEN - PKT_MIN_LEN)) { /* both ends */
        return total < VNET_HDR_LEN                 ? DROP_NO_HEADER
               : total < VNET_HDR_LEN + PKT_MIN_LEN ? DROP_RUNT
                                                    : DROP_GIANT;
    }
    p->data = room + VNET_HDR_LEN;
    p->len = (uint32_t)total - VNET_HDR_LEN;
    p->shape = n_spans;
    p->snap_len = (uint16_t)(snap - VNET_HDR_LEN);
    p->span = spans[0];
    p->spans = spans;
    b->n_spans += n_spans > 1 ? n_spans : 0;
    memcpy(&said, room, sizeof(said));
    if (likely(!(said.flags & VNET_F_NEEDS_CSUM) && !said.gso_type)) {
        pkt_plain_header(p->data);
        return DROP_N;
    }
    return offload_check(p, &said, v->sends);
}

static ALWAYS_INLINE uint32_t rx(const enum ring_layout l, struct virtio_pair *v, struct batch *b,
                                 struct wctx *w)
{
    struct virtio_rx_scratch *s = w->rx_scratch;
    struct port *port = v->q.port;
    struct port_counters *c = &port->counters[w->id];
    uint32_t n = ring_drv_reap(l, &v->s.rx->drv, s->used, PKT_BURST), at = 0;
    uint64_t bytes = 0;

    b->n = b->n_spans = 0;
    for (uint32_t i = 0; i < MIN(n, (uint32_t)RX_AHEAD); i++) {
        __builtin_prefetch(s->used[i].token);
    }
    while (at < n) {
        uint8_t *room = batch_snap(b, b->n);
        struct ring_drv_used *used = &s->used[at];
        uint32_t have = n - at;

        if (likely(at + RX_AHEAD < n)) {
            __builtin_prefetch(s->used[at + RX_AHEAD].token);
        }
        copy_snapshot(room, used->token, MIN(used->len, (uint32_t)PKT_SNAP));
        uint32_t k = vu_slots_frame(l, &v->s, room, PKT_SNAP, used, &have);
        int why = likely(k) ? rx_frame(v, b, &b->pkt[b->n], room, used, k) : DROP_BAD_CHAIN;

        n = at + have;
        at += k ? k : have; /* where the next frame begins is not known then */
        if (likely(why == DROP_N)) {
            bytes += b->pkt[b->n++].len;
        } else {
            port_count_drop(port, w, (enum drop)why, 1);
        }
    }
    b->n_loans = n;
    if (unlikely(v->s.rx->drv.broken)) {
        tell_broken(port);
    }
    if (unlikely(read_once(&port->down))) {
        port_count_drop(port, w, DROP_LINK_DOWN, b->n);
        b->n = 0;
        return 0;
    }
    write_once(&c->rx_frames, c->rx_frames + b->n);
    write_once(&c->rx_bytes, c->rx_bytes + bytes);
    return b->n;
}

uint32_t HOT(port_virtio_rx)(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct virtio_pair *v = container_of(q, struct virtio_pair, q);

    return likely(v->s.rx->drv.layout == RING_SPLIT) ? rx(RING_SPLIT, v, b, w)
                                                   : rx(RING_PACKED, v, b, w);
}

static ALWAYS_INLINE void rx_done(const enum ring_layout l, struct virtio_pair *v, uint32_t n,
                                  struct wctx *w)
{
    const struct virtio_rx_scratch *s = w->rx_scratch;

    for (uint32_t i = 0; i < n; i++) {
        ring_drv_repost(l, &v->s.rx->drv, s->used[i].id);
    }
    publish(l, v->s.rx, w);
}

void HOT(port_virtio_rx_done)(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct virtio_pair *v = container_of(q, struct virtio_pair, q);

    if (likely(v->s.rx->drv.layout == RING_SPLIT)) {
        rx_done(RING_SPLIT, v, b->n_loans, w);
    } else {
        rx_done(RING_PACKED, v, b->n_loans, w);
    }
}

/* ---- to the back-end --------------------------------------------------------------------------- */

/* What was sent in one call. */
struct tx_sum {
    uint32_t frames;
    uint64_t bytes;
};

/* num_buffers is 0 on this way (virtio 1.4, 5.1.9.2). */
static ALWAYS_INLINE void no_buffers(uint8_t *d)
{
    memset(d + offsetof(struct vnet_hdr, num_buffers), 0, 2);
}

static ALWAYS_INLINE int send_whole(const enum ring_layout l, struct virtio_pair *v,
                                    const struct pkt *p, struct tx_sum *sum)
{
    const struct gspan *s = pkt_spans(p);
    uint32_t head = VNET_HDR_LEN + p->snap_len;
    uint8_t *d = vu_slots_take(l, &v->s, VNET_HDR_LEN + p->len);

    if (unlikely(!d)) {
        return DROP_TX_FULL;
    }
    copy_bytes(d, p->data - VNET_HDR_LEN, head);
    no_buffers(d);
    d += head;
    for (uint32_t i = 0; i < p->n_spans; i++) {
        copy_bytes(d, GUEST_PTR(const void, s[i].p), s[i].len);
        d += s[i].len;
    }
    sum->frames++;
    sum->bytes += p->len;
    return DROP_N;
}

/* A frame in pieces that the back-end takes. */
static ALWAYS_INLINE int send_segments(const enum ring_layout l, struct virtio_pair *v,
                                       const struct pkt *p, struct virtio_tx_scratch *t,
                                       struct tx_sum *sum)
{
    struct segment *seg = &t->segment;
    int why = segmenter_init(&t->segmenter, p, v->takes);

    while (why == DROP_N && segmenter_next(&t->segmenter, seg)) {
        uint8_t *d = vu_slots_take(l, &v->s, VNET_HDR_LEN + seg->head_len + seg->len);

        if (unlikely(!d)) {
            return DROP_TX_FULL;
        }
        segment_put(d, VNET_HDR_LEN, p, seg, seg->sum_at);
        no_buffers(d);
        sum->frames++;
        sum->bytes += seg->head_len + seg->len;
    }
    return why;
}

static ALWAYS_INLINE void tx(const enum ring_layout l, struct port *port, struct virtio_pair *v,
                             const struct batch *b, const uint8_t *idx, uint32_t n, struct wctx *w)
{
    struct port_counters *c = &port->counters[w->id];
    const uint32_t max_len = read_once(&port->max_len);
    struct tx_sum sum = {0};

    burst_lock(&v->lock, v->shared);
    vu_slots_reclaim(l, &v->s);
    for (uint32_t i = 0; i < n; i++) {
        const struct pkt *p = &b->pkt[idx[i]];
        int why;

        if (unlikely(max_len < PKT_MAX_LEN && offload_too_long(p, max_len))) {
            why = DROP_MTU;
        } else if (likely(!(p->offload & ~v->takes))) {
            why = send_whole(l, v, p, &sum);
        } else {
            why = send_segments(l, v, p, w->tx_scratch, &sum);
        }
        if (unlikely(why != DROP_N)) {
            port_count_drop(port, w, (enum drop)why, 1);
        }
    }
    publish(l, v->s.tx, w);
    bool broken = v->s.tx->drv.broken;
    burst_unlock(&v->lock, v->shared);
    if (unlikely(broken)) {
        tell_broken(port);
    }
    write_once(&c->tx_frames, c->tx_frames + sum.frames);
    write_once(&c->tx_bytes, c->tx_bytes + sum.bytes);
    w->spent += sum.bytes;
}

static void tx_pair(struct port *port, struct virtio_pair *v, const struct batch *b,
                    const uint8_t *idx, uint32_t n, struct wctx *w)
{
    if (likely(v->s.tx->drv.layout == RING_SPLIT)) {
        tx(RING_SPLIT, port, v, b, idx, n, w);
    } else {
        tx(RING_PACKED, port, v, b, idx, n, w);
    }
}

/* A flow keeps its pair. */
static NOINLINE void tx_spread(struct port *port, const struct virtio_out *o, struct batch *b,
                               const uint8_t *idx, uint32_t n, struct wctx *w)
{
    uint8_t list[PKT_BURST];

    flow_hash_batch(b);
    for (uint32_t pair = 0; pair < o->n; pair++) {
        uint32_t k = 0;

        for (uint32_t i = 0; i < n; i++) {
            if ((uint64_t)b->hash[idx[i]] * o->n >> 32 == pair) {
                list[k++] = idx[i];
            }
        }
        if (k) {
            tx_pair(port, &o->pair[pair], b, list, k, w);
        }
    }
}

void HOT(port_virtio_tx)(struct port *port, struct batch *b, const uint8_t *idx, uint32_t n,
                         struct wctx *w)
{
    const struct virtio_out *o = load_acquire(&virtio_of(port)->out);

    if (unlikely(!o || read_once(&port->down))) {
        port_count_drop(port, w, read_once(&port->down) ? DROP_LINK_DOWN : DROP_NOT_READY, n);
    } else if (likely(o->n == 1)) {
        tx_pair(port, o->pair, b, idx, n, w);
    } else {
        tx_spread(port, o, b, idx, n, w);
    }
}
