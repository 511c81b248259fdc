/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to src/vhost: the device behind vu_backend.h, shared by its parts.
 *
 *   vu_backend.c   its life: listen or dial, accept, what happens when a connection ends, show
 *   vu_message.c   what each message means
 *   vu_ring.c      when a ring runs, and with what
 *   vu_inflight.c  what of its rings outlives this process
 *   vu_config.c    the configuration space, for front-ends that leave it to us
 */
#ifndef VHOST_VU_DEV_H
#define VHOST_VU_DEV_H

#include "vhost/vu_backend.h"
#include "vhost/vu_codec.h"
#include "vhost/vu_conn.h"
#include "vhost/vu_inflight.h"
#include "vhost/vu_meet.h"
#include "vnet/features.h"

/*
 * One ring.  What the front-end said is kept apart from whether it can run:
 *
 *   state     when                                         fds                   mem
 *   waiting   !running, !failed: something is missing      whatever came so far  may be absent
 *   running   between ops->ring_start and ops->ring_stop   kick (or polled)      d->mem
 *   failed    complete, but cannot run as described        as waiting            as waiting
 *   broken    the owner found it corrupt                   as waiting            as waiting
 *
 * failed is tried again when anything changes; broken only after the front-end set the ring up
 * anew.
 */
struct vu_ring {
    unsigned idx;
    bool have_num, have_addr, have_base, have_kick;
    bool enable; /* the last SET_VRING_ENABLE, remembered for rings in any state */
    bool running, failed, broken;
    bool watched;  /* vu_rings_watch() has not yet seen the guest use it */
    uint32_t said; /* the last base that the front-end gave or was given */
    uint32_t base; /* as in SET_VRING_BASE; running: where it started; else: where it goes on */
    uint32_t num;
    struct vu_ring_addr addr;
    int kick_fd, call_fd, err_fd; /* eventfds or -1 */
    char why[480];                /* of failed and broken */
};

struct vu_dev {
    /* for the life of the device */
    char *name, *state_path;
    struct vu_meet *meet;
    struct vu_conf conf; /* its strings point to our copies */
    const struct vu_ops *ops;
    void *ctx;
    struct event_base *evbase;
    bool down;     /* vu_dev_set_link(): nobody gets in */
    struct event *watch; /* see vu_rings_watch() */
    struct vnet_config config; /* MAC and MTU; the rest is filled in when asked */

    /* for show */
    char last_error[480];
    uint64_t n_messages, n_refused, n_connects;

    /* one connection; all zero without one */
    struct vu_conn *conn;
    int channel_fd; /* of SET_BACKEND_REQ_FD, -1: none */
    uint64_t protocol_features;
    uint64_t features;
    bool features_set, features_bad;
    bool told_rings;    /* that there are more rings than this port may have */
    bool told_unshared; /* that the guest's memory seems not to be shared */
    uint8_t status;
    uint16_t mtu;
    struct gmem *mem;
    struct gmem_owner owner; /* of mem and log, in the budgets of all ports */
    struct gmem *log; /* its one region is the dirty log, NULL: none */
    bool log_used;    /* a ring has run with this log */
    struct vu_inflight inflight;
    unsigned n_rings; /* highest index seen + 1 */
    struct vu_ring *ring[VU_MAX_RINGS];
};

/* What a front-end has to do so that we can see its guest's memory. */
#define VU_SHARE_REMEDY                                                                            \
    "give the guest shared memory: -object memory-backend-memfd,id=m,size=SIZE,share=on "          \
    "-machine memory-backend=m"

/* Have vu_rings_watch() called soon. */
void vu_dev_watch(struct vu_dev *d);
/* Remember a refusal for show, count it and log it (rate-limited). */
void vu_dev_refused(struct vu_dev *d, const struct err *e);

/*
 * vu_message.c: carry out one message and answer it.  Non-zero: the connection has to end and e
 * says why.
 */
int vu_dev_message(struct vu_dev *d, struct vu_msg *m, struct err *e);

/* vu_config.c. */
bool vu_config_taken(const struct vu_dev *d); /* by the front-end that is connected */
/* Fill in the part that c names; bytes of the answer, 0: refused. */
uint32_t vu_config_read(const struct vu_dev *d, struct vu_config *c);
int vu_config_write(const struct vu_dev *d, const struct vu_config *c, struct err *e);
/* Takes over fd, also on failure. */
int vu_config_channel(struct vu_dev *d, int fd, struct err *e);
void vu_config_changed(const struct vu_dev *d);

/* vu_ring.c. idx < VU_MAX_RINGS everywhere. */
struct vu_ring *vu_ring_get(struct vu_dev *d, unsigned idx); /* NULL: out of memory */
/* Are its rings packed? Meaningful once features are set. */
static inline bool vu_dev_packed(const struct vu_dev *d)
{
    return d->features & VIRTIO_BIT(F_RING_PACKED);
}
/* The protocol features that this port offers. */
uint64_t vu_dev_protocol_offered(const struct vu_dev *d);
bool vu_ring_enabled(const struct vu_dev *d, const struct vu_ring *r);
/* What it waits for, failed or broke on; NULL if it runs. */
const char *vu_ring_why(const struct vu_dev *d, const struct vu_ring *r);
/* Barrier, if it runs; afterwards r->base is the live index. */
void vu_ring_stop(struct vu_dev *d, unsigned idx);
/* Stop for a change of its setup; the front-end may have repaired it. */
void vu_ring_touch(struct vu_dev *d, unsigned idx);
/* Start it if it is complete. 0: runs or waits. Negative: complete, but it cannot run. */
int vu_ring_try(struct vu_dev *d, unsigned idx, struct err *e);
/* The same for all rings, after a message that was about none of them and has been carried out: a
 * ring that cannot run now is not its failure. */
void vu_ring_try_all(struct vu_dev *d);
void vu_ring_stop_all(struct vu_dev *d);
bool vu_ring_any_running(const struct vu_dev *d);
/* Barrier. The log is another one, or what is logged has changed: rings that must not run without a log
 * stop, the others go on and use it when this returns. */
void vu_log_changed(struct vu_dev *d);
/*
 * The device begins anew, no ring runs: forget a log that rings have run with.  The front-end reads it
 * no more, and may say where the next one is after it has started the rings; until then they would be
 * written without a log.
 */
void vu_log_expire(struct vu_dev *d);
/* Stop and forget its setup, except for enable, base and the err eventfd. */
void vu_ring_reset(struct vu_dev *d, unsigned idx);
/* Stop and forget everything about all rings. */
void vu_ring_free_all(struct vu_dev *d);
/*
 * Called WATCH_MS after a ring came up, and again while it returns true: tells the person if the
 * guest's memory is not shared, which no message says.
 */
bool vu_rings_watch(struct vu_dev *d);
/* A running ring that lives in [uva, uva + size), or -1. */
int vu_ring_in_region(const struct vu_dev *d, uint64_t uva, uint64_t size);

#endif
