/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Round trips: the even port of the first pair sends a frame with a time stamp in it, the odd one
 * sends it back at once, the even one looks at the clock.  Both ways through the switch are in it.
 */
#include "bench/gen_int.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct trip {
    struct gen *g;
    struct side *a, *b;
    uint32_t *ns; /* samples */
    uint64_t n, max, sent;
};

static void send_stamp(struct trip *t, struct side *from, struct side *to, uint64_t stamp)
{
    int32_t id = gen_take(t->g, from);

    if (id < 0) {
        return; /* a full ring is the switch's fault; the frame counts as lost */
    }
    uint8_t *p = gen_tx_buf(from, (uint16_t)id) + HDR;
    gen_put_mac(p, to->port, 0);
    gen_put_mac(p + 6, from->port, 0);
    memcpy(p + AT_PATTERN, &stamp, 8);
    gen_send(from, (uint16_t)id);
    gen_publish(from, from->tx);
}

/* What arrived at b goes back, what arrived at a is measured. */
static void bounce(struct trip *t)
{
    struct ring_drv_used u[TURN_MAX];
    uint64_t stamp;
    uint32_t n = ring_drv_reap(t->b->rx->drv.layout, &t->b->rx->drv, u, 32);

    for (uint32_t i = 0; i < n; i++) {
        memcpy(&stamp, (uint8_t *)u[i].token + HDR + AT_PATTERN, 8);
        send_stamp(t, t->b, t->a, stamp);
        ring_drv_repost(t->b->rx->drv.layout, &t->b->rx->drv, u[i].id);
    }
    if (n) {
        gen_publish(t->b, t->b->rx);
    }
    n = ring_drv_reap(t->a->rx->drv.layout, &t->a->rx->drv, u, 32);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(&stamp, (uint8_t *)u[i].token + HDR + AT_PATTERN, 8);
        double ns = (double)(ticks() - stamp) / ticks_per_ns();
        if (t->n < t->max) {
            t->ns[t->n++] = (uint32_t)MIN(ns, 4e9);
        }
        ring_drv_repost(t->a->rx->drv.layout, &t->a->rx->drv, u[i].id);
    }
    if (n) {
        gen_publish(t->a, t->a->rx);
    }
    gen_reap_tx(t->g, t->a);
    gen_reap_tx(t->g, t->b);
    gen_yield(t->g);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void percentiles(struct trip *t, struct gen_latency *out)
{
    *out = (struct gen_latency){.n = t->n, .lost = t->sent - MIN(t->sent, t->n)};
    if (t->n) {
        qsort(t->ns, t->n, sizeof(*t->ns), by_value);
        out->min = t->ns[0];
        out->p50 = t->ns[t->n / 2];
        out->p90 = t->ns[(uint64_t)((double)t->n * 0.9)];
        out->p99 = t->ns[(uint64_t)((double)t->n * 0.99)];
        out->p999 = t->ns[(uint64_t)((double)t->n * 0.999)];
        out->max = t->ns[t->n - 1];
    }
}

static int trip_init(struct trip *t, struct gen *g, uint64_t max, struct err *e)
{
    *t = (struct trip){.g = g, .a = &g->side[0], .b = &g->side[1], .max = max};
    t->ns = calloc(max, sizeof(*t->ns));
    if (!t->ns) {
        return err_set(e, -ENOMEM, "no memory for %llu samples", (unsigned long long)max);
    }
    return gen_drain(g, e);
}

static int trip_end(struct trip *t, struct gen_latency *out, int r, struct err *e)
{
    if (!r) {
        percentiles(t, out);
        r = gen_drain(t->g, e);
    }
    gen_refill(t->g);
    free(t->ns);
    return r;
}

int gen_latency(struct gen *g, double rate, double seconds, struct gen_latency *out, struct err *e)
{
    const double tick = ticks_per_ns();
    const uint64_t gap = (uint64_t)(1e9 * tick / rate), span = (uint64_t)(seconds * 1e9 * tick);
    struct trip t;
    int r = trip_init(&t, g, (uint64_t)(MIN(rate * seconds, 16e6)) + 1, e);

    uint64_t t0 = ticks(), next = t0;
    for (uint64_t now = t0; !r && now - t0 < span + (uint64_t)(1e7 * tick); now = ticks()) {
        if (now >= next && now - t0 < span) {
            t.sent++;
            send_stamp(&t, t.a, t.b, now);
            next += gap;
        }
        bounce(&t);
        r = gen_interrupted ? gen_check(g, e) : 0;
    }
    return trip_end(&t, out, r, e);
}

int gen_sleep_latency(struct gen *g, unsigned idle_ms, unsigned samples, struct gen_latency *out,
                      struct err *e)
{
    const double ms = ticks_per_ns() * 1e6;
    struct trip t;
    int r = trip_init(&t, g, samples, e);

    while (!r && t.sent < samples) {
        uint64_t t0 = ticks(), n = t.n;

        /* The front-ends spin all the time: it is the switch that sleeps. */
        while (ticks() - t0 < (uint64_t)(idle_ms * ms) && !gen_interrupted) {
            cpu_relax();
        }
        t.sent++;
        t0 = ticks();
        send_stamp(&t, t.a, t.b, t0);
        while (t.n == n && ticks() - t0 < (uint64_t)(1000 * ms) && !gen_interrupted) {
            bounce(&t);
        }
        r = gen_check(g, e);
    }
    return trip_end(&t, out, r, e);
}

/* ---- what a wake-up alone costs here ------------------------------------------------------------ */

struct sleeper {
    int efd, epfd, cpu;
    uint64_t asked CACHE_ALIGNED, answered CACHE_ALIGNED;
};

#define SLEEPER_ENDS UINT64_MAX

/* A worker without any work: sleeps as one does, and says that it is awake. */
static void *sleeper_main(void *arg)
{
    struct sleeper *s = arg;
    struct epoll_event ev;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(s->cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    for (uint64_t asked = 0; asked != SLEEPER_ENDS;) {
        if (epoll_wait(s->epfd, &ev, 1, -1) > 0) {
            asked = load_acquire(&s->asked);
            store_release(&s->answered, asked);
        }
    }
    return NULL;
}

static void sleeper_ask(struct sleeper *s, uint64_t n)
{
    uint64_t one = 1;

    store_release(&s->asked, n);
    ssize_t r = write(s->efd, &one, sizeof(one)); /* full: it is awake already */
    (void)r;
}

static void sleeper_sample(struct sleeper *s, unsigned idle_ms, struct trip *t)
{
    const double ms = ticks_per_ns() * 1e6;
    uint64_t t0 = ticks();

    while (ticks() - t0 < (uint64_t)(idle_ms * ms) && !gen_interrupted) {
        cpu_relax();
    }
    t0 = ticks();
    sleeper_ask(s, ++t->sent);
    while (load_acquire(&s->answered) != t->sent && ticks() - t0 < (uint64_t)(1000 * ms)) {
    }
    t->ns[t->n++] = (uint32_t)MIN((double)(ticks() - t0) / ticks_per_ns(), 4e9);
}

int gen_bare_wake(int cpu, unsigned idle_ms, unsigned samples, struct gen_latency *out, struct err *e)
{
    struct sleeper s = {.efd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
                        .epfd = epoll_create1(EPOLL_CLOEXEC),
                        .cpu = cpu};
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
    struct trip t = {.max = samples, .ns = calloc(samples, sizeof(uint32_t))};
    pthread_t thread;
    int r = 0;

    if (!t.ns || s.efd < 0 || s.epfd < 0 || epoll_ctl(s.epfd, EPOLL_CTL_ADD, s.efd, &ev) ||
        pthread_create(&thread, NULL, sleeper_main, &s)) {
        r = err_set(e, -ENOMEM, "no thread, or no memory, for a bare wake-up");
    } else {
        while (t.n < samples && !gen_interrupted) {
            sleeper_sample(&s, idle_ms, &t);
        }
        sleeper_ask(&s, SLEEPER_ENDS);
        pthread_join(thread, NULL);
        percentiles(&t, out);
    }
    close(s.efd);
    close(s.epfd);
    free(t.ns);
    return r;
}
