/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of `ringway run` that main.c puts in order. */
#ifndef CTL_RUN_H
#define CTL_RUN_H

#include "base/err.h"
#include "ctl/conf.h"

struct event_base;
struct run_signals;

struct run_opts {
    struct conf conf;   /* file and command line together */
    const char *rundir; /* from the command line, NULL: not given */
    bool libvirt;
};

/* Read the command line and the file that it names. Returns -1 to go on, or the exit status.
 * run_opts_free() in any case. */
int run_opts_read(struct run_opts *o, int argc, char **argv);
void run_opts_free(struct run_opts *o);

/* Ports take descriptors: have as many as we may. */
void run_raise_nofile(void);

/* SIGINT, SIGTERM and SIGHUP end the event loop. */
int run_catch_signals(struct run_signals **out, struct event_base *base, struct err *e);
void run_release_signals(struct run_signals *s);

/* Tell systemd (Type=notify) through $NOTIFY_SOCKET; does nothing without one. */
void run_notify(const char *state);

#endif
