# SPDX-License-Identifier: Apache-2.0
"""The other side of a qemu-stream or qemu-dgram port, as QEMU's -netdev stream and dgram speak it."""
import os
import socket
import struct

TIMEOUT = 60


def mac(n):
    return b'\x52\x54\x00\x00\x02' + bytes([n])


def frame(dst, src, n=0, size=60):
    """A frame of `size` bytes that carries the number n and, behind it, a pattern that depends on it."""
    head = dst + src + b'\x88\xb5' + struct.pack('>I', n)
    return head + bytes((n + i) % 251 for i in range(size - len(head)))


class Stream:
    """server: wait at path for the switch to dial; else dial the switch."""

    def __init__(self, path, server=False):
        self.inbox = b''
        self.sock = self.listener = None
        if server:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.settimeout(TIMEOUT)
            self.listener.bind(path)
            self.listener.listen(1)
            self.sock, _ = self.listener.accept()
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(path)
        self.sock.settimeout(TIMEOUT)

    def send(self, *frames):
        self.raw(b''.join(struct.pack('>I', len(f)) + f for f in frames))

    def raw(self, data):
        self.sock.sendall(data)

    def recv(self):
        """The next frame, or b'' at the end of the connection."""
        while len(self.inbox) < 4 or len(self.inbox) < 4 + struct.unpack('>I', self.inbox[:4])[0]:
            data = self.sock.recv(1 << 18)
            if not data:
                assert not self.inbox, 'the stream ends within a frame'
                return b''
            self.inbox += data
        n = 4 + struct.unpack('>I', self.inbox[:4])[0]
        out, self.inbox = self.inbox[4:n], self.inbox[n:]
        return out

    def close(self):
        for s in (self.sock, self.listener):
            if s:
                s.close()


class Dgram:
    def __init__(self, path, peer):
        self.path, self.peer = path, peer
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if os.path.exists(path):
            os.unlink(path)  # as QEMU does
        self.sock.bind(path)
        self.sock.settimeout(TIMEOUT)

    def send(self, *frames):
        for f in frames:
            self.raw(f)

    def raw(self, data):
        self.sock.sendto(data, self.peer)

    def recv(self):
        return self.sock.recv(1 << 18)

    def close(self):
        self.sock.close()
