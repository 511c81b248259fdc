/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two halves of the vhost-user front-end port share.  Its packet memory is this port's own:
 * vhost/vu_slots.h says what lies in it.
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
#include "vhost/vu_slots.h"

#define VIRTIO_MAX_PAIRS 16
static_assert(VU_SLOT_FRAME == PKT_MAX_LEN, "any frame");

struct virtio_pair {
    struct rxq q; /* fd: the eventfd that the back-end signals for the receive ring */
    struct vu_slots s;
    uint32_t lock; /* of the transmit ring */
    bool shared;   /* several workers send: take it */
    uint16_t sends, takes; /* offloads: what the back-end may send, what it takes (pkt/offload.h) */
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
    struct ring_drv_used used[PKT_BURST + VU_SLOTS_MERGE_MAX];
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
