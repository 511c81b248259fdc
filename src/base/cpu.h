/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One binary for every CPU.  The few files that move frames are compiled once per level (meson.build
 * passes the machine flags and -DHOT_LEVEL=name); their external names carry the level, and whoever
 * sets a port or a worker up picks the best one that this CPU has.  Per file, not per function: the
 * vector types in pkt/copy.h are then lowered for the right machine.
 *
 * RINGWAY_CPU=base|avx2|avx512 in the environment chooses a lower level: for tests and valgrind.
 */
#ifndef BASE_CPU_H
#define BASE_CPU_H

enum cpu_level { CPU_BASE, CPU_AVX2, CPU_AVX512 };
enum cpu_level cpu_level(void);
const char *cpu_level_name(void);

#ifndef HOT_LEVEL
#define HOT_LEVEL base
#endif
#define HOT_CAT_(a, b) a##_##b
#define HOT_CAT(a, b) HOT_CAT_(a, b)
/* In a hot file: the name of this level's instance. */
#define HOT(name) HOT_CAT(name, HOT_LEVEL)

/* X(level) for each / declare an object for all levels / the address of the best instance. */
#ifdef HOT_ALL_LEVELS
#define HOT_FOR_LEVELS(X) X(base) X(avx2) X(avx512)
#define HOT_DECLARE(type, name) extern type name##_base, name##_avx2, name##_avx512
#define HOT_BEST(name)                                                                             \
    (cpu_level() == CPU_AVX512 ? &name##_avx512 : cpu_level() == CPU_AVX2 ? &name##_avx2           \
                                                                          : &name##_base)
#else
#define HOT_FOR_LEVELS(X) X(base)
#define HOT_DECLARE(type, name) extern type name##_base
#define HOT_BEST(name) (&name##_base)
#endif

#endif
