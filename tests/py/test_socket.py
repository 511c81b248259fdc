# SPDX-License-Identifier: Apache-2.0
"""Ports of kind qemu-stream and qemu-dgram: a real switch and peers that speak QEMU's protocols.

     s1, s2: qemu-stream (listen)    d1: qemu-dgram    c1: qemu-stream,client=    vm1: vhost-user
"""
import contextlib
import json
import os
import select
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import time

import pytest
from qemu_peer import TIMEOUT, Dgram, Stream, frame, mac
from scapy.all import IP, TCP, Ether
from vu_front import Front, wait_for
from vu_lab import RINGWAY


class Switch:
    def __init__(self, *ports, path=None):
        self.dir = tempfile.mkdtemp(prefix='rw-socket-')
        self.ports = ports
        self.env = {**os.environ, **({'PATH': path} if path else {})}
        self.start()

    def start(self):
        with open(f'{self.dir}/log', 'ab') as log:
            self.proc = subprocess.Popen([RINGWAY, 'run', '--rundir', self.dir, *self.ports],
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         env=self.env)
        wait_for('the switch', lambda: self.proc.poll() is not None or not self.ctl('show', 'ports')[0])
        assert self.proc.poll() is None, self.log()

    def log(self):
        with open(f'{self.dir}/log') as f:
            return f.read()

    def ctl(self, *args):
        p = subprocess.run([RINGWAY, *args, '--rundir', self.dir], capture_output=True, text=True,
                           timeout=TIMEOUT)
        return p.returncode, p.stdout + p.stderr

    def do(self, *args):
        rc, out = self.ctl(*args)
        assert rc == 0, out
        return out

    def port(self, name):
        return json.loads(self.do('show', 'ports', name, '--json'))['ports'][0]

    def sock(self, name):
        return f'{self.dir}/{name}.sock'

    def ready(self, name):
        wait_for(f'{name} is ready', lambda: self.port(name)['ready'])

    def gone(self, name):
        wait_for(f'{name} is not ready', lambda: not self.port(name)['ready'])

    def drops(self, name):
        rows = json.loads(self.do('show', 'drops', name, '--json'))['drops']
        return {r['reason']: r['frames'] for r in rows}

    def dropped(self, name, reason, n=1):
        wait_for(f'{n} {reason} at {name}', lambda: self.drops(name).get(reason, 0) >= n)

    def stream(self, name):
        peer = Stream(self.sock(name))
        self.ready(name)
        return peer

    def dgram(self, name):
        peer = Dgram(f'{self.dir}/{name}.peer.sock', self.sock(name))
        self.ready(name)
        return peer

    def stop(self):
        self.proc.terminate()
        return self.proc.wait(TIMEOUT)

    def close(self):
        code = self.stop()
        text = self.log()
        left = [f for f in os.listdir(self.dir) if f.endswith('.sock') and not f.endswith('peer.sock')]
        shutil.rmtree(self.dir)
        assert code == 0, text
        assert not left, left


@pytest.fixture(scope='module')
def module_switch():
    s = Switch('s1=qemu-stream', 's2=qemu-stream', 'd1=qemu-dgram', 'd2=qemu-dgram', 'vm1')
    yield s
    s.close()


@pytest.fixture
def sw(module_switch):
    """Nobody is there, and no counter says anything."""
    for name in ('s1', 's2', 'd1', 'd2'):
        module_switch.gone(name)
    module_switch.do('mac', 'flush')
    yield module_switch
    assert module_switch.proc.poll() is None, module_switch.log()


@contextlib.contextmanager
def pair(sw, a, b):
    with contextlib.ExitStack() as stack:
        peers = []
        for n, name in enumerate((a, b)):
            peer = sw.stream(name) if name.startswith('s') else sw.dgram(name)
            stack.callback(peer.close)
            peers.append(peer)
        # who is where
        for n, peer in enumerate(peers):
            peer.send(frame(b'\xff' * 6, mac(n + 1)))
            assert peers[1 - n].recv()[6:12] == mac(n + 1)
        yield peers


CSUM_AND_TSO4 = 1 << 0 | 1 << 11  # virtio: NET_F_CSUM, NET_F_HOST_TSO4
SIZES = [14, 15, 60, 179, 180, 181, 1514, 9014, 65557]


@pytest.mark.parametrize('a, b', [('s1', 's2'), ('s1', 'd1'), ('d1', 's1'), ('d1', 'd2')])
def test_content_and_order(sw, a, b):
    with pair(sw, a, b) as (x, y):
        frames = [frame(mac(2), mac(1), n, max(18, s))[:s] for n, s in enumerate(SIZES * 20)]
        for at in range(0, len(frames), 3):  # what is under way fits in any socket
            x.send(*frames[at:at + 3])
            for f in frames[at:at + 3]:
                assert y.recv() == f


def test_many_frames_per_call(sw):
    """Many small frames in one write, in order."""
    with pair(sw, 's1', 's2') as (x, y):
        before = sw.port('s1')['rx']['frames']
        frames = [frame(mac(2), mac(1), n) for n in range(1000)]
        got = []
        for at in range(0, 1000, 250):
            x.send(*frames[at:at + 250])
            got += [y.recv() for _ in range(250)]
        assert got == frames
        assert sw.port('s1')['rx']['frames'] - before == 1000


def test_dribble(sw):
    """A frame that comes byte by byte is a frame; others pass meanwhile."""
    with pair(sw, 's1', 's2') as (x, y):
        f = frame(mac(2), mac(1), 7, 100)
        for i, byte in enumerate(struct.pack('>I', len(f)) + f):
            if i % 20 == 5:
                y.send(frame(mac(1), mac(2), i))
                assert x.recv() == frame(mac(1), mac(2), i)
            x.raw(bytes([byte]))
        assert y.recv() == f


def test_lengths_that_are_none(sw):
    """0 and 13 are runts, a giant is skipped, and what comes behind them is in step."""
    with pair(sw, 's1', 's2') as (x, y):
        had = sw.drops('s1')
        x.send(b'', b'x' * 13)
        x.raw(struct.pack('>I', 65558) + b'\xee' * 65558)
        x.raw(struct.pack('>I', 1 << 20) + b'\xee' * (1 << 20))
        f = frame(mac(2), mac(1), 9)
        x.send(f)
        assert y.recv() == f
        now = sw.drops('s1')
        assert now.get('runt', 0) - had.get('runt', 0) == 2, now
        assert now.get('giant', 0) - had.get('giant', 0) == 2, now


@pytest.mark.parametrize('junk', [b'GET / HTTP/1.1\r\n\r\n', b'\xff' * 64, struct.pack('>I', (1 << 20) + 1)])
def test_another_protocol(sw, junk):
    with pair(sw, 's1', 's2') as (x, y):
        x.raw(junk)
        assert x.recv() == b''
        sw.gone('s1')
        assert 'another protocol' in sw.port('s1')['state']['last_error']
    with pair(sw, 's1', 's2') as (x, y):  # the port lives
        pass


def test_datagrams_that_are_no_frames(sw):
    with pair(sw, 'd1', 's1') as (x, y):
        had = sw.drops('d1')
        x.send(b'', b'x' * 13, b'x' * 65558, b'x' * 70000)
        f = frame(mac(2), mac(1), 9)
        x.send(f)
        assert y.recv() == f
        now = sw.drops('d1')
        assert now.get('runt', 0) - had.get('runt', 0) == 2, now
        assert now.get('giant', 0) - had.get('giant', 0) == 2, now


@pytest.mark.parametrize('size', [60, 1514, 60000])
def test_peer_that_does_not_read(sw, size):
    """Frames for it are dropped with a reason, nobody else waits, and what it has not read is whole:
    also the frame of which the kernel took a part."""
    with pair(sw, 's1', 's2') as (x, y), contextlib.closing(sw.dgram('d1')) as z:
        z.send(frame(b'\xff' * 6, mac(3)))
        assert x.recv()[6:12] == y.recv()[6:12] == mac(3)
        had = sw.drops('s2').get('tx-full', 0)
        n = {60: 3000, 1514: 1500, 60000: 100}[size]
        for i in range(n):
            x.send(frame(mac(2), mac(1), i, size))
        sw.dropped('s2', 'tx-full', had + 1)
        x.send(frame(mac(3), mac(1), 1))  # the neighbour
        assert z.recv() == frame(mac(3), mac(1), 1)
        lost = sw.drops('s2')['tx-full'] - had
        seen = -1
        for _ in range(n - lost):
            f = y.recv()
            i = struct.unpack('>I', f[14:18])[0]
            assert i > seen and f == frame(mac(2), mac(1), i, size)
            seen = i
        x.send(frame(mac(2), mac(1), n, size))  # and it goes on
        assert y.recv() == frame(mac(2), mac(1), n, size)


def test_datagram_peer_that_does_not_read(sw):
    with pair(sw, 's1', 'd1') as (x, y):
        had = sw.drops('d1').get('tx-full', 0)
        for i in range(3000):
            x.send(frame(mac(2), mac(1), i))
        sw.dropped('d1', 'tx-full', had + 1)
        lost = sw.drops('d1')['tx-full'] - had
        seen = [struct.unpack('>I', y.recv()[14:18])[0] for _ in range(3000 - lost)]
        assert seen == sorted(set(seen))


def test_rest_without_another_frame(sw):
    """The rest of a frame that the kernel took in part arrives although nothing is sent after it."""
    with pair(sw, 's1', 's2') as (x, y):
        had = sw.drops('s2').get('tx-full', 0)
        n = 0
        while sw.drops('s2').get('tx-full', 0) == had:
            assert n < 400
            for _ in range(10):
                x.send(frame(mac(2), mac(1), n, 65000))
                n += 1
        got = []
        while select.select([y.sock], [], [], 2)[0]:
            got.append(y.recv())  # blocks for the rest of a frame that has begun
        assert got and not y.inbox
        for f in got:
            assert f == frame(mac(2), mac(1), struct.unpack('>I', f[14:18])[0], 65000)


def test_connection_flood(sw):
    """One peer per port; the others are closed, and the first does not notice."""
    with pair(sw, 's1', 's2') as (x, y):
        for _ in range(100):
            with contextlib.closing(Stream(sw.sock('s1'))) as other:
                assert other.recv() == b''
        f = frame(mac(2), mac(1), 1)
        x.send(f)
        assert y.recv() == f


def test_come_and_go(sw):
    for _ in range(20):
        with pair(sw, 's1', 's2'):
            pass
    with contextlib.closing(sw.stream('s1')) as x:
        x.raw(struct.pack('>I', 1000) + b'x' * 10)  # gone within a frame
    sw.gone('s1')
    state = sw.port('s1')['state']
    assert state['state'] == 'listening' and state['connects'] >= 21, state


def sends(peer, f):
    """Until the switch has found it, a restarted peer is a stranger to the kernel."""
    try:
        peer.send(f)
    except PermissionError:
        return False
    return True


def test_datagram_peer_restarts(sw):
    """A new socket at the same path, without a word; frames both ways again, without one being sent."""
    with contextlib.closing(sw.stream('s1')) as x:
        for n in range(3):
            with contextlib.closing(sw.dgram('d1')) as y:
                f = frame(b'\xff' * 6, mac(2), n)
                wait_for('it is no stranger any more', lambda: sends(y, f))
                assert x.recv() == frame(b'\xff' * 6, mac(2), n)
                x.send(frame(mac(2), mac(1), n))
                assert y.recv() == frame(mac(2), mac(1), n)
            if n == 1:
                sw.gone('d1')


def test_stranger_is_refused(sw):
    """Once the peer is known nobody else can send to its port."""
    with pair(sw, 'd1', 's1'):
        with contextlib.closing(Dgram(f'{sw.dir}/stranger', sw.sock('d1'))) as z:
            with pytest.raises(PermissionError):
                z.send(frame(b'\xff' * 6, mac(9)))


def test_link_down(sw):
    """Frames both ways are dropped with a reason; the connection stays."""
    for name in ('s1', 'd1'):
        with pair(sw, name, 's2') as (x, y):
            sw.do('port', 'set', name, 'link=down')
            assert not sw.port(name)['ready']
            had = sw.drops(name).get('link-down', 0)
            x.send(frame(mac(2), mac(1), 1))
            y.send(frame(mac(1), mac(2), 1))
            sw.dropped(name, 'link-down', had + 2)
            sw.do('port', 'set', name, 'link=up')
            x.send(frame(mac(2), mac(1), 2))
            assert y.recv() == frame(mac(2), mac(1), 2)


def test_mtu(sw):
    with pair(sw, 's1', 's2') as (x, y):
        sw.do('port', 'set', 's2', 'mtu=1000')
        had = sw.drops('s2').get('mtu', 0)
        x.send(frame(mac(2), mac(1), 1, 1014), frame(mac(2), mac(1), 2, 1015), frame(mac(2), mac(1), 3))
        assert [struct.unpack('>I', y.recv()[14:18])[0] for _ in range(2)] == [1, 3]
        assert sw.drops('s2')['mtu'] == had + 1
        sw.do('port', 'set', 's2', 'mtu=65535')


def test_segments(sw):
    """A guest's TSO frame reaches a stream and a datagram peer as whole frames with their checksums."""
    size = 1000
    for name in ('s1', 'd1'):
        peer = sw.stream(name) if name == 's1' else sw.dgram(name)
        with contextlib.closing(peer), Front(sw.sock('vm1'), mac(3)).start(Front.FEATURES | CSUM_AND_TSO4) as vm:
            peer.send(frame(b'\xff' * 6, mac(1)))
            wait_for('learnt', lambda: mac(1).hex(':') in sw.do('show', 'macs'))
            payload = bytes(i % 251 for i in range(3500))
            p = Ether(dst=mac(1), src=mac(3)) / IP(src='10.0.0.3', dst='10.0.0.1', id=5) / TCP(
                sport=1, dport=2, seq=1000, flags='PA') / payload
            raw = bytes(p)
            pseudo = struct.pack('>4s4sBBH', raw[26:30], raw[30:34], 0, 6, len(raw) - 34)
            total = sum(struct.unpack('>6H', pseudo))
            total = (total & 0xffff) + (total >> 16)
            total = (total & 0xffff) + (total >> 16)
            raw = raw[:50] + struct.pack('>H', total) + raw[52:]
            vm.transmit(raw, header=struct.pack('<BBHHHHH', 1, 1, 54, size, 34, 16, 0))
            got = b''
            for n in range(4):
                f = Ether(peer.recv())
                want = Ether(bytes(f))
                del want[IP].chksum, want[TCP].chksum
                want = Ether(bytes(want))
                assert (f[IP].chksum, f[TCP].chksum) == (want[IP].chksum, want[TCP].chksum)
                assert f[TCP].seq == 1000 + n * size and f[IP].id == 5 + n
                got += bytes(f[TCP].payload)
            assert got == payload
        sw.gone(name)


def test_client_mode():
    """The switch dials, before the peer is there, again after it went, and after its own end."""
    d = tempfile.mkdtemp(prefix='rw-socket-')
    sw = Switch(f'c1=qemu-stream,client={d}/peer')
    try:
        assert sw.port('c1')['state']['state'] == 'dialling'
        for _ in range(3):
            with contextlib.closing(Stream(f'{d}/peer', server=True)) as x:
                sw.ready('c1')
                assert sw.port('c1')['state']['role'] == 'client'
            os.unlink(f'{d}/peer')
            sw.gone('c1')
        listener = socket.socket(socket.AF_UNIX)
        listener.settimeout(TIMEOUT)
        listener.bind(f'{d}/peer')
        listener.listen(1)
        first, _ = listener.accept()
        sw.proc.kill()
        sw.proc.wait()
        assert first.recv(1) == b''
        sw.start()
        listener.accept()[0].close()
        first.close()
        listener.close()
    finally:
        shutil.rmtree(d)
        sw.close()


def test_killed_switch_leaves_no_trap():
    """Socket files of a switch that was killed are taken over; one in use is refused by name."""
    sw = Switch('s1=qemu-stream,mode=0600', 'd1=qemu-dgram,mode=0600')
    assert stat.S_IMODE(os.stat(sw.sock('s1')).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(sw.sock('d1')).st_mode) == 0o600
    for name in ('s1', 'd1'):
        kind = 'qemu-stream' if name == 's1' else 'qemu-dgram'
        rc, out = sw.ctl('port', 'add', f'x={kind},path={sw.sock(name)}')
        assert rc and 'is in use by' in out, out
    sw.proc.kill()
    sw.proc.wait()
    sw.start()
    for name in ('s1', 'd1'):
        peer = sw.stream(name) if name == 's1' else sw.dgram(name)
        peer.close()
    sw.close()


def test_idle_costs_nothing(sw):
    """No worker wakes up while peers are connected and silent."""
    with pair(sw, 's1', 'd1'):
        def sleeps():
            return [w['sleeps'] for w in json.loads(sw.do('show', 'workers', '--json'))['workers']]

        def quiet():
            a = sleeps()
            time.sleep(0.5)
            return sleeps() == a
        wait_for('half a second without a wake-up', quiet)


@pytest.mark.parametrize('arg, why', [
    ('x=qemu-stream,client=/a,path=/b', 'exclude each other'),
    ('x=qemu-dgram,path=/a,peer=/a', 'same file'),
    ('x=qemu-dgram,client=/a', 'unknown key "client"'),
    ('x=qemu-stream,mtu=10', 'mtu=10 is not a number from 68'),
    ('x=qemu-stream,path=/nonexistent/x', 'directory /nonexistent does not exist'),
    ('x=qemu-dgram,owner=nobody-of-that-name', 'there is no such user'),
])
def test_refusals(sw, arg, why):
    rc, out = sw.ctl('port', 'add', arg)
    assert rc != 0 and why in out, out


@pytest.mark.parametrize('version, reconnect', [
    ('7.2.22', ''), ('8.0.0', ',reconnect=1'), ('9.1.3', ',reconnect=1'), ('9.2.0', ',reconnect-ms=1000'),
    (None, ',reconnect-ms=1000')])
def test_printed_arguments(tmp_path, version, reconnect):
    """What is printed is right for the QEMU that is there."""
    if version:
        qemu = tmp_path / 'qemu-system-x86_64'
        qemu.write_text(f'#!/bin/sh\necho QEMU emulator version {version}\n')
        qemu.chmod(0o755)
    sw = Switch('s1=qemu-stream,mac=52:54:00:00:00:07', f'c1=qemu-stream,client={tmp_path}/c', 'd1=qemu-dgram',
                path=str(tmp_path))
    try:
        wait_for('the lines', lambda: sw.log().count('-device e1000') == 3)
        said = sw.log()
        assert f'server=off,addr.type=unix,addr.path={sw.sock("s1")}{reconnect} ' in said, said
        assert '-device e1000,netdev=net-s1,mac=52:54:00:00:00:07\n' in said
        assert f'server=on,addr.type=unix,addr.path={tmp_path}/c ' in said, said
        assert (f'-netdev dgram,id=net-d1,local.type=unix,local.path={sw.dir}/d1.peer.sock,'
                f'remote.type=unix,remote.path={sw.sock("d1")} ') in said, said
        assert 'vectors=0' not in said  # a remedy for vhost-user
        assert ('No qemu-system-x86_64' in said) == (version is None)
    finally:
        sw.close()
