# SPDX-License-Identifier: Apache-2.0
"""The switch is killed again and again while DPDK's virtio-user (server=1) sends frames back.

    probe (a modelled front-end) --- ringway --- testpmd, which swaps the addresses

See tests/py/recovery.py.
"""
import shutil
import tempfile

import pytest
from dpdk import MAC, Testpmd, needs_testpmd, virtio_user

import vu_front as vu
from recovery import WINDOW, Killed, Probe, kill_loop

pytestmark = needs_testpmd


@pytest.mark.parametrize('packed', [False, True], ids=['split', 'packed'])
def test_killed_under_load(packed):
    folder = tempfile.mkdtemp(prefix='ringway-kill.')
    mine, theirs = f'{folder}/probe.sock', f'{folder}/pmd.sock'
    switch = Killed(folder, f'probe=vhost-user,client={mine}', f'pmd=vhost-user,client={theirs}')
    features = vu.Nic.FEATURES | vu.IN_ORDER | (vu.PACKED if packed else 0)
    pmd = None
    try:
        with Probe(mine, vu.mac_bytes(MAC[0]), mac=b'\x02\0\0\0\0\x09', features=features) as probe:
            switch.start()
            probe.serve()
            pmd = Testpmd(virtio_user([theirs], ',server=1' + (',packed_vq=1' if packed else '')), 'macswap')
            pmd.prompt()
            pmd.do('start')
            switch.kill()
            # It resets its packed rings when the switch comes back, and drops what is in them
            # ("Packets on the fly will be dropped"): so all that is under way may be gone.
            kill_loop(f'DPDK virtio-user, server=1, {"packed" if packed else "split"}', switch, probe,
                      [], 'pmd', peer_loses=WINDOW if packed else 0)
            pmd.do('stop')
            switch.stop()
    finally:
        if pmd:
            pmd.close()
        if switch.proc and switch.proc.poll() is None:
            switch.kill()
        shutil.rmtree(folder, ignore_errors=True)
