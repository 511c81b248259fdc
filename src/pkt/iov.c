/* SPDX-License-Identifier: Apache-2.0 */
#include "pkt/iov.h"

#include <string.h>

#define PAGE 4096

unsigned pkt_iov(const struct pkt *p, uint32_t from, uint32_t len, struct iovec *iov, unsigned max)
{
    struct pkt_reader r = pkt_reader_at(p, from);
    unsigned n = 0;

    while (len) {
        uint32_t run = len;

        if (n == max) {
            return 0;
        }
        iov[n].iov_base = (void *)(uintptr_t)pkt_read(&r, &run);
        iov[n++].iov_len = run;
        len -= run;
    }
    return n;
}

void segment_finish(const struct segmenter *s, struct segment *seg)
{
    if (seg->n_patch || seg->sum_at) {
        segment_apply_patches(seg);
    }
    if (seg->sum_at) {
        uint16_t field = segment_sum(s, seg);

        memcpy(seg->buf + seg->sum_at, &field, sizeof(field));
    }
}

NOINLINE void pkt_touch(const struct pkt *p)
{
    const struct gspan *s = pkt_spans(p);

    for (unsigned i = 0; i < p->n_spans; i++) {
        const volatile uint8_t *at = GUEST_PTR(const volatile uint8_t, s[i].p);

        for (uint32_t k = 0; k < s[i].len; k += PAGE) {
            (void)at[k];
        }
        if (s[i].len) {
            (void)at[s[i].len - 1];
        }
    }
}
