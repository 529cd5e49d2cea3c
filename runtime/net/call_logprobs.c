// SPDX-License-Identifier: Apache-2.0
/*
 * Log-probabilities, in the two shapes that OpenAI gives them.
 *
 * /v1/completions has four parallel lists, /v1/chat/completions a list of
 * objects.  Elements gather in the sequence's buffers, separated by commas,
 * and leave with a chunk (streams) or with the answer.
 */
#include <string.h>

#include "runtime/net/http_priv.h"

static float f32_of(fh_f32 bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

/* A token's name: its text, or "bytes:\xe2\x80" where that is no whole UTF-8, as OpenAI writes it. */
static void put_name(struct fh_seq *s, struct fh_buf *b, uint32_t id)
{
	const struct fh_text_ops *text = &s->call->h->svc->text;
	char raw[FH_DETOK_MAX];
	size_t n = fh_oai_token_bytes(text, id, raw);

	if (fh_utf8_valid(raw, n)) {
		fh_buf_json(b, raw, n);
		return;
	}
	fh_buf_lit(b, "bytes:");
	for (size_t i = 0; i < n; i++) {
		fh_buf_lit(b, "\\\\x");
		fh_buf_hex(b, (unsigned char)raw[i], 2);
	}
}

static void put_comma(struct fh_buf *b)
{
	if (b->len)
		fh_buf_lit(b, ",");
}

static void add_completion(struct fh_seq *s, const struct fh_slot *slot, const struct fh_top *top, uint32_t nr_top)
{
	bool seen = false;

	put_comma(&s->lp);
	fh_buf_lit(&s->lp, "\"");
	put_name(s, &s->lp, slot->token);
	fh_buf_lit(&s->lp, "\"");
	put_comma(&s->lp_num);
	fh_buf_f32(&s->lp_num, f32_of(slot->logprob));
	put_comma(&s->lp_off);
	fh_buf_u64(&s->lp_off, s->nr_chars);
	if (!nr_top)
		return;
	put_comma(&s->lp_top);
	fh_buf_lit(&s->lp_top, "{");
	/* The alternatives, and the token itself when it is not among them. */
	for (uint32_t i = 0; i <= nr_top; i++) {
		uint32_t id = i < nr_top ? top[i].token : slot->token;

		if (i == nr_top && seen)
			break;
		seen |= id == slot->token;
		if (i)
			fh_buf_lit(&s->lp_top, ",");
		fh_buf_lit(&s->lp_top, "\"");
		put_name(s, &s->lp_top, id);
		fh_buf_lit(&s->lp_top, "\":");
		fh_buf_f32(&s->lp_top, f32_of(i < nr_top ? top[i].logprob : slot->logprob));
	}
	fh_buf_lit(&s->lp_top, "}");
}

static void put_chat_token(struct fh_seq *s, uint32_t id, fh_f32 logprob)
{
	const struct fh_text_ops *text = &s->call->h->svc->text;
	struct fh_buf *b = &s->lp;
	char raw[FH_DETOK_MAX];
	size_t n;

	fh_buf_lit(b, "{\"token\":\"");
	n = fh_oai_token_bytes(text, id, raw);
	fh_buf_json(b, raw, n);
	fh_buf_lit(b, "\",\"logprob\":");
	fh_buf_f32(b, f32_of(logprob));
	fh_buf_lit(b, ",\"bytes\":[");
	for (size_t i = 0; i < n; i++) {
		if (i)
			fh_buf_lit(b, ",");
		fh_buf_u64(b, (unsigned char)raw[i]);
	}
	fh_buf_lit(b, "]");
}

void fh_seq_add_logprobs(struct fh_seq *s, const struct fh_slot *slot, const struct fh_top *top)
{
	uint32_t nr_top = s->req.sampling.nr_top;

	if (s->call->oai.kind == FH_OAI_COMPLETION) {
		add_completion(s, slot, top, nr_top);
		return;
	}
	put_comma(&s->lp);
	put_chat_token(s, slot->token, slot->logprob);
	fh_buf_lit(&s->lp, ",\"top_logprobs\":[");
	for (uint32_t i = 0; i < nr_top; i++) {
		if (i)
			fh_buf_lit(&s->lp, ",");
		put_chat_token(s, top[i].token, top[i].logprob);
		fh_buf_lit(&s->lp, "}");
	}
	fh_buf_lit(&s->lp, "]}");
}

/* Move @from to the end of @b. */
static void take(struct fh_buf *b, struct fh_buf *from)
{
	fh_buf_put(b, from->data, from->len);
	b->failed |= from->failed;
	from->len = 0;
}

void fh_seq_put_logprobs(struct fh_seq *s, struct fh_buf *b)
{
	if (!s->call->oai.logprobs) {
		fh_buf_lit(b, "null");
		return;
	}
	if (s->call->oai.kind == FH_OAI_CHAT) {
		fh_buf_lit(b, "{\"content\":[");
		take(b, &s->lp);
		fh_buf_lit(b, "],\"refusal\":null}");
		return;
	}
	fh_buf_lit(b, "{\"tokens\":[");
	take(b, &s->lp);
	fh_buf_lit(b, "],\"token_logprobs\":[");
	take(b, &s->lp_num);
	fh_buf_lit(b, "],\"top_logprobs\":");
	if (s->req.sampling.nr_top) {
		fh_buf_lit(b, "[");
		take(b, &s->lp_top);
		fh_buf_lit(b, "]");
	} else {
		fh_buf_lit(b, "null");
	}
	fh_buf_lit(b, ",\"text_offset\":[");
	take(b, &s->lp_off);
	fh_buf_lit(b, "]}");
}
