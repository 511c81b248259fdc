/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports that asked for the control thread: a bit each, set by any thread, taken by that one.  What was
 * written before a port was set is seen by who took it (EV in docs/memory-model.md).
 */
#ifndef DP_POSTED_H
#define DP_POSTED_H

#include "base/compiler.h"
#include "base/order.h"
#include "port/port.h"

#define POSTED_WORDS (PORT_MAX / 64)

struct posted {
    uint64_t bits[POSTED_WORDS];
};

/* False: it was set already. */
static inline bool posted_set(struct posted *p, uint16_t id)
{
    uint64_t bit = 1ull << (id % 64);

    return !(ordered_fetch_or(EV, &p->bits[id / 64], bit) & bit);
}

/* The ports 64 * k .. 64 * k + 63 that were set. */
static inline uint64_t posted_take(struct posted *p, unsigned k)
{
    return ordered_exchange(EV, &p->bits[k], (uint64_t)0);
}

#endif
