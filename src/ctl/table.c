/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void table_init(struct table *t, unsigned n_cols, const char *const *head)
{
    *t = (struct table){.n_cols = MIN(n_cols, TABLE_COLS)};
    for (unsigned i = 0; i < t->n_cols; i++) {
        t->right[i] = head[i][0] == '-';
        t->head[i] = head[i] + t->right[i];
    }
}

void table_add(struct table *t, const char *fmt, ...)
{
    char **bigger = realloc(t->cell, (t->n_cells + 1) * sizeof(*bigger));
    char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    if (!bigger || vasprintf(&text, fmt, ap) < 0) {
        fputs("ringway: out of memory\n", stderr);
        exit(1);
    }
    va_end(ap);
    t->cell = bigger;
    t->cell[t->n_cells++] = text;
}

static void put_cell(FILE *f, const struct table *t, unsigned col, const char *text, int width)
{
    bool last = col + 1 == t->n_cols;

    if (t->right[col]) {
        fprintf(f, "%*s", width, text);
    } else if (last) {
        fputs(text, f);
    } else {
        fprintf(f, "%-*s", width, text);
    }
    fputs(last ? "\n" : "  ", f);
}

void table_print(struct table *t, FILE *f)
{
    int width[TABLE_COLS];

    for (unsigned i = 0; i < t->n_cols; i++) {
        width[i] = (int)strlen(t->head[i]);
    }
    for (unsigned i = 0; i < t->n_cells; i++) {
        width[i % t->n_cols] = MAX(width[i % t->n_cols], (int)strlen(t->cell[i]));
    }
    for (unsigned i = 0; i < t->n_cols; i++) {
        put_cell(f, t, i, t->head[i], width[i]);
    }
    for (unsigned i = 0; i < t->n_cells; i++) {
        put_cell(f, t, i % t->n_cols, t->cell[i], width[i % t->n_cols]);
        free(t->cell[i]);
    }
    free(t->cell);
    *t = (struct table){0};
}

const char *si(double v)
{
    static const char unit[] = " kMGTPE";
    static char text[8][32];
    static unsigned turn;
    char *out = text[turn++ % ARRAY_SIZE(text)];
    unsigned u = 0;

    while (v >= 999.5 && u < sizeof(unit) - 2) {
        v /= 1000;
        u++;
    }
    if (u == 0) {
        snprintf(out, sizeof(text[0]), v > 0 && v < 9.95 && v != (double)(int)v ? "%.1f" : "%.0f",
                 v);
    } else {
        snprintf(out, sizeof(text[0]),
                 v < 9.995   ? "%.2f%c"
                 : v < 99.95 ? "%.1f%c"
                             : "%.0f%c",
                 v, unit[u]);
    }
    return out;
}
