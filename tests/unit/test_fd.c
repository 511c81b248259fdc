/* SPDX-License-Identifier: Apache-2.0 */
/* File descriptors whose close() waits for a peer: here sockets that linger over unsent bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/fd.h"

#define LINGER_S 600
#define WAIT_S   60

static void wait_for_closers(void)
{
    uint64_t end = clock_ns() + WAIT_S * 1000000000ull;

    while (fd_discarded() && clock_ns() < end) {
        usleep(1000);
    }
    assert_int_equal(fd_discarded(), 0);
}

/* A connection whose near end waits at close() until the far end is closed. */
static int lingering(int *far)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger l = {.l_onoff = 1, .l_linger = LINGER_S};
    int listener = socket(AF_INET, SOCK_STREAM, 0), near = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t len = sizeof(a);
    static char bytes[65536];

    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(connect(near, (struct sockaddr *)&a, sizeof(a)), 0);
    *far = accept(listener, NULL, NULL);
    assert_true(*far >= 0);
    close(listener);
    assert_int_equal(setsockopt(near, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    while (send(near, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
    }
    return near;
}

static void test_close_that_waits(void **state)
{
    int far[2 * FD_CLOSERS];
    uint64_t start = clock_ns();

    for (unsigned i = 0; i < ARRAY_SIZE(far); i++) { /* more than there are threads */
        fd_discard(lingering(&far[i]));
    }
    /* However slow this machine is: one close() alone would have taken this long. */
    assert_true(clock_ns() - start < LINGER_S * 1000000000ull);
    assert_int_equal(fd_discarded(), ARRAY_SIZE(far));
    int pipes[2]; /* what cannot wait is closed meanwhile, at once */
    assert_int_equal(pipe(pipes), 0);
    fd_discard(pipes[0]);
    assert_int_equal(fcntl(pipes[0], F_GETFD), -1);
    close(pipes[1]);
    for (unsigned i = 0; i < ARRAY_SIZE(far); i++) {
        close(far[i]);
    }
    wait_for_closers();
}

static void test_closed_at_once(void **state)
{
    int s[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    const int fd[] = {memfd_create("x", 0), eventfd(0, 0), s[0], s[1], -1};

    for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
        fd_discard(fd[i]);
        assert_int_equal(fcntl(fd[i], F_GETFD), -1);
        assert_int_equal(errno, EBADF);
    }
    assert_int_equal(fd_discarded(), 0);
}

static void test_kinds(void **state)
{
    int memory = memfd_create("x", 0), event = eventfd(0, 0), disk = open("/proc/self/exe", O_RDONLY);

    assert_true(fd_is_memory(memory) && !fd_is_memory(event) && !fd_is_memory(-1));
    assert_true(fd_is_eventfd(event) && !fd_is_eventfd(memory) && !fd_is_eventfd(-1));
    fd_discard(memory);
    fd_discard(event);
    fd_discard(disk);
    wait_for_closers();
    assert_int_equal(fcntl(disk, F_GETFD), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_close_that_waits),
        cmocka_unit_test(test_closed_at_once),
        cmocka_unit_test(test_kinds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
