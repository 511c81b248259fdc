#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ringway bench: content and order through a real switch process, the JSON, and what bad input gets.
# No speed is judged here.   usage: bench.sh RINGWAY
set -u
ringway=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

fail() {
    echo "not ok: $*"
    failed=1
}

# usage_error TEXT OPTION...: exit status 2 and the text
usage_error() {
    text=$1
    shift
    "$ringway" bench "$@" >"$dir/out" 2>&1
    [ $? -eq 2 ] || fail "bench $*: exit status is not 2"
    grep -q -e "$text" "$dir/out" || fail "bench $*: says $(cat "$dir/out")"
}
usage_error 'power of two' --ring 100
usage_error '60 to 65549' --frame 59
usage_error 'not one of ringway, ovs-dpdk' --compare vpp
usage_error 'no such case' --suite=60-256,nonsense
usage_error 'pairs of sockets' --sockets /tmp/a.sock
usage_error 'needs --sockets' --listen
usage_error 'plain, csum or tso' --tcp lro
usage_error 'needs --tcp' --taken
usage_error 'does not go with --latency' --tcp csum --latency
usage_error '130 bytes or more' --tcp plain
usage_error 'must differ' --gen-cpu 0 --switch-cpu 0

# in_process OPTION...: generator and switch in one thread; nothing may be lost or wrong
in_process() {
    "$ringway" bench --in-process 20000 --verify "$@" >"$dir/out" 2>"$dir/err" ||
        fail "in one thread, $*: $(cat "$dir/err")"
    grep -q 'lost 0 bad 0$' "$dir/out" || fail "in one thread, $*: $(cat "$dir/out")"
}
in_process
in_process --both --pairs 4
in_process --frame 1514 --ring 1024 --guest linux
in_process --frame 9000 --guest linux
in_process --frame 65000
in_process --macs 1000
for tcp in plain csum tso; do
    for guest in plain linux; do
        in_process --frame 1514 --tcp $tcp --guest $guest
        in_process --frame 1514 --tcp $tcp --guest $guest --taken
    done
done
in_process --frame 65000 --tcp tso --guest linux
in_process --frame 65000 --tcp tso --guest linux --taken
in_process --frame 3000 --tcp tso --both --pairs 2

# many queues: order within each flow, one thread and several
usage_error '1 to 32' --in-process 1000 --queues 33
usage_error '1 to 16' --order --workers 0
for how in '--in-process 20000 --queues 4 --workers 2' '--order=50000 --queues 2 --workers 2'; do
    # shellcheck disable=SC2086
    "$ringway" bench $how >"$dir/out" 2>"$dir/err" || fail "$how: $(cat "$dir/out" "$dir/err")"
    grep -q 'bad 0 wrong order 0 wrong ring 0' "$dir/out" || fail "$how: $(cat "$dir/out")"
done
"$ringway" bench --in-process 20000 --both --workers 2 >"$dir/out" 2>"$dir/err"
grep -q 'lost 0 bad 0$' "$dir/out" || fail "two workers in turn: $(cat "$dir/out" "$dir/err")"

# through a process of its own, where there are two CPUs
if [ "$(nproc)" -ge 2 ]; then
    "$ringway" bench --compare limit --verify --both --rounds 2 --duration 0.1 --json >"$dir/json" \
        2>"$dir/err" || fail "bench: $(cat "$dir/err")"
    python3 - "$dir/json" <<'PY' || fail "the JSON is not as it should be"
import json, sys
d = json.load(open(sys.argv[1]))
s = d["cases"][0]["subjects"]
assert [x["label"] for x in s] == ["ringway", "limit"], s
for x in s:
    assert len(x["mpps"]["rounds"]) == 2 and x["frames"] > 0, x
    assert x["bad_content"] == 0 and x["bad_order"] <= x["lost"], x
PY
fi
exit $failed
