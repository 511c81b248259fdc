/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The form of messages: the table against a second, hand-written list of what the document says,
 * every size and every number of fds for every message, and the ranges inside payloads.
 */
#include "vhost/vu_codec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Number, payload bytes, fds at most, and whether it has a reply of its own. */
static const struct expect {
    uint32_t request, size, fds;
    bool own_reply;
} document[] = {
    {1, 0, 0, true},    {2, 8, 0, false},  {3, 0, 0, false},  {4, 0, 0, false},  {8, 8, 0, false},
    {9, 40, 0, false},  {10, 8, 0, false}, {11, 8, 0, true},  {12, 8, 1, false}, {13, 8, 1, false},
    {14, 8, 1, false},  {15, 0, 0, true},  {16, 8, 0, false}, {17, 0, 0, true},  {18, 8, 0, false},
    {19, 8, 0, false},  {20, 8, 0, false}, {34, 0, 0, false}, {36, 0, 0, true},  {37, 40, 1, false},
    {38, 40, 1, false}, {39, 8, 0, false}, {40, 0, 0, true},  {21, 0, 1, false},
    {6, 16, 1, true},   {7, 0, 1, false},
};
static const uint32_t not_spoken[] = {22, 23, 26, 27, 28, 29, 30,
                                      33, 35, 41, 42, 43, 44, 0,  45, 1000, UINT32_MAX};

static int header(uint32_t request, uint32_t flags, uint32_t size)
{
    struct err e = {0};
    int rc =
        vu_check_header(&(struct vu_hdr){.request = request, .flags = flags, .size = size}, &e);

    if (rc) {
        assert_int_equal(rc, -EPROTO);
        assert_true(strlen(e.text) > 10);
    }
    return rc;
}

static void one_size_fits(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(document); i++) {
        for (uint32_t size = 0; size < 5000; size++) {
            assert_int_equal(header(document[i].request, 1, size) == 0, size == document[i].size);
        }
        assert_int_not_equal(header(document[i].request, 1, UINT32_MAX), 0);
        assert_int_not_equal(header(document[i].request, 1, UINT32_MAX - 11), 0);
    }
}

static void table_size(void **state)
{
    for (uint32_t size = 0; size < 5000; size++) {
        bool fits = size >= 8 && size <= 8 + 32 * 32 && (size - 8) % 32 == 0;

        assert_int_equal(header(VU_SET_MEM_TABLE, 1, size) == 0, fits);
    }
}

static void config_size(void **state)
{
    for (uint32_t size = 0; size < 5000; size++) {
        bool fits = size >= 12 && size <= 12 + 256;

        assert_int_equal(header(VU_GET_CONFIG, 1, size) == 0, fits);
        assert_int_equal(header(VU_SET_CONFIG, 1, size) == 0, fits);
    }
}

static void inflight_size(void **state)
{
    for (uint32_t size = 0; size < 5000; size++) {
        assert_int_equal(header(VU_GET_INFLIGHT_FD, 1, size) == 0, size == 20 || size == 24);
        assert_int_equal(header(VU_SET_INFLIGHT_FD, 1, size) == 0, size == 20 || size == 24);
    }
}

static void the_unknown_is_bounded(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(not_spoken); i++) {
        const struct vu_msg_desc *d = vu_msg_desc(not_spoken[i]);

        assert_false(d->spoken);
        assert_non_null(d->name);
        assert_int_equal(header(not_spoken[i], 1, 0), 0);
        assert_int_equal(header(not_spoken[i], 1, 4096), 0);
        assert_int_not_equal(header(not_spoken[i], 1, 4097), 0);
        assert_int_not_equal(header(not_spoken[i], 1, UINT32_MAX), 0);
    }
}

static void flags(void **state)
{
    for (uint32_t f = 0; f < 256; f++) {
        assert_int_equal(header(VU_GET_FEATURES, f, 0) == 0, f == 1 || f == 9);
    }
    assert_int_not_equal(header(VU_GET_FEATURES, 0x80000001, 0), 0);
}

static void descriptions(void **state)
{
    unsigned spoken = 0;

    for (uint32_t r = 0; r < VU_REQUEST_MAX; r++) {
        spoken += vu_msg_desc(r)->spoken;
    }
    assert_int_equal(spoken, ARRAY_SIZE(document) + 5); /* those of more than one size */
    for (unsigned i = 0; i < ARRAY_SIZE(document); i++) {
        const struct vu_msg_desc *d = vu_msg_desc(document[i].request);

        assert_true(d->spoken);
        assert_int_equal(d->request, document[i].request);
        assert_int_equal(d->max_fds, document[i].fds);
        assert_int_equal(d->answer != VU_ANSWER_ACK, document[i].own_reply);
    }
    assert_int_equal(vu_msg_desc(VU_GET_VRING_BASE)->answer, VU_ANSWER_STATE);
    assert_string_equal(vu_msg_desc(13)->name, "SET_VRING_CALL");
}

static struct vu_msg *message(uint32_t request, uint32_t size, uint32_t n_fds)
{
    static struct vu_msg m;

    memset(&m, 0, sizeof(m));
    m.h = (struct vu_hdr){.request = request, .flags = 1, .size = size};
    m.desc = vu_msg_desc(request);
    m.n_fds = n_fds;
    return &m;
}

static bool good(const struct vu_msg *m)
{
    struct err e = {0};
    int rc = vu_check_message(m, &e);

    if (rc) {
        assert_int_equal(rc, -EPROTO);
        assert_non_null(strstr(e.text, m->desc->name));
    }
    return !rc;
}

static void number_of_fds(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(document); i++) {
        const struct expect *x = &document[i];

        for (uint32_t n = 0; n <= VU_MAX_FDS; n++) {
            struct vu_msg *m = message(x->request, x->size, n);

            if (x->request == VU_SET_VRING_NUM) {
                m->p.state.num = 1;
            }
            if (m->desc->shape == VU_SHAPE_RING_FD) {
                assert_int_equal(good(m), n == 1);
                m->p.u64 = VU_RING_FD_NONE;
                assert_int_equal(good(m), n == 0);
            } else {
                assert_int_equal(good(m), n <= x->fds);
            }
        }
    }
    for (unsigned i = 0; i < ARRAY_SIZE(not_spoken); i++) {
        assert_true(good(message(not_spoken[i], 0, VU_MAX_FDS)));
    }
}

/* The range lies in the 256 bytes, and the payload is as long as it says. */
static void config_range(void **state)
{
    static const uint32_t some[] = {0, 1, 23, 24, 255, 256, 257, 0x7fffffff, 0xffffff00, UINT32_MAX};

    for (unsigned i = 0; i < ARRAY_SIZE(some); i++) {
        for (unsigned k = 0; k < ARRAY_SIZE(some); k++) {
            uint64_t end = (uint64_t)some[i] + some[k];

            for (uint32_t more = 0; more < 2; more++) {
                struct vu_msg *m = message(VU_GET_CONFIG, 12 + MIN(some[k], 256u) + more, 0);

                m->p.config.offset = some[i];
                m->p.config.size = some[k];
                assert_int_equal(good(m), end <= 256 && !more);
            }
        }
    }
    assert_false(good(message(VU_GET_CONFIG, 12, 1)));
}

static void table_count(void **state)
{
    for (uint32_t n = 0; n <= 32; n++) {
        struct vu_msg *m = message(VU_SET_MEM_TABLE, 8 + 32 * n, n);

        m->p.table.n = n;
        assert_true(good(m));
        m->p.table.n = n + 1;
        assert_false(good(m));
        m->p.table.n = n | 0x80000000;
        assert_false(good(m));
        m->p.table.n = n;
        m->n_fds = n + 1;
        assert_false(good(m));
        m->n_fds = 0; /* what it means is for the back-end to say */
        assert_true(good(m));
    }
}

static void ring_numbers(void **state)
{
    static const uint32_t idx[] = {0, 1, 255, 256, 257, 0x10000, 0x80000000, UINT32_MAX};
    static const uint32_t with_state[] = {VU_SET_VRING_NUM, VU_SET_VRING_BASE, VU_GET_VRING_BASE,
                                          VU_SET_VRING_ENABLE};

    for (unsigned i = 0; i < ARRAY_SIZE(idx); i++) {
        for (unsigned k = 0; k < ARRAY_SIZE(with_state); k++) {
            struct vu_msg *m = message(with_state[k], 8, 0);

            m->p.state = (struct vu_ring_state){.idx = idx[i], .num = 1};
            assert_int_equal(good(m), idx[i] < 256);
            assert_int_equal(vu_msg_ring(m), MIN(idx[i], 256u));
        }
        struct vu_msg *m = message(VU_SET_VRING_ADDR, 40, 0);
        m->p.addr.idx = idx[i];
        assert_int_equal(good(m), idx[i] < 256);
    }
    assert_int_equal(vu_msg_ring(message(VU_SET_STATUS, 8, 0)), -1);
}

static void ring_fd_bits(void **state)
{
    for (uint32_t r = VU_SET_VRING_KICK; r <= VU_SET_VRING_ERR; r++) {
        for (unsigned bit = 0; bit < 64; bit++) {
            struct vu_msg *m = message(r, 8, bit != 8);

            m->p.u64 = 1ull << bit;
            assert_int_equal(good(m), bit <= 8);
        }
        struct vu_msg *m = message(r, 8, 1);
        m->p.u64 = 0xff;
        assert_true(good(m));
        assert_int_equal(vu_msg_ring(m), 255);
    }
}

static void sizes_and_switches(void **state)
{
    static const struct {
        uint32_t request, num;
        bool good;
    } c[] = {
        {VU_SET_VRING_NUM, 0, false},       {VU_SET_VRING_NUM, 1, true},
        {VU_SET_VRING_NUM, 32768, true},    {VU_SET_VRING_NUM, 32769, false},
        {VU_SET_VRING_NUM, 0x10001, false}, {VU_SET_VRING_NUM, UINT32_MAX, false},
        {VU_SET_VRING_ENABLE, 0, true},     {VU_SET_VRING_ENABLE, 1, true},
        {VU_SET_VRING_ENABLE, 2, false},    {VU_SET_VRING_ENABLE, UINT32_MAX, false},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
        struct vu_msg *m = message(c[i].request, 8, 0);

        m->p.state.num = c[i].num;
        assert_int_equal(good(m), c[i].good);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_size_fits),
        cmocka_unit_test(table_size),
        cmocka_unit_test(config_size),
        cmocka_unit_test(inflight_size),
        cmocka_unit_test(config_range),
        cmocka_unit_test(the_unknown_is_bounded),
        cmocka_unit_test(flags),
        cmocka_unit_test(descriptions),
        cmocka_unit_test(number_of_fds),
        cmocka_unit_test(table_count),
        cmocka_unit_test(ring_numbers),
        cmocka_unit_test(ring_fd_bits),
        cmocka_unit_test(sizes_and_switches),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
