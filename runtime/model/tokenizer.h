/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text to token ids and back: SentencePiece-style BPE ("llama") and byte-level
 * BPE ("gpt2"), from a GGUF file's tokenizer.* keys.
 *
 * A tokenizer is immutable once open and may be used by any thread.  Time is
 * linear (within a logarithm) in the input, whatever the input.
 */
#ifndef FH_MODEL_TOKENIZER_H
#define FH_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/err.h"
#include "runtime/base/request.h" /* struct fh_detok, FH_TOK_*, FH_DETOK_MAX */
#include "runtime/model/gguf.h"

struct fh_tokenizer;

#define FH_NO_TOKEN UINT32_MAX

/* Works on vocabulary-only files whatever their general.architecture. Copies what it needs: @g may be closed. */
int fh_tokenizer_open(const struct fh_gguf *g, struct fh_tokenizer **out, struct fh_err *err);
void fh_tokenizer_close(struct fh_tokenizer *t);

uint32_t fh_tokenizer_nr_vocab(const struct fh_tokenizer *t);
/* FH_NO_TOKEN where the model has none. */
uint32_t fh_tokenizer_bos(const struct fh_tokenizer *t);
uint32_t fh_tokenizer_eos(const struct fh_tokenizer *t);
/* True for EOS, EOT, EOM and every other token that ends a generation. */
bool fh_tokenizer_is_eog(const struct fh_tokenizer *t, uint32_t id);
bool fh_tokenizer_is_special(const struct fh_tokenizer *t, uint32_t id); /* control or user-defined */
/* The piece as the vocabulary spells it (not decoded); {NULL, 0} for an id out of range. */
struct fh_str fh_tokenizer_piece(const struct fh_tokenizer *t, uint32_t id);

/* *ids: malloc'ed [*nr]; the caller frees.  @text may hold any bytes. */
int fh_tokenize(const struct fh_tokenizer *t, const char *text, size_t bytes, unsigned int flags, uint32_t **ids,
		uint32_t *nr);

/*
 * Streaming: append token @id's bytes; write whole UTF-8 characters only and
 * keep the rest in @d.  A byte that can never become UTF-8 comes out as U+FFFD.
 * Control tokens have no text.  Returns bytes written, at most @cap.
 */
size_t fh_detok_push(const struct fh_tokenizer *t, struct fh_detok *d, uint32_t id, char *out, size_t cap);
size_t fh_detok_end(const struct fh_tokenizer *t, struct fh_detok *d, char *out, size_t cap);

/* The raw bytes of one token's text (no UTF-8 repair), for logprobs' "bytes" and stop strings. At most @cap. */
size_t fh_token_bytes(const struct fh_tokenizer *t, uint32_t id, bool first, char *out, size_t cap);

#endif /* FH_MODEL_TOKENIZER_H */
