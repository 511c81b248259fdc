# SPDX-License-Identifier: Apache-2.0
"""Two Linux guests with packed rings (QEMU: packed=on), and what happens to them in a day.

    vm1 (10.0.0.1) --- ringway --- vm2 (10.0.0.2)
"""
import lab
from lab import vm

PAIR = {'device': 'packed=on'}


def test_ping(pair):
    pair.both_ping()
    vm.ping(pair.a, pair.ip(2), size=1472)
    for port in 'vm1', 'vm2':
        assert 'VIRTIO_F_RING_PACKED' in pair.switch.port(port)['state']['features']


def test_tcp_both_ways(pair):
    for src, dst, ip in ((pair.a, pair.b, pair.ip(2)), (pair.b, pair.a, pair.ip(1))):
        sent = vm.make_data(src, lab.rounds(16, 64))
        assert vm.transfer(src, dst, ip)[0] == sent


def test_guest_reboots(pair):
    for _ in range(lab.rounds(1, 3)):
        pair.b.reset()
        pair.both_ping()


def test_stop_and_cont(pair):
    """QEMU gives back the position of each ring that GET_VRING_BASE answered."""
    for _ in range(lab.rounds(3, 20)):
        pair.b.stop()
        pair.a.run(f'ping -c 3 -i 0.1 -W 1 {pair.ip(2)}')
        pair.b.cont()
        pair.both_ping()
