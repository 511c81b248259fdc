/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Joining datagrams: what comes out is held against the frame that a sender with USO would have
 * made of the same payload, built by the model (offload_model.h); then everything that must not be
 * joined.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "offload_model.h"
#include "pkt/gro.h"
#include "pkt/offload.h"

#define SNAP   (PKT_SNAP - VNET_HDR_LEN)
#define ROUNDS 500

static struct {
    struct model m;
    struct model_out frame, want;
    struct batch b;
    uint8_t *rest[PKT_BURST]; /* behind the snapshot: allocations of their own */
    uint8_t idx[PKT_BURST];
    struct gro gro;
} t;

static int teardown(void **state)
{
    for (unsigned i = 0; i < PKT_BURST; i++) {
        free(t.rest[i]);
        t.rest[i] = NULL;
    }
    return 0;
}

/* The IPv4 header again, with these flags and no fragment offset. */
static void set_flags(struct model_out *o, uint8_t flags)
{
    uint8_t *ip = o->b + o->l3;

    ip[6] = flags;
    ip[10] = ip[11] = 0;
    uint32_t sum = 65535 - model_sum(ip, 20 + t.m.options, 0);
    ip[10] = (uint8_t)(sum >> 8);
    ip[11] = (uint8_t)sum;
}

/* Plain headers: what can be joined. */
static void random_flow(unsigned ip, uint32_t payload)
{
    model_random(&t.m, ip, true, payload);
    memcpy(t.m.final, t.m.dst, sizeof(t.m.final));
    t.m.options = t.m.n_ext = 0;
    t.m.tags = model_rand(3);
    t.m.to_port = 9; /* not DHCP */
}

/* t.frame as packet i of the batch. */
static void put(unsigned i)
{
    struct pkt *p = &t.b.pkt[i];
    uint32_t snap = t.frame.len < SNAP ? t.frame.len : SNAP;

    *p = (struct pkt){.data = batch_snap(&t.b, i) + VNET_HDR_LEN};
    memcpy(p->data, t.frame.b, snap);
    p->len = t.frame.len;
    p->snap_len = (uint16_t)snap;
    free(t.rest[i]);
    t.rest[i] = malloc(t.frame.len - snap + 1);
    memcpy(t.rest[i], t.frame.b + snap, t.frame.len - snap);
    if (t.frame.len > snap) {
        p->n_spans = 1;
        p->span = (struct gspan){(const uint8_t GUEST *)t.rest[i], t.frame.len - snap};
    }
    struct vnet_hdr said = {.flags = VNET_F_NEEDS_CSUM,
                            .csum_start = (uint16_t)t.frame.l4,
                            .csum_offset = OFFLOAD_UDP_SUM};
    assert_int_equal(offload_check(p, &said, OFFLOAD_ALL), DROP_N);
    t.idx[i] = (uint8_t)i;
    t.b.n = i + 1;
}

static void make(uint32_t step, uint32_t index)
{
    model_segment(&t.frame, &t.m, step, index, MODEL_PARTIAL);
    if (t.m.ip == 4) {
        set_flags(&t.frame, 0x40);
    }
}

/* The first n packets are joined, and are this much of the payload. */
static void check_joined(uint32_t n, uint32_t step, uint32_t payload)
{
    uint32_t at = t.gro.head_len;

    t.m.payload = payload;
    model_frame(&t.want, &t.m, MODEL_PARTIAL);
    if (t.m.ip == 4) {
        set_flags(&t.want, 0x40);
    }
    assert_int_equal(t.gro.head_len, t.want.data);
    assert_memory_equal(t.gro.head, t.want.b, t.want.data);
    for (uint32_t i = 0; i < n; i++) {
        const struct pkt *p = &t.b.pkt[i];
        assert_memory_equal(p->data + t.gro.head_len, t.want.b + at, p->snap_len - t.gro.head_len);
        at += p->snap_len - t.gro.head_len;
        assert_memory_equal(t.rest[i], t.want.b + at, p->len - p->snap_len);
        at += p->len - p->snap_len;
    }
    assert_int_equal(at, t.want.len);
    const struct vnet_hdr *h = &t.gro.h;
    assert_int_equal(h->flags, VNET_F_NEEDS_CSUM);
    assert_int_equal(h->gso_type, VNET_GSO_UDP_L4);
    assert_int_equal(h->gso_size, step);
    assert_int_equal(h->hdr_len, t.want.data);
    assert_int_equal(h->csum_start, t.want.l4);
    assert_int_equal(h->csum_offset, 6);
    assert_int_equal(h->num_buffers, 1);
}

static void test_random(void **state)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint32_t n = 2 + model_rand(PKT_BURST - 1), step = 1 + model_rand(65000 / n);
        uint32_t last = 1 + model_rand(step);

        random_flow(model_rand(2) ? 4 : 6, (n - 1) * step + last);
        for (uint32_t i = 0; i < n; i++) {
            make(step, i);
            put(i);
        }
        assert_int_equal(gro_join(&t.gro, &t.b, t.idx, n), n);
        check_joined(n, step, t.m.payload);
    }
}

static void test_largest(void **state)
{
    for (unsigned ip = 4; ip <= 6; ip += 2) {
        const uint32_t step = 1400, room = 65535 - (ip == 4 ? 28 : 48);

        random_flow(ip, PKT_BURST * step);
        for (uint32_t i = 0; i < PKT_BURST; i++) {
            make(step, i);
            put(i);
        }
        assert_int_equal(gro_join(&t.gro, &t.b, t.idx, PKT_BURST), room / step);
        check_joined(room / step, step, room / step * step);
    }
}

/* A short one is the last, a longer one is not joined, and the list says who is next. */
static void test_lengths(void **state)
{
    random_flow(4, 1000);
    for (unsigned i = 0; i < 4; i++) {
        make(i == 1 ? 299 : 300, i == 1 ? 1 : 0);
        put(i);
    }
    assert_int_equal(gro_join(&t.gro, &t.b, t.idx, 4), 2);
    assert_int_equal(t.gro.h.gso_size, 300);
    assert_int_equal(gro_join(&t.gro, &t.b, t.idx + 1, 3), 1);
    assert_int_equal(gro_join(&t.gro, &t.b, t.idx + 2, 2), 2);
    assert_int_equal(gro_join(&t.gro, &t.b, t.idx + 3, 1), 1);
    t.idx[1] = 2;
    assert_int_equal(gro_join(&t.gro, &t.b, t.idx, 2), 2);
    assert_int_equal(t.gro.h.gso_size, 300);
}

/* ---- what is another flow, or cannot be given back ----------------------------------------- */

static void mac(struct model_out *o)
{
    o->b[11] ^= 1;
}
static void tos(struct model_out *o)
{
    o->b[o->l3 + 1] ^= 4;
    if (t.m.ip == 4) {
        set_flags(o, 0x40);
    }
}
static void ttl(struct model_out *o)
{
    o->b[o->l3 + (t.m.ip == 4 ? 8 : 7)]--;
    if (t.m.ip == 4) {
        set_flags(o, 0x40);
    }
}
static void address(struct model_out *o)
{
    o->b[o->l4 - 1] ^= 1;
    if (t.m.ip == 4) {
        set_flags(o, 0x40);
    }
}
static void from_port(struct model_out *o)
{
    o->b[o->l4 + 1] ^= 1;
}
static void to_port(struct model_out *o)
{
    o->b[o->l4 + 2] ^= 1;
}
static void padding(struct model_out *o)
{
    o->b[o->len++] = 0;
}
static void udp_len(struct model_out *o)
{
    o->b[o->l4 + 5]--;
}
static void ip_len(struct model_out *o)
{
    o->b[o->l3 + (t.m.ip == 4 ? 3 : 5)]--;
    if (t.m.ip == 4) {
        set_flags(o, 0x40);
    }
}
static void no_df(struct model_out *o)
{
    if (t.m.ip == 4) {
        set_flags(o, 0);
    } else {
        mac(o);
    }
}
static void wrong_sum(struct model_out *o)
{
    if (t.m.ip == 4) {
        o->b[o->l3 + 10] ^= 1;
    } else {
        mac(o);
    }
}

static void test_refused(void **state)
{
    static void (*const change[])(struct model_out *) = {
        mac, tos, ttl, address, from_port, to_port, padding, udp_len, ip_len, no_df, wrong_sum};

    for (unsigned ip = 4; ip <= 6; ip += 2) {
        for (unsigned i = 0; i < ARRAY_SIZE(change); i++) {
            random_flow(ip, 1200);
            for (unsigned k = 0; k < 4; k++) {
                make(300, k);
                if (k == 2) {
                    change[i](&t.frame);
                }
                put(k);
            }
            if (gro_join(&t.gro, &t.b, t.idx, 4) != 2 ||
                gro_join(&t.gro, &t.b, t.idx + 2, 2) != 1) {
                fail_msg("IPv%u: change %u was not seen", ip, i);
            }
        }
    }
}

/* Alike, and yet not to be joined: no checksum left to do, options, extension headers, TCP. */
static void test_refused_alike(void **state)
{
    enum { SUMMED, OPTIONS, EXTENSION, TCP, N };

    for (unsigned what = SUMMED; what < N; what++) {
        random_flow(what == EXTENSION ? 6 : 4, 600);
        t.m.options = what == OPTIONS ? 4 : 0;
        t.m.udp = what != TCP;
        t.m.tcp_options = 0;
        if (what == EXTENSION) {
            t.m.n_ext = 1;
            t.m.ext[0] = 60;
            t.m.ext_len[0] = 1;
        }
        for (unsigned k = 0; k < 2; k++) {
            make(300, k);
            if (what == TCP) { /* put() says where a UDP sum would be */
                t.b.pkt[k] = t.b.pkt[0];
                t.b.pkt[k].data = batch_snap(&t.b, k) + VNET_HDR_LEN;
                memcpy(t.b.pkt[k].data, t.frame.b, SNAP);
                t.b.pkt[k].offload = OFFLOAD_CSUM;
            } else {
                put(k);
            }
            t.b.pkt[k].offload = what == SUMMED ? 0 : t.b.pkt[k].offload;
        }
        assert_int_equal(gro_join(&t.gro, &t.b, t.idx, 2), 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_random, teardown),
        cmocka_unit_test_teardown(test_largest, teardown),
        cmocka_unit_test_teardown(test_lengths, teardown),
        cmocka_unit_test_teardown(test_refused, teardown),
        cmocka_unit_test_teardown(test_refused_alike, teardown),
    };

    model_init_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
