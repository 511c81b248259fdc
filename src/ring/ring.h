/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtqueue, seen from the device side: chains come in as private copies, used entries go out
 * in bursts.  Nothing above this file sees a descriptor, an avail index or a wrap counter.
 *
 * The cursor.  ringway is an in-order device: it completes chains in the order in which they were
 * made available, so at rest the next avail entry to take and the next used entry to write are the
 * same number, `idx`.  (Packed: the same slot of the ring, and the same lap, `wrap`.)  A burst peeks at chains without moving idx and then commits some of them
 * from the front:
 *
 *      committed          peeked          not looked at yet
 *   ............... | c0 c1 c2 c3 ... | x x x x ............
 *                   ^ idx             ^ idx + burst.n      ^ avail.idx
 *
 *   used.idx == idx at rest;   idx <= idx + burst.n <= avail.idx <= idx + num   (mod 2^16)
 *
 * A driver that makes the last inequality false has corrupted its ring: the ring is broken.  In the
 * packed layout, where no index says how much is there, that is a chain without an end among the
 * slots that can be its own.
 * Nothing needs to be undone when a burst is dropped: peeking changes nothing.
 *
 * Private copies.  Every word of the ring is read exactly once, into struct ring_burst, with one
 * access of its own width, and only the copy is used afterwards.  The addresses in it are still the
 * guest's; they become pointers in gmem_span(), with their length.
 *
 * Faults.  Two kinds, kept apart: a chain that is wrong (loop, bad next, bad indirect table, wrong
 * direction) has chain.fault set, is dropped and completed with length 0; a ring that is wrong
 * (head out of range, avail index jumped) is `broken`: no further access until it is set up again.
 *
 * Layouts.  Each layout implements X_dev_peek, X_dev_publish, X_dev_signal_due, X_dev_arm,
 * X_dev_disarm and X_dev_more with the contracts below, all always-inline.  Hot callers pass the
 * layout as a constant first argument, so one source line serves every layout without an indirect
 * call; others pass ring.layout.
 *
 * Threads: one user at a time (the worker that owns it, or who holds the egress lock). The
 * orderings are named after docs/memory-model.md: S1 S2 S3 S4, P1 P2 P4.
 */
#ifndef RING_RING_H
#define RING_RING_H

#include "base/compiler.h"
#include "mem/gmem.h"
#include "ring/ring_resume.h"
#include "ring/ring_log.h"
#include "ring/vring.h"

enum ring_layout { RING_SPLIT, RING_PACKED };

/* Why a chain or a ring was refused. The order is stable within a build only. */
#define RING_FAULTS(X)                                                                             \
    X(NONE, "no fault")                                                                            \
    X(AVAIL_JUMP, "its available index moved by more than the ring size")                          \
    X(HEAD_RANGE, "an available entry names a descriptor beyond the ring")                         \
    X(NEXT_RANGE, "a descriptor's next field points beyond its table")                             \
    X(CHAIN_LONG, "a descriptor chain is a loop or longer than 1024 segments")                     \
    X(INDIRECT_BAD, "an indirect table is empty, oversized, nested, misaligned or has NEXT set")   \
    X(INDIRECT_UNMAPPED, "an indirect table lies outside its memory")                              \
    X(DIRECTION, "a buffer has the wrong direction for this ring")                                 \
    X(UNMAPPED, "a buffer lies outside its memory")                                                \
    X(CHAIN_END, "a descriptor chain has no end within its ring or within 1024 descriptors")       \
    X(MEMORY_GONE, "its memory file was truncated under the switch")                               \
    X(LOG_GONE, "its dirty log was truncated under the switch")
enum ring_fault {
#define RING_FAULT_ENUM(sym, text) RING_FAULT_##sym,
    RING_FAULTS(RING_FAULT_ENUM)
#undef RING_FAULT_ENUM
    RING_N_FAULTS,
    RING_RETRY = RING_N_FAULTS /* no fault: the chain did not fit behind the others of its burst */
};
const char *ring_fault_text(enum ring_fault f);

#define RING_BURST 64     /* chains per burst at most: a 64 KiB frame in 1.5 KiB buffers is 44 */
#define RING_MAX_SEGS 1024 /* segments per chain, and in the pool of one burst */

/* One segment of a chain: a descriptor, private copy. */
struct ring_seg {
    uint64_t addr; /* guest-physical; not yet translated */
    union {
        struct {
            uint32_t len;
            uint16_t flags; /* as they were; of no meaning above this file */
            union {
                uint16_t next;
                uint16_t slots; /* packed, in ring_chain.seg: ring slots that the chain takes */
            };
        };
        uint64_t len_slots; /* both in one store */
    };
};
#define RING_SLOTS(n) ((uint64_t)(n) << 48)
static_assert(sizeof(struct ring_seg) == sizeof(struct vring_desc), "copied as it is");

struct ring_chain {
    struct ring_seg seg; /* the first segment, and the only one if n_seg == 1 */
    union {
        struct {
            uint16_t id;    /* goes back in the used entry */
            uint16_t n_seg; /* 0 if fault is set */
            uint16_t pool;  /* if n_seg > 1: all segments are burst.pool[pool .. pool + n_seg) */
            uint16_t fault; /* enum ring_fault; the chain is to be committed with length 0 */
        };
        uint64_t meta; /* the four above in one store */
    };
};
static_assert(sizeof(struct ring_chain) == 24, "three words: walked by pointer");
#define RING_META_PLAIN(id) ((uint64_t)(id) + (1ull << 16)) /* one segment, no fault */

struct ring_burst {
    uint32_t n;      /* chains peeked */
    uint32_t n_pool; /* segments taken from the pool */
    struct ring_chain chain[RING_BURST];
    struct ring_seg pool[RING_MAX_SEGS];
};

/* Hot state of a device-side ring: two cache lines, no pointer to anything that allocates. */
struct ring {
    /* read-mostly; changed only while no worker can reach the ring */
    union {
        const struct vring_desc GUEST *desc;     /* split: descriptor table */
        struct vring_packed_desc GUEST *pdesc;   /* packed: descriptor ring */
    };
    union {
        const struct vring_avail GUEST *avail;             /* driver area */
        const struct vring_packed_event GUEST *driver_event;
    };
    union {
        struct vring_used GUEST *used;             /* device area */
        struct vring_packed_event GUEST *device_event;
    };
    const struct gmem *mem; /* replaced by the control thread (RCU); load once per burst */
    uint32_t num;           /* power of two for split */
    bool event_idx;         /* VIRTIO_F_EVENT_IDX negotiated */
    bool indirect;          /* VIRTIO_F_INDIRECT_DESC negotiated */
    bool write;             /* what the device does with buffers: true for a receive ring */
    uint8_t broken;         /* enum ring_fault; sticky until set up again */
    uint8_t layout;         /* enum ring_layout; for those who do not know it as a constant */
    bool on_empty;          /* VIRTIO_F_NOTIFY_ON_EMPTY negotiated */
    uint32_t fault_seq;     /* gmem_fault_seq() when last looked */
    uint64_t *resume;       /* packed: where the position is kept for who comes after us, or NULL */
    const struct ring_log *log; /* NULL: nothing is logged. Replaced by the control thread (RCU) */

    /* written every burst */
    uint16_t idx CACHE_ALIGNED; /* next chain to take == next used entry to write */
    union {
        uint16_t avail_seen; /* split: avail.idx when last read: saves reading the shared line */
        bool wrap;           /* packed: of the lap that idx is in; 1 in the first */
    };
    uint16_t signalled; /* idx at the last look at the driver's suppression state; packed: slots
                           that were used since, at most num */
    bool signalled_valid;       /* false after a start: signal once, whatever the driver says */
    bool armed;                 /* the driver was asked to kick */
    uint32_t hint;              /* gmem region hint of the data buffers */
};

/* Everything that is needed to run a ring; pointers are checked for alignment and length by the
 * caller (vring_*_bytes) and stay mapped until the ring is out of every worker's reach. */
struct ring_setup {
    enum ring_layout layout;
    void *desc, *avail, *used; /* packed: descriptor ring, driver event, device event */
    uint32_t num;
    uint16_t base; /* split: idx; packed: slot < num, and VRING_PACKED_WRAP in the first lap */
    bool event_idx, indirect, write, on_empty;
    const struct gmem *mem;
    uint64_t *resume; /* packed: a word for ring/ring_resume.h, or NULL; as long as the ring */
    const struct ring_log *log; /* NULL: nothing is logged */
};
void ring_init(struct ring *r, const struct ring_setup *s);
/* How many chains (packed: descriptors) the driver made available that are not used yet, at most
 * num. Any thread, for people: it may be wrong while the ring moves. */
uint32_t ring_dev_fill(const struct ring *r);

/* Where it is, in the form of ring_setup.base. */
static inline uint16_t ring_packed_base(const struct ring *r)
{
    return (uint16_t)(r->idx | (r->wrap ? VRING_PACKED_WRAP : 0));
}
static inline uint16_t ring_base(const struct ring *r)
{
    return r->layout == RING_PACKED ? ring_packed_base(r) : r->idx;
}

#include "ring/ring_packed.h"
#include "ring/ring_split.h"

/*
 * Take private copies of up to max (<= RING_BURST) chains, from idx on, without consuming them.
 * Fewer come back when the driver has no more or the segment pool is
 * full; 0 also when the ring is broken (then r->broken says why).
 */
static ALWAYS_INLINE uint32_t ring_dev_peek(const enum ring_layout l, struct ring *r,
                                            struct ring_burst *b, uint32_t max)
{
    return l == RING_PACKED ? packed_dev_peek(r, b, max) : split_dev_peek(r, b, max);
}

/*
 * Complete the first n (> 0) chains of the burst, in order; lens[i] is what was written into chain i
 * (NULL: nothing was written into any, as on a transmit ring).  S2: payload before used entries
 * before the index (P2: before the first one's flags).
 */
static ALWAYS_INLINE void ring_dev_publish(const enum ring_layout l, struct ring *r,
                                           const struct ring_burst *b, uint32_t n,
                                           const uint32_t *lens)
{
    const struct ring_log *log = load_acquire(&r->log);

    if (unlikely(log)) {
        ring_log_publish(r, log, b, n, lens);
    } else if (l == RING_PACKED) {
        packed_dev_publish(r, b, n, lens);
    } else {
        split_dev_publish(r, b, n, lens);
    }
}

/* More chains than idx? Reads the shared index or flags once. For polling and start decisions. */
static ALWAYS_INLINE bool ring_dev_more(const enum ring_layout l, struct ring *r)
{
    return l == RING_PACKED ? packed_dev_more(r) : split_dev_more(r);
}

/*
 * Did the driver ask to be signalled for what was published since the last call?  Between publish
 * and this the caller passes ring_s3_fence(): one fence may serve many bursts and many rings, which
 * is why it is not in here (it waits for every store to reach the other core's cache).
 */
static ALWAYS_INLINE bool ring_dev_signal_due(const enum ring_layout l, struct ring *r)
{
    bool due = l == RING_PACKED ? packed_dev_signal_due(r) : split_dev_signal_due(r);

    return due || (unlikely(r->on_empty) && !ring_dev_more(l, r));
}

/* The three together, for whoever serves one ring. */
static ALWAYS_INLINE bool ring_dev_commit(const enum ring_layout l, struct ring *r,
                                          const struct ring_burst *b, uint32_t n,
                                          const uint32_t *lens)
{
    if (!n) {
        return false;
    }
    ring_dev_publish(l, r, b, n, lens);
    ring_s3_fence();
    return ring_dev_signal_due(l, r);
}

/* Ask the driver to kick; true if chains are there already, then do not sleep (S4, P4
 * inside). */
static ALWAYS_INLINE bool ring_dev_arm(const enum ring_layout l, struct ring *r)
{
    bool work = l == RING_PACKED ? packed_dev_arm(r) : split_dev_arm(r);
    const struct ring_log *log = load_acquire(&r->log);

    if (unlikely(log)) {
        ring_log_event(r, log);
    }
    return work;
}

/* Tell the driver that kicks are not needed. */
static ALWAYS_INLINE void ring_dev_disarm(const enum ring_layout l, struct ring *r)
{
    if (l == RING_PACKED) {
        packed_dev_disarm(r);
    } else {
        split_dev_disarm(r);
    }
    const struct ring_log *log = load_acquire(&r->log);

    if (unlikely(log)) {
        ring_log_event(r, log);
    }
}

#endif
