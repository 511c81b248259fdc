/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user port: the half that moves frames.  Compiled once per machine level (base/cpu.h).
 *
 *   rx   passes over a burst: chains (ring_dev_peek), translate and prefetch, snapshot.  The loan is
 *        the chain; rx_done commits it.
 *   tx   passes over the frames of one call: chains, translate and prefetch, copy, commit.
 *        With several receive rings the call is cut into one list per ring first.
 *
 * Both have one fast form (a chain of one segment inside one region) written out in the loop and one
 * general form for everything else: rx_general() here, port_vhost_out() in port_vhost_out.c.
 */
#include <string.h>

#include "base/burst_lock.h"
#include "pkt/copy.h"
#include "pkt/flowhash.h"
#include "port/port_vhost.h"

static struct port_vhost *vhost_of(struct port *p)
{
    return container_of(p, struct port_vhost, port);
}

static_assert(COPY_SNAP_MAX >= PKT_SNAP, "a snapshot is taken in one go");

#define SEG_COST 64 /* walking one segment of a chain takes as long as copying so many bytes */

static ALWAYS_INLINE void prefetch_read(const uint8_t GUEST *p)
{
    __builtin_prefetch(GUEST_PTR(const void, p));
    __builtin_prefetch(GUEST_PTR(const void, p + CACHE_LINE));
}

static ALWAYS_INLINE void prefetch_write(uint8_t GUEST *p)
{
    __builtin_prefetch(GUEST_PTR(const void, p), 1);
    __builtin_prefetch(GUEST_PTR(const void, p + CACHE_LINE), 1);
}

/* ---- the two layouts --------------------------------------------------------------------------
 *
 * One branch per burst chooses; what lies between the rings is the same code for all pairs of them.
 * The packed halves are calls, so that the split ones are inlined as if they were alone.
 */

static NOINLINE uint32_t peek_packed(struct ring *r, struct ring_burst *rb, uint32_t max)
{
    return ring_dev_peek(RING_PACKED, r, rb, max);
}

static ALWAYS_INLINE uint32_t peek_chains(struct ring *r, struct ring_burst *rb, uint32_t max)
{
    return likely(r->layout == RING_SPLIT) ? ring_dev_peek(RING_SPLIT, r, rb, max)
                                           : peek_packed(r, rb, max);
}

static NOINLINE void publish_packed(struct ring *r, const struct ring_burst *rb, uint32_t n,
                                    const uint32_t *lens)
{
    ring_dev_publish(RING_PACKED, r, rb, n, lens);
}

static ALWAYS_INLINE void publish_chains(struct ring *r, const struct ring_burst *rb, uint32_t n,
                                         const uint32_t *lens)
{
    if (likely(r->layout == RING_SPLIT)) {
        ring_dev_publish(RING_SPLIT, r, rb, n, lens);
    } else {
        publish_packed(r, rb, n, lens);
    }
}

/* ---- from the guest ---------------------------------------------------------------------------- */

/* What became of one chain. */
enum {
    LENT = DROP_N,
    OFFLOADED, /* its header asks for something: see rx_special() */
    NO_ROOM, /* for its segments, behind the frames before it: the first one of the next burst */
};

static const enum drop rx_fault_drop[RING_N_FAULTS] = {
    [RING_FAULT_NEXT_RANGE] = DROP_BAD_CHAIN,     [RING_FAULT_CHAIN_LONG] = DROP_BAD_CHAIN,
    [RING_FAULT_INDIRECT_BAD] = DROP_BAD_CHAIN,   [RING_FAULT_INDIRECT_UNMAPPED] = DROP_UNMAPPED,
    [RING_FAULT_DIRECTION] = DROP_BAD_CHAIN,      [RING_FAULT_UNMAPPED] = DROP_UNMAPPED,
};

static COLD int bad_length(uint32_t hdr_len, uint64_t total)
{
    return total < hdr_len               ? DROP_NO_HEADER
           : total < hdr_len + PKT_MIN_LEN ? DROP_RUNT
                                           : DROP_GIANT;
}

static ALWAYS_INLINE bool length_ok(uint32_t hdr_len, uint64_t total)
{
    return total - (hdr_len + PKT_MIN_LEN) <= PKT_MAX_LEN - PKT_MIN_LEN; /* unsigned: both ends */
}

/* Do flags and gso_type, the first two bytes of a header, ask for something? */
static ALWAYS_INLINE bool asks(uint16_t said)
{
    return unlikely(said & (VNET_F_NEEDS_CSUM | 0xff << 8));
}

/* Header and snapshot lie in front of and at room + VNET_HDR_LEN: look at the one, complete the other. */
static ALWAYS_INLINE int rx_finish(struct pkt *p, uint8_t *room, uint32_t hdr_len, uint32_t snap,
                                   uint32_t total)
{
    uint16_t said;

    memcpy(&said, room + VNET_HDR_LEN - hdr_len, sizeof(said));
    p->data = room + VNET_HDR_LEN;
    p->len = total - hdr_len;
    p->snap_len = (uint16_t)(snap - hdr_len);
    if (asks(said)) {
        return OFFLOADED;
    }
    pkt_plain_header(p->data);
    return LENT;
}

/* Snapshot of a frame with the header that it gets if it is a plain one; LENT or OFFLOADED. */
static ALWAYS_INLINE int rx_snapshot(uint8_t *to, uint32_t hdr_len, const uint8_t *from, uint32_t len)
{
    static const union {
        struct vnet_hdr hdr;
        uint8_t byte[sizeof(v_front)];
        v_front v;
    } plain = {.hdr.num_buffers = 1},
      keep = {.byte = {[VNET_HDR_LEN ... sizeof(v_front) - 1] = 0xff}};
    uint16_t said;

    if (hdr_len != VNET_HDR_LEN) {
        copy_snapshot(to, from, len);
        memcpy(&said, to, sizeof(said));
        if (!asks(said)) {
            pkt_plain_header(to + hdr_len);
        }
    } else {
        v16 front = copy_snapshot_behind(to, from, len, &keep.v, &plain.v);

        memcpy(&said, &front, sizeof(said));
        if (asks(said)) {
            *(v16 *)to = front;
        }
    }
    return asks(said) ? OFFLOADED : LENT;
}

/* One segment in one region, with the bytes around it: the form that drivers use. */
static ALWAYS_INLINE int rx_fast(struct pkt *p, uint8_t *room, uint32_t hdr_len,
                                 const uint8_t GUEST *va, uint32_t total)
{
    uint8_t *to = room + VNET_HDR_LEN - hdr_len;
    const uint8_t *from = GUEST_PTR(const uint8_t, va);
    uint32_t snap = total;

    if (unlikely(total - (hdr_len + PKT_MIN_LEN) > PKT_MAX_LEN - PKT_MIN_LEN)) { /* both ends */
        return bad_length(hdr_len, total);
    }
    p->data = room + VNET_HDR_LEN;
    if (likely(total <= COPY_SNAP_SMALL)) {
        p->len_and_shape = total - hdr_len;
        p->snap_len = (uint16_t)(total - hdr_len);
        return rx_snapshot(to, hdr_len, from, total);
    }
    snap = MIN(total, (uint32_t)PKT_SNAP);
    p->len = total - hdr_len;
    p->shape = total > snap;
    p->snap_len = (uint16_t)(snap - hdr_len);
    p->span = (struct gspan){va + snap, total - snap};
    return rx_snapshot(to, hdr_len, from, snap);
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
                    return b->n_spans ? NO_ROOM : DROP_BAD_CHAIN;
                }
                spans[n_spans++] = (struct gspan){va + head, len - head};
            }
        }
    }
    if (!length_ok(vq->hdr_len, total)) {
        return bad_length(vq->hdr_len, total);
    }
    p->shape = n_spans;
    p->spans = spans;
    if (n_spans == 1) {
        p->span = spans[0];
    } else {
        b->n_spans += n_spans;
    }
    return rx_finish(p, room, vq->hdr_len, snap, (uint32_t)total);
}

static void count_rx(struct port *port, const struct wctx *w, uint32_t frames, uint64_t bytes)
{
    struct port_counters *c = &port->counters[w->id];

    write_once(&c->rx_frames, c->rx_frames + frames);
    write_once(&c->rx_bytes, c->rx_bytes + bytes);
}

/* Not a plain frame: true if it is lent after all, else it is counted as dropped. */
static NOINLINE bool rx_special(struct port *port, const struct vq *vq, struct pkt *p, int r,
                                const struct wctx *w)
{
    if (r == OFFLOADED) {
        struct vnet_hdr said = {0};

        memcpy(&said, p->data - vq->hdr_len, VNET_HDR_LEN_LEGACY); /* num_buffers means nothing here */
        r = offload_check(p, &said, vq->sends); /* DROP_N is LENT */
    }
    if (r == LENT) {
        return true;
    }
    port_count_drop(port, w, (enum drop)r, 1);
    return false;
}

/* The peer's memory file shrank under us, or its ring is corrupt: have the control thread stop it. */
static COLD void check_faults(struct port *port, struct vq *vq)
{
    struct ring *r = &vq->ring;

    if (r->fault_seq != gmem_fault_seq()) {
        r->fault_seq = gmem_fault_seq();
        const struct ring_log *log = load_acquire(&r->log);

        if (gmem_faulted(read_once(&r->mem))) {
            write_once(&r->broken, (uint8_t)RING_FAULT_MEMORY_GONE);
        } else if (log && gmem_faulted(log->map)) {
            write_once(&r->broken, (uint8_t)RING_FAULT_LOG_GONE);
        }
    }
    if (r->broken && !vq->told) {
        vq->told = true;
        port->env->post(port->env->ctx, port);
    }
}

static ALWAYS_INLINE bool maybe_faulty(const struct ring *r)
{
    return unlikely(r->fault_seq != gmem_fault_seq() || r->broken);
}

/*
 * A chain is a run if it is one segment in one region, with what a snapshot reads in whole steps.  Where
 * any frame fits behind its start its length needs no look, since nobody moves more than a frame's.
 */
#define RUN_ROOM (VNET_HDR_LEN + PKT_MAX_LEN + COPY_SNAP_MAX)
static_assert(COPY_SNAP_MAX >= PKT_HEADROOM, "a frame may have grown by what was put in front of it");

struct run_window {
    struct gmem_window r;
    uint64_t edge; /* runs start below it */
};

static ALWAYS_INLINE struct run_window run_window(struct gmem_window r)
{
    return (struct run_window){r, r.size > RUN_ROOM ? r.size - RUN_ROOM : 0};
}

static ALWAYS_INLINE bool one_run(const struct run_window *w, const struct ring_chain *c,
                                  uint8_t GUEST **run)
{
    uint64_t off = c->seg.addr - w->r.gpa;

    *run = w->r.va + off;
    return likely(off < w->edge && c->n_seg == 1);
}

/* The same near the end of the region. */
static ALWAYS_INLINE bool last_run(const struct run_window *w, const struct ring_chain *c)
{
    uint64_t off = c->seg.addr - w->r.gpa, room = w->r.size - off;

    return off < w->r.size && c->seg.len <= room && COPY_SNAP_MAX <= room && c->n_seg == 1;
}

/*
 * The runs of all chains of a burst, NULL for those that are none, and AHEAD more entries for who
 * prefetches ahead of what he copies.  The region of the last chain is the window of the next.
 */
static ALWAYS_INLINE void find_runs(struct vq *vq, const struct gmem *mem, const struct ring_burst *rb,
                                    uint8_t GUEST **run)
{
    struct run_window w = run_window(gmem_window(mem, vq->ring.hint));
    const struct ring_chain *c = rb->chain, *end = c + rb->n;

    for (; c < end; c++, run++) {
        if (likely(one_run(&w, c, run))) {
            continue;
        }
        if (c->n_seg == 1 && !last_run(&w, c)) { /* perhaps the next ones are in another region */
            w = run_window(gmem_window_at(mem, &vq->ring.hint, (gpa_t){c->seg.addr}));
        }
        if (!one_run(&w, c, run) && !last_run(&w, c)) {
            *run = NULL;
        }
    }
    for (uint32_t i = 0; i < AHEAD; i++) {
        run[i] = run[-1];
    }
}

/* A RARP "request reverse" in the guest's name (RFC 903; what QEMU's SEND_RARP asks for). No loan. */
static COLD uint32_t announce(struct port *port, struct batch *b)
{
    static const uint8_t rarp[60] = {[0 ... 5] = 0xff, [12] = 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
    uint64_t mac = __atomic_exchange_n(&vhost_of(port)->announce, 0, __ATOMIC_ACQUIRE);
    uint8_t *frame = batch_snap(b, 0) + VNET_HDR_LEN;

    memcpy(frame, rarp, sizeof(rarp));
    memcpy(frame + 6, &mac, 6);  /* source */
    memcpy(frame + 22, &mac, 6); /* sender hardware address */
    memcpy(frame + 32, &mac, 6); /* target hardware address */
    pkt_plain_header(frame);
    b->pkt[0] = (struct pkt){.data = frame, .len = sizeof(rarp), .snap_len = sizeof(rarp)};
    b->n = mac ? 1 : 0;
    b->own_vid = (uint16_t)(mac >> 48);
    b->more_vid = 0;
    return b->n;
}

/* The announcement was sent in some of the port's VLANs: the others are next, unless the control
 * thread has another one meanwhile. */
static COLD void announced(struct port *port, const struct batch *b)
{
    uint64_t none = 0, mac = 0;

    memcpy(&mac, b->pkt[0].data + 6, 6);
    if (b->more_vid) {
        mac |= (uint64_t)b->more_vid << 48;
        __atomic_compare_exchange_n(&vhost_of(port)->announce, &none, mac, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED);
    }
}

/* A guest with several pairs: remember on which of them it sends its flows. */
static NOINLINE void learn_queue(struct steer *s, struct batch *b, uint16_t queue)
{
    flow_hash_batch(b);
    for (uint32_t i = 0; i < b->n; i++) {
        if (!i || b->hash[i] != b->hash[i - 1]) {
            steer_learn(s, b->hash[i], (uint8_t)queue);
        }
    }
}

/* The last frames of a batch that is too large wait for the next one.  No chain was refused since it
 * was: each of these frames is a chain. */
static COLD uint64_t cut_batch(struct batch *b, uint32_t hdr_len, uint64_t bytes)
{
    uint64_t rest = bytes;

    while ((rest -= b->pkt[b->n - 1].len + hdr_len) > PKT_BATCH_BYTES) {
        bytes = rest;
        b->n--;
        b->n_loans--;
    }
    return bytes;
}

/* Lend what was peeked; its bytes, virtio-net headers included. */
static ALWAYS_INLINE uint64_t rx_burst(struct vq *vq, const uint32_t hdr_len, struct ring_burst *rb,
                                       struct batch *b, struct wctx *w)
{
    const struct gmem *mem = load_acquire(&vq->ring.mem);
    uint8_t GUEST *va[PKT_BURST + AHEAD], **run = va;
    const struct ring_chain *c = rb->chain, *end = c + rb->n;
    struct pkt *p = b->pkt;
    uint8_t *room = batch_snap(b, 0);
    uint64_t bytes = 0;

    find_runs(vq, mem, rb, va);
    for (uint32_t i = 0; i < AHEAD; i++) {
        prefetch_read(va[i]);
    }
    for (; c < end; c++, run++) {
        uint32_t total = c->seg.len;
        int r;

        prefetch_read(run[AHEAD]);
        if (likely(*run != NULL)) {
            r = rx_fast(p, room, hdr_len, *run, total);
        } else if (c->fault) {
            r = rx_fault_drop[c->fault];
        } else {
            r = rx_general(vq, mem, b, p, room, rb, c);
            total = p->len + hdr_len;
        }
        if (unlikely(r != LENT)) {
            if (r == NO_ROOM || bytes > PKT_BATCH_BYTES) {
                b->n_loans = (uint32_t)(c - rb->chain);
                break;
            }
            if (!rx_special(vq->rxq.port, vq, p, r, w)) {
                continue;
            }
        }
        bytes += total;
        p++;
        room += sizeof(b->room[0]);
    }
    b->n = (uint32_t)(p - b->pkt);
    return likely(bytes <= PKT_BATCH_BYTES) ? bytes : cut_batch(b, hdr_len, bytes);
}

uint32_t HOT(port_vhost_rx)(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct vq *vq = container_of(q, struct vq, rxq);
    struct ring_burst *rb = w->rx_scratch;
    uint32_t n = peek_chains(&vq->ring, rb, PKT_BURST);

    b->n_loans = n;
    if (unlikely(!n)) {
        if (maybe_faulty(&vq->ring)) {
            check_faults(q->port, vq);
        }
        return unlikely(read_once(&vhost_of(q->port)->announce)) ? announce(q->port, b) : 0;
    }
    uint64_t bytes = likely(vq->plain) ? rx_burst(vq, VNET_HDR_LEN, rb, b, w)
                                       : rx_burst(vq, vq->hdr_len, rb, b, w);
    count_rx(q->port, w, b->n, bytes - (uint64_t)b->n * vq->hdr_len);
    write_once(&vq->frames, vq->frames + b->n);
    struct steer *steer = load_acquire(&vq->steer);
    if (unlikely(steer)) {
        learn_queue(steer, b, q->queue);
    }
    return b->n;
}

static ALWAYS_INLINE void vq_lock(struct vq *vq)
{
    burst_lock(&vq->lock, vq->shared);
    if (vq->shared) {
        VQ_LOCK_ACCOUNT();
    }
}

static ALWAYS_INLINE void vq_unlock(struct vq *vq)
{
    burst_unlock(&vq->lock, vq->shared);
}

/* End of the round: does the driver want to be told of what was published? */
static void look_at_driver(void *arg, struct wctx *w)
{
    struct vq *vq = arg;

    vq_lock(vq);
    vq->due &= ~(1ull << w->id);
    bool due = ring_dev_signal_due(vq->ring.layout, &vq->ring);
    vq_unlock(vq);
    int fd = read_once(&vq->call_fd);
    if (due && fd >= 0) {
        wctx_signal(w, fd);
    }
}

/* Under the lock. Publish n chains; true if this worker is to look at the driver's wish, once per
 * round: wctx_defer(look_at_driver) after unlocking. */
static ALWAYS_INLINE bool publish(struct vq *vq, const struct ring_burst *rb, uint32_t n,
                                  const uint32_t *lens, const struct wctx *w)
{
    uint64_t me = 1ull << w->id;
    bool first = !(vq->due & me);

    if (unlikely(!n)) {
        return false;
    }
    publish_chains(&vq->ring, rb, n, lens);
    vq->due |= me;
    return first;
}

void HOT(port_vhost_rx_done)(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct vq *vq = container_of(q, struct vq, rxq);

    if (unlikely(!b->n_loans)) {
        announced(q->port, b);
        return;
    }
    if (publish(vq, w->rx_scratch, b->n_loans, NULL, w)) {
        wctx_defer(w, look_at_driver, vq);
    }
    if (maybe_faulty(&vq->ring)) {
        check_faults(q->port, vq);
    }
}

/* ---- to the guest ------------------------------------------------------------------------------ */

struct tx_sum {
    uint32_t frames;
    uint64_t bytes;
    uint32_t chains; /* to commit */
    uint32_t left;   /* packets not handled yet: they need more chains */
    bool need_more;
};

/* Nothing but a checksum to be completed, in a frame of one span at most. */
static ALWAYS_INLINE bool only_sum(uint32_t shape)
{
    static_assert(OFFLOAD_CSUM == 1, "the lowest bit above n_spans");
    return shape - ((uint32_t)OFFLOAD_CSUM << 16) <= 1;
}

/*
 * Frames that go out in two copies at most, each into one run: up to n of them into as many chains.
 * Returns how many it was before the first one that is something else.  shape_mask: the bits of
 * pkt.shape that keep a frame from going out as it is, beside its first span.
 */
static ALWAYS_INLINE uint32_t tx_fast(const struct batch *b, const uint8_t *idx, uint32_t n,
                                      uint32_t shape_mask, const struct ring_chain *c,
                                      uint8_t GUEST *const *run, uint32_t *lens, uint64_t *bytes)
{
    uint32_t i;

    for (i = 0; i < n; i++, c++) {
        const struct pkt *p = &b->pkt[idx[i]];

        __asm__("" : "+r"(p)); /* gcc would compute it anew at each use */
        uint32_t need = VNET_HDR_LEN + p->len, shape = p->shape & shape_mask;
        uint8_t *d = GUEST_PTR(uint8_t, run[i]);

        prefetch_write(run[i + AHEAD]);
        if (unlikely(!d || need > c->seg.len)) {
            break;
        }
        if (unlikely(shape > 1)) {
            if (!only_sum(shape) || !HOT(port_vhost_out_summed)(d, p)) {
                break;
            }
        } else if (likely(!shape)) {
            copy_bytes(d, p->data - VNET_HDR_LEN, need);
        } else {
            uint32_t head = VNET_HDR_LEN + p->snap_len;

            copy_bytes(d, p->data - VNET_HDR_LEN, head);
            copy_bytes(d + head, GUEST_PTR(const void, p->span.p), p->span.len);
        }
        lens[i] = need;
        *bytes += need;
    }
    return i;
}

/* Pack packets into the peeked chains until one of the two runs out. */
static ALWAYS_INLINE struct tx_sum tx_burst(struct port *port, struct vq *vq, struct batch *b,
                                            const uint8_t *idx, uint32_t n, struct wctx *w,
                                            struct tx_scratch *t, uint32_t *lens)
{
    const struct ring_burst *rb = &t->rb;
    const struct gmem *mem = load_acquire(&vq->ring.mem);
    const uint32_t shape_mask = (uint32_t)(uint16_t)~vq->takes << 16 | 0xffff;
    uint8_t GUEST *run[RING_BURST + AHEAD];
    struct tx_sum s = {.left = n};

    find_runs(vq, mem, rb, run);
    for (uint32_t i = 0; i < AHEAD; i++) {
        prefetch_write(run[i]);
    }
    while (s.left && s.chains < rb->n) {
        uint32_t max = MIN(s.left, rb->n - s.chains), at = s.chains;
        bool fast = vq->plain && !t->frame.p; /* the rest of a frame goes as it began */
        uint32_t k = likely(fast) ? tx_fast(b, idx, max, shape_mask, &rb->chain[at], &run[at],
                                            &lens[at], &s.bytes)
                                  : 0;

        s.frames += k;
        s.chains += k;
        s.left -= k;
        idx += k;
        s.bytes -= (uint64_t)k * VNET_HDR_LEN;
        if (likely(k == max)) {
            continue;
        }
        struct tx_result r;

        HOT(port_vhost_out)(vq, mem, rb, s.chains, &b->pkt[*idx], lens, &t->frame, &r);
        s.chains += r.n_chains;
        s.frames += r.frames;
        s.bytes += r.bytes;
        s.need_more = r.need_more; /* look again with this packet, or its rest, in front */
        if (r.need_more) {
            break;
        }
        w->spent += r.frames * (uint64_t)SEG_COST;
        if (r.why != DROP_N) {
            w->spent += b->pkt[*idx].len; /* it may have been copied in vain */
            port_count_drop(port, w, (enum drop)r.why, 1);
        }
        s.left--;
        idx++;
    }
    return s;
}

/* Frames longer than the port's MTU allows leave the list. */
static COLD uint32_t drop_long(struct port *port, struct batch *b, const uint8_t *idx, uint32_t n,
                               uint8_t *kept, struct wctx *w)
{
    uint32_t k = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (!offload_too_long(&b->pkt[idx[i]], read_once(&port->max_len))) {
            kept[k++] = idx[i];
        }
    }
    port_count_drop(port, w, DROP_MTU, n - k);
    return k;
}

/* All frames of the list into one ring. */
static ALWAYS_INLINE void tx_ring(struct port *port, struct vq *vq, struct batch *b,
                                  const uint8_t *idx, uint32_t n, struct wctx *w)
{
    struct tx_scratch *t = w->tx_scratch;
    struct ring_burst *rb = &t->rb;
    struct port_counters *count = &port->counters[w->id];
    uint32_t lens[RING_BURST];
    uint8_t kept[PKT_BURST];
    uint32_t max = n, cut = 0;
    bool defer = false;

    if (unlikely(read_once(&port->max_len) < PKT_MAX_LEN)) {
        n = drop_long(port, b, idx, n, kept, w);
        idx = kept;
    }
    t->frame.p = NULL;
    vq_lock(vq);
    while (n) {
        uint32_t got = peek_chains(&vq->ring, rb, max);

        if (unlikely(!got)) {
            port_count_drop(port, w, vq->ring.broken ? DROP_RING_BROKEN : DROP_NO_BUFFERS, n);
            break;
        }
        struct tx_sum s = tx_burst(port, vq, b, idx, n, w, t, lens);

        defer |= publish(vq, rb, s.chains, lens, w);
        write_once(&count->tx_frames, count->tx_frames + s.frames);
        write_once(&count->tx_bytes, count->tx_bytes + s.bytes);
        write_once(&vq->frames, vq->frames + s.frames);
        w->spent += s.bytes + rb->n_pool * (uint64_t)SEG_COST;
        idx += n - s.left;
        n = s.left;
        if (unlikely(s.need_more)) {
            cut += s.chains;
            if (cut > SEGMENTS_MAX) {
                port_count_drop(port, w, DROP_SEGMENTS, n);
                break;
            }
            if (!s.chains && max == RING_BURST) {
                port_count_drop(port, w, DROP_NO_BUFFERS, 1); /* all there is does not hold it */
                t->frame.p = NULL;
                idx++;
                n--;
            }
        }
        max = s.need_more ? RING_BURST : MIN(n, (uint32_t)RING_BURST);
    }
    if (maybe_faulty(&vq->ring)) {
        check_faults(port, vq);
    }
    vq_unlock(vq);
    if (defer) {
        wctx_defer(w, look_at_driver, vq);
    }
}

/* The ring on whose pair the guest last sent this flow; else the hash decides. */
static ALWAYS_INLINE uint8_t ring_of(const struct out_rings *o, uint32_t hash)
{
    int pair = o->steer ? steer_find(o->steer, hash) : -1;

    if (pair >= 0 && o->of_pair[pair] != NOT_RUNNING) {
        return o->of_pair[pair];
    }
    return (uint8_t)((uint64_t)hash * o->n >> 32);
}

/* Not one receive ring: each frame to its flow's, in their order on each ring. */
static NOINLINE void tx_spread(struct port *port, struct batch *b, const uint8_t *idx, uint32_t n,
                               struct wctx *w)
{
    const struct out_rings *o = load_acquire(&vhost_of(port)->rings);
    uint8_t to[PKT_BURST], list[PKT_BURST];

    if (!o->n) {
        port_count_drop(port, w, read_once(&port->down) ? DROP_LINK_DOWN : DROP_NOT_READY, n);
        return;
    }
    flow_hash_batch(b);
    for (uint32_t i = 0; i < n; i++) {
        to[i] = ring_of(o, b->hash[idx[i]]);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint8_t ring = to[i];
        uint32_t k = 0;

        for (uint32_t j = i; ring != NOT_RUNNING && j < n; j++) {
            if (to[j] == ring) {
                list[k++] = idx[j];
                to[j] = NOT_RUNNING; /* done */
            }
        }
        if (k) {
            tx_ring(port, o->ring[ring], b, list, k, w);
        }
    }
}

void HOT(port_vhost_tx)(struct port *port, struct batch *b, const uint8_t *idx, uint32_t n,
                        struct wctx *w)
{
    struct vq *vq = load_acquire(&vhost_of(port)->out);

    if (likely(vq)) {
        tx_ring(port, vq, b, idx, n, w);
    } else {
        tx_spread(port, b, idx, n, w);
    }
}
