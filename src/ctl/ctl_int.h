/* SPDX-License-Identifier: Apache-2.0 */
/* Between ctl.c (the envelope) and methods.c (what the methods do). */
#ifndef CTL_CTL_INT_H
#define CTL_CTL_INT_H

#include "base/clock.h"
#include "ctl/ctl.h"
#include "ctl/rates.h"

struct ctl {
    struct dp *dp;
    struct conf boot;
    struct rates *rates;
    uint64_t started_ns;
    bool stop;
    struct capture *capture; /* of the request that was handled last; see ctl_take_capture() */
};

/* Returned by a method whose parameters are missing or of the wrong type; no errno has this value.
 */
#define CTL_BAD_PARAMS (-100000)

struct ctl_method {
    const char *name;
    const char *const *params; /* names it knows, ends with NULL */
    /* 0 with *result (a new reference, or NULL for null), or -errno / CTL_BAD_PARAMS and *e. */
    int (*call)(struct ctl *c, const json_t *params, json_t **result, struct err *e);
};

/* Ends with a NULL name. */
extern const struct ctl_method ctl_methods[];

#endif
