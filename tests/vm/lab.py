# SPDX-License-Identifier: Apache-2.0
"""A ringway process for tests of whole systems, and waiting for what it shows."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, f'{TOP}/scripts')
import guest as vm  # noqa: E402

BUILD = os.environ.get('RINGWAY_BUILD', f'{TOP}/build')
RINGWAY = os.environ.get('RINGWAY', f'{BUILD}/ringway')
LONG = os.environ.get('RINGWAY_LONG') == '1'


def rounds(short, long):
    """How often a loop runs: once in `make test`, more often in `make test-long`."""
    return long if LONG else short


def image(hardware=False, backports=False):
    """Folder with kernel and initramfs; hardware: with drivers for the cards that QEMU emulates;
    backports: the kernel of this machine's backports."""
    options = [o for o, on in (('hardware', hardware), ('backports', backports)) if on]
    folder = '-'.join([os.environ.get('RINGWAY_GUEST', f'{BUILD}/guest'), *options])
    subprocess.run([f'{TOP}/scripts/guest-image', folder, *(f'--{o}' for o in options)],
                   check=True)
    return folder


def newer_qemu():
    """The QEMU of this machine's backports."""
    folder = f'{BUILD}/qemu-backports'
    subprocess.run([f'{TOP}/scripts/newer-qemu', folder], check=True)
    return vm.Qemu(f'{folder}/qemu-system-x86_64')


def until(cond, what, timeout=60):
    """Wait until cond() is true; returns its value."""
    deadline = time.monotonic() + timeout * vm.SLOW
    while True:
        value = cond()
        if value:
            return value
        assert time.monotonic() < deadline, f'not within {timeout} s: {what}'
        time.sleep(0.05)


class Switch:
    """`ringway run` in a folder of its own."""

    def __init__(self, *args):
        self.args = args
        self.dir = tempfile.mkdtemp(prefix='ringway-vm.')
        self.rundir = f'{self.dir}/run'
        os.mkdir(self.rundir, 0o755)
        self.log = f'{self.dir}/switch.log'
        self.proc = None

    def sock(self, port):
        return f'{self.rundir}/{port}.sock'

    def start(self):
        with open(self.log, 'ab') as log:
            self.proc = subprocess.Popen(
                [RINGWAY, 'run', '--rundir', self.rundir, *self.args], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, preexec_fn=vm.die_with_parent)
        until(self.answers, 'the switch answers on its control socket')
        return self

    def answers(self):
        assert self.proc.poll() is None, f'the switch ended: {self.text()}'
        return self.client('show', 'ports', '--json').returncode == 0

    def client(self, *words):
        return subprocess.run([RINGWAY, *words], text=True, capture_output=True,
                              env={**os.environ, 'RINGWAY_RUNDIR': self.rundir},
                              timeout=60 * vm.SLOW)

    def do(self, *words):
        p = self.client(*words)
        assert p.returncode == 0, f'ringway {" ".join(words)}: {p.returncode}: {p.stderr}{p.stdout}'
        return p.stdout

    def port(self, name):
        """The object of `show ports NAME --json`."""
        return json.loads(self.do('show', 'ports', name, '--json'))['ports'][0]

    def wait_ready(self, *names, timeout=60):
        for name in names:
            until(lambda: self.port(name)['ready'], f'port {name} is ready', timeout)

    def wait_down(self, name):
        until(lambda: not self.port(name)['ready'], f'port {name} is not ready')

    def kill(self):
        self.proc.send_signal(signal.SIGKILL)
        self.proc.wait()

    def text(self):
        with open(self.log, errors='replace') as f:
            return f.read()[-5000:]

    def close(self):
        """Stop it as Ctrl-C does; that it then ends well is part of every test."""
        status = 0
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGINT)
            try:
                status = self.proc.wait(60 * vm.SLOW)
            except subprocess.TimeoutExpired:
                self.kill()
                status = 'none, it hung'
        text = self.text() if self.proc else ''
        shutil.rmtree(self.dir, ignore_errors=True)
        assert status == 0, f'the switch ended with status {status} on Ctrl-C\n{text}'


class Netns:
    """A network namespace of our own, for the host side of a tap."""

    def __init__(self, suffix):
        self.name = f'rwvm{os.getpid()}{suffix}'
        subprocess.run(['ip', 'netns', 'add', self.name], check=True)

    def run(self, *cmd, check=True, timeout=60):
        return subprocess.run(['ip', 'netns', 'exec', self.name, *cmd], text=True, check=check,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=timeout * vm.SLOW).stdout

    def ping_ok(self, ip, count=3, size=56):
        """The host pings ip, after the first answers have come; True if none of count is lost."""
        until(lambda: ' 0 packets received' not in self.ping(ip, 1, size), f'{ip} answers')
        return f' {count} packets received' in self.ping(ip, count, size)

    def ping(self, ip, count, size):
        # busybox's: iputils may not be there
        return self.run('/bin/busybox', 'ping', '-c', str(count), '-W', '5', '-s', str(size), ip,
                        check=False)

    def close(self):
        subprocess.run(['ip', 'netns', 'del', self.name], check=False)


def iperf(src, dst, ip, streams=4, seconds=1):
    """What arrived at dst on each TCP stream from src, as iperf3 reports it."""
    dst.until('! netstat -ltn | grep -q :5201')
    dst.check('iperf3 -s -D -1')
    dst.until('netstat -ltn | grep -q :5201')
    report = json.loads(src.check(f'iperf3 -c {ip} -P{streams} -t {seconds} -J', 120))
    return [s['receiver'] for s in report['end']['streams']]


def frames_per_ring(sw, port):
    return {r['index']: r['frames'] for r in sw.port(port)['state']['rings'] if r['running']}


def use_all_queues(sw, a, b, a_ip, b_ip, pairs):
    """TCP streams both ways until each ring of guest a has carried frames; a is named as its port.

    Its CPUs are given the receive queues' work by RPS, whatever interrupts the card has: then a stream is
    answered by the CPU that its hash says, on that CPU's queue, and the switch has to follow. Which CPU
    a stream lands on is chance."""
    for q in range(pairs):
        a.check(f'echo {(1 << pairs) - 1:x} >/sys/class/net/eth0/queues/rx-{q}/rps_cpus')
    vm.ping(a, b_ip)
    before = frames_per_ring(sw, a.name)
    assert sorted(before) == list(range(2 * pairs))
    for _ in range(12):
        for streams in (iperf(a, b, b_ip), iperf(b, a, a_ip)):
            assert len(streams) == 4 and min(s['bytes'] for s in streams) > 0
        used = {i: n - before[i] for i, n in frames_per_ring(sw, a.name).items()}
        if min(used.values()) > 100:
            return
    assert False, f'frames per ring: {used}'


class Stream:
    """A TCP stream from guest a to guest b that lasts until stop(): what must not be disturbed."""

    def __init__(self, a, b, ip, port=5100):
        self.a, self.b = a, b
        b.check(f'rm -f /tmp/stream; nc -l -p {port} -e sh -c "wc -c >/tmp/stream" &')
        b.until(f'netstat -ltn | grep -q :{port}')
        a.check(f'rm -f /tmp/stop; (while [ ! -e /tmp/stop ]; do dd if=/dev/zero bs=64k count=8; '
                f'done 2>/dev/null; : >/tmp/sent) | nc {ip} {port} >/dev/null & ')

    def stop(self):
        """Ends the stream; bytes that arrived."""
        self.a.check('touch /tmp/stop')
        self.b.until('grep -q . /tmp/stream', 120)
        return int(self.b.check('cat /tmp/stream'))
