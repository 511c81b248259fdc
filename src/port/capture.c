/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The set of a port's captures is immutable and swapped, like everything that workers read.  So is
 * the table of functions; a worker that has fetched the one may find the other already changed, so
 * the functions of our table ask the port for both: port->kind_ops is always the kind's table, and
 * port->captures may be NULL.
 */
#include "port/capture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "pkt/copy.h"
#include "port/capture_filter.h"

/* What one worker writes to. */
struct capture_worker {
    struct capture_out out;
    struct capture *capture;
    uint8_t *flat; /* room for a whole frame, for a filter that looks behind the snapshot */
    bool due;      /* to be looked at at the end of the round */
} CACHE_ALIGNED;

struct capture {
    struct port *port; /* NULL: it is gone */
    struct capture_filter filter;
    uint32_t snaplen;
    uint8_t dirs;
    bool drops;
    struct capture_mem mem;
    int eventfd;
    struct capture_worker *worker;
    unsigned n_workers;
};

struct capture_set {
    unsigned n;
    bool frames, drops_in, drops_out; /* somebody wants these */
    struct capture *c[CAPTURE_PER_PORT];
    struct port_ops ops; /* the kind's, with our rx and tx */
};

/* ---- worker --------------------------------------------------------------------------------------- */

/* End of the round, after a full fence: does the reader sleep? */
static void tell_reader(void *arg, struct wctx *w)
{
    struct capture_worker *cw = arg;

    cw->due = false;
    if (capture_wants_signal(cw->capture->mem.head)) {
        wctx_signal(w, cw->capture->eventfd);
    }
}

static void publish(struct capture_worker *cw, struct wctx *w)
{
    if (!capture_unpublished(&cw->out)) {
        return;
    }
    capture_publish(&cw->out);
    if (!cw->due) {
        cw->due = true;
        wctx_defer(w, tell_reader, cw);
    }
}

/* What a call of the tap point knows of all its frames. */
struct seen {
    struct wctx *w;
    uint64_t time_ns; /* 0: not asked for yet */
    uint8_t dir, why;
};

static void push(struct capture_worker *cw, struct seen *s, const struct pkt *k,
                 const uint8_t *flat, uint32_t n)
{
    if (!s->time_ns) {
        s->time_ns = clock_wall_ns();
    }
    if (capture_push(&cw->out,
                     (struct capture_rec){.dir = s->dir,
                                          .why = s->why,
                                          .n = (uint16_t)MIN(n, UINT16_MAX),
                                          .time_ns = s->time_ns,
                                          .cap_len = cw->capture->snaplen},
                     k, flat) &&
        k) {
        s->w->spent += MIN(k->len, cw->capture->snaplen);
    }
}

static void see_frame(struct capture_worker *cw, struct seen *s, const struct pkt *k)
{
    const struct capture_filter *f = &cw->capture->filter;
    const uint8_t *bytes = k->data, *flat = NULL;
    uint32_t have = k->snap_len;

    if (f->insn) {
        if (f->reach > have && k->len > have) {
            have = MIN(k->len, MAX(f->reach, cw->capture->snaplen));
            capture_copy_frame(cw->flat, k, have);
            bytes = flat = cw->flat;
        }
        if (!capture_filter_match(f, bytes, k->len, have)) {
            return;
        }
    }
    push(cw, s, k, flat, 1);
}

/* Frames idx[0 .. n) of b for all captures that want drops, or for all that want every frame. */
static void see(const struct capture_set *set, bool drops, struct seen *s, const struct batch *b,
                const uint8_t *idx, uint32_t n)
{
    for (unsigned i = 0; i < set->n; i++) {
        struct capture *c = set->c[i];
        struct capture_worker *cw = &c->worker[s->w->id];

        if (c->drops != drops || !(c->dirs & s->dir)) {
            continue;
        }
        for (uint32_t k = 0; k < n; k++) {
            see_frame(cw, s, &b->pkt[idx ? idx[k] : k]);
        }
        publish(cw, s->w);
    }
}

/* n frames were refused before they were any. */
static void see_refused(const struct capture_set *set, struct seen *s, uint32_t n)
{
    for (unsigned i = 0; i < set->n; i++) {
        struct capture *c = set->c[i];
        struct capture_worker *cw = &c->worker[s->w->id];

        if (c->drops && (c->dirs & s->dir) && !c->filter.insn) {
            push(cw, s, NULL, NULL, n);
            publish(cw, s->w);
        }
    }
}

static uint32_t tap_rx(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct port *p = q->port;
    const struct capture_set *set = load_acquire(&p->captures);
    const uint64_t *drops = p->counters[w->id].drop;
    struct seen s = {.w = w, .dir = CAPTURE_IN, .why = CAPTURE_NO_DROP};
    uint64_t before[DROP_N];

    if (set && set->drops_in) {
        memcpy(before, drops, sizeof(before));
    }
    uint32_t n = p->kind_ops->rx(q, b, w);
    if (set && set->frames) {
        see(set, false, &s, b, NULL, n);
    }
    for (unsigned why = 0; set && set->drops_in && why < DROP_N; why++) {
        if (drops[why] != before[why]) {
            s.why = (uint8_t)why;
            see_refused(set, &s, (uint32_t)(drops[why] - before[why]));
        }
    }
    return n;
}

/* One by one, so that a counter that moved belongs to this frame. */
static void tx_watching(const struct capture_set *set, struct port *p, struct batch *b,
                        const uint8_t *idx, uint32_t n, struct wctx *w)
{
    const uint64_t *drops = p->counters[w->id].drop;
    struct seen s = {.w = w, .dir = CAPTURE_OUT};
    uint64_t before[DROP_N];

    for (uint32_t i = 0; i < n; i++) {
        memcpy(before, drops, sizeof(before));
        p->kind_ops->tx(p, b, &idx[i], 1, w);
        for (unsigned why = 0; why < DROP_N; why++) {
            if (drops[why] != before[why]) {
                s.why = (uint8_t)why;
                see(set, true, &s, b, &idx[i], 1);
                break;
            }
        }
    }
}

static void tap_tx(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n, struct wctx *w)
{
    const struct capture_set *set = load_acquire(&p->captures);
    struct seen s = {.w = w, .dir = CAPTURE_OUT, .why = CAPTURE_NO_DROP};

    if (set && set->frames) {
        see(set, false, &s, b, idx, n);
    }
    if (set && set->drops_out) {
        tx_watching(set, p, b, idx, n, w);
    } else {
        p->kind_ops->tx(p, b, idx, n, w);
    }
}

void capture_dropped(struct port *p, struct wctx *w, enum drop why, const struct batch *b,
                     const uint8_t *idx, uint32_t n)
{
    const struct capture_set *set = load_acquire(&p->captures);
    struct seen s = {.w = w, .dir = CAPTURE_IN, .why = (uint8_t)why};

    if (set && set->drops_in) {
        see(set, true, &s, b, idx, n);
    }
}

/* ---- control thread ------------------------------------------------------------------------------- */

/* The captures of p without `out` and with `in` (each may be NULL); NULL if there are none. */
static int set_build(struct capture_set **out_set, const struct port *p, const struct capture *out,
                     struct capture *in)
{
    const struct capture_set *old = p->captures;
    struct capture_set *s = calloc(1, sizeof(*s));

    if (!s) {
        return -ENOMEM;
    }
    for (unsigned i = 0; old && i < old->n; i++) {
        if (old->c[i] != out) {
            s->c[s->n++] = old->c[i];
        }
    }
    if (in) {
        s->c[s->n++] = in;
    }
    for (unsigned i = 0; i < s->n; i++) {
        const struct capture *c = s->c[i];

        s->frames |= !c->drops;
        s->drops_in |= c->drops && (c->dirs & CAPTURE_IN);
        s->drops_out |= c->drops && (c->dirs & CAPTURE_OUT);
    }
    s->ops = *p->kind_ops;
    s->ops.rx = tap_rx;
    s->ops.tx = tap_tx;
    if (!s->n) {
        free(s);
        s = NULL;
    }
    *out_set = s;
    return 0;
}

/* Have the workers use s (NULL: the port as it is); returns when none uses the old one. */
static void set_publish(struct port *p, struct capture_set *s)
{
    struct capture_set *old = p->captures;

    store_release(&p->captures, s);
    store_release(&p->ops, s ? &s->ops : p->kind_ops);
    p->env->barrier(p->env->ctx);
    free(old);
}

static void capture_free(struct capture *c)
{
    for (unsigned i = 0; i < c->n_workers; i++) {
        free(c->worker[i].flat);
    }
    free(c->worker);
    capture_mem_free(&c->mem);
    capture_filter_free(&c->filter);
    if (c->eventfd >= 0) {
        close(c->eventfd);
    }
    free(c);
}

static int make_workers(struct capture *c, unsigned n, struct err *e)
{
    size_t bytes = n * sizeof(*c->worker);
    bool ok = true;

    c->worker = aligned_alloc(CACHE_LINE, bytes);
    if (!c->worker) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    memset(c->worker, 0, bytes);
    c->n_workers = n;
    for (unsigned i = 0; i < n; i++) {
        struct capture_worker *cw = &c->worker[i];

        capture_out_init(&cw->out, &c->mem, i);
        cw->capture = c;
        if (c->filter.insn) {
            cw->flat = calloc(1, PKT_MAX_LEN);
            ok = ok && cw->flat;
        }
    }
    return ok ? 0 : err_set(e, -ENOMEM, "out of memory");
}

int capture_start(struct capture **out, struct port *p, const struct capture_conf *conf,
                  struct err *e)
{
    struct capture_set *set = NULL;
    int rc;

    if (capture_count(p) == CAPTURE_PER_PORT) {
        return err_set(e, -EBUSY, "port %s: there are %d captures of it already", p->name,
                       CAPTURE_PER_PORT);
    }
    if (!conf->snaplen || !conf->dirs || conf->dirs & ~(CAPTURE_IN | CAPTURE_OUT)) {
        return err_set(e, -EINVAL, "port %s: a capture of nothing", p->name);
    }
    struct capture *c = calloc(1, sizeof(*c));
    if (!c) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    *c = (struct capture){.port = p,
                          .snaplen = conf->snaplen,
                          .dirs = conf->dirs,
                          .drops = conf->drops,
                          .mem = CAPTURE_MEM_NONE,
                          .eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    rc = c->eventfd < 0 ? err_set(e, -errno, "port %s: eventfd: %s", p->name, strerror(errno)) : 0;
    rc = rc ? rc : capture_filter_parse(&c->filter, conf->filter, e);
    rc = rc ? rc : capture_mem_create(&c->mem, p->env->n_workers, conf->ring_bytes, e);
    rc = rc ? rc : make_workers(c, p->env->n_workers, e);
    if (!rc && set_build(&set, p, NULL, c)) {
        rc = err_set(e, -ENOMEM, "out of memory");
    }
    if (rc) {
        capture_free(c);
        return rc;
    }
    set_publish(p, set);
    *out = c;
    return 0;
}

void capture_stop(struct capture *c)
{
    struct capture_set *set;

    if (c->port && !set_build(&set, c->port, c, NULL)) {
        set_publish(c->port, set);
    } else if (c->port) {
        capture_port_gone(c->port); /* no memory for a set of the others: they end, too */
    }
    capture_free(c);
}

void capture_port_gone(struct port *p)
{
    struct capture_set *set = p->captures;
    struct capture *c[CAPTURE_PER_PORT];
    unsigned n = capture_count(p);

    if (!set) {
        return;
    }
    memcpy(c, set->c, sizeof(c));
    set_publish(p, NULL);
    for (unsigned i = 0; i < n; i++) {
        c[i]->port = NULL;
        store_release(&c[i]->mem.head->ended, (uint32_t)CAPTURE_PORT_GONE);
        p->env->signal(p->env->ctx, c[i]->eventfd);
    }
}

unsigned capture_count(const struct port *p)
{
    return p->captures ? p->captures->n : 0;
}

const struct capture_mem *capture_mem(const struct capture *c)
{
    return &c->mem;
}

int capture_eventfd(const struct capture *c)
{
    return c->eventfd;
}
