/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One vhost-user connection as a non-blocking state machine: bytes and fds in, whole checked
 * messages out, replies back.
 *
 *              12 bytes            size bytes           handler ran
 *   [ header ] --------> [ payload ] -------> [ message ] -------> [ header ] ...
 *                                                  | reply did not fit into the socket
 *                                                  v
 *                                             [ sending ]  nothing is read meanwhile
 *
 * The output queue is bounded by construction: a message has at most one reply, and no message is
 * read before the reply to the one before has left.  A message that has begun but does not end, and
 * a reply that is not taken, have a deadline; an idle connection has none.
 *
 * Threads: the one that runs the event base.
 */
#ifndef VHOST_VU_CONN_H
#define VHOST_VU_CONN_H

#include "base/compiler.h"
#include "base/err.h"
#include "vhost/vu_codec.h"

struct event_base;
struct vu_conn;

#define VU_DEADLINE_MS 10000

struct vu_conn_ops {
    /* A well-formed message. fds that are not taken (set to -1) are closed afterwards. Non-zero:
     * the connection is over and e says why. */
    int (*message)(void *ctx, struct vu_msg *m, struct err *e);
    /* The connection is over: call vu_conn_close() now. e->code is 0 for an ordinary end. */
    void (*over)(void *ctx, const struct err *e);
};

/* Takes over fd, also on failure (NULL: out of memory). */
struct vu_conn *vu_conn_open(struct event_base *evbase, int fd, unsigned deadline_ms,
                             const struct vu_conn_ops *ops, void *ctx);
/* Not from inside message(). NULL is allowed. */
void vu_conn_close(struct vu_conn *c);
/* Send the one reply to the message being handled. -errno: the connection is over. */
int vu_conn_reply(struct vu_conn *c, uint32_t request, const void *payload, uint32_t size);
/* The same with a file descriptor, -1: none. Takes over fd, also on failure. */
int vu_conn_reply_fd(struct vu_conn *c, uint32_t request, const void *payload, uint32_t size, int fd);
int vu_conn_fd(const struct vu_conn *c);

#endif
