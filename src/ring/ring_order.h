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
 * The packed layout has one word for each descriptor instead of two indices; P is the device, Q the
 * driver:
 *
 *     addr, len, id, rest of chain              load desc.flags              (P1, acquire)
 *     store the head's flags  (Q1, release)     addr, len, id, rest of chain, payload
 *
 *     load desc.flags         (Q2, acquire)     payload, id, len
 *     id, len, payload                          store the first's flags      (P2, release)
 *
 *     desc.flags, fence Q3, look at             device event, fence P4, look at desc.flags
 *     device event
 *
 *     driver event, fence Q4, look at           desc.flags, fence S3, look at driver event
 *     desc.flags
 *
 * Whoever publishes many writes the flags of the first one last: nobody looks beyond a descriptor
 * whose flags are not turned.  P3 has no name of its own: a worker passes one fence for all its
 * rings, of either layout, and that is S3.
 *
 * The orderings of the first two pairs are on the word itself, so that ThreadSanitizer sees them.
 * The last two are store-load races ("I publish, then look whether you sleep" against "I say that I
 * sleep, then look whether you published"), which nothing weaker than a full fence on both sides
 * decides; TSan cannot see those, the store-buffering litmus can.
 *
 * S5 stands between whatever the device wrote and its look at the dirty log (ring/ring_log.h).  The
 * front-end takes a bit out of the log and then reads the page: if the device finds the bit still set
 * and leaves it, the front-end has to see what was written before.
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
#define RING_ORDER_P1 9
#define RING_ORDER_P2 10
#define RING_ORDER_P4 11
#define RING_ORDER_Q1 12
#define RING_ORDER_Q2 13
#define RING_ORDER_Q3 14
#define RING_ORDER_Q4 15
#define RING_ORDER_S5 16

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
#define ring_p1_load_flags(p) RING_ORDERED_LOAD(P1, p)
#define ring_p2_store_flags(p, v) RING_ORDERED_STORE(P2, p, v)
#define ring_p4_fence() RING_ORDERED_FENCE(P4)
/* Not against another CPU: whoever reads it comes after the end of this process, and sees every store
 * before the one at which it ended.  So it only has to stand between two others, in this program. */
#define ring_p5_store_resume(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define ring_s5_fence() RING_ORDERED_FENCE(S5)

/* Driver side. */
#define ring_d1_store_avail_idx(p, v) RING_ORDERED_STORE(D1, p, v)
#define ring_d2_load_used_idx(p) RING_ORDERED_LOAD(D2, p)
#define ring_d3_fence() RING_ORDERED_FENCE(D3)
#define ring_d4_fence() RING_ORDERED_FENCE(D4)
#define ring_q1_store_flags(p, v) RING_ORDERED_STORE(Q1, p, v)
#define ring_q2_load_flags(p) RING_ORDERED_LOAD(Q2, p)
#define ring_q3_fence() RING_ORDERED_FENCE(Q3)
#define ring_q4_fence() RING_ORDERED_FENCE(Q4)

#endif
