/* SPDX-License-Identifier: Apache-2.0 */
#include "port/capture_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pkt/copy.h"

#define PAGE 4096u
#define ALIGN_UP(n, a) (((n) + (a)-1) & ~((uint64_t)(a)-1))

static_assert(CAPTURE_RING_MIN >= 2 * (PKT_MAX_LEN + 8 + sizeof(struct capture_rec)),
              "a record fits behind one that was skipped, or it would never fit");

static struct capture_ring_head *ring_head(struct capture_head *h, unsigned i)
{
    return (struct capture_ring_head *)(h + 1) + i;
}

int capture_mem_create(struct capture_mem *m, unsigned n_rings, uint32_t ring_bytes, struct err *e)
{
    uint64_t data_at = ALIGN_UP(sizeof(struct capture_head) +
                                    n_rings * sizeof(struct capture_ring_head),
                                PAGE);
    int code = 0;

    assert(n_rings && n_rings <= WORKER_MAX);
    if (ring_bytes < CAPTURE_RING_MIN || ring_bytes > CAPTURE_RING_MAX ||
        (ring_bytes & (ring_bytes - 1))) {
        return err_set(e, -EINVAL, "a capture buffer of %u bytes is no power of two from %u to %u",
                       ring_bytes, CAPTURE_RING_MIN, CAPTURE_RING_MAX);
    }
    *m = CAPTURE_MEM_NONE;
    m->bytes = data_at + (uint64_t)n_rings * ring_bytes;
    m->fd = memfd_create("ringway-capture", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    /* All pages now: a worker must not wait for one, nor find that there is none. */
    if (m->fd < 0 || ftruncate(m->fd, (off_t)m->bytes) || fallocate(m->fd, 0, 0, (off_t)m->bytes) ||
        fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        code = errno;
    } else {
        void *p = mmap(NULL, m->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, m->fd, 0);

        code = p == MAP_FAILED ? errno : 0;
        m->head = code ? NULL : p;
    }
    if (code) {
        capture_mem_free(m);
        return err_set(e, -code, "no memory for a capture (%u buffers of %u KiB): %s", n_rings,
                       ring_bytes / 1024, strerror(code));
    }
    m->head->magic = CAPTURE_MAGIC;
    m->head->version = CAPTURE_VERSION;
    m->head->n_rings = n_rings;
    m->head->ring_bytes = ring_bytes;
    m->head->data_at = data_at;
    return 0;
}

void capture_mem_free(struct capture_mem *m)
{
    if (m->head) {
        munmap(m->head, m->bytes);
    }
    if (m->fd >= 0) {
        close(m->fd);
    }
    *m = CAPTURE_MEM_NONE;
}

/* ---- one worker ----------------------------------------------------------------------------------- */

void capture_out_init(struct capture_out *o, const struct capture_mem *m, unsigned ring)
{
    struct capture_head *h = m->head;

    *o = (struct capture_out){.shared = ring_head(h, ring),
                              .data = (uint8_t *)h + h->data_at + (uint64_t)ring * h->ring_bytes,
                              .size = h->ring_bytes};
}

/* Room for `size` bytes in one piece, or NULL. */
static uint8_t *reserve(struct capture_out *o, uint32_t size)
{
    uint64_t used = o->head - ordered_load(CR2, &o->shared->tail);
    uint32_t at = (uint32_t)o->head & (o->size - 1), to_end = o->size - at;
    uint32_t skip = size > to_end ? to_end : 0;

    if (used > o->size || (uint64_t)size + skip > o->size - used) {
        return NULL;
    }
    if (skip) { /* at least 8 bytes, but perhaps less than a record */
        struct capture_rec none = {.size = skip};

        memcpy(o->data + at, &none, MIN(skip, (uint32_t)sizeof(none)));
        o->head += skip;
        at = 0;
    }
    return o->data + at;
}

void capture_copy_frame(uint8_t *to, const struct pkt *k, uint32_t len)
{
    const struct gspan *s = pkt_spans(k);
    uint32_t n = MIN(len, k->snap_len);

    copy_bytes(to, k->data, n);
    for (unsigned i = 0; n < len; i++) {
        uint32_t part = MIN(len - n, s[i].len);

        copy_bytes(to + n, GUEST_PTR(const void, s[i].p), part);
        n += part;
    }
}

bool capture_push(struct capture_out *o, struct capture_rec rec, const struct pkt *k,
                  const uint8_t *flat)
{
    rec.cap_len = k ? MIN(rec.cap_len, k->len) : 0;
    rec.size = (uint32_t)ALIGN_UP(sizeof(rec) + rec.cap_len, 8);

    uint8_t *to = reserve(o, rec.size);

    if (!to) {
        o->lost += rec.n;
        write_once(&o->shared->lost, o->lost);
        return false;
    }
    if (k) {
        rec.len = k->len;
        memcpy(rec.vnet, k->data - VNET_HDR_LEN, VNET_HDR_LEN);
        if (flat) {
            copy_bytes(to + sizeof(rec), flat, rec.cap_len);
        } else {
            capture_copy_frame(to + sizeof(rec), k, rec.cap_len);
        }
    }
    memcpy(to, &rec, sizeof(rec));
    o->head += rec.size;
    return true;
}

/* ---- the consumer --------------------------------------------------------------------------------- */

int capture_reader_init(struct capture_reader *r, void *p, uint64_t m, struct err *e)
{
    struct capture_head *h = p;
    struct capture_head c; /* what is checked is what is used */

    if (m < sizeof(c)) {
        return err_set(e, -EPROTO, "the capture memory of the switch is too small");
    }
    memcpy(&c, h, sizeof(c));
    if (c.magic != CAPTURE_MAGIC || c.version != CAPTURE_VERSION) {
        return err_set(e, -EPROTO,
                       "the switch hands out captures in another form; use the ringway that runs it");
    }
    if (!c.n_rings || c.n_rings > WORKER_MAX || (c.ring_bytes & (c.ring_bytes - 1)) ||
        c.ring_bytes < CAPTURE_RING_MIN || c.ring_bytes > CAPTURE_RING_MAX || c.data_at % PAGE ||
        c.data_at < sizeof(c) + c.n_rings * sizeof(struct capture_ring_head) || c.data_at > m ||
        (uint64_t)c.n_rings * c.ring_bytes > m - c.data_at) {
        return err_set(e, -EPROTO, "the capture memory of the switch is malformed");
    }
    *r = (struct capture_reader){.head = h,
                                 .ring = ring_head(h, 0),
                                 .data = (uint8_t *)p + c.data_at,
                                 .n_rings = c.n_rings,
                                 .ring_bytes = c.ring_bytes,
                                 .at = -1};
    return 0;
}

/* The next record of ring i, past records without a frame. 1, 0 or -EPROTO. */
static int peek_ring(struct capture_reader *r, unsigned i, struct capture_rec *rec,
                     const uint8_t **bytes)
{
    uint64_t head = ordered_load(CR1, &r->ring[i].head);

    for (;;) {
        uint64_t used = head - r->tail[i];
        uint32_t at = (uint32_t)r->tail[i] & (r->ring_bytes - 1), room = r->ring_bytes - at;
        const uint8_t *p = r->data + (uint64_t)i * r->ring_bytes + at;

        if (!used) {
            return 0;
        }
        *rec = (struct capture_rec){0};
        memcpy(rec, p, MIN(room, (uint32_t)sizeof(*rec)));
        if (used > r->ring_bytes || rec->size < 8 || rec->size % 8 || rec->size > room ||
            rec->size > used) {
            return -EPROTO;
        }
        if (rec->dir) {
            *bytes = p + sizeof(*rec);
            return rec->size >= sizeof(*rec) && rec->cap_len <= rec->size - sizeof(*rec) ? 1
                                                                                         : -EPROTO;
        }
        r->tail[i] += rec->size;
    }
}

int capture_peek(struct capture_reader *r, struct capture_rec *rec, const uint8_t **bytes)
{
    r->at = -1;
    for (unsigned i = 0; i < r->n_rings; i++) {
        struct capture_rec one;
        const uint8_t *p;
        int rc = peek_ring(r, i, &one, &p);

        if (rc < 0) {
            return rc;
        }
        if (rc && (r->at < 0 || one.time_ns < rec->time_ns)) {
            *rec = one;
            *bytes = p;
            r->at = (int)i;
            r->at_size = one.size;
        }
    }
    return r->at >= 0;
}

void capture_next(struct capture_reader *r)
{
    r->tail[r->at] += r->at_size;
    ordered_store(CR2, &r->ring[r->at].tail, r->tail[r->at]);
}

bool capture_arm(struct capture_reader *r)
{
    write_once(&r->head->waiting, 1u);
    ordered_fence(CR3); /* its partner: the fence of the worker's round, before capture_wants_signal() */
    for (unsigned i = 0; i < r->n_rings; i++) {
        if (read_once(&r->ring[i].head) != r->tail[i]) {
            return true;
        }
    }
    return capture_ended(r) != CAPTURE_RUNS;
}

void capture_disarm(struct capture_reader *r)
{
    write_once(&r->head->waiting, 0u);
}

uint64_t capture_lost(const struct capture_reader *r)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < r->n_rings; i++) {
        n += read_once(&r->ring[i].lost);
    }
    return n;
}

enum capture_end capture_ended(const struct capture_reader *r)
{
    return load_acquire(&r->head->ended);
}
