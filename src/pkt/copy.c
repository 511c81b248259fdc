/* SPDX-License-Identifier: Apache-2.0 */
#include "pkt/copy.h"

#ifdef COPY_COUNT
_Thread_local uint64_t copy_bytes_counted;
#endif
