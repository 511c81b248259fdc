/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segmentation and checksum completion against a model that builds each frame from scratch
 * (offload_model.h): first the descriptions that the segmenter makes, then the bytes that the vhost
 * port writes into a guest's buffers, of any size and cut anywhere.
 */
#ifndef COPY_COUNT
#define COPY_COUNT /* as the library that this is linked with */
#endif

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "offload_model.h"
#include "pkt/copy.h"
#include "pkt/csum.h"
#include "pkt/segment.h"
#include "pkt/tag.h"
#include "port/port_vhost.h"

#define SNAP   (PKT_SNAP - VNET_HDR_LEN)
#define ROUNDS 3000

static struct {
    struct model m;
    struct model_out frame, want;
    uint8_t room[PKT_HEADROOM + PKT_SNAP];
    struct pkt p;
    struct gspan spans[PKT_MAX_SPANS];
    uint8_t *piece[PKT_MAX_SPANS]; /* allocations of their own: ASan sees the first byte beyond */
    unsigned n_pieces;
    uint8_t got[MODEL_MAX];
} t;

static const struct {
    uint8_t type;
    unsigned ip;
    bool udp;
    uint16_t carries;
} kinds[] = {
    {VNET_GSO_NONE, 4, false, 0},
    {VNET_GSO_NONE, 4, true, 0},
    {VNET_GSO_NONE, 6, false, 0},
    {VNET_GSO_NONE, 6, true, 0},
    {VNET_GSO_TCPV4, 4, false, OFFLOAD_TSO4},
    {VNET_GSO_TCPV6, 6, false, OFFLOAD_TSO6},
    {VNET_GSO_TCPV4 | VNET_GSO_ECN, 4, false, OFFLOAD_TSO4 | OFFLOAD_ECN},
    {VNET_GSO_TCPV6 | VNET_GSO_ECN, 6, false, OFFLOAD_TSO6 | OFFLOAD_ECN},
    {VNET_GSO_UDP_L4, 4, true, OFFLOAD_USO4},
    {VNET_GSO_UDP_L4, 6, true, OFFLOAD_USO6},
    {VNET_GSO_UDP, 4, true, OFFLOAD_UFO},
    {VNET_GSO_UDP, 6, true, OFFLOAD_UFO},
};

/* ---- a sender's frame, as the ingress has it ----------------------------------------------- */

static void free_pieces(void)
{
    while (t.n_pieces) {
        free(t.piece[--t.n_pieces]);
    }
}

static int teardown(void **state)
{
    free_pieces();
    return 0;
}

/* What is behind the snapshot, in runs of up to max bytes. */
static void cut(uint32_t max)
{
    uint32_t at = t.p.snap_len;

    free_pieces();
    while (at < t.frame.len) {
        uint32_t n = t.n_pieces == 899 ? MODEL_MAX : 1 + model_rand(max);

        n = MIN(n, t.frame.len - at);
        uint8_t *b = malloc(n);
        memcpy(b, t.frame.b + at, n);
        t.piece[t.n_pieces] = b;
        t.spans[t.n_pieces++] = (struct gspan){GUEST_PTR(const uint8_t GUEST, b), n};
        at += n;
    }
    t.p.n_spans = (uint16_t)t.n_pieces;
    t.p.span = t.spans[0];
    t.p.spans = t.spans;
}

/* The frame of t.m goes through the check as kind k with this gso_size. */
static void take(unsigned k, uint16_t gso_size, uint32_t max_span)
{
    model_frame(&t.frame, &t.m, MODEL_PARTIAL);
    struct vnet_hdr said = {.flags = VNET_F_NEEDS_CSUM,
                            .gso_type = kinds[k].type,
                            .gso_size = gso_size,
                            .csum_start = (uint16_t)t.frame.l4,
                            .csum_offset = kinds[k].udp ? 6 : 16};

    t.p = (struct pkt){.data = t.room + PKT_HEADROOM,
                       .len = t.frame.len,
                       .snap_len = (uint16_t)MIN(t.frame.len, (uint32_t)SNAP)};
    memcpy(t.p.data, t.frame.b, t.p.snap_len);
    cut(max_span);
    assert_int_equal(offload_check(&t.p, &said, OFFLOAD_ALL), DROP_N);
}

/* ---- what must come of it -------------------------------------------------------------------- */

/* How a receiver gets it: as it is, in segments (of step bytes each), as fragments. */
struct plan {
    enum { AS_IT_IS, SEGMENTS, FRAGMENTS } how;
    enum model_sum sum;
    uint32_t step, n;
};

static struct plan plan(unsigned k, uint32_t gso_size, uint16_t takes)
{
    uint32_t all = t.m.payload + (kinds[k].type == VNET_GSO_UDP ? 8 : 0);
    uint32_t step = kinds[k].type == VNET_GSO_UDP ? gso_size / 8 * 8 : gso_size;
    bool gso = kinds[k].type != VNET_GSO_NONE && all > step;
    uint16_t carries = gso ? kinds[k].carries : 0;
    struct plan r = {.sum = takes & OFFLOAD_CSUM ? MODEL_PARTIAL : MODEL_WHOLE, .n = 1};

    if (carries & ~takes) {
        r.how = kinds[k].type == VNET_GSO_UDP ? FRAGMENTS : SEGMENTS;
        r.step = step;
        r.n = (all + step - 1) / step;
    }
    return r;
}

/* Offloads that a receiver can have: nothing without the checksum. */
static uint16_t random_takes(void)
{
    return model_rand(4) ? (uint16_t)(model_rand(OFFLOAD_ALL + 1) | OFFLOAD_CSUM) : 0;
}

static uint16_t be16_at(const uint8_t *b)
{
    return (uint16_t)(b[0] * 256 + b[1]);
}

/* t.got is frame i of the plan, with this header. */
static void check_frame(unsigned k, const struct plan *pl, uint32_t i, const struct vnet_hdr *h,
                        uint32_t len, uint16_t gso_size)
{
    struct vnet_hdr want = {.num_buffers = h->num_buffers};
    uint32_t sum_at = kinds[k].udp ? 6 : 16;

    if (pl->how == AS_IT_IS) {
        model_frame(&t.want, &t.m, pl->sum);
    } else if (pl->how == SEGMENTS) {
        model_segment(&t.want, &t.m, pl->step, i, pl->sum);
    } else {
        static uint32_t id;

        if (t.m.ip == 6) { /* any, the same in all */
            const uint8_t *f = t.got + t.frame.l4 + 4;
            uint32_t now = (uint32_t)be16_at(f) << 16 | be16_at(f + 2);

            assert_true(i == 0 || now == id);
            id = now;
        }
        model_fragment(&t.want, &t.m, pl->step, i, id);
    }
    if (pl->sum == MODEL_PARTIAL && pl->how != FRAGMENTS) {
        want.flags = VNET_F_NEEDS_CSUM;
        want.csum_start = (uint16_t)t.want.l4;
        want.csum_offset = (uint16_t)sum_at;
        /* 0 and 0xffff are the same as a partial sum */
        uint8_t *a = t.got + t.want.l4 + sum_at, *b = t.want.b + t.want.l4 + sum_at;
        assert_int_equal(be16_at(a) % 65535, be16_at(b) % 65535);
        memcpy(a, b, 2);
        if (pl->how == AS_IT_IS && t.p.offload & OFFLOAD_GSO) {
            want.gso_type = kinds[k].type;
            want.gso_size = gso_size;
            want.hdr_len = (uint16_t)t.want.data;
        }
    }
    assert_int_equal(len, t.want.len);
    assert_memory_equal(t.got, t.want.b, len);
    assert_memory_equal(h, &want, sizeof(want));
}

/* ---- the segmenter alone ----------------------------------------------------------------------
 */

/* Carry out what a segment says. */
static uint32_t realize(const struct segmenter *s, const struct segment *seg)
{
    struct pkt_reader r = pkt_reader_at(&t.p, seg->from);
    struct segment patched = *seg;
    uint32_t at = seg->head_len;

    assert_true(seg->head == t.p.data || seg->head_len <= SEGMENT_HEAD_MAX);
    assert_true(seg->n_patch <= SEGMENT_PATCHES);
    segment_apply_patches(&patched);
    memcpy(t.got, patched.head, seg->head_len);
    for (uint32_t left = seg->len; left;) {
        uint32_t n = left;
        const uint8_t *run = pkt_read(&r, &n);

        assert_true(n && n <= left);
        memcpy(t.got + at, run, n);
        at += n;
        left -= n;
    }
    if (seg->sum_at) {
        uint16_t field = segment_sum(s, seg);

        assert_int_equal(segment_sum(s, &patched), field); /* patches are in the sum already */
        memcpy(t.got + seg->sum_at, &field, 2);
    }
    return at;
}

static void check_segmenter(unsigned k, uint16_t gso_size, uint16_t takes)
{
    struct plan pl = plan(k, gso_size, takes);
    uint8_t before[sizeof(t.room)];
    struct segmenter s;
    struct segment seg;
    uint32_t n = 0;

    memcpy(before, t.room, sizeof(before));
    assert_int_equal(segmenter_init(&s, &t.p, takes), DROP_N);
    for (; segmenter_next(&s, &seg); n++) {
        uint32_t len = realize(&s, &seg);

        assert_true(n < pl.n);
        check_frame(k, &pl, n, &seg.h, len, gso_size);
        if (t.p.offload & OFFLOAD_GSO && pl.how != AS_IT_IS) {
            assert_true(len <= offload_wire_len(&t.p));
        }
    }
    assert_int_equal(n, pl.n);
    assert_false(segmenter_next(&s, &seg));
    assert_memory_equal(before, t.room, sizeof(before)); /* it serves other receivers too */
}

static void test_random(void **state)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned k = model_rand(ARRAY_SIZE(kinds));
        uint32_t max = model_rand(10) ? 6000 : 65000;
        uint16_t gso_size =
            (uint16_t)(OFFLOAD_MIN_SEGMENT + model_rand(model_rand(3) ? 2000 : 60000));

        model_random(&t.m, kinds[k].ip, kinds[k].udp, 1 + model_rand(max));
        if (kinds[k].type == VNET_GSO_NONE && !model_rand(8)) {
            t.m.payload = 0;
        }
        take(k, gso_size, 1 + model_rand(model_rand(2) ? 50 : 5000));
        check_segmenter(k, gso_size, random_takes());
    }
}

/* Payload of exactly one segment, a byte more, a byte less, of many; the largest sizes. */
static void test_boundaries(void **state)
{
    const uint16_t sizes[] = {88, 89, 95, 96, 536, 1448, 9000, 32767, 0xfffe};

    for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
        for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
            for (unsigned many = 1; many <= 3; many += 2) {
                for (int off = -9; off <= 9; off++) {
                    int payload = (int)(many * sizes[i]) + off;

                    if (payload < 1 || payload > 65000) {
                        continue;
                    }
                    model_random(&t.m, kinds[k].ip, kinds[k].udp, (uint32_t)payload);
                    t.m.tags = 0;
                    take(k, sizes[i], 3000);
                    check_segmenter(k, sizes[i], 0);
                    check_segmenter(k, sizes[i], OFFLOAD_CSUM);
                    check_segmenter(k, sizes[i], OFFLOAD_ALL);
                }
            }
        }
    }
}

/* A sum of 0 is sent as 0xffff by UDP, and as 0 by TCP. The port makes it so in the first frame. */
static void test_sum_of_zero(void **state)
{
    for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
        bool cut_up = kinds[k].carries && !(kinds[k].carries & OFFLOAD_UFO);
        uint32_t at = kinds[k].udp ? 6 : 16;

        do {
            model_random(&t.m, kinds[k].ip, kinds[k].udp, 301);
            t.m.to_port = 0;
            model_segment(&t.want, &t.m, cut_up ? 100 : 301, 0, MODEL_WHOLE);
            t.m.to_port = be16_at(t.want.b + t.want.l4 + at);
        } while (t.m.to_port < 1024);
        model_segment(&t.want, &t.m, cut_up ? 100 : 301, 0, MODEL_WHOLE);
        assert_int_equal(be16_at(t.want.b + t.want.l4 + at), kinds[k].udp ? 65535 : 0);
        take(k, 100, 100);
        check_segmenter(k, 100, 0);
    }
}

/* The whole sum towards DHCP clients, whatever the receiver takes. */
static void test_dhcp(void **state)
{
    for (unsigned k = 1; k < 4; k += 2) {
        for (uint32_t payload = 240; payload < 1400; payload += 111) {
            struct segmenter s;
            struct segment seg;

            model_random(&t.m, kinds[k].ip, true, payload);
            t.m.to_port = kinds[k].ip == 4 ? 68 : 546;
            take(k, 0, 1000);
            assert_int_equal(segmenter_init(&s, &t.p, OFFLOAD_ALL), DROP_N);
            assert_true(segmenter_next(&s, &seg));
            uint32_t len = realize(&s, &seg);
            const struct plan pl = {AS_IT_IS, MODEL_WHOLE, 0, 1};
            check_frame(k, &pl, 0, &seg.h, len, 0);
            assert_false(segmenter_next(&s, &seg));
        }
    }
}

/* A tag that was put in front of the checked frame, or taken away, moves everything. */
static void test_tags(void **state)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned k = model_rand(ARRAY_SIZE(kinds));
        uint16_t gso_size = (uint16_t)(OFFLOAD_MIN_SEGMENT + model_rand(1500));

        model_random(&t.m, kinds[k].ip, kinds[k].udp, 1 + model_rand(5000));
        take(k, gso_size, 500);
        if (round % 2) {
            /* model_eth() numbers tags from the outer one: take that of the frame that comes out */
            t.m.tags++;
            model_frame(&t.want, &t.m, MODEL_PARTIAL);
            pkt_push_tag(&t.p, be16_at(t.want.b + 12), be16_at(t.want.b + 14));
            for (unsigned i = 1; i < t.m.tags; i++) {
                pkt_set_be16(&t.p, 12 + 4 * i, be16_at(t.want.b + 12 + 4 * i));
                pkt_set_be16(&t.p, 14 + 4 * i, be16_at(t.want.b + 14 + 4 * i));
            }
        } else if (t.m.tags) {
            t.m.tags--;
            model_frame(&t.want, &t.m, MODEL_PARTIAL);
            pkt_pop_tag(&t.p);
            for (unsigned i = 0; i < t.m.tags; i++) {
                pkt_set_be16(&t.p, 12 + 4 * i, be16_at(t.want.b + 12 + 4 * i));
                pkt_set_be16(&t.p, 14 + 4 * i, be16_at(t.want.b + 14 + 4 * i));
            }
        }
        model_frame(&t.frame, &t.m, MODEL_PARTIAL);
        assert_int_equal(t.p.len, t.frame.len);
        check_segmenter(k, gso_size, random_takes());
    }
}

static void test_too_small_to_segment(void **state)
{
    for (unsigned k = 4; k < ARRAY_SIZE(kinds); k++) {
        struct segmenter s;

        model_random(&t.m, kinds[k].ip, kinds[k].udp, 3000);
        take(k, OFFLOAD_MIN_SEGMENT - 1, 500);
        assert_int_equal(segmenter_init(&s, &t.p, OFFLOAD_CSUM), DROP_GSO_TINY);
        assert_int_equal(segmenter_init(&s, &t.p, OFFLOAD_ALL), DROP_N); /* whole: no matter */
        take(k, OFFLOAD_MIN_SEGMENT, 500);
        assert_int_equal(segmenter_init(&s, &t.p, OFFLOAD_CSUM), DROP_N);
    }
}

/* ---- into a guest's buffers ---------------------------------------------------------------- */

#define GUEST_SIZE (1u << 20)
#define GPA        0x40000000ull

static struct {
    uint8_t b[GUEST_SIZE];
    struct gmem *mem;
    struct vq vq;
    struct ring_burst rb;
    struct tx_frame f;
    uint32_t lens[RING_BURST];
    uint32_t next; /* free memory */
} g;

/* Regions side by side in guest addresses, but not here: buffers that cross them come in parts. */
static int guest_setup(void **state)
{
    enum { N = 64 };
    struct gmem_region r[N];
    const uint32_t part = GUEST_SIZE / N;

    for (unsigned i = 0; i < N; i++) {
        unsigned place = i % 2 ? i : N - 2 - i;

        r[i] = (struct gmem_region){.gpa = GPA + i * part,
                                    .size = part,
                                    .uva = i * part,
                                    .va = GUEST_PTR(uint8_t GUEST, g.b + place * part)};
    }
    g.mem = gmem_local_n(r, N);
    return 0;
}

static int guest_teardown(void **state)
{
    gmem_free(g.mem);
    return teardown(state);
}

static void guest_read(uint64_t gpa, uint8_t *to, uint32_t len)
{
    while (len) {
        uint32_t n = len, hint = 0;
        const uint8_t *b = GUEST_PTR(const uint8_t, gmem_span(g.mem, &hint, (gpa_t){gpa}, &n));

        assert_non_null(b);
        memcpy(to, b, n);
        gpa += n, to += n, len -= n;
    }
}

static struct tx_result send_out(void)
{
    struct tx_result r;

    port_vhost_out_base(&g.vq, g.mem, &g.rb, 0, &t.p, g.lens, &g.f, &r);
    return r;
}

/* The short way for a frame from which only its checksum is missing: what it writes is what the model
 * says, and nothing behind it. */
static void test_summed(void **state)
{
    struct plan pl = {.how = AS_IT_IS, .sum = MODEL_WHOLE, .n = 1};
    unsigned spans[2] = {0};

    for (unsigned round = 0; round < ROUNDS; round++) {
        uint8_t out[VNET_HDR_LEN + 2000 + 1];
        struct vnet_hdr h;
        unsigned k = model_rand(4);

        model_random(&t.m, kinds[k].ip, kinds[k].udp, 1 + model_rand(1700));
        take(k, 0, 2000);
        uint64_t before = copy_bytes_counted;
        uint32_t len = VNET_HDR_LEN + t.p.len;
        assert_true(len < sizeof(out));
        if (t.p.n_spans > 1 || t.p.offload != OFFLOAD_CSUM) {
            continue; /* for DHCP clients, or in pieces: not the short way's */
        }
        memset(out, 0xa5, sizeof(out));
        assert_true(port_vhost_out_summed_base(out, &t.p));
        assert_int_equal(copy_bytes_counted - before, len);
        assert_int_equal(out[len], 0xa5);
        memcpy(&h, out, sizeof(h));
        assert_int_equal(h.num_buffers, 1);
        memcpy(t.got, out + VNET_HDR_LEN, t.p.len);
        check_frame(k, &pl, 0, &h, t.p.len, 0);
        spans[t.p.n_spans]++;
        if (t.p.n_spans) { /* and not if a word lies in both parts */
            t.p.snap_len--;
            assert_false(port_vhost_out_summed_base(out, &t.p));
        }
    }
    assert_true(spans[0] && spans[1]);
}

/* n chains of about `size` bytes each, cut into segments at random places. */
static void post(uint32_t n, uint32_t size, unsigned max_segs)
{
    g.rb = (struct ring_burst){.n = n};
    for (uint32_t i = 0; i < n; i++) {
        struct ring_chain *c = &g.rb.chain[i];
        uint32_t left = size, segs = 1 + model_rand(max_segs);

        segs = MIN(segs, RING_MAX_SEGS - g.rb.n_pool);
        *c = (struct ring_chain){.id = (uint16_t)i, .pool = (uint16_t)g.rb.n_pool};
        for (uint32_t k = 0; k < segs; k++) {
            uint32_t len = k + 1 == segs ? left : model_rand(MIN(left, 40u) + 1); /* 0 too */

            if (g.next + len > GUEST_SIZE) {
                g.next = 0;
            }
            struct ring_seg s = {.addr = GPA + g.next, .len = len};
            if (segs == 1) {
                c->seg = s;
            } else {
                g.rb.pool[g.rb.n_pool++] = s;
            }
            c->n_seg++;
            g.next += len;
            left -= len;
        }
    }
}

/* Read a frame from chains [at, at + n) as their lens say. */
static uint32_t collect(uint32_t at, uint32_t n, uint8_t *to)
{
    uint32_t total = 0;

    for (; n--; at++) {
        const struct ring_chain *c = &g.rb.chain[at];
        const struct ring_seg *s = c->n_seg > 1 ? &g.rb.pool[c->pool] : &c->seg;
        uint32_t left = g.lens[at];

        for (uint32_t i = 0; left; i++) {
            assert_true(i < c->n_seg);
            uint32_t len = MIN(left, s[i].len);
            guest_read(s[i].addr, to + total, len);
            total += len;
            left -= len;
        }
    }
    return total;
}

/* Send t.p, burst by burst as a worker does, and check every frame that arrives. */
static void check_out(unsigned k, uint16_t gso_size, uint32_t size, unsigned max_segs)
{
    static uint8_t buf[MODEL_MAX];
    struct plan pl = plan(k, gso_size, g.vq.takes);
    uint64_t before = copy_bytes_counted, bytes = 0;
    uint32_t n_frames = 0, per_frame;
    struct tx_result r;

    memset(&g.f, 0xee, sizeof(g.f));
    g.f.p = NULL;
    do {
        post(1 + model_rand(RING_BURST), size, max_segs);
        memset(g.lens, 0xee, sizeof(g.lens));
        r = send_out();
        assert_true(r.n_chains <= g.rb.n);
        uint32_t at = 0;
        for (uint32_t i = 0; i < r.frames; i++, n_frames++) {
            struct vnet_hdr h = {.num_buffers = 1};

            collect(at, MIN(4u, r.n_chains - at), buf); /* the header may be in several */
            memcpy(&h, buf, g.vq.hdr_len);
            per_frame = h.num_buffers;
            assert_true(per_frame && at + per_frame <= r.n_chains);
            for (uint32_t j = 0; j + 1 < per_frame; j++) { /* all but the last are full */
                assert_int_equal(g.lens[at + j], size);
            }
            uint32_t len = collect(at, per_frame, buf) - g.vq.hdr_len;
            memcpy(t.got, buf + g.vq.hdr_len, len);
            check_frame(k, &pl, n_frames, &h, len, gso_size);
            bytes += len + g.vq.hdr_len;
            at += per_frame;
        }
        assert_int_equal(at, r.n_chains);
        assert_true(r.need_more == (r.why == DROP_NO_BUFFERS));
    } while (r.need_more);
    assert_int_equal(r.why, DROP_N);
    assert_int_equal(n_frames, pl.n);
    assert_int_equal(copy_bytes_counted - before, bytes); /* each byte once */
}

static void test_into_buffers(void **state)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned k = model_rand(ARRAY_SIZE(kinds));
        uint16_t gso_size = (uint16_t)(OFFLOAD_MIN_SEGMENT + model_rand(1500));

        g.vq = (struct vq){.takes = random_takes(), .mergeable = model_rand(2)};
        g.vq.hdr_len = g.vq.mergeable || model_rand(3) ? VNET_HDR_LEN : VNET_HDR_LEN_LEGACY;
        model_random(&t.m, kinds[k].ip, kinds[k].udp, 1 + model_rand(model_rand(8) ? 4000 : 60000));
        take(k, gso_size, 1 + model_rand(2000));
        struct plan pl = plan(k, gso_size, g.vq.takes);
        uint32_t most = pl.how == AS_IT_IS ? t.frame.len : t.frame.data + 8 + gso_size;
        uint32_t size = g.vq.hdr_len + most;
        if (g.vq.mergeable && model_rand(2)) { /* several per frame, at most 20: they fit a burst */
            size = most / 20 + 16 + model_rand(2000);
        }
        check_out(k, gso_size, size, 1 + model_rand(12));
    }
}

/* Too small for the frame as it is, without merging: it goes out in segments after all. */
static void test_split_instead(void **state)
{
    for (unsigned k = 4; k < ARRAY_SIZE(kinds); k++) {
        uint16_t takes = OFFLOAD_ALL;
        struct tx_result r;
        uint32_t n = 0;

        g.vq = (struct vq){.takes = takes, .hdr_len = VNET_HDR_LEN};
        model_random(&t.m, kinds[k].ip, kinds[k].udp, 9000);
        take(k, 1400, 5000);
        struct plan pl = plan(k, 1400, OFFLOAD_CSUM);
        assert_int_not_equal(pl.how, AS_IT_IS);
        g.f.p = NULL;
        do { /* three at a time */
            post(3, 2048, 3);
            r = send_out();
            for (uint32_t i = 0; i < r.frames; i++, n++) {
                uint8_t buf[2048];
                struct vnet_hdr h;
                uint32_t len = collect(i, 1, buf) - VNET_HDR_LEN;

                memcpy(&h, buf, sizeof(h));
                memcpy(t.got, buf + sizeof(h), len);
                check_frame(k, &pl, n, &h, len, 1400);
            }
        } while (r.need_more);
        assert_int_equal(r.why, DROP_N);
        assert_int_equal(n, pl.n);
    }
    /* and what cannot be split is dropped, without using a buffer up */
    g.vq = (struct vq){.takes = OFFLOAD_ALL, .hdr_len = VNET_HDR_LEN};
    model_random(&t.m, 4, false, 9000);
    take(0, 0, 5000);
    g.f.p = NULL;
    post(3, 2048, 1);
    struct tx_result r = send_out();
    assert_int_equal(r.why, DROP_BUFFERS_SMALL);
    assert_int_equal(r.n_chains + r.frames, 0);
    assert_null(g.f.p);
    /* even a whole burst of mergeable buffers does not hold it: segments do */
    g.vq.mergeable = true;
    model_random(&t.m, 4, false, 9000);
    take(4, 100, 5000);
    post(RING_BURST, 100, 1);
    r = send_out();
    assert_true(r.frames > 10 && r.need_more && r.n_chains <= RING_BURST);
}

/* A bad chain or an address outside memory half-way: the rest of the frame is dropped, once, and
 * what was touched is given back empty. */
static void test_fault_half_way(void **state)
{
    for (unsigned fault = 0; fault < 2; fault++) {
        g.vq = (struct vq){.takes = 0, .hdr_len = VNET_HDR_LEN};
        model_random(&t.m, 4, false, 9000);
        t.m.tags = 0;
        take(4, 1000, 5000);
        post(RING_BURST, 1500, 1);
        if (fault) {
            g.rb.chain[5].seg.addr = GPA + GUEST_SIZE - 100; /* the end of memory */
        } else {
            g.rb.chain[5] = (struct ring_chain){.id = 5, .fault = RING_FAULT_NEXT_RANGE};
        }
        memset(g.lens, 0xee, sizeof(g.lens));
        g.f.p = NULL;
        struct tx_result r = send_out();
        assert_int_equal(r.why, fault ? DROP_RX_UNMAPPED : DROP_RX_BAD_CHAIN);
        assert_int_equal(r.frames, 5);
        assert_int_equal(r.n_chains, 6);
        assert_int_equal(g.lens[5], 0);
        assert_false(r.need_more);
        assert_null(g.f.p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_random, teardown),
        cmocka_unit_test_teardown(test_boundaries, teardown),
        cmocka_unit_test_teardown(test_sum_of_zero, teardown),
        cmocka_unit_test_teardown(test_dhcp, teardown),
        cmocka_unit_test_teardown(test_tags, teardown),
        cmocka_unit_test_teardown(test_too_small_to_segment, teardown),
        cmocka_unit_test_teardown(test_summed, teardown),
        cmocka_unit_test_setup_teardown(test_into_buffers, guest_setup, guest_teardown),
        cmocka_unit_test_setup_teardown(test_split_instead, guest_setup, guest_teardown),
        cmocka_unit_test_setup_teardown(test_fault_half_way, guest_setup, guest_teardown),
    };

    model_init_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
