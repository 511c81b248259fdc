/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a frame did not arrive.  One counter per reason and port; the port is the culprit, so that
 * the sentence can be printed with its name: "vm2 has no receive buffers".
 *
 * To add a reason, add a line: name for JSON and Prometheus, then the sentence with %s for the
 * culprit's name.  The first group is counted at the sender, the second at the receiver.
 */
#ifndef PKT_DROP_H
#define PKT_DROP_H

#include "base/compiler.h"

#define DROP_REASONS(X)                                                                            \
    /* culprit: the sender */                                                                      \
    X(BAD_CHAIN, "bad-chain", "%s sent a malformed descriptor chain")                              \
    X(UNMAPPED, "unmapped", "%s sent a descriptor outside its memory")                             \
    X(NO_HEADER, "no-header", "%s sent a buffer shorter than the virtio-net header")               \
    X(RUNT, "runt", "%s sent a frame of less than 14 bytes")                                       \
    X(GIANT, "giant", "%s sent a frame of more than 65,557 bytes")                                 \
    X(OFFLOAD, "offload", "%s asked for an offload that was not negotiated")                       \
    X(BAD_CSUM, "bad-csum", "%s placed a checksum outside its frame or among the addresses")       \
    X(BAD_GSO, "bad-gso", "%s asked to segment a frame that cannot be segmented")                  \
    X(SRC_MULTICAST, "src-multicast", "%s sent a frame with a multicast source address")           \
    X(RESERVED, "reserved", "%s sent a frame to a reserved link-local address")                    \
    X(HAIRPIN, "hairpin", "%s sent a frame to an address that is behind itself")                   \
    X(ISOLATED, "isolated", "%s is isolated from the port it sent to")                             \
    X(NO_PORTS, "no-ports", "%s sent a frame and no other port of its bridge is up")               \
    X(VLAN_MALFORMED, "vlan-malformed", "%s sent a frame that ends inside its VLAN tag")           \
    X(VLAN_UNTAGGED, "vlan-untagged", "%s sent an untagged frame and has no VLAN for those (pvid)") \
    X(VLAN_DENIED, "vlan-denied", "%s sent a frame in a VLAN that it is not a member of")          \
    X(VLAN_NO_PORTS, "vlan-no-ports", "%s sent a frame and no other port of its VLAN is up")       \
    /* culprit: the receiver */                                                                    \
    X(NO_BUFFERS, "no-buffers", "%s has no receive buffers")                                       \
    X(BUFFERS_SMALL, "buffers-small", "%s posted receive buffers too small for the frame")         \
    X(RX_BAD_CHAIN, "rx-bad-chain", "%s posted a malformed receive descriptor chain")              \
    X(RX_UNMAPPED, "rx-unmapped", "%s posted a receive buffer outside its memory")                 \
    X(RING_BROKEN, "ring-broken", "%s has a broken receive ring")                                  \
    X(NOT_READY, "not-ready", "%s is not connected or its driver is not running")                  \
    X(LINK_DOWN, "link-down", "%s has its link set down") /* what it sends counts here too */      \
    X(MTU, "mtu", "%s has an MTU smaller than the frame")                                          \
    X(GSO_TINY, "gso-tiny", "%s takes no segments of under 88 bytes unless whole")                 \
    X(SEGMENTS, "segments", "%s would get more segments at once than are made in one go")          \
    X(TX_FULL, "tx-full", "%s did not take the frame: its queue is full")                          \
    X(TX_ERROR, "tx-error", "%s refused the frame (system error)")

enum drop {
#define DROP_ENUM(sym, name, text) DROP_##sym,
    DROP_REASONS(DROP_ENUM)
#undef DROP_ENUM
    DROP_N
};

struct drop_info {
    const char *name; /* stable, for machines */
    const char *text; /* with one %s: the culprit's name */
};
extern const struct drop_info drop_info[DROP_N];

#endif
