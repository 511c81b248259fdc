# SPDX-License-Identifier: Apache-2.0
"""A file system with one file, whose server answers only what it takes to open that file. Everything
else (a page fault's read, the flush of a close, statfs) waits until end(). It speaks the kernel's FUSE
protocol itself (linux/fuse.h), in a process of its own. Needs root.
"""
import contextlib
import ctypes
import os
import signal
import struct
import tempfile

LOOKUP, FORGET, GETATTR, OPEN, INIT, BATCH_FORGET = 1, 2, 3, 14, 26, 42
ROOT, FILE, SIZE = 1, 2, 1 << 20
MNT_DETACH, MS_NOSUID, MS_NODEV = 2, 2, 4

libc = ctypes.CDLL(None, use_errno=True)


def attr(node):
    """struct fuse_attr"""
    mode, size = (0o040755, 0) if node == ROOT else (0o100666, SIZE)
    return struct.pack('<QQQQQQIIIIIIIIII', node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(op, node):
    """The payload of an answer; None: there is none."""
    if op == INIT:
        return struct.pack('<IIIIHHIIHHIIHH6I', 7, 31, 4096, 0, 16, 12, 4096, 1, 1, 0, 0, 0, 0, 0, *[0] * 6)[:64]
    if op == LOOKUP:
        return struct.pack('<QQQQII', FILE, 0, 3600, 3600, 0, 0) + attr(FILE)
    if op == GETATTR:
        return struct.pack('<QII', 3600, 0, 0) + attr(node)
    if op == OPEN:
        return struct.pack('<QII', 1, 0, 0)
    return None


def serve(dev):
    while True:
        try:
            request = os.read(dev, 1 << 18)
        except OSError:
            return  # unmounted
        _, op, unique, node = struct.unpack_from('<IIQQ', request)
        payload = answer(op, node)
        if payload is not None:
            os.write(dev, struct.pack('<IiQ', 16 + len(payload), 0, unique) + payload)


class Hang:
    """path: the file"""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix='rw-fuse-')
        self.path = os.path.join(self.dir, 'memory')
        dev = os.open('/dev/fuse', os.O_RDWR)
        options = f'fd={dev},rootmode=40000,user_id=0,group_id=0'.encode()
        if libc.mount(b'hang', self.dir.encode(), b'fuse', MS_NOSUID | MS_NODEV, options):
            e = ctypes.get_errno()
            os.close(dev)
            os.rmdir(self.dir)
            raise OSError(e, 'mount: ' + os.strerror(e))
        self.pid = os.fork()
        if not self.pid:
            try:
                serve(dev)
            finally:
                os._exit(0)
        os.close(dev)

    def end(self):
        """The server dies, which ends the connection: whatever waits fails, and waits no more."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            libc.umount2(self.dir.encode(), MNT_DETACH)
            os.rmdir(self.dir)


@contextlib.contextmanager
def hanging_file():
    hang = Hang()
    try:
        yield hang
    finally:
        hang.end()
