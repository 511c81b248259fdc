/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker: one thread that polls queues and moves frames, and sleeps when there are none.
 *
 *   round:  for each queue of my list:  some bursts of { rx -> bridge -> tx... -> rx_done }
 *           signal the peers that asked for it (one system call for all)
 *           quiescent state
 *   idle:   after poll_ns without a frame: arm every queue, look again (S4), and if there is still
 *           nothing: go offline for RCU and wait in epoll for kicks
 *
 *   In one of SAMPLE_ROUNDS rounds the clock is read before and after each queue's turn: what a queue
 *   costs (rxq.busy_ns) is known closely, and the other rounds do not pay for it.
 *
 * The list of queues is immutable and swapped by the control thread; what a worker read of it (and
 * of the view) is dropped at the quiescent state.  worker_barrier() returns when every worker has
 * passed one.  A worker takes no lock that another thread can hold while it waits for something.
 *
 * Kick eventfds are registered edge-triggered and never read: the peer owns the counter, and a read
 * could block.
 */
#ifndef DP_WORKER_H
#define DP_WORKER_H

#include "base/compiler.h"
#include "base/err.h"
#include "dp/bridge.h"
#include "dp/dp.h"
#include "port/port.h"

struct worker;

struct worker_conf {
    unsigned id;
    int cpu; /* -1: not pinned */
    unsigned poll_us;
    bool no_thread;
    struct view *const *view; /* where the present view is */
    struct mactab *macs;
};

int worker_create(struct worker **out, const struct worker_conf *c, struct err *e);
/* Its queues were detached before. */
void worker_destroy(struct worker *w);

/* Control thread. Add a queue to its list. */
int worker_attach(struct worker *w, struct rxq *q, struct err *e);
/* Remove it; the caller calls worker_barrier() before freeing anything. */
void worker_detach(struct worker *w, struct rxq *q);
/* From the worker that has it to w, with a barrier in between; on failure it stays. */
int worker_move(struct worker *w, struct rxq *q, struct err *e);
/* Returns when no worker holds anything that it read before. Control thread. */
void worker_barrier(void);
int worker_node(const struct worker *w); /* NODE_ANY: not pinned, or there is one only */
unsigned worker_n_queues(const struct worker *w);
struct rxq *worker_queue(const struct worker *w, unsigned i);
void worker_info(const struct worker *w, struct worker_info *out);

/* no_thread workers: one round. Returns frames received. */
uint32_t worker_round(struct worker *w);

#endif
