/* SPDX-License-Identifier: Apache-2.0 */
#include "dp/pins.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port/port.h"

/* A number below limit at *p; *p is moved behind it. */
static bool take_number(const char **p, unsigned long limit, unsigned *out)
{
    char *end;

    if (!isdigit((unsigned char)**p)) {
        return false;
    }
    unsigned long v = strtoul(*p, &end, 10);

    *p = end;
    *out = (unsigned)v;
    return v < limit;
}

/* The next pin at *p, which is moved behind it and its plus sign. False: this is none. */
static bool take_pin(const char **p, unsigned *queue, unsigned *worker)
{
    if (!take_number(p, PINS_QUEUES, queue) || *(*p)++ != ':' ||
        !take_number(p, WORKER_MAX, worker)) {
        return false;
    }
    if (**p == '+') {
        return *++*p != '\0';
    }
    return **p == '\0';
}

/* Where each queue stays, -1: anywhere. False: not pins. */
static bool read_pins(const char *pins, int16_t worker_of[PINS_QUEUES])
{
    unsigned queue, worker;

    memset(worker_of, -1, PINS_QUEUES * sizeof(*worker_of));
    if (!pins || !strcmp(pins, PINS_NONE)) {
        return true;
    }
    for (const char *p = pins; *p || p == pins;) {
        if (!take_pin(&p, &queue, &worker) || worker_of[queue] >= 0) {
            return false;
        }
        worker_of[queue] = (int16_t)worker;
    }
    return true;
}

int pins_check(const char *pins, struct err *e)
{
    int16_t worker_of[PINS_QUEUES];

    return read_pins(pins, worker_of)
               ? 0
               : err_set(e, -EINVAL,
                         "pin=%.60s is not QUEUE:WORKER, several of them joined by +, or none (queues "
                         "to %d, workers to %d, each queue once)",
                         pins, PINS_QUEUES - 1, WORKER_MAX - 1);
}

int pins_find(const char *pins, unsigned queue)
{
    int16_t worker_of[PINS_QUEUES];

    return queue < PINS_QUEUES && read_pins(pins, worker_of) ? worker_of[queue] : -1;
}

int pins_max_worker(const char *pins)
{
    int16_t worker_of[PINS_QUEUES];
    int max = -1;

    read_pins(pins, worker_of);
    for (unsigned i = 0; i < PINS_QUEUES; i++) {
        max = MAX(max, worker_of[i]);
    }
    return max;
}

char *pins_with(const char *pins, unsigned queue, int worker)
{
    int16_t worker_of[PINS_QUEUES];
    char *text = malloc(PINS_QUEUES * sizeof("127:63+"));
    size_t at = 0;

    read_pins(pins, worker_of);
    worker_of[queue] = (int16_t)worker;
    for (unsigned i = 0; text && i < PINS_QUEUES; i++) {
        if (worker_of[i] >= 0) {
            at += (size_t)sprintf(text + at, "%s%u:%d", at ? "+" : "", i, worker_of[i]);
        }
    }
    if (text && !at) {
        strcpy(text, PINS_NONE);
    }
    return text;
}
