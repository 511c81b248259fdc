/* SPDX-License-Identifier: Apache-2.0 */
/* What a virtio-net device says of itself (virtio 1.4, 5.1.4 "struct virtio_net_config"), on the
 * wire, little endian. */
#ifndef VNET_VNET_CONFIG_H
#define VNET_VNET_CONFIG_H

#include "base/compiler.h"

#define VNET_S_LINK_UP      1
#define VNET_SPEED_UNKNOWN  0xffffffffu
#define VNET_DUPLEX_UNKNOWN 0xff
#define VNET_MTU_DEFAULT    1500 /* for a port without mtu=: what any Ethernet carries */

struct vnet_config {
    uint8_t mac[6];     /* with NET_F_MAC */
    uint16_t status;    /* with NET_F_STATUS */
    uint16_t max_pairs; /* with NET_F_MQ */
    uint16_t mtu;       /* with NET_F_MTU */
    uint32_t speed;     /* with NET_F_SPEED_DUPLEX, which is not offered */
    uint8_t duplex;
    uint8_t rest[7]; /* RSS and hashes, which are not offered */
};
static_assert(sizeof(struct vnet_config) == 24, "5.1.4");
static_assert(offsetof(struct vnet_config, mtu) == 10, "5.1.4");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are stored as they are");

#endif
