/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/vu_meet.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define BACKOFF_MIN_MS  100
#define BACKOFF_MAX_MS  2000
#define LASTING_NS      2000000000ull /* a connection that lived this long starts the back-off anew */
#define NO_FDS_PAUSE_MS 1000

struct vu_meet {
    struct vu_meet_conf conf; /* name and path are our copies */
    const struct vu_meet_ops *ops;
    void *ctx;
    struct event_base *evbase;
    char *name, *path;
    bool closed;
    bool together;
    struct vu_peer peer; /* all zero while not together */
    uint64_t met_ns;
    int listen_fd; /* -1 in client mode, or while closed */
    struct vu_sock_file made;
    struct event *acceptable;
    struct event *timer; /* client: next dial; server: accept again after running out of fds */
    unsigned backoff_ms;
    int dial_code; /* what the last dial failed with, to log each cause once */
};

static void wait_ms(struct vu_meet *m, unsigned ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    event_add(m->timer, &tv);
}

bool vu_meet_hung_up(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};

    return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLRDHUP | POLLERR);
}

/* False: not with this one. */
static bool meet(struct vu_meet *m, int fd)
{
    vu_sock_peer(fd, &m->peer);
    m->together = true;
    m->met_ns = clock_ns();
    if (m->ops->met(m->ctx, fd, &m->peer)) {
        return true;
    }
    m->together = false;
    m->peer = (struct vu_peer){0};
    return false;
}

void vu_meet_parted(struct vu_meet *m)
{
    bool lasted = clock_ns() - m->met_ns >= LASTING_NS;

    m->together = false;
    m->peer = (struct vu_peer){0};
    if (m->conf.client && !m->closed) {
        m->backoff_ms = lasted ? BACKOFF_MIN_MS : MIN(m->backoff_ms * 2, BACKOFF_MAX_MS);
        wait_ms(m, m->backoff_ms);
    }
}

/* --- server ----------------------------------------------------------------------------------- */

static void turn_away(struct vu_meet *m, int fd)
{
    struct vu_peer peer;

    vu_sock_peer(fd, &peer);
    log_warn_limited("%s: process %ld (%s) connected to %s, where process %ld (%s) is connected; "
                     "closed it. A port takes one %s: give the other a port of its own",
                     m->name, (long)peer.pid, peer.comm, m->path, (long)m->peer.pid, m->peer.comm,
                     m->conf.whom);
    close(fd);
}

static void on_acceptable(evutil_socket_t s, short what, void *arg)
{
    struct vu_meet *m = arg;
    int fd = accept4(s, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            log_warn_limited("%s: cannot accept a %s: %s; raise the limit on open files "
                             "(ulimit -n)",
                             m->name, m->conf.whom, strerror(errno));
            event_del(m->acceptable); /* it would stay ready and spin */
            wait_ms(m, NO_FDS_PAUSE_MS);
        }
        return;
    }
    if (m->together && !m->ops->left(m->ctx)) {
        turn_away(m, fd);
    } else {
        meet(m, fd);
    }
}

static int start_server(struct vu_meet *m, struct err *e)
{
    const struct vu_meet_conf *c = &m->conf;
    int fd = vu_sock_listen(m->path, SOCK_STREAM, c->owner, c->group, c->mode, &m->made, e);

    if (fd < 0) {
        return fd;
    }
    m->listen_fd = fd;
    m->acceptable = event_new(m->evbase, fd, EV_READ | EV_PERSIST, on_acceptable, m);
    if (!m->acceptable || event_add(m->acceptable, NULL)) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    return 0;
}

static void stop_server(struct vu_meet *m)
{
    if (m->acceptable) {
        event_free(m->acceptable);
        m->acceptable = NULL;
    }
    if (m->listen_fd >= 0) {
        close(m->listen_fd);
        m->listen_fd = -1;
    }
}

/* --- client ----------------------------------------------------------------------------------- */

static void dial(struct vu_meet *m)
{
    struct err e = {0};
    int fd = vu_sock_connect(m->path, &e);

    if (fd >= 0 && meet(m, fd)) {
        m->dial_code = 0;
        return;
    }
    if (fd < 0 && e.code != m->dial_code) {
        m->dial_code = e.code;
        log_info("%s: %s; will try again until a %s listens there", m->name, e.text, m->conf.whom);
        m->ops->missed(m->ctx, &e);
    }
    m->backoff_ms = MIN(m->backoff_ms * 2, BACKOFF_MAX_MS);
    wait_ms(m, m->backoff_ms);
}

static void on_timer(evutil_socket_t s, short what, void *arg)
{
    struct vu_meet *m = arg;

    if (m->conf.client) {
        dial(m);
    } else {
        event_add(m->acceptable, NULL);
    }
}

/* --- for the owner ---------------------------------------------------------------------------- */

int vu_meet_create(struct vu_meet **out, const struct vu_meet_conf *conf, const struct vu_meet_ops *ops,
                   void *ctx, struct event_base *evbase, struct err *e)
{
    struct vu_meet *m = calloc(1, sizeof(*m));
    int rc = 0;

    if (!m) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    *m = (struct vu_meet){.conf = *conf,
                          .ops = ops,
                          .ctx = ctx,
                          .evbase = evbase,
                          .listen_fd = -1,
                          .backoff_ms = BACKOFF_MIN_MS / 2};
    m->conf.name = m->name = strdup(conf->name);
    m->conf.path = m->path = strdup(conf->path);
    m->timer = evtimer_new(evbase, on_timer, m);
    if (!m->name || !m->path || !m->timer) {
        rc = err_set(e, -ENOMEM, "out of memory");
    } else if (conf->client) {
        wait_ms(m, 0);
    } else {
        rc = start_server(m, e);
    }
    if (rc) {
        vu_meet_destroy(m);
        return rc;
    }
    *out = m;
    return 0;
}

void vu_meet_destroy(struct vu_meet *m)
{
    if (!m) {
        return;
    }
    if (!m->conf.client) {
        vu_sock_unlink(m->path, &m->made);
    }
    stop_server(m);
    if (m->timer) {
        event_free(m->timer);
    }
    free(m->name);
    free(m->path);
    free(m);
}

void vu_meet_close(struct vu_meet *m)
{
    m->closed = true;
    event_del(m->timer);
    stop_server(m);
}

int vu_meet_open(struct vu_meet *m, struct err *e)
{
    if (m->conf.client && !m->together) {
        m->backoff_ms = BACKOFF_MIN_MS / 2;
        wait_ms(m, 0);
    } else if (!m->conf.client) {
        int rc = start_server(m, e);

        if (rc) {
            stop_server(m);
            return rc;
        }
    }
    m->closed = false;
    return 0;
}

const char *vu_meet_path(const struct vu_meet *m)
{
    return m->path;
}

const struct vu_peer *vu_meet_peer(const struct vu_meet *m)
{
    return &m->peer;
}

const char *vu_meet_state(const struct vu_meet *m)
{
    return m->closed        ? "down"
           : m->together    ? "connected"
           : m->conf.client ? "dialling"
                            : "listening";
}
