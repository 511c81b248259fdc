#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: expect-race.sh PROGRAM [ARG...]   passes if ThreadSanitizer reports a data race in PROGRAM
out=$(TSAN_OPTIONS="halt_on_error=1 $TSAN_OPTIONS" "$@" 2>&1)
status=$?
if echo "$out" | grep -q 'ThreadSanitizer: data race'; then
    echo "the race was seen:"
    echo "$out" | grep -A 3 -m 1 'ThreadSanitizer: data race'
    exit 0
fi
echo "$out"
echo "no data race was reported (exit status $status): the test is blind to this ordering"
exit 1
