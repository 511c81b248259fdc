/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which queue should another worker poll?  Only the decision, on plain numbers; who measures and who
 * moves is in dp/placement.h.
 */
#ifndef DP_BALANCE_H
#define DP_BALANCE_H

#include "base/compiler.h"

/* A move must relieve a worker by so much of a CPU: below it is noise, and a move is not free. */
#define BALANCE_LEAST 0.05

struct balance_queue {
    double load; /* share of a CPU */
    unsigned worker;
    bool pinned;
};

struct balance_worker {
    unsigned n_queues;
    int node; /* NUMA node, -1: any */
};

/* The worker for a new queue of a port whose memory is on this node (-1: not known): the one with the
 * fewest queues, of those on that node if there are any. */
unsigned balance_first(const struct balance_worker *w, unsigned n_workers, int node);

/*
 * The move that relieves the most loaded worker that any move can relieve: *which of q goes to the
 * least loaded worker on the same NUMA node (node[worker]), *to.  Relieved means that neither of the two is then as loaded as the one was,
 * by BALANCE_LEAST; so with steady loads the same queue is not moved back.  False: none.
 */
bool balance_next(const struct balance_queue *q, unsigned n, const int *node, unsigned n_workers,
                  unsigned *which, unsigned *to);

#endif
