// SPDX-License-Identifier: GPL-2.0

#ifdef CONFIG_NET

#include <linux/mm.h>
#include <linux/skbuff.h>

__rust_helper struct sk_buff *rust_helper_alloc_skb(unsigned int size, gfp_t priority)
{
	return alloc_skb(size, priority);
}

__rust_helper void rust_helper_consume_skb(struct sk_buff *skb)
{
	consume_skb(skb);
}

__rust_helper unsigned int rust_helper_skb_end_offset(const struct sk_buff *skb)
{
	return skb_end_offset(skb);
}

__rust_helper struct skb_shared_info *rust_helper_skb_shinfo(const struct sk_buff *skb)
{
	return skb_shinfo(skb);
}

__rust_helper void rust_helper_skb_set_tail_pointer(struct sk_buff *skb, int offset)
{
	skb_set_tail_pointer(skb, offset);
}

__rust_helper int rust_helper_skb_network_offset(const struct sk_buff *skb)
{
	return skb_network_offset(skb);
}

__rust_helper void rust_helper_skb_set_network_header(struct sk_buff *skb, int offset)
{
	skb_set_network_header(skb, offset);
}

__rust_helper void rust_helper_skb_set_transport_header(struct sk_buff *skb, int offset)
{
	skb_set_transport_header(skb, offset);
}

__rust_helper u8 rust_helper_skb_ip_summed(const struct sk_buff *skb)
{
	return skb->ip_summed;
}

__rust_helper bool rust_helper_skb_has_hash(const struct sk_buff *skb)
{
	return skb->l4_hash || skb->sw_hash;
}

__rust_helper bool rust_helper_skb_ignore_df(const struct sk_buff *skb)
{
	return skb->ignore_df;
}

__rust_helper bool rust_helper_skb_frags_readable(const struct sk_buff *skb)
{
	return skb_frags_readable(skb);
}

__rust_helper bool rust_helper_skb_is_decrypted(const struct sk_buff *skb)
{
	return skb_is_decrypted(skb);
}

__rust_helper struct page *rust_helper_skb_frag_page(const skb_frag_t *frag)
{
	return skb_frag_page(frag);
}

__rust_helper void rust_helper___skb_fill_page_desc_noacc(struct skb_shared_info *shinfo, int i,
							  struct page *page, int off, int size)
{
	__skb_fill_page_desc_noacc(shinfo, i, page, off, size);
}

__rust_helper void rust_helper_get_page(struct page *page)
{
	get_page(page);
}

__rust_helper void rust_helper_put_page(struct page *page)
{
	put_page(page);
}

__rust_helper int rust_helper_folio_ref_count(const struct folio *folio)
{
	return folio_ref_count(folio);
}

__rust_helper void *rust_helper_page_address(const struct page *page)
{
	return page_address(page);
}

__rust_helper struct page *rust_helper_virt_to_head_page(const void *x)
{
	return virt_to_head_page(x);
}

__rust_helper struct folio *rust_helper_page_folio(struct page *page)
{
	return page_folio(page);
}

__rust_helper unsigned long rust_helper_folio_nr_pages(const struct folio *folio)
{
	return folio_nr_pages(folio);
}

__rust_helper bool rust_helper_page_is_pfmemalloc(const struct page *page)
{
	return page_is_pfmemalloc(page);
}

#endif
