/* SPDX-License-Identifier: Apache-2.0 */
#include "pkt/flowhash.h"

#include <string.h>

#include "pkt/offload.h"
#include "pkt/wire.h"

/* One end of a flow, mixed into a number. */
struct ends {
    uint64_t a, b;
};

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
    return proto == IP_TCP || proto == IP_UDP || proto == IP_SCTP;
}

static struct ends addresses(const uint8_t *data, const struct pkt_l4 *at)
{
    const uint8_t *ip = data + at->l3;

    if (at->ip == 4) {
        return (struct ends){load(ip + 12, 4), load(ip + 16, 4)};
    }
    return (struct ends){mix(load(ip + 8, 8)) + load(ip + 16, 8),
                         mix(load(ip + 24, 8)) + load(ip + 32, 8)};
}

uint32_t flow_hash(const uint8_t *data, uint32_t len)
{
    struct pkt_l4 at = pkt_find_l4(data, len);

    if (!at.ip) {
        return both((struct ends){load(data, 6), load(data + 6, 6)}, 0);
    }
    struct ends e = addresses(data, &at);

    if (!at.l4 || !has_ports(at.proto) || at.l4 + 4u > len) {
        return both(e, 0);
    }
    e.a = mix(e.a) + wire_be16(data + at.l4);
    e.b = mix(e.b) + wire_be16(data + at.l4 + 2);
    return both(e, at.proto);
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
