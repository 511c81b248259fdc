# SPDX-License-Identifier: Apache-2.0
"""The switch is killed again and again while DPDK's virtio-user (server=1) sends frames back.

    probe (a modelled front-end) --- ringway --- testpmd, which swaps the addresses

See tests/py/recovery.py.
"""
import os
import shutil
import sys
import tempfile

import lab
import pytest
from test_testpmd import MAC, Testpmd, pytestmark  # noqa: F401

sys.path.insert(0, os.path.join(lab.TOP, 'tests', 'py'))
import vu_front as vu  # noqa: E402
from recovery import WINDOW, Killed, Probe, kill_loop  # noqa: E402


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
            pmd = Testpmd([theirs], 'macswap', ',server=1' + (',packed_vq=1' if packed else ''))
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
