/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP echo server with an IP stack of its own, lwIP, on a switch: echo SOCKET ADDRESS [PORT]
 *
 *     cc echo.c $(pkg-config --cflags --libs ringway-client lwip) -o echo
 *
 *     main thread                        lwIP's thread                 echo thread
 *     rwc_recv() -> pbuf -> tcpip_input()  ... netconn_recv()  ->  netconn_write()
 *     rwc_send() <- link_output()  <-------
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lwip/api.h>
#include <lwip/etharp.h>
#include <lwip/netif.h>
#include <lwip/tcpip.h>
#include <netif/ethernet.h>
#include <ringway-client.h>

static struct rwc *nic;
static struct netif card;
static u16_t port = 7;

/* lwIP's thread: a frame, as a chain of pbufs. */
static err_t link_output(struct netif *n, struct pbuf *p)
{
    struct iovec iov[64];
    struct rwc_frame f = {.iov = iov};

    (void)n;
    for (; p && f.n_iov < 64; p = p->next) {
        iov[f.n_iov++] = (struct iovec){p->payload, p->len};
    }
    return !p && rwc_send(nic, 0, &f, 1) == 1 ? ERR_OK : ERR_MEM; /* TCP sends it again */
}

static err_t card_init(struct netif *n)
{
    static const u8_t mac[] = {0x02, 0x72, 0x77, 0, 0, 7};

    n->name[0] = 'r';
    n->name[1] = 'w';
    n->mtu = 1500;
    n->hwaddr_len = sizeof(mac);
    memcpy(n->hwaddr, mac, sizeof(mac));
    n->output = etharp_output;
    n->linkoutput = link_output;
    n->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
    return ERR_OK;
}

static void echo_to(struct netconn *c)
{
    struct netbuf *b;

    while (netconn_recv(c, &b) == ERR_OK) {
        void *data;
        u16_t len;

        do {
            netbuf_data(b, &data, &len);
            netconn_write(c, data, len, NETCONN_COPY);
        } while (netbuf_next(b) >= 0);
        netbuf_delete(b);
    }
    netconn_close(c);
    netconn_delete(c);
}

static void echo_thread(void *arg)
{
    struct netconn *l = netconn_new(NETCONN_TCP), *c;

    (void)arg;
    netconn_bind(l, IP_ADDR_ANY, port);
    netconn_listen(l);
    while (netconn_accept(l, &c) == ERR_OK) {
        echo_to(c);
    }
}

/* lwIP's thread, once. */
static void begin(void *address)
{
    ip4_addr_t ip = *(ip4_addr_t *)address, mask, any = {0};

    IP4_ADDR(&mask, 255, 255, 255, 0);
    netif_add(&card, &ip, &mask, &any, NULL, card_init, tcpip_input);
    netif_set_default(&card);
    netif_set_up(&card);
    sys_thread_new("echo", echo_thread, NULL, 0, 0);
}

/* False: nothing came. */
static bool receive(void)
{
    struct rwc_frame f[RWC_BURST];
    unsigned n = rwc_recv(nic, 0, f, RWC_BURST);

    for (unsigned i = 0; i < n; i++) {
        struct pbuf *p = pbuf_alloc(PBUF_RAW, (u16_t)f[i].iov[0].iov_len, PBUF_RAM);

        if (p && f[i].n_iov == 1) { /* without offloads no frame is larger than a buffer */
            pbuf_take(p, f[i].iov[0].iov_base, p->tot_len);
            if (tcpip_input(p, &card) == ERR_OK) {
                continue;
            }
        }
        if (p) {
            pbuf_free(p); /* TCP comes again */
        }
    }
    if (!n) {
        struct pollfd p[] = {{.fd = rwc_fd(nic, 0), .events = POLLIN},
                             {.fd = rwc_link_fd(nic), .events = POLLIN}};

        if (rwc_arm(nic, 0)) {
            poll(p, 2, -1);
        }
        rwc_disarm(nic, 0);
    }
    return n;
}

int main(int argc, char **argv)
{
    ip4_addr_t ip;
    char why[256];

    if (argc < 3 || !ip4addr_aton(argv[2], &ip)) {
        return fprintf(stderr, "usage: echo SOCKET ADDRESS [PORT]\n"), 2;
    }
    port = argc > 3 ? (u16_t)atoi(argv[3]) : port;
    if (rwc_open(&nic, &(struct rwc_conf){.path = argv[1]}, why, sizeof(why)) ||
        rwc_connect(nic, why, sizeof(why))) {
        return fprintf(stderr, "echo: %s\n", why), 1;
    }
    tcpip_init(begin, &ip);
    while (receive() || rwc_connected(nic)) {
    }
    return fprintf(stderr, "echo: the switch is gone\n"), 1;
}
