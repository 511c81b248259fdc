/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of ports, one line each. */
#ifndef PORT_KINDS_H
#define PORT_KINDS_H

#include "base/cpu.h"
#include "port/port.h"

HOT_DECLARE(const struct port_ops, port_vhost_ops); /* port_vhost.c: vhost-user back-end */
HOT_DECLARE(const struct port_ops, port_virtio_ops); /* port_virtio.c: vhost-user front-end */
extern const struct port_ops port_tap_ops;   /* port_tap.c: a TAP device of the host */
extern const struct port_ops port_pcap_ops;  /* port_pcap.c: files */
extern const struct port_ops port_qemu_stream_ops; /* port_qemu_stream.c: -netdev stream */
extern const struct port_ops port_qemu_dgram_ops;  /* port_qemu_dgram.c: -netdev dgram */
extern const struct port_ops port_null_ops;  /* port_null.c: nothing */
extern const struct port_ops port_dummy_ops; /* port_dummy.c: the other side is a test */

#define PORT_KINDS &port_vhost_ops_base, &port_virtio_ops_base, &port_tap_ops, &port_qemu_stream_ops, \
    &port_qemu_dgram_ops, &port_pcap_ops, &port_null_ops, &port_dummy_ops,

#endif
