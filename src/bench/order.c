/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main thread is the switch's control thread, the generator has one of its own; with one_thread
 * it has that only while it negotiates, and then runs the workers itself.
 */
#include "bench/order.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "dp/dp.h"

#define NUM_THREADS 4096 /* ring size; large, since all threads share few CPUs and each sleeps long */

struct order {
    struct order_conf c;
    struct event_base *base;
    struct dp *dp;
    struct qgen *gen;
    struct order_sum sum;
    struct err e;
    int result;
    bool connected, done;
    uint64_t pushed_ns; /* when queues were moved by hand last */
    uint32_t random;
    char dir[64];
    char *path[2];
};

static void turn(void *arg)
{
    struct order *o = arg;

    uint32_t frames = dp_run_once(o->dp);

    o->sum.most = MAX(o->sum.most, frames);
}

static void *connect_all(void *arg)
{
    struct order *o = arg;

    o->result = qgen_connect(o->gen, &o->e);
    __atomic_store_n(&o->connected, true, __ATOMIC_RELEASE);
    return NULL;
}

static void *connect_and_run(void *arg)
{
    struct order *o = arg;

    connect_all(o);
    if (!o->result) {
        o->result = qgen_run(o->gen, o->c.frames, &o->sum.gen, &o->e);
    }
    __atomic_store_n(&o->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* Load alone may find the workers even for a while: a queue of each worker is moved by hand as well, to
 * the next one. */
static void push_queues(struct order *o)
{
    struct rxq *q[2 * QGEN_MAX_QUEUES];

    for (unsigned w = 0; w < o->c.workers; w++) {
        unsigned n = dp_worker_queues(o->dp, w, q, ARRAY_SIZE(q));
        struct err e;

        o->random = o->random * 1664525u + 1013904223u;
        struct rxq *one = n ? q[(o->random >> 8) % n] : NULL;
        if (one && (dp_queue_pin(o->dp, one->port->name, one->queue,
                                 (int)((w + 1) % o->c.workers), &e) ||
                    dp_queue_pin(o->dp, one->port->name, one->queue, -1, &e))) {
            fprintf(stderr, "ringway bench: %s\n", e.text);
        }
        o->sum.pushes += one != NULL;
    }
}

/* Be the control thread until *flag is set. */
static void control(struct order *o, const bool *flag)
{
    while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE)) {
        event_base_loop(o->base, EVLOOP_NONBLOCK);
        if (o->c.balance_ms && o->c.workers > 1 &&
            clock_ns() - o->pushed_ns > o->c.balance_ms * 1000000ull) {
            o->pushed_ns = clock_ns();
            push_queues(o);
        }
        if (o->c.interrupted && *o->c.interrupted) {
            qgen_stop(o->gen);
        }
        usleep(200);
    }
}

static int add_port(struct order *o, unsigned i)
{
    struct port_conf c;
    char name[16];

    snprintf(name, sizeof(name), "p%u", i);
    if (asprintf(&o->path[i], "%s/%s.sock", o->dir, name) < 0) {
        o->path[i] = NULL;
        return err_set(&o->e, -ENOMEM, "no memory");
    }
    int r = port_conf_parse(&c, name, &o->e);
    r = r ? r : dp_port_add(o->dp, &c, &o->e);
    port_conf_free(&c);
    return r;
}

static int set_up(struct order *o)
{
    struct dp_conf dc = {.evbase = o->base,
                         .rundir = o->dir,
                         .n_workers = o->c.workers,
                         .balance_ms = o->c.balance_ms,
                         .no_threads = o->c.one_thread};
    struct qgen_conf gc = {.path = (const char *const *)o->path,
                           .queues = o->c.queues,
                           .num = o->c.one_thread ? ORDER_RING : NUM_THREADS,
                           .shift_ms = o->c.shift_ms,
                           .timeout_ms = 60000,
                           .turn = o->c.one_thread ? turn : NULL,
                           .turn_ctx = o};
    int r = dp_create(&o->dp, &dc, &o->e);

    r = r ? r : add_port(o, 0);
    r = r ? r : add_port(o, 1);
    return r ? r : qgen_create(&o->gen, &gc, &o->e);
}

static int run_in_turn(struct order *o)
{
    pthread_t t;

    /* The front-ends block while they negotiate, and this thread has to answer them. */
    if (pthread_create(&t, NULL, connect_all, o)) {
        return err_set(&o->e, -EAGAIN, "cannot start a thread");
    }
    control(o, &o->connected);
    pthread_join(t, NULL);
    return o->result ? o->result : qgen_run(o->gen, o->c.frames, &o->sum.gen, &o->e);
}

static int run_in_threads(struct order *o)
{
    pthread_t t;

    if (pthread_create(&t, NULL, connect_and_run, o)) {
        return err_set(&o->e, -EAGAIN, "cannot start a thread");
    }
    control(o, &o->done);
    pthread_join(t, NULL);
    return o->result;
}

int order_run(const struct order_conf *c, struct order_sum *out, struct err *e)
{
    struct order o = {.c = *c, .dir = "/tmp/ringway-bench-XXXXXX"};

    if (!mkdtemp(o.dir)) {
        return err_set(e, -errno, "cannot make a directory in /tmp: %s", strerror(errno));
    }
    o.base = event_base_new();
    int r = o.base ? set_up(&o) : err_set(&o.e, -ENOMEM, "cannot make an event loop");
    r = r ? r : c->one_thread ? run_in_turn(&o) : run_in_threads(&o);
    o.sum.moves = o.dp ? dp_moves(o.dp) : 0;
    *out = o.sum;
    qgen_destroy(o.gen);
    dp_destroy(o.dp);
    if (o.base) {
        event_base_free(o.base);
    }
    free(o.path[0]);
    free(o.path[1]);
    rmdir(o.dir);
    if (r) {
        *e = o.e;
    }
    return r;
}

int order_report(const struct order_conf *c, const struct order_sum *s)
{
    const struct qgen_sum *g = &s->gen;
    uint64_t lost = g->sent - MIN(g->sent, g->received);
    bool empty = false;

    printf("frames %llu lost %llu bad %llu wrong order %llu wrong ring %llu, %u queues, %u workers, "
           "%llu moves by load and %llu by hand, %.1f s\n",
           (unsigned long long)g->received, (unsigned long long)lost,
           (unsigned long long)g->bad_frame, (unsigned long long)g->bad_order,
           (unsigned long long)g->bad_ring, c->queues, c->workers, (unsigned long long)s->moves,
           (unsigned long long)s->pushes, g->seconds);
    for (unsigned i = 0; i < 2 * c->queues; i++) {
        empty |= !g->ring[i & 1][i / 2];
    }
    if (empty) {
        printf("a receive ring got no frame at all\n");
    }
    return g->bad_frame || g->bad_order || g->bad_ring || empty ? 1 : 0;
}
