/* SPDX-License-Identifier: Apache-2.0 */
/* What headers look like on the wire: fields in network order at any address, and the numbers of
 * IEEE 802 and IANA that several modules know. */
#ifndef PKT_WIRE_H
#define PKT_WIRE_H

#include <stdint.h>

#include "base/compiler.h"

enum {
    ETH_LEN = 14, /* an Ethernet header without tags */
    ETH_IPV4 = 0x0800,
    ETH_ARP = 0x0806,
    ETH_RARP = 0x8035,
    ETH_VLAN = 0x8100,
    ETH_IPV6 = 0x86dd,
    ETH_QINQ = 0x88a8,
};
enum { IP_TCP = 6, IP_UDP = 17, IP_SCTP = 132 };

static ALWAYS_INLINE uint16_t wire_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static ALWAYS_INLINE void wire_put_be16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static ALWAYS_INLINE void wire_put_be32(uint8_t *p, uint32_t v)
{
    wire_put_be16(p, v >> 16);
    wire_put_be16(p + 2, v);
}

static ALWAYS_INLINE bool wire_is_tag(uint16_t type)
{
    return type == ETH_VLAN || type == ETH_QINQ;
}

#endif
