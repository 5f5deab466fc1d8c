#!/bin/sh
# Install the Debian packages of the named sets when they are missing. Sets: build demo test qemu systemd venv.
#
# As root or through sudo. Without either: say which are missing and stop. strongSwan's packages would start a daemon on
# this machine at installation; the lab runs its own inside a namespace, so that start is prevented and the unit disabled.
set -eu

command -v dpkg-query >/dev/null 2>&1 || exit 0 # not a Debian: the tools are looked for by those who need them

wanted=""
for set in "$@"; do
    case "$set" in
    build) command -v node >/dev/null && command -v npm >/dev/null || wanted="$wanted nodejs npm" ;;
    demo) wanted="$wanted iproute2 iputils-ping procps util-linux strongswan-charon charon-systemd strongswan-swanctl libcharon-extra-plugins libstrongswan-standard-plugins libstrongswan-extra-plugins" ;;
    # frr: OSPF over tunnels; netbase: names of protocols for ip; libatomic1: the browser driver's own node; gcc: deploy/lab/uml/registers.c
    test) wanted="$wanted netbase libatomic1 chromium fonts-dejavu-core user-mode-linux kmod gcc libc6-dev tcpdump iperf3 nftables openssl ike-scan frr" ;;
    # busybox-static: virtme-ng's first program; kmod: the unpacked kernel's list of modules
    qemu) wanted="$wanted qemu-system-x86 busybox-static kmod" ;;
    systemd) wanted="$wanted systemd e2fsprogs nftables python3-venv" ;;
    venv) wanted="$wanted python3-venv" ;;
    *) echo "packages.sh: unknown set $set" >&2; exit 2 ;;
    esac
done

missing=""
for package in $wanted; do
    case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)" in
    *"ok installed") ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root="sudo"
else
    echo "These Debian packages are missing and installing them takes root or sudo:$missing" >&2
    exit 1
fi

echo "Installing Debian packages:$missing"
policy=/usr/sbin/policy-rc.d
guard=""
if [ ! -e "$policy" ]; then
    guard=yes
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
unguard() { [ -z "$guard" ] || $as_root rm -f "$policy"; }
trap unguard EXIT INT TERM
log=$(mktemp)
if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "apt-get could not install:$missing" >&2
    exit 1
fi
rm -f "$log"
case "$missing" in
*charon*)
    if [ -d /run/systemd/system ]; then
        $as_root systemctl disable strongswan.service strongswan-starter.service >/dev/null 2>&1 || true
    fi
    ;;
esac
