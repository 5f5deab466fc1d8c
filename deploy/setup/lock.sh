#!/bin/sh
# lock.sh PYTHON: compile pyproject.toml into the hash-locked files under requirements/; needs uv on PATH.
set -eu
command -v uv >/dev/null 2>&1 || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
lock() {
    output=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
        "$@" pyproject.toml -o "requirements/$output.txt"
}
lock agent --extra agent
lock console --extra console
lock dev --extra agent --extra console --extra dev
