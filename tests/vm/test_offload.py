# SPDX-License-Identifier: Apache-2.0
"""Guests and host that differ in what they offload, and files that arrive whole all the same.

    vm1 (10.0.0.1, all offloads) --- ringway --- vm2 (10.0.0.2, all offloads)
                                        |  \\---- vm3 (10.0.0.3, offered none)
                                      tap0 (10.0.0.100, the host in a namespace)

What vm1 uses is changed with ethtool.  Linux cannot turn receive checksums off where the card has no
CTRL_GUEST_OFFLOADS, so for that the switch is told what it may send: rx-offload=none.
"""
import itertools
import json
import os
import shutil
import subprocess
import tempfile

import pytest

import lab
from lab import vm

MIB = 2
FEATURES = ('tx', 'rx', 'tso', 'gso', 'gro')
HOST = '10.0.0.100'


class Host:
    """The far end of tap0; speaks like a guest."""

    name = 'host'

    def __init__(self):
        self.netns = lab.Netns('o')
        self.dir = tempfile.mkdtemp(prefix='ringway-vm.')
        os.mkdir(f'{self.dir}/bin')
        for applet in ('nc', 'md5sum', 'dd', 'netstat', 'grep', 'cat', 'rm', 'mv'):
            os.symlink('/bin/busybox', f'{self.dir}/bin/{applet}')

    def run(self, cmd, timeout=60):
        # into a file: a pipe would be open as long as what the command leaves running
        with open(f'{self.dir}/said', 'w+') as said:
            status = subprocess.run(
                ['ip', 'netns', 'exec', self.netns.name, '/bin/sh', '-c',
                 cmd.replace('/tmp/', f'{self.dir}/')], stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.DEVNULL, timeout=timeout * vm.SLOW,
                env={'PATH': f'{self.dir}/bin:/bin:/sbin:/usr/sbin:/usr/bin'}).returncode
            said.seek(0)
            return status, said.read().strip()

    check, until, state = vm.Guest.check, vm.Guest.until, vm.Guest.state

    def close(self):
        self.netns.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Site:
    def __init__(self, image):
        self.dir = tempfile.mkdtemp(prefix='ringway-vm.')
        self.host = Host()
        self.guests = []
        self.large = []  # mean sizes of the frames that vm1 sent with TSO on
        self.switch = lab.Switch('vm1', 'vm2', 'vm3=vhost-user,offload=none',
                                 f'tap0=tap,netns={self.host.netns.name}')
        try:
            self.switch.start()
            self.host.netns.run('ip', 'addr', 'add', f'{HOST}/24', 'dev', 'tap0')
            for n in (1, 2, 3):
                net = vm.vhost_user(self.switch.sock(f'vm{n}'), mac=vm.mac_of(n))
                self.guests.append(
                    vm.Guest(f'vm{n}', image, self.dir, net, ip=f'10.0.0.{n}/24').start())
            for g in self.guests:
                g.wait_ready()
            self.sums = {h: vm.make_data(h, MIB) for h in (*self.guests, self.host)}
        except BaseException:
            self.close()
            raise

    def ip(self, who):
        return HOST if who is self.host else f'10.0.0.{who.name[2:]}'

    def send(self, src, dst):
        """A file; what arrived is what was sent. Mean size of the frames that src sent for it."""
        port = 'tap0' if src is self.host else src.name
        before = self.switch.port(port)['rx']
        assert vm.transfer(src, dst, self.ip(dst))[0] == self.sums[src], (
            f'{src.name} to {dst.name}: not what was sent')
        after = self.switch.port(port)['rx']
        return (after['bytes'] - before['bytes']) / (after['frames'] - before['frames'])

    def close(self):
        for g in self.guests:
            g.close()
        self.switch.close()
        self.host.close()
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture(scope='module')
def site(image):
    s = Site(image)
    yield s
    s.close()


def test_linux_uses_them_by_default(site):
    for n, on in ((1, True), (3, False)):
        features = site.switch.port(f'vm{n}')['state']['features']
        for name in ('CSUM', 'GUEST_CSUM', 'HOST_TSO4', 'HOST_TSO6', 'GUEST_TSO4', 'GUEST_TSO6'):
            assert (f'VIRTIO_NET_F_{name}' in features) == on, (n, name)
        seen = site.guests[n - 1].check('ethtool -k eth0').split()
        assert seen[seen.index('tcp-segmentation-offload:') + 1] == ('on' if on else 'off')


@pytest.mark.parametrize('on', list(itertools.product((True, False), repeat=len(FEATURES))),
                         ids=lambda on: '+'.join(f for f, b in zip(FEATURES, on) if b) or 'nothing')
def test_every_combination(site, on):
    want = dict(zip(FEATURES, on))
    a, b = site.guests[:2]
    a.check('ethtool -K eth0 ' + ' '.join(f'{f} {"on" if v else "off"}' for f, v in want.items()
                                          if f != 'rx') + ' >/dev/null')
    site.switch.do('port', 'set', 'vm1', f'rx-offload={"all" if want["rx"] else "none"}')
    for far in (b, site.host):
        size = site.send(a, far)
        # TSO needs the checksum left to others; software GSO hands the card single frames
        if want['tx'] and want['tso']:
            site.large.append(size)
        else:
            assert size < 1515, 'ethtool decides what vm1 sends'
        site.send(far, a)
    drops = json.loads(site.switch.do('show', 'drops', 'vm1', '--json'))['drops']
    assert {d['reason'] for d in drops} <= {'no-buffers'}, 'a slow guest is the only reason'


def test_large_frames_were_among_them(site):
    assert max(site.large) > 3000, site.large  # how large each time is TCP's choice


@pytest.mark.parametrize('far', [0, 1, None], ids=['vm1', 'vm2', 'host'])
def test_guest_without_any_offload(site, far):
    site.guests[0].check('ethtool -K eth0 tx on tso on gso on gro on >/dev/null')
    site.switch.do('port', 'set', 'vm1', 'rx-offload=all')
    other = site.host if far is None else site.guests[far]
    plain = site.guests[2]
    assert site.send(other, plain) > 1515, 'large frames came in, and vm3 got its own size'
    assert site.send(plain, other) < 1515
