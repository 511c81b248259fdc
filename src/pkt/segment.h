/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames that a receiver takes, made of one that it does not take as it is.
 *
 * A segment is a description, not a copy: headers of our own (or the snapshot) and a range of the
 * frame behind them.  Whoever sends it moves the payload once, straight from the sender's memory, and
 * sums it on the way if the receiver wants the checksum in the frame:
 *
 *     head[0 .. head_len)  +  bytes [from, from + len) of the packet
 *     sum_at != 0:  store the checksum over [sum_from, end) there; the field holds the start value
 *
 * Rules: virtio 1.4, 5.1.9.4; for the header fields RFC 9293 (TCP), RFC 3168 6.1.2 (CWR on the first
 * segment only), RFC 791 and RFC 8200 4.5 (fragments of a UFO datagram).
 *
 * Everything is decided on the private snapshot; offload_check() has passed.
 */
#ifndef PKT_SEGMENT_H
#define PKT_SEGMENT_H

#include "pkt/offload.h"
#include "pkt/pkt.h"
#include "vnet/vnet_hdr.h"

#define SEGMENT_HEAD_MAX (PKT_SNAP + 8) /* a snapshot and an IPv6 fragment header */

struct segment {
    struct vnet_hdr h;     /* for this receiver; num_buffers = 1 */
    const uint8_t *head;   /* in the snapshot, in the segmenter (until the next one), or in buf */
    uint32_t head_len;
    uint32_t from, len;    /* payload, as offsets in the packet */
    uint16_t sum_from, sum_at; /* offsets in the segment; sum_at 0: nothing to complete */
    bool sum_udp;              /* a sum of 0 is stored as 0xffff (RFC 768) */
    uint8_t buf[SEGMENT_HEAD_MAX];
};

struct segmenter {
    const struct pkt *p;
    struct vnet_hdr h;    /* what the packet carries */
    struct pkt_l4 place;
    uint16_t carries;     /* p->offload less what the receiver takes */
    bool partial;         /* the receiver completes checksums itself */
    uint32_t hdr_len;     /* what each segment repeats */
    uint32_t step;        /* payload per segment; 0: the packet stays one */
    uint32_t next;        /* first byte that is in no segment yet */
    uint32_t index;
    uint32_t frag_id;     /* UFO over IPv6 */
    uint16_t whole_sum;   /* UFO: of the datagram */
    uint32_t ip_sum;      /* TSO, USO: of the IPv4 header without what changes */
    uint8_t head[SEGMENT_HEAD_MAX]; /* TSO, USO: headers of the segment at hand */
};

/* Begin with p for a receiver that takes `takes`. DROP_N, or why it cannot have it. */
int segmenter_init(struct segmenter *s, const struct pkt *p, uint16_t takes);
/* The next segment; false: that was all. */
bool segmenter_next(struct segmenter *s, struct segment *out);

/* Reads the bytes of a packet in order. */
struct pkt_reader {
    const struct pkt *p;
    uint32_t run; /* 0: the snapshot, k: span k - 1 */
    uint32_t at;  /* in that run */
};
/* Position at byte `from` of the packet. */
struct pkt_reader pkt_reader_at(const struct pkt *p, uint32_t from);

/* Up to *len bytes in one run: where they are, and how many. *len > 0 and within the packet. */
static ALWAYS_INLINE const uint8_t *pkt_read(struct pkt_reader *r, uint32_t *len)
{
    for (;;) {
        const struct gspan *s = r->run ? &pkt_spans(r->p)[r->run - 1] : NULL;
        const uint8_t *base = s ? GUEST_PTR(const uint8_t, s->p) : r->p->data;
        uint32_t room = (s ? s->len : r->p->snap_len) - r->at;

        if (likely(room)) {
            *len = MIN(*len, room);
            r->at += *len;
            return base + r->at - *len;
        }
        r->run++;
        r->at = 0;
    }
}

/* The checksum of a segment that no copy was summed for; reads the payload. Native order. */
uint16_t segment_sum(const struct segmenter *s, const struct segment *seg);

#endif
