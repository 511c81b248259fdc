/* SPDX-License-Identifier: Apache-2.0 */
/* Text for people: columns that line up, numbers with a unit. */
#ifndef CTL_TABLE_H
#define CTL_TABLE_H

#include <stdio.h>

#include "base/compiler.h"

#define TABLE_COLS 16

struct table {
    unsigned n_cols, n_cells;
    const char *head[TABLE_COLS];
    bool right[TABLE_COLS];
    char **cell;
};

/* head: one word per column, "-" in front: flush right. The words are not copied. */
void table_init(struct table *t, unsigned n_cols, const char *const *head);
/* The next cell, row after row. */
void table_add(struct table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Print and forget. */
void table_print(struct table *t, FILE *f);

/* 1234567 -> "1.23M"; up to 999 as it is. Valid until the eighth call from now. */
const char *si(double v);

#endif
