/* SPDX-License-Identifier: Apache-2.0 */
#include "base/nearest.h"

#include <string.h>

#include "base/compiler.h"

#define WORD_MAX 64

/* Edits that turn a into b; two neighbours swapped count as one. */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][WORD_MAX + 1], na = strlen(a), nb = strlen(b);
    size_t *above2 = rows[0], *above = rows[1], *row = rows[2];

    if (na > WORD_MAX || nb > WORD_MAX) {
        return WORD_MAX;
    }
    for (size_t j = 0; j <= nb; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= na; i++) {
        size_t *oldest = above2;

        above2 = above;
        above = row;
        row = oldest;
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t subst = above[j - 1] + (a[i - 1] != b[j - 1]);

            row[j] = MIN(MIN(above[j] + 1, row[j - 1] + 1), subst);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = MIN(row[j], above2[j - 2] + 1);
            }
        }
    }
    return row[nb];
}

const char *nearest(const char *word, const char *const *candidate, size_t n)
{
    const char *best = NULL;
    size_t best_d = strlen(word) / 2 + 1;

    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, candidate[i]);

        if (d < best_d) {
            best_d = d;
            best = candidate[i];
        }
    }
    return best;
}
