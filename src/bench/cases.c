/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running a case: every subject is started and connected once, then they take turns, one round
 * after the other; whoever is not measured is held still by SIGSTOP, so that it neither spins on
 * the core nor warms it.  The first of a round changes from round to round.
 */
#include "bench/cases.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/limit.h"
#include "bench/queues.h"

#define VS_PEERS(f, n)                                                                             \
    .n_subjects = 4, .subject = {{"ringway", PEER_RINGWAY, f, n, 1, 2},                            \
                                 {"ovs-dpdk", PEER_OVS_DPDK, f, n, 1, 2},                          \
                                 {"testpmd", PEER_TESTPMD, f, n, 1, 2},                            \
                                 {"limit", PEER_LIMIT, f, n, 1, 2}}

/* Linux-like guests, one pair, one way */
#define TCP(frame) frame, 256, 1, 2, .linux_guest = true

/* Frames get their tag on the way out: from an access port to a trunk. */
static const char *const access_trunk[2] = {"=vhost-user,vlan=10", "=vhost-user,trunk=10"};

/* Whoever drives packed rings writes each descriptor; compared with one that writes split rings as
 * drivers do, and, for what it tells, with one that writes them only once. */
#define PACKED(f)                                                                                  \
    .n_subjects = 4,                                                                               \
    .subject = {{"ringway, packed", PEER_RINGWAY, f, 256, 1, 2, .packed = true},                   \
                {"ringway, split", PEER_RINGWAY, f, 256, 1, 2, .write_rings = true},               \
                {"ringway, split written once", PEER_RINGWAY, f, 256, 1, 2},                       \
                {"testpmd, packed", PEER_TESTPMD, f, 256, 1, 2, .packed = true}},                  \
    .bar = {{0, 1, 0.95}, {0, 3, 2}, {0, 2}}

const struct case_def bench_cases[] = {
    {"60-256", "60 B frames, rings of 256, one pair, one way", VS_PEERS(60, 256),
     .bar = {{0, 1, 3.5}, {0, 2, 2.5}, {0, 3, 0.7}, {3, 2, 2.5}}},
    {"60-1024", "60 B frames, rings of 1024, one pair, one way", VS_PEERS(60, 1024),
     .bar = {{0, 1, 3.5}, {0, 2, 2.5}, {0, 3, 0.7}}},
    {"1514-256", "1514 B frames, rings of 256, one pair, one way", VS_PEERS(1514, 256),
     .bar = {{0, 1, 2.5}, {0, 2, 1.5}, {0, 3, 0.7}}},
    {"ports-16", "16 ports on one worker, traffic on 8 pairs, sum, against one pair",
     .n_subjects = 2,
     .subject = {{"ringway, 8 pairs", PEER_RINGWAY, 60, 256, 8, 2},
                 {"ringway, 1 pair", PEER_RINGWAY, 60, 256, 1, 2}},
     .bar = {{0, 1, 0.85}}},
    {"macs",
     "100,000 addresses in rotation, learnt, against 2; the generator writes addresses in both",
     .n_subjects = 3,
     .subject = {{"ringway, 100,000", PEER_RINGWAY, 60, 256, 1, 100000, .rotate = true},
                 {"ringway, 2", PEER_RINGWAY, 60, 256, 1, 2, .rotate = true},
                 {"ovs-dpdk, 100,000", PEER_OVS_DPDK, 60, 256, 1, 100000, .rotate = true}},
     .bar = {{0, 1, 0.5}, {0, 2, 100}}},
    {"linux",
     "into a Linux-like guest (mergeable 1.5 KiB buffers, event index), every frame verified, "
     "against a plain one",
     .n_subjects = 4,
     .subject = {{"linux, 60 B", PEER_RINGWAY, 60, 256, 1, 2, .verify = true, .linux_guest = true},
                 {"plain, 60 B", PEER_RINGWAY, 60, 256, 1, 2, .verify = true},
                 {"linux, 1514 B", PEER_RINGWAY, 1514, 256, 1, 2, .verify = true,
                  .linux_guest = true},
                 {"plain, 1514 B", PEER_RINGWAY, 1514, 256, 1, 2, .verify = true}},
     .bar = {{0, 1, 0.8}, {2, 3, 0.8}}},
    {"tso",
     "TSO frames of 65,000 B between Linux-like guests, headers verified in each frame, payload in "
     "samples",
     .n_subjects = 4,
     .subject = {{"ringway", PEER_RINGWAY, TCP(65000), .tcp = GEN_TCP_TSO, .taken = true},
                 {"testpmd, tso=1", PEER_TESTPMD, TCP(65000), .tcp = GEN_TCP_TSO, .taken = true,
                  .vdev = ",tso=1"},
                 {"testpmd, legacy flags", PEER_TESTPMD, TCP(65000), .tcp = GEN_TCP_TSO, .taken = true,
                  .vdev = ",tso=1,legacy-ol-flags=1"},
                 {"limit", PEER_LIMIT, TCP(65000), .tcp = GEN_TCP_TSO, .taken = true}},
     .bar = {{0, 1, 3}, {0, 2}, {0, 3}}},
    {"tso-split",
     "the same frames to a guest without TSO, segmented to 1514 B in the copy, against plain ones "
     "of 1514 B, in bytes",
     .n_subjects = 2,
     .subject = {{"ringway, segmented", PEER_RINGWAY, TCP(65000), .tcp = GEN_TCP_TSO},
                 {"ringway, plain", PEER_RINGWAY, TCP(1514), .tcp = GEN_TCP_PLAIN}},
     .bar = {{0, 1, 0.7}}},
    {"csum",
     "TCP frames of 1514 B whose checksum the switch completes, against the same with a complete one",
     .n_subjects = 2,
     .subject = {{"ringway, completed", PEER_RINGWAY, TCP(1514), .tcp = GEN_TCP_CSUM},
                 {"ringway, plain", PEER_RINGWAY, TCP(1514), .tcp = GEN_TCP_PLAIN}},
     .bar = {{0, 1, 0.75}}},
    {"packed-60", "60 B frames, packed rings of 256, one pair", PACKED(60)},
    {"packed-1514", "1514 B frames, packed rings of 256, one pair", PACKED(1514)},
    {"vlan",
     "60 B frames from an access port to a trunk, against ports without VLANs, in bytes, tag included",
     .n_subjects = 2,
     .subject = {{"ringway, access to trunk", PEER_RINGWAY, 60, 256, 1, 2, .port = access_trunk,
                  .odd_vid = 10},
                 {"ringway, no VLANs", PEER_RINGWAY, 60, 256, 1, 2}},
     .bar = {{0, 1}}},
    {"queues", "many flows both ways between two ports, order and ring checked: four queue pairs each, "
               "against one",
     .n_subjects = 2,
     .subject = {{"ringway, 4 pairs", PEER_RINGWAY, 60, 256, 1, 2, .queues = 4},
                 {"ringway, 1 pair", PEER_RINGWAY, 60, 256, 1, 2, .queues = 1}},
     .bar = {{0, 1}}},
    {"both-ways", "60 B frames, rings of 256, one pair, both ways", VS_PEERS(60, 256),
     .bar = {{0}}},
    {NULL}};

/* ---- one subject, alive ---- */

struct live {
    const struct subject_def *def;
    struct peer *peer;
    struct gen *gen;
    struct qgen *qgen; /* instead of gen, if def->queues is set */
    pid_t limit; /* 0: none */
    struct series mpps, gbps, p50, p99;
    struct gen_rate sum;
    struct gen_latency last;
    bool missing;
    char why[sizeof(((struct err *)0)->text)];
};

static void hold(struct live *l)
{
    peer_hold(l->peer);
    if (l->limit) {
        kill(l->limit, SIGSTOP);
    }
}

static void go(struct live *l)
{
    peer_go(l->peer);
    if (l->limit) {
        kill(l->limit, SIGCONT);
    }
}

static void end(struct live *l)
{
    if (l->limit) {
        kill(l->limit, SIGKILL);
        waitpid(l->limit, NULL, 0);
        l->limit = 0;
    }
    gen_destroy(l->gen);
    qgen_destroy(l->qgen);
    peer_stop(l->peer);
    l->gen = NULL;
    l->qgen = NULL;
    l->peer = NULL;
}

static void fail(struct live *l, const struct err *e)
{
    struct err dead = {0};

    /* If the switch died, its log says more than that it hung up. */
    memcpy(l->why, l->peer && peer_check(l->peer, &dead) ? dead.text : e->text, sizeof(l->why));
    l->missing = true;
    end(l);
}

/* The generator for several queues, connected. */
static int begin_queues(struct live *l, struct err *e)
{
    struct qgen_conf qc = {.path = peer_sockets(l->peer),
                           .queues = l->def->queues,
                           .num = l->def->num,
                           .timeout_ms = 20000};
    int r = qgen_create(&l->qgen, &qc, e);

    return r ? r : qgen_connect(l->qgen, e);
}

static int begin(struct live *l, const struct bench_opts *o, struct err *e)
{
    static const char *const no_path[2 * GEN_MAX_PAIRS];
    const struct subject_def *d = l->def;
    struct peer_conf pc = {.kind = d->kind,
                           .n_ports = 2 * d->n_pairs,
                           .switch_cpu = o->switch_cpu,
                           .vdev = d->vdev,
                           .port = d->port,
                           .program = o->program};
    struct gen_conf gc = {.n_pairs = d->n_pairs,
                          .frame = d->frame,
                          .num = d->num,
                          .n_macs = d->n_macs,
                          .rotate = d->rotate,
                          .both = d->both,
                          .verify = d->verify,
                          .linux_guest = d->linux_guest,
                          .packed = d->packed,
                          .write_rings = d->write_rings,
                          .odd_vid = d->odd_vid,
                          .tcp = d->tcp,
                          .taken = d->taken,
                          .timeout_ms = 20000};
    int r = 0;

    if (o->sockets) {
        gc.path = o->sockets;
        gc.server = o->listen;
    } else if (d->kind == PEER_LIMIT) {
        gc.path = no_path;
    } else {
        r = peer_start(&l->peer, &pc, e);
        if (r) {
            return r;
        }
        gc.path = peer_sockets(l->peer);
        gc.server = peer_dials(l->peer);
    }
    if (d->queues) {
        return begin_queues(l, e);
    }
    r = gen_create(&l->gen, &gc, e);
    if (!r && d->kind == PEER_LIMIT && !o->sockets) {
        r = gen_start_local(l->gen, e);
        r = r ? r : limit_start(l->gen, o->switch_cpu, &l->limit, e);
    } else if (!r) {
        r = gen_connect(l->gen, e);
    }
    return r ? r : gen_learn(l->gen, e);
}

static void start_all(struct live *l, unsigned n, const struct bench_opts *o)
{
    struct err e;

    for (unsigned i = 0; i < n; i++) {
        if (gen_interrupted) {
            break;
        }
        e = (struct err){0};
        if (begin(&l[i], o, &e)) {
            fail(&l[i], &e);
        } else {
            hold(&l[i]);
        }
    }
}

/* A switch that was held forgets by its own clock; few addresses are quickly told again. */
static int wake(struct live *l, struct err *e)
{
    go(l);
    return l->gen && l->def->n_macs <= 2 ? gen_learn(l->gen, e) : 0;
}

#define QUEUES_PPS 5e6 /* about what comes through; that generator counts frames, not seconds */

static int run_queues(struct live *l, double seconds, struct gen_rate *out, struct err *e)
{
    struct qgen_sum sum = {0};
    int r = qgen_run(l->qgen, (uint64_t)(seconds * QUEUES_PPS), &sum, e);

    *out = (struct gen_rate){.seconds = sum.seconds,
                             .rx_frames = sum.received,
                             .rx_bytes = sum.received * l->def->frame,
                             .tx_frames = sum.sent,
                             .lost = sum.sent - sum.received,
                             .bad_content = sum.bad_frame,
                             .bad_order = sum.bad_order + sum.bad_ring};
    return r;
}

static void add_up(struct gen_rate *sum, const struct gen_rate *r)
{
    sum->rx_frames += r->rx_frames;
    sum->rx_bytes += r->rx_bytes;
    sum->tx_frames += r->tx_frames;
    sum->lost += r->lost;
    sum->bad_content += r->bad_content;
    sum->bad_order += r->bad_order;
    sum->kicks += r->kicks;
}

static void measure(struct live *l, const struct bench_opts *o)
{
    struct gen_rate rate;
    struct err e = {0};

    if (l->missing) {
        return;
    }
    int r = wake(l, &e);
    if (!r) {
        r = l->qgen ? run_queues(l, o->seconds, &rate, &e) : gen_run(l->gen, o->seconds, &rate, &e);
    }
    if (r) {
        fail(l, &e);
        return;
    }
    hold(l);
    series_add(&l->mpps, (double)rate.rx_frames / rate.seconds / 1e6);
    series_add(&l->gbps, (double)rate.rx_bytes * 8 / rate.seconds / 1e9);
    add_up(&l->sum, &rate);
}

static unsigned select_subjects(const struct case_def *c, const struct bench_opts *o,
                                struct live *l, int *index)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->n_subjects; i++) {
        index[i] = -1;
        if (o->kinds >> c->subject[i].kind & 1) {
            index[i] = (int)n;
            l[n++].def = &c->subject[i];
        }
    }
    return n;
}

static void show_bars(const struct case_def *c, const struct live *l, const int *index,
                      struct report *r)
{
    for (unsigned i = 0; i < CASE_MAX_BARS && c->bar[i].a != c->bar[i].b; i++) {
        const struct bar_def *b = &c->bar[i];
        char text[96];

        if (index[b->a] < 0 || index[b->b] < 0) {
            continue;
        }
        struct series ratio = series_ratio(&l[index[b->a]].gbps, &l[index[b->b]].gbps);
        snprintf(text, sizeof(text), "%s / %s", c->subject[b->a].label, c->subject[b->b].label);
        report_bar(r, &(struct report_bar){.text = text,
                                           .unit = "x",
                                           .value = &ratio,
                                           .bar = b->at_least,
                                           .at_least = true,
                                           .judged = b->at_least > 0});
    }
}

void case_run(const struct case_def *c, const struct bench_opts *o, struct report *r)
{
    struct live *l = calloc(CASE_MAX_SUBJECTS, sizeof(*l));
    int index[CASE_MAX_SUBJECTS] = {0};

    report_case(r, c->name, c->title);
    unsigned n = l ? select_subjects(c, o, l, index) : 0;
    start_all(l, n, o);
    for (unsigned round = 0; round < o->rounds && !gen_interrupted; round++) {
        for (unsigned i = 0; i < n && !gen_interrupted; i++) {
            measure(&l[(round + i) % n], o);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        if (l[i].missing || !l[i].mpps.n) {
            report_missing(r, l[i].def->label, l[i].missing ? l[i].why : "interrupted");
        } else {
            report_rate(r, &(struct report_rate){.label = l[i].def->label,
                                                 .mpps = &l[i].mpps,
                                                 .gbps = &l[i].gbps,
                                                 .sum = l[i].sum});
        }
    }
    if (l) {
        show_bars(c, l, index, r);
    }
    for (unsigned i = 0; i < n; i++) {
        end(&l[i]);
    }
    free(l);
}

/* ---- round trips ---- */

#define SLEEP_SAMPLES 50
#define WARM_SECONDS 0.05 /* some laps of the rings */

static void measure_latency(struct live *l, const struct bench_opts *o, unsigned idle_ms)
{
    struct err e = {0};

    if (l->missing) {
        return;
    }
    int r = wake(l, &e);
    if (!r && idle_ms) {
        /* Buffers that were never used before would be faulted in, one for each frame. */
        r = gen_latency(l->gen, o->latency_rate, WARM_SECONDS, &l->last, &e);
        r = r ? r : gen_sleep_latency(l->gen, idle_ms, SLEEP_SAMPLES, &l->last, &e);
    } else if (!r) {
        r = gen_latency(l->gen, o->latency_rate, o->seconds, &l->last, &e);
    }
    if (!r && !l->last.n) {
        r = err_set(&e, -EIO, "no frame came back");
    }
    if (r) {
        fail(l, &e);
        return;
    }
    hold(l);
    series_add(&l->p50, l->last.p50);
    series_add(&l->p99, l->last.p99);
}

/* With all switches asleep or held: the bound of the machine for a round trip out of sleep. */
static void measure_wake(struct live *l, const struct bench_opts *o, unsigned idle_ms)
{
    struct err e = {0};

    if (l->missing || gen_interrupted) {
        return;
    }
    if (gen_bare_wake(o->switch_cpu, idle_ms, SLEEP_SAMPLES, &l->last, &e)) {
        fail(l, &e);
        return;
    }
    series_add(&l->p50, l->last.p50);
    series_add(&l->p99, l->last.p99);
}

static void show_wake(struct live *wake, const struct live *first, struct report *r)
{
    static const char label[] = "a wake-up alone";

    if (wake->missing || !wake->p50.n) {
        report_missing(r, label, wake->missing ? wake->why : "interrupted");
        return;
    }
    report_latency(r, label, &wake->p50, &wake->p99, &wake->last);
    struct series ratio = series_ratio(&first->p50, &wake->p50);
    report_bar(r, &(struct report_bar){
                      .text = "round trip / a wake-up alone", .unit = "x", .value = &ratio});
}

void latency_run(const struct subject_def *def, unsigned n, const struct bench_opts *o,
                 unsigned idle_ms, double at_most_us, struct report *r)
{
    struct live *l = calloc(n, sizeof(*l));
    struct live wake = {0};

    for (unsigned i = 0; l && i < n; i++) {
        l[i].def = &def[i];
    }
    n = l ? n : 0;
    start_all(l, n, o);
    for (unsigned round = 0; round < o->rounds && !gen_interrupted; round++) {
        for (unsigned i = 0; i < n && !gen_interrupted; i++) {
            measure_latency(&l[(round + i) % n], o, idle_ms);
        }
        if (idle_ms) {
            measure_wake(&wake, o, idle_ms);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        if (l[i].missing || !l[i].p50.n) {
            report_missing(r, def[i].label, l[i].missing ? l[i].why : "interrupted");
        } else {
            report_latency(r, def[i].label, &l[i].p50, &l[i].p99, &l[i].last);
        }
    }
    if (n && idle_ms) {
        show_wake(&wake, &l[0], r);
    }
    if (n && at_most_us > 0) {
        struct series us = {0};

        for (unsigned i = 0; i < l[0].p50.n; i++) {
            series_add(&us, l[0].p50.v[i] / 1e3);
        }
        report_bar(r, &(struct report_bar){.text = "median round trip",
                                           .unit = "us",
                                           .value = &us,
                                           .bar = at_most_us,
                                           .judged = true});
    }
    for (unsigned i = 0; i < n; i++) {
        end(&l[i]);
    }
    free(l);
}

/* ---- idle: CPU time and memory ---- */

/* User and system time of all threads, in seconds. */
static double cpu_seconds(pid_t pid)
{
    char path[64], line[1024] = "";
    unsigned long user = 0, sys = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (f) {
        line[fread(line, 1, sizeof(line) - 1, f)] = 0;
        fclose(f);
    }
    const char *p = strrchr(line, ')'); /* the name may hold anything */
    if (!p ||
        sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys) != 2) {
        return -1;
    }
    return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

/* Resident memory that is not shared, in MiB: the guests' memory is shared (RssShmem). */
static double own_memory(pid_t pid)
{
    char path[64], line[256];
    unsigned long kb = 0, sum = 0;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "RssAnon: %lu", &kb) == 1 || sscanf(line, "RssFile: %lu", &kb) == 1) {
            sum += kb;
        }
    }
    if (f) {
        fclose(f);
    }
    return (double)sum / 1024;
}

static void rest(unsigned seconds)
{
    struct timespec second = {1, 0};

    for (unsigned i = 0; i < seconds && !gen_interrupted; i++) {
        nanosleep(&second, NULL);
    }
}

static void idle_run(const struct bench_opts *o, struct report *r)
{
    static const struct subject_def def = {"ringway", PEER_RINGWAY, 60, 256, 8, 2};
    struct live l = {.def = &def};
    struct series cpu = {0}, mem = {0};
    struct gen_rate rate;
    struct err e = {0};
    char text[96];

    int code = begin(&l, o, &e);
    code = code ? code : gen_run(l.gen, MAX(o->seconds, 1.0), &rate, &e);
    if (code) {
        fail(&l, &e);
        report_missing(r, def.label, l.why);
        return;
    }
    rest(1);
    double t0 = cpu_seconds(peer_pid(l.peer));
    rest(o->idle_seconds);
    double t1 = cpu_seconds(peer_pid(l.peer));
    if (t0 >= 0 && t1 >= 0 && !gen_interrupted) {
        series_add(&cpu, 100 * (t1 - t0) / o->idle_seconds);
        series_add(&mem, own_memory(peer_pid(l.peer)));
    }
    snprintf(text, sizeof(text), "CPU in %u s after traffic, all threads", o->idle_seconds);
    report_bar(r, &(struct report_bar){
                      .text = text, .unit = "%", .value = &cpu, .bar = 1, .judged = true});
    report_bar(r, &(struct report_bar){.text = "resident memory, guests' not counted",
                                       .unit = "MiB",
                                       .value = &mem,
                                       .bar = 64,
                                       .judged = true});
    end(&l);
}

const char *const special_names[] = {
    "latency", "round trip at a paced load, front-ends that spin",
    "sleep",   "round trip out of sleep: one frame after 20 ms without any",
    "idle",    "16 connected ports without traffic",
    NULL};

bool special_run(const char *name, const struct bench_opts *o, struct report *r)
{
    static const struct subject_def all[] = {{"ringway", PEER_RINGWAY, 60, 256, 1, 2},
                                             {"ovs-dpdk", PEER_OVS_DPDK, 60, 256, 1, 2},
                                             {"testpmd", PEER_TESTPMD, 60, 256, 1, 2},
                                             {"limit", PEER_LIMIT, 60, 256, 1, 2}};
    struct subject_def def[ARRAY_SIZE(all)];
    unsigned i = 0, n = 0;

    while (special_names[i] && strcmp(special_names[i], name)) {
        i += 2;
    }
    if (!special_names[i]) {
        return false;
    }
    report_case(r, special_names[i], special_names[i + 1]);
    if (i == 4) {
        idle_run(o, r);
        return true;
    }
    for (unsigned k = 0; k < (i ? 1 : ARRAY_SIZE(all)); k++) {
        if (o->kinds >> all[k].kind & 1) {
            def[n++] = all[k];
        }
    }
    latency_run(def, n, o, i ? 20 : 0, i ? 50 : 0, r);
    return true;
}
