/* SPDX-License-Identifier: Apache-2.0 */
#include "vnet/features.h"

#include <stdio.h>
#include <string.h>

static const char *const virtio_name[64] = {
#define FEATURE_NAME(bit, name) [bit] = "VIRTIO_" #name,
    VIRTIO_FEATURES(FEATURE_NAME)
#undef FEATURE_NAME
};

static const char *const protocol_name[64] = {
#define FEATURE_NAME(bit, name) [bit] = "VHOST_USER_PROTOCOL_F_" #name,
    VU_PROTOCOL_FEATURES(FEATURE_NAME)
#undef FEATURE_NAME
};

const char *virtio_feature_name(unsigned bit)
{
    return bit < 64 ? virtio_name[bit] : NULL;
}

const char *vu_protocol_feature_name(unsigned bit)
{
    return bit < 64 ? protocol_name[bit] : NULL;
}

const char *feature_names(char *text, size_t size, uint64_t bits, const char *(*name)(unsigned))
{
    size_t len = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < 64; i++) {
        char number[8];

        if (!(bits >> i & 1)) {
            continue;
        }
        snprintf(number, sizeof(number), "bit %u", i);
        len += (size_t)snprintf(text + len, size - len, "%s%s", len ? ", " : "",
                                name(i) ? name(i) : number);
        if (len >= size) {
            memcpy(text + size - 4, "...", 4);
            break;
        }
    }
    return text;
}
