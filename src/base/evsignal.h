/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signal eventfds that a peer shares with us, without ever blocking on them.
 *
 * The peer holds the same open file: it can clear O_NONBLOCK and fill the counter at any time, so
 * write() could block for ever, and no check before it closes the race.  The kernel's own way to add
 * to an eventfd never blocks (a full counter stays full, which is signal enough).  Linux AIO exposes
 * it: an aio request with IOCB_FLAG_RESFD signals its eventfd on completion.  So one io_submit() of
 * zero-byte reads of /dev/null, which complete at once, signals a whole round of eventfds in one
 * system call.  The kernel also refuses anything that is not an eventfd.
 *
 * Threads: one user per object.  Source: io_submit(2), "aio_resfd".
 */
#ifndef BASE_EVSIGNAL_H
#define BASE_EVSIGNAL_H

#include "base/compiler.h"
#include "base/err.h"

struct evsignal;

int evsignal_create(struct evsignal **out, struct err *e);
void evsignal_destroy(struct evsignal *s);
/* Signal each fd once. fds that are no eventfds any more are skipped. */
void evsignal_send(struct evsignal *s, const int *fd, unsigned n);

#endif
