# SPDX-License-Identifier: Apache-2.0
"""A guest with several queue pairs: which ring does a frame arrive on?

      one pair  b ---- bridge ---- a  four pairs, of which `active` are enabled
"""
import struct

import pytest

import vu_front as vu
from vu_front import Nic, frame, wait_for
from vu_lab import mac


def udp(dst, src, sport, dport, seq=0, frag=0, version=4):
    """An Ethernet frame with a UDP datagram whose payload is seq; frag: flags and offset."""
    body = struct.pack('>HHHHI', sport, dport, 12, 0, seq)
    if version == 4:
        ip = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(body), 1, frag, 64, 17, 0,
                         b'\x0a\0\0' + src[5:6], b'\x0a\0\0' + dst[5:6])
        return (dst + src + b'\x08\0' + ip + body).ljust(60, b'\0')
    ip = struct.pack('>IHBB16s16s', 6 << 28, len(body), 17, 64, b'\xfd' + src[:6].rjust(15, b'\0'),
                     b'\xfd' + dst[:6].rjust(15, b'\0'))
    return dst + src + b'\x86\xdd' + ip + body


def nics(net, pairs=4, **how):
    a = Nic(net.path(net.port()), mac=mac(10), pairs=pairs, **how)
    b = Nic(net.path(net.port()), mac=mac(11))
    a.name, b.name = net.names[-2:]
    net.nics += [a, b]
    a.send_frames(frame(b.mac, a.mac, 60))  # the switch knows where a is
    b.recv()
    return a, b


def arrivals(a, n):
    """[(pair, frame)] of n frames."""
    got = []

    def enough():
        got.extend(a.received_by_pair())
        return len(got) >= n
    wait_for(f'{n} frames', enough)
    return got


def where(a, b, ports, **how):
    """{port: pair} on which a flow from b arrives; one ring per flow."""
    sent = [udp(a.mac, b.mac, p, 7, i, **how) for i, p in enumerate(ports)]
    b.send_frames(*sent)
    got = arrivals(a, len(sent))
    assert sorted(f for _, f in got) == sorted(sent)
    by_frame = {f: k for k, f in got}
    return {p: by_frame[f] for p, f in zip(ports, sent)}


def steered(net, a):
    return [r['index'] // 2 for r in net.state(a.name)['rings'] if r.get('steered')]


@pytest.mark.parametrize('order', ['qemu', 'cloud_hypervisor', 'virtio_user', 'backwards'])
def test_flows_are_spread_and_stay(net, order):
    a, b = nics(net, order=order)
    wait_for('all rings', lambda: steered(net, a) == [0, 1, 2, 3])
    ports = range(1000, 1064)
    first = where(a, b, ports)
    assert set(first.values()) == {0, 1, 2, 3}
    assert where(a, b, ports) == first
    v6 = where(a, b, ports, version=6)
    assert set(v6.values()) == {0, 1, 2, 3}
    frames = {r['index']: r['frames'] for r in net.state(a.name)['rings'] if r['index'] % 2 == 0}
    assert sum(frames.values()) == 3 * 64 and all(frames.values())


def test_replies_follow_the_queue(net):
    """The hash is symmetric, and where the guest sends a flow, it gets the answers."""
    a, b = nics(net)
    ports = list(range(2000, 2032))
    for turn in range(3):
        queue = {p: (p * 7 + turn) % 4 for p in ports}
        for p in ports:
            a.use(queue[p]).send_frames(udp(b.mac, a.mac, 7, p))
        b.recv(len(ports))
        assert where(a, b, ports) == queue
    sent = {r['index'] // 2: r['frames'] for r in net.state(a.name)['rings'] if r['index'] % 2}
    assert sum(sent.values()) == 1 + 3 * 32


def test_between_two_guests_with_queues(net):
    a, _ = nics(net)
    c = Nic(net.path(net.port()), mac=mac(12), pairs=3)
    net.nics.append(c)
    for p in range(3000, 3020):
        c.use(p % 3).send_frames(udp(a.mac, c.mac, p, 7))
        (k, _), = arrivals(a, 1)
        for _ in range(2):
            a.use(p % 4).send_frames(udp(c.mac, a.mac, 7, p))
            assert arrivals(c, 1)[0][0] == p % 3
            c.use(p % 3).send_frames(udp(a.mac, c.mac, p, 7))
            assert arrivals(a, 1)[0][0] == p % 4


def test_fragments_stay_together(net):
    a, b = nics(net)
    for p in range(4000, 4016):
        b.send_frames(*[udp(a.mac, b.mac, p, 7, i, frag)
                        for i, frag in enumerate((0x2000, 0x2001, 0x0002))])
        got = arrivals(a, 3)
        assert len({k for k, _ in got}) == 1
        assert [struct.unpack('>I', f[42:46])[0] for _, f in got] == [0, 1, 2]


def test_order_within_a_flow(net):
    a, b = nics(net)
    sent = [udp(a.mac, b.mac, 5000 + i % 8, 7, i) for i in range(2000)]
    got = []
    for i in range(0, 2000, 40):
        b.send_frames(*sent[i:i + 40])
        got += a.received_by_pair()
    wait_for('the rest', lambda: got.extend(a.received_by_pair()) or len(got) >= 2000)
    for p in range(5000, 5008):
        flow = [(k, f) for k, f in got if f[34:36] == struct.pack('>H', p)]
        assert len({k for k, _ in flow}) == 1
        assert [f for _, f in flow] == [f for f in sent if f[34:36] == struct.pack('>H', p)]


def test_a_broadcast_arrives_once(net):
    a, b = nics(net)
    for i in range(20):
        f = udp(b'\xff' * 6, b.mac, 6000 + i, 7)
        b.send_frames(f)
        assert [g for _, g in arrivals(a, 1)] == [f]
    assert a.received_by_pair() == []


def test_pairs_are_disabled_and_enabled_under_traffic(net):
    a, b = nics(net)
    ports = list(range(7000, 7032))
    for p in ports:
        a.use(p % 4).send_frames(udp(b.mac, a.mac, 7, p))
    b.recv(len(ports))
    a.use(0)
    everywhere = where(a, b, ports)
    assert everywhere == {p: p % 4 for p in ports}
    for off in ((3,), (1, 3), (1, 2, 3), (2,)):
        for k in range(4):
            for r in a.rings[2 * k:2 * k + 2]:
                a.enable(r, int(k not in off))
        a.sync()
        now = where(a, b, ports)
        for p in ports:
            assert now[p] not in off
            if p % 4 not in off:
                assert now[p] == p % 4, 'a flow whose ring runs was moved'
    for r in a.rings:
        a.enable(r)
    a.sync()
    assert where(a, b, ports) == everywhere
    assert net.drops(a.name) == {}


def test_no_pair_but_the_first_runs(net):
    """What the guest did not enable gets nothing; and it can send on what it enabled."""
    a, b = nics(net, active=1)
    ports = range(8000, 8032)
    assert set(where(a, b, ports).values()) == {0}
    assert steered(net, a) == [0]


@pytest.mark.parametrize('polled', [False, True])
def test_pairs_that_start_late(net, polled):
    """Enabled, but without buffers: some front-ends enable all rings, whatever the guest uses."""
    a, b = nics(net, active=2, polled=polled)
    for r in a.rings:
        a.enable(r)
    a.sync()
    assert steered(net, a) == [0, 1]
    assert [r['running'] for r in net.state(a.name)['rings']] == [True] * 8
    ports = range(9000, 9032)
    assert set(where(a, b, ports).values()) == {0, 1}
    a.use(3).post_rx(a.rx_size, a.bufs)
    a.use(0)
    wait_for('the ring', lambda: steered(net, a) == [0, 1, 3])
    assert set(where(a, b, ports).values()) == {0, 1, 3}
    assert net.drops(a.name) == {}


def test_first_ring_stops_and_others_go_on(net):
    a, b = nics(net)
    a.rings[0].base = a.get_base(0)
    ports = range(9500, 9532)
    assert set(where(a, b, ports).values()) == {1, 2, 3}
    for k in (1, 2, 3):
        a.rings[2 * k].base = a.get_base(2 * k)
    b.send_frames(udp(a.mac, b.mac, 9500, 7))
    wait_for('drop', lambda: net.drops(a.name).get('not-ready') == 1)


def test_memory_comes_once_per_pair(net):
    """As QEMU 7.2 does: each pair brings all of the memory, and takes it away."""
    a, b = nics(net, order='cloud_hypervisor')
    for _ in range(3):
        a.add_region(0)
    assert net.state(a.name)['memory_regions'] == 1
    for _ in range(3):
        a.rem_region(0)
        assert net.state(a.name)['memory_regions'] == 1
    assert a.ack(vu.REM_MEM_REG, struct.pack('<QQQQQ', 0, *a.mem.regions[0])) != 0  # rings run in it
    assert set(where(a, b, range(9600, 9632)).values()) == {0, 1, 2, 3}


def test_ceiling(net):
    """queues=2: no third pair, whatever is said; and it is said why."""
    a, b = Nic(net.path(net.port(queues=2)), mac=mac(10), pairs=4), net.nic()
    net.nics.append(a)
    assert a.ask(vu.GET_QUEUE_NUM) == 4
    state = net.state(net.names[0])
    assert [r['running'] for r in state['rings']] == [True] * 4 + [False] * 4
    assert 'this port has 2 queue pairs' in state['last_error']
    assert 'queues=' in state['rings'][4]['why']


def test_one_queue_has_no_multiqueue(net):
    name = net.port(queues=1)
    with vu.Front(net.path(name)) as f:
        assert not f.ask(vu.GET_FEATURES) & vu.NET_MQ
        assert f.ack(vu.SET_FEATURES, struct.pack('<Q', Nic.FEATURES | vu.NET_MQ)) != 0
        assert f.ask(vu.GET_QUEUE_NUM) == 2


def test_how_many(net):
    with vu.Front(net.path(net.port())) as f:
        assert f.ask(vu.GET_FEATURES) & vu.NET_MQ
        assert f.ask(vu.GET_QUEUE_NUM) == 256


def test_all_128_pairs(net):
    a, b = nics(net, pairs=128, num=16, bufs=16)
    state = net.state(a.name)
    assert sum(r['running'] for r in state['rings']) == 256
    ports = range(10000, 11000)
    seen = set()
    for at in range(0, 1000, 10):
        seen |= set(where(a, b, ports[at:at + 10]).values())
    assert len(seen) == 128
    for k in (0, 64, 127):
        a.use(k).send_frames(udp(b.mac, a.mac, 7, 99, k))
        assert struct.unpack('>I', b.recv()[42:46])[0] == k
