#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: check.sh holds|fails MODEL [-D...]
#
# Search all states of MODEL. "holds": no assertion is violated, nobody waits for ever, and the search
# was complete. "fails": it must find an error, or the model would not notice what was taken away.
want=$1 model=$2
shift 2
command -v spin >/dev/null || { echo "skipped: spin is not installed (scripts/setup test)"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
# states fit in 1 GiB; a depth that does not suffice is reported as an incomplete search
if ! spin -a "$@" "$model" >log 2>&1 || ! cc -O1 -w -DSAFETY -DMEMLIM=1024 -o pan pan.c >>log 2>&1; then
    cat log
    exit 1
fi
./pan -m100000 >out 2>&1
grep -E 'pan:1|pan: |errors:|states, stored' out
if grep -qE 'Search not completed|max search depth|out of memory|exceeded' out && [ "$want" = holds ]; then
    echo "the search was not complete"
    exit 1
fi
case "$want" in
holds) grep -q 'errors: 0$' out ;;
fails)
    grep -qE 'pan:1: (assertion violated|invalid end state)' out || {
        echo "no error was found with $*: the model is blind to it"
        exit 1
    }
    ;;
*) exit 2 ;;
esac
