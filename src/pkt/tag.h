/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VLAN tags on the snapshot (IEEE 802.1Q, 9.3): four bytes behind the two addresses.
 *
 *     | virtio-net hdr 12 | dst 6 | src 6 | type 2 | ...
 *     | virtio-net hdr 12 | dst 6 | src 6 | TPID 2 | TCI 2 | type 2 | ...
 *
 * Putting one in or taking one out moves what is in front of it, header included, by four bytes
 * into the headroom or out of it; payload stays where it is.  What the header says about places in
 * the frame (csum_start, hdr_len) moves along.  The caller knows that the tag is there and that
 * snapshot and frame stay longer than an Ethernet header.
 */
#ifndef PKT_TAG_H
#define PKT_TAG_H

#include <string.h>

#include "base/compiler.h"
#include "pkt/pkt.h"

#define TAG_LEN 4
#define TAG_AT  12    /* where it stands in the frame */
#define TAG_VID 0xfff /* the VLAN in a TCI; above it priority (3 bits) and drop eligible */

static ALWAYS_INLINE uint16_t pkt_be16(const struct pkt *p, unsigned at)
{
    uint16_t v;

    memcpy(&v, p->data + at, sizeof(v));
    return __builtin_bswap16(v);
}

static ALWAYS_INLINE void pkt_set_be16(struct pkt *p, unsigned at, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p->data + at, &v, sizeof(v));
}

/* Header and addresses go `by` bytes towards the end of the frame (or, negative, to the front). */
static ALWAYS_INLINE void pkt_move_front(struct pkt *p, int by)
{
    struct {
        struct vnet_hdr vnet;
        uint8_t addresses[TAG_AT];
    } front;

    memcpy(&front, p->data - VNET_HDR_LEN, sizeof(front));
    if (unlikely(front.vnet.flags & VNET_F_NEEDS_CSUM)) {
        front.vnet.csum_start = (uint16_t)(front.vnet.csum_start - by);
    }
    if (unlikely(front.vnet.gso_type != VNET_GSO_NONE)) {
        front.vnet.hdr_len = (uint16_t)(front.vnet.hdr_len - by);
    }
    p->data += by;
    p->len = (uint32_t)((int)p->len - by);
    p->snap_len = (uint16_t)(p->snap_len - by);
    memcpy(p->data - VNET_HDR_LEN, &front, sizeof(front));
}

static ALWAYS_INLINE void pkt_push_tag(struct pkt *p, uint16_t tpid, uint16_t tci)
{
    pkt_move_front(p, -TAG_LEN);
    pkt_set_be16(p, TAG_AT, tpid);
    pkt_set_be16(p, TAG_AT + 2, tci);
}

static ALWAYS_INLINE void pkt_pop_tag(struct pkt *p)
{
    pkt_move_front(p, TAG_LEN);
}

#endif
