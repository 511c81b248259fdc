/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device side, the parts that are not hot: set-up and the general chain walk of each layout.
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
        .log = s->log,
        .num = s->num,
        .layout = (uint8_t)s->layout,
        .on_empty = s->on_empty,
        .event_idx = s->event_idx,
        .indirect = s->indirect,
        .write = s->write,
        .resume = s->resume,
        .fault_seq = gmem_fault_seq(),
    };
    if (s->layout == RING_PACKED) {
        r->idx = s->base & (VRING_PACKED_WRAP - 1);
        r->wrap = s->base & VRING_PACKED_WRAP;
        if (r->resume) {
            ring_p5_store_resume(r->resume, ring_resume_word(s->base, s->base));
        }
    } else {
        r->idx = r->avail_seen = r->signalled = s->base;
    }
}

uint32_t ring_dev_fill(const struct ring *r)
{
    uint32_t at = read_once(&r->idx), n = 0;
    bool lap = read_once(&r->wrap);

    if (r->layout == RING_SPLIT) {
        n = (uint16_t)(read_once(GUEST_PTR(const uint16_t, &r->avail->idx)) - at);
        return MIN(n, r->num);
    }
    for (; n < r->num; n++) {
        uint16_t flags = read_once(GUEST_PTR(const uint16_t, &r->pdesc[at].flags));

        if ((flags & PACKED_STATE) != packed_avail_bits(lap)) {
            break;
        }
        if (++at == r->num) {
            at = 0;
            lap = !lap;
        }
    }
    return n;
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

/* An indirect table (2.7.5.3, 2.8.7): read through translation, since it may cross regions. */
struct table {
    const struct gmem *mem;
    uint64_t addr;
    uint32_t n, hint;
};

static enum ring_fault table_open(struct table *t, const struct gmem *mem, uint64_t addr,
                                  uint32_t bytes)
{
    *t = (struct table){.mem = mem, .addr = addr, .n = bytes / sizeof(struct vring_desc)};
    return !t->n || bytes % sizeof(struct vring_desc) || t->n > RING_MAX_SEGS
               ? RING_FAULT_INDIRECT_BAD
               : RING_FAULT_NONE;
}

/* Entry i, of either layout, into d: once. */
static enum ring_fault table_read(struct table *t, uint32_t i, void *d)
{
    const uint32_t bytes = sizeof(struct vring_desc);
    uint64_t at;

    if (__builtin_add_overflow(t->addr, (uint64_t)i * bytes, &at)) {
        return RING_FAULT_INDIRECT_UNMAPPED;
    }
    for (uint32_t got = 0; got < bytes;) {
        uint32_t len = bytes - got;
        const uint8_t GUEST *p = gmem_span(t->mem, &t->hint, (gpa_t){at + got}, &len);

        if (!p) {
            return RING_FAULT_INDIRECT_UNMAPPED;
        }
        memcpy((uint8_t *)d + got, GUEST_PTR(const void, p), len);
        got += len;
    }
    __asm__ volatile("" ::: "memory"); /* d is read once: never again from the guest */
    return RING_FAULT_NONE;
}

static enum ring_fault split_walk_indirect(struct walk *w, const struct gmem *mem, uint64_t addr,
                                           uint32_t bytes)
{
    struct table t;
    enum ring_fault f = table_open(&t, mem, addr, bytes);
    uint32_t i = 0;

    for (uint32_t steps = 0; !f && steps < t.n; steps++) {
        struct ring_seg d;

        f = table_read(&t, i, &d);
        if (f) {
            return f;
        }
        if (d.flags & VRING_DESC_F_INDIRECT) {
            return RING_FAULT_INDIRECT_BAD;
        }
        f = add_seg(w, &d);
        if (f) {
            return f;
        }
        if (!(d.flags & VRING_DESC_F_NEXT)) {
            return RING_FAULT_NONE;
        }
        if (d.next >= t.n) {
            return RING_FAULT_NEXT_RANGE;
        }
        i = d.next;
    }
    return f ? f : RING_FAULT_CHAIN_LONG;
}

static enum ring_fault split_walk(struct walk *w, const struct ring *r, const struct gmem *mem,
                            struct ring_seg d)
{
    for (uint32_t steps = 0; steps < r->num; steps++) {
        if (d.flags & VRING_DESC_F_INDIRECT) {
            /* Legal as the last descriptor of a chain only; WRITE on it is ignored. */
            if (!r->indirect || (d.flags & VRING_DESC_F_NEXT)) {
                return RING_FAULT_INDIRECT_BAD;
            }
            return split_walk_indirect(w, mem, d.addr, d.len);
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

/* What the walk that ends with f found, from b->pool[c->pool] on. */
static void chain_done(const struct ring_burst *b, struct ring_chain *c, enum ring_fault f)
{
    c->fault = (uint16_t)f;
    if (f) {
        c->n_seg = 0;
        return; /* its segments stay counted: a burst of bad chains costs no more than a good one */
    }
    c->n_seg = (uint16_t)(b->n_pool - c->pool);
    c->seg = b->pool[c->pool];
}

void split_walk_chain(const struct ring *r, const struct gmem *mem, struct ring_burst *b,
                      struct ring_chain *c)
{
    struct walk w = {.b = b, .c = c, .write = r->write};

    c->pool = (uint16_t)b->n_pool;
    chain_done(b, c, split_walk(&w, r, mem, c->seg));
}

/*
 * In a packed ring the entries of a table follow each other, and of their flags only WRITE counts. What is
 * only read does not look at that one either: DPDK's driver leaves it on the entry of the header.
 */
static enum ring_fault packed_walk_indirect(struct walk *w, const struct gmem *mem, uint64_t addr,
                                            uint32_t bytes)
{
    const uint16_t looked_at = w->write ? VRING_DESC_F_WRITE : 0;
    struct table t;
    enum ring_fault f = table_open(&t, mem, addr, bytes);

    for (uint32_t i = 0; !f && i < t.n; i++) {
        struct vring_packed_desc d;

        f = table_read(&t, i, &d);
        if (!f) {
            f = add_seg(w, &(struct ring_seg){
                               .addr = d.addr, .len = d.len, .flags = d.flags & looked_at});
        }
    }
    return f;
}

/*
 * A bad chain has to be walked to its end all the same: the id is there, and the next chain behind
 * it.  Where no end comes the rest of the ring cannot be found.
 */
bool packed_walk_chain(struct ring *r, const struct gmem *mem, struct ring_burst *b,
                       struct ring_chain *c, uint32_t at, uint16_t flags, uint32_t room)
{
    const struct vring_packed_desc *desc = GUEST_PTR(const struct vring_packed_desc, r->pdesc);
    struct walk w = {.b = b, .c = c, .write = r->write};
    const uint32_t most = MIN(room, (uint32_t)RING_MAX_SEGS);
    enum ring_fault f = RING_FAULT_NONE;
    uint32_t slots = 0;

    c->pool = (uint16_t)b->n_pool;
    for (;;) {
        struct ring_seg d = {.addr = read_once(&desc[at].addr),
                             .len = read_once(&desc[at].len),
                             .flags = slots ? read_once(&desc[at].flags) : flags};

        c->id = read_once(&desc[at].id);
        slots++;
        if (!f && (d.flags & VRING_DESC_F_INDIRECT)) {
            /* Legal alone only; WRITE on it is ignored. */
            f = !r->indirect || slots > 1 || (d.flags & VRING_DESC_F_NEXT)
                    ? RING_FAULT_INDIRECT_BAD
                    : packed_walk_indirect(&w, mem, d.addr, d.len);
        } else if (!f) {
            f = add_seg(&w, &d);
        } else if (b->n_pool < RING_MAX_SEGS) {
            b->n_pool++; /* walking on costs the burst as much as a good segment */
        }
        if (f == RING_RETRY) {
            break;
        }
        if (!(d.flags & VRING_DESC_F_NEXT)) {
            break;
        }
        if (slots == most) {
            r->broken = RING_FAULT_CHAIN_END;
            return false;
        }
        at = at + 1 < r->num ? at + 1 : 0;
    }
    chain_done(b, c, f);
    c->seg.slots = (uint16_t)slots;
    return f != RING_RETRY;
}
