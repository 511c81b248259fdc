/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of ports, one line each. */
#ifndef PORT_KINDS_H
#define PORT_KINDS_H

#include "port/port.h"
#include "port/port_dummy.h"
#include "port/port_tap.h"

extern const struct port_ops port_vhost_ops; /* port_vhost.c: vhost-user back-end */

#define PORT_KINDS &port_vhost_ops, &port_tap_ops, &port_dummy_ops,

#endif
