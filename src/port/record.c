/* SPDX-License-Identifier: Apache-2.0 */
#include "port/record.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "port/capture.h"
#include "port/pcapng.h"

/* What one worker writes to. */
struct record_worker {
    struct capture_out out;
    struct record *record;
    uint64_t time_ns; /* of the frames of this call, 0: not asked for yet */
    bool due;
} CACHE_ALIGNED;

struct record {
    struct port *port;
    struct capture_mem mem;
    struct record_worker *worker;
    struct capture_reader reader; /* the thread's, and the file */
    FILE *file;
    int eventfd;
    pthread_t thread;
    bool started;
    int error;         /* written by the thread (relaxed) */
    uint64_t n_frames; /* the same */
};

/* ---- worker --------------------------------------------------------------------------------------- */

enum drop record_frame(struct record *r, struct wctx *w, const struct pkt *k)
{
    struct record_worker *rw = &r->worker[w->id];
    struct capture_rec rec = {
        .dir = CAPTURE_OUT, .why = CAPTURE_NO_DROP, .n = 1, .cap_len = k->len};

    if (unlikely(read_once(&r->error))) {
        return DROP_TX_ERROR;
    }
    if (!rw->time_ns) {
        rw->time_ns = clock_wall_ns();
    }
    rec.time_ns = rw->time_ns;
    return capture_push(&rw->out, rec, k, NULL) ? DROP_N : DROP_TX_FULL;
}

/* End of the round, after a full fence: does the thread sleep? */
static void tell_thread(void *arg, struct wctx *w)
{
    struct record_worker *rw = arg;

    rw->due = false;
    if (capture_wants_signal(rw->record->mem.head)) {
        wctx_signal(w, rw->record->eventfd);
    }
}

void record_publish(struct record *r, struct wctx *w)
{
    struct record_worker *rw = &r->worker[w->id];

    rw->time_ns = 0;
    if (!capture_unpublished(&rw->out)) {
        return;
    }
    capture_publish(&rw->out);
    if (!rw->due) {
        rw->due = true;
        wctx_defer(w, tell_thread, rw);
    }
}

/* ---- the thread ----------------------------------------------------------------------------------- */

/* Frames are taken also after an error, so that workers need not know how full it is. */
static void fail(struct record *r, int rc)
{
    write_once(&r->error, -rc);
    r->port->env->post(r->port->env->ctx, r->port);
}

static void write_all(struct record *r)
{
    struct capture_rec rec;
    const uint8_t *bytes;

    while (capture_peek(&r->reader, &rec, &bytes) > 0) {
        int rc = r->error ? 0 : pcapng_frame(r->file, &rec, bytes, NULL);

        capture_next(&r->reader);
        if (rc) {
            fail(r, rc);
        }
        write_once(&r->n_frames, r->n_frames + !r->error);
    }
    if (!r->error && fflush(r->file)) {
        fail(r, -errno);
    }
}

static void *record_main(void *arg)
{
    struct record *r = arg;
    struct pollfd fd = {.fd = r->eventfd, .events = POLLIN};
    uint64_t count;

    for (;;) {
        bool last = capture_ended(&r->reader) != CAPTURE_RUNS; /* asked before the last look */

        write_all(r);
        if (last) {
            break;
        }
        if (!capture_arm(&r->reader)) {
            poll(&fd, 1, -1);
        }
        capture_disarm(&r->reader);
        (void)!read(r->eventfd, &count, sizeof(count));
    }
    if (!r->error && (pcapng_end(r->file, clock_wall_ns(), r->n_frames, capture_lost(&r->reader)) ||
                      fflush(r->file))) {
        write_once(&r->error, errno); /* the port is going: who ends it is told */
    }
    return NULL;
}

/* ---- control thread ------------------------------------------------------------------------------- */

/* What may be overwritten: who controls the switch need not be its user, nor mean this file. */
static bool is_ours(int fd, const struct stat *st)
{
    uint32_t magic = 0;

    return !st->st_size || (pread(fd, &magic, sizeof(magic), 0) == sizeof(magic) &&
                            magic == PCAPNG_MAGIC);
}

static int open_file(struct record *r, const char *path, struct err *e)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0666);
    int code = fd < 0 || fstat(fd, &st) ? errno : 0;

    if (!code && !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, -EINVAL, "%s is not a file; for a pipe there is ringway capture -w -", path);
    }
    if (!code && !is_ours(fd, &st)) {
        close(fd);
        return err_set(e, -EEXIST, "%s exists and is no pcapng file; remove it or name another", path);
    }
    if (!code && (ftruncate(fd, 0) || !(r->file = fdopen(fd, "w")))) {
        code = errno;
    }
    if (code) {
        if (fd >= 0) {
            close(fd);
        }
        return err_set(e, -code, "cannot write %s: %s", path, strerror(code));
    }
    if (pcapng_begin(r->file, r->port->name, NULL, CAPTURE_SNAPLEN) || fflush(r->file)) {
        return err_set(e, -EIO, "cannot write %s: %s", path, strerror(errno));
    }
    return 0;
}

static int start_thread(struct record *r, struct err *e)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all); /* signals are for the control thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&r->thread, NULL, record_main, r);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        return err_set(e, -rc, "cannot start a thread: %s", strerror(rc));
    }
    pthread_setname_np(r->thread, "rw-record");
    r->started = true;
    return 0;
}

int record_create(struct record **out, struct port *p, const char *path, struct err *e)
{
    unsigned n = p->env->n_workers;
    struct record *r = calloc(1, sizeof(*r));

    if (!r) {
        return err_set(e, -ENOMEM, "out of memory");
    }
    r->port = p;
    r->mem = CAPTURE_MEM_NONE;
    r->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    r->worker = aligned_alloc(CACHE_LINE, n * sizeof(*r->worker));

    int rc = r->eventfd < 0 ? err_set(e, -errno, "eventfd: %s", strerror(errno))
             : !r->worker   ? err_set(e, -ENOMEM, "out of memory")
                            : capture_mem_create(&r->mem, n, CAPTURE_RING_DEFAULT, e);

    rc = rc ? rc : capture_reader_init(&r->reader, r->mem.head, r->mem.bytes, e);
    for (unsigned i = 0; !rc && i < n; i++) {
        r->worker[i] = (struct record_worker){.record = r};
        capture_out_init(&r->worker[i].out, &r->mem, i);
    }
    rc = rc ? rc : open_file(r, path, e);
    rc = rc ? rc : start_thread(r, e);
    if (rc) {
        record_destroy(r);
        return rc;
    }
    *out = r;
    return 0;
}

int record_destroy(struct record *r)
{
    if (r->started) {
        store_release(&r->mem.head->ended, (uint32_t)CAPTURE_PORT_GONE);
        (void)!write(r->eventfd, &(uint64_t){1}, sizeof(uint64_t)); /* ours, non-blocking */
        pthread_join(r->thread, NULL);
    }
    int error = r->error;

    if (r->file && fclose(r->file) && !error) {
        error = errno;
    }
    if (r->eventfd >= 0) {
        close(r->eventfd);
    }
    capture_mem_free(&r->mem);
    free(r->worker);
    free(r);
    return error;
}

int record_error(const struct record *r)
{
    return read_once(&r->error);
}

uint64_t record_frames(const struct record *r)
{
    return read_once(&r->n_frames);
}
