/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front-end that says anything, in any order, with any file descriptors.
 *
 * input: records {kind, request, flags, arg[3]..., payload}.  Most records are well-formed messages
 * with a payload from the input, so that the fuzzer gets beyond the first check; others are raw
 * bytes.  The owner of the device is a fake that touches the ring memory it is given, so memory that
 * should not have been accepted crashes here, and that checks what vu_backend.h promises: a ring is
 * started once, only a running ring is stopped, and nothing runs when the connection is gone.
 * Every now and then the open file descriptors are counted: none may be left.
 */
#include <dirent.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "fuzz.h"
#include "mem/gmem.h"
#include "ring/vring.h"
#include "vhost/vu_backend.h"
#include "vhost/vu_wire.h"
#include "vnet/features.h"

#define MEM_BYTES (1u << 20)
#define UVA       0x700000000000ull

static struct event_base *base;
static struct vu_dev *dev;
static char path[64];
static bool running[VU_MAX_RINGS];
static int memory_fd, event_fd, small_fd, pipe_fd, channel_fd;

static int fake_start(void *ctx, unsigned idx, const struct vu_ring_conf *c, uint64_t features,
                      const struct gmem *mem, struct err *e)
{
    volatile uint8_t *d = c->desc, *a = c->avail, *u = c->used;

    CHECK(!running[idx] && mem, "a ring is started once, with memory");
    CHECK(c->num && c->num <= VRING_MAX_NUM, "its size");
    if (features & VIRTIO_BIT(F_RING_PACKED)) {
        CHECK((c->base & 0x7fff) < c->num, "its position");
        if (c->resume) {
            *c->resume += 0x100000001u;
        }
        (void)d[vring_desc_bytes(c->num) - 1];
        running[idx] = true;
        return 0;
    }
    CHECK(!(c->num & (c->num - 1)), "its size");
    CHECK(!((uintptr_t)d & 15) && !((uintptr_t)a & 1) && !((uintptr_t)u & 3), "its alignment");
    (void)d[vring_desc_bytes(c->num) - 1];
    (void)a[vring_avail_bytes(c->num) - 1];
    u[vring_used_bytes(c->num) - 1] = 0;
    running[idx] = true;
    return 0;
}

static uint16_t fake_stop(void *ctx, unsigned idx)
{
    CHECK(running[idx], "only a running ring is stopped");
    running[idx] = false;
    return 7;
}

static void fake_call(void *ctx, unsigned idx, int fd)
{
    CHECK(running[idx], "only a running ring gets a new call fd");
}

static void fake_swap(void *ctx, const struct gmem *mem)
{
    for (uint32_t i = 0; i < mem->n; i++) {
        (void)*GUEST_PTR(volatile uint8_t, mem->region[i].va + mem->region[i].size - 1);
    }
}

static void fake_log(void *ctx, unsigned idx, const struct ring_log *log)
{
    CHECK(running[idx], "only a running ring is told what to log");
    if (log->map) {
        const struct gmem_region *r = &log->map->region[0];

        *GUEST_PTR(volatile uint8_t, r->va) |= 1;
        *GUEST_PTR(volatile uint8_t, r->va + r->size - 1) |= 1;
    }
}

static void fake_barrier(void *ctx)
{
}

static void fake_rarp(void *ctx, const uint8_t mac[6])
{
}

static int fake_mtu(void *ctx, uint16_t mtu)
{
    return mtu == 1000 ? -1 : 0;
}

static void fake_link(void *ctx, bool up, const char *why)
{
    for (unsigned i = 0; i < VU_MAX_RINGS; i++) {
        CHECK(!running[i], "nothing runs when the link changes");
    }
}

static void fake_signal(void *ctx, int fd)
{
}

static const struct vu_ops ops = {
    .ring_start = fake_start, .ring_stop = fake_stop, .ring_call = fake_call,
    .mem_swap = fake_swap,    .rarp = fake_rarp,      .mtu = fake_mtu,
    .link = fake_link,        .signal = fake_signal,  .ring_log = fake_log,
    .barrier = fake_barrier,
};

/* Sockets, and file descriptors of what was sent. (Others come and go: the fuzzer's symbolizer.) */
static unsigned open_fds(void)
{
    const int sent[] = {memory_fd, event_fd, small_fd, pipe_fd};
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st, other;
        bool ours = !fstat(atoi(e->d_name), &st) && S_ISSOCK(st.st_mode);

        for (unsigned i = 0; i < ARRAY_SIZE(sent); i++) {
            ours |= !fstat(sent[i], &other) && other.st_dev == st.st_dev &&
                    other.st_ino == st.st_ino;
        }
        n += ours;
    }
    closedir(d);
    return n;
}

static void remove_socket(void)
{
    unlink(path);
}

static void quiet(enum log_level level, const char *line)
{
}

static void start(void)
{
    struct err e;
    int p[2];

    log_set_sink(quiet);
    /* in the present folder: run-fuzzer.sh and run-afl.sh make one, and remove it after a crash, too */
    snprintf(path, sizeof(path), "ringway-fuzz-%d.sock", (int)getpid());
    atexit(remove_socket);
    base = event_base_new();
    struct vu_conf c = {.name = "fuzz", .path = path, .owner = (uid_t)-1, .group = (gid_t)-1,
                        .mode = 0600, .features = VNET_FEATURES_OFFERED, .config = true};
    int ends[2];
    if (gmem_init(&e) || vu_dev_create(&dev, &c, &ops, NULL, base, &e) || pipe(p) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) {
        abort();
    }
    channel_fd = ends[1];
    memory_fd = memfd_create("fuzz", MFD_CLOEXEC);
    small_fd = memfd_create("small", MFD_CLOEXEC);
    event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    pipe_fd = p[1];
    if (ftruncate(memory_fd, MEM_BYTES) || ftruncate(small_fd, 100)) {
        abort();
    }
}

static void turn(void)
{
    event_base_loop(base, EVLOOP_NONBLOCK);
}

static int dial(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    memcpy(a.sun_path, path, strlen(path));
    if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
        abort();
    }
    return fd;
}

static void transmit(int s, const void *bytes, size_t len, const int *fd, unsigned n_fd)
{
    char control[CMSG_SPACE(sizeof(int) * 64)] = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n_fd) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fd);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fd);
        memcpy(CMSG_DATA(c), fd, sizeof(int) * n_fd);
    }
    (void)!sendmsg(s, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* A payload that means something more often than not: a table over the real file, ring parts in it. */
static uint32_t plausible(uint8_t request, union vu_payload *p, const uint8_t *arg, int *fds,
                          unsigned *n_fd)
{
    uint32_t ring = arg[0] & 3;

    switch (request) {
    case 5: /* SET_MEM_TABLE */
        p->table = (struct vu_mem_table){.n = 1 + (arg[0] & 1)};
        for (uint32_t i = 0; i < p->table.n; i++) {
            p->table.region[i] = (struct vu_region){.gpa = i * 0x80000, .size = MEM_BYTES / 2,
                                                    .uva = UVA + i * 0x80000,
                                                    .mmap_offset = i * (uint64_t)arg[1] * 2048};
            fds[(*n_fd)++] = memory_fd;
        }
        return VU_MEM_TABLE_HEAD + p->table.n * (uint32_t)sizeof(struct vu_region);
    case 37: /* ADD_MEM_REG */
    case 38: /* REM_MEM_REG */
        p->one = (struct vu_one_region){
            .region = {.gpa = arg[0] * 0x80000, .size = MEM_BYTES / 2, .uva = UVA + arg[0] * 0x80000}};
        if (request == 37) {
            fds[(*n_fd)++] = memory_fd;
        }
        return sizeof(p->one);
    case 8:  /* SET_VRING_NUM */
    case 10: /* SET_VRING_BASE */
    case 11: /* GET_VRING_BASE */
    case 18: /* SET_VRING_ENABLE */
        p->state = (struct vu_ring_state){ring, request == 8 ? 1u << arg[1] % 10 : arg[1] & 1};
        return sizeof(p->state);
    case 9: /* SET_VRING_ADDR */
        p->addr = (struct vu_ring_addr){.idx = ring, .flags = arg[2] & 1,
                                        .log = UVA + arg[1], .desc = UVA + ring * 0x10000,
                                        .avail = UVA + ring * 0x10000 + 0x8000 + arg[1],
                                        .used = UVA + ring * 0x10000 + 0xc000 + arg[2] * 4};
        return sizeof(p->addr);
    case 12: /* KICK, CALL, ERR */
    case 13:
    case 14:
        p->u64 = ring | (arg[1] & 1 ? VU_RING_FD_NONE : 0);
        if (!(arg[1] & 1)) {
            fds[(*n_fd)++] = arg[1] & 2 ? pipe_fd : event_fd;
        }
        return 8;
    case 2: /* SET_FEATURES */
        p->u64 = arg[0] & 1 ? VNET_FEATURES_OFFERED : VNET_FEATURES_OFFERED & (uint64_t)arg[1] << 28;
        return 8;
    case 16: /* SET_PROTOCOL_FEATURES */
        p->u64 = arg[0] & 1 ? VU_PROTOCOL_BIT(CONFIG) | VU_PROTOCOL_BIT(BACKEND_REQ) |
                                  VU_PROTOCOL_BIT(INFLIGHT_SHMFD)
                            : arg[1];
        return 8;
    case 6: /* SET_LOG_BASE */
        p->log = (struct vu_log){.size = 1 + arg[1] * 16u, .offset = arg[2] * 64u};
        fds[(*n_fd)++] = arg[0] & 1 ? memory_fd : arg[0] & 2 ? small_fd : event_fd;
        return sizeof(p->log);
    case 7: /* SET_LOG_FD */
        fds[(*n_fd)++] = event_fd;
        return 0;
    case 21: /* SET_BACKEND_REQ_FD */
        fds[(*n_fd)++] = arg[0] & 1 ? channel_fd : pipe_fd;
        return 0;
    case 24: /* GET_CONFIG */
    case 25: /* SET_CONFIG */
        p->config = (struct vu_config){.offset = arg[0], .size = arg[1], .flags = arg[2]};
        return VU_CONFIG_HEAD + arg[1];
    case 31: /* GET_INFLIGHT_FD */
    case 32: /* SET_INFLIGHT_FD */
        p->inflight = (struct vu_inflight_msg){.mmap_size = MEM_BYTES >> (arg[1] & 3),
                                               .mmap_offset = 64u * (arg[1] >> 2),
                                               .n_queues = 1 + (arg[0] & 3),
                                               .queue_size = (uint16_t)(1 << arg[2] % 17)};
        if (request == 32) { /* the guest's memory, too: it lies as it likes */
            fds[(*n_fd)++] = arg[0] & 64 ? small_fd : memory_fd;
        }
        return arg[0] & 128 ? VU_INFLIGHT_MSG_MIN : sizeof(p->inflight);
    default:
        memcpy(p->bytes, arg, 3);
        return request == 19 || request == 20 || request == 39 ? 8 : 0;
    }
}

#define LINK 201 /* no message: the administrator sets the link */

static size_t record(int s, const uint8_t *d, size_t n)
{
    static const uint8_t common[] = {5,  8,  9,  10, 11, 12, 13, 18, 2,  14,
                                     34, 37, 38, 39, 16, 1,  24, 25, 21, 32, 31, LINK};
    struct {
        struct vu_hdr h;
        union vu_payload p;
    } m = {0};
    int fds[64];
    unsigned n_fd = 0;
    const int kinds[] = {memory_fd, event_fd, small_fd, pipe_fd};

    if (n < 6) {
        return n;
    }
    uint8_t kind = d[0];
    m.h.request = kind & 1 ? d[1] : common[d[1] % sizeof(common)];
    if (m.h.request == LINK) {
        struct err e;

        CHECK(!vu_dev_set_link(dev, d[3] & 1, &e), "the link can be set");
        return 6;
    }
    m.h.flags = VU_VERSION | (d[2] & 1 ? VU_FLAG_NEED_REPLY : 0) | (d[2] > 250 ? d[2] : 0u);
    m.h.size = plausible((uint8_t)m.h.request, &m.p, d + 3, fds, &n_fd);
    size_t used = 6;
    if (kind & 2) { /* the fuzzer's own payload over it, with its own size and fds */
        size_t len = MIN(n - used, (size_t)(kind >> 2));

        memcpy(m.p.bytes, d + used, len);
        used += len;
        if (kind & 64) {
            m.h.size = (uint32_t)len;
            n_fd = 0;
        }
        for (unsigned i = 0; i < d[3] % 40u && kind & 128; i++) {
            fds[n_fd++] = kinds[(d[4] + i) % ARRAY_SIZE(kinds)];
        }
    }
    uint32_t size = MIN(m.h.size, (uint32_t)sizeof(m.p));
    if (kind & 32) { /* in two pieces */
        transmit(s, &m, 5, fds, n_fd);
        turn();
        transmit(s, (uint8_t *)&m + 5, sizeof(m.h) + size - 5, NULL, 0);
    } else {
        transmit(s, &m, sizeof(m.h) + size, fds, n_fd);
    }
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned runs, baseline;
    char sink[4096];

    if (!dev) {
        start();
    }
    if (runs++ == 8) {
        baseline = open_fds();
    }
    int s = dial();
    turn();
    for (size_t at = 0; at < size;) {
        at += record(s, data + at, size - at);
        turn();
        while (recv(s, sink, sizeof(sink), MSG_DONTWAIT) > 0) {
        }
    }
    struct err e;
    close(s);
    turn();
    turn();
    CHECK(!vu_dev_set_link(dev, true, &e), "the link is up again");
    struct vu_info i;
    for (int tries = 0; vu_dev_info(dev, &i), i.connected && tries < 100; tries++) {
        turn();
    }
    CHECK(!i.connected, "the connection is over");
    if (baseline && runs % 256 == 0) {
        CHECK(open_fds() <= baseline, "no file descriptor is left");
    }
    return 0;
}
