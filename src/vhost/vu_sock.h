/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UNIX sockets: making, finding and refusing them.  Nothing here blocks: the sockets
 * are non-blocking and connect() on a UNIX socket answers at once.  Control thread.
 */
#ifndef VHOST_VU_SOCK_H
#define VHOST_VU_SOCK_H

#include <sys/types.h>

#include "base/compiler.h"
#include "base/err.h"

/* Who is at the other end, as far as the kernel tells. */
struct vu_peer {
    pid_t pid;     /* 0: not known (another pid namespace) */
    char comm[32]; /* program, printable; "?" if not known */
};
void vu_sock_peer(int fd, struct vu_peer *out);

/* The socket file that vu_sock_listen made, so that only this one is removed again. */
struct vu_sock_file {
    dev_t dev;
    ino_t ino;
};

/*
 * Listen on path, or be reached there (type: SOCK_STREAM or SOCK_DGRAM). A stale socket file is removed; one that somebody listens on is -EADDRINUSE with
 * pid and program. uid, gid: -1 leaves it. Nobody can connect before mode and owner are right.
 * Returns the fd or -errno.
 */
int vu_sock_listen(const char *path, int type, uid_t uid, gid_t gid, mode_t mode,
                   struct vu_sock_file *made, struct err *e);
/* Remove path if it still is the file we made. */
void vu_sock_unlink(const char *path, const struct vu_sock_file *made);
/* A stream socket that is connected: the fd, or -errno. */
int vu_sock_connect(const char *path, struct err *e);
/* Connect fd; a datagram socket may be connected again. 0 or -errno. */
int vu_sock_join(int fd, const char *path, struct err *e);

/*
 * One recvmsg: up to len bytes, and fds behind fd[*n_fds] (at most max in all, close-on-exec).
 * Returns bytes, 0 at the end of file, -EAGAIN, -EPROTO with too many or truncated fds (all those
 * of this call are closed), or another -errno.
 */
ssize_t vu_sock_recv(int s, void *buf, size_t len, int *fd, uint32_t *n_fds, uint32_t max);

#endif
