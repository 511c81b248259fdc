/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device's configuration space, for front-ends that leave it to the back-end: MAC, link state,
 * number of queues and MTU.  QEMU keeps it to itself (and warns if it is offered), so a port offers it
 * on demand.  A change is told on the channel that the front-end gave us for this, if it did.
 *
 * The channel is a socket of the peer's: what is sent there is sent without waiting, from the control
 * thread, and what comes back is never read.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "vhost/vu_dev.h"
#include "vnet/features.h"

static struct vnet_config now(const struct vu_dev *d)
{
    struct vnet_config c = d->config;

    c.status = d->down ? 0 : VNET_S_LINK_UP;
    c.max_pairs = (uint16_t)(d->conf.max_rings / 2);
    c.speed = VNET_SPEED_UNKNOWN;
    c.duplex = VNET_DUPLEX_UNKNOWN;
    return c;
}

bool vu_config_taken(const struct vu_dev *d)
{
    return d->conn && d->protocol_features & VU_PROTOCOL_BIT(CONFIG);
}

/* The bytes that m names; behind the end of what there is they are 0. */
static void cut_out(const struct vu_dev *d, const struct vu_config *range, uint8_t *out)
{
    const struct vnet_config c = now(d);
    uint32_t from = range->offset;

    memset(out, 0, range->size);
    if (from < sizeof(c)) {
        memcpy(out, (const uint8_t *)&c + from, MIN(range->size, (uint32_t)sizeof(c) - from));
    }
}

uint32_t vu_config_read(const struct vu_dev *d, struct vu_config *c)
{
    if (!vu_config_taken(d)) {
        return 0;
    }
    cut_out(d, c, c->bytes);
    return VU_CONFIG_HEAD + c->size;
}

int vu_config_write(const struct vu_dev *d, const struct vu_config *c, struct err *e)
{
    uint8_t mine[VU_CONFIG_MAX];

    cut_out(d, c, mine);
    /* A guest that arrives here brings what it was told before: the same is no change. */
    if (vu_config_taken(d) && c->flags == VU_CONFIG_F_MIGRATION && !memcmp(mine, c->bytes, c->size)) {
        return 0;
    }
    return err_set(e, -EPERM,
                   "SET_CONFIG of %u bytes at %u: the configuration is read-only; MAC and MTU are set "
                   "on the port (mac=, mtu=)",
                   c->size, c->offset);
}

int vu_config_channel(struct vu_dev *d, int fd, struct err *e)
{
    int domain = 0, type = 0;
    socklen_t len = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || domain != AF_UNIX ||
        type != SOCK_STREAM) {
        fd_discard(fd);
        return err_set(e, -EINVAL, "SET_BACKEND_REQ_FD brings a file descriptor that is no UNIX "
                                   "stream socket");
    }
    if (d->channel_fd >= 0) {
        close(d->channel_fd);
    }
    d->channel_fd = fd;
    return 0;
}

void vu_config_changed(const struct vu_dev *d)
{
    const struct vu_hdr h = {.request = VU_BACKEND_CONFIG_CHANGE, .flags = VU_VERSION};

    if (vu_config_taken(d) && d->channel_fd >= 0 &&
        send(d->channel_fd, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(h)) {
        log_warn_limited("%s: cannot tell the front-end that its configuration changed", d->name);
    }
}

void vu_dev_set_config(struct vu_dev *d, const struct vnet_config *c)
{
    d->config = *c;
    vu_config_changed(d);
}
