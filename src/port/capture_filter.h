/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filters of captures: classic BPF programs, as libpcap compiles them and `tcpdump -ddd` prints them
 * ("N,code jt jf k,code jt jf k,...").
 *
 * The text of a filter ("tcp port 80") is compiled by who asks for the capture, not by the switch:
 * that takes unbounded time, and looks up names in the network.  What arrives here is checked: known
 * instructions, forward jumps inside the program, memory that exists, no division by 0.  So a program
 * ends after at most as many steps as it has instructions.
 *
 * A program runs on private bytes: on the snapshot if it cannot look behind it, else on a copy.
 */
#ifndef PORT_CAPTURE_FILTER_H
#define PORT_CAPTURE_FILTER_H

#include "base/compiler.h"
#include "base/err.h"

#define CAPTURE_FILTER_MAX 4096 /* instructions, as in the kernel */

struct bpf_insn;

struct capture_filter {
    struct bpf_insn *insn; /* NULL: every frame matches */
    unsigned n;
    uint32_t reach; /* it looks at the first so many bytes at most; UINT32_MAX: anywhere */
};

/* text NULL or empty: every frame. */
int capture_filter_parse(struct capture_filter *f, const char *text, struct err *e);
void capture_filter_free(struct capture_filter *f);
/* Does the frame of len bytes match? buf holds its first buf_len bytes. Worker. */
bool capture_filter_match(const struct capture_filter *f, const uint8_t *buf, uint32_t len,
                          uint32_t buf_len);

#endif
