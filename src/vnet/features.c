/* SPDX-License-Identifier: Apache-2.0 */
#include "vnet/features.h"

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
