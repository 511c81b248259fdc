/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP segments as a Linux guest sends and receives them.
 *
 *     sent       virtio-net header | Ethernet, IPv4, TCP | payload: the pattern of this buffer
 *     received   the same if the receiver takes it, else the frames that it is to be made into.  Also
 *                right where it would be taken as it is: the whole frame, its checksum completed
 *
 * The sequence number says which buffer a frame was made from (upper half) and where its payload
 * begins (lower half), so buffers are filled once and never written again.  What has to arrive is
 * made here, byte by byte and for each segment, while nothing is measured; gen_hot.c compares.
 *
 * In every frame are checked: length, order, what the virtio-net header says, all headers with the
 * checksums in them (not where TCP's is to be completed after segmenting: DPDK puts another start
 * value there), and 64 bytes at a place that moves on, of the first receive buffer and of one in
 * eleven behind it.  With conf.verify that goes for the whole payload of every frame, without it for
 * that of one frame in 17: moving all of it between the caches of two cores takes longer than any
 * switch here takes to copy it.
 *
 * Long frames are cut as Linux cuts them: headers in a descriptor of their own, payload in runs of
 * 32 KiB.  There are few of them, so that the sender's memory stays in the cache as it does with
 * short ones.
 */
#include "bench/gen_int.h"

#include <string.h>

#include "pkt/wire.h"
#include "vnet/features.h"

#define AT_IP     14u
#define AT_TCP    34u
#define AT_SUM    GEN_TCP_AT_SUM
#define TCP_HDR   (GEN_TCP_HEAD - AT_TCP)
#define RUN       32768u
#define LONG      4096u /* and longer: cut */
#define MOST_LONG 8u    /* buffers */
#define TCP_ACK   0x10
#define TCP_PSH   0x08

/* RFC 1071 as it is written there: a second opinion beside pkt/csum.h. */
static uint32_t sum_words(const uint8_t *p, uint32_t len, uint32_t sum)
{
    for (uint32_t i = 0; i < len; i++) {
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

/* Of the pseudo-header in front of len bytes of TCP. */
static uint32_t pseudo_sum(const uint8_t *frame, uint32_t len)
{
    const uint8_t rest[4] = {0, 6, (uint8_t)(len >> 8), (uint8_t)len};

    return sum_words(rest, 4, sum_words(frame + AT_IP + 12, 8, 0));
}

/* Headers of the segment with len bytes of payload from `off` on; its TCP checksum is left 0. */
static void put_head(const struct flow *f, uint8_t *p, uint32_t idx, uint32_t seg, uint32_t off,
                     uint32_t len, bool last)
{
    static const uint8_t stamp[12] = {1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 2, 0};
    const uint8_t from[4] = {10, 0, 0, (uint8_t)(f->from->port + 1)};
    const uint8_t to[4] = {10, 0, 0, (uint8_t)(f->to->port + 1)};

    memset(p, 0, GEN_TCP_HEAD);
    gen_put_mac(p, f->to->port, 0);
    gen_put_mac(p + 6, f->from->port, 0);
    wire_put_be16(p + 12, 0x0800);
    p[AT_IP] = 0x45;
    wire_put_be16(p + AT_IP + 2, GEN_TCP_HEAD - AT_IP + len);
    wire_put_be16(p + AT_IP + 4, idx * 64 + seg);
    wire_put_be16(p + AT_IP + 6, 0x4000); /* don't fragment */
    p[AT_IP + 8] = 64;
    p[AT_IP + 9] = 6;
    memcpy(p + AT_IP + 12, from, 4);
    memcpy(p + AT_IP + 16, to, 4);
    wire_put_be16(p + AT_IP + 10, ~sum_words(p + AT_IP, 20, 0));
    wire_put_be16(p + AT_TCP, 5001);
    wire_put_be16(p + AT_TCP + 2, 5201);
    wire_put_be32(p + AT_TCP + 4, gen_tcp_seq(idx) + off);
    wire_put_be32(p + AT_TCP + 8, 1);
    p[AT_TCP + 12] = TCP_HDR / 4 << 4;
    p[AT_TCP + 13] = TCP_ACK | (last ? TCP_PSH : 0);
    wire_put_be16(p + AT_TCP + 14, 512); /* window */
    memcpy(p + AT_TCP + 20, stamp, sizeof(stamp));
}

static void complete_sum(uint8_t *head, const uint8_t *payload, uint32_t len)
{
    uint32_t sum = pseudo_sum(head, TCP_HDR + len);

    sum = sum_words(head + AT_TCP, TCP_HDR, sum);
    wire_put_be16(head + AT_SUM, ~sum_words(payload, len, sum));
}

/* Complete headers of all segments of a buffer. */
static void fill_heads(const struct gen *g, struct flow *f, uint32_t idx, bool completed)
{
    const uint8_t *payload = gen_pattern(g, idx) + GEN_TCP_HEAD;
    uint32_t left = g->c.frame - GEN_TCP_HEAD;

    for (uint32_t seg = 0; seg < g->n_seg; seg++) {
        uint8_t *head = gen_tcp_head(g, f, idx, seg);
        uint32_t len = MIN(left, g->step);

        left -= len;
        head = completed ? gen_tcp_completed(g, head) : head;
        put_head(f, head, idx, seg, seg * g->step, len, !left);
        complete_sum(head, payload + seg * g->step, len);
    }
}

void gen_tcp_fill(struct gen *g, struct flow *f)
{
    const uint32_t len = g->c.frame - GEN_TCP_HEAD;
    struct vnet_hdr h = {0};

    if (g->c.tcp != GEN_TCP_PLAIN) {
        h.flags = VNET_F_NEEDS_CSUM;
        h.csum_start = AT_TCP;
        h.csum_offset = AT_SUM - AT_TCP;
    }
    if (g->c.tcp == GEN_TCP_TSO) {
        h.gso_type = VNET_GSO_TCPV4;
        h.gso_size = GEN_TCP_PAYLOAD;
        h.hdr_len = GEN_TCP_HEAD;
    }
    g->rx_hdr = g->c.taken ? h : (struct vnet_hdr){0};
    for (uint32_t i = 0; i < g->n_tx; i++) {
        uint8_t *p = f->from->tx_buf + (uint64_t)i * g->tx_stride;

        memcpy(p, &h, HDR);
        p += HDR;
        memcpy(p, gen_pattern(g, i), g->c.frame);
        put_head(f, p, i, 0, 0, len, true);
        if (g->c.tcp == GEN_TCP_PLAIN) {
            complete_sum(p, p + GEN_TCP_HEAD, len);
        } else {
            wire_put_be16(p + AT_SUM, pseudo_sum(p, TCP_HDR + len));
        }
        fill_heads(g, f, i, g->c.taken);
        if (g->c.taken) {
            memcpy(gen_tcp_head(g, f, i, 0), p, GEN_TCP_HEAD);
        }
    }
}

uint32_t gen_tcp_cut(const struct gen *g, uint32_t *len)
{
    uint32_t n = 0, left = HDR + g->c.frame;

    if (g->c.tcp && g->c.linux_guest && g->c.frame > LONG) {
        len[n++] = HDR + GEN_TCP_HEAD;
        left -= HDR + GEN_TCP_HEAD;
        for (; left > RUN; left -= RUN) {
            len[n++] = RUN;
        }
    }
    len[n++] = left;
    return n;
}

static uint32_t bufs_of(const struct gen *g, uint32_t frame)
{
    return (HDR + frame + g->c.buf - 1) / g->c.buf;
}

void gen_tcp_plan(struct gen *g)
{
    const uint32_t payload = g->c.frame - GEN_TCP_HEAD;

    if (g->c.tcp == GEN_TCP_TSO && payload <= GEN_TCP_PAYLOAD) {
        g->c.tcp = GEN_TCP_CSUM; /* one segment: nothing to cut */
    }
    const bool split = g->c.tcp == GEN_TCP_TSO && !g->c.taken;
    const uint32_t longest = split ? MIN(g->c.frame, GEN_TCP_HEAD + GEN_TCP_PAYLOAD) : g->c.frame;

    if (!g->c.buf) {
        g->c.buf = g->c.linux_guest ? DEFAULT_BUF : MAX(DEFAULT_BUF, HDR + longest);
    }
    g->step = split ? GEN_TCP_PAYLOAD : payload;
    g->n_seg = (payload + g->step - 1) / g->step;
    g->bufs = g->n_seg * bufs_of(g, longest);
    if (g->bufs > 1) {
        while (g->n_tx > 1 && g->n_tx * g->bufs + TURN_LEAST > g->c.num) {
            g->n_tx /= 2;
        }
    }
    if (g->c.frame > LONG) {
        g->n_tx = MIN(g->n_tx, MOST_LONG);
    }
    if (g->c.tcp != GEN_TCP_PLAIN) {
        g->features |= VIRTIO_BIT(NET_F_CSUM);
        g->features |= g->c.taken ? VIRTIO_BIT(NET_F_GUEST_CSUM) : 0;
    }
    if (g->c.tcp == GEN_TCP_TSO) {
        g->features |= VIRTIO_BIT(NET_F_HOST_TSO4);
        g->features |= g->c.taken ? VIRTIO_BIT(NET_F_GUEST_TSO4) : 0;
    }
}
