# SPDX-License-Identifier: Apache-2.0
"""One real `ringway run` for many tests of vu_front.py against it.

      evil ----+
      mate ----+-- br0 --+-- vm1      vm1 and vm2 pass traffic after each attack: nobody but the
               |         +-- vm2      liar may notice
      anyfs ---+
                 load1 ------ load2   on a bridge of their own: has frames for the worker all the time

One worker polls them all.  During each attack load1 has LOAD frames at once for it, again and again.
Afterwards: the process lives, the neighbours pass traffic, load1 had a turn in every round of the worker
and took its whole budget in each turn in which it had frames, and neither file descriptors nor anonymous
memory have grown.  No clock is looked at: the switch counts rounds, turns and chains.

    RINGWAY   the binary under test
"""
import contextlib
import json
import os
import socket
import subprocess
import threading
import time

import vu_front as vu
from vu_front import Front, Memory, Nic, Ring, exchange, frame, wait_for

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RINGWAY = os.environ.get('RINGWAY', os.path.join(TOP, 'build', 'ringway'))


# What the heap may grow by, in one test as in all of them together: the pools that a worker has from the
# start and touches when the first long chain comes, about 2 MiB, and fragments. What leaks a page in each
# attack fails. A sanitizer keeps what was freed for a while.
HEAP_SLACK_KB = 4 << 10
HEAP_SLACK_SANITIZER_KB = 300 << 10


def mac(n):
    return b'\x52\x54\x00\x00\x01' + bytes([n])


@contextlib.contextmanager
def busy(step):
    """A second thread of the guest that does this again and again."""
    over = threading.Event()

    def run():
        while not over.is_set():
            step()
            time.sleep(0)
    t = threading.Thread(target=run)
    t.start()
    try:
        yield
    finally:
        over.set()
        t.join()


class Load:
    """A pair whose sender has either FRAMES frames for its worker or none: a turn that takes some, but not
    a whole budget of them, is one that was cut short."""

    FRAMES = 4096  # a power of two, and a multiple of the budget

    def __init__(self, lab):
        self.lab = lab
        n = self.FRAMES
        self.a, self.b = (lab.front(name, mac(k), num=n, mem=Memory(4 << 20))
                          for name, k in (('load1', 4), ('load2', 5)))
        for f in self.a, self.b:
            f.tx.close()
            f.tx = Ring(f.mem, 1, n, at=0x80000)
            f.start(buffers=False)
        data = bytes(12) + frame(self.b.mac, self.a.mac, 60)
        self.a.mem.map[1 << 20:(1 << 20) + len(data)] = data
        for r, length, flags in (self.a.tx, len(data), 0), (self.b.rx, 2048, vu.DESC_WRITE):
            for i in range(n):  # all in the same buffer
                r.set_desc(i, r.mem.gpa(1 << 20), length, flags)
                r.mem.set_u16(r.avail + 4 + 2 * i, i)
        self.sent = 0

    def close(self):
        self.a.close()
        self.b.close()

    def drained(self):
        return self.a.mem.u16(self.a.tx.used + 2) == self.a.tx.avail_idx

    def refill(self):
        if self.drained():
            for r in self.b.rx, self.a.tx:
                r.avail_idx = (r.avail_idx + self.FRAMES) & 0xffff
                r.publish()
            self.sent += self.FRAMES
        time.sleep(0.002)

    def counts(self):
        """(rounds of the worker, turns, busy turns, chains of the sender's queue), at rest."""
        def at_rest():
            w = self.lab.rpc('workers.list')['workers'][0]
            q = next(q for q in w['queues'] if (q['port'], q['queue']) == ('load1', 0))
            if w['asleep']:
                return (w['rounds'], q['turns'], q['busy_turns'], q['chains']), q['budget']
        last, now = None, wait_for('a worker at rest', at_rest)
        while now != last:
            time.sleep(0.01)
            last, now = now, wait_for('a worker at rest', at_rest)
        return now

    @contextlib.contextmanager
    def running(self):
        before, budget = self.counts()
        sent = self.sent
        self.refill()
        with busy(self.refill):
            yield
        sent = self.sent - sent
        wait_for('all frames to be taken', self.drained)
        after, _ = self.counts()
        rounds, turns, busy_turns, chains = (b - a for a, b in zip(before, after))
        assert turns == rounds, f'no turn for load1 in {rounds - turns} of {rounds} rounds'
        assert chains == sent
        assert busy_turns * budget == chains, \
            f'{busy_turns} turns for {chains} frames, with a budget of {budget} in each'
        assert self.b.mem.u16(self.b.rx.used + 2) == self.b.rx.avail_idx
        assert not any(self.lab.drops(name) for name in ('load1', 'load2'))


class Lab:
    layout = 'split'  # of the rings of `evil`

    def __init__(self, dir):
        self.dir = dir
        self.run = os.path.join(dir, 'run')
        with open(os.path.join(dir, 'log'), 'wb') as log:
            self.proc = subprocess.Popen(
                [RINGWAY, 'run', '--rundir', self.run, 'evil', 'mate', 'vm1', 'vm2',
                 'anyfs=vhost-user,any-fs=yes', 'load1=vhost-user,bridge=load',
                 'load2=vhost-user,bridge=load'], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for('sockets', lambda: self.proc.poll() is not None or
                 os.path.exists(os.path.join(self.run, 'ringway.sock')))
        assert self.proc.poll() is None, self.log()
        wait_for('answer', lambda: self.try_show())
        self.neighbours = [self.front('vm1', mac(1)).start(), self.front('vm2', mac(2)).start()]
        self.check_neighbours()
        self.load = Load(self)
        with self.load.running():
            pass
        self.heap = self.heap_kb()
        self.fds = self.wait_fds_steady()
        with open(f'/proc/{self.proc.pid}/maps') as f:
            self.slack_kb = HEAP_SLACK_SANITIZER_KB if 'san.so' in f.read() else HEAP_SLACK_KB

    def log(self):
        with open(os.path.join(self.dir, 'log'), errors='replace') as f:
            return f.read()

    def end(self):
        for f in *self.neighbours, self.load:
            f.close()
        self.proc.terminate()
        return self.proc.wait(vu.TIMEOUT)

    def front(self, port, mac_=None, **kw):
        if port == 'evil':
            kw.setdefault('layout', self.layout)
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
        return self.rpc('ports.list', name=port)['ports'][0]

    def state(self, port='evil'):
        return self.show(port)['state']

    def ring(self, idx, port='evil'):
        return next((r for r in self.state(port)['rings'] if r['index'] == idx), None)

    def drops(self, port='evil'):
        return {d['reason']: d['frames'] for d in self.rpc('drops.list', port=port)['drops']}

    def open_fds(self):
        return len(os.listdir(f'/proc/{self.proc.pid}/fd'))

    def wait_fds_steady(self):
        """The switch closes a connection a moment after we did."""
        last = -1
        while last != (last := self.open_fds()):
            time.sleep(0.2)
        return last

    def heap_kb(self):
        """Anonymous memory that the switch has touched: all of it but the files of its guests."""
        with open(f'/proc/{self.proc.pid}/status') as f:
            return next(int(l.split()[1]) for l in f if l.startswith('RssAnon'))

    def check_heap(self, before):
        grown = self.heap_kb() - before
        assert grown <= self.slack_kb, f'the heap grew by {grown} KiB'

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
        before, heap = self.open_fds(), self.heap_kb()
        with self.load.running():
            yield
        self.check_neighbours()
        wait_for('every fd closed', lambda: self.open_fds() <= before)
        self.check_heap(heap)


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
