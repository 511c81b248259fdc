# SPDX-License-Identifier: Apache-2.0
"""The switch killed with SIGKILL again and again, while frames go round.

    Survivor   a modelled front-end that listens, and whose driver goes on when the switch comes back
    Probe      one that sends numbered frames, and checks what comes back: bytes, losses, repetitions
    kill_loop  kills and restarts, and says what was lost and how long it took

    probe --- ringway --- peer, which sends each frame back

A kill hits the one burst that the worker is busy with, so at most BURST frames are lost and BURST
repeated, beside those that the new switch drops because the other port is not there yet, which it
counts.
"""
import array
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import time

import vu_front as vu
from vu_front import Nic, PackedRing, wait_for

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RINGWAY = os.environ.get('RINGWAY', os.path.join(TOP, 'build', 'ringway'))
LONG = os.environ.get('RINGWAY_LONG') == '1'
KILLS = int(os.environ.get('RINGWAY_KILLS', 1000 if LONG else 100))
BURST = 64
WINDOW = 200  # frames under way: fewer than a ring has buffers, so that none is dropped for want of one


class Survivor(Nic):
    """Modelled after cloud-hypervisor: keeps the inflight region and gives it back, takes up the
    features that were acknowledged, and names the available index as base.  Without a region
    (inflight=False) a packed ring's base is what it was at the first start, as QEMU has it."""

    SLOT, SLOTS = 2048, 256

    def __init__(self, path, inflight=True, **how):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.listener.settimeout(vu.TIMEOUT)
        self.inflight, self.region, self.region_fd, self.empty = inflight, None, -1, 0
        self.starts = 0
        super().__init__(None, order=None, num=256, **how)
        self.first_base = [r.base for r in self.rings]
        self.rx.reap = self.reap_rx

    def connect(self, path):
        self.s = socket.socket(socket.AF_UNIX)  # until the switch dials

    def reap_rx(self):
        """Without buffers that came back empty: the burst that they belonged to was cut off."""
        out = []
        for head, n in type(self.rx).reap(self.rx):
            if n:
                out.append((head, n))
            else:
                self.empty += 1
                self.rx.add(self.rx.give_back(head), True)
        return out

    def serve(self, send=True):
        """The switch dials; everything is set up but for sending, if not wanted yet."""
        self.s.close()
        self.s = self.listener.accept()[0]
        self.s.settimeout(vu.TIMEOUT)
        self.set_owner()
        offered = self.ask(vu.GET_FEATURES)
        assert self.features & ~offered == 0, 'an acknowledged feature is gone'
        self.set_features()
        self.u64(vu.SET_PROTOCOL_FEATURES, self.ask(vu.GET_PROTOCOL_FEATURES) &
                 (vu.MQ | vu.REPLY_ACK | vu.MEM_SLOTS | (vu.INFLIGHT if self.inflight else 0)))
        if self.inflight:
            self.give_region()
        self.add_region(0)
        for r in self.rings:
            r.base = self.base_of(r)
            for step in self.set_num, self.set_addr, self.set_base, self.set_call, self.set_kick:
                step(r)
        self.starts += 1
        self.enable(self.rx)
        if send:
            self.enable(self.tx)
        self.sync()

    def base_of(self, r):
        if not isinstance(r, PackedRing):
            return r.published & 0xffff
        if not self.inflight or not self.starts:
            return self.first_base[r.idx]
        return r.off_wrap(r.published) | r.off_wrap(r.published) << 16

    def give_region(self):
        if not self.region:
            self.send(vu.GET_INFLIGHT_FD, struct.pack('<QQHHI', 0, 0, 2, 256, 0))
            data, control, *_ = self.s.recvmsg(36, socket.CMSG_SPACE(4))
            assert len(data) == 36 and struct.unpack_from('<III', data) == (vu.GET_INFLIGHT_FD, 5, 24)
            self.region = data[12:]
            self.region_fd = array.array('i', control[0][2])[0]
        self.do(vu.SET_INFLIGHT_FD, self.region, [self.region_fd])

    def close(self):
        super().close()
        self.listener.close()
        if self.region_fd >= 0:
            os.close(self.region_fd)


class Echo(Survivor):
    """Sends each frame back to its sender."""

    waiting = ()

    def turn(self):
        self.reap()
        self.waiting = [*self.waiting, *self.received()]
        while self.waiting and self.tx.free and len(self.tx.chains) < self.SLOTS:
            f = self.waiting.pop(0)
            self.transmit(f[6:12] + f[:6] + f[12:])


class Probe(Survivor):
    """Frames with a number and a payload that follows from it."""

    def __init__(self, path, peer_mac, **how):
        super().__init__(path, **how)
        self.peer_mac, self.next, self.under_way, self.answers = peer_mac, 0, {}, 0
        self.seen, self.repeated, self.last = set(), 0, -1

    def frame(self, seq):
        n = 46 + seq * 61 % 1400
        return self.peer_mac + self.mac + b'\x88\xb5' + struct.pack('<I', seq) + self.body(seq, n)

    @staticmethod
    def body(seq, n):
        return (struct.pack('<I', seq * 2654435761 & 0xffffffff) * (n // 4 + 1))[:n]

    def number(self, f):
        """Of an answer; None for a frame of others."""
        if f[:6] != self.mac or f[12:14] != b'\x88\xb5':
            return None
        seq = struct.unpack_from('<I', f, 14)[0]
        want = self.frame(seq)
        assert f == self.mac + self.peer_mac + want[12:], f'frame {seq} came back otherwise'
        return seq

    def turn(self):
        self.reap()
        n = min(WINDOW - len(self.under_way), len(self.tx.free), self.SLOTS - len(self.tx.chains), 32)
        for _ in range(n):
            self.transmit(self.frame(self.next))
            self.under_way[self.next] = True
            self.next += 1
        for f in self.received():
            seq = self.number(f)
            if seq is None:
                continue
            assert seq < self.next, f'answer {seq} to a frame that was not sent'
            self.answers += 1
            if seq in self.seen:
                self.repeated += 1
            self.seen.add(seq)
            self.under_way.pop(seq, None)
            self.last = max(self.last, seq)

    def lost(self, mark):
        """Frames with a number below mark that nobody will answer any more, now that later ones were."""
        gone = [s for s in self.under_way if s < mark]
        for s in gone:
            del self.under_way[s]
        return len(gone)


class Killed:
    """A `ringway run` that is killed and started again on the same ports."""

    def __init__(self, folder, *ports):
        self.ports, self.run, self.log = ports, f'{folder}/run', f'{folder}/switch.log'
        self.proc = None

    def start(self):
        with open(self.log, 'ab') as log:
            self.proc = subprocess.Popen([RINGWAY, 'run', '--rundir', self.run, *self.ports],
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        self.proc.send_signal(signal.SIGKILL)
        self.proc.wait()

    def rpc(self, method, **params):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(vu.TIMEOUT)
            s.connect(f'{self.run}/ringway.sock')
            s.sendall(json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': method,
                                  'params': params}).encode() + b'\n')
            return json.loads(s.makefile().readline())['result']

    def ready(self, port):
        assert self.proc.poll() is None, 'the switch ended:\n' + self.text()
        with contextlib.suppress(OSError):
            return self.rpc('ports.list', name=port)['ports'][0]['ready']

    def drops(self):
        return sum(d['frames'] for d in self.rpc('drops.list')['drops'])

    def text(self):
        with open(self.log, errors='replace') as f:
            return f.read()[-4000:]

    def stop(self):
        """In order; it leaves nothing behind."""
        if self.proc and self.proc.poll() is None:
            self.proc.terminate()
            assert self.proc.wait(vu.TIMEOUT) == 0, self.text()
            left = [f for f in os.listdir(self.run) if f.endswith('.rings')]
            assert not left, f'an orderly end leaves {left}'


def kill_loop(what, switch, probe, others, peer_port, kills=None, peer_loses=0):
    """Kill the switch under load; the figures are printed as one line of JSON and returned.
    peer_loses: frames that the peer itself throws away when the switch comes back."""
    kills = KILLS if kills is None else kills
    rng = random.Random(os.environ.get('RINGWAY_SEED', what))
    times, lost, repeated, dropped, otherwise = [], [], [], [], 0

    def traffic(cond, why):
        def step():
            probe.turn()
            for o in others:
                o.turn()
            return cond()
        end = time.monotonic() + vu.TIMEOUT
        while not step():
            assert time.monotonic() < end, f'{what}: {why}: stalled\n{switch.text()}'

    def begin():
        started = time.monotonic()
        switch.start()
        probe.serve(send=False)
        for o in others:
            o.serve()
        wait = time.monotonic() + vu.TIMEOUT
        while not switch.ready(peer_port):
            assert time.monotonic() < wait, f'{what}: {peer_port} is not ready\n{switch.text()}'
            time.sleep(0.001)
        probe.enable(probe.tx)
        return started

    begin()
    traffic(lambda: probe.answers > 1000, 'first frames')
    for i in range(kills):
        until = probe.answers + rng.randrange(1, 400)
        traffic(lambda: probe.answers > until, f'before kill {i}')
        # What was lost without a kill (a busy guest drops) is not the kill's: a later frame was answered.
        otherwise += probe.lost(probe.last)
        switch.kill()
        mark, before, again = probe.next, probe.answers, probe.repeated
        started = begin()
        traffic(lambda: probe.answers > before, f'after kill {i}')
        times.append((time.monotonic() - started) * 1000)
        traffic(lambda: probe.last >= mark, f'new frames after kill {i}')
        lost.append(probe.lost(mark))
        repeated.append(probe.repeated - again)
        dropped.append(switch.drops())
        allowed = BURST + dropped[-1] + peer_loses
        assert lost[-1] <= allowed, f'{what}: kill {i}: {lost[-1]} frames lost\n{switch.text()}'
        assert repeated[-1] <= BURST, f'{what}: kill {i}: {repeated[-1]} frames repeated\n{switch.text()}'
    figures = {'what': what, 'kills': kills, 'frames': probe.answers,
               'ms_median': round(statistics.median(times)), 'ms_max': round(max(times)),
               'lost': sum(lost), 'lost_max': max(lost), 'repeated': sum(repeated),
               'repeated_max': max(repeated), 'not_ready': sum(dropped), 'otherwise': otherwise}
    print('recovery: ' + json.dumps(figures), flush=True)
    if 'RINGWAY_RECOVERY_LOG' in os.environ:  # for tools/recovery-table
        with open(os.environ['RINGWAY_RECOVERY_LOG'], 'a') as f:
            f.write(json.dumps(figures) + '\n')
    return figures
