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
#include "bench/gen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench/ticks.h"
#include "pkt/copy.h"
#include "vhost/vu_frontend.h"
#include "vnet/features.h"
#include "vnet/vnet_hdr.h"

#define HDR         VNET_HDR_LEN
#define TURN_MAX    128u /* frames per flow and turn */
#define TURN_MIN    32u  /* less is left for the next turn */
#define N_PATTERNS  61u  /* prime: neighbours in any ring differ */
#define AT_FLOW     14u  /* offsets in a frame */
#define AT_IDX      16u
#define AT_SEQ      20u
#define AT_PATTERN  24u /* latency: the time stamp */
#define DEFAULT_BUF 1536u

volatile bool gen_interrupted;

struct side {
    struct vu_fe *fe;
    struct vu_fe_ring *rx, *tx;
    uint8_t *tx_buf, *rx_buf;
    uint32_t port;
    uint16_t *held; /* transmit chains that are ours, a ring of `num` */
    uint32_t held_at, n_held;
    uint64_t n_kicks;
};

struct flow {
    struct side *from, *to;
    uint32_t id;
    uint32_t seq;    /* next to send, when frames are rewritten */
    uint32_t expect; /* next to receive */
    uint8_t head[AT_IDX];
    uint64_t rx_frames, rx_bytes, tx_frames, bad_content, bad_order;
    /* a frame in several buffers */
    uint32_t more, got;
    uint8_t *scratch;
};

struct gen {
    struct gen_conf c;
    uint32_t n_side, n_flow, half;
    uint32_t tx_stride, rx_stride;
    uint64_t features;
    struct side *side;
    struct flow *flow;
    uint8_t *pattern; /* [N_PATTERNS][c.frame] */
    bool rewrite;
    bool mrg;   /* negotiated by all */
    bool local; /* no sockets */
};

/* ---- frames ---- */

static void put_mac(uint8_t *p, uint32_t port, uint32_t i)
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

static void fill_pattern(struct gen *g)
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

static void fill_flow(struct gen *g, struct flow *f)
{
    const uint8_t type[2] = {0x88, 0xb5};

    put_mac(f->head, f->to->port, 0);
    put_mac(f->head + 6, f->from->port, 0);
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

/* ---- one turn of a flow ---- */

static ALWAYS_INLINE void publish(struct side *s, struct vu_fe_ring *r)
{
    if (unlikely(ring_drv_publish(RING_SPLIT, &r->drv))) {
        vu_fe_kick(r);
        s->n_kicks++;
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
    publish(f->to, f->to->rx);
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
    publish(f->from, f->from->tx);
}

static ALWAYS_INLINE void turn(struct gen *g, struct flow *f, const bool rewrite, const bool check)
{
    uint32_t n = ring_drv_pending(RING_SPLIT, &f->from->tx->drv, TURN_MAX);

    turn_rx(g, f, check, TURN_MIN);
    if (n >= TURN_MIN) {
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

static void one_round(struct gen *g)
{
    if (g->rewrite) {
        (g->c.verify ? round_rewrite_check : round_rewrite)(g);
    } else {
        (g->c.verify || g->mrg ? round_check : round_plain)(g);
    }
    if (g->c.turn) {
        g->c.turn(g->c.turn_ctx);
    }
}

/* ---- not so hot: frames on demand ---- */

static void hold(const struct gen *g, struct side *s, uint16_t id)
{
    s->held[(s->held_at + s->n_held++) & (g->c.num - 1)] = id;
}

static int32_t take_held(const struct gen *g, struct side *s)
{
    if (!s->n_held) {
        return -1;
    }
    s->n_held--;
    return s->held[s->held_at++ & (g->c.num - 1)];
}

static uint8_t *tx_buf(const struct gen *g, const struct side *s, uint16_t id)
{
    (void)g;
    return s->tx->drv.slot[id].token;
}

/* Transmit chains that are done become held. */
static uint32_t reap_tx(const struct gen *g, struct side *s)
{
    struct ring_drv_used u[TURN_MAX];
    uint32_t n = ring_drv_reap(RING_SPLIT, &s->tx->drv, u, TURN_MAX);

    for (uint32_t i = 0; i < n; i++) {
        hold(g, s, u[i].id);
    }
    return n;
}

/* Received frames of no interest. */
static uint32_t drop_rx(struct side *s)
{
    uint64_t bytes = 0;
    uint32_t n = ring_drv_recycle(RING_SPLIT, &s->rx->drv, TURN_MAX, &bytes);

    if (n) {
        publish(s, s->rx);
    }
    return n;
}

static int check_health(const struct gen *g, struct err *e)
{
    if (gen_interrupted) {
        return err_set(e, -EINTR, "interrupted");
    }
    for (uint32_t i = 0; i < g->n_side; i++) {
        const struct side *s = &g->side[i];

        for (int t = 0; t < 2; t++) {
            const struct ring_drv *d = t ? &s->tx->drv : &s->rx->drv;
            if (d->broken) {
                return err_set(e, -EPROTO, "%s: the switch broke its %s ring: %s", g->c.path[i],
                               t ? "transmit" : "receive", ring_drv_fault_text(d->broken));
            }
        }
        if (!g->local && !vu_fe_connected(s->fe)) {
            return err_set(e, -ECONNRESET, "%s: the switch hung up", g->c.path[i]);
        }
    }
    return 0;
}

/* Until all transmit chains are ours and nothing was received for a while. */
static int drain(struct gen *g, struct err *e)
{
    const uint64_t ms = (uint64_t)(ticks_per_ns() * 1e6);
    uint64_t quiet = ticks(), end = quiet + (uint64_t)g->c.timeout_ms * ms;
    bool waiting = true;

    while (waiting || ticks() - quiet < 2 * ms) {
        uint32_t n = 0;

        waiting = false;
        for (uint32_t i = 0; i < g->n_side; i++) {
            struct side *s = &g->side[i];

            n += reap_tx(g, s) + drop_rx(s);
            waiting |= s->n_held < g->c.num;
        }
        if (g->c.turn) {
            g->c.turn(g->c.turn_ctx);
        }
        if (n) {
            quiet = ticks();
        } else if (ticks() - quiet > ms) {
            int r = check_health(g, e);
            if (r) {
                return r;
            }
        }
        if (ticks() > end) {
            return err_set(e, -ETIMEDOUT, "the switch did not take all frames within %u ms",
                           g->c.timeout_ms);
        }
    }
    return 0;
}

static void refill(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        fill_flow(g, &g->flow[i]);
    }
}

/* Send frame buffer `id` as it is. */
static void send_id(struct side *s, uint16_t id)
{
    ring_drv_repost(RING_SPLIT, &s->tx->drv, id);
}

int gen_learn(struct gen *g, struct err *e)
{
    const uint64_t end = ticks() + (uint64_t)(g->c.timeout_ms * 1e6 * ticks_per_ns());
    uint32_t *sent = calloc(g->n_side, sizeof(*sent));
    uint32_t left = g->n_side;

    if (!sent) {
        return err_set(e, -ENOMEM, "no memory");
    }
    while (left && ticks() < end && !gen_interrupted) {
        left = 0;
        for (uint32_t i = 0; i < g->n_side; i++) {
            struct side *s = &g->side[i];
            int32_t id;

            for (uint32_t k = 0; k < 32 && sent[i] < g->half && (id = take_held(g, s)) >= 0; k++) {
                uint8_t *p = tx_buf(g, s, (uint16_t)id) + HDR;

                put_mac(p, g->side[i ^ 1].port, 0);
                put_mac(p + 6, s->port, sent[i]++);
                send_id(s, (uint16_t)id);
            }
            publish(s, s->tx);
            left += sent[i] < g->half;
            reap_tx(g, s);
            drop_rx(s);
        }
        if (g->c.turn) {
            g->c.turn(g->c.turn_ctx);
        }
    }
    free(sent);
    int r = drain(g, e);
    refill(g);
    return r;
}

/* ---- measurements ---- */

static void zero(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        struct flow *f = &g->flow[i];

        f->rx_frames = f->rx_bytes = f->tx_frames = f->bad_content = f->bad_order = 0;
    }
    for (uint32_t i = 0; i < g->n_side; i++) {
        g->side[i].n_kicks = 0;
    }
}

static void sum_up(const struct gen *g, struct gen_rate *o)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        const struct flow *f = &g->flow[i];

        o->rx_frames += f->rx_frames;
        o->rx_bytes += f->rx_bytes;
        o->tx_frames += f->tx_frames;
        o->bad_content += f->bad_content;
        o->bad_order += f->bad_order;
    }
    for (uint32_t i = 0; i < g->n_side; i++) {
        o->kicks += g->side[i].n_kicks;
    }
    if (!g->c.verify) {
        /* counted with the virtio-net header in front */
        o->rx_bytes -= MIN(o->rx_bytes, o->rx_frames * HDR);
    }
}

static void start_flows(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        struct flow *f = &g->flow[i];
        int32_t id, first = -1;

        f->more = 0;
        while ((id = take_held(g, f->from)) >= 0) {
            first = first < 0 ? id : first;
            if (g->rewrite) {
                rewrite_frame(g, f, tx_buf(g, f->from, (uint16_t)id));
            }
            send_id(f->from, (uint16_t)id);
        }
        f->expect = g->rewrite ? f->seq - g->c.num : (uint32_t)first;
    }
    for (uint32_t i = 0; i < g->n_flow; i++) {
        publish(g->flow[i].from, g->flow[i].from->tx);
    }
}

/* Rounds until the time or the number of frames is reached (0: no limit). */
static int rounds(struct gen *g, uint64_t n_ticks, uint64_t frames, struct err *e)
{
    const uint64_t t0 = ticks(), second = (uint64_t)(1e9 * ticks_per_ns());
    uint64_t seen = 0, seen_at = t0, got = 0;

    for (uint64_t now = t0; !n_ticks || now - t0 < n_ticks; now = ticks()) {
        for (int i = 0; i < 16; i++) {
            one_round(g);
        }
        got = 0;
        for (uint32_t i = 0; i < g->n_flow; i++) {
            got += g->flow[i].rx_frames;
        }
        if (frames && got >= frames) {
            break;
        }
        if (got != seen) {
            seen = got;
            seen_at = now;
        } else if (now - seen_at > second || gen_interrupted) {
            int r = check_health(g, e);
            if (r) {
                return r;
            }
            if (now - seen_at > 5 * second) {
                return err_set(e, -ETIMEDOUT, "no frame came through for 5 s");
            }
        }
        if (unlikely(gen_interrupted)) {
            return err_set(e, -EINTR, "interrupted");
        }
    }
    return 0;
}

static int run(struct gen *g, double seconds, uint64_t frames, struct gen_rate *out, struct err *e)
{
    const double warm = MIN(0.1, seconds / 4), tick = ticks_per_ns();
    int r = drain(g, e);

    *out = (struct gen_rate){0};
    if (r) {
        return r;
    }
    start_flows(g);
    if (!frames) {
        r = rounds(g, (uint64_t)(warm * 1e9 * tick), 0, e);
        if (r) {
            return r;
        }
    }
    zero(g);
    uint64_t t0 = ticks();
    r = rounds(g, (uint64_t)(seconds * 1e9 * tick), frames, e);
    out->seconds = (double)(ticks() - t0) / tick / 1e9;
    sum_up(g, out);
    if (r) {
        return r;
    }
    /* What is under way still arrives, and only then can be said what was lost. */
    uint64_t late_rx = 0, late_tx = 0;
    for (uint64_t quiet = ticks(); ticks() - quiet < (uint64_t)(2e6 * tick);) {
        uint64_t n = 0;

        for (uint32_t i = 0; i < g->n_flow; i++) {
            struct flow *f = &g->flow[i];
            uint64_t before = f->rx_frames;

            late_tx += reap_tx(g, f->from);
            turn_rx(g, f, g->c.verify || g->mrg, 1);
            n += f->rx_frames - before;
        }
        late_rx += n;
        quiet = n ? ticks() : quiet;
        if (g->c.turn) {
            g->c.turn(g->c.turn_ctx);
        }
    }
    /* The warm-up left up to one ring under way at the start: lost is exact within a ring. */
    uint64_t tx = out->tx_frames + late_tx, rx = out->rx_frames + late_rx;
    out->lost = tx > rx ? tx - rx : 0;
    return check_health(g, e);
}

int gen_run(struct gen *g, double seconds, struct gen_rate *out, struct err *e)
{
    return run(g, seconds, 0, out, e);
}

int gen_run_frames(struct gen *g, uint64_t frames, struct gen_rate *out, struct err *e)
{
    return run(g, 0, frames, out, e);
}

/* ---- round trips ---- */

struct trip {
    struct gen *g;
    struct side *a, *b;
    uint32_t *ns; /* samples */
    uint64_t n, max, sent;
};

static void send_stamp(struct trip *t, struct side *from, struct side *to, uint64_t stamp)
{
    int32_t id = take_held(t->g, from);

    if (id < 0) {
        return; /* a full ring is the switch's fault; the frame counts as lost */
    }
    uint8_t *p = tx_buf(t->g, from, (uint16_t)id) + HDR;
    put_mac(p, to->port, 0);
    put_mac(p + 6, from->port, 0);
    memcpy(p + AT_PATTERN, &stamp, 8);
    send_id(from, (uint16_t)id);
    publish(from, from->tx);
}

/* What arrived at b goes back, what arrived at a is measured. */
static void bounce(struct trip *t)
{
    struct ring_drv_used u[TURN_MAX];
    uint64_t stamp;
    uint32_t n = ring_drv_reap(RING_SPLIT, &t->b->rx->drv, u, 32);

    for (uint32_t i = 0; i < n; i++) {
        memcpy(&stamp, (uint8_t *)u[i].token + HDR + AT_PATTERN, 8);
        send_stamp(t, t->b, t->a, stamp);
        ring_drv_repost(RING_SPLIT, &t->b->rx->drv, u[i].id);
    }
    if (n) {
        publish(t->b, t->b->rx);
    }
    n = ring_drv_reap(RING_SPLIT, &t->a->rx->drv, u, 32);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(&stamp, (uint8_t *)u[i].token + HDR + AT_PATTERN, 8);
        double ns = (double)(ticks() - stamp) / ticks_per_ns();
        if (t->n < t->max) {
            t->ns[t->n++] = (uint32_t)MIN(ns, 4e9);
        }
        ring_drv_repost(RING_SPLIT, &t->a->rx->drv, u[i].id);
    }
    if (n) {
        publish(t->a, t->a->rx);
    }
    reap_tx(t->g, t->a);
    reap_tx(t->g, t->b);
    if (t->g->c.turn) {
        t->g->c.turn(t->g->c.turn_ctx);
    }
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void percentiles(struct trip *t, struct gen_latency *out)
{
    *out = (struct gen_latency){.n = t->n, .lost = t->sent - MIN(t->sent, t->n)};
    if (t->n) {
        qsort(t->ns, t->n, sizeof(*t->ns), by_value);
        out->min = t->ns[0];
        out->p50 = t->ns[t->n / 2];
        out->p90 = t->ns[(uint64_t)((double)t->n * 0.9)];
        out->p99 = t->ns[(uint64_t)((double)t->n * 0.99)];
        out->p999 = t->ns[(uint64_t)((double)t->n * 0.999)];
        out->max = t->ns[t->n - 1];
    }
}

static int trip_init(struct trip *t, struct gen *g, uint64_t max, struct err *e)
{
    *t = (struct trip){.g = g, .a = &g->side[0], .b = &g->side[1], .max = max};
    t->ns = calloc(max, sizeof(*t->ns));
    if (!t->ns) {
        return err_set(e, -ENOMEM, "no memory for %llu samples", (unsigned long long)max);
    }
    return drain(g, e);
}

static int trip_end(struct trip *t, struct gen_latency *out, int r, struct err *e)
{
    if (!r) {
        percentiles(t, out);
        r = drain(t->g, e);
    }
    refill(t->g);
    free(t->ns);
    return r;
}

int gen_latency(struct gen *g, double rate, double seconds, struct gen_latency *out, struct err *e)
{
    const double tick = ticks_per_ns();
    const uint64_t gap = (uint64_t)(1e9 * tick / rate), span = (uint64_t)(seconds * 1e9 * tick);
    struct trip t;
    int r = trip_init(&t, g, (uint64_t)(MIN(rate * seconds, 16e6)) + 1, e);

    uint64_t t0 = ticks(), next = t0;
    for (uint64_t now = t0; !r && now - t0 < span + (uint64_t)(1e7 * tick); now = ticks()) {
        if (now >= next && now - t0 < span) {
            t.sent++;
            send_stamp(&t, t.a, t.b, now);
            next += gap;
        }
        bounce(&t);
        r = gen_interrupted ? check_health(g, e) : 0;
    }
    return trip_end(&t, out, r, e);
}

int gen_sleep_latency(struct gen *g, unsigned idle_ms, unsigned samples, struct gen_latency *out,
                      struct err *e)
{
    const double ms = ticks_per_ns() * 1e6;
    struct trip t;
    int r = trip_init(&t, g, samples, e);

    while (!r && t.sent < samples) {
        uint64_t t0 = ticks(), n = t.n;

        /* The front-ends spin all the time: it is the switch that sleeps. */
        while (ticks() - t0 < (uint64_t)(idle_ms * ms) && !gen_interrupted) {
            cpu_relax();
        }
        t.sent++;
        t0 = ticks();
        send_stamp(&t, t.a, t.b, t0);
        while (t.n == n && ticks() - t0 < (uint64_t)(1000 * ms) && !gen_interrupted) {
            bounce(&t);
        }
        r = check_health(g, e);
    }
    return trip_end(&t, out, r, e);
}

/* ---- life ---- */

static int post_all(struct gen *g, struct side *s, struct err *e)
{
    const struct vu_fe *fe = s->fe;
    struct ring_seg seg = {.len = g->c.buf};

    s->held_at = s->n_held = 0;
    for (uint32_t i = 0; i < g->c.num; i++) {
        uint8_t *rx = s->rx_buf + (uint64_t)i * g->rx_stride;
        uint8_t *tx = s->tx_buf + (uint64_t)i * g->tx_stride;

        seg.addr = vu_fe_gpa(fe, rx);
        seg.len = g->c.buf;
        if (ring_drv_add(RING_SPLIT, &s->rx->drv, &seg, 0, 1, rx) != (int)i) {
            return err_set(e, -ENOSPC, "no room in a fresh ring");
        }
        seg.addr = vu_fe_gpa(fe, tx);
        seg.len = HDR + g->c.frame;
        if (ring_drv_prepare(RING_SPLIT, &s->tx->drv, &seg, 1, 0, tx) != (int)i) {
            return err_set(e, -ENOSPC, "no room in a fresh ring");
        }
        hold(g, s, (uint16_t)i);
    }
    ring_drv_publish(RING_SPLIT, &s->rx->drv);
    return 0;
}

int gen_connect(struct gen *g, struct err *e)
{
    g->mrg = true;
    for (uint32_t i = 0; i < 2 * g->c.n_pairs; i++) {
        struct side *s = &g->side[i];
        int r = vu_fe_connect(s->fe, e);

        r = r ? r : vu_fe_reset_rings(s->fe, e);
        r = r ? r : post_all(g, s, e);
        r = r ? r : vu_fe_start(s->fe, true, e);
        if (r) {
            return r;
        }
        g->mrg &= !!(vu_fe_features(s->fe) & VIRTIO_BIT(NET_F_MRG_RXBUF));
    }
    return 0;
}

int gen_start_local(struct gen *g, struct err *e)
{
    g->mrg = false;
    g->local = true;
    for (uint32_t i = 0; i < 2 * g->c.n_pairs; i++) {
        int r = vu_fe_reset_rings(g->side[i].fe, e);

        r = r ? r : post_all(g, &g->side[i], e);
        if (r) {
            return r;
        }
    }
    return 0;
}

unsigned gen_n_ports(const struct gen *g)
{
    return g->n_side;
}

const struct ring_drv *gen_ring(const struct gen *g, unsigned port, unsigned idx)
{
    return idx ? &g->side[port].tx->drv : &g->side[port].rx->drv;
}

void gen_memory(const struct gen *g, unsigned port, struct gmem_region *out)
{
    vu_fe_memory(g->side[port].fe, out);
}

static int make_side(struct gen *g, uint32_t i, struct err *e)
{
    struct side *s = &g->side[i];
    struct vu_fe_conf fc = {
        .path = g->c.path[i],
        .server = g->c.server,
        .features = g->features,
        .features_required = g->features,
        .n_rings = 2,
        .num = g->c.num,
        .buf_bytes = (uint64_t)g->c.num * (g->tx_stride + g->rx_stride),
        .timeout_ms = g->c.timeout_ms,
    };
    int r = vu_fe_create(&s->fe, &fc, e);

    if (r) {
        return r;
    }
    s->port = i;
    s->rx = vu_fe_ring(s->fe, 0);
    s->tx = vu_fe_ring(s->fe, 1);
    s->rx_buf = vu_fe_buf(s->fe);
    s->tx_buf = s->rx_buf + (uint64_t)g->c.num * g->rx_stride;
    s->held = calloc(g->c.num, sizeof(*s->held));
    return s->held ? 0 : err_set(e, -ENOMEM, "no memory");
}

static int make_flows(struct gen *g, struct err *e)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        uint32_t pair = g->c.both ? i / 2 : i, back = g->c.both ? i & 1 : 0;
        struct flow *f = &g->flow[i];

        *f = (struct flow){.from = &g->side[2 * pair + back],
                           .to = &g->side[2 * pair + 1 - back],
                           .id = i,
                           .scratch = calloc(1, g->c.frame)};
        if (!f->scratch) {
            return err_set(e, -ENOMEM, "no memory");
        }
        fill_flow(g, f);
    }
    return 0;
}

/* Buffers lie an odd number of cache lines apart, so that their first lines use all cache sets. */
static uint32_t stride_of(uint32_t len)
{
    return (((len + 63) / 64) | 1) * 64;
}

int gen_create(struct gen **out, const struct gen_conf *c, struct err *e)
{
    struct gen *g = calloc(1, sizeof(*g));
    int r = 0;

    if (!g) {
        return err_set(e, -ENOMEM, "no memory");
    }
    g->c = *c;
    g->c.timeout_ms = c->timeout_ms ? c->timeout_ms : 5000;
    g->c.n_active = c->n_active ? c->n_active : c->n_pairs;
    g->features = VIRTIO_BIT(F_VERSION_1);
    if (c->linux_guest) {
        g->features |=
            VIRTIO_BIT(NET_F_MRG_RXBUF) | VIRTIO_BIT(F_EVENT_IDX) | VIRTIO_BIT(F_INDIRECT_DESC);
    }
    if (!g->c.buf) {
        g->c.buf = c->linux_guest ? DEFAULT_BUF : MAX(DEFAULT_BUF, HDR + c->frame);
    }
    g->rewrite = c->rotate || c->n_macs > 2;
    g->half = MAX(c->n_macs / 2, 1u);
    g->n_side = 2 * g->c.n_active;
    g->n_flow = g->c.n_active * (c->both ? 2 : 1);
    g->rx_stride = stride_of(g->c.buf);
    g->tx_stride = stride_of(MAX(DEFAULT_BUF, HDR + c->frame));
    g->side = calloc(2 * c->n_pairs, sizeof(*g->side));
    g->flow = calloc(g->n_flow, sizeof(*g->flow));
    g->pattern = malloc((size_t)N_PATTERNS * c->frame);
    if (!g->side || !g->flow || !g->pattern) {
        r = err_set(e, -ENOMEM, "no memory");
    } else {
        fill_pattern(g);
    }
    for (uint32_t i = 0; i < 2 * c->n_pairs && !r; i++) {
        r = make_side(g, i, e);
    }
    r = r ? r : make_flows(g, e);
    if (r) {
        gen_destroy(g);
        return r;
    }
    *out = g;
    return 0;
}

void gen_destroy(struct gen *g)
{
    if (!g) {
        return;
    }
    for (uint32_t i = 0; g->side && i < 2 * g->c.n_pairs; i++) {
        vu_fe_destroy(g->side[i].fe);
        free(g->side[i].held);
    }
    for (uint32_t i = 0; g->flow && i < g->n_flow; i++) {
        free(g->flow[i].scratch);
    }
    free(g->side);
    free(g->flow);
    free(g->pattern);
    free(g);
}
