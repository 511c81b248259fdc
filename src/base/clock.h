/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time.  Everything that ages, backs off or times out asks this clock, so that tests can stop it
 * and move it by hand.  Any thread.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include "base/compiler.h"

/* Nanoseconds of CLOCK_MONOTONIC, or of the virtual clock once clock_stop() was called. */
uint64_t clock_ns(void);

/* Nanoseconds since 1970, for people; it can jump. */
uint64_t clock_wall_ns(void);

/* Tests only: stop the clock at its present value; clock_warp() moves it forward. */
void clock_stop(void);
void clock_warp(uint64_t ns);

#endif
