/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a port and its peer find each other on a UNIX stream socket, one peer at a time:
 *
 *   server   listening ---- accept ----> together ---- parted ----> listening
 *   client   dialling  --- connect() --> together ---- parted ----> dialling, with back-off
 *   either   whatever --- closed ---> nobody gets in --- opened ---> listening or dialling
 *
 * The listening socket stays open while a peer is there; a second one is told by the end of file.
 * What is said on the connection is not known here.  Control thread; nothing blocks.
 */
#ifndef VHOST_VU_MEET_H
#define VHOST_VU_MEET_H

#include <sys/types.h>

#include "base/compiler.h"
#include "base/err.h"
#include "vhost/vu_sock.h"

struct event_base;
struct vu_meet;

struct vu_meet_conf {
    const char *name; /* of the port, for messages */
    const char *path;
    const char *whom; /* what peers are called: "front-end" */
    bool client;      /* connect to a listening peer instead of listening */
    uid_t owner;      /* (uid_t)-1: leave. Server. */
    gid_t group;      /* (gid_t)-1: leave */
    mode_t mode;      /* e.g. 0660 */
};

/* Called from the event loop only, never within vu_meet_create(). */
struct vu_meet_ops {
    /* fd, non-blocking, is the callee's now. False: it could not be used and is closed already. */
    bool (*met)(void *ctx, int fd, const struct vu_peer *peer);
    /* Somebody comes while a peer is there. Has that one hung up, unnoticed so far? Then this ends its
     * connection, with vu_meet_parted(), and returns true. */
    bool (*left)(void *ctx);
    /* Dialling failed for another reason than the last time. */
    void (*missed)(void *ctx, const struct err *why);
};

/* -errno: could not listen. conf is copied. */
int vu_meet_create(struct vu_meet **out, const struct vu_meet_conf *conf, const struct vu_meet_ops *ops,
                   void *ctx, struct event_base *evbase, struct err *e);
/* Removes the socket file that it made. The connection is the owner's. NULL is allowed. */
void vu_meet_destroy(struct vu_meet *m);

/* The connection has ended: wait for the next peer. */
void vu_meet_parted(struct vu_meet *m);

/* Nobody gets in: a socket that listens is closed (its file stays, so that connect() is refused and
 * nobody takes the name), and nobody is dialled. A present peer stays. */
void vu_meet_close(struct vu_meet *m);
/* -errno: it could not listen again, and is still closed. */
int vu_meet_open(struct vu_meet *m, struct err *e);

const char *vu_meet_path(const struct vu_meet *m);
const struct vu_peer *vu_meet_peer(const struct vu_meet *m); /* pid 0 while there is none */
/* "down", "listening", "dialling" or "connected". */
const char *vu_meet_state(const struct vu_meet *m);
/* The other end of this socket has closed, although there may be something to read still. */
bool vu_meet_hung_up(int fd);

#endif
