/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user port: runs the rings of a vhost-user front-end (QEMU, cloud-hypervisor, virtio-user).
 *
 * Two halves.  The control half (bottom of the file) answers vu_dev's callbacks: it builds a struct
 * vq per running ring, hands transmit rings (odd index) to a worker and publishes receive rings
 * (even index) for egress.  The hot half (port_vhost_rx, port_vhost_tx) moves frames:
 *
 *   rx   passes over a burst: chains (ring_dev_peek), translate and prefetch, snapshot.  The loan is
 *        the chain; rx_done commits it.
 *   tx   passes over the packets of one call: chains, translate and prefetch, copy, commit.
 *
 * Both have one fast form (a chain of one segment inside one region) written out in the loop and one
 * general form for everything else.
 *
 * Who may touch a vq: the worker that its rxq is attached to (transmit rings), or the holder of
 * vq->lock (receive rings).  The control thread only after detach or barrier.
 */
#include "port/port.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "base/log.h"
#include "pkt/copy.h"
#include "port/kinds.h"
#include "ring/ring.h"
#include "vhost/vu_backend.h"
#include "vnet/features.h"
#include "vnet/vnet_hdr.h"

#define MAX_PAIRS (VU_MAX_RINGS / 2)

/* A running virtqueue. Lives from ring_start to ring_stop. */
struct vq {
    struct ring ring;
    struct rxq rxq; /* transmit rings: what the worker polls */
    uint32_t hdr_len;
    bool mergeable;
    uint32_t lock; /* receive rings: one writer at a time */
    int call_fd;   /* replaced by the control thread; -1: no signals */
    bool reported; /* control: its fault was told */
} CACHE_ALIGNED;

struct port_vhost {
    struct port port;
    struct vu_dev *dev;
    struct vq *out[MAX_PAIRS];    /* running receive rings; read by workers */
    struct vq *vq[VU_MAX_RINGS];  /* all running rings; control thread */
    uint16_t mtu_conf;            /* mtu= option, 0 if not given */
};

static struct port_vhost *vhost_of(struct port *p)
{
    return container_of(p, struct port_vhost, port);
}

static_assert(sizeof(struct ring_burst) <= WCTX_SCRATCH, "scratch holds a burst");

/* ---- hot half: from the guest ------------------------------------------------------------------ */

/* What became of one chain. */
enum { LENT = DROP_N };

static const enum drop rx_fault_drop[RING_N_FAULTS] = {
    [RING_FAULT_NEXT_RANGE] = DROP_BAD_CHAIN,     [RING_FAULT_CHAIN_LONG] = DROP_BAD_CHAIN,
    [RING_FAULT_INDIRECT_BAD] = DROP_BAD_CHAIN,   [RING_FAULT_INDIRECT_UNMAPPED] = DROP_UNMAPPED,
    [RING_FAULT_DIRECTION] = DROP_BAD_CHAIN,      [RING_FAULT_UNMAPPED] = DROP_UNMAPPED,
};

/* The snapshot holds hdr_len + snap_len bytes; check the header there and fill in *p. */
static ALWAYS_INLINE int rx_finish(struct vq *vq, struct pkt *p, uint8_t *hdr, uint32_t snap,
                                   uint32_t total)
{
    if (unlikely((hdr[0] & VNET_F_NEEDS_CSUM) || hdr[1] != VNET_GSO_NONE)) {
        return DROP_OFFLOAD;
    }
    p->data = hdr + vq->hdr_len;
    p->len = total - vq->hdr_len;
    p->snap_len = (uint16_t)(snap - vq->hdr_len);
    p->vh = (struct vnet_hdr){0};
    return LENT;
}

static ALWAYS_INLINE int rx_check_len(const struct vq *vq, uint64_t total)
{
    if (unlikely(total < vq->hdr_len + PKT_MIN_LEN)) {
        return total < vq->hdr_len ? DROP_NO_HEADER : DROP_RUNT;
    }
    return unlikely(total > vq->hdr_len + PKT_MAX_LEN) ? DROP_GIANT : LENT;
}

/* One segment in one region: the form that drivers use. */
static ALWAYS_INLINE int rx_fast(struct vq *vq, struct pkt *p, uint8_t *room,
                                 const uint8_t GUEST *va, uint32_t total)
{
    int r = rx_check_len(vq, total);

    if (unlikely(r != LENT)) {
        return r;
    }
    uint32_t snap = MIN(total, (uint32_t)PKT_SNAP);
    uint8_t *hdr = room + VNET_HDR_LEN - vq->hdr_len;

    copy_bytes(hdr, GUEST_PTR(const void, va), snap);
    p->n_spans = total > snap;
    p->span = (struct gspan){va + snap, total - snap};
    return rx_finish(vq, p, hdr, snap, total);
}

/* Any chain: segments of any length, in any regions. */
static NOINLINE int rx_general(struct vq *vq, const struct gmem *mem, struct batch *b,
                               struct pkt *p, uint8_t *room, const struct ring_burst *rb,
                               const struct ring_chain *c)
{
    const struct ring_seg *seg = c->n_seg > 1 ? &rb->pool[c->pool] : &c->seg;
    uint8_t *hdr = room + VNET_HDR_LEN - vq->hdr_len;
    struct gspan *spans = &b->spans[b->n_spans];
    uint32_t snap = 0, n_spans = 0;
    uint64_t total = 0;

    for (uint32_t i = 0; i < c->n_seg; i++) {
        for (uint32_t at = 0; at < seg[i].len;) {
            uint32_t len = seg[i].len - at;
            const uint8_t GUEST *va = gmem_span(mem, &vq->ring.hint, (gpa_t){seg[i].addr + at},
                                                &len);

            if (!va) {
                return DROP_UNMAPPED;
            }
            at += len;
            total += len;
            uint32_t head = MIN(len, (uint32_t)PKT_SNAP - snap);
            copy_bytes(hdr + snap, GUEST_PTR(const void, va), head);
            snap += head;
            if (len > head) {
                if (b->n_spans + n_spans == PKT_MAX_SPANS) {
                    return DROP_BAD_CHAIN;
                }
                spans[n_spans++] = (struct gspan){va + head, len - head};
            }
        }
    }
    int r = rx_check_len(vq, total);
    if (r != LENT) {
        return r;
    }
    p->n_spans = (uint16_t)n_spans;
    p->spans = spans;
    if (n_spans == 1) {
        p->span = spans[0];
    } else {
        b->n_spans += n_spans;
    }
    return rx_finish(vq, p, hdr, snap, (uint32_t)total);
}

static void count_rx(struct port *port, const struct wctx *w, uint32_t frames, uint64_t bytes)
{
    struct port_counters *c = &port->counters[w->id];

    write_once(&c->rx_frames, c->rx_frames + frames);
    write_once(&c->rx_bytes, c->rx_bytes + bytes);
}

/* The peer's memory file shrank under us, or its ring is corrupt: have the control thread stop it. */
static COLD void check_faults(struct port *port, struct vq *vq)
{
    struct ring *r = &vq->ring;

    if (r->fault_seq != gmem_fault_seq()) {
        r->fault_seq = gmem_fault_seq();
        if (gmem_faulted(read_once(&r->mem))) {
            write_once(&r->broken, (uint8_t)RING_FAULT_MEMORY_GONE);
        }
    }
    if (r->broken) {
        port->env->post(port->env->ctx, port);
    }
}

static ALWAYS_INLINE bool maybe_faulty(const struct ring *r)
{
    return unlikely(r->fault_seq != gmem_fault_seq() || r->broken);
}

static CPU_CLONES uint32_t port_vhost_rx(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct vq *vq = container_of(q, struct vq, rxq);
    struct ring_burst *rb = w->rx_scratch;
    const struct gmem *mem = load_acquire(&vq->ring.mem);
    const uint8_t GUEST *va[PKT_BURST];
    uint32_t n = ring_dev_peek(RING_SPLIT, &vq->ring, rb, PKT_BURST), out = 0;
    uint64_t bytes = 0;

    b->n_loans = n;
    if (unlikely(!n)) {
        if (maybe_faulty(&vq->ring)) {
            check_faults(q->port, vq);
        }
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct ring_chain *c = &rb->chain[i];
        uint32_t len = c->seg.len;

        va[i] = gmem_span(mem, &vq->ring.hint, (gpa_t){c->seg.addr}, &len);
        if (unlikely(c->n_seg != 1 || len != c->seg.len)) {
            va[i] = NULL;
        }
        __builtin_prefetch(GUEST_PTR(const void, va[i]));
        __builtin_prefetch(GUEST_PTR(const void, va[i]) + 64);
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct ring_chain *c = &rb->chain[i];
        struct pkt *p = &b->pkt[out];
        int r;

        if (likely(va[i] != NULL)) {
            r = rx_fast(vq, p, batch_snap(b, out), va[i], c->seg.len);
        } else if (c->fault) {
            r = rx_fault_drop[c->fault];
        } else {
            r = rx_general(vq, mem, b, p, batch_snap(b, out), rb, c);
        }
        if (unlikely(r != LENT)) {
            port_count_drop(q->port, w, (enum drop)r, 1);
            continue;
        }
        bytes += p->len;
        out++;
    }
    b->n = out;
    count_rx(q->port, w, out, bytes);
    return out;
}

static void port_vhost_rx_done(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct vq *vq = container_of(q, struct vq, rxq);

    if (ring_dev_commit(RING_SPLIT, &vq->ring, w->rx_scratch, b->n_loans, NULL)) {
        int fd = read_once(&vq->call_fd);
        if (fd >= 0) {
            wctx_signal(w, fd);
        }
    }
    if (maybe_faulty(&vq->ring)) {
        check_faults(q->port, vq);
    }
}

/* ---- hot half: to the guest -------------------------------------------------------------------- */

/* Write position in the chains of one burst. */
struct out_pos {
    const struct ring_burst *rb;
    struct vq *vq;
    const struct gmem *mem;
    uint32_t chain, end; /* chains [.., end) may be used */
    uint32_t seg, at;    /* in the present chain */
    uint32_t *lens;
};

static const struct ring_seg *chain_segs(const struct ring_burst *rb, const struct ring_chain *c)
{
    return c->n_seg > 1 ? &rb->pool[c->pool] : &c->seg;
}

/* Copy len bytes to the write position; false if a buffer is not in the guest's memory. The caller
 * made sure that there is room. */
static bool out_bytes(struct out_pos *o, const void *src, uint32_t len)
{
    const uint8_t *s = src;

    while (len) {
        const struct ring_chain *c = &o->rb->chain[o->chain];

        if (o->seg == c->n_seg) {
            o->chain++;
            o->seg = 0;
            o->at = 0;
            continue;
        }
        const struct ring_seg *seg = &chain_segs(o->rb, c)[o->seg];
        uint32_t n = MIN(len, seg->len - o->at);

        if (!n) {
            o->seg++;
            o->at = 0;
            continue;
        }
        uint8_t GUEST *va = gmem_span(o->mem, &o->vq->ring.hint, (gpa_t){seg->addr + o->at}, &n);
        if (!va) {
            return false;
        }
        copy_bytes(GUEST_PTR(void, va), s, n);
        o->lens[o->chain] += n;
        o->at += n;
        s += n;
        len -= n;
    }
    return true;
}

static uint64_t chain_capacity(const struct ring_burst *rb, const struct ring_chain *c)
{
    const struct ring_seg *seg = chain_segs(rb, c);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < c->n_seg; i++) {
        sum += seg[i].len;
    }
    return sum;
}

/* How one packet ended: chains used up (0: none), and LENT or the drop reason. */
struct tx_result {
    uint32_t n_chains;
    int why;
    bool need_more; /* with more chains than were peeked it might fit */
};

/* Any packet into any chains from `at` on; several chains if buffers may be merged. */
static NOINLINE struct tx_result tx_general(struct vq *vq, const struct gmem *mem,
                                            const struct ring_burst *rb, uint32_t at,
                                            struct pkt *p, uint32_t *lens)
{
    uint64_t need = (uint64_t)vq->hdr_len + p->len, room = 0;
    uint32_t end = at;

    while (room < need && end < rb->n) {
        const struct ring_chain *c = &rb->chain[end];

        lens[end++] = 0;
        if (c->fault) {
            return (struct tx_result){end - at, DROP_RX_BAD_CHAIN, false};
        }
        room += chain_capacity(rb, c);
        if (!vq->mergeable) {
            break;
        }
    }
    if (room < need) {
        bool more = vq->mergeable && end == rb->n;
        return (struct tx_result){0, more ? DROP_NO_BUFFERS : DROP_BUFFERS_SMALL, more};
    }
    struct vnet_hdr h = p->vh;
    struct out_pos o = {.rb = rb, .vq = vq, .mem = mem, .chain = at, .end = end, .lens = lens};

    h.num_buffers = (uint16_t)(end - at);
    bool ok = out_bytes(&o, &h, vq->hdr_len) && out_bytes(&o, p->data, p->snap_len);
    for (uint32_t i = 0; ok && i < p->n_spans; i++) {
        ok = out_bytes(&o, GUEST_PTR(const void, pkt_spans(p)[i].p), pkt_spans(p)[i].len);
    }
    if (!ok) {
        memset(&lens[at], 0, (end - at) * sizeof(*lens));
        return (struct tx_result){end - at, DROP_RX_UNMAPPED, false};
    }
    return (struct tx_result){end - at, LENT, false};
}

/* Put the virtio-net header in front of the snapshot, so that both leave in one copy. */
static ALWAYS_INLINE void tx_header(const struct vq *vq, struct pkt *p)
{
    struct vnet_hdr h = p->vh;

    h.num_buffers = 1;
    if (likely(vq->hdr_len == VNET_HDR_LEN)) {
        memcpy(p->data - VNET_HDR_LEN, &h, VNET_HDR_LEN);
    } else {
        memcpy(p->data - VNET_HDR_LEN_LEGACY, &h, VNET_HDR_LEN_LEGACY);
    }
}

struct tx_sum {
    uint32_t frames;
    uint64_t bytes;
    uint32_t chains; /* to commit */
    uint32_t left;   /* packets not handled yet: they need more chains */
    bool need_more;
};

/* Pack packets into the peeked chains until one of the two runs out. */
static ALWAYS_INLINE struct tx_sum tx_burst(struct port *port, struct vq *vq, struct batch *b,
                                            const uint8_t *idx, uint32_t n, struct wctx *w,
                                            const struct ring_burst *rb, uint32_t *lens)
{
    const struct gmem *mem = load_acquire(&vq->ring.mem);
    uint8_t GUEST *va[RING_BURST];
    struct tx_sum s = {0};
    uint32_t i;

    for (i = 0; i < rb->n; i++) {
        const struct ring_chain *c = &rb->chain[i];
        uint32_t len = c->seg.len;

        va[i] = gmem_span(mem, &vq->ring.hint, (gpa_t){c->seg.addr}, &len);
        if (unlikely(c->n_seg != 1 || len != c->seg.len)) {
            va[i] = NULL;
        }
        __builtin_prefetch(GUEST_PTR(const void, va[i]), 1);
        __builtin_prefetch(GUEST_PTR(const void, va[i]) + 64, 1);
        if (i < n) {
            tx_header(vq, &b->pkt[idx[i]]);
        }
    }
    for (; i < n; i++) {
        tx_header(vq, &b->pkt[idx[i]]);
    }
    for (i = 0; i < n && s.chains < rb->n; i++) {
        struct pkt *p = &b->pkt[idx[i]];
        uint32_t at = s.chains, need = vq->hdr_len + p->len;

        if (likely(va[at] != NULL && need <= rb->chain[at].seg.len && p->n_spans <= 1)) {
            uint8_t *d = GUEST_PTR(uint8_t, va[at]);
            uint32_t head = vq->hdr_len + p->snap_len;

            copy_bytes(d, p->data - vq->hdr_len, head);
            if (p->n_spans) {
                copy_bytes(d + head, GUEST_PTR(const void, p->span.p), p->span.len);
            }
            lens[at] = need;
            s.chains++;
        } else {
            struct tx_result r = tx_general(vq, mem, rb, at, p, lens);

            s.chains += r.n_chains;
            if (r.need_more && (at || rb->n < RING_BURST)) {
                s.need_more = true; /* look again with this packet in front */
                break;
            }
            if (r.why != LENT) {
                port_count_drop(port, w, (enum drop)r.why, 1);
                continue;
            }
        }
        s.frames++;
        s.bytes += p->len;
    }
    s.left = n - i;
    return s;
}

/* VIRTIO_NET_F_MQ is not offered: a driver receives on its first pair. */
static ALWAYS_INLINE struct vq *out_ring(struct port_vhost *pv)
{
    return load_acquire(&pv->out[0]);
}

static ALWAYS_INLINE void vq_lock(struct vq *vq)
{
    while (unlikely(__atomic_exchange_n(&vq->lock, 1, __ATOMIC_ACQUIRE))) {
        while (read_once(&vq->lock)) {
            cpu_relax();
        }
    }
}

/* Frames longer than the port's MTU allows leave the list. */
static COLD uint32_t drop_long(struct port *port, struct batch *b, const uint8_t *idx, uint32_t n,
                               uint8_t *kept, struct wctx *w)
{
    uint32_t k = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (b->pkt[idx[i]].len <= read_once(&port->max_len)) {
            kept[k++] = idx[i];
        }
    }
    port_count_drop(port, w, DROP_MTU, n - k);
    return k;
}

static CPU_CLONES void port_vhost_tx(struct port *port, struct batch *b, const uint8_t *idx,
                                     uint32_t n, struct wctx *w)
{
    struct vq *vq = out_ring(vhost_of(port));
    struct ring_burst *rb = w->tx_scratch;
    struct port_counters *count = &port->counters[w->id];
    uint32_t lens[RING_BURST];
    uint8_t kept[PKT_BURST];
    uint32_t max = n;

    if (unlikely(!vq)) {
        port_count_drop(port, w, DROP_NOT_READY, n);
        return;
    }
    if (unlikely(read_once(&port->max_len) < PKT_MAX_LEN)) {
        n = drop_long(port, b, idx, n, kept, w);
        idx = kept;
    }
    vq_lock(vq);
    while (n) {
        uint32_t got = ring_dev_peek(RING_SPLIT, &vq->ring, rb, max);

        if (unlikely(!got)) {
            port_count_drop(port, w, vq->ring.broken ? DROP_RING_BROKEN : DROP_NO_BUFFERS, n);
            break;
        }
        struct tx_sum s = tx_burst(port, vq, b, idx, n, w, rb, lens);

        if (ring_dev_commit(RING_SPLIT, &vq->ring, rb, s.chains, lens)) {
            int fd = read_once(&vq->call_fd);
            if (fd >= 0) {
                wctx_signal(w, fd);
            }
        }
        write_once(&count->tx_frames, count->tx_frames + s.frames);
        write_once(&count->tx_bytes, count->tx_bytes + s.bytes);
        if (unlikely(s.need_more && !s.chains && max == RING_BURST)) {
            port_count_drop(port, w, DROP_NO_BUFFERS, 1); /* all there is does not hold it */
            s.left--;
        }
        idx += n - s.left;
        n = s.left;
        max = s.need_more ? RING_BURST : MIN(n, (uint32_t)RING_BURST);
    }
    if (maybe_faulty(&vq->ring)) {
        check_faults(port, vq);
    }
    store_release(&vq->lock, 0u);
}

static bool port_vhost_arm(struct rxq *q)
{
    return ring_dev_arm(RING_SPLIT, &container_of(q, struct vq, rxq)->ring);
}

static void port_vhost_disarm(struct rxq *q)
{
    ring_dev_disarm(RING_SPLIT, &container_of(q, struct vq, rxq)->ring);
}

/* ---- control half ------------------------------------------------------------------------------ */

static void update_ready(struct port_vhost *pv)
{
    pv->port.env->ready(pv->port.env->ctx, &pv->port, pv->out[0] != NULL);
}

static int on_ring_start(void *ctx, unsigned idx, const struct vu_ring_conf *c, uint64_t features,
                         const struct gmem *mem, struct err *e)
{
    struct port_vhost *pv = ctx;
    const struct port_env *env = pv->port.env;
    struct vq *vq = aligned_alloc(CACHE_LINE, sizeof(*vq));
    struct ring_setup setup = {
        .desc = c->desc,
        .avail = c->avail,
        .used = c->used,
        .num = c->num,
        .base = c->base,
        .event_idx = features & VIRTIO_BIT(F_EVENT_IDX),
        .indirect = features & VIRTIO_BIT(F_INDIRECT_DESC),
        .write = idx % 2 == 0,
        .mem = mem,
    };

    if (!vq) {
        return err_set(e, -ENOMEM, "port %s: out of memory", pv->port.name);
    }
    *vq = (struct vq){
        .rxq = {.port = &pv->port, .queue = (uint16_t)(idx / 2), .fd = c->kick_fd},
        .hdr_len = vnet_hdr_len(features),
        .mergeable = features & VIRTIO_BIT(NET_F_MRG_RXBUF),
        .call_fd = c->call_fd,
    };
    ring_init(&vq->ring, &setup);
    ring_dev_disarm(RING_SPLIT, &vq->ring);
    if (idx % 2) {
        int rc = env->attach(env->ctx, &vq->rxq, e);
        if (rc) {
            free(vq);
            return rc;
        }
    } else {
        store_release(&pv->out[idx / 2], vq);
    }
    pv->vq[idx] = vq;
    if (vq->call_fd >= 0) {
        env->signal(env->ctx, vq->call_fd); /* the driver may have missed one before */
    }
    update_ready(pv);
    return 0;
}

/* No worker can reach ring idx when this returns. */
static void withdraw(struct port_vhost *pv, unsigned idx)
{
    const struct port_env *env = pv->port.env;

    if (idx % 2) {
        env->detach(env->ctx, &pv->vq[idx]->rxq);
    } else {
        store_release(&pv->out[idx / 2], (struct vq *)NULL);
        update_ready(pv);
        env->barrier(env->ctx);
    }
}

static uint16_t on_ring_stop(void *ctx, unsigned idx)
{
    struct port_vhost *pv = ctx;
    struct vq *vq = pv->vq[idx];

    withdraw(pv, idx);
    uint16_t live = vq->ring.idx;
    pv->vq[idx] = NULL;
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

static void on_rarp(void *ctx, const uint8_t mac[6])
{
    struct port_vhost *pv = ctx;

    pv->port.env->learn(pv->port.env->ctx, &pv->port, mac);
}

static void set_max_len(struct port_vhost *pv, uint16_t guest_mtu)
{
    uint32_t mtu = pv->mtu_conf ? pv->mtu_conf : guest_mtu;

    write_once(&pv->port.max_len, mtu ? mtu + PKT_MIN_LEN : PKT_MAX_LEN);
}

static int on_mtu(void *ctx, uint16_t mtu)
{
    struct port_vhost *pv = ctx;

    if (mtu < 68 || (pv->mtu_conf && mtu != pv->mtu_conf)) {
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

        if (f == RING_FAULT_MEMORY_GONE) {
            vu_dev_kill(pv->dev, ring_fault_text(f));
            return;
        }
        if (f && !vq->reported) {
            vq->reported = true;
            if (i % 2) {
                /* polled no more; the vq stays for ring_stop */
                port->env->detach(port->env->ctx, &vq->rxq);
            }
            vu_dev_ring_broken(pv->dev, i, ring_fault_text(f));
        }
    }
}

static const struct port_option_def vhost_options[] = {
    {"client", "connect to the front-end that listens on this socket, and reconnect", false},
    {"path", "listen on this socket (default RUNDIR/NAME.sock)", false},
    {"owner", "user (name or number) who owns the listening socket", false},
    {"group", "group (name or number) of the listening socket", false},
    {"mode", "permissions of the listening socket, octal (default 0660)", false},
    {"mtu", "largest IP packet sent to the guest, bytes (default: what the front-end says)", true},
    {"any-fs", "yes: accept guest memory on any file system (a page fault there can block)", false},
    {NULL, NULL, false},
};

static int parse_number(const struct port_conf *c, const char *key, int base, unsigned long max,
                        unsigned long *out, struct err *e)
{
    const char *v = port_conf_get(c, key);
    char *end;

    if (!v) {
        return 0;
    }
    errno = 0;
    *out = strtoul(v, &end, base);
    if (errno || end == v || *end || *out > max) {
        return err_set(e, -EINVAL, "port %s: %s=%.40s is not %s number up to %lu", c->name, key, v,
                       base == 8 ? "an octal" : "a", max);
    }
    return 0;
}

static int parse_ids(const struct port_conf *c, struct vu_conf *v, struct err *e)
{
    const char *owner = port_conf_get(c, "owner"), *group = port_conf_get(c, "group");
    char *end;

    v->owner = (uid_t)-1;
    v->group = (gid_t)-1;
    if (owner) {
        const struct passwd *pw = getpwnam(owner);

        v->owner = pw ? pw->pw_uid : (uid_t)strtoul(owner, &end, 10);
        if (!pw && (end == owner || *end)) {
            return err_set(e, -EINVAL, "port %s: there is no user '%.40s'", c->name, owner);
        }
    }
    if (group) {
        const struct group *gr = getgrnam(group);

        v->group = gr ? gr->gr_gid : (gid_t)strtoul(group, &end, 10);
        if (!gr && (end == group || *end)) {
            return err_set(e, -EINVAL, "port %s: there is no group '%.40s'", c->name, group);
        }
    }
    return 0;
}

static int parse_mtu(const char *name, const char *value, uint16_t *out, struct err *e)
{
    char *end;
    unsigned long mtu = value ? strtoul(value, &end, 10) : 0;

    if (value && (*end || mtu < 68 || mtu > 65535)) {
        return err_set(e, -EINVAL, "port %s: mtu=%.40s is not a number from 68 to 65535", name,
                       value);
    }
    *out = (uint16_t)mtu;
    return 0;
}

static int port_vhost_create(struct port **out, const struct port_conf *c,
                             const struct port_env *env, struct err *e)
{
    struct port_vhost *pv = calloc(1, sizeof(*pv));
    const char *client = port_conf_get(c, "client"), *path = port_conf_get(c, "path");
    const char *any = port_conf_get(c, "any-fs");
    unsigned long mode = 0660;
    struct vu_conf v = {.name = c->name, .features = VNET_FEATURES_OFFERED};
    char *listen_path = NULL;
    int rc;

    if (!pv) {
        return err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    rc = port_init(&pv->port, &port_vhost_ops, c, env, e);
    if (rc) {
        free(pv);
        return rc;
    }
    if (client && path) {
        rc = err_set(e, -EINVAL, "port %s: client= and path= exclude each other", c->name);
    }
    if (!client && !path && asprintf(&listen_path, "%s/%s.sock", env->rundir, c->name) < 0) {
        listen_path = NULL;
        rc = err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    rc = rc ? rc : parse_ids(c, &v, e);
    rc = rc ? rc : parse_number(c, "mode", 8, 0777, &mode, e);
    rc = rc ? rc : parse_mtu(c->name, port_conf_get(c, "mtu"), &pv->mtu_conf, e);
    if (!rc) {
        set_max_len(pv, 0);
        v.client = client != NULL;
        v.path = client ? client : path ? path : listen_path;
        v.mode = (mode_t)mode;
        v.fs = any && !strcmp(any, "yes") ? GMEM_FS_ANY : GMEM_FS_MEMORY_ONLY;
        rc = vu_dev_create(&pv->dev, &v, &vu_callbacks, pv, env->evbase, e);
    }
    free(listen_path);
    if (rc) {
        port_fini(&pv->port);
        free(pv);
        return rc;
    }
    *out = &pv->port;
    return 0;
}

static void port_vhost_destroy(struct port *port)
{
    struct port_vhost *pv = vhost_of(port);

    vu_dev_destroy(pv->dev);
    port_fini(port);
    free(pv);
}

static int port_vhost_set(struct port *port, const char *key, const char *value, struct err *e)
{
    struct port_vhost *pv = vhost_of(port);
    uint16_t mtu = 0;
    int rc = parse_mtu(port->name, value, &mtu, e); /* the only changeable key */

    (void)key;
    if (!rc) {
        struct vu_info info;

        vu_dev_info(pv->dev, &info);
        pv->mtu_conf = mtu;
        set_max_len(pv, info.mtu);
    }
    return rc;
}

static json_t *feature_names(uint64_t bits, const char *(*name)(unsigned))
{
    json_t *a = json_array();

    for (unsigned i = 0; i < 64; i++) {
        if (bits >> i & 1) {
            json_array_append_new(a, name(i) ? json_string(name(i)) : json_sprintf("bit %u", i));
        }
    }
    return a;
}

static json_t *show_ring(const struct port_vhost *pv, unsigned idx, const struct vu_ring_info *r)
{
    const struct vq *vq = pv->vq[idx];
    json_t *o = json_pack("{s:i, s:s, s:i, s:b, s:b, s:b, s:b}", "index", (int)idx, "direction",
                          idx % 2 ? "from-guest" : "to-guest", "size", (int)r->num, "running",
                          r->running, "enabled", r->enabled, "broken", r->broken, "polled",
                          r->polled);

    if (vq && !read_once(&vq->ring.broken)) {
        /* chains that the driver made available and the switch has not used yet */
        uint16_t fill = (uint16_t)(read_once(GUEST_PTR(const uint16_t, &vq->ring.avail->idx)) -
                                   read_once(&vq->ring.idx));
        json_object_set_new(o, "fill", json_integer(MIN((uint32_t)fill, vq->ring.num)));
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
    json_object_set_new(o, "features", feature_names(i.negotiated, virtio_feature_name));
    json_object_set_new(o, "features_offered", feature_names(i.offered, virtio_feature_name));
    json_object_set_new(o, "protocol_features",
                        feature_names(i.protocol_features, vu_protocol_feature_name));
    json_object_set_new(o, "memory_regions", json_integer(i.n_regions));
    json_object_set_new(o, "memory_bytes", json_integer((json_int_t)i.mem_bytes));
    json_object_set_new(o, "status", json_integer(i.status));
    json_object_set_new(o, "messages", json_integer((json_int_t)i.n_messages));
    json_object_set_new(o, "messages_refused", json_integer((json_int_t)i.n_refused));
    json_object_set_new(o, "connects", json_integer((json_int_t)i.n_connects));
    json_object_set_new(o, "last_error", i.last_error ? json_string(i.last_error) : json_null());
    json_object_set_new(o, "rings", rings);
}

const struct port_ops port_vhost_ops = {
    .kind = "vhost-user",
    .help = "a UNIX socket that a virtual machine or virtio-user process plugs into",
    .options = vhost_options,
    .create = port_vhost_create,
    .destroy = port_vhost_destroy,
    .rx = port_vhost_rx,
    .rx_done = port_vhost_rx_done,
    .tx = port_vhost_tx,
    .arm = port_vhost_arm,
    .disarm = port_vhost_disarm,
    .set = port_vhost_set,
    .event = port_vhost_event,
    .show = port_vhost_show,
};
