/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver side, the parts that are not hot: set-up and fault texts.
 */
#include "ring/ring_drv.h"

#include <stdlib.h>
#include <string.h>

static const char *const fault_text[] = {
#define RING_DRV_FAULT_TEXT(sym, text) text,
    RING_DRV_FAULTS(RING_DRV_FAULT_TEXT)
#undef RING_DRV_FAULT_TEXT
};
static_assert(ARRAY_SIZE(fault_text) == RING_DRV_N_FAULTS, "one text per fault");

const char *ring_drv_fault_text(enum ring_drv_fault f)
{
    return (unsigned)f < RING_DRV_N_FAULTS ? fault_text[f] : "unknown fault";
}

static void split_start(struct ring_drv *r, uint16_t base)
{
    r->avail_idx = r->published = r->used_idx = r->used_seen = base;
    r->avail->idx = base;
    r->used->idx = base;
    /* An event that is as far away as it can be. */
    *split_drv_used_event(r) = (uint16_t)(base - 1);
}

static void packed_start(struct ring_drv *r, uint16_t base)
{
    struct ring_drv_packed *p = &r->packed;

    p->at = p->used_at = base & (VRING_PACKED_WRAP - 1);
    p->wrap = p->used_wrap = base & VRING_PACKED_WRAP;
    /* Every slot as if it had been used: those in front of the base in this lap. */
    for (uint32_t i = 0; i < r->num; i++) {
        r->pdesc[i].flags = packed_used_bits(i < p->at ? p->wrap : !p->wrap);
    }
}

int ring_drv_init(struct ring_drv *r, const struct ring_drv_setup *s)
{
    const bool packed = s->layout == RING_PACKED;
    uint8_t *mem = s->mem;
    uint32_t free_num = 1;

    if (!s->num || s->num > VRING_MAX_NUM || (!packed && (s->num & (s->num - 1))) ||
        ((uintptr_t)mem & 15)) {
        return -EINVAL;
    }
    while (free_num < s->num) {
        free_num *= 2;
    }
    *r = (struct ring_drv){
        .desc = (struct vring_desc *)mem,
        .avail = (struct vring_avail *)(mem + ring_drv_avail_at(s->num)),
        .used = (struct vring_used *)(mem + ring_drv_used_at(s->num)),
        .num = s->num,
        .free_mask = free_num - 1,
        .event_idx = s->event_idx,
        .layout = (uint8_t)s->layout,
        .free_tail = (uint16_t)s->num,
    };
    r->slot = aligned_alloc(CACHE_LINE, (s->num * sizeof(*r->slot) + 63) & ~63ul);
    r->free = calloc(free_num, sizeof(*r->free));
    r->table = packed || s->rewrite ? calloc(s->num, sizeof(*r->table)) : r->desc;
    if (!r->slot || !r->free || !r->table) {
        ring_drv_fini(r);
        return -ENOMEM;
    }
    memset(r->slot, 0, s->num * sizeof(*r->slot));
    memset(mem, 0, ring_drv_bytes(s->num));
    for (uint32_t i = 0; i < s->num; i++) {
        r->free[i] = (uint16_t)i;
    }
    if (packed) {
        packed_start(r, s->base);
    } else {
        split_start(r, s->base);
    }
    ring_drv_disarm(s->layout, r);
    return 0;
}

uint16_t ring_drv_base(const struct ring_drv *r)
{
    uint16_t at;
    bool wrap;

    if (r->layout == RING_SPLIT) {
        return read_once(&r->used->idx);
    }
    packed_drv_look(r, r->num, &at, &wrap);
    return at | (wrap ? VRING_PACKED_WRAP : 0);
}

bool ring_drv_base_ok(const struct ring_drv *r, uint16_t base)
{
    const struct ring_drv_packed *p = &r->packed;
    uint32_t at = base & (VRING_PACKED_WRAP - 1), laps = 2 * r->num;

    if (r->layout == RING_SPLIT) {
        return (uint16_t)(base - r->used_idx) <= (uint16_t)(r->published - r->used_idx);
    }
    at += (base & VRING_PACKED_WRAP ? r->num : 0);
    uint32_t used = p->used_at + (p->used_wrap ? r->num : 0);
    return (base & (VRING_PACKED_WRAP - 1u)) < r->num && (at + laps - used) % laps <= p->out;
}

void ring_drv_fini(struct ring_drv *r)
{
    free(r->slot);
    free(r->free);
    if (r->table != r->desc) {
        free(r->table);
    }
    r->slot = NULL;
    r->free = NULL;
    r->table = NULL;
}
