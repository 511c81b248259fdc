/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A frame in one line for people: who to whom, and what kind.  It names the usual protocols and
 * explains none; for that, write a file and open it in Wireshark.
 */
#ifndef CTL_FRAME_TEXT_H
#define CTL_FRAME_TEXT_H

#include "base/compiler.h"

/* The first n bytes of a frame of len. out is always ended. */
void frame_text(char *out, size_t room, const uint8_t *frame, uint32_t n, uint32_t len);

#endif
