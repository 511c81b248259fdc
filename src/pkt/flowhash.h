/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which flow does a frame belong to?  A hash of its two ends that is the same for both directions,
 * so that an answer finds the queue of the question.
 *
 *   IPv4, IPv6 with TCP, UDP or SCTP    protocol, both addresses, both ports
 *   other IP, and every fragment        both addresses: later fragments have no ports, and the
 *                                       first one must go where they go; an authentication header
 *                                       (AH) is other IP, nothing behind it is looked at
 *   anything else, and what is cut off  both MAC addresses
 *
 * VLAN tags are skipped and are not in the hash.  Read from the snapshot only.
 */
#ifndef PKT_FLOWHASH_H
#define PKT_FLOWHASH_H

#include "pkt/pkt.h"

/* data: an Ethernet frame of which len bytes (at least PKT_MIN_LEN) are there. */
uint32_t flow_hash(const uint8_t *data, uint32_t len);
/* b->hash[0 .. b->n), unless that was done for this batch already. */
void flow_hash_batch(struct batch *b);

#endif
