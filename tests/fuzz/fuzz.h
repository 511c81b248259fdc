/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fuzz targets share. A target is one LLVMFuzzerTestOneInput(); libFuzzer, AFL++ or replay.c
 * calls it.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A promise that must hold whatever the input is; a sentence may say which. */
#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: broken promise: " #cond "; " __VA_ARGS__ "\n", __FILE__,       \
                    __LINE__);                                                                     \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/*
 * The guest's second thread: from now on it overwrites bytes of p[0..len) all the time, half of them
 * within the first `hot`, where it hurts (0: no such place). NULL ends it; when set_victim() returns, no other memory is
 * written any more.
 */
void set_victim(uint8_t *p, uint32_t len, uint32_t hot);

/* n bytes that repeat the image from a place on; 0 without one. */
void fill(uint8_t *out, uint32_t n, const uint8_t *image, size_t n_image, size_t from);

#endif
