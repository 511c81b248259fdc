# SPDX-License-Identifier: Apache-2.0
"""Jumbo frames: the card tells its guest an MTU of 9000, the switch carries frames of that size.

    vm1 (10.0.0.1, MTU 9000) --- ringway, mtu=9000 --- vm2 (10.0.0.2, MTU 9000)
"""
from lab import vm

PAIR = {'port_options': '=vhost-user,mtu=9000', 'mtu': 9000}


def test_mtu_reaches_the_guest(pair):
    assert pair.a.check('cat /sys/class/net/eth0/mtu') == '9000'


def test_largest_ping(pair):
    vm.ping(pair.a, pair.ip(2), size=9000 - 28)
    vm.ping(pair.b, pair.ip(1), size=9000 - 28)


def test_tcp(pair):
    sent = vm.make_data(pair.a, 16)
    assert vm.transfer(pair.a, pair.b, pair.ip(2))[0] == sent
