/* SPDX-License-Identifier: Apache-2.0 */
#include "port/capture_filter.h"

#include <errno.h>
#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>

#define MSH_MAX (4 * 15) /* the largest X that ldx 4*([k]&0xf) loads */

/* What bpf_filter() knows; it aborts at anything else. */
static bool code_known(uint16_t code)
{
    static const uint16_t known[] = {
        BPF_RET | BPF_K,           BPF_RET | BPF_A,
        BPF_LD | BPF_W | BPF_ABS,  BPF_LD | BPF_H | BPF_ABS,  BPF_LD | BPF_B | BPF_ABS,
        BPF_LD | BPF_W | BPF_IND,  BPF_LD | BPF_H | BPF_IND,  BPF_LD | BPF_B | BPF_IND,
        BPF_LD | BPF_W | BPF_LEN,  BPF_LDX | BPF_W | BPF_LEN, BPF_LDX | BPF_B | BPF_MSH,
        BPF_LD | BPF_IMM,          BPF_LDX | BPF_IMM,         BPF_LD | BPF_MEM,
        BPF_LDX | BPF_MEM,         BPF_ST,                    BPF_STX,
        BPF_JMP | BPF_JA,
        BPF_JMP | BPF_JGT | BPF_K, BPF_JMP | BPF_JGE | BPF_K, BPF_JMP | BPF_JEQ | BPF_K,
        BPF_JMP | BPF_JSET | BPF_K, BPF_JMP | BPF_JGT | BPF_X, BPF_JMP | BPF_JGE | BPF_X,
        BPF_JMP | BPF_JEQ | BPF_X, BPF_JMP | BPF_JSET | BPF_X,
        BPF_ALU | BPF_ADD | BPF_X, BPF_ALU | BPF_SUB | BPF_X, BPF_ALU | BPF_MUL | BPF_X,
        BPF_ALU | BPF_DIV | BPF_X, BPF_ALU | BPF_MOD | BPF_X, BPF_ALU | BPF_AND | BPF_X,
        BPF_ALU | BPF_OR | BPF_X,  BPF_ALU | BPF_XOR | BPF_X, BPF_ALU | BPF_LSH | BPF_X,
        BPF_ALU | BPF_RSH | BPF_X,
        BPF_ALU | BPF_ADD | BPF_K, BPF_ALU | BPF_SUB | BPF_K, BPF_ALU | BPF_MUL | BPF_K,
        BPF_ALU | BPF_DIV | BPF_K, BPF_ALU | BPF_MOD | BPF_K, BPF_ALU | BPF_AND | BPF_K,
        BPF_ALU | BPF_OR | BPF_K,  BPF_ALU | BPF_XOR | BPF_K, BPF_ALU | BPF_LSH | BPF_K,
        BPF_ALU | BPF_RSH | BPF_K, BPF_ALU | BPF_NEG,
        BPF_MISC | BPF_TAX,        BPF_MISC | BPF_TXA,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
        if (known[i] == code) {
            return true;
        }
    }
    return false;
}

/* Instruction i of n. NULL, or what is wrong with it. */
static const char *insn_fault(const struct bpf_insn *p, unsigned i, unsigned n)
{
    unsigned ahead = n - i - 1; /* instructions behind this one: how far it may jump, less one */

    if (!code_known(p->code)) {
        return "is none";
    }
    switch (BPF_CLASS(p->code)) {
    case BPF_JMP:
        if (BPF_OP(p->code) == BPF_JA ? p->k >= ahead : p->jt >= ahead || p->jf >= ahead) {
            return "jumps back or out of the program";
        }
        break;
    case BPF_ST:
    case BPF_STX:
        return p->k >= BPF_MEMWORDS ? "uses memory that is not there" : NULL;
    case BPF_LD:
    case BPF_LDX:
        if (BPF_MODE(p->code) == BPF_MEM && p->k >= BPF_MEMWORDS) {
            return "uses memory that is not there";
        }
        if (BPF_MODE(p->code) == BPF_ABS && p->k > INT32_MAX) { /* SKF_AD_OFF in the Linux kernel */
            return "asks for what is not in the frame; a direction is not part of the filter";
        }
        break;
    case BPF_ALU:
        if (BPF_SRC(p->code) == BPF_K && p->k == 0 &&
            (BPF_OP(p->code) == BPF_DIV || BPF_OP(p->code) == BPF_MOD)) {
            return "divides by zero";
        }
        if (BPF_SRC(p->code) == BPF_K && p->k > 31 &&
            (BPF_OP(p->code) == BPF_LSH || BPF_OP(p->code) == BPF_RSH)) {
            return "shifts by more than 31";
        }
        break;
    default:
        break;
    }
    return NULL;
}

static uint32_t access_size(uint16_t code)
{
    return BPF_SIZE(code) == BPF_W ? 4 : BPF_SIZE(code) == BPF_H ? 2 : 1;
}

/* The bytes that the program can look at, whatever they are. */
static uint32_t find_reach(const struct bpf_insn *p, unsigned n)
{
    uint64_t x_max = MSH_MAX, reach = 0;

    for (unsigned i = 0; i < n; i++) {
        if (p[i].code == (BPF_LDX | BPF_IMM)) {
            x_max = MAX(x_max, p[i].k);
        } else if ((BPF_CLASS(p[i].code) == BPF_LDX && BPF_MODE(p[i].code) != BPF_MSH) ||
                   p[i].code == (BPF_MISC | BPF_TAX)) {
            x_max = UINT32_MAX;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        uint64_t end = 0;

        if (BPF_CLASS(p[i].code) != BPF_LD && BPF_CLASS(p[i].code) != BPF_LDX) {
            continue;
        }
        switch (BPF_MODE(p[i].code)) {
        case BPF_ABS:
            end = (uint64_t)p[i].k + access_size(p[i].code);
            break;
        case BPF_IND:
            end = x_max + p[i].k + access_size(p[i].code);
            break;
        case BPF_MSH:
            end = (uint64_t)p[i].k + 1;
            break;
        default:
            break;
        }
        reach = MAX(reach, end);
    }
    return (uint32_t)MIN(reach, UINT32_MAX);
}

/* A decimal number up to max and the byte that ends it; false if it is none. */
static bool take(const char **at, char end, unsigned long max, unsigned long *out)
{
    char *rest;

    errno = 0;
    if (**at < '0' || **at > '9') {
        return false;
    }
    *out = strtoul(*at, &rest, 10);
    if (errno || *out > max || *rest != end) {
        return false;
    }
    *at = rest + 1;
    return true;
}

static int read_insns(struct capture_filter *f, const char *at, struct err *e)
{
    for (unsigned i = 0; i < f->n; i++) {
        unsigned long code, jt, jf, k;

        if (!take(&at, ' ', UINT16_MAX, &code) || !take(&at, ' ', UINT8_MAX, &jt) ||
            !take(&at, ' ', UINT8_MAX, &jf) || !take(&at, i + 1 < f->n ? ',' : '\0', UINT32_MAX, &k)) {
            return err_set(e, -EINVAL, "filter: instruction %u is not \"code jt jf k\"", i);
        }
        f->insn[i] = (struct bpf_insn){(u_short)code, (u_char)jt, (u_char)jf, (bpf_u_int32)k};

        const char *fault = insn_fault(&f->insn[i], i, f->n);

        if (fault) {
            return err_set(e, -EINVAL, "filter: instruction %u %s", i, fault);
        }
    }
    if (BPF_CLASS(f->insn[f->n - 1].code) != BPF_RET || !bpf_validate(f->insn, (int)f->n)) {
        return err_set(e, -EINVAL, "filter: not a valid BPF program");
    }
    return 0;
}

int capture_filter_parse(struct capture_filter *f, const char *text, struct err *e)
{
    unsigned long n;
    int rc;

    *f = (struct capture_filter){0};
    if (!text || !*text) {
        return 0;
    }
    if (!take(&text, ',', CAPTURE_FILTER_MAX, &n) || !n) {
        return err_set(e, -EINVAL,
                       "filter: \"N,code jt jf k,...\" with at most %d instructions is wanted, as "
                       "tcpdump -ddd prints them",
                       CAPTURE_FILTER_MAX);
    }
    f->insn = calloc(n, sizeof(*f->insn));
    f->n = (unsigned)n;
    rc = f->insn ? read_insns(f, text, e) : err_set(e, -ENOMEM, "out of memory");
    if (rc) {
        capture_filter_free(f);
        return rc;
    }
    f->reach = find_reach(f->insn, f->n);
    return 0;
}

void capture_filter_free(struct capture_filter *f)
{
    free(f->insn);
    *f = (struct capture_filter){0};
}

bool capture_filter_match(const struct capture_filter *f, const uint8_t *buf, uint32_t len,
                          uint32_t buf_len)
{
    return bpf_filter(f->insn, buf, len, buf_len);
}
