# SPDX-License-Identifier: Apache-2.0
"""Lies told through a real front-end: the guest is this program, and QEMU passes on what it says
(qtest_guest.py). The reason is counted or shown; when the guest's driver resets the card, in the same
QEMU, the port works again; nobody else notices (Lab.attack).
"""
import shutil
import struct

import pytest

import vu_front as vu
from qtest_guest import QEMU, SIZE, Guest
from vu_front import frame, wait_for
from vu_lab import mac, works

pytestmark = pytest.mark.skipif(not shutil.which(QEMU), reason=f'there is no {QEMU} here')

OK, TABLE = 32 << 20, 48 << 20
NEXT, WRITE, INDIRECT = vu.DESC_NEXT, vu.DESC_WRITE, vu.DESC_INDIRECT
CSUM, HOST_TSO4 = 1 << 0, 1 << 11
FEATURES = vu.VERSION_1 | vu.MRG_RXBUF | vu.INDIRECT | CSUM | HOST_TSO4
LAYOUTS = ['split', 'packed']


@pytest.fixture(scope='module')
def guest(lab, request):
    g = Guest(f'{lab.run}/evil.sock', mac(9), request.param, FEATURES)
    yield g
    g.close()


def chain(*descs, nxt=None):
    return lambda g: g.tx.put(*descs, nxt=nxt)


def table(*entries, size=None):
    return lambda g: g.tx.put((g.tx.fill_table(TABLE, *entries),
                               16 * len(entries) if size is None else size, INDIRECT))


def header(flags, gso_type, gso_size, start, offset):
    """A frame of 500 bytes whose header says that."""
    h = struct.pack('<BBHHHHH', flags, gso_type, 54, gso_size, start, offset, 0)
    return lambda g: g.tx.add([(g.put(h + frame(mac(3), g.mac, 500)), 512)], False)


CHAIN_LIES = {
    # name: (lie, counted as, layouts)
    'outside': (chain((1 << 50, 72, 0)), 'unmapped', LAYOUTS),
    'leaves the memory': (chain((SIZE - 71, 72, 0)), 'unmapped', LAYOUTS),
    'the registers of the card': (chain((0xfeb00000, 72, 0)), 'unmapped', LAYOUTS),
    'length wraps': (chain((2**64 - 8, 72, 0)), 'unmapped', LAYOUTS),
    'invalid address, length 0': (chain((1 << 50, 0, 0)), 'no-header', LAYOUTS),
    'shorter than the header': (chain((OK, 11, 0)), 'no-header', LAYOUTS),
    'loop': (chain((OK, 72, NEXT), nxt=lambda ids: ids[0]), 'bad-chain', ['split']),
    'next beyond the ring': (chain((OK, 72, NEXT), nxt=256), 'bad-chain', ['split']),
    'device-writable': (chain((OK, 72, WRITE)), 'bad-chain', LAYOUTS),
    'indirect empty': (table(), 'bad-chain', LAYOUTS),
    'indirect not a multiple': (table((0, 0, 0), size=17), 'bad-chain', LAYOUTS),
    'indirect 4 GiB': (table(size=0xfffffff0), 'bad-chain', LAYOUTS),
    'indirect buffer outside': (table((1 << 50, 72, 0)), 'unmapped', LAYOUTS),
    'csum beyond the frame': (header(1, 0, 0, 65535, 65535), 'bad-csum', LAYOUTS),
    'gso without NEEDS_CSUM': (header(0, 1, 1000, 34, 16), 'bad-gso', LAYOUTS),
    'offload not negotiated': (header(1, 4, 1000, 54, 16), 'offload', LAYOUTS),
}


@pytest.mark.parametrize('guest, name', [(l, name) for l in LAYOUTS for name, lie in CHAIN_LIES.items()
                                         if l in lie[-1]], indirect=['guest'])
def test_lie_in_a_chain(lab, mate, guest, name):
    build, reason, _ = CHAIN_LIES[name]
    works(lab, guest.boot(), mate)
    with lab.attack():
        before = lab.drops()
        for _ in range(3):
            build(guest)
            guest.tx.publish()
            assert [length for _, length in guest.wait_used(guest.tx)] == [0]
        after = lab.drops()
        assert {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)} == {reason: 3}
        works(lab, guest, mate)
        works(lab, guest.boot(), mate)


def jump(r):
    r.avail_idx = (r.avail_idx + r.num + 1) & 0xffff


RING_LIES = {
    # name: (lie, what is shown, layout)
    'available index jumps': (jump, 'available index', 'split'),
    'head beyond the ring': (lambda r: r.offer(r.num), 'beyond the ring', 'split'),
    'NEXT on every slot': (lambda r: r.put(*[(OK, 0, NEXT)] * r.num), 'no end', 'packed'),
}


@pytest.mark.parametrize('guest, name', [(lie[-1], name) for name, lie in RING_LIES.items()],
                         indirect=['guest'])
def test_lie_breaks_the_ring(lab, mate, guest, name):
    build, says, _ = RING_LIES[name]
    works(lab, guest.boot(), mate)
    with lab.attack():
        for _ in range(3):
            build(guest.tx)
            guest.tx.publish()
            wait_for('broken', lambda: lab.ring(1)['broken'])
            assert says in lab.state()['last_error']
            works(lab, guest.boot(), mate)
