# SPDX-License-Identifier: Apache-2.0
"""A UDP stream with sequence numbers to an echo that counts (udp_echo.c), until standard input ends.

    udp_stream.py ADDRESS PORT RATE

Each datagram is {number, 0, payload that follows from the number}; what comes back is held against it.
Prints one line of JSON at the end, and one for each line that comes in:
    sent, arrived (at the echo, as it says), back, again (came back twice), wrong, gap_ms (longest time
    without an answer, since the last report), silent_ms (since the last answer)
"""
import json
import random
import select
import socket
import struct
import sys
import time


def body(n):
    return random.Random(n).randbytes(60 + n * 37 % 1300)


class Stream:
    def __init__(self, address, port, rate):
        self.s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.s.setblocking(False)
        self.s.connect((address, port))
        self.rate, self.start = rate, time.monotonic()
        self.last, self.gap = self.start, 0
        self.sent = self.arrived = self.back = self.again = self.wrong = 0
        self.seen = set()

    def send(self):
        while self.sent < (time.monotonic() - self.start) * self.rate:
            try:
                self.s.send(struct.pack('<II', self.sent, 0) + body(self.sent))
            except (BlockingIOError, ConnectionRefusedError):
                pass  # it counts as sent: the number is used up
            self.sent += 1

    def receive(self):
        while True:
            try:
                data = self.s.recv(65536)
            except (BlockingIOError, ConnectionRefusedError):
                return
            n, count = struct.unpack_from('<II', data)
            self.wrong += data[8:] != body(n) or n >= self.sent
            self.again += n in self.seen
            self.seen.add(n)
            self.back += 1
            self.arrived = max(self.arrived, count)
            now = time.monotonic()
            self.gap, self.last = max(self.gap, now - self.last), now

    def report(self):
        silent = time.monotonic() - self.last
        print(json.dumps({'sent': self.sent, 'arrived': self.arrived, 'back': self.back,
                          'again': self.again, 'wrong': self.wrong,
                          'gap_ms': round(self.gap * 1000, 1),
                          'silent_ms': round(silent * 1000, 1)}), flush=True)
        self.gap = 0


def main():
    s = Stream(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    while True:
        s.send()
        s.receive()
        ready, _, _ = select.select([s.s, sys.stdin], [], [], 0.5 / s.rate)
        if sys.stdin in ready:
            if not sys.stdin.readline():
                break
            s.report()
    s.report()


main()
