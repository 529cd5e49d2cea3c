/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of a tokenizer, shared by runtime/model/tok_*.c and by nothing else.
 *
 * Everything in struct fh_tokenizer is written by fh_tokenizer_open() alone
 * and owned by it; afterwards it is constant, so any thread may read it.
 *
 * Symbols.  A symbol is what merging works with.  Symbols below nr_vocab are
 * the tokens themselves; those above are strings that occur in merges, and
 * bytes, that the vocabulary lacks.  `keys` holds the text of each as it
 * occurs in the input: raw bytes for byte-level BPE, and for SPM the piece
 * with spaces where the vocabulary writes U+2581.  No
 * merge leads to a token that plain text must never produce (control, unknown).
 */
#ifndef FH_MODEL_TOK_IMPL_H
#define FH_MODEL_TOK_IMPL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "runtime/model/tok_map.h"
#include "runtime/model/tokenizer.h"

/* Bits of attr[]; the first five are the token types of GGUF. */
#define FH_TA_NORMAL 0x01
#define FH_TA_UNKNOWN 0x02
#define FH_TA_CONTROL 0x04
#define FH_TA_USER 0x08
#define FH_TA_BYTE 0x10
#define FH_TA_EOG 0x20	  /* ends a generation */
#define FH_TA_LSTRIP 0x40 /* as a special token, swallows white space on its left */
#define FH_TA_RSTRIP 0x80 /* and on its right */

#define FH_TA_SPECIAL (FH_TA_CONTROL | FH_TA_USER | FH_TA_UNKNOWN)

enum fh_tok_kind { FH_TOK_SPM, FH_TOK_BPE };

#define FH_PRE_MAX_STAGES 6

/* How a stage of a pre-tokenizer cuts a piece into smaller ones. */
enum fh_pre_how {
	FH_PRE_REGEX,	      /* matches, and what lies between them */
	FH_PRE_DIGIT_GROUPS,  /* runs of \p{N} in threes, from the right; see pass_groups() */
	FH_PRE_ASCII_GROUPS,  /* runs of 0-9 in threes, from the right, and what lies between */
	FH_PRE_SPACE_HALVING, /* white space without a line end: 512, 256, ... 4, then pairs */
	FH_PRE_LINES,	      /* runs of line feeds, and what lies between them */
};

struct fh_pre_stage {
	enum fh_pre_how how;
	const char *pattern; /* FH_PRE_REGEX */
};

struct fh_pre_rule {
	struct fh_pre_stage stages[FH_PRE_MAX_STAGES]; /* the first with neither pattern nor `how` ends them */
};

/* What a name in tokenizer.ggml.pre stands for. */
struct fh_pre_name {
	const char *name;
	const struct fh_pre_rule *rule;
	unsigned int flags;
};

#define FH_PRE_IGNORE_MERGES 0x1u /* a word that is a token is that token, whatever the merges would make of it */
#define FH_PRE_ADD_BOS 0x2u	  /* where the file does not say */

struct fh_tokenizer {
	enum fh_tok_kind kind;
	uint32_t nr_vocab;
	uint32_t bos, eos, eot, eom, unk; /* FH_NO_TOKEN where there is none */
	bool add_bos, add_eos;

	struct fh_pool pieces; /* [nr_vocab] as the vocabulary spells them */
	struct fh_pool outs;   /* [nr_vocab] as they are written out */
	struct fh_pool keys;   /* [symbols] as they occur in the input */
	uint8_t *attr;	       /* [nr_vocab] FH_TA_* */
	struct fh_strmap by_key;
	uint64_t seed;
	uint32_t byte_symbol[256]; /* FH_NO_TOKEN where a byte has none (SPM) */

	/* SPM */
	bool add_space_prefix;
	bool remove_extra_spaces;
	bool cut_at_spaces; /* no piece has a space after another character: a word can be merged by itself */
	uint32_t max_key_bytes;
	uint32_t *order; /* [nr_vocab] from the scores: the lower merges first */

	/* BPE */
	bool ignore_merges;
	struct fh_pairmap merges; /* (left symbol, right symbol) -> rank << 32 | merged symbol */
	uint32_t nr_stages;
	struct fh_pre_stage stages[FH_PRE_MAX_STAGES];
	pcre2_code *codes[FH_PRE_MAX_STAGES]; /* of the stages that match something */

	/*
	 * Special tokens as a trie: (node, byte) -> child node; node 0 is the
	 * root, node_token[] the token that ends there.
	 */
	struct fh_pairmap trie;
	uint32_t *node_token; /* [nr_nodes] */
	uint32_t nr_nodes, nodes_cap;
	bool first_user[256];	 /* bytes that begin a user-defined token */
	bool first_special[256]; /* bytes that begin any special token */
};

/* The state of one fh_tokenize() call. */
struct fh_tok_symbol {
	uint32_t at, bytes; /* in the text that is merged; bytes == 0: merged into its left neighbour */
	uint32_t prev, next;
	uint32_t id; /* symbol, or FH_NO_TOKEN where it was not looked up yet */
};

/* A symbol and its right neighbour that may merge. */
struct fh_tok_pair {
	uint64_t key;	/* order << 32 | index of the left symbol: smallest first */
	uint32_t bytes; /* of both together: tells a pair that has changed since */
	uint32_t id;	/* what they become */
};

#define FH_TOK_FIXED 96 /* symbols of a word that needs no allocation */

struct fh_tok_work {
	const struct fh_tokenizer *t;
	uint32_t *ids; /* the result so far */
	uint32_t nr_ids;
	size_t ids_cap;
	struct fh_tok_symbol *symbols; /* [symbols_cap] */
	struct fh_tok_pair *heap;      /* [2 * symbols_cap] */
	size_t symbols_cap, nr_heap;
	pcre2_match_data *match;
	struct fh_tok_symbol fixed_symbols[FH_TOK_FIXED];
	struct fh_tok_pair fixed_heap[2 * FH_TOK_FIXED];
};

/* tok_vocab.c: fill in everything that tokenizer.ggml.* says of the vocabulary; before tok_special. */
int fh_tok_load_vocab(struct fh_tokenizer *t, const struct fh_gguf *g, struct fh_err *err);
/* tok_bpe.c: the byte that a character of the byte-level alphabet stands for, or -1. */
int fh_tok_byte_level(uint32_t cp);
/* tok_bpe.c: merges and byte symbols of a byte-level vocabulary. */
int fh_tok_load_merges(struct fh_tokenizer *t, const struct fh_gguf *g, struct fh_err *err);

/* tok_special.c: special ids and attributes (before keys are made), then the trie. */
void fh_tok_mark_special(struct fh_tokenizer *t, const struct fh_gguf *g);
int fh_tok_build_trie(struct fh_tokenizer *t, struct fh_err *err);
/* The longest special token at the front of @text; its length in *len.  FH_NO_TOKEN where there is none. */
uint32_t fh_tok_special_at(const struct fh_tokenizer *t, const char *text, size_t bytes, bool all, size_t *len);

/* tok_pre.c: the rule of a name (NULL: unknown), and the compilation of its stages. */
const struct fh_pre_name *fh_tok_pre_find(struct fh_str name);
/* tok_split.c */
int fh_tok_pre_compile(struct fh_tokenizer *t, const struct fh_pre_rule *rule, struct fh_err *err);
/* Cut @text, well-formed UTF-8, and call @word for each piece in turn until it fails. */
typedef int (*fh_tok_word_fn)(struct fh_tok_work *w, const char *real, size_t bytes);
/* @real: the text whose bytes the words are of, as long as @text. */
int fh_tok_split(struct fh_tok_work *w, const char *text, const char *real, size_t bytes, fh_tok_word_fn word);

/* tok_bpe.c, tok_spm.c: the tokens of one word (SPM: of a text in which U+2581 is a space). */
int fh_tok_bpe_word(struct fh_tok_work *w, const char *word, size_t bytes);
int fh_tok_spm_text(struct fh_tok_work *w, const char *text, size_t bytes);

/* tok_merge.c: append a token to the result. */
int fh_tok_push(struct fh_tok_work *w, uint32_t id);
/* Make room for a word of @nr symbols. */
int fh_tok_reserve(struct fh_tok_work *w, size_t nr);
/*
 * Merge the symbols of a word, [nr] in a row, until no pair merges.  What
 * remains is reached from symbol 0 through `next`, FH_NO_TOKEN ends it.
 * @pair: what two neighbours become (FH_NO_TOKEN: nothing) and in which order.
 */
typedef uint32_t (*fh_tok_pair_fn)(const struct fh_tokenizer *t, const char *word, const struct fh_tok_symbol *left,
				   const struct fh_tok_symbol *right, uint32_t *order);
void fh_tok_merge(struct fh_tok_work *w, const char *word, uint32_t nr, fh_tok_pair_fn pair);

#endif /* FH_MODEL_TOK_IMPL_H */
