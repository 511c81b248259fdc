/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A frame and its virtio-net header are the fuzzer's, while a second thread rewrites what lies
 * behind the snapshot.  It is checked, segmented and written into receive buffers, and whatever it
 * is:
 *  - no access leaves a run of the frame, the snapshot or a buffer (allocations of their own, so
 * ASan sees the first byte beyond their end),
 *  - the payloads of the segments are the payload, in order, each byte once,
 *  - no segment is longer than headers and gso_size, and its IP header says how long it is,
 *  - the snapshot stays as it was (other receivers get it too), and a frame that the receiver does
 *    not take as it is leaves with a header that asks for nothing more than it takes.
 *
 * input: 12 bytes of set-up, 12 of virtio-net header, the beginning of the frame (repeated as often
 * as its length wants).
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "pkt/segment.h"
#include "pkt/tag.h"
#include "port/port_vhost.h"

#define SNAP    (PKT_SNAP - VNET_HDR_LEN)
#define RUNS    64
#define BUFFERS RING_BURST
#define GPA     0x10000000ull

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

/* A frame on loan: snapshot with headroom, and runs of any length behind it. */
struct loan {
    uint8_t *room;
    uint8_t *run[RUNS];
    struct gspan span[RUNS];
    struct pkt p;
};

static void lend(struct loan *l, const uint8_t *frame, size_t n, uint32_t len, uint32_t cut)
{
    uint32_t snap = MIN(len, (uint32_t)SNAP), at = snap, k = 0;

    l->room = malloc(PKT_HEADROOM + snap);
    l->p = (struct pkt){.data = l->room + PKT_HEADROOM, .len = len, .snap_len = (uint16_t)snap};
    fill(l->p.data, snap, frame, n, 0);
    for (; at < len; k++) {
        uint32_t part = k == RUNS - 1 ? len - at : MIN(1 + cut * (k + 1) % 4099, len - at);

        l->run[k] = malloc(part);
        fill(l->run[k], part, frame, n, at);
        l->span[k] = (struct gspan){GUEST_PTR(const uint8_t GUEST, l->run[k]), part};
        at += part;
    }
    l->p.n_spans = (uint16_t)k;
    l->p.span = l->span[0];
    l->p.spans = l->span;
}

static void give_back(struct loan *l)
{
    for (uint32_t k = 0; k < l->p.n_spans; k++) {
        free(l->run[k]);
    }
    free(l->room);
}

/* The lengths in the headers of a segment are those that it has. */
static void check_lengths(const struct segmenter *s, const struct segment *seg)
{
    const uint8_t *ip = seg->head + s->place.l3;
    uint32_t len = seg->head_len + seg->len - s->place.l3;

    if (s->place.ip == 4) {
        CHECK(get16(ip + 2) == len);
    } else {
        CHECK(get16(ip + 4) + 40u == len);
    }
    if (s->carries & OFFLOAD_USO) {
        CHECK(get16(seg->head + s->place.l4 + 4) + (uint32_t)s->place.l4 ==
              seg->head_len + seg->len);
    }
}

static void check_segments(const struct pkt *p, uint16_t takes)
{
    struct segmenter s;
    struct segment *seg = malloc(sizeof(*seg));
    uint32_t next = 0, n = 0, longest = offload_wire_len(p);
    uint64_t sum = 0;

    if (segmenter_init(&s, p, takes) != DROP_N) {
        CHECK(p->offload & ~takes & OFFLOAD_GSO);
        free(seg);
        return;
    }
    for (; segmenter_next(&s, seg); n++) {
        CHECK(n <= p->len / OFFLOAD_MIN_SEGMENT);
        CHECK(seg->head == p->data || ((seg->head == seg->buf || seg->head == s.head) &&
                                       seg->head_len <= SEGMENT_HEAD_MAX));
        CHECK(seg->from <= p->len && seg->len <= p->len - seg->from);
        CHECK(!n || seg->from == next);
        CHECK(seg->head_len + seg->len <= (s.step ? longest : p->len));
        next = seg->from + seg->len;
        CHECK(!(seg->h.flags & VNET_F_NEEDS_CSUM) || takes & OFFLOAD_CSUM);
        CHECK(seg->h.gso_type == VNET_GSO_NONE || !(p->offload & ~takes & OFFLOAD_GSO));
        if (s.step) {
            check_lengths(&s, seg);
        } else {
            CHECK(seg->head_len + seg->len == p->len);
        }
        if (seg->sum_at) {
            CHECK(seg->sum_from <= seg->sum_at && seg->sum_at + 2u <= seg->head_len);
            sum += segment_sum(&s, seg);
        }
    }
    CHECK(n && next == p->len);
    CHECK(!segmenter_next(&s, seg));
    __asm__ volatile("" : : "r"(sum));
    free(seg);
}

/* Through the vhost port into buffers of `size` bytes, a burst at a time. */
static void write_out(const struct pkt *p, uint16_t takes, uint32_t size, uint8_t flags)
{
    struct gmem_region r[BUFFERS];
    struct tx_frame *f = malloc(sizeof(*f));
    struct ring_burst *rb = malloc(sizeof(*rb));
    uint32_t lens[RING_BURST], bursts = 0;
    struct vq vq = {.hdr_len = flags & 1 ? VNET_HDR_LEN : VNET_HDR_LEN_LEGACY,
                    .mergeable = (flags & 3) == 3,
                    .takes = takes};
    struct tx_result res;

    *rb = (struct ring_burst){.n = 1 + flags / 4u};
    for (uint32_t i = 0; i < BUFFERS; i++) {
        r[i] = (struct gmem_region){.gpa = GPA + i * 0x100000ull,
                                    .size = size,
                                    .uva = i * 0x100000ull,
                                    .va = GUEST_PTR(uint8_t GUEST, malloc(size))};
        rb->chain[i].seg = (struct ring_seg){.addr = r[i].gpa, .len = size};
        rb->chain[i].meta = RING_META_PLAIN(i);
    }
    struct gmem *mem = gmem_local_n(r, BUFFERS);
    f->p = NULL;
    do {
        uint64_t bytes = 0;

        port_vhost_out_base(&vq, mem, rb, 0, p, lens, f, &res);
        CHECK(res.n_chains <= rb->n && res.frames <= res.n_chains);
        CHECK(res.need_more == (res.why == DROP_NO_BUFFERS) && (f->p == p) == res.need_more);
        for (uint32_t i = 0; i < res.n_chains; i++) {
            CHECK(lens[i] <= size);
            bytes += lens[i];
        }
        CHECK(bytes == res.bytes + (uint64_t)res.frames * vq.hdr_len);
    } while (res.need_more && res.n_chains && ++bursts < 10);
    gmem_free(mem);
    for (uint32_t i = 0; i < BUFFERS; i++) {
        free(GUEST_PTR(void, r[i].va));
    }
    free(rb);
    free(f);
}

/* The short way for a frame from which only its checksum is missing. */
static void write_summed(const struct pkt *p)
{
    uint8_t *out = malloc(VNET_HDR_LEN + p->len);

    if (port_vhost_out_summed_base(out, p)) {
        CHECK(!memcmp(out, &(const struct vnet_hdr){.num_buffers = 1}, VNET_HDR_LEN));
    } else {
        CHECK(p->n_spans == 1);
    }
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct loan l;
    struct vnet_hdr said, own;
    uint8_t before[SNAP + TAG_LEN];

    if (size < 24) {
        return 0;
    }
    uint16_t sent = get16(data), takes = get16(data + 2) & OFFLOAD_ALL;
    uint32_t len = MIN(PKT_MIN_LEN + get16(data + 4) + data[8] / 4u, PKT_MAX_LEN - TAG_LEN + 0u);
    takes = takes & OFFLOAD_CSUM ? takes : 0;
    memcpy(&said, data + 12, sizeof(said));
    lend(&l, data + 24, size - 24, len, get16(data + 6));
    set_victim(l.p.n_spans && data[8] & 1 ? l.run[0] : NULL, l.p.n_spans ? l.span[0].len : 0, 0);

    int why = offload_check(&l.p, &said, sent & OFFLOAD_ALL);
    if (why == DROP_N) {
        CHECK(!(l.p.offload & ~sent & OFFLOAD_ALL));
        if (data[8] & 2) {
            pkt_push_tag(&l.p, 0x8100, 5);
        }
        memcpy(&own, l.p.data - VNET_HDR_LEN, sizeof(own));
        CHECK(own.num_buffers == 1 && own.hdr_len <= l.p.snap_len);
        memcpy(before, l.p.data, l.p.snap_len);
        check_segments(&l.p, takes);
        write_out(&l.p, takes, 16 + get16(data + 9) % 4096, data[11]);
        if (l.p.offload == OFFLOAD_CSUM && l.p.n_spans < 2) {
            write_summed(&l.p);
        }
        CHECK(!memcmp(before, l.p.data, l.p.snap_len));
        CHECK(!memcmp(&own, l.p.data - VNET_HDR_LEN, sizeof(own)));
    } else {
        CHECK(why == DROP_OFFLOAD || why == DROP_BAD_CSUM || why == DROP_BAD_GSO);
    }
    set_victim(NULL, 0, 0);
    give_back(&l);
    return 0;
}
