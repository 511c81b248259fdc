/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The port: one interface for everything that can be plugged in.
 *
 * A provider (struct port_ops) is a kind of port: vhost-user, tap, dummy ...  The contract in three
 * sentences: rx() lends.  tx() has copied when it returns and keeps nothing.  rx_done() gives the
 * loans back in order.
 *
 *   verb       thread   may block   on failure
 *   create     control  no          -errno and a sentence; nothing is left behind
 *   destroy    control  no          cannot fail; the port is out of every worker's reach before
 *   rx         worker   no          0 packets
 *   tx         worker   no          drops are counted by the provider, with the reason
 *   rx_done    worker   no          cannot fail
 *   arm        worker   no          true: there is work, do not sleep
 *   disarm     worker   no          cannot fail
 *   set        control  no          -errno and a sentence; the old value stays
 *   show       control  no          adds keys to the JSON object of this port
 *   check      any      no          -EINVAL and a sentence; keys that do not go together
 *
 * Worker callbacks run between two quiescent states; memory that the control thread replaced is
 * freed only after every worker has passed one (env->barrier).  A worker callback must never touch
 * an fd, a page or a lock that a peer can make it wait on.
 *
 * Layering: providers see mem, ring, vnet, vhost and pkt; they do not see the bridge.  What they
 * need from the switch comes through struct port_env.
 */
#ifndef PORT_PORT_H
#define PORT_PORT_H

#include <jansson.h>
#include <sys/types.h>

#include "base/compiler.h"
#include "base/err.h"
#include "pkt/drop.h"
#include "pkt/pkt.h"
#include "pkt/wire.h"

#define PORT_NAME_MAX 63     /* bytes; [A-Za-z0-9._-], starts with a letter or digit */
#define PORT_MAX 1024        /* ports per switch */
#define WORKER_MAX 64
#define PORT_NONE 0xffff

struct event_base;
struct port;
struct port_ops;
struct rxq;
struct worker;

#define PORT_KIND_DEFAULT "vhost-user"

/* Options of a port as the user wrote them: key=value strings, checked against ops->options. */
struct port_opt {
    char *key, *value;
};
struct port_conf {
    char *name, *kind;
    struct port_opt *opt;
    unsigned n_opt;
    unsigned line; /* in the configuration file, 0 from the command line */
};

enum port_value {
    PORT_TEXT,   /* anything */
    PORT_PATH,   /* a file; relative to where the user is who says it */
    PORT_YES_NO,
    PORT_NUMBER, /* decimal, min..max */
    PORT_OCTAL,  /* octal, min..max */
    PORT_WORD,   /* one of words */
    PORT_MAC,    /* the address of a station */
};

struct port_option_def {
    const char *key;
    const char *help;    /* one line, with unit and default */
    bool changeable;     /* `ringway port set` may change it while the port runs */
    enum port_value type;
    uint64_t min, max;
    const char *words;   /* "up|down" */
    /* What else must be so: 0, or -errno and a sentence that begins with the key. May be NULL. */
    int (*check)(const char *value, struct err *e);
};

/* Hold what the user wrote against the kind's table of keys and `more` (another table, or NULL).
 * Opens nothing. The sentence does not name the port. */
int port_conf_check(const struct port_conf *c, const struct port_option_def *more, struct err *e);
int port_value_check(const struct port_option_def *d, const char *value, struct err *e);
/* The entry of a key in either table, or NULL and the nearest one in the sentence. */
const struct port_option_def *port_option(const struct port_ops *ops,
                                          const struct port_option_def *more, const char *key,
                                          struct err *e);
bool port_name_ok(const char *name);

/* For the table of a kind whose link can be set down: frames to and from the port are dropped as
 * link-down, and the other side is told as far as there is a way. port_init() sets port.down. */
#define PORT_OPTION_LINK                                                                           \
    {"link", "up, or down as if its cable were pulled (default up)", .changeable = true,           \
     .type = PORT_WORD, .words = "up|down"}

/* Values of a conf that was checked; `otherwise` is for a key that is not given. */
const char *port_conf_get(const struct port_conf *c, const char *key); /* NULL if not given */
uint64_t port_conf_number(const struct port_conf *c, const char *key, uint64_t otherwise);
uint64_t port_conf_octal(const struct port_conf *c, const char *key, uint64_t otherwise);
bool port_conf_is(const struct port_conf *c, const char *key, const char *value);
/* A mask of pkt/offload.h, written as words joined by plus signs. */
uint16_t port_conf_offload(const struct port_conf *c, const char *key, uint16_t otherwise);
int port_check_offload(const char *value, struct err *e); /* for port_option_def.check */

/* For the table of a kind that makes a socket file: who may use it. */
#define PORT_OPTIONS_SOCKET                                                                        \
    {"owner", "user (name or number) who owns the listening socket", .check = port_check_owner},   \
        {"group", "group (name or number) of the listening socket", .check = port_check_group},    \
    {                                                                                              \
        "mode", "permissions of the listening socket, octal (default 0660)", .type = PORT_OCTAL,   \
        .max = 0777                                                                                \
    }
int port_check_owner(const char *value, struct err *e);
int port_check_group(const char *value, struct err *e);
uid_t port_conf_owner(const struct port_conf *c); /* -1: leave it */
gid_t port_conf_group(const struct port_conf *c); /* -1: leave it */
mode_t port_conf_mode(const struct port_conf *c);
int port_check_client(const struct port_conf *c, struct err *e); /* client= or path=, for ops.check */

/* Counters of one port, written by one worker only (relaxed stores), read by anybody. */
struct port_counters {
    uint64_t rx_frames, rx_bytes; /* from the port into the switch */
    uint64_t tx_frames, tx_bytes; /* from the switch to the port */
    uint64_t drop[DROP_N];
} CACHE_ALIGNED;

/* A source of frames that a worker polls. Embedded in the provider's own struct. */
struct rxq {
    struct port *port;
    uint16_t queue;      /* number within the port */
    int fd;              /* becomes readable when the armed queue has work; -1: must be polled */
    bool event_driven;   /* polling costs a system call: poll only after fd was readable */
    bool ready;          /* worker's: an event-driven queue has (or may have) work */
    uint64_t busy_ns;    /* worker's: what its turns took, from samples (relaxed) */
    uint64_t turns;      /* worker's (relaxed): how often it was polled, */
    uint64_t busy_turns; /* how often it had chains then, */
    uint64_t chains;     /* and how many in all */
    uint16_t bursts, every; /* its turn: so many bursts, in one of so many rounds; control writes */
    /* Control thread; the switch's, providers leave them 0. */
    struct worker *worker; /* who polls it; NULL while not attached */
    bool pinned;           /* it stays there */
    double load;           /* share of a CPU that it takes */
    uint64_t seen_ns;      /* busy_ns when the load was measured last */
};

struct wctx;

/* Something to do at the end of the round, after one full fence for all. */
struct wctx_due {
    void (*fn)(void *arg, struct wctx *w);
    void *arg;
};

/* What a worker hands to provider callbacks. One per worker, never shared. */
struct wctx {
    unsigned id;             /* worker number: index of port->counters[] */
    void *rx_scratch;        /* WCTX_SCRATCH bytes for the provider between rx and rx_done */
    void *tx_scratch;        /* the same for the duration of one tx call */
    uint64_t spent;          /* what this turn cost, in bytes copied: tx adds, the worker ends it */
    uint32_t n_signals;
    int signals[128];        /* eventfds to signal at the end of this round, see wctx_signal */
    uint32_t n_due;
    struct wctx_due due[64]; /* see wctx_defer */
    void (*flush)(struct wctx *); /* do what is due and send the signals, now */
};
#define WCTX_SCRATCH (64 * 1024)

/* Signal an eventfd of a peer soon, without ever blocking on it. The fd stays open until the next
 * barrier (the control thread closes fds only after one). */
static ALWAYS_INLINE void wctx_signal(struct wctx *c, int fd)
{
    if (unlikely(c->n_signals == ARRAY_SIZE(c->signals))) {
        c->flush(c);
    }
    c->signals[c->n_signals++] = fd;
}

/* Have fn(arg, w) called once before this round ends; what was stored before is visible to every
 * CPU by then (a full fence). It may call wctx_signal. Not from within such a call. */
static ALWAYS_INLINE void wctx_defer(struct wctx *c, void (*fn)(void *, struct wctx *), void *arg)
{
    if (unlikely(c->n_due == ARRAY_SIZE(c->due))) {
        c->flush(c);
    }
    c->due[c->n_due++] = (struct wctx_due){fn, arg};
}

/* What the switch offers to providers. Control thread, except where marked. */
struct port_env {
    struct event_base *evbase;
    const char *rundir;
    unsigned n_workers;
    void *ctx; /* for the callbacks below */
    /* Have a worker poll this queue / stop it. detach returns when no worker can touch it. */
    int (*attach)(void *ctx, struct rxq *q, struct err *e);
    void (*detach)(void *ctx, struct rxq *q);
    /* Returns when every worker has dropped what it had read before: then old state can be freed. */
    void (*barrier)(void *ctx);
    /* The port can (or cannot) take frames now; the bridge floods to ready ports only. */
    void (*ready)(void *ctx, struct port *p, bool ready);
    /* The station with this address is behind port p from now on. */
    void (*learn)(void *ctx, struct port *p, const uint8_t mac[6]);
    /* Signal a peer's eventfd without blocking on it (workers use wctx_signal). */
    void (*signal)(void *ctx, int fd);
    /* ANY THREAD: have ops->event run on the control thread soon. */
    void (*post)(void *ctx, struct port *p);
};

struct port_ops {
    const char *kind;
    const char *help;                      /* one line for --help and the man page */
    const struct port_option_def *options; /* ends with a NULL key */
    /* What the table cannot say, without opening anything. May be NULL. */
    int (*check)(const struct port_conf *c, struct err *e);

    /* Allocate the provider's struct (struct port is its first member), bind sockets and devices.
     * The caller has filled nothing; port_init() is called by the provider first. c was checked. */
    int (*create)(struct port **out, const struct port_conf *c, const struct port_env *env,
                  struct err *e);
    /* Detach all queues, close all, free. Called when the bridge no longer knows the port. */
    void (*destroy)(struct port *p);

    /* rx, rx_done, arm, disarm: NULL for a kind without queues.
     * Lend up to PKT_BURST frames of q; b is empty. Returns b->n. Sets b->n_loans, the number of
     * frames taken from the port: those in b and those refused here, which are counted already. A
     * frame that the port makes itself is in b alone and no loan. It is for all VLANs of the port, a
     * batch of them at a time: b->own_vid says with which one to begin (0: the first), and rx_done
     * finds in b->more_vid, which is 0 before, where to go on. */
    uint32_t (*rx)(struct rxq *q, struct batch *b, struct wctx *w);
    /* Every loan of the last rx ends. Called once after each rx that set b->n or b->n_loans. */
    void (*rx_done)(struct rxq *q, struct batch *b, struct wctx *w);
    /* Copy the packets b->pkt[idx[0 .. n)] out. Any worker, several at once: the provider locks per
     * call if it must. Counts tx_frames, tx_bytes and drops itself. */
    void (*tx)(struct port *p, struct batch *b, const uint8_t *idx, uint32_t n, struct wctx *w);

    bool (*arm)(struct rxq *q);    /* make q->fd wake us; true if there is work already */
    void (*disarm)(struct rxq *q); /* we poll again */

    /* The value was checked. May be NULL. */
    int (*set)(struct port *p, const char *key, const char *value, struct err *e);
    void (*event)(struct port *p); /* control thread: env->post was called; may be NULL */
    void (*show)(const struct port *p, json_t *o); /* may be NULL */
};

struct capture_set;

struct port {
    const struct port_ops *ops;      /* RCU: kind_ops, or those of a capture; see port_ops_of() */
    const struct port_ops *kind_ops; /* what port_init() was given */
    struct capture_set *captures;    /* RCU, NULL if there are none; port/capture.h */
    const struct port_env *env;
    struct port_conf conf;   /* owned copy: what `show config` prints */
    const char *name;        /* conf.name */
    uint16_t id;             /* index in the switch, PORT_NONE before it is added */
    uint32_t max_len;        /* largest frame without tags that may be sent to it, bytes: its MTU and
                              * an Ethernet header; PKT_MAX_LEN: any */
    bool ready;              /* written by control, read by workers (relaxed) */
    bool down;               /* link=down: the same */
    int node;                /* NUMA node of the peer's memory, -1: not known. Control thread. */
    struct port_counters *counters; /* one per worker, [0 .. env->n_workers) */
};

/* For providers: fill the common part (copies conf, allocates counters) / release it. */
int port_init(struct port *p, const struct port_ops *ops, const struct port_conf *c,
              const struct port_env *env, struct err *e);
void port_fini(struct port *p);

/* Where a port's socket is if nobody says otherwise: RUNDIR/NAME.sock, with `more` behind the name.
 * To be freed; NULL: out of memory. */
char *port_socket_path(const struct port_env *env, const struct port_conf *c, const char *more);

/* Create a port of the kind that conf names. Checks name, kind and options. */
int port_create(struct port **out, const struct port_conf *c, const struct port_env *env,
                struct err *e);
/* Known kinds, ends with NULL. */
const struct port_ops *const *port_kinds(void);
/* A kind by its name (NULL: the default one), or NULL and the nearest one in the sentence. */
const struct port_ops *port_kind(const char *kind, struct err *e);
/* Sum over all workers. */
void port_counters_sum(const struct port *p, struct port_counters *out);

/* For providers: an array of the names of these bits (vnet/features.h). */
json_t *port_feature_names(uint64_t bits, const char *(*name)(unsigned));

/* "NAME" or "NAME=KIND,key=value,..." -> conf (allocated; port_conf_free). */
int port_conf_parse(struct port_conf *c, const char *arg, struct err *e);
int port_conf_copy(struct port_conf *to, const struct port_conf *from);
int port_conf_set(struct port_conf *c, const char *key, const char *value);
void port_conf_unset(struct port_conf *c, const char *key);
/* Exchange the options of the two: cannot fail. */
void port_conf_take_options(struct port_conf *to, struct port_conf *from);
void port_conf_free(struct port_conf *c);

/* Workers call a port through this: the control thread may exchange the table meanwhile. */
static ALWAYS_INLINE const struct port_ops *port_ops_of(const struct port *p)
{
    return load_acquire(&p->ops);
}

/* max_len of a port with this MTU. 65535, the largest that there is, is no bound at all. */
static inline uint32_t port_mtu_len(uint32_t mtu)
{
    return mtu < UINT16_MAX ? mtu + ETH_LEN : PKT_MAX_LEN;
}

static ALWAYS_INLINE void port_count_drop(struct port *p, const struct wctx *w, enum drop why,
                                          uint32_t n)
{
    uint64_t *c = &p->counters[w->id].drop[why];

    write_once(c, *c + n);
}

/* capture.c: show these frames to who looks for drops. */
void capture_dropped(struct port *p, struct wctx *w, enum drop why, const struct batch *b,
                     const uint8_t *idx, uint32_t n);

/* The same for frames idx[0 .. n) of a batch that came from p, and that are not forwarded. */
static ALWAYS_INLINE void port_drop_frames(struct port *p, struct wctx *w, enum drop why,
                                           const struct batch *b, const uint8_t *idx, uint32_t n)
{
    port_count_drop(p, w, why, n);
    if (unlikely(read_once(&p->captures) != NULL)) {
        capture_dropped(p, w, why, b, idx, n);
    }
}

#endif
