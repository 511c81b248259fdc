# SPDX-License-Identifier: Apache-2.0
"""Ports of kind vhost-user-frontend drive back-ends that are not ours: DPDK's net_vhost and OVS-DPDK.

    nic (a front-end of tests/py) --- ringway --- up ===> net_vhost of testpmd, which swaps the addresses

    a --- ringway, br0 --- up0 ===> OVS bridge <=== up1 --- ringway, br1 --- b

And libringway-client, in examples/reflector.c, with DPDK:

    reflector ===> net_vhost of testpmd            reflector ===> ringway <=== virtio-user of testpmd
"""
import os
import subprocess
import tempfile

import dpdk
import lab
import pytest
from lab import vm
from test_testpmd import make, things  # noqa: F401

import vu_front as vu
from vu_front import frame

SIZES = [60, 1514, 61, 200, 1000]
NIC = b'\x02\0\0\0\0\x11', b'\x02\0\0\0\0\x12'
REFLECTOR = os.path.join(lab.BUILD, 'examples', 'reflector')
LAYOUTS = pytest.mark.parametrize('layout', ['split', 'packed'])


def nic(things, sw, port, mac, features=0, **how):
    return make(things, vu.Nic(sw.sock(port), mac=mac, features=vu.Nic.FEATURES | features, **how))


def wait_connected(sw, *ports):
    for port in ports:
        lab.until(lambda: sw.port(port)['state']['state'] == 'connected', f'{port} drives its back-end')


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix='ringway-be.') as path:
        yield path


@pytest.fixture(autouse=True)
def row(request, record_property):
    """The row of the table in docs/interop.md."""
    of = ('OVS-DPDK' if 'ovs' in request.node.name else
          f'libringway-client and DPDK {dpdk.version()}' if 'client' in request.node.name else
          f'DPDK {dpdk.version()} net_vhost')
    record_property('row', ', '.join([of, *map(str, request.node.callspec.params.values())]))


def net_vhost(things, path, queues=1, options=''):
    pmd = make(things, dpdk.Testpmd([f'net_vhost0,iface={path},queues={queues}{options}'], 'macswap', arguments=[
        '--port-topology=loop', f'--rxq={queues}', f'--txq={queues}']))
    pmd.prompt()
    pmd.do('start')
    return pmd


def come_back(a, sizes):
    """What a sends is sent back by testpmd, in order and unchanged."""
    sent = [frame(b'\x02\0\0\0\0\x21', a.mac, size, n) for n, size in enumerate(sizes)]
    a.send_frames(*sent)
    got = a.recv(len(sent))
    assert [f[12:] for f in got] == [f[12:] for f in sent]
    assert all(f[:6] == a.mac for f in got)


@dpdk.needs_testpmd
@LAYOUTS
@pytest.mark.parametrize('queues', [1, 2])
@pytest.mark.column('traffic, it is killed and comes back')
def test_net_vhost(things, folder, layout, queues):
    path = f'{folder}/vhost.sock'
    pmd = net_vhost(things, path, queues)
    sw = make(things, lab.Switch('vm', f'up=vhost-user-frontend,path={path},queues={queues},packed='
                                 f'{"yes" if layout == "packed" else "no"}')).start()
    a = nic(things, sw, 'vm', NIC[0])
    for n in range(lab.rounds(2, 10)):
        wait_connected(sw, 'up')
        features = sw.port('up')['state']['features']
        assert ('VIRTIO_F_RING_PACKED' in features) == (layout == 'packed')
        assert ('VIRTIO_NET_F_MQ' in features) == (queues > 1)
        for _ in range(20):
            come_back(a, SIZES)
        things.remove(pmd)
        pmd.close()
        lab.until(lambda: sw.port('up')['state']['state'] != 'connected', 'its end is seen')
        if os.path.exists(path):
            os.unlink(path)  # what a killed one leaves, and the next one refuses
        pmd = net_vhost(things, path, queues)


@pytest.mark.skipif(not os.path.exists(dpdk.OVS), reason='openvswitch-switch-dpdk is not installed')
@pytest.mark.skipif(os.geteuid(), reason='needs root: OVS makes a tap')
@LAYOUTS
@pytest.mark.parametrize('queues', [1, 2])
@pytest.mark.column('traffic')
def test_ovs_dpdk(things, folder, layout, queues):
    paths = [f'{folder}/v{n}.sock' for n in (0, 1)]
    make(things, dpdk.OvsDpdk({f'v{n}': ('dpdkvhostuserclient', {'vhost-server-path': path})
                               for n, path in enumerate(paths)}))
    packed = 'yes' if layout == 'packed' else 'no'
    sw = make(things, lab.Switch(*(f'vm{n}=vhost-user,bridge=br{n}' for n in (0, 1)), *(
        f'up{n}=vhost-user-frontend,path={path},server=yes,bridge=br{n},queues={queues},packed={packed}'
        for n, path in enumerate(paths)))).start()
    wait_connected(sw, 'up0', 'up1')
    for up in 'up0', 'up1':
        features = sw.port(up)['state']['features']
        assert ('VIRTIO_F_RING_PACKED' in features) == (layout == 'packed')
        assert ('VIRTIO_NET_F_MQ' in features) == (queues > 1)
    a, b = (nic(things, sw, f'vm{n}', NIC[n]) for n in (0, 1))
    for here, there in (a, b), (b, a):  # OVS takes a device into its datapath some time after it is connected
        early = there.mac + here.mac + b'\x88\xb6' + bytes(46)  # not of the type that is looked at below
        lab.until(lambda: here.send_frames(early) or there.received(), 'OVS forwards')
    for _ in range(20):
        vu.exchange(a, b, SIZES)
        vu.exchange(b, a, SIZES)


class Reflector:
    def __init__(self, path, layout):
        self.proc = subprocess.Popen([REFLECTOR, path, *(['packed'] if layout == 'packed' else [])],
                                     preexec_fn=vm.die_with_parent)

    def close(self):
        running = self.proc.poll() is None
        self.proc.kill()
        self.proc.wait()
        assert running


@dpdk.needs_testpmd
@LAYOUTS
@pytest.mark.column('frames go round: net_vhost')
def test_client_with_net_vhost(things, folder, layout):
    path = f'{folder}/vhost.sock'
    pmd = net_vhost(things, path)
    pmd.do('stop')
    make(things, Reflector(path, layout))
    lab.until(lambda: 'Link status: up' in pmd.do('show port info 0'), 'testpmd sees the reflector')
    pmd.do('start tx_first')
    pmd.wait_traffic(0)


@dpdk.needs_testpmd
@LAYOUTS
@pytest.mark.column('frames go round: virtio-user, through ringway')
def test_client_with_virtio_user(things, layout):
    sw = make(things, lab.Switch('app', 'pmd')).start()
    pmd = make(things, dpdk.Testpmd(dpdk.virtio_user([sw.sock('pmd')], f',packed_vq={int(layout == "packed")}'),
                                    'macswap', arguments=['--port-topology=loop']))
    pmd.prompt()
    make(things, Reflector(sw.sock('app'), layout))
    sw.wait_ready('app', 'pmd')
    pmd.do('start tx_first')
    pmd.wait_traffic(0)
