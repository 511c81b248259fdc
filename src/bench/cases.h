/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The measured cases: who is measured with what traffic, and what is required.  Data, so that the
 * list in docs/performance.md, `ringway bench --list` and what runs are the same thing.
 */
#ifndef BENCH_CASES_H
#define BENCH_CASES_H

#include "bench/peers.h"
#include "bench/report.h"

#define CASE_MAX_SUBJECTS 6
#define CASE_MAX_BARS     8

/* One switch under one kind of traffic. */
struct subject_def {
    const char *label;
    enum peer_kind kind;
    uint32_t frame, num;
    unsigned n_pairs;
    uint32_t n_macs;
    bool rotate, both, verify, linux_guest, packed, write_rings;
    enum gen_tcp tcp;
    bool taken;
    const char *vdev; /* testpmd: more options of its ports */
    const char *const *port; /* ringway: behind the name of even and odd ports */
    uint16_t odd_vid;        /* what odd ports send is tagged */
    unsigned queues;         /* pairs per port, many flows, both ways (queues.h); 0: one, and gen.h */
};

/* median over rounds of (subject a / subject b), in bytes per second */
struct bar_def {
    unsigned a, b;
    double at_least; /* 0: shown only */
};

struct case_def {
    const char *name, *title;
    unsigned n_subjects;
    struct subject_def subject[CASE_MAX_SUBJECTS];
    struct bar_def bar[CASE_MAX_BARS]; /* up to the first with a == b */
};

/* How it is run. */
struct bench_opts {
    unsigned rounds;
    double seconds; /* per subject and round */
    int gen_cpu, switch_cpu;
    unsigned idle_seconds;
    double latency_rate; /* frames per second */
    unsigned kinds;      /* bit per enum peer_kind that may be started */
    const char *program;
    const char *const *sockets; /* drive these instead of starting something */
    unsigned n_sockets;
    bool listen;
};

/* NULL-terminated by name. */
extern const struct case_def bench_cases[];

void case_run(const struct case_def *c, const struct bench_opts *o, struct report *r);
/* Not a matter of frames per second: "latency", "sleep", "idle". False: no such case. */
bool special_run(const char *name, const struct bench_opts *o, struct report *r);
extern const char *const special_names[]; /* name, title, name, title, NULL */
/* Round trips of what is in def: paced, or out of sleep (idle_ms > 0). */
void latency_run(const struct subject_def *def, unsigned n, const struct bench_opts *o,
                 unsigned idle_ms, double at_most_us, struct report *r);

#endif
