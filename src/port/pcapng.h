/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a capture as a pcapng file (draft-ietf-opsawg-pcapng): one section, one Ethernet interface,
 * nanoseconds, the direction of each frame in epb_flags and what else is to be said in its comment.
 *
 * All functions return 0 or -errno.  They write with stdio: nothing is in the file before fflush().
 */
#ifndef PORT_PCAPNG_H
#define PORT_PCAPNG_H

#include <stdio.h>

#include "port/capture_ring.h"

#define PCAPNG_MAGIC 0x0a0d0d0au /* what such a file begins with, in either byte order */

/* name: of the port. filter: as the user wrote it, or NULL. */
int pcapng_begin(FILE *f, const char *name, const char *filter, uint32_t snaplen);
/* One record and its rec->cap_len bytes. What is left to do on the frame stands in front of comment,
 * which may be NULL or empty. */
int pcapng_frame(FILE *f, const struct capture_rec *rec, const uint8_t *bytes, const char *comment);
/* Statistics at the end: frames that were recorded, and lost on the way. */
int pcapng_end(FILE *f, uint64_t time_ns, uint64_t n, uint64_t lost);

#endif
