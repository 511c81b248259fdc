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
#include "pkt/segment.h"
#include "port/port.h"
#include "port/steer.h"
#include "ring/ring.h"
#include "vhost/vu_backend.h"
#include "vnet/vnet_hdr.h"

/*
 * Buffers are prefetched so many frames ahead of the copy.  Not a whole burst: drivers place buffers
 * at multiples of 2 or 4 KiB, so their first lines share a few sets of the L1 cache and a longer
 * lead would evict what it brought in.
 */
#define AHEAD 6

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
    uint16_t sends; /* transmit rings: offloads that the driver may use (pkt/offload.h) */
    uint16_t takes; /* receive rings: those that may be sent to it; control writes (relaxed) */
    bool shown;     /* receive rings: the driver posted buffers here; control thread */
    uint64_t due;   /* workers that will look at the driver's wish for a signal; under the lock */
    uint64_t frames; /* through this ring; written by whoever may touch it, read by anybody */
    struct steer *steer; /* transmit rings: where to remember who sends what, NULL: one pair runs */
    int call_fd;    /* replaced by the control thread (relaxed); -1: no signals */
    struct ring_log log_room[2]; /* ring.log is one of them, the other is for the next change */
} CACHE_ALIGNED;

#define VHOST_PAIRS (VU_MAX_RINGS / 2)
#define NOT_RUNNING 0xff
static_assert(VHOST_PAIRS < NOT_RUNNING, "a pair has another number");

/* The receive rings that frames are spread over. */
struct out_rings {
    uint32_t n;
    const struct steer *steer;
    struct vq *ring[VHOST_PAIRS];   /* [0 .. n), in the order of their pairs */
    uint8_t of_pair[VHOST_PAIRS];   /* index into ring[], or NOT_RUNNING */
};

#ifdef COPY_COUNT
extern _Thread_local uint64_t vq_locks_counted; /* taken by this thread */
#define VQ_LOCK_ACCOUNT() (vq_locks_counted++)
#else
#define VQ_LOCK_ACCOUNT() ((void)0)
#endif

struct port_vhost {
    struct port port;
    struct vu_dev *dev;
    struct vq *out;                /* the receive ring if just one runs; read by workers */
    const struct out_rings *rings; /* otherwise these, and always; one of rings_room, RCU */
    struct vq *vq[VU_MAX_RINGS];   /* all running rings; control thread */
    struct out_rings rings_room[2]; /* one is published, the other is for the next change */
    struct steer *steer;           /* made when a second pair runs, kept */
    struct event *look;            /* pending while a receive ring has not been shown buffers */
    unsigned look_ms;
    uint16_t mtu_conf;                /* mtu= option, 0 if not given */
    uint16_t rx_offload;              /* rx-offload=: what is sent to the guest at most */
    uint64_t announce;                /* MAC to announce in its name, 0: none. Control sets it, the
                                         worker of its first transmit ring takes it. */
};

/* A frame on its way out, from burst to burst: its segments may need more chains than one burst has. */
struct tx_frame {
    const struct pkt *p; /* NULL: none */
    struct segmenter s;
    struct segment seg; /* the next one to send */
};

/* What tx keeps in the worker's scratch. */
struct tx_scratch {
    struct ring_burst rb;
    struct tx_frame frame;
};
static_assert(sizeof(struct tx_scratch) <= WCTX_SCRATCH, "see port.h");

/* What became of a frame that went the general way. */
struct tx_result {
    uint32_t n_chains; /* used up, from the first one on */
    uint32_t frames;   /* that the guest gets: more than one if it was segmented */
    uint64_t bytes;
    int why;        /* DROP_N, or the reason why it, or the rest of it, is not sent */
    bool need_more; /* why is DROP_NO_BUFFERS: with more chains than were peeked it goes on */
};

/* Any packet into any chains of the burst from `at` on. f->p is NULL, or p with its rest. */
#define VHOST_OUT_DECLARE(level)                                                                   \
    void port_vhost_out_##level(struct vq *vq, const struct gmem *mem,                             \
                                const struct ring_burst *rb, uint32_t at, const struct pkt *p,     \
                                uint32_t *lens, struct tx_frame *f, struct tx_result *r);
HOT_FOR_LEVELS(VHOST_OUT_DECLARE)

/*
 * A frame of one span at most from which only its checksum is missing (offload is OFFLOAD_CSUM), to d,
 * where there is room for it behind a header of VNET_HDR_LEN bytes: two copies, as a plain frame, of
 * which the second is summed.  False, and nothing done, if the snapshot ends within a word.
 */
#define VHOST_OUT_SUMMED_DECLARE(level)                                                            \
    bool port_vhost_out_summed_##level(uint8_t *d, const struct pkt *p);
HOT_FOR_LEVELS(VHOST_OUT_SUMMED_DECLARE)

/* The callbacks that move frames, once per machine level; contracts in port.h. */
#define VHOST_HOT_DECLARE(level)                                                                   \
    uint32_t port_vhost_rx_##level(struct rxq *q, struct batch *b, struct wctx *w);                \
    void port_vhost_rx_done_##level(struct rxq *q, struct batch *b, struct wctx *w);               \
    void port_vhost_tx_##level(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n,    \
                               struct wctx *w);
HOT_FOR_LEVELS(VHOST_HOT_DECLARE)

#endif
