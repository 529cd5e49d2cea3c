// SPDX-License-Identifier: Apache-2.0
/* Packets from and to bytes; no state, no allocation. */
#include "runtime/wire/packet.h"

bool fhw_hdr_parse(const uint8_t *p, uint32_t bytes, struct fhw_hdr *h)
{
	if (bytes < FHW_HDR_BYTES || p[0] != FHW_DATA)
		return false;
	*h = (struct fhw_hdr){
		.kind = p[1],
		.session = fhw_get32(p + 2),
		.pn = fhw_get64(p + 6),
		.request = fhw_get32(p + 14),
		.seq = fhw_get32(p + 18),
		.ack = fhw_get32(p + 22),
		.largest = fhw_get64(p + 26),
		.received = fhw_get64(p + 34),
		.delay = fhw_get16(p + 42),
		.reserved = fhw_get16(p + 44),
	};
	return h->kind < FHW_NR_KINDS && h->pn;
}

void fhw_hdr_put(const struct fhw_hdr *h, uint8_t *p)
{
	p[0] = FHW_DATA;
	p[1] = h->kind;
	fhw_put32(p + 2, h->session);
	fhw_put64(p + 6, h->pn);
	fhw_put32(p + 14, h->request);
	fhw_put32(p + 18, h->seq);
	fhw_put32(p + 22, h->ack);
	fhw_put64(p + 26, h->largest);
	fhw_put64(p + 34, h->received);
	fhw_put16(p + 42, h->delay);
	fhw_put16(p + 44, h->reserved);
}

bool fhw_hdr_sane(const struct fhw_hdr *h, uint32_t bytes, bool from_client)
{
	if (h->reserved)
		return false;
	switch (h->kind) {
	case FHW_PROMPT: return from_client && h->request && bytes && h->seq < h->ack && bytes <= h->ack - h->seq;
	case FHW_TOKENS:
		return !from_client && h->request && bytes && !(bytes % sizeof(struct fh_slot)) &&
		       bytes / sizeof(struct fh_slot) <= UINT32_MAX - h->seq;
	case FHW_END: return !from_client && h->request && bytes == FHW_END_BYTES;
	case FHW_CANCEL:
	case FHW_CREDIT: return from_client && h->request && !bytes;
	default: return !bytes;
	}
}

void fhw_hello_put(const struct fhw_hello *h, uint8_t p[FHW_HELLO_BYTES])
{
	memset(p, 0, FHW_HELLO_BYTES);
	fhw_put32(p, h->flags);
	fhw_put32(p + 4, h->mtu);
}

void fhw_hello_get(const uint8_t p[FHW_HELLO_BYTES], struct fhw_hello *h)
{
	h->flags = fhw_get32(p);
	h->mtu = fhw_get32(p + 4);
}

void fhw_welcome_put(const struct fhw_welcome *w, uint8_t p[FHW_WELCOME_BYTES])
{
	fhw_put32(p, w->flags);
	fhw_put32(p + 4, w->mtu);
	fhw_put32(p + 8, w->nr_slots);
	fhw_put32(p + 12, w->max_requests);
	fhw_put32(p + 16, w->nr_ctx);
	fhw_put32(p + 20, w->nr_vocab);
	memset(p + 24, 0, FHW_MODEL_BYTES);
	memcpy(p + 24, w->model, strnlen(w->model, FHW_MODEL_BYTES - 1));
}

bool fhw_welcome_get(const uint8_t p[FHW_WELCOME_BYTES], struct fhw_welcome *w)
{
	*w = (struct fhw_welcome){
		.flags = fhw_get32(p),
		.mtu = fhw_get32(p + 4),
		.nr_slots = fhw_get32(p + 8),
		.max_requests = fhw_get32(p + 12),
		.nr_ctx = fhw_get32(p + 16),
		.nr_vocab = fhw_get32(p + 20),
	};
	memcpy(w->model, p + 24, FHW_MODEL_BYTES);
	if (w->model[FHW_MODEL_BYTES - 1])
		return false;
	return w->nr_slots && w->nr_slots <= 65536 && !(w->nr_slots & (w->nr_slots - 1)) && w->max_requests;
}

void fhw_end_put(const struct fhw_end *e, uint8_t p[FHW_END_BYTES])
{
	fhw_put32(p, e->finish);
	fhw_put32(p + 4, (uint32_t)e->error);
	fhw_put32(p + 8, e->retry_us);
	fhw_put32(p + 12, 0);
}

bool fhw_end_get(const uint8_t p[FHW_END_BYTES], struct fhw_end *e)
{
	e->finish = fhw_get32(p);
	e->error = (int32_t)fhw_get32(p + 4);
	e->retry_us = fhw_get32(p + 8);
	e->reserved = fhw_get32(p + 12);
	return !e->reserved && e->finish > FH_FINISH_NONE && e->finish <= FH_FINISH_FILTER && e->error <= 0 &&
	       e->error > -4096;
}
