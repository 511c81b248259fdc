# SPDX-License-Identifier: Apache-2.0
"""Offloads between front-ends of a real switch: what a receiver gets when it takes them, and when not.

Frames and what must come of them are made by scapy, which knows nothing of the switch: each segment
is a packet of its own, with the lengths and checksums that scapy gives it.
"""
import random
import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import (IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop,
                                IPv6ExtHdrRouting, PadN)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

import vu_front as vu
from vu_front import wait_for

CSUM, GUEST_CSUM = 1 << 0, 1 << 1
GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_UFO = 1 << 7, 1 << 8, 1 << 9, 1 << 10
HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_UFO = 1 << 11, 1 << 12, 1 << 13, 1 << 14
GUEST_USO4, GUEST_USO6, HOST_USO = 1 << 54, 1 << 55, 1 << 56
SENDER = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO | HOST_UFO
TAKES_ALL = (GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO | GUEST_USO4 | GUEST_USO6)
NEEDS_CSUM, TCPV4, UFO, TCPV6, UDP_L4, ECN = 1, 1, 3, 4, 5, 0x80
MULTICAST = '01:00:5e:01:02:03'
SRC = '52:54:00:00:01:0a'

V4 = [lambda i: IP(src='10.0.0.1', dst='10.0.0.2', id=(65534 + i) & 0xffff),
      lambda i: IP(src='10.0.0.1', dst='10.0.0.2', id=(7 + i) & 0xffff, flags='DF', tos=3,
                   options=[IPOption_NOP()] * 8)]
V6 = [lambda i: IPv6(src='fe80::1', dst='fe80::2', fl=77),
      lambda i: IPv6(src='fe80::1', dst='fe80::2') / IPv6ExtHdrHopByHop(options=PadN(optdata=b'1234')) /
      IPv6ExtHdrRouting(addresses=['fe80::9'], segleft=1) /
      IPv6ExtHdrDestOpt(options=PadN(optdata=b'123456789abc'))]
TAGS = [lambda: Ether(src=SRC, dst=MULTICAST), lambda: Ether(src=SRC, dst=MULTICAST) / Dot1Q(vlan=5),
        lambda: Ether(src=SRC, dst=MULTICAST) / Dot1AD(vlan=6) / Dot1Q(vlan=7, prio=3)]
L4 = {TCP: 16, UDP: 6}


class Kind:
    """A frame and the offload it carries."""

    def __init__(self, l3s, l4, gso, needs):
        self.l3s, self.l4, self.gso, self.needs = l3s, l4, gso, needs
        self.eth, self.l3, self.flags = TAGS[0], l3s[0], 'PA'
        if gso & ECN:
            self.flags = 'FPACE'

    def packet(self, data, index=0, at=0, flags=None):
        if self.l4 is TCP:
            l4 = TCP(sport=1000, dport=2000, seq=(0xfffffc00 + at) & 0xffffffff, ack=5,
                     flags=self.flags if flags is None else flags,
                     options=[('NOP', None), ('NOP', None), ('Timestamp', (1, 2))])
        else:
            l4 = UDP(sport=1000, dport=2000)
        return Ether(bytes(self.eth() / self.l3(index) / l4 / Raw(data)))

    def place(self, pkt):
        """Offset of the transport header; length of all headers."""
        at = len(pkt) - len(pkt[self.l4])
        return at, at + (8 if self.l4 is UDP else 32)

    def partial(self, pkt):
        """The frame with the sum of its pseudo-header only: what scapy's checksum does not come from
        the bytes themselves."""
        wire = bytearray(bytes(pkt))
        at = self.place(pkt)[0]
        field = at + L4[self.l4]
        whole, = struct.unpack_from('!H', wire, field)
        wire[field:field + 2] = b'\0\0'
        l4 = bytes(wire[at:])
        rest = sum(struct.unpack(f'!{(len(l4) + 1) // 2}H', l4 + bytes(len(l4) % 2)))
        struct.pack_into('!H', wire, field, (65535 - whole - rest) % 65535)
        return bytes(wire)

    def header(self, pkt, gso_size, hdr_len=None, num_buffers=0, gso=True):
        at, data = self.place(pkt)
        gso = gso and self.gso
        return struct.pack('<BBHHHHH', NEEDS_CSUM, gso,
                           (data if gso else 0) if hdr_len is None else hdr_len,
                           gso_size if gso else 0, at, L4[self.l4], num_buffers)

    def segments(self, data, size):
        if self.gso == UFO:
            return self.fragments(data, size)
        out = []
        for i, at in enumerate(range(0, len(data), size)):
            flags = self.flags if i == 0 else self.flags.replace('C', '')
            if at + size < len(data):
                flags = flags.replace('F', '').replace('P', '')
            out.append(self.packet(data[at:at + size], i, at, flags))
        return out

    def fragments(self, data, size):
        pkt = self.packet(data)
        if IP in pkt:
            pkt[IP].flags = 0  # "don't fragment" does not go with fragments
            return [Ether(bytes(f)) for f in fragment(pkt, size // 8 * 8)]
        body, out = bytes(pkt[UDP]), []
        front = bytes(pkt)[:-len(body)]
        for at in range(0, len(body), size // 8 * 8):
            part = body[at:at + size // 8 * 8]
            q = Ether(front)
            last = q.lastlayer()
            while isinstance(last, Raw):
                last = last.underlayer
            last.remove_payload()
            last.nh = 44
            q = q / IPv6ExtHdrFragment(nh=17, offset=at // 8, m=int(at + len(part) < len(body)),
                                       id=0) / Raw(part)
            q[IPv6].plen = None
            out.append(Ether(bytes(q)))
        return out


def kinds():
    out = {}
    for v, l3s in (4, V4), (6, V6):
        out[f'csum tcp{v}'] = Kind(l3s, TCP, 0, GUEST_CSUM)
        out[f'csum udp{v}'] = Kind(l3s, UDP, 0, GUEST_CSUM)
        tso = TCPV4 if v == 4 else TCPV6
        bit = GUEST_TSO4 if v == 4 else GUEST_TSO6
        out[f'tso{v}'] = Kind(l3s, TCP, tso, bit)
        out[f'tso{v} ecn'] = Kind(l3s, TCP, tso | ECN, bit | GUEST_ECN)
        out[f'uso{v}'] = Kind(l3s, UDP, UDP_L4, GUEST_USO4 if v == 4 else GUEST_USO6)
        out[f'ufo{v}'] = Kind(l3s, UDP, UFO, GUEST_UFO)
    return out


KINDS = kinds()
TAKES = {'nothing': 0, 'csum': GUEST_CSUM, 'all': TAKES_ALL,
         **{f'no {n}': TAKES_ALL & ~b for n, b in (
             ('tso4', GUEST_TSO4), ('tso6', GUEST_TSO6), ('ecn', GUEST_ECN), ('ufo', GUEST_UFO),
             ('uso4', GUEST_USO4), ('uso6', GUEST_USO6), ('csum', GUEST_CSUM))}}
BASE = vu.PROTOCOL | vu.INDIRECT
# features beside offloads, size of receive buffers, how many
FORMS = {'mergeable, small': (BASE | vu.VERSION_1 | vu.MRG_RXBUF, 1526, 256),
         'mergeable, page': (BASE | vu.VERSION_1 | vu.MRG_RXBUF | vu.EVENT_IDX, 4096, 128),
         'mergeable, tiny': (BASE | vu.VERSION_1 | vu.MRG_RXBUF, 300, 256),
         'big': (BASE | vu.VERSION_1, 65589 + 12, 64),
         'small': (BASE | vu.VERSION_1, 2048, 256),
         'legacy big': (BASE, 65589 + 10, 64),
         'legacy small': (BASE, 2000, 256)}


def sender(net, **how):
    a = net.nic(options={'offload': 'all'}, features=vu.Nic.FEATURES | SENDER, **how)
    assert a.mac == vu.mac_bytes(SRC)
    return a


def receiver(net, takes, form='mergeable, page', options=None, **how):
    features, size, n = FORMS[form]
    b = net.nic(options={'offload': 'all', **(options or {})}, features=features | takes,
                rx_size=size, bufs=how.pop('bufs', n), **how)
    b.any_header = True
    return b


def taken(features):
    return features if features & GUEST_CSUM else 0


def body(n):
    return random.Random(n).randbytes(n)


def get(b, n):
    """n frames, as [(header, frame)]."""
    frames = b.recv(n)
    frames = [frames] if n == 1 else frames
    out = list(zip(b.headers, frames))
    b.headers, b.inbox = [], []
    return out


def without_frag_id(frames):
    ids = {f[IPv6ExtHdrFragment].id for f in frames if IPv6ExtHdrFragment in f}
    assert len(ids) <= 1
    for f in frames:
        if IPv6ExtHdrFragment in f:
            f[IPv6ExtHdrFragment].id = 0
    return [bytes(f) for f in frames]


def same_partial(kind, got, want):
    """Equal, where 0 and 0xffff are the same partial sum."""
    at = kind.place(Ether(want))[0] + L4[kind.l4]
    fields = [struct.unpack_from('!H', x, at)[0] % 65535 for x in (got, want)]
    return fields[0] == fields[1] and got[:at] == want[:at] and got[at + 2:] == want[at + 2:]


def check(kind, data, gso_size, takes, form, b):
    """What b has got is right for what it negotiated."""
    features, room, _ = FORMS[form]
    takes = taken(takes)
    whole = kind.packet(data)
    needs = kind.needs | GUEST_CSUM
    header = b.header
    as_it_is = kind.gso == 0 or needs & takes == needs
    fits = features & vu.MRG_RXBUF or len(whole) + header <= room
    what = [kind.packet(data)]
    if kind.gso and not (as_it_is and fits):
        what = kind.segments(data, gso_size)
        as_it_is = False
    got = get(b, len(what))
    frames = [Ether(f) for _, f in got]
    partial = takes & GUEST_CSUM and (as_it_is or kind.gso != UFO)
    for (h, f), want, clean in zip(got, what, without_frag_id(frames)):
        if partial:
            assert same_partial(kind, f, kind.partial(want))
        else:
            assert clean == bytes(want)
        n = -(-(len(f) + header) // room) if features & vu.MRG_RXBUF else 1
        want_h = bytes(10) + struct.pack('<H', n)
        if partial:
            want_h = kind.header(want, gso_size, num_buffers=n, gso=as_it_is)
        assert h == want_h[:header]


@pytest.mark.parametrize('form', FORMS)
def test_table(net, form):
    """Every kind of frame, flooded to receivers that lack this or that: each gets its own right form."""
    a = sender(net)
    nics = {t: receiver(net, t, form) for t in sorted(set(TAKES.values()))}
    rand = random.Random(1)
    for n, (name, kind) in enumerate(KINDS.items()):
        for k in range(3):
            kind.eth, kind.l3 = TAGS[(n + k) % 3], kind.l3s[k % 2]
            gso_size = rand.choice((536, 1000, 1207))
            size = rand.choice((1, 2, 3, 4)) * gso_size + rand.choice((-1, 1, 100)) if kind.gso else 1201
            if kind.gso == 0:
                size -= k * 400
            data = body(size + (gso_size if kind.gso else 0))
            pkt = kind.packet(data)
            lie = rand.choice((0, 1, 0xffff))
            a.transmit(kind.partial(pkt), header=kind.header(pkt, gso_size, hdr_len=lie))
            for takes, b in nics.items():
                check(kind, data, gso_size, takes, form, b)
    assert net.drops(a.name) == {}


def carry(net, a, b, kind, size, gso_size, form='mergeable, page', takes=0, **how):
    data = body(size)
    pkt = kind.packet(data)
    a.reap()
    a.transmit(kind.partial(pkt), header=kind.header(pkt, gso_size), **how)
    check(kind, data, gso_size, takes, form, b)


def fresh(name):
    return kinds()[name]


@pytest.mark.parametrize('form', ['mergeable, small', 'big', 'small'])
@pytest.mark.parametrize('takes', [0, TAKES_ALL], ids=['none', 'all'])
def test_largest(net, form, takes):
    """64 KiB at once: over dozens of buffers, into one, or in segments."""
    a, b = sender(net), receiver(net, takes, form)
    for name, size in ('tso4', 65483), ('uso6', 65483), ('tso4', 65000):
        carry(net, a, b, fresh(name), size, 1400, form, takes)


def test_header_over_descriptors(net):
    """However the sender cuts header, headers and payload, directly or through a table."""
    a, b, c = sender(net), receiver(net, 0), receiver(net, TAKES_ALL)
    table = a.tx_at - 0x1000  # the last of the receive buffers, which are not used up
    for n in range(40):
        kind = fresh(random.choice(list(KINDS)))
        kind.l3 = random.choice(kind.l3s)
        cuts = [random.choice((1, 2, 3, 5, 11, 12, 13, 60, 181, 400)) for _ in range(n % 12)]
        data = body(3001)
        pkt = kind.packet(data)
        a.reap()
        a.transmit(kind.partial(pkt), cuts, table if n % 2 else None, kind.header(pkt, 700))
        check(kind, data, 700, 0, 'mergeable, page', b)
        check(kind, data, 700, TAKES_ALL, 'mergeable, page', c)


def test_mtu(net):
    """No frame longer than the MTU, not even a segment; GSO frames whose segments fit pass whole."""
    a = sender(net)
    nics = [receiver(net, t, options={'mtu': '1500'}) for t in (0, TAKES_ALL)]
    for name in 'tso4', 'tso6', 'uso4', 'ufo4', 'ufo6':
        kind = fresh(name)
        head = len(kind.packet(b'')) - (8 if kind.gso == UFO else 0) + 8 * (name == 'ufo6')
        fits = 1514 - head
        for size in fits // 8 * 8 if kind.gso == UFO else fits, 1600:
            before = [net.drops(b.name).get('mtu', 0) for b in nics]
            data = body(5000)
            pkt = kind.packet(data)
            a.reap()
            a.transmit(kind.partial(pkt), header=kind.header(pkt, size))
            a.wait_used(a.tx)
            for b, takes, n in zip(nics, (0, TAKES_ALL), before):
                if size == 1600:
                    wait_for('counted', lambda: net.drops(b.name).get('mtu', 0) == n + 1)
                    b.poll()
                    assert not b.inbox
                else:
                    check(kind, data, size, takes, 'mergeable, page', b)
                    assert all(len(f) <= 1514 for f in kind.segments(data, size))


def test_offered(net):
    """offload= is what the guest is offered."""
    bits = {'csum': CSUM | GUEST_CSUM, 'tso4': HOST_TSO4 | GUEST_TSO4, 'ecn': HOST_ECN | GUEST_ECN,
            'tso6': HOST_TSO6 | GUEST_TSO6, 'ufo': HOST_UFO | GUEST_UFO,
            'uso': HOST_USO | GUEST_USO4 | GUEST_USO6}
    every = SENDER | TAKES_ALL
    for words, want in [(None, every & ~bits['ufo']), ('none', 0), ('all', every), ('csum', bits['csum']),
                        ('tso4', bits['csum'] | bits['tso4']), ('csum+uso', bits['csum'] | bits['uso']),
                        ('tso', bits['csum'] | bits['tso4'] | bits['tso6'] | bits['ecn'])]:
        name = net.port(**({'offload': words} if words else {}))
        with vu.Front(net.path(name)) as f:
            assert f.ask(vu.GET_FEATURES) & every == want, words


def test_ceiling_at_run_time(net):
    """The guest's driver may have turned its large receive off: `port set rx-offload=`."""
    a, b = sender(net), receiver(net, TAKES_ALL)
    carry(net, a, b, fresh('tso4'), 5000, 1000, takes=TAKES_ALL)
    for words, takes in (('csum', GUEST_CSUM), ('none', 0), ('tso6', GUEST_CSUM | GUEST_TSO6),
                         ('all', TAKES_ALL)):
        net.set(b.name, **{'rx-offload': words})
        for name in 'tso4', 'tso6', 'uso4', 'csum udp6':
            carry(net, a, b, fresh(name), 5000 if name[0] != 'c' else 900, 1000, takes=takes)


def test_dhcp_clients_get_whole_sums(net):
    """Their programs read raw frames and do not know of NEEDS_CSUM."""
    a, b = sender(net), receiver(net, TAKES_ALL)
    for l3, port in (V4[0], 68), (V6[0], 546):
        for eth in TAGS:
            want = Ether(bytes(eth() / l3(0) / UDP(sport=67, dport=port) / Raw(body(301))))
            kind = Kind([l3], UDP, 0, GUEST_CSUM)
            a.reap()
            a.transmit(kind.partial(want), header=kind.header(want, 0))
            (h, f), = get(b, 1)
            assert (h[:10], f) == (bytes(10), bytes(want))


def test_udp_sum_of_zero(net):
    """It is sent as 0xffff: 0 would say that there is none."""
    a, b = sender(net), receiver(net, 0)
    for v in 'csum udp4', 'csum udp6':
        kind = fresh(v)
        data = b'\0\0' + body(40)
        data = struct.pack('!H', kind.packet(data)[UDP].chksum) + data[2:]
        assert kind.packet(data)[UDP].chksum == 0xffff
        pkt = kind.packet(data)
        a.transmit(kind.partial(pkt), header=kind.header(pkt, 0))
        (_, f), = get(b, 1)
        assert f == bytes(pkt)


def test_out_of_buffers_half_way(net):
    """What fits arrives, in order and once; the rest is counted; then all goes on."""
    a, b = sender(net), receiver(net, 0, 'small', bufs=3)
    kind, data = fresh('tso4'), body(5000)
    pkt = kind.packet(data)
    for _ in range(3):
        before = net.drops(b.name).get('no-buffers', 0)
        a.reap()
        a.transmit(kind.partial(pkt), header=kind.header(pkt, 1000))
        wait_for('counted', lambda: net.drops(b.name).get('no-buffers', 0) == before + 1)
        assert [f for _, f in get(b, 3)] == [bytes(s) for s in kind.segments(data, 1000)[:3]]
    carry(net, a, b, kind, 2500, 1000, 'small')


def test_more_than_is_posted(net):
    """A whole frame that the posted buffers do not hold: dropped, and none of them is used up."""
    a, b = sender(net), receiver(net, TAKES_ALL, 'mergeable, small', bufs=20)
    kind = fresh('tso4')
    pkt = kind.packet(body(60000))
    a.transmit(kind.partial(pkt), header=kind.header(pkt, 1400))
    wait_for('counted', lambda: net.drops(b.name) == {'no-buffers': 1})
    carry(net, a, b, kind, 20 * 1526 - 100, 1400, 'mergeable, small', TAKES_ALL)


def test_begun_in_segments_stays_in_segments(net):
    """A small buffer first, then large ones: the frame is not sent whole after a part of it was."""
    a, b = sender(net), receiver(net, TAKES_ALL, 'big', bufs=0)
    for n in range(20):
        b.rx.add([(b.slab0, 1500 if n == 0 else 65601)], True)
    b.rx.publish()
    kind, data = fresh('tso4'), body(5000)
    pkt = kind.packet(data)
    a.transmit(kind.partial(pkt), header=kind.header(pkt, 1000))
    wait_for('five segments', lambda: b.mem.u16(b.rx.used + 2) == 5)
    carry(net, a, receiver(net, 0), kind, 100, 1000)  # nothing more came to b but this one
    lens = [n for _, n in b.rx.reap()]
    assert lens == [12 + len(s) for s in kind.segments(data, 1000)] + [12 + 66 + 100]


def test_order(net):
    """Plain frames and those to be segmented, of one flow, keep their order."""
    a, b = sender(net), receiver(net, 0)
    kind, want = fresh('tso4'), []
    rand = random.Random(5)
    for n in range(200):
        size = rand.choice((10, 100, 900, 1001, 2500, 9000))
        data = struct.pack('!I', n) + body(size)
        pkt = kind.packet(data)
        wait_for('room', lambda: (a.reap(), len(a.tx.chains) < 10)[1])
        a.transmit(kind.partial(pkt), header=kind.header(pkt, 1000, gso=len(data) > 1000))
        want += [bytes(s) for s in kind.segments(data, 1000)]
        b.poll()
    assert [f for _, f in get(b, len(want))] == want


def test_tiny_segments(net):
    """Below the floor nothing is segmented here; who takes the frame whole gets it whole."""
    a, b, c = sender(net), receiver(net, 0), receiver(net, TAKES_ALL)
    for size in 1, 8, 87:
        before = net.drops(b.name).get('gso-tiny', 0)
        for n, name in enumerate(('tso4', 'tso6', 'uso4', 'uso6')):
            kind, data = fresh(name), body(3000)
            pkt = kind.packet(data)
            a.reap()
            a.transmit(kind.partial(pkt), header=kind.header(pkt, size))
            check(kind, data, size, TAKES_ALL, 'mergeable, page', c)
            wait_for('counted', lambda: net.drops(b.name).get('gso-tiny', 0) == before + n + 1)
    b.poll()
    assert not b.inbox
    carry(net, a, b, fresh('tso4'), 3000, 88)


def test_smallest_segments_of_many_frames(net):
    """No more large frames at once than make a bounded number of segments; the others follow."""
    a, b = sender(net), net.nic(features=BASE | vu.VERSION_1, num=16384, rx_size=256)
    kind = fresh('tso4')
    pkt = kind.packet(body(65000))
    data = kind.header(pkt, 88) + kind.partial(pkt)
    for _ in range(15):
        a.tx.add([(a.put(data), len(data))], False)
    a.tx.publish()
    a.wait_used(a.tx, 15)
    assert len(b.received()) == 15 * -(-65000 // 88)
    assert not net.drops(b.name)
    carry(net, a, receiver(net, 0), kind, 3000, 1000)
