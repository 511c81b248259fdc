/* SPDX-License-Identifier: Apache-2.0 */
#include "pkt/drop.h"

const struct drop_info drop_info[DROP_N] = {
#define DROP_INFO(sym, name, text) {name, text},
    DROP_REASONS(DROP_INFO)
#undef DROP_INFO
};
