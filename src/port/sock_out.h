/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames on their way out through a socket, many of them per system call.  One call of a port's tx
 * collects them as iovecs: the head from the snapshot (or a segment's own), the rest straight from the
 * sender's memory, so that the kernel makes the only copy.  The other side of a socket takes no
 * offloads: what asks for one becomes plain frames with pkt/segment.h.
 *
 *     iov[]:    (length) head  run  run | (length) head | (length) head run | ...
 *     frame[i]:  first iov, number of them, bytes
 *
 * Lives in wctx.tx_scratch for the duration of the call; the worker's own.
 */
#ifndef PORT_SOCK_OUT_H
#define PORT_SOCK_OUT_H

#include <sys/socket.h>
#include <sys/uio.h>

#include "pkt/iov.h"
#include "port/port.h"

#define SOCK_OUT_IOV    1024 /* of one system call, as in the kernel */
#define SOCK_OUT_FRAMES 128
#define SOCK_CALL_COST  4096 /* a system call takes as long as copying so many bytes */

struct sock_frame {
    const struct pkt *p; /* whose bytes they are */
    uint32_t wire_len;   /* big-endian, for a stream */
    uint32_t len;
    unsigned iov, n_iov;
};

struct sock_out {
    struct port *port;
    struct wctx *w;
    bool prefixed; /* each frame has its length in front */
    /* Hand frame[0 .. n) to the kernel: sock_out_sent() or sock_out_lost() for each of them. */
    void (*send)(struct sock_out *o);
    enum drop closed; /* DROP_N, or why nothing more is tried in this call */

    unsigned n, n_iov;
    const struct pkt *lost; /* counted already: segments are no frames of the sender's */
    uint64_t frames, bytes; /* sent */
    struct sock_frame frame[SOCK_OUT_FRAMES];
    struct iovec iov[SOCK_OUT_IOV];
    struct mmsghdr msg[SOCK_OUT_FRAMES]; /* for datagrams */
    uint8_t head[SOCK_OUT_FRAMES][SEGMENT_HEAD_MAX];
    struct segmenter segmenter;
    struct segment segment;
};
static_assert(sizeof(struct sock_out) <= WCTX_SCRATCH, "see port.h");

/* The whole of a port's tx: o is tx_scratch, port, w, prefixed and send are set. */
void sock_out_batch(struct sock_out *o, struct batch *b, const uint8_t *idx, uint32_t n);

/* For send(): frames [i, until) went / did not. */
void sock_out_sent(struct sock_out *o, unsigned i, unsigned until);
void sock_out_lost(struct sock_out *o, unsigned i, unsigned until, enum drop why);

#endif
