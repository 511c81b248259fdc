/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/vu_slots.h"

#include <stdlib.h>

#include "vnet/features.h"

static uint32_t slot_stride(uint32_t room)
{
    return (room + VU_SLOT_PAD + CACHE_LINE - 1) & ~(CACHE_LINE - 1u);
}

uint64_t vu_slots_bytes(uint32_t num)
{
    uint32_t large = VU_SLOTS_N_LARGE(num);

    return (uint64_t)(2 * num - large) * slot_stride(VU_SLOT_SMALL) +
           (uint64_t)large * slot_stride(VU_SLOT_LARGE);
}

int vu_slots_init(struct vu_slots *s, struct vu_fe *fe, unsigned pair, uint32_t num)
{
    s->rx = vu_fe_ring(fe, 2 * pair);
    s->tx = vu_fe_ring(fe, 2 * pair + 1);
    s->small = calloc(num, sizeof(*s->small));
    s->large = calloc(num, sizeof(*s->large));
    return s->small && s->large ? 0 : -ENOMEM;
}

void vu_slots_fini(struct vu_slots *s)
{
    free(s->small);
    free(s->large);
}

int vu_slots_connect(struct vu_fe *fe, struct err *e)
{
    int rc = vu_fe_connect(fe, e);

    if (!rc && !(vu_fe_features(fe) & VIRTIO_BIT(NET_F_MRG_RXBUF))) {
        /* One receive slot per frame, which holds no large one. */
        vu_fe_forgo(fe, VNET_FEATURES_GUEST_GSO);
    }
    return rc ? rc : vu_fe_reset_rings(fe, e);
}

/* A chain of one slot, held. */
static void prepare(struct vu_fe *fe, struct vu_fe_ring *r, uint8_t **at, uint32_t room, bool in)
{
    struct ring_seg seg = {.addr = vu_fe_gpa(fe, *at), .len = room};

    ring_drv_prepare(&r->drv, &seg, in ? 0 : 1, in ? 1 : 0, *at);
    *at += slot_stride(room);
}

void vu_slots_fill(struct vu_slots *s, struct vu_fe *fe, unsigned pair)
{
    const uint32_t num = s->rx->drv.num, large = VU_SLOTS_N_LARGE(num);
    uint8_t *at = vu_fe_buf(fe) + pair * vu_slots_bytes(num);

    s->mergeable = vu_fe_features(fe) & VIRTIO_BIT(NET_F_MRG_RXBUF);
    for (uint32_t i = 0; i < num; i++) {
        prepare(fe, s->rx, &at, VU_SLOT_SMALL, true);
        ring_drv_repost(s->rx->drv.layout, &s->rx->drv, (uint16_t)i);
    }
    ring_drv_publish(s->rx->drv.layout, &s->rx->drv); /* vu_fe_start() kicks anyway */
    s->n_small = s->n_large = 0;
    for (uint32_t i = 0; i < num; i++) {
        bool small = i < num - large;

        prepare(fe, s->tx, &at, small ? VU_SLOT_SMALL : VU_SLOT_LARGE, false);
        if (small) {
            s->small[s->n_small++] = (uint16_t)i;
        } else {
            s->large[s->n_large++] = (uint16_t)i;
        }
    }
}
