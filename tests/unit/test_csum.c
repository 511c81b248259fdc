/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checksum against RFC 1071 written down as it stands there (offload_model.h): every length,
 * every alignment, with and without moving the bytes, on every machine level that this CPU has; and
 * cut into runs of any, odd ones too, length.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "offload_model.h"
#include "pkt/csum.h"

#define CSUM_DECLARE(level) uint64_t level_csum_move_##level(uint8_t *, const uint8_t *, uint32_t);
HOT_FOR_LEVELS(CSUM_DECLARE)

static const struct {
    enum cpu_level level;
    uint64_t (*move)(uint8_t *d, const uint8_t *s, uint32_t len);
} levels[] = {
    {CPU_BASE, level_csum_move_base},
#ifdef HOT_ALL_LEVELS
    {CPU_AVX2, level_csum_move_avx2},
    {CPU_AVX512, level_csum_move_avx512},
#endif
};

/* As the model gives it: big endian, and 0 is 65535. */
static uint32_t as_model(uint16_t native)
{
    uint32_t v = native % 256u * 256 + native / 256u;

    return v ? v : 65535;
}

static uint32_t want_sum(const uint8_t *b, uint32_t len)
{
    uint32_t v = model_sum(b, len, 0);

    return v ? v : 65535;
}

static void fill(uint8_t *b, size_t n, unsigned how)
{
    for (size_t i = 0; i < n; i++) {
        b[i] = (uint8_t)(how == 0 ? 0 : how == 1 ? 0xff : model_rand(256));
    }
}

static void check_move(unsigned k, const uint8_t *src, uint32_t len, unsigned to)
{
    uint8_t out[8 + 400 + 8];
    uint32_t want = want_sum(src, len);

    assert_int_equal(as_model(csum_fold(levels[k].move(NULL, src, len))), want);
    memset(out, 0xa5, sizeof(out));
    assert_int_equal(as_model(csum_fold(levels[k].move(out + to, src, len))), want);
    assert_memory_equal(out + to, src, len);
    for (unsigned i = 0; i < to; i++) {
        assert_int_equal(out[i], 0xa5);
    }
    assert_int_equal(out[to + len], 0xa5); /* not a byte beyond */
}

static void test_lengths_and_alignments(void **state)
{
    uint8_t src[64 + 301];
    unsigned ran = 0;

    for (unsigned k = 0; k < sizeof(levels) / sizeof(levels[0]); k++) {
        if (levels[k].level > cpu_level()) {
            print_message("level %u: not on this CPU\n", k);
            continue;
        }
        ran++;
        for (unsigned how = 0; how < 3; how++) {
            fill(src, sizeof(src), how);
            for (uint32_t len = 0; len <= 300; len++) {
                for (unsigned from = 0; from < 64; from += 1 + (len > 70)) {
                    check_move(k, src + from, len, from % 8);
                }
            }
        }
    }
    assert_true(ran >= 1);
}

/* The largest frame, of the largest bytes: nothing overflows. */
static void test_large(void **state)
{
    static uint8_t src[65557], dst[65557];

    for (unsigned how = 0; how < 3; how++) {
        fill(src, sizeof(src), how);
        for (unsigned k = 0; k < sizeof(levels) / sizeof(levels[0]); k++) {
            if (levels[k].level <= cpu_level()) {
                assert_int_equal(as_model(csum_fold(levels[k].move(dst, src, sizeof(src)))),
                                 want_sum(src, sizeof(src)));
                assert_memory_equal(dst, src, sizeof(src));
            }
        }
    }
}

/* Runs of any length, one after the other, are one sum. */
static void test_runs(void **state)
{
    uint8_t src[2000], dst[2000];

    for (unsigned round = 0; round < 3000; round++) {
        uint32_t len = 1 + model_rand(sizeof(src)), at = 0;
        unsigned max = 1 + model_rand(round % 2 ? 8 : 600);
        struct csum read = {0}, moved = {0};

        fill(src, len, round % 7);
        memset(dst, 0, sizeof(dst));
        while (at < len) {
            uint32_t n = model_rand(max + 1); /* empty ones too */

            n = MIN(n, len - at);
            csum_bytes(&read, src + at, n);
            csum_copy(&moved, dst + at, src + at, n);
            at += n;
        }
        uint32_t want = 65535 - want_sum(src, len);
        assert_int_equal(as_model(csum_field(&read, false)) % 65535, want % 65535);
        assert_int_equal(as_model(csum_field(&moved, false)) % 65535, want % 65535);
        assert_memory_equal(dst, src, len);
    }
}

static void test_field_of_udp(void **state)
{
    struct csum c = {0};
    const uint8_t all[] = {0xff, 0xff};

    csum_bytes(&c, all, 2);
    assert_int_equal(csum_field(&c, false), 0);
    assert_int_equal(csum_field(&c, true), 0xffff); /* RFC 768: 0 says that there is no checksum */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths_and_alignments),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_field_of_udp),
    };

    model_init_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
