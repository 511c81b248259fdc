/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frames of a capture file (pcap or pcapng, as libpcap reads them) in memory, ready to be sent.
 *
 * All of it at once, on the control thread: a worker must not wait for a disk, and the bytes are lent
 * to other ports, so they must not move.  Hence the limit.  Nothing changes after replay_load(): any
 * thread may read.
 */
#ifndef PORT_REPLAY_H
#define PORT_REPLAY_H

#include "base/compiler.h"
#include "base/err.h"

#define REPLAY_MAX (256u << 20) /* bytes of memory for one file */

struct replay_frame {
    uint64_t at_ns; /* after the first one; never less than the frame before it */
    uint32_t from, len;
};

struct replay {
    struct replay_frame *frame;
    uint8_t *bytes; /* frame i is bytes[frame[i].from .. + len) */
    uint32_t n;
    uint32_t n_cut; /* frames that were recorded in part only, and are left out */
    uint64_t round_ns; /* from the first frame to the first frame of the next round */
};

/* -errno and a sentence that names the file and what is wrong with it. */
int replay_load(struct replay *r, const char *path, struct err *e);
void replay_free(struct replay *r);

#endif
