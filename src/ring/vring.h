/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire: split and packed virtqueue layout (virtio 1.4, 2.7 and 2.8), little endian on every
 * host we build for.
 * Both sides of the ring use these and nothing else.
 */
#ifndef RING_VRING_H
#define RING_VRING_H

#include "base/compiler.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "ring words are little endian; this build would need conversions in ring/ only"
#endif

#define VRING_DESC_F_NEXT 1     /* 2.7.5: chain continues at `next` */
#define VRING_DESC_F_WRITE 2    /* device-writable, otherwise device-readable */
#define VRING_DESC_F_INDIRECT 4 /* 2.7.5.3: the buffer is a table of descriptors */
#define VRING_AVAIL_F_NO_INTERRUPT 1
#define VRING_USED_F_NO_NOTIFY 1
#define VRING_MAX_NUM 32768
#define VRING_PACKED_F_AVAIL (1 << 7)  /* 2.8.1: equal to the wrap counter, and */
#define VRING_PACKED_F_USED (1 << 15)  /* this one is not: available; both are: used */
#define VRING_PACKED_WRAP (1 << 15)    /* in an index: beside the offset, the wrap counter */
#define VRING_EVENT_F_ENABLE 0         /* 2.8.14: signal for every descriptor */
#define VRING_EVENT_F_DISABLE 1
#define VRING_EVENT_F_DESC 2 /* for the one that is named; only with VIRTIO_F_EVENT_IDX */

struct vring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct vring_avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[]; /* then: uint16_t used_event */
};

struct vring_used_elem {
    uint32_t id;
    uint32_t len;
};

struct vring_used {
    uint16_t flags;
    uint16_t idx;
    struct vring_used_elem ring[]; /* then: uint16_t avail_event */
};

/* Also the form of an entry in an indirect table; there, `id` and all flags but WRITE mean nothing. */
struct vring_packed_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
};

/* Event suppression (2.8.14). One word, and always accessed as one: an offset goes with its flags. */
struct vring_packed_event {
    uint32_t word; /* le16: descriptor offset and VRING_PACKED_WRAP; le16: VRING_EVENT_F_* */
};
#define VRING_EVENT_WORD(off_wrap, flags) ((uint32_t)(off_wrap) | (uint32_t)(flags) << 16)

static_assert(sizeof(struct vring_packed_desc) == 16, "2.8.13");
static_assert(sizeof(struct vring_packed_event) == 4, "2.8.14");
static_assert(sizeof(struct vring_desc) == 16, "2.7.5");
static_assert(sizeof(struct vring_avail) == 4, "2.7.6");
static_assert(sizeof(struct vring_used_elem) == 8, "2.7.8");
static_assert(sizeof(struct vring_used) == 4, "2.7.8");

/* Bytes of each part for a ring of num entries (2.7), event words included. */
static inline uint64_t vring_desc_bytes(uint32_t num)
{
    return 16ull * num;
}
static inline uint64_t vring_avail_bytes(uint32_t num)
{
    return 4 + 2ull * num + 2;
}
static inline uint64_t vring_used_bytes(uint32_t num)
{
    return 4 + 8ull * num + 2;
}

/* Event index (2.7.7.2, 2.7.10): is `event` in (old, new]? */
static inline bool vring_need_event(uint16_t event, uint16_t new_idx, uint16_t old)
{
    return (uint16_t)(new_idx - event - 1) < (uint16_t)(new_idx - old);
}

/*
 * Packed: does the peer's word ask to be told, now that `slots` (<= num) descriptors were passed and
 * the next one is `at` in the lap `wrap`?  An offset with the other wrap counter is one lap behind.
 * Whatever cannot be understood counts as yes: a signal too many harms nobody.
 */
static inline bool vring_packed_wants(uint32_t word, bool event_idx, uint32_t num, uint16_t at,
                                      bool wrap, uint32_t slots)
{
    uint32_t flags = word >> 16 & 3;
    uint16_t event = word & (VRING_PACKED_WRAP - 1);

    if (!slots || flags == VRING_EVENT_F_DISABLE) {
        return false;
    }
    if (flags != VRING_EVENT_F_DESC || !event_idx) {
        return true;
    }
    event = (uint16_t)(event - (!!(word & VRING_PACKED_WRAP) != wrap ? num : 0));
    return vring_need_event(event, at, (uint16_t)(at - slots));
}

#endif
