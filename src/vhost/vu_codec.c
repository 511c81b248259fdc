/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/vu_codec.h"

#include <errno.h>

#include "ring/vring.h"

static const struct vu_msg_desc table[VU_REQUEST_MAX] = {
#define SPOKEN(number, text, payload, fds, reply)                                                  \
    [number] = {.request = number,                                                                 \
                .name = #text,                                                                     \
                .spoken = true,                                                                    \
                .shape = VU_SHAPE_##payload,                                                       \
                .max_fds = fds,                                                                    \
                .answer = VU_ANSWER_##reply},
#define NOT_SPOKEN(number, text)                                                                   \
    [number] = {.request = number, .name = #text, .shape = VU_SHAPE_ANY, .max_fds = VU_MAX_FDS},
    VU_MESSAGES(SPOKEN) VU_MESSAGES_NOT_SPOKEN(NOT_SPOKEN)
#undef SPOKEN
#undef NOT_SPOKEN
};

static const struct vu_msg_desc unknown = {
    .name = "unknown message", .shape = VU_SHAPE_ANY, .max_fds = VU_MAX_FDS};

static const uint32_t shape_bytes[] = {
    [VU_SHAPE_NONE] = 0,
    [VU_SHAPE_U64] = sizeof(uint64_t),
    [VU_SHAPE_RING_FD] = sizeof(uint64_t),
    [VU_SHAPE_RING_STATE] = sizeof(struct vu_ring_state),
    [VU_SHAPE_RING_ADDR] = sizeof(struct vu_ring_addr),
    [VU_SHAPE_TABLE] = sizeof(struct vu_mem_table), /* at most */
    [VU_SHAPE_REGION] = sizeof(struct vu_one_region),
    [VU_SHAPE_LOG] = sizeof(struct vu_log),
    [VU_SHAPE_CONFIG] = sizeof(struct vu_config), /* at most */
    [VU_SHAPE_INFLIGHT] = sizeof(struct vu_inflight_msg), /* at most */
    [VU_SHAPE_ANY] = VU_MAX_PAYLOAD, /* at most */
};
static_assert(ARRAY_SIZE(shape_bytes) == VU_N_SHAPES, "a size for each shape");

const struct vu_msg_desc *vu_msg_desc(uint32_t request)
{
    return request < VU_REQUEST_MAX && table[request].name ? &table[request] : &unknown;
}

static bool size_ok(enum vu_shape shape, uint32_t size)
{
    switch (shape) {
    case VU_SHAPE_ANY:
        return size <= shape_bytes[shape];
    case VU_SHAPE_TABLE:
        return size >= VU_MEM_TABLE_HEAD && size <= shape_bytes[shape] &&
               (size - VU_MEM_TABLE_HEAD) % sizeof(struct vu_region) == 0;
    case VU_SHAPE_CONFIG:
        return size >= VU_CONFIG_HEAD && size <= shape_bytes[shape];
    case VU_SHAPE_INFLIGHT:
        return size == VU_INFLIGHT_MSG_MIN || size == shape_bytes[shape];
    default:
        return size == shape_bytes[shape];
    }
}

int vu_check_header(const struct vu_hdr *h, struct err *e)
{
    const struct vu_msg_desc *d = vu_msg_desc(h->request);

    if ((h->flags & VU_FLAG_VERSION_MASK) != VU_VERSION) {
        return err_set(e, -EPROTO, "%s (%u) has protocol version %u, not %u", d->name, h->request,
                       h->flags & VU_FLAG_VERSION_MASK, VU_VERSION);
    }
    if (h->flags & VU_FLAG_REPLY) {
        return err_set(e, -EPROTO, "%s (%u) is marked as a reply, but nothing was asked", d->name,
                       h->request);
    }
    if (h->flags & ~VU_FLAGS_KNOWN) {
        return err_set(e, -EPROTO, "%s (%u) has reserved flags 0x%x", d->name, h->request,
                       h->flags);
    }
    if (!size_ok(d->shape, h->size)) {
        return err_set(e, -EPROTO, "%s (%u) has a payload of %u bytes, which it cannot have",
                       d->name, h->request, h->size);
    }
    return 0;
}

int vu_msg_ring(const struct vu_msg *m)
{
    uint64_t idx;

    switch (m->desc->shape) {
    case VU_SHAPE_RING_FD:
        return (int)(m->p.u64 & VU_RING_FD_IDX);
    case VU_SHAPE_RING_STATE:
        idx = m->p.state.idx;
        break;
    case VU_SHAPE_RING_ADDR:
        idx = m->p.addr.idx;
        break;
    default:
        return -1;
    }
    return idx < VU_MAX_RINGS ? (int)idx : VU_MAX_RINGS;
}

static int check_fds(const struct vu_msg *m, struct err *e)
{
    uint32_t least = 0, most = m->desc->max_fds;

    if (m->desc->shape == VU_SHAPE_RING_FD) {
        least = most = m->p.u64 & VU_RING_FD_NONE ? 0 : 1;
    } else if (m->desc->shape == VU_SHAPE_TABLE) {
        most = m->p.table.n;
    }
    if (m->n_fds < least || m->n_fds > most) {
        return err_set(e, -EPROTO, "%s came with %u file descriptors instead of %s%u",
                       m->desc->name, m->n_fds, least == most ? "" : "at most ", most);
    }
    return 0;
}

static int check_ring_message(const struct vu_msg *m, struct err *e)
{
    const char *name = m->desc->name;

    if (vu_msg_ring(m) == VU_MAX_RINGS) {
        return err_set(e, -EPROTO, "%s names ring %u; there are at most %d", name, m->p.state.idx,
                       VU_MAX_RINGS);
    }
    if (m->desc->shape == VU_SHAPE_RING_FD &&
        m->p.u64 & ~(uint64_t)(VU_RING_FD_IDX | VU_RING_FD_NONE)) {
        return err_set(e, -EPROTO, "%s has reserved bits in 0x%llx", name,
                       (unsigned long long)m->p.u64);
    }
    if (m->h.request == VU_SET_VRING_NUM && (!m->p.state.num || m->p.state.num > VRING_MAX_NUM)) {
        return err_set(e, -EPROTO, "%s gives ring %u a size of %u; 1 to %d are possible", name,
                       m->p.state.idx, m->p.state.num, VRING_MAX_NUM);
    }
    if (m->h.request == VU_SET_VRING_ENABLE && m->p.state.num > 1) {
        return err_set(e, -EPROTO, "%s of ring %u says %u, not 0 or 1", name, m->p.state.idx,
                       m->p.state.num);
    }
    return 0;
}

static int check_config(const struct vu_msg *m, struct err *e)
{
    const struct vu_config *c = &m->p.config;

    if (c->size != m->h.size - VU_CONFIG_HEAD || c->offset > VU_CONFIG_MAX ||
        c->size > VU_CONFIG_MAX - c->offset) {
        return err_set(e, -EPROTO, "%s is about %u bytes at %u in a payload of %u bytes",
                       m->desc->name, c->size, c->offset, m->h.size);
    }
    return 0;
}

int vu_check_message(const struct vu_msg *m, struct err *e)
{
    if (m->desc->shape == VU_SHAPE_TABLE &&
        m->p.table.n != (m->h.size - VU_MEM_TABLE_HEAD) / sizeof(struct vu_region)) {
        return err_set(e, -EPROTO, "%s announces %u regions in a payload of %u bytes",
                       m->desc->name, m->p.table.n, m->h.size);
    }
    int rc = check_fds(m, e);

    if (!rc && m->desc->shape == VU_SHAPE_CONFIG) {
        return check_config(m, e);
    }
    return rc || vu_msg_ring(m) < 0 ? rc : check_ring_message(m, e);
}
