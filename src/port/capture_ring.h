/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rings of captured frames in memory that two parties map: one ring per worker, one consumer for
 * all.  The consumer is another process (`ringway capture`) or a thread (a pcap port's file).
 *
 *     0                struct capture_head
 *     192              struct capture_ring_head x n_rings
 *     data_at          n_rings x ring_bytes: records, see struct capture_rec
 *
 *   worker     room?  record  ->  head (release, CR1)            once per burst
 *              full fence of the round, then: waiting?  ->  eventfd
 *   consumer   head (acquire, CR1)  ->  record  ->  tail (release, CR2: the room may be reused)
 *              waiting = 1, full fence, head again  ->  sleep
 *
 * Nobody waits: without room a frame is lost for the capture, and counted in `lost`.
 *
 * Trust.  The worker keeps its own copies of all it decides on; of the shared words it reads `tail`
 * and `waiting` only, and a wrong tail means no room.  The memory is sealed: it cannot shrink under
 * the worker.  The consumer checks each record against the ring before it uses it, in a private copy.
 *
 * Numbers are in host order: both sides are on one machine.
 */
#ifndef PORT_CAPTURE_RING_H
#define PORT_CAPTURE_RING_H

#include "base/compiler.h"
#include "base/err.h"
#include "base/order.h"
#include "pkt/pkt.h"
#include "port/port.h"

#define CAPTURE_MAGIC 0x52574350u
#define CAPTURE_VERSION 1
#define CAPTURE_RING_MIN (256u << 10) /* holds the largest frame wherever it begins */
#define CAPTURE_RING_MAX (64u << 20)  /* ring_bytes is a power of two */
#define CAPTURE_RING_DEFAULT (4u << 20)
#define CAPTURE_NO_DROP 0xff

enum capture_dir { CAPTURE_IN = 1, CAPTURE_OUT = 2 }; /* into the switch, out of it; a mask too */

enum capture_end { CAPTURE_RUNS, CAPTURE_PORT_GONE };

struct capture_head {
    uint32_t magic, version;
    uint32_t n_rings, ring_bytes;
    uint64_t data_at;
    uint32_t ended CACHE_ALIGNED;   /* enum capture_end; switch */
    uint32_t waiting CACHE_ALIGNED; /* consumer: signal the eventfd once there is something */
};
static_assert(sizeof(struct capture_head) == 192, "on the border to another process");

struct capture_ring_head {
    uint64_t head CACHE_ALIGNED; /* worker: bytes written so far, whole records */
    uint64_t lost;               /* worker: frames that found no room */
    uint64_t tail CACHE_ALIGNED; /* consumer: bytes that it is done with */
};
static_assert(sizeof(struct capture_ring_head) == 128, "on the border to another process");

/* A record starts at a multiple of 8, is never wrapped, and is followed by cap_len bytes. */
struct capture_rec {
    uint32_t size;    /* to the next record, multiple of 8 */
    uint8_t dir;      /* enum capture_dir; 0: no frame, skip to the next record (only these 8 bytes) */
    uint8_t why;      /* enum drop, or CAPTURE_NO_DROP */
    uint16_t n;       /* frames that this record stands for */
    uint64_t time_ns; /* since 1970 */
    uint32_t cap_len; /* bytes of the frame that follow */
    uint32_t len;     /* of the whole frame; 0: it was refused before it was one */
    uint8_t vnet[12]; /* virtio-net header: what the frame carries (pkt.h) */
    uint8_t pad[4];
};
static_assert(sizeof(struct capture_rec) == 40, "on the border to another process");

/* ---- making the memory; control thread ------------------------------------------------------------ */

struct capture_mem {
    struct capture_head *head;
    uint64_t bytes;
    int fd; /* sealed memfd */
};
#define CAPTURE_MEM_NONE ((struct capture_mem){.fd = -1})
int capture_mem_create(struct capture_mem *m, unsigned n_rings, uint32_t ring_bytes, struct err *e);
void capture_mem_free(struct capture_mem *m);

/* ---- one worker ----------------------------------------------------------------------------------- */

struct capture_out {
    struct capture_ring_head *shared;
    uint8_t *data;
    uint64_t head; /* what is written; shared->head is what is published */
    uint64_t lost;
    uint32_t size;
};

void capture_out_init(struct capture_out *o, const struct capture_mem *m, unsigned ring);

/* The first len bytes of a frame (at most k->len) into private memory. */
void capture_copy_frame(uint8_t *to, const struct pkt *k, uint32_t len);
/*
 * Record a frame: the first bytes of it, at most cap_len, from `flat` if that is not NULL, else from
 * the snapshot and the loan.  k NULL: a record without a frame.  rec's size and cap_len are filled
 * in here.  False: no room; counted.
 */
bool capture_push(struct capture_out *o, struct capture_rec rec, const struct pkt *k,
                  const uint8_t *flat);

static inline bool capture_unpublished(const struct capture_out *o)
{
    return read_once(&o->shared->head) != o->head;
}

/* Let the consumer see what was pushed. It is to be woken by the caller, see capture_wants_signal. */
static inline void capture_publish(struct capture_out *o)
{
    ordered_store(CR1, &o->shared->head, o->head);
}

/* After a full fence that follows capture_publish(). */
static inline bool capture_wants_signal(const struct capture_head *h)
{
    return read_once(&h->waiting);
}

/* ---- the consumer --------------------------------------------------------------------------------- */

struct capture_reader {
    struct capture_head *head;
    struct capture_ring_head *ring;
    const uint8_t *data;
    uint32_t n_rings, ring_bytes;
    uint64_t tail[WORKER_MAX];
    int at; /* ring of the record that capture_peek() found; -1: none */
    uint32_t at_size;
};

/* m bytes at p. -EPROTO if it is no such memory. */
int capture_reader_init(struct capture_reader *r, void *p, uint64_t m, struct err *e);
/*
 * The oldest record that has not been taken: a copy of its head, and its bytes in the ring, valid
 * until capture_next(). 1, 0 if there is none, -EPROTO if a ring holds nonsense.
 */
int capture_peek(struct capture_reader *r, struct capture_rec *rec, const uint8_t **bytes);
void capture_next(struct capture_reader *r);
/* Before sleeping: ask for a signal. True: there is something already, do not sleep. */
bool capture_arm(struct capture_reader *r);
void capture_disarm(struct capture_reader *r);
/* Frames lost so far, over all rings. */
uint64_t capture_lost(const struct capture_reader *r);
enum capture_end capture_ended(const struct capture_reader *r);

#endif
