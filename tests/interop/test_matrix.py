# SPDX-License-Identifier: Apache-2.0
"""Each QEMU with each kernel, ring layout and number of queues, all on one switch at the same time, so
that every kind of guest talks to the others.

    vm1 ... vmN --- ringway          N kinds: KINDS in long runs, else those that FEW takes

What happens to guests of the machine's own QEMU in a day is in tests/vm/test_pair.py and test_packed.py.
"""
import collections
import itertools
import os
import shutil
import tempfile

import pytest

import lab
from lab import vm

MIB = 2
Kind = collections.namedtuple('Kind', 'qemu linux layout queues')
# The own QEMU, if it is 7.2, does not run the newer kernel everywhere: test_older_qemu_with_newer_kernel.
KINDS = [Kind(*pair, layout, queues) for pair, layout, queues in itertools.product(
    (('own', 'own'), ('newer', 'own'), ('newer', 'newer')), ('split', 'packed'), (1, 2))]
FEW = [k for k in KINDS if (k.queues == 2) == ((k.qemu == k.linux) == (k.layout == 'packed'))]
KINDS = KINDS if lab.LONG else FEW
EACH = pytest.mark.parametrize('kind', KINDS, ids=lambda k: '-'.join(map(str, k)))
NEWER = pytest.mark.parametrize('kind', [k for k in KINDS if lab.LONG or k.qemu == 'newer'],
                                ids=lambda k: '-'.join(map(str, k)))


class Site:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix='ringway-vm.')
        self.qemu = {'own': vm.QEMU, 'newer': lab.newer_qemu()}
        self.image = {'own': lab.image(), 'newer': lab.image(backports=True)}
        self.guests = {}
        self.sums = {}
        self.switch = lab.Switch(*(f'vm{n}=vhost-user,queues={k.queues}'
                                   for n, k in enumerate(KINDS, 1)))
        try:
            self.switch.start()
            for n, kind in enumerate(KINDS, 1):
                self.guests[kind] = self.guest(n, kind).start()
            for g in self.guests.values():
                self.wait_booted(g)
        except BaseException:
            self.close()
            raise

    def guest(self, n, kind):
        qemu = self.qemu[kind.qemu]
        net = vm.vhost_user(self.switch.sock(f'vm{n}'), mac=vm.mac_of(n), queues=kind.queues, qemu=qemu,
                            reconnect=1, device='packed=on' if kind.layout == 'packed' else '')
        return vm.Guest(f'vm{n}', self.image[kind.linux], self.dir, net, ip=f'10.0.0.{n}/24', qemu=qemu,
                        extra=['-smp', str(kind.queues)])

    def wait_booted(self, g):
        g.wait_ready(240)  # all of them boot at the same time
        self.sums[g] = vm.make_data(g, MIB)

    def get(self, kind):
        g = self.guests[kind]
        if not g.alive():  # a case before this one failed
            g.start()
            self.wait_booted(g)
        return g

    def other(self, kind, distance=1):
        return self.get(KINDS[(KINDS.index(kind) + distance) % len(KINDS)])

    def ip(self, g):
        return f'10.0.0.{g.name[2:]}'

    def both_ping(self, a, b):
        vm.ping(a, self.ip(b))
        vm.ping(b, self.ip(a))

    def send(self, src, dst):
        """A file; what arrived is what was sent. Mean size of the frames that src sent for it."""
        before = self.switch.port(src.name)['rx']
        assert vm.transfer(src, dst, self.ip(dst))[0] == self.sums[src], (
            f'{src.name} to {dst.name}: not what was sent')
        after = self.switch.port(src.name)['rx']
        return (after['bytes'] - before['bytes']) / (after['frames'] - before['frames'])

    def close(self):
        for g in self.guests.values():
            g.close()
        self.switch.close()
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture(scope='module')
def site():
    s = Site()
    yield s
    s.close()


@pytest.fixture
def row(request, site, record_property):
    """Names the row of the table in docs/interop.md that the case of this kind belongs to."""
    kind = request.node.callspec.params['kind']
    linux = '.'.join(site.get(kind).check('uname -r').split('.')[:2])
    record_property('row', 'QEMU %d.%d, ' % site.qemu[kind.qemu].version
                    + f'Linux {linux}, {kind.layout}, {kind.queues} queue{"s" * (kind.queues > 1)}')


def column(name):
    """Names its column."""
    return pytest.mark.column(name)


@EACH
@column('features')
def test_features(site, row, kind):
    """What was asked for is in use, what this pair has not is named."""
    g = site.get(kind)
    state = site.switch.port(g.name)['state']
    features = {f.replace('VIRTIO_', '') for f in state['features']}
    assert {'F_VERSION_1', 'F_EVENT_IDX', 'F_INDIRECT_DESC', 'NET_F_MRG_RXBUF', 'NET_F_CSUM',
            'NET_F_GUEST_CSUM', 'NET_F_HOST_TSO4', 'NET_F_HOST_TSO6', 'NET_F_GUEST_TSO4',
            'NET_F_GUEST_TSO6'} <= features
    assert ('F_RING_PACKED' in features) == (kind.layout == 'packed')
    assert ('NET_F_MQ' in features) == (kind.queues > 1)
    assert set(state['peer_lacks']) & set(state['features_offered']) == (
        set(state['features_offered']) - set(state['features']))
    shown = site.switch.do('show', 'ports', g.name)
    assert all(f in shown.split('peer_lacks')[1] for f in state['peer_lacks'])


@EACH
@column('USO')
def test_uso(site, row, kind, record_property):
    """Large UDP frames need a QEMU that lets its vhost-user card have them: none of these does, so
    neither does their driver. The switch offers them to both."""
    g = site.get(kind)
    state = site.switch.port(g.name)['state']
    uso = {'VIRTIO_NET_F_GUEST_USO4', 'VIRTIO_NET_F_GUEST_USO6', 'VIRTIO_NET_F_HOST_USO'}
    assert uso <= set(state['features_offered'])
    assert uso <= set(state['peer_lacks']), 'this QEMU has USO: test it'
    assert 'tx-udp-segmentation: off [fixed]' in g.check('ethtool -k eth0')
    record_property('cannot', 'QEMU asks its network back-end whether it has USO, and vhost-user does '
                    'not answer, so no guest is offered it')


@EACH
@column('TCP, TSO')
def test_large_frames(site, row, kind):
    g, far = site.get(kind), site.other(kind)
    site.both_ping(g, far)
    assert max(site.send(g, far) for _ in range(2)) > 1515, 'TSO: frames larger than the MTU'
    assert max(site.send(far, g) for _ in range(2)) > 1515


@EACH
@column('TCP, no offload')
def test_no_offload(site, row, kind):
    """What the guest sends is cut and summed by itself, and what comes for it by the switch."""
    g, far = site.get(kind), site.other(kind, 2)
    g.check('ethtool -K eth0 tx off tso off >/dev/null')
    site.switch.do('port', 'set', g.name, 'rx-offload=none')
    try:
        assert site.send(g, far) < 1515
        before = site.switch.port(g.name)['tx']
        assert site.send(far, g) > 1515
        after = site.switch.port(g.name)['tx']
        assert (after['bytes'] - before['bytes']) / (after['frames'] - before['frames']) < 1515
    finally:
        site.switch.do('port', 'set', g.name, 'rx-offload=all')
        g.check('ethtool -K eth0 tx on tso on >/dev/null')


@pytest.mark.parametrize('kind', [k for k in KINDS if k.queues > 1],
                         ids=lambda k: '-'.join(map(str, k)))
@column('all queues used')
def test_all_queues(site, row, kind):
    g, far = site.get(kind), site.other(kind)
    lab.use_all_queues(site.switch, g, far, site.ip(g), site.ip(far), kind.queues)


@NEWER
@column('stop, cont')
def test_stop_and_cont(site, row, kind):
    g, far = site.get(kind), site.other(kind)
    for _ in range(lab.rounds(2, 10)):
        g.stop()
        far.run(f'ping -c 3 -i 0.1 -W 1 {site.ip(g)}')
        g.cont()
        site.both_ping(g, far)


@NEWER
@column('guest reboots')
def test_reboot(site, row, kind):
    g, far = site.get(kind), site.other(kind)
    g.reset()
    site.sums[g] = vm.make_data(g, MIB)
    site.both_ping(g, far)
    site.send(g, far)


@NEWER
@column('QEMU killed')
def test_qemu_killed(site, row, kind):
    g, far = site.get(kind), site.other(kind)
    g.kill()
    site.switch.wait_down(g.name)
    site.get(kind)
    site.both_ping(g, far)
    site.send(far, g)


@EACH
@column('switch killed')
def test_switch_killed(site, row, kind):
    """The guest goes on where it was, together with the others."""
    g = site.get(kind)
    for _ in range(lab.rounds(1, 5)):
        site.switch.kill()
        site.switch.start()
        site.switch.wait_ready(*(site.get(k).name for k in KINDS))
        for far in (site.get(k) for k in KINDS if k != kind):
            site.both_ping(g, far)
            site.send(g, far)


if lab.LONG:  # several boots to know whether this machine can do it
    def boots(image, folder, net=()):
        """A guest of the older QEMU with the newer kernel, or None: it hung, or ended in a kernel panic."""
        g = vm.Guest('vm1', image, folder, net, ip='10.0.0.1/24')
        try:
            return g.start().wait_ready(90)
        except vm.GuestError:
            g.close()
            return None

    @column('boots, and pings')
    def test_older_qemu_with_newer_kernel(record_property):
        """Six times without any card, where the switch has no part in it. Where all of these are good, the
        pair has to work with one, too."""
        if vm.QEMU.version >= (8, 0):
            pytest.skip('the QEMU of this machine is newer')
        record_property('row', 'QEMU %d.%d, Linux 6.12' % vm.QEMU.version)
        image = lab.image(backports=True)
        with tempfile.TemporaryDirectory(prefix='ringway-vm.') as folder:
            for n in range(1, 7):
                g = boots(image, folder)
                if not g:
                    record_property('cannot', f'boot {n} without any card hung or ended in a kernel panic: '
                                    'the emulation of the CPU (TCG) in this QEMU is at fault')
                    return
                g.close()
            ns = lab.Netns('o')
            sw = lab.Switch('vm1', f'tap0=tap,netns={ns.name}')
            g = None
            try:
                sw.start()
                ns.run('ip', 'addr', 'add', '10.0.0.9/24', 'dev', 'tap0')
                ns.run('ip', 'link', 'set', 'tap0', 'up')
                g = boots(image, folder, vm.vhost_user(sw.sock('vm1'), mac=vm.mac_of(1)))
                assert g and ns.ping_ok('10.0.0.1')
            finally:
                if g:
                    g.close()
                sw.close()
                ns.close()
