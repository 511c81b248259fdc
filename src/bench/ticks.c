/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/ticks.h"

static uint64_t mono_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

double ticks_per_ns(void)
{
    static double known;

    if (known == 0) {
        uint64_t n0 = mono_ns(), t0 = ticks(), n1 = n0;

        while (n1 - n0 < 20000000) {
            n1 = mono_ns();
        }
        known = (double)(ticks() - t0) / (double)(n1 - n0);
    }
    return known;
}
