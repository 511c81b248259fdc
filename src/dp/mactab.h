/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MAC table: which port is an address behind.  One table per switch, shared by its bridges.
 *
 * Why this is more than a hash table
 *  - Any number of workers look up while any of them learns, so readers take no lock: a bucket is
 *    one cache line with a sequence count; a reader that saw it change reads again.
 *  - A guest can send from a million addresses.  Each port has a limit (default: half of the
 *    table).  At its limit a port's NEW addresses are not learnt (their traffic floods, counted as
 *    limited); it never displaces an address of another port.  When the table itself is full, the
 *    same holds for everybody, until entries age out.
 *  - Stations move.  An address seen on another port of its bridge moves there at once, unless it is
 *    static.  A move counts against the new port's limit.
 *  - Refreshing an entry must not dirty its cache line per frame: the age stamp has one-second
 *    resolution and is written when it differs.
 *
 * Key: 48 bits of address and 16 bits of fid (the bridge, or the bridge and the VLAN).
 * Threads: lookup and learn from any worker between two quiescent states; the rest on the control
 * thread, any time.
 */
#ifndef DP_MACTAB_H
#define DP_MACTAB_H

#include "base/compiler.h"

#define MACTAB_DEFAULT_SIZE 131072
#define MACTAB_MISS 0xffff

struct mactab;

struct mac_entry {
    uint64_t key;
    uint16_t port;
    bool is_static;
    uint16_t age; /* seconds since seen */
};

/* size: entries it can hold at least (rounded up); NULL when out of memory. */
struct mactab *mactab_create(uint32_t size);
void mactab_destroy(struct mactab *t);

static ALWAYS_INLINE uint64_t mac_key(const uint8_t mac[6], uint16_t fid)
{
    return (uint64_t)mac[0] | (uint64_t)mac[1] << 8 | (uint64_t)mac[2] << 16 |
           (uint64_t)mac[3] << 24 | (uint64_t)mac[4] << 32 | (uint64_t)mac[5] << 40 |
           (uint64_t)fid << 48;
}

/* Control thread: limit of learnt addresses behind a port (default size / 2). */
void mactab_set_limit(struct mactab *t, uint16_t port, uint32_t limit);
uint32_t mactab_limit(const struct mactab *t, uint16_t port);
/* Control thread, once a second: the stamp that learn() writes. */
void mactab_set_now(struct mactab *t, uint16_t seconds);
/* Control thread: forget learnt entries not seen for more than max_age(arg, fid) seconds; looks at
 * max_buckets buckets at most per call, going round. Returns how many were forgotten. */
uint32_t mactab_age(struct mactab *t, uint16_t (*max_age)(void *arg, uint16_t fid), void *arg,
                    uint32_t max_buckets);
/* Forget entries of a port (PORT_NONE: all) and a fid (-1: all); static ones only if asked. */
uint32_t mactab_flush(struct mactab *t, uint16_t port, int fid, bool statics);
/* Forget entries that match; fn holds up those who learn, so it is quick. */
uint32_t mactab_forget(struct mactab *t, bool (*fn)(void *arg, const struct mac_entry *m), void *arg);
/* Control thread: learn as if a frame had come (RARP). */
void mactab_seen(struct mactab *t, uint64_t key, uint16_t port);
/* Static entry. 0, -EEXIST (on another port), -ENOSPC. */
int mactab_add_static(struct mactab *t, uint64_t key, uint16_t port);
/* 0 or -ENOENT; removes learnt ones too. */
int mactab_del(struct mactab *t, uint64_t key);
/* Entries of a port now. */
uint32_t mactab_count(const struct mactab *t, uint16_t port);
uint32_t mactab_total(const struct mactab *t);
uint32_t mactab_size(const struct mactab *t);
uint32_t mactab_buckets(const struct mactab *t);
uint64_t mactab_limited(const struct mactab *t, uint16_t port); /* addresses refused so far */
uint64_t mactab_moves(const struct mactab *t);
/* Walk all entries (a consistent copy of each bucket). */
void mactab_each(const struct mactab *t, void (*fn)(void *, const struct mac_entry *), void *arg);

/* Hot: inline in mactab_hot.h, included by dp/bridge.c only. */

#endif
