/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device side of the ring against a driver that lies: each fault of RING_FAULTS that this layer
 * can find has a test that builds the lie by hand, descriptor by descriptor.  Then chain forms,
 * limits, index wrap, event-index arithmetic and the decisions to signal and to sleep.
 */
#include "ring/ring_dev.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "ring/ring_drv.h"

#define L RING_SPLIT
#define GPA 0x100000ull /* guest-physical address of mem[0] */

/* A guest of 1 MiB: ring parts at fixed places, the rest is for tables. */
static struct {
    struct vring_desc desc[4096];
    uint64_t avail[(4 + 2 * 4096 + 2) / 8 + 1];
    uint64_t used[(4 + 8 * 4096 + 2) / 8 + 1];
    struct vring_desc table[8192] __attribute__((aligned(16)));
} g __attribute__((aligned(4096)));
static struct vring_avail *const avail = (struct vring_avail *)g.avail;
static struct vring_used *const used = (struct vring_used *)g.used;

static struct gmem *mem;
static struct ring r;
static struct ring_burst b;
static uint32_t num;

static uint64_t gpa_of(const void *p)
{
    return GPA + (uint64_t)((const uint8_t *)p - (const uint8_t *)&g);
}

static void start(uint32_t n, uint16_t base, bool write, bool event_idx, bool indirect)
{
    struct ring_setup s = {.desc = g.desc, .avail = avail, .used = used, .num = n,
                           .base = base, .event_idx = event_idx, .indirect = indirect,
                           .write = write, .mem = mem};

    memset(&g, 0, sizeof(g));
    memset(&b, 0xee, sizeof(b)); /* leftovers must not matter */
    num = n;
    avail->idx = base;
    used->idx = base;
    ring_init(&r, &s);
}

static void set(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    *d = (struct vring_desc){.addr = addr, .len = len, .flags = flags, .next = next};
}

static void offer(uint16_t head)
{
    avail->ring[avail->idx & (num - 1)] = head;
    avail->idx++;
}

/* One chain at head 0 was offered; expect it to be refused for this reason, and the ring to live. */
static void expect_chain_fault(enum ring_fault f)
{
    assert_int_equal(ring_dev_peek(L, &r, &b, RING_BURST), 1);
    assert_int_equal(b.chain[0].fault, f);
    assert_int_equal(b.chain[0].n_seg, 0);
    assert_int_equal(b.chain[0].id, 0);
    assert_int_equal(r.broken, RING_FAULT_NONE);
    ring_dev_commit(L, &r, &b, 1, NULL);
    assert_int_equal(used->idx, 1);
    assert_int_equal(used->ring[0].id, 0);
    assert_int_equal(used->ring[0].len, 0);
}

static void expect_broken(enum ring_fault f)
{
    assert_int_equal(r.broken, f);
    assert_int_equal(ring_dev_peek(L, &r, &b, RING_BURST), 0);
    assert_int_equal(b.n, 0);
    assert_int_equal(r.broken, f); /* sticky */
    assert_false(ring_dev_arm(L, &r));
}

/* --- lies about the ring --- */

static void test_avail_jump(void **state)
{
    (void)state;
    for (unsigned past = 1; past < 65536 - 8; past += 1009) {
        start(8, 100, false, false, true);
        avail->idx = (uint16_t)(100 + 8 + past);
        assert_int_equal(ring_dev_peek(L, &r, &b, 4), 0);
        expect_broken(RING_FAULT_AVAIL_JUMP);
        assert_int_equal(used->idx, 100);
    }
    start(8, 100, false, false, true); /* exactly full is fine */
    avail->idx = 108;
    assert_int_equal(ring_dev_peek(L, &r, &b, RING_BURST), 8);
}

static void test_avail_runs_backwards(void **state)
{
    (void)state;
    start(8, 100, false, false, true);
    offer(0);
    assert_int_equal(ring_dev_peek(L, &r, &b, 8), 1);
    ring_dev_commit(L, &r, &b, 1, NULL);
    avail->idx = 100;
    assert_int_equal(ring_dev_peek(L, &r, &b, 8), 0);
    expect_broken(RING_FAULT_AVAIL_JUMP);
}

static void test_head_range(void **state)
{
    static const uint16_t bad[] = {8, 9, 0x7fff, 0x8000, 0xffff};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        start(8, 0, false, false, true);
        offer(3);
        offer(bad[i]);
        offer(4);
        /* The chains in front of the lie are good, and completed. */
        assert_int_equal(ring_dev_peek(L, &r, &b, 8), 1);
        assert_int_equal(b.chain[0].id, 3);
        ring_dev_commit(L, &r, &b, 1, NULL);
        assert_int_equal(used->idx, 1);
        expect_broken(RING_FAULT_HEAD_RANGE);
    }
}

/* --- lies about a chain --- */

static void test_next_range(void **state)
{
    static const uint16_t bad[] = {8, 0xffff, 0x8000};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        start(8, 0, false, false, true);
        set(&g.desc[0], GPA, 1, VRING_DESC_F_NEXT, bad[i]);
        offer(0);
        expect_chain_fault(RING_FAULT_NEXT_RANGE);

        start(8, 0, false, false, true); /* in an indirect table: beyond the table, not the ring */
        set(&g.desc[0], gpa_of(g.table), 32, VRING_DESC_F_INDIRECT, 0);
        set(&g.table[0], GPA, 1, VRING_DESC_F_NEXT, i ? bad[i] : 2);
        offer(0);
        expect_chain_fault(RING_FAULT_NEXT_RANGE);
    }
}

static void test_loops(void **state)
{
    (void)state;
    start(8, 0, false, false, true); /* to itself */
    set(&g.desc[0], GPA, 1, VRING_DESC_F_NEXT, 0);
    offer(0);
    expect_chain_fault(RING_FAULT_CHAIN_LONG);

    start(8, 0, true, false, true); /* zero length, through two */
    set(&g.desc[0], GPA, 0, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 5);
    set(&g.desc[5], GPA, 0, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0);
    offer(0);
    expect_chain_fault(RING_FAULT_CHAIN_LONG);

    start(8, 0, false, false, true); /* within an indirect table */
    set(&g.desc[0], gpa_of(g.table), 3 * 16, VRING_DESC_F_INDIRECT, 0);
    set(&g.table[0], GPA, 1, VRING_DESC_F_NEXT, 2);
    set(&g.table[2], GPA, 1, VRING_DESC_F_NEXT, 0);
    offer(0);
    expect_chain_fault(RING_FAULT_CHAIN_LONG);

    start(4096, 0, false, false, true); /* a ring with more entries than a chain may have */
    set(&g.desc[0], GPA, 1, VRING_DESC_F_NEXT, 0);
    offer(0);
    expect_chain_fault(RING_FAULT_CHAIN_LONG);
}

/* A loop behind a good chain finds the pool half full: it is looked at again, alone, and refused
 * then.  It must not be retried for ever. */
static void test_loop_behind_others_makes_progress(void **state)
{
    (void)state;
    start(4096, 0, false, false, true);
    set(&g.desc[0], GPA, 1, VRING_DESC_F_NEXT, 1);
    set(&g.desc[1], GPA, 1, 0, 0);
    set(&g.desc[2], GPA, 1, VRING_DESC_F_NEXT, 2);
    offer(0);
    offer(2);
    offer(1);
    assert_int_equal(ring_dev_peek(L, &r, &b, 8), 1);
    assert_int_equal(b.chain[0].n_seg, 2);
    ring_dev_commit(L, &r, &b, 1, NULL);
    assert_int_equal(ring_dev_peek(L, &r, &b, 8), 2);
    assert_int_equal(b.chain[0].fault, RING_FAULT_CHAIN_LONG);
    assert_int_equal(b.chain[1].fault, RING_FAULT_NONE);
    assert_int_equal(b.chain[1].id, 1);
}

static void test_indirect_bad(void **state)
{
    static const uint32_t bad_len[] = {0, 1, 15, 17, 16 * (RING_MAX_SEGS + 1), 0xfffffff0, 0xffffffff};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad_len); i++) {
        start(8, 0, false, false, true);
        set(&g.desc[0], gpa_of(g.table), bad_len[i], VRING_DESC_F_INDIRECT, 0);
        offer(0);
        expect_chain_fault(RING_FAULT_INDIRECT_BAD);
    }
    start(8, 0, false, false, true); /* nested */
    set(&g.desc[0], gpa_of(g.table), 32, VRING_DESC_F_INDIRECT, 0);
    set(&g.table[0], GPA, 1, VRING_DESC_F_NEXT, 1);
    set(&g.table[1], gpa_of(g.table), 32, VRING_DESC_F_INDIRECT, 0);
    offer(0);
    expect_chain_fault(RING_FAULT_INDIRECT_BAD);

    start(8, 0, false, false, true); /* together with NEXT */
    set(&g.desc[0], gpa_of(g.table), 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
    set(&g.table[0], GPA, 1, 0, 0);
    offer(0);
    expect_chain_fault(RING_FAULT_INDIRECT_BAD);

    start(8, 0, false, false, false); /* not negotiated */
    set(&g.desc[0], gpa_of(g.table), 16, VRING_DESC_F_INDIRECT, 0);
    set(&g.table[0], GPA, 1, 0, 0);
    offer(0);
    expect_chain_fault(RING_FAULT_INDIRECT_BAD);
}

static void test_indirect_unmapped(void **state)
{
    static const uint64_t bad[] = {0, GPA - 16, GPA + sizeof(g), UINT64_MAX - 15, UINT64_MAX - 31};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        start(8, 0, false, false, true);
        set(&g.desc[0], bad[i], 64, VRING_DESC_F_INDIRECT, 0);
        offer(0);
        expect_chain_fault(RING_FAULT_INDIRECT_UNMAPPED);
    }
    /* The first entry is inside, the second is not; its address wraps around. */
    start(8, 0, false, false, true);
    set(&g.desc[0], GPA + sizeof(g) - 16, 64, VRING_DESC_F_INDIRECT, 0);
    set((struct vring_desc *)((uint8_t *)&g + sizeof(g) - 16), GPA, 1, VRING_DESC_F_NEXT, 1);
    offer(0);
    expect_chain_fault(RING_FAULT_INDIRECT_UNMAPPED);
}

static void test_direction(void **state)
{
    (void)state;
    for (int write = 0; write < 2; write++) {
        uint16_t good = write ? VRING_DESC_F_WRITE : 0, bad = write ? 0 : VRING_DESC_F_WRITE;

        start(8, 0, write, false, true);
        set(&g.desc[0], GPA, 1, bad, 0);
        offer(0);
        expect_chain_fault(RING_FAULT_DIRECTION);

        start(8, 0, write, false, true); /* only the last one */
        set(&g.desc[0], GPA, 1, good | VRING_DESC_F_NEXT, 1);
        set(&g.desc[1], GPA, 1, bad, 0);
        offer(0);
        expect_chain_fault(RING_FAULT_DIRECTION);

        start(8, 0, write, false, true);
        set(&g.desc[0], gpa_of(g.table), 16, VRING_DESC_F_INDIRECT, 0);
        set(&g.table[0], GPA, 1, bad, 0);
        offer(0);
        expect_chain_fault(RING_FAULT_DIRECTION);

        start(8, 0, write, false, true); /* on the table's own descriptor it means nothing */
        set(&g.desc[0], gpa_of(g.table), 16, VRING_DESC_F_INDIRECT | bad, 0);
        set(&g.table[0], GPA, 1, good, 0);
        offer(0);
        assert_int_equal(ring_dev_peek(L, &r, &b, 8), 1);
        assert_int_equal(b.chain[0].fault, RING_FAULT_NONE);
    }
}

static void test_fault_texts(void **state)
{
    (void)state;
    for (int f = 0; f < RING_N_FAULTS; f++) {
        assert_true(strlen(ring_fault_text(f)) > 4);
    }
    assert_string_equal(ring_fault_text(RING_N_FAULTS), "unknown fault");
    assert_string_equal(ring_fault_text((enum ring_fault)-1), "unknown fault");
}

/* --- chain forms --- */

static void expect_segs(const struct ring_chain *c, uint16_t n, uint64_t first_addr)
{
    const struct ring_seg *s = c->n_seg > 1 ? &b.pool[c->pool] : &c->seg;

    assert_int_equal(c->fault, RING_FAULT_NONE);
    assert_int_equal(c->n_seg, n);
    assert_int_equal(c->seg.addr, first_addr);
    for (uint16_t i = 0; i < n; i++) {
        assert_int_equal(s[i].addr, first_addr + 0x100ull * i);
        assert_int_equal(s[i].len, i + 1);
    }
}

static void test_forms(void **state)
{
    const uint16_t n = VRING_DESC_F_NEXT;

    (void)state;
    start(16, 0, false, false, true);
    set(&g.desc[9], 0x1000, 1, 0, 3); /* `next` without NEXT means nothing */
    offer(9);
    set(&g.desc[0], 0x2000, 1, n, 7); /* a direct chain, not in order of the table */
    set(&g.desc[7], 0x2100, 2, n, 1);
    set(&g.desc[1], 0x2200, 3, 0, 0);
    offer(0);
    set(&g.desc[2], gpa_of(g.table), 48, VRING_DESC_F_INDIRECT, 0); /* indirect, links crosswise */
    set(&g.table[0], 0x3000, 1, n, 2);
    set(&g.table[2], 0x3100, 2, n, 1);
    set(&g.table[1], 0x3200, 3, 0, 0);
    offer(2);
    set(&g.desc[3], 0x4000, 1, n, 4); /* direct, ending in one indirect table */
    set(&g.desc[4], 0x4100, 2, n, 5);
    set(&g.desc[5], gpa_of(g.table + 10), 32, VRING_DESC_F_INDIRECT, 0);
    set(&g.table[10], 0x4200, 3, n, 1);
    set(&g.table[11], 0x4300, 4, 0, 0);
    offer(3);
    set(&g.desc[6], gpa_of(g.table + 20), 16, VRING_DESC_F_INDIRECT, 0); /* a table of one */
    set(&g.table[20], 0x5000, 1, 0, 0);
    offer(6);
    assert_int_equal(ring_dev_peek(L, &r, &b, RING_BURST), 5);
    expect_segs(&b.chain[0], 1, 0x1000);
    expect_segs(&b.chain[1], 3, 0x2000);
    expect_segs(&b.chain[2], 3, 0x3000);
    expect_segs(&b.chain[3], 4, 0x4000);
    expect_segs(&b.chain[4], 1, 0x5000);
    assert_int_equal(b.chain[0].id, 9);
    assert_int_equal(b.chain[4].id, 6);
    /* Reserved flags are ignored, as 2.7.5 asks of a device. */
    set(&g.desc[8], 0x6000, 1, 0x8000 | 8, 0);
    offer(8);
    assert_int_equal(ring_dev_peek(L, &r, &b, RING_BURST), 6);
    expect_segs(&b.chain[5], 1, 0x6000);
}

/* An indirect table cut into regions of one byte. */
static void test_indirect_across_regions(void **state)
{
    enum { BYTES = 3 * 16 };
    static struct gmem_region cut[BYTES];
    static uint8_t scattered[BYTES][2];
    struct vring_desc t[3];
    struct gmem *m;

    (void)state;
    start(8, 0, false, false, true);
    set(&t[0], 0x3000, 1, VRING_DESC_F_NEXT, 2);
    set(&t[2], 0x3100, 2, VRING_DESC_F_NEXT, 1);
    set(&t[1], 0x3200, 3, 0, 0);
    for (unsigned i = 0; i < BYTES; i++) {
        uint8_t *p = scattered[BYTES - 1 - i]; /* backwards, with gaps */

        *p = ((uint8_t *)t)[i];
        cut[i] = (struct gmem_region){.gpa = 0x9000 + i, .size = 1, .uva = 0x9000 + i,
                                      .va = GUEST_PTR(uint8_t GUEST, p)};
    }
    m = gmem_local_n(cut, BYTES);
    r.mem = m;
    set(&g.desc[0], 0x9000, BYTES, VRING_DESC_F_INDIRECT, 0);
    offer(0);
    assert_int_equal(ring_dev_peek(L, &r, &b, 8), 1);
    expect_segs(&b.chain[0], 3, 0x3000);

    set(&g.desc[0], 0x9000, BYTES + 16, VRING_DESC_F_INDIRECT, 0); /* longer than what is there */
    set(&t[1], 0x3200, 3, VRING_DESC_F_NEXT, 3);
    for (unsigned i = 0; i < BYTES; i++) {
        scattered[BYTES - 1 - i][0] = ((uint8_t *)t)[i];
    }
    assert_int_equal(ring_dev_peek(L, &r, &b, 8), 1);
    assert_int_equal(b.chain[0].fault, RING_FAULT_INDIRECT_UNMAPPED);
    r.mem = mem;
    gmem_free(m);
}

static void chain_of(uint16_t head, uint16_t n)
{
    for (uint16_t i = 0; i < n; i++) {
        bool last = i + 1 == n;

        set(&g.desc[head + i], 0x100000 + 0x100ull * i, i + 1u, last ? 0 : VRING_DESC_F_NEXT,
            (uint16_t)(head + i + 1));
    }
    offer(head);
}

static void test_longest_chain(void **state)
{
    (void)state;
    start(2048, 0, false, false, true);
    chain_of(0, RING_MAX_SEGS);
    assert_int_equal(ring_dev_peek(L, &r, &b, RING_BURST), 1);
    expect_segs(&b.chain[0], RING_MAX_SEGS, 0x100000);

    start(2048, 0, false, false, true);
    chain_of(0, RING_MAX_SEGS + 1);
    expect_chain_fault(RING_FAULT_CHAIN_LONG);

    start(8, 0, false, false, true); /* the longest indirect table on a small ring */
    set(&g.desc[0], gpa_of(g.table), 16 * RING_MAX_SEGS, VRING_DESC_F_INDIRECT, 0);
    for (uint16_t i = 0; i < RING_MAX_SEGS; i++) {
        set(&g.table[i], 0x100000 + 0x100ull * i, i + 1u,
            i + 1 < RING_MAX_SEGS ? VRING_DESC_F_NEXT : 0, (uint16_t)(i + 1));
    }
    offer(0);
    assert_int_equal(ring_dev_peek(L, &r, &b, RING_BURST), 1);
    expect_segs(&b.chain[0], RING_MAX_SEGS, 0x100000);

    set(&g.desc[0], 0x100000, 1, VRING_DESC_F_NEXT, 1); /* one more in front of it */
    set(&g.desc[1], gpa_of(g.table), 16 * RING_MAX_SEGS, VRING_DESC_F_INDIRECT, 0);
    assert_int_equal(ring_dev_peek(L, &r, &b, RING_BURST), 1);
    assert_int_equal(b.chain[0].fault, RING_FAULT_CHAIN_LONG);
}

/* Chains that do not fit in the pool any more wait for the next burst; none is lost. */
static void test_pool_exhaustion(void **state)
{
    unsigned seen = 0, bursts = 0;

    (void)state;
    start(4096, 0, false, false, true);
    for (unsigned i = 0; i < 30; i++) {
        chain_of((uint16_t)(i * 100), 100);
    }
    while (seen < 30) {
        uint32_t n = ring_dev_peek(L, &r, &b, RING_BURST);

        assert_int_equal(n, 10); /* 1024 / 100 */
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(b.chain[i].id, (seen + i) * 100);
            expect_segs(&b.chain[i], 100, 0x100000);
        }
        ring_dev_commit(L, &r, &b, n, NULL);
        seen += n;
        bursts++;
    }
    assert_int_equal(bursts, 3);
    assert_int_equal(ring_dev_peek(L, &r, &b, RING_BURST), 0);
}

/* --- cursor --- */

static void test_peek_changes_nothing(void **state)
{
    (void)state;
    start(64, 0, true, false, true);
    for (uint16_t i = 0; i < 10; i++) {
        set(&g.desc[i], 0x1000u * i, i + 1u, VRING_DESC_F_WRITE, 0);
        offer(i);
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(ring_dev_peek(L, &r, &b, 7), 7);
        assert_int_equal(b.chain[0].id, 0);
        assert_int_equal(used->idx, 0);
    }
    uint32_t lens[] = {11, 12, 13};
    ring_dev_commit(L, &r, &b, 3, lens); /* a part of the burst */
    assert_int_equal(used->idx, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(used->ring[i].id, i);
        assert_int_equal(used->ring[i].len, lens[i]);
    }
    assert_int_equal(ring_dev_peek(L, &r, &b, 64), 7);
    assert_int_equal(b.chain[0].id, 3);
    assert_false(ring_dev_commit(L, &r, &b, 0, lens)); /* nothing */
    assert_int_equal(used->idx, 3);
}

/* Every value is decided on as it was when it was read. */
static void test_guest_changes_its_mind(void **state)
{
    (void)state;
    start(8, 0, false, false, true);
    set(&g.desc[0], 0x1000, 60, 0, 0);
    offer(0);
    assert_int_equal(ring_dev_peek(L, &r, &b, 8), 1);
    set(&g.desc[0], 0xbad, 0xffffffff, VRING_DESC_F_NEXT, 0xffff);
    avail->ring[0] = 0xffff;
    assert_int_equal(b.chain[0].seg.addr, 0x1000);
    assert_int_equal(b.chain[0].seg.len, 60);
    ring_dev_commit(L, &r, &b, 1, NULL);
    assert_int_equal(used->ring[0].id, 0);
}

static void test_index_wraps(void **state)
{
    uint16_t next = 65530;
    unsigned done = 0;

    (void)state;
    for (int event = 0; event < 2; event++) {
        start(4, next, false, event, true);
        for (done = 0; done < 200000; done += 3) {
            for (uint16_t i = 0; i < 3; i++) {
                uint16_t head = (uint16_t)((next + i) & 3);

                set(&g.desc[head], done + i, i + 1u, 0, 0);
                offer(head);
            }
            assert_int_equal(ring_dev_peek(L, &r, &b, 4), 3);
            for (uint16_t i = 0; i < 3; i++) {
                assert_int_equal(b.chain[i].id, (next + i) & 3);
                assert_int_equal(b.chain[i].seg.addr, done + i);
            }
            ring_dev_commit(L, &r, &b, 3, NULL);
            next = (uint16_t)(next + 3);
            assert_int_equal(used->idx, next);
        }
        assert_false(ring_dev_more(L, &r));
    }
}

/* --- signals and sleep --- */

static void test_need_event_arithmetic(void **state)
{
    (void)state;
    /* The definition, tried over the whole ring of numbers: signalled iff event is in [old, new). */
    for (unsigned base = 0; base < 65536; base += 4093) {
        for (unsigned n = 0; n < 300; n += 7) {
            for (unsigned e = 0; e < 65536; e += 61) {
                uint16_t old = (uint16_t)base, new_idx = (uint16_t)(base + n);
                bool want = (uint16_t)(e - old) < n;

                assert_int_equal(vring_need_event((uint16_t)e, new_idx, old), want);
            }
        }
    }
}

static bool use(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        offer((uint16_t)(avail->idx & (num - 1)));
    }
    assert_int_equal(ring_dev_peek(L, &r, &b, n), n);
    return ring_dev_commit(L, &r, &b, n, NULL);
}

static uint16_t *used_event(void)
{
    return &avail->ring[num];
}

static uint16_t *avail_event(void)
{
    return (uint16_t *)&used->ring[num];
}

static void test_signal_once_after_start(void **state)
{
    (void)state;
    for (int event = 0; event < 2; event++) {
        start(64, 1000, false, event, true);
        avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
        *used_event() = 999; /* far away: not wanted */
        assert_true(use(1));
        assert_false(use(1));
        assert_false(use(5));
        r.signalled_valid = false; /* a new call fd */
        assert_true(use(1));
        assert_false(use(1));
    }
}

static void test_signal_by_flags(void **state)
{
    (void)state;
    start(64, 0, false, false, true);
    *used_event() = 3; /* not negotiated: means nothing */
    assert_true(use(1));
    assert_true(use(1));
    avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
    assert_false(use(2));
    avail->flags = 0xfffe; /* only bit 0 counts */
    assert_true(use(1));
}

static void test_signal_by_event(void **state)
{
    (void)state;
    start(64, 65530, false, true, true);
    avail->flags = VRING_AVAIL_F_NO_INTERRUPT; /* ignored with the event index (2.7.10) */
    use(1);                                     /* the first is unconditional */
    *used_event() = 65531;
    assert_true(use(1)); /* the index passes 65531 -> 65532 */
    assert_false(use(1));
    *used_event() = 2; /* across the wrap, in the middle of a burst */
    assert_false(use(5)); /* 65533 .. 2 */
    assert_true(use(4));  /* 2 .. 6 */
    assert_false(use(8));
    /* An event behind us is not reached again for 65536 entries. */
    *used_event() = (uint16_t)(r.idx - 1);
    assert_false(use(30));
}

/* `old` is the index at the last look, not at the last signal. */
static void test_event_old_is_last_look(void **state)
{
    (void)state;
    start(64, 0, false, true, true);
    use(1);
    *used_event() = 5;
    assert_false(use(3)); /* idx 4 */
    *used_event() = 2;    /* set late, already passed and seen by the driver */
    assert_false(use(3)); /* idx 7: 2 is not in [4, 7) */
    *used_event() = 7;
    assert_true(use(1));
}

static void test_arm_and_disarm(void **state)
{
    (void)state;
    start(8, 65535, false, false, true);
    ring_dev_disarm(L, &r);
    assert_int_equal(used->flags, VRING_USED_F_NO_NOTIFY);
    assert_false(ring_dev_arm(L, &r));
    assert_int_equal(used->flags, 0);
    assert_true(r.armed);
    offer(0);
    assert_true(ring_dev_arm(L, &r)); /* it came before we slept */
    assert_true(ring_dev_more(L, &r));
    ring_dev_disarm(L, &r);
    assert_false(r.armed);

    start(8, 65535, false, true, true);
    ring_dev_disarm(L, &r);
    assert_int_equal(used->flags, 0); /* stays 0 with the event index */
    assert_false(ring_dev_arm(L, &r));
    assert_int_equal(*avail_event(), 65535);
    assert_true(vring_need_event(*avail_event(), 0, 65535)); /* the driver's next publish kicks */
    use(3);
    assert_int_equal(*avail_event(), 65535); /* polling: left behind */
    ring_dev_disarm(L, &r);
    assert_false(ring_dev_arm(L, &r));
    assert_int_equal(*avail_event(), 2);
    /* Chains that were peeked, or seen, and not taken are work as well. */
    offer(0);
    offer(1);
    assert_int_equal(ring_dev_peek(L, &r, &b, 1), 1);
    avail->idx = 2; /* even if the driver takes its index back */
    assert_true(ring_dev_arm(L, &r));
}

/* A driver that always posts the same buffers writes its descriptors once, or each time: chains of so
 * many segments, as many as there is room for. */
static void expect_rewrites(bool rewrite, unsigned segs)
{
    enum { N = 8 };
    const uint32_t chains = N / segs;
    struct ring_seg seg[2] = {{.addr = GPA, .len = 60}, {.addr = GPA + 60, .len = 40}};
    struct ring_drv_setup s = {.layout = L, .mem = &g, .num = N, .rewrite = rewrite};
    struct ring_drv d;
    uint64_t bytes = 0;

    assert_int_equal(ring_drv_init(&d, &s), 0);
    for (unsigned i = 0; i < chains; i++) {
        assert_int_equal(ring_drv_add(L, &d, seg, 0, segs, NULL), i * segs);
    }
    ring_drv_publish(L, &d);
    for (unsigned lap = 1; lap <= 3; lap++) {
        memset(d.desc, 0xff, N * sizeof(*d.desc));
        for (unsigned i = 0; i < chains; i++) {
            d.used->ring[d.used->idx++ % N] = (struct vring_used_elem){i * segs, 60};
        }
        assert_int_equal(ring_drv_recycle(L, &d, 64, &bytes), chains);
        ring_drv_publish(L, &d);
        assert_int_equal(d.avail->idx, (lap + 1) * chains);
        for (unsigned i = 0; i < N; i++) {
            uint16_t flags = VRING_DESC_F_WRITE | ((i + 1) % segs ? VRING_DESC_F_NEXT : 0);

            assert_int_equal(d.desc[i].len, rewrite ? seg[i % segs].len : 0xffffffff);
            assert_int_equal(d.desc[i].flags, rewrite ? flags : 0xffff);
            assert_int_equal(d.desc[i].addr, rewrite ? seg[i % segs].addr : UINT64_MAX);
        }
    }
    assert_int_equal(bytes, 3 * chains * 60);
    assert_int_equal(d.broken, RING_DRV_FAULT_NONE);
    ring_drv_fini(&d);
}

static void test_driver_rewrites(void **state)
{
    (void)state;
    for (unsigned segs = 1; segs <= 2; segs++) {
        expect_rewrites(false, segs);
        expect_rewrites(true, segs);
    }
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
        cmocka_unit_test(test_driver_rewrites),
        cmocka_unit_test(test_avail_jump),
        cmocka_unit_test(test_avail_runs_backwards),
        cmocka_unit_test(test_head_range),
        cmocka_unit_test(test_next_range),
        cmocka_unit_test(test_loops),
        cmocka_unit_test(test_loop_behind_others_makes_progress),
        cmocka_unit_test(test_indirect_bad),
        cmocka_unit_test(test_indirect_unmapped),
        cmocka_unit_test(test_direction),
        cmocka_unit_test(test_fault_texts),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_indirect_across_regions),
        cmocka_unit_test(test_longest_chain),
        cmocka_unit_test(test_pool_exhaustion),
        cmocka_unit_test(test_peek_changes_nothing),
        cmocka_unit_test(test_guest_changes_its_mind),
        cmocka_unit_test(test_index_wraps),
        cmocka_unit_test(test_need_event_arithmetic),
        cmocka_unit_test(test_signal_once_after_start),
        cmocka_unit_test(test_signal_by_flags),
        cmocka_unit_test(test_signal_by_event),
        cmocka_unit_test(test_event_old_is_last_look),
        cmocka_unit_test(test_arm_and_disarm),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
