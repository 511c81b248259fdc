/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ringway capture`: the reading end of a capture (port/capture.h), in a process of its own.  It asks
 * over the control socket, gets memory and an eventfd with the answer, and from then on talks to
 * nobody: frames come through the memory.  The connection stands for the capture: whoever ends it,
 * the other one notices.
 */
#include <errno.h>
#include <getopt.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "ctl/cli.h"
#include "ctl/client.h"
#include "ctl/frame_text.h"
#include "port/capture.h"
#include "port/pcapng.h"

#define TURN 1024 /* frames between two looks at signals and the clock */

static const char usage[] =
    "usage: ringway capture PORT [FILTER] [-w FILE|-] [OPTION...]\n"
    "\n"
    "Records the frames of a port of a running switch, or prints a line for each. FILTER is a\n"
    "libpcap filter (pcap-filter(7)), in one word or several.\n"
    "\n"
    "  -w FILE          write pcapng to this file; - is standard output, for a pipe\n"
    "  -c COUNT         end after so many frames\n"
    "      --duration S end after so many seconds\n"
    "  -s SNAPLEN       at most so many bytes of each frame (default 262144: all)\n"
    "  -Q DIRECTION     in: from the port into the switch, out: to the port, inout (default)\n"
    "      --drops      only frames that were dropped, with the reason\n"
    "  -B KIB           buffer of each worker, a power of two (default 4096)\n"
    "  -U               write each frame out at once, also into a file\n"
    "      --rundir DIR the switch's run directory\n"
    "  -h, --help\n"
    "\n"
    "    ringway capture vm1 -w - tcp port 80 | wireshark -k -i -\n"
    "\n"
    "Ctrl-C ends it. Frames that come faster than they are written are lost for the capture, and\n"
    "counted; the switch does not wait.\n";

struct options {
    const char *port, *rundir, *file, *direction;
    char *filter; /* the words in one; empty: none */
    uint64_t count, seconds, snaplen, kib;
    bool drops, at_once;
};

struct session {
    struct options o;
    struct client c;
    struct capture_reader r;
    json_t *reasons;
    FILE *out;
    bool to_pipe;
    int eventfd, signalfd;
    uint64_t n;
    uint64_t until_ns; /* CLOCK_MONOTONIC, 0: no end */
};

/* ---- the command line ----------------------------------------------------------------------------- */

static int read_count(const char *what, const char *text, uint64_t max, uint64_t *out)
{
    if (text_number(text, 10, max, out) && *out) {
        return 0;
    }
    return cli_usage("%s \"%s\" is not a number from 1 to %llu", what, text,
                     (unsigned long long)max);
}

static int join_filter(struct options *o, int n, char **words)
{
    size_t len = 1;

    for (int i = 0; i < n; i++) {
        len += strlen(words[i]) + 1;
    }
    o->filter = calloc(1, len);
    if (!o->filter) {
        return cli_usage("out of memory");
    }
    for (int i = 0; i < n; i++) {
        strcat(strcat(o->filter, i ? " " : ""), words[i]);
    }
    return -1;
}

/* -1 to go on, or the status to exit with. */
static int read_options(struct options *o, int argc, char **argv)
{
    static const struct option all[] = {
        {"drops", no_argument, NULL, 'd'},
        {"duration", required_argument, NULL, 't'},
        {"rundir", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    static const char *const known[] = {"drops", "duration", "rundir", "help"};
    int c, status = 0;

    *o = (struct options){.direction = "inout",
                          .snaplen = CAPTURE_SNAPLEN,
                          .kib = CAPTURE_RING_DEFAULT / 1024};
    opterr = 0;
    optind = 0;
    while (!status && (c = getopt_long(argc, argv, ":w:c:s:Q:B:Uh", all, NULL)) != -1) {
        switch (c) {
        case 'w':
            o->file = optarg;
            break;
        case 'c':
            status = read_count("-c", optarg, UINT64_MAX, &o->count);
            break;
        case 't':
            status = read_count("--duration", optarg, UINT32_MAX, &o->seconds);
            break;
        case 's':
            status = read_count("-s", optarg, CAPTURE_SNAPLEN, &o->snaplen);
            break;
        case 'B':
            status = read_count("-B", optarg, CAPTURE_RING_MAX / 1024, &o->kib);
            break;
        case 'Q':
            o->direction = optarg;
            break;
        case 'd':
            o->drops = true;
            break;
        case 'U':
            o->at_once = true;
            break;
        case 'r':
            o->rundir = optarg;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            return cli_bad_option(argc, argv, c == ':', known, ARRAY_SIZE(known));
        }
    }
    if (status) {
        return status;
    }
    if (strcmp(o->direction, "in") && strcmp(o->direction, "out") && strcmp(o->direction, "inout")) {
        return cli_usage("-Q \"%.40s\" is none of in, out, inout", o->direction);
    }
    if (o->kib < CAPTURE_RING_MIN / 1024 || (o->kib & (o->kib - 1))) {
        return cli_usage("-B %llu is not a power of two from %u to %u", (unsigned long long)o->kib,
                         CAPTURE_RING_MIN / 1024, CAPTURE_RING_MAX / 1024);
    }
    if (optind == argc) {
        return cli_usage("capture which port? see --help");
    }
    o->port = argv[optind];
    return join_filter(o, argc - optind - 1, argv + optind + 1);
}

/* The filter as a program for the switch, malloc'ed (empty: every frame); NULL after an error
 * message, or without memory. */
static char *compile(const struct options *o)
{
    struct bpf_program prog;
    char *text = NULL;
    size_t len;

    if (!*o->filter) {
        return strdup("");
    }

    pcap_t *p = pcap_open_dead(DLT_EN10MB, CAPTURE_SNAPLEN);

    if (!p) {
        return NULL;
    }
    if (pcap_compile(p, &prog, o->filter, 1, PCAP_NETMASK_UNKNOWN)) {
        cli_usage("filter \"%s\": %s", o->filter, pcap_geterr(p));
        pcap_close(p);
        return NULL;
    }
    FILE *f = open_memstream(&text, &len);
    if (f) {
        fprintf(f, "%u", prog.bf_len);
        for (unsigned i = 0; i < prog.bf_len; i++) {
            const struct bpf_insn *in = &prog.bf_insns[i];

            fprintf(f, ",%u %u %u %u", in->code, in->jt, in->jf, in->k);
        }
        fclose(f);
    }
    pcap_freecode(&prog);
    pcap_close(p);
    return text;
}

/* ---- one frame ------------------------------------------------------------------------------------ */

/* Why it was dropped: "no-buffers: vm2 has no receive buffers". */
static void drop_text(const struct session *s, const struct capture_rec *rec, char *out, size_t room)
{
    const json_t *r = json_array_get(s->reasons, rec->why);
    const char *name = json_string_value(json_object_get(r, "name"));
    const char *text = json_string_value(json_object_get(r, "text"));

    out[0] = 0;
    if (rec->why != CAPTURE_NO_DROP) {
        int n = snprintf(out, room, "dropped, %s: %s", name ? name : "?", text ? text : "?");

        if (rec->n > 1 && n > 0 && (size_t)n < room) {
            snprintf(out + n, room - (size_t)n, " (%u frames)", rec->n);
        }
    }
}

static void print_line(const struct session *s, const struct capture_rec *rec, const uint8_t *bytes,
                       const char *why)
{
    time_t t = (time_t)(rec->time_ns / 1000000000u);
    struct tm tm;
    char clock[16], frame[256], offload[128];
    struct vnet_hdr h;

    localtime_r(&t, &tm);
    strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
    frame_text(frame, sizeof(frame), bytes, rec->cap_len, rec->len);
    memcpy(&h, rec->vnet, sizeof(h));
    vnet_hdr_text(&h, offload, sizeof(offload));
    fprintf(s->out, "%s.%06u %-3s %s%s%s%s%s\n", clock,
            (unsigned)(rec->time_ns % 1000000000u / 1000), rec->dir == CAPTURE_IN ? "in" : "out",
            frame, *offload ? "; " : "", offload, *why ? "; " : "", why);
}

static int put_frame(struct session *s, const struct capture_rec *rec, const uint8_t *bytes)
{
    char why[300];

    drop_text(s, rec, why, sizeof(why));
    if (s->o.file) {
        return pcapng_frame(s->out, rec, bytes, why);
    }
    print_line(s, rec, bytes, why);
    return ferror(s->out) ? -EIO : 0;
}

/* ---- the session ---------------------------------------------------------------------------------- */

/* Why run() returned. */
enum end { END_NONE, END_ASKED, END_COUNT, END_GONE, END_PORT, END_READER, END_WRITE, END_PROTOCOL };

static enum end write_error(int rc)
{
    return rc == -EPIPE ? END_READER : END_WRITE;
}

/* What is there, up to TURN frames; with `until` what came before. */
static enum end drain(struct session *s, uint64_t until_wall_ns, unsigned *n)
{
    struct capture_rec rec;
    const uint8_t *bytes;
    int rc = 0;

    for (*n = 0; *n < TURN; (*n)++) {
        rc = capture_peek(&s->r, &rec, &bytes);
        if (rc <= 0 || rec.time_ns > until_wall_ns) {
            return rc < 0 ? END_PROTOCOL : END_NONE;
        }
        rc = put_frame(s, &rec, bytes);
        capture_next(&s->r);
        if (rc) {
            return write_error(rc);
        }
        s->n += rec.n;
        if (s->o.count && s->n >= s->o.count) {
            return END_COUNT;
        }
    }
    return END_NONE;
}

/* Milliseconds to the end, at most a minute; -1: for ever. */
static int time_left(const struct session *s)
{
    uint64_t now = clock_ns();

    if (!s->until_ns) {
        return -1;
    }
    return now >= s->until_ns ? 0 : (int)MIN((s->until_ns - now) / 1000000 + 1, 60000u);
}

/* Sleep until there is something (or not at all: a look). */
static enum end wait_for_more(struct session *s, bool look)
{
    struct pollfd fd[] = {{.fd = s->eventfd, .events = POLLIN},
                          {.fd = s->c.fd, .events = POLLIN},
                          {.fd = s->signalfd, .events = POLLIN},
                          {.fd = s->to_pipe ? fileno(s->out) : -1, .events = 0}};
    bool busy = look || capture_arm(&s->r);
    uint64_t count;

    if (poll(fd, ARRAY_SIZE(fd), busy ? 0 : time_left(s)) < 0 && errno != EINTR) {
        return END_PROTOCOL;
    }
    capture_disarm(&s->r);
    if (fd[0].revents) {
        (void)!read(s->eventfd, &count, sizeof(count));
    }
    if (capture_ended(&s->r) == CAPTURE_PORT_GONE) {
        return END_PORT;
    }
    return fd[2].revents ? END_ASKED
           : fd[1].revents ? END_GONE
           : fd[3].revents ? END_READER
           : s->until_ns && clock_ns() >= s->until_ns ? END_ASKED
                                                      : END_NONE;
}

static enum end run(struct session *s)
{
    enum end end = END_NONE;
    unsigned n;

    while (!end) {
        end = drain(s, UINT64_MAX, &n);
        if (!end && n < TURN && (s->o.at_once || s->to_pipe || !s->o.file) && fflush(s->out)) {
            end = write_error(-errno);
        }
        end = end ? end : wait_for_more(s, n == TURN);
    }
    if (end == END_ASKED || end == END_GONE || end == END_PORT) { /* what came before still counts */
        uint64_t now = clock_wall_ns();
        enum end rest;

        do {
            rest = drain(s, now, &n);
        } while (!rest && n == TURN);
        end = rest ? rest : end;
    }
    return end;
}

/* ---- begin and end -------------------------------------------------------------------------------- */

static int open_output(struct session *s)
{
    struct stat st;

    if (s->o.file && strcmp(s->o.file, "-")) {
        s->out = fopen(s->o.file, "we");
        if (!s->out) {
            struct err e;

            err_set(&e, -errno, "cannot write %s: %s", s->o.file, strerror(errno));
            return cli_failed(&e);
        }
    } else {
        s->out = stdout;
        if (s->o.file && isatty(STDOUT_FILENO)) {
            return cli_usage("-w - writes binary data; send it into a file or a pipe");
        }
    }
    s->to_pipe = !fstat(fileno(s->out), &st) && !S_ISREG(st.st_mode);
    return 0;
}

static int ask(struct session *s, const char *program, struct err *e)
{
    struct options *o = &s->o;
    json_t *params = json_pack("{s:s, s:s, s:s, s:b, s:I, s:I}", "port", o->port, "filter", program,
                               "direction", o->direction, "drops", o->drops, "snaplen",
                               (json_int_t)o->snaplen, "buffer", (json_int_t)o->kib * 1024);
    json_t *result = NULL;
    int rc = params ? client_call(&s->c, "capture.start", params, &result, e)
                    : err_set(e, -EINVAL, "the name of the port is not valid UTF-8");

    if (rc) {
        return rc;
    }
    uint64_t bytes = (uint64_t)json_integer_value(json_object_get(result, "bytes"));
    int fd = client_take_fd(&s->c);
    struct stat st;
    void *p = MAP_FAILED;

    s->reasons = json_incref(json_object_get(result, "reasons"));
    json_decref(result);
    s->eventfd = client_take_fd(&s->c);
    if (fd >= 0 && !fstat(fd, &st) && (uint64_t)st.st_size >= bytes) {
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (p == MAP_FAILED || s->eventfd < 0) {
        return err_set(e, -EPROTO, "the switch answered without the memory of the capture");
    }
    return capture_reader_init(&s->r, p, bytes, e); /* mapped until this process ends */
}

/* Signals end the session between two frames, so that the file is whole. */
static int catch_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int begin(struct session *s, const char *program)
{
    struct err e = {0};
    int rc = 0;

    if (client_open(&s->c, s->o.rundir, &e) || ask(s, program, &e)) {
        return cli_failed(&e);
    }
    s->signalfd = catch_signals();

    int status = open_output(s);

    if (status) {
        return status;
    }
    if (s->o.file) {
        rc = pcapng_begin(s->out, s->o.port, s->o.filter, (uint32_t)s->o.snaplen);
    }
    if (rc || (s->to_pipe && fflush(s->out))) {
        err_set(&e, -EIO, "cannot write: %s", strerror(errno));
        return cli_failed(&e);
    }
    s->until_ns = s->o.seconds ? clock_ns() + s->o.seconds * 1000000000u : 0;
    fprintf(stderr, "capturing on %s, at most %llu bytes of a frame; Ctrl-C ends it\n", s->o.port,
            (unsigned long long)s->o.snaplen);
    return 0;
}

static int finish(struct session *s, enum end end)
{
    uint64_t lost = capture_lost(&s->r);
    int status = end == END_ASKED || end == END_COUNT || end == END_READER ? 0 : CLI_FAILED;
    int rc = 0;

    if (s->o.file && end != END_READER && end != END_WRITE) {
        rc = pcapng_end(s->out, clock_wall_ns(), s->n, lost);
    }
    if (end != END_READER && (rc || fflush(s->out) || end == END_WRITE)) {
        fprintf(stderr, "ringway: cannot write %s: %s\n", s->o.file ? s->o.file : "to standard output",
                strerror(errno));
        status = CLI_FAILED;
    }
    if (end == END_PORT) {
        fprintf(stderr, "ringway: port %s was removed\n", s->o.port);
    } else if (end == END_GONE) {
        fprintf(stderr, "ringway: the switch in %s ended\n", s->c.rundir);
    } else if (end == END_PROTOCOL) {
        fprintf(stderr, "ringway: what the switch recorded makes no sense\n");
    }
    fprintf(stderr, "%llu frame%s captured\n%llu dropped by the switch for want of room\n",
            (unsigned long long)s->n, s->n == 1 ? "" : "s", (unsigned long long)lost);
    return status;
}

int cmd_capture(int argc, char **argv)
{
    struct session s = {.c = {.fd = -1}, .eventfd = -1, .signalfd = -1};
    int status = read_options(&s.o, argc, argv);
    char *program;

    if (status >= 0) {
        return status;
    }
    program = compile(&s.o);
    if (!program) {
        free(s.o.filter);
        return CLI_USAGE;
    }
    status = begin(&s, program);
    if (!status) {
        status = finish(&s, run(&s));
    }
    if (s.out && s.out != stdout) {
        fclose(s.out);
    }
    if (s.eventfd >= 0) {
        close(s.eventfd);
    }
    if (s.signalfd >= 0) {
        close(s.signalfd);
    }
    client_close(&s.c);
    json_decref(s.reasons);
    free(program);
    free(s.o.filter);
    return status;
}
