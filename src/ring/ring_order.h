/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every ordering on ring words, by name, in one place.  docs/memory-model.md says between which two
 * accesses each one stands and which one on the other side is its partner.
 *
 *     driver                                    device
 *     desc[], avail->ring[]                     load avail->idx              (S1, acquire)
 *     store avail->idx        (D1, release)     avail->ring[], desc[], payload
 *
 *     load used->idx          (D2, acquire)     payload, used->ring[]
 *     used->ring[], payload                     store used->idx              (S2, release)
 *
 *     avail->idx, fence D3, look at             avail_event / used->flags,
 *     avail_event / used->flags                 fence S4, look at avail->idx
 *
 *     used_event / avail->flags,                used->idx, fence S3, look at
 *     fence D4, look at used->idx               used_event / avail->flags
 *
 * The orderings of the first two pairs are on the word itself, so that ThreadSanitizer sees them.
 * The last two are store-load races ("I publish, then look whether you sleep" against "I say that I
 * sleep, then look whether you published"), which nothing weaker than a full fence on both sides
 * decides; TSan cannot see those, the store-buffering litmus can.
 *
 * RING_WEAKEN is for tests only: it takes the ordering of one letter away, to prove that a test
 * would notice.
 */
#ifndef RING_RING_ORDER_H
#define RING_RING_ORDER_H

#include "base/compiler.h"

#define RING_ORDER_S1 1
#define RING_ORDER_S2 2
#define RING_ORDER_S3 3
#define RING_ORDER_S4 4
#define RING_ORDER_D1 5
#define RING_ORDER_D2 6
#define RING_ORDER_D3 7
#define RING_ORDER_D4 8

#ifndef RING_WEAKEN
#define RING_WEAKEN 0
#endif

#define RING_ORDERED_LOAD(letter, p)                                                               \
    __atomic_load_n((p), RING_WEAKEN == RING_ORDER_##letter ? __ATOMIC_RELAXED : __ATOMIC_ACQUIRE)
#define RING_ORDERED_STORE(letter, p, v)                                                           \
    __atomic_store_n((p), (v),                                                                     \
                     RING_WEAKEN == RING_ORDER_##letter ? __ATOMIC_RELAXED : __ATOMIC_RELEASE)
/* Weakened, it still keeps the compiler from moving accesses: what is lost is only the CPU's part. */
#define RING_ORDERED_FENCE(letter)                                                                 \
    do {                                                                                           \
        if (RING_WEAKEN == RING_ORDER_##letter) {                                                  \
            __atomic_signal_fence(__ATOMIC_SEQ_CST);                                               \
        } else {                                                                                   \
            fence_full();                                                                          \
        }                                                                                          \
    } while (0)

/* Device side. */
#define ring_s1_load_avail_idx(p) RING_ORDERED_LOAD(S1, p)
#define ring_s2_store_used_idx(p, v) RING_ORDERED_STORE(S2, p, v)
#define ring_s3_fence() RING_ORDERED_FENCE(S3)
#define ring_s4_fence() RING_ORDERED_FENCE(S4)

/* Driver side. */
#define ring_d1_store_avail_idx(p, v) RING_ORDERED_STORE(D1, p, v)
#define ring_d2_load_used_idx(p) RING_ORDERED_LOAD(D2, p)
#define ring_d3_fence() RING_ORDERED_FENCE(D3)
#define ring_d4_fence() RING_ORDERED_FENCE(D4)

#endif
