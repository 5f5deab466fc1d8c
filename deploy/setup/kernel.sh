#!/bin/sh
# Unpack Debian's kernel into .cache/kernel, with the list of its modules, for the machines of deploy/lab/qemu.
#
# Nothing is installed and no right is needed. Where packages cannot be fetched, this says so and fails.
set -eu

cd "$(dirname "$0")/../.."
folder=.cache/kernel
[ ! -e "$folder/.complete" ] || exit 0

command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || {
    echo "kernel.sh: this is not a Debian: there is no kernel to boot under QEMU" >&2
    exit 1
}
PATH="$PATH:/usr/sbin:/sbin"
image() { apt-cache depends --important linux-image-amd64 2>/dev/null | sed -n 's/^  Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ -z "$(image)" ] && [ "$(id -u)" = 0 ]; then
    apt-get update >"$log" 2>&1 || { tail -n 5 "$log" >&2; exit 1; }
fi
package=$(image)
[ -n "$package" ] || {
    echo "kernel.sh: apt knows no linux-image-amd64: run apt-get update" >&2
    exit 1
}
rm -rf "$folder"
mkdir -p "$folder/packages"
echo "Unpacking $package into $folder"
if ! (cd "$folder/packages" && apt-get download "$package") >"$log" 2>&1; then
    [ "$(id -u)" != 0 ] || apt-get update >>"$log" 2>&1 || true # the list may name one that is no longer there
    package=$(image)
    (cd "$folder/packages" && apt-get download "$package") >>"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        echo "kernel.sh: apt-get could not download $package" >&2
        exit 1
    }
fi
dpkg -x "$folder"/packages/*.deb "$folder"
rm -r "$folder/packages"
depmod -b "$folder" "${package#linux-image-}"
touch "$folder/.complete"
