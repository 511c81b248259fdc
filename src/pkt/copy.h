/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only functions that move payload.  Exact: they never write a byte beyond len (bytes behind a
 * frame belong to somebody else), though they may write some bytes twice.
 *
 * Written with vector types of the compiler: in a CPU_CLONES function they become SSE2, AVX2 or
 * AVX-512 moves.  Source and destination may be memory that a peer changes meanwhile: each source
 * byte may be read twice HERE (overlapping ends), which is harmless because nothing is decided on
 * what was copied from a span; snapshots are taken by the same function into private memory first.
 *
 * COPY_COUNT builds count the bytes per thread, so that a test can prove one copy per frame.
 */
#ifndef PKT_COPY_H
#define PKT_COPY_H

#include <string.h>

#include "base/compiler.h"

#ifdef COPY_COUNT
extern _Thread_local uint64_t copy_bytes_counted;
#define COPY_ACCOUNT(n) (copy_bytes_counted += (n))
#else
#define COPY_ACCOUNT(n) ((void)0)
#endif

typedef uint8_t v64 __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint8_t v32 __attribute__((vector_size(32), aligned(1), may_alias));
typedef uint8_t v16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint64_t u64_una __attribute__((aligned(1), may_alias));
typedef uint32_t u32_una __attribute__((aligned(1), may_alias));

#define COPY_AS(type, d, s, at)                                                                    \
    (*(type *)((uint8_t *)(d) + (at)) = *(const type *)((const uint8_t *)(s) + (at)))

static ALWAYS_INLINE void copy_small(uint8_t *d, const uint8_t *s, uint32_t len)
{
    if (len >= 32) {
        v32 tail = *(const v32 *)(s + len - 32);
        COPY_AS(v32, d, s, 0);
        *(v32 *)(d + len - 32) = tail;
    } else if (len >= 16) {
        v16 tail = *(const v16 *)(s + len - 16);
        COPY_AS(v16, d, s, 0);
        *(v16 *)(d + len - 16) = tail;
    } else if (len >= 8) {
        uint64_t tail = *(const u64_una *)(s + len - 8);
        COPY_AS(u64_una, d, s, 0);
        *(u64_una *)(d + len - 8) = tail;
    } else if (len >= 4) {
        uint32_t tail = *(const u32_una *)(s + len - 4);
        COPY_AS(u32_una, d, s, 0);
        *(u32_una *)(d + len - 4) = tail;
    } else {
        for (uint32_t i = 0; i < len; i++) {
            d[i] = s[i];
        }
    }
}

/* d and s do not overlap, unless they are the same guest's memory: then the result is that guest's
 * own garbage, but still within [d, d + len). */
static ALWAYS_INLINE void copy_bytes(void *dst, const void *src, uint32_t len)
{
    uint8_t *d = dst;
    const uint8_t *s = src;

    COPY_ACCOUNT(len);
    if (unlikely(len < 64)) {
        copy_small(d, s, len);
        return;
    }
    uint32_t at = 0;
    for (; at + 256 <= len; at += 256) {
        v64 a = *(const v64 *)(s + at), b = *(const v64 *)(s + at + 64);
        v64 c = *(const v64 *)(s + at + 128), e = *(const v64 *)(s + at + 192);
        *(v64 *)(d + at) = a;
        *(v64 *)(d + at + 64) = b;
        *(v64 *)(d + at + 128) = c;
        *(v64 *)(d + at + 192) = e;
    }
    for (; at + 64 <= len; at += 64) {
        COPY_AS(v64, d, s, at);
    }
    if (at < len) {
        COPY_AS(v64, d, s, len - 64);
    }
}

#endif
