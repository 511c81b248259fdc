/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

static const char *const level_name[] = {"error", "warn", "info", "debug"};
static_assert(ARRAY_SIZE(level_name) == LOG_N_LEVELS, "one name per level");

static enum log_level max_level = LOG_INFO;
static void (*line_sink)(enum log_level, const char *);

void log_set_level(enum log_level level)
{
    write_once(&max_level, level);
}

enum log_level log_get_level(void)
{
    return read_once(&max_level);
}

int log_level_parse(const char *name)
{
    for (int i = 0; i < LOG_N_LEVELS; i++) {
        if (!strcmp(name, level_name[i])) {
            return i;
        }
    }
    return -1;
}

const char *log_level_name(enum log_level level)
{
    return level < LOG_N_LEVELS ? level_name[level] : "?";
}

void log_set_sink(void (*sink)(enum log_level, const char *))
{
    line_sink = sink;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    char line[1024];
    va_list ap;

    if (level > read_once(&max_level)) {
        return;
    }
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (line_sink) {
        line_sink(level, line);
    } else {
        fprintf(stderr, "ringway: %s%s%s\n", level < LOG_INFO ? level_name[level] : "",
                level < LOG_INFO ? ": " : "", line);
    }
}

bool log_limit_ok(struct log_limit *l, unsigned burst)
{
    uint64_t now = clock_ns();

    if (now - l->window_ns > 1000000000ull) {
        if (l->suppressed) {
            log_write(LOG_WARN, "%u similar lines were suppressed", l->suppressed);
        }
        *l = (struct log_limit){.window_ns = now};
    }
    if (l->n >= burst) {
        l->suppressed++;
        return false;
    }
    l->n++;
    return true;
}
