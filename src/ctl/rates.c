/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sample is an array with one entry per port, in the order of dp_ports(); the next sample looks
 * each port up in the previous one.  A port that was removed and added again under the same name
 * starts with small counters: seen by a counter that went backwards, and treated as new.
 */
#include "ctl/rates.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct port_sample {
    char name[PORT_NAME_MAX + 1];
    struct port_counters at;
    struct port_rates rate;
};

struct rates {
    uint64_t when_ns; /* of the last sample, 0: none */
    struct port_sample *port;
    unsigned n_ports;
    struct worker_info worker[WORKER_MAX];
    struct worker_rates worker_rate[WORKER_MAX];
    unsigned n_workers;
};

struct rates *rates_create(void)
{
    return calloc(1, sizeof(struct rates));
}

void rates_destroy(struct rates *r)
{
    if (r) {
        free(r->port);
        free(r);
    }
}

static const struct port_sample *find(const struct rates *r, const char *name, unsigned hint)
{
    if (hint < r->n_ports && !strcmp(r->port[hint].name, name)) {
        return &r->port[hint];
    }
    for (unsigned i = 0; i < r->n_ports; i++) {
        if (!strcmp(r->port[i].name, name)) {
            return &r->port[i];
        }
    }
    return NULL;
}

static double per_s(uint64_t now, uint64_t before, double dt)
{
    return now > before ? (double)(now - before) / dt : 0;
}

static void port_delta(struct port_sample *s, const struct port_counters *b, double dt)
{
    const struct port_counters *a = &s->at;

    if (a->rx_frames < b->rx_frames || a->tx_frames < b->tx_frames) {
        return;
    }
    s->rate.rx_frames = per_s(a->rx_frames, b->rx_frames, dt);
    s->rate.rx_bytes = per_s(a->rx_bytes, b->rx_bytes, dt);
    s->rate.tx_frames = per_s(a->tx_frames, b->tx_frames, dt);
    s->rate.tx_bytes = per_s(a->tx_bytes, b->tx_bytes, dt);
    for (unsigned i = 0; i < DROP_N; i++) {
        s->rate.drop[i] = per_s(a->drop[i], b->drop[i], dt);
    }
}

static void sample_ports(struct rates *r, const struct dp *dp, double dt)
{
    static struct port *port[PORT_MAX];
    unsigned n = dp_ports(dp, port, PORT_MAX);
    struct port_sample *s = NULL;

    /* The counters are cache-line aligned, so the samples must be. */
    if (n && posix_memalign((void **)&s, CACHE_LINE, n * sizeof(*s))) {
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        const struct port_sample *old = find(r, port[i]->name, i);

        memset(&s[i], 0, sizeof(s[i]));
        strncpy(s[i].name, port[i]->name, PORT_NAME_MAX);
        port_counters_sum(port[i], &s[i].at);
        if (old && dt > 0) {
            port_delta(&s[i], &old->at, dt);
        }
    }
    free(r->port);
    r->port = s;
    r->n_ports = n;
}

static void sample_workers(struct rates *r, const struct dp *dp, double dt)
{
    struct worker_info w[WORKER_MAX];
    unsigned n = dp_workers(dp, w, WORKER_MAX);

    for (unsigned i = 0; i < n; i++) {
        const struct worker_info *b = &r->worker[i];
        struct worker_rates *to = &r->worker_rate[i];

        *to = (struct worker_rates){0};
        if (i < r->n_workers && dt > 0) {
            double ns = dt * 1e9;

            to->frames = per_s(w[i].frames, b->frames, dt);
            to->sleeps = per_s(w[i].sleeps, b->sleeps, dt);
            to->signals = per_s(w[i].signals, b->signals, dt);
            double busy = per_s(w[i].busy_ns, b->busy_ns, ns);
            double idle = per_s(w[i].idle_ns, b->idle_ns, ns);
            to->busy = MIN(busy, 1.0);
            to->idle = MIN(idle, 1.0);
            /* A worker that is still asleep has not added this sleep to its sum yet. */
            to->sleep = MAX(1.0 - to->busy - to->idle, 0);
        }
    }
    memcpy(r->worker, w, n * sizeof(*w));
    r->n_workers = n;
}

void rates_sample(struct rates *r, const struct dp *dp)
{
    uint64_t now = clock_ns();
    double dt = r->when_ns ? (double)(now - r->when_ns) / 1e9 : 0;

    sample_ports(r, dp, dt);
    sample_workers(r, dp, dt);
    r->when_ns = now;
}

struct port_rates rates_port(const struct rates *r, const struct port *p)
{
    const struct port_sample *s = find(r, p->name, p->id);

    return s ? s->rate : (struct port_rates){0};
}

struct worker_rates rates_worker(const struct rates *r, unsigned id)
{
    return id < r->n_workers ? r->worker_rate[id] : (struct worker_rates){0};
}
