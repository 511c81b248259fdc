# SPDX-License-Identifier: Apache-2.0
"""A Linux guest with four CPUs and four queue pairs, under many TCP streams.

    vm1 (10.0.0.1, 4 pairs) --- ringway, two workers --- vm2 (10.0.0.2, 1 pair)
"""
import json
import os
import shutil
import tempfile

import pytest

import lab
from lab import vm

PAIRS = 4


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
    lab.use_all_queues(site.switch, a, b, '10.0.0.1', '10.0.0.2', PAIRS)
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
