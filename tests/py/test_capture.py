# SPDX-License-Identifier: Apache-2.0
"""`ringway capture` against a real switch: what is in the file is what the front-ends sent and got,
byte by byte; it ends cleanly however it ends; and the port does not notice.
"""
import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import types

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import rdpcap

import vu_front as vu
from vu_front import frame, wait_for
from vu_lab import RINGWAY, mac

IN, OUT = 1, 2  # of epb_flags


class Capture:
    """A running `ringway capture`; it has begun when this returns."""

    def __init__(self, lab, port, *args, begun=True):
        self.lab, self.port, self.file = lab, port, os.path.join(lab.dir, 'capture.pcapng')
        self.p = subprocess.Popen(
            [RINGWAY, 'capture', port, *args, '--rundir', lab.run], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if begun:
            line = self.p.stderr.readline().decode()
            assert line.startswith(f'capturing on {port}'), line + self.p.stderr.read().decode()

    def end(self, sig=signal.SIGINT, status=0):
        """The process ends (after this signal, if any); what it printed on both."""
        if sig:
            self.p.send_signal(sig)
        out, err = self.p.communicate(timeout=vu.TIMEOUT)
        assert self.p.returncode == status, err.decode()
        return out, err.decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.p.poll() is None:
            self.p.kill()
        self.p.communicate(timeout=vu.TIMEOUT)


def options(data):
    """{code: value} of an option list."""
    out = {}
    while data:
        code, n = struct.unpack_from('<HH', data)
        if code == 0:
            assert data[4:] == b''
            break
        out[code] = data[4:4 + n]
        data = data[4 + (n + 3) // 4 * 4:]
    return out


class Frame:
    def __init__(self, body):
        _, hi, lo, cap, self.len = struct.unpack_from('<IIIII', body)
        self.time = (hi << 32 | lo) / 1e9
        self.bytes = body[20:20 + cap]
        o = options(body[20 + (cap + 3) // 4 * 4:])
        self.dir = struct.unpack('<I', o[2])[0] & 3
        self.comment = o.get(1, b'').decode()


def read_pcapng(data):
    """(frames, options of the interface, of the statistics or None); every byte is accounted for."""
    frames, interface, stats, first = [], None, None, True
    while data:
        kind, n = struct.unpack_from('<II', data)
        assert n % 4 == 0 and n >= 12 and struct.unpack_from('<I', data, n - 4)[0] == n
        body, data = data[8:n - 4], data[n:]
        assert (kind == 0x0a0d0d0a) == first
        if first:
            assert struct.unpack_from('<IHH', body) == (0x1a2b3c4d, 1, 0)
            first = False
        elif kind == 1:
            interface = {'linktype': struct.unpack_from('<H', body)[0],
                         'snaplen': struct.unpack_from('<I', body, 4)[0], **options(body[8:])}
        elif kind == 6:
            frames.append(Frame(body))
        else:
            assert kind == 5 and not data
            stats = options(body[12:])
    return frames, interface, stats


def read_file(path):
    with open(path, 'rb') as f:
        return read_pcapng(f.read())


def recv_own(nic):
    """The next frame that is for it: others were flooded."""
    while (f := nic.recv())[:6] != nic.mac:
        pass
    return f


def talk(a, b, sizes):
    """Frames each way; [(direction as seen from a, bytes)] in order."""
    said = []
    for seq, size in enumerate(sizes):
        for x, y, d in ((a, b, IN), (b, a, OUT)):
            f = frame(y.mac, x.mac, size, seq)
            x.send_frames(f)
            assert recv_own(y) == f
            said.append((d, f))
    return said


def captures(lab, port):
    return lab.rpc('ports.list', name=port)['ports'][0]['captures']


@pytest.fixture
def file(lab):
    path = os.path.join(lab.dir, 'out.pcapng')
    yield path
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


SIZES = [14, 60, 61, 179, 180, 181, 192, 1000, 1514]


# --- what is in the file ----------------------------------------------------------------------------

def test_both_directions(lab, net, file):
    a, b = net.pair()
    begun = time.time()
    with Capture(lab, a.name, '-w', file) as c:
        said = talk(a, b, SIZES)
        out, err = c.end()
    frames, interface, stats = read_file(file)
    assert [(f.dir, f.bytes) for f in frames] == said
    assert [f.len for f in frames] == [len(f) for _, f in said]
    times = [f.time for f in frames]
    assert times == sorted(times) and begun - 1 < times[0] and times[-1] < time.time() + 1
    assert all(f.comment == '' for f in frames)
    assert interface == {'linktype': 1, 'snaplen': 262144, 2: a.name.encode(), 9: b'\x09'}
    assert stats == {4: struct.pack('<Q', len(said)), 5: bytes(8)}
    assert out == b'' and f'{len(said)} frames captured\n0 dropped by the switch' in err
    # readers that are not ours
    assert [bytes(p) for p in rdpcap(file)] == [f for _, f in said]
    text = subprocess.run(['tcpdump', '-r', file, '-nn', '-t', '-e'], capture_output=True, text=True,
                          check=True, env={'PATH': os.environ['PATH'] + ':/usr/sbin'}).stdout
    assert re.findall(r'^(\S+) > (\S+),.* length (\d+)', text, re.M) == [
        (f[6:12].hex(':'), f[:6].hex(':'), str(len(f))) for _, f in said]


def test_many_pieces_and_jumbo(lab, net, file):
    """A frame that lies in pieces all over the guest's memory, and one of 65,000 bytes."""
    a, b = net.nic(), net.nic(rx_size=0x10000, bufs=8, num=64)
    said = [frame(b.mac, a.mac, 3000, 5), frame(b.mac, a.mac, 65000, 6)]
    with Capture(lab, a.name, '-w', file, '-c', '2') as c:
        a.send_frames(said[0], cuts=[12, 5, 100, 300, 1, 700])
        a.send_frames(said[1])
        c.end(sig=None)
    assert [f.bytes for f in read_file(file)[0]] == said


def test_filter(lab, net, file):
    a, b, c = net.nic(), net.nic(), net.nic()
    text = f'ether host {b.mac.hex(":")} and len > 100 and ether[600] & 1 == 1'
    with Capture(lab, a.name, '-w', file, *text.split()) as cap:
        said = talk(a, b, [60, 700, 701, 702])
        talk(a, c, [60, 700, 701])
        cap.end()
    frames, interface, _ = read_file(file)
    want = [(d, f) for d, f in said if len(f) > 100 and f[600] & 1]
    assert 0 < len(want) < 6 and [(f.dir, f.bytes) for f in frames] == want
    assert interface[11] == b'\0' + text.encode()


@pytest.mark.parametrize('word, want', [('in', {IN}), ('out', {OUT}), ('inout', {IN, OUT})])
def test_direction(lab, net, file, word, want):
    a, b = net.pair()
    with Capture(lab, a.name, '-w', file, '-Q', word) as c:
        said = talk(a, b, SIZES)
        c.end()
    assert [(f.dir, f.bytes) for f in read_file(file)[0]] == [s for s in said if s[0] in want]


@pytest.mark.parametrize('snaplen', [1, 96, 200])
def test_snaplen(lab, net, file, snaplen):
    a, b = net.pair()
    with Capture(lab, a.name, '-w', file, '-s', str(snaplen)) as c:
        said = talk(a, b, SIZES)
        c.end()
    frames, interface, _ = read_file(file)
    assert [(f.bytes, f.len) for f in frames] == [(f[:snaplen], len(f)) for _, f in said]
    assert interface['snaplen'] == snaplen


def test_count(lab, net, file):
    a, b = net.pair()
    with Capture(lab, a.name, '-w', file, '-c', '5') as c:
        said = talk(a, b, [60] * 10)
        _, err = c.end(sig=None)
    assert [(f.dir, f.bytes) for f in read_file(file)[0]] == said[:5]
    assert '5 frames captured' in err
    wait_for('the tap point to go', lambda: captures(lab, a.name) == 0)


def test_duration(lab, net, file):
    a, b = net.pair()
    begun = time.monotonic()
    with Capture(lab, a.name, '-w', file, '--duration', '1') as c:
        said = talk(a, b, [60])
        c.end(sig=None)
    assert time.monotonic() - begun >= 1
    assert [(f.dir, f.bytes) for f in read_file(file)[0]] == said


def test_pipe(lab, net):
    """Frames come out of a pipe at once, and whoever closes it ends the capture."""
    a, b = net.pair()
    with Capture(lab, a.name, '-w', '-') as c:
        fd, data = c.p.stdout.fileno(), b''
        said = talk(a, b, [60, 1000])
        while sum(len(f) for _, f in said) > len(data) - 4 * 60:
            data += os.read(fd, 65536)
        frames, _, stats = read_pcapng(data)
        assert [(f.dir, f.bytes) for f in frames] == said and stats is None
        c.p.stdout.close()
        assert c.p.wait(vu.TIMEOUT) == 0
    wait_for('the tap point to go', lambda: captures(lab, a.name) == 0)


def test_file_at_once(lab, net, file):
    """-U: frames are in the file while the capture goes on."""
    a, b = net.pair()
    with Capture(lab, a.name, '-w', file, '-U') as c:
        said = talk(a, b, [60, 1000])
        wait_for('the frames', lambda: [(f.dir, f.bytes) for f in read_file(file)[0]] == said)
        c.end()


def test_text(lab, net):
    a, b = net.pair()
    head = b.mac + a.mac
    ip4 = bytes.fromhex('45000028000040004006000001020304' '0a00000f') + struct.pack('>HH', 80, 1234)
    ip6 = bytes.fromhex('6000000000081140') + bytes(15) + b'\x01' + bytes(15) + b'\x02' + \
        struct.pack('>HH', 53, 5353)
    arp = bytes.fromhex('0001080006040001') + a.mac + bytes([10, 0, 0, 1]) + bytes(6) + \
        bytes([10, 0, 0, 2])
    names = f'{a.mac.hex(":")} > {b.mac.hex(":")}'
    cases = [
        (head + b'\x08\x00' + ip4 + bytes(16), ', IPv4, length 54: 1.2.3.4.80 > 10.0.0.15.1234: TCP'),
        (head + b'\x86\xdd' + ip6 + bytes(4), ', IPv6, length 62: ::1.53 > ::2.5353: UDP'),
        (head + b'\x08\x06' + arp, ', ARP, length 42: who has 10.0.0.2, tell 10.0.0.1'),
        (head + b'\x81\x00\x00\x05\x08\x00' + ip4[:9] + b'\x2f' + ip4[10:],
         ', vlan 5, IPv4, length 42: 1.2.3.4 > 10.0.0.15: protocol 47'),
        (head + b'\x88\xb5', ', length 14: ethertype 0x88b5'),
        (head + b'\x00\x10' + bytes(46), ', 802.3, length 60'),
        (head + b'\x08\x00' + ip4[:19], ', IPv4, length 33'),
    ]
    with Capture(lab, a.name) as c:
        for f, _ in cases:
            a.send_frames(f)
            assert b.recv() == f
        out, _ = c.end()
    lines = out.decode().splitlines()
    for line, (f, text) in zip(lines, cases, strict=True):
        assert re.fullmatch(r'\d\d:\d\d:\d\d\.\d{6} in  ' + re.escape(names + text), line), line


def test_offloads(lab, net, file):
    """A segmented frame is recorded whole, with what is left to do on it in its comment; the port that
    lacks the offload is handed the same."""
    csum, tso4, ecn = 1 << 0, 1 << 11, 1 << 13
    a, b = net.nic(features=vu.Nic.FEATURES | csum | tso4 | ecn), net.nic()
    vu.exchange(a, b, [60])
    vu.exchange(b, a, [60])
    tcp = (Ether(src=a.mac, dst=b.mac) / IP(src='10.0.0.1', dst='10.0.0.2') /
           TCP(sport=1, dport=2, flags='A', chksum=0) / Raw(bytes(5000)))
    udp = (Ether(src=a.mac, dst=b.mac) / IP(src='10.0.0.1', dst='10.0.0.2') /
           UDP(sport=1, dport=2, chksum=0) / Raw(bytes(100)))
    said = [bytes(tcp), bytes(udp), bytes(udp)]
    with Capture(lab, a.name, '-w', file, '-Q', 'in') as c, Capture(lab, b.name, '-Q', 'out') as d:
        a.transmit(said[0], header=struct.pack('<BBHHHHH', 1, 0x81, 54, 1448, 34, 16, 0))
        a.transmit(said[1], header=struct.pack('<BBHHHHH', 1, 0, 0, 0, 34, 6, 0))
        a.transmit(said[2])
        assert len(b.recv(6)) == 6
        c.end()
        out, _ = d.end()
    frames = read_file(file)[0]
    comments = ['offload: checksum from byte 34 into byte 50, TCPv4 (ECN) segments of 1448 bytes',
                'offload: checksum from byte 34 into byte 40', '']
    assert [f.bytes for f in frames] == said and [f.comment for f in frames] == comments
    lines = out.decode().splitlines()
    assert [line.partition('; ')[2] for line in lines] == comments


def test_tags_are_as_the_port_has_them(lab, net, file):
    """From a trunk to an access port: tagged here, untagged there; filters see the same."""
    a, b = net.nic(options={'trunk': '10+20'}), net.nic(options={'vlan': '10'})
    plain = frame(b.mac, a.mac, 100)
    tagged, other = (plain[:12] + b'\x81\0\0' + bytes([v]) + plain[12:] for v in (10, 20))
    with Capture(lab, a.name, '-w', file, 'vlan', '10') as c, \
            Capture(lab, b.name, '-w', file + '2', 'not', 'vlan') as d, \
            Capture(lab, a.name, '-w', file + '3', '--drops') as e:
        a.send_frames(other, tagged)
        assert b.recv() == plain
        for x in (c, d, e):
            x.end()
    assert [(f.dir, f.bytes) for f in read_file(file)[0]] == [(IN, tagged)]
    assert [(f.dir, f.bytes) for f in read_file(file + '2')[0]] == [(OUT, plain)]
    dropped = read_file(file + '3')[0]
    assert [(f.dir, f.bytes) for f in dropped] == [(IN, other)]
    assert dropped[0].comment.startswith('dropped, vlan-no-ports: ')
    os.unlink(file + '2')
    os.unlink(file + '3')


# --- drops ------------------------------------------------------------------------------------------

def test_drops_only(lab, net, file):
    """Frames for a guest with two buffers: the third is dropped, and the file says why."""
    a, b = net.nic(), net.nic(bufs=2)
    said = [frame(b.mac, a.mac, 100 + i, i) for i in range(4)]
    with Capture(lab, b.name, '-w', file, '--drops', '-c', '2') as c:
        for f in said:
            a.send_frames(f)
        c.end(sig=None)
    got = b.recv(2)
    assert got == said[:2]
    frames = read_file(file)[0]
    assert [(f.dir, f.bytes) for f in frames] == [(OUT, f) for f in said[2:]]
    assert {f.comment for f in frames} == {
        f'dropped, no-buffers: {b.name} has no receive buffers'}


def test_drops_of_what_a_guest_sends(lab, net, file):
    a, b = net.pair()
    reserved = frame(b'\x01\x80\xc2\0\0\x0e', a.mac, 90)
    with Capture(lab, a.name, '--drops') as text, Capture(lab, a.name, '--drops', '-w', file) as c:
        talk(a, b, [60])
        a.send_frames(reserved)
        a.send_frames(frame(b.mac, b'\x03' + a.mac[1:], 60))
        wait_for('both drops', lambda: len(net.drops(a.name)) == 2)
        a.transmit(b'\0' * 5)
        a.wait_used(a.tx)
        out, _ = text.end()
        c.end()
    frames = read_file(file)[0]
    assert [(f.dir, len(f.bytes), f.len, f.comment.split(':')[0]) for f in frames] == [
        (IN, 90, 90, 'dropped, reserved'), (IN, 60, 60, 'dropped, src-multicast'),
        (IN, 0, 0, 'dropped, runt')]
    assert frames[0].bytes == reserved
    assert re.search(rf'0x88b5; dropped, reserved: {a.name} sent a frame to a reserved', out.decode())
    assert len(rdpcap(file)) == 3


# --- how it ends ------------------------------------------------------------------------------------

def test_killed_reader(lab, net):
    """kill -9: the switch takes the tap point out and gives everything back."""
    a, b = net.pair()
    before = lab.open_fds()
    for _ in range(5):
        with Capture(lab, a.name, '-w', '/dev/null') as c:
            assert captures(lab, a.name) == 1
            talk(a, b, [60, 1514])
            c.p.kill()
            c.p.wait(vu.TIMEOUT)
            wait_for('the tap point to go', lambda: captures(lab, a.name) == 0)
            talk(a, b, [60, 1514])
    wait_for('every fd closed', lambda: lab.open_fds() <= before)


def test_stopped_reader_loses_frames(lab, net, file):
    """A reader that stands still costs itself frames, the port none."""
    a, b = net.pair()
    with Capture(lab, a.name, '-w', file, '-B', '256', '-Q', 'in') as c:
        c.p.send_signal(signal.SIGSTOP)
        said = [f for d, f in talk(a, b, [1514] * 300) if d == IN]
        c.p.send_signal(signal.SIGCONT)
        _, err = c.end()
    n, lost = map(int, re.search(r'(\d+) frames captured\n(\d+) dropped', err).groups())
    assert lost > 100 and n + lost == len(said)
    frames, _, stats = read_file(file)
    assert [f.bytes for f in frames] == said[:n]
    assert struct.unpack('<Q', stats[5])[0] == lost


def test_port_goes_away(lab, net, file):
    a, b = net.pair()
    with Capture(lab, a.name, '-w', file) as c:
        said = talk(a, b, [60, 61])
        lab.rpc('port.del', name=a.name)
        _, err = c.end(sig=None, status=1)
        lab.rpc('port.add', name=a.name, options={'bridge': net.bridge})
    assert f'ringway: port {a.name} was removed\n' in err
    frames, _, stats = read_file(file)
    assert [(f.dir, f.bytes) for f in frames] == said and stats


def test_switch_goes_away(tmp_path, file):
    """It is stopped, or killed: the file is whole."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        run = str(tmp_path / how.name)
        p = subprocess.Popen([RINGWAY, 'run', '--rundir', run, 'd=dummy'], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        here = types.SimpleNamespace(dir=str(tmp_path), run=run)

        def answers():
            with contextlib.suppress(OSError), connect(here):
                return True
        try:
            wait_for('the switch', answers)
            with Capture(here, 'd', '-w', file) as c:
                p.send_signal(how)
                p.wait(vu.TIMEOUT)
                _, err = c.end(sig=None, status=1)
        finally:
            p.kill()
            p.wait()
        assert f'ringway: the switch in {run} ended\n' in err
        assert read_file(file)[0] == []


# --- nobody notices ---------------------------------------------------------------------------------

def test_on_and_off_under_traffic(lab, net):
    """Frames in both directions while captures come and go: none is lost, none overtakes."""
    a, b = net.pair()
    done, rounds = threading.Event(), 0

    def toggle():
        nonlocal rounds
        while not done.is_set():
            with Capture(lab, a.name, '-w', '/dev/null', *(['--drops'] if rounds % 2 else [])) as c:
                with Capture(lab, b.name, '-w', '/dev/null', 'ether', 'proto', '0x88b5') as d:
                    d.end(signal.SIGTERM)
                c.end()
            rounds += 1

    t = threading.Thread(target=toggle)
    t.start()
    seq, end = 0, time.monotonic() + vu.TIMEOUT
    try:
        while rounds < 10:
            assert time.monotonic() < end and t.is_alive()
            for x, y in ((a, b), (b, a)):
                said = [frame(y.mac, x.mac, 60 + (seq + i) % 1400, seq + i) for i in range(8)]
                x.send_frames(*said)
                assert y.recv(8) == said
            seq += 8
    finally:
        done.set()
        t.join()
    assert captures(lab, a.name) == captures(lab, b.name) == 0
    assert net.drops(a.name) == net.drops(b.name) == {}


def test_several_at_once(lab, net):
    a, b = net.pair()
    with contextlib.ExitStack() as stack:
        files = [os.path.join(lab.dir, f'several{i}') for i in range(8)]
        caps = [stack.enter_context(Capture(lab, a.name, '-w', f)) for f in files]
        assert captures(lab, a.name) == 8
        with Capture(lab, a.name, begun=False) as ninth:
            _, err = ninth.end(sig=None, status=1)
        assert err == f'ringway: port {a.name}: there are 8 captures of it already\n'
        said = talk(a, b, SIZES)
        for c, f in zip(caps, files):
            c.end()
            assert [(x.dir, x.bytes) for x in read_file(f)[0]] == said
            os.unlink(f)


# --- words ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('args, status, says', [
    (['vm1', 'tcp', 'prot', '80'], 2, 'filter "tcp prot 80": '),
    (['vm1', 'inbound'], 1, 'a direction is not part of the filter'),
    ([], 2, 'capture which port?'),
    (['vm1', '-Q', 'up'], 2, '-Q "up" is none of in, out, inout'),
    (['vm1', '-c', '0'], 2, '-c "0" is not a number'),
    (['vm1', '-s', '1x'], 2, '-s "1x" is not a number'),
    (['vm1', '-B', '100'], 2, '-B 100 is not a power of two from 256 to 65536'),
    (['vm1', '--durtion', '1'], 2, 'did you mean "--duration"?'),
    (['vm9'], 1, 'there is no port vm9'),
    (['vm1', '-w', '/nonexistent/x'], 1, 'cannot write /nonexistent/x: No such file'),
    (['vm1', 'ip6', 'protochain', '6'], 1, 'filter: instruction'),
])
def test_usage_errors(lab, args, status, says):
    r = subprocess.run([RINGWAY, 'capture', *args, '--rundir', lab.run], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=vu.TIMEOUT)
    assert r.returncode == status and says in r.stderr, r.stderr
    assert captures(lab, 'vm1') == 0


# --- the control socket -----------------------------------------------------------------------------

def connect(lab):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(vu.TIMEOUT)
    s.connect(os.path.join(lab.run, 'ringway.sock'))
    return s


def start(**params):
    return {'jsonrpc': '2.0', 'id': 1, 'method': 'capture.start', 'params': {'port': 'vm1', **params}}


def call(s, request):
    """(answer, fds)"""
    s.sendall(json.dumps(request).encode() + b'\n')
    data, fds = b'', []
    while not data.endswith(b'\n'):
        more, new, _, _ = socket.recv_fds(s, 65536, 8)
        assert more, 'closed'
        data += more
        fds += new
    return json.loads(data), fds


def close_all(fds):
    for fd in fds:
        os.close(fd)


def test_connection_is_the_capture(lab):
    before = lab.open_fds()
    with connect(lab) as s:
        answer, fds = call(s, start())
        assert len(fds) == 2 and os.fstat(fds[0]).st_size == answer['result']['bytes']
        assert {'name': 'no-buffers', 'text': 'vm1 has no receive buffers'} in \
            answer['result']['reasons']
        assert captures(lab, 'vm1') == 1
        s.sendall(b'{"jsonrpc": "2.0", "id": 2, "method": "version"}\n')  # ends it
        assert s.recv(100) == b''
        close_all(fds)
    assert captures(lab, 'vm1') == 0
    wait_for('every fd closed', lambda: lab.open_fds() <= before)


@pytest.mark.parametrize('batch', [False, True])
def test_refused_and_leftover_captures(lab, batch):
    before = lab.open_fds()
    with connect(lab) as s:
        for params, says in (({'filter': '1,6 0 0'}, 'filter: '), ({'direction': 'up'}, 'direction'),
                             ({'snaplen': 0}, 'snaplen'), ({'buffer': 300000}, 'power of two'),
                             ({'buffer': 1}, 'buffer'), ({'drops': 1}, 'true or false'),
                             ({'port': 'vm9'}, 'no port vm9'), ({'snaplne': 1}, 'snaplen')):
            answer, fds = call(s, [start(**params)] if batch else start(**params))
            answer = answer[0] if batch else answer
            assert says in answer['error']['message'] and not fds
        assert captures(lab, 'vm1') == 0
        if batch:  # the second one is refused
            answer, fds = call(s, [start(), start(direction='in')])
            assert 'result' in answer[0] and 'one capture' in answer[1]['error']['message']
            assert len(fds) == 2 and captures(lab, 'vm1') == 1
            close_all(fds)
        else:  # a notification has no answer that the memory could come with
            request = start()
            del request['id']
            s.sendall(json.dumps(request).encode() + b'\n')
            assert s.recv(100) == b''
    wait_for('the tap point to go', lambda: captures(lab, 'vm1') == 0)
    wait_for('every fd closed', lambda: lab.open_fds() <= before)


def test_scribbling_reader(lab, net):
    """Whoever holds the memory writes all over it while frames come: the port does not notice."""
    a, b = net.pair()
    with connect(lab) as s:
        answer, fds = call(s, {**start(), 'params': {'port': a.name, 'buffer': 256 << 10}})
        size = answer['result']['bytes']
        for seed in range(6):
            os.pwrite(fds[0], bytes([seed * 51]) * size, 0)
            with contextlib.suppress(OSError):
                os.ftruncate(fds[0], 4096)
            talk(a, b, [60, 1514, 60])
        assert os.fstat(fds[0]).st_size == size
        close_all(fds)


def test_other_ports_are_not_in_it(lab, net, file):
    """Only this port: what passes between others is not recorded."""
    a, b, c = net.nic(), net.nic(), net.nic()
    talk(a, b, [60])
    talk(c, b, [60])
    with Capture(lab, c.name, '-w', file) as cap:
        talk(a, b, [60, 700])
        flood = frame(b'\xff' * 6, a.mac, 64)
        a.send_frames(flood)
        while c.recv() != flood:  # what was flooded before
            pass
        cap.end()
    assert [(f.dir, f.bytes) for f in read_file(file)[0]] == [(OUT, flood)]
