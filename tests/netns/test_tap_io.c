/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tap provider's hot half, call by call, in a network namespace that this process makes for
 * itself (as root, or as an ordinary user where user namespaces are allowed):
 *
 *     raw socket <--> rwt0 <--> port_tap_ops.rx / .tx, called from here
 *
 * What a whole switch cannot be made to do at will is done here: memory that vanishes under a send,
 * frames in a thousand pieces, a queue that is read to its end.
 */
#include <errno.h>
#include <event2/event.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "pkt/flowhash.h"
#include "pkt/offload.h"
#include "port/kinds.h"

#define PAGE     4096
#define LIMIT_MS 60000
#define N_QUEUES 4

static struct event_base *base;
static struct port *port;
static struct rxq *queue, *queues[N_QUEUES]; /* the first one; all */
static struct wctx w;
static struct batch *batch;
static int raw;
static struct err err;

/* ---- the other half of the switch --------------------------------------------------------- */

static int attach(void *ctx, struct rxq *q, struct err *e)
{
    queues[q->queue] = q;
    queue = queues[0];
    return 0;
}
static void detach(void *ctx, struct rxq *q)
{
    queues[q->queue] = NULL;
    queue = queues[0];
}
static void ready(void *ctx, struct port *p, bool is_ready)
{
    p->ready = is_ready;
}
static struct port_env env = {.n_workers = 1, .attach = attach, .detach = detach, .ready = ready};

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));

    if (fd >= 0) {
        close(fd);
    }
    return n < 0 ? -1 : 0;
}

/* False, with the reason in *why, where this machine does not allow it. */
static bool enter_namespace(const char **why)
{
    char map[40];
    unsigned uid = geteuid();

    if (access("/dev/net/tun", R_OK | W_OK)) {
        *why = "needs /dev/net/tun (modprobe tun, as root)";
        return false;
    }
    if (unshare(uid ? CLONE_NEWUSER | CLONE_NEWNET : CLONE_NEWNET)) {
        *why = "needs root, or user namespaces for ordinary users";
        return false;
    }
    snprintf(map, sizeof(map), "0 %u 1", uid);
    if (uid && write_file("/proc/self/uid_map", map)) {
        *why = "needs root: user namespaces are restricted here";
        return false;
    }
    write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"); /* nobody speaks unasked */
    write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    return true;
}

static int open_raw(const char *dev)
{
    int fd = socket(AF_PACKET, SOCK_RAW, htons(0x0003)), one = 1;
    struct ifreq ifr = {0};

    snprintf(ifr.ifr_name, IFNAMSIZ, "%s", dev);
    assert_int_equal(ioctl(fd, SIOCGIFINDEX, &ifr), 0);
    struct sockaddr_ll sa = {
        .sll_family = AF_PACKET, .sll_ifindex = ifr.ifr_ifindex, .sll_protocol = htons(0x0003)};
    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one));
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static int setup_port(const char *text)
{
    struct port_conf c;

    base = event_base_new();
    env.evbase = base;
    assert_int_equal(port_conf_parse(&c, text, &err), 0);
    if (port_create(&port, &c, &env, &err)) {
        fail_msg("%s", err.text);
    }
    port_conf_free(&c);
    assert_true(port->ready);
    raw = open_raw("rwt0");
    batch = aligned_alloc(CACHE_LINE, sizeof(*batch));
    w.tx_scratch = aligned_alloc(CACHE_LINE, WCTX_SCRATCH);
    return 0;
}

static int setup(void **state)
{
    return setup_port("rwt0=tap");
}

static int setup_queues(void **state)
{
    return setup_port("rwt0=tap,queues=4");
}

static int teardown(void **state)
{
    close(raw);
    port->ops->destroy(port);
    assert_null(queue);
    event_base_free(base);
    free(batch);
    free(w.tx_scratch);
    return 0;
}

static uint64_t drops(enum drop why)
{
    return port->counters[0].drop[why];
}

/* Packet 0 of the batch: the first `snap` bytes of f in the snapshot; no spans yet. */
static struct pkt *first(const uint8_t *f, uint16_t snap)
{
    struct pkt *k = &batch->pkt[0];

    memset(k, 0, sizeof(*k));
    batch->n = 1;
    k->data = batch_snap(batch, 0) + VNET_HDR_LEN;
    pkt_plain_header(k->data); /* as whoever received it left it */
    memcpy(k->data, f, snap);
    k->len = k->snap_len = snap;
    return k;
}

static bool header_is_plain(const struct pkt *k)
{
    static const struct vnet_hdr plain = {.num_buffers = 1};

    return !memcmp(k->data - VNET_HDR_LEN, &plain, sizeof(plain));
}

static void tx(void)
{
    port->ops->tx(port, batch, (const uint8_t[]){0}, 1, &w);
    assert_true(header_is_plain(&batch->pkt[0])); /* a flood sends it to others, too */
}

static void fill(uint8_t *f, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        f[i] = (uint8_t)(i * 11);
    }
    f[0] = f[6] = 0x02; /* unicast to somebody, from somebody */
    f[12] = 0x88;
    f[13] = 0xb5;
}

static void expect_raw(const uint8_t *f, uint32_t len)
{
    uint8_t got[70000];
    struct pollfd p = {.fd = raw, .events = POLLIN};

    assert_int_equal(poll(&p, 1, LIMIT_MS), 1);
    assert_int_equal(recv(raw, got, sizeof(got), 0), len);
    assert_memory_equal(got, f, len);
}

/* ---- send --------------------------------------------------------------------------------- */

static void test_tx_in_pieces(void **state)
{
    uint8_t f[1500];
    struct gspan spans[PKT_MAX_SPANS];
    const uint32_t sizes[] = {1320, 660, 100, 7, 2};

    fill(f, sizeof(f));
    first(f, 60);
    tx();
    expect_raw(f, 60);
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct pkt *k = first(f, 180);
        for (uint32_t at = 180; at < sizeof(f); at += sizes[i]) {
            uint32_t len = MIN(sizes[i], (uint32_t)sizeof(f) - at);
            spans[k->n_spans++] = (struct gspan){(const uint8_t GUEST *)(f + at), len};
        }
        k->len = sizeof(f);
        k->span = spans[0];
        k->spans = spans;
        tx();
        expect_raw(f, sizeof(f));
    }
    assert_int_equal(port->counters[0].tx_frames, 1 + ARRAY_SIZE(sizes));
    assert_int_equal(port->counters[0].tx_bytes, 60 + 1500 * ARRAY_SIZE(sizes));
}

static void test_tx_too_many_pieces(void **state)
{
    uint8_t f[1500];
    struct gspan spans[PKT_MAX_SPANS];

    fill(f, sizeof(f));
    for (uint16_t n = 1023; n <= 1024; n++) {
        struct pkt *k = first(f, 180);
        for (uint32_t i = 0; i < n; i++) {
            spans[i] = (struct gspan){(const uint8_t GUEST *)(f + 180 + i), 1};
        }
        k->len = 180u + n;
        k->n_spans = n;
        k->spans = spans;
        tx();
    }
    expect_raw(f, 180 + 1023); /* as many as the kernel takes in one call, and not one more */
    assert_int_equal(drops(DROP_TX_ERROR), 1);
    assert_int_equal(port->counters[0].tx_frames, 1);
}

/* The sender's memory file shrinks while its frame is being sent. */
static void test_tx_from_vanished_memory(void **state)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);
    uint8_t f[60];

    fill(f, sizeof(f));
    assert_int_equal(gmem_init(&err), 0); /* here: cmocka puts its own SIGBUS handler per test */
    assert_int_equal(ftruncate(fd, 4 * PAGE), 0);
    struct gmem *m;
    struct gmem_region_desc d = {.gpa = 0, .size = 4 * PAGE, .uva = 0x100000, .fd = dup(fd)};
    assert_int_equal(gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "guest", NULL, &err), 0);
    uint32_t hint = 0, len = 1000, seq = gmem_fault_seq();
    const uint8_t GUEST *va = gmem_span(m, &hint, (gpa_t){PAGE - 100}, &len);
    assert_int_equal(len, 1000);

    struct pkt *k = first(f, 60);
    k->n_spans = 1;
    k->span = (struct gspan){va, len};
    k->len = 60 + len;
    tx(); /* as long as it is there */
    assert_int_equal(port->counters[0].tx_frames, 1);
    assert_int_equal(ftruncate(fd, PAGE), 0);
    assert_false(gmem_faulted(m));
    tx();
    assert_int_equal(port->counters[0].tx_frames, 1);
    assert_int_equal(drops(DROP_TX_ERROR), 1);
    assert_int_not_equal(gmem_fault_seq(), seq); /* its owner will notice */
    assert_true(gmem_faulted(m));

    first(f, 60); /* and the port works */
    tx();
    assert_int_equal(port->counters[0].tx_frames, 2);
    gmem_free(m);
    close(fd);
}

static void set_flags(short set, short clear)
{
    struct ifreq ifr = {0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    snprintf(ifr.ifr_name, IFNAMSIZ, "rwt0");
    assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &ifr), 0);
    ifr.ifr_flags = (short)((ifr.ifr_flags | set) & ~clear);
    assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
    close(fd);
}

static void test_tx_drops(void **state)
{
    uint8_t f[1600];

    fill(f, sizeof(f));
    set_flags(0, IFF_UP);
    first(f, 60);
    tx();
    assert_int_equal(drops(DROP_NOT_READY), 1);
    event_base_loop(base, EVLOOP_ONCE); /* the kernel's message is there already */
    assert_false(port->ready);
    set_flags(IFF_UP, 0);
    event_base_loop(base, EVLOOP_ONCE);
    assert_true(port->ready);

    struct pkt *k = first(f, 60);
    k->n_spans = 1;
    k->span = (struct gspan){(const uint8_t GUEST *)(f + 60), 1515 - 60};
    k->len = 1515;
    tx();
    assert_int_equal(drops(DROP_MTU), 1);
    first(f, 13); /* less than the kernel takes: the bridge lets none of these through */
    tx();
    assert_int_equal(drops(DROP_TX_ERROR), 1);
    assert_int_equal(port->counters[0].tx_frames, 0);
}

/* A device that takes nothing now: the frame is lost and named, nobody waits. */
static void test_tx_full(void **state)
{
    uint8_t f[60];
    int pair[2], tap = dup(queue->fd);

    fill(f, sizeof(f));
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    while (send(pair[0], f, sizeof(f), 0) > 0) {
    }
    assert_int_equal(errno, EAGAIN);
    assert_true(tap >= 0 && dup2(pair[0], queue->fd) >= 0);
    first(f, 60);
    tx();
    assert_int_equal(drops(DROP_TX_FULL), 1);
    assert_int_equal(port->counters[0].tx_frames, 0);
    assert_true(dup2(tap, queue->fd) >= 0);
    tx();
    expect_raw(f, 60);
    assert_int_equal(port->counters[0].tx_frames, 1);
    close(pair[0]);
    close(pair[1]);
    close(tap);
}

/* ---- receive ------------------------------------------------------------------------------ */

static uint32_t rx_from(struct rxq *q)
{
    batch->n = batch->n_spans = batch->n_loans = 0;
    batch->hashed = false;
    uint32_t n = port->ops->rx(q, batch, &w);
    port->ops->rx_done(q, batch, &w);
    return n;
}

static uint32_t rx(void)
{
    return rx_from(queue);
}

static void say(const uint8_t *f, uint32_t len)
{
    assert_int_equal(send(raw, f, len, 0), len);
}

static void test_rx_lends(void **state)
{
    uint8_t f[1514];
    const uint32_t lens[] = {14, 60, 179, 180, 181, 1514};

    fill(f, sizeof(f));
    for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
        say(f, lens[i]);
    }
    queue->ready = true;
    assert_int_equal(rx(), ARRAY_SIZE(lens));
    assert_int_equal(batch->n, ARRAY_SIZE(lens));
    for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
        const struct pkt *k = &batch->pkt[i];
        uint32_t snap = MIN(lens[i], (uint32_t)PKT_SNAP - VNET_HDR_LEN);
        assert_int_equal(k->len, lens[i]);
        assert_int_equal(k->snap_len, snap);
        assert_memory_equal(k->data, f, snap);
        assert_true(header_is_plain(k));
        assert_int_equal(k->n_spans, lens[i] > snap);
        if (k->n_spans) {
            assert_int_equal(k->span.len, lens[i] - snap);
            assert_memory_equal(GUEST_PTR(const uint8_t, k->span.p), f + snap, k->span.len);
        }
    }
    assert_int_equal(port->counters[0].rx_frames, ARRAY_SIZE(lens));
    assert_int_equal(port->counters[0].rx_bytes, 14 + 60 + 179 + 180 + 181 + 1514);
}

/* The fd is watched for edges: a queue may be left only after the kernel said that it is empty. */
static void test_rx_reads_to_the_end(void **state)
{
    uint8_t f[60];

    fill(f, sizeof(f));
    for (unsigned i = 0; i < 2 * PKT_BURST; i++) {
        say(f, sizeof(f));
    }
    queue->ready = true;
    assert_int_equal(rx(), PKT_BURST);
    assert_true(queue->ready && port->ops->arm(queue));
    assert_int_equal(rx(), PKT_BURST);
    assert_true(queue->ready); /* a full burst: nobody has seen the end yet */
    assert_int_equal(rx(), 0);
    assert_false(queue->ready || port->ops->arm(queue));
    say(f, sizeof(f));
    struct pollfd p = {.fd = queue->fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, LIMIT_MS), 1);
    assert_int_equal(rx(), 1);
    assert_false(queue->ready);
}

/* A batch of large frames is closed when it has PKT_BATCH_BYTES; the rest is in the next one. */
static void test_rx_closes_a_large_batch(void **state)
{
    static uint8_t f[65535];
    const uint32_t full = PKT_BATCH_BYTES / sizeof(f) + 1;
    int room = 8 << 20;

    fill(f, sizeof(f));
    assert_int_equal(port->ops->set(port, "mtu", "65521", &err), 0);
    assert_int_equal(setsockopt(raw, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)), 0);
    for (unsigned i = 0; i < full + 3; i++) {
        say(f, sizeof(f));
    }
    queue->ready = true;
    assert_int_equal(rx(), full);
    assert_int_equal(batch->n_loans, full);
    assert_true(queue->ready);
    assert_int_equal(rx(), 3);
}

/* ---- several queues ----------------------------------------------------------------------- */

/* An IPv4 packet with an UDP header; to the host, or from it. */
static void udp(uint8_t f[60], uint16_t flow, bool to_host)
{
    static const uint8_t ip[20] = {0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17};
    const uint8_t ends[2][4] = {{10, 0, 0, 1}, {10, 0, 0, 2}};
    const uint16_t ports[2] = {htons((uint16_t)(20000 + flow)), htons(9)};
    const uint16_t len = htons(26);

    memset(f, 0, 60);
    f[0] = f[6] = 0x02;
    f[5] = to_host ? 1 : 2;
    f[11] = to_host ? 2 : 1;
    f[12] = 0x08;
    memcpy(f + 14, ip, sizeof(ip));
    memcpy(f + 26, ends[!to_host], 4);
    memcpy(f + 30, ends[to_host], 4);
    memcpy(f + 34, &ports[!to_host], 2);
    memcpy(f + 36, &ports[to_host], 2);
    memcpy(f + 38, &len, 2);
}

static unsigned queue_of(const uint8_t f[60])
{
    return (unsigned)((uint64_t)flow_hash(f, 60) * N_QUEUES >> 32);
}

/* Both ends of a flow are on the queue that its hash says, whichever way a frame goes: the kernel
 * sends where it was written to. */
static void test_answers_keep_their_queue(void **state)
{
    unsigned used = 0;

    for (uint16_t flow = 0; flow < 64; flow++) {
        uint8_t f[60];

        udp(f, flow, true);
        batch->hashed = false;
        first(f, sizeof(f));
        tx();
        expect_raw(f, sizeof(f));
        unsigned at = queue_of(f);
        udp(f, flow, false);
        assert_int_equal(queue_of(f), at);
        say(f, sizeof(f));
        for (unsigned i = 0; i < N_QUEUES; i++) {
            queues[i]->ready = true;
            assert_int_equal(rx_from(queues[i]), i == at);
            if (i == at) {
                assert_memory_equal(batch->pkt[0].data, f, sizeof(f));
            }
        }
        used |= 1u << at;
    }
    assert_int_equal(used, (1u << N_QUEUES) - 1);
    assert_int_equal(port->counters[0].tx_frames, 64);
    assert_int_equal(port->counters[0].rx_frames, 64);
}

/* A batch of many flows: each frame once, and those of a flow in order. */
static void test_a_batch_is_spread(void **state)
{
    uint8_t idx[PKT_BURST], f[60];
    unsigned next[8] = {0};

    for (uint8_t i = 0; i < PKT_BURST; i++) {
        udp(f, i % 8, true);
        f[59] = i;
        struct pkt *k = &batch->pkt[i];
        memset(k, 0, sizeof(*k));
        k->data = batch_snap(batch, i) + VNET_HDR_LEN;
        pkt_plain_header(k->data);
        memcpy(k->data, f, sizeof(f));
        k->len = k->snap_len = sizeof(f);
        idx[i] = i;
    }
    batch->n = PKT_BURST;
    batch->hashed = false;
    port->ops->tx(port, batch, idx, PKT_BURST, &w);
    assert_int_equal(port->counters[0].tx_frames, PKT_BURST);
    for (unsigned i = 0; i < PKT_BURST; i++) {
        assert_int_equal(recv(raw, f, sizeof(f), 0), sizeof(f));
        unsigned flow = f[59] % 8;
        assert_int_equal(f[59] / 8, next[flow]++);
    }
}

/* Datagrams of one flow go to the host as one frame, where the kernel knows USO; others by
 * themselves. */
static void test_datagrams_are_joined(void **state)
{
    const struct vnet_hdr said = {
        .flags = VNET_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = OFFLOAD_UDP_SUM};
    uint8_t idx[9], f[60], got[2000];
    unsigned frames = 0, bytes = 0;
    char taken[64];
    json_t *o = json_object();

    port->ops->show(port, o);
    snprintf(taken, sizeof(taken), "%s", json_string_value(json_object_get(o, "offload_taken")));
    json_decref(o);
    for (uint8_t i = 0; i < sizeof(idx); i++) {
        udp(f, i == 4 ? 2 : 1, true);
        f[20] = 0x40; /* DF */
        f[24] = 0x26; /* and so the checksum of the header */
        f[25] = 0xbd;
        f[59] = i;
        struct pkt *k = &batch->pkt[i];
        memset(k, 0, sizeof(*k));
        k->data = batch_snap(batch, i) + VNET_HDR_LEN;
        memcpy(k->data, f, sizeof(f));
        k->len = k->snap_len = sizeof(f);
        assert_int_equal(offload_check(k, &said, OFFLOAD_CSUM), DROP_N);
        idx[i] = i;
    }
    batch->n = sizeof(idx);
    port->ops->tx(port, batch, idx, sizeof(idx), &w);
    assert_int_equal(port->counters[0].tx_frames, sizeof(idx));
    assert_int_equal(port->counters[0].tx_bytes, sizeof(idx) * sizeof(f));
    while (bytes < sizeof(idx) * 18) {
        struct pollfd p = {.fd = raw, .events = POLLIN};
        assert_int_equal(poll(&p, 1, LIMIT_MS), 1);
        ssize_t n = recv(raw, got, sizeof(got), 0);
        assert_true(n >= 60 && (n - 42) % 18 == 0);
        bytes += (unsigned)n - 42;
        frames++;
    }
    assert_int_equal(bytes, sizeof(idx) * 18);
    assert_int_equal(frames, strstr(taken, "uso") || !strcmp(taken, "all") ? 3 : sizeof(idx));
}

static void test_rx_of_a_deleted_device(void **state)
{
    if (system("ip link del rwt0") != 0) {
        skip();
    }
    queue->ready = true;
    assert_int_equal(rx(), 0);
    assert_false(queue->ready);
    uint8_t f[60];
    fill(f, sizeof(f));
    first(f, 60);
    tx();
    assert_int_equal(drops(DROP_NOT_READY), 1);
    event_base_loop(base, EVLOOP_ONCE);
    assert_false(port->ready);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const char *why;

    if (!enter_namespace(&why)) {
        printf("skipped: %s\n", why);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        TEST(test_tx_in_pieces),
        TEST(test_tx_too_many_pieces),
        TEST(test_tx_from_vanished_memory),
        TEST(test_tx_drops),
        TEST(test_tx_full),
        TEST(test_rx_lends),
        TEST(test_rx_reads_to_the_end),
        TEST(test_rx_closes_a_large_batch),
        TEST(test_rx_of_a_deleted_device),
        cmocka_unit_test_setup_teardown(test_answers_keep_their_queue, setup_queues, teardown),
        TEST(test_datagrams_are_joined),
        cmocka_unit_test_setup_teardown(test_a_batch_is_spread, setup_queues, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
