/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_NAME  "ringway.pid"
#define LOCK_TRIES 10

static char *absolute(const char *path)
{
    char *out = NULL, *cwd;

    if (path[0] == '/') {
        out = strdup(path);
    } else {
        cwd = getcwd(NULL, 0);
        if (!cwd || asprintf(&out, "%s/%s", cwd, path) < 0) {
            out = NULL;
        }
        free(cwd);
    }
    for (size_t n = out ? strlen(out) : 0; n > 1 && out[n - 1] == '/'; n--) {
        out[n - 1] = 0;
    }
    return out;
}

int rundir_choose(char **out, const char *given, struct err *e)
{
    const char *env = getenv("RINGWAY_RUNDIR");
    const char *xdg = getenv("XDG_RUNTIME_DIR");

    if (given && !*given) {
        return err_set(e, -EINVAL, "the run directory is empty; give a path to --rundir");
    }
    if (!given && env && *env) {
        given = env;
    }
    if (given) {
        *out = absolute(given);
    } else if (geteuid() == 0) {
        *out = strdup("/run/ringway");
    } else if (xdg && *xdg) {
        *out = rundir_path(xdg, "ringway");
    } else {
        return err_set(
            e, -ENOENT,
            "no directory for the sockets: XDG_RUNTIME_DIR is not set; give --rundir DIR "
            "or set RINGWAY_RUNDIR");
    }
    return *out ? 0 : err_set(e, -ENOMEM, "out of memory");
}

char *rundir_path(const char *rundir, const char *name)
{
    char *out;

    return asprintf(&out, "%s/%s", rundir, name) < 0 ? NULL : out;
}

static int make_dir(const char *rundir, struct err *e)
{
    /* Of root: other users' VMs must be able to reach their sockets, which have modes of their own.
     */
    mode_t mode = geteuid() == 0 ? 0755 : 0750;
    struct stat st;

    if (mkdir(rundir, mode) == 0) {
        return chmod(rundir, mode) == 0
                   ? 0
                   : err_set(e, -errno, "cannot set the mode of %s: %s", rundir, strerror(errno));
    }
    if (errno != EEXIST) {
        int code = errno;

        return err_set(e, -code, "cannot make the run directory %s: %s%s", rundir, strerror(code),
                       code == ENOENT   ? "; make its parent first, or choose another --rundir"
                       : code == EACCES ? "; choose a --rundir in which you may write"
                                        : "");
    }
    if (stat(rundir, &st) || !S_ISDIR(st.st_mode)) {
        return err_set(e, -ENOTDIR, "%s is not a directory; choose another --rundir", rundir);
    }
    return 0;
}

static int held(int fd, const char *rundir, struct err *e)
{
    struct flock who = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char text[32] = "";
    long pid = 0;

    if (fcntl(fd, F_GETLK, &who) == 0 && who.l_type != F_UNLCK) {
        pid = who.l_pid;
    }
    /* A holder in another pid namespace has no number here; what it wrote is the next best. */
    if (pid <= 0 && pread(fd, text, sizeof(text) - 1, 0) > 0) {
        pid = strtol(text, NULL, 10);
    }
    return err_set(e, -EBUSY,
                   "process %ld (ringway) holds the run directory %s; stop it with `ringway stop "
                   "--rundir %s` or choose another --rundir",
                   pid, rundir, rundir);
}

/* The file that was locked may have been removed by the previous holder meanwhile: then the lock
 * guards nothing. */
static bool is_current(int fd, const char *path)
{
    struct stat a, b;

    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

static int lock_file(const char *path, const char *rundir, struct err *e)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    for (int i = 0; i < LOCK_TRIES; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);

        if (fd < 0) {
            return err_set(e, -errno,
                           "cannot open %s: %s; choose a --rundir in which you may write", path,
                           strerror(errno));
        }
        if (fcntl(fd, F_SETLK, &lock) < 0) {
            int rc = errno == EACCES || errno == EAGAIN
                         ? held(fd, rundir, e)
                         : err_set(e, -errno, "cannot lock %s: %s", path, strerror(errno));

            close(fd);
            return rc;
        }
        if (is_current(fd, path)) {
            return fd;
        }
        close(fd);
    }
    return err_set(e, -EBUSY, "cannot lock %s: others keep replacing it", path);
}

int rundir_lock(const char *rundir, struct err *e)
{
    int rc = make_dir(rundir, e);
    char *path = rc ? NULL : rundir_path(rundir, LOCK_NAME);
    int fd;

    if (!path) {
        return rc ? rc : err_set(e, -ENOMEM, "out of memory");
    }
    fd = lock_file(path, rundir, e);
    if (fd >= 0 && (ftruncate(fd, 0) || dprintf(fd, "%ld\n", (long)getpid()) < 0)) {
        rc = err_set(e, -errno, "cannot write %s: %s", path, strerror(errno));
        close(fd);
        fd = rc;
    }
    free(path);
    return fd;
}

void rundir_unlock(const char *rundir, int lock_fd)
{
    char *path = rundir_path(rundir, LOCK_NAME);

    /* Removed while it is still locked, so that is_current() above tells the truth. */
    if (path) {
        unlink(path);
        free(path);
    }
    close(lock_fd);
}

bool rundir_wait_free(const char *rundir, unsigned seconds)
{
    const struct timespec pause = {0, 20000000};
    char *path = rundir_path(rundir, LOCK_NAME);
    bool held_now = true;

    for (unsigned i = 0; path && held_now && i < seconds * 50; i++) {
        struct flock who = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        held_now = fd >= 0 && fcntl(fd, F_GETLK, &who) == 0 && who.l_type != F_UNLCK;
        if (fd >= 0) {
            close(fd);
        }
        if (held_now) {
            nanosleep(&pause, NULL);
        }
    }
    free(path);
    return !held_now;
}
