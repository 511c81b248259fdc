/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports that are sockets, without threads: how often a byte is copied, the rest of a frame that the
 * kernel took in part, and what is counted when it takes no more.
 *
 *     qemu (qemu-stream or qemu-dgram) --- br0 --- d (dummy)      the test is QEMU
 */
#include "port/port_qemu_dgram.c" /* its q.ready is set here, as no worker waits for the fd */
#define drop_of stream_drop_of
#define refuse stream_refuse
#define update_ready stream_update_ready
#define set_mtu stream_set_mtu
#include "port/port_qemu_stream.c"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/un.h>

#include <cmocka.h>

#include "dp/dp.h"
#include "port/port_dummy.h"

static struct event_base *base;
static struct dp *dp;
static struct err err;
static struct port *qemu, *d;
static int s; /* the test's socket */
static char dir[] = "/tmp/rw-test-socket-XXXXXX";

static struct port *add(const char *fmt, const char *arg)
{
    struct port_conf c;
    char text[200];

    snprintf(text, sizeof(text), fmt, arg);
    assert_int_equal(port_conf_parse(&c, text, &err), 0);
    if (dp_port_add(dp, &c, &err)) {
        fail_msg("%s", err.text);
    }
    struct port *p = dp_port(dp, c.name);
    port_conf_free(&c);
    return p;
}

static void address(struct sockaddr_un *a, const char *name)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(a->sun_path, sizeof(a->sun_path), "%s/%s", dir, name);
}

static void connect_to_switch(void)
{
    struct sockaddr_un a;

    s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address(&a, "qemu.sock");
    assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
}

static void bind_peer(void)
{
    struct sockaddr_un a;

    s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    address(&a, "qemu.peer.sock");
    assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
}

static void begin(const char *kind)
{
    struct dp_conf c = {.evbase = base = event_base_new(), .rundir = dir, .n_workers = 1, .no_threads = true};

    assert_int_equal(dp_create(&dp, &c, &err), 0);
    qemu = add("qemu=%s", kind);
    d = add("%s=dummy", "d");
    if (!strcmp(kind, "qemu-stream")) {
        connect_to_switch();
    } else {
        bind_peer();
    }
    for (unsigned i = 0; i < 1000 && !qemu->ready; i++) {
        event_base_loop(base, EVLOOP_ONCE);
    }
    assert_true(qemu->ready);
}

static void end(void)
{
    struct sockaddr_un a;

    close(s);
    dp_destroy(dp);
    event_base_free(base);
    address(&a, "qemu.peer.sock");
    unlink(a.sun_path);
}

/* A frame of QEMU's: to `dst`, from the other station, with a number in it. */
static void fill(uint8_t *f, uint8_t dst, uint32_t number, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        f[i] = (uint8_t)(i + number);
    }
    memcpy(f, (uint8_t[]){2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, 3 - dst}, 12);
    memcpy(f + 14, &number, sizeof(number));
}

enum { TO_QEMU = 1, TO_DUMMY = 2 };

static void say(uint8_t dst, uint32_t number, uint32_t len, bool stream)
{
    static uint8_t f[PREFIX + PKT_MAX_LEN];
    uint32_t be = __builtin_bswap32(len);

    fill(f + PREFIX, dst, number, len);
    if (dst == TO_QEMU) {
        dummy_inject(d, f + PREFIX, len);
        return;
    }
    memcpy(f, &be, PREFIX);
    struct sockaddr_un a;
    address(&a, "qemu.sock");
    ssize_t n = stream ? send(s, f, PREFIX + len, 0)
                       : sendto(s, f + PREFIX, len, 0, (struct sockaddr *)&a, sizeof(a));
    assert_int_equal(n, stream ? PREFIX + len : len);
    *(stream ? &stream_of(qemu)->q.ready : &dgram_of(qemu)->q.ready) = true;
}

static void run(void)
{
    for (unsigned i = 0; i < 1000 && dp_run_once(dp); i++) {
    }
}

static uint64_t drops(const struct port *p, enum drop why)
{
    struct port_counters c;

    port_counters_sum(p, &c);
    return c.drop[why];
}

static uint64_t sent(const struct port *p)
{
    struct port_counters c;

    port_counters_sum(p, &c);
    return c.tx_frames;
}

/* Towards QEMU nothing but the snapshot is copied here; from it a stream's frame like a guest's, of a
 * datagram nothing before the egress. */
static void copies(const char *kind)
{
    const uint32_t lens[] = {60, 180, 1514, 65000}, snap = PKT_SNAP - VNET_HDR_LEN;
    const bool stream = !strcmp(kind, "qemu-stream");
    static uint8_t got[PREFIX + PKT_MAX_LEN];

    begin(kind);
    say(TO_DUMMY, 0, 60, stream);
    run();
    for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
        const uint32_t n = lens[i], wire = n + (stream ? PREFIX : 0);
        uint64_t before = copy_bytes_counted;

        say(TO_QEMU, i, n, stream);
        run();
        assert_int_equal(copy_bytes_counted - before, MIN(n, snap)); /* the dummy's */
        assert_int_equal(recv(s, got, wire, MSG_WAITALL), wire);
        before = copy_bytes_counted;
        say(TO_DUMMY, i, n, stream);
        run();
        assert_int_equal(copy_bytes_counted - before, n + (stream ? MIN(n, snap) : 0));
    }
    assert_int_equal(dummy_n_sent(d), 1 + ARRAY_SIZE(lens));
    end();
}

static void test_copies_stream(void **state)
{
    copies("qemu-stream");
}

static void test_copies_dgram(void **state)
{
    copies("qemu-dgram");
}

/* The kernel takes a part of a frame: the rest is kept, goes out before anything else, and each frame is
 * either sent or counted. */
static void test_rest(void **state)
{
    const uint32_t len = 60000, n = 64;
    static uint8_t got[PREFIX + PKT_MAX_LEN], want[PKT_MAX_LEN];
    uint32_t number, last = 0;

    begin("qemu-stream");
    say(TO_DUMMY, 0, 60, true);
    run();
    for (uint32_t i = 1; i <= n; i++) {
        say(TO_QEMU, i, len, true);
    }
    run();
    struct port_stream *ps = stream_of(qemu);
    assert_true(ps->rest_at < ps->rest_len);
    assert_true(sent(qemu) > 0);
    assert_int_equal(sent(qemu) + drops(qemu, DROP_TX_FULL), n);
    for (uint64_t i = sent(qemu); i; i--) {
        /* the control thread finishes the last one as soon as there is room */
        event_base_loop(base, EVLOOP_NONBLOCK);
        assert_int_equal(recv(s, got, PREFIX, MSG_WAITALL), PREFIX);
        assert_int_equal(take_be32(got), len);
        for (uint32_t at = 0; at < len;) {
            ssize_t k = recv(s, got + at, len - at, MSG_DONTWAIT);

            assert_true(k > 0 || (k < 0 && errno == EAGAIN));
            at += k > 0 ? (uint32_t)k : 0;
            event_base_loop(base, EVLOOP_NONBLOCK);
        }
        memcpy(&number, got + 14, sizeof(number));
        assert_true(number > last);
        last = number;
        fill(want, TO_QEMU, number, len);
        assert_memory_equal(got, want, len);
    }
    assert_int_equal(ps->rest_at, ps->rest_len);
    assert_int_equal(recv(s, got, 1, MSG_DONTWAIT), -1);
    end();
}

static int make_dir(void **state)
{
    log_set_level(LOG_ERROR);
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_stream),
        cmocka_unit_test(test_copies_dgram),
        cmocka_unit_test(test_rest),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
