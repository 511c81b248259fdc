/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch goes through in three passes.  Compiled once per machine level (base/cpu.h).
 *
 *   1 flows       frames in a row between the same two stations are one flow; prefetch its buckets
 *   2 verdicts    per flow: learn the source, look up the destination
 *   3 dispatch    per egress port: the list of its frames, in their order, one tx call
 *
 * Frames of one batch to one port are never reordered, floods included: if a batch has a flow to
 * flood, each member's list is made of what is for it and what is for all.
 *
 * Where the bridge filters VLANs (dp/vlan_hot.h), pass 1 comes after the classification of each
 * frame, a flow is in one VLAN, and frames get or lose their tag just before tx.  The passes are
 * the same source, instantiated twice: vb is a constant NULL where nothing is filtered.
 */
#include "dp/bridge.h"

#include <string.h>

#include "dp/mactab_hot.h"
#include "dp/vlan_hot.h"

#define MAC_MASK 0xffffffffffffull
#define MAC_MULTICAST 1u /* lowest bit of the first byte, in our byte order */

/* Verdicts: a port number, or one of these. */
enum { EGRESS_FLOOD = 0xfffe, EGRESS_DROP = 0xffff };
static_assert(PORT_MAX <= EGRESS_FLOOD, "no port has the number of a verdict");

/* Frames in a row from one station to another. */
struct flow {
    uint64_t dst, src; /* keys: address | fid << 48 */
    struct mac_hash dst_hash, src_hash;
    uint8_t first, n; /* frames of the batch */
    uint8_t why;      /* enum drop, if egress is EGRESS_DROP */
    bool done;
    uint16_t egress;
};

static const uint8_t all_frames[PKT_BURST] = {
     0,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13, 14, 15,
    16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
    32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
    48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63,
};
static_assert(PKT_BURST == 64, "the table above");

/* The first eight bytes at p; a frame has at least 14. */
static ALWAYS_INLINE uint64_t load_64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

/* 01:80:c2:00:00:00 .. 0f (IEEE 802.1Q, 8.6.3): for the neighbour on this link only. */
static ALWAYS_INLINE bool is_reserved(uint64_t mac)
{
    return (mac & 0xf0ffffffffffull) == 0x0000c28001ull;
}

static ALWAYS_INLINE uint32_t collect_flows(const struct mactab *macs, const struct batch *b,
                                            uint64_t fid, const struct vlan_batch *vb,
                                            struct flow *flow)
{
    /* bytes 0-7 and 4-11 of the frame before; the first one is like none */
    uint64_t front = ~load_64(b->pkt[0].data), back = 0;
    const uint32_t n = b->n;
    struct flow *fl = flow - 1;

    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *d = b->pkt[i].data;
        uint64_t f = load_64(d), k = load_64(d + 4);

        if (((f ^ front) | (k ^ back)) == 0 && (!vb || vlan_same(vb, i, i - 1))) {
            fl->n++;
            continue;
        }
        fl++;
        front = f;
        back = k;
        if (vb) {
            fid = (uint64_t)vb->fid[i] << 48;
        }
        fl->dst = (f & MAC_MASK) | fid;
        fl->src = (load_64(d + 6) & MAC_MASK) | fid;
        fl->dst_hash = mac_hash(macs, fl->dst);
        fl->src_hash = mac_hash(macs, fl->src);
        mactab_prefetch(macs, fl->dst_hash);
        mactab_prefetch(macs, fl->src_hash);
        fl->first = (uint8_t)i;
        fl->n = 1;
        fl->done = false;
    }
    return (uint32_t)(fl + 1 - flow);
}

static ALWAYS_INLINE uint16_t drop(struct flow *f, enum drop why)
{
    f->why = (uint8_t)why;
    return EGRESS_DROP;
}

/* Is this port in the flow's VLAN? */
static ALWAYS_INLINE bool takes(const struct view_port *out, const struct vlan_batch *vb,
                                const struct flow *f)
{
    return !vb || (out->vlan && vlan_set_has(&out->vlan->member, vlan_vid(vb, f->first)));
}

static ALWAYS_INLINE uint16_t decide(const struct view *v, struct mactab *macs, uint16_t from,
                                     const struct vlan_batch *vb, struct flow *f)
{
    const struct view_port *in = &v->port[from];

    if (unlikely(f->src & MAC_MULTICAST)) {
        return drop(f, DROP_SRC_MULTICAST);
    }
    if (unlikely(is_reserved(f->dst & MAC_MASK)) && !in->bridge->forward_reserved) {
        return drop(f, DROP_RESERVED);
    }
    if (vb && unlikely(!vb->fid[f->first])) {
        return drop(f, (enum drop)vb->why[f->first]);
    }
    mactab_learn(macs, f->src, f->src_hash, from);
    if (f->dst & MAC_MULTICAST) {
        return EGRESS_FLOOD;
    }
    uint16_t to = mactab_find(macs, f->dst, f->dst_hash).port;
    if (unlikely(to == MACTAB_MISS || !v->port[to].port || !takes(&v->port[to], vb, f))) {
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

/* List the frames of all flows whose verdict is `to`, and those for all that port `floods` (NULL:
 * none) takes. */
static ALWAYS_INLINE uint32_t pick(struct flow *flow, uint32_t n_flows, uint16_t to,
                                   const struct view_port *floods, const struct vlan_batch *vb,
                                   uint8_t *idx)
{
    uint32_t n = 0;

    for (uint32_t k = 0; k < n_flows; k++) {
        if (flow[k].egress == to ||
            (floods && flow[k].egress == EGRESS_FLOOD && takes(floods, vb, &flow[k]))) {
            flow[k].done = true;
            for (uint32_t i = 0; i < flow[k].n; i++) {
                idx[n++] = (uint8_t)(flow[k].first + i);
            }
        }
    }
    return n;
}

static ALWAYS_INLINE void send_to(const struct view_port *out, struct batch *b, const uint8_t *idx,
                                  uint32_t n, struct vlan_batch *vb, struct wctx *w)
{
    if (vb) {
        vlan_dress(out->vlan, b, idx, n, vb);
    }
    port_ops_of(out->port)->tx(out->port, b, idx, n, w);
}

static COLD void dispatch_flood(const struct view *v, uint16_t from, struct flow *flow,
                                uint32_t n_flows, struct batch *b, struct vlan_batch *vb,
                                struct wctx *w)
{
    const struct view_port *in = &v->port[from];
    uint8_t idx[PKT_BURST];

    for (uint16_t m = 0; m < in->bridge->n; m++) {
        uint16_t id = in->bridge->member[m];
        const struct view_port *out = &v->port[id];

        if (id == from) {
            continue;
        }
        bool floods = read_once(&out->port->ready) && !(in->isolated && out->isolated);
        uint32_t n = pick(flow, n_flows, id, floods ? out : NULL, vb, idx);

        if (n) {
            send_to(out, b, idx, n, vb, w);
        }
    }
    uint32_t lost = 0; /* nobody wanted them */
    for (uint32_t k = 0; k < n_flows; k++) {
        bool left = flow[k].egress == EGRESS_FLOOD && !flow[k].done;

        for (uint32_t i = 0; left && i < flow[k].n; i++) {
            idx[lost++] = (uint8_t)(flow[k].first + i);
        }
    }
    if (lost) {
        port_drop_frames(in->port, w, vb ? DROP_VLAN_NO_PORTS : DROP_NO_PORTS, b, idx, lost);
    }
}

static ALWAYS_INLINE void dispatch_unicast(const struct view *v, struct flow *flow,
                                           uint32_t n_flows, struct batch *b, struct vlan_batch *vb,
                                           struct wctx *w)
{
    uint8_t idx[PKT_BURST];

    for (uint32_t k = 0; k < n_flows; k++) {
        struct flow *f = &flow[k];

        if (f->done || unlikely(f->egress == EGRESS_DROP)) {
            continue;
        }
        const struct view_port *out = &v->port[f->egress];

        if (likely(f->n == b->n)) { /* the whole batch is one flow */
            send_to(out, b, all_frames, b->n, vb, w);
        } else {
            uint32_t n = pick(flow, n_flows, f->egress, NULL, vb, idx);

            send_to(out, b, idx, n, vb, w);
        }
    }
}

static ALWAYS_INLINE void forward_batch(const struct view *v, struct mactab *macs, uint16_t from,
                                        struct batch *b, struct vlan_batch *vb, struct wctx *w)
{
    struct flow room[1 + PKT_BURST], *flow = &room[1]; /* collect_flows() begins before the first */
    uint64_t fid = (uint64_t)v->port[from].bridge->fid << 48;
    uint32_t n = collect_flows(macs, b, fid, vb, flow);
    bool floods = false;

    for (uint32_t k = 0; k < n; k++) {
        struct flow *f = &flow[k];

        f->egress = decide(v, macs, from, vb, f);
        floods |= f->egress == EGRESS_FLOOD;
        if (unlikely(f->egress == EGRESS_DROP)) {
            port_drop_frames(v->port[from].port, w, (enum drop)f->why, b, &all_frames[f->first],
                             f->n);
        }
    }
    if (unlikely(floods)) {
        dispatch_flood(v, from, flow, n, b, vb, w);
    } else {
        dispatch_unicast(v, flow, n, b, vb, w);
    }
}

/* A frame that the port made itself, alone in b, is for all VLANs of the port: as many as fit. */
static COLD void classify_own(const struct view_vlan *in, struct batch *b, struct vlan_batch *vb)
{
    const struct pkt *own = &b->pkt[0];
    uint16_t vid = vlan_set_next(&in->member, MAX(b->own_vid, 1));
    uint32_t n = 0;

    for (; vid && n < PKT_BURST; n++, vid = vlan_set_next(&in->member, (uint16_t)(vid + 1))) {
        if (n) {
            b->pkt[n] = *own;
            b->pkt[n].data = batch_snap(b, n) + VNET_HDR_LEN;
            memcpy(batch_snap(b, n), own->data - VNET_HDR_LEN, VNET_HDR_LEN + own->snap_len);
        }
        vb->fid[n] = in->fid[vid];
        vb->tci[n] = vid;
        vb->worn[n] = 0;
    }
    b->n = n;
    b->more_vid = vid;
}

static NOINLINE void forward_vlans(const struct view *v, struct mactab *macs, uint16_t from,
                                   struct batch *b, struct wctx *w)
{
    struct vlan_batch vb;

    if (likely(b->n_loans)) {
        vlan_classify(v->port[from].vlan, b, &vb);
    } else {
        classify_own(v->port[from].vlan, b, &vb);
    }
    forward_batch(v, macs, from, b, &vb, w);
}

static void forward(const struct view *v, struct mactab *macs, uint16_t from, struct batch *b,
                    struct wctx *w)
{
    if (unlikely(v->port[from].vlan)) {
        forward_vlans(v, macs, from, b, w);
    } else {
        forward_batch(v, macs, from, b, NULL, w);
    }
}

const struct bridge_hot HOT(bridge_hot) = {.forward = forward};
