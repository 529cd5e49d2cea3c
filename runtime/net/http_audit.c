// SPDX-License-Identifier: Apache-2.0
/*
 * Connections and the audit log: refusals, and answers that wait for the log.
 *
 * With a strict log a connection sends nothing while an event that vouches for
 * what lies in its buffer is not durable.  That is looked at where bytes are
 * handed to the kernel, and nowhere else: whoever writes an answer sets
 * audit_seq in the same turn, and buffers are sent at the end of a turn.
 */
#include <string.h>

#include "runtime/net/http_priv.h"

/* As put_head() makes them. */
void fh_conn_audit_name(struct fh_conn *c)
{
	static const char digits[] = "0123456789abcdef";
	char *p = c->request_id;

	if (c->has_id)
		return;
	c->serial = ++c->h->id_count;
	memcpy(p, "req-", 4);
	for (int i = 0; i < 16; i++)
		p[4 + i] = digits[c->h->id_nonce >> (60 - 4 * i) & 15];
	for (int i = 0; i < 12; i++)
		p[20 + i] = digits[c->serial >> (44 - 4 * i) & 15];
	p[32] = 0;
	c->has_id = true;
}

void fh_conn_identify(struct fh_conn *c)
{
	struct fh_identity *id = &c->grant.who;
	const char *key;

	/* The guard knows him. */
	if (id->tenant[0])
		return;
	fh_identity_nobody(id);
	if (!c->tenant)
		return;
	/* Who has the key is all that is known of him: it is his tenant's name, too. */
	key = fh_auth_key(c->h->auth, c->tenant);
	id->how = FH_ID_KEY;
	id->has_key_id = true;
	c->h->fe.audit->ops->name_key(c->h->fe.audit, key, strlen(key), id->key_id);
	snprintf(id->tenant, sizeof(id->tenant), "key-%02x%02x%02x%02x", id->key_id[0], id->key_id[1], id->key_id[2],
		 id->key_id[3]);
}

static enum fh_audited_endpoint endpoint(enum fh_endpoint ep)
{
	switch (ep) {
	case FH_EP_COMPLETIONS: return FH_AE_COMPLETION;
	case FH_EP_CHAT: return FH_AE_CHAT;
	case FH_EP_EMBEDDINGS: return FH_AE_EMBED;
	case FH_EP_TOKENIZE: return FH_AE_TOKENIZE;
	case FH_EP_DETOKENIZE: return FH_AE_DETOKENIZE;
	default: return FH_AE_OTHER;
	}
}

bool fh_conn_audit_refusal(struct fh_conn *c)
{
	struct fh_auditor *a = c->h->fe.audit;
	struct fh_audited r;
	uint64_t seq;

	if (!a)
		return true;
	fh_conn_audit_name(c);
	r = (struct fh_audited){
		.who = &c->grant.who,
		.endpoint = endpoint(c->ep),
		.request_id = c->serial ? NULL : c->request_id,
		.serial = c->serial,
		.status = (unsigned int)c->err.status,
		.why = c->err.message,
		.run_id = c->run_id,
		.run_depth = c->head.run_depth,
	};
	seq = a->ops->refused(a, &r);
	if (a->strict && !seq)
		return false;
	/* It holds nothing that the model said: while nothing can be written it is told at once. */
	if (!a->strict || !a->ops->trouble(a))
		fh_conn_audit_wait(c, seq);
	return true;
}

void fh_conn_audit_wait(struct fh_conn *c, uint64_t seq)
{
	if (c->h->fe.audit->strict && seq > c->audit_seq)
		c->audit_seq = seq;
}

bool fh_conn_audit_allows(struct fh_conn *c)
{
	struct fh_auditor *a = c->h->fe.audit;

	if (c->audit_hold)
		return false;
	if (!c->audit_seq)
		return true;
	if (a->ops->durable(a, c->audit_seq)) {
		c->audit_seq = 0;
		return true;
	}
	if (!c->audit_waits) {
		c->audit_waits = true;
		c->next_audit = c->h->audit_head;
		c->h->audit_head = c;
	}
	return false;
}

void fh_conn_audit_forget(struct fh_conn *c)
{
	struct fh_conn **pp = &c->h->audit_head;

	if (!c->audit_waits)
		return;
	while (*pp != c)
		pp = &(*pp)->next_audit;
	*pp = c->next_audit;
	c->audit_waits = false;
}

void fh_audit_release(struct fh_http *h)
{
	struct fh_conn *c, *next;
	void *call;
	char *text;

	while (h->fe.audit && h->fe.audit->ops->receipt(h->fe.audit, &call, &text))
		fh_call_receipt(call, text);
	c = h->audit_head;
	/* Those that still wait link themselves in again. */
	h->audit_head = NULL;
	for (; c; c = next) {
		next = c->next_audit;
		c->audit_waits = false;
		if (fh_conn_audit_allows(c))
			fh_conn_flush(c);
	}
}
