/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MAC table's writers: learning, ageing, static entries.  Rules in dp/mactab.h, layout and
 * readers in dp/mactab_hot.h.
 */
#include "dp/mactab.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "dp/mactab_hot.h"

static bool try_lock(struct mactab *t)
{
    return !__atomic_exchange_n(&t->lock, 1, __ATOMIC_ACQUIRE);
}

static void lock(struct mactab *t) /* control thread only: workers never wait */
{
    while (!try_lock(t)) {
        sched_yield();
    }
}

static void unlock(struct mactab *t)
{
    store_release(&t->lock, 0u);
}

/* Between these two, readers of the bucket read again. */
static void write_begin(struct mac_bucket *b)
{
    write_once(&b->seq, b->seq + 1);
    __atomic_thread_fence(__ATOMIC_RELEASE); /* MT2's partner */
}

static void write_end(struct mac_bucket *b)
{
    store_release(&b->seq, b->seq + 1); /* MT1's partner */
}

static void put(struct mac_bucket *b, unsigned i, uint64_t key, uint16_t port, uint16_t seen)
{
    write_begin(b);
    write_once(&b->key[i], key);
    write_once(&b->port[i], port);
    write_once(&b->seen[i], seen);
    write_end(b);
}

static size_t table_bytes(const struct mactab *t)
{
    return ((size_t)t->mask + 1) * sizeof(struct mac_bucket);
}

struct mactab *mactab_create(uint32_t size)
{
    struct mactab *t = aligned_alloc(CACHE_LINE, (sizeof(*t) + 63) / 64 * 64);
    uint32_t n = 1;

    if (!t) {
        return NULL;
    }
    memset(t, 0, sizeof(*t));
    t->size = MAX(size, 16u);
    /* At least twice as many slots as entries: the second bucket is the exception. */
    while ((uint64_t)n * BUCKET_SLOTS < 2ull * t->size) {
        n *= 2;
    }
    t->mask = n - 1;
    t->bucket = mmap(NULL, table_bytes(t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                     0);
    if (t->bucket == MAP_FAILED) {
        free(t);
        return NULL;
    }
    madvise(t->bucket, table_bytes(t), MADV_HUGEPAGE); /* a wish; fewer TLB misses if granted */
    if (getrandom(&t->seed, sizeof(t->seed), 0) != sizeof(t->seed)) {
        t->seed = (uintptr_t)t ^ 0x5bd1e995cafef00dull;
    }
    for (unsigned i = 0; i < PORT_MAX; i++) {
        t->port[i].limit = t->size / 2;
    }
    return t;
}

void mactab_destroy(struct mactab *t)
{
    if (t) {
        munmap(t->bucket, table_bytes(t));
        free(t);
    }
}

/* Under the lock: where is key? NULL if nowhere. */
static struct mac_bucket *locate(struct mactab *t, uint64_t key, struct mac_hash h, unsigned *at)
{
    struct mac_bucket *const pair[2] = {&t->bucket[h.first], &t->bucket[h.second]};

    for (unsigned k = 0; k < 2; k++) {
        for (*at = 0; *at < BUCKET_SLOTS; ++*at) {
            if (pair[k]->key[*at] == key) {
                return pair[k];
            }
        }
    }
    return NULL;
}

static void count_in(struct mactab *t, uint16_t port)
{
    write_once(&t->port[port].n, t->port[port].n + 1);
}

static void count_out(struct mactab *t, uint16_t port)
{
    write_once(&t->port[port].n, t->port[port].n - 1);
}

/* Under the lock: may this port have one more? Counts the refusal. */
static bool room_for(struct mactab *t, uint16_t port)
{
    if (t->port[port].n < read_once(&t->port[port].limit)) {
        return true;
    }
    write_once(&t->port[port].limited, t->port[port].limited + 1);
    return false;
}

/*
 * Both buckets of a new key are full: move one of their entries to its own second bucket.  Written
 * there before it is overwritten here, and readers look here first, so nobody misses it.
 */
static struct mac_bucket *make_room(struct mactab *t, struct mac_hash h, unsigned *at)
{
    const uint32_t pair[2] = {h.first, h.second};

    for (unsigned k = 0; k < 2 && !t->walked; k++) {
        struct mac_bucket *b = &t->bucket[pair[k]];

        for (*at = 0; *at < BUCKET_SLOTS; ++*at) {
            uint64_t key = b->key[*at];
            struct mac_hash own = mac_hash(t, key);
            struct mac_bucket *to = &t->bucket[own.second];

            for (unsigned i = 0; own.first == pair[k] && i < BUCKET_SLOTS; i++) {
                if (!to->key[i]) {
                    put(to, i, key, b->port[*at], b->seen[*at]);
                    return b;
                }
            }
        }
    }
    return NULL;
}

static int insert(struct mactab *t, uint64_t key, struct mac_hash h, uint16_t port, uint16_t seen)
{
    unsigned at;
    struct mac_bucket *b = NULL;

    if (t->total < t->size) {
        b = locate(t, 0, h, &at); /* key 0 marks a free slot */
        b = b ? b : make_room(t, h, &at);
    }
    if (!b) {
        write_once(&t->port[port].limited, t->port[port].limited + 1);
        return -ENOSPC;
    }
    put(b, at, key, port, seen);
    write_once(&t->total, t->total + 1);
    count_in(t, port);
    return 0;
}

static void erase(struct mactab *t, struct mac_bucket *b, unsigned i)
{
    count_out(t, b->port[i]);
    write_once(&t->total, t->total - 1);
    put(b, i, 0, 0, 0);
}

static void move(struct mactab *t, struct mac_bucket *b, unsigned i, uint16_t port, uint16_t seen)
{
    count_out(t, b->port[i]);
    count_in(t, port);
    put(b, i, b->key[i], port, seen);
    write_once(&t->moves, t->moves + 1);
}

/* Under the lock. */
static void learn(struct mactab *t, uint64_t key, struct mac_hash h, uint16_t port)
{
    unsigned at;
    struct mac_bucket *b = locate(t, key, h, &at);
    if (!b) {
        if (room_for(t, port)) {
            insert(t, key, h, port, read_once(&t->now));
        }
    } else if (b->seen[at] == SEEN_STATIC) {
        ; /* a static entry stays where it is */
    } else if (b->port[at] == port) {
        write_once(&b->seen[at], read_once(&t->now));
    } else if (room_for(t, port)) {
        move(t, b, at, port, read_once(&t->now));
    }
}

void mactab_learn_slow(struct mactab *t, uint64_t key, struct mac_hash h, uint16_t port)
{
    if (try_lock(t)) {
        learn(t, key, h, port);
        unlock(t);
    }
}

void mactab_seen(struct mactab *t, uint64_t key, uint16_t port)
{
    lock(t);
    learn(t, key, mac_hash(t, key), port);
    unlock(t);
}

void mactab_set_limit(struct mactab *t, uint16_t port, uint32_t limit)
{
    write_once(&t->port[port].limit, limit);
}

uint32_t mactab_limit(const struct mactab *t, uint16_t port)
{
    return read_once(&t->port[port].limit);
}

void mactab_set_now(struct mactab *t, uint16_t seconds)
{
    write_once(&t->now, (uint16_t)(seconds % SEEN_STATIC));
}

static uint16_t age_of(const struct mactab *t, uint16_t seen)
{
    return seen == SEEN_STATIC ? 0 : (uint16_t)((read_once(&t->now) + SEEN_STATIC - seen) % SEEN_STATIC);
}

uint32_t mactab_age(struct mactab *t, uint16_t (*max_age)(void *arg, uint16_t fid), void *arg,
                    uint32_t max_buckets)
{
    uint32_t forgotten = 0;

    for (uint32_t k = 0; k < MIN(max_buckets, t->mask + 1); k++) {
        struct mac_bucket *b = &t->bucket[t->age_at++ & t->mask];

        for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
            if (!read_once(&b->key[i])) {
                continue;
            }
            lock(t); /* short: a worker that wants to learn meanwhile just does not */
            if (b->key[i] && b->seen[i] != SEEN_STATIC &&
                age_of(t, b->seen[i]) > max_age(arg, (uint16_t)(b->key[i] >> 48))) {
                erase(t, b, i);
                forgotten++;
            }
            unlock(t);
        }
    }
    return forgotten;
}

/* While set, no entry changes its bucket: one that moves behind a walk's back would escape it. */
static void set_walked(struct mactab *t, bool walked)
{
    lock(t);
    t->walked = walked;
    unlock(t);
}

static struct mac_entry entry_at(const struct mactab *t, const struct mac_bucket *b, unsigned i)
{
    return (struct mac_entry){.key = b->key[i],
                              .port = b->port[i],
                              .is_static = b->seen[i] == SEEN_STATIC,
                              .age = age_of(t, b->seen[i])};
}

uint32_t mactab_forget(struct mactab *t, bool (*fn)(void *arg, const struct mac_entry *m), void *arg)
{
    uint32_t n = 0;

    set_walked(t, true);
    for (uint32_t k = 0; k <= t->mask; k++) {
        struct mac_bucket *b = &t->bucket[k];

        for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
            if (!read_once(&b->key[i])) {
                continue;
            }
            lock(t);
            struct mac_entry m = entry_at(t, b, i);
            if (m.key && fn(arg, &m)) {
                erase(t, b, i);
                n++;
            }
            unlock(t);
        }
    }
    set_walked(t, false);
    return n;
}

struct flush {
    uint16_t port;
    int fid;
    bool statics;
};

static bool flushed(void *arg, const struct mac_entry *m)
{
    const struct flush *f = arg;

    return (f->port == PORT_NONE || m->port == f->port) &&
           (f->fid < 0 || m->key >> 48 == (uint64_t)f->fid) && (f->statics || !m->is_static);
}

uint32_t mactab_flush(struct mactab *t, uint16_t port, int fid, bool statics)
{
    return mactab_forget(t, flushed, &(struct flush){port, fid, statics});
}

int mactab_add_static(struct mactab *t, uint64_t key, uint16_t port)
{
    struct mac_hash h = mac_hash(t, key);
    unsigned at;
    int rc = 0;

    lock(t);
    struct mac_bucket *b = locate(t, key, h, &at);
    if (!b) {
        rc = insert(t, key, h, port, SEEN_STATIC);
    } else if (b->seen[at] == SEEN_STATIC && b->port[at] != port) {
        rc = -EEXIST;
    } else if (b->port[at] == port) {
        write_once(&b->seen[at], SEEN_STATIC); /* it stays where it is: no move */
    } else {
        move(t, b, at, port, SEEN_STATIC);
    }
    unlock(t);
    return rc;
}

int mactab_del(struct mactab *t, uint64_t key)
{
    unsigned at;

    lock(t);
    struct mac_bucket *b = locate(t, key, mac_hash(t, key), &at);
    if (b) {
        erase(t, b, at);
    }
    unlock(t);
    return b ? 0 : -ENOENT;
}

uint32_t mactab_count(const struct mactab *t, uint16_t port)
{
    return read_once(&t->port[port].n);
}

uint32_t mactab_total(const struct mactab *t)
{
    return read_once(&t->total);
}

uint32_t mactab_size(const struct mactab *t)
{
    return t->size;
}

uint32_t mactab_buckets(const struct mactab *t)
{
    return t->mask + 1;
}

uint64_t mactab_limited(const struct mactab *t, uint16_t port)
{
    return read_once(&t->port[port].limited);
}

uint64_t mactab_moves(const struct mactab *t)
{
    return read_once(&t->moves);
}

void mactab_each(const struct mactab *t, void (*fn)(void *, const struct mac_entry *), void *arg)
{
    for (uint32_t k = 0; k <= t->mask; k++) {
        const struct mac_bucket *b = &t->bucket[k];
        uint64_t keys[BUCKET_SLOTS];

        for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
            keys[i] = read_once(&b->key[i]);
        }
        for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
            struct mac_found f = keys[i] ? bucket_find(b, keys[i]) : (struct mac_found){MACTAB_MISS, 0};

            if (f.port != MACTAB_MISS) {
                struct mac_entry e = {.key = keys[i],
                                      .port = f.port,
                                      .is_static = f.seen == SEEN_STATIC,
                                      .age = age_of(t, f.seen)};
                fn(arg, &e);
            }
        }
    }
}
