/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What does a frame into and out of a tap cost, by the system calls that move it?
 *
 *     read, writev      one call per frame, as src/port/port_tap.c does it
 *     io_uring          BATCH of the same operations in one io_uring_enter(), file registered
 *     IFF_NAPI          frames of a write wait in the device for the kernel's own polling
 *
 * The device is in a network namespace of this process (as root, or as an ordinary user where user
 * namespaces are allowed).  Frames are for another station, so the host's IP stack ends at its
 * first look.  Ways take turns, another one first in each round; printed are medians of the rounds,
 * and of the ratios to the plain calls within a round.
 *
 * usage: tap-calls [ROUNDS]    (default 20)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"

#define BATCH      64  /* PKT_BURST: what the port has at once */
#define QUEUED     448 /* frames that wait in the device, which has room for 500 */
#define FRAMES     (QUEUED * 16)
#define HDR_LEN    12
#define SNAP       192 /* the first part of a write, as PKT_SNAP */
#define MAX_LEN    65535
#define MAX_ROUNDS 1000

static void check(bool fine, const char *what)
{
    if (!fine) {
        fprintf(stderr, "tap-calls: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

/* ---- io_uring, as much of it as is needed ---- */

struct uring {
    int fd;
    uint32_t *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqe;
    struct io_uring_cqe *cqe;
};

static uint8_t *map_ring(int fd, size_t size, off_t what)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);

    check(p != MAP_FAILED, "mmap of io_uring");
    return p;
}

/* False: this kernel has none, or does not let us. */
static bool uring_open(struct uring *u)
{
    struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};

    u->fd = (int)syscall(SYS_io_uring_setup, BATCH, &p);
    if (u->fd < 0) {
        return false;
    }
    uint8_t *sq =
        map_ring(u->fd, p.sq_off.array + p.sq_entries * sizeof(uint32_t), IORING_OFF_SQ_RING);
    uint8_t *cq =
        map_ring(u->fd, p.cq_off.cqes + p.cq_entries * sizeof(*u->cqe), IORING_OFF_CQ_RING);
    u->sqe = (void *)map_ring(u->fd, p.sq_entries * sizeof(*u->sqe), IORING_OFF_SQES);
    u->sq_tail = (void *)(sq + p.sq_off.tail);
    u->sq_mask = (void *)(sq + p.sq_off.ring_mask);
    u->sq_array = (void *)(sq + p.sq_off.array);
    u->cq_head = (void *)(cq + p.cq_off.head);
    u->cq_tail = (void *)(cq + p.cq_off.tail);
    u->cq_mask = (void *)(cq + p.cq_off.ring_mask);
    u->cqe = (void *)(cq + p.cq_off.cqes);
    return true;
}

static void uring_use(struct uring *u, int fd)
{
    syscall(SYS_io_uring_register, u->fd, IORING_UNREGISTER_FILES, NULL, 0);
    check(syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_FILES, &fd, 1) == 0,
          "registering the tap");
}

/* n operations at once, each on iov[i]: a read into the first of the two, a write of n_iov. How
 * many did not fail. */
static unsigned uring_do(struct uring *u, uint8_t op, struct iovec (*iov)[2], unsigned n_iov,
                         unsigned n)
{
    uint32_t tail = *u->sq_tail, head = *u->cq_head;
    unsigned fine = 0;

    for (unsigned i = 0; i < n; i++, tail++) {
        uint32_t at = tail & *u->sq_mask;
        bool read = op == IORING_OP_READ;
        u->sqe[at] = (struct io_uring_sqe){.opcode = op,
                                           .flags = IOSQE_FIXED_FILE,
                                           .addr = (uintptr_t)(read ? iov[i][0].iov_base : iov[i]),
                                           .len = read ? (uint32_t)iov[i][0].iov_len : n_iov,
                                           .off = (uint64_t)-1,
                                           .rw_flags = RWF_NOWAIT};
        u->sq_array[at] = at;
    }
    __atomic_store_n(u->sq_tail, tail, __ATOMIC_RELEASE);
    check(syscall(SYS_io_uring_enter, u->fd, n, n, IORING_ENTER_GETEVENTS, NULL, 0) == (long)n,
          "io_uring_enter");
    for (unsigned i = 0; i < n; i++, head++) {
        check(head != __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE), "io_uring lost a completion");
        fine += u->cqe[head & *u->cq_mask].res > 0;
    }
    __atomic_store_n(u->cq_head, head, __ATOMIC_RELEASE);
    return fine;
}

/* ---- the device ---- */

static uint8_t room[BATCH][HDR_LEN + MAX_LEN + 1];
static struct iovec iov[BATCH][2];

static void enter_namespace(void)
{
    unsigned uid = geteuid();
    char map[40];
    int fd;

    if (access("/dev/net/tun", R_OK | W_OK) ||
        unshare(uid ? CLONE_NEWUSER | CLONE_NEWNET : CLONE_NEWNET)) {
        printf("skipped: needs /dev/net/tun, and root or user namespaces for ordinary users\n");
        exit(77);
    }
    snprintf(map, sizeof(map), "0 %u 1", uid);
    fd = uid ? open("/proc/self/uid_map", O_WRONLY) : -1;
    check(fd < 0 || write(fd, map, strlen(map)) > 0, "uid_map");
    fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY); /* nobody speaks unasked */
    check(fd < 0 || write(fd, "1", 1) == 1, "disable_ipv6");
}

/* Make a tap that is up. The file descriptor of its queue. */
static int open_tap(const char *name, short more)
{
    struct ifreq ifr = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | more)};
    int hdr = HDR_LEN, fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK),
        s = socket(AF_INET, SOCK_DGRAM, 0);

    snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
    check(ioctl(fd, TUNSETIFF, &ifr) == 0 && ioctl(fd, TUNSETVNETHDRSZ, &hdr) == 0, "TUNSETIFF");
    ifr.ifr_mtu = MAX_LEN - 14;
    check(ioctl(s, SIOCSIFMTU, &ifr) == 0, "SIOCSIFMTU");
    ifr.ifr_flags = IFF_UP | IFF_NOARP;
    check(ioctl(s, SIOCSIFFLAGS, &ifr) == 0, "SIOCSIFFLAGS");
    close(s);
    return fd;
}

/* A socket that sends into the device. */
static int open_raw(const char *name)
{
    struct ifreq ifr = {0};
    int s = socket(AF_PACKET, SOCK_RAW, 0), size = 64 << 20;

    snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
    check(ioctl(s, SIOCGIFINDEX, &ifr) == 0, "SIOCGIFINDEX");
    struct sockaddr_ll sa = {
        .sll_family = AF_PACKET, .sll_ifindex = ifr.ifr_ifindex, .sll_protocol = htons(0x88b5)};
    check(bind(s, (struct sockaddr *)&sa, sizeof(sa)) == 0, "bind of a raw socket");
    check(setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) == 0, "SO_SNDBUFFORCE");
    return s;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* ---- ways ---- */

struct way {
    const char *name;
    bool read, uring;
    int fd, raw;
    double ns[MAX_ROUNDS], ratio[MAX_ROUNDS]; /* per frame; to the plain calls of this round */
    unsigned calls;                           /* of the last turn */
};

static struct uring ring;

static void fill_frames(unsigned len, bool read)
{
    size_t whole = HDR_LEN + len, first = read ? whole : MIN(SNAP, whole);

    for (unsigned i = 0; i < BATCH; i++) {
        memset(room[i], 0, sizeof(room[i]));
        memcpy(room[i] + HDR_LEN, "\x02\0\0\0\0\x99\x02\0\0\0\0\x98\x88\xb5", 14);
        iov[i][0] = (struct iovec){room[i], first};
        iov[i][1] = (struct iovec){room[i] + first, whole - first};
    }
}

/* Up to n frames, at most BATCH; how many were moved. */
static unsigned move(struct way *w, unsigned n, unsigned n_iov)
{
    unsigned fine = 0;

    if (w->uring) {
        w->calls++;
        return uring_do(&ring, w->read ? IORING_OP_READ : IORING_OP_WRITEV, iov, n_iov, n);
    }
    for (unsigned i = 0; i < n; i++) {
        ssize_t rc = w->read ? read(w->fd, iov[i][0].iov_base, iov[i][0].iov_len)
                             : writev(w->fd, iov[i], (int)n_iov);
        w->calls++;
        fine += rc > 0;
    }
    return fine;
}

/* ns per frame. Reading: QUEUED frames were sent into the device before the clock starts. */
static double turn(struct way *w, unsigned len)
{
    unsigned n_iov = HDR_LEN + len > SNAP ? 2 : 1;
    uint64_t sum = 0;

    fill_frames(len, w->read);
    if (w->uring) {
        uring_use(&ring, w->fd);
    }
    w->calls = 0;
    for (unsigned done = 0; done < FRAMES; done += QUEUED) {
        for (unsigned i = 0; w->read && i < QUEUED; i++) {
            check(send(w->raw, room[0] + HDR_LEN, len, 0) == (ssize_t)len, "sending into the tap");
        }
        uint64_t start = now_ns();
        for (unsigned i = 0; i < QUEUED; i += BATCH) {
            check(move(w, BATCH, n_iov) == BATCH, w->name);
        }
        sum += now_ns() - start;
    }
    return (double)sum / FRAMES;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
    qsort(v, n, sizeof(*v), by_size);
    return (v[(n - 1) / 2] + v[n / 2]) / 2;
}

/* way[0] has the plain calls. */
static void compare(struct way *way, unsigned n, unsigned len, unsigned rounds)
{
    for (unsigned r = 0; r < rounds; r++) {
        for (unsigned i = 0; i < n; i++) {
            struct way *w = &way[(r + i) % n];
            w->ns[r] = turn(w, len);
        }
        for (unsigned i = 0; i < n; i++) {
            way[i].ratio[r] = way[i].ns[r] / way[0].ns[r];
        }
    }
    for (unsigned i = 0; i < n; i++) {
        printf("| %s | %u | %.0f | %.2f | %u |\n", way[i].name, len, median(way[i].ns, rounds),
               median(way[i].ratio, rounds), way[i].calls * 1000 / FRAMES);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static struct way reads[] = {{.name = "read", .read = true},
                                 {.name = "io_uring, read", .read = true, .uring = true}};
    static struct way writes[] = {{.name = "writev"},
                                  {.name = "writev, IFF_NAPI"},
                                  {.name = "io_uring, writev", .uring = true},
                                  {.name = "io_uring, writev, IFF_NAPI", .uring = true}};
    static const unsigned lens[] = {60, 1514, 65000};
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 20;

    if (argc > 2 || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: tap-calls [ROUNDS]    1 to %d\n", MAX_ROUNDS);
        return 2;
    }
    enter_namespace();
    bool has_uring = uring_open(&ring);
    if (!has_uring) {
        fprintf(stderr, "tap-calls: only the plain calls: no io_uring of Linux 6.1: %s\n",
                strerror(errno));
    }
    int plain = open_tap("rwc0", 0), napi = open_tap("rwc1", IFF_NAPI), raw = open_raw("rwc0");
    for (unsigned i = 0; i < ARRAY_SIZE(reads); i++) {
        reads[i].fd = plain;
        reads[i].raw = raw;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(writes); i++) {
        writes[i].fd = i % 2 ? napi : plain;
    }
    printf(
        "| way | frame, bytes | ns per frame | to plain calls | system calls per 1,000 frames |\n"
        "|---|---|---|---|---|\n");
    for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
        compare(reads, has_uring ? 2 : 1, lens[i], rounds);
        compare(writes, has_uring ? 4 : 2, lens[i], rounds);
    }
    return 0;
}
