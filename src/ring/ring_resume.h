/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a packed ring goes on after its device died.
 *
 * A split ring has its used index in guest memory.  A packed ring has nothing: its device keeps its
 * position outside, in one word that it stores between a burst's used descriptors and the flags that
 * show them (packed_dev_publish(), order P5 of docs/memory-model.md).  The word names the position
 * before the burst and the one behind it, in the form of the vhost-user inflight region: used_idx,
 * old_used_idx, used_wrap_counter, old_used_wrap_counter, from the lowest byte on.
 *
 *   a device dies ...                               and is found as
 *   behind the flags                                the burst's first descriptor was used, or is even
 *                                                   available again: goes on at `now`
 *   between the word and the flags                  it is not used, and all others are: its flags are
 *                                                   turned, so the burst counts once; on at `now`
 *   between two used descriptors of the next burst  used ones behind an available one.  They cannot
 *                                                   be taken back: their lengths are overwritten.  So
 *                                                   they are shown, and it goes on behind them.  On a
 *                                                   receive ring empty: what frame they held parts of
 *                                                   cannot be told
 *
 * The word is believed only if the ring looks as it says: a driver that began anew leaves another
 * picture.  Source: vhost-user, "Inflight I/O tracking"; virtio 1.4, 2.8.
 */
#ifndef RING_RING_RESUME_H
#define RING_RING_RESUME_H

#include "base/compiler.h"
#include "ring/vring.h"

enum ring_resume {
    RING_RESUME_NOT,      /* the word is not about this ring as it is */
    RING_RESUME_AT,       /* nothing had to be done */
    RING_RESUME_FINISHED, /* a burst that was being shown was finished */
};

/* One of the two positions in the form of ring_setup.base. */
static inline uint64_t ring_resume_word(uint16_t now, uint16_t old)
{
    const uint16_t slot = VRING_PACKED_WRAP - 1;

    return (uint64_t)(now & slot) | (uint64_t)(old & slot) << 16 |
           (uint64_t)(now >> 15) << 32 | (uint64_t)(old >> 15) << 40;
}

/*
 * The descriptor ring of num slots, of a receive ring if write, and the word, which is not trusted.
 * *base: where to go on, in the form of ring_setup.base; untouched with RING_RESUME_NOT.  The driver
 * may run meanwhile, a device not.
 *
 * end: NULL, or where another device says that it stopped, which used chains from a place of its own on
 * while ours was dead: QEMU drops what its guest sends, from the position on that it was told last.  Then
 * chains have to be used up to there, and those in front of them are finished with length 0.
 */
enum ring_resume packed_resume(struct vring_packed_desc GUEST *desc, uint32_t num, bool write,
                               uint64_t word, const uint16_t *end, uint16_t *base);

#endif
