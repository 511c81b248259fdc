/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device side of the packed ring against a driver that lies, descriptor by descriptor; then
 * chain forms, laps of a ring whose size is not a power of two, the order in which used descriptors
 * appear, the arithmetic of the event words, and where a ring goes on after a stop.
 */
#include "ring/ring_dev.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "ring/ring_drv.h"

#define L        RING_PACKED
#define GPA      0x100000ull /* guest-physical address of mem[0] */
#define NEXT     VRING_DESC_F_NEXT
#define WRITE    VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

/* A guest: ring and event words at fixed places, the rest is for tables. */
static struct {
    struct vring_packed_desc desc[4096];
    struct vring_packed_event driver, device;
    struct vring_packed_desc table[2048] __attribute__((aligned(16)));
} g __attribute__((aligned(4096)));

static struct gmem *mem;
static struct ring r;
static struct ring_burst b;
static uint32_t num, next; /* the driver's: slots of the ring, the next one to write */
static bool lap;           /* ... and its wrap counter */

static uint64_t gpa_of(const void *p)
{
    return GPA + (uint64_t)((const uint8_t *)p - (const uint8_t *)&g);
}

static void start(uint32_t n, uint16_t base, bool write, bool event_idx, bool indirect)
{
    struct ring_setup s = {.layout = L,
                           .desc = g.desc,
                           .avail = &g.driver,
                           .used = &g.device,
                           .num = n,
                           .base = base,
                           .event_idx = event_idx,
                           .indirect = indirect,
                           .write = write,
                           .mem = mem};

    memset(&g, 0, sizeof(g));
    memset(&b, 0xee, sizeof(b)); /* leftovers must not matter */
    num = n;
    next = base & 0x7fff;
    lap = base >> 15;
    for (uint32_t i = 0; i < n; i++) {
        g.desc[i].flags = packed_used_bits(i < next ? lap : !lap);
    }
    ring_init(&r, &s);
}

static void fresh(uint32_t n, bool write)
{
    start(n, VRING_PACKED_WRAP, write, false, true);
}

/* Write one descriptor at the next slot, available. */
static void put(uint64_t addr, uint32_t len, uint16_t flags, uint16_t id)
{
    g.desc[next] = (struct vring_packed_desc){
        .addr = addr, .len = len, .flags = flags | packed_avail_bits(lap), .id = id};
    next++;
    if (next == num) {
        next = 0;
        lap = !lap;
    }
}

static uint32_t peek(uint32_t max)
{
    return ring_dev_peek(L, &r, &b, max);
}

static bool commit(uint32_t n, const uint32_t *lens)
{
    return ring_dev_commit(L, &r, &b, n, lens);
}

static void expect_used(uint32_t slot, bool in_lap, uint16_t id, uint32_t len)
{
    assert_int_equal(g.desc[slot].flags & PACKED_STATE, packed_used_bits(in_lap));
    assert_int_equal(g.desc[slot].id, id);
    assert_int_equal(g.desc[slot].len, len);
}

/* One chain of so many slots was put at slot 0, its id is 77; expect it to be refused for this
 * reason, and the ring to go on behind it. */
static void expect_chain_fault(enum ring_fault f, uint16_t slots)
{
    put(0x7000, 60, r.write ? WRITE : 0, 78);
    assert_int_equal(peek(RING_BURST), 2);
    assert_int_equal(b.chain[0].fault, f);
    assert_int_equal(b.chain[0].n_seg, 0);
    assert_int_equal(b.chain[0].id, 77);
    assert_int_equal(b.chain[1].fault, RING_FAULT_NONE);
    assert_int_equal(b.chain[1].id, 78);
    assert_int_equal(r.broken, RING_FAULT_NONE);
    commit(2, NULL);
    expect_used(0, true, 77, 0);
    expect_used(slots, true, 78, 0);
    assert_int_equal(ring_base(&r), (slots + 1u) | VRING_PACKED_WRAP);
}

static void expect_broken(enum ring_fault f)
{
    assert_int_equal(r.broken, f);
    assert_int_equal(peek(RING_BURST), 0);
    assert_int_equal(b.n, 0);
    assert_int_equal(r.broken, f); /* sticky */
    assert_false(ring_dev_arm(L, &r));
}

/* --- lies --- */

/* NEXT on every slot: no chain of the ring ever ends (CVE-2026-16457 in another device). */
static void test_next_on_every_slot(void **state)
{
    static const uint32_t sizes[] = {1, 2, 5, 256, 1024, 1025, 4096};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        fresh(sizes[i], false);
        for (uint32_t k = 0; k < sizes[i]; k++) {
            put(GPA, 0, NEXT, (uint16_t)k);
        }
        assert_int_equal(peek(RING_BURST), 0);
        expect_broken(RING_FAULT_CHAIN_END);
    }
}

/* A chain that runs on into slots that the device was given before it. */
static void test_chain_over_others(void **state)
{
    (void)state;
    for (uint32_t first = 1; first < 7; first++) {
        fresh(8, false);
        for (uint32_t k = 0; k < 8; k++) {
            put(GPA, 1, k < first ? 0 : NEXT, (uint16_t)k);
        }
        /* Those in front of the lie are good, and completed. */
        assert_int_equal(peek(RING_BURST), first);
        commit(first, NULL);
        expect_used(first - 1, true, (uint16_t)(first - 1), 0);
        expect_broken(RING_FAULT_CHAIN_END);
    }
}

/* Everything available, in both laps at once: more than the ring has is never taken. */
static void test_never_round_the_ring(void **state)
{
    (void)state;
    for (uint32_t n = 1; n < 12; n++) {
        fresh(n, false);
        for (uint32_t k = 0; k < n; k++) {
            put(GPA, 1, 0, (uint16_t)k);
        }
        g.desc[0].flags = packed_avail_bits(true);
        assert_int_equal(peek(RING_BURST), n);
        /* With chains of two slots the second of which lies about the next lap. */
        fresh(n, false);
        for (uint32_t k = 0; k < n; k++) {
            put(GPA, 1, k % 2 || k + 1 == n ? 0 : NEXT, (uint16_t)k);
        }
        assert_int_equal(peek(RING_BURST), (n + 1) / 2);
        uint32_t slots = 0;
        for (uint32_t k = 0; k < b.n; k++) {
            slots += b.chain[k].seg.slots;
        }
        assert_int_equal(slots, n);
    }
}

static void test_descriptors_of_another_lap(void **state)
{
    static const uint16_t not_available[] = {
        0, PACKED_STATE, VRING_PACKED_F_USED, PACKED_STATE | NEXT, INDIRECT, NEXT | WRITE};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(not_available); i++) {
        fresh(8, false);
        g.desc[0].flags = not_available[i];
        assert_int_equal(peek(8), 0);
        assert_false(ring_dev_more(L, &r));
        assert_int_equal(r.broken, RING_FAULT_NONE);
    }
}

static void test_indirect_bad(void **state)
{
    static const uint32_t bad_len[] = {0,          1,         15, 17, 16 * (RING_MAX_SEGS + 1),
                                       0xfffffff0, 0xffffffff};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad_len); i++) {
        fresh(8, false);
        put(gpa_of(g.table), bad_len[i], INDIRECT, 77);
        expect_chain_fault(RING_FAULT_INDIRECT_BAD, 1);
    }
    fresh(8, false); /* inside a list: last */
    put(GPA, 1, NEXT, 1);
    put(gpa_of(g.table), 16, INDIRECT, 77);
    expect_chain_fault(RING_FAULT_INDIRECT_BAD, 2);

    fresh(8, false); /* inside a list: first */
    put(gpa_of(g.table), 16, INDIRECT | NEXT, 1);
    put(GPA, 1, 0, 77);
    expect_chain_fault(RING_FAULT_INDIRECT_BAD, 2);

    start(8, VRING_PACKED_WRAP, false, false, false); /* not negotiated */
    put(gpa_of(g.table), 16, INDIRECT, 77);
    expect_chain_fault(RING_FAULT_INDIRECT_BAD, 1);
}

static void test_indirect_unmapped(void **state)
{
    static const uint64_t bad[] = {0, GPA - 16, GPA + sizeof(g), UINT64_MAX - 15, UINT64_MAX - 31};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        fresh(8, false);
        put(bad[i], 64, INDIRECT, 77);
        expect_chain_fault(RING_FAULT_INDIRECT_UNMAPPED, 1);
    }
}

static void test_direction(void **state)
{
    (void)state;
    for (int write = 0; write < 2; write++) {
        uint16_t good = write ? WRITE : 0, bad = write ? 0 : WRITE;

        fresh(8, write);
        put(GPA, 1, bad, 77);
        expect_chain_fault(RING_FAULT_DIRECTION, 1);

        fresh(8, write); /* in the middle: the id is behind it */
        put(GPA, 1, good | NEXT, 1);
        put(GPA, 1, bad | NEXT, 2);
        put(GPA, 1, good, 77);
        expect_chain_fault(RING_FAULT_DIRECTION, 3);

        fresh(8, write);
        put(gpa_of(g.table), 32, INDIRECT, 77);
        g.table[0] = (struct vring_packed_desc){.addr = GPA, .len = 1, .flags = good};
        g.table[1] = (struct vring_packed_desc){.addr = GPA, .len = 1, .flags = bad};
        if (write) {
            expect_chain_fault(RING_FAULT_DIRECTION, 1);
        } else { /* DPDK's driver does that */
            assert_int_equal(peek(8), 1);
            assert_int_equal(b.chain[0].fault, RING_FAULT_NONE);
            assert_int_equal(b.chain[0].n_seg, 2);
        }

        fresh(8, write); /* on the table's own descriptor it means nothing */
        put(gpa_of(g.table), 16, INDIRECT | bad, 3);
        g.table[0] = (struct vring_packed_desc){.addr = GPA, .len = 1, .flags = good};
        assert_int_equal(peek(8), 1);
        assert_int_equal(b.chain[0].fault, RING_FAULT_NONE);
    }
}

static void test_guest_changes_its_mind(void **state)
{
    (void)state;
    fresh(8, false);
    put(0x1000, 60, 0, 5);
    assert_int_equal(peek(8), 1);
    g.desc[0] = (struct vring_packed_desc){0xbad, 0xffffffff, 0xffff, NEXT | INDIRECT};
    assert_int_equal(b.chain[0].seg.addr, 0x1000);
    assert_int_equal(b.chain[0].seg.len, 60);
    commit(1, NULL);
    expect_used(0, true, 5, 0);
}

/* --- chain forms --- */

static void expect_segs(const struct ring_chain *c, uint16_t n, uint16_t slots, uint64_t first_addr)
{
    const struct ring_seg *s = c->n_seg > 1 ? &b.pool[c->pool] : &c->seg;

    assert_int_equal(c->fault, RING_FAULT_NONE);
    assert_int_equal(c->n_seg, n);
    assert_int_equal(c->seg.slots, slots);
    assert_int_equal(c->seg.addr, first_addr);
    for (uint16_t i = 0; i < n; i++) {
        assert_int_equal(s[i].addr, first_addr + 0x100ull * i);
        assert_int_equal(s[i].len, i + 1);
    }
}

static void table_of(uint32_t at, uint32_t n, uint64_t addr, uint16_t flags)
{
    for (uint32_t i = 0; i < n; i++) {
        g.table[at + i] = (struct vring_packed_desc){
            .addr = addr + 0x100ull * i, .len = i + 1, .flags = flags, .id = 0xffff};
    }
}

/* The same chains from every slot of a ring on, so that each of them lies across its end once. */
static void test_forms(void **state)
{
    enum { N = 11 };

    (void)state;
    for (uint32_t base = 0; base < 2 * N; base++) {
        bool wrap = base < N;
        uint32_t at = base % N;

        start(N, (uint16_t)(at | (wrap ? VRING_PACKED_WRAP : 0)), false, false, true);
        put(0x1000, 1, 0, 500);
        put(0x2000, 1, NEXT, 1); /* ids but the last mean nothing */
        put(0x2100, 2, NEXT, 2);
        put(0x2200, 3, 0, 501);
        put(gpa_of(g.table), 48, INDIRECT, 502);
        /* all entries, in order, whatever flags and ids they carry */
        table_of(0, 3, 0x3000, NEXT | INDIRECT | PACKED_STATE);
        put(0x4000, 1, 0x0008 | 0x0100, 503); /* reserved flags are ignored */
        put(gpa_of(g.table + 10), 16, INDIRECT, 504);
        table_of(10, 1, 0x5000, 0);
        assert_int_equal(peek(RING_BURST), 5);
        expect_segs(&b.chain[0], 1, 1, 0x1000);
        expect_segs(&b.chain[1], 3, 3, 0x2000);
        expect_segs(&b.chain[2], 3, 1, 0x3000);
        expect_segs(&b.chain[3], 1, 1, 0x4000);
        expect_segs(&b.chain[4], 1, 1, 0x5000);
        commit(5, NULL);
        static const uint32_t slot[] = {0, 1, 4, 5, 6};
        for (unsigned i = 0; i < 5; i++) {
            uint32_t s = at + slot[i];

            expect_used(s % N, s < N ? wrap : !wrap, (uint16_t)(500 + i), 0);
        }
        assert_int_equal(ring_base(&r),
                         ((at + 7) % N) | ((at + 7 < N) == wrap ? VRING_PACKED_WRAP : 0));
        assert_int_equal(peek(RING_BURST), 0);
    }
}

static void test_longest_chain(void **state)
{
    (void)state;
    fresh(2048, false);
    for (uint32_t i = 0; i < RING_MAX_SEGS; i++) {
        put(0x100000 + 0x100ull * i, i + 1, i + 1 < RING_MAX_SEGS ? NEXT : 0, (uint16_t)i);
    }
    assert_int_equal(peek(RING_BURST), 1);
    expect_segs(&b.chain[0], RING_MAX_SEGS, RING_MAX_SEGS, 0x100000);
    assert_int_equal(b.chain[0].id, RING_MAX_SEGS - 1);

    fresh(8, false); /* a chain of the whole ring; the longest table on a small ring */
    for (uint32_t i = 0; i < 8; i++) {
        put(0x100000 + 0x100ull * i, i + 1, i < 7 ? NEXT : 0, 9);
    }
    assert_int_equal(peek(RING_BURST), 1);
    expect_segs(&b.chain[0], 8, 8, 0x100000);
    commit(1, NULL);
    assert_int_equal(ring_base(&r), 0); /* next lap */
    assert_int_equal(r.signalled, 0);
    put(gpa_of(g.table), 16 * RING_MAX_SEGS, INDIRECT, 3);
    table_of(0, RING_MAX_SEGS, 0x100000, 0);
    assert_int_equal(peek(RING_BURST), 1);
    expect_segs(&b.chain[0], RING_MAX_SEGS, 1, 0x100000);
}

/* Chains that do not fit behind the others of a burst are the first of the next one. */
static void test_pool_exhaustion(void **state)
{
    unsigned seen = 0, bursts = 0;

    (void)state;
    fresh(4096, false);
    for (uint32_t i = 0; i < 30 * 100; i++) {
        uint32_t k = i % 100;

        put(0x100000 + 0x100ull * k, k + 1, k < 99 ? NEXT : 0, (uint16_t)(i / 100));
    }
    for (; seen < 30; bursts++) {
        uint32_t n = peek(RING_BURST);

        assert_int_equal(n, 10); /* 1024 / 100 */
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(b.chain[i].id, seen + i);
            expect_segs(&b.chain[i], 100, 100, 0x100000);
        }
        commit(n, NULL);
        seen += n;
    }
    assert_int_equal(bursts, 3);
    assert_int_equal(peek(RING_BURST), 0);
}

/* --- cursor and laps --- */

static void test_peek_changes_nothing(void **state)
{
    uint32_t lens[] = {11, 12, 13};

    (void)state;
    fresh(10, true);
    for (uint16_t i = 0; i < 10; i++) {
        put(0x1000u * i, i + 1u, WRITE, (uint16_t)(100 + i));
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(peek(7), 7);
        assert_int_equal(b.chain[0].id, 100);
        assert_int_equal(ring_base(&r), VRING_PACKED_WRAP);
    }
    commit(3, lens); /* a part of the burst */
    for (unsigned i = 0; i < 3; i++) {
        expect_used(i, true, (uint16_t)(100 + i), lens[i]);
        assert_true(g.desc[i].flags & WRITE);
    }
    assert_int_equal(g.desc[3].flags, packed_avail_bits(true) | WRITE);
    assert_int_equal(peek(64), 7);
    assert_int_equal(b.chain[0].id, 103);
    assert_false(commit(0, lens));
    assert_int_equal(ring_base(&r), 3 | VRING_PACKED_WRAP);
    commit(7, (uint32_t[7]){0});
    assert_int_equal(ring_base(&r), 0);
}

/* Many laps of rings of odd sizes; stopped and started again from ring_base() at every turn. */
static void test_laps(void **state)
{
    static const uint32_t sizes[] = {1, 2, 3, 7, 16, 100};

    (void)state;
    for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++) {
        uint32_t seq = 0;

        fresh(sizes[s], false);
        for (unsigned turn = 0; turn < 2000; turn++) {
            uint32_t n = 1 + turn * 7 % MIN(sizes[s], 60u), from = next;
            bool in_lap = lap;

            for (uint32_t i = 0; i < n; i++) {
                put(seq + i, i + 1, 0, (uint16_t)(seq + i));
            }
            assert_true(ring_dev_more(L, &r));
            assert_int_equal(peek(RING_BURST), n);
            for (uint32_t i = 0; i < n; i++) {
                assert_int_equal(b.chain[i].seg.addr, seq + i);
                assert_int_equal(b.chain[i].id, (uint16_t)(seq + i));
            }
            commit(n, NULL);
            for (uint32_t i = 0; i < n; i++) {
                uint32_t at = from + i;

                expect_used(at % num, at < num ? in_lap : !in_lap, (uint16_t)(seq + i), 0);
            }
            seq += n;
            assert_int_equal(ring_base(&r), next | (lap ? VRING_PACKED_WRAP : 0));
            ring_init(&r, &(struct ring_setup){.layout = L,
                                               .desc = g.desc,
                                               .avail = &g.driver,
                                               .used = &g.device,
                                               .num = num,
                                               .base = ring_base(&r),
                                               .mem = mem});
            assert_int_equal(peek(RING_BURST), 0);
        }
    }
}

/* --- signals and sleep --- */

static bool use(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        put(GPA, 1, 0, (uint16_t)i);
    }
    assert_int_equal(peek(n), n);
    return commit(n, NULL);
}

static void ask(uint32_t slot, bool in_lap, uint16_t flags)
{
    g.driver.word = VRING_EVENT_WORD(slot | (in_lap ? VRING_PACKED_WRAP : 0), flags);
}

/* By definition: told if the descriptor that was asked for is among those just passed. */
static void test_wants_arithmetic(void **state)
{
    (void)state;
    for (uint32_t n = 1; n < 40; n += 3) {
        for (uint32_t pos = 0; pos < 2 * n; pos++) { /* two laps: lap 1, then lap 0 */
            for (uint32_t slots = 0; slots <= n; slots++) {
                for (uint32_t e = 0; e < 2 * n; e++) {
                    /* how many slots in front of `pos` is e, on the circle of two laps? */
                    uint32_t behind = (pos + 2 * n - e) % (2 * n);
                    bool want = behind && behind <= slots;
                    uint32_t word = VRING_EVENT_WORD(e % n | (e < n ? VRING_PACKED_WRAP : 0),
                                                     VRING_EVENT_F_DESC);

                    assert_int_equal(
                        vring_packed_wants(word, true, n, (uint16_t)(pos % n), pos < n, slots),
                        want);
                }
            }
        }
    }
}

static void test_signal_once_after_start(void **state)
{
    (void)state;
    for (int event = 0; event < 2; event++) {
        start(64, VRING_PACKED_WRAP, false, event, true);
        ask(0, false, VRING_EVENT_F_DISABLE);
        assert_true(use(1));
        assert_false(use(1));
        r.signalled_valid = false; /* a new call fd */
        assert_true(use(1));
        assert_false(use(1));
    }
}

static void test_signal_by_flags(void **state)
{
    (void)state;
    start(64, VRING_PACKED_WRAP, false, false, true);
    use(1);              /* the first is unconditional */
    assert_true(use(1)); /* 0 is enable */
    ask(60, true, VRING_EVENT_F_DISABLE);
    assert_false(use(2));
    ask(60, true, VRING_EVENT_F_DESC); /* not negotiated: as enable */
    assert_true(use(1));
    ask(60, true, 3); /* reserved: as enable */
    assert_true(use(1));
    g.driver.word |= 0xfffc0000; /* only two bits count */
    assert_true(use(1));
    assert_false(ring_dev_signal_due(L, &r)); /* nothing was used since */
}

static void test_signal_by_event(void **state)
{
    (void)state;
    start(10, VRING_PACKED_WRAP | 7, false, true, true);
    use(1);
    ask(8, true, VRING_EVENT_F_DESC);
    assert_true(use(1)); /* slot 8 */
    assert_false(use(1));
    ask(3, false, VRING_EVENT_F_DESC); /* across the end of the lap, in the middle of a burst */
    assert_false(use(3));              /* 0 .. 2 of the next lap */
    assert_true(use(4));
    assert_false(use(2));
    ask(9, false, VRING_EVENT_F_DISABLE);
    assert_false(use(1));
    /* Several publications to one look count together, also a whole lap. */
    ask(2, true, VRING_EVENT_F_DESC);
    for (int i = 0; i < 9; i++) {
        put(GPA, 1, 0, 1);
        peek(1);
        ring_dev_publish(L, &r, &b, 1, NULL);
    }
    assert_true(ring_dev_signal_due(L, &r));
    assert_false(ring_dev_signal_due(L, &r));
}

static void test_notify_on_empty(void **state)
{
    (void)state;
    start(8, VRING_PACKED_WRAP, false, false, true);
    r.on_empty = true;
    use(1);
    ask(0, false, VRING_EVENT_F_DISABLE);
    put(GPA, 1, 0, 1);
    put(GPA, 1, 0, 2);
    assert_int_equal(peek(1), 1);
    assert_false(commit(1, NULL)); /* one is left */
    assert_int_equal(peek(1), 1);
    assert_true(commit(1, NULL));
}

static void test_arm_and_disarm(void **state)
{
    (void)state;
    start(5, VRING_PACKED_WRAP | 4, false, false, true);
    ring_dev_disarm(L, &r);
    assert_int_equal(g.device.word, VRING_EVENT_WORD(0, VRING_EVENT_F_DISABLE));
    assert_false(ring_dev_arm(L, &r));
    assert_int_equal(g.device.word, VRING_EVENT_WORD(0, VRING_EVENT_F_ENABLE));
    assert_true(r.armed);
    put(GPA, 1, 0, 0);
    assert_true(ring_dev_arm(L, &r)); /* it came before we slept */
    ring_dev_disarm(L, &r);
    assert_false(r.armed);

    start(5, VRING_PACKED_WRAP | 4, false, true, true);
    assert_false(ring_dev_arm(L, &r));
    assert_int_equal(g.device.word, VRING_EVENT_WORD(4 | VRING_PACKED_WRAP, VRING_EVENT_F_DESC));
    /* the driver's next publication kicks */
    assert_true(vring_packed_wants(g.device.word, true, 5, 0, false, 1));
    use(1);
    ring_dev_disarm(L, &r);
    assert_int_equal(g.device.word >> 16, VRING_EVENT_F_DISABLE);
    assert_false(ring_dev_arm(L, &r));
    assert_int_equal(g.device.word, VRING_EVENT_WORD(0, VRING_EVENT_F_DESC)); /* the next lap */
}

/* --- the driver side distrusts, too --- */

static struct ring_drv drv;

static void driver(uint32_t n)
{
    struct ring_drv_setup s = {.layout = L, .mem = &g, .num = n, .base = ring_drv_fresh(L)};
    struct ring_seg seg = {.addr = GPA, .len = 100};

    assert_true(ring_drv_bytes(n) <= sizeof(g));
    assert_int_equal(ring_drv_init(&drv, &s), 0);
    for (uint32_t i = 0; i + 1 < n; i++) {
        assert_int_equal(ring_drv_add(L, &drv, &seg, 0, 1, NULL), i);
    }
    ring_drv_publish(L, &drv);
}

static void device_says(uint32_t slot, uint16_t id, uint32_t len, bool in_lap)
{
    drv.pdesc[slot].id = id;
    drv.pdesc[slot].len = len;
    drv.pdesc[slot].flags = packed_used_bits(in_lap);
}

static void test_driver_refuses_lies(void **state)
{
    struct ring_drv_used u[8];

    (void)state;
    static const struct {
        uint16_t id;
        uint32_t len;
        enum ring_drv_fault fault;
    } lie[] = {{6, 0, RING_DRV_FAULT_USED_ID},
               {0xffff, 0, RING_DRV_FAULT_USED_ID},
               {5, 0, RING_DRV_FAULT_USED_ID},
               {0, 101, RING_DRV_FAULT_USED_LEN},
               {0, 0xffffffff, RING_DRV_FAULT_USED_LEN}};
    for (unsigned i = 0; i < ARRAY_SIZE(lie); i++) {
        driver(6); /* id 5 is free */
        device_says(0, 1, 100, true);
        device_says(1, lie[i].id, lie[i].len, true);
        assert_true(ring_drv_pending(L, &drv, 8) >= 1);
        assert_int_equal(ring_drv_reap(L, &drv, u, 8), 1);
        assert_int_equal(u[0].id, 1);
        assert_int_equal(drv.broken, lie[i].fault);
        assert_int_equal(ring_drv_reap(L, &drv, u, 8), 0);
        assert_false(ring_drv_more(L, &drv));
        ring_drv_fini(&drv);
    }
    driver(6); /* twice the same */
    device_says(0, 1, 0, true);
    device_says(1, 1, 0, true);
    assert_int_equal(ring_drv_reap(L, &drv, u, 8), 1);
    assert_int_equal(drv.broken, RING_DRV_FAULT_USED_ID);
    ring_drv_fini(&drv);

    driver(6); /* more than was posted */
    for (uint16_t i = 0; i < 6; i++) {
        device_says(i, i, 0, true);
    }
    assert_int_equal(ring_drv_pending(L, &drv, 8), 5);
    assert_int_equal(ring_drv_reap(L, &drv, u, 8), 5);
    assert_int_equal(drv.broken, RING_DRV_FAULT_USED_JUMP);
    ring_drv_fini(&drv);
}

/* What comes back is posted again as it was, in the same slots of the next lap; and a lie in any place
 * is found in there, too. */
static void test_driver_recycles(void **state)
{
    struct ring_drv_setup s = {.layout = L, .mem = &g, .num = 6, .base = ring_drv_fresh(L)};
    struct ring_seg seg = {.addr = GPA, .len = 100};

    (void)state;
    for (uint16_t liar = 0; liar <= 12; liar++) { /* 12: nobody lies */
        uint64_t bytes = 0;

        assert_int_equal(ring_drv_init(&drv, &s), 0);
        for (uint16_t i = 0; i < 6; i++) {
            assert_int_equal(ring_drv_add(L, &drv, &seg, 0, 1, NULL), i);
        }
        ring_drv_publish(L, &drv);
        for (uint16_t i = 0; i < 6; i++) {
            bool bad_id = liar == i, bad_len = liar == i + 6;

            device_says(i, bad_id ? 6 : i, bad_len ? 101 : i, true);
        }
        uint32_t n = liar < 12 ? liar % 6 : 6;
        assert_int_equal(ring_drv_recycle(L, &drv, 64, &bytes), n);
        assert_int_equal(bytes, n * (n - 1) / 2);
        assert_int_equal(drv.broken, liar < 6    ? RING_DRV_FAULT_USED_ID
                                     : liar < 12 ? RING_DRV_FAULT_USED_LEN
                                                 : RING_DRV_FAULT_NONE);
        if (n) {
            assert_int_equal(drv.pdesc[0].flags, packed_used_bits(true)); /* not yet */
        }
        ring_drv_publish(L, &drv);
        for (uint16_t i = 0; i < n; i++) {
            assert_int_equal(drv.pdesc[i].flags, packed_avail_bits(false) | WRITE);
            assert_int_equal(drv.pdesc[i].id, i);
            assert_int_equal(drv.pdesc[i].len, 100);
            assert_int_equal(drv.pdesc[i].addr, GPA);
        }
        assert_int_equal(drv.packed.out, 6);
        assert_int_equal(ring_drv_recycle(L, &drv, 64, &bytes), 0);
        ring_drv_fini(&drv);
    }
}

/* A device that is not in order: ids tell, and each takes as many slots as its chain has. */
static void test_driver_out_of_order(void **state)
{
    struct ring_drv_setup s = {.layout = L, .mem = &g, .num = 7, .base = ring_drv_fresh(L)};
    struct ring_seg seg[3] = {{.addr = GPA, .len = 100}, {.addr = GPA, .len = 10}, {.addr = GPA}};
    struct ring_drv_used u[8];

    (void)state;
    assert_int_equal(ring_drv_init(&drv, &s), 0);
    for (unsigned round = 0; round < 50; round++) {
        int a = ring_drv_add(L, &drv, seg, 0, 3, "a"), c = ring_drv_add(L, &drv, seg, 0, 2, "c");
        uint32_t at = drv.packed.used_at;
        bool in_lap = drv.packed.used_wrap;

        assert_true(a >= 0 && c >= 0);
        assert_int_equal(ring_drv_n_free(&drv), 2);
        ring_drv_publish(L, &drv);
        device_says(at, (uint16_t)c, 7, in_lap);
        at += 2; /* the slots of c */
        in_lap ^= at >= 7;
        device_says(at % 7, (uint16_t)a, 110, in_lap);
        assert_int_equal(ring_drv_pending(L, &drv, 8), 2);
        assert_int_equal(ring_drv_reap(L, &drv, u, 8), 2);
        assert_int_equal(u[0].id, c);
        assert_int_equal(u[1].id, a);
        assert_int_equal(u[1].len, 110);
        ring_drv_release(&drv, u[0].id);
        ring_drv_release(&drv, u[1].id);
        assert_int_equal(ring_drv_n_free(&drv), 7);
        assert_int_equal(drv.packed.out, 0);
    }
    ring_drv_fini(&drv);
}

static int setup(void **state)
{
    (void)state;
    mem = gmem_local(&g, GPA, sizeof(g));
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
        cmocka_unit_test(test_next_on_every_slot),
        cmocka_unit_test(test_chain_over_others),
        cmocka_unit_test(test_never_round_the_ring),
        cmocka_unit_test(test_descriptors_of_another_lap),
        cmocka_unit_test(test_indirect_bad),
        cmocka_unit_test(test_indirect_unmapped),
        cmocka_unit_test(test_direction),
        cmocka_unit_test(test_guest_changes_its_mind),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_longest_chain),
        cmocka_unit_test(test_pool_exhaustion),
        cmocka_unit_test(test_peek_changes_nothing),
        cmocka_unit_test(test_laps),
        cmocka_unit_test(test_wants_arithmetic),
        cmocka_unit_test(test_signal_once_after_start),
        cmocka_unit_test(test_signal_by_flags),
        cmocka_unit_test(test_signal_by_event),
        cmocka_unit_test(test_notify_on_empty),
        cmocka_unit_test(test_arm_and_disarm),
        cmocka_unit_test(test_driver_refuses_lies),
        cmocka_unit_test(test_driver_recycles),
        cmocka_unit_test(test_driver_out_of_order),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
