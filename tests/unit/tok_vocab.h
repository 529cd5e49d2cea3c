/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small vocabularies as GGUF files in memory, for the tests and the fuzzer of
 * the tokenizer.  Aborts where memory runs out; struct vocab owns its bytes,
 * vocab_free() frees them.
 */
#ifndef TESTS_UNIT_TOK_VOCAB_H
#define TESTS_UNIT_TOK_VOCAB_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/tokenizer.h"

struct vocab {
	uint8_t *p;
	size_t n, cap;
	uint64_t nr_keys;
};

/* Token types of GGUF. */
enum { T_NORMAL = 1, T_UNKNOWN, T_CONTROL, T_USER, T_UNUSED, T_BYTE };

struct piece {
	const char *text;
	int type;
	float score;
};

static inline void v_put(struct vocab *v, const void *p, size_t n)
{
	if (v->n + n > v->cap) {
		v->cap = 2 * (v->n + n);
		v->p = realloc(v->p, v->cap);
		if (!v->p)
			abort();
	}
	if (n)
		memcpy(v->p + v->n, p, n);
	v->n += n;
}

static inline void v_u32(struct vocab *v, uint32_t x)
{
	v_put(v, &x, sizeof(x));
}

static inline void v_u64(struct vocab *v, uint64_t x)
{
	v_put(v, &x, sizeof(x));
}

static inline void v_str(struct vocab *v, const char *s)
{
	v_u64(v, strlen(s));
	v_put(v, s, strlen(s));
}

/* The header; its number of keys is set by vocab_open(). */
static inline struct vocab vocab_begin(void)
{
	struct vocab v = {0};

	v_put(&v, "GGUF", 4);
	v_u32(&v, 3);
	v_u64(&v, 0);
	v_u64(&v, 0);
	return v;
}

static inline void v_key(struct vocab *v, const char *key, uint32_t type)
{
	v->nr_keys++;
	v_str(v, key);
	v_u32(v, type);
}

static inline void v_key_str(struct vocab *v, const char *key, const char *s)
{
	v_key(v, key, FH_GGUF_STR);
	v_str(v, s);
}

static inline void v_key_u32(struct vocab *v, const char *key, uint32_t x)
{
	v_key(v, key, FH_GGUF_U32);
	v_u32(v, x);
}

static inline void v_key_bool(struct vocab *v, const char *key, bool x)
{
	v_key(v, key, FH_GGUF_BOOL);
	v_put(v, &(uint8_t){x}, 1);
}

static inline void v_key_arr(struct vocab *v, const char *key, uint32_t type, uint64_t n)
{
	v_key(v, key, FH_GGUF_ARR);
	v_u32(v, type);
	v_u64(v, n);
}

static inline void v_pieces(struct vocab *v, const struct piece *pieces, uint64_t n)
{
	v_key_arr(v, "tokenizer.ggml.tokens", FH_GGUF_STR, n);
	for (uint64_t i = 0; i < n; i++)
		v_str(v, pieces[i].text);
	v_key_arr(v, "tokenizer.ggml.token_type", FH_GGUF_I32, n);
	for (uint64_t i = 0; i < n; i++)
		v_u32(v, (uint32_t)pieces[i].type);
	v_key_arr(v, "tokenizer.ggml.scores", FH_GGUF_F32, n);
	for (uint64_t i = 0; i < n; i++)
		v_put(v, &pieces[i].score, sizeof(float));
}

static inline void v_merges(struct vocab *v, const char *const *merges, uint64_t n)
{
	v_key_arr(v, "tokenizer.ggml.merges", FH_GGUF_STR, n);
	for (uint64_t i = 0; i < n; i++)
		v_str(v, merges[i]);
}

static inline int vocab_open(struct vocab *v, struct fh_tokenizer **t, struct fh_err *err)
{
	struct fh_gguf *g;
	int rc;

	memcpy(v->p + 16, &v->nr_keys, 8);
	rc = fh_gguf_open_mem(v->p, v->n, &g, err);
	if (rc)
		return rc;
	rc = fh_tokenizer_open(g, t, err);
	fh_gguf_close(g);
	return rc;
}

static inline void vocab_free(struct vocab *v)
{
	free(v->p);
	*v = (struct vocab){0};
}

/* GPT-2's printable character for a byte, as UTF-8; counts as its authors do, not as the tokenizer does. */
static inline const char *byte_char(int byte, char out[4])
{
	int next = 256, cp = -1;

	for (int b = 0; b <= byte; b++) {
		bool shown = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);

		cp = shown ? b : next++;
	}
	if (cp < 0x80)
		snprintf(out, 4, "%c", cp);
	else
		snprintf(out, 4, "%c%c", 0xc0 | cp >> 6, 0x80 | (cp & 63));
	return out;
}

#define SPM_FIRST_BYTE 3
#define SPM_FIRST 259

/* <unk> <s> </s>, 256 bytes (if wanted), then @more. */
static inline struct vocab spm_vocab(const struct piece *more, uint64_t nr_more, bool bytes)
{
	struct piece pieces[512] = {{"<unk>", T_UNKNOWN, 0}, {"<s>", T_CONTROL, 0}, {"</s>", T_CONTROL, 0}};
	struct vocab v = vocab_begin();
	static char names[256][8];
	uint64_t n = SPM_FIRST_BYTE;

	for (int b = 0; bytes && b < 256; b++) {
		snprintf(names[b], sizeof(names[b]), "<0x%02X>", b);
		pieces[n++] = (struct piece){names[b], T_BYTE, 0};
	}
	for (uint64_t i = 0; i < nr_more; i++)
		pieces[n++] = more[i];
	v_key_str(&v, "tokenizer.ggml.model", "llama");
	v_pieces(&v, pieces, n);
	return v;
}

/* 256 bytes, then @more, and @merges. */
static inline struct vocab bpe_vocab(const char *pre, const struct piece *more, uint64_t nr_more,
				     const char *const *merges, uint64_t nr_merges)
{
	struct vocab v = vocab_begin();
	struct piece pieces[512];
	static char names[256][4];
	uint64_t n = 0;

	for (; n < 256; n++)
		pieces[n] = (struct piece){byte_char((int)n, names[n]), T_NORMAL, 0};
	for (uint64_t i = 0; i < nr_more; i++)
		pieces[n++] = more[i];
	v_key_str(&v, "tokenizer.ggml.model", "gpt2");
	if (pre)
		v_key_str(&v, "tokenizer.ggml.pre", pre);
	v_pieces(&v, pieces, n);
	v_merges(&v, merges, nr_merges);
	return v;
}

#endif /* TESTS_UNIT_TOK_VOCAB_H */
