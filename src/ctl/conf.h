/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the user asked for: the command line of `ringway run` and the configuration file, as one
 * struct.  Everything the command line can say, the file can say with the same words:
 *
 *   workers: "0,2-3"        # CPUs; one worker per CPU.  Left out: one worker, not pinned
 *   mac-size: 131072
 *   poll-us: 50
 *   balance-ms: 1000
 *   log-level: info
 *   rundir: /run/ringway
 *   bridges:
 *     br0: {age: 300, forward-reserved: no, vlan-filtering: auto}
 *   ports:
 *     vm1:                  # a vhost-user socket RUNDIR/vm1.sock
 *     vm2: {vlan: 10}
 *     tap0: {kind: tap, mtu: 1500, bridge: br0, trunk: [10-20, 30], native: 5}
 *   macs:
 *     - {mac: "52:54:00:00:00:01", port: vm1}
 *     - {mac: "52:54:00:00:00:02", port: tap0, vlan: 30}
 *
 * An error names FILE:LINE:COLUMN and the nearest valid key.  Control thread only.
 */
#ifndef CTL_CONF_H
#define CTL_CONF_H

#include "base/err.h"
#include "base/log.h"
#include "dp/dp.h"
#include "port/port.h"

#define CONF_FILE_MAX     (1024 * 1024) /* bytes; a bound, not a plan */
#define CONF_LIST_MAX     (16 * 1024)   /* characters of a list in it */
#define CONF_POLL_US      50
#define CONF_POLL_US_MAX  1000000
#define CONF_BALANCE_MS     1000
#define CONF_BALANCE_MS_MIN 10 /* each round of it waits for the workers */
#define CONF_BALANCE_MS_MAX 3600000
#define CONF_MAC_SIZE_MAX (1u << 26)

struct conf_mac {
    char port[PORT_NAME_MAX + 1];
    uint8_t mac[6];
    uint16_t vlan; /* 0: not said */
    unsigned line;
};

struct conf {
    char *file;    /* where it was read from, NULL: nowhere */
    char *rundir;  /* NULL: not said */
    int log_level; /* enum log_level, or -1: not said */
    int cpu[WORKER_MAX];
    unsigned n_cpu;    /* 0: one worker, not pinned */
    uint32_t mac_size; /* entries */
    unsigned poll_us;
    unsigned balance_ms; /* 0: never */
    struct bridge_conf *bridge;
    unsigned n_bridges;
    struct port_conf *port;
    unsigned n_ports;
    struct conf_mac *mac;
    unsigned n_macs;
};

void conf_init(struct conf *c);
void conf_fini(struct conf *c);

/* Read and check a file into an initialised c. */
int conf_load(struct conf *c, const char *file, struct err *e);
/* The same from memory; name stands in for the file in errors. */
int conf_parse(struct conf *c, const char *name, const char *text, size_t len, struct err *e);

/* Take over *p (it is empty afterwards). Refused when the name is taken. */
int conf_add_port(struct conf *c, struct port_conf *p, struct err *e);
/* "0", "2-3", "0,2": appended to c->cpu. Checked against the CPUs that this process may use. */
int conf_add_cpus(struct conf *c, const char *list, struct err *e);
int conf_set_mac_size(struct conf *c, const char *text, struct err *e);
int conf_set_poll_us(struct conf *c, const char *text, struct err *e);
int conf_set_balance_ms(struct conf *c, const char *text, struct err *e);

/* Create the bridges, ports and static addresses in dp. Errors say which line they come from. */
int conf_apply(const struct conf *c, struct dp *dp, struct err *e);

/* One key of a bridge, with the words of the file. The sentence begins with the key. */
int conf_bridge_key(struct bridge_conf *b, const char *key, const char *value, struct err *e);
const char *conf_vlan_filtering(enum vlan_filtering f);
/* The keys that there are; ends with NULL. */
extern const char *const conf_bridge_keys[];

/* "yes", "true", "on", "1" ...; -1 if it is none of them. */
int conf_read_bool(const char *text);

/* The running state as an object with the keys of the file. boot: what the switch was started with
 * (for what dp does not keep). NULL when out of memory. */
json_t *conf_from_dp(const struct dp *dp, const struct conf *boot);
/* An object as above as text of the file. malloc'ed. */
char *conf_to_yaml(const json_t *config);

#endif
