/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MAC table's layout and its two hot operations, inline.  Included by dp/mactab.c and
 * dp/bridge.c only; dp/mactab.h says what the table promises.
 *
 * A bucket is one cache line with five entries.  An address lives in one of two buckets that its
 * hash names; the first one unless that was full.  With half of the slots in use at most (see
 * mactab_create) practically every address is in its first bucket: one line per lookup.
 *
 * Readers: sequence count before and after (MT1, MT2 in docs/memory-model.md); an odd or changed
 * count means a writer was there, read again, a few times; then it counts as a miss (the frame
 * floods).  So a reader never waits for a writer that was scheduled away.
 * Writers: one at a time, under mactab.lock; a worker that does not get it at once does not learn
 * from this frame.  There will be another.
 */
#ifndef DP_MACTAB_HOT_H
#define DP_MACTAB_HOT_H

#include "base/compiler.h"
#include "dp/mactab.h"
#include "port/port.h"

#define BUCKET_SLOTS 5
#define SEEN_STATIC 0xffff /* in seen[]: never ages, never moves */
#define READ_RETRIES 16

struct mac_bucket {
    uint32_t seq; /* odd while a writer is inside */
    uint16_t port[BUCKET_SLOTS];
    uint16_t seen[BUCKET_SLOTS]; /* second, modulo 65535, or SEEN_STATIC */
    uint64_t key[BUCKET_SLOTS];  /* 0: free (fid 0 is never used) */
} CACHE_ALIGNED;
static_assert(sizeof(struct mac_bucket) == CACHE_LINE, "a lookup touches one line");

struct mactab {
    struct mac_bucket *bucket;
    uint64_t seed;
    uint32_t mask;
    uint32_t size;
    uint16_t now;
    uint32_t lock CACHE_ALIGNED;
    uint32_t total;
    bool walked;     /* under the lock: entries stay in their buckets, see mactab_forget() */
    uint32_t age_at; /* where the ageing walk goes on */
    uint64_t moves;
    struct {
        uint32_t n, limit;
        uint64_t limited;
    } port[PORT_MAX];
};

struct mac_hash {
    uint32_t first, second; /* bucket numbers */
};

static ALWAYS_INLINE struct mac_hash mac_hash(const struct mactab *t, uint64_t key)
{
    uint64_t h = (key ^ t->seed) * 0x9e3779b97f4a7c15ull;

    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93ull;
    h ^= h >> 29;
    return (struct mac_hash){(uint32_t)h & t->mask, (uint32_t)(h >> 32) & t->mask};
}

struct mac_found {
    uint16_t port; /* MACTAB_MISS if the address is not there */
    uint16_t seen;
};

static ALWAYS_INLINE struct mac_found bucket_find(const struct mac_bucket *b, uint64_t key)
{
    for (unsigned tries = 0; tries < READ_RETRIES; tries++) {
        uint32_t seq = load_acquire(&b->seq); /* MT1 */
        struct mac_found f = {MACTAB_MISS, 0};
        uint32_t hit = 0;

        /* All slots, without a branch: which one it is cannot be predicted. */
        for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
            hit |= (uint32_t)(read_once(&b->key[i]) == key) << i;
        }
        if (likely(hit)) {
            unsigned i = (unsigned)__builtin_ctz(hit);

            f = (struct mac_found){read_once(&b->port[i]), read_once(&b->seen[i])};
        }
        __atomic_thread_fence(__ATOMIC_ACQUIRE); /* MT2 */
        if (likely(read_once(&b->seq) == seq && !(seq & 1))) {
            return f;
        }
        cpu_relax();
    }
    return (struct mac_found){MACTAB_MISS, 0};
}

static ALWAYS_INLINE void mactab_prefetch(const struct mactab *t, struct mac_hash h)
{
    __builtin_prefetch(&t->bucket[h.first]);
}

static ALWAYS_INLINE struct mac_found mactab_find(const struct mactab *t, uint64_t key,
                                                  struct mac_hash h)
{
    struct mac_found f = bucket_find(&t->bucket[h.first], key);

    if (unlikely(f.port == MACTAB_MISS)) {
        f = bucket_find(&t->bucket[h.second], key);
    }
    return f;
}

void mactab_learn_slow(struct mactab *t, uint64_t key, struct mac_hash h, uint16_t port);

/* The address was seen on this port now. */
static ALWAYS_INLINE void mactab_learn(struct mactab *t, uint64_t key, struct mac_hash h,
                                       uint16_t port)
{
    struct mac_found f = mactab_find(t, key, h);

    if (likely(f.port == port && (f.seen == read_once(&t->now) || f.seen == SEEN_STATIC))) {
        return;
    }
    if (f.seen == SEEN_STATIC && f.port != MACTAB_MISS) {
        return;
    }
    mactab_learn_slow(t, key, h, port);
}

#endif
