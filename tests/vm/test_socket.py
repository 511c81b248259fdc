# SPDX-License-Identifier: Apache-2.0
"""Cards that QEMU emulates, each behind a netdev of QEMU's own, on one switch with a vhost-user guest.

    old: e1000, rtl8139, vmxnet3, virtio-net --- -netdev stream ---+
         e1000 (QEMU listens) ---------- -netdev stream -----------+-- ringway --- vm1 (vhost-user)
         e1000 --------------------------- -netdev dgram ----------+
         e1000 --- -netdev tap,vhost=off --- Linux bridge --- tap -+      (root only)

Card number n has 10.0.n.2 and vm1 has 10.0.n.1: each of them is alone in its subnet.
"""
import os

import lab
import pytest
from lab import vm

CARDS = ['e1000', 'rtl8139', 'vmxnet3', 'virtio', 'listen', 'dgram', 'tap']
MODEL = {'virtio': 'virtio-net-pci', 'listen': 'e1000', 'dgram': 'e1000', 'tap': 'e1000'}


class OldGuest(vm.Guest):
    """QEMU in a network namespace, where its tap is."""

    netns = None

    def command(self, agent_fd, qmp_fd):
        cmd = super().command(agent_fd, qmp_fd)
        return ['ip', 'netns', 'exec', self.netns.name, *cmd] if self.netns else cmd


class Lab:
    def __init__(self, workdir):
        self.root = os.geteuid() == 0
        self.dir = workdir
        image = lab.image(hardware=True)
        self.netns = lab.Netns('sock') if self.root else None
        self.listen = f'{workdir}/listen.sock'
        ports = [f'{c}=qemu-stream' for c in CARDS[:4]]
        ports += [f'listen=qemu-stream,client={self.listen}', 'dgram=qemu-dgram', 'vm1']
        if self.root:
            self.netns.run('ip', 'link', 'add', 'name', 'br0', 'type', 'bridge')
            self.netns.run('ip', 'link', 'set', 'br0', 'up')
            ports.append(f'tap=tap,dev=rwtap,netns={self.netns.name}')
        self.cards = [c for c in CARDS if c != 'tap' or self.root]
        self.sw = lab.Switch(*ports)
        self.vm1 = vm.Guest('vm1', image, workdir, vm.vhost_user(
            self.sw.sock('vm1'), reconnect=1, mac=vm.mac_of(100)))
        self.old = OldGuest('old', image, workdir, [a for c in self.cards for a in self.card(c)], share=False)
        self.old.netns = self.netns

    def card(self, c):
        n = CARDS.index(c)
        path = self.sw.sock(c)
        netdev = {
            'listen': f'stream,id=n{n},server=on,addr.type=unix,addr.path={self.listen}',
            'dgram': f'dgram,id=n{n},local.type=unix,local.path={self.sw.rundir}/dgram.peer.sock,'
                     f'remote.type=unix,remote.path={path}',
            'tap': f'tap,id=n{n},ifname=qtap,script=no,downscript=no,vhost=off',
        }.get(c, f'stream,id=n{n},server=off,addr.type=unix,addr.path={path}')
        return ['-netdev', netdev,
                '-device', f'{MODEL.get(c, c)},netdev=n{n},mac={vm.mac_of(n)},romfile=']

    def plug_taps(self):
        for dev in ('rwtap', 'qtap') if self.root else ():
            self.netns.run('ip', 'link', 'set', dev, 'master', 'br0', 'up')

    def start(self):
        self.sw.start()
        self.vm1.start()
        self.old.start()
        self.plug_taps()
        self.vm1.wait_ready()
        self.old.wait_ready()
        for c in self.cards:
            self.vm1.check(f'ip addr add {self.ip(c, 1)}/24 dev eth0')
        self.configure()
        return self

    def configure(self):
        for c in self.cards:
            n = CARDS.index(c)
            self.old.check(f'd=$(grep -l {vm.mac_of(n)} /sys/class/net/*/address | cut -d/ -f5) && '
                           f'ip addr add {self.ip(c, 2)}/24 dev $d && ip link set $d up')
        self.sw.wait_ready(*self.cards)

    @staticmethod
    def ip(card, n):
        return f'10.0.{CARDS.index(card)}.{n}'

    def logs(self):
        return f'-- switch\n{self.sw.text()}\n{self.vm1.logs()}{self.old.logs()}'

    def close(self):
        self.old.close()
        self.vm1.close()
        self.sw.close()
        if self.netns:
            self.netns.close()


@pytest.fixture(scope='module')
def net(tmp_path_factory):
    n = Lab(str(tmp_path_factory.mktemp('s')))
    try:
        n.start()
        yield n
    except BaseException:
        print(n.logs())
        raise
    finally:
        n.close()


@pytest.mark.parametrize('card', CARDS)
def test_card(net, card):
    """Ping, and TCP both ways with a checksum. vm1 leaves segmentation to others, the card takes none."""
    if card not in net.cards:
        pytest.skip('a tap needs root')
    try:
        vm.ping(net.old, net.ip(card, 1))
        vm.ping(net.vm1, net.ip(card, 2), size=1400)
        for src, dst, at in ((net.old, net.vm1, 1), (net.vm1, net.old, 2)):
            md5 = vm.make_data(src, 1)
            assert vm.transfer(src, dst, net.ip(card, at))[0] == md5
    except (vm.GuestError, AssertionError):
        print(net.logs())
        raise
    port = net.sw.port(card)
    assert min(port['rx']['frames'], port['tx']['frames']) > 100, port
    if card != 'tap':
        assert port['max_frame'] == 65557


def test_driver_is_the_card_s(net):
    drivers = net.old.check('ls -l /sys/class/net/*/device/driver')
    for name in ('e1000', '8139cp', 'vmxnet3', 'virtio_net'):
        assert f'/{name}' in drivers, drivers


def test_switch_killed_and_restarted(net):
    """The switch dials the QEMU that listens, and finds the datagram socket; both go on."""
    net.sw.kill()
    net.sw.start()
    net.plug_taps()
    net.sw.wait_ready('listen', 'dgram', 'vm1')
    for card in ('listen', 'dgram'):
        vm.ping(net.old, net.ip(card, 1))
        vm.ping(net.vm1, net.ip(card, 2))


def test_qemu_killed_and_restarted(net):
    """All of its ports are free again, and take the next QEMU."""
    net.old.kill()
    for card in net.cards:
        if card != 'tap':
            net.sw.wait_down(card)
    net.old.start()
    net.plug_taps()
    net.old.wait_ready()
    net.configure()
    for card in net.cards:
        vm.ping(net.old, net.ip(card, 1))
        vm.ping(net.vm1, net.ip(card, 2))
