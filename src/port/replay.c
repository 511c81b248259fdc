/* SPDX-License-Identifier: Apache-2.0 */
#include "port/replay.h"

#include <errno.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROUND_MIN_NS 1000000u        /* a file without duration is not repeated faster than this ... */
#define ROUND_OF_ONE_NS 1000000000u  /* ... and a single frame once a second */

/* What the arrays have room for. */
struct room {
    uint32_t frames;
    uint64_t bytes;
};

static int open_file(pcap_t **out, const char *path, struct err *e)
{
    char why[PCAP_ERRBUF_SIZE] = "";
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a FIFO must not hold us up */

    if (fd < 0 || fstat(fd, &st)) {
        int code = errno;

        if (fd >= 0) {
            close(fd);
        }
        return err_set(e, -code, "cannot read %s: %s", path, strerror(code));
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, -EINVAL, "%s is not a file", path);
    }
    FILE *f = fdopen(fd, "r");

    if (!f) {
        close(fd);
        return err_set(e, -ENOMEM, "out of memory");
    }
    *out = pcap_fopen_offline_with_tstamp_precision(f, PCAP_TSTAMP_PRECISION_NANO, why);
    if (!*out) {
        fclose(f);
        return err_set(e, -EINVAL, "%s is no capture file: %.200s", path, why);
    }
    if (pcap_datalink(*out) != DLT_EN10MB) {
        const char *name = pcap_datalink_val_to_name(pcap_datalink(*out));

        err_set(e, -EINVAL, "%s holds no Ethernet frames but %s", path, name ? name : "others");
        pcap_close(*out);
        return -EINVAL;
    }
    return 0;
}

static bool grow(struct replay *r, struct room *have, uint32_t len, uint64_t used)
{
    if (r->n == have->frames) {
        uint32_t n = have->frames ? have->frames * 2 : 1024;
        struct replay_frame *f = realloc(r->frame, n * sizeof(*f));

        if (!f) {
            return false;
        }
        r->frame = f;
        have->frames = n;
    }
    if (used + len > have->bytes) {
        uint64_t n = MAX(used + len, have->bytes * 2);
        uint8_t *b = realloc(r->bytes, n);

        if (!b) {
            return false;
        }
        r->bytes = b;
        have->bytes = n;
    }
    return true;
}

static int read_frames(struct replay *r, pcap_t *p, const char *path, struct err *e)
{
    struct pcap_pkthdr *h;
    const u_char *bytes;
    struct room have = {0};
    uint64_t used = 0, first = 0, last = 0;
    int rc;

    while ((rc = pcap_next_ex(p, &h, &bytes)) == 1) {
        uint64_t at = (uint64_t)h->ts.tv_sec * 1000000000u + (uint64_t)h->ts.tv_usec;

        if (h->caplen < h->len) {
            r->n_cut++;
            continue;
        }
        if (used + h->caplen + (r->n + 1ull) * sizeof(*r->frame) > REPLAY_MAX) {
            return err_set(e, -EFBIG, "%s is too long: more than %u MiB in memory; cut it with editcap",
                           path, REPLAY_MAX >> 20);
        }
        if (!grow(r, &have, h->caplen, used)) {
            return err_set(e, -ENOMEM, "out of memory for %s", path);
        }
        first = r->n ? first : at;
        last = MAX(last, at); /* clocks jump; the order is that of the file */
        memcpy(r->bytes + used, bytes, h->caplen);
        r->frame[r->n++] = (struct replay_frame){last - first, (uint32_t)used, h->caplen};
        used += h->caplen;
    }
    if (rc != PCAP_ERROR_BREAK) {
        return err_set(e, -EINVAL, "%s is damaged behind frame %u: %.200s", path, r->n + r->n_cut,
                       pcap_geterr(p));
    }
    if (!r->n) {
        return err_set(e, -EINVAL, "%s holds no %sframes", path, r->n_cut ? "whole " : "");
    }
    return 0;
}

int replay_load(struct replay *r, const char *path, struct err *e)
{
    pcap_t *p;
    int rc = open_file(&p, path, e);

    *r = (struct replay){0};
    if (rc) {
        return rc;
    }
    rc = read_frames(r, p, path, e);
    pcap_close(p);
    if (rc) {
        replay_free(r);
        return rc;
    }
    uint64_t ns = r->frame[r->n - 1].at_ns;

    /* The last frame is followed by a gap like the others on average. */
    r->round_ns = r->n > 1 ? MAX(ns + ns / (r->n - 1), ROUND_MIN_NS) : ROUND_OF_ONE_NS;
    return 0;
}

void replay_free(struct replay *r)
{
    free(r->frame);
    free(r->bytes);
    *r = (struct replay){0};
}
