/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control plane of a running switch: requests in, answers out (JSON-RPC 2.0, one JSON text per
 * line; docs/control.md lists the methods).
 *
 *   client -- line --> ctl_sock.c -- ctl_handle() --> dp.h
 *
 * ctl_handle() knows no socket, so that tests and the fuzzer call it directly.  The bytes of a
 * request are not trusted: whatever they are, the answer is a line of JSON or nothing.
 *
 * Threads: control thread only.
 */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include "base/err.h"
#include "ctl/conf.h"
#include "dp/dp.h"

#define CTL_LINE_MAX       65536 /* bytes of one request, newline not counted */
#define CTL_BATCH_MAX      16    /* requests in one JSON array */
#define CTL_MACS_PER_REPLY 4096

struct ctl;

/*
 * boot: what the switch was started with (copied as far as it is needed): mac-size, poll-us,
 * rundir. Rates are sampled by ctl_tick(), which the owner calls about once a second.
 */
int ctl_create(struct ctl **out, struct dp *dp, const struct conf *boot, struct err *e);
void ctl_destroy(struct ctl *c);
void ctl_tick(struct ctl *c);

/*
 * Handle one request (or batch) of len bytes without its newline. Returns the answer as one line
 * without newline, malloc'ed, or NULL if there is none to give (a notification).
 */
char *ctl_handle(struct ctl *c, const char *line, size_t len);

/* The capture that the last request began, or NULL. Who takes it ends it, with capture_stop(); one
 * that nobody took ends with the next request. */
struct capture *ctl_take_capture(struct ctl *c);

/* A `stop` request was answered: leave the event loop when the answer has gone out. */
bool ctl_stop_requested(const struct ctl *c);

/* The same answer for a line that is longer than CTL_LINE_MAX; static text. */
const char *ctl_too_long(void);

#endif
