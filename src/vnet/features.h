/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Feature bits by their names in the virtio text (1.4, 6 and 5.1.3) and the vhost-user document.
 * Names are for people and for JSON; the numbers are the wire.
 */
#ifndef VNET_FEATURES_H
#define VNET_FEATURES_H

#include <stddef.h>

#include "base/compiler.h"

#define VIRTIO_FEATURES(X)                                                                         \
    X(0, NET_F_CSUM) X(1, NET_F_GUEST_CSUM) X(2, NET_F_CTRL_GUEST_OFFLOADS) X(3, NET_F_MTU)        \
    X(5, NET_F_MAC) X(6, NET_F_GSO) X(7, NET_F_GUEST_TSO4) X(8, NET_F_GUEST_TSO6)                  \
    X(9, NET_F_GUEST_ECN) X(10, NET_F_GUEST_UFO) X(11, NET_F_HOST_TSO4) X(12, NET_F_HOST_TSO6)     \
    X(13, NET_F_HOST_ECN) X(14, NET_F_HOST_UFO) X(15, NET_F_MRG_RXBUF) X(16, NET_F_STATUS)         \
    X(17, NET_F_CTRL_VQ) X(18, NET_F_CTRL_RX) X(19, NET_F_CTRL_VLAN) X(20, NET_F_CTRL_RX_EXTRA)    \
    X(21, NET_F_GUEST_ANNOUNCE) X(22, NET_F_MQ) X(23, NET_F_CTRL_MAC_ADDR)                         \
    X(24, F_NOTIFY_ON_EMPTY) X(26, F_LOG_ALL) X(27, F_ANY_LAYOUT) X(28, F_INDIRECT_DESC)           \
    X(29, F_EVENT_IDX) X(30, F_PROTOCOL_FEATURES) X(32, F_VERSION_1) X(33, F_ACCESS_PLATFORM)      \
    X(34, F_RING_PACKED) X(35, F_IN_ORDER) X(36, F_ORDER_PLATFORM) X(37, F_SR_IOV)                 \
    X(38, F_NOTIFICATION_DATA) X(40, F_RING_RESET) X(54, NET_F_GUEST_USO4)                         \
    X(55, NET_F_GUEST_USO6) X(56, NET_F_HOST_USO) X(57, NET_F_HASH_REPORT)                         \
    X(59, NET_F_GUEST_HDRLEN) X(60, NET_F_RSS) X(61, NET_F_RSC_EXT) X(62, NET_F_STANDBY)           \
    X(63, NET_F_SPEED_DUPLEX)

enum {
#define FEATURE_ENUM(bit, name) VIRTIO_##name = bit,
    VIRTIO_FEATURES(FEATURE_ENUM)
#undef FEATURE_ENUM
};
#define VIRTIO_BIT(name) (1ull << VIRTIO_##name)

/* Bits of the vhost-user document, "Protocol features". */
#define VU_PROTOCOL_FEATURES(X)                                                                    \
    X(0, MQ) X(1, LOG_SHMFD) X(2, RARP) X(3, REPLY_ACK) X(4, NET_MTU) X(5, BACKEND_REQ)            \
    X(6, CROSS_ENDIAN) X(7, CRYPTO_SESSION) X(8, PAGEFAULT) X(9, CONFIG) X(10, BACKEND_SEND_FD)    \
    X(11, HOST_NOTIFIER) X(12, INFLIGHT_SHMFD) X(13, RESET_DEVICE) X(14, INBAND_NOTIFICATIONS)     \
    X(15, CONFIGURE_MEM_SLOTS) X(16, STATUS) X(17, XEN_MMAP) X(18, SHARED_OBJECT)                  \
    X(19, DEVICE_STATE)
enum {
#define FEATURE_ENUM(bit, name) VHOST_USER_PROTOCOL_F_##name = bit,
    VU_PROTOCOL_FEATURES(FEATURE_ENUM)
#undef FEATURE_ENUM
};
#define VU_PROTOCOL_BIT(name) (1ull << VHOST_USER_PROTOCOL_F_##name)

/* What a vhost-user port offers. Never a bit that is not implemented. */
#define VNET_FEATURES_OFFERED                                                                      \
    (VIRTIO_BIT(NET_F_MTU) | VIRTIO_BIT(NET_F_MRG_RXBUF) | VIRTIO_BIT(NET_F_CTRL_VQ) |             \
     VIRTIO_BIT(NET_F_GUEST_ANNOUNCE) | VIRTIO_BIT(NET_F_MQ) | VIRTIO_BIT(F_LOG_ALL) |             \
     VIRTIO_BIT(F_ANY_LAYOUT) |                                                                    \
     VIRTIO_BIT(F_INDIRECT_DESC) | VIRTIO_BIT(F_EVENT_IDX) | VIRTIO_BIT(F_RING_PACKED) |             \
     VIRTIO_BIT(F_IN_ORDER) | VIRTIO_BIT(F_RING_RESET) | VIRTIO_BIT(F_NOTIFY_ON_EMPTY) |             \
     VIRTIO_BIT(F_PROTOCOL_FEATURES) | VIRTIO_BIT(F_VERSION_1))

/* What lets a driver be sent frames that are larger than its MTU. */
#define VNET_FEATURES_GUEST_GSO                                                                    \
    (VIRTIO_BIT(NET_F_GUEST_TSO4) | VIRTIO_BIT(NET_F_GUEST_TSO6) | VIRTIO_BIT(NET_F_GUEST_ECN) |   \
     VIRTIO_BIT(NET_F_GUEST_UFO) | VIRTIO_BIT(NET_F_GUEST_USO4) | VIRTIO_BIT(NET_F_GUEST_USO6))

/* Name of a bit ("VIRTIO_NET_F_MTU", "VHOST_USER_PROTOCOL_F_MQ"), or NULL if it has none. */
const char *virtio_feature_name(unsigned bit);
const char *vu_protocol_feature_name(unsigned bit);

/*
 * The names of all bits that are set, with name() as above, for a sentence: "VIRTIO_NET_F_MQ, bit 60".
 * Returns text; ends in "..." if they do not fit.
 */
const char *feature_names(char *text, size_t size, uint64_t bits, const char *(*name)(unsigned));

/* Bytes of the virtio-net header in front of each frame, both directions (5.1.6). */
static inline uint32_t vnet_hdr_len(uint64_t features)
{
    return features & (VIRTIO_BIT(F_VERSION_1) | VIRTIO_BIT(NET_F_MRG_RXBUF)) ? 12 : 10;
}

#endif
