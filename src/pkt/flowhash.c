/* SPDX-License-Identifier: Apache-2.0 */
#include "pkt/flowhash.h"

#include <string.h>

#define MAX_TAGS 2
#define MAX_EXT_HEADERS 8 /* of IPv6; further ones are not looked behind */

enum { TYPE_IPV4 = 0x0800, TYPE_IPV6 = 0x86dd, TYPE_8021Q = 0x8100, TYPE_8021AD = 0x88a8 };
enum {
    PROTO_HOP_BY_HOP = 0,
    PROTO_TCP = 6,
    PROTO_UDP = 17,
    PROTO_ROUTING = 43,
    PROTO_FRAGMENT = 44,
    PROTO_AH = 51,
    PROTO_DEST_OPTIONS = 60,
    PROTO_SCTP = 132
};

/* One end of a flow, mixed into a number. */
struct ends {
    uint64_t a, b;
};

static uint16_t be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint64_t load(const uint8_t *p, uint32_t len)
{
    uint64_t v = 0;

    memcpy(&v, p, len);
    return v;
}

/* Every bit of x changes half of the bits of the result (multiply and xor-shift, twice). */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

/* A sum does not know which end came first. */
static uint32_t both(struct ends e, uint64_t kind)
{
    return (uint32_t)mix(mix(e.a) + mix(e.b) + kind);
}

static bool has_ports(unsigned proto)
{
    return proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP;
}

/* The addresses, with the ports at p if this protocol has ports and they are there. */
static uint32_t with_ports(struct ends e, unsigned proto, const uint8_t *p, const uint8_t *end)
{
    if (!has_ports(proto) || end - p < 4) {
        return both(e, 0);
    }
    e.a = mix(e.a) + be16(p);
    e.b = mix(e.b) + be16(p + 2);
    return both(e, proto);
}

static bool ipv4_hash(const uint8_t *p, const uint8_t *end, uint32_t *hash)
{
    if (end - p < 20 || p[0] >> 4 != 4 || (p[0] & 15) < 5) {
        return false;
    }
    struct ends e = {load(p + 12, 4), load(p + 16, 4)};
    bool fragment = be16(p + 6) & 0x3fff; /* more to come, or not the first */
    ptrdiff_t header = (p[0] & 15) * 4;

    *hash = fragment || end - p < header ? both(e, 0) : with_ports(e, p[9], p + header, end);
    return true;
}

static bool ipv6_hash(const uint8_t *p, const uint8_t *end, uint32_t *hash)
{
    if (end - p < 40 || p[0] >> 4 != 6) {
        return false;
    }
    struct ends e = {mix(load(p + 8, 8)) + load(p + 16, 8), mix(load(p + 24, 8)) + load(p + 32, 8)};
    unsigned next = p[6];

    p += 40;
    for (unsigned i = 0; i < MAX_EXT_HEADERS && end - p >= 8; i++) {
        ptrdiff_t len = next == PROTO_AH ? (p[1] + 2) * 4 : (p[1] + 1) * 8;

        if (next != PROTO_HOP_BY_HOP && next != PROTO_ROUTING && next != PROTO_DEST_OPTIONS &&
            next != PROTO_AH) {
            break; /* a fragment, too: it has no ports */
        }
        if (end - p < len) {
            next = PROTO_FRAGMENT; /* cut off: the addresses alone */
            break;
        }
        next = p[0];
        p += len;
    }
    *hash = with_ports(e, next, p, end);
    return true;
}

uint32_t flow_hash(const uint8_t *data, uint32_t len)
{
    const uint8_t *end = data + len, *p = data + 12;
    uint16_t type = be16(p);
    uint32_t hash;

    for (int i = 0; i < MAX_TAGS && (type == TYPE_8021Q || type == TYPE_8021AD) && end - p >= 6;
         i++) {
        p += 4;
        type = be16(p);
    }
    p += 2;
    if ((type == TYPE_IPV4 && ipv4_hash(p, end, &hash)) ||
        (type == TYPE_IPV6 && ipv6_hash(p, end, &hash))) {
        return hash;
    }
    return both((struct ends){load(data, 6), load(data + 6, 6)}, 0);
}

void flow_hash_batch(struct batch *b)
{
    if (b->hashed) {
        return;
    }
    for (uint32_t i = 0; i < b->n; i++) {
        b->hash[i] = flow_hash(b->pkt[i].data, b->pkt[i].snap_len);
    }
    b->hashed = true;
}
