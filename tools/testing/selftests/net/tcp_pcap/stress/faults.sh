#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Programs while allocations of the network's caches fail:
# faults.sh failslab|fail_page_alloc PERCENT PROGRAM..
# What a program says of its own tests does not count, since its own calls fail; that it starts and
# does not crash, that the kernel lives, and that nothing is left does. Time may run out: a
# connection that loses every tenth allocation can wait for its retransmissions for minutes. With
# failslab only these caches fail: else hardly a fork() would work.
fault=$1 percent=$2
shift 2
debug=/sys/kernel/debug
attr=$debug/$fault
caches='skbuff_* TCP TCPv6 MPTCP* mptcp* request_sock_* tw_sock_* tcp_bind* kmalloc-512'

set_to() { echo "$2" >"$1" || { echo "FAILED: $1"; exit 1; }; }

set_to "$attr/probability" 0
set_to "$attr/interval" 1
set_to "$attr/space" 0
set_to "$attr/verbose" 0
set_to "$attr/task-filter" N
set_to "$attr/ignore-gfp-wait" N
set_to "$attr/times" 2147483647
if [ "$fault" = failslab ]; then
	marked=0
	for cache in $caches; do
		for file in /sys/kernel/slab/$cache/failslab; do
			[ ! -w "$file" ] || { set_to "$file" 1; marked=$((marked + 1)); }
		done
	done
	[ $marked -ge 10 ] || { echo "FAILED: only $marked caches"; exit 1; }
	set_to "$attr/cache-filter" Y
else
	# Those of one page as well.
	set_to "$attr/min-order" 0
fi

ended=0 late=0 broken=0 passed=0
for program; do
	name=${program##*/}
	timeout -k 5 400 env FAULT_ATTR="$attr" FAULT_PERCENT="$percent" \
		LD_PRELOAD="${program%/*}/arm.so" "$program" >"/tmp/$name.log" 2>&1
	status=$?
	until echo 0 >"$attr/probability"; do :; done
	tests=$(grep '^ok' "/tmp/$name.log" | grep -vc '# SKIP')
	passed=$((passed + tests))
	echo "faults: $name ended with status $status: $tests tests passed," \
		"$(grep -c '^not ok' "/tmp/$name.log") failed"
	cp "/tmp/$name.log" "${OUT:-/tmp}/faults-$name.log"
	case $status in
	0 | 1) ended=$((ended + 1)) ;;
	124 | 137) late=$((late + 1)) ;;
	*)
		broken=$((broken + 1))
		echo "FAILED: $name, status $status"
		tail -n 5 "/tmp/$name.log"
		;;
	esac
done

# Histories of connections that TCP is still closing.
n=0
until awk '/^(frags|mem)/ { used += $2 } END { exit used != 0 }' /proc/net/tcp_pcap; do
	n=$((n + 1))
	[ $n -lt 900 ] || break
	sleep 1
done
leaks=$(awk '/^(frags|mem)/ && $2 { n++ } END { print n + 0 }' /proc/net/tcp_pcap)
if [ "$leaks" != 0 ]; then
	echo "FAILED: not all is free"
	cat /proc/net/tcp_pcap /proc/net/sockstat
	grep -i tcp /proc/slabinfo
fi
faults=$((2147483647 - $(cat "$attr/times")))
[ $faults -gt 0 ] || echo "FAILED: no allocation failed"
[ $ended -gt 0 ] || echo "FAILED: no program came to its end"
# Else nobody knows whether they came beyond what they begin with.
[ $passed -gt 0 ] || echo "FAILED: no test passed"
failures=$((leaks + broken + (faults == 0) + (ended == 0) + (passed == 0)))
echo "# faults=$faults programs=$ended tests=$passed late=$late leaks=$leaks failures=$failures"
[ $failures = 0 ]
