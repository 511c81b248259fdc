/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/frame_text.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/text.h"
#include "pkt/wire.h"

#define TYPE_MIN 0x600 /* below it is a length */

struct line {
    char *out;
    size_t room, at;
};

static void add(struct line *l, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void add(struct line *l, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(l->out + l->at, l->room - l->at, fmt, ap);
    va_end(ap);
    l->at = n < 0 ? l->at : MIN(l->at + (size_t)n, l->room - 1);
}

/* "10.0.0.1.80 > 10.0.0.2.1234: TCP"; l4 is what follows the addresses, n bytes of it are there. */
static void add_ip(struct line *l, int family, const uint8_t *src, const uint8_t *dst, unsigned proto,
                   const uint8_t *l4, uint32_t n, bool first_fragment)
{
    static const struct {
        uint8_t proto;
        bool ports;
        const char *name;
    } known[] = {{1, false, "ICMP"}, {2, false, "IGMP"},   {6, true, "TCP"},
                 {17, true, "UDP"},  {58, false, "ICMPv6"}, {132, true, "SCTP"}};
    char a[INET6_ADDRSTRLEN], b[INET6_ADDRSTRLEN];
    unsigned i = 0;

    while (i < ARRAY_SIZE(known) && known[i].proto != proto) {
        i++;
    }
    bool ports = i < ARRAY_SIZE(known) && known[i].ports && n >= 4 && first_fragment;

    inet_ntop(family, src, a, sizeof(a));
    inet_ntop(family, dst, b, sizeof(b));
    if (ports) {
        add(l, ": %s.%u > %s.%u: ", a, wire_be16(l4), b, wire_be16(l4 + 2));
    } else {
        add(l, ": %s > %s: ", a, b);
    }
    if (i < ARRAY_SIZE(known)) {
        add(l, "%s%s", known[i].name, first_fragment ? "" : ", fragment");
    } else {
        add(l, "protocol %u", proto);
    }
}

static void add_ipv4(struct line *l, const uint8_t *p, uint32_t n)
{
    if (n >= 20) {
        uint32_t hdr = MAX(20u, 4u * (p[0] & 0xf));

        add_ip(l, AF_INET, p + 12, p + 16, p[9], p + hdr, n > hdr ? n - hdr : 0,
               !(wire_be16(p + 6) & 0x1fff));
    }
}

static void add_ipv6(struct line *l, const uint8_t *p, uint32_t n)
{
    if (n >= 40) {
        add_ip(l, AF_INET6, p + 8, p + 24, p[6], p + 40, n - 40, true);
    }
}

/* IPv4 over Ethernet, or nothing more than "ARP". */
static void add_arp(struct line *l, const uint8_t *p, uint32_t n)
{
    char a[INET_ADDRSTRLEN], b[INET_ADDRSTRLEN];

    if (n >= 28 && wire_be16(p + 2) == ETH_IPV4 && p[4] == 6 && p[5] == 4) {
        inet_ntop(AF_INET, p + 14, a, sizeof(a));
        inet_ntop(AF_INET, p + 24, b, sizeof(b));
        add(l, wire_be16(p + 6) == 1 ? ": who has %s, tell %s" : ": %s is known to %s",
            wire_be16(p + 6) == 1 ? b : a, wire_be16(p + 6) == 1 ? a : b);
    }
}

void frame_text(char *out, size_t room, const uint8_t *frame, uint32_t n, uint32_t len)
{
    struct line l = {.out = out, .room = room};
    uint32_t at = 14;
    char src[18], dst[18];

    out[0] = 0;
    if (n < 14) {
        add(&l, "length %u", len);
        return;
    }
    text_write_mac(dst, frame);
    text_write_mac(src, frame + 6);
    add(&l, "%s > %s", src, dst);

    uint16_t type = wire_be16(frame + 12);

    for (unsigned tags = 0; tags < 2 && wire_is_tag(type) && n >= at + 4;
         tags++, at += 4) {
        add(&l, ", vlan %u", wire_be16(frame + at) & 0xfff);
        type = wire_be16(frame + at + 2);
    }
    const uint8_t *p = frame + at;

    switch (type) {
    case ETH_IPV4:
        add(&l, ", IPv4, length %u", len);
        add_ipv4(&l, p, n - at);
        break;
    case ETH_IPV6:
        add(&l, ", IPv6, length %u", len);
        add_ipv6(&l, p, n - at);
        break;
    case ETH_ARP:
    case ETH_RARP:
        add(&l, ", %s, length %u", type == ETH_ARP ? "ARP" : "RARP", len);
        add_arp(&l, p, n - at);
        break;
    default:
        add(&l, type < TYPE_MIN ? ", 802.3, length %u" : ", length %u", len);
        if (type >= TYPE_MIN) {
            add(&l, ": ethertype 0x%04x", type);
        }
    }
}
