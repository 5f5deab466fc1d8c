#!/bin/sh
# venv.sh PYTHON VENV REQUIREMENTS...: make the virtual environment and install the hash-locked requirements into it.
#
# The files name everything that is needed, so nothing is resolved: with its resolver pip looks at releases newer than the
# locked ones for requirements with extras and then refuses them for having no hash.
set -eu
python=$1 venv=$2
shift 2
command -v "$python" >/dev/null 2>&1 || sh "$(dirname "$0")/packages.sh" venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$python is older than 3.11: name another with make PYTHON=..." >&2; exit 1; }
if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then # also one that was cut off while it was made
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        sh "$(dirname "$0")/packages.sh" venv
    fi
    "$python" -m venv "$venv"
fi
files=""
for file in "$@"; do files="$files -r $file"; done
echo "Installing Python packages into $venv"
# shellcheck disable=SC2086
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps $files
"$venv/bin/python" -m pip check --disable-pip-version-check >/dev/null || { "$venv/bin/python" -m pip check >&2; exit 1; }
