#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# In a guest: the connections of traffic.py, then the drgn reader on the running kernel. Its file is
# OUT/live.pcapng; what it says of the limits is OUT/live.limits, and what the kernel said before
# and after OUT/before.limits and OUT/after.limits.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
/usr/bin/python3 "$here/traffic.py"

reader() {
	"$PY" "$here/../drgn/tcp_pcap.py" -k -s "$VMLINUX" "$@" ||
		echo "exit status $?" >>"$OUT/live.log"
}

reader export -o "$OUT/live.pcapng" >"$OUT/live.log" 2>&1
cat /proc/net/tcp_pcap >"$OUT/before.limits"
reader limits >"$OUT/live.limits" 2>>"$OUT/live.log"
cat /proc/net/tcp_pcap >"$OUT/after.limits"
