/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The learning bridge: where does each frame of a batch go?
 *
 * What workers see of ports and bridges is one immutable object, struct view, rebuilt by the control
 * thread at every change and swapped behind a pointer; the old one is freed after a barrier.
 *
 * Threads: forward() on any worker between two quiescent states.
 */
#ifndef DP_BRIDGE_H
#define DP_BRIDGE_H

#include "base/compiler.h"
#include "base/cpu.h"
#include "dp/dp.h"
#include "dp/mactab.h"
#include "port/port.h"

struct view_bridge;
struct view_vlan;

/* A port as the bridge sees it. */
struct view_port {
    struct port *port; /* NULL: no such port */
    const struct view_bridge *bridge;
    const struct view_vlan *vlan; /* NULL: its bridge does not filter VLANs (dp/vlan_hot.h) */
    bool isolated;     /* exchanges frames with ports that are not isolated only */
};

struct view_bridge {
    uint16_t fid; /* 16 bits of every MAC key, unless it filters VLANs; never 0 */
    bool forward_reserved;
    uint16_t n;       /* members */
    uint16_t *member; /* port ids */
};

struct view {
    struct view_bridge bridge[BRIDGE_MAX];
    struct view_port port[PORT_MAX];
    struct view_vlan *vlans; /* of all ports that have any */
};

/* Decide on all frames of b, which came from port id `from`, and send them. */
struct bridge_hot {
    void (*forward)(const struct view *v, struct mactab *macs, uint16_t from, struct batch *b,
                    struct wctx *w);
};
HOT_DECLARE(const struct bridge_hot, bridge_hot);

#endif
