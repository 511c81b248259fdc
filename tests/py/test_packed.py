# SPDX-License-Identifier: Apache-2.0
"""Packed rings through a real switch: every pair of layouts, every form of chain, the life of a ring,
and the lies that only this layout has. The driver is PackedRing in vu_front.py, which shares no code
with the switch.
"""
import os
import select

import pytest

import vu_front as vu
from vu_front import Nic, at, exchange, frame, wait_for
from vu_lab import works

MODERN = Nic.FEATURES
PACKED = MODERN | vu.PACKED
FORMS = [MODERN, PACKED, PACKED & ~vu.EVENT_IDX, PACKED | vu.IN_ORDER,
         PACKED & ~vu.MRG_RXBUF]


def form_name(f):
    return '+'.join(n for n, b in (('packed', vu.PACKED), ('in_order', vu.IN_ORDER),
                                   ('event', vu.EVENT_IDX), ('mrg', vu.MRG_RXBUF)) if f & b)


def cross(a, b, seq=0, size=60, **how):
    for x, y in ((a, b), (b, a)):
        f = frame(y.mac, x.mac, size, seq)
        x.send_frames(f, **how)
        assert y.recv() == f


# --- frames ---------------------------------------------------------------------------------------

@pytest.mark.parametrize('mine', FORMS, ids=form_name)
@pytest.mark.parametrize('other', FORMS, ids=form_name)
def test_every_pair_of_layouts(net, mine, other):
    a, b = net.nic(features=mine), net.nic(features=other)
    for n in (14, 60, 128, 1514):
        cross(a, b, n, n)
    for ends in ((1,), (12,), (10, 24), (140, 700), tuple(range(1, 40))):
        cross(a, b, 1, 1514, cuts=at(*ends))
    for n_pieces in (1, 3, 17):
        f = frame(b.mac, a.mac, 1000)
        a.send_frames(f, cuts=[1012 // n_pieces] * (n_pieces - 1), table=a.slab - 0x1000)
        assert b.recv() == f


@pytest.mark.parametrize('features', [PACKED, PACKED | vu.IN_ORDER], ids=form_name)
def test_jumbo_frames(net, features):
    a, b = net.nic(features=features), net.nic(features=features)
    for n in (1515, 2037, 9014, 32767, 65557):
        cross(a, b, n, n)
        cross(a, b, n, n, cuts=at(12, 12 + 1448))


@pytest.mark.parametrize('num', [1, 2, 3, 7, 100, 255, 1000, 32768])
def test_ring_sizes(net, num):
    """Any number will do. Every slot of the small ones is the first of a lap's last chain once."""
    a, b = net.nic(features=PACKED, num=num, bufs=min(num, 64)), net.nic()
    for i in range(3 * num + 5 if num < 1000 else 50):
        cross(a, b, i)
    if 7 <= num < 1000:
        for i in range(2 * num // 3):
            cross(a, b, i, 200, cuts=at(12, 100))


def test_as_many_descriptors_as_the_ring_has(net):
    a, b = net.nic(features=PACKED, num=100), net.nic()
    for _ in range(3):
        f = frame(b.mac, a.mac, 1400)
        a.send_frames(f, cuts=[14] * 99)
        assert b.recv() == f
        cross(a, b)


def test_receive_buffers_in_pieces_and_indirect(net):
    a, b = net.nic(features=PACKED & ~vu.MRG_RXBUF, bufs=0), net.nic()
    for i, n in enumerate((14, 60, 500, 1514)):
        off = a.tx_at + 4096 * i
        parts = [(off, 7), (off + 7, 5), (off + 12, 100), (off + 112, 1900)]
        head = a.rx.add(parts, True, None if i % 2 else a.slab - 0x1000)
        a.rx.publish()
        f = frame(a.mac, b.mac, n, i)
        b.send_frames(f)
        assert a.wait_used(a.rx) == [(head, n + 12)]
        assert a.mem.map[off:off + n + 12] == bytes(10) + b'\1\0' + f


def test_many_frames_both_ways(net):
    """Order and content hold when rings of both layouts run full."""
    a, b = net.nic(features=PACKED, num=96), net.nic()
    total, sent = 2000, [0, 0]
    f = [[frame(b.mac, a.mac, 300, i) for i in range(total)],
         [frame(a.mac, b.mac, 300, i) for i in range(total)]]
    cross(a, b)
    while min(len(b.inbox), len(a.inbox)) < total:
        for k, (x, y) in enumerate(((a, b), (b, a))):
            if sent[k] < total and sent[k] - len(y.inbox) < 60:
                x.send_frames(*f[k][sent[k]:sent[k] + 20])
                sent[k] += 20
            y.poll()
    assert [b.inbox, a.inbox] == f


# --- the life of a ring ---------------------------------------------------------------------------

def both(pos):
    return pos | pos << 16


def test_live_position(net):
    """GET_VRING_BASE answers both halves; what it said starts the ring again where it was."""
    a, b = net.nic(features=PACKED, num=4, bufs=4), net.nic()
    for i in range(30):
        before = (both(a.rx.off_wrap(a.rx.used_idx)), both(a.tx.off_wrap(a.tx.avail_idx)))
        assert a.stop() == before
        assert a.get_base(1) == before[1]  # asking again changes nothing
        a.qemu_rings()
        cross(a, b, i)


@pytest.mark.parametrize('order', ['qemu', 'cloud_hypervisor', 'virtio_user', 'backwards'])
def test_orders_of_known_front_ends(net, order):
    a, b = net.nic(order=order, features=PACKED), net.nic()
    for i in range(3):
        cross(a, b, i)


def test_base_of_one_half(net):
    """Some front-ends say where to take from only."""
    a, b = net.nic(features=PACKED, order=None), net.nic()
    for r in a.rings:
        r.base = 0x8000
    a.qemu()
    cross(a, b)


def test_base_beyond_the_ring(net):
    a = net.nic(features=PACKED, order=None)
    for r in a.rings:
        r.base = 0x80008000 | both(a.tx.num)
    a.acks = False
    a.begin('virtio_user')
    wait_for('refusal', lambda: 'SET_VRING_BASE' in net.state(a.name)['last_error'])
    assert not any(r['running'] for r in net.state(a.name)['rings'])


def test_guest_reset(net):
    a, b = net.nic(features=PACKED), net.nic(features=PACKED)
    for i in range(3):
        for k in range(i + 2):
            cross(a, b, k)
        a.u64(vu.SET_STATUS, 0)
        a.stop()
        a.restart()
        a.qemu_driver()
        a.sync()
    cross(a, b)


@pytest.mark.parametrize('features', [MODERN | vu.RING_RESET, PACKED | vu.RING_RESET], ids=form_name)
def test_reset_of_one_ring(net, features):
    """VIRTIO_F_RING_RESET: one ring stops and begins anew, of another size, while the other runs."""
    a, b = net.nic(features=features), net.nic()
    cross(a, b)
    for k, (which, num) in enumerate(((1, 64), (0, 128), (1, 256), (0, 256))):
        r = a.rings[which]
        a.get_base(which)
        mine, its = frame(b.mac, a.mac, 60, k), frame(a.mac, b.mac, 60, k)
        if which:
            b.send_frames(its)
            assert a.recv() == its
        else:
            a.send_frames(mine)
            assert b.recv() == mine
        r.num = num
        r.restart()
        r.want_call(False)
        if not which:
            a.post_rx(a.rx_size, num)
        for step in a.set_num, a.set_base, a.set_addr, a.set_kick, a.set_call:
            step(r)
        cross(a, b, k)


def test_sizes_of_split_rings_are_powers_of_two(net):
    a, b = net.nic(order=None, num=100, bufs=10), net.nic()
    a.acks = False
    a.begin('virtio_user')
    wait_for('refusal', lambda: 'power of two' in net.state(a.name)['last_error'])


def test_features_are_shown_by_name(net):
    a = net.nic(features=PACKED | vu.IN_ORDER)
    assert {'VIRTIO_F_RING_PACKED', 'VIRTIO_F_IN_ORDER'} <= set(net.state(a.name)['features'])
    wait_for('fill', lambda: [r['fill'] for r in net.state(a.name)['rings']] == [256, 0])


# --- signals and kicks ----------------------------------------------------------------------------

@pytest.mark.parametrize('features', [PACKED, PACKED & ~vu.EVENT_IDX], ids=form_name)
def test_calls_when_asked(net, features):
    a, b = net.nic(features=features, num=24, bufs=24), net.nic()
    cross(a, b)
    a.rx.signalled(), a.tx.signalled()
    for i in range(30):
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


@pytest.mark.parametrize('features', [PACKED, PACKED & ~vu.EVENT_IDX], ids=form_name)
def test_kicks_when_asked(net, features):
    """A switch that sleeps asks for a kick; awake it does not; no frame is ever left."""
    a, b = net.nic(features=features, num=24, bufs=24), net.nic()

    def asleep():
        off_wrap, flags = a.mem.u16(a.tx.used), a.mem.u16(a.tx.used + 2)
        return flags != 1 and (flags != 2 or off_wrap == a.tx.off_wrap(a.tx.avail_idx))
    for i in range(60):
        wait_for('sleep', asleep)
        before = a.tx.kicks
        cross(a, b, i)
        assert a.tx.kicks == before + 1
    frames = [frame(b.mac, a.mac, 60, i) for i in range(2000)]
    for i in range(0, 2000, 10):
        a.send_frames(*frames[i:i + 10])
        b.poll()
    assert b.recv(2000) == frames


@pytest.mark.parametrize('features', [MODERN, PACKED], ids=form_name)
@pytest.mark.parametrize('on_empty', [0, vu.ON_EMPTY], ids=['not', 'on_empty'])
def test_notify_on_empty(net, features, on_empty):
    """VIRTIO_F_NOTIFY_ON_EMPTY: a transmit ring that ran empty is told, wanted or not."""
    a, b = net.nic(features=features | on_empty), net.nic()
    cross(a, b)
    a.tx.signalled()
    for i in range(5):
        a.tx.want_call(False)
        cross(a, b, i)
        assert a.tx.signalled(vu.TIMEOUT if on_empty else 0) == bool(on_empty)


# --- lies -----------------------------------------------------------------------------------------

def put(f, *descs):
    """Descriptors by hand: (addr, length, flags), the id is 0; the ring's bookkeeping is kept."""
    r = f.tx
    for d in descs:
        r.put_desc(*d, 0)
    r.chains[0] = ([0] * len(descs), [])
    r.publish()


def table(f, *entries):
    for i, (addr, length, flags) in enumerate(entries):
        f.tx.set_desc(i, addr, length, 0, flags, table=0x80000)
    return f.mem.gpa(0x80000)


END = vu.GPA + (4 << 20)
OK = vu.GPA + 0x100000
NEXT, WRITE, INDIRECT = vu.DESC_NEXT, vu.DESC_WRITE, vu.DESC_INDIRECT
CHAIN_LIES = {
    # name: (descriptors, counted as)
    'outside': (lambda f: [(1 << 50, 72, 0)], 'unmapped'),
    'leaves the region': (lambda f: [(END - 71, 72, 0)], 'unmapped'),
    'length wraps': (lambda f: [(2**64 - 8, 72, 0)], 'unmapped'),
    'invalid address, length 0': (lambda f: [(1 << 50, 0, 0)], 'no-header'),
    'shorter than the header': (lambda f: [(OK, 11, 0)], 'no-header'),
    'tiny pieces, no frame': (lambda f: [(OK, 1, NEXT)] * 12 + [(OK, 0, 0)], 'runt'),
    'giant': (lambda f: [(OK, 65557 + 13, 0)], 'giant'),
    'long chain': (lambda f: [(OK, 1000, NEXT)] * 200 + [(OK, 1, 0)], 'giant'),
    'device-writable': (lambda f: [(OK, 72, WRITE)], 'bad-chain'),
    'device-writable in the middle': (lambda f: [(OK, 72, NEXT), (OK, 1, NEXT | WRITE), (OK, 1, 0)],
                                      'bad-chain'),
    'indirect empty': (lambda f: [(table(f), 0, INDIRECT)], 'bad-chain'),
    'indirect not a multiple': (lambda f: [(table(f), 17, INDIRECT)], 'bad-chain'),
    'indirect 4 GiB': (lambda f: [(table(f), 0xfffffff0, INDIRECT)], 'bad-chain'),
    'indirect nested': (lambda f: [(table(f, (OK, 1, INDIRECT)), 16, INDIRECT)], 'no-header'),
    'indirect first of a list': (lambda f: [(table(f, (OK, 72, 0)), 16, INDIRECT | NEXT), (OK, 9, 0)],
                                 'bad-chain'),
    'indirect last of a list': (lambda f: [(OK, 12, NEXT), (table(f, (OK, 72, 0)), 16, INDIRECT)],
                                'bad-chain'),
    'indirect outside': (lambda f: [(1 << 50, 32, INDIRECT)], 'unmapped'),
    'indirect crosses the end': (lambda f: [(END - 8, 32, INDIRECT)], 'unmapped'),
    'indirect buffer outside': (lambda f: [(table(f, (1 << 50, 72, 0)), 16, INDIRECT)], 'unmapped'),
}


@pytest.mark.parametrize('name', CHAIN_LIES)
def test_lie_in_a_chain(lab, net, name):
    """The chain is dropped with its reason and given back; the ring goes on behind it."""
    build, reason = CHAIN_LIES[name]
    a, b = net.nic(features=PACKED), net.nic()
    cross(a, b)
    before = net.drops(a.name)
    for i in range(3):
        a.reap()
        put(a, *build(a))
        assert a.wait_used(a.tx) == [(0, 0)]
        a.tx.free = list(range(a.tx.num))
        after = net.drops(a.name)
        changed = {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}
        assert changed == {reason: i + 1}
        cross(a, b, i)


@pytest.mark.parametrize('num', [1, 5, 256, 4096])
def test_chain_without_an_end(lab, net, num):
    """NEXT on every slot: the ring breaks, its error eventfd is signalled; a new set-up heals it."""
    a, b = net.nic(features=PACKED, num=num, bufs=min(num, 16)), net.nic()
    a.set_err(a.tx)
    cross(a, b)
    a.reap()
    put(a, *[(OK, 0, NEXT)] * num)
    assert select.select([a.tx.err], [], [], vu.TIMEOUT)[0], 'the err eventfd is silent'
    wait_for('break', lambda: 'no end' in net.state(a.name)['last_error'])
    ring = net.state(a.name)['rings'][1]
    assert ring['broken'] and not ring['running']
    a.get_base(1)
    a.tx.restart()
    a.tx.want_call(False)
    for step in a.set_num, a.set_base, a.set_addr, a.set_kick, a.set_call:
        step(a.tx)
    cross(a, b)


def test_flags_change_all_the_time(net):
    """Descriptors that are turned and turned back while the switch looks at them."""
    a, b = net.nic(features=PACKED), net.nic()
    cross(a, b)
    end = vu.time.monotonic() + 1
    x = 12345
    while vu.time.monotonic() < end:
        for _ in range(200):
            x = x * 1103515245 + 12345 & 0x7fffffff
            a.mem.set_u16(a.tx.desc_flags_at(x >> 8 & 0xff), x >> 3)
        os.eventfd_write(a.tx.kick, 1)
    exchange(b, net.nic(), [60, 1514])  # the others do not notice
    a.get_base(1)
    a.tx.restart()
    for step in a.set_num, a.set_base, a.set_addr, a.set_kick, a.set_call:
        step(a.tx)
    a.poll()
    b.poll()
    a.inbox, b.inbox = [], []
    cross(a, b)


def test_event_words_lie(net):
    """Offsets beyond the ring, reserved flags: signals too many or too few, for this guest alone."""
    a, b = net.nic(features=PACKED), net.nic()
    for word in (0xffff, 0x7fff, 0x8100, 0):
        for flags in (0xffff, 3, 2, 0):
            a.mem.set_u16(a.rx.avail, word)
            a.mem.set_u16(a.rx.avail + 2, flags)
            a.mem.set_u16(a.tx.avail, word)
            a.mem.set_u16(a.tx.avail + 2, flags)
            cross(a, b)
