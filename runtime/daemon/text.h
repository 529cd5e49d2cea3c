/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text for front ends: struct fh_text_ops over a model's tokenizer and chat
 * template, so that they include no model header.
 */
#ifndef FH_DAEMON_TEXT_H
#define FH_DAEMON_TEXT_H

#include "runtime/base/err.h"
#include "runtime/base/request.h"
#include "runtime/model/model.h"
#include "runtime/model/tokenizer.h"

struct fhd_text;

/*
 * The template is @template_file's, else the model's own, else a plain default:
 * ChatML where the vocabulary has its tokens, "Role: text" paragraphs where it
 * has not.  @m and @tok must outlive the text.
 */
int fhd_text_open(const struct fh_model *m, const struct fh_tokenizer *tok, const char *template_file,
		  struct fhd_text **out, struct fh_err *err);
void fhd_text_close(struct fhd_text *t);
/* The table of functions; any thread may call them. */
struct fh_text_ops fhd_text_ops(struct fhd_text *t);
/* "the model's", "the file's", "ChatML", "plain": where the template is from. */
const char *fhd_text_template_name(const struct fhd_text *t);
/* False with the plain default: the model knows no turns. */
bool fhd_text_is_chat(const struct fhd_text *t);

#endif /* FH_DAEMON_TEXT_H */
