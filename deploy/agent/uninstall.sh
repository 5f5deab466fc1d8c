#!/bin/sh
# Takes the agent off a gateway: stops it, withdraws its routes, rules, VRFs and packet filter, removes what install.sh
# put there. Run as root: uninstall.sh [--root DIR] [--purge]. Keys and state in /var/lib/vpn-agent stay without --purge.
set -eu

root=
purge=
while [ $# -gt 0 ]; do
    case "$1" in
    --root)
        root=${2:?--root needs a directory}
        shift
        ;;
    --purge) purge=yes ;;
    *)
        echo "usage: $0 [--root DIR] [--purge]" >&2
        exit 2
        ;;
    esac
    shift
done
if [ -z "$root" ]; then
    [ "$(id -u)" -eq 0 ] || {
        echo "$0: must be run as root" >&2
        exit 1
    }
    systemctl disable --now vpn-agent.target
    systemctl stop vpn-agent-agentd.service vpn-agent-iked.service vpn-agent-espd.service vpn-agent-filter.service
    /usr/local/sbin/vpn-agent withdraw
fi

for command in vpn-agent ike ipsecstat; do
    rm -f "$root/usr/local/sbin/$command"
done
# With the drop-ins of "systemctl edit", which are directories, and the links of "systemctl enable".
rm -rf "$root"/etc/systemd/system/vpn-agent* "$root"/etc/systemd/system/*.target.wants/vpn-agent*
rm -rf "$root/opt/vpn-agent" "$root/run/vpn-agent"
rm -f "$root/var/lib/vpn-agent/filter.json"
[ -z "$purge" ] || rm -rf "$root/var/lib/vpn-agent"
[ -n "$root" ] || systemctl daemon-reload
