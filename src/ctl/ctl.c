/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON-RPC 2.0: what a line must look like, which method it names, and the envelope of the answer.
 * The methods themselves are in methods.c.
 */
#include "ctl/ctl_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "port/capture.h"

enum {
    RPC_PARSE = -32700,
    RPC_REQUEST = -32600,
    RPC_METHOD = -32601,
    RPC_PARAMS = -32602,
    RPC_FAILED = -32000, /* the switch refused; data.errno says how */
};

int ctl_create(struct ctl **out, struct dp *dp, const struct conf *boot, struct err *e)
{
    struct ctl *c = calloc(1, sizeof(*c));

    if (!c) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    c->dp = dp;
    c->started_ns = clock_ns();
    conf_init(&c->boot);
    c->boot.mac_size = boot->mac_size;
    c->boot.poll_us = boot->poll_us;
    c->boot.balance_ms = boot->balance_ms;
    c->boot.rundir = boot->rundir ? strdup(boot->rundir) : NULL;
    c->rates = rates_create();
    if (!c->rates || (boot->rundir && !c->boot.rundir)) {
        ctl_destroy(c);
        return err_set(e, -ENOMEM, "out of memory");
    }
    rates_sample(c->rates, dp);
    *out = c;
    return 0;
}

struct capture *ctl_take_capture(struct ctl *c)
{
    struct capture *taken = c->capture;

    c->capture = NULL;
    return taken;
}

static void drop_capture(struct ctl *c)
{
    if (c->capture) {
        capture_stop(ctl_take_capture(c));
    }
}

void ctl_destroy(struct ctl *c)
{
    if (c) {
        drop_capture(c);
        rates_destroy(c->rates);
        conf_fini(&c->boot);
        free(c);
    }
}

void ctl_tick(struct ctl *c)
{
    rates_sample(c->rates, c->dp);
}

bool ctl_stop_requested(const struct ctl *c)
{
    return c->stop;
}

const char *ctl_too_long(void)
{
    return "{\"jsonrpc\": \"2.0\", \"error\": {\"code\": -32600, \"message\": \"the request is "
           "longer than 65536 bytes\"}, \"id\": null}";
}

static json_t *error_answer(const json_t *id, int code, const char *message, int sys_errno)
{
    json_t *o = json_pack("{s:s, s:{s:i, s:s}, s:O?}", "jsonrpc", "2.0", "error", "code", code,
                          "message", message, "id", id);

    /* A message that is not UTF-8 (it may quote the request) cannot be packed. */
    if (!o) {
        o = json_pack("{s:s, s:{s:i, s:s}, s:O?}", "jsonrpc", "2.0", "error", "code", code,
                      "message", "failed (the reason is not valid UTF-8)", "id", id);
    }
    if (o && sys_errno) {
        const char *name = strerrorname_np(sys_errno);

        json_object_set_new(json_object_get(o, "error"), "data",
                            json_pack("{s:s}", "errno", name ? name : "EIO"));
    }
    return o;
}

static const struct ctl_method *find_method(const char *name)
{
    for (const struct ctl_method *m = ctl_methods; m->name; m++) {
        if (!strcmp(m->name, name)) {
            return m;
        }
    }
    return NULL;
}

static void unknown_method(const char *name, struct err *e)
{
    const char *names[64] = {0};
    size_t n = 0;

    for (const struct ctl_method *m = ctl_methods; m->name && n < ARRAY_SIZE(names); m++) {
        names[n++] = m->name;
    }

    const char *near = nearest(name, names, n);

    err_set(e, -ENOENT, "unknown method \"%.80s\"%s%s%s", name, near ? "; did you mean \"" : "",
            near ? near : "", near ? "\"?" : "");
}

/* Only parameters that the method knows: a misspelt one must not be ignored. */
static int check_params(const struct ctl_method *m, const json_t *params, struct err *e)
{
    const char *key;
    json_t *v;

    if (!params) {
        return 0;
    }
    if (!json_is_object(params)) {
        return err_set(e, -EINVAL, "params must be an object with named members");
    }
    json_object_foreach ((json_t *)(uintptr_t)params, key, v) {
        unsigned i = 0;

        while (m->params[i] && strcmp(m->params[i], key)) {
            i++;
        }
        if (!m->params[i]) {
            const char *near = nearest(key, m->params, i);

            return err_set(e, -EINVAL, "%s has no parameter \"%.80s\"%s%s%s", m->name, key,
                           near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
        }
    }
    return 0;
}

static bool id_ok(const json_t *id)
{
    return !id || json_is_string(id) || json_is_number(id) || json_is_null(id);
}

/* One request object -> its answer, or NULL for a notification. */
static json_t *handle_one(struct ctl *c, const json_t *req)
{
    const char *version, *name;
    const json_t *id = json_object_get(req, "id");
    const json_t *params = json_object_get(req, "params");
    const struct ctl_method *m;
    json_t *result = NULL;
    struct err e = {0};

    if (!json_is_object(req)) {
        return error_answer(NULL, RPC_REQUEST, "a request must be a JSON object", 0);
    }
    version = json_string_value(json_object_get(req, "jsonrpc"));
    name = json_string_value(json_object_get(req, "method"));
    if (!id_ok(id)) {
        return error_answer(NULL, RPC_REQUEST, "id must be a string, a number or null", 0);
    }
    if (!version || strcmp(version, "2.0") || !name) {
        return error_answer(id, RPC_REQUEST,
                            "a request needs \"jsonrpc\": \"2.0\" and a \"method\"", 0);
    }
    m = find_method(name);
    if (!m) {
        unknown_method(name, &e);
        return id ? error_answer(id, RPC_METHOD, e.text, 0) : NULL;
    }

    int code = RPC_PARAMS;
    int rc = check_params(m, params, &e);

    if (!rc) {
        rc = m->call(c, params, &result, &e);
        code = rc == CTL_BAD_PARAMS ? RPC_PARAMS : RPC_FAILED;
    }
    if (!id) {
        json_decref(result);
        return NULL;
    }
    if (rc) {
        return error_answer(id, code, e.text, code == RPC_FAILED ? -rc : 0);
    }
    return json_pack("{s:s, s:o, s:O}", "jsonrpc", "2.0", "result", result ? result : json_null(),
                     "id", id);
}

static json_t *handle_batch(struct ctl *c, const json_t *batch)
{
    size_t n = json_array_size(batch);
    json_t *out;

    if (n == 0 || n > CTL_BATCH_MAX) {
        return error_answer(NULL, RPC_REQUEST, "a batch holds 1 to 16 requests", 0);
    }
    out = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *answer = handle_one(c, json_array_get(batch, i));

        if (answer) {
            json_array_append_new(out, answer);
        }
    }
    if (json_array_size(out) == 0) {
        json_decref(out);
        return NULL;
    }
    return out;
}

char *ctl_handle(struct ctl *c, const char *line, size_t len)
{
    json_error_t why;
    json_t *req, *answer;
    char *text = NULL;

    drop_capture(c);
    if (len > CTL_LINE_MAX) {
        return strdup(ctl_too_long());
    }
    req = json_loadb(line, len, JSON_REJECT_DUPLICATES, &why);
    if (!req) {
        answer = error_answer(NULL, RPC_PARSE, why.text, 0);
    } else if (json_is_array(req)) {
        answer = handle_batch(c, req);
    } else {
        answer = handle_one(c, req);
    }
    if (answer) {
        text = json_dumps(answer, JSON_COMPACT);
    }
    json_decref(answer);
    json_decref(req);
    return text;
}
