// SPDX-License-Identifier: Apache-2.0
/*
 * The shortest use of libfreehold: ask for text and print it as it comes.
 *
 *	cc generate.c $(pkg-config --cflags --libs freehold) -o generate
 *	./generate 'Once upon a time'
 *	./generate 'Once upon a time' 64 http://127.0.0.1:8080
 *
 * The third argument says where the server is; without it, and without the
 * environment variable FREEHOLD, the usual places are tried.  With the
 * environment variable SHOW_IDS token ids are printed instead of text.
 */
#include <freehold.h>
#include <stdio.h>
#include <stdlib.h>

/* Print what comes until the request has ended. 0, or 1 with the reason said. */
static int print_answer(struct fh_client *c)
{
	struct fh_decoder d = {0};
	struct fh_token t;
	const char *text;

	do {
		if (fh_next_token(c, &t, -1)) {
			fprintf(stderr, "generate: %s\n", fh_error_message(c));
			return 1;
		}
		if (t.finish == FH_FINISH_ERROR) {
			fprintf(stderr, "generate: the request failed: %s\n", fh_error_message(c));
			return 1;
		}
		if (getenv("SHOW_IDS")) {
			if (!(t.flags & FH_SLOT_NO_TOKEN))
				printf("%u\n", t.token);
		} else {
			if (fh_decode(c, &d, &t, &text, NULL)) {
				fprintf(stderr, "generate: %s\n", fh_error_message(c));
				return 1;
			}
			fputs(text, stdout);
		}
		fflush(stdout);
	} while (!(t.flags & FH_SLOT_LAST));
	if (!getenv("SHOW_IDS"))
		putchar('\n');
	return 0;
}

int main(int argc, char **argv)
{
	const char *prompt = argc > 1 ? argv[1] : "Once upon a time";
	struct fh_client *c;
	struct fh_params p;
	int rc;

	if (fh_open(argc > 3 ? argv[3] : NULL, NULL, &c)) {
		fprintf(stderr, "generate: %s\n", fh_error_message(c));
		fh_close(c);
		return 1;
	}
	fh_params_init(&p);
	p.max_tokens = argc > 2 ? (uint32_t)atoi(argv[2]) : 32;
	rc = fh_generate_text(c, prompt, strlen(prompt), &p, NULL);
	if (rc)
		fprintf(stderr, "generate: %s\n", fh_error_message(c));
	else
		rc = print_answer(c);
	fh_close(c);
	return rc ? 1 : 0;
}
