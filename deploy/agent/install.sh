#!/bin/sh
# Installs the agent on a Debian 12 gateway: /opt/vpn-agent (code and environment), its systemd units and its commands.
# Run as root from a checkout: deploy/agent/install.sh [--root DIR]. A repeat updates; state in /var/lib/vpn-agent stays.
# Enrol afterwards, then: systemctl enable --now vpn-agent.target
set -eu

root=
if [ "${1:-}" = --root ]; then
    root=${2:?--root needs a directory}
elif [ $# -gt 0 ]; then
    echo "usage: $0 [--root DIR]" >&2
    exit 2
elif [ "$(id -u)" -ne 0 ]; then
    echo "$0: must be run as root" >&2
    exit 1
fi

checkout=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/opt/vpn-agent
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$0: Python 3.11 or newer is needed (PYTHON=... chooses one)" >&2
    exit 1
}

if [ -z "${SKIP_ENVIRONMENT:-}" ] && [ ! -x "$target/venv/bin/python" ]; then
    case "$("$python" -c 'import os, sys; print(os.path.realpath(sys.base_prefix))')" in
    /home/* | /root/*)
        echo "$0: $python is in a home directory, which the units do not let the agent see (PYTHON=... chooses one)" >&2
        exit 1
        ;;
    esac
fi

mkdir -p "$target"
rm -rf "$target/agents.new"
cp -R "$checkout/agents" "$target/agents.new"
find "$target/agents.new" -name __pycache__ -prune -exec rm -rf {} +
rm -rf "$target/agents.old"
[ ! -d "$target/agents" ] || mv "$target/agents" "$target/agents.old"
mv "$target/agents.new" "$target/agents"
rm -rf "$target/agents.old"
mkdir -p "$target/docs"
cp "$checkout/docs/operations.md" "$target/docs/"

if [ -z "${SKIP_ENVIRONMENT:-}" ]; then
    [ -x "$target/venv/bin/python" ] || "$python" -m venv "$target/venv"
    "$target/venv/bin/python" -m pip install --quiet --require-hashes -r "$checkout/requirements/agent.txt"
fi
# The units cannot write there: without this each start would compile everything anew.
[ ! -x "$target/venv/bin/python" ] || "$target/venv/bin/python" -m compileall -q -s "$root/" -p / "$target/agents"

mkdir -p "$root/usr/local/sbin"
while read -r command module; do
    cat > "$root/usr/local/sbin/$command" <<EOF
#!/bin/sh
PYTHONPATH=/opt/vpn-agent exec /opt/vpn-agent/venv/bin/python -m $module "\$@"
EOF
    chmod 0755 "$root/usr/local/sbin/$command"
done <<EOF
vpn-agent agents.cli
ike agents.cli.ike
ipsecstat agents.cli.ipsecstat
EOF

mkdir -p "$root/etc/systemd/system"
cp "$checkout"/deploy/systemd/vpn-agent* "$root/etc/systemd/system/"
[ -n "$root" ] || systemctl daemon-reload

echo "Installed. Next: vpn-agent enrol --console URL --token-file -"
echo "then:            systemctl enable --now vpn-agent.target"
