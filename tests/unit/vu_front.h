/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scripted front-end and a recording owner for tests of the back-end, in one process and one
 * thread: after each step the event loop is run until nothing is left to do.
 *
 * The owner (struct owner) stands in for the port.  It writes down what it was told ("start 0 @5",
 * "stop 0", ...) and checks the promises of vu_backend.h while it does: a ring is not started
 * twice, its memory is readable and its fds are open up to and including ring_stop.
 */
#ifndef TESTS_VU_FRONT_H
#define TESTS_VU_FRONT_H

#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "ring/vring.h"
#include "base/fd.h"
#include "vhost/vu_backend.h"
#include "vhost/vu_codec.h"
#include "vnet/features.h"

/* --- the owner -------------------------------------------------------------------------------- */

struct owner {
    char log[8192];
    bool up, on[VU_MAX_RINGS];
    struct vu_ring_conf conf[VU_MAX_RINGS];
    const struct gmem *mem;
    uint64_t features;
    unsigned n_signals, n_starts;
    int refuse_start;  /* -errno: what ring_start answers */
    uint16_t progress; /* entries that a ring seems to have handled between start and stop */
};

static inline void note(struct owner *o, const char *fmt, ...) PRINTF_LIKE(2, 3);
static inline void note(struct owner *o, const char *fmt, ...)
{
    size_t at = strlen(o->log);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(o->log + at, sizeof(o->log) - at, fmt, ap);
    va_end(ap);
}

/* Everything the ring was started with is still there. */
static inline void check_alive(const struct owner *o, unsigned idx)
{
    const struct vu_ring_conf *c = &o->conf[idx];
    volatile const uint8_t *desc = c->desc, *avail = c->avail;
    volatile uint8_t *used = c->used;

    (void)desc[vring_desc_bytes(c->num) - 1];
    if (o->features & VIRTIO_BIT(F_RING_PACKED)) {
        (void)avail[sizeof(struct vring_packed_event) - 1];
        used[sizeof(struct vring_packed_event) - 1] = 0;
    } else {
        (void)avail[vring_avail_bytes(c->num) - 1];
        used[vring_used_bytes(c->num) - 1] = 0;
    }
    assert_true(c->kick_fd < 0 || fcntl(c->kick_fd, F_GETFD) >= 0);
    assert_true(c->call_fd < 0 || fcntl(c->call_fd, F_GETFD) >= 0);
}

static inline int own_start(void *ctx, unsigned idx, const struct vu_ring_conf *c,
                            uint64_t features, const struct gmem *mem, struct err *e)
{
    struct owner *o = ctx;

    assert_false(o->on[idx]);
    assert_true(o->up);
    if (o->refuse_start) {
        return err_set(e, o->refuse_start, "the owner does not want it");
    }
    o->on[idx] = true;
    o->conf[idx] = *c;
    o->mem = mem;
    o->features = features;
    o->n_starts++;
    check_alive(o, idx);
    note(o, "start %u @%u;", idx, c->base);
    return 0;
}

static inline uint16_t own_stop(void *ctx, unsigned idx)
{
    struct owner *o = ctx;

    assert_true(o->on[idx]);
    check_alive(o, idx);
    o->on[idx] = false;
    uint16_t live = (uint16_t)(o->conf[idx].base + o->progress);
    struct vring_used *used = o->conf[idx].used;
    struct vring_avail *avail = o->conf[idx].avail;
    if (!(o->features & VIRTIO_BIT(F_RING_PACKED))) {
        used->idx = live;
        avail->idx = live;
    }
    note(o, "stop %u;", idx);
    return live;
}

static inline void own_call(void *ctx, unsigned idx, int call_fd)
{
    struct owner *o = ctx;

    assert_true(o->on[idx]);
    check_alive(o, idx);
    o->conf[idx].call_fd = call_fd;
    check_alive(o, idx);
    note(o, "call %u%s;", idx, call_fd < 0 ? " none" : "");
}

static inline void own_swap(void *ctx, const struct gmem *mem)
{
    struct owner *o = ctx;

    for (unsigned i = 0; i < VU_MAX_RINGS; i++) {
        if (o->on[i]) {
            check_alive(o, i);
        }
    }
    o->mem = mem;
    note(o, "swap %u;", mem->n);
}

static inline void own_log(void *ctx, unsigned idx, const struct ring_log *l)
{
    struct owner *o = ctx;

    assert_true(o->on[idx]);
    check_alive(o, idx);
    o->conf[idx].log = *l;
    note(o, "log %u%s%s%s;", idx, l->map ? "" : " off", l->payload ? " payload" : "",
         l->ring ? " ring" : "");
}

static inline void own_barrier(void *ctx)
{
    note(ctx, "barrier;");
}

static inline void own_rarp(void *ctx, const uint8_t m[6])
{
    note(ctx, "rarp %02x:%02x:%02x:%02x:%02x:%02x;", m[0], m[1], m[2], m[3], m[4], m[5]);
}

static inline int own_mtu(void *ctx, uint16_t mtu)
{
    note(ctx, "mtu %u;", mtu);
    return mtu == 1234 ? -EINVAL : 0;
}

static inline void own_link(void *ctx, bool up, const char *why)
{
    struct owner *o = ctx;

    assert_true(o->up != up);
    for (unsigned i = 0; i < VU_MAX_RINGS; i++) {
        assert_false(o->on[i]);
    }
    o->up = up;
    note(o, up ? "up;" : "down;");
}

static inline void own_signal(void *ctx, int fd)
{
    struct owner *o = ctx;

    assert_true(fcntl(fd, F_GETFD) >= 0);
    o->n_signals++;
}

static const struct vu_ops owner_ops = {.ring_start = own_start,
                                        .ring_stop = own_stop,
                                        .ring_call = own_call,
                                        .mem_swap = own_swap,
                                        .ring_log = own_log,
                                        .barrier = own_barrier,
                                        .rarp = own_rarp,
                                        .mtu = own_mtu,
                                        .link = own_link,
                                        .signal = own_signal};

/* --- the bench: one device, one front-end -------------------------------------------------------
 */

#define UVA       0x7f0000000000ull
#define MEM_BYTES 0x40000u
#define RING_NUM  64u
#define RING_STRIDE                                                                                \
    0x1000u /* ring n lives at n * RING_STRIDE: desc +0, avail +0x400, used +0x800 */
#define TEST_FEATURES                                                                              \
    (VIRTIO_BIT(F_VERSION_1) | VIRTIO_BIT(NET_F_MRG_RXBUF) | VIRTIO_BIT(F_EVENT_IDX) |             \
     VIRTIO_BIT(F_PROTOCOL_FEATURES))
#define PACKED (TEST_FEATURES | VIRTIO_BIT(F_RING_PACKED))
#define OFFERED (TEST_FEATURES | VIRTIO_BIT(F_RING_PACKED) | VIRTIO_BIT(F_LOG_ALL))

struct front {
    struct owner own;
    struct event_base *base;
    struct vu_dev *dev;
    char dir[64], path[108];
    int s;      /* our end of the connection */
    int mem_fd; /* the guest's memory */
    uint8_t *mem;
    unsigned fds_before;
};

/* Those that could wait are closed by a thread: fd_discard(). */
static inline unsigned open_fds(void)
{
    for (unsigned i = 0; fd_discarded() && i < 60000; i++) {
        usleep(1000);
    }
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

static inline void pump(struct front *f)
{
    for (int i = 0; i < 4; i++) {
        event_base_loop(f->base, EVLOOP_NONBLOCK);
    }
}

/* Run the loop until the condition holds; a minute is "never", however slow the machine is. */
#define WAIT_FOR(f, condition)                                                                     \
    do {                                                                                           \
        for (int n_ = 0; !(condition) && n_ < 60000; n_++) {                                       \
            event_base_loop((f)->base, EVLOOP_NONBLOCK);                                           \
            usleep(1000);                                                                          \
        }                                                                                          \
        assert_true(condition);                                                                    \
    } while (0)

static inline int dial_path(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(sa.sun_path, path);
    if (connect(s, (struct sockaddr *)&sa, sizeof(sa))) {
        close(s);
        return -errno;
    }
    return s;
}

static inline void front_connect(struct front *f)
{
    f->s = dial_path(f->path);
    assert_true(f->s >= 0);
    WAIT_FOR(f, f->own.up);
}

static inline void front_leave(struct front *f)
{
    if (f->s >= 0) {
        close(f->s);
        f->s = -1;
        WAIT_FOR(f, !f->own.up);
    }
}

static inline struct vu_info info(const struct front *f)
{
    struct vu_info i;

    vu_dev_info(f->dev, &i);
    return i;
}

static inline struct vu_ring_info ring_info(const struct front *f, unsigned idx)
{
    struct vu_ring_info r = {0};

    assert_true(vu_dev_ring_info(f->dev, idx, &r));
    return r;
}

static inline struct vu_conf server_conf(const struct front *f)
{
    return (struct vu_conf){.name = "p1",
                            .path = f->path,
                            .owner = (uid_t)-1,
                            .group = (gid_t)-1,
                            .mode = 0660,
                            .features = OFFERED};
}

static inline void front_listen(struct front *f)
{
    struct vu_conf conf = server_conf(f);
    struct err e = {0};

    if (vu_dev_create(&f->dev, &conf, &owner_ops, &f->own, f->base, &e)) {
        fail_msg("%s", e.text);
    }
}

static inline void front_new_base(struct front *f)
{
    memset(f, 0, sizeof(*f));
    f->s = -1;
    f->fds_before = open_fds();
    f->base = event_base_new();
    strcpy(f->dir, "/tmp/vu-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/p1.sock", f->dir);
    f->mem_fd = memfd_create("guest", MFD_CLOEXEC);
    assert_int_equal(ftruncate(f->mem_fd, MEM_BYTES), 0);
    f->mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->mem_fd, 0);
    assert_true(f->mem != MAP_FAILED);
}

static inline void front_end(struct front *f)
{
    if (f->s >= 0) {
        close(f->s);
    }
    vu_dev_destroy(f->dev);
    assert_false(f->own.up);
    event_base_free(f->base);
    munmap(f->mem, MEM_BYTES);
    close(f->mem_fd);
    unlink(f->path);
    assert_int_equal(rmdir(f->dir), 0);
    assert_int_equal(open_fds(), f->fds_before); /* every fd used or closed */
}

/* --- messages ----------------------------------------------------------------------------------
 */

#define NEED_REPLY 9u
#define PLAIN      1u

static inline void raw_send(struct front *f, const void *buf, size_t len, const int *fd, unsigned n)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(253 * sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n) {
        mh.msg_control = &control;
        mh.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fd, n * sizeof(int));
    }
    assert_int_equal(sendmsg(f->s, &mh, MSG_NOSIGNAL), len);
}

static inline void send_msg(struct front *f, uint32_t request, uint32_t flags, const void *payload,
                            uint32_t size, const int *fd, unsigned n)
{
    uint8_t buf[sizeof(struct vu_hdr) + 8192];
    struct vu_hdr h = {.request = request, .flags = flags, .size = size};

    memcpy(buf, &h, sizeof(h));
    if (size) {
        memcpy(buf + sizeof(h), payload, size);
    }
    raw_send(f, buf, sizeof(h) + size, fd, n);
}

/* The next reply, whose form is checked; the payload is 8 bytes. */
static inline uint64_t reply(struct front *f, uint32_t request)
{
    struct pollfd p = {.fd = f->s, .events = POLLIN};
    struct {
        struct vu_hdr h;
        uint64_t v;
    } __attribute__((packed)) r;

    WAIT_FOR(f, poll(&p, 1, 0) == 1);
    assert_int_equal(recv(f->s, &r, sizeof(r), 0), sizeof(r));
    assert_int_equal(r.h.request, request);
    assert_int_equal(r.h.flags, 5);
    assert_int_equal(r.h.size, 8);
    return r.v;
}

/* The answer to GET_CONFIG; its length. */
static inline uint32_t config_reply(struct front *f, uint32_t request, struct vu_config *out)
{
    struct pollfd p = {.fd = f->s, .events = POLLIN};
    struct {
        struct vu_hdr h;
        struct vu_config c;
    } r;

    WAIT_FOR(f, poll(&p, 1, 0) == 1);
    ssize_t n = recv(f->s, &r, sizeof(r), 0);
    assert_true(n >= (ssize_t)sizeof(r.h));
    assert_int_equal(r.h.request, request);
    assert_int_equal(r.h.flags, 5);
    assert_int_equal(r.h.size, (size_t)n - sizeof(r.h));
    if (out) {
        *out = r.c;
    }
    return r.h.size;
}

static inline void no_reply(struct front *f)
{
    char c;

    pump(f);
    assert_int_equal(recv(f->s, &c, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

/* The back-end closed the connection, without a word more. */
static inline void expect_closed(struct front *f)
{
    char c;

    WAIT_FOR(f, !f->own.up);
    ssize_t n = recv(f->s, &c, 1, 0);
    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
    close(f->s);
    f->s = -1;
}

static inline void say_u64(struct front *f, uint32_t request, uint32_t flags, uint64_t v)
{
    send_msg(f, request, flags, &v, sizeof(v), NULL, 0);
}

static inline uint64_t ask(struct front *f, uint32_t request)
{
    send_msg(f, request, PLAIN, NULL, 0, NULL, 0);
    return reply(f, request);
}

static inline void say_state(struct front *f, uint32_t request, uint32_t flags, uint32_t idx,
                             uint32_t num)
{
    struct vu_ring_state s = {.idx = idx, .num = num};

    send_msg(f, request, flags, &s, sizeof(s), NULL, 0);
}

static inline struct vu_ring_addr ring_addr(unsigned idx)
{
    uint64_t at = UVA + idx * (uint64_t)RING_STRIDE;

    return (struct vu_ring_addr){.idx = idx, .desc = at, .avail = at + 0x400, .used = at + 0x800};
}

static inline void say_addr(struct front *f, uint32_t flags, unsigned idx)
{
    struct vu_ring_addr a = ring_addr(idx);

    send_msg(f, VU_SET_VRING_ADDR, flags, &a, sizeof(a), NULL, 0);
}

/* A fresh eventfd goes along; our copy is closed. */
static inline void say_fd(struct front *f, uint32_t request, uint32_t flags, unsigned idx)
{
    uint64_t v = idx;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    send_msg(f, request, flags, &v, sizeof(v), &fd, 1);
    close(fd);
}

static inline struct vu_region region(unsigned from, unsigned bytes)
{
    return (struct vu_region){.gpa = from, .size = bytes, .uva = UVA + from, .mmap_offset = from};
}

static inline void say_table(struct front *f, uint32_t flags, const struct vu_region *r, unsigned n)
{
    struct vu_mem_table t = {.n = n};
    int fd[VU_MAX_FDS];

    for (unsigned i = 0; i < n; i++) {
        t.region[i] = r[i];
        fd[i] = f->mem_fd;
    }
    send_msg(f, VU_SET_MEM_TABLE, flags, &t, VU_MEM_TABLE_HEAD + n * (uint32_t)sizeof(*r), fd, n);
}

static inline void say_memory(struct front *f, uint32_t flags)
{
    struct vu_region r = region(0, MEM_BYTES);

    say_table(f, flags, &r, 1);
}

static inline void say_region(struct front *f, uint32_t request, uint32_t flags, unsigned from,
                              unsigned bytes, unsigned n_fds)
{
    struct vu_one_region one = {.region = region(from, bytes)};

    send_msg(f, request, flags, &one, sizeof(one), &f->mem_fd, n_fds);
}

/* Ring idx complete, in the order of QEMU. */
static inline void say_ring(struct front *f, unsigned idx, unsigned base)
{
    say_state(f, VU_SET_VRING_NUM, PLAIN, idx, RING_NUM);
    say_state(f, VU_SET_VRING_BASE, PLAIN, idx, base);
    say_addr(f, PLAIN, idx);
    say_fd(f, VU_SET_VRING_KICK, PLAIN, idx);
    say_fd(f, VU_SET_VRING_CALL, PLAIN, idx);
}

/* Features, memory, and rings 0 and 1 enabled and running. */
static inline void say_all(struct front *f)
{
    say_u64(f, VU_SET_FEATURES, PLAIN, TEST_FEATURES);
    say_memory(f, PLAIN);
    for (unsigned i = 0; i < 2; i++) {
        say_ring(f, i, 0);
        say_state(f, VU_SET_VRING_ENABLE, PLAIN, i, 1);
    }
    pump(f);
    assert_true(f->own.on[0] && f->own.on[1]);
    f->own.log[0] = '\0';
}

static inline uint16_t get_base(struct front *f, unsigned idx)
{
    say_state(f, VU_GET_VRING_BASE, PLAIN, idx, 0);
    uint64_t v = reply(f, VU_GET_VRING_BASE);

    assert_int_equal(v & UINT32_MAX, idx);
    return (uint16_t)(v >> 32);
}

static inline struct vring_used *used_of(struct front *f, unsigned idx)
{
    return (struct vring_used *)(f->mem + idx * RING_STRIDE + 0x800);
}

static inline struct vring_avail *avail_of(struct front *f, unsigned idx)
{
    return (struct vring_avail *)(f->mem + idx * RING_STRIDE + 0x400);
}

#endif
