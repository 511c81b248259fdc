/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux AIO for unit tests in an emulator that has none (qemu-user): just what src/base/evsignal.c uses
 * of it.  Linked with --wrap=syscall, so that nothing in the program itself is another one.
 */
#include <errno.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

long __real_syscall(long nr, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long nr, ...);

/* Like the kernel: only eventfds, and one that is full stays so and blocks nobody. */
static long submit(long n, struct iocb **list)
{
    for (long i = 0; i < n; i++) {
        struct pollfd p = {.fd = (int)list[i]->aio_resfd, .events = POLLOUT};
        uint64_t one = 1;

        if (poll(&p, 1, 0) < 0 || p.revents & POLLNVAL ||
            ((p.revents & POLLOUT) && write(p.fd, &one, sizeof(one)) != sizeof(one))) {
            if (i) {
                return i;
            }
            errno = EINVAL;
            return -1;
        }
    }
    return n;
}

long __wrap_syscall(long nr, ...)
{
    long a[6];
    va_list ap;

    va_start(ap, nr);
    for (int i = 0; i < 6; i++) {
        a[i] = va_arg(ap, long);
    }
    va_end(ap);
    switch (nr) {
    case SYS_io_setup:
        *(aio_context_t *)a[1] = 1;
        return 0;
    case SYS_io_submit:
        return submit(a[1], (struct iocb **)a[2]);
    case SYS_io_getevents:
    case SYS_io_destroy:
        return 0;
    default:
        return __real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    }
}
