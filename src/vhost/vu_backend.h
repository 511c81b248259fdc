/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back-end side of the vhost-user protocol: one device (struct vu_dev) per port, one connection
 * at a time.  It owns sockets, messages, negotiation, the memory table and every fd the front-end
 * sends; it decides WHEN a ring runs.  The owner (port/port_vhost.c) runs rings and is told through
 * struct vu_ops.
 *
 * States of the connection
 *   listening / dialling   no peer; configuration, MAC and statistics of the port stay
 *   connected              messages are handled; no ring runs
 *   running                at least one ring runs
 *   down                   the link is set down: no peer, and nobody gets in
 *   closed by fault        the reason is kept and shown; back to listening, or to dialling
 *                          with back-off
 *
 * A ring runs when num, addresses, base and kick are set, memory is there, features are set, and it
 * is enabled (or bit 30 was not negotiated); nothing waits for a kick, which may never come.  All
 * orders of messages are allowed that the document does not forbid.
 *
 * What a front-end gets for a message that cannot be carried out
 *   malformed (size, flags, fds, ring number)   the connection is closed, the reason kept
 *   refused (features not offered, bad table)   a non-zero answer if it asked for one (NEED_REPLY);
 *                                               otherwise the two sides would disagree: closed
 *   a ring that cannot run as described         non-zero if it asked; the ring stays down and is
 *                                               tried again when something about it changes; the
 *                                               others run; its err eventfd is signalled
 *   not spoken here                             non-zero if it asked; fds closed; goes on
 * One front-end at a time.  Another that connects meanwhile is accepted and closed at once, with a
 * line in the log: it sees the end of file instead of waiting in the backlog for ever.
 *
 * Threads: everything here runs on the control thread; every socket is non-blocking and every
 * connection has a deadline for an unfinished message.  The peer is hostile: exact size per message
 * before any payload is read, bounded fds, no assert on input.
 *
 * Source: the vhost-user text of QEMU ("Message types", "Starting and stopping rings").
 */
#ifndef VHOST_VU_BACKEND_H
#define VHOST_VU_BACKEND_H

#include <sys/types.h>

#include "base/compiler.h"
#include "base/err.h"
#include "mem/gmem.h"
#include "ring/ring_log.h"
#include "vhost/vu_wire.h"
#include "vnet/vnet_config.h"

struct event_base;
struct vu_dev;

/* One ring as the front-end described it: pointers are checked for length and alignment. */
struct vu_ring_conf {
    void *desc, *avail, *used; /* in the memory table that ring_start's mem argument names */
    uint32_t num;              /* 1..32768; split: a power of two */
    uint16_t base; /* where it starts, in the form of ring_setup.base (ring/ring.h); checked */
    uint64_t *resume; /* packed: see ring_setup.resume; NULL: nowhere. Valid until ring_stop. */
    struct ring_log log;       /* what it logs, and where */
    int kick_fd;               /* eventfd, or -1: the ring must be polled. Owned by vu_dev. */
    int call_fd;               /* eventfd, or -1: no signals wanted. Owned by vu_dev. */
};

/*
 * What the owner does. All on the control thread; ctx is the owner's. "Barrier" means: when the
 * function returns no worker can touch the old state any more, so vu_dev may unmap and close it.
 * None of them may call back into this vu_dev, except for vu_dev_info() and vu_dev_ring_info().
 */
struct vu_ops {
    /* Run ring idx. features are the negotiated virtio feature bits. */
    int (*ring_start)(void *ctx, unsigned idx, const struct vu_ring_conf *conf, uint64_t features,
                      const struct gmem *mem, struct err *e);
    /* Barrier. Stop ring idx and return its live index. Only called for a running ring. */
    uint16_t (*ring_stop)(void *ctx, unsigned idx);
    /* Barrier. A running ring has a new call eventfd (-1: none): swap, then signal it once. */
    void (*ring_call)(void *ctx, unsigned idx, int call_fd);
    /* Barrier. Running rings go on with this table, in which nothing they use has moved. */
    void (*mem_swap)(void *ctx, const struct gmem *mem);
    /* What the running ring idx logs from the next barrier on. Once per ring between two of them. */
    void (*ring_log)(void *ctx, unsigned idx, const struct ring_log *log);
    /* Barrier, and nothing else. */
    void (*barrier)(void *ctx);
    /* The guest moved here: its MAC, from SEND_RARP. */
    void (*rarp)(void *ctx, const uint8_t mac[6]);
    /* NET_SET_MTU: 0 to accept. */
    int (*mtu)(void *ctx, uint16_t mtu);
    /* Connected (true) or gone; all rings were stopped before. why is for people, may be NULL. */
    void (*link)(void *ctx, bool up, const char *why);
    /* Signal an eventfd that the peer shares, without blocking on it (see base/evsignal.h). For the
     * err eventfd of a ring; NULL: it is never signalled. */
    void (*signal)(void *ctx, int fd);
};

struct vu_conf {
    const char *name;  /* the port's name, for messages */
    const char *path;  /* UNIX socket */
    bool client;       /* connect to a listening front-end instead of listening */
    uid_t owner;       /* (uid_t)-1: leave. Server mode. */
    gid_t group;       /* (gid_t)-1: leave */
    mode_t mode;       /* e.g. 0660 */
    uint64_t features; /* virtio feature bits to offer, see vnet/features.h */
    unsigned max_rings; /* rings from this index on are not run; 0: VU_MAX_RINGS */
    enum gmem_fs_policy fs;
    const char *state_path; /* file for what must outlive a crash of this process; NULL: none. Removed
                               by vu_dev_destroy(). */
    bool config;                /* offer the configuration space: MAC, link, queues, MTU */
};

/*
 * Create the device and listen on (or start dialling) conf->path. A socket file that nobody answers
 * on is removed first; one in use is an error that names its owner's pid and program.
 */
int vu_dev_create(struct vu_dev **out, const struct vu_conf *conf, const struct vu_ops *ops,
                  void *ctx, struct event_base *evbase, struct err *e);
/* Stops all rings, closes everything, removes the socket file it made. NULL is allowed. */
void vu_dev_destroy(struct vu_dev *d);

/* The owner found ring idx corrupt (it stopped polling it): signal the err eventfd, log once, keep
 * the reason for show; the ring stays down until the front-end sets it up again. */
void vu_dev_ring_broken(struct vu_dev *d, unsigned idx, const char *why);
/* The owner found that the peer broke the rules for good (memory gone): close the connection. */
void vu_dev_kill(struct vu_dev *d, const char *why);

/*
 * The cable. Down: the connection ends, which is what front-ends know as link down, and nobody gets in
 * until it is up again: a socket that listens is closed (its file stays, so that connect() is refused
 * and nobody takes the name), a front-end that listens is not dialled. -errno: it could not listen
 * again, and the link is still down.  A front-end that takes the configuration from us stays
 * connected: it is told there, and its rings rest.
 */
int vu_dev_set_link(struct vu_dev *d, bool up, struct err *e);

/* What conf->config offers: MAC and MTU. The rest is filled in here. A front-end is told of a change
 * if it wants to be. */
void vu_dev_set_config(struct vu_dev *d, const struct vnet_config *c);

/* For show. Strings live as long as the device. */
struct vu_ring_info {
    bool running, enabled, broken;
    uint32_t num;
    uint32_t base; /* as in SET_VRING_BASE */
    bool polled;     /* no kick fd */
    const char *why; /* why it does not run, for people; NULL if it runs */
};
struct vu_info {
    bool client, connected;
    const char *path;
    const char *state;      /* "down", "listening", "dialling", "connected", "running" */
    const char *last_error; /* why the last connection ended or the last message was refused, or "" */
    pid_t peer_pid;         /* 0 if not connected */
    uint64_t offered, negotiated; /* virtio feature bits */
    uint64_t protocol_offered, protocol_features; /* of these the negotiated ones */
    bool negotiating; /* the peer has not said yet which of them it takes, or there is none */
    uint32_t n_rings;             /* highest ring index seen + 1 */
    uint32_t n_regions;
    uint64_t mem_bytes;
    uint64_t log_bytes; /* of the dirty log, 0: none */
    bool logging;       /* what is written is logged now */
    int node; /* NUMA node of that memory, -1: not known */
    uint16_t mtu;   /* 0: not told */
    uint8_t status; /* virtio device status, 0 if not told */
    uint64_t n_messages, n_refused, n_connects;
};
void vu_dev_info(const struct vu_dev *d, struct vu_info *out);
bool vu_dev_ring_info(const struct vu_dev *d, unsigned idx, struct vu_ring_info *out);

#endif
