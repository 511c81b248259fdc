/* SPDX-License-Identifier: Apache-2.0 */
/* What `ringway run` prints when it is up: how to plug a VM into each vhost-user port. */
#ifndef CTL_BANNER_H
#define CTL_BANNER_H

#include "base/err.h"
#include "dp/dp.h"

struct banner;
struct event_base;

/* The version of a QEMU binary; major 0: none was found. */
struct qemu_version {
    unsigned major, minor;
};

/* "QEMU emulator version 7.2.22 (Debian ...)" */
struct qemu_version qemu_parse_version(const char *text);

/* A locally administered address that is always the same for the same name. */
void banner_mac(const char *port_name, uint8_t mac[6]);

/*
 * Print QEMU's arguments (or libvirt's XML) for each vhost-user port of the switch on stdout. For
 * the former, QEMU is asked for its version first, which takes a while: the lines come out of the
 * event loop when it has answered, or after 5 s without.
 */
int banner_start(struct banner **out, struct event_base *base, const struct dp *dp,
                 const char *rundir, bool libvirt, struct err *e);
/* Prints nothing any more. NULL is allowed. */
void banner_stop(struct banner *b);

#endif
