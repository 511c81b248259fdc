/* SPDX-License-Identifier: Apache-2.0 */
#include "ring/ring_log.h"

#include "ring/ring.h"

/* Bits of one byte of the log that are still to be set. */
struct marks {
    uint8_t *bits;
    uint64_t n_pages;
    uint64_t at; /* the byte */
    uint8_t set;
};

/* Marks for what was written so far (S5). */
static struct marks marks_begin(const struct ring_log *log)
{
    const struct gmem_region *r = &log->map->region[0];

    ring_s5_fence();
    return (struct marks){.bits = GUEST_PTR(uint8_t, r->va), .n_pages = r->size * 8};
}

/* A bit that is set needs no store: S5 is a full fence, so whoever takes it out sees the write. */
static void marks_end(struct marks *m)
{
    if (m->set && (read_once(&m->bits[m->at]) & m->set) != m->set) {
        __atomic_fetch_or(&m->bits[m->at], m->set, __ATOMIC_RELAXED);
    }
    m->set = 0;
}

static void mark(struct marks *m, uint64_t gpa, uint64_t len)
{
    uint64_t page = gpa >> RING_LOG_PAGE_SHIFT, last;

    if (!len || page >= m->n_pages) {
        return;
    }
    if (__builtin_add_overflow(gpa, len - 1, &last)) {
        last = UINT64_MAX;
    }
    last = MIN(last >> RING_LOG_PAGE_SHIFT, m->n_pages - 1);
    for (; page <= last; page++) {
        if (page / 8 != m->at) {
            marks_end(m);
            m->at = page / 8;
        }
        m->set |= (uint8_t)(1 << page % 8);
    }
}

/* The same for a part of a ring, whose place the front-end may have made up. */
static void mark_part(struct marks *m, uint64_t base, uint64_t off, uint64_t len)
{
    uint64_t gpa;

    if (!__builtin_add_overflow(base, off, &gpa)) {
        mark(m, gpa, len);
    }
}

void ring_log_payload(const struct ring_log *log, const struct ring_burst *b, uint32_t from,
                      uint32_t n, const uint32_t *lens)
{
    if (!log->payload) {
        return;
    }
    struct marks m = marks_begin(log);

    for (uint32_t i = from; i < from + n; i++) {
        const struct ring_chain *c = &b->chain[i];
        const struct ring_seg *seg = c->n_seg > 1 ? &b->pool[c->pool] : &c->seg;
        uint32_t left = lens[i];

        for (uint32_t k = 0; k < c->n_seg && left; k++) {
            uint32_t len = MIN(left, seg[k].len);

            mark(&m, seg[k].addr, len);
            left -= len;
        }
    }
    marks_end(&m);
}

/* n used entries from index `from` on, and the index itself. */
static void mark_split(struct marks *m, const struct ring_log *log, uint32_t num, uint32_t from,
                       uint32_t n)
{
    uint32_t at = from & (num - 1), front = MIN(n, num - at);
    const uint64_t entry = sizeof(struct vring_used_elem);

    mark_part(m, log->used, sizeof(struct vring_used) + at * entry, front * entry);
    mark_part(m, log->used, sizeof(struct vring_used), (n - front) * entry);
    mark_part(m, log->used, offsetof(struct vring_used, idx), sizeof(uint16_t));
}

/* The first slot of each chain; the others were not written. */
static void mark_packed(struct marks *m, const struct ring_log *log, uint32_t num, uint32_t from,
                        const struct ring_burst *b, uint32_t n)
{
    const uint64_t entry = sizeof(struct vring_packed_desc);
    uint32_t at = from;

    for (uint32_t i = 0; i < n; i++) {
        mark_part(m, log->used, at * entry, entry);
        at += b->chain[i].seg.slots;
        at -= at >= num ? num : 0;
    }
}

void ring_log_publish(struct ring *r, const struct ring_log *log, const struct ring_burst *b,
                      uint32_t n, const uint32_t *lens)
{
    const uint32_t from = r->idx;

    if (lens) {
        ring_log_payload(log, b, 0, n, lens);
    }
    if (r->layout == RING_PACKED) {
        packed_dev_publish(r, b, n, lens);
    } else {
        split_dev_publish(r, b, n, lens);
    }
    if (!log->ring) {
        return;
    }
    struct marks m = marks_begin(log);

    if (r->layout == RING_PACKED) {
        mark_packed(&m, log, r->num, from, b, n);
    } else {
        mark_split(&m, log, r->num, from, n);
    }
    marks_end(&m);
}

void ring_log_event(const struct ring *r, const struct ring_log *log)
{
    if (!log->ring) {
        return;
    }
    struct marks m = marks_begin(log);

    if (r->layout == RING_PACKED) {
        mark(&m, log->event, sizeof(struct vring_packed_event));
    } else if (r->event_idx) {
        mark_part(&m, log->used, vring_used_bytes(r->num) - sizeof(uint16_t), sizeof(uint16_t));
    } else {
        mark_part(&m, log->used, offsetof(struct vring_used, flags), sizeof(uint16_t));
    }
    marks_end(&m);
}
