/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vhost-user wire: header, payloads and limits, and nothing that has an opinion.  Host endian
 * (both ends are on one machine).  Which message carries what is in the table of vu_codec.h.
 *
 * Source: the vhost-user text of QEMU, "Message Specification".
 */
#ifndef VHOST_VU_WIRE_H
#define VHOST_VU_WIRE_H

#include "base/compiler.h"

#define VU_VERSION           1u
#define VU_FLAG_VERSION_MASK 3u
#define VU_FLAG_REPLY        4u
#define VU_FLAG_NEED_REPLY   8u
#define VU_FLAGS_KNOWN       (VU_FLAG_VERSION_MASK | VU_FLAG_REPLY | VU_FLAG_NEED_REPLY)
#define VU_REPLY_FLAGS                                                                             \
    (VU_VERSION | VU_FLAG_REPLY) /* exactly these, need_reply never comes back                     \
                                  */

#define VU_MAX_RINGS         256  /* KICK, CALL and ERR name a ring in 8 bits */
#define VU_MAX_PAYLOAD       4096 /* an unknown message with more than this is not sane */
#define VU_MAX_FDS           32   /* per message: one per region of a memory table */
#define VU_TABLE_MAX_REGIONS 32   /* the text says 8; peers that send more exist */

struct vu_hdr {
    uint32_t request;
    uint32_t flags;
    uint32_t size; /* of the payload */
};

/* KICK, CALL and ERR: a ring and "no fd comes with this" in one u64. */
#define VU_RING_FD_IDX  0xffu
#define VU_RING_FD_NONE 0x100u

struct vu_ring_state {
    uint32_t idx;
    uint32_t num;
};

#define VU_RING_ADDR_F_LOG 1u
struct vu_ring_addr {
    uint32_t idx;
    uint32_t flags;
    uint64_t desc, used, avail; /* in the front-end's address space */
    uint64_t log;               /* guest-physical */
};

struct vu_region {
    uint64_t gpa, size, uva, mmap_offset;
};

struct vu_mem_table {
    uint32_t n;
    uint32_t pad;
    struct vu_region region[VU_TABLE_MAX_REGIONS];
};
#define VU_MEM_TABLE_HEAD 8u /* bytes in front of the regions */

struct vu_one_region {
    uint64_t pad;
    struct vu_region region;
};

/* The dirty log: where it lies in the file that comes along. */
struct vu_log {
    uint64_t size, offset; /* bytes */
};

/* A part of the device's configuration space. */
#define VU_CONFIG_MAX         256u
#define VU_CONFIG_F_MIGRATION 1u
struct vu_config {
    uint32_t offset;
    uint32_t size;
    uint32_t flags;
    uint8_t bytes[VU_CONFIG_MAX];
};
#define VU_CONFIG_HEAD 12u /* bytes in front of the part */

/* Inflight description. The text has 20 bytes; C front-ends send 24. */
struct vu_inflight_msg {
    uint64_t mmap_size, mmap_offset;
    uint16_t n_queues, queue_size;
    uint32_t pad;
};
#define VU_INFLIGHT_MSG_MIN 20u

/* What the back-end may say by itself, on the channel of SET_BACKEND_REQ_FD. */
#define VU_BACKEND_CONFIG_CHANGE 2u

union vu_payload {
    uint64_t u64;
    struct vu_ring_state state;
    struct vu_ring_addr addr;
    struct vu_mem_table table;
    struct vu_one_region one;
    struct vu_log log;
    struct vu_config config;
    struct vu_inflight_msg inflight;
    uint8_t bytes[VU_MAX_PAYLOAD];
};

static_assert(sizeof(struct vu_hdr) == 12, "header");
static_assert(sizeof(struct vu_ring_state) == 8, "vring state description");
static_assert(sizeof(struct vu_ring_addr) == 40, "vring address description");
static_assert(sizeof(struct vu_region) == 32, "memory region description");
static_assert(offsetof(struct vu_mem_table, region) == VU_MEM_TABLE_HEAD, "memory regions");
static_assert(sizeof(struct vu_one_region) == 40, "single memory region description");
static_assert(sizeof(struct vu_inflight_msg) == 24, "inflight description");
static_assert(sizeof(struct vu_log) == 16, "log description");
static_assert(offsetof(struct vu_config, bytes) == VU_CONFIG_HEAD, "virtio device config space");

#endif
