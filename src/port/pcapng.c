/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block is: type, length, body, options, length again.  An option is: code, length, value; values
 * and bodies are padded to 4 bytes.  Bodies are small and built in memory, frames go straight out.
 * Numbers are in host order, which the section header tells.
 */
#include "port/pcapng.h"

#include <errno.h>
#include <string.h>

enum { BLOCK_SECTION = PCAPNG_MAGIC, BLOCK_INTERFACE = 1, BLOCK_STATISTICS = 5, BLOCK_FRAME = 6 };
enum {
    OPT_END = 0,
    OPT_COMMENT = 1,
    SHB_USERAPPL = 4,
    IF_NAME = 2,
    IF_TSRESOL = 9,
    IF_FILTER = 11,
    EPB_FLAGS = 2,
    ISB_IFRECV = 4,
    ISB_IFDROP = 5,
};
#define BYTE_ORDER_MAGIC 0x1a2b3c4du
#define LINKTYPE_ETHERNET 1
#define FLAG_INBOUND 1u
#define FLAG_OUTBOUND 2u

/* Parts of a block, small ones. */
struct part {
    uint8_t b[2048];
    uint32_t len;
};

static void put(struct part *p, const void *v, uint32_t len)
{
    assert(p->len + len <= sizeof(p->b));
    memcpy(p->b + p->len, v, len);
    p->len += len;
}

static void put_u16(struct part *p, unsigned v)
{
    put(p, &(uint16_t){(uint16_t)v}, 2);
}

static void put_u32(struct part *p, uint32_t v)
{
    put(p, &v, 4);
}

/* Time stamps are two words, the upper one first, whatever the byte order. */
static void put_time(struct part *p, uint64_t ns)
{
    put_u32(p, (uint32_t)(ns >> 32));
    put_u32(p, (uint32_t)ns);
}

static uint32_t padding(uint32_t len)
{
    return -len & 3;
}

static void put_option(struct part *p, unsigned code, const void *v, uint32_t len)
{
    put_u16(p, code);
    put_u16(p, len);
    put(p, v, len);
    put(p, &(uint32_t){0}, padding(len));
}

static void put_text(struct part *p, unsigned code, const char *text)
{
    uint32_t room = (uint32_t)sizeof(p->b) - p->len - 16; /* this option's head, and the last option */

    put_option(p, code, text, MIN((uint32_t)strlen(text), room));
}

static int write_out(FILE *f, const void *v, uint32_t len)
{
    return fwrite(v, 1, len, f) == len ? 0 : errno ? -errno : -EIO;
}

/* head, then len bytes padded, then options (with their end if there are any). */
static int block(FILE *f, uint32_t type, const struct part *head, const void *bytes, uint32_t len,
                 struct part *options)
{
    if (options->len) {
        put_u32(options, OPT_END);
    }
    uint32_t total = 12 + head->len + len + padding(len) + options->len;
    uint32_t front[2] = {type, total};
    int rc = write_out(f, front, sizeof(front));

    rc = rc ? rc : write_out(f, head->b, head->len);
    rc = rc ? rc : write_out(f, bytes, len);
    rc = rc ? rc : write_out(f, &(uint32_t){0}, padding(len));
    rc = rc ? rc : write_out(f, options->b, options->len);
    return rc ? rc : write_out(f, &total, sizeof(total));
}

int pcapng_begin(FILE *f, const char *name, const char *filter, uint32_t snaplen)
{
    struct part head, options;
    int rc;

    head.len = options.len = 0;
    put_u32(&head, BYTE_ORDER_MAGIC);
    put_u16(&head, 1);
    put_u16(&head, 0);
    put(&head, &(uint64_t){UINT64_MAX}, 8); /* length of the section: not said */
    put_text(&options, SHB_USERAPPL, "ringway");
    rc = block(f, BLOCK_SECTION, &head, NULL, 0, &options);

    head.len = options.len = 0;
    put_u16(&head, LINKTYPE_ETHERNET);
    put_u16(&head, 0);
    put_u32(&head, snaplen);
    put_text(&options, IF_NAME, name);
    put_option(&options, IF_TSRESOL, &(uint8_t){9}, 1);
    if (filter && *filter) {
        char text[1024];
        int n = snprintf(text + 1, sizeof(text) - 1, "%s", filter);

        text[0] = 0; /* it is a libpcap filter string */
        put_option(&options, IF_FILTER, text, MIN((uint32_t)n + 1, (uint32_t)sizeof(text) - 1));
    }
    return rc ? rc : block(f, BLOCK_INTERFACE, &head, NULL, 0, &options);
}

int pcapng_frame(FILE *f, const struct capture_rec *rec, const uint8_t *bytes, const char *comment)
{
    uint32_t flags = rec->dir == CAPTURE_IN ? FLAG_INBOUND : FLAG_OUTBOUND;
    struct part head, options;

    head.len = options.len = 0;
    put_u32(&head, 0); /* the interface */
    put_time(&head, rec->time_ns);
    put_u32(&head, rec->cap_len);
    put_u32(&head, rec->len);

    struct vnet_hdr h;
    char text[512];

    memcpy(&h, rec->vnet, sizeof(h));
    vnet_hdr_text(&h, text, sizeof(text));
    if (comment && *comment) {
        size_t n = strlen(text);

        snprintf(text + n, sizeof(text) - n, "%s%s", n ? "; " : "", comment);
    }
    if (*text) {
        put_text(&options, OPT_COMMENT, text);
    }
    put_option(&options, EPB_FLAGS, &flags, sizeof(flags));
    return block(f, BLOCK_FRAME, &head, bytes, rec->cap_len, &options);
}

int pcapng_end(FILE *f, uint64_t time_ns, uint64_t n, uint64_t lost)
{
    struct part head, options;

    head.len = options.len = 0;
    put_u32(&head, 0);
    put_time(&head, time_ns);
    put_option(&options, ISB_IFRECV, &n, sizeof(n));
    put_option(&options, ISB_IFDROP, &lost, sizeof(lost));
    return block(f, BLOCK_STATISTICS, &head, NULL, 0, &options);
}
