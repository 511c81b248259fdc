# SPDX-License-Identifier: Apache-2.0
"""A vhost-user back-end in plain Python, for attacking whoever drives it: it negotiates as a small
net back-end does, maps the front-end's memory, and leaves what it writes into the rings to the test.

    Back          one socket that it listens on, and the connection on it
      .serve()    answers messages until all rings are enabled (or `until` says enough)
      .avail(r)   heads that the driver made available and that were not taken yet
      .chain(r, head)      the buffers of a chain: [(offset in self.mem's file, length, writable)]
      .use(r, head, len)   one used entry;  .publish(r)  the index
"""
import mmap
import os
import socket
import struct

import vu_front as vu

FEATURES = vu.VERSION_1 | vu.MRG_RXBUF | vu.PROTOCOL
U64_REPLIES = {vu.GET_FEATURES, vu.GET_PROTOCOL_FEATURES, vu.GET_QUEUE_NUM, vu.GET_MAX_MEM_SLOTS,
               vu.GET_STATUS}


class VRing:
    def __init__(self):
        self.num = self.enabled = 0
        self.taken = self.used = 0
        self.addr = self.kick = self.call = None


class Back:
    def __init__(self, path, features=FEATURES, protocol=0):
        self.path, self.features, self.protocol = path, features, protocol
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.listener.settimeout(vu.TIMEOUT)
        self.conn = None
        self.regions, self.rings, self.acked, self.requests = [], {}, 0, []

    def accept(self):
        self.hang_up()
        self.conn, _ = self.listener.accept()
        self.conn.settimeout(vu.TIMEOUT)
        self.rings, self.requests = {}, []

    def hang_up(self):
        if self.conn:
            self.conn.close()
            self.conn = None
        for _, _, m in self.regions:
            m.close()
        self.regions = []

    def close(self):
        self.hang_up()
        self.listener.close()
        os.unlink(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def read(self):
        """The next message: (request, flags, payload, fds)."""
        head, fds, _, _ = socket.recv_fds(self.conn, 12, 8)
        if len(head) < 12:
            raise vu.Closed
        request, flags, size = struct.unpack('<III', head)
        payload = b''
        while len(payload) < size:
            payload += self.conn.recv(size - len(payload)) or self._closed()
        return request, flags, payload, fds

    def _closed(self):
        raise vu.Closed

    def reply(self, request, payload):
        self.conn.sendall(struct.pack('<III', request, 5, len(payload)) + payload)

    def answer(self, request, flags, payload, fds):
        ring = self.rings.setdefault(struct.unpack('<I', payload[:4])[0] & 0xff, VRing()) \
            if len(payload) >= 8 and 8 <= request <= 18 and request not in (15, 16, 17) else None
        if request == vu.SET_MEM_TABLE:
            n = struct.unpack('<I', payload[:4])[0]
            for i, fd in zip(range(n), fds):
                gpa, size, uva, off = struct.unpack_from('<QQQQ', payload, 8 + 32 * i)
                self.regions.append(((gpa, uva, size), off, mmap.mmap(fd, size + off)))
        elif request == vu.SET_VRING_NUM:
            ring.num = struct.unpack('<II', payload)[1]
        elif request == vu.SET_VRING_ADDR:
            ring.addr = struct.unpack('<IIQQQQ', payload)[2:5]  # desc, used, avail
        elif request == vu.SET_VRING_BASE:
            ring.taken = ring.used = struct.unpack('<II', payload)[1] & 0xffff
        elif request == vu.SET_VRING_ENABLE:
            ring.enabled = struct.unpack('<II', payload)[1]
        elif request == vu.SET_VRING_CALL and fds:
            ring.call = os.dup(fds[0])
        elif request == vu.SET_FEATURES:
            self.acked, = struct.unpack('<Q', payload)
        elif request == vu.GET_VRING_BASE:
            self.reply(request, struct.pack('<II', struct.unpack('<I', payload[:4])[0], ring.taken))
        if request in U64_REPLIES:
            value = {vu.GET_FEATURES: self.features, vu.GET_PROTOCOL_FEATURES: self.protocol,
                     vu.GET_QUEUE_NUM: 16, vu.GET_MAX_MEM_SLOTS: 8}.get(request, 0)
            self.reply(request, struct.pack('<Q', value))
        elif flags & vu.NEED_REPLY and request != vu.GET_VRING_BASE:
            self.reply(request, struct.pack('<Q', 0))
        for fd in fds:
            os.close(fd)

    def serve(self, until=None):
        """Answer until the barrier behind the last SET_VRING_ENABLE, or until(request) is true."""
        while True:
            m = self.read()
            self.requests.append(m[0])
            if until and until(m[0]):
                return m
            self.answer(*m)
            if not until and m[0] == vu.GET_FEATURES and vu.SET_VRING_ENABLE in self.requests:
                return None

    # rings, split layout

    def place(self, addr, length, which):
        for (gpa, uva, size), off, m in self.regions:
            base = gpa if which == 'gpa' else uva
            if base <= addr and addr + length <= base + size:
                return m, off + addr - base
        raise AssertionError(f'{which} 0x{addr:x} is not in the memory that was shared')

    def u16(self, addr):
        m, at = self.place(addr, 2, 'uva')
        return memoryview(m)[at:at + 2].cast('H')[0]

    def set_u16(self, addr, v):
        m, at = self.place(addr, 2, 'uva')
        memoryview(m)[at:at + 2].cast('H')[0] = v & 0xffff

    def avail(self, r):
        r = self.rings[r]
        out = []
        while r.taken != self.u16(r.addr[2] + 2):
            out.append(self.u16(r.addr[2] + 4 + 2 * (r.taken % r.num)))
            r.taken = (r.taken + 1) & 0xffff
        return out

    def chain(self, r, head):
        out, r = [], self.rings[r]
        while True:
            m, at = self.place(r.addr[0] + 16 * head, 16, 'uva')
            gpa, length, flags, nxt = struct.unpack_from('<QIHH', m, at)
            out.append((*self.place(gpa, length, 'gpa'), length, bool(flags & vu.DESC_WRITE)))
            if not flags & vu.DESC_NEXT:
                return out
            head = nxt

    def use(self, r, head, length):
        r = self.rings[r]
        m, at = self.place(r.addr[1] + 4 + 8 * (r.used % r.num), 8, 'uva')
        struct.pack_into('<II', m, at, head, length)
        r.used = (r.used + 1) & 0xffff

    def publish(self, r, by=0):
        r = self.rings[r]
        vu.fence()
        self.set_u16(r.addr[1] + 2, r.used + by)
        os.eventfd_write(r.call, 1)

    def fill(self, r, head, data):
        """Write into the buffer of a receive chain."""
        (m, at, length, writable), = self.chain(r, head)
        assert writable and len(data) <= length
        m[at:at + len(data)] = data

    def deliver(self, r, head, data):
        self.fill(r, head, data)
        self.use(r, head, len(data))

    def take(self, r):
        """The frames that the driver sent, headers in front."""
        out = []
        for head in self.avail(r):
            out.append(b''.join(m[at:at + n] for m, at, n, _ in self.chain(r, head)))
            self.use(r, head, 0)
        if out:
            self.publish(r)
        return out
