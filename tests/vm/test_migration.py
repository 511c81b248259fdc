# SPDX-License-Identifier: Apache-2.0
"""Live migrations in a row, under load: migrate.py says what is there and what is compared.

A byte of a frame that the guest received and that is not there afterwards is the switch's fault, and fails
the test.  On an overloaded machine, with QEMU 7.2 and without KVM, it happened that pages differed in nothing
but counters of the guest's kernel, which its emulated CPU writes and no switch: such migrations are counted,
and most have to be without.

What may be lost is what was sent while the guest stood still: from the event STOP here to RESUME there, or
until the first answer from there where a busy machine lets it wait.
"""
import os

import lab
import migrate
import pytest

MIGRATIONS = 20


@pytest.mark.skipif(os.geteuid(), reason='needs root: a tap in a network namespace')
@pytest.mark.parametrize('device', ['', 'packed=on'], ids=['split', 'packed'])
def test_migrations_in_a_row(image, workdir, device):
    sums = []
    with migrate.sides() as (ns, both):
        moving = migrate.Moving(image, workdir, ns, both, device)
        try:
            for n in range(lab.rounds(MIGRATIONS, 200)):
                t = moving.migrate()
                sums.append(t)
                print(f'{device or "split"} {n}: still {t["still"]:.0f} ms (QEMU: {t["downtime"]} ms), '
                      f'no answer for {t["gap"]:.0f} ms, lost {t["lost"]} of {t["sent"]}, '
                      f'total {t["total"]} ms, {t["pages"]} pages, {t["different"]} of the CPU differ',
                      flush=True)
            moving.settle()
        finally:
            moving.close()
    assert sum(not t['different'] for t in sums) > len(sums) // 2, sums
