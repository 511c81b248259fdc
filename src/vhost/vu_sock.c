/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A listening socket comes up in an order that leaves no gap: the mode is set on the socket before
 * bind() creates the file, owner and group after it, and listen() last.  Until then connect() is
 * refused, so nobody gets in while the permissions are not final; and the process-wide umask, which
 * other threads use, is left alone.
 *
 * A socket file is stale when connect() says ECONNREFUSED, and only then: any other answer means
 * that somebody owns it or that we cannot know.
 */
#include "vhost/vu_sock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "vhost/vu_wire.h"

#define BACKLOG 8

void vu_sock_peer(int fd, struct vu_peer *out)
{
    struct ucred cred = {0};
    socklen_t len = sizeof(cred);
    char file[64];

    *out = (struct vu_peer){.comm = "?"};
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) || cred.pid <= 0) {
        return;
    }
    out->pid = cred.pid;
    snprintf(file, sizeof(file), "/proc/%ld/comm", (long)cred.pid);
    int f = open(file, O_RDONLY | O_CLOEXEC);
    if (f < 0) {
        return;
    }
    ssize_t n = read(f, out->comm, sizeof(out->comm) - 1);
    close(f);
    if (n <= 0) {
        strcpy(out->comm, "?");
        return;
    }
    out->comm[n] = '\0';
    out->comm[strcspn(out->comm, "\n")] = '\0';
    for (char *c = out->comm; *c; c++) { /* the program chose its name: keep it off the terminal */
        if (*c < 0x20 || *c > 0x7e) {
            *c = '?';
        }
    }
}

static int make_addr(const char *path, struct sockaddr_un *sa, struct err *e)
{
    *sa = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t len = strlen(path);

    if (!len) {
        return err_set(e, -EINVAL, "the socket path is empty");
    }
    if (len >= sizeof(sa->sun_path)) {
        return err_set(e, -ENAMETOOLONG,
                       "socket path %.200s has %zu bytes and the kernel allows %zu; choose a "
                       "shorter directory (--rundir) or port name",
                       path, len, sizeof(sa->sun_path) - 1);
    }
    memcpy(sa->sun_path, path, len + 1);
    return 0;
}

static int new_socket(int type, struct err *e)
{
    int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    return fd >= 0 ? fd : err_set(e, -errno, "cannot make a UNIX socket: %s", strerror(errno));
}

int vu_sock_join(int fd, const char *path, struct err *e)
{
    struct sockaddr_un sa;
    int rc = make_addr(path, &sa, e);

    if (!rc && connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
        rc = err_set(e, -errno, "cannot connect to %s: %s", path, strerror(errno));
    }
    return rc;
}

static int connect_to(const char *path, int type, struct err *e)
{
    int fd = new_socket(type, e), rc = fd < 0 ? fd : vu_sock_join(fd, path, e);

    if (rc && fd >= 0) {
        close(fd);
    }
    return rc ? rc : fd;
}

int vu_sock_connect(const char *path, struct err *e)
{
    return connect_to(path, SOCK_STREAM, e);
}

static int in_use(const char *path, int fd, struct err *e)
{
    struct vu_peer owner;

    vu_sock_peer(fd, &owner);
    if (!owner.pid) { /* a datagram socket does not say whose it is */
        return err_set(e, -EADDRINUSE,
                       "socket %s is in use by another process; stop it or choose another --rundir "
                       "or port name",
                       path);
    }
    return err_set(e, -EADDRINUSE,
                   "socket %s is in use by process %ld (%s); stop it or choose another --rundir "
                   "or port name",
                   path, (long)owner.pid, owner.comm);
}

/* Make path free for bind(), if it is a socket that nobody answers on. */
static int remove_stale(const char *path, int type, struct err *e)
{
    struct stat st;
    struct err why;

    if (lstat(path, &st)) {
        return errno == ENOENT ? 0
                               : err_set(e, -errno, "cannot look at %s: %s", path, strerror(errno));
    }
    if (!S_ISSOCK(st.st_mode)) {
        return err_set(e, -EEXIST,
                       "%s exists and is not a socket; remove it or choose another --rundir", path);
    }
    int fd = connect_to(path, type, &why);
    if (fd >= 0) {
        int rc = in_use(path, fd, e);
        close(fd);
        return rc;
    }
    if (fd == -EAGAIN) { /* a full backlog: somebody listens, but we cannot ask who */
        return err_set(e, -EADDRINUSE,
                       "socket %s is in use by a process that does not accept; stop it or choose "
                       "another --rundir or port name",
                       path);
    }
    if (fd != -ECONNREFUSED) {
        return err_set(e, fd,
                       "socket %s exists and it is not known whether it is in use (%s); "
                       "remove it or choose another --rundir",
                       path, strerror(-fd));
    }
    if (unlink(path) && errno != ENOENT) {
        return err_set(e, -errno, "cannot remove the stale socket %s: %s", path, strerror(errno));
    }
    return 0;
}

static int bind_error(const char *path, int code, struct err *e)
{
    const char *slash = strrchr(path, '/');
    int dir_len = slash ? (int)(slash - path) : 1;
    const char *dir = slash ? path : ".";

    switch (code) {
    case -ENOENT:
        return err_set(e, code,
                       "cannot make socket %s: directory %.*s does not exist; create it or "
                       "choose another --rundir",
                       path, dir_len, dir);
    case -EACCES:
    case -EROFS:
        return err_set(e, code,
                       "cannot make socket %s: no write permission in %.*s; choose a "
                       "--rundir of your own",
                       path, dir_len, dir);
    default:
        return err_set(e, code, "cannot make socket %s: %s", path, strerror(-code));
    }
}

static int set_access(const char *path, uid_t uid, gid_t gid, mode_t mode, struct err *e)
{
    if ((uid != (uid_t)-1 || gid != (gid_t)-1) &&
        fchownat(AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)) {
        return err_set(e, -errno,
                       "cannot give socket %s to owner %ld, group %ld: %s; only root may "
                       "change the owner, and the group only to one of yours",
                       path, (long)(int)uid, (long)(int)gid, strerror(errno));
    }
    /* chmod(path) would follow a link that somebody put there meanwhile: hold the socket itself. */
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    char held[40];
    struct stat st;
    int rc = 0;

    snprintf(held, sizeof(held), "/proc/self/fd/%d", fd);
    if (fd < 0 || fstat(fd, &st)) {
        rc = err_set(e, -errno, "cannot look at socket %s: %s", path, strerror(errno));
    } else if (!S_ISSOCK(st.st_mode)) {
        rc = err_set(e, -EEXIST,
                     "%s was replaced by something that is no socket; use a directory that only "
                     "the switch can write",
                     path);
    } else if (chmod(held, mode)) {
        rc = err_set(e, -errno, "cannot set mode %03o on socket %s: %s", (unsigned)mode, path,
                     strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

int vu_sock_listen(const char *path, int type, uid_t uid, gid_t gid, mode_t mode,
                   struct vu_sock_file *made, struct err *e)
{
    struct sockaddr_un sa;
    struct stat st;
    int rc = make_addr(path, &sa, e);

    rc = rc ? rc : remove_stale(path, type, e);
    int fd = rc ? rc : new_socket(type, e);
    if (fd < 0) {
        return fd;
    }
    /* bind() creates the file with this mode less the umask: never more than was asked for. */
    if (fchmod(fd, mode & 0700) || bind(fd, (struct sockaddr *)&sa, sizeof(sa))) {
        rc = bind_error(path, -errno, e);
        close(fd);
        return rc;
    }
    rc = set_access(path, uid, gid, mode, e);
    if (!rc && ((type == SOCK_STREAM && listen(fd, BACKLOG)) || lstat(path, &st))) {
        rc = err_set(e, -errno, "cannot listen on %s: %s", path, strerror(errno));
    }
    if (rc) {
        unlink(path);
        close(fd);
        return rc;
    }
    *made = (struct vu_sock_file){.dev = st.st_dev, .ino = st.st_ino};
    return fd;
}

void vu_sock_unlink(const char *path, const struct vu_sock_file *made)
{
    struct stat st;

    if (!lstat(path, &st) && st.st_dev == made->dev && st.st_ino == made->ino) {
        unlink(path);
    }
}

/* Append the fds of one control message; false if there is no room (then they are closed). */
static bool take_fds(const struct cmsghdr *c, int *fd, uint32_t *n_fds, uint32_t max)
{
    size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    bool all = true;

    for (size_t i = 0; i < n; i++) {
        int one;

        memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof(one));
        if (*n_fds < max) {
            fd[(*n_fds)++] = one;
        } else {
            fd_discard(one);
            all = false;
        }
    }
    return all;
}

ssize_t vu_sock_recv(int s, void *buf, size_t len, int *fd, uint32_t *n_fds, uint32_t max)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(VU_MAX_FDS * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    uint32_t before = *n_fds;
    ssize_t got;

    do {
        got = recvmsg(s, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return -errno;
    }
    bool whole = !(mh.msg_flags & MSG_CTRUNC);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            whole = take_fds(c, fd, n_fds, max) && whole;
        }
    }
    if (!whole) {
        while (*n_fds > before) {
            fd_discard(fd[--*n_fds]);
        }
        return -EPROTO;
    }
    return got;
}
