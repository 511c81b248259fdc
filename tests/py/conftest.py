# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that run against one switch (vu_lab.py)."""
import shutil
import tempfile

import pytest

from vu_front import wait_for
from vu_lab import Lab, Net, mac

# A leak of one page per attack would show; a sanitizer keeps what was freed for a while.
RSS_SLACK_KB = 8 << 10
RSS_SLACK_SANITIZER_KB = 300 << 10


@pytest.fixture(scope='module')
def lab():
    d = tempfile.mkdtemp(prefix='rw-vu-')
    lab = Lab(d)
    yield lab
    wait_for('every fd closed', lambda: lab.open_fds() <= lab.fds)
    rss, slack = lab.rss_kb(), RSS_SLACK_KB
    with open(f'/proc/{lab.proc.pid}/maps') as f:
        if 'san.so' in f.read():
            slack = RSS_SLACK_SANITIZER_KB
    code = lab.end()
    text = lab.log()
    shutil.rmtree(d)
    assert code == 0, text
    assert rss - lab.rss < slack, f'memory grew from {lab.rss} to {rss} KiB'


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
