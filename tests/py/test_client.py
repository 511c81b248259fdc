# SPDX-License-Identifier: Apache-2.0
"""libringway-client, in the reflector of examples/: through a real switch, and driving a back-end in
Python that lies.

    a (a front-end of ours) --- switch --- app (its socket is listened on by either side) === reflector
"""
import os
import subprocess
import time

import pytest

import vu_front as vu
from test_frontend import FRAME_LIES, HDR, RING_LIES
from vu_back import FEATURES, Back
from vu_front import frame, wait_for
from vu_lab import mac

REFLECTOR = os.path.join(os.path.dirname(os.environ['RINGWAY']), 'examples', 'reflector')
LAYOUTS = pytest.mark.parametrize('layout', ['split', 'packed'])


class Reflector:
    def __init__(self, path, *words):
        self.proc = subprocess.Popen([REFLECTOR, path, *words], text=True, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def end(self):
        """It still ran; what it said."""
        running = self.proc.poll() is None
        self.proc.kill()
        said = self.proc.communicate()[0]
        assert running, said
        return said

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def running(net, port):
    wait_for('the client', lambda: net.state(port)['state'] == 'running')


def come_back(a, sizes):
    for n, size in enumerate(sizes):
        f = frame(mac(50), a.mac, size, n)
        a.transmit(f)
        a.wait_used(a.tx)
        got, = a.wait_frames(1)
        assert got == f[6:12] + f[:6] + f[12:]


def words(layout):
    return ['packed'] if layout == 'packed' else []


@LAYOUTS
@pytest.mark.parametrize('listens', ['the switch', 'the client'])
def test_reflector(net, lab, layout, listens):
    path = os.path.join(lab.run, 'app.sock')
    options = {'client': path} if listens == 'the client' else {}
    a, app = net.nic(rx_size=16384), net.port(**options)
    with Reflector(options.get('client', net.path(app)), *words(layout),
                   *(['listen'] if options else [])):
        running(net, app)
        features = net.state(app)['features']
        assert ('VIRTIO_F_RING_PACKED' in features) == (layout == 'packed')
        for _ in range(5):
            come_back(a, [60, 14, 61, 200, 1514, 2036, 2037, 9000, 65535])
        burst = [frame(mac(50), a.mac, 60 + n % 1400, n) for n in range(2000)]
        for at in range(0, len(burst), 10):
            a.send_frames(*burst[at:at + 10])
            wait_for('most of them', lambda: a.poll() or len(a.inbox) > at - 100)  # a ring holds 256
        got = a.recv(len(burst))
        assert [f[12:] for f in got] == [f[12:] for f in burst]
        if not options:  # the port goes and comes: it connects anew
            for _ in range(2):
                lab.rpc('port.del', name=app)
                lab.rpc('port.add', name=app, kind='vhost-user', options={'bridge': net.bridge})
                running(net, app)
                come_back(a, [60, 1514])


def test_no_switch(lab):
    with Reflector(os.path.join(lab.run, 'nobody.sock')) as r:
        said = r.proc.stdout.readline()
        assert 'cannot connect' in said and 'nobody.sock' in said


# ---- a back-end that lies ----


@pytest.fixture
def back(lab):
    with Back(os.path.join(lab.run, 'lies.sock')) as b:
        yield b


@pytest.fixture
def driven(back):
    with Reflector(back.path) as r:
        back.accept()
        back.serve()
        yield r


def reflects(back, heads):
    """A good frame comes back. The first ones may be lost with a lie in front of them: one that does not
    say where the next frame begins, or that takes them for its own further buffers."""
    f, heads = frame(mac(1), mac(2), 300), iter(heads)

    def comes_back():
        back.deliver(0, next(heads), HDR + f)
        back.publish(0)
        for _ in range(100):  # a second: there are 256 heads
            time.sleep(0.01)
            if f[6:12] + f[:6] + f[12:] in [g[12:] for g in back.take(1)]:
                return True
        return False
    wait_for('the frame', comes_back)


@pytest.mark.parametrize('lie', RING_LIES)
def test_ring_lie_ends_the_connection(back, driven, lie):
    for _ in range(2):
        heads = back.avail(0)
        RING_LIES[lie](back, heads)
        if 'ahead' not in lie:
            back.publish(0)
        back.accept()
        back.serve()
    reflects(back, back.avail(0))


@pytest.mark.parametrize('lie', FRAME_LIES)
def test_frame_lie_costs_its_frame(back, driven, lie):
    heads = back.avail(0)
    for i in range(3):
        FRAME_LIES[lie][0](back, heads[i:])
        back.publish(0)
    reflects(back, heads[3:])


def test_packed_is_refused(back):
    back.features = FEATURES & ~vu.PACKED
    with Reflector(back.path, 'packed') as r:
        back.accept()
        back.serve(lambda request: request == vu.GET_FEATURES)
        back.answer(vu.GET_FEATURES, 1, b'', [])
        assert 'does not offer VIRTIO_F_RING_PACKED' in r.proc.stdout.readline()
