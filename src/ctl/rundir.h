/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run directory: where the sockets of one switch live.  One switch per directory, held by a
 * lock on RUNDIR/ringway.pid that the kernel drops when the process ends, however it ends.
 */
#ifndef CTL_RUNDIR_H
#define CTL_RUNDIR_H

#include "base/err.h"

/* given (may be NULL), else $RINGWAY_RUNDIR, else /run/ringway for root, else
 * $XDG_RUNTIME_DIR/ringway. *out is malloc'ed, absolute, without a slash at the end. */
int rundir_choose(char **out, const char *given, struct err *e);
/* Make the directory if it is not there and take its lock. Returns a descriptor to give to
 * rundir_unlock(), or -errno; -EBUSY names the process that holds it. */
int rundir_lock(const char *rundir, struct err *e);
void rundir_unlock(const char *rundir, int lock_fd);
/* Wait until no switch holds the directory, at most so many seconds; false: one still does. */
bool rundir_wait_free(const char *rundir, unsigned seconds);
/* RUNDIR/name, malloc'ed. */
char *rundir_path(const char *rundir, const char *name);

#endif
