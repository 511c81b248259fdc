/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Setting the load generator up: front-ends, buffers, flows.
 */
#include "bench/gen_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vnet/features.h"

static int post_all(struct gen *g, struct side *s, struct err *e)
{
    const struct vu_fe *fe = s->fe;
    uint32_t len[TX_SEGS], n_seg = gen_tcp_cut(g, len);

    s->held_at = s->n_held = 0;
    for (uint32_t i = 0; i < g->c.num; i++) {
        uint8_t *rx = s->rx_buf + (uint64_t)i * g->rx_stride;
        struct ring_seg seg = {.addr = vu_fe_gpa(fe, rx), .len = g->c.buf};

        if (ring_drv_add(s->rx->drv.layout, &s->rx->drv, &seg, 0, 1, rx) < 0) {
            return err_set(e, -ENOSPC, "no room in a fresh ring");
        }
    }
    for (uint32_t i = 0; i < g->n_tx; i++) {
        uint8_t *tx = s->tx_buf + (uint64_t)i * g->tx_stride;
        struct ring_seg seg[TX_SEGS];

        for (uint32_t k = 0, at = 0; k < n_seg; at += len[k++]) {
            seg[k] = (struct ring_seg){.addr = vu_fe_gpa(fe, tx + at), .len = len[k]};
        }
        int id = ring_drv_prepare(&s->tx->drv, seg, n_seg, 0, tx);
        if (id < 0) {
            return err_set(e, -ENOSPC, "no room in a fresh ring");
        }
        gen_hold(g, s, (uint16_t)id);
    }
    ring_drv_publish(s->rx->drv.layout, &s->rx->drv);
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
    g->checked = g->c.verify || g->c.tcp || g->mrg;
    return 0;
}

int gen_start_local(struct gen *g, struct err *e)
{
    g->mrg = g->c.linux_guest;
    g->local = true;
    g->checked = g->c.verify || g->c.tcp || g->mrg;
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

bool gen_mergeable(const struct gen *g)
{
    return g->mrg;
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
        .rewrite = g->c.write_rings,
        .buf_bytes = (uint64_t)g->c.num * g->rx_stride + (uint64_t)g->n_tx * g->tx_stride,
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
                           .scratch = calloc(1, g->c.frame),
                           .heads = calloc((size_t)2 * g->n_tx * g->n_seg, GEN_TCP_HEAD)};
        if (!f->scratch || !f->heads) {
            return err_set(e, -ENOMEM, "no memory");
        }
        gen_fill_flow(g, f);
    }
    return 0;
}

/* Buffers lie an odd number of cache lines apart, so that their first lines use all cache sets. */
static uint32_t stride_of(uint32_t len)
{
    return (((len + 63) / 64) | 1) * 64;
}

static void plan(struct gen *g, const struct gen_conf *c)
{
    g->c = *c;
    g->c.timeout_ms = c->timeout_ms ? c->timeout_ms : 5000;
    g->c.n_active = c->n_active ? c->n_active : c->n_pairs;
    g->features = VIRTIO_BIT(F_VERSION_1);
    if (c->linux_guest) {
        g->features |=
            VIRTIO_BIT(NET_F_MRG_RXBUF) | VIRTIO_BIT(F_EVENT_IDX) | VIRTIO_BIT(F_INDIRECT_DESC);
    }
    if (c->packed) {
        g->features |= VIRTIO_BIT(F_RING_PACKED);
    }
    g->n_tx = c->num;
    g->n_seg = 1;
    if (c->tcp) {
        gen_tcp_plan(g);
    } else {
        g->c.buf = c->buf           ? c->buf
                   : c->linux_guest ? DEFAULT_BUF
                                    : MAX(DEFAULT_BUF, HDR + c->frame);
        g->bufs = (HDR + c->frame + g->c.buf - 1) / g->c.buf;
        g->rewrite = c->rotate || c->n_macs > 2 || g->bufs > 1;
    }
    g->least_tx = MIN(TURN_LEAST, MAX(MIN(c->num / g->bufs, g->n_tx) / 8, 1u));
    g->least_rx = g->bufs > 1 ? 1 : g->least_tx;
    g->half = MAX(c->n_macs / 2, 1u);
    g->n_side = 2 * g->c.n_active;
    g->n_flow = g->c.n_active * (c->both ? 2 : 1);
    g->rx_stride = stride_of(g->c.buf);
    g->tx_stride = stride_of(MAX(DEFAULT_BUF, HDR + c->frame));
}

int gen_create(struct gen **out, const struct gen_conf *c, struct err *e)
{
    struct gen *g = calloc(1, sizeof(*g));
    int r = 0;

    if (!g) {
        return err_set(e, -ENOMEM, "no memory");
    }
    plan(g, c);
    g->side = calloc(2 * c->n_pairs, sizeof(*g->side));
    g->flow = calloc(g->n_flow, sizeof(*g->flow));
    g->pattern = malloc((size_t)N_PATTERNS * c->frame);
    if (!g->side || !g->flow || !g->pattern) {
        r = err_set(e, -ENOMEM, "no memory");
    } else {
        gen_fill_pattern(g);
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
        free(g->flow[i].heads);
    }
    free(g->side);
    free(g->flow);
    free(g->pattern);
    free(g);
}
