# SPDX-License-Identifier: Apache-2.0
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'vm'))


def pytest_configure(config):
    config.addinivalue_line('markers', 'column(name): column of the table in docs/interop.md')


@pytest.fixture(autouse=True)
def _column(request, record_property):
    mark = request.node.get_closest_marker('column')
    if mark:
        record_property('column', mark.args[0])
