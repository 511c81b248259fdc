# SPDX-License-Identifier: Apache-2.0
"""A real switch between TAP devices, each in a network namespace of its own.

         namespace a          namespace b          namespace c
        +-----------+        +-----------+        +-----------+
        |   tap0    |        |   tap1    |        |   tap2    |
        | 10.0.0.1  |        | 10.0.0.2  |        | 10.0.0.3  |
        +-----+-----+        +-----+-----+        +-----+-----+
              |                    |                    |
        ......|....................|....................|......  ringway run (one process,
              +-------------- bridge br0 ---------------+        never in a, b or c itself)
"""
import hashlib
import json
import os
import re
import socket
import subprocess
import threading

import pytest
from nslab import LIMIT, SO_RCVBUFFORCE, TOP, Lab, inside, wait_for, why_skip

pytestmark = pytest.mark.skipif(bool(why_skip()), reason=str(why_skip()))
if not why_skip():
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import ARP, Dot1Q, Dot1AD, Ether
    from scapy.packet import Raw

BROADCAST = 'ff:ff:ff:ff:ff:ff'
HOST = ('02:00:00:00:00:01', '02:00:00:00:00:02', '02:00:00:00:00:03')  # crafted frames only


@pytest.fixture
def lab():
    with Lab() as the_lab:
        yield the_lab


class Net:
    """n namespaces with one tap each (the picture on top), one switch."""

    def __init__(self, lab, n, key='', addresses=True, **kw):
        self.lab = lab
        self.ns = [lab.netns('abcdef'[i]) for i in range(n)]
        self.sw = lab.switch(*[f'tap{i}=tap,netns={ns}{key}' for i, ns in enumerate(self.ns)], **kw)
        for i, ns in enumerate(self.ns):
            if addresses:
                lab.ip(ns, 'addr', 'add', f'10.0.0.{i + 1}/24', 'dev', f'tap{i}')
            else:
                lab.ip(ns, 'link', 'set', 'dev', f'tap{i}', 'arp', 'off')  # silent hosts

    def nics(self):
        return [self.lab.nic(ns, f'tap{i}') for i, ns in enumerate(self.ns)]


def payload(n, seed=1):
    return bytes((i * 7 + seed) & 0xff for i in range(n))


def frame(src, dst, size, **kw):
    """An Ethernet frame of `size` bytes that no host answers."""
    return bytes(Ether(src=src, dst=dst, type=kw.get('type', 0x88b5))) + payload(size - 14)


# ---- hosts that talk --------------------------------------------------------------------------


def test_ping(lab):
    net = Net(lab, 2)
    out = lab.ping(net.ns[0], '10.0.0.2', count=20)
    assert ' 0% packet loss' in out
    out = lab.ping(net.ns[1], '10.0.0.1', size=1472)  # exactly the MTU
    assert ' 0% packet loss' in out
    lab.ping(net.ns[1], '10.0.0.1', size=20000)  # in fragments
    assert net.sw.drops() == {}
    assert sorted(net.sw.macs().values()) == ['tap0', 'tap1']
    assert net.sw.stop() == 0


def serve(ns, address):
    """A TCP server in ns for one connection: (port, thread, result box)."""
    s = inside(ns, socket.socket)
    s.bind((address, 0))
    s.listen(1)
    box = {}

    def work():
        with s, s.accept()[0] as c:
            c.settimeout(LIMIT)
            h = hashlib.sha256()
            n = 0
            while True:
                data = c.recv(1 << 16)
                if not data:
                    break
                h.update(data)
                n += len(data)
            box['got'] = (n, h.hexdigest())

    t = threading.Thread(target=work)
    t.start()
    return s.getsockname()[1], t, box


def tcp(ns_from, ns_to, address, size):
    """Random bytes over one connection; both ends' counts and checksums must agree."""
    data = os.urandom(1 << 20) * (size >> 20)
    port, t, box = serve(ns_to, address)
    c = inside(ns_from, socket.socket)
    with c:
        c.settimeout(LIMIT)
        c.connect((address, port))
        c.sendall(data)
    t.join(LIMIT)
    assert box.get('got') == (len(data), hashlib.sha256(data).hexdigest())


def test_tcp_both_ways(lab):
    net = Net(lab, 2)
    tcp(net.ns[0], net.ns[1], '10.0.0.2', 16 << 20)
    tcp(net.ns[1], net.ns[0], '10.0.0.1', 16 << 20)


def test_tcp_jumbo(lab):
    net = Net(lab, 2, key=',mtu=9000')
    assert lab.link(net.ns[0], 'tap0')['mtu'] == 9000
    assert ' 0% packet loss' in lab.ping(net.ns[0], '10.0.0.2', size=8972)
    tcp(net.ns[0], net.ns[1], '10.0.0.2', 16 << 20)


def two_workers():
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip('needs two CPUs')
    return ['--workers', f'{cpus[0]},{cpus[1]}']


def test_tcp_many_pairs_two_workers(lab):
    """Both workers write into every tap: pairs 0-1, 2-3 and a pair across."""
    net = Net(lab, 4, options=two_workers())
    threads, bad = [], []

    def pair(i, j):
        try:
            tcp(net.ns[i], net.ns[j], f'10.0.0.{j + 1}', 8 << 20)
        except BaseException as e:
            bad.append(e)

    for i, j in [(0, 1), (2, 3), (1, 2), (3, 0)]:
        threads.append(threading.Thread(target=pair, args=(i, j)))
        threads[-1].start()
    for t in threads:
        t.join()
    assert not bad


def test_the_host_itself(lab):
    """Without netns= the device is where the switch is: here a namespace plays the host."""
    host, a = lab.netns('host'), lab.netns('a')
    sw = lab.switch('tap0=tap,dev=rw0', f'tap1=tap,netns={a}', prefix=['ip', 'netns', 'exec', host])
    lab.ip(host, 'addr', 'add', '10.0.0.1/24', 'dev', 'rw0')
    lab.ip(a, 'addr', 'add', '10.0.0.2/24', 'dev', 'tap1')
    assert ' 0% packet loss' in lab.ping(host, '10.0.0.2')
    state = sw.port('tap0')['state']
    assert (state['device'], state['netns'], state['link']) == ('rw0', None, 'up')
    # the process was not moved by what it made elsewhere
    for task in os.listdir(f'/proc/{sw.proc.pid}/task'):
        st = os.stat(f'/proc/{sw.proc.pid}/task/{task}/ns/net')
        assert st.st_ino == os.stat(f'/run/netns/{host}').st_ino
    assert sw.stop() == 0
    assert 'rw0' not in lab.ip(host, 'link')  # what it made, it took away


# ---- crafted frames ---------------------------------------------------------------------------


def test_every_size(lab):
    net = Net(lab, 2, addresses=False)
    a, b = net.nics()
    for size in range(14, 1515):
        f = frame(HOST[0], HOST[1], size)
        a.send(f)
        b.expect(f)
        if size % 97 == 0:  # and back
            g = frame(HOST[1], HOST[0], size)
            b.send(g)
            a.expect(g)
    assert net.sw.drops() == {}


def test_sizes_up_to_the_largest_mtu(lab):
    net = Net(lab, 2, key=',mtu=65521', addresses=False)
    a, b = net.nics()
    for size in (1515, 2047, 4096, 9014, 16384, 65534, 65535):
        f = frame(HOST[0], HOST[1], size)
        a.send(f)
        b.expect(f)


def test_runt_never_reaches_the_switch(lab):
    """The kernel refuses less than an Ethernet header on both sides of a tap."""
    net = Net(lab, 2, addresses=False)
    a, b = net.nics()
    with pytest.raises(OSError):
        a.send(frame(HOST[0], HOST[1], 14)[:13])
    f = frame(HOST[0], HOST[1], 14)
    a.send(f)
    b.expect(f)
    assert net.sw.drops() == {}


def test_tagged_frames_pass_untouched(lab):
    net = Net(lab, 2, addresses=False)
    a, b = net.nics()
    for tags in (Dot1Q(vlan=5), Dot1Q(vlan=4095, prio=7, id=1), Dot1Q(vlan=0, prio=3),
                 Dot1AD(vlan=100) / Dot1Q(vlan=200), Dot1Q(vlan=1) / Dot1Q(vlan=2)):
        for size in (46, 100, 1492):  # the receiving stack drops shorter ones itself
            f = bytes(Ether(src=HOST[0], dst=HOST[1]) / tags / Raw(payload(size)))
            a.send(f)
            b.expect(f)
    assert net.sw.drops() == {}


def test_full_size_frame_with_tag_into_mtu_1500(lab):
    """A tag is not part of the MTU: 1500 bytes of payload fit with one, too."""
    net = Net(lab, 2, key=',mtu=1500', addresses=False)
    a, b = net.nics()
    f = bytes(Ether(src=HOST[0], dst=HOST[1]) / Dot1Q(vlan=7) / Raw(payload(1500)))
    assert len(f) == 1518
    a.send(f)
    b.expect(f)


def test_broadcast_reaches_all(lab):
    net = Net(lab, 3, addresses=False)
    a, b, c = net.nics()
    for dst in (BROADCAST, '01:00:5e:00:00:fb', '33:33:00:00:00:01'):
        f = frame(HOST[0], dst, 100)
        a.send(f)
        b.expect(f)
        c.expect(f)
    assert a.drain() == []
    tx = [net.sw.port(f'tap{i}')['tx']['frames'] for i in range(3)]
    assert tx == [0, 3, 3]


def test_unknown_floods_known_does_not(lab):
    net = Net(lab, 3, addresses=False)
    a, b, c = net.nics()
    f = frame(HOST[0], HOST[1], 60)
    a.send(f)
    b.expect(f)
    c.expect(f)  # nobody knows host 1 yet
    g = frame(HOST[1], HOST[0], 61)
    b.send(g)
    a.expect(g)
    a.send(f)
    b.expect(f)
    last = frame(HOST[0], BROADCAST, 99)  # comes after whatever c could have had
    a.send(last)
    c.expect(last)
    assert net.sw.port('tap2')['tx']['frames'] == 2  # the flood and the broadcast
    assert net.sw.macs() == {HOST[0]: 'tap0', HOST[1]: 'tap1'}


def test_station_moves(lab):
    net = Net(lab, 3, addresses=False)
    a, b, c = net.nics()
    a.send(frame(HOST[0], BROADCAST, 60))
    b.expect(frame(HOST[0], BROADCAST, 60))
    c.expect(frame(HOST[0], BROADCAST, 60))
    c.send(frame(HOST[0], BROADCAST, 62))
    b.expect(frame(HOST[0], BROADCAST, 62))
    f = frame(HOST[1], HOST[0], 64)
    b.send(f)
    c.expect(f)
    assert net.sw.macs()[HOST[0]] == 'tap2'


def test_reserved_and_hairpin_are_counted_at_the_sender(lab):
    net = Net(lab, 2, addresses=False)
    a, b = net.nics()
    a.send(frame(HOST[0], '01:80:c2:00:00:0e', 60))  # LLDP
    a.send(frame(HOST[0], HOST[0], 60))
    f = frame(HOST[0], BROADCAST, 61)
    a.send(f)
    b.expect(f)
    assert net.sw.drops() == {('tap0', 'reserved'): 1, ('tap0', 'hairpin'): 1}
    assert 'tap0' in net.sw.ok('show', 'drops')


def test_burst_keeps_order(lab):
    net = Net(lab, 2, addresses=False)
    a, b = net.nics()
    n = 400  # fits in the queue of a tap (500), so nothing is lost however slow the switch is
    for i in range(n):
        a.send(frame(HOST[0], HOST[1], 60 + i))
    for i in range(n):
        assert len(b.recv() or b'') == 60 + i


def datagram(lab, net, port):
    """What host b's device shows of a datagram that host a sends: (as it came, sums made anew)."""
    b = lab.nic(net.ns[1], 'tap1')
    u = inside(net.ns[0], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with u:
        u.sendto(b'sum me up' * 50, ('10.0.0.2', port))
    while True:
        f = b.recv()
        assert f, 'no datagram arrived'
        if UDP in (got := Ether(f)):
            again = got.copy()
            del again[IP].chksum, again[UDP].chksum
            return got, Ether(bytes(again))


def sums(p):
    return p[IP].chksum, p[UDP].chksum


def test_checksums_are_complete_without_offload(lab):
    """The kernel leaves no checksum to do for whoever is behind the switch."""
    got, again = datagram(lab, Net(lab, 2, key=',offload=none'), 9)
    assert sums(got) == sums(again)


def test_dhcp_clients_see_whole_checksums(lab):
    """They read raw frames, and do not know what was left to do."""
    net = Net(lab, 2)
    got, again = datagram(lab, net, 68)
    assert sums(got) == sums(again)
    got, again = datagram(lab, net, 67)  # and that the kernel did leave it
    assert sums(got) != sums(again)


@pytest.mark.parametrize('sender', ['none', 'csum', 'csum+tso', 'all'])
@pytest.mark.parametrize('receiver', ['none', 'all'])
def test_tcp_with_offloads(lab, sender, receiver):
    ns = [lab.netns('a'), lab.netns('b')]
    sw = lab.switch(f'tap0=tap,netns={ns[0]},offload={sender}',
                    f'tap1=tap,netns={ns[1]},offload={receiver}')
    for i in (0, 1):
        lab.ip(ns[i], 'addr', 'add', f'10.0.0.{i + 1}/24', 'dev', f'tap{i}')
    tcp(ns[0], ns[1], '10.0.0.2', 16 << 20)
    sent = sw.port('tap0')['rx']
    large = sent['bytes'] / sent['frames'] > 3000
    assert large == (sender in ('csum+tso', 'all')), 'offload= decides what the kernel sends'
    assert sw.drops() == {}


def test_udp_segments_of_one_send(lab):
    """UDP_SEGMENT: one write of the sender, many datagrams for the receiver."""
    net = Net(lab, 2)
    r = inside(net.ns[1], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    u = inside(net.ns[0], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with r, u:
        r.bind(('10.0.0.2', 0))
        r.settimeout(LIMIT)
        u.setsockopt(17, 103, 1000)  # SOL_UDP, UDP_SEGMENT
        data = payload(20500)
        u.sendto(data, r.getsockname())
        got = [r.recv(65536) for _ in range(21)]
    assert [len(g) for g in got] == [1000] * 20 + [500] and b''.join(got) == data


def speak_ipv6(dev):
    with open(f'/proc/sys/net/ipv6/conf/{dev}/disable_ipv6', 'w') as f:
        f.write('0')


@pytest.mark.parametrize('ip, a, b', [(socket.AF_INET, '10.0.0.1/24', '10.0.0.2/24'),
                                      (socket.AF_INET6, 'fd00::1/64', 'fd00::2/64')])
def test_datagrams_arrive_as_they_were_sent(lab, ip, a, b):
    """What goes to a host in bursts is joined on the way: it must not show. The sender's kernel cuts it
    up here, so that bursts are certain; each has another size, and the last one is shorter."""
    net = Net(lab, 2, addresses=False)
    for ns, dev, address in ((net.ns[0], 'tap0', a), (net.ns[1], 'tap1', b)):
        inside(ns, lambda dev=dev: speak_ipv6(dev))
        lab.ip(ns, 'link', 'set', 'dev', dev, 'arp', 'on')
        lab.ip(ns, 'addr', 'add', address, 'dev', dev, *(['nodad'] if ip == socket.AF_INET6 else []))
    lab.run('ip', 'netns', 'exec', net.ns[0], 'ethtool', '-K', 'tap0', 'tx-udp-segmentation', 'off')
    r = inside(net.ns[1], lambda: socket.socket(ip, socket.SOCK_DGRAM))
    u = inside(net.ns[0], lambda: socket.socket(ip, socket.SOCK_DGRAM))
    with r, u:
        r.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        r.bind((b.split('/')[0], 0))
        r.settimeout(LIMIT)
        for size in (1, 18, 500, 1000, 1400):
            u.setsockopt(17, 103, size)  # SOL_UDP, UDP_SEGMENT
            data = os.urandom(min(size * 40, 60000) + size // 2)
            u.sendto(data, r.getsockname()[:2])
            want = [data[i:i + size] for i in range(0, len(data), size)]
            assert [r.recv(65536) for _ in want] == want
    assert net.sw.drops() == {}


def test_arp_between_hosts_and_crafted_peer(lab):
    """A crafted station gets an answer from a real host's stack."""
    net = Net(lab, 2)
    b = lab.nic(net.ns[1], 'tap1')
    b.send(bytes(Ether(src=HOST[2], dst=BROADCAST) /
                 ARP(op=1, hwsrc=HOST[2], psrc='10.0.0.77', pdst='10.0.0.1')))

    def answered():
        f = b.recv(1)
        p = Ether(f) if f else None
        return p is not None and ARP in p and p[ARP].op == 2 and p
    p = wait_for('host a answers', answered)
    assert p[ARP].psrc == '10.0.0.1' and p.dst == HOST[2]
    assert bytes.fromhex(p.src.replace(':', '')) == lab.mac(net.ns[0], 'tap0')


# ---- the device's life ------------------------------------------------------------------------


def test_device_down_and_up(lab):
    net = Net(lab, 3, addresses=False)
    a, b, c = net.nics()
    b.send(frame(HOST[1], BROADCAST, 60))
    a.expect(frame(HOST[1], BROADCAST, 60))
    c.expect(frame(HOST[1], BROADCAST, 60))
    lab.ip(net.ns[1], 'link', 'set', 'tap1', 'down')
    wait_for('the switch noticed', lambda: not net.sw.port('tap1')['ready'])
    a.send(frame(HOST[0], BROADCAST, 61))  # passes the dead port by
    c.expect(frame(HOST[0], BROADCAST, 61))
    assert net.sw.drops() == {}
    a.send(frame(HOST[0], HOST[1], 62))  # is known to be there: dropped, with the reason
    wait_for('the drop is counted', lambda: net.sw.drops() == {('tap1', 'not-ready'): 1})
    lab.ip(net.ns[1], 'link', 'set', 'tap1', 'up')
    wait_for('it is up again', lambda: net.sw.port('tap1')['ready'])
    f = frame(HOST[0], HOST[1], 63)
    again = lab.nic(net.ns[1], 'tap1')
    a.send(f)
    again.expect(f)


def test_link_down(lab):
    """link=down takes the carrier; with it down from the start it comes later."""
    net = Net(lab, 3, addresses=False)
    a, b, c = net.nics()
    b.send(frame(HOST[1], BROADCAST, 60))
    a.expect(frame(HOST[1], BROADCAST, 60))
    c.expect(frame(HOST[1], BROADCAST, 60))
    assert lab.link(net.ns[1], 'tap1')['operstate'] != 'DOWN'
    net.sw.ok('port', 'set', 'tap1', 'link=down')
    wait_for('no carrier', lambda: 'NO-CARRIER' in lab.link(net.ns[1], 'tap1')['flags'])
    assert net.sw.port('tap1')['state']['link'] == 'down'
    a.send(frame(HOST[0], BROADCAST, 61))  # passes the port by
    c.expect(frame(HOST[0], BROADCAST, 61))
    a.send(frame(HOST[0], HOST[1], 62))
    wait_for('the drop is counted', lambda: net.sw.drops() == {('tap1', 'link-down'): 1})
    assert re.search(r'link: .?down', net.sw.ok('show', 'config'))
    net.sw.ok('port', 'set', 'tap1', 'link=up')
    wait_for('carrier', lambda: 'NO-CARRIER' not in lab.link(net.ns[1], 'tap1')['flags'])
    f = frame(HOST[0], HOST[1], 63)
    a.send(f)
    b.expect(f)
    net.sw.ok('port', 'del', 'tap1')
    net.sw.ok('port', 'add', f'tap1=tap,netns={net.ns[1]},link=down')
    assert 'NO-CARRIER' in lab.link(net.ns[1], 'tap1')['flags']
    assert not net.sw.port('tap1')['ready']


def test_device_deleted_under_the_switch(lab):
    net = Net(lab, 3, addresses=False)
    a, _, c = net.nics()
    lab.ip(net.ns[1], 'link', 'del', 'tap1')
    wait_for('the switch says so', lambda: 'was deleted' in net.sw.text())
    f = frame(HOST[0], BROADCAST, 61)
    a.send(f)
    c.expect(f)
    net.sw.ok('port', 'del', 'tap1')
    net.sw.ok('port', 'add', f'tap1=tap,netns={net.ns[1]}')
    b = lab.nic(net.ns[1], 'tap1')
    a.send(f)
    b.expect(f)
    assert net.sw.stop() == 0


def test_namespace_goes_away(lab):
    net = Net(lab, 3, addresses=False)
    a, _, c = net.nics()
    lab.run('ip', 'netns', 'del', net.ns[1])
    lab.spaces.remove(net.ns[1])
    # the port's own sockets keep the namespace alive, and with it the device: nothing breaks
    f = frame(HOST[0], BROADCAST, 61)
    a.send(f)
    c.expect(f)
    net.sw.ok('port', 'del', 'tap1')
    a.send(f)
    c.expect(f)


def test_device_moves_to_another_namespace(lab):
    """`ip link set tap1 netns c` afterwards is as good as netns=c."""
    net = Net(lab, 2, addresses=False)
    elsewhere = lab.netns('z')
    lab.ip(net.ns[1], 'link', 'set', 'tap1', 'netns', elsewhere)
    lab.ip(elsewhere, 'link', 'set', 'tap1', 'up', 'arp', 'off')
    a, b = lab.nic(net.ns[0], 'tap0'), lab.nic(elsewhere, 'tap1')
    f = frame(HOST[0], BROADCAST, 61)
    a.send(f)
    b.expect(f)
    b.send(frame(HOST[1], HOST[0], 62))
    a.expect(frame(HOST[1], HOST[0], 62))


def test_address(lab):
    a = lab.netns('a')
    sw = lab.switch(f'tap0=tap,netns={a},mac=52:54:00:00:77:01')
    assert lab.link(a, 'tap0')['address'] == '52:54:00:00:77:01'
    sw.ok('port', 'set', 'tap0', 'mac=52:54:00:00:77:02')
    assert lab.link(a, 'tap0')['address'] == '52:54:00:00:77:02'
    p = sw.ctl('port', 'set', 'tap0', 'mac=01:00:5e:00:00:01')
    assert p.returncode == 1 and 'not the address of a station' in p.stderr
    assert re.search(r'mac: .?52:54:00:00:77:02', sw.ok('show', 'config'))


def test_mtu_changes(lab):
    net = Net(lab, 2, key=',mtu=1400', addresses=False)
    a, b = net.nics()
    assert net.sw.port('tap1')['state']['mtu'] == 1400
    net.sw.ok('port', 'set', 'tap0', 'mtu=9000')
    assert lab.link(net.ns[0], 'tap0')['mtu'] == 9000
    a.send(frame(HOST[0], HOST[1], 5000))  # too long for tap1
    wait_for('the drop is counted', lambda: net.sw.drops() == {('tap1', 'mtu'): 1})
    lab.ip(net.ns[1], 'link', 'set', 'tap1', 'mtu', '9000')  # not through the switch
    wait_for('the switch noticed', lambda: net.sw.port('tap1')['state']['mtu'] == 9000)
    f = frame(HOST[0], HOST[1], 5001)
    a.send(f)
    b.expect(f)
    p = net.sw.ctl('port', 'set', 'tap0', 'mtu=12')
    assert p.returncode == 1 and 'mtu=12' in p.stderr and '68' in p.stderr
    assert lab.link(net.ns[0], 'tap0')['mtu'] == 9000  # the old value stayed
    assert re.search(r'mtu: .?9000', net.sw.ok('show', 'config'))


def test_ports_come_and_go_under_traffic(lab):
    """A ping between two ports is not disturbed by others that are added and deleted."""
    net = Net(lab, 3)
    out = {}
    t = threading.Thread(target=lambda: out.update(
        ping=lab.ping(net.ns[0], '10.0.0.2', count=100)))
    t.start()
    rounds = 0
    while t.is_alive() and rounds < 200:
        net.sw.ok('port', 'del', 'tap2')
        net.sw.ok('port', 'add', f'tap2=tap,netns={net.ns[2]}')
        rounds += 1
    t.join()
    assert ' 0% packet loss' in out['ping'] and rounds > 3


def test_namespace_by_path_and_by_process(lab):
    a, b = lab.netns('a'), lab.netns('b')
    sleeper = lab.netns_process(b)
    lab.switch(f'tap0=tap,netns=/run/netns/{a}', f'tap1=tap,netns={sleeper.pid}')
    lab.ip(a, 'addr', 'add', '10.0.0.1/24', 'dev', 'tap0')
    lab.ip(b, 'addr', 'add', '10.0.0.2/24', 'dev', 'tap1')
    assert ' 0% packet loss' in lab.ping(a, '10.0.0.2')


def test_multi_queue_device(lab):
    """A persistent device with the multi_queue flag: one queue of it is taken."""
    a, b = lab.netns('a'), lab.netns('b')
    lab.ip(a, 'tuntap', 'add', 'dev', 'mq0', 'mode', 'tap', 'multi_queue')
    lab.ip(a, 'link', 'set', 'mq0', 'up')
    lab.switch(f'tap0=tap,netns={a},dev=mq0', f'tap1=tap,netns={b}')
    lab.ip(a, 'addr', 'add', '10.0.0.1/24', 'dev', 'mq0')
    lab.ip(b, 'addr', 'add', '10.0.0.2/24', 'dev', 'tap1')
    assert ' 0% packet loss' in lab.ping(a, '10.0.0.2')


def queues_of(sw, port):
    """{queue: worker}"""
    workers = json.loads(sw.ok('show', 'workers', '--json'))['workers']
    return {q['queue']: i for i, w in enumerate(workers) for q in w['queues'] if q['port'] == port}


@pytest.mark.parametrize('offload', ['none', 'all'])
def test_several_queues(lab, offload):
    """Eight connections both ways over four queues of two workers; nothing is lost or mixed up."""
    a, b = lab.netns('a'), lab.netns('b')
    key = f'queues=4,offload={offload}'
    sw = lab.switch(f'tap0=tap,netns={a},{key}', f'tap1=tap,netns={b},{key},mtu=9000',
                    f'tap2=tap,netns={b},{key},mac=02:00:00:00:00:07', options=two_workers())
    assert lab.link(b, 'tap1')['mtu'] == 9000
    assert lab.link(b, 'tap2')['address'] == '02:00:00:00:00:07'
    assert sw.port('tap0')['state']['queues'] == 4
    placed = queues_of(sw, 'tap0')
    assert sorted(placed) == [0, 1, 2, 3] and set(placed.values()) == {0, 1}
    lab.ip(b, 'link', 'set', 'tap2', 'down')
    lab.ip(b, 'link', 'set', 'tap1', 'mtu', '1500')
    wait_for('the MTU is known', lambda: sw.port('tap1')['state']['mtu'] == 1500)
    lab.ip(a, 'addr', 'add', '10.0.0.1/24', 'dev', 'tap0')
    lab.ip(b, 'addr', 'add', '10.0.0.2/24', 'dev', 'tap1')
    bad = []

    def one(frm, to, address):
        try:
            tcp(frm, to, address, 4 << 20)
        except BaseException as e:
            bad.append(e)

    threads = [threading.Thread(target=one, args=x)
               for x in [(a, b, '10.0.0.2'), (b, a, '10.0.0.1')] * 4]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not bad
    sent = sw.port('tap0')['rx']
    assert (sent['bytes'] / sent['frames'] > 3000) == (offload == 'all')
    assert ' 0% packet loss' in lab.ping(b, '10.0.0.1')
    assert sw.stop() == 0
    assert 'tap0' not in lab.ip(a, 'link')  # the last queue took it away


def test_several_queues_of_a_persistent_device(lab):
    a, b = lab.netns('a'), lab.netns('b')
    for name in ('mq0', 'mq1'):  # the names that another namespace has, too
        lab.ip(a, 'tuntap', 'add', 'dev', name, 'mode', 'tap', 'multi_queue')
        lab.ip(a, 'link', 'set', name, 'up')
    for _ in range(2):
        sw = lab.switch(f'tap0=tap,netns={a},dev=mq0,queues=3', f'mq0=tap,netns={b},queues=2')
        assert sw.port('tap0')['state']['persistent']
        for ns, address in ((a, '10.0.0.1/24'), (b, '10.0.0.2/24')):
            lab.ip(ns, 'addr', 'replace', address, 'dev', 'mq0')
        assert ' 0% packet loss' in lab.ping(a, '10.0.0.2')
        tcp(a, b, '10.0.0.2', 4 << 20)
        sw.stop(9)
        assert 'mq0' in lab.ip(a, 'link') and 'mq0' not in lab.ip(b, 'link')


def cpu_ticks(pid):
    with open(f'/proc/{pid}/stat') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_sleeps_when_idle(lab):
    net = Net(lab, 4)
    lab.ping(net.ns[0], '10.0.0.2')
    for i, ns in enumerate(net.ns):
        lab.ip(ns, 'link', 'set', 'dev', f'tap{i}', 'arp', 'off')

    def asleep():
        before = cpu_ticks(net.sw.proc.pid)
        threading.Event().wait(1)
        return cpu_ticks(net.sw.proc.pid) - before <= 2  # of 100 a second
    wait_for('the switch sleeps', asleep)


# ---- ordinary users and refusals --------------------------------------------------------------

NOBODY = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups']


def as_nobody(ns):
    return ['ip', 'netns', 'exec', ns, *NOBODY]


def test_ordinary_user_with_owned_devices(lab):
    host = lab.netns('host')
    for dev in ('own0', 'own1'):
        lab.ip(host, 'tuntap', 'add', 'dev', dev, 'mode', 'tap', 'user', '65534')
        lab.ip(host, 'link', 'set', dev, 'up', 'arp', 'off')
    for _ in range(2):  # and again: the devices outlive the switch, even a killed one
        sw = lab.switch('own0=tap', 'x=tap,dev=own1,mtu=1500', prefix=as_nobody(host))
        with open(f'/proc/{sw.proc.pid}/status') as f:
            status = f.read()
        assert re.search(r'^Uid:\s+65534', status, re.M)
        assert re.search(r'^CapEff:\s+0+$', status, re.M)
        assert sw.port('x')['state']['persistent']
        a, b = lab.nic(host, 'own0'), lab.nic(host, 'own1')
        for size in (14, 60, 1514):
            f = frame(HOST[0], HOST[1], size)
            a.send(f)
            b.expect(f)
        p = sw.ctl('port', 'set', 'x', 'mtu=2000')
        assert p.returncode == 1 and 'ip link set own1 mtu 2000' in p.stderr
        sw.stop(9)
        assert 'own1' in lab.ip(host, 'link')


def test_owned_device_that_is_down(lab):
    """It is not the switch's business to bring it up; it says what to do and takes it up later."""
    host = lab.netns('host')
    lab.ip(host, 'tuntap', 'add', 'dev', 'own0', 'mode', 'tap', 'user', '65534')
    sw = lab.switch('own0=tap', prefix=as_nobody(host))
    assert 'ip link set own0 up' in sw.text()
    assert not sw.port('own0')['ready']
    lab.ip(host, 'link', 'set', 'own0', 'up')
    wait_for('it is ready', lambda: sw.port('own0')['ready'])


@pytest.mark.parametrize('port, hints', [
    ('new0=tap', ['new0', 'CAP_NET_ADMIN', 'ip tuntap add dev new0 mode tap user 65534']),
    ('roots=tap', ['roots', 'belongs to another user', 'ip tuntap add dev roots']),
    ('x=tap,netns={other}', ['{other}', 'CAP_SYS_ADMIN']),
])
def test_refused_as_ordinary_user(lab, port, hints):
    host, other = lab.netns('host'), lab.netns('o')
    lab.ip(host, 'tuntap', 'add', 'dev', 'roots', 'mode', 'tap', 'user', '0')
    refused(lab, as_nobody(host), port.format(other=other), [h.format(other=other) for h in hints])


@pytest.mark.parametrize('port, hints', [
    ('busy=tap', ['busy', 'in use', 'dev=']),
    ('x=tap,dev=lo', ['lo', 'not a tap device']),
    ('x=tap,dev=tun0', ['tun0', 'not a tap device']),
    ('x=tap,netns=no-such', ['netns=no-such', '/run/netns/no-such']),
    ('x=tap,netns=/proc/self/ns/mnt', ['/proc/self/ns/mnt', 'not a network namespace']),
    ('x=tap,netns=/dev/zero', ['/dev/zero', 'not a network namespace']),
    ('x=tap,dev=one0,queues=2', ['one0', 'without multi_queue', 'queues=',
                                 'ip tuntap add dev one0 mode tap user 0 multi_queue']),
    ('x=tap,dev=lo,queues=2', ['lo', 'not a tap device']),
    ('x=tap,queues=17', ['queues=17', '16']),
    ('x=tap,mtu=70000', ['mtu=70000', '65521']),
])
def test_refused_as_root(lab, port, hints):
    host = lab.netns('host')
    lab.ip(host, 'tuntap', 'add', 'dev', 'tun0', 'mode', 'tun')
    lab.ip(host, 'tuntap', 'add', 'dev', 'one0', 'mode', 'tap')
    lab.switch('busy=tap', prefix=['ip', 'netns', 'exec', host])
    before = lab.ip(host, '-o', 'link')
    refused(lab, ['ip', 'netns', 'exec', host], port, hints)
    assert lab.ip(host, '-o', 'link') == before  # nothing was left behind


def refused(lab, prefix, port, hints):
    p = lab.try_switch(prefix, port)
    assert p.returncode in (1, 2), p.stdout
    for hint in hints:
        assert hint in p.stderr, p.stderr
    assert len(p.stderr.strip().splitlines()) == 1  # one sentence


def test_refused_port_disturbs_nobody(lab):
    net = Net(lab, 2)
    for bad in (f'tap9=tap,netns={net.ns[0]},dev=tap1x/', 'tap0=tap', 'tap9=tap,netns=none'):
        assert net.sw.ctl('port', 'add', bad).returncode != 0
    assert ' 0% packet loss' in lab.ping(net.ns[0], '10.0.0.2')


def test_the_bench_runs():
    """tools/tap-bench with the peer that is always there: no figure is looked at."""
    p = subprocess.run([f'{TOP}/tools/tap-bench', '--rounds', '1', '--peer', 'ringway', '--queues', '2'],
                       text=True, capture_output=True, timeout=5 * LIMIT)
    assert p.returncode == 0, p.stderr
    rows = [line.split('|')[1:3] for line in p.stdout.splitlines() if '| ringway |' in line]
    assert [case.strip() for case, _ in rows] == ['tcp', 'tcp-4', 'udp', 'udp-read']
