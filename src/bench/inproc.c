/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front-ends block while they negotiate, so they do that in a thread of their own while this
 * one runs the switch's event loop; after that there is one thread only.
 */
#include "bench/inproc.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "dp/dp.h"
#include "mem/gmem.h"

struct inproc {
    struct event_base *base;
    struct dp *dp;
    struct gen *gen;
    struct err e;
    int result;
    bool connected;
    char dir[64];
    char *path[2 * GEN_MAX_PAIRS];
};

static void *connect_all(void *arg)
{
    struct inproc *p = arg;

    p->result = gen_connect(p->gen, &p->e);
    __atomic_store_n(&p->connected, true, __ATOMIC_RELEASE);
    return NULL;
}

static void turn(void *arg)
{
    struct inproc *p = arg;

    dp_run_once(p->dp);
}

static int add_ports(struct inproc *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct port_conf c;
        char name[16];

        snprintf(name, sizeof(name), "p%u", i);
        if (asprintf(&p->path[i], "%s/%s.sock", p->dir, name) < 0) {
            return -1;
        }
        int r = port_conf_parse(&c, name, &p->e);
        r = r ? r : dp_port_add(p->dp, &c, &p->e);
        port_conf_free(&c);
        if (r) {
            return r;
        }
    }
    return 0;
}

static int start(struct inproc *p, const struct subject_def *def, unsigned workers)
{
    struct dp_conf dc = {
        .evbase = p->base, .rundir = p->dir, .n_workers = workers, .no_threads = true};
    struct gen_conf gc = {.n_pairs = def->n_pairs,
                          .path = (const char *const *)p->path,
                          .frame = def->frame,
                          .num = def->num,
                          .n_macs = def->n_macs,
                          .rotate = def->rotate,
                          .both = def->both,
                          .verify = def->verify,
                          .linux_guest = def->linux_guest,
                          .packed = def->packed,
                          .write_rings = def->write_rings,
                          .tcp = def->tcp,
                          .taken = def->taken,
                          .timeout_ms = 60000,
                          .turn = turn,
                          .turn_ctx = p};
    pthread_t t;
    int r = gmem_init(&p->e);

    r = r ? r : dp_create(&p->dp, &dc, &p->e);
    r = r ? r : add_ports(p, 2 * def->n_pairs);
    r = r ? r : gen_create(&p->gen, &gc, &p->e);
    if (r || pthread_create(&t, NULL, connect_all, p)) {
        return -1;
    }
    while (!__atomic_load_n(&p->connected, __ATOMIC_ACQUIRE)) {
        event_base_loop(p->base, EVLOOP_NONBLOCK);
        usleep(200);
    }
    pthread_join(t, NULL);
    return p->result;
}

int inproc_run(const struct subject_def *def, unsigned workers, uint64_t frames)
{
    struct inproc p = {.dir = "/tmp/ringway-bench-XXXXXX"};
    struct gen_rate rate;

    if (!mkdtemp(p.dir) || !(p.base = event_base_new())) {
        fprintf(stderr, "ringway bench: cannot make a directory in /tmp\n");
        return 1;
    }
    int r = start(&p, def, workers);
    r = r ? r : gen_learn(p.gen, &p.e);
    r = r ? r : gen_run_frames(p.gen, frames, &rate, &p.e);
    if (r) {
        fprintf(stderr, "ringway bench: %s\n", p.e.text);
    } else {
        printf("frames %llu lost %llu bad %llu\n", (unsigned long long)rate.rx_frames,
               (unsigned long long)rate.lost, (unsigned long long)rate.bad_content);
    }
    gen_destroy(p.gen);
    if (p.dp) {
        dp_destroy(p.dp);
    }
    event_base_free(p.base);
    for (unsigned i = 0; i < 2 * def->n_pairs; i++) {
        free(p.path[i]);
    }
    rmdir(p.dir);
    return r ? 1 : 0;
}
