/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libringway-client.  Theory of operation
 *
 *     application                     shared memory                    switch
 *     rwc_send(): the one copy  ==> transmit slots, ring  ==>  its receive, its copy
 *     rwc_recv(): a loan        <== receive slots, ring   <==  its copy
 *
 * The front-end of the protocol is vhost/vu_frontend.c, the buffers are vhost/vu_slots.h, the rings
 * ring/ring_drv.h: what ports of kind vhost-user-frontend use, too.  Here is what a program needs
 * beside them, and nothing that knows of this switch.
 */
#include "ringway-client.h"

#include <stdio.h>
#include <stdlib.h>

#include "vhost/vu_slots.h"
#include "vnet/features.h"

#define API          __attribute__((visibility("default")))
#define RING_DEFAULT 256
#define MOST_BUFS    (RWC_BURST + VU_SLOTS_MERGE_MAX)

static_assert(RWC_FRAME_MAX == VU_SLOT_FRAME && RWC_BURST == VU_SLOTS_BURST, "vhost/vu_slots.h");
static_assert((int)RWC_NEEDS_CSUM == VNET_F_NEEDS_CSUM && (int)RWC_DATA_VALID == VNET_F_DATA_VALID &&
                  (int)RWC_GSO_TCPV4 == VNET_GSO_TCPV4 && (int)RWC_GSO_TCPV6 == VNET_GSO_TCPV6 &&
                  (int)RWC_GSO_UDP_L4 == VNET_GSO_UDP_L4 && (int)RWC_GSO_ECN == VNET_GSO_ECN,
              "virtio 1.4, 5.1.6");

#define PLAIN_FEATURES                                                                             \
    (VIRTIO_BIT(F_VERSION_1) | VIRTIO_BIT(NET_F_MRG_RXBUF) | VIRTIO_BIT(F_EVENT_IDX))
#define OFFLOAD_FEATURES                                                                           \
    (VIRTIO_BIT(NET_F_CSUM) | VIRTIO_BIT(NET_F_HOST_TSO4) | VIRTIO_BIT(NET_F_HOST_TSO6) |          \
     VIRTIO_BIT(NET_F_HOST_ECN) | VIRTIO_BIT(NET_F_HOST_USO) | VIRTIO_BIT(NET_F_GUEST_CSUM) |      \
     VIRTIO_BIT(NET_F_GUEST_TSO4) | VIRTIO_BIT(NET_F_GUEST_TSO6) | VIRTIO_BIT(NET_F_GUEST_ECN) |   \
     VIRTIO_BIT(NET_F_GUEST_USO4) | VIRTIO_BIT(NET_F_GUEST_USO6))

struct queue {
    struct vu_slots s;
    /* the thread that receives */
    struct ring_drv_used used[MOST_BUFS];
    struct iovec iov[MOST_BUFS];
    uint32_t n_lent;
    uint64_t received, dropped;
    /* the thread that sends */
    uint64_t sent CACHE_ALIGNED;
};

/* What a frame may leave to be done. */
enum { MAY_CSUM = 1, MAY_TSO4 = 2, MAY_TSO6 = 4, MAY_USO = 8, MAY_ECN = 16, NOBODY_MAY = 32 };

struct rwc {
    struct vu_fe *fe;
    struct queue *queue; /* [n_queues] */
    unsigned n_queues, ring_size;
    bool up;
    enum ring_layout layout;
    unsigned we_may, it_may; /* of MAY_* */
    uint64_t features, connects;
};

/* ---- open, connect, close ------------------------------------------------------------------------ */

static int answer(int rc, const struct err *e, char *why, size_t size)
{
    if (rc && size) {
        snprintf(why, size, "%s", e->text);
    }
    return rc;
}

static int check_conf(const struct rwc_conf *c, struct err *e)
{
    unsigned n = c->ring_size ? c->ring_size : RING_DEFAULT;

    if (!c->path || !*c->path) {
        return err_set(e, -EINVAL, "no path of a socket was given");
    }
    if (c->queues > RWC_QUEUES) {
        return err_set(e, -EINVAL, "%u queue pairs wanted; 1 to %d are possible", c->queues, RWC_QUEUES);
    }
    if (n < 64 || n > 4096 || (n & (n - 1))) {
        return err_set(e, -EINVAL, "a ring of %u entries: it has to be a power of two, 64 to 4096", n);
    }
    return c->flags & ~(unsigned)(RWC_LISTEN | RWC_PACKED | RWC_OFFLOADS)
               ? err_set(e, -EINVAL, "flags 0x%x are not known", c->flags)
               : 0;
}

static int make_queues(struct rwc *nic, struct err *e)
{
    nic->queue = aligned_alloc(CACHE_LINE, nic->n_queues * sizeof(*nic->queue));
    if (!nic->queue) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    memset(nic->queue, 0, nic->n_queues * sizeof(*nic->queue));
    for (unsigned i = 0; i < nic->n_queues; i++) {
        if (vu_slots_init(&nic->queue[i].s, nic->fe, i, nic->ring_size)) {
            return err_set(e, -ENOMEM, "out of memory");
        }
    }
    return 0;
}

static int open_nic(struct rwc *nic, const struct rwc_conf *c, struct err *e)
{
    const uint64_t must = VIRTIO_BIT(F_VERSION_1) |
                          (nic->n_queues > 1 ? VIRTIO_BIT(NET_F_MQ) : 0) |
                          (c->flags & RWC_PACKED ? VIRTIO_BIT(F_RING_PACKED) : 0);
    const struct vu_fe_conf conf = {
        .path = c->path,
        .server = c->flags & RWC_LISTEN,
        .once = true,
        .sparse = true, /* most large slots are never used */
        .features = PLAIN_FEATURES | must | (c->flags & RWC_OFFLOADS ? OFFLOAD_FEATURES : 0),
        .features_required = must,
        .n_rings = 2 * nic->n_queues,
        .num = nic->ring_size,
        .buf_bytes = nic->n_queues * vu_slots_bytes(nic->ring_size),
        .timeout_ms = c->timeout_ms,
    };
    int rc = vu_fe_create(&nic->fe, &conf, e);

    return rc ? rc : make_queues(nic, e);
}

API int rwc_open(struct rwc **out, const struct rwc_conf *c, char *why, size_t size)
{
    struct rwc *nic = calloc(1, sizeof(*nic));
    struct err e = {0};
    int rc = nic ? check_conf(c, &e) : err_set(&e, -ENOMEM, "out of memory");

    if (!rc) {
        nic->n_queues = c->queues ? c->queues : 1;
        nic->ring_size = c->ring_size ? c->ring_size : RING_DEFAULT;
        rc = open_nic(nic, c, &e);
    }
    if (rc) {
        rwc_close(nic);
        return answer(rc, &e, why, size);
    }
    *out = nic;
    return 0;
}

API void rwc_close(struct rwc *nic)
{
    struct err e;

    if (!nic) {
        return;
    }
    if (nic->up) {
        vu_fe_hurry(nic->fe, 250);
        vu_fe_stop(nic->fe, &e); /* if it is still there */
    }
    for (unsigned i = 0; nic->queue && i < nic->n_queues; i++) {
        vu_slots_fini(&nic->queue[i].s);
    }
    vu_fe_destroy(nic->fe);
    free(nic->queue);
    free(nic);
}

static unsigned may(uint64_t features, unsigned csum, unsigned tso4, unsigned tso6, unsigned ecn,
                    uint64_t uso)
{
    return (features >> csum & 1 ? MAY_CSUM : 0) | (features >> tso4 & 1 ? MAY_TSO4 : 0) |
           (features >> tso6 & 1 ? MAY_TSO6 : 0) | (features >> ecn & 1 ? MAY_ECN : 0) |
           (features & uso ? MAY_USO : 0);
}

static void note_features(struct rwc *nic, uint64_t f)
{
    nic->features = f;
    nic->layout = f & VIRTIO_BIT(F_RING_PACKED) ? RING_PACKED : RING_SPLIT;
    nic->we_may = may(f, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
                      VIRTIO_NET_F_HOST_ECN, VIRTIO_BIT(NET_F_HOST_USO));
    nic->it_may = may(f, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
                      VIRTIO_NET_F_GUEST_ECN,
                      VIRTIO_BIT(NET_F_GUEST_USO4) | VIRTIO_BIT(NET_F_GUEST_USO6));
}

API int rwc_connect(struct rwc *nic, char *why, size_t size)
{
    struct err e = {0};

    nic->up = false;
    int rc = vu_slots_connect(nic->fe, &e);
    if (!rc) {
        note_features(nic, vu_fe_features(nic->fe));
        for (unsigned i = 0; i < nic->n_queues; i++) {
            nic->queue[i].n_lent = 0;
            vu_slots_fill(&nic->queue[i].s, nic->fe, i);
        }
        rc = vu_fe_start(nic->fe, true, &e);
    }
    if (rc) {
        vu_fe_close(nic->fe);
        return answer(rc, &e, why, size);
    }
    nic->up = true;
    nic->connects++;
    return 0;
}

API bool rwc_connected(struct rwc *nic)
{
    for (unsigned i = 0; nic->up && i < nic->n_queues; i++) {
        const struct vu_slots *s = &nic->queue[i].s;

        if (read_once(&s->rx->drv.broken) || read_once(&s->tx->drv.broken)) {
            return false;
        }
    }
    return nic->up && vu_fe_connected(nic->fe);
}

API int rwc_link_fd(const struct rwc *nic)
{
    return vu_fe_fd(nic->fe);
}

API void rwc_get_info(const struct rwc *nic, struct rwc_info *info)
{
    *info = (struct rwc_info){.features = nic->features,
                              .queues = nic->n_queues,
                              .ring_size = nic->ring_size,
                              .packed = nic->layout == RING_PACKED,
                              .connects = nic->connects};
    for (unsigned i = 0; i < nic->n_queues; i++) {
        const struct queue *q = &nic->queue[i];

        info->received += read_once(&q->received);
        info->dropped += read_once(&q->dropped);
        info->sent += read_once(&q->sent);
    }
}

/* ---- receive ------------------------------------------------------------------------------------- */

static unsigned none(int code)
{
    errno = code;
    return 0;
}

static unsigned asks(const struct vnet_hdr *h)
{
    static const uint8_t kind[] = {[VNET_GSO_NONE] = 0,
                                   [VNET_GSO_TCPV4] = MAY_TSO4,
                                   [VNET_GSO_TCPV6] = MAY_TSO6,
                                   [VNET_GSO_UDP_L4] = MAY_USO};
    const unsigned gso = h->gso_type & ~VNET_GSO_ECN;

    if (gso >= ARRAY_SIZE(kind) || (gso != VNET_GSO_NONE && !kind[gso])) {
        return NOBODY_MAY;
    }
    return (h->flags & VNET_F_NEEDS_CSUM ? MAY_CSUM : 0) | kind[gso] |
           (h->gso_type & VNET_GSO_ECN ? MAY_ECN : 0);
}

/* Is what the header leaves to be done within the frame? */
static bool within(const struct vnet_hdr *h, uint32_t len)
{
    if ((h->flags & VNET_F_NEEDS_CSUM) && (uint32_t)h->csum_start + h->csum_offset + 2 > len) {
        return false;
    }
    return !h->gso_type || ((h->flags & VNET_F_NEEDS_CSUM) && h->gso_size && h->hdr_len < len);
}

/* The frame in used[0 .. n), whose header is h. False: it lies. */
static bool take_frame(struct iovec *iov, const struct ring_drv_used *used, uint32_t n, unsigned may,
                       const struct vnet_hdr *h, struct rwc_frame *f)
{
    uint64_t len = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t skip = i ? 0 : VNET_HDR_LEN;

        if (used[i].len < skip) {
            return false;
        }
        iov[i] = (struct iovec){(uint8_t *)used[i].token + skip, used[i].len - skip};
        len += iov[i].iov_len;
    }
    if (len < RWC_FRAME_MIN || len > RWC_FRAME_MAX || (asks(h) & ~may) ||
        !within(h, (uint32_t)len)) {
        return false;
    }
    *f = (struct rwc_frame){.iov = iov,
                            .n_iov = n,
                            .len = (uint32_t)len,
                            .flags = h->flags & (VNET_F_NEEDS_CSUM | VNET_F_DATA_VALID),
                            .gso = h->gso_type,
                            .hdr_len = h->hdr_len,
                            .gso_size = h->gso_size,
                            .csum_start = h->csum_start,
                            .csum_offset = h->csum_offset};
    return true;
}

static ALWAYS_INLINE unsigned receive(const enum ring_layout l, struct queue *q, unsigned may,
                                      struct rwc_frame *f, unsigned n)
{
    uint32_t have = ring_drv_reap(l, &q->s.rx->drv, q->used, n), at = 0;
    unsigned good = 0, bad = 0;

    while (at < have) {
        struct ring_drv_used *used = &q->used[at];
        uint32_t left = have - at;
        struct vnet_hdr h;

        memcpy(&h, used->token, sizeof(h));
        __asm__ volatile("" ::: "memory"); /* read once */
        uint32_t k = vu_slots_frame(l, &q->s, (uint8_t *)&h, VNET_HDR_LEN, used, &left);
        have = at + left;
        if (likely(k && take_frame(&q->iov[at], used, k, may, &h, &f[good]))) {
            good++;
        } else {
            bad++;
        }
        at = k ? at + k : have; /* where the next one begins is not known then */
    }
    q->n_lent = have;
    write_once(&q->received, q->received + good);
    write_once(&q->dropped, q->dropped + bad);
    return good;
}

static ALWAYS_INLINE void give_back(const enum ring_layout l, struct queue *q)
{
    for (uint32_t i = 0; i < q->n_lent; i++) {
        ring_drv_repost(l, &q->s.rx->drv, q->used[i].id);
    }
    q->n_lent = 0;
    if (ring_drv_publish(l, &q->s.rx->drv)) {
        vu_fe_kick(q->s.rx);
    }
}

API void rwc_release(struct rwc *nic, unsigned queue)
{
    struct queue *q = &nic->queue[queue];

    if (!nic->up || !q->n_lent) {
        return;
    }
    if (nic->layout == RING_SPLIT) {
        give_back(RING_SPLIT, q);
    } else {
        give_back(RING_PACKED, q);
    }
}

API unsigned rwc_recv(struct rwc *nic, unsigned queue, struct rwc_frame *frame, unsigned n)
{
    struct queue *q = &nic->queue[queue];

    if (!nic->up) {
        return none(ENOTCONN);
    }
    rwc_release(nic, queue);
    n = MIN(n, (unsigned)RWC_BURST);
    n = nic->layout == RING_SPLIT ? receive(RING_SPLIT, q, nic->it_may, frame, n)
                                  : receive(RING_PACKED, q, nic->it_may, frame, n);
    return n ? n : none(q->s.rx->drv.broken ? EPROTO : EAGAIN);
}

API int rwc_fd(const struct rwc *nic, unsigned queue)
{
    return nic->queue[queue].s.rx->call_fd;
}

API bool rwc_arm(struct rwc *nic, unsigned queue)
{
    struct ring_drv *d = &nic->queue[queue].s.rx->drv;

    return nic->up && !d->broken && !ring_drv_arm(d->layout, d);
}

API void rwc_disarm(struct rwc *nic, unsigned queue)
{
    struct vu_fe_ring *r = nic->queue[queue].s.rx;

    ring_drv_disarm(r->drv.layout, &r->drv);
    vu_fe_take_call(r);
}

/* ---- send ---------------------------------------------------------------------------------------- */

/* 0, or why the frame is not taken; its length. */
static int look_at(const struct rwc *nic, const struct rwc_frame *f, struct vnet_hdr *h, uint32_t *len)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < f->n_iov; i++) {
        sum += MIN(f->iov[i].iov_len, (size_t)RWC_FRAME_MAX + 1);
    }
    if (unlikely(sum < RWC_FRAME_MIN || sum > RWC_FRAME_MAX)) {
        return EMSGSIZE;
    }
    *len = (uint32_t)sum;
    *h = (struct vnet_hdr){.flags = f->flags & RWC_NEEDS_CSUM};
    if (likely(!h->flags && !f->gso)) {
        return 0;
    }
    h->gso_type = f->gso;
    if (asks(h) & ~nic->we_may) {
        return EOPNOTSUPP;
    }
    h->hdr_len = f->hdr_len;
    h->gso_size = f->gso_size;
    h->csum_start = f->csum_start;
    h->csum_offset = f->csum_offset;
    return within(h, *len) ? 0 : EINVAL;
}

static ALWAYS_INLINE unsigned transmit(const enum ring_layout l, struct rwc *nic, struct queue *q,
                                       const struct rwc_frame *f, unsigned n)
{
    unsigned i;

    vu_slots_reclaim(l, &q->s);
    for (i = 0; i < n; i++) {
        struct vnet_hdr h;
        uint32_t len;
        int why = look_at(nic, &f[i], &h, &len);
        uint8_t *d = why ? NULL : vu_slots_take(l, &q->s, VNET_HDR_LEN + len);

        if (unlikely(!d)) {
            errno = why ? why : q->s.tx->drv.broken ? EPROTO : EAGAIN;
            break;
        }
        memcpy(d, &h, VNET_HDR_LEN);
        d += VNET_HDR_LEN;
        for (unsigned k = 0; k < f[i].n_iov; k++) {
            memcpy(d, f[i].iov[k].iov_base, f[i].iov[k].iov_len);
            d += f[i].iov[k].iov_len;
        }
    }
    if (ring_drv_publish(l, &q->s.tx->drv)) {
        vu_fe_kick(q->s.tx);
    }
    write_once(&q->sent, q->sent + i);
    return i;
}

API unsigned rwc_send(struct rwc *nic, unsigned queue, const struct rwc_frame *frame, unsigned n)
{
    struct queue *q = &nic->queue[queue];

    if (!nic->up) {
        return none(ENOTCONN);
    }
    return nic->layout == RING_SPLIT ? transmit(RING_SPLIT, nic, q, frame, n)
                                     : transmit(RING_PACKED, nic, q, frame, n);
}
