/* SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

bool text_number(const char *text, int base, uint64_t max, uint64_t *out)
{
    char *end;

    if (!isdigit((unsigned char)text[0])) {
        return false;
    }
    errno = 0;
    unsigned long long v = strtoull(text, &end, base);
    if (errno || *end || v > max) {
        return false;
    }
    *out = v;
    return true;
}

int text_read_mac(const char *text, uint8_t mac[6])
{
    for (int i = 0; i < 6; i++) {
        if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1])) {
            return -EINVAL;
        }
        char hex[3] = {text[0], text[1], 0};

        mac[i] = (uint8_t)strtoul(hex, NULL, 16);
        text += 2;
        if (i < 5 && *text != ':' && *text != '-') {
            return -EINVAL;
        }
        text += i < 5;
    }
    return *text ? -EINVAL : 0;
}

void text_write_mac(char out[18], const uint8_t mac[6])
{
    snprintf(out, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
             mac[5]);
}
