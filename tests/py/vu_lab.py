# SPDX-License-Identifier: Apache-2.0
"""One real `ringway run` for many tests of vu_front.py against it.

      evil ----+
      mate ----+-- br0 --+-- vm1      vm1 and vm2 pass traffic after each attack: nobody but the
               |         +-- vm2      liar may notice
      anyfs ---+

After each test: the process lives, the neighbours pass traffic, and no file descriptor is left once
the liar is gone.  At the end of the module: no memory either.

    RINGWAY   the binary under test
"""
import contextlib
import json
import os
import socket
import subprocess
import time

import vu_front as vu
from vu_front import Front, Nic, exchange, wait_for

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RINGWAY = os.environ.get('RINGWAY', os.path.join(TOP, 'build', 'ringway'))


def mac(n):
    return b'\x52\x54\x00\x00\x01' + bytes([n])


class Lab:
    def __init__(self, dir):
        self.dir = dir
        self.run = os.path.join(dir, 'run')
        with open(os.path.join(dir, 'log'), 'wb') as log:
            self.proc = subprocess.Popen(
                [RINGWAY, 'run', '--rundir', self.run, 'evil', 'mate', 'vm1', 'vm2',
                 'anyfs=vhost-user,any-fs=yes'], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for('sockets', lambda: self.proc.poll() is not None or
                 os.path.exists(os.path.join(self.run, 'ringway.sock')))
        assert self.proc.poll() is None, self.log()
        wait_for('answer', lambda: self.try_show())
        self.neighbours = [self.front('vm1', mac(1)).start(), self.front('vm2', mac(2)).start()]
        self.check_neighbours()
        self.fds = self.wait_fds_steady()
        self.rss = self.rss_kb()

    def log(self):
        with open(os.path.join(self.dir, 'log'), errors='replace') as f:
            return f.read()

    def end(self):
        for f in self.neighbours:
            f.close()
        self.proc.terminate()
        return self.proc.wait(vu.TIMEOUT)

    def front(self, port, mac_=None, **kw):
        return Front(os.path.join(self.run, port + '.sock'), mac_ or mac(9), **kw)

    def rpc(self, method, **params):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(vu.TIMEOUT)
            s.connect(os.path.join(self.run, 'ringway.sock'))
            s.sendall(json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': method,
                                  'params': params}).encode() + b'\n')
            answer = json.loads(s.makefile().readline())
        assert 'result' in answer, answer
        return answer['result']

    def try_show(self):
        with contextlib.suppress(OSError):
            return self.show('evil')

    def show(self, port):
        out = subprocess.run([RINGWAY, 'show', 'ports', port, '--json', '--rundir', self.run],
                             capture_output=True, text=True, timeout=vu.TIMEOUT)
        return json.loads(out.stdout)['ports'][0] if out.returncode == 0 else None

    def state(self, port='evil'):
        return self.show(port)['state']

    def ring(self, idx, port='evil'):
        return next((r for r in self.state(port)['rings'] if r['index'] == idx), None)

    def drops(self, port='evil'):
        out = subprocess.run([RINGWAY, 'show', 'drops', '--json', '--rundir', self.run],
                             capture_output=True, text=True, timeout=vu.TIMEOUT, check=True).stdout
        return {d['reason']: d['frames'] for d in json.loads(out)['drops'] if d['port'] == port}

    def open_fds(self):
        return len(os.listdir(f'/proc/{self.proc.pid}/fd'))

    def wait_fds_steady(self):
        """The switch closes a connection a moment after we did."""
        last = -1
        while last != (last := self.open_fds()):
            time.sleep(0.2)
        return last

    def rss_kb(self):
        with open(f'/proc/{self.proc.pid}/status') as f:
            return next(int(l.split()[1]) for l in f if l.startswith('VmRSS'))

    def check_neighbours(self):
        assert self.proc.poll() is None, 'the switch died:\n' + self.log()
        a, b = self.neighbours
        for n in a, b:
            n.received()  # what a liar flooded must not fill their rings
        exchange(a, b, [60, 1514, 100])
        exchange(b, a, [1514, 60])

    @contextlib.contextmanager
    def attack(self):
        """The block attacks; afterwards nobody else has noticed, and nothing is left."""
        before = self.open_fds()
        yield
        self.check_neighbours()
        wait_for('every fd closed', lambda: self.open_fds() <= before)


class Net:
    """Ports and NICs of one test, on a bridge of its own; ports come and go beside the others."""

    count = 0

    def __init__(self, lab):
        Net.count += 1
        self.lab, self.bridge, self.names, self.nics = lab, f't{Net.count}', [], []

    def port(self, kind='vhost-user', **options):
        name = f'{self.bridge}p{len(self.names)}'
        self.lab.rpc('port.add', name=name, kind=kind, options={'bridge': self.bridge, **options})
        self.names.append(name)
        return name

    def path(self, name):
        return os.path.join(self.lab.run, name + '.sock')

    def front(self):
        """A connection to a new port."""
        f = Front(self.path(self.port()))
        self.nics.append(f)
        return f

    def nic(self, order='qemu', options=None, **how):
        name = self.port(**(options or {}))
        nic = Nic(self.path(name), order, mac=mac(len(self.nics) + 10), **how)
        nic.name = name
        self.nics.append(nic)
        return nic

    def pair(self, **how):
        return self.nic(**how), self.nic(**how)

    def set(self, name, **options):
        for key, value in options.items():
            self.lab.rpc('port.set', name=name, key=key, value=value)

    def state(self, name):
        return self.lab.rpc('ports.list', name=name)['ports'][0]['state']

    def drops(self, name):
        return {d['reason']: d['frames'] for d in self.lab.rpc('drops.list', port=name)['drops']}

    def end(self):
        for nic in self.nics:
            nic.close()
        for name in self.names:
            self.lab.rpc('port.del', name=name)
        self.lab.rpc('bridge.del', name=self.bridge)


def works(lab, evil, mate):
    exchange(evil, mate, [60, 1514])
    exchange(mate, evil, [60, 1514])
