/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front-end of the vhost-user protocol.  Packet memory is one run of addresses, for us and for
 * the back-end, cut into one or more memfds:
 *
 *     base                                                        base + total
 *      | ring 0 | ring 1 | ... | buffers .................................. |
 *      | region 0               | region 1               | ...              |
 *
 * so a guest-physical address is always GPA_BASE + (pointer - base), and buffers cross regions that
 * touch in our space but not in the back-end's.  Regions that are added later lie elsewhere.
 *
 * Every message that has no reply of its own asks for an acknowledgement when that was negotiated:
 * a refusal is then an error here, with the name of the message, instead of a hang later.
 */
#include "vhost/vu_frontend.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "vhost/vu_codec.h"
#include "vhost/vu_sock.h"
#include "vnet/features.h"

#define GPA_BASE           (1ull << 32) /* not 0: an address that was never set must not be valid */
#define GPA_EXTRA          (1ull << 40) /* regions added later */
#define EXTRA_STRIDE       (1ull << 36) /* between two of them */
#define MAX_EXTRA          64
#define DEFAULT_TIMEOUT_MS 5000

#define STATUS_RUNNING     0x0f /* ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK (virtio 2.1) */
#define STATUS_FEATURES_OK 0x0b

struct fe_region {
    uint64_t gpa, size;
    uint8_t *va;
    int fd;
};

struct vu_fe {
    struct vu_fe_conf conf;
    char *path;
    int listen_fd, sock;
    struct vu_sock_file file; /* that listen_fd made */
    uint64_t features, protocol;
    bool mem_sent;     /* this connection knows the regions */
    uint64_t until_ms; /* vu_fe_hurry(); 0: no hurry */

    uint8_t *base;
    uint64_t total, ring_stride;
    unsigned n_regions;
    struct fe_region region[VU_FE_MAX_REGIONS];
    struct fe_region extra[MAX_EXTRA]; /* fd < 0: free */

    struct vu_fe_ring *ring; /* [conf.n_rings] */
    int32_t *stop_index;     /* [conf.n_rings] -1: not stopped, look at the ring */
};

/* ---- waiting ---- */

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Until fd (-1: none) is ready, or `end`; errno is ETIMEDOUT or ECANCELED otherwise. */
static bool fe_wait(const struct vu_fe *fe, int fd, short events, uint64_t end)
{
    for (;;) {
        struct pollfd p[2] = {{.fd = fd, .events = events},
                              {.fd = fe->conf.cancel_fd && !fe->until_ms ? fe->conf.cancel_fd : -1,
                               .events = POLLIN}};
        uint64_t now = now_ms();
        int n = poll(p, 2, now < end ? (int)(end - now) : 0);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        errno = n > 0 && p[1].revents ? ECANCELED : ETIMEDOUT;
        return n > 0 && !p[1].revents;
    }
}

static uint64_t deadline(const struct vu_fe *fe)
{
    uint64_t step = now_ms() + fe->conf.timeout_ms;

    return fe->until_ms ? MIN(step, fe->until_ms) : step;
}

/* ---- messages ---- */

static int fe_hung_up(struct vu_fe *fe, struct err *e, const char *what)
{
    int code = errno ? -errno : -ECONNRESET;

    if (code == -ETIMEDOUT) {
        return err_set(e, code, "%s: no answer to %s within %u ms", fe->path, what,
                       fe->conf.timeout_ms);
    }
    return err_set(e, code, "%s: the back-end hung up at %s: %s", fe->path, what, strerror(-code));
}

static int fe_send(struct vu_fe *fe, uint32_t req, uint32_t flags, const void *payload,
                   uint32_t size, const int *fd, unsigned n_fd, struct err *e)
{
    struct vu_hdr h = {.request = req, .flags = VU_VERSION | flags, .size = size};
    struct iovec iov[2] = {{&h, sizeof(h)}, {(void *)(uintptr_t)payload, size}};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(VU_FE_MAX_REGIONS * sizeof(int))];
    } control = {0};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = size ? 2 : 1};

    assert(n_fd <= VU_FE_MAX_REGIONS);
    if (n_fd) {
        m.msg_control = control.room;
        m.msg_controllen = CMSG_SPACE(n_fd * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fd * sizeof(int));
        memcpy(CMSG_DATA(c), fd, n_fd * sizeof(int));
    }
    const uint64_t end = deadline(fe);
    ssize_t n;
    do {
        errno = 0;
        n = fe->sock < 0 ? -1 : sendmsg(fe->sock, &m, MSG_NOSIGNAL);
    } while (n < 0 && (errno == EINTR || (errno == EAGAIN && fe_wait(fe, fe->sock, POLLOUT, end))));
    /* A part of so small a message is never taken alone. */
    return n == (ssize_t)(sizeof(h) + size) ? 0 : fe_hung_up(fe, e, vu_msg_desc(req)->name);
}

static int fe_read(struct vu_fe *fe, void *buf, uint32_t len)
{
    const uint64_t end = deadline(fe);

    for (uint32_t got = 0; got < len;) {
        errno = 0;
        ssize_t n = recv(fe->sock, (char *)buf + got, len - got, 0);
        if (n < 0 && (errno == EINTR || (errno == EAGAIN && fe_wait(fe, fe->sock, POLLIN, end)))) {
            continue;
        }
        if (n <= 0) {
            return -1;
        }
        got += (uint32_t)n;
    }
    return 0;
}

static int fe_reply(struct vu_fe *fe, uint32_t req, void *payload, uint32_t size, struct err *e)
{
    struct vu_hdr h;

    if (fe_read(fe, &h, sizeof(h))) {
        return fe_hung_up(fe, e, vu_msg_desc(req)->name);
    }
    if (h.request != req || h.flags != VU_REPLY_FLAGS || h.size != size) {
        return err_set(e, -EPROTO,
                       "%s: wrong reply to %s: request %u, flags 0x%x, %u bytes (expected %u)",
                       fe->path, vu_msg_desc(req)->name, h.request, h.flags, h.size, size);
    }
    if (fe_read(fe, payload, size)) {
        return fe_hung_up(fe, e, vu_msg_desc(req)->name);
    }
    return 0;
}

/* A message without a reply of its own. */
static int fe_set(struct vu_fe *fe, uint32_t req, const void *payload, uint32_t size, const int *fd,
                  unsigned n_fd, struct err *e)
{
    bool ack = fe->protocol & VU_PROTOCOL_BIT(REPLY_ACK);
    uint64_t refused;
    int r = fe_send(fe, req, ack ? VU_FLAG_NEED_REPLY : 0, payload, size, fd, n_fd, e);

    if (r || !ack) {
        return r;
    }
    r = fe_reply(fe, req, &refused, sizeof(refused), e);
    if (!r && refused) {
        r = err_set(e, -EPROTO, "%s: the back-end refused %s", fe->path, vu_msg_desc(req)->name);
    }
    return r;
}

static int fe_set_u64(struct vu_fe *fe, uint32_t req, uint64_t v, struct err *e)
{
    return fe_set(fe, req, &v, sizeof(v), NULL, 0, e);
}

static int fe_set_state(struct vu_fe *fe, uint32_t req, uint32_t idx, uint32_t num, struct err *e)
{
    struct vu_ring_state s = {.idx = idx, .num = num};

    return fe_set(fe, req, &s, sizeof(s), NULL, 0, e);
}

static int fe_set_fd(struct vu_fe *fe, uint32_t req, uint32_t idx, int fd, struct err *e)
{
    uint64_t v = idx | (fd < 0 ? VU_RING_FD_NONE : 0);

    return fe_set(fe, req, &v, sizeof(v), &fd, fd < 0 ? 0 : 1, e);
}

static int fe_get_u64(struct vu_fe *fe, uint32_t req, uint64_t *v, struct err *e)
{
    int r = fe_send(fe, req, 0, NULL, 0, NULL, 0, e);

    return r ? r : fe_reply(fe, req, v, sizeof(*v), e);
}

/* ---- memory ---- */

static int map_region(struct fe_region *r, uint8_t *at, uint64_t size, uint64_t gpa, bool sparse,
                      struct err *e)
{
    int flags = MAP_SHARED | (sparse ? 0 : MAP_POPULATE) | (at ? MAP_FIXED : 0);
    int fd = memfd_create("vhost-user-packets", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0) {
        return err_set(e, -errno, "cannot create packet memory: %s", strerror(errno));
    }
    if (ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)) {
        int code = -errno;
        close(fd);
        return err_set(e, code, "cannot size packet memory: %s", strerror(-code));
    }
    void *va = mmap(at, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (va == MAP_FAILED) {
        int code = -errno;
        close(fd);
        return err_set(e, code, "cannot map %llu bytes of packet memory: %s",
                       (unsigned long long)size, strerror(-code));
    }
    *r = (struct fe_region){.gpa = gpa, .size = size, .va = va, .fd = fd};
    return 0;
}

static int map_all(struct vu_fe *fe, struct err *e)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t rings = fe->conf.n_rings * fe->ring_stride;
    unsigned want = fe->conf.n_regions ? fe->conf.n_regions : 1;

    fe->total = (rings + fe->conf.buf_bytes + want * page - 1) & ~(page - 1);
    fe->base = mmap(NULL, fe->total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fe->base == MAP_FAILED) {
        fe->base = NULL;
        return err_set(e, -errno, "no address space for %llu bytes of packet memory",
                       (unsigned long long)fe->total);
    }
    uint64_t piece = (fe->total / want) & ~(page - 1);
    for (unsigned i = 0; i < want; i++) {
        uint64_t at = i * piece, size = i + 1 < want ? piece : fe->total - at;
        int r = map_region(&fe->region[i], fe->base + at, size, GPA_BASE + at, fe->conf.sparse, e);

        if (r) {
            return r;
        }
        fe->n_regions++;
    }
    return 0;
}

static void region_wire(const struct fe_region *r, struct vu_region *w)
{
    *w = (struct vu_region){
        .gpa = r->gpa, .size = r->size, .uva = (uint64_t)(uintptr_t)r->va, .mmap_offset = 0};
}

static int send_slot(struct vu_fe *fe, uint32_t req, const struct fe_region *r, struct err *e)
{
    struct vu_one_region slot = {0};

    region_wire(r, &slot.region);
    return fe_set(fe, req, &slot, sizeof(slot), &r->fd, req == VU_ADD_MEM_REG ? 1 : 0, e);
}

static int send_memory(struct vu_fe *fe, struct err *e)
{
    struct vu_mem_table t = {.n = fe->n_regions};
    int fd[VU_FE_MAX_REGIONS], r = 0;

    if (fe->mem_sent) {
        return 0;
    }
    if (fe->protocol & VU_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS)) {
        for (unsigned i = 0; i < fe->n_regions && !r; i++) {
            r = send_slot(fe, VU_ADD_MEM_REG, &fe->region[i], e);
        }
        for (unsigned i = 0; i < MAX_EXTRA && !r; i++) {
            r = fe->extra[i].fd < 0 ? 0 : send_slot(fe, VU_ADD_MEM_REG, &fe->extra[i], e);
        }
    } else {
        for (unsigned i = 0; i < fe->n_regions; i++) {
            region_wire(&fe->region[i], &t.region[i]);
            fd[i] = fe->region[i].fd;
        }
        r = fe_set(fe, VU_SET_MEM_TABLE, &t,
                   VU_MEM_TABLE_HEAD + fe->n_regions * (uint32_t)sizeof(t.region[0]), fd,
                   fe->n_regions, e);
    }
    fe->mem_sent = !r;
    return r;
}

int vu_fe_add_region(struct vu_fe *fe, uint64_t bytes, uint8_t **va, uint64_t *gpa, struct err *e)
{
    unsigned i = 0;

    while (i < MAX_EXTRA && fe->extra[i].fd >= 0) {
        i++;
    }
    if (i == MAX_EXTRA || !(fe->protocol & VU_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS))) {
        return err_set(e, -EOPNOTSUPP, "%s: no more memory slots", fe->path);
    }
    struct fe_region *r = &fe->extra[i];
    int code = map_region(r, NULL, bytes, GPA_EXTRA + i * EXTRA_STRIDE, fe->conf.sparse, e);
    if (code) {
        r->fd = -1;
        return code;
    }
    code = fe->mem_sent ? send_slot(fe, VU_ADD_MEM_REG, r, e) : 0;
    *va = r->va;
    *gpa = r->gpa;
    return code;
}

static void unmap_region(struct fe_region *r)
{
    munmap(r->va, r->size);
    close(r->fd);
    r->fd = -1;
}

int vu_fe_del_region(struct vu_fe *fe, uint64_t gpa, struct err *e)
{
    for (unsigned i = 0; i < MAX_EXTRA; i++) {
        struct fe_region *r = &fe->extra[i];

        if (r->fd >= 0 && r->gpa == gpa) {
            int code = fe->mem_sent ? send_slot(fe, VU_REM_MEM_REG, r, e) : 0;

            unmap_region(r);
            return code;
        }
    }
    return err_set(e, -ENOENT, "no added region at 0x%llx", (unsigned long long)gpa);
}

uint64_t vu_fe_gpa(const struct vu_fe *fe, const void *va)
{
    const uint8_t *p = va;

    if (p >= fe->base && p < fe->base + fe->total) {
        return GPA_BASE + (uint64_t)(p - fe->base);
    }
    for (unsigned i = 0; i < MAX_EXTRA; i++) {
        const struct fe_region *r = &fe->extra[i];

        if (r->fd >= 0 && p >= r->va && p < r->va + r->size) {
            return r->gpa + (uint64_t)(p - r->va);
        }
    }
    return 0;
}

void vu_fe_memory(const struct vu_fe *fe, struct gmem_region *out)
{
    *out = (struct gmem_region){.gpa = GPA_BASE,
                                .size = fe->total,
                                .uva = (uint64_t)(uintptr_t)fe->base,
                                .va = GUEST_PTR(uint8_t GUEST, fe->base)};
}

/* ---- rings ---- */

static enum ring_layout fe_layout(const struct vu_fe *fe)
{
    return fe->features & VIRTIO_BIT(F_RING_PACKED) ? RING_PACKED : RING_SPLIT;
}

int vu_fe_reset_rings(struct vu_fe *fe, struct err *e)
{
    for (unsigned i = 0; i < fe->conf.n_rings; i++) {
        struct ring_drv_setup s = {.layout = fe_layout(fe),
                                   .base = ring_drv_fresh(fe_layout(fe)),
                                   .mem = fe->base + i * fe->ring_stride,
                                   .num = fe->conf.num,
                                   .event_idx = fe->features & VIRTIO_BIT(F_EVENT_IDX),
                                   .rewrite = fe->conf.rewrite};
        ring_drv_fini(&fe->ring[i].drv);
        int r = ring_drv_init(&fe->ring[i].drv, &s);
        if (r) {
            return err_set(e, r, "cannot set up a ring of %u entries", fe->conf.num);
        }
        fe->stop_index[i] = -1;
    }
    return 0;
}

static int start_ring(struct vu_fe *fe, unsigned i, struct err *e)
{
    const struct ring_drv *d = &fe->ring[i].drv;
    struct vu_ring_addr addr = {.idx = i,
                                .desc = (uint64_t)(uintptr_t)d->desc,
                                .used = (uint64_t)(uintptr_t)d->used,
                                .avail = (uint64_t)(uintptr_t)d->avail};
    uint32_t base = fe->stop_index[i] >= 0 ? (uint32_t)fe->stop_index[i] : ring_drv_base(d);
    int r = fe_set_fd(fe, VU_SET_VRING_CALL, i, fe->ring[i].call_fd, e);

    fe->stop_index[i] = -1;
    r = r ? r : fe_set_state(fe, VU_SET_VRING_NUM, i, d->num, e);
    base |= d->layout == RING_PACKED ? base << 16 : 0;
    r = r ? r : fe_set_state(fe, VU_SET_VRING_BASE, i, base, e);
    r = r ? r : fe_set(fe, VU_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0, e);
    r = r ? r : fe_set_fd(fe, VU_SET_VRING_KICK, i, fe->ring[i].kick_fd, e);
    return r;
}

int vu_fe_enable(struct vu_fe *fe, unsigned ring, bool on, struct err *e)
{
    return fe_set_state(fe, VU_SET_VRING_ENABLE, ring, on, e);
}

static int set_status(struct vu_fe *fe, uint64_t status, struct err *e)
{
    return fe->protocol & VU_PROTOCOL_BIT(STATUS) ? fe_set_u64(fe, VU_SET_STATUS, status, e) : 0;
}

int vu_fe_start(struct vu_fe *fe, bool resume, struct err *e)
{
    uint64_t barrier;
    int r = resume ? 0 : vu_fe_reset_rings(fe, e);

    r = r ? r : fe_set_u64(fe, VU_SET_FEATURES, fe->features, e);
    r = r ? r : set_status(fe, STATUS_FEATURES_OK, e);
    r = r ? r : send_memory(fe, e);
    for (unsigned i = 0; i < fe->conf.n_rings && !r; i++) {
        r = start_ring(fe, i, e);
    }
    for (unsigned i = 0; i < fe->conf.n_rings && !r; i++) {
        r = vu_fe_enable(fe, i, true, e);
    }
    r = r ? r : set_status(fe, STATUS_RUNNING, e);
    /* All of it was handled when this reply is here, acknowledgements or not. */
    r = r ? r : fe_get_u64(fe, VU_GET_FEATURES, &barrier, e);
    for (unsigned i = 0; i < fe->conf.n_rings && !r; i++) {
        vu_fe_kick(&fe->ring[i]); /* what was posted before may have asked nobody */
    }
    return r;
}

int vu_fe_stop(struct vu_fe *fe, struct err *e)
{
    for (unsigned i = 0; i < fe->conf.n_rings; i++) {
        const struct ring_drv *d = &fe->ring[i].drv;
        struct vu_ring_state s = {.idx = i};
        int r = fe_send(fe, VU_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0, e);

        r = r ? r : fe_reply(fe, VU_GET_VRING_BASE, &s, sizeof(s), e);
        if (r) {
            return r;
        }
        /* Packed: what counts is where it would write the next used descriptor. */
        uint32_t base = d->layout == RING_PACKED ? s.num >> 16 : s.num;
        if (s.idx != i || base > UINT16_MAX || !ring_drv_base_ok(d, (uint16_t)base)) {
            return err_set(e, -EPROTO,
                           "%s: GET_VRING_BASE of ring %u answered 0x%x, where the ring cannot be",
                           fe->path, i, s.num);
        }
        fe->stop_index[i] = (int32_t)base;
    }
    return set_status(fe, 0, e);
}

uint16_t vu_fe_stop_index(const struct vu_fe *fe, unsigned ring)
{
    return (uint16_t)fe->stop_index[ring];
}

void vu_fe_kick(const struct vu_fe_ring *r)
{
    uint64_t one = 1;

    /* EAGAIN: the counter is full, so the back-end has been woken up more than enough. */
    if (write(r->kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN) {
        assert(!"kick fd is our own eventfd");
    }
}

bool vu_fe_take_call(const struct vu_fe_ring *r)
{
    uint64_t n;

    return read(r->call_fd, &n, sizeof(n)) == sizeof(n);
}

/* ---- connection ---- */

static int fe_addr(const struct vu_fe *fe, struct sockaddr_un *a, struct err *e)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(fe->path) >= sizeof(a->sun_path)) {
        return err_set(e, -ENAMETOOLONG, "socket path %s is longer than %zu bytes", fe->path,
                       sizeof(a->sun_path) - 1);
    }
    strcpy(a->sun_path, fe->path);
    return 0;
}

static int fe_listen(struct vu_fe *fe, struct err *e)
{
    fe->listen_fd = vu_sock_listen(fe->path, SOCK_STREAM, (uid_t)-1, (gid_t)-1, 0660, &fe->file, e);
    return MIN(fe->listen_fd, 0);
}

static int fe_accept(struct vu_fe *fe, struct err *e)
{
    if (!fe_wait(fe, fe->listen_fd, POLLIN, deadline(fe))) {
        return err_set(e, -errno, "no back-end connected to %s within %u ms", fe->path,
                       fe->conf.timeout_ms);
    }
    fe->sock = accept4(fe->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    return fe->sock < 0 ? err_set(e, -errno, "accept on %s: %s", fe->path, strerror(errno)) : 0;
}

/* The switch may still be starting: a socket that is not there yet is worth waiting for. */
static int fe_dial(struct vu_fe *fe, struct err *e)
{
    const uint64_t end = deadline(fe);
    struct sockaddr_un a;
    int r = fe_addr(fe, &a, e);

    if (r) {
        return r;
    }
    for (;;) {
        fe->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fe->sock >= 0 && !connect(fe->sock, (struct sockaddr *)&a, sizeof(a))) {
            return 0;
        }
        int code = errno;
        vu_fe_close(fe);
        if ((code != ENOENT && code != ECONNREFUSED && code != EAGAIN) || fe->conf.once ||
            now_ms() > end) {
            return err_set(e, -code, "cannot connect to %s: %s", fe->path, strerror(code));
        }
        if (!fe_wait(fe, -1, 0, now_ms() + 10) && errno == ECANCELED) {
            return err_set(e, -ECANCELED, "%s: given up", fe->path);
        }
    }
}

static int check_queues(struct vu_fe *fe, struct err *e)
{
    uint64_t n;
    int r;

    if (fe->conf.n_rings <= 2 || !(fe->protocol & VU_PROTOCOL_BIT(MQ))) {
        return 0;
    }
    r = fe_get_u64(fe, VU_GET_QUEUE_NUM, &n, e);
    /* Some count pairs, some rings: only less than our pairs is certainly too few. */
    if (!r && n < fe->conf.n_rings / 2) {
        r = err_set(e, -EOPNOTSUPP, "%s: %u ring pairs wanted, the back-end has %llu", fe->path,
                    fe->conf.n_rings / 2, (unsigned long long)n);
    }
    return r;
}

static int negotiate(struct vu_fe *fe, struct err *e)
{
    uint64_t offered, want = fe->conf.protocol_features;
    int r = fe_get_u64(fe, VU_GET_FEATURES, &offered, e);

    if (r) {
        return r;
    }
    uint64_t missing = fe->conf.features_required & ~offered;
    if (missing) {
        char names[256];

        return err_set(e, -EOPNOTSUPP, "%s: the back-end does not offer %s", fe->path,
                       feature_names(names, sizeof(names), missing, virtio_feature_name));
    }
    fe->features = offered & (fe->conf.features | VIRTIO_BIT(F_PROTOCOL_FEATURES));
    fe->protocol = 0;
    if (fe->features & VIRTIO_BIT(F_PROTOCOL_FEATURES)) {
        r = fe_get_u64(fe, VU_GET_PROTOCOL_FEATURES, &offered, e);
        want &= offered;
        r = r ? r : fe_set_u64(fe, VU_SET_PROTOCOL_FEATURES, want, e);
        fe->protocol = want;
    }
    r = r ? r : fe_set(fe, VU_SET_OWNER, NULL, 0, NULL, 0, e);
    r = r ? r : check_queues(fe, e);
    if (!r && fe->conf.mtu && (fe->protocol & VU_PROTOCOL_BIT(NET_MTU))) {
        r = fe_set_u64(fe, VU_NET_SET_MTU, fe->conf.mtu, e);
    }
    return r;
}

int vu_fe_connect(struct vu_fe *fe, struct err *e)
{
    int r;

    vu_fe_close(fe);
    r = fe->conf.server ? fe_accept(fe, e) : fe_dial(fe, e);
    r = r ? r : negotiate(fe, e);
    if (r) {
        vu_fe_close(fe);
    }
    return r;
}

void vu_fe_forgo(struct vu_fe *fe, uint64_t features)
{
    fe->features &= ~features;
}

void vu_fe_hurry(struct vu_fe *fe, unsigned ms)
{
    fe->until_ms = now_ms() + ms;
}

void vu_fe_close(struct vu_fe *fe)
{
    if (fe->sock >= 0) {
        close(fe->sock);
    }
    fe->sock = -1;
    fe->mem_sent = false;
    fe->protocol = 0;
    fe->until_ms = 0;
}

bool vu_fe_connected(struct vu_fe *fe)
{
    char c;

    return fe->sock >= 0 && recv(fe->sock, &c, 1, MSG_PEEK | MSG_DONTWAIT) != 0;
}

int vu_fe_fd(const struct vu_fe *fe)
{
    return fe->sock;
}

/* ---- life ---- */

static int make_rings(struct vu_fe *fe, struct err *e)
{
    fe->ring = calloc(fe->conf.n_rings, sizeof(*fe->ring));
    fe->stop_index = calloc(fe->conf.n_rings, sizeof(*fe->stop_index));
    if (!fe->ring || !fe->stop_index) {
        return err_set(e, -ENOMEM, "no memory for %u rings", fe->conf.n_rings);
    }
    for (unsigned i = 0; i < fe->conf.n_rings; i++) {
        fe->ring[i].kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        fe->ring[i].call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fe->ring[i].kick_fd < 0 || fe->ring[i].call_fd < 0) {
            return err_set(e, -errno, "cannot create an eventfd: %s", strerror(errno));
        }
    }
    return vu_fe_reset_rings(fe, e);
}

int vu_fe_create(struct vu_fe **out, const struct vu_fe_conf *conf, struct err *e)
{
    struct vu_fe *fe = calloc(1, sizeof(*fe));
    int r = 0;

    if (!fe) {
        return err_set(e, -ENOMEM, "no memory");
    }
    fe->conf = *conf;
    fe->conf.timeout_ms = conf->timeout_ms ? conf->timeout_ms : DEFAULT_TIMEOUT_MS;
    fe->conf.protocol_features = conf->protocol_features ? conf->protocol_features : VU_FE_PROTOCOL;
    fe->features = conf->features & VIRTIO_BIT(F_RING_PACKED); /* of rings that are set up before */
    fe->listen_fd = fe->sock = -1;
    for (unsigned i = 0; i < MAX_EXTRA; i++) {
        fe->extra[i].fd = -1;
    }
    fe->path = strdup(conf->path ? conf->path : "(no socket)");
    fe->ring_stride = (ring_drv_bytes(conf->num) + 4095) & ~4095ull;
    if (!fe->path || !conf->n_rings || conf->n_rings > VU_FE_MAX_RINGS ||
        conf->n_regions > VU_FE_MAX_REGIONS) {
        r = err_set(e, -EINVAL, "bad front-end configuration");
    }
    r = r ? r : map_all(fe, e);
    r = r ? r : make_rings(fe, e);
    r = r || !conf->server ? r : fe_listen(fe, e);
    if (r) {
        vu_fe_destroy(fe);
        return r;
    }
    *out = fe;
    return 0;
}

void vu_fe_destroy(struct vu_fe *fe)
{
    if (!fe) {
        return;
    }
    vu_fe_close(fe);
    if (fe->listen_fd >= 0) {
        close(fe->listen_fd);
        vu_sock_unlink(fe->path, &fe->file);
    }
    for (unsigned i = 0; fe->ring && i < fe->conf.n_rings; i++) {
        ring_drv_fini(&fe->ring[i].drv);
        if (fe->ring[i].kick_fd > 0) {
            close(fe->ring[i].kick_fd);
        }
        if (fe->ring[i].call_fd > 0) {
            close(fe->ring[i].call_fd);
        }
    }
    for (unsigned i = 0; i < fe->n_regions; i++) {
        close(fe->region[i].fd);
    }
    for (unsigned i = 0; i < MAX_EXTRA; i++) {
        if (fe->extra[i].fd >= 0) {
            unmap_region(&fe->extra[i]);
        }
    }
    if (fe->base) {
        munmap(fe->base, fe->total);
    }
    free(fe->ring);
    free(fe->stop_index);
    free(fe->path);
    free(fe);
}

uint64_t vu_fe_features(const struct vu_fe *fe)
{
    return fe->features;
}

uint64_t vu_fe_protocol_features(const struct vu_fe *fe)
{
    return fe->protocol;
}

struct vu_fe_ring *vu_fe_ring(struct vu_fe *fe, unsigned idx)
{
    return idx < fe->conf.n_rings ? &fe->ring[idx] : NULL;
}

uint8_t *vu_fe_buf(struct vu_fe *fe)
{
    return fe->base + fe->conf.n_rings * fe->ring_stride;
}
