/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packet memory of the generator is a shared mapping, so the forked process finds rings and
 * buffers at the same addresses; no socket is involved.
 */
#include "bench/limit.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "bench/limit_hot.h"

static void set_ring(struct ring *r, struct gen *g, unsigned port, unsigned idx,
                     const struct gmem *mem, bool write)
{
    const struct ring_drv *d = gen_ring(g, port, idx);

    ring_init(r, &(struct ring_setup){.layout = d->layout,
                                      .base = ring_drv_fresh(d->layout),
                                      .desc = d->desc,
                                      .avail = d->avail,
                                      .used = d->used,
                                      .num = d->num,
                                      .event_idx = d->event_idx,
                                      .write = write,
                                      .mem = mem});
    ring_dev_disarm(r->layout, r);
}

static void limit_destroy(struct limit *l)
{
    for (unsigned i = 0; l && i < l->n; i++) {
        gmem_free(l->path[i].from_mem);
        gmem_free(l->path[i].to_mem);
    }
    if (l) {
        free(l->path);
    }
    free(l);
}

static int limit_create(struct limit **out, struct gen *g, struct err *e)
{
    struct limit *l = calloc(1, sizeof(*l));
    unsigned ports = gen_n_ports(g);

    if (l) {
        l->path = aligned_alloc(CACHE_LINE, ports * sizeof(*l->path));
    }
    if (!l || !l->path) {
        free(l);
        return err_set(e, -ENOMEM, "no memory");
    }
    l->mergeable = gen_mergeable(g);
    for (unsigned i = 0; i < ports; i++) {
        struct path *p = &l->path[l->n++];
        struct gmem_region from, to;

        gen_memory(g, i, &from);
        gen_memory(g, i ^ 1, &to);
        p->from_mem = gmem_local_n(&from, 1);
        p->to_mem = gmem_local_n(&to, 1);
        if (!p->from_mem || !p->to_mem) {
            limit_destroy(l);
            return err_set(e, -ENOMEM, "no memory");
        }
        set_ring(&p->from, g, i, 1, p->from_mem, false);
        set_ring(&p->to, g, i ^ 1, 0, p->to_mem, true);
    }
    *out = l;
    return 0;
}

int limit_start(struct gen *g, int cpu, pid_t *pid, struct err *e)
{
    pid_t parent = getpid();
    struct limit *l = NULL;
    cpu_set_t set;
    int r = limit_create(&l, g, e);

    if (r) {
        return r;
    }
    *pid = fork();
    if (*pid < 0) {
        limit_destroy(l);
        return err_set(e, -errno, "cannot fork");
    }
    if (*pid) {
        CPU_ZERO(&set);
        if (cpu >= 0) {
            CPU_SET(cpu, &set);
            sched_setaffinity(*pid, sizeof(set), &set);
        }
        limit_destroy(l); /* ours; the child has its own copy */
        return 0;
    }
    uint32_t (*const round)(struct limit *) = HOT_BEST(limit_round);

    signal(SIGINT, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    for (;;) {
        if (!round(l)) {
            cpu_relax();
        }
    }
}
