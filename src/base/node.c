/* SPDX-License-Identifier: Apache-2.0 */
#include "base/node.h"

#include <numa.h>
#include <numaif.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool several;

void node_init(void)
{
    several = numa_available() >= 0 && numa_max_node() > 0;
    if (several) {
        numa_set_bind_policy(0); /* on that node if there is room, else elsewhere */
    }
}

int node_of_cpu(int cpu)
{
    int node = several && cpu >= 0 ? numa_node_of_cpu(cpu) : NODE_ANY;

    return node >= 0 ? node : NODE_ANY;
}

/* The value that most of status[0 .. n) have; negative ones are no nodes. */
static int most(const int *status, unsigned n)
{
    unsigned best_n = 0;
    int best = NODE_ANY;

    for (unsigned i = 0; i < n; i++) {
        unsigned same = 0;

        for (unsigned k = 0; k < n; k++) {
            same += status[k] == status[i];
        }
        if (status[i] >= 0 && same > best_n) {
            best_n = same;
            best = status[i];
        }
    }
    return best;
}

int node_of_pages(void *const *page, unsigned n)
{
    int status[NODE_PAGES];
    void *some[NODE_PAGES];

    n = MIN(n, (unsigned)NODE_PAGES);
    memcpy(some, page, n * sizeof(some[0]));
    /* Without nodes to move to, it only tells where they are. */
    if (!several || !n || numa_move_pages(0, n, some, NULL, status, 0)) {
        return NODE_ANY;
    }
    return most(status, n);
}

/* Pages that are there already, since something else was in them, move. */
static void move_to(void *p, size_t bytes, int node)
{
    struct bitmask *m = numa_allocate_nodemask();

    numa_bitmask_setbit(m, (unsigned)node);
    mbind(p, bytes, MPOL_PREFERRED, m->maskp, m->size + 1, MPOL_MF_MOVE); /* a wish: it may fail */
    numa_bitmask_free(m);
}

void *node_alloc(size_t bytes, int node)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    void *p = aligned_alloc(page, whole);

    if (!p) {
        return NULL;
    }
    if (several && node >= 0) {
        move_to(p, whole, node);
    }
    memset(p, 0, bytes); /* no page fault while forwarding */
    return p;
}
