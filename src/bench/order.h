/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A switch and two front-ends with several queue pairs in one process (bench/queues.h), and queues
 * that change workers all the time: is the order within each flow kept?
 */
#ifndef BENCH_ORDER_H
#define BENCH_ORDER_H

#include "bench/queues.h"

#define ORDER_RING 256 /* ring size with one_thread; all queues of a side have so much under way */

struct order_conf {
    unsigned queues, workers;
    uint64_t frames;
    unsigned balance_ms; /* how often queues move; 0: never */
    unsigned shift_ms;   /* how often the load does, see struct qgen_conf */
    const volatile bool *interrupted; /* set by a signal handler; NULL: none */
    bool one_thread;     /* switch and generator in turn: no speed, but instructions to be counted */
};

struct order_sum {
    struct qgen_sum gen;
    uint64_t moves;  /* of queues from worker to worker, because of their load */
    uint64_t pushes; /* and by hand */
    uint32_t most;   /* one_thread: frames that one round of all workers took */
};

int order_run(const struct order_conf *c, struct order_sum *out, struct err *e);
/* Prints one line and what is wrong. The exit status: nothing wrong, nothing on another ring. */
int order_report(const struct order_conf *c, const struct order_sum *s);

#endif
