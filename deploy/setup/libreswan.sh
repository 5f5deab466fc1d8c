#!/bin/sh
# Unpack Debian's Libreswan into .cache/libreswan: its package conflicts with strongSwan's and cannot be installed too.
#
# Nothing is installed and no right is needed. Where packages cannot be fetched, this says so and fails.
set -eu

cd "$(dirname "$0")/../.."
folder=.cache/libreswan
packages="libreswan libldns3 libevent-pthreads-2.1-7 libnss3-tools"
[ ! -e "$folder/.complete" ] || exit 0

command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || {
    echo "libreswan.sh: this is not a Debian: the interop runs against Libreswan are left out" >&2
    exit 0
}
rm -rf "$folder"
mkdir -p "$folder/packages"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! (cd "$folder/packages" && apt-get download $packages) >"$log" 2>&1; then
    [ "$(id -u)" != 0 ] || apt-get update >>"$log" 2>&1 || true
    (cd "$folder/packages" && apt-get download $packages) >>"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        echo "libreswan.sh: apt-get could not download: $packages" >&2
        exit 1
    }
fi
for package in "$folder"/packages/*.deb; do
    dpkg -x "$package" "$folder"
done
rm -r "$folder/packages"
touch "$folder/.complete"
