/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packed layout (virtio 1.4, 2.8), driver side.  Included by ring/ring_drv.h only; contracts are
 * there, the meaning of Q1..Q4 is in ring/ring_order.h.
 *
 *       used_at              first                at
 *   ......| published, not used |  fresh: written  | free ......
 *           (packed.out slots)     (packed.fresh)
 *
 * The device goes from chain to chain and stops at the first that is not available.  So everything
 * fresh is written as it will be, except for the flags of the first head: with them, written last,
 * all of it becomes visible at once.
 */
#ifndef RING_RING_DRV_PACKED_H
#define RING_RING_DRV_PACKED_H

#include "ring/ring_order.h"

static ALWAYS_INLINE void packed_drv_step(const struct ring_drv *r, uint16_t *at, bool *wrap,
                                          uint32_t slots)
{
    uint32_t to = *at + slots;

    if (unlikely(to >= r->num)) {
        to -= r->num;
        *wrap = !*wrap;
    }
    *at = (uint16_t)to;
}

/* Write one descriptor at the next slot. Plain stores: it is nobody else's before it is published.
 */
static ALWAYS_INLINE void packed_drv_put(struct ring_drv *r, const struct vring_desc *from,
                                         uint16_t id)
{
    struct ring_drv_packed *p = &r->packed;
    volatile struct vring_packed_desc *d = &r->pdesc[p->at];
    uint16_t flags = from->flags | packed_avail_bits(p->wrap);

    d->addr = from->addr;
    d->len = from->len;
    d->id = id;
    if (p->fresh) {
        d->flags = flags;
    } else {
        p->first = p->at;
        p->first_flags = flags;
    }
    p->fresh++;
    packed_drv_step(r, &p->at, &p->wrap, 1);
}

/* The next chain is id. There is room: a slot is in use for each descriptor that is not free. */
static ALWAYS_INLINE void packed_drv_offer(struct ring_drv *r, uint16_t id)
{
    for (uint16_t i = id; i != RING_DRV_NONE; i = r->slot[i].next) {
        packed_drv_put(r, &r->table[i], id);
    }
    r->slot[id].state = RING_DRV_POSTED;
    r->avail_idx++;
}

static ALWAYS_INLINE bool packed_drv_publish(struct ring_drv *r)
{
    struct ring_drv_packed *p = &r->packed;
    uint32_t slots = p->fresh;

    if (!slots) {
        return false;
    }
    p->out = (uint16_t)(p->out + slots);
    p->fresh = 0;
    r->published = r->avail_idx;
    ring_q1_store_flags(&r->pdesc[p->first].flags, p->first_flags);
    ring_q3_fence(); /* the flags before the look at the request */
    return vring_packed_wants(read_once(&r->device_event->word), r->event_idx, r->num, p->at,
                              p->wrap, slots);
}

/* Is the descriptor at this slot used, in this lap? */
static ALWAYS_INLINE bool packed_drv_is_used(const struct ring_drv *r, uint16_t at, bool wrap)
{
    return (ring_q2_load_flags(&r->pdesc[at].flags) & PACKED_STATE) == packed_used_bits(wrap);
}

/* Ring slots of a posted chain. */
static ALWAYS_INLINE uint32_t packed_drv_slots(const struct ring_drv *r, uint16_t id)
{
    uint32_t n = 1;

    while ((id = r->slot[id].next) != RING_DRV_NONE) {
        n++;
    }
    return n;
}

/* Look over up to max used chains, from the current slot on; *at and *wrap: behind the last. */
static ALWAYS_INLINE uint32_t packed_drv_look(const struct ring_drv *r, uint32_t max, uint16_t *at,
                                              bool *wrap)
{
    uint32_t n = 0, left = r->packed.out;

    *at = r->packed.used_at;
    *wrap = r->packed.used_wrap;
    while (n < max && left && !r->broken && packed_drv_is_used(r, *at, *wrap)) {
        uint16_t id = read_once(&r->pdesc[*at].id);
        uint32_t slots = id < r->num ? packed_drv_slots(r, id) : 1;

        n++;
        slots = MIN(slots, left);
        left -= slots;
        packed_drv_step(r, at, wrap, slots);
    }
    return n;
}

/* The device may change an id between this look and reaping: then fewer come out, and a fault. */
static ALWAYS_INLINE uint32_t packed_drv_have(const struct ring_drv *r, uint32_t max)
{
    uint16_t at;
    bool wrap;

    return packed_drv_look(r, max, &at, &wrap);
}

/* Take the used entry at the current slot, which is used. */
static ALWAYS_INLINE bool packed_drv_take(struct ring_drv *r, struct ring_drv_used *out)
{
    struct ring_drv_packed *p = &r->packed;
    const volatile struct vring_packed_desc *d = &r->pdesc[p->used_at];
    uint32_t slots;

    if (unlikely(!drv_take_used(r, d->id, d->len, out))) {
        return false;
    }
    slots = packed_drv_slots(r, out->id);
    if (unlikely(slots > p->out)) {
        r->broken = RING_DRV_FAULT_USED_JUMP; /* a chain that is not published yet */
        return false;
    }
    p->out = (uint16_t)(p->out - slots);
    packed_drv_step(r, &p->used_at, &p->used_wrap, slots);
    r->used_idx++;
    return true;
}

/* One more to take? A descriptor that turned although nothing is out is the device's lie. */
static ALWAYS_INLINE bool packed_drv_next(struct ring_drv *r)
{
    if (unlikely(r->broken) || !packed_drv_is_used(r, r->packed.used_at, r->packed.used_wrap)) {
        return false;
    }
    if (unlikely(!r->packed.out)) {
        r->broken = RING_DRV_FAULT_USED_JUMP;
        return false;
    }
    return true;
}

static ALWAYS_INLINE uint32_t packed_drv_reap(struct ring_drv *r, struct ring_drv_used *out,
                                              uint32_t max)
{
    uint32_t n = 0;

    while (n < max && packed_drv_next(r) && packed_drv_take(r, &out[n])) {
        n++;
    }
    return n;
}

/*
 * Recycle chains of one descriptor in a ring whose slots are all taken: what comes back goes into the
 * same slot again.  Not the first of a publication.  Stops at whatever is not so plain.
 */
static ALWAYS_INLINE uint32_t packed_drv_recycle_run(struct ring_drv *r, uint32_t max,
                                                     uint64_t *bytes)
{
    typedef uint64_t len_id_flags __attribute__((may_alias));
    struct ring_drv_packed *p = &r->packed;
    const uint16_t used = packed_used_bits(p->used_wrap), avail = packed_avail_bits(p->wrap);
    const uint32_t from = p->at, stop = MIN(from + MIN(max, (uint32_t)p->out), r->num);
    uint32_t at = from;

    if (!p->fresh || p->used_at != from) {
        return 0;
    }
    for (; at < stop; at++) {
        struct vring_packed_desc *d = &r->pdesc[at];
        if (unlikely((ring_q2_load_flags(&d->flags) & PACKED_STATE) != used)) {
            break;
        }
        uint32_t id = *(volatile uint16_t *)&d->id, len = *(volatile uint32_t *)&d->len;
        const struct vring_desc *t = &r->table[id];
        const struct ring_drv_slot *s = &r->slot[id];

        if (unlikely(id >= r->num || s->state != RING_DRV_POSTED || s->next != RING_DRV_NONE ||
                     (bytes && len > s->room))) {
            break;
        }
        *(volatile uint64_t *)&d->addr = t->addr;
        *(volatile len_id_flags *)&d->len =
            t->len | (uint64_t)id << 32 | (uint64_t)(t->flags | avail) << 48;
        if (bytes) {
            *bytes += len;
        }
    }
    const uint16_t n = (uint16_t)(at - from);
    p->out = (uint16_t)(p->out - n);
    p->fresh = (uint16_t)(p->fresh + n);
    r->avail_idx = (uint16_t)(r->avail_idx + n);
    r->used_idx = (uint16_t)(r->used_idx + n);
    packed_drv_step(r, &p->at, &p->wrap, n);
    packed_drv_step(r, &p->used_at, &p->used_wrap, n);
    return n;
}

static ALWAYS_INLINE uint32_t packed_drv_recycle(struct ring_drv *r, uint32_t max, uint64_t *bytes)
{
    struct ring_drv_used u;
    uint32_t n = 0;

    while (n < max && packed_drv_next(r) && packed_drv_take(r, &u)) {
        packed_drv_offer(r, u.id);
        if (bytes) {
            *bytes += u.len;
        }
        n++;
        n += packed_drv_recycle_run(r, max - n, bytes);
    }
    return n;
}

static ALWAYS_INLINE bool packed_drv_more(const struct ring_drv *r)
{
    uint16_t flags = read_once(&r->pdesc[r->packed.used_at].flags);

    return !r->broken && r->packed.out &&
           (flags & PACKED_STATE) == packed_used_bits(r->packed.used_wrap);
}

static ALWAYS_INLINE bool packed_drv_arm(struct ring_drv *r)
{
    const struct ring_drv_packed *p = &r->packed;
    uint32_t off_wrap = p->used_at | (p->used_wrap ? VRING_PACKED_WRAP : 0);

    write_once(&r->driver_event->word, r->event_idx ? VRING_EVENT_WORD(off_wrap, VRING_EVENT_F_DESC)
                                                    : VRING_EVENT_WORD(0, VRING_EVENT_F_ENABLE));
    r->armed = true;
    ring_q4_fence(); /* the request before the last look */
    return packed_drv_more(r);
}

static ALWAYS_INLINE void packed_drv_disarm(struct ring_drv *r)
{
    write_once(&r->driver_event->word, VRING_EVENT_WORD(0, VRING_EVENT_F_DISABLE));
    r->armed = false;
}

#endif
