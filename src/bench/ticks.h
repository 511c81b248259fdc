/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A clock that costs a few nanoseconds, for stamping single frames.  Any thread.
 */
#ifndef BENCH_TICKS_H
#define BENCH_TICKS_H

#include <time.h>

#include "base/compiler.h"

#if defined(__x86_64__)
static inline uint64_t ticks(void)
{
    return __builtin_ia32_rdtsc();
}
#else
static inline uint64_t ticks(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
#endif

/* Ticks per nanosecond; measured once, takes 20 ms then. */
double ticks_per_ns(void);

#endif
