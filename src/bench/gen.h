/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load generator: vhost-user front-ends in pairs, driven by one thread that spins.  Ports 0 and
 * 1 are the first pair, 2 and 3 the second; traffic goes from the even port to the odd one, and
 * back if conf.both.
 *
 *   gen_create  gen_connect  { gen_run | gen_latency | gen_sleep_latency } ...  gen_destroy
 *
 * Frames: Ethernet, addresses 02:00:PP:II:II:II (port, index), ethertype 0x88b5 (local
 * experimental), then flow, position in the ring, sequence number and a pattern.  Or TCP segments
 * (enum gen_tcp), which may leave work to the switch or to the receiver: see gen_tcp.c.
 *
 * Transmit buffers are filled once.  Unless addresses rotate (n_macs > 2 or rotate), a frame is
 * sent again by moving an index, so the generator is not what is measured.
 *
 * Units: lengths in bytes without FCS, times in ns unless named otherwise.
 */
#ifndef BENCH_GEN_H
#define BENCH_GEN_H

#include "base/compiler.h"
#include "base/err.h"
#include "ring/ring_drv.h"

#define GEN_MAX_PAIRS 64
#define GEN_MAX_MACS  2000000u
#define GEN_MIN_FRAME 60u
#define GEN_MAX_FRAME 65549u

struct gen;

/* TCP over IPv4 instead of raw frames: what its sender left to be done. */
enum gen_tcp {
    GEN_TCP_NONE,  /* raw frames */
    GEN_TCP_PLAIN, /* nothing: the checksum is complete */
    GEN_TCP_CSUM,  /* NEEDS_CSUM */
    GEN_TCP_TSO,   /* NEEDS_CSUM and GSO_TCPV4, GEN_TCP_PAYLOAD bytes per segment */
};
#define GEN_TCP_HEAD    66u   /* Ethernet, IPv4, TCP with a time stamp, as Linux sends it */
#define GEN_TCP_PAYLOAD 1448u /* in 1514 bytes */
#define GEN_TCP_MIN     130u

struct gen_conf {
    unsigned n_pairs;        /* connected; traffic runs on the first n_active of them */
    unsigned n_active;       /* 0: all */
    const char *const *path; /* 2 * n_pairs sockets */
    bool server;             /* we listen, the switch connects */
    uint32_t frame;          /* GEN_MIN_FRAME .. GEN_MAX_FRAME */
    uint32_t num;            /* ring size */
    uint32_t buf;     /* receive buffer; 0: 1536, or what the frame needs without MRG_RXBUF */
    uint32_t n_macs;  /* source addresses in all on each pair, half of them on each side */
    bool rotate;      /* write addresses and sequence numbers into each frame */
    bool both;        /* traffic both ways */
    bool verify;      /* check content and order of every frame; TCP: see gen_tcp.c */
    bool linux_guest; /* MRG_RXBUF, EVENT_IDX, INDIRECT_DESC */
    bool packed;      /* rings in the packed layout */
    bool write_rings; /* split: write descriptors and avail entries each time a buffer is posted */
    uint16_t odd_vid; /* odd ports learn, and are learnt, in this VLAN by its tag; 0: no tags. One way */
    enum gen_tcp tcp;
    bool taken; /* receivers negotiate what the frames carry */
    unsigned timeout_ms;
    void (*turn)(void *ctx); /* called in each round: a switch in this very thread, or NULL */
    void *turn_ctx;
};

struct gen_rate {
    double seconds;
    uint64_t rx_frames, rx_bytes; /* bytes of frames, no headers */
    uint64_t tx_frames;           /* those that are segmented count as what is received */
    uint64_t lost;        /* taken from us and not received, in the warm-up too */
    uint64_t bad_content; /* verify only */
    uint64_t bad_order;   /* verify only: jumps of the sequence */
    uint64_t kicks;
};

struct gen_latency {
    uint64_t n, lost;
    double min, p50, p90, p99, p999, max; /* ns, round trip: there and back */
};

int gen_create(struct gen **out, const struct gen_conf *c, struct err *e);
void gen_destroy(struct gen *g);
/* Negotiate and start all ports. */
int gen_connect(struct gen *g, struct err *e);
/* No switch behind sockets: set the rings up for one that is given them by gen_ring(). */
int gen_start_local(struct gen *g, struct err *e);
unsigned gen_n_ports(const struct gen *g); /* with traffic */
bool gen_mergeable(const struct gen *g);
/* Driver side of a port's ring: idx 0 receives, 1 transmits. */
const struct ring_drv *gen_ring(const struct gen *g, unsigned port, unsigned idx);
/* A port's packet memory as a back-end sees it. */
void gen_memory(const struct gen *g, unsigned port, struct gmem_region *out);
/* Send every address once from its own side, so that the switch has learnt it. */
int gen_learn(struct gen *g, struct err *e);
/* As fast as it goes, for this long. */
int gen_run(struct gen *g, double seconds, struct gen_rate *out, struct err *e);
/* Until so many were received; no warm-up. */
int gen_run_frames(struct gen *g, uint64_t frames, struct gen_rate *out, struct err *e);
/* First pair only: a frame each 1/rate seconds; the other side sends it back at once. */
int gen_latency(struct gen *g, double rate, double seconds, struct gen_latency *out, struct err *e);
/* The same with one frame at a time, after idle_ms without any. */
int gen_sleep_latency(struct gen *g, unsigned idle_ms, unsigned samples, struct gen_latency *out,
                      struct err *e);
/* What a wake-up alone costs: a thread on this CPU that sleeps as a worker does, and answers. */
int gen_bare_wake(int cpu, unsigned idle_ms, unsigned samples, struct gen_latency *out, struct err *e);
/* Set by a signal handler: all of the above return -EINTR soon. */
extern volatile bool gen_interrupted;

#endif
