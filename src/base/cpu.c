/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cpu.h"

#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"

static const char *const level_name[] = {"base", "avx2", "avx512"};

static enum cpu_level detect(void)
{
    enum cpu_level best = CPU_BASE;
    const char *wish = getenv("RINGWAY_CPU");

#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) {
        best = CPU_AVX2;
    }
    if (best == CPU_AVX2 && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw")) {
        best = CPU_AVX512;
    }
#endif
    for (unsigned i = 0; wish && i < best; i++) {
        if (!strcmp(wish, level_name[i])) {
            best = (enum cpu_level)i;
        }
    }
    return best;
}

enum cpu_level cpu_level(void)
{
    static int cached = -1; /* the same value whoever writes it */
    int level = read_once(&cached);

    if (level < 0) {
        level = (int)detect();
        write_once(&cached, level);
    }
    return (enum cpu_level)level;
}

const char *cpu_level_name(void)
{
    return level_name[cpu_level()];
}
