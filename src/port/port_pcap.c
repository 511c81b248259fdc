/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kind "pcap": a port whose other side is files.
 *
 *     rx=FILE   its frames come into the switch, as if a station sent them (replay.h)
 *     tx=FILE   what the switch sends to the port is recorded (record.h); without it, thrown away
 *
 * When is a frame due?  speed=S: frame i of a round at  base + at[i] / S,  where base is when the
 * round began and at[i] the time stamp after that of the first frame.  Frames that are late, since
 * the worker had other work, are sent at once, in their order.  speed=max: always due.  What
 * receivers do not take is dropped there: the switch holds back nobody.
 *
 * loop: the next round begins a mean gap after the last frame.  paused=yes stops where it is;
 * what comes then is as late as the pause was long, so `base` moves along: the worker sets it anew,
 * such that the next frame is due now, whenever it has been paused or the speed has changed.
 *
 * The frames lie in private memory that does not change: they are lent like a guest's.  The queue has
 * a timer for an fd, which arm() sets to the next frame.  Nobody but this process can reach either.
 *
 * Threads: everything about the position is the worker's; paused and speed are words that the control
 * thread writes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "pkt/lend.h"
#include "port/kinds.h"
#include "port/record.h"
#include "port/replay.h"

#define SPEED_MAX UINT64_MAX /* the word "max" */
#define SPEED_ONE 1000       /* speeds are in thousandths */
#define SPEED_DIGITS 3
#define SPEED_LIMIT 1000000u
#define FOR_EVER UINT64_MAX

struct port_pcap {
    struct port port; /* first: a struct port * is a struct port_pcap * */
    struct rxq q;     /* q.fd is the timer; only with rx= */
    struct replay replay;
    struct record *record; /* NULL: no tx= */
    uint64_t rounds;       /* to be played */
    bool told;             /* that writing failed */
    uint64_t speed;        /* control */
    bool paused;           /* control */
    /* worker */
    uint64_t round CACHE_ALIGNED; /* rounds that are over (read by show) */
    uint32_t next;                /* frame of this round (the same) */
    uint64_t base_ns, at_speed;   /* valid if based */
    bool based;
};

static struct port_pcap *pcap_of(struct port *p)
{
    return container_of(p, struct port_pcap, port);
}

/* ---- worker: receive ------------------------------------------------------------------------------ */

static bool is_over(const struct port_pcap *pp)
{
    return pp->round == pp->rounds;
}

/* After the beginning of a round. */
static uint64_t due_ns(const struct port_pcap *pp)
{
    return (uint64_t)((double)pp->replay.frame[pp->next].at_ns * SPEED_ONE / (double)pp->at_speed);
}

/* How long until the next frame: 0 is now. Not when it is over. */
static uint64_t wait_ns(struct port_pcap *pp, uint64_t speed)
{
    if (speed == SPEED_MAX) {
        pp->based = false;
        return 0;
    }
    uint64_t now = clock_ns();

    if (unlikely(!pp->based || pp->at_speed != speed)) {
        pp->at_speed = speed;
        pp->base_ns = now - due_ns(pp);
        pp->based = true;
    }
    uint64_t due = pp->base_ns + due_ns(pp);

    return due > now ? due - now : 0;
}

static void advance(struct port_pcap *pp)
{
    if (pp->next + 1 < pp->replay.n) {
        write_once(&pp->next, pp->next + 1);
        return;
    }
    if (pp->based) {
        pp->base_ns += (uint64_t)((double)pp->replay.round_ns * SPEED_ONE / (double)pp->at_speed);
    }
    write_once(&pp->next, 0u);
    write_once(&pp->round, pp->round + 1);
}

static uint32_t pcap_rx(struct rxq *q, struct batch *b, struct wctx *w)
{
    struct port_pcap *pp = container_of(q, struct port_pcap, q);
    struct port_counters *c = &pp->port.counters[w->id];
    uint64_t speed = read_once(&pp->speed), bytes = 0;

    if (read_once(&pp->paused)) {
        pp->based = false;
        return 0;
    }
    while (b->n_loans < PKT_BURST && bytes <= PKT_BATCH_BYTES && !is_over(pp) && !wait_ns(pp, speed)) {
        const struct replay_frame *f = &pp->replay.frame[pp->next];

        b->n_loans++;
        if (f->len < PKT_MIN_LEN || f->len > PKT_MAX_LEN) {
            port_count_drop(&pp->port, w, f->len < PKT_MIN_LEN ? DROP_RUNT : DROP_GIANT, 1);
        } else {
            pkt_lend(b, pp->replay.bytes + f->from, f->len);
            bytes += f->len;
        }
        advance(pp);
    }
    write_once(&c->rx_frames, c->rx_frames + b->n);
    write_once(&c->rx_bytes, c->rx_bytes + bytes);
    return b->n;
}

static void pcap_rx_done(struct rxq *q, struct batch *b, struct wctx *w)
{
    /* The loans are memory of the port that nobody writes. */
}

static bool pcap_arm(struct rxq *q)
{
    struct port_pcap *pp = container_of(q, struct port_pcap, q);

    if (read_once(&pp->paused) || is_over(pp)) {
        return false;
    }
    uint64_t ns = wait_ns(pp, read_once(&pp->speed));
    struct itimerspec t = {.it_value = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)}};

    return !ns || timerfd_settime(q->fd, 0, &t, NULL);
}

static void pcap_disarm(struct rxq *q)
{
}

/* ---- worker: send --------------------------------------------------------------------------------- */

static void pcap_tx(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n, struct wctx *w)
{
    struct port_pcap *pp = pcap_of(p);
    struct port_counters *c = &p->counters[w->id];
    uint64_t frames = 0, bytes = 0;

    for (uint32_t i = 0; i < n; i++) {
        const struct pkt *k = &b->pkt[idx[i]];
        enum drop why = pp->record ? record_frame(pp->record, w, k) : DROP_N;

        if (why != DROP_N) {
            port_count_drop(p, w, why, 1);
            continue;
        }
        frames++;
        bytes += k->len;
    }
    if (pp->record) {
        record_publish(pp->record, w);
        w->spent += bytes;
    }
    write_once(&c->tx_frames, c->tx_frames + frames);
    write_once(&c->tx_bytes, c->tx_bytes + bytes);
}

/* ---- control: options ----------------------------------------------------------------------------- */

/* "max", or a decimal number of thousandths at most: "2", "0.5". */
static bool parse_speed(const char *text, uint64_t *speed)
{
    char number[24];
    size_t whole = strcspn(text, "."), digits = text[whole] ? strlen(text + whole + 1) : 0;

    if (!strcmp(text, "max") || !strcmp(text, "0")) {
        *speed = SPEED_MAX;
        return true;
    }
    if (!whole || whole > 7 || digits > SPEED_DIGITS || (text[whole] && !digits)) {
        return false;
    }
    memcpy(number, text, whole);
    memset(number + whole, '0', SPEED_DIGITS);
    memcpy(number + whole, text + whole + 1, digits);
    number[whole + SPEED_DIGITS] = '\0';
    return text_number(number, 10, (uint64_t)SPEED_LIMIT * SPEED_ONE, speed) && *speed;
}

static bool parse_rounds(const char *text, uint64_t *rounds)
{
    if (!strcmp(text, "yes") || !strcmp(text, "no")) {
        *rounds = !strcmp(text, "yes") ? FOR_EVER : 1;
        return true;
    }
    return text_number(text, 10, FOR_EVER - 1, rounds) && *rounds;
}

static int check_speed(const char *value, struct err *e)
{
    uint64_t v;

    return parse_speed(value, &v) ? 0
                                  : err_set(e, -EINVAL,
                                            "speed=%.40s is neither max nor a factor from 0.001 to %u",
                                            value, SPEED_LIMIT);
}

static int check_loop(const char *value, struct err *e)
{
    uint64_t v;

    return parse_rounds(value, &v)
               ? 0
               : err_set(e, -EINVAL, "loop=%.40s is neither yes, no, nor a number of rounds", value);
}

static int pcap_check(const struct port_conf *c, struct err *e)
{
    static const char *const of_rx[] = {"loop", "speed", "paused"};
    const char *rx = port_conf_get(c, "rx"), *tx = port_conf_get(c, "tx");

    if (!rx && !tx) {
        return err_set(e, -EINVAL, "a pcap port needs rx=FILE to send, tx=FILE to record, or both");
    }
    if (rx && tx && !strcmp(rx, tx)) {
        return err_set(e, -EINVAL, "rx and tx are the same file, which would be overwritten");
    }
    for (unsigned i = 0; !rx && i < ARRAY_SIZE(of_rx); i++) {
        if (port_conf_get(c, of_rx[i])) {
            return err_set(e, -EINVAL, "%s= is of no use without rx=FILE", of_rx[i]);
        }
    }
    return 0;
}

static int pcap_set(struct port *p, const char *key, const char *value, struct err *e)
{
    struct port_pcap *pp = pcap_of(p);
    const struct itimerspec now = {.it_value = {0, 1}};
    uint64_t speed;

    if (!pp->replay.n) {
        return err_set(e, -EINVAL, "%s= is of no use without rx=FILE", key);
    }
    if (!strcmp(key, "speed")) {
        parse_speed(value, &speed);
        write_once(&pp->speed, speed);
    } else {
        write_once(&pp->paused, !strcmp(value, "yes"));
    }
    p->env->barrier(p->env->ctx); /* no worker is about to set the timer for what was before */
    timerfd_settime(pp->q.fd, 0, &now, NULL);
    return 0;
}

/* ---- control: life -------------------------------------------------------------------------------- */

static void tell_error(struct port_pcap *pp, int code)
{
    log_warn("port %s: cannot write %s: %s; what is sent to the port is dropped", pp->port.name,
             port_conf_get(&pp->port.conf, "tx"), strerror(code));
    pp->told = true;
}

static void pcap_destroy(struct port *p)
{
    struct port_pcap *pp = pcap_of(p);

    if (pp->q.worker) {
        p->env->detach(p->env->ctx, &pp->q);
    }
    int code = pp->record ? record_destroy(pp->record) : 0;

    if (code && !pp->told) {
        tell_error(pp, code);
    }
    if (pp->q.fd >= 0) {
        close(pp->q.fd);
    }
    replay_free(&pp->replay);
    port_fini(p);
    free(pp);
}

static int start_replay(struct port_pcap *pp, const char *path, struct err *e)
{
    const struct port_conf *c = &pp->port.conf;
    const char *speed = port_conf_get(c, "speed"), *loop = port_conf_get(c, "loop");
    const struct port_env *env = pp->port.env;
    int rc = replay_load(&pp->replay, path, e);

    if (rc) {
        return rc;
    }
    if (pp->replay.n_cut) {
        log_warn("port %s: %u of the %u frames in %s were cut when they were recorded and are left out",
                 c->name, pp->replay.n_cut, pp->replay.n + pp->replay.n_cut, path);
    }
    parse_speed(speed ? speed : "1", &pp->speed);
    parse_rounds(loop ? loop : "no", &pp->rounds);
    pp->paused = port_conf_is(c, "paused", "yes");
    pp->q = (struct rxq){.port = &pp->port,
                         .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
    if (pp->q.fd < 0) {
        return err_set(e, -errno, "cannot make a timer: %s", strerror(errno));
    }
    return env->attach(env->ctx, &pp->q, e);
}

static int pcap_create(struct port **out, const struct port_conf *c, const struct port_env *env,
                       struct err *e)
{
    const char *rx = port_conf_get(c, "rx"), *tx = port_conf_get(c, "tx");
    struct port_pcap *pp = aligned_alloc(CACHE_LINE, sizeof(*pp));

    if (!pp) {
        return err_set(e, -ENOMEM, "port %s: out of memory", c->name);
    }
    memset(pp, 0, sizeof(*pp));
    pp->q.fd = -1;

    int rc = port_init(&pp->port, &port_pcap_ops, c, env, e);

    if (rc) {
        free(pp);
        return rc;
    }
    rc = tx ? record_create(&pp->record, &pp->port, tx, e) : 0;
    rc = !rc && rx ? start_replay(pp, rx, e) : rc;
    if (rc) {
        pcap_destroy(&pp->port);
        return err_prefix(e, "port %s", c->name);
    }
    env->ready(env->ctx, &pp->port, true);
    *out = &pp->port;
    return 0;
}

/* The thread that records asked for us. */
static void pcap_event(struct port *p)
{
    struct port_pcap *pp = pcap_of(p);
    int code = pp->record ? record_error(pp->record) : 0;

    if (code && !pp->told) {
        tell_error(pp, code);
    }
}

static void pcap_show(const struct port *p, json_t *o)
{
    const struct port_pcap *pp = pcap_of((struct port *)(uintptr_t)p);
    int code = pp->record ? record_error(pp->record) : 0;

    if (pp->replay.n) {
        bool over = read_once(&pp->round) == pp->rounds;

        json_object_set_new(o, "state",
                            json_string(over                    ? "done"
                                        : read_once(&pp->paused) ? "paused"
                                                                 : "playing"));
        json_object_set_new(o, "file_frames", json_integer(pp->replay.n));
        json_object_set_new(o, "file_frames_cut", json_integer(pp->replay.n_cut));
        json_object_set_new(o, "file_seconds",
                            json_real((double)pp->replay.frame[pp->replay.n - 1].at_ns / 1e9));
        json_object_set_new(o, "rounds_done", json_integer((json_int_t)read_once(&pp->round)));
        json_object_set_new(o, "next_frame", json_integer(read_once(&pp->next)));
    }
    if (pp->record) {
        json_object_set_new(o, "recorded", json_integer((json_int_t)record_frames(pp->record)));
        json_object_set_new(o, "write_error", code ? json_string(strerror(code)) : json_null());
    }
}

static const struct port_option_def pcap_options[] = {
    {"rx", "file (pcap, pcapng) whose frames come into the switch", .type = PORT_PATH},
    {"loop", "yes, or how often the file is played (default no: once)", .check = check_loop},
    {"speed", "1: as recorded (default), a factor from 0.001 on, max: as fast as it goes",
     .changeable = true, .check = check_speed},
    {"paused", "yes: stand still (default no)", .changeable = true, .type = PORT_YES_NO},
    {"tx", "file (pcapng) for what is sent to the port (default: throw it away)", .type = PORT_PATH},
    {NULL},
};

const struct port_ops port_pcap_ops = {
    .kind = "pcap",
    .help = "plays a capture file into the switch, records what it gets, or both",
    .options = pcap_options,
    .check = pcap_check,
    .create = pcap_create,
    .destroy = pcap_destroy,
    .rx = pcap_rx,
    .rx_done = pcap_rx_done,
    .tx = pcap_tx,
    .arm = pcap_arm,
    .disarm = pcap_disarm,
    .set = pcap_set,
    .event = pcap_event,
    .show = pcap_show,
};
