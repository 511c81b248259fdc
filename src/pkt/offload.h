/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Offloads: work on a frame that its sender left to others.  One mask says what a frame carries
 * (pkt.offload), what a port may send and what it takes, so "does it pass as it is?" is one AND:
 *
 *     pkt.offload & ~takes == 0     the frame goes out untouched, its header with it
 *     otherwise                     pkt/segment.h makes frames of it that the receiver takes
 *
 * A sender's word is checked once, on the private header and snapshot (offload_check), and a header
 * of our own takes its place: hdr_len is never believed.
 *
 * Source: virtio 1.4, 5.1.9.2 (what a driver may say), 5.1.9.4 (what a device may hand on).
 */
#ifndef PKT_OFFLOAD_H
#define PKT_OFFLOAD_H

#include "pkt/drop.h"
#include "pkt/pkt.h"
#include "vnet/vnet_hdr.h"

enum {
    OFFLOAD_CSUM = 1 << 0, /* NEEDS_CSUM: a checksum is to be completed */
    OFFLOAD_TSO4 = 1 << 1,
    OFFLOAD_TSO6 = 1 << 2,
    OFFLOAD_ECN = 1 << 3, /* TSO with CWR set: only the first segment keeps it */
    OFFLOAD_UFO = 1 << 4,
    OFFLOAD_USO4 = 1 << 5,
    OFFLOAD_USO6 = 1 << 6,
    OFFLOAD_WHOLE_SUM = 1 << 7, /* no port takes this: its reader looks at raw frames (DHCP) */

    OFFLOAD_TSO = OFFLOAD_TSO4 | OFFLOAD_TSO6 | OFFLOAD_ECN,
    OFFLOAD_USO = OFFLOAD_USO4 | OFFLOAD_USO6,
    OFFLOAD_GSO = OFFLOAD_TSO | OFFLOAD_UFO | OFFLOAD_USO,
    OFFLOAD_ALL = OFFLOAD_CSUM | OFFLOAD_GSO,
    OFFLOAD_DEFAULT = OFFLOAD_ALL & ~OFFLOAD_UFO, /* Linux made its last UFO frame in 2017 */
};

#define OFFLOAD_MIN_SEGMENT 88 /* gso_size below this is not segmented here: 64 KiB would be thousands
                                * of frames. Passed on to who takes it whole. */

/* Virtio feature bits <-> masks: what the driver with these features may send / can take. */
uint16_t offload_sent(uint64_t features);
uint16_t offload_taken(uint64_t features);
/* The feature bits that stand for these offloads, both directions. */
uint64_t offload_features(uint16_t mask);

/* "csum+tso+uso", "all", "none" <-> mask. -EINVAL for a word that is none. */
int offload_parse(const char *text, uint16_t *mask);
/* Into buf (64 bytes suffice); returns buf. */
const char *offload_text(uint16_t mask, char *buf, size_t size);

#define OFFLOAD_UDP_SUM 6 /* csum_offset of UDP, whose sum of 0 is stored as 0xffff (RFC 768) */

#define IPV6_FRAGMENT_LEN 8 /* RFC 8200 4.5: the header that each fragment gets */

/* Where the headers of a frame end: from its first n bytes, for any n. */
struct pkt_l4 {
    uint16_t l3;   /* network header: behind Ethernet and up to five tags */
    uint16_t l4;   /* transport header, or 0: no IP, a fragment, or not within n bytes */
    uint8_t ip;    /* 4, 6, or 0 */
    uint8_t proto; /* of the transport header */
};
struct pkt_l4 pkt_find_l4(const uint8_t *data, uint32_t n);

/*
 * Check what the sender said in *said about p, whose data, len and snap_len are set, and put our own
 * header in front of it and the mask in p->offload.  sent: what this sender may use.
 * DROP_N if all is well (the frame may turn out to be plain), else the reason to drop it.
 */
int offload_check(struct pkt *p, const struct vnet_hdr *said, uint16_t sent);

/* Bytes of the longest frame on a wire that p becomes. */
uint32_t offload_wire_len(const struct pkt *p);
/* Is that longer than max_len?  Up to PKT_MAX_TAGS tags that p wears are not counted: an MTU does not
 * count them either. */
bool offload_too_long(const struct pkt *p, uint32_t max_len);

#endif
