/* SPDX-License-Identifier: Apache-2.0 */
#include "dp/placement.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "dp/balance.h"
#include "dp/pins.h"

#define MAX_MOVES 8 /* at once: each waits for a round of the workers */

/* The worker that this queue is pinned to, NULL: none. */
static struct worker *pinned_to(const struct placement *p, const struct rxq *q)
{
    int w = pins_find(port_conf_get(&q->port->conf, "pin"), q->queue);

    return w >= 0 && (unsigned)w < p->n_workers ? p->worker[w] : NULL;
}

int placement_attach(struct placement *p, struct rxq *q, struct err *e)
{
    struct worker *pinned = pinned_to(p, q);
    struct balance_worker w[WORKER_MAX];

    q->pinned = pinned != NULL;
    for (unsigned i = 0; i < p->n_workers; i++) {
        w[i] = (struct balance_worker){worker_n_queues(p->worker[i]), worker_node(p->worker[i])};
    }
    return worker_attach(pinned ? pinned : p->worker[balance_first(w, p->n_workers, q->port->node)], q,
                         e);
}

void placement_detach(struct placement *p, struct rxq *q)
{
    (void)p;
    if (q->worker) {
        worker_detach(q->worker, q);
    }
}

int placement_check_pins(const struct placement *p, const char *port, const char *pins,
                         struct err *e)
{
    return pins_max_worker(pins) < (int)p->n_workers
               ? 0
               : err_set(e, -EINVAL, "port %s: there is no worker %d; workers are 0 to %u", port,
                         pins_max_worker(pins), p->n_workers - 1);
}

/* All attached queues, and how many. NULL: none, or out of memory. */
static struct rxq **all_queues(const struct placement *p, unsigned *n)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < p->n_workers; i++) {
        sum += worker_n_queues(p->worker[i]);
    }
    struct rxq **q = sum ? malloc(sum * sizeof(struct rxq *)) : NULL;
    *n = 0;
    for (unsigned i = 0; q && i < p->n_workers; i++) {
        for (unsigned k = 0; k < worker_n_queues(p->worker[i]); k++) {
            q[(*n)++] = worker_queue(p->worker[i], k);
        }
    }
    return q;
}

int placement_pin(struct placement *p, const struct port *port, struct err *e)
{
    unsigned n;
    struct rxq **q = all_queues(p, &n);
    int rc = 0;

    for (unsigned i = 0; i < n && !rc; i++) {
        if (q[i]->port == port) {
            struct worker *w = pinned_to(p, q[i]);

            q[i]->pinned = w != NULL;
            rc = w && w != q[i]->worker ? worker_move(w, q[i], e) : 0;
        }
    }
    free(q);
    return rc;
}

void placement_measure(struct placement *p)
{
    uint64_t now = clock_ns(), dt = now - p->measured_ns;
    unsigned n;
    struct rxq **q = all_queues(p, &n);

    for (unsigned i = 0; i < n && dt; i++) {
        uint64_t busy = read_once(&q[i]->busy_ns);
        double load = (double)(busy - q[i]->seen_ns) / (double)dt;

        q[i]->seen_ns = busy;
        q[i]->load = (q[i]->load + MIN(load, 1.0)) / 2; /* a burst is not a load yet */
    }
    free(q);
    p->measured_ns = now;
}

static unsigned number_of(const struct placement *p, const struct worker *w)
{
    unsigned i = 0;

    while (p->worker[i] != w) {
        i++;
    }
    return i;
}

unsigned placement_balance(struct placement *p)
{
    unsigned n, which, to, moves = 0;
    int node[WORKER_MAX];
    struct rxq **q = all_queues(p, &n);
    struct balance_queue *b = q ? malloc(n * sizeof(*b)) : NULL;
    struct err e;

    for (unsigned i = 0; b && i < n; i++) {
        b[i] = (struct balance_queue){q[i]->load, number_of(p, q[i]->worker), q[i]->pinned};
    }
    for (unsigned i = 0; i < p->n_workers; i++) {
        node[i] = worker_node(p->worker[i]);
    }
    while (b && moves < MAX_MOVES && balance_next(b, n, node, p->n_workers, &which, &to)) {
        if (worker_move(p->worker[to], q[which], &e)) {
            log_warn_limited("cannot move queue %s/%u to worker %u: %s", q[which]->port->name,
                             q[which]->queue, to, e.text);
            break;
        }
        log_debug("queue %s/%u (%.0f %%) moves from worker %u to %u", q[which]->port->name,
                  q[which]->queue, 100 * q[which]->load, b[which].worker, to);
        b[which].worker = to;
        moves++;
    }
    p->moves += moves;
    free(b);
    free(q);
    return moves;
}
