/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Store buffering: the two notification races of a virtqueue, that of the dirty log, and that of a
 * capture, on the real code.
 *
 *   race 1, "signal"        driver                     device
 *                           arm: write used_event      commit: write used->idx
 *                           D4                         S3
 *                           look at used->idx          look at used_event
 *
 *   race 2, "kick"          driver                     device
 *                           publish: write avail->idx  arm: write avail_event
 *                           D3                         S4
 *                           look at avail_event        look at avail->idx
 *
 * (Packed: the flags of a descriptor stand for the indices, and the fences are Q4, S3, Q3, P4.)
 *
 *   race 3, "log"           front-end                  device
 *                           take the bits (exchange)   write a page
 *                           (the exchange is a fence)  S5
 *                           read the page              look at its bit: set already, leave it
 *
 * The bit is set at the start of each round; it is lost if the front-end read the page as it was and
 * finds no bit in the log afterwards: nobody would copy that page again.
 *
 *   race 4, "capture"       consumer                   worker
 *                           arm: write waiting         publish: write head
 *                           CR3                        S3, that of its round
 *                           look at head               look at waiting
 *
 * Each round both sides do their half at the same moment.  If both looks miss the other's write, one
 * side sleeps and the other does not wake it: the round is lost, for ever.  With both fences no round
 * may be lost.  Built with one fence taken away (RING_WEAKEN,
 * ORDER_WEAKEN), a round must get lost sooner or later;
 * how soon is up to the machine, so the program then runs until it happens or the time is over.
 *
 * usage: sb signal|kick|log|capture [rounds]  exit status 0 as expected, 1 not, 77 cannot be tried here
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/order.h"
#include "port/capture_ring.h"
#include "ring/ring.h"
#include "ring/ring_drv.h"

#ifndef L
#define L RING_SPLIT /* or RING_PACKED: the same races, over flags in place of indices */
#endif
#define NUM 8u
#if defined(__x86_64__)
#define AHEAD 800 /* ticks from "go" to the start: a cache line must get across meanwhile */
#define SPREAD 400
#else
#define AHEAD 20
#define SPREAD 8
#endif
/* Rounds are cheap, but not on a machine whose CPUs are busy elsewhere. */
#define WEAK    (RING_WEAKEN || ORDER_WEAKEN)
#define SECONDS (WEAK ? 40 : 10)

static struct ring_drv drv;
static struct ring dev;
static struct ring_burst burst;
static uint8_t mem[4096] __attribute__((aligned(4096)));
static enum { SIGNAL, KICK, LOG, CAPTURE } race;
static const char *const race_name[] = {"signal", "kick", "log", "capture"};
static struct capture_mem captures = CAPTURE_MEM_NONE;
static struct capture_out out;
static struct capture_reader reader;
static uint32_t page CACHE_ALIGNED; /* the page that is written: one word of it */
static uint8_t bits[CACHE_LINE] CACHE_ALIGNED;
static struct ring_log dirty = {.payload = true};
static uint32_t wanted;

/* One cache line each: the round that may start, and what each side saw. */
static struct {
    uint32_t go CACHE_ALIGNED;
    uint64_t when; /* the moment at which round `go` starts, in ticks */
    uint32_t done CACHE_ALIGNED;
    bool device_saw CACHE_ALIGNED;
    uint32_t stop;
} s;

static cpu_set_t allowed; /* CPUs of this process, before anybody is pinned */

/* Run on the nth CPU that is allowed. */
static void pin(int nth)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (CPU_ISSET(i, &allowed) && nth-- == 0) {
            CPU_SET(i, &one);
            sched_setaffinity(0, sizeof(one), &one);
            return;
        }
    }
}

/* A clock that both CPUs share, to start both halves within some tens of cycles of each other. */
static uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t t;

    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
    return t;
#else
    return 0;
#endif
}

/* Who is first, and by how much, varies with the round. */
static void start_at(uint64_t when, uint32_t round, uint32_t side)
{
    when += (round * 2654435761u >> (side ? 8 : 20)) % SPREAD;
    while ((int64_t)(ticks() - when) < 0) {
    }
}

static void wait_until(const uint32_t *word, uint32_t value)
{
    for (uint32_t spins = 0; load_acquire(word) != value; spins++) {
        if (spins > 20000) { /* the other side lost its CPU */
            sched_yield();
            spins = 0;
        }
        if (load_acquire(&s.stop)) {
            return;
        }
    }
}

static bool device_half(uint32_t round)
{
    static const struct ring_burst one = {.n = 1, .chain = {{.seg = {.len = sizeof(page)}, .n_seg = 1}}};
    const uint32_t len = sizeof(page);

    if (race == LOG) {
        write_once(&page, round);
        ring_log_payload(&dirty, &one, 0, 1, &len);
        return false; /* the log says it: nobody_knows() */
    }
    if (race == CAPTURE) {
        out.head += 8;
        capture_publish(&out);
        fence_full(); /* S3, as in finish_round() */
        return capture_wants_signal(captures.head);
    }
    return race == KICK ? ring_dev_arm(L, &dev) : ring_dev_commit(L, &dev, &burst, 1, NULL);
}

static bool driver_half(uint32_t round)
{
    if (race == LOG) {
        __atomic_exchange_n(&bits[0], 0, __ATOMIC_SEQ_CST);
        return read_once(&page) == round;
    }
    if (race == CAPTURE) {
        return capture_arm(&reader);
    }
    return race == KICK ? ring_drv_publish(L, &drv) : ring_drv_arm(L, &drv);
}

/* Both halves are over: is the round lost? */
static bool nobody_knows(bool driver_saw)
{
    bool marked = race == LOG && bits[0];

    bits[0] = 1;
    if (race == CAPTURE) {
        capture_disarm(&reader);
        reader.tail[0] = out.head; /* it has taken all */
    }
    return !driver_saw && !s.device_saw && !marked;
}

static void *device(void *arg)
{
    (void)arg;
    pin(1);
    for (uint32_t round = 1;; round++) {
        if (race == SIGNAL) {
            ring_dev_peek(L, &dev, &burst, 1); /* the chain of this round */
        }
        store_release(&s.done, 2 * round - 1); /* ready */
        wait_until(&s.go, round);
        if (load_acquire(&s.stop)) {
            return NULL;
        }
        start_at(s.when, round, 1);
        s.device_saw = device_half(round);
        store_release(&s.done, 2 * round);
        wait_until(&s.go, round | 0x80000000u); /* the driver has prepared the next round */
        if (race == KICK) { /* take what was published; not armed any more */
            ring_dev_disarm(L, &dev);
            ring_dev_peek(L, &dev, &burst, 1);
            ring_dev_commit(L, &dev, &burst, 1, NULL);
        }
    }
}

static void post(void)
{
    struct ring_seg seg = {.addr = 0x1000, .len = 64};

    ring_drv_add(L, &drv, &seg, 1, 0, NULL);
}

static void clean_up(void)
{
    struct ring_drv_used u[NUM];
    uint32_t n = ring_drv_reap(L, &drv, u, NUM);

    for (uint32_t i = 0; i < n; i++) {
        ring_drv_release(&drv, u[i].id);
    }
}

static uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec;
}

static uint32_t rounds(uint32_t max, uint32_t *lost)
{
    uint64_t end = now() + SECONDS;
    uint32_t round;

    for (round = 1; round <= max; round++) {
        if (race == KICK) {
            post();
        }
        wait_until(&s.done, 2 * round - 1);
        s.when = ticks() + AHEAD;
        store_release(&s.go, round);
        start_at(s.when, round, 0);
        bool saw = driver_half(round);
        wait_until(&s.done, 2 * round);
        *lost += nobody_knows(saw);
        if (race == SIGNAL) {
            ring_drv_disarm(L, &drv);
            clean_up();
            post();
            ring_drv_publish(L, &drv);
        }
        if (*lost >= wanted || ((round & 1023) == 0 && now() > end)) {
            break;
        }
        store_release(&s.go, round | 0x80000000u);
        if (race == KICK) {
            wait_until(&s.done, 2 * round + 1);
            clean_up();
        }
    }
    store_release(&s.stop, 1);
    return MIN(round, max);
}

static bool litmus(bool event_idx, uint32_t max, uint32_t *lost)
{
    struct ring_drv_setup ds = {.mem = mem, .num = NUM, .event_idx = event_idx,
                                .layout = L, .base = ring_drv_fresh(L)};
    pthread_t t;

    if (ring_drv_init(&drv, &ds)) {
        abort();
    }
    struct ring_setup rs = {.desc = drv.desc, .avail = drv.avail, .used = drv.used, .num = NUM,
                            .layout = L, .base = ds.base, .event_idx = event_idx, .indirect = true,
                            .mem = gmem_local(mem, 0, sizeof(mem))};
    ring_init(&dev, &rs);
    dev.signalled_valid = true; /* no free signal for a fresh ring */
    ring_dev_disarm(L, &dev);
    memset(&s, 0, sizeof(s));
    page = 0;
    bits[0] = 1;
    dirty.map = gmem_local(bits, 0, sizeof(bits));
    if (race == SIGNAL) {
        post();
        ring_drv_publish(L, &drv);
    } else if (race == CAPTURE) {
        if (capture_mem_create(&captures, 1, CAPTURE_RING_MIN, NULL) ||
            capture_reader_init(&reader, captures.head, captures.bytes, NULL)) {
            abort();
        }
        capture_out_init(&out, &captures, 0);
    }
    if (pthread_create(&t, NULL, device, NULL)) {
        abort();
    }
    uint32_t n = rounds(max, lost);
    pthread_join(t, NULL);
    ring_drv_fini(&drv);
    capture_mem_free(&captures);
    gmem_free((struct gmem *)rs.mem);
    gmem_free((struct gmem *)dirty.map);
    printf("%s, %s, %s: %u lost in %u rounds\n", L == RING_PACKED ? "packed" : "split",
           race_name[race], event_idx ? "event index" : "flags", *lost, n);
    return *lost != 0;
}

int main(int argc, char **argv)
{
    uint32_t max = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 0) : 400000, lost[2] = {0};

    if (argc < 2) {
        fprintf(stderr, "usage: sb signal|kick|log|capture [rounds]\n");
        return 2;
    }
    race = SIGNAL;
    for (unsigned i = 0; i < ARRAY_SIZE(race_name); i++) {
        race = strcmp(argv[1], race_name[i]) ? race : i;
    }
    if (sched_getaffinity(0, sizeof(allowed), &allowed) || CPU_COUNT(&allowed) < 2) {
        printf("skipped: the race needs two CPUs, this process may use one\n");
        return 77;
    }
    pin(0);
    wanted = WEAK ? 1 : UINT32_MAX;
    if (WEAK) {
        max = 0x7ffffff0;
    }
    bool any = litmus(true, max, &lost[0]);
    if (!WEAK || !any) {
        any |= litmus(false, max, &lost[1]);
    }
    if (WEAK && !any) {
        printf("skipped: without the fence no round was lost in %d seconds; the two threads were "
               "never on two CPUs at once, or this CPU does not reorder\n", SECONDS);
        return 77;
    }
    return any == WEAK ? 0 : 1;
}
