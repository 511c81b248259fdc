/* SPDX-License-Identifier: Apache-2.0 */
#include <unistd.h>

#include "base/node.h"
#include "mem/gmem.h"

int gmem_node(const struct gmem *m)
{
    uint64_t total = gmem_bytes(m), page = (uint64_t)sysconf(_SC_PAGESIZE), at = 0;
    void *sample[NODE_PAGES];
    unsigned n = 0;

    for (uint32_t i = 0; m && i < m->n; i++) {
        const struct gmem_region *r = &m->region[i];

        /* every total / NODE_PAGES bytes, counted over all regions */
        for (; n < NODE_PAGES && at < r->size; at += MAX(total / NODE_PAGES, page)) {
            sample[n++] = GUEST_PTR(void, r->va + at);
        }
        at -= MIN(at, r->size);
    }
    return node_of_pages(sample, n);
}
