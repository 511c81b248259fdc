# SPDX-License-Identifier: Apache-2.0
"""DPDK's virtio-user, driven by testpmd, as a front-end that is not QEMU: no kicks, polled rings, its
own order of messages. No root and no hugepages, except for the case with a tap."""
import os
import shutil
import struct
import tempfile

import dpdk
import lab
import pytest
from dpdk import MAC, Testpmd, virtio_user
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

import test_offload as off  # of tests/py: frames with offloads, and what they are to become
import vu_front

FRONT = '02:00:00:00:00:0c'

pytestmark = dpdk.needs_testpmd


@pytest.fixture(autouse=True)
def row(request, record_property):
    """The row of the table in docs/interop.md: virtio-user's arguments."""
    params = getattr(request.node, 'callspec', None)
    rings = params.params.get('rings', '') if params else ''
    record_property('row', f'DPDK {dpdk.version()} virtio-user{", " * bool(rings)}{rings}')


@pytest.fixture
def things():
    made = []
    yield made
    for thing in reversed(made):  # front-ends before the switch
        thing.close()


def make(things, thing):
    things.append(thing)
    return thing


@pytest.mark.parametrize('rings', ['packed_vq=0', 'packed_vq=1'])
@pytest.mark.column('start, stop')
def test_traffic_start_stop(things, rings):
    """Frames go round: testpmd port 1 -> ringway -> testpmd port 0 -> testpmd port 1 ..."""
    sw = make(things, lab.Switch('p0', 'p1')).start()
    pmd = make(things, Testpmd(virtio_user([sw.sock('p0'), sw.sock('p1')], f',{rings}'), 'mac', peers=True))
    pmd.prompt()
    sw.wait_ready('p0', 'p1')
    for _ in range(lab.rounds(3, 30)):
        pmd.do('start tx_first')
        pmd.wait_traffic(0, 1)
        pmd.do('stop')
        for n in (0, 1):
            pmd.do(f'port stop {n}')
        for n in (0, 1):
            pmd.do(f'port start {n}')
        sw.wait_ready('p0', 'p1')
    assert not sw.port('p0')['state']['last_error']


@pytest.mark.parametrize('rings', ['mrg_rxbuf=1,in_order=0', 'mrg_rxbuf=0,in_order=0',
                                   'mrg_rxbuf=0,in_order=1', 'queue_size=64,vectorized=1',
                                   'packed_vq=1,mrg_rxbuf=1,in_order=0',
                                   'packed_vq=1,mrg_rxbuf=0,in_order=0',
                                   'packed_vq=1,mrg_rxbuf=1,in_order=1',
                                   'packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1'])
@pytest.mark.column('traffic')
def test_driver_variants(things, rings):
    """virtio-user has a receive and transmit path of its own for each of these."""
    sw = make(things, lab.Switch('p0', 'p1')).start()
    pmd = make(things, Testpmd(virtio_user([sw.sock('p0'), sw.sock('p1')], f',{rings}'), 'mac', peers=True))
    pmd.prompt()
    pmd.do('start tx_first')
    pmd.wait_traffic(0, 1)
    features = sw.port('p0')['state']['features']
    assert ('VIRTIO_F_RING_PACKED' in features) == ('packed_vq=1' in rings)
    assert ('VIRTIO_F_IN_ORDER' in features) == ('in_order=0' not in rings)


@pytest.mark.column('it listens, switch killed')
def test_driver_listens_and_the_switch_comes_back(things):
    """server=1: the driver listens and the switch dials; a killed switch finds its peers again."""
    folder = tempfile.mkdtemp(prefix='ringway-pmd.')
    paths = [f'{folder}/{n}.sock' for n in (0, 1)]
    try:
        sw = make(things, lab.Switch(*(f'p{n}=vhost-user,client={p}'
                                       for n, p in enumerate(paths)))).start()
        pmd = make(things, Testpmd(virtio_user(paths, ',server=1'), 'mac', peers=True))
        pmd.prompt()
        sw.wait_ready('p0', 'p1')
        pmd.do('start tx_first')
        pmd.wait_traffic(0, 1)
        for _ in range(lab.rounds(2, 20)):
            sw.kill()
            sw.start()
            sw.wait_ready('p0', 'p1')
            pmd.do('stop')
            pmd.do('start tx_first')
            pmd.wait_traffic(0, 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.column('it is killed')
def test_killed_driver_leaves_no_trace(things):
    sw = make(things, lab.Switch('p0', 'p1')).start()
    for _ in range(lab.rounds(2, 20)):
        pmd = Testpmd(virtio_user([sw.sock('p0'), sw.sock('p1')]), 'mac', peers=True)
        try:
            pmd.prompt()
            pmd.do('start tx_first')
            pmd.wait_traffic(0, 1)
        finally:
            pmd.close()
        sw.wait_down('p0')
        sw.wait_down('p1')


@pytest.mark.parametrize('rings', ['packed_vq=0', 'packed_vq=1'])
@pytest.mark.column('all queues used')
def test_queue_pairs(things, rings):
    """Two pairs, a core each; many flows, so that the switch spreads them."""
    ports = ['p0', 'p1']
    sw = make(things, lab.Switch(*(f'{p}=vhost-user,queues=2' for p in ports))).start()
    pmd = make(things, Testpmd(virtio_user([sw.sock(p) for p in ports], f',{rings},queues=2'), 'mac', peers=True,
                               arguments=['--rxq=2', '--txq=2', '--txonly-multi-flow']))
    pmd.prompt()
    sw.wait_ready(*ports)
    pmd.do('start tx_first 32')
    for port in ports:
        lab.until(lambda: min(lab.frames_per_ring(sw, port).values()) > 100,
                  f'each ring of {port} carries frames: {lab.frames_per_ring(sw, port)}')
        assert sorted(lab.frames_per_ring(sw, port)) == [0, 1, 2, 3]
        assert 'VIRTIO_NET_F_MQ' in sw.port(port)['state']['features']


def right_sums(frame):
    pkt = Ether(frame)
    for layer in pkt[IP], pkt[TCP]:
        del layer.chksum
    return bytes(pkt) == frame


@pytest.mark.parametrize('rings', ['packed_vq=0', 'packed_vq=1'])
@pytest.mark.column('TSO both ways')
def test_offloads(things, rings):
    """A large frame, its checksum open, goes to testpmd whole, and testpmd sends it back to be cut to
    another size: whole to who takes that, else in segments."""
    kind, data, size = off.KINDS['tso4'], off.body(10000), 1000
    sw = make(things, lab.Switch('p0', 'p1')).start()
    pmd = make(things, Testpmd(virtio_user([sw.sock('p0')], f',{rings},mrg_rxbuf=1'), 'csum', arguments=[
        '--port-topology=loop', f'--eth-peer=0,{FRONT}',
        '--rx-offloads=0x201c']))  # UDP_CKSUM, TCP_CKSUM, TCP_LRO, SCATTER
    pmd.prompt()
    for command in 'port stop 0', 'csum set tcp hw 0', f'tso set {size} 0', 'port start 0', 'start':
        pmd.do(command)
    wanted = {f'VIRTIO_NET_F_{f}' for f in ('CSUM', 'GUEST_CSUM', 'HOST_TSO4', 'GUEST_TSO4')}
    lab.until(lambda: wanted <= set(sw.port('p0')['state']['features']), 'it negotiated anew')
    sw.wait_ready('p0')
    features = off.CSUM | off.HOST_TSO4 | off.GUEST_CSUM | off.GUEST_TSO4
    nic = make(things, vu_front.Nic(sw.sock('p1'), features=vu_front.Nic.FEATURES | features,
                                    rx_size=16384, bufs=64, mac=FRONT))
    nic.any_header = True
    pkt = kind.packet(data)
    pkt[Ether].src, pkt[Ether].dst = FRONT, MAC[0]
    wire = kind.partial(Ether(bytes(pkt)))
    headers = len(wire) - len(data)

    nic.transmit(wire, header=kind.header(pkt, 1448))
    frame, = nic.wait_frames(1)
    flags, gso, _, gso_size, start, field = struct.unpack_from('<BBHHHH', nic.headers.pop())
    assert (flags, gso, gso_size, start, field) == (1, 1, size, 34, 16)
    assert frame[:12] == wire[6:12] + wire[:6] and frame[headers:] == data
    assert sw.port('p0')['tx']['frames'] == sw.port('p0')['rx']['frames'] == 1, 'it was whole both ways'

    sw.do('port', 'set', 'p1', 'rx-offload=none')
    nic.transmit(wire, header=kind.header(pkt, 1448))
    frames = nic.wait_frames(10)
    assert [len(f) for f in frames] == [headers + size] * 10 and all(map(right_sums, frames))
    assert b''.join(f[headers:] for f in frames) == data


@pytest.mark.column('ARP and echo with the host')
def test_host_pings_testpmd(things):
    """namespace (10.0.0.9) --- tap --- ringway --- testpmd, which answers ARP and echo requests."""
    if os.geteuid() != 0:
        pytest.skip('needs root to make a namespace and a tap')
    ns = make(things, lab.Netns('p'))
    sw = make(things, lab.Switch('p0', f'host0=tap,netns={ns.name}')).start()
    ns.run('ip', 'addr', 'add', '10.0.0.9/24', 'dev', 'host0')
    ns.run('ip', 'link', 'set', 'host0', 'up')
    pmd = make(things, Testpmd(virtio_user([sw.sock('p0')]), 'icmpecho'))
    pmd.prompt()
    pmd.do('start')
    sw.wait_ready('p0')
    assert ns.ping_ok('10.0.0.1', size=1400)
