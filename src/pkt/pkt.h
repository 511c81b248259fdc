/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A packet is a loan of the sender's memory that ends when the burst ends.
 *
 * The first bytes of the frame are copied once into a private snapshot with room in front;
 * everything that is decided is decided there, edits are made there, and the egress port sends the
 * snapshot followed by the rest of the payload straight from the loan.  So the bytes that policy saw
 * are the bytes that leave, and a guest that rewrites its buffer meanwhile gains nothing.
 *
 *     batch.room[i]:   | PKT_HEADROOM | virtio-net hdr 12 | frame bytes .... |
 *                                      ^ always there       ^ pkt.data
 *     frame           = data[0 .. snap_len) , span[0], span[1] ... span[n_spans - 1]
 *     len             = snap_len + sum of span lengths
 *
 * The virtio-net header in front of data says what the frame carries, checked and made anew: all zero
 * but num_buffers = 1 for a plain frame, else the offload that p->offload stands for.  Whoever moves
 * data moves it too.
 *
 * Lifetime: no pkt pointer, span or snapshot is valid after rx_done().  There is no allocator, no
 * reference count and no next pointer.  A batch belongs to one worker.
 */
#ifndef PKT_PKT_H
#define PKT_PKT_H

#include <string.h>

#include "base/compiler.h"
#include "mem/gmem.h"
#include "vnet/vnet_hdr.h"

#define PKT_BURST 64          /* frames per batch */
#define PKT_MIN_LEN 14        /* an Ethernet header */
#define PKT_BATCH_BYTES (512u << 10) /* a batch that has more is closed: a flood copies it to every port
                                    * before anybody looks at the budget again */
#define PKT_MAX_TAGS 2 /* that do not count as payload */
#define PKT_MAX_LEN (65535 + 14 + 4 * PKT_MAX_TAGS) /* the largest IP datagram, Ethernet, tags */
#define PKT_HEADROOM 128      /* for tags and outer headers in front; multiple of 64 */
#define PKT_SNAP 192          /* bytes of virtio-net header and frame in the snapshot at most */
#define PKT_MAX_SPANS 1024    /* spans per batch, shared */

struct pkt {
    uint8_t *data;     /* snapshot: first byte of the frame; the 12 bytes before it are ours */
    union {
        struct {
            uint32_t len; /* bytes of the whole frame, no virtio-net header, no FCS */
            union {
                struct {
                    uint16_t n_spans; /* runs behind the snapshot: 0, 1 (in span) or more (in spans) */
                    uint16_t offload; /* what a receiver must take to get it as it is: offload.h */
                };
                uint32_t shape; /* both at once: 0 or 1 is a plain frame in at most one run */
            };
        };
        uint64_t len_and_shape; /* in one store */
    };
    uint16_t snap_len; /* bytes of it in the snapshot, at least PKT_MIN_LEN */
    struct gspan span;
    const struct gspan *spans;
};
static_assert(sizeof(struct pkt) <= CACHE_LINE, "at most one line per packet");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "n_spans is the low half of shape");

struct batch {
    uint32_t n;               /* packets; pkt[0 .. n) */
    uint32_t n_spans;         /* taken from spans[] */
    uint32_t n_loans;         /* provider's: chains or slots to give back, >= n (dropped ones too) */
    uint16_t own_vid;         /* of a frame that the port made itself: the first VLAN that it is for */
    uint16_t more_vid;        /* where that has to go on, 0: it was sent in all VLANs of the port */
    bool hashed;              /* hash[] is there, see flow_hash_batch(); false when a batch begins */
    uint32_t hash[PKT_BURST];
    struct pkt pkt[PKT_BURST];
    uint8_t room[PKT_BURST][PKT_HEADROOM + PKT_SNAP + CACHE_LINE] CACHE_ALIGNED;
    struct gspan spans[PKT_MAX_SPANS];
};

/* Where packet i's virtio-net header goes in the snapshot; the frame follows 12 bytes later.  rx
 * leaves there what a receiver without offloads gets: see pkt_plain_header(). */
static ALWAYS_INLINE uint8_t *batch_snap(struct batch *b, uint32_t i)
{
    return b->room[i] + PKT_HEADROOM;
}

/* All zero, num_buffers = 1. Every provider's rx writes it in front of the frame, once, so that an
 * egress that can take it as it is sends header and snapshot in one copy. */
static ALWAYS_INLINE void pkt_plain_header(uint8_t *data)
{
    static const struct vnet_hdr plain = {.num_buffers = 1};

    memcpy(data - VNET_HDR_LEN, &plain, VNET_HDR_LEN);
}

/* The runs behind the snapshot as an array. */
static ALWAYS_INLINE const struct gspan *pkt_spans(const struct pkt *p)
{
    return p->n_spans > 1 ? p->spans : &p->span;
}

#endif
