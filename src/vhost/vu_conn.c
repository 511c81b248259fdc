/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/vu_conn.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "vhost/vu_sock.h"

/* Messages per turn of the event loop: a chatty peer does not keep the others waiting. */
#define MESSAGES_PER_TURN 32
#define REPLY_MAX         (sizeof(struct vu_hdr) + sizeof(struct vu_config)) /* the longest one */

struct vu_conn {
    int fd;
    const struct vu_conn_ops *ops;
    void *ctx;
    struct event *readable, *writable, *deadline;
    unsigned deadline_ms;

    uint32_t got;      /* bytes of the present message, header included */
    struct vu_msg msg; /* being assembled */

    uint8_t out[REPLY_MAX];
    uint32_t out_len; /* 0: nothing waits */
    int out_fd;       /* goes out with the first byte; -1: none */
};

static void over(struct vu_conn *c, const struct err *e)
{
    c->ops->over(c->ctx, e); /* frees c */
}

static void over_text(struct vu_conn *c, int code, const char *text)
{
    struct err e;

    err_set(&e, code, "%s", text);
    over(c, &e);
}

static void start_deadline(struct vu_conn *c)
{
    struct timeval tv = {.tv_sec = c->deadline_ms / 1000, .tv_usec = c->deadline_ms % 1000 * 1000};

    if (!event_pending(c->deadline, EV_TIMEOUT, NULL)) { /* a dribble does not move it */
        event_add(c->deadline, &tv);
    }
}

static void close_fds(struct vu_msg *m)
{
    for (uint32_t i = 0; i < m->n_fds; i++) {
        fd_discard(m->fd[i]);
    }
    m->n_fds = 0;
}

/* recvmsg returned n <= 0. Always negative; e->code tells an ordinary end (0) from a fault. */
static int stream_end(const struct vu_conn *c, int n, struct err *e)
{
    if (c->got) {
        err_set(e, -EPROTO, "the front-end left in the middle of a message");
    } else if (n && n != -ECONNRESET) {
        err_set(e, n, "cannot read: %s", strerror(-n));
    } else {
        err_set(e, 0, "the front-end closed the connection");
    }
    return -EPIPE;
}

/* Read what is missing of the present part. 1: message is whole, 0: not yet, < 0: over. */
static int assemble(struct vu_conn *c, struct err *e)
{
    struct vu_msg *m = &c->msg;

    for (;;) {
        bool in_header = c->got < sizeof(m->h);
        uint32_t end = (uint32_t)sizeof(m->h) + (in_header ? 0 : m->h.size);
        uint8_t *to = in_header ? (uint8_t *)&m->h + c->got : m->p.bytes + c->got - sizeof(m->h);

        if (c->got == end) {
            return 1;
        }
        ssize_t n = vu_sock_recv(c->fd, to, end - c->got, m->fd, &m->n_fds, VU_MAX_FDS);
        if (n == -EAGAIN) {
            return 0;
        }
        if (n == -EPROTO) {
            return err_set(e, -EPROTO,
                           "a message came with more than %d file descriptors, or more "
                           "than this process may hold (see RLIMIT_NOFILE)",
                           VU_MAX_FDS);
        }
        if (n <= 0) {
            return stream_end(c, (int)n, e);
        }
        c->got += (uint32_t)n;
        if (in_header && c->got == sizeof(m->h)) {
            int rc = vu_check_header(&m->h, e);

            if (rc) {
                return rc;
            }
            m->desc = vu_msg_desc(m->h.request);
            memset(&m->p, 0, MAX(sizeof(m->p.table), m->h.size));
        }
    }
}

static int handle(struct vu_conn *c, struct err *e)
{
    int rc = vu_check_message(&c->msg, e);

    if (!rc) {
        rc = c->ops->message(c->ctx, &c->msg, e);
    }
    close_fds(&c->msg);
    c->got = 0;
    return rc;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct vu_conn *c = arg;
    struct err e = {0};
    int rc = 1;

    for (int i = 0; i < MESSAGES_PER_TURN && rc == 1 && !c->out_len; i++) {
        rc = assemble(c, &e);
        if (rc == 1) {
            event_del(c->deadline);
            int failed = handle(c, &e);
            rc = failed ? failed : 1;
        }
    }
    if (rc < 0) {
        over(c, &e);
    } else if (c->got || c->out_len) {
        start_deadline(c);
    }
}

static void drop_out_fd(struct vu_conn *c)
{
    if (c->out_fd >= 0) {
        close(c->out_fd);
        c->out_fd = -1;
    }
}

static ssize_t send_out(const struct vu_conn *c)
{
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.h = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                       .cmsg_len = CMSG_LEN(sizeof(int))}};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)c->out, .iov_len = c->out_len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    if (c->out_fd >= 0) {
        memcpy(CMSG_DATA(&control.h), &c->out_fd, sizeof(int));
        m.msg_control = &control;
        m.msg_controllen = sizeof(control.room);
    }
    return sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* 0: all sent or kept for later. */
static int flush(struct vu_conn *c)
{
    while (c->out_len) {
        ssize_t n = send_out(c);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            event_del(c->readable);
            event_add(c->writable, NULL);
            return 0;
        }
        if (n < 0) {
            return -errno;
        }
        drop_out_fd(c);
        c->out_len -= (uint32_t)n;
        memmove(c->out, c->out + n, c->out_len);
    }
    return 0;
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct vu_conn *c = arg;
    int rc = flush(c);

    if (rc) {
        over_text(c, rc, "the front-end left before it read a reply");
    } else if (!c->out_len) {
        event_del(c->deadline);
        event_del(c->writable);
        event_add(c->readable, NULL);
    }
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    struct vu_conn *c = arg;

    over_text(c, -ETIMEDOUT,
              c->out_len ? "the front-end does not read its replies"
                         : "the front-end began a message and did not finish it in time");
}

int vu_conn_reply(struct vu_conn *c, uint32_t request, const void *payload, uint32_t size)
{
    return vu_conn_reply_fd(c, request, payload, size, -1);
}

int vu_conn_reply_fd(struct vu_conn *c, uint32_t request, const void *payload, uint32_t size, int fd)
{
    struct vu_hdr h = {.request = request, .flags = VU_REPLY_FLAGS, .size = size};

    if (c->out_len || sizeof(h) + size > sizeof(c->out)) {
        if (fd >= 0) {
            close(fd);
        }
        return -ENOBUFS;
    }
    c->out_fd = fd;
    memcpy(c->out, &h, sizeof(h));
    memcpy(c->out + sizeof(h), payload, size);
    c->out_len = (uint32_t)sizeof(h) + size;
    return flush(c);
}

int vu_conn_fd(const struct vu_conn *c)
{
    return c->fd;
}

struct vu_conn *vu_conn_open(struct event_base *evbase, int fd, unsigned deadline_ms,
                             const struct vu_conn_ops *ops, void *ctx)
{
    struct vu_conn *c = calloc(1, sizeof(*c));

    if (!c) {
        close(fd);
        return NULL;
    }
    c->fd = fd;
    c->out_fd = -1;
    c->ops = ops;
    c->ctx = ctx;
    c->deadline_ms = deadline_ms;
    c->readable = event_new(evbase, fd, EV_READ | EV_PERSIST, on_readable, c);
    c->writable = event_new(evbase, fd, EV_WRITE | EV_PERSIST, on_writable, c);
    c->deadline = evtimer_new(evbase, on_deadline, c);
    if (!c->readable || !c->writable || !c->deadline || event_add(c->readable, NULL)) {
        vu_conn_close(c);
        return NULL;
    }
    return c;
}

void vu_conn_close(struct vu_conn *c)
{
    if (!c) {
        return;
    }
    struct event *all[] = {c->readable, c->writable, c->deadline};

    for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
        if (all[i]) {
            event_free(all[i]);
        }
    }
    close_fds(&c->msg);
    drop_out_fd(c);
    close(c->fd);
    free(c);
}
