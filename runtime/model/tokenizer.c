// SPDX-License-Identifier: Apache-2.0
/*
 * Opening and closing a tokenizer, and what can be asked of one.  The parts
 * are in tok_*.c; tok_impl.h has the picture.
 */
#include "runtime/model/tok_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "runtime/base/log.h"

static int load_kind(struct fh_tokenizer *t, const struct fh_gguf *g, struct fh_err *err)
{
	struct fh_str model;
	int rc = fh_gguf_str(g, "tokenizer.ggml.model", &model);

	if (rc)
		return fh_errf(err, -EINVAL, "%s: tokenizer.ggml.model %s; a model that serves text needs a tokenizer",
			       fh_gguf_path(g), rc == -ENOENT ? "is missing" : "is not a string");
	if (model.n == 5 && !memcmp(model.p, "llama", 5))
		t->kind = FH_TOK_SPM;
	else if (model.n == 4 && !memcmp(model.p, "gpt2", 4))
		t->kind = FH_TOK_BPE;
	else
		return fh_errf(err, -ENOTSUP,
			       "%s: tokenizer.ggml.model is \"%.*s\"; supported are \"llama\" (SentencePiece BPE) and "
			       "\"gpt2\" (byte-level BPE)",
			       fh_gguf_path(g), (int)(model.n < 64 ? model.n : 64), model.p);
	return 0;
}

static int load_bpe(struct fh_tokenizer *t, const struct fh_gguf *g, struct fh_err *err)
{
	struct fh_str name = {"", 0};
	const struct fh_pre_name *pre;
	int rc;

	fh_gguf_str(g, "tokenizer.ggml.pre", &name);
	pre = fh_tok_pre_find(name);
	if (!pre) {
		pre = fh_tok_pre_find((struct fh_str){"default", 7});
		if (name.n)
			fh_warn("%s: tokenizer.ggml.pre is \"%.*s\", which is not known; text is cut by the default "
				"rules, and answers may be worse for it",
				fh_gguf_path(g), (int)(name.n < 64 ? name.n : 64), name.p);
		else
			fh_warn("%s: tokenizer.ggml.pre is missing; text is cut by the default rules, and answers may "
				"be worse for it",
				fh_gguf_path(g));
	}
	t->ignore_merges = pre->flags & FH_PRE_IGNORE_MERGES;
	t->add_bos = pre->flags & FH_PRE_ADD_BOS;
	rc = fh_tok_pre_compile(t, pre->rule, err);
	return rc ? rc : fh_tok_load_merges(t, g, err);
}

int fh_tokenizer_open(const struct fh_gguf *g, struct fh_tokenizer **out, struct fh_err *err)
{
	struct fh_tokenizer *t = calloc(1, sizeof(*t));
	int rc;

	*out = NULL;
	if (!t)
		return fh_errf(err, -ENOMEM, "no memory for a tokenizer");
	if (getrandom(&t->seed, sizeof(t->seed), GRND_NONBLOCK) != sizeof(t->seed))
		t->seed = 0x243f6a8885a308d3u;
	rc = load_kind(t, g, err);
	if (rc)
		goto err_close;
	t->add_bos = t->add_space_prefix = t->kind == FH_TOK_SPM;
	rc = fh_tok_load_vocab(t, g, err);
	if (!rc && t->kind == FH_TOK_BPE)
		rc = load_bpe(t, g, err);
	if (!rc)
		rc = fh_tok_build_trie(t, err);
	if (rc)
		goto err_close;
	fh_gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos);
	fh_gguf_bool(g, "tokenizer.ggml.add_eos_token", &t->add_eos);
	fh_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix);
	fh_gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &t->remove_extra_spaces);
	*out = t;
	return 0;

err_close:
	fh_tokenizer_close(t);
	return rc;
}

void fh_tokenizer_close(struct fh_tokenizer *t)
{
	if (!t)
		return;
	for (int i = 0; i < FH_PRE_MAX_STAGES; i++)
		pcre2_code_free(t->codes[i]);
	fh_pairmap_free(&t->merges);
	fh_pairmap_free(&t->trie);
	fh_strmap_free(&t->by_key);
	fh_pool_free(&t->pieces);
	fh_pool_free(&t->outs);
	fh_pool_free(&t->keys);
	free(t->node_token);
	free(t->order);
	free(t->attr);
	free(t);
}

uint32_t fh_tokenizer_nr_vocab(const struct fh_tokenizer *t)
{
	return t->nr_vocab;
}

uint32_t fh_tokenizer_bos(const struct fh_tokenizer *t)
{
	return t->bos;
}

uint32_t fh_tokenizer_eos(const struct fh_tokenizer *t)
{
	return t->eos;
}

bool fh_tokenizer_is_eog(const struct fh_tokenizer *t, uint32_t id)
{
	return id < t->nr_vocab && t->attr[id] & FH_TA_EOG;
}

bool fh_tokenizer_is_special(const struct fh_tokenizer *t, uint32_t id)
{
	return id < t->nr_vocab && t->attr[id] & (FH_TA_CONTROL | FH_TA_USER);
}

struct fh_str fh_tokenizer_piece(const struct fh_tokenizer *t, uint32_t id)
{
	return id < t->nr_vocab ? fh_pool_get(&t->pieces, id) : (struct fh_str){NULL, 0};
}
