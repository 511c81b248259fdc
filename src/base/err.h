/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors of the control path: a negative errno for the program and one sentence for the person.
 *
 * A function that can fail returns 0 or -errno and fills the struct err it was given.  The
 * sentence names the thing and the remedy ("socket /run/x/vm1.sock is in use by process 4242
 * (ringway); stop it or choose another --rundir").  The data path uses enum drop instead.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/compiler.h"

struct err {
    int code;       /* negative errno, 0 when nothing failed */
    char text[480]; /* one sentence, no newline */
};

/* Fill *e (may be NULL) and return the (negative) code, so that callers can `return err_set(…)`. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Put "prefix: " in front of the sentence in *e. Returns e->code. */
int err_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
