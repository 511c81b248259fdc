/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kind "dummy".  Theory of operation
 *
 * Two lists behind one mutex.  `in` holds injected frames; rx lends the oldest PKT_BURST of them
 * and rx_done frees those.  A frame keeps its bytes in one allocation, `cut` into the runs that the
 * test gave, so that a frame of many spans is lent as many spans.  `out` holds what tx copied.
 *
 * The copies go through copy_bytes() as in every other kind, and only those: a snapshot per frame
 * received and the frame itself per frame sent.  So counting copied bytes over dummy ports proves
 * the one-copy claim for the switch between them.
 *
 * The queue behaves like one that can be polled and armed: `fd` is an eventfd which is signalled
 * for each injected frame while armed, so that sleeping workers wake.
 */
#include "port/port_dummy.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "pkt/copy.h"
#include "pkt/offload.h"
#include "port/kinds.h"

struct frame {
    struct frame *next;
    uint32_t len;
    unsigned n_cut;
    uint32_t *cut; /* lengths of the runs; their sum is len */
    uint8_t bytes[];
};

struct frame_list {
    struct frame *head, **tail;
    unsigned n;
};

struct port_dummy {
    struct port port; /* first: a struct port * is a struct port_dummy * */
    struct rxq q;
    pthread_mutex_t lock;
    struct frame_list in, lent, out;
    struct frame *seen; /* of out: what dummy_sent() found last, number n_seen */
    unsigned n_seen;
    unsigned room; /* frames that tx may still record */
    unsigned depth;
    bool armed;
};

static struct port_dummy *dummy_of(struct port *p)
{
    return container_of(p, struct port_dummy, port);
}

static void list_init(struct frame_list *l)
{
    l->head = NULL;
    l->tail = &l->head;
    l->n = 0;
}

static void list_push(struct frame_list *l, struct frame *f)
{
    f->next = NULL;
    *l->tail = f;
    l->tail = &f->next;
    l->n++;
}

static struct frame *list_pop(struct frame_list *l)
{
    struct frame *f = l->head;

    if (f) {
        l->head = f->next;
        if (!l->head) {
            l->tail = &l->head;
        }
        l->n--;
    }
    return f;
}

static void frame_free(struct frame *f)
{
    free(f->cut);
    free(f);
}

static void list_clear(struct frame_list *l)
{
    struct frame *f;

    while ((f = list_pop(l))) {
        frame_free(f);
    }
}

static struct frame *frame_new(uint32_t len, unsigned n_cut)
{
    struct frame *f = malloc(sizeof(*f) + len);

    assert(f);
    f->len = len;
    f->n_cut = n_cut;
    f->cut = n_cut ? calloc(n_cut, sizeof(*f->cut)) : NULL;
    assert(!n_cut || f->cut);
    return f;
}

void dummy_injectv(struct port *p, const struct iovec *iov, unsigned n_iov)
{
    struct port_dummy *d = dummy_of(p);
    uint32_t len = 0;

    assert(n_iov <= PKT_MAX_SPANS);
    for (unsigned i = 0; i < n_iov; i++) {
        len += (uint32_t)iov[i].iov_len;
    }
    struct frame *f = frame_new(len, n_iov);
    uint32_t at = 0;
    for (unsigned i = 0; i < n_iov; i++) {
        f->cut[i] = (uint32_t)iov[i].iov_len;
        memcpy(f->bytes + at, iov[i].iov_base, iov[i].iov_len);
        at += f->cut[i];
    }

    pthread_mutex_lock(&d->lock);
    list_push(&d->in, f);
    bool wake = d->armed;
    pthread_mutex_unlock(&d->lock);
    if (wake) {
        ssize_t r = write(d->q.fd, &(uint64_t){1}, sizeof(uint64_t));
        (void)r; /* EAGAIN: the counter is full, so the fd is readable already */
    }
}

void dummy_inject(struct port *p, const void *bytes, uint32_t len)
{
    dummy_injectv(p, &(struct iovec){.iov_base = (void *)bytes, .iov_len = len}, 1);
}

unsigned dummy_n_pending(struct port *p)
{
    struct port_dummy *d = dummy_of(p);

    pthread_mutex_lock(&d->lock);
    unsigned n = d->in.n;
    pthread_mutex_unlock(&d->lock);
    return n;
}

unsigned dummy_n_sent(struct port *p)
{
    struct port_dummy *d = dummy_of(p);

    pthread_mutex_lock(&d->lock);
    unsigned n = d->out.n;
    pthread_mutex_unlock(&d->lock);
    return n;
}

const uint8_t *dummy_sent(struct port *p, unsigned i, uint32_t *len)
{
    struct port_dummy *d = dummy_of(p);

    pthread_mutex_lock(&d->lock);
    if (!d->seen || i < d->n_seen) {
        d->seen = d->out.head;
        d->n_seen = 0;
    }
    while (d->seen && d->n_seen < i) {
        d->seen = d->seen->next;
        d->n_seen++;
    }
    struct frame *f = d->seen;
    pthread_mutex_unlock(&d->lock);
    *len = f ? f->len : 0;
    return f ? f->bytes : NULL;
}

void dummy_clear(struct port *p)
{
    struct port_dummy *d = dummy_of(p);

    pthread_mutex_lock(&d->lock);
    list_clear(&d->out);
    d->seen = NULL;
    d->room = d->depth;
    pthread_mutex_unlock(&d->lock);
}

void dummy_set_room(struct port *p, unsigned n)
{
    struct port_dummy *d = dummy_of(p);

    pthread_mutex_lock(&d->lock);
    d->room = n;
    pthread_mutex_unlock(&d->lock);
}

void dummy_set_ready(struct port *p, bool ready)
{
    p->env->ready(p->env->ctx, p, ready);
}

/* Describe what lies behind the first `skip` bytes of f as spans. False: no spans left in b. */
static bool lend_rest(struct batch *b, struct pkt *k, const struct frame *f, uint32_t skip)
{
    struct gspan *s = &b->spans[b->n_spans];
    uint32_t at = 0, n = 0;

    for (unsigned i = 0; i < f->n_cut; at += f->cut[i], i++) {
        uint32_t end = at + f->cut[i], from = MAX(at, skip);
        if (end <= from) {
            continue;
        }
        if (b->n_spans + n == PKT_MAX_SPANS) {
            return false;
        }
        s[n++] = (struct gspan){(const uint8_t GUEST *)(f->bytes + from), end - from};
    }
    k->n_spans = (uint16_t)n;
    if (n == 1) {
        k->span = s[0];
    } else if (n > 1) {
        k->spans = s;
        b->n_spans += n;
    }
    return true;
}

static uint32_t dummy_rx(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct port_dummy *d = dummy_of(q->port);
    bool down = read_once(&d->port.down);
    uint64_t bytes = 0;

    b->n = 0;
    b->n_spans = 0;
    pthread_mutex_lock(&d->lock);
    while (b->n < PKT_BURST && d->in.head) {
        struct frame *f = d->in.head;
        struct pkt *k = &b->pkt[b->n];

        if (down || f->len < PKT_MIN_LEN || f->len > PKT_MAX_LEN) {
            port_count_drop(&d->port, w,
                            down                   ? DROP_LINK_DOWN
                            : f->len < PKT_MIN_LEN ? DROP_RUNT
                                                   : DROP_GIANT,
                            1);
            list_push(&d->lent, list_pop(&d->in));
            continue;
        }
        memset(k, 0, sizeof(*k));
        k->len = f->len;
        k->snap_len = (uint16_t)MIN(f->len, PKT_SNAP - VNET_HDR_LEN);
        if (!lend_rest(b, k, f, k->snap_len)) {
            break; /* the rest of the pool is another frame's: next burst */
        }
        k->data = batch_snap(b, b->n) + VNET_HDR_LEN;
        pkt_plain_header(k->data);
        copy_bytes(k->data, f->bytes, k->snap_len);
        list_push(&d->lent, list_pop(&d->in));
        bytes += f->len;
        b->n++;
    }
    b->n_loans = d->lent.n;
    pthread_mutex_unlock(&d->lock);

    struct port_counters *c = &d->port.counters[w->id];
    write_once(&c->rx_frames, c->rx_frames + b->n);
    write_once(&c->rx_bytes, c->rx_bytes + bytes);
    return b->n;
}

static void dummy_rx_done(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct port_dummy *d = dummy_of(q->port);

    pthread_mutex_lock(&d->lock);
    list_clear(&d->lent);
    pthread_mutex_unlock(&d->lock);
}

static void dummy_record(struct port_dummy *d, const struct pkt *k)
{
    struct frame *f = frame_new(k->len, 0);
    const struct gspan *s = pkt_spans(k);
    uint32_t at = k->snap_len;

    copy_bytes(f->bytes, k->data, k->snap_len);
    for (unsigned i = 0; i < k->n_spans; i++) {
        copy_bytes(f->bytes + at, GUEST_PTR(const uint8_t, s[i].p), s[i].len);
        at += s[i].len;
    }
    assert(at == k->len);
    list_push(&d->out, f);
}

static void dummy_tx(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n,
                     struct wctx *w)
{
    struct port_dummy *d = dummy_of(p);
    struct port_counters *c = &p->counters[w->id];
    uint32_t max_len = read_once(&p->max_len), frames = 0;
    bool ready = read_once(&p->ready), down = read_once(&p->down);
    uint64_t bytes = 0;

    pthread_mutex_lock(&d->lock);
    for (uint32_t i = 0; i < n; i++) {
        const struct pkt *k = &b->pkt[idx[i]];
        bool too_long = offload_too_long(k, max_len);

        if (down || !ready || too_long || !d->room) {
            port_count_drop(p, w,
                            down       ? DROP_LINK_DOWN
                            : !ready   ? DROP_NOT_READY
                            : too_long ? DROP_MTU
                                       : DROP_NO_BUFFERS,
                            1);
            continue;
        }
        dummy_record(d, k);
        d->room--;
        frames++;
        bytes += k->len;
    }
    pthread_mutex_unlock(&d->lock);

    write_once(&c->tx_frames, c->tx_frames + frames);
    write_once(&c->tx_bytes, c->tx_bytes + bytes);
}

static bool dummy_arm(struct rxq *q)
{
    struct port_dummy *d = dummy_of(q->port);

    pthread_mutex_lock(&d->lock);
    d->armed = true;
    bool work = d->in.head != NULL;
    pthread_mutex_unlock(&d->lock);
    return work;
}

static void dummy_disarm(struct rxq *q)
{
    struct port_dummy *d = dummy_of(q->port);

    pthread_mutex_lock(&d->lock);
    d->armed = false;
    pthread_mutex_unlock(&d->lock);
}

static int dummy_set(struct port *p, const char *key, const char *value, struct err *e)
{
    struct port_dummy *d = dummy_of(p);
    uint32_t v = (uint32_t)strtoul(value, NULL, 10);

    if (!strcmp(key, "link")) {
        write_once(&p->down, !strcmp(value, "down"));
        p->env->ready(p->env->ctx, p, !p->down);
    } else if (!strcmp(key, "mtu")) {
        write_once(&p->max_len, port_mtu_len(v));
    } else if (!strcmp(key, "depth")) {
        pthread_mutex_lock(&d->lock);
        d->depth = d->room = v;
        pthread_mutex_unlock(&d->lock);
    }
    return 0;
}

static void dummy_destroy(struct port *p)
{
    struct port_dummy *d = dummy_of(p);

    if (d->q.worker) {
        p->env->detach(p->env->ctx, &d->q);
    }
    list_clear(&d->in);
    list_clear(&d->lent);
    list_clear(&d->out);
    if (d->q.fd >= 0) {
        close(d->q.fd);
    }
    pthread_mutex_destroy(&d->lock);
    port_fini(p);
    free(d);
}

static int dummy_create(struct port **out, const struct port_conf *c, const struct port_env *env,
                        struct err *e)
{
    struct port_dummy *d = calloc(1, sizeof(*d));

    if (!d) {
        return err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    int rc = port_init(&d->port, &port_dummy_ops, c, env, e);
    if (rc) {
        free(d);
        return rc;
    }
    pthread_mutex_init(&d->lock, NULL);
    list_init(&d->in);
    list_init(&d->lent);
    list_init(&d->out);
    d->depth = d->room = DUMMY_DEPTH;
    d->port.max_len = PKT_MAX_LEN;
    d->q.port = &d->port;
    d->q.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (d->q.fd < 0) {
        rc = err_set(e, -errno, "port %s: eventfd: %s", c->name, strerror(errno));
    }
    for (const struct port_option_def *o = port_dummy_ops.options; !rc && o->key; o++) {
        const char *value = port_conf_get(c, o->key);
        rc = value ? dummy_set(&d->port, o->key, value, e) : 0;
    }
    if (!rc) {
        rc = env->attach(env->ctx, &d->q, e);
    }
    if (rc) {
        dummy_destroy(&d->port);
        return rc;
    }
    env->ready(env->ctx, &d->port, !d->port.down);
    *out = &d->port;
    return 0;
}

static void dummy_show(const struct port *p, json_t *o)
{
    struct port_dummy *d = dummy_of((struct port *)p);

    pthread_mutex_lock(&d->lock);
    json_object_set_new(o, "pending", json_integer(d->in.n));
    json_object_set_new(o, "recorded", json_integer(d->out.n));
    json_object_set_new(o, "room", json_integer(d->room));
    pthread_mutex_unlock(&d->lock);
}

static const struct port_option_def dummy_options[] = {
    {"mtu", "largest payload in bytes (68-65535; default: any frame)", .changeable = true,
     .type = PORT_NUMBER, .min = 68, .max = 65535},
    PORT_OPTION_LINK,
    {"depth", "frames recorded before further ones are dropped (default 4096)", .changeable = true,
     .type = PORT_NUMBER, .min = 1, .max = 1000000},
    {NULL},
};

const struct port_ops port_dummy_ops = {
    .kind = "dummy",
    .help = "a port without a peer, for tests: records what is sent to it",
    .options = dummy_options,
    .create = dummy_create,
    .destroy = dummy_destroy,
    .rx = dummy_rx,
    .rx_done = dummy_rx_done,
    .tx = dummy_tx,
    .arm = dummy_arm,
    .disarm = dummy_disarm,
    .set = dummy_set,
    .show = dummy_show,
};
