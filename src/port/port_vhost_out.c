/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user port: the general way out.  Any frame into any chains: several buffers per frame, headers
 * split anywhere, checksums completed and frames segmented for a guest that does not take them as
 * they are.  Compiled once per machine level (base/cpu.h); the loop over the plain frames of a burst
 * is in port_vhost_hot.c and comes here for the others.
 *
 * Payload is moved first and headers last, because a checksum in the header is the sum of what was
 * moved; nothing is visible to the guest before the chains are published.
 */
#include <string.h>

#include "pkt/copy.h"
#include "pkt/csum.h"
#include "pkt/segment_put.h"
#include "port/port_vhost.h"

/* Write position in the chains of one burst. */
struct out_pos {
    const struct ring_burst *rb;
    struct vq *vq;
    const struct gmem *mem;
    uint32_t chain, seg, at; /* chain of the burst, segment of the chain, byte of the segment */
    uint32_t *lens;          /* per chain: bytes written; NULL: they are counted already */
};

static const struct ring_seg *chain_segs(const struct ring_burst *rb, const struct ring_chain *c)
{
    return c->n_seg > 1 ? &rb->pool[c->pool] : &c->seg;
}

/* Where the next bytes go: up to *len of them in one run; NULL if that is not in the guest's memory.
 * The caller made sure that there is room. */
static ALWAYS_INLINE uint8_t *out_run(struct out_pos *o, uint32_t *len)
{
    const struct ring_chain *c = &o->rb->chain[o->chain];
    const struct ring_seg *seg = chain_segs(o->rb, c) + o->seg;

    while (o->at == seg->len) {
        o->at = 0;
        if (++o->seg == c->n_seg) {
            o->seg = 0;
            c = &o->rb->chain[++o->chain];
        }
        seg = chain_segs(o->rb, c) + o->seg;
    }
    *len = MIN(*len, seg->len - o->at);
    uint8_t GUEST *va = gmem_span(o->mem, &o->vq->ring.hint, (gpa_t){seg->addr + o->at}, len);
    o->at += *len;
    if (o->lens) {
        o->lens[o->chain] += *len;
    }
    return GUEST_PTR(uint8_t, va);
}

static bool out_skip(struct out_pos *o, uint32_t len)
{
    while (len) {
        uint32_t n = len;

        if (!out_run(o, &n)) {
            return false;
        }
        len -= n;
    }
    return true;
}

static bool out_bytes(struct out_pos *o, const void *src, uint32_t len)
{
    const uint8_t *s = src;

    while (len) {
        uint32_t n = len;
        uint8_t *d = out_run(o, &n);

        if (!d) {
            return false;
        }
        copy_bytes(d, s, n);
        s += n;
        len -= n;
    }
    return true;
}

/* Move the payload of a segment; sum it if sum is given. */
static ALWAYS_INLINE bool out_payload(struct out_pos *o, const struct pkt *p,
                                      const struct segment *seg, struct csum *sum)
{
    struct pkt_reader r = pkt_reader_at(p, seg->from);

    for (uint32_t left = seg->len; left;) {
        uint32_t run = left;
        const uint8_t *s = pkt_read(&r, &run);

        left -= run;
        while (run) {
            uint32_t n = run;
            uint8_t *d = out_run(o, &n);

            if (unlikely(!d)) {
                return false;
            }
            if (sum) {
                csum_copy(sum, d, s, n);
            } else {
                copy_bytes(d, s, n);
            }
            s += n;
            run -= n;
        }
    }
    return true;
}

static bool out_summed(struct out_pos *o, const struct pkt *p, struct segment *seg)
{
    struct csum sum = segment_head_sum(seg);

    if (!out_payload(o, p, seg, &sum)) {
        return false;
    }
    uint16_t field = csum_field(&sum, seg->sum_udp);
    memcpy(seg->buf + seg->sum_at, &field, sizeof(field));
    return true;
}

static bool out_segment(struct out_pos o, const struct pkt *p, struct segment *seg)
{
    struct out_pos front = o;
    uint32_t hdr_len = o.vq->hdr_len;

    front.lens = NULL;
    if (seg->n_patch || seg->sum_at) {
        segment_apply_patches(seg); /* into a copy: the snapshot serves other receivers too */
    }
    return out_skip(&o, hdr_len + seg->head_len) &&
           (seg->sum_at ? out_summed(&o, p, seg) : out_payload(&o, p, seg, NULL)) &&
           out_bytes(&front, &seg->h, hdr_len) && out_bytes(&front, seg->head, seg->head_len);
}

/* A chain of one segment in one region that holds all of it: what drivers post. */
static ALWAYS_INLINE bool out_flat(struct vq *vq, const struct gmem *mem, const struct ring_chain *c,
                                   const struct pkt *p, struct segment *seg, uint32_t *written)
{
    const uint32_t need = vq->hdr_len + seg->head_len + seg->len;
    uint32_t len = need;

    if (c->n_seg != 1 || c->seg.len < need) {
        return false;
    }
    uint8_t GUEST *va = gmem_span(mem, &vq->ring.hint, (gpa_t){c->seg.addr}, &len);
    if (unlikely(!va || len != need)) {
        return false;
    }
    *written = need;
    if (seg->sum_at) {
        segment_put(GUEST_PTR(uint8_t, va), vq->hdr_len, p, seg, true);
    } else {
        segment_put(GUEST_PTR(uint8_t, va), vq->hdr_len, p, seg, false);
    }
    return true;
}

bool HOT(port_vhost_out_summed)(uint8_t *d, const struct pkt *p)
{
    static const struct vnet_hdr plain = {.num_buffers = 1};
    const uint32_t head = VNET_HDR_LEN + p->snap_len;
    struct csum_acc acc = {{0}, {0}};
    struct csum sum = {0};
    struct vnet_hdr said;

    memcpy(&said, p->data - VNET_HDR_LEN, sizeof(said));
    uint32_t summed = p->snap_len - said.csum_start; /* the field lies in it: offload_check() */
    if (unlikely(summed & 1 && p->n_spans)) {
        return false;
    }
    copy_bytes(d, p->data - VNET_HDR_LEN, head);
    sum.sum = csum_move_into(&acc, NULL, p->data + said.csum_start, summed);
    if (likely(p->n_spans)) {
        COPY_ACCOUNT(p->span.len);
        sum.sum += csum_move_into(&acc, d + head, GUEST_PTR(const uint8_t, p->span.p), p->span.len);
    }
    sum.sum += csum_total(&acc);
    uint16_t field = csum_field(&sum, said.csum_offset == OFFLOAD_UDP_SUM);
    memcpy(d, &plain, VNET_HDR_LEN);
    memcpy(d + VNET_HDR_LEN + said.csum_start + said.csum_offset, &field, sizeof(field));
    return true;
}

/* port_vhost_hot.c prefetched the first ones of the burst. */
static ALWAYS_INLINE void prefetch_chain(const struct vq *vq, const struct gmem *mem,
                                         const struct ring_burst *rb, uint32_t i)
{
    if (i < rb->n) {
        const struct ring_seg *seg = &rb->chain[i].seg;
        const uint8_t GUEST *va = gmem_in_window(gmem_window(mem, vq->ring.hint),
                                                 (gpa_t){seg->addr}, seg->len);

        if (likely(va != NULL)) {
            __builtin_prefetch(GUEST_PTR(const void, va), 1);
            __builtin_prefetch(GUEST_PTR(const void, va + CACHE_LINE), 1);
        }
    }
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

/* Chains from `at` on that hold `need` bytes, in *n. DROP_N, or why not; DROP_NO_BUFFERS: there are
 * not enough of them in this burst. */
static int reserve(const struct vq *vq, const struct ring_burst *rb, uint32_t at, uint64_t need,
                   uint32_t *lens, uint32_t *n)
{
    uint64_t room = 0;

    for (*n = 0; room < need; ++*n) {
        if (*n && !vq->mergeable) {
            return DROP_BUFFERS_SMALL;
        }
        if (at + *n == rb->n) {
            return DROP_NO_BUFFERS;
        }
        const struct ring_chain *c = &rb->chain[at + *n];

        lens[at + *n] = 0;
        if (c->fault) {
            ++*n;
            return DROP_RX_BAD_CHAIN;
        }
        room += chain_capacity(rb, c);
    }
    return DROP_N;
}

/* Segment the packet after all: no buffer, or not even a whole burst of them, holds it. */
static bool split_instead(struct tx_frame *f, const struct vq *vq)
{
    if (!f->p || f->s.index || !(f->p->offload & OFFLOAD_GSO) || f->s.step) {
        return false;
    }
    return segmenter_init(&f->s, f->p, vq->takes & (uint16_t)~OFFLOAD_GSO) == DROP_N &&
           segmenter_next(&f->s, &f->seg);
}

/* A segment into as many chains as it needs from `at` on; DROP_N, or why not, and chains used up. */
static NOINLINE int out_spread(struct vq *vq, const struct gmem *mem, const struct ring_burst *rb,
                               uint32_t at, uint32_t *lens, const struct pkt *p,
                               struct segment *seg, uint32_t *n_chains)
{
    uint64_t need = (uint64_t)vq->hdr_len + seg->head_len + seg->len;
    uint32_t n;
    int why = reserve(vq, rb, at, need, lens, &n);

    if (unlikely(why != DROP_N)) {
        *n_chains += why == DROP_RX_BAD_CHAIN ? n : 0;
        return why;
    }
    struct out_pos o = {.rb = rb, .vq = vq, .mem = mem, .chain = at, .lens = lens};

    seg->h.num_buffers = (uint16_t)n;
    *n_chains += n;
    if (unlikely(!out_segment(o, p, seg))) {
        const struct ring_log *log = load_acquire(&vq->ring.log);

        if (log) {
            ring_log_payload(log, rb, at, n, lens); /* the guest is told of none of it */
        }
        memset(&lens[at], 0, n * sizeof(*lens));
        return DROP_RX_UNMAPPED;
    }
    return DROP_N;
}

/* Send as much of the packet in f as the chains from `at` on hold. */
static void send_segments(struct vq *vq, const struct gmem *mem, const struct ring_burst *rb,
                          uint32_t at, uint32_t *lens, struct tx_frame *f, struct tx_result *r)
{
    do {
        struct segment *seg = &f->seg;
        uint32_t first = at + r->n_chains;

        if (likely(first < rb->n) && out_flat(vq, mem, &rb->chain[first], f->p, seg, &lens[first])) {
            prefetch_chain(vq, mem, rb, first + AHEAD);
            r->n_chains++;
            r->why = DROP_N;
        } else {
            r->why = out_spread(vq, mem, rb, first, lens, f->p, seg, &r->n_chains);
            if (unlikely(r->why != DROP_N)) {
                return;
            }
        }
        r->frames++;
        r->bytes += seg->head_len + seg->len;
    } while (segmenter_next(&f->s, &f->seg));
}

void HOT(port_vhost_out)(struct vq *vq, const struct gmem *mem, const struct ring_burst *rb,
                         uint32_t at, const struct pkt *p, uint32_t *lens, struct tx_frame *f,
                         struct tx_result *r)
{
    *r = (struct tx_result){.why = DROP_N};
    if (f->p != p) {
        f->p = p;
        r->why = segmenter_init(&f->s, p, read_once(&vq->takes));
        if (r->why != DROP_N) {
            f->p = NULL;
            return;
        }
        segmenter_next(&f->s, &f->seg);
    }
    send_segments(vq, mem, rb, at, lens, f, r);
    bool small = r->why == DROP_BUFFERS_SMALL ||
                 (r->why == DROP_NO_BUFFERS && !at && !r->n_chains && rb->n == RING_BURST);
    if (unlikely(small) && split_instead(f, vq)) {
        send_segments(vq, mem, rb, at, lens, f, r);
    }
    r->need_more = r->why == DROP_NO_BUFFERS;
    f->p = r->need_more ? p : NULL;
}
