/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kind "tap".  Theory of operation
 *
 *     host's IP stack                        this process
 *     +-----------+  transmit queue 0  +-----------------------+
 *     | tap0      | -----------------> | read   -> rx (a loan) |
 *     | (netns A) | <----------------- | writev <- tx          |
 *     |           |   netif_receive    +-----------------------+
 *     |           |  transmit queue 1  +-----------------------+
 *     |           | -----------------> | the same              |
 *
 * The one copy.  A read moves a frame from the kernel into a buffer of this port, which nobody else
 * can write: its first bytes are the snapshot where they are, the rest is what is lent.  A write
 * hands the virtio-net header, the snapshot and the sender's own spans to the kernel, which makes
 * the copy into its socket buffer.  No byte of payload is touched here.
 *
 * Sender's memory that vanished.  The spans of a write may be guest memory whose file was
 * truncated. The kernel then answers EFAULT instead of raising SIGBUS, so nothing would tell the
 * port that owns the memory; pkt_touch() reads it once from here, which does raise it (see
 * mem/gmem.h), and the owner finds out at its next burst.
 *
 * Offloads.  The device has a virtio-net header of 12 bytes.  What the kernel may send in it is
 * asked for with TUNSETOFFLOAD (offload=) and checked like a guest's word; the kernel takes from us
 * whatever it knows of (set_offload()), and gets the rest in segments (pkt/segment.h).
 *
 * Joining.  One write is one frame, and the host's IP stack costs more than the write.  So
 * datagrams of a flow that lie behind each other in a burst are written as one USO frame
 * (pkt/gro.h), which the kernel takes to the socket and cuts up there.  Linux before 6.2 does not
 * take it.
 *
 * System calls.  One per frame, or per joined run.  io_uring, which moves 64 of them in one call,
 * is hardly faster (tests/netns/tap_calls.c, docs/performance.md): the time goes into the kernel's
 * work on each frame.  IFF_NAPI, which has the kernel queue what is written, makes a write dearer.
 *
 * Polling.  A read costs a system call also when there is nothing, so the queue is event-driven:
 * the worker polls it only while q->ready, which rx clears when the kernel says EAGAIN.  The fd is
 * watched edge-triggered; a frame that arrives after that EAGAIN is a new edge.
 *
 * Queues.  Each is a file descriptor of its own, and an rxq that the switch places on a worker.
 * What is sent to the host is spread by the flow hash, the same for both directions.  The kernel
 * remembers on which queue a flow was written last and sends its answers there (tun_automq), so a
 * flow keeps its queue, and with it its worker, both ways.
 *
 * Threads.  The kernel takes writes to one queue from several threads at once, so tx takes no lock:
 * header and snapshot are the worker's own, the iovec array is its tx_scratch.
 *
 * Network namespaces.  A TAP device is created in the namespace of the thread that opens
 * /dev/net/tun, and so is every socket.  tap_open() runs in a short-lived thread that joins the
 * namespace and ends: this process itself never moves.
 *
 * Link state.  A netlink socket (control thread) tells when the device goes up or down, changes its
 * MTU or disappears.  Down means that the port is not ready: nothing is flooded to it.  The other
 * way round, link=down takes the device's carrier away.
 */
#include "port/port.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "pkt/flowhash.h"
#include "pkt/gro.h"
#include "pkt/iov.h"
#include "port/kinds.h"

#define TUN_PATH    "/dev/net/tun"
#define TAP_MTU_MIN 68
#define TAP_MTU_MAX 65521 /* the kernel's limit for TAP: 65535 less the Ethernet header */
#define TAP_FRAME   (65536 + PKT_SNAP) /* any frame, with its virtio-net header */
/* A buffer; pages come on demand. Not a multiple of 4 KiB: the first lines would share a few sets
 * of the L1 cache. */
#define TAP_BUF        (PKT_HEADROOM + TAP_FRAME + CACHE_LINE)
#define SYSCALL_COST   4096 /* a write takes as long as copying so many bytes */
#define TAP_IOV_MAX    1024 /* of one system call, as in the kernel */
#define TAP_MAX_QUEUES 16
static_assert(TAP_FRAME >= PKT_MAX_LEN + VNET_HDR_LEN, "any frame fits");
static_assert(TAP_BUF % CACHE_LINE == 0 && TAP_BUF % 4096 != 0, "see above");
#ifndef TUN_F_USO4 /* since Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

/* A worker's scratch while it sends. */
struct tap_scratch {
    struct iovec iov[TAP_IOV_MAX];
    struct segmenter segmenter;
    struct segment segment;
    struct gro gro;
};
static_assert(sizeof(struct tap_scratch) <= WCTX_SCRATCH, "see port.h");

struct tap_queue {
    struct rxq q; /* q.fd is the TAP queue */
    uint8_t *buf; /* PKT_BURST buffers of TAP_BUF bytes */
    bool attached;
} CACHE_ALIGNED;

struct port_tap {
    struct port port;        /* first: a struct port * is a struct port_tap * */
    struct tap_queue *queue; /* [n_queues] */
    unsigned n_queues;
    bool created; /* by us: the device goes away when its last queue is closed */
    bool up;
    uint16_t sends; /* offloads that the kernel may use (pkt/offload.h) */
    uint16_t takes; /* those that it takes */
    unsigned mtu;
    unsigned ifindex;
    int ctl_fd; /* a socket in the device's namespace, for SIOC... */
    int nl_fd;  /* the same, for link events */
    struct event *nl_ev;
    char ifname[IFNAMSIZ];
};

static struct port_tap *tap_of(struct port *p)
{
    return container_of(p, struct port_tap, port);
}

/* ---- worker: receive ---------------------------------------------------------------------- */

/* One frame into packet b->n. Its length without the header, or -errno.  read() of glibc is a
 * cancellation point: in a program with threads that is two atomic operations more. */
static ssize_t read_frame(const struct tap_queue *tq, struct batch *b)
{
    uint8_t *buf = tq->buf + (size_t)b->n * TAP_BUF + PKT_HEADROOM;
    ssize_t n = syscall(SYS_read, tq->q.fd, buf, TAP_FRAME);

    if (n < 0) {
        return -errno;
    }
    if (n < VNET_HDR_LEN) {
        return 0;
    }
    struct pkt *k = &b->pkt[b->n];
    memset(k, 0, sizeof(*k));
    k->data = buf + VNET_HDR_LEN;
    k->len = (uint32_t)n - VNET_HDR_LEN;
    k->snap_len = (uint16_t)MIN(k->len, PKT_SNAP - VNET_HDR_LEN);
    if (k->len > k->snap_len) {
        k->n_spans = 1;
        k->span =
            (struct gspan){(const uint8_t GUEST *)(k->data + k->snap_len), k->len - k->snap_len};
    }
    return (ssize_t)k->len;
}

/* DROP_N, or why this frame goes no further. The kernel is asked, not believed. */
static int check_frame(const struct port_tap *t, struct pkt *k)
{
    struct vnet_hdr said;

    if (k->len < PKT_MIN_LEN || k->len > PKT_MAX_LEN) {
        return k->len < PKT_MIN_LEN ? DROP_RUNT : DROP_GIANT;
    }
    memcpy(&said, k->data - VNET_HDR_LEN, sizeof(said));
    return offload_check(k, &said, t->sends);
}

static uint32_t tap_rx(struct rxq *q, struct batch *b, struct wctx *w)
{
    const struct tap_queue *tq = container_of(q, struct tap_queue, q);
    struct port_tap *t = tap_of(q->port);
    struct port_counters *c = &t->port.counters[w->id];
    uint64_t bytes = 0;

    b->n = b->n_spans = 0;
    b->n_loans = 0;
    for (unsigned tries = 0; tries < PKT_BURST && bytes <= PKT_BATCH_BYTES; tries++) {
        ssize_t len = read_frame(tq, b);

        if (len == -EINTR) {
            continue;
        }
        if (len < 0) {
            /* EAGAIN: empty. Anything else: the device went away, and netlink tells control. */
            q->ready = false;
            break;
        }
        b->n_loans++;
        int why = check_frame(t, &b->pkt[b->n]);
        if (why != DROP_N) {
            port_count_drop(&t->port, w, (enum drop)why, 1);
        } else {
            bytes += (uint64_t)len;
            b->n++;
        }
    }
    if (unlikely(read_once(&t->port.down))) { /* sent before the carrier went */
        port_count_drop(&t->port, w, DROP_LINK_DOWN, b->n);
        b->n = 0;
        return 0;
    }
    write_once(&c->rx_frames, c->rx_frames + b->n);
    write_once(&c->rx_bytes, c->rx_bytes + bytes);
    return b->n;
}

static void tap_rx_done(struct rxq *q, struct batch *b, struct wctx *w)
{
    /* The loans are this port's own buffers: the next rx overwrites them. */
}

static bool tap_arm(struct rxq *q)
{
    return q->ready; /* the fd is watched edge-triggered: it is always armed */
}

static void tap_disarm(struct rxq *q)
{
}

/* ---- worker: send ------------------------------------------------------------------------- */

/* 0 or -errno. Not inlined: under ThreadSanitizer gcc then sees a wrong size of iov, and warns. */
static NOINLINE int write_all(int fd, const struct iovec *iov, int n)
{
    for (unsigned tries = 0; tries < 4; tries++) {
        if (syscall(SYS_writev, fd, iov, n) >= 0) {
            return 0;
        }
        if (errno != EINTR) {
            break;
        }
    }
    return -errno;
}

/* Bytes [from, from + len) of the packet behind the first n iovecs. */
static int write_behind(int fd, const struct pkt *k, uint32_t from, uint32_t len, struct iovec *iov,
                        unsigned n)
{
    unsigned more = len ? pkt_iov(k, from, len, iov + n, TAP_IOV_MAX - n) : 0;

    if (unlikely(len && !more)) {
        return -EMSGSIZE; /* nobody sends a frame in a thousand pieces for a good reason */
    }
    return write_all(fd, iov, (int)(n + more));
}

/* A frame that the kernel takes as it is. */
static int write_frame(int fd, const struct pkt *k, struct iovec *iov)
{
    iov[0] = (struct iovec){k->data - VNET_HDR_LEN, VNET_HDR_LEN + (size_t)k->snap_len};
    return write_behind(fd, k, k->snap_len, k->len - k->snap_len, iov, 1);
}

static int write_segment(int fd, struct tap_scratch *t)
{
    struct segment *seg = &t->segment;

    segment_finish(&t->segmenter, seg); /* to be summed here is rare: DHCP */
    t->iov[0] = (struct iovec){&seg->h, VNET_HDR_LEN};
    t->iov[1] = (struct iovec){(void *)(uintptr_t)seg->head, seg->head_len};
    return write_behind(fd, t->segmenter.p, seg->from, seg->len, t->iov, 2);
}

/* What was written in one call of tap_tx(). */
struct tap_sum {
    uint64_t frames, bytes, writes;
};

/* A frame in the pieces that the kernel takes; those written are added to *sum. */
static int write_segments(int fd, uint16_t takes, const struct pkt *k, struct tap_scratch *t,
                          struct tap_sum *sum)
{
    const struct segment *seg = &t->segment;
    int rc = sum->frames > SEGMENTS_MAX                          ? -E2BIG
             : segmenter_init(&t->segmenter, k, takes) != DROP_N ? -ERANGE
                                                                 : 0;

    while (!rc && segmenter_next(&t->segmenter, &t->segment)) {
        rc = write_segment(fd, t);
        if (!rc) {
            sum->frames++;
            sum->writes++;
            sum->bytes += seg->head_len + seg->len;
        }
    }
    return rc;
}

/* Datagrams that go out as one frame. */
static int write_joined(int fd, const struct batch *b, const uint8_t *idx, uint32_t n,
                        struct tap_scratch *t)
{
    unsigned n_iov = 1;

    t->iov[0] = (struct iovec){&t->gro.h, VNET_HDR_LEN + (size_t)t->gro.head_len};
    for (uint32_t i = 0; i < n; i++) {
        const struct pkt *k = &b->pkt[idx[i]];
        uint32_t len = k->len - t->gro.head_len;
        unsigned more = pkt_iov(k, t->gro.head_len, len, t->iov + n_iov, TAP_IOV_MAX - n_iov);

        if (unlikely(!more)) {
            return -EMSGSIZE;
        }
        n_iov += more;
    }
    return write_all(fd, t->iov, (int)n_iov);
}

static enum drop drop_of(int rc)
{
    switch (rc) {
    case -EAGAIN:
    case -ENOBUFS:
        return DROP_TX_FULL;
    case -ERANGE: /* from write_segments(), as the next one */
        return DROP_GSO_TINY;
    case -E2BIG:
        return DROP_SEGMENTS;
    case -EIO:    /* the device is down */
    case -EBADFD: /* the device is gone */
        return DROP_NOT_READY;
    default:
        return DROP_TX_ERROR;
    }
}

static void drop_frames(struct port *p, const struct batch *b, const uint8_t *idx, uint32_t n,
                        int rc, const struct wctx *w)
{
    for (uint32_t i = 0; rc == -EFAULT && i < n; i++) {
        pkt_touch(&b->pkt[idx[i]]);
    }
    port_count_drop(p, w, drop_of(rc), n);
}

static void tx_queue(struct port_tap *t, int fd, const struct batch *b, const uint8_t *idx,
                     uint32_t n, struct wctx *w)
{
    struct port *p = &t->port;
    struct tap_scratch *scratch = w->tx_scratch;
    struct port_counters *c = &p->counters[w->id];
    uint32_t max_len = read_once(&p->max_len);
    struct tap_sum sum = {0};

    for (uint32_t i = 0, joined; i < n; i += joined) {
        const struct pkt *k = &b->pkt[idx[i]];

        joined = 1;
        if (unlikely(offload_too_long(k, max_len))) {
            port_count_drop(p, w, DROP_MTU, 1);
            continue;
        }
        bool whole = !(k->offload & ~t->takes);
        if (whole && t->takes & OFFLOAD_USO) {
            joined = gro_join(&scratch->gro, b, idx + i, n - i);
        }
        int rc = joined > 1 ? write_joined(fd, b, idx + i, joined, scratch)
                 : whole    ? write_frame(fd, k, scratch->iov)
                            : write_segments(fd, t->takes, k, scratch, &sum);
        if (unlikely(rc)) {
            drop_frames(p, b, idx + i, joined, rc, w);
            continue;
        }
        sum.writes += whole;
        for (uint32_t at = 0; whole && at < joined; at++) {
            sum.frames++;
            sum.bytes += b->pkt[idx[i + at]].len;
        }
    }
    write_once(&c->tx_frames, c->tx_frames + sum.frames);
    write_once(&c->tx_bytes, c->tx_bytes + sum.bytes);
    w->spent += sum.bytes + sum.writes * SYSCALL_COST;
}

/* A flow keeps its queue. */
static NOINLINE void tx_spread(struct port_tap *t, struct batch *b, const uint8_t *idx, uint32_t n,
                               struct wctx *w)
{
    uint8_t list[PKT_BURST];

    flow_hash_batch(b);
    for (unsigned at = 0; at < t->n_queues; at++) {
        uint32_t k = 0;

        for (uint32_t i = 0; i < n; i++) {
            if ((uint64_t)b->hash[idx[i]] * t->n_queues >> 32 == at) {
                list[k++] = idx[i];
            }
        }
        if (k) {
            tx_queue(t, t->queue[at].q.fd, b, list, k, w);
        }
    }
}

static void tap_tx(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n, struct wctx *w)
{
    struct port_tap *t = tap_of(p);

    if (unlikely(read_once(&p->down))) {
        port_count_drop(p, w, DROP_LINK_DOWN, n);
    } else if (t->n_queues == 1) {
        tx_queue(t, t->queue[0].q.fd, b, idx, n, w);
    } else {
        tx_spread(t, b, idx, n, w);
    }
}

/* ---- control: link state ------------------------------------------------------------------ */

static void tap_ifreq(const struct port_tap *t, struct ifreq *ifr)
{
    memset(ifr, 0, sizeof(*ifr));
    memcpy(ifr->ifr_name, t->ifname, IFNAMSIZ);
}

static bool tap_exists(const struct port_tap *t)
{
    struct ifreq ifr = {0};

    return ioctl(t->queue[0].q.fd, TUNGETIFF, &ifr) == 0;
}

/* What the kernel says now: t->up, t->mtu, port.max_len. */
static void tap_query(struct port_tap *t)
{
    struct ifreq ifr = {.ifr_ifindex = (int)t->ifindex};

    if (ioctl(t->ctl_fd, SIOCGIFNAME, &ifr) == 0) {
        memcpy(t->ifname, ifr.ifr_name, IFNAMSIZ); /* it may have been renamed */
        tap_ifreq(t, &ifr);
        t->up = ioctl(t->ctl_fd, SIOCGIFFLAGS, &ifr) == 0 && (ifr.ifr_flags & IFF_UP);
        tap_ifreq(t, &ifr);
        if (ioctl(t->ctl_fd, SIOCGIFMTU, &ifr) == 0) {
            t->mtu = (unsigned)ifr.ifr_mtu;
        }
    } else {
        /* Moved into a namespace that this socket does not see (ip link set dev X netns Y), where
         * it works as before; or deleted. */
        t->up = tap_exists(t);
    }
    write_once(&t->port.max_len, port_mtu_len(t->mtu));
}

static void update_ready(struct port_tap *t)
{
    t->port.env->ready(t->port.env->ctx, &t->port, t->up && !t->port.down);
}

static void on_link_event(evutil_socket_t fd, short what, void *arg)
{
    struct port_tap *t = arg;
    struct port *p = &t->port;
    bool was_up = t->up;
    char junk[8192];

    /* Which message it is does not matter, and some may be lost (ENOBUFS): ask the kernel. Bounded:
     * what is left makes the fd readable again. */
    for (unsigned i = 0; i < 64 && recv(fd, junk, sizeof(junk), MSG_DONTWAIT) > 0; i++) {
    }
    tap_query(t);
    if (t->up != was_up) {
        if (t->up) {
            log_info("port %s: tap device %s is up", p->name, t->ifname);
        } else {
            log_warn("port %s: tap device %s %s", p->name, t->ifname,
                     tap_exists(t) ? "is down" : "was deleted; add the port again");
        }
        update_ready(t);
    }
}

/* ---- control: open ------------------------------------------------------------------------ */

/* What the helper thread is asked for and answers. */
struct tap_open {
    const char *port, *ifname, *netns;
    int netns_fd; /* -1: stay */
    int tun_fd[TAP_MAX_QUEUES];
    unsigned n_queues;
    int ctl_fd, nl_fd;
    uint16_t sends, takes; /* offloads; sends is the wish on entry */
    bool existed;
    int rc;
    struct err *e;
};

/* Or a device of another kind, which has the name. */
static bool is_tap(const struct tap_open *o)
{
    struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq ifr = {.ifr_data = (void *)&info};

    snprintf(ifr.ifr_name, IFNAMSIZ, "%s", o->ifname);
    return ioctl(o->ctl_fd, SIOCETHTOOL, &ifr) == 0 && !strcmp(info.driver, "tun") &&
           !strcmp(info.bus_info, "tap");
}

static int refuse_attach(struct tap_open *o, int code)
{
    const char *where = o->netns ? " in that network namespace" : "";

    if (code == EPERM && o->existed) {
        return err_set(
            o->e, -code,
            "port %s: tap device %s%s belongs to another user; run as its owner, or as "
            "root: ip tuntap del dev %s mode tap && ip tuntap add dev %s mode tap user %u",
            o->port, o->ifname, where, o->ifname, o->ifname, (unsigned)geteuid());
    }
    if (code == EPERM) {
        return err_set(
            o->e, -code,
            "port %s: creating tap device %s%s needs CAP_NET_ADMIN; run as root, or have "
            "root create it once: ip tuntap add dev %s mode tap user %u && ip link set "
            "%s up",
            o->port, o->ifname, where, o->ifname, (unsigned)geteuid(), o->ifname);
    }
    if (code == EBUSY) {
        return err_set(o->e, -code,
                       "port %s: tap device %s%s is in use by another process; stop it or choose "
                       "another device with dev=",
                       o->port, o->ifname, where);
    }
    if (code == EINVAL && o->existed && is_tap(o)) {
        return err_set(
            o->e, -code,
            "port %s: tap device %s%s was made without multi_queue; leave out queues=, or as root: "
            "ip tuntap del dev %s mode tap && ip tuntap add dev %s mode tap user %u multi_queue",
            o->port, o->ifname, where, o->ifname, o->ifname, (unsigned)geteuid());
    }
    if (code == EINVAL && o->existed) {
        return err_set(
            o->e, -code,
            "port %s: network device %s%s exists and is not a tap device; choose another "
            "one with dev=",
            o->port, o->ifname, where);
    }
    return err_set(o->e, -code, "port %s: cannot open tap device %s%s: %s", o->port, o->ifname,
                   where, strerror(code));
}

/* An existing device may be multi-queue; then also one queue must be asked for with that flag. */
static int attach_queue(struct tap_open *o, int fd)
{
    struct ifreq ifr = {0};
    const short flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

    snprintf(ifr.ifr_name, IFNAMSIZ, "%s", o->ifname);
    ifr.ifr_flags = o->n_queues > 1 ? flags | IFF_MULTI_QUEUE : flags;
    if (ioctl(fd, TUNSETIFF, &ifr) == 0) {
        return 0;
    }
    int code = errno;
    ifr.ifr_flags = flags | IFF_MULTI_QUEUE;
    if (code == EINVAL && o->n_queues == 1 && o->existed && ioctl(fd, TUNSETIFF, &ifr) == 0) {
        return 0;
    }
    return refuse_attach(o, code);
}

static unsigned long tun_offloads(uint16_t mask)
{
    unsigned long f = 0;

    f |= mask & OFFLOAD_CSUM ? TUN_F_CSUM : 0;
    f |= mask & OFFLOAD_TSO4 ? TUN_F_TSO4 : 0;
    f |= mask & OFFLOAD_TSO6 ? TUN_F_TSO6 : 0;
    f |= mask & OFFLOAD_ECN ? TUN_F_TSO_ECN : 0;
    return mask & OFFLOAD_USO ? f | TUN_F_USO4 | TUN_F_USO6 : f; /* the kernel: both or none */
}

/* Find out whether the kernel knows USO, and switch on what the kernel may send. */
static int set_offload(struct tap_open *o)
{
    o->takes = OFFLOAD_ALL;
    if (ioctl(o->tun_fd[0], TUNSETOFFLOAD, tun_offloads(OFFLOAD_CSUM | OFFLOAD_USO))) {
        o->takes &= (uint16_t)~OFFLOAD_USO;
        o->sends &= (uint16_t)~OFFLOAD_USO;
    }
    return ioctl(o->tun_fd[0], TUNSETOFFLOAD, tun_offloads(o->sends));
}

static int open_queue(struct tap_open *o, int *fd)
{
    *fd = open(TUN_PATH, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (*fd < 0) {
        int code = errno;
        return err_set(
            o->e, -code, "port %s: cannot open " TUN_PATH ": %s; %s", o->port, strerror(code),
            code == EACCES || code == EPERM ? "give this user read and write access to it"
                                            : "load it with: modprobe tun");
    }
    return attach_queue(o, *fd);
}

static int open_tun(struct tap_open *o)
{
    int hdr = VNET_HDR_LEN, rc = 0;

    for (unsigned i = 0; i < o->n_queues && !rc; i++) {
        rc = open_queue(o, &o->tun_fd[i]);
    }
    if (rc) {
        return rc;
    }
    /* Both are the device's, not a queue's. */
    if (ioctl(o->tun_fd[0], TUNSETVNETHDRSZ, &hdr) || set_offload(o)) {
        int code = errno;
        return err_set(o->e, -code,
                       "port %s: tap device %s: cannot set up the virtio-net header: %s", o->port,
                       o->ifname, strerror(code));
    }
    return 0;
}

static int open_sockets(struct tap_open *o)
{
    struct sockaddr_nl sa = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};

    o->ctl_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    o->nl_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (o->ctl_fd < 0 || o->nl_fd < 0 || bind(o->nl_fd, (struct sockaddr *)&sa, sizeof(sa))) {
        int code = errno;
        return err_set(o->e, -code, "port %s: cannot open a network socket: %s", o->port,
                       strerror(code));
    }
    return 0;
}

static int open_here(struct tap_open *o)
{
    struct ifreq ifr = {0};
    int rc = open_sockets(o);

    if (rc) {
        return rc;
    }
    snprintf(ifr.ifr_name, IFNAMSIZ, "%s", o->ifname);
    o->existed = ioctl(o->ctl_fd, SIOCGIFINDEX, &ifr) == 0;
    return open_tun(o);
}

static void *open_thread(void *arg)
{
    struct tap_open *o = arg;

    if (setns(o->netns_fd, CLONE_NEWNET)) {
        int code = errno;
        o->rc = err_set(o->e, -code, "port %s: cannot enter network namespace %s: %s", o->port,
                        o->netns,
                        code == EPERM    ? "this needs CAP_SYS_ADMIN; run as root"
                        : code == EINVAL ? "it is not a network namespace"
                                         : strerror(code));
        return NULL;
    }
    o->rc = open_here(o);
    return NULL;
}

/* The name that `ip netns` knows, a process id, or a path. */
static int netns_open(const char *port, const char *netns, struct err *e)
{
    char path[PATH_MAX];
    bool digits = *netns && strspn(netns, "0123456789") == strlen(netns);
    const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK; /* a FIFO must not hold us */

    snprintf(path, sizeof(path), strchr(netns, '/') ? "%s" : "/run/netns/%s", netns);
    int fd = open(path, flags);
    if (fd < 0 && errno == ENOENT && digits) {
        snprintf(path, sizeof(path), "/proc/%s/ns/net", netns);
        fd = open(path, flags);
    }
    if (fd < 0) {
        int code = errno;
        return err_set(e, -code,
                       "port %s: netns=%s: cannot open %s: %s; give a name that `ip netns` "
                       "lists, a process id or a path",
                       port, netns, path, strerror(code));
    }
    return fd;
}

/* Run open_here(), inside the namespace if there is one. Signals stay with the other threads. */
static int tap_open(struct tap_open *o)
{
    sigset_t all, old;
    pthread_t th;

    if (!o->netns) {
        return open_here(o);
    }
    o->netns_fd = netns_open(o->port, o->netns, o->e);
    if (o->netns_fd < 0) {
        return o->netns_fd;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&th, NULL, open_thread, o);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        rc = err_set(o->e, -rc, "port %s: cannot start a thread: %s", o->port, strerror(rc));
    } else {
        pthread_join(th, NULL);
        rc = o->rc;
    }
    close(o->netns_fd);
    return rc;
}

/* ---- control: options --------------------------------------------------------------------- */

static const char *device_name(const struct port_conf *c)
{
    const char *dev = port_conf_get(c, "dev");

    return dev ? dev : c->name;
}

static int tap_check(const struct port_conf *c, struct err *e)
{
    const char *ifname = device_name(c);

    if (!*ifname || strlen(ifname) >= IFNAMSIZ) {
        return err_set(e, -EINVAL,
                       "%s is not a device name of 1 to %d characters; choose one with dev=NAME",
                       *ifname ? ifname : "an empty string", IFNAMSIZ - 1);
    }
    if (strpbrk(ifname, "/:% \t\n\v\f\r") || !strcmp(ifname, ".") || !strcmp(ifname, "..")) {
        return err_set(e, -EINVAL, "dev=%s: a device name has no '/', ':', '%%' or space", ifname);
    }
    return 0;
}

static int set_mtu(struct port_tap *t, unsigned mtu, struct err *e)
{
    struct ifreq ifr;

    if (mtu == t->mtu) {
        return 0; /* an ordinary user may say what is so already */
    }
    tap_ifreq(t, &ifr);
    ifr.ifr_mtu = (int)mtu;
    if (ioctl(t->ctl_fd, SIOCSIFMTU, &ifr)) {
        int code = errno;
        if (code == EPERM) {
            return err_set(e, -code,
                           "port %s: changing the MTU of tap device %s needs CAP_NET_ADMIN; as "
                           "root: ip link set %s mtu %u",
                           t->port.name, t->ifname, t->ifname, mtu);
        }
        return err_set(e, -code, "port %s: cannot set the MTU of tap device %s to %u: %s",
                       t->port.name, t->ifname, mtu, strerror(code));
    }
    tap_query(t);
    return 0;
}

static int set_mac(struct port_tap *t, const char *text, struct err *e)
{
    struct ifreq ifr;
    uint8_t mac[6];

    text_read_mac(text, mac);
    tap_ifreq(t, &ifr);
    if (ioctl(t->ctl_fd, SIOCGIFHWADDR, &ifr) == 0 && !memcmp(ifr.ifr_hwaddr.sa_data, mac, 6)) {
        return 0; /* an ordinary user may say what is so already */
    }
    tap_ifreq(t, &ifr);
    ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(ifr.ifr_hwaddr.sa_data, mac, sizeof(mac));
    if (ioctl(t->ctl_fd, SIOCSIFHWADDR, &ifr)) {
        int code = errno;
        return err_set(e, -code, "port %s: cannot set the address of tap device %s: %s%s",
                       t->port.name, t->ifname, strerror(code),
                       code == EPERM ? "; this needs CAP_NET_ADMIN" : "");
    }
    return 0;
}

static int set_up(struct port_tap *t, struct err *e)
{
    struct ifreq ifr;

    tap_ifreq(t, &ifr);
    if (ioctl(t->ctl_fd, SIOCGIFFLAGS, &ifr) == 0) {
        ifr.ifr_flags |= IFF_UP;
        if (ioctl(t->ctl_fd, SIOCSIFFLAGS, &ifr) == 0) {
            tap_query(t);
            return 0;
        }
    }
    int code = errno;
    return err_set(e, -code, "port %s: cannot bring tap device %s up: %s", t->port.name, t->ifname,
                   strerror(code));
}

/* What ethtool and the host's routing see as the cable. */
static int set_carrier(struct port_tap *t, bool on, struct err *e)
{
    int carrier = on;

    if (ioctl(t->queue[0].q.fd, TUNSETCARRIER, &carrier)) {
        int code = errno;
        return err_set(e, -code, "port %s: cannot set the carrier of tap device %s: %s",
                       t->port.name, t->ifname, strerror(code));
    }
    return 0;
}

static int set_link(struct port_tap *t, bool down, struct err *e)
{
    int rc = set_carrier(t, !down, e);

    if (!rc) {
        write_once(&t->port.down, down);
        update_ready(t);
    }
    return rc;
}

static int tap_set(struct port *p, const char *key, const char *value, struct err *e)
{
    if (!strcmp(key, "mac")) {
        return set_mac(tap_of(p), value, e);
    }
    if (!strcmp(key, "link")) {
        return set_link(tap_of(p), !strcmp(value, "down"), e);
    }
    return set_mtu(tap_of(p), (unsigned)strtoul(value, NULL, 10), e);
}

/* ---- control: life ------------------------------------------------------------------------ */

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

static void tap_destroy(struct port *p)
{
    struct port_tap *t = tap_of(p);

    for (unsigned i = 0; i < t->n_queues; i++) {
        struct tap_queue *tq = &t->queue[i];

        if (tq->attached) {
            p->env->detach(p->env->ctx, &tq->q);
        }
        if (tq->buf) {
            munmap(tq->buf, (size_t)PKT_BURST * TAP_BUF);
        }
        close_fd(tq->q.fd);
    }
    if (t->nl_ev) {
        event_free(t->nl_ev);
    }
    close_fd(t->ctl_fd);
    close_fd(t->nl_fd);
    port_fini(p);
    free(t->queue);
    free(t);
}

/* The device, its sockets and its state into t. */
static int tap_bind(struct port_tap *t, const struct port_conf *c, struct err *e)
{
    struct tap_open o = {.port = c->name,
                         .ifname = device_name(c),
                         .netns = port_conf_get(c, "netns"),
                         .sends = port_conf_offload(c, "offload", OFFLOAD_DEFAULT) & ~OFFLOAD_UFO,
                         .n_queues = t->n_queues,
                         .e = e,
                         .netns_fd = -1,
                         .ctl_fd = -1,
                         .nl_fd = -1};
    struct ifreq ifr;
    unsigned want = (unsigned)port_conf_number(c, "mtu", 0);
    const char *mac = port_conf_get(c, "mac");

    for (unsigned i = 0; i < TAP_MAX_QUEUES; i++) {
        o.tun_fd[i] = -1;
    }
    int rc = tap_open(&o);
    for (unsigned i = 0; i < t->n_queues; i++) {
        t->queue[i].q.fd = o.tun_fd[i]; /* also on failure: destroy closes what is open */
    }
    t->ctl_fd = o.ctl_fd;
    t->nl_fd = o.nl_fd;
    if (rc) {
        return rc;
    }
    t->created = !o.existed;
    t->sends = o.sends;
    t->takes = o.takes;
    snprintf(t->ifname, IFNAMSIZ, "%s", o.ifname);
    tap_ifreq(t, &ifr);
    if (ioctl(t->ctl_fd, SIOCGIFINDEX, &ifr)) {
        int code = errno;
        return err_set(e, -code, "port %s: tap device %s: %s", c->name, t->ifname, strerror(code));
    }
    t->ifindex = (unsigned)ifr.ifr_ifindex;
    tap_query(t);
    rc = want ? set_mtu(t, want, e) : 0;
    rc = !rc && mac ? set_mac(t, mac, e) : rc;
    rc = !rc && t->created ? set_up(t, e) : rc;
    return !rc && t->port.down ? set_carrier(t, false, e) : rc;
}

static int start_queue(struct port_tap *t, unsigned at, struct err *e)
{
    struct port *p = &t->port;
    struct tap_queue *tq = &t->queue[at];

    tq->buf = mmap(NULL, (size_t)PKT_BURST * TAP_BUF, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (tq->buf == MAP_FAILED) {
        tq->buf = NULL;
        return err_set(e, -ENOMEM, "port %s: out of memory", p->name);
    }
    tq->q = (struct rxq){
        .port = p, .queue = (uint16_t)at, .fd = tq->q.fd, .event_driven = true, .ready = true};
    int rc = p->env->attach(p->env->ctx, &tq->q, e);
    tq->attached = !rc;
    return rc;
}

static int tap_start(struct port_tap *t, struct err *e)
{
    struct port *p = &t->port;
    int rc = 0;

    t->nl_ev = event_new(p->env->evbase, t->nl_fd, EV_READ | EV_PERSIST, on_link_event, t);
    if (!t->nl_ev || event_add(t->nl_ev, NULL)) {
        return err_set(e, -ENOMEM, "port %s: out of memory", p->name);
    }
    for (unsigned i = 0; i < t->n_queues && !rc; i++) {
        rc = start_queue(t, i, e);
    }
    return rc;
}

/* Without a descriptor yet. */
static int make_queues(struct port_tap *t, unsigned n, struct err *e)
{
    t->queue = aligned_alloc(CACHE_LINE, n * sizeof(*t->queue));
    if (!t->queue) {
        return err_set(e, -ENOMEM, "port %s: out of memory", t->port.name);
    }
    memset(t->queue, 0, n * sizeof(*t->queue));
    t->n_queues = n;
    for (unsigned i = 0; i < n; i++) {
        t->queue[i].q.fd = -1;
    }
    return 0;
}

static int tap_create(struct port **out, const struct port_conf *c, const struct port_env *env,
                      struct err *e)
{
    struct port_tap *t = calloc(1, sizeof(*t));

    if (!t) {
        return err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    t->ctl_fd = t->nl_fd = -1;
    int rc = port_init(&t->port, &port_tap_ops, c, env, e);
    if (rc) {
        free(t);
        return rc;
    }
    rc = make_queues(t, (unsigned)port_conf_number(c, "queues", 1), e);
    rc = rc ? rc : tap_bind(t, c, e);
    rc = rc ? rc : tap_start(t, e);
    if (rc) {
        tap_destroy(&t->port);
        return rc;
    }
    if (!t->up) {
        log_warn("port %s: tap device %s is down; bring it up: ip link set %s up", c->name,
                 t->ifname, t->ifname);
    }
    update_ready(t);
    *out = &t->port;
    return 0;
}

static void tap_show(const struct port *p, json_t *o)
{
    const struct port_tap *t = tap_of((struct port *)p);
    const char *netns = port_conf_get(&p->conf, "netns");
    char text[64];

    json_object_set_new(o, "device", json_string(t->ifname));
    json_object_set_new(o, "netns", netns ? json_string(netns) : json_null());
    json_object_set_new(o, "mtu", json_integer(t->mtu));
    json_object_set_new(o, "link", json_string(t->up && !p->down ? "up" : "down"));
    json_object_set_new(o, "offload", json_string(offload_text(t->sends, text, sizeof(text))));
    json_object_set_new(o, "offload_taken",
                        json_string(offload_text(t->takes, text, sizeof(text))));
    json_object_set_new(o, "queues", json_integer(t->n_queues));
    json_object_set_new(o, "persistent", json_boolean(!t->created));
}

static const struct port_option_def tap_options[] = {
    {"dev", "name of the network device (default: the port's name)"},
    {"netns", "network namespace to create or find it in: name, path or process id"},
    {"queues", "queues of the device, 1-16, spread over the workers (default 1)",
     .type = PORT_NUMBER, .min = 1, .max = TAP_MAX_QUEUES},
    {"mtu", "largest payload in bytes, 68-65521 (default: the device's own, 1500 if new)",
     .changeable = true, .type = PORT_NUMBER, .min = TAP_MTU_MIN, .max = TAP_MTU_MAX},
    PORT_OPTION_LINK,
    {"mac", "the device's address (default: as it is)", .changeable = true, .type = PORT_MAC},
    {"offload",
     "what the host may leave to others when it sends: words like csum+tso (default all)",
     .check = port_check_offload},
    {NULL},
};

const struct port_ops port_tap_ops = {
    .kind = "tap",
    .help = "a TAP device of the host, created or existing: the host is a station on the bridge",
    .options = tap_options,
    .check = tap_check,
    .create = tap_create,
    .destroy = tap_destroy,
    .rx = tap_rx,
    .rx_done = tap_rx_done,
    .tx = tap_tx,
    .arm = tap_arm,
    .disarm = tap_disarm,
    .set = tap_set,
    .show = tap_show,
};
