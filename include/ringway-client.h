/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libringway-client: a network card on a vhost-user switch, for an ordinary process.
 *
 * The process takes the part of a guest: it connects to the socket of a switch port (ringway,
 * OVS-DPDK, DPDK's net_vhost, or whoever speaks vhost-user), shares packet memory with it, and drives
 * the rings itself.  No root, no hugepages, no kernel in the way of frames.
 *
 *     struct rwc *nic;
 *     rwc_open(&nic, &(struct rwc_conf){.path = "/run/ringway/app.sock"}, why, sizeof(why));
 *     rwc_connect(nic, why, sizeof(why));
 *     while ((n = rwc_recv(nic, 0, frame, RWC_BURST)) ...)
 *         rwc_send(nic, 0, frame, n);
 *
 * Waiting.  Receiving costs no system call. To sleep until frames come: rwc_arm(), and if it is true,
 * poll rwc_fd() for POLLIN; then rwc_disarm(). rwc_link_fd() becomes readable when the switch is gone.
 *
 * Reconnecting.  Once rwc_connected() is false nothing moves any more; rwc_connect() begins anew with
 * empty rings. What was under way is lost.
 *
 * Errors.  Functions that return int answer 0 or a negative errno, and put one sentence for a person
 * into why[0 .. size), which may be NULL with size 0. Others set errno as they say.
 *
 * Queues.  `queue` is the number of a queue pair, below conf.queues.
 *
 * Threads.  One at a time per queue, for receiving and sending separately; rwc_connect() and
 * rwc_close() while nobody uses any queue.
 *
 * Trust.  The switch may lie and may change shared memory at any time. This library reads what it
 * needs once and checks it; the bytes of a frame that was received are in shared memory: who decides by
 * them copies them first.
 *
 * Sources: virtio 1.2, 2.7, 2.8, 5.1.6; the vhost-user text of QEMU.
 */
#ifndef RINGWAY_CLIENT_H
#define RINGWAY_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RWC_BURST     64    /* frames per call, at most */
#define RWC_QUEUES    16    /* queue pairs, at most */
#define RWC_FRAME_MIN 14    /* bytes: an Ethernet header */
#define RWC_FRAME_MAX 65557 /* bytes: an IP datagram, Ethernet, two VLAN tags. No FCS anywhere. */

struct rwc;

enum rwc_flags {
    RWC_LISTEN = 1,   /* the switch connects (its port is client=PATH); else this side does */
    RWC_PACKED = 2,   /* packed rings; a switch without them is refused */
    RWC_OFFLOADS = 4, /* ask for checksums and large frames, both ways */
};

struct rwc_conf {
    const char *path;    /* UNIX socket; copied */
    unsigned flags;      /* enum rwc_flags */
    unsigned queues;     /* queue pairs, 1..RWC_QUEUES; 0: 1 */
    unsigned ring_size;  /* entries of each ring, a power of two, 64..4096; 0: 256 */
    unsigned timeout_ms; /* of one answer of the switch; 0: 5000 */
};

/* What is left to be done on a frame; 0 if nothing is. As in virtio's header (5.1.6). */
enum rwc_offload {
    RWC_NEEDS_CSUM = 1, /* from csum_start on, to be stored csum_offset behind it */
    RWC_DATA_VALID = 2, /* received: its checksums were looked at */
};
enum rwc_gso {
    RWC_GSO_NONE = 0,
    RWC_GSO_TCPV4 = 1,
    RWC_GSO_TCPV6 = 4,
    RWC_GSO_UDP_L4 = 5,
    RWC_GSO_ECN = 0x80, /* with one of TCP */
};

struct rwc_frame {
    const struct iovec *iov; /* the bytes, from the destination address on */
    unsigned n_iov;          /* received: 1, unless it is larger than a buffer */
    uint32_t len;            /* bytes in all of iov; rwc_send() does not read it */
    uint8_t flags;           /* enum rwc_offload */
    uint8_t gso;             /* enum rwc_gso */
    uint16_t hdr_len;        /* with gso: bytes of all headers */
    uint16_t gso_size;       /* with gso: payload of each segment, bytes */
    uint16_t csum_start, csum_offset;
};

/* Get memory; in listening mode the socket is there afterwards. Connects nothing. */
int rwc_open(struct rwc **nic, const struct rwc_conf *conf, char *why, size_t size);
/* NULL is allowed. */
void rwc_close(struct rwc *nic);

/*
 * Connect, or wait for the switch (RWC_LISTEN), negotiate and start all queues. May be called again
 * after the connection was lost, or to begin anew. -ENOENT, -ECONNREFUSED: nobody listens there
 * (yet); -ETIMEDOUT; -EOPNOTSUPP: the switch lacks what was asked for; -EPROTO: it lies.
 */
int rwc_connect(struct rwc *nic, char *why, size_t size);
/* Frames can move. False once the switch hung up or broke a ring. One system call. */
bool rwc_connected(struct rwc *nic);

/*
 * Take up to n (at most RWC_BURST) frames. They are lent: valid until the next rwc_recv() or
 * rwc_release() on this queue. 0 with errno: EAGAIN, nothing is there; ENOTCONN; EPROTO, the switch
 * broke the ring. Frames that lie about themselves are dropped and counted.
 */
unsigned rwc_recv(struct rwc *nic, unsigned queue, struct rwc_frame *frame, unsigned n);
/* Give back what the last rwc_recv() lent, now. */
void rwc_release(struct rwc *nic, unsigned queue);

/*
 * Copy n frames into the transmit ring and tell the switch, once. Returns how many; if not all, errno
 * says why the next one was not taken: EAGAIN, no room; EMSGSIZE, its length is not one of a frame;
 * EINVAL, its offload fields point beyond it; EOPNOTSUPP, the switch does not take what it
 * leaves to be done; ENOTCONN; EPROTO.
 */
unsigned rwc_send(struct rwc *nic, unsigned queue, const struct rwc_frame *frame, unsigned n);

/* An eventfd (never to be closed, nor read) that is readable when frames came after rwc_arm(). */
int rwc_fd(const struct rwc *nic, unsigned queue);
/* Ask to be woken. False: do not wait, frames are there already, or nothing will come any more. */
bool rwc_arm(struct rwc *nic, unsigned queue);
/* No more wake-ups, and what was signalled is forgotten. */
void rwc_disarm(struct rwc *nic, unsigned queue);
/* Readable once the switch hung up; another fd after each rwc_connect(). -1: not connected. */
int rwc_link_fd(const struct rwc *nic);

struct rwc_info {
    uint64_t features; /* virtio feature bits that were negotiated */
    unsigned queues, ring_size;
    bool packed;
    uint64_t connects;
    uint64_t received, sent, dropped; /* frames; dropped: received ones that lied */
};
void rwc_get_info(const struct rwc *nic, struct rwc_info *info);

#ifdef __cplusplus
}
#endif

#endif
