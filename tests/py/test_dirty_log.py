# SPDX-License-Identifier: Apache-2.0
"""The dirty log as front-ends start, change and end it, through a real switch.

After each burst the guest's memory is compared with a copy from before: each page that changed is
marked, and no page that the switch may not write.
"""
import mmap
import os
import random
import struct

import pytest

import test_offload as off
import vu_front as vu
from vu_front import GPA, Memory, Nic, frame, wait_for

LOG_ALL, LOG_SHMFD = 1 << 26, 1 << 1
PAGE = 4096
LAYOUTS = pytest.mark.parametrize('packed', [0, vu.PACKED], ids=['split', 'packed'])


class Log:
    """A bitmap in a file of its own: page n of guest-physical memory is bit n % 8 of byte n / 8."""

    def __init__(self, nic, size=None, offset=0):
        top = max(g + n for g, n, _, _ in nic.mem.regions)
        self.size, self.offset = size or (top // PAGE + 7) // 8, offset
        self.fd = os.memfd_create('log')
        os.ftruncate(self.fd, self.offset + self.size)
        self.map = mmap.mmap(self.fd, self.offset + self.size)

    def pages(self):
        return {8 * i + b for i, byte in enumerate(self.map[self.offset:]) if byte
                for b in range(8) if byte >> b & 1}

    def take(self):
        out = self.pages()
        self.map[self.offset:] = bytes(self.size)
        return out

    def close(self):
        self.map.close()
        os.close(self.fd)


def say(f, size, offset, fds):
    """SET_LOG_BASE, whose answer is what was said."""
    payload = struct.pack('<QQ', size, offset)
    f.send(vu.SET_LOG_BASE, payload, fds)
    assert f.reply(vu.SET_LOG_BASE, 16) == payload


def refused(f, size, offset, fds):
    return f.ack(vu.SET_LOG_BASE, struct.pack('<QQ', size, offset), fds) != 0


def give(f, log):
    say(f, log.size, log.offset, [log.fd])


def set_features(f, on):
    assert f.ack(vu.SET_FEATURES, struct.pack('<Q', f.features | (LOG_ALL if on else 0))) == 0


def log_rings(f, on):
    for r in f.rings:
        a = bytearray(f.addr(r, int(on)))
        struct.pack_into('<Q', a, 32, f.mem.gpa(r.used))
        assert f.ack(vu.SET_VRING_ADDR, bytes(a)) == 0


def pages_of(mem, parts):
    return {(mem.gpa(off) + i) // PAGE for off, n in parts for i in (*range(0, n, PAGE), n - 1)}


def may_write(nic):
    """All that the switch may write at all: receive buffers and its part of each ring."""
    parts = [p for _, chain in nic.rx.chains.values() for p in chain]
    for r in nic.rings:
        packed = isinstance(r, vu.PackedRing)
        parts.append((r.desc, 16 * r.num) if packed else (r.used, 6 + 8 * r.num))
        parts.append((r.used, 4))
    return pages_of(nic.mem, parts)


def changed(mem, before):
    now = mem.map[:]
    return {mem.gpa(off) // PAGE for off in range(0, mem.size, PAGE)
            if now[off:off + PAGE] != before[off:off + PAGE]}


def burst(a, b, n, sizes, seq):
    """n frames from a to b, which b reads when all of them are there: it changes its memory then."""
    sent = [frame(b.mac, a.mac, sizes[(seq + i) % len(sizes)], seq + i) for i in range(n)]
    a.send_frames(*sent)
    # The transmit ring is used up only after the frames were delivered.
    wait_for('frames to be taken', lambda: (a.reap(), not a.tx.chains)[1])
    return sent


def with_log(net, packed=0, **how):
    """A nic whose front-end took LOG_SHMFD."""
    b = net.nic(None, features=Nic.FEATURES | packed, **how)
    b.PROTOCOLS = b.PROTOCOLS | LOG_SHMFD
    b.qemu()
    b.acks = True
    return b


@pytest.fixture
def logged(net):
    """Such a one, and one that plays along."""
    def make(packed=0, **how):
        b = with_log(net, packed, **how)
        return net.nic(), b
    return make


@LAYOUTS
@pytest.mark.parametrize('rx_size', [2048, 300])
def test_every_page_and_no_other(logged, packed, rx_size):
    """Merged buffers (300), large frames; buffers lie anywhere in their pages."""
    seed = int(os.environ.get('RINGWAY_SEED', random.randrange(1 << 32)))
    print(f'RINGWAY_SEED={seed} repeats this')
    rnd = random.Random(seed)
    a, b = logged(packed, rx_size=rx_size)
    b.send_frames(frame(a.mac, b.mac, 60))  # where it lives is known
    a.recv()
    log = Log(b)
    give(b, log)
    set_features(b, True)
    log_rings(b, True)
    seq = 0
    for _ in range(30):
        b.poll()  # takes what came and posts the buffers again
        b.inbox = []
        before, allowed = b.mem.map[:], may_write(b)
        log.take()
        n = rnd.randrange(1, 10)
        sent = burst(a, b, n, [60, 1514, 200, 700, 4000], seq)
        seq += n
        marked, dirty = log.take(), changed(b.mem, before)
        assert dirty, 'nothing was written: this shows nothing'
        assert dirty <= marked, f'written and not marked: {sorted(dirty - marked)}'
        assert marked <= allowed, f'marked without a reason: {sorted(marked - allowed)}'
        assert b.recv(n) == (sent if n > 1 else sent[0])
    log.close()


@LAYOUTS
@pytest.mark.parametrize('rx_size', [2048, 300])
def test_segments_and_sums(net, packed, rx_size):
    """What the switch makes of a large frame for a guest without offloads is marked, too."""
    a, kind = off.sender(net), off.KINDS['tso4']
    b = with_log(net, packed, rx_size=rx_size)
    log = Log(b)
    give(b, log)
    set_features(b, True)
    log_rings(b, True)
    for size, mss in (9000, 1000), (20000, 1448), (700, 0):
        data = off.body(size)
        pkt = kind.packet(data)
        b.poll()
        b.inbox = []
        before, allowed = b.mem.map[:], may_write(b)
        log.take()
        a.transmit(kind.partial(pkt), header=kind.header(pkt, mss, gso=bool(mss)))
        wait_for('the frame to be taken', lambda: (a.reap(), not a.tx.chains)[1])
        marked, dirty = log.take(), changed(b.mem, before)
        assert len(dirty) > size // PAGE and dirty <= marked <= allowed
        got = b.recv(-(-size // mss) if mss else 1)
        assert b''.join(f[-(len(f) - len(pkt) + size):] for f in ([got] if not mss else got)) == data
    log.close()


@LAYOUTS
def test_frames_wait_for_a_log(net, logged, packed):
    a, b = logged(packed)
    b.send_frames(frame(a.mac, b.mac, 60))
    a.recv()
    set_features(b, True)
    s = net.state(b.name)
    assert not any(r['running'] for r in s['rings'])
    before = b.mem.map[:]
    a.send_frames(frame(b.mac, a.mac, 60))
    wait_for('the frame to be taken', lambda: (a.reap(), not a.tx.chains)[1])
    assert b.mem.map[:] == before, 'written although there is no log'
    log = Log(b)
    give(b, log)
    s = net.state(b.name)
    assert all(r['running'] for r in s['rings'])
    assert s['logging'] is True and s['dirty_log_bytes'] == log.size
    f = frame(b.mac, a.mac, 700, 1)
    a.send_frames(f)
    assert b.recv() == f and log.pages()
    set_features(b, False)
    assert net.state(b.name)['logging'] is False
    log.close()


@LAYOUTS
def test_new_log_every_few_frames(logged, packed):
    """The old file is not written after the reply; logging on and off between."""
    a, b = logged(packed)
    b.send_frames(frame(a.mac, b.mac, 60))
    a.recv()
    old = None
    for seq in range(40):
        log = Log(b, offset=PAGE * (seq % 3))
        f = frame(b.mac, a.mac, 60 + seq * 30, seq)
        a.send_frames(f)  # flows while the log changes
        give(b, log)
        set_features(b, True)
        if old:
            frozen = old.map[:]
        assert b.recv() == f
        log.take()
        f = frame(b.mac, a.mac, 1000, seq)
        a.send_frames(f)
        assert b.recv() == f
        assert log.pages(), 'the new log is not used'
        if old:
            assert old.map[:] == frozen, 'the old log is written after the reply'
            old.close()
        old = log
        if seq % 4 == 3:
            set_features(b, False)
            log.take()
            f = frame(b.mac, a.mac, 500, seq)
            a.send_frames(f)
            assert b.recv() == f
            assert not log.pages(), 'logged although it is off'
    old.close()


def test_logs_that_are_refused(lab, net, logged):
    a, b = logged()
    fd = os.memfd_create('log')
    os.ftruncate(fd, 4096)
    r, w = os.pipe()
    event = os.eventfd(0)
    for size, offset, fds in ((4097, 0, [fd]), (4096, 1, [fd]), (16, 2**64 - 8, [fd]),
                              (2**64 - 1, 2, [fd]), (0, 0, [fd]), (16, 0, [r]), (16, 0, [event]),
                              (16, 0, [])):
        assert refused(b, size, offset, fds), (size, offset)
        assert 'SET_LOG_BASE' in net.state(b.name)['last_error']
    for f in fd, r, w, event:
        os.close(f)
    f = frame(b.mac, a.mac, 60)
    a.send_frames(f)
    assert b.recv() == f


@LAYOUTS
def test_log_too_small(logged, packed):
    a, b = logged(packed)
    b.send_frames(frame(a.mac, b.mac, 60))
    a.recv()
    log = Log(b, size=8)
    give(b, log)
    set_features(b, True)
    log_rings(b, True)
    f = frame(b.mac, a.mac, 1514)
    a.send_frames(f)
    assert b.recv() == f and not log.pages()
    log.close()


@LAYOUTS
def test_log_in_guest_memory(logged, packed):
    """Bounds only: it spoils its own memory, at most."""
    a, b = logged(packed)
    b.send_frames(frame(a.mac, b.mac, 60))
    a.recv()
    say(b, GPA // PAGE // 8 + 256, b.tx_at, [b.mem.fd])
    set_features(b, True)
    f = frame(b.mac, a.mac, 1514)
    a.send_frames(f)
    assert b.recv() == f


@LAYOUTS
def test_log_is_truncated(lab, net, logged, packed):
    a, b = logged(packed)
    b.send_frames(frame(a.mac, b.mac, 60))
    a.recv()
    log = Log(b)
    give(b, log)
    set_features(b, True)
    os.ftruncate(log.fd, 0)
    a.send_frames(frame(b.mac, a.mac, 60))
    assert b.ended()
    assert 'its dirty log was truncated' in net.state(b.name)['last_error']
    lab.check_neighbours()
    os.close(log.fd)


@LAYOUTS
def test_chains_over_several_regions(logged, packed):
    """Each buffer has three segments, each in another region; a large frame takes several buffers."""
    mem = Memory(0x200000, [(0, 0x40000), (0x40000, 0x40000), (0x80000, 0x180000)])
    a, b = logged(packed, mem=mem, bufs=0)
    for i in range(40):
        b.rx.add([(0x20000 + 1900 * i, 100 + i), (0x40000 + 1900 * i, 700), (0x80000 + 1900 * i, 900)],
                 True)
    b.rx.publish()
    b.send_frames(frame(a.mac, b.mac, 60))
    a.recv()
    log = Log(b)
    give(b, log)
    set_features(b, True)
    log_rings(b, True)
    for seq, size in enumerate((60, 300, 1514, 2500, 9000)):
        before, allowed = mem.map[:], may_write(b)
        log.take()
        sent = burst(a, b, 1, [size], seq)
        marked, dirty = log.take(), changed(mem, before)
        assert dirty and dirty <= marked <= allowed, (sorted(dirty - marked), sorted(marked - allowed))
        if size > 1000:
            assert len({p >> 20 for p in dirty}) == 3, 'not all regions were written'
        assert b.recv() == sent[0]
    log.close()


@LAYOUTS
def test_lying_buffers_while_logging(lab, net, logged, packed):
    """Receive buffers outside of memory, wrapping, or half outside: no mark for what was not there."""
    a, b = logged(packed, bufs=0, num=64)
    b.send_frames(frame(a.mac, b.mac, 60))
    a.recv()
    log = Log(b)
    give(b, log)
    set_features(b, True)
    log_rings(b, True)
    end = b.mem.gpa(0) + b.mem.size
    half = end - 600  # written before the switch finds that the rest is not there
    for addr, length in ((0, 2048), (end, 2048), (half, 2048), (end - 100, 2048), (2**64 - 100, 2048),
                         (2**64 - 1, 2**32 - 1), (end - 1, 2**32 - 1)):
        ident = b.rx.free.pop(0)
        if packed:
            b.rx.put_desc(addr, length, vu.DESC_WRITE, ident)
        else:
            b.rx.set_desc(ident, addr, length, vu.DESC_WRITE)
            b.rx.offer(ident)
        b.rx.chains[ident] = ([ident], [])
        b.rx.publish()
        before = b.mem.map[:]
        log.take()
        burst(a, b, 1, [1000], 0)
        marked = log.take()
        dirty = changed(b.mem, before)
        assert dirty <= marked, f'written and not marked: {sorted(dirty - marked)}'
        assert addr != half or (end - 1) // PAGE in dirty, 'nothing was written: this shows nothing'
        assert marked <= may_write(b) | {(end - 1) // PAGE}, (addr, length)
        b.rx.reap()
    assert sum(net.drops(b.name).values()) == 7
    lab.check_neighbours()
    log.close()
