/* SPDX-License-Identifier: Apache-2.0 */
#include "vnet/vnet_hdr.h"

#include <stdio.h>

static const char *gso_name(uint8_t type)
{
    switch (type & ~VNET_GSO_ECN) {
    case VNET_GSO_TCPV4:
        return "TCPv4";
    case VNET_GSO_TCPV6:
        return "TCPv6";
    case VNET_GSO_UDP:
        return "UFO";
    case VNET_GSO_UDP_L4:
        return "UDP";
    default:
        return "unknown";
    }
}

const char *vnet_hdr_text(const struct vnet_hdr *h, char *buf, size_t size)
{
    int n = 0;

    buf[0] = 0;
    if (h->flags & VNET_F_NEEDS_CSUM) {
        n = snprintf(buf, size, "offload: checksum from byte %u into byte %u", h->csum_start,
                     h->csum_start + h->csum_offset);
    }
    if (h->gso_type != VNET_GSO_NONE && n >= 0 && (size_t)n < size) {
        snprintf(buf + n, size - (size_t)n, "%s%s%s segments of %u bytes", n ? ", " : "offload: ",
                 gso_name(h->gso_type), h->gso_type & VNET_GSO_ECN ? " (ECN)" : "", h->gso_size);
    }
    return buf;
}
