/* SPDX-License-Identifier: Apache-2.0 */
#include "dp/balance.h"

#include "port/port.h"

unsigned balance_first(const struct balance_worker *w, unsigned n_workers, int node)
{
    unsigned best = 0;

    for (unsigned i = 1; i < n_workers; i++) {
        bool near = node < 0 || w[i].node == node, best_near = node < 0 || w[best].node == node;

        if (near != best_near ? near : w[i].n_queues < w[best].n_queues) {
            best = i;
        }
    }
    return best;
}

/* Of the workers on the node of `like`. */
static unsigned idlest_near(const double *sum, const int *node, unsigned n_workers, unsigned like)
{
    unsigned best = like;

    for (unsigned w = 0; w < n_workers; w++) {
        if (node[w] == node[like] && sum[w] < sum[best]) {
            best = w;
        }
    }
    return best;
}

bool balance_next(const struct balance_queue *q, unsigned n, const int *node, unsigned n_workers,
                  unsigned *which, unsigned *to)
{
    double sum[WORKER_MAX] = {0}, best_load = 0, best_gain = 0;

    for (unsigned i = 0; i < n; i++) {
        sum[q[i].worker] += q[i].load;
    }
    for (unsigned i = 0; i < n; i++) {
        unsigned idlest = idlest_near(sum, node, n_workers, q[i].worker);
        double load = sum[q[i].worker];
        double after = MAX(load - q[i].load, sum[idlest] + q[i].load), gain = load - after;

        if (q[i].pinned || gain < BALANCE_LEAST) {
            continue;
        }
        if (load > best_load || (load == best_load && gain > best_gain)) {
            best_load = load;
            best_gain = gain;
            *which = i;
            *to = idlest;
        }
    }
    return best_gain > 0;
}
