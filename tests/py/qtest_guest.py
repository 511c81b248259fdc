# SPDX-License-Identifier: Apache-2.0
"""A guest whose driver is this program: QEMU with a vhost-user netdev and a virtio-mmio card.

The registers of the card it reaches through QEMU's qtest protocol, so that every message to the switch is
QEMU's own; the guest's memory is a memfd that both map. The processor runs QEMU's firmware, which finds
nothing to boot (not every build of QEMU has -accel qtest, where none runs, and nothing needs it here).

    Guest(path, mac, layout, features)   boot() resets the card and sets it up; then it is a Front
"""
import os
import shutil
import socket
import subprocess
import tempfile

import vu_front as vu
from vu_front import Front, Memory, wait_for

QEMU = os.environ.get('RINGWAY_QEMU', 'qemu-system-x86_64')
SIZE = 64 << 20
MMIO, STRIDE, TRANSPORTS = 0xfeb00000, 512, 24  # of -M microvm

# registers of virtio-mmio, version 2 (virtio 1.2, 4.2.2)
MAGIC, DEVICE_ID, DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x000, 0x008, 0x020, 0x024
DEVICE_FEATURES, DEVICE_FEATURES_SEL, QUEUE_SEL, QUEUE_NUM, QUEUE_READY = 0x010, 0x014, 0x030, 0x038, 0x044
QUEUE_NOTIFY, STATUS, QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x050, 0x070, 0x080, 0x090, 0x0a0
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
VIRTIO_NET = 1


class Guest(Front):
    qemu = None

    def __init__(self, path, mac, layout, features):
        self.dir = tempfile.mkdtemp(prefix='rw-qtest-')
        super().__init__(None, mac, self.memory(), layout=layout)
        self.wanted, self.slab = features | self.layout_features, 8 << 20
        kind = type(self.rx)
        for r in self.rx, self.tx:
            r.close()
        self.rx, self.tx = (kind(self.mem, i, at=(2 + i) << 20) for i in (0, 1))
        for r in self.rx, self.tx:
            self.kick_through_qemu(r)
        try:
            self.launch(path, layout)
            self.base = self.find_card()
        except BaseException:
            self.end_qemu()
            raise

    def find_card(self):
        return next(a for a in range(MMIO, MMIO + TRANSPORTS * STRIDE, STRIDE)
                    if self.qtest('readl', a + MAGIC) == 0x74726976 and
                    self.qtest('readl', a + DEVICE_ID) == VIRTIO_NET)

    def connect(self, path):
        """To the switch QEMU connects."""

    def memory(self):
        mem = Memory(SIZE)
        mem.regions = [(0, SIZE, 0, 0)]
        return mem

    def kick_through_qemu(self, ring):
        show = ring.publish

        def publish(kick=True):
            show(kick=False)
            if kick:
                self.write(QUEUE_NOTIFY, ring.idx)
        ring.publish = publish

    def launch(self, path, layout):
        control = os.path.join(self.dir, 'qtest')
        with socket.socket(socket.AF_UNIX) as listener, open(os.path.join(self.dir, 'log'), 'wb') as log:
            listener.bind(control)
            listener.listen(1)
            listener.settimeout(0.5)
            self.qemu = subprocess.Popen(
                [QEMU, '-M', 'microvm,memory-backend=m', '-accel', 'tcg', '-display', 'none', '-nodefaults',
                 '-no-user-config', '-m', f'{SIZE >> 20}', '-object',
                 f'memory-backend-file,id=m,size={SIZE},share=on,mem-path=/proc/{os.getpid()}/fd/{self.mem.fd}',
                 '-qtest', f'unix:{control}', '-qtest-log', '/dev/null',
                 '-global', 'virtio-mmio.force-legacy=false',
                 '-chardev', f'socket,id=c,path={path}', '-netdev', 'vhost-user,id=n,chardev=c',
                 '-device', f'virtio-net-device,netdev=n,packed={"on" if layout == "packed" else "off"}'],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.s = wait_for('QEMU', lambda: self.caller(listener))
        self.s.settimeout(vu.TIMEOUT)
        self.lines = self.s.makefile()

    def caller(self, listener):
        assert self.qemu.poll() is None, 'QEMU does not come: ' + self.log()
        try:
            return listener.accept()[0]
        except TimeoutError:
            return None

    def log(self):
        with open(os.path.join(self.dir, 'log'), errors='replace') as f:
            return f.read()

    def close(self):
        self.lines.close()
        self.s.close()
        self.end_qemu()
        self.rx.close()
        self.tx.close()
        self.mem.close()

    def end_qemu(self):
        if self.qemu:
            self.qemu.kill()
            self.qemu.wait()
        shutil.rmtree(self.dir)

    def qtest(self, command, *numbers):
        self.s.sendall((' '.join([command, *map(hex, numbers)]) + '\n').encode())
        answer = self.lines.readline().split()
        assert answer and answer[0] == 'OK', f'{command}: {answer}; {self.log()}'
        return int(answer[1], 0) if len(answer) > 1 else None

    def read(self, register):
        return self.qtest('readl', self.base + register)

    def write(self, register, value):
        self.qtest('writel', self.base + register, value)

    def write64(self, register, value):
        self.write(register, value & 0xffffffff)
        self.write(register + 4, value >> 32)

    def reset(self):
        self.write(STATUS, 0)
        assert self.read(STATUS) == 0

    def boot(self):
        """Reset and the driver's set-up, with new rings and all receive buffers posted."""
        self.reset()
        self.write(STATUS, ACKNOWLEDGE | DRIVER)
        offered = 0
        for half in 0, 1:
            self.write(DEVICE_FEATURES_SEL, half)
            offered |= self.read(DEVICE_FEATURES) << 32 * half
        self.features = self.wanted
        assert not self.features & ~offered, f'QEMU does not offer {self.features & ~offered:#x}'
        for half in 0, 1:
            self.write(DRIVER_FEATURES_SEL, half)
            self.write(DRIVER_FEATURES, self.features >> 32 * half & 0xffffffff)
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        assert self.read(STATUS) & FEATURES_OK
        for r in self.rx, self.tx:
            r.restart()
            self.write(QUEUE_SEL, r.idx)
            self.write(QUEUE_NUM, r.num)
            for register, at in (QUEUE_DESC, r.desc), (QUEUE_DRIVER, r.avail), (QUEUE_DEVICE, r.used):
                self.write64(register, self.mem.gpa(at))
            self.write(QUEUE_READY, 1)
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        self.post_rx()
        return self
