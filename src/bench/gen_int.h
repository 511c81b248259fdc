/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the load generator know of each other. */
#ifndef BENCH_GEN_INT_H
#define BENCH_GEN_INT_H

#include "bench/gen.h"
#include "bench/ticks.h"
#include "vhost/vu_frontend.h"
#include "vnet/vnet_hdr.h"

#define HDR         VNET_HDR_LEN
#define TURN_MAX 128u /* frames per flow and turn */
#define TURN_LEAST 16u /* see least_tx */
#define N_PATTERNS  61u  /* prime: neighbours in any ring differ */
#define AT_FLOW     14u  /* offsets in a frame */
#define AT_IDX      16u
#define AT_SEQ      20u
#define AT_PATTERN  24u /* latency: the time stamp */
#define DEFAULT_BUF 1536u
#define GEN_TCP_AT_SUM 50u /* of the TCP checksum in a frame */
#define TX_SEGS     4u /* descriptors of one transmit chain at most */

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
    /* TCP: what is to come, and the frame that is coming in */
    uint8_t *heads; /* [2][n_tx][n_seg][GEN_TCP_HEAD]: see gen_tcp_head() */
    uint32_t idx, seg;
    const uint8_t *want; /* its payload */
    uint32_t want_len, probe;
    bool whole, bad;
};

struct gen {
    struct gen_conf c;
    uint32_t n_side, n_flow, half;
    uint32_t tx_stride, rx_stride;
    uint32_t bufs;               /* receive buffers per frame */
    uint32_t n_tx;               /* transmit chains; a power of two */
    uint32_t least_tx, least_rx; /* less is left for the next turn */
    uint64_t features;
    /* TCP */
    uint32_t n_seg, step; /* frames received per frame sent, payload of each but the last */
    struct vnet_hdr rx_hdr;
    struct side *side;
    struct flow *flow;
    uint8_t *pattern; /* [N_PATTERNS][c.frame] */
    bool rewrite;
    bool checked; /* what is received is looked at */
    bool mrg;   /* negotiated by all */
    bool local; /* no sockets */
};

/* gen_hot.c */
/* One turn of every flow. */
void gen_round(struct gen *g);
/* Receive side only, also what is less than a turn. */
void gen_round_rx(struct gen *g, struct flow *f);
void gen_put_mac(uint8_t *p, uint32_t port, uint32_t i);
void gen_fill_pattern(struct gen *g);
/* All transmit buffers of a flow, as they are between measurements. */
void gen_fill_flow(struct gen *g, struct flow *f);
/* The next addresses and sequence number, when frames are rewritten. */
void gen_rewrite(struct gen *g, struct flow *f, uint8_t *buf);
static inline const uint8_t *gen_pattern(const struct gen *g, uint32_t idx)
{
    return g->pattern + (uint64_t)(idx % N_PATTERNS) * g->c.frame;
}

/* gen_tcp.c */
/* Segments, receive buffers and offloads; before anything is allocated. */
void gen_tcp_plan(struct gen *g);
/* Transmit buffers of a flow, and what is to be received from them. */
void gen_tcp_fill(struct gen *g, struct flow *f);
/* How a transmit buffer is cut into descriptors; returns their number. */
uint32_t gen_tcp_cut(const struct gen *g, uint32_t *len);
/* The headers of segment seg of buffer idx as they have to arrive. */
static inline uint8_t *gen_tcp_head(const struct gen *g, const struct flow *f, uint32_t idx,
                                    uint32_t seg)
{
    return f->heads + (uint64_t)(idx * g->n_seg + seg) * GEN_TCP_HEAD;
}
/* The same with the checksum completed, where it is taken incomplete. */
static inline uint8_t *gen_tcp_completed(const struct gen *g, const uint8_t *head)
{
    return (uint8_t *)head + (uint64_t)g->n_tx * g->n_seg * GEN_TCP_HEAD;
}
static inline uint32_t gen_tcp_seq(uint32_t idx)
{
    return idx << 16;
}

/* gen_run.c */
void gen_hold(const struct gen *g, struct side *s, uint16_t id);
/* The oldest held transmit chain, or -1. */
int32_t gen_take(const struct gen *g, struct side *s);
uint8_t *gen_tx_buf(const struct side *s, uint16_t id);
uint32_t gen_tx_idx(const struct gen *g, const struct side *s, uint16_t id);
/* Transmit chains that are done become held. */
uint32_t gen_reap_tx(const struct gen *g, struct side *s);
/* Until all transmit chains are held and nothing was received for a while. */
int gen_drain(struct gen *g, struct err *e);
void gen_refill(struct gen *g);
int gen_check(const struct gen *g, struct err *e);
static inline void gen_yield(struct gen *g)
{
    if (g->c.turn) {
        g->c.turn(g->c.turn_ctx);
    }
}
static inline void gen_send(struct side *s, uint16_t id)
{
    ring_drv_repost(s->tx->drv.layout, &s->tx->drv, id);
}
static inline void gen_publish(struct side *s, struct vu_fe_ring *r)
{
    if (unlikely(ring_drv_publish(r->drv.layout, &r->drv))) {
        vu_fe_kick(r);
        s->n_kicks++;
    }
}

#endif
