# SPDX-License-Identifier: Apache-2.0
"""A Linux guest talks TCP to a process that has its own IP stack and a card on the switch
(examples/echo.c: lwIP over libringway-client)."""
import os
import subprocess

import lab
import pytest
from lab import vm

ECHO = os.path.join(lab.BUILD, 'examples', 'echo')
IP = '10.0.0.7'


@pytest.fixture
def site(image, workdir):
    sw = lab.Switch('vm1', 'app')
    g = p = None
    try:
        sw.start()
        g = vm.Guest('vm1', image, workdir, vm.vhost_user(sw.sock('vm1'), mac=vm.mac_of(1)),
                     ip='10.0.0.1/24').start()
        p = subprocess.Popen([ECHO, sw.sock('app'), IP], stdin=subprocess.DEVNULL,
                             preexec_fn=vm.die_with_parent)
        g.wait_ready()
        sw.wait_ready('app')
        yield sw, g
        assert p.poll() is None, 'it runs to the end'
    finally:
        if p:
            p.kill()
            p.wait()
        if g:
            g.close()
        sw.close()


@pytest.mark.skipif(not os.path.exists(ECHO), reason='liblwip-dev is not installed')
def test_echo(site):
    sw, g = site
    vm.ping(g, IP)
    for mib in 1, 8:
        want = vm.make_data(g, mib)
        g.check(f'nc {IP} 7 </tmp/out >/tmp/back', 300)
        assert g.check('md5sum </tmp/back').split()[0] == want
    frames = sw.port('app')
    assert frames['tx']['frames'] > 6000 and frames['rx']['frames'] > 6000, 'it came over this port'
