# SPDX-License-Identifier: Apache-2.0
"""TCP between two Linux guests: what the offloads are for.

    vm1 ---+--- ringway ---+--- vm2      ports as they come
    vm3 ---+               +--- vm4      offload=none

Both pairs are up all the time and take turns, as the switches of `ringway bench` do; a guest that is
not measured is idle. The guests keep what `ethtool -K` has by default. QEMU emulates their CPUs
(TCG), so this is the time that the guests' kernels need per frame and per byte, not the speed of the
switch: with offloads most of it goes into the receiver's copy to user space. qemu64 is QEMU's default
CPU; that of the other tests has `rep movsb` and SMAP, with which an emulated copy takes longer still.

The ratio that is required (REQUIRED) needs a quiet machine; what is asserted any machine shows.

    RINGWAY_LONG=1 RINGWAY_RESULTS=FILE meson test -C build guests_throughput -v

makes more and longer rounds, and writes FILE for tools/performance-table.
"""
import json
import os
import shutil
import statistics
import tempfile

import pytest

import lab
from lab import vm

ROUNDS = lab.rounds(5, 11)
SECONDS = lab.rounds(2, 5)
REQUIRED = 3.0
ASSERTED = 1.5
CPU = 'qemu64'


class Site:
    def __init__(self, image):
        self.dir = tempfile.mkdtemp(prefix='ringway-vm.')
        self.guests = []
        self.switch = lab.Switch('vm1', 'vm2', 'vm3=vhost-user,offload=none',
                                 'vm4=vhost-user,offload=none')
        try:
            self.switch.start()
            for n in (1, 2, 3, 4):
                net = vm.vhost_user(self.switch.sock(f'vm{n}'), mac=vm.mac_of(n))
                self.guests.append(
                    vm.Guest(f'vm{n}', image, self.dir, net, ip=f'10.0.0.{n}/24',
                             extra=['-cpu', CPU]).start())
            for g in self.guests:
                g.wait_ready()
        except BaseException:
            self.close()
            raise

    def gbit(self, src):
        """From guest number src to the next one."""
        streams = lab.iperf(self.guests[src], self.guests[src + 1], f'10.0.0.{src + 2}', streams=1,
                            seconds=SECONDS)
        return sum(s['bits_per_second'] for s in streams) / 1e9

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


def series(values):
    return {'median': statistics.median(values), 'min': min(values), 'max': max(values),
            'rounds': values}


def write_results(on, off, ratios):
    """As `ringway bench --json` writes a case."""
    ratio = series(ratios)
    case = {'name': 'iperf3',
            'subjects': [{'label': 'Linux guests, offloads', 'gbit_per_s': series(on)},
                         {'label': 'Linux guests, offload=none', 'gbit_per_s': series(off)}],
            'bars': [{'text': 'offloads / offload=none', 'unit': 'x', 'value': ratio,
                      'at_least': REQUIRED, 'pass': ratio['median'] >= REQUIRED}]}
    with open(os.environ['RINGWAY_RESULTS'], 'w', encoding='utf-8') as f:
        json.dump({'cases': [case]}, f, indent=2)


def spread(values):
    return f'{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})'


def test_offloads_pay(site):
    on, off = [], []
    for n in range(ROUNDS):
        for first, results in ((0, on), (2, off)) if n % 2 else ((2, off), (0, on)):
            results.append(site.gbit(first))
    ratios = [a / b for a, b in zip(on, off)]
    print(f'\niperf3, one TCP stream, {ROUNDS} rounds of {SECONDS} s, {site.guests[0].accel}: '
          f'{spread(on)} Gbit/s with offloads, {spread(off)} without, ratio {spread(ratios)}, '
          f'required {REQUIRED:g}')
    if 'RINGWAY_RESULTS' in os.environ:
        write_results(on, off, ratios)
    drops = {d['reason'] for d in json.loads(site.switch.do('show', 'drops', '--json'))['drops']}
    assert drops <= {'no-buffers', 'no-ports'}, drops
    assert statistics.median(ratios) >= ASSERTED
