# SPDX-License-Identifier: Apache-2.0
"""Guest memory that moves while frames travel: plugged in and out, on every kind of file.

    vm1 (10.0.0.1) --- ringway --- vm2 (10.0.0.2)

What is plugged in goes into the guest's movable zone, which Linux fills first with the pages of files.
The guest then sends a file straight from these pages (httpd uses sendfile), so frames leave from the
new memory: an address there that the switch did not know would be a drop with the reason `unmapped`.
"""
import os
import tempfile

import lab
import pytest
from lab import vm

MB = 1 << 20
PLUG = 512  # MiB that are plugged in
FILE = 96   # MiB of the file that is sent from there


class Moving:
    """Two guests, the first with room for more memory, and a stream between them all the time."""

    def __init__(self, image, dir, backend='memory-backend-memfd', extra=()):
        self.switch = lab.Switch('vm1', 'vm2')
        self.guests = []
        try:
            self.switch.start()
            for n, memory in ((1, vm.shared_memory(256, backend, room=',slots=8,maxmem=4G')),
                              (2, None)):
                net = vm.vhost_user(self.switch.sock(f'vm{n}'), reconnect=1, mac=vm.mac_of(n))
                self.guests.append(vm.Guest(f'vm{n}', image, dir, net, ip=f'10.0.0.{n}/24',
                                            memory=memory, extra=extra if n == 1 else (),
                                            cmdline='memhp_default_state=online_movable').start())
            for g in self.guests:
                g.wait_ready()
            self.a, self.b = self.guests
            vm.ping(self.a, '10.0.0.2')
            self.regions = self.state()['memory_regions']
            self.stream = lab.Stream(self.a, self.b, '10.0.0.2')
        except BaseException:
            self.close()
            raise

    def state(self):
        return self.switch.port('vm1')['state']

    def total_mb(self):
        """Memory that the guest has, MiB."""
        return int(self.a.check("awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024

    def movable_used_mb(self):
        """Of the movable zone, MiB: what is there and not free."""
        out = self.a.check("awk '/^Node/ {z = $4} z == \"Movable\" && $2 == \"free\" {f = $3} "
                           "z == \"Movable\" && $1 == \"managed\" {m = $2} "
                           "END {print m - f}' /proc/zoneinfo")
        return int(out) * 4096 // MB

    def send_from_new_memory(self):
        """A file that lies in the plugged memory, to the other guest; its checksum is right."""
        self.a.check(f'mkdir -p /tmp/www; mount -t tmpfs -o size={2 * FILE}m www /tmp/www')
        want = self.a.check(f'dd if=/dev/urandom of=/tmp/www/f bs=64k count={FILE * 16} 2>/dev/null; '
                            'md5sum </tmp/www/f', 300).split()[0]
        assert self.movable_used_mb() >= FILE, 'the file is not in the plugged memory'
        self.a.check('httpd -p 8080 -h /tmp/www')
        got = self.b.check('wget -q -O - http://10.0.0.1:8080/f | md5sum', 300).split()[0]
        assert got == want
        self.a.check('killall httpd; umount /tmp/www')

    def end(self):
        """Nothing broke, and no frame went missing for want of memory."""
        assert self.stream.stop() > 0
        vm.ping(self.a, '10.0.0.2')
        vm.ping(self.b, '10.0.0.1')
        assert self.state()['last_error'] in (None, ''), self.state()['last_error']
        assert not any(r['broken'] for r in self.state()['rings'])
        # A full receiver drops; TCP copes. Nothing else is an excuse.
        drops = lab.json.loads(self.switch.do('show', 'drops', '--json'))['drops']
        assert {d['reason'] for d in drops} <= {'no-buffers', 'not-ready', 'no-ports'}, drops

    def close(self):
        for g in self.guests:
            g.close()
        self.switch.close()


@pytest.fixture
def moving(image, workdir):
    made = []

    def make(**kw):
        made.append(Moving(image, workdir, **kw))
        return made[-1]

    yield make
    for m in made:
        m.close()


def plug(m, n, backend, **backend_options):
    m.a.qmp('object-add', **{'qom-type': backend, 'id': f'plug{n}', 'size': PLUG * MB, 'share': True,
                             **backend_options})
    m.a.qmp('device_add', driver='pc-dimm', id=f'dimm{n}', memdev=f'plug{n}')


def unplug(m, n):
    """The guest moves everything away, ejects, and QEMU takes the memory back."""
    m.a.qmp('device_del', id=f'dimm{n}')
    assert m.a.event('DEVICE_DELETED', 120)['device'] == f'dimm{n}'
    m.a.qmp('object-del', id=f'plug{n}')


def dimm_comes_and_goes(m, backend, room=lambda: True, **options):
    """room: is there memory on the host to plug in?"""
    before = m.total_mb()
    for n in range(lab.rounds(2, 20)):
        lab.until(room, 'QEMU has given back what was unplugged')
        plug(m, n, backend, **options)
        lab.until(lambda: m.total_mb() >= before + PLUG * 9 // 10, 'the guest uses the new memory')
        lab.until(lambda: m.state()['memory_regions'] == m.regions + 1, 'the switch has the region')
        m.send_from_new_memory()
        unplug(m, n)
        lab.until(lambda: m.state()['memory_regions'] == m.regions, 'the switch let go of the region')
        assert m.total_mb() < before + PLUG // 10
    m.end()


def test_memfd(moving):
    dimm_comes_and_goes(moving(), 'memory-backend-memfd')


def test_file_on_tmpfs(moving):
    """Both the memory it boots with and what is plugged in are shared files."""
    if not os.path.ismount('/dev/shm'):
        pytest.skip('/dev/shm is not a file system of its own')
    with tempfile.TemporaryDirectory(prefix='ringway-vm.', dir='/dev/shm') as d:
        m = moving(backend=f'memory-backend-file,mem-path={d}/boot')
        dimm_comes_and_goes(m, 'memory-backend-file', **{'mem-path': f'{d}/plug'})


class HugePages:
    """More 2 MiB pages for a while, and as many as before afterwards."""

    PATH = '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages'

    def __init__(self, mb):
        self.mb, self.before = mb, None

    def __enter__(self):
        if os.geteuid() != 0:
            pytest.skip('needs root to take huge pages')
        with open(self.PATH) as f:
            self.before = int(f.read())
        self.write(self.before + self.mb // 2)
        with open(self.PATH) as f:
            got = (int(f.read()) - self.before) * 2
        if got < self.mb:
            self.write(self.before)
            pytest.skip(f'the kernel gave {got} of {self.mb} MiB in huge pages')
        return self

    def free_mb(self):
        with open('/proc/meminfo') as f:
            pages = {k: int(v.split()[0]) for k, v in (line.split(':') for line in f)
                     if k.startswith('HugePages_')}
        return 2 * (pages['HugePages_Free'] - pages['HugePages_Rsvd'])

    def write(self, n):
        with open(self.PATH, 'w') as f:
            f.write(str(n))

    def __exit__(self, *_):
        self.write(self.before)


def test_hugetlbfs(moving):
    with HugePages(256 + PLUG) as pages:
        m = moving(backend='memory-backend-memfd,hugetlb=on,hugetlbsize=2M')
        dimm_comes_and_goes(m, 'memory-backend-memfd', lambda: pages.free_mb() >= PLUG, hugetlb=True,
                            hugetlbsize=2 * MB)


def test_virtio_mem(moving):
    """One device whose memory grows and shrinks; its region is there all the time."""
    m = moving(extra=['-object', 'memory-backend-memfd,id=vmem,size=1G,share=on',
                      '-device', 'virtio-mem-pci,id=vmem0,memdev=vmem,requested-size=0'])
    before = m.total_mb()
    assert m.regions > 1
    for _ in range(lab.rounds(2, 20)):
        m.a.qmp('qom-set', path='/machine/peripheral/vmem0', property='requested-size',
                value=PLUG * MB)
        lab.until(lambda: m.total_mb() >= before + PLUG * 9 // 10, 'the guest has grown')
        m.send_from_new_memory()
        m.a.qmp('qom-set', path='/machine/peripheral/vmem0', property='requested-size', value=0)
        lab.until(lambda: m.total_mb() < before + PLUG // 10, 'the guest has shrunk', 120)
        assert m.state()['memory_regions'] == m.regions
    m.end()


def test_file_on_a_disk(image, workdir):
    """A page fault on a disk can block: refused with a name, unless the port vouches for it."""
    if os.stat('/dev/shm').st_dev == os.stat(workdir).st_dev:
        pytest.skip('the temporary folder is a tmpfs itself')
    sw = lab.Switch('vm1', 'vm2=vhost-user,any-fs=yes').start()
    guests = []
    try:
        for n in (1, 2):
            net = vm.vhost_user(sw.sock(f'vm{n}'), reconnect=1, mac=vm.mac_of(n))
            memory = vm.shared_memory(256, f'memory-backend-file,mem-path={workdir}/ram{n}')
            guests.append(vm.Guest(f'vm{n}', image, workdir, net, ip=f'10.0.0.{n}/24',
                                   memory=memory).start())
        sw.wait_ready('vm2')
        why = lab.until(lambda: sw.port('vm1')['state']['last_error'], 'the switch names the fault')
        assert 'any-fs' in why and 'can block' in why, why
        assert not sw.port('vm1')['ready']
    finally:
        for g in guests:
            g.close()
        sw.close()
