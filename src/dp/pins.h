/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which queue of a port stays on which worker, as the user writes it: "0:1+3:0" is queue 0 on worker
 * 1 and queue 3 on worker 0; "none" is nothing.
 */
#ifndef DP_PINS_H
#define DP_PINS_H

#include "base/err.h"

#define PINS_QUEUES 128 /* queues of a port that can be pinned: 0..127 */
#define PINS_NONE "none"

/* Syntax, and that no queue is named twice. */
int pins_check(const char *pins, struct err *e);
/* The worker that a queue stays on, -1: any. pins was checked, or is NULL. */
int pins_find(const char *pins, unsigned queue);
/* The highest worker that is named, -1: none. */
int pins_max_worker(const char *pins);
/* The same text with this queue on this worker (-1: on any). malloc'ed, NULL: out of memory. */
char *pins_with(const char *pins, unsigned queue, int worker);

#endif
