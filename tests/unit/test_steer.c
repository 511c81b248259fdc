/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hash of flows on frames built here byte by byte, and the table of queues against a model that
 * remembers everything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pkt/flowhash.h"
#include "port/steer.h"

/* ---- frames ------------------------------------------------------------------------------------ */

struct end {
    uint8_t mac, addr;
    uint16_t port;
};

struct how {
    int version;     /* 4, 6, or 0: no IP */
    uint8_t proto;
    int n_tags;
    uint16_t frag;   /* IPv4: the flags and offset field */
    uint8_t ext[4];  /* IPv6: extension headers in front of proto, up to the first 0xff */
    uint8_t options; /* IPv4: 32-bit words */
};

static void be16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint32_t put_ip4(uint8_t *p, struct end from, struct end to, const struct how *h)
{
    p[0] = (uint8_t)(0x45 + h->options);
    be16(p + 6, h->frag);
    p[9] = h->proto;
    memcpy(p + 12, (uint8_t[]){10, 0, 0, from.addr}, 4);
    memcpy(p + 16, (uint8_t[]){10, 0, 0, to.addr}, 4);
    return 20 + 4u * h->options;
}

static uint32_t put_ip6(uint8_t *p, struct end from, struct end to, const struct how *h)
{
    uint8_t *next = p + 6;
    uint32_t at = 40;

    p[0] = 0x60;
    p[8] = p[24] = 0xfd;
    p[23] = from.addr;
    p[39] = to.addr;
    for (int i = 0; i < 4 && h->ext[i] != 0xff; i++) {
        *next = h->ext[i];
        next = p + at;
        p[at + 1] = h->ext[i] == 44 ? 0 : (uint8_t)i; /* a length of its own each */
        at += h->ext[i] == 51 ? 4 * (p[at + 1] + 2u) : 8 * (p[at + 1] + 1u);
    }
    *next = h->proto;
    return at;
}

/* Returns its length. */
static uint32_t build(uint8_t f[256], struct end from, struct end to, struct how h)
{
    uint32_t at = 12;

    memset(f, 0, 256);
    f[0] = f[6] = 2;
    f[5] = to.mac;
    f[11] = from.mac;
    for (int i = 0; i < h.n_tags; i++, at += 4) {
        be16(f + at, i + 1 < h.n_tags ? 0x88a8 : 0x8100);
        be16(f + at + 2, (unsigned)(17 + i));
    }
    be16(f + at, h.version == 4 ? 0x0800 : h.version == 6 ? 0x86dd : 0x88b5);
    at += 2;
    at += h.version == 4 ? put_ip4(f + at, from, to, &h)
                         : h.version == 6 ? put_ip6(f + at, from, to, &h) : 0;
    be16(f + at, from.port);
    be16(f + at + 2, to.port);
    return at + 20;
}

static uint32_t hash_of(struct end from, struct end to, struct how h)
{
    uint8_t f[256];
    uint32_t len = build(f, from, to, h);

    return flow_hash(f, len);
}

static const struct end A = {1, 10, 40000}, B = {2, 20, 5201};
#define NO_EXT {0xff, 0xff, 0xff, 0xff}

static const struct how forms[] = {
    {4, 6, 0, 0, NO_EXT, 0},       {4, 17, 0, 0x4000, NO_EXT, 0}, {4, 132, 1, 0, NO_EXT, 5},
    {4, 1, 0, 0, NO_EXT, 0},       {4, 17, 2, 0x2000, NO_EXT, 0}, {4, 17, 0, 0x00b9, NO_EXT, 0},
    {6, 6, 0, 0, NO_EXT, 0},       {6, 17, 2, 0, NO_EXT, 0},      {6, 58, 0, 0, NO_EXT, 0},
    {6, 6, 0, 0, {0, 60, 43, 0xff}, 0}, {6, 17, 0, 0, {44, 0xff, 0xff, 0xff}, 0},
    {6, 17, 1, 0, {60, 44, 0xff, 0xff}, 0}, {0, 0, 0, 0, NO_EXT, 0}, {0, 0, 2, 0, NO_EXT, 0},
    {6, 6, 0, 0, {51, 0xff, 0xff, 0xff}, 0}, {4, 51, 0, 0, NO_EXT, 0}, {4, 6, 5, 0, NO_EXT, 0},
};

static void test_symmetric(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
        for (unsigned k = 0; k < 200; k++) {
            struct end a = {(uint8_t)(k + 3), (uint8_t)(k * 7), (uint16_t)(k * 7919)}, b = B;

            assert_int_equal(hash_of(a, b, forms[i]), hash_of(b, a, forms[i]));
        }
    }
}

/* What is in the hash of which form, and what is not. */
static void test_what_counts(void **state)
{
    static const struct {
        bool ports, addr, mac;
    } counts[ARRAY_SIZE(forms)] = {
        {true, true, false},  {true, true, false},  {true, true, false}, {false, true, false},
        {false, true, false}, {false, true, false}, {true, true, false}, {true, true, false},
        {false, true, false}, {true, true, false},  {false, true, false}, {false, true, false},
        {false, false, true}, {false, false, true},
        {false, true, false}, {false, true, false}, {true, true, false},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
        uint32_t h = hash_of(A, B, forms[i]);
        struct end port = A, addr = A, mac = A;

        port.port++;
        addr.addr++;
        mac.mac++;
        assert_int_equal(hash_of(port, B, forms[i]) != h, counts[i].ports);
        assert_int_equal(hash_of(addr, B, forms[i]) != h, counts[i].addr);
        assert_int_equal(hash_of(mac, B, forms[i]) != h, counts[i].mac);
    }
}

static void test_tags_and_fragments(void **state)
{
    struct how udp = {4, 17, 0, 0, NO_EXT, 0}, first = udp, later = udp, tagged = udp;

    first.frag = 0x2000;
    later.frag = 0x2010;
    tagged.n_tags = 2;
    assert_int_equal(hash_of(A, B, first), hash_of(A, B, later));
    assert_int_not_equal(hash_of(A, B, first), hash_of(A, B, udp));
    assert_int_equal(hash_of(A, B, tagged), hash_of(A, B, udp));
    /* protocols with the same ports are different flows */
    struct how tcp = udp;
    tcp.proto = 6;
    assert_int_not_equal(hash_of(A, B, tcp), hash_of(A, B, udp));
    /* the ports of one end do not mix with the address of the other */
    struct end a = {1, 10, 5201}, b = {2, 20, 40000};
    assert_int_not_equal(hash_of(a, b, udp), hash_of(A, B, udp));
}

/* A frame cut off anywhere is hashed by what is there, and nothing behind it is read. */
static void test_cut_off(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
        uint8_t f[256];
        uint32_t full = build(f, A, B, forms[i]);

        for (uint32_t len = PKT_MIN_LEN; len <= full; len++) {
            uint8_t *exact = malloc(len), other[256];

            memcpy(exact, f, len);
            memset(other, 0xff, sizeof(other));
            memcpy(other, f, len);
            assert_int_equal(flow_hash(exact, len), flow_hash(other, len));
            free(exact);
        }
    }
}

/* Anything at all: lengths that lie, headers without an end. Under ASan this is a bounds test. */
static void test_noise(void **state)
{
    srand(1);
    for (unsigned n = 0; n < 100000; n++) {
        uint32_t len = PKT_MIN_LEN + (uint32_t)rand() % 170;
        uint8_t *f = malloc(len);

        for (uint32_t i = 0; i < len; i++) {
            f[i] = (uint8_t)rand();
        }
        be16(f + 12, n % 2 ? 0x86dd : 0x0800);
        if (len > 20) {
            f[14] = n % 2 ? 0x60 : (uint8_t)(0x40 | (rand() & 15));
            f[20] = n % 2 ? (uint8_t[]){0, 43, 60, 51}[rand() % 4] : f[20];
        }
        flow_hash(f, len);
        free(f);
    }
}

/* Flows that differ in one port only are spread evenly over any number of queues. */
static void test_spread(void **state)
{
    enum { N = 20000 };

    for (unsigned queues = 2; queues <= 128; queues += 7) {
        unsigned count[128] = {0};

        for (unsigned k = 0; k < N; k++) {
            struct end a = {1, 10, (uint16_t)(1024 + k)};

            count[(uint64_t)hash_of(a, B, forms[0]) * queues >> 32]++;
        }
        for (unsigned q = 0; q < queues; q++) {
            assert_in_range(count[q] * queues, N / 2, 2 * N);
        }
    }
}

/* ---- the table --------------------------------------------------------------------------------- */

static void test_table_against_model(void **state)
{
    enum { FLOWS = 2000, STEPS = 200000 };
    static int model[FLOWS];
    struct steer *s = steer_create();
    uint32_t x = 12345;

    memset(model, -1, sizeof(model));
    steer_set_now(0);
    for (unsigned n = 0; n < STEPS; n++) {
        x = x * 1664525 + 1013904223;
        unsigned flow = (x >> 8) % FLOWS;
        uint32_t hash = flow * 2654435761u;
        int was = steer_find(s, hash);

        /* what is known is right; once known, it stays known as long as nothing grows old */
        assert_true(was == -1 ? model[flow] == -1 : was == model[flow]);
        if (x & 0x80) {
            steer_learn(s, hash, (uint8_t)(x & 0x7f));
            if (was != -1 || steer_find(s, hash) != -1) {
                model[flow] = (int)(x & 0x7f);
            }
        }
    }
    unsigned known = 0;
    for (unsigned i = 0; i < FLOWS; i++) {
        known += model[i] != -1;
    }
    assert_true(known > FLOWS * 9 / 10);
    steer_destroy(s);
}

/* More flows of one bucket than it holds: those that are in stay, the others wait. */
static void test_full_bucket(void **state)
{
    struct steer *s = steer_create();

    steer_set_now(100);
    for (uint32_t i = 0; i < STEER_WAYS + 2; i++) {
        steer_learn(s, 7 + i * STEER_BUCKETS, (uint8_t)i);
    }
    for (uint32_t i = 0; i < STEER_WAYS + 2; i++) {
        assert_int_equal(steer_find(s, 7 + i * STEER_BUCKETS), i < STEER_WAYS ? (int)i : -1);
    }
    /* a flow that moves is followed at once */
    steer_learn(s, 7, 99);
    assert_int_equal(steer_find(s, 7), 99);
    /* time passes; only flow 0 goes on */
    steer_set_now(100 + STEER_KEEP_S);
    assert_int_equal(steer_find(s, 7 + STEER_BUCKETS), 1);
    steer_learn(s, 7, 99);
    steer_learn(s, 7 + STEER_WAYS * STEER_BUCKETS, 55);
    assert_int_equal(steer_find(s, 7), 99);
    assert_int_equal(steer_find(s, 7 + STEER_WAYS * STEER_BUCKETS), 55);
    assert_int_equal(steer_find(s, 7 + STEER_BUCKETS), -1); /* it was the first of the old ones */
    steer_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_symmetric),           cmocka_unit_test(test_what_counts),
        cmocka_unit_test(test_tags_and_fragments),  cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_noise),               cmocka_unit_test(test_spread),
        cmocka_unit_test(test_table_against_model), cmocka_unit_test(test_full_bucket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
