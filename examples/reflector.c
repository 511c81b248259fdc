/* SPDX-License-Identifier: Apache-2.0 */
/* Sends every frame back to where it came from: reflector SOCKET [listen] [packed]
 * cc reflector.c $(pkg-config --cflags --libs ringway-client) -o reflector */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <ringway-client.h>

/* Until frames come, or the switch is gone. */
static void sleep_until(struct rwc *nic)
{
    struct pollfd p[] = {{.fd = rwc_fd(nic, 0), .events = POLLIN}, {.fd = rwc_link_fd(nic), .events = POLLIN}};

    if (rwc_arm(nic, 0)) {
        poll(p, 2, -1);
    }
    rwc_disarm(nic, 0);
}

static void reflect(struct rwc *nic)
{
    struct rwc_frame f[RWC_BURST];

    for (unsigned n, idle = 0; idle < 1000 || rwc_connected(nic); idle = n ? 0 : idle + 1) {
        n = rwc_recv(nic, 0, f, RWC_BURST);
        for (unsigned i = 0; i < n; i++) {
            unsigned char mac[6], *d = f[i].iov[0].iov_base;
            memcpy(mac, d, 6);
            memmove(d, d + 6, 6);
            memcpy(d + 6, mac, 6);
        }
        for (unsigned at = 0; at < n;) {
            at += rwc_send(nic, 0, f + at, n - at);
            at += at < n && (errno != EAGAIN || !rwc_connected(nic)); /* this one cannot */
        }
        if (!n && idle >= 1000) {
            sleep_until(nic);
        }
    }
}

int main(int argc, char **argv)
{
    char why[256] = "", said[256] = "";
    struct rwc_conf conf = {.path = argc > 1 ? argv[1] : NULL};
    struct rwc *nic;

    for (int i = 2; i < argc; i++) {
        conf.flags |= strcmp(argv[i], "packed") ? RWC_LISTEN : RWC_PACKED;
    }
    if (rwc_open(&nic, &conf, why, sizeof(why))) {
        return fprintf(stderr, "reflector: %s\n", why), 1;
    }
    for (;; usleep(100000)) {
        if (!rwc_connect(nic, why, sizeof(why))) {
            reflect(nic);
        } else if (strcmp(why, said)) {
            fprintf(stderr, "reflector: %s\n", strcpy(said, why)); /* once */
        }
    }
}
