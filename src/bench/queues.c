/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/queues.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "bench/ticks.h"
#include "pkt/pkt.h"
#include "pkt/wire.h"
#include "vhost/vu_frontend.h"
#include "vnet/features.h"
#include "vnet/vnet_hdr.h"

#define HDR       VNET_HDR_LEN
#define FRAME     60u
#define BUF       1536u
#define STRIDE    (BUF + CACHE_LINE) /* an odd number of lines: buffers use all cache sets */
#define AT_SEQ    42u /* behind Ethernet, IPv4 and UDP */
#define AT_FLOW   46u
#define HEAD      42u
#define FLOWS_PER_PATH 4 /* flows from one queue to one queue */
#define REAP_MAX  128u
#define STALL_S   10

struct queue {
    struct vu_fe_ring *rx, *tx;
    uint16_t *held; /* transmit chains that are ours */
    uint32_t n_held, n_done; /* n_done: used ones, as this round saw them */
    uint16_t *flow; /* those that are sent here, in turn */
    uint32_t n_flows, at;
    bool sends;
};

struct side {
    struct vu_fe *fe;
    struct queue q[QGEN_MAX_QUEUES];
    uint8_t (*head)[HEAD]; /* of each flow, as this side sends it */
    uint32_t *seq;         /* next to send */
    uint32_t *last;        /* received, of what the other side sends */
};

struct qgen {
    struct qgen_conf c;
    uint32_t n_flows;
    struct side side[2];
    uint32_t random;
    bool check_ring, quiet, stop;
    struct qgen_sum sum;
};

/* The queue of a flow on a side. */
static unsigned queue_of(const struct qgen *g, unsigned side, uint32_t flow)
{
    return side ? flow / g->c.queues % g->c.queues : flow % g->c.queues;
}

static void make_head(uint8_t *p, unsigned from, uint32_t flow)
{
    unsigned to = !from;

    memset(p, 0, HEAD);
    p[0] = p[6] = 2;
    p[5] = (uint8_t)(to + 1);
    p[11] = (uint8_t)(from + 1);
    wire_put_be16(p + 12, ETH_IPV4);
    p[14] = 0x45;
    wire_put_be16(p + 16, FRAME - 14);
    p[22] = 64; /* time to live */
    p[23] = IP_UDP;
    memcpy(p + 26, (uint8_t[]){10, 0, 0, (uint8_t)(from + 1), 10, 0, 0, (uint8_t)(to + 1)}, 8);
    wire_put_be16(p + 34, from ? 7 : 1024 + flow);
    wire_put_be16(p + 36, to ? 7 : 1024 + flow);
    wire_put_be16(p + 38, FRAME - 34);
}

/* ---- set-up ------------------------------------------------------------------------------------ */

static int post_all(struct qgen *g, struct side *s, struct err *e)
{
    uint8_t *buf = vu_fe_buf(s->fe);

    for (unsigned k = 0; k < g->c.queues; k++) {
        struct queue *q = &s->q[k];

        q->n_held = 0;
        for (uint32_t i = 0; i < g->c.num; i++, buf += 2 * STRIDE) {
            struct ring_seg rx = {.addr = vu_fe_gpa(s->fe, buf), .len = BUF};
            struct ring_seg tx = {.addr = vu_fe_gpa(s->fe, buf + STRIDE), .len = HDR + FRAME};
            int id = ring_drv_prepare(&q->tx->drv, &tx, 1, 0, buf + STRIDE);

            if (ring_drv_add(RING_SPLIT, &q->rx->drv, &rx, 0, 1, buf) < 0 || id < 0) {
                return err_set(e, -ENOSPC, "no room in a fresh ring");
            }
            if (i < g->c.num / g->c.queues) { /* all queues together fit into one receive ring */
                q->held[q->n_held++] = (uint16_t)id;
            }
        }
        ring_drv_publish(RING_SPLIT, &q->rx->drv);
    }
    return 0;
}

static int make_side(struct qgen *g, unsigned n, struct err *e)
{
    struct side *s = &g->side[n];
    uint64_t features = VIRTIO_BIT(F_VERSION_1) | (g->c.queues > 1 ? VIRTIO_BIT(NET_F_MQ) : 0);
    struct vu_fe_conf fc = {.path = g->c.path[n],
                            .features = features,
                            .features_required = features,
                            .n_rings = 2 * g->c.queues,
                            .num = g->c.num,
                            .buf_bytes = 2ull * STRIDE * g->c.num * g->c.queues,
                            .timeout_ms = g->c.timeout_ms};
    int r = vu_fe_create(&s->fe, &fc, e);
    bool ok = !r;

    s->head = calloc(g->n_flows, sizeof(*s->head));
    s->seq = calloc(g->n_flows, sizeof(*s->seq));
    s->last = calloc(g->n_flows, sizeof(*s->last));
    ok = ok && s->head && s->seq && s->last;
    for (unsigned k = 0; ok && k < g->c.queues; k++) {
        struct queue *q = &s->q[k];

        q->rx = vu_fe_ring(s->fe, 2 * k);
        q->tx = vu_fe_ring(s->fe, 2 * k + 1);
        q->held = calloc(g->c.num, sizeof(*q->held));
        q->flow = calloc(g->n_flows, sizeof(*q->flow));
        q->sends = true;
        ok = q->held && q->flow;
    }
    if (!ok) {
        return r ? r : err_set(e, -ENOMEM, "no memory");
    }
    for (uint32_t f = 0; f < g->n_flows; f++) {
        struct queue *q = &s->q[queue_of(g, n, f)];

        make_head(s->head[f], n, f);
        q->flow[q->n_flows++] = (uint16_t)f;
    }
    return 0;
}

int qgen_create(struct qgen **out, const struct qgen_conf *c, struct err *e)
{
    struct qgen *g = calloc(1, sizeof(*g));

    if (!g) {
        return err_set(e, -ENOMEM, "no memory");
    }
    g->c = *c;
    g->random = 1;
    g->n_flows = c->queues * c->queues * FLOWS_PER_PATH;
    int r = make_side(g, 0, e);
    r = r ? r : make_side(g, 1, e);
    if (r) {
        qgen_destroy(g);
        return r;
    }
    *out = g;
    return 0;
}

void qgen_destroy(struct qgen *g)
{
    for (unsigned n = 0; g && n < 2; n++) {
        struct side *s = &g->side[n];

        vu_fe_destroy(s->fe);
        for (unsigned k = 0; k < g->c.queues; k++) {
            free(s->q[k].held);
            free(s->q[k].flow);
        }
        free(s->head);
        free(s->seq);
        free(s->last);
    }
    free(g);
}

void qgen_stop(struct qgen *g)
{
    write_once(&g->stop, true);
}

/* ---- traffic ----------------------------------------------------------------------------------- */

static void publish(struct vu_fe_ring *r)
{
    if (unlikely(ring_drv_publish(RING_SPLIT, &r->drv))) {
        vu_fe_kick(r);
    }
}

static void check_frame(struct qgen *g, unsigned side, unsigned queue, const uint8_t *p,
                        uint32_t len)
{
    struct side *me = &g->side[side];
    uint32_t seq;
    uint16_t flow;

    memcpy(&seq, p + HDR + AT_SEQ, 4);
    memcpy(&flow, p + HDR + AT_FLOW, 2);
    if (len != HDR + FRAME || flow >= g->n_flows ||
        memcmp(p + HDR, g->side[!side].head[flow], HEAD) != 0) {
        g->sum.bad_frame++;
        return;
    }
    g->sum.bad_order += (int32_t)(seq - me->last[flow]) <= 0;
    g->sum.bad_ring += g->check_ring && queue_of(g, side, flow) != queue;
    me->last[flow] = seq;
    g->sum.ring[side][queue]++;
}

/* All that has arrived; buffers are posted again. */
static uint32_t receive(struct qgen *g, unsigned side, unsigned queue)
{
    struct vu_fe_ring *rx = g->side[side].q[queue].rx;
    struct ring_drv_used u[REAP_MAX];
    uint32_t n, sum = 0;

    do {
        n = ring_drv_reap(RING_SPLIT, &rx->drv, u, REAP_MAX);
        for (uint32_t i = 0; i < n; i++) {
            check_frame(g, side, queue, u[i].token, u[i].len);
            ring_drv_repost(RING_SPLIT, &rx->drv, u[i].id);
        }
        sum += n;
    } while (n == REAP_MAX);
    if (sum) {
        publish(rx);
    }
    g->sum.received += sum;
    return sum;
}

static void put_frame(struct side *s, struct queue *q, uint8_t *p)
{
    uint16_t flow = q->flow[q->at];
    uint32_t seq = ++s->seq[flow]; /* from 1: 0 is behind nothing */

    q->at = q->at + 1 == q->n_flows ? 0 : q->at + 1;
    memset(p, 0, HDR + FRAME);
    memcpy(p + HDR, s->head[flow], HEAD);
    memcpy(p + HDR + AT_SEQ, &seq, 4);
    memcpy(p + HDR + AT_FLOW, &flow, 2);
}

/* Take back what the device was done with at the beginning of the round, and send up to max. */
static uint32_t transmit(struct qgen *g, struct side *s, struct queue *q, uint32_t max)
{
    struct ring_drv_used u[REAP_MAX];
    uint32_t n, sent = 0;

    while (q->n_done && (n = ring_drv_reap(RING_SPLIT, &q->tx->drv, u, MIN(q->n_done, REAP_MAX)))) {
        for (uint32_t i = 0; i < n; i++) {
            q->held[q->n_held++] = u[i].id;
        }
        q->n_done -= n;
    }
    for (; sent < max && q->n_held; sent++) {
        uint16_t id = q->held[--q->n_held];

        put_frame(s, q, q->tx->drv.slot[id].token);
        ring_drv_repost(RING_SPLIT, &q->tx->drv, id);
    }
    if (sent) {
        publish(q->tx);
    }
    g->sum.sent += sent;
    return sent;
}

/* One round over all queues; max: frames that each of them may send. What was done at all. */
static uint32_t round_of(struct qgen *g, uint32_t max)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < 2 * g->c.queues; i++) {
        struct queue *q = &g->side[i & 1].q[i / 2];

        q->n_done = ring_drv_pending(RING_SPLIT, &q->tx->drv, g->c.num);
    }
    for (unsigned i = 0; i < 2 * g->c.queues; i++) {
        n += receive(g, i & 1, i / 2);
    }
    for (unsigned i = 0; i < 2 * g->c.queues; i++) {
        struct side *s = &g->side[i & 1];

        n += transmit(g, s, &s->q[i / 2], s->q[i / 2].sends && !g->quiet ? max : 0);
    }
    if (g->c.turn) {
        g->c.turn(g->c.turn_ctx);
    } else if (!n) {
        sched_yield(); /* a worker may be waiting for this very CPU */
    }
    return n;
}

/* Others send from now on. */
static void shift(struct qgen *g)
{
    bool any = false;

    while (!any) {
        for (unsigned i = 0; i < 2 * g->c.queues; i++) {
            g->random = g->random * 1664525u + 1013904223u;
            g->side[i & 1].q[i / 2].sends = g->random >> 30 == 0; /* one in four */
            any |= g->side[i & 1].q[i / 2].sends;
        }
    }
}

static int check(const struct qgen *g, struct err *e)
{
    if (read_once(&g->stop)) {
        return err_set(e, -EINTR, "interrupted");
    }
    for (unsigned n = 0; n < 2; n++) {
        if (!vu_fe_connected(g->side[n].fe)) {
            return err_set(e, -ECONNRESET, "the switch closed the connection of side %u", n);
        }
    }
    return 0;
}

/* Rounds until that many frames are in; nothing at all for STALL_S is an error, or what was lost. */
static int until_received(struct qgen *g, uint64_t frames, uint32_t max, struct err *e)
{
    const uint64_t second = (uint64_t)(1e9 * ticks_per_ns());
    uint64_t alive = ticks(), shifted = alive, looked = alive, now;
    int r = 0;

    while (g->sum.received < frames && !r) {
        uint32_t n = round_of(g, max);

        now = ticks();
        alive = n ? now : alive;
        if (g->c.shift_ms && now - shifted > second / 1000 * g->c.shift_ms) {
            shift(g);
            shifted = now;
        }
        if (now - looked > second / 10) {
            r = check(g, e);
            looked = now;
        }
        if (!r && now - alive > STALL_S * second) {
            r = err_set(e, -ETIMEDOUT, "no frame came through for %d s", STALL_S);
        }
    }
    return r;
}

/* Nobody sends; what is under way arrives, and what was lost does not: a second is enough. */
static void drain(struct qgen *g)
{
    const uint64_t second = (uint64_t)(1e9 * ticks_per_ns());
    uint64_t start = ticks(), now = start, alive = start;

    g->quiet = true;
    while (now - alive < second / 200 || (g->sum.received < g->sum.sent && now - start < second)) {
        uint32_t n = round_of(g, 0);

        now = ticks();
        alive = n ? now : alive;
    }
    g->quiet = false;
}

static bool all_sent(const struct qgen *g)
{
    bool all = true;

    for (uint32_t f = 0; f < g->n_flows; f++) {
        all &= g->side[0].seq[f] && g->side[1].seq[f];
    }
    return all;
}

/* The switch sees where each flow belongs. */
static int learn(struct qgen *g, struct err *e)
{
    const uint64_t end = ticks() + (uint64_t)(g->c.timeout_ms * 1e6 * ticks_per_ns());

    while (!all_sent(g)) {
        round_of(g, g->c.num);
        if (ticks() > end) {
            return err_set(e, -ETIMEDOUT, "the switch did not take all frames within %u ms",
                           g->c.timeout_ms);
        }
    }
    drain(g);
    g->check_ring = true;
    return check(g, e);
}

int qgen_connect(struct qgen *g, struct err *e)
{
    int r = 0;

    for (unsigned n = 0; n < 2 && !r; n++) {
        struct side *s = &g->side[n];

        r = vu_fe_connect(s->fe, e);
        r = r ? r : vu_fe_reset_rings(s->fe, e);
        r = r ? r : post_all(g, s, e);
        r = r ? r : vu_fe_start(s->fe, true, e);
    }
    return r;
}

int qgen_run(struct qgen *g, uint64_t frames, struct qgen_sum *out, struct err *e)
{
    int r = g->check_ring ? 0 : learn(g, e);
    uint64_t t0 = ticks();

    g->sum = (struct qgen_sum){0};
    r = r ? r : until_received(g, frames, g->c.num, e);
    g->sum.seconds = (double)(ticks() - t0) / ticks_per_ns() / 1e9;
    drain(g);
    *out = g->sum;
    return r;
}
