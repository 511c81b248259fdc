/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The switch: ports, bridges, the MAC table and the workers that move frames.  This is the API of
 * libringway's data plane for control planes (ours in ctl/; later others).  Ports and bridges have a
 * name and a number.
 *
 * Threads: every function here is for the control thread (the one that runs evbase), unless it says
 * otherwise.  Errors: 0 or -errno with a sentence in *e.
 */
#ifndef DP_DP_H
#define DP_DP_H

#include <jansson.h>
#include <sched.h>

#include "base/compiler.h"
#include "base/err.h"
#include "dp/mactab.h"
#include "dp/vlan.h"
#include "port/port.h"

struct capture;
struct capture_conf;
struct dp;
struct event_base;

#define BRIDGE_MAX 256
#define BRIDGE_DEFAULT "br0"

struct dp_conf {
    struct event_base *evbase; /* required */
    const char *rundir;        /* where vhost-user sockets go; copied */
    unsigned n_workers;        /* 1..WORKER_MAX */
    const int *worker_cpu;     /* CPU per worker, or NULL: not pinned */
    uint32_t mac_size;         /* entries; 0: MACTAB_DEFAULT_SIZE */
    unsigned poll_us;          /* how long an idle worker polls before it sleeps; default 50 */
    unsigned balance_ms;       /* how often queues are spread anew by their load; 0: never */
    bool no_threads;           /* tests: no worker threads; dp_run_once() runs them */
};

int dp_create(struct dp **out, const struct dp_conf *c, struct err *e);
/* Removes all ports and stops the workers. */
void dp_destroy(struct dp *dp);

/* Does a bridge tell VLANs apart? */
enum vlan_filtering {
    VLAN_FILTERING_AUTO, /* if one of its ports has VLANs of its own */
    VLAN_FILTERING_YES,
    VLAN_FILTERING_NO, /* what ports say about VLANs has no effect */
};

struct bridge_conf {
    char name[PORT_NAME_MAX + 1];
    unsigned age;          /* seconds a learnt address lives without traffic */
    bool forward_reserved; /* forward 01:80:c2:00:00:0x too */
    enum vlan_filtering vlan_filtering;
    uint16_t vlan_protocol;     /* TPID of tags, where a port does not say otherwise */
    uint16_t vlan_default_pvid; /* of ports without VLANs of their own, untagged; 0: none */
    unsigned line;              /* in the configuration file */
};
#define BRIDGE_CONF_DEFAULTS                                                                       \
    .age = 300, .vlan_protocol = VLAN_PROTO_8021Q, .vlan_default_pvid = VLAN_DEFAULT_PVID
/* Create or change. */
int dp_bridge_set(struct dp *dp, const struct bridge_conf *c, struct err *e);
/* Refused while it has ports. */
int dp_bridge_del(struct dp *dp, const char *name, struct err *e);
unsigned dp_bridge_list(const struct dp *dp, struct bridge_conf *out, unsigned max);

/*
 * Add a port. Keys that belong to the bridge, not to the kind, are taken out of c here:
 *   bridge=NAME (default br0, created when missing), isolated=yes|no, mac-limit=N, and those of
 *   dp/vlan.h
 */
int dp_port_add(struct dp *dp, const struct port_conf *c, struct err *e);
/* The bridge's keys of every port, ends with a NULL key; for --help and the configuration file. */
const struct port_option_def *dp_port_options(void);
/* Hold all keys against the tables, without a switch. The sentence does not name the port. */
int dp_port_check(const struct port_conf *c, struct err *e);
int dp_port_del(struct dp *dp, const char *name, struct err *e);
/* Change one key of a live port (also the bridge's keys, but not `bridge`). */
int dp_port_set(struct dp *dp, const char *name, const char *key, const char *value, struct err *e);
struct port *dp_port(const struct dp *dp, const char *name); /* NULL if there is none */
/* The same with an error for that, which names the nearest one there is. */
struct port *dp_find_port(const struct dp *dp, const char *name, struct err *e);
/* Ports in the order in which they were added. Returns the number. */
unsigned dp_ports(const struct dp *dp, struct port **out, unsigned max);
/* Have a port's frames captured, see port/capture.h; capture_stop() ends it, before dp_destroy() or
 * after. */
int dp_capture(struct dp *dp, const char *port, const struct capture_conf *c, struct capture **out,
               struct err *e);
const char *dp_port_bridge(const struct dp *dp, const struct port *p);
bool dp_port_isolated(const struct dp *dp, const struct port *p);
const struct port_env *dp_env(const struct dp *dp);
struct mactab *dp_mactab(const struct dp *dp);

/*
 * VLANs of a running port: bridge(8)'s `vlan add` and `vlan del`.  A port that had none of its own
 * starts from its bridge's default.  What is added anew loses the flags that are not given; the
 * pvid is one VLAN.  A port that loses a VLAN forgets its addresses there.
 */
int dp_vlan_add(struct dp *dp, const char *port, const struct vlan_set *vids, bool pvid,
                bool untagged, struct err *e);
int dp_vlan_del(struct dp *dp, const char *port, const struct vlan_set *vids, struct err *e);
/* The VLANs of a port with its bridge's defaults put in; false: its bridge does not filter, and
 * these have no effect. */
bool dp_vlan_get(const struct dp *dp, const struct port *p, struct vlan_conf *out);
bool dp_bridge_filters(const struct dp *dp, const char *bridge);

/* vlan: 0 is the port's pvid where the bridge filters, and the only possible value elsewhere. */
int dp_mac_add(struct dp *dp, const char *port, const uint8_t mac[6], uint16_t vlan, struct err *e);
/* vlan 0: in all VLANs. */
int dp_mac_del(struct dp *dp, const char *bridge, const uint8_t mac[6], uint16_t vlan,
               struct err *e);
/* port and bridge may be NULL, vlan 0 (all). Returns how many learnt entries were forgotten. */
int dp_mac_flush(struct dp *dp, const char *bridge, const char *port, uint16_t vlan,
                 struct err *e);
/* Bridge and VLAN (0 where the bridge does not filter) of a fid, mac_entry.key >> 48. NULL when
 * unknown. */
const char *dp_fid_bridge(const struct dp *dp, uint16_t fid, uint16_t *vlan);

struct worker_info {
    unsigned id;
    int cpu;             /* -1: not pinned */
    int node;            /* NUMA node of the CPU, -1: not pinned, or there is one only */
    unsigned n_queues;
    uint64_t rounds, busy_rounds, frames, sleeps, signals;
    uint64_t busy_ns, idle_ns, sleep_ns; /* since start; sum is its life */
    bool asleep;
};
unsigned dp_workers(const struct dp *dp, struct worker_info *out, unsigned max);
/* Queues of a worker, for show: port, queue, load, pinned. */
unsigned dp_worker_queues(const struct dp *dp, unsigned worker, struct rxq **out, unsigned max);

/* Have a queue polled by this worker only, -1: by any. It is remembered for queues to come. */
int dp_queue_pin(struct dp *dp, const char *port, unsigned queue, int worker, struct err *e);
/* Measure the load of the queues and, if that was configured, spread them anew; called by a timer. */
void dp_balance(struct dp *dp);
uint64_t dp_moves(const struct dp *dp); /* how many queues it has moved */

/* Tests (no_threads): one round of each worker in turn. Returns frames received. */
uint32_t dp_run_once(struct dp *dp);
/* One-second housekeeping (ageing); called by a timer, or by tests after clock_warp(). */
void dp_tick(struct dp *dp);

#endif
