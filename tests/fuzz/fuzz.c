/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <pthread.h>
#include <stdbool.h>

static struct {
    uint8_t *p;
    uint32_t len, hot;
} victim;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *mutator(void *arg)
{
    uint32_t x = 1;

    (void)arg;
    for (;;) {
        pthread_mutex_lock(&lock);
        for (int i = 0; i < 64 && victim.p; i++) {
            x = x * 1664525u + 1013904223u;
            uint32_t n = x & 64 || !victim.hot ? victim.len : victim.hot;
            __atomic_store_n(&victim.p[(x >> 8) % n], (uint8_t)(x >> 24), __ATOMIC_RELAXED);
        }
        pthread_mutex_unlock(&lock);
        for (volatile int i = 0; i < 200; i++) {
        }
    }
    return NULL;
}

void set_victim(uint8_t *p, uint32_t len, uint32_t hot)
{
    static bool started;

    if (p && !started) {
        pthread_t t;

        started = true;
        CHECK(!pthread_create(&t, NULL, mutator, NULL), "a thread can be made");
    }
    pthread_mutex_lock(&lock);
    victim.p = p;
    victim.len = len;
    victim.hot = hot;
    pthread_mutex_unlock(&lock);
}

void fill(uint8_t *out, uint32_t n, const uint8_t *image, size_t n_image, size_t from)
{
    for (uint32_t at = 0; at < n; at++) {
        out[at] = n_image ? image[(at + from) % n_image] : 0;
    }
}
