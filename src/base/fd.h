/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File descriptors that a peer sent. Whatever is behind them may be a program of the peer's (a file on
 * FUSE) or wait for one (a socket that lingers), and then even close() waits: the kernel asks FUSE to
 * flush, for as long as its server likes.
 *
 * fd_discard() closes such a descriptor without waiting. What cannot block is closed at once (memory
 * files, eventfds, pipes, UNIX sockets); anything else goes to a thread that is there for that, and if
 * that one waits already, to the next of FD_CLOSERS. When all wait, descriptors stay open until one is
 * done: they count against RLIMIT_NOFILE, and nothing else waits.
 */
#ifndef BASE_FD_H
#define BASE_FD_H

#include <stdbool.h>

#define FD_CLOSERS 4

/* Any thread, does not block. fd < 0 does nothing. */
void fd_discard(int fd);

/* Descriptors that wait for a closer or are being closed. */
unsigned fd_discarded(void);

/* Is it on tmpfs or hugetlbfs, or a memfd? Does not ask a file server. */
bool fd_is_memory(int fd);
bool fd_is_eventfd(int fd);

#endif
