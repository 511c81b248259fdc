# SPDX-License-Identifier: Apache-2.0
"""VLANs between front-ends of a real switch.

What leaves is compared with a model in a few lines of Python over scapy's own tags, which shares
nothing with the switch.
"""
import random
import struct
import threading
import time

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

import vu_front as vu
from vu_front import wait_for

BROADCAST = 'ff:ff:ff:ff:ff:ff'
TPID = {'802.1Q': 0x8100, '802.1ad': 0x88a8}
CSUM, HOST_TSO4, GUEST_CSUM, GUEST_TSO4 = 1 << 0, 1 << 11, 1 << 1, 1 << 7


class Port:
    """What a port's keys mean."""

    def __init__(self, **keys):
        self.keys = keys
        self.tpid = TPID['802.1ad' if 'qinq' in keys else keys.get('vlan-protocol', '802.1Q')]
        own = keys.get('vlan') or keys.get('qinq') or keys.get('native')
        self.pvid = int(own or 0)
        self.untagged = {self.pvid} - {0}
        self.member = set(self.untagged)
        for part in keys.get('trunk', '').split('+'):
            if part:
                ends = [int(n) for n in part.split('-')]
                self.member |= set(range(ends[0], ends[-1] + 1))
        if not keys:
            self.pvid, self.untagged, self.member = 1, {1}, {1}

    def takes(self, frame):
        """(VLAN, TCI, the frame without the tag), or why not."""
        tci = 0
        if struct.unpack_from('!H', frame, 12)[0] == self.tpid:
            tci = struct.unpack_from('!H', frame, 14)[0]
            frame = frame[:12] + frame[16:]
        vid = tci & 4095 or self.pvid
        if not vid:
            return 'vlan-untagged'
        return (vid, tci & 0xf000 | vid, frame) if vid in self.member else 'vlan-denied'

    def gives(self, vid, tci, frame):
        if vid in self.untagged:
            return frame
        return frame[:12] + struct.pack('!HH', self.tpid, tci) + frame[12:]


SETS = [
    [Port(vlan='10'), Port(vlan='20'), Port(trunk='10-20'), Port(trunk='10+30', native='20')],
    [Port(qinq='100'), Port(qinq='200'), Port(trunk='100+200', **{'vlan-protocol': '802.1ad'}),
     Port(trunk='100', native='200', **{'vlan-protocol': '802.1ad'})],
    [Port(), Port(vlan='1'), Port(trunk='1-4094'), Port(trunk='2', native='1')],
    [Port(vlan='100'), Port(qinq='100'), Port(trunk='100'),
     Port(trunk='99-101', **{'vlan-protocol': '802.1ad'})],
]


def bare(src, size):
    return Ether(src=src, dst=BROADCAST, type=0x88b5) / Raw(bytes(i * 3 & 255 for i in range(size)))


def tagged(pkt, *tags):
    """pkt with (class, vlan, prio, drop eligible) in front of what it has."""
    eth, body = Ether(src=pkt.src, dst=pkt.dst), pkt.payload
    kind = pkt.type
    for cls, vlan, prio, dei in reversed(tags):
        body = cls(vlan=vlan, prio=prio, id=dei, type=kind) / body
        kind = 0x88a8 if cls is Dot1AD else 0x8100
    eth.type = kind
    return eth / body


def each_frame(rng, src):
    vids = [0, 1, 2, 10, 15, 20, 30, 99, 100, 101, 200, 4094, 4095]
    for size in 46, 150, 170, 1500, 4000:
        pkt = bare(src, size)
        yield pkt
        for cls in Dot1Q, Dot1AD:
            for vlan in rng.sample(vids, 6):
                yield tagged(pkt, (cls, vlan, rng.randrange(8), rng.randrange(2)))
        yield tagged(pkt, (Dot1AD, rng.choice(vids), 1, 0), (Dot1Q, 7, 5, 1))
        yield tagged(pkt, (Dot1Q, rng.choice(vids), 2, 1), (Dot1Q, 8, 0, 0))


@pytest.mark.parametrize('ports', SETS, ids=['access', 'qinq', 'default', 'mixed'])
def test_against_model(net, ports):
    rng = random.Random(11)
    nics = [net.nic(options=p.keys) for p in ports]
    for i, (a, p) in enumerate(zip(nics, ports)):
        drops = {}
        for pkt in each_frame(rng, a.mac.hex(':')):
            frame = bytes(pkt)
            got = p.takes(frame)
            if isinstance(got, str):
                drops[got] = drops.get(got, 0) + 1
                a.send_frames(frame)
                continue
            out = {j: q.gives(*got) for j, q in enumerate(ports) if j != i and got[0] in q.member}
            if not out:
                drops['vlan-no-ports'] = drops.get('vlan-no-ports', 0) + 1
            a.send_frames(frame)
            for j, want in out.items():
                seen = nics[j].recv()
                assert seen == want, f'{pkt.summary()} to {ports[j].keys}: {Ether(seen).summary()}'
        wait_for('drops', lambda: net.drops(a.name) == drops)
        assert all(n.received() == [] for n in nics)


def test_addresses_are_per_vlan(net):
    a, b = net.nic(options={'vlan': '10'}), net.nic(options={'vlan': '20'})
    t = net.nic(options={'trunk': '10+20'})
    station = '02:00:00:00:00:77'
    for nic in a, b:
        nic.send_frames(bytes(bare(station, 46)))
        t.recv()
    macs = net.lab.rpc('macs.list', bridge=net.bridge)['macs']
    assert {(m['mac'], m['vlan'], m['port']) for m in macs} == {
        (station, 10, a.name), (station, 20, b.name)}
    for vlan, nic, other in (10, a, b), (20, b, a):
        pkt = bare('02:00:00:00:00:78', 46)
        pkt.dst = station
        t.send_frames(bytes(tagged(pkt, (Dot1Q, vlan, 0, 0))))
        assert nic.recv() == bytes(pkt)
        assert other.received() == []
    assert net.lab.rpc('mac.flush', bridge=net.bridge, vlan=10) == {'flushed': 2}
    assert {m['vlan'] for m in net.lab.rpc('macs.list', bridge=net.bridge)['macs']} == {20}


def test_announcement_in_all_vlans(net):
    """SEND_RARP: on a trunk the switches behind it learn the station's place in each VLAN."""
    far = net.nic(options={'trunk': '1-4094'}, rx_size=256)
    access, moved = net.nic(options={'vlan': '700'}), net.nic(options={'trunk': '600-799'})
    station = bytes.fromhex('52540000004d')
    moved.do(vu.SEND_RARP, station + bytes(2))
    moved.sync()
    got = far.recv(200)
    assert [struct.unpack_from('!HHH', f, 12) for f in got] == [
        (0x8100, vid, 0x8035) for vid in range(600, 800)]
    assert all(f[6:12] == station and len(f) == 64 for f in got)
    assert access.recv()[12:14] == b'\x80\x35'
    macs = net.lab.rpc('macs.list', bridge=net.bridge, port=moved.name)['macs']
    assert {m['vlan'] for m in macs} == set(range(600, 800))
    f = bytes(bare(BROADCAST, 46))
    access.send_frames(station + access.mac + f[12:])  # its place is known
    assert moved.recv()[12:16] == struct.pack('!HH', 0x8100, 700)
    assert far.received() == [] and access.received() == []


def pseudo_sum(pkt):
    ip = pkt[IP]
    words = b''.join(bytes(map(int, a.split('.'))) for a in (ip.src, ip.dst))
    total = sum(struct.unpack('!4H', words)) + 6 + 20 + len(ip.payload.payload)
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    pkt[TCP].chksum = total
    return bytes(pkt)


def big_frame(src, dst):
    data = bytes(i * 7 % 251 for i in range(5000))
    return data, pseudo_sum(Ether(src=src, dst=dst) / IP(src='10.0.0.1', dst='10.0.0.2', id=7) /
                            TCP(sport=1, dport=2, seq=1000, flags='PA') / Raw(data))


def header(tag):
    return struct.pack('<BBHHHH', 1, 1, 54 + tag, 1460, 34 + tag, 16)


def raw(nic):
    """The next frame with its virtio-net header, from one merged set of buffers."""
    parts = []

    def whole():
        parts.extend(nic.rx.reap())
        return parts and sum(n for _, n in parts) > 5000
    wait_for('a frame', whole)
    out = b''
    for head, n in parts:
        out += b''.join(nic.mem.map[o:o + size] for o, size in nic.rx.give_back(head))[:n]
    return out


def test_offloads_with_tags(net):
    """The header moves with the tag, and segments wear it."""
    sends, takes = CSUM | HOST_TSO4, GUEST_CSUM | GUEST_TSO4
    a = net.nic(options={'vlan': '10'}, features=vu.Nic.FEATURES | sends | takes)
    big = net.nic(options={'trunk': '10'}, features=vu.Nic.FEATURES | sends | takes)
    small = net.nic(options={'trunk': '10'})
    data, wire = big_frame(a.mac, BROADCAST)
    a.transmit(wire, header=header(0) + bytes(2))
    got = raw(big)
    assert got[:10] == header(4)
    assert got[12:] == wire[:12] + b'\x81\0\0\x0a' + wire[12:]
    segments = [Ether(f) for f in small.recv(4)]
    assert b''.join(bytes(s[TCP].payload) for s in segments) == data
    for i, s in enumerate(segments):
        assert (s.type, s[Dot1Q].vlan, s[TCP].seq) == (0x8100, 10, 1000 + 1460 * i)
        sums = s[IP].chksum, s[TCP].chksum
        del s[IP].chksum, s[TCP].chksum
        again = Ether(bytes(s))
        assert (again[IP].chksum, again[TCP].chksum) == sums
    # and out of the VLAN again
    tagged_wire = wire[:6] + big.mac + b'\x81\0\0\x0a' + wire[12:]
    big.transmit(tagged_wire, header=header(4) + bytes(2))
    got = raw(a)
    assert got[:10] == header(0)
    assert got[12:] == wire[:6] + big.mac + wire[12:]


def test_changes_under_traffic(net):
    """VLANs come and go while frames do: each frame arrives in its VLAN or not at all."""
    a, t = net.nic(options={'trunk': '10+20', 'native': '30'}), net.nic(options={'trunk': '10+20+30'})
    body = bytes(bare(a.mac.hex(':'), 46))
    stop = threading.Event()
    changes = []

    def change():
        while not stop.is_set():
            for vid in 20, 30:
                net.lab.rpc('vlan.del', port=t.name, vid=vid)
                net.lab.rpc('vlan.add', port=t.name, vid=vid)
            net.lab.rpc('port.set', name=a.name, key='native', value='20')
            net.lab.rpc('port.set', name=a.name, key='native', value='30')
            changes.append(1)

    thread = threading.Thread(target=change)
    thread.start()
    sent = [body[:12] + struct.pack('!HH', 0x8100, vid) + body[12:] for vid in (10, 20)] + [body]
    may = {sent[0], sent[1], body[:12] + struct.pack('!HH', 0x8100, 30) + body[12:]}
    seen = set()
    try:
        end = time.monotonic() + vu.TIMEOUT
        while len(changes) < 50 and time.monotonic() < end:
            a.send_frames(*sent * 20)
            seen |= set(t.received())
    finally:
        stop.set()
        thread.join(vu.TIMEOUT)
    assert len(changes) >= 50
    assert seen <= may and sent[0] in seen
    wait_for('the rest', lambda: not t.received())
    a.send_frames(*sent)
    assert set(t.recv(3)) == may
