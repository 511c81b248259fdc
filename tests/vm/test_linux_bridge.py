# SPDX-License-Identifier: Apache-2.0
"""The same frames through a Linux bridge with vlan_filtering and through ringway: the same frames
must come out, at the same ports, to the last byte.

    a socket per port --- QEMU --- eth0..3 of a guest, its bridge br0
    a front-end per port --- ringway, br0

Many hosts' kernels have no VLAN filtering; the guest's is Debian's, which has.
"""
import contextlib
import os
import random
import socket
import struct
import sys

import pytest

import lab
from lab import vm

sys.path.insert(0, f'{lab.TOP}/tests/py')
from test_vlan import bare, tagged  # noqa: E402
from vu_front import Nic  # noqa: E402
from scapy.layers.l2 import Dot1AD, Dot1Q  # noqa: E402

PORTS = 4
SENTINEL = 4000  # all ports are members, tagged: when its frame is there, those before it are
STATIONS = [f'02:00:00:00:01:{n:02x}' for n in range(6)]
VIDS = [0, 1, 2, 10, 15, 20, 30, 4094, 4095]

# For each port what bridge(8) and ringway are told alike: (vids, flags).
SETS = {
    'access': ('802.1Q', [[('10', 'pvid untagged')], [('20', 'pvid untagged')], [('10-20', '')],
                          [('10', ''), ('30', ''), ('20', 'pvid untagged')]]),
    'odd': ('802.1Q', [[('1-2', 'untagged'), ('2', 'pvid')], [('1', 'pvid'), ('2', 'untagged')],
                       [('1-4094', '')], [('2', 'pvid untagged'), ('10-30', 'untagged')]]),
    'qinq': ('802.1ad', [[('10', 'pvid untagged')], [('20', 'pvid untagged')], [('10-20', '')],
                         [('10', ''), ('20', 'pvid untagged')]]),
}


class Linux:
    """A guest whose NIC i exchanges frames with socket i, all of them in a bridge."""

    def __init__(self, image, dir):
        self.socks, net = [], []
        for i in range(PORTS):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO,
                         struct.pack('ll', int(60 * vm.SLOW), 0))
            s.bind(f'{dir}/host{i}')
            net += ['-netdev', f'dgram,id=n{i},local.type=unix,local.path={dir}/guest{i},'
                    f'remote.type=unix,remote.path={dir}/host{i}',
                    *vm.virtio_net(f'n{i}', mac=f'52:54:00:00:02:{i:02x}')]
            self.socks.append(s)
        self.dir, self.seen = dir, [[] for _ in range(PORTS)]
        self.guest = vm.Guest('linux', image, dir, net).start().wait_ready()

    def configure(self, protocol, ports):
        sys_ = '/sys/class/net/br0/bridge'
        g = self.guest
        g.run('ip link del br0')
        g.check('ip link add br0 type bridge')
        for name, value in (('vlan_protocol', {'802.1Q': '0x8100', '802.1ad': '0x88a8'}[protocol]),
                            ('default_pvid', '0'), ('vlan_filtering', '1'), ('multicast_snooping', '0'),
                            ('stp_state', '0'), ('forward_delay', '0')):
            g.check(f'echo {value} >{sys_}/{name}')
        for i, vlans in enumerate(ports):
            g.check(f'ip link set eth{i} master br0 && ip link set eth{i} up')
            for vids, flags in [*vlans, (str(SENTINEL), '')]:
                g.check(f'bridge vlan add dev eth{i} vid {vids} {flags}')
        g.check('ip link set br0 up')
        g.until(f'[ $(cat /sys/class/net/br0/brif/*/state | grep -c 3) = {PORTS} ]')

    def send(self, i, frame):
        self.socks[i].sendto(frame, f'{self.dir}/guest{i}')

    def poll(self):
        for s, seen in zip(self.socks, self.seen):
            with contextlib.suppress(BlockingIOError):
                while True:
                    seen.append(s.recv(65536, socket.MSG_DONTWAIT))

    def close(self):
        self.guest.close()
        for s in self.socks:
            s.close()


class Ringway:
    """A front-end on each port of a switch."""

    def __init__(self):
        self.switch = lab.Switch(*[f'p{i}' for i in range(PORTS)]).start()
        self.nics = [Nic(self.switch.sock(f'p{i}'), mac=bytes([2, 0, 0, 0, 3, i])) for i in range(PORTS)]
        self.seen = [[] for _ in range(PORTS)]

    def configure(self, protocol, ports):
        self.switch.do('bridge', 'set', 'br0', 'vlan-filtering=yes', f'vlan-protocol={protocol}',
                       'vlan-default-pvid=0')
        self.switch.do('mac', 'flush')
        for i, vlans in enumerate(ports):
            self.switch.do('port', 'set', f'p{i}', 'vlan=1', 'vlan=0')  # none of its own
            for vids, flags in [*vlans, (str(SENTINEL), '')]:
                self.switch.do('vlan', 'add', 'dev', f'p{i}', 'vid', vids, *flags.split())

    def send(self, i, frame):
        self.nics[i].send_frames(frame)

    def poll(self):
        for nic, seen in zip(self.nics, self.seen):
            seen += nic.received()

    def close(self):
        for nic in self.nics:
            nic.close()
        self.switch.close()


@pytest.fixture(scope='module')
def both(image, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        pair = []
        for make in (Ringway, lambda: Linux(image, str(tmp_path_factory.mktemp('vlan')))):
            pair.append(make())
            stack.callback(pair[-1].close)
        yield pair


def some_frames(rng, number):
    """What a port may send, right or wrong; each with a number of its own at its end."""
    for _ in range(20):
        pkt = bare(rng.choice(STATIONS), rng.choice([46, 60, 100, 150, 170, 300, 1400]))
        pkt.dst = rng.choice(STATIONS + ['ff:ff:ff:ff:ff:ff', '01:00:5e:00:00:07'])
        tags = [(rng.choice([Dot1Q, Dot1Q, Dot1AD]), rng.choice(VIDS), rng.randrange(8),
                 rng.randrange(2)) for _ in range(rng.choice([0, 1, 1, 1, 2]))]
        yield bytes(tagged(pkt, *tags) if tags else pkt) + struct.pack('!I', next(number))


def exchange(side, i, frames, sentinel):
    """What each port gets when port i sends these."""
    side.seen = [[] for _ in range(PORTS)]
    for f in [*frames, sentinel]:
        side.send(i, f)

    def complete():
        side.poll()
        return all(sentinel in s for j, s in enumerate(side.seen) if j != i)
    lab.until(complete, f'the sentinel of port {i} arrives')
    mark = sentinel[-8:-4]  # of our own frames, not of what the guest says by itself
    return [[f for f in s[:s.index(sentinel)] if f[-8:-4] == mark] if j != i else []
            for j, s in enumerate(side.seen)]


@pytest.mark.parametrize('name', SETS)
def test_like_a_linux_bridge(both, name):
    protocol, ports = SETS[name]
    seed = int(os.environ.get('VLAN_SEED', '7'))
    print(f'VLAN_SEED={seed} repeats this')
    rng = random.Random(seed)
    cls = {'802.1Q': Dot1Q, '802.1ad': Dot1AD}[protocol]
    for side in both:
        side.configure(protocol, ports)
    number = iter(range(1 << 30))
    mark = b'mark'
    n_out = 0
    for turn in range(lab.rounds(60, 600)):
        i = turn % PORTS
        frames = [f[:-4] + mark + f[-4:] for f in some_frames(rng, number)]
        sentinel = bytes(tagged(bare(f'02:00:00:00:09:{i:02x}', 60), (cls, SENTINEL, 0, 0)))
        sentinel += mark + struct.pack('!I', next(number))
        mine, linux = (exchange(side, i, frames, sentinel) for side in both)
        for j in range(PORTS):
            assert [f.hex() for f in mine[j]] == [f.hex() for f in linux[j]], \
                f'turn {turn}: port {i} sent, port {j} got something else'
            n_out += len(mine[j])
    assert n_out > 400
