/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole guest memory is the fuzzer's: descriptors, rings, indirect tables and buffers, while a
 * second thread flips bytes of it.  The device side walks what it finds, and whatever that is:
 *  - no access leaves a region (each region is an allocation of its own, so ASan sees the first byte
 *    beyond its end),
 *  - every walk ends, and what comes out is within the bounds that ring.h promises,
 *  - the position moves by exactly what was committed.
 *
 * input: 8 bytes of set-up, a script of 4 bytes for each of MAX_BURSTS bursts, guest memory.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "ring/ring.h"

#define GPA    0x10000u
#define RINGS  (24 * 1024u) /* region 0: holds the ring itself */
#define OTHERS 7
#define MAX_BURSTS 64

/* Touch every byte that a chain names, as a copy would; at most 64 KiB per segment. */
static uint32_t use_chain(const struct ring *r, const struct ring_burst *b,
                          const struct ring_chain *c)
{
    const struct ring_seg *s = c->n_seg > 1 ? &b->pool[c->pool] : &c->seg;
    uint32_t hint = 0, total = 0;

    CHECK(c->n_seg <= RING_MAX_SEGS && (c->n_seg < 2 || c->pool + c->n_seg <= b->n_pool));
    CHECK(c->fault < RING_N_FAULTS && (c->fault == 0) == (c->n_seg != 0));
    for (uint32_t i = 0; i < c->n_seg; i++) {
        for (uint32_t at = 0; at < s[i].len && total < 65536;) {
            uint32_t len = s[i].len - at;
            uint8_t *p = GUEST_PTR(uint8_t,
                                   gmem_span(r->mem, &hint, (gpa_t){s[i].addr + at}, &len));
            static uint8_t frame[65536];

            if (!p) {
                break;
            }
            CHECK(len && len <= s[i].len - at);
            len = MIN(len, 65536u);
            memcpy(r->write ? p : frame, r->write ? frame : p, len);
            at += len;
            total += len;
        }
    }
    return total;
}

/* How many entries, or slots, the first n chains of the burst take. */
static uint32_t taken(const struct ring *r, const struct ring_burst *b, uint32_t n)
{
    uint32_t sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += r->layout == RING_PACKED ? b->chain[i].seg.slots : 1;
    }
    return sum;
}

/* The position that lies so far ahead, as ring_base() tells it. */
static uint16_t ahead(const struct ring *r, uint16_t base, uint32_t n)
{
    if (r->layout == RING_SPLIT) {
        return (uint16_t)(base + n);
    }
    uint32_t at = (base & 0x7fffu) + n;
    return (uint16_t)(at < r->num ? (base & 0x8000) | at : (base ^ 0x8000) & 0x8000) +
           (uint16_t)(at < r->num ? 0 : at - r->num);
}

/* The driver makes n more available, whatever is in them. */
static void go_on(struct ring *r, uint32_t n, uint32_t jump)
{
    if (r->layout == RING_SPLIT) {
        write_once(GUEST_PTR(uint16_t, &r->avail->idx), (uint16_t)(r->idx + jump + n));
        return;
    }
    for (uint32_t i = 0; i < MIN(n, r->num); i++) {
        uint16_t at = ahead(r, ring_base(r), i);
        uint16_t *flags = GUEST_PTR(uint16_t, &r->pdesc[at & 0x7fff].flags);
        uint16_t old = read_once(flags) & (uint16_t)~PACKED_STATE;

        write_once(flags, old | packed_avail_bits(at >> 15));
    }
}

static void run(struct ring *r, const uint8_t *script, size_t n)
{
    struct ring_burst *b = malloc(sizeof(*b));
    uint32_t lens[RING_BURST], bursts = 0;
    const enum ring_layout l = r->layout;

    for (; n >= 4 && bursts < MAX_BURSTS; script += 4, n -= 4, bursts++) {
        uint16_t before = ring_base(r);
        uint32_t max = 1 + script[0] % RING_BURST, got = ring_dev_peek(l, r, b, max);

        CHECK(got == b->n && got <= max && b->n_pool <= RING_MAX_SEGS);
        CHECK(ring_base(r) == before);
        CHECK(taken(r, b, got) <= r->num);
        for (uint32_t i = 0; i < got; i++) {
            CHECK(l == RING_PACKED || b->chain[i].id < r->num);
            lens[i] = use_chain(r, b, &b->chain[i]);
        }
        uint32_t done = script[1] & 1 ? got : got / 2;
        ring_dev_commit(l, r, b, done, r->write ? lens : NULL);
        CHECK(ring_base(r) == ahead(r, before, taken(r, b, done)));
        if (script[1] & 2) {
            ring_dev_arm(l, r);
            ring_dev_disarm(l, r);
        }
        /* the driver goes on: a few more, all, or nonsense */
        uint32_t jump = script[1] & 0x80 ? script[2] * 256u : 0;
        go_on(r, script[3] % (r->num + 1), jump);
        if (r->broken) {
            CHECK(ring_dev_peek(l, r, b, max) == 0 && !ring_dev_arm(l, r));
            break;
        }
    }
    free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 16) {
        return 0;
    }
    bool packed = data[4] & 16;
    uint32_t num = packed ? 1u + data[0] : 1u << data[0] % 9, n_regions = 1 + data[1] % (OTHERS + 1);
    uint8_t *mem[OTHERS + 1];
    struct gmem_region region[OTHERS + 1];
    uint64_t gpa = GPA;
    const uint8_t *image = data + 8 + 4 * MAX_BURSTS;
    size_t n_image = size > 8 + 4 * MAX_BURSTS ? size - 8 - 4 * MAX_BURSTS : 0;

    for (uint32_t i = 0; i < n_regions; i++) {
        uint32_t len = i ? 1u + data[2] * 7u % 97u : RINGS;

        mem[i] = aligned_alloc(4096, (len + 4095) & ~4095u);
        if (i) { /* exact size for ASan */
            free(mem[i]);
            mem[i] = malloc(len);
        }
        fill(mem[i], len, image, n_image, i * 31);
        region[i] = (struct gmem_region){
            .gpa = gpa, .size = len, .uva = gpa, .va = GUEST_PTR(uint8_t GUEST, mem[i])};
        gpa += len + (i & data[3]); /* some touch, some do not */
    }
    struct gmem *m = gmem_local_n(region, n_regions);
    struct ring r;
    uint16_t base = (uint16_t)(data[5] << 8 | data[6]);
    struct ring_setup s = {.layout = packed ? RING_PACKED : RING_SPLIT,
                           .desc = mem[0],
                           .avail = mem[0] + vring_desc_bytes(num),
                           .used = mem[0] + 16 * 1024,
                           .num = num,
                           .base = packed ? (base & 0x8000) | (base & 0x7fff) % num : base,
                           .event_idx = data[4] & 1,
                           .indirect = data[4] & 2,
                           .write = data[4] & 4,
                           .mem = m};
    ring_init(&r, &s);
    /* a plausible start, or nothing at all would be looked at */
    go_on(&r, data[7] % (num + 1), 0);
    set_victim(data[4] & 8 ? mem[0] : NULL, RINGS, 256);
    run(&r, data + 8, MIN(size - 8, (size_t)4 * MAX_BURSTS));
    set_victim(NULL, 0, 0);
    gmem_free(m);
    for (uint32_t i = 0; i < n_regions; i++) {
        free(mem[i]);
    }
    return 0;
}
