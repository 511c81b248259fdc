# SPDX-License-Identifier: Apache-2.0
"""Two Linux guests on one switch, and everything that happens to them in a day.

    vm1 (10.0.0.1) --- ringway --- vm2 (10.0.0.2)      QEMU connects, and again when it is cut off
"""
import time

import lab
from lab import vm


def test_ping(pair):
    pair.both_ping()
    vm.ping(pair.a, pair.ip(2), size=1472)
    assert pair.switch.port('vm1')['rx']['frames'] > 0
    assert pair.switch.port('vm2')['tx']['frames'] > 0


def test_tcp_both_ways(pair):
    for src, dst, ip in ((pair.a, pair.b, pair.ip(2)), (pair.b, pair.a, pair.ip(1))):
        sent = vm.make_data(src, lab.rounds(16, 64))
        assert vm.transfer(src, dst, ip)[0] == sent


def test_negotiated_features(pair):
    """What Linux and QEMU do support is really in use, or all other cases test less than they say."""
    features = set(pair.switch.port('vm1')['state']['features'])
    assert {f'VIRTIO_{f}' for f in (
        'F_VERSION_1', 'NET_F_MRG_RXBUF', 'F_EVENT_IDX', 'F_INDIRECT_DESC', 'NET_F_CSUM',
        'NET_F_GUEST_CSUM', 'NET_F_HOST_TSO4', 'NET_F_GUEST_TSO4')} <= features


def test_guest_reboots(pair):
    for _ in range(lab.rounds(1, 3)):
        pair.b.reset()
        pair.both_ping()


def test_stop_and_cont(pair):
    """A guest that stands still loses frames, and goes on where it was."""
    for _ in range(lab.rounds(3, 20)):
        pair.b.stop()
        pair.a.run(f'ping -c 3 -i 0.1 -W 1 {pair.ip(2)}')
        pair.b.cont()
        pair.both_ping()


def test_qemu_killed_and_restarted(pair):
    for _ in range(lab.rounds(1, 3)):
        pair.b.kill()
        pair.switch.wait_down('vm2')
        pair.a.run(f'ping -c 2 -i 0.1 -W 1 {pair.ip(2)}')
        pair.b.start()
        pair.b.wait_ready()
        pair.both_ping()


def test_switch_killed_and_restarted(pair):
    """SIGKILL leaves socket files behind; the new switch takes them over, QEMU reconnects."""
    for _ in range(lab.rounds(2, 10)):
        pair.switch.kill()
        pair.switch.start()
        pair.switch.wait_ready('vm1', 'vm2')
        pair.both_ping()


def test_other_port_comes_and_goes_under_traffic(pair):
    stream = lab.Stream(pair.a, pair.b, pair.ip(2))
    for n in range(lab.rounds(20, 200)):
        pair.switch.do('port', 'add', f'extra{n}')
        pair.switch.do('port', 'del', f'extra{n}')
    assert stream.stop() > 0
    pair.both_ping()


def test_port_removed_and_added_under_traffic(pair):
    """The port that the traffic goes to: the sender goes on, the guest comes back."""
    pair.a.check(f'ping -i 0.01 {pair.ip(2)} >/dev/null 2>&1 & echo $! >/tmp/flood')
    for _ in range(lab.rounds(3, 30)):
        pair.switch.do('port', 'del', 'vm2')
        time.sleep(0.2)  # traffic meets the hole
        pair.switch.do('port', 'add', 'vm2')
        pair.switch.wait_ready('vm2')
        vm.ping(pair.a, pair.ip(2))
    pair.a.check('kill $(cat /tmp/flood)')
    pair.both_ping()
