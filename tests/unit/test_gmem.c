/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory: translation and its borders, refusals, ownership of fds, and a memory file that is
 * truncated while somebody copies from it.
 */
#include <stdint.h>
#include <sys/mman.h>

/* A kernel that refuses large private mappings, as with vm.overcommit_memory=2. */
static size_t private_max = SIZE_MAX;

static void *limited_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
    return flags & MAP_PRIVATE && len > private_max ? MAP_FAILED
                                                    : mmap(at, len, prot, flags, fd, off);
}
#define mmap limited_mmap
#include "mem/gmem.c" /* the statics too */
#undef mmap

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>

#include <cmocka.h>

#define PAGE 4096ull

static int memory_file(uint64_t bytes)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

static struct gmem_region_desc desc(uint64_t gpa, uint64_t size, uint64_t uva, uint64_t off, int fd)
{
    return (struct gmem_region_desc){.gpa = gpa, .size = size, .uva = uva, .fd_offset = off,
                                     .fd = fd};
}

static unsigned open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

static unsigned used_slots(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < GMEM_ALL_MAPS; i++) {
        n += slots[i].refs != 0;
    }
    return n;
}

static int count_before(void **state)
{
    static unsigned before[2];

    before[0] = open_fds();
    before[1] = used_slots();
    *state = before;
    return 0;
}

/* Whatever a test does, no fd and no mapping is left. What may wait is closed by a thread: fd_discard(). */
static int count_after(void **state)
{
    unsigned *before = *state;

    for (unsigned i = 0; fd_discarded() && i < 60000; i++) {
        usleep(1000);
    }
    assert_int_equal(open_fds(), before[0]);
    assert_int_equal(used_slots(), before[1]);
    return 0;
}

static const uint8_t *at(const struct gmem *m, uint64_t gpa, uint32_t want, uint32_t *got)
{
    uint32_t hint = 0;

    *got = want;
    return GUEST_PTR(const uint8_t, gmem_span(m, &hint, (gpa_t){gpa}, got));
}

static void test_translate_and_shorten(void **state)
{
    struct err e;
    struct gmem *m = NULL;
    int fd = memory_file(8 * PAGE);
    uint32_t len;

    (void)state;
    for (unsigned i = 0; i < 8 * PAGE; i += 1) {
        uint8_t b = (uint8_t)(i >> 8);
        if (i % 256 == 0) {
            assert_int_equal(pwrite(fd, &b, 1, i), 1);
        }
    }
    /* Adjacent for the guest, far apart in the file (and so here), given in the wrong order. */
    struct gmem_region_desc d[] = {
        desc(0x10000 + PAGE, PAGE, 0x7f0000001000, 6 * PAGE, dup(fd)),
        desc(0x10000, PAGE, 0x7f0000000000, 2 * PAGE, fd),
    };
    assert_int_equal(gmem_create(&m, d, 2, GMEM_FS_MEMORY_ONLY, "t", NULL, &e), 0);
    assert_int_equal(m->n, 2);
    assert_int_equal(m->region[0].gpa, 0x10000);
    assert_int_equal(gmem_bytes(m), 2 * PAGE);

    const uint8_t *p = at(m, 0x10000, 16, &len);
    assert_non_null(p);
    assert_int_equal(len, 16);
    assert_int_equal(*p, 2 * PAGE >> 8);
    /* A range that runs over the border comes back cut at the border. */
    p = at(m, 0x10000 + PAGE - 1, 100, &len);
    assert_non_null(p);
    assert_int_equal(len, 1);
    p = at(m, 0x10000 + PAGE, 100, &len);
    assert_int_equal(len, 100);
    assert_int_equal(*p, (uint8_t)(6 * PAGE >> 8));
    p = at(m, 0x10000 + 2 * PAGE - 4, UINT32_MAX, &len);
    assert_int_equal(len, 4);
    /* Outside: before, behind, far, at the top of the address space; zero bytes wanted. */
    static const uint64_t outside[] = {0, 0xffff, 0x10000 + 2 * PAGE, 1ull << 40, UINT64_MAX};
    for (unsigned i = 0; i < ARRAY_SIZE(outside); i++) {
        assert_null(at(m, outside[i], 1, &len));
        assert_int_equal(len, 0);
    }
    assert_null(at(m, 0x10000, 0, &len));
    assert_null(at(m, 0, 0, &len));
    gmem_free(m);
}

static void test_hint_never_matters(void **state)
{
    struct gmem_region r[16];
    static uint8_t mem[16 * 16];
    uint32_t hint = 0, slow;

    (void)state;
    for (unsigned i = 0; i < 16; i++) { /* a hole of 16 behind every region */
        r[i] = (struct gmem_region){.gpa = 0x1000 + 32 * i, .size = 16, .uva = 0x9000 + 32 * i,
                                    .va = GUEST_PTR(uint8_t GUEST, mem + 16 * i)};
    }
    struct gmem *m = gmem_local_n(r, 16);
    for (uint64_t a = 0xff0; a < 0x1210; a++) {
        for (hint = 0; hint < 20; hint++) { /* also hints of a table that had more regions */
            uint32_t h1 = hint, h2 = slow = 0, l1 = 9, l2 = 9;
            const uint8_t *fast = GUEST_PTR(uint8_t, gmem_span(m, &h1, (gpa_t){a}, &l1));
            const uint8_t *ref = GUEST_PTR(uint8_t, gmem_span_slow(m, &h2, (gpa_t){a}, &l2));
            bool in = a >= 0x1000 && a < 0x1200 && (a & 31) < 16;

            assert_ptr_equal(fast, ref);
            assert_int_equal(l1, l2);
            assert_int_equal(in, fast != NULL);
            if (in) {
                assert_ptr_equal(fast, mem + (a - 0x1000) / 32 * 16 + (a & 15));
                assert_int_equal(l1, MIN(9u, 16 - (a & 15)));
            }
        }
    }
    gmem_free(m);
}

static void test_ranges_for_rings(void **state)
{
    static uint8_t mem[64];
    struct gmem_region r[] = {
        {.gpa = 0x1000, .size = 32, .uva = 0x7000, .va = GUEST_PTR(uint8_t GUEST, mem)},
        {.gpa = 0x1020, .size = 32, .uva = 0x9000, .va = GUEST_PTR(uint8_t GUEST, mem + 32)},
    };
    struct gmem *m = gmem_local_n(r, 2);

    (void)state;
    assert_ptr_equal(gmem_gpa_range(m, (gpa_t){0x1000}, 32), mem);
    assert_ptr_equal(gmem_gpa_range(m, (gpa_t){0x1030}, 16), mem + 48);
    assert_null(gmem_gpa_range(m, (gpa_t){0x1000}, 33)); /* contiguous here, but two regions */
    assert_null(gmem_gpa_range(m, (gpa_t){0x1001}, 32));
    assert_null(gmem_gpa_range(m, (gpa_t){0x1001}, UINT64_MAX));
    assert_ptr_equal(gmem_uva_range(m, (uva_t){0x9010}, 16), mem + 48);
    assert_null(gmem_uva_range(m, (uva_t){0x9010}, 17));
    assert_null(gmem_uva_range(m, (uva_t){0x1000}, 1)); /* a gpa is not a uva */
    assert_null(gmem_uva_range(m, (uva_t){0x6fff}, 2));
    gmem_free(m);
}

/* The very same region is counted: it goes with the last of those who brought it. */
static void test_same_region_again(void **state)
{
    int fd = memory_file(2 * PAGE);
    struct gmem_region_desc d = desc(0x1000, PAGE, 0x50000, PAGE, dup(fd));
    struct gmem *m = NULL, *next = NULL;
    struct err e = {0};

    (void)state;
    assert_int_equal(gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "vm7", NULL, &e), 0);
    for (unsigned times = 2; times <= 257; times++) {
        d.fd = dup(fd);
        assert_int_equal(gmem_add(&next, m, &d, GMEM_FS_MEMORY_ONLY, "vm7", NULL, &e) == 0, times <= 256);
        if (times <= 256) {
            assert_true(next->region[0].va == m->region[0].va);
            assert_int_equal(next->n, 1);
            gmem_free(m);
            m = next;
        }
    }
    /* anything else about it, and it is another one, which overlaps */
    struct gmem_region_desc other[] = {desc(0x1000, PAGE, 0x50000, 0, dup(fd)),
                                       desc(0x1000, PAGE, 0x60000, PAGE, dup(fd)),
                                       desc(0x1000, PAGE / 2, 0x50000, PAGE, dup(fd)),
                                       desc(0x1000, PAGE, 0x50000, PAGE, memory_file(2 * PAGE))};
    for (unsigned i = 0; i < ARRAY_SIZE(other); i++) {
        assert_true(gmem_add(&next, m, &other[i], GMEM_FS_MEMORY_ONLY, "vm7", NULL, &e) < 0);
        assert_non_null(strstr(e.text, "overlaps"));
    }
    for (unsigned times = 256; times; times--) {
        assert_int_equal(gmem_del(&next, m, 0x1000, 0x50000, PAGE, &e), 0);
        assert_int_equal(next->n, times > 1 ? 1 : 0);
        gmem_free(m);
        m = next;
    }
    gmem_free(m);
    close(fd);
}

/* Each line: one lie about the second region; the table is refused as a whole. */
static void test_refusals(void **state)
{
    static const struct {
        uint64_t gpa, size, uva, off;
        const char *says;
    } bad[] = {
        {0x10000, 0, 0x20000, 0, "empty"},
        {UINT64_MAX - PAGE + 2, PAGE, 0x20000, 0, "wraps"},
        {0x10000, PAGE, UINT64_MAX - PAGE + 2, 0, "wraps"},
        {0x10000, PAGE, 0x20000, UINT64_MAX - PAGE + 2, "wraps"},
        {0x10000, UINT64_MAX, 0x20000, 0, "wraps"},
        {0x10000, 5 * PAGE, 0x20000, 0, "has 16384 bytes"},
        {0x10000, PAGE, 0x20000, 4 * PAGE, "has 16384 bytes"},
        {0x10000, PAGE, 0x20000, 3 * PAGE + 1, "has 16384 bytes"},
        {0x1000, PAGE, 0x20000, 0, "overlaps"},      /* the same again */
        {0x1fff, PAGE, 0x20000, 0, "overlaps"},      /* last byte */
        {0x2, PAGE, 0x20000, 0, "overlaps"},         /* first bytes */
        {0x0, 4 * PAGE, 0x20000, 0, "overlaps"},     /* around it */
        {0x10000, PAGE, 0x50000 + 8, 0, "overlaps"}, /* only in the front-end's addresses */
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct gmem *m = (struct gmem *)0x1234, *keep = m, *old = NULL;
        struct err e = {0};
        struct gmem_region_desc d[] = {
            desc(0x1000, PAGE, 0x50000, 0, memory_file(PAGE)),
            desc(bad[i].gpa, bad[i].size, bad[i].uva, bad[i].off, memory_file(4 * PAGE)),
            desc(0x900000, PAGE, 0x900000, 0, memory_file(PAGE)),
        };

        assert_true(gmem_create(&m, d, 3, GMEM_FS_MEMORY_ONLY, "vm7", NULL, &e) < 0);
        assert_ptr_equal(m, keep);
        assert_non_null(strstr(e.text, bad[i].says));
        assert_int_equal(strncmp(e.text, "vm7:", 4), 0);

        /* The same through gmem_add, against a table that is there. */
        d[0].fd = memory_file(PAGE);
        d[1].fd = memory_file(4 * PAGE);
        assert_int_equal(gmem_create(&old, d, 1, GMEM_FS_MEMORY_ONLY, "vm7", NULL, &e), 0);
        assert_true(gmem_add(&m, old, &d[1], GMEM_FS_MEMORY_ONLY, "vm7", NULL, &e) < 0);
        assert_ptr_equal(m, keep);
        assert_int_equal(old->n, 1);
        gmem_free(old);
    }
}

static void refused_fd(int fd, const char *says)
{
    struct gmem *m = NULL;
    struct err e = {0};
    struct gmem_region_desc d = desc(0, PAGE, 0, 0, fd);

    assert_true(gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "vm7", NULL, &e) < 0);
    assert_null(m);
    assert_non_null(strstr(e.text, says));
}

static void test_fds_that_are_no_memory(void **state)
{
    int p[2], ro;
    char path[64];

    (void)state;
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    refused_fd(p[0], "not a file");
    refused_fd(p[1], "not a file");
    refused_fd(open("/dev/zero", O_RDWR | O_CLOEXEC), "not a file");
    refused_fd(open("/tmp", O_RDONLY | O_CLOEXEC), "not a file");
    refused_fd(-1, "memory fd");
    ro = memory_file(PAGE);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", ro);
    refused_fd(open(path, O_RDONLY | O_CLOEXEC), "cannot map");
    close(ro);
}

/* A page fault on a disk, FUSE or network file waits for whoever serves that file system. */
static void test_file_systems(void **state)
{
    char path[] = "/var/tmp/ringway-gmem-XXXXXX";
    int fd = mkstemp(path), fd2;
    struct statfs sf;
    struct gmem *m = NULL;
    struct err e;

    (void)state;
    if (fd < 0 || fstatfs(fd, &sf) || sf.f_type == TMPFS_MAGIC) {
        print_message("no disk file system at /var/tmp: not tested\n");
        if (fd >= 0) {
            close(fd);
            unlink(path);
        }
        skip();
    }
    unlink(path);
    assert_int_equal(ftruncate(fd, PAGE), 0);
    fd2 = dup(fd);
    refused_fd(fd, "any-fs");
    struct gmem_region_desc d = desc(0, PAGE, 0, 0, fd2);
    assert_int_equal(gmem_create(&m, &d, 1, GMEM_FS_ANY, "vm7", NULL, &e), 0);
    gmem_free(m);
}

static void test_unaligned_offset(void **state)
{
    int fd = memory_file(4 * PAGE);
    struct gmem *m = NULL;
    struct err e;
    uint32_t len;

    (void)state;
    assert_int_equal(pwrite(fd, "ringway", 7, PAGE + 100), 7);
    struct gmem_region_desc d = desc(0x5000, 2 * PAGE, 0x1000, PAGE + 100, fd);
    assert_int_equal(gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "t", NULL, &e), 0);
    assert_memory_equal(at(m, 0x5000, 7, &len), "ringway", 7);
    gmem_free(m);
}

/* hugetlbfs: offset and length of the mmap must be whole huge pages. */
static void test_hugepages(void **state)
{
    int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
    struct gmem *m = NULL;
    struct err e;
    uint32_t len;

    (void)state;
#ifdef EMULATED
    const bool emulated = true; /* maps no huge pages */
#else
    const bool emulated = false;
#endif
    if (emulated || fd < 0 || ftruncate(fd, 4 << 20)) {
        print_message("no hugetlbfs, or an emulator: not tested\n");
        if (fd >= 0) {
            close(fd);
        }
        skip();
    }
    struct gmem_region_desc d = desc(0x5000, PAGE, 0x1000, (2 << 20) + 12 * PAGE, fd);
    int rc = gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "t", NULL, &e);
    assert_int_equal(rc, 0);
    assert_int_equal(m->region[0].map->len, 2 << 20);
    struct sigaction old;
    /* Without pages in the pool the first touch is SIGBUS: the same handler, the same zeros. */
    sigaction(SIGBUS, NULL, &old);
    assert_int_equal(gmem_init(&e), 0);
    assert_int_equal(*at(m, 0x5000, 1, &len), 0);
    sigaction(SIGBUS, &old, NULL);
    gmem_free(m);
}

static void test_add_del_share_mappings(void **state)
{
    struct gmem *a = NULL, *b = NULL, *c = NULL;
    struct err e;
    uint32_t len;
    struct gmem_region_desc d = desc(0x1000, PAGE, 0x1000, 0, memory_file(PAGE));

    (void)state;
    assert_int_equal(gmem_add(&a, NULL, &d, GMEM_FS_MEMORY_ONLY, "t", NULL, &e), 0);
    d = desc(0x8000, PAGE, 0x8000, 0, memory_file(PAGE));
    assert_int_equal(gmem_add(&b, a, &d, GMEM_FS_MEMORY_ONLY, "t", NULL, &e), 0);
    assert_int_equal(a->n, 1);
    assert_int_equal(b->n, 2);
    assert_ptr_equal(at(a, 0x1000, 1, &len), at(b, 0x1000, 1, &len)); /* nothing moved */
    assert_int_equal(gmem_del(&c, b, 0x1000, 0x2000, PAGE, &e), -ENOENT);
    assert_int_equal(gmem_del(&c, b, 0x1000, 0x1000, PAGE - 1, &e), -ENOENT);
    assert_int_equal(gmem_del(&c, b, 0x2000, 0x1000, PAGE, &e), -ENOENT);
    assert_int_equal(gmem_del(&c, b, 0x1000, 0x1000, PAGE, &e), 0);
    gmem_free(a);
    uint8_t *p = GUEST_PTR(uint8_t, at(b, 0x1000, 1, &len));
    *p = 1; /* still mapped: b names it */
    gmem_free(b);
    assert_null(at(c, 0x1000, 1, &len));
    assert_non_null(at(c, 0x8000, 1, &len));
    gmem_free(c);
    gmem_free(NULL);
}

static void test_slots_are_bounded(void **state)
{
    struct gmem_region_desc first = desc(0, PAGE, 0, 0, memory_file(PAGE));
    int fd = dup(first.fd);
    struct gmem *m = NULL, *next;
    struct err e;

    (void)state;
    for (unsigned i = 0; i <= GMEM_MAX_REGIONS; i++) {
        struct gmem_region_desc d = i ? desc(i * 2 * PAGE, PAGE, i * 2 * PAGE, 0, memory_file(PAGE))
                                      : first;
        int rc = gmem_add(&next, m, &d, GMEM_FS_MEMORY_ONLY, "t", NULL, &e);

        if (i < GMEM_MAX_REGIONS) {
            assert_int_equal(rc, 0);
            gmem_free(m);
            m = next;
        } else {
            assert_int_equal(rc, -E2BIG);
        }
    }
    first.fd = fd; /* what is there already takes no slot (QEMU 7.2 repeats it for each queue pair) */
    assert_int_equal(gmem_add(&next, m, &first, GMEM_FS_MEMORY_ONLY, "t", NULL, &e), 0);
    gmem_free(m);
    gmem_free(next);
    m = NULL;

    struct gmem_region_desc many[GMEM_MAX_REGIONS + 1];
    for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
        many[i] = desc(i * 2 * PAGE, PAGE, i * 2 * PAGE, 0, memory_file(PAGE));
    }
    assert_int_equal(gmem_create(&m, many, ARRAY_SIZE(many), GMEM_FS_MEMORY_ONLY, "t", NULL, &e), -E2BIG);
}

/* Tables of terabytes: a 32-bit process has no room for them, and an emulator takes minutes. */
static void needs_room(void)
{
#if SIZE_MAX == UINT32_MAX || defined(EMULATED)
    print_message("skipped: not in a 32-bit process and not in an emulator\n");
    skip();
#endif
}

/* Sparse files cost nothing, so the address space they claim is bounded too. */
static void test_table_is_bounded(void **state)
{
    struct gmem *m = NULL;
    struct err e;

    (void)state;
    needs_room();
    struct gmem_region_desc big[] = {
        desc(0, GMEM_MAX_BYTES / 2, 0, 0, memory_file(GMEM_MAX_BYTES / 2)),
        desc(1ull << 50, GMEM_MAX_BYTES / 2 + PAGE, 1ull << 50, 0,
             memory_file(GMEM_MAX_BYTES / 2 + PAGE)),
    };
    assert_true(gmem_create(&m, big, 2, GMEM_FS_MEMORY_ONLY, "t", NULL, &e) < 0);
}

static void test_shares(void **state)
{
    const uint64_t budget = 1000 * 2 * GMEM_OWNERS, share = 1000;

    (void)state;
    assert_true(within(budget / 2, budget / 2, budget)); /* one may have the first half */
    assert_false(within(budget / 2 + 1, budget / 2 + 1, budget));
    assert_true(within(budget / 2 + share, share, budget)); /* and everybody still gets a share */
    assert_false(within(budget / 2 + share + 1, share + 1, budget));
    assert_true(within(budget, share, budget));
    assert_false(within(budget + 1, share, budget));
    assert_true(GMEM_OWNERS * share + budget / 2 <= budget);
}

static struct gmem *claim(struct gmem_owner *o, uint32_t n, uint64_t bytes, struct err *e)
{
    static struct gmem_region_desc d[GMEM_MAX_REGIONS];
    struct gmem *m = NULL;
    int fd = memory_file(bytes);

    for (uint32_t i = 0; i < n; i++) {
        d[i] = desc(i * 2 * bytes, bytes, i * 2 * bytes, 0, dup(fd));
    }
    close(fd);
    return gmem_create(&m, d, n, GMEM_FS_MEMORY_ONLY, "SET_MEM_TABLE", o, e) ? NULL : m;
}

/* Mapped as it is said to be, or refused: never less because a length was cut to 32 bits. */
static void test_more_than_32_bits(void **state)
{
    const uint64_t size = (1ull << 32) + PAGE;
    struct gmem_region_desc d = desc(0, size, 0, 0, memory_file(size));
    struct gmem *m = NULL;
    struct err e;
    int rc = gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "t", NULL, &e);

    (void)state;
    if (SIZE_MAX == UINT32_MAX) {
        assert_int_equal(rc, -ENOMEM);
        assert_non_null(strstr(e.text, "32-bit"));
        assert_null(m);
    } else {
        assert_int_equal(rc, 0);
        gmem_free(m);
    }
}

/* Sparse files cost nothing. Who takes all there is, is named; everybody else gets a share. */
static void test_address_space_is_shared(void **state)
{
    enum { HOGS = GMEM_ALL_BYTES / 2 / GMEM_MAX_BYTES };
    struct gmem_owner hog = {.name = "hog"}, other = {.name = "other"};
    struct gmem *m[HOGS], *share;
    struct err e = {0};
    unsigned fds = open_fds();

    (void)state;
    needs_room();
    for (unsigned i = 0; i < HOGS; i++) {
        m[i] = claim(&hog, 1, GMEM_MAX_BYTES, &e);
        if (!m[i]) {
            fail_msg("%u: %s", i, e.text);
        }
    }
    assert_int_equal(hog.bytes, GMEM_ALL_BYTES / 2);
    assert_null(claim(&hog, 1, PAGE, &e));
    assert_int_equal(e.code, -ENOSPC);
    assert_non_null(strstr(e.text, "port hog has 32768 GiB"));
    assert_null(claim(&other, 1, 1ull << 40, &e)); /* more than its share */
    assert_non_null(strstr(e.text, "port hog"));
    share = claim(&other, 1, 16ull << 30, &e);
    assert_non_null(share);
    gmem_free(m[0]); /* as the sentence says: then there is room again */
    m[0] = claim(&other, 1, 1ull << 40, &e);
    assert_non_null(m[0]);
    for (unsigned i = 0; i < HOGS; i++) {
        gmem_free(m[i]);
    }
    gmem_free(share);
    assert_int_equal(hog.bytes + other.bytes + hog.maps + other.maps, 0);
    assert_int_equal(open_fds(), fds);
}

static void test_mappings_are_shared(void **state)
{
    enum { TABLES = GMEM_ALL_MAPS / 2 / GMEM_MAX_REGIONS };
    struct gmem_owner hog = {.name = "hog"}, other = {.name = "other"};
    struct gmem *m[TABLES], *rest, *share;
    struct err e = {0};

    (void)state;
    for (unsigned i = 0; i < TABLES; i++) {
        m[i] = claim(&hog, GMEM_MAX_REGIONS, PAGE, &e);
        if (!m[i]) {
            fail_msg("%u: %s", i, e.text);
        }
    }
    rest = claim(&hog, GMEM_ALL_MAPS / 2 - hog.maps, PAGE, &e);
    assert_non_null(rest);
    assert_null(claim(&hog, 1, PAGE, &e));
    assert_int_equal(e.code, -ENOSPC);
    assert_non_null(strstr(e.text, "port hog has 16384"));
    share = claim(&other, 16, PAGE, &e);
    assert_non_null(share);
    assert_null(claim(&other, 1, PAGE, &e));
    for (unsigned i = 0; i < TABLES; i++) {
        gmem_free(m[i]);
    }
    gmem_free(rest);
    gmem_free(share);
    assert_int_equal(hog.maps + other.maps, 0);
}

static void test_empty_table(void **state)
{
    struct gmem *m = NULL;
    struct err e;
    uint32_t len;

    (void)state;
    assert_int_equal(gmem_create(&m, NULL, 0, GMEM_FS_MEMORY_ONLY, "t", NULL, &e), 0);
    assert_null(at(m, 0, 1, &len));
    assert_null(gmem_gpa_range(m, (gpa_t){0}, 0));
    assert_false(gmem_faulted(m));
    gmem_free(m);
}

static void test_truncated_file_reads_as_zeros(void **state)
{
    struct gmem *m = NULL, *other = NULL;
    struct err e;
    uint32_t len, before = gmem_fault_seq();
    int fd = memory_file(4 * PAGE), keep = dup(fd);
    struct gmem_region_desc d = desc(0, 4 * PAGE, 0, 0, fd);
    struct gmem_region_desc od = desc(0, PAGE, 0, 0, memory_file(PAGE));

    (void)state;
    assert_int_equal(gmem_init(&e), 0);
    assert_int_equal(gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "t", NULL, &e), 0);
    assert_int_equal(gmem_create(&other, &od, 1, GMEM_FS_MEMORY_ONLY, "t", NULL, &e), 0);
    uint8_t *p = GUEST_PTR(uint8_t, at(m, 0, 16, &len));
    memset(p, 0xaa, 4 * PAGE);
    assert_int_equal(ftruncate(keep, PAGE), 0);
    assert_int_equal(p[0], 0xaa); /* what is still there is still there */
    assert_int_equal(gmem_fault_seq(), before);

    errno = 42;
    assert_int_equal(read_once(&p[3 * PAGE]), 0);
    assert_int_equal(errno, 42);
    assert_int_equal(gmem_fault_seq(), before + 1);
    assert_true(gmem_faulted(m));
    assert_false(gmem_faulted(other));
    p[2 * PAGE] = 7; /* writes go to private pages */
    assert_int_equal(gmem_fault_seq(), before + 1);

    /* A second table over the same mapping knows as well; a new mapping in the slot does not. */
    gmem_free(m);
    d = desc(0, PAGE, 0, 0, memory_file(PAGE));
    assert_int_equal(gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "t", NULL, &e), 0);
    assert_false(gmem_faulted(m));
    gmem_free(m);
    gmem_free(other);
    close(keep);
    signal(SIGBUS, SIG_DFL);
}

static int status_of(void (*fn)(void))
{
    int status;
    pid_t pid = fork();

    if (!pid) {
        struct err e;

        gmem_init(&e);
        fn();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return status;
}

/* The kernel refuses to replace a gigabyte by private memory: pieces do. */
static void bus_in_pieces(void)
{
    const uint64_t gib = 1ull << 30;
    struct gmem *m = NULL;
    uint32_t len, before = gmem_fault_seq();
    int fd = memory_file(gib), keep = dup(fd);
    struct gmem_region_desc d = desc(0, gib, 0, 0, fd);

    if (gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "t", NULL, NULL) || ftruncate(keep, 0)) {
        _exit(1);
    }
    private_max = 4 << 20;
    for (uint64_t a = 0; a < gib; a += gib / 8) { /* each in another piece */
        volatile uint8_t *p = GUEST_PTR(volatile uint8_t, at(m, a, 1, &len));

        if (*p) {
            _exit(2);
        }
        *p = 1;
        private_max = a ? PAGE : private_max; /* and then not even pieces */
    }
    gmem_free(m); /* whatever it consists of by now */
    _exit(gmem_fault_seq() == before + 8 ? 0 : 3);
}

static void test_truncated_under_strict_limits(void **state)
{
    int status = status_of(bus_in_pieces);

    (void)state;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void bus_outside(void)
{
    int fd = memfd_create("x", 0);
    volatile uint8_t *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

    (void)*p;
}

static void bus_sent(void)
{
    struct gmem *m = NULL;
    struct gmem_region_desc d = desc(0, PAGE, 0, 0, memory_file(PAGE));

    gmem_create(&m, &d, 1, GMEM_FS_MEMORY_ONLY, "t", NULL, NULL);
    kill(getpid(), SIGBUS);
}

static void test_other_faults_stay_fatal(void **state)
{
    (void)state;
    int s = status_of(bus_outside);
    assert_true(WIFSIGNALED(s) && WTERMSIG(s) == SIGBUS);
    s = status_of(bus_sent);
    assert_true(WIFSIGNALED(s) && WTERMSIG(s) == SIGBUS);
}

#define T(f) cmocka_unit_test_setup_teardown(f, count_before, count_after)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_translate_and_shorten),
        T(test_hint_never_matters),
        T(test_ranges_for_rings),
        T(test_same_region_again),
        T(test_refusals),
        T(test_fds_that_are_no_memory),
        T(test_file_systems),
        T(test_unaligned_offset),
        T(test_hugepages),
        T(test_add_del_share_mappings),
        T(test_slots_are_bounded),
        T(test_table_is_bounded),
        T(test_more_than_32_bits),
        T(test_shares),
        T(test_address_space_is_shared),
        T(test_mappings_are_shared),
        T(test_empty_table),
        T(test_truncated_file_reads_as_zeros),
        T(test_truncated_under_strict_limits),
        T(test_other_faults_stay_fatal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
