/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration as a struct: reading single values, building it up, putting it into a switch.
 * The file itself is read in conf_yaml.c and written in conf_dump.c.
 */
#include "ctl/conf.h"

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "base/text.h"

void conf_init(struct conf *c)
{
    *c = (struct conf){
        .log_level = -1,
        .mac_size = MACTAB_DEFAULT_SIZE,
        .poll_us = CONF_POLL_US,
        .balance_ms = CONF_BALANCE_MS,
    };
}

void conf_fini(struct conf *c)
{
    for (unsigned i = 0; i < c->n_ports; i++) {
        port_conf_free(&c->port[i]);
    }
    free(c->port);
    free(c->bridge);
    free(c->mac);
    free(c->file);
    free(c->rundir);
    conf_init(c);
}

int conf_read_bool(const char *text)
{
    static const char *const yes[] = {"yes", "true", "on", "1"};
    static const char *const no[] = {"no", "false", "off", "0"};

    for (unsigned i = 0; i < ARRAY_SIZE(yes); i++) {
        if (!strcasecmp(text, yes[i])) {
            return 1;
        }
        if (!strcasecmp(text, no[i])) {
            return 0;
        }
    }
    return -1;
}

int conf_set_mac_size(struct conf *c, const char *text, struct err *e)
{
    uint64_t v;

    if (!text_number(text, 10, CONF_MAC_SIZE_MAX, &v) || v == 0) {
        return err_set(e, -EINVAL, "mac-size \"%s\" is not a number of entries from 1 to %u", text,
                       CONF_MAC_SIZE_MAX);
    }
    c->mac_size = (uint32_t)v;
    return 0;
}

int conf_set_poll_us(struct conf *c, const char *text, struct err *e)
{
    uint64_t v;

    if (!text_number(text, 10, CONF_POLL_US_MAX, &v)) {
        return err_set(e, -EINVAL, "poll-us \"%s\" is not a number of microseconds from 0 to %u",
                       text, CONF_POLL_US_MAX);
    }
    c->poll_us = (unsigned)v;
    return 0;
}

int conf_set_balance_ms(struct conf *c, const char *text, struct err *e)
{
    uint64_t v;

    if (!text_number(text, 10, CONF_BALANCE_MS_MAX, &v) || (v && v < CONF_BALANCE_MS_MIN)) {
        return err_set(e, -EINVAL,
                       "balance-ms \"%s\" is neither 0 nor a number of milliseconds from %u to %u",
                       text, CONF_BALANCE_MS_MIN, CONF_BALANCE_MS_MAX);
    }
    c->balance_ms = (unsigned)v;
    return 0;
}

static int add_cpu(struct conf *c, unsigned long cpu, const cpu_set_t *allowed, struct err *e)
{
    if (cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, allowed)) {
        return err_set(e, -EINVAL,
                       "worker CPU %lu is not one that this process may use (see "
                       "Cpus_allowed_list in /proc/self/status)",
                       cpu);
    }
    for (unsigned i = 0; i < c->n_cpu; i++) {
        if (c->cpu[i] == (int)cpu) {
            return err_set(e, -EINVAL, "worker CPU %lu is named twice", cpu);
        }
    }
    if (c->n_cpu == WORKER_MAX) {
        return err_set(e, -EINVAL, "more than %d workers", WORKER_MAX);
    }
    c->cpu[c->n_cpu++] = (int)cpu;
    return 0;
}

int conf_add_cpus(struct conf *c, const char *list, struct err *e)
{
    cpu_set_t allowed;
    const char *p = list;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0) {
        return err_set(e, -errno, "cannot read the CPUs of this process: %s", strerror(errno));
    }
    do {
        char *end;
        unsigned long from, to;

        if (!isdigit((unsigned char)*p)) {
            goto bad;
        }
        from = to = strtoul(p, &end, 10);
        if (*end == '-') {
            p = end + 1;
            if (!isdigit((unsigned char)*p)) {
                goto bad;
            }
            to = strtoul(p, &end, 10);
        }
        if (to < from || (*end && *end != ',')) {
            goto bad;
        }
        for (unsigned long cpu = from; cpu <= to; cpu++) {
            int rc = add_cpu(c, cpu, &allowed, e);

            if (rc) {
                return rc;
            }
        }
        p = end;
    } while (*p++ == ',');
    return 0;
bad:
    return err_set(e, -EINVAL, "\"%s\" is not a list of CPUs like 0 or 2-3 or 0,2", list);
}

int conf_add_port(struct conf *c, struct port_conf *p, struct err *e)
{
    for (unsigned i = 0; i < c->n_ports; i++) {
        if (!strcmp(c->port[i].name, p->name)) {
            return err_set(e, -EEXIST, "port %s is named twice", p->name);
        }
    }
    if (c->n_ports == PORT_MAX) {
        return err_set(e, -E2BIG, "more than %d ports", PORT_MAX);
    }

    struct port_conf *a = realloc(c->port, (c->n_ports + 1) * sizeof(*a));

    if (!a) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    c->port = a;
    a[c->n_ports++] = *p;
    *p = (struct port_conf){0};
    return 0;
}

const char *const conf_bridge_keys[] = {"age",           "forward-reserved",  "vlan-filtering",
                                        "vlan-protocol", "vlan-default-pvid", NULL};

const char *conf_vlan_filtering(enum vlan_filtering f)
{
    return f == VLAN_FILTERING_YES ? "yes" : f == VLAN_FILTERING_NO ? "no" : "auto";
}

int conf_bridge_key(struct bridge_conf *b, const char *key, const char *value, struct err *e)
{
    int yes = conf_read_bool(value);
    uint64_t n;

    if (!strcmp(key, "age")) {
        if (!text_number(value, 10, 65000, &n) || !n) {
            return err_set(e, -EINVAL, "age \"%.40s\" is not a number of seconds from 1 to 65000",
                           value);
        }
        b->age = (unsigned)n;
    } else if (!strcmp(key, "forward-reserved")) {
        if (yes < 0) {
            return err_set(e, -EINVAL, "forward-reserved \"%.40s\" is neither yes nor no", value);
        }
        b->forward_reserved = yes;
    } else if (!strcmp(key, "vlan-filtering")) {
        if (yes < 0 && strcmp(value, "auto")) {
            return err_set(e, -EINVAL, "vlan-filtering \"%.40s\" is none of yes, no, auto", value);
        }
        b->vlan_filtering = yes < 0 ? VLAN_FILTERING_AUTO
                            : yes   ? VLAN_FILTERING_YES
                                    : VLAN_FILTERING_NO;
    } else if (!strcmp(key, "vlan-protocol")) {
        uint16_t tpid = vlan_proto_parse(value);

        if (!tpid) {
            return err_set(e, -EINVAL, "vlan-protocol \"%.40s\" is neither 802.1Q nor 802.1ad",
                           value);
        }
        b->vlan_protocol = tpid;
    } else if (!strcmp(key, "vlan-default-pvid")) {
        if (!text_number(value, 10, VLAN_VID_MAX, &n)) {
            return err_set(e, -EINVAL, "vlan-default-pvid \"%.40s\" is not a number from 0 to %d",
                           value, VLAN_VID_MAX);
        }
        b->vlan_default_pvid = (uint16_t)n;
    } else {
        size_t known = ARRAY_SIZE(conf_bridge_keys) - 1;
        const char *near = nearest(key, conf_bridge_keys, known);

        return err_set(e, -EINVAL, "unknown key \"%.40s\" for a bridge%s%s%s", key,
                       near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return 0;
}

static int at_line(const struct conf *c, unsigned line, struct err *e)
{
    return line && c->file ? err_prefix(e, "%s:%u", c->file, line) : e->code;
}

int conf_apply(const struct conf *c, struct dp *dp, struct err *e)
{
    for (unsigned i = 0; i < c->n_bridges; i++) {
        if (dp_bridge_set(dp, &c->bridge[i], e)) {
            return at_line(c, c->bridge[i].line, e);
        }
    }
    for (unsigned i = 0; i < c->n_ports; i++) {
        if (dp_port_add(dp, &c->port[i], e)) {
            return at_line(c, c->port[i].line, e);
        }
    }
    for (unsigned i = 0; i < c->n_macs; i++) {
        if (dp_mac_add(dp, c->mac[i].port, c->mac[i].mac, c->mac[i].vlan, e)) {
            return at_line(c, c->mac[i].line, e);
        }
    }
    return 0;
}
