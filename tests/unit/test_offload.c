/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a sender may say about its frame, rule by rule: each test begins with a frame that passes
 * and tells one lie.  And the words for offloads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>

#include "offload_model.h"
#include "pkt/offload.h"
#include "vnet/features.h"

#define SNAP (PKT_SNAP - VNET_HDR_LEN)

static struct {
    uint8_t room[VNET_HDR_LEN + SNAP];
    struct model_out frame;
    struct model m;
    struct pkt p;
    struct vnet_hdr said;
} t;

/* A sender's frame and what it truthfully says about it. */
static void frame(unsigned ip, bool udp, uint32_t payload, uint8_t gso_type, uint16_t gso_size)
{
    t.m = (struct model){.ip = ip,
                         .udp = udp,
                         .payload = payload,
                         .flags = 0x18,
                         .tags = t.m.tags,
                         .options = t.m.options,
                         .n_ext = t.m.n_ext,
                         .to_port = t.m.to_port,
                         .ext = {0, 43, 60},
                         .ext_len = {1, 2, 1},
                         .tcp_options = 12};
    model_frame(&t.frame, &t.m, MODEL_PARTIAL);
    t.said = (struct vnet_hdr){.flags = VNET_F_NEEDS_CSUM,
                               .gso_type = gso_type,
                               .gso_size = gso_size,
                               .csum_start = (uint16_t)t.frame.l4,
                               .csum_offset = udp ? 6 : 16};
}

static int check(uint16_t sent)
{
    uint32_t snap = MIN(t.frame.len, (uint32_t)SNAP);

    memset(t.room, 0xee, VNET_HDR_LEN);
    memcpy(t.room + VNET_HDR_LEN, t.frame.b, snap);
    t.p = (struct pkt){.data = t.room + VNET_HDR_LEN,
                       .len = t.frame.len,
                       .snap_len = (uint16_t)snap,
                       .offload = 0xffff};
    return offload_check(&t.p, &t.said, sent);
}

static struct vnet_hdr header(void)
{
    struct vnet_hdr h;

    memcpy(&h, t.room, sizeof(h));
    return h;
}

static int setup(void **state)
{
    memset(&t, 0, sizeof(t));
    t.m.to_port = 4000;
    return 0;
}

/* ---- what passes -------------------------------------------------------------------------- */

static void test_each_kind(void **state)
{
    const struct {
        unsigned ip;
        bool udp;
        uint8_t type;
        uint16_t carries;
    } kind[] = {
        {4, false, VNET_GSO_TCPV4, OFFLOAD_TSO4},
        {6, false, VNET_GSO_TCPV6, OFFLOAD_TSO6},
        {4, false, VNET_GSO_TCPV4 | VNET_GSO_ECN, OFFLOAD_TSO4 | OFFLOAD_ECN},
        {6, false, VNET_GSO_TCPV6 | VNET_GSO_ECN, OFFLOAD_TSO6 | OFFLOAD_ECN},
        {4, true, VNET_GSO_UDP_L4, OFFLOAD_USO4},
        {6, true, VNET_GSO_UDP_L4, OFFLOAD_USO6},
        {4, true, VNET_GSO_UDP, OFFLOAD_UFO},
        {6, true, VNET_GSO_UDP, OFFLOAD_UFO},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(kind); i++) {
        for (t.m.tags = 0; t.m.tags <= 4; t.m.tags++) {
            for (unsigned lie = 0; lie < 3; lie++) {
                frame(kind[i].ip, kind[i].udp, 5000, kind[i].type, 1000);
                t.said.hdr_len = (uint16_t)(lie == 1 ? 0xffff : lie); /* never believed */
                t.said.num_buffers = 0x4711;
                t.said.flags |= lie == 2 ? 0xfe : 0; /* unknown flags are ignored */
                assert_int_equal(check(OFFLOAD_ALL), DROP_N);
                assert_int_equal(t.p.offload, OFFLOAD_CSUM | kind[i].carries);
                struct vnet_hdr h = header();
                assert_int_equal(h.flags, VNET_F_NEEDS_CSUM);
                assert_int_equal(h.gso_type, kind[i].type);
                assert_int_equal(h.gso_size, 1000);
                assert_int_equal(h.hdr_len, t.frame.data);
                assert_int_equal(h.csum_start, t.frame.l4);
                assert_int_equal(h.csum_offset, t.said.csum_offset);
                assert_int_equal(h.num_buffers, 1);
            }
            /* not negotiated: each bit by itself */
            for (uint16_t bit = 1; bit < OFFLOAD_WHOLE_SUM; bit <<= 1) {
                uint16_t needed = OFFLOAD_CSUM | kind[i].carries;

                frame(kind[i].ip, kind[i].udp, 5000, kind[i].type, 1000);
                if (kind[i].type == VNET_GSO_UDP_L4) {
                    needed |= OFFLOAD_USO; /* one feature bit for both */
                }
                assert_int_equal(check(OFFLOAD_ALL & ~bit), bit & needed ? DROP_OFFLOAD : DROP_N);
            }
        }
        t.m.tags = 0;
    }
}

static void test_plain_and_csum(void **state)
{
    frame(4, false, 100, VNET_GSO_NONE, 0);
    assert_int_equal(check(OFFLOAD_CSUM), DROP_N);
    assert_int_equal(t.p.offload, OFFLOAD_CSUM);
    assert_int_equal(header().csum_start, 34);

    /* places mean nothing without the flag, and nothing of what was said stays */
    t.said = (struct vnet_hdr){.flags = VNET_F_DATA_VALID,
                               .hdr_len = 0xffff,
                               .gso_size = 1,
                               .csum_start = 0xffff,
                               .csum_offset = 0xffff,
                               .num_buffers = 9};
    assert_int_equal(check(0), DROP_N);
    assert_int_equal(t.p.offload, 0);
    const struct vnet_hdr plain = {.num_buffers = 1}, h = header();
    assert_memory_equal(&h, &plain, sizeof(plain));

    frame(4, true, 0, VNET_GSO_NONE, 0); /* no payload */
    assert_int_equal(check(OFFLOAD_CSUM), DROP_N);
    frame(4, false, 100, VNET_GSO_NONE, 0);
    assert_int_equal(check(OFFLOAD_ALL & ~OFFLOAD_CSUM), DROP_OFFLOAD);
}

/* Payload of one segment: that is a plain frame with a checksum to complete. */
static void test_one_segment(void **state)
{
    const uint16_t sizes[] = {1, 87, 88, 1000, 1460};

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (unsigned more = 0; more < 2; more++) {
            frame(4, false, sizes[i] + more, VNET_GSO_TCPV4, sizes[i]);
            assert_int_equal(check(OFFLOAD_ALL), DROP_N);
            assert_int_equal(t.p.offload, more ? OFFLOAD_CSUM | OFFLOAD_TSO4 : OFFLOAD_CSUM);
            assert_int_equal(header().gso_type, more ? VNET_GSO_TCPV4 : VNET_GSO_NONE);
            assert_int_equal(header().gso_size, more ? sizes[i] : 0);
            assert_int_equal(header().hdr_len, more ? 66 : 0);
        }
    }
    frame(4, false, 60000, VNET_GSO_TCPV4, 0xfffe);
    assert_int_equal(check(OFFLOAD_ALL), DROP_N);
    assert_int_equal(t.p.offload, OFFLOAD_CSUM);
    frame(6, true, 1992, VNET_GSO_UDP, 2007); /* of the UDP header too, rounded down to 2000 */
    assert_int_equal(check(OFFLOAD_ALL), DROP_N);
    assert_int_equal(t.p.offload, OFFLOAD_CSUM);
    frame(6, true, 1993, VNET_GSO_UDP, 2007);
    assert_int_equal(check(OFFLOAD_ALL), DROP_N);
    assert_int_equal(t.p.offload, OFFLOAD_CSUM | OFFLOAD_UFO);
}

/* Whoever reads raw frames for DHCP does not complete checksums. */
static void test_dhcp(void **state)
{
    const struct {
        unsigned ip;
        uint16_t port;
        bool udp, whole;
    } c[] = {{4, 68, true, true},
             {4, 67, true, false},
             {4, 68, false, false},
             {6, 546, true, true},
             {6, 547, true, false}};

    for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
        for (t.m.tags = 0; t.m.tags < 3; t.m.tags++) {
            t.m.to_port = c[i].port;
            frame(c[i].ip, c[i].udp, 300, VNET_GSO_NONE, 0);
            assert_int_equal(check(OFFLOAD_ALL), DROP_N);
            assert_int_equal(t.p.offload, OFFLOAD_CSUM | (c[i].whole ? OFFLOAD_WHOLE_SUM : 0));
        }
        t.m.tags = 0;
    }
    assert_int_equal(offload_taken(~0ull) & OFFLOAD_WHOLE_SUM, 0);
}

/* ---- lies about the checksum --------------------------------------------------------------- */

static void expect_bad_csum(uint32_t start, uint32_t offset)
{
    t.said.csum_start = (uint16_t)start;
    t.said.csum_offset = (uint16_t)offset;
    if (check(OFFLOAD_ALL) != DROP_BAD_CSUM) {
        fail_msg("csum_start %u, csum_offset %u passed", start, offset);
    }
}

static void test_csum_out_of_frame(void **state)
{
    frame(4, false, 20, VNET_GSO_NONE, 0); /* 34 + 32 + 20 = 86 bytes, all in the snapshot */
    expect_bad_csum(65535, 65535);         /* 65534 in 16 bits */
    expect_bad_csum(65535, 1);
    expect_bad_csum(34, 65535);
    expect_bad_csum(86, 0);
    expect_bad_csum(70, 15); /* one byte of two inside */
    expect_bad_csum(85, 0);
    t.said.csum_start = 70, t.said.csum_offset = 14;
    assert_int_equal(check(OFFLOAD_ALL), DROP_N); /* the last two bytes */

    frame(4, true, 5000, VNET_GSO_NONE, 0);
    expect_bad_csum(SNAP - 1, 0); /* in the frame, and not in the snapshot */
    expect_bad_csum(4000, 0);
    t.said.csum_start = SNAP - 2, t.said.csum_offset = 0;
    assert_int_equal(check(OFFLOAD_ALL), DROP_N);
}

/* Nothing that a decision was made on can be summed over. */
static void test_csum_on_headers(void **state)
{
    for (t.m.tags = 0; t.m.tags < 3; t.m.tags++) {
        for (unsigned ip = 4; ip <= 6; ip += 2) {
            for (unsigned udp = 0; udp < 2; udp++) {
                frame(ip, udp, 100, VNET_GSO_NONE, 0);
                for (uint32_t start = 0; start < t.frame.l4 + 8; start++) {
                    for (uint32_t at = start; at < t.frame.data + 4; at++) {
                        if (start != t.frame.l4 || at != t.frame.l4 + (udp ? 6 : 16)) {
                            expect_bad_csum(start, at - start);
                        }
                    }
                }
            }
        }
    }
}

static void test_csum_where_ip_lies(void **state)
{
    const struct {
        uint32_t at;
        uint8_t v;
    } v4[] = {{14, 0x44},
              {14, 0x40},
              {14, 0x4f} /* of 60 bytes: l4 elsewhere */,
              {20, 0x20} /* MF */,
              {21, 1} /* a later fragment */};

    for (unsigned i = 0; i < ARRAY_SIZE(v4); i++) {
        frame(4, false, 100, VNET_GSO_NONE, 0);
        t.frame.b[v4[i].at] = v4[i].v;
        assert_int_equal(check(OFFLOAD_ALL), DROP_BAD_CSUM);
    }
    frame(6, false, 100, VNET_GSO_NONE, 0);
    t.frame.b[20] = 44; /* a fragment */
    assert_int_equal(check(OFFLOAD_ALL), DROP_BAD_CSUM);
    frame(6, false, 400, VNET_GSO_NONE, 0);
    t.frame.b[20] = 60; /* an option header that does not end in the snapshot */
    t.frame.b[54] = 6, t.frame.b[55] = 200;
    assert_int_equal(check(OFFLOAD_ALL), DROP_BAD_CSUM);
    frame(6, false, 1000, VNET_GSO_NONE, 0);
    t.frame.b[20] = 60;
    for (uint32_t at = 54; at < t.frame.len; at += 8) { /* an endless chain */
        t.frame.b[at] = 60, t.frame.b[at + 1] = 0;
    }
    assert_int_equal(check(OFFLOAD_ALL), DROP_BAD_CSUM);
}

/* Inside a tunnel the guest has its own header far behind ours. */
static void test_csum_in_a_tunnel(void **state)
{
    frame(4, true, 500, VNET_GSO_NONE, 0);
    t.said.csum_start = 14 + 20 + 8 + 8 + 14 + 20;
    t.said.csum_offset = 16;
    assert_int_equal(check(OFFLOAD_ALL), DROP_N);
    assert_int_equal(t.p.offload, OFFLOAD_CSUM);
}

/* ---- lies about segmentation --------------------------------------------------------------- */

static void good(void)
{
    frame(4, false, 5000, VNET_GSO_TCPV4, 1000);
}

static void expect_bad_gso(const char *what)
{
    if (check(OFFLOAD_ALL) != DROP_BAD_GSO) {
        fail_msg("%s passed", what);
    }
}

static void test_gso_header(void **state)
{
    good();
    t.said.flags = 0;
    expect_bad_gso("no NEEDS_CSUM");
    good();
    t.said.gso_size = 0;
    expect_bad_gso("gso_size 0");
    good();
    t.said.gso_size = 0xffff;
    expect_bad_gso("gso_size 0xffff");
    for (unsigned type = 1; type < 256; type++) {
        if (type != VNET_GSO_TCPV4 && type != (VNET_GSO_TCPV4 | VNET_GSO_ECN)) {
            good();
            t.said.gso_type = (uint8_t)type; /* unknown, tunnel bits, or not what the frame is */
            expect_bad_gso("gso_type");
        }
    }
    for (unsigned type = VNET_GSO_UDP; type <= VNET_GSO_UDP_L4; type += 2) {
        frame(4, true, 5000, (uint8_t)type, 1000);
        t.said.gso_type |= VNET_GSO_ECN;
        expect_bad_gso("ECN with UDP");
    }
    frame(6, false, 5000, VNET_GSO_TCPV4, 1000);
    expect_bad_gso("TCPV4 with IPv6");
    frame(4, false, 5000, VNET_GSO_UDP, 1000);
    expect_bad_gso("UDP with TCP");
    frame(6, true, 5000, VNET_GSO_TCPV6, 1000);
    expect_bad_gso("TCP with UDP");
    good();
    t.said.csum_start += 200; /* out of the snapshot */
    assert_int_equal(check(OFFLOAD_ALL), DROP_BAD_CSUM);
    good();
    t.said.csum_start += 40; /* in it, and not where TCP begins */
    expect_bad_gso("csum_start in the payload");
}

static void test_gso_frame(void **state)
{
    good();
    t.frame.len = t.frame.data;
    expect_bad_gso("no payload");
    good();
    t.frame.len = t.frame.data - 1;
    expect_bad_gso("a cut header");
    good();
    t.frame.b[t.frame.l4 + 12] = 0x40;
    expect_bad_gso("doff 4");
    good();
    t.frame.b[t.frame.l4 + 12] = 0xf0;
    assert_int_equal(check(OFFLOAD_ALL),
                     DROP_N); /* 60 bytes: believed, for it is in the snapshot */
    assert_int_equal(header().hdr_len, 34 + 60);

    t.m.tags = 4, t.m.n_ext = 3;
    frame(6, false, 5000, VNET_GSO_TCPV6, 1000); /* 30 + 40 + 32 + 32 */
    assert_int_equal(check(OFFLOAD_ALL), DROP_N);
    t.frame.b[t.frame.l3 + 40 + 8 + 1] = 4; /* the routing header grows: TCP is at 126 */
    t.said.csum_start += 24;
    t.frame.b[126 + 12] = 0xf0; /* ends at 186 */
    t.frame.b[102] = 6;
    t.frame.b[t.frame.l3 + 40 + 8] = 60; /* then destination options, at 118, and TCP */
    t.frame.b[118] = 6, t.frame.b[119] = 0;
    expect_bad_gso("TCP header beyond the snapshot");
    setup(NULL);
    t.m.tags = 5; /* one more would be too many for whoever adds a VLAN's */
    good();
    expect_bad_gso("five tags");
    t.m.tags = 0;
    frame(6, false, 5000, VNET_GSO_TCPV6, 1000);
    t.frame.b[t.frame.l3] = 0x40;
    expect_bad_gso("version 4 under ethertype IPv6");
}

/* A segment must be an IP datagram: total_len has 16 bits. */
static void test_gso_segment_too_long(void **state)
{
    const uint32_t over = 14 + 20 + 32; /* headers */

    frame(4, false, PKT_MAX_LEN - over, VNET_GSO_TCPV4, 65535 - 52);
    assert_int_equal(check(OFFLOAD_ALL), DROP_N);
    assert_int_equal(t.p.offload, OFFLOAD_CSUM | OFFLOAD_TSO4);
    t.said.gso_size++;
    expect_bad_gso("a segment of 65536 bytes");
    frame(4, true, 65535 - 28, VNET_GSO_UDP, 65535 - 20);
    assert_int_equal(check(OFFLOAD_ALL), DROP_N);
    assert_int_equal(t.p.offload, OFFLOAD_CSUM | OFFLOAD_UFO);
    frame(4, true, 65535 - 28 + 1, VNET_GSO_UDP, 65535 - 20);
    expect_bad_gso("fragments of a datagram of 65536 bytes");
}

/* ---- length on the wire ---------------------------------------------------------------------- */

static uint32_t wire_len(void)
{
    assert_int_equal(check(OFFLOAD_ALL), DROP_N);
    return offload_wire_len(&t.p);
}

static void test_wire_len(void **state)
{
    good();
    assert_int_equal(wire_len(), 66 + 1000);
    frame(4, false, 700, VNET_GSO_TCPV4, 1000);
    assert_int_equal(wire_len(), 66 + 700);
    frame(6, true, 5000, VNET_GSO_UDP_L4, 1000);
    assert_int_equal(wire_len(), 14 + 40 + 8 + 1000);
    frame(4, true, 5000, VNET_GSO_UDP, 1007); /* fragments: rounded down, the UDP header counts */
    assert_int_equal(wire_len(), 14 + 20 + 1000);
    frame(6, true, 5000, VNET_GSO_UDP, 1007); /* with a fragment header each */
    assert_int_equal(wire_len(), 14 + 40 + 8 + 1000);
}

/* ---- words and feature bits ------------------------------------------------------------------ */

static void test_words(void **state)
{
    const struct {
        const char *text, *again;
    } good_words[] = {
        {"none", "none"},
        {"csum", "csum"},
        {"tso4", "csum+tso4"}, /* what is segmented needs its sum */
        {"tso", "csum+tso4+tso6+ecn"},
        {"uso6+tso6", "csum+tso6+uso6"},
        {"ecn", "csum"}, /* of TSO */
        {"all", "csum+tso4+tso6+ecn+ufo+uso4+uso6"},
        {"csum+csum", "csum"},
    };
    const char *const bad[] = {"",         "+",    "tso5", "csum+", "+csum",
                               "csum,tso", "CSUM", "csu",  "csumm"};
    char text[64];
    uint16_t mask = 0xffff;

    for (unsigned i = 0; i < ARRAY_SIZE(good_words); i++) {
        assert_int_equal(offload_parse(good_words[i].text, &mask), 0);
        assert_string_equal(offload_text(mask, text, sizeof(text)), good_words[i].again);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(offload_parse(bad[i], &mask), -EINVAL);
    }
}

static void test_features(void **state)
{
    const struct {
        uint16_t mask;
        unsigned host, guest;
    } bit[] = {{OFFLOAD_CSUM, 0, 1},  {OFFLOAD_TSO4, 11, 7}, {OFFLOAD_TSO6, 12, 8},
               {OFFLOAD_ECN, 13, 9},  {OFFLOAD_UFO, 14, 10}, {OFFLOAD_USO4, 56, 54},
               {OFFLOAD_USO6, 56, 55}};

    for (unsigned i = 0; i < ARRAY_SIZE(bit); i++) {
        assert_true(offload_features(bit[i].mask) == (1ull << bit[i].host | 1ull << bit[i].guest));
        assert_true(offload_sent(1ull << bit[i].host) & bit[i].mask);
        assert_int_equal(offload_taken(1ull << bit[i].guest | 2), bit[i].mask | OFFLOAD_CSUM);
        if (i) { /* 5.1.3.1: nothing without GUEST_CSUM */
            assert_int_equal(offload_taken(1ull << bit[i].guest), 0);
        }
    }
    assert_int_equal(offload_sent(~0ull), OFFLOAD_ALL);
    assert_int_equal(offload_taken(~0ull), OFFLOAD_ALL);
    assert_int_equal(offload_features(OFFLOAD_DEFAULT) & 1ull << 14, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_each_kind, setup),
        cmocka_unit_test_setup(test_plain_and_csum, setup),
        cmocka_unit_test_setup(test_one_segment, setup),
        cmocka_unit_test_setup(test_dhcp, setup),
        cmocka_unit_test_setup(test_csum_out_of_frame, setup),
        cmocka_unit_test_setup(test_csum_on_headers, setup),
        cmocka_unit_test_setup(test_csum_where_ip_lies, setup),
        cmocka_unit_test_setup(test_csum_in_a_tunnel, setup),
        cmocka_unit_test_setup(test_gso_header, setup),
        cmocka_unit_test_setup(test_gso_frame, setup),
        cmocka_unit_test_setup(test_gso_segment_too_long, setup),
        cmocka_unit_test_setup(test_wire_len, setup),
        cmocka_unit_test_setup(test_words, setup),
        cmocka_unit_test_setup(test_features, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
