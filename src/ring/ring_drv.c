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

int ring_drv_init(struct ring_drv *r, const struct ring_drv_setup *s)
{
    uint8_t *mem = s->mem;

    if (!s->num || s->num > VRING_MAX_NUM || (s->num & (s->num - 1)) || ((uintptr_t)mem & 15)) {
        return -EINVAL;
    }
    *r = (struct ring_drv){
        .desc = (struct vring_desc *)mem,
        .avail = (struct vring_avail *)(mem + ring_drv_avail_at(s->num)),
        .used = (struct vring_used *)(mem + ring_drv_used_at(s->num)),
        .num = s->num,
        .event_idx = s->event_idx,
        .avail_idx = s->base,
        .published = s->base,
        .used_idx = s->base,
        .used_seen = s->base,
        .free_tail = (uint16_t)s->num,
    };
    r->slot = aligned_alloc(CACHE_LINE, (s->num * sizeof(*r->slot) + 63) & ~63ul);
    r->free = calloc(s->num, sizeof(*r->free));
    if (!r->slot || !r->free) {
        ring_drv_fini(r);
        return -ENOMEM;
    }
    memset(r->slot, 0, s->num * sizeof(*r->slot));
    memset(mem, 0, ring_drv_bytes(s->num));
    for (uint32_t i = 0; i < s->num; i++) {
        r->free[i] = (uint16_t)i;
    }
    r->avail->idx = s->base;
    r->used->idx = s->base;
    /* An event that is as far away as it can be. */
    *split_drv_used_event(r) = (uint16_t)(s->base - 1);
    split_drv_disarm(r);
    return 0;
}

void ring_drv_fini(struct ring_drv *r)
{
    free(r->slot);
    free(r->free);
    r->slot = NULL;
    r->free = NULL;
}
