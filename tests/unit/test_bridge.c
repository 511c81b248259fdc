/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the bridge does with frames, over dummy ports, one worker without a thread, and a clock that
 * is moved by hand: nothing here waits and nothing depends on the machine.
 *
 *     a ---+
 *     b ---+--- br0          each test adds the ports it needs;
 *     c ---+                 station N has the address 02:00:00:00:00:N
 */
#ifndef COPY_COUNT
#define COPY_COUNT /* as the library that this is linked with */
#endif

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <event2/event.h>

#include "base/clock.h"
#include "dp/dp.h"
#include "pkt/copy.h"
#include "port/port_dummy.h"

#define SECOND   1000000000ull
#define MAC_SIZE 1000

static struct event_base *base;
static struct dp *dp;
static struct err err;

/* ---- helpers ------------------------------------------------------------------------------ */

struct mac {
    uint8_t b[6];
};
static const struct mac BROADCAST = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
static const struct mac MULTICAST = {{0x01, 0x00, 0x5e, 0x00, 0x00, 0x01}};

static struct mac station(uint32_t n)
{
    return (struct mac){
        {0x02, 0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n}};
}

static int new_switch(void)
{
    struct dp_conf c = {.evbase = base,
                        .rundir = "/nonexistent",
                        .n_workers = 1,
                        .mac_size = MAC_SIZE,
                        .no_threads = true};
    memset(&err, 0, sizeof(err));
    return dp_create(&dp, &c, &err);
}

static int setup(void **state)
{
    base = event_base_new();
    clock_stop();
    return new_switch();
}

static int teardown(void **state)
{
    dp_destroy(dp);
    event_base_free(base);
    return 0;
}

static struct port *add(const char *arg)
{
    struct port_conf c;

    assert_int_equal(port_conf_parse(&c, arg, &err), 0);
    if (dp_port_add(dp, &c, &err)) {
        fail_msg("%s: %s", arg, err.text);
    }
    struct port *p = dp_port(dp, c.name);
    port_conf_free(&c);
    assert_non_null(p);
    return p;
}

static uint32_t run(void)
{
    uint32_t n = 0, got;

    for (unsigned i = 0; i < 100000 && (got = dp_run_once(dp)); i++) {
        n += got;
    }
    return n;
}

/* A frame with a recognisable payload: each byte depends on its place and on the sender. */
static void fill(uint8_t *f, struct mac dst, struct mac src, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        f[i] = (uint8_t)(i * 7 + src.b[5]);
    }
    memcpy(f, dst.b, MIN(len, 6u));
    if (len >= 12) {
        memcpy(f + 6, src.b, 6);
    }
}

static void say_len(struct port *from, struct mac dst, struct mac src, uint32_t len)
{
    uint8_t *f = malloc(len + 1);

    fill(f, dst, src, len);
    dummy_inject(from, f, len);
    free(f);
    run();
}

static void say(struct port *from, struct mac dst, struct mac src)
{
    say_len(from, dst, src, 60);
}

/* How many frames arrived since the last look. */
static unsigned took(struct port *p)
{
    unsigned n = dummy_n_sent(p);

    dummy_clear(p);
    return n;
}

static uint64_t drops(const struct port *p, enum drop why)
{
    struct port_counters c;

    port_counters_sum(p, &c);
    return c.drop[why];
}

static uint64_t all_drops(const struct port *p)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < DROP_N; i++) {
        n += drops(p, (enum drop)i);
    }
    return n;
}

/* Time passes, one tick per second as the timer would have it. */
static void seconds(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        clock_warp(SECOND);
        dp_tick(dp);
    }
}

/* The second bridge of some tests, or a changed first one. */
static void bridge(const char *name, unsigned age, bool forward_reserved)
{
    struct bridge_conf c = {.age = age, .forward_reserved = forward_reserved};

    snprintf(c.name, sizeof(c.name), "%s", name);
    assert_int_equal(dp_bridge_set(dp, &c, &err), 0);
}

/* ---- where frames go ---------------------------------------------------------------------- */

static void test_learning(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");

    say(a, station(2), station(1)); /* nobody knows 2 yet */
    assert_int_equal(took(b), 1);
    assert_int_equal(took(c), 1);
    assert_int_equal(took(a), 0);
    say(b, station(1), station(2)); /* 1 is behind a */
    assert_int_equal(took(a), 1);
    assert_int_equal(took(c), 0);
    say(a, station(2), station(1));
    assert_int_equal(took(b), 1);
    assert_int_equal(took(c), 0);
    assert_int_equal(mactab_total(dp_mactab(dp)), 2);
    assert_int_equal(all_drops(a) + all_drops(b) + all_drops(c), 0);
}

static void test_broadcast_and_multicast(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");

    say(b, station(9), station(2));
    took(a);
    took(c);
    const struct mac groups[] = {BROADCAST, MULTICAST};
    for (unsigned i = 0; i < ARRAY_SIZE(groups); i++) {
        say(a, groups[i], station(1));
        assert_int_equal(took(b), 1);
        assert_int_equal(took(c), 1);
        assert_int_equal(took(a), 0);
    }
}

static void test_bytes_arrive(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy");
    uint8_t *want = malloc(PKT_MAX_LEN);
    const uint32_t lens[] = {14, 15, 60, 61, 179, 180, 181, 192, 193, 1514, 9014, PKT_MAX_LEN};

    for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
        uint32_t len;
        say_len(a, station(2), station(1), lens[i]);
        assert_int_equal(dummy_n_sent(b), 1);
        const uint8_t *got = dummy_sent(b, 0, &len);
        assert_int_equal(len, lens[i]);
        fill(want, station(2), station(1), len);
        assert_memory_equal(got, want, len);
        took(b);
    }
    free(want);
}

/* However the sender cuts its frame into runs, the same bytes arrive. */
static void test_frames_in_pieces(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy");
    enum { LEN = 700 };
    uint8_t want[LEN];
    const unsigned pieces[] = {1, 2, 3, 5, 13, 14, 50, 171, 200, 699};

    fill(want, station(2), station(1), LEN);
    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
        struct iovec iov[LEN];
        unsigned n = 0, len;
        for (unsigned at = 0; at < LEN; at += pieces[i], n++) {
            iov[n] = (struct iovec){want + at, MIN(pieces[i], LEN - at)};
        }
        for (unsigned k = 0; k < 5; k++) { /* several of them: the pool of spans is shared */
            dummy_injectv(a, iov, n);
        }
        assert_int_equal(run(), 5);
        assert_int_equal(dummy_n_sent(b), 5);
        for (unsigned k = 0; k < 5; k++) {
            assert_memory_equal(dummy_sent(b, k, &len), want, LEN);
            assert_int_equal(len, LEN);
        }
        took(b);
    }
}

/* One copy per receiver and a snapshot per frame, not a byte more. */
static void test_copied_bytes(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");
    const uint32_t lens[] = {60, 180, 1514, 65549}, snap = PKT_SNAP - VNET_HDR_LEN;

    say(b, station(1), station(2));
    for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
        uint64_t before = copy_bytes_counted;
        for (unsigned k = 0; k < 100; k++) {
            say_len(a, station(2), station(1), lens[i]);
        }
        assert_int_equal(copy_bytes_counted - before, 100 * (lens[i] + MIN(lens[i], snap)));
        before = copy_bytes_counted;
        say_len(a, BROADCAST, station(1), lens[i]);
        assert_int_equal(copy_bytes_counted - before, 2 * lens[i] + MIN(lens[i], snap));
    }
    assert_true(took(b) == 404 && took(c) >= 4);
}

/* Frames between two ports keep their order, whatever is mixed among them. */
static void test_order(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");
    unsigned seed = 3, next = 0;
    uint32_t len;

    say(b, station(9), station(2));
    say(c, station(9), station(3));
    took(a), took(b), took(c);
    for (unsigned i = 0; i < 1000; i++) {
        uint8_t f[64];
        const struct mac dst[] = {station(2), station(3), BROADCAST, station(77)};
        fill(f, dst[rand_r(&seed) % 4], station(1), sizeof(f));
        memcpy(f + 20, &i, sizeof(i));
        dummy_inject(a, f, sizeof(f));
    }
    assert_int_equal(run(), 1000);
    for (unsigned i = 0; i < dummy_n_sent(b); i++) {
        unsigned number;
        const uint8_t *f = dummy_sent(b, i, &len);
        memcpy(&number, f + 20, sizeof(number));
        assert_true(number >= next);
        assert_int_not_equal(f[5], 3); /* nothing that is for station 3 alone */
        next = number + 1;
    }
    assert_true(dummy_n_sent(b) > 700 && dummy_n_sent(c) > 700);
}

/* A port that has work for ever gets its share per round, and not more. */
static void test_flood_starves_nobody(void **state)
{
    struct port *evil = add("evil=dummy"), *b = add("b=dummy"), *c = add("c=dummy");
    uint8_t f[60];

    say(c, BROADCAST, station(3));
    took(evil), took(b);
    fill(f, station(3), station(1), sizeof(f));
    for (unsigned i = 0; i < 10000; i++) {
        dummy_inject(evil, f, sizeof(f));
    }
    fill(f, station(3), station(2), sizeof(f));
    for (unsigned i = 0; i < 10; i++) {
        dummy_inject(b, f, sizeof(f));
    }
    assert_true(dp_run_once(dp) < 1000);
    assert_int_equal(dummy_n_pending(b), 0); /* all of b's in the first round */
    assert_true(dummy_n_pending(evil) > 9000);
    dummy_clear(c);
    run();
    assert_int_equal(dummy_n_pending(evil), 0);
}

/* ---- the MAC table's life ----------------------------------------------------------------- */

static void test_station_moves(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");

    say(a, BROADCAST, station(1));
    say(c, BROADCAST, station(1)); /* the station was migrated */
    took(a), took(b), took(c);
    say(b, station(1), station(2));
    assert_int_equal(took(c), 1);
    assert_int_equal(took(a), 0);
    assert_int_equal(mactab_moves(dp_mactab(dp)), 1);
}

static void test_ageing(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");

    bridge("br0", 60, false);
    say(a, BROADCAST, station(1));
    seconds(40);
    say(b, BROADCAST, station(2)); /* 2 is heard later than 1 */
    took(a), took(b), took(c);
    seconds(19);
    say(c, station(1), station(3));
    assert_int_equal(took(a), 1);
    assert_int_equal(took(b), 0);
    seconds(20); /* 1 is 79 s old, 2 is 39 s old */
    say(c, station(1), station(3));
    assert_int_equal(took(a), 1);
    assert_int_equal(took(b), 1); /* flooded */
    say(c, station(2), station(3));
    assert_int_equal(took(a), 0);
    assert_int_equal(took(b), 1);
}

static void test_traffic_keeps_an_address(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");

    bridge("br0", 60, false);
    for (unsigned i = 0; i < 10; i++) {
        say(a, BROADCAST, station(1));
        seconds(50);
    }
    took(a), took(b), took(c);
    say(b, station(1), station(2));
    assert_int_equal(took(a), 1);
    assert_int_equal(took(c), 0);
}

static void test_limit(void **state)
{
    struct port *a = add("a=dummy,mac-limit=3"), *b = add("b=dummy"), *c = add("c=dummy");
    struct mactab *t = dp_mactab(dp);

    for (uint32_t i = 1; i <= 10; i++) {
        say(a, BROADCAST, station(i));
    }
    assert_int_equal(mactab_count(t, a->id), 3);
    assert_int_equal(mactab_limited(t, a->id), 7);
    took(a), took(b), took(c);
    say(b, station(3), station(20)); /* learnt */
    assert_int_equal(took(c), 0);
    say(b, station(4), station(20)); /* not learnt: floods, so it works all the same */
    assert_int_equal(took(c), 1);
    assert_int_equal(took(a), 2);

    assert_int_equal(dp_port_set(dp, "a", "mac-limit", "5", &err), 0);
    for (uint32_t i = 1; i <= 10; i++) {
        say(a, BROADCAST, station(i));
    }
    assert_int_equal(mactab_count(t, a->id), 5);
}

/* A guest that sends from more addresses than the table holds harms its own traffic only. */
static void test_attacker_displaces_nobody(void **state)
{
    struct port *evil = add("evil=dummy"), *b = add("b=dummy"), *c = add("c=dummy");
    uint8_t f[60];

    for (uint32_t i = 1; i <= 100; i++) {
        say(b, station(1 << 20), station(i));
    }
    for (uint32_t i = 0; i < 5 * MAC_SIZE; i++) {
        fill(f, BROADCAST, station(1000 + i), sizeof(f));
        dummy_inject(evil, f, sizeof(f));
    }
    run();
    took(evil), took(b), took(c);
    for (uint32_t i = 1; i <= 100; i++) {
        say(c, station(i), station(200));
    }
    assert_int_equal(took(b), 100);
    assert_int_equal(took(evil), 0);
    for (uint32_t i = 300; i < 400; i++) { /* and there is room for newcomers */
        say(b, station(1 << 20), station(i));
        say(c, station(i), station(200));
    }
    took(b), took(evil);
    say(c, station(399), station(200));
    assert_int_equal(took(b), 1);
    assert_int_equal(took(evil), 0);
    assert_true(mactab_count(dp_mactab(dp), evil->id) <= MAC_SIZE / 2);
    assert_true(mactab_limited(dp_mactab(dp), evil->id) >= 4 * MAC_SIZE);
}

static void test_static_entries(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");
    const struct mac one = station(1);

    assert_int_equal(dp_mac_add(dp, "a", one.b, 0, &err), 0);
    say(b, station(1), station(2));
    assert_int_equal(took(a), 1);
    assert_int_equal(took(c), 0);
    say(c, BROADCAST, station(1)); /* an impostor */
    took(a), took(b);
    bridge("br0", 60, false);
    seconds(200);
    assert_int_equal(dp_mac_flush(dp, NULL, NULL, 0, &err), 0);
    say(b, station(1), station(2));
    assert_int_equal(took(a), 1);
    assert_int_equal(took(c), 0);
    assert_int_equal(dp_mac_add(dp, "c", one.b, 0, &err), -EEXIST);
    assert_int_equal(dp_mac_add(dp, "nobody", one.b, 0, &err), -ENOENT);
    assert_int_equal(dp_mac_add(dp, "a", BROADCAST.b, 0, &err), -EINVAL);
    assert_int_equal(dp_mac_del(dp, NULL, one.b, 0, &err), 0);
    assert_int_equal(dp_mac_del(dp, NULL, one.b, 0, &err), -ENOENT);
    say(b, station(1), station(2));
    assert_int_equal(took(c), 1);
}

static void test_flush(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *x = add("x=dummy,bridge=br1");
    struct mactab *t = dp_mactab(dp);

    say(a, BROADCAST, station(1));
    say(b, BROADCAST, station(2));
    say(x, BROADCAST, station(1));
    assert_int_equal(mactab_total(t), 3);
    assert_int_equal(dp_mac_flush(dp, NULL, "a", 0, &err), 1);
    assert_int_equal(dp_mac_flush(dp, "br1", NULL, 0, &err), 1);
    assert_int_equal(mactab_count(t, b->id), 1);
    assert_int_equal(dp_mac_flush(dp, NULL, NULL, 0, &err), 1);
    assert_true(dp_mac_flush(dp, "br7", NULL, 0, &err) < 0);
    assert_true(dp_mac_flush(dp, NULL, "nobody", 0, &err) < 0);
    assert_int_equal(mactab_total(t), 0);
}

static void test_deleted_port_is_forgotten(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");
    const struct mac nine = station(9);

    assert_int_equal(dp_mac_add(dp, "c", nine.b, 0, &err), 0);
    say(c, BROADCAST, station(3));
    assert_int_equal(dp_port_del(dp, "c", &err), 0);
    assert_int_equal(mactab_total(dp_mactab(dp)), 0);
    took(a), took(b);
    say(a, station(3), station(1));
    say(a, station(9), station(1));
    assert_int_equal(took(b), 2); /* flooded to who is left */

    struct port *again = add("c=dummy"); /* the number is reused, the addresses are not */
    say(b, station(3), station(2));
    assert_int_equal(took(a), 1);
    assert_int_equal(took(again), 1);
    assert_int_equal(dp_port_del(dp, "nobody", &err), -ENOENT);
}

/* ---- what is not forwarded ---------------------------------------------------------------- */

static void test_reserved_addresses(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy");
    struct mac dst = {{0x01, 0x80, 0xc2, 0x00, 0x00, 0x00}};

    for (unsigned i = 0; i < 16; i++) {
        dst.b[5] = (uint8_t)i;
        say(a, dst, station(1));
    }
    assert_int_equal(took(b), 0);
    assert_int_equal(drops(a, DROP_RESERVED), 16);
    assert_int_equal(all_drops(b), 0);
    dst.b[5] = 0x10; /* the first one that is not reserved */
    say(a, dst, station(1));
    assert_int_equal(took(b), 1);

    bridge("br0", 300, true);
    for (unsigned i = 0; i < 16; i++) {
        dst.b[5] = (uint8_t)i;
        say(a, dst, station(1));
    }
    assert_int_equal(took(b), 16);
    assert_int_equal(drops(a, DROP_RESERVED), 16);
}

static void test_bridges_are_apart(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy");
    struct port *x = add("x=dummy,bridge=br1"), *y = add("y=dummy,bridge=br1");

    say(a, BROADCAST, station(1));
    say(x, BROADCAST, station(1)); /* the same address on both: no move */
    assert_int_equal(took(b), 1);
    assert_int_equal(took(y), 1);
    assert_int_equal(took(a) + took(x), 0);
    assert_int_equal(mactab_moves(dp_mactab(dp)), 0);
    say(b, station(1), station(2));
    assert_int_equal(took(a), 1);
    assert_int_equal(took(x) + took(y), 0);
    say(y, station(2), station(4)); /* unknown here, though br0 knows it */
    assert_int_equal(took(x), 1);
    assert_int_equal(took(a) + took(b), 0);
    assert_string_equal(dp_port_bridge(dp, x), "br1");
    assert_int_equal(dp_bridge_del(dp, "br1", &err), -EBUSY);
    assert_int_equal(dp_port_del(dp, "x", &err), 0);
    assert_int_equal(dp_port_del(dp, "y", &err), 0);
    assert_int_equal(dp_bridge_del(dp, "br1", &err), 0);
    assert_int_equal(dp_bridge_del(dp, "br1", &err), -ENOENT);
}

static void test_isolated_ports(void **state)
{
    struct port *a = add("a=dummy,isolated=yes"), *b = add("b=dummy,isolated=yes");
    struct port *up = add("up=dummy");

    say(a, BROADCAST, station(1));
    assert_int_equal(took(up), 1);
    assert_int_equal(took(b), 0);
    say(b, station(1), station(2)); /* known, and not allowed */
    assert_int_equal(took(a) + took(up), 0);
    assert_int_equal(drops(b, DROP_ISOLATED), 1);
    say(b, station(3), station(2)); /* unknown: to those that may have it */
    assert_int_equal(took(up), 1);
    assert_int_equal(took(a), 0);
    say(up, BROADCAST, station(3));
    assert_int_equal(took(a), 1);
    assert_int_equal(took(b), 1);
    say(a, station(3), station(1));
    assert_int_equal(took(up), 1);
    assert_true(dp_port_isolated(dp, a));

    assert_int_equal(dp_port_set(dp, "a", "isolated", "no", &err), 0);
    say(b, station(1), station(2));
    assert_int_equal(took(a), 1);
    assert_int_equal(dp_port_set(dp, "a", "isolated", "maybe", &err), -EINVAL);
}

static void test_hairpin(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy");

    say(a, BROADCAST, station(1));
    say(a, BROADCAST, station(2));
    took(b);
    say(a, station(2), station(1)); /* both are behind a */
    say(a, station(1), station(1)); /* to itself */
    assert_int_equal(took(a) + took(b), 0);
    assert_int_equal(drops(a, DROP_HAIRPIN), 2);
    assert_int_equal(all_drops(b), 0);
}

static void test_multicast_source(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy");

    say(a, station(2), MULTICAST);
    say(a, station(2), BROADCAST);
    assert_int_equal(took(b), 0);
    assert_int_equal(drops(a, DROP_SRC_MULTICAST), 2);
    assert_int_equal(mactab_total(dp_mactab(dp)), 0);
}

static void test_runt_and_giant(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy");

    for (uint32_t len = 0; len < PKT_MIN_LEN; len++) {
        say_len(a, BROADCAST, station(1), len);
    }
    say_len(a, BROADCAST, station(1), PKT_MAX_LEN + 1);
    assert_int_equal(took(b), 0);
    assert_int_equal(drops(a, DROP_RUNT), PKT_MIN_LEN);
    assert_int_equal(drops(a, DROP_GIANT), 1);
    say_len(a, BROADCAST, station(1), PKT_MIN_LEN);
    say_len(a, BROADCAST, station(1), PKT_MAX_LEN);
    assert_int_equal(took(b), 2);
}

/* A receiver's trouble is counted at the receiver, and nobody else suffers from it. */
static void test_receiver_drops(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy,mtu=1500"), *c = add("c=dummy");

    say(b, BROADCAST, station(2));
    took(a), took(c);
    dummy_set_room(b, 5);
    for (unsigned i = 0; i < 8; i++) {
        say(a, BROADCAST, station(1));
    }
    assert_int_equal(took(b), 5);
    assert_int_equal(took(c), 8);
    assert_int_equal(drops(b, DROP_NO_BUFFERS), 3);
    say_len(a, station(2), station(1), 1514);
    say_len(a, station(2), station(1), 1515);
    assert_int_equal(took(b), 1);
    assert_int_equal(drops(b, DROP_MTU), 1);
    assert_int_equal(dp_port_set(dp, "b", "mtu", "9000", &err), 0);
    say_len(a, station(2), station(1), 9014);
    assert_int_equal(took(b), 1);
    assert_int_equal(all_drops(a) + all_drops(c), 0);
}

static void test_unplugged(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");

    say(b, BROADCAST, station(2));
    took(a), took(c);
    dummy_set_ready(b, false);
    say(a, station(2), station(1)); /* known to be behind b */
    assert_int_equal(took(b) + took(c), 0);
    assert_int_equal(drops(b, DROP_NOT_READY), 1);
    say(a, BROADCAST, station(1)); /* a flood passes it by and is no drop */
    assert_int_equal(took(c), 1);
    assert_int_equal(drops(b, DROP_NOT_READY), 1);
    dummy_set_ready(c, false);
    say(a, BROADCAST, station(1));
    assert_int_equal(drops(a, DROP_NO_PORTS), 1);
    dummy_set_ready(b, true);
    say(a, station(2), station(1));
    assert_int_equal(took(b), 1);
}

/* link=down: what is for the port and what it sends is dropped, and that is why. */
static void test_link_down(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy,link=down"), *c = add("c=dummy");

    say(a, BROADCAST, station(1));
    assert_int_equal(took(b), 0);
    assert_int_equal(took(c), 1);
    assert_int_equal(drops(b, DROP_LINK_DOWN), 0); /* a flood passes it by and is no drop */
    assert_int_equal(dp_port_set(dp, "b", "link", "up", &err), 0);
    say(b, station(1), station(2));
    assert_int_equal(took(a), 1);
    assert_int_equal(dp_port_set(dp, "b", "link", "down", &err), 0);
    say(a, station(2), station(1));
    assert_int_equal(drops(b, DROP_LINK_DOWN), 1);
    say(b, station(1), station(2));
    assert_int_equal(drops(b, DROP_LINK_DOWN), 2);
    assert_int_equal(took(a) + took(b), 0);
    assert_true(dp_port_set(dp, "b", "link", "sideways", &err) < 0);
    assert_int_equal(dp_port_set(dp, "b", "link", "up", &err), 0);
    say(a, station(2), station(1));
    assert_int_equal(took(b), 1);
    assert_int_equal(all_drops(a) + all_drops(c), 0);
}

static void test_alone(void **state)
{
    struct port *a = add("a=dummy");

    say(a, BROADCAST, station(1));
    say(a, station(2), station(1));
    assert_int_equal(took(a), 0);
    assert_int_equal(drops(a, DROP_NO_PORTS), 2);
}

/* Every frame that came in went out or has a reason: nothing vanishes. */
static void test_every_frame_is_accounted_for(void **state)
{
    enum { N = 5, FRAMES = 20000 };
    struct port *p[N];
    unsigned seed = 8;
    uint64_t in = 0, out = 0, lost = 0;

    for (unsigned i = 0; i < N; i++) {
        char arg[64];
        snprintf(arg, sizeof(arg), "p%u=dummy,depth=1000000%s", i, i < 2 ? ",isolated=yes" : "");
        p[i] = add(arg);
    }
    for (unsigned i = 0; i < N; i++) { /* from here on every station is known: no floods */
        say(p[i], BROADCAST, station(i));
    }
    for (unsigned i = 0; i < N; i++) {
        took(p[i]);
    }
    dummy_set_ready(p[3], false);
    dummy_set_room(p[4], 1000);
    struct port_counters before[N], after[N];
    for (unsigned i = 0; i < N; i++) {
        port_counters_sum(p[i], &before[i]);
    }
    for (unsigned k = 0; k < FRAMES; k++) {
        uint8_t f[100];
        unsigned from = (unsigned)rand_r(&seed) % 3;
        fill(f, station((uint32_t)rand_r(&seed) % N), station(from), sizeof(f));
        dummy_inject(p[from], f, (uint32_t)rand_r(&seed) % 50 ? 60 : 10);
        if (k % 7 == 0) {
            run();
        }
    }
    run();
    for (unsigned i = 0; i < N; i++) {
        port_counters_sum(p[i], &after[i]);
        in += after[i].rx_frames - before[i].rx_frames;
        out += after[i].tx_frames - before[i].tx_frames;
        for (unsigned d = 0; d < DROP_N; d++) {
            lost += after[i].drop[d] - before[i].drop[d];
        }
        assert_int_equal(after[i].tx_bytes - before[i].tx_bytes, 60 * dummy_n_sent(p[i]));
    }
    uint64_t runts = drops(p[0], DROP_RUNT) + drops(p[1], DROP_RUNT) + drops(p[2], DROP_RUNT);
    assert_int_equal(in + runts, FRAMES);
    assert_int_equal(in + runts, out + lost);
    assert_true(drops(p[4], DROP_NO_BUFFERS) > 0 && drops(p[3], DROP_NOT_READY) > 0);
    assert_true(drops(p[0], DROP_ISOLATED) > 0 && drops(p[2], DROP_HAIRPIN) > 0);
}

/* ---- out of memory ------------------------------------------------------------------------ */

#ifndef __SANITIZE_ADDRESS__
void *__libc_calloc(size_t n, size_t bytes);

static bool no_memory;

/* In place of the C library's, for everything in this program. */
void *calloc(size_t n, size_t bytes)
{
    return no_memory ? NULL : __libc_calloc(n, bytes);
}

/* Taking a port out needs memory for a new view: without, it stays, and works. Ending needs none. */
static void test_without_memory(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy");

    say(b, BROADCAST, station(2));
    took(a);
    no_memory = true;
    assert_int_equal(dp_port_del(dp, "b", &err), -ENOMEM);
    no_memory = false;
    assert_ptr_equal(dp_port(dp, "b"), b);
    say(a, station(2), station(1));
    assert_int_equal(took(b), 1);
    assert_int_equal(dp_port_del(dp, "b", &err), 0);
    add("c=dummy");
    no_memory = true;
    dp_destroy(dp);
    no_memory = false;
    assert_int_equal(new_switch(), 0);
}
#endif

/* ---- bad configuration -------------------------------------------------------------------- */

static void test_refused(void **state)
{
    static const struct {
        const char *arg, *hint;
    } bad[] = {
        {"a=dummy", "a"},                         /* there is one already */
        {"b=dummy,isolated=perhaps", "isolated"}, /* neither yes nor no */
        {"b=dummy,mac-limit=x", "mac-limit"},
        {"b=dummy,mac-limit=99999999", "mac-limit"},
        {"b=dummy,mtu=12", "mtu"},
        {"b=dummy,dept=1", "depth"}, /* the nearest key */
        {"b=dumy", "dummy"},         /* the nearest kind */
    };

    add("a=dummy");
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct port_conf c;
        memset(&err, 0, sizeof(err));
        assert_int_equal(port_conf_parse(&c, bad[i].arg, &err), 0);
        assert_true(dp_port_add(dp, &c, &err) < 0);
        assert_non_null(strstr(err.text, bad[i].hint));
        assert_non_null(strstr(err.text, c.name));
        port_conf_free(&c);
    }
    struct port *all[4];
    assert_int_equal(dp_ports(dp, all, 4), 1); /* nothing is left of them */
    assert_int_equal(dp_port_set(dp, "a", "bridge", "br1", &err), -EBUSY);
    assert_int_equal(dp_port_set(dp, "a", "mut", "1500", &err), -EINVAL);
    assert_non_null(strstr(err.text, "mtu"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_learning),
        TEST(test_broadcast_and_multicast),
        TEST(test_bytes_arrive),
        TEST(test_frames_in_pieces),
        TEST(test_copied_bytes),
        TEST(test_order),
        TEST(test_flood_starves_nobody),
        TEST(test_station_moves),
        TEST(test_ageing),
        TEST(test_traffic_keeps_an_address),
        TEST(test_limit),
        TEST(test_attacker_displaces_nobody),
        TEST(test_static_entries),
        TEST(test_flush),
        TEST(test_deleted_port_is_forgotten),
        TEST(test_reserved_addresses),
        TEST(test_bridges_are_apart),
        TEST(test_isolated_ports),
        TEST(test_hairpin),
        TEST(test_multicast_source),
        TEST(test_runt_and_giant),
        TEST(test_receiver_drops),
        TEST(test_unplugged),
        TEST(test_link_down),
        TEST(test_alone),
        TEST(test_every_frame_is_accounted_for),
#ifndef __SANITIZE_ADDRESS__
        TEST(test_without_memory),
#endif
        TEST(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
