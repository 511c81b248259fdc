# SPDX-License-Identifier: Apache-2.0
"""DPDK's testpmd and OVS-DPDK, as peers. Neither needs hugepages here."""
import os
import re
import select
import shutil
import subprocess
import tempfile
import time

import lab
import pytest
from lab import vm

MAC = ['02:00:00:00:00:0a', '02:00:00:00:00:0b']
OVS = '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk'
OVS_SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema'

needs_testpmd = pytest.mark.skipif(not shutil.which('dpdk-testpmd'), reason='dpdk-dev is not installed')


def virtio_user(paths, options=''):
    """vdevs: a front-end for each of these sockets."""
    return [f'net_virtio_user{n},path={path},mac={MAC[n]}{options}' for n, path in enumerate(paths)]


def version():
    return subprocess.run(['pkg-config', '--modversion', 'libdpdk'], text=True,
                          stdout=subprocess.PIPE).stdout.strip()


class Testpmd:
    """testpmd with its command line on a pipe."""

    def __init__(self, vdevs, mode, peers=False, arguments=()):
        self.dir = tempfile.mkdtemp(prefix='ringway-pmd.')
        cpus = sorted(os.sched_getaffinity(0))
        cores = f'{cpus[0]},{cpus[1 % len(cpus)]}' if len(cpus) > 1 else '0@0,1@0'
        # Its answers go through stdio, its prompt does not: unbuffered, or they come out of order.
        cmd = ['stdbuf', '-oL', 'dpdk-testpmd', '-l' if len(cpus) > 1 else '--lcores', cores,
               '--no-huge', '-m', '256', '--no-pci', '--no-shconf', '--iova-mode=va',
               '--log-level=warning']
        for vdev in vdevs:
            cmd += ['--vdev', vdev]
        cmd += ['--', '-i', '--nb-cores=1', '--total-num-mbufs=4096', f'--forward-mode={mode}']
        for n in range(len(vdevs)) if peers else ():
            cmd.append(f'--eth-peer={n},{MAC[1 - n]}')
        cmd += arguments
        self.text = ''
        self.proc = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, bufsize=0, cwd=self.dir,
                                     preexec_fn=vm.die_with_parent,
                                     env={**os.environ, 'XDG_RUNTIME_DIR': self.dir})

    def expect(self, pattern, timeout=120):
        """Read on until pattern appears; returns everything up to its end and forgets it."""
        deadline = time.monotonic() + timeout * vm.SLOW
        while True:
            m = re.search(pattern, self.text)
            if m:
                head, self.text = self.text[:m.end()], self.text[m.end():]
                return head
            if select.select([self.proc.stdout], [], [], 1)[0]:
                data = os.read(self.proc.stdout.fileno(), 65536)
                assert data, f'testpmd ended, waiting for {pattern}:\n{self.text[-3000:]}'
                self.text += data.decode(errors='replace')
            assert time.monotonic() < deadline, f'testpmd: no {pattern} in:\n{self.text[-3000:]}'

    def prompt(self):
        return self.expect('testpmd> ')

    def do(self, command):
        self.proc.stdin.write(command.encode() + b'\n')
        return self.prompt()

    def received(self, port):
        out = self.do(f'show port stats {port}')
        return int(re.search(r'RX-packets: *(\d+)', out)[1])

    def wait_traffic(self, *ports):
        for port in ports:
            before = self.received(port)
            lab.until(lambda: self.received(port) > before + 100, f'testpmd port {port} receives')

    def close(self):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdin.close()
        self.proc.stdout.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class OvsDpdk:
    """Open vSwitch's user-space datapath with a bridge `br` that learns; in a folder of its own.

    ports: {name: (type, {option: value})}"""

    def __init__(self, ports):
        self.dir = tempfile.mkdtemp(prefix='ringway-ovs.')
        self.procs = []
        self.env = {**os.environ, **{f'OVS_{what}DIR': self.dir for what in ('RUN', 'LOG', 'DB', 'SYSCONF')}}
        try:
            self.start(ports)
        except BaseException:
            self.close()
            raise

    def start(self, ports):
        db = f'{self.dir}/db.sock'
        self.tool('ovsdb-tool', 'create', f'{self.dir}/conf.db', OVS_SCHEMA)
        self.keep('ovsdb-server', f'{self.dir}/conf.db', f'--remote=punix:{db}', f'--unixctl={self.dir}/db.ctl')
        lab.until(lambda: os.path.exists(db), 'ovsdb-server listens')
        self.vsctl('--no-wait', 'set', 'Open_vSwitch', '.', 'other_config:dpdk-init=true',
                   'other_config:dpdk-extra=--no-huge --legacy-mem -m 2048 --no-pci --iova-mode=va')
        # A namespace of its own: the bridge is a tap device, too.
        self.keep('unshare', '--net', OVS, f'unix:{db}', f'--unixctl={self.dir}/vs.ctl')
        self.vsctl('add-br', 'br', '--', 'set', 'bridge', 'br', 'datapath_type=netdev')
        for name, (kind, options) in ports.items():
            self.vsctl('add-port', 'br', name, '--', 'set', 'Interface', name, f'type={kind}',
                       *(f'options:{k}={v}' for k, v in options.items()))
            error = self.vsctl('get', 'Interface', name, 'error').strip()
            assert error == '[]', f'{name}: {error}{self.log()}'

    def tool(self, *cmd):
        p = subprocess.run(cmd, text=True, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           timeout=90 * vm.SLOW)
        assert p.returncode == 0, f'{" ".join(cmd)}: {p.stdout}{self.log()}'
        return p.stdout

    def vsctl(self, *words):
        return self.tool('ovs-vsctl', f'--db=unix:{self.dir}/db.sock', '--timeout=60', *words)

    def keep(self, *cmd):
        with open(f'{self.dir}/log', 'ab') as log:
            self.procs.append(subprocess.Popen(cmd, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                                               stderr=log, preexec_fn=vm.die_with_parent))

    def log(self):
        with open(f'{self.dir}/log', errors='replace') as f:
            return '\n' + f.read()[-3000:]

    def close(self):
        for proc in reversed(self.procs):
            proc.kill()
            proc.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
