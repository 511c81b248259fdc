# SPDX-License-Identifier: Apache-2.0
"""Offloads between two front-ends: what a receiver gets when it takes them, and when it does not."""
import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import vu_front as vu

CSUM, GUEST_CSUM = 1 << 0, 1 << 1
GUEST_TSO4, GUEST_TSO6, GUEST_ECN = 1 << 7, 1 << 8, 1 << 9
HOST_TSO4, HOST_TSO6, HOST_ECN = 1 << 11, 1 << 12, 1 << 13
GUEST_USO4, GUEST_USO6, HOST_USO = 1 << 54, 1 << 55, 1 << 56
SENDER = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO
NEEDS_CSUM, TCPV4, TCPV6, UDP_L4, ECN = 1, 1, 4, 5, 0x80


def pseudo(pkt, l4_len):
    """pkt with the sum of its pseudo-header where its checksum belongs: what a guest sends."""
    ip = pkt[IP]
    words = b''.join(bytes(map(int, a.split('.'))) for a in (ip.src, ip.dst))
    total = sum(struct.unpack('!4H', words)) + ip.proto + l4_len
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    pkt[ip.payload.__class__].chksum = total
    return bytes(pkt)


def test_segments(net):
    a = net.nic(features=vu.Nic.FEATURES | SENDER)
    b = net.nic()
    vu.exchange(a, b, [60])
    vu.exchange(b, a, [60])
    data = bytes(i * 7 % 251 for i in range(5000))
    pkt = Ether(src=a.mac, dst=b.mac) / IP(src='10.0.0.1', dst='10.0.0.2', id=7) / TCP(
        sport=1, dport=2, seq=1000, flags='PA') / Raw(data)
    wire = pseudo(pkt, 20 + len(data))
    a.transmit(wire, header=struct.pack('<BBHHHHH', NEEDS_CSUM, TCPV4, 0, 1460, 34, 16, 0))
    got = [Ether(f) for f in b.recv(4)]
    assert b''.join(bytes(g[TCP].payload) for g in got) == data
    for i, g in enumerate(got):
        sums = g[IP].chksum, g[TCP].chksum
        del g[IP].chksum, g[TCP].chksum
        again = Ether(bytes(g))
        assert (again[IP].chksum, again[TCP].chksum) == sums
        assert (g[TCP].seq, g[IP].id) == (1000 + 1460 * i, 7 + i)
        assert g[TCP].flags == ('PA' if i == 3 else 'A')
