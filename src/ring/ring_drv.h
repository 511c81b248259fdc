/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtqueue, seen from the driver side: buffers are added, published, and come back used.
 * For front-ends (bench, virtio-user like ports) and for testing the device side against.
 *
 * A chain, named by its head descriptor, is in one of three states:
 *
 *         add                   reap (device used it)
 *   free ------> posted ------------------------------> held ---> free     release
 *                  ^                                      |
 *                  +--------------------------------------+       repost: same buffers again
 *
 * Added and reposted chains are not seen by the device before ring_drv_publish().  ring_drv_repost()
 * is why held exists: in the split layout, whoever always posts the same buffers never writes a
 * descriptor twice, and with a device that completes in order not even an avail entry changes, so its
 * cache lines stay shared.  In the packed layout the descriptors of a chain are written each time it
 * is posted, from a private table of the same form as the split layout's; in the split layout too if
 * setup.rewrite is set, with their avail entries: that is what a driver does that knows no buffer in
 * advance.
 *
 * Distrust.  The device may write anything anywhere in the ring.  What the driver needs to know it
 * keeps in private memory (struct ring_drv_slot); a used entry is read once and checked: the id is
 * in range and posted, and no more bytes were written than there was room for.  A wrong one breaks
 * the ring: nothing more is reaped until ring_drv_init().
 *
 * Orderings, the mirror of the device's (docs/memory-model.md):
 *   descriptors, avail->ring[], then avail->idx           D1: store release
 *   used->idx, then used->ring[], payload                 D2: load acquire
 *   used_event / avail->flags, fence, then used->idx      D4: or a signal is lost
 *   avail->idx, fence, then avail_event / used->flags     D3: or a kick is lost
 * and Q1, Q2, Q4, Q3 in the packed layout, where the flags of a descriptor stand for the indices.
 *
 * Layouts: as on the device side, callers pass the layout as a constant first argument.
 *
 * Threads: one user at a time.
 */
#ifndef RING_RING_DRV_H
#define RING_RING_DRV_H

#include <errno.h>

#include "base/compiler.h"
#include "ring/ring.h"
#include "ring/vring.h"

#define RING_DRV_NONE 0xffff

enum ring_drv_state { RING_DRV_FREE, RING_DRV_INNER, RING_DRV_POSTED, RING_DRV_HELD };

/* What the device did wrong. Sticky in ring_drv.broken. */
#define RING_DRV_FAULTS(X)                                                                         \
    X(NONE, "no fault")                                                                            \
    X(USED_JUMP, "it used more than what was posted")                                              \
    X(USED_ID, "a used entry names a chain that was not posted")                                   \
    X(USED_LEN, "a used entry claims more bytes than the buffer has")
enum ring_drv_fault {
#define RING_DRV_FAULT_ENUM(sym, text) RING_DRV_FAULT_##sym,
    RING_DRV_FAULTS(RING_DRV_FAULT_ENUM)
#undef RING_DRV_FAULT_ENUM
        RING_DRV_N_FAULTS
};
const char *ring_drv_fault_text(enum ring_drv_fault f);

/* Private knowledge about one descriptor; complete for heads, `next` for all. */
struct ring_drv_slot {
    void *token;   /* the caller's, given back by reap */
    uint32_t room; /* writable bytes of the chain */
    uint16_t next; /* next descriptor of this chain, or RING_DRV_NONE */
    uint8_t state; /* enum ring_drv_state */
    uint8_t pad;
};
static_assert(sizeof(struct ring_drv_slot) == 8 + sizeof(void *), "four per cache line, or five");

/* One chain that came back. */
struct ring_drv_used {
    void *token;
    uint32_t len; /* bytes written by the device; 0 for a chain without writable buffers */
    uint16_t id;
};

struct ring_drv {
    union {
        struct vring_desc *desc;         /* split: descriptor table */
        struct vring_packed_desc *pdesc; /* packed: descriptor ring */
    };
    union {
        struct vring_avail *avail; /* driver area */
        struct vring_packed_event *driver_event;
    };
    union {
        struct vring_used *used; /* device area */
        struct vring_packed_event *device_event;
    };
    struct vring_desc *table;   /* [num] chains, linked by `next`; private, or desc itself */
    struct ring_drv_slot *slot; /* [num] */
    uint16_t *free;             /* ring of free descriptors, oldest first */
    uint32_t num, free_mask;    /* free_mask + 1: entries of free[]; num, if that is a power of two */
    bool event_idx;
    uint8_t broken; /* enum ring_drv_fault */
    uint8_t layout; /* enum ring_layout */

    uint16_t avail_idx; /* next avail entry to write; packed: chains posted so far */
    uint16_t published; /* avail->idx as the device sees it */
    uint16_t used_idx;  /* next used entry to look at; packed: chains used so far */
    uint16_t used_seen; /* used->idx when last read */
    uint16_t free_head, free_tail;
    bool armed; /* the device was asked to signal */

    struct ring_drv_packed {
        uint16_t at, used_at;     /* next slot to write, next to look at */
        bool wrap, used_wrap;     /* laps that they are in */
        uint16_t first;           /* slot of the first chain that is not published */
        uint16_t first_flags;     /* ... and what its flags will be */
        uint16_t fresh;           /* slots that are written and not published */
        uint16_t out;             /* slots that are published and not used */
    } packed;
};

struct ring_drv_setup {
    enum ring_layout layout;
    void *mem;      /* ring_drv_bytes(num), zeroed by ring_drv_init; 16-byte aligned */
    uint32_t num;   /* <= 32768; split: a power of two */
    uint16_t base;  /* as in struct ring_setup; ring_drv_fresh() for a fresh ring */
    bool event_idx; /* VIRTIO_F_EVENT_IDX negotiated */
    bool rewrite;   /* split: write descriptors and avail entries each time a chain is posted */
};

static inline uint16_t ring_drv_fresh(enum ring_layout l)
{
    return l == RING_PACKED ? VRING_PACKED_WRAP : 0;
}

/* Where the parts lie in one block of memory: each starts on a cache line of its own.  The packed
 * layout has its event words, the driver's and the device's, where split has avail and used. */
static inline uint64_t ring_drv_avail_at(uint32_t num)
{
    return (vring_desc_bytes(num) + 63) & ~63ull;
}
static inline uint64_t ring_drv_used_at(uint32_t num)
{
    return (ring_drv_avail_at(num) + vring_avail_bytes(num) + 63) & ~63ull;
}
static inline uint64_t ring_drv_bytes(uint32_t num)
{
    return (ring_drv_used_at(num) + vring_used_bytes(num) + 63) & ~63ull;
}

/* All descriptors free, no signals wanted. -ENOMEM or -EINVAL. */
int ring_drv_init(struct ring_drv *r, const struct ring_drv_setup *s);
/* Frees the private part; the ring memory is the caller's. */
void ring_drv_fini(struct ring_drv *r);

/* Where the device is, in the form of ring_setup.base: behind the last chain that it used. */
uint16_t ring_drv_base(const struct ring_drv *r);
/* Can it be there? */
bool ring_drv_base_ok(const struct ring_drv *r, uint16_t base);

/* Descriptors that can still be added. */
static ALWAYS_INLINE uint32_t ring_drv_n_free(const struct ring_drv *r)
{
    return (uint16_t)(r->free_tail - r->free_head);
}
/* Avail entries that the device has and did not use yet, as far as it was looked. */
static ALWAYS_INLINE uint32_t ring_drv_n_posted(const struct ring_drv *r)
{
    return (uint16_t)(r->avail_idx - r->used_idx);
}

static ALWAYS_INLINE uint16_t drv_take_free(struct ring_drv *r)
{
    return r->free[r->free_head++ & r->free_mask];
}

/* Check one used entry and make its chain held; false if it is wrong. */
static ALWAYS_INLINE bool drv_take_used(struct ring_drv *r, uint32_t id, uint32_t len,
                                        struct ring_drv_used *out)
{
    struct ring_drv_slot *s;

    if (unlikely(id >= r->num || r->slot[id].state != RING_DRV_POSTED)) {
        r->broken = RING_DRV_FAULT_USED_ID;
        return false;
    }
    s = &r->slot[id];
    if (unlikely(len > s->room)) {
        if (s->room) {
            r->broken = RING_DRV_FAULT_USED_LEN;
            return false;
        }
        len = 0; /* nothing could be written; some devices tell the length that they read */
    }
    s->state = RING_DRV_HELD;
    out->token = s->token;
    out->len = len;
    out->id = (uint16_t)id;
    return true;
}

#include "ring/ring_drv_packed.h"
#include "ring/ring_drv_split.h"

/* The next chain that the device gets is id. */
static ALWAYS_INLINE void drv_offer(const enum ring_layout l, struct ring_drv *r, uint16_t id)
{
    if (l == RING_PACKED) {
        packed_drv_offer(r, id);
    } else {
        split_drv_offer(r, id);
    }
}

/*
 * Make a chain, held: n_out segments that the device reads, then n_in that it writes (n_out + n_in
 * >= 1).  addr in a segment is guest-physical.  To be sent with ring_drv_repost() when wanted.
 * Returns the chain's id, or -ENOSPC.
 */
static ALWAYS_INLINE int ring_drv_prepare(struct ring_drv *r, const struct ring_seg *seg,
                                          uint32_t n_out, uint32_t n_in, void *token)
{
    const uint32_t n = n_out + n_in;
    uint32_t room = 0;

    if (unlikely(!n || n > ring_drv_n_free(r))) {
        return -ENOSPC;
    }
    uint16_t head = drv_take_free(r), id = head;
    for (uint32_t i = 0; i < n; i++) {
        uint16_t flags = i < n_out ? 0 : VRING_DESC_F_WRITE;
        uint16_t next = RING_DRV_NONE;

        if (i + 1 < n) {
            next = drv_take_free(r);
            flags |= VRING_DESC_F_NEXT;
            r->slot[next].state = RING_DRV_INNER;
        }
        room += i < n_out ? 0 : seg[i].len;
        r->table[id] = (struct vring_desc){
            .addr = seg[i].addr, .len = seg[i].len, .flags = flags, .next = next};
        r->slot[id].next = next;
        id = next;
    }
    r->slot[head].token = token;
    r->slot[head].room = room;
    r->slot[head].state = RING_DRV_HELD;
    return head;
}

/* The same, and post it. */
static ALWAYS_INLINE int ring_drv_add(const enum ring_layout l, struct ring_drv *r,
                                      const struct ring_seg *seg, uint32_t n_out, uint32_t n_in,
                                      void *token)
{
    int head = ring_drv_prepare(r, seg, n_out, n_in, token);

    if (likely(head >= 0)) {
        drv_offer(l, r, (uint16_t)head);
    }
    return head;
}

/*
 * The same through an indirect table (INDIRECT_DESC negotiated): table has n_out + n_in entries of
 * 16 bytes, is at table_addr for the device, and stays the chain's until it is released.
 */
static ALWAYS_INLINE int ring_drv_add_indirect(const enum ring_layout l, struct ring_drv *r,
                                               struct vring_desc *table, uint64_t table_addr,
                                               const struct ring_seg *seg, uint32_t n_out,
                                               uint32_t n_in, void *token)
{
    const uint32_t n = n_out + n_in;
    uint32_t room = 0;

    if (unlikely(!n || n > RING_MAX_SEGS || !ring_drv_n_free(r))) {
        return -ENOSPC;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint16_t flags = i < n_out ? 0 : VRING_DESC_F_WRITE;

        room += i < n_out ? 0 : seg[i].len;
        if (l == RING_PACKED) {
            ((struct vring_packed_desc *)table)[i] =
                (struct vring_packed_desc){.addr = seg[i].addr, .len = seg[i].len, .flags = flags};
            continue;
        }
        flags |= i + 1 < n ? VRING_DESC_F_NEXT : 0;
        table[i] = (struct vring_desc){
            .addr = seg[i].addr, .len = seg[i].len, .flags = flags, .next = (uint16_t)(i + 1)};
    }
    uint16_t head = drv_take_free(r);
    r->table[head] = (struct vring_desc){.addr = table_addr,
                                        .len = n * (uint32_t)sizeof(struct vring_desc),
                                        .flags = VRING_DESC_F_INDIRECT};
    r->slot[head] = (struct ring_drv_slot){.token = token, .room = room, .next = RING_DRV_NONE};
    drv_offer(l, r, head);
    return head;
}

/* Post a held chain again, buffers unchanged. */
static ALWAYS_INLINE void ring_drv_repost(const enum ring_layout l, struct ring_drv *r, uint16_t id)
{
    assert(r->slot[id].state == RING_DRV_HELD);
    drv_offer(l, r, id);
}

/* Change the length of the only segment of a held chain (a transmit buffer with another frame). */
static ALWAYS_INLINE void ring_drv_resize(struct ring_drv *r, uint16_t id, uint32_t len)
{
    write_once(&r->table[id].len, len);
}

/* A held chain becomes free. */
static ALWAYS_INLINE void ring_drv_release(struct ring_drv *r, uint16_t id)
{
    assert(r->slot[id].state == RING_DRV_HELD);
    do {
        uint16_t next = r->slot[id].next;

        r->slot[id].state = RING_DRV_FREE;
        r->free[r->free_tail++ & r->free_mask] = id;
        id = next;
    } while (id != RING_DRV_NONE);
}

/* Show the device what was added since (D1, Q1). True if it asked to be kicked (D3, Q3 inside). */
static ALWAYS_INLINE bool ring_drv_publish(const enum ring_layout l, struct ring_drv *r)
{
    return l == RING_PACKED ? packed_drv_publish(r) : split_drv_publish(r);
}

/* Up to max used chains, oldest first; they are held afterwards. 0 also when the ring is broken. */
static ALWAYS_INLINE uint32_t ring_drv_reap(const enum ring_layout l, struct ring_drv *r,
                                            struct ring_drv_used *out, uint32_t max)
{
    return l == RING_PACKED ? packed_drv_reap(r, out, max) : split_drv_reap(r, out, max);
}

/* How many can be reaped now, as far as the next max tell; reaping that many does not look again.
 */
static ALWAYS_INLINE uint32_t ring_drv_pending(const enum ring_layout l, struct ring_drv *r,
                                               uint32_t max)
{
    return l == RING_PACKED ? packed_drv_have(r, max) : split_drv_have(r, max);
}

/*
 * Reap and repost up to max chains in one pass, for whoever needs neither contents nor tokens. With
 * a device that completes in order nothing is written and only the ring itself is read.  Adds the
 * written bytes to *bytes; bytes may be NULL on a transmit ring.
 */
static ALWAYS_INLINE uint32_t ring_drv_recycle(const enum ring_layout l, struct ring_drv *r,
                                               uint32_t max, uint64_t *bytes)
{
    return l == RING_PACKED ? packed_drv_recycle(r, max, bytes) : split_drv_recycle(r, max, bytes);
}

/* Something to reap? Reads the shared index once. */
static ALWAYS_INLINE bool ring_drv_more(const enum ring_layout l, const struct ring_drv *r)
{
    return l == RING_PACKED ? packed_drv_more(r) : split_drv_more(r);
}

/* Ask to be signalled at the next used entry; true if there is one already, then do not sleep. */
static ALWAYS_INLINE bool ring_drv_arm(const enum ring_layout l, struct ring_drv *r)
{
    return l == RING_PACKED ? packed_drv_arm(r) : split_drv_arm(r);
}

/* Signals are not needed. */
static ALWAYS_INLINE void ring_drv_disarm(const enum ring_layout l, struct ring_drv *r)
{
    if (l == RING_PACKED) {
        packed_drv_disarm(r);
    } else {
        split_drv_disarm(r);
    }
}

#endif
