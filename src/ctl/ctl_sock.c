/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Newline-delimited JSON over a UNIX stream socket, on the event loop of the control thread.
 *
 * No client can cost more than its own connection: a request is at most CTL_LINE_MAX bytes, a
 * client that does not read its answers is not read from either, an unfinished request or an unread
 * answer has a deadline, and there are at most CLIENTS_MAX connections.  A client that has said all
 * it wanted (shut down its sending side) still gets its answers.
 */
#include "ctl/ctl_sock.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "port/capture.h"

#define CLIENTS_MAX       64
#define IDLE_S            120 /* a connection that says nothing */
#define UNFINISHED_S      10  /* a request from its first byte on, an answer that nobody reads */
#define REQUESTS_PER_TURN 8   /* then other connections have their turn */

struct client {
    struct ctl_sock *sock;
    struct bufferevent *bev;
    struct event *again; /* more complete requests wait than one turn handles */
    struct event *late;  /* the deadline of a request that has begun */
    struct capture *capture; /* ends with the connection, and the connection with the next request */
    struct client *next, **prev;
    bool closing;  /* close when the last answer has gone out */
    bool stopping; /* the same, and then end the event loop */
};

struct ctl_sock {
    struct ctl *ctl;
    struct event_base *base;
    struct evconnlistener *listener;
    struct event *tick, *resume;
    struct client *clients;
    unsigned n_clients;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static void client_free(struct client *cl)
{
    *cl->prev = cl->next;
    if (cl->next) {
        cl->next->prev = cl->prev;
    }
    cl->sock->n_clients--;
    if (cl->capture) {
        capture_stop(cl->capture);
    }
    event_free(cl->again);
    event_free(cl->late);
    bufferevent_free(cl->bev);
    free(cl);
}

/* Bytes that trickle in do not move the deadline of their request. */
static void set_deadline(struct client *cl)
{
    const struct timeval left = {UNFINISHED_S, 0};

    if (evbuffer_get_length(bufferevent_get_input(cl->bev)) == 0) {
        event_del(cl->late);
    } else if (!event_pending(cl->late, EV_TIMEOUT, NULL)) {
        event_add(cl->late, &left);
    }
}

static void answer(struct client *cl, const char *text)
{
    struct evbuffer *out = bufferevent_get_output(cl->bev);

    evbuffer_add(out, text, strlen(text));
    evbuffer_add(out, "\n", 1);
}

/* The same with the memory and the eventfd of a capture: they travel with the first byte. The output
 * is empty. A socket that takes nothing now belongs to a peer that gets nothing. */
static bool answer_capture(struct client *cl, const char *text)
{
    int fds[2] = {capture_mem(cl->capture)->fd, capture_eventfd(cl->capture)};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(fds))];
    } control = {.room = {0}};
    struct iovec iov[2] = {{(void *)(uintptr_t)text, strlen(text)}, {(void *)(uintptr_t)"\n", 1}};
    struct msghdr msg = {.msg_iov = iov,
                         .msg_iovlen = ARRAY_SIZE(iov),
                         .msg_control = control.room,
                         .msg_controllen = sizeof(control.room)};
    const struct timeval unread = {UNFINISHED_S, 0};

    control.head = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fds))};
    memcpy(CMSG_DATA(&control.head), fds, sizeof(fds));
    ssize_t n = sendmsg(bufferevent_getfd(cl->bev), &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n <= 0) {
        return false;
    }
    if ((size_t)n <= iov[0].iov_len) {
        answer(cl, text + n);
    }
    bufferevent_set_timeouts(cl->bev, NULL, &unread); /* it lasts as long as its reader likes */
    return true;
}

/* Nothing more is read; what is in the output still goes out. */
static void close_after_answers(struct client *cl)
{
    cl->closing = true;
    bufferevent_disable(cl->bev, EV_READ);
}

static void handle_line(struct client *cl, const char *line, size_t len)
{
    char *text;

    if (len == 0) {
        return;
    }
    text = ctl_handle(cl->sock->ctl, line, len);
    cl->capture = ctl_take_capture(cl->sock->ctl);
    if (cl->capture && (!text || !answer_capture(cl, text))) {
        cl->closing = true;
    } else if (text && !cl->capture) {
        answer(cl, text);
    }
    free(text);
    if (ctl_stop_requested(cl->sock->ctl)) {
        cl->stopping = true;
        close_after_answers(cl);
    }
}

/* The end of the connection, as soon as the output is empty. */
static void maybe_finish(struct client *cl)
{
    if (!cl->closing || evbuffer_get_length(bufferevent_get_output(cl->bev))) {
        return;
    }
    if (cl->stopping) {
        event_base_loopbreak(cl->sock->base);
    }
    client_free(cl);
}

/* Handles what has been read. cl may be gone afterwards. */
static void serve(struct client *cl)
{
    struct evbuffer *in = bufferevent_get_input(cl->bev);
    struct evbuffer *out = bufferevent_get_output(cl->bev);

    for (int turn = 0; !cl->closing; turn++) {
        size_t len;
        char *line;

        if (cl->capture && evbuffer_get_length(in)) {
            close_after_answers(cl);
            break;
        }
        if (evbuffer_get_length(out)) {
            bufferevent_disable(cl->bev, EV_READ); /* on_written() goes on */
            return;
        }
        if (turn == REQUESTS_PER_TURN) {
            event_active(cl->again, EV_TIMEOUT, 0);
            return;
        }
        line = evbuffer_readln(in, &len, EVBUFFER_EOL_LF);
        if (!line) {
            break;
        }
        event_del(cl->late);
        handle_line(cl, line, len);
        free(line);
    }
    if (!cl->closing && evbuffer_get_length(in) > CTL_LINE_MAX) {
        answer(cl, ctl_too_long());
        close_after_answers(cl);
    }
    set_deadline(cl);
    maybe_finish(cl);
}

static void on_read(struct bufferevent *bev, void *arg)
{
    serve(arg);
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    serve(arg);
}

static void on_late(evutil_socket_t fd, short what, void *arg)
{
    client_free(arg);
}

static void on_written(struct bufferevent *bev, void *arg)
{
    struct client *cl = arg;

    if (cl->closing) {
        maybe_finish(cl);
        return;
    }
    bufferevent_enable(bev, EV_READ);
    serve(cl);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    struct client *cl = arg;

    if ((what & BEV_EVENT_EOF) && evbuffer_get_length(bufferevent_get_output(bev))) {
        close_after_answers(cl);
        return;
    }
    if (cl->stopping) {
        event_base_loopbreak(cl->sock->base);
    }
    client_free(cl);
}

static bool client_create(struct ctl_sock *s, int fd)
{
    const struct timeval idle = {IDLE_S, 0}, unread = {UNFINISHED_S, 0};
    struct client *cl = calloc(1, sizeof(*cl));

    if (!cl) {
        return false;
    }
    cl->sock = s;
    cl->bev = bufferevent_socket_new(s->base, -1, BEV_OPT_CLOSE_ON_FREE);
    cl->again = event_new(s->base, -1, 0, on_again, cl);
    cl->late = event_new(s->base, -1, 0, on_late, cl);
    if (!cl->bev || !cl->again || !cl->late || bufferevent_setfd(cl->bev, fd)) {
        if (cl->bev) {
            bufferevent_free(cl->bev);
        }
        if (cl->again) {
            event_free(cl->again);
        }
        if (cl->late) {
            event_free(cl->late);
        }
        free(cl);
        return false;
    }
    cl->next = s->clients;
    cl->prev = &s->clients;
    if (cl->next) {
        cl->next->prev = &cl->next;
    }
    s->clients = cl;
    s->n_clients++;
    bufferevent_setcb(cl->bev, on_read, on_written, on_event, cl);
    /* Room for one request that is too long, so that it can be told. */
    bufferevent_setwatermark(cl->bev, EV_READ, 0, CTL_LINE_MAX + 1);
    bufferevent_set_timeouts(cl->bev, &idle, &unread);
    bufferevent_enable(cl->bev, EV_READ | EV_WRITE);
    return true;
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *addr, int len,
                      void *arg)
{
    static const char full[] = "{\"jsonrpc\": \"2.0\", \"error\": {\"code\": -32000, \"message\": "
                               "\"too many control connections\"}, \"id\": null}\n";
    struct ctl_sock *s = arg;

    if (s->n_clients == CLIENTS_MAX || !client_create(s, fd)) {
        /* A fresh socket has room for one line; if not, the close says enough. */
        (void)!send(fd, full, sizeof(full) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        close(fd);
    }
}

/* Out of descriptors: pause instead of spinning on a listener that stays readable. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
    struct ctl_sock *s = arg;
    struct timeval pause = {1, 0};

    log_warn_limited("cannot accept a control connection: %s", strerror(errno));
    evconnlistener_disable(l);
    event_add(s->resume, &pause);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    struct ctl_sock *s = arg;

    evconnlistener_enable(s->listener);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct ctl_sock *s = arg;

    ctl_tick(s->ctl);
}

static int listen_on(struct ctl_sock *s, const char *path, struct err *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        return err_set(e, -ENAMETOOLONG,
                       "the control socket %s is longer than the %zu bytes that the system allows; "
                       "choose a shorter --rundir",
                       path, sizeof(addr.sun_path) - 1);
    }
    memcpy(addr.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return err_set(e, -errno, "cannot make the control socket: %s", strerror(errno));
    }
    unlink(path);

    /* The mode must be right from the first moment: chmod after bind would leave a gap. */
    mode_t old = umask(0777 & ~CTL_SOCK_MODE);
    int rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 64) ? -errno : 0;

    umask(old);
    if (rc) {
        close(fd);
        return err_set(e, rc, "cannot listen on %s: %s", path, strerror(-rc));
    }
    memcpy(s->path, path, strlen(path) + 1);
    s->listener = evconnlistener_new(s->base, on_accept, s,
                                     LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (!s->listener) {
        close(fd);
        return err_set(e, -ENOMEM, "out of memory");
    }
    evconnlistener_set_error_cb(s->listener, on_accept_error);
    return 0;
}

int ctl_sock_create(struct ctl_sock **out, struct ctl *c, struct event_base *base, const char *path,
                    struct err *e)
{
    struct timeval second = {1, 0};
    struct ctl_sock *s = calloc(1, sizeof(*s));
    int rc;

    if (!s) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    s->ctl = c;
    s->base = base;
    rc = listen_on(s, path, e);
    if (!rc) {
        s->tick = event_new(base, -1, EV_PERSIST, on_tick, s);
        s->resume = event_new(base, -1, 0, on_resume, s);
        if (!s->tick || !s->resume || event_add(s->tick, &second)) {
            rc = err_set(e, -ENOMEM, "out of memory");
        }
    }
    if (rc) {
        ctl_sock_destroy(s);
        return rc;
    }
    *out = s;
    return 0;
}

void ctl_sock_destroy(struct ctl_sock *s)
{
    if (!s) {
        return;
    }
    while (s->clients) {
        client_free(s->clients);
    }
    if (s->listener) {
        evconnlistener_free(s->listener);
    }
    if (s->tick) {
        event_free(s->tick);
    }
    if (s->resume) {
        event_free(s->resume);
    }
    if (s->path[0]) {
        unlink(s->path);
    }
    free(s);
}
