/* SPDX-License-Identifier: Apache-2.0 */
#include "dp/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <urcu-qsbr.h>

#include "base/clock.h"
#include "base/evsignal.h"
#include "base/node.h"

#define PORT_BUDGET 4           /* bursts per port and round: nobody waits longer than that */
#define TURN_BYTES (1u << 20)   /* and no more copied than this: floods and jumbo frames count */
#define EVENT_CHECK_ROUNDS 64   /* busy rounds between two looks at event-driven queues */
#define POLLED_SLEEP_MS 1       /* a queue without a kick fd is looked at this often while idle */
#define MAX_EVENTS 64
#define SAMPLE_ROUNDS 61        /* a prime: nothing periodic hides between samples */
#define TURN_NS_MAX 1000000     /* of a sample: what took longer, the CPU was somebody else's */

/* Immutable once published. A worker has two with the same room: what is taken out of one is built in
 * the other, so that taking out needs no memory. */
struct queue_list {
    unsigned n, room;
    unsigned n_event_driven, n_polled; /* polled: no fd to wake us */
    struct rxq *q[];
};

/* Where the time goes. Written by the worker, read by anybody. */
struct worker_stats {
    uint64_t rounds, busy_rounds, frames, sleeps, signals;
    uint64_t busy_ns, idle_ns, sleep_ns;
};

struct worker {
    struct wctx ctx;
    struct worker_conf conf;
    struct queue_list *list; /* RCU */
    struct queue_list *spare; /* control thread's */
    const struct bridge_hot *bridge;
    struct batch *batch;
    struct evsignal *signal;
    int epfd, wakefd;
    int node; /* of its CPU and of its memory */
    pthread_t thread;
    bool stop;
    bool asleep; /* in epoll_wait, or about to; S4's counterpart for the control thread */
    uint64_t poll_ns; /* how long to poll before the next sleep */
    struct worker_stats stats CACHE_ALIGNED;
    uint64_t mark_ns; /* end of the last accounted interval */
    uint64_t mark_rounds, mark_busy;
    uint32_t until_sample; /* rounds */
};

static char rcu_round; /* stands for the ordering that liburcu makes, see HAPPENS_BEFORE */

static void send_signals(struct worker *w)
{
    evsignal_send(w->signal, w->ctx.signals, w->ctx.n_signals);
    write_once(&w->stats.signals, w->stats.signals + w->ctx.n_signals);
    w->ctx.n_signals = 0;
}

/* The end of a round: look once at what every driver wants to be told, and tell them all. */
static void finish_round(struct wctx *c)
{
    struct worker *w = container_of(c, struct worker, ctx);
    uint32_t n = c->n_due;

    c->n_due = 0;
    if (n) {
        fence_full(); /* S3, for all rings of the round */
        for (uint32_t i = 0; i < n; i++) {
            if (c->n_signals == ARRAY_SIZE(c->signals)) {
                send_signals(w);
            }
            c->due[i].fn(c->due[i].arg, c);
        }
    }
    if (c->n_signals) {
        send_signals(w);
    }
}

/* A queue is attached before its port is in the view, and detached after it has left it: meanwhile
 * its frames wait. */
static bool in_view(const struct view *view, const struct rxq *q)
{
    uint16_t id = read_once(&q->port->id);

    return id < PORT_MAX && view->port[id].port == q->port;
}

/* Take what a queue has, within its budget. */
static uint32_t poll_queue(struct worker *w, const struct view *view, struct rxq *q)
{
    uint32_t frames = 0;

    w->ctx.spent = 0;
    for (unsigned i = read_once(&q->bursts); i && w->ctx.spent < TURN_BYTES; i--) {
        struct batch *b = w->batch;

        b->n = 0;
        b->n_spans = 0;
        b->n_loans = 0;
        b->hashed = false;
        uint32_t n = port_ops_of(q->port)->rx(q, b, &w->ctx);
        if (n) {
            w->bridge->forward(view, w->conf.macs, q->port->id, b, &w->ctx);
        }
        uint32_t loans = b->n_loans;
        if (!loans && !n) {
            break;
        }
        port_ops_of(q->port)->rx_done(q, b, &w->ctx);
        frames += loans;
        if (loans < PKT_BURST) {
            break;
        }
    }
    write_once(&q->turns, q->turns + 1);
    if (frames) {
        write_once(&q->busy_turns, q->busy_turns + 1);
        write_once(&q->chains, q->chains + frames);
    }
    return frames;
}

/* The same, and what it took is added to the queue's account. */
static NOINLINE uint32_t sample_queue(struct worker *w, const struct view *view, struct rxq *q)
{
    uint64_t before = clock_ns();
    uint32_t frames = poll_queue(w, view, q);

    if (frames) {
        uint64_t ns = clock_ns() - before;

        write_once(&q->busy_ns, q->busy_ns + MIN(ns, TURN_NS_MAX) * SAMPLE_ROUNDS);
    }
    return frames;
}

/* One turn of each queue. */
static ALWAYS_INLINE uint32_t take_turns(struct worker *w, const bool sample)
{
    const struct queue_list *list = load_acquire(&w->list);
    const struct view *view = load_acquire(w->conf.view);
    uint32_t frames = 0;

    for (unsigned i = 0; i < list->n; i++) {
        struct rxq *q = list->q[i];

        unsigned every = read_once(&q->every);

        if (unlikely(every > 1) && (w->stats.rounds + i) % every) {
            continue;
        }
        if ((!q->event_driven || q->ready) && in_view(view, q)) {
            frames += sample ? sample_queue(w, view, q) : poll_queue(w, view, q);
        }
    }
    return frames;
}

uint32_t worker_round(struct worker *w)
{
    uint32_t frames;

    if (unlikely(!w->until_sample--)) {
        w->until_sample = SAMPLE_ROUNDS - 1;
        frames = take_turns(w, true);
    } else {
        frames = take_turns(w, false);
    }
    finish_round(&w->ctx);
    write_once(&w->stats.rounds, w->stats.rounds + 1);
    if (frames) {
        write_once(&w->stats.busy_rounds, w->stats.busy_rounds + 1);
        write_once(&w->stats.frames, w->stats.frames + frames);
    }
    return frames;
}

/* Split the time since the last mark by the share of busy rounds. */
static void account(struct worker *w, uint64_t now)
{
    struct worker_stats *s = &w->stats;
    uint64_t ns = now - w->mark_ns, rounds = s->rounds - w->mark_rounds;
    uint64_t busy = rounds ? (uint64_t)((double)ns * (double)(s->busy_rounds - w->mark_busy) /
                                        (double)rounds)
                           : 0;

    write_once(&s->busy_ns, s->busy_ns + busy);
    write_once(&s->idle_ns, s->idle_ns + ns - busy);
    w->mark_ns = now;
    w->mark_rounds = s->rounds;
    w->mark_busy = s->busy_rounds;
}

/* Event-driven queues whose fd fired have work. */
static void take_events(const struct queue_list *list, const struct epoll_event *ev, int n)
{
    for (int k = 0; k < n; k++) {
        for (unsigned i = 0; i < list->n; i++) {
            if (list->q[i]->event_driven && list->q[i]->fd == ev[k].data.fd) {
                list->q[i]->ready = true;
            }
        }
    }
}

static void check_events(struct worker *w)
{
    const struct queue_list *list = load_acquire(&w->list);
    struct epoll_event ev[MAX_EVENTS];

    if (list->n_event_driven) {
        take_events(list, ev, epoll_wait(w->epfd, ev, MAX_EVENTS, 0));
    }
}

/* The longer sleeps are, the less polling before them pays; short ones cost more than they save. */
static void adapt_polling(struct worker *w, uint64_t slept_ns)
{
    uint64_t base = (uint64_t)w->conf.poll_us * 1000;

    if (slept_ns < base) {
        w->poll_ns = MIN(w->poll_ns * 2, base * 4);
    } else {
        w->poll_ns = MAX(w->poll_ns / 2, base / 4);
    }
}

static void sleep_until_work(struct worker *w)
{
    const struct queue_list *list = load_acquire(&w->list);
    int timeout = list->n_polled ? POLLED_SLEEP_MS : -1;
    struct epoll_event ev[MAX_EVENTS];
    bool work = false;

    write_once(&w->asleep, true);
    fence_full(); /* W1: "asleep" before the last look at stop and at the list */
    work = load_acquire(&w->list) != list || read_once(&w->stop);
    for (unsigned i = 0; i < list->n; i++) {
        work |= port_ops_of(list->q[i]->port)->arm(list->q[i]);
    }
    uint64_t before = clock_ns(), after = before;
    account(w, before);
    int n = 0;
    if (!work) {
        HAPPENS_BEFORE(&rcu_round);
        urcu_qsbr_thread_offline();
        n = epoll_wait(w->epfd, ev, MAX_EVENTS, timeout);
        urcu_qsbr_thread_online();
        after = clock_ns();
        write_once(&w->stats.sleeps, w->stats.sleeps + 1);
        write_once(&w->stats.sleep_ns, w->stats.sleep_ns + after - before);
        adapt_polling(w, after - before);
    }
    w->mark_ns = after;
    write_once(&w->asleep, false);
    list = load_acquire(&w->list); /* the old one may be gone */
    take_events(list, ev, n);
    for (unsigned i = 0; i < list->n; i++) {
        port_ops_of(list->q[i]->port)->disarm(list->q[i]);
    }
}

static void run(struct worker *w)
{
    uint64_t idle_since = 0;
    unsigned round = 0;

    while (!read_once(&w->stop)) {
        if (++round % EVENT_CHECK_ROUNDS == 0) {
            check_events(w);
        }
        if (worker_round(w)) {
            idle_since = 0;
        } else if (!idle_since) {
            idle_since = clock_ns();
            account(w, idle_since);
        } else if (round % 8 == 0 && clock_ns() - idle_since > w->poll_ns) {
            sleep_until_work(w);
            idle_since = 0;
        } else {
            cpu_relax();
        }
        HAPPENS_BEFORE(&rcu_round);
        urcu_qsbr_quiescent_state();
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;

    urcu_qsbr_register_thread();
    w->mark_ns = clock_ns();
    run(w);
    urcu_qsbr_unregister_thread();
    return NULL;
}

/* ---- control thread ---------------------------------------------------------------------------- */

static void wake(struct worker *w)
{
    uint64_t one = 1;

    fence_full(); /* W1's partner: the change before the look at asleep */
    if (!w->conf.no_thread && read_once(&w->asleep)) {
        /* our own, non-blocking: full means that it is awake already */
        ssize_t r = write(w->wakefd, &one, sizeof(one));
        (void)r;
    }
}

void worker_barrier(void)
{
    urcu_qsbr_synchronize_rcu();
    HAPPENS_AFTER(&rcu_round);
}

static struct queue_list *list_new(unsigned room)
{
    struct queue_list *l = calloc(1, sizeof(*l) + room * sizeof(l->q[0]));

    if (l) {
        l->room = room;
    }
    return l;
}

/* The present queues in the spare list, without q (NULL: with all), and room for `more`. NULL: out of
 * memory, but never if one is taken out and none comes: the spare list held the queues before the
 * last change, so it is at most one too small for the present ones. */
static struct queue_list *list_without(struct worker *w, const struct rxq *q, unsigned more)
{
    const struct queue_list *now = w->list;
    unsigned need = now->n + more - (q != NULL);

    if (w->spare->room < need) {
        struct queue_list *l = list_new(need);

        if (!l) {
            return NULL;
        }
        free(w->spare);
        w->spare = l;
    }
    w->spare->n = 0;
    for (unsigned i = 0; i < now->n; i++) {
        if (now->q[i] != q) {
            w->spare->q[w->spare->n++] = now->q[i];
        }
    }
    return w->spare;
}

/* The queues of a port share what one queue would have: more of them are no more of the worker. */
static void share_budget(const struct queue_list *l, const struct port *port)
{
    unsigned n = 0;

    for (unsigned i = 0; i < l->n; i++) {
        n += l->q[i]->port == port;
    }
    for (unsigned i = 0; n && i < l->n; i++) {
        if (l->q[i]->port == port) {
            write_once(&l->q[i]->bursts, (uint16_t)MAX(PORT_BUDGET / n, 1u));
            write_once(&l->q[i]->every, (uint16_t)((n + PORT_BUDGET - 1) / PORT_BUDGET));
        }
    }
}

/* Have the worker use this list; port: whose queues are others now. */
static void publish(struct worker *w, struct queue_list *l, const struct port *port)
{
    struct queue_list *old = w->list;

    l->n_event_driven = 0;
    l->n_polled = 0;
    for (unsigned i = 0; i < l->n; i++) {
        l->n_event_driven += l->q[i]->event_driven;
        l->n_polled += l->q[i]->fd < 0;
    }
    share_budget(l, port);
    store_release(&w->list, l);
    wake(w);
    worker_barrier();
    w->spare = old;
}

/* Have the queue's fd wake this worker. Edge-triggered: what is readable already is an edge, too. */
static int watch(struct worker *w, struct rxq *q, struct err *e)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.fd = q->fd};

    if (q->fd >= 0 && epoll_ctl(w->epfd, EPOLL_CTL_ADD, q->fd, &ev)) {
        return err_set(e, -errno, "port %s: cannot wait on its fd: %s", q->port->name,
                       strerror(errno));
    }
    return 0;
}

int worker_attach(struct worker *w, struct rxq *q, struct err *e)
{
    struct queue_list *l = list_without(w, NULL, 1);
    int rc = l ? watch(w, q, e) : err_set(e, -ENOMEM, "out of memory");

    if (rc) {
        return rc;
    }
    q->ready = q->event_driven;
    l->q[l->n++] = q;
    q->worker = w;
    publish(w, l, q->port);
    return 0;
}

void worker_detach(struct worker *w, struct rxq *q)
{
    struct queue_list *l = list_without(w, q, 0);

    if (q->fd >= 0) {
        epoll_ctl(w->epfd, EPOLL_CTL_DEL, q->fd, NULL);
    }
    q->worker = NULL;
    publish(w, l, q->port);
}

int worker_move(struct worker *w, struct rxq *q, struct err *e)
{
    struct worker *from = q->worker;
    struct queue_list *without = list_without(from, q, 0);
    struct queue_list *with = list_without(w, NULL, 1);
    int rc = with ? watch(w, q, e) : err_set(e, -ENOMEM, "out of memory");

    if (rc) {
        return rc;
    }
    if (q->fd >= 0) {
        epoll_ctl(from->epfd, EPOLL_CTL_DEL, q->fd, NULL);
    }
    publish(from, without, q->port);
    /* Nobody has it now. The first worker may have slept, and asked for kicks. */
    q->port->ops->disarm(q);
    q->ready = q->event_driven;
    q->worker = w;
    with->q[with->n++] = q;
    publish(w, with, q->port);
    return 0;
}

int worker_node(const struct worker *w)
{
    return w->node;
}

unsigned worker_n_queues(const struct worker *w)
{
    return w->list->n;
}

struct rxq *worker_queue(const struct worker *w, unsigned i)
{
    return w->list->q[i];
}

void worker_info(const struct worker *w, struct worker_info *out)
{
    const struct worker_stats *s = &w->stats;

    *out = (struct worker_info){
        .id = w->conf.id,
        .cpu = w->conf.cpu,
        .node = w->node,
        .n_queues = w->list->n,
        .rounds = read_once(&s->rounds),
        .busy_rounds = read_once(&s->busy_rounds),
        .frames = read_once(&s->frames),
        .sleeps = read_once(&s->sleeps),
        .signals = read_once(&s->signals),
        .busy_ns = read_once(&s->busy_ns),
        .idle_ns = read_once(&s->idle_ns),
        .sleep_ns = read_once(&s->sleep_ns),
        .asleep = read_once(&w->asleep),
    };
}

static int start_thread(struct worker *w, struct err *e)
{
    pthread_attr_t attr;
    cpu_set_t cpus;
    char name[16];
    int rc;

    pthread_attr_init(&attr);
    if (w->conf.cpu >= 0) {
        CPU_ZERO(&cpus);
        CPU_SET(w->conf.cpu, &cpus);
        pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
    }
    rc = pthread_create(&w->thread, &attr, worker_main, w);
    pthread_attr_destroy(&attr);
    if (rc) {
        return err_set(e, -rc, "cannot start worker %u on CPU %d: %s%s", w->conf.id, w->conf.cpu,
                       strerror(rc), rc == EINVAL ? "; is that CPU there and allowed?" : "");
    }
    snprintf(name, sizeof(name), "rw-worker-%u", w->conf.id % 1000);
    pthread_setname_np(w->thread, name);
    return 0;
}

static void worker_free(struct worker *w)
{
    evsignal_destroy(w->signal);
    if (w->epfd >= 0) {
        close(w->epfd);
    }
    if (w->wakefd >= 0) {
        close(w->wakefd);
    }
    free(w->ctx.rx_scratch);
    free(w->ctx.tx_scratch);
    free(w->batch);
    free(w->list);
    free(w->spare);
    free(w);
}

int worker_create(struct worker **out, const struct worker_conf *c, struct err *e)
{
    int node = node_of_cpu(c->cpu);
    struct worker *w = node_alloc(sizeof(*w), node);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
    int rc;

    if (!w) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    w->conf = *c;
    w->bridge = HOT_BEST(bridge_hot);
    w->poll_ns = (uint64_t)c->poll_us * 1000;
    w->ctx = (struct wctx){.id = c->id,
                           .rx_scratch = node_alloc(WCTX_SCRATCH, node),
                           .tx_scratch = node_alloc(WCTX_SCRATCH, node),
                           .flush = finish_round};
    w->batch = node_alloc(sizeof(*w->batch), node);
    w->node = node;
    w->list = list_new(0);
    w->spare = list_new(0);
    w->epfd = epoll_create1(EPOLL_CLOEXEC);
    w->wakefd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    ev.data.fd = w->wakefd;
    rc = evsignal_create(&w->signal, e);
    if (!rc && (!w->ctx.rx_scratch || !w->ctx.tx_scratch || !w->batch || !w->list ||
                !w->spare)) {
        rc = err_set(e, -ENOMEM, "out of memory");
    }
    if (!rc && (w->epfd < 0 || w->wakefd < 0 ||
                epoll_ctl(w->epfd, EPOLL_CTL_ADD, w->wakefd, &ev))) {
        rc = err_set(e, -errno, "worker %u: %s", c->id, strerror(errno));
    }
    if (!rc && !c->no_thread) {
        rc = start_thread(w, e);
    }
    if (rc) {
        worker_free(w);
        return rc;
    }
    *out = w;
    return 0;
}

void worker_destroy(struct worker *w)
{
    if (!w->conf.no_thread) {
        write_once(&w->stop, true);
        wake(w);
        pthread_join(w->thread, NULL);
    }
    worker_free(w);
}
