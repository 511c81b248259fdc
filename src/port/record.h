/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames into a pcapng file, without a worker ever waiting for the disk: workers write into the rings
 * of capture_ring.h, and a thread of this module's own reads them and writes the file.  It flushes
 * whenever it has caught up, so the file can be read while it grows.
 *
 * A ring that is full because the disk is slow loses the frame; after a write that failed, all are
 * lost.
 */
#ifndef PORT_RECORD_H
#define PORT_RECORD_H

#include "port/port.h"

struct record;

/* Makes the file; one that is there must be empty or pcapng, and is overwritten. p is asked to look (env->post) when a write
 * has failed. Control thread. */
int record_create(struct record **out, struct port *p, const char *path, struct err *e);
/* No worker uses it any more. Returns when all is written: that is for as long as the disk takes. 0 or
 * the errno of the write that failed. */
int record_destroy(struct record *r);

/* Worker. Record a frame; DROP_N, or why not. */
enum drop record_frame(struct record *r, struct wctx *w, const struct pkt *k);
/* Worker, behind the frames of one call: have them written. */
void record_publish(struct record *r, struct wctx *w);

/* Any thread: 0, or the errno of the write that failed. Frames written so far. */
int record_error(const struct record *r);
uint64_t record_frames(const struct record *r);

#endif
