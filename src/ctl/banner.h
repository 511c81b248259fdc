/* SPDX-License-Identifier: Apache-2.0 */
/* What `ringway run` prints when it is up: how to plug a VM into each vhost-user port. */
#ifndef CTL_BANNER_H
#define CTL_BANNER_H

#include <stdio.h>

#include "base/compiler.h"
#include "dp/dp.h"

/* The version of a QEMU binary; major 0: none was found. */
struct qemu_version {
    unsigned major, minor;
};

/* Runs the first qemu-system-x86_64 of PATH with --version, for at most 5 s. */
struct qemu_version qemu_find(void);
/* "QEMU emulator version 7.2.22 (Debian ...)" */
struct qemu_version qemu_parse_version(const char *text);

/* A locally administered address that is always the same for the same name. */
void banner_mac(const char *port_name, uint8_t mac[6]);

/* QEMU's arguments (or libvirt's XML) for each vhost-user port of the switch. */
void banner_print(FILE *f, const struct dp *dp, const char *rundir, struct qemu_version qemu,
                  bool libvirt);

#endif
