/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/run.h"

#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "ctl/cli.h"

static const char usage[] =
    "usage: ringway run [PORT...] [OPTION...]\n"
    "\n"
    "Runs the switch in the foreground until Ctrl-C. PORT is NAME, a vhost-user socket\n"
    "RUNDIR/NAME.sock for a virtual machine, or NAME=KIND,key=value,... (tap0=tap).\n"
    "\n"
    "  -c FILE              read a configuration file (YAML) first; PORTs are added to its ports\n"
    "      --rundir DIR     where the sockets go; default $RINGWAY_RUNDIR, else /run/ringway for\n"
    "                       root, else $XDG_RUNTIME_DIR/ringway\n"
    "      --workers LIST   one worker thread on each of these CPUs, as 0 or 2-3 or 0,2;\n"
    "                       default: one worker, on any CPU\n"
    "      --mac-size N     entries of the MAC table (default 131072)\n"
    "      --poll-us N      how long an idle worker polls before it sleeps (default 50)\n"
    "      --balance-ms N   how often queues are spread over the workers by their load; 0: never\n"
    "                       (default 1000)\n"
    "      --log-level L    error, warn, info (default) or debug\n"
    "      --libvirt        print libvirt's XML instead of QEMU's arguments\n"
    "  -h, --help\n";

static void print_keys(FILE *f, const struct port_option_def *o)
{
    for (; o && o->key; o++) {
        fprintf(f, "  %-13s %c %s\n", o->key, o->changeable ? '*' : ' ', o->help);
    }
}

static void print_kinds(FILE *f)
{
    for (const struct port_ops *const *k = port_kinds(); *k; k++) {
        fprintf(f, "\nKind %s: %s\n", (*k)->kind, (*k)->help);
        print_keys(f, (*k)->options);
    }
    fputs("\nKeys of every kind (* `ringway port set` may change it while the port runs):\n", f);
    print_keys(f, dp_port_options());
}

static const struct option options[] = {
    {"config", required_argument, NULL, 'c'},
    {"rundir", required_argument, NULL, 'r'},
    {"workers", required_argument, NULL, 'w'},
    {"mac-size", required_argument, NULL, 'm'},
    {"poll-us", required_argument, NULL, 'p'},
    {"balance-ms", required_argument, NULL, 'b'},
    {"log-level", required_argument, NULL, 'l'},
    {"libvirt", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* What the command line says wins over the file, so it is kept until the file has been read. */
struct line {
    const char *file, *workers, *mac_size, *poll_us, *balance_ms, *log_level;
};

static int read_line(struct run_opts *o, struct line *l, int argc, char **argv)
{
    const char *known[ARRAY_SIZE(options) - 1];
    int c;

    for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
        known[i] = options[i].name;
    }
    opterr = 0;
    optind = 0;
    while ((c = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            if (l->file) {
                return cli_usage("-c is given twice; one file says everything");
            }
            l->file = optarg;
            break;
        case 'r':
            o->rundir = optarg;
            break;
        case 'w':
            l->workers = optarg;
            break;
        case 'm':
            l->mac_size = optarg;
            break;
        case 'p':
            l->poll_us = optarg;
            break;
        case 'b':
            l->balance_ms = optarg;
            break;
        case 'l':
            l->log_level = optarg;
            break;
        case 'v':
            o->libvirt = true;
            break;
        case 'h':
            fputs(usage, stdout);
            print_kinds(stdout);
            return 0;
        default:
            return cli_bad_option(argc, argv, c == ':', known, ARRAY_SIZE(known));
        }
    }
    return -1;
}

static int apply_line(struct conf *conf, const struct line *l, struct err *e)
{
    if (l->workers) {
        conf->n_cpu = 0;
        if (conf_add_cpus(conf, l->workers, e)) {
            return err_prefix(e, "--workers");
        }
    }
    if (l->mac_size && conf_set_mac_size(conf, l->mac_size, e)) {
        return e->code;
    }
    if (l->poll_us && conf_set_poll_us(conf, l->poll_us, e)) {
        return e->code;
    }
    if (l->balance_ms && conf_set_balance_ms(conf, l->balance_ms, e)) {
        return e->code;
    }
    if (l->log_level) {
        conf->log_level = log_level_parse(l->log_level);
        if (conf->log_level < 0) {
            return err_set(e, -EINVAL, "--log-level \"%.40s\" is none of error, warn, info, debug",
                           l->log_level);
        }
    }
    return 0;
}

static int add_port(struct conf *conf, const char *arg, struct err *e)
{
    struct port_conf p;
    int rc = port_conf_parse(&p, arg, e);

    if (rc) {
        return rc;
    }
    if (!port_name_ok(p.name)) {
        rc = err_set(e, -EINVAL,
                     "\"%.80s\" is not a name for a port: up to %d letters, digits, '.', '_' and "
                     "'-', the first a letter or digit",
                     p.name, PORT_NAME_MAX);
    } else if (dp_port_check(&p, e)) {
        rc = err_prefix(e, "port %s", p.name);
    } else {
        rc = conf_add_port(conf, &p, e);
    }
    port_conf_free(&p);
    return rc;
}

int run_opts_read(struct run_opts *o, int argc, char **argv)
{
    struct line l = {0};
    struct err e = {0};
    int status;

    *o = (struct run_opts){0};
    conf_init(&o->conf);
    status = read_line(o, &l, argc, argv);
    if (status >= 0) {
        return status;
    }
    if (l.file && conf_load(&o->conf, l.file, &e)) {
        return cli_failed(&e);
    }
    if (apply_line(&o->conf, &l, &e)) {
        return cli_usage("%s", e.text);
    }
    for (int i = optind; i < argc; i++) {
        if (add_port(&o->conf, argv[i], &e)) {
            return cli_usage("%s", e.text);
        }
    }
    if (o->conf.log_level >= 0) {
        log_set_level((enum log_level)o->conf.log_level);
    }
    return -1;
}

void run_opts_free(struct run_opts *o)
{
    conf_fini(&o->conf);
}

void run_raise_nofile(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &l)) {
            log_debug("cannot raise the limit of open files: %s", strerror(errno));
        }
    }
}

static const int stop_signals[] = {SIGINT, SIGTERM, SIGHUP};

struct run_signals {
    struct event *event[ARRAY_SIZE(stop_signals)];
};

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
    log_debug("%s: stopping", strsignal(sig));
    event_base_loopbreak(arg);
}

int run_catch_signals(struct run_signals **out, struct event_base *base, struct err *e)
{
    struct run_signals *s = calloc(1, sizeof(*s));

    for (unsigned i = 0; s && i < ARRAY_SIZE(stop_signals); i++) {
        s->event[i] = evsignal_new(base, stop_signals[i], on_signal, base);
        if (!s->event[i] || event_add(s->event[i], NULL)) {
            run_release_signals(s);
            s = NULL;
        }
    }
    *out = s;
    return s ? 0 : err_set(e, -ENOMEM, "cannot catch signals: out of memory");
}

void run_release_signals(struct run_signals *s)
{
    for (unsigned i = 0; s && i < ARRAY_SIZE(stop_signals); i++) {
        if (s->event[i]) {
            event_free(s->event[i]);
        }
    }
    free(s);
}

void run_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t len = path ? strlen(path) : 0;
    int fd;

    if (len < 2 || len >= sizeof(addr.sun_path) || (path[0] != '/' && path[0] != '@')) {
        return;
    }
    memcpy(addr.sun_path, path, len);
    if (path[0] == '@') {
        addr.sun_path[0] = 0; /* the abstract name space */
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&addr,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0) {
        log_warn("cannot tell systemd \"%s\": %s", state, strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}
