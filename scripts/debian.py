# SPDX-License-Identifier: Apache-2.0
"""Debian packages that are used without being installed: downloaded with apt-get, unpacked in a folder.

    apt = Apt('build/guest/apt', backports=True)
    apt.update()
    unpack(apt.download(['seabios'], 'build/guest'), 'build/guest/root')

No root is needed and nothing of the machine's changes. Mirrors, keys and proxies are those of the
machine's own apt; backports is the suite CODENAME-backports of the mirror that the machine has CODENAME
from.
"""
import glob
import os
import re
import shutil
import subprocess


class DebianError(Exception):
    pass


def quiet(cmd, **kw):
    return subprocess.run(cmd, env={**os.environ, 'LC_ALL': 'C'}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **kw)


class Apt:
    """apt-get with the machine's package lists, or with lists of its own in folder."""

    def __init__(self, folder=None, backports=False):
        self.options = []
        self.backports = backports
        if folder:
            folder = os.path.abspath(folder)
            for d in ('lists/partial', 'cache/archives/partial', 'sources'):
                os.makedirs(f'{folder}/{d}', exist_ok=True)
            self.options = ['-o', f'Dir::State::Lists={folder}/lists',
                            '-o', f'Dir::Cache={folder}/cache', '-o', 'APT::Sandbox::User=']
        if backports:
            with open(f'{folder}/sources/backports.sources', 'w') as f:
                f.write(backports_source())
            self.options += ['-o', 'Dir::Etc::SourceList=/dev/null',
                             '-o', f'Dir::Etc::SourceParts={folder}/sources']

    def run(self, program, *words, **kw):
        if not shutil.which(program):
            raise DebianError(f'there is no {program} on this machine')
        p = quiet([program, *(['-q'] if program == 'apt-get' else []), *self.options, *words], **kw)
        if p.returncode:
            raise DebianError(f'{program} {" ".join(words)} failed:\n{p.stdout.strip()[-2000:]}')
        return p.stdout

    def update(self):
        out = self.run('apt-get', 'update')
        # It counts a mirror that it cannot reach as a warning; among several one may be missing.
        if self.backports and re.search(r'^(W: Failed to fetch|Err:)', out, re.M):
            raise DebianError(f'apt-get update failed:\n{out.strip()[-2000:]}')

    def depends(self, package, pattern):
        """The name of the first dependency of package that pattern matches; None."""
        m = re.search(rf'Depends: ({pattern})', self.run('apt-cache', 'depends', '--important', package))
        return m[1] if m else None

    def download(self, packages, folder):
        """The .deb files, in folder."""
        self.run('apt-get', 'download', *packages, cwd=folder)
        return [max(glob.glob(f'{folder}/{p}_*.deb'), key=os.path.getmtime) for p in packages]


def unpack(debs, folder):
    """Into folder, which is complete or absent; the .deb files are gone then."""
    tmp = f'{folder}.new'
    shutil.rmtree(tmp, ignore_errors=True)
    for deb in debs:
        subprocess.run(['dpkg-deb', '-x', deb, tmp], check=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(tmp, folder)
    for deb in debs:
        os.unlink(deb)


# ---- where this machine gets its packages

def apt_setting(name):
    m = re.search(r"^V='(.*)'", quiet(['apt-config', 'shell', 'V', name]).stdout, re.M)
    return m[1] if m else ''


def read(path):
    with open(path, errors='replace') as f:
        return f.read()


def stanzas(text):
    """The fields of each stanza of a .sources file, names in lower case."""
    for block in re.split(r'\n\s*\n', re.sub(r'^#.*\n', '', text, flags=re.M)):
        fields = re.findall(r'^(\S+?):((?:.*)(?:\n[ \t].*)*)', block, re.M)
        yield {name.lower(): value.strip() for name, value in fields}


def one_line(text):
    """The same of a .list file: `deb [signed-by=... arch=...] URI SUITE COMPONENT...`"""
    names = {'arch': 'architectures', 'lang': 'languages', 'target': 'targets'}
    for m in re.finditer(r'^\s*(deb\S*)\s+(?:\[(.*?)\]\s*)?(\S+)\s+(\S+)(.*)', text, re.M):
        options = dict(o.split('=', 1) for o in (m[2] or '').split() if '=' in o)
        yield {'types': m[1], 'uris': m[3], 'suites': m[4], 'components': m[5].split('#')[0].strip(),
               **{names.get(k, k): v.replace(',', ' ') for k, v in options.items()}}


def sources():
    parts = apt_setting('Dir::Etc::sourceparts/d')
    for path in [apt_setting('Dir::Etc::sourcelist/f'), *sorted(glob.glob(f'{parts}/*'))]:
        if os.path.isfile(path) and path.endswith(('.list', '.sources')):
            yield from (stanzas if path.endswith('.sources') else one_line)(read(path))


def backports_source():
    """A .sources file for the backports of this machine's release, from this machine's mirror."""
    m = re.search(r'^VERSION_CODENAME=(\S+)', read('/etc/os-release'), re.M)
    codename = m[1] if m else '?'
    for s in sources():
        if ('deb' in s.get('types', '').split() and codename in s.get('suites', '').split() and
                'main' in s.get('components', '').split() and s.get('enabled', 'yes') != 'no'):
            return ''.join(f'{k.title()}: {v}\n' for k, v in {
                **s, 'types': 'deb', 'suites': f'{codename}-backports', 'components': 'main'}.items())
    raise DebianError(f"no entry of this machine's apt sources has the suite {codename} with the "
                      f'component main, so the mirror of {codename}-backports is not known')
