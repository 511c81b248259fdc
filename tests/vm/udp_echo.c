/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For a guest: sends every datagram back, with the number of those that came so far in its first four
 * bytes' place behind the sender's number.  See udp_stream.py.
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct sockaddr_in me = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[argc - 1]))};
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    static uint8_t buf[65536];
    uint32_t n = 0;

    if (s < 0 || bind(s, (struct sockaddr *)&me, sizeof(me))) {
        return 1;
    }
    for (;;) {
        struct sockaddr_in from;
        socklen_t len = sizeof(from);
        ssize_t got = recvfrom(s, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);

        if (got >= 8) {
            n++;
            memcpy(buf + 4, &n, sizeof(n));
            sendto(s, buf, (size_t)got, 0, (struct sockaddr *)&from, len);
        }
    }
}
