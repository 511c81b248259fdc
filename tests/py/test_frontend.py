# SPDX-License-Identifier: Apache-2.0
"""Ports of kind vhost-user-frontend: the switch cabled with itself, two bridges and a socket between
them, and driving a back-end in Python that lies.

    a -- near bridge -- x  <== vhost-user ==  up -- far bridge -- b
"""
import contextlib
import os
import struct
import threading
import time

import pytest

import test_offload as off
import vu_front as vu
from vu_back import FEATURES, Back
from vu_front import exchange, frame, wait_for
from vu_lab import Net, mac

HDR = struct.pack('<BBHHHHH', 0, 0, 0, 0, 0, 0, 1)


@pytest.fixture
def far(lab):
    n = Net(lab)
    yield n
    n.end()


def front_port(net, path, **options):
    return net.port(kind='vhost-user-frontend', path=path, **options)


def connected(net, name):
    wait_for('the link', lambda: net.state(name)['state'] == 'connected')


def cable(net, far, near_options=None, **options):
    """Returns the names of both ends."""
    x = net.port(**(near_options or {}))
    up = front_port(far, net.path(x), **options)
    connected(far, up)
    return x, up


LAYOUTS = pytest.mark.parametrize('packed', ['no', 'yes'], ids=['split', 'packed'])


@LAYOUTS
@pytest.mark.parametrize('queues', ['1', '4'])
def test_both_ways(net, far, packed, queues):
    cable(net, far, packed=packed, queues=queues)
    a, b = net.nic(), far.nic(rx_size=16384)
    b.mac = mac(77)
    sizes = [60, 14, 1514, 61, 200, 180, 181, 192, 2036, 2037, 9000] * 3
    for _ in range(10):
        exchange(a, b, [s for s in sizes if s <= 9000])
        exchange(b, a, [s for s in sizes if s <= 2000])


@LAYOUTS
@pytest.mark.parametrize('offload', ['all', 'none'])
def test_offloads(net, far, packed, offload):
    """A TSO frame passes whole where both ends of the cable agreed, else in segments; both ways."""
    cable(net, far, {'offload': 'all'}, packed=packed, offload=offload)
    for here, there in (net, far), (far, net):
        a, b = off.sender(here), off.receiver(there, off.TAKES_ALL)
        for kind, size in ('tso4', 40000), ('tso6', 20000), ('uso4', 9000), ('csum udp4', 900):
            takes = off.TAKES_ALL if offload == 'all' else 0
            off.carry(net, a, b, off.fresh(kind), size, 1400, takes=takes)
        for n in here, there:
            n.nics[-1].close()
            n.lab.rpc('port.del', name=n.names.pop())
            n.nics.pop()


def test_flood(net, far):
    """More frames than there are slots: dropped with a reason, and then all goes on."""
    x, up = cable(net, far, size='64')
    a, b = net.nic(), far.nic()
    b.mac = mac(77)
    exchange(a, b, [60])
    exchange(b, a, [60])
    for _ in range(40):
        a.send_frames(*[frame(mac(99), a.mac, 60 + i, i) for i in range(100)])
        a.reap()
    b.received()
    exchange(a, b, [60, 1514])
    exchange(b, a, [60, 1514])


@pytest.mark.parametrize('server', ['no', 'yes'])
def test_back_end_comes_back(net, far, lab, server):
    """Its port is removed and added: fresh rings, same cable."""
    path = os.path.join(lab.run, f'cable-{server}.sock')
    near = {'client' if server == 'yes' else 'path': path}
    x = net.port(**near)
    up = front_port(far, path, server=server)
    a, b = net.nic(), far.nic()
    b.mac = mac(77)
    for n in range(3):
        wait_for('the link', lambda: far.state(up)['connects'] == n + 1 and
                 far.state(up)['state'] == 'connected')
        wait_for('the other end', lambda: net.state(x)['state'] == 'running')
        exchange(a, b, [60, 1514])
        exchange(b, a, [60, 1514])
        net.lab.rpc('port.del', name=x)
        wait_for('the end', lambda: far.state(up)['state'] == 'waiting')
        lab.rpc('port.add', name=x, options={'bridge': net.bridge, **near})


def test_link_down(net, far):
    x, up = cable(net, far)
    a, b = net.nic(), far.nic()
    b.mac = mac(77)
    exchange(a, b, [60])
    far.set(up, link='down')
    b.send_frames(frame(a.mac, b.mac, 60))
    a.send_frames(frame(b.mac, a.mac, 60))
    wait_for('counted', lambda: far.drops(up).get('link-down', 0) >= 1)
    far.set(up, link='up')
    exchange(a, b, [60])
    exchange(b, a, [60])


def test_mtu(net, far):
    x, up = cable(net, far, mtu='1500')
    a, b = net.nic(), far.nic(rx_size=16384)
    a.mac, b.mac = mac(78), mac(77)
    exchange(a, b, [60])
    b.send_frames(frame(a.mac, b.mac, 1600))
    wait_for('counted', lambda: far.drops(up).get('mtu', 0) == 1)
    exchange(b, a, [1514])


@pytest.mark.parametrize('options, words', [
    ({}, 'path='), ({'path': 'x', 'size': '100'}, 'power of two'), ({'path': 'x', 'size': '32'}, '64'),
    ({'path': 'x', 'queues': '99'}, 'queues'), ({'path': 'x', 'pakced': 'yes'}, 'packed')])
def test_refusals(lab, options, words):
    with pytest.raises(AssertionError, match=words):
        lab.rpc('port.add', name='no', kind='vhost-user-frontend', options=options)


# ---- a back-end that lies ----


@pytest.fixture
def back(lab):
    with Back(os.path.join(lab.run, 'back.sock')) as b:
        yield b


def driven(far, back, **options):
    up = front_port(far, back.path, **options)
    back.accept()
    back.serve()
    connected(far, up)
    return up


def error_of(far, up):
    return far.state(up)['last_error'] or ''


def again(far, back, up, n):
    """It is driven again after the fault, with fresh rings."""
    back.accept()
    back.serve()
    wait_for('the link', lambda: far.state(up)['connects'] == n)
    connected(far, up)


def test_polite(far, back):
    up = driven(far, back)
    nic = far.nic()
    nic.mac = mac(77)
    f = frame(nic.mac, mac(88), 100)
    heads = back.avail(0)
    assert len(heads) == 1024
    back.deliver(0, heads[0], HDR + f)
    back.publish(0)
    assert nic.recv(1) == f
    nic.send_frames(frame(mac(88), nic.mac, 300))
    got = []
    wait_for('the frame', lambda: got.extend(back.take(1)) or len(got) == 1)
    assert got[0] == bytes(12) + frame(mac(88), nic.mac, 300)


RING_LIES = {
    'id beyond the ring': lambda b, h: b.use(0, 4096, 100),
    'id that is not posted': lambda b, h: (b.use(0, h[0], 100), b.use(0, h[0], 100)),
    'more bytes than the buffer has': lambda b, h: b.use(0, h[0], 0x7fffffff),
    'index far ahead': lambda b, h: b.publish(0, 2000),
}


@pytest.mark.parametrize('lie', RING_LIES)
def test_ring_lie_ends_the_connection(far, back, lie):
    up = driven(far, back)
    for n in 2, 3:
        RING_LIES[lie](back, back.avail(0))
        if 'ahead' not in lie:
            back.publish(0)
        wait_for('an end', lambda: 'broke ring 0' in error_of(far, up))
        again(far, back, up, n)


def bad_length(n):
    return lambda b, h: (b.use(0, h[0], n), 1)


def too_many_buffers(n, first=2048):
    def lie(b, h):
        b.fill(0, h[0], struct.pack('<BBHHHHH', 0, 0, 0, 0, 0, 0, n) + b'\xff' * (first - 12))
        b.use(0, h[0], first)
    return lie


FRAME_LIES = {
    'no header': (bad_length(5), 'no-header'), 'empty': (bad_length(0), 'no-header'),
    'runt': (bad_length(20), 'runt'),
    'more buffers than used': (too_many_buffers(5), 'bad-chain'),
    'buffers without end': (too_many_buffers(65535), 'bad-chain'),
    'merged and short': (too_many_buffers(2, 60), 'bad-chain'),
    'offload that was not asked for': (lambda b, h: b.deliver(
        0, h[0], struct.pack('<BBHHHHH', 1, 3, 0, 100, 34, 6, 1) + frame(mac(1), mac(2), 500)),
        'offload'),
    'checksum outside': (lambda b, h: b.deliver(
        0, h[0], struct.pack('<BBHHHHH', 1, 0, 0, 0, 9000, 6, 1) + frame(mac(1), mac(2), 500)),
        'bad-csum'),
}


@pytest.mark.parametrize('lie', FRAME_LIES)
def test_frame_lie_costs_its_frame(far, back, lie):
    back.features = FEATURES | off.SENDER | off.TAKES_ALL
    up = driven(far, back)
    nic = far.nic()
    nic.mac = mac(77)
    tell, reason = FRAME_LIES[lie]
    heads = back.avail(0)
    for i in range(3):
        tell(back, heads[i:])
        back.publish(0)
        wait_for('counted', lambda: far.drops(up).get(reason, 0) == i + 1)
    f = frame(nic.mac, mac(88), 1000)
    back.deliver(0, heads[3], HDR + f)
    back.publish(0)
    assert nic.recv(1) == f


def wrong_reply(b, m):
    b.conn.sendall(struct.pack('<III', m[0] + 1, 5, 8) + bytes(8))


def short_reply(b, m):
    b.conn.sendall(struct.pack('<III', m[0], 5, 4) + bytes(4))


def unasked(b, m):
    b.answer(*m)
    b.conn.sendall(struct.pack('<III', 1, 1, 0))


@pytest.mark.parametrize('request_', [vu.GET_FEATURES, vu.GET_PROTOCOL_FEATURES, vu.GET_QUEUE_NUM])
@pytest.mark.parametrize('lie', [wrong_reply, short_reply, unasked])
def test_reply_lie(far, back, lie, request_):
    back.protocol = vu.MQ
    back.features = FEATURES | vu.NET_MQ
    up = front_port(far, back.path, queues='2')
    back.accept()
    lie(back, back.serve(lambda r: r == request_))
    wait_for('an error', lambda: error_of(far, up))
    again(far, back, up, 1)


def test_missing_feature(far, back):
    back.features = FEATURES & ~vu.VERSION_1
    up = front_port(far, back.path)
    back.accept()
    back.serve(lambda r: r == vu.GET_FEATURES)
    back.answer(vu.GET_FEATURES, 1, b'', [])
    wait_for('an error', lambda: 'does not offer VIRTIO_F_VERSION_1' in error_of(far, up))


def test_silent_back_end_stalls_nobody(lab, far, back):
    """It takes the connection and says nothing: others work, and the port can be removed at once."""
    up = front_port(far, back.path)
    back.accept()
    back.read()
    lab.check_neighbours()
    lab.rpc('port.del', name=up)
    far.names.remove(up)
    with pytest.raises(vu.Closed):
        back.read()


def test_slow_stop_is_cut_short(lab, far, back):
    """A back-end that answers each question of the stop late does not hold the control thread for the
    sum of it: all answers together have the time of one."""
    back.protocol = vu.MQ
    back.features = FEATURES | vu.NET_MQ
    up = driven(far, back, queues='16')
    asked = []

    def dawdle():
        with contextlib.suppress(vu.Closed, OSError):
            while True:
                m = back.read()
                asked.append(m[0])
                time.sleep(0.1)
                back.answer(*m)

    slow = threading.Thread(target=dawdle)
    slow.start()
    lab.rpc('port.del', name=up)
    far.names.remove(up)
    slow.join()
    assert 1 <= asked.count(vu.GET_VRING_BASE) < 8, asked


def test_without_mergeable_buffers(far, back):
    """Then nothing large is asked for, since a slot does not hold it."""
    back.features = (FEATURES | off.SENDER | off.TAKES_ALL) & ~vu.MRG_RXBUF
    driven(far, back)
    assert back.acked & off.TAKES_ALL == off.GUEST_CSUM
    assert back.acked & off.SENDER == off.SENDER & ~off.HOST_UFO
