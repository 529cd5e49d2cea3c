/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prompts from a file: a prompt a line (text); a JSON object a line with
 * "prompt", "text", "question" or "messages" and perhaps "output_tokens"
 * (JSONL); or ShareGPT's JSON array of conversations, of which each first turn
 * is a prompt.  The file's first byte tells which: '[' is ShareGPT, '{' JSONL.
 *
 * A dataset owns its texts.  They are UTF-8 and as long as they are: only the
 * server knows how many tokens they make.
 */
#ifndef FH_TOOLS_LOAD_DATASET_H
#define FH_TOOLS_LOAD_DATASET_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/err.h"

struct load_text {
	char *text; /* ends with a zero */
	size_t bytes;
	uint32_t nr_out; /* tokens of the answer that the file asks for; 0: it does not */
};

struct load_dataset {
	struct load_text *text; /* [nr] */
	uint32_t nr, cap;
	uint32_t nr_skipped; /* entries without a prompt */
};

/* From @data: [bytes].  @name stands in messages.  load_dataset_free() is due in every case. */
int load_dataset_parse(const char *data, size_t bytes, const char *name, struct load_dataset *out, struct fh_err *err);
int load_dataset_read(const char *path, struct load_dataset *out, struct fh_err *err);
void load_dataset_free(struct load_dataset *d);

#endif /* FH_TOOLS_LOAD_DATASET_H */
