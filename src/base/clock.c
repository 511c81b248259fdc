/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <time.h>

static _Atomic uint64_t virtual_ns; /* 0: the real clock runs */

static uint64_t read_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t clock_ns(void)
{
    uint64_t v = atomic_load_explicit(&virtual_ns, memory_order_relaxed);

    return v ? v : read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_wall_ns(void)
{
    return read_ns(CLOCK_REALTIME);
}

void clock_stop(void)
{
    atomic_store(&virtual_ns, read_ns(CLOCK_MONOTONIC));
}

void clock_warp(uint64_t ns)
{
    assert(atomic_load(&virtual_ns) != 0);
    atomic_fetch_add(&virtual_ns, ns);
}
