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

static void fill_frame(const struct gen *g, const struct flow *f, uint32_t idx)
{
    uint8_t *p = f->from->tx_buf + (uint64_t)idx * g->tx_stride;

    memset(p, 0, HDR);
    p += HDR;
    memcpy(p, gen_pattern(g, idx), g->c.frame);
    memcpy(p, f->head, AT_IDX);
    memcpy(p + AT_IDX, &idx, 4);
    memcpy(p + AT_SEQ, &idx, 4);
}

void gen_fill_flow(struct gen *g, struct flow *f)
{
    const uint8_t type[2] = {0x88, 0xb5};

    if (g->c.tcp) {
        gen_tcp_fill(g, f);
        return;
    }
    gen_put_mac(f->head, f->to->port, 0);
    gen_put_mac(f->head + 6, f->from->port, 0);
    memcpy(f->head + 12, type, 2);
    f->head[AT_FLOW] = (uint8_t)f->id;
    f->head[AT_FLOW + 1] = (uint8_t)(f->id >> 8);
    for (uint32_t i = 0; i < g->n_tx; i++) {
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
                 !same_bytes(p + AT_PATTERN, gen_pattern(g, idx) + AT_PATTERN, len - AT_PATTERN))) {
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

/* What is done with received frames. */
enum check { CHECK_NOT, CHECK_RAW, CHECK_TCP };

#define AHEAD      8u /* buffers, prefetched */
#define SAMPLE     17u /* one TCP frame in so many is compared whole: no divisor of a ring's size */
#define PROBE      64u
#define PROBES     23u /* places in a buffer */
#define PROBE_EACH 11u /* buffers of a long frame */
#define AT_TCP_SEQ 38u

/* Where the buffer at hand is looked at: one cache line. */
static ALWAYS_INLINE uint32_t probe_at(const struct flow *f)
{
    return f->probe % PROBES * PROBE;
}

/* The i-th buffer from now. What follows in a long frame is left where it is: see gen_tcp.c. */
static ALWAYS_INLINE void prefetch(const struct flow *f, const struct ring_drv_used *u, uint32_t i)
{
    if (likely(f->more <= i)) {
        __builtin_prefetch(u->token);
        __builtin_prefetch((const uint8_t *)u->token + CACHE_LINE);
    }
}

/* Does the virtio-net header say what it has to, and are the frame's own headers right? */
static ALWAYS_INLINE bool tcp_head_ok(const struct gen *g, const struct vnet_hdr *h,
                                      const uint8_t *p, const uint8_t *head)
{
    const struct vnet_hdr *want = &g->rx_hdr;

    if (unlikely(g->c.taken && !(h->flags | h->gso_type))) {
        /* whole all the same, and complete */
        return !memcmp(p, gen_tcp_completed(g, head), GEN_TCP_HEAD);
    }
    if (unlikely(h->flags != want->flags || h->gso_type != want->gso_type ||
                 h->gso_size != want->gso_size || h->csum_start != want->csum_start ||
                 h->csum_offset != want->csum_offset)) {
        return false;
    }
    if (!want->gso_type) {
        return !memcmp(p, head, GEN_TCP_HEAD);
    }
    return !memcmp(p, head, GEN_TCP_AT_SUM) &&
           !memcmp(p + GEN_TCP_AT_SUM + 2, head + GEN_TCP_AT_SUM + 2,
                   GEN_TCP_HEAD - GEN_TCP_AT_SUM - 2);
}

/* The first buffer of a TCP frame: which one it is, its length and all headers. */
static ALWAYS_INLINE bool begin_tcp(struct gen *g, struct flow *f, const uint8_t *p, uint32_t len)
{
    struct vnet_hdr h;
    uint32_t be;

    if (unlikely(len < HDR + GEN_TCP_HEAD)) {
        return false;
    }
    memcpy(&h, p, sizeof(h));
    memcpy(&be, p + HDR + AT_TCP_SEQ, 4);
    uint32_t seq = __builtin_bswap32(be);
    if (unlikely(seq != gen_tcp_seq(f->idx) + f->seg * g->step)) {
        f->bad_order++;
        f->idx = (seq >> 16) & (g->n_tx - 1);
        f->seg = MIN((seq & 0xffff) / g->step, g->n_seg - 1);
    }
    f->bad = !tcp_head_ok(g, &h, p + HDR, gen_tcp_head(g, f, f->idx, f->seg));
    f->more = g->mrg ? h.num_buffers : 1;
    f->got = 0;
    f->want = gen_pattern(g, f->idx) + GEN_TCP_HEAD + f->seg * g->step;
    f->want_len = MIN(g->step, g->c.frame - GEN_TCP_HEAD - f->seg * g->step);
    f->whole = g->c.verify || !(f->rx_frames % SAMPLE);
    return f->more;
}

/* The payload in a buffer, from byte `from` of it on. */
static ALWAYS_INLINE bool tcp_payload(struct flow *f, const uint8_t *buf, uint32_t from, uint32_t len)
{
    const uint8_t *want = f->want + f->got;

    if (unlikely(len > f->want_len - f->got)) {
        return false;
    }
    f->got += len;
    if (f->whole || len < PROBE) {
        return !memcmp(buf + from, want, len);
    }
    if (!from && f->more % PROBE_EACH) {
        return true;
    }
    f->probe++;
    uint32_t at = MIN(MAX(probe_at(f), from) - from, len - PROBE);
    return same_bytes(buf + from + at, want + at, PROBE);
}

static ALWAYS_INLINE void check_tcp(struct gen *g, struct flow *f, const struct ring_drv_used *u)
{
    uint32_t from = 0;

    if (!f->more) {
        from = HDR + GEN_TCP_HEAD;
        if (unlikely(!begin_tcp(g, f, u->token, u->len))) {
            f->bad_content++;
            return;
        }
    }
    f->bad |= !tcp_payload(f, u->token, from, u->len - from);
    if (--f->more) {
        return;
    }
    f->bad_content += f->bad || f->got != f->want_len;
    f->rx_frames++;
    f->rx_bytes += GEN_TCP_HEAD + f->got;
    if (++f->seg == g->n_seg) {
        f->seg = 0;
        f->idx = (f->idx + 1) & (g->n_tx - 1);
    }
}

static ALWAYS_INLINE void rewrite_frame(struct gen *g, struct flow *f, uint8_t *buf)
{
    uint32_t seq = f->seq++;

    put_macs(buf + HDR, f->to->port, f->from->port, seq % g->half);
    *(u32_una *)(buf + HDR + AT_SEQ) = seq;
}

/* The number of buffers that were taken: TURN_MAX means that there may be more. */
static ALWAYS_INLINE uint32_t turn_rx(const enum ring_layout l, struct gen *g, struct flow *f,
                                      const enum check check, uint32_t least)
{
    struct ring_drv *rx = &f->to->rx->drv;
    /* In a packed ring there is no index to ask: to count costs a look at each. */
    uint32_t n = ring_drv_pending(l, rx, l == RING_PACKED ? least : TURN_MAX);

    if (n < least) {
        return 0;
    }
    n = l == RING_PACKED ? TURN_MAX : n;
    if (check == CHECK_NOT) {
        uint64_t bytes = 0;

        n = ring_drv_recycle(l, rx, n, &bytes);
        f->rx_frames += n;
        f->rx_bytes += bytes;
    } else {
        struct ring_drv_used u[TURN_MAX];

        n = ring_drv_reap(l, rx, u, n);
        for (uint32_t i = 0; i < MIN(n, AHEAD); i++) {
            prefetch(f, &u[i], i);
        }
        for (uint32_t i = 0; i < n; i++) {
            if (i + AHEAD < n) {
                prefetch(f, &u[i + AHEAD], AHEAD);
            }
            if (check == CHECK_TCP) {
                check_tcp(g, f, &u[i]);
            } else {
                check_used(g, f, &u[i]);
            }
            ring_drv_repost(l, rx, u[i].id);
        }
    }
    gen_publish(f->to, f->to->rx);
    return n;
}

static ALWAYS_INLINE void turn_tx(const enum ring_layout l, struct gen *g, struct flow *f,
                                  const bool rewrite, uint32_t n)
{
    struct ring_drv *tx = &f->from->tx->drv;

    if (!rewrite) {
        n = ring_drv_recycle(l, tx, n, NULL);
    } else {
        struct ring_drv_used u[TURN_MAX];

        n = ring_drv_reap(l, tx, u, n);
        for (uint32_t i = 0; i < n; i++) {
            rewrite_frame(g, f, u[i].token);
            ring_drv_repost(l, tx, u[i].id);
        }
    }
    f->tx_frames += n;
    gen_publish(f->from, f->from->tx);
}

static ALWAYS_INLINE void turn_on(const enum ring_layout l, struct gen *g, struct flow *f,
                                  const bool rewrite, const enum check check)
{
    uint32_t n = ring_drv_pending(l, &f->from->tx->drv, TURN_MAX);

    /* n frames may have filled n * bufs buffers */
    for (uint32_t k = 0; k <= g->bufs && turn_rx(l, g, f, check, g->least_rx) == TURN_MAX; k++) {
    }
    if (n >= g->least_tx) {
        turn_tx(l, g, f, rewrite, n);
    }
}

static ALWAYS_INLINE void turn(struct gen *g, struct flow *f, const bool rewrite,
                               const enum check check)
{
    if (g->c.packed) {
        turn_on(RING_PACKED, g, f, rewrite, check);
    } else {
        turn_on(RING_SPLIT, g, f, rewrite, check);
    }
}

static NOINLINE void round_plain(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        turn(g, &g->flow[i], false, CHECK_NOT);
    }
}

static NOINLINE void round_check(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        turn(g, &g->flow[i], false, CHECK_RAW);
    }
}

static NOINLINE void round_rewrite(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        turn(g, &g->flow[i], true, CHECK_NOT);
    }
}

static NOINLINE void round_rewrite_check(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        turn(g, &g->flow[i], true, CHECK_RAW);
    }
}

static NOINLINE void round_tcp(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        turn(g, &g->flow[i], false, CHECK_TCP);
    }
}

void gen_round(struct gen *g)
{
    if (g->c.tcp) {
        round_tcp(g);
    } else if (g->rewrite) {
        (g->c.verify || g->mrg ? round_rewrite_check : round_rewrite)(g);
    } else {
        (g->checked ? round_check : round_plain)(g);
    }
    gen_yield(g);
}

void gen_round_rx(struct gen *g, struct flow *f)
{
    const enum ring_layout l = f->to->rx->drv.layout;

    if (g->c.tcp) {
        turn_rx(l, g, f, CHECK_TCP, 1);
    } else if (g->checked) {
        turn_rx(l, g, f, CHECK_RAW, 1);
    } else {
        turn_rx(l, g, f, CHECK_NOT, 1);
    }
}

void gen_rewrite(struct gen *g, struct flow *f, uint8_t *buf)
{
    rewrite_frame(g, f, buf);
}
