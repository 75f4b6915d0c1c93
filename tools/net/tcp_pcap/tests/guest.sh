#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# In a guest: the connections of traffic.py, then the drgn reader on the running kernel.
# Its file is OUT/live.pcapng.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
/usr/bin/python3 "$here/traffic.py"
"$PY" "$here/../drgn/tcp_pcap.py" -k -s "$VMLINUX" export -o "$OUT/live.pcapng" \
	>"$OUT/live.log" 2>&1 || echo "exit status $?" >>"$OUT/live.log"
