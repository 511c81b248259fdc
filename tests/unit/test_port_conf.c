/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a port is written ("NAME" or "NAME=KIND,key=value,...") and what is refused, with the
 * sentence that the user gets.  No device is made: whatever gets that far is refused before.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "port/port.h"

static struct err err;

static struct port_conf parse(const char *arg)
{
    struct port_conf c;

    memset(&err, 0, sizeof(err));
    if (port_conf_parse(&c, arg, &err)) {
        fail_msg("%s: %s", arg, err.text);
    }
    return c;
}

static void test_parse(void **state)
{
    struct port_conf c = parse("vm1");

    assert_string_equal(c.name, "vm1");
    assert_string_equal(c.kind, "vhost-user");
    assert_int_equal(c.n_opt, 0);
    assert_null(port_conf_get(&c, "mtu"));
    port_conf_free(&c);

    c = parse("tap0=tap,netns=A,mtu=9000");
    assert_string_equal(c.name, "tap0");
    assert_string_equal(c.kind, "tap");
    assert_int_equal(c.n_opt, 2);
    assert_string_equal(port_conf_get(&c, "netns"), "A");
    assert_string_equal(port_conf_get(&c, "mtu"), "9000");
    port_conf_free(&c);

    c = parse("vm1=client=/run/x=y,isolated"); /* no kind; '=' in a value; a word means yes */
    assert_string_equal(c.kind, "vhost-user");
    assert_string_equal(port_conf_get(&c, "client"), "/run/x=y");
    assert_string_equal(port_conf_get(&c, "isolated"), "yes");
    port_conf_free(&c);

    c = parse("vm1=vhost-user,owner="); /* an empty value is a value */
    assert_string_equal(port_conf_get(&c, "owner"), "");
    port_conf_free(&c);
}

static void test_parse_refuses(void **state)
{
    static const char *const bad[] = {"vm1=",         "vm1=,mtu=1500",       "vm1=tap,",
                                      "vm1=tap,,x=1", "vm1=tap,mtu=1,mtu=2", "vm1=tap,=5"};

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct port_conf c;
        memset(&err, 0, sizeof(err));
        assert_true(port_conf_parse(&c, bad[i], &err) < 0);
        assert_non_null(strstr(err.text, bad[i])); /* names what was written */
    }
}

static void test_set_and_copy(void **state)
{
    struct port_conf c = parse("a=tap,mtu=1500"), d;

    assert_int_equal(port_conf_set(&c, "mtu", "9000"), 0);
    assert_int_equal(port_conf_set(&c, "dev", "t0"), 0);
    assert_int_equal(c.n_opt, 2);
    c.line = 7;
    assert_int_equal(port_conf_copy(&d, &c), 0);
    port_conf_free(&c);
    assert_string_equal(d.name, "a");
    assert_string_equal(d.kind, "tap");
    assert_string_equal(port_conf_get(&d, "mtu"), "9000");
    assert_string_equal(port_conf_get(&d, "dev"), "t0");
    assert_int_equal(d.line, 7);
    port_conf_free(&d);
}

static int attach(void *ctx, struct rxq *q, struct err *e)
{
    return 0;
}
static void detach(void *ctx, struct rxq *q)
{
}
static void ready(void *ctx, struct port *p, bool is_ready)
{
    p->ready = is_ready;
}
static const struct port_env env = {
    .n_workers = 2, .attach = attach, .detach = detach, .ready = ready};

static void test_create_refuses(void **state)
{
    static const struct {
        const char *arg;
        const char *says[3];
    } bad[] = {
        {"=tap", {"port name"}},
        {"-x=tap", {"-x"}},
        {"a/b=tap", {"a/b"}},
        {"a=taap", {"port a", "\"taap\"", "\"tap\""}},
        {"a=zzzzzz", {"zzzzzz", "vhost-user-frontend, tap"}},
        {"a=tap,mut=1500", {"mut", "\"mtu\""}},
        {"a=tap,netn=A", {"netn", "\"netns\""}},
        {"a=tap,mtu=67", {"mtu=67", "68"}},
        {"a=tap,mtu=65522", {"65521"}},
        {"a=tap,mtu=-1", {"mtu=-1"}},
        {"a=tap,mtu=1500x", {"mtu=1500x"}},
        {"a=tap,mtu=", {"mtu="}},
        {"a=tap,dev=", {"dev=NAME"}},
        {"a=tap,dev=abcdefghijklmnop", {"abcdefghijklmnop", "15"}},
        {"abcdefghijklmnop=tap", {"abcdefghijklmnop", "dev=NAME"}},
        {"a=tap,dev=x/y", {"x/y"}},
        {"a=tap,dev=x%d", {"x%d"}},
        {"a=tap,dev=..", {".."}},
        {"a=tap,netns=no-such-namespace", {"netns=no-such-namespace", "ip netns"}},
        {"a=tap,netns=/dev/null", {"/dev/null"}},
        {"a=vhost-user,client=/a,path=/b", {"port a", "client=", "path="}},
        {"a=vhost-user,owner=no-such-user", {"port a", "owner=no-such-user"}},
        {"a=vhost-user,owner=4294967295", {"owner=4294967295"}}, /* chown's "leave it" */
        {"a=vhost-user,group=no-such-group", {"group=no-such-group"}},
        {"a=vhost-user,mode=8", {"mode=8", "octal", "777"}},
        {"a=vhost-user,mode=1777", {"mode=1777", "777"}},
        {"a=vhost-user,any-fs=maybe", {"any-fs=maybe", "yes"}},
        {"a=dummy,mtu=1", {"mtu=1"}},
        {"a=dummy,depth=0", {"depth=0"}},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct port_conf c = parse(bad[i].arg);
        struct port *p = NULL;
        assert_true(port_create(&p, &c, &env, &err) < 0);
        assert_null(p);
        for (unsigned k = 0; k < 3 && bad[i].says[k]; k++) {
            if (!strstr(err.text, bad[i].says[k])) {
                fail_msg("%s: '%s' is not in: %s", bad[i].arg, bad[i].says[k], err.text);
            }
        }
        port_conf_free(&c);
    }
}

static void test_create(void **state)
{
    struct port_conf c = parse("a.b-c_1=dummy,mtu=1500");
    struct port *p = NULL;
    struct port_counters sum;
    struct wctx w[2] = {{.id = 0}, {.id = 1}};

    assert_int_equal(port_create(&p, &c, &env, &err), 0);
    port_conf_free(&c);
    assert_string_equal(p->name, "a.b-c_1");
    assert_string_equal(p->ops->kind, "dummy");
    assert_int_equal(p->id, PORT_NONE);
    assert_int_equal(p->max_len, 1514);
    assert_true(p->ready);
    port_count_drop(p, &w[0], DROP_RUNT, 3);
    port_count_drop(p, &w[1], DROP_RUNT, 4);
    port_counters_sum(p, &sum);
    assert_int_equal(sum.drop[DROP_RUNT], 7);
    assert_int_equal(sum.rx_frames, 0);
    p->ops->destroy(p);
}

/* Each kind of value: what is one, and what is none. */
static void test_values(void **state)
{
    static const struct port_option_def yes_no = {"k", .type = PORT_YES_NO},
                                        number = {"k", .type = PORT_NUMBER, .min = 2, .max = 10},
                                        octal = {"k", .type = PORT_OCTAL, .max = 0777},
                                        word = {"k", .type = PORT_WORD, .words = "up|down"},
                                        mac = {"k", .type = PORT_MAC}, text = {"k"};
    static const struct {
        const struct port_option_def *def;
        const char *value;
        bool ok;
    } t[] = {
        {&yes_no, "yes", true},
        {&yes_no, "no", true},
        {&yes_no, "true", false},
        {&yes_no, "", false},
        {&number, "2", true},
        {&number, "10", true},
        {&number, "1", false},
        {&number, "11", false},
        {&number, "+3", false},
        {&number, " 3", false},
        {&number, "3 ", false},
        {&number, "0x3", false},
        {&number, "18446744073709551619", false}, /* 2^64 + 3 */
        {&octal, "0660", true},
        {&octal, "777", true},
        {&octal, "1000", false},
        {&octal, "8", false},
        {&word, "up", true},
        {&word, "down", true},
        {&word, "u", false},
        {&word, "upp", false},
        {&word, "up|down", false},
        {&word, "", false},
        {&mac, "52:54:00:12:34:56", true},
        {&mac, "52-54-00-12-34-56", true},
        {&mac, "53:54:00:12:34:56", false}, /* a group is no station */
        {&mac, "52:54:00:12:34", false},
        {&mac, "52:54:00:12:34:5x", false},
        {&mac, "52:54:00:12:34:56:", false},
        {&text, "", true},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        memset(&err, 0, sizeof(err));
        if (!port_value_check(t[i].def, t[i].value, &err) != t[i].ok) {
            fail_msg("'%s' of type %d", t[i].value, t[i].def->type);
        }
        assert_true(t[i].ok || !strncmp(err.text, "k=", 2));
    }
}

/* The man page and --help are made of these: each kind and key says what it is, and only once. */
static void test_kinds_are_described(void **state)
{
    for (const struct port_ops *const *k = port_kinds(); *k; k++) {
        assert_true(strlen((*k)->help) > 10);
        bool queue = (*k)->rx != NULL; /* a kind that never sends has none, and none of its callbacks */

        assert_true((*k)->create && (*k)->destroy && (*k)->tx);
        assert_true(!(*k)->rx_done == !queue && !(*k)->arm == !queue && !(*k)->disarm == !queue);
        for (const struct port_option_def *d = (*k)->options; d->key; d++) {
            assert_true(strlen(d->help) > 10);
            assert_true(!d->changeable || (*k)->set);
            assert_true(d->type != PORT_WORD || d->words);
            assert_true((d->type != PORT_NUMBER && d->type != PORT_OCTAL) || d->max > d->min);
            for (const struct port_option_def *o = (*k)->options; o != d; o++) {
                assert_string_not_equal(o->key, d->key);
            }
        }
        for (const struct port_ops *const *j = port_kinds(); j != k; j++) {
            assert_string_not_equal((*j)->kind, (*k)->kind);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),        cmocka_unit_test(test_parse_refuses),
        cmocka_unit_test(test_set_and_copy), cmocka_unit_test(test_create_refuses),
        cmocka_unit_test(test_create),       cmocka_unit_test(test_kinds_are_described),
        cmocka_unit_test(test_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
