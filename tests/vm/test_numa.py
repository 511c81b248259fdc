# SPDX-License-Identifier: Apache-2.0
"""A machine with two NUMA nodes, which is a guest in which the switch itself runs.

    node 0: CPU 0, worker 0        node 1: CPU 1, worker 1
"""
import json
import os
import re
import shutil
import subprocess

import lab
from lab import vm

TWO_NODES = ['-m', '768M', '-smp', '2', '-object', 'memory-backend-ram,id=m0,size=384M', '-object',
             'memory-backend-ram,id=m1,size=384M', '-numa', 'node,nodeid=0,cpus=0,memdev=m0', '-numa',
             'node,nodeid=1,cpus=1,memdev=m1']


def image_with_switch(image, workdir):
    """The guest's image with the switch and its libraries in it."""
    tree, out = f'{workdir}/tree', f'{workdir}/image'
    os.makedirs(out)
    ldd = subprocess.run(['ldd', lab.RINGWAY], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r'(/\S+\.so\S*)', ldd):
        os.makedirs(os.path.dirname(tree + path), exist_ok=True)
        shutil.copy(os.path.realpath(path), tree + path)
    os.makedirs(f'{tree}/bin', exist_ok=True)
    shutil.copy(lab.RINGWAY, f'{tree}/bin/ringway')
    names = '\n'.join(os.path.relpath(os.path.join(d, n), tree)
                      for d, dirs, files in os.walk(tree) for n in sorted(dirs + files))
    shutil.copy(f'{image}/vmlinuz', out)
    shutil.copy(f'{image}/initramfs', out)
    with open(f'{out}/initramfs', 'ab') as f:  # archives may follow each other
        subprocess.run(['cpio', '--quiet', '-o', '-H', 'newc', '-R', '0:0'], cwd=tree, check=True,
                       input=names.encode(), stdout=f)
    return out


def test_memory_of_workers(image, workdir):
    g = vm.Guest('numa', image_with_switch(image, workdir), workdir, net=[], memory=TWO_NODES)
    try:
        g.start().wait_ready()
        g.check('ringway run --rundir /tmp/run --workers 0,1 a=dummy b=dummy >/tmp/log 2>&1 &')
        g.until('ringway show workers --json --rundir /tmp/run >/tmp/workers')
        workers = json.loads(g.check('cat /tmp/workers'))['workers']
        assert [(w['cpu'], w['node']) for w in workers] == [(0, 0), (1, 1)]
        maps = g.check('grep -E "(prefer|bind).*:[01] " /proc/$(pidof ringway)/numa_maps')
        for node in (0, 1):
            # batch and scratch: each page is where it belongs
            mine = [line for line in maps.splitlines() if f':{node} ' in line]
            assert mine and all(re.search(rf' N{node}=\d+', m) and f' N{1 - node}=' not in m
                                for m in mine), maps
    finally:
        g.close()
