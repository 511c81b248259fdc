# SPDX-License-Identifier: Apache-2.0
"""For conftest.py: how test cases say which cell of the tables in docs/interop.md they are.

The marker column(NAME) and the property row; the property cannot is a reason why what a case shows
to be absent cannot be there. tools/interop-table reads them from the report.
"""
import pytest


def pytest_configure(config):
    config.addinivalue_line('markers', 'column(name): column of a table in docs/interop.md')


@pytest.fixture(autouse=True)
def record_column(request, record_property):
    mark = request.node.get_closest_marker('column')
    if mark:
        record_property('column', mark.args[0])
