#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: run-fuzzer.sh PROGRAM CORPUS   fuzz for FUZZ_SECONDS (10; 120 with RINGWAY_LONG), from CORPUS
#
# What it finds while it runs goes into a folder of its own; an input that fails is printed as base64.
seconds=${FUZZ_SECONDS:-${RINGWAY_LONG:+120}}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/new"
"$1" -max_total_time="${seconds:-10}" ${RINGWAY_SEED:+-seed="$RINGWAY_SEED"} -timeout=60 -max_len=8192 \
    -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 -artifact_prefix="$dir/" "$dir/new" "$2" \
    >"$dir/log" 2>&1
status=$?
if [ $status -eq 0 ]; then
    grep -E 'Done|number_of_executed_units' "$dir/log"
    exit 0
fi
tail -60 "$dir/log"
for f in "$dir"/crash-* "$dir"/timeout-* "$dir"/oom-* "$dir"/leak-*; do
    [ -f "$f" ] && echo "$(basename "$f"): $(base64 -w0 "$f")"
done
exit 1
