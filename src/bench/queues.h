/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two front-ends with several queue pairs each, driven by one thread: is the order within each flow
 * kept, and does each flow arrive on the ring that it was sent on in the other direction?
 *
 *   side 0  queue f % Q  --- flow f --->  side 1  queue f / Q % Q        and back
 *
 * A frame is 60 bytes of UDP over IPv4 with the number of its flow and a sequence number.  A flow is
 * sent on one queue of each side for ever; its frames have to arrive on that queue's receive ring.
 * If conf.shift_ms is set, only some of the queues send, other ones every so often: then the load of
 * the switch's workers changes all the time.
 *
 * No more is under way than one receive ring holds, and buffers are posted before chains that could
 * fill them are: what is lost is lost by the switch.
 */
#ifndef BENCH_QUEUES_H
#define BENCH_QUEUES_H

#include "base/compiler.h"
#include "base/err.h"

#define QGEN_MAX_QUEUES 32

struct qgen;

struct qgen_conf {
    const char *const *path; /* two sockets */
    unsigned queues;         /* 1..QGEN_MAX_QUEUES pairs on each side */
    uint32_t num;            /* ring size */
    unsigned shift_ms;       /* 0: all queues send all the time */
    unsigned timeout_ms;
    void (*turn)(void *ctx); /* called in each round: a switch in this very thread, or NULL */
    void *turn_ctx;
};

struct qgen_sum {
    double seconds;
    uint64_t sent, received;
    uint64_t bad_order; /* not behind the one before it in its flow */
    uint64_t bad_ring;  /* not on its flow's ring */
    uint64_t bad_frame; /* not what was sent */
    uint64_t ring[2][QGEN_MAX_QUEUES]; /* received, per side and pair */
};

int qgen_create(struct qgen **out, const struct qgen_conf *c, struct err *e);
void qgen_destroy(struct qgen *g);
/* Negotiate and start all rings. */
int qgen_connect(struct qgen *g, struct err *e);
/* Send every flow once each way, and then until so many frames were received. Those that were sent and
 * not received are lost. */
int qgen_run(struct qgen *g, uint64_t frames, struct qgen_sum *out, struct err *e);
/* From any thread: all of the above return -EINTR soon. */
void qgen_stop(struct qgen *g);

#endif
