/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ringway: which command, and the order in which a switch comes up and goes down.
 */
#include <event2/event.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "ctl/banner.h"
#include "ctl/cli.h"
#include "ctl/ctl.h"
#include "ctl/ctl_sock.h"
#include "ctl/run.h"
#include "ctl/rundir.h"

/* Everything of a running switch, in the order in which it is made. */
struct boot {
    char *rundir;
    int lock;
    struct event_base *base;
    struct run_signals *signals;
    struct dp *dp;
    struct ctl *ctl;
    struct ctl_sock *sock;
    struct banner *banner;
};

static int bring_up(struct boot *b, struct run_opts *o, struct err *e)
{
    struct conf *conf = &o->conf;
    struct dp_conf dc = {
        .n_workers = conf->n_cpu ? conf->n_cpu : 1,
        .worker_cpu = conf->n_cpu ? conf->cpu : NULL,
        .mac_size = conf->mac_size,
        .poll_us = conf->poll_us,
        .balance_ms = conf->balance_ms,
    };
    char *path;
    int rc;

    run_raise_nofile();
    if ((rc = rundir_choose(&b->rundir, o->rundir ? o->rundir : conf->rundir, e)) ||
        (rc = b->lock = rundir_lock(b->rundir, e)) < 0) {
        return rc;
    }
    free(conf->rundir);
    conf->rundir = strdup(b->rundir);
    b->base = event_base_new();
    if (!b->base) {
        return err_set(e, -1, "cannot make an event loop");
    }
    dc.evbase = b->base;
    dc.rundir = b->rundir;
    if ((rc = run_catch_signals(&b->signals, b->base, e)) || (rc = dp_create(&b->dp, &dc, e)) ||
        (rc = conf_apply(conf, b->dp, e)) || (rc = ctl_create(&b->ctl, b->dp, conf, e))) {
        return rc;
    }
    path = rundir_path(b->rundir, CTL_SOCK_NAME);
    rc = ctl_sock_create(&b->sock, b->ctl, b->base, path ? path : "", e);
    free(path);
    if (rc) {
        return rc;
    }
    printf("ringway " RINGWAY_VERSION ": %u port%s, control socket %s/" CTL_SOCK_NAME "\n",
           conf->n_ports, conf->n_ports == 1 ? "" : "s", b->rundir);
    fflush(stdout);
    return banner_start(&b->banner, b->base, b->dp, b->rundir, o->libvirt, e);
}

static void take_down(struct boot *b)
{
    banner_stop(b->banner);
    ctl_sock_destroy(b->sock);
    ctl_destroy(b->ctl);
    if (b->dp) {
        dp_destroy(b->dp);
    }
    run_release_signals(b->signals);
    if (b->base) {
        event_base_free(b->base);
    }
    if (b->lock >= 0) {
        rundir_unlock(b->rundir, b->lock);
    }
    free(b->rundir);
}

static int cmd_run(int argc, char **argv)
{
    struct boot b = {.lock = -1};
    struct run_opts o;
    struct err e = {0};
    int status = run_opts_read(&o, argc, argv);

    if (status < 0) {
        status = 0;
        if (bring_up(&b, &o, &e)) {
            status = cli_failed(&e);
        } else {
            run_notify("READY=1");
            event_base_dispatch(b.base);
            run_notify("STOPPING=1");
        }
        take_down(&b);
    }
    run_opts_free(&o);
    return status;
}

/* The demo is a script: installed, or beside the build directory. */
static int cmd_demo(int argc, char **argv)
{
    const char *env = getenv("RINGWAY_LIBEXEC");
    char exe[PATH_MAX], path[3][PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    const char *dir = ".";

    if (n > 0) {
        exe[n] = 0;
        setenv("RINGWAY", exe, 1); /* the demo runs this very binary */
        dir = dirname(exe);
    }
    snprintf(path[0], sizeof(path[0]), "%s/demo", env ? env : "");
    snprintf(path[1], sizeof(path[1]), "%s/../libexec/ringway/demo", dir);
    snprintf(path[2], sizeof(path[2]), "%s/../scripts/demo", dir);
    for (int i = env ? 0 : 1; i < 3; i++) {
        if (access(path[i], X_OK) == 0) {
            argv[0] = path[i];
            execv(path[i], argv);
            perror(path[i]);
            return CLI_FAILED;
        }
    }
    fprintf(stderr,
            "ringway: the demo script is neither at %s nor at %s; set RINGWAY_LIBEXEC to its "
            "directory\n",
            path[1], path[2]);
    return CLI_FAILED;
}

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv)
{
    puts("ringway " RINGWAY_VERSION);
    return 0;
}

static const struct cli_word commands[] = {
    {"run", "[PORT...]", "run a switch with these ports in the foreground", cmd_run},
    {"show", "THING [NAME]",
     "ports, macs, vlans, workers, drops, bridges or config of a running switch", cmd_show},
    {"why", "PORT", "why frames of a port were dropped", cmd_why},
    {"capture", "PORT [FILTER]", "record the frames of a port, or print them", cmd_capture},
    {"port", "add|del|set", "change the ports of a running switch", cmd_port},
    {"mac", "add|del|flush", "change its MAC table", cmd_mac},
    {"bridge", "add|set|del", "change its bridges", cmd_bridge},
    {"vlan", "add|del|show", "change the VLANs of its ports", cmd_vlan},
    {"stop", "", "stop it", cmd_stop},
    {"check", "-c FILE", "check a configuration file", cmd_check},
    {"demo", "", "two virtual machines talk through a switch", cmd_demo},
    {"bench", "", "measure the switch, and others", bench_main},
    {"help", "[COMMAND]", "this list, or the help of a command", cmd_help},
    {"version", "", "print the version", cmd_version},
    {NULL, NULL, NULL, NULL},
};

static int cmd_help(int argc, char **argv)
{
    const struct cli_word *w = argc > 1 ? cli_find(commands, argv[1], "command") : NULL;
    char *args[] = {argc > 1 ? argv[1] : NULL, (char *)"--help", NULL};

    if (argc > 1) {
        return !w ? CLI_USAGE : w->run == cmd_help ? cmd_help(1, args) : w->run(2, args);
    }
    puts("usage: ringway COMMAND [ARGUMENT...]\n");
    for (w = commands; w->name; w++) {
        printf("  %-7s %-14s %s\n", w->name, w->args, w->help);
    }
    puts("\nCommands may be shortened; COMMAND --help says more, ringway(1) says all.");
    return 0;
}

int main(int argc, char **argv)
{
    const struct cli_word *w;

    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        fputs("ringway: which command? Try `ringway run vm1 vm2` or `ringway --help`\n", stderr);
        return CLI_USAGE;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        return cmd_version(argc - 1, argv + 1);
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        return cmd_help(1, argv + 1);
    }
    w = cli_find(commands, argv[1], "command");
    return w ? w->run(argc - 1, argv + 1) : CLI_USAGE;
}
