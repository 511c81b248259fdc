/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MAC table: each promise of dp/mactab.h on its own, then random operations against a model
 * that is obviously right (an array searched from end to end), then readers and writers at once.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dp/mactab_hot.h"

#define FID 1

static uint64_t key_of(uint32_t n, uint16_t fid)
{
    const uint8_t mac[6] = {0x02,      0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
                            (uint8_t)n};
    return mac_key(mac, fid);
}

static void learn(struct mactab *t, uint64_t key, uint16_t port)
{
    mactab_learn(t, key, mac_hash(t, key), port);
}

static uint16_t find(const struct mactab *t, uint64_t key)
{
    return mactab_find(t, key, mac_hash(t, key)).port;
}

static uint16_t same_age(void *arg, uint16_t fid)
{
    return *(uint16_t *)arg;
}

static uint32_t age(struct mactab *t, uint16_t max_age, uint32_t max_buckets)
{
    return mactab_age(t, same_age, &max_age, max_buckets);
}

/* ---- one promise each --------------------------------------------------------------------- */

static void test_learn_and_find(void **state)
{
    struct mactab *t = mactab_create(0);

    assert_non_null(t);
    assert_int_equal(find(t, key_of(1, FID)), MACTAB_MISS);
    learn(t, key_of(1, FID), 3);
    learn(t, key_of(1, FID), 3);
    assert_int_equal(find(t, key_of(1, FID)), 3);
    assert_int_equal(find(t, key_of(1, FID + 1)), MACTAB_MISS); /* another bridge */
    assert_int_equal(mactab_count(t, 3), 1);
    assert_int_equal(mactab_total(t), 1);
    mactab_destroy(t);
}

static void test_move(void **state)
{
    struct mactab *t = mactab_create(100);

    learn(t, key_of(1, FID), 3);
    learn(t, key_of(1, FID), 4);
    assert_int_equal(find(t, key_of(1, FID)), 4);
    assert_int_equal(mactab_count(t, 3), 0);
    assert_int_equal(mactab_count(t, 4), 1);
    assert_int_equal(mactab_moves(t), 1);
    assert_int_equal(mactab_total(t), 1);
    mactab_destroy(t);
}

static void test_static(void **state)
{
    struct mactab *t = mactab_create(100);

    assert_int_equal(mactab_add_static(t, key_of(1, FID), 3), 0);
    assert_int_equal(mactab_add_static(t, key_of(1, FID), 3), 0);
    assert_int_equal(mactab_add_static(t, key_of(1, FID), 4), -EEXIST);
    learn(t, key_of(1, FID), 4); /* does not move */
    assert_int_equal(find(t, key_of(1, FID)), 3);
    mactab_set_now(t, 5000);
    assert_int_equal(age(t, 1, UINT32_MAX), 0);
    assert_int_equal(mactab_flush(t, PORT_NONE, -1, false), 0);
    assert_int_equal(find(t, key_of(1, FID)), 3);
    assert_int_equal(mactab_flush(t, 3, -1, true), 1);
    assert_int_equal(find(t, key_of(1, FID)), MACTAB_MISS);

    learn(t, key_of(2, FID), 4); /* a learnt entry becomes static, on the port that was named */
    assert_int_equal(mactab_add_static(t, key_of(2, FID), 3), 0);
    assert_int_equal(find(t, key_of(2, FID)), 3);
    assert_int_equal(mactab_count(t, 4), 0);
    assert_int_equal(mactab_del(t, key_of(2, FID)), 0);
    assert_int_equal(mactab_del(t, key_of(2, FID)), -ENOENT);
    assert_int_equal(mactab_total(t), 0);
    mactab_destroy(t);
}

static void test_ageing(void **state)
{
    struct mactab *t = mactab_create(1000);

    mactab_set_now(t, 100);
    learn(t, key_of(1, FID), 1);
    learn(t, key_of(2, FID), 1);
    mactab_set_now(t, 300);
    learn(t, key_of(2, FID), 1);                  /* seen again */
    assert_int_equal(age(t, 200, UINT32_MAX), 0); /* exactly as old as allowed */
    mactab_set_now(t, 301);
    assert_int_equal(age(t, 200, UINT32_MAX), 1);
    assert_int_equal(find(t, key_of(1, FID)), MACTAB_MISS);
    assert_int_equal(find(t, key_of(2, FID)), 1);

    /* a bounded walk gets everywhere in the end */
    mactab_set_now(t, 1000);
    uint32_t n = 0;
    for (unsigned i = 0; i < 10000 && !n; i++) {
        n = age(t, 200, 7);
    }
    assert_int_equal(n, 1);
    assert_int_equal(mactab_total(t), 0);
    mactab_destroy(t);
}

/* The second is kept in 16 bits: a switch that is up for weeks must not see entries jump. */
static void test_ageing_wraps(void **state)
{
    struct mactab *t = mactab_create(1000);

    for (uint32_t now = 60000; now < 60000 + 70000; now += 500) {
        mactab_set_now(t, (uint16_t)(now % 65535));
        learn(t, key_of(1, FID), 1);
        learn(t, key_of(now, FID), 2);
        age(t, 1000, UINT32_MAX);
        assert_int_equal(find(t, key_of(1, FID)), 1);
        assert_int_equal(find(t, key_of(now, FID)), 2);
        assert_true(mactab_count(t, 2) <= 3);
    }
    mactab_destroy(t);
}

static void test_limit(void **state)
{
    struct mactab *t = mactab_create(100);

    assert_int_equal(mactab_limit(t, 1), 50); /* half of the table unless set */
    mactab_set_limit(t, 1, 2);
    learn(t, key_of(9, FID), 2);
    for (uint32_t i = 1; i <= 5; i++) {
        learn(t, key_of(i, FID), 1);
    }
    assert_int_equal(mactab_count(t, 1), 2);
    assert_int_equal(mactab_limited(t, 1), 3);
    assert_int_equal(find(t, key_of(2, FID)), 1);
    assert_int_equal(find(t, key_of(3, FID)), MACTAB_MISS);
    learn(t, key_of(9, FID), 1); /* a move counts against the new port: refused */
    assert_int_equal(find(t, key_of(9, FID)), 2);
    mactab_flush(t, 1, -1, false);
    learn(t, key_of(9, FID), 1);
    assert_int_equal(find(t, key_of(9, FID)), 1);
    mactab_destroy(t);
}

static void test_full_table_displaces_nobody(void **state)
{
    struct mactab *t = mactab_create(64);

    mactab_set_limit(t, 1, 1000000);
    for (uint32_t i = 0; i < 10; i++) {
        learn(t, key_of(1000 + i, FID), 2);
    }
    for (uint32_t i = 0; i < 10000; i++) {
        learn(t, key_of(5000 + i, FID), 1);
    }
    assert_true(mactab_total(t) <= mactab_size(t));
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(find(t, key_of(1000 + i, FID)), 2);
    }
    assert_int_equal(mactab_count(t, 1) + mactab_limited(t, 1), 10000);
    mactab_destroy(t);
}

static void test_holds_its_size(void **state)
{
    struct mactab *t = mactab_create(MACTAB_DEFAULT_SIZE);
    uint32_t missing = 0;

    for (uint32_t i = 0; i < MACTAB_DEFAULT_SIZE; i++) {
        learn(t, key_of(i, FID), (uint16_t)(i % 4));
    }
    for (uint32_t i = 0; i < MACTAB_DEFAULT_SIZE; i++) {
        missing += find(t, key_of(i, FID)) != i % 4;
    }
    assert_int_equal(missing, 0);
    assert_int_equal(mactab_total(t), MACTAB_DEFAULT_SIZE);
    mactab_destroy(t);
}

static void test_flush_selects(void **state)
{
    struct mactab *t = mactab_create(100);

    for (uint16_t port = 1; port <= 2; port++) {
        for (uint16_t fid = 1; fid <= 2; fid++) {
            learn(t, key_of(port, fid), port);
        }
    }
    assert_int_equal(mactab_flush(t, 1, 1, false), 1);
    assert_int_equal(find(t, key_of(1, 1)), MACTAB_MISS);
    assert_int_equal(find(t, key_of(1, 2)), 1);
    assert_int_equal(mactab_flush(t, PORT_NONE, 1, false), 1);
    assert_int_equal(mactab_flush(t, 2, -1, false), 1);
    assert_int_equal(mactab_flush(t, PORT_NONE, -1, false), 1);
    assert_int_equal(mactab_total(t), 0);
    mactab_destroy(t);
}

/* ---- against a model ---------------------------------------------------------------------- */

#define M_SIZE  48
#define M_KEYS  120 /* more than the table holds */
#define M_PORTS 6
#define M_STEPS 60000

struct model {
    struct m_entry {
        bool used, is_static;
        uint16_t port;
        uint32_t seen;
    } e[M_KEYS]; /* by number of the key */
    uint32_t n[M_PORTS], limit[M_PORTS], total, now;
    uint64_t limited[M_PORTS], moves;
};

static uint64_t m_key(unsigned k)
{
    return key_of(k, (uint16_t)(1 + k % 3));
}

static bool has_free_slot(const struct mac_bucket *b)
{
    for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
        if (!b->key[i]) {
            return true;
        }
    }
    return false;
}

/* The one thing a model cannot know: whether both buckets of a key are full and none of their
 * entries can go elsewhere. */
static bool buckets_full(const struct mactab *t, uint64_t key)
{
    struct mac_hash h = mac_hash(t, key);
    const struct mac_bucket *pair[2] = {&t->bucket[h.first], &t->bucket[h.second]};

    for (unsigned k = 0; k < 2; k++) {
        if (has_free_slot(pair[k])) {
            return false;
        }
        for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
            if (has_free_slot(&t->bucket[mac_hash(t, pair[k]->key[i]).second])) {
                return false;
            }
        }
    }
    return true;
}

static void m_learn(struct model *m, unsigned k, uint16_t port, bool no_room)
{
    struct m_entry *e = &m->e[k];

    if (e->used && e->is_static) {
        return;
    }
    if (e->used && e->port == port) {
        e->seen = m->now;
        return;
    }
    if (m->n[port] >= m->limit[port] || (!e->used && no_room)) {
        m->limited[port]++;
        return;
    }
    if (e->used) {
        m->n[e->port]--;
        m->moves++;
    } else {
        m->total++;
    }
    m->n[port]++;
    *e = (struct m_entry){.used = true, .port = port, .seen = m->now};
}

static int m_add_static(struct model *m, unsigned k, uint16_t port, bool no_room)
{
    struct m_entry *e = &m->e[k];

    if (e->used && e->is_static && e->port != port) {
        return -EEXIST;
    }
    if (!e->used && no_room) {
        return -ENOSPC;
    }
    if (e->used) {
        m->n[e->port]--;
    } else {
        m->total++;
    }
    m->n[port]++;
    *e = (struct m_entry){.used = true, .is_static = true, .port = port};
    return 0;
}

static int m_del(struct model *m, unsigned k)
{
    if (!m->e[k].used) {
        return -ENOENT;
    }
    m->n[m->e[k].port]--;
    m->total--;
    m->e[k].used = false;
    return 0;
}

static uint32_t m_flush(struct model *m, int port, int fid, bool statics)
{
    uint32_t n = 0;

    for (unsigned k = 0; k < M_KEYS; k++) {
        struct m_entry *e = &m->e[k];
        if (e->used && (port == PORT_NONE || e->port == port) &&
            (fid < 0 || (int)(m_key(k) >> 48) == fid) && (statics || !e->is_static)) {
            m_del(m, k);
            n++;
        }
    }
    return n;
}

static uint32_t m_age(struct model *m, uint32_t max_age)
{
    uint32_t n = 0;

    for (unsigned k = 0; k < M_KEYS; k++) {
        struct m_entry *e = &m->e[k];
        if (e->used && !e->is_static && m->now - e->seen > max_age) {
            m_del(m, k);
            n++;
        }
    }
    return n;
}

static void count_entry(void *arg, const struct mac_entry *e)
{
    struct model *m = arg;

    for (unsigned k = 0; k < M_KEYS; k++) {
        if (m_key(k) == e->key) {
            assert_true(m->e[k].used);
            assert_int_equal(m->e[k].port, e->port);
            assert_int_equal(m->e[k].is_static, e->is_static);
            assert_int_equal(e->age, e->is_static ? 0 : m->now - m->e[k].seen);
            m->total--; /* the caller's copy: each exactly once */
            return;
        }
    }
    fail_msg("an entry that was never put in");
}

static void compare(const struct mactab *t, const struct model *m)
{
    struct model copy = *m;

    for (unsigned k = 0; k < M_KEYS; k++) {
        assert_int_equal(find(t, m_key(k)), m->e[k].used ? m->e[k].port : MACTAB_MISS);
    }
    for (uint16_t p = 0; p < M_PORTS; p++) {
        assert_int_equal(mactab_count(t, p), m->n[p]);
    }
    assert_int_equal(mactab_total(t), m->total);
    mactab_each(t, count_entry, &copy);
    assert_int_equal(copy.total, 0);
}

static void model_step(struct mactab *t, struct model *m, unsigned *seed)
{
    unsigned k = (unsigned)rand_r(seed) % M_KEYS, what = (unsigned)rand_r(seed) % 1000;
    uint16_t port = (uint16_t)((unsigned)rand_r(seed) % M_PORTS);
    bool no_room = mactab_total(t) >= mactab_size(t) || buckets_full(t, m_key(k));

    if (what < 800) {
        learn(t, m_key(k), port);
        m_learn(m, k, port, no_room);
    } else if (what < 830) {
        assert_int_equal(mactab_add_static(t, m_key(k), port), m_add_static(m, k, port, no_room));
    } else if (what < 900) {
        assert_int_equal(mactab_del(t, m_key(k)), m_del(m, k));
    } else if (what < 960) {
        m->now += (unsigned)rand_r(seed) % 20;
        mactab_set_now(t, (uint16_t)(m->now % 65535));
        assert_int_equal(age(t, 60, UINT32_MAX), m_age(m, 60));
    } else if (what < 990) {
        m->limit[port] = (uint32_t)rand_r(seed) % 20;
        mactab_set_limit(t, port, m->limit[port]);
    } else {
        uint16_t which = (uint16_t)(rand_r(seed) % 3 ? port : PORT_NONE);
        int fid = rand_r(seed) % 2 ? (int)(m_key(k) >> 48) : -1;
        bool statics = rand_r(seed) % 2;
        assert_int_equal(mactab_flush(t, which, fid, statics), m_flush(m, which, fid, statics));
    }
}

static void test_against_model(void **state)
{
    struct mactab *t = mactab_create(M_SIZE);
    struct model m = {0};
    unsigned seed = 20;

    for (uint16_t p = 0; p < M_PORTS; p++) {
        m.limit[p] = mactab_limit(t, p);
    }
    for (unsigned step = 0; step < M_STEPS; step++) {
        model_step(t, &m, &seed);
        compare(t, &m);
    }
    for (uint16_t p = 0; p < M_PORTS; p++) {
        assert_true(m.limited[p] <= mactab_limited(t, p)); /* refused statics count there too */
    }
    mactab_destroy(t);
}

/* ---- readers and writers at once ---------------------------------------------------------- */

/*
 * Key k is only ever learnt on ports k % 4 and k % 4 + 4, so whatever a reader finds for it must be
 * one of the two: a torn read shows as somebody else's port.
 */
#define C_KEYS   512
#define C_ROUNDS 150000

struct crew {
    struct mactab *t;
    unsigned seed;
    uint32_t wrong, hits;
};

static bool right_port(uint32_t k, uint16_t port)
{
    return port == MACTAB_MISS || port == k % 4 || port == k % 4 + 4;
}

static void *learner(void *arg)
{
    struct crew *c = arg;

    for (unsigned i = 0; i < C_ROUNDS; i++) {
        uint32_t k = (uint32_t)rand_r(&c->seed) % C_KEYS;
        learn(c->t, key_of(k, FID), (uint16_t)(k % 4 + (rand_r(&c->seed) % 2 ? 4 : 0)));
    }
    return NULL;
}

static void *reader(void *arg)
{
    struct crew *c = arg;

    for (unsigned i = 0; i < C_ROUNDS; i++) {
        uint32_t k = (uint32_t)rand_r(&c->seed) % C_KEYS;
        uint16_t port = find(c->t, key_of(k, FID));
        c->wrong += !right_port(k, port);
        c->hits += port != MACTAB_MISS;
    }
    return NULL;
}

static void check_entry(void *arg, const struct mac_entry *e)
{
    uint32_t k = (uint32_t)(e->key >> 32 & 0xff) << 8 | (uint32_t)(e->key >> 40 & 0xff);
    struct crew *c = arg;

    c->wrong += !right_port(k, e->port);
    c->hits++;
}

static void readers_and_writers(struct mactab *t)
{
    struct crew crew[5];
    pthread_t th[4];

    for (unsigned i = 0; i < ARRAY_SIZE(crew); i++) {
        crew[i] = (struct crew){.t = t, .seed = i + 1};
    }
    for (unsigned i = 0; i < ARRAY_SIZE(th); i++) {
        assert_int_equal(pthread_create(&th[i], NULL, i % 2 ? reader : learner, &crew[i]), 0);
    }
    for (unsigned i = 0; i < 200; i++) { /* meanwhile, the control thread at work */
        mactab_set_now(t, (uint16_t)i);
        mactab_set_limit(t, (uint16_t)(i % 8), i % 3 ? 300 : 10);
        age(t, 5, 16);
        if (i % 10 == 0) {
            mactab_flush(t, (uint16_t)(i / 10 % 8), -1, true);
        }
        mactab_add_static(t, key_of(i, FID), (uint16_t)(i % 4));
        mactab_each(t, check_entry, &crew[4]);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(th); i++) {
        pthread_join(th[i], NULL);
    }
    uint32_t sum = 0;
    for (uint16_t p = 0; p < 8; p++) {
        sum += mactab_count(t, p);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(crew); i++) {
        assert_int_equal(crew[i].wrong, 0);
    }
    crew[4].hits = 0;
    mactab_each(t, check_entry, &crew[4]);
    assert_int_equal(crew[4].hits, mactab_total(t));
    assert_int_equal(sum, mactab_total(t));
    assert_true(crew[1].hits + crew[3].hits > 0);
}

static void test_concurrent(void **state)
{
    struct mactab *t = mactab_create(600);

    readers_and_writers(t);
    mactab_destroy(t);
}

/* So few buckets that entries have to move to their second one all the time. */
static void test_concurrent_crowded(void **state)
{
    struct mactab *t = mactab_create(600);
    uint32_t mask = t->mask;

    t->mask = C_KEYS / BUCKET_SLOTS; /* 127: 640 slots for 512 keys */
    while (t->mask & (t->mask + 1)) {
        t->mask |= t->mask >> 1;
    }
    readers_and_writers(t);
    t->mask = mask;
    mactab_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learn_and_find),
        cmocka_unit_test(test_move),
        cmocka_unit_test(test_static),
        cmocka_unit_test(test_ageing),
        cmocka_unit_test(test_ageing_wraps),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_full_table_displaces_nobody),
        cmocka_unit_test(test_holds_its_size),
        cmocka_unit_test(test_flush_selects),
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_concurrent),
        cmocka_unit_test(test_concurrent_crowded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
