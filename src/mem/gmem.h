/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory: which parts of a peer's memory this process may touch, and where they are mapped.
 *
 * Concepts
 *  - A *mapping* (struct gmem_map) is one mmap of one file that the peer sent.  It is counted:
 *    two tables may share it.  munmap happens when the last table that names it is freed.
 *  - A *table* (struct gmem) is an immutable, sorted array of regions.  Workers read it without a
 *    lock; the control thread replaces it as a whole and frees the old one after a quiescent state.
 *  - An address never travels without its length.  gmem_span() translates the start and SHORTENS
 *    the length to what is contiguous here; the caller loops.  Regions that touch in guest-physical
 *    space need not touch in ours.
 *  - gpa_t (guest physical), uva_t (the front-end's own addresses) and our pointers are different
 *    types: mixing them does not compile.
 *  - The file behind a mapping is the peer's: it can be truncated under us.  The SIGBUS handler
 *    puts zero pages there and sets `faulted`; whoever used the table checks it once per burst.
 *    A file system that can block a page fault for ever (FUSE, NFS) is refused when mapping.
 *
 * Threads: building, swapping and freeing on the control thread; translation anywhere.
 * Source: vhost-user "Memory region description"; virtio 1.4, 2.6 (addresses are guest-physical).
 */
#ifndef MEM_GMEM_H
#define MEM_GMEM_H

#include "base/compiler.h"
#include "base/err.h"

typedef struct {
    uint64_t v;
} gpa_t;
typedef struct {
    uint64_t v;
} uva_t;

#define GMEM_MAX_REGIONS 509      /* VHOST_USER_GET_MAX_MEM_SLOTS; what peers answer too */
#define GMEM_MAX_BYTES (1ull << 42) /* address space that one table may claim: 4 TiB */

/*
 * What all owners together may have: of address space half of what x86-64 gives a process, of mappings
 * half of the default vm.max_map_count.  Half of each is for whoever comes first; the other half is
 * kept so that each owner can have its share (32 GiB, 16 mappings), whatever the others took.
 */
#define GMEM_OWNERS    1024
#define GMEM_ALL_BYTES (1ull << 46)
#define GMEM_ALL_MAPS  32768u

/* Whose memory it is: the port, for budgets. Outlives its mappings. */
struct gmem_owner {
    const char *name;
    uint64_t bytes; /* of address space */
    uint32_t maps;
};

/* A run of bytes in a peer's memory, never more than one region. */
struct gspan {
    const uint8_t GUEST *p;
    uint32_t len;
};

struct gmem_map; /* one mmap, reference counted, known to the SIGBUS handler */

struct gmem_region {
    uint64_t gpa;  /* first guest-physical address */
    uint64_t size; /* bytes, > 0; gpa + size and uva + size do not wrap */
    uint64_t uva;  /* the same byte in the front-end's address space */
    uint64_t fd_offset;
    uint8_t GUEST *va; /* the same byte here */
    struct gmem_map *map;
};

struct gmem {
    uint32_t n;
    struct gmem_region region[]; /* sorted by gpa, disjoint in gpa and in uva */
};

/* What the peer said about one region, with the fd that came along (ownership passes on success
 * AND on failure: the callee closes it). */
struct gmem_region_desc {
    uint64_t gpa, size, uva, fd_offset;
    int fd;
};

enum gmem_fs_policy {
    GMEM_FS_MEMORY_ONLY, /* tmpfs, hugetlbfs, memfd: a page fault cannot wait for a peer */
    GMEM_FS_ANY,         /* the administrator vouches for the file system (port option) */
};

/* Map a whole table. All or nothing: on failure every fd is closed, *out is untouched and the
 * sentence names the region and the rule. `who` begins the sentence. owner may be NULL: in nobody's
 * budget. */
int gmem_create(struct gmem **out, const struct gmem_region_desc *d, uint32_t n,
                enum gmem_fs_policy fs, const char *who, struct gmem_owner *owner, struct err *e);
/* A new table = old + one region (old stays valid, shares mappings). old may be NULL. A region that
 * is there already, the same in every respect, is only counted: QEMU 7.2 sends each one once per
 * queue pair. */
int gmem_add(struct gmem **out, const struct gmem *old, const struct gmem_region_desc *d,
             enum gmem_fs_policy fs, const char *who, struct gmem_owner *owner, struct err *e);
/* A new table = old - the region with this gpa, uva and size, or the same as old while the region was
 * added more often than taken away. -ENOENT if there is none. */
int gmem_del(struct gmem **out, const struct gmem *old, uint64_t gpa, uint64_t uva, uint64_t size,
             struct err *e);
/* A table over memory of this process, one region; for tests, drivers and benches. Not mapped by
 * us: freeing it does not unmap. */
struct gmem *gmem_local(void *va, uint64_t gpa, uint64_t size);
struct gmem *gmem_local_n(const struct gmem_region *r, uint32_t n);
/* Only when no other thread can hold the table any more. NULL is allowed. */
void gmem_free(struct gmem *m);
/* True once a page of any mapping of this table was found missing (SIGBUS). Walks the table: look
 * only after gmem_fault_seq() moved. */
bool gmem_faulted(const struct gmem *m);
extern uint32_t gmem_faults_;
static inline uint32_t gmem_fault_seq(void)
{
    return read_once(&gmem_faults_);
}
uint64_t gmem_bytes(const struct gmem *m);
/* Which byte of which file is at a, one of the front-end's addresses. False: none that was mapped. */
bool gmem_file_place(const struct gmem *m, uva_t a, uint64_t *dev, uint64_t *ino, uint64_t *offset);
/* The NUMA node that most of it lies on, as far as it is in memory, by a sample; see base/node.h. */
int gmem_node(const struct gmem *m);

/* Install the SIGBUS handler (process-wide, once). Faults outside guest memory stay fatal. */
int gmem_init(struct err *e);

/*
 * Translate. *len is the wish on entry and what is contiguous on return; NULL (and *len = 0) if the
 * first byte is not guest memory or the wish was 0.  *hint remembers the region between calls.
 */
uint8_t GUEST *gmem_span_slow(const struct gmem *m, uint32_t *hint, gpa_t a, uint32_t *len);
static ALWAYS_INLINE uint8_t GUEST *gmem_span(const struct gmem *m, uint32_t *hint, gpa_t a,
                                              uint32_t *len)
{
    uint32_t h = *hint;

    if (likely(h < m->n)) {
        const struct gmem_region *r = &m->region[h];
        uint64_t off = a.v - r->gpa;

        if (likely(off < r->size)) {
            uint64_t room = r->size - off;
            if (unlikely(*len > room)) {
                *len = (uint32_t)room;
            }
            return *len ? r->va + off : NULL;
        }
    }
    return gmem_span_slow(m, hint, a, len);
}

/* One region, held in registers by a loop over many addresses. */
struct gmem_window {
    uint64_t gpa, size;
    uint8_t GUEST *va;
};

static ALWAYS_INLINE struct gmem_window gmem_window(const struct gmem *m, uint32_t hint)
{
    if (likely(hint < m->n)) {
        const struct gmem_region *r = &m->region[hint];

        return (struct gmem_window){r->gpa, r->size, r->va};
    }
    return (struct gmem_window){0, 0, NULL};
}

/* [a, a + len) if all of it is in the window, else NULL. */
static ALWAYS_INLINE uint8_t GUEST *gmem_in_window(struct gmem_window w, gpa_t a, uint32_t len)
{
    uint64_t off = a.v - w.gpa;

    return likely(off < w.size && len <= w.size - off) ? w.va + off : NULL;
}

/* The window on the region that holds a; *hint remembers it. Empty if there is none. By value, so
 * that a caller's window stays in registers. */
struct gmem_window gmem_window_at(const struct gmem *m, uint32_t *hint, gpa_t a);

/* The whole range [a, a + len) contiguous here, or NULL: for rings. */
void *gmem_gpa_range(const struct gmem *m, gpa_t a, uint64_t len);
void *gmem_uva_range(const struct gmem *m, uva_t a, uint64_t len);
/* What the guest calls the byte that the front-end has at a; false if no region holds it. */
bool gmem_uva_to_gpa(const struct gmem *m, uva_t a, gpa_t *out);

#endif
