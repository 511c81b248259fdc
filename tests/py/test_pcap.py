# SPDX-License-Identifier: Apache-2.0
"""Ports that are files, and null ports, in a real switch: a front-end gets what the file says, when it
says so; what a front-end sends is in the file, for readers that are not ours.
"""
import json
import os
import subprocess
import time

import pytest
import yaml
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter, rdpcap, wrpcap

import vu_front as vu
from vu_front import frame, wait_for
from vu_lab import RINGWAY, mac

SRC = b'\x52\x54\0\0\x77\x01'  # who speaks in the files
SIZES = [14, 60, 61, 180, 181, 1000, 1514]


def cli(*args, cwd=None, status=0):
    r = subprocess.run([RINGWAY, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=vu.TIMEOUT, cwd=cwd)
    assert r.returncode == status, r.stderr
    return r


@pytest.fixture
def player(lab, net, tmp_path):
    """play(frames, times, **options): a port that plays them, behind the front-end `nic`."""
    class Player:
        nic = net.nic()
        made = []
        path = str(tmp_path / 'in.pcap')

        def frames(self, sizes=SIZES):
            return [frame(self.nic.mac, SRC, n, i) for i, n in enumerate(sizes)]

        def play(self, frames, times=None, ng=False, **options):
            packets = []
            for i, f in enumerate(frames):
                packets.append(Ether(f))
                packets[-1].time = 1700000000 + (times[i] if times else 0)
            if ng:
                with PcapNgWriter(self.path) as w:
                    for p in packets:
                        w.write(p)
            else:
                wrpcap(self.path, packets, nano=True)
            name = f'{net.bridge}in'
            lab.rpc('port.add', name=name, kind='pcap',
                    options={'bridge': net.bridge, 'rx': self.path, **options})
            self.made.append(name)
            return name

        def state(self, name):
            return lab.rpc('ports.list', name=name)['ports'][0]['state']
    p = Player()
    yield p
    for name in p.made:
        lab.rpc('port.del', name=name)


@pytest.mark.parametrize('ng', [False, True])
def test_front_end_gets_the_file(player, ng):
    said = player.frames()
    name = player.play(said, ng=ng)
    assert player.nic.recv(len(said)) == said
    wait_for('the end', lambda: player.state(name)['state'] == 'done')
    s = player.state(name)
    assert (s['file_frames'], s['rounds_done'], s['file_frames_cut']) == (len(said), 1, 0)


@pytest.mark.parametrize('speed, seconds', [('1', 1), ('2', 0.5), ('max', 0)])
def test_time(player, speed, seconds):
    said = player.frames([60, 61, 62])
    begun = time.monotonic()
    player.play(said, times=[0, 0.25, 1], speed=speed)
    got = player.nic.recv(3)
    assert got == said
    passed = time.monotonic() - begun
    assert passed >= seconds
    if speed == 'max':
        assert passed < 1, 'it waited for its time stamps'


def test_loop(player):
    said = player.frames([60, 100])
    name = player.play(said, times=[0, 0.001], loop=3)
    assert player.nic.recv(6) == said * 3
    wait_for('the end', lambda: player.state(name)['state'] == 'done')
    assert player.state(name)['rounds_done'] == 3
    time.sleep(0.05)
    player.nic.poll()
    assert player.nic.inbox == []


def test_loop_for_ever_and_pause(lab, player):
    said = player.frames([60])
    name = player.play(said, loop=True, speed='100', paused=True)
    assert player.state(name)['state'] == 'paused'
    assert lab.rpc('ports.list', name=name)['ports'][0]['rx']['frames'] == 0
    lab.rpc('port.set', name=name, key='paused', value='no')
    assert player.nic.recv(20) == said * 20
    assert player.state(name)['state'] == 'playing'
    lab.rpc('port.set', name=name, key='paused', value='yes')
    before = lab.rpc('ports.list', name=name)['ports'][0]['rx']['frames']
    time.sleep(0.1)
    after = lab.rpc('ports.list', name=name)['ports'][0]['rx']['frames']
    assert before == after and player.state(name)['state'] == 'paused'


def test_faster_than_a_guest_takes_it(lab, net, player):
    """speed=max holds nobody back: what has no buffer is dropped at the receiver, and the rest of the
    switch goes on."""
    name = player.play(player.frames([60] * 100), speed='max', loop=100)
    wait_for('the end', lambda: player.state(name)['state'] == 'done')
    got = 0
    while True:
        player.nic.poll()
        if not player.nic.inbox:
            break
        got += len(player.nic.inbox)
        player.nic.inbox = []
    dropped = net.drops(player.nic.name).get('no-buffers', 0)
    sent = lab.rpc('ports.list', name=name)['ports'][0]['rx']['frames']
    assert sent == 10000 and got + dropped == sent


def test_recording(lab, net, tmp_path):
    a, b = net.nic(), net.nic()
    path = str(tmp_path / 'out.pcapng')
    name = f'{net.bridge}rec'
    lab.rpc('port.add', name=name, kind='pcap', options={'bridge': net.bridge, 'tx': path})
    said = [frame(b'\xff' * 6, a.mac, n, i) for i, n in enumerate(SIZES * 20)]
    begun = time.time()
    a.send_frames(*said)
    assert b.recv(len(said)) == said
    def state():
        return lab.rpc('ports.list', name=name)['ports'][0]['state']
    wait_for('the writer', lambda: state()['recorded'] == len(said))
    assert state()['write_error'] is None
    wait_for('the flush', lambda: len(rdpcap(path)) == len(said))  # while it is being written
    lab.rpc('port.del', name=name)
    packets = rdpcap(path)
    assert [bytes(p) for p in packets] == said
    assert all(begun - 1 < float(p.time) < time.time() + 1 for p in packets)
    out = subprocess.run(['tcpdump', '-r', path, '-nn', '-e', '-t'], capture_output=True, text=True,
                         check=True, env={'PATH': os.environ['PATH'] + ':/usr/sbin'})
    assert out.stdout.count(a.mac.hex(':') + ' > ') == len(said)
    # what was recorded can be played
    lab.rpc('port.add', name=name, kind='pcap', options={'bridge': net.bridge, 'rx': path,
                                                         'speed': 'max'})
    assert b.recv(len(said)) == said
    lab.rpc('port.del', name=name)


def test_player_that_records(lab, player, tmp_path):
    """Both ways in one port."""
    said, out = player.frames([60, 61]), str(tmp_path / 'both.pcapng')
    name = player.play(said, tx=out)
    assert player.nic.recv(2) == said
    answer = frame(SRC, player.nic.mac, 99, 1)
    player.nic.send_frames(answer)
    wait_for('the writer', lambda: player.state(name)['recorded'] == 1)
    wait_for('the flush', lambda: [bytes(p) for p in rdpcap(out)] == [answer])


def test_null(lab, net):
    a = net.nic()
    name = f'{net.bridge}null'
    lab.rpc('port.add', name=name, kind='null', options={'bridge': net.bridge})
    sink = mac(77)
    lab.rpc('mac.add', mac=sink.hex(':'), port=name)
    a.send_frames(*[frame(sink, a.mac, n) for n in SIZES])
    def port():
        return lab.rpc('ports.list', name=name)['ports'][0]
    wait_for('all to vanish', lambda: port()['tx']['frames'] == len(SIZES))
    assert port()['tx']['bytes'] == sum(SIZES) and port()['rx']['frames'] == 0
    assert port()['drops'] == 0 and net.drops(a.name) == {}
    lab.rpc('port.del', name=name)


def test_capture_of_a_player(lab, net, player, tmp_path):
    """Ports that are files are captured like all others."""
    said = player.frames()
    name = player.play(said, paused=True)
    out = str(tmp_path / 'c.pcapng')
    p = subprocess.Popen([RINGWAY, 'capture', name, '-w', out, '-c', str(len(said)), '--rundir',
                          lab.run], stderr=subprocess.PIPE)
    assert p.stderr.readline().startswith(b'capturing')
    lab.rpc('port.set', name=name, key='paused', value='no')
    p.communicate(timeout=vu.TIMEOUT)
    assert p.returncode == 0 and [bytes(x) for x in rdpcap(out)] == said


# --- words ------------------------------------------------------------------------------------------

def test_command_line_file_and_round_trip(tmp_path):
    """The same words in all three, and relative paths mean the directory of who says them."""
    here = tmp_path / 'here'
    here.mkdir()
    wrpcap(str(here / 'x.pcap'), [Ether(frame(b'\xff' * 6, SRC, 60))])
    run = str(tmp_path / 'run')
    conf = tmp_path / 'c.yaml'
    conf.write_text(f'ports:\n  a: {{kind: pcap, rx: {here}/x.pcap, loop: 5, speed: 0.5, paused: yes}}\n'
                    '  n: {kind: null}\n')
    assert '2 ports' in cli('check', '-c', str(conf)).stdout
    p = subprocess.Popen([RINGWAY, 'run', '--rundir', run, '-c', str(conf), 'b=pcap,rx=x.pcap,loop'],
                         stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd=here)
    try:
        wait_for('the switch', lambda: subprocess.run(
            [RINGWAY, 'show', 'ports', '--rundir', run], capture_output=True).returncode == 0)
        cli('port', 'add', 'c=pcap,tx=made/y.pcapng', '--rundir', run, cwd=here, status=1)
        os.mkdir(here / 'made')
        cli('port', 'add', 'c=pcap,tx=made/y.pcapng', '--rundir', run, cwd=here)
        cli('port', 'set', 'a', 'speed=4', '--rundir', run)
        text = cli('show', 'config', '--rundir', run).stdout
        ports = yaml.safe_load(text)['ports']
        assert ports['a'] == {'kind': 'pcap', 'rx': f'{here}/x.pcap', 'loop': 5, 'speed': 4,
                              'paused': 'yes', 'bridge': 'br0'}
        assert ports['b'] == {'kind': 'pcap', 'rx': 'x.pcap', 'loop': 'yes', 'bridge': 'br0'}
        assert ports['c'] == {'kind': 'pcap', 'tx': f'{here}/made/y.pcapng', 'bridge': 'br0'}
        assert ports['n'] == {'kind': 'null', 'bridge': 'br0'}
        again = tmp_path / 'again.yaml'
        again.write_text(text)
        assert '4 ports' in cli('check', '-c', str(again)).stdout
        table = json.loads(cli('show', 'ports', '--json', '--rundir', run).stdout)['ports']
        assert {x['name']: x['state'].get('state') for x in table} == {
            'a': 'paused', 'n': None, 'b': 'playing', 'c': None}
    finally:
        p.terminate()
        assert p.wait(vu.TIMEOUT) == 0


@pytest.mark.parametrize('port, says', [
    ('x=pcap', 'a pcap port needs rx=FILE to send, tx=FILE to record, or both'),
    ('x=pcap,rx=/x,speed=fast', 'speed=fast is neither max nor a factor from 0.001 to 1000000'),
    ('x=pcap,rx=/x,lop=2', 'unknown key "lop" for a pcap port; did you mean "loop"?'),
    ('x=nul', 'unknown kind of port "nul"; did you mean "null"?'),
    ('x=null,rx=y', 'unknown key "rx" for a null port'),
])
def test_usage_errors(port, says):
    assert says in cli('run', port, status=2).stderr


def test_bad_file(tmp_path):
    (tmp_path / 'bad').write_text('no capture')
    err = cli('run', f'x=pcap,rx={tmp_path}/bad', '--rundir', str(tmp_path / 'run'), status=1).stderr
    assert f'port x: {tmp_path}/bad is no capture file: unknown file format' in err
