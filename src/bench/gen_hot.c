/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How traffic is made.  A flow goes from one side (port) to another; a side can be the source of
 * one flow and the target of another.
 *
 *   from: tx chains  held --repost--> posted --switch--> used --reap/recycle--> held or posted
 * again to:   rx chains  posted --switch--> used --(check)--> posted again
 *
 * No loss by our own doing: in each turn the transmit ring's used index is read first, then receive
 * buffers are posted again, and only then as many transmit chains as that index showed.  A switch
 * that writes received frames before it gives transmit chains back therefore finds at least as many
 * receive buffers as frames; what it loses it loses by itself.
 *
 * A turn that finds little leaves it alone: looking at the index too often takes the cache line
 * away from the switch, and it is the switch that shall be measured.
 */

#include "bench/gen_int.h"

#include <string.h>

#include "pkt/copy.h"

void gen_put_mac(uint8_t *p, uint32_t port, uint32_t i)
{
    const uint8_t mac[6] = {0x02,      0, (uint8_t)port, (uint8_t)(i >> 16), (uint8_t)(i >> 8),
                            (uint8_t)i};

    memcpy(p, mac, 6);
}

/* Both addresses, destination first. */
static ALWAYS_INLINE void put_macs(uint8_t *p, uint32_t to, uint32_t from, uint32_t i)
{
    uint32_t be = __builtin_bswap32(i) >> 8;
    uint64_t a = 0x0002 | (uint64_t)to << 16 | (uint64_t)be << 24 | 0x0002ull << 48;
    uint32_t b = from | be << 8;

    *(u64_una *)p = a;
    *(u32_una *)(p + 8) = b;
}

void gen_fill_pattern(struct gen *g)
{
    uint32_t x = 1;

    for (uint64_t i = 0; i < (uint64_t)N_PATTERNS * g->c.frame; i++) {
        x = x * 1664525u + 1013904223u;
        g->pattern[i] = (uint8_t)(x >> 24);
    }
}

static const uint8_t *pattern_of(const struct gen *g, uint32_t idx)
{
    return g->pattern + (uint64_t)(idx % N_PATTERNS) * g->c.frame;
}

static void fill_frame(const struct gen *g, const struct flow *f, uint32_t idx)
{
    uint8_t *p = f->from->tx_buf + (uint64_t)idx * g->tx_stride;

    memset(p, 0, HDR);
    p += HDR;
    memcpy(p, pattern_of(g, idx), g->c.frame);
    memcpy(p, f->head, AT_IDX);
    memcpy(p + AT_IDX, &idx, 4);
    memcpy(p + AT_SEQ, &idx, 4);
}

void gen_fill_flow(struct gen *g, struct flow *f)
{
    const uint8_t type[2] = {0x88, 0xb5};

    gen_put_mac(f->head, f->to->port, 0);
    gen_put_mac(f->head + 6, f->from->port, 0);
    memcpy(f->head + 12, type, 2);
    f->head[AT_FLOW] = (uint8_t)f->id;
    f->head[AT_FLOW + 1] = (uint8_t)(f->id >> 8);
    for (uint32_t i = 0; i < g->c.num; i++) {
        fill_frame(g, f, i);
    }
}

/* len >= 16 */
static ALWAYS_INLINE bool same_bytes(const uint8_t *a, const uint8_t *b, uint32_t len)
{
    v16 diff = *(const v16 *)(a + len - 16) ^ *(const v16 *)(b + len - 16);
    uint64_t w[2];

    for (uint32_t at = 0; at + 16 <= len; at += 16) {
        diff |= *(const v16 *)(a + at) ^ *(const v16 *)(b + at);
    }
    memcpy(w, &diff, sizeof(w));
    return !(w[0] | w[1]);
}

/* One whole frame of flow f. */
static ALWAYS_INLINE void check_frame(struct gen *g, struct flow *f, const uint8_t *p, uint32_t len)
{
    uint8_t head[AT_IDX];
    uint32_t idx, seq;

    if (unlikely(len != g->c.frame)) {
        f->bad_content++;
        return;
    }
    memcpy(&idx, p + AT_IDX, 4);
    memcpy(&seq, p + AT_SEQ, 4);
    memcpy(head, f->head, AT_IDX);
    if (g->rewrite) {
        put_macs(head, f->to->port, f->from->port, seq % g->half);
    }
    if (unlikely(memcmp(p, head, AT_IDX) ||
                 !same_bytes(p + AT_PATTERN, pattern_of(g, idx) + AT_PATTERN, len - AT_PATTERN))) {
        f->bad_content++;
    }
    f->bad_order += seq != f->expect;
    f->expect = g->rewrite ? seq + 1 : (seq + 1) & (g->c.num - 1);
}

static ALWAYS_INLINE void check_used(struct gen *g, struct flow *f, const struct ring_drv_used *u)
{
    const uint8_t *p = u->token;

    if (likely(!f->more)) {
        uint16_t n = 1;

        if (g->mrg) {
            memcpy(&n, p + offsetof(struct vnet_hdr, num_buffers), 2);
        }
        if (unlikely(u->len < HDR)) {
            f->bad_content++;
            return;
        }
        if (likely(n == 1)) {
            f->rx_frames++;
            f->rx_bytes += u->len - HDR;
            check_frame(g, f, p + HDR, u->len - HDR);
            return;
        }
        f->more = n;
        f->got = 0;
        p += HDR;
    }
    uint32_t len = u->len - (f->got ? 0 : HDR);
    if (f->got + len <= g->c.frame) {
        memcpy(f->scratch + f->got, p, len);
    }
    f->got += len;
    if (!--f->more) {
        f->rx_frames++;
        f->rx_bytes += f->got;
        check_frame(g, f, f->scratch, MIN(f->got, g->c.frame + 1));
    }
}

static ALWAYS_INLINE void rewrite_frame(struct gen *g, struct flow *f, uint8_t *buf)
{
    uint32_t seq = f->seq++;

    put_macs(buf + HDR, f->to->port, f->from->port, seq % g->half);
    *(u32_una *)(buf + HDR + AT_SEQ) = seq;
}

static ALWAYS_INLINE void turn_rx(struct gen *g, struct flow *f, const bool check, uint32_t least)
{
    struct ring_drv *rx = &f->to->rx->drv;
    uint32_t n = ring_drv_pending(RING_SPLIT, rx, TURN_MAX);

    if (n < least) {
        return;
    }
    if (!check) {
        uint64_t bytes = 0;

        n = ring_drv_recycle(RING_SPLIT, rx, n, &bytes);
        f->rx_frames += n;
        f->rx_bytes += bytes;
    } else {
        struct ring_drv_used u[TURN_MAX];

        n = ring_drv_reap(RING_SPLIT, rx, u, n);
        for (uint32_t i = 0; i < MIN(n, 8u); i++) {
            __builtin_prefetch(u[i].token);
            __builtin_prefetch((const uint8_t *)u[i].token + 64);
        }
        for (uint32_t i = 0; i < n; i++) {
            if (i + 8 < n) {
                __builtin_prefetch(u[i + 8].token);
                __builtin_prefetch((const uint8_t *)u[i + 8].token + 64);
            }
            check_used(g, f, &u[i]);
            ring_drv_repost(RING_SPLIT, rx, u[i].id);
        }
    }
    gen_publish(f->to, f->to->rx);
}

static ALWAYS_INLINE void turn_tx(struct gen *g, struct flow *f, const bool rewrite, uint32_t n)
{
    struct ring_drv *tx = &f->from->tx->drv;

    if (!rewrite) {
        n = ring_drv_recycle(RING_SPLIT, tx, n, NULL);
    } else {
        struct ring_drv_used u[TURN_MAX];

        n = ring_drv_reap(RING_SPLIT, tx, u, n);
        for (uint32_t i = 0; i < n; i++) {
            rewrite_frame(g, f, u[i].token);
            ring_drv_repost(RING_SPLIT, tx, u[i].id);
        }
    }
    f->tx_frames += n;
    gen_publish(f->from, f->from->tx);
}

static ALWAYS_INLINE void turn(struct gen *g, struct flow *f, const bool rewrite, const bool check)
{
    uint32_t n = ring_drv_pending(RING_SPLIT, &f->from->tx->drv, TURN_MAX);

    turn_rx(g, f, check, g->least_rx);
    for (uint32_t i = 1; i < g->bufs; i++) {
        turn_rx(g, f, check, g->least_rx); /* n frames may have filled n * bufs buffers */
    }
    if (n >= g->least_tx) {
        turn_tx(g, f, rewrite, n);
    }
}

static NOINLINE void round_plain(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        turn(g, &g->flow[i], false, false);
    }
}

static NOINLINE void round_check(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        turn(g, &g->flow[i], false, true);
    }
}

static NOINLINE void round_rewrite(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        turn(g, &g->flow[i], true, false);
    }
}

static NOINLINE void round_rewrite_check(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        turn(g, &g->flow[i], true, true);
    }
}

void gen_round(struct gen *g)
{
    if (g->rewrite) {
        (g->c.verify ? round_rewrite_check : round_rewrite)(g);
    } else {
        (g->c.verify || g->mrg ? round_check : round_plain)(g);
    }
    gen_yield(g);
}

void gen_round_rx(struct gen *g, struct flow *f)
{
    turn_rx(g, f, g->c.verify || g->mrg, 1);
}

void gen_rewrite(struct gen *g, struct flow *f, uint8_t *buf)
{
    rewrite_frame(g, f, buf);
}
