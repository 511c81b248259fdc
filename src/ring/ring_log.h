/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log: which pages of a guest's memory the device wrote, for whoever moves that memory
 * while the guest runs.
 *
 * A bitmap in a file of the front-end: page n of guest-physical memory is bit n % 8 of byte n / 8.
 * The front-end takes bits out and copies those pages; so a bit may be set only when the write that
 * it stands for can be seen (S5, docs/memory-model.md), and with one atomic operation.
 *
 *   payload     the pages that hold the first lens[i] bytes of each chain, before the chains are
 *               published: who sees them used can rely on it
 *   used        used entries and index, or packed descriptors, after the store
 *   event       the word that asks for kicks, after the store
 *
 * Marks are made per burst, from the private copies of its chains: the copy itself knows nothing of
 * a log.  Neighbouring pages are collected into one operation, and none is made for bits that are
 * set already.
 *
 * The peer's numbers are bounded here, once: a page beyond the log is not marked.  Its file can be
 * truncated like guest memory, and the same handler catches that.
 *
 * Threads: marking by whoever may write the ring; the bitmap is shared by all rings of a port.
 * Source: vhost-user "Migration".
 */
#ifndef RING_RING_LOG_H
#define RING_RING_LOG_H

#include "base/compiler.h"
#include "mem/gmem.h"

#define RING_LOG_PAGE_SHIFT 12

struct ring;
struct ring_burst;

/* What one ring logs, and where. Immutable: replaced as a whole (RCU). */
struct ring_log {
    const struct gmem *map; /* its one region is the bitmap; NULL: nothing is logged */
    bool payload;           /* VHOST_F_LOG_ALL */
    bool ring;              /* VHOST_VRING_F_LOG */
    uint64_t used;  /* guest-physical: used ring; packed: descriptor ring. Any value, also wrong ones */
    uint64_t event; /* packed: the device event area */
};

/* The first lens[i] bytes of chains [from, from + n) were written, or may have been. */
void ring_log_payload(const struct ring_log *log, const struct ring_burst *b, uint32_t from,
                      uint32_t n, const uint32_t *lens);
/* ring_dev_publish() of a ring that logs. */
void ring_log_publish(struct ring *r, const struct ring_log *log, const struct ring_burst *b,
                      uint32_t n, const uint32_t *lens);
/* The word that asks the driver for kicks may have been written. */
void ring_log_event(const struct ring *r, const struct ring_log *log);

#endif
