/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was measured: a table for people as it comes, and one JSON object at the end.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <jansson.h>

#include "bench/gen.h"

#define MAX_ROUNDS 200

/* One number per round. */
struct series {
    unsigned n;
    double v[MAX_ROUNDS];
};
void series_add(struct series *s, double v);
double series_median(const struct series *s);
double series_min(const struct series *s);
double series_max(const struct series *s);
/* a/b per round; rounds that one of them misses are left out. */
struct series series_ratio(const struct series *a, const struct series *b);

struct report {
    json_t *root;
    json_t *cases;
    json_t *cur; /* the case that is open */
    bool quiet;  /* no tables: the JSON goes to stdout */
    unsigned n_passed, n_failed, n_missing;
};

int report_begin(struct report *r, int argc, char **argv, bool quiet);
void report_case(struct report *r, const char *name, const char *title);
/* Throughput of one subject per round: millions of frames and 10^9 bits of frames per second. */
struct report_rate {
    const char *label;
    const struct series *mpps, *gbps;
    struct gen_rate sum;
};
void report_rate(struct report *r, const struct report_rate *x);
void report_latency(struct report *r, const char *label, const struct series *p50,
                    const struct series *p99, const struct gen_latency *last);
/* A subject without a result, and why. */
void report_missing(struct report *r, const char *label, const char *why);
/* Required: value >= bar (at_least) or value <= bar. required = false: shown, not judged. */
struct report_bar {
    const char *text, *unit;
    const struct series *value; /* the median is judged */
    double bar;
    bool at_least, judged;
};
void report_bar(struct report *r, const struct report_bar *b);
/* Writes the JSON to path (NULL: not, "-": stdout), prints the count of bars. Exit status. */
int report_end(struct report *r, const char *path);

#endif
