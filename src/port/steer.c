/* SPDX-License-Identifier: Apache-2.0 */
#include "port/steer.h"

#include <stdlib.h>
#include <string.h>

static_assert(sizeof(uint64_t[STEER_WAYS]) == CACHE_LINE, "a bucket is a cache line");

/* An entry: hash in bits 0-31, queue in 32-39, seconds in 40-55, bit 63 set. */
#define USED (1ull << 63)

static uint16_t steer_now;

static uint64_t entry(uint32_t hash, uint8_t queue, uint16_t seconds)
{
    return USED | (uint64_t)seconds << 40 | (uint64_t)queue << 32 | hash;
}

static bool is_for(uint64_t e, uint32_t hash)
{
    return (e & USED) && (uint32_t)e == hash;
}

static bool is_old(uint64_t e, uint16_t now)
{
    return !(e & USED) || (uint16_t)(now - (uint16_t)(e >> 40)) >= STEER_KEEP_S;
}

struct steer *steer_create(void)
{
    struct steer *s = aligned_alloc(CACHE_LINE, sizeof(*s));

    if (s) {
        memset(s, 0, sizeof(*s));
    }
    return s;
}

void steer_destroy(struct steer *s)
{
    free(s);
}

void steer_set_now(uint16_t seconds)
{
    write_once(&steer_now, seconds);
}

void steer_learn(struct steer *s, uint32_t hash, uint8_t queue)
{
    uint64_t *bucket = s->entry[hash % STEER_BUCKETS], *room = NULL;
    uint16_t now = read_once(&steer_now);
    uint64_t fresh = entry(hash, queue, now);

    for (unsigned i = 0; i < STEER_WAYS; i++) {
        uint64_t e = read_once(&bucket[i]);

        if (is_for(e, hash)) {
            if (e != fresh) {
                write_once(&bucket[i], fresh);
            }
            return;
        }
        if (!room && is_old(e, now)) {
            room = &bucket[i];
        }
    }
    if (room) {
        write_once(room, fresh);
    }
}

int steer_find(const struct steer *s, uint32_t hash)
{
    const uint64_t *bucket = s->entry[hash % STEER_BUCKETS];

    for (unsigned i = 0; i < STEER_WAYS; i++) {
        uint64_t e = read_once(&bucket[i]);

        if (is_for(e, hash)) {
            return (uint8_t)(e >> 32);
        }
    }
    return -1;
}
