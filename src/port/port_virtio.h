/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two halves of the vhost-user front-end port share.
 *
 * Packet memory is this port's own (sealed memfds, shared with the back-end), in slots of one run each:
 *
 *     per pair:  | rx slot 0 | rx slot 1 ... | small tx slots ... | large tx slots |
 *
 * Every slot is one descriptor chain for ever.  A receive slot is posted, filled by the back-end, lent,
 * and posted again; a transmit slot is filled with the one copy, posted, and is free again when it
 * comes back.  Slots do not lie at multiples of 4 KiB, where their first lines would share a few
 * sets of the L1 cache.
 *
 * The back-end may write anywhere in this memory at any time: what lies in a slot is read like a
 * guest's buffer, and which slots are posted is in private memory (ring/ring_drv.h).
 *
 * Who may touch a pair: its rxq's worker (receive ring), the holder of lock (transmit ring), the link
 * thread while the port is down.
 */
#ifndef PORT_PORT_VIRTIO_H
#define PORT_PORT_VIRTIO_H

#include "base/cpu.h"
#include "pkt/copy.h"
#include "pkt/segment.h"
#include "port/port.h"
#include "vhost/vu_frontend.h"

#define VIRTIO_SLOT_PAD 64 /* between two slots; keeps their first lines apart */
#define VIRTIO_SMALL    2048
#define VIRTIO_LARGE    (VNET_HDR_LEN + PKT_MAX_LEN + CACHE_LINE) /* any frame */
#define VIRTIO_N_LARGE(num) ((num) / 8) /* slots of a transmit ring that hold any frame */
#define VIRTIO_MERGE_MAX 40 /* buffers of one frame; 65,557 bytes in 2 KiB are 33 */
#define VIRTIO_MAX_PAIRS 16
static_assert((VIRTIO_MERGE_MAX - 1) * (VIRTIO_SMALL - 64) > PKT_MAX_LEN, "any frame fits");

struct virtio_pair {
    struct rxq q; /* fd: the eventfd that the back-end signals for the receive ring */
    struct vu_fe_ring *rx, *tx;
    uint32_t lock; /* of the transmit ring */
    bool shared;   /* several workers send: take it */
    bool mergeable;
    uint16_t sends, takes; /* offloads: what the back-end may send, what it takes (pkt/offload.h) */
    uint32_t n_small, n_large;
    uint16_t *small, *large; /* free transmit chains, as stacks */
} CACHE_ALIGNED;

/* The pairs that frames are spread over; out_room, RCU. */
struct virtio_out {
    uint32_t n;
    struct virtio_pair *pair;
};

struct port_virtio {
    struct port port;
    const struct virtio_out *out; /* NULL: down */
    struct virtio_out out_room;
    struct virtio_pair *pair; /* [n_pairs] */
    unsigned n_pairs;
    struct virtio_link *link; /* port_virtio.c */
};

/* What rx keeps in the worker's scratch until rx_done. */
struct virtio_rx_scratch {
    struct ring_drv_used used[PKT_BURST + VIRTIO_MERGE_MAX];
};
struct virtio_tx_scratch {
    struct segmenter segmenter;
    struct segment segment;
};
static_assert(sizeof(struct virtio_rx_scratch) <= WCTX_SCRATCH, "see port.h");
static_assert(sizeof(struct virtio_tx_scratch) <= WCTX_SCRATCH, "see port.h");

#define VIRTIO_HOT_DECLARE(level)                                                                  \
    uint32_t port_virtio_rx_##level(struct rxq *q, struct batch *b, struct wctx *w);               \
    void port_virtio_rx_done_##level(struct rxq *q, struct batch *b, struct wctx *w);              \
    void port_virtio_tx_##level(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n,   \
                                struct wctx *w);
HOT_FOR_LEVELS(VIRTIO_HOT_DECLARE)

#endif
