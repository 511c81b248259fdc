/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The obviously correct model of what a frame becomes on its way: from a description of the frame,
 * every segment is built from scratch, byte by byte, out of RFC 791 (IPv4), 8200 (IPv6), 9293
 * (TCP), 768 (UDP), 1071 (checksum) and 3168 (CWR).  Shares no code with src/pkt/.
 */
#ifndef OFFLOAD_MODEL_H
#define OFFLOAD_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MODEL_MAX = 70000 };
enum model_sum { MODEL_WHOLE, MODEL_PARTIAL }; /* what the checksum field holds */

struct model {
    unsigned tags;              /* 0..4, the outer one 802.1ad if there are two or more */
    unsigned ip;                /* 4 or 6 */
    unsigned options;           /* IPv4: bytes, a multiple of 4 */
    uint8_t ext[4], ext_len[4]; /* IPv6: extension headers, in units of 8 bytes */
    unsigned n_ext;
    uint8_t src[16], dst[16];
    uint8_t
        final[16]; /* what the pseudo-header has as destination: differs with a routing header */
    uint16_t id;
    bool udp;
    unsigned tcp_options; /* bytes, a multiple of 4 */
    uint8_t flags;        /* of TCP: CWR 0x80, ECE 0x40, PSH 8, FIN 1 ... */
    uint32_t seq;
    uint16_t from_port, to_port;
    uint32_t payload;
    uint8_t salt;
};

struct model_out {
    uint8_t b[MODEL_MAX];
    uint32_t len;
    uint32_t l3, l4, data; /* offsets of the headers and the payload */
};

static inline void model_w8(struct model_out *o, unsigned v)
{
    o->b[o->len++] = (uint8_t)v;
}

static inline void model_w16(struct model_out *o, unsigned v)
{
    model_w8(o, v >> 8);
    model_w8(o, v & 255);
}

static inline void model_w32(struct model_out *o, uint32_t v)
{
    model_w16(o, v >> 16);
    model_w16(o, v & 65535);
}

static inline void model_bytes(struct model_out *o, const uint8_t *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        model_w8(o, b[i]);
    }
}

/* RFC 1071: 16-bit words, big endian, an odd byte is padded with zero. Not complemented. */
static inline uint32_t model_sum(const uint8_t *b, uint32_t n, uint32_t sum)
{
    for (uint32_t i = 0; i < n; i++) {
        sum += i % 2 ? b[i] : b[i] * 256u;
        while (sum > 65535) {
            sum -= 65535;
        }
    }
    return sum;
}

static inline uint32_t model_pseudo(const struct model *m, uint32_t l4_len)
{
    unsigned n = m->ip == 4 ? 4 : 16;
    uint8_t rest[8] = {0, 0, (uint8_t)(l4_len >> 8), (uint8_t)l4_len, 0, 0, 0, m->udp ? 17 : 6};
    uint32_t sum = model_sum(m->src, n, 0);

    sum = model_sum(m->final, n, sum);
    return model_sum(rest, 8, sum);
}

static inline uint8_t model_payload(const struct model *m, uint32_t i)
{
    return (uint8_t)(i * 31 + (i >> 8) * 7 + m->salt);
}

static inline unsigned model_l4_hdr(const struct model *m)
{
    return m->udp ? 8 : 20 + m->tcp_options;
}

static inline void model_eth(struct model_out *o, const struct model *m)
{
    static const uint8_t mac[12] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};

    o->len = 0;
    model_bytes(o, mac, 12);
    for (unsigned i = 0; i < m->tags; i++) {
        model_w16(o, i == 0 && m->tags > 1 ? 0x88a8 : 0x8100);
        model_w16(o, 0x2000 + 100 + i);
    }
    model_w16(o, m->ip == 4 ? 0x0800 : 0x86dd);
}

/* IP header and what belongs to it in front of `body` bytes; v6: fragment header if frag is given.
 */
static inline void model_ip(struct model_out *o, const struct model *m, uint16_t id, uint32_t body,
                            uint32_t frag_offset, bool more, const uint32_t *frag_id)
{
    uint8_t proto = m->udp ? 17 : 6;

    o->l3 = o->len;
    if (m->ip == 4) {
        model_w8(o, 0x40 + (20 + m->options) / 4);
        model_w8(o, 3); /* ECN: congestion experienced */
        model_w16(o, 20 + m->options + body);
        model_w16(o, id);
        model_w16(o, frag_offset / 8 + (more ? 0x2000 : 0));
        model_w8(o, 64);
        model_w8(o, proto);
        model_w16(o, 0);
        model_bytes(o, m->src, 4);
        model_bytes(o, m->dst, 4);
        for (unsigned i = 0; i < m->options; i++) {
            model_w8(o, i + 1 < m->options ? 1 : 0); /* no operation ... end of list */
        }
        uint32_t sum = 65535 - model_sum(o->b + o->l3, o->len - o->l3, 0);
        o->b[o->l3 + 10] = (uint8_t)(sum >> 8);
        o->b[o->l3 + 11] = (uint8_t)sum;
    } else {
        uint32_t ext = frag_id ? 8 : 0;

        for (unsigned i = 0; i < m->n_ext; i++) {
            ext += m->ext_len[i] * 8u;
        }
        uint8_t last = frag_id ? 44 : proto;
        model_w32(o, 0x60312345);
        model_w16(o, ext + body);
        model_w8(o, m->n_ext ? m->ext[0] : last);
        model_w8(o, 64);
        model_bytes(o, m->src, 16);
        model_bytes(o, m->dst, 16);
        for (unsigned i = 0; i < m->n_ext; i++) {
            model_w8(o, i + 1 < m->n_ext ? m->ext[i + 1] : last);
            model_w8(o, m->ext_len[i] - 1u);
            for (unsigned k = 2; k < m->ext_len[i] * 8u; k++) {
                model_w8(o, 0x50 + k);
            }
        }
        if (frag_id) {
            model_w8(o, proto);
            model_w8(o, 0);
            model_w16(o, frag_offset + more);
            model_w32(o, *frag_id);
        }
    }
}

/* Transport header and payload bytes [from, from + n), as one packet of its own. */
static inline void model_l4(struct model_out *o, const struct model *m, uint32_t from, uint32_t n,
                            bool first, bool last, enum model_sum kind)
{
    uint32_t len = model_l4_hdr(m) + n, sum_at;
    uint8_t flags = m->flags;

    o->l4 = o->len;
    model_w16(o, m->from_port);
    model_w16(o, m->to_port);
    if (m->udp) {
        model_w16(o, len);
        sum_at = o->len;
        model_w16(o, 0);
    } else {
        flags = first ? flags : flags & 0x7f; /* CWR on the first only */
        flags = last ? flags : flags & 0xf6;  /* FIN and PSH on the last only */
        model_w32(o, m->seq + from);
        model_w32(o, 0xdeadbeef);
        model_w8(o, (20 + m->tcp_options) / 4 * 16);
        model_w8(o, flags);
        model_w16(o, 1000);
        sum_at = o->len;
        model_w16(o, 0);
        model_w16(o, 0);
        for (unsigned i = 0; i < m->tcp_options; i++) {
            model_w8(o, 0x90 + i);
        }
    }
    o->data = o->len;
    for (uint32_t i = 0; i < n; i++) {
        model_w8(o, model_payload(m, from + i));
    }
    uint32_t sum = model_pseudo(m, len);
    if (kind == MODEL_WHOLE) {
        sum = 65535 - model_sum(o->b + o->l4, len, sum);
        if (m->udp && !sum) {
            sum = 65535;
        }
    }
    o->b[sum_at] = (uint8_t)(sum >> 8);
    o->b[sum_at + 1] = (uint8_t)sum;
}

/* Segment `index` of size `step`; index 0 of step = payload is the whole frame. */
static inline void model_segment(struct model_out *o, const struct model *m, uint32_t step,
                                 uint32_t index, enum model_sum kind)
{
    uint32_t from = index * step, n = m->payload - from < step ? m->payload - from : step;

    model_eth(o, m);
    model_ip(o, m, (uint16_t)(m->id + index), model_l4_hdr(m) + n, 0, false, NULL);
    model_l4(o, m, from, n, index == 0, from + n == m->payload, kind);
}

/* The whole frame; partial is what a sender with offloads makes. */
static inline void model_frame(struct model_out *o, const struct model *m, enum model_sum kind)
{
    model_segment(o, m, m->payload ? m->payload : 1, 0, kind);
}

/* IP fragment `index` of the datagram, each with `step` bytes of its UDP header and payload. */
static inline void model_fragment(struct model_out *o, const struct model *m, uint32_t step,
                                  uint32_t index, uint32_t frag_id)
{
    struct model_out *all = malloc(sizeof(*all));
    uint32_t total = 8 + m->payload, from = index * step;
    uint32_t n = total - from < step ? total - from : step;

    model_frame(all, m, MODEL_WHOLE);
    model_eth(o, m);
    model_ip(o, m, m->id, n, from, from + n < total, m->ip == 6 ? &frag_id : NULL);
    o->data = o->len;
    model_bytes(o, all->b + all->l4 + from, n);
    free(all);
}

/* ---- random ones -------------------------------------------------------------------------- */

static unsigned model_seed;

static inline unsigned model_rand(unsigned n) /* 0 .. n - 1 */
{
    return (unsigned)rand_r(&model_seed) % n;
}

/* Once per program: RINGWAY_SEED, or one that is printed. */
static inline void model_init_seed(void)
{
    const char *s = getenv("RINGWAY_SEED");

    model_seed = s ? (unsigned)strtoul(s, NULL, 0) : 20260101;
    printf("# RINGWAY_SEED=%u\n", model_seed);
}

static inline void model_random(struct model *m, unsigned ip, bool udp, uint32_t payload)
{
    static const uint8_t kind[] = {0, 43, 60, 60};

    *m = (struct model){.ip = ip, .udp = udp, .payload = payload};
    m->tags = model_rand(4) ? model_rand(3) : model_rand(5);
    m->salt = (uint8_t)model_rand(256);
    for (unsigned i = 0; i < 16; i++) {
        m->src[i] = (uint8_t)model_rand(256);
        m->dst[i] = m->final[i] = (uint8_t)model_rand(256);
    }
    m->id = (uint16_t)(model_rand(2) ? 65535 - model_rand(10) : model_rand(65536));
    m->seq = model_rand(2) ? 0xffffffffu - model_rand(5000) : (uint32_t)model_rand(1u << 30) * 4;
    m->flags = (uint8_t)(0x10 | model_rand(256));
    m->from_port = (uint16_t)(1024 + model_rand(60000));
    m->to_port = (uint16_t)(1024 + model_rand(60000));
    if (ip == 4) {
        m->options = model_rand(2) ? 0 : 4 * model_rand(11);
    } else {
        m->n_ext = model_rand(2) ? 0 : 1 + model_rand(3);
        for (unsigned i = 0; i < m->n_ext; i++) { /* at most 48 bytes: they are in the snapshot */
            m->ext[i] = i == 0 ? kind[model_rand(3)] : kind[1 + model_rand(3)];
            m->ext_len[i] = (uint8_t)(1 + model_rand(2));
            if (m->ext[i] == 43) {
                m->final[3] ^= 0x55;
            }
        }
    }
    if (!udp) {
        m->tcp_options = model_rand(2) ? 12 : 4 * model_rand(11);
    }
}

#endif
