/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The commands that change a running switch: port, mac, bridge, stop; and `check`, which needs
 * none.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "ctl/cli.h"
#include "ctl/client.h"
#include "ctl/conf.h"
#include "ctl/rundir.h"

#define STOP_WAIT_S 30

static const char port_usage[] =
    "usage: ringway port add PORT...              PORT is NAME or NAME=KIND,key=value,...\n"
    "       ringway port del NAME...\n"
    "       ringway port set NAME KEY=VALUE...\n"
    "       ringway port set NAME queue=N worker=M   only worker M polls this queue; or worker=auto\n"
    "       (all with --rundir DIR)\n"
    "Several are done in order; the first failure ends the command.\n"
    "`ringway run --help` lists kinds and keys, and which may be set.\n";

static const char mac_usage[] =
    "usage: ringway mac add ADDRESS PORT          a static entry: never ages, never moves\n"
    "       ringway mac del ADDRESS [BRIDGE]      static or learnt (default bridge br0)\n"
    "       ringway mac flush [PORT]              forget learnt addresses\n"
    "       (all with vlan N behind, for one VLAN, and with --rundir DIR)\n"
    "Without vlan, add means the port's VLAN of untagged frames, del and flush mean all VLANs.\n";

static const char bridge_usage[] =
    "usage: ringway bridge add NAME [KEY=VALUE...]\n"
    "       ringway bridge set NAME KEY=VALUE...\n"
    "       ringway bridge del NAME               it must have no ports\n"
    "       (all with --rundir DIR)\n"
    "Keys:\n"
    "  age                seconds that a learnt address lives without traffic (300)\n"
    "  forward-reserved   yes: forward 01:80:c2:00:00:0x too (no)\n"
    "  vlan-filtering     yes, no, or auto: if one of its ports has VLANs (auto)\n"
    "  vlan-protocol      802.1Q or 802.1ad: what tags of its ports are (802.1Q)\n"
    "  vlan-default-pvid  VLAN of ports that name none, untagged; 0: none (1)\n";

/* Call a method of an open switch; the result goes to *result when it is wanted. */
static int call(struct client *c, const char *method, json_t *params, json_t **result)
{
    struct err e = {0};

    if (!params) {
        return cli_usage("an argument is not valid UTF-8");
    }
    return client_call(c, method, params, result, &e) ? cli_failed(&e) : 0;
}

static int open_switch(struct client *c, const struct cli_opts *o)
{
    struct err e = {0};

    return client_open(c, o->rundir, &e) ? cli_failed(&e) : 0;
}

/* --- port --------------------------------------------------------------------------------- */

/* A relative path means this directory, not the one that the switch was started in. */
static char *from_here(const struct port_conf *p, const struct port_opt *o)
{
    const struct port_option_def *d =
        port_option(port_kind(p->kind, NULL), dp_port_options(), o->key, NULL);
    char *out = NULL, *cwd;

    if (d->type != PORT_PATH || o->value[0] == '/') {
        return strdup(o->value);
    }
    cwd = getcwd(NULL, 0);
    if (!cwd || asprintf(&out, "%s/%s", cwd, o->value) < 0) {
        out = NULL;
    }
    free(cwd);
    return out;
}

/* The parameters of port.add, or NULL after an error message. */
static json_t *port_params(const char *arg)
{
    json_t *params = NULL, *options;
    struct port_conf p;
    struct err e = {0};

    if (port_conf_parse(&p, arg, &e)) {
        cli_usage("%s", e.text);
        return NULL;
    }
    if (dp_port_check(&p, &e)) {
        cli_usage("port %s: %s", p.name, e.text);
    } else {
        options = json_object();
        for (unsigned i = 0; i < p.n_opt; i++) {
            char *value = from_here(&p, &p.opt[i]); /* it was checked */

            json_object_set_new(options, p.opt[i].key, json_string(value ? value : ""));
            free(value);
        }
        params = json_pack("{s:s, s:s, s:o}", "name", p.name, "kind", p.kind, "options", options);
        if (!params) {
            cli_usage("port \"%s\" is not valid UTF-8", arg);
        }
    }
    port_conf_free(&p);
    return params;
}

static int port_add(struct client *c, int n, char **args)
{
    int status = 0;

    for (int i = 0; i < n && !status; i++) {
        status = call(c, "port.add", port_params(args[i]), NULL);
    }
    return status;
}

/* What is wrong with the line itself is said before anything is done, and without a switch. */
static bool port_args_ok(int n, char **args)
{
    for (int i = 0; i < n; i++) {
        json_t *params = port_params(args[i]);

        if (!params) {
            return false;
        }
        json_decref(params);
    }
    return true;
}

static int port_del(struct client *c, int n, char **args)
{
    int status = 0;

    for (int i = 0; i < n && !status; i++) {
        status = call(c, "port.del", json_pack("{s:s}", "name", args[i]), NULL);
    }
    return status;
}

/* queue=N worker=M: two words, one change. The value behind key=, NULL: it is another key. */
static const char *value_of(const char *arg, const char *key)
{
    size_t len = strlen(key);

    return !strncmp(arg, key, len) && arg[len] == '=' ? arg + len + 1 : NULL;
}

/* The parameters of queue.pin, or NULL after an error message. */
static json_t *pin_params(const char *port, const char *queue, const char *worker)
{
    uint64_t q, w;
    bool any = worker && !strcmp(worker, "auto");

    if (!text_number(queue, 10, INT32_MAX, &q)) {
        cli_usage("queue=%.40s is not the number of a queue", queue);
        return NULL;
    }
    if (!worker || (!any && !text_number(worker, 10, INT32_MAX, &w))) {
        cli_usage("queue=%s must be followed by worker=N or worker=auto", queue);
        return NULL;
    }
    return json_pack("{s:s, s:I, s:o}", "port", port, "queue", (json_int_t)q, "worker",
                     any ? json_null() : json_integer((json_int_t)w));
}

static int port_set(struct client *c, int n, char **args)
{
    int status = 0;

    for (int i = 1; i < n && !status; i++) {
        const char *queue = value_of(args[i], "queue");

        if (queue) {
            const char *worker = value_of(args[++i], "worker");

            status = call(c, "queue.pin", pin_params(args[0], queue, worker), NULL);
            continue;
        }
        char *eq = strchr(args[i], '=');

        *eq = 0;
        status = call(
            c, "port.set",
            json_pack("{s:s, s:s, s:s}", "name", args[0], "key", args[i], "value", eq + 1), NULL);
        *eq = '=';
    }
    return status;
}

/* All words from the second on must be KEY=VALUE: known before the first one is carried out. */
static bool all_pairs(int n, char **args)
{
    for (int i = 1; i < n; i++) {
        char *eq = strchr(args[i], '=');

        if (!eq || eq == args[i]) {
            cli_usage("\"%s\" is not KEY=VALUE", args[i]);
            return false;
        }
        const char *queue = value_of(args[i], "queue");
        if (queue) {
            json_t *pin = pin_params("", queue, ++i < n ? value_of(args[i], "worker") : NULL);

            json_decref(pin);
            if (!pin) {
                return false;
            }
        }
    }
    return true;
}

int cmd_port(int argc, char **argv)
{
    static const struct cli_word verbs[] = {
        {"add", NULL, NULL, NULL},
        {"del", NULL, NULL, NULL},
        {"set", NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL},
    };
    static int (*const run[])(struct client *, int, char **) = {port_add, port_del, port_set};
    static const int min_args[] = {1, 1, 2};
    const struct cli_word *w;
    struct cli_opts o;
    struct client c;
    int status = cli_options(&o, argc, argv, 0, port_usage);

    if (status >= 0) {
        return status;
    }
    if (o.n_args < 1) {
        return cli_usage("port what? add, del or set");
    }
    w = cli_find(verbs, o.args[0], "verb of port");
    if (!w) {
        return CLI_USAGE;
    }
    if (o.n_args - 1 < min_args[w - verbs]) {
        return cli_usage("port %s needs %s; see --help", w->name,
                         min_args[w - verbs] == 2 ? "a port and KEY=VALUE" : "a port");
    }
    if ((run[w - verbs] == port_set && !all_pairs(o.n_args - 1, o.args + 1)) ||
        (run[w - verbs] == port_add && !port_args_ok(o.n_args - 1, o.args + 1))) {
        return CLI_USAGE;
    }
    status = open_switch(&c, &o);
    if (!status) {
        status = run[w - verbs](&c, o.n_args - 1, o.args + 1);
        client_close(&c);
    }
    return status;
}

/* --- mac ---------------------------------------------------------------------------------- */

/* Add the VLAN that was asked for, if any, to the parameters. */
static json_t *in_vlan(json_t *params, uint16_t vlan)
{
    if (params && vlan) {
        json_object_set_new(params, "vlan", json_integer(vlan));
    }
    return params;
}

static int mac_flush(struct client *c, const char *port, uint16_t vlan)
{
    json_t *r = NULL, *params = port ? json_pack("{s:s}", "port", port) : json_object();
    int status = call(c, "mac.flush", in_vlan(params, vlan), &r);

    if (!status) {
        printf("%lld learnt addresses forgotten\n",
               (long long)json_integer_value(json_object_get(r, "flushed")));
    }
    json_decref(r);
    return status;
}

/* Take "vlan N" off the end of the words. False after an error message. */
static bool take_vlan(struct cli_opts *o, uint16_t *vlan)
{
    uint64_t vid;

    *vlan = 0;
    if (o->n_args < 3 || strcmp(o->args[o->n_args - 2], "vlan")) {
        return true;
    }
    if (!text_number(o->args[o->n_args - 1], 10, VLAN_VID_MAX, &vid) || !vid) {
        cli_usage("\"%s\" is not a VLAN from 1 to %d", o->args[o->n_args - 1], VLAN_VID_MAX);
        return false;
    }
    *vlan = (uint16_t)vid;
    o->n_args -= 2;
    return true;
}

int cmd_mac(int argc, char **argv)
{
    static const struct cli_word verbs[] = {
        {"add", NULL, NULL, NULL},
        {"del", NULL, NULL, NULL},
        {"flush", NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL},
    };
    const struct cli_word *w;
    const char *arg[2];
    struct cli_opts o;
    struct client c;
    uint8_t mac[6];
    uint16_t vlan;
    int status = cli_options(&o, argc, argv, 0, mac_usage);

    if (status >= 0) {
        return status;
    }
    if (!take_vlan(&o, &vlan)) {
        return CLI_USAGE;
    }
    if (o.n_args < 1) {
        return cli_usage("mac what? add, del or flush");
    }
    w = cli_find(verbs, o.args[0], "verb of mac");
    if (!w) {
        return CLI_USAGE;
    }
    for (int i = 0; i < 2; i++) {
        arg[i] = o.n_args > i + 1 ? o.args[i + 1] : NULL;
    }
    if (o.n_args > 3 || (w == &verbs[0] && !arg[1]) || (w == &verbs[1] && !arg[0]) ||
        (w == &verbs[2] && arg[1])) {
        fputs(mac_usage, stderr);
        return CLI_USAGE;
    }
    if (w != &verbs[2] && text_read_mac(arg[0], mac)) {
        return cli_usage("\"%s\" is not a MAC address like 52:54:00:12:34:56", arg[0]);
    }
    status = open_switch(&c, &o);
    if (status) {
        return status;
    }
    if (w == &verbs[0]) {
        json_t *params = json_pack("{s:s, s:s}", "mac", arg[0], "port", arg[1]);

        status = call(&c, "mac.add", in_vlan(params, vlan), NULL);
    } else if (w == &verbs[1]) {
        json_t *params = json_pack("{s:s, s:s?}", "mac", arg[0], "bridge", arg[1]);

        status = call(&c, "mac.del", in_vlan(params, vlan), NULL);
    } else {
        status = mac_flush(&c, arg[0], vlan);
    }
    client_close(&c);
    return status;
}

/* --- bridge ------------------------------------------------------------------------------- */

/* KEY=VALUE words -> parameters of bridge.set; NULL after an error message. */
static json_t *bridge_params(int n, char **args)
{
    json_t *params = json_pack("{s:s}", "name", args[0]);

    for (int i = 1; params && i < n; i++) {
        struct bridge_conf scratch = {0};
        struct err e = {0};
        char *eq = strchr(args[i], '=');
        bool bad = !eq;

        if (eq) {
            *eq = 0;
            bad = conf_bridge_key(&scratch, args[i], eq + 1, &e);
        }
        if (bad) {
            cli_usage(eq ? "%s" : "\"%s\" is not KEY=VALUE", eq ? e.text : args[i]);
            json_decref(params);
            return NULL;
        }
        for (char *p = args[i]; *p; p++) { /* members of parameters have '_' */
            *p = *p == '-' ? '_' : *p;
        }
        json_object_set_new(params, args[i], json_string(eq + 1));
    }
    return params;
}

int cmd_bridge(int argc, char **argv)
{
    static const struct cli_word verbs[] = {
        {"add", NULL, NULL, NULL},
        {"set", NULL, NULL, NULL},
        {"del", NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL},
    };
    const struct cli_word *w;
    struct cli_opts o;
    struct client c;
    json_t *params;
    int status = cli_options(&o, argc, argv, 0, bridge_usage);

    if (status >= 0) {
        return status;
    }
    if (o.n_args < 2) {
        return cli_usage("bridge needs add, set or del, and a name; see --help");
    }
    w = cli_find(verbs, o.args[0], "verb of bridge");
    if (!w) {
        return CLI_USAGE;
    }
    if (w == &verbs[2] && o.n_args > 2) {
        return cli_usage("bridge del takes one name");
    }
    params = bridge_params(o.n_args - 1, o.args + 1);
    if (!params) {
        return CLI_USAGE;
    }
    status = open_switch(&c, &o);
    if (status) {
        json_decref(params);
        return status;
    }
    status = call(&c, w == &verbs[2] ? "bridge.del" : "bridge.set", params, NULL);
    client_close(&c);
    return status;
}

/* --- stop and check ------------------------------------------------------------------------ */

int cmd_stop(int argc, char **argv)
{
    struct cli_opts o;
    struct client c;
    int status = cli_options(&o, argc, argv, 0,
                             "usage: ringway stop [--rundir DIR]\n"
                             "Stops the switch; returns when it has removed its sockets.\n");

    if (status >= 0) {
        return status;
    }
    if (o.n_args) {
        return cli_usage("stop takes no arguments");
    }
    status = open_switch(&c, &o);
    if (!status) {
        status = call(&c, "stop", json_object(), NULL);
        if (!status && !rundir_wait_free(c.rundir, STOP_WAIT_S)) {
            fprintf(stderr, "ringway: the switch in %s is still busy stopping\n", c.rundir);
            status = CLI_FAILED;
        }
        client_close(&c);
    }
    return status;
}

int cmd_check(int argc, char **argv)
{
    const char *file = NULL;
    struct conf conf;
    struct err e = {0};
    int status = 0;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
            fputs("usage: ringway check [-c] FILE\n"
                  "Checks a configuration file and starts nothing.\n",
                  stdout);
            return 0;
        }
        if (!strcmp(argv[i], "-c")) {
            continue;
        }
        if (argv[i][0] == '-' || file) {
            return cli_usage("check takes one file: ringway check -c FILE");
        }
        file = argv[i];
    }
    if (!file) {
        return cli_usage("check which file? ringway check -c FILE");
    }
    conf_init(&conf);
    if (conf_load(&conf, file, &e)) {
        status = cli_failed(&e);
    } else {
        printf("%s: %u bridges, %u ports, %u static addresses\n", file, conf.n_bridges,
               conf.n_ports, conf.n_macs);
    }
    conf_fini(&conf);
    return status;
}
