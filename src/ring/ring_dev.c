/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device side, the parts that are not hot: set-up and the general chain walk.
 */
#include "ring/ring.h"

static const char *const fault_text[] = {
#define RING_FAULT_TEXT(sym, text) text,
    RING_FAULTS(RING_FAULT_TEXT)
#undef RING_FAULT_TEXT
};
static_assert(ARRAY_SIZE(fault_text) == RING_N_FAULTS, "one text per fault");

const char *ring_fault_text(enum ring_fault f)
{
    return (unsigned)f < RING_N_FAULTS ? fault_text[f] : "unknown fault";
}

void ring_init(struct ring *r, const struct ring_setup *s)
{
    *r = (struct ring){
        .desc = GUEST_PTR(const struct vring_desc GUEST, s->desc),
        .avail = GUEST_PTR(const struct vring_avail GUEST, s->avail),
        .used = GUEST_PTR(struct vring_used GUEST, s->used),
        .mem = s->mem,
        .num = s->num,
        .event_idx = s->event_idx,
        .indirect = s->indirect,
        .write = s->write,
        .idx = s->base,
        .avail_seen = s->base,
        .signalled = s->base,
        .fault_seq = gmem_fault_seq(),
        .hint = 0,
    };
}

/* What one walk knows: where the next segment goes and how many this chain may still have. */
struct walk {
    struct ring_burst *b;
    struct ring_chain *c;
    bool write;
};

/* Append one segment; RING_FAULT_NONE or the reason. */
static enum ring_fault add_seg(struct walk *w, const struct ring_seg *d)
{
    struct ring_burst *b = w->b;

    if (!!(d->flags & VRING_DESC_F_WRITE) != w->write) {
        return RING_FAULT_DIRECTION;
    }
    if (b->n_pool == RING_MAX_SEGS) {
        /* The pool is shared by the burst: if this chain is not alone in it, try it again first in
         * the next burst; if it is, it has more segments than any chain may have. */
        return w->c->pool ? RING_RETRY : RING_FAULT_CHAIN_LONG;
    }
    b->pool[b->n_pool++] = *d;
    return RING_FAULT_NONE;
}

/* An indirect table (2.7.5.3): read through translation, since it may cross regions. */
static enum ring_fault walk_indirect(struct walk *w, const struct gmem *mem, uint64_t addr,
                                     uint32_t bytes)
{
    uint32_t n = bytes / sizeof(struct vring_desc), hint = 0;
    uint32_t i = 0;

    if (!n || bytes % sizeof(struct vring_desc) || n > RING_MAX_SEGS) {
        return RING_FAULT_INDIRECT_BAD;
    }
    for (uint32_t steps = 0; steps < n; steps++) {
        struct ring_seg d;
        uint64_t at;

        if (__builtin_add_overflow(addr, (uint64_t)i * sizeof(d), &at)) {
            return RING_FAULT_INDIRECT_UNMAPPED;
        }
        for (uint32_t got = 0; got < sizeof(d);) {
            uint32_t len = (uint32_t)sizeof(d) - got;
            const uint8_t GUEST *p = gmem_span(mem, &hint, (gpa_t){at + got}, &len);

            if (!p) {
                return RING_FAULT_INDIRECT_UNMAPPED;
            }
            memcpy((uint8_t *)&d + got, GUEST_PTR(const void, p), len);
            got += len;
        }
        __asm__ volatile("" ::: "memory"); /* d is read once: never again from the guest */
        if (d.flags & VRING_DESC_F_INDIRECT) {
            return RING_FAULT_INDIRECT_BAD;
        }
        enum ring_fault f = add_seg(w, &d);
        if (f) {
            return f;
        }
        if (!(d.flags & VRING_DESC_F_NEXT)) {
            return RING_FAULT_NONE;
        }
        if (d.next >= n) {
            return RING_FAULT_NEXT_RANGE;
        }
        i = d.next;
    }
    return RING_FAULT_CHAIN_LONG;
}

static enum ring_fault walk(struct walk *w, const struct ring *r, const struct gmem *mem,
                            struct ring_seg d)
{
    for (uint32_t steps = 0; steps < r->num; steps++) {
        if (d.flags & VRING_DESC_F_INDIRECT) {
            /* Legal as the last descriptor of a chain only; WRITE on it is ignored. */
            if (!r->indirect || (d.flags & VRING_DESC_F_NEXT)) {
                return RING_FAULT_INDIRECT_BAD;
            }
            return walk_indirect(w, mem, d.addr, d.len);
        }
        enum ring_fault f = add_seg(w, &d);
        if (f) {
            return f;
        }
        if (!(d.flags & VRING_DESC_F_NEXT)) {
            return RING_FAULT_NONE;
        }
        if (d.next >= r->num) {
            return RING_FAULT_NEXT_RANGE;
        }
        split_read_desc(&d, r->desc, d.next);
    }
    return RING_FAULT_CHAIN_LONG;
}

void split_walk_chain(const struct ring *r, const struct gmem *mem, struct ring_burst *b,
                      struct ring_chain *c)
{
    struct walk w = {.b = b, .c = c, .write = r->write};

    c->pool = (uint16_t)b->n_pool;
    c->fault = (uint16_t)walk(&w, r, mem, c->seg);
    if (c->fault) {
        c->n_seg = 0;
        return; /* its segments stay counted: a burst of bad chains costs no more than a good one */
    }
    c->n_seg = (uint16_t)(b->n_pool - c->pool);
    c->seg = b->pool[c->pool];
}
