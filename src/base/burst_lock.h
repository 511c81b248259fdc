/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lock of a ring that several workers write: held for one burst, so spinning is right.
 *
 * On x86 it is a full fence, and would wait for every store of the burst before: a ring with one writer
 * goes without (shared is false).
 */
#ifndef BASE_BURST_LOCK_H
#define BASE_BURST_LOCK_H

#include <sched.h>

#include "base/compiler.h"
#include "base/order.h"

static ALWAYS_INLINE void burst_lock(uint32_t *lock, bool shared)
{
    while (shared && unlikely(ordered_exchange(LK, lock, 1u))) {
        for (unsigned n = 0; read_once(lock); n++) {
            if (n < 1000) {
                cpu_relax();
            } else {
                sched_yield(); /* its holder may have lost this very CPU */
            }
        }
    }
}

static ALWAYS_INLINE void burst_unlock(uint32_t *lock, bool shared)
{
    if (shared) {
        ordered_store(LK, lock, 0u);
    }
}

#endif
