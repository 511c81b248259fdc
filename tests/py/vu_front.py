# SPDX-License-Identifier: Apache-2.0
"""A vhost-user front-end and virtio-net driver in Python that shares no code with the C side.

Written from the texts (vhost-user, virtio 1.4) alone, so that a mistake that the C driver and the
C device have in common does not pass unseen.  test_vhost_user.py and test_hostile.py drive a real
`ringway run` process with it.
"""
