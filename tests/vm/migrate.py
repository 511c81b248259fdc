# SPDX-License-Identifier: Apache-2.0
"""A running guest that moves between two QEMUs on two switches, under load.

    host (10.0.0.9) -- tap -- switch A == vhost-user ==> switch B
                                |                            |
                              guest (10.0.0.1)  <------->  guest

The two switches are cabled by a vhost-user-frontend port of B that drives port `x` of A.  A UDP stream
with sequence numbers goes into the guest and comes back (udp_stream.py, udp_echo.c); something in the
guest writes its memory all the time.  The next QEMU is started with -S: between the end of the migration
and `cont` neither side runs, and the memory of both is compared, page by page.
"""
import contextlib
import json
import mmap
import os
import select
import shutil
import subprocess
import tempfile
import time

import lab
from lab import vm

MB = 160
RATE = 400       # datagrams per second
UNDER_WAY = 64   # datagrams that are in rings and queues when the guest stops: a burst
PAGE = 4096
ECHO = os.environ.get('RINGWAY_UDP_ECHO', f'{lab.BUILD}/tests/vm/udp_echo')


class Stream:
    def __init__(self, ns, ip, port):
        self.proc = subprocess.Popen(
            ['ip', 'netns', 'exec', ns.name, '/usr/bin/python3', '-B', f'{lab.HERE}/udp_stream.py', ip,
             str(port), str(RATE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=vm.die_with_parent)

    def report(self):
        self.proc.stdin.write('\n')
        self.proc.stdin.flush()
        return self.line()

    def line(self):
        assert select.select([self.proc.stdout], [], [], 60 * vm.SLOW)[0], 'the stream says nothing'
        return json.loads(self.proc.stdout.readline())

    def flows(self):
        """Answers come now; the report, with the longest gap since the last call."""
        gap, first = 0, self.report()
        while True:
            now = self.report()
            gap = max(gap, first['gap_ms'], now['gap_ms'])
            if now['back'] > first['back'] + 20:
                return {**now, 'gap_ms': gap}
            self.waited(now)
            time.sleep(0.02)

    def waited(self, now):
        assert now['silent_ms'] < 60000 * vm.SLOW, f'the stream does not flow: {now}'

    def close(self):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdin.close()
        self.proc.stdout.close()


class Migrating:
    """The guest, wherever it is."""

    def __init__(self, image, dir, device, sides, peer, qemu=(vm.QEMU, vm.QEMU), extra=()):
        """qemu: the one on each side. extra: what all of them are given."""
        self.image, self.device, self.sides, self.peer = image, device, sides, peer
        self.qemu, self.extra = qemu, extra
        self.dir, self.n = dir, 0
        # Memory on tmpfs: a file that can be read here, and that a switch takes.
        self.ram = tempfile.mkdtemp(prefix='ringway-ram.', dir='/dev/shm')
        self.guest = None

    def file(self, n):
        return f'{self.ram}/{n}'

    def make(self, *extra):
        n = self.n
        path = self.file(n)
        memory = ['-m', f'{MB}M', '-object',
                  f'memory-backend-file,id=mem,size={MB}M,mem-path={path},share=on',
                  '-machine', 'memory-backend=mem']
        qemu = self.qemu[n % 2]
        net = vm.vhost_user(self.sides[n % 2].sock('vm'), mac=vm.mac_of(1), device=self.device, qemu=qemu)
        return vm.Guest(f'vm-{n}', self.image, self.dir, net, ip='10.0.0.1/24', memory=memory, qemu=qemu,
                        extra=[*self.extra, *extra]).start()

    def boot(self):
        self.guest = self.make().wait_ready()

    def migrate(self):
        """To the other switch. Times in ms: of the guest standing still, as QEMU says, and all."""
        src, sock = self.guest, f'{self.dir}/incoming'
        self.n += 1
        dst = self.make('-incoming', f'unix:{sock}', '-S')
        try:
            src.qmp('migrate-set-parameters', **{'max-bandwidth': 1 << 28, 'downtime-limit': 100})
            src.qmp('migrate', uri=f'unix:{sock}')
            info = lab.until(lambda: self.ended(src), 'the migration ends', 120)
            assert info['status'] == 'completed', info
            lab.until(lambda: dst.qmp('query-status')['status'] == 'paused', 'the guest has arrived')
            pages = self.compare()
            dst.cont()
            self.guest = dst
            still = self.ms(dst, 'RESUME') - self.ms(src, 'STOP')
            return {'still': still, 'downtime': info['downtime'], 'total': info['total-time'],
                    'pages': info['ram']['transferred'] // PAGE, 'different': pages}
        finally:
            (src if self.guest is dst else dst).close()
            os.unlink(self.file(self.n - 1 if self.guest is dst else self.n))

    @staticmethod
    def ended(src):
        info = src.qmp('query-migrate')
        return info if info.get('status') in ('completed', 'failed', 'cancelled') else None

    @staticmethod
    def ms(guest, name):
        """When that event last came."""
        guest.qmp('query-status')  # its events are read by now
        t = [e['timestamp'] for e in guest.events if e.get('event') == name][-1]
        return t['seconds'] * 1000 + t['microseconds'] / 1000

    def compare(self):
        """How many pages are not the same in both memories; none of them in a frame that came in."""
        maps = []
        for n in (self.n - 1, self.n):
            with open(self.file(n), 'rb') as f:
                maps.append(mmap.mmap(f.fileno(), MB << 20, prot=mmap.PROT_READ))
        a, b = maps
        out = [at for big in range(0, MB << 20, 1 << 20) if a[big:big + (1 << 20)] != b[big:big + (1 << 20)]
               for at in range(big, big + (1 << 20), PAGE) if a[at:at + PAGE] != b[at:at + PAGE]]
        for at in out:
            assert not self.lost_frame(a, b, at), f'the page at {at:#x} lacks what the switch wrote'
        a.close()
        b.close()
        return len(out)

    def lost_frame(self, a, b, at):
        """Does a frame to the guest lie in the page at `at` of a that is another in b?"""
        front = vm.mac_of(1), self.peer  # how each of them begins
        sign = bytes.fromhex(''.join(front).replace(':', '')) + b'\x08\x00\x45'
        text, first = a[max(0, at - 1600):at + PAGE], max(0, at - 1600)
        pos = text.find(sign)
        while pos >= 0:
            begin = first + pos
            end = begin + 14 + int.from_bytes(a[begin + 16:begin + 18], 'big')
            lo, hi = max(begin, at), min(end, at + PAGE)
            if lo < hi and a[lo:hi] != b[lo:hi]:
                return True
            pos = text.find(sign, pos + 1)
        return False

    def close(self):
        if self.guest:
            self.guest.close()
        shutil.rmtree(self.ram, ignore_errors=True)


@contextlib.contextmanager
def sides():
    """Both switches, and the namespace of the host; the picture above."""
    ns, made = lab.Netns('m'), []
    try:
        made.append(lab.Switch('vm', 'x', f'tap0=tap,netns={ns.name}').start())
        made.append(lab.Switch('vm', f'up=vhost-user-frontend,path={made[0].sock("x")}').start())
        ns.run('ip', 'addr', 'add', '10.0.0.9/24', 'dev', 'tap0')
        ns.run('ip', 'link', 'set', 'tap0', 'up')
        lab.until(lambda: made[1].port('up')['state']['state'] == 'connected', 'the cable')
        yield ns, made
    finally:
        for s in reversed(made):
            s.close()
        ns.close()


def start_load(guest, ns):
    """The echo, and somebody who writes memory."""
    guest.check('nc -l -p 5000 -e sh -c "cat >/tmp/part; mv /tmp/part /tmp/echo" &')
    guest.until('netstat -ltn | grep -q :5000')
    with open(ECHO, 'rb') as f:
        subprocess.run(['ip', 'netns', 'exec', ns.name, '/bin/busybox', 'nc', '10.0.0.1', '5000'], stdin=f,
                       check=True, timeout=60 * vm.SLOW)
    guest.until('[ -e /tmp/echo ]')
    guest.check('chmod +x /tmp/echo; /tmp/echo 7 & '
                '(while :; do yes "load $RANDOM" | head -c 2000000 >/tmp/junk; '
                'sleep 0.05; done) &')


class Moving:
    """The guest with its load and its stream."""

    def __init__(self, image, dir, ns, both, device='', **migrating):
        peer = ns.run('cat', '/sys/class/net/tap0/address').strip()
        self.sides, self.stream = both, None
        self.guest = Migrating(image, dir, device, both, peer, **migrating)
        try:
            self.guest.boot()
            start_load(self.guest.guest, ns)
            self.stream = Stream(ns, '10.0.0.1', 7)
            self.stream.flows()
        except BaseException:
            self.close()
            raise

    def migrate(self):
        """Once; what Migrating.migrate() says, and what the stream lost and waited."""
        here = self.sides[self.guest.n % 2]
        before = self.stream.report()
        t = self.guest.migrate()
        after = self.stream.flows()
        assert self.guest.guest.run('true')[0] == 0
        assert here.port('vm')['state']['messages_refused'] == 0, here.text()
        t['sent'] = after['sent'] - before['sent']
        t['lost'] = t['sent'] - (after['back'] - before['back'])
        t['gap'] = after['gap_ms']
        # What was under way when the guest stopped comes on top.
        assert t['lost'] <= max(t['still'], t['gap']) / 1000 * RATE + UNDER_WAY, t
        return t

    def settle(self):
        """Nothing came twice or changed, and it still flows."""
        end = self.stream.report()
        assert end['wrong'] == 0 and end['again'] == 0, end
        lab.until(lambda: self.stream.report()['back'] > end['back'] + RATE // 10, 'it still flows')

    def close(self):
        if self.stream:
            self.stream.close()
        self.guest.close()
