/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of a running switch. Control thread only. */
#ifndef CTL_CTL_SOCK_H
#define CTL_CTL_SOCK_H

#include <sys/types.h>

#include "base/err.h"
#include "ctl/ctl.h"

struct ctl_sock;
struct event_base;

#define CTL_SOCK_NAME "ringway.sock"
#define CTL_SOCK_MODE 0660

/*
 * Listen on path, serve requests with c, sample its rates once a second. A socket file that is
 * there is removed: the caller holds the lock of the run directory, so nobody listens on it. When a
 * request asked the switch to stop, the event loop ends after the answer was sent.
 */
int ctl_sock_create(struct ctl_sock **out, struct ctl *c, struct event_base *base, const char *path,
                    struct err *e);
/* Closes all connections and removes the socket file. NULL is allowed. */
void ctl_sock_destroy(struct ctl_sock *s);

#endif
