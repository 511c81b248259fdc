/* SPDX-License-Identifier: Apache-2.0 */
/* What people read: numbers with units, columns, shortened words, versions, stable addresses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/text.h"
#include "ctl/banner.h"
#include "ctl/cli.h"
#include "ctl/conf.h"
#include "ctl/table.h"

static void test_si(void **state)
{
    static const struct {
        double v;
        const char *text;
    } t[] = {
        {0, "0"},           {1, "1"},         {0.5, "0.5"},     {9.94, "9.9"},    {9.96, "10"},
        {999, "999"},       {999.4, "999"},   {999.6, "1.00k"}, {1000, "1.00k"},  {9994, "9.99k"},
        {9996, "10.0k"},    {12345, "12.3k"}, {99960, "100k"},  {999400, "999k"}, {999600, "1.00M"},
        {1234567, "1.23M"}, {1e9, "1.00G"},   {1e12, "1.00T"},  {1e15, "1.00P"},  {1e18, "1.00E"},
        {1e21, "1000E"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        assert_string_equal(si(t[i].v), t[i].text);
    }
}

static void test_table(void **state)
{
    static const char *const head[] = {"NAME", "-N", "WHY"};
    struct table t;
    char *text;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    table_init(&t, 3, head);
    table_add(&t, "%s", "a");
    table_add(&t, "%d", 12345);
    table_add(&t, "no %s", "space behind");
    table_add(&t, "longer");
    table_add(&t, "7");
    table_add(&t, "-");
    table_print(&t, f);
    fclose(f);
    assert_string_equal(text, "NAME        N  WHY\n"
                              "a       12345  no space behind\n"
                              "longer      7  -\n");
    free(text);
}

static void test_words(void **state)
{
    static const struct cli_word words[] = {
        {"port", NULL, NULL, NULL},
        {"ports", NULL, NULL, NULL},
        {"stop", NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL},
    };

    assert_ptr_equal(cli_find(words, "port", "word"), &words[0]); /* whole words win */
    assert_ptr_equal(cli_find(words, "s", "word"), &words[2]);
    assert_null(cli_find(words, "por", "word"));
    assert_null(cli_find(words, "", "word"));
    assert_null(cli_find(words, "stopp", "word"));
}

static void test_qemu_version(void **state)
{
    static const struct {
        const char *text;
        unsigned major, minor;
    } t[] = {
        {"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright", 7, 2},
        {"QEMU emulator version 10.0.2", 10, 0},
        {"QEMU emulator version 10", 0, 0},
        {"version", 0, 0},
        {"", 0, 0},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        struct qemu_version v = qemu_parse_version(t[i].text);

        assert_int_equal(v.major, t[i].major);
        assert_int_equal(v.minor, t[i].minor);
    }
}

/* Guests' network settings hang on these: they must never change from one version to the next. */
static void test_addresses(void **state)
{
    uint8_t mac[6];
    char text[18];

    banner_mac("vm1", mac);
    text_write_mac(text, mac);
    assert_string_equal(text, "52:54:a7:93:1c:51");
    assert_int_equal(mac[0] & 3, 2); /* local, not multicast */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_si),        cmocka_unit_test(test_table),
        cmocka_unit_test(test_words),     cmocka_unit_test(test_qemu_version),
        cmocka_unit_test(test_addresses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
