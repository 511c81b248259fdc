/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guests with several queues, three workers, and queues that move between them all the time: every
 * flow keeps its order and its ring.  The same as `ringway bench --order`, short, on the test library;
 * meant for ThreadSanitizer, too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/order.h"
#include "pkt/pkt.h"
#include "port/port_vhost.h"

#ifdef RW_TSAN
#define FRAMES 60000
#else
#define FRAMES 600000
#endif

#define LONG_FRAMES 100000000

/* Both sides flood. One round gives each port four bursts per worker, however many queues it has; and
 * several workers take the lock of a receive ring per burst, not per frame. */
static bool fair_and_cheap(const struct order_conf *c, const struct order_sum *s, uint64_t locks)
{
    bool fair = s->most <= 2 * 4 * MIN(PKT_BURST, ORDER_RING / c->queues) * c->workers;
    bool cheap = c->workers > 1 ? locks && (c->queues > 1 || locks < s->gen.received / 8) : !locks;

    printf("# %u frames in a round at most, %llu locks\n", s->most, (unsigned long long)locks);
    return fair && cheap;
}

int main(void)
{
    const char *env = getenv("RINGWAY_LONG");
    bool many = env && !strcmp(env, "1");
    const struct order_conf runs[] = {
        {.queues = 4, .workers = 3, .frames = many ? LONG_FRAMES : FRAMES,
         .balance_ms = many ? 100 : 10, .shift_ms = many ? 150 : 25},
        {.queues = 4, .workers = 2, .frames = FRAMES, .balance_ms = 10},
        {.queues = 16, .workers = 3, .frames = FRAMES, .balance_ms = 10, .shift_ms = 25},
        {.queues = 1, .workers = 2, .frames = FRAMES, .balance_ms = 10},
        {.queues = 3, .workers = 2, .frames = FRAMES, .one_thread = true},
        {.queues = 1, .workers = 2, .frames = FRAMES, .one_thread = true},
        {.queues = 16, .workers = 1, .frames = FRAMES, .one_thread = true},
    };
    int failed = 0;

    printf("1..%zu\n", ARRAY_SIZE(runs));
    for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
        struct order_sum sum;
        struct err e = {0};
        uint64_t locks = vq_locks_counted;
        int r = order_run(&runs[i], &sum, &e);
        bool ok = !r && !order_report(&runs[i], &sum) && sum.gen.received >= runs[i].frames;

        /* a test in which nothing moved shows nothing */
        ok = ok && (!runs[i].balance_ms || sum.moves + sum.pushes > 1);
        ok = ok && (!runs[i].one_thread ||
                    fair_and_cheap(&runs[i], &sum, vq_locks_counted - locks));
        printf("%s %zu - %u queues, %u workers%s%s\n", ok ? "ok" : "not ok", i + 1, runs[i].queues,
               runs[i].workers, r ? ": " : "", e.text);
        failed |= !ok;
    }
    return failed;
}
