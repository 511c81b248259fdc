/* SPDX-License-Identifier: Apache-2.0 */
/* "Did you mean": the candidate with the smallest edit distance, for error sentences. */
#ifndef BASE_NEAREST_H
#define BASE_NEAREST_H

#include <stddef.h>

/* NULL when nothing is close enough (more than half of the letters differ). */
const char *nearest(const char *word, const char *const *candidate, size_t n);

#endif
