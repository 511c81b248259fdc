/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way back from segments: datagrams of one flow that lie behind each other in a batch, as one
 * USO frame, for a receiver for which a frame costs more than its bytes (a system call, the host's
 * IP stack).  Whoever gets it cuts it where it was joined, so every datagram arrives as it was
 * sent.
 *
 *     header of all | payload of the first | of the second | ... | of the last, which may be
 * shorter
 *
 * Joined is only what the receiver's segmentation gives back bit for bit: equal headers but for
 * what follows from the length; a checksum that the sender left to others, so there is none that a
 * join could repair; a right checksum of the IPv4 header, for the same reason; neither options nor
 * extension headers; and no fragments.  The IPv4 identification alone becomes another, and only
 * where it means nothing (DF is set, RFC 6864 4.1).  Nothing waits for a frame that is not there
 * yet.
 *
 * The other limits are Linux's: 64 segments, 65535 bytes of IP.
 */
#ifndef PKT_GRO_H
#define PKT_GRO_H

#include "pkt/pkt.h"

#define GRO_MAX 64 /* UDP_MAX_SEGMENTS before Linux 6.9 */

struct gro {
    struct vnet_hdr h;      /* the head follows it without a gap */
    uint8_t head[PKT_SNAP]; /* of the frame, up to the payload */
    uint32_t head_len;
};
static_assert(offsetof(struct gro, head) == VNET_HDR_LEN, "one run");

/* How many of the frames b->pkt[idx[0 .. n)], n > 0, go out as one, those behind the first with it.
 * More than 1: *g has what goes in front; frame i gives its bytes from g->head_len on. */
uint32_t gro_join(struct gro *g, const struct batch *b, const uint8_t *idx, uint32_t n);

#endif
