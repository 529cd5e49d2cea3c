// SPDX-License-Identifier: Apache-2.0
/* Opening and building the packets of a session; see session.h. */
#include "runtime/wire/session.h"

enum fhw_verdict fhw_session_open(struct fhw_session *s, uint8_t *p, uint32_t bytes, const struct fhw_hdr *h,
				  bool from_client, uint64_t now_us)
{
	uint32_t n = bytes - FHW_HDR_BYTES;

	if (bytes > s->mtu)
		return FHW_MALFORMED;
	if (fhw_flow_is_old(&s->flow, h->pn))
		return FHW_REPLAYED;
	if (!fhw_open(&s->rx, h->pn, p, p + FHW_HDR_BYTES, n, p + FHW_AD_BYTES))
		return FHW_FORGED;
	fhw_flow_received(&s->flow, h->pn, h->kind != FHW_ACK && h->kind != FHW_CLOSE, now_us);
	if (!fhw_flow_acked(&s->flow, h, now_us) || !fhw_hdr_sane(h, n, from_client))
		return FHW_RUDE;
	return FHW_GOOD;
}

static void put_header(struct fhw_session *s, struct fh_dgram *d, struct fhw_hdr *h, struct fhw_rec *r, uint64_t now_us)
{
	h->session = s->remote;
	h->pn = r ? r->pn : fhw_flow_pn(&s->flow);
	h->reserved = 0;
	fhw_flow_put_ack(&s->flow, h, now_us);
	fhw_hdr_put(h, d->data);
	d->peer = s->peer;
	d->tail = NULL;
	d->bytes = FHW_HDR_BYTES;
	if (!r)
		return;
	r->kind = h->kind;
	r->request = h->request;
	r->seq = h->seq;
	r->ack = h->ack;
}

void fhw_session_put(struct fhw_session *s, struct fh_dgram *d, struct fhw_hdr *h, const void *body, uint32_t n,
		     struct fhw_rec *r, uint64_t now_us)
{
	put_header(s, d, h, r, now_us);
	fhw_seal(&s->tx, h->pn, d->data, d->data + FHW_HDR_BYTES, body, n, d->data + FHW_AD_BYTES);
	d->bytes += n;
	if (r)
		r->nr = n;
}

void fhw_session_put_tail(struct fhw_session *s, struct fh_dgram *d, struct fhw_hdr *h, uint8_t *body, uint32_t n,
			  struct fhw_rec *r, uint64_t now_us)
{
	put_header(s, d, h, r, now_us);
	fhw_seal(&s->tx, h->pn, d->data, body, body, n, d->data + FHW_AD_BYTES);
	r->nr = n;
	r->tailed = true;
	r->tail = (struct fh_dgram_tail){.done = fhw_flow_tail_done, .base = body, .bytes = n};
	fhw_flow_tail_out(r);
	d->tail = &r->tail;
}
