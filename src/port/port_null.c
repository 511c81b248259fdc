/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kind "null": takes every frame and throws it away, counted as sent; never sends one.  No queue, so
 * no worker looks at it.
 */
#include <errno.h>
#include <stdlib.h>

#include "port/kinds.h"

static void null_tx(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n, struct wctx *w)
{
    struct port_counters *c = &p->counters[w->id];
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < n; i++) {
        bytes += b->pkt[idx[i]].len;
    }
    write_once(&c->tx_frames, c->tx_frames + n);
    write_once(&c->tx_bytes, c->tx_bytes + bytes);
}

static int null_create(struct port **out, const struct port_conf *c, const struct port_env *env,
                       struct err *e)
{
    struct port *p = calloc(1, sizeof(*p));
    int rc = p ? port_init(p, &port_null_ops, c, env, e) : err_set(e, -ENOMEM, "out of memory");

    if (rc) {
        free(p);
        return rc;
    }
    env->ready(env->ctx, p, true);
    *out = p;
    return 0;
}

static void null_destroy(struct port *p)
{
    port_fini(p);
    free(p);
}

static const struct port_option_def null_options[] = {{NULL}};

const struct port_ops port_null_ops = {
    .kind = "null",
    .help = "takes every frame and throws it away",
    .options = null_options,
    .create = null_create,
    .destroy = null_destroy,
    .tx = null_tx,
};
