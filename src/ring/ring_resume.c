/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seen from the place where the device goes on, the slots of a ring are, in their order,
 *
 *   available, or written   a burst that was cut off writes behind an available one
 *   used                    the first slot of a chain of the lap before; or never touched
 *   rest                    the other slots of such a chain, which the device never writes
 *
 * which is checked from the last slot to the first: a driver that runs meanwhile makes slots available
 * in their order, so what is seen later is never behind what was seen before.  A chain that it is just
 * building has all slots but the first: one gap is allowed.
 */
#include "ring/ring_resume.h"

#include "ring/ring.h"

enum slot { SLOT_AVAILABLE, SLOT_WRITTEN, SLOT_USED, SLOT_REST };

struct place {
    uint32_t at;
    bool wrap;
};

struct resume {
    struct vring_packed_desc *desc;
    uint32_t num;
    bool write;
};

static struct place ahead(const struct resume *r, struct place p, uint32_t slots)
{
    uint32_t at = p.at + slots;

    return at < r->num ? (struct place){at, p.wrap} : (struct place){at - r->num, !p.wrap};
}

static enum slot slot_of(uint16_t flags, bool wrap)
{
    uint16_t s = flags & PACKED_STATE;

    return s == packed_avail_bits(wrap)    ? SLOT_AVAILABLE
           : s == packed_used_bits(wrap)   ? SLOT_WRITTEN
           : s == packed_used_bits(!wrap)  ? SLOT_USED
                                           : SLOT_REST;
}

static enum slot look(const struct resume *r, struct place p, uint16_t *flags)
{
    *flags = ring_p1_load_flags(&r->desc[p.at].flags);
    return slot_of(*flags, p.wrap);
}

/* May a slot that is not available be in front of one that is `next`? */
static bool follows(const struct resume *r, struct place p, enum slot s, uint16_t flags, bool last,
                    enum slot next)
{
    if (s == SLOT_REST) {
        bool goes_on = flags & VRING_DESC_F_NEXT;

        return last ? !goes_on : next == SLOT_AVAILABLE || goes_on == (next == SLOT_REST);
    }
    /* A chain that was used had a buffer. */
    return last || next != SLOT_REST || read_once(&r->desc[p.at].addr);
}

/* Does the ring look as if its device went on at p? *written: behind so many slots lies the last one
 * that it wrote in this lap, 0: none. */
static bool plausible(const struct resume *r, struct place p, uint32_t *written)
{
    enum slot next = SLOT_USED;
    unsigned gaps = 0;
    bool run = false;

    *written = 0;
    for (uint32_t i = r->num; i-- > 0;) {
        struct place here = ahead(r, p, i);
        uint16_t flags;
        enum slot s = look(r, here, &flags);

        if (s == SLOT_WRITTEN) {
            *written = *written ? *written : i;
        }
        if (s == SLOT_AVAILABLE || s == SLOT_WRITTEN) {
            run = true;
        } else if ((run && gaps++) || !follows(r, here, s, flags, i + 1 == r->num, next)) {
            return false;
        }
        next = s;
    }
    return next != SLOT_WRITTEN && (!*written || next == SLOT_AVAILABLE);
}

/* Slots of the chain whose used descriptor is at p. A driver puts the id into its last slot. */
static uint32_t written_slots(const struct resume *r, struct place p, uint32_t most)
{
    uint16_t id = read_once(&r->desc[p.at].id), flags;

    for (uint32_t n = 1; n < most; n++) {
        struct place here = ahead(r, p, n);

        if (look(r, here, &flags) != SLOT_AVAILABLE) {
            break;
        }
        if (!(flags & VRING_DESC_F_NEXT)) {
            return read_once(&r->desc[here.at].id) == id ? n + 1 : 1;
        }
    }
    return 1;
}

/* The burst that begins at p is written: the last step of packed_dev_publish(). */
static void show(const struct resume *r, struct place p)
{
    uint16_t flags = packed_used_bits(p.wrap) | (r->write ? VRING_DESC_F_WRITE : 0);

    ring_p2_store_flags(&r->desc[p.at].flags, flags);
}

/* Slots of the chain at p, at most so many. */
static uint32_t chain_slots(const struct resume *r, struct place p, uint32_t most)
{
    uint32_t n = 0;
    uint16_t flags;

    do {
        look(r, ahead(r, p, n++), &flags);
    } while (flags & VRING_DESC_F_NEXT && n < most);
    return n;
}

static uint32_t slots_at(const struct resume *r, struct place p, uint32_t most)
{
    uint16_t flags;

    return look(r, p, &flags) == SLOT_WRITTEN ? written_slots(r, p, most) : chain_slots(r, p, most);
}

/* Some chains from p on are written, the last one `last` slots behind it: show all up to its end, with
 * length 0 those that are not, and on a receive ring all. */
static struct place show_part(const struct resume *r, struct place p, uint32_t last)
{
    uint32_t i = 0;

    while (i <= last) {
        struct place here = ahead(r, p, i);
        uint16_t flags;
        bool written = look(r, here, &flags) == SLOT_WRITTEN;
        uint32_t n = slots_at(r, here, r->num - i);

        if (!written) {
            write_once(&r->desc[here.at].id, read_once(&r->desc[ahead(r, here, n - 1).at].id));
        }
        if (!written || r->write) {
            write_once(&r->desc[here.at].len, 0);
        }
        if (!written && i) {
            show(r, here);
        }
        i += n;
    }
    show(r, p);
    return ahead(r, p, i);
}

/* A burst of `slots` from p on that is complete but for the flags of its first descriptor: behind the
 * first chain lies its end, or the used descriptor of the second. */
static bool complete(const struct resume *r, struct place p, uint32_t slots, uint32_t written)
{
    uint32_t n = 0;
    uint16_t flags;

    do {
        if (look(r, ahead(r, p, n++), &flags) != SLOT_AVAILABLE) {
            return false;
        }
    } while (flags & VRING_DESC_F_NEXT && n < slots);
    return n == slots ? !written
                      : written < slots && look(r, ahead(r, p, n), &flags) == SLOT_WRITTEN;
}

/* Behind the written chain that begins `last` slots behind p. */
static struct place end_of(const struct resume *r, struct place p, uint32_t last)
{
    return ahead(r, p, last + written_slots(r, ahead(r, p, last), r->num - last));
}

static uint16_t base_of(struct place p)
{
    return (uint16_t)(p.at | (p.wrap ? VRING_PACKED_WRAP : 0));
}

/* Slots from one place to another, at most once round; more than num: they are not so. */
static uint32_t distance(const struct resume *r, struct place from, struct place to)
{
    return to.at - from.at + (from.wrap != to.wrap ? r->num : 0);
}

static bool read_word(const struct resume *r, uint64_t word, struct place *now, struct place *old)
{
    uint32_t wraps = (uint32_t)(word >> 32) & 0xffff;

    *now = (struct place){word & 0xffff, wraps & 1};
    *old = (struct place){word >> 16 & 0xffff, wraps >> 8 & 1};
    return !(wraps & 0xfefe) && now->at < r->num && old->at < r->num &&
           distance(r, *old, *now) <= r->num;
}

enum ring_resume packed_resume(struct vring_packed_desc GUEST *desc, uint32_t num, bool write,
                               uint64_t word, const uint16_t *end, uint16_t *base)
{
    struct resume r = {GUEST_PTR(struct vring_packed_desc, desc), num, write};
    struct place now, old;
    uint32_t written;
    uint16_t flags;

    if (!read_word(&r, word, &now, &old)) {
        return RING_RESUME_NOT;
    }
    uint32_t slots = distance(&r, old, now);
    enum slot first = slots ? look(&r, old, &flags) : SLOT_WRITTEN;
    enum ring_resume rc = RING_RESUME_AT;
    if (first == SLOT_AVAILABLE) {
        if (end || !plausible(&r, old, &written) || !complete(&r, old, slots, written)) {
            return RING_RESUME_NOT;
        }
        show(&r, old);
        rc = RING_RESUME_FINISHED;
    } else {
        /* Used ahead of its lap, it is a part of the next burst, once round. */
        if (!plausible(&r, now, &written) || (first == SLOT_USED && written < num - slots)) {
            return RING_RESUME_NOT;
        }
        if (end && (!written || base_of(end_of(&r, now, written)) != *end)) {
            return RING_RESUME_NOT;
        }
        if (written) {
            now = show_part(&r, now, written);
            rc = RING_RESUME_FINISHED;
        }
    }
    *base = base_of(now);
    return rc;
}
