# SPDX-License-Identifier: Apache-2.0
"""A Linux guest with four CPUs and four queue pairs, under many TCP streams.

    vm1 (10.0.0.1, 4 pairs) --- ringway, two workers --- vm2 (10.0.0.2, 1 pair)

The guest's card has one interrupt for all queues (no MSI-X under TCG), so its CPUs are given the
receive queues' work by RPS: then a stream is answered by the CPU that its hash says, on that CPU's
queue, and the switch has to follow.
"""
import json
import os
import shutil
import tempfile

import pytest

import lab
from lab import vm

PAIRS = 4
ROUNDS = 12  # of two runs; which CPU a stream lands on is chance


class Site:
    def __init__(self, image):
        self.dir = tempfile.mkdtemp(prefix='ringway-vm.')
        self.guests = []
        cpus = sorted(os.sched_getaffinity(0))
        workers = ','.join(map(str, cpus[:2]))
        self.switch = lab.Switch('--workers', workers, '--balance-ms', '100',
                                 f'vm1=vhost-user,queues={PAIRS}', 'vm2')
        try:
            self.switch.start()
            for n, pairs in ((1, PAIRS), (2, 1)):
                net = vm.vhost_user(self.switch.sock(f'vm{n}'), mac=vm.mac_of(n), queues=pairs)
                self.guests.append(vm.Guest(f'vm{n}', image, self.dir, net, ip=f'10.0.0.{n}/24',
                                            extra=['-smp', str(pairs)]).start())
            for g in self.guests:
                g.wait_ready()
        except BaseException:
            self.close()
            raise

    def rings(self):
        return {r['index']: r for r in self.switch.port('vm1')['state']['rings'] if r['running']}

    def frames(self):
        return {i: r['frames'] for i, r in self.rings().items()}

    def close(self):
        for g in self.guests:
            g.close()
        self.switch.close()
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture(scope='module')
def site(image):
    s = Site(image)
    yield s
    s.close()


def test_all_pairs_run(site):
    assert 'VIRTIO_NET_F_MQ' in site.switch.port('vm1')['state']['features']
    lab.until(lambda: sum(r.get('steered', False) for r in site.rings().values()) == PAIRS,
              'frames may go to all rings')
    assert sorted(site.rings()) == list(range(2 * PAIRS))


def test_streams_use_all_queues(site):
    a, b = site.guests
    for q in range(PAIRS):
        a.check(f'echo f >/sys/class/net/eth0/queues/rx-{q}/rps_cpus')
    vm.ping(a, '10.0.0.2')
    before = site.frames()
    used = {}
    for _ in range(ROUNDS):
        for streams in (lab.iperf(a, b, '10.0.0.2'), lab.iperf(b, a, '10.0.0.1')):
            assert len(streams) == 4 and min(s['bytes'] for s in streams) > 0
        used = {i: n - before[i] for i, n in site.frames().items()}
        if min(used.values()) > 100:
            break
    assert min(used.values()) > 100, f'frames per ring: {used}'
    drops = {d['reason'] for d in json.loads(site.switch.do('show', 'drops', '--json'))['drops']}
    assert drops <= {'no-buffers', 'no-ports'}, drops


def test_fewer_and_more_queues_under_traffic(site):
    """The guest changes how many it uses; nothing is lost for good, and no ring is left over."""
    a, b = site.guests
    stream = lab.Stream(a, b, '10.0.0.2')
    for n in (1, 3, 2, 4):
        a.check(f'ethtool -L eth0 combined {n}')
        lab.until(lambda: sum(r.get('steered', False) for r in site.rings().values()) == n,
                  f'frames go to {n} rings')
        vm.ping(b, '10.0.0.1')
    assert stream.stop() > 0
