/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a vhost-user device: its one connection, and what is left after it.  How it comes to a
 * connection is in vu_meet.h.
 *
 * When a connection ends, the order is: rings stopped (barriers), owner told, fds closed, memory
 * unmapped.  What is configured, and what is known for show, stays.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "vhost/vu_dev.h"
#include "vnet/features.h"

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
    gmem_free(d->log);
    d->mem = d->log = NULL;
    d->log_used = false;
    vu_inflight_disconnect(d);
    d->protocol_features = d->features = 0;
    d->features_set = d->features_bad = d->told_unshared = d->told_rings = false;
    event_del(d->watch);
    d->status = 0;
    d->mtu = 0;
    vu_meet_parted(d->meet);
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
    disconnect(ctx, e);
}

static int on_message(void *ctx, struct vu_msg *m, struct err *e)
{
    return vu_dev_message(ctx, m, e);
}

static const struct vu_conn_ops conn_ops = {.message = on_message, .over = on_over};

static bool on_met(void *ctx, int fd, const struct vu_peer *peer)
{
    struct vu_dev *d = ctx;
    char who[128];

    d->conn = vu_conn_open(d->evbase, fd, deadline_ms, &conn_ops, d);
    if (!d->conn) {
        log_error("%s: out of memory for a connection", d->name);
        return false;
    }
    d->n_connects++;
    snprintf(who, sizeof(who), "process %ld (%s)", (long)peer->pid, peer->comm);
    d->ops->link(d->ctx, true, who);
    return true;
}

static bool on_second(void *ctx)
{
    struct vu_dev *d = ctx;

    if (!vu_meet_hung_up(vu_conn_fd(d->conn))) {
        return false;
    }
    disconnect(d, &(struct err){.text = "the front-end closed the connection"});
    return true;
}

static void on_missed(void *ctx, const struct err *why)
{
    struct vu_dev *d = ctx;

    snprintf(d->last_error, sizeof(d->last_error), "%s", why->text);
}

static const struct vu_meet_ops meet_ops = {.met = on_met, .left = on_second, .missed = on_missed};

/* --- for the owner ---------------------------------------------------------------------------- */

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
                         .channel_fd = -1};
    d->conf.max_rings = conf->max_rings ? conf->max_rings : VU_MAX_RINGS;
    d->conf.features |= VIRTIO_BIT(F_PROTOCOL_FEATURES);
    d->conf.name = d->name = strdup(conf->name);
    d->owner.name = d->name;
    d->watch = evtimer_new(evbase, on_watch, d);
    if (conf->state_path) {
        d->conf.state_path = d->state_path = strdup(conf->state_path);
    }
    if (!d->name || !d->watch || (conf->state_path && !d->state_path)) {
        rc = err_set(e, -ENOMEM, "out of memory");
    } else {
        const struct vu_meet_conf meet = {.name = d->name,
                                          .path = conf->path,
                                          .whom = "front-end",
                                          .client = conf->client,
                                          .owner = conf->owner,
                                          .group = conf->group,
                                          .mode = conf->mode};

        rc = vu_meet_create(&d->meet, &meet, &meet_ops, d, evbase, e);
        d->conf.path = rc ? NULL : vu_meet_path(d->meet);
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

int vu_dev_set_link(struct vu_dev *d, bool up, struct err *e)
{
    if (up == !d->down) {
        return 0;
    }
    if (!up) {
        d->down = true;
        vu_meet_close(d->meet);
        if (vu_config_taken(d)) {
            vu_ring_stop_all(d);
            vu_config_changed(d);
        } else {
            disconnect(d, &(struct err){.text = "the link was set down"});
        }
        return 0;
    }
    int rc = vu_meet_open(d->meet, e);

    if (rc) {
        return rc;
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
    vu_meet_destroy(d->meet);
    if (d->watch) {
        event_free(d->watch);
    }
    free(d->name);
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
                            .path = vu_meet_path(d->meet),
                            .last_error = d->last_error,
                            .peer_pid = vu_meet_peer(d->meet)->pid,
                            .offered = d->conf.features,
                            .negotiated = d->features,
                            .protocol_offered = vu_dev_protocol_offered(d),
                            .protocol_features = d->protocol_features,
                            .negotiating = !d->features_set,
                            .n_rings = d->n_rings,
                            .n_regions = d->mem ? d->mem->n : 0,
                            .mem_bytes = gmem_bytes(d->mem),
                            .log_bytes = gmem_bytes(d->log),
                            .logging = d->log && d->features & VIRTIO_BIT(F_LOG_ALL),
                            .node = gmem_node(d->mem),
                            .mtu = d->mtu,
                            .status = d->status,
                            .n_messages = d->n_messages,
                            .n_refused = d->n_refused,
                            .n_connects = d->n_connects};
    out->state = vu_ring_any_running(d) ? "running" : vu_meet_state(d->meet);
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
