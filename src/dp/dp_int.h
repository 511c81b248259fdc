/* SPDX-License-Identifier: Apache-2.0 */
/* Between dp.c (ports, bridges, workers) and dp_vlan.c (VLANs and addresses). Control thread. */
#ifndef DP_DP_INT_H
#define DP_DP_INT_H

#include "dp/bridge.h"
#include "dp/dp.h"
#include "dp/placement.h"
#include "dp/posted.h"

struct dp_bridge {
    struct bridge_conf conf;
    uint16_t fid; /* 0: free slot */
    unsigned n_ports;
    uint16_t *vlan_fid; /* where it filters VLANs: the fid of each one with members. Immutable,
                         * the view points to it. NULL: it does not filter. */
};

struct dp_port {
    struct port *port; /* NULL: free slot */
    struct dp_bridge *bridge;
    bool isolated;
    uint64_t order; /* of adding */
    struct vlan_conf vlan;
};

/* Who has a fid that is not a bridge's own. */
struct dp_fid {
    uint16_t bridge; /* its own fid; 0: free */
    uint16_t vid;
};

struct dp {
    struct port_env env;
    char *rundir;
    struct view *view; /* RCU: what the workers see */
    struct view *last; /* an empty one, for the end */
    struct mactab *macs;
    struct dp_port port[PORT_MAX];
    struct dp_bridge bridge[BRIDGE_MAX];
    struct dp_fid fid[UINT16_MAX + 1];
    unsigned fid_at; /* where the search for a free one goes on */
    struct placement place; /* the workers and who polls what */
    bool balance;
    bool no_threads;
    uint64_t n_added;
    uint64_t start_ns;
    struct evsignal *signal;
    int postfd; /* workers wake the control thread with it */
    struct event *post_event, *tick_event, *balance_event;
    struct posted posted; /* ports whose event callback is due */
};

/* Have the workers see the present state; when this returns they have forgotten the old one. */
int dp_rebuild(struct dp *dp, struct err *e);
struct dp_bridge *dp_bridge_find(const struct dp *dp, const char *name);

/* Put the VLANs of all ports into a view that is being built. 0 or -ENOMEM. */
int dp_view_vlans(const struct dp *dp, struct view *v);
/*
 * After ports or VLANs of b changed: find a fid for each VLAN that has got members, dp_rebuild(),
 * and give back those without.  less: some port may have lost a VLAN; addresses that are no longer
 * where they were learnt are forgotten.  On failure nothing happened but the caller's own change.
 */
int dp_vlans_update(struct dp *dp, struct dp_bridge *b, bool less, struct err *e);
/* `port set` of a key of dp/vlan.h. */
int dp_vlan_set_key(struct dp *dp, struct port *p, const char *key, const char *value,
                    struct err *e);
struct dp_bridge *dp_bridge_of_fid(const struct dp *dp, uint16_t fid, uint16_t *vid);
/* The fid of frames that come without a tag; 0: they are dropped. */
uint16_t dp_untagged_fid(const struct dp *dp, uint16_t port);

#endif
