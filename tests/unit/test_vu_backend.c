/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vhost-user back-end against a scripted front-end: orders of messages, what stops and starts
 * what, every refusal, and that no fd is lost on any path (each test counts them).
 */
#include "vhost/vu_backend.c" /* its time-outs are shortened here */
#include "vhost/vu_meet.c"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/un.h>

#include "base/fd.h"
#include "ring/ring_resume.h"
#include "vu_front.h"

static struct front F;

static void quiet(enum log_level level, const char *line)
{
}

static uint32_t rnd_state = 1;
static uint32_t rnd(uint32_t below);

static int setup(void **state)
{
    deadline_ms = VU_DEADLINE_MS;
    watch_ms = 60000;
    front_new_base(&F);
    front_listen(&F);
    front_connect(&F);
    F.own.log[0] = '\0';
    return 0;
}

static int teardown(void **state)
{
    front_end(&F);
    return 0;
}

#define assert_log(text)                                                                           \
    do {                                                                                           \
        pump(&F);                                                                                  \
        assert_string_equal(F.own.log, text);                                                      \
        F.own.log[0] = '\0';                                                                       \
    } while (0)

/* --- orders ----------------------------------------------------------------------------------- */

/* As recorded with QEMU 7.2; the memory comes in slots. */
static void qemu_order(void **state)
{
    struct front *f = &F;
    uint64_t offered = ask(f, VU_GET_FEATURES);

    assert_int_equal(offered, OFFERED);
    assert_int_equal(ask(f, VU_GET_PROTOCOL_FEATURES), 0x1b01f);
    say_u64(f, VU_SET_PROTOCOL_FEATURES, PLAIN, 0x1b01f);
    assert_int_equal(ask(f, VU_GET_QUEUE_NUM), 256);
    assert_int_equal(ask(f, VU_GET_MAX_MEM_SLOTS), 509);
    send_msg(f, VU_SET_OWNER, PLAIN, NULL, 0, NULL, 0);
    assert_int_equal(ask(f, VU_GET_FEATURES), offered);
    for (unsigned i = 0; i < 2; i++) {
        say_fd(f, VU_SET_VRING_CALL, PLAIN, i);
        say_fd(f, VU_SET_VRING_ERR, PLAIN, i);
    }
    for (unsigned k = 0; k < 5; k++) {
        for (unsigned i = 0; i < 2; i++) {
            say_state(f, VU_SET_VRING_ENABLE, PLAIN, i, 1);
        }
    }
    say_u64(f, VU_SET_FEATURES, PLAIN, offered & ~VIRTIO_BIT(F_LOG_ALL));
    assert_int_equal(ask(f, VU_GET_STATUS), 0);
    say_u64(f, VU_SET_STATUS, PLAIN, 8);
    say_region(f, VU_ADD_MEM_REG, NEED_REPLY, 0, MEM_BYTES, 1);
    assert_int_equal(reply(f, VU_ADD_MEM_REG), 0);
    assert_log("");
    say_ring(f, 0, 0);
    assert_log("start 0 @0;call 0;");
    say_ring(f, 1, 0);
    assert_log("start 1 @0;call 1;");
    assert_int_equal(ask(f, VU_GET_STATUS), 8);
    say_u64(f, VU_SET_STATUS, PLAIN, 15);
    pump(f);
    assert_int_equal(f->own.features, offered & ~VIRTIO_BIT(F_LOG_ALL));
    assert_string_equal(info(f).state, "running");
    assert_int_equal(info(f).status, 15);
    assert_int_equal(info(f).n_refused, 0);

    /* stop and cont: the status first, the index still comes */
    f->own.progress = 7;
    say_u64(f, VU_SET_STATUS, PLAIN, 0);
    assert_log("");
    assert_int_equal(get_base(f, 0), 7);
    assert_int_equal(get_base(f, 1), 7);
    assert_log("stop 0;stop 1;");
    assert_string_equal(info(f).state, "connected");
    say_ring(f, 0, 7);
    say_ring(f, 1, 7);
    assert_log("start 0 @7;call 0;start 1 @7;call 1;");
}

/* Everything asks for an answer; address before index; no status. */
static void cloud_hypervisor_order(void **state)
{
    struct front *f = &F;

    send_msg(f, VU_SET_OWNER, NEED_REPLY, NULL, 0, NULL, 0);
    assert_int_equal(reply(f, VU_SET_OWNER), 0);
    send_msg(f, VU_GET_FEATURES, NEED_REPLY, NULL, 0, NULL, 0);
    reply(f, VU_GET_FEATURES);
    no_reply(f);
    say_u64(f, VU_SET_PROTOCOL_FEATURES, NEED_REPLY, 9);
    assert_int_equal(reply(f, VU_SET_PROTOCOL_FEATURES), 0);
    say_u64(f, VU_SET_FEATURES, NEED_REPLY, TEST_FEATURES);
    assert_int_equal(reply(f, VU_SET_FEATURES), 0);
    say_memory(f, NEED_REPLY);
    assert_int_equal(reply(f, VU_SET_MEM_TABLE), 0);
    for (unsigned i = 0; i < 2; i++) {
        say_state(f, VU_SET_VRING_NUM, NEED_REPLY, i, RING_NUM);
        assert_int_equal(reply(f, VU_SET_VRING_NUM), 0);
        say_addr(f, NEED_REPLY, i);
        assert_int_equal(reply(f, VU_SET_VRING_ADDR), 0);
        say_state(f, VU_SET_VRING_BASE, NEED_REPLY, i, 0);
        assert_int_equal(reply(f, VU_SET_VRING_BASE), 0);
        say_fd(f, VU_SET_VRING_CALL, NEED_REPLY, i);
        assert_int_equal(reply(f, VU_SET_VRING_CALL), 0);
        say_fd(f, VU_SET_VRING_KICK, NEED_REPLY, i);
        assert_int_equal(reply(f, VU_SET_VRING_KICK), 0);
    }
    assert_log("");
    for (unsigned i = 0; i < 2; i++) {
        say_state(f, VU_SET_VRING_ENABLE, NEED_REPLY, i, 1);
        assert_int_equal(reply(f, VU_SET_VRING_ENABLE), 0);
    }
    no_reply(f);
    assert_log("start 0 @0;start 1 @0;");

    /* it pauses by disabling alone */
    f->own.progress = 3;
    say_state(f, VU_SET_VRING_ENABLE, NEED_REPLY, 0, 0);
    assert_int_equal(reply(f, VU_SET_VRING_ENABLE), 0);
    assert_log("stop 0;");
    say_state(f, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    assert_log("start 0 @3;");
}

/* As recorded with DPDK 22.11. */
static void virtio_user_order(void **state)
{
    struct front *f = &F;

    send_msg(f, VU_SET_OWNER, PLAIN, NULL, 0, NULL, 0);
    ask(f, VU_GET_FEATURES);
    ask(f, VU_GET_PROTOCOL_FEATURES);
    say_u64(f, VU_SET_PROTOCOL_FEATURES, PLAIN, 0x10009);
    say_fd(f, VU_SET_VRING_CALL, PLAIN, 0);
    say_fd(f, VU_SET_VRING_CALL, PLAIN, 1);
    say_u64(f, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_u64(f, VU_SET_STATUS, NEED_REPLY, 11);
    assert_int_equal(reply(f, VU_SET_STATUS), 0);
    assert_int_equal(ask(f, VU_GET_STATUS), 11);
    say_memory(f, NEED_REPLY);
    assert_int_equal(reply(f, VU_SET_MEM_TABLE), 0);
    for (unsigned i = 0; i < 2; i++) {
        say_state(f, VU_SET_VRING_NUM, PLAIN, i, RING_NUM);
        say_state(f, VU_SET_VRING_BASE, PLAIN, i, 0);
        say_addr(f, PLAIN, i);
        say_fd(f, VU_SET_VRING_KICK, PLAIN, i);
    }
    assert_log("");
    say_state(f, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    say_state(f, VU_SET_VRING_ENABLE, PLAIN, 1, 1);
    assert_log("start 0 @0;start 1 @0;");
    say_state(f, VU_SET_VRING_ENABLE, PLAIN, 0, 0);
    say_state(f, VU_SET_VRING_ENABLE, PLAIN, 1, 0);
    get_base(f, 0);
    get_base(f, 1);
    assert_log("stop 0;stop 1;");
}

static void say_part(struct front *f, unsigned part)
{
    switch (part) {
    case 0:
        say_u64(f, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
        break;
    case 1:
        say_memory(f, PLAIN);
        break;
    case 2:
        say_state(f, VU_SET_VRING_NUM, PLAIN, 0, RING_NUM);
        break;
    case 3:
        say_addr(f, PLAIN, 0);
        break;
    case 4:
        say_state(f, VU_SET_VRING_BASE, PLAIN, 0, 0);
        break;
    case 5:
        say_fd(f, VU_SET_VRING_KICK, PLAIN, 0);
        break;
    default:
        say_state(f, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
        break;
    }
}

#define N_PARTS 7u

/* All 5,040 orders: the ring starts with the last message, once. */
static void every_order(void **state)
{
    unsigned order[N_PARTS], count = 0;

    for (unsigned n = 0; n < 5040; n++) {
        unsigned rest = n, taken = 0;

        for (unsigned i = 0; i < N_PARTS; i++) { /* the n-th permutation */
            unsigned left = N_PARTS - i, k = rest % left, p = 0;

            rest /= left;
            for (;; p++) {
                if (!(taken & 1u << p) && !k--) {
                    break;
                }
            }
            taken |= 1u << p;
            order[i] = p;
        }
        for (unsigned i = 0; i < N_PARTS - 1; i++) {
            say_part(&F, order[i]);
        }
        event_base_loop(F.base, EVLOOP_NONBLOCK);
        assert_int_equal(F.own.n_starts, count);
        say_part(&F, order[N_PARTS - 1]);
        event_base_loop(F.base, EVLOOP_NONBLOCK);
        assert_int_equal(F.own.n_starts, ++count);
        close(F.s);
        F.s = -1;
        event_base_loop(F.base, EVLOOP_NONBLOCK);
        assert_false(F.own.up);
        front_connect(&F);
        F.own.log[0] = '\0';
    }
}

/* Negotiation repeats per pair on one connection; also while rings run. */
static void repeated_negotiation(void **state)
{
    say_all(&F);
    for (unsigned i = 0; i < 4; i++) {
        ask(&F, VU_GET_FEATURES);
        ask(&F, VU_GET_PROTOCOL_FEATURES);
        say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, 0x1b01f);
        say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
        send_msg(&F, VU_SET_OWNER, PLAIN, NULL, 0, NULL, 0);
        send_msg(&F, VU_RESET_OWNER, PLAIN, NULL, 0, NULL, 0);
    }
    assert_log("");
}

/* --- starting --------------------------------------------------------------------------------- */

static void without_bit_30_rings_are_enabled(void **state)
{
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES & ~VIRTIO_BIT(F_PROTOCOL_FEATURES));
    say_memory(&F, PLAIN);
    say_ring(&F, 0, 0);
    assert_log("start 0 @0;call 0;");
}

static void without_kick_fd_it_is_polled(void **state)
{
    struct vu_ring_info r;

    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_memory(&F, PLAIN);
    say_state(&F, VU_SET_VRING_NUM, PLAIN, 0, RING_NUM);
    say_state(&F, VU_SET_VRING_BASE, PLAIN, 0, 0);
    say_addr(&F, PLAIN, 0);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    assert_log("");
    say_u64(&F, VU_SET_VRING_KICK, PLAIN, 0x100);
    assert_log("start 0 @0;");
    assert_int_equal(F.own.conf[0].kick_fd, -1);
    assert_int_equal(F.own.conf[0].call_fd, -1);
    r = ring_info(&F, 0);
    assert_true(r.polled);
    say_fd(&F, VU_SET_VRING_CALL, PLAIN, 0);
    assert_log("call 0;");
    say_u64(&F, VU_SET_VRING_CALL, PLAIN, 0x100);
    assert_log("call 0 none;");
    say_u64(&F, VU_SET_VRING_ERR, PLAIN, 0x100);
    assert_log("");
}

static void the_owner_gets_what_was_said(void **state)
{
    say_all(&F);
    const struct vu_ring_conf *c = &F.own.conf[1];

    assert_int_equal(c->num, RING_NUM);
    assert_int_equal((uint8_t *)c->avail - (uint8_t *)c->desc, 0x400);
    assert_int_equal((uint8_t *)c->used - (uint8_t *)c->desc, 0x800);
    assert_true(fd_is_eventfd(c->kick_fd) && fd_is_eventfd(c->call_fd));
    F.mem[RING_STRIDE] = 0x5a;
    assert_int_equal(*(uint8_t *)c->desc, 0x5a); /* the same memory, elsewhere */
    assert_ptr_not_equal(c->desc, F.mem + RING_STRIDE);
}

static void starts_at_the_used_index(void **state)
{
    used_of(&F, 0)->idx = 65530;
    avail_of(&F, 0)->idx = 10;
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_memory(&F, PLAIN);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    say_ring(&F, 0, 10); /* the guest's available index, as after a crash of ours */
    assert_log("start 0 @65530;call 0;");
}

static void indices_too_far_apart(void **state)
{
    struct vu_ring_info r;

    used_of(&F, 0)->idx = 0;
    avail_of(&F, 0)->idx = RING_NUM + 1;
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_memory(&F, PLAIN);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    say_ring(&F, 0, 0);
    assert_log("");
    r = ring_info(&F, 0);
    assert_true(r.broken);
    assert_non_null(strstr(r.why, "65"));
    assert_non_null(strstr(info(&F).last_error, "used index"));
    avail_of(&F, 0)->idx = RING_NUM;
    say_addr(&F, PLAIN, 0); /* tried again */
    assert_log("start 0 @0;");
}

static void the_owner_may_refuse(void **state)
{
    F.own.refuse_start = -ENOMEM;
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_memory(&F, PLAIN);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    say_fd(&F, VU_SET_VRING_ERR, PLAIN, 0);
    say_ring(&F, 0, 0);
    assert_log("");
    assert_int_equal(F.own.n_signals, 1);
    assert_string_equal(info(&F).last_error, "the owner does not want it");
    F.own.refuse_start = 0;
    say_state(&F, VU_SET_VRING_ENABLE, NEED_REPLY, 0, 1);
    assert_int_equal(reply(&F, VU_SET_VRING_ENABLE), 0);
    assert_log("start 0 @0;");
}

/* What a ring waits for is told. */
static void why_it_does_not_run(void **state)
{
    static const char *const words[] = {"FEATURES", "NUM",    "ADDR",  "BASE",
                                        "KICK",     "memory", "ENABLE"};
    static const unsigned part[] = {0, 2, 3, 4, 5, 1, 6};
    struct vu_ring_info r;

    assert_false(vu_dev_ring_info(F.dev, 0, &r));
    say_u64(&F, VU_SET_VRING_CALL, PLAIN, 0x100);
    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        pump(&F);
        r = ring_info(&F, 0);
        assert_false(r.running);
        assert_non_null(strstr(r.why, words[i]));
        say_part(&F, part[i]);
    }
    pump(&F);
    r = ring_info(&F, 0);
    assert_true(r.running && r.enabled && !r.broken);
    assert_null(r.why);
    assert_false(vu_dev_ring_info(F.dev, 256, &r));
}

/* Each way in which the description of a ring can be wrong; then it is repaired and starts. */
static void ring_described_wrongly(void **state)
{
    static const struct {
        uint64_t desc, avail, used; /* offsets from where they belong */
        uint32_t num;
        const char *word;
    } bad[] = {
        {8, 0, 0, RING_NUM, "aligned"},
        {0, 1, 0, RING_NUM, "aligned"},
        {0, 0, 2, RING_NUM, "aligned"},
        {0, 0, 0, 48, "power of two"},
        {MEM_BYTES, 0, 0, RING_NUM, "descriptor table"},
        {MEM_BYTES - 16, 0, 0, RING_NUM, "share=on"},
        {0, MEM_BYTES - 0x400 - 128, 0, RING_NUM, "available ring"},
        {0, 0, MEM_BYTES - 0x800 - 512, RING_NUM, "used ring"},
        {0x20000 - 0x200, 0, 0, RING_NUM, "not inside one"}, /* crosses the two regions */
        {(uint64_t)0 - UVA - 0x10, 0, 0, RING_NUM, "descriptor table"},
        {0x7c0, 0, 0, RING_NUM, "overlap"},
        {0, 0x400, 0, RING_NUM, "overlap"},
        {0x400, 0, 0, RING_NUM, "overlap"},
        {0, 0, 0, 32768, "descriptor table"},
    };
    const struct vu_region two[] = {region(0, 0x20000), region(0x20000, 0x20000)};

    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_table(&F, PLAIN, two, 2);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    say_fd(&F, VU_SET_VRING_ERR, PLAIN, 0);
    say_ring(&F, 0, 0);
    assert_log("start 0 @0;call 0;");
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct vu_ring_addr a = ring_addr(0);
        struct vu_ring_info r;

        get_base(&F, 0);
        assert_log("stop 0;");
        a.desc += bad[i].desc;
        a.avail += bad[i].avail;
        a.used += bad[i].used;
        say_ring(&F, 0, 0);
        assert_log("start 0 @0;call 0;");
        say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 0);
        say_state(&F, VU_SET_VRING_NUM, PLAIN, 0, bad[i].num);
        send_msg(&F, VU_SET_VRING_ADDR, PLAIN, &a, sizeof(a), NULL, 0);
        F.own.n_signals = 0;
        say_state(&F, VU_SET_VRING_ENABLE, NEED_REPLY, 0, 1);
        assert_int_equal(reply(&F, VU_SET_VRING_ENABLE), 1);
        assert_log("stop 0;");
        assert_int_equal(F.own.n_signals, 1);
        r = ring_info(&F, 0);
        assert_true(r.broken && !r.running);
        assert_non_null(strstr(r.why, bad[i].word));
        assert_non_null(strstr(info(&F).last_error, bad[i].word));
        say_state(&F, VU_SET_VRING_NUM, PLAIN, 0, RING_NUM);
        say_addr(&F, NEED_REPLY, 0);
        assert_int_equal(reply(&F, VU_SET_VRING_ADDR), 0);
        assert_true(F.own.on[0]);
        F.own.log[0] = '\0';
    }
}

static void the_last_ring(void **state)
{
    struct vu_ring_addr a = ring_addr(0);

    /* Taken and kept, but not run: VIRTIO_NET_F_MQ is not among the features. */
    a.idx = 255;
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_memory(&F, PLAIN);
    say_state(&F, VU_SET_VRING_NUM, PLAIN, 255, RING_NUM);
    send_msg(&F, VU_SET_VRING_ADDR, PLAIN, &a, sizeof(a), NULL, 0);
    say_state(&F, VU_SET_VRING_BASE, PLAIN, 255, 7);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 255, 1);
    say_fd(&F, VU_SET_VRING_KICK, PLAIN, 255);
    assert_log("");
    assert_int_equal(info(&F).n_rings, 256);
    assert_non_null(strstr(ring_info(&F, 255).why, "VIRTIO_NET_F_MQ"));
    assert_int_equal(get_base(&F, 255), 7);
    assert_log("");
}

/* --- stopping and changing -------------------------------------------------------------------- */

static void get_base_stops_one_ring(void **state)
{
    say_all(&F);
    say_fd(&F, VU_SET_VRING_ERR, PLAIN, 0);
    pump(&F);
    unsigned fds = open_fds();

    F.own.progress = 9;
    assert_int_equal(get_base(&F, 0), 9);
    assert_log("stop 0;");
    assert_true(F.own.on[1]);
    assert_int_equal(open_fds(), fds - 2); /* kick and call are closed, err is kept */
    assert_int_equal(get_base(&F, 0), 9);  /* again: nothing happens */
    assert_int_equal(get_base(&F, 77), 0); /* never heard of */
    assert_log("");
    say_ring(&F, 0, 9);
    assert_log("start 0 @9;call 0;");
    F.own.refuse_start = -EIO;
    vu_dev_ring_broken(F.dev, 0, "test");
    assert_int_equal(F.own.n_signals, 1);
}

static void ring_changed_while_it_runs(void **state)
{
    say_all(&F);
    F.own.progress = 4;
    say_addr(&F, NEED_REPLY, 0); /* the same again: it goes on */
    assert_int_equal(reply(&F, VU_SET_VRING_ADDR), 0);
    assert_log("");
    say_fd(&F, VU_SET_VRING_KICK, PLAIN, 0);
    assert_log("stop 0;start 0 @4;");
    say_state(&F, VU_SET_VRING_NUM, PLAIN, 0, 32);
    assert_log("stop 0;start 0 @8;");
    assert_int_equal(F.own.conf[0].num, 32);
    say_state(&F, VU_SET_VRING_BASE, PLAIN, 0, 12);
    assert_log("stop 0;start 0 @12;");
    assert_int_equal(F.own.n_signals, 0);
}

static void call_changes(void **state)
{
    say_all(&F);
    unsigned fds = open_fds();

    for (unsigned i = 0; i < 100; i++) {
        say_fd(&F, VU_SET_VRING_CALL, PLAIN, 1);
        say_fd(&F, VU_SET_VRING_ERR, PLAIN, 1);
        pump(&F);
    }
    assert_int_equal(open_fds(), fds + 1); /* err is new */
    assert_true(F.own.on[1]);
}

static void memory_table_while_rings_run(void **state)
{
    const struct vu_region two[] = {region(0, 0x10000), region(0x10000, 0x30000)};
    const struct vu_region high = region(0x20000, 0x20000);

    say_all(&F);
    void *before = F.own.conf[0].desc;
    F.own.progress = 5;
    say_table(&F, NEED_REPLY, two, 2);
    assert_int_equal(reply(&F, VU_SET_MEM_TABLE), 0);
    assert_log("stop 0;stop 1;start 0 @5;start 1 @5;");
    assert_ptr_not_equal(F.own.conf[0].desc, before);
    assert_int_equal(info(&F).n_regions, 2);
    assert_int_equal(info(&F).mem_bytes, MEM_BYTES);

    /* without the memory of the rings they stop, and come back with it */
    say_table(&F, NEED_REPLY, &high, 1);
    assert_int_equal(reply(&F, VU_SET_MEM_TABLE), 0); /* the table itself is in force */
    assert_log("stop 0;stop 1;");
    assert_int_equal(info(&F).n_regions, 1);
    assert_int_equal(info(&F).n_refused, 2);
    assert_true(ring_info(&F, 0).broken && ring_info(&F, 1).broken);
    say_memory(&F, NEED_REPLY);
    assert_int_equal(reply(&F, VU_SET_MEM_TABLE), 0);
    assert_log("start 0 @10;start 1 @10;");
}

static void refused_tables_change_nothing(void **state)
{
    struct vu_region bad[][2] = {
        {region(0, 0x10000), region(0x8000, 0x10000)},    /* overlap */
        {region(0, 0x10000), region(0x10000, 0)},         /* empty */
        {region(0, 0x10000), region(0x10000, MEM_BYTES)}, /* longer than the file */
        {region(0, 0x10000), region(0x10000, 0x10000)},   /* wraps, set below */
        {region(0, 0x10000), region(0x10000, 0x10000)},   /* the same uva, set below */
    };

    bad[3][1].gpa = UINT64_MAX - 0x1000;
    bad[4][1].uva = UVA;
    say_all(&F);
    unsigned fds = open_fds();
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        say_table(&F, NEED_REPLY, bad[i], 2);
        assert_int_equal(reply(&F, VU_SET_MEM_TABLE), 1);
        assert_log("");
        assert_int_equal(open_fds(), fds);
        assert_int_equal(info(&F).n_regions, 1);
    }
    assert_int_equal(info(&F).n_refused, ARRAY_SIZE(bad));
    /* nobody would learn of it otherwise: over */
    say_table(&F, PLAIN, bad[0], 2);
    expect_closed(&F);
    assert_log("stop 0;stop 1;down;");
    front_connect(&F);
}

static void tables_without_memory(void **state)
{
    struct vu_mem_table t = {.n = 1, .region = {region(0, MEM_BYTES)}};

    send_msg(&F, VU_SET_MEM_TABLE, NEED_REPLY, &t, 40, NULL, 0);
    assert_int_equal(reply(&F, VU_SET_MEM_TABLE), 1);
    assert_non_null(strstr(info(&F).last_error, "share=on"));
    t.n = 0;
    send_msg(&F, VU_SET_MEM_TABLE, NEED_REPLY, &t, 8, NULL, 0);
    assert_int_equal(reply(&F, VU_SET_MEM_TABLE), 1);
    assert_non_null(strstr(info(&F).last_error, "share=on"));
    say_region(&F, VU_ADD_MEM_REG, NEED_REPLY, 0, MEM_BYTES, 0);
    assert_int_equal(reply(&F, VU_ADD_MEM_REG), 1);
    assert_non_null(strstr(info(&F).last_error, "share=on"));
    assert_true(F.own.up);
}

static void memory_slots(void **state)
{
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_ring(&F, 0, 0);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    say_region(&F, VU_ADD_MEM_REG, NEED_REPLY, 0x10000, 0x10000, 1); /* not the ring's */
    assert_int_equal(reply(&F, VU_ADD_MEM_REG), 0);
    assert_log("");
    assert_int_equal(info(&F).n_refused, 1); /* the ring has addresses outside, so far */
    say_region(&F, VU_ADD_MEM_REG, NEED_REPLY, 0x38000, 0x8000, 1);
    assert_int_equal(reply(&F, VU_ADD_MEM_REG), 0);
    say_region(&F, VU_REM_MEM_REG, NEED_REPLY, 0x38000, 0x8000, 0);
    assert_int_equal(reply(&F, VU_REM_MEM_REG), 0);
    assert_int_equal(info(&F).n_refused, 1); /* told once */
    say_region(&F, VU_ADD_MEM_REG, NEED_REPLY, 0, 0x10000, 1);
    assert_int_equal(reply(&F, VU_ADD_MEM_REG), 0);
    assert_log("start 0 @0;");
    unsigned fds = open_fds();

    say_region(&F, VU_ADD_MEM_REG, NEED_REPLY, 0x20000, 0x10000, 1);
    assert_int_equal(reply(&F, VU_ADD_MEM_REG), 0);
    assert_log("swap 3;"); /* the ring goes on */
    say_region(&F, VU_ADD_MEM_REG, NEED_REPLY, 0x28000, 0x10000, 1);
    assert_int_equal(reply(&F, VU_ADD_MEM_REG), 1); /* overlaps */
    say_region(&F, VU_REM_MEM_REG, NEED_REPLY, 0, 0x10000, 1);
    assert_int_equal(reply(&F, VU_REM_MEM_REG), 1); /* the ring runs in it */
    assert_non_null(strstr(info(&F).last_error, "ring 0"));
    say_region(&F, VU_REM_MEM_REG, NEED_REPLY, 0x10000, 0x8000, 0);
    assert_int_equal(reply(&F, VU_REM_MEM_REG), 1); /* no such region */
    assert_log("");
    say_region(&F, VU_REM_MEM_REG, NEED_REPLY, 0x10000, 0x10000, 1); /* with an fd: closed */
    assert_int_equal(reply(&F, VU_REM_MEM_REG), 0);
    say_region(&F, VU_REM_MEM_REG, NEED_REPLY, 0x20000, 0x10000, 0);
    assert_int_equal(reply(&F, VU_REM_MEM_REG), 0);
    assert_log("swap 2;swap 1;");
    assert_int_equal(open_fds(), fds);
    say_region(&F, VU_REM_MEM_REG, PLAIN, 0, 0x10000, 0);
    expect_closed(&F); /* it would believe that we let go of it */
}

/* A region may go when the ring in it is stopped; it does not start without it. */
static void removing_the_memory_of_a_stopped_ring(void **state)
{
    say_all(&F);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 0);
    get_base(&F, 1);
    say_region(&F, VU_REM_MEM_REG, NEED_REPLY, 0, MEM_BYTES, 0);
    assert_int_equal(reply(&F, VU_REM_MEM_REG), 0);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    assert_log("stop 0;stop 1;");
    say_region(&F, VU_ADD_MEM_REG, PLAIN, 0, MEM_BYTES, 1);
    assert_log("start 0 @0;");
}

static void all_slots(void **state)
{
    for (unsigned i = 0; i < GMEM_MAX_REGIONS; i++) {
        struct vu_one_region one = {
            .region = {.gpa = i * 0x2000ull, .uva = UVA + i * 0x2000ull, .size = 0x1000}};

        send_msg(&F, VU_ADD_MEM_REG, PLAIN, &one, sizeof(one), &F.mem_fd, 1);
        if (i % 16 == 0) {
            pump(&F);
        }
    }
    pump(&F);
    assert_int_equal(info(&F).n_regions, 509);
    struct vu_one_region one = {.region = {.gpa = 1ull << 40, .uva = 1ull << 40, .size = 0x1000}};
    send_msg(&F, VU_ADD_MEM_REG, NEED_REPLY, &one, sizeof(one), &F.mem_fd, 1);
    assert_int_equal(reply(&F, VU_ADD_MEM_REG), 1);
    assert_int_equal(info(&F).n_regions, 509);
}

static void status_zero_keeps_the_rings(void **state)
{
    say_all(&F);
    F.own.progress = 21;
    say_u64(&F, VU_SET_STATUS, PLAIN, 0);
    assert_log("");
    assert_int_equal(get_base(&F, 1), 21);
    assert_int_equal(get_base(&F, 0), 21);
}

static void reset_device(void **state)
{
    say_all(&F);
    say_fd(&F, VU_SET_VRING_ERR, PLAIN, 0);
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, 0x1b01f);
    say_u64(&F, VU_SET_STATUS, PLAIN, 15);
    F.own.progress = 6;
    send_msg(&F, VU_RESET_DEVICE, NEED_REPLY, NULL, 0, NULL, 0);
    assert_int_equal(reply(&F, VU_RESET_DEVICE), 0);
    assert_log("stop 0;stop 1;");
    struct vu_info i = info(&F);

    assert_int_equal(i.n_regions, 1);
    assert_int_equal(i.protocol_features, 0x1b01f);
    assert_int_equal(i.negotiated, 0);
    assert_int_equal(i.status, 0);
    assert_true(i.connected);
    assert_int_equal(get_base(&F, 0), 6); /* after the reset, still */

    /* the guest comes up again: indices from 0 in fresh rings */
    memset(F.mem, 0, MEM_BYTES);
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_ring(&F, 0, 0);
    assert_log("");
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    assert_log("start 0 @0;");
}

static void enable_and_disable(void **state)
{
    say_all(&F);
    F.own.progress = 2;
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 1, 1);
    assert_log("");
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 1, 0);
    assert_log("stop 1;");
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 1, 0);
    assert_log("");
    assert_int_equal(get_base(&F, 1), 2);
    say_ring(&F, 1, 2);
    assert_log(""); /* remembered */
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 1, 1);
    assert_log("start 1 @2;");
}

static void broken_ring(void **state)
{
    struct vu_ring_info r;

    say_all(&F);
    say_fd(&F, VU_SET_VRING_ERR, PLAIN, 1);
    pump(&F);
    vu_dev_ring_broken(F.dev, 1, "its available index moved");
    assert_log("stop 1;");
    assert_int_equal(F.own.n_signals, 1);
    r = ring_info(&F, 1);
    assert_true(r.broken && !r.running);
    assert_string_equal(r.why, "its available index moved");
    assert_non_null(strstr(info(&F).last_error, "available index moved"));
    vu_dev_ring_broken(F.dev, 1, "twice");
    vu_dev_ring_broken(F.dev, 99, "never heard of");
    vu_dev_ring_broken(F.dev, 999, "no ring");
    assert_int_equal(F.own.n_signals, 1);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 1, 1);
    say_memory(&F, PLAIN);
    assert_log("stop 0;start 0 @0;"); /* the other one is served; this one stays down */
    get_base(&F, 1);
    say_ring(&F, 1, 0);
    assert_log("start 1 @0;call 1;");
}

static void kill_closes(void **state)
{
    say_all(&F);
    vu_dev_kill(F.dev, "its memory is gone");
    expect_closed(&F);
    assert_log("stop 0;stop 1;down;");
    assert_string_equal(info(&F).last_error, "its memory is gone");
    assert_string_equal(info(&F).state, "listening");
    vu_dev_kill(F.dev, "nobody there");
    front_connect(&F);
    say_all(&F);
    assert_int_equal(info(&F).n_connects, 2);
}

static void truncated_memory(void **state)
{
    struct err e;
    struct vu_ring_info r;

    assert_int_equal(gmem_init(&e), 0);
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_memory(&F, PLAIN);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    pump(&F);
    assert_int_equal(ftruncate(F.mem_fd, 0), 0);
    say_ring(&F, 0, 0);
    assert_log("");
    r = ring_info(&F, 0);
    assert_non_null(strstr(r.why, "truncated"));
    assert_int_equal(ftruncate(F.mem_fd, MEM_BYTES), 0);
}

static void leaving_while_rings_run(void **state)
{
    say_all(&F);
    front_leave(&F);
    assert_log("stop 0;stop 1;down;");
    struct vu_info i = info(&F);

    assert_string_equal(i.state, "listening");
    assert_int_equal(i.negotiated | i.protocol_features | i.n_regions | i.n_rings, 0);
    front_connect(&F);
    say_all(&F);
}

/* --- features, status, MTU, RARP ---------------------------------------------------------------
 */

static void features_not_offered(void **state)
{
    say_u64(&F, VU_SET_FEATURES, NEED_REPLY, TEST_FEATURES | 1);
    assert_int_equal(reply(&F, VU_SET_FEATURES), 1);
    assert_non_null(strstr(info(&F).last_error, ": VIRTIO_NET_F_CSUM"));
    say_u64(&F, VU_SET_STATUS, PLAIN, 0xf);
    assert_int_equal(ask(&F, VU_GET_STATUS), 0x7); /* FEATURES_OK is not */
    say_u64(&F, VU_SET_FEATURES, NEED_REPLY, TEST_FEATURES);
    assert_int_equal(reply(&F, VU_SET_FEATURES), 0);
    say_u64(&F, VU_SET_STATUS, PLAIN, 0x10f);
    assert_int_equal(ask(&F, VU_GET_STATUS), 0xf); /* eight bits */
    say_u64(&F, VU_SET_FEATURES, PLAIN, 1);
    expect_closed(&F);
}

static void features_change_while_rings_run(void **state)
{
    say_all(&F);
    say_u64(&F, VU_SET_FEATURES, NEED_REPLY, TEST_FEATURES & ~VIRTIO_BIT(F_EVENT_IDX));
    assert_int_equal(reply(&F, VU_SET_FEATURES), 1);
    assert_int_equal(info(&F).negotiated, TEST_FEATURES);
    assert_log("");
}

static void protocol_features_not_offered(void **state)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t b = 1ull << bit;

        say_u64(&F, VU_SET_PROTOCOL_FEATURES, NEED_REPLY, b);
        assert_int_equal(reply(&F, VU_SET_PROTOCOL_FEATURES), !(b & 0x1b01f));
    }
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, 1 << 6);
    expect_closed(&F);
}

static void mtu(void **state)
{
    static const uint64_t bad[] = {0, 67, 65536, 1234, UINT64_MAX, 0x100000000 + 1500};

    say_u64(&F, VU_NET_SET_MTU, NEED_REPLY, 68);
    assert_int_equal(reply(&F, VU_NET_SET_MTU), 0);
    say_u64(&F, VU_NET_SET_MTU, NEED_REPLY, 65535);
    assert_int_equal(reply(&F, VU_NET_SET_MTU), 0);
    assert_log("mtu 68;mtu 65535;");
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        say_u64(&F, VU_NET_SET_MTU, NEED_REPLY, bad[i]);
        assert_int_equal(reply(&F, VU_NET_SET_MTU), 1);
        say_u64(&F, VU_NET_SET_MTU, PLAIN, bad[i]); /* told, not fatal */
    }
    pump(&F);
    assert_int_equal(info(&F).mtu, 65535);
    assert_true(F.own.up);
}

static void rarp(void **state)
{
    static const uint8_t mac[8] = {0x52, 0x54, 0, 1, 2, 3};

    send_msg(&F, VU_SEND_RARP, PLAIN, mac, 8, NULL, 0);
    assert_log("rarp 52:54:00:01:02:03;");
    say_u64(&F, VU_SEND_RARP, NEED_REPLY, 0);
    assert_int_equal(reply(&F, VU_SEND_RARP), 1);
    say_u64(&F, VU_SEND_RARP, PLAIN, 0x0100005e0001ull | 1); /* a group: told, not fatal */
    assert_log("");
    assert_true(F.own.up);
}

static void base_has_16_bits(void **state)
{
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_state(&F, VU_SET_VRING_BASE, NEED_REPLY, 0, 0x8000);
    assert_int_equal(reply(&F, VU_SET_VRING_BASE), 0);
    say_state(&F, VU_SET_VRING_BASE, NEED_REPLY, 0, 0x10000);
    assert_int_equal(reply(&F, VU_SET_VRING_BASE), 1);
    assert_int_equal(get_base(&F, 0), 0x8000);
}

/* Before the features came nobody knows which layout the index is of: then it fails at the start. */
static void base_before_features(void **state)
{
    say_state(&F, VU_SET_VRING_BASE, NEED_REPLY, 0, 0x80008000);
    assert_int_equal(reply(&F, VU_SET_VRING_BASE), 0);
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_memory(&F, PLAIN);
    say_state(&F, VU_SET_VRING_NUM, PLAIN, 0, RING_NUM);
    say_addr(&F, PLAIN, 0);
    say_fd(&F, VU_SET_VRING_KICK, PLAIN, 0);
    say_state(&F, VU_SET_VRING_ENABLE, NEED_REPLY, 0, 1);
    assert_int_equal(reply(&F, VU_SET_VRING_ENABLE), 1);
    assert_non_null(strstr(ring_info(&F, 0).why, "16 bits"));
    assert_log("");
}

static uint32_t get_packed_base(unsigned idx)
{
    say_state(&F, VU_GET_VRING_BASE, PLAIN, idx, 0);
    return (uint32_t)(reply(&F, VU_GET_VRING_BASE) >> 32);
}

/* Both halves count, and some front-ends fill in only one. */
static void packed_base(void **state)
{
    static const struct {
        uint32_t base, num;
        int start;      /* -1: it cannot */
        uint16_t flags; /* of all descriptors */
    } c[] = {
        {0x80008000, 16, 0x8000},
        {0x00008000, 16, 0x8000}, /* the other half was forgotten */
        {0x00000000, 16, 0},
        {0x80058005, 16, 0x8005},
        {0x80038005, 16, 0x8003, VRING_PACKED_F_AVAIL}, /* two were taken and not used: again */
        {0x800e0002, 16, 0x800e, VRING_PACKED_F_AVAIL}, /* the same, across the end of a lap */
        {0x00000003, 16, 0, VRING_PACKED_F_USED},       /* the same, slot 0 in an even lap */
        {0x00000003, 16, 3, VRING_PACKED_F_AVAIL},      /* nothing waits there: forgotten */
        {0x00008000, 16, 0x8000, VRING_PACKED_F_AVAIL},
        {0x80058003, 16, 0x8003}, /* used more than was taken: no */
        {0x00028005, 16, 0x8005}, /* more than a lap apart: no */
        {0x80108005, 16, 0x8005}, /* not in the ring */
        {0x800c800c, 13, 0x800c}, /* not a power of two */
        {0x800d800d, 13, -1},
        {0xffffffff, 16, -1},
        {0x00ff00ff, 16, -1},
    };

    say_u64(&F, VU_SET_FEATURES, PLAIN, PACKED);
    say_memory(&F, PLAIN);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
        char want[64];

        for (uint32_t k = 0; k < c[i].num; k++) {
            ((struct vring_packed_desc *)F.mem)[k].flags = c[i].flags;
        }
        say_state(&F, VU_SET_VRING_NUM, PLAIN, 0, c[i].num);
        say_state(&F, VU_SET_VRING_BASE, PLAIN, 0, c[i].base);
        say_addr(&F, PLAIN, 0);
        say_fd(&F, VU_SET_VRING_KICK, NEED_REPLY, 0);
        assert_int_equal(reply(&F, VU_SET_VRING_KICK), c[i].start < 0);
        if (c[i].start < 0) {
            assert_non_null(strstr(ring_info(&F, 0).why, "SET_VRING_BASE"));
            assert_log("");
            assert_int_equal(get_packed_base(0), c[i].base);
            continue;
        }
        snprintf(want, sizeof(want), "start 0 @%d;", c[i].start);
        assert_log(want);
        F.own.progress = 1;
        uint32_t live = (uint32_t)c[i].start + 1;
        assert_int_equal(get_packed_base(0), live | live << 16);
        assert_log("stop 0;");
    }
}

/* The parts of a packed ring: the two event areas are four bytes, wherever they lie. */
static void packed_parts(void **state)
{
    static const struct {
        uint64_t desc, avail, used; /* offsets from where they belong */
        uint32_t num;
        const char *word; /* NULL: it runs */
    } c[] = {
        {0, 0, 0, 16, NULL},
        {0, 4, 8, 63, NULL},
        {0, MEM_BYTES - 0x400 - 4, 0, 16, NULL}, /* the last word of the memory */
        {0, MEM_BYTES - 0x400 - 2, 0, 16, "driver event area"},
        {8, 0, 0, 16, "aligned"},
        {0, 2, 0, 16, "aligned"},
        {0, 0, 2, 16, "aligned"},
        {0, 0, MEM_BYTES - 0x800, 16, "device event area"},
        {MEM_BYTES, 0, 0, 16, "descriptor ring"},
        {0, 0x400, 0, 16, "overlap"},
        {0x400, 0, 0, 16, "overlap"},
    };

    say_u64(&F, VU_SET_FEATURES, PLAIN, PACKED);
    say_memory(&F, PLAIN);
    for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
        struct vu_ring_addr a = ring_addr(0);

        a.desc += c[i].desc;
        a.avail += c[i].avail;
        a.used += c[i].used;
        say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 0);
        say_state(&F, VU_SET_VRING_NUM, PLAIN, 0, c[i].num);
        say_state(&F, VU_SET_VRING_BASE, PLAIN, 0, 0x80008000);
        send_msg(&F, VU_SET_VRING_ADDR, PLAIN, &a, sizeof(a), NULL, 0);
        say_fd(&F, VU_SET_VRING_KICK, PLAIN, 0);
        say_state(&F, VU_SET_VRING_ENABLE, NEED_REPLY, 0, 1);
        assert_int_equal(reply(&F, VU_SET_VRING_ENABLE), c[i].word != NULL);
        if (c[i].word) {
            assert_non_null(strstr(ring_info(&F, 0).why, c[i].word));
        }
        get_packed_base(0);
        F.own.log[0] = '\0';
    }
}

/* --- what outlives the process ---------------------------------------------------------------- */

#define INFLIGHT_RINGS 2

/* The answer to GET_INFLIGHT_FD; the file, or -1. */
static int inflight_reply(struct vu_inflight_msg *out, uint32_t size)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct {
        struct vu_hdr h;
        struct vu_inflight_msg m;
    } __attribute__((packed)) r;
    struct iovec iov = {&r, sizeof(r)};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    struct pollfd p = {.fd = F.s, .events = POLLIN};
    int fd = -1;

    WAIT_FOR(&F, poll(&p, 1, 0) == 1);
    assert_int_equal(recvmsg(F.s, &mh, MSG_CMSG_CLOEXEC), sizeof(r.h) + size);
    assert_int_equal(r.h.request, VU_GET_INFLIGHT_FD);
    assert_int_equal(r.h.flags, 5);
    assert_int_equal(r.h.size, size);
    if (CMSG_FIRSTHDR(&mh)) {
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&mh)), sizeof(fd));
    }
    *out = r.m;
    return fd;
}

static int get_inflight(struct vu_inflight_msg *m)
{
    *m = (struct vu_inflight_msg){.n_queues = INFLIGHT_RINGS, .queue_size = RING_NUM};
    send_msg(&F, VU_GET_INFLIGHT_FD, PLAIN, m, sizeof(*m), NULL, 0);
    return inflight_reply(m, sizeof(*m));
}

static uint64_t set_inflight(const struct vu_inflight_msg *m, int fd)
{
    send_msg(&F, VU_SET_INFLIGHT_FD, NEED_REPLY, m, sizeof(*m), &fd, fd >= 0);
    return reply(&F, VU_SET_INFLIGHT_FD);
}

/* Ring 0, packed, half of it available in the first lap and used up to `used`; it runs. */
static void packed_ring(uint32_t base, unsigned used)
{
    struct vring_packed_desc *d = (struct vring_packed_desc *)F.mem;

    for (unsigned i = 0; i < RING_NUM; i++) {
        d[i] = (struct vring_packed_desc){.addr = 0x1000, .id = (uint16_t)i,
                                          .flags = i < used          ? 0x8080
                                                   : i < RING_NUM / 2 ? 0x80
                                                                      : 0};
    }
    say_u64(&F, VU_SET_FEATURES, PLAIN, PACKED);
    say_memory(&F, PLAIN);
    say_ring(&F, 0, base);
    say_state(&F, VU_SET_VRING_ENABLE, NEED_REPLY, 0, 1);
    assert_int_equal(reply(&F, VU_SET_VRING_ENABLE), 0);
}

#define WORD(now, old) ring_resume_word((now) | VRING_PACKED_WRAP, (old) | VRING_PACKED_WRAP)

/* Made, given back, and believed by the next process; in both layouts as other back-ends expect it. */
static void inflight_region(void **state)
{
    struct vu_inflight_msg m;

    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(INFLIGHT_SHMFD));
    int fd = get_inflight(&m);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK, F_SEAL_SHRINK);
    assert_int_equal(m.mmap_size, INFLIGHT_RINGS * vu_inflight_stride(true, RING_NUM));
    struct vu_inflight_packed *h = mmap(NULL, m.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(h != MAP_FAILED);

    assert_int_equal(set_inflight(&m, fd), 0);
    packed_ring(0x80008000, 0);
    assert_log("start 0 @32768;");
    assert_int_equal(h->version, 1);
    assert_int_equal(h->desc_num, RING_NUM);
    *F.own.conf[0].resume = WORD(7, 5); /* as a worker does */
    assert_int_equal(h->resume, WORD(7, 5));
    front_leave(&F);

    front_connect(&F);
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(INFLIGHT_SHMFD));
    assert_int_equal(set_inflight(&m, fd), 0);
    F.own.log[0] = '\0';
    packed_ring(0x80008000, 7);
    assert_log("start 0 @32775;");
    assert_int_equal(h->resume, WORD(7, 7));

    assert_int_equal(get_packed_base(0), 0x80078007); /* in order: nothing is left to tell */
    assert_int_equal(h->version, 0);
    packed_ring(0x80038003, 3);
    assert_int_equal(F.own.conf[0].base, 0x8003);
    *F.own.conf[0].resume = WORD(9, 8); /* but the driver began anew */
    front_leave(&F);
    front_connect(&F);
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(INFLIGHT_SHMFD));
    assert_int_equal(set_inflight(&m, fd), 0);
    F.own.log[0] = '\0';
    packed_ring(0x80008000, 0);
    assert_log("start 0 @32768;");
    munmap(h, m.mmap_size);
    close(fd);
}

/* What another back-end left in flight is done from the used index on, and is over then. */
static void inflight_region_split(void **state)
{
    struct vu_inflight_msg m = {.mmap_size = 4096, .mmap_offset = 64, .n_queues = INFLIGHT_RINGS,
                                .queue_size = RING_NUM};
    int fd = memfd_create("inflight", MFD_CLOEXEC);

    assert_int_equal(ftruncate(fd, 4096 + 64), 0);
    uint8_t *p = mmap(NULL, 4096 + 64, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct vu_inflight_split *h = (void *)(p + 64 + vu_inflight_stride(false, RING_NUM));
    uint8_t *entry = (uint8_t *)(h + 1);
    *h = (struct vu_inflight_split){.version = 1, .desc_num = RING_NUM, .last_batch_head = 3};
    entry[3 * VU_INFLIGHT_ENTRY_SPLIT] = entry[(RING_NUM - 1) * VU_INFLIGHT_ENTRY_SPLIT] = 1;
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(INFLIGHT_SHMFD));
    assert_int_equal(set_inflight(&m, fd), 0);
    used_of(&F, 1)->idx = avail_of(&F, 1)->idx = 5;
    say_all(&F);
    assert_int_equal(h->version, 1);
    assert_int_equal(h->used_idx, 5);
    assert_int_equal(h->last_batch_head, 0);
    for (unsigned i = 0; i < RING_NUM; i++) {
        assert_int_equal(entry[i * VU_INFLIGHT_ENTRY_SPLIT], 0);
    }
    munmap(p, 4096 + 64);
    close(fd);
}

static void inflight_lies(void **state)
{
    const uint64_t least = 2 * vu_inflight_stride(false, 64);
    const struct {
        struct vu_inflight_msg m;
        bool done;
    } c[] = {
        {{4096, 0, 2, 64}, true},
        {{least, 4096, 2, 64}, true},
        {{4096, 0, 0, 64}, false},
        {{4096, 0, 257, 1}, false},
        {{4096, 0, 65535, 65535}, false},
        {{4096, 0, 1, 0}, false},
        {{1 << 20, 0, 1, 32769}, false},
        {{least - 1, 0, 2, 64}, false},
        {{0, 0, 2, 64}, false},
        {{4096, 4, 2, 64}, false},          /* offset */
        {{4096, 8192, 2, 64}, false},       /* behind the end */
        {{8193, 0, 2, 64}, false},          /* longer than the file */
        {{UINT64_MAX, 0, 2, 64}, false},
        {{UINT64_MAX, 64, 2, 64}, false},   /* wraps */
        {{4096, UINT64_MAX - 63, 2, 64}, false},
    };
    unsigned fds = open_fds();
    int fd = memfd_create("inflight", MFD_CLOEXEC), other[2];

    assert_int_equal(ftruncate(fd, 8192), 0);
    assert_int_equal(set_inflight(&c[0].m, fd), 1); /* not negotiated */
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(INFLIGHT_SHMFD));
    assert_int_equal(set_inflight(&c[0].m, -1), 1);
    for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
        assert_int_equal(set_inflight(&c[i].m, fd), !c[i].done);
    }
    assert_int_equal(pipe(other), 0);
    assert_int_equal(set_inflight(&c[0].m, other[0]), 1); /* no file */
    close(other[0]);
    close(other[1]);
    for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
        struct vu_inflight_msg m = c[i].m, out;
        bool bad = !m.n_queues || m.n_queues > 256 || !m.queue_size || m.queue_size > 32768;

        send_msg(&F, VU_GET_INFLIGHT_FD, PLAIN, &m, VU_INFLIGHT_MSG_MIN, NULL, 0);
        int got = inflight_reply(&out, VU_INFLIGHT_MSG_MIN);
        assert_int_equal(got < 0, bad);
        assert_int_equal(out.mmap_size == 0, bad);
        close(got);
    }
    close(fd);
    assert_int_equal(open_fds(), fds);
}

/* Everything in the region lies; the ring runs all the same, and only in itself. */
static void inflight_region_lies(void **state)
{
    struct vu_inflight_msg m;
    struct err e;

    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(INFLIGHT_SHMFD));
    int fd = get_inflight(&m);
    uint64_t *h = mmap(NULL, m.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (unsigned i = 0; i < 2000; i++) {
        for (unsigned k = 0; k < 4; k++) {
            h[k] = i & 1u << k ? (uint64_t)rnd(1u << 31) << 33 | rnd(1u << 31) : h[k];
        }
        ((struct vu_inflight_packed *)h)->version = (uint16_t)(i % 3);
        ((struct vu_inflight_packed *)h)->desc_num = i % 5 ? RING_NUM : (uint16_t)i;
        assert_int_equal(set_inflight(&m, fd), 0);
        F.own.progress = 0;
        packed_ring(0x80008000, i % (RING_NUM / 2));
        assert_true((F.own.conf[0].base & 0x7fff) < RING_NUM);
        F.own.log[0] = '\0';
    }
    /* truncated under us: what is written is lost, and nothing else happens */
    assert_int_equal(set_inflight(&m, fd), 0);
    assert_true(F.own.on[0]);
    munmap(h, m.mmap_size);
    close(fd);
    fd = memfd_create("inflight", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)m.mmap_size), 0);
    assert_int_equal(set_inflight(&m, fd), 0);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(gmem_init(&e), 0); /* cmocka has a handler of its own */
    *F.own.conf[0].resume = WORD(1, 0);
    assert_int_equal(set_inflight(&m, fd), 1); /* and now it is too small */
    assert_true(F.own.on[0]);
    get_packed_base(0);
    close(fd);
}

/* The front-end leaves and the device ends in order. */
static void no_device(void)
{
    close(F.s);
    F.s = -1;
    vu_dev_destroy(F.dev);
    F.dev = NULL;
}

/* The switch dies: its file stays as it is; the next one starts. */
static void next_process(const void *bytes, size_t n)
{
    struct vu_conf conf = server_conf(&F);
    char path[128], kept[1 << 17];
    struct err e = {0};
    ssize_t had = 0;

    snprintf(path, sizeof(path), "%s/p1.rings", F.dir);
    conf.state_path = path;
    if (F.dev) {
        int fd = open(path, O_RDONLY);

        had = read(fd, kept, sizeof(kept));
        close(fd);
        no_device();
        assert_int_not_equal(access(path, F_OK), 0); /* an orderly end leaves nothing */
    }
    if (bytes || had) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

        assert_true(write(fd, bytes ? bytes : kept, bytes ? n : (size_t)had) > 0);
        close(fd);
    }
    assert_int_equal(vu_dev_create(&F.dev, &conf, &owner_ops, &F.own, F.base, &e), 0);
    front_connect(&F);
    F.own.log[0] = '\0';
}

static char *last_line;
static void keep_line(enum log_level level, const char *line)
{
    free(last_line);
    last_line = strdup(line);
}

static void own_file(void **state)
{
    no_device();
    next_process(NULL, 0);
    packed_ring(0x80008000, 0);
    assert_log("start 0 @32768;");
    *F.own.conf[0].resume = WORD(7, 5);
    next_process(NULL, 0); /* for the same ring: goes on */
    packed_ring(0x80008000, 7);
    assert_log("start 0 @32775;");

    *F.own.conf[0].resume = WORD(9, 7);
    front_leave(&F); /* lost without a word: it goes on there, too */
    front_connect(&F);
    F.own.log[0] = '\0';
    packed_ring(0x80008000, 9);
    assert_log("start 0 @32777;");

    next_process(NULL, 0); /* the driver began anew: its ring looks otherwise */
    packed_ring(0x80008000, 0);
    assert_log("start 0 @32768;");
    *F.own.conf[0].resume = WORD(7, 5);
    next_process(NULL, 0); /* the front-end knows of another start */
    packed_ring(0x80068006, 7);
    assert_log("start 0 @32774;");
    *F.own.conf[0].resume = WORD(7, 6);
    assert_int_equal(get_packed_base(0), 0x80068006); /* an orderly stop */
    next_process(NULL, 0);
    packed_ring(0x80038003, 7);
    assert_log("start 0 @32771;");
    *F.own.conf[0].resume = WORD(7, 3);
    int old = F.mem_fd; /* another guest, whose memory looks the same */
    F.mem_fd = memfd_create("guest", MFD_CLOEXEC);
    assert_int_equal(ftruncate(F.mem_fd, MEM_BYTES), 0);
    munmap(F.mem, MEM_BYTES);
    close(old);
    F.mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, F.mem_fd, 0);
    next_process(NULL, 0);
    packed_ring(0x80038003, 7);
    assert_log("start 0 @32771;");
}

/* Cut while the ring runs: what would be kept is lost, and the ring goes on. */
static void own_file_is_truncated(void **state)
{
    char path[128];
    struct err e;

    assert_int_equal(gmem_init(&e), 0);
    no_device();
    next_process(NULL, 0);
    packed_ring(0x80008000, 0);
    snprintf(path, sizeof(path), "%s/p1.rings", F.dir);
    assert_int_equal(truncate(path, 0), 0);
    uint32_t seq = gmem_fault_seq();
    *F.own.conf[0].resume = WORD(7, 5);
    assert_int_not_equal(gmem_fault_seq(), seq);
    assert_int_equal(get_packed_base(0), 0x80008000); /* as dev_stop says in this test */
    packed_ring(0x80008000, 0);
    assert_true(F.own.on[0]);
}

/* What is no file of ours, or was cut, or has a later format, is replaced. */
static void own_file_of_others(void **state)
{
    static const char *const what[] = {"", "x", "ringway ring positions 2\n", "ringway ring positions 1\n"};
    char path[128], big[1 << 16];
    struct stat st;

    no_device();
    snprintf(path, sizeof(path), "%s/p1.rings", F.dir);
    for (unsigned i = 0; i < 2 * ARRAY_SIZE(what); i++) {
        memset(big, 0x5a, sizeof(big));
        strcpy(big, what[i / 2]);
        next_process(big, i % 2 ? sizeof(big) : 100);
        packed_ring(0x80008000, 0);
        assert_log("start 0 @32768;");
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        *F.own.conf[0].resume = WORD(1, 0); /* it can be written to its end */
        assert_int_equal(get_packed_base(0), 0x80008000);
    }
    no_device();
    assert_int_equal(symlink("/etc/hostname", path), 0); /* whose file that is does not matter */
    next_process(NULL, 0);
    packed_ring(0x80008000, 0);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
}

/* The next process offers less than the front-end has: it says what, by name. */
static void features_that_are_gone(void **state)
{
    no_device();
    next_process(NULL, 0);
    packed_ring(0x80008000, 0);
    uint8_t kept[1 << 16];
    char path[128];
    struct err e;
    snprintf(path, sizeof(path), "%s/p1.rings", F.dir);
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, kept, sizeof(kept));
    close(fd);
    no_device();
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, kept, (size_t)n), n);
    close(fd);
    struct vu_conf conf = server_conf(&F);
    conf.state_path = path;
    conf.features &= ~VIRTIO_BIT(F_RING_PACKED);
    log_set_sink(keep_line);
    assert_int_equal(vu_dev_create(&F.dev, &conf, &owner_ops, &F.own, F.base, &e), 0);
    log_set_sink(quiet);
    assert_non_null(last_line);
    assert_non_null(strstr(last_line, "p1"));
    assert_non_null(strstr(last_line, "VIRTIO_F_RING_PACKED (bit 34)"));
    free(last_line);
    last_line = NULL;
    front_connect(&F);
    say_u64(&F, VU_SET_FEATURES, NEED_REPLY, OFFERED);
    assert_int_equal(reply(&F, VU_SET_FEATURES), 1);
    assert_non_null(strstr(info(&F).last_error, "VIRTIO_F_RING_PACKED"));
}

/* --- dirty log --------------------------------------------------------------------------------- */

#define LOG_ALL VIRTIO_BIT(F_LOG_ALL)

static void say_log(struct front *f, uint32_t flags, uint64_t size, uint64_t offset, int fd)
{
    struct vu_log l = {.size = size, .offset = offset};

    send_msg(f, VU_SET_LOG_BASE, flags, &l, sizeof(l), &fd, fd >= 0);
}

/* The answer is what was said. */
static void log_reply(struct front *f, uint64_t size, uint64_t offset)
{
    struct pollfd p = {.fd = f->s, .events = POLLIN};
    struct {
        struct vu_hdr h;
        struct vu_log l;
    } __attribute__((packed)) r;

    WAIT_FOR(f, poll(&p, 1, 0) == 1);
    assert_int_equal(recv(f->s, &r, sizeof(r), 0), sizeof(r));
    assert_int_equal(r.h.request, VU_SET_LOG_BASE);
    assert_int_equal(r.h.flags, 5);
    assert_int_equal(r.h.size, 16);
    assert_int_equal(r.l.size, size);
    assert_int_equal(r.l.offset, offset);
}

static void set_log(uint64_t size, uint64_t offset)
{
    say_log(&F, PLAIN, size, offset, F.mem_fd);
    log_reply(&F, size, offset);
}

static void set_features(uint64_t features)
{
    say_u64(&F, VU_SET_FEATURES, NEED_REPLY, features);
    assert_int_equal(reply(&F, VU_SET_FEATURES), 0);
}

static void set_ring_log(unsigned idx, uint32_t flags, uint64_t log)
{
    struct vu_ring_addr a = ring_addr(idx);

    a.flags = flags;
    a.log = log;
    send_msg(&F, VU_SET_VRING_ADDR, NEED_REPLY, &a, sizeof(a), NULL, 0);
    assert_int_equal(reply(&F, VU_SET_VRING_ADDR), 0);
}

static void expect_log(const char *what)
{
    assert_string_equal(F.own.log, what);
    F.own.log[0] = '\0';
}

/* Taken, and not kept: the log is read when it is wanted. */
static void log_fd(void **state)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    unsigned fds = open_fds();

    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(LOG_SHMFD));
    for (unsigned i = 0; i < 10; i++) {
        send_msg(&F, VU_SET_LOG_FD, NEED_REPLY, NULL, 0, &fd, 1);
        assert_int_equal(reply(&F, VU_SET_LOG_FD), 0);
    }
    WAIT_FOR(&F, open_fds() == fds);
    close(fd);
    send_msg(&F, VU_SET_LOG_FD, NEED_REPLY, NULL, 0, NULL, 0); /* nor is one missed */
    assert_int_equal(reply(&F, VU_SET_LOG_FD), 0);
}

/* As QEMU starts and ends it: nothing stops. */
static void log_while_rings_run(void **state)
{
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(LOG_SHMFD));
    say_all(&F);
    set_log(4096, 0);
    expect_log("log 0 off;log 1 off;barrier;");
    set_features(TEST_FEATURES | LOG_ALL);
    expect_log("log 0 payload;log 1 payload;barrier;");
    set_ring_log(0, VU_RING_ADDR_F_LOG, 0x123456789000);
    expect_log("log 0 payload ring;log 1 payload;barrier;");
    assert_int_equal(F.own.conf[0].log.used, 0x123456789000);
    assert_true(info(&F).logging);
    assert_int_equal(info(&F).log_bytes, 4096);
    set_log(8192, 4096); /* and another one: of the same file, elsewhere */
    expect_log("log 0 payload ring;log 1 payload;barrier;");
    *GUEST_PTR(uint8_t, F.own.conf[0].log.map->region[0].va) = 42;
    assert_int_equal(F.mem[4096], 42);
    set_features(TEST_FEATURES);
    expect_log("log 0 ring;log 1 off;barrier;");
    set_ring_log(0, 0, 0x123456789000);
    expect_log("log 0 off;log 1 off;barrier;");
    assert_false(info(&F).logging);
}

/* Rings that have to be logged wait for a log, and go on where they were. */
static void hold_until_there_is_a_log(void **state)
{
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(LOG_SHMFD));
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES | LOG_ALL);
    say_memory(&F, PLAIN);
    for (unsigned i = 0; i < 2; i++) {
        say_ring(&F, i, 0);
        say_state(&F, VU_SET_VRING_ENABLE, PLAIN, i, 1);
    }
    pump(&F);
    assert_false(F.own.on[0] || F.own.on[1]);
    assert_non_null(strstr(ring_info(&F, 0).why, "SET_LOG_BASE"));
    set_log(4096, 0);
    expect_log("start 0 @0;start 1 @0;");
    assert_non_null(F.own.conf[0].log.map);
    /* The device starts again: its log is another one, which comes later. */
    get_base(&F, 0);
    get_base(&F, 1);
    F.own.log[0] = '\0';
    set_features(TEST_FEATURES | LOG_ALL);
    assert_int_equal(info(&F).log_bytes, 0);
    for (unsigned i = 0; i < 2; i++) {
        say_ring(&F, i, 0);
    }
    pump(&F);
    expect_log("");
    set_log(4096, 8192);
    expect_log("start 0 @0;start 1 @0;");
    /* A log that no ring has run with is kept. */
    get_base(&F, 0);
    get_base(&F, 1);
    set_log(4096, 0);
    set_features(TEST_FEATURES | LOG_ALL);
    set_features(TEST_FEATURES | LOG_ALL);
    F.own.log[0] = '\0';
    say_ring(&F, 0, 0);
    assert_log("start 0 @0;call 0;");
}

/* Running, and all at once without a log. */
static void hold_running_rings(void **state)
{
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(LOG_SHMFD));
    say_all(&F);
    F.own.progress = 5;
    set_features(TEST_FEATURES | LOG_ALL);
    expect_log("stop 0;stop 1;");
    set_log(4096, 0);
    expect_log("start 0 @5;start 1 @5;");
    set_features(TEST_FEATURES);
    expect_log("log 0 off;log 1 off;barrier;");
}

/* What the address for the log means in a packed ring: three answers are about. */
static void where_packed_rings_log(void **state)
{
    struct vu_ring_addr a = ring_addr(0);

    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(LOG_SHMFD));
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES | VIRTIO_BIT(F_RING_PACKED) | LOG_ALL);
    say_memory(&F, PLAIN);
    set_log(4096, 0);
    say_ring(&F, 0, 0x80008000);
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    set_ring_log(0, VU_RING_ADDR_F_LOG, a.used - UVA); /* QEMU's: the device event area */
    assert_int_equal(F.own.conf[0].log.used, a.desc - UVA);
    assert_int_equal(F.own.conf[0].log.event, a.used - UVA);
    set_ring_log(0, VU_RING_ADDR_F_LOG, a.desc - UVA); /* the descriptors */
    assert_int_equal(F.own.conf[0].log.used, a.desc - UVA);
    assert_int_equal(F.own.conf[0].log.event, a.used - UVA);
    set_ring_log(0, VU_RING_ADDR_F_LOG, 1ull << 40); /* beyond all memory */
    assert_int_equal(F.own.conf[0].log.used, 1ull << 40);
}

static void logs_that_are_refused(void **state)
{
    struct vu_ring_addr a = ring_addr(0);
    int pipes[2], memory = memfd_create("small", MFD_CLOEXEC);
    const struct {
        uint64_t size, offset;
        int fd;
        const char *word;
    } c[] = {
        {16, 0, -1, "without a file descriptor"},
        {0, 0, F.mem_fd, "empty or wraps"},
        {16, UINT64_MAX - 8, F.mem_fd, "empty or wraps"},
        {UINT64_MAX, 1, F.mem_fd, "empty or wraps"},
        {MEM_BYTES + 1, 0, F.mem_fd, "has 262144 bytes"},
        {16, MEM_BYTES - 8, F.mem_fd, "has 262144 bytes"},
        {16, 0, memory, "has 0 bytes"},
    };

    assert_int_equal(pipe(pipes), 0);
    say_log(&F, NEED_REPLY, 16, 0, F.mem_fd);
    assert_int_equal(reply(&F, VU_SET_LOG_BASE), 1); /* not negotiated */
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(LOG_SHMFD));
    for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
        say_log(&F, NEED_REPLY, c[i].size, c[i].offset, c[i].fd);
        assert_int_equal(reply(&F, VU_SET_LOG_BASE), 1);
        if (!strstr(info(&F).last_error, c[i].word)) {
            fail_msg("'%s' does not say '%s'", info(&F).last_error, c[i].word);
        }
    }
    say_log(&F, NEED_REPLY, 16, 0, pipes[0]);
    assert_int_equal(reply(&F, VU_SET_LOG_BASE), 1);
    a.flags = 2;
    send_msg(&F, VU_SET_VRING_ADDR, NEED_REPLY, &a, sizeof(a), NULL, 0);
    assert_int_equal(reply(&F, VU_SET_VRING_ADDR), 1);
    say_log(&F, PLAIN, 0, 0, F.mem_fd); /* nobody would hear of it */
    expect_closed(&F);
    close(pipes[0]);
    close(pipes[1]);
    close(memory);
}

/* --- answers -----------------------------------------------------------------------------------
 */

/* A payload that is well-formed for any message, and the fds that belong to it. */
static void say_any(struct front *f, uint32_t request, uint32_t flags)
{
    const struct vu_msg_desc *d = vu_msg_desc(request);
    static const uint8_t zeros[64];

    switch (d->shape) {
    case VU_SHAPE_RING_FD:
        say_fd(f, request, flags, 0);
        break;
    case VU_SHAPE_RING_STATE:
        say_state(f, request, flags, 0, 1);
        break;
    case VU_SHAPE_RING_ADDR:
        say_addr(f, flags, 0);
        break;
    case VU_SHAPE_TABLE:
        say_memory(f, flags);
        break;
    case VU_SHAPE_REGION:
        say_region(f, request, flags, 0, MEM_BYTES, 1);
        break;
    case VU_SHAPE_CONFIG:
        send_msg(f, request, flags, zeros, VU_CONFIG_HEAD, NULL, 0);
        break;
    case VU_SHAPE_INFLIGHT:
        send_msg(f, request, flags, zeros, sizeof(struct vu_inflight_msg), NULL, 0);
        break;
    case VU_SHAPE_LOG:
        say_log(f, flags, 16, 0, f->mem_fd);
        break;
    default:
        send_msg(f, request, flags, zeros, d->shape == VU_SHAPE_U64 ? 8 : 0, NULL, 0);
        break;
    }
}

/* The configuration is not offered here: the answer to its request is empty. No rings, no region. */
static void any_reply(struct front *f, uint32_t request)
{
    if (vu_msg_desc(request)->answer == VU_ANSWER_CONFIG) {
        assert_int_equal(config_reply(f, request, NULL), 0);
    } else if (vu_msg_desc(request)->answer == VU_ANSWER_INFLIGHT) {
        struct vu_inflight_msg m;

        assert_int_equal(inflight_reply(&m, sizeof(m)), -1);
        assert_int_equal(m.mmap_size, 0);
    } else if (request == VU_SET_LOG_BASE) {
        log_reply(f, 16, 0);
    } else {
        reply(f, request);
    }
}

static void one_answer_to_everything(void **state)
{
    say_u64(&F, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(LOG_SHMFD));
    for (uint32_t r = 0; r < VU_REQUEST_MAX + 5; r++) {
        bool own = vu_msg_desc(r)->spoken && vu_msg_desc(r)->answer != VU_ANSWER_ACK;

        say_any(&F, r, NEED_REPLY);
        any_reply(&F, r);
        no_reply(&F);
        if (r == VU_SET_MEM_TABLE || r == VU_ADD_MEM_REG) {
            continue; /* without NEED_REPLY the second one is a refusal, which closes */
        }
        if (r == VU_REM_MEM_REG) {
            say_memory(&F, PLAIN);
        }
        say_any(&F, r, PLAIN);
        if (own) {
            any_reply(&F, r);
        }
        no_reply(&F);
        assert_true(F.own.up);
    }
}

static void not_spoken_here(void **state)
{
    uint8_t payload[8192] = {1, 2, 3};
    int fd[VU_MAX_FDS];
    unsigned fds = open_fds();

    for (unsigned i = 0; i < VU_MAX_FDS; i++) {
        fd[i] = F.mem_fd;
    }
    for (uint32_t r = 0; r < VU_REQUEST_MAX + 5; r++) {
        if (!vu_msg_desc(r)->spoken) {
            send_msg(&F, r, NEED_REPLY, payload, 24, fd, 2);
            assert_int_equal(reply(&F, r), 1);
            send_msg(&F, r, NEED_REPLY, payload, 4096, fd, VU_MAX_FDS);
            assert_int_equal(reply(&F, r), 1);
            send_msg(&F, r, PLAIN, payload, 8, fd, 1);
            no_reply(&F);
            assert_int_equal(open_fds(), fds);
        }
    }
    assert_int_equal(ask(&F, VU_GET_FEATURES), OFFERED);
    send_msg(&F, 1000, PLAIN, payload, 4097, NULL, 0);
    expect_closed(&F);
}

/* --- malformed -------------------------------------------------------------------------------- */

/* The connection ends with a reason, everything is given back, and the next front-end is served. */
static void expect_fault(struct front *f, const char *word)
{
    expect_closed(f);
    if (!strstr(info(f).last_error, word)) {
        fail_msg("'%s' does not say '%s'", info(f).last_error, word);
    }
    front_connect(f);
}

static void wrong_sizes(void **state)
{
    uint8_t payload[8192] = {0};
    unsigned fds = open_fds();

    for (uint32_t r = 0; r < VU_REQUEST_MAX; r++) {
        const struct vu_msg_desc *d = vu_msg_desc(r);
        static const uint32_t size[] = {0, 1, 4, 7, 8, 9, 12, 16, 39, 40, 41, 4096, 4097, 8192};

        for (unsigned i = 0; d->spoken && i < ARRAY_SIZE(size); i++) {
            struct vu_hdr h = {.request = r, .flags = 1, .size = size[i]};
            struct err e;

            if (vu_check_header(&h, &e)) {
                send_msg(&F, r, PLAIN, payload, size[i], &F.mem_fd, i % 2);
                expect_fault(&F, d->name);
            }
        }
    }
    assert_int_equal(open_fds(), fds);
}

/* A length is refused before anybody waits for that many bytes. */
static void absurd_sizes(void **state)
{
    static const uint32_t size[] = {0xffffffff, 0x80000000, 0xfffffff4, 1033, 4097};

    for (unsigned i = 0; i < ARRAY_SIZE(size); i++) {
        struct vu_hdr h = {.request = VU_SET_MEM_TABLE, .flags = 1, .size = size[i]};

        raw_send(&F, &h, sizeof(h), NULL, 0);
        expect_fault(&F, "SET_MEM_TABLE");
    }
}

static void wrong_flags(void **state)
{
    static const uint32_t flags[] = {0, 2, 3, 5, 0x11, 0x80000001};

    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
        send_msg(&F, VU_GET_FEATURES, flags[i], NULL, 0, NULL, 0);
        expect_fault(&F, "GET_FEATURES");
    }
}

static void fds_where_none_belong(void **state)
{
    static const uint8_t zeros[64];
    unsigned fds = open_fds();

    for (uint32_t r = 0; r < VU_REQUEST_MAX; r++) {
        const struct vu_msg_desc *d = vu_msg_desc(r);
        static const uint32_t size[VU_N_SHAPES] = {
            [VU_SHAPE_U64] = 8,        [VU_SHAPE_RING_FD] = 8, [VU_SHAPE_RING_STATE] = 8,
            [VU_SHAPE_RING_ADDR] = 40, [VU_SHAPE_TABLE] = 8,   [VU_SHAPE_REGION] = 40,
            [VU_SHAPE_CONFIG] = 12,    [VU_SHAPE_INFLIGHT] = 24, [VU_SHAPE_LOG] = 16};
        int two[] = {F.mem_fd, F.mem_fd};

        if (d->spoken) {
            unsigned n = d->shape == VU_SHAPE_TABLE ? 1 : d->max_fds + 1;

            send_msg(&F, r, PLAIN, zeros, size[d->shape], two, n);
            expect_fault(&F, "file descriptors");
        }
    }
    assert_int_equal(open_fds(), fds);
}

static void fd_missing(void **state)
{
    for (uint32_t r = VU_SET_VRING_KICK; r <= VU_SET_VRING_ERR; r++) {
        say_u64(&F, r, PLAIN, 0);
        expect_fault(&F, "file descriptors");
        say_fd(&F, r, PLAIN, 0x100);
        expect_fault(&F, "file descriptors");
    }
}

static void fd_flood(void **state)
{
    unsigned fds = open_fds();
    int many[253];

#ifdef EMULATED
    print_message("skipped: the emulator itself keeps an fd for which there was no room\n");
    skip();
#endif
    for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
        many[i] = F.mem_fd;
    }
    send_msg(&F, 1000, PLAIN, NULL, 0, many, 33);
    expect_fault(&F, "file descriptors");
    send_msg(&F, VU_SET_MEM_TABLE, PLAIN, NULL, 0, many, 253);
    expect_fault(&F, "file descriptors");

    /* in portions, behind a header that never ends */
    struct vu_hdr h = {.request = 1000, .flags = 1, .size = 100};
    raw_send(&F, &h, sizeof(h), many, 32);
    raw_send(&F, "x", 1, many, 1);
    expect_fault(&F, "file descriptors");
    assert_int_equal(open_fds(), fds);
}

static void ring_numbers_out_of_range(void **state)
{
    static const uint32_t idx[] = {256, 0x10000, UINT32_MAX};
    static const uint32_t request[] = {VU_SET_VRING_NUM, VU_SET_VRING_BASE, VU_GET_VRING_BASE,
                                       VU_SET_VRING_ENABLE};

    for (unsigned i = 0; i < ARRAY_SIZE(idx); i++) {
        struct vu_ring_addr a = {.idx = idx[i]};

        for (unsigned k = 0; k < ARRAY_SIZE(request); k++) {
            say_state(&F, request[k], NEED_REPLY, idx[i], 1);
            expect_fault(&F, "names ring");
        }
        send_msg(&F, VU_SET_VRING_ADDR, PLAIN, &a, sizeof(a), NULL, 0);
        expect_fault(&F, "names ring");
    }
    say_state(&F, VU_SET_VRING_NUM, PLAIN, 0, 0);
    expect_fault(&F, "size of 0");
    say_state(&F, VU_SET_VRING_NUM, PLAIN, 0, 32769);
    expect_fault(&F, "32769");
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 2);
    expect_fault(&F, "not 0 or 1");
}

static void only_eventfds(void **state)
{
    int pipe_fd[2], pair[2];

    assert_int_equal(pipe(pipe_fd), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    const int bad[] = {F.mem_fd,
                       pipe_fd[0],
                       pipe_fd[1],
                       pair[0],
                       open("/dev/null", O_RDWR),
                       open("/proc/self/stat", O_RDONLY)};
    unsigned fds = open_fds();

    for (uint32_t r = VU_SET_VRING_KICK; r <= VU_SET_VRING_ERR; r++) {
        for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
            uint64_t idx = 0;

            send_msg(&F, r, NEED_REPLY, &idx, 8, &bad[i], 1);
            assert_int_equal(reply(&F, r), 1);
            assert_int_equal(open_fds(), fds);
            send_msg(&F, r, PLAIN, &idx, 8, &bad[i], 1);
            expect_fault(&F, "no eventfd");
        }
    }
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    close(pair[0]);
    close(pair[1]);
    close(bad[4]);
    close(bad[5]);
}

static void in_pieces(void **state)
{
    struct {
        struct vu_hdr h;
        uint64_t v;
    } __attribute__((packed)) m = {.h = {VU_SET_FEATURES, NEED_REPLY, 8}, .v = TEST_FEATURES};

    for (unsigned i = 0; i < sizeof(m); i++) {
        no_reply(&F);
        raw_send(&F, (uint8_t *)&m + i, 1, NULL, 0);
    }
    assert_int_equal(reply(&F, VU_SET_FEATURES), 0);
}

static void leaving_in_the_middle(void **state)
{
    struct vu_hdr h = {.request = VU_SET_MEM_TABLE, .flags = 1, .size = 40};

    raw_send(&F, &h, sizeof(h), &F.mem_fd, 1);
    pump(&F);
    close(F.s);
    F.s = -1;
    WAIT_FOR(&F, !F.own.up);
    assert_non_null(strstr(info(&F).last_error, "middle"));
}

/* --- stalls ----------------------------------------------------------------------------------- */

static void unfinished_message(void **state)
{
    struct vu_hdr h = {.request = VU_SET_FEATURES, .flags = 1, .size = 8};

    deadline_ms = 50;
    front_leave(&F);
    front_connect(&F);
    WAIT_FOR(&F, info(&F).connected);
    usleep(100000);
    pump(&F);
    assert_true(F.own.up); /* saying nothing at all is fine */
    raw_send(&F, &h, 5, NULL, 0);
    expect_fault(&F, "did not finish");

    /* a dribble does not move the deadline: it comes before the last byte could be sent */
    unsigned sent = 0;

    while (F.own.up && sent < sizeof(h) + 7) {
        raw_send(&F, sent < sizeof(h) ? (uint8_t *)&h + sent : (const uint8_t *)"x", 1, NULL, 0);
        sent++;
        usleep(10000);
        pump(&F);
    }
    assert_true(sent < sizeof(h) + 7);
    expect_fault(&F, "did not finish");
}

static void unread_replies(void **state)
{
    struct vu_hdr h = {.request = VU_GET_FEATURES, .flags = 1};
    ssize_t n;

    deadline_ms = 200;
    front_leave(&F);
    front_connect(&F);
    do { /* until neither direction takes any more */
        n = send(F.s, &h, sizeof(h), MSG_NOSIGNAL | MSG_DONTWAIT);
        event_base_loop(F.base, EVLOOP_NONBLOCK);
    } while (F.own.up && n == sizeof(h));
    WAIT_FOR(&F, !F.own.up);
    assert_non_null(strstr(info(&F).last_error, "replies"));
    close(F.s);
    F.s = -1;
}

/* It goes on as if nothing had happened when the replies are read in time. */
static void slow_reader(void **state)
{
    struct vu_hdr h = {.request = VU_GET_FEATURES, .flags = 1};
    unsigned sent = 0;

    while (send(F.s, &h, sizeof(h), MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(h)) {
        sent++;
        event_base_loop(F.base, EVLOOP_NONBLOCK);
    }
    assert_true(sent > 100);
    for (unsigned i = 0; i < sent; i++) {
        assert_int_equal(reply(&F, VU_GET_FEATURES), OFFERED);
    }
    no_reply(&F);
}

/* --- memory that is not shared -----------------------------------------------------------------
 */

static void unshared_memory_is_named(void **state)
{
    watch_ms = 20;
    say_u64(&F, VU_SET_FEATURES, PLAIN, TEST_FEATURES); /* and no memory at all */
    say_state(&F, VU_SET_VRING_ENABLE, PLAIN, 0, 1);
    say_ring(&F, 0, 0);
    WAIT_FOR(&F, info(&F).n_refused == 1);
    assert_non_null(strstr(info(&F).last_error, "shared no memory"));
    assert_non_null(strstr(info(&F).last_error, "share=on"));
    say_memory(&F, PLAIN); /* late, but there */
    assert_log("start 0 @0;");
}

static void private_memory_is_named(void **state)
{
    uint64_t idx = 0, one = 1;
    int kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    watch_ms = 20;
    say_all(&F);
    send_msg(&F, VU_SET_VRING_KICK, PLAIN, &idx, 8, &kick, 1);
    pump(&F);
    assert_int_equal(write(kick, &one, 8), 8); /* as QEMU does when it starts a ring */
    usleep(50000);
    pump(&F);
    assert_int_equal(info(&F).n_refused, 0); /* an idle guest is fine */
    one = 2;
    assert_int_equal(write(kick, &one, 8), 8);
    WAIT_FOR(&F, info(&F).n_refused == 1); /* but kicked and kicked, and all zeros */
    assert_non_null(strstr(info(&F).last_error, "was kicked"));
    assert_non_null(strstr(info(&F).last_error, "share=on"));
    close(kick);
}

static void used_memory_is_not(void **state)
{
    uint64_t idx = 0, one = 1;
    int kick = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

    watch_ms = 20;
    say_all(&F);
    send_msg(&F, VU_SET_VRING_KICK, PLAIN, &idx, 8, &kick, 1);
    pump(&F);
    avail_of(&F, 0)->idx = 3;
    avail_of(&F, 1)->idx = 3;
    assert_int_equal(write(kick, &one, 8), 8);
    WAIT_FOR(&F, !event_pending(F.dev->watch, EV_TIMEOUT, NULL)); /* nothing left to look at */
    assert_int_equal(info(&F).n_refused, 0);
    close(kick);
}

/* QEMU kicks every ring when it starts; a guest that has nothing to send fills its receive ring
 * only. */
static void idle_guest_is_not_accused(void **state)
{
    uint64_t idx = 1, one = 1;
    int kick = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

    watch_ms = 20;
    say_all(&F);
    avail_of(&F, 0)->idx = 3;
    send_msg(&F, VU_SET_VRING_KICK, PLAIN, &idx, 8, &kick, 1);
    pump(&F);
    assert_int_equal(write(kick, &one, 8), 8);
    WAIT_FOR(&F, !event_pending(F.dev->watch, EV_TIMEOUT, NULL));
    assert_int_equal(info(&F).n_refused, 0);
    close(kick);
}

/* --- sockets -----------------------------------------------------------------------------------
 */

static void second_front_end(void **state)
{
    struct pollfd p = {.events = POLLIN};
    char c;

    say_all(&F);
    p.fd = dial_path(F.path);
    assert_true(p.fd >= 0);
    WAIT_FOR(&F, poll(&p, 1, 0) == 1);
    assert_int_equal(recv(p.fd, &c, 1, 0), 0);
    close(p.fd);
    assert_log(""); /* the first one does not notice */
    assert_int_equal(ask(&F, VU_GET_FEATURES), OFFERED);
}

/* The next one comes before we have heard that the first one left. */
static void quick_successor(void **state)
{
    for (unsigned i = 0; i < 20; i++) {
        say_all(&F);
        int next = dial_path(F.path); /* first in the queue of the event loop */

        assert_true(next >= 0);
        close(F.s);
        F.s = next;
        assert_int_equal(ask(&F, VU_GET_FEATURES), OFFERED);
    }
    assert_int_equal(info(&F).n_connects, 21);
}

static int try_server(struct front *f, struct vu_conf *conf, struct err *e)
{
    struct vu_dev *d = NULL;
    int rc = vu_dev_create(&d, conf, &owner_ops, &f->own, f->base, e);

    assert_int_equal(rc == 0, d != NULL);
    vu_dev_destroy(d);
    return rc;
}

static void socket_in_use(void **state)
{
    struct vu_conf conf = server_conf(&F);
    struct err e;
    char owner[64], comm[16];

    front_leave(&F);
    assert_int_equal(try_server(&F, &conf, &e), -EADDRINUSE);
    assert_int_equal(prctl(PR_GET_NAME, comm), 0);
    snprintf(owner, sizeof(owner), "process %ld (%s)", (long)getpid(), comm);
    assert_non_null(strstr(e.text, owner));
    assert_non_null(strstr(e.text, F.path));
    pump(&F); /* it was only a question: nobody is connected */
    WAIT_FOR(&F, !F.own.up);
    front_connect(&F);
}

static void stale_socket(void **state)
{
    struct vu_conf conf = server_conf(&F);
    struct stat before, after;
    struct err e;

    /* somebody made it and died */
    front_leave(&F);
    vu_dev_destroy(F.dev);
    F.dev = NULL;
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, F.path);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
    close(s);
    assert_int_equal(stat(F.path, &before), 0);
    assert_int_equal(try_server(&F, &conf, &e), 0);
    assert_int_equal(stat(F.path, &before), -1); /* and removed its own */

    /* a file that is no socket is left alone */
    int fd = open(F.path, O_CREAT | O_WRONLY | O_EXCL, 0600);
    close(fd);
    assert_int_equal(try_server(&F, &conf, &e), -EEXIST);
    assert_non_null(strstr(e.text, "not a socket"));
    assert_int_equal(stat(F.path, &after), 0);
    unlink(F.path);

    /* somebody else's new socket is left alone when ours goes */
    front_listen(&F);
    unlink(F.path);
    s = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
    vu_dev_destroy(F.dev);
    F.dev = NULL;
    assert_int_equal(stat(F.path, &after), 0);
    close(s);
}

static void bad_paths(void **state)
{
    struct vu_conf conf = server_conf(&F);
    char path[200];
    struct err e;

    memset(path, 'a', sizeof(path));
    path[0] = '/';
    path[108] = '\0';
    conf.path = path;
    assert_int_equal(try_server(&F, &conf, &e), -ENAMETOOLONG);
    assert_non_null(strstr(e.text, "107"));
    assert_non_null(strstr(e.text, "shorter"));
    conf.path = "/nonexistent-vu-test/x.sock";
    assert_int_equal(try_server(&F, &conf, &e), -ENOENT);
    assert_non_null(strstr(e.text, "directory /nonexistent-vu-test does not exist"));
    conf.path = "";
    assert_int_equal(try_server(&F, &conf, &e), -EINVAL);
}

static void longest_path(void **state)
{
    struct vu_conf conf = server_conf(&F);
    char path[108];
    struct err e = {0};

    memset(path, 'a', sizeof(path));
    memcpy(path, F.dir, strlen(F.dir));
    path[strlen(F.dir)] = '/';
    path[107] = '\0';
    conf.path = path;
    assert_int_equal(try_server(&F, &conf, &e), 0);
}

static void access_rights(void **state)
{
    static const mode_t modes[] = {0600, 0660, 0666, 0770};
    mode_t old = umask(077);
    struct stat st;

    front_leave(&F);
    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
        struct vu_conf conf = server_conf(&F);
        struct err e;

        vu_dev_destroy(F.dev);
        F.dev = NULL;
        conf.mode = modes[i];
        conf.owner = getuid();
        conf.group = getgid();
        assert_int_equal(vu_dev_create(&F.dev, &conf, &owner_ops, &F.own, F.base, &e), 0);
        assert_int_equal(stat(F.path, &st), 0);
        assert_int_equal(st.st_mode & 0777, modes[i]);
        assert_int_equal(st.st_uid, getuid());
    }
    assert_int_equal(umask(old), 077); /* the process's own is as it was */
}

static void owner_that_is_not_ours_to_give(void **state)
{
    struct vu_conf conf = server_conf(&F);
    struct stat st;
    struct err e;

    front_leave(&F);
    vu_dev_destroy(F.dev);
    F.dev = NULL;
    conf.owner = 0;
    bool root = !geteuid(); /* root may: be somebody else for a moment */
    if (root) {
        assert_int_equal(chmod(F.dir, 0777), 0);
        assert_int_equal(seteuid(65534), 0);
    }
    int rc = try_server(&F, &conf, &e);
    if (root) {
        assert_int_equal(seteuid(0), 0);
    }
    assert_int_equal(rc, -EPERM);
    assert_non_null(strstr(e.text, "only root"));
    assert_int_equal(stat(F.path, &st), -1);
}

/* --- client mode --------------------------------------------------------------------------------
 */

static int listen_here(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    strcpy(sa.sun_path, path);
    assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(s, 4), 0);
    return s;
}

static void client_mode(void **state)
{
    struct vu_conf conf = server_conf(&F);
    struct err e = {0};

    front_leave(&F);
    vu_dev_destroy(F.dev);
    F.dev = NULL;
    conf.client = true;
    F.own.log[0] = '\0';
    assert_int_equal(vu_dev_create(&F.dev, &conf, &owner_ops, &F.own, F.base, &e), 0);
    assert_log(""); /* nobody listens yet */
    assert_string_equal(info(&F).state, "dialling");
    WAIT_FOR(&F, info(&F).last_error[0]);
    assert_non_null(strstr(info(&F).last_error, F.path));

    for (unsigned round = 0; round < 3; round++) {
        int l = listen_here(F.path);

        WAIT_FOR(&F, F.own.up);
        F.s = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        assert_true(F.s >= 0);
        F.own.log[0] = '\0';
        say_all(&F);
        assert_true(info(&F).client && info(&F).connected);
        close(l);
        unlink(F.path);
        if (round == 1) { /* a fault: it comes back all the same */
            say_u64(&F, 4, PLAIN, 0);
            expect_closed(&F);
        } else {
            front_leave(&F);
        }
        assert_log("stop 0;stop 1;down;");
        assert_string_equal(info(&F).state, "dialling");
    }
    assert_int_equal(info(&F).n_connects, 3);
}

/* The cable is pulled: the connection ends, and nobody gets in until it is back. */
static void link_down(void **state)
{
    struct front *f = &F;
    struct stat st;
    struct err e;

    say_all(f);
    assert_int_equal(vu_dev_set_link(f->dev, true, &e), 0); /* it is up: nothing happens */
    assert_log("");
    assert_int_equal(vu_dev_set_link(f->dev, false, &e), 0);
    assert_string_equal(f->own.log, "stop 0;stop 1;down;");
    f->own.log[0] = '\0';
    expect_closed(f);
    assert_string_equal(info(f).state, "down");
    assert_string_equal(info(f).last_error, "the link was set down");
    assert_int_equal(dial_path(f->path), -ECONNREFUSED);
    assert_int_equal(stat(f->path, &st), 0); /* nobody takes the name meanwhile */
    assert_int_equal(vu_dev_set_link(f->dev, false, &e), 0);
    assert_log("");
    assert_int_equal(vu_dev_set_link(f->dev, true, &e), 0);
    assert_string_equal(info(f).state, "listening");
    front_connect(f);
    say_all(f);

    /* The name was taken after all: that is said, and the link stays down. */
    assert_int_equal(vu_dev_set_link(f->dev, false, &e), 0);
    expect_closed(f);
    int other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, f->path);
    unlink(f->path);
    assert_int_equal(bind(other, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(other, 1), 0);
    assert_int_equal(vu_dev_set_link(f->dev, true, &e), -EADDRINUSE);
    assert_string_equal(info(f).state, "down");
    close(other);
    assert_int_equal(vu_dev_set_link(f->dev, true, &e), 0); /* stale now */
    assert_string_equal(info(f).state, "listening");

    /* Removed while down: the file goes too (front_end() finds an empty directory). */
    assert_int_equal(vu_dev_set_link(f->dev, false, &e), 0);
}

/* The same for a front-end that listens: it is not dialled. */
static void link_down_as_client(void **state)
{
    struct vu_conf conf = server_conf(&F);
    struct err e = {0};

    front_leave(&F);
    vu_dev_destroy(F.dev);
    F.dev = NULL;
    conf.client = true;
    assert_int_equal(vu_dev_create(&F.dev, &conf, &owner_ops, &F.own, F.base, &e), 0);
    assert_int_equal(vu_dev_set_link(F.dev, false, &e), 0);
    int l = listen_here(F.path);
    usleep(BACKOFF_MIN_MS * 2000);
    pump(&F);
    assert_int_equal(info(&F).n_connects, 0);
    assert_string_equal(info(&F).state, "down");
    assert_int_equal(vu_dev_set_link(F.dev, true, &e), 0);
    WAIT_FOR(&F, F.own.up);
    F.s = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_int_equal(vu_dev_set_link(F.dev, false, &e), 0);
    expect_closed(&F);
    usleep(BACKOFF_MIN_MS * 2000);
    pump(&F);
    assert_int_equal(info(&F).n_connects, 1);
    close(l);
}

/* --- the configuration space ------------------------------------------------------------------ */

#define CONFIG_BITS (VU_PROTOCOL_BIT(CONFIG) | VU_PROTOCOL_BIT(BACKEND_REQ) | VU_PROTOCOL_BIT(REPLY_ACK))

static const struct vnet_config told = {.mac = {0x52, 0x54, 0, 1, 2, 3}, .mtu = 4000};

/* A device that offers it, and a front-end that took it. */
static void config_begin(struct front *f)
{
    struct vu_conf conf = server_conf(f);
    struct err e = {0};

    front_leave(f);
    vu_dev_destroy(f->dev);
    conf.config = true;
    conf.max_rings = 8;
    assert_int_equal(vu_dev_create(&f->dev, &conf, &owner_ops, &f->own, f->base, &e), 0);
    vu_dev_set_config(f->dev, &told);
    front_connect(f);
    assert_int_equal(ask(f, VU_GET_PROTOCOL_FEATURES) & CONFIG_BITS, CONFIG_BITS);
    say_u64(f, VU_SET_PROTOCOL_FEATURES, PLAIN, CONFIG_BITS);
}

static struct vnet_config ask_config(struct front *f)
{
    struct vu_config c = {.size = sizeof(struct vnet_config)};
    struct vnet_config out;

    send_msg(f, VU_GET_CONFIG, PLAIN, &c, VU_CONFIG_HEAD + c.size, NULL, 0);
    assert_int_equal(config_reply(f, VU_GET_CONFIG, &c), VU_CONFIG_HEAD + c.size);
    memcpy(&out, c.bytes, sizeof(out));
    return out;
}

static void config_is_told(void **state)
{
    struct front *f = &F;

    config_begin(f);
    struct vnet_config c = ask_config(f);
    assert_memory_equal(c.mac, told.mac, 6);
    assert_int_equal(c.mtu, 4000);
    assert_int_equal(c.status, VNET_S_LINK_UP);
    assert_int_equal(c.max_pairs, 4);
    assert_int_equal(c.speed, VNET_SPEED_UNKNOWN);

    /* any part; behind the end there is nothing */
    for (uint32_t from = 0; from <= VU_CONFIG_MAX; from += from < 32 ? 1 : 32) {
        for (uint32_t n = 0; n <= VU_CONFIG_MAX - from; n += n < 25 ? 1 : 33) {
            struct vu_config p = {.offset = from, .size = n};
            uint8_t all[VU_CONFIG_MAX] = {0};

            memcpy(all, &c, sizeof(c));
            memset(p.bytes, 0xee, sizeof(p.bytes));
            send_msg(f, VU_GET_CONFIG, from % 2 ? NEED_REPLY : PLAIN, &p, VU_CONFIG_HEAD + n, NULL, 0);
            assert_int_equal(config_reply(f, VU_GET_CONFIG, &p), VU_CONFIG_HEAD + n);
            assert_memory_equal(p.bytes, all + from, n);
        }
    }
    no_reply(f);
}

static void config_is_read_only(void **state)
{
    struct front *f = &F;
    struct vu_config c = {.size = 6};

    config_begin(f);
    memcpy(c.bytes, told.mac, 6);
    send_msg(f, VU_SET_CONFIG, NEED_REPLY, &c, VU_CONFIG_HEAD + 6, NULL, 0);
    assert_int_equal(reply(f, VU_SET_CONFIG), 1);
    c.flags = VU_CONFIG_F_MIGRATION; /* a guest arrives with what it was told before */
    send_msg(f, VU_SET_CONFIG, NEED_REPLY, &c, VU_CONFIG_HEAD + 6, NULL, 0);
    assert_int_equal(reply(f, VU_SET_CONFIG), 0);
    c.bytes[5]++;
    send_msg(f, VU_SET_CONFIG, NEED_REPLY, &c, VU_CONFIG_HEAD + 6, NULL, 0);
    assert_int_equal(reply(f, VU_SET_CONFIG), 1);
    assert_non_null(strstr(info(f).last_error, "read-only"));
    assert_memory_equal(ask_config(f).mac, told.mac, 6);
}

static bool told_of_change(int channel)
{
    struct vu_hdr h[2];
    ssize_t n = recv(channel, h, sizeof(h), MSG_DONTWAIT);

    assert_true(n < 0 || (n == sizeof(h[0]) && h[0].request == 2 && h[0].flags == 1 && !h[0].size));
    return n > 0;
}

/* Link and MTU change while it is connected: it stays connected, its rings rest, it is told. */
static void config_changes(void **state)
{
    struct front *f = &F;
    struct vnet_config c = told;
    int channel[2], pipes[2];
    struct err e;

    config_begin(f);
    say_all(f);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel), 0);
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    send_msg(f, VU_SET_BACKEND_REQ_FD, NEED_REPLY, NULL, 0, &pipes[1], 1);
    assert_int_equal(reply(f, VU_SET_BACKEND_REQ_FD), 1); /* a pipe is none */
    for (unsigned i = 0; i < 3; i++) {                    /* repeated: the last one counts */
        send_msg(f, VU_SET_BACKEND_REQ_FD, NEED_REPLY, NULL, 0, &channel[1], 1);
        assert_int_equal(reply(f, VU_SET_BACKEND_REQ_FD), 0);
    }
    assert_int_equal(vu_dev_set_link(f->dev, false, &e), 0);
    assert_log("stop 0;stop 1;");
    assert_string_equal(info(f).state, "down");
    assert_string_equal(ring_info(f, 0).why, "the link is down");
    assert_true(told_of_change(channel[0]));
    assert_int_equal(ask_config(f).status, 0);
    assert_int_equal(dial_path(f->path), -ECONNREFUSED); /* and nobody else gets in */
    assert_int_equal(vu_dev_set_link(f->dev, true, &e), 0);
    assert_log("start 0 @0;start 1 @0;");
    assert_true(told_of_change(channel[0]));
    assert_int_equal(ask_config(f).status, VNET_S_LINK_UP);
    c.mtu = 1400;
    vu_dev_set_config(f->dev, &c);
    assert_true(told_of_change(channel[0]));
    assert_int_equal(ask_config(f).mtu, 1400);

    /* A channel that nobody reads fills up; nobody waits for it. */
    for (unsigned i = 0; i < 1000; i++) {
        vu_dev_set_config(f->dev, &c);
    }
    close(channel[0]);
    vu_dev_set_config(f->dev, &c); /* and one that is closed raises no signal */
    close(channel[1]);
    close(pipes[0]);
    close(pipes[1]);
    assert_int_equal(ask_config(f).mtu, 1400);

    /* Left while the link is down: nobody gets in before it is up. */
    assert_int_equal(vu_dev_set_link(f->dev, false, &e), 0);
    front_leave(f);
    assert_int_equal(dial_path(f->path), -ECONNREFUSED);
    assert_int_equal(vu_dev_set_link(f->dev, true, &e), 0);
    front_connect(f);
}

/* Offered, but not taken: what is asked for without having been negotiated is refused. */
static void config_not_taken(void **state)
{
    struct front *f = &F;
    struct vu_config c = {.size = 6};

    config_begin(f);
    say_u64(f, VU_SET_PROTOCOL_FEATURES, PLAIN, VU_PROTOCOL_BIT(REPLY_ACK));
    send_msg(f, VU_GET_CONFIG, PLAIN, &c, VU_CONFIG_HEAD + 6, NULL, 0);
    assert_int_equal(config_reply(f, VU_GET_CONFIG, &c), 0);
    send_msg(f, VU_SET_BACKEND_REQ_FD, NEED_REPLY, NULL, 0, &f->mem_fd, 1);
    assert_int_equal(reply(f, VU_SET_BACKEND_REQ_FD), 1);
    send_msg(f, VU_SET_BACKEND_REQ_FD, NEED_REPLY, NULL, 0, NULL, 0);
    assert_int_equal(reply(f, VU_SET_BACKEND_REQ_FD), 1);
}

/* 100 ms, doubling, at most 2 s; and from the start again after a connection that lasted. */
static void client_backs_off(void **state)
{
    static const unsigned want[] = {100, 200, 400, 800, 1600, 2000, 2000};
    struct vu_conf conf = server_conf(&F);
    struct err e = {0};

    front_leave(&F);
    vu_dev_destroy(F.dev);
    F.dev = NULL;
    conf.client = true;
    assert_int_equal(vu_dev_create(&F.dev, &conf, &owner_ops, &F.own, F.base, &e), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
        event_del(F.dev->meet->timer);
        on_timer(-1, 0, F.dev->meet); /* now, not later */
        assert_int_equal(F.dev->meet->backoff_ms, want[i]);
        assert_true(event_pending(F.dev->meet->timer, EV_TIMEOUT, NULL));
    }
    int l = listen_here(F.path);
    clock_stop();
    for (unsigned lasts = 0; lasts < 2; lasts++) {
        event_del(F.dev->meet->timer);
        on_timer(-1, 0, F.dev->meet);
        assert_true(F.own.up);
        clock_warp(lasts ? LASTING_NS : LASTING_NS - 1);
        vu_dev_kill(F.dev, "test");
        assert_int_equal(F.dev->meet->backoff_ms, lasts ? 100 : 2000);
        assert_true(event_pending(F.dev->meet->timer, EV_TIMEOUT, NULL));
    }
    close(l);
    unlink(F.path);
}

/* --- random conversations ------------------------------------------------------------------------
 *
 * Messages that are right, nearly right and wrong, in any order, with an owner that sometimes
 * refuses, breaks rings or kills the connection, and a guest that scribbles on its indices.  After
 * each step the two views of which rings run must agree; the owner checks the barriers meanwhile.
 * RINGWAY_SEED=n repeats a run.
 */


static uint32_t rnd(uint32_t below)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 17;
    rnd_state ^= rnd_state << 5;
    return rnd_state % below;
}

static struct vu_region random_region(void)
{
    struct vu_region r = region(rnd(4) * 0x10000, (1 + rnd(4)) * 0x10000);

    if (!rnd(40)) {
        (&r.gpa)[rnd(4)] = (uint64_t)rnd(UINT32_MAX) << rnd(33);
    }
    return r;
}

static void random_memory(struct front *f, uint32_t flags)
{
    struct vu_region r[3] = {region(0, 0x20000), region(0x20000, 0x20000), random_region()};
    struct vu_one_region one = {.region = random_region()};

    switch (rnd(6)) {
    case 0:
        say_table(f, flags, r, 1 + rnd(3));
        break;
    case 1:
        say_table(f, flags, &one.region, 1);
        break;
    case 2:
        say_memory(f, flags);
        break;
    case 3:
        send_msg(f, VU_REM_MEM_REG, flags, &one, sizeof(one), NULL, 0);
        break;
    default:
        send_msg(f, VU_ADD_MEM_REG, flags, &one, sizeof(one), &f->mem_fd, rnd(20) != 0);
        break;
    }
}

static void random_ring_message(struct front *f, uint32_t flags)
{
    unsigned idx = rnd(3);
    struct vu_ring_addr a = ring_addr(idx);

    switch (rnd(8)) {
    case 0:
        say_state(f, VU_SET_VRING_NUM, flags, idx, rnd(20) ? 1u << rnd(7) : rnd(40000));
        break;
    case 1:
        if (!rnd(10)) {
            (&a.desc)[rnd(3)] += (int)rnd(MEM_BYTES) - 0x1000;
        }
        send_msg(f, VU_SET_VRING_ADDR, flags, &a, sizeof(a), NULL, 0);
        break;
    case 2:
        say_state(f, VU_SET_VRING_BASE, flags, idx, rnd(rnd(50) ? 65536 : 100000));
        break;
    case 3:
        say_state(f, VU_GET_VRING_BASE, flags, idx, rnd(3));
        break;
    case 4:
        say_state(f, VU_SET_VRING_ENABLE, flags, idx, rnd(4) != 0);
        break;
    case 5:
        say_u64(f, VU_SET_VRING_KICK + rnd(3), flags, idx | (rnd(30) ? 0x100 : 0));
        break;
    default:
        say_fd(f, VU_SET_VRING_KICK + rnd(3), flags, idx);
        break;
    }
}

static void random_noise(struct front *f, uint32_t flags)
{
    uint8_t noise[64];
    int fd[] = {f->mem_fd, f->mem_fd};

    for (unsigned i = 0; i < sizeof(noise); i++) {
        noise[i] = (uint8_t)rnd(256);
    }
    send_msg(f, rnd(50), rnd(4) ? flags : rnd(64), noise, rnd(sizeof(noise)), fd, rnd(3));
}

static void random_message(struct front *f)
{
    uint32_t flags = rnd(8) ? NEED_REPLY : PLAIN, what = rnd(200);

    if (what < 130) {
        random_ring_message(f, flags);
    } else if (what < 150) {
        random_memory(f, flags);
    } else if (what < 170) {
        say_u64(f, VU_SET_FEATURES, flags, rnd(20) ? TEST_FEATURES : rnd(UINT32_MAX));
    } else if (what < 173) {
        send_msg(f, VU_RESET_DEVICE, flags, NULL, 0, NULL, 0);
    } else if (what < 180) {
        say_u64(f, VU_SET_STATUS, flags, rnd(256));
    } else if (what < 199) {
        send_msg(f, rnd(2) ? VU_GET_FEATURES : VU_GET_STATUS, flags, NULL, 0, NULL, 0);
    } else {
        random_noise(f, flags);
    }
}

static void random_mischief(struct front *f)
{
    unsigned idx = rnd(3);

    f->own.progress = (uint16_t)rnd(5);
    f->own.refuse_start = rnd(30) ? 0 : -ENOMEM;
    if (!rnd(20)) {
        avail_of(f, idx)->idx = (uint16_t)rnd(65536);
    }
    if (!rnd(10)) {
        used_of(f, idx)->idx = avail_of(f, idx)->idx;
    }
    if (!rnd(50)) {
        vu_dev_ring_broken(f->dev, idx, "test");
    }
    if (!rnd(500)) {
        vu_dev_kill(f->dev, "test");
    }
}

static void check_views_agree(const struct front *f)
{
    for (unsigned i = 0; i < VU_MAX_RINGS; i++) {
        struct vu_ring_info r = {0};

        vu_dev_ring_info(f->dev, i, &r);
        assert_int_equal(r.running, f->own.on[i]);
        assert_true(!r.running || (!r.why && !r.broken && r.enabled));
        if (r.running) {
            check_alive(&f->own, i);
            assert_ptr_equal(f->own.mem, f->dev->mem);
        }
    }
}

static void take_replies(struct front *f)
{
    struct {
        struct vu_hdr h;
        uint64_t v;
    } __attribute__((packed)) r;

    while (recv(f->s, &r, sizeof(r), MSG_DONTWAIT) == sizeof(r)) {
        assert_int_equal(r.h.flags, 5);
        if (r.h.request == VU_GET_INFLIGHT_FD) {
            recv(f->s, &r, r.h.size - sizeof(r.v), MSG_DONTWAIT); /* its file is closed with it */
            continue;
        }
        assert_int_equal(r.h.size, 8);
    }
}

static void random_conversations(void **state)
{
    const char *seed = getenv("RINGWAY_SEED");
    unsigned fds = open_fds();

    rnd_state = seed ? (uint32_t)strtoul(seed, NULL, 0) : 0x5eed;
    for (unsigned i = 0; i < 30000; i++) {
        F.own.log[0] = '\0';
        random_message(&F);
        event_base_loop(F.base, EVLOOP_NONBLOCK);
        take_replies(&F);
        random_mischief(&F);
        check_views_agree(&F);
        if (!F.own.up || !rnd(2000)) {
            close(F.s);
            F.s = -1;
            WAIT_FOR(&F, !F.own.up);
            assert_int_equal(open_fds(), fds - 2);
            front_connect(&F);
            F.own.refuse_start = 0;
            memset(F.mem, 0, MEM_BYTES);
            say_all(&F);
        }
    }
    assert_true(F.own.n_starts > 1000);
    assert_true(info(&F).n_connects > 100);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(qemu_order),
        T(cloud_hypervisor_order),
        T(virtio_user_order),
        T(every_order),
        T(repeated_negotiation),
        T(without_bit_30_rings_are_enabled),
        T(without_kick_fd_it_is_polled),
        T(the_owner_gets_what_was_said),
        T(starts_at_the_used_index),
        T(indices_too_far_apart),
        T(the_owner_may_refuse),
        T(why_it_does_not_run),
        T(ring_described_wrongly),
        T(the_last_ring),
        T(get_base_stops_one_ring),
        T(ring_changed_while_it_runs),
        T(call_changes),
        T(memory_table_while_rings_run),
        T(refused_tables_change_nothing),
        T(tables_without_memory),
        T(memory_slots),
        T(removing_the_memory_of_a_stopped_ring),
        T(all_slots),
        T(status_zero_keeps_the_rings),
        T(reset_device),
        T(enable_and_disable),
        T(broken_ring),
        T(kill_closes),
        T(truncated_memory),
        T(leaving_while_rings_run),
        T(features_not_offered),
        T(features_change_while_rings_run),
        T(protocol_features_not_offered),
        T(mtu),
        T(rarp),
        T(base_has_16_bits),
        T(base_before_features),
        T(packed_base),
        T(packed_parts),
        T(inflight_region),
        T(inflight_region_split),
        T(inflight_lies),
        T(inflight_region_lies),
        T(own_file),
        T(own_file_is_truncated),
        T(own_file_of_others),
        T(features_that_are_gone),
        T(log_fd),
        T(log_while_rings_run),
        T(hold_until_there_is_a_log),
        T(hold_running_rings),
        T(where_packed_rings_log),
        T(logs_that_are_refused),
        T(one_answer_to_everything),
        T(not_spoken_here),
        T(wrong_sizes),
        T(absurd_sizes),
        T(wrong_flags),
        T(fds_where_none_belong),
        T(fd_missing),
        T(fd_flood),
        T(ring_numbers_out_of_range),
        T(only_eventfds),
        T(in_pieces),
        T(leaving_in_the_middle),
        T(unfinished_message),
        T(unread_replies),
        T(slow_reader),
        T(unshared_memory_is_named),
        T(private_memory_is_named),
        T(used_memory_is_not),
        T(idle_guest_is_not_accused),
        T(second_front_end),
        T(quick_successor),
        T(socket_in_use),
        T(stale_socket),
        T(bad_paths),
        T(longest_path),
        T(access_rights),
        T(owner_that_is_not_ours_to_give),
        T(random_conversations),
        T(client_mode),
        T(config_is_told),
        T(config_is_read_only),
        T(config_changes),
        T(config_not_taken),
        T(link_down),
        T(link_down_as_client),
        T(client_backs_off), /* the last one: it stops the clock */
    };

    log_set_sink(quiet);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
