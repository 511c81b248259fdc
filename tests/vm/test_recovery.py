# SPDX-License-Identifier: Apache-2.0
"""The switch is killed again and again while a Linux guest answers a stream of pings.

    probe (a modelled front-end, 10.0.0.9) --- ringway --- vm1 (10.0.0.1), QEMU listens
                                                           vm2 (10.0.0.2), QEMU dials, reconnect=1

While no switch is there QEMU takes the link down and throws away what the guest has sent and the switch has
not taken.  So of the answers all that are under way may be lost at a kill; what went into the guest is
counted by the guest.  The card tells no link state (status=off), or the guest's kernel would drop, too.

Each ping has a number and a payload that are checked in the answer; see tests/py/recovery.py.
"""
import os
import struct
import sys

import lab
import pytest
from lab import vm

sys.path.insert(0, os.path.join(lab.TOP, 'tests', 'py'))
import vu_front as vu  # noqa: E402
from recovery import BURST, KILLS, WINDOW, Killed, Probe, kill_loop  # noqa: E402

MAC = b'\x52\x54\0\0\x01\x09'


def checksum(data):
    data += b'\0' * (len(data) % 2)
    total = sum(struct.unpack(f'>{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Pinger(Probe):
    """Its frames are pings, which the guest's kernel answers."""

    def __init__(self, path, guest_mac, guest_ip, **how):
        super().__init__(path, guest_mac, mac=MAC, **how)
        self.ip, self.guest_ip = bytes([10, 0, 0, 9]), guest_ip

    def packet(self, src, dst, kind, seq):
        body = struct.pack('<I', seq) + self.body(seq, 40 + seq * 61 % 1400)
        icmp = struct.pack('>BBHHH', kind, 0, 0, 0x5257, seq & 0xffff) + body
        icmp = icmp[:2] + struct.pack('>H', checksum(icmp)) + icmp[4:]
        ip = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(icmp), 0, 0x4000, 64, 1, 0, src, dst)
        return ip[:10] + struct.pack('>H', checksum(ip)) + ip[12:] + icmp

    def frame(self, seq):
        return self.peer_mac + self.mac + b'\x08\0' + self.packet(self.ip, self.guest_ip, 8, seq)

    def number(self, f):
        if f[:6] != self.mac or f[12:14] != b'\x08\0' or f[23] != 1 or f[34] != 0:
            return None
        seq = struct.unpack_from('<I', f, 42)[0]
        want = self.packet(self.guest_ip, self.ip, 0, seq)
        n = struct.unpack_from('>H', f, 16)[0]  # short frames are padded
        # the guest chooses identification, fragment flags and time to live itself
        assert f[34:14 + n] == want[20:] and f[26:34] == want[12:20], f'ping {seq} came back otherwise'
        return seq


@pytest.mark.parametrize('who, packed', [('listens', False), ('listens', True), ('dials', True)],
                         ids=['listens-split', 'listens-packed', 'dials-packed'])
def test_killed_under_load(image, workdir, who, packed):
    n = 1 if who == 'listens' else 2
    path, mine = f'{workdir}/vm.sock', f'{workdir}/probe.sock'
    port = f'vm{n}=vhost-user,{"client" if n == 1 else "path"}={path}'
    switch = Killed(workdir, f'probe=vhost-user,client={mine}', port)
    features = vu.Nic.FEATURES | vu.IN_ORDER | (vu.PACKED if packed else 0)
    net = vm.vhost_user(path, server=n == 1, reconnect=n - 1, mac=vm.mac_of(n),
                        device='status=off' + (',packed=on' if packed else ''))
    pinger = Pinger(mine, vu.mac_bytes(vm.mac_of(n)), bytes([10, 0, 0, n]), features=features)
    guest = vm.Guest(f'vm{n}', image, workdir, net, ip=f'10.0.0.{n}/24')
    try:
        switch.start()
        pinger.serve()
        guest.start().wait_ready()
        guest.check('echo 1000000 >/proc/sys/net/ipv4/icmp_msgs_per_sec; '
                    'echo 1000 >/proc/sys/net/ipv4/icmp_msgs_burst')
        guest.check(f'arp -s 10.0.0.9 {MAC.hex(":")}')
        switch.kill()
        # QEMU looks once a second: that is its time, not the switch's, and fewer kills are enough
        kill_loop(f'QEMU {who}, Linux guest, {"packed" if packed else "split"}', switch, pinger, [],
                  f'vm{n}', None if n == 1 else max(5, KILLS // 20), peer_loses=WINDOW)
        # Of what went into the guest its own counter tells.
        kills = KILLS if n == 1 else max(5, KILLS // 20)
        arrived = int(guest.check("awk '/^Icmp: [0-9]/ {print $10}' /proc/net/snmp"))
        assert arrived >= pinger.next - WINDOW - BURST * kills
        print(f'the guest got {arrived} of {pinger.next} pings', flush=True)
        switch.stop()
    finally:
        guest.close()
        pinger.close()
        if switch.proc and switch.proc.poll() is None:
            switch.kill()
