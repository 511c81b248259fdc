/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Building and freeing tables, and surviving a memory file that is truncated under us.
 *
 * SIGBUS.  The handler may run on any worker in the middle of a copy.  It looks the address up in a
 * fixed array of mappings, replaces the mapping by anonymous zero pages at the same place, marks it,
 * and returns: the interrupted load or store then runs on zeros.  The whole mapping, so that there is
 * one fault and not one per page.  Where the kernel refuses so much (with vm.overcommit_memory=2 it
 * charges all of it), a piece around the address, and at last one page: the port is stopped by the control thread soon after, so there are not many.  Until then it
 * can only hurt itself.
 *
 * The slots of the array are never freed, only reused: while the handler walks past the mapping of
 * another port, the control thread may be releasing exactly that one.  base is written last and
 * cleared first, and the handler looks at it again after len, so a slot in change never matches.
 * The one slot that must match cannot be in change, since the interrupted thread is using it.
 */
#include "mem/gmem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"

#ifndef HUGETLBFS_MAGIC
#define HUGETLBFS_MAGIC 0x958458f6
#endif

#define MAX_TIMES 256 /* that a region is added: more than a front-end has queue pairs */
#define PIECE (2u << 20) /* of a mapping that cannot be replaced as a whole */

struct gmem_map {
    uint8_t *base; /* NULL: free, or being set up */
    size_t len;
    size_t page;   /* of the file: the smallest piece that can be replaced */
    struct gmem_owner *owner;
    unsigned refs; /* tables that name it; 0: the slot is free */
    bool faulted;  /* set in the signal handler */
    unsigned times; /* that the peer added it, see gmem_add() */
    dev_t dev;      /* which file it is */
    ino_t ino;
};

uint32_t gmem_faults_; /* SIGBUS faults survived so far, all tables */
static struct gmem_map slots[GMEM_ALL_MAPS];
static uint32_t slots_top; /* slots below were used at least once */
static struct gmem_owner everybody;
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;

/* Zero pages instead of the part of the mapping that holds a. In a signal handler. */
static bool replace(uint8_t *base, size_t len, size_t page, uintptr_t a)
{
    const size_t piece[] = {len, MAX((size_t)PIECE, page), page};

    for (unsigned i = 0; i < ARRAY_SIZE(piece); i++) {
        size_t from = (a - (uintptr_t)base) / piece[i] * piece[i];
        void *p = mmap(base + from, MIN(piece[i], len - from), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED) {
            return true;
        }
    }
    return false;
}

static void on_sigbus(int sig, siginfo_t *info, void *uc)
{
    int saved = errno;
    uintptr_t a = (uintptr_t)info->si_addr;
    /* Sent by a process: si_addr means nothing. A misaligned access: zero pages do not help. */
    bool missing = info->si_code > 0 && info->si_code != BUS_ADRALN;
    uint32_t top = missing ? load_acquire(&slots_top) : 0;

    (void)uc;
    for (uint32_t i = 0; i < top; i++) {
        struct gmem_map *m = &slots[i];
        uint8_t *base = load_acquire(&m->base);
        size_t len = load_acquire(&m->len), page = load_acquire(&m->page);

        if (base && a - (uintptr_t)base < len && read_once(&m->base) == base) {
            if (!replace(base, len, page, a)) {
                break;
            }
            write_once(&m->faulted, true);
            __atomic_fetch_add(&gmem_faults_, 1, __ATOMIC_RELEASE);
            errno = saved;
            return;
        }
    }
    signal(sig, SIG_DFL); /* our own bug: die where it happened */
    raise(sig);
}

int gmem_init(struct err *e)
{
    struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};

    sigemptyset(&sa.sa_mask);
    if (sigaction(SIGBUS, &sa, NULL)) {
        return err_set(e, -errno, "cannot install the SIGBUS handler: %s", strerror(errno));
    }
    return 0;
}

/* ---- budgets --------------------------------------------------------------------------------- */

/* The first half is for whoever comes first, the second one for everybody's share. */
static bool within(uint64_t all, uint64_t own, uint64_t budget)
{
    return all <= budget / 2 || (all <= budget && own <= budget / 2 / GMEM_OWNERS);
}

static const struct gmem_owner *largest(bool by_bytes)
{
    const struct gmem_owner *best = NULL;

    for (uint32_t i = 0; i < slots_top; i++) {
        const struct gmem_owner *o = slots[i].refs ? slots[i].owner : NULL;

        if (o && (!best || (by_bytes ? o->bytes > best->bytes : o->maps > best->maps))) {
            best = o;
        }
    }
    return best;
}

static int check_budget(const struct gmem_owner *o, uint64_t len, const char *who, struct err *e)
{
    const struct gmem_owner *most;

    if (!within(everybody.bytes + len, o->bytes + len, GMEM_ALL_BYTES)) {
        most = largest(true);
        return err_set(e, -ENOSPC,
                       "%s: 0x%llx bytes more are not left of the %llu TiB of address space that all "
                       "ports share; port %s has %llu GiB of it: give its guest less memory, or "
                       "remove that port",
                       who, (unsigned long long)len, GMEM_ALL_BYTES >> 40,
                       most ? most->name : "-", (unsigned long long)(most ? most->bytes >> 30 : 0));
    }
    if (!within(everybody.maps + 1ull, o->maps + 1ull, GMEM_ALL_MAPS)) {
        most = largest(false);
        return err_set(e, -ENOSPC,
                       "%s: no mapping is left of the %u that all ports share; port %s has %u: give "
                       "its guest memory in fewer pieces, or remove that port",
                       who, GMEM_ALL_MAPS, most ? most->name : "-", most ? most->maps : 0);
    }
    return 0;
}

static void account(struct gmem_owner *o, int64_t bytes, int32_t maps)
{
    everybody.bytes += (uint64_t)bytes;
    everybody.maps += (uint32_t)maps;
    if (o) {
        o->bytes += (uint64_t)bytes;
        o->maps += (uint32_t)maps;
    }
}

/* ---- mappings -------------------------------------------------------------------------------- */

/* Claim a slot for a mapping that is still to be made. */
static int slot_claim(struct gmem_map **out, struct gmem_owner *owner, uint64_t len,
                      const char *who, struct err *e)
{
    static const struct gmem_owner nobody;
    struct gmem_map *m = NULL;

    pthread_mutex_lock(&slots_lock);
    int rc = check_budget(owner ? owner : &nobody, len, who, e);
    for (uint32_t i = 0; i < GMEM_ALL_MAPS && !m && !rc; i++) {
        if (!slots[i].refs) {
            m = &slots[i];
            m->refs = 1;
            m->owner = owner;
            store_release(&m->len, (size_t)len);
            write_once(&m->faulted, false);
            account(owner, (int64_t)len, 1);
            if (i >= slots_top) {
                store_release(&slots_top, i + 1);
            }
        }
    }
    pthread_mutex_unlock(&slots_lock);
    *out = m;
    return rc;
}

static void map_put(struct gmem_map *m)
{
    if (!m) {
        return;
    }
    pthread_mutex_lock(&slots_lock);
    if (!--m->refs) {
        uint8_t *base = m->base;

        store_release(&m->base, (uint8_t *)NULL);
        if (base) {
            munmap(base, m->len);
        }
        account(m->owner, -(int64_t)m->len, -1);
    }
    pthread_mutex_unlock(&slots_lock);
}

/*
 * What kind of file is it? Not one of these questions goes to a file server, which is a peer that can
 * let us wait: fstat(), fstatfs() and even close() do on FUSE.
 */
static int look_at(int fd, struct statx *out)
{
    return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, out) ? -errno : 0;
}

static dev_t device_of(const struct statx *st)
{
    return makedev(st->stx_dev_major, st->stx_dev_minor);
}

static int check_file(const struct gmem_region_desc *d, enum gmem_fs_policy fs, uint64_t end,
                      const char *who, uint64_t *page, struct statx *st, struct err *e)
{
    bool memory = fd_is_memory(d->fd);
    struct statfs sf;
    int rc = look_at(d->fd, st);

    if (rc) {
        return err_set(e, rc, "%s: memory fd: %s", who, strerror(-rc));
    }
    if (!S_ISREG(st->stx_mode)) {
        return err_set(e, -EINVAL, "%s: memory fd is not a file; use memory-backend-memfd", who);
    }
    if (!memory && fs != GMEM_FS_ANY) {
        return err_set(e, -EPERM,
                       "%s: memory file is on a file system where a page fault can block; use memfd, "
                       "tmpfs or hugetlbfs, or set any-fs on the port",
                       who);
    }
    *page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (memory && !fstatfs(d->fd, &sf) && (unsigned long)sf.f_type == HUGETLBFS_MAGIC) {
        *page = (uint64_t)sf.f_bsize;
    }
    if (st->stx_size < end) {
        return err_set(e, -EINVAL, "%s: memory file has %llu bytes, the region needs %llu", who,
                       (unsigned long long)st->stx_size, (unsigned long long)end);
    }
    return 0;
}

/* Map one region. Consumes d->fd. */
static int map_region(struct gmem_region *r, const struct gmem_region_desc *d,
                      enum gmem_fs_policy fs, const char *who, struct gmem_owner *owner,
                      struct err *e)
{
    uint64_t end, tmp, page = 0;
    struct gmem_map *m = NULL;
    struct statx st = {0};
    int rc;

    if (!d->size || __builtin_add_overflow(d->gpa, d->size, &tmp) ||
        __builtin_add_overflow(d->uva, d->size, &tmp) ||
        __builtin_add_overflow(d->fd_offset, d->size, &end) || end > GMEM_MAX_BYTES) {
        rc = err_set(e, -EINVAL, "%s: memory region at 0x%llx with size 0x%llx is empty or wraps",
                     who, (unsigned long long)d->gpa, (unsigned long long)d->size);
        goto out;
    }
    rc = check_file(d, fs, end, who, &page, &st, e);
    if (rc) {
        goto out;
    }
    /* From the page that holds fd_offset to the page that holds the end: hugetlbfs insists. */
    uint64_t from = d->fd_offset / page * page;
    uint64_t len = (end - from + page - 1) / page * page;
    if (len != (size_t)len) { /* a 32-bit process: never map less than what is said to be there */
        rc = err_set(e, -ENOMEM, "%s: 0x%llx bytes of memory do not fit into a 32-bit process; use a "
                     "64-bit build, or less memory for the guest", who, (unsigned long long)len);
        goto out;
    }

    rc = slot_claim(&m, owner, len, who, e);
    if (rc) {
        goto out;
    }
    uint8_t *base = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                         d->fd, (off_t)from);
    if (base == MAP_FAILED) {
        int code = errno;
        rc = err_set(e, -code, "%s: cannot map 0x%llx bytes of its memory: %s%s", who,
                     (unsigned long long)len, strerror(code),
                     code == ENOMEM ? "; raise vm.max_map_count or the limit on address space" : "");
        goto out;
    }
    madvise(base, (size_t)len, MADV_DONTDUMP);
    store_release(&m->page, (size_t)page);
    store_release(&m->base, base);
    m->times = 1;
    m->dev = device_of(&st);
    m->ino = st.stx_ino;
    *r = (struct gmem_region){.gpa = d->gpa,
                              .size = d->size,
                              .uva = d->uva,
                              .fd_offset = d->fd_offset,
                              .va = GUEST_PTR(uint8_t GUEST, base + (d->fd_offset - from)),
                              .map = m};
    fd_discard(d->fd);
    return 0;
out:
    map_put(m);
    fd_discard(d->fd);
    return rc;
}

static bool overlaps(uint64_t a, uint64_t an, uint64_t b, uint64_t bn)
{
    return a < b + bn && b < a + an;
}

/* Insert in gpa order after checking against all others and the total. */
static int insert(struct gmem *m, const struct gmem_region *r, const char *who, struct err *e)
{
    uint32_t at = 0;
    uint64_t total = r->size;

    for (uint32_t i = 0; i < m->n; i++) {
        const struct gmem_region *o = &m->region[i];

        if (overlaps(o->gpa, o->size, r->gpa, r->size) ||
            overlaps(o->uva, o->size, r->uva, r->size)) {
            return err_set(e, -EINVAL, "%s: memory region at 0x%llx overlaps the one at 0x%llx", who,
                           (unsigned long long)r->gpa, (unsigned long long)o->gpa);
        }
        total += o->size;
        at += o->gpa < r->gpa;
    }
    if (total > GMEM_MAX_BYTES) {
        return err_set(e, -E2BIG, "%s: memory table claims more than 4 TiB", who);
    }
    memmove(&m->region[at + 1], &m->region[at], (m->n - at) * sizeof(*r));
    m->region[at] = *r;
    m->n++;
    return 0;
}

static struct gmem *alloc_table(uint32_t n)
{
    return calloc(1, sizeof(struct gmem) + (size_t)(n + 1) * sizeof(struct gmem_region));
}

int gmem_create(struct gmem **out, const struct gmem_region_desc *d, uint32_t n,
                enum gmem_fs_policy fs, const char *who, struct gmem_owner *owner, struct err *e)
{
    struct gmem *m = n <= GMEM_MAX_REGIONS ? alloc_table(n) : NULL;
    int rc = 0;
    uint32_t i;

    if (!m) {
        rc = err_set(e, n > GMEM_MAX_REGIONS ? -E2BIG : -ENOMEM, "%s: cannot hold %u memory regions",
                     who, n);
    }
    for (i = 0; i < n && !rc; i++) {
        struct gmem_region r;

        rc = map_region(&r, &d[i], fs, who, owner, e);
        if (!rc) {
            rc = insert(m, &r, who, e);
            if (rc) {
                map_put(r.map);
            }
        }
    }
    if (rc) {
        for (; i < n; i++) {
            fd_discard(d[i].fd);
        }
        gmem_free(m);
        return rc;
    }
    *out = m;
    return 0;
}

static struct gmem *copy_table(const struct gmem *old, uint32_t room)
{
    uint32_t n = old ? old->n : 0;
    struct gmem *m = alloc_table(n + room);

    if (m) {
        for (uint32_t i = 0; i < n; i++) {
            m->region[i] = old->region[i];
            if (m->region[i].map) {
                m->region[i].map->refs++; /* not 0: no other thread claims or frees it */
            }
        }
        m->n = n;
    }
    return m;
}

/* What the peer describes is mapped already: the same bytes of the same file at the same place. */
static struct gmem_map *same_region(const struct gmem *m, const struct gmem_region_desc *d)
{
    struct statx st;

    for (uint32_t i = 0; m && i < m->n; i++) {
        const struct gmem_region *r = &m->region[i];

        if (r->gpa == d->gpa && r->size == d->size && r->uva == d->uva &&
            r->fd_offset == d->fd_offset && r->map && !look_at(d->fd, &st) &&
            device_of(&st) == r->map->dev && st.stx_ino == r->map->ino) {
            return r->map;
        }
    }
    return NULL;
}

static int add_again(struct gmem **out, const struct gmem *old, struct gmem_map *map, const char *who,
                     struct err *e)
{
    struct gmem *m = map->times < MAX_TIMES ? copy_table(old, 0) : NULL;

    if (!m) {
        return map->times < MAX_TIMES
                   ? err_set(e, -ENOMEM, "%s: out of memory", who)
                   : err_set(e, -E2BIG, "%s: a region was added %d times", who, MAX_TIMES);
    }
    map->times++;
    *out = m;
    return 0;
}

int gmem_add(struct gmem **out, const struct gmem *old, const struct gmem_region_desc *d,
             enum gmem_fs_policy fs, const char *who, struct gmem_owner *owner, struct err *e)
{
    struct gmem *m = NULL;
    struct gmem_region r;
    int rc;

    struct gmem_map *map = same_region(old, d);

    if (map) { /* also when all slots are taken: it takes none */
        fd_discard(d->fd);
        return add_again(out, old, map, who, e);
    }
    if (old && old->n >= GMEM_MAX_REGIONS) {
        fd_discard(d->fd);
        return err_set(e, -E2BIG, "%s: all %d memory slots are taken", who, GMEM_MAX_REGIONS);
    }
    rc = map_region(&r, d, fs, who, owner, e);
    if (rc) {
        return rc;
    }
    m = copy_table(old, 1);
    rc = m ? insert(m, &r, who, e) : err_set(e, -ENOMEM, "%s: out of memory", who);
    if (rc) {
        map_put(r.map);
        gmem_free(m);
        return rc;
    }
    *out = m;
    return 0;
}

int gmem_del(struct gmem **out, const struct gmem *old, uint64_t gpa, uint64_t uva, uint64_t size,
             struct err *e)
{
    struct gmem *m = copy_table(old, 0);

    if (!m) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < m->n; i++) {
        struct gmem_region *r = &m->region[i];

        if (r->gpa == gpa && r->uva == uva && r->size == size) {
            *out = m;
            if (r->map && r->map->times > 1) {
                r->map->times--;
                return 0;
            }
            map_put(r->map);
            memmove(r, r + 1, (m->n - i - 1) * sizeof(*r));
            m->n--;
            return 0;
        }
    }
    gmem_free(m);
    return err_set(e, -ENOENT, "no memory region at 0x%llx with size 0x%llx",
                   (unsigned long long)gpa, (unsigned long long)size);
}

struct gmem *gmem_local_n(const struct gmem_region *r, uint32_t n)
{
    struct gmem *m = alloc_table(n);

    for (uint32_t i = 0; m && i < n; i++) {
        struct gmem_region one = r[i];

        one.map = NULL;
        if (insert(m, &one, "local", NULL)) {
            free(m);
            return NULL;
        }
    }
    return m;
}

struct gmem *gmem_local(void *va, uint64_t gpa, uint64_t size)
{
    struct gmem_region r = {.gpa = gpa,
                            .size = size,
                            .uva = (uintptr_t)va,
                            .va = GUEST_PTR(uint8_t GUEST, va)};

    return gmem_local_n(&r, 1);
}

void gmem_free(struct gmem *m)
{
    if (m) {
        for (uint32_t i = 0; i < m->n; i++) {
            map_put(m->region[i].map);
        }
        free(m);
    }
}

bool gmem_faulted(const struct gmem *m)
{
    for (uint32_t i = 0; i < m->n; i++) {
        if (m->region[i].map && read_once(&m->region[i].map->faulted)) {
            return true;
        }
    }
    return false;
}

uint64_t gmem_bytes(const struct gmem *m)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; m && i < m->n; i++) {
        sum += m->region[i].size;
    }
    return sum;
}

uint8_t GUEST *gmem_span_slow(const struct gmem *m, uint32_t *hint, gpa_t a, uint32_t *len)
{
    uint32_t lo = 0, hi = m->n;

    while (lo < hi) { /* the last region that starts at or below a */
        uint32_t mid = lo + (hi - lo) / 2;

        if (m->region[mid].gpa <= a.v) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (lo) {
        const struct gmem_region *r = &m->region[lo - 1];
        uint64_t off = a.v - r->gpa;

        if (off < r->size && *len) {
            *hint = lo - 1;
            *len = (uint32_t)MIN((uint64_t)*len, r->size - off);
            return r->va + off;
        }
    }
    *len = 0;
    return NULL;
}

struct gmem_window gmem_window_at(const struct gmem *m, uint32_t *hint, gpa_t a)
{
    uint32_t one = 1;

    return gmem_span_slow(m, hint, a, &one) ? gmem_window(m, *hint)
                                            : (struct gmem_window){0, 0, NULL};
}

void *gmem_gpa_range(const struct gmem *m, gpa_t a, uint64_t len)
{
    for (uint32_t i = 0; i < m->n; i++) {
        const struct gmem_region *r = &m->region[i];
        uint64_t off = a.v - r->gpa;

        if (off < r->size && len <= r->size - off) {
            return GUEST_PTR(void, r->va + off);
        }
    }
    return NULL;
}

void *gmem_uva_range(const struct gmem *m, uva_t a, uint64_t len)
{
    for (uint32_t i = 0; i < m->n; i++) {
        const struct gmem_region *r = &m->region[i];
        uint64_t off = a.v - r->uva;

        if (off < r->size && len <= r->size - off) {
            return GUEST_PTR(void, r->va + off);
        }
    }
    return NULL;
}

bool gmem_file_place(const struct gmem *m, uva_t a, uint64_t *dev, uint64_t *ino, uint64_t *offset)
{
    for (uint32_t i = 0; i < m->n; i++) {
        const struct gmem_region *r = &m->region[i];

        if (a.v - r->uva < r->size && r->map) {
            *dev = r->map->dev;
            *ino = r->map->ino;
            *offset = r->fd_offset + (a.v - r->uva);
            return true;
        }
    }
    return false;
}

bool gmem_uva_to_gpa(const struct gmem *m, uva_t a, gpa_t *out)
{
    for (uint32_t i = 0; i < m->n; i++) {
        const struct gmem_region *r = &m->region[i];

        if (a.v - r->uva < r->size) {
            out->v = r->gpa + (a.v - r->uva);
            return true;
        }
    }
    return false;
}
