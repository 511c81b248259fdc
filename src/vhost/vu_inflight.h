/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to src/vhost: the state of rings that outlives this process.
 *
 * What has to be kept is little: ringway takes buffers in their order and copies, so between two
 * bursts it holds none.  A split ring has its used index in guest memory.  A packed ring has a word
 * (ring/ring_resume.h), and that lies in one of two places:
 *
 *   the front-end's   a region in the format of the vhost-user text, made by GET_INFLIGHT_FD, given
 *                     back by SET_INFLIGHT_FD.  Everything in it is hostile.
 *   our own           a file, conf.state_path, for front-ends that keep no region: the same head of a
 *                     ring's region per ring, and in front of it what the ring was.
 *
 * A word of our own file is believed only for the same bytes of the same memory file, with the same
 * features and size, and if the front-end says what it said at the last start: it was stopped by
 * nobody since (or what it used itself meanwhile explains the difference).  In both places the ring itself has the last word (packed_resume()).
 *
 * Our own file also names the features that the front-end has, for the next process.
 *
 * Source: the vhost-user text of QEMU, "Inflight I/O tracking".
 */
#ifndef VHOST_VU_INFLIGHT_H
#define VHOST_VU_INFLIGHT_H

#include "base/err.h"
#include "vhost/vu_backend.h"

struct vu_dev;

#define VU_INFLIGHT_VERSION 1
#define VU_INFLIGHT_ALIGN   64u

/* The head of a ring's part of the region; entries follow, one per descriptor. */
struct vu_inflight_split {
    uint64_t features; /* of the region; none are defined */
    uint16_t version;  /* 0: not filled in yet */
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
};

struct vu_inflight_packed {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t free_head, old_free_head;
    uint64_t resume; /* used_idx, old_used_idx, their wrap counters, and two bytes of padding */
    uint8_t padding[8];
};

/* One per descriptor: is it in flight, in the first byte.  Nothing of ours ever is. */
#define VU_INFLIGHT_ENTRY_SPLIT  16u
#define VU_INFLIGHT_ENTRY_PACKED 32u

/* Bytes of a ring's part of the region. */
uint64_t vu_inflight_stride(bool packed, uint32_t queue_size);

struct vu_inflight_file;

/* What a device has of both. */
struct vu_inflight {
    struct gmem *region; /* of SET_INFLIGHT_FD, NULL: none */
    uint16_t n_queues, queue_size;
    struct gmem *own_map; /* our own file, for the life of the device once a ring ran: whoever may
                           * write in RUNDIR can cut it, so the SIGBUS handler has to know it */
    struct vu_inflight_file *own; /* the same; NULL: none */
    bool own_failed;              /* and that was told */
};

/* A device is made: has a process before this one left something?  Features that its front-end had and
 * that are not offered any more are told. */
void vu_inflight_found(struct vu_dev *d);
/* The front-end accepted features. */
void vu_inflight_features(struct vu_dev *d);
/* A ring is about to start at c->base, as the front-end says (split: as its used index says).  Packed:
 * corrects it, and sets c->resume. */
void vu_inflight_start(struct vu_dev *d, unsigned idx, struct vu_ring_conf *c);
/* The front-end was told where the ring stands, or reset it: what is kept of it is over. */
void vu_inflight_over(struct vu_dev *d, unsigned idx);

/* GET_INFLIGHT_FD: fills in m, returns an fd or -errno. */
int vu_inflight_get(const struct vu_dev *d, struct vu_inflight_msg *m, struct err *e);
/* SET_INFLIGHT_FD. Takes over fd, also on failure. No ring runs. */
int vu_inflight_set(struct vu_dev *d, const struct vu_inflight_msg *m, int fd, struct err *e);

/* The connection ended: the region is its, our own file stays. */
void vu_inflight_disconnect(struct vu_dev *d);
/* The device ends in order: nothing is kept. */
void vu_inflight_end(struct vu_dev *d);

#endif
