# SPDX-License-Identifier: Apache-2.0
"""A vhost-user front-end and virtio-net driver in plain Python, written from the texts only.

It shares no code with the switch, so that what both sides of the C code might misunderstand alike
shows here.  It is as polite as it is told to be: every step of the set-up can be left out, repeated
or replaced, and every byte of a ring can be written by hand.

    Front       one connection: messages, memory, rings
    Nic         a Front that begins in the order of a known front-end and keeps to all rules
    Memory      a file shared with the back-end: region i has its own guest and user addresses
    Ring        a split virtqueue in that memory, driver side
    PackedRing  the same in the packed layout, behind the same methods
"""
import array
import contextlib
import mmap
import os
import select
import socket
import struct
import threading
import time

TIMEOUT = 60  # seconds for what takes microseconds: the machine may be slow

# messages
GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_LOG_BASE, SET_LOG_FD, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = 6, 7, 8, 9, 10
GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 11, 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SEND_RARP, NET_SET_MTU, RESET_DEVICE, GET_MAX_MEM_SLOTS = 19, 20, 34, 36
ADD_MEM_REG, REM_MEM_REG, SET_STATUS, GET_STATUS = 37, 38, 39, 40
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG = 21, 24, 25
GET_INFLIGHT_FD, SET_INFLIGHT_FD = 31, 32

# virtio features
MRG_RXBUF, INDIRECT, EVENT_IDX, PROTOCOL, VERSION_1 = 1 << 15, 1 << 28, 1 << 29, 1 << 30, 1 << 32
NET_MQ, ON_EMPTY = 1 << 22, 1 << 24
PACKED, IN_ORDER, RING_RESET = 1 << 34, 1 << 35, 1 << 40
# protocol features
MQ, RARP, REPLY_ACK, NET_MTU, P_RESET, MEM_SLOTS, STATUS = (1 << b for b in (0, 2, 3, 4, 13, 15, 16))
BACKEND_REQ, CONFIG, INFLIGHT = 1 << 5, 1 << 9, 1 << 12

NEED_REPLY = 8
DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15  # of packed descriptors

_barrier = threading.Lock()

GPA, UVA = 0x10000000, 0x7f5500000000  # of the first byte of memory


def fence():
    """A full memory fence: taking a lock is one."""
    with _barrier:
        pass


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

    # One access of two bytes each: struct clears what it is going to write, and the device could
    # see an index of 0 in between.

    def u16(self, off):
        return memoryview(self.map)[off:off + 2].cast('H')[0]

    def set_u16(self, off, v):
        memoryview(self.map)[off:off + 2].cast('H')[0] = v & 0xffff

    def move(self):
        """The same bytes in another file, as after a hotplug."""
        old, data = self.fd, self.map[:]
        self.fd = os.memfd_create('guest')
        os.ftruncate(self.fd, self.size)
        self.map.close()
        self.map = mmap.mmap(self.fd, self.size)
        self.map[:] = data
        os.close(old)

    def close(self):
        self.map.close()
        os.close(self.fd)


class Ring:
    """Ring `idx` of a front-end. Even: the guest receives; odd: it sends.

    A polite ring kicks only when the device asked for it; event_idx says in which of the two ways.
    """

    polite = event_idx = False
    START = 0  # SET_VRING_BASE of a new ring

    def __init__(self, mem, idx, num=256, base=None, at=None):
        self.mem, self.idx, self.num = mem, idx, num
        self.base = self.START if base is None else base
        self.desc = 0x10000 * idx if at is None else at
        self.avail = self.desc + 16 * num
        self.used = (self.avail + 6 + 2 * num + 3) & ~3
        self.avail_idx = self.used_idx = self.published = self.base
        self.kicks = 0
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
        if kick and (not self.polite or self.wanted()):
            self.kicks += 1
            os.eventfd_write(self.kick, 1)
        self.published = self.avail_idx

    def wanted(self):
        """Did the device ask for a kick for what publish() has just shown it?"""
        fence()
        if self.event_idx:
            event = self.mem.u16(self.used + 4 + 8 * self.num)
            return ((self.avail_idx - event - 1) & 0xffff <
                    (self.avail_idx - self.published) & 0xffff)
        return not self.mem.u16(self.used) & 1

    def want_call(self, wanted=True):
        """Ask to be signalled for the next used entry, or not at all."""
        if self.event_idx:
            self.mem.set_u16(self.avail + 4 + 2 * self.num, self.used_idx - (not wanted))
        else:
            self.mem.set_u16(self.avail, not wanted)
        fence()

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

    def put(self, *descs, nxt=None):
        """A chain by hand, whatever is in it: (address, length, flags) each. nxt: where the last one
        points to, as a number or from the list of slots that the chain has."""
        ids = [self.free.pop(0) for _ in descs]
        for k, (addr, length, flags) in enumerate(descs):
            to = ids[k + 1] if k + 1 < len(ids) else nxt(ids) if callable(nxt) else nxt or 0
            self.set_desc(ids[k], addr, length, flags, to)
        self.chains[ids[0]] = (ids, [])
        self.offer(ids[0])

    def fill_table(self, table, *entries):
        """An indirect table by hand; its guest address."""
        for i, (addr, length, flags) in enumerate(entries):
            self.set_desc(i, addr, length, flags, i + 1, table)
        return self.mem.gpa(table)

    def desc_flags_at(self, slot):
        """Where the flags of a descriptor are."""
        return self.desc + 16 * slot + 12

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

    def restart(self):
        """The driver begins anew."""
        self.base = self.avail_idx = self.used_idx = self.published = self.START
        self.free, self.chains = list(range(self.num)), {}
        self.wipe()

    def close(self):
        for fd in self.kick, self.call, self.err:
            os.close(fd)


class PackedRing(Ring):
    """The packed layout, for a device that is in order. Positions count slots from the first lap on;
    in lap n the wrap counter is 1 if n is even."""

    START = 0x80008000

    def wipe(self):
        self.avail = self.desc + 16 * self.num  # the driver's event word
        self.used = self.avail + 4              # the device's
        self.mem.map[self.desc:self.used + 4] = bytes(self.used + 4 - self.desc)
        at = self.base & 0x7fff
        self.avail_idx = self.used_idx = self.published = at + (0 if self.base & 0x8000 else self.num)
        for i in range(self.num):  # as if each had been used
            lap = self.lap(self.avail_idx) - (i >= at)
            self.mem.set_u16(self.desc_flags_at(i), 0 if lap & 1 else AVAIL | USED)
        self.pending = []

    def lap(self, pos):
        return pos // self.num

    def slot(self, pos):
        return pos % self.num

    def off_wrap(self, pos):
        return self.slot(pos) | (0 if self.lap(pos) & 1 else 0x8000)

    def put_desc(self, addr, length, flags, ident):
        """Everything but the flags, which follow in publish(), last ones first."""
        slot = self.slot(self.avail_idx)
        struct.pack_into('<QIH', self.mem.map, self.desc + 16 * slot, addr, length, ident)
        bits = USED if self.lap(self.avail_idx) & 1 else AVAIL
        self.pending.append((self.desc_flags_at(slot), flags | bits))
        self.avail_idx += 1

    def publish(self, kick=True):
        for at_, flags in reversed(self.pending):
            self.mem.set_u16(at_, flags)
        self.pending = []
        if kick and (not self.polite or self.wanted()):
            self.kicks += 1
            os.eventfd_write(self.kick, 1)
        self.published = self.avail_idx

    def wanted(self):
        fence()
        if self.published == self.avail_idx:
            return False
        off_wrap, flags = self.mem.u16(self.used), self.mem.u16(self.used + 2)
        if flags != 2 or not self.event_idx:
            return flags != 1
        return any(self.off_wrap(p) == off_wrap for p in range(self.published, self.avail_idx))

    def want_call(self, wanted=True):
        self.mem.set_u16(self.avail, self.off_wrap(self.used_idx))
        self.mem.set_u16(self.avail + 2, (2 if self.event_idx else 0) if wanted else 1)
        fence()

    def put(self, *descs, nxt=None):
        assert nxt is None, 'packed descriptors have no next'
        ids = [self.free.pop(0) for _ in descs]
        for d in descs:
            self.put_desc(*d, ids[0])
        self.chains[ids[0]] = (ids, [])

    def fill_table(self, table, *entries):
        for i, (addr, length, flags) in enumerate(entries):
            struct.pack_into('<QIHH', self.mem.map, table + 16 * i, addr, length, 0, flags)
        return self.mem.gpa(table)

    def desc_flags_at(self, slot):
        return self.desc + 16 * slot + 14

    def add(self, parts, write, table=None):
        flag = DESC_WRITE if write else 0
        n = 1 if table is not None else len(parts)
        ids = [self.free.pop(0) for _ in range(n)]
        if table is not None:
            for i, (off, length) in enumerate(parts):
                struct.pack_into('<QIHH', self.mem.map, table + 16 * i, self.mem.gpa(off), length, 0,
                                 flag)
            self.put_desc(self.mem.gpa(table), 16 * len(parts), DESC_INDIRECT, ids[0])
        else:
            for i, (off, length) in enumerate(parts):
                more = DESC_NEXT if i + 1 < n else 0
                self.put_desc(self.mem.gpa(off), length, flag | more, ids[0])
        self.chains[ids[0]] = (ids, parts)
        return ids[0]

    def reap(self):
        out = []
        while self.used_idx < self.published:
            at_ = self.desc + 16 * self.slot(self.used_idx)
            want = 0 if self.lap(self.used_idx) & 1 else AVAIL | USED
            if self.mem.u16(at_ + 14) & (AVAIL | USED) != want:
                break
            length, ident = struct.unpack_from('<IH', self.mem.map, at_ + 8)
            self.used_idx += len(self.chains[ident][0])
            out.append((ident, length))
        return out

LAYOUTS = {'split': Ring, 'packed': PackedRing}


class Front:
    """layout: of its rings, 'split' or 'packed'."""

    FEATURES = PROTOCOL | VERSION_1 | MRG_RXBUF | INDIRECT
    PROTOCOLS = MQ | REPLY_ACK | STATUS | MEM_SLOTS | RARP | NET_MTU | P_RESET | INFLIGHT

    acks = True  # ask for an answer to every message
    any_header = False  # it negotiated offloads: headers[] gets the header of each frame received

    def __init__(self, path, mac=None, mem=None, num=256, layout='split'):
        self.connect(path)
        self.mac = mac or b'\x52\x54\0\0\0\x01'
        self.mem = mem or Memory()
        kind = LAYOUTS[layout]
        self.rx, self.tx = kind(self.mem, 0, num), kind(self.mem, 1, num)
        self.layout_features = PACKED if layout == 'packed' else 0
        self.features = self.FEATURES | self.layout_features
        self.slab = 1 << 20  # rx buffers from here, tx buffers from 3 MiB
        self.n_tx = 0
        self.headers = []

    def connect(self, path):
        """path may be a connected socket, too."""
        if isinstance(path, socket.socket):
            self.s = path
        else:
            self.s = socket.socket(socket.AF_UNIX)
            self.s.connect(path)
        self.s.settimeout(TIMEOUT)

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
        if self.acks:
            assert self.ack(req, payload, fds) == 0, f'message {req} was refused'
        else:
            self.send(req, payload, fds)

    def sync(self):
        """Whatever was sent before has been carried out, and nothing was answered twice."""
        self.ask(GET_FEATURES)
        assert not select.select([self.s], [], [], 0)[0], 'an answer that nobody asked for'

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
        self.features = (self.FEATURES if features is None else features) | self.layout_features
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

    @property
    def tx_slab(self):
        return self.slab * 3

    def put(self, data):
        """data into transmit memory; its offset. 15 slots of 64 KiB."""
        off = self.tx_slab + (self.n_tx % 15) * 0x10000 % (self.mem.size - self.tx_slab)
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
                    if self.any_header:
                        self.headers.append(chunk[:self.header])
                    else:
                        assert chunk[:10] == bytes(10), f'receive header {chunk[:12].hex()}'
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


class Nic(Front):
    """A device whose driver keeps to the rules: kicks when asked, asks for calls when it waits.

    order    'qemu', 'cloud_hypervisor', 'virtio_user', 'backwards'; None: only connected
    polled   no kick eventfds
    bufs     receive buffers of rx_size bytes; as many as the ring holds if not given
    mem      made to measure if not given: rings, receive buffers, transmit buffers
    pairs    rings 2k and 2k + 1 are pair k; use(k) says which of them rx and tx stand for
    active   the first so many pairs are enabled and have buffers
    only     so many regions of mem at first, for orders with slots
    """

    FEATURES = Front.FEATURES | EVENT_IDX
    SLOT = 0x10800  # a transmit buffer: the largest frame, its header, and alignment
    SLOTS = 15

    def __init__(self, path, order='qemu', features=FEATURES, num=256, base=0, rx_size=2048,
                 bufs=None, polled=False, mem=None, mac=None, pairs=1, active=None, only=None):
        bufs = num if bufs is None else bufs
        room = (32 * num + 0xffff) & ~0xffff  # of one ring
        slab = 2 * pairs * room
        self.slab_room = (rx_size * bufs + 0xfff) & ~0xfff
        end = slab + pairs * self.slab_room
        super().__init__(path, mac, mem or Memory(end + self.SLOT * self.SLOTS), num=1,
                         layout='packed' if features & PACKED else 'split')
        kind = type(self.rx)
        self.rx.close()
        self.tx.close()
        self.rings = [kind(self.mem, i, num, base or kind.START, at=room * i)
                      for i in range(2 * pairs)]
        self.pairs, self.active = pairs, pairs if active is None else active
        self.only = only
        if pairs > 1:
            features |= NET_MQ
        self.slab0, self.features, self.polled = slab, features, polled
        self.use(0)
        self.tx_at, self.rx_size, self.bufs, self.inbox = end, rx_size, bufs, []
        for r in self.rings:
            r.polite, r.event_idx = True, bool(features & EVENT_IDX)
            r.want_call(False)
        for k in reversed(range(self.active)):
            self.use(k).post_rx(rx_size, bufs)
        self.begin(order)

    def use(self, k):
        """rx and tx are those of pair k from now on."""
        self.rx, self.tx = self.rings[2 * k:2 * k + 2]
        self.slab = self.slab0 + k * self.slab_room
        return self

    def close(self):
        self.use(0)
        for r in self.rings[2:]:
            r.close()
        super().close()

    tx_slab = property(lambda self: self.tx_at)

    def put(self, data):
        assert len(data) <= self.SLOT
        off = self.tx_at + self.n_tx % self.SLOTS * self.SLOT
        self.n_tx += 1
        self.mem.map[off:off + len(data)] = data
        return off

    # --- how the known front-ends begin

    def begin(self, order):
        if order:
            getattr(self, order)()
            self.sync()

    def set_kick(self, r):
        if self.polled:
            self.u64(SET_VRING_KICK, r.idx | 0x100)
        else:
            super().set_kick(r)

    def each(self, *steps):
        for r in self.rings:
            for step in steps:
                step(r)

    def enable_active(self):
        for r in self.rings:
            self.enable(r, int(r.idx < 2 * self.active))

    def qemu(self):
        """As recorded with QEMU 7.2."""
        self.acks = False
        offered = self.ask(GET_FEATURES)
        self.u64(SET_PROTOCOL_FEATURES, self.ask(GET_PROTOCOL_FEATURES))
        assert self.ask(GET_QUEUE_NUM) >= 2
        self.set_owner()
        assert self.ask(GET_FEATURES) == offered
        for r in self.rings:  # a masked notifier at first
            fd = os.eventfd(0)
            self.u64(SET_VRING_CALL, r.idx, [fd])
            os.close(fd)
            self.set_err(r)
        for _ in range(2):
            self.enable_active()
        self.qemu_driver()

    def qemu_driver(self):
        """The second half, once the guest's driver is ready, and again after stop and reset."""
        self.set_features()
        assert self.ask(GET_STATUS) == 0
        self.u64(SET_STATUS, 0x08)
        self.set_memory()
        self.qemu_rings()
        assert self.ask(GET_STATUS) == 0x08
        self.u64(SET_STATUS, 0x0f)

    def qemu_rings(self):
        self.each(self.set_num, self.set_base, self.set_addr, self.set_kick, self.set_call)
        self.sync()

    def cloud_hypervisor(self):
        """Every message asks for an answer, ADDR comes before BASE, memory comes in slots."""
        self.set_owner()
        self.set_features()
        self.u64(SET_PROTOCOL_FEATURES,
                 self.ask(GET_PROTOCOL_FEATURES) & (MQ | REPLY_ACK | MEM_SLOTS | CONFIG | BACKEND_REQ))
        self.send(GET_QUEUE_NUM, flags=1 | NEED_REPLY)  # its own reply is the answer
        assert struct.unpack('<Q', self.reply(GET_QUEUE_NUM))[0] >= 2
        self.set_features()
        for i in range(self.only or len(self.mem.regions)):
            self.add_region(i)
        self.each(self.set_num, self.set_addr, self.set_base, self.set_call, self.set_kick)
        self.each(self.enable)

    def virtio_user(self):
        """DPDK's: call fds first, ENABLE and the last status at the end."""
        self.set_owner()
        self.u64(SET_PROTOCOL_FEATURES,
                 self.ask(GET_PROTOCOL_FEATURES) & (MQ | REPLY_ACK | STATUS))
        for status in (0, 1, 3):
            self.u64(SET_STATUS, status)
        self.each(self.set_call)
        self.set_features()
        self.u64(SET_STATUS, 0x0b)
        assert self.ask(GET_STATUS) == 0x0b
        self.set_memory()
        self.each(self.set_num, self.set_base, self.set_addr, self.set_kick)
        self.each(self.enable)
        self.u64(SET_STATUS, 0x0f)

    def backwards(self):
        """Nobody does this, and it is allowed: the last things first, and no OWNER."""
        self.acks = False
        self.each(self.enable, self.set_kick, self.set_call, self.set_addr, self.set_base,
                  self.set_num)
        self.set_memory()
        self.set_features()

    def add_region(self, i):
        self.do(ADD_MEM_REG, struct.pack('<QQQQQ', 0, *self.mem.regions[i]), [self.mem.fd])

    def rem_region(self, i):
        self.do(REM_MEM_REG, struct.pack('<QQQQQ', 0, *self.mem.regions[i]))

    def stop(self):
        """GET_VRING_BASE of both rings, remembered for the next start."""
        for r in self.rings:
            r.base = self.get_base(r.idx)
        return self.rx.base, self.tx.base

    def restart(self):
        """The guest boots: its driver begins with new rings."""
        for r in self.rings:
            r.restart()
            r.want_call(False)
        self.post_rx(self.rx_size, self.bufs)

    # --- frames

    def reap(self):
        for r in self.rings[1::2]:
            for head, _ in r.reap():
                r.give_back(head)

    def send_frames(self, *frames, cuts=(), table=None):
        for f in frames:
            def room():
                self.reap()
                return (sum(len(r.chains) for r in self.rings[1::2]) < (1 if table is not None else self.SLOTS) and
                        len(self.tx.free) > (0 if table is not None else len(cuts)))
            wait_for('frames to be taken', room)
            self.transmit(f, cuts, table)

    def poll(self):
        self.inbox += self.received()

    def received_by_pair(self):
        """(pair, frame) of all that has arrived, in the order of each ring."""
        out = []
        for k in range(self.pairs):
            self.use(k)
            out += [(k, f) for f in self.received()]
        self.use(0)
        return out

    def recv(self, n=1):
        """The next n frames; one, or a list."""
        def enough():
            self.poll()
            return len(self.inbox) >= n
        wait_for(f'{n} frames', enough)
        out, self.inbox = self.inbox[:n], self.inbox[n:]
        return out if n > 1 else out[0]


def wait_for(what, condition):
    end = time.monotonic() + TIMEOUT
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f'{what}: not within {TIMEOUT} s'
        time.sleep(0.001)


def mac_bytes(text):
    return bytes.fromhex(text.replace(':', ''))


def at(*ends):
    """Lengths of segments that end there."""
    return [b - a for a, b in zip((0, *ends), ends)]


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
