/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log against the memory itself: after each step of the device the guest's memory is compared
 * with a copy from before it.  Every page whose bytes changed is marked; no page is marked but those that
 * this step may write: the buffers of its chains, the device's part of the ring.
 *
 *     page 0     4 .. 5              8 ..                     33 ..       guest-physical: BASE + offset
 *     | nothing  | indirect tables   | ring, several pages    | buffers, in any form
 *
 * RINGWAY_SEED=n repeats a run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "ring/ring.h"
#include "ring/ring_drv.h"

#define PAGE    4096u
#define PAGES   256u
#define MEM     (PAGES * PAGE)
#define RING_AT (8 * PAGE)
#define BUF_AT  (33 * PAGE) /* odd, so that a buffer of two pages lies across the end of a log */
#define NUM     1024u /* the ring's parts take several pages */
#define BASE    (40ull * PAGE) /* of guest-physical memory, in the log's terms page 40 */
#define LOG     ((40 + PAGES) / 8)

static uint8_t mem[MEM] __attribute__((aligned(4096))), shadow[MEM];
static uint8_t bits[LOG + 64] __attribute__((aligned(64)));
static bool allowed[PAGES];
static struct ring_drv drv;
static struct ring dev;
static struct ring_log dirty;
static struct gmem *map;
static struct gmem *guest;
static struct ring_burst burst;
static enum ring_layout layout;
static uint32_t seed, n_buf, n_table; /* buffers and tables handed out, round and round */
static unsigned long changed_pages, marked_pages;

static uint32_t rnd(uint32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % n;
}

static void may_write(const volatile void *p, uint64_t len)
{
    uint64_t at = (uint64_t)((const volatile uint8_t *)p - mem);

    for (uint64_t i = at / PAGE; len && i <= (at + len - 1) / PAGE; i++) {
        allowed[i] = true;
    }
}

static void begin(void)
{
    memcpy(shadow, mem, MEM);
    memset(bits, 0, sizeof(bits));
    memset(allowed, 0, sizeof(allowed));
}

/* Compare; log_bytes: what of the log the device was given. */
static void check(const char *what, uint32_t log_bytes)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t n = (uint32_t)(BASE / PAGE) + i;
        bool marked = bits[n / 8] >> n % 8 & 1, changed = memcmp(mem + i * PAGE, shadow + i * PAGE, PAGE);

        changed_pages += changed;
        marked_pages += marked;
        if (changed && !marked && n / 8 < log_bytes) {
            fail_msg("%s: page %u was written and is not marked", what, i);
        }
        if (marked && !allowed[i]) {
            fail_msg("%s: page %u is marked, which nobody may have written", what, i);
        }
    }
    for (uint32_t i = 0; i < BASE / PAGE; i++) {
        assert_false(bits[i / 8] >> i % 8 & 1);
    }
    for (uint32_t i = log_bytes; i < sizeof(bits); i++) {
        assert_int_equal(bits[i], 0); /* nothing behind the log */
    }
}

static uint64_t gpa_of(const volatile void *p)
{
    return BASE + (uint64_t)((const volatile uint8_t *)p - mem);
}

static void start(enum ring_layout l, bool event_idx, uint32_t log_bytes)
{
    /* The used ring starts at the end of a page: its first entries and the index are not on the same. */
    uint8_t *at = mem + RING_AT + PAGE - 64 - ring_drv_used_at(NUM) % PAGE;
    struct ring_drv_setup ds = {.mem = at, .num = NUM, .event_idx = event_idx, .layout = l,
                                .base = ring_drv_fresh(l)};

    layout = l;
    memset(mem, 0, MEM);
    n_buf = n_table = 0;
    guest = gmem_local(mem, BASE, MEM);
    map = gmem_local(bits, 0, log_bytes);
    assert_int_equal(ring_drv_init(&drv, &ds), 0);
    dirty = (struct ring_log){.map = map, .payload = true, .ring = true,
                              .used = gpa_of(l == RING_PACKED ? (void *)drv.pdesc : (void *)drv.used),
                              .event = gpa_of(drv.device_event)};
    struct ring_setup rs = {.desc = drv.desc, .avail = drv.avail, .used = drv.used, .num = NUM,
                            .layout = l, .base = ds.base, .event_idx = event_idx, .indirect = true,
                            .write = true, .mem = guest, .log = &dirty};
    ring_init(&dev, &rs);
}

static void end(void)
{
    ring_drv_fini(&drv);
    gmem_free(map);
    gmem_free(guest);
}

/* One chain of n segments of any size and place, or a table of them. */
static bool post(uint32_t n, bool indirect)
{
    struct ring_seg seg[8];
    const uint32_t room = PAGES - BUF_AT / PAGE;

    for (uint32_t i = 0; i < n; i++) { /* two pages each, not shared by those in the ring at once */
        uint32_t off = rnd(PAGE);

        seg[i] = (struct ring_seg){.addr = BASE + BUF_AT + (n_buf++ % (room / 2)) * 2 * PAGE + off,
                                   .len = 1 + rnd(2 * PAGE - off)};
    }
    if (indirect) {
        uint8_t *table = mem + 4 * PAGE + n_table++ % 64 * 128;

        return ring_drv_add_indirect(layout, &drv, (struct vring_desc *)table, gpa_of(table), seg, 0, n, NULL) >= 0;
    }
    return ring_drv_add(layout, &drv, seg, 0, n, NULL) >= 0;
}

/* What the device writes: the first len bytes of chain c, all of them changed. */
static uint32_t fill(const struct ring_chain *c)
{
    const struct ring_seg *seg = c->n_seg > 1 ? &burst.pool[c->pool] : &c->seg;
    uint32_t all = 0;

    for (uint32_t k = 0; k < c->n_seg; k++) {
        all += seg[k].len;
    }
    uint32_t len = rnd(4) ? rnd(all + 1) : all, left = len;
    for (uint32_t k = 0; k < c->n_seg && left; k++) {
        uint32_t n = MIN(left, seg[k].len);
        uint8_t *p = mem + (seg[k].addr - BASE);

        for (uint32_t i = 0; i < n; i++) {
            p[i]++;
        }
        may_write(p, n);
        left -= n;
    }
    return len;
}

static void may_write_used(uint32_t n)
{
    const uint32_t from = dev.idx;

    if (layout == RING_SPLIT) {
        for (uint32_t i = 0; i < n; i++) {
            may_write(&drv.used->ring[(from + i) % NUM], sizeof(struct vring_used_elem));
        }
        may_write(&drv.used->idx, sizeof(uint16_t));
        return;
    }
    for (uint32_t i = 0, at = from; i < n; at += burst.chain[i].seg.slots, i++) {
        may_write(&drv.pdesc[at % NUM], sizeof(struct vring_packed_desc));
    }
}

static void may_write_event(void)
{
    if (layout == RING_PACKED) {
        may_write(drv.device_event, sizeof(struct vring_packed_event));
    } else if (dev.event_idx) {
        may_write((uint8_t *)drv.used + vring_used_bytes(NUM) - 2, 2);
    } else {
        may_write(&drv.used->flags, sizeof(uint16_t));
    }
}

static void round_trip(uint32_t log_bytes)
{
    struct ring_drv_used u[RING_BURST];
    uint32_t want = 1 + rnd(RING_BURST / 2), lens[RING_BURST], n;

    for (uint32_t i = 0; i < want; i++) {
        post(1 + rnd(6) % (1 + rnd(6)), !rnd(3));
    }
    ring_drv_publish(layout, &drv);
    while ((n = ring_dev_peek(layout, &dev, &burst, 1 + rnd(RING_BURST)))) {
        begin();
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(burst.chain[i].fault, RING_FAULT_NONE);
            lens[i] = fill(&burst.chain[i]);
        }
        may_write_used(n);
        ring_dev_publish(layout, &dev, &burst, n, lens);
        check("publish", log_bytes);
    }
    begin();
    may_write_event();
    ring_dev_arm(layout, &dev);
    check("arm", log_bytes);
    begin();
    may_write_event();
    ring_dev_disarm(layout, &dev);
    check("disarm", log_bytes);
    while ((n = ring_drv_reap(layout, &drv, u, RING_BURST))) {
        for (uint32_t i = 0; i < n; i++) {
            ring_drv_release(&drv, u[i].id);
        }
    }
    assert_int_equal(drv.broken, 0);
}

#define FOR_EACH_RING(l, e)                                                                        \
    for (unsigned v_ = 0; v_ < 4; v_++)                                                            \
        for (int once_ = 1, l = v_ & 1 ? RING_PACKED : RING_SPLIT, e = v_ >> 1; once_; once_ = 0)

/* Each round is at most 32 chains, so that the ring wraps several times. */
static void traffic(uint32_t log_bytes)
{
    FOR_EACH_RING(l, e) {
        changed_pages = marked_pages = 0;
        start((enum ring_layout)l, e, log_bytes);
        for (unsigned i = 0; i < 300; i++) {
            round_trip(log_bytes);
        }
        assert_true(changed_pages > 500 && marked_pages > 100);
        end();
    }
}

static void test_every_page_and_no_other(void **state)
{
    traffic(LOG);
}

/* The log ends in the middle of the buffers: what is beyond it is not marked, nor anything else. */
static void test_log_too_small(void **state)
{
    traffic((40 + 96) / 8);
}

/* Nothing is marked that was not asked for. */
static void test_what_is_logged(void **state)
{
    FOR_EACH_RING(l, e) {
        for (unsigned what = 1; what < 3; what++) {
            uint32_t lens[1];

            start((enum ring_layout)l, e, LOG);
            dirty.payload = what == 1;
            dirty.ring = what == 2;
            post(3, false);
            ring_drv_publish(layout, &drv);
            assert_int_equal(ring_dev_peek(layout, &dev, &burst, 1), 1);
            begin();
            lens[0] = 1;
            if (what == 1) {
                may_write(mem + (burst.pool[burst.chain[0].pool].addr - BASE), 1);
            } else {
                may_write_used(1);
            }
            ring_dev_publish(layout, &dev, &burst, 1, lens);
            for (unsigned i = 0; i < PAGES; i++) {
                unsigned n = (unsigned)(BASE / PAGE) + i;
                assert_int_equal(bits[n / 8] >> n % 8 & 1, allowed[i]);
            }
            end();
        }
    }
}

/* The address for the ring's part need not be in memory; it may be beyond the log, or wrap. */
static void test_ring_is_logged_elsewhere(void **state)
{
    static const struct {
        uint64_t at;
        int page; /* marked, or -1 */
    } c[] = {{0, 0}, {3 * PAGE, 3}, {(uint64_t)LOG * 8 * PAGE, -1},
             {((uint64_t)LOG * 8 - 1) * PAGE, LOG * 8 - 1}, {1ull << 63, -1}, {UINT64_MAX, -1}, {UINT64_MAX - 8, -1}};
    const uint32_t none[1] = {0};

    FOR_EACH_RING(l, e) {
        for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
            start((enum ring_layout)l, e, LOG);
            dirty.used = dirty.event = c[i].at;
            post(1, false);
            ring_drv_publish(layout, &drv);
            assert_int_equal(ring_dev_peek(layout, &dev, &burst, 1), 1);
            begin();
            ring_dev_publish(layout, &dev, &burst, 1, none);
            ring_dev_arm(layout, &dev);
            for (unsigned n = 0; n < sizeof(bits) * 8; n++) {
                /* split with event index: the event word is a page further */
                bool event = layout == RING_SPLIT && e && c[i].page >= 0 && n < LOG * 8 &&
                             n == (unsigned)c[i].page + (vring_used_bytes(NUM) - 2) / PAGE;

                assert_int_equal(bits[n / 8] >> n % 8 & 1, (int)n == c[i].page || event);
            }
            end();
        }
    }
}

int main(void)
{
    const char *env = getenv("RINGWAY_SEED");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_page_and_no_other),
        cmocka_unit_test(test_log_too_small),
        cmocka_unit_test(test_what_is_logged),
        cmocka_unit_test(test_ring_is_logged_elsewhere),
    };

    seed = env ? (uint32_t)strtoul(env, NULL, 0) : (uint32_t)time(NULL);
    printf("RINGWAY_SEED=%u repeats this\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
