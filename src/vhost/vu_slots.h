/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The buffers of a queue pair, for those that drive a back-end (port/port_virtio.c, client/client.c).
 *
 * Packet memory (vu_frontend.h) in slots of one run each:
 *
 *     per pair:  | rx slot 0 | rx slot 1 ... | small tx slots ... | large tx slots |
 *
 * Every slot is one descriptor chain for ever.  A receive slot is posted, filled by the back-end, lent,
 * and posted again; a transmit slot is filled, posted, and is free again when it comes back.  Slots do
 * not lie at multiples of 4 KiB, where their first lines would share a few sets of the L1 cache.
 *
 * The back-end may write anywhere in this memory at any time: what lies in a slot is read like a
 * guest's buffer, and which slots are posted is in private memory (ring/ring_drv.h).
 *
 * As in ring_drv.h, callers pass the layout as a constant first argument.
 *
 * Threads: one user of each ring at a time; vu_slots_fill() while neither is used.
 */
#ifndef VHOST_VU_SLOTS_H
#define VHOST_VU_SLOTS_H

#include <string.h>

#include "vhost/vu_frontend.h"
#include "vnet/vnet_hdr.h"

#define VU_SLOT_PAD   64 /* between two slots; keeps their first lines apart */
#define VU_SLOT_SMALL 2048
#define VU_SLOT_FRAME (65535 + 14 + 8) /* the largest frame: an IP datagram, Ethernet, two tags */
#define VU_SLOT_LARGE (VNET_HDR_LEN + VU_SLOT_FRAME + CACHE_LINE) /* any frame */
#define VU_SLOTS_N_LARGE(num) ((num) / 8) /* slots of a transmit ring that hold any frame */
#define VU_SLOTS_MERGE_MAX 40 /* buffers of one frame; 65,557 bytes in 2 KiB are 33 */
#define VU_SLOTS_BURST     64
static_assert((VU_SLOTS_MERGE_MAX - 1) * (VU_SLOT_SMALL - 64) > VU_SLOT_FRAME, "any frame fits");

struct vu_slots {
    struct vu_fe_ring *rx, *tx;
    bool mergeable; /* a frame may take several receive slots */
    uint32_t n_small, n_large;
    uint16_t *small, *large; /* free transmit chains, as stacks */
};

/* Packet memory of one pair. */
uint64_t vu_slots_bytes(uint32_t num);
/* Of queue pair `pair`. 0 or -ENOMEM; vu_slots_fini() in either case. */
int vu_slots_init(struct vu_slots *s, struct vu_fe *fe, unsigned pair, uint32_t num);
void vu_slots_fini(struct vu_slots *s);
/* vu_fe_connect(), without what the slots do not hold, and empty rings. */
int vu_slots_connect(struct vu_fe *fe, struct err *e);
/* Behind it: all receive slots posted, all transmit slots free. */
void vu_slots_fill(struct vu_slots *s, struct vu_fe *fe, unsigned pair);

/* How many of the used buffers the frame in the first one takes; 0: not one that there is. room: its
 * first bytes, read once. *have: how many there are; what is not there yet is reaped behind them. */
static ALWAYS_INLINE uint32_t vu_slots_frame(const enum ring_layout l, struct vu_slots *s,
                                             const uint8_t *room, uint32_t snap,
                                             struct ring_drv_used *used, uint32_t *have)
{
    struct vnet_hdr said;

    memcpy(&said, room, sizeof(said));
    if (likely(!s->mergeable || said.num_buffers <= 1 || used->len < sizeof(said))) {
        return 1;
    }
    uint32_t n = said.num_buffers;
    /* All but the last are to be filled: a snapshot of less is not worth a special case. */
    if (n > VU_SLOTS_MERGE_MAX || used->len < snap) {
        return 0;
    }
    if (n > *have) {
        *have += ring_drv_reap(l, &s->rx->drv, used + *have, n - *have);
    }
    return n > *have ? 0 : n;
}

/* Transmit slots that came back are free. */
static ALWAYS_INLINE void vu_slots_reclaim(const enum ring_layout l, struct vu_slots *s)
{
    const uint32_t first_large = s->tx->drv.num - VU_SLOTS_N_LARGE(s->tx->drv.num);
    struct ring_drv_used used[VU_SLOTS_BURST];
    uint32_t n;

    do {
        n = ring_drv_reap(l, &s->tx->drv, used, VU_SLOTS_BURST);
        for (uint32_t i = 0; i < n; i++) {
            if (used[i].id < first_large) {
                s->small[s->n_small++] = used[i].id;
            } else {
                s->large[s->n_large++] = used[i].id;
            }
        }
    } while (n == VU_SLOTS_BURST);
}

/* A free slot of at least `need` bytes, posted with that length; NULL: there is none. */
static ALWAYS_INLINE uint8_t *vu_slots_take(const enum ring_layout l, struct vu_slots *s, uint32_t need)
{
    bool large = need > VU_SLOT_SMALL || !s->n_small;

    if (unlikely(large && !s->n_large)) {
        return NULL;
    }
    uint16_t id = large ? s->large[--s->n_large] : s->small[--s->n_small];
    ring_drv_resize(&s->tx->drv, id, need);
    ring_drv_repost(l, &s->tx->drv, id);
    return s->tx->drv.slot[id].token;
}

#endif
