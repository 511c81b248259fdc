/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which queue is moved, against a search through all moves; that moving ends; and how pins are written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dp/balance.h"
#include "dp/pins.h"
#include "port/port.h"

static const int one_node[WORKER_MAX];

static double sum_of(const struct balance_queue *q, unsigned n, unsigned worker)
{
    double sum = 0;

    for (unsigned i = 0; i < n; i++) {
        sum += q[i].worker == worker ? q[i].load : 0;
    }
    return sum;
}

/* What a queue's worker is relieved by when it goes to `to`: all is counted anew. */
static double relief(const struct balance_queue *q, unsigned n, unsigned which, unsigned to)
{
    struct balance_queue moved[64];
    unsigned from = q[which].worker;

    memcpy(moved, q, n * sizeof(*q));
    moved[which].worker = to;
    return sum_of(q, n, from) - MAX(sum_of(moved, n, from), sum_of(moved, n, to));
}

static void test_moves(void **state)
{
    static const struct {
        unsigned n, workers;
        struct balance_queue q[6];
        int which, to; /* -1: none */
    } cases[] = {
        {0, 2, {{0}}, -1, 0},
        {1, 1, {{1.0, 0, false}}, -1, 0},
        {1, 2, {{1.0, 0, false}}, -1, 0}, /* alone: elsewhere it would be the same */
        {2, 2, {{0.5, 0, false}, {0.4, 0, false}}, 0, 1},
        {2, 2, {{0.5, 0, true}, {0.4, 0, false}}, 1, 1},
        {2, 2, {{0.5, 0, true}, {0.4, 0, true}}, -1, 0},
        {2, 2, {{0.5, 0, false}, {0.02, 0, false}}, -1, 0}, /* not worth it */
        {3, 2, {{0.5, 0, false}, {0.2, 0, false}, {0.6, 1, false}}, -1, 0}, /* no better anywhere */
        {4, 2, {{0.5, 0, false}, {0.3, 0, false}, {0.2, 0, false}, {0.3, 1, false}}, 1, 1},
        /* the busiest cannot be helped, the next one can */
        {4, 3, {{0.9, 0, true}, {0.3, 1, false}, {0.4, 1, false}, {0.1, 1, false}}, 2, 2},
        {3, 3, {{0.5, 0, false}, {0.5, 0, false}, {0.2, 1, false}}, 0, 2},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned which = 99, to = 99;
        bool any = balance_next(cases[i].q, cases[i].n, one_node, cases[i].workers, &which, &to);

        assert_int_equal(any, cases[i].which >= 0);
        if (any) {
            assert_int_equal(which, cases[i].which);
            assert_int_equal(to, cases[i].to);
        }
    }
}

/* Random loads: each move is worth it, none that is worth it is left out, and soon there is none. */
static void test_it_ends_balanced(void **state)
{
    srand(1);
    for (unsigned round = 0; round < 2000; round++) {
        unsigned n = 1 + (unsigned)rand() % 40, workers = 1 + (unsigned)rand() % 8, moves = 0;
        struct balance_queue q[64];
        unsigned which, to;

        for (unsigned i = 0; i < n; i++) {
            q[i] = (struct balance_queue){rand() % 100 / 100.0 * (rand() % 3 ? 0.1 : 1),
                                          (unsigned)rand() % workers, rand() % 5 == 0};
        }
        while (balance_next(q, n, one_node, workers, &which, &to)) {
            assert_false(q[which].pinned);
            assert_true(relief(q, n, which, to) >= BALANCE_LEAST - 1e-9);
            q[which].worker = to;
            assert_true(moves++ < 200);
        }
        for (unsigned i = 0; i < n; i++) {
            for (unsigned w = 0; w < workers && !q[i].pinned; w++) {
                assert_true(relief(q, n, i, w) < BALANCE_LEAST + 1e-9);
            }
        }
    }
}

static void test_pins(void **state)
{
    static const char *const bad[] = {"",      "0",      ":",     "0:",     "0:1+",    "+0:1",
                                      "0:1++", "0:1+ ",  "a:0",   "0:a",    "0:-1",    "128:0",
                                      "0:64",  "0:0+0:1", "0:1,1:0", "None", "0:1+none",
                                      "99999999999999999999:0"};
    struct err e;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_not_equal(pins_check(bad[i], &e), 0);
    }
    assert_int_equal(pins_check("none", &e), 0);
    assert_int_equal(pins_check("127:63", &e), 0);
    assert_int_equal(pins_check("3:0+0:1", &e), 0);
    assert_int_equal(pins_find("3:0+0:1", 0), 1);
    assert_int_equal(pins_find("3:0+0:1", 3), 0);
    assert_int_equal(pins_find("3:0+0:1", 1), -1);
    assert_int_equal(pins_find("none", 0), -1);
    assert_int_equal(pins_find(NULL, 0), -1);
    assert_int_equal(pins_max_worker("3:0+0:7+1:2"), 7);
    assert_int_equal(pins_max_worker(NULL), -1);
}

static void test_pins_change(void **state)
{
    static const struct {
        unsigned queue;
        int worker;
        const char *then;
    } steps[] = {{3, 1, "3:1"},   {0, 63, "0:63+3:1"}, {3, 2, "0:63+3:2"},
                 {9, -1, "0:63+3:2"}, {0, -1, "3:2"},  {3, -1, "none"}, {127, 0, "127:0"}};
    char *pins = NULL;
    struct err e;

    for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
        char *then = pins_with(pins, steps[i].queue, steps[i].worker);

        assert_string_equal(then, steps[i].then);
        assert_int_equal(pins_check(then, &e), 0);
        free(pins);
        pins = then;
    }
    for (unsigned q = 0; q < PINS_QUEUES; q++) { /* as long as it can be */
        char *then = pins_with(pins, q, 63);

        free(pins);
        pins = then;
    }
    assert_int_equal(pins_check(pins, &e), 0);
    assert_int_equal(pins_find(pins, 127), 63);
    free(pins);
}

/* A machine with two nodes: workers 0, 1 on the first, 2, 3 on the second, 4 not pinned. */
static const int two_nodes[] = {0, 0, 1, 1, -1};

static void test_first_worker(void **state)
{
    static const struct {
        unsigned queues[5];
        int node;
        unsigned want;
    } cases[] = {
        {{0, 0, 0, 0, 0}, -1, 0}, /* not known: the fewest queues */
        {{3, 2, 1, 4, 5}, -1, 2},
        {{0, 0, 0, 0, 0}, 1, 2}, /* the node of the memory first */
        {{0, 0, 9, 8, 0}, 1, 3},
        {{7, 6, 0, 0, 0}, 0, 1},
        {{1, 2, 0, 3, 4}, 5, 2}, /* nobody is there */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct balance_worker w[5];

        for (unsigned k = 0; k < 5; k++) {
            w[k] = (struct balance_worker){cases[i].queues[k], two_nodes[k]};
        }
        assert_int_equal(balance_first(w, 5, cases[i].node), cases[i].want);
    }
}

/* Queues stay on the node of their memory, however idle the other one is. */
static void test_moves_within_a_node(void **state)
{
    struct balance_queue q[] = {{0.4, 0, false}, {0.4, 0, false}, {0.1, 1, false}};
    unsigned which, to;

    assert_true(balance_next(q, 3, two_nodes, 5, &which, &to));
    assert_int_equal(to, 1); /* not 2, 3 or 4, which do nothing */
    q[which].worker = to;
    assert_false(balance_next(q, 3, two_nodes, 5, &which, &to));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moves),
        cmocka_unit_test(test_it_ends_balanced),
        cmocka_unit_test(test_first_worker),
        cmocka_unit_test(test_moves_within_a_node),
        cmocka_unit_test(test_pins),
        cmocka_unit_test(test_pins_change),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
