/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VLANs: the words, the keys of a port and what the bridge does with frames.  Frames are compared
 * byte by byte with a model that is obviously right: it knows one frame, one port and one address
 * at a time, and builds what leaves from scratch.
 */
#ifndef COPY_COUNT
#define COPY_COUNT /* as the library that this is linked with */
#endif

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <event2/event.h>

#include "base/clock.h"
#include "base/log.h"
#include "dp/dp.h"
#include "dp/vlan.h"
#include "pkt/copy.h"
#include "pkt/tag.h"
#include "port/port_dummy.h"

#define Q  VLAN_PROTO_8021Q
#define AD VLAN_PROTO_8021AD

static struct event_base *base;
static struct dp *dp;
static struct err err;

static int setup(void **state)
{
    base = event_base_new();
    clock_stop();
    struct dp_conf c = {.evbase = base,
                        .rundir = "/nonexistent",
                        .n_workers = 1,
                        .mac_size = 4096,
                        .no_threads = true};
    memset(&err, 0, sizeof(err));
    return dp_create(&dp, &c, &err);
}

static int teardown(void **state)
{
    dp_destroy(dp);
    event_base_free(base);
    return 0;
}

static int try_add(const char *arg)
{
    struct port_conf c;

    memset(&err, 0, sizeof(err));
    assert_int_equal(port_conf_parse(&c, arg, &err), 0);
    int rc = dp_port_add(dp, &c, &err);
    port_conf_free(&c);
    return rc;
}

static struct port *add(const char *arg)
{
    char name[64];

    if (try_add(arg)) {
        fail_msg("%s: %s", arg, err.text);
    }
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(arg, "="), arg);
    return dp_port(dp, name);
}

static void run(void)
{
    for (unsigned i = 0; i < 100000 && dp_run_once(dp); i++) {
    }
}

static struct vlan_set vids(const char *text)
{
    struct vlan_set s;

    assert_int_equal(vlan_set_parse(&s, text, &err), 0);
    return s;
}

static void vlan_add(const char *port, const char *text, bool pvid, bool untagged)
{
    struct vlan_set s = vids(text);

    if (dp_vlan_add(dp, port, &s, pvid, untagged, &err)) {
        fail_msg("%s %s: %s", port, text, err.text);
    }
}

static void vlan_del(const char *port, const char *text)
{
    struct vlan_set s = vids(text);

    if (dp_vlan_del(dp, port, &s, &err)) {
        fail_msg("%s %s: %s", port, text, err.text);
    }
}

static void bridge(const char *name, enum vlan_filtering f, uint16_t protocol, uint16_t pvid)
{
    struct bridge_conf c = {BRIDGE_CONF_DEFAULTS};

    c.vlan_filtering = f;
    c.vlan_protocol = protocol;
    c.vlan_default_pvid = pvid;
    snprintf(c.name, sizeof(c.name), "%s", name);
    assert_int_equal(dp_bridge_set(dp, &c, &err), 0);
}

static uint64_t drops(const struct port *p, enum drop why)
{
    struct port_counters c;

    port_counters_sum(p, &c);
    return c.drop[why];
}

/* ---- frames ------------------------------------------------------------------------------- */

/* A station's address; stations 0 and 1 are groups. */
static void mac_of(uint8_t out[6], unsigned station)
{
    static const uint8_t mac[6] = {0x02, 0, 0, 0, 7, 0};

    memcpy(out, mac, 6);
    out[0] |= station < 2;
    out[5] = (uint8_t)station;
}

/* Type and TCI of up to two tags, then payload up to len. Returns the length. */
static uint32_t build(uint8_t *f, unsigned dst, unsigned src, const uint16_t (*tag)[2],
                      unsigned n_tags, uint32_t len, uint8_t seed)
{
    uint32_t at = 12;

    mac_of(f, dst);
    mac_of(f + 6, src);
    for (unsigned i = 0; i < n_tags; i++, at += 4) {
        f[at] = (uint8_t)(tag[i][0] >> 8);
        f[at + 1] = (uint8_t)tag[i][0];
        f[at + 2] = (uint8_t)(tag[i][1] >> 8);
        f[at + 3] = (uint8_t)tag[i][1];
    }
    for (; at < len; at++) {
        f[at] = (uint8_t)(at * 5 + seed);
    }
    return MAX(len, 14u);
}

static void say(struct port *p, unsigned dst, unsigned src, uint16_t tpid, uint16_t tci)
{
    const uint16_t tag[1][2] = {{tpid, tci}};
    uint8_t f[100];

    dummy_inject(p, f, build(f, dst, src, tag, tpid != 0, 60, 0x11));
    run();
}

/* What arrived: its TPID and TCI (0, 0: no tag of ours), -1 if nothing or several did. */
static int64_t got(struct port *p)
{
    uint32_t len;
    const uint8_t *f = dummy_sent(p, 0, &len);
    int64_t r = -1;

    if (dummy_n_sent(p) == 1) {
        uint16_t type = (uint16_t)(f[12] << 8 | f[13]);

        r = type == Q || type == AD ? (int64_t)type << 16 | f[14] << 8 | f[15] : 0;
    }
    dummy_clear(p);
    return r;
}

static int64_t tag(uint16_t tpid, uint16_t tci)
{
    return (int64_t)tpid << 16 | tci;
}

/* ---- words -------------------------------------------------------------------------------- */

static void test_sets(void **state)
{
    static const struct {
        const char *in, *out;
    } good[] = {
        {"10", "10"},     {"10-20", "10-20"},    {"10-20+30", "10-20+30"},    {"10,11,12", "10-12"},
        {"4094", "4094"}, {"1-4094", "1-4094"},  {"30+10-12+12", "10-12+30"}, {"none", "none"},
        {"5-5", "5"},     {"63+64+65", "63-65"}, {"127-129,1", "1+127-129"},
    };
    static const char *const bad[] = {
        "",    "0",     "4095", "10-", "-10",    "10-5", "a",
        "10+", "10,,2", "1 2",  "0-5", "1-4095", "+1",   "99999999999999999999"};

    for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
        struct vlan_set s = vids(good[i].in);
        char *text = vlan_set_text(&s);

        assert_string_equal(text, good[i].out);
        free(text);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct vlan_set s;

        assert_int_equal(vlan_set_parse(&s, bad[i], &err), -EINVAL);
        assert_non_null(strstr(err.text, "is not a list of VLANs"));
    }
}

/* Any VLANs that a port can have are read back from the keys that say them. */
static void test_keys_round_trip(void **state)
{
    unsigned seed = 5;

    for (unsigned i = 0; i < 20000; i++) {
        struct vlan_conf v = {.own = true}, back;
        struct port_conf c = {.name = strdup("p"), .kind = strdup("dummy")};
        unsigned n = (unsigned)rand_r(&seed) % 5;
        static const uint16_t protocols[] = {0, 0, Q, AD};

        v.protocol = protocols[rand_r(&seed) % 4];
        for (unsigned k = 0; k < n; k++) {
            uint16_t vid = (uint16_t)(1 + rand_r(&seed) % (i % 2 ? 6 : VLAN_VID_MAX));

            vlan_set_put(&v.member, vid, true);
            vlan_set_put(&v.untagged, vid, rand_r(&seed) % 2);
            v.pvid = rand_r(&seed) % 3 ? v.pvid : vid;
        }
        assert_int_equal(vlan_conf_write(&v, &c), 0);
        assert_int_equal(vlan_conf_read(&back, &c, &err), 0);
        assert_memory_equal(&v, &back, sizeof(v));
        port_conf_free(&c);
    }
}

static void test_what_keys_say(void **state)
{
    static const struct {
        const char *keys, *back;
        uint16_t protocol, pvid;
        const char *member, *untagged;
    } t[] = {
        {"vlan=10", "vlan=10", 0, 10, "10", "10"},
        {"trunk=10-20+30", "trunk=10-20+30", 0, 0, "10-20+30", "none"},
        {"trunk=10-20,native=5", "trunk=10-20,native=5", 0, 5, "5+10-20", "5"},
        {"native=5,trunk=5-6", "trunk=6,native=5", 0, 5, "5-6", "5"},
        {"qinq=100", "qinq=100", AD, 100, "100", "100"},
        {"vlan=100,vlan-protocol=802.1ad", "qinq=100", AD, 100, "100", "100"},
        {"trunk=7,vlan-protocol=802.1ad", "vlan-protocol=802.1ad,trunk=7", AD, 0, "7", "none"},
        {"untagged=5-6,pvid=5", "untagged=5-6,pvid=5", 0, 5, "5-6", "5-6"},
        {"pvid=5", "trunk=5,pvid=5", 0, 5, "5", "none"},
        {"trunk=none", "trunk=none", 0, 0, "none", "none"},
        {"vlan=0,trunk=9", "trunk=9", 0, 0, "9", "none"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        char arg[100], back[100] = "";
        struct port_conf c;
        struct vlan_conf v;

        snprintf(arg, sizeof(arg), "p=dummy,%s", t[i].keys);
        assert_int_equal(port_conf_parse(&c, arg, &err), 0);
        assert_int_equal(dp_port_check(&c, &err), 0);
        assert_int_equal(vlan_conf_read(&v, &c, &err), 0);
        assert_true(v.own);
        assert_int_equal(v.protocol, t[i].protocol);
        assert_int_equal(v.pvid, t[i].pvid);
        struct vlan_set member = vids(t[i].member), untagged = vids(t[i].untagged);
        assert_memory_equal(&v.member, &member, sizeof(member));
        assert_memory_equal(&v.untagged, &untagged, sizeof(untagged));
        assert_int_equal(vlan_conf_write(&v, &c), 0);
        for (unsigned k = 0; k < c.n_opt; k++) {
            snprintf(back + strlen(back), sizeof(back) - strlen(back), "%s%s=%s", k ? "," : "",
                     c.opt[k].key, c.opt[k].value);
        }
        assert_string_equal(back, t[i].back);
        port_conf_free(&c);
    }
}

static void test_refused_keys(void **state)
{
    static const struct {
        const char *arg, *says;
    } t[] = {
        {"p=dummy,vlan=4095", "vlan=4095 is not a number from 0 to 4094"},
        {"p=dummy,vlan=ten", "vlan=ten is not a number"},
        {"p=dummy,trunk=10-", "trunk: \"10-\" is not a list of VLANs"},
        {"p=dummy,untagged=x", "untagged: \"x\" is not a list of VLANs"},
        {"p=dummy,vlan=1,trunk=2", "vlan and trunk exclude each other"},
        {"p=dummy,qinq=1,vlan=2", "vlan and qinq exclude each other"},
        {"p=dummy,native=1,pvid=2", "native and pvid exclude each other"},
        {"p=dummy,qinq=1,vlan-protocol=802.1ad", "qinq and vlan-protocol exclude each other"},
        {"p=dummy,vlan-protocol=802.1x", "vlan-protocol=802.1x is none of 802.1Q|802.1ad"},
        {"p=dummy,valn=1", "did you mean \"vlan\"?"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_equal(try_add(t[i].arg), -EINVAL);
        assert_non_null(strstr(err.text, t[i].says));
        assert_non_null(strstr(err.text, "port p"));
    }
    struct port *all[4];
    assert_int_equal(dp_ports(dp, all, 4), 0);
}

/* ---- the tag on the snapshot -------------------------------------------------------------- */

static void test_tag_edits(void **state)
{
    struct batch *b = aligned_alloc(CACHE_LINE, sizeof(*b));
    uint8_t before[PKT_SNAP];

    for (unsigned kind = 0; kind < 3; kind++) {
        uint8_t *data = batch_snap(b, 0) + VNET_HDR_LEN;
        struct pkt p = {.data = data, .len = 1514, .snap_len = PKT_SNAP - VNET_HDR_LEN};
        struct vnet_hdr h = {.num_buffers = 1}, now;

        for (unsigned i = 0; i < p.snap_len; i++) {
            data[i] = (uint8_t)(i + 1);
        }
        if (kind) {
            h.flags = VNET_F_NEEDS_CSUM;
            h.csum_start = 34;
            h.csum_offset = 16;
        }
        if (kind == 2) {
            h.gso_type = VNET_GSO_TCPV4;
            h.gso_size = 1448;
            h.hdr_len = 66;
        }
        memcpy(data - VNET_HDR_LEN, &h, sizeof(h));
        memcpy(before, data - VNET_HDR_LEN, sizeof(before));
        pkt_push_tag(&p, AD, 0xe123);
        assert_int_equal(p.len, 1518);
        assert_int_equal(p.snap_len, PKT_SNAP - VNET_HDR_LEN + 4);
        assert_ptr_equal(p.data, data - 4);
        assert_memory_equal(p.data, before + VNET_HDR_LEN, 12);
        assert_memory_equal(p.data + 12, "\x88\xa8\xe1\x23", 4);
        assert_memory_equal(p.data + 16, before + VNET_HDR_LEN + 12, p.snap_len - 16);
        memcpy(&now, p.data - VNET_HDR_LEN, sizeof(now));
        assert_int_equal(now.csum_start, kind ? 38 : 0);
        assert_int_equal(now.hdr_len, kind == 2 ? 70 : 0);
        assert_int_equal(now.csum_offset, h.csum_offset);
        assert_int_equal(now.gso_size, h.gso_size);
        assert_int_equal(now.num_buffers, 1);
        pkt_pop_tag(&p);
        assert_ptr_equal(p.data, data);
        assert_int_equal(p.len, 1514);
        assert_int_equal(p.snap_len, PKT_SNAP - VNET_HDR_LEN);
        assert_memory_equal(p.data - VNET_HDR_LEN, before, sizeof(before));
    }
    free(b);
}

/* ---- where frames go ---------------------------------------------------------------------- */

/* A bridge of which nothing was said about VLANs passes every tag. */
static void test_transparent(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy");

    say(a, 9, 2, Q, 5);
    assert_int_equal(got(b), tag(Q, 5));
    say(a, 9, 2, AD, 0xe000);
    assert_int_equal(got(b), tag(AD, 0xe000));
    assert_false(dp_bridge_filters(dp, "br0"));
}

static void test_access_and_trunk(void **state)
{
    struct port *a = add("a=dummy,vlan=10"), *b = add("b=dummy,vlan=20"),
                *t = add("t=dummy,trunk=10-20");
    struct port *c = add("c=dummy,vlan=10"), *n = add("n=dummy,trunk=10,native=20");

    assert_true(dp_bridge_filters(dp, "br0"));
    say(a, 9, 2, 0, 0);
    assert_int_equal(got(t), tag(Q, 10));
    assert_int_equal(got(c), 0);
    assert_int_equal(got(b), -1);
    assert_int_equal(got(n), tag(Q, 10));
    say(t, 9, 3, Q, 0xa000 | 20); /* the priority is lost with the tag, and kept with it */
    assert_int_equal(got(b), 0);
    assert_int_equal(got(n), 0);
    assert_int_equal(got(a), -1);
    say(b, 9, 4, Q, 0x6000); /* a priority tag */
    assert_int_equal(got(t), tag(Q, 0x6000 | 20));
    assert_int_equal(got(n), 0);
    /* the same address in two VLANs is two stations */
    say(a, 9, 5, 0, 0);
    say(b, 9, 5, 0, 0);
    got(t), got(n), got(c);
    say(t, 5, 6, Q, 10);
    assert_int_equal(got(a), 0);
    say(t, 5, 6, Q, 20);
    assert_int_equal(got(b), 0);
    assert_int_equal(got(a), -1);
    /* refused */
    say(a, 9, 2, Q, 20);
    assert_int_equal(drops(a, DROP_VLAN_DENIED), 1);
    say(t, 9, 2, Q, 21);
    say(t, 9, 2, Q, 4095);
    assert_int_equal(drops(t, DROP_VLAN_DENIED), 2);
    say(t, 9, 2, 0, 0);
    say(t, 9, 2, Q, 0xe000);
    assert_int_equal(drops(t, DROP_VLAN_UNTAGGED), 2);
    say(t, 9, 2, Q, 15); /* nobody else is in it */
    assert_int_equal(drops(t, DROP_VLAN_NO_PORTS), 1);
    assert_int_equal(got(b) & got(c) & got(n), -1);
}

static void test_qinq(void **state)
{
    struct port *a = add("a=dummy,qinq=100"), *b = add("b=dummy,qinq=100");
    struct port *t = add("t=dummy,trunk=100-101,vlan-protocol=802.1ad");
    const uint16_t two[2][2] = {{AD, 0x2000 | 100}, {Q, 7}};
    uint8_t f[100];
    uint32_t len;

    say(a, 9, 2, Q, 7);
    assert_int_equal(dummy_n_sent(t), 1);
    const uint8_t *out = dummy_sent(t, 0, &len);
    assert_int_equal(len, 64);
    assert_memory_equal(out + 12, "\x88\xa8\x00\x64\x81\x00\x00\x07", 8);
    assert_int_equal(got(b), tag(Q, 7));
    dummy_clear(t);
    dummy_inject(t, f, build(f, 9, 3, two, 2, 64, 1));
    run();
    assert_int_equal(got(a), tag(Q, 7));
    assert_int_equal(got(b), tag(Q, 7));
    say(t, 9, 3, Q, 100); /* on this trunk that is no VLAN tag */
    assert_int_equal(drops(t, DROP_VLAN_UNTAGGED), 1);
}

static void test_malformed(void **state)
{
    struct port *a = add("a=dummy,vlan=10"), *b = add("b=dummy,vlan=10");
    const uint16_t t[1][2] = {{Q, 0x000a}};
    uint8_t *f = calloc(1, PKT_MAX_LEN);

    build(f, 9, 2, t, 1, 60, 1);
    for (uint32_t len = 14; len < 18; len++) {
        dummy_inject(a, f, len);
    }
    run();
    assert_int_equal(drops(a, DROP_VLAN_MALFORMED), 4);
    assert_int_equal(dummy_n_sent(b), 0);
    dummy_inject(a, f, 18);
    run();
    uint32_t len;
    dummy_sent(b, 0, &len);
    assert_int_equal(len, 14);
    dummy_clear(b);
    /* the largest frame that a tag can be put on */
    build(f, 9, 2, NULL, 0, PKT_MAX_LEN, 1);
    dummy_inject(a, f, PKT_MAX_LEN - 4);
    dummy_inject(a, f, PKT_MAX_LEN - 3);
    run();
    assert_int_equal(dummy_n_sent(b), 1);
    assert_int_equal(drops(a, DROP_GIANT), 1);
    free(f);
}

/* One copy per receiver and the snapshot, tagged or not. */
static void test_copied_bytes(void **state)
{
    struct port *a = add("a=dummy,vlan=10"), *t = add("t=dummy,trunk=10");
    uint8_t f[1514];
    uint32_t len = build(f, 9, 2, NULL, 0, sizeof(f), 1);
    uint64_t before = copy_bytes_counted;

    dummy_inject(a, f, len);
    run();
    assert_int_equal(copy_bytes_counted - before, len + 4 + PKT_SNAP - VNET_HDR_LEN);
    assert_int_equal(got(t), tag(Q, 10));
}

/* ---- addresses ---------------------------------------------------------------------------- */

static void test_static_addresses(void **state)
{
    struct port *a = add("a=dummy"), *b = add("b=dummy"), *c = add("c=dummy");
    const uint8_t mac[6] = {2, 0, 0, 0, 7, 9};

    assert_int_equal(dp_mac_add(dp, "a", mac, 5, &err), -EINVAL); /* no VLANs here */
    assert_int_equal(dp_mac_add(dp, "a", mac, 0, &err), 0);
    vlan_add("a", "10", false, false); /* filters from now on: the address is in a's pvid, 1 */
    vlan_add("b", "10", false, false);
    say(b, 9, 2, 0, 0);
    assert_int_equal(got(a), 0);
    assert_int_equal(got(c), -1);
    say(b, 9, 2, Q, 10); /* not known there */
    assert_int_equal(got(a), tag(Q, 10));
    assert_int_equal(dp_mac_add(dp, "b", mac, 10, &err), 0);
    assert_int_equal(dp_mac_add(dp, "c", mac, 10, &err), -EINVAL);
    assert_non_null(strstr(err.text, "port c is not a member of VLAN 10"));
    assert_int_equal(mactab_total(dp_mactab(dp)), 4); /* station 2 twice */
    assert_int_equal(dp_mac_flush(dp, NULL, NULL, 10, &err), 1);
    assert_int_equal(dp_mac_del(dp, NULL, mac, 11, &err), -ENOENT);
    assert_int_equal(dp_mac_del(dp, NULL, mac, 10, &err), 0);
    assert_int_equal(dp_mac_add(dp, "b", mac, 10, &err), 0);
    vlan_del("b", "10"); /* with the VLAN its addresses go, static or not */
    assert_int_equal(mactab_total(dp_mactab(dp)), 2);
    assert_int_equal(dp_mac_add(dp, "b", mac, 10, &err), -EINVAL);
    bridge("br0", VLAN_FILTERING_NO, Q, 1); /* back to no VLANs: still behind a */
    say(b, 9, 3, 0, 0);
    assert_int_equal(got(a), 0);
    assert_int_equal(got(c), -1);
    assert_int_equal(dp_mac_del(dp, NULL, mac, 0, &err), 0);
    assert_int_equal(mactab_total(dp_mactab(dp)), 1);
    bridge("br0", VLAN_FILTERING_YES, Q, 1);
    assert_int_equal(dp_mac_add(dp, "a", mac, 1, &err), 0);
    vlan_del("a", "1");
    assert_int_equal(dp_mac_add(dp, "a", mac, 0, &err), -EINVAL);
    assert_non_null(strstr(err.text, "has no pvid"));
}

static void test_change_of_membership(void **state)
{
    struct port *a = add("a=dummy,vlan=10"), *b = add("b=dummy,vlan=10"),
                *c = add("c=dummy,vlan=10");
    struct vlan_conf v;

    say(a, 9, 2, 0, 0);
    got(b), got(c);
    say(b, 2, 3, 0, 0);
    assert_int_equal(got(c), -1);
    assert_int_equal(got(a), 0);
    assert_int_equal(dp_port_set(dp, "a", "vlan", "20", &err), 0);
    say(b, 2, 3, 0, 0); /* station 2 is not known any more */
    assert_int_equal(got(c), 0);
    assert_int_equal(got(a), -1);
    assert_int_equal(dp_port_set(dp, "a", "trunk", "10+20", &err), 0); /* takes vlan's place */
    assert_null(port_conf_get(&a->conf, "vlan"));
    assert_string_equal(port_conf_get(&a->conf, "trunk"), "10+20");
    say(b, 9, 3, 0, 0);
    assert_int_equal(got(a), tag(Q, 10));
    vlan_add("a", "10", true, true);
    assert_string_equal(port_conf_get(&a->conf, "native"), "10");
    assert_string_equal(port_conf_get(&a->conf, "trunk"), "20");
    vlan_add("a", "10", false, true); /* flags that are not given go */
    assert_true(dp_vlan_get(dp, a, &v));
    assert_int_equal(v.pvid, 0);
    vlan_del("a", "10+20");
    assert_string_equal(port_conf_get(&a->conf, "trunk"), "none");
    struct vlan_set s = vids("10");
    assert_int_equal(dp_vlan_del(dp, "a", &s, &err), -ENOENT);
    s = vids("10-11");
    assert_int_equal(dp_vlan_add(dp, "a", &s, true, false, &err), -EINVAL);
    assert_int_equal(dp_vlan_add(dp, "nobody", &s, false, false, &err), -ENOENT);
    assert_int_equal(dp_port_set(dp, "a", "vlan", "5000", &err), -EINVAL);
    assert_int_equal(dp_port_set(dp, "a", "trunk", "none", &err), 0);
    assert_int_equal(dp_port_set(dp, "a", "vlan", "0", &err), 0); /* no VLANs of its own */
    assert_null(port_conf_get(&a->conf, "vlan"));
    assert_true(dp_vlan_get(dp, a, &v));
    assert_int_equal(v.pvid, 1);
}

/* Isolated ports, other bridges and reserved addresses are what they were. */
static void test_beside_vlans(void **state)
{
    struct port *a = add("a=dummy,vlan=10,isolated=yes"), *b = add("b=dummy,vlan=10,isolated=yes");
    struct port *t = add("t=dummy,trunk=10"), *x = add("x=dummy,bridge=br1,trunk=10");
    struct port *y = add("y=dummy,bridge=br1,trunk=10"), *z = add("z=dummy,bridge=br2");
    struct port *zz = add("zz=dummy,bridge=br2");
    uint8_t f[60] = {0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 7, 2, 0x81, 0, 0, 10};

    say(a, 9, 2, 0, 0);
    assert_int_equal(got(t), tag(Q, 10));
    assert_int_equal(got(b), -1);
    say(b, 2, 3, 0, 0);
    assert_int_equal(drops(b, DROP_ISOLATED), 1);
    say(x, 2, 9, Q, 10); /* 2 is not known on this bridge */
    assert_int_equal(got(y), tag(Q, 10));
    assert_int_equal(got(a) & got(b) & got(t), -1);
    say(z, 9, 2, Q, 77); /* nor does this one know VLANs */
    assert_int_equal(got(zz), tag(Q, 77));
    dummy_inject(t, f, sizeof(f));
    run();
    assert_int_equal(drops(t, DROP_RESERVED), 1);
    say(t, 9, 1, Q, 10);
    assert_int_equal(drops(t, DROP_SRC_MULTICAST), 1);
    say(a, 2, 2, 0, 0);
    assert_int_equal(drops(a, DROP_HAIRPIN), 1);
}

/* There are 65,535 fids; who asks for one more is told so, and nothing has changed. */
static void test_no_more_fids(void **state)
{
    char arg[64];
    unsigned n = 0;

    for (; n < 20; n++) {
        snprintf(arg, sizeof(arg), "p%u=dummy,bridge=b%u,trunk=1-4094", n, n);
        if (try_add(arg)) {
            break;
        }
    }
    assert_int_equal(n, (UINT16_MAX - BRIDGE_MAX) / VLAN_VID_MAX);
    assert_int_equal(err.code, -ENOSPC);
    assert_non_null(strstr(err.text, "no room for VLAN"));
    assert_null(dp_port(dp, arg));
    struct port *all[32];
    assert_int_equal(dp_ports(dp, all, 32), n);
    snprintf(arg, sizeof(arg), "q=dummy,bridge=b%u,vlan=7", n);
    struct port *q = add(arg), *r;
    snprintf(arg, sizeof(arg), "r=dummy,bridge=b%u,trunk=7", n);
    r = add(arg);
    struct vlan_set s = vids("1-4094");
    assert_int_equal(dp_vlan_add(dp, "r", &s, false, false, &err), -ENOSPC);
    assert_string_equal(port_conf_get(&r->conf, "trunk"), "7");
    say(q, 9, 2, 0, 0);
    assert_int_equal(got(r), tag(Q, 7));
    assert_int_equal(dp_port_del(dp, "p0", &err), 0);
    assert_int_equal(dp_vlan_add(dp, "r", &s, false, false, &err), 0);
    say(r, 2, 3, Q, 7);
    assert_int_equal(got(q), 0);
}

/* ---- the model ---------------------------------------------------------------------------- */

enum { PORTS = 6, STATIONS = 9, VIDS = 6, ROUNDS = 3000 };
static const uint16_t some_vid[VIDS] = {1, 2, 63, 64, 1000, 4094};

struct mport {
    struct port *port;
    bool own, isolated, ready;
    bool qinq; /* its keys say qinq= */
    bool member[4096], untagged[4096];
    int pvid, protocol; /* protocol 0: the bridge's */
    uint8_t (*out)[400];
    uint32_t *out_len;
    unsigned n_out;
    uint64_t drop[DROP_N];
};

static struct {
    struct mport port[PORTS];
    enum vlan_filtering filtering;
    int protocol, default_pvid;
    int8_t table[4096][STATIONS]; /* port + 1; VLAN 0: not filtering */
} model;

static bool m_filters(void)
{
    bool own = false;

    for (unsigned i = 0; i < PORTS; i++) {
        own |= model.port[i].own;
    }
    return model.filtering == VLAN_FILTERING_AUTO ? own : model.filtering == VLAN_FILTERING_YES;
}

static int m_pvid(const struct mport *p)
{
    return p->own ? p->pvid : model.default_pvid;
}

static bool m_member(const struct mport *p, int vid)
{
    return p->own ? p->member[vid] : vid && vid == model.default_pvid;
}

static bool m_untagged(const struct mport *p, int vid)
{
    return p->own ? p->untagged[vid] : m_member(p, vid);
}

static int m_protocol(const struct mport *p)
{
    return p->protocol ? p->protocol : model.protocol;
}

/* After a change: addresses are forgotten where their port is not any more. */
static void m_forget(void)
{
    bool on = m_filters();

    for (int vid = 0; vid < 4096; vid++) {
        for (int s = 0; s < STATIONS; s++) {
            int8_t at = model.table[vid][s];

            if (at && (on != (vid != 0) || (on && !m_member(&model.port[at - 1], vid)))) {
                model.table[vid][s] = 0;
            }
        }
    }
}

static void m_out(struct mport *p, const uint8_t *f, uint32_t len)
{
    memcpy(p->out[p->n_out], f, len);
    p->out_len[p->n_out++] = len;
}

static void m_send(struct mport *p, const uint8_t *f, uint32_t len, int vid, int tci)
{
    uint8_t t[400];

    if (!vid || m_untagged(p, vid)) {
        m_out(p, f, len);
        return;
    }
    memcpy(t, f, 12);
    t[12] = (uint8_t)(m_protocol(p) >> 8);
    t[13] = (uint8_t)m_protocol(p);
    t[14] = (uint8_t)(tci >> 8);
    t[15] = (uint8_t)tci;
    memcpy(t + 16, f + 12, len - 12);
    m_out(p, t, len + 4);
}

static void m_frame(unsigned from, const uint8_t *f, uint32_t len)
{
    struct mport *p = &model.port[from];
    unsigned dst = f[5], src = f[11];
    int vid = 0, tci = 0;
    uint8_t bare[400];

    if (f[6] & 1) {
        p->drop[DROP_SRC_MULTICAST]++;
        return;
    }
    memcpy(bare, f, len);
    if (m_filters()) {
        if ((f[12] << 8 | f[13]) == m_protocol(p)) {
            if (len < 18) {
                p->drop[DROP_VLAN_MALFORMED]++;
                return;
            }
            tci = f[14] << 8 | f[15];
            memmove(bare + 12, bare + 16, len - 16);
            len -= 4;
        }
        vid = tci % 4096 ? tci % 4096 : m_pvid(p);
        if (!vid) {
            p->drop[DROP_VLAN_UNTAGGED]++;
            return;
        }
        if (!m_member(p, vid)) {
            p->drop[DROP_VLAN_DENIED]++;
            return;
        }
        tci = tci / 4096 * 4096 + vid;
    }
    model.table[vid][src] = (int8_t)(from + 1);
    int to = f[0] & 1 ? 0 : model.table[vid][dst];
    if (to) {
        struct mport *q = &model.port[to - 1];

        if (q == p) {
            p->drop[DROP_HAIRPIN]++;
        } else if (q->isolated && p->isolated) {
            p->drop[DROP_ISOLATED]++;
        } else if (!q->ready) {
            q->drop[DROP_NOT_READY]++;
        } else {
            m_send(q, bare, len, vid, tci);
        }
        return;
    }
    bool anybody = false;
    for (unsigned i = 0; i < PORTS; i++) {
        struct mport *q = &model.port[i];

        if (q != p && q->ready && !(q->isolated && p->isolated) && (!vid || m_member(q, vid))) {
            m_send(q, bare, len, vid, tci);
            anybody = true;
        }
    }
    p->drop[vid ? DROP_VLAN_NO_PORTS : DROP_NO_PORTS] += !anybody;
}

static unsigned rnd(unsigned *seed, unsigned n)
{
    return (unsigned)rand_r(seed) % n;
}

/* After `vlan add` and `vlan del`: do the keys say qinq=? Then vlan= takes the protocol with it. */
static bool m_qinq(const struct mport *m)
{
    unsigned n = 0;

    for (int vid = 0; vid < 4096; vid++) {
        n += m->member[vid] + m->untagged[vid];
    }
    return m->protocol == AD && n == 2 && m->pvid && m->untagged[m->pvid];
}

/* `port set` of vlan= or qinq=. */
static void m_set(struct mport *m, bool qinq)
{
    m->protocol = qinq ? AD : m->qinq ? 0 : m->protocol;
    m->qinq = qinq;
}

static void set_access(struct mport *m, int vid)
{
    m->own = true;
    memset(m->member, 0, sizeof(m->member));
    memset(m->untagged, 0, sizeof(m->untagged));
    m->pvid = vid;
    m->member[vid] = m->untagged[vid] = vid;
}

/* One random change of one port, done to both. */
static void change_port(unsigned *seed, unsigned i)
{
    struct mport *m = &model.port[i];
    const char *name = m->port->name;
    uint16_t vid = some_vid[rnd(seed, VIDS)];
    char text[64];
    bool qinq;

    switch (rnd(seed, 8)) {
    case 0:
        snprintf(text, sizeof(text), "%u", vid);
        qinq = rnd(seed, 2);
        assert_int_equal(dp_port_set(dp, name, qinq ? "qinq" : "vlan", text, &err), 0);
        m_set(m, qinq);
        set_access(m, vid);
        break;
    case 1:
        m->isolated = !m->isolated;
        dp_port_set(dp, name, "isolated", m->isolated ? "yes" : "no", &err);
        break;
    case 2:
        m->ready = rnd(seed, 4);
        dummy_set_ready(m->port, m->ready);
        break;
    case 3: /* in VLAN 1 for a moment, then without VLANs of its own */
        assert_int_equal(dp_port_set(dp, name, "vlan", "1", &err), 0);
        m_set(m, false);
        set_access(m, 1);
        m_forget();
        assert_int_equal(dp_port_set(dp, name, "vlan", "0", &err), 0);
        m->own = false;
        break;
    case 4:
        if (m->own && m->member[vid]) {
            snprintf(text, sizeof(text), "%u", vid);
            vlan_del(name, text);
            m->member[vid] = m->untagged[vid] = false;
            m->pvid = m->pvid == vid ? 0 : m->pvid;
            m->qinq = m_qinq(m);
        }
        break;
    default: {
        bool pvid = rnd(seed, 2), untagged = rnd(seed, 2);

        if (!m->own) {
            set_access(m, model.default_pvid);
        }
        snprintf(text, sizeof(text), "%u", vid);
        vlan_add(name, text, pvid, untagged);
        m->member[vid] = true;
        m->untagged[vid] = untagged;
        m->pvid = pvid ? vid : m->pvid == vid ? 0 : m->pvid;
        m->qinq = m_qinq(m);
        break;
    }
    }
}

static void change(unsigned *seed)
{
    static const uint16_t protocols[] = {Q, Q, AD};
    static const enum vlan_filtering filterings[] = {VLAN_FILTERING_AUTO, VLAN_FILTERING_AUTO,
                                                     VLAN_FILTERING_YES, VLAN_FILTERING_YES,
                                                     VLAN_FILTERING_NO};

    if (rnd(seed, 12)) {
        change_port(seed, rnd(seed, PORTS));
    } else {
        model.filtering = filterings[rnd(seed, ARRAY_SIZE(filterings))];
        model.protocol = protocols[rnd(seed, ARRAY_SIZE(protocols))];
        model.default_pvid = rnd(seed, 3) ? 1 : rnd(seed, 3);
        bridge("br0", model.filtering, (uint16_t)model.protocol, (uint16_t)model.default_pvid);
    }
    m_forget();
}

static void random_frame(unsigned *seed, unsigned from)
{
    static const uint16_t types[] = {Q, Q, Q, AD, AD, 0x0800};
    uint16_t tags[2][2];
    unsigned n_tags = rnd(seed, 10) < 7 ? rnd(seed, 2) : 2;
    uint8_t f[400];

    for (unsigned i = 0; i < 2; i++) {
        uint16_t vid = rnd(seed, 8) ? some_vid[rnd(seed, VIDS)] : rnd(seed, 2) ? 0 : 4095;

        tags[i][0] = types[rnd(seed, ARRAY_SIZE(types))];
        tags[i][1] = (uint16_t)(vid | rnd(seed, 16) << 12);
    }
    unsigned src = rnd(seed, 30) ? 2 + rnd(seed, STATIONS - 2) : rnd(seed, 2);
    uint32_t len = rnd(seed, 20) ? 14 + rnd(seed, 300) : 14 + rnd(seed, 6);
    uint32_t cut = 1 + rnd(seed, len);
    len = build(f, rnd(seed, STATIONS), src, tags, n_tags, len, (uint8_t)rnd(seed, 256));
    const struct iovec iov[2] = {{f, cut}, {f + cut, len - cut}};

    dummy_injectv(model.port[from].port, iov, 1 + (cut < len));
    m_frame(from, f, len);
}

static void compare(unsigned round)
{
    for (unsigned i = 0; i < PORTS; i++) {
        struct mport *m = &model.port[i];
        struct port_counters c;

        if (dummy_n_sent(m->port) != m->n_out) {
            fail_msg("round %u, port %u: %u frames, not %u", round, i, dummy_n_sent(m->port),
                     m->n_out);
        }
        for (unsigned k = 0; k < m->n_out; k++) {
            uint32_t len;
            const uint8_t *f = dummy_sent(m->port, k, &len);

            assert_int_equal(len, m->out_len[k]);
            assert_memory_equal(f, m->out[k], len);
        }
        dummy_clear(m->port);
        m->n_out = 0;
        port_counters_sum(m->port, &c);
        for (unsigned d = 0; d < DROP_N; d++) {
            if (c.drop[d] != m->drop[d]) {
                fail_msg("round %u, port %u: %llu of %s, not %llu", round, i,
                         (unsigned long long)c.drop[d], drop_info[d].name,
                         (unsigned long long)m->drop[d]);
            }
        }
    }
}

static void test_against_model(void **state)
{
    const char *env = getenv("VLAN_SEED");
    unsigned seed = env ? (unsigned)strtoul(env, NULL, 0) : 20, filtered = 0;

    printf("VLAN_SEED=%u repeats this\n", seed);
    memset(&model, 0, sizeof(model));
    model.protocol = Q;
    model.default_pvid = 1;
    for (unsigned i = 0; i < PORTS; i++) {
        char arg[16];

        snprintf(arg, sizeof(arg), "p%u=dummy", i);
        model.port[i] = (struct mport){
            .port = add(arg), .ready = true, .out = calloc(64, 400), .out_len = calloc(64, 4)};
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned n = rnd(&seed, 4); n; n--) {
            change(&seed);
        }
        filtered += m_filters();
        for (unsigned turn = 0; turn < 3; turn++) { /* a batch comes from one port */
            unsigned from = rnd(&seed, PORTS);

            for (unsigned n = rnd(&seed, 64); n; n--) {
                random_frame(&seed, from);
            }
            run();
            compare(round);
        }
    }
    assert_true(filtered > ROUNDS / 2 && filtered < ROUNDS);
    uint64_t n_drop[DROP_N] = {0};
    for (unsigned i = 0; i < PORTS; i++) {
        for (unsigned d = 0; d < DROP_N; d++) {
            n_drop[d] += model.port[i].drop[d];
        }
        free(model.port[i].out);
        free(model.port[i].out_len);
    }
    static const enum drop seen[] = {DROP_VLAN_DENIED,   DROP_VLAN_UNTAGGED, DROP_VLAN_MALFORMED,
                                     DROP_VLAN_NO_PORTS, DROP_NO_PORTS,      DROP_HAIRPIN,
                                     DROP_ISOLATED,      DROP_SRC_MULTICAST, DROP_NOT_READY};
    for (unsigned k = 0; k < ARRAY_SIZE(seen); k++) {
        if (!n_drop[seen[k]]) {
            fail_msg("%s never came up", drop_info[seen[k]].name);
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    log_set_level(LOG_WARN);

    const struct CMUnitTest tests[] = {
        TEST(test_sets),
        TEST(test_keys_round_trip),
        TEST(test_what_keys_say),
        TEST(test_refused_keys),
        TEST(test_tag_edits),
        TEST(test_transparent),
        TEST(test_access_and_trunk),
        TEST(test_qinq),
        TEST(test_malformed),
        TEST(test_copied_bytes),
        TEST(test_static_addresses),
        TEST(test_change_of_membership),
        TEST(test_beside_vlans),
        TEST(test_no_more_fids),
        TEST(test_against_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
