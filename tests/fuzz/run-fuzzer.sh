#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: run-fuzzer.sh libfuzzer PROGRAM CORPUS
#        run-fuzzer.sh afl PROGRAM CORPUS LIBFUZZER-PROGRAM
#
# Fuzz for FUZZ_SECONDS (libFuzzer 10, AFL++ 5), from the inputs in the folder CORPUS.
#
# An input that fails is printed as base64. With FUZZ_KEEP=FOLDER it goes to FOLDER/NAME-fails, and
# inputs that reach code which CORPUS does not reach go to FOLDER/NAME, from where the next run starts,
# too. cp FOLDER/NAME/* CORPUS adds them.
engine=$1 program=$(realpath "$2") corpus=$(realpath "$3") judge=$(realpath "${4:-$2}")
[ -z "${FUZZ_KEEP:-}" ] || FUZZ_KEEP=$(realpath -m "$FUZZ_KEEP")
name=$(basename "$corpus")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work" || exit 1 # what a target leaves behind lies here
mkdir seeds new fail
cp "$corpus"/* seeds
[ -z "${FUZZ_KEEP:-}" ] || cp "$FUZZ_KEEP/$name"/* seeds 2>/dev/null

fuzz_libfuzzer() {
    "$program" -max_total_time="$FUZZ_SECONDS" -timeout=60 -max_len=8192 \
        ${RINGWAY_SEED:+-seed="$RINGWAY_SEED"} -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix=fail/ new seeds >log 2>&1 && grep -E 'Done|number_of_executed_units' log
}

# Threads of its own make some targets look unstable to AFL++; it only loses time over that.
fuzz_afl() {
    AFL_NO_UI=1 AFL_NO_AFFINITY=1 AFL_SKIP_CPUFREQ=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 \
        AFL_NO_STARTUP_CALIBRATION=1 \
        afl-fuzz -i seeds -o out -V "$FUZZ_SECONDS" -t 60000 -G 8192 \
        ${RINGWAY_SEED:+-s "$RINGWAY_SEED"} -- "$program" >log 2>&1
    status=$?
    for f in out/default/crashes/id* out/default/hangs/id*; do
        [ -f "$f" ] && cp "$f" "fail/afl-$(sha1sum <"$f" | cut -c1-16)"
    done
    for f in out/default/queue/id*; do
        [ -f "$f" ] && cp "$f" "new/$(sha1sum <"$f" | cut -c1-40)"
    done
    grep -E '^(run_time|execs_done|corpus_found|saved_crashes|saved_hangs)' out/default/fuzzer_stats
    [ $status -eq 0 ] && [ -z "$(ls fail)" ]
}

# Of the seeds and of what was found, the inputs that reach code that the corpus does not.
keep() {
    mkdir -p "$FUZZ_KEEP/$name" merged
    cp "$corpus"/* merged
    "$judge" -merge=1 -max_len=8192 merged seeds new >merge.log 2>&1 || cat merge.log
    for f in "$corpus"/*; do rm -f "merged/$(basename "$f")"; done
    rm -f "$FUZZ_KEEP/$name"/*
    cp merged/* "$FUZZ_KEEP/$name" 2>/dev/null
    if [ -n "$(ls fail)" ]; then
        mkdir -p "$FUZZ_KEEP/$name-fails"
        cp fail/* "$FUZZ_KEEP/$name-fails"
    fi
    echo "$FUZZ_KEEP/$name: $(ls merged | wc -l) inputs; that fail: $(ls fail | wc -l)"
}

[ "$engine" = afl ] && : "${FUZZ_SECONDS:=5}"
: "${FUZZ_SECONDS:=10}"
"fuzz_$engine"
status=$?
if [ $status -ne 0 ]; then
    tail -60 log
    for f in fail/*; do
        [ -f "$f" ] && echo "$(basename "$f"): $(base64 -w0 "$f")"
    done
fi
[ -z "${FUZZ_KEEP:-}" ] || keep
exit $status
