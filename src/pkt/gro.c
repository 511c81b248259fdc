/* SPDX-License-Identifier: Apache-2.0 */
#include "pkt/gro.h"

#include "pkt/csum.h"
#include "pkt/offload.h"
#include "pkt/wire.h"

enum { IP4_LEN = 20, IP6_LEN = 40, UDP_LEN = 8 };
enum { IP4_TOTAL = 2, IP4_ID = 4, IP4_FRAG = 6, IP4_SUM = 10, IP4_DF = 0x40, IP6_PAYLOAD = 4 };

/* A datagram that may be joined with others. */
struct datagram {
    struct pkt_l4 at;
    uint32_t head_len;
    uint32_t payload;
};

static bool ip4_fine(const uint8_t *ip, uint32_t len)
{
    struct csum sum = {0};

    csum_bytes(&sum, ip, IP4_LEN);
    return ip[0] == 0x45 && wire_be16(ip + IP4_TOTAL) == len && ip[IP4_FRAG] == IP4_DF &&
           !ip[IP4_FRAG + 1] && csum_fold(sum.sum) == 0xffff;
}

static bool is_datagram(const struct pkt *p, struct datagram *d)
{
    d->at = pkt_find_l4(p->data, p->snap_len);
    d->head_len = d->at.l4 + UDP_LEN;
    if (!d->at.l4 || d->at.proto != IP_UDP || d->head_len > p->snap_len || p->len <= d->head_len) {
        return false;
    }
    const uint8_t *ip = p->data + d->at.l3, *udp = p->data + d->at.l4;
    uint32_t len = p->len - d->at.l3;

    d->payload = p->len - d->head_len;
    if (wire_be16(udp + 4) != UDP_LEN + d->payload) {
        return false; /* bytes behind the datagram */
    }
    return d->at.ip == 4
               ? d->at.l4 == d->at.l3 + IP4_LEN && ip4_fine(ip, len)
               : d->at.l4 == d->at.l3 + IP6_LEN && wire_be16(ip + IP6_PAYLOAD) == len - IP6_LEN;
}

/* Is all the same but what the length and the identification decide? */
static bool same_flow(const uint8_t *a, const uint8_t *b, const struct pkt_l4 *at)
{
    uint32_t len = at->l3 + (at->ip == 4 ? IP4_TOTAL : IP6_PAYLOAD);
    uint32_t behind = at->l3 + (at->ip == 4 ? IP4_FRAG : IP6_PAYLOAD + 2);
    uint32_t sum = at->ip == 4 ? at->l3 + IP4_SUM : at->l4;
    uint32_t ends = at->ip == 4 ? sum + 2 : at->l4;

    return !memcmp(a, b, len) && !memcmp(a + behind, b + behind, sum - behind) &&
           !memcmp(a + ends, b + ends, at->l4 + 4u - ends);
}

/* A 16-bit word becomes another one; the sum over it, as a field has it, follows (RFC 1624). The
 * start value of a partial checksum is such a sum, not complemented. */
static void put_length(uint8_t *len, uint32_t value, uint8_t *sum, bool complemented)
{
    uint32_t flip = complemented ? 0xffff : 0;
    uint64_t was = wire_be16(sum) ^ flip;

    was += (uint16_t)~wire_be16(len) + (uint64_t)value;
    wire_put_be16(sum, csum_fold(was) ^ flip);
    wire_put_be16(len, value);
}

static void make_head(struct gro *g, const uint8_t *first, const struct datagram *d,
                      uint32_t payload)
{
    uint8_t *ip = g->head + d->at.l3, *udp = g->head + d->at.l4;

    g->h = (struct vnet_hdr){.flags = VNET_F_NEEDS_CSUM,
                             .gso_type = VNET_GSO_UDP_L4,
                             .hdr_len = (uint16_t)d->head_len,
                             .gso_size = (uint16_t)d->payload,
                             .csum_start = d->at.l4,
                             .csum_offset = OFFLOAD_UDP_SUM,
                             .num_buffers = 1};
    g->head_len = d->head_len;
    memcpy(g->head, first, d->head_len);
    if (d->at.ip == 4) {
        put_length(ip + IP4_TOTAL, IP4_LEN + UDP_LEN + payload, ip + IP4_SUM, true);
    } else {
        wire_put_be16(ip + IP6_PAYLOAD, UDP_LEN + payload);
    }
    put_length(udp + 4, UDP_LEN + payload, udp + OFFLOAD_UDP_SUM, false);
}

uint32_t gro_join(struct gro *g, const struct batch *b, const uint8_t *idx, uint32_t n)
{
    const struct pkt *first = &b->pkt[idx[0]];
    struct datagram d, next;
    uint32_t joined = 1;

    if (n == 1 || first->offload != OFFLOAD_CSUM || b->pkt[idx[1]].offload != OFFLOAD_CSUM ||
        !is_datagram(first, &d)) {
        return 1;
    }
    uint32_t payload = d.payload;
    const uint32_t max = UINT16_MAX - (d.head_len - d.at.l3);
    for (; joined < MIN(n, GRO_MAX); joined++) {
        const struct pkt *p = &b->pkt[idx[joined]];

        if (p->offload != OFFLOAD_CSUM || !is_datagram(p, &next) || next.at.l4 != d.at.l4 ||
            next.payload > d.payload || payload + next.payload > max ||
            !same_flow(first->data, p->data, &d.at)) {
            break;
        }
        payload += next.payload;
        if (next.payload < d.payload) { /* only the last one may be shorter */
            joined++;
            break;
        }
    }
    if (joined > 1) {
        make_head(g, first->data, &d, payload);
    }
    return joined;
}
