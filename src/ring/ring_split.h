/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split layout (virtio 1.4, 2.7), device side.  Included by ring/ring.h only; contracts are there.
 *
 *   driver writes:  desc[], avail->ring[], then avail->idx          S1 orders our reads
 *   device writes:  payload, used->ring[], then used->idx           S2 orders our writes
 *   used->idx, fence S3, then look at avail->flags / used_event     or a wake-up is lost
 *   avail_event / used->flags, fence S4, then look at avail->idx    or a kick is lost
 */
#ifndef RING_RING_SPLIT_H
#define RING_RING_SPLIT_H

#include <string.h>

#include "ring/ring_order.h"

/* desc[i] read once, as one 16-byte copy that the compiler cannot repeat. */
static ALWAYS_INLINE struct vring_desc split_read_desc(const struct vring_desc GUEST *table,
                                                       uint32_t i)
{
    const uint64_t *p = GUEST_PTR(const uint64_t, table + i);
    uint64_t w[2] = {read_once(&p[0]), read_once(&p[1])};
    struct vring_desc d;

    memcpy(&d, w, sizeof(d));
    return d;
}

/* A chain of more than one plain descriptor. Cold enough to live out of line (ring_dev.c). */
void split_walk_chain(const struct ring *r, const struct gmem *mem, struct ring_burst *b,
                      struct ring_chain *c, struct vring_desc head);

static ALWAYS_INLINE uint16_t *split_used_event(const struct ring *r)
{
    return GUEST_PTR(uint16_t, &r->avail->ring[r->num]);
}

static ALWAYS_INLINE uint16_t *split_avail_event(const struct ring *r)
{
    return GUEST_PTR(uint16_t, &r->used->ring[r->num]);
}

static ALWAYS_INLINE uint32_t split_dev_peek(struct ring *r, struct ring_burst *b, uint32_t max)
{
    const uint16_t *avail_idx = GUEST_PTR(const uint16_t, &r->avail->idx);
    const uint16_t *entry = GUEST_PTR(const uint16_t, r->avail->ring);
    const struct gmem *mem = load_acquire(&r->mem);
    const uint32_t mask = r->num - 1;
    uint16_t have = (uint16_t)(r->avail_seen - r->idx);
    uint32_t n, i;

    b->n = 0;
    b->n_pool = 0;
    if (have < max) {
        r->avail_seen = ring_s1_load_avail_idx(avail_idx);
        have = (uint16_t)(r->avail_seen - r->idx);
        if (unlikely(have > r->num)) {
            r->avail_seen = r->idx;
            r->broken = r->broken ? r->broken : RING_FAULT_AVAIL_JUMP;
        }
    }
    if (unlikely(r->broken)) {
        return 0;
    }
    n = MIN((uint32_t)have, max);
    for (i = 0; i < n; i++) {
        uint16_t head = read_once(&entry[(uint16_t)(r->idx + i) & mask]);

        b->chain[i].id = head;
        if (unlikely(head > mask)) {
            r->broken = RING_FAULT_HEAD_RANGE;
            n = i;
            break;
        }
        __builtin_prefetch(GUEST_PTR(const void, r->desc + head));
    }
    for (i = 0; i < n; i++) {
        struct ring_chain *c = &b->chain[i];
        struct vring_desc d = split_read_desc(r->desc, c->id);

        c->seg.addr = d.addr;
        c->seg.len = d.len;
        c->n_seg = 1;
        c->fault = RING_FAULT_NONE;
        if (unlikely(d.flags != (r->write ? VRING_DESC_F_WRITE : 0))) {
            split_walk_chain(r, mem, b, c, d);
            if (c->fault == RING_N_FAULTS) {
                break; /* no room behind the others: the first chain of the next burst */
            }
        }
    }
    b->n = i;
    return i;
}

static ALWAYS_INLINE bool split_should_signal(struct ring *r, uint16_t old)
{
    bool need;

    ring_s3_fence(); /* used->idx before the look at what the driver wants */
    if (r->event_idx) {
        need = vring_need_event(read_once(split_used_event(r)), r->idx,
                                r->signalled_valid ? r->signalled : old);
    } else {
        need = !(read_once(GUEST_PTR(const uint16_t, &r->avail->flags)) &
                 VRING_AVAIL_F_NO_INTERRUPT);
    }
    if (unlikely(!r->signalled_valid)) {
        r->signalled_valid = true;
        need = true;
    }
    r->signalled = r->idx;
    return need;
}

static ALWAYS_INLINE bool split_dev_commit(struct ring *r, const struct ring_burst *b, uint32_t n,
                                           const uint32_t *lens)
{
    uint64_t *elem = GUEST_PTR(uint64_t, r->used->ring);
    const uint32_t mask = r->num - 1;
    uint16_t old = r->idx;

    if (!n) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t len = lens ? lens[i] : 0;

        write_once(&elem[(uint16_t)(old + i) & mask], (uint64_t)b->chain[i].id | len << 32);
    }
    r->idx = (uint16_t)(old + n);
    ring_s2_store_used_idx(GUEST_PTR(uint16_t, &r->used->idx), r->idx);
    return split_should_signal(r, old);
}

static ALWAYS_INLINE bool split_dev_more(struct ring *r)
{
    return r->avail_seen != r->idx ||
           read_once(GUEST_PTR(const uint16_t, &r->avail->idx)) != r->idx;
}

static ALWAYS_INLINE bool split_dev_arm(struct ring *r)
{
    if (r->broken) {
        return false;
    }
    if (r->event_idx) {
        write_once(split_avail_event(r), r->idx);
    } else {
        write_once(GUEST_PTR(uint16_t, &r->used->flags), 0);
    }
    r->armed = true;
    ring_s4_fence(); /* the request before the last look */
    return split_dev_more(r);
}

/* With the event index nothing is written: avail_event stays behind, and one kick per 65,536
 * entries is the price (2.7.10). */
static ALWAYS_INLINE void split_dev_disarm(struct ring *r)
{
    if (!r->event_idx) {
        write_once(GUEST_PTR(uint16_t, &r->used->flags), VRING_USED_F_NO_NOTIFY);
    }
    r->armed = false;
}

#endif
