/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Capture: copies of the frames that pass a port, for somebody else to read.
 *
 * While no capture is on, a port's table of functions is that of its kind, and nothing is different.
 * The first capture puts a table of ours in its place, whose rx and tx do what the kind's do and look
 * at the frames on their way; the last one puts the kind's back.  Only that port is slower meanwhile.
 *
 *     in    what the port sent into the switch, as the bridge gets it
 *     out   what the switch hands to the port, which may still drop it
 *
 * With `drops`, frames that were dropped, with the reason, and no others:
 *     out   frames that the port did not take: they are handed over one at a time then, so that the
 *           counters tell which one it was
 *     in    frames that the bridge refused to forward; and a record without bytes for what the port
 *           refused before it was a frame, which only a filter that lets everything pass shows
 *
 * Filters run on private bytes before anything is copied; see capture_filter.h.  The memory that the
 * frames go to is described in capture_ring.h.
 *
 * Threads: everything here is for the control thread, but for capture_dropped(), which port.h calls.
 */
#ifndef PORT_CAPTURE_H
#define PORT_CAPTURE_H

#include "port/capture_ring.h"
#include "port/port.h"

#define CAPTURE_SNAPLEN 262144 /* what tcpdump takes for "all" */
#define CAPTURE_PER_PORT 8 /* captures of one port at the same time */

struct capture_conf {
    const char *filter; /* as capture_filter_parse() wants it; NULL: every frame */
    uint32_t snaplen;   /* bytes of each frame, 1 or more */
    uint8_t dirs;       /* mask of enum capture_dir */
    bool drops;         /* only dropped frames */
    uint32_t ring_bytes; /* per worker; a power of two */
};

struct capture;

int capture_start(struct capture **out, struct port *p, const struct capture_conf *c,
                  struct err *e);
/* No worker touches it when this returns. */
void capture_stop(struct capture *c);
/* The port is about to be destroyed: its captures end, and their readers are told. */
void capture_port_gone(struct port *p);
unsigned capture_count(const struct port *p);

/* For who reads: the memory (both stay the capture's own), and the eventfd that wakes him. */
const struct capture_mem *capture_mem(const struct capture *c);
int capture_eventfd(const struct capture *c);

#endif
