/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fd.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/compiler.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static struct {
    int *fd; /* a stack: whose order does not matter */
    unsigned n, room;
    unsigned n_threads, n_idle, n_busy;
} trash;

/* Only tmpfs and hugetlbfs have seals, also where nobody has set one. */
bool fd_is_memory(int fd)
{
    return fcntl(fd, F_GET_SEALS) >= 0;
}

bool fd_is_eventfd(int fd)
{
    static const char want[] = "anon_inode:[eventfd]";
    char link[64], is[sizeof(want) + 1];

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, is, sizeof(is));

    return n == (ssize_t)sizeof(want) - 1 && !memcmp(is, want, sizeof(want) - 1);
}

static bool closes_at_once(int fd)
{
    int domain;
    socklen_t len = sizeof(domain);
    struct statx st;

    if (fd_is_memory(fd) || fd_is_eventfd(fd)) {
        return true;
    }
    if (!getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len)) {
        return domain == AF_UNIX;
    }
    return !statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) && S_ISFIFO(st.stx_mode);
}

static void *closer(void *arg)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!trash.n) {
            trash.n_idle++;
            pthread_cond_wait(&more, &lock);
            trash.n_idle--;
        }
        int fd = trash.fd[--trash.n];

        trash.n_busy++;
        pthread_mutex_unlock(&lock);
        close(fd);
        pthread_mutex_lock(&lock);
        trash.n_busy--;
    }
    return NULL;
}

/* Holds the lock. A thread more, if all are busy and there may be one. */
static void start_closer(void)
{
    pthread_attr_t attr;
    pthread_t t;

    if (trash.n_idle >= trash.n || trash.n_threads == FD_CLOSERS) {
        return;
    }
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (!pthread_create(&t, &attr, closer, NULL)) {
        trash.n_threads++;
        pthread_setname_np(t, "rw-closer");
    }
    pthread_attr_destroy(&attr);
}

void fd_discard(int fd)
{
    if (fd < 0) {
        return;
    }
    if (closes_at_once(fd)) {
        close(fd);
        return;
    }
    pthread_mutex_lock(&lock);
    if (trash.n == trash.room) {
        unsigned room = MAX(trash.room * 2, 64u);
        int *p = realloc(trash.fd, room * sizeof(*p));

        if (p) {
            trash.fd = p;
            trash.room = room;
        }
    }
    if (trash.n < trash.room) {
        trash.fd[trash.n++] = fd;
        start_closer();
        pthread_cond_signal(&more);
    } /* else: out of memory, it stays open; that is less bad than to wait */
    pthread_mutex_unlock(&lock);
}

unsigned fd_discarded(void)
{
    pthread_mutex_lock(&lock);
    unsigned n = trash.n + trash.n_busy;
    pthread_mutex_unlock(&lock);
    return n;
}
