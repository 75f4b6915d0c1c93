// SPDX-License-Identifier: GPL-2.0

#ifdef CONFIG_INET

#include <linux/bottom_half.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/route.h>
#include <net/sock.h>
#include <net/tcp.h>

__rust_helper struct net *rust_helper_sock_net(const struct sock *sk)
{
	return sock_net(sk);
}

__rust_helper void rust_helper_sock_put(struct sock *sk)
{
	sock_put(sk);
}

__rust_helper void rust_helper_local_bh_disable(void)
{
	local_bh_disable();
}

__rust_helper void rust_helper_local_bh_enable(void)
{
	local_bh_enable();
}

__rust_helper void rust_helper_bh_lock_sock(struct sock *sk)
{
	bh_lock_sock(sk);
}

__rust_helper void rust_helper_bh_unlock_sock(struct sock *sk)
{
	bh_unlock_sock(sk);
}

__rust_helper bool rust_helper_sock_owned_by_user(const struct sock *sk)
{
	return sock_owned_by_user(sk);
}

__rust_helper bool rust_helper_tcp_under_memory_pressure(const struct sock *sk)
{
	return tcp_under_memory_pressure(sk);
}

__rust_helper struct dst_entry *rust_helper___sk_dst_get(const struct sock *sk)
{
	return __sk_dst_get(sk);
}

__rust_helper int rust_helper_ip_dont_fragment(const struct sock *sk, const struct dst_entry *dst)
{
	return ip_dont_fragment(sk, dst);
}

__rust_helper u32 rust_helper_dst_metric_raw(const struct dst_entry *dst, int metric)
{
	return dst_metric_raw(dst, metric);
}

#if IS_ENABLED(CONFIG_IPV6)
__rust_helper struct ipv6_pinfo *rust_helper_inet6_sk(const struct sock *sk)
{
	return inet6_sk(sk);
}

__rust_helper __be32 rust_helper_ip6_make_flowlabel(const struct net *net, struct sk_buff *skb,
						    __be32 flowlabel, bool autolabel,
						    struct flowi6 *fl6)
{
	return ip6_make_flowlabel(net, skb, flowlabel, autolabel, fl6);
}
#endif

#endif
