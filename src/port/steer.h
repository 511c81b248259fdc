/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which queue does a flow belong to?  A guest with several queues sends a flow on the queue of the
 * CPU that handles it, and wants the answers there (virtio 1.4, "Automatic receive steering in multiqueue mode").  So a port remembers on
 * which queue the guest last sent each flow.
 *
 *   hash --> bucket of STEER_WAYS entries (a cache line): hash | queue | when it was last seen
 *
 * A guest that uses fewer queues than before and whose front-end says nothing of it (only QEMU turns
 * rings off then) gets frames of a flow on the old one until it sends again or the entry is replaced.
 * Forgetting by the clock instead would make every flow that only goes to the guest jump.
 *
 * An entry carries the whole hash, and a live one is not displaced: if two flows shared an entry, the
 * frames of both would jump between queues and overtake each other.  What finds no room stays where
 * the hash alone puts it.  An entry that was not seen for STEER_KEEP_S may be replaced; until then
 * it counts.
 *
 * Threads: an entry is one word, read and written whole (relaxed).  Workers that learn at once may
 * lose one of two entries; the next frame learns it again.  Only a guest's own frames get in here,
 * so a guest that fills it harms itself.
 */
#ifndef PORT_STEER_H
#define PORT_STEER_H

#include "base/compiler.h"

#define STEER_BUCKETS 512 /* a power of two */
#define STEER_WAYS 8
#define STEER_KEEP_S 10

struct steer {
    uint64_t entry[STEER_BUCKETS][STEER_WAYS];
} CACHE_ALIGNED;

struct steer *steer_create(void); /* NULL: out of memory */
void steer_destroy(struct steer *s);
/* Seconds, from the control thread: for all tables of the process. */
void steer_set_now(uint16_t seconds);
/* Worker: the guest has sent this flow on this queue. */
void steer_learn(struct steer *s, uint32_t hash, uint8_t queue);
/* The queue that it last sent this flow on, -1: not known. Any thread. */
int steer_find(const struct steer *s, uint32_t hash);

#endif
