/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers and addresses as people write them. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include "base/compiler.h"

/* A number in this base, or no number at all: "12x", "-1", "" and " 1" are refused. */
bool text_number(const char *text, int base, uint64_t max, uint64_t *out);

/* "52:54:00:12:34:56", or with '-'. 0 or -EINVAL. */
int text_read_mac(const char *text, uint8_t mac[6]);
void text_write_mac(char out[18], const uint8_t mac[6]);

#endif
