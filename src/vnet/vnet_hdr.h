/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio-net header (virtio 1.4, 5.1.6 "struct virtio_net_hdr"), on the wire.  12 bytes with
 * VERSION_1 or MRG_RXBUF, 10 otherwise (legacy).  Private copies only: whoever checks a field
 * checks it in a copy that the guest cannot change.
 */
#ifndef VNET_VNET_HDR_H
#define VNET_VNET_HDR_H

#include "base/compiler.h"

#define VNET_F_NEEDS_CSUM 1
#define VNET_F_DATA_VALID 2
#define VNET_GSO_NONE 0
#define VNET_GSO_TCPV4 1
#define VNET_GSO_UDP 3 /* UFO: one datagram, to be fragmented by IP; deprecated */
#define VNET_GSO_TCPV6 4
#define VNET_GSO_UDP_L4 5 /* USO: many datagrams of gso_size */
#define VNET_GSO_ECN 0x80 /* beside a TCP type: CWR is set */
#define VNET_HDR_LEN 12
#define VNET_HDR_LEN_LEGACY 10

struct vnet_hdr {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t num_buffers; /* not in the 10-byte form */
};
static_assert(sizeof(struct vnet_hdr) == VNET_HDR_LEN, "5.1.6");

/* What the header asks for, for people; empty if nothing. Into buf (100 bytes suffice), returned. */
const char *vnet_hdr_text(const struct vnet_hdr *h, char *buf, size_t size);

#endif
