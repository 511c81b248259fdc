# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that run against one switch (vu_lab.py)."""
import shutil
import tempfile

import pytest

from vu_front import wait_for
from vu_lab import Lab, Net, mac


@pytest.fixture(scope='module')
def lab():
    d = tempfile.mkdtemp(prefix='rw-vu-')
    lab = Lab(d)
    yield lab
    wait_for('every fd closed', lambda: lab.open_fds() <= lab.fds)
    lab.check_heap(lab.heap)
    code = lab.end()
    text = lab.log()
    shutil.rmtree(d)
    assert code == 0, text


@pytest.fixture
def mate(lab):
    """A peer in the same bridge that plays by the rules."""
    with lab.front('mate', mac(3)).start() as f:
        yield f


@pytest.fixture
def net(lab):
    with lab.attack():
        n = Net(lab)
        yield n
        n.end()
