/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two halves of the vhost-user port share.
 *
 * Who may touch a vq: the worker that its rxq is attached to (transmit rings), or the holder of
 * vq->lock (receive rings).  The control thread only after detach or barrier, except for the words
 * that are marked.
 */
#ifndef PORT_PORT_VHOST_H
#define PORT_PORT_VHOST_H

#include "base/cpu.h"
#include "port/port.h"
#include "ring/ring.h"
#include "vhost/vu_backend.h"
#include "vnet/vnet_hdr.h"

/* A running virtqueue. Lives from ring_start to ring_stop. */
struct vq {
    struct ring ring;
    struct rxq rxq; /* transmit rings: what the worker polls */
    uint32_t hdr_len;
    bool plain;     /* hdr_len is 12: the header in front of the snapshot can go out as it is */
    bool mergeable; /* VIRTIO_NET_F_MRG_RXBUF negotiated */
    bool told;      /* the control thread was asked to look at its fault, once */
    bool shared;    /* several workers may write it: take the lock */
    uint32_t lock;  /* receive rings: one writer at a time */
    uint64_t due;   /* workers that will look at the driver's wish for a signal; under the lock */
    int call_fd;    /* replaced by the control thread (relaxed); -1: no signals */
} CACHE_ALIGNED;

struct port_vhost {
    struct port port;
    struct vu_dev *dev;
    struct vq *out[VU_MAX_RINGS / 2]; /* running receive rings; read by workers */
    struct vq *vq[VU_MAX_RINGS];      /* all running rings; control thread */
    uint16_t mtu_conf;                /* mtu= option, 0 if not given */
    uint64_t announce;                /* MAC to announce in its name, 0: none. Control sets it, the
                                         worker of its first transmit ring takes it. */
};

/* The callbacks that move frames, once per machine level; contracts in port.h. */
#define VHOST_HOT_DECLARE(level)                                                                   \
    uint32_t port_vhost_rx_##level(struct rxq *q, struct batch *b, struct wctx *w);                \
    void port_vhost_rx_done_##level(struct rxq *q, struct batch *b, struct wctx *w);               \
    void port_vhost_tx_##level(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n,    \
                               struct wctx *w);
HOT_FOR_LEVELS(VHOST_HOT_DECLARE)

#endif
