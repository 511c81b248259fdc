/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ports that are files: what a file says is what comes, when it says so (the clock is moved by
 * hand); bad files are refused with a reason; what is sent to a port is in its file.
 *
 *     in (rx=FILE) ---+
 *     out (dummy) ----+--- br0     the frames of the file are broadcasts
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <event2/event.h>
#include <pcap/pcap.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "dp/dp.h"
#include "port/port_dummy.h"
#include "port/replay.h"

#define MS 1000000ull

static struct event_base *base;
static struct dp *dp;
static struct err err;
static char dir[] = "/tmp/rw-test-pcap-XXXXXX";
static char file[64], file2[64];

static int make_dir(void **state)
{
    if (!mkdtemp(dir)) {
        return -1;
    }
    snprintf(file, sizeof(file), "%s/in.pcap", dir);
    snprintf(file2, sizeof(file2), "%s/out.pcapng", dir);
    return 0;
}

static int remove_dir(void **state)
{
    unlink(file);
    unlink(file2);
    return rmdir(dir);
}

static char logged[300];

static void keep_log(enum log_level level, const char *line)
{
    snprintf(logged, sizeof(logged), "%s", line);
}

static int setup(void **state)
{
    base = event_base_new();
    clock_stop();
    log_set_sink(keep_log);
    logged[0] = 0;
    struct dp_conf c = {
        .evbase = base, .rundir = "/nonexistent", .n_workers = 1, .no_threads = true};
    memset(&err, 0, sizeof(err));
    return dp_create(&dp, &c, &err);
}

static int teardown(void **state)
{
    if (dp) {
        dp_destroy(dp);
    }
    event_base_free(base);
    log_set_sink(NULL);
    return 0;
}

static int try_add(const char *fmt, ...) PRINTF_LIKE(1, 2);

static int try_add(const char *fmt, ...)
{
    struct port_conf c;
    char arg[300];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(arg, sizeof(arg), fmt, ap);
    va_end(ap);
    assert_int_equal(port_conf_parse(&c, arg, &err), 0);
    int rc = dp_port_check(&c, &err);
    rc = rc ? rc : dp_port_add(dp, &c, &err);
    port_conf_free(&c);
    return rc;
}

#define ADD(...)                                                                                   \
    do {                                                                                           \
        if (try_add(__VA_ARGS__)) {                                                                \
            fail_msg("%s", err.text);                                                              \
        }                                                                                          \
    } while (0)

/* What worker 0 does in one go, as often as it finds something. */
static void run(void)
{
    for (unsigned i = 0; i < 1000 && dp_run_once(dp); i++) {
    }
}

/* ---- files ---------------------------------------------------------------------------------------- */

struct spec {
    uint64_t at_ns;
    uint32_t len, caplen; /* caplen 0: len */
};

/* Each byte of frame i depends on i and on its place; all are broadcasts. */
static void fill(uint8_t *f, unsigned i, uint32_t len)
{
    for (uint32_t k = 0; k < len; k++) {
        f[k] = (uint8_t)(k * 5 + (k >> 8) + i * 31);
    }
    memset(f, 0xff, MIN(len, 6u));
    memcpy(f + 6, (uint8_t[]){2, 0, 0, 0, 0, 9}, len >= 12 ? 6 : 0);
}

static void write_file(int linktype, const struct spec *s, unsigned n)
{
    pcap_t *p = pcap_open_dead_with_tstamp_precision(linktype, 262144, PCAP_TSTAMP_PRECISION_NANO);
    pcap_dumper_t *d = pcap_dump_open(p, file);
    static uint8_t f[70000];

    assert_non_null(d);
    for (unsigned i = 0; i < n; i++) {
        uint64_t at = 1700000000ull * 1000000000 + s[i].at_ns;
        struct pcap_pkthdr h = {.ts = {(time_t)(at / 1000000000), (long)(at % 1000000000)},
                                .caplen = s[i].caplen ? s[i].caplen : s[i].len,
                                .len = s[i].len};
        fill(f, i, h.caplen);
        pcap_dump((u_char *)d, &h, f);
    }
    pcap_dump_close(d);
    pcap_close(p);
}

static struct port *out;

/* The frames that arrived since the last look are first, first + 1 ... of the file. */
static void expect(unsigned first, const struct spec *s, unsigned n)
{
    assert_int_equal(dummy_n_sent(out), n);
    for (unsigned i = 0; i < n; i++) {
        static uint8_t f[70000];
        uint32_t len;
        const uint8_t *got = dummy_sent(out, i, &len);

        assert_int_equal(len, s[first + i].len);
        fill(f, first + i, len);
        assert_memory_equal(got, f, len);
    }
    dummy_clear(out);
}

static void begin(const char *options)
{
    ADD("out=dummy");
    out = dp_port(dp, "out");
    ADD("in=pcap,rx=%s%s", file, options);
}

static const struct spec three[] = {{0, 60, 0}, {10 * MS, 1514, 0}, {30 * MS, 9000, 0}};

/* ---- when ------------------------------------------------------------------------------------------ */

static void test_time_stamps(void **state)
{
    write_file(DLT_EN10MB, three, 3);
    begin("");
    run();
    expect(0, three, 1);
    clock_warp(10 * MS - 1);
    run();
    expect(1, three, 0);
    clock_warp(1);
    run();
    expect(1, three, 1);
    clock_warp(20 * MS);
    run();
    expect(2, three, 1);
    clock_warp(1000 * MS); /* once */
    run();
    expect(0, three, 0);
}

static void test_late_frames_come_at_once(void **state)
{
    write_file(DLT_EN10MB, three, 3);
    begin("");
    run();
    clock_warp(31 * MS);
    run();
    expect(0, three, 3);
}

static void test_speed(void **state)
{
    write_file(DLT_EN10MB, three, 3);
    begin(",speed=0.5");
    run();
    expect(0, three, 1);
    clock_warp(20 * MS - 1);
    run();
    expect(1, three, 0);
    clock_warp(1);
    run();
    expect(1, three, 1);
    /* from here on ten times as fast: the next frame is due now, as at every change */
    assert_int_equal(dp_port_set(dp, "in", "speed", "10", &err), 0);
    run();
    expect(2, three, 1);
}

static void test_loop(void **state)
{
    write_file(DLT_EN10MB, three, 3);
    begin(",loop=3");
    for (unsigned round = 0; round < 3; round++) {
        run();
        expect(0, three, 1);
        clock_warp(30 * MS);
        run();
        expect(1, three, 2);
        clock_warp(15 * MS - 1); /* a mean gap */
        run();
        expect(0, three, 0);
        clock_warp(1);
    }
    run();
    expect(0, three, 0);
}

static void test_loop_for_ever(void **state)
{
    static const struct spec one[] = {{0, 100, 0}};

    write_file(DLT_EN10MB, one, 1);
    begin(",loop");
    for (unsigned i = 0; i < 100; i++) {
        run();
        expect(0, one, 1);
        clock_warp(1000 * MS);
    }
}

static void test_as_fast_as_it_goes(void **state)
{
    write_file(DLT_EN10MB, three, 3);
    begin(",speed=max,loop=100");
    run();
    assert_int_equal(dummy_n_sent(out), 300);
    uint32_t len;
    for (unsigned i = 0; i < 300; i++) {
        dummy_sent(out, i, &len);
        assert_int_equal(len, three[i % 3].len);
    }
}

static void test_pause(void **state)
{
    write_file(DLT_EN10MB, three, 3);
    begin(",paused=yes");
    run();
    expect(0, three, 0);
    clock_warp(1000 * MS);
    assert_int_equal(dp_port_set(dp, "in", "paused", "no", &err), 0);
    run();
    expect(0, three, 1);
    clock_warp(10 * MS);
    run();
    expect(1, three, 1);
    clock_warp(5 * MS);
    assert_int_equal(dp_port_set(dp, "in", "paused", "yes", &err), 0);
    run();
    clock_warp(1000 * MS);
    run();
    expect(2, three, 0);
    assert_int_equal(dp_port_set(dp, "in", "paused", "no", &err), 0);
    run();
    expect(2, three, 1);
}

/* A clock that jumped back while it was recorded: the order of the file is kept. */
static void test_clock_that_jumps(void **state)
{
    static const struct spec s[] = {{50 * MS, 60, 0}, {60 * MS, 61, 0}, {20 * MS, 62, 0}, {70 * MS, 63, 0}};

    write_file(DLT_EN10MB, s, 4);
    begin("");
    run();
    expect(0, s, 1);
    clock_warp(10 * MS);
    run();
    expect(1, s, 2);
    clock_warp(10 * MS);
    run();
    expect(3, s, 1);
}

/* ---- what ------------------------------------------------------------------------------------------- */

static void test_every_size(void **state)
{
    struct spec s[] = {{0, 14, 0},  {0, 60, 0},  {0, 179, 0},  {0, 180, 0},
                       {0, 181, 0}, {0, 192, 0}, {0, 1514, 0}, {0, PKT_MAX_LEN, 0}};

    write_file(DLT_EN10MB, s, ARRAY_SIZE(s));
    begin("");
    run();
    expect(0, s, ARRAY_SIZE(s));
}

static void test_runts_and_giants_are_counted(void **state)
{
    static const struct spec s[] = {{0, 13, 0}, {0, 60, 0}, {0, PKT_MAX_LEN + 1, 0}, {0, 61, 0}};
    struct port_counters c;

    write_file(DLT_EN10MB, s, 4);
    begin("");
    run();
    assert_int_equal(dummy_n_sent(out), 2);
    port_counters_sum(dp_port(dp, "in"), &c);
    assert_int_equal(c.drop[DROP_RUNT], 1);
    assert_int_equal(c.drop[DROP_GIANT], 1);
    assert_int_equal(c.rx_frames, 2);
    assert_int_equal(c.rx_bytes, 121);
}

static void test_cut_frames_are_left_out(void **state)
{
    static const struct spec s[] = {{0, 60, 0}, {MS, 1514, 96}, {2 * MS, 62, 0}};

    write_file(DLT_EN10MB, s, 3);
    begin(",speed=max");
    assert_non_null(strstr(logged, "1 of the 3 frames in "));
    run();
    assert_int_equal(dummy_n_sent(out), 2);
}

static void test_what_is_sent_to_a_player_vanishes(void **state)
{
    static const uint8_t broadcast[60] = {[0 ... 5] = 0xff, [6] = 2};
    struct port_counters c;

    write_file(DLT_EN10MB, three, 3);
    begin(",paused");
    dummy_inject(out, broadcast, sizeof(broadcast));
    run();
    port_counters_sum(dp_port(dp, "in"), &c);
    assert_int_equal(c.tx_frames, 1);
    assert_int_equal(c.tx_bytes, 60);
}

/* ---- bad files -------------------------------------------------------------------------------------- */

static void expect_refusal(const char *says)
{
    assert_true(try_add("in=pcap,rx=%s", file) < 0);
    if (!strstr(err.text, says) || !strstr(err.text, file) || !strstr(err.text, "port in: ")) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    }
    assert_null(dp_port(dp, "in"));
}

static void write_bytes(const void *p, size_t n)
{
    FILE *f = fopen(file, "w");

    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static void test_bad_files(void **state)
{
    static const struct spec cut[] = {{0, 1514, 96}};
    struct stat st;

    unlink(file);
    expect_refusal("cannot read ");
    assert_int_equal(mkdir(file, 0700), 0);
    expect_refusal("is not a file");
    rmdir(file);
    assert_int_equal(mkfifo(file, 0600), 0);
    expect_refusal("is not a file");
    unlink(file);
    write_bytes("", 0);
    expect_refusal("is no capture file: ");
    write_bytes("#!/bin/sh\nexit 0\n", 17);
    expect_refusal("is no capture file: ");
    write_file(DLT_RAW, three, 3);
    expect_refusal("holds no Ethernet frames but RAW");
    write_file(DLT_EN10MB, three, 0);
    expect_refusal("holds no frames");
    write_file(DLT_EN10MB, cut, 1);
    expect_refusal("holds no whole frames");
    write_file(DLT_EN10MB, three, 3);
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(truncate(file, st.st_size - 1), 0);
    expect_refusal("is damaged behind frame 2: ");
}

/* Any bytes behind a good beginning, and any beginning. */
static void test_random_files(void **state)
{
    static uint8_t good[20000], bad[20000];
    uint64_t x = 88172645463325252ull;

    write_file(DLT_EN10MB, three, 3);
    FILE *f = fopen(file, "r");
    size_t n = fread(good, 1, sizeof(good), f);
    fclose(f);
    for (unsigned i = 0; i < 500; i++) {
        memcpy(bad, good, n);
        for (unsigned k = 0; k <= i % 5; k++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bad[(x >> 16) % (i % 2 ? 48 : n)] = (uint8_t)x;
        }
        struct replay r;
        write_bytes(bad, n);
        if (!replay_load(&r, file, &err)) {
            replay_free(&r);
        }
    }
}

/* Mostly holes: the bytes of the frames are not on the disk. */
static void test_files_that_are_too_long(void **state)
{
    const struct spec one[] = {{0, 262144, 65536}}; /* as long as snaplen allows */
    uint32_t rec[4];
    uint8_t head[24];

    write_file(DLT_EN10MB, one, 1);
    FILE *f = fopen(file, "r+");
    assert_int_equal(fread(head, 1, sizeof(head), f), sizeof(head));
    assert_int_equal(fread(rec, 1, sizeof(rec), f), sizeof(rec));
    rec[2] = rec[3] = 262144;
    for (unsigned i = 0; i <= REPLAY_MAX / rec[2]; i++) {
        assert_int_equal(fseek(f, (long)(sizeof(head) + i * (sizeof(rec) + rec[2])), SEEK_SET), 0);
        assert_int_equal(fwrite(rec, sizeof(rec), 1, f), 1);
    }
    assert_int_equal(fclose(f), 0);
    expect_refusal("is too long: more than 256 MiB");
}

static void test_bad_words(void **state)
{
    static const struct {
        const char *arg, *says;
    } cases[] = {
        {"p=pcap", "needs rx=FILE to send, tx=FILE to record, or both"},
        {"p=pcap,tx=/x,loop", "loop= is of no use without rx=FILE"},
        {"p=pcap,rx=/x,tx=/x", "the same file"},
        {"p=pcap,rx=/x,speed=0.0001", "speed=0.0001 is neither max nor a factor"},
        {"p=pcap,rx=/x,speed=", "speed="},
        {"p=pcap,rx=/x,speed=-1", "speed=-1"},
        {"p=pcap,rx=/x,speed=1.", "speed=1."},
        {"p=pcap,rx=/x,speed=1e3", "speed=1e3"},
        {"p=pcap,rx=/x,speed=1000001", "speed=1000001"},
        {"p=pcap,rx=/x,speed=99999999999999999999", "speed=99999999999999999999"},
        {"p=pcap,rx=/x,loop=0", "loop=0"},
        {"p=pcap,rx=/x,loop=2x", "loop=2x"},
        {"p=pcap,rx=/x,paused=maybe", "paused=maybe is neither yes nor no"},
        {"p=pcap,tx=/nonexistent/x", "cannot write /nonexistent/x: No such file"},
        {"p=pcap,tx=/dev/null", "/dev/null is not a file"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        if (!try_add("%s", cases[i].arg) || !strstr(err.text, cases[i].says)) {
            fail_msg("%s: %s", cases[i].arg, err.text);
        }
    }
    write_bytes("precious", 8);
    assert_int_equal(try_add("p=pcap,tx=%s", file), -EEXIST);
    assert_non_null(strstr(err.text, "exists and is no pcapng file"));
    ADD("p=pcap,tx=%s", file2);
    assert_int_equal(dp_port_del(dp, "p", &err), 0);
    ADD("p=pcap,tx=%s", file2); /* its own one, again */
    assert_true(dp_port_set(dp, "p", "speed", "2", &err) < 0);
    assert_non_null(strstr(err.text, "of no use without rx=FILE"));
}

/* ---- recording -------------------------------------------------------------------------------------- */

static void test_what_is_sent_is_in_the_file(void **state)
{
    static const struct spec s[] = {{0, 14, 0}, {0, 60, 0}, {0, 1514, 0}, {0, PKT_MAX_LEN, 0}};
    char why[PCAP_ERRBUF_SIZE];
    struct pcap_pkthdr *h;
    const u_char *bytes;
    struct port_counters c;

    write_file(DLT_EN10MB, s, 4);
    ADD("rec=pcap,tx=%s", file2);
    ADD("in=pcap,rx=%s,loop=10", file);
    for (unsigned i = 0; i < 10; i++) {
        run();
        clock_warp(MS);
    }
    port_counters_sum(dp_port(dp, "rec"), &c);
    assert_int_equal(c.tx_frames, 40);
    assert_int_equal(dp_port_del(dp, "rec", &err), 0); /* returns when all is written */

    pcap_t *p = pcap_open_offline(file2, why);
    assert_non_null(p);
    for (unsigned i = 0; i < 40; i++) {
        static uint8_t f[70000];

        assert_int_equal(pcap_next_ex(p, &h, &bytes), 1);
        assert_int_equal(h->len, s[i % 4].len);
        assert_int_equal(h->caplen, h->len);
        fill(f, i % 4, h->len);
        assert_memory_equal(bytes, f, h->len);
    }
    assert_int_equal(pcap_next_ex(p, &h, &bytes), PCAP_ERROR_BREAK);
    pcap_close(p);
}

/* A disk that is full: it is said once, and what comes then is dropped for that reason. */
static void test_full_disk(void **state)
{
    static const struct spec s[] = {{0, 60000, 0}};
    const struct rlimit full = {100000, RLIM_INFINITY};
    struct port_counters c = {0};
    struct rlimit was;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    write_file(DLT_EN10MB, s, 1);
    ADD("rec=pcap,tx=%s", file2);
    ADD("in=pcap,rx=%s,loop", file);
    struct port *rec = dp_port(dp, "rec");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
    for (unsigned i = 0; i < 60000 && !(c.drop[DROP_TX_ERROR] && logged[0]); i++) {
        run();
        clock_warp(1000 * MS);
        usleep(1000); /* the thread writes */
        event_base_loop(base, EVLOOP_NONBLOCK);
        port_counters_sum(rec, &c);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    assert_true(c.drop[DROP_TX_ERROR] > 0);
    assert_true(c.tx_frames >= 1);
    assert_non_null(strstr(logged, "port rec: cannot write "));
    assert_non_null(strstr(logged, "File too large"));
    logged[0] = 0;
    assert_int_equal(dp_port_del(dp, "rec", &err), 0);
    assert_string_equal(logged, "");
}

static void test_null(void **state)
{
    struct port_counters c;

    write_file(DLT_EN10MB, three, 3);
    ADD("sink=null");
    ADD("in=pcap,rx=%s,speed=max,loop=10", file);
    run();
    port_counters_sum(dp_port(dp, "sink"), &c);
    assert_int_equal(c.tx_frames, 30);
    assert_int_equal(c.tx_bytes, 10 * (60 + 1514 + 9000));
    for (unsigned i = 0; i < DROP_N; i++) {
        assert_int_equal(c.drop[i], 0);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_time_stamps),
        TEST(test_late_frames_come_at_once),
        TEST(test_speed),
        TEST(test_loop),
        TEST(test_loop_for_ever),
        TEST(test_as_fast_as_it_goes),
        TEST(test_pause),
        TEST(test_clock_that_jumps),
        TEST(test_every_size),
        TEST(test_runts_and_giants_are_counted),
        TEST(test_cut_frames_are_left_out),
        TEST(test_what_is_sent_to_a_player_vanishes),
        TEST(test_bad_files),
        TEST(test_random_files),
        TEST(test_files_that_are_too_long),
        TEST(test_bad_words),
        TEST(test_what_is_sent_is_in_the_file),
        TEST(test_full_disk),
        TEST(test_null),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
