#!/bin/sh
# Fuzz the codec: run.sh scanner|reader|atheris [SECONDS] [WORK_DIRECTORY]; see README.md.
set -eu

target=${1:?"scanner, reader or atheris"}
seconds=${2:-60}
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${3:-$(mktemp -d)}
python=${PYTHON:-python3}
mkdir -p "$work"

find_clang() {
    for name in ${CLANG:-} clang clang-20 clang-19 clang-18 clang-17 clang-16 clang-15 clang-14; do
        if command -v "$name" >/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "no clang found: set CLANG" >&2
    return 1
}

cd "$root"
case $target in
scanner)
    $(find_clang) -std=gnu11 -O1 -g -fsanitize=fuzzer,address,undefined \
        -fno-sanitize-recover=undefined -Isrc/cpool tests/fuzz/fuzz_resp.c -o "$work/fuzz_resp"
    "$python" -m tests.fuzz.seeds "$work/seeds"
    mkdir -p "$work/corpus"
    cd "$work" # findings are left here
    exec ./fuzz_resp -max_len=4096 -dict="$root/tests/fuzz/resp.dict" \
        -max_total_time="$seconds" -print_final_stats=1 corpus seeds
    ;;
reader)
    cd "$work"
    PYTHONPATH=$root exec "$python" -m tests.fuzz.fuzz_reader --seconds "$seconds"
    ;;
atheris)
    # The extension is built anew, instrumented, in a copy of the sources.
    mkdir -p "$work/tree/cpool" "$work/corpus"
    cp -R setup.py pyproject.toml LICENSE README.md src tests "$work/tree"
    cp -R cpool/*.py cpool/py.typed cpool/tools "$work/tree/cpool"
    cd "$work/tree"
    CC=$(find_clang) CPOOL_SANITIZE=fuzzer-no-link,address \
        "$python" setup.py -q build_ext --inplace
    runtime=$("$python" -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc LD_PRELOAD=$runtime \
        exec "$python" -m tests.fuzz.fuzz_reader --engine atheris -- \
        -max_len=4096 -max_total_time="$seconds" -print_final_stats=1 "$work/corpus"
    ;;
*)
    echo "scanner, reader or atheris" >&2
    exit 2
    ;;
esac
