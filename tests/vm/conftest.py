# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lab  # noqa: E402
from lab import vm  # noqa: E402
from table import pytest_configure, record_column  # noqa: E402, F401


def pytest_collection_modifyitems(items):
    missing = [p for p in (vm.QEMU.program, 'cpio') if not shutil.which(p)]
    if missing:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f'{", ".join(missing)} not installed'))


@pytest.fixture(scope='session')
def image():
    return lab.image()


@pytest.fixture
def workdir():
    path = tempfile.mkdtemp(prefix='ringway-vm.')
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Pair:
    """A switch with the ports vm1 and vm2 and a guest on each; the guests reconnect by themselves.

    Booting is the expensive part, so the cases of a file share one pair, and a case that broke it
    makes the next one boot again."""

    def __init__(self, image, port_options='', device='', **guest):
        self.dir = tempfile.mkdtemp(prefix='ringway-vm.')
        self.switch = lab.Switch(f'vm1{port_options}', f'vm2{port_options}')
        self.guests = []
        try:
            self.switch.start()
            for n in (1, 2):
                net = vm.vhost_user(self.switch.sock(f'vm{n}'), reconnect=1, mac=vm.mac_of(n),
                                    mtu=guest.get('mtu', 0), device=device)
                self.guests.append(vm.Guest(f'vm{n}', image, self.dir, net, ip=f'{self.ip(n)}/24',
                                            **guest).start())
            for g in self.guests:
                g.wait_ready()
        except BaseException:
            self.close()
            raise
        self.a, self.b = self.guests

    @staticmethod
    def ip(n):
        return f'10.0.0.{n}'

    def healthy(self):
        return self.switch.proc.poll() is None and all(g.alive() for g in self.guests)

    def both_ping(self):
        vm.ping(self.a, self.ip(2))
        vm.ping(self.b, self.ip(1))

    def logs(self):
        return f'-- switch\n{self.switch.text()}\n' + ''.join(g.logs() for g in self.guests)

    def close(self):
        for g in self.guests:
            g.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        self.switch.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == 'call':
        item.failed = report.failed
        pair = item.funcargs.get('pair')
        if report.failed and pair:
            report.sections.append(('switch and guests', pair.logs()))


@pytest.fixture(scope='module')
def pair_keeper(image):
    """Holds the pair of a module between its cases."""
    keeper = {'pair': None}
    yield keeper
    if keeper['pair']:
        keeper['pair'].close()


@pytest.fixture
def pair(request, image, pair_keeper):
    if not pair_keeper['pair']:
        pair_keeper['pair'] = Pair(image, **getattr(request.module, 'PAIR', {}))
    yield pair_keeper['pair']
    if getattr(request.node, 'failed', True) or not pair_keeper['pair'].healthy():
        broken, pair_keeper['pair'] = pair_keeper['pair'], None
        broken.close()
