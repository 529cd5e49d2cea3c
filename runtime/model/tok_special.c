// SPDX-License-Identifier: Apache-2.0
/*
 * Special tokens: which ones there are, which end a generation, and how they
 * are found in a text.
 *
 * GGUF files say less of this than they should, so well-known spellings count
 * too.  They are llama.cpp's, because files are made to work with it.
 */
#include "runtime/model/tok_impl.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"

/* Tokens that end a generation, by their text. */
static const char *const end_texts[] = {
	"<|eot_id|>",
	"<|im_end|>",
	"<|end|>",
	"<|return|>",
	"<|call|>",
	"<|flush|>",
	"<|calls|>",
	"<end_of_turn>",
	"<|endoftext|>",
	"</s>",
	"<|eom_id|>",
	"<EOT>",
	"_<EOT>",
	"[EOT]",
	"[EOS]",
	"<eos>",
	"<turn|>",
	"[e~[",
	"<|tool_response>",
	"<|end_of_text|>",
	"<end_of_utterance>",
	"<\xef\xbd\x9c\x65nd\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
};

/* Those of fill-in-the-middle; the first group ends a generation as well. */
static const char *const fim_end_texts[] = {
	"<|fim_pad|>",	 "<fim-pad>",  "<fim_pad>", "<PAD>",	  "[PAD]",	  "<|fim_repo|>",
	"<|repo_name|>", "<fim-repo>", "<REPO>",    "<reponame>", "<|file_sep|>",
};
static const char *const fim_texts[] = {
	"<|fim_prefix|>",
	"<fim-prefix>",
	"<fim_prefix>",
	"<PRE>",
	"\xe2\x96\x81<PRE>",
	"<|code_prefix|>",
	"<|prefix|>",
	"<|fim_suffix|>",
	"<fim-suffix>",
	"<fim_suffix>",
	"<SUF>",
	"\xe2\x96\x81<SUF>",
	"<|code_suffix|>",
	"<|suffix|>",
	"<|fim_middle|>",
	"<fim-middle>",
	"<fim_middle>",
	"<MID>",
	"\xe2\x96\x81<MID>",
	"<|code_middle|>",
	"<|middle|>",
	"<\xef\xbd\x9c\x66im\xe2\x96\x81\x62\x65gin\xef\xbd\x9c>",
	"<\xef\xbd\x9c\x66im\xe2\x96\x81hole\xef\xbd\x9c>",
	"<\xef\xbd\x9c\x66im\xe2\x96\x81\x65nd\xef\xbd\x9c>",
};

/* gpt-oss: parts of a message that a client has to see. */
static const char *const shown_texts[] = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"};

#define NR(a) (sizeof(a) / sizeof((a)[0]))

static bool str_is(struct fh_str s, const char *text)
{
	return s.n == strlen(text) && !memcmp(s.p, text, s.n);
}

static bool is_one_of(struct fh_str s, const char *const *texts, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (str_is(s, texts[i]))
			return true;
	return false;
}

/* Every spelling above begins so; spares most tokens the comparison. */
static bool may_be_special(struct fh_str s)
{
	return s.n > 3 && (s.p[0] == '<' || s.p[0] == '[' || s.p[0] == '_' || s.p[0] == '\xe2');
}

static void mark(struct fh_tokenizer *t, uint32_t id, uint8_t attr)
{
	if (id != FH_NO_TOKEN)
		t->attr[id] |= attr;
}

/* One pass over the pieces; remembers in *seen which of the spellings that exclude others occur. */
struct seen {
	uint32_t end, s_close;
	bool ret, call, flush, plain_s_close;
};

static void mark_by_text(struct fh_tokenizer *t, struct seen *seen)
{
	*seen = (struct seen){.end = FH_NO_TOKEN, .s_close = FH_NO_TOKEN};
	for (uint32_t i = 0; i < t->nr_vocab; i++) {
		struct fh_str s = fh_pool_get(&t->pieces, i);

		if (!may_be_special(s))
			continue;
		if (is_one_of(s, end_texts, NR(end_texts)) || is_one_of(s, fim_end_texts, NR(fim_end_texts)))
			t->attr[i] |= FH_TA_CONTROL | FH_TA_EOG;
		else if (is_one_of(s, fim_texts, NR(fim_texts)))
			t->attr[i] |= FH_TA_CONTROL;
		else if (is_one_of(s, shown_texts, NR(shown_texts)))
			t->attr[i] = FH_TA_USER;
		if (str_is(s, "<|end|>"))
			seen->end = i;
		if (str_is(s, "</s>"))
			seen->s_close = i;
		seen->ret |= str_is(s, "<|return|>");
		seen->call |= str_is(s, "<|call|>") || str_is(s, "<|calls|>");
		seen->flush |= str_is(s, "<|flush|>");
		seen->plain_s_close |= str_is(s, "<|tool_response>");
	}
}

/* Does the string value of @key, in lower case, contain @part? */
static bool value_contains(const struct fh_gguf *g, const char *key, const char *part)
{
	struct fh_str s;
	size_t n = strlen(part);

	if (fh_gguf_str(g, key, &s))
		return false;
	for (size_t i = 0; i + n <= s.n; i++) {
		size_t k = 0;

		while (k < n && tolower((unsigned char)s.p[i + k]) == part[k])
			k++;
		if (k == n)
			return true;
	}
	return false;
}

/* The files do not say which special tokens swallow white space around them; the models that have such are known. */
static void mark_strips(struct fh_tokenizer *t, const struct fh_gguf *g)
{
	bool phi3 = value_contains(g, "general.name", "phi-3") || value_contains(g, "general.name", "phi3");
	bool jina = value_contains(g, "tokenizer.ggml.pre", "jina-v2-");
	bool modern_bert = value_contains(g, "general.name", "modern-bert");

	if (!phi3 && !jina && !modern_bert)
		return;
	for (uint32_t i = 0; i < t->nr_vocab; i++) {
		struct fh_str s = fh_pool_get(&t->pieces, i);

		if (jina) {
			if (str_is(s, "<mask>"))
				t->attr[i] |= FH_TA_LSTRIP;
		} else if (phi3) {
			if (t->attr[i] & FH_TA_SPECIAL && !str_is(s, "<unk>") && !str_is(s, "<s>") &&
			    !str_is(s, "<|endoftext|>"))
				t->attr[i] |= FH_TA_RSTRIP;
		} else if (str_is(s, "[MASK]")) {
			t->attr[i] |= FH_TA_LSTRIP;
		}
	}
}

void fh_tok_mark_special(struct fh_tokenizer *t, const struct fh_gguf *g)
{
	static const char *const end_keys[] = {"tokenizer.ggml.fim_pad_token_id", "tokenizer.ggml.fim_rep_token_id",
					       "tokenizer.ggml.fim_sep_token_id"};
	struct seen seen;
	uint32_t id;

	mark_by_text(t, &seen);
	mark(t, t->eos, FH_TA_EOG);
	mark(t, t->eot, FH_TA_EOG);
	mark(t, t->eom, FH_TA_EOG);
	for (size_t i = 0; i < NR(end_keys); i++)
		if (!fh_gguf_u32(g, end_keys[i], &id) && id < t->nr_vocab)
			mark(t, id, FH_TA_EOG);
	/* Harmony (gpt-oss, solar): <|end|> closes a message, not the answer. */
	if (seen.end != FH_NO_TOKEN && seen.call && (seen.ret || seen.flush))
		t->attr[seen.end] = FH_TA_USER;
	/* Gemma 4 has a plain </s>. */
	if (seen.s_close != FH_NO_TOKEN && seen.plain_s_close)
		t->attr[seen.s_close] = FH_TA_NORMAL;
	mark_strips(t, g);
}

static int add_node(struct fh_tokenizer *t)
{
	if (t->nr_nodes == t->nodes_cap) {
		uint32_t cap = t->nodes_cap ? t->nodes_cap * 2 : 256;
		uint32_t *tokens;

		if (cap < t->nodes_cap)
			return -ENOMEM;
		tokens = realloc(t->node_token, (size_t)cap * sizeof(*tokens));
		if (!tokens)
			return -ENOMEM;
		t->node_token = tokens;
		t->nodes_cap = cap;
	}
	t->node_token[t->nr_nodes++] = FH_NO_TOKEN;
	return 0;
}

static int add_special(struct fh_tokenizer *t, uint32_t id)
{
	struct fh_str s = fh_pool_get(&t->pieces, id);
	uint32_t node = 0;

	for (size_t i = 0; i < s.n; i++) {
		uint64_t next = fh_pairmap_get(&t->trie, node, (uint8_t)s.p[i]);
		int rc;

		if (next == FH_PAIR_NONE) {
			next = t->nr_nodes;
			rc = fh_pairmap_add(&t->trie, node, (uint8_t)s.p[i], next);
			if (!rc)
				rc = add_node(t);
			if (rc)
				return rc;
		}
		node = (uint32_t)next;
	}
	if (t->node_token[node] == FH_NO_TOKEN)
		t->node_token[node] = id;
	t->first_special[(uint8_t)s.p[0]] = true;
	if (t->attr[id] & FH_TA_USER && !(t->attr[id] & (FH_TA_CONTROL | FH_TA_UNKNOWN)))
		t->first_user[(uint8_t)s.p[0]] = true;
	return 0;
}

int fh_tok_build_trie(struct fh_tokenizer *t, struct fh_err *err)
{
	int rc = fh_pairmap_init(&t->trie, 256, t->seed);

	if (!rc)
		rc = add_node(t);
	for (uint32_t i = 0; i < t->nr_vocab && !rc; i++)
		if (t->attr[i] & FH_TA_SPECIAL && t->pieces.at[i + 1] > t->pieces.at[i])
			rc = add_special(t, i);
	return rc ? fh_errf(err, rc, "no memory for the special tokens") : 0;
}

uint32_t fh_tok_special_at(const struct fh_tokenizer *t, const char *text, size_t bytes, bool all, size_t *len)
{
	uint32_t node = 0, best = FH_NO_TOKEN;

	for (size_t i = 0; i < bytes; i++) {
		uint64_t next = fh_pairmap_get(&t->trie, node, (uint8_t)text[i]);
		uint32_t id;

		if (next == FH_PAIR_NONE)
			break;
		node = (uint32_t)next;
		id = t->node_token[node];
		if (id == FH_NO_TOKEN || (!all && t->attr[id] & (FH_TA_CONTROL | FH_TA_UNKNOWN)))
			continue;
		best = id;
		*len = i + 1;
	}
	return best;
}
