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
static ALWAYS_INLINE void split_read_desc(struct ring_seg *to, const struct vring_desc GUEST *table,
                                          uint32_t i)
{
    typedef uint64_t v2 __attribute__((vector_size(16), aligned(8), may_alias));

    *(v2 *)to = *GUEST_PTR(const volatile v2, table + i);
}

/* A chain of more than one plain descriptor. Cold enough to live out of line (ring_dev.c). */
void split_walk_chain(const struct ring *r, const struct gmem *mem, struct ring_burst *b,
                      struct ring_chain *c);

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
    const uint16_t *entry = GUEST_PTR(const uint16_t, r->avail->ring);
    const struct vring_desc GUEST *desc = r->desc;
    const uint32_t mask = r->num - 1;
    const uint16_t plain = r->write ? VRING_DESC_F_WRITE : 0;
    uint32_t idx = r->idx, have = (uint16_t)(r->avail_seen - idx), n;

    b->n = 0;
    b->n_pool = 0;
    if (have < max) {
        r->avail_seen = ring_s1_load_avail_idx(GUEST_PTR(const uint16_t, &r->avail->idx));
        have = (uint16_t)(r->avail_seen - idx);
        if (unlikely(have > r->num)) {
            r->avail_seen = (uint16_t)idx;
            r->broken = r->broken ? r->broken : RING_FAULT_AVAIL_JUMP;
        }
    }
    if (unlikely(r->broken)) {
        return 0;
    }
    n = MIN(have, max);
    struct ring_chain *c = b->chain, *end = c + n;
    for (; c < end; c++) {
        uint32_t head = read_once(&entry[idx++ & mask]);

        if (unlikely(head > mask)) {
            r->broken = RING_FAULT_HEAD_RANGE;
            break;
        }
        c->meta = RING_META_PLAIN(head);
        split_read_desc(&c->seg, desc, head);
        if (unlikely(c->seg.flags != plain)) {
            split_walk_chain(r, load_acquire(&r->mem), b, c);
            if (c->fault == RING_RETRY) {
                break; /* no room behind the others: the first chain of the next burst */
            }
        }
    }
    b->n = (uint32_t)(c - b->chain);
    return b->n;
}

static ALWAYS_INLINE void split_dev_publish(struct ring *r, const struct ring_burst *b, uint32_t n,
                                            const uint32_t *lens)
{
    /* id and len in one store; the entries of the used ring start four bytes behind its base */
    typedef uint64_t used_elem __attribute__((aligned(4), may_alias));
    volatile used_elem *elem = GUEST_PTR(volatile used_elem, r->used->ring);
    const struct ring_chain *c = b->chain;
    const uint32_t mask = r->num - 1;
    uint32_t at = r->idx;

    for (uint32_t i = 0; i < n; i++, c++) {
        uint64_t len = lens ? lens[i] : 0;

        elem[at++ & mask] = (uint64_t)c->id | len << 32;
    }
    r->idx = (uint16_t)at;
    ring_s2_store_used_idx(GUEST_PTR(uint16_t, &r->used->idx), r->idx);
}

static ALWAYS_INLINE bool split_dev_signal_due(struct ring *r)
{
    uint16_t from = r->signalled;

    if (unlikely(!r->signalled_valid)) {
        r->signalled_valid = true;
        r->signalled = r->idx;
        return true;
    }
    r->signalled = r->idx;
    if (r->event_idx) {
        return vring_need_event(read_once(split_used_event(r)), r->idx, from);
    }
    return from != r->idx && !(read_once(GUEST_PTR(const uint16_t, &r->avail->flags)) &
                               VRING_AVAIL_F_NO_INTERRUPT);
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
