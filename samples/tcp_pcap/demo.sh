#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Three HTTP connections worth finding in a vmcore, left open:
#
#	8080	IPv4; both programs set TCP_PCAP_IN and TCP_PCAP_OUT themselves
#	8081	IPv6; the programs know nothing, net.ipv4.tcp_pcap_packets covers them
#	8082	IPv4, by the sysctl; the link dies half-way through a download: the server's data
#		stays unacknowledged and is retransmitted in vain
#
# Usage: demo.sh [tcp_pcap_http]
#
# Run it as root on a kernel with CONFIG_TCP_PCAP, in a machine that may crash. It makes the
# network namespaces "web" (server) and "app" (client) and returns with everything running. Then
# crash it (echo c > /proc/sysrq-trigger), or undo it: ip netns pids web app | xargs kill,
# ip netns del web, ip netns del app.

set -eu
PATH=$PATH:/usr/sbin:/sbin

http=${1:-$(dirname "$0")/tcp_pcap_http}
log=$(mktemp -d "${TMPDIR:-/tmp}/tcp_pcap_demo.XXXXXX")

die() {
	echo "demo.sh: $*" >&2
	exit 1
}

# A program that keeps running must not hold our output open.
start() {
	name=$1 netns=$2
	shift 2
	ip netns exec "$netns" "$@" > "$log/$name" 2>&1 < /dev/null &
}

wait_for() {
	name=$1 text=$2 tries=600

	until grep -q "$text" "$log/$name"; do
		tries=$((tries - 1))
		if [ $tries -eq 0 ] || grep '^tcp_pcap_http:' "$log/$name"; then
			die "no '$text' in $log/$name"
		fi
		sleep 0.05
	done
}

link() {
	ip netns add web
	ip netns add app
	ip link add to-app netns web type veth peer name to-web netns app

	for end in "web to-app 1" "app to-web 2"; do
		# shellcheck disable=SC2086
		set -- $end
		ip -n "$1" link set lo up
		ip -n "$1" addr add "10.77.0.$3/24" dev "$2"
		ip -n "$1" addr add "fd77::$3/64" dev "$2" nodad
		ip -n "$1" link set "$2" up
		# Large packets are the default on a veth, but receive merging is not.
		ip netns exec "$1" ethtool -K "$2" gro on 2> /dev/null ||
			echo "demo.sh: no GRO on $2" >&2
	done
}

[ "$(id -u)" = 0 ] || die "must run as root"
[ -x "$http" ] || die "no program $http: build it with make -C samples/tcp_pcap"
[ -e /proc/sys/net/ipv4/tcp_pcap_packets ] || die "this kernel has no CONFIG_TCP_PCAP"

# In a small virtual machine the default, 1/32 of the RAM, is soon reached.
echo 16384 > /proc/sys/net/ipv4/tcp_pcap_frags_max

link

# A link of 100 Mbit/s, so that there is a half-way.
ip netns exec web tc qdisc add dev to-app root netem limit 10000 rate 100mbit delay 1ms
ip netns exec app tc qdisc add dev to-web root netem limit 10000 delay 1ms

start server-8080 web "$http" server -4 -p 8080 --pcap 64
wait_for server-8080 listening
start client-8080 app "$http" client -a 10.77.0.1 -p 8080 --pcap 64 --hold \
	/ / /bytes/1000 /bytes/4000000
wait_for client-8080 'stays open'

for netns in web app; do
	echo 64 | ip netns exec $netns tee /proc/sys/net/ipv4/tcp_pcap_packets > /dev/null
done

start server-8081 web "$http" server -6 -p 8081
wait_for server-8081 listening
start client-8081 app "$http" client -a fd77::1 -p 8081 --hold / / /bytes/4000000 /
wait_for client-8081 'stays open'

start server-8082 web "$http" server -4 -p 8082
wait_for server-8082 listening
start client-8082 app "$http" client -a 10.77.0.1 -p 8082 --progress / /bytes/1000000000
wait_for client-8082 'client: 2 MiB'

ip netns exec web tc qdisc replace dev to-app root netem loss 100%
ip netns exec app tc qdisc replace dev to-web root netem loss 100%

# Long enough for some retransmissions.
sleep 3

cat "$log"/client-*
ip netns exec web ss -tnoi state established '( sport = :8082 )'
echo "pages pinned: $(cat /proc/sys/net/ipv4/tcp_pcap_frags)," \
     "bytes used: $(cat /proc/sys/net/ipv4/tcp_pcap_mem)"
echo "stuck: 10.77.0.1:8082"
