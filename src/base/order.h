/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Orderings that are not on ring words (for those: ring/ring_order.h), by their names in
 * docs/memory-model.md.
 *
 * ORDER_WEAKEN is for tests only: it takes the ordering of one name away, to prove that a test
 * would notice.
 */
#ifndef BASE_ORDER_H
#define BASE_ORDER_H

#include "base/compiler.h"

#define ORDER_CR1 1
#define ORDER_CR2 2
#define ORDER_LK  3
#define ORDER_EV  4
#define ORDER_CR3 5

#ifndef ORDER_WEAKEN
#define ORDER_WEAKEN 0
#endif

#define ordered_load(name, p)                                                                      \
    __atomic_load_n((p), ORDER_WEAKEN == ORDER_##name ? __ATOMIC_RELAXED : __ATOMIC_ACQUIRE)
#define ordered_store(name, p, v)                                                                  \
    __atomic_store_n((p), (v), ORDER_WEAKEN == ORDER_##name ? __ATOMIC_RELAXED : __ATOMIC_RELEASE)
#define ordered_fetch_or(name, p, v)                                                               \
    __atomic_fetch_or((p), (v), ORDER_WEAKEN == ORDER_##name ? __ATOMIC_RELAXED : __ATOMIC_RELEASE)
#define ordered_fence(name)                                                                        \
    do {                                                                                           \
        if (ORDER_WEAKEN == ORDER_##name) {                                                        \
            __asm__ volatile("" ::: "memory");                                                     \
        } else {                                                                                   \
            fence_full();                                                                          \
        }                                                                                          \
    } while (0)
#define ordered_exchange(name, p, v)                                                               \
    __atomic_exchange_n((p), (v), ORDER_WEAKEN == ORDER_##name ? __ATOMIC_RELAXED : __ATOMIC_ACQUIRE)

#endif
