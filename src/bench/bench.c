/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ringway bench`: the command line.  See docs/performance.md for what the numbers mean.
 */
#include "bench/bench.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/cases.h"
#include "bench/inproc.h"
#include "bench/order.h"

struct cmd {
    struct bench_opts o;
    struct subject_def def;
    char *sockets;
    char *compare;
    bool latency, sleep_latency, suite, json, in_process, order;
    unsigned queues, workers;
    const char *json_path;
    const char *suite_names;
    uint64_t frames;
};

static const char usage[] =
    "usage: ringway bench [OPTION...]\n"
    "Measure ringway, or any vhost-user switch, with spinning front-ends.\n"
    "\n"
    "which switch\n"
    "  (nothing)              start ringway with its worker on --switch-cpu\n"
    "  --compare LIST         and in turn with it: ovs-dpdk, testpmd, limit (bare rings and copy)\n"
    "  --sockets A,B[,C,D]    drive the switch behind these sockets (pairs)\n"
    "  --listen               with --sockets: listen there, the switch connects\n"
    "traffic\n"
    "  --frame N              bytes without FCS, 60..65549 (60)\n"
    "  --ring N               ring size, a power of two (256)\n"
    "  --pairs N              port pairs (1)\n"
    "  --both                 both ways\n"
    "  --macs N               source addresses per pair, in rotation if more than 2 (2)\n"
    "  --rotate               write addresses and sequence numbers into each frame\n"
    "  --guest plain|linux    linux: mergeable 1.5 KiB buffers, event index (plain)\n"
    "  --packed               rings in the packed layout\n"
    "  --write-rings          write split rings as drivers do: descriptors and avail entries each time\n"
    "                         (else once; packed rings are always written)\n"
    "  --verify               check content and order of every frame\n"
    "  --tcp plain|csum|tso   TCP frames, headers and order always checked; left to be done: nothing,\n"
    "                         the checksum, segmenting to 1514 B (--verify: all payload checked)\n"
    "  --taken                with --tcp: the receiver takes them as they are\n"
    "what\n"
    "  --latency[=RATE]       round trips at so many frames per second (100000)\n"
    "  --sleep-latency        round trips out of sleep\n"
    "  --suite[=NAME,...]     the table of docs/performance.md, with what is required\n"
    "  --list                 names for --suite\n"
    "  --in-process FRAMES    generator and switch in one thread, to count instructions\n"
    "  --order[=FRAMES]       order within each flow, while queues move between workers every\n"
    "                         100 ms (100000000)\n"
    "  --queues N             with these two: queue pairs per port, 1..32 (1; --order: 4)\n"
    "  --workers N            with these two: worker threads, 1..16 (1; --order: 2)\n"
    "how\n"
    "  --rounds N             (10)       --duration S   per round and switch (0.5)\n"
    "  --gen-cpu N            (last - 1) --switch-cpu N (last)\n"
    "  --idle-seconds N       for the idle case (60)\n"
    "  --json[=FILE]          JSON on stdout, or to FILE beside the table\n";

static int bad(const char *fmt, const char *what)
{
    fprintf(stderr, "ringway bench: ");
    fprintf(stderr, fmt, what);
    fprintf(stderr, "\nTry 'ringway bench --help'.\n");
    return 2;
}

static void on_signal(int sig)
{
    (void)sig;
    gen_interrupted = true;
}

static bool number(const char *s, uint64_t lo, uint64_t hi, uint64_t *v)
{
    char *end;

    errno = 0;
    *v = strtoull(s, &end, 10);
    return *s && *s != '-' && !*end && !errno && *v >= lo && *v <= hi;
}

enum opt {
    OPT_COMPARE = 256,
    OPT_SOCKETS,
    OPT_LISTEN,
    OPT_FRAME,
    OPT_RING,
    OPT_PAIRS,
    OPT_BOTH,
    OPT_MACS,
    OPT_ROTATE,
    OPT_GUEST,
    OPT_PACKED,
    OPT_WRITE_RINGS,
    OPT_VERIFY,
    OPT_TCP,
    OPT_TAKEN,
    OPT_LATENCY,
    OPT_SLEEP,
    OPT_SUITE,
    OPT_LIST,
    OPT_INPROC,
    OPT_ORDER,
    OPT_QUEUES,
    OPT_WORKERS,
    OPT_ROUNDS,
    OPT_DURATION,
    OPT_GEN_CPU,
    OPT_SWITCH_CPU,
    OPT_IDLE,
    OPT_JSON,
    OPT_HELP
};

static const struct option long_opts[] = {
    {"compare", 1, NULL, OPT_COMPARE},     {"sockets", 1, NULL, OPT_SOCKETS},
    {"listen", 0, NULL, OPT_LISTEN},       {"frame", 1, NULL, OPT_FRAME},
    {"ring", 1, NULL, OPT_RING},           {"pairs", 1, NULL, OPT_PAIRS},
    {"both", 0, NULL, OPT_BOTH},           {"macs", 1, NULL, OPT_MACS},
    {"rotate", 0, NULL, OPT_ROTATE},       {"guest", 1, NULL, OPT_GUEST},
    {"packed", 0, NULL, OPT_PACKED},       {"write-rings", 0, NULL, OPT_WRITE_RINGS},
    {"verify", 0, NULL, OPT_VERIFY},       {"latency", 2, NULL, OPT_LATENCY},
    {"sleep-latency", 0, NULL, OPT_SLEEP}, {"suite", 2, NULL, OPT_SUITE},
    {"tcp", 1, NULL, OPT_TCP},             {"taken", 0, NULL, OPT_TAKEN},
    {"list", 0, NULL, OPT_LIST},           {"in-process", 1, NULL, OPT_INPROC},
    {"rounds", 1, NULL, OPT_ROUNDS},       {"duration", 1, NULL, OPT_DURATION},
    {"gen-cpu", 1, NULL, OPT_GEN_CPU},     {"switch-cpu", 1, NULL, OPT_SWITCH_CPU},
    {"idle-seconds", 1, NULL, OPT_IDLE},   {"json", 2, NULL, OPT_JSON},
    {"order", 2, NULL, OPT_ORDER},         {"queues", 1, NULL, OPT_QUEUES},
    {"workers", 1, NULL, OPT_WORKERS},     {"help", 0, NULL, OPT_HELP},
    {NULL, 0, NULL, 0}};

/* Options that are a number within limits. */
static const struct num_opt {
    int opt;
    uint64_t lo, hi;
    const char *what;
} num_opts[] = {{OPT_FRAME, GEN_MIN_FRAME, GEN_MAX_FRAME, "--frame %s: 60 to 65549 bytes"},
                {OPT_RING, 64, 32768, "--ring %s: a power of two from 64 to 32768"},
                {OPT_PAIRS, 1, GEN_MAX_PAIRS, "--pairs %s: 1 to 64"},
                {OPT_MACS, 2, GEN_MAX_MACS, "--macs %s: 2 to 2000000"},
                {OPT_INPROC, 1, UINT64_MAX, "--in-process %s: a number of frames"},
                {OPT_ORDER, 1, UINT64_MAX, "--order=%s: a number of frames"},
                {OPT_QUEUES, 1, QGEN_MAX_QUEUES, "--queues %s: 1 to 32"},
                {OPT_WORKERS, 1, 16, "--workers %s: 1 to 16"},
                {OPT_ROUNDS, 1, MAX_ROUNDS, "--rounds %s: 1 to 200"},
                {OPT_GEN_CPU, 0, CPU_SETSIZE - 1, "--gen-cpu %s: a CPU number"},
                {OPT_SWITCH_CPU, 0, CPU_SETSIZE - 1, "--switch-cpu %s: a CPU number"},
                {OPT_IDLE, 1, 3600, "--idle-seconds %s: 1 to 3600"},
                {OPT_LATENCY, 1, 10000000, "--latency=%s: 1 to 10000000 frames per second"}};

static int take_number(struct cmd *c, int opt, const char *arg)
{
    const struct num_opt *n = num_opts;
    uint64_t v;

    while (n->opt != opt) {
        n++;
    }
    if (!number(arg, n->lo, n->hi, &v) || (opt == OPT_RING && (v & (v - 1)))) {
        return bad(n->what, arg);
    }
    switch (opt) {
    case OPT_FRAME:
        c->def.frame = (uint32_t)v;
        break;
    case OPT_RING:
        c->def.num = (uint32_t)v;
        break;
    case OPT_PAIRS:
        c->def.n_pairs = (unsigned)v;
        break;
    case OPT_MACS:
        c->def.n_macs = (uint32_t)v;
        break;
    case OPT_INPROC:
        c->in_process = true;
        c->frames = v;
        break;
    case OPT_ORDER:
        c->frames = v;
        break;
    case OPT_QUEUES:
        c->queues = (unsigned)v;
        break;
    case OPT_WORKERS:
        c->workers = (unsigned)v;
        break;
    case OPT_ROUNDS:
        c->o.rounds = (unsigned)v;
        break;
    case OPT_GEN_CPU:
        c->o.gen_cpu = (int)v;
        break;
    case OPT_SWITCH_CPU:
        c->o.switch_cpu = (int)v;
        break;
    case OPT_IDLE:
        c->o.idle_seconds = (unsigned)v;
        break;
    default:
        c->o.latency_rate = (double)v;
        break;
    }
    return -1;
}

static void list_cases(void)
{
    for (const struct case_def *d = bench_cases; d->name; d++) {
        printf("%-12s %s\n", d->name, d->title);
    }
    for (unsigned i = 0; special_names[i]; i += 2) {
        printf("%-12s %s\n", special_names[i], special_names[i + 1]);
    }
}

static int take_tcp(struct cmd *c, const char *arg)
{
    static const char *const word[] = {
        [GEN_TCP_PLAIN] = "plain", [GEN_TCP_CSUM] = "csum", [GEN_TCP_TSO] = "tso"};

    for (unsigned i = GEN_TCP_PLAIN; i < ARRAY_SIZE(word); i++) {
        if (!strcmp(arg, word[i])) {
            c->def.tcp = (enum gen_tcp)i;
            return -1;
        }
    }
    return bad("--tcp %s: plain, csum or tso", arg);
}

/* -1: go on, else the exit status. */
static int take_option(struct cmd *c, int opt, char *arg)
{
    char *end;

    switch (opt) {
    case OPT_COMPARE:
        c->compare = arg;
        return -1;
    case OPT_SOCKETS:
        c->sockets = arg;
        return -1;
    case OPT_LISTEN:
        c->o.listen = true;
        return -1;
    case OPT_BOTH:
        c->def.both = true;
        return -1;
    case OPT_ROTATE:
        c->def.rotate = true;
        return -1;
    case OPT_PACKED:
        c->def.packed = true;
        return -1;
    case OPT_WRITE_RINGS:
        c->def.write_rings = true;
        return -1;
    case OPT_VERIFY:
        c->def.verify = true;
        return -1;
    case OPT_GUEST:
        if (strcmp(arg, "plain") && strcmp(arg, "linux")) {
            return bad("--guest %s: plain or linux", arg);
        }
        c->def.linux_guest = arg[0] == 'l';
        return -1;
    case OPT_TCP:
        return take_tcp(c, arg);
    case OPT_TAKEN:
        c->def.taken = true;
        c->def.vdev = ",tso=1,legacy-ol-flags=1"; /* or testpmd passes nothing on */
        return -1;
    case OPT_LATENCY:
        c->latency = true;
        return arg ? take_number(c, opt, arg) : -1;
    case OPT_SLEEP:
        c->sleep_latency = true;
        return -1;
    case OPT_ORDER:
        c->order = true;
        return arg ? take_number(c, opt, arg) : -1;
    case OPT_SUITE:
        c->suite = true;
        c->suite_names = arg;
        return -1;
    case OPT_DURATION:
        c->o.seconds = strtod(arg, &end);
        return *end || !(c->o.seconds >= 0.01 && c->o.seconds <= 3600)
                   ? bad("--duration %s: 0.01 to 3600 seconds", arg)
                   : -1;
    case OPT_JSON:
        c->json = true;
        c->json_path = arg;
        return -1;
    case OPT_LIST:
        list_cases();
        return 0;
    case OPT_HELP:
        fputs(usage, stdout);
        return 0;
    case '?':
        fprintf(stderr, "Try 'ringway bench --help'.\n");
        return 2;
    default:
        return take_number(c, opt, arg);
    }
}

static int check_tcp(const struct cmd *c)
{
    if (!c->def.tcp) {
        return c->def.taken ? bad("%s", "--taken needs --tcp") : -1;
    }
    if (c->latency || c->sleep_latency || c->def.rotate || c->def.n_macs > 2) {
        return bad("%s", "--tcp does not go with --latency, --sleep-latency, --macs or --rotate");
    }
    return c->def.frame < GEN_TCP_MIN ? bad("%s", "--tcp needs a --frame of 130 bytes or more") : -1;
}

static int take_compare(struct cmd *c)
{
    c->o.kinds = 1u << PEER_RINGWAY;
    for (char *p = c->compare ? strtok(c->compare, ",") : NULL; p; p = strtok(NULL, ",")) {
        int k = peer_kind_parse(p);

        if (k < 0) {
            return bad("--compare %s: not one of ringway, ovs-dpdk, testpmd, limit", p);
        }
        c->o.kinds |= 1u << k;
    }
    return -1;
}

static int take_sockets(struct cmd *c)
{
    static const char *path[2 * GEN_MAX_PAIRS];

    if (!c->sockets) {
        return c->o.listen ? bad("%s", "--listen needs --sockets") : -1;
    }
    for (char *p = strtok(c->sockets, ","); p; p = strtok(NULL, ",")) {
        if (c->o.n_sockets == ARRAY_SIZE(path)) {
            return bad("%s", "--sockets: too many");
        }
        path[c->o.n_sockets++] = p;
    }
    if (c->o.n_sockets < 2 || c->o.n_sockets & 1) {
        return bad("%s", "--sockets needs pairs of sockets: A,B or A,B,C,D");
    }
    if (c->compare || c->suite || c->in_process) {
        return bad("%s", "--sockets does not go with --compare, --suite or --in-process");
    }
    c->o.sockets = path;
    c->def.n_pairs = c->o.n_sockets / 2;
    c->def.label = "switch";
    return -1;
}

static int check_cpus(struct cmd *c)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t set;

    if (c->o.gen_cpu >= 0 && c->o.gen_cpu == c->o.switch_cpu) {
        return bad("%s", "--gen-cpu and --switch-cpu must differ");
    }
    if (n < 2) {
        fprintf(stderr,
                "ringway bench: one CPU is not enough: switch and generator need one each\n");
        return 1;
    }
    c->o.switch_cpu = c->o.switch_cpu < 0 ? (int)n - 1 : c->o.switch_cpu;
    if (c->o.gen_cpu < 0) {
        c->o.gen_cpu = c->o.switch_cpu == (int)n - 2 ? (int)n - 1 : (int)n - 2;
    } else if (c->o.gen_cpu == c->o.switch_cpu) {
        c->o.switch_cpu = c->o.gen_cpu == 0 ? 1 : 0; /* it was not given */
    }
    CPU_ZERO(&set);
    CPU_SET(c->o.gen_cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set)) {
        fprintf(stderr, "ringway bench: cannot run on CPU %d: %s\n", c->o.gen_cpu, strerror(errno));
        return 1;
    }
    return -1;
}

static bool wanted(const char *names, const char *name)
{
    size_t n = strlen(name);

    for (const char *p = names; p && (p = strstr(p, name)); p += n) {
        if ((p == names || p[-1] == ',') && (!p[n] || p[n] == ',')) {
            return true;
        }
    }
    return !names;
}

static bool known(const char *name)
{
    for (const struct case_def *d = bench_cases; d->name; d++) {
        if (!strcmp(d->name, name)) {
            return true;
        }
    }
    for (unsigned i = 0; special_names[i]; i += 2) {
        if (!strcmp(special_names[i], name)) {
            return true;
        }
    }
    return false;
}

static int run_suite(struct cmd *c, struct report *r)
{
    if (!c->compare) {
        c->o.kinds = (1u << PEER_N_KINDS) - 1;
    }
    for (const struct case_def *d = bench_cases; d->name && !gen_interrupted; d++) {
        if (wanted(c->suite_names, d->name)) {
            case_run(d, &c->o, r);
        }
    }
    for (unsigned i = 0; special_names[i] && !gen_interrupted; i += 2) {
        if (wanted(c->suite_names, special_names[i])) {
            special_run(special_names[i], &c->o, r);
        }
    }
    return 0;
}

/* What the options describe, for each kind of switch that was asked for. */
static void run_one(struct cmd *c, struct report *r)
{
    struct case_def d = {.name = "bench"};
    static const char *const tcp[] = {"", "plain TCP ", "TCP NEEDS_CSUM ", "TSO "};
    char title[192];

    snprintf(title, sizeof(title), "%u B %sframes%s, rings of %u, %u pair%s, %s, %u addresses%s%s%s%s",
             c->def.frame, tcp[c->def.tcp], c->def.taken ? " taken as they are" : "", c->def.num, c->def.n_pairs, c->def.n_pairs == 1 ? "" : "s",
             c->def.both ? "both ways" : "one way", c->def.n_macs,
             c->def.linux_guest ? ", Linux-like guests" : "", c->def.packed ? ", packed" : "",
             c->def.write_rings ? ", rings written each time" : "",
             c->def.verify ? ", verified" : "");
    d.title = title;
    for (unsigned k = 0; k < PEER_N_KINDS; k++) {
        if (c->o.kinds >> k & 1) {
            d.subject[d.n_subjects] = c->def;
            d.subject[d.n_subjects].kind = (enum peer_kind)k;
            d.subject[d.n_subjects].label =
                c->o.sockets ? "switch" : peer_kind_name((enum peer_kind)k);
            d.n_subjects++;
        }
    }
    for (unsigned i = 1; i < d.n_subjects; i++) {
        d.bar[i - 1] = (struct bar_def){0, i, 0};
    }
    if (c->latency || c->sleep_latency) {
        report_case(r, c->latency ? "latency" : "sleep", title);
        latency_run(d.subject, d.n_subjects, &c->o, c->latency ? 0 : 20, 0, r);
    } else {
        case_run(&d, &c->o, r);
    }
}

static int run_order(const struct cmd *c)
{
    struct order_conf oc = {.queues = c->queues ? c->queues : 4,
                            .workers = c->workers ? c->workers : c->in_process ? 1 : 2,
                            .frames = c->frames ? c->frames : 100000000,
                            .balance_ms = c->in_process ? 0 : 100,
                            .shift_ms = c->in_process ? 0 : 150,
                            .interrupted = &gen_interrupted,
                            .one_thread = c->in_process};
    struct order_sum sum;
    struct err e;

    if (order_run(&oc, &sum, &e)) {
        fprintf(stderr, "ringway bench: %s\n", e.text);
        return gen_interrupted ? 130 : 1;
    }
    return order_report(&oc, &sum);
}

static int check_suite_names(const struct cmd *c)
{
    char *names = c->suite_names ? strdup(c->suite_names) : NULL;
    int status = -1;

    for (char *p = names ? strtok(names, ",") : NULL; p && status < 0; p = strtok(NULL, ",")) {
        if (!known(p)) {
            status = bad("--suite=%s: no such case; see ringway bench --list", p);
        }
    }
    free(names);
    return status;
}

int bench_main(int argc, char **argv)
{
    struct cmd c = {
        .o = {.rounds = 10,
              .seconds = 0.5,
              .gen_cpu = -1,
              .switch_cpu = -1,
              .idle_seconds = 60,
              .latency_rate = 100000},
        .def = {.label = "ringway", .frame = 60, .num = 256, .n_pairs = 1, .n_macs = 2},
    };
    char *shown[64];
    struct report r;
    int opt, status = -1, n_shown = MIN(argc, 64);

    memcpy(shown, argv, (size_t)n_shown * sizeof(*argv)); /* getopt puts them in another order */
    optind = 0;
    while (status < 0 && (opt = getopt_long(argc, argv, "", long_opts, NULL)) >= 0) {
        status = take_option(&c, opt, optarg);
    }
    if (status < 0 && optind < argc) {
        status = bad("%s: not an option", argv[optind]);
    }
    status = status < 0 ? check_suite_names(&c) : status;
    report_begin(&r, n_shown, shown, c.json && !c.json_path);
    status = status < 0 ? check_tcp(&c) : status;
    status = status < 0 ? take_sockets(&c) : status;
    status = status < 0 ? take_compare(&c) : status;
    status = status < 0 && !c.in_process && !c.order ? check_cpus(&c) : status;
    if (status >= 0) {
        json_decref(r.root);
        return status;
    }
    if (c.in_process && c.queues < 2) {
        json_decref(r.root);
        return inproc_run(&c.def, c.workers ? c.workers : 1, c.frames);
    }
    struct sigaction sa = {.sa_handler = on_signal}, old_int, old_term;
    sigaction(SIGINT, &sa, &old_int);
    sigaction(SIGTERM, &sa, &old_term);
    if (c.order || c.in_process) {
        json_decref(r.root);
        return run_order(&c);
    }
    if (c.suite) {
        run_suite(&c, &r);
    } else {
        run_one(&c, &r);
    }
    peer_hugepages_give_back();
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
    status = report_end(&r, c.json ? (c.json_path ? c.json_path : "-") : NULL);
    return gen_interrupted ? 130 : status;
}
