/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One burst in passes, so that each access finds its cache line on the way already: ring entries,
 * then descriptors, then both payloads are prefetched; then copies; then used entries, one release
 * store per ring.  No fence and no look at what the driver wants: it spins.
 */
#include "bench/limit_hot.h"

#include "pkt/copy.h"

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
    uint32_t n = ring_dev_peek(RING_SPLIT, &p->from, &l->in, BURST);

    n = n ? ring_dev_peek(RING_SPLIT, &p->to, &l->out, n) : 0;
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
    ring_dev_publish(RING_SPLIT, &p->to, &l->out, n, len);
    ring_dev_publish(RING_SPLIT, &p->from, &l->in, n, NULL);
    return n;
}

uint32_t HOT(limit_round)(struct limit *l)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < l->n; i++) {
        n += move(l, &l->path[i]);
    }
    return n;
}
