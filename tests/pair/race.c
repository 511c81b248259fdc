/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two threads around what is no virtqueue: a capture ring with its worker and its consumer, the lock
 * of a burst, and a port that asks for the control thread. For ThreadSanitizer, once as it is and once
 * with each ordering taken away (ORDER_WEAKEN, base/order.h).
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/burst_lock.h"
#include "dp/posted.h"
#include "port/capture_ring.h"

#define RECORDS 30000 /* many laps of the smallest ring */
#define TURNS   20000

static struct capture_mem mem = CAPTURE_MEM_NONE;
static uint32_t lock;
static uint64_t counted;

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void *worker(void *arg)
{
    uint8_t room[VNET_HDR_LEN + 200] = {0};
    struct pkt k = {.data = room + VNET_HDR_LEN, .len = 200, .snap_len = 200};
    struct capture_out out;

    capture_out_init(&out, &mem, 0);
    for (uint32_t i = 0; i < RECORDS; i++) {
        struct capture_rec rec = {.dir = CAPTURE_IN, .why = CAPTURE_NO_DROP, .n = 1, .time_ns = i, .cap_len = 200};

        memcpy(room + VNET_HDR_LEN, &i, sizeof(i));
        while (!capture_push(&out, rec, &k, NULL)) {
            capture_publish(&out);
            sched_yield();
        }
        if (i % 7 == 0) {
            capture_publish(&out);
        }
    }
    capture_publish(&out);
    return NULL;
}

static void consume(void)
{
    struct capture_reader r;
    struct err e;

    if (capture_reader_init(&r, mem.head, mem.bytes, &e)) {
        fail(e.text);
    }
    for (uint32_t i = 0; i < RECORDS;) {
        struct capture_rec rec;
        const uint8_t *bytes;
        uint32_t number;
        int rc = capture_peek(&r, &rec, &bytes);

        if (rc < 0) {
            fail("a record is nonsense");
        } else if (!rc) {
            sched_yield();
            continue;
        }
        memcpy(&number, bytes, sizeof(number));
        if (number != i || rec.time_ns != i) {
            fail("a record is not the next one");
        }
        capture_next(&r);
        i++;
    }
}

static void *count(void *arg)
{
    for (unsigned i = 0; i < TURNS; i++) {
        burst_lock(&lock, true);
        counted++;
        burst_unlock(&lock, true);
    }
    return NULL;
}

/* What it found is in `found`; `seen` says that it may find something else. */
static struct posted posted;
static uint32_t found, seen;

static void *find(void *arg)
{
    for (uint32_t i = 1; i <= TURNS; i++) {
        found = i;
        posted_set(&posted, 70);
        while (load_acquire(&seen) != i) {
            sched_yield();
        }
    }
    return NULL;
}

static void look(void)
{
    for (uint32_t i = 1; i <= TURNS; i++) {
        while (!posted_take(&posted, 1)) {
            sched_yield();
        }
        if (found != i) {
            fail("a port was looked at too early");
        }
        store_release(&seen, i);
    }
}

int main(void)
{
    pthread_t t;
    struct err e;

    if (capture_mem_create(&mem, 1, CAPTURE_RING_MIN, &e)) {
        fail(e.text);
    }
    pthread_create(&t, NULL, worker, NULL);
    consume();
    pthread_join(t, NULL);
    capture_mem_free(&mem);
    pthread_create(&t, NULL, count, NULL);
    count(NULL);
    pthread_join(t, NULL);
    if (counted != 2 * TURNS) {
        fail("the lock let two in");
    }
    pthread_create(&t, NULL, find, NULL);
    look();
    pthread_join(t, NULL);
    return 0;
}
