/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all commands share: words that may be shortened like those of ip(8), options, usage errors.
 * Exit status: 0 done, CLI_FAILED the switch or the system refused, CLI_USAGE the line is wrong.
 */
#ifndef CTL_CLI_H
#define CTL_CLI_H

#include "base/err.h"

#define CLI_FAILED 1
#define CLI_USAGE  2

struct cli_word {
    const char *name;                  /* NULL ends the table */
    const char *args;                  /* for people, behind the name */
    const char *help;                  /* one line */
    int (*run)(int argc, char **argv); /* argv[0] is the word */
};

/* The word that arg names or begins; NULL after an error message that lists what was possible. */
const struct cli_word *cli_find(const struct cli_word *words, const char *arg, const char *what);

enum cli_allow { CLI_JSON = 1, CLI_WATCH = 2 };

/* Options of the commands that talk to a running switch. */
struct cli_opts {
    const char *rundir; /* NULL: the usual one */
    bool json, watch;
    int n_args;  /* words that are no options ... */
    char **args; /* ... and where they are */
};

/*
 * Read the options of argv (they may stand anywhere behind argv[0]). usage is printed for --help.
 * Returns -1 to go on, or the status to exit with.
 */
int cli_options(struct cli_opts *o, int argc, char **argv, unsigned allow, const char *usage);

/* "ringway: sentence" on stderr; return CLI_USAGE / CLI_FAILED. */
int cli_usage(const char *fmt, ...) PRINTF_LIKE(1, 2);
int cli_failed(const struct err *e);
/* The message for what getopt_long() did not understand (with opterr = 0). */
int cli_bad_option(int argc, char **argv, int missing, const char *const *known, size_t n);

int cmd_show(int argc, char **argv);
int cmd_why(int argc, char **argv);
int cmd_port(int argc, char **argv);
int cmd_mac(int argc, char **argv);
int cmd_bridge(int argc, char **argv);
int cmd_vlan(int argc, char **argv);
int cmd_capture(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_check(int argc, char **argv);

#endif
