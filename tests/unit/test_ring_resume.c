/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a packed ring goes on after its device died, at each store of a burst that is being shown: the
 * driver gets every buffer back exactly once and in order, and the ring goes on.  Then rings that the
 * word is not about, and words that lie.
 */
#include "ring/ring_resume.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_NUM 256

/* Driver and ring. */
static struct {
    struct vring_packed_desc desc[MAX_NUM];
    struct vring_packed_event driver, device;
} g __attribute__((aligned(4096)));

static struct gmem *mem;
static struct ring_burst b;
static uint64_t word;
static uint32_t num;
static bool write;

static struct {
    struct place put, get;
    uint32_t room; /* slots that are free */
    uint16_t next_id, reaped;
    uint16_t slots[1 << 16]; /* by id */
    uint32_t empty;          /* buffers that came back with length 0 */
} drv;

static uint32_t rnd_state = 1;
static uint32_t rnd(uint32_t below)
{
    rnd_state = rnd_state * 1664525 + 1013904223;
    return (rnd_state >> 8) % below;
}

static struct place step(struct place p, uint32_t n)
{
    struct resume r = {.num = num};

    return ahead(&r, p, n);
}

static void begin(uint32_t n, bool w)
{
    memset(&g, 0, sizeof(g));
    memset(&drv, 0, sizeof(drv));
    drv.put.wrap = drv.get.wrap = true;
    num = drv.room = n;
    write = w;
}

static bool post(uint32_t slots)
{
    struct place p = drv.put;

    if (slots > drv.room) {
        return false;
    }
    drv.slots[drv.next_id] = (uint16_t)slots;
    for (uint32_t i = 0; i < slots; i++, p = step(p, 1)) {
        g.desc[p.at] = (struct vring_packed_desc){
            .addr = 0x1000 + drv.next_id, .len = 2048, .id = drv.next_id,
            .flags = (uint16_t)(packed_avail_bits(p.wrap) | (i + 1 < slots ? VRING_DESC_F_NEXT : 0) |
                                (write ? VRING_DESC_F_WRITE : 0))};
    }
    drv.put = p;
    drv.room -= slots;
    drv.next_id++;
    return true;
}

/* Every buffer comes back once, in the order in which it was posted. */
static void reap(void)
{
    while (drv.reaped != drv.next_id &&
           (g.desc[drv.get.at].flags & PACKED_STATE) == packed_used_bits(drv.get.wrap)) {
        uint16_t id = g.desc[drv.get.at].id, slots = drv.slots[drv.reaped];

        assert_int_equal(id, drv.reaped);
        drv.empty += write && !g.desc[drv.get.at].len;
        drv.get = step(drv.get, slots);
        drv.room += slots;
        drv.reaped++;
    }
}

static void device(struct ring *r, uint16_t base)
{
    struct ring_setup s = {.layout = RING_PACKED, .desc = g.desc, .avail = &g.driver,
                           .used = &g.device, .num = num, .base = base, .write = write, .mem = mem,
                           .indirect = true, .resume = &word};

    ring_init(r, &s);
}

/* One burst of at most max chains; how many. */
static uint32_t burst(struct ring *r, uint32_t max)
{
    uint32_t lens[RING_BURST], n = ring_dev_peek(RING_PACKED, r, &b, max);

    for (uint32_t i = 0; i < n; i++) {
        lens[i] = 100 + i;
    }
    if (n) {
        ring_dev_publish(RING_PACKED, r, &b, n, write ? lens : NULL);
    }
    return n;
}

/*
 * The ring as it was before a burst and as it is after it; leave it as after the first `stores` stores
 * of packed_dev_publish(): id and length of the first descriptor, the others, the word, the flags.
 * False: there are not so many.
 */
static bool cut(const struct vring_packed_desc *before, uint64_t word_before, struct place from,
                uint32_t n, uint32_t stores)
{
    struct vring_packed_desc after[MAX_NUM];
    uint64_t word_after = word;
    struct place p = from;

    memcpy(after, g.desc, sizeof(after));
    memcpy(g.desc, before, sizeof(after));
    word = word_before;
    for (uint32_t i = 0, done = 0; i < n + 2; i++, done++) {
        if (done == stores) {
            return true;
        }
        if (i < n) {
            uint16_t flags = g.desc[p.at].flags;

            g.desc[p.at] = after[p.at];
            g.desc[p.at].flags = i ? after[p.at].flags : flags;
            p = step(p, b.chain[i].seg.slots);
        } else if (i == n) {
            word = word_after;
        } else {
            g.desc[from.at].flags = after[from.at].flags;
        }
    }
    return false;
}

static void one_crash(uint32_t stores, uint32_t most_slots)
{
    struct vring_packed_desc before[MAX_NUM];
    struct ring r;
    uint16_t base = 0xffff;
    bool cut_off;

    begin(num, write);
    device(&r, VRING_PACKED_WRAP);
    for (uint32_t i = rnd(40); i-- > 0;) {
        while (post(1 + rnd(most_slots)) && rnd(8)) {
        }
        burst(&r, 1 + rnd(RING_BURST));
        if (rnd(2)) {
            reap();
        }
    }
    reap();
    while (rnd(20) && post(1 + rnd(most_slots))) {
    }
    memcpy(before, g.desc, sizeof(before));
    struct place from = {r.idx, r.wrap};
    uint64_t word_before = word;
    uint32_t n = burst(&r, 1 + rnd(RING_BURST));
    cut_off = n && cut(before, word_before, from, n, stores);
    if (!cut_off && rnd(2)) { /* the driver goes on meanwhile */
        reap();
        while (post(1 + rnd(most_slots)) && rnd(4)) {
        }
    }
    enum ring_resume how = packed_resume(g.desc, num, write, word, NULL, &base);
    assert_int_not_equal(how, RING_RESUME_NOT);
    assert_true(cut_off || (how == RING_RESUME_AT && base == ring_packed_base(&r)));
    reap();
    assert_true(drv.empty <= n);
    device(&r, base);
    for (int laps = 0; laps < 3; laps++) { /* nothing waits for ever, and the ring goes on */
        while (post(1 + rnd(most_slots))) {
        }
        while (burst(&r, RING_BURST)) {
        }
        reap();
        assert_int_equal(drv.reaped, drv.next_id);
    }
}

static void test_crash_at_each_store(void **state)
{
    static const uint32_t sizes[] = {1, 2, 5, 64, 256};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(sizes) * 2; i++) {
        num = sizes[i / 2];
        write = i % 2;
        for (uint32_t stores = 0; stores < RING_BURST + 3; stores++) {
            for (int times = 0; times < 30; times++) {
                one_crash(stores, times % 2 ? 1 : MIN(num, 4u));
            }
        }
    }
}

/* Cut off between two used descriptors, a receive ring gives back empty buffers: what frame they held
 * parts of cannot be told. Between the word and the flags nothing is lost. */
static void test_what_is_lost(void **state)
{
    struct vring_packed_desc before[MAX_NUM];
    uint16_t base;

    (void)state;
    for (uint32_t stores = 0; stores <= 10; stores++) {
        struct ring r;

        begin(16, true);
        device(&r, VRING_PACKED_WRAP);
        for (int i = 0; i < 8; i++) {
            post(1);
        }
        memcpy(before, g.desc, sizeof(before));
        burst(&r, 8);
        cut(before, ring_resume_word(VRING_PACKED_WRAP, VRING_PACKED_WRAP),
            (struct place){0, true}, 8, stores);
        bool partly = stores >= 2 && stores <= 8;
        assert_int_equal(packed_resume(g.desc, num, write, word, NULL, &base),
                         partly || stores == 9 ? RING_RESUME_FINISHED : RING_RESUME_AT);
        reap();
        assert_int_equal(drv.reaped, partly ? stores : stores >= 9 ? 8 : 0);
        assert_int_equal(drv.empty, partly ? stores : 0);
        assert_int_equal(base & 0x7fff, drv.reaped);
    }
}

/* A driver that began anew, with so many buffers: the word is about the ring before it. */
static void test_ring_begun_anew(void **state)
{
    unsigned wrong = 0, all = 0;

    (void)state;
    for (uint32_t filled = 0; filled <= 16; filled++) {
        for (uint32_t at = 0; at < 32; at++) {
            for (uint32_t slots = 1; slots <= 4; slots++) {
                uint16_t old = (uint16_t)(at % 16 | (at < 16 ? VRING_PACKED_WRAP : 0));
                struct place p = {at % 16, at < 16};
                uint16_t base = VRING_PACKED_WRAP;

                begin(16, true);
                for (uint32_t i = 0; i < filled; i++) {
                    post(1);
                }
                p = step(p, slots);
                packed_resume(g.desc, num, write,
                              ring_resume_word(
                                  (uint16_t)(p.at | (p.wrap ? VRING_PACKED_WRAP : 0)), old),
                              NULL, &base);
                all++;
                wrong += base != VRING_PACKED_WRAP;
            }
        }
    }
    /* Where its first burst was about to be shown, or a chain is just being built, it cannot be told. */
    assert_true(wrong <= all / 50);
}

/* The front-end used chains itself, from where it believed that we were: from slot 0 on. */
static void test_front_end_drops(void **state)
{
    (void)state;
    for (int times = 0; times < 2000; times++) {
        struct ring r;
        uint16_t base, end;

        begin(64, false);
        device(&r, VRING_PACKED_WRAP);
        while (r.wrap || r.idx < 40) { /* into the second lap */
            while (post(1 + rnd(3))) {
            }
            burst(&r, 1 + rnd(8));
            reap();
        }
        struct place p = {r.idx, r.wrap}, q = p;
        uint16_t id = drv.reaped;
        while (post(1 + rnd(3))) {
        }
        while (id != drv.next_id && !q.wrap) { /* the first chain of the next lap */
            q = step(q, drv.slots[id++]);
        }
        uint32_t n = q.wrap ? rnd((uint32_t)(drv.next_id - id) + 1) : 0;
        if (!n || !r.idx) {
            continue;
        }
        for (; n; n--, id++) {
            g.desc[q.at].id = id;
            g.desc[q.at].len = 0;
            g.desc[q.at].flags = packed_used_bits(q.wrap);
            q = step(q, drv.slots[id]);
        }
        end = base_of(q);
        base = 0;
        assert_int_equal(packed_resume(g.desc, num, write, word, &end, &base), RING_RESUME_FINISHED);
        assert_int_equal(base, end);
        reap();
        assert_int_equal(drv.reaped, id);
        device(&r, base);
        for (int laps = 0; laps < 3; laps++) {
            while (burst(&r, RING_BURST)) {
            }
            reap();
            assert_int_equal(drv.reaped, drv.next_id);
            while (post(1 + rnd(3))) {
            }
        }
    }
}

static void test_words_that_lie(void **state)
{
    (void)state;
    for (int i = 0; i < 100000; i++) {
        uint16_t base = 0x1234, end = (uint16_t)(rnd(num + 1) | rnd(2) << 15);
        uint64_t w = (uint64_t)rnd(1 << 24) << 40 | (uint64_t)rnd(1 << 24) << 20 | rnd(1 << 24);

        num = 1 + rnd(MAX_NUM);
        write = rnd(2);
        if (i % 2) {
            w = rnd(num + 1) | (uint64_t)rnd(num + 1) << 16 | (uint64_t)rnd(2) << 32 |
                (uint64_t)rnd(2) << 40;
        }
        for (uint32_t k = 0; k < num; k++) { /* a ring of anything */
            g.desc[k] = (struct vring_packed_desc){.addr = rnd(2), .id = (uint16_t)rnd(8),
                                                   .flags = (uint16_t)(rnd(4) ? rnd(1 << 16) : 0x80)};
        }
        if (packed_resume(g.desc, num, write, w, i % 7 ? NULL : &end, &base) == RING_RESUME_NOT) {
            assert_int_equal(base, 0x1234);
        } else {
            assert_true((base & 0x7fff) < num);
        }
    }
}

static int setup(void **state)
{
    (void)state;
    mem = gmem_local(&g, 0x100000, sizeof(g));
    return mem ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    gmem_free(mem);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash_at_each_store),
        cmocka_unit_test(test_what_is_lost),
        cmocka_unit_test(test_ring_begun_anew),
        cmocka_unit_test(test_front_end_drops),
        cmocka_unit_test(test_words_that_lie),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
