/* SPDX-License-Identifier: Apache-2.0 */
#include "pkt/offload.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "pkt/tag.h"
#include "pkt/wire.h"
#include "vnet/features.h"

#define TAGS_SENT 4 /* that a sender may have in front of what is to be segmented */
#define TAGS_MAX (TAGS_SENT + 1) /* and one that its VLAN adds */
#define IP_MAX_LEN 65535
#define TCP_CSUM 16 /* of the checksum in its header */
#define PORT_DHCP_CLIENT 68
#define PORT_DHCPV6_CLIENT 546

static const struct {
    const char *name;
    uint16_t mask;
    uint64_t host, guest; /* the driver sends / takes it */
} offloads[] = {
    {"csum", OFFLOAD_CSUM, VIRTIO_BIT(NET_F_CSUM), VIRTIO_BIT(NET_F_GUEST_CSUM)},
    {"tso4", OFFLOAD_TSO4, VIRTIO_BIT(NET_F_HOST_TSO4), VIRTIO_BIT(NET_F_GUEST_TSO4)},
    {"tso6", OFFLOAD_TSO6, VIRTIO_BIT(NET_F_HOST_TSO6), VIRTIO_BIT(NET_F_GUEST_TSO6)},
    {"ecn", OFFLOAD_ECN, VIRTIO_BIT(NET_F_HOST_ECN), VIRTIO_BIT(NET_F_GUEST_ECN)},
    {"ufo", OFFLOAD_UFO, VIRTIO_BIT(NET_F_HOST_UFO), VIRTIO_BIT(NET_F_GUEST_UFO)},
    {"uso4", OFFLOAD_USO4, VIRTIO_BIT(NET_F_HOST_USO), VIRTIO_BIT(NET_F_GUEST_USO4)},
    {"uso6", OFFLOAD_USO6, VIRTIO_BIT(NET_F_HOST_USO), VIRTIO_BIT(NET_F_GUEST_USO6)},
    /* words for several; behind the single ones, so that offload_text() prints those */
    {"tso", OFFLOAD_TSO, 0, 0},
    {"uso", OFFLOAD_USO, 0, 0},
    {"all", OFFLOAD_ALL, 0, 0},
    {"none", 0, 0, 0},
};

uint16_t offload_sent(uint64_t features)
{
    uint16_t mask = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(offloads); i++) {
        mask |= features & offloads[i].host ? offloads[i].mask : 0;
    }
    return mask;
}

uint16_t offload_taken(uint64_t features)
{
    uint16_t mask = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(offloads); i++) {
        mask |= features & offloads[i].guest ? offloads[i].mask : 0;
    }
    /* 5.1.3.1: each of them requires the checksum bit */
    return mask & OFFLOAD_CSUM ? mask : 0;
}

uint64_t offload_features(uint16_t mask)
{
    uint64_t bits = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(offloads); i++) {
        bits |= mask & offloads[i].mask ? offloads[i].host | offloads[i].guest : 0;
    }
    return bits;
}

int offload_parse(const char *text, uint16_t *mask)
{
    uint16_t sum = 0;

    for (const char *word = text;; word++) {
        size_t len = strcspn(word, "+");
        unsigned i = 0;

        while (i < ARRAY_SIZE(offloads) &&
               (strlen(offloads[i].name) != len || memcmp(offloads[i].name, word, len))) {
            i++;
        }
        if (i == ARRAY_SIZE(offloads)) {
            return -EINVAL;
        }
        sum |= offloads[i].mask;
        word += len;
        if (!*word) {
            break;
        }
    }
    /* 5.1.3.1: what is segmented needs its checksum completed, and ECN is a kind of TSO */
    sum |= sum & OFFLOAD_GSO ? OFFLOAD_CSUM : 0;
    *mask = sum & OFFLOAD_TSO & ~OFFLOAD_ECN ? sum : sum & ~OFFLOAD_ECN;
    return 0;
}

const char *offload_text(uint16_t mask, char *buf, size_t size)
{
    size_t at = 0;

    snprintf(buf, size, "none");
    for (unsigned i = 0; i < ARRAY_SIZE(offloads) && offloads[i].host && at < size; i++) {
        if (mask & offloads[i].mask) {
            at += (size_t)snprintf(buf + at, size - at, "%s%s", at ? "+" : "", offloads[i].name);
        }
    }
    return buf;
}

static ALWAYS_INLINE struct pkt_l4 find_l4_v4(const uint8_t *d, uint32_t n, struct pkt_l4 r)
{
    const uint8_t *ip = d + r.l3;
    uint32_t hdr;

    if (n < r.l3 + 20u || ip[0] >> 4 != 4) {
        return r;
    }
    r.ip = 4;
    r.proto = ip[9];
    hdr = (ip[0] & 15u) * 4;
    if (hdr >= 20 && r.l3 + hdr <= n && !(wire_be16(ip + 6) & 0x3fff)) { /* MF or an offset */
        r.l4 = (uint16_t)(r.l3 + hdr);
    }
    return r;
}

static struct pkt_l4 find_l4_v6(const uint8_t *d, uint32_t n, struct pkt_l4 r)
{
    uint32_t at = r.l3 + 40u;
    uint8_t next;

    if (n < at || d[r.l3] >> 4 != 6) {
        return r;
    }
    r.ip = 6;
    next = d[r.l3 + 6];
    while (next == 0 || next == 43 || next == 60) { /* hop-by-hop, routing, destination options */
        if (at + 8 > n) {
            return r;
        }
        next = d[at];
        at += (d[at + 1] + 1u) * 8;
    }
    r.proto = next;
    if (next != 44 && at <= n) { /* 44: a fragment */
        r.l4 = (uint16_t)at;
    }
    return r;
}

/* Inlined, so that the result stays in registers. */
static ALWAYS_INLINE struct pkt_l4 find_l4(const uint8_t *d, uint32_t n)
{
    struct pkt_l4 r = {.l3 = ETH_LEN};

    for (unsigned tags = 0; tags < TAGS_MAX && r.l3 + 4u <= n; tags++) {
        uint16_t type = wire_be16(d + r.l3 - 2);

        if (!wire_is_tag(type)) {
            break;
        }
        r.l3 += 4;
    }
    if (n < r.l3) {
        return r;
    }
    switch (wire_be16(d + r.l3 - 2)) {
    case ETH_IPV4:
        return find_l4_v4(d, n, r);
    case ETH_IPV6:
        return find_l4_v6(d, n, r);
    default:
        return r;
    }
}

struct pkt_l4 pkt_find_l4(const uint8_t *d, uint32_t n)
{
    return find_l4(d, n);
}

/* May the checksum be where the sender says?  Inside the frame, and not on a byte that decides where
 * the frame goes: headers are completed after the decision was made on them.  Inside the snapshot, so
 * that it is completed before it leaves. */
static ALWAYS_INLINE bool csum_place_ok(const struct pkt *p, const struct pkt_l4 *at, uint32_t start,
                                        uint32_t offset)
{
    if (start + offset + 2 > p->snap_len || start < (at->l4 ? at->l4 : at->l3) || (at->ip && !at->l4)) {
        return false;
    }
    if (at->l4 && start < at->l4 + 8u && (at->proto == IP_TCP || at->proto == IP_UDP)) {
        return start == at->l4 && offset == (at->proto == IP_TCP ? TCP_CSUM : OFFLOAD_UDP_SUM);
    }
    return true;
}

/* Which offload a gso_type means for this frame; 0: none that fits its headers. */
static uint16_t gso_kind(uint8_t type, const struct pkt_l4 *at)
{
    switch (type & ~VNET_GSO_ECN) {
    case VNET_GSO_TCPV4:
        return at->ip == 4 && at->proto == IP_TCP ? OFFLOAD_TSO4 : 0;
    case VNET_GSO_TCPV6:
        return at->ip == 6 && at->proto == IP_TCP ? OFFLOAD_TSO6 : 0;
    case VNET_GSO_UDP:
        return at->proto == IP_UDP ? OFFLOAD_UFO : 0;
    case VNET_GSO_UDP_L4:
        return at->proto != IP_UDP ? 0 : at->ip == 4 ? OFFLOAD_USO4 : OFFLOAD_USO6;
    default:
        return 0;
    }
}

static uint16_t gso_asked(uint8_t type)
{
    static const uint16_t asked[] = {
        [VNET_GSO_TCPV4] = OFFLOAD_TSO4,
        [VNET_GSO_UDP] = OFFLOAD_UFO,
        [VNET_GSO_TCPV6] = OFFLOAD_TSO6,
        [VNET_GSO_UDP_L4] = OFFLOAD_USO,
    };
    uint8_t base = type & (uint8_t)~VNET_GSO_ECN;
    uint16_t kind = base < ARRAY_SIZE(asked) ? asked[base] : 0;

    return type & VNET_GSO_ECN ? kind | OFFLOAD_ECN : kind;
}

/* The bytes that each segment repeats, or 0 if they are not all in the snapshot. */
static uint32_t gso_hdr_len(const struct pkt *p, const struct pkt_l4 *at)
{
    uint32_t len = at->l4 + 8u;

    if (at->proto == IP_TCP) {
        if (at->l4 + 20u > p->snap_len) {
            return 0;
        }
        len = at->l4 + (p->data[at->l4 + 12] >> 4) * 4u;
    }
    return len >= at->l4 + (at->proto == IP_TCP ? 20u : 8u) && len <= p->snap_len ? len : 0;
}

/* Bytes of a full segment, as a frame. A fragment's payload is a multiple of 8 and has the UDP header
 * in it. */
static uint32_t segment_len(uint16_t kind, uint32_t l4, uint32_t hdr_len, uint32_t gso_size)
{
    return kind & OFFLOAD_UFO ? l4 + (gso_size & ~7u) : hdr_len + gso_size;
}

/* What the frame carries, if it can be segmented; 0 if not. */
static uint16_t gso_check(const struct pkt *p, const struct vnet_hdr *said,
                          const struct pkt_l4 *at, struct vnet_hdr *h)
{
    uint16_t kind = at->l4 ? gso_kind(said->gso_type, at) : 0;
    uint32_t hdr_len = kind ? gso_hdr_len(p, at) : 0;
    bool ecn = said->gso_type & VNET_GSO_ECN;

    if (!hdr_len || said->csum_start != at->l4 || !said->gso_size || said->gso_size == 0xffff ||
        at->l3 > ETH_LEN + TAGS_SENT * 4 || hdr_len >= p->len || (ecn && !(kind & OFFLOAD_TSO))) {
        return 0;
    }
    uint32_t fits = segment_len(kind, at->l4, hdr_len, said->gso_size);
    if (p->len <= fits) {
        return OFFLOAD_CSUM; /* one segment: that is this frame */
    }
    uint32_t longest = kind == OFFLOAD_UFO ? p->len : fits; /* fragments are put together again */
    if (at->ip == 4 && longest - at->l3 > IP_MAX_LEN) {
        return 0; /* no total_len for it */
    }
    h->gso_type = said->gso_type;
    h->gso_size = said->gso_size;
    h->hdr_len = (uint16_t)hdr_len;
    return OFFLOAD_CSUM | kind | (ecn ? OFFLOAD_ECN : 0);
}

static ALWAYS_INLINE bool is_dhcp(const struct pkt *p, const struct pkt_l4 *at)
{
    if (at->proto != IP_UDP || !at->l4 || at->l4 + 4u > p->snap_len) {
        return false;
    }
    uint16_t to = wire_be16(p->data + at->l4 + 2);

    return to == PORT_DHCP_CLIENT || to == PORT_DHCPV6_CLIENT;
}

/* All at once: a header stored field by field and loaded as a whole waits for its stores. */
static ALWAYS_INLINE void put_header(uint8_t *to, const struct vnet_hdr *gso, uint64_t flags,
                                     uint64_t csum_start, uint32_t csum_offset)
{
    uint64_t first = flags | (uint64_t)gso->gso_type << 8 | (uint64_t)gso->hdr_len << 16 |
                     (uint64_t)gso->gso_size << 32 | csum_start << 48;
    uint32_t second = csum_offset | 1u << 16; /* num_buffers */

    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "as the fields lie in struct vnet_hdr");
    memcpy(to, &first, sizeof(first));
    memcpy(to + sizeof(first), &second, sizeof(second));
}

int offload_check(struct pkt *p, const struct vnet_hdr *said, uint16_t sent)
{
    struct vnet_hdr gso = {0};
    uint16_t asked = gso_asked(said->gso_type);

    asked |= said->flags & VNET_F_NEEDS_CSUM ? OFFLOAD_CSUM : 0;
    p->offload = 0;
    if (asked & ~sent) {
        return DROP_OFFLOAD;
    }
    if (said->gso_type != VNET_GSO_NONE && !(asked & OFFLOAD_GSO & ~OFFLOAD_ECN)) {
        return DROP_BAD_GSO;
    }
    if (asked & OFFLOAD_GSO && !(asked & OFFLOAD_CSUM)) {
        return DROP_BAD_GSO;
    }
    if (!asked) {
        put_header(p->data - VNET_HDR_LEN, &gso, 0, 0, 0);
        return DROP_N;
    }
    struct pkt_l4 at = find_l4(p->data, p->snap_len);

    if (!csum_place_ok(p, &at, said->csum_start, said->csum_offset)) {
        return DROP_BAD_CSUM;
    }
    p->offload = OFFLOAD_CSUM;
    if (asked & OFFLOAD_GSO) {
        struct pkt_l4 place = at; /* a copy, so that `at` itself stays in registers */

        p->offload = gso_check(p, said, &place, &gso);
    }
    if (!p->offload) {
        return DROP_BAD_GSO;
    }
    p->offload |= p->offload == OFFLOAD_CSUM && is_dhcp(p, &at) ? OFFLOAD_WHOLE_SUM : 0;
    put_header(p->data - VNET_HDR_LEN, &gso, VNET_F_NEEDS_CSUM, said->csum_start,
               said->csum_offset);
    return DROP_N;
}

uint32_t offload_wire_len(const struct pkt *p)
{
    struct vnet_hdr h;

    if (!(p->offload & OFFLOAD_GSO)) {
        return p->len;
    }
    memcpy(&h, p->data - VNET_HDR_LEN, sizeof(h));
    bool fragment_header = p->offload & OFFLOAD_UFO && pkt_find_l4(p->data, p->snap_len).ip == 6;
    return segment_len(p->offload, h.csum_start, h.hdr_len, h.gso_size) +
           (fragment_header ? IPV6_FRAGMENT_LEN : 0);
}

bool offload_too_long(const struct pkt *p, uint32_t max_len)
{
    uint32_t len = offload_wire_len(p), tags = 0;

    if (len <= max_len) {
        return false;
    }
    while (tags < PKT_MAX_TAGS && ETH_LEN + (tags + 1) * TAG_LEN <= p->snap_len &&
           wire_is_tag(pkt_be16(p, TAG_AT + tags * TAG_LEN))) {
        tags++;
    }
    return len > max_len + tags * TAG_LEN;
}
