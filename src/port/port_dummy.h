/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kind "dummy": a port whose other side is a test in the same process.  Frames are put in with
 * dummy_inject() and lent to the switch exactly like a guest's; frames that the switch sends are
 * copied out and recorded until the test clears them.
 *
 *     dummy_inject(a, bytes, len);
 *     dp_run_once(dp);
 *     assert(dummy_n_sent(b) == 1);
 *
 * Threads: all functions from any thread (a lock inside; the switch's workers take it per burst).
 * Runts and giants are dropped and counted when the switch takes them, as by every kind.
 */
#ifndef PORT_PORT_DUMMY_H
#define PORT_PORT_DUMMY_H

#include <sys/uio.h>

#include "port/port.h"

/* Frames recorded at most (option depth=N); further ones are dropped like by a guest that posts no
 * receive buffers, as DROP_NO_BUFFERS. */
#define DUMMY_DEPTH 4096

/* A frame for the switch to receive; copied. In several spans: the loan is cut where the iovecs
 * are. */
void dummy_inject(struct port *p, const void *bytes, uint32_t len);
void dummy_injectv(struct port *p, const struct iovec *iov, unsigned n_iov);
/* Injected frames that the switch has not taken yet. */
unsigned dummy_n_pending(struct port *p);

/* Frames that the switch sent, oldest first. The bytes stay valid until dummy_clear(). */
unsigned dummy_n_sent(struct port *p);
const uint8_t *dummy_sent(struct port *p, unsigned i, uint32_t *len); /* NULL beyond the end */
void dummy_clear(struct port *p);

/* Room for this many more frames from now on (a receiver that runs out of buffers). */
void dummy_set_room(struct port *p, unsigned n);
/* Plug or unplug the cable. Control thread. */
void dummy_set_ready(struct port *p, bool ready);

#endif
