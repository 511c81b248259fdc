/* SPDX-License-Identifier: Apache-2.0 */
/* The other end of the control socket: what the commands use to talk to a running switch. */
#ifndef CTL_CLIENT_H
#define CTL_CLIENT_H

#include <jansson.h>

#include "base/err.h"

#define CLIENT_FDS 4

struct client {
    int fd;
    char *rundir;
    char *in; /* bytes that came after the last answer */
    size_t in_len, in_size;
    unsigned next_id;
    int fds[CLIENT_FDS]; /* that came with answers and were not taken yet */
    unsigned n_fds;
};

/* Connect to the switch of a run directory (NULL: the usual one). An error names the remedy. */
int client_open(struct client *c, const char *rundir, struct err *e);
void client_close(struct client *c);
/* Call a method; steals params (may be NULL). *result (may be NULL) is a new reference. */
int client_call(struct client *c, const char *method, json_t *params, json_t **result,
                struct err *e);

/* The oldest fd that came with an answer and was not taken; -1 if there is none. */
int client_take_fd(struct client *c);

#endif
