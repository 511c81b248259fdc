/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kind "tap": a TAP device of the host, so that the host (or a container, through netns=) is a
 * station on the bridge.  Everything is reached through port_tap_ops; see port_tap.c.
 */
#ifndef PORT_PORT_TAP_H
#define PORT_PORT_TAP_H

#include "port/port.h"

extern const struct port_ops port_tap_ops;

#endif
