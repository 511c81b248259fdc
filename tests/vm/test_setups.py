# SPDX-License-Identifier: Apache-2.0
"""Guests in other set-ups than a plain pair; each case draws its own."""
import os
import re
import shlex
import sys

import lab
import pytest
from lab import vm


FETCH_MD5 = '''
import hashlib, socket, sys
s = socket.create_connection((sys.argv[1], 5001))
h = hashlib.md5()
while data := s.recv(65536):
    h.update(data)
print(h.hexdigest())
'''


class Bench:
    """Starts switches, guests and namespaces and ends them all."""

    def __init__(self, image, workdir, qemu=vm.QEMU):
        self.image, self.workdir, self.qemu = image, workdir, qemu
        self.things = []

    def switch(self, *args):
        sw = lab.Switch(*args)
        self.things.append(sw)
        return sw

    def guest(self, name, net, **kw):
        g = vm.Guest(name, self.image, self.workdir, net, qemu=self.qemu, **kw)
        self.things.append(g)
        return g

    def netns(self, suffix):
        ns = lab.Netns(suffix)
        self.things.append(ns)
        return ns

    def close(self):
        # Guests first: a switch whose front-ends are still there has more to clean up than a test
        # needs to wait for.
        for kind in (vm.Guest, lab.Switch, lab.Netns):
            for thing in self.things:
                if isinstance(thing, kind):
                    thing.close()


@pytest.fixture
def bench(image, workdir):
    b = Bench(image, workdir)
    yield b
    b.close()


@pytest.fixture(params=['own', 'newer'])
def each_qemu(request, image, workdir, record_property):
    """The same, with the QEMU of this machine and then with that of its backports."""
    b = Bench(image, workdir, vm.QEMU if request.param == 'own' else lab.newer_qemu())
    record_property('row', 'QEMU %d.%d' % b.qemu.version)
    yield b
    b.close()


@pytest.mark.column('QEMU listens, switch killed, QEMU killed')
def test_switch_in_client_mode(each_qemu, workdir):
    """QEMU listens, the switch dials; killed hard, a new switch finds both guests again.

    vm1 (listens on a.sock) --- ringway, client= --- vm2 (listens on b.sock)
    """
    bench = each_qemu
    paths = {n: f'{workdir}/vm{n}.sock' for n in (1, 2)}
    sw = bench.switch(*(f'vm{n}=vhost-user,client={p}' for n, p in paths.items())).start()
    guests = [bench.guest(f'vm{n}', vm.vhost_user(p, server=True, mac=vm.mac_of(n)),
                          ip=f'10.0.0.{n}/24') for n, p in paths.items()]
    for g in guests:
        g.start()
    for g in guests:
        g.wait_ready()
    a, b = guests
    vm.ping(a, '10.0.0.2')
    for _ in range(lab.rounds(2, 10)):
        sw.kill()
        sw.start()
        sw.wait_ready('vm1', 'vm2')
        vm.ping(a, '10.0.0.2')
    b.kill()
    sw.wait_down('vm2')
    b.start()
    b.wait_ready()
    vm.ping(a, '10.0.0.2')


def test_host_to_guest_over_tap(bench):
    """vm1 (10.0.0.1) --- ringway --- tap in a namespace (10.0.0.9)"""
    if os.geteuid() != 0:
        pytest.skip('needs root to make a namespace and a tap')
    ns = bench.netns('h')
    sw = bench.switch('vm1', f'host0=tap,netns={ns.name}').start()
    ns.run('ip', 'addr', 'add', '10.0.0.9/24', 'dev', 'host0')
    ns.run('ip', 'link', 'set', 'host0', 'up')
    g = bench.guest('vm1', vm.vhost_user(sw.sock('vm1'), mac=vm.mac_of(1)), ip='10.0.0.1/24')
    g.start().wait_ready()
    vm.ping(g, '10.0.0.9')
    assert ns.ping_ok('10.0.0.1')
    sent = vm.make_data(g, 16)
    g.check('nc -l -p 5001 -e cat /tmp/out &')
    g.until('netstat -ltn | grep -q :5001')
    assert ns.run(sys.executable, '-c', FETCH_MD5, '10.0.0.1', timeout=300).strip() == sent


@pytest.mark.column('memory not shared: refused with the remedy')
def test_private_memory_is_named(each_qemu):
    """A guest whose memory is not shared cannot work; the switch says what to add."""
    bench = each_qemu
    sw = bench.switch('vm1').start()
    g = bench.guest('vm1', vm.vhost_user(sw.sock('vm1'), mac=vm.mac_of(1)), share=False)
    try:
        g.start()  # QEMU may give up by itself
    except vm.GuestError:
        pass
    why = lab.until(lambda: sw.port('vm1')['state']['last_error'], 'the switch names the fault')
    assert 'share=on' in why, why
    assert sw.proc.poll() is None


@pytest.mark.column('iPXE boot ROM, DHCP')
def test_boot_rom_gets_an_address(each_qemu):
    """The boot ROM of QEMU's card is a second driver, with few features: DHCP through the switch.

    iPXE --- ringway --- vm1 (DHCP server)
    """
    bench = each_qemu
    if not os.path.exists('/usr/lib/ipxe/qemu/pxe-virtio.rom'):
        pytest.skip('ipxe-qemu is not installed')
    sw = bench.switch('vm1', 'rom').start()
    a = bench.guest('vm1', vm.vhost_user(sw.sock('vm1'), mac=vm.mac_of(1)), ip='10.0.0.1/24')
    a.start().wait_ready()
    conf = 'start 10.0.0.50\\nend 10.0.0.50\\ninterface eth0\\nlease_file /tmp/leases\\nauto_time 1\\n'
    a.check(f"printf '{conf}' >/tmp/udhcpd.conf; : >/tmp/leases; udhcpd /tmp/udhcpd.conf")
    net = vm.vhost_user(sw.sock('rom'), mac=vm.mac_of(7), rom=True, device='bootindex=1')
    bench.guest('rom', net, boot_kernel=False).start()
    # An offer is listed too, for a minute; a lease that was asked for lasts days.
    a.until('dumpleases -f /tmp/leases | grep -i 52:54:00:00:00:07 | grep -q day', 120)
    assert sw.port('rom')['rx']['frames'] >= 2
    assert sw.port('rom')['tx']['frames'] >= 2


def test_bridges_are_apart(bench):
    """vm1 --- bridge red      vm2 --- bridge blue: nothing passes until vm2's port moves to red."""
    sw = bench.switch('vm1=vhost-user,bridge=red', 'vm2=vhost-user,bridge=blue').start()
    guests = [bench.guest(f'vm{n}', vm.vhost_user(sw.sock(f'vm{n}'), reconnect=1,
                                                  mac=vm.mac_of(n)), ip=f'10.0.0.{n}/24').start()
              for n in (1, 2)]
    a, b = [g.wait_ready() for g in guests]
    status, out = a.run('ping -c 5 -i 0.2 -W 1 10.0.0.2')
    assert status != 0 and ' 0 packets received' in out, out
    assert sw.port('vm2')['tx']['frames'] == 0
    sw.do('port', 'del', 'vm2')
    sw.do('port', 'add', 'vm2=vhost-user,bridge=red')
    sw.wait_ready('vm2')
    vm.ping(a, '10.0.0.2')
    vm.ping(b, '10.0.0.1')


@pytest.mark.column('arguments that `ringway run` prints')
def test_printed_arguments_plug_in(each_qemu, monkeypatch):
    """`ringway run` prints QEMU arguments; a QEMU started with exactly these works."""
    bench = each_qemu
    monkeypatch.setenv('PATH', os.path.dirname(bench.qemu.program), prepend=os.pathsep)
    sw = bench.switch('vm1', 'vm2').start()
    text = lab.until(lambda: sw.text() if 'Plug a VM into vm2' in sw.text() else None, 'the lines')
    extra = ',vectors=0' if 'add ,vectors=0' in text else ''  # printed for a QEMU that needs it
    assert (bench.qemu.version < (8, 0)) == bool(extra)
    assert ('reconnect-ms=1000' in text) == (bench.qemu.version >= (9, 2))
    guests = []
    for n in (1, 2):
        args = re.search(rf'into vm{n}:\n((?:.*\\\n)*.*)', text)[1].replace('\\\n', ' ') + extra
        g = bench.guest(f'vm{n}', [], ip=f'10.0.0.{n}/24')
        g.plug = shlex.split(args)[1:]
        guests.append(g.start())
    for g in guests:
        g.wait_ready()
    vm.ping(guests[0], '10.0.0.2')
