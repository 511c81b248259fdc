/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a vhost-user device: its socket, its one connection, and what is left after it.
 *
 *   server   listening ---- accept ----> connected ---- over ----> listening
 *   client   dialling  --- connect() --> connected ---- over ----> dialling, with back-off
 *   either   whatever -- link down --> down -- link up --> listening or dialling
 *
 * The listening socket stays open while a front-end is connected; a second one is told by the end
 * of file.  When a connection ends, the order is: rings stopped (barriers), owner told, fds closed,
 * memory unmapped.  What is configured, and what is known for show, stays.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "vhost/vu_dev.h"
#include "vnet/features.h"

#define BACKOFF_MIN_MS  100
#define BACKOFF_MAX_MS  2000
#define LASTING_NS      2000000000ull /* a connection that lived this long starts the back-off anew */
#define NO_FDS_PAUSE_MS 1000

/* Tests shorten these. */
static unsigned deadline_ms = VU_DEADLINE_MS;
static unsigned watch_ms = 2000;

static void set_timer(struct event *timer, unsigned ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    event_add(timer, &tv);
}

void vu_dev_watch(struct vu_dev *d)
{
    if (!d->told_unshared && !event_pending(d->watch, EV_TIMEOUT, NULL)) {
        set_timer(d->watch, watch_ms);
    }
}

static void on_watch(evutil_socket_t s, short what, void *arg)
{
    struct vu_dev *d = arg;

    if (vu_rings_watch(d)) {
        set_timer(d->watch, watch_ms);
    }
}

void vu_dev_refused(struct vu_dev *d, const struct err *e)
{
    d->n_refused++;
    snprintf(d->last_error, sizeof(d->last_error), "%s", e->text);
    log_warn_limited("%s: %s", d->name, e->text);
}

/* --- a connection begins and ends ------------------------------------------------------------- */

/* What belongs to one connection goes; e is why, with code 0 for an ordinary end. */
static void disconnect(struct vu_dev *d, const struct err *e)
{
    if (!d->conn) {
        return;
    }
    vu_ring_free_all(d);
    vu_conn_close(d->conn);
    d->conn = NULL;
    gmem_free(d->mem);
    d->mem = NULL;
    vu_inflight_disconnect(d);
    d->protocol_features = d->features = 0;
    d->features_set = d->features_bad = d->told_unshared = d->told_rings = false;
    event_del(d->watch);
    d->status = 0;
    d->mtu = 0;
    d->peer = (struct vu_peer){0};
    if (d->channel_fd >= 0) {
        close(d->channel_fd);
        d->channel_fd = -1;
    }
    if (e->code) {
        vu_dev_refused(d, e);
    } else {
        snprintf(d->last_error, sizeof(d->last_error), "%s", e->text);
    }
    d->ops->link(d->ctx, false, d->last_error);
}

static void on_over(void *ctx, const struct err *e)
{
    struct vu_dev *d = ctx;
    bool lasted = clock_ns() - d->connected_ns >= LASTING_NS;

    disconnect(d, e);
    if (d->conf.client && !d->down) {
        d->backoff_ms = lasted ? BACKOFF_MIN_MS : MIN(d->backoff_ms * 2, BACKOFF_MAX_MS);
        set_timer(d->timer, d->backoff_ms);
    }
}

static int on_message(void *ctx, struct vu_msg *m, struct err *e)
{
    return vu_dev_message(ctx, m, e);
}

static const struct vu_conn_ops conn_ops = {.message = on_message, .over = on_over};

static int connected(struct vu_dev *d, int fd)
{
    char who[128];

    vu_sock_peer(fd, &d->peer);
    d->conn = vu_conn_open(d->evbase, fd, deadline_ms, &conn_ops, d);
    if (!d->conn) {
        log_error("%s: out of memory for a connection", d->name);
        return -ENOMEM;
    }
    d->n_connects++;
    d->connected_ns = clock_ns();
    snprintf(who, sizeof(who), "process %ld (%s)", (long)d->peer.pid, d->peer.comm);
    d->ops->link(d->ctx, true, who);
    return 0;
}

/* --- server ----------------------------------------------------------------------------------- */

static void turn_away(struct vu_dev *d, int fd)
{
    struct vu_peer peer;

    vu_sock_peer(fd, &peer);
    log_warn_limited("%s: process %ld (%s) connected to %s, where process %ld (%s) is connected; "
                     "closed it. A port takes one front-end: give the other a port of its own",
                     d->name, (long)peer.pid, peer.comm, d->path, (long)d->peer.pid, d->peer.comm);
    close(fd);
}

static void on_acceptable(evutil_socket_t s, short what, void *arg)
{
    struct vu_dev *d = arg;
    int fd = accept4(s, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            log_warn_limited("%s: cannot accept a front-end: %s; raise the limit on open files "
                             "(ulimit -n)",
                             d->name, strerror(errno));
            event_del(d->acceptable); /* it would stay ready and spin */
            set_timer(d->timer, NO_FDS_PAUSE_MS);
        }
        return;
    }
    if (d->conn && vu_conn_hung_up(d->conn)) { /* the old one left; we only hear of it later */
        disconnect(d, &(struct err){.text = "the front-end closed the connection"});
    }
    if (d->conn) {
        turn_away(d, fd);
    } else {
        connected(d, fd);
    }
}

/* --- client ----------------------------------------------------------------------------------- */

static void dial(struct vu_dev *d)
{
    struct err e = {0};
    int fd = vu_sock_connect(d->path, &e);

    if (fd >= 0 && !connected(d, fd)) {
        d->dial_code = 0;
        return;
    }
    if (fd < 0 && e.code != d->dial_code) {
        d->dial_code = e.code;
        snprintf(d->last_error, sizeof(d->last_error), "%s", e.text);
        log_info("%s: %s; will try again until a front-end listens there", d->name, e.text);
    }
    d->backoff_ms = MIN(d->backoff_ms * 2, BACKOFF_MAX_MS);
    set_timer(d->timer, d->backoff_ms);
}

static void on_timer(evutil_socket_t s, short what, void *arg)
{
    struct vu_dev *d = arg;

    if (d->conf.client) {
        dial(d);
    } else {
        event_add(d->acceptable, NULL);
    }
}

/* --- for the owner ---------------------------------------------------------------------------- */

static int start_server(struct vu_dev *d, struct err *e)
{
    int fd = vu_sock_listen(d->path, d->conf.owner, d->conf.group, d->conf.mode, &d->made, e);

    if (fd < 0) {
        return fd;
    }
    d->listen_fd = fd;
    d->acceptable = event_new(d->evbase, fd, EV_READ | EV_PERSIST, on_acceptable, d);
    if (!d->acceptable || event_add(d->acceptable, NULL)) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    return 0;
}

int vu_dev_create(struct vu_dev **out, const struct vu_conf *conf, const struct vu_ops *ops,
                  void *ctx, struct event_base *evbase, struct err *e)
{
    struct vu_dev *d = calloc(1, sizeof(*d));
    int rc = 0;

    if (!d) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    *d = (struct vu_dev){.conf = *conf,
                         .ops = ops,
                         .ctx = ctx,
                         .evbase = evbase,
                         .listen_fd = -1,
                         .channel_fd = -1,
                         .backoff_ms = BACKOFF_MIN_MS / 2};
    d->conf.max_rings = conf->max_rings ? conf->max_rings : VU_MAX_RINGS;
    d->conf.features |= VIRTIO_BIT(F_PROTOCOL_FEATURES);
    d->conf.name = d->name = strdup(conf->name);
    d->conf.path = d->path = strdup(conf->path);
    d->owner.name = d->name;
    d->timer = evtimer_new(evbase, on_timer, d);
    d->watch = evtimer_new(evbase, on_watch, d);
    if (conf->state_path) {
        d->conf.state_path = d->state_path = strdup(conf->state_path);
    }
    if (!d->name || !d->path || !d->timer || !d->watch || (conf->state_path && !d->state_path)) {
        rc = err_set(e, -ENOMEM, "out of memory");
    } else if (conf->client) {
        set_timer(d->timer, 0); /* from the event loop: link() must not come before *out is set */
    } else {
        rc = start_server(d, e);
    }
    if (rc) {
        d->conf.state_path = NULL; /* it stays for the next try */
        vu_dev_destroy(d);
        return rc;
    }
    vu_inflight_found(d);
    *out = d;
    return 0;
}

static void stop_server(struct vu_dev *d)
{
    if (d->acceptable) {
        event_free(d->acceptable);
        d->acceptable = NULL;
    }
    if (d->listen_fd >= 0) {
        close(d->listen_fd);
        d->listen_fd = -1;
    }
}

int vu_dev_set_link(struct vu_dev *d, bool up, struct err *e)
{
    if (up == !d->down) {
        return 0;
    }
    if (!up) {
        d->down = true;
        event_del(d->timer);
        stop_server(d);
        if (vu_config_taken(d)) {
            vu_ring_stop_all(d);
            vu_config_changed(d);
        } else {
            disconnect(d, &(struct err){.text = "the link was set down"});
        }
        return 0;
    }
    if (d->conf.client && !d->conn) {
        d->backoff_ms = BACKOFF_MIN_MS / 2;
        set_timer(d->timer, 0);
    } else if (!d->conf.client) {
        int rc = start_server(d, e);

        if (rc) {
            stop_server(d);
            return rc;
        }
    }
    d->down = false;
    if (d->conn) {
        vu_config_changed(d);
        vu_ring_try_all(d);
    }
    return 0;
}

void vu_dev_destroy(struct vu_dev *d)
{
    if (!d) {
        return;
    }
    disconnect(d, &(struct err){.text = "the port was removed"});
    vu_inflight_end(d);
    if (!d->conf.client) {
        vu_sock_unlink(d->path, &d->made);
    }
    stop_server(d);
    if (d->timer) {
        event_free(d->timer);
    }
    if (d->watch) {
        event_free(d->watch);
    }
    free(d->name);
    free(d->path);
    free(d->state_path);
    free(d);
}

void vu_dev_kill(struct vu_dev *d, const char *why)
{
    struct err e;

    if (d->conn) {
        err_set(&e, -EIO, "%s", why);
        on_over(d, &e);
    }
}

void vu_dev_info(const struct vu_dev *d, struct vu_info *out)
{
    *out = (struct vu_info){.client = d->conf.client,
                            .connected = d->conn != NULL,
                            .path = d->path,
                            .last_error = d->last_error,
                            .peer_pid = d->peer.pid,
                            .offered = d->conf.features,
                            .negotiated = d->features,
                            .protocol_features = d->protocol_features,
                            .n_rings = d->n_rings,
                            .n_regions = d->mem ? d->mem->n : 0,
                            .mem_bytes = gmem_bytes(d->mem),
                            .node = gmem_node(d->mem),
                            .mtu = d->mtu,
                            .status = d->status,
                            .n_messages = d->n_messages,
                            .n_refused = d->n_refused,
                            .n_connects = d->n_connects};
    out->state = vu_ring_any_running(d) ? "running"
                 : d->down              ? "down"
                 : d->conn              ? "connected"
                 : d->conf.client       ? "dialling"
                                        : "listening";
}

bool vu_dev_ring_info(const struct vu_dev *d, unsigned idx, struct vu_ring_info *out)
{
    const struct vu_ring *r = idx < VU_MAX_RINGS ? d->ring[idx] : NULL;

    if (!r) {
        return false;
    }
    *out = (struct vu_ring_info){.running = r->running,
                                 .enabled = vu_ring_enabled(d, r),
                                 .broken = r->broken || r->failed,
                                 .num = r->num,
                                 .base = r->base,
                                 .polled = r->have_kick && r->kick_fd < 0,
                                 .why = vu_ring_why(d, r)};
    return true;
}
