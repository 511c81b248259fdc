# SPDX-License-Identifier: Apache-2.0
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', folder) for folder in ('py', 'vm')]  # both have a test_offload
from table import pytest_configure, record_column  # noqa: E402, F401
