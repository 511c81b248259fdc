/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Generator and switch in one thread: no speed to be seen, but the same instructions each time.
 * tools/instructions-per-frame runs this under callgrind, which counts inside dp_run_once().
 */
#ifndef BENCH_INPROC_H
#define BENCH_INPROC_H

#include "bench/cases.h"

/* Exit status. Prints "frames N", the frames that the switch moved. */
int inproc_run(const struct subject_def *def, unsigned workers, uint64_t frames);

#endif
