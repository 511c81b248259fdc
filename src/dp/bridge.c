/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch goes through in three passes:
 *
 *   1 addresses   read the 12 address bytes of each snapshot; runs of frames between the same two
 *                 stations share one slot; prefetch the buckets of each slot
 *   2 verdicts    per slot: learn the source, look up the destination
 *   3 dispatch    per egress port: the list of its frames, in their order, one tx call
 *
 * Frames of one batch to one port are never reordered, floods included: if a batch has a frame to
 * flood, each member's list is made of what is for it and what is for all.
 */
#include "dp/bridge.h"

#include <string.h>

#include "dp/mactab_hot.h"

#define MAC_MASK 0xffffffffffffull
#define MAC_MULTICAST 1u /* lowest bit of the first byte, in our byte order */

/* One pair of stations in this batch. */
struct flow {
    uint64_t dst, src; /* keys: address | fid << 48 */
    struct mac_hash dst_hash, src_hash;
    uint16_t egress;
    uint8_t why; /* drop reason if egress is EGRESS_DROP */
};

static ALWAYS_INLINE uint64_t load48(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, 8); /* a frame has at least 14 bytes */
    return v & MAC_MASK;
}

/* 01:80:c2:00:00:00 .. 0f (IEEE 802.1Q, 8.6.3): for the neighbour on this link only. */
static ALWAYS_INLINE bool is_reserved(uint64_t mac)
{
    return (mac & 0xf0ffffffffffull) == 0x0000c28001ull;
}

static ALWAYS_INLINE uint32_t collect_flows(const struct mactab *macs, const struct batch *b,
                                            uint64_t fid, struct flow *flow, uint8_t *flow_of)
{
    uint64_t dst = ~0ull, src = ~0ull;
    uint32_t n = 0;

    for (uint32_t i = 0; i < b->n; i++) {
        uint64_t d = load48(b->pkt[i].data) | fid, s = load48(b->pkt[i].data + 6) | fid;

        if (d != dst || s != src) {
            struct flow *f = &flow[n++];

            dst = f->dst = d;
            src = f->src = s;
            f->dst_hash = mac_hash(macs, d);
            f->src_hash = mac_hash(macs, s);
            mactab_prefetch(macs, f->dst_hash);
            mactab_prefetch(macs, f->src_hash);
        }
        flow_of[i] = (uint8_t)(n - 1);
    }
    return n;
}

static ALWAYS_INLINE uint16_t drop(struct flow *f, enum drop why)
{
    f->why = (uint8_t)why;
    return EGRESS_DROP;
}

static ALWAYS_INLINE uint16_t decide(const struct view *v, struct mactab *macs, uint16_t from,
                                     struct flow *f)
{
    const struct view_port *in = &v->port[from];

    if (unlikely(f->src & MAC_MULTICAST)) {
        return drop(f, DROP_SRC_MULTICAST);
    }
    if (unlikely(is_reserved(f->dst & MAC_MASK)) && !in->bridge->forward_reserved) {
        return drop(f, DROP_RESERVED);
    }
    mactab_learn(macs, f->src, f->src_hash, from);
    if (f->dst & MAC_MULTICAST) {
        return EGRESS_FLOOD;
    }
    uint16_t to = mactab_find(macs, f->dst, f->dst_hash).port;
    if (unlikely(to == MACTAB_MISS || !v->port[to].port)) {
        return EGRESS_FLOOD;
    }
    if (unlikely(to == from)) {
        return drop(f, DROP_HAIRPIN);
    }
    if (unlikely(in->isolated && v->port[to].isolated)) {
        return drop(f, DROP_ISOLATED);
    }
    return to;
}

/* Frames for one port: those whose verdict it is, and those for all if it is to have them. */
static uint32_t pick(const struct batch *b, uint16_t port, bool floods, uint8_t *idx)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < b->n; i++) {
        uint16_t e = b->pkt[i].egress;

        idx[n] = (uint8_t)i;
        n += e == port || (floods && e == EGRESS_FLOOD);
    }
    return n;
}

static COLD void dispatch_flood(const struct view *v, uint16_t from, struct batch *b,
                                struct wctx *w)
{
    const struct view_port *in = &v->port[from];
    uint8_t idx[PKT_BURST + 1];
    bool anybody = false;

    for (uint16_t m = 0; m < in->bridge->n; m++) {
        uint16_t id = in->bridge->member[m];
        const struct view_port *out = &v->port[id];

        if (id == from) {
            continue;
        }
        bool floods = read_once(&out->port->ready) && !(in->isolated && out->isolated);
        uint32_t n = pick(b, id, floods, idx);

        if (n) {
            out->port->ops->tx(out->port, b, idx, n, w);
        }
        anybody |= floods;
    }
    if (!anybody) {
        port_count_drop(in->port, w, DROP_NO_PORTS, pick(b, EGRESS_FLOOD, false, idx));
    }
}

static ALWAYS_INLINE void dispatch_unicast(const struct view *v, struct batch *b, struct wctx *w)
{
    uint32_t left = b->n == 32 ? ~0u : (1u << b->n) - 1;

    static_assert(PKT_BURST == 32, "one bit per frame");
    while (left) {
        uint16_t to = b->pkt[__builtin_ctz(left)].egress;
        uint8_t idx[PKT_BURST];
        uint32_t n = 0;

        for (uint32_t m = left; m; m &= m - 1) {
            uint32_t i = (uint32_t)__builtin_ctz(m);

            if (b->pkt[i].egress == to) {
                idx[n++] = (uint8_t)i;
                left &= ~(1u << i);
            }
        }
        if (likely(to != EGRESS_DROP)) {
            struct port *out = v->port[to].port;

            out->ops->tx(out, b, idx, n, w);
        }
    }
}

CPU_CLONES void bridge_forward(const struct view *v, struct mactab *macs, uint16_t from,
                               struct batch *b, struct wctx *w)
{
    struct flow flow[PKT_BURST];
    uint8_t flow_of[PKT_BURST];
    uint64_t fid = (uint64_t)v->port[from].bridge->fid << 48;
    uint32_t n = collect_flows(macs, b, fid, flow, flow_of);
    bool floods = false;

    for (uint32_t k = 0; k < n; k++) {
        flow[k].egress = decide(v, macs, from, &flow[k]);
        floods |= flow[k].egress == EGRESS_FLOOD;
    }
    for (uint32_t i = 0; i < b->n; i++) {
        const struct flow *f = &flow[flow_of[i]];

        b->pkt[i].egress = f->egress;
        if (unlikely(f->egress == EGRESS_DROP)) {
            port_count_drop(v->port[from].port, w, (enum drop)f->why, 1);
        }
    }
    if (unlikely(floods)) {
        dispatch_flood(v, from, b, w);
    } else {
        dispatch_unicast(v, b, w);
    }
}
