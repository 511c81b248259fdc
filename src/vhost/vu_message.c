/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each message means.  A handler sees a message whose form is right (vu_codec.c) and returns
 *
 *   0              done
 *   NOT_DONE       not done, e says why; the connection can go on without it
 *   negative       refused, e says why; if the front-end did not ask for an answer, it now believes
 *                  something that is not so, and the connection ends
 *
 * Handlers that have a reply of their own send it themselves; everything else is answered in one
 * place, vu_dev_message(), so that nothing is answered twice.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "vhost/vu_dev.h"
#include "vnet/features.h"

#define NOT_DONE 1

#define PROTOCOL_FEATURES_OFFERED                                                                  \
    (VU_PROTOCOL_BIT(MQ) | VU_PROTOCOL_BIT(LOG_SHMFD) | VU_PROTOCOL_BIT(RARP) |                    \
     VU_PROTOCOL_BIT(REPLY_ACK) |                                                                  \
     VU_PROTOCOL_BIT(NET_MTU) | VU_PROTOCOL_BIT(RESET_DEVICE) |                                    \
     VU_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS) | VU_PROTOCOL_BIT(STATUS) |                  \
     VU_PROTOCOL_BIT(INFLIGHT_SHMFD))

uint64_t vu_dev_protocol_offered(const struct vu_dev *d)
{
    return PROTOCOL_FEATURES_OFFERED |
           (d->conf.config ? VU_PROTOCOL_BIT(CONFIG) | VU_PROTOCOL_BIT(BACKEND_REQ) : 0);
}

#define STATUS_FEATURES_OK 8u
#define NAMES_MAX          320 /* of features in an error, whose text is not much longer */
#define MTU_MIN            68u
#define MTU_MAX            65535u

static int reply_u64(struct vu_dev *d, const struct vu_msg *m, uint64_t v)
{
    return vu_conn_reply(d->conn, m->h.request, &v, sizeof(v));
}

static int reply_failed(int rc, struct err *e)
{
    return err_set(e, rc, "cannot send a reply: %s", strerror(-rc));
}

/* --- features ------------------------------------------------------------------------------- */

static int on_GET_FEATURES(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    return reply_u64(d, m, d->conf.features);
}

static int on_SET_FEATURES(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    uint64_t f = m->p.u64, bad = f & ~d->conf.features;
    char names[NAMES_MAX];

    d->features_bad = bad != 0;
    if (bad) {
        return err_set(e, -EINVAL,
                       "SET_FEATURES sets what this port does not offer: %s; if it did before, give "
                       "it the options of then (offload=, queues=, config=)",
                       feature_names(names, sizeof(names), bad, virtio_feature_name));
    }
    if ((f ^ d->features) & ~VIRTIO_BIT(F_LOG_ALL) && vu_ring_any_running(d)) {
        d->features_bad = true;
        return err_set(e, -EBUSY, "SET_FEATURES changes, while rings run: %s",
                       feature_names(names, sizeof(names), f ^ d->features, virtio_feature_name));
    }
    bool log_changed = (f ^ d->features) & VIRTIO_BIT(F_LOG_ALL);
    if (!vu_ring_any_running(d)) {
        vu_log_expire(d);
    }
    d->features = f;
    d->features_set = true;
    vu_inflight_features(d);
    if (log_changed) {
        vu_log_changed(d);
    }
    vu_ring_try_all(d);
    return 0;
}

static int on_GET_PROTOCOL_FEATURES(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    return reply_u64(d, m, vu_dev_protocol_offered(d));
}

static int on_SET_PROTOCOL_FEATURES(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    uint64_t bad = m->p.u64 & ~vu_dev_protocol_offered(d);
    char names[NAMES_MAX];

    if (bad) {
        return err_set(e, -EINVAL, "SET_PROTOCOL_FEATURES sets what this port does not offer: %s",
                       feature_names(names, sizeof(names), bad, vu_protocol_feature_name));
    }
    d->protocol_features = m->p.u64;
    return 0;
}

static int on_GET_QUEUE_NUM(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    /* QEMU compares it with queue pairs, cloud-hypervisor with rings: so it is rings. */
    return reply_u64(d, m, d->conf.max_rings);
}

static int on_SET_OWNER(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    return 0; /* whoever connected is the owner */
}

/* Deprecated; front-ends that still send it do not agree on what it does. Rings are stopped by
 * GET_VRING_BASE. */
static int on_RESET_OWNER(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    return 0;
}

/* --- memory --------------------------------------------------------------------------------- */

static struct gmem_region_desc region_desc(const struct vu_region *r, struct vu_msg *m, uint32_t i)
{
    struct gmem_region_desc g = {
        .gpa = r->gpa, .size = r->size, .uva = r->uva, .fd_offset = r->mmap_offset, .fd = m->fd[i]};
    m->fd[i] = -1; /* gmem closes it */
    return g;
}

static int on_SET_MEM_TABLE(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    struct gmem_region_desc g[VU_TABLE_MAX_REGIONS];
    struct gmem *mem, *old = d->mem;
    uint32_t n = m->p.table.n;

    if (!n || m->n_fds != n) {
        return err_set(
            e, -EINVAL,
            "SET_MEM_TABLE has %u regions and %u file descriptors, so the guest's memory "
            "is not shared; " VU_SHARE_REMEDY,
            n, m->n_fds);
    }
    for (uint32_t i = 0; i < n; i++) {
        g[i] = region_desc(&m->p.table.region[i], m, i);
    }
    int rc = gmem_create(&mem, g, n, d->conf.fs, m->desc->name, &d->owner, e);
    if (rc) {
        return rc; /* the old table stays whole */
    }
    vu_ring_stop_all(d); /* no worker holds the old table after this */
    d->mem = mem;
    gmem_free(old);
    vu_ring_try_all(d);
    return 0;
}

/* Running rings go on with another table in which nothing they use has moved. */
static void swap_mem(struct vu_dev *d, struct gmem *mem)
{
    struct gmem *old = d->mem;

    d->mem = mem;
    if (vu_ring_any_running(d)) {
        d->ops->mem_swap(d->ctx, mem);
    }
    gmem_free(old);
}

static int on_GET_MAX_MEM_SLOTS(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    return reply_u64(d, m, GMEM_MAX_REGIONS);
}

static int on_ADD_MEM_REG(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    struct gmem_region_desc g;
    struct gmem *mem;

    if (m->n_fds != 1) {
        return err_set(e, -EINVAL,
                       "ADD_MEM_REG came without a file descriptor, so the guest's memory is not "
                       "shared; " VU_SHARE_REMEDY);
    }
    g = region_desc(&m->p.one.region, m, 0);
    int rc = gmem_add(&mem, d->mem, &g, d->conf.fs, m->desc->name, &d->owner, e);
    if (rc) {
        return rc;
    }
    swap_mem(d, mem);
    vu_ring_try_all(d);
    return 0;
}

static int on_REM_MEM_REG(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    const struct vu_region *r = &m->p.one.region;
    struct gmem *mem;
    int rc = gmem_del(&mem, d->mem, r->gpa, r->uva, r->size, e);

    if (rc) {
        return err_prefix(e, "REM_MEM_REG");
    }
    bool gone = mem->n < d->mem->n;
    int ring = gone ? vu_ring_in_region(d, r->uva, r->size) : -1;
    if (ring >= 0) {
        gmem_free(mem);
        return err_set(e, -EBUSY,
                       "REM_MEM_REG would remove the region at 0x%llx, in which ring %d runs",
                       (unsigned long long)r->gpa, ring);
    }
    swap_mem(d, mem);
    return 0;
}

/* --- dirty log ------------------------------------------------------------------------------ */

/*
 * The old log is never written again once this is answered. It may come while rings run, and often:
 * a front-end may give us a new one whenever it wants to read the last.
 */
static int on_SET_LOG_BASE(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    struct gmem_region_desc g = {
        .size = m->p.log.size, .fd_offset = m->p.log.offset, .fd = m->n_fds ? m->fd[0] : -1};
    struct gmem *log, *old = d->log;

    if (!m->n_fds || !(d->protocol_features & VU_PROTOCOL_BIT(LOG_SHMFD))) {
        return err_set(e, -EINVAL, "SET_LOG_BASE came %s",
                       m->n_fds ? "although VHOST_USER_PROTOCOL_F_LOG_SHMFD was not negotiated"
                                : "without a file descriptor");
    }
    m->fd[0] = -1; /* gmem closes it */
    int rc = gmem_create(&log, &g, 1, d->conf.fs, m->desc->name, &d->owner, e);
    if (rc) {
        return rc;
    }
    d->log = log;
    d->log_used = false;
    vu_log_changed(d);
    gmem_free(old);
    vu_ring_try_all(d);
    rc = vu_conn_reply(d->conn, m->h.request, &m->p.log, sizeof(m->p.log));
    return rc ? reply_failed(rc, e) : 0;
}

/* An eventfd for "the log has news". Nobody waits for one: the log is read when it is wanted. */
static int on_SET_LOG_FD(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    return 0;
}

/* --- rings ---------------------------------------------------------------------------------- */

/* The ring of this message, stopped for a change if it runs. */
static struct vu_ring *ring_to_change(struct vu_dev *d, const struct vu_msg *m, struct err *e)
{
    unsigned idx = (unsigned)vu_msg_ring(m);
    struct vu_ring *r = vu_ring_get(d, idx);

    if (r) {
        vu_ring_touch(d, idx);
    } else {
        err_set(e, -ENOMEM, "out of memory");
    }
    return r;
}

static int try_ring(struct vu_dev *d, const struct vu_msg *m, struct err *e)
{
    return vu_ring_try(d, (unsigned)vu_msg_ring(m), e) ? NOT_DONE : 0;
}

static int on_SET_VRING_NUM(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    struct vu_ring *r = ring_to_change(d, m, e);

    if (!r) {
        return -ENOMEM;
    }
    r->num = m->p.state.num;
    r->have_num = true;
    return try_ring(d, m, e);
}

static bool same_place(const struct vu_ring_addr *a, const struct vu_ring_addr *b)
{
    return a->desc == b->desc && a->used == b->used && a->avail == b->avail;
}

static int on_SET_VRING_ADDR(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    if (m->p.addr.flags & ~VU_RING_ADDR_F_LOG) {
        return err_set(e, -EINVAL, "SET_VRING_ADDR of ring %u has unknown flags 0x%x",
                       m->p.addr.idx, m->p.addr.flags);
    }
    struct vu_ring *r = d->ring[m->p.addr.idx];
    if (r && r->running && same_place(&r->addr, &m->p.addr)) {
        bool log_changed = r->addr.flags != m->p.addr.flags || r->addr.log != m->p.addr.log;

        r->addr = m->p.addr; /* it goes on where it is */
        if (log_changed) {
            vu_log_changed(d);
        }
        return 0;
    }
    r = ring_to_change(d, m, e);
    if (!r) {
        return -ENOMEM;
    }
    r->addr = m->p.addr;
    r->have_addr = true;
    return try_ring(d, m, e);
}

static int on_SET_VRING_BASE(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    if (m->p.state.num > UINT16_MAX && d->features_set && !vu_dev_packed(d)) {
        return err_set(e, -EINVAL, "SET_VRING_BASE of ring %u says %u, but the index has 16 bits",
                       m->p.state.idx, m->p.state.num);
    }
    struct vu_ring *r = ring_to_change(d, m, e);
    if (!r) {
        return -ENOMEM;
    }
    r->base = r->said = m->p.state.num;
    r->have_base = true;
    return try_ring(d, m, e);
}

static int on_GET_VRING_BASE(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    struct vu_ring_state s = {.idx = m->p.state.idx};

    if (d->ring[s.idx]) {
        vu_ring_reset(d, s.idx);
        vu_inflight_over(d, s.idx);
        s.num = d->ring[s.idx]->said = d->ring[s.idx]->base;
    }
    return vu_conn_reply(d->conn, m->h.request, &s, sizeof(s));
}

static int on_SET_VRING_ENABLE(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    struct vu_ring *r = vu_ring_get(d, m->p.state.idx);

    if (!r) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    r->enable = m->p.state.num;
    if (!vu_ring_enabled(d, r)) {
        vu_ring_stop(d, m->p.state.idx);
    }
    return try_ring(d, m, e);
}

/* Take the eventfd that came along; *fd = -1 if the message says that there is none. */
static int take_eventfd(struct vu_msg *m, int *fd, struct err *e)
{
    *fd = -1;
    if (m->n_fds) {
        if (!fd_is_eventfd(m->fd[0])) {
            return err_set(e, -EINVAL, "%s of ring %d brings a file descriptor that is no eventfd",
                           m->desc->name, vu_msg_ring(m));
        }
        *fd = m->fd[0];
        m->fd[0] = -1;
    }
    return 0;
}

static void replace_fd(int *slot, int fd)
{
    if (*slot >= 0) {
        close(*slot);
    }
    *slot = fd;
}

static int on_SET_VRING_KICK(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    int fd, rc = take_eventfd(m, &fd, e);
    struct vu_ring *r = rc ? NULL : ring_to_change(d, m, e);

    if (!r) {
        replace_fd(&fd, -1);
        return rc ? rc : -ENOMEM;
    }
    replace_fd(&r->kick_fd, fd);
    r->have_kick = true;
    return try_ring(d, m, e);
}

static int on_SET_VRING_CALL(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    unsigned idx = (unsigned)vu_msg_ring(m);
    int fd, rc = take_eventfd(m, &fd, e);
    struct vu_ring *r = rc ? NULL : vu_ring_get(d, idx);

    if (!r) {
        replace_fd(&fd, -1);
        return rc ? rc : err_set(e, -ENOMEM, "out of memory");
    }
    if (r->running) {
        d->ops->ring_call(d->ctx, idx, fd); /* barrier: the old one may be closed now */
    }
    replace_fd(&r->call_fd, fd);
    return 0;
}

static int on_SET_VRING_ERR(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    int fd, rc = take_eventfd(m, &fd, e);
    struct vu_ring *r = rc ? NULL : vu_ring_get(d, (unsigned)vu_msg_ring(m));

    if (!r) {
        replace_fd(&fd, -1);
        return rc ? rc : err_set(e, -ENOMEM, "out of memory");
    }
    replace_fd(&r->err_fd, fd);
    return 0;
}

/* --- what outlives this process --------------------------------------------------------------- */

/* A refusal is an answer without memory. */
static int on_GET_INFLIGHT_FD(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    struct vu_inflight_msg out = m->p.inflight;
    int fd = vu_inflight_get(d, &out, e);

    if (fd < 0) {
        vu_dev_refused(d, e);
        out.mmap_size = out.mmap_offset = 0;
    }
    return vu_conn_reply_fd(d->conn, m->h.request, &out, m->h.size, MAX(fd, -1));
}

static int on_SET_INFLIGHT_FD(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    int fd = m->n_fds ? m->fd[0] : -1;

    if (fd < 0 || !(d->protocol_features & VU_PROTOCOL_BIT(INFLIGHT_SHMFD))) {
        err_set(e, -EINVAL, "SET_INFLIGHT_FD %s",
                fd < 0 ? "came without a file descriptor" : "came, but was not negotiated");
        return NOT_DONE;
    }
    m->fd[0] = -1;
    vu_ring_stop_all(d); /* no worker writes into the old one after this */
    int rc = vu_inflight_set(d, &m->p.inflight, fd, e);
    vu_ring_try_all(d);
    return rc ? NOT_DONE : 0;
}

/* --- the device ----------------------------------------------------------------------------- */

static int on_SEND_RARP(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    const uint8_t *mac = m->p.bytes; /* the six bytes of the address in their order */

    if (mac[0] & 1 || !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5])) {
        err_set(e, -EINVAL, "SEND_RARP carries %02x:%02x:%02x:%02x:%02x:%02x, which is no station",
                mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
        return NOT_DONE;
    }
    d->ops->rarp(d->ctx, mac);
    return 0;
}

static int on_NET_SET_MTU(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    uint64_t mtu = m->p.u64;

    if (mtu < MTU_MIN || mtu > MTU_MAX || d->ops->mtu(d->ctx, (uint16_t)mtu)) {
        err_set(e, -EINVAL, "an MTU of %llu is not possible; use %u to %u (host_mtu)",
                (unsigned long long)mtu, MTU_MIN, MTU_MAX);
        return NOT_DONE;
    }
    d->mtu = (uint16_t)mtu;
    return 0;
}

static int on_SET_BACKEND_REQ_FD(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    int fd = m->n_fds ? m->fd[0] : -1;

    if (fd < 0 || !(d->protocol_features & VU_PROTOCOL_BIT(BACKEND_REQ))) {
        err_set(e, -EINVAL, "SET_BACKEND_REQ_FD %s",
                fd < 0 ? "came without a file descriptor" : "came, but was not negotiated");
        return NOT_DONE;
    }
    m->fd[0] = -1;
    return vu_config_channel(d, fd, e) ? NOT_DONE : 0;
}

/* No bytes in the answer are a refusal. */
static int on_GET_CONFIG(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    return vu_conn_reply(d->conn, m->h.request, &m->p.config, vu_config_read(d, &m->p.config));
}

static int on_SET_CONFIG(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    return vu_config_write(d, &m->p.config, e) ? NOT_DONE : 0;
}

/* 0 is a reset of the device as the driver sees it.  Ring state survives it: GET_VRING_BASE may
 * come after it and wants the live index. */
static int on_SET_STATUS(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    d->status = (uint8_t)m->p.u64;
    if (d->features_bad) {
        d->status &= (uint8_t)~STATUS_FEATURES_OK;
    }
    return 0;
}

static int on_GET_STATUS(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    return reply_u64(d, m, d->status);
}

/* Connection, memory and protocol features stay. */
static int on_RESET_DEVICE(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    for (unsigned i = 0; i < d->n_rings; i++) {
        if (d->ring[i]) {
            vu_ring_reset(d, i);
            vu_inflight_over(d, i);
            d->ring[i]->enable = false;
        }
    }
    d->features = 0;
    d->features_set = d->features_bad = false;
    d->status = 0;
    return 0;
}

/* --- one message ---------------------------------------------------------------------------- */

typedef int handler(struct vu_dev *d, struct vu_msg *m, struct err *e);

/* A spoken message without a handler does not compile. */
static handler *const handlers[VU_REQUEST_MAX] = {
#define HANDLER(number, name, ...) [number] = on_##name,
    VU_MESSAGES(HANDLER)
#undef HANDLER
};

static int acknowledge(struct vu_dev *d, const struct vu_msg *m, bool done, struct err *e)
{
    int rc = m->h.flags & VU_FLAG_NEED_REPLY ? reply_u64(d, m, !done) : 0;

    return rc ? reply_failed(rc, e) : 0;
}

int vu_dev_message(struct vu_dev *d, struct vu_msg *m, struct err *e)
{
    d->n_messages++;
    log_debug("%s: %s (%u), %u bytes, %u fds%s", d->name, m->desc->name, m->h.request, m->h.size,
              m->n_fds, m->h.flags & VU_FLAG_NEED_REPLY ? ", wants an answer" : "");
    if (!m->desc->spoken) {
        static struct log_limit limit;

        if (log_limit_ok(&limit, 10)) {
            log_info("%s: %s (%u) is not spoken here and was ignored", d->name, m->desc->name,
                     m->h.request);
        }
        return acknowledge(d, m, false, e);
    }
    int rc = handlers[m->h.request](d, m, e);
    if (m->desc->answer != VU_ANSWER_ACK && !(m->desc->answer == VU_ANSWER_LOG && rc)) {
        return rc ? reply_failed(rc, e) : 0;
    }
    if (rc < 0 && !(m->h.flags & VU_FLAG_NEED_REPLY)) {
        return rc;
    }
    if (rc) {
        vu_dev_refused(d, e);
    }
    return acknowledge(d, m, !rc, e);
}
