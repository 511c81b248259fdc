/* SPDX-License-Identifier: Apache-2.0 */
/* csum_move() as one machine level has it: compiled once per level for test_csum.c. */
#include "base/cpu.h"
#include "pkt/csum.h"

uint64_t HOT(level_csum_move)(uint8_t *d, const uint8_t *s, uint32_t len);

uint64_t HOT(level_csum_move)(uint8_t *d, const uint8_t *s, uint32_t len)
{
    return csum_move(d, s, len);
}
