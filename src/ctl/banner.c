/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lines to paste.  They are exact: the guest's memory is shared (a vhost-user port cannot work
 * otherwise), the ring size is the largest that QEMU has, and the VM comes back by itself after a
 * restart of the switch.  The word for that changed: reconnect=SECONDS until QEMU 9.1,
 * reconnect-ms=MILLISECONDS since 9.2; -netdev stream has had it since QEMU 8.0.
 */
#include "ctl/banner.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/text.h"
#include "ctl/conf.h"
#include "ctl/rundir.h"

#define QEMU_BINARY "qemu-system-x86_64"
#define QEMU_WAIT_S 5 /* one that hangs must not keep the lines back */

struct banner {
    const struct dp *dp;
    char *rundir;
    bool libvirt;
    pid_t pid; /* of the QEMU that was asked, 0: none */
    int fd;    /* what it says */
    char text[256];
    size_t len;
    struct event *said;
};

struct qemu_version qemu_parse_version(const char *text)
{
    struct qemu_version v = {0};
    const char *p = strstr(text, "version ");

    if (!p || sscanf(p, "version %u.%u", &v.major, &v.minor) != 2) {
        v = (struct qemu_version){0};
    }
    return v;
}

void banner_mac(const char *port_name, uint8_t mac[6])
{
    uint32_t h = 2166136261u; /* FNV-1a: the same everywhere and for ever */

    for (const char *p = port_name; *p; p++) {
        h = (h ^ (uint8_t)*p) * 16777619u;
    }
    mac[0] = 0x52; /* locally administered, unicast */
    mac[1] = 0x54;
    for (int i = 0; i < 4; i++) {
        mac[2 + i] = (uint8_t)(h >> (8 * i));
    }
}

/* A word for QEMU's option parser (commas doubled) and the shell (quoted when needed). */
static void put_qemu_path(FILE *f, const char *path)
{
    for (const char *p = path; *p; p++) {
        if (*p == ',') {
            fputs(",,", f);
        } else if (strchr("\\'\" \t\n$`&|;<>()*?[]#~!{}", *p)) {
            fprintf(f, "\\%c", *p);
        } else {
            fputc(*p, f);
        }
    }
}

struct plug {
    const char *name;
    const char *path; /* of the socket */
    const char *peer; /* qemu-dgram: QEMU's own */
    const char *mtu;  /* NULL: not said */
    unsigned queues;  /* pairs; 1 if not said */
    bool qemu_listens;
    char mac[18];
};

static bool has_reconnect_ms(struct qemu_version q)
{
    return q.major == 0 || q.major > 9 || (q.major == 9 && q.minor >= 2);
}

static void put_qemu(FILE *f, const struct plug *p, struct qemu_version q)
{
    fputs("  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on "
          "-machine memory-backend=mem \\\n",
          f);
    fprintf(f, "    -chardev socket,id=chr-%s,path=", p->name);
    put_qemu_path(f, p->path);
    fprintf(f, ",%s \\\n",
            p->qemu_listens       ? "server=on,wait=off"
            : has_reconnect_ms(q) ? "reconnect-ms=1000"
                                  : "reconnect=1");
    fprintf(f, "    -netdev vhost-user,id=net-%s,chardev=chr-%s", p->name, p->name);
    if (p->queues > 1) {
        fprintf(f, ",queues=%u", p->queues);
    }
    fputs(" \\\n", f);
    fprintf(f,
            "    -device virtio-net-pci,netdev=net-%s,mac=%s,rx_queue_size=1024,tx_queue_size=1024",
            p->name, p->mac);
    if (p->mtu) {
        fprintf(f, ",host_mtu=%s", p->mtu);
    }
    if (p->queues > 1) {
        /* one interrupt per ring, one for the control queue and one for the configuration */
        fprintf(f, ",mq=on,vectors=%u", 2 * p->queues + 2);
    }
    fputs("\n", f);
}

/* A card that QEMU emulates, behind one of its own netdevs: e1000 is what any system has a driver for. */
static void put_card(FILE *f, const struct plug *p)
{
    fprintf(f, " \\\n    -device e1000,netdev=net-%s,mac=%s\n", p->name, p->mac);
}

static void put_qemu_stream(FILE *f, const struct plug *p, struct qemu_version q)
{
    fprintf(f, "  qemu-system-x86_64 -m 1G -netdev stream,id=net-%s,server=%s,addr.type=unix,addr.path=",
            p->name, p->qemu_listens ? "on" : "off");
    put_qemu_path(f, p->path);
    if (!p->qemu_listens && q.major != 7) {
        fputs(has_reconnect_ms(q) ? ",reconnect-ms=1000" : ",reconnect=1", f);
    }
    put_card(f, p);
}

static void put_qemu_dgram(FILE *f, const struct plug *p, struct qemu_version q)
{
    fprintf(f, "  qemu-system-x86_64 -m 1G -netdev dgram,id=net-%s,local.type=unix,local.path=", p->name);
    put_qemu_path(f, p->peer);
    fputs(",remote.type=unix,remote.path=", f);
    put_qemu_path(f, p->path);
    put_card(f, p);
}

static void put_xml_text(FILE *f, const char *s)
{
    for (; *s; s++) {
        switch (*s) {
        case '&':
            fputs("&amp;", f);
            break;
        case '<':
            fputs("&lt;", f);
            break;
        case '\'':
            fputs("&apos;", f);
            break;
        default:
            fputc(*s, f);
        }
    }
}

static void put_libvirt(FILE *f, const struct plug *p)
{
    fprintf(f, "  <interface type='vhostuser'>\n    <mac address='%s'/>\n", p->mac);
    fputs("    <source type='unix' path='", f);
    put_xml_text(f, p->path);
    if (p->qemu_listens) {
        fputs("' mode='server'/>\n", f);
    } else {
        fputs("' mode='client'>\n      <reconnect enabled='yes' timeout='1'/>\n    </source>\n", f);
    }
    fputs("    <model type='virtio'/>\n", f);
    if (p->mtu) {
        fprintf(f, "    <mtu size='%s'/>\n", p->mtu);
    }
    fputs("    <driver rx_queue_size='1024' tx_queue_size='1024'", f);
    if (p->queues > 1) {
        fprintf(f, " queues='%u'", p->queues);
    }
    fputs("/>\n  </interface>\n", f);
}

static void put_intro(FILE *f, bool libvirt, struct qemu_version qemu)
{
    if (libvirt) {
        fputs("Every domain needs shared memory:\n"
              "  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>\n",
              f);
    } else if (qemu.major == 0) {
        fputs("No qemu-system-x86_64 was found in PATH: these lines are for QEMU 9.2 and later; "
              "for an older one write reconnect=1 instead of reconnect-ms=1000.\n",
              f);
    } else if (qemu.major == 7) {
        fputs("Without -accel kvm add ,vectors=0 to each -device: QEMU 7.2 crashes under TCG when a "
              "guest starts a vhost-user card that has MSI-X.\n",
              f);
    }
}

static void no_libvirt(FILE *f, const struct plug *p)
{
    fprintf(f, "  libvirt has no word for this kind of port: give the domain QEMU's own arguments "
               "(<qemu:commandline>), which `ringway run` prints without --libvirt for %s\n",
            p->name);
}

/* Which kinds have lines, and how they are written. */
static const struct way {
    const char *kind;
    void (*qemu)(FILE *f, const struct plug *p, struct qemu_version q);
    void (*libvirt)(FILE *f, const struct plug *p);
    bool shared_memory; /* put_intro() is about it */
} ways[] = {
    {"vhost-user", put_qemu, put_libvirt, true},
    {"qemu-stream", put_qemu_stream, no_libvirt, false},
    {"qemu-dgram", put_qemu_dgram, no_libvirt, false},
};

static const struct way *way_of(const struct port *p)
{
    for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
        if (!strcmp(p->ops->kind, ways[i].kind)) {
            return &ways[i];
        }
    }
    return NULL;
}

/* To be freed. */
static char *default_path(const char *rundir, const char *name, const char *more)
{
    char file[PORT_NAME_MAX + 16];

    snprintf(file, sizeof(file), "%s%s.sock", name, more);
    return rundir_path(rundir, file);
}

static void put_port(FILE *f, const struct banner *b, const struct port *port, const struct way *way,
                     struct qemu_version qemu)
{
    const struct port_conf *c = &port->conf;
    const char *client = port_conf_get(c, "client"), *said = client ? client : port_conf_get(c, "path");
    const char *peer = port_conf_get(c, "peer");
    char *path = said ? NULL : default_path(b->rundir, c->name, "");
    char *other = peer ? NULL : default_path(b->rundir, c->name, ".peer");
    struct plug p = {.name = c->name,
                     .path = said ? said : path ? path : "",
                     .peer = peer ? peer : other ? other : "",
                     .mtu = port_conf_get(c, "mtu"),
                     .queues = (unsigned)port_conf_number(c, "queues", 1),
                     .qemu_listens = client != NULL};
    uint8_t mac[6];

    if (!port_conf_get(c, "mac") || text_read_mac(port_conf_get(c, "mac"), mac)) {
        banner_mac(c->name, mac);
    }
    text_write_mac(p.mac, mac);
    fprintf(f, "Plug a VM into %s%s:\n", c->name,
            client ? " (QEMU listens, ringway connects)" : "");
    if (b->libvirt) {
        way->libvirt(f, &p);
    } else {
        way->qemu(f, &p, qemu);
    }
    free(path);
    free(other);
}

static void banner_print(FILE *f, const struct banner *b, struct qemu_version qemu)
{
    static struct port *port[PORT_MAX];
    unsigned n = dp_ports(b->dp, port, PORT_MAX);
    bool intro = false;

    for (unsigned i = 0; i < n; i++) {
        const struct way *way = way_of(port[i]);

        if (!way) {
            continue;
        }
        if (!intro && (way->shared_memory || (!b->libvirt && !qemu.major))) {
            put_intro(f, b->libvirt, qemu);
            intro = true;
        }
        put_port(f, b, port[i], way, qemu);
    }
    fflush(f);
}

static bool any_lines(const struct dp *dp)
{
    static struct port *port[PORT_MAX];
    unsigned n = dp_ports(dp, port, PORT_MAX), i = 0;

    while (i < n && !way_of(port[i])) {
        i++;
    }
    return i < n;
}

/* QEMU is not wanted any more, whether it has ended or not. */
static void forget_qemu(struct banner *b)
{
    if (b->said) {
        event_free(b->said);
        b->said = NULL;
    }
    if (b->fd >= 0) {
        close(b->fd);
        b->fd = -1;
    }
    if (b->pid) {
        kill(b->pid, SIGKILL);
        while (waitpid(b->pid, NULL, 0) < 0 && errno == EINTR) {
        }
        b->pid = 0;
    }
}

static void on_said(evutil_socket_t fd, short what, void *arg)
{
    struct banner *b = arg;

    if (what & EV_READ) {
        ssize_t n = read(fd, b->text + b->len, sizeof(b->text) - 1 - b->len);

        if (n > 0 && (b->len += (size_t)n) < sizeof(b->text) - 1) {
            return;
        }
    }
    forget_qemu(b);
    banner_print(stdout, b, qemu_parse_version(b->text));
}

/* Start QEMU with its standard output on *fd; 0: there is none. */
static pid_t ask_qemu(int *fd)
{
    extern char **environ;
    char *argv[] = {(char *)QEMU_BINARY, (char *)"--version", NULL};
    posix_spawn_file_actions_t act;
    int p[2], rc;
    pid_t pid = 0;

    if (pipe2(p, O_CLOEXEC)) {
        return 0;
    }
    posix_spawn_file_actions_init(&act);
    posix_spawn_file_actions_adddup2(&act, p[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&act, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&act, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    rc = posix_spawnp(&pid, QEMU_BINARY, &act, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&act);
    close(p[1]);
    if (rc) {
        close(p[0]);
        return 0;
    }
    *fd = p[0];
    return pid;
}

int banner_start(struct banner **out, struct event_base *base, const struct dp *dp,
                 const char *rundir, bool libvirt, struct err *e)
{
    const struct timeval wait = {QEMU_WAIT_S, 0};
    struct banner *b = calloc(1, sizeof(*b));

    if (!b || !(b->rundir = strdup(rundir))) {
        free(b);
        return err_set(e, -ENOMEM, "out of memory");
    }
    b->dp = dp;
    b->libvirt = libvirt;
    b->fd = -1;
    b->pid = libvirt || !any_lines(dp) ? 0 : ask_qemu(&b->fd);
    if (b->pid) {
        b->said = event_new(base, b->fd, EV_READ | EV_PERSIST, on_said, b);
    }
    if (!b->said || event_add(b->said, &wait)) {
        forget_qemu(b);
        banner_print(stdout, b, (struct qemu_version){0});
    }
    *out = b;
    return 0;
}

void banner_stop(struct banner *b)
{
    if (b) {
        forget_qemu(b);
        free(b->rundir);
        free(b);
    }
}
