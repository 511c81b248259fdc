/* SPDX-License-Identifier: Apache-2.0 */
#include "pkt/segment.h"

#include <string.h>

#include "base/clock.h"
#include "pkt/csum.h"
#include "pkt/wire.h"

#define TCP_FIN_PSH 0x09
#define TCP_CWR 0x80
#define IPV6_FRAGMENT 44
#define UDP_LEN 8
#define IP_MORE_FRAGMENTS 0x2000

struct pkt_reader pkt_reader_at(const struct pkt *p, uint32_t from)
{
    struct pkt_reader r = {p, 0, from};

    for (uint32_t room = p->snap_len; r.at > room; room = pkt_spans(p)[r.run - 1].len) {
        r.at -= room;
        r.run++;
    }
    return r;
}

/* The field at csum_start + csum_offset holds the sum of a pseudo-header for l4_len bytes of transport
 * header and payload; make that of a shorter one. Incrementally (RFC 1624), as it may be the sum over
 * addresses that are not those of the header (IPv6 routing header). */
static void adapt_pseudo_sum(uint8_t *field, uint32_t old_len, uint32_t new_len)
{
    uint32_t sum = wire_be16(field) + (uint16_t)~old_len + new_len;

    sum = (sum & 0xffff) + (sum >> 16);
    wire_put_be16(field, (sum & 0xffff) + (sum >> 16));
}

static void fill_ipv4_sum(uint8_t *ip)
{
    uint32_t len = (ip[0] & 15u) * 4;
    struct csum c = {0};

    wire_put_be16(ip + 10, 0);
    csum_bytes(&c, ip, len);
    uint16_t sum = csum_field(&c, false);
    memcpy(ip + 10, &sum, 2);
}

/* Lengths of the network header for n bytes behind the fragment's headers. */
static void set_ip_len(uint8_t *ip, uint8_t version, uint32_t hdr_len, uint32_t n)
{
    if (version == 4) {
        wire_put_be16(ip + 2, hdr_len + n);
        fill_ipv4_sum(ip);
    } else {
        wire_put_be16(ip + 4, hdr_len + n - 40);
    }
}

/* What the first fragment's UDP header says, over all of them. */
static uint16_t datagram_sum(const struct segmenter *s)
{
    struct pkt_reader r = pkt_reader_at(s->p, s->place.l4);
    struct csum c = {0};

    for (uint32_t left = s->p->len - s->place.l4; left;) {
        uint32_t n = left;
        const uint8_t *run = pkt_read(&r, &n);

        csum_bytes(&c, run, n);
        left -= n;
    }
    return csum_field(&c, true);
}

/* The payload is read here once more than it is copied; if it changes in between, the sum is wrong and
 * the datagram is lost: its sender's own loss. */
static void begin_fragments(struct segmenter *s)
{
    s->step = s->h.gso_size & ~7u;
    s->hdr_len = s->place.l4;
    s->next = s->place.l4;
    s->whole_sum = datagram_sum(s);
    s->frag_id = (uint32_t)clock_ns() * 2654435761u; /* unlike the one before */
}

/* The frame stays one: untouched, or with its checksum completed. */
static void whole(struct segmenter *s, struct segment *out)
{
    out->h = s->h;
    out->head = s->p->data;
    out->head_len = s->p->snap_len;
    out->from = s->p->snap_len;
    out->len = s->p->len - s->p->snap_len;
    if (s->carries & (OFFLOAD_CSUM | OFFLOAD_WHOLE_SUM)) {
        out->h = (struct vnet_hdr){.num_buffers = 1};
        out->sum_from = s->h.csum_start;
        out->sum_at = (uint16_t)(s->h.csum_start + s->h.csum_offset);
        out->sum_udp = s->h.csum_offset == OFFLOAD_UDP_SUM;
    }
    s->next = s->p->len;
}

static void patch(struct segment *out, uint32_t at, uint16_t wire)
{
    out->patch[out->n_patch++] = (struct segment_patch){(uint16_t)at, wire};
}

static uint16_t wire16(uint32_t v)
{
    return __builtin_bswap16((uint16_t)v);
}

/* What follows from the length of the segment: the last one's differ, and no others. */
static void set_lengths(struct segmenter *s, uint32_t payload)
{
    uint8_t *ip = s->head + s->place.l3, *l4 = s->head + s->place.l4;
    const uint32_t l4_len = s->hdr_len - s->place.l4 + payload;
    const uint32_t sum_at = s->place.l4 + s->h.csum_offset;
    struct csum ip_sum = {0}, l4_sum = {0};

    if (s->carries & OFFLOAD_USO) {
        wire_put_be16(l4 + 4, l4_len);
    }
    memcpy(s->head + sum_at, s->p->data + sum_at, 2);
    adapt_pseudo_sum(s->head + sum_at, s->p->len - s->place.l4, l4_len);
    if (s->place.ip == 4) {
        wire_put_be16(ip + 2, s->hdr_len - s->place.l3 + payload);
        csum_bytes(&ip_sum, ip, (ip[0] & 15u) * 4);
    } else {
        wire_put_be16(ip + 4, s->hdr_len - s->place.l3 + payload - 40);
    }
    csum_bytes(&l4_sum, l4, s->hdr_len - s->place.l4);
    s->ip_sum = ip_sum.sum;
    s->l4_sum = l4_sum.sum;
}

/* Sequence number and flags: FIN and PSH are the last segment's, CWR is the first one's. */
static void tcp_segment(const struct segmenter *s, struct segment *out, bool last)
{
    const uint32_t at = s->place.l4;
    const uint8_t *tcp = s->p->data + at;
    uint32_t seq = ((uint32_t)wire_be16(tcp + 4) << 16 | wire_be16(tcp + 6)) + s->index * s->step;
    uint32_t drop = (last ? 0 : TCP_FIN_PSH) | (s->index ? TCP_CWR : 0);
    uint16_t high = wire16(seq >> 16), low = wire16(seq), flags = wire16(wire_be16(tcp + 12) & ~drop);

    patch(out, at + 4, high);
    patch(out, at + 6, low);
    patch(out, at + 12, flags);
    out->head_sum += (uint32_t)high + low + flags;
}

/* The next identification, and the checksum with it. */
static void ipv4_segment(const struct segmenter *s, struct segment *out)
{
    uint16_t id = wire16(wire_be16(s->p->data + s->place.l3 + 4) + s->index);
    struct csum sum = {.sum = s->ip_sum + id};

    patch(out, s->place.l3 + 4u, id);
    patch(out, s->place.l3 + 10u, csum_field(&sum, false));
}

/* The head of all segments, zero where it is patched. */
static void begin_heads(struct segmenter *s)
{
    uint8_t *ip = s->head + s->place.l3, *l4 = s->head + s->place.l4;

    memcpy(s->head, s->p->data, s->hdr_len);
    if (s->place.ip == 4) {
        memset(ip + 4, 0, 2);
        memset(ip + 10, 0, 2);
    }
    if (!(s->carries & OFFLOAD_USO)) {
        memset(l4 + 4, 0, 4);
        memset(l4 + 12, 0, 2);
    }
    s->seg_h = (struct vnet_hdr){.num_buffers = 1};
    if (s->partial) {
        s->seg_h.flags = VNET_F_NEEDS_CSUM;
        s->seg_h.csum_start = s->h.csum_start;
        s->seg_h.csum_offset = s->h.csum_offset;
    }
}

static void transport_segment(struct segmenter *s, struct segment *out)
{
    out->h = s->seg_h;
    out->head = s->head;
    out->head_len = s->hdr_len;
    out->from = s->next;
    out->len = MIN(s->step, s->p->len - s->next);
    bool last = out->from + out->len == s->p->len;

    if (!s->index || last) {
        set_lengths(s, out->len);
    }
    out->head_sum = s->l4_sum;
    if (!(s->carries & OFFLOAD_USO)) {
        tcp_segment(s, out, last);
    }
    if (s->place.ip == 4) {
        ipv4_segment(s, out);
    }
    if (!s->partial) {
        out->sum_from = s->h.csum_start;
        out->sum_at = (uint16_t)(s->h.csum_start + s->h.csum_offset);
        out->sum_udp = s->carries & OFFLOAD_USO;
    }
}

/* Put the IPv6 fragment header behind all others. */
static void add_fragment_header(const struct segmenter *s, uint8_t *buf, uint32_t offset, bool more)
{
    uint8_t *frag = buf + s->place.l4, *next = buf + s->place.l3 + 6;

    for (uint32_t at = s->place.l3 + 40u; at < s->place.l4;) { /* the last one names what follows */
        next = buf + at;
        at += (buf[at + 1] + 1u) * 8;
    }
    frag[0] = *next;
    frag[1] = 0;
    wire_put_be16(frag + 2, offset | more);
    wire_put_be32(frag + 4, s->frag_id);
    *next = IPV6_FRAGMENT;
}

/* The first fragment has the UDP header with the sum of the whole datagram among its own headers. */
static void ip_fragment(struct segmenter *s, struct segment *out)
{
    uint32_t udp = s->index ? 0 : UDP_LEN, offset = s->next - s->place.l4;
    uint32_t at = s->hdr_len;
    bool more = s->next + s->step < s->p->len;

    if (s->place.ip == 6) {
        add_fragment_header(s, out->buf, offset, more);
        at += IPV6_FRAGMENT_LEN;
    }
    memcpy(out->buf + at, s->p->data + s->hdr_len, udp);
    if (udp) {
        memcpy(out->buf + at + 6, &s->whole_sum, 2);
    }
    out->head_len = at + udp;
    out->from = s->next + udp;
    out->len = MIN(s->step, s->p->len - s->next) - udp;
    uint8_t *ip = out->buf + s->place.l3;
    if (s->place.ip == 4) {
        wire_put_be16(ip + 6, offset / 8 | (more ? IP_MORE_FRAGMENTS : 0));
    }
    set_ip_len(ip, s->place.ip, out->head_len - s->place.l3, out->len);
}

int segmenter_init(struct segmenter *s, const struct pkt *p, uint16_t takes)
{
    s->p = p;
    s->carries = p->offload & ~takes;
    s->partial = takes & OFFLOAD_CSUM && !(p->offload & OFFLOAD_WHOLE_SUM);
    s->step = s->next = s->index = 0;
    memcpy(&s->h, p->data - VNET_HDR_LEN, sizeof(s->h));
    if (!(s->carries & OFFLOAD_GSO)) {
        return DROP_N;
    }
    if (s->h.gso_size < OFFLOAD_MIN_SEGMENT) {
        return DROP_GSO_TINY;
    }
    s->place = pkt_find_l4(p->data, p->snap_len);
    if (!s->place.l4 || s->place.l4 != s->h.csum_start ||
        s->h.hdr_len > SEGMENT_HEAD_MAX - IPV6_FRAGMENT_LEN) {
        return DROP_BAD_GSO; /* not what was checked: more than a tag was put in front */
    }
    if (s->carries & OFFLOAD_UFO) {
        begin_fragments(s);
        return DROP_N;
    }
    s->hdr_len = s->h.hdr_len;
    s->step = s->h.gso_size;
    s->next = s->hdr_len;
    begin_heads(s);
    return DROP_N;
}

bool segmenter_next(struct segmenter *s, struct segment *out)
{
    if (s->next == s->p->len) {
        return false;
    }
    out->sum_at = 0;
    out->n_patch = 0;
    if (!s->step) {
        whole(s, out);
        return true;
    }
    if (s->carries & OFFLOAD_UFO) {
        out->h = (struct vnet_hdr){.num_buffers = 1};
        out->head = out->buf;
        memcpy(out->buf, s->p->data, s->hdr_len);
        ip_fragment(s, out);
    } else {
        transport_segment(s, out);
    }
    s->next = out->from + out->len;
    s->index++;
    return true;
}

void segment_apply_patches(struct segment *seg)
{
    if (seg->head != seg->buf) {
        memcpy(seg->buf, seg->head, seg->head_len);
        seg->head = seg->buf;
    }
    for (uint32_t i = 0; i < seg->n_patch; i++) {
        memcpy(seg->buf + seg->patch[i].at, &seg->patch[i].word, sizeof(seg->patch[i].word));
    }
    seg->n_patch = 0;
}

uint16_t segment_sum(const struct segmenter *s, const struct segment *seg)
{
    struct pkt_reader r = pkt_reader_at(s->p, seg->from);
    struct csum c = segment_head_sum(seg);

    for (uint32_t left = seg->len; left;) {
        uint32_t n = left;
        const uint8_t *run = pkt_read(&r, &n);

        csum_bytes(&c, run, n);
        left -= n;
    }
    return csum_field(&c, seg->sum_udp);
}
