/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Captures with threads on all sides: workers that write, readers that sleep until they are woken,
 * captures and recording ports that come and go under traffic.  Nothing is lost or reordered, no
 * wake-up is missed.  Meant for ThreadSanitizer, too.
 *
 *   senders --inject--> a, b --(workers)--> a, b
 *                       | |
 *                       | +--- captures that come and go, with filters and drops
 *                       +----- one capture for all the time, its reader in a thread
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <event2/event.h>
#include <unistd.h>

#include "dp/dp.h"
#include "port/capture.h"
#include "port/port_dummy.h"

#define LIMIT_S 60
#define N_FRAMES 50000 /* each way */
#define LEN 100

static struct event_base *base;
static struct dp *dp;
static struct err err;
static struct port *port[2];

static void add(const char *arg)
{
    struct port_conf c;

    assert_int_equal(port_conf_parse(&c, arg, &err), 0);
    if (dp_port_add(dp, &c, &err)) {
        fail_msg("%s: %s", arg, err.text);
    }
    port_conf_free(&c);
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static void make(uint8_t f[LEN], unsigned from, uint32_t seq)
{
    memset(f, (int)seq, LEN);
    memcpy(f, (uint8_t[]){2, 0, 0, 0, 0, (uint8_t)(2 - from)}, 6);
    memcpy(f + 6, (uint8_t[]){2, 0, 0, 0, 0, (uint8_t)(1 + from)}, 6);
    memcpy(f + 14, &seq, sizeof(seq));
}

/* The number of a frame that is right to its last byte. */
static bool check(const uint8_t *bytes, unsigned from, uint32_t *seq)
{
    uint8_t f[LEN];

    memcpy(seq, bytes + 14, sizeof(*seq));
    make(f, from, *seq);
    return !memcmp(bytes, f, LEN);
}

static void *send_all(void *arg)
{
    unsigned from = (unsigned)(uintptr_t)arg;
    uint8_t f[LEN];

    for (uint32_t seq = 1; seq <= N_FRAMES; seq++) {
        make(f, from, seq);
        dummy_inject(port[from], f, sizeof(f));
        if (seq % 97 == 0) {
            nap(); /* workers and readers fall asleep now and then */
        }
    }
    return NULL;
}

struct reader {
    struct capture *c;
    struct capture_reader r;
    uint32_t last[3]; /* per direction */
    uint64_t n;
    const char *fault;
};

static void *read_all(void *arg)
{
    struct reader *r = arg;
    struct pollfd fd = {.fd = capture_eventfd(r->c), .events = POLLIN};
    struct capture_rec rec;
    const uint8_t *bytes;
    uint64_t count;

    while (r->n + capture_lost(&r->r) < 2 * N_FRAMES && !r->fault) {
        while (capture_peek(&r->r, &rec, &bytes) == 1) {
            uint32_t seq = 0;

            if (rec.len != LEN || rec.cap_len != LEN || !check(bytes, rec.dir == CAPTURE_OUT, &seq)) {
                r->fault = "a frame is wrong";
            } else if (seq <= r->last[rec.dir]) {
                r->fault = "a frame is late";
            }
            r->last[rec.dir] = seq;
            r->n++;
            capture_next(&r->r);
        }
        bool all = r->n + capture_lost(&r->r) == 2 * N_FRAMES;

        if (!all && !capture_arm(&r->r) && poll(&fd, 1, LIMIT_S * 1000) == 0) {
            r->fault = "nobody woke it";
        }
        capture_disarm(&r->r);
        (void)!read(fd.fd, &count, sizeof(count));
    }
    return NULL;
}

static struct capture *start(const char *name, struct capture_conf c)
{
    struct capture *out;

    if (dp_capture(dp, name, &c, &out, &err)) {
        fail_msg("%s", err.text);
    }
    return out;
}

/* Captures, and a port that records, for a moment each. */
static void come_and_go(unsigned i, const char *file)
{
    struct capture_conf c = {.snaplen = 20, .dirs = CAPTURE_IN | CAPTURE_OUT,
                             .ring_bytes = CAPTURE_RING_MIN, .drops = i % 3 == 0,
                             .filter = i % 2 ? "1,6 0 0 1" : NULL};
    struct capture *one = start("b", c), *two = start("a", c);
    char arg[100];

    snprintf(arg, sizeof(arg), "rec=pcap,tx=%s", file);
    add(arg);
    nap();
    capture_stop(one);
    assert_int_equal(dp_port_del(dp, "rec", &err), 0);
    capture_stop(two);
}

static void test_under_traffic(void **state)
{
    unsigned n_workers = (unsigned)(uintptr_t)*state;
    pthread_t sender[2], reader;
    struct reader r = {0};
    char file[] = "/tmp/rw-test-captures-XXXXXX";
    int fd = mkstemp(file);

    assert_true(fd >= 0);
    close(fd);
    base = event_base_new();
    struct dp_conf dc = {.evbase = base, .rundir = "/nonexistent", .n_workers = n_workers};
    assert_int_equal(dp_create(&dp, &dc, &err), 0);
    add("a=dummy,depth=100000");
    add("b=dummy,depth=100000");
    port[0] = dp_port(dp, "a");
    port[1] = dp_port(dp, "b");

    r.c = start("a", (struct capture_conf){.snaplen = CAPTURE_SNAPLEN,
                                           .dirs = CAPTURE_IN | CAPTURE_OUT,
                                           .ring_bytes = CAPTURE_RING_DEFAULT});
    const struct capture_mem *m = capture_mem(r.c);
    assert_int_equal(capture_reader_init(&r.r, m->head, m->bytes, &err), 0);
    pthread_create(&reader, NULL, read_all, &r);
    for (uintptr_t i = 0; i < 2; i++) {
        pthread_create(&sender[i], NULL, send_all, (void *)i);
    }
    time_t end = time(NULL) + LIMIT_S;
    for (unsigned i = 0; i < 20 || dummy_n_sent(port[0]) < N_FRAMES || dummy_n_sent(port[1]) < N_FRAMES;
         i++) {
        if (time(NULL) > end) {
            fail_msg("%u and %u frames after %d s", dummy_n_sent(port[0]), dummy_n_sent(port[1]),
                     LIMIT_S);
        }
        come_and_go(i, file);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(sender[i], NULL);
    }
    pthread_join(reader, NULL);
    if (r.fault) {
        fail_msg("%s", r.fault);
    }
    assert_int_equal(r.n + capture_lost(&r.r), 2 * N_FRAMES);
    for (unsigned to = 0; to < 2; to++) {
        for (unsigned i = 0; i < N_FRAMES; i++) {
            uint32_t len, seq;

            assert_true(check(dummy_sent(port[to], i, &len), 1 - to, &seq));
            assert_int_equal(seq, i + 1);
        }
    }
    capture_stop(r.c);
    dp_destroy(dp);
    event_base_free(base);
    unlink(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_under_traffic, (void *)1),
        cmocka_unit_test_prestate(test_under_traffic, (void *)3),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
