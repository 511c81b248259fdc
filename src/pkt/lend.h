/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that lie in private memory, as a file's or those that a socket brought, lent like a guest's. */
#ifndef PKT_LEND_H
#define PKT_LEND_H

#include "pkt/copy.h"
#include "pkt/pkt.h"

/* The next packet of the batch is the plain frame bytes[0 .. len), PKT_MIN_LEN..PKT_MAX_LEN of them,
 * which stay as they are until rx_done. There is room for it. */
static inline void pkt_lend(struct batch *b, const uint8_t *bytes, uint32_t len)
{
    struct pkt *k = &b->pkt[b->n];
    uint32_t snap = MIN(len, (uint32_t)PKT_SNAP - VNET_HDR_LEN);

    *k = (struct pkt){.data = batch_snap(b, b->n) + VNET_HDR_LEN,
                      .len = len,
                      .snap_len = (uint16_t)snap,
                      .n_spans = len > snap,
                      .span = {(const uint8_t GUEST *)(bytes + snap), len - snap}};
    pkt_plain_header(k->data);
    copy_bytes(k->data, bytes, snap);
    b->n++;
}

#endif
