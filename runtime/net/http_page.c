// SPDX-License-Identifier: Apache-2.0
/*
 * The dashboard's page: one file, made of runtime/web/ by the Makefile and
 * compiled in.
 *
 * Its policy lets it load nothing and talk to nobody but this server.  Style and
 * script stand in the page itself and are allowed by their hashes, which are
 * computed here from the very bytes that are served, so that the two cannot
 * disagree.
 */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "runtime/net/http_priv.h"

/* clang-format off */
__asm__(".section .rodata\n"
	"fh_page_begin:\n"
	".incbin \"" FH_PAGE_FILE "\"\n"
	"fh_page_end:\n"
	".byte 0\n"
	".previous\n");
/* clang-format on */
extern const char fh_page_begin[], fh_page_end[];

#define HASH_TEXT 45 /* of 32 bytes in base64 */

/* What a browser computes over the contents of the element between @open and @close; false: there is none. */
static bool hash_element(const char *page, const char *open, const char *close, char out[HASH_TEXT])
{
	const char *from = strstr(page, open), *to = from ? strstr(from, close) : NULL;
	unsigned char hash[crypto_hash_sha256_BYTES];

	if (!to)
		return false;
	from += strlen(open);
	crypto_hash_sha256(hash, (const unsigned char *)from, (unsigned long long)(to - from));
	sodium_bin2base64(out, HASH_TEXT, hash, sizeof(hash), sodium_base64_VARIANT_ORIGINAL);
	return true;
}

int fh_page_open(struct fh_page *p, struct fh_err *err)
{
	char style[HASH_TEXT], script[HASH_TEXT];
	int n;

	p->text = fh_page_begin;
	p->bytes = (size_t)(fh_page_end - fh_page_begin);
	if (!hash_element(p->text, "<style>", "</style>", style) ||
	    !hash_element(p->text, "<script>", "</script>", script))
		return fh_errf(err, -EINVAL, "the dashboard's page was built without its style or its script");
	n = snprintf(p->headers, sizeof(p->headers),
		     "Content-Security-Policy: default-src 'none'; script-src 'sha256-%s'; style-src 'sha256-%s'; "
		     "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
		     "frame-ancestors 'none'\r\n"
		     "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
		     "Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Resource-Policy: same-origin\r\n"
		     "Cache-Control: no-cache\r\n",
		     script, style);
	return n < (int)sizeof(p->headers) ? 0 : -E2BIG;
}

void fh_conn_answer_page(struct fh_conn *c)
{
	const struct fh_page *p = &c->h->page;

	fh_conn_respond(c, 200, "text/html; charset=utf-8", p->headers, p->text, p->bytes);
}
