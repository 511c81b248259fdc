/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split layout (virtio 1.4, 2.7), driver side.  Included by ring/ring_drv.h only; contracts and the
 * meaning of D1..D4 are there.
 */
#ifndef RING_RING_DRV_SPLIT_H
#define RING_RING_DRV_SPLIT_H

#include "ring/ring_order.h"

static ALWAYS_INLINE uint16_t *split_drv_used_event(const struct ring_drv *r)
{
    return &r->avail->ring[r->num];
}

static ALWAYS_INLINE const uint16_t *split_drv_avail_event(const struct ring_drv *r)
{
    return (const uint16_t *)&r->used->ring[r->num];
}

/* Do chains come from a private table each time? See "held" in ring_drv.h. */
static ALWAYS_INLINE bool split_drv_rewrites(const struct ring_drv *r)
{
    return r->table != r->desc;
}

/* Write the descriptors of a chain, each in one store. */
static ALWAYS_INLINE void split_drv_put(struct ring_drv *r, uint16_t id)
{
    typedef uint64_t v2 __attribute__((vector_size(16), aligned(8), may_alias));

    for (; id != RING_DRV_NONE; id = r->slot[id].next) {
        *(volatile v2 *)&r->desc[id] = *(const v2 *)&r->table[id];
    }
}

/* The next avail entry is id. Written only where it changes, unless all is written each time. */
static ALWAYS_INLINE void split_drv_offer(struct ring_drv *r, uint16_t id)
{
    uint16_t *entry = &r->avail->ring[r->avail_idx++ & (r->num - 1)];

    if (split_drv_rewrites(r)) {
        split_drv_put(r, id);
        write_once(entry, id);
    } else if (unlikely(read_once(entry) != id)) {
        write_once(entry, id);
    }
    r->slot[id].state = RING_DRV_POSTED;
}

static ALWAYS_INLINE bool split_drv_publish(struct ring_drv *r)
{
    uint16_t old = r->published;

    if (old == r->avail_idx) {
        return false;
    }
    r->published = r->avail_idx;
    ring_d1_store_avail_idx(&r->avail->idx, r->avail_idx);
    ring_d3_fence(); /* the index before the look at the request */
    if (r->event_idx) {
        return vring_need_event(read_once(split_drv_avail_event(r)), r->avail_idx, old);
    }
    return !(read_once(&r->used->flags) & VRING_USED_F_NO_NOTIFY);
}

/* Used entries to look at, at most max. */
static ALWAYS_INLINE uint32_t split_drv_have(struct ring_drv *r, uint32_t max)
{
    uint16_t have = (uint16_t)(r->used_seen - r->used_idx);

    if (have < max) {
        r->used_seen = ring_d2_load_used_idx(&r->used->idx);
        have = (uint16_t)(r->used_seen - r->used_idx);
        if (unlikely(have > (uint16_t)(r->published - r->used_idx))) {
            r->broken = r->broken ? r->broken : RING_DRV_FAULT_USED_JUMP;
        }
    }
    return unlikely(r->broken) ? 0 : MIN((uint32_t)have, max);
}

static ALWAYS_INLINE uint32_t split_drv_reap(struct ring_drv *r, struct ring_drv_used *out,
                                             uint32_t max)
{
    const uint32_t n = split_drv_have(r, max), mask = r->num - 1;
    uint32_t i;

    for (i = 0; i < n; i++) {
        const struct vring_used_elem *e = &r->used->ring[(uint16_t)(r->used_idx + i) & mask];

        if (unlikely(!drv_take_used(r, read_once(&e->id), read_once(&e->len), &out[i]))) {
            break;
        }
    }
    r->used_idx = (uint16_t)(r->used_idx + i);
    return i;
}

static ALWAYS_INLINE uint32_t split_drv_recycle(struct ring_drv *r, uint32_t max, uint64_t *bytes)
{
    const uint32_t n = split_drv_have(r, max), mask = r->num - 1;
    const bool rewrites = split_drv_rewrites(r);
    uint64_t sum = 0;
    uint32_t i;

    for (i = 0; i < n; i++) {
        const uint32_t at = (uint16_t)(r->used_idx + i) & mask;
        const struct vring_used_elem *e = &r->used->ring[at];
        uint32_t id = read_once(&e->id), len = read_once(&e->len);

        /* In order, and all chains posted: the entry that comes back is the one to be written. */
        if (likely(id == read_once(&r->avail->ring[at]) && (r->avail_idx & mask) == at) &&
            likely(id < r->num && (!bytes || len <= r->slot[id].room))) {
            if (rewrites) {
                split_drv_put(r, (uint16_t)id);
                write_once(&r->avail->ring[at], (uint16_t)id);
            }
            r->avail_idx++;
        } else {
            struct ring_drv_used u;

            if (!drv_take_used(r, id, len, &u)) {
                break;
            }
            split_drv_offer(r, u.id);
            len = u.len;
        }
        sum += len;
    }
    r->used_idx = (uint16_t)(r->used_idx + i);
    if (bytes) {
        *bytes += sum;
    }
    return i;
}

static ALWAYS_INLINE bool split_drv_more(const struct ring_drv *r)
{
    return !r->broken && (r->used_seen != r->used_idx || read_once(&r->used->idx) != r->used_idx);
}

static ALWAYS_INLINE bool split_drv_arm(struct ring_drv *r)
{
    if (r->event_idx) {
        write_once(split_drv_used_event(r), r->used_idx);
    } else {
        write_once(&r->avail->flags, 0);
    }
    r->armed = true;
    ring_d4_fence(); /* the request before the last look */
    return split_drv_more(r);
}

/* With the event index the request is left behind: one signal per 65,536 entries is the price. */
static ALWAYS_INLINE void split_drv_disarm(struct ring_drv *r)
{
    if (!r->event_idx) {
        write_once(&r->avail->flags, VRING_AVAIL_F_NO_INTERRUPT);
    }
    r->armed = false;
}

#endif
