# SPDX-License-Identifier: Apache-2.0
"""A vhost-user front-end and virtio-net driver in plain Python, written from the texts only.

It shares no code with the switch, so that what both sides of the C code might misunderstand alike
shows here.  It is as polite as it is told to be: every step of the set-up can be left out, repeated
or replaced, and every byte of a ring can be written by hand.

    Front       one connection: messages, memory, rings
    Memory      a file shared with the back-end: region i has its own guest and user addresses
    Ring        a split virtqueue in that memory, driver side
"""
import array
import contextlib
import mmap
import os
import select
import socket
import struct
import time

TIMEOUT = 60  # seconds for what takes microseconds: the machine may be slow

# messages
GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_LOG_BASE, SET_LOG_FD, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = 6, 7, 8, 9, 10
GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 11, 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SEND_RARP, NET_SET_MTU, RESET_DEVICE, GET_MAX_MEM_SLOTS = 19, 20, 34, 36
ADD_MEM_REG, REM_MEM_REG, SET_STATUS, GET_STATUS = 37, 38, 39, 40

# virtio features
MRG_RXBUF, INDIRECT, EVENT_IDX, PROTOCOL, VERSION_1 = 1 << 15, 1 << 28, 1 << 29, 1 << 30, 1 << 32
# protocol features
MQ, RARP, REPLY_ACK, NET_MTU, P_RESET, MEM_SLOTS, STATUS = (1 << b for b in (0, 2, 3, 4, 13, 15, 16))

NEED_REPLY = 8
DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4

GPA, UVA = 0x10000000, 0x7f5500000000  # of the first byte of memory


class Closed(Exception):
    """The back-end closed the connection."""


class Memory:
    """size bytes in a file; `regions` cuts it into (offset, length) parts with gaps between their
    guest addresses."""

    def __init__(self, size=4 << 20, regions=None, fd=None):
        self.fd = fd if fd is not None else os.memfd_create('guest')
        self.size = size
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.regions = [(GPA + off + (i << 32), n, UVA + off + (i << 32), off)
                        for i, (off, n) in enumerate(regions or [(0, size)])]

    def gpa(self, off):
        return next(g + off - o for g, n, _, o in self.regions if o <= off < o + n)

    def uva(self, off):
        return next(u + off - o for _, n, u, o in self.regions if o <= off < o + n)

    def u16(self, off):
        return struct.unpack_from('<H', self.map, off)[0]

    def set_u16(self, off, v):
        struct.pack_into('<H', self.map, off, v & 0xffff)

    def close(self):
        self.map.close()
        os.close(self.fd)


class Ring:
    """Ring `idx` of a front-end. Even: the guest receives; odd: it sends."""

    def __init__(self, mem, idx, num=256, base=0, at=None):
        self.mem, self.idx, self.num, self.base = mem, idx, num, base
        self.desc = 0x10000 * idx if at is None else at
        self.avail = self.desc + 16 * num
        self.used = (self.avail + 6 + 2 * num + 3) & ~3
        self.avail_idx = self.used_idx = base
        self.free = list(range(num))
        self.chains = {}
        self.kick = os.eventfd(0, os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.err = os.eventfd(0, os.EFD_NONBLOCK)
        self.wipe()

    def wipe(self):
        end = self.used + 6 + 8 * self.num
        self.mem.map[self.desc:end] = bytes(end - self.desc)
        self.mem.set_u16(self.avail + 2, self.base)
        self.mem.set_u16(self.used + 2, self.base)

    def set_desc(self, i, addr, length, flags=0, nxt=0, table=None):
        struct.pack_into('<QIHH', self.mem.map, (self.desc if table is None else table) + 16 * i,
                         addr, length, flags, nxt)

    def offer(self, head):
        """An available entry; not visible before publish()."""
        self.mem.set_u16(self.avail + 4 + 2 * (self.avail_idx % self.num), head)
        self.avail_idx = (self.avail_idx + 1) & 0xffff

    def publish(self, kick=True):
        self.mem.set_u16(self.avail + 2, self.avail_idx)
        if kick:
            os.eventfd_write(self.kick, 1)

    def add(self, parts, write, table=None):
        """Post [(offset, length)...] as one chain, or through an indirect table at `table`."""
        flag = DESC_WRITE if write else 0
        if table is not None:
            ids = [self.free.pop(0)]
            for i, (off, n) in enumerate(parts):
                more = DESC_NEXT if i + 1 < len(parts) else 0
                self.set_desc(i, self.mem.gpa(off), n, flag | more, i + 1, table)
            self.set_desc(ids[0], self.mem.gpa(table), 16 * len(parts), DESC_INDIRECT)
        else:
            ids = [self.free.pop(0) for _ in parts]
            for i, (off, n) in enumerate(parts):
                more = i + 1 < len(parts)
                self.set_desc(ids[i], self.mem.gpa(off), n, flag | (DESC_NEXT if more else 0),
                              ids[i + 1] if more else 0)
        self.chains[ids[0]] = (ids, parts)
        self.offer(ids[0])
        return ids[0]

    def reap(self):
        """[(id, length)] of what the device has used since the last call."""
        out = []
        while self.used_idx != self.mem.u16(self.used + 2):
            out.append(struct.unpack_from(
                '<II', self.mem.map, self.used + 4 + 8 * (self.used_idx % self.num)))
            self.used_idx = (self.used_idx + 1) & 0xffff
        return out

    def give_back(self, head):
        ids, parts = self.chains.pop(head)
        self.free += ids
        return parts

    def signalled(self, timeout=0):
        """Was the guest signalled since the last call?"""
        if not select.select([self.call], [], [], timeout)[0]:
            return False
        os.eventfd_read(self.call)
        return True

    def close(self):
        for fd in self.kick, self.call, self.err:
            os.close(fd)


class Front:
    FEATURES = PROTOCOL | VERSION_1 | MRG_RXBUF | INDIRECT
    PROTOCOLS = MQ | REPLY_ACK | STATUS | MEM_SLOTS | RARP | NET_MTU | P_RESET

    def __init__(self, path, mac=None, mem=None, num=256):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(TIMEOUT)
        self.s.connect(path)
        self.mac = mac or b'\x52\x54\0\0\0\x01'
        self.mem = mem or Memory()
        self.rx, self.tx = Ring(self.mem, 0, num), Ring(self.mem, 1, num)
        self.features = self.FEATURES
        self.slab = 1 << 20  # rx buffers from here, tx buffers from 3 MiB
        self.n_tx = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.s.close()
        self.rx.close()
        self.tx.close()
        self.mem.close()

    # --- messages

    def send(self, req, payload=b'', fds=(), flags=1, size=None):
        data = struct.pack('<III', req, flags, len(payload) if size is None else size) + payload
        try:
            n = self.s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))]
                               if fds else [])
            if n < len(data):
                self.s.sendall(data[n:])
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Closed from e

    def read(self, n):
        out = b''
        while len(out) < n:
            try:
                piece = self.s.recv(n - len(out))
            except ConnectionResetError as e:
                raise Closed from e
            if not piece:
                raise Closed
            out += piece
        return out

    def reply(self, req, size=8):
        r, flags, n = struct.unpack('<III', self.read(12))
        payload = self.read(n)
        assert (r, flags, n) == (req, 5, size), f'reply {r} flags {flags:#x} size {n} to {req}'
        return payload

    def ask(self, req, payload=b'', fds=()):
        """The u64 that answers a request which always has an answer."""
        self.send(req, payload, fds)
        return struct.unpack('<Q', self.reply(req))[0]

    def ack(self, req, payload=b'', fds=()):
        """The answer (0: done) to a request sent with NEED_REPLY."""
        self.send(req, payload, fds, 1 | NEED_REPLY)
        return struct.unpack('<Q', self.reply(req))[0]

    def do(self, req, payload=b'', fds=()):
        assert self.ack(req, payload, fds) == 0, f'message {req} was refused'

    def u64(self, req, v, fds=()):
        self.do(req, struct.pack('<Q', v), fds)

    def state(self, req, ring, v):
        self.do(req, struct.pack('<II', ring, v))

    def get_base(self, ring):
        self.send(GET_VRING_BASE, struct.pack('<II', ring, 0))
        idx, num = struct.unpack('<II', self.reply(GET_VRING_BASE))
        assert idx == ring
        return num

    def alive(self):
        """The connection still answers, and answers in order: nothing was answered twice."""
        try:
            return bool(self.ask(GET_FEATURES) & PROTOCOL)
        except Closed:
            return False

    def ended(self):
        """The back-end hung up (waits for it)."""
        with contextlib.suppress(Closed):
            while True:
                self.read(1)
        return True

    # --- set-up, one method per step, so that a test can choose the order

    def set_features(self):
        self.u64(SET_FEATURES, self.features)

    def set_protocol(self):
        offered = self.ask(GET_PROTOCOL_FEATURES)
        self.u64(SET_PROTOCOL_FEATURES, offered & self.PROTOCOLS)

    def set_owner(self):
        self.do(SET_OWNER)

    def table(self, regions=None):
        regions = self.mem.regions if regions is None else regions
        return struct.pack('<II', len(regions), 0) + b''.join(
            struct.pack('<QQQQ', g, n, u, o) for g, n, u, o in regions)

    def set_memory(self):
        self.do(SET_MEM_TABLE, self.table(), [self.mem.fd] * len(self.mem.regions))

    def addr(self, r, flags=0, **over):
        a = {'desc': self.mem.uva(r.desc), 'used': self.mem.uva(r.used),
             'avail': self.mem.uva(r.avail), **over}
        return struct.pack('<IIQQQQ', r.idx, flags, a['desc'], a['used'], a['avail'], 0)

    def set_num(self, r):
        self.state(SET_VRING_NUM, r.idx, r.num)

    def set_base(self, r):
        self.state(SET_VRING_BASE, r.idx, r.base)

    def set_addr(self, r):
        self.do(SET_VRING_ADDR, self.addr(r))

    def set_kick(self, r):
        self.u64(SET_VRING_KICK, r.idx, [r.kick])

    def set_call(self, r):
        self.u64(SET_VRING_CALL, r.idx, [r.call])

    def set_err(self, r):
        self.u64(SET_VRING_ERR, r.idx, [r.err])

    def enable(self, r, on=1):
        self.state(SET_VRING_ENABLE, r.idx, on)

    def ring_steps(self):
        return [lambda r=r, f=f: f(r) for r in (self.rx, self.tx)
                for f in (self.set_num, self.set_base, self.set_addr, self.set_kick, self.set_call,
                          self.set_err, self.enable)]

    def steps(self):
        """All that must happen before traffic; any order will do."""
        return [self.set_owner, self.set_features, self.set_protocol, self.set_memory,
                *self.ring_steps()]

    def start(self, features=None, buffers=True):
        self.features = self.FEATURES if features is None else features
        for step in self.steps():
            step()
        if buffers:
            self.post_rx()
        return self

    # --- frames

    @property
    def header(self):
        return 12 if self.features & (VERSION_1 | MRG_RXBUF) else 10

    def post_rx(self, size=2048, count=None):
        for i in range(count if count is not None else min(self.rx.num, 256)):
            self.rx.add([(self.slab + size * i, size)], True)
        self.rx.publish()

    def put(self, data):
        """data into transmit memory; its offset. 16 slots of 64 KiB."""
        off = self.slab * 3 + (self.n_tx % 15) * 0x10000 % (self.mem.size - self.slab * 3)
        self.n_tx += 1
        self.mem.map[off:off + len(data)] = data
        return off

    def transmit(self, frame, cuts=(), table=None, header=None):
        """Send one frame; cuts: lengths of the first segments."""
        data = (header if header is not None else bytes(self.header)) + frame
        off, parts, left = self.put(data), [], len(data)
        for n in cuts:
            parts.append((off, min(n, left)))
            off += parts[-1][1]
            left -= parts[-1][1]
        parts.append((off, left))
        head = self.tx.add(parts, False, table)
        self.tx.publish()
        return head

    def wait_used(self, ring, n=1):
        """The next n used entries of a ring."""
        out, end = [], time.monotonic() + TIMEOUT
        while len(out) < n:
            out += ring.reap()
            assert time.monotonic() < end, f'ring {ring.idx}: {len(out)} of {n} used'
            time.sleep(0.0005)
        for head, _ in out:
            if head in ring.chains:
                ring.give_back(head)
        return out

    def received(self, want=None):
        """Frames that arrived (merged over buffers); buffers are posted again."""
        frames, used = [], self.rx.reap()
        while used:
            data, left = b'', None
            while left is None or left:
                head, n = used.pop(0)
                parts = self.rx.give_back(head)
                chunk = b''.join(self.mem.map[o:o + size] for o, size in parts)[:n]
                if left is None:
                    left = struct.unpack_from('<H', chunk, 10)[0] if self.header == 12 else 1
                    assert left >= 1, 'num_buffers is 0'
                    chunk = chunk[self.header:]
                data += chunk
                left -= 1
                self.rx.add(parts, True)
                if left and not used:  # published together, so it must be there
                    used = self.rx.reap()
                    assert used, 'a part of a merged frame is missing'
            frames.append(data)
        self.rx.publish()
        return frames

    def wait_frames(self, n=1, accept=lambda f: True):
        out, end = [], time.monotonic() + TIMEOUT
        while len(out) < n:
            out += [f for f in self.received() if accept(f)]
            assert time.monotonic() < end, f'{len(out)} of {n} frames arrived'
            time.sleep(0.0005)
        return out


def frame(dst, src, size, seq=0):
    """An Ethernet frame of `size` bytes whose payload follows from seq."""
    body = bytes((seq * 7 + i * 13) & 0xff for i in range(max(0, size - 14)))
    return (dst + src + b'\x88\xb5' + body)[:max(size, 14)]


def exchange(a, b, sizes):
    """Send one frame of each size from a to b; contents and order are checked."""
    for seq, size in enumerate(sizes):
        f = frame(b.mac, a.mac, size, seq)
        a.transmit(f)
        a.wait_used(a.tx)
        got = b.wait_frames(1, lambda g: g[:6] == b.mac and g[12:14] == b'\x88\xb5')
        assert got == [f], f'frame {seq} of {size} bytes is wrong: {len(got[0])} bytes'
