/* SPDX-License-Identifier: Apache-2.0 */
#include "port/sock_out.h"

#include <string.h>

void sock_out_sent(struct sock_out *o, unsigned i, unsigned until)
{
    for (; i < until; i++) {
        o->frames++;
        o->bytes += o->frame[i].len;
    }
}

static void lose(struct sock_out *o, const struct pkt *p, enum drop why)
{
    if (p != o->lost) {
        o->lost = p;
        port_count_drop(o->port, o->w, why, 1);
    }
}

void sock_out_lost(struct sock_out *o, unsigned i, unsigned until, enum drop why)
{
    for (; i < until; i++) {
        lose(o, o->frame[i].p, why);
    }
}

static void flush(struct sock_out *o)
{
    if (o->n) {
        o->send(o);
        o->w->spent += SOCK_CALL_COST;
        o->n = o->n_iov = 0;
    }
}

/* Append a frame of bytes [from, from + len) of p behind a head; false: too many pieces. */
static bool append(struct sock_out *o, const struct pkt *p, const uint8_t *head, uint32_t head_len,
                   uint32_t from, uint32_t len)
{
    struct sock_frame *f = &o->frame[o->n];
    unsigned at = o->n_iov, n = 0;

    if (at + o->prefixed == SOCK_OUT_IOV || at + o->prefixed + 1 == SOCK_OUT_IOV) {
        return false;
    }
    *f = (struct sock_frame){.p = p,
                             .wire_len = __builtin_bswap32(head_len + len),
                             .len = head_len + len,
                             .iov = at};
    if (o->prefixed) {
        o->iov[at++] = (struct iovec){&f->wire_len, sizeof(f->wire_len)};
    }
    o->iov[at++] = (struct iovec){(void *)(uintptr_t)head, head_len};
    if (len) {
        n = pkt_iov(p, from, len, &o->iov[at], SOCK_OUT_IOV - at);
        if (unlikely(!n)) {
            return false;
        }
    }
    f->n_iov = at + n - f->iov;
    o->n_iov = at + n;
    o->n++;
    return true;
}

static enum drop put_whole(struct sock_out *o, const struct pkt *p)
{
    const uint32_t rest = p->len - p->snap_len;

    if (o->n == SOCK_OUT_FRAMES) {
        flush(o);
    }
    if (likely(append(o, p, p->data, p->snap_len, p->snap_len, rest))) {
        return DROP_N;
    }
    flush(o);
    /* nobody sends a frame in a thousand pieces for a good reason */
    return append(o, p, p->data, p->snap_len, p->snap_len, rest) ? DROP_N : DROP_TX_ERROR;
}

/* The head of a segment is the segmenter's, or in the segment: it is kept until all are sent. */
static bool put_segment(struct sock_out *o)
{
    const struct segment *seg = &o->segment;
    uint8_t *head = o->head[o->n];

    memcpy(head, seg->head, seg->head_len);
    return append(o, o->segmenter.p, head, seg->head_len, seg->from, seg->len);
}

static enum drop put_segments(struct sock_out *o, const struct pkt *p)
{
    int why = o->frames > SEGMENTS_MAX ? DROP_SEGMENTS : segmenter_init(&o->segmenter, p, 0);

    while (why == DROP_N && segmenter_next(&o->segmenter, &o->segment)) {
        segment_finish(&o->segmenter, &o->segment);
        if (o->n == SOCK_OUT_FRAMES) {
            flush(o);
        }
        if (unlikely(!put_segment(o))) {
            flush(o);
            why = put_segment(o) ? DROP_N : DROP_TX_ERROR;
        }
        why = why == DROP_N ? (int)o->closed : why;
    }
    return (enum drop)why;
}

void sock_out_batch(struct sock_out *o, struct batch *b, const uint8_t *idx, uint32_t n)
{
    struct port_counters *c = &o->port->counters[o->w->id];
    const uint32_t max_len = read_once(&o->port->max_len);

    o->n = o->n_iov = 0;
    o->lost = NULL;
    o->frames = o->bytes = 0;
    o->closed = DROP_N;
    for (uint32_t i = 0; i < n; i++) {
        const struct pkt *p = &b->pkt[idx[i]];
        enum drop why = o->closed;

        if (likely(why == DROP_N)) {
            why = unlikely(offload_too_long(p, max_len)) ? DROP_MTU
                  : p->offload                           ? put_segments(o, p)
                                                         : put_whole(o, p);
        }
        if (unlikely(why != DROP_N)) {
            lose(o, p, why);
        }
    }
    flush(o);
    write_once(&c->tx_frames, c->tx_frames + o->frames);
    write_once(&c->tx_bytes, c->tx_bytes + o->bytes);
    o->w->spent += o->bytes;
}
