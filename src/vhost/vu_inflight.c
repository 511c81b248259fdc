/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/vu_inflight.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "ring/ring_resume.h"
#include "vhost/vu_dev.h"

static_assert(sizeof(struct vu_inflight_split) == 16, "QueueRegionSplit");
static_assert(sizeof(struct vu_inflight_packed) == 32, "QueueRegionPacked");
static_assert(offsetof(struct vu_inflight_packed, resume) == 16, "used_idx");

/* ---- our own file ------------------------------------------------------------------------------- */

/* Which ring it was. */
struct ring_key {
    uint64_t dev, ino, offset; /* of its descriptors in the front-end's memory file */
    uint64_t features;
    uint32_t num;
    uint32_t base; /* as the front-end said */
};

struct kept_ring {
    struct vu_inflight_packed head;
    struct ring_key key;
    uint8_t pad[56];
};
static_assert(sizeof(struct kept_ring) == 128, "no line is shared by two workers");

#define FILE_MAGIC "ringway ring positions 1\n"
struct vu_inflight_file {
    char magic[32];
    uint64_t features; /* that the front-end accepted, 0: not known */
    uint8_t pad[88];
    struct kept_ring ring[VU_MAX_RINGS];
};

static int open_own(const char *path, bool *fresh)
{
    const size_t bytes = sizeof(struct vu_inflight_file);
    char magic[sizeof(FILE_MAGIC)] = "";
    struct stat st;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    *fresh = false;
    if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
        st.st_size == (off_t)bytes && pread(fd, magic, sizeof(magic), 0) == sizeof(magic) &&
        !memcmp(magic, FILE_MAGIC, sizeof(magic))) {
        return fd;
    }
    if (fd >= 0) {
        log_warn("%s is not what a switch left there; it is made anew", path);
        close(fd);
    }
    *fresh = true;
    unlink(path);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)bytes);
    if (rc && fd >= 0) {
        close(fd);
        unlink(path);
    }
    return rc ? -rc : fd;
}

static struct vu_inflight_file *map_own(struct vu_dev *d)
{
    struct vu_inflight *s = &d->inflight;
    struct err e = {0};
    bool fresh;

    if (s->own || s->own_failed || !d->conf.state_path) {
        return s->own;
    }
    struct gmem_region_desc g = {.size = sizeof(*s->own), .fd = open_own(d->conf.state_path, &fresh)};
    int rc = g.fd < 0 ? err_set(&e, g.fd, "%s: %s", d->conf.state_path, strerror(-g.fd))
                      : gmem_create(&s->own_map, &g, 1, GMEM_FS_ANY, d->conf.state_path, &d->owner, &e);
    if (rc) {
        s->own_failed = true;
        log_warn("%s: positions of packed rings are not kept: %s; after a crash of the switch they may "
                 "need a reset of the guest",
                 d->name, e.text);
        return NULL;
    }
    s->own = gmem_gpa_range(s->own_map, (gpa_t){0}, sizeof(*s->own));
    if (fresh) {
        memcpy(s->own->magic, FILE_MAGIC, sizeof(FILE_MAGIC));
    }
    return s->own;
}

static void tell_lost(const struct vu_dev *d, uint64_t lost)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        if (lost >> bit & 1) {
            const char *name = virtio_feature_name(bit);

            log_warn("%s: its front-end accepted %s (bit %u) from the switch before this one, and this "
                     "one does not offer it: a guest that runs on cannot connect (QEMU: \"lacks "
                     "feature mask\"); start the switch with the options that the port had "
                     "(offload=, queues=, config=, mac=), or restart the guest",
                     d->name, name ? name : "a feature", bit);
        }
    }
}

void vu_inflight_features(struct vu_dev *d)
{
    struct vu_inflight_file *f = map_own(d);

    if (f) {
        f->features = d->features;
    }
}

void vu_inflight_found(struct vu_dev *d)
{
    if (d->conf.state_path && !access(d->conf.state_path, F_OK)) {
        struct vu_inflight_file *f = map_own(d);

        tell_lost(d, f ? f->features & ~d->conf.features : 0);
    }
}

/* ---- the front-end's region --------------------------------------------------------------------- */

uint64_t vu_inflight_stride(bool packed, uint32_t queue_size)
{
    uint64_t bytes = packed ? sizeof(struct vu_inflight_packed) +
                                  (uint64_t)queue_size * VU_INFLIGHT_ENTRY_PACKED
                            : sizeof(struct vu_inflight_split) +
                                  (uint64_t)queue_size * VU_INFLIGHT_ENTRY_SPLIT;

    return (bytes + VU_INFLIGHT_ALIGN - 1) / VU_INFLIGHT_ALIGN * VU_INFLIGHT_ALIGN;
}

static int check_numbers(const struct vu_dev *d, const struct vu_inflight_msg *m, const char *what,
                         struct err *e)
{
    if (!m->n_queues || m->n_queues > d->conf.max_rings) {
        return err_set(e, -EINVAL, "%s is about %u rings; this port has %u", what, m->n_queues,
                       d->conf.max_rings);
    }
    if (!m->queue_size || m->queue_size > VRING_MAX_NUM) {
        return err_set(e, -EINVAL, "%s is about rings of %u entries; 1 to %d are possible", what,
                       m->queue_size, VRING_MAX_NUM);
    }
    return 0;
}

/* Room for either layout: what is negotiated may come later. */
int vu_inflight_get(const struct vu_dev *d, struct vu_inflight_msg *m, struct err *e)
{
    int rc = check_numbers(d, m, "GET_INFLIGHT_FD", e);
    int fd = rc ? rc : memfd_create("ringway-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (rc) {
        return rc;
    }
    m->mmap_offset = 0;
    m->mmap_size = m->n_queues * vu_inflight_stride(true, m->queue_size);
    if (fd < 0 || ftruncate(fd, (off_t)m->mmap_size) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        rc = err_set(e, -errno, "GET_INFLIGHT_FD: cannot make %llu bytes of memory: %s",
                     (unsigned long long)m->mmap_size, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    return fd;
}

int vu_inflight_set(struct vu_dev *d, const struct vu_inflight_msg *m, int fd, struct err *e)
{
    struct vu_inflight *s = &d->inflight;
    struct gmem_region_desc g = {.size = m->mmap_size, .fd_offset = m->mmap_offset, .fd = fd};
    uint64_t least = m->n_queues * vu_inflight_stride(false, m->queue_size);
    struct gmem *region = NULL;
    int rc = check_numbers(d, m, "SET_INFLIGHT_FD", e);

    if (!rc && m->mmap_offset % VU_INFLIGHT_ALIGN) {
        rc = err_set(e, -EINVAL, "SET_INFLIGHT_FD: offset 0x%llx is not a multiple of %u",
                     (unsigned long long)m->mmap_offset, VU_INFLIGHT_ALIGN);
    }
    if (!rc && m->mmap_size < least) {
        rc = err_set(e, -EINVAL, "SET_INFLIGHT_FD: %u rings of %u entries need %llu bytes, not %llu",
                     m->n_queues, m->queue_size, (unsigned long long)least,
                     (unsigned long long)m->mmap_size);
    }
    if (rc) {
        fd_discard(fd);
        return rc;
    }
    rc = gmem_create(&region, &g, 1, d->conf.fs, "SET_INFLIGHT_FD", &d->owner, e);
    if (rc) {
        return rc;
    }
    gmem_free(s->region);
    s->region = region;
    s->n_queues = m->n_queues;
    s->queue_size = m->queue_size;
    return 0;
}

/* The part of ring idx with room for num entries, or NULL: the region has none. */
static uint8_t *part_of(const struct vu_dev *d, unsigned idx, uint32_t num)
{
    const struct vu_inflight *s = &d->inflight;
    const bool packed = vu_dev_packed(d);
    const uint64_t stride = vu_inflight_stride(packed, s->queue_size);
    uint8_t *p = NULL;

    if (s->region && idx < s->n_queues && num <= s->queue_size) {
        p = gmem_gpa_range(s->region, (gpa_t){idx * stride}, stride);
    }
    if (s->region && !p) {
        log_warn_limited("%s: ring %u (%u entries) has no room in the inflight region (%u rings of %u "
                         "entries)",
                         d->name, idx, num, s->n_queues, s->queue_size);
    }
    return p;
}

/* Nothing of ours is in flight; another device may have left something. */
static void clear_entries(uint8_t *first, uint32_t num, uint32_t entry)
{
    for (uint32_t i = 0; i < num; i++) {
        if (read_once(&first[i * entry])) {
            write_once(&first[i * entry], (uint8_t)0);
        }
    }
}

static void start_split(const struct vu_dev *d, unsigned idx, const struct vu_ring_conf *c)
{
    uint8_t *p = part_of(d, idx, c->num);
    struct vu_inflight_split *h = (struct vu_inflight_split *)p;

    if (p) {
        if (read_once(&h->version)) {
            clear_entries(p + sizeof(*h), c->num, VU_INFLIGHT_ENTRY_SPLIT);
        }
        write_once(&h->desc_num, d->inflight.queue_size);
        write_once(&h->last_batch_head, (uint16_t)0);
        write_once(&h->used_idx, c->base);
        store_release(&h->version, (uint16_t)VU_INFLIGHT_VERSION);
    }
}

/* ---- packed rings ------------------------------------------------------------------------------- */

static bool find_key(const struct vu_dev *d, unsigned idx, const struct vu_ring_conf *c,
                     struct ring_key *k)
{
    memset(k, 0, sizeof(*k));
    k->features = d->features & ~VIRTIO_BIT(F_LOG_ALL); /* comes and goes */
    k->num = c->num;
    k->base = d->ring[idx]->said;
    return gmem_file_place(d->mem, (uva_t){d->ring[idx]->addr.desc}, &k->dev, &k->ino, &k->offset);
}

/* May what is kept in the file be about this ring? NULL: yes. */
static const char *key_differs(const struct ring_key *was, const struct ring_key *is)
{
    return was->dev != is->dev || was->ino != is->ino || was->offset != is->offset
               ? "it is in other memory"
           : was->num != is->num           ? "it has another size"
           : was->features != is->features ? "other features were negotiated"
           /* virtio-user: it has reset its rings. A position has both halves. */
           : is->base == VRING_PACKED_WRAP ? "its driver says that it begins anew"
                                           : NULL;
}

static const char NOTHING_KEPT[] = "nothing is kept of it";

/* Where ring idx is kept, and in *why what speaks against what is there, or NULL. *moved: the front-end
 * names another position than at the last start. */
static struct vu_inflight_packed *find_head(struct vu_dev *d, unsigned idx,
                                            const struct vu_ring_conf *c, const char **why,
                                            bool *moved)
{
    struct vu_inflight_packed *h = (struct vu_inflight_packed *)part_of(d, idx, c->num);
    struct vu_inflight_file *f = h ? NULL : map_own(d);
    struct ring_key key;

    *why = NOTHING_KEPT;
    *moved = false;
    if (h) {
        if (read_once(&h->version) == VU_INFLIGHT_VERSION) {
            *why = read_once(&h->desc_num) == d->inflight.queue_size ? NULL
                                                                     : "the region was for others";
            clear_entries((uint8_t *)(h + 1), c->num, VU_INFLIGHT_ENTRY_PACKED);
        }
        return h;
    }
    if (!f || !find_key(d, idx, c, &key)) {
        return NULL;
    }
    struct kept_ring *k = &f->ring[idx];
    if (k->head.version == VU_INFLIGHT_VERSION) {
        *why = key_differs(&k->key, &key);
        *moved = k->key.base != key.base;
    }
    k->head.version = 0; /* until it is consistent */
    k->key = key;
    return &k->head;
}

static void start_packed(struct vu_dev *d, unsigned idx, struct vu_ring_conf *c)
{
    static struct log_limit limit;
    const char *why;
    bool moved;
    struct vu_inflight_packed *h = find_head(d, idx, c, &why, &moved);
    enum ring_resume how = RING_RESUME_NOT;
    uint16_t said = c->base;

    if (!h) {
        return;
    }
    if (!why) {
        how = packed_resume(c->desc, c->num, idx % 2 == 0, read_once(&h->resume), moved ? &said : NULL,
                            &c->base);
        why = how == RING_RESUME_NOT ? "its descriptors look otherwise" : NULL;
    }
    if (how == RING_RESUME_FINISHED || said != c->base || (why && why != NOTHING_KEPT)) {
        if (log_limit_ok(&limit, 10)) {
            log_info("%s: ring %u goes on at 0x%x, the front-end said 0x%x%s%s%s", d->name, idx,
                     c->base, said, how == RING_RESUME_FINISHED ? "; a burst was finished" : "",
                     why ? "; the kept position is not used: " : "", why ? why : "");
        }
    }
    write_once(&h->desc_num, (uint16_t)(d->inflight.region ? d->inflight.queue_size : c->num));
    write_once(&h->resume, ring_resume_word(c->base, c->base));
    store_release(&h->version, (uint16_t)VU_INFLIGHT_VERSION);
    c->resume = &h->resume;
}

void vu_inflight_start(struct vu_dev *d, unsigned idx, struct vu_ring_conf *c)
{
    c->resume = NULL;
    if (vu_dev_packed(d)) {
        start_packed(d, idx, c);
    } else {
        start_split(d, idx, c);
    }
}

void vu_inflight_over(struct vu_dev *d, unsigned idx)
{
    struct vu_inflight_packed *h = NULL;

    if (vu_dev_packed(d) && d->inflight.region && d->ring[idx]->num) {
        h = (struct vu_inflight_packed *)part_of(d, idx, d->ring[idx]->num);
    }
    if (h) {
        write_once(&h->version, (uint16_t)0);
    }
    if (d->inflight.own) {
        d->inflight.own->ring[idx].head.version = 0;
    }
}

void vu_inflight_disconnect(struct vu_dev *d)
{
    gmem_free(d->inflight.region);
    d->inflight.region = NULL;
    d->inflight.n_queues = d->inflight.queue_size = 0;
}

void vu_inflight_end(struct vu_dev *d)
{
    gmem_free(d->inflight.own_map);
    d->inflight.own_map = NULL;
    d->inflight.own = NULL;
    if (d->conf.state_path) {
        unlink(d->conf.state_path);
    }
}
