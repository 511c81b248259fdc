/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How each switch is started.  Options are the defaults of production use; docs/performance.md
 * lists them.  Every process is our child, in a process group of its own (Ctrl-C is for us to
 * handle) and dies with us.
 */
#include "bench/peers.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_PROCS         2
#define MAX_PORTS         128
#define MAX_ARGS          (MAX_PORTS + 64)
#define START_MS          60000
#define STOP_MS           5000
#define OVS_VSWITCHD      "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
#define OVS_SCHEMA        "/usr/share/openvswitch/vswitch.ovsschema"
#define NR_HUGEPAGES      "/proc/sys/vm/nr_hugepages"
#define FREE_HUGEPAGES    "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
#define OVS_MEGABYTES     1024 /* its default for a NUMA node */
#define TESTPMD_MEGABYTES 768

struct peer {
    struct peer_conf c;
    char dir[64];
    char log[96];
    char *socket[MAX_PORTS];
    pid_t pid[MAX_PROCS]; /* the last one switches */
    unsigned n_pid;
    int stdin_fd; /* testpmd ends when its input does */
};

static const char *const kind_name[PEER_N_KINDS] = {"ringway", "ovs-dpdk", "testpmd", "limit"};

const char *peer_kind_name(enum peer_kind k)
{
    return kind_name[k];
}

int peer_kind_parse(const char *name)
{
    for (int i = 0; i < PEER_N_KINDS; i++) {
        if (!strcmp(name, kind_name[i])) {
            return i;
        }
    }
    return -1;
}

static void sleep_ms(unsigned ms)
{
    struct timespec ts = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&ts, NULL);
}

/* ---- argument lists ---- */

struct args {
    char *v[MAX_ARGS + 1];
    unsigned n;
};

static void add(struct args *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void add(struct args *a, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (a->n < MAX_ARGS && vasprintf(&a->v[a->n], fmt, ap) > 0) {
        a->n++;
    }
    va_end(ap);
}

static void args_free(struct args *a)
{
    while (a->n) {
        free(a->v[--a->n]);
    }
    memset(a, 0, sizeof(*a));
}

/* ---- processes ---- */

struct spawn {
    const struct args *args;
    const char *log;
    const char *ovs_dir; /* environment of OVS programs; NULL */
    int stdin_fd;        /* -1: /dev/null */
    bool own_net;        /* interfaces that it makes are its own */
};

static void child(const struct spawn *s, pid_t parent)
{
    sigset_t none;
    cpu_set_t all;
    int log = open(s->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int in = s->stdin_fd >= 0 ? s->stdin_fd : open("/dev/null", O_RDONLY | O_CLOEXEC);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || log < 0 || in < 0) {
        _exit(127);
    }
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    /* We may be pinned already; the switch decides about itself. */
    memset(&all, 0xff, sizeof(all));
    sched_setaffinity(0, sizeof(all), &all);
    dup2(in, 0);
    dup2(log, 1);
    dup2(log, 2);
    if (s->ovs_dir) {
        setenv("OVS_RUNDIR", s->ovs_dir, 1);
        setenv("OVS_LOGDIR", s->ovs_dir, 1);
        setenv("OVS_DBDIR", s->ovs_dir, 1);
    }
    if (s->own_net && unshare(CLONE_NEWNET)) {
        dprintf(2, "cannot make a network namespace: %s\n", strerror(errno));
        _exit(127);
    }
    execvp(s->args->v[0], s->args->v);
    dprintf(2, "cannot run %s: %s\n", s->args->v[0], strerror(errno));
    _exit(127);
}

static int spawn(const struct spawn *s, pid_t *pid, struct err *e)
{
    pid_t parent = getpid();

    fflush(NULL);
    *pid = fork();
    if (*pid == 0) {
        child(s, parent);
    }
    return *pid < 0 ? err_set(e, -errno, "cannot start %s: %s", s->args->v[0], strerror(errno)) : 0;
}

/* Waits until pid ended; false after ms. */
static bool reap(pid_t pid, unsigned ms, int *status)
{
    for (unsigned waited = 0;; waited += 5) {
        pid_t r = waitpid(pid, status, WNOHANG);

        if (r == pid || (r < 0 && errno == ECHILD)) {
            return true;
        }
        if (waited >= ms) {
            return false;
        }
        sleep_ms(5);
    }
}

static void end_process(pid_t pid)
{
    int status;

    kill(pid, SIGCONT);
    kill(pid, SIGTERM);
    if (!reap(pid, STOP_MS, &status)) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
}

/* The last lines of a log, for an error message. */
static int err_log(struct peer *p, int code, const char *what, struct err *e)
{
    char tail[260] = "";
    FILE *f = fopen(p->log, "r");

    if (f) {
        fseek(f, 0, SEEK_END);
        fseek(f, MAX(ftell(f) - (long)sizeof(tail) + 1, 0L), SEEK_SET);
        tail[fread(tail, 1, sizeof(tail) - 1, f)] = 0;
        fclose(f);
    }
    for (char *c = tail; *c; c++) {
        *c = *c == '\n' ? ' ' : *c;
    }
    return err_set(e, code, "%s: %s; its log ends: %s", kind_name[p->c.kind], what, tail);
}

/* Run a helper program to its end. */
static int run_tool(struct peer *p, const struct args *a, struct err *e)
{
    struct spawn s = {.args = a, .log = p->log, .ovs_dir = p->dir, .stdin_fd = -1};
    pid_t pid;
    int status = -1, r = spawn(&s, &pid, e);

    if (r) {
        return r;
    }
    if (!reap(pid, START_MS, &status)) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        return err_log(p, -ETIMEDOUT, a->v[0], e);
    }
    return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : err_log(p, -EIO, a->v[0], e);
}

static int keep(struct peer *p, const struct spawn *s, struct err *e)
{
    int r = spawn(s, &p->pid[p->n_pid], e);

    p->n_pid += !r;
    return r;
}

int peer_check(struct peer *p, struct err *e)
{
    int status;

    for (unsigned i = 0; i < p->n_pid; i++) {
        if (waitpid(p->pid[i], &status, WNOHANG) == p->pid[i]) {
            p->pid[i] = p->pid[--p->n_pid];
            return err_log(p, -ECHILD, "it ended", e);
        }
    }
    return 0;
}

static int wait_for(struct peer *p, const char *path, struct err *e)
{
    for (unsigned ms = 0; access(path, F_OK); ms += 10) {
        int r = peer_check(p, e);

        if (r) {
            return r;
        }
        if (ms > START_MS) {
            return err_log(p, -ETIMEDOUT, "its socket did not appear", e);
        }
        sleep_ms(10);
    }
    return 0;
}

/* ---- hugepages ---- */

static long huge_before = -1;

static long read_long(const char *path)
{
    FILE *f = fopen(path, "r");
    long v = -1;

    if (f) {
        if (fscanf(f, "%ld", &v) != 1) {
            v = -1;
        }
        fclose(f);
    }
    return v;
}

static bool write_long(const char *path, long v)
{
    FILE *f = fopen(path, "w");

    return f && fprintf(f, "%ld\n", v) > 0 && !fclose(f);
}

int peer_hugepages_take(unsigned megabytes, struct err *e)
{
    long want = megabytes / 2, now = read_long(NR_HUGEPAGES), unused = read_long(FREE_HUGEPAGES);

    if (now < 0 || unused < 0) {
        return err_set(e, -ENOSYS, "this kernel has no hugepages of 2 MiB");
    }
    if (unused >= want) {
        return 0;
    }
    if (geteuid()) {
        return err_set(e, -EPERM, "hugepages can only be taken by root: run the bench as root");
    }
    huge_before = huge_before < 0 ? now : huge_before;
    want += now - unused;
    if (!write_long(NR_HUGEPAGES, want) || read_long(NR_HUGEPAGES) < want) {
        return err_set(e, -ENOMEM, "cannot take %ld hugepages of 2 MiB: free some memory first",
                       want - now);
    }
    return 0;
}

void peer_hugepages_give_back(void)
{
    if (huge_before >= 0) {
        write_long(NR_HUGEPAGES, huge_before);
        huge_before = -1;
    }
}

/* ---- ringway ---- */

static int start_ringway(struct peer *p, struct err *e)
{
    struct args a = {0};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    int r = 0;

    self[MAX(n, 0)] = 0;
    add(&a, "%s", p->c.program ? p->c.program : self);
    add(&a, "run");
    add(&a, "--rundir");
    add(&a, "%s", p->dir);
    add(&a, "--workers");
    add(&a, "%d", p->c.switch_cpu);
    for (unsigned i = 0; i < p->c.n_ports; i++) {
        add(&a, "p%u%s", i, p->c.port ? p->c.port[i % 2] : "");
    }
    r = keep(p, &(struct spawn){.args = &a, .log = p->log, .stdin_fd = -1}, e);
    args_free(&a);
    for (unsigned i = 0; i < p->c.n_ports && !r; i++) {
        r = wait_for(p, p->socket[i], e);
    }
    return r;
}

/* ---- testpmd ---- */

static int start_testpmd(struct peer *p, struct err *e)
{
    struct args a = {0};
    int pipe_fd[2], cpu = p->c.switch_cpu, r;

    if (access("/usr/bin/dpdk-testpmd", X_OK)) {
        return err_set(e, -ENOENT, "dpdk-testpmd is not installed: apt install dpdk-dev");
    }
    if (geteuid()) {
        add(&a, "dpdk-testpmd");
        add(&a, "--no-huge");
        add(&a, "-m");
        add(&a, "%d", TESTPMD_MEGABYTES);
    } else if ((r = peer_hugepages_take(TESTPMD_MEGABYTES, e))) {
        return r;
    } else {
        add(&a, "dpdk-testpmd");
        add(&a, "--in-memory");
    }
    add(&a, "--no-pci");
    add(&a, "--file-prefix=ringway-bench-%d", (int)getpid());
    add(&a, "--lcores=0@(0-%ld),1@%d", sysconf(_SC_NPROCESSORS_ONLN) - 1, cpu);
    for (unsigned i = 0; i < p->c.n_ports; i++) {
        add(&a, "--vdev=net_vhost%u,iface=%s%s", i, p->socket[i], p->c.vdev ? p->c.vdev : "");
    }
    add(&a, "--");
    add(&a, "--forward-mode=io");
    add(&a, "--auto-start");
    if (pipe2(pipe_fd, O_CLOEXEC)) {
        args_free(&a);
        return err_set(e, -errno, "no pipe");
    }
    p->stdin_fd = pipe_fd[1];
    r = keep(p, &(struct spawn){.args = &a, .log = p->log, .stdin_fd = pipe_fd[0]}, e);
    close(pipe_fd[0]);
    args_free(&a);
    for (unsigned i = 0; i < p->c.n_ports && !r; i++) {
        r = wait_for(p, p->socket[i], e);
    }
    return r;
}

/* ---- OVS-DPDK ---- */

static void vsctl(struct peer *p, struct args *a)
{
    add(a, "ovs-vsctl");
    add(a, "--db=unix:%s/db.sock", p->dir);
    add(a, "--timeout=60");
}

static int ovs_database(struct peer *p, struct err *e)
{
    struct args a = {0};
    char sock[96];
    int r;

    snprintf(sock, sizeof(sock), "%s/db.sock", p->dir);
    add(&a, "ovsdb-tool");
    add(&a, "create");
    add(&a, "%s/conf.db", p->dir);
    add(&a, OVS_SCHEMA);
    r = run_tool(p, &a, e);
    args_free(&a);
    if (r) {
        return r;
    }
    add(&a, "ovsdb-server");
    add(&a, "%s/conf.db", p->dir);
    add(&a, "--remote=punix:%s", sock);
    add(&a, "--unixctl=%s/db.ctl", p->dir);
    r = keep(p, &(struct spawn){.args = &a, .log = p->log, .ovs_dir = p->dir, .stdin_fd = -1}, e);
    args_free(&a);
    r = r ? r : wait_for(p, sock, e);
    if (r) {
        return r;
    }
    vsctl(p, &a);
    add(&a, "--no-wait");
    add(&a, "set");
    add(&a, "Open_vSwitch");
    add(&a, ".");
    add(&a, "other_config:dpdk-init=true");
    add(&a, "other_config:dpdk-socket-mem=%d", OVS_MEGABYTES);
    add(&a, "other_config:pmd-cpu-mask=0x%llx", 1ull << p->c.switch_cpu);
    r = run_tool(p, &a, e);
    args_free(&a);
    return r;
}

static int ovs_ports(struct peer *p, struct err *e)
{
    struct args a = {0};

    vsctl(p, &a);
    add(&a, "add-br");
    add(&a, "rwbench");
    add(&a, "--");
    add(&a, "set");
    add(&a, "bridge");
    add(&a, "rwbench");
    add(&a, "datapath_type=netdev");
    int r = run_tool(p, &a, e);
    args_free(&a);
    for (unsigned i = 0; i < p->c.n_ports && !r; i++) {
        vsctl(p, &a);
        add(&a, "add-port");
        add(&a, "rwbench");
        add(&a, "v%u", i);
        add(&a, "--");
        add(&a, "set");
        add(&a, "Interface");
        add(&a, "v%u", i);
        add(&a, "type=dpdkvhostuserclient");
        add(&a, "options:vhost-server-path=%s", p->socket[i]);
        r = run_tool(p, &a, e);
        args_free(&a);
    }
    return r;
}

static int start_ovs(struct peer *p, struct err *e)
{
    struct args a = {0};
    int r;

    if (access(OVS_VSWITCHD, X_OK) || access(OVS_SCHEMA, R_OK)) {
        return err_set(e, -ENOENT,
                       "OVS-DPDK is not installed: apt install openvswitch-switch-dpdk");
    }
    if (geteuid()) {
        return err_set(e, -EPERM, "OVS-DPDK needs hugepages and a TAP device: run as root");
    }
    r = peer_hugepages_take(OVS_MEGABYTES + 64, e);
    r = r ? r : ovs_database(p, e);
    if (r) {
        return r;
    }
    add(&a, OVS_VSWITCHD);
    add(&a, "unix:%s/db.sock", p->dir);
    add(&a, "--unixctl=%s/vs.ctl", p->dir);
    r = keep(p,
             &(struct spawn){
                 .args = &a, .log = p->log, .ovs_dir = p->dir, .stdin_fd = -1, .own_net = true},
             e);
    args_free(&a);
    return r ? r : ovs_ports(p, e);
}

/* ---- all ---- */

int peer_start(struct peer **out, const struct peer_conf *c, struct err *e)
{
    static int (*const start[PEER_N_KINDS])(struct peer *,
                                            struct err *) = {[PEER_RINGWAY] = start_ringway,
                                                             [PEER_OVS_DPDK] = start_ovs,
                                                             [PEER_TESTPMD] = start_testpmd};
    struct peer *p = calloc(1, sizeof(*p));

    if (!p || c->n_ports > MAX_PORTS) {
        free(p);
        return err_set(e, -ENOMEM, "no memory, or more than %d ports", MAX_PORTS);
    }
    p->c = *c;
    p->stdin_fd = -1;
    strcpy(p->dir, "/tmp/ringway-bench-XXXXXX");
    if (!mkdtemp(p->dir)) {
        free(p);
        return err_set(e, -errno, "cannot make a directory in /tmp: %s", strerror(errno));
    }
    snprintf(p->log, sizeof(p->log), "%s/log", p->dir);
    for (unsigned i = 0; i < c->n_ports; i++) {
        if (asprintf(&p->socket[i], "%s/p%u.sock", p->dir, i) < 0) {
            p->socket[i] = NULL;
        }
    }
    int r = start[c->kind] ? start[c->kind](p, e) : -EINVAL;
    if (r) {
        peer_stop(p);
        return r;
    }
    *out = p;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void peer_stop(struct peer *p)
{
    if (!p) {
        return;
    }
    if (p->stdin_fd >= 0) {
        close(p->stdin_fd);
    }
    while (p->n_pid) {
        end_process(p->pid[--p->n_pid]);
    }
    nftw(p->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    for (unsigned i = 0; i < p->c.n_ports; i++) {
        free(p->socket[i]);
    }
    free(p);
}

const char *const *peer_sockets(const struct peer *p)
{
    return (const char *const *)p->socket;
}

bool peer_dials(const struct peer *p)
{
    return p->c.kind == PEER_OVS_DPDK;
}

void peer_hold(struct peer *p)
{
    for (unsigned i = 0; p && i < p->n_pid; i++) {
        kill(p->pid[i], SIGSTOP);
    }
}

void peer_go(struct peer *p)
{
    for (unsigned i = 0; p && i < p->n_pid; i++) {
        kill(p->pid[i], SIGCONT);
    }
}

pid_t peer_pid(const struct peer *p)
{
    return p->n_pid ? p->pid[p->n_pid - 1] : 0;
}
