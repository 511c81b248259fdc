/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control requests: each line of the input is one request to a switch without threads and with a few
 * dummy ports.  Whatever the bytes are, the answer is nothing or one line of JSON.
 */
#include <event2/event.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "ctl/ctl.h"
#include "fuzz.h"

static struct event_base *base;
static struct dp *dp;
static struct ctl *ctl;

static void quiet(enum log_level level, const char *line)
{
}

static void ask(const char *line, size_t len)
{
    char *answer = ctl_handle(ctl, line, len);

    if (answer) {
        json_t *o = json_loads(answer, 0, NULL);

        CHECK(o && !strchr(answer, '\n'), "an answer is one line of JSON");
        json_decref(o);
        free(answer);
    }
}

static void start(void)
{
    struct err e;
    struct conf boot;

    log_set_sink(quiet);
    clock_stop();
    conf_init(&boot);
    base = event_base_new();
    struct dp_conf c = {.evbase = base, .rundir = "/nonexistent", .n_workers = 1, .mac_size = 1024,
                        .no_threads = true};
    if (dp_create(&dp, &c, &e) || ctl_create(&ctl, dp, &boot, &e)) {
        abort();
    }
}

/* Ports of the host are not the fuzzer's to make. */
static bool harmless(const uint8_t *p, size_t n)
{
    static const char *const words[] = {"tap", "vhost", "client", "path", "pcap"};

    for (size_t at = 0; at < n; at++) {
        for (unsigned w = 0; w < ARRAY_SIZE(words); w++) {
            size_t len = strlen(words[w]);

            if (n - at >= len && !memcmp(p + at, words[w], len)) {
                return false;
            }
        }
    }
    return !memchr(p, '\\', n); /* the same words, written as \u0074 */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned runs;

    if (!ctl) {
        start();
    }
    while (size && harmless(data, size)) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t len = end ? (size_t)(end - data) : size;

        ask((const char *)data, MIN(len, (size_t)CTL_LINE_MAX));
        data += len + (end != NULL);
        size -= len + (end != NULL);
    }
    clock_warp(1000000000);
    dp_tick(dp);
    ctl_tick(ctl);
    if (runs++ % 64 == 63) { /* start over, or the ports pile up */
        ctl_destroy(ctl);
        dp_destroy(dp);
        event_base_free(base);
        ctl = NULL;
    }
    return 0;
}
