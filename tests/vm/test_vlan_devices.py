# SPDX-License-Identifier: Apache-2.0
"""Guests with VLAN devices of their own: real drivers put tags in, with offloads, and the switch
takes them out, and the other way round.

    vm1: eth0.10, eth0.20 --- trunk --- ringway --- access or 802.1ad trunk --- vm2
"""
import pytest

from lab import vm


def set_port(pair, name, *keys):
    pair.switch.do('port', 'set', name, 'vlan=1', 'vlan=0', *keys)  # without what it had


def device(guest, parent, name, vid, ip, proto='802.1Q'):
    guest.check(f'ip link add link {parent} name {name} type vlan proto {proto} id {vid}')
    guest.check(f'ip link set {name} up')
    if ip:
        guest.check(f'ip addr add {ip}/24 dev {name}')


@pytest.fixture
def net(pair):
    """The pair without addresses on eth0; VLAN devices and keys of ports are taken away again."""
    for g in pair.guests:
        g.check('ip addr flush dev eth0')
    yield pair
    for n, g in enumerate(pair.guests, 1):
        g.check('for d in s100.10 s100 v10 v20; do ip link del $d 2>/dev/null; done; true')
        g.check(f'ip addr flush dev eth0; ip addr add {pair.ip(n)}/24 dev eth0')
        set_port(pair, f'vm{n}')


def both_ways(pair):
    """Files arrive whole, in frames beyond the MTU: tags are no reason to segment."""
    before = {n: pair.switch.port(n)['rx'] for n in ('vm1', 'vm2')}
    for a, b, ip in ((pair.a, pair.b, pair.ip(2)), (pair.b, pair.a, pair.ip(1))):
        vm.ping(a, ip)
        sent = vm.make_data(a, 8)
        assert vm.transfer(a, b, ip)[0] == sent
    for name, was in before.items():
        now = pair.switch.port(name)['rx']
        largest = (now['bytes'] - was['bytes']) / (now['frames'] - was['frames'])
        print(f'{name}: {largest:.0f} bytes per frame')
        assert now['bytes'] - was['bytes'] > 8 << 20 and largest > 1600


def test_trunk_to_access(net):
    set_port(net, 'vm1', 'trunk=10+20')
    set_port(net, 'vm2', 'vlan=10')
    device(net.a, 'eth0', 'v10', 10, net.ip(1))
    device(net.a, 'eth0', 'v20', 20, None)
    net.b.check(f'ip addr add {net.ip(2)}/24 dev eth0')
    both_ways(net)
    # in VLAN 20 it is another network
    net.switch.do('port', 'set', 'vm2', 'vlan=20')
    assert net.a.run(f'ping -c 2 -W 2 {net.ip(2)}')[0] != 0
    net.a.check(f'ip addr flush dev v10; ip addr add {net.ip(1)}/24 dev v20')
    both_ways(net)


def test_802_1ad(net):
    """vm1 is a customer with a VLAN of its own, vm2 the provider's side."""
    set_port(net, 'vm1', 'qinq=100')
    set_port(net, 'vm2', 'vlan-protocol=802.1ad', 'trunk=100')
    try:
        device(net.a, 'eth0', 'v10', 10, net.ip(1))
        device(net.b, 'eth0', 's100', 100, None, proto='802.1ad')
        device(net.b, 's100', 's100.10', 10, net.ip(2))
        both_ways(net)
    finally:
        net.switch.do('port', 'set', 'vm2', 'vlan-protocol=802.1Q')
