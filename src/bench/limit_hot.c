/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One burst in passes, so that each access finds its cache line on the way already: ring entries,
 * then descriptors, then both payloads are prefetched; then copies; then used entries, one release
 * store per ring.  No fence and no look at what the driver wants: it spins.
 *
 * Frames longer than a receive buffer: buffer after buffer is filled, the first one says how many.
 */
#include "bench/limit_hot.h"

#include "pkt/copy.h"
#include "vnet/vnet_hdr.h"

#define BURST 32

#define AHEAD 6 /* frames; see port/port_vhost_hot.c */

static ALWAYS_INLINE void prefetch(const uint8_t *src, uint8_t *dst)
{
    __builtin_prefetch(src);
    __builtin_prefetch(src + CACHE_LINE);
    __builtin_prefetch(dst, 1);
    __builtin_prefetch(dst + CACHE_LINE, 1);
}

static ALWAYS_INLINE uint32_t move(struct limit *l, struct path *p)
{
    uint8_t *src[BURST], *dst[BURST];
    uint32_t len[BURST];
    uint32_t n = ring_dev_peek(p->from.layout, &p->from, &l->in, BURST);

    n = n ? ring_dev_peek(p->to.layout, &p->to, &l->out, n) : 0;
    if (!n) {
        return 0;
    }
    const struct gmem_window from = gmem_window(p->from_mem, 0), to = gmem_window(p->to_mem, 0);
    for (uint32_t i = 0; i < n; i++) {
        const struct ring_seg *s = &l->in.chain[i].seg, *d = &l->out.chain[i].seg;

        len[i] = MIN(s->len, d->len);
        src[i] = GUEST_PTR(uint8_t, gmem_in_window(from, (gpa_t){s->addr}, len[i]));
        dst[i] = GUEST_PTR(uint8_t, gmem_in_window(to, (gpa_t){d->addr}, len[i]));
        if (i < AHEAD) {
            prefetch(src[i], dst[i]);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        if (i + AHEAD < n) {
            prefetch(src[i + AHEAD], dst[i + AHEAD]);
        }
        copy_bytes(dst[i], src[i], len[i]);
    }
    ring_dev_publish(p->to.layout, &p->to, &l->out, n, len);
    ring_dev_publish(p->from.layout, &p->from, &l->in, n, NULL);
    return n;
}

/* Copy one chain into buffers from `at` of l->out on; how many it took, 0: there are not enough. */
static uint32_t spread(struct limit *l, const struct path *p, const struct ring_chain *c, uint32_t at,
                       uint32_t *lens)
{
    const struct gmem_window from = gmem_window(p->from_mem, 0), to = gmem_window(p->to_mem, 0);
    const struct ring_seg *s = c->n_seg > 1 ? &l->in.pool[c->pool] : &c->seg, *d;
    const uint32_t first = at;
    uint32_t room = 0;
    uint8_t *dst = NULL;

    for (uint32_t i = 0; i < c->n_seg; i++) {
        const uint8_t *src = GUEST_PTR(uint8_t, gmem_in_window(from, (gpa_t){s[i].addr}, s[i].len));

        for (uint32_t left = s[i].len, n; left; left -= n, room -= n, src += n, dst += n) {
            if (!room) {
                if (at == l->out.n) {
                    return 0;
                }
                d = &l->out.chain[at].seg;
                dst = GUEST_PTR(uint8_t, gmem_in_window(to, (gpa_t){d->addr}, d->len));
                room = d->len;
                lens[at++] = 0;
            }
            n = MIN(left, room);
            copy_bytes(dst, src, n);
            lens[at - 1] += n;
        }
    }
    d = &l->out.chain[first].seg;
    dst = GUEST_PTR(uint8_t, gmem_in_window(to, (gpa_t){d->addr}, d->len));
    ((struct vnet_hdr *)dst)->num_buffers = (uint16_t)(at - first);
    return at - first;
}

static ALWAYS_INLINE uint32_t move_long(struct limit *l, struct path *p)
{
    uint32_t lens[RING_BURST], n = ring_dev_peek(p->from.layout, &p->from, &l->in, BURST), i, taken, at = 0;

    if (!n || !ring_dev_peek(p->to.layout, &p->to, &l->out, RING_BURST)) {
        return 0;
    }
    for (i = 0; i < n && (taken = spread(l, p, &l->in.chain[i], at, lens)); i++) {
        at += taken;
    }
    if (i) {
        ring_dev_publish(p->to.layout, &p->to, &l->out, at, lens);
        ring_dev_publish(p->from.layout, &p->from, &l->in, i, NULL);
    }
    return i;
}

uint32_t HOT(limit_round)(struct limit *l)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < l->n; i++) {
        n += l->mergeable ? move_long(l, &l->path[i]) : move(l, &l->path[i]);
    }
    return n;
}
