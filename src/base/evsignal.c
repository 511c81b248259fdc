/* SPDX-License-Identifier: Apache-2.0 */
#include "base/evsignal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BATCH 128      /* eventfds per io_submit */
#define COMPLETIONS 512 /* completions that may wait to be reaped */

struct evsignal {
    aio_context_t aio;
    int null_fd;
    unsigned n_completions; /* not yet reaped, at most */
    char sink;
    struct iocb iocb[BATCH];
    struct iocb *list[BATCH];
};

int evsignal_create(struct evsignal **out, struct err *e)
{
    struct evsignal *s = calloc(1, sizeof(*s));

    if (!s) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    s->null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (s->null_fd < 0) {
        int code = -errno;
        free(s);
        return err_set(e, code, "cannot open /dev/null: %s", strerror(-code));
    }
    if (syscall(SYS_io_setup, COMPLETIONS, &s->aio) < 0) {
        int code = -errno;
        close(s->null_fd);
        free(s);
        return err_set(e, code,
                       "io_setup: %s; ringway signals guests through Linux AIO (CONFIG_AIO; raise "
                       "fs.aio-max-nr if it is exhausted)",
                       strerror(-code));
    }
    for (unsigned i = 0; i < BATCH; i++) {
        s->iocb[i] = (struct iocb){.aio_fildes = (uint32_t)s->null_fd,
                                   .aio_lio_opcode = IOCB_CMD_PREAD,
                                   .aio_buf = (uintptr_t)&s->sink,
                                   .aio_nbytes = 1,
                                   .aio_flags = IOCB_FLAG_RESFD};
        s->list[i] = &s->iocb[i];
    }
    *out = s;
    return 0;
}

void evsignal_destroy(struct evsignal *s)
{
    if (s) {
        syscall(SYS_io_destroy, s->aio);
        close(s->null_fd);
        free(s);
    }
}

static void reap(struct evsignal *s)
{
    struct io_event ev[COMPLETIONS];

    syscall(SYS_io_getevents, s->aio, 0L, (long)COMPLETIONS, ev, NULL);
    s->n_completions = 0;
}

void evsignal_send(struct evsignal *s, const int *fd, unsigned n)
{
    while (n) {
        unsigned batch = MIN(n, (unsigned)BATCH), done = 0;

        if (s->n_completions + batch > COMPLETIONS) {
            reap(s);
        }
        for (unsigned i = 0; i < batch; i++) {
            s->iocb[i].aio_resfd = (uint32_t)fd[i];
        }
        while (done < batch) {
            long r = syscall(SYS_io_submit, s->aio, (long)(batch - done), s->list + done);

            /* An error speaks of the first one: closed or not an eventfd. Leave it out. */
            done += r > 0 ? (unsigned)r : 1;
        }
        s->n_completions += batch;
        fd += batch;
        n -= batch;
    }
}
