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
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
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

/* Sum len bytes at s, and move them to d unless it is NULL.  Bytes in front of the end may be read and
 * written twice, as in copy_bytes(): if the sender changes them meanwhile, its sum is wrong. */
static ALWAYS_INLINE uint64_t csum_move(uint8_t *d, const uint8_t *s, uint32_t len)
{
    struct csum_acc a = {{0}, {0}};

    if (len < CSUM_STEP) {
        return csum_move_words(d, s, len);
    }
    for (; len >= 2 * CSUM_STEP; len -= 2 * CSUM_STEP, s += 2 * CSUM_STEP) {
        csum_lanes v = csum_load(s), w = csum_load(s + CSUM_STEP);

        csum_take(&a, v);
        csum_take(&a, w);
        if (d) {
            *(csum_lanes_una *)d = v;
            *(csum_lanes_una *)(d + CSUM_STEP) = w;
            d += 2 * CSUM_STEP;
        }
    }
    if (len >= CSUM_STEP) {
        csum_lanes v = csum_load(s);

        csum_take(&a, v);
        if (d) {
            *(csum_lanes_una *)d = v;
            d += CSUM_STEP;
        }
        len -= CSUM_STEP;
        s += CSUM_STEP;
    }
    if (unlikely(len & 1)) { /* the last vector would begin in the middle of a word */
        return csum_total(&a) + csum_move_words(d, s, len);
    }
    if (len) {
        csum_lanes v = csum_load(s + len - CSUM_STEP);

        csum_take(&a, v & *(const csum_lanes_una *)(csum_last + len));
        if (d) {
            *(csum_lanes_una *)(d + len - CSUM_STEP) = v;
        }
    }
    return csum_total(&a);
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
