// SPDX-License-Identifier: Apache-2.0
/* What the exporter of traces is told: lists of headers, and what of an address may be logged. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/daemon/otlp.h"

/* The list of @text as it would be sent, with "|" behind each; or "bad N" for item N. */
static const char *headers(const char *text)
{
	static char out[16384];
	struct fh_err err;
	char **list;
	int rc = fhd_otlp_headers(text, &list, &err);

	*out = 0;
	if (rc) {
		cr_assert_eq(rc, -EINVAL);
		cr_assert_null(list);
		cr_assert(!strstr(err.msg, "secret"), "%s", err.msg);
		cr_assert_eq(sscanf(err.msg, "item %15[0-9]", out + 4), 1, "%s", err.msg);
		memcpy(out, "bad ", 4);
		return out;
	}
	for (char **h = list; *h; h++) {
		strcat(out, *h);
		strcat(out, "|");
	}
	fhd_otlp_list_free(list);
	return out;
}

Test(otlp, headers_are_percent_decoded)
{
	char text[4200] = "x-long=", want[4200] = "x-long: ";

	cr_expect_str_eq(headers(""), "");
	cr_expect_str_eq(headers("a=1"), "a: 1|");
	cr_expect_str_eq(headers(" a = b c\t,, d=%2C%20%3d%3D= ,"), "a: b c|d: , ===|");
	cr_expect_str_eq(headers("authorization=Basic%20dTpw,empty= "), "authorization: Basic dTpw|empty;|");
	memset(text + 7, 'y', 4096);
	memset(want + 8, 'y', 4096);
	want[8 + 4096] = '|';
	cr_expect_str_eq(headers(text), want);
}

Test(otlp, headers_that_are_wrong_are_refused)
{
	static const char *const bad[] = {"secret",	"=secret",	"a secret=1",	 "a:=1",	"a=%",
					  "a=secret%2", "a=%zz",	"a=x%0d%0aY: 1", "a=x\r\nY: 1", "a=%00",
					  "a=%7f",	"a=secret\x01", "\xc3\xa4=1"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char text[64];

		cr_expect_str_eq(headers(bad[i]), "bad 1", "%s", bad[i]);
		snprintf(text, sizeof(text), "x=1,,%s", bad[i]);
		cr_expect_str_eq(headers(text), "bad 3", "%s", bad[i]);
	}
}

/* The attributes of @text as "KEY=VALUE|"; or "bad N" for item N, or why. */
static const char *attributes(const char *text)
{
	static char out[16384];
	struct fh_err err;
	char **list;

	*out = 0;
	if (fhd_otlp_attributes(text, &list, &err)) {
		cr_assert_null(list);
		if (sscanf(err.msg, "item %15[0-9]", out + 4) != 1)
			return strcpy(out, err.msg);
		memcpy(out, "bad ", 4);
		return out;
	}
	for (char **p = list; *p; p += 2)
		sprintf(out + strlen(out), "%s=%s|", p[0], p[1]);
	fhd_otlp_list_free(list);
	return out;
}

Test(otlp, attributes_are_percent_decoded)
{
	cr_expect_str_eq(attributes(""), "");
	cr_expect_str_eq(attributes(" , ,"), "");
	cr_expect_str_eq(attributes("a=1, b = x y ,c="), "a=1|b=x y|c=|");
	cr_expect_str_eq(attributes("k%3Dey%2C=%e4%BD%A0%25%0a=;m"), "k=ey,=\xe4\xbd\xa0%\n=;m|");
	cr_expect_str_eq(attributes("a=1,b=2,a=3"), "a=3|b=2|", "the last one counts");
}

Test(otlp, attributes_that_are_wrong_are_refused_all_together)
{
	static const char *const bad[] = {"a",	   "=b",    " =b",    "a=%",   "a=%4",
					  "a=%zz", "a=%00", "a=\xff", "%ff=a", "a=%c3"};
	char many[4096] = "", longer[8300] = "a=";

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char text[64];

		snprintf(text, sizeof(text), "x=1,,%s,y=2", bad[i]);
		cr_expect_str_eq(attributes(text), "bad 3", "%s: %s", bad[i], attributes(text));
	}
	for (int i = 0; i < 128; i++)
		sprintf(many + strlen(many), "k%d=v,", i);
	cr_expect_eq(strlen(attributes(many)), 128 * 4 + 10 + 90 * 2 + 28 * 3);
	strcat(many, "one=more");
	cr_expect_str_eq(attributes(many), "it has more than 128 attributes");
	memset(longer + 2, 'v', 8190);
	cr_expect_eq(strlen(attributes(longer)), 8193);
	strcat(longer, "v");
	cr_expect_str_eq(attributes(longer), "it is longer than 8192 bytes");
}

static const char *shown(const char *url)
{
	static char out[64];

	fhd_otlp_shown(url, out, sizeof(out));
	return out;
}

Test(otlp, an_address_is_shown_without_secrets)
{
	cr_expect_str_eq(shown("http://127.0.0.1:4318/v1/traces"), "http://127.0.0.1:4318");
	cr_expect_str_eq(shown("https://me:pa@ss@[::1]:4318?key=1@2"), "https://[::1]:4318");
	cr_expect_str_eq(shown("https://me@host#x"), "https://host");
	cr_expect_str_eq(shown(""), "");
}
