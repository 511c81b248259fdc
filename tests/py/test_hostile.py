# SPDX-License-Identifier: Apache-2.0
"""Every lie that a guest can put into a ring or a front-end into a message, told to a real switch.

Each test attacks one port.  What must hold then is in vu_lab.py (Lab.attack): the process lives,
the neighbours pass traffic, nothing is left.  The test itself checks that the reason is counted and
named.
"""
import array
import contextlib
import fcntl
import glob
import os
import random
import select
import socket
import struct
import subprocess
import tempfile
import threading
import time

import pytest

import vu_front as vu
from fuse_hang import hanging_file
from vu_front import Front, Memory, Ring, exchange, frame, wait_for
from vu_lab import RINGWAY, busy, mac, works

BROADCAST = b'\xff' * 6


LAYOUTS = ['split', 'packed']


@pytest.fixture
def layout(lab, request):
    """The liar's rings are laid out that way."""
    lab.layout = getattr(request, 'param', 'split')
    yield lab.layout
    lab.layout = 'split'


both = pytest.mark.parametrize('layout', LAYOUTS, indirect=True)


def per_layout(lies):
    """(layout, name) for each lie, in the layouts in which it can be told."""
    return [(l, name) for name, lie in lies.items() for l in LAYOUTS if lie[-1] in (l, 'both')]


# --- lies in the ring (the guest) -----------------------------------------------------------------
# Each is a chain for the transmit ring of front-end `f`, as Ring.put() takes it.

END = vu.GPA + (4 << 20)  # one past the guest's memory
OK = vu.GPA + (1 << 20)   # where it may
TABLE = 0x80000
NEXT, WRITE, INDIRECT = vu.DESC_NEXT, vu.DESC_WRITE, vu.DESC_INDIRECT


def lie(*descs, nxt=None):
    return lambda r: r.put(*descs, nxt=nxt)


def table_of(*entries, size=None, flags=0, before=(), behind=()):
    """One descriptor that is an indirect table, between others."""
    def build(r):
        at = r.fill_table(TABLE, *entries)
        r.put(*before, (at, 16 * len(entries) if size is None else size, INDIRECT | flags), *behind)
    return build


def loop_in_table(to):
    def build(r):
        r.set_desc(0, OK, 72, NEXT, to, table=TABLE)
        r.put((r.mem.gpa(TABLE), 16, INDIRECT))
    return build


def long_chain(r):
    r.put(*[(OK, 1 << 20, NEXT)] * (r.num - 1), (OK, 1 << 20, 0))


CHAIN_LIES = {
    # name: (lie, counted as, layouts)
    'outside': (lie((1 << 50, 72, 0)), 'unmapped', 'both'),
    'null': (lie((0, 72, 0)), 'unmapped', 'both'),
    'top of the address space': (lie((2**64 - 1, 72, 0)), 'unmapped', 'both'),
    'leaves the region': (lie((END - 71, 72, 0)), 'unmapped', 'both'),
    'length wraps': (lie((2**64 - 8, 72, 0)), 'unmapped', 'both'),
    'length 4 GiB': (lie((OK, 2**32 - 1, 0)), 'giant', 'both'),
    'lengths wrap together': (lie((OK, 2**31, NEXT), (OK, 2**31, NEXT), (OK, 72, 0)), 'unmapped',
                              'both'),
    'invalid address, length 0': (lie((1 << 50, 0, 0)), 'no-header', 'both'),
    'length 0': (lie((OK, 0, 0)), 'no-header', 'both'),
    'length 1': (lie((OK, 1, 0)), 'no-header', 'both'),
    'shorter than the header': (lie((OK, 11, 0)), 'no-header', 'both'),
    'header only': (lie((OK, 12, 0)), 'runt', 'both'),
    'header in pieces, no frame': (lie(*[(OK, 1, NEXT)] * 12, (OK, 0, 0)), 'runt', 'both'),
    'frame of 13': (lie((OK, 25, 0)), 'runt', 'both'),
    'giant': (lie((OK, 65557 + 13, 0)), 'giant', 'both'),
    'loop of one': (lie((OK, 72, NEXT), nxt=lambda ids: ids[0]), 'bad-chain', 'split'),
    'loop of length 0': (lie((OK, 0, NEXT), nxt=lambda ids: ids[0]), 'bad-chain', 'split'),
    'long chain': (long_chain, 'giant', 'both'),
    'next out of range': (lie((OK, 72, NEXT), nxt=256), 'bad-chain', 'split'),
    'next 65535': (lie((OK, 72, NEXT), nxt=65535), 'bad-chain', 'split'),
    'device-writable': (lie((OK, 72, WRITE)), 'bad-chain', 'both'),
    'device-writable in the middle': (lie((OK, 72, NEXT), (OK, 1, NEXT | WRITE), (OK, 1, 0)),
                                      'bad-chain', 'both'),
    'indirect empty': (table_of(), 'bad-chain', 'both'),
    'indirect not a multiple': (table_of((0, 0, 0), size=17), 'bad-chain', 'both'),
    'indirect 4 GiB': (table_of(size=0xfffffff0), 'bad-chain', 'both'),
    'indirect nested': (table_of((vu.GPA + TABLE, 16, INDIRECT)), 'bad-chain', 'split'),
    'indirect nested is a buffer': (table_of((OK, 1, INDIRECT)), 'no-header', 'packed'),
    'indirect with NEXT': (table_of((OK, 72, 0), flags=NEXT), 'bad-chain', 'split'),
    'indirect first of a list': (table_of((OK, 72, 0), flags=NEXT, behind=[(OK, 9, 0)]), 'bad-chain',
                                 'both'),
    'indirect last of a list': (table_of((OK, 72, 0), before=[(OK, 12, NEXT)]), 'bad-chain', 'packed'),
    'indirect loop': (loop_in_table(0), 'bad-chain', 'split'),
    'indirect next out of range': (loop_in_table(1), 'bad-chain', 'split'),
    'indirect outside': (lie((1 << 50, 32, INDIRECT)), 'unmapped', 'both'),
    'indirect crosses the end': (lie((END - 8, 32, INDIRECT)), 'unmapped', 'both'),
    'indirect buffer outside': (table_of((1 << 50, 72, 0)), 'unmapped', 'both'),
}


@pytest.mark.parametrize('layout, name', per_layout(CHAIN_LIES), indirect=['layout'])
def test_lie_in_a_chain(lab, mate, layout, name):
    """The chain is dropped with its reason and given back; the ring lives on."""
    build, reason, _ = CHAIN_LIES[name]
    with lab.attack(), lab.front('evil').start() as f:
        works(lab, f, mate)
        before = lab.drops()
        for _ in range(3):
            build(f.tx)
            f.tx.publish()
            assert [length for _, length in f.wait_used(f.tx)] == [0]
        after = lab.drops()
        changed = {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}
        assert changed == {reason: 3}
        works(lab, f, mate)


@both
def test_range_crosses_two_regions(lab, mate, layout):
    """Neighbours in guest addresses, not in ours: every byte comes from the right one."""
    mem = Memory()
    half = mem.size // 2
    mem.regions = [(vu.GPA, half, vu.UVA, 0), (vu.GPA + half, half, vu.UVA + (1 << 32), half)]
    with lab.attack(), lab.front('evil', mem=mem).start() as f:
        data = bytes(12) + frame(mate.mac, f.mac, 1514)
        for cut in 1, 11, 12, 500, len(data) - 1:
            f.mem.map[half - cut:half - cut + len(data)] = data
            f.tx.put((vu.GPA + half - cut, len(data), 0))
            f.tx.publish()
            f.wait_used(f.tx)
            assert mate.wait_frames(1) == [data[12:]]
        works(lab, f, mate)


def broken_jump(f, r):
    r.avail_idx = (r.avail_idx + r.num + 1) & 0xffff


def broken_back(f, r):
    r.avail_idx = (r.mem.u16(r.used + 2) - 1) & 0xffff


def endless(f, r):
    r.put(*[(OK, 0, NEXT)] * r.num)


RING_LIES = {
    'available index jumps': (broken_jump, 'available index', 'split'),
    'available index by 32768': (lambda f, r: [broken_jump(f, r) for _ in range(127)],
                                 'available index', 'split'),
    'available index goes back': (broken_back, 'available index', 'split'),
    'head out of range': (lambda f, r: r.offer(r.num), 'beyond the ring', 'split'),
    'head 65535': (lambda f, r: r.offer(65535), 'beyond the ring', 'split'),
    'NEXT on every slot': (endless, 'no end', 'packed'),
}


@pytest.mark.parametrize('which', ['tx', 'rx'])
@pytest.mark.parametrize('layout, name', per_layout(RING_LIES), indirect=['layout'])
def test_lie_breaks_the_ring(lab, mate, layout, name, which):
    """The ring stops, the error eventfd is signalled, the reason is shown; a new set-up heals it."""
    build, says, _ = RING_LIES[name]
    with lab.attack(), lab.front('evil').start(buffers=which == 'tx') as f:
        if which == 'tx':
            works(lab, f, mate)
        else:
            f.post_rx(count=1)
            exchange(mate, f, [60])  # which posts it again
            mate.transmit(frame(f.mac, mate.mac, 60))
            for head, _ in f.wait_used(f.rx):
                assert head not in f.rx.chains
        r = getattr(f, which)
        build(f, r)
        r.publish()
        for i in range(3):  # a receive ring is looked at when there is something for it
            mate.transmit(frame(f.mac, mate.mac, 60))
            mate.wait_used(mate.tx)
        assert select.select([r.err], [], [], vu.TIMEOUT)[0], 'the err eventfd is silent'
        state = lab.state()
        assert says in state['last_error']
        ring = next(x for x in state['rings'] if x['index'] == r.idx)
        assert ring['broken'] and not ring['running']
        assert f.alive()
        f.get_base(r.idx)
        r.restart()
        for step in f.set_num, f.set_base, f.set_addr, f.set_kick, f.set_call:
            step(r)
        if which == 'rx':
            f.post_rx()
        f.received()  # what was sent above
        works(lab, f, mate)


@pytest.mark.parametrize('layout', ['packed'], indirect=True)
@pytest.mark.parametrize('ident', [256, 0x7fff, 0xffff])
def test_id_beyond_the_ring(lab, mate, layout, ident):
    """The id of a packed chain is the driver's: it is given back as it came, and indexes nothing."""
    with lab.attack(), lab.front('evil').start() as f:
        data = frame(mate.mac, f.mac, 60)
        f.tx.put_desc(f.mem.gpa(f.put(bytes(12) + data)), 72, 0, ident)
        f.tx.chains[ident] = ([], [])
        f.tx.publish()
        assert mate.wait_frames(1) == [data]
        used = f.tx.desc + 8
        wait_for('used', lambda: f.mem.u16(f.tx.desc_flags_at(0)) & vu.USED)
        assert struct.unpack_from('<IH', f.mem.map, used) == (0, ident)


@both
def test_mapping_after_an_error(lab, mate, layout):
    """A ring breaks, then its memory goes and another comes: nobody looks at the old one."""
    with lab.attack(), lab.front('evil').start() as f:
        for _ in range(5):
            works(lab, f, mate)
            (broken_jump if layout == 'split' else endless)(f, f.tx)
            f.tx.publish()
            wait_for('broken', lambda: lab.ring(1)['broken'])
            mate.transmit(frame(f.mac, mate.mac, 60))
            f.mem.move()
            f.set_memory()
            mate.transmit(frame(f.mac, mate.mac, 60))
            mate.wait_used(mate.tx, 2)
            for r in f.rx, f.tx:
                f.get_base(r.idx)
                r.restart()
            for step in f.ring_steps():
                step()
            f.post_rx()
        works(lab, f, mate)


@pytest.mark.parametrize('features, size', [(vu.PROTOCOL, 10), (vu.PROTOCOL | vu.MRG_RXBUF, 12),
                                            (vu.PROTOCOL | vu.VERSION_1, 12)])
def test_header_size_follows_the_features(lab, mate, features, size):
    """One byte less than this header is none, one byte more is no frame; with all of it traffic flows."""
    with lab.attack(), lab.front('evil').start(features) as f:
        for length, reason in (size - 1, 'no-header'), (size + 1, 'runt'):
            before = lab.drops().get(reason, 0)
            f.tx.put((OK, length, 0))
            f.tx.publish()
            f.wait_used(f.tx)
            assert lab.drops().get(reason, 0) == before + 1
        works(lab, f, mate)


RX_LIES = {
    'outside': ([(1 << 50, 2048)], 'rx-unmapped'),
    'leaves the region': ([(END - 10, 2048)], 'rx-unmapped'),
    'length 0': ([(vu.GPA, 0)], 'buffers-small'),
    'too small': ([(vu.GPA + 0x100000, 40)], 'buffers-small'),
}


@both
@pytest.mark.parametrize('name', RX_LIES)
def test_lie_in_a_receive_buffer(lab, mate, layout, name):
    parts, reason = RX_LIES[name]
    with lab.attack(), lab.front('evil').start(vu.PROTOCOL | vu.VERSION_1, buffers=False) as f:
        before = lab.drops().get(reason, 0)
        f.rx.put((*parts[0], WRITE))
        f.rx.publish()
        mate.transmit(frame(f.mac, mate.mac, 60))
        mate.wait_used(mate.tx)
        wait_for('counted', lambda: lab.drops().get(reason, 0) > before)
        assert f.alive()


@both
def test_receive_buffer_not_writable(lab, mate, layout):
    with lab.attack(), lab.front('evil').start(buffers=False) as f:
        mark = bytes(range(1, 65)) * 4
        f.mem.map[f.slab:f.slab + len(mark)] = mark
        f.rx.add([(f.slab, 2048)], False)
        f.rx.publish()
        before = lab.drops().get('rx-bad-chain', 0)
        mate.transmit(frame(f.mac, mate.mac, 60))
        mate.wait_used(mate.tx)
        wait_for('counted', lambda: lab.drops().get('rx-bad-chain', 0) > before)
        assert f.mem.map[f.slab:f.slab + len(mark)] == mark  # nothing was written


@both
def test_tiny_mergeable_buffers(lab, mate, layout):
    """Buffers of 16 bytes: either merged or dropped with a reason, never half a frame."""
    with lab.attack(), lab.front('evil', num=1024, mem=Memory(8 << 20)) as f:
        f.slab = 2 << 20
        f.tx = type(f.rx)(f.mem, 1, 1024, at=0x80000)
        f.start(buffers=False)
        f.post_rx(16, 1024)
        exchange(mate, f, [60, 200])
        mate.transmit(frame(f.mac, mate.mac, 1514))  # would need 96 buffers
        mate.wait_used(mate.tx)
        time.sleep(0.1)
        assert all(len(x) == 1514 for x in f.received())
        exchange(mate, f, [60])


@both
def test_no_receive_buffers(lab, mate, layout):
    with lab.attack(), lab.front('evil').start(buffers=False) as f:
        before = lab.drops().get('no-buffers', 0)
        for _ in range(5):
            mate.transmit(frame(f.mac, mate.mac, 60))
            mate.wait_used(mate.tx)
        wait_for('counted', lambda: lab.drops().get('no-buffers', 0) >= before + 5)
        f.post_rx()
        works(lab, f, mate)


# --- lies in the virtio-net header, and in what it speaks of -----------------------------------

CSUM, HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_UFO, HOST_USO = (1 << b for b in (0, 11, 12, 13, 14, 56))
OFFLOADS = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO
NEEDS_CSUM, TCPV4, UFO, TCPV6, UDP_L4, ECN = 1, 1, 3, 4, 5, 0x80


def header(flags=NEEDS_CSUM, gso_type=0, hdr_len=54, gso_size=1000, start=34, offset=16):
    return struct.pack('<BBHHHHH', flags, gso_type, hdr_len, gso_size, start, offset, 0)


def tcp4(f, mate, payload=3000, doff=5):
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 40 + payload & 0xffff, 1, 0, 64, 6, 0, b'\x0a\0\0\1',
                     b'\x0a\0\0\2')
    tcp = struct.pack('!HHIIBBHHH', 1000, 2000, 1, 1, doff << 4, 0x18, 1000, 0, 0)
    return bytearray(mate.mac + f.mac + b'\x08\0' + ip + tcp + bytes(payload))


def udp4(f, mate, payload=3000):
    frame = tcp4(f, mate, payload - 12)
    frame[23] = 17
    return frame


def tcp6(f, mate, payload=3000, ext=b'', first=6):
    ip = struct.pack('!IHBB16s16s', 6 << 28, len(ext) + 20 + payload, first, 64, b'\1' * 16, b'\2' * 16)
    return bytearray(mate.mac + f.mac + b'\x86\xdd' + ip + ext) + tcp4(f, mate, payload)[34:]


def changed(frame, **at):
    """b20=1: byte 20 becomes 1."""
    for name, v in at.items():
        frame[int(name[1:])] = v
    return frame


HEADER_LIES = {
    # name: (header, frame, the reason counted at the liar)
    'csum beyond the frame': (header(start=3054, offset=0), tcp4, 'bad-csum'),
    'csum half beyond a short frame': (header(start=34, offset=19),
                                       lambda f, m: tcp4(f, m, 0), 'bad-csum'),
    'csum 65535 + 65535': (header(start=65535, offset=65535), tcp4, 'bad-csum'),
    'csum wraps to 0': (header(start=65535, offset=1), tcp4, 'bad-csum'),
    'csum behind the snapshot': (header(start=1000, offset=0), tcp4, 'bad-csum'),
    'csum on the destination MAC': (header(start=0, offset=0), tcp4, 'bad-csum'),
    'csum on the source MAC': (header(start=4, offset=4), tcp4, 'bad-csum'),
    'csum on the type': (header(start=12, offset=0), tcp4, 'bad-csum'),
    'csum on the IP address': (header(start=14, offset=16), tcp4, 'bad-csum'),
    'csum on the TCP ports': (header(start=34, offset=0), tcp4, 'bad-csum'),
    'csum of UDP in TCP': (header(start=34, offset=6), tcp4, 'bad-csum'),
    'csum of a fragment': (header(), lambda f, m: changed(tcp4(f, m), b20=0x20), 'bad-csum'),
    'gso without NEEDS_CSUM': (header(flags=0, gso_type=TCPV4), tcp4, 'bad-gso'),
    'gso_size 0': (header(gso_type=TCPV4, gso_size=0), tcp4, 'bad-gso'),
    'gso_size 65535': (header(gso_type=TCPV4, gso_size=65535), tcp4, 'bad-gso'),
    'gso_type 2': (header(gso_type=2), tcp4, 'bad-gso'),
    'gso_type 6': (header(gso_type=6), tcp4, 'bad-gso'),
    'gso_type 127': (header(gso_type=127), tcp4, 'bad-gso'),
    'tunnel over IPv4': (header(gso_type=TCPV4 | 0x20), tcp4, 'bad-gso'),
    'tunnel over IPv6': (header(gso_type=TCPV4 | 0x40), tcp4, 'bad-gso'),
    'tunnel over both': (header(gso_type=0x60), tcp4, 'bad-gso'),
    'ECN alone': (header(gso_type=ECN), tcp4, 'bad-gso'),
    'ECN with UDP': (header(gso_type=UDP_L4 | ECN, offset=6), udp4, 'bad-gso'),
    'TCP over IPv6 on IPv4': (header(gso_type=TCPV6), tcp4, 'bad-gso'),
    'TCP over IPv4 on IPv6': (header(gso_type=TCPV4, start=54), tcp6, 'bad-gso'),
    'UDP on TCP': (header(gso_type=UDP_L4), tcp4, 'bad-gso'),
    'TCP on UDP': (header(gso_type=TCPV4, offset=6), udp4, 'bad-gso'),
    'gso, csum_start in the payload': (header(gso_type=TCPV4, start=60), tcp4, 'bad-gso'),
    'doff too small': (header(gso_type=TCPV4), lambda f, m: tcp4(f, m, doff=4), 'bad-gso'),
    'doff beyond the frame': (header(gso_type=TCPV4, gso_size=8),
                              lambda f, m: tcp4(f, m, 20, doff=15), 'bad-gso'),
    'no payload': (header(gso_type=TCPV4), lambda f, m: tcp4(f, m, 0), 'bad-gso'),
    'ihl 4': (header(gso_type=TCPV4), lambda f, m: changed(tcp4(f, m), b14=0x44), 'bad-csum'),
    'ihl 15': (header(gso_type=TCPV4), lambda f, m: changed(tcp4(f, m), b14=0x4f), 'bad-csum'),
    'IP version 6 in IPv4': (header(gso_type=TCPV4), lambda f, m: changed(tcp4(f, m), b14=0x65),
                             'bad-gso'),
    'segments of more than 65535': (header(gso_type=TCPV4, gso_size=65500),
                                    lambda f, m: tcp4(f, m, 65557 - 54), 'bad-gso'),
    'extension headers without end': (header(gso_type=TCPV6, start=54),
                                      lambda f, m: tcp6(f, m, ext=b'\x3c\0123456' * 100, first=60),
                                      'bad-csum'),
    'extension header of 2 KiB': (header(gso_type=TCPV6, start=54),
                                  lambda f, m: tcp6(f, m, ext=b'\6\xff' + bytes(2046), first=60),
                                  'bad-csum'),
    'TCP header cut by the snapshot': (header(gso_type=TCPV6, start=54 + 112),
                                       lambda f, m: tcp6(f, m, ext=b'\6\x0d' + bytes(110), first=60),
                                       'bad-csum'),
    'UFO not negotiated': (header(gso_type=UFO, offset=6), udp4, 'offload'),
}


def attack_with(lab, f, frame, h, reason, at=None):
    before = lab.drops(at or 'evil')
    for _ in range(3):
        f.transmit(bytes(frame), header=h)
        assert [length for _, length in f.wait_used(f.tx)] == [0]
    wait_for('counted', lambda: lab.drops(at or 'evil').get(reason, 0) >= before.get(reason, 0) + 3)
    after = lab.drops(at or 'evil')
    assert {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)} == {reason: 3}


@both
@pytest.mark.parametrize('name', HEADER_LIES)
def test_lie_in_the_net_header(lab, mate, layout, name):
    """Dropped with its reason at the liar, nothing of it arrives, and the port goes on."""
    h, make, reason = HEADER_LIES[name]
    with lab.attack(), lab.front('evil').start(Front.FEATURES | OFFLOADS) as f:
        works(lab, f, mate)
        others = lab.drops('mate')
        attack_with(lab, f, make(f, mate), h, reason)
        works(lab, f, mate)
        assert lab.drops('mate') == others


@both
@pytest.mark.parametrize('gso_size', [1, 2, 8, 87])
def test_segments_of_a_byte(lab, mate, layout, gso_size):
    """64 KiB would become 65,000 frames: who does not take it whole does not get it."""
    with lab.attack(), lab.front('evil').start(Front.FEATURES | OFFLOADS) as f:
        works(lab, f, mate)
        liar = lab.drops()
        attack_with(lab, f, tcp4(f, mate, 60000), header(gso_type=TCPV4, gso_size=gso_size),
                    'gso-tiny', 'mate')
        works(lab, f, mate)
        assert lab.drops() == liar


@both
@pytest.mark.parametrize('lie', [0, 1, 53, 55, 181, 65535])
def test_hdr_len_lies(lab, mate, layout, lie):
    """It is not believed: the segments are right."""
    with lab.attack(), lab.front('evil').start(Front.FEATURES | OFFLOADS) as f:
        works(lab, f, mate)
        f.transmit(bytes(tcp4(f, mate)), header=header(gso_type=TCPV4, hdr_len=lie))
        f.wait_used(f.tx)
        assert [len(x) for x in mate.wait_frames(3)] == [1054] * 3
        works(lab, f, mate)


@pytest.mark.parametrize('total_len', [0, 39, 65535])
def test_total_len_lies(lab, mate, total_len):
    """Segments have the length that they have, whatever the frame said."""
    with lab.attack(), lab.front('evil').start(Front.FEATURES | OFFLOADS) as f:
        works(lab, f, mate)
        frame = tcp4(f, mate)
        struct.pack_into('!H', frame, 16, total_len)
        f.transmit(bytes(frame), header=header(gso_type=TCPV4))
        f.wait_used(f.tx)
        for x in mate.wait_frames(3):
            assert struct.unpack_from('!H', x, 16)[0] == 1040
        works(lab, f, mate)


@both
def test_header_changes_while_it_is_read(lab, mate, layout):
    """A second thread of the guest rewrites header and headers all the time: what is decided on is a
    private copy, so a receiver without offloads never sees one, and no segment is longer than agreed."""
    with lab.attack(), lab.front('evil').start(Front.FEATURES | OFFLOADS) as f:
        works(lab, f, mate)
        rand = random.Random(7)
        frame = bytes(tcp4(f, mate, 5000))
        places = [f.tx_slab + k * 0x10000 for k in range(15)]
        good = header(gso_type=TCPV4, gso_size=1400) + frame[:60]

        def flip():
            for at in places:
                i = rand.randrange(60)
                if not 12 <= i < 24:  # it goes on to mate
                    f.mem.map[at + i] = rand.choice((good[i], rand.randrange(256)))
        got = 0
        with busy(flip):
            for _ in range(500):
                f.transmit(frame, header=good[:12])
                f.wait_used(f.tx)
                for x in mate.received():  # which looks at their headers: all zero
                    got += 1
                    assert len(x) <= 12 + 65557
        assert got
        mate.received()
        works(lab, f, mate)


@pytest.mark.parametrize('header', [
    struct.pack('<BBHHHH', 1, 0, 0, 0, 0xffff, 0xffff), struct.pack('<BBHHHH', 0, 1, 54, 0, 0, 0),
    struct.pack('<BBHHHH', 1, 4, 0, 1, 34, 16)], ids=['csum', 'gso size 0', 'gso size 1'])
def test_offload_not_negotiated(lab, mate, header):
    with lab.attack(), lab.front('evil').start() as f:
        before = lab.drops().get('offload', 0)
        f.transmit(frame(mate.mac, f.mac, 1000), header=header + b'\0\0')
        f.wait_used(f.tx)
        assert lab.drops().get('offload', 0) == before + 1


OFFLOAD_BITS = {'csum': (CSUM, header()), 'tso4': (HOST_TSO4, header(gso_type=TCPV4)),
                'ecn': (HOST_ECN, header(gso_type=TCPV4 | ECN)),
                'tso6': (HOST_TSO6, header(gso_type=TCPV6, start=54)),
                'uso': (HOST_USO, header(gso_type=UDP_L4, offset=6))}


@pytest.mark.parametrize('name', OFFLOAD_BITS)
def test_one_offload_not_negotiated(lab, mate, name):
    """All the others do not make up for it."""
    bit, h = OFFLOAD_BITS[name]
    make = {'tso6': tcp6, 'uso': udp4}.get(name, tcp4)
    with lab.attack(), lab.front('evil').start(Front.FEATURES | OFFLOADS & ~bit) as f:
        works(lab, f, mate)
        attack_with(lab, f, make(f, mate), h, 'offload')
        works(lab, f, mate)


@both
def test_buffer_is_the_ring(lab, mate, layout):
    """A buffer that aliases the rings: a liar may read its own rings, and break only them."""
    with lab.attack(), lab.front('evil').start(buffers=False) as f:
        f.tx.add([(f.tx.desc, 4096)], False)
        f.tx.publish()
        f.wait_used(f.tx)
        f.rx.add([(f.tx.desc, 8192)], True)  # receive into the transmit ring
        f.rx.publish()
        for _ in range(300):
            mate.transmit(frame(f.mac, mate.mac, 1514))
            mate.wait_used(mate.tx)
        assert f.alive()


def test_memory_is_rewritten_all_the_time(lab, mate):
    """Another thread of the guest scribbles over descriptors while they are used."""
    rnd = random.Random(1)
    with lab.attack(), lab.front('evil').start() as f:
        r = f.tx
        for _ in range(3000):
            i = rnd.randrange(r.num)
            r.set_desc(i, vu.GPA + rnd.randrange(5 << 20), rnd.randrange(1 << rnd.randrange(1, 33)),
                       rnd.randrange(8), rnd.randrange(r.num + 1))
            if rnd.random() < 0.3 and (r.avail_idx - r.mem.u16(r.used + 2)) & 0xffff < r.num - 1:
                r.offer(rnd.randrange(r.num))
                r.publish()
        assert f.alive()
        f.received()


@both
def test_flood_starves_nobody(lab, mate, layout):
    with lab.attack(), lab.front('evil').start() as f:
        exchange(mate, f, [60])  # the switch knows where the flood goes: to nobody else
        off, n = f.put(bytes(12) + frame(mate.mac, f.mac, 60)), 72

        def flood():  # always full
            for head, _ in f.tx.reap():
                f.tx.give_back(head)
            while f.tx.free:
                f.tx.add([(off, n)], False)
            f.tx.publish()
        with busy(flood):
            for _ in range(5):
                lab.check_neighbours()


def learnt(lab, port):
    return lab.show(port)['macs']


def test_mac_flood(lab, mate):
    """A flooder fills its own share of the table; nobody else's addresses go, nobody's frames
    start to flood."""
    with lab.attack():
        lab.rpc('port.set', name='evil', key='mac-limit', value='100')
        a, b = lab.neighbours
        lab.check_neighbours()
        with lab.front('evil').start() as f:
            before = learnt(lab, 'evil')
            for i in range(3000):
                f.transmit(frame(BROADCAST, b'\x02\xee\0\0' + struct.pack('>H', i), 60))
                f.wait_used(f.tx)
                f.received()
                if i % 50 == 0:
                    for n in (a, b, mate):
                        n.received()
            after = learnt(lab, 'evil')
            assert after['learnt'] <= 100 and after['limit'] == 100
            assert after['refused'] - before['refused'] >= 2900
            for port, nic in ('vm1', a), ('vm2', b):
                macs = {m['mac'] for m in lab.rpc('macs.list', port=port)['macs']}
                assert nic.mac.hex(':') in macs
            wait_for('quiet', lambda: not f.received())
            exchange(a, b, [60] * 20)
            assert f.received() == [], 'frames between neighbours flood'
        lab.rpc('mac.flush', port='evil')


@both
def test_frame_to_itself(lab, mate, layout):
    """Neither a broadcast nor a frame to its own address comes back to its sender."""
    with lab.attack(), lab.front('evil').start() as f:
        before = lab.drops()
        f.transmit(frame(BROADCAST, f.mac, 60, 1))
        assert mate.wait_frames(1, lambda g: g[6:12] == f.mac) == [frame(BROADCAST, f.mac, 60, 1)]
        f.transmit(frame(f.mac, f.mac, 60, 2))
        f.wait_used(f.tx, 2)
        wait_for('counted', lambda: lab.drops().get('hairpin', 0) == before.get('hairpin', 0) + 1)
        exchange(mate, f, [60])  # the first that arrives
        assert f.received() == []


@pytest.mark.parametrize('dst, src, reason', [
    (BROADCAST, b'\x01' + bytes(5), 'src-multicast'), (BROADCAST, BROADCAST, 'src-multicast'),
    (bytes.fromhex('0180c2000000'), mac(9), 'reserved'),
    (bytes.fromhex('0180c200000f'), mac(9), 'reserved')], ids=str)
def test_addresses_that_are_not_forwarded(lab, mate, dst, src, reason):
    with lab.attack(), lab.front('evil').start() as f:
        before = lab.drops().get(reason, 0)
        f.transmit(frame(dst, src, 60))
        f.wait_used(f.tx)
        assert lab.drops().get(reason, 0) == before + 1
        exchange(f, mate, [60])  # the first that arrives


def test_reasons_name_the_culprit(lab, mate):
    with lab.attack(), lab.front('evil').start(buffers=False) as f:
        f.tx.put((1 << 50, 72, 0))
        f.tx.publish()
        mate.transmit(frame(f.mac, mate.mac, 60))
        wait_for('counted', lambda: {'unmapped', 'no-buffers'} <= set(lab.drops()))
        out = subprocess.run([RINGWAY, 'why', 'evil', '--rundir', lab.run], capture_output=True,
                             text=True, timeout=vu.TIMEOUT, check=True).stdout
        assert 'evil sent a descriptor outside its memory' in out
        assert 'evil has no receive buffers' in out


@both
def test_kick_storm(lab, mate, layout):
    with lab.attack(), lab.front('evil').start() as f, busy(
            lambda: [os.eventfd_write(r.kick, 1) for r in (f.tx, f.rx)]):
        for _ in range(5):
            lab.check_neighbours()
        works(lab, f, mate)


def test_wishes_for_signals_change_all_the_time(lab, mate):
    with lab.attack(), lab.front('evil').start(Front.FEATURES | vu.EVENT_IDX) as f:
        rnd = random.Random(3)

        def scribble():
            for r in f.rx, f.tx:
                f.mem.set_u16(r.avail + 4 + 2 * r.num, rnd.randrange(0x10000))
                f.mem.set_u16(r.avail, rnd.randrange(4))
        with busy(scribble):
            for _ in range(5):
                works(lab, f, mate)
                lab.check_neighbours()


# --- lies on the socket (the front-end) -----------------------------------------------------------

def test_size_of_every_message(lab):
    """A payload of a wrong size ends the connection before it is read."""
    sizes = {vu.SET_FEATURES: 8, vu.SET_MEM_TABLE: 8, vu.SET_VRING_NUM: 8, vu.SET_VRING_ADDR: 40,
             vu.GET_FEATURES: 0, vu.SET_OWNER: 0, vu.SET_VRING_KICK: 8, vu.ADD_MEM_REG: 40}
    with lab.attack():
        for req, size in sizes.items():
            for wrong in {size + 1, size + 4, 4096, 4097, 0x7fffffff, 0xffffffff,
                          max(size - 1, 1)} - {size}:
                with lab.front('evil') as f:
                    f.send(req, b'', size=wrong)
                    f.ended()
        assert 'payload' in lab.state()['last_error']


@pytest.mark.parametrize('flags', [0, 2, 3, 5, 0x11, 0xffffffff])
def test_flags(lab, flags):
    with lab.attack(), lab.front('evil') as f:
        f.send(vu.GET_FEATURES, flags=flags)
        assert f.ended()


def test_unknown_messages_are_survived(lab):
    with lab.attack(), lab.front('evil') as f:
        for req in 0, 22, 33, 45, 1000, 0xffffffff:
            f.send(req, bytes(100), [f.mem.fd, f.tx.kick])
            assert f.ack(req, bytes(8)) != 0
        assert f.alive()


def test_fd_flood(lab):
    fd = os.open('/dev/null', os.O_RDONLY)
    with lab.attack():
        for _ in range(20):
            with lab.front('evil') as f, contextlib.suppress(vu.Closed):
                for _ in range(50):  # ignored messages with fds: used or closed, never kept
                    f.send(999, bytes(8), [fd] * 32)
                f.alive()
        for n in 33, 64, 253:
            with lab.front('evil') as f, contextlib.suppress(vu.Closed):
                f.send(vu.SET_MEM_TABLE, bytes(8), [fd] * n)
                f.ended()
        lab.check_neighbours()
        assert lab.open_fds() <= lab.fds + 40  # at most what one message may bring
    os.close(fd)


@pytest.mark.parametrize('req', [vu.GET_FEATURES, vu.SET_OWNER, vu.SET_VRING_NUM])
def test_fds_on_the_wrong_message(lab, req):
    with lab.attack(), lab.front('evil') as f:
        f.send(req, struct.pack('<II', 0, 8) if req == vu.SET_VRING_NUM else b'', [f.mem.fd])
        assert f.ended()
        assert 'file descriptors' in lab.state()['last_error']


def test_fds_without_message(lab):
    """Fds on single bytes of a header, until it is full."""
    with lab.attack(), lab.front('evil') as f:
        with contextlib.suppress(OSError):
            for byte in struct.pack('<III', vu.GET_FEATURES, 1, 0):
                f.s.sendmsg([bytes([byte])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                               array.array('i', [f.mem.fd] * 10))])
        assert f.ended()


@both
def test_repeated_fds_release_the_old(lab, mate, layout):
    with lab.attack(), lab.front('evil').start() as f:
        steady = lab.open_fds()
        for _ in range(100):
            for r in f.rx, f.tx:
                f.set_call(r)
                f.set_err(r)
                f.set_kick(r)
        f.set_memory()
        assert lab.open_fds() <= steady
        works(lab, f, mate)


@pytest.mark.parametrize('ring', [256, 257, 0x10000, 0x80000001, 0xffffffff])
def test_ring_index(lab, ring):
    with lab.attack():
        for req in vu.SET_VRING_NUM, vu.SET_VRING_BASE, vu.GET_VRING_BASE, vu.SET_VRING_ENABLE:
            with lab.front('evil') as f:
                f.send(req, struct.pack('<II', ring, 1))
                assert f.ended()
        with lab.front('evil') as f:
            f.send(vu.SET_VRING_ADDR, struct.pack('<II', ring, 0) + bytes(32))
            assert f.ended()


@pytest.mark.parametrize('num', [0, 3, 100, 32769, 65536, 0xffffffff])
def test_ring_size(lab, num):
    with lab.attack(), lab.front('evil') as f:
        f.set_num = lambda r: f.send(vu.SET_VRING_NUM, struct.pack('<II', r.idx, num))
        with contextlib.suppress(vu.Closed, AssertionError):
            f.start()
        state = lab.state()
        assert state['last_error'] or any(not r['running'] for r in state['rings'])
        assert not any(r['running'] for r in state['rings'])


def refused_table(lab, f, regions, fds, says):
    """The table is refused as a whole, and the one before still works."""
    f.send(vu.SET_MEM_TABLE, f.table(regions), fds, 1 | vu.NEED_REPLY)
    assert struct.unpack('<Q', f.reply(vu.SET_MEM_TABLE))[0] != 0
    assert says in lab.state()['last_error']


MB = 1 << 20
TABLE_LIES = {
    'size 0': ([(vu.GPA, 0, vu.UVA, 0)], 'empty'),
    'gpa wraps': ([(2**64 - 4096, MB, vu.UVA, 0)], 'wraps'),
    'uva wraps': ([(vu.GPA, MB, 2**64 - 4096, 0)], 'wraps'),
    'offset wraps': ([(vu.GPA, MB, vu.UVA, 2**64 - 4096)], 'wraps'),
    'offset beyond the file': ([(vu.GPA, MB, vu.UVA, 4 * MB)], 'has 4194304 bytes'),
    'size beyond the file': ([(vu.GPA, 5 * MB, vu.UVA, 0)], 'has 4194304 bytes'),
    'exabyte': ([(0, 1 << 62, 0, 0)], ''),
    'overlap in gpa': ([(0, MB, 0, 0), (MB - 1, MB, 1 << 40, 0)], 'overlaps'),
    'overlap in uva': ([(0, MB, 0, 0), (1 << 40, MB, MB - 1, 0)], 'overlaps'),
    'duplicate': ([(0, MB, 0, 0), (0, MB, 0, 0)], 'overlaps'),
}


@pytest.mark.parametrize('name', TABLE_LIES)
def test_lie_in_the_memory_table(lab, mate, name):
    regions, says = TABLE_LIES[name]
    with lab.attack(), lab.front('evil').start() as f:
        refused_table(lab, f, regions, [f.mem.fd] * len(regions), says)
        works(lab, f, mate)


def test_too_few_and_too_many_fds(lab, mate):
    two = [(0, MB, 0, 0), (1 << 40, MB, 1 << 40, 0)]
    with lab.attack():
        with lab.front('evil').start() as f:
            refused_table(lab, f, two, [f.mem.fd], 'not shared')
            works(lab, f, mate)
        with lab.front('evil') as f:
            f.send(vu.SET_MEM_TABLE, f.table(two), [f.mem.fd] * 3)
            assert f.ended()
        with lab.front('evil') as f:  # more regions than its payload
            f.send(vu.SET_MEM_TABLE, struct.pack('<II', 1000, 0))
            assert f.ended()


def test_region_slots_lies(lab, mate):
    with lab.attack(), lab.front('evil').start() as f:
        def region(g, n, u, o=0):
            return struct.pack('<QQQQQ', 0, g, n, u, o)
        assert f.ack(vu.ADD_MEM_REG, region(vu.GPA, MB, 1 << 40), [f.mem.fd]) != 0  # overlaps
        assert f.ack(vu.ADD_MEM_REG, region(1 << 50, MB, 1 << 50)) != 0  # no fd
        assert f.ack(vu.REM_MEM_REG, region(1 << 50, MB, 1 << 50)) != 0  # none there
        g, n, u, o = f.mem.regions[0]
        assert f.ack(vu.REM_MEM_REG, region(g, n, u)) != 0  # rings run in it
        works(lab, f, mate)


def test_many_slots(lab):
    """As many regions as are promised, and one more."""
    with lab.attack(), lab.front('evil') as f:
        slots = f.ask(vu.GET_MAX_MEM_SLOTS)
        results = [f.ack(vu.ADD_MEM_REG, struct.pack('<QQQQQ', 0, i << 13, 4096, i << 13, 0),
                         [f.mem.fd]) for i in range(slots + 1)]
        assert results[:slots] == [0] * slots and results[slots] != 0


@pytest.mark.parametrize('part', ['desc', 'avail', 'used'])
@pytest.mark.parametrize('what', ['misaligned', 'outside', 'crosses the end', 'wraps'])
@both
def test_ring_address(lab, mate, layout, part, what):
    with lab.attack(), lab.front('evil') as f:
        where = {'misaligned': f.mem.uva(getattr(f.tx, part)) + 1, 'outside': 0x1000,
                 'crosses the end': vu.UVA + (4 << 20) - (2 if layout == 'packed' else 16), 'wraps': 2**64 - 16}[what]
        f.set_addr = lambda r: f.ack(vu.SET_VRING_ADDR, f.addr(r, **{part: where} if r.idx else {}))
        with contextlib.suppress(AssertionError):
            f.start()
        ring = lab.ring(1)
        assert ring is None or not ring['running']
        assert lab.state()['last_error']


@both
def test_ring_misaligned_by_the_file_offset(lab, layout):
    """Aligned in the front-end's addresses, but not where it is mapped here."""
    with lab.attack(), lab.front('evil', mem=Memory(5 << 20)) as f:
        f.mem.regions = [(vu.GPA, 4 << 20, vu.UVA, 1)]
        f.mem.uva = lambda off: vu.UVA + off
        with contextlib.suppress(AssertionError):
            f.start(buffers=False)
        assert not any(r['running'] for r in lab.state()['rings'])
        assert 'aligned' in lab.state()['last_error']


@both
def test_rings_overlap(lab, layout):
    with lab.attack(), lab.front('evil') as f:
        f.tx.used = f.tx.avail - 4
        with contextlib.suppress(AssertionError):
            f.start(buffers=False)
        assert not lab.ring(1)['running']
        assert 'overlap' in lab.state()['last_error']


def test_used_and_avail_far_apart(lab):
    with lab.attack(), lab.front('evil') as f:
        f.mem.set_u16(f.tx.avail + 2, 5000)
        with contextlib.suppress(AssertionError):
            f.start(buffers=False)
        assert not lab.ring(1)['running']


def not_eventfds():
    r, w = os.pipe()
    yield 'pipe', w
    yield 'pipe reader', r
    yield 'file', os.open('/etc/passwd', os.O_RDONLY)
    yield 'null', os.open('/dev/null', os.O_RDWR)
    yield 'memfd', os.memfd_create('x')
    a, b = socket.socketpair()
    yield 'socket', a.detach()
    os.close(b.detach())
    ep = select.epoll()
    yield 'epoll', os.dup(ep.fileno())
    ep.close()


@pytest.mark.parametrize('req', [vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR])
def test_eventfd_is_something_else(lab, mate, req):
    with lab.attack(), lab.front('evil').start() as f:
        for name, fd in not_eventfds():
            assert f.ack(req, struct.pack('<Q', 1), [fd]) != 0, name
            os.close(fd)
        assert 'eventfd' in lab.state()['last_error']
        works(lab, f, mate)


def test_features_not_offered(lab):
    with lab.attack(), lab.front('evil') as f:
        offered = f.ask(vu.GET_FEATURES)
        for bit in range(64):
            refused = f.ack(vu.SET_FEATURES, struct.pack('<Q', 1 << bit)) != 0
            assert refused == (not offered >> bit & 1), f'bit {bit}'
        f.ack(vu.SET_FEATURES, struct.pack('<Q', 1 << 10 | 1 << 63))
        assert ': VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_SPEED_DUPLEX; ' in lab.state()['last_error']
        offered = f.ask(vu.GET_PROTOCOL_FEATURES)
        for bit in range(64):
            refused = f.ack(vu.SET_PROTOCOL_FEATURES, struct.pack('<Q', 1 << bit)) != 0
            assert refused == (not offered >> bit & 1), f'protocol bit {bit}'
        f.ack(vu.SET_PROTOCOL_FEATURES, struct.pack('<Q', 1 << 63))
        assert lab.state()['last_error'].endswith('SET_PROTOCOL_FEATURES sets what this port does not '
                                                  'offer: bit 63')
        f.ack(vu.SET_FEATURES, struct.pack('<Q', 1 << 63))
        f.u64(vu.SET_STATUS, 0xb)
        assert not f.ask(vu.GET_STATUS) & 8  # FEATURES_OK does not stick


@both
def test_features_change_while_running(lab, mate, layout):
    with lab.attack(), lab.front('evil').start() as f:
        assert f.ack(vu.SET_FEATURES, struct.pack('<Q', vu.PROTOCOL)) != 0
        works(lab, f, mate)


@pytest.mark.parametrize('cut', [1, 11, 12, 15, 19])
def test_half_a_message(lab, cut):
    """Somebody else is served meanwhile, and the half message ends by itself or with its sender."""
    whole = struct.pack('<III', vu.SET_FEATURES, 1, 8) + bytes(8)
    with lab.attack(), lab.front('evil') as f:
        f.s.sendall(whole[:cut])
        lab.check_neighbours()
        assert lab.state()['state'] == 'connected'
        f.s.close()
        wait_for('noticed', lambda: lab.state()['state'] == 'listening')
        assert 'middle of a message' in lab.state()['last_error']


def test_half_a_message_has_a_deadline(lab):
    with lab.attack(), lab.front('evil') as f:
        f.s.sendall(b'\1')
        assert f.ended()
        assert 'in time' in lab.state()['last_error']


def test_unread_replies(lab):
    """Questions without end, and no answer is read."""
    with lab.attack(), lab.front('evil') as f:
        f.s.setblocking(False)
        question = struct.pack('<III', vu.GET_FEATURES, 1, 0) * 100
        end = time.monotonic() + vu.TIMEOUT
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < end:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        f.s.send(question)
                if lab.state()['state'] == 'listening':
                    break
                time.sleep(0.1)
        wait_for('ended', lambda: lab.state()['state'] == 'listening')
        assert 'replies' in lab.state()['last_error']


def test_message_flood(lab):
    with lab.attack(), lab.front('evil') as f:
        for _ in range(200):
            f.s.sendall(struct.pack('<IIIQ', vu.SET_STATUS, 1, 8, 0) * 50)
        lab.check_neighbours()
        assert f.alive()


def test_connect_flood(lab):
    with lab.attack():
        keep = []
        for _ in range(40):
            with contextlib.suppress(OSError):
                s = socket.socket(socket.AF_UNIX)
                s.settimeout(0.2)
                keep.append(s)
                s.connect(os.path.join(lab.run, 'evil.sock'))
        lab.check_neighbours()
        for s in keep:
            s.close()
    wait_for('listening', lambda: lab.state()['state'] == 'listening')


def test_reconnect_loop(lab, mate):
    with lab.attack():
        for _ in range(30):
            with lab.front('evil').start() as f:
                exchange(f, mate, [60])


def test_memory_is_no_file(lab):
    r, w = os.pipe()
    a, b = socket.socketpair()
    event, null = os.eventfd(0), os.open('/dev/zero', os.O_RDWR)
    folder = os.open('/', os.O_RDONLY)
    with lab.attack(), lab.front('evil') as f:
        for fd in r, w, a.fileno(), event, null, folder:
            refused_table(lab, f, f.mem.regions, [fd], 'not a file')
            assert f.ack(vu.ADD_MEM_REG, struct.pack('<QQQQQ', 0, *f.mem.regions[0]), [fd]) != 0
        read_only = os.open(f'/proc/self/fd/{f.mem.fd}', os.O_RDONLY)
        refused_table(lab, f, f.mem.regions, [read_only], 'cannot map')
        for fd in r, w, event, null, folder, read_only:
            os.close(fd)
        a.close()
        b.close()
        assert f.alive()


def test_terabytes_of_nothing(lab, mate):
    """Sparse memory costs address space, which has a limit, and no memory."""
    before = lab.heap_kb()
    with lab.attack(), lab.front('evil').start() as f:
        huge = os.memfd_create('huge')
        os.ftruncate(huge, 1 << 40)
        region = [(1 << 44 | i << 40, 1 << 40, 1 << 45 | i << 40, 0) for i in range(4)]
        refused_table(lab, f, [*f.mem.regions, *region], [f.mem.fd] + [huge] * 4, '4 TiB')
        for i in range(3):
            f.do(vu.ADD_MEM_REG, struct.pack('<QQQQQ', 0, *region[i]), [huge])
        assert f.ack(vu.ADD_MEM_REG, struct.pack('<QQQQQ', 0, *region[3]), [huge]) != 0
        assert '4 TiB' in lab.state()['last_error']
        works(lab, f, mate)
        assert lab.heap_kb() - before < 8 << 10
        os.close(huge)


def test_terabytes_are_a_budget(net):
    """Many ports with 4 TiB each use up what all share; who has most is named, a small one works."""
    huge = os.memfd_create('huge')
    os.ftruncate(huge, 1 << 42)
    region = struct.pack('<QQQQQ', 0, 1 << 44, 1 << 42, 1 << 45, 0)
    hogs = []
    while len(hogs) < 64:
        hogs.append(net.front())
        if hogs[-1].ack(vu.ADD_MEM_REG, region, [huge]):
            break
    assert 4 < len(hogs) < 64
    why = net.state(net.names[-1])['last_error']
    assert f'port {net.bridge}p' in why and 'less memory' in why, why
    a, b = net.pair()  # a few megabytes: their share
    exchange(a, b, [60, 1514])
    hogs[0].close()  # and what is given back can be taken
    net.nics.remove(hogs[0])
    wait_for('room again', lambda: hogs[-1].ack(vu.ADD_MEM_REG, region, [huge]) == 0)
    os.close(huge)


@both
def test_two_rings_in_one_place(lab, mate, layout):
    """Both rings of a port in the same memory, with the same eventfds: only they are confused."""
    with lab.attack(), lab.front('evil') as f:
        twin = f.tx
        mine = twin.desc, twin.avail, twin.used
        twin.desc, twin.avail, twin.used = f.rx.desc, f.rx.avail, f.rx.used
        f.start()
        for _ in range(20):
            mate.transmit(frame(f.mac, mate.mac, 60))
            mate.wait_used(mate.tx)
            os.eventfd_write(twin.kick, 1)
        twin.desc, twin.avail, twin.used = mine
        assert f.alive()


def test_call_is_the_kick(lab, mate):
    """A switch that wakes itself must not do so for ever."""
    with lab.attack(), lab.front('evil').start() as f:
        f.do(vu.SET_VRING_CALL, struct.pack('<Q', 1), [f.tx.kick])
        f.do(vu.SET_VRING_CALL, struct.pack('<Q', 0), [f.tx.kick])
        works(lab, f, mate)
        wait_for('idle', lambda: not spins(lab))


def spins(lab):
    """Does the switch use more than a sixth of a core?"""
    def ticks():
        with open(f'/proc/{lab.proc.pid}/stat') as f:
            return sum(map(int, f.read().rsplit(')')[1].split()[11:13]))
    before = ticks()
    time.sleep(0.3)
    return ticks() - before > 5


@both
def test_rings_start_and_stop_all_the_time(lab, mate, layout):
    """Each of these waits for the workers: for those who ask, not for the neighbours."""
    with lab.attack(), lab.front('evil').start() as f:
        for i in range(100):
            f.send(vu.SET_VRING_ENABLE, struct.pack('<II', i % 2, i // 2 % 2))
            f.send(vu.SET_MEM_TABLE, f.table(), [f.mem.fd])
            if i % 20 == 0:
                lab.check_neighbours()
        f.enable(f.rx)
        f.enable(f.tx)
        works(lab, f, mate)


@pytest.mark.parametrize('features, running', [(Front.FEATURES, 2),
                                               (Front.FEATURES | vu.NET_MQ, 256)])
def test_every_ring_there_is(lab, mate, features, running):
    """All 256 rings with three eventfds each, on the same memory: only what was negotiated runs;
    and gone again."""
    with lab.attack(), lab.front('evil').start(features) as f:
        more = Ring(f.mem, 2, 8, at=0x80000)
        for i in range(2, 256):
            more.idx = i
            for step in (f.set_num, f.set_base, f.set_addr, f.set_kick, f.set_call, f.set_err,
                         f.enable):
                step(more)
        assert sum(r['running'] for r in lab.state()['rings']) == running
        works(lab, f, mate)
        for i in range(8):  # chains that 127 rings share: each of them gives them back
            more.offer(i)
        more.publish()
        lab.check_neighbours()
        works(lab, f, mate)
        more.close()


IOTLB_MSG, CREATE_CRYPTO = 22, 26


def test_messages_that_are_not_offered(lab, mate):
    """A flood of IOTLB entries, and a session with a key longer than it can be: refused, nothing kept."""
    with lab.attack(), lab.front('evil').start() as f:
        assert not f.ask(vu.GET_FEATURES) & 1 << 33
        assert not f.ask(vu.GET_PROTOCOL_FEATURES) & 1 << 7
        for i in range(500):
            assert f.ack(IOTLB_MSG, struct.pack('<QQQBB6x', i << 12, 4096, vu.UVA, 3, 2)) != 0
            assert f.ack(CREATE_CRYPTO, struct.pack('<QII', 0, 0xffffffff, 0xffffffff) + bytes(64)) != 0
        works(lab, f, mate)


INFLIGHT_LIES = {
    # name: (mmap_size, mmap_offset, rings, entries)
    'no rings': (MB, 0, 0, 256),
    'more rings than there are': (MB, 0, 257, 256),
    'no entries': (MB, 0, 2, 0),
    'more entries than a ring has': (MB, 0, 2, 32769),
    'too small for its rings': (4096, 0, 2, 1024),
    'beyond its file': (MB, 4 * MB, 2, 256),
    'size and offset wrap': (2**64 - 4096, 8192, 2, 256),
    'offset wraps': (MB, 2**64 - 4096, 2, 256),
    'offset misaligned': (MB, 1, 2, 256),
}


@both
@pytest.mark.parametrize('name', INFLIGHT_LIES)
def test_inflight_numbers(lab, mate, layout, name):
    with lab.attack():
        for _ in range(5):
            with lab.front('evil') as f:
                f.set_protocol()
                assert f.ack(vu.SET_INFLIGHT_FD, struct.pack('<QQHHI', *INFLIGHT_LIES[name], 0),
                             [f.mem.fd]) != 0
                assert 'SET_INFLIGHT_FD' in lab.state()['last_error']
                f.start()
                works(lab, f, mate)


@both
def test_inflight_is_guest_memory(lab, mate, layout):
    """Allowed, also twice: only the bounds count. What is in there is the front-end's own loss."""
    with lab.attack(), lab.front('evil') as f:
        f.set_protocol()
        for _ in range(50):
            f.do(vu.SET_INFLIGHT_FD, struct.pack('<QQHHI', MB, 2 * MB, 2, 256, 0), [f.mem.fd])
        rand = random.Random(5)
        f.mem.map[2 * MB:2 * MB + 0x8000] = rand.randbytes(0x8000)
        f.start()
        f.mem.map[2 * MB:2 * MB + 0x8000] = rand.randbytes(0x8000)
        assert f.alive()


# --- what a worker must not wait for --------------------------------------------------------------

def fill(fd):
    """Blocking, and full: the next write would wait for ever."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        os.eventfd_write(fd, 1)
    os.eventfd_read(fd)
    os.eventfd_write(fd, 2**64 - 2)


@both
def test_call_eventfd_blocking_and_full(lab, mate, layout):
    with lab.attack(), lab.front('evil').start() as f:
        works(lab, f, mate)
        for r in f.rx, f.tx:
            fill(r.call)
        works(lab, f, mate)
        for r in f.rx, f.tx:
            f.set_call(r)  # signalled once when set
        lab.check_neighbours()
        works(lab, f, mate)
        fill(f.tx.err)  # and the one for errors
        (broken_jump if layout == 'split' else endless)(f, f.tx)
        f.tx.publish()
        wait_for('broken', lambda: lab.ring(1)['broken'])


@both
def test_call_eventfd_refilled_all_the_time(lab, mate, layout):
    """Full whenever somebody looks, whoever reads it."""
    with lab.attack(), lab.front('evil').start() as f:
        for r in f.rx, f.tx:
            fill(r.call)
            os.set_blocking(r.call, False)

        def refill():
            for r in f.rx, f.tx:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(r.call)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(r.call, 2**64 - 2)
        with busy(refill):
            for _ in range(5):
                works(lab, f, mate)
                lab.check_neighbours()


@both
def test_kick_eventfd_blocking_and_drained(lab, mate, layout):
    """A read of the kick eventfd would wait as well: we empty it before the switch can."""
    with lab.attack(), lab.front('evil').start() as f:
        fcntl.fcntl(f.tx.kick, fcntl.F_SETFL, 0)
        for i in range(50):
            f.tx.publish()
            if select.select([f.tx.kick], [], [], 0)[0]:
                os.set_blocking(f.tx.kick, False)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(f.tx.kick)
                os.set_blocking(f.tx.kick, True)
            time.sleep(0.001 * (i % 4))
        works(lab, f, mate)
        os.set_blocking(f.tx.kick, False)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(f.tx.kick, 2**64 - 3)  # always readable: no spin
        time.sleep(0.1)
        works(lab, f, mate)


@both
def test_memory_file_truncated(lab, mate, layout):
    """SIGBUS: the port goes down with the reason, the process does not."""
    with lab.attack(), lab.front('evil').start() as f:
        works(lab, f, mate)
        off = f.put(bytes(12) + frame(mate.mac, f.mac, 1000))
        f.tx.add([(off, 1012)], False)
        os.ftruncate(f.mem.fd, 1 << 20)  # the rings stay, the buffers go
        f.tx.publish()
        assert f.ended()
        wait_for('shown', lambda: 'truncated' in (lab.state()['last_error'] or ''))
    with lab.front('evil').start() as f:
        works(lab, f, mate)


@both
@pytest.mark.parametrize('keep', [0, 4096])
def test_ring_memory_truncated(lab, mate, layout, keep):
    with lab.attack(), lab.front('evil').start() as f:
        works(lab, f, mate)
        os.ftruncate(f.mem.fd, keep)
        mate.transmit(frame(f.mac, mate.mac, 60))
        os.eventfd_write(f.tx.kick, 1)
        assert f.ended()
    with lab.front('evil').start() as f:
        works(lab, f, mate)


@both
def test_memory_truncated_before_the_start(lab, mate, layout):
    with lab.attack(), lab.front('evil') as f:
        steps = f.steps()
        for step in steps[:4]:
            step()
        os.ftruncate(f.mem.fd, 0)
        with contextlib.suppress(AssertionError, vu.Closed):
            for step in steps[4:]:
                step()
            f.ended()
    with lab.front('evil').start() as f:
        works(lab, f, mate)


MFD_HUGETLB, MFD_HUGE_SHIFT, MAP_NORESERVE = 4, 26, 0x4000


def empty_hugepages():
    """A file of huge pages of a size of which the machine has none to give; and that size."""
    for d in sorted(glob.glob('/sys/kernel/mm/hugepages/hugepages-*kB')):
        counts = []
        for what in 'free_hugepages', 'nr_overcommit_hugepages':
            with open(f'{d}/{what}') as f:
                counts.append(int(f.read()))
        size = int(d.split('-')[-1][:-2]) << 10
        if not any(counts):
            with contextlib.suppress(OSError):
                fd = os.memfd_create('huge', MFD_HUGETLB | (size.bit_length() - 1) << MFD_HUGE_SHIFT)
                os.ftruncate(fd, size)
                return fd, size
    pytest.skip('huge pages of every size are free on this machine')


@both
def test_hugepages_exhausted(lab, mate, layout):
    """A memory file of huge pages, and no page for it: the first touch is SIGBUS. The port goes down with
    the reason; the pages of the machine are left alone."""
    huge, size = empty_hugepages()
    with lab.attack():
        for _ in range(3):
            with lab.front('evil').start() as f:
                works(lab, f, mate)
                f.do(vu.ADD_MEM_REG, struct.pack('<QQQQQ', 0, 1 << 40, size, 1 << 44, 0), [huge])
                f.tx.put((1 << 40, 1012, 0))
                f.tx.publish()
                assert f.ended()
                wait_for('shown', lambda: 'truncated' in (lab.state()['last_error'] or ''))
    os.close(huge)
    with lab.front('evil').start() as f:
        works(lab, f, mate)


@pytest.mark.skipif(os.geteuid() != 0, reason='mounting needs root')
@pytest.mark.skipif(not os.path.exists('/dev/fuse'), reason='this kernel has no /dev/fuse')
def test_memory_on_fuse(lab, mate):
    """A file whose server never answers a read, a flush or a statfs. As memory it is refused without a
    question to that server, and wherever else it comes, nobody waits for it to close."""
    with hanging_file() as hang, lab.attack(), lab.front('evil').start() as f:
        before = lab.open_fds()
        fds = [os.open(hang.path, os.O_RDWR) for _ in range(3)]
        for _ in range(3):
            refused_table(lab, f, f.mem.regions, fds[:1], 'any-fs')
            assert f.ack(vu.ADD_MEM_REG, struct.pack('<QQQQQ', 0, 1 << 40, MB, 1 << 44, 0), fds[:1])
            assert f.ack(vu.SET_INFLIGHT_FD, struct.pack('<QQHHI', MB, 0, 2, 256, 0), fds[:1])
            assert f.ack(vu.SET_VRING_CALL, struct.pack('<Q', 1), fds[:1])
            assert f.ack(vu.SET_BACKEND_REQ_FD, b'', fds[:1])
            f.send(999, bytes(8), fds)
        lab.check_neighbours()
        works(lab, f, mate)
        assert lab.open_fds() > before, 'no close waits: this file is no trap'
        # The server goes; whatever waited for it returns, ours as well as the switch's.
        hang.end()
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)


def disk_file():
    """A file whose page faults wait for a disk; None where there is no such file system."""
    f = tempfile.TemporaryFile(dir='/var/tmp')
    out = subprocess.run(['stat', '-f', '-c', '%T', '/var/tmp'], capture_output=True, text=True)
    if out.stdout.strip() == 'tmpfs':
        pytest.skip('/var/tmp is on tmpfs')
    return os.dup(f.fileno())


def test_memory_on_a_disk_is_refused(lab):
    with lab.attack(), lab.front('evil', mem=Memory(fd=disk_file())) as f:
        assert f.ack(vu.SET_MEM_TABLE, f.table(), [f.mem.fd]) != 0
        assert 'any-fs' in lab.state()['last_error']


def test_memory_on_a_disk_with_any_fs(lab, mate):
    with lab.attack(), lab.front('anyfs', mem=Memory(fd=disk_file())).start() as f:
        works(lab, f, mate)
