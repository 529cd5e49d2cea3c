// SPDX-License-Identifier: Apache-2.0
/*
 * freehold audit verify-receipt: is what somebody was given true?  Needs the
 * receipt and the log's verifier key, and neither log nor daemon.
 *
 * A receipt comes in three clothes: as it is (JSON), as the value of the header
 * X-Freehold-Receipt (the same in base64), or as the event of a stream that it
 * stood in.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/trust/receipt.h"
#include "tools/audit.h"

#define TEXT_MAX (64u << 20)

/* A whole file, or standard input for "-": malloc'ed, with a zero behind it; NULL with a message. */
static char *read_text(const char *path, size_t *n)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "re") : stdin;
	char *p = NULL, *more;
	size_t cap = 0, got = 1;

	for (*n = 0; f && got && *n < TEXT_MAX; *n += got) {
		if (*n + 1 >= cap) {
			cap = cap ? 2 * cap : 65536;
			more = realloc(p, cap);
			if (!more)
				break;
			p = more;
		}
		got = fread(p + *n, 1, cap - *n - 1, f);
	}
	if (!f || ferror(f) || !p || got) {
		fprintf(stderr, "freehold audit: %s: %s\n", path, f && got ? "too long" : strerror(errno));
		free(p);
		p = NULL;
	} else {
		p[*n] = 0;
	}
	if (f && f != stdin)
		fclose(f);
	return p;
}

/* Out of its clothes, in place or in new memory. */
static char *undress(char *text, size_t *n)
{
	const char *from = text + strspn(text, " \t\r\n");
	char *out = NULL;
	size_t len;
	json_t *o, *inner;

	if (!strncmp(from, "data: ", 6))
		from += 6;
	if (*from != '{') {
		out = malloc(*n + 1);
		if (out && !sodium_base642bin((uint8_t *)out, *n, from, strlen(from), " \t\r\n", &len, NULL,
					      sodium_base64_VARIANT_ORIGINAL)) {
			out[ *n = len] = 0;
			free(text);
			return out;
		}
		free(out);
		return text;
	}
	o = json_loads(from, JSON_DISABLE_EOF_CHECK, NULL);
	inner = json_object_get(o, "receipt");
	out = json_is_object(inner) ? json_dumps(inner, JSON_COMPACT) : strdup(from);
	json_decref(o);
	free(text);
	*n = out ? strlen(out) : 0;
	return out;
}

static void print_str(const char *what, const struct fh_record *r, enum fh_record_str tag)
{
	if (r->str[tag - 64].n)
		printf("  %-10s %.*s\n", what, (int)r->str[tag - 64].n, (const char *)r->str[tag - 64].p);
}

static void print_receipt(const struct fh_receipt *r)
{
	const struct fh_record *b = &r->part[FH_RECEIPT_BEGIN].rec, *e = &r->part[FH_RECEIPT_END].rec;
	time_t t = (time_t)(e->num[FH_RN_TIME_US] / 1000000);
	char text[32];
	struct tm tm;

	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
	printf("entries %" PRIu64 " and %" PRIu64 " of the %" PRIu64 " of log %s\n", r->part[FH_RECEIPT_BEGIN].entry,
	       r->part[FH_RECEIPT_END].entry, r->cp.size, r->cp.origin);
	printf("  %-10s %s\n", "time", text);
	print_str("tenant", b, FH_RS_TENANT);
	print_str("user", b, FH_RS_USER);
	print_str("request", b, FH_RS_REQUEST_ID);
	printf("  %-10s %" PRIu64 ", %" PRIu64 " tokens of prompt, %" PRIu64 " generated\n", "status",
	       e->num[FH_RN_STATUS], b->num[FH_RN_NR_PROMPT], e->num[FH_RN_NR_GENERATED]);
}

/* 0: no file was named, or it is what was committed to. */
static int compare(const struct fh_receipt *r, enum fh_receipt_part part, const char *what, const char *path)
{
	char *text;
	size_t n;
	bool same;

	if (!path)
		return 0;
	text = read_text(path, &n);
	if (!text)
		return 1;
	same = fh_receipt_is_text(r, part, text, n);
	free(text);
	printf(same ? "%s: this is the %s\n" : "%s: this is NOT the %s that the receipt is about\n", path, what);
	return !same;
}

int audit_verify_receipt(const struct audit_args *a)
{
	char key_text[FH_NOTE_KEY_MAX], *text;
	struct fh_note_key key;
	struct fh_receipt r;
	struct fh_err err = {0};
	size_t n;
	int rc;

	if (!a->key) {
		fputs("freehold audit verify-receipt: --key is wanted: the verifier key of the log, as an auditor got "
		      "it\n",
		      stderr);
		return 2;
	}
	rc = fh_note_key_parse(audit_key_text(a->key, key_text), &key, &err);
	if (rc) {
		fprintf(stderr, "freehold audit: --key: %s\n", err.msg);
		return 1;
	}
	text = read_text(a->words[0], &n);
	if (text)
		text = undress(text, &n);
	if (!text)
		return 1;
	rc = fh_receipt_check(text, n, &key, &r, &err);
	free(text);
	if (rc) {
		printf("NOT verified: %s\n", err.msg);
		return 1;
	}
	print_receipt(&r);
	rc = compare(&r, FH_RECEIPT_BEGIN, "request", a->request) | compare(&r, FH_RECEIPT_END, "answer", a->answer);
	puts(rc ? "NOT verified" : "verified: the log that was signed with this key has both");
	fh_receipt_free(&r);
	return rc;
}
