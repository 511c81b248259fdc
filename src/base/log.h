/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging: one line per event on stderr, level per process, rate-limited where a peer can cause
 * the line.  Control thread and helpers only; workers count instead of logging.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/compiler.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_N_LEVELS };

/* Lines above this level are not printed. Default LOG_INFO. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* "error", "warn", "info", "debug" -> level; -1 if it is none of them. */
int log_level_parse(const char *name);
const char *log_level_name(enum log_level level);

/* Called for each line that is printed (level and text without newline); NULL restores stderr.
 * For tests: an unexpected warning is a failure. */
void log_set_sink(void (*sink)(enum log_level level, const char *line));

void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* At most `burst` lines per second for this call site; the suppressed number is told later. */
struct log_limit {
    uint64_t window_ns;
    uint32_t n, suppressed;
};
bool log_limit_ok(struct log_limit *l, unsigned burst);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
/* For lines that a peer can cause at will. */
#define log_limited_(level, ...)                                                                   \
    do {                                                                                           \
        static struct log_limit limit_;                                                            \
        if (log_limit_ok(&limit_, 10)) {                                                           \
            log_write(level, __VA_ARGS__);                                                         \
        }                                                                                          \
    } while (0)
#define log_warn_limited(...) log_limited_(LOG_WARN, __VA_ARGS__)
#define log_info_limited(...) log_limited_(LOG_INFO, __VA_ARGS__)

#endif
