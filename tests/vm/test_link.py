# SPDX-License-Identifier: Apache-2.0
"""What the switch tells a guest, and a guest that has moved tells the switch.

    vm1 (10.0.0.1) --- ringway --- vm2 (10.0.0.2)      QEMU connects, and again when it is cut off

vm2 is of the kind that does not announce itself: its driver lacks NET_F_GUEST_ANNOUNCE.
"""
import json
import os
import subprocess

import lab
import pytest
from lab import vm


@pytest.fixture
def two(image, workdir):
    sw = lab.Switch('vm1', 'vm2').start()
    guests = []
    try:
        for n, device in ((1, ''), (2, 'guest_announce=off')):
            net = vm.vhost_user(sw.sock(f'vm{n}'), reconnect=1, mac=vm.mac_of(n), device=device)
            guests.append(vm.Guest(f'vm{n}', image, workdir, net, ip=f'10.0.0.{n}/24').start())
        for g in guests:
            g.wait_ready()
        vm.ping(guests[0], '10.0.0.2')
        yield sw, *guests
    finally:
        for g in guests:
            g.close()
        sw.close()


def carrier(guest, value):
    guest.until(f'[ "$(cat /sys/class/net/eth0/carrier)" = {value} ]')


def test_link_down_and_up(two):
    """The guest sees its cable pulled and plugged in; meanwhile frames have a reason."""
    sw, a, b = two
    carrier(a, 1)
    for _ in range(lab.rounds(2, 20)):
        sw.do('port', 'set', 'vm1', 'link=down')
        carrier(a, 0)
        b.run('ping -c 2 -i 0.1 -W 1 10.0.0.1')
        drops = {d['reason'] for d in json.loads(sw.do('show', 'drops', 'vm1', '--json'))['drops']}
        assert 'link-down' in drops, drops
        sw.do('port', 'set', 'vm1', 'link=up')
        carrier(a, 1)
        vm.ping(a, '10.0.0.2')
        vm.ping(b, '10.0.0.1')


def macs(sw):
    return {m['mac']: m['port'] for m in json.loads(sw.do('show', 'macs', '--json'))['macs']}


@pytest.mark.parametrize('mover, other, frame', [(1, 2, 'arp'), (2, 1, 'rarp')])
def test_announce(two, workdir, mover, other, frame):
    """After a migration QEMU has the guest announced: by its driver, or else through SEND_RARP.

    The switch then knows where the guest is, and the other port has heard of it."""
    sw, *guests = two
    features = sw.port(f'vm{mover}')['state']['features']
    assert ('VIRTIO_NET_F_GUEST_ANNOUNCE' in features) == (frame == 'arp')
    out = os.path.join(workdir, 'heard')
    with open(out, 'wb') as f:
        heard = subprocess.Popen(
            [lab.RINGWAY, 'capture', f'vm{other}', frame, 'and', 'ether', 'src', vm.mac_of(mover),
             '-Q', 'out', '-c', '1', '--rundir', sw.rundir],
            stdout=f, stderr=subprocess.STDOUT, preexec_fn=vm.die_with_parent)
    try:
        lab.until(lambda: sw.port(f'vm{other}')['captures'], 'the capture has begun')
        sw.do('mac', 'flush')
        assert vm.mac_of(mover) not in macs(sw)
        guests[mover - 1].qmp('announce-self', initial=50, max=550, rounds=5, step=50)
        lab.until(lambda: macs(sw).get(vm.mac_of(mover)) == f'vm{mover}', 'the switch knows')
        assert heard.wait(60 * vm.SLOW) == 0, open(out).read()
    finally:
        heard.kill()
        heard.wait()
