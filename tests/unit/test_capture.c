/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Captures over dummy ports, one worker without a thread: what is recorded, byte by byte and for
 * both directions; filters, also hostile ones; drops with their reason; a reader that does not read
 * or writes nonsense; ports and captures that come and go.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <event2/event.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dp/dp.h"
#include "port/capture.h"
#include "port/capture_filter.h"
#include "port/kinds.h"
#include "port/port_dummy.h"

static struct event_base *base;
static struct dp *dp;
static struct port *a, *b;
static struct err err;

static const uint8_t MAC_A[6] = {2, 0, 0, 0, 0, 1}, MAC_B[6] = {2, 0, 0, 0, 0, 2};

static struct port *add(const char *arg)
{
    struct port_conf c;

    assert_int_equal(port_conf_parse(&c, arg, &err), 0);
    if (dp_port_add(dp, &c, &err)) {
        fail_msg("%s: %s", arg, err.text);
    }
    struct port *p = dp_port(dp, c.name);
    port_conf_free(&c);
    return p;
}

static int setup(void **state)
{
    base = event_base_new();
    struct dp_conf c = {
        .evbase = base, .rundir = "/nonexistent", .n_workers = 1, .no_threads = true};
    memset(&err, 0, sizeof(err));
    if (dp_create(&dp, &c, &err)) {
        return -1;
    }
    a = add("a=dummy");
    b = add("b=dummy");
    return 0;
}

static int teardown(void **state)
{
    dp_destroy(dp);
    event_base_free(base);
    return 0;
}

/* ---- a capture and its reader --------------------------------------------------------------- */

struct session {
    struct capture *c;
    struct capture_reader r;
};

static struct capture_conf conf(const char *filter)
{
    return (struct capture_conf){.filter = filter,
                                 .snaplen = 262144,
                                 .dirs = CAPTURE_IN | CAPTURE_OUT,
                                 .ring_bytes = CAPTURE_RING_MIN};
}

static struct session start(const char *port, struct capture_conf c)
{
    struct session s;

    if (dp_capture(dp, port, &c, &s.c, &err)) {
        fail_msg("%s", err.text);
    }
    const struct capture_mem *m = capture_mem(s.c);
    assert_int_equal(capture_reader_init(&s.r, m->head, m->bytes, &err), 0);
    return s;
}

static uint32_t run(void)
{
    uint32_t n = 0, got;

    for (unsigned i = 0; i < 100000 && (got = dp_run_once(dp)); i++) {
        n += got;
    }
    return n;
}

/* A frame whose every byte depends on its place and on seed. */
static void fill(uint8_t *f, const uint8_t dst[6], const uint8_t src[6], uint32_t len, uint8_t seed)
{
    for (uint32_t i = 0; i < len; i++) {
        f[i] = (uint8_t)(i * 7 + (i >> 8) + seed);
    }
    memcpy(f, dst, 6);
    memcpy(f + 6, src, 6);
    f[12] = 0x88;
    f[13] = 0xb5;
}

static void say(struct port *from, const uint8_t dst[6], const uint8_t src[6], uint32_t len,
                uint8_t seed)
{
    uint8_t *f = malloc(len);

    fill(f, dst, src, len, seed);
    dummy_inject(from, f, len);
    free(f);
}

/* The next record is this frame, cut at cap_len. */
static struct capture_rec expect(struct session *s, uint8_t dir, const uint8_t dst[6],
                                 const uint8_t src[6], uint32_t len, uint8_t seed, uint32_t cap_len)
{
    struct capture_rec rec;
    const uint8_t *bytes;
    uint8_t *f = malloc(len);

    fill(f, dst, src, len, seed);
    assert_int_equal(capture_peek(&s->r, &rec, &bytes), 1);
    assert_int_equal(rec.dir, dir);
    assert_int_equal(rec.len, len);
    assert_int_equal(rec.cap_len, cap_len);
    assert_int_equal(rec.n, 1);
    assert_memory_equal(bytes, f, cap_len);
    capture_next(&s->r);
    free(f);
    return rec;
}

static void expect_none(struct session *s)
{
    struct capture_rec rec;
    const uint8_t *bytes;

    assert_int_equal(capture_peek(&s->r, &rec, &bytes), 0);
}

static unsigned drain(struct session *s)
{
    struct capture_rec rec;
    const uint8_t *bytes;
    unsigned n = 0;

    while (capture_peek(&s->r, &rec, &bytes) == 1) {
        capture_next(&s->r);
        n++;
    }
    return n;
}

/* As the client has it: the text compiled by libpcap, in the form of tcpdump -ddd. */
static char *compile(const char *text)
{
    pcap_t *p = pcap_open_dead(DLT_EN10MB, 262144);
    struct bpf_program prog;
    char *out = NULL;
    size_t n;
    FILE *f = open_memstream(&out, &n);

    if (pcap_compile(p, &prog, text, 1, PCAP_NETMASK_UNKNOWN)) {
        fail_msg("%s: %s", text, pcap_geterr(p));
    }
    fprintf(f, "%u", prog.bf_len);
    for (unsigned i = 0; i < prog.bf_len; i++) {
        const struct bpf_insn *in = &prog.bf_insns[i];
        fprintf(f, ",%u %u %u %u", in->code, in->jt, in->jf, in->k);
    }
    fclose(f);
    pcap_freecode(&prog);
    pcap_close(p);
    return out;
}

/* ---- what is recorded ----------------------------------------------------------------------- */

static void test_both_directions(void **state)
{
    struct session s = start("a", conf(NULL));

    say(a, MAC_B, MAC_A, 60, 1); /* floods: b is not known */
    run();
    say(b, MAC_A, MAC_B, 1514, 2);
    run();
    say(a, MAC_B, MAC_A, 9000, 3);
    run();
    struct capture_rec first = expect(&s, CAPTURE_IN, MAC_B, MAC_A, 60, 1, 60);
    struct capture_rec second = expect(&s, CAPTURE_OUT, MAC_A, MAC_B, 1514, 2, 1514);
    expect(&s, CAPTURE_IN, MAC_B, MAC_A, 9000, 3, 9000);
    expect_none(&s);
    assert_true(first.time_ns > 1600000000ull * 1000000000 && first.time_ns <= second.time_ns);
    assert_int_equal(first.why, CAPTURE_NO_DROP);
    assert_int_equal(capture_lost(&s.r), 0);
    assert_int_equal(dummy_n_sent(b), 2);
    assert_int_equal(dummy_n_sent(a), 1);
    capture_stop(s.c);
}

static void test_one_direction_and_snaplen(void **state)
{
    struct capture_conf in = conf(NULL), out = conf(NULL);

    in.dirs = CAPTURE_IN;
    in.snaplen = 300; /* behind the snapshot, within the frame */
    out.dirs = CAPTURE_OUT;
    out.snaplen = 1;
    struct session si = start("a", in), so = start("a", out);

    assert_int_equal(capture_count(a), 2);
    say(a, MAC_B, MAC_A, 1514, 1);
    say(b, MAC_A, MAC_B, 1000, 2);
    run();
    expect(&si, CAPTURE_IN, MAC_B, MAC_A, 1514, 1, 300);
    expect_none(&si);
    expect(&so, CAPTURE_OUT, MAC_A, MAC_B, 1000, 2, 1);
    expect_none(&so);
    capture_stop(si.c);
    capture_stop(so.c);
}

/* A frame in many pieces, and the largest one. */
static void test_pieces_and_giants(void **state)
{
    struct session s = start("a", conf(NULL));
    uint8_t f[700];
    struct iovec iov[7];

    fill(f, MAC_B, MAC_A, sizeof(f), 9);
    for (unsigned i = 0; i < ARRAY_SIZE(iov); i++) {
        iov[i] = (struct iovec){f + 100 * i, 100};
    }
    dummy_injectv(a, iov, ARRAY_SIZE(iov));
    say(a, MAC_B, MAC_A, PKT_MAX_LEN, 5);
    run();
    expect(&s, CAPTURE_IN, MAC_B, MAC_A, sizeof(f), 9, sizeof(f));
    expect(&s, CAPTURE_IN, MAC_B, MAC_A, PKT_MAX_LEN, 5, PKT_MAX_LEN);
    capture_stop(s.c);
}

/* More than the ring holds, read as it comes: no byte is wrong wherever a record begins. */
static void test_ring_wraps(void **state)
{
    struct session s = start("a", conf(NULL));
    uint64_t sum = 0;

    for (unsigned i = 0; sum < 8 * CAPTURE_RING_MIN; i++) {
        uint32_t len = 14 + i * 7919 % (i % 10 ? 3000 : PKT_MAX_LEN - 14);

        say(a, MAC_B, MAC_A, len, (uint8_t)i);
        run();
        expect(&s, CAPTURE_IN, MAC_B, MAC_A, len, (uint8_t)i, len);
        sum += len;
    }
    assert_int_equal(capture_lost(&s.r), 0);
    dummy_clear(b);
    capture_stop(s.c);
}

/* ---- a reader that does not read ------------------------------------------------------------- */

static void test_full_ring_loses_and_counts(void **state)
{
    struct session s = start("a", conf(NULL));
    unsigned n = 500;

    for (unsigned i = 0; i < n; i++) {
        say(a, MAC_B, MAC_A, 1000, (uint8_t)i);
        run();
    }
    assert_int_equal(dummy_n_sent(b), n); /* the switch does not care */
    uint64_t lost = capture_lost(&s.r);
    assert_true(lost > 0);
    for (unsigned i = 0; i < n - lost; i++) {
        expect(&s, CAPTURE_IN, MAC_B, MAC_A, 1000, (uint8_t)i, 1000);
    }
    expect_none(&s);
    say(a, MAC_B, MAC_A, 1000, 77); /* there is room again */
    run();
    expect(&s, CAPTURE_IN, MAC_B, MAC_A, 1000, 77, 1000);
    assert_int_equal(capture_lost(&s.r), lost);
    capture_stop(s.c);
}

static void test_hostile_reader(void **state)
{
    struct session s = start("a", conf(NULL));
    const struct capture_mem *m = capture_mem(s.c);
    static const uint64_t tails[] = {1, 7, 12345, 1ull << 40, UINT64_MAX, UINT64_MAX - 63};

    for (unsigned i = 0; i < ARRAY_SIZE(tails); i++) {
        s.r.ring[0].tail = tails[i];
        s.r.ring[0].head = tails[ARRAY_SIZE(tails) - 1 - i];
        memset((uint8_t *)m->head + m->head->data_at, (int)i * 51, m->head->ring_bytes);
        m->head->waiting = i;
        for (unsigned k = 0; k < 400; k++) {
            say(a, MAC_B, MAC_A, 1514, (uint8_t)k);
            run();
        }
        assert_int_equal(dummy_n_sent(b), 400);
        dummy_clear(b);
    }
    /* The memory keeps its size: nobody can take it away under the worker. */
    assert_int_equal(ftruncate(m->fd, 0), -1);
    assert_int_equal(fcntl(m->fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    capture_stop(s.c);
}

/* What a reader refuses, whatever the memory says. */
static void test_reader_checks(void **state)
{
    struct session s = start("a", conf(NULL));
    const struct capture_mem *m = capture_mem(s.c);
    struct capture_head *h = m->head, good = *h;
    struct capture_rec *rec = (struct capture_rec *)((uint8_t *)h + h->data_at), was;
    const uint8_t *bytes;
    struct capture_rec got;

    say(a, MAC_B, MAC_A, 100, 1);
    run();
    was = *rec;
    const struct capture_rec bad[] = {
        {.size = 0, .dir = 1},  {.size = 12, .dir = 1},         {.size = 16, .dir = 1},
        {.size = 144, .dir = 1, .cap_len = 105},                {.size = UINT32_MAX - 7, .dir = 1},
        {.size = CAPTURE_RING_MIN, .dir = 1, .cap_len = 100},   {.size = 4, .dir = 0},
        {.size = CAPTURE_RING_MIN * 2, .dir = 0},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        *rec = bad[i];
        assert_true(capture_peek(&s.r, &got, &bytes) < 0);
    }
    *rec = was;
    expect(&s, CAPTURE_IN, MAC_B, MAC_A, 100, 1, 100);
    s.r.ring[0].head += CAPTURE_RING_MIN * 2;
    assert_true(capture_peek(&s.r, &got, &bytes) < 0);

    struct capture_head heads[] = {good, good, good, good, good, good, good, good};
    heads[0].magic++;
    heads[1].version++;
    heads[2].n_rings = 0;
    heads[3].n_rings = WORKER_MAX + 1;
    heads[4].ring_bytes *= 2;
    heads[5].ring_bytes += 4096;
    heads[6].data_at += 4096;
    heads[7].data_at = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(heads); i++) {
        struct capture_reader r;

        *h = heads[i];
        assert_int_equal(capture_reader_init(&r, h, m->bytes, &err), -EPROTO);
    }
    *h = good;
    capture_stop(s.c);
}

/* ---- filters -------------------------------------------------------------------------------- */

static void test_filter(void **state)
{
    char *prog = compile("ether src 02:00:00:00:00:02 and ether[100] == 0xff");
    struct session s = start("a", conf(prog));

    for (unsigned seed = 0; seed < 256; seed++) { /* byte 100 takes each value once */
        say(a, MAC_B, MAC_A, 200, (uint8_t)seed);
        say(b, MAC_A, MAC_B, 200, (uint8_t)seed);
        run();
    }
    uint8_t seed = (uint8_t)(0xff - 100 * 7);
    expect(&s, CAPTURE_OUT, MAC_A, MAC_B, 200, seed, 200);
    expect_none(&s);
    capture_stop(s.c);
    free(prog);
}

/* The filter looks behind the snapshot, at the frame's length, and where an index says. */
static void test_filter_reach(void **state)
{
    static const struct {
        const char *text;
        bool deep;
    } cases[] = {
        {"ether[1400] == 0x2a", true},
        {"len == 1514 and ether[13] == 0xb5", false},
        {"ether[ether[14]:1] == 0xff or ether[1400] == 0x2a", true},
        {"tcp port 80", false},
        {"ip6 and udp port 53", false},
        {"vlan 5 and ip host 10.0.0.1", false},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct capture_filter f;
        char *prog = compile(cases[i].text);

        assert_int_equal(capture_filter_parse(&f, prog, &err), 0);
        assert_int_equal(f.reach > 128, cases[i].deep);
        capture_filter_free(&f);
        free(prog);
    }
    char *prog = compile(cases[0].text);
    struct capture_conf c = conf(prog);
    c.snaplen = 20;
    struct session s = start("a", c);
    uint8_t seed = (uint8_t)(0x2a - (1400 * 7 + (1400 >> 8)));
    for (unsigned k = 0; k < 256; k++) {
        say(a, MAC_B, MAC_A, 1514, (uint8_t)k);
        say(a, MAC_B, MAC_A, 1000, (uint8_t)k); /* too short for it */
        run();
    }
    expect(&s, CAPTURE_IN, MAC_B, MAC_A, 1514, seed, 20);
    expect_none(&s);
    capture_stop(s.c);
    free(prog);
}

/* Not one instruction of these may be run. */
static void test_hostile_filters(void **state)
{
    static const char *const bad[] = {
        "0", "1", "x", "1,", "1,6 0 0", "1,6 0 0 0,", "1,6 0 0 0 ", "2,6 0 0 0", "1,6 0 0 0,6 0 0 0",
        "1,-6 0 0 0", "1,6 0 0 4294967296", "1,65542 0 0 0", "1,6 256 0 0", "4097,6 0 0 0",
        "1,0 0 0 1",                        /* no return at the end */
        "2,5 0 0 1,6 0 0 0",                /* jumps behind the end */
        "2,5 0 0 4294967295,6 0 0 0",       /* jumps to itself */
        "3,0 0 0 1,5 0 0 4294967294,6 0 0 0",
        "2,21 0 1 0,6 0 0 0",               /* a branch behind the end */
        "2,96 0 0 16,6 0 0 0",              /* memory */
        "2,2 0 0 4096,6 0 0 0", "2,3 0 0 16,6 0 0 0", "2,97 0 0 16,6 0 0 0",
        "2,52 0 0 0,6 0 0 0",               /* divides by zero */
        "2,148 0 0 0,6 0 0 0",
        "2,100 0 0 32,6 0 0 0",             /* shifts */
        "2,160 0 0 0,6 0 0 0",              /* unknown to the interpreter, which would abort */
        "2,40 0 0 4294963204,6 0 0 0",      /* what only a kernel knows: "inbound" */
        "2,255 0 0 0,6 0 0 0", "2,177 0 0 0,14 0 0 0",
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct capture_conf c = conf(bad[i]);
        struct capture *out;

        if (dp_capture(dp, "a", &c, &out, &err) != -EINVAL) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_non_null(strstr(err.text, "filter: "));
    }
    assert_int_equal(capture_count(a), 0);
}

/* Random programs: those that are accepted end, without a fault. */
static void test_random_filters(void **state)
{
    uint64_t x = 0x9e3779b97f4a7c15ull;
    unsigned accepted = 0;
    uint8_t frame[400];

    fill(frame, MAC_B, MAC_A, sizeof(frame), 3);
    for (unsigned i = 0; i < 20000; i++) {
        char text[512];
        unsigned n = 1 + i % 8;
        int at = snprintf(text, sizeof(text), "%u", n);

        for (unsigned k = 0; k < n; k++) {
            x = x * 6364136223846793005ull + 1442695040888963407ull;
            uint64_t y = x >> 20;
            unsigned code = k + 1 == n ? 6 : (unsigned)(y & 0xff), jt = (y >> 8) % 4;
            unsigned kk = y >> 40 & 1 ? (unsigned)(y >> 12) % 500 : (unsigned)(y >> 12);
            at += snprintf(text + at, sizeof(text) - (size_t)at, ",%u %u %u %u", code, jt,
                           (unsigned)(y >> 10) % 4, kk);
        }
        struct capture_filter f;
        if (!capture_filter_parse(&f, text, &err)) {
            accepted++;
            capture_filter_match(&f, frame, sizeof(frame), 180);
            capture_filter_match(&f, frame, 14, 14);
            capture_filter_free(&f);
        }
    }
    assert_true(accepted > 1000);
}

/* ---- drops ---------------------------------------------------------------------------------- */

static void test_drops_out(void **state)
{
    struct capture_conf c = conf(NULL);

    c.drops = true;
    struct session s = start("b", c);

    dummy_set_room(b, 2);
    for (unsigned i = 0; i < 4; i++) {
        say(a, MAC_B, MAC_A, 100 + i, (uint8_t)i);
    }
    run();
    assert_int_equal(dummy_n_sent(b), 2); /* in their order */
    for (unsigned i = 0; i < 2; i++) {
        uint32_t len;
        assert_int_equal(dummy_sent(b, i, &len)[99], (uint8_t)(99 * 7 + i));
    }
    for (unsigned i = 2; i < 4; i++) {
        struct capture_rec r = expect(&s, CAPTURE_OUT, MAC_B, MAC_A, 100 + i, (uint8_t)i, 100 + i);
        assert_int_equal(r.why, DROP_NO_BUFFERS);
    }
    expect_none(&s);
    capture_stop(s.c);
}

static void test_drops_in(void **state)
{
    struct capture_conf c = conf(NULL);
    static const uint8_t reserved[6] = {1, 0x80, 0xc2, 0, 0, 1};
    uint8_t runt[13] = {0};
    struct capture_rec rec;
    const uint8_t *bytes;

    c.drops = true;
    char *prog = compile("len > 200");
    struct session all = start("a", c);
    c.filter = prog;
    struct session some = start("a", c);

    say(a, MAC_B, MAC_A, 60, 1);    /* forwarded */
    say(a, reserved, MAC_A, 60, 2); /* refused by the bridge */
    say(a, reserved, MAC_A, 300, 3);
    dummy_inject(a, runt, sizeof(runt)); /* refused by the port */
    dummy_inject(a, runt, sizeof(runt));
    run();
    assert_int_equal(capture_peek(&all.r, &rec, &bytes), 1);
    assert_int_equal(rec.why, DROP_RUNT);
    assert_int_equal(rec.n, 2);
    assert_int_equal(rec.len, 0);
    assert_int_equal(rec.dir, CAPTURE_IN);
    capture_next(&all.r);
    assert_int_equal(expect(&all, CAPTURE_IN, reserved, MAC_A, 60, 2, 60).why, DROP_RESERVED);
    expect(&all, CAPTURE_IN, reserved, MAC_A, 300, 3, 300);
    expect_none(&all);
    expect(&some, CAPTURE_IN, reserved, MAC_A, 300, 3, 300);
    expect_none(&some);

    dummy_set_ready(b, false);
    say(a, MAC_B, MAC_A, 60, 4); /* nobody there: floods to none */
    run();
    assert_int_equal(expect(&all, CAPTURE_IN, MAC_B, MAC_A, 60, 4, 60).why, DROP_NO_PORTS);
    capture_stop(all.c);
    capture_stop(some.c);
    free(prog);
}

/* ---- coming and going ------------------------------------------------------------------------ */

static void test_off_is_the_kinds_own_table(void **state)
{
    const struct port_ops *own = a->ops;
    struct session s[CAPTURE_PER_PORT];
    struct capture_conf c = conf(NULL);
    struct capture *one_more;

    assert_ptr_equal(own, &port_dummy_ops);
    for (unsigned i = 0; i < CAPTURE_PER_PORT; i++) {
        s[i] = start("a", conf(NULL));
    }
    assert_ptr_not_equal(a->ops, own);
    assert_ptr_equal(b->ops, own); /* nobody else pays */
    assert_int_equal(dp_capture(dp, "a", &c, &one_more, &err), -EBUSY);
    say(a, MAC_B, MAC_A, 60, 1);
    run();
    for (unsigned i = 0; i < CAPTURE_PER_PORT; i++) {
        assert_int_equal(drain(&s[i]), 1);
        capture_stop(s[i].c);
    }
    assert_ptr_equal(a->ops, own);
    assert_null(a->captures);
    assert_int_equal(dp_capture(dp, "nix", &c, &one_more, &err), -ENOENT);
    c.ring_bytes = CAPTURE_RING_MIN + 1;
    assert_int_equal(dp_capture(dp, "a", &c, &one_more, &err), -EINVAL);
}

static void test_port_goes_away(void **state)
{
    struct session s = start("a", conf(NULL)), t = start("a", conf(NULL));
    uint64_t n = 0;

    say(a, MAC_B, MAC_A, 60, 1);
    run();
    assert_int_equal(capture_ended(&s.r), CAPTURE_RUNS);
    assert_int_equal(dp_port_del(dp, "a", &err), 0);
    assert_int_equal(capture_ended(&s.r), CAPTURE_PORT_GONE);
    assert_int_equal(capture_ended(&t.r), CAPTURE_PORT_GONE);
    assert_int_equal(read(capture_eventfd(s.c), &n, sizeof(n)), sizeof(n));
    assert_true(capture_arm(&s.r)); /* no sleep */
    assert_int_equal(drain(&s), 1); /* what came before is there */
    capture_stop(s.c);
    capture_stop(t.c);
}

static void test_reader_is_woken_when_it_sleeps(void **state)
{
    struct session s = start("a", conf(NULL));
    uint64_t n;

    say(a, MAC_B, MAC_A, 60, 1);
    run();
    assert_int_equal(read(capture_eventfd(s.c), &n, sizeof(n)), -1); /* it did not ask */
    assert_true(capture_arm(&s.r));
    drain(&s);
    assert_false(capture_arm(&s.r));
    say(a, MAC_B, MAC_A, 60, 1);
    run();
    assert_int_equal(read(capture_eventfd(s.c), &n, sizeof(n)), sizeof(n));
    capture_disarm(&s.r);
    say(a, MAC_B, MAC_A, 60, 1);
    run();
    assert_int_equal(read(capture_eventfd(s.c), &n, sizeof(n)), -1);
    assert_int_equal(drain(&s), 2);
    capture_stop(s.c);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_both_directions),
        TEST(test_one_direction_and_snaplen),
        TEST(test_pieces_and_giants),
        TEST(test_ring_wraps),
        TEST(test_full_ring_loses_and_counts),
        TEST(test_hostile_reader),
        TEST(test_reader_checks),
        TEST(test_filter),
        TEST(test_filter_reach),
        TEST(test_hostile_filters),
        TEST(test_random_filters),
        TEST(test_drops_out),
        TEST(test_drops_in),
        TEST(test_off_is_the_kinds_own_table),
        TEST(test_port_goes_away),
        TEST(test_reader_is_woken_when_it_sleeps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
