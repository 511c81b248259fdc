/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames on demand (learning), and measuring throughput.  Between two calls of the interface all
 * transmit chains are held: nothing is under way.
 */
#include "bench/gen_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

volatile bool gen_interrupted;

void gen_hold(const struct gen *g, struct side *s, uint16_t id)
{
    s->held[(s->held_at + s->n_held++) & (g->c.num - 1)] = id;
}

int32_t gen_take(const struct gen *g, struct side *s)
{
    if (!s->n_held) {
        return -1;
    }
    s->n_held--;
    return s->held[s->held_at++ & (g->c.num - 1)];
}

uint8_t *gen_tx_buf(const struct side *s, uint16_t id)
{
    return s->tx->drv.slot[id].token;
}

uint32_t gen_tx_idx(const struct gen *g, const struct side *s, uint16_t id)
{
    return (uint32_t)(gen_tx_buf(s, id) - s->tx_buf) / g->tx_stride;
}

/* Transmit chains that are done become held. */
uint32_t gen_reap_tx(const struct gen *g, struct side *s)
{
    struct ring_drv_used u[TURN_MAX];
    uint32_t n = ring_drv_reap(s->tx->drv.layout, &s->tx->drv, u, TURN_MAX);

    for (uint32_t i = 0; i < n; i++) {
        gen_hold(g, s, u[i].id);
    }
    return n;
}

/* Received frames of no interest. */
static uint32_t drop_rx(struct side *s)
{
    uint64_t bytes = 0;
    uint32_t n = ring_drv_recycle(s->rx->drv.layout, &s->rx->drv, TURN_MAX, &bytes);

    if (n) {
        gen_publish(s, s->rx);
    }
    return n;
}

int gen_check(const struct gen *g, struct err *e)
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
int gen_drain(struct gen *g, struct err *e)
{
    const uint64_t ms = (uint64_t)(ticks_per_ns() * 1e6);
    uint64_t quiet = ticks(), end = quiet + (uint64_t)g->c.timeout_ms * ms;
    bool waiting = true;

    while (waiting || ticks() - quiet < 2 * ms) {
        uint32_t n = 0;

        waiting = false;
        for (uint32_t i = 0; i < g->n_side; i++) {
            struct side *s = &g->side[i];

            n += gen_reap_tx(g, s) + drop_rx(s);
            waiting |= s->n_held < g->n_tx;
        }
        gen_yield(g);
        if (n) {
            quiet = ticks();
        } else if (ticks() - quiet > ms) {
            int r = gen_check(g, e);
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

void gen_refill(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        gen_fill_flow(g, &g->flow[i]);
    }
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

            for (uint32_t k = 0; k < 32 && sent[i] < g->half && (id = gen_take(g, s)) >= 0; k++) {
                uint8_t *p = gen_tx_buf(s, (uint16_t)id) + HDR;

                gen_put_mac(p, g->side[i ^ 1].port, 0);
                gen_put_mac(p + 6, s->port, sent[i]++);
                if (g->c.odd_vid && i % 2) {
                    const uint8_t tag[4] = {0x81, 0, (uint8_t)(g->c.odd_vid >> 8),
                                            (uint8_t)g->c.odd_vid};

                    memcpy(p + 12, tag, sizeof(tag));
                }
                gen_send(s, (uint16_t)id);
            }
            gen_publish(s, s->tx);
            left += sent[i] < g->half;
            gen_reap_tx(g, s);
            drop_rx(s);
        }
        gen_yield(g);
    }
    free(sent);
    int r = gen_drain(g, e);
    gen_refill(g);
    return r;
}

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
    o->tx_frames *= g->n_seg;
    if (!g->checked) {
        /* counted with the virtio-net header in front */
        o->rx_bytes -= MIN(o->rx_bytes, o->rx_frames * HDR);
    }
}

static void start_flows(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_flow; i++) {
        struct flow *f = &g->flow[i];
        uint32_t seq = f->seq;
        int32_t id, first = -1;

        f->more = 0;
        /* No more frames under way than the receive ring has room for. */
        for (uint32_t n = g->c.num / g->bufs; n && (id = gen_take(g, f->from)) >= 0; n--) {
            first = first < 0 ? id : first;
            if (g->rewrite) {
                gen_rewrite(g, f, gen_tx_buf(f->from, (uint16_t)id));
            }
            gen_send(f->from, (uint16_t)id);
        }
        f->expect = g->rewrite ? seq : (uint32_t)first;
        f->idx = first < 0 ? 0 : gen_tx_idx(g, f->from, (uint16_t)first);
        f->seg = 0;
    }
    for (uint32_t i = 0; i < g->n_flow; i++) {
        gen_publish(g->flow[i].from, g->flow[i].from->tx);
    }
}

/* Rounds until the time or the number of frames is reached (0: no limit). */
static int rounds(struct gen *g, uint64_t n_ticks, uint64_t frames, struct err *e)
{
    const uint64_t t0 = ticks(), second = (uint64_t)(1e9 * ticks_per_ns());
    uint64_t seen = 0, seen_at = t0, got = 0;

    for (uint64_t now = t0; !n_ticks || now - t0 < n_ticks; now = ticks()) {
        for (int i = 0; i < 16; i++) {
            gen_round(g);
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
            int r = gen_check(g, e);
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
    int r = gen_drain(g, e);

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
    struct gen_rate warmed = {0};

    sum_up(g, &warmed);
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

            late_tx += gen_reap_tx(g, f->from);
            gen_round_rx(g, f);
            n += f->rx_frames - before;
        }
        late_rx += n;
        quiet = n ? ticks() : quiet;
        gen_yield(g);
    }
    /* All since nothing was under way: what the warm-up left under way was received later. */
    uint64_t tx = warmed.tx_frames + out->tx_frames + late_tx * g->n_seg;
    uint64_t rx = warmed.rx_frames + out->rx_frames + late_rx;
    out->lost = tx > rx ? tx - rx : 0;
    return gen_check(g, e);
}

int gen_run(struct gen *g, double seconds, struct gen_rate *out, struct err *e)
{
    return run(g, seconds, 0, out, e);
}

int gen_run_frames(struct gen *g, uint64_t frames, struct gen_rate *out, struct err *e)
{
    return run(g, 0, frames, out, e);
}
