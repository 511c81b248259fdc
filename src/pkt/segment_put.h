/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one copy of a segment into memory that is one run. For hot files (base/cpu.h).
 */
#ifndef PKT_SEGMENT_PUT_H
#define PKT_SEGMENT_PUT_H

#include <string.h>

#include "pkt/copy.h"
#include "pkt/segment.h"

/* Payload and headers at d, in one run; what has to be summed is (summed: seg->sum_at is set).  hdr_len is
 * VNET_HDR_LEN or VNET_HDR_LEN_LEGACY. */
static ALWAYS_INLINE void segment_put(uint8_t *d, uint32_t hdr_len, const struct pkt *p,
                                      const struct segment *seg, const bool summed)
{
    struct pkt_reader r = pkt_reader_at(p, seg->from);
    uint8_t *head = d + hdr_len, *to = head + seg->head_len;
    struct csum sum = {0};

    if (summed) {
        sum = segment_head_sum(seg);
    }
    for (uint32_t left = seg->len; left;) {
        uint32_t n = left;
        const uint8_t *s = pkt_read(&r, &n);

        if (summed) {
            csum_copy(&sum, to, s, n);
        } else {
            copy_bytes(to, s, n);
        }
        to += n;
        left -= n;
    }
    copy_bytes(head, seg->head, seg->head_len);
    for (uint32_t i = 0; i < seg->n_patch; i++) {
        memcpy(head + seg->patch[i].at, &seg->patch[i].word, sizeof(seg->patch[i].word));
    }
    if (summed) {
        uint16_t field = csum_field(&sum, seg->sum_udp);

        memcpy(head + seg->sum_at, &field, sizeof(field));
    }
    COPY_ACCOUNT(hdr_len);
    memcpy(d, &seg->h, VNET_HDR_LEN_LEGACY);
    if (likely(hdr_len == VNET_HDR_LEN)) {
        memcpy(d + VNET_HDR_LEN_LEGACY, &seg->h.num_buffers, sizeof(seg->h.num_buffers));
    }
}

#endif
