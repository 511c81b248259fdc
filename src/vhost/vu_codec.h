/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a vhost-user message may look like, apart from what it means.
 *
 * One table carries the policy for every message: its number, name, payload, how many fds it may
 * bring and how it is answered.  The back-end, the log, the fuzzers and the tests read this table;
 * no other place knows a size.  Functions here are pure: no state, no fds closed, any thread.
 *
 * Two checks, in the order in which bytes arrive:
 *   vu_check_header   after 12 bytes and BEFORE any payload is read: version, flags, exact size
 *   vu_check_message  with payload and fds there: fd count, ring index, ranges of the type
 * What fails here is malformed and ends the connection; what is well-formed but not possible now is
 * the back-end's to refuse.
 */
#ifndef VHOST_VU_CODEC_H
#define VHOST_VU_CODEC_H

#include "base/compiler.h"
#include "base/err.h"
#include "vhost/vu_wire.h"

enum vu_shape {                   /* payload of the request */
                VU_SHAPE_NONE,    /* 0 bytes */
                VU_SHAPE_U64,     /* 8 */
                VU_SHAPE_RING_FD, /* 8: u64 with ring index and no-fd bit; 0 or 1 fd accordingly */
                VU_SHAPE_RING_STATE, /* 8 */
                VU_SHAPE_RING_ADDR,  /* 40 */
                VU_SHAPE_TABLE,      /* 8 + 32 n; up to n fds */
                VU_SHAPE_REGION,     /* 40 */
                VU_SHAPE_LOG,        /* 16 */
                VU_SHAPE_CONFIG,     /* 12 + n, n up to VU_CONFIG_MAX and what it says itself */
                VU_SHAPE_INFLIGHT,   /* 20 or 24 */
                VU_SHAPE_ANY, /* not spoken here: up to VU_MAX_PAYLOAD bytes, read and thrown away
                               */
                VU_N_SHAPES
};

enum vu_answer {
    VU_ANSWER_ACK,  /* u64 0 or 1, only if the request has NEED_REPLY */
    VU_ANSWER_U64,  /* a u64 of its own, always, and no ack */
    VU_ANSWER_STATE, /* a ring state of its own, always, and no ack */
    VU_ANSWER_INFLIGHT, /* an inflight description and a file, always, and no ack */
    VU_ANSWER_LOG,   /* what it said, always, if it was done; if not, as ACK */
    VU_ANSWER_CONFIG /* a part of the configuration, or nothing after an error; always, and no ack */
};

/*
 * X(number, name, shape, most fds, answer): what this back-end speaks.
 * Fewer fds than the most are a matter of meaning, except for RING_FD.
 */
#define VU_MESSAGES(X)                                                                             \
    X(1, GET_FEATURES, NONE, 0, U64)                                                               \
    X(2, SET_FEATURES, U64, 0, ACK)                                                                \
    X(3, SET_OWNER, NONE, 0, ACK)                                                                  \
    X(4, RESET_OWNER, NONE, 0, ACK)                                                                \
    X(5, SET_MEM_TABLE, TABLE, VU_TABLE_MAX_REGIONS, ACK)                                          \
    X(6, SET_LOG_BASE, LOG, 1, LOG)                                                                \
    X(7, SET_LOG_FD, NONE, 1, ACK)                                                                 \
    X(8, SET_VRING_NUM, RING_STATE, 0, ACK)                                                        \
    X(9, SET_VRING_ADDR, RING_ADDR, 0, ACK)                                                        \
    X(10, SET_VRING_BASE, RING_STATE, 0, ACK)                                                      \
    X(11, GET_VRING_BASE, RING_STATE, 0, STATE)                                                    \
    X(12, SET_VRING_KICK, RING_FD, 1, ACK)                                                         \
    X(13, SET_VRING_CALL, RING_FD, 1, ACK)                                                         \
    X(14, SET_VRING_ERR, RING_FD, 1, ACK)                                                          \
    X(15, GET_PROTOCOL_FEATURES, NONE, 0, U64)                                                     \
    X(16, SET_PROTOCOL_FEATURES, U64, 0, ACK)                                                      \
    X(17, GET_QUEUE_NUM, NONE, 0, U64)                                                             \
    X(18, SET_VRING_ENABLE, RING_STATE, 0, ACK)                                                    \
    X(19, SEND_RARP, U64, 0, ACK)                                                                  \
    X(20, NET_SET_MTU, U64, 0, ACK)                                                                \
    X(21, SET_BACKEND_REQ_FD, NONE, 1, ACK)                                                        \
    X(24, GET_CONFIG, CONFIG, 0, CONFIG)                                                           \
    X(25, SET_CONFIG, CONFIG, 0, ACK)                                                              \
    X(31, GET_INFLIGHT_FD, INFLIGHT, 0, INFLIGHT)                                                  \
    X(32, SET_INFLIGHT_FD, INFLIGHT, 1, ACK)                                                       \
    X(34, RESET_DEVICE, NONE, 0, ACK)                                                              \
    X(36, GET_MAX_MEM_SLOTS, NONE, 0, U64)                                                         \
    X(37, ADD_MEM_REG, REGION, 1, ACK)                                                             \
    X(38, REM_MEM_REG, REGION, 1, ACK)                                                             \
    X(39, SET_STATUS, U64, 0, ACK)                                                                 \
    X(40, GET_STATUS, NONE, 0, U64)

/* X(number, name): in the text, but behind protocol features that are not offered. */
#define VU_MESSAGES_NOT_SPOKEN(X)                                                                  \
    X(22, IOTLB_MSG)                                                                               \
    X(23, SET_VRING_ENDIAN) X(26, CREATE_CRYPTO_SESSION)                                           \
        X(27, CLOSE_CRYPTO_SESSION) X(28, POSTCOPY_ADVISE) X(29, POSTCOPY_LISTEN)                  \
            X(30, POSTCOPY_END)                                                                    \
                X(33, GPU_SET_SOCKET) X(35, VRING_KICK) X(41, GET_SHARED_OBJECT)                   \
                    X(42, SET_DEVICE_STATE_FD) X(43, CHECK_DEVICE_STATE) X(44, GET_SHMEM_CONFIG)

enum vu_request {
#define VU_ENUM(number, name, ...) VU_##name = number,
    VU_MESSAGES(VU_ENUM) VU_MESSAGES_NOT_SPOKEN(VU_ENUM)
#undef VU_ENUM
        VU_REQUEST_MAX /* first number without a name */
};

struct vu_msg_desc {
    uint32_t request;
    const char *name;
    bool spoken; /* false: answered as an unsupported message */
    enum vu_shape shape;
    uint32_t max_fds;
    enum vu_answer answer;
};

/* Never NULL: a number nobody knows gives a description that is not spoken and named "unknown". */
const struct vu_msg_desc *vu_msg_desc(uint32_t request);

/* A whole message, private copy. */
struct vu_msg {
    struct vu_hdr h;
    const struct vu_msg_desc *desc;
    uint32_t n_fds;
    int fd[VU_MAX_FDS]; /* -1 once somebody has taken it over */
    union vu_payload p; /* h.size bytes of it came from the peer, the rest is 0 for spoken ones */
};

/* 0 or -EPROTO and what is wrong. */
int vu_check_header(const struct vu_hdr *h, struct err *e);
int vu_check_message(const struct vu_msg *m, struct err *e);

/* The ring that a message is about; -1 if it is about none. */
int vu_msg_ring(const struct vu_msg *m);

#endif
