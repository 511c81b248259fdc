/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small things every file may use: branch hints, alignment, single-access atomics on shared
 * words, and the GUEST address space.
 *
 * GUEST marks a pointer into memory that a peer can change or take away at any time.  Under
 * clang, dereferencing such a pointer directly is a compile error; only the few functions that
 * move bytes across the border (mem/gmem.h, ring/, pkt/copy.h) strip the mark, with GUEST_PTR().
 */
#ifndef BASE_COMPILER_H
#define BASE_COMPILER_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define COLD __attribute__((cold, noinline))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define WARN_UNUSED __attribute__((warn_unused_result))
#define CACHE_LINE 64
#define CACHE_ALIGNED __attribute__((aligned(CACHE_LINE)))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#if defined(__clang__)
#define GUEST __attribute__((noderef))
#else
#define GUEST
#endif
#define GUEST_PTR(type, p) ((type *)(uintptr_t)(p))

/*
 * One access, of exactly this width, to a word that another thread or a peer writes.  The plain
 * forms are relaxed: they order nothing.  Ordering is written at the word itself, with the letter
 * of docs/memory-model.md beside it.
 */
#define read_once(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define write_once(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define fence_full() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* ThreadSanitizer does not see orderings that are made in code it did not compile (liburcu): what
 * came before HAPPENS_BEFORE(p) is seen by who comes after HAPPENS_AFTER(p). */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RW_TSAN
#endif
#elif defined(__SANITIZE_THREAD__)
#define RW_TSAN
#endif
#ifdef RW_TSAN
void __tsan_acquire(void *p);
void __tsan_release(void *p);
#define HAPPENS_BEFORE(p) __tsan_release(p)
#define HAPPENS_AFTER(p) __tsan_acquire(p)
#else
#define HAPPENS_BEFORE(p) ((void)(p))
#define HAPPENS_AFTER(p) ((void)(p))
#endif

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
