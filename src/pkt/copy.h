/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only functions that move payload.  Exact: they never write a byte beyond len (bytes behind a
 * frame belong to somebody else), though they may write some bytes twice.
 *
 * Written with vector types of the compiler, as wide as the machine level of the including file has
 * them (base/cpu.h).  Source and destination may be memory that a peer changes meanwhile: a source
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

typedef uint8_t v16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint64_t u64_una __attribute__((aligned(1), may_alias));
typedef uint32_t u32_una __attribute__((aligned(1), may_alias));

/* 64 bytes, all loads before all stores. v_front is the first step of it. */
#if defined(__AVX512F__)
typedef uint8_t v64 __attribute__((vector_size(64), aligned(1), may_alias));
typedef v64 v_front;
static ALWAYS_INLINE void copy_64(uint8_t *d, const uint8_t *s)
{
    *(v64 *)d = *(const v64 *)s;
}
#elif defined(__AVX2__)
typedef uint8_t v32 __attribute__((vector_size(32), aligned(1), may_alias));
typedef v32 v_front;
static ALWAYS_INLINE void copy_64(uint8_t *d, const uint8_t *s)
{
    v32 a = *(const v32 *)s, b = *(const v32 *)(s + 32);
    *(v32 *)d = a;
    *(v32 *)(d + 32) = b;
}
#else
typedef v16 v_front;
static ALWAYS_INLINE void copy_64(uint8_t *d, const uint8_t *s)
{
    v16 a = *(const v16 *)s, b = *(const v16 *)(s + 16);
    v16 c = *(const v16 *)(s + 32), e = *(const v16 *)(s + 48);
    *(v16 *)d = a;
    *(v16 *)(d + 16) = b;
    *(v16 *)(d + 32) = c;
    *(v16 *)(d + 48) = e;
}
#endif

static ALWAYS_INLINE void copy_small(uint8_t *d, const uint8_t *s, uint32_t len)
{
    if (len >= 16) {
        v16 head = *(const v16 *)s, tail = *(const v16 *)(s + len - 16);
        if (len > 32) {
            v16 second = *(const v16 *)(s + 16), third = *(const v16 *)(s + len - 32);
            *(v16 *)(d + 16) = second;
            *(v16 *)(d + len - 32) = third;
        }
        *(v16 *)d = head;
        *(v16 *)(d + len - 16) = tail;
    } else if (len >= 8) {
        uint64_t tail = *(const u64_una *)(s + len - 8);
        *(u64_una *)d = *(const u64_una *)s;
        *(u64_una *)(d + len - 8) = tail;
    } else if (len >= 4) {
        uint32_t tail = *(const u32_una *)(s + len - 4);
        *(u32_una *)d = *(const u32_una *)s;
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
    if (likely(len - 64 <= 16)) { /* what a frame of minimal size has, header included */
        v16 tail = *(const v16 *)(s + len - 16);

        copy_64(d, s);
        *(v16 *)(d + len - 16) = tail;
        return;
    }
    if (unlikely(len < 64)) {
        copy_small(d, s, len);
        return;
    }
    do {
        copy_64(d, s);
        s += 64;
        d += 64;
        len -= 64;
    } while (len >= 64);
    if (!len) {
        return;
    }
    /* the rest ends at s + len; what comes in front of it was copied */
    if (len <= 16) {
        *(v16 *)(d + len - 16) = *(const v16 *)(s + len - 16);
    } else {
        copy_64(d + len - 64, s + len - 64);
    }
}

/*
 * Private snapshot of the first len (<= COPY_SNAP_MAX) bytes at s: in whole steps, so bytes behind
 * len are read and written too.  The caller knows that COPY_SNAP_MAX bytes are mapped there and has
 * room for them; they are the sender's own and go nowhere.
 */
#define COPY_SNAP_MAX 192
#define COPY_SNAP_SMALL 80 /* up to so many bytes it is two steps */
static ALWAYS_INLINE void copy_snapshot_rest(uint8_t *d, const uint8_t *s, uint32_t len)
{
    if (likely(len <= COPY_SNAP_SMALL)) {
        *(v16 *)(d + 64) = *(const v16 *)(s + 64);
        return;
    }
    copy_64(d + 64, s + 64);
    if (len > 128) {
        copy_64(d + 128, s + 128);
    }
}

static ALWAYS_INLINE void copy_snapshot(uint8_t *d, const uint8_t *s, uint32_t len)
{
    COPY_ACCOUNT(len);
    copy_64(d, s);
    copy_snapshot_rest(d, s, len);
}

/* The same with other bytes in front: only those in `keep` are copied, the rest of them are `put`.
 * Returns the first 16 as they were: nobody has to load again what is just being stored. */
static ALWAYS_INLINE v16 copy_snapshot_behind(uint8_t *d, const uint8_t *s, uint32_t len,
                                              const v_front *keep, const v_front *put)
{
    v_front front = *(const volatile v_front *)s; /* once: what is returned is what is there */
    v16 said;

    COPY_ACCOUNT(len);
    *(v_front *)d = (front & *keep) | *put;
    for (uint32_t i = sizeof(front); i < 64; i += sizeof(front)) {
        *(v_front *)(d + i) = *(const v_front *)(s + i);
    }
    copy_snapshot_rest(d, s, len);
    memcpy(&said, &front, sizeof(said));
    return said;
}

#endif
