# SPDX-License-Identifier: Apache-2.0
"""The switch is killed under load and comes back; both front-ends are modelled after cloud-hypervisor
(recovery.py). virtio-user is in tests/interop/test_recovery.py."""
import shutil
import tempfile

import pytest

import vu_front as vu
from recovery import Echo, Killed, Probe, kill_loop
from vu_lab import mac

FEATURES = vu.Nic.FEATURES | vu.IN_ORDER


@pytest.mark.parametrize('what, features, inflight', [
    ('modelled cloud-hypervisor, split', FEATURES, True),
    ('modelled cloud-hypervisor, packed', FEATURES | vu.PACKED, True),
    ('modelled, packed, no inflight region', FEATURES | vu.PACKED, False),
], ids=['split', 'packed', 'packed-without-region'])
def test_killed_under_load(what, features, inflight):
    folder = tempfile.mkdtemp(prefix='rw-kill-')
    a, b = f'{folder}/a.sock', f'{folder}/b.sock'
    switch = Killed(folder, f'p0=vhost-user,client={a}', f'p1=vhost-user,client={b}')
    try:
        with Probe(a, mac(2), mac=mac(1), features=features, inflight=inflight) as probe, \
             Echo(b, mac=mac(2), features=features, inflight=inflight) as echo:
            kill_loop(what, switch, probe, [echo], 'p1')
            switch.stop()
    finally:
        if switch.proc and switch.proc.poll() is None:
            switch.kill()
        shutil.rmtree(folder)
