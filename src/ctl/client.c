/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/ctl_sock.h"
#include "ctl/rundir.h"

#define ANSWER_MAX (16u << 20) /* bytes; no answer of the switch comes near */
#define TIMEOUT_S  30

static int cannot_connect(const char *rundir, int code, struct err *e)
{
    if (code == EACCES || code == EPERM) {
        return err_set(
            e, -code,
            "you may not talk to the switch in %s (its socket has mode 0660): run this as "
            "its user or group",
            rundir);
    }
    if (code == ENOENT || code == ECONNREFUSED || code == ENOTDIR) {
        return err_set(e, -code,
                       "no switch runs in %s; start one with `ringway run`, or name its directory "
                       "with --rundir",
                       rundir);
    }
    return err_set(e, -code, "cannot connect to the switch in %s: %s", rundir, strerror(code));
}

int client_open(struct client *c, const char *rundir, struct err *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct timeval timeout = {TIMEOUT_S, 0};
    char *path;
    int rc;

    *c = (struct client){.fd = -1};
    rc = rundir_choose(&c->rundir, rundir, e);
    if (rc) {
        return rc;
    }
    path = rundir_path(c->rundir, CTL_SOCK_NAME);
    if (!path || strlen(path) >= sizeof(addr.sun_path)) {
        rc = err_set(e, -ENAMETOOLONG, "the run directory %s is too long for a socket", c->rundir);
    } else {
        memcpy(addr.sun_path, path, strlen(path) + 1);
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&addr, sizeof(addr))) {
            rc = cannot_connect(c->rundir, errno, e);
        }
    }
    free(path);
    if (rc) {
        client_close(c);
        return rc;
    }
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    return 0;
}

void client_close(struct client *c)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    for (unsigned i = 0; i < c->n_fds; i++) {
        close(c->fds[i]);
    }
    free(c->rundir);
    free(c->in);
    *c = (struct client){.fd = -1};
}

static int send_all(struct client *c, const char *p, size_t len, struct err *e)
{
    while (len) {
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_set(e, -errno, "the switch in %s does not take the request: %s", c->rundir,
                           strerror(errno));
        }
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int client_take_fd(struct client *c)
{
    int fd = c->n_fds ? c->fds[0] : -1;

    if (c->n_fds) {
        c->n_fds--;
        memmove(c->fds, c->fds + 1, c->n_fds * sizeof(c->fds[0]));
    }
    return fd;
}

/* Keep what came along, close what there is no room for. */
static void take_fds(struct client *c, struct msghdr *msg)
{
    for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
        size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        for (size_t i = 0; h->cmsg_type == SCM_RIGHTS && i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
            if (c->n_fds < CLIENT_FDS) {
                c->fds[c->n_fds++] = fd;
            } else {
                close(fd);
            }
        }
    }
}

static ssize_t receive(struct client *c, void *to, size_t room)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(CLIENT_FDS * sizeof(int))];
    } control;
    struct iovec iov = {to, room};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.room,
                         .msg_controllen = sizeof(control.room)};
    ssize_t n = recvmsg(c->fd, &msg, MSG_CMSG_CLOEXEC);

    if (n >= 0) {
        take_fds(c, &msg);
    }
    return n;
}

static int read_more(struct client *c, struct err *e)
{
    if (c->in_len == c->in_size) {
        size_t size = c->in_size ? c->in_size * 2 : 65536;
        char *bigger = size <= ANSWER_MAX ? realloc(c->in, size) : NULL;

        if (!bigger) {
            return err_set(e, -EMSGSIZE, "the answer of the switch is too long");
        }
        c->in = bigger;
        c->in_size = size;
    }

    ssize_t n = receive(c, c->in + c->in_len, c->in_size - c->in_len);

    if (n < 0 && errno == EINTR) {
        return 0;
    }
    if (n == 0) {
        return err_set(e, -EPIPE, "the switch in %s closed the connection", c->rundir);
    }
    if (n < 0) {
        bool late = errno == EAGAIN || errno == EWOULDBLOCK;

        return err_set(e, -errno, "no answer from the switch in %s%s%s", c->rundir,
                       late ? " for 30 seconds" : ": ", late ? "" : strerror(errno));
    }
    c->in_len += (size_t)n;
    return 0;
}

/* One line of answer, parsed. */
static int read_answer(struct client *c, json_t **answer, struct err *e)
{
    size_t looked = 0;
    json_error_t why;
    char *nl;

    while (!(nl = c->in_len > looked ? memchr(c->in + looked, '\n', c->in_len - looked) : NULL)) {
        int rc;

        looked = c->in_len;
        rc = read_more(c, e);
        if (rc) {
            return rc;
        }
    }
    *answer = json_loadb(c->in, (size_t)(nl - c->in), 0, &why);
    c->in_len -= (size_t)(nl + 1 - c->in);
    memmove(c->in, nl + 1, c->in_len);
    if (!json_is_object(*answer)) {
        json_decref(*answer);
        return err_set(e, -EPROTO, "the answer of the switch is not JSON: %s", why.text);
    }
    return 0;
}

int client_call(struct client *c, const char *method, json_t *params, json_t **result,
                struct err *e)
{
    json_t *req = json_pack("{s:s, s:i, s:s, s:o*}", "jsonrpc", "2.0", "id", (int)++c->next_id,
                            "method", method, "params", params);
    char *line = req ? json_dumps(req, JSON_COMPACT) : NULL;
    json_t *answer = NULL, *error;
    int rc;

    json_decref(req);
    if (!line) {
        return err_set(e, -EINVAL, "an argument is not valid UTF-8");
    }
    rc = send_all(c, line, strlen(line), e);
    free(line);
    if (!rc) {
        rc = send_all(c, "\n", 1, e);
    }
    if (!rc) {
        rc = read_answer(c, &answer, e);
    }
    if (rc) {
        return rc;
    }
    error = json_object_get(answer, "error");
    if (error) {
        const char *text = json_string_value(json_object_get(error, "message"));

        rc = err_set(e, -EREMOTEIO, "%s", text ? text : "the switch refused without a reason");
    } else if (result) {
        *result = json_incref(json_object_get(answer, "result"));
    }
    json_decref(answer);
    return rc;
}
