/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file: what is read from it, the place and the sentence of each error, and that
 * what is written is read back the same.
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <event2/event.h>

#include "base/text.h"
#include "ctl/conf.h"

static struct err err;

static int parse(struct conf *c, const char *text)
{
    conf_init(c);
    memset(&err, 0, sizeof(err));
    return conf_parse(c, "f.yaml", text, strlen(text), &err);
}

static void test_all_keys(void **state)
{
    struct conf c;
    int rc = parse(&c, "# a comment\n"
                       "mac-size: 4096\n"
                       "poll-us: 0\n"
                       "log-level: warn\n"
                       "rundir: /tmp/x\n"
                       "bridges:\n"
                       "  br0: {age: 60, forward-reserved: yes}\n"
                       "  br1:\n"
                       "ports:\n"
                       "  vm1:\n"
                       "  vm2: {client: /tmp/q.sock, isolated: true, bridge: br1}\n"
                       "  d0: dummy\n"
                       "  '7':\n"
                       "    mtu: 900\n"
                       "    kind: dummy\n"
                       "macs:\n"
                       "  - {mac: \"52:54:00:00:00:01\", port: vm2}\n");

    assert_string_equal(err.text, "");
    assert_int_equal(rc, 0);
    assert_int_equal(c.mac_size, 4096);
    assert_int_equal(c.poll_us, 0);
    assert_int_equal(c.log_level, LOG_WARN);
    assert_string_equal(c.rundir, "/tmp/x");
    assert_int_equal(c.n_cpu, 0);
    assert_int_equal(c.n_bridges, 2);
    assert_string_equal(c.bridge[0].name, "br0");
    assert_int_equal(c.bridge[0].age, 60);
    assert_true(c.bridge[0].forward_reserved);
    assert_int_equal(c.bridge[1].age, 300);
    assert_false(c.bridge[1].forward_reserved);
    assert_int_equal(c.n_ports, 4);
    assert_string_equal(c.port[0].kind, "vhost-user");
    assert_int_equal(c.port[0].n_opt, 0);
    assert_int_equal(c.port[0].line, 10);
    assert_string_equal(port_conf_get(&c.port[1], "client"), "/tmp/q.sock");
    assert_string_equal(port_conf_get(&c.port[1], "isolated"), "yes");
    assert_string_equal(c.port[2].kind, "dummy");
    assert_string_equal(c.port[3].name, "7");
    assert_string_equal(port_conf_get(&c.port[3], "mtu"), "900");
    assert_int_equal(c.n_macs, 1);
    assert_int_equal(c.mac[0].mac[5], 1);
    assert_string_equal(c.mac[0].port, "vm2");
    conf_fini(&c);
}

static void test_empty(void **state)
{
    static const char *const texts[] = {"", "# nothing\n", "---\n", "ports:\nbridges:\nmacs:\n"};
    struct conf c;

    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++) {
        assert_int_equal(parse(&c, texts[i]), 0);
        assert_int_equal(c.n_ports, 0);
        assert_int_equal(c.mac_size, MACTAB_DEFAULT_SIZE);
        conf_fini(&c);
    }
}

static void test_errors(void **state)
{
    static const struct {
        const char *text, *error;
    } t[] = {
        {"bridgs:\n", "f.yaml:1:1: unknown key \"bridgs\" in the configuration; did you mean "
                      "\"bridges\"?"},
        {"mac-size: 5\nzzz: 1\n",
         "f.yaml:2:1: unknown key \"zzz\" in the configuration; valid keys are: workers, mac-size, "
         "poll-us, balance-ms, log-level, rundir, bridges, ports, macs"},
        {"ports:\n  vm1: {clint: /x}\n",
         "f.yaml:2:9: unknown key \"clint\" for a vhost-user port; did you mean \"client\"?"},
        {"ports:\n  vm1:\n    isolatd: yes\n",
         "f.yaml:3:5: unknown key \"isolatd\" for a vhost-user port; did you mean \"isolated\"?"},
        /* the kind stands behind the key, and decides */
        {"ports:\n  t0:\n    any-fs: yes\n    kind: tap\n",
         "f.yaml:3:5: unknown key \"any-fs\" for a tap port"},
        {"ports:\n  vm1: {kind: vhost-usr}\n",
         "f.yaml:2:15: unknown kind of port \"vhost-usr\"; did you mean \"vhost-user\"?"},
        {"ports:\n  t0: tapp\n",
         "f.yaml:2:7: unknown kind of port \"tapp\"; did you mean \"tap\"?"},
        {"bridges:\n  br0: {aeg: 3}\n",
         "f.yaml:2:9: unknown key \"aeg\" in a bridge; did you mean \"age\"?"},
        {"bridges:\n  br0: {age: 0}\n",
         "f.yaml:2:14: age \"0\" is not a number of seconds from 1 to 65000"},
        {"bridges:\n  br0: {forward-reserved: maybe}\n",
         "f.yaml:2:27: forward-reserved \"maybe\" is neither yes nor no"},
        {"ports:\n  vm1:\n  vm1:\n", "f.yaml:3:3: port vm1 is named twice"},
        {"bridges:\n  b:\n  b:\n", "f.yaml:3:3: bridge b is named twice"},
        {"poll-us: 1\npoll-us: 2\n",
         "f.yaml:2:1: key \"poll-us\" is given twice in the configuration"},
        {"ports:\n  vm1: {mtu: 1, mtu: 2}\n",
         "f.yaml:2:17: key \"mtu\" is given twice for port vm1"},
        {"ports:\n  vm1: {client: }\n", "f.yaml:2:9: key \"client\" needs a value"},
        {"ports: [vm1]\n", "f.yaml:1:8: ports must be a mapping (key: value)"},
        {"ports:\n  vm1: [x]\n", "f.yaml:2:8: a port must be a single value, not a list"},
        {"ports:\n  vm1: {mtu: {a: b}}\n",
         "f.yaml:2:14: mtu must be a single value, not a mapping"},
        {"ports:\n  a/b:\n",
         "f.yaml:2:3: \"a/b\" is not a name: up to 63 letters, digits, '.', '_' "
         "and '-', the first a letter or digit"},
        {"mac-size: 12x\n",
         "f.yaml:1:11: mac-size \"12x\" is not a number of entries from 1 to 67108864"},
        {"poll-us: -1\n",
         "f.yaml:1:10: poll-us \"-1\" is not a number of microseconds from 0 to 1000000"},
        {"log-level: loud\n",
         "f.yaml:1:12: log-level \"loud\" is none of error, warn, info, debug"},
        {"rundir: here\n", "f.yaml:1:9: rundir must be an absolute path"},
        {"workers: 1-\n", "f.yaml:1:10: \"1-\" is not a list of CPUs like 0 or 2-3 or 0,2"},
        {"workers: 5000\n",
         "f.yaml:1:10: worker CPU 5000 is not one that this process may use (see "
         "Cpus_allowed_list in /proc/self/status)"},
        {"macs:\n  - {mac: 1:2:3, port: a}\n",
         "f.yaml:2:11: \"1:2:3\" is not a MAC address like 52:54:00:12:34:56"},
        {"macs:\n  - {mac: '52:54:00:00:00:01'}\n",
         "f.yaml:2:5: a static address needs both mac and port"},
        {"macs:\n  - {mac: '52:54:00:00:00:01', port: a}\n",
         "f.yaml:2: there is no port a under ports:"},
        {"macs: {a: b}\n", "f.yaml:1:7: macs must be a list of {mac: ..., port: ...}"},
        {"- a\n", "f.yaml:1:1: the configuration must be a mapping (key: value)"},
        {"ports:\n  vm1: \"a\\0b\"\n", "f.yaml:2:8: a port contains a NUL byte"},
        {"---\npoll-us: 1\n---\npoll-us: 2\n", "f.yaml:4:1: a second document; one file holds one"},
    };
    struct conf c;

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_not_equal(parse(&c, t[i].text), 0);
        assert_string_equal(err.text, t[i].error);
        conf_fini(&c);
    }
}

static void test_syntax_errors(void **state)
{
    static const struct {
        const char *text, *place;
    } t[] = {
        {"ports:\n  vm1: {a: b\n", "f.yaml:"}, {"a: b: c\n", "f.yaml:1:5: "},
        {"\tx: 1\n", "f.yaml:1:1: "},          {"a: *nobody\n", "f.yaml:1:4: "},
        {"a: \xff\xfe\n", "f.yaml: byte 3: "},
    };
    struct conf c;

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_not_equal(parse(&c, t[i].text), 0);
        assert_memory_equal(err.text, t[i].place, strlen(t[i].place));
        conf_fini(&c);
    }
}

static void test_cpus(void **state)
{
    struct conf c;
    cpu_set_t set;
    char text[64];
    int cpu = 0;

    assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
    while (!CPU_ISSET(cpu, &set)) {
        cpu++;
    }
    snprintf(text, sizeof(text), "workers: [%d]\n", cpu);
    assert_int_equal(parse(&c, text), 0);
    assert_int_equal(c.n_cpu, 1);
    assert_int_equal(c.cpu[0], cpu);
    snprintf(text, sizeof(text), "%d-%d", cpu, cpu);
    assert_int_not_equal(conf_add_cpus(&c, text, &err), 0); /* twice */
    conf_fini(&c);
    static const char *const bad[] = {"",    ",",    "x",   "1,",         "-1",
                                      "2-1", "0,,1", "0 1", "99999999999"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        conf_init(&c);
        assert_int_not_equal(conf_add_cpus(&c, bad[i], &err), 0);
        conf_fini(&c);
    }
}

static void test_values(void **state)
{
    uint8_t mac[6];
    char text[18];

    assert_int_equal(text_read_mac("52:54:00:Ab:cD:ef", mac), 0);
    text_write_mac(text, mac);
    assert_string_equal(text, "52:54:00:ab:cd:ef");
    static const char *const bad[] = {"",
                                      "52:54:00:ab:cd",
                                      "52:54:00:ab:cd:ef:",
                                      "5:54:00:ab:cd:ef",
                                      "52:54:00:ab:cd:eg",
                                      "525400abcdef"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_not_equal(text_read_mac(bad[i], mac), 0);
    }
    assert_int_equal(conf_read_bool("Yes"), 1);
    assert_int_equal(conf_read_bool("off"), 0);
    assert_int_equal(conf_read_bool("ja"), -1);
}

/* A switch from a file, written out, is the same file when that is read and written out again. */
static char *through_a_switch(const char *text)
{
    struct event_base *base = event_base_new();
    struct dp *dp = NULL;
    struct conf c;

    assert_int_equal(parse(&c, text), 0);
    struct dp_conf dc = {.evbase = base,
                         .rundir = "/nonexistent",
                         .n_workers = 1,
                         .mac_size = c.mac_size,
                         .poll_us = c.poll_us,
                         .no_threads = true};
    assert_int_equal(dp_create(&dp, &dc, &err), 0);
    assert_int_equal(conf_apply(&c, dp, &err), 0);

    json_t *o = conf_from_dp(dp, &c);
    char *out = conf_to_yaml(o);

    json_decref(o);
    dp_destroy(dp);
    event_base_free(base);
    conf_fini(&c);
    return out;
}

static void test_round_trip(void **state)
{
    char *once = through_a_switch("mac-size: 4096\n"
                                  "rundir: '/tmp/a \"b\\ c'\n"
                                  "bridges:\n  br9: {age: 7, forward-reserved: true}\n"
                                  "ports:\n"
                                  "  d1: {kind: dummy, mtu: 900, isolated: yes, bridge: br9}\n"
                                  "  'no': {kind: dummy, mac-limit: 17}\n"
                                  "  '0x1': dummy\n"
                                  "macs: [{mac: '02:00:00:00:00:07', port: 'no'}]\n");
    char *twice = through_a_switch(once);

    assert_string_equal(once, twice);
    assert_non_null(strstr(once, "rundir: \"/tmp/a \\\"b\\\\ c\"\n"));
    assert_non_null(strstr(once, "  br9:\n    age: 7\n    forward-reserved: yes\n"));
    assert_non_null(
        strstr(once, "  \"no\":\n    kind: dummy\n    mac-limit: 17\n    bridge: br0\n"));
    assert_non_null(strstr(once, "macs:\n  - {mac: \"02:00:00:00:00:07\", port: \"no\"}\n"));
    free(once);
    free(twice);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_keys),   cmocka_unit_test(test_empty),
        cmocka_unit_test(test_errors),     cmocka_unit_test(test_syntax_errors),
        cmocka_unit_test(test_cpus),       cmocka_unit_test(test_values),
        cmocka_unit_test(test_round_trip),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
