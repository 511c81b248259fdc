/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare bound: a process that moves frames between two rings with the ring code and the copy
 * routine of the switch and does nothing else: no header snapshot, no parsing, no lookup, no
 * counters, no sleep.  What the switch is slower than this is what switching costs.
 */
#ifndef BENCH_LIMIT_H
#define BENCH_LIMIT_H

#include <sys/types.h>

#include "bench/gen.h"

/* Fork it, pinned on cpu (-1: not). g was started with gen_start_local(). It ends with its parent.
 */
int limit_start(struct gen *g, int cpu, pid_t *pid, struct err *e);

#endif
