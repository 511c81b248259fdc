/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a ring runs.
 *
 * Nothing is decided when a message about a ring arrives; it is only noted, and then vu_ring_try()
 * looks at the whole: features, memory, size, addresses, index, kick and enable.  So the messages
 * may come in any order, and memory before or after them.  A message that changes what a running
 * ring was started with stops it first (a barrier) and lets it be tried again with the live index.
 *
 * A complete ring starts at once.  It does not wait for its kick: the guest may be suppressing it,
 * or have sent it to the back-end before us.
 *
 * Where it starts.  ringway completes chains in order, so at rest the index of the next available
 * entry and the used index are one number.  The used index in guest memory is therefore the truth
 * whatever SET_VRING_BASE says: after a crash of ours the front-end may only know the guest's
 * available index, and starting there would lose the buffers in between.  A packed ring keeps no index
 * in guest memory: SET_VRING_BASE says where it starts, and of its two halves the used one counts, unless
 * a process before this one left where it was (vu_inflight.h).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "ring/vring.h"
#include "vhost/vu_dev.h"
#include "vnet/features.h"

struct vu_ring *vu_ring_get(struct vu_dev *d, unsigned idx)
{
    struct vu_ring *r = d->ring[idx];

    if (!r) {
        r = calloc(1, sizeof(*r));
        if (r) {
            r->kick_fd = r->call_fd = r->err_fd = -1;
            r->idx = idx;
            d->ring[idx] = r;
            d->n_rings = MAX(d->n_rings, idx + 1);
        }
    }
    return r;
}

bool vu_ring_enabled(const struct vu_dev *d, const struct vu_ring *r)
{
    return r->enable || (d->features_set && !(d->features & VIRTIO_BIT(F_PROTOCOL_FEATURES)));
}

/* Whatever were written now would be missing where the guest migrates to. */
static bool log_missing(const struct vu_dev *d)
{
    return d->features & VIRTIO_BIT(F_LOG_ALL) && !d->log;
}

static const char *missing(const struct vu_dev *d, const struct vu_ring *r)
{
    return d->down                  ? "the link is down"
           : !d->features_set       ? "waits for SET_FEATURES"
           : !r->have_num           ? "waits for SET_VRING_NUM"
           : !r->have_addr          ? "waits for SET_VRING_ADDR"
           : !r->have_base          ? "waits for SET_VRING_BASE"
           : !r->have_kick          ? "waits for SET_VRING_KICK"
           : !d->mem || !d->mem->n  ? "waits for the guest's memory; " VU_SHARE_REMEDY
           : !vu_ring_enabled(d, r) ? "waits for SET_VRING_ENABLE"
           : log_missing(d)         ? "waits for SET_LOG_BASE, since its writes have to be logged"
           /* Each ring costs the switch a turn: nobody gets more than what was negotiated. */
           : r->idx >= 2 && !(d->features & VIRTIO_BIT(NET_F_MQ))
               ? "not used: VIRTIO_NET_F_MQ was not negotiated"
           : r->idx >= d->conf.max_rings ? "not used: the port has fewer queues (queues=)"
                                         : NULL;
}

/* The guest may use queues that nobody will ever look at: GET_QUEUE_NUM could not prevent it. */
static void tell_too_many(struct vu_dev *d, const struct vu_ring *r)
{
    struct err e;

    if (r->idx >= d->conf.max_rings && vu_ring_enabled(d, r) && !d->told_rings) {
        d->told_rings = true;
        err_set(&e, -ENOSPC,
                "ring %u is not run: this port has %u queue pairs; give the front-end as many "
                "(QEMU: queues=%u), or add the port with queues=N",
                r->idx, d->conf.max_rings / 2, d->conf.max_rings / 2);
        vu_dev_refused(d, &e);
    }
}

const char *vu_ring_why(const struct vu_dev *d, const struct vu_ring *r)
{
    return r->running ? NULL : r->broken || r->failed ? r->why : missing(d, r);
}

static int translate(const struct vu_dev *d, unsigned idx, const char *part, uint64_t uva,
                     uint64_t bytes, unsigned align, void **out, struct err *e)
{
    *out = gmem_uva_range(d->mem, (uva_t){uva}, bytes);
    if (!*out) {
        return err_set(e, -EFAULT,
                       "ring %u: its %s (%llu bytes at 0x%llx) is not inside one of the %u memory "
                       "regions that the front-end shared; " VU_SHARE_REMEDY,
                       idx, part, (unsigned long long)bytes, (unsigned long long)uva, d->mem->n);
    }
    /* Both the address that the guest sees and ours: an odd offset of the region in its file makes
     * them differ, and an atomic access to a misaligned word is a fault on some machines. */
    if (uva % align || (uintptr_t)*out % align) {
        return err_set(e, -EINVAL, "ring %u: its %s at 0x%llx is not aligned to %u bytes%s", idx,
                       part, (unsigned long long)uva, align,
                       uva % align ? "" : " in the memory file");
    }
    return 0;
}

static bool overlap(const void *a, uint64_t an, const void *b, uint64_t bn)
{
    return (uintptr_t)a < (uintptr_t)b + bn && (uintptr_t)b < (uintptr_t)a + an;
}

/* The three parts of a ring, in each layout. */
static uint64_t event_bytes(uint32_t num)
{
    (void)num;
    return sizeof(struct vring_packed_event);
}

static const struct parts {
    const char *desc, *avail, *used;
    unsigned avail_align;
    uint64_t (*avail_bytes)(uint32_t num), (*used_bytes)(uint32_t num);
} parts[] = {
    {"descriptor table", "available ring", "used ring", 2, vring_avail_bytes, vring_used_bytes},
    {"descriptor ring", "driver event area", "device event area", 4, event_bytes, event_bytes},
};

/* The three parts as pointers of ours: aligned, whole, apart from each other. */
static int lay_out(const struct vu_dev *d, unsigned idx, struct vu_ring_conf *c, struct err *e)
{
    const struct vu_ring *r = d->ring[idx];
    const struct parts *p = &parts[vu_dev_packed(d)];
    uint64_t dn = vring_desc_bytes(r->num), an = p->avail_bytes(r->num), un = p->used_bytes(r->num);
    int rc;

    if (!vu_dev_packed(d) && (r->num & (r->num - 1))) {
        return err_set(e, -EINVAL, "ring %u: its size %u is not a power of two", idx, r->num);
    }
    rc = translate(d, idx, p->desc, r->addr.desc, dn, 16, &c->desc, e);
    rc = rc ? rc : translate(d, idx, p->avail, r->addr.avail, an, p->avail_align, &c->avail, e);
    rc = rc ? rc : translate(d, idx, p->used, r->addr.used, un, 4, &c->used, e);
    if (rc) {
        return rc;
    }
    if (overlap(c->desc, dn, c->avail, an) || overlap(c->desc, dn, c->used, un) ||
        overlap(c->avail, an, c->used, un)) {
        return err_set(e, -EINVAL, "ring %u: its %s, %s and %s overlap", idx, p->desc, p->avail,
                       p->used);
    }
    return 0;
}

/*
 * Packed: where to start.  A device that is stopped with buffers taken and not used has its used
 * position behind the other; those buffers are still available, which tells it from a front-end that
 * fills in one half only, and are done again.
 */
static int find_packed_start(const struct vu_dev *d, unsigned idx, struct vu_ring_conf *c,
                             struct err *e)
{
    const uint32_t base = d->ring[idx]->base, offset = VRING_PACKED_WRAP - 1;
    const struct vring_packed_desc *desc = c->desc;
    uint16_t avail = (uint16_t)base, used = (uint16_t)(base >> 16);
    uint32_t from = used & offset, to = avail & offset;
    bool same_lap = !((avail ^ used) & VRING_PACKED_WRAP);

    if (to >= c->num) {
        return err_set(e, -EINVAL,
                       "ring %u: SET_VRING_BASE 0x%x names descriptor %u, but the ring has %u", idx,
                       base, to, c->num);
    }
    c->base = avail;
    if (used != avail && from < c->num && (same_lap ? from <= to : from >= to)) {
        uint16_t flags = read_once(&desc[from].flags);
        bool waits = !(flags & VRING_PACKED_F_AVAIL) == !(used & VRING_PACKED_WRAP) &&
                     !(flags & VRING_PACKED_F_AVAIL) != !(flags & VRING_PACKED_F_USED);

        c->base = waits ? used : avail;
    }
    if (gmem_faulted(d->mem)) {
        return err_set(e, -EFAULT, "ring %u: its memory file was truncated", idx);
    }
    return 0;
}

/* The index to start at. Both guest words are read once. */
static int find_split_start(const struct vu_dev *d, unsigned idx, struct vu_ring_conf *c, struct err *e)
{
    static struct log_limit limit;
    uint16_t used = read_once(&((struct vring_used *)c->used)->idx);
    uint16_t avail = read_once(&((struct vring_avail *)c->avail)->idx);
    uint32_t base = d->ring[idx]->base;

    if (gmem_faulted(d->mem)) {
        return err_set(e, -EFAULT, "ring %u: its memory file was truncated", idx);
    }
    if ((uint16_t)(avail - used) > c->num) {
        return err_set(e, -EINVAL,
                       "ring %u: available index %u and used index %u in its memory are more than "
                       "its size %u apart",
                       idx, avail, used, c->num);
    }
    if (base > UINT16_MAX) {
        return err_set(e, -EINVAL, "ring %u: SET_VRING_BASE says %u, but the index has 16 bits", idx,
                       base);
    }
    if (used != base && log_limit_ok(&limit, 10)) {
        log_info("%s: ring %u starts at its used index %u, the front-end said %u (available: %u)",
                 d->name, idx, used, base, avail);
    }
    c->base = used;
    return 0;
}

/* In an in-order device both positions of a packed ring are one. */
static uint32_t wire_base(const struct vu_dev *d, uint16_t base)
{
    return vu_dev_packed(d) ? base | (uint32_t)base << 16 : base;
}

static uint64_t gpa_of(const struct vu_dev *d, uint64_t uva)
{
    gpa_t gpa = {UINT64_MAX}; /* beyond any log */

    gmem_uva_to_gpa(d->mem, (uva_t){uva}, &gpa);
    return gpa.v;
}

/*
 * What a ring logs.  The address for its own part need not be where the ring is: it may be one that no
 * region has.  The text has it stand for the used ring, which a packed ring does not have.  QEMU takes
 * the device event area instead, others the descriptor ring: what it does not stand for is logged where
 * it is.
 */
static struct ring_log ring_log(const struct vu_dev *d, const struct vu_ring *r)
{
    struct ring_log l = {.payload = d->features & VIRTIO_BIT(F_LOG_ALL),
                         .ring = r->addr.flags & VU_RING_ADDR_F_LOG,
                         .used = r->addr.log};

    if (vu_dev_packed(d)) {
        l.event = gpa_of(d, r->addr.used);
        l.used = r->addr.log == l.event ? gpa_of(d, r->addr.desc) : r->addr.log;
    }
    l.map = l.payload || l.ring ? d->log : NULL;
    return l;
}

void vu_log_changed(struct vu_dev *d)
{
    bool runs = false;

    if (log_missing(d)) {
        vu_ring_stop_all(d);
    }
    for (unsigned i = 0; i < d->n_rings; i++) {
        const struct vu_ring *r = d->ring[i];

        if (r && r->running) {
            struct ring_log l = ring_log(d, r);

            d->ops->ring_log(d->ctx, i, &l);
            d->log_used |= d->log != NULL;
            runs = true;
        }
    }
    if (runs) {
        d->ops->barrier(d->ctx);
    }
}

void vu_log_expire(struct vu_dev *d)
{
    if (d->log_used) {
        gmem_free(d->log);
        d->log = NULL;
        d->log_used = false;
    }
}

static int start(struct vu_dev *d, unsigned idx, struct err *e)
{
    struct vu_ring *r = d->ring[idx];
    struct vu_ring_conf c = {
        .num = r->num, .kick_fd = r->kick_fd, .call_fd = r->call_fd, .log = ring_log(d, r)};
    int rc = lay_out(d, idx, &c, e);

    rc = rc ? rc : vu_dev_packed(d) ? find_packed_start(d, idx, &c, e) : find_split_start(d, idx, &c, e);
    if (!rc) {
        vu_inflight_start(d, idx, &c);
    }
    rc = rc ? rc : d->ops->ring_start(d->ctx, idx, &c, d->features, d->mem, e);
    if (!rc) {
        r->running = true;
        d->log_used |= d->log != NULL;
        r->base = wire_base(d, c.base);
        log_debug("%s: ring %u runs, %u entries from index %u%s", d->name, idx, c.num, c.base,
                  c.kick_fd < 0 ? ", polled" : "");
    }
    return rc;
}

static void signal_err(struct vu_dev *d, const struct vu_ring *r)
{
    if (r->err_fd >= 0 && d->ops->signal) {
        d->ops->signal(d->ctx, r->err_fd);
    }
}

int vu_ring_try(struct vu_dev *d, unsigned idx, struct err *e)
{
    struct vu_ring *r = d->ring[idx];

    if (r->running || r->broken) {
        return 0;
    }
    r->failed = false;
    if (r->have_kick) {
        r->watched = true;
        vu_dev_watch(d);
    }
    if (missing(d, r)) {
        tell_too_many(d, r);
        return 0;
    }
    int rc = start(d, idx, e);
    if (rc) {
        r->failed = true;
        snprintf(r->why, sizeof(r->why), "%s", e->text);
        signal_err(d, r);
    }
    return rc;
}

void vu_ring_try_all(struct vu_dev *d)
{
    for (unsigned i = 0; i < d->n_rings; i++) {
        struct vu_ring *r = d->ring[i];
        struct err e;
        bool failed = r && r->failed;

        if (r && vu_ring_try(d, i, &e) && !failed) {
            vu_dev_refused(d, &e);
        }
    }
}

void vu_ring_stop(struct vu_dev *d, unsigned idx)
{
    struct vu_ring *r = d->ring[idx];

    if (r && r->running) {
        r->base = wire_base(d, d->ops->ring_stop(d->ctx, idx));
        r->running = false;
    }
}

void vu_ring_touch(struct vu_dev *d, unsigned idx)
{
    vu_ring_stop(d, idx);
    d->ring[idx]->broken = false;
}

void vu_ring_stop_all(struct vu_dev *d)
{
    for (unsigned i = 0; i < d->n_rings; i++) {
        vu_ring_stop(d, i);
    }
}

bool vu_ring_any_running(const struct vu_dev *d)
{
    for (unsigned i = 0; i < d->n_rings; i++) {
        if (d->ring[i] && d->ring[i]->running) {
            return true;
        }
    }
    return false;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

void vu_ring_reset(struct vu_dev *d, unsigned idx)
{
    struct vu_ring *r = d->ring[idx];

    vu_ring_stop(d, idx);
    close_fd(&r->kick_fd);
    close_fd(&r->call_fd);
    r->have_num = r->have_addr = r->have_base = r->have_kick = false;
    r->failed = r->broken = false;
}

void vu_ring_free_all(struct vu_dev *d)
{
    vu_ring_stop_all(d);
    for (unsigned i = 0; i < d->n_rings; i++) {
        struct vu_ring *r = d->ring[i];

        if (r) {
            vu_ring_reset(d, i);
            close_fd(&r->err_fd);
            free(r);
            d->ring[i] = NULL;
        }
    }
    d->n_rings = 0;
}

int vu_ring_in_region(const struct vu_dev *d, uint64_t uva, uint64_t size)
{
    for (unsigned i = 0; i < d->n_rings; i++) {
        const struct vu_ring *r = d->ring[i];

        /* A part never crosses a region, so its first byte speaks for it. */
        if (r && r->running &&
            (r->addr.desc - uva < size || r->addr.avail - uva < size ||
             r->addr.used - uva < size)) {
            return (int)i;
        }
    }
    return -1;
}

/* --- memory that is not shared ------------------------------------------------------------------
 *
 * A front-end whose guest memory has no fd skips it in silence: the rings come, their memory does
 * not.  (QEMU 7.2 without a memory backend sends no ADD_MEM_REG at all.)  And memory that is a file
 * but mapped privately (share=off) looks right in every message; only what the guest writes never
 * arrives.  Both are common mistakes on a command line, so look for them: a complete ring without
 * memory, and a ring that was kicked although its memory is still zero.
 */

/*
 * How often the ring was kicked: workers never read a kick eventfd, so its counter tells.  QEMU
 * itself kicks each ring when it starts; more than that is the guest, which by then has buffers
 * in the ring to show.
 */
#define KICKS_OF_A_GUEST 3

static uint64_t kicks(const struct vu_ring *r)
{
    char path[64], line[128];
    unsigned long long n = 0;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", r->kick_fd);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f) && sscanf(line, "eventfd-count: %llx", &n) != 1) {
    }
    if (f) {
        fclose(f);
    }
    return n;
}

/* The driver never touched the ring, as far as we see. */
static bool untouched(const struct vu_dev *d, const struct vu_ring *r)
{
    const struct vring_avail *a = gmem_uva_range(d->mem, (uva_t){r->addr.avail}, sizeof(*a));
    const struct vring_desc *t = gmem_uva_range(d->mem, (uva_t){r->addr.desc}, sizeof(*t));

    return a && t && !read_once(&a->flags) && !read_once(&a->idx) && !read_once(&t->addr) &&
           !read_once(&t->len);
}

static bool look_at(struct vu_dev *d, unsigned idx)
{
    struct vu_ring *r = d->ring[idx];
    struct err e;

    if (!r || !r->watched) {
        return false;
    }
    if (r->running ? !untouched(d, r) : !r->have_kick) {
        r->watched = false;
        return false;
    }
    bool no_memory = !r->running && (!d->mem || !d->mem->n);
    if (no_memory) {
        err_set(&e, -ENOMEM, "ring %u was set up, but the front-end shared no memory; %s", idx,
                VU_SHARE_REMEDY);
    } else if (r->running && r->kick_fd >= 0 && kicks(r) >= KICKS_OF_A_GUEST) {
        err_set(
            &e, -ENOMEM,
            "ring %u was kicked, but nothing that the guest writes arrives here, as if its memory "
            "were not shared; %s",
            idx, VU_SHARE_REMEDY);
    } else {
        return true;
    }
    d->told_unshared = true;
    vu_dev_refused(d, &e);
    return false;
}

bool vu_rings_watch(struct vu_dev *d)
{
    bool again = false;

    /* What the guest wrote to one ring speaks for all: an idle guest fills its receive ring and
     * leaves the other untouched, and QEMU kicks both when they start. */
    for (unsigned i = 0; i < d->n_rings; i++) {
        if (d->ring[i] && d->ring[i]->running && !untouched(d, d->ring[i])) {
            return false;
        }
    }
    for (unsigned i = 0; i < d->n_rings && !d->told_unshared; i++) {
        again |= look_at(d, i);
    }
    return again && !d->told_unshared;
}

void vu_dev_ring_broken(struct vu_dev *d, unsigned idx, const char *why)
{
    struct vu_ring *r = idx < VU_MAX_RINGS ? d->ring[idx] : NULL;
    struct err e;

    if (!r || !r->running) {
        return;
    }
    vu_ring_stop(d, idx);
    r->broken = true;
    snprintf(r->why, sizeof(r->why), "%s", why);
    err_set(&e, -EIO, "ring %u is broken: %s", idx, why);
    vu_dev_refused(d, &e);
    signal_err(d, r);
}
