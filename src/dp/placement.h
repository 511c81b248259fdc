/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which worker polls which queue.
 *
 *   attach    the worker that the queue is pinned to, else the one with the fewest queues, among those
 *             on the NUMA node of the guest's memory if there are any
 *   measure   each worker takes the time of its turns in some of its rounds (rxq.busy_ns); what that
 *             grew by since the last look is the load of a queue, in shares of a CPU
 *   balance   move queues from loaded workers to idle ones (dp/balance.h)
 *
 * Moving reorders no flow.  A worker finishes a burst before it passes its quiescent state: received,
 * decided, written to every receiver, given back.  worker_move() takes the queue out of one list,
 * waits until that worker has passed one, and only then puts it into the other's.  So two bursts of
 * one queue are never under way at the same time, and the second worker's come after the first's in
 * every receiver's ring.
 *
 * Control thread only.
 */
#ifndef DP_PLACEMENT_H
#define DP_PLACEMENT_H

#include "base/compiler.h"
#include "base/err.h"
#include "dp/dp.h"
#include "dp/worker.h"

#define BALANCE_MS_DEFAULT 1000

struct placement {
    struct worker *worker[WORKER_MAX];
    unsigned n_workers;
    uint64_t measured_ns; /* when loads were looked at last */
    uint64_t moves;       /* by placement_balance(), since the start */
};

int placement_attach(struct placement *p, struct rxq *q, struct err *e);
void placement_detach(struct placement *p, struct rxq *q);
/* The port's pins are what its configuration says now: queues go where they belong. */
int placement_pin(struct placement *p, const struct port *port, struct err *e);
/* Refuse pins to workers that are not there. */
int placement_check_pins(const struct placement *p, const char *port, const char *pins,
                         struct err *e);
/* Update rxq.load of all queues. */
void placement_measure(struct placement *p);
/* Move what should be moved by the present loads. Returns how many were. */
unsigned placement_balance(struct placement *p);

#endif
