/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire: split virtqueue layout (virtio 1.4, 2.7), little endian on every host we build for.
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

#endif
