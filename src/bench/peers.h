/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Switches to measure: started by us in a temporary directory, pinned, held still when it is not
 * their turn, and stopped by process id.  Nothing of the system's own services is touched.
 *
 * DPDK's switches get hugepages when we are root: taken once, given back as they were at the end.
 */
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

#include <sys/types.h>

#include "base/compiler.h"
#include "base/err.h"

enum peer_kind { PEER_RINGWAY, PEER_OVS_DPDK, PEER_TESTPMD, PEER_LIMIT, PEER_N_KINDS };

const char *peer_kind_name(enum peer_kind k); /* "ringway", "ovs-dpdk", "testpmd", "limit" */
int peer_kind_parse(const char *name);        /* -1: none of them */

struct peer;

struct peer_conf {
    enum peer_kind kind;
    unsigned n_ports;
    int switch_cpu;      /* where its worker runs */
    const char *vdev;    /* testpmd: more options of net_vhost, with a comma in front; NULL */
    const char *const *port; /* ringway: behind the name of even and odd ports; NULL */
    const char *program; /* ringway: what to run instead of this executable; NULL */
};

/* 0, or -ENOENT with the package to install, or what went wrong with the end of its log. */
int peer_start(struct peer **out, const struct peer_conf *c, struct err *e);
/* NULL is allowed. Ends its processes and removes its directory. */
void peer_stop(struct peer *p);

const char *const *peer_sockets(const struct peer *p);
bool peer_dials(const struct peer *p); /* the front-end has to listen */
/* Stop its clock, and go on. It starts running. */
void peer_hold(struct peer *p);
void peer_go(struct peer *p);
/* The process that switches, for /proc. */
pid_t peer_pid(const struct peer *p);
/* 0 while its processes live, else what the log says. */
int peer_check(struct peer *p, struct err *e);

/* Hugepages for n megabytes more than now; remembers what was. */
int peer_hugepages_take(unsigned megabytes, struct err *e);
void peer_hugepages_give_back(void);

#endif
