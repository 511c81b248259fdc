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

/*
 * The move that relieves the most loaded worker that any move can relieve: *which of q goes to the
 * least loaded worker, *to.  Relieved means that neither of the two is then as loaded as the one was,
 * by BALANCE_LEAST; so with steady loads the same queue is not moved back.  False: none.
 */
bool balance_next(const struct balance_queue *q, unsigned n, unsigned n_workers, unsigned *which,
                  unsigned *to);

#endif
