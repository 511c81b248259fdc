/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Internet checksum (RFC 1071): one's complement sum of 16-bit words, in the order of this
 * machine, since the sum does not care.  Sums grow in 64 bits and are folded at the end; a run that
 * begins at an odd offset is swapped when it is added.
 */
#ifndef PKT_CSUM_H
#define PKT_CSUM_H

#include <string.h>

#include "base/compiler.h"
#include "pkt/copy.h"

struct csum {
    uint64_t sum;
    bool odd; /* an odd number of bytes was added */
};

static ALWAYS_INLINE uint16_t csum_fold(uint64_t sum)
{
    /* a word and its halves changed over: the upper half is the sum of both, carry included */
    sum += sum << 32 | sum >> 32;
    uint32_t half = (uint32_t)(sum >> 32);

    half += half << 16 | half >> 16;
    return (uint16_t)(half >> 16);
}

/* Add the sum of the next len bytes, as the functions below give it. */
static ALWAYS_INLINE void csum_add(struct csum *c, uint64_t sum, uint32_t len)
{
    if (unlikely(c->odd)) {
        uint16_t folded = csum_fold(sum);

        sum = (uint16_t)(folded << 8 | folded >> 8);
    } else {
        sum = (sum & 0xffffffff) + (sum >> 32);
    }
    c->sum += sum;
    c->odd ^= len & 1;
}

/* What goes into the field. A UDP checksum of 0 would mean "none" (RFC 768). */
static ALWAYS_INLINE uint16_t csum_field(const struct csum *c, bool udp)
{
    uint16_t field = (uint16_t)~csum_fold(c->sum);

    return udp && !field ? 0xffff : field;
}

#if defined(__AVX512F__)
typedef uint64_t csum_lanes __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef uint64_t csum_lanes __attribute__((vector_size(32)));
#else
typedef uint64_t csum_lanes __attribute__((vector_size(16)));
#endif
typedef csum_lanes csum_lanes_una __attribute__((aligned(1), may_alias));
#define CSUM_STEP ((uint32_t)sizeof(csum_lanes))

/* The load at csum_last + n keeps the last n bytes of a vector. */
static const uint8_t csum_last[2 * CSUM_STEP] = {[CSUM_STEP ... 2 * CSUM_STEP - 1] = 0xff};

/* Words of 32 bits: the upper ones are summed by themselves, the lower ones as what is missing to
 * the sum of both. That is one operation less than taking each apart. */
struct csum_acc {
    csum_lanes both, high;
};

/* One load: the compiler would rather repeat it than keep the value in a register. */
static ALWAYS_INLINE csum_lanes csum_load(const uint8_t *s)
{
    return *(const volatile csum_lanes_una *)s;
}

static ALWAYS_INLINE void csum_take(struct csum_acc *a, csum_lanes v)
{
    a->both += v;
    a->high += v >> 32;
}

static ALWAYS_INLINE uint64_t csum_total(const struct csum_acc *a)
{
    csum_lanes lane = a->both - (a->high << 32) + a->high;
    uint64_t sum = 0;

    for (unsigned i = 0; i < CSUM_STEP / 8; i++) {
        sum += lane[i];
    }
    return sum;
}

static ALWAYS_INLINE void csum_move_vector(struct csum_acc *a, uint8_t *d, const uint8_t *s)
{
    csum_lanes v = csum_load(s);

    csum_take(a, v);
    if (d) {
        *(csum_lanes_una *)d = v;
    }
}

/* What is shorter than a vector, or ends at an odd place behind some. */
static ALWAYS_INLINE uint64_t csum_move_words(uint8_t *d, const uint8_t *s, uint32_t len)
{
    uint64_t sum = 0;

    for (; len >= 8; len -= 8, s += 8) {
        uint64_t v = *(const u64_una *)s;

        sum += (v & 0xffffffff) + (v >> 32);
        if (d) {
            *(u64_una *)d = v;
            d += 8;
        }
    }
    if (len) {
        uint64_t v = 0;

        memcpy(&v, s, len);
        sum += (v & 0xffffffff) + (v >> 32);
        if (d) {
            memcpy(d, &v, len);
        }
    }
    return sum;
}

/* The same in whole vectors: n bytes, a multiple of CSUM_STEP. */
static ALWAYS_INLINE void csum_move_vectors(struct csum_acc *a, uint8_t *d, const uint8_t *s, uint32_t n)
{
    uint32_t step = 4 * CSUM_STEP;

    for (; n >= step; n -= step) {
        csum_move_vector(a, d, s);
        csum_move_vector(a, d ? d + CSUM_STEP : NULL, s + CSUM_STEP);
        csum_move_vector(a, d ? d + 2 * CSUM_STEP : NULL, s + 2 * CSUM_STEP);
        csum_move_vector(a, d ? d + 3 * CSUM_STEP : NULL, s + 3 * CSUM_STEP);
        s += step;
        d = d ? d + step : NULL;
    }
    for (; n; n -= CSUM_STEP) {
        csum_move_vector(a, d, s);
        s += CSUM_STEP;
        d = d ? d + CSUM_STEP : NULL;
    }
}

/* Add len bytes at s, and move them to d unless it is NULL; what is not in the accumulator is returned.
 * Bytes in front of the end may be read and written twice, as in copy_bytes(): if the sender changes
 * them meanwhile, its sum is wrong. */
static ALWAYS_INLINE uint64_t csum_move_into(struct csum_acc *a, uint8_t *d, const uint8_t *s,
                                             uint32_t len)
{
    const uint32_t rest = len % CSUM_STEP, whole = len - rest;

    if (unlikely(!whole)) {
        return csum_move_words(d, s, len);
    }
    csum_move_vectors(a, d, s, whole);
    if (unlikely(rest & 1)) { /* the last vector would begin in the middle of a word */
        return csum_move_words(d ? d + whole : NULL, s + whole, rest);
    }
    if (rest) {
        csum_lanes v = csum_load(s + len - CSUM_STEP);

        csum_take(a, v & *(const csum_lanes_una *)(csum_last + rest));
        if (d) {
            *(csum_lanes_una *)(d + len - CSUM_STEP) = v;
        }
    }
    return 0;
}

static ALWAYS_INLINE uint64_t csum_move(uint8_t *d, const uint8_t *s, uint32_t len)
{
    struct csum_acc a = {{0}, {0}};

    if (len < CSUM_STEP) {
        return csum_move_words(d, s, len);
    }
    uint64_t more = csum_move_into(&a, d, s, len);
    return csum_total(&a) + more;
}

static ALWAYS_INLINE void csum_bytes(struct csum *c, const void *src, uint32_t len)
{
    csum_add(c, csum_move(NULL, src, len), len);
}

/* copy_bytes() that sums what it copied. */
static ALWAYS_INLINE void csum_copy(struct csum *c, void *dst, const void *src, uint32_t len)
{
    COPY_ACCOUNT(len);
    csum_add(c, csum_move(dst, src, len), len);
}

#endif
