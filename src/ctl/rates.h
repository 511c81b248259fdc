/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rates: the counters of ports and workers sampled about once a second, and what they grew by.
 * Control thread only.
 */
#ifndef CTL_RATES_H
#define CTL_RATES_H

#include "dp/dp.h"

/* Per second, over the last full sampling interval. */
struct port_rates {
    double rx_frames, rx_bytes, tx_frames, tx_bytes;
    double drop[DROP_N];
};

struct worker_rates {
    double frames, sleeps, signals;
    double busy, idle, sleep; /* shares of the interval, 0 .. 1 */
};

struct rates;

struct rates *rates_create(void); /* NULL when out of memory */
void rates_destroy(struct rates *r);
void rates_sample(struct rates *r, const struct dp *dp);
/* Zeroes for a port or worker that has not been there for two samples. */
struct port_rates rates_port(const struct rates *r, const struct port *p);
struct worker_rates rates_worker(const struct rates *r, unsigned id);

#endif
