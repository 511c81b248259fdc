/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames that a receiver takes, made of one that it does not take as it is.
 *
 * A segment is a description, not a copy: headers of our own (or the snapshot) and a range of the
 * frame behind them.  Whoever sends it moves the payload once, straight from the sender's memory, and
 * sums it on the way if the receiver wants the checksum in the frame:
 *
 *     head[0 .. head_len)  +  bytes [from, from + len) of the packet
 *     patch[0 .. n_patch)  words of the head that are others in this segment
 *     sum_at != 0:  store the checksum over [sum_from, end) there; the field holds the start value
 *
 * The head is shared by all segments, and what differs is kept beside it: a word stored into it
 * would be loaded again at once as part of a longer run, and such a load waits until every store
 * before it, the payload of the segment before, has reached the cache.
 *
 * Rules: virtio 1.4, 5.1.9.4; for the header fields RFC 9293 (TCP), RFC 3168 6.1.2 (CWR on the first
 * segment only), RFC 791 and RFC 8200 4.5 (fragments of a UFO datagram).
 *
 * Everything is decided on the private snapshot; offload_check() has passed.
 */
#ifndef PKT_SEGMENT_H
#define PKT_SEGMENT_H

#include "pkt/csum.h"
#include "pkt/offload.h"
#include "pkt/pkt.h"
#include "vnet/vnet_hdr.h"

#define SEGMENT_HEAD_MAX (PKT_SNAP + 8) /* a snapshot and an IPv6 fragment header */

#define SEGMENT_PATCHES 5

struct segment_patch {
    uint16_t at, word; /* in the order of the wire */
};

/* What one call of a port's tx makes at most, by and large: 64 frames of 64 KiB in segments of 536
 * bytes. Smaller ones would keep the worker, and whoever waits for the ring's lock, for long. */
#define SEGMENTS_MAX 8192

struct segment {
    struct vnet_hdr h;     /* for this receiver; num_buffers = 1 */
    const uint8_t *head;   /* in the snapshot, in the segmenter (until the next one), or in buf */
    uint32_t head_len;
    uint32_t n_patch;
    struct segment_patch patch[SEGMENT_PATCHES];
    uint64_t head_sum; /* if n_patch: over [sum_from, head_len) of the patched head */
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
    /* TSO, USO */
    struct vnet_hdr seg_h;          /* of each segment */
    uint64_t ip_sum, l4_sum;        /* of the headers without what is patched */
    uint8_t head[SEGMENT_HEAD_MAX]; /* of all segments but the last, then of that */
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

/* The head with its patches in it, in buf, for whoever does not want to know of them. */
void segment_apply_patches(struct segment *seg);

/* The sum to begin with: of the head from sum_from on. */
static ALWAYS_INLINE struct csum segment_head_sum(const struct segment *seg)
{
    struct csum c = {.odd = (seg->head_len - seg->sum_from) & 1, .sum = seg->head_sum};

    if (!seg->n_patch) {
        c = (struct csum){0};
        csum_bytes(&c, seg->head + seg->sum_from, seg->head_len - seg->sum_from);
    }
    return c;
}

/* The checksum of a segment that no copy was summed for; reads the payload. Native order. */
uint16_t segment_sum(const struct segmenter *s, const struct segment *seg);

#endif
