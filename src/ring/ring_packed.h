/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packed layout (virtio 1.4, 2.8), device side.  Included by ring/ring.h only; contracts are there.
 *
 * One ring of descriptors that driver and device write in turn.  A chain lies in neighbouring
 * slots, its id is in the last of them, and its used entry goes into the first; the device goes on
 * behind the chain.  A chain that was taken in order is used in order, so one position serves both.
 *
 *   driver writes:  addr, len, id, the rest of the chain,
 *                   then the head's flags                             P1 orders our reads
 *   device writes:  payload, id, len, other used entries,
 *                   then the first one's flags                        P2 orders our writes
 *   desc.flags, fence S3, then look at the driver event               or a wake-up is lost
 *   device event, fence P4, then look at desc.flags                   or a kick is lost
 *
 * In front of those flags the device notes where it will be, for who comes after it (P5,
 * ring/ring_resume.h).
 *
 * Only the head of a chain is asked whether it is available: the driver turns it last.  Its flags
 * are read once, and before everything else in the chain.
 *
 * Rejected: reading len, id and flags as one word.  It would save a load, but not on 32 bits, and
 * no ordering of the memory model speaks of accesses of different width.
 */
#ifndef RING_RING_PACKED_H
#define RING_RING_PACKED_H

#include "ring/ring_order.h"

#define PACKED_STATE (VRING_PACKED_F_AVAIL | VRING_PACKED_F_USED)
#define PACKED_KNOWN (PACKED_STATE | VRING_DESC_F_NEXT | VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT)

/* What the state bits of a descriptor are when it is available, or used, in this lap. */
static ALWAYS_INLINE uint16_t packed_avail_bits(bool wrap)
{
    return wrap ? VRING_PACKED_F_AVAIL : VRING_PACKED_F_USED;
}
static ALWAYS_INLINE uint16_t packed_used_bits(bool wrap)
{
    return wrap ? PACKED_STATE : 0;
}

/*
 * A chain of more than one plain descriptor, whose head at slot `at` is available and has these
 * flags.  At most `room` slots can be its own.  Fills in c; cold enough to live out of line
 * (ring_dev.c).  False if it is not to be taken: the ring is broken, or c->fault is RING_RETRY.
 */
bool packed_walk_chain(struct ring *r, const struct gmem *mem, struct ring_burst *b,
                       struct ring_chain *c, uint32_t at, uint16_t flags, uint32_t room);

/* Take chains of one plain descriptor from d on, up to end; returns the first that is none, and its
 * flags. */
static ALWAYS_INLINE const struct vring_packed_desc *
packed_take_plain(const struct vring_packed_desc *d, const struct vring_packed_desc *end,
                  const uint16_t plain, struct ring_chain **to, uint16_t *flags)
{
    struct ring_chain *c = *to;

    for (; d < end; d++, c++) {
        *flags = ring_p1_load_flags(&d->flags);
        if (unlikely((*flags & PACKED_KNOWN) != plain)) {
            break;
        }
        c->seg.addr = read_once(&d->addr);
        c->seg.len_slots = read_once(&d->len) + RING_SLOTS(1);
        c->meta = RING_META_PLAIN(read_once(&d->id));
    }
    *to = c;
    return d;
}

static ALWAYS_INLINE uint32_t packed_dev_peek(struct ring *r, struct ring_burst *b, uint32_t max)
{
    const struct vring_packed_desc *desc = GUEST_PTR(const struct vring_packed_desc, r->pdesc), *d;
    const uint32_t num = r->num, from = r->idx;
    uint16_t plain = (uint16_t)(packed_avail_bits(r->wrap) | (r->write ? VRING_DESC_F_WRITE : 0));
    uint32_t at = from, limit = MIN(max, num);
    struct ring_chain *c = b->chain, *end = c + limit;

    b->n = 0;
    b->n_pool = 0;
    if (unlikely(r->broken)) {
        return 0;
    }
    while (c < end) {
        const uint32_t stop = MIN(at + (uint32_t)(end - c), num); /* of this lap */
        uint16_t flags = 0;

        d = packed_take_plain(&desc[at], &desc[stop], plain, &c, &flags);
        at = (uint32_t)(d - desc);
        if (unlikely(at < stop)) {
            uint32_t before = at >= from ? at - from : at + num - from; /* slots of this burst */

            if ((flags ^ plain) & PACKED_STATE ||
                !packed_walk_chain(r, load_acquire(&r->mem), b, c, at, flags, num - before)) {
                break;
            }
            at += c->seg.slots;
            before += c->seg.slots;
            c++;
            end = MIN(end, c + (num - before)); /* never round the ring */
        }
        if (unlikely(at >= num)) {
            at -= num;
            plain ^= PACKED_STATE;
        }
    }
    b->n = (uint32_t)(c - b->chain);
    return b->n;
}

/* The used descriptors of chains 1 to n - 1; returns where the next one will be and its flags. */
static ALWAYS_INLINE uint32_t packed_use(struct vring_packed_desc *desc, const uint32_t num,
                                         uint32_t at, uint16_t *flags, const struct ring_chain *c,
                                         uint32_t n, const uint32_t *lens)
{
    /* len, id and flags in one store: nobody looks at this one before the first has turned */
    typedef uint64_t len_id_flags __attribute__((may_alias));
    const struct ring_chain *last = c + n - 1;
    uint64_t f = (uint64_t)*flags << 48;

    for (;; c++) {
        at += c->seg.slots;
        if (unlikely(at >= num)) {
            at -= num;
            f ^= (uint64_t)PACKED_STATE << 48;
        }
        if (c == last) {
            break;
        }
        *(volatile len_id_flags *)&desc[at].len =
            f | (uint64_t)c[1].id << 32 | (lens ? *++lens : 0);
    }
    *flags = (uint16_t)(f >> 48);
    return at;
}

static ALWAYS_INLINE void packed_dev_publish(struct ring *r, const struct ring_burst *b, uint32_t n,
                                             const uint32_t *lens)
{
    struct vring_packed_desc *desc = GUEST_PTR(struct vring_packed_desc, r->pdesc);
    struct vring_packed_desc *first = &desc[r->idx];
    const uint32_t num = r->num, from = r->idx;
    uint16_t first_flags = packed_used_bits(r->wrap) | (lens ? VRING_DESC_F_WRITE : 0);
    const uint16_t base = ring_packed_base(r);
    uint16_t flags = first_flags;
    uint32_t at;

    *(volatile uint32_t *)&first->len = lens ? lens[0] : 0;
    *(volatile uint16_t *)&first->id = b->chain[0].id;
    at = lens ? packed_use(desc, num, from, &flags, b->chain, n, lens)
              : packed_use(desc, num, from, &flags, b->chain, n, NULL);
    r->wrap = flags & VRING_PACKED_F_AVAIL;
    r->idx = (uint16_t)at;
    r->signalled = (uint16_t)MIN(num, r->signalled + (at > from ? at - from : at + num - from));
    if (r->resume) {
        ring_p5_store_resume(r->resume, ring_resume_word(ring_packed_base(r), base));
    }
    ring_p2_store_flags(&first->flags, first_flags);
}

static ALWAYS_INLINE bool packed_dev_signal_due(struct ring *r)
{
    uint32_t slots = r->signalled;

    r->signalled = 0;
    if (unlikely(!r->signalled_valid)) {
        r->signalled_valid = true;
        return true;
    }
    return vring_packed_wants(read_once(GUEST_PTR(const uint32_t, &r->driver_event->word)),
                              r->event_idx, r->num, r->idx, r->wrap, slots);
}

static ALWAYS_INLINE bool packed_dev_more(struct ring *r)
{
    uint16_t flags = read_once(GUEST_PTR(const uint16_t, &r->pdesc[r->idx].flags));

    return (flags & PACKED_STATE) == packed_avail_bits(r->wrap);
}

static ALWAYS_INLINE bool packed_dev_arm(struct ring *r)
{
    uint32_t wish = r->event_idx ? VRING_EVENT_WORD(ring_packed_base(r), VRING_EVENT_F_DESC)
                                 : VRING_EVENT_WORD(0, VRING_EVENT_F_ENABLE);

    if (r->broken) {
        return false;
    }
    write_once(GUEST_PTR(uint32_t, &r->device_event->word), wish);
    r->armed = true;
    ring_p4_fence(); /* the request before the last look */
    return packed_dev_more(r);
}

static ALWAYS_INLINE void packed_dev_disarm(struct ring *r)
{
    write_once(GUEST_PTR(uint32_t, &r->device_event->word),
               VRING_EVENT_WORD(0, VRING_EVENT_F_DISABLE));
    r->armed = false;
}

#endif
