/* SPDX-License-Identifier: Apache-2.0 */
#include "dp/balance.h"

#include "port/port.h"

bool balance_next(const struct balance_queue *q, unsigned n, unsigned n_workers, unsigned *which,
                  unsigned *to)
{
    double sum[WORKER_MAX] = {0}, best_load = 0, best_gain = 0;
    unsigned idlest = 0;

    for (unsigned i = 0; i < n; i++) {
        sum[q[i].worker] += q[i].load;
    }
    for (unsigned w = 1; w < n_workers; w++) {
        idlest = sum[w] < sum[idlest] ? w : idlest;
    }
    for (unsigned i = 0; i < n; i++) {
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
