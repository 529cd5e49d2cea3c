/* SPDX-License-Identifier: Apache-2.0 */
/* `freehold top`: from what a server says of itself to lines of text. */
#ifndef FH_TOOLS_TOP_H
#define FH_TOOLS_TOP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define TOP_HISTORY 512

struct top_style {
	uint32_t columns, rows; /* rows 0: as many as it takes */
	bool colour, utf8;
	const char *eol; /* what ends a line */
};

/* Tokens a second, the oldest first. */
struct top_history {
	float rate[TOP_HISTORY];
	uint32_t nr;
};

/*
 * What a server said is not to steer the terminal: in @s control characters, C1 too, become '?', and bytes that are
 * no UTF-8, which a terminal of another mind could take for them. @s.
 */
const char *top_tame(char *s);
void top_remember(struct top_history *h, json_t *status);
/*
 * Write @status, the object of /v1/freehold/status, for people.  Members may be
 * missing or of any type: what cannot be read is shown as "-".
 */
void top_print(json_t *status, const struct top_history *h, const struct top_style *style, FILE *out);

#endif /* FH_TOOLS_TOP_H */
