/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which tokens are thoughts: those between the token that opens the model's
 * thinking section and the one that closes it.  The two themselves are part of
 * the answer, as vLLM counts them.
 *
 * The section may be open when the answer begins, because the chat template
 * opens it.  Then the opening token is among the last of the prompt; one that
 * stands further up is somebody's text and opens nothing.
 */
#ifndef FH_ENGINE_THINK_H
#define FH_ENGINE_THINK_H

#include <stdbool.h>
#include <stdint.h>

#define FH_THINK_TAIL 4u /* tokens from the prompt's end: the opening one, and white space after it */

/* Does an answer to @prompt [nr] begin with thoughts?  @open and @close are the same for a model that has none. */
static inline bool fh_think_begins(const uint32_t *prompt, uint32_t nr, uint32_t open, uint32_t close)
{
	if (open == close)
		return false;
	for (uint32_t i = 1; i <= FH_THINK_TAIL && i <= nr; i++) {
		if (prompt[nr - i] == close)
			return false;
		if (prompt[nr - i] == open)
			return true;
	}
	return false;
}

/* @token was drawn: is it a thought?  *thinks: whether the section is open, before and after. */
static inline bool fh_think_token(bool *thinks, uint32_t token, uint32_t open, uint32_t close)
{
	if (open == close)
		return false;
	if (token == open || token == close) {
		*thinks = token == open;
		return false;
	}
	return *thinks;
}

#endif /* FH_ENGINE_THINK_H */
