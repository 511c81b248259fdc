# SPDX-License-Identifier: Apache-2.0
"""The program as people use it: `ringway run` as an ordinary process in a run directory of its own,
and every command against it.

    RINGWAY   the binary under test
"""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time

import pytest
import yaml

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RINGWAY = os.environ.get('RINGWAY', os.path.join(TOP, 'build', 'ringway'))
TIMEOUT = 60  # for what takes milliseconds: the machine may be slow


def wait_for(what, condition):
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f'{what}: not within {TIMEOUT} s')


def environment(**more):
    env = {k: v for k, v in os.environ.items()
           if k not in ('RINGWAY_RUNDIR', 'XDG_RUNTIME_DIR', 'NOTIFY_SOCKET')}
    return {**env, **more}


class Switch:
    """A running `ringway run`, with all that it printed."""

    def __init__(self, dir, *args, rundir=None, env=None):
        self.dir = dir
        self.rundir = rundir or os.path.join(dir, 'run')
        self.log = os.path.join(dir, 'log')
        with open(self.log, 'ab') as log:
            self.proc = subprocess.Popen(
                [RINGWAY, 'run', '--rundir', self.rundir, *args], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, cwd=dir, env=env or environment())
        wait_for('control socket', lambda: self.proc.poll() is not None or self.answers())
        assert self.proc.poll() is None, self.text()

    def answers(self):
        with contextlib.suppress(OSError), self.connect():
            return True

    def connect(self):
        """A new connection; blocking in connect(), so that a full backlog is waited for."""
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(os.path.join(self.rundir, 'ringway.sock'))
        except OSError:
            s.close()
            raise
        s.settimeout(TIMEOUT)
        return s

    def text(self):
        with open(self.log) as f:
            return f.read()

    def cli(self, *args, status=0):
        return cli(*args, '--rundir', self.rundir, status=status)

    def json(self, *args):
        return json.loads(self.cli(*args, '--json').stdout)

    def rpc(self, method, **params):
        with self.connect() as s:
            s.sendall(json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': method,
                                  'params': params}).encode() + b'\n')
            return json.loads(s.makefile().readline())

    def end(self):
        if self.proc.poll() is None:
            self.proc.terminate()
        return self.proc.wait(TIMEOUT)


def cli(*args, status=0, env=None, cwd=None):
    r = subprocess.run([RINGWAY, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=TIMEOUT, env=env or environment(), cwd=cwd)
    assert r.returncode == status, f'ringway {" ".join(args)}: {r.returncode}\n{r.stdout}{r.stderr}'
    if status:
        assert r.stderr.startswith(('ringway: ', 'usage: ')) and r.stderr.endswith('\n'), r.stderr
    return r


@pytest.fixture
def dir():
    d = tempfile.mkdtemp(prefix='rw-cli-')
    yield d
    shutil.rmtree(d)


@pytest.fixture
def switch(dir):
    s = Switch(dir, 'd1=dummy', 'd2=dummy,isolated=yes,mtu=900', 'vm1')
    yield s
    s.end()


# --- the words ------------------------------------------------------------------------------------

def test_version_and_help():
    assert re.fullmatch(r'ringway \d+\.\d+\.\d+\n', cli('--version').stdout)
    assert cli('version').stdout == cli('--version').stdout
    top = cli('--help').stdout
    for word in ('run', 'show', 'why', 'capture', 'port', 'mac', 'bridge', 'vlan', 'stop', 'check', 'bench'):
        assert re.search(rf'^  {word} ', top, re.M)
        text = cli(word, '--help').stdout
        assert text.startswith('usage: ringway ' + word)
        assert cli('help', word).stdout == text


@pytest.mark.parametrize('args, says', [
    ([], 'which command?'),
    (['shwo'], 'unknown command "shwo"; did you mean "show"?'),
    (['s'], '"s" is ambiguous: show, stop'),
    (['show'], 'show what?'),
    (['show', 'prts'], 'did you mean "ports"?'),
    (['show', 'ports', '--jsno'], 'did you mean "--json"?'),
    (['show', 'ports', '-x'], 'unknown option -x'),
    (['show', 'ports', '--rundir'], 'option --rundir needs a value'),
    (['port', 'add'], 'port add needs a port'),
    (['port', 'set', 'a', 'mtu'], '"mtu" is not KEY=VALUE'),
    (['port', 'add', 'a=dmmy'], 'unknown kind of port "dmmy"; did you mean "dummy"?'),
    (['port', 'add', 'a=dummy,mut=1'], 'unknown key "mut" for a dummy port; did you mean "mtu"?'),
    (['mac', 'add', '52:54', 'a'], '"52:54" is not a MAC address'),
    (['bridge', 'add', 'b', 'aeg=4'], 'unknown key "aeg" for a bridge; did you mean "age"?'),
    (['bridge', 'add', 'b', 'age'], '"age" is not KEY=VALUE'),
    (['bridge', 'set', 'b', 'vlan-filtering=maybe'], 'is none of yes, no, auto'),
    (['bridge', 'set', 'b', 'vlan-protocol=802.3'], 'is neither 802.1Q nor 802.1ad'),
    (['bridge', 'set', 'b', 'vlan-default-pvid=4095'], 'is not a number from 0 to 4094'),
    (['vlan'], 'vlan what? add, del or show'),
    (['vlan', 'add', 'vm1'], 'vlan add: "vm1" is not expected'),
    (['vlan', 'add', 'dev', 'vm1'], 'vlan add needs dev PORT and vid VIDS'),
    (['vlan', 'add', 'dev', 'vm1', 'vid'], '"vid" is given twice or without a value'),
    (['vlan', 'add', 'dev', 'vm1', 'vid', '4095'], '"4095" is not a list of VLANs from 1 to 4094'),
    (['vlan', 'add', 'dev', 'vm1', 'vid', '5', 'tagged'], '"tagged" is not expected'),
    (['vlan', 'del', 'dev', 'vm1', 'vid', '5', 'pvid'], '"pvid" is not expected'),
    (['vlan', 'del', 'dev', 'vm1', 'vid', 'none'], 'names no VLAN'),
    (['vlan', 'add', '--json', 'dev', 'vm1', 'vid', '5'], 'vlan add has no option --json'),
    (['mac', 'flush', 'vlan', '0'], '"0" is not a VLAN from 1 to 4094'),
    (['run', 'a=dummy,vlan=4095'], 'port a: vlan=4095 is not a number from 0 to 4094'),
    (['run', 'a=dummy,trunk=10-'], 'port a: trunk: "10-" is not a list of VLANs'),
    (['run', 'a=dummy,vlan=1,trunk=2'], 'port a: vlan and trunk exclude each other'),
    (['port', 'add', 'a=dummy,qinq=1,native=2'], 'port a: qinq and native exclude each other'),
    (['stop', 'now'], 'stop takes no arguments'),
    (['check'], 'check which file?'),
    (['run', '--wrkers', '0'], 'did you mean "--workers"?'),
    (['run', '--workers', 'x'], '--workers: "x" is not a list of CPUs'),
    (['run', '--workers', '100000'], 'worker CPU 100000 is not one that this process may use'),
    (['run', '--log-level', 'loud'], 'none of error, warn, info, debug'),
    (['run', '--mac-size', '0'], 'mac-size "0" is not a number'),
    (['run', '--poll-us', 'x'], 'poll-us "x" is not a number'),
    (['run', '--balance-ms', '9'], 'balance-ms "9" is neither 0 nor a number of milliseconds'),
    (['run', 'a=dummy,pin=0'], 'pin=0 is not QUEUE:WORKER'),
    (['run', 'a=dummy,pin=0:0+0:1'], 'each queue once'),
    (['port', 'set', 'a', 'queue=1'], 'queue=1 must be followed by worker=N or worker=auto'),
    (['port', 'set', 'a', 'queue=x', 'worker=1'], 'queue=x is not the number of a queue'),
    (['port', 'set', 'a', 'queue=1', 'worker=-1'], 'queue=1 must be followed by'),
    (['run', 'a', 'a'], 'port a is named twice'),
    (['run', 'a/b'], '"a/b" is not a name'),
    (['run', 'a='], "nothing after '='"),
    (['run', 'a=vhost-user,clinet=/x'], 'did you mean "client"?'),
])
def test_usage_errors(args, says):
    assert says in cli(*args, status=2).stderr


# --- without a switch -----------------------------------------------------------------------------

def test_no_switch(dir):
    for args in (['show', 'ports'], ['port', 'del', 'x'], ['mac', 'flush'], ['stop'],
                 ['why', 'x'], ['bridge', 'del', 'b']):
        e = cli(*args, '--rundir', dir, status=1).stderr
        assert f'no switch runs in {dir}; start one with `ringway run`' in e


def test_rundir_choice(dir):
    if os.geteuid() != 0:
        assert 'give --rundir DIR or set RINGWAY_RUNDIR' in cli('show', 'ports', status=1).stderr
        e = cli('show', 'ports', env=environment(XDG_RUNTIME_DIR=dir), status=1).stderr
        assert f'no switch runs in {dir}/ringway;' in e
    e = cli('show', 'ports', env=environment(RINGWAY_RUNDIR=dir), status=1).stderr
    assert f'no switch runs in {dir};' in e
    e = cli('show', 'ports', '--rundir', 'here/', cwd=dir, status=1).stderr
    assert f'no switch runs in {dir}/here;' in e
    e = cli('run', '--rundir', f'{dir}/a/b', status=1).stderr
    assert f'cannot make the run directory {dir}/a/b: No such file' in e and 'its parent' in e
    open(f'{dir}/file', 'w').close()
    assert 'is not a directory' in cli('run', '--rundir', f'{dir}/file', status=1).stderr
    long = f'{dir}/{"x" * 120}'
    assert 'choose a shorter --rundir' in cli('run', '--rundir', long, status=1).stderr
    assert os.listdir(long) == []


def test_check(dir):
    file = os.path.join(dir, 'c.yaml')

    def write(text):
        with open(file, 'w') as f:
            f.write(text)
    write('ports:\n  vm1:\n  t0: {kind: tap, mtu: 9000}\n')
    assert cli('check', '-c', file).stdout == f'{file}: 0 bridges, 2 ports, 0 static addresses\n'
    write('ports:\n  vm1: {clinet: /x}\n')
    for args in (['check', '-c', file], ['run', '--rundir', f'{dir}/r', '-c', file]):
        assert (f'{file}:2:9: unknown key "clinet" for a vhost-user port; did you mean "client"?'
                in cli(*args, status=1).stderr)
    # values too, and keys that do not go together; nothing is opened for it
    for text, says in (
            ('  d1: {kind: dummy, mtu: 1}', '2:26: mtu=1 is not a number from 68 to 65535'),
            ('  d1: {kind: dummy, isolated: perhaps}', '2:31: isolated=perhaps is neither yes nor no'),
            ('  vm1: {mode: 999}', '2:15: mode=999 is not an octal number from 0 to 777'),
            ('  vm1: {owner: no-such-user}', '2:16: owner=no-such-user: there is no such user'),
            ('  vm1: {client: /a, path: /b}', '2:8: client= and path= exclude each other'),
            ('  t0: {kind: tap, dev: a/b}', "2:7: dev=a/b: a device name has no '/'")):
        write(f'ports:\n{text}\n')
        assert f'{file}:{says}' in cli('check', file, status=1).stderr
    assert 'cannot read /nonexistent: No such file' in cli('check', '/nonexistent', status=1).stderr
    # what only the switch can know names the line, and leaves nothing behind
    write('ports:\n  t0: {kind: tap, netns: no-such-namespace}\n')
    assert f'{file}:2: ' in cli('run', '--rundir', f'{dir}/r', '-c', file, status=1).stderr
    assert os.listdir(f'{dir}/r') == []


# --- a running switch -----------------------------------------------------------------------------

def test_run_and_stop(dir):
    s = Switch(dir, 'vm1')
    assert sorted(os.listdir(s.rundir)) == ['ringway.pid', 'ringway.sock', 'vm1.sock']
    for name in ('ringway.sock', 'vm1.sock'):
        assert stat.S_IMODE(os.stat(os.path.join(s.rundir, name)).st_mode) == 0o660
    with open(os.path.join(s.rundir, 'ringway.pid')) as f:
        assert int(f.read()) == s.proc.pid
    s.cli('stop')
    assert os.listdir(s.rundir) == []  # when stop returns, not later
    assert s.proc.wait(TIMEOUT) == 0


@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(dir, sig):
    s = Switch(dir, 'vm1', 'd1=dummy')
    with s.connect():  # a connection that says nothing does not hold it up
        s.proc.send_signal(sig)
        assert s.proc.wait(TIMEOUT) == 0
    assert os.listdir(s.rundir) == []


def test_killed_switch_leaves_nothing_in_the_way(dir):
    s = Switch(dir, 'vm1')
    s.proc.kill()
    s.proc.wait(TIMEOUT)
    assert 'vm1.sock' in os.listdir(s.rundir)
    assert 'no switch runs in' in s.cli('show', 'ports', status=1).stderr
    s = Switch(dir, 'vm1')
    assert s.json('show', 'ports')['ports'][0]['name'] == 'vm1'
    assert s.end() == 0


def test_second_instance(switch):
    e = cli('run', 'other', '--rundir', switch.rundir, status=1).stderr
    assert f'process {switch.proc.pid} (ringway) holds the run directory {switch.rundir}' in e
    assert 'or choose another --rundir' in e
    assert len(switch.json('show', 'ports')['ports']) == 3  # the first one did not notice


def test_socket_in_use(dir):
    s = Switch(dir, 'vm1')
    second = os.path.join(dir, 'second')
    e = cli('run', f'x=vhost-user,path={s.rundir}/vm1.sock', '--rundir', second, status=1).stderr
    assert str(s.proc.pid) in e and 'vm1.sock' in e
    assert os.listdir(second) == []
    assert s.end() == 0


def test_show_ports(switch):
    ports = {p['name']: p for p in switch.json('show', 'ports')['ports']}
    assert list(ports) == ['d1', 'd2', 'vm1']
    assert ports['d2']['isolated'] and not ports['d1']['isolated']
    assert ports['d2']['options']['mtu'] == '900'
    assert ports['vm1']['state']['socket'] == f'{switch.rundir}/vm1.sock'
    assert 'VIRTIO_NET_F_MRG_RXBUF' in ports['vm1']['state']['features_offered']
    assert ports['vm1']['rx'] == {'frames': 0, 'bytes': 0, 'pps': 0.0, 'bps': 0.0}
    table = switch.cli('show', 'ports').stdout.splitlines()
    assert table[0].split()[:4] == ['PORT', 'KIND', 'BRIDGE', 'STATE']
    assert [line.split()[0] for line in table[1:]] == ['d1', 'd2', 'vm1']
    assert switch.cli('sh', 'po').stdout.splitlines()[0] == table[0]
    detail = switch.cli('show', 'ports', 'vm1').stdout
    assert detail.startswith('vm1: vhost-user port of bridge br0, listening\n')
    assert 'VIRTIO_F_VERSION_1' in detail
    assert [p['name'] for p in switch.json('show', 'ports', 'd2')['ports']] == ['d2']
    assert 'there is no port nope' in switch.cli('show', 'ports', 'nope', status=1).stderr


def test_show_the_rest(switch):
    workers = switch.json('show', 'workers')['workers']
    assert [w['id'] for w in workers] == [0] and workers[0]['cpu'] is None
    names = ('port', 'queue', 'load', 'pinned', 'busy_turns', 'chains')
    assert [tuple(q[n] for n in names) for q in workers[0]['queues']] == [
        (p, 0, 0.0, False, 0, 0) for p in ('d1', 'd2')]
    assert all(q['budget'] > 0 and q['turns'] >= 0 for q in workers[0]['queues'])
    assert switch.cli('show', 'workers').stdout.split()[0] == 'WORKER'
    assert [w['id'] for w in switch.json('show', 'workers', '0')['workers']] == [0]
    assert 'there is no 7' in switch.cli('show', 'workers', '7', status=1).stderr
    assert switch.json('show', 'drops') == {'drops': []}
    assert switch.cli('show', 'drops').stdout == 'no frame was dropped\n'
    assert switch.cli('why', 'd1').stdout == 'no frame was dropped on account of d1\n'
    assert switch.json('show', 'bridges')['bridges'][0]['ports'] == 3
    assert 'there is no br9' in switch.cli('show', 'bridges', 'br9', status=1).stderr
    macs = switch.json('show', 'macs')
    assert macs['macs'] == [] and macs['size'] >= 131072


def test_watch(switch):
    p = subprocess.Popen([RINGWAY, 'show', 'ports', '--watch', '--json', '--rundir', switch.rundir],
                         stdout=subprocess.PIPE, text=True, env=environment())
    for _ in range(2):
        assert len(json.loads(p.stdout.readline())['ports']) == 3
    p.terminate()
    p.stdout.close()
    p.wait(TIMEOUT)


def test_watch_ends_with_the_switch(dir):
    s = Switch(dir, 'd1=dummy')
    p = subprocess.Popen([RINGWAY, 'show', 'workers', '--watch', '--rundir', s.rundir],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env=environment())
    assert p.stdout.readline().split()[0] == 'WORKER'
    assert s.end() == 0
    assert 'ringway: the switch in' in p.communicate(timeout=TIMEOUT)[1]
    assert p.returncode == 1


def test_ports_come_and_go(switch):
    switch.cli('port', 'add', 'n1=dummy,bridge=br5,mac-limit=17', 'vm2')
    ports = {p['name']: p for p in switch.json('show', 'ports')['ports']}
    assert ports['n1']['bridge'] == 'br5' and ports['n1']['macs']['limit'] == 17
    assert os.path.exists(f'{switch.rundir}/vm2.sock')
    switch.cli('port', 'set', 'n1', 'mtu=1000', 'isolated=yes', 'mac-limit=18')
    n1 = switch.json('show', 'ports', 'n1')['ports'][0]
    assert n1['isolated'] and n1['macs']['limit'] == 18 and n1['options']['mtu'] == '1000'
    for args, says in (
            (['port', 'add', 'n1=dummy'], "'n1' already"),
            (['port', 'set', 'n1', 'bridge=br0'], 'delete it and add it again'),
            (['port', 'set', 'n1', 'mut=5'], 'did you mean "mtu"?'),
            (['port', 'set', 'n1', 'mtu=x'], 'port n1: mtu=x is not a number from 68'),
            (['port', 'set', 'n2', 'mtu=5'], 'there is no port n2'),
            (['port', 'del', 'n2'], 'there is no port n2'),
            (['bridge', 'del', 'br5'], 'still has 1 port')):
        assert says in switch.cli(*args, status=1).stderr
    assert switch.json('show', 'ports', 'n1')['ports'][0]['options']['mtu'] == '1000'
    switch.cli('port', 'del', 'n1', 'vm2')
    assert not os.path.exists(f'{switch.rundir}/vm2.sock')
    switch.cli('bridge', 'del', 'br5')
    assert [p['name'] for p in switch.json('show', 'ports')['ports']] == ['d1', 'd2', 'vm1']


def test_relative_socket_of_port_add(switch):
    other = os.path.join(switch.dir, 'elsewhere')
    os.mkdir(other)
    cli('port', 'add', 'r=vhost-user,path=r.sock', '--rundir', switch.rundir, cwd=other)
    assert stat.S_ISSOCK(os.stat(f'{other}/r.sock').st_mode)


def test_macs(switch):
    switch.cli('mac', 'add', '52:54:00:00:00:01', 'd1')
    assert switch.json('show', 'macs')['macs'] == [
        {'mac': '52:54:00:00:00:01', 'bridge': 'br0', 'vlan': None, 'port': 'd1', 'static': True,
         'age': 0}]
    assert '52:54:00:00:00:01  br0        -  d1    static' in switch.cli('show', 'macs').stdout
    assert switch.json('show', 'macs', 'd2')['macs'] == []
    assert switch.cli('mac', 'flush').stdout == '0 learnt addresses forgotten\n'
    assert 'there is no port nope' in switch.cli('mac', 'flush', 'nope', status=1).stderr
    assert 'multicast' in switch.cli('mac', 'add', '01:00:5e:00:00:01', 'd1', status=1).stderr
    switch.cli('mac', 'del', '52:54:00:00:00:01')
    assert 'does not know' in switch.cli('mac', 'del', '52:54:00:00:00:01', status=1).stderr
    assert switch.json('show', 'macs')['macs'] == []


def test_bridges(switch):
    switch.cli('bridge', 'add', 'lab', 'age=60')
    switch.cli('bridge', 'set', 'lab', 'forward-reserved=yes')
    assert switch.json('show', 'bridges', 'lab')['bridges'] == [
        {'name': 'lab', 'age': 60, 'forward_reserved': True, 'ports': 0, 'vlan_filtering': 'auto',
         'filters_vlans': False, 'vlan_protocol': '802.1Q', 'vlan_default_pvid': 1}]
    switch.cli('bridge', 'set', 'lab', 'vlan-filtering=yes', 'vlan-protocol=802.1ad')
    assert switch.cli('show', 'bridges', 'lab').stdout.splitlines()[1].split() == [
        'lab', '0', '60s', 'yes', 'yes', '802.1ad', '1']
    switch.cli('bridge', 'del', 'lab')


def vlans(switch, port):
    p, = switch.json('vlan', 'show', 'dev', port)['ports']
    return p['vlans'] if p['filtering'] else None


def test_vlans(switch):
    def vlan(first, last=None, pvid=False, untagged=False):
        end = {'vlan_end': last} if last else {}
        return {'vlan': first, **end, 'pvid': pvid, 'untagged': untagged}
    assert vlans(switch, 'd1') is None
    assert 'its bridge does not filter' in switch.cli('show', 'vlans').stdout
    switch.cli('vlan', 'add', 'dev', 'd1', 'vid', '10-20,30')
    assert vlans(switch, 'd1') == [vlan(1, pvid=True, untagged=True), vlan(10, 20), vlan(30)]
    assert vlans(switch, 'd2') == [vlan(1, pvid=True, untagged=True)]
    switch.cli('vlan', 'add', 'vid', '15', 'untagged', 'dev', 'd1', 'pvid')
    switch.cli('vlan', 'del', 'dev', 'd1', 'vid', '1')
    assert vlans(switch, 'd1') == [vlan(10, 14), vlan(15, pvid=True, untagged=True), vlan(16, 20),
                                   vlan(30)]
    assert [line.split() for line in switch.cli('vlan', 'show', 'd1').stdout.splitlines()] == [
        ['PORT', 'BRIDGE', 'PROTOCOL', 'VLAN', 'FLAGS'], ['d1', 'br0', '802.1Q', '10-14'],
        ['15', 'PVID', 'Egress', 'Untagged'], ['16-20'], ['30']]
    options = switch.json('show', 'ports', 'd1')['ports'][0]['options']
    assert options == {'trunk': '10-14+16-20+30', 'native': '15'}
    # addresses
    switch.cli('mac', 'add', '52:54:00:00:00:01', 'd1', 'vlan', '30')
    switch.cli('mac', 'add', '52:54:00:00:00:02', 'd1')
    assert [(m['mac'][-1], m['vlan']) for m in sorted(switch.json('show', 'macs')['macs'],
                                                      key=lambda m: m['mac'])] == [('1', 30), ('2', 15)]
    assert '52:54:00:00:00:01  br0       30  d1    static' in switch.cli('show', 'macs').stdout
    assert switch.cli('mac', 'flush', 'd1', 'vlan', '30').stdout == '0 learnt addresses forgotten\n'
    assert 'in this VLAN' in switch.cli('mac', 'del', '52:54:00:00:00:01', 'vlan', '15', status=1).stderr
    switch.cli('mac', 'del', '52:54:00:00:00:01', 'br0', 'vlan', '30')
    for args, says in (
            (['vlan', 'add', 'dev', 'nope', 'vid', '5'], 'there is no port nope'),
            (['vlan', 'add', 'dev', 'd1', 'vid', '5-6', 'pvid'], 'the pvid is one VLAN, not several'),
            (['vlan', 'del', 'dev', 'd1', 'vid', '5'], 'port d1 is not a member of any of these VLANs'),
            (['mac', 'add', '52:54:00:00:00:03', 'd1', 'vlan', '5'], 'port d1 is not a member of VLAN 5'),
            (['port', 'set', 'd1', 'vlan=9999'], 'vlan=9999 is not a number from 0 to 4094'),
            (['port', 'set', 'd1', 'trunk=x'], 'trunk: "x" is not a list of VLANs')):
        assert says in switch.cli(*args, status=1).stderr
    switch.cli('port', 'set', 'd1', 'vlan=7')
    assert vlans(switch, 'd1') == [vlan(7, pvid=True, untagged=True)]
    switch.cli('port', 'set', 'd1', 'vlan=0')  # none of its own: and so the bridge does not filter
    assert vlans(switch, 'd1') is None
    switch.cli('bridge', 'set', 'br0', 'vlan-filtering=yes', 'vlan-default-pvid=0')
    assert vlans(switch, 'd1') == []
    assert switch.cli('show', 'vlans', 'd1').stdout.split()[-1] == 'none'


VLAN_CONFIG = '''
bridges:
  br0: {vlan-filtering: yes, vlan-default-pvid: 0}
  lab: {vlan-protocol: 802.1ad}
ports:
  a: {kind: dummy, vlan: 10}
  t: {kind: dummy, trunk: [10-20, 30], native: 5}
  q: {kind: dummy, qinq: 100, bridge: lab}
  odd: {kind: dummy, trunk: 7, untagged: [8, 9], pvid: 7, vlan-protocol: 802.1Q, bridge: lab}
  shut: {kind: dummy, trunk: []}
  plain: {kind: dummy}
macs:
  - {mac: 52:54:00:00:00:07, port: t, vlan: 30}
  - {mac: 52:54:00:00:00:08, port: a}
'''


def test_vlans_round_trip(dir):
    first, second = os.path.join(dir, '1.yaml'), os.path.join(dir, '2.yaml')
    with open(first, 'w') as f:
        f.write(VLAN_CONFIG)
    s = Switch(dir, '-c', first)
    state = s.json('show', 'vlans'), s.json('show', 'bridges'), s.json('show', 'macs')['macs']
    once = s.cli('show', 'config').stdout
    assert s.end() == 0
    of = {p['port']: (p['protocol'], [(v['vlan'], v.get('vlan_end'), v['pvid'], v['untagged'])
                                      for v in p['vlans']]) for p in state[0]['ports']}
    assert of == {
        'a': ('802.1Q', [(10, None, True, True)]),
        't': ('802.1Q', [(5, None, True, True), (10, 20, False, False), (30, None, False, False)]),
        'q': ('802.1ad', [(100, None, True, True)]),
        'odd': ('802.1Q', [(7, None, True, False), (8, 9, False, True)]),
        'shut': ('802.1Q', []), 'plain': ('802.1Q', [])}
    assert sorted((m['mac'][-1], m['vlan']) for m in state[2]) == [('7', 30), ('8', 10)]
    with open(second, 'w') as f:
        f.write(once)
    s = Switch(dir, '-c', second)
    assert sorted(s.cli('show', 'config').stdout.splitlines()) == sorted(once.splitlines())
    again = s.json('show', 'vlans'), s.json('show', 'bridges'), s.json('show', 'macs')['macs']
    assert s.end() == 0

    def by_mac(macs):  # the table has no order
        return sorted(macs, key=lambda m: m['mac'])
    assert again[:2] == state[:2] and by_mac(again[2]) == by_mac(state[2])


def test_vlan_errors_have_a_place(dir):
    file = os.path.join(dir, 'c.yaml')
    for text, says in (
            ('ports:\n  a: {kind: dummy, vlan: 4095}\n', '2:26: vlan=4095 is not a number'),
            ('ports:\n  a: {kind: dummy, trunk: 5-}\n', '2:27: trunk: "5-" is not a list'),
            ('ports:\n  a: {kind: dummy, trunk: [5, x]}\n', '2:27: trunk: "5+x" is not a list'),
            ('ports:\n  a:\n    vlan: [1, 2]\n', '3:11: vlan must be a single value, not a list'),
            ('ports:\n  a: {kind: dummy, vlan: 1, qinq: 2}\n', '2:6: vlan and qinq exclude'),
            ('ports:\n  a: {vlan-protocol: dot1q}\n', '2:22: vlan-protocol=dot1q is none of'),
            ('ports:\n  a: {valn: 1}\n', '2:7: unknown key "valn" for a vhost-user port; did you mean "vlan"?'),
            ('bridges:\n  b: {vlan-filtering: perhaps}\n', '2:23: vlan-filtering "perhaps" is none'),
            ('bridges:\n  b: {vlan-protocol: 802.1}\n', '2:22: vlan-protocol "802.1" is neither'),
            ('bridges:\n  b: {vlan-default-pvid: 4095}\n', '2:26: vlan-default-pvid "4095" is not'),
            ('macs:\n  - {mac: 52:54:00:00:00:07, port: a, vlan: 0}\n', '2:45: vlan "0" is not a number')):
        with open(file, 'w') as f:
            f.write(text)
        e = cli('check', file, status=1).stderr
        assert f'{file}:{says}' in e, e


# --- the configuration ----------------------------------------------------------------------------

CONFIG = '''
mac-size: 4096
poll-us: 10
log-level: warn
bridges:
  br0: {age: 60}
  lab: {forward-reserved: yes}
ports:
  vm1:
  vm2: {path: "@/a b.sock", mode: "0600", mtu: 9000}
  'no': {kind: dummy, isolated: on, mac-limit: 5, bridge: lab}
macs:
  - {mac: 52:54:00:00:00:07, port: 'no'}
'''


def test_config_round_trip(dir):
    cpu = min(os.sched_getaffinity(0))
    first, second = os.path.join(dir, '1.yaml'), os.path.join(dir, '2.yaml')
    with open(first, 'w') as f:
        f.write(CONFIG.replace('@', dir) + f'workers: [{cpu}]\n')
    s = Switch(dir, '-c', first, 'd9=dummy')
    once = s.cli('show', 'config').stdout
    obj = s.json('show', 'config')
    assert s.end() == 0
    with open(second, 'w') as f:
        f.write(once)
    s = Switch(dir, '-c', second)
    assert s.cli('show', 'config').stdout == once
    assert s.json('show', 'config') == obj
    assert s.end() == 0
    cli('check', '-c', second)
    # an independent reader sees the same object
    loaded = yaml.safe_load(once)
    assert str(loaded['workers']) == str(cpu) and obj['workers'] == str(cpu)
    assert loaded['bridges'] == obj['bridges'] and loaded['mac-size'] == 4096
    assert loaded['poll-us'] == 10 and loaded['log-level'] == 'warn'
    assert loaded['ports']['no'] == {'kind': 'dummy', 'isolated': True, 'mac-limit': 5,
                                     'bridge': 'lab'}
    assert loaded['ports']['d9']['kind'] == 'dummy'
    assert loaded['ports']['vm2']['path'] == f'{dir}/a b.sock'
    assert loaded['macs'] == [{'mac': '52:54:00:00:00:07', 'port': 'no'}]


def test_config_of_one_port(switch):
    assert yaml.safe_load(switch.cli('show', 'config', 'd2').stdout) == {
        'ports': {'d2': {'kind': 'dummy', 'isolated': True, 'mtu': 900, 'bridge': 'br0'}}}
    assert 'there is no port nope' in switch.cli('show', 'config', 'nope', status=1).stderr


def test_rundir_from_the_file(dir):
    file = os.path.join(dir, 'c.yaml')
    with open(file, 'w') as f:
        f.write(f'rundir: {dir}/there\n')
    p = subprocess.Popen([RINGWAY, 'run', '-c', file], stdout=subprocess.DEVNULL,
                         env=environment(RINGWAY_RUNDIR=f'{dir}/not-there'))
    wait_for('socket', lambda: os.path.exists(f'{dir}/there/ringway.sock'))
    cli('stop', '--rundir', f'{dir}/there')
    assert p.wait(TIMEOUT) == 0


# --- the banner -----------------------------------------------------------------------------------

def fake_qemu(dir, version):
    os.mkdir(f'{dir}/bin')
    with open(f'{dir}/bin/qemu-system-x86_64', 'w') as f:
        f.write(f'#!/bin/sh\necho "QEMU emulator version {version}"\n')
    os.chmod(f'{dir}/bin/qemu-system-x86_64', 0o755)
    return environment(PATH=f'{dir}/bin:{os.environ["PATH"]}')


def banner(s):
    wait_for('banner', lambda: s.text().count('Plug a VM into') == 2 and
             s.text().count('netdev=') + s.text().count('</interface>') == 2)
    return s.text()


@pytest.mark.parametrize('version, word', [
    ('7.2.22 (Debian 1:7.2)', ',reconnect=1 '), ('9.1.0', ',reconnect=1 '),
    ('9.2.0', ',reconnect-ms=1000 '), ('10.0.2', ',reconnect-ms=1000 '),
    ('what?', ',reconnect-ms=1000 ')])
def test_banner_for_the_qemu_found(dir, version, word):
    s = Switch(dir, 'vm1', f'vm2=vhost-user,client={dir}/q.sock,mtu=9000,queues=4',
               env=fake_qemu(dir, version))
    text = banner(s)
    assert f'path={s.rundir}/vm1.sock{word}' in text
    assert f'path={dir}/q.sock,server=on,wait=off ' in text
    assert 'memory-backend-memfd,id=mem,size=1G,share=on' in text
    assert text.count('host_mtu=9000') == 1
    assert text.count('chardev=chr-vm2,queues=4 ') == text.count(',mq=on,vectors=10\n') == 1
    assert text.count('queues=') == text.count('mq=on') == 1
    assert ('No qemu-system-x86_64 was found' in text) == (version == 'what?')
    macs = re.findall(r'mac=(52:54(?::[0-9a-f]{2}){4}),', text)
    assert len(set(macs)) == 2
    assert s.end() == 0
    os.remove(s.log)
    s = Switch(dir, 'vm1', 'vm3', env=fake_qemu_again(dir))
    assert macs[0] in banner(s)  # the same name has the same address
    assert s.end() == 0


def fake_qemu_again(dir):
    return environment(PATH=f'{dir}/bin:{os.environ["PATH"]}')


def test_banner_libvirt(dir):
    s = Switch(dir, '--libvirt', 'vm1', f'vm2=vhost-user,client={dir}/q.sock,queues=8')
    text = banner(s)
    assert "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>" in text
    assert f"path='{s.rundir}/vm1.sock' mode='client'>" in text
    assert f"path='{dir}/q.sock' mode='server'/>" in text
    assert text.count("<reconnect enabled='yes' timeout='1'/>") == 1
    assert text.count("<driver rx_queue_size='1024' tx_queue_size='1024' queues='8'/>") == 1
    assert s.end() == 0


@pytest.mark.skipif(not shutil.which('qemu-system-x86_64'), reason='no qemu-system-x86_64')
def test_real_qemu_takes_the_printed_arguments(dir):
    """Both roles: as printed, only that the machine does not start (-S) and has no window."""
    s = Switch(dir, 'vm1', f'vm2=vhost-user,client={dir}/q.sock,queues=4')
    lines = banner(s).replace('\\\n', ' ').splitlines()
    guests = []
    try:
        for line in lines:
            if line.startswith('  qemu-system-x86_64 '):
                guests.append(subprocess.Popen(
                    line.split() + ['-S', '-display', 'none', '-monitor', 'none', '-serial', 'none',
                                    '-nodefaults'], stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE, text=True))
        assert len(guests) == 2

        def connected():
            assert all(g.poll() is None for g in guests), [g.communicate()[1] for g in guests]
            ports = s.json('show', 'ports')['ports']
            return all(p['state']['peer_pid'] for p in ports) and ports
        for p, g in zip(wait_for('connection', connected), guests):
            assert p['state']['peer_pid'] == g.pid
    finally:
        for g in guests:
            g.kill()
            g.communicate()
    assert s.end() == 0


# --- systemd --------------------------------------------------------------------------------------

@pytest.mark.parametrize('abstract', [False, True])
def test_notify(dir, abstract):
    name = f'ringway-test-{os.getpid()}' if abstract else f'{dir}/notify'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as n:
        n.bind('\0' + name if abstract else name)
        n.settimeout(TIMEOUT)
        s = Switch(dir, 'd1=dummy', env=environment(NOTIFY_SOCKET='@' + name if abstract else name))
        assert n.recv(100) == b'READY=1'
        assert s.end() == 0
        assert n.recv(100) == b'STOPPING=1'


@pytest.mark.skipif(not shutil.which('systemd-analyze'), reason='no systemd-analyze')
def test_unit_file(dir):
    """systemd reads every line of it, with the program where it is now."""
    with open(f'{os.path.dirname(RINGWAY)}/data/ringway.service') as f:
        text = re.sub(r'(?m)^ExecStart=\S+', f'ExecStart={RINGWAY}', f.read())

    def verify(text):
        with open(f'{dir}/ringway.service', 'w') as f:
            f.write(text)
        r = subprocess.run(['systemd-analyze', 'verify', '--man=no', f'{dir}/ringway.service'],
                           capture_output=True, text=True, timeout=TIMEOUT)
        return [s for s in r.stderr.splitlines() if 'ringway' in s] or r.returncode
    assert verify(text) == 0
    assert 'Nonsense' in ''.join(verify(text.replace('[Service]', '[Service]\nNonsense=yes')))


# --- the control socket ---------------------------------------------------------------------------

def test_socket_pipelining_and_half_close(switch):
    one = b'{"jsonrpc":"2.0","id":%d,"method":"config.get"}\n'
    with switch.connect() as s:
        s.sendall(b''.join(one % i for i in range(50)))
        s.shutdown(socket.SHUT_WR)
        answers = [json.loads(line) for line in s.makefile()]
    assert [a['id'] for a in answers] == list(range(50))


def test_socket_bytes_that_are_no_request(switch):
    with switch.connect() as s:
        f = s.makefile()
        for junk in (b'junk\n', b'\xff\xff\x00\n', b'{}\n', b'[]\n', b'[' * 60000 + b'\n', b'"x"\n'):
            s.sendall(junk)
            assert 'error' in json.loads(f.readline())
        s.sendall(b'\n\n{"jsonrpc":"2.0","id":7,"method":"version"}\n')  # empty lines are nothing
        assert json.loads(f.readline())['id'] == 7


def test_socket_line_too_long(switch):
    with switch.connect() as s:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            s.sendall(b'x' * 200000)
        data = b''
        with contextlib.suppress(ConnectionResetError):
            while chunk := s.recv(4096):
                data += chunk
    assert b'longer than 65536 bytes' in data and data.count(b'\n') == 1
    assert switch.rpc('version')['result']['pid'] == switch.proc.pid


def test_socket_client_that_does_not_read(switch):
    """Its requests wait in its own socket; others are served."""
    with switch.connect() as s:
        s.settimeout(1)
        sent = 0
        with contextlib.suppress(socket.timeout, BrokenPipeError, ConnectionResetError):
            while sent < 64 << 20:
                sent += s.send(b'{"jsonrpc":"2.0","id":1,"method":"ports.list"}\n' * 1000)
        assert sent < 64 << 20
        assert switch.rpc('version')['result']['pid'] == switch.proc.pid


def test_socket_request_that_trickles_in(switch):
    """Its deadline is 10 s from the first byte, however it is fed."""
    with switch.connect() as s:
        s.settimeout(0.2)
        start = time.monotonic()
        gone = False
        while not gone and time.monotonic() < start + TIMEOUT:
            try:
                s.send(b' ')
                gone = s.recv(100) == b''
            except socket.timeout:
                pass
            except (BrokenPipeError, ConnectionResetError):
                gone = True
        assert gone and time.monotonic() - start > 9
    assert switch.rpc('version')['result']['pid'] == switch.proc.pid


def test_socket_too_many_clients(switch):
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(switch.connect()) for _ in range(80)]
        last = json.loads(socks[-1].makefile().readline())
        assert last['error']['message'] == 'too many control connections'
    wait_for('room again', lambda: 'result' in switch.rpc('version'))


def test_rpc_errors(switch):
    r = switch.rpc('ports.lst')['error']
    assert r['code'] == -32601 and 'did you mean "ports.list"?' in r['message']
    r = switch.rpc('port.del', name='x')['error']
    assert r['code'] == -32000 and r['data'] == {'errno': 'ENOENT'}
    assert switch.rpc('port.del', nam='x')['error']['code'] == -32602


def test_stop_over_the_socket(switch):
    assert switch.rpc('stop')['result'] == {'pid': switch.proc.pid}
    assert switch.proc.wait(TIMEOUT) == 0


# --- what is written about it ---------------------------------------------------------------------

@pytest.mark.skipif(not shutil.which('man'), reason='no man')
@pytest.mark.parametrize('page', sorted(os.listdir(f'{TOP}/man')))
def test_man_page_is_clean(page):
    r = subprocess.run(['man', '-l', '--warnings', '-E', 'UTF-8', '-Tutf8', '-Z',
                        f'{TOP}/man/{page}'], capture_output=True, text=True, timeout=TIMEOUT)
    assert r.returncode == 0 and r.stderr == '', r.stderr


def test_man_page_is_complete():
    with open(f'{TOP}/man/ringway.1') as f:
        page = f.read().replace('\\-', '-')
    run = cli('run', '--help').stdout
    for option in re.findall(r'--[a-z-]+', run):
        assert option in page, option
    section = 'Keys'
    for line in run[run.index('\nKind '):].splitlines():
        if line.startswith('Kind '):
            section = line.split()[1].rstrip(':')
            assert f'.SS "{section}:' in page
        elif m := re.match(r'  ([a-z-]+) ', line):
            word = m.group(1)
            assert f'{word}=' in page or f'"* and " {word} *' in page, f'{section}: {word}'
    for command in re.findall(r'^  ([a-z]+) ', cli('--help').stdout, re.M):
        if command not in ('help', 'version'):  # which the page says with --help, --version
            assert f'.SS "ringway {command}' in page, command
    assert cli('--version').stdout.split()[1] in page


def test_every_method_is_documented():
    with open(f'{TOP}/docs/control.md') as f:
        documented = set(re.findall(r'^### `([a-z.]+) \{', f.read(), re.M))
    with open(f'{TOP}/src/ctl/methods.c') as f:
        assert documented == set(re.findall(r'^    \{"([a-z.]+)", PARAMS', f.read(), re.M))


def complete(*words, path):
    """What bash offers for the last word."""
    script = (f'. {TOP}/data/ringway.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ringway; '
              'echo "${COMPREPLY[@]}"')
    r = subprocess.run(['bash', '-c', script, 'bash', 'ringway', *words], capture_output=True,
                       text=True, timeout=TIMEOUT, env=path)
    assert r.stderr == ''
    return r.stdout.split()


def test_bash_completion(switch):
    env = environment(RINGWAY_RUNDIR=switch.rundir,
                      PATH=f'{os.path.dirname(RINGWAY)}:{os.environ["PATH"]}')
    words = set(re.findall(r'^  ([a-z]+) ', cli('--help').stdout, re.M))
    assert set(complete('', path=env)) == words
    assert complete('show', 'm', path=env) == ['macs']
    assert complete('show', 'ports', '', path=env) == ['d1', 'd2', 'vm1']
    assert complete('port', 'del', 'v', path=env) == ['vm1']
    assert complete('show', 'bridges', '', path=env) == ['br0']
    assert complete('run', '--log-level', 'd', path=env) == ['debug']
    assert complete('capture', 'd', path=env) == ['d1', 'd2']
    assert complete('capture', 'd1', '-Q', 'i', path=env) == ['in', 'inout']


def test_installed(dir):
    """What `make install` puts somewhere is complete: a program of somebody else can use the
    library with nothing but its pkg-config file."""
    build = os.path.dirname(RINGWAY)
    if not os.path.exists(f'{build}/build.ninja') or not shutil.which('meson'):
        pytest.skip('not in a build directory, or no meson')
    r = subprocess.run(['meson', 'install', '-C', build, '--no-rebuild', '--quiet'],
                       capture_output=True, text=True, timeout=TIMEOUT,
                       env=environment(DESTDIR=dir))
    assert r.returncode == 0, r.stdout + r.stderr
    files = {os.path.relpath(os.path.join(d, f), dir) for d, _, names in os.walk(dir) for f in names}

    def installed(end):
        found = [f for f in files if f.endswith(end)]
        assert len(found) == 1, f'{end}: {found}'
        return os.path.join(dir, found[0])
    prefix = os.path.dirname(os.path.dirname(installed('/bin/ringway')))
    installed('/man/man1/ringway.1')
    r = subprocess.run([f'{prefix}/bin/ringway', 'demo', '--help'], capture_output=True, text=True,
                       timeout=TIMEOUT, env=environment())
    assert r.returncode == 0 and r.stdout.startswith('usage: ringway demo')
    with open(installed('/systemd/system/ringway.service')) as f:
        assert f'ExecStart={prefix[len(dir):]}/bin/ringway run ' in f.read()
    with open(f'{dir}/user.c', 'w') as f:
        f.write('#include <event2/event.h>\n#include "dp/dp.h"\n#include "port/port.h"\n'
                'int main(void)\n{\n'
                '    struct dp *dp;\n    struct err e;\n'
                '    struct dp_conf c = {.evbase = event_base_new(), .rundir = "/tmp",\n'
                '                        .n_workers = 1};\n'
                '    if (dp_create(&dp, &c, &e))\n        return 1;\n'
                '    dp_destroy(dp);\n    event_base_free(c.evbase);\n    return 0;\n}\n')
    pc = os.path.dirname(installed('/pkgconfig/ringway.pc'))
    flags = subprocess.run(
        ['pkg-config', '--define-variable=prefix=' + prefix, '--cflags', '--libs', 'ringway'],
        capture_output=True, text=True, check=True, env=environment(PKG_CONFIG_PATH=pc)).stdout
    r = subprocess.run([*os.environ.get('CC', 'cc').split(), '-std=gnu11', '-Wall', '-Wextra', '-Werror',
                        '-Wno-unused-parameter', '-o', f'{dir}/user', f'{dir}/user.c',
                        *flags.split()], capture_output=True, text=True, timeout=TIMEOUT)
    assert r.returncode == 0, flags + r.stderr
    assert subprocess.run([f'{dir}/user'], timeout=TIMEOUT).returncode == 0

    installed('/man/man3/ringway-client.3')
    pc = os.path.dirname(installed('/pkgconfig/ringway-client.pc'))
    flags = subprocess.run(
        ['pkg-config', '--define-variable=prefix=' + prefix, '--cflags', '--libs', 'ringway-client'],
        capture_output=True, text=True, check=True, env=environment(PKG_CONFIG_PATH=pc)).stdout
    r = subprocess.run(['cc', '-std=c99', '-D_DEFAULT_SOURCE', '-Wall', '-Wextra', '-Wpedantic', '-Werror',
                        '-o', f'{dir}/reflector', f'{TOP}/examples/reflector.c', *flags.split()],
                       capture_output=True, text=True, timeout=TIMEOUT)
    assert r.returncode == 0, flags + r.stderr
    shared = os.path.dirname(installed('/libringway-client.so'))
    r = subprocess.run([f'{dir}/reflector', ''], capture_output=True, text=True, timeout=TIMEOUT,
                       env=environment(LD_LIBRARY_PATH=shared))
    assert r.returncode == 1 and 'no path' in r.stderr
    names = subprocess.run(['nm', '-D', '--defined-only', f'{shared}/libringway-client.so'],
                           capture_output=True, text=True, check=True).stdout
    assert names and all(' T rwc_' in line for line in names.splitlines()), names


def test_two_workers(dir):
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        pytest.skip('one CPU')
    list_ = ','.join(map(str, cpus))
    s = Switch(dir, '--workers', list_, '--balance-ms', '100', 'd1=dummy', 'd2=dummy,pin=0:0')

    def placed():
        return {q['port']: (w['id'], q['pinned']) for w in s.json('show', 'workers')['workers']
                for q in w['queues']}
    assert [w['cpu'] for w in s.json('show', 'workers')['workers']] == cpus
    assert placed() == {'d1': (0, False), 'd2': (0, True)}
    s.cli('port', 'set', 'd1', 'queue=0', 'worker=1')
    s.cli('port', 'set', 'd2', 'pin=0:1+7:0')
    assert placed() == {'d1': (1, True), 'd2': (1, True)}
    assert 'd2/0 0% pinned' in s.cli('show', 'workers', '1').stdout
    s.cli('port', 'set', 'd1', 'queue=0', 'worker=auto')
    assert placed() == {'d1': (1, False), 'd2': (1, True)}
    refused = s.cli('port', 'set', 'd1', 'queue=0', 'worker=2', status=1).stderr
    assert 'there is no worker 2; workers are 0 to 1' in refused
    assert 'there is no worker 5' in s.cli('port', 'add', 'd3=dummy,pin=0:5', status=1).stderr
    config = s.json('show', 'config')
    assert config['workers'] == list_ and config['balance-ms'] == 100
    assert config['ports']['d2']['pin'] == '0:1+7:0' and config['ports']['d1']['pin'] == 'none'
    s.cli('port', 'del', 'd2')
    s.cli('port', 'add', 'd2=dummy,pin=0:1')
    assert placed()['d2'] == (1, True)
    assert s.end() == 0
