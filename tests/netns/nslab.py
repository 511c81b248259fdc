# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, a switch between them and raw sockets in them, for the tests of this folder.

Everything is made by a Lab and taken away by it, whatever the test did:

    with Lab() as lab:
        a, b = lab.netns('a'), lab.netns('b')
        sw = lab.switch(f'tap0=tap,netns={a}', f'tap1=tap,netns={b}')
        nic = lab.nic(a, 'tap0')

Names of namespaces carry a random part, addresses exist inside namespaces only, and what waits,
waits for a condition with a generous limit (wait_for), never for a time.
"""
import atexit
import contextlib
import ctypes
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RINGWAY = os.environ.get('RINGWAY', f'{TOP}/build/ringway')
LIMIT = 60  # seconds that anything may take on a slow machine

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_AUXDATA = 8
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6

libc = ctypes.CDLL(None, use_errno=True)


def why_skip():
    """The reason why namespaces cannot be made here, or None."""
    if os.geteuid():
        return 'needs root, to make network namespaces'
    if not os.path.exists('/dev/net/tun'):
        return 'needs /dev/net/tun (modprobe tun), as root'
    if not shutil.which('ip'):
        return 'needs the command ip (package iproute2)'
    return None


@functools.lru_cache
def binary():
    """The program at a place where every user may run it: the build can be in a private folder."""
    folder = tempfile.mkdtemp(prefix='rw-netns-bin-', dir='/tmp')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.chmod(folder, 0o755)
    path = shutil.copy(RINGWAY, folder)
    os.chmod(path, 0o755)
    return path


def wait_for(what, cond, limit=LIMIT):
    """Call cond until it returns something true, and return that."""
    end = time.monotonic() + limit
    while True:
        got = cond()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f'after {limit} s still not: {what}')
        time.sleep(0.01)


def inside(ns, fn):
    """fn() with this network namespace as the present one. What it opens stays there."""
    if ns is None:
        return fn()
    box = {}

    def work():
        try:
            fd = os.open(f'/run/netns/{ns}', os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(fd, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f'setns {ns}')
            finally:
                os.close(fd)
            box['got'] = fn()
        except BaseException as e:  # handed to the caller, whatever it is
            box['error'] = e

    t = threading.Thread(target=work)
    t.start()
    t.join()
    if 'error' in box:
        raise box['error']
    return box['got']


class Nic:
    """A raw socket on one device: whole Ethernet frames, as the switch sees and makes them."""

    def __init__(self, ns, dev):
        def make():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
            s.bind((dev, ETH_P_ALL))
            return s

        self.sock = inside(ns, make)

    def send(self, frame):
        self.sock.send(bytes(frame))

    def recv(self, limit=LIMIT):
        """The next frame, or None. A tag that the kernel took off is put back in its place."""
        self.sock.settimeout(limit)
        try:
            data, anc, _, _ = self.sock.recvmsg(70000, 256)
        except (socket.timeout, BlockingIOError):
            return None
        for level, kind, aux in anc:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                status, _, _, _, _, tci, tpid = struct.unpack('=IIIHHHH', aux[:20])
                if status & TP_STATUS_VLAN_VALID:
                    tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                    data = data[:12] + struct.pack('!HH', tpid, tci) + data[12:]
        return data

    def expect(self, frame):
        """The very bytes of frame arrive (others may come before: this is a living network)."""
        want = bytes(frame)
        seen = []
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            got = self.recv(max(0.01, end - time.monotonic()))
            if got == want:
                return
            if got is not None:
                seen.append(got)
        raise AssertionError(f'{want[:40].hex()}... ({len(want)} bytes) did not arrive; '
                             f'{[(len(s), s[:20].hex()) for s in seen[:5]]} did')

    def drain(self):
        """What is there now."""
        got = []
        while True:
            f = self.recv(0)
            if f is None:
                return got
            got.append(f)

    def close(self):
        self.sock.close()


class Switch:
    """A running `ringway run`."""

    def __init__(self, lab, ports, prefix=(), options=()):
        self.rundir = tempfile.mkdtemp(prefix='rw-netns-', dir='/tmp')
        os.chmod(self.rundir, 0o777)  # also for a switch that runs as another user
        self.log = open(f'{self.rundir}/log', 'w+')
        self.proc = subprocess.Popen(
            [*prefix, binary(), 'run', '--rundir', self.rundir, *options, *ports],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_for('the switch is up', self.up_or_dead)
        if self.proc.poll() is not None:
            raise AssertionError(f'the switch ended: {self.text()}')

    def up_or_dead(self):
        return self.proc.poll() is not None or (
            'control socket' in self.text() and self.ctl('show', 'ports').returncode == 0)

    def text(self):
        with open(self.log.name) as f:
            return f.read()

    def ctl(self, *words):
        return subprocess.run([binary(), *words, '--rundir', self.rundir], text=True,
                              capture_output=True, timeout=LIMIT)

    def ok(self, *words):
        p = self.ctl(*words)
        assert p.returncode == 0, f'ringway {" ".join(words)}: {p.stderr}'
        return p.stdout

    def port(self, name):
        ports = json.loads(self.ok('show', 'ports', '--json'))['ports']
        return next(p for p in ports if p['name'] == name)

    def drops(self):
        """{(port, reason): frames}"""
        got = json.loads(self.ok('show', 'drops', '--json'))['drops']
        return {(d['port'], d['reason']): d['frames'] for d in got}

    def macs(self):
        return {m['mac']: m['port'] for m in json.loads(self.ok('show', 'macs', '--json'))['macs']}

    def stop(self, sig=signal.SIGINT):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
            try:
                self.proc.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
                raise AssertionError('the switch did not stop') from None
        return self.proc.returncode

    def clean(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        self.log.close()
        shutil.rmtree(self.rundir, ignore_errors=True)


class Lab:
    def __init__(self):
        self.suffix = secrets.token_hex(3)
        self.spaces = []
        self.switches = []
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for sw in self.switches:
            if exc[0]:
                print(f'---- output of the switch\n{sw.text()}----')
            sw.clean()
        self.stack.close()
        for ns in self.spaces:
            subprocess.run(['ip', 'netns', 'del', ns], check=False)

    def netns(self, letter):
        """A namespace without IPv6, so that nobody speaks unasked."""
        name = f'rw-{letter}-{self.suffix}'
        self.run('ip', 'netns', 'add', name)
        self.spaces.append(name)
        inside(name, self.quiet)
        self.ip(name, 'link', 'set', 'lo', 'up')
        return name

    @staticmethod
    def quiet():
        for which in ('all', 'default'):  # of the thread's namespace
            with contextlib.suppress(FileNotFoundError):
                with open(f'/proc/sys/net/ipv6/conf/{which}/disable_ipv6', 'w') as f:
                    f.write('1')

    @staticmethod
    def run(*cmd, **kw):
        p = subprocess.run(cmd, text=True, capture_output=True, timeout=LIMIT, **kw)
        assert p.returncode == 0, f'{" ".join(cmd)}: {p.stdout}{p.stderr}'
        return p.stdout

    def ip(self, ns, *words):
        return self.run('ip', '-n', ns, *words)

    def link(self, ns, dev):
        return json.loads(self.ip(ns, '-j', 'link', 'show', 'dev', dev))[0]

    def mac(self, ns, dev):
        return bytes.fromhex(self.link(ns, dev)['address'].replace(':', ''))

    def switch(self, *ports, **kw):
        sw = Switch(self, ports, **kw)
        self.switches.append(sw)
        return sw

    def nic(self, ns, dev):
        nic = Nic(ns, dev)
        self.stack.callback(nic.close)
        return nic

    def ping(self, ns, to, count=3, size=56):
        return self.run('ip', 'netns', 'exec', ns, 'ping', '-n', '-c', str(count), '-i', '0.05',
                        '-W', str(LIMIT), '-s', str(size), to)

    def netns_process(self, ns):
        """A process that lives in ns until the end of the test."""
        p = subprocess.Popen(['ip', 'netns', 'exec', ns, 'cat'], stdin=subprocess.PIPE)

        def end():
            p.kill()
            p.wait()
            p.stdin.close()
        self.stack.callback(end)
        here = os.stat('/proc/self/ns/net').st_ino
        wait_for('the process is in its namespace',
                 lambda: os.stat(f'/proc/{p.pid}/ns/net').st_ino != here)
        return p

    @staticmethod
    def try_switch(prefix, *ports):
        """A switch that should not come up: its CompletedProcess."""
        with tempfile.TemporaryDirectory(prefix='rw-netns-') as rundir:
            os.chmod(rundir, 0o777)
            return subprocess.run([*prefix, binary(), 'run', '--rundir', rundir, *ports], text=True,
                                  capture_output=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
