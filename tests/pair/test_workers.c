/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several worker threads, dummy ports on both sides: nothing is lost or reordered between two
 * ports, no wake-up is missed, and ports that come and go disturb nobody.  Meant for
 * ThreadSanitizer, too.
 *
 *   test thread(s) --inject--> p0 p1 p2 p3 --(workers 0..2)--> p0 p1 p2 p3 --recorded--> test
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <event2/event.h>

#include "dp/dp.h"
#include "port/port_dummy.h"

#define LIMIT_S 60  /* that anything may take */
#define ENOUGH_S 10 /* a loop that repeats the same thing stops then, also on a slow machine */

static struct event_base *base;
static struct dp *dp;
static struct err err;

static void up(unsigned n_workers)
{
    base = event_base_new();
    struct dp_conf c = {.evbase = base, .rundir = "/nonexistent", .n_workers = n_workers};
    assert_int_equal(dp_create(&dp, &c, &err), 0);
}

static void down(void)
{
    dp_destroy(dp);
    event_base_free(base);
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
    return p;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static void wait_sent(struct port *p, unsigned n)
{
    time_t end = time(NULL) + LIMIT_S;

    while (dummy_n_sent(p) < n) {
        if (time(NULL) > end) {
            fail_msg("%s: %u of %u frames after %d s", p->name, dummy_n_sent(p), n, LIMIT_S);
        }
        nap();
    }
}

/* 60 bytes: addresses, then the sender's number and a sequence number. */
static void make(uint8_t f[60], unsigned dst, unsigned src, uint32_t seq)
{
    memset(f, 0, 60);
    f[0] = f[6] = 0x02;
    f[5] = (uint8_t)dst;
    f[11] = (uint8_t)src;
    f[14] = (uint8_t)src;
    memcpy(f + 16, &seq, sizeof(seq));
}

/* Have everybody's address learnt, then forget the frames that did it.  Repeated: a worker that
 * finds the table locked by another one does not learn from that frame. */
static void introduce(struct port *const *p, unsigned n)
{
    uint8_t f[60];

    for (unsigned rounds = 1; mactab_total(dp_mactab(dp)) < n; rounds++) {
        assert_true(rounds < 10000);
        for (unsigned i = 0; i < n; i++) {
            make(f, 0, i, 0);
            memset(f, 0xff, 6);
            dummy_inject(p[i], f, sizeof(f));
        }
        for (unsigned i = 0; i < n; i++) {
            wait_sent(p[i], rounds * (n - 1));
        }
    }
    for (unsigned i = 0; i < n; i++) {
        dummy_clear(p[i]);
    }
}

/* ---- traffic ------------------------------------------------------------------------------ */

#define N_PORTS  4
#define N_FRAMES 6000 /* per sender */

struct sender {
    struct port **port;
    unsigned me;
    unsigned between_naps; /* frames */
    unsigned *n_done;
};

static void *send_all(void *arg)
{
    struct sender *s = arg;
    uint8_t f[60];

    for (uint32_t seq = 0; seq < N_FRAMES; seq++) {
        unsigned to = (s->me + 1 + seq % (N_PORTS - 1)) % N_PORTS;
        make(f, to, s->me, seq);
        dummy_inject(s->port[s->me], f, sizeof(f));
        if (seq % s->between_naps == 0) {
            nap(); /* let the workers fall asleep now and then */
        }
    }
    __atomic_fetch_add(s->n_done, 1, __ATOMIC_RELAXED);
    return NULL;
}

static void check_received(struct port *p, unsigned me)
{
    uint32_t last[N_PORTS] = {0}, len, count[N_PORTS] = {0};

    for (unsigned i = 0; i < dummy_n_sent(p); i++) {
        const uint8_t *f = dummy_sent(p, i, &len);
        uint32_t seq;
        memcpy(&seq, f + 16, sizeof(seq));
        assert_int_equal(len, 60);
        assert_int_equal(f[5], me);
        assert_true(count[f[14]] == 0 || seq > last[f[14]]);
        last[f[14]] = seq;
        count[f[14]]++;
    }
    for (unsigned i = 0; i < N_PORTS; i++) {
        assert_int_equal(count[i], i == me ? 0 : N_FRAMES / (N_PORTS - 1));
    }
}

/* Every queue goes around all workers until everybody has sent; the timer's own moves in between. */
static void move_queues(unsigned n_workers, const unsigned *n_done)
{
    struct worker_info w[8];
    time_t end = time(NULL) + LIMIT_S;

    for (unsigned i = 0; __atomic_load_n(n_done, __ATOMIC_RELAXED) < N_PORTS; i++) {
        char name[8];
        assert_true(time(NULL) <= end);
        snprintf(name, sizeof(name), "p%u", i % N_PORTS);
        assert_int_equal(dp_queue_pin(dp, name, 0, (int)(i / N_PORTS % n_workers), &err), 0);
        assert_int_equal(dp_queue_pin(dp, name, 0, -1, &err), 0);
        dp_balance(dp);
        dp_workers(dp, w, 8);
        unsigned queues = 0;
        for (unsigned k = 0; k < n_workers; k++) {
            queues += w[k].n_queues;
        }
        assert_int_equal(queues, N_PORTS);
    }
}

static void all_to_all(unsigned n_workers, bool move)
{
    struct port *p[N_PORTS];
    struct sender s[N_PORTS];
    pthread_t th[N_PORTS];
    unsigned n_done = 0;

    up(n_workers);
    for (unsigned i = 0; i < N_PORTS; i++) {
        char arg[40];
        snprintf(arg, sizeof(arg), "p%u=dummy,depth=100000", i);
        p[i] = add(arg);
    }
    introduce(p, N_PORTS);
    for (unsigned i = 0; i < N_PORTS; i++) {
        s[i] = (struct sender){p, i, move ? 20 : 500, &n_done};
        assert_int_equal(pthread_create(&th[i], NULL, send_all, &s[i]), 0);
    }
    if (move) {
        move_queues(n_workers, &n_done);
    }
    for (unsigned i = 0; i < N_PORTS; i++) {
        pthread_join(th[i], NULL);
    }
    for (unsigned i = 0; i < N_PORTS; i++) {
        wait_sent(p[i], N_FRAMES);
        check_received(p[i], i);
    }
    struct worker_info w[8];
    uint64_t frames = 0, received = 0;
    assert_int_equal(dp_workers(dp, w, 8), n_workers);
    for (unsigned i = 0; i < n_workers; i++) {
        assert_true(w[i].n_queues > 0 || move);
    }
    for (unsigned i = 0; i < N_PORTS; i++) {
        struct port_counters sum;
        port_counters_sum(p[i], &sum);
        received += sum.rx_frames;
        for (unsigned d = 0; d < DROP_N; d++) {
            assert_int_equal(sum.drop[d], 0);
        }
    }
    do { /* a worker counts at the end of its round */
        dp_workers(dp, w, 8);
        frames = 0;
        for (unsigned i = 0; i < n_workers; i++) {
            frames += w[i].frames;
        }
    } while (frames < received);
    assert_int_equal(frames, received);
    down();
}

static void test_one_worker(void **state)
{
    all_to_all(1, false);
}

static void test_three_workers(void **state)
{
    all_to_all(3, false);
}

static void test_queues_that_move(void **state)
{
    all_to_all(3, true);
}

/* ---- sleep -------------------------------------------------------------------------------- */

static void wait_asleep(void)
{
    struct worker_info w;
    time_t end = time(NULL) + LIMIT_S;

    do {
        assert_true(time(NULL) <= end);
        nap();
        dp_workers(dp, &w, 1);
    } while (!w.asleep);
}

static void test_no_wakeup_is_missed(void **state)
{
    struct worker_info w;
    uint8_t f[60];

    up(1);
    struct port *p[2] = {add("a=dummy"), add("b=dummy")};
    introduce(p, 2);
    time_t end = time(NULL) + ENOUGH_S;
    for (unsigned i = 0; i < 2000 && time(NULL) < end; i++) {
        if (i % 4 == 0) {
            wait_asleep();
        } else { /* hit the moment of falling asleep from all sides */
            for (volatile unsigned k = 0; k < i * 40; k++) {
            }
        }
        make(f, 1, 0, i);
        dummy_inject(p[0], f, sizeof(f));
        wait_sent(p[1], i % 1000 + 1);
        if (i % 1000 == 999) {
            dummy_clear(p[1]);
        }
    }
    wait_asleep();
    dp_workers(dp, &w, 1);
    assert_true(w.sleeps > 0);
    down();
}

/* ---- ports come and go -------------------------------------------------------------------- */

struct stream {
    struct port *from;
    uint32_t n;
    bool stop;
};

static void *stream(void *arg)
{
    struct stream *s = arg;
    uint8_t f[60];

    while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED) && s->n < 50000) {
        make(f, 1, 0, s->n++);
        dummy_inject(s->from, f, sizeof(f));
        if (s->n % 8 == 0) { /* floods that also reach the ports that come and go */
            memset(f, 0xff, 6);
            dummy_inject(s->from, f, sizeof(f));
        }
        if (s->n % 64 == 0) {
            nap();
        }
    }
    return NULL;
}

/* How many frames of the stream arrived: each, in its order. */
static uint32_t count_stream(struct port *p)
{
    uint32_t next = 0, len, n = dummy_n_sent(p);

    for (unsigned i = 0; i < n; i++) {
        const uint8_t *f = dummy_sent(p, i, &len);
        uint32_t seq;
        memcpy(&seq, f + 16, sizeof(seq));
        if (f[14] == 0 && f[5] == 1) {
            assert_int_equal(seq, next);
            next++;
        }
    }
    return next;
}

/* The stream ends: all of it arrives, and nothing was dropped on the way to `to`. */
static void all_arrived(struct stream *s, pthread_t th, struct port *to)
{
    __atomic_store_n(&s->stop, true, __ATOMIC_RELAXED);
    pthread_join(th, NULL);
    time_t end = time(NULL) + LIMIT_S;
    while (count_stream(to) < s->n && time(NULL) <= end) {
        nap();
    }
    assert_int_equal(count_stream(to), s->n);
    struct port_counters sum;
    port_counters_sum(to, &sum);
    for (unsigned i = 0; i < DROP_N; i++) {
        assert_int_equal(sum.drop[i], 0);
    }
}

static void test_ports_come_and_go(void **state)
{
    pthread_t th;
    uint8_t f[60];

    up(2);
    struct port *p[2] = {add("a=dummy"), add("b=dummy,depth=200000")};
    introduce(p, 2);
    struct stream s = {.from = p[0]};
    assert_int_equal(pthread_create(&th, NULL, stream, &s), 0);
    time_t enough = time(NULL) + ENOUGH_S;
    for (unsigned i = 0; i < 150 && time(NULL) < enough; i++) {
        struct port *c = add(i % 2 ? "c=dummy" : "c=dummy,isolated=yes");
        struct port *d = add("d=dummy,depth=100000");
        for (unsigned k = 0; k < 20; k++) { /* they talk, too, up to the moment they go */
            make(f, k % 3, 7, k);
            dummy_inject(c, f, sizeof(f));
            make(f, 7, 8, k);
            dummy_inject(d, f, sizeof(f));
        }
        assert_int_equal(dp_port_set(dp, "d", "isolated", i % 2 ? "yes" : "no", &err), 0);
        dp_tick(dp);
        assert_int_equal(dp_port_del(dp, i % 2 ? "c" : "d", &err), 0);
        assert_int_equal(dp_port_del(dp, i % 2 ? "d" : "c", &err), 0);
    }
    all_arrived(&s, th, p[1]);
    down();
}

/* VLANs of two ports change all the time, with fids that are given back and taken again; the others,
 * in a VLAN that they share with them at times, lose nothing. */
static void test_vlans_come_and_go(void **state)
{
    static const char *const lists[] = {"10", "20-30", "5", "10-4000"};
    pthread_t th;
    uint8_t f[64];

    up(2);
    struct port *p[2] = {add("a=dummy,vlan=10"), add("b=dummy,depth=400000,vlan=10")};
    struct port *c = add("c=dummy,depth=400000"), *d = add("d=dummy,depth=400000,trunk=10-20");
    introduce(p, 2);
    struct stream s = {.from = p[0]};
    assert_int_equal(pthread_create(&th, NULL, stream, &s), 0);
    time_t enough = time(NULL) + ENOUGH_S;
    for (unsigned i = 0; i < 200 && time(NULL) < enough; i++) {
        struct vlan_set vids;

        assert_int_equal(vlan_set_parse(&vids, lists[i % ARRAY_SIZE(lists)], &err), 0);
        assert_int_equal(dp_vlan_add(dp, "c", &vids, false, i & 1, &err), 0);
        for (unsigned k = 0; k < 20; k++) { /* from VLAN 10, tagged, and from where they are */
            make(f, k % 3, 7, k);
            memmove(f + 16, f + 12, 48);
            memcpy(f + 12, "\x81\x00\x00\x0a", 4);
            dummy_inject(c, f, sizeof(f));
            make(f, 7, 8, k);
            dummy_inject(d, f, 60);
        }
        assert_int_equal(dp_port_set(dp, "d", i & 1 ? "vlan" : "trunk", i & 1 ? "10" : "30", &err), 0);
        dp_tick(dp);
        assert_int_equal(dp_vlan_del(dp, "c", &vids, &err), 0);
        dummy_clear(c);
        dummy_clear(d);
    }
    all_arrived(&s, th, p[1]);
    down();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_worker),
        cmocka_unit_test(test_three_workers),
        cmocka_unit_test(test_queues_that_move),
        cmocka_unit_test(test_no_wakeup_is_missed),
        cmocka_unit_test(test_ports_come_and_go),
        cmocka_unit_test(test_vlans_come_and_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
