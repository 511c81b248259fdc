/* SPDX-License-Identifier: Apache-2.0 */
/* `ringway bench`. argv[0] is the word "bench"; returns the exit status. */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

int bench_main(int argc, char **argv);

#endif
