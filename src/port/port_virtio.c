/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kind "vhost-user-frontend": the driver of somebody else's vhost-user back-end.  Theory of operation
 *
 *     this switch                                    another switch
 *     +--------------------+   vhost-user socket   +--------------------+
 *     | link thread        | --------------------> | its back-end       |
 *     +--------------------+                       |                    |
 *     | worker: tx, the    | == transmit ring ===> |                    |
 *     |   one copy         |                       |                    |
 *     | worker: rx, a loan | <== receive ring ==== | copies into slots  |
 *     +--------------------+   (our memory)        +--------------------+
 *
 * So two switches can be cabled together, or this one to OVS-DPDK, to DPDK's net_vhost, to another
 * ringway.
 *
 * The link thread.  A front-end asks and waits for answers, forty times until a ring runs; written one
 * behind the other that reads like the text of the protocol, and it may wait as long as the other
 * side likes, since it is a thread of its own that holds nothing.  It owns vu_fe.  When rings run, or
 * the back-end is gone, it says so (`wanted`) and waits until the control thread has attached the
 * queues, or detached them (`is`): workers never see a ring that is being set up.
 *
 *     link thread                                       control thread
 *     connect, negotiate, fill, start
 *     wanted = up, post, wait                  ->       attach queues, publish `out`, is = up
 *     poll: hung up, broken, or to be ended
 *     wanted = down, post, wait                ->       unpublish, barrier, detach, is = down
 *     stop (GET_VRING_BASE), close, back off
 *
 * A back-end that comes back finds fresh rings: what was under way with the old one is lost.
 *
 * Rejected: a state machine in the event loop, as for the back-end.  There messages come in any order
 * and decide what happens; here we choose the order, and a state per question says nothing more.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "port/kinds.h"
#include "port/port_virtio.h"
#include "vnet/features.h"

#define STEP_MS      5000 /* an answer of the back-end */
#define STOP_MS      250  /* all answers to the stop: when the port is removed, control waits */
#define BACK_OFF_MIN 50
#define BACK_OFF_MAX 1000
#define RING_DEFAULT 1024 /* 2 MiB of receive slots: thirty frames of 64 KiB */

struct virtio_link {
    struct port_virtio *pv;
    struct vu_fe *fe;
    struct vu_fe_conf conf;
    unsigned back_off;
    pthread_t thread;
    bool running;  /* the thread was made */
    int cancel_fd; /* eventfd: end now */
    int hangup_fd; /* eventfd: a ring is broken */

    pthread_mutex_t lock;
    pthread_cond_t answered;
    /* under the lock */
    bool wanted, is, refused;
    bool ended; /* nobody answers any more */
    unsigned connects;
    uint64_t features, protocol;
    struct err last;
};

static struct port_virtio *virtio_of(struct port *p)
{
    return container_of(p, struct port_virtio, port);
}

/* ---- link thread ------------------------------------------------------------------------------- */

/* Rings run afterwards. */
static int bring_up(struct virtio_link *l, struct err *e)
{
    struct port_virtio *pv = l->pv;
    int rc = vu_slots_connect(l->fe, e);
    uint64_t features = vu_fe_features(l->fe);

    for (unsigned i = 0; i < pv->n_pairs && !rc; i++) {
        struct virtio_pair *v = &pv->pair[i];

        /* Bits have their names from the driver's side, which is ours. */
        v->takes = offload_sent(features);
        v->sends = offload_taken(features);
        vu_slots_fill(&v->s, l->fe, i);
    }
    rc = rc ? rc : vu_fe_start(l->fe, true, e);
    pthread_mutex_lock(&l->lock);
    l->features = rc ? 0 : features;
    l->protocol = vu_fe_protocol_features(l->fe);
    l->connects += !rc;
    pthread_mutex_unlock(&l->lock);
    return rc;
}

/* Have the control thread attach or detach the queues. False: it could not. */
static bool hand_over(struct virtio_link *l, bool up)
{
    struct port *p = &l->pv->port;

    pthread_mutex_lock(&l->lock);
    l->wanted = up;
    l->refused = false;
    if (l->wanted != l->is && !l->ended) {
        p->env->post(p->env->ctx, p);
    }
    while (l->wanted != l->is && !l->refused && !l->ended) {
        pthread_cond_wait(&l->answered, &l->lock);
    }
    bool ok = l->wanted == l->is;
    l->wanted = l->is; /* refused: a post that is still under way must not attach these rings */
    pthread_mutex_unlock(&l->lock);
    return ok;
}

/* What is told, and kept for `show`. */
static void note_error(struct virtio_link *l, const struct err *e)
{
    pthread_mutex_lock(&l->lock);
    bool news = strcmp(l->last.text, e->text) != 0;
    l->last = *e;
    pthread_mutex_unlock(&l->lock);
    if (news) {
        log_warn("port %s: %s", l->pv->port.name, e->text);
    }
}

/* Until the back-end leaves, a ring is broken, or the port is removed. */
static void watch(struct virtio_link *l)
{
    struct pollfd p[] = {{.fd = vu_fe_fd(l->fe), .events = POLLIN | POLLRDHUP},
                         {.fd = l->cancel_fd, .events = POLLIN},
                         {.fd = l->hangup_fd, .events = POLLIN}};
    struct err e;

    while (poll(p, ARRAY_SIZE(p), -1) < 0 && errno == EINTR) {
    }
    if (p[0].revents && !p[2].revents) { /* a broken ring was told of by who found it */
        /* A message nobody asked for is as good a reason: there is none that we would understand. */
        err_set(&e, -EPIPE, "%s: the back-end %s", l->conf.path,
                p[0].revents & (POLLRDHUP | POLLHUP | POLLERR) ? "closed the connection"
                                                               : "sent what was not asked for");
        note_error(l, &e);
    }
}

/* What was found on the connection before says nothing about this one. */
static void forget_hangup(struct virtio_link *l)
{
    uint64_t n;

    while (read(l->hangup_fd, &n, sizeof(n)) > 0) {
    }
}

static bool cancelled(const struct virtio_link *l, unsigned wait_ms)
{
    struct pollfd p = {.fd = l->cancel_fd, .events = POLLIN};

    return poll(&p, 1, (int)wait_ms) > 0;
}

static void *link_main(void *arg)
{
    struct virtio_link *l = arg;

    while (!cancelled(l, l->back_off)) {
        struct err e = {0};
        bool up = !bring_up(l, &e);

        forget_hangup(l);
        if (up && hand_over(l, true)) {
            log_info("port %s: connected to the back-end at %s", l->pv->port.name, l->conf.path);
            l->back_off = BACK_OFF_MIN;
            watch(l);
            hand_over(l, false);
        } else {
            if (e.code && e.code != -ECANCELED && !(l->conf.server && e.code == -ETIMEDOUT)) {
                note_error(l, &e);
            }
            l->back_off = MIN(2 * MAX(l->back_off, (unsigned)BACK_OFF_MIN / 2), (unsigned)BACK_OFF_MAX);
        }
        if (up) {
            vu_fe_hurry(l->fe, STOP_MS); /* asked also when we are to end */
            vu_fe_stop(l->fe, &e);       /* if it is still there */
        }
        vu_fe_close(l->fe);
    }
    return NULL;
}

/* ---- control ----------------------------------------------------------------------------------- */

static bool virtio_arm(struct rxq *q)
{
    struct ring_drv *d = &container_of(q, struct virtio_pair, q)->s.rx->drv;

    return ring_drv_arm(d->layout, d);
}

static void virtio_disarm(struct rxq *q)
{
    struct ring_drv *d = &container_of(q, struct virtio_pair, q)->s.rx->drv;

    ring_drv_disarm(d->layout, d);
}

static void go_down(struct port_virtio *pv)
{
    const struct port_env *env = pv->port.env;

    env->ready(env->ctx, &pv->port, false);
    store_release(&pv->out, NULL);
    env->barrier(env->ctx);
    for (unsigned i = 0; i < pv->n_pairs; i++) {
        if (pv->pair[i].q.worker) {
            env->detach(env->ctx, &pv->pair[i].q);
        }
    }
}

static int go_up(struct port_virtio *pv, struct err *e)
{
    const struct port_env *env = pv->port.env;
    int rc = 0;

    for (unsigned i = 0; i < pv->n_pairs && !rc; i++) {
        pv->pair[i].q.fd = pv->pair[i].s.rx->call_fd;
        rc = env->attach(env->ctx, &pv->pair[i].q, e);
    }
    if (rc) {
        go_down(pv);
        return rc;
    }
    pv->out_room = (struct virtio_out){.n = pv->n_pairs, .pair = pv->pair};
    store_release(&pv->out, &pv->out_room);
    env->ready(env->ctx, &pv->port, !pv->port.down);
    return 0;
}

/* A worker found a ring that the back-end broke. */
static void look_for_broken(struct virtio_link *l)
{
    struct port_virtio *pv = l->pv;
    uint64_t one = 1;
    struct err e;

    for (unsigned i = 0; i < 2 * pv->n_pairs; i++) {
        const struct virtio_pair *v = &pv->pair[i / 2];
        unsigned f = read_once(&(i % 2 ? v->s.tx : v->s.rx)->drv.broken);

        if (f) {
            err_set(&e, -EPROTO, "%s: the back-end broke ring %u: %s", l->conf.path, i,
                    ring_drv_fault_text(f));
            note_error(l, &e);
            go_down(pv); /* at once: the link thread may take a while */
            if (write(l->hangup_fd, &one, sizeof(one)) < 0) {
                log_debug("port %s: hang-up was asked for already", pv->port.name);
            }
            return;
        }
    }
}

/* The link thread, or a worker, asked for us. */
static void virtio_event(struct port *p)
{
    struct port_virtio *pv = virtio_of(p);
    struct virtio_link *l = pv->link;
    struct err e;

    if (pv->out) {
        look_for_broken(l);
    }
    pthread_mutex_lock(&l->lock);
    bool wanted = l->wanted, changed = wanted != l->is;
    pthread_mutex_unlock(&l->lock);
    if (!changed) {
        return;
    }
    int rc = wanted ? go_up(pv, &e) : 0;
    if (!wanted) {
        go_down(pv);
    }
    if (rc) {
        note_error(l, &e);
    }
    pthread_mutex_lock(&l->lock);
    l->refused = rc;
    l->is = rc ? l->is : wanted;
    pthread_cond_signal(&l->answered);
    pthread_mutex_unlock(&l->lock);
}

/* The thread is told to end, and waits for nobody but, for STOP_MS, the back-end. */
static void end_thread(struct virtio_link *l)
{
    uint64_t one = 1;

    if (!l->running) {
        return;
    }
    go_down(l->pv);
    if (write(l->cancel_fd, &one, sizeof(one)) < 0) {
        log_error("port %s: cannot write to an eventfd of its own: %s", l->pv->port.name,
                  strerror(errno));
    }
    pthread_mutex_lock(&l->lock);
    l->ended = true;
    pthread_cond_signal(&l->answered);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
}

static void free_link(struct virtio_link *l)
{
    if (!l) {
        return;
    }
    end_thread(l);
    vu_fe_destroy(l->fe);
    if (l->cancel_fd > 0) {
        close(l->cancel_fd);
    }
    if (l->hangup_fd > 0) {
        close(l->hangup_fd);
    }
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->answered);
    free(l);
}

static void virtio_destroy(struct port *p)
{
    struct port_virtio *pv = virtio_of(p);

    free_link(pv->link);
    for (unsigned i = 0; pv->pair && i < pv->n_pairs; i++) {
        vu_slots_fini(&pv->pair[i].s);
    }
    free(pv->pair);
    port_fini(p);
    free(pv);
}

static int make_link(struct port_virtio *pv, struct err *e)
{
    const struct port_conf *c = &pv->port.conf;
    struct virtio_link *l = pv->link = calloc(1, sizeof(*l));

    if (!l) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->answered, NULL);
    l->pv = pv;
    l->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->hangup_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->cancel_fd < 0 || l->hangup_fd < 0) {
        return err_set(e, -errno, "cannot create an eventfd: %s", strerror(errno));
    }
    l->conf = (struct vu_fe_conf){
        .path = port_conf_get(c, "path"),
        .server = port_conf_is(c, "server", "yes"),
        .once = true,
        .sparse = true, /* most large slots are never used */
        .features = VIRTIO_BIT(F_VERSION_1) | VIRTIO_BIT(NET_F_MRG_RXBUF) |
                    VIRTIO_BIT(F_EVENT_IDX) |
                    (pv->n_pairs > 1 ? VIRTIO_BIT(NET_F_MQ) : 0) |
                    (port_conf_is(c, "packed", "yes") ? VIRTIO_BIT(F_RING_PACKED) : 0) |
                    offload_features(port_conf_offload(c, "offload", OFFLOAD_DEFAULT)),
        .features_required = VIRTIO_BIT(F_VERSION_1) |
                             (pv->n_pairs > 1 ? VIRTIO_BIT(NET_F_MQ) : 0) |
                             (port_conf_is(c, "packed", "yes") ? VIRTIO_BIT(F_RING_PACKED) : 0),
        .n_rings = 2 * pv->n_pairs,
        .num = (uint32_t)port_conf_number(c, "size", RING_DEFAULT),
        .mtu = (uint16_t)port_conf_number(c, "mtu", 0),
        .timeout_ms = STEP_MS,
        .cancel_fd = l->cancel_fd,
    };
    l->conf.buf_bytes = pv->n_pairs * vu_slots_bytes(l->conf.num);
    return vu_fe_create(&l->fe, &l->conf, e);
}

static int make_pairs(struct port_virtio *pv, struct err *e)
{
    const uint32_t num = pv->link->conf.num;

    pv->pair = aligned_alloc(CACHE_LINE, pv->n_pairs * sizeof(*pv->pair));
    if (!pv->pair) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    memset(pv->pair, 0, pv->n_pairs * sizeof(*pv->pair));
    for (unsigned i = 0; i < pv->n_pairs; i++) {
        struct virtio_pair *v = &pv->pair[i];

        v->q = (struct rxq){.port = &pv->port, .queue = (uint16_t)i, .fd = -1};
        v->shared = pv->port.env->n_workers > 1;
        if (vu_slots_init(&v->s, pv->link->fe, i, num)) {
            return err_set(e, -ENOMEM, "out of memory");
        }
    }
    return 0;
}

static int start_thread(struct virtio_link *l, struct err *e)
{
    int rc = -pthread_create(&l->thread, NULL, link_main, l);

    if (rc) {
        return err_set(e, rc, "cannot create a thread: %s", strerror(-rc));
    }
    l->running = true;
    pthread_setname_np(l->thread, "link");
    return 0;
}

static int virtio_create(struct port **out, const struct port_conf *c, const struct port_env *env,
                         struct err *e)
{
    struct port_virtio *pv = calloc(1, sizeof(*pv));
    int rc = pv ? port_init(&pv->port, HOT_BEST(port_virtio_ops), c, env, e)
                : err_set(e, -ENOMEM, "out of memory");

    if (rc) {
        free(pv);
        return rc;
    }
    pv->n_pairs = (unsigned)port_conf_number(c, "queues", 1);
    pv->port.max_len = port_mtu_len((uint32_t)port_conf_number(c, "mtu", UINT16_MAX));
    rc = make_link(pv, e);
    rc = rc ? rc : make_pairs(pv, e);
    rc = rc ? rc : start_thread(pv->link, e);
    if (rc) {
        virtio_destroy(&pv->port);
        return err_prefix(e, "port %s", c->name);
    }
    *out = &pv->port;
    return 0;
}

static int virtio_set(struct port *p, const char *key, const char *value, struct err *e)
{
    write_once(&p->down, !strcmp(value, "down")); /* link= is all that can change */
    p->env->ready(p->env->ctx, p, virtio_of(p)->out && !p->down);
    return 0;
}

static void virtio_show(const struct port *p, json_t *o)
{
    const struct port_virtio *pv = container_of((struct port *)(uintptr_t)p, struct port_virtio, port);
    struct virtio_link *l = pv->link;

    pthread_mutex_lock(&l->lock);
    json_object_set_new(o, "socket", json_string(l->conf.path));
    json_object_set_new(o, "role", json_string(l->conf.server ? "server" : "client"));
    json_object_set_new(o, "state", json_string(l->is ? "connected" : "waiting"));
    json_object_set_new(o, "features", port_feature_names(l->is ? l->features : 0,
                                                          virtio_feature_name));
    json_object_set_new(o, "protocol_features", port_feature_names(l->is ? l->protocol : 0,
                                                                   vu_protocol_feature_name));
    json_object_set_new(o, "connects", json_integer(l->connects));
    json_object_set_new(o, "last_error", *l->last.text ? json_string(l->last.text) : json_null());
    pthread_mutex_unlock(&l->lock);
    json_object_set_new(o, "memory_bytes", json_integer((json_int_t)l->conf.buf_bytes));
}

static int virtio_check(const struct port_conf *c, struct err *e)
{
    uint64_t size = port_conf_number(c, "size", RING_DEFAULT);

    if (!port_conf_get(c, "path")) {
        return err_set(e, -EINVAL, "a vhost-user-frontend port needs path=SOCKET of the back-end "
                                   "that it is to drive");
    }
    return size & (size - 1) ? err_set(e, -EINVAL, "size=%u is not a power of two", (unsigned)size)
                             : 0;
}

static const struct port_option_def virtio_options[] = {
    {"path", "socket of the back-end", .type = PORT_PATH},
    {"server", "yes: listen there for a back-end that connects (default no: connect, and reconnect)",
     .type = PORT_YES_NO},
    {"queues", "queue pairs (default 1)", .type = PORT_NUMBER, .min = 1, .max = VIRTIO_MAX_PAIRS},
    {"size", "entries of each ring, a power of two (default 1024)", .type = PORT_NUMBER, .min = 64,
     .max = 4096},
    {"packed", "yes: packed rings (default no: split)", .type = PORT_YES_NO},
    {"mtu", "largest IP packet sent to the back-end, bytes; told to it", .type = PORT_NUMBER,
     .min = 68, .max = 65535},
    {"offload", "what is asked of the back-end, both ways (default all but ufo)",
     .check = port_check_offload},
    PORT_OPTION_LINK,
    {NULL},
};

#define VIRTIO_OPS(level)                                                                          \
    const struct port_ops port_virtio_ops_##level = {                                              \
        .kind = "vhost-user-frontend",                                                             \
        .help = "drives the vhost-user back-end of another switch, as a guest would",              \
        .options = virtio_options,                                                                 \
        .check = virtio_check,                                                                     \
        .create = virtio_create,                                                                   \
        .destroy = virtio_destroy,                                                                 \
        .rx = port_virtio_rx_##level,                                                              \
        .rx_done = port_virtio_rx_done_##level,                                                    \
        .tx = port_virtio_tx_##level,                                                              \
        .arm = virtio_arm,                                                                         \
        .disarm = virtio_disarm,                                                                   \
        .set = virtio_set,                                                                         \
        .event = virtio_event,                                                                     \
        .show = virtio_show,                                                                       \
    };
HOT_FOR_LEVELS(VIRTIO_OPS)
