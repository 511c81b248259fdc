/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control requests without a socket: the JSON-RPC envelope, every method, every kind of bad
 * parameter, and bytes that are no request at all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <event2/event.h>

#include "base/clock.h"
#include "ctl/ctl.h"
#include "port/capture.h"
#include "port/port_dummy.h"

#define MAC_SIZE 10000
#define MANY     5000 /* more than CTL_MACS_PER_REPLY */

static struct event_base *base;
static struct dp *dp;
static struct ctl *ctl;

static int setup(void **state)
{
    struct err e = {0};
    struct conf boot;

    conf_init(&boot);
    boot.mac_size = MAC_SIZE;
    base = event_base_new();
    clock_stop();
    struct dp_conf c = {.evbase = base,
                        .rundir = "/nonexistent",
                        .n_workers = 1,
                        .mac_size = boot.mac_size,
                        .no_threads = true};
    return dp_create(&dp, &c, &e) || ctl_create(&ctl, dp, &boot, &e);
}

static int teardown(void **state)
{
    ctl_destroy(ctl);
    dp_destroy(dp);
    event_base_free(base);
    return 0;
}

/* The answer to one line, parsed; NULL if there was none. */
static json_t *raw_n(const char *line, size_t len)
{
    char *text = ctl_handle(ctl, line, len);
    json_error_t why;
    json_t *o;

    if (!text) {
        return NULL;
    }
    assert_null(strchr(text, '\n'));
    o = json_loads(text, 0, &why);
    if (!o) {
        fail_msg("%s: %s", why.text, text);
    }
    free(text);
    return o;
}

static json_t *raw(const char *line)
{
    return raw_n(line, strlen(line));
}

static void expect_error(const char *line, int code, const char *message)
{
    json_t *o = raw(line), *e = json_object_get(o, "error");

    assert_non_null(e);
    if (message) {
        assert_string_equal(json_string_value(json_object_get(e, "message")), message);
    }
    assert_int_equal(json_integer_value(json_object_get(e, "code")), code);
    json_decref(o);
}

static json_t *call(const char *method, const char *params)
{
    char line[1024];

    snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":%s}",
             method, params);

    json_t *o = raw(line), *r = json_object_get(o, "result");

    if (!r) {
        fail_msg("%s: %s", line,
                 json_string_value(json_object_get(json_object_get(o, "error"), "message")));
    }
    json_incref(r);
    json_decref(o);
    return r;
}

static void call_fails(const char *method, const char *params, int code, const char *message)
{
    char line[1024];

    snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":%s}",
             method, params);
    expect_error(line, code, message);
}

static void test_envelope(void **state)
{
    json_t *o;

    expect_error("", -32700, NULL);
    expect_error("{", -32700, NULL);
    expect_error("nonsense", -32700, NULL);
    expect_error("{\"a\":1,\"a\":2}", -32700, NULL);
    expect_error("{\"a\":\"\\u0000\"}", -32700, NULL);
    expect_error("\xff\xfe", -32700, NULL);
    expect_error("{}", -32600, NULL);
    expect_error("{\"jsonrpc\":\"1.0\",\"method\":\"version\",\"id\":1}", -32600, NULL);
    expect_error("{\"jsonrpc\":\"2.0\",\"method\":5,\"id\":1}", -32600, NULL);
    expect_error("{\"jsonrpc\":\"2.0\",\"method\":\"version\",\"id\":[1]}", -32600, NULL);
    expect_error("{\"jsonrpc\":\"2.0\",\"method\":\"port.list\",\"id\":1}", -32601,
                 "unknown method \"port.list\"; did you mean \"ports.list\"?");
    expect_error("{\"jsonrpc\":\"2.0\",\"method\":\"version\",\"params\":[1],\"id\":1}", -32602,
                 "params must be an object with named members");
    call_fails("ports.list", "{\"nmae\":\"x\"}", -32602,
               "ports.list has no parameter \"nmae\"; did you mean \"name\"?");

    /* the id comes back as it was; a notification has no answer, not even an error */
    o = raw("{\"jsonrpc\":\"2.0\",\"method\":\"version\",\"id\":\"a\"}");
    assert_string_equal(json_string_value(json_object_get(o, "id")), "a");
    json_decref(o);
    assert_null(raw("{\"jsonrpc\":\"2.0\",\"method\":\"version\"}"));
    assert_null(raw("{\"jsonrpc\":\"2.0\",\"method\":\"nothing\"}"));
}

static void test_batch(void **state)
{
    const char *two = "[{\"jsonrpc\":\"2.0\",\"method\":\"version\",\"id\":1},"
                      "{\"jsonrpc\":\"2.0\",\"method\":\"version\"},7]";
    json_t *o = raw(two);
    char many[512] = "[0";

    assert_int_equal(json_array_size(o), 2);
    assert_non_null(json_object_get(json_array_get(o, 0), "result"));
    assert_non_null(json_object_get(json_array_get(o, 1), "error"));
    json_decref(o);
    expect_error("[]", -32600, NULL);
    for (int i = 0; i < CTL_BATCH_MAX; i++) {
        strcat(many, ",0");
    }
    strcat(many, "]");
    expect_error(many, -32600, NULL);
    assert_null(raw("[{\"jsonrpc\":\"2.0\",\"method\":\"version\"}]"));
}

static void test_too_long(void **state)
{
    char *line = malloc(CTL_LINE_MAX + 1);

    memset(line, '[', CTL_LINE_MAX + 1);
    json_t *o = raw_n(line, CTL_LINE_MAX + 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "error"), "code")),
                     -32600);
    json_decref(o);
    o = raw_n(line, CTL_LINE_MAX); /* as deep as a line can be */
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "error"), "code")),
                     -32700);
    json_decref(o);
    free(line);
}

static void test_ports(void **state)
{
    json_t *o, *p;

    json_decref(call("port.add", "{\"name\":\"d1\",\"kind\":\"dummy\",\"options\":{\"mtu\":900,"
                                 "\"isolated\":true}}"));
    o = call("ports.list", "{}");
    p = json_array_get(json_object_get(o, "ports"), 0);
    assert_string_equal(json_string_value(json_object_get(p, "name")), "d1");
    assert_string_equal(json_string_value(json_object_get(p, "bridge")), "br0");
    assert_true(json_is_true(json_object_get(p, "isolated")));
    json_decref(o);

    call_fails("port.add", "{\"name\":\"d1\",\"kind\":\"dummy\"}", -32000, NULL);
    call_fails("port.add", "{\"name\":\"d2\",\"kind\":\"dmmy\"}", -32000,
               "port d2: unknown kind of port \"dmmy\"; did you mean \"dummy\"?");
    call_fails("port.add", "{\"name\":\"../d2\"}", -32000, NULL);
    call_fails("port.add", "{\"name\":7}", -32602, "parameter \"name\" must be a string");
    call_fails("port.add", "{}", -32602, "parameter \"name\" is missing");
    call_fails("port.add", "{\"name\":\"d2\",\"options\":[]}", -32602, NULL);
    call_fails("port.add", "{\"name\":\"d2\",\"kind\":\"dummy\",\"options\":{\"mtu\":{}}}", -32602,
               NULL);
    call_fails("port.add", "{\"name\":\"d2\",\"kind\":\"dummy\",\"options\":{\"mtu\":\"x\"}}",
               -32000, NULL);
    assert_int_equal(dp_ports(dp, &(struct port *){NULL}, 1), 1);

    json_decref(call("port.set", "{\"name\":\"d1\",\"key\":\"mtu\",\"value\":\"1000\"}"));
    call_fails("port.set", "{\"name\":\"d1\",\"key\":\"mut\",\"value\":\"1000\"}", -32000, NULL);
    call_fails("port.set", "{\"name\":\"dx\",\"key\":\"mtu\",\"value\":\"1\"}", -32000,
               "there is no port dx; did you mean d1?");
    o = call("ports.list", "{\"name\":\"d1\"}");
    p = json_array_get(json_object_get(o, "ports"), 0);
    assert_string_equal(json_string_value(json_object_get(json_object_get(p, "options"), "mtu")),
                        "1000");
    json_decref(o);

    json_decref(call("port.del", "{\"name\":\"d1\"}"));
    call_fails("port.del", "{\"name\":\"d1\"}", -32000, "there is no port d1");
}

/* Whoever carries the requests takes a capture with the answer, or it ends. */
static void test_captures(void **state)
{
    json_t *o;

    json_decref(call("port.add", "{\"name\":\"c\",\"kind\":\"dummy\"}"));
    const struct port *p = dp_port(dp, "c");

    o = call("capture.start", "{\"port\":\"c\",\"filter\":\"1,6 0 0 1\",\"direction\":\"in\"}");
    assert_true(json_integer_value(json_object_get(o, "bytes")) > CAPTURE_RING_DEFAULT);
    assert_int_equal(json_array_size(json_object_get(o, "reasons")), DROP_N);
    json_decref(o);
    assert_int_equal(capture_count(p), 1);
    json_decref(call("version", "{}"));
    assert_int_equal(capture_count(p), 0);

    json_decref(call("capture.start", "{\"port\":\"c\"}"));
    struct capture *c = ctl_take_capture(ctl);
    assert_non_null(c);
    assert_null(ctl_take_capture(ctl));
    o = call("ports.list", "{\"name\":\"c\"}");
    assert_int_equal(json_integer_value(json_object_get(
                         json_array_get(json_object_get(o, "ports"), 0), "captures")), 1);
    json_decref(o);
    capture_stop(c);

    call_fails("capture.start", "{\"port\":\"c\",\"direction\":\"up\"}", -32602,
               "parameter \"direction\" is none of in, out, inout");
    call_fails("capture.start", "{\"port\":\"c\",\"buffer\":300000}", -32000, NULL);
    call_fails("capture.start", "{\"port\":\"c\",\"filter\":\"1,0 0 0 0\"}", -32000,
               "filter: not a valid BPF program");
    call_fails("capture.start", "{}", -32602, "parameter \"port\" is missing");
    assert_null(ctl_take_capture(ctl));

    json_decref(call("capture.start", "{\"port\":\"c\"}")); /* left to ctl_destroy() */
}

static void test_macs(void **state)
{
    json_t *o, *m;

    json_decref(call("port.add", "{\"name\":\"d1\",\"kind\":\"dummy\"}"));
    json_decref(call("mac.add", "{\"mac\":\"52:54:00:00:00:01\",\"port\":\"d1\"}"));
    call_fails("mac.add", "{\"mac\":\"52:54\",\"port\":\"d1\"}", -32602, NULL);
    call_fails("mac.add", "{\"mac\":\"01:00:5e:00:00:01\",\"port\":\"d1\"}", -32000, NULL);
    o = call("macs.list", "{}");
    m = json_array_get(json_object_get(o, "macs"), 0);
    assert_string_equal(json_string_value(json_object_get(m, "mac")), "52:54:00:00:00:01");
    assert_true(json_is_true(json_object_get(m, "static")));
    assert_true(json_is_null(json_object_get(o, "next")));
    json_decref(o);
    call_fails("macs.list", "{\"from\":-1}", -32602, NULL);
    call_fails("macs.list", "{\"port\":\"nobody\"}", -32000, "there is no port nobody");
    o = call("mac.flush", "{}"); /* static ones stay */
    assert_int_equal(json_integer_value(json_object_get(o, "flushed")), 0);
    json_decref(o);
    json_decref(call("mac.del", "{\"mac\":\"52:54:00:00:00:01\"}"));
    call_fails("mac.del", "{\"mac\":\"52:54:00:00:00:01\"}", -32000, NULL);
}

static void test_bridges(void **state)
{
    json_t *o, *b;

    json_decref(call("bridge.set", "{\"name\":\"br5\",\"age\":9}"));
    json_decref(call("bridge.set", "{\"name\":\"br5\",\"forward_reserved\":true}"));
    o = call("bridges.list", "{}");
    b = json_array_get(json_object_get(o, "bridges"), 0);
    assert_int_equal(json_integer_value(json_object_get(b, "age")), 9);
    assert_true(json_is_true(json_object_get(b, "forward_reserved")));
    json_decref(o);
    call_fails("bridge.set", "{\"name\":\"a b\"}", -32000, NULL);
    call_fails("bridge.set", "{\"name\":\"b\",\"age\":0}", -32602, NULL);
    call_fails("bridge.set", "{\"name\":\"b\",\"forward_reserved\":2}", -32602, NULL);
    json_decref(call("port.add", "{\"name\":\"d1\",\"kind\":\"dummy\",\"options\":{\"bridge\":"
                                 "\"br5\"}}"));
    call_fails("bridge.del", "{\"name\":\"br5\"}", -32000, NULL); /* has a port */
    json_decref(call("port.del", "{\"name\":\"d1\"}"));
    json_decref(call("bridge.del", "{\"name\":\"br5\"}"));
}

/* Frames of one second, seen as a rate one tick later; and a drop with its culprit. */
static void test_rates_and_drops(void **state)
{
    static const uint8_t frame[60] = {2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};
    json_t *o, *p, *d;

    json_decref(call("port.add", "{\"name\":\"d1\",\"kind\":\"dummy\"}"));
    ctl_tick(ctl);
    for (int i = 0; i < 20; i++) {
        dummy_inject(dp_port(dp, "d1"), frame, sizeof(frame));
    }
    dp_run_once(dp);
    clock_warp(2000000000ull);
    ctl_tick(ctl);
    o = call("ports.list", "{}");
    p = json_object_get(json_array_get(json_object_get(o, "ports"), 0), "rx");
    assert_int_equal(json_integer_value(json_object_get(p, "frames")), 20);
    assert_true(json_real_value(json_object_get(p, "pps")) == 10);
    assert_true(json_real_value(json_object_get(p, "bps")) == 10 * 60 * 8);
    json_decref(o);
    o = call("drops.list", "{\"port\":\"d1\"}");
    d = json_array_get(json_object_get(o, "drops"), 0);
    assert_string_equal(json_string_value(json_object_get(d, "reason")), "no-ports");
    assert_string_equal(json_string_value(json_object_get(d, "text")),
                        "d1 sent a frame and no other port of its bridge is up");
    assert_int_equal(json_integer_value(json_object_get(d, "frames")), 20);
    json_decref(o);
    o = call("workers.list", "{}");
    json_t *q = json_array_get(
        json_object_get(json_array_get(json_object_get(o, "workers"), 0), "queues"), 0);
    assert_string_equal(json_string_value(json_object_get(q, "port")), "d1");
    assert_int_equal(json_integer_value(json_object_get(q, "queue")), 0);
    assert_true(json_is_false(json_object_get(q, "pinned")));
    json_decref(o);
    json_decref(call("queue.pin", "{\"port\":\"d1\",\"queue\":3,\"worker\":0}"));
    assert_string_equal(port_conf_get(&dp_port(dp, "d1")->conf, "pin"), "3:0");
    json_decref(call("queue.pin", "{\"port\":\"d1\",\"queue\":3}"));
    assert_string_equal(port_conf_get(&dp_port(dp, "d1")->conf, "pin"), "none");
    call_fails("queue.pin", "{\"port\":\"d1\",\"worker\":0}", -32602, NULL);
    call_fails("queue.pin", "{\"port\":\"d1\",\"queue\":128,\"worker\":0}", -32000,
               "port d1: queue 128: queues are 0 to 127");
    call_fails("queue.pin", "{\"port\":\"d1\",\"queue\":0,\"worker\":1}", -32000,
               "port d1: there is no worker 1; workers are 0 to 0");
}

/* A table that does not fit into one answer comes in pages that together are the whole. */
static void test_mac_pages(void **state)
{
    char params[64] = "{\"from\":0}";
    struct err e = {0};
    unsigned n = 0, pages = 0;
    json_t *o, *next;

    json_decref(call("port.add", "{\"name\":\"d1\",\"kind\":\"dummy\"}"));
    for (unsigned i = 0; i < MANY; i++) {
        uint8_t mac[6] = {2, 0, 0, 0, (uint8_t)(i >> 8), (uint8_t)i};

        assert_int_equal(dp_mac_add(dp, "d1", mac, 0, &e), 0);
    }
    do {
        o = call("macs.list", params);
        n += (unsigned)json_array_size(json_object_get(o, "macs"));
        assert_int_equal(json_integer_value(json_object_get(o, "matching")), MANY);
        next = json_object_get(o, "next");
        snprintf(params, sizeof(params), "{\"from\":%d}", (int)json_integer_value(next));
        pages++;
        assert_true(pages < 10);
        if (json_is_null(next)) {
            next = NULL;
        }
        json_decref(o);
    } while (next);
    assert_int_equal(n, MANY);
    assert_int_equal(pages, 2);
    snprintf(params, sizeof(params), "{\"from\":4950}");
    o = call("macs.list", params);
    assert_int_equal(json_array_size(json_object_get(o, "macs")), 50);
    json_decref(o);
}

static void test_config_version_stop(void **state)
{
    json_t *o = call("config.get", "{}");

    assert_non_null(json_string_value(json_object_get(o, "text")));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "config"), "mac-size")),
                     MAC_SIZE);
    json_decref(o);
    o = call("version", "{}");
    assert_string_equal(json_string_value(json_object_get(o, "name")), "ringway");
    json_decref(o);
    assert_false(ctl_stop_requested(ctl));
    json_decref(call("stop", "{}"));
    assert_true(ctl_stop_requested(ctl));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_envelope),        TEST(test_batch),     TEST(test_too_long),
        TEST(test_ports),           TEST(test_macs),      TEST(test_bridges),
        TEST(test_rates_and_drops), TEST(test_mac_pages), TEST(test_config_version_stop),
        TEST(test_captures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
