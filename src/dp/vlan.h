/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VLANs as they are configured, with the meaning that they have on a Linux bridge
 * (bridge(8), "vlan").
 *
 * A port is a member of some VLANs.  A frame that carries a tag of the port's protocol is in that
 * VLAN, if the port is a member of it; one that carries none, or only a priority (VID 0), is in the
 * port's pvid, if there is one; anything else is dropped.  A frame leaves through members only:
 * tagged, or untagged where the VLAN is marked so.
 *
 * The keys of a port, which the command line, the file and `show config` share:
 *
 *   vlan=10                access port: member of 10 only, pvid, untagged
 *   trunk=10-20+30         tagged member of these
 *   native=5               beside trunk: member of 5 too, pvid, untagged
 *   qinq=100               as vlan=100 with vlan-protocol=802.1ad: tags of its own stay inside
 *   pvid=5, untagged=5+6   the same in parts, for what the words above cannot say
 *   vlan-protocol=802.1ad  which tags are VLAN tags here
 *
 * 0 says the same as leaving a VLAN out; trunk=none makes a port that is a member of nothing.
 *
 * A bridge filters VLANs when it is told to, or when it is not told and one of its ports has keys
 * of these; else it passes frames with and without tags alike.  On a bridge that filters, a port
 * without keys is in the bridge's default VLAN, untagged.
 *
 * Threads: control thread only.
 */
#ifndef DP_VLAN_H
#define DP_VLAN_H

#include "base/compiler.h"
#include "base/err.h"
#include "port/port.h"

#define VLAN_VID_MAX      4094 /* 4095 is reserved, 0 is none */
#define VLAN_DEFAULT_PVID 1
#define VLAN_PROTO_8021Q  0x8100
#define VLAN_PROTO_8021AD 0x88a8
#define VLAN_PROTO_WORDS  "802.1Q|802.1ad"

struct vlan_set {
    uint64_t bit[64]; /* one per VID */
};

static ALWAYS_INLINE bool vlan_set_has(const struct vlan_set *s, uint16_t vid)
{
    return s->bit[vid / 64] >> (vid % 64) & 1;
}

static inline void vlan_set_put(struct vlan_set *s, uint16_t vid, bool in)
{
    uint64_t one = 1ull << (vid % 64);

    s->bit[vid / 64] = in ? s->bit[vid / 64] | one : s->bit[vid / 64] & ~one;
}

bool vlan_set_empty(const struct vlan_set *s);
/* The first VID of s that is not below vid, or 0. */
uint16_t vlan_set_next(const struct vlan_set *s, uint16_t vid);
/* "10", "10-20+30", "10-20,30" or "none" -> *s. */
int vlan_set_parse(struct vlan_set *s, const char *text, struct err *e);
/* As above, with '+'; malloc'ed, NULL when out of memory. */
char *vlan_set_text(const struct vlan_set *s);

/* One of VLAN_PROTO_WORDS -> its TPID; 0 if it is neither. */
uint16_t vlan_proto_parse(const char *text);
const char *vlan_proto_name(uint16_t tpid);

/* The VLANs of one port. */
struct vlan_conf {
    bool own;          /* false: no keys; the bridge's default VLAN */
    uint16_t protocol; /* TPID, 0: the bridge's */
    uint16_t pvid;     /* 0: none; else a member */
    struct vlan_set member;
    struct vlan_set untagged; /* of the members, on egress */
};

/* Is this one of the keys above? */
bool vlan_key(const char *key);
/* Does it take several VLANs? */
bool vlan_key_list(const char *key);
/* For tables of keys: is the value a list of VLANs? */
int vlan_check_trunk(const char *value, struct err *e);
int vlan_check_untagged(const char *value, struct err *e);
/* Read these keys of a port, whose values were checked; others are ignored. -EINVAL if they do not
 * go together. */
int vlan_conf_read(struct vlan_conf *v, const struct port_conf *c, struct err *e);
/* Replace these keys of c by those that say v. 0 or -ENOMEM. */
int vlan_conf_write(const struct vlan_conf *v, struct port_conf *c);
/* Set one of these keys in c, or take it out if its value says no VLAN; keys that it excludes go.
 * Not checked. 0 or -ENOMEM. */
int vlan_conf_set_key(struct port_conf *c, const char *key, const char *value);

#endif
