/* SPDX-License-Identifier: Apache-2.0 */
/* The part of the bare bound that is compiled once per machine level (base/cpu.h). */
#ifndef BENCH_LIMIT_HOT_H
#define BENCH_LIMIT_HOT_H

#include "base/cpu.h"
#include "mem/gmem.h"
#include "ring/ring.h"

struct path {
    struct ring from, to;
    struct gmem *from_mem, *to_mem;
};

struct limit {
    unsigned n;
    bool mergeable; /* one frame in several receive buffers */
    struct path *path;
    struct ring_burst in, out;
};

/* One burst on each path; the number of frames. */
#define LIMIT_DECLARE(level) uint32_t limit_round_##level(struct limit *l);
HOT_FOR_LEVELS(LIMIT_DECLARE)
#undef LIMIT_DECLARE

#endif
