/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets and segments as iovecs, for ports that hand frames to the kernel: the kernel makes the copy,
 * straight from the sender's memory.  Any thread; nothing blocks.
 */
#ifndef PKT_IOV_H
#define PKT_IOV_H

#include <sys/uio.h>

#include "pkt/segment.h"

/* Bytes [from, from + len) of the packet, len > 0: how many iovecs it takes, or 0: more than max. */
unsigned pkt_iov(const struct pkt *p, uint32_t from, uint32_t len, struct iovec *iov, unsigned max);

/* Have the patches and the checksum of a segment in its head. Reads the payload if it is summed. */
void segment_finish(const struct segmenter *s, struct segment *seg);

/*
 * Read one byte of every page behind the snapshot. For a system call that said EFAULT: the sender's
 * memory may be gone, and the kernel does not raise the SIGBUS whose handler marks it (mem/gmem.h).
 */
void pkt_touch(const struct pkt *p);

#endif
