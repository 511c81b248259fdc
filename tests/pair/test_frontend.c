/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front-end of the load generator against the switch's back-end: two ports, frames between
 * them.
 *
 *     front-end a ---- socket, shared memory ---- [ a | br0 | b ] ---- front-end b
 *     (this thread)                               (thread "pump")
 *
 * The pump is the switch's control thread and its only worker in one, so nothing depends on how the
 * machine schedules; this thread blocks in the front-end and waits for conditions.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>

#include "dp/dp.h"
#include "mem/gmem.h"
#include "vhost/vu_frontend.h"
#include "vnet/features.h"

#define NUM     64 /* of packed rings, three less: not a power of two */
#define HDR     12
#define BUF     2048
#define FRAME   1000
#define WANTED  (VIRTIO_BIT(F_VERSION_1) | VIRTIO_BIT(F_EVENT_IDX) | VIRTIO_BIT(F_INDIRECT_DESC))
#define WAIT_MS 20000

static struct {
    struct event_base *base;
    struct dp *dp;
    pthread_t thread;
    bool stop;
    char dir[64];
} sw;

struct side {
    struct vu_fe *fe;
    struct ring_drv *rx, *tx;
    uint8_t *rx_buf, *tx_buf;
};
static struct side a, b;
static bool packed_a, packed_b; /* what the run of the tests negotiates */
static struct err err;

/* ---- the switch ---- */

static void *pump(void *arg)
{
    while (!__atomic_load_n(&sw.stop, __ATOMIC_ACQUIRE)) {
        event_base_loop(sw.base, EVLOOP_NONBLOCK);
        if (!dp_run_once(sw.dp)) {
            usleep(100);
        }
    }
    return NULL;
}

static void add_port(const char *arg)
{
    struct port_conf c;

    if (port_conf_parse(&c, arg, &err) || dp_port_add(sw.dp, &c, &err)) {
        fail_msg("%s: %s", arg, err.text);
    }
    port_conf_free(&c);
}

static void switch_start(const char *port_a, const char *port_b)
{
    strcpy(sw.dir, "/tmp/ringway-fe-XXXXXX");
    assert_non_null(mkdtemp(sw.dir));
    sw.base = event_base_new();
    sw.stop = false;
    struct dp_conf c = {.evbase = sw.base, .rundir = sw.dir, .n_workers = 1, .no_threads = true};
    assert_int_equal(gmem_init(&err), 0);
    assert_int_equal(dp_create(&sw.dp, &c, &err), 0);
    for (int i = 0; i < 2; i++) {
        const char *p = i ? port_b : port_a;
        char arg[256];

        /* "=client" stands for a client of the socket where our front-end listens */
        snprintf(arg, sizeof(arg), strchr(p, '=') ? "%.1s=vhost-user,client=%s/%.1s.sock" : "%.1s",
                 p, sw.dir, p);
        add_port(arg);
    }
    assert_int_equal(pthread_create(&sw.thread, NULL, pump, NULL), 0);
}

static int switch_stop(void **state)
{
    vu_fe_destroy(a.fe);
    vu_fe_destroy(b.fe);
    memset(&a, 0, sizeof(a));
    memset(&b, 0, sizeof(b));
    __atomic_store_n(&sw.stop, true, __ATOMIC_RELEASE);
    pthread_join(sw.thread, NULL);
    dp_destroy(sw.dp);
    event_base_free(sw.base);
    rmdir(sw.dir);
    return 0;
}

static int both_serve(void **state)
{
    switch_start("a", "b");
    return 0;
}

static int both_dial(void **state)
{
    switch_start("a=client", "b=client");
    return 0;
}

/* ---- a guest ---- */

static void must(int r)
{
    if (r) {
        fail_msg("%s", err.text);
    }
}

static void plug(struct side *s, const char *name, bool server, unsigned n_regions)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s.sock", sw.dir, name);
    uint64_t layout = (s == &a ? packed_a : packed_b) ? VIRTIO_BIT(F_RING_PACKED) : 0;
    struct vu_fe_conf c = {.path = path,
                           .server = server,
                           .features = WANTED | layout | VIRTIO_BIT(NET_F_MTU),
                           .features_required = VIRTIO_BIT(F_VERSION_1) | layout,
                           .n_rings = 2,
                           .num = layout ? NUM - 3 : NUM,
                           .buf_bytes = 2ull * NUM * BUF,
                           .n_regions = n_regions,
                           .mtu = 1500,
                           .timeout_ms = WAIT_MS};
    must(vu_fe_create(&s->fe, &c, &err));
    must(vu_fe_connect(s->fe, &err));
    s->rx = &vu_fe_ring(s->fe, 0)->drv;
    s->tx = &vu_fe_ring(s->fe, 1)->drv;
    s->rx_buf = vu_fe_buf(s->fe);
    s->tx_buf = s->rx_buf + (size_t)NUM * BUF;
    must(vu_fe_start(s->fe, false, &err));
}

static void kick(struct side *s, unsigned ring)
{
    struct ring_drv *d = &vu_fe_ring(s->fe, ring)->drv;

    if (ring_drv_publish(d->layout, d)) {
        vu_fe_kick(vu_fe_ring(s->fe, ring));
    }
}

static void post(struct side *s)
{
    for (unsigned i = 0; i < s->rx->num; i++) {
        uint8_t *p = s->rx_buf + (size_t)i * BUF;
        struct ring_seg seg = {.addr = vu_fe_gpa(s->fe, p), .len = BUF};

        assert_true(ring_drv_add(s->rx->layout, s->rx, &seg, 0, 1, p) >= 0);
    }
    kick(s, 0);
}

/* Frame number n: from a station behind s to one behind nobody (so it floods). */
static void fill(const struct side *s, uint8_t *p, uint32_t n)
{
    memset(p, 0, HDR);
    for (uint32_t i = 0; i < FRAME; i++) {
        p[HDR + i] = (uint8_t)(i * 7 + n);
    }
    const uint8_t head[14] = {2, 0, 0, 0, 0, 99, 2, 0, 0, 0, 0, s == &a ? 1 : 2, 0x88, 0xb5};
    memcpy(p + HDR, head, sizeof(head));
}

static void expect_same(const struct side *from, const uint8_t *got, uint32_t len, uint32_t n)
{
    static uint8_t want[HDR + FRAME];

    fill(from, want, n);
    assert_int_equal(len, HDR + FRAME);
    assert_memory_equal(got + HDR, want + HDR, FRAME);
}

/* One used chain, waited for. */
static struct ring_drv_used next_used(struct ring_drv *d)
{
    struct ring_drv_used u;

    for (unsigned ms = 0; ms < WAIT_MS; ms++) {
        if (ring_drv_reap(d->layout, d, &u, 1)) {
            return u;
        }
        assert_int_equal(d->broken, RING_DRV_FAULT_NONE);
        usleep(1000);
    }
    fail_msg("nothing was used within %d ms", WAIT_MS);
    return u;
}

/* Frame n from one side to the other, sent as n_seg segments or through an indirect table. */
static void cross(struct side *from, struct side *to, uint32_t n, uint32_t n_seg, bool indirect)
{
    uint8_t *p = from->tx_buf + (size_t)(n % NUM) * BUF;
    struct vring_desc *table = (struct vring_desc *)(void *)(p + BUF - 256);
    struct ring_seg seg[8];
    uint32_t at = 0;

    fill(from, p, n);
    for (uint32_t i = 0; i < n_seg; i++) {
        uint32_t len = i + 1 < n_seg ? 5 + i : HDR + FRAME - at;

        seg[i] = (struct ring_seg){.addr = vu_fe_gpa(from->fe, p + at), .len = len};
        at += len;
    }
    int id = indirect ? ring_drv_add_indirect(from->tx->layout, from->tx, table,
                                              vu_fe_gpa(from->fe, table), seg, n_seg, 0, p)
                      : ring_drv_add(from->tx->layout, from->tx, seg, n_seg, 0, p);
    assert_true(id >= 0);
    kick(from, 1);
    struct ring_drv_used u = next_used(to->rx);
    expect_same(from, u.token, u.len, n);
    ring_drv_repost(to->rx->layout, to->rx, u.id);
    kick(to, 0);
    u = next_used(from->tx);
    assert_ptr_equal(u.token, p);
    assert_int_equal(from->tx->layout, (from == &a ? packed_a : packed_b) ? RING_PACKED : RING_SPLIT);
    ring_drv_release(from->tx, u.id);
}

static void plug_both(bool server, unsigned n_regions)
{
    plug(&a, "a", server, n_regions);
    plug(&b, "b", server, n_regions);
    post(&a);
    post(&b);
}

/* ---- tests ---- */

static void test_frames(void **state)
{
    plug_both(false, 1);
    for (uint32_t n = 0; n < 3 * NUM; n++) {
        cross(&a, &b, n, 1, false);
        cross(&b, &a, n, 1 + n % 7, false);
        cross(&a, &b, n, 1 + n % 7, true);
    }
}

static void test_client_mode(void **state)
{
    plug_both(true, 1);
    for (uint32_t n = 0; n < 10; n++) {
        cross(&a, &b, n, 1, false);
        cross(&b, &a, n, 2, false);
    }
}

/* Buffers cross regions that touch in our space: eight of them, so that some do. */
static void test_regions(void **state)
{
    plug_both(false, VU_FE_MAX_REGIONS);
    for (uint32_t n = 0; n < 3 * NUM; n++) {
        cross(&a, &b, n, 1 + n % 3, false);
        cross(&b, &a, n, 1, false);
    }
}

/* Where a ring is after n chains of one descriptor. */
static uint16_t position(const struct ring_drv *d, uint32_t n)
{
    return (uint16_t)(d->layout == RING_SPLIT
                          ? n
                          : n % d->num | (n / d->num % 2 ? 0 : VRING_PACKED_WRAP));
}

static void test_stop_and_resume(void **state)
{
    plug_both(false, 1);
    for (uint32_t n = 0; n < 100; n++) {
        cross(&a, &b, n, 1, false);
    }
    must(vu_fe_stop(a.fe, &err));
    assert_int_equal(vu_fe_stop_index(a.fe, 1), position(a.tx, 100));
    must(vu_fe_stop(b.fe, &err));
    assert_int_equal(vu_fe_stop_index(b.fe, 0), position(b.rx, 100));
    must(vu_fe_start(a.fe, true, &err));
    must(vu_fe_start(b.fe, true, &err));
    for (uint32_t n = 100; n < 200; n++) {
        cross(&a, &b, n, 1, false);
        cross(&b, &a, n, 1, false);
    }
}

/* The front-end's process dies and comes back with the guest's memory as it was. */
static void test_hang_up(void **state)
{
    plug_both(false, 1);
    for (uint32_t n = 0; n < 30; n++) {
        cross(&a, &b, n, 1, false);
        if (n % 10 == 9) {
            vu_fe_close(n % 20 == 9 ? a.fe : b.fe);
            must(vu_fe_connect(n % 20 == 9 ? a.fe : b.fe, &err));
            must(vu_fe_start(n % 20 == 9 ? a.fe : b.fe, true, &err));
        }
    }
    cross(&b, &a, 1, 1, false);
}

static void test_memory_comes_and_goes(void **state)
{
    uint8_t *va, *old = NULL;
    uint64_t gpa = 0;

    plug_both(false, 1);
    assert_true(vu_fe_protocol_features(a.fe) & VU_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS));
    for (uint32_t n = 0; n < 5; n++) {
        must(vu_fe_add_region(a.fe, 1 << 20, &va, &gpa, &err));
        assert_int_equal(vu_fe_gpa(a.fe, va + 17), gpa + 17);
        old = a.tx_buf;
        a.tx_buf = va + 4096;
        cross(&a, &b, n, 3, n & 1);
        a.tx_buf = old;
        must(vu_fe_del_region(a.fe, gpa, &err));
        cross(&a, &b, n, 1, false);
    }
    assert_int_equal(vu_fe_del_region(a.fe, gpa, &err), -ENOENT);
}

/* A driver that asks to be signalled gets a signal; one that does not is left alone. */
static void test_signals(void **state)
{
    plug_both(false, 1);
    cross(&a, &b, 0, 1, false);
    while (vu_fe_take_call(vu_fe_ring(b.fe, 0))) {
    }
    for (uint32_t n = 1; n < 20; n++) {
        cross(&a, &b, n, 1, false);
    }
    assert_false(vu_fe_take_call(vu_fe_ring(b.fe, 0)));
    assert_false(ring_drv_arm(b.rx->layout, b.rx));
    cross(&a, &b, 20, 1, false);
    bool signalled = false;
    for (unsigned ms = 0; ms < WAIT_MS && !signalled; ms++) {
        signalled = vu_fe_take_call(vu_fe_ring(b.fe, 0));
        usleep(1000);
    }
    assert_true(signalled);
}

static void test_errors(void **state)
{
    struct vu_fe_conf c = {
        .path = "/nonexistent/socket", .n_rings = 2, .num = NUM, .timeout_ms = 50};
    char path[128];

    must(vu_fe_create(&a.fe, &c, &err));
    assert_int_equal(vu_fe_connect(a.fe, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/socket"));
    vu_fe_destroy(a.fe);
    a.fe = NULL;

    snprintf(path, sizeof(path), "%s/a.sock", sw.dir);
    c.path = path;
    c.timeout_ms = WAIT_MS;
    c.features_required = VIRTIO_BIT(NET_F_STANDBY);
    must(vu_fe_create(&a.fe, &c, &err));
    assert_int_equal(vu_fe_connect(a.fe, &err), -EOPNOTSUPP);
    assert_non_null(strstr(err.text, "VIRTIO_NET_F_STANDBY"));
    vu_fe_destroy(a.fe);
    a.fe = NULL;

    c.num = 100;
    assert_int_equal(vu_fe_create(&a.fe, &c, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_frames, both_serve, switch_stop),
        cmocka_unit_test_setup_teardown(test_client_mode, both_dial, switch_stop),
        cmocka_unit_test_setup_teardown(test_regions, both_serve, switch_stop),
        cmocka_unit_test_setup_teardown(test_stop_and_resume, both_serve, switch_stop),
        cmocka_unit_test_setup_teardown(test_hang_up, both_serve, switch_stop),
        cmocka_unit_test_setup_teardown(test_memory_comes_and_goes, both_serve, switch_stop),
        cmocka_unit_test_setup_teardown(test_signals, both_serve, switch_stop),
        cmocka_unit_test_setup_teardown(test_errors, both_serve, switch_stop),
    };

    int failed = 0;

    for (int i = 0; i < 4; i++) {
        packed_a = i & 1;
        packed_b = i & 2;
        print_message("a %s, b %s\n", packed_a ? "packed" : "split", packed_b ? "packed" : "split");
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}
