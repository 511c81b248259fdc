/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Medians, because the machine under a benchmark changes its speed; ratios per round, because it
 * changes for everybody who is measured in the same round.
 */
#include "bench/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

void series_add(struct series *s, double v)
{
    if (s->n < MAX_ROUNDS) {
        s->v[s->n++] = v;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double series_median(const struct series *s)
{
    struct series c = *s;

    if (!c.n) {
        return 0;
    }
    qsort(c.v, c.n, sizeof(c.v[0]), by_value);
    return c.n & 1 ? c.v[c.n / 2] : (c.v[c.n / 2 - 1] + c.v[c.n / 2]) / 2;
}

double series_min(const struct series *s)
{
    double m = s->n ? s->v[0] : 0;

    for (unsigned i = 1; i < s->n; i++) {
        m = MIN(m, s->v[i]);
    }
    return m;
}

double series_max(const struct series *s)
{
    double m = s->n ? s->v[0] : 0;

    for (unsigned i = 1; i < s->n; i++) {
        m = MAX(m, s->v[i]);
    }
    return m;
}

struct series series_ratio(const struct series *a, const struct series *b)
{
    struct series r = {0};

    for (unsigned i = 0; i < MIN(a->n, b->n); i++) {
        if (b->v[i] > 0) {
            series_add(&r, a->v[i] / b->v[i]);
        }
    }
    return r;
}

static json_t *series_json(const struct series *s)
{
    json_t *a = json_array(), *o = json_object();

    for (unsigned i = 0; i < s->n; i++) {
        json_array_append_new(a, json_real(s->v[i]));
    }
    json_object_set_new(o, "median", json_real(series_median(s)));
    json_object_set_new(o, "min", json_real(series_min(s)));
    json_object_set_new(o, "max", json_real(series_max(s)));
    json_object_set_new(o, "rounds", a);
    return o;
}

static void cpu_model(char *out, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];

    snprintf(out, size, "unknown");
    while (f && fgets(line, sizeof(line), f)) {
        char *c = strstr(line, ": ");

        if (c && !strncmp(line, "model name", 10)) {
            snprintf(out, size, "%.*s", (int)strcspn(c + 2, "\n"), c + 2);
            break;
        }
    }
    if (f) {
        fclose(f);
    }
}

int report_begin(struct report *r, int argc, char **argv, bool quiet)
{
    char model[128], when[64], cmd[512] = "ringway";
    struct utsname u = {0};
    time_t now = time(NULL);
    struct tm tm;

    *r = (struct report){.root = json_object(), .cases = json_array(), .quiet = quiet};
    uname(&u);
    u.release[strcspn(u.release, "-+")] = 0; /* what was added to the version says little */
    cpu_model(model, sizeof(model));
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    for (int i = 0; i < argc; i++) {
        size_t n = strlen(cmd);
        snprintf(cmd + n, sizeof(cmd) - n, " %s", argv[i]);
    }
    json_object_set_new(r->root, "command", json_string(cmd));
    json_object_set_new(r->root, "time", json_string(when));
    json_object_set_new(r->root, "cpu", json_string(model));
    json_object_set_new(r->root, "cpus", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    json_object_set_new(r->root, "kernel", json_string(u.release));
    json_object_set_new(r->root, "cases", r->cases);
    return 0;
}

void report_case(struct report *r, const char *name, const char *title)
{
    r->cur = json_object();
    json_array_append_new(r->cases, r->cur);
    json_object_set_new(r->cur, "name", json_string(name));
    json_object_set_new(r->cur, "title", json_string(title));
    json_object_set_new(r->cur, "subjects", json_array());
    json_object_set_new(r->cur, "bars", json_array());
    if (!r->quiet) {
        printf("\n%s: %s\n", name, title);
        fflush(stdout);
    }
}

static json_t *subject(struct report *r, const char *label)
{
    json_t *o = json_object();

    json_array_append_new(json_object_get(r->cur, "subjects"), o);
    json_object_set_new(o, "label", json_string(label));
    return o;
}

void report_rate(struct report *r, const struct report_rate *x)
{
    const struct gen_rate *s = &x->sum;
    double tx = (double)MAX(s->tx_frames, 1u);
    bool wrong_order = s->bad_order > s->lost; /* a lost frame is one jump at most */
    json_t *o = subject(r, x->label);

    json_object_set_new(o, "mpps", series_json(x->mpps));
    json_object_set_new(o, "gbit_per_s", series_json(x->gbps));
    json_object_set_new(o, "frames", json_integer((json_int_t)s->rx_frames));
    json_object_set_new(o, "lost", json_integer((json_int_t)s->lost));
    json_object_set_new(o, "bad_content", json_integer((json_int_t)s->bad_content));
    json_object_set_new(o, "bad_order", json_integer((json_int_t)s->bad_order));
    json_object_set_new(o, "kicks", json_integer((json_int_t)s->kicks));
    if (!r->quiet) {
        printf("  %-28s %8.2f Mpps (%.2f-%.2f)  %7.1f Gbit/s  lost %.3f %%%s\n", x->label,
               series_median(x->mpps),               series_min(x->mpps), series_max(x->mpps), series_median(x->gbps),
               100.0 * (double)s->lost / tx,
               s->bad_content ? "  CONTENT WRONG"
               : wrong_order  ? "  ORDER WRONG"
                              : "");
    }
    if (s->bad_content || wrong_order) {
        r->n_failed++;
    }
}

void report_latency(struct report *r, const char *label, const struct series *p50,
                    const struct series *p99, const struct gen_latency *last)
{
    json_t *o = subject(r, label);

    json_object_set_new(o, "p50_ns", series_json(p50));
    json_object_set_new(o, "p99_ns", series_json(p99));
    json_object_set_new(o, "lost", json_integer((json_int_t)last->lost));
    if (!r->quiet) {
        printf("  %-28s p50 %8.2f us (%.2f-%.2f)  p99 %8.2f us  last round: min %.2f p99.9 %.2f "
               "max %.2f us, lost %llu\n",
               label, series_median(p50) / 1e3, series_min(p50) / 1e3, series_max(p50) / 1e3,
               series_median(p99) / 1e3, last->min / 1e3, last->p999 / 1e3, last->max / 1e3,
               (unsigned long long)last->lost);
    }
}

void report_missing(struct report *r, const char *label, const char *why)
{
    json_object_set_new(subject(r, label), "error", json_string(why));
    r->n_missing++;
    fprintf(r->quiet ? stderr : stdout, "  %-28s not measured: %s\n", label, why);
}

void report_bar(struct report *r, const struct report_bar *b)
{
    double v = series_median(b->value);
    bool ok = b->value->n && (b->at_least ? v >= b->bar : v <= b->bar);
    const char *verdict = !b->judged ? "" : !b->value->n ? "NOT MEASURED" : ok ? "PASS" : "FAIL";
    json_t *o = json_object();

    json_array_append_new(json_object_get(r->cur, "bars"), o);
    json_object_set_new(o, "text", json_string(b->text));
    json_object_set_new(o, "value", series_json(b->value));
    json_object_set_new(o, "unit", json_string(b->unit));
    if (b->judged) {
        json_object_set_new(o, b->at_least ? "at_least" : "at_most", json_real(b->bar));
        json_object_set_new(o, "pass", json_boolean(ok));
        r->n_passed += ok;
        r->n_failed += !ok;
    }
    if (!r->quiet) {
        printf("  %-44s %8.2f %-3s (%.2f-%.2f)", b->text, v, b->unit, series_min(b->value),
               series_max(b->value));
        if (b->judged) {
            printf("  %s %g %s  %s", b->at_least ? "at least" : "at most", b->bar, b->unit,
                   verdict);
        }
        printf("\n");
        fflush(stdout);
    }
}

int report_end(struct report *r, const char *path)
{
    int status = r->n_failed || r->n_missing ? 1 : 0;

    json_object_set_new(r->root, "passed", json_integer(r->n_passed));
    json_object_set_new(r->root, "failed", json_integer(r->n_failed));
    if (path && !strcmp(path, "-")) {
        json_dumpf(r->root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        printf("\n");
    } else if (path && json_dump_file(r->root, path, JSON_INDENT(2) | JSON_PRESERVE_ORDER)) {
        fprintf(stderr, "ringway bench: cannot write %s\n", path);
        status = 1;
    }
    if (!r->quiet && r->n_passed + r->n_failed) {
        printf("\n%u of %u bars reached\n", r->n_passed, r->n_passed + r->n_failed);
    }
    json_decref(r->root);
    return status;
}
