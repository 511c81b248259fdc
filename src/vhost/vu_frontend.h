/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front-end side of the vhost-user protocol: what a VMM does for its guest.  It owns the
 * socket, the packet memory, the eventfds and the driver side of the rings; the user adds buffers
 * and reaps them (ring/ring_drv.h).  For ports that plug into another switch (port/port_virtio.c), the
 * load generator and tests.
 *
 *   vu_fe_create   memory, rings in it; in server mode the socket listens
 *   vu_fe_connect  connects or accepts, negotiates               \
 *   vu_fe_start    memory table, rings, kick and call, enable     |  as often as wanted
 *   vu_fe_stop     GET_VRING_BASE on every ring                   |
 *   vu_fe_close    hangs up                                      /
 *   vu_fe_destroy
 *
 * Blocking, each step bounded by conf.timeout_ms and ended at once by conf.cancel_fd.  Distrusts the
 * back-end: replies are checked for request, flags and size; ring contents are checked in ring_drv.h.
 *
 * Threads: one user at a time.
 * Source: the vhost-user text of QEMU ("Message types", "Starting and stopping rings").
 */
#ifndef VHOST_VU_FRONTEND_H
#define VHOST_VU_FRONTEND_H

#include "base/compiler.h"
#include "base/err.h"
#include "ring/ring_drv.h"

#define VU_FE_MAX_RINGS   256
#define VU_FE_MAX_REGIONS 8

struct vu_fe;

struct vu_fe_conf {
    const char *path;  /* UNIX socket; copied */
    bool server;       /* listen for a back-end that connects (client mode), else connect */
    uint64_t features; /* virtio bits that are wanted; those offered are negotiated */
    uint64_t features_required; /* vu_fe_connect fails if one of these is not offered */
    uint64_t protocol_features; /* 0: VU_FE_PROTOCOL */
    unsigned n_rings;           /* even ones receive, odd ones transmit */
    uint32_t num;               /* size of each ring; a power of two, unless packed */
    bool rewrite;               /* see struct ring_drv_setup */
    uint64_t buf_bytes;         /* packet memory for the user */
    bool sparse;                /* pages of it come when they are touched */
    unsigned n_regions;         /* memory regions it is cut into, 1..VU_FE_MAX_REGIONS; 0: 1 */
    uint16_t mtu;               /* told to the back-end if it can hear it; 0: not told */
    bool once;                  /* fail if the back-end is not there yet, instead of waiting for it */
    unsigned timeout_ms;        /* per step; 0: 5000 */
    int cancel_fd;              /* the caller's; while it is readable, steps end with -ECANCELED.
                                 * 0: there is none */
};

/* Protocol features that are asked for by default. */
#define VU_FE_PROTOCOL                                                                             \
    (VU_PROTOCOL_BIT(MQ) | VU_PROTOCOL_BIT(REPLY_ACK) | VU_PROTOCOL_BIT(NET_MTU) |                 \
     VU_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS) | VU_PROTOCOL_BIT(STATUS))

struct vu_fe_ring {
    struct ring_drv drv;
    int kick_fd; /* eventfd: written by vu_fe_kick() */
    int call_fd; /* eventfd: readable when the back-end signalled */
};

int vu_fe_create(struct vu_fe **out, const struct vu_fe_conf *conf, struct err *e);
/* Hangs up without stopping the rings, frees everything. NULL is allowed. */
void vu_fe_destroy(struct vu_fe *fe);

int vu_fe_connect(struct vu_fe *fe, struct err *e);
/* After vu_fe_connect: do without these features. */
void vu_fe_forgo(struct vu_fe *fe, uint64_t features);
/* Until vu_fe_close() all steps together may take so long, and conf.cancel_fd is not looked at. */
void vu_fe_hurry(struct vu_fe *fe, unsigned ms);
/*
 * All rings run and are enabled afterwards.  resume = false: fresh (index 0, nothing posted).
 * resume = true: they go on where they were, posted chains stay posted: after vu_fe_stop(), after
 * a lost connection, or after vu_fe_reset_rings() for rings that were filled before the start.
 */
int vu_fe_start(struct vu_fe *fe, bool resume, struct err *e);
/* Fails with -EPROTO if the back-end's index is not one that this ring can have. */
int vu_fe_stop(struct vu_fe *fe, struct err *e);
void vu_fe_close(struct vu_fe *fe);
int vu_fe_reset_rings(struct vu_fe *fe, struct err *e);

/* Enable or disable one ring pair, as a guest does with VQ_PAIRS_SET. */
int vu_fe_enable(struct vu_fe *fe, unsigned ring, bool on, struct err *e);
/* Hand over more memory, or take it back, while rings run (needs CONFIGURE_MEM_SLOTS).  The new
 * region's bytes are at *va for us and at *gpa for the back-end. */
int vu_fe_add_region(struct vu_fe *fe, uint64_t bytes, uint8_t **va, uint64_t *gpa, struct err *e);
int vu_fe_del_region(struct vu_fe *fe, uint64_t gpa, struct err *e);
/* The index that the back-end answered for this ring at the last vu_fe_stop(). */
uint16_t vu_fe_stop_index(const struct vu_fe *fe, unsigned ring);

uint64_t vu_fe_features(const struct vu_fe *fe);          /* negotiated */
uint64_t vu_fe_protocol_features(const struct vu_fe *fe); /* negotiated */
bool vu_fe_connected(struct vu_fe *fe);                   /* false once the back-end hung up */
/* Readable, or hung up, when the back-end left; -1 while there is no connection. */
int vu_fe_fd(const struct vu_fe *fe);

struct vu_fe_ring *vu_fe_ring(struct vu_fe *fe, unsigned idx);
/* Packet memory: buf_bytes, page aligned. */
uint8_t *vu_fe_buf(struct vu_fe *fe);
/* Guest-physical address of a byte of packet memory or of a region added later. */
uint64_t vu_fe_gpa(const struct vu_fe *fe, const void *va);

/* All of it as one region, for a back-end in this process; those added later are left out. */
void vu_fe_memory(const struct vu_fe *fe, struct gmem_region *out);

/* Wake the back-end up; never blocks. */
void vu_fe_kick(const struct vu_fe_ring *r);
/* Take pending signals from the call fd; true if there was one. */
bool vu_fe_take_call(const struct vu_fe_ring *r);

#endif
