/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates: an interpreter for the part of Jinja that published models'
 * templates use (https://jinja.palletsprojects.com/en/stable/templates/).
 *
 * A template is untrusted input: it can neither loop for ever (a budget of
 * steps), nor recurse for ever, nor grow its output without bound, nor reach
 * anything but its variables.
 */
#ifndef FH_MODEL_CHAT_H
#define FH_MODEL_CHAT_H

#include <jansson.h>
#include <stddef.h>

#include "runtime/base/err.h"

struct fh_template;

/* Parse @text; errors name the line. @text need not outlive the call. */
int fh_template_parse(const char *text, size_t bytes, struct fh_template **out, struct fh_err *err);
void fh_template_free(struct fh_template *t);

/*
 * Render with the variables of @vars (a JSON object: messages,
 * add_generation_prompt, bos_token, eos_token, tools, ...).  *out: malloc'ed,
 * terminated; the caller frees.  -EINVAL with the template's own words when it
 * calls raise_exception().  Thread-safe.
 */
int fh_template_render(const struct fh_template *t, json_t *vars, char **out, size_t *bytes, struct fh_err *err);

#endif /* FH_MODEL_CHAT_H */
