/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VLANs on the data path: which VLAN is a frame in, and what does it wear when it leaves?  Included
 * by dp/bridge.c (and, for the layout of the view, by the control thread).  The rules are those of
 * a Linux bridge with vlan_filtering, see dp/vlan.h.
 *
 * A frame keeps the tag that it came with until a port wants it otherwise; then the snapshot is
 * edited.  So from trunk to trunk nothing is touched, and a flood edits a frame at most once per
 * change between tagged and untagged receivers.  What a frame wears at the moment is in
 * vlan_batch.worn, what its tag says or would say in vlan_batch.tci.
 *
 * Priority: a tag of VID 0 becomes a tag of the pvid with its priority and drop eligibility.  Both
 * leave with the tag where the VLAN is untagged, as on a Linux bridge.
 */
#ifndef DP_VLAN_HOT_H
#define DP_VLAN_HOT_H

#include "base/compiler.h"
#include "dp/vlan.h"
#include "pkt/drop.h"
#include "pkt/tag.h"

/* VLANs of a port of a bridge that filters. */
struct view_vlan {
    const uint16_t *fid; /* of its bridge: the fid of each VLAN, 0 where nobody is a member */
    uint16_t tpid;       /* of its tags */
    uint16_t pvid;       /* 0: none; else a member */
    struct vlan_set member, untagged;
};

/* What is known of the frames of a batch beside the frames. */
struct vlan_batch {
    uint16_t fid[PKT_BURST];  /* 0: refused */
    uint16_t tci[PKT_BURST];  /* VID and priority */
    uint16_t worn[PKT_BURST]; /* TPID of the tag that it wears, 0: none */
    uint8_t why[PKT_BURST];   /* enum drop, if refused */
};

static ALWAYS_INLINE uint16_t vlan_vid(const struct vlan_batch *vb, unsigned i)
{
    return vb->tci[i] & TAG_VID;
}

/* Are frames i and j in the same VLAN, or refused for the same reason? */
static ALWAYS_INLINE bool vlan_same(const struct vlan_batch *vb, unsigned i, unsigned j)
{
    return vb->fid[i] == vb->fid[j] && (vb->fid[i] || vb->why[i] == vb->why[j]);
}

static ALWAYS_INLINE void vlan_classify_one(const struct view_vlan *in, struct pkt *p,
                                            struct vlan_batch *vb, unsigned i)
{
    uint16_t tci = 0, worn = 0;

    vb->fid[i] = 0;
    if (pkt_be16(p, TAG_AT) == in->tpid) {
        if (unlikely(p->len < PKT_MIN_LEN + TAG_LEN)) {
            vb->why[i] = DROP_VLAN_MALFORMED;
            return;
        }
        worn = in->tpid;
        tci = pkt_be16(p, TAG_AT + 2);
    } else if (unlikely(p->len > PKT_MAX_LEN - TAG_LEN)) {
        vb->why[i] = DROP_GIANT; /* with its tag it would be one */
        return;
    }
    if (!(tci & TAG_VID)) {
        if (unlikely(!in->pvid)) {
            vb->why[i] = DROP_VLAN_UNTAGGED;
            return;
        }
        tci |= in->pvid;
        if (worn) {
            pkt_set_be16(p, TAG_AT + 2, tci);
        }
    }
    if (unlikely(!vlan_set_has(&in->member, tci & TAG_VID))) {
        vb->why[i] = DROP_VLAN_DENIED;
        return;
    }
    vb->fid[i] = in->fid[tci & TAG_VID];
    vb->tci[i] = tci;
    vb->worn[i] = worn;
}

static ALWAYS_INLINE void vlan_classify(const struct view_vlan *in, struct batch *b,
                                        struct vlan_batch *vb)
{
    for (unsigned i = 0; i < b->n; i++) {
        vlan_classify_one(in, &b->pkt[i], vb, i);
    }
}

/* Have frames wear what this port wants: the right tag, or none. */
static ALWAYS_INLINE void vlan_dress(const struct view_vlan *out, struct batch *b,
                                     const uint8_t *idx, uint32_t n, struct vlan_batch *vb)
{
    for (uint32_t k = 0; k < n; k++) {
        unsigned i = idx[k];
        uint16_t want = vlan_set_has(&out->untagged, vlan_vid(vb, i)) ? 0 : out->tpid;

        if (vb->worn[i] == want) {
            continue;
        }
        if (!want) {
            pkt_pop_tag(&b->pkt[i]);
        } else if (!vb->worn[i]) {
            pkt_push_tag(&b->pkt[i], want, vb->tci[i]);
        } else {
            pkt_set_be16(&b->pkt[i], TAG_AT, want);
        }
        vb->worn[i] = want;
    }
}

#endif
