# SPDX-License-Identifier: Apache-2.0
"""Live migration between the QEMUs, under load and there and back: tests/vm/migrate.py says what is
compared.  The machine type and the CPU are those that both QEMUs have.
"""
import itertools
import os
import tempfile

import lab
import migrate
import pytest
from lab import vm

WAYS = [('own', 'newer')] if not lab.LONG else [('own', 'own'), ('own', 'newer'), ('newer', 'newer')]
CASES = list(itertools.product(WAYS, ['split', 'packed']))


@pytest.mark.skipif(os.geteuid(), reason='needs root: a tap in a network namespace')
@pytest.mark.parametrize('way, layout', CASES, ids=lambda c: '-'.join(c) if isinstance(c, tuple) else c)
@pytest.mark.column('migrated there and back')
def test_there_and_back(record_property, way, layout):
    qemu = {'own': vm.QEMU, 'newer': lab.newer_qemu()}
    pair = [qemu[w] for w in way]
    oldest = min(pair, key=lambda q: q.version)
    record_property('row', ' and '.join('QEMU %d.%d' % q.version for q in pair) + f', {layout}')
    extra = ['-machine', 'pc-q35-%d.%d' % oldest.version, '-cpu', 'qemu64', *oldest.tcg()]
    with tempfile.TemporaryDirectory(prefix='ringway-vm.') as folder, migrate.sides() as (ns, both):
        moving = migrate.Moving(lab.image(), folder, ns, both, 'packed=on' if layout == 'packed' else '',
                                qemu=pair, extra=extra)
        try:
            for n in range(lab.rounds(2, 10)):
                t = moving.migrate()
                print(f'{way[n % 2]} to {way[(n + 1) % 2]}, {layout}: {t}', flush=True)
            moving.settle()
        finally:
            moving.close()
