/* SPDX-License-Identifier: Apache-2.0 */
#include "base/nearest.h"

#include <string.h>

#include "base/compiler.h"

#define WORD_MAX 64

static size_t distance(const char *a, const char *b)
{
    size_t row[WORD_MAX + 1], na = strlen(a), nb = strlen(b);

    if (na > WORD_MAX || nb > WORD_MAX) {
        return WORD_MAX;
    }
    for (size_t j = 0; j <= nb; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= na; i++) {
        size_t diag = row[0];

        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t subst = diag + (a[i - 1] != b[j - 1]);

            diag = row[j];
            row[j] = MIN(MIN(row[j] + 1, row[j - 1] + 1), subst);
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
