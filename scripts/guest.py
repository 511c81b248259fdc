# SPDX-License-Identifier: Apache-2.0
"""Virtual machines for the demo and the tests: start QEMU, run commands in it, control it.

    g = Guest('vm1', image='build/guest', workdir=dir, net=vhost_user('/run/ringway/vm1.sock'),
              ip='10.0.0.1/24')
    g.start()
    g.wait_ready()
    print(g.check('uname -r'))
    g.close()

The guest is the one that scripts/guest-image makes: scripts/guest-init runs in it and executes what
comes in over its second serial port. That port and QMP are socket pairs which QEMU inherits, so
nothing is lost while nobody listens and no path has to be found. The console goes to
WORKDIR/NAME.console, what QEMU says to WORKDIR/NAME.qemu.

Every wait has a deadline and ends at once when QEMU is gone; SLOW stretches all of them.
"""
import ctypes
import functools
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import time

SLOW = float(os.environ.get('RINGWAY_TEST_SLOW', '1'))  # multiplies every deadline
MARKER = b'READY'
MEMORY_MB = 256


class GuestError(Exception):
    pass


def die_with_parent():
    """For Popen's preexec_fn: even a parent that is killed hard leaves nothing running."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def mac_of(n):
    return f'52:54:00:00:00:{n:02x}'


class Qemu:
    """A QEMU program, and the arguments that depend on its version."""

    def __init__(self, program):
        self.program = program

    @functools.cached_property
    def version(self):
        out = subprocess.run([self.program, '--version'], text=True, stdout=subprocess.PIPE).stdout
        m = re.search(r'version (\d+)\.(\d+)', out)
        if not m:
            raise GuestError(f'{self.program} --version does not say its version: {out}')
        return int(m[1]), int(m[2])

    def reconnect(self, seconds):
        return f'reconnect-ms={1000 * seconds}' if self.version >= (9, 2) else f'reconnect={seconds}'

    def tcg(self):
        # QEMU 7.2 without KVM crashes when a guest starts a vhost-user card with MSI-X, whatever the
        # back-end.
        return ['-global', 'virtio-net-pci.vectors=0'] if self.version < (8, 0) else []


QEMU = Qemu(os.environ.get('RINGWAY_QEMU', 'qemu-system-x86_64'))


def vhost_user(path, server=False, reconnect=0, ident='net0', mac=None, mtu=0, device='', rom=False,
               queues=1, qemu=QEMU):
    """Arguments for qemu that plug one virtio-net card into a vhost-user socket."""
    chardev = f'socket,id=c-{ident},path={path}'
    if server:
        chardev += ',server=on,wait=off'
    elif reconnect:
        chardev += f',{qemu.reconnect(reconnect)}'
    netdev = f'vhost-user,id={ident},chardev=c-{ident}'
    if queues > 1:
        netdev += f',queues={queues}'
        device = f'mq=on,{device}'.rstrip(',')
    return ['-chardev', chardev, '-netdev', netdev, *virtio_net(ident, mac, mtu, device, rom)]


def virtio_net(ident='net0', mac=None, mtu=0, device='', rom=False):
    dev = f'virtio-net-pci,netdev={ident},id=dev-{ident}'
    dev += f',mac={mac}' if mac else ''
    dev += f',host_mtu={mtu}' if mtu else ''
    dev += '' if rom else ',romfile='
    dev += f',{device}' if device else ''
    return ['-device', dev]


def shared_memory(mb=MEMORY_MB, backend='memory-backend-memfd', share=True, room=''):
    """QEMU arguments for a guest's memory; room: ',slots=N,maxmem=M' if more is plugged in later."""
    args = ['-m', f'{mb}M{room}']
    if share:
        args += ['-object', f'{backend},id=mem,size={mb}M,share=on', '-machine', 'memory-backend=mem']
    return args


class Guest:
    def __init__(self, name, image, workdir, net, ip=None, mtu=0, accel='tcg', share=True,
                 boot_kernel=True, who=None, extra=(), memory=None, cmdline='', qemu=QEMU):
        self.name, self.image, self.workdir = name, os.path.abspath(image), workdir
        self.net, self.ip, self.mtu, self.accel = list(net), ip, mtu, accel
        self.boot_kernel, self.extra, self.cmdline = boot_kernel, list(extra), cmdline
        self.qemu = qemu
        self.memory = memory or shared_memory(share=share)  # QEMU arguments
        self.who = who or {}  # Popen arguments that say as whom QEMU runs
        self.plug = None  # somebody else's arguments for memory and network, instead of ours
        self.console = f'{workdir}/{name}.console'
        self.qemu_log = f'{workdir}/{name}.qemu'
        self.proc = self.agent = self.qmp_sock = None
        self.ids = itertools.count(1)
        self.inbox = b''
        self.qmp_inbox = b''

    # ---- life

    def command(self, agent_fd, qmp_fd):
        cmd = [self.qemu.program, '-name', self.name, '-nodefaults', '-no-user-config', '-display', 'none',
               '-machine', 'q35', '-accel', self.accel, '-cpu', 'max',
               '-chardev', f'socket,id=qmp,fd={qmp_fd}', '-mon', 'chardev=qmp,mode=control',
               '-serial', f'file:{self.console}',
               '-chardev', f'socket,id=agent,fd={agent_fd}', '-serial', 'chardev:agent']
        if self.plug is not None:
            return cmd + self.plug + self.boot()
        if self.accel == 'tcg':
            cmd += self.qemu.tcg()
        return cmd + self.memory + self.boot() + self.net + self.extra

    def boot(self):
        if not self.boot_kernel:
            return []
        # Without a clock calibration against devices and without a log on the slow serial port.
        line = 'console=ttyS0 quiet panic=1 no_timer_check net.ifnames=0'
        line += f' rw.ip={self.ip}' if self.ip else ''
        line += f' rw.mtu={self.mtu}' if self.mtu else ''
        line += f' {self.cmdline}' if self.cmdline else ''
        return ['-kernel', f'{self.image}/vmlinuz', '-initrd', f'{self.image}/initramfs',
                '-append', line]

    def start(self):
        self.agent, agent_far = socket.socketpair()
        self.qmp_sock, qmp_far = socket.socketpair()
        self.inbox = self.qmp_inbox = b''
        self.events = []
        with open(self.qemu_log, 'ab') as log:
            self.proc = subprocess.Popen(
                self.command(agent_far.fileno(), qmp_far.fileno()), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, pass_fds=(agent_far.fileno(), qmp_far.fileno()),
                start_new_session=True, preexec_fn=die_with_parent, **self.who)
        agent_far.close()
        qmp_far.close()
        self.qmp('qmp_capabilities')
        return self

    def close(self):
        """Kill QEMU and forget the connection; start() may follow. Safe to call at any time."""
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGKILL)
        if self.proc:
            self.proc.wait()
        for sock in (self.agent, self.qmp_sock):
            if sock:
                sock.close()
        self.proc = self.agent = self.qmp_sock = None

    kill = close

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def logs(self):
        """What people need to see when something went wrong."""
        out = ''
        for path in (self.qemu_log, self.console):
            if os.path.exists(path):
                with open(path, 'rb') as f:
                    text = f.read()[-3000:].decode(errors='replace').strip()
                if text:
                    out += f'-- {os.path.basename(path)}\n{text}\n'
        return out

    # ---- the shell in the guest

    def _more(self, sock, deadline, what):
        left = deadline - time.monotonic()
        ready, _, _ = select.select([sock], [], [], max(0, min(left, 1)))
        if ready:
            try:
                data = sock.recv(65536)
            except ConnectionError:
                data = b''
            if not data:
                rc = self.proc.wait()
                raise GuestError(f'{self.name}: QEMU ended (status {rc}) during: {what}\n{self.logs()}')
            return data
        if left <= 0:
            seen = (self.inbox if sock is self.agent else self.qmp_inbox)[-200:]
            raise GuestError(f'{self.name}: no answer in time: {what}; it said {seen}\n{self.logs()}')
        return b''

    def wait_ready(self, timeout=120):
        """The guest has booted (or rebooted) and takes commands."""
        deadline = time.monotonic() + timeout * SLOW
        while MARKER + b'\n' not in self.inbox:
            self.inbox += self._more(self.agent, deadline, 'boot of the guest')
        self.inbox = self.inbox.split(MARKER + b'\n', 1)[1]
        return self

    def run(self, cmd, timeout=60):
        """Run one line of shell in the guest: (exit status, output)."""
        assert '\n' not in cmd
        deadline = time.monotonic() + timeout * SLOW
        n = next(self.ids)
        self.agent.sendall(f'{n} {cmd}\n'.encode())
        begin, end = f'<{n}\n'.encode(), f'\n>{n} '.encode()
        while True:
            head = self.inbox.find(begin)
            tail = self.inbox.find(end, head) if head >= 0 else -1
            if tail >= 0 and self.inbox.find(b'\n', tail + len(end)) >= 0:
                break
            self.inbox += self._more(self.agent, deadline, cmd)
        out = self.inbox[head + len(begin):tail].decode(errors='replace').strip()
        status, self.inbox = self.inbox[tail + len(end):].split(b'\n', 1)
        return int(status), out

    def check(self, cmd, timeout=60):
        """The same, and a status other than 0 is an error."""
        status, out = self.run(cmd, timeout)
        if status:
            raise GuestError(f'{self.name}: "{cmd}" ended with status {status}: {out}')
        return out

    def until(self, cmd, timeout=60):
        """Repeat cmd until it succeeds."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            status, out = self.run(cmd, timeout)
            if status == 0:
                return out
            if time.monotonic() > deadline:
                raise GuestError(f'{self.name}: "{cmd}" still fails after {timeout} s: {out}')
            time.sleep(0.1)

    def state(self):
        """For the report of a failure: who runs, who is connected, what the card and kernel say."""
        try:
            return f'-- {self.name}\n' + self.run(
                'ps; netstat -tan; ls -l /tmp; free; ifconfig eth0; grep virtio /proc/interrupts; '
                'dmesg | tail -5', 30)[1] + '\n'
        except (GuestError, OSError) as e:
            return f'-- {self.name}: {e}\n'

    # ---- QEMU itself

    def qmp(self, command, timeout=60, **arguments):
        deadline = time.monotonic() + timeout * SLOW
        msg = {'execute': command, **({'arguments': arguments} if arguments else {})}
        self.qmp_sock.sendall(json.dumps(msg).encode() + b'\n')
        while True:
            answer = self._qmp_line(deadline, f'QMP {command}')
            if 'return' in answer:
                return answer['return']
            if 'error' in answer:
                raise GuestError(f'{self.name}: QMP {command}: {answer["error"]["desc"]}')
            self.events.append(answer)

    def _qmp_line(self, deadline, what):
        while b'\n' not in self.qmp_inbox:
            self.qmp_inbox += self._more(self.qmp_sock, deadline, what)
        line, self.qmp_inbox = self.qmp_inbox.split(b'\n', 1)
        return json.loads(line)

    def event(self, name, timeout=60):
        """Wait for an event of QEMU, or take the oldest one that came already; its data."""
        deadline = time.monotonic() + timeout * SLOW
        while not any(e.get('event') == name for e in self.events):
            self.events.append(self._qmp_line(deadline, f'event {name}'))
        found = next(e for e in self.events if e.get('event') == name)
        self.events.remove(found)
        return found.get('data', {})

    def reset(self):
        """Press the reset button and wait for the guest to come back."""
        self.inbox = b''
        self.qmp('system_reset')
        return self.wait_ready()

    def stop(self):
        self.qmp('stop')

    def cont(self):
        self.qmp('cont')


def kvm_boots(image, who=None, seconds=12):
    """Does this machine boot a stock kernel under KVM? That /dev/kvm opens proves nothing."""
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory(prefix='ringway-kvm.') as d:
        if who:
            os.chown(d, who['user'], who['group'])
        g = Guest('probe', image, d, net=[], accel='kvm', who=who)
        try:
            g.start()
            g.wait_ready(seconds / SLOW)
            return True
        except (GuestError, OSError):
            return False
        finally:
            g.close()


# ---- steps that the demo and the tests share

def ping(a, ip, count=3, timeout=60, size=56):
    """a pings ip; returns the round trips' summary line."""
    a.until(f'ping -c 1 -W 1 {ip} >/dev/null', timeout)
    out = a.check(f'ping -c {count} -i 0.2 -W 5 -s {size} {ip}', timeout)
    if f' {count} packets received' not in out:
        raise GuestError(f'{a.name}: ping {ip} lost frames: {out}')
    return out.splitlines()[-1]


def make_data(guest, mib, path='/tmp/out'):
    return guest.check(f'dd if=/dev/urandom of={path} bs=64k count={mib * 16} 2>/dev/null '
                       f'&& md5sum <{path}', 300).split()[0]


def transfer(src, dst, dst_ip, port=5001, path='/tmp/out', timeout=300):
    """Send a file over TCP; returns (md5 of what arrived, seconds)."""
    # The receiver must not close its own direction early: nc on the other side would stop sending.
    dst.check(f'rm -f /tmp/sum; nc -l -p {port} -e sh -c "md5sum >/tmp/sum.part; '
              'mv /tmp/sum.part /tmp/sum" &')
    dst.until(f'netstat -ltn | grep -q :{port}')
    start = time.monotonic()
    try:
        src.check(f'nc {dst_ip} {port} <{path} >/dev/null', timeout)
        dst.until('[ -e /tmp/sum ]', timeout)
    except GuestError as e:
        raise GuestError(f'{e}\n{src.state()}{dst.state()}') from e
    return dst.check('cat /tmp/sum').split()[0], time.monotonic() - start
