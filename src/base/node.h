/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NUMA nodes: where a CPU is, where memory is, and memory on a chosen one.  On a machine with one node
 * (or a kernel without any) everything here answers NODE_ANY and does nothing.
 *
 * Threads: any, after node_init() on the first one.
 */
#ifndef BASE_NODE_H
#define BASE_NODE_H

#include "base/compiler.h"

#define NODE_ANY (-1) /* not known, or it does not matter */

void node_init(void);
int node_of_cpu(int cpu); /* cpu -1: NODE_ANY */
/* The node that holds most of these pages, of those that are in memory at all. Touches none. At most
 * NODE_PAGES are looked at. */
#define NODE_PAGES 64
int node_of_pages(void *const *page, unsigned n);

/* Whole pages, zeroed and touched now, not when they are needed; on that node if there is room. NULL: out
 * of memory. free() gives them back. */
void *node_alloc(size_t bytes, int node);

#endif
