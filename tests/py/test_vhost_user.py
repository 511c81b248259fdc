# SPDX-License-Identifier: Apache-2.0
"""The vhost-user back-end as front-ends meet it: orders of messages, what is answered and how, the
life of a ring, and frames of every size and form through a real switch.  Who lies is in
test_hostile.py.
"""
import os
import random
import select
import socket
import struct

import pytest

import vu_front as vu
from vu_front import Front, Memory, Nic, Ring, at, exchange, frame, wait_for
from vu_lab import works

ORDERS = ['qemu', 'cloud_hypervisor', 'virtio_user', 'backwards']
MODERN = Nic.FEATURES
PLAIN = vu.PROTOCOL | vu.VERSION_1
LEGACY = vu.PROTOCOL


def cross(a, b, seq=0, size=60, **how):
    """One frame each way, checked to the last byte."""
    for x, y in ((a, b), (b, a)):
        f = frame(y.mac, x.mac, size, seq)
        x.send_frames(f, **how)
        assert y.recv() == f


def config_part(offset, size):
    return struct.pack('<III', offset, size, 0) + bytes(size)


def u64(v):
    return struct.pack('<Q', v)


def two(a, b):
    return struct.pack('<II', a, b)


# --- orders and answers ---------------------------------------------------------------------------

@pytest.mark.parametrize('order', ORDERS)
def test_order_of_known_front_ends(net, order):
    a, b = net.nic(order), net.nic()
    cross(a, b)
    s = net.state(a.name)
    assert s['state'] == 'running' and s['peer_pid'] == os.getpid()
    assert [r['running'] for r in s['rings']] == [True, True]
    assert s['messages_refused'] == 0 and s['last_error'] is None


def test_what_is_offered(net):
    a = net.front()
    names = {'NET_F_CSUM': 0, 'NET_F_GUEST_CSUM': 1, 'NET_F_GUEST_TSO4': 7, 'NET_F_GUEST_TSO6': 8,
             'NET_F_GUEST_ECN': 9, 'NET_F_HOST_TSO4': 11, 'NET_F_HOST_TSO6': 12,
             'NET_F_HOST_ECN': 13, 'NET_F_GUEST_USO4': 54, 'NET_F_GUEST_USO6': 55,
             'NET_F_HOST_USO': 56, 'NET_F_MTU': 3, 'NET_F_MRG_RXBUF': 15, 'NET_F_CTRL_VQ': 17,
             'NET_F_GUEST_ANNOUNCE': 21, 'NET_F_MQ': 22, 'F_NOTIFY_ON_EMPTY': 24,
             'F_LOG_ALL': 26, 'F_ANY_LAYOUT': 27, 'F_INDIRECT_DESC': 28, 'F_EVENT_IDX': 29,
             'F_PROTOCOL_FEATURES': 30, 'F_VERSION_1': 32, 'F_RING_PACKED': 34, 'F_IN_ORDER': 35,
             'F_RING_RESET': 40}
    assert a.ask(vu.GET_FEATURES) == sum(1 << bit for bit in names.values())
    offered = net.state(net.names[0])['features_offered']
    assert offered == ['VIRTIO_' + n for n in sorted(names, key=names.get)]
    assert a.ask(vu.GET_PROTOCOL_FEATURES) == Front.PROTOCOLS | 1 << 1  # LOG_SHMFD
    assert 2 <= a.ask(vu.GET_QUEUE_NUM) <= 256
    assert a.ask(vu.GET_MAX_MEM_SLOTS) >= 32
    assert a.ask(vu.GET_STATUS) == 0


def test_what_the_peer_lacks(net):
    a = net.front()
    port = net.names[0]
    assert net.state(port)['peer_lacks'] is None, 'it has not said yet'
    protocols = a.ask(vu.GET_PROTOCOL_FEATURES)
    a.ack(vu.SET_PROTOCOL_FEATURES, struct.pack('<Q', protocols & ~vu.RARP))
    offered = a.ask(vu.GET_FEATURES)
    a.ack(vu.SET_FEATURES, struct.pack('<Q', offered & ~(1 << 34 | 1 << 56)))
    assert net.state(port)['peer_lacks'] == ['VIRTIO_F_RING_PACKED', 'VIRTIO_NET_F_HOST_USO',
                                             'VHOST_USER_PROTOCOL_F_RARP']


def each_message(mem, fd):
    """(request, payload, fds, size of its own reply or None) of everything that can be said."""
    table = two(1, 0) + struct.pack('<QQQQ', *mem.regions[0])
    region = struct.pack('<QQQQQ', 0, *mem.regions[1])
    return [
        (vu.GET_FEATURES, b'', (), 8), (vu.SET_OWNER, b'', (), None),
        (vu.GET_PROTOCOL_FEATURES, b'', (), 8),
        (vu.SET_PROTOCOL_FEATURES, u64(vu.MEM_SLOTS | vu.NET_MTU), (), None),
        (vu.GET_QUEUE_NUM, b'', (), 8), (vu.GET_MAX_MEM_SLOTS, b'', (), 8),
        (vu.SET_FEATURES, u64(MODERN), (), None), (vu.SET_MEM_TABLE, table, (mem.fd,), None),
        (vu.ADD_MEM_REG, region, (mem.fd,), None), (vu.REM_MEM_REG, region, (mem.fd,), None),
        (vu.SET_VRING_NUM, two(0, 256), (), None), (vu.SET_VRING_BASE, two(0, 0), (), None),
        (vu.SET_VRING_CALL, u64(0), (fd,), None), (vu.SET_VRING_ERR, u64(0), (fd,), None),
        (vu.SET_VRING_CALL, u64(0x100), (), None), (vu.SET_VRING_ENABLE, two(0, 1), (), None),
        (vu.SET_VRING_KICK, u64(1), (fd,), None), (vu.GET_VRING_BASE, two(0, 0), (), 8),
        (vu.SEND_RARP, bytes.fromhex('525400000009') + bytes(2), (), None),
        (vu.NET_SET_MTU, u64(1500), (), None),
        (vu.SET_STATUS, u64(1), (), None), (vu.GET_STATUS, b'', (), 8),
        (vu.RESET_OWNER, b'', (), None), (vu.RESET_DEVICE, b'', (), None),
    ]


@pytest.mark.parametrize('flags', [0, vu.NEED_REPLY])
def test_each_message_is_answered_once(net, flags):
    """Its own reply, or 0 if it wants one: never both, and the flag counts before REPLY_ACK too."""
    mem = Memory(2 << 20, [(0, 1 << 20), (1 << 20, 1 << 20)])
    fd = os.eventfd(0)
    a = net.front()
    for req, payload, fds, own in each_message(mem, fd):
        a.send(req, payload, fds, 1 | flags)
        if own:
            a.reply(req, own)
        elif flags:
            assert a.reply(req) == bytes(8), req
        a.sync()
    os.close(fd)
    mem.close()


def test_refusals_are_answered_and_do_not_end_the_connection(net):
    a = net.front()
    name = net.names[0]
    assert a.ack(vu.SET_FEATURES, u64(PLAIN)) == 0
    addr = struct.pack('<IIQQQQ', 0, 2, 0, 0, 0, 0)
    for req, payload, says in (
            (vu.SET_FEATURES, u64(1 << 45), 'SET_FEATURES sets what this port does not offer: bit 45'),
            (vu.SET_PROTOCOL_FEATURES, u64(1 << 14), 'does not offer: VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS'),
            (vu.SET_VRING_ADDR, addr, 'ring 0 has unknown flags 0x2'),
            (vu.SET_VRING_BASE, two(0, 0x10000), 'the index has 16 bits'),
            (vu.NET_SET_MTU, u64(67), 'an MTU of 67 is not possible'),
            (vu.NET_SET_MTU, u64(65536), 'an MTU of 65536 is not possible'),
            (vu.SEND_RARP, b'\xff' * 6 + b'\0\0', 'which is no station'),
            (vu.SET_MEM_TABLE, two(0, 0), 'memory is not shared'),
            (vu.REM_MEM_REG, struct.pack('<QQQQQ', 0, 1, 2, 3, 4), 'no memory region at 0x1')):
        assert a.ack(req, payload) != 0, req
        assert says in net.state(name)['last_error']
    assert net.state(name)['messages_refused'] == 9


@pytest.mark.parametrize('req', [22, 35, 43, 77, 0, 0xffffffff])
def test_messages_not_spoken(net, req):
    """Refused if it wants an answer, else ignored; its file descriptors are closed."""
    a = net.front()
    r, w = os.pipe()
    a.send(req, b'x' * 100, (w,))
    assert a.ack(req, b'y' * 4096, (w,)) != 0
    os.close(w)
    assert os.read(r, 1) == b''  # no writer is left anywhere
    os.close(r)
    a.sync()


def test_status(net):
    a = net.front()
    for s in (1, 3, 0xb, 0xf, 0):
        a.u64(vu.SET_STATUS, s)
        assert a.ask(vu.GET_STATUS) == s
    assert a.ack(vu.SET_FEATURES, u64(1 << 50)) != 0
    a.u64(vu.SET_STATUS, 0xb)
    assert a.ask(vu.GET_STATUS) == 0x3  # FEATURES_OK is not given
    a.u64(vu.SET_FEATURES, MODERN)
    a.u64(vu.SET_STATUS, 0xb)
    assert a.ask(vu.GET_STATUS) == 0xb


# --- set-up and traffic ---------------------------------------------------------------------------

@pytest.mark.parametrize('seed', range(12))
def test_any_order_of_messages(lab, mate, seed):
    with lab.attack(), lab.front('evil') as f:
        steps = f.steps()
        if seed:
            random.Random(seed).shuffle(steps)
        for step in steps:
            step()
        f.post_rx()
        works(lab, f, mate)


def test_negotiation_repeats(lab, mate):
    with lab.attack(), lab.front('evil') as f:
        for _ in range(4):  # once per queue pair, as front-ends do
            f.ask(vu.GET_FEATURES)
            f.set_protocol()
            f.ask(vu.GET_QUEUE_NUM)
        f.start()
        f.set_features()  # the same again while rings run
        f.set_protocol()
        works(lab, f, mate)


def test_without_protocol_features(lab, mate):
    """Bit 30 not acked: rings are enabled without being told."""
    with lab.attack(), lab.front('evil') as f:
        f.features = vu.VERSION_1
        for step in f.steps():
            if step not in (f.set_protocol,):
                step()
        f.enable(f.rx, 0)
        f.enable(f.tx, 0)
        f.post_rx()
        works(lab, f, mate)


U64S = {vu.GET_FEATURES, vu.GET_PROTOCOL_FEATURES, vu.GET_QUEUE_NUM, vu.GET_MAX_MEM_SLOTS,
        vu.GET_STATUS}


@pytest.mark.parametrize('req', range(0, 64))
def test_need_reply_is_answered_once(lab, req):
    """Any message with NEED_REPLY gets exactly one reply, or the connection ends; never two."""
    payloads = {vu.SET_MEM_TABLE: bytes(8), vu.SET_VRING_ADDR: bytes(40), vu.ADD_MEM_REG: bytes(40),
                vu.REM_MEM_REG: bytes(40), vu.SET_CONFIG: config_part(0, 4), **{r: b'' for r in (*U64S, vu.SET_OWNER, vu.RESET_OWNER,
                                                               vu.RESET_DEVICE,
                                                               vu.SET_BACKEND_REQ_FD)}}
    with lab.attack(), lab.front('evil') as f:
        f.send(req, payloads.get(req, bytes(8)), flags=1 | vu.NEED_REPLY)
        try:
            f.reply(req)
            assert f.alive()
        except vu.Closed:
            assert lab.state()['last_error']


@pytest.mark.parametrize('req', [vu.SET_OWNER, vu.SET_FEATURES, vu.SET_STATUS, 99])
def test_no_reply_unasked(lab, req):
    with lab.attack(), lab.front('evil') as f:
        f.send(req, b'' if req == vu.SET_OWNER else struct.pack('<Q', 0))
        assert f.alive()  # would read the stray reply first


# --- the life of a ring ---------------------------------------------------------------------------

def test_live_index(net):
    a, b = net.pair()
    for i in range(5):
        cross(a, b, i)
    a.send_frames(frame(b.mac, a.mac, 60, 9))
    b.recv()
    assert a.stop() == (5, 6)
    assert a.get_base(1) == 6  # asking again changes nothing
    assert a.get_base(17) == 0  # never set up
    a.qemu_rings()
    cross(a, b)
    assert a.stop() == (6, 7)


def test_stopping_one_ring_leaves_the_other(net):
    a, b = net.pair()
    cross(a, b)
    a.rx.base = a.get_base(0)
    f = frame(b.mac, a.mac, 60, 1)
    a.send_frames(f)
    assert b.recv() == f
    b.send_frames(frame(a.mac, b.mac, 60, 2))
    wait_for('drop', lambda: net.drops(a.name).get('not-ready') == 1)
    a.stop()
    a.qemu_rings()
    cross(a, b, 3)


def test_configuration(net):
    """With config=yes a front-end may ask for MAC, link, queues and MTU, and is told of changes."""
    a = net.nic('cloud_hypervisor', {'config': 'yes', 'mac': '52:54:00:aa:bb:cc', 'mtu': '4000',
                                     'queues': '3'})
    b = net.nic()
    assert {'VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_STATUS'} <= set(net.state(a.name)['features_offered'])

    def asked():
        a.send(vu.GET_CONFIG, config_part(0, 12))
        return struct.unpack('<6sHHH', a.reply(vu.GET_CONFIG, 24)[12:])

    guest = bytes.fromhex('525400aabbcc')
    assert asked() == (guest, 1, 3, 4000)
    ours, theirs = socket.socketpair()
    a.do(vu.SET_BACKEND_REQ_FD, b'', [theirs.fileno()])
    theirs.close()
    ours.settimeout(vu.TIMEOUT)
    changed = struct.pack('<III', 2, 1, 0)
    cross(a, b)
    net.set(a.name, link='down')
    assert ours.recv(100) == changed and asked() == (guest, 0, 3, 4000)
    assert a.alive() and net.state(a.name)['state'] == 'down'
    b.send_frames(frame(a.mac, b.mac, 60))
    wait_for('drop', lambda: net.drops(a.name) == {'link-down': 1})
    net.set(a.name, link='up')
    assert ours.recv(100) == changed and asked() == (guest, 1, 3, 4000)
    cross(a, b, 2)
    net.set(a.name, mtu='1400')
    assert ours.recv(100) == changed and asked() == (guest, 1, 3, 1400)
    assert a.ack(vu.SET_CONFIG, config_part(0, 6)) != 0
    ours.close()
    cross(a, b, 3)


def test_configuration_is_offered_on_demand(net):
    a = net.front()
    assert not a.ask(vu.GET_PROTOCOL_FEATURES) & (vu.CONFIG | vu.BACKEND_REQ)
    a.send(vu.GET_CONFIG, config_part(0, 12))
    assert a.reply(vu.GET_CONFIG, 0) == b''


def test_link_down(net):
    """`port set vm1 link=down`: the connection ends and nobody gets in until it is up again."""
    a, b = net.pair()
    cross(a, b)
    c = net.nic()
    net.set(a.name, link='down')
    assert a.ended()
    assert net.state(a.name)['state'] == 'down'
    with pytest.raises(ConnectionRefusedError):
        Front(net.path(a.name))
    b.send_frames(frame(a.mac, b.mac, 60))
    wait_for('drop', lambda: net.drops(a.name) == {'link-down': 1})
    everybody = frame(b'\xff' * 6, b.mac, 60)
    b.send_frames(everybody)
    assert c.recv() == everybody and net.drops(a.name) == {'link-down': 1}
    net.set(a.name, link='up')
    again = Nic(net.path(a.name), mac=a.mac)
    net.nics.append(again)
    cross(again, b, 3)
    # and a port that begins that way
    d = net.port(link='down')
    assert net.state(d)['state'] == 'down'
    net.set(d, link='up')
    net.nics.append(Nic(net.path(d), mac=b'\x52\x54\0\0\2\1'))
    cross(net.nics[-1], b)


@pytest.mark.parametrize('status_first', [True, False])
def test_stop_and_cont(net, status_first):
    """QEMU 7.2 sends SET_STATUS(0) before it asks for the indices, newer ones after."""
    a, b = net.pair()
    for i in range(3):
        for k in range(i + 2):
            cross(a, b, i)
        before = (a.rx.used_idx, a.tx.avail_idx)
        if status_first:
            a.u64(vu.SET_STATUS, 0)
        assert a.stop() == before
        if not status_first:
            a.u64(vu.SET_STATUS, 0)
        assert not any(r['running'] for r in net.state(a.name)['rings'])
        b.send_frames(frame(a.mac, b.mac, 60))
        wait_for('drop', lambda: net.drops(a.name).get('not-ready') == i + 1)
        assert a.rx.reap() == []  # stopped is silent
        a.qemu_driver()
        a.sync()
    cross(a, b)


def test_guest_reset(net):
    """The driver begins again at 0 on the same connection."""
    a, b = net.pair()
    cross(a, b)
    a.u64(vu.SET_STATUS, 0)
    a.stop()
    a.restart()
    a.qemu_driver()
    a.sync()
    cross(a, b)


def test_reset_device(net):
    a, b = net.pair()
    cross(a, b)
    assert a.ack(vu.RESET_DEVICE) == 0
    s = net.state(a.name)
    assert s['state'] == 'connected' and s['features'] == [] and s['protocol_features']
    assert not any(r['running'] or r['enabled'] for r in s['rings'])
    assert a.ask(vu.GET_STATUS) == 0
    a.restart()
    a.qemu_driver()
    a.each(a.enable)
    a.sync()
    cross(a, b)


def test_disable_and_enable(net):
    """A disabled ring is left alone and keeps its place."""
    a, b = net.pair()
    cross(a, b)
    a.enable(a.tx, 0)
    a.sync()
    f = [frame(b.mac, a.mac, 60, i) for i in range(5)]
    a.send_frames(*f)
    assert a.tx.reap() == []
    a.enable(a.tx)
    assert b.recv(5) == f
    cross(a, b)


def test_new_call_eventfd_is_signalled_once(net):
    a, b = net.pair()
    cross(a, b)
    old = []
    for r in a.rings:
        old.append(r.call)
        r.call = os.eventfd(0, os.EFD_NONBLOCK)
        a.set_call(r)
        assert select.select([r.call], [], [], vu.TIMEOUT)[0]
    cross(a, b)  # nobody asked for calls
    assert [os.eventfd_read(r.call) for r in a.rings] == [1, 1]
    for fd in old:
        os.close(fd)
    a.u64(vu.SET_VRING_CALL, 0x100)  # none at all
    a.rx.want_call()
    cross(a, b)
    assert not a.rx.signalled()


@pytest.mark.parametrize('features', [MODERN, MODERN & ~vu.EVENT_IDX])
def test_calls_when_asked(net, features):
    a, b = net.nic(features=features), net.nic()
    cross(a, b)
    a.rx.signalled(), a.tx.signalled()
    for i in range(5):
        a.each(lambda r: r.want_call(False))
        cross(a, b, i)
        cross(a, b, i)  # the burst of the first is over by now
        assert not a.rx.signalled() and not a.tx.signalled()
        a.rx.want_call()
        b.send_frames(frame(a.mac, b.mac, 60))
        assert a.rx.signalled(vu.TIMEOUT)
        a.recv()
        a.reap()
        a.tx.want_call()
        a.send_frames(frame(b.mac, a.mac, 60))
        assert a.tx.signalled(vu.TIMEOUT)
        b.recv()


@pytest.mark.parametrize('features', [MODERN, MODERN & ~vu.EVENT_IDX])
def test_kicks_when_asked(net, features):
    """A switch that sleeps asks for a kick; awake it mostly does not; no frame is ever left."""
    a, b = net.nic(features=features), net.nic()

    def asleep():
        if a.tx.event_idx:
            return a.mem.u16(a.tx.used + 4 + 8 * a.tx.num) == a.tx.avail_idx
        return a.mem.u16(a.tx.used) == 0
    for i in range(10):
        wait_for('sleep', asleep)
        before = a.tx.kicks
        cross(a, b, i)
        assert a.tx.kicks == before + 1
    frames = [frame(b.mac, a.mac, 60, i) for i in range(3000)]
    for i in range(0, 3000, 10):
        a.send_frames(*frames[i:i + 10])
        b.poll()
    assert b.recv(3000) == frames


def test_ring_without_kick(net):
    a, b = net.nic(polled=True), net.nic()
    for i in range(20):
        cross(a, b, i)
    assert [r['polled'] for r in net.state(a.name)['rings']] == [True, True]


@pytest.mark.parametrize('num', [1, 2, 4, 1024, 32768])
def test_ring_sizes(net, num):
    a, b = net.nic(num=num, bufs=min(num, 64)), net.nic()
    for i in range(2 * num if num < 5 else 50):
        cross(a, b, i)


@pytest.mark.parametrize('order', ['qemu', 'cloud_hypervisor'])
def test_index_wraps(net, order):
    a, b = net.nic(base=65500, order=order), net.nic()
    for i in range(70):
        cross(a, b, i)
    assert a.stop() == ((65500 + 70) & 0xffff,) * 2


def test_reconnect(net):
    """The same guest goes on through front-ends that come and go."""
    a, b = net.pair()
    cross(a, b)
    for i in range(3):
        a.s.close()
        wait_for('end', lambda: net.state(a.name)['state'] == 'listening')
        a.rx.base = a.tx.base = 0 if i else a.rx.avail_idx  # it may not know better
        a.connect(net.path(a.name))
        a.acks = True
        a.begin(ORDERS[i])
        cross(a, b, i)
    s = net.state(a.name)
    assert s['connects'] == 4 and s['messages_refused'] == 0


def test_one_front_end_per_port(net):
    a, b = net.pair()
    with Front(net.path(a.name)) as second:
        assert second.ended()
    cross(a, b)


def test_client_mode(net, tmp_path):
    """The test listens, the switch dials, again and again."""
    path = str(tmp_path / 'front.sock')
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        s.listen(1)
        s.settimeout(vu.TIMEOUT)
        name = net.port(client=path)
        b = net.nic()
        for order in ORDERS[:2]:
            with Nic(s.accept()[0], order) as a:
                cross(a, b)
                assert net.state(name)['role'] == 'client'
    os.unlink(path)
    wait_for('error', lambda: path in (net.state(name)['last_error'] or ''))
    assert net.state(name)['state'] == 'dialling'


def test_stale_base_starts_at_used(lab, mate):
    """A front-end that only knows the available index must not lose the buffers in between."""
    with lab.attack(), lab.front('evil') as f:
        f.rx.add([(f.slab, 2048)], True)
        f.rx.publish()
        f.rx.base = f.rx.avail_idx
        f.start(buffers=False)
        exchange(mate, f, [60])


# --- memory ---------------------------------------------------------------------------------------

def test_memory_moves_while_rings_run(net):
    a, b = net.pair()
    for i in range(10):
        cross(a, b, i)
        a.mem.move()
        a.set_memory()
        a.sync()
    cross(a, b)
    assert net.state(a.name)['memory_regions'] == 1


@pytest.mark.parametrize('order', ORDERS)
def test_memory_table_again_under_traffic(net, order):
    a, b = net.nic(order), net.nic()
    sent = [frame(b.mac, a.mac, 60, i) for i in range(200)]
    for i in range(0, 200, 5):
        a.send_frames(*sent[i:i + 5])
        a.set_memory()
        b.poll()
    assert b.recv(200) == sent
    a.sync()  # the last table is in use: a's rings do not stop once more
    cross(a, b)


def test_slots_come_and_go_under_traffic(net):
    mb = 1 << 20
    a = net.nic('cloud_hypervisor', mem=Memory(6 * mb, [(0, 4 * mb), (4 * mb, mb), (5 * mb, mb)]))
    b = net.nic()
    assert net.state(a.name)['memory_regions'] == 3
    for i in range(10):
        gone = 1 + i % 2
        a.rem_region(gone)
        cross(a, b, i)
        f = frame(b.mac, a.mac, 60, i)
        off = (5 if gone == 1 else 4) * mb + 4096 * i  # in the region that is left
        a.mem.map[off:off + 72] = bytes(12) + f
        a.tx.add([(off, 72)], False)
        a.tx.publish()
        assert b.recv() == f
        a.send_frames(frame(b.mac, a.mac, 900, 50))  # not waited for
        a.add_region(gone)
        b.recv()
    assert a.ack(vu.REM_MEM_REG, struct.pack('<QQQQQ', 0, *a.mem.regions[0])) != 0
    assert 'in which ring 0 runs' in net.state(a.name)['last_error']
    cross(a, b)
    assert net.drops(a.name) == {} and net.drops(b.name) == {}


def test_every_slot_under_traffic(net):
    """509 regions come one by one while frames travel, each is found by its address, and they go."""
    mb, small, slots = 1 << 20, 8192, 509
    base = [(0, 4 * mb)]
    more = [(4 * mb + i * small, small) for i in range(slots - 1)]
    random.Random(509).shuffle(more)  # in the file; guest addresses follow the order of the list
    a = net.nic('cloud_hypervisor', mem=Memory(8 * mb, base + more), only=1)
    b = net.nic()
    everywhere = random.Random(1).sample(range(1, slots), slots - 1)

    def send_from(region, seq):
        off = a.mem.regions[region][3] + seq * 64 % 4096
        f = frame(b.mac, a.mac, 100 + seq % 900, seq)
        a.mem.map[off:off + 12 + len(f)] = bytes(12) + f
        a.reap()
        a.tx.add([(off, 12 + len(f))], False)
        a.tx.publish()
        return f

    for n, region in enumerate(everywhere):
        a.add_region(region)
        f = send_from(region, n)
        assert b.recv() == f
        b.send_frames(frame(a.mac, b.mac, 60, n))
        assert a.recv() == frame(a.mac, b.mac, 60, n)
    assert net.state(a.name)['memory_regions'] == slots
    one_more = struct.pack('<QQQQQ', 0, 1 << 50, small, 1 << 51, 0)
    assert a.ack(vu.ADD_MEM_REG, one_more, [a.mem.fd]) != 0
    assert 'all 509 memory slots are taken' in net.state(a.name)['last_error']
    for n, region in enumerate(everywhere):  # in another order, now that all are there
        f = send_from(everywhere[n * 7 % len(everywhere)], n)
        assert b.recv() == f
    for n, region in enumerate(everywhere):
        a.rem_region(region)
        cross(a, b, n)
    assert net.state(a.name)['memory_regions'] == 1
    assert net.drops(a.name) == {} and net.drops(b.name) == {}


MB = 1 << 20


def touching():
    """Three regions that touch for the guest and lie in the file, and so here, in reverse order."""
    mem, gpa = Memory(6 * MB), vu.GPA
    mem.regions = []
    for i, (off, size) in enumerate(((5 * MB, MB), (4 * MB, MB), (0, 4 * MB))):
        mem.regions.append((gpa, size, vu.UVA + (i << 36), off))
        gpa += size
    return mem


def pieces(mem, gpa, size):
    """Where [gpa, gpa + size) lies in the file."""
    while size:
        off, n = next((o + gpa - g, g + s - gpa) for g, s, _, o in mem.regions if g <= gpa < g + s)
        yield slice(off, off + min(n, size))
        gpa, size = gpa + n, max(0, size - n)


def store(mem, gpa, data):
    for part in pieces(mem, gpa, len(data)):
        n = part.stop - part.start
        mem.map[part], data = data[:n], data[n:]


def load(mem, gpa, size):
    return b''.join(mem.map[part] for part in pieces(mem, gpa, size))


@pytest.mark.parametrize('indirect', [False, True])
def test_across_regions(net, indirect):
    """Buffers and indirect tables that run from one region into the next one of the guest."""
    a, b = net.nic(mem=touching()), net.nic(mem=touching(), bufs=0)
    border, other = vu.GPA + MB, vu.GPA + 2 * MB
    for k, back in enumerate((1, 11, 12, 13, 72, 100, 500, 1000)):
        f = frame(b.mac, a.mac, 1514, k)
        start = border - back
        store(a.mem, start, bytes(12) + f)
        head = a.tx.free.pop(0)
        if indirect:
            table = other - 2 * (k + 1)  # its entries are cut at any even place
            store(a.mem, table, struct.pack('<QIHHQIHH', start, 3, vu.DESC_NEXT, 1, start + 3,
                                            1523, 0, 0))
            a.tx.set_desc(head, table, 32, vu.DESC_INDIRECT)
        else:
            a.tx.set_desc(head, start, 1526)
        a.tx.offer(head)
        into = b.rx.free.pop(0)
        b.rx.set_desc(into, start, 2048, vu.DESC_WRITE)
        b.rx.offer(into)
        b.rx.publish()
        a.tx.publish()
        assert b.wait_used(b.rx) == [(into, 1526)]
        assert load(b.mem, start, 1526) == bytes(10) + b'\1\0' + f
        a.wait_used(a.tx)


def test_memory_cut_in_regions(lab, mate):
    """Neighbours in the file, far apart for the guest: a buffer may not run over a region's end
    unless the guest has memory there."""
    page = 4096
    cut = [(0, 1 << 20), (1 << 20, page), ((1 << 20) + page, (1 << 20) - page), (2 << 20, 2 << 20)]
    with lab.attack(), lab.front('evil', mem=Memory(regions=cut)).start() as f:
        works(lab, f, mate)
        f.tx.add([(0x100000 + page - 100, 200)], False)  # crosses: the guest has nothing behind it
        f.tx.publish()
        f.wait_used(f.tx)
        assert lab.drops()['unmapped'] >= 1
        works(lab, f, mate)


def test_memory_slots_under_traffic(lab, mate):
    with lab.attack(), lab.front('evil').start() as f:
        assert f.ask(vu.GET_MAX_MEM_SLOTS) >= 32
        more = Memory(1 << 20)
        g, n, u, o = vu.GPA + (7 << 32), 1 << 20, vu.UVA + (7 << 32), 0
        region = struct.pack('<QQQQQ', 0, g, n, u, o)
        for _ in range(5):
            f.do(vu.ADD_MEM_REG, region, [more.fd])
            out = frame(mate.mac, f.mac, 500)
            more.map[64:64 + 512] = bytes(12) + out
            f.tx.set_desc(200, g + 64, 512)
            f.tx.offer(200)
            f.tx.publish()
            f.wait_used(f.tx)
            assert mate.wait_frames(1, lambda x: x[:6] == mate.mac) == [out]
            f.do(vu.REM_MEM_REG, region)
            f.tx.offer(200)  # the same buffer, now gone
            f.tx.publish()
            f.wait_used(f.tx)
            works(lab, f, mate)
        more.close()
        assert lab.drops()['unmapped'] >= 5


# --- the rest of the device -----------------------------------------------------------------------

def test_mtu(net):
    a, b = net.pair()
    cross(a, b)
    assert a.ack(vu.NET_SET_MTU, u64(1000)) == 0
    tag, outer = bytes.fromhex('81000007'), bytes.fromhex('88a80064')
    for n, tags in enumerate((b'', tag, outer + tag, outer + tag + tag)):
        f = frame(a.mac, b.mac, 1014)  # the MTU and an Ethernet header; two tags are not counted
        f = f[:12] + tags + f[12:len(f) - 4 * (len(tags) > 8)]
        b.send_frames(f)
        assert a.recv() == f
        b.send_frames(f + b'x')
        wait_for('drop', lambda: net.drops(a.name) == {'mtu': n + 1})
    cross(a, b)
    c = net.nic(options={'mtu': '1500'})
    assert c.ack(vu.NET_SET_MTU, u64(1500)) == 0
    assert c.ack(vu.NET_SET_MTU, u64(9000)) != 0


def test_rarp_moves_the_station(net):
    a, b = net.pair()
    c = net.nic()
    station = bytes.fromhex('52540000004d')
    a.send_frames(frame(b'\xff' * 6, station, 60))
    b.recv(), c.recv()

    def where():
        return {m['mac']: m['port']
                for m in net.lab.rpc('macs.list', bridge=net.bridge)['macs']}
    assert where() == {station.hex(':'): a.name}
    b.do(vu.SEND_RARP, station + bytes(2))  # it has migrated
    b.sync()
    assert where() == {station.hex(':'): b.name}
    rarp = (b'\xff' * 6 + station + bytes.fromhex('8035' '0001' '0800' '06' '04' '0003') +
            station + bytes(4) + station + bytes(4) + bytes(18))
    assert a.recv() == rarp and c.recv() == rarp  # the neighbours, and switches behind them, learn
    f = frame(station, c.mac, 60)
    c.send_frames(f)
    assert b.recv() == f
    assert a.received() == []


def test_more_queue_pairs(net):
    """More rings than the first pair are accepted, and not run: MQ was not negotiated."""
    a, b = net.pair()
    more = Ring(a.mem, 7, 64, at=a.slab - 0x2000)
    for step in (a.set_num, a.set_base, a.set_addr, a.set_kick, a.enable):
        step(more)
    a.sync()
    f = frame(b.mac, a.mac, 60)
    more.add([(a.put(bytes(12) + f), 72)], False)
    more.publish()
    cross(a, b)
    assert b.received() == []
    cross(a, b)
    more.close()


# --- frames ---------------------------------------------------------------------------------------

@pytest.mark.parametrize('features', [MODERN, PLAIN, LEGACY, LEGACY | vu.MRG_RXBUF,
                                      vu.PROTOCOL | vu.EVENT_IDX])
def test_every_size(net, features):
    a, b = net.nic(features=features), net.nic()
    a.send_frames(frame(b.mac, a.mac, 60))
    b.recv()
    for i in range(14, 1515, 100):
        sizes = range(i, min(i + 100, 1515))
        out = [frame(b.mac, a.mac, n, n) for n in sizes]
        back = [frame(a.mac, b.mac, n, n) for n in sizes]
        a.send_frames(*out)
        b.send_frames(*back)
        for nic, sent in ((b, out), (a, back)):
            assert nic.recv(len(sent)) in (sent, sent[0])


JUMBO = [1515, 1526, 2036, 2037, 4000, 8999, 9000, 9014, 16384, 32767, 65535, 65557]


def test_jumbo_frames_into_merged_buffers(net):
    a, b = net.pair()
    for n in JUMBO:
        cross(a, b, n, n)
        cross(a, b, n, n, cuts=at(12, 12 + 1448, 12 + 9000))


def test_jumbo_frames_into_one_buffer(net):
    a, b = net.pair(features=PLAIN, rx_size=65584, bufs=16)
    for n in JUMBO:
        cross(a, b, n, n)


@pytest.mark.parametrize('size', [64, 100, 128, 1500, 1536])
def test_small_buffers_are_merged(net, size):
    a, b = net.nic(rx_size=size), net.nic()
    for n in (14, 52, 53, size - 12, size - 11, 2 * size - 12, 2 * size - 11, 1000, 1514):
        cross(a, b, n, n)
    wait_for('rest', lambda: net.state(a.name)['rings'][0]['fill'] == 256)


@pytest.mark.parametrize('features', [MODERN, LEGACY, LEGACY | vu.MRG_RXBUF])
@pytest.mark.parametrize('ends', [
    (1,), (5, 9), (10,), (12,), (10, 24), (11, 13), tuple(range(1, 40)), (12, 26), (12, 138, 140),
    (139,), (140,), (141,), (191,), (192,), (193,), (268,), (700,), tuple(range(100, 1500, 100))],
    ids=lambda e: f'{e[0]}-{e[-1]}')
def test_header_and_frame_in_any_pieces(net, features, ends):
    a, b = net.nic(features=features), net.nic()
    for n in (60, 1514):
        cross(a, b, n, n, cuts=at(*ends))


def test_as_many_descriptors_as_the_ring_has(net):
    a, b = net.pair()
    for n, cuts in ((244, [1] * 255), (1514, [6] * 254)):
        f = frame(b.mac, a.mac, n)
        a.send_frames(f, cuts=cuts)
        assert b.recv() == f


@pytest.mark.parametrize('n_pieces', [1, 2, 3, 17, 120])
def test_indirect_tables(net, n_pieces):
    a, b = net.pair()
    for n in (60, 1514):
        f = frame(b.mac, a.mac, n)
        a.send_frames(f, cuts=[(n + 12) // n_pieces] * (n_pieces - 1), table=a.slab - 0x1000)
        assert b.recv() == f


def test_receive_buffers_in_pieces_and_indirect(net):
    """As Linux posts without mergeable buffers: header, then data; and the same indirectly."""
    a, b = net.nic(features=MODERN & ~vu.MRG_RXBUF, bufs=0), net.nic()
    for i, n in enumerate((14, 60, 500, 1514)):
        off = a.tx_at + 4096 * i
        parts = [(off, 7), (off + 7, 5), (off + 12, 100), (off + 112, 1900)]
        head = a.rx.add(parts, True, None if i % 2 else a.slab - 0x1000)
        a.rx.publish()
        f = frame(a.mac, b.mac, n, i)
        b.send_frames(f)
        assert a.wait_used(a.rx) == [(head, n + 12)]
        assert a.mem.map[off:off + n + 12] == bytes(10) + b'\1\0' + f


@pytest.mark.parametrize('cuts', [(12,), (10, 2), (1, 1, 1), (0, 12, 0, 14), (11, 15, 60), (100,) * 9],
                         ids=str)
@pytest.mark.parametrize('indirect', [False, True])
def test_any_layout(lab, mate, cuts, indirect):
    with lab.attack(), lab.front('evil').start() as f:
        f_out = frame(mate.mac, f.mac, 1000, 3)
        f.transmit(f_out, cuts, 0x80000 if indirect else None)
        assert mate.wait_frames(1, lambda g: g[:6] == mate.mac) == [f_out]


def test_chain_ends_in_indirect(lab, mate):
    with lab.attack(), lab.front('evil').start() as f:
        out = frame(mate.mac, f.mac, 300, 1)
        off, m, table = f.put(bytes(12) + out), f.mem, 0x80000
        f.tx.set_desc(0, m.gpa(off), 12, vu.DESC_NEXT, 5)
        f.tx.set_desc(5, m.gpa(table), 32, vu.DESC_INDIRECT)
        f.tx.set_desc(0, m.gpa(off + 12), 200, vu.DESC_NEXT, 1, table)
        f.tx.set_desc(1, m.gpa(off + 212), 100, 0, 0, table)
        f.tx.offer(0)
        f.tx.publish()
        assert mate.wait_frames(1, lambda g: g[:6] == mate.mac) == [out]


def test_many_frames_both_ways(net):
    """Order and content hold when both rings run full."""
    a, b = net.pair()
    total = 3000
    sent = [0, 0]
    f = [[frame(b.mac, a.mac, 300, i) for i in range(total)],
         [frame(a.mac, b.mac, 300, i) for i in range(total)]]
    cross(a, b)
    while min(len(b.inbox), len(a.inbox)) < total:
        for k, (x, y) in enumerate(((a, b), (b, a))):
            if sent[k] < total and sent[k] - len(y.inbox) < 200:
                x.send_frames(*f[k][sent[k]:sent[k] + 25])
                sent[k] += 25
            y.poll()
    assert [b.inbox, a.inbox] == f
