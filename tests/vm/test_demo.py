# SPDX-License-Identifier: Apache-2.0
"""The demo, as the user sees it: an exit status, and what it printed."""
import os
import signal
import subprocess
import time

import lab
from lab import vm


def demo(*args):
    env = {**os.environ, 'RINGWAY_GUEST': lab.image(), 'RINGWAY_LIBEXEC': f'{lab.TOP}/scripts'}
    return subprocess.Popen([lab.RINGWAY, 'demo', '--accel', 'tcg', *args], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            preexec_fn=vm.die_with_parent)


def test_demo():
    p = demo()
    out, _ = p.communicate(timeout=600 * vm.SLOW)
    assert p.returncode == 0, out
    assert out.count('md5') == 2 and 'everything arrived' in out, out
    if os.geteuid() == 0:
        assert 'running as nobody' in out


def test_interrupted_demo_leaves_nothing():
    p = demo('--keep')
    seen = ''
    while 'running as' not in seen:
        line = p.stdout.readline()
        assert line, seen
        seen += line
    time.sleep(1)  # into the boot of the guests
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate(timeout=60 * vm.SLOW)
    assert p.returncode == 130, seen + out
    folder = out.split('kept: ')[1].split()[0]
    left = [pid for pid in filter(str.isdigit, os.listdir('/proc')) if folder in cmdline(pid)]
    subprocess.run(['rm', '-rf', folder], check=True)
    assert not left, left


def cmdline(pid):
    try:
        with open(f'/proc/{pid}/cmdline') as f:
            return f.read()
    except OSError:
        return ''
