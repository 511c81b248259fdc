/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both sides of the ring against each other: a driver thread sends numbered frames through a
 * transmit ring, a device thread moves each into a receive ring of the same driver, which checks
 * number, length and every byte.
 *
 *      driver view (address A)                 device view (addresses B and C)
 *      fill --> tx ring ------------------------> peek, gather
 *                                                    |
 *      check <-- rx ring <----------------------- scatter, commit both
 *
 * What makes it nasty
 *  - The memory is one file mapped several times, at different addresses: a forgotten translation
 *    crashes.  (TSan knows addresses, not pages, so its build maps the file once.)
 *  - Guest memory is cut into regions of a few bytes, and neighbours for the guest are far apart
 *    here: whoever runs over the end of a region reads or writes somebody else's bytes.
 *  - Frames travel in direct chains, in indirect tables, and (split only) in direct chains that end
 *    in an indirect table; the tables lie in the cut memory too.
 *  - All four pairs of layouts, transmit and receive ring; the packed one's size is not a power of
 *    two.
 *  - Both sides may sleep: whoever has nothing to do asks to be woken and waits for its eventfd.  If
 *    it waits for seconds although there is work, a wake-up was lost.
 *  - Rings start just below the wrap of the 16-bit index, or before the end of a lap.
 *
 * usage: pair_ring [frames per case [case [TX RX]]]   TX, RX: split or packed      exit status 0: all frames right
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring/ring.h"
#include "ring/ring_drv.h"

#define NUM 16u               /* ring entries */
#define NUM_PACKED 13u        /* any number will do there */
#define MAX_FRAME 48u         /* bytes */
#define MAX_PARTS 4u          /* segments per chain */
#define PARTS_BYTES 64u       /* of buffer per descriptor */
#define GPA 0x40000000ull     /* guest-physical address of the data area */
#define TABLE_BYTES 192u      /* of indirect table per descriptor */
#define DATA_BYTES (2 * NUM * (PARTS_BYTES + TABLE_BYTES))
#define LOST_MS 20000

/* Under TSan both sides must use the same addresses. */
#if defined(__SANITIZE_THREAD__)
#define ONE_MAPPING 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ONE_MAPPING 1
#endif
#endif

static_assert((DATA_BYTES & (DATA_BYTES - 1)) == 0, "place() is a permutation of 2^n regions");

struct shared { /* the file; each part on its own pages */
    uint8_t tx[8192], rx[8192];
    uint8_t data[DATA_BYTES];
};

struct variant {
    uint32_t cut; /* bytes per region; a power of two */
    bool event_idx, sleepy;
};

static const struct variant variants[] = {
    {1, false, false}, {1, true, false},    {1, false, true},    {1, true, true},
    {4, false, false}, {4, true, false},    {4, false, true},    {4, true, true},
    {64, false, true}, {64, true, true},    {DATA_BYTES, false, false}, {DATA_BYTES, true, true},
};

struct test {
    struct variant v;
    enum ring_layout layout[2]; /* of the tx and the rx ring */
    uint32_t frames;
    struct shared *drv, *dev[2];
    struct gmem *mem;
    int kick, call; /* eventfds */
    const char *volatile wrong;
    uint64_t sleeps[2];
    pthread_t device; /* started once the driver has initialised the rings */
};
static void *device_thread(void *arg);

static const char *const layout_name[] = {"split", "packed"};

static uint32_t ring_num(enum ring_layout l)
{
    return l == RING_PACKED ? NUM_PACKED : NUM;
}

static uint16_t ring_start(enum ring_layout l)
{
    return l == RING_PACKED ? NUM_PACKED - 2 : 65500; /* packed: and wrap counter 0 */
}

/* --- where a byte of guest memory is: regions are shuffled by an odd multiplier --- */

static uint32_t place(const struct test *t, uint32_t off)
{
    uint32_t n = DATA_BYTES / t->v.cut, i = off / t->v.cut;

    return (i * 2654435761u % n) * t->v.cut + off % t->v.cut;
}

static void drv_write(struct test *t, uint64_t gpa, const void *src, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        t->drv->data[place(t, (uint32_t)(gpa - GPA) + i)] = ((const uint8_t *)src)[i];
    }
}

static void drv_read(struct test *t, uint64_t gpa, void *dst, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        ((uint8_t *)dst)[i] = t->drv->data[place(t, (uint32_t)(gpa - GPA) + i)];
    }
}

static struct gmem *cut_memory(struct test *t)
{
    uint32_t n = DATA_BYTES / t->v.cut;
    struct gmem_region *r = calloc(n, sizeof(*r));
    struct gmem *m;

    for (uint32_t i = 0; i < n; i++) {
        uint8_t *va = t->dev[i & 1]->data + place(t, i * t->v.cut);

        r[i] = (struct gmem_region){.gpa = GPA + i * t->v.cut, .size = t->v.cut,
                                    .uva = GPA + i * t->v.cut,
                                    .va = GUEST_PTR(uint8_t GUEST, va)};
    }
    m = gmem_local_n(r, n);
    free(r);
    return m;
}

/* --- sleeping and waking, both sides --- */

static void wake(int fd)
{
    uint64_t one = 1;

    if (write(fd, &one, sizeof(one)) != sizeof(one)) {
        abort();
    }
}

/* False if nobody woke us for a very long time. */
static bool wait_for(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t n;

    if (poll(&p, 1, LOST_MS) != 1) {
        return false;
    }
    return read(fd, &n, sizeof(n)) == sizeof(n);
}

/* --- the frame: its length and bytes follow from its number --- */

static uint32_t frame_len(uint32_t seq)
{
    return 4 + seq * 7919u % (MAX_FRAME - 3);
}

static void frame_fill(uint8_t *f, uint32_t seq)
{
    uint32_t x = seq * 2654435761u;

    memcpy(f, &seq, 4);
    for (uint32_t i = 4; i < frame_len(seq); i++) {
        x = x * 1664525u + 1013904223u;
        f[i] = (uint8_t)(x >> 24);
    }
}

/* --- driver --- */

struct drv {
    struct ring_drv tx, rx;
    uint32_t form; /* which chain form comes next */
};

/* Descriptor i of the tx (0) or rx (1) ring owns this piece of guest memory. */
static uint64_t buf_gpa(int ring, uint32_t i)
{
    return GPA + (ring * NUM + i) * PARTS_BYTES;
}

static uint64_t table_gpa(int ring, uint32_t i)
{
    return GPA + 2 * NUM * PARTS_BYTES + (ring * NUM + i) * TABLE_BYTES;
}

/* Cut [gpa, gpa + len) into n segments, some of them possibly empty. */
static void segments(struct ring_seg *s, uint32_t n, uint64_t gpa, uint32_t len, uint32_t salt)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t part = i + 1 == n ? len : MIN(len, (salt >> (4 * i)) % 23);

        s[i] = (struct ring_seg){.addr = gpa, .len = part};
        gpa += part;
        len -= part;
    }
}

/* Turn the last descriptor of a direct chain into an indirect table with two halves of it. */
static void end_in_table(struct test *t, struct ring_drv *r, int ring, uint16_t head)
{
    uint16_t last = head;
    struct vring_desc table[2];

    while (r->slot[last].next != RING_DRV_NONE) {
        last = r->slot[last].next;
    }
    table[0] = table[1] = r->table[last];
    table[0].flags |= VRING_DESC_F_NEXT;
    table[0].next = 1;
    table[0].len /= 2;
    table[1].addr += table[0].len;
    table[1].len -= table[0].len;
    drv_write(t, table_gpa(ring, last), table, sizeof(table));
    r->table[last] = (struct vring_desc){
        .addr = table_gpa(ring, last), .len = sizeof(table), .flags = VRING_DESC_F_INDIRECT};
}

/* Post one buffer of len bytes; the token is its guest address. False: no room. */
static bool post(struct test *t, struct drv *d, int ring, const uint8_t *frame, uint32_t len)
{
    struct ring_drv *r = ring ? &d->rx : &d->tx;
    const enum ring_layout l = t->layout[ring];
    uint32_t salt = d->form++ * 2654435761u, n = 1 + (salt >> 3) % MAX_PARTS, form = salt % 3;
    uint32_t slot;
    struct ring_seg seg[MAX_PARTS];

    if (ring_drv_n_free(r) < MAX_PARTS) {
        return false;
    }
    slot = r->free[r->free_head & r->free_mask]; /* the head that add() will take */
    uint64_t gpa = buf_gpa(ring, slot);
    if (frame) {
        drv_write(t, gpa, frame, len);
    }
    segments(seg, n, gpa, len, salt >> 8);
    int id;
    if (form == 0) {
        struct vring_desc table[MAX_PARTS];

        id = ring_drv_add_indirect(l, r, table, table_gpa(ring, slot), seg, ring ? 0 : n,
                                   ring ? n : 0, (void *)(uintptr_t)gpa);
        drv_write(t, table_gpa(ring, slot), table, n * 16);
    } else {
        id = ring_drv_add(l, r, seg, ring ? 0 : n, ring ? n : 0, (void *)(uintptr_t)gpa);
        if (form == 1 && l == RING_SPLIT) {
            end_in_table(t, r, ring, (uint16_t)id);
        }
    }
    return id == (int)slot;
}

/* Check what came back and post the buffers again. Returns how many frames arrived. */
static uint32_t receive(struct test *t, struct drv *d, uint32_t seq)
{
    struct ring_drv_used u[NUM];
    uint32_t n = ring_drv_reap(t->layout[1], &d->rx, u, NUM);
    uint8_t got[PARTS_BYTES], want[PARTS_BYTES];

    for (uint32_t i = 0; i < n; i++, seq++) {
        frame_fill(want, seq);
        drv_read(t, (uintptr_t)u[i].token, got, MIN(u[i].len, (uint32_t)sizeof(got)));
        if (u[i].len != frame_len(seq) || memcmp(got, want, u[i].len)) {
            t->wrong = "a frame came back out of order or with other bytes";
        }
        ring_drv_release(&d->rx, u[i].id);
    }
    while (post(t, d, 1, NULL, MAX_FRAME)) {
    }
    if (ring_drv_publish(t->layout[1], &d->rx)) {
        wake(t->kick);
    }
    return n;
}

static uint32_t transmit(struct test *t, struct drv *d, uint32_t seq)
{
    struct ring_drv_used u[NUM];
    uint32_t n = ring_drv_reap(t->layout[0], &d->tx, u, NUM), sent = 0;
    uint8_t frame[MAX_FRAME];

    for (uint32_t i = 0; i < n; i++) {
        if (u[i].len) {
            t->wrong = "a transmit chain came back with a length";
        }
        ring_drv_release(&d->tx, u[i].id);
    }
    while (seq + sent < t->frames) {
        frame_fill(frame, seq + sent);
        if (!post(t, d, 0, frame, frame_len(seq + sent))) {
            break;
        }
        sent++;
    }
    if (ring_drv_publish(t->layout[0], &d->tx)) {
        wake(t->kick);
    }
    return sent;
}

static void drive(struct test *t)
{
    struct drv d = {0};
    uint32_t sent = 0, got = 0, idle = 0;

    for (int i = 0; i < 2; i++) {
        const enum ring_layout l = t->layout[i];
        struct ring_drv_setup s = {.layout = l, .mem = i ? t->drv->rx : t->drv->tx,
                                   .num = ring_num(l), .base = ring_start(l),
                                   .event_idx = t->v.event_idx};

        if (ring_drv_init(i ? &d.rx : &d.tx, &s)) {
            abort();
        }
    }
    if (pthread_create(&t->device, NULL, device_thread, t)) {
        abort();
    }
    while (got < t->frames && !t->wrong) {
        uint32_t r = receive(t, &d, got), x = transmit(t, &d, sent);

        got += r;
        sent += x;
        if (d.rx.broken || d.tx.broken) {
            t->wrong = ring_drv_fault_text(d.rx.broken ? d.rx.broken : d.tx.broken);
        }
        if (r || x) {
            idle = 0;
        } else if (!t->v.sleepy || ++idle < 4) {
            sched_yield();
        } else {
            bool rx = ring_drv_arm(t->layout[1], &d.rx), tx = ring_drv_arm(t->layout[0], &d.tx), work = rx || tx;
            if (!work && !wait_for(t->call)) {
                t->wrong = "the driver slept although the device had used something";
            }
            t->sleeps[0] += !work;
            ring_drv_disarm(t->layout[1], &d.rx);
            ring_drv_disarm(t->layout[0], &d.tx);
            idle = 0;
        }
    }
    ring_drv_fini(&d.tx);
    ring_drv_fini(&d.rx);
}

/* --- device --- */

static uint32_t copy_chain(const struct test *t, const struct ring_burst *b,
                           const struct ring_chain *c, uint8_t *frame, uint32_t len, bool out)
{
    const struct ring_seg *s = c->n_seg > 1 ? &b->pool[c->pool] : &c->seg;
    uint32_t hint = 0, done = 0;

    for (uint32_t i = 0; i < c->n_seg; i++) {
        for (uint32_t off = 0; off < s[i].len && done < len;) {
            uint32_t n = MIN(s[i].len - off, len - done);
            uint8_t *p = GUEST_PTR(uint8_t, gmem_span(t->mem, &hint, (gpa_t){s[i].addr + off}, &n));

            if (!p) {
                return UINT32_MAX;
            }
            memcpy(out ? p : frame + done, out ? frame + done : p, n);
            off += n;
            done += n;
        }
    }
    return done;
}

struct device {
    struct ring tx, rx;
    struct ring_burst btx, brx;
};

static uint32_t move(struct test *t, struct device *d)
{
    uint32_t have = ring_dev_peek(t->layout[0], &d->tx, &d->btx, NUM / 2);
    uint32_t room = ring_dev_peek(t->layout[1], &d->rx, &d->brx, NUM / 2);
    uint32_t lens[RING_BURST], n = MIN(have, room);

    for (uint32_t i = 0; i < n; i++) {
        uint8_t frame[PARTS_BYTES];
        uint32_t len = copy_chain(t, &d->btx, &d->btx.chain[i], frame, sizeof(frame), false);

        if (d->btx.chain[i].fault || d->brx.chain[i].fault || len > sizeof(frame)) {
            t->wrong = "the device found a fault in a good chain";
            return 0;
        }
        lens[i] = copy_chain(t, &d->brx, &d->brx.chain[i], frame, len, true);
    }
    bool signal = ring_dev_commit(t->layout[1], &d->rx, &d->brx, n, lens);
    signal |= ring_dev_commit(t->layout[0], &d->tx, &d->btx, n, NULL);
    if (signal) {
        wake(t->call);
    }
    return n;
}

static void device_ring(const struct test *t, struct ring *r, uint8_t *mem, bool write)
{
    const enum ring_layout l = t->layout[write];
    const uint32_t num = ring_num(l);
    struct ring_setup s = {.layout = l, .desc = mem, .avail = mem + ring_drv_avail_at(num),
                           .used = mem + ring_drv_used_at(num), .num = num,
                           .base = ring_start(l), .event_idx = t->v.event_idx, .indirect = true,
                           .write = write, .mem = t->mem};

    ring_init(r, &s);
}

static void *device_thread(void *arg)
{
    struct test *t = arg;
    struct device *d = aligned_alloc(CACHE_LINE, (sizeof(*d) + 63) & ~63ul);
    uint32_t done = 0, idle = 0;

    device_ring(t, &d->tx, t->dev[0]->tx, false);
    device_ring(t, &d->rx, t->dev[1]->rx, true);
    while (done < t->frames && !t->wrong) {
        uint32_t n = move(t, d);

        done += n;
        if (d->tx.broken || d->rx.broken) {
            t->wrong = ring_fault_text(d->tx.broken ? d->tx.broken : d->rx.broken);
        }
        if (n) {
            idle = 0;
        } else if (!t->v.sleepy || ++idle < 4) {
            sched_yield();
        } else {
            /* Work needs both rings: sleep when one of them has nothing. */
            bool tx = ring_dev_arm(t->layout[0], &d->tx), rx = ring_dev_arm(t->layout[1], &d->rx);
            if (!(tx && rx)) {
                t->sleeps[1]++;
                if (!wait_for(t->kick)) {
                    t->wrong = "the device slept although the driver had published something";
                }
            }
            ring_dev_disarm(t->layout[0], &d->tx);
            ring_dev_disarm(t->layout[1], &d->rx);
            idle = 0;
        }
    }
    free(d);
    return NULL;
}

static struct shared *map(int fd)
{
    void *p = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED) {
        abort();
    }
    return p;
}

static bool run(const struct variant *v, enum ring_layout tx, enum ring_layout rx, uint32_t frames)
{
    struct test t = {.v = *v, .layout = {tx, rx}, .frames = frames, .kick = eventfd(0, 0), .call = eventfd(0, 0)};
    int fd = memfd_create("pair", 0);

    if (ftruncate(fd, sizeof(struct shared))) {
        abort();
    }
    t.drv = map(fd);
#ifdef ONE_MAPPING
    t.dev[0] = t.dev[1] = t.drv;
#else
    t.dev[0] = map(fd);
    t.dev[1] = map(fd);
#endif
    t.mem = cut_memory(&t);
    drive(&t);
    wake(t.kick); /* the device may still wait for more */
    pthread_join(t.device, NULL);
    printf("%s: %s to %s, regions of %u bytes, %s, %s: %u frames, driver slept %llu times, device %llu%s%s\n",
           t.wrong ? "not ok" : "ok", layout_name[tx], layout_name[rx], v->cut, v->event_idx ? "event index" : "flags",
           v->sleepy ? "sleeping" : "polling", frames, (unsigned long long)t.sleeps[0],
           (unsigned long long)t.sleeps[1], t.wrong ? ": " : "", t.wrong ? t.wrong : "");
    fflush(stdout);
    gmem_free(t.mem);
    munmap(t.drv, sizeof(struct shared));
#ifndef ONE_MAPPING
    munmap(t.dev[0], sizeof(struct shared));
    munmap(t.dev[1], sizeof(struct shared));
#endif
    close(fd);
    close(t.kick);
    close(t.call);
    return !t.wrong;
}

int main(int argc, char **argv)
{
    uint32_t frames = argc > 1 ? (uint32_t)atoi(argv[1]) : 20000;
    int only = argc > 2 ? atoi(argv[2]) : -1;
    bool ok = true;

    for (unsigned i = 0; i < 4 * ARRAY_SIZE(variants); i++) {
        enum ring_layout tx = i & 1 ? RING_PACKED : RING_SPLIT, rx = i & 2 ? RING_PACKED : RING_SPLIT;

        if ((only < 0 || only == (int)i / 4) &&
            (argc < 5 || (!strcmp(argv[3], layout_name[tx]) && !strcmp(argv[4], layout_name[rx])))) {
            ok &= run(&variants[i / 4], tx, rx, frames);
        }
    }
    return ok ? 0 : 1;
}
