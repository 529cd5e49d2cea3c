// SPDX-License-Identifier: Apache-2.0
/*
 * What the exporter is told: settings, and where they are silent OpenTelemetry's
 * variables.  A setting that is wrong is an error; a variable that is wrong, which
 * may be meant for another program, is warned of, and there are no traces.
 */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/daemon/otlp.h"

#define MAX_RESOURCE_BYTES 8192u /* of OTEL_RESOURCE_ATTRIBUTES, as of W3C Baggage, after which it is made */
#define MAX_RESOURCE_ITEMS 128u

static const char *env(const char *name)
{
	const char *v = getenv(name);

	return v && *v ? v : NULL;
}

static bool is(const char *v, const char *want)
{
	return v && !strcmp(v, want);
}

/* @what of the environment and its value, or the second where the first is not set. */
static const char *env_of(const char **what, const char *first, const char *second)
{
	const char *v = env(first);

	*what = v ? first : second;
	return v ? v : env(second);
}

/* ---- lists ---- */

static int hex(char c)
{
	return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? (c | 0x20) - 'a' + 10 : -1;
}

/* In place, @text [n]: percent-encoding undone; the new length, or -1: it is none, or of what none, or @header, may
 * have. */
static ssize_t decode(char *text, size_t n, bool header)
{
	size_t to = 0;

	for (size_t i = 0; i < n; i++) {
		int c = (unsigned char)text[i];

		if (c == '%') {
			if (i + 2 >= n || hex(text[i + 1]) < 0 || hex(text[i + 2]) < 0)
				return -1;
			c = hex(text[i + 1]) << 4 | hex(text[i + 2]);
			i += 2;
		}
		if (!c || (header && ((c < ' ' && c != '\t') || c == 0x7f)))
			return -1;
		text[to++] = (char)c;
	}
	return (ssize_t)to;
}

static size_t trim(const char **text, size_t n)
{
	while (n && strchr(" \t", **text)) {
		++*text;
		n--;
	}
	while (n && strchr(" \t", (*text)[n - 1]))
		n--;
	return n;
}

/* What a name consists of (RFC 9110, token). */
static bool is_token(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("!#$%&'*+-.^_`|~", text[i]))
			return false;
	return n;
}

/* "NAME=VALUE" as a line for libcurl, malloc'ed, which wants "NAME;" where the value is empty. */
static char *header_line(const char *item, size_t n, bool *wrong)
{
	const char *eq = memchr(item, '=', n), *name = item, *value;
	size_t nr_name, nr_value;
	ssize_t nr;
	char *line;

	*wrong = true;
	if (!eq)
		return NULL;
	value = eq + 1;
	nr_name = trim(&name, (size_t)(eq - item));
	nr_value = trim(&value, n - (size_t)(value - item));
	if (!is_token(name, nr_name))
		return NULL;
	*wrong = false;
	line = malloc(nr_name + nr_value + 3);
	if (!line)
		return NULL;
	memcpy(line, name, nr_name);
	memcpy(line + nr_name, ": ", 2);
	memcpy(line + nr_name + 2, value, nr_value);
	nr = decode(line + nr_name + 2, nr_value, true);
	if (nr < 0) {
		free(line);
		*wrong = true;
		return NULL;
	}
	line[nr_name + 2 + (size_t)nr] = 0;
	if (!nr)
		memcpy(line + nr_name, ";", 2);
	return line;
}

/* Room for @each texts of each item of @text, and an end. */
static char **new_list(const char *text, uint32_t each)
{
	uint32_t room = 2;

	for (const char *p = text; *p; p++)
		room += *p == ',';
	return calloc((size_t)room * each, sizeof(char *));
}

/* The next item of *text that is not empty, without what surrounds it; 0: there is none. @at counts all of them. */
static size_t next_item(const char **text, const char **item, uint32_t *at)
{
	size_t n = 0;

	while (!n && **text) {
		size_t whole = strcspn(*text, ",");

		*item = *text;
		n = trim(item, whole);
		*text += whole + ((*text)[whole] == ',');
		++*at;
	}
	return n;
}

int fhd_otlp_headers(const char *text, char ***out, struct fh_err *err)
{
	uint32_t nr = 0, at = 0;
	bool wrong = false;
	const char *item;
	char **list;
	size_t n;

	*out = list = new_list(text, 1);
	if (!list)
		return fh_errf(err, -ENOMEM, "out of memory");
	while ((n = next_item(&text, &item, &at))) {
		list[nr] = header_line(item, n, &wrong);
		if (list[nr++])
			continue;
		fhd_otlp_list_free(list);
		*out = NULL;
		/* Not the text: it is a secret. */
		return wrong ? fh_errf(err, -EINVAL,
				       "item %u of the list is wrong: NAME=VALUE,... is wanted, with %%25 for %%, %%2C "
				       "for a comma, and without control characters",
				       at)
			     : fh_errf(err, -ENOMEM, "out of memory");
	}
	return 0;
}

void fhd_otlp_list_free(char **list)
{
	for (uint32_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

/* ---- attributes of the resource ---- */

/* @text [n] decoded, malloc'ed; NULL: no memory, or *wrong: it is not encoded, or no UTF-8. */
static char *decoded(const char *text, size_t n, bool *wrong)
{
	char *out = strndup(text, n);
	ssize_t nr = out ? decode(out, n, false) : 0;
	json_t *utf8 = out && nr >= 0 ? json_stringn(out, (size_t)nr) : NULL;

	*wrong = out && !utf8;
	if (!utf8) {
		free(out);
		return NULL;
	}
	json_decref(utf8);
	out[nr] = 0;
	return out;
}

/* "KEY=VALUE" as two texts behind the @nr of @list, or in place of its namesake; false as in decoded(). */
static bool add_attribute(char **list, uint32_t *nr, const char *item, size_t n, bool *wrong)
{
	const char *eq = memchr(item, '=', n), *key = item, *value = eq ? eq + 1 : item;
	size_t nr_key = trim(&key, eq ? (size_t)(eq - item) : 0), nr_value = trim(&value, n - (size_t)(value - item));
	char *k, *v;
	uint32_t i;

	*wrong = true;
	k = eq && nr_key ? decoded(key, nr_key, wrong) : NULL;
	v = k ? decoded(value, nr_value, wrong) : NULL;
	if (!v) {
		free(k);
		return false;
	}
	for (i = 0; i < *nr && strcmp(list[i], k); i += 2)
		;
	if (i == *nr)
		*nr += 2;
	free(list[i]);
	free(list[i + 1]);
	list[i] = k;
	list[i + 1] = v;
	return true;
}

int fhd_otlp_attributes(const char *text, char ***out, struct fh_err *err)
{
	uint32_t nr = 0, at = 0;
	bool wrong = false;
	const char *item;
	char **list;
	size_t n;

	*out = NULL;
	if (strlen(text) > MAX_RESOURCE_BYTES)
		return fh_errf(err, -EINVAL, "it is longer than %u bytes", MAX_RESOURCE_BYTES);
	list = new_list(text, 2);
	if (!list)
		return fh_errf(err, -ENOMEM, "out of memory");
	while ((n = next_item(&text, &item, &at))) {
		if (nr < 2 * MAX_RESOURCE_ITEMS && add_attribute(list, &nr, item, n, &wrong))
			continue;
		fhd_otlp_list_free(list);
		if (nr >= 2 * MAX_RESOURCE_ITEMS)
			return fh_errf(err, -EINVAL, "it has more than %u attributes", MAX_RESOURCE_ITEMS);
		return wrong ? fh_errf(err, -EINVAL,
				       "item %u of the list is wrong: KEY=VALUE,... is wanted, in UTF-8, with %%25 for "
				       "%%, %%2C for a comma and %%3D for = in a key",
				       at)
			     : fh_errf(err, -ENOMEM, "out of memory");
	}
	*out = list;
	return 0;
}

const char *fhd_otlp_attribute(char *const *list, const char *key)
{
	for (; list && *list; list += 2)
		if (!strcmp(*list, key))
			return list[1];
	return NULL;
}

/* One that is wrong is no reason to have no traces: they say less of where they come from. */
static void find_resource(struct fhd_otlp_setup *s)
{
	const char *text = env("OTEL_RESOURCE_ATTRIBUTES"), *service = env("OTEL_SERVICE_NAME");
	struct fh_err err;

	if (text && fhd_otlp_attributes(text, &s->resource, &err))
		fh_warn("traces: OTEL_RESOURCE_ATTRIBUTES of the environment: %s; none of it is used", err.msg);
	if (!service)
		service = fhd_otlp_attribute(s->resource, "service.name");
	s->service = service && *service ? service : "freehold";
}

/* ---- the address ---- */

void fhd_otlp_shown(const char *url, char *out, size_t cap)
{
	const char *host = strstr(url, "://");
	size_t n;

	host = host ? host + 3 : url;
	n = strcspn(host, "/?#");
	for (const char *at; (at = memchr(host, '@', n));) {
		n -= (size_t)(at + 1 - host);
		host = at + 1;
	}
	snprintf(out, cap, "%.*s%.*s",
		 !strncmp(url, "https://", 8)  ? 8
		 : !strncmp(url, "http://", 7) ? 7
					       : 0,
		 url, (int)n, host);
}

/* The collector's address, empty: none; @what has it. */
static int find_url(const struct fhd_config *cfg, char *url, size_t cap, const char **what, struct fh_err *err)
{
	const char *set = cfg->otlp_endpoint && *cfg->otlp_endpoint ? cfg->otlp_endpoint : NULL, *base = set, *whole;
	int n = 0;

	*url = 0;
	*what = "--otlp-endpoint";
	if (is(set, "off") ||
	    (!set && (is(env("OTEL_SDK_DISABLED"), "true") || is(env("OTEL_TRACES_EXPORTER"), "none"))))
		return 0;
	whole = set ? NULL : env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
	if (!set)
		base = env_of(what, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
	if (whole)
		n = snprintf(url, cap, "%s", whole);
	else if (base)
		n = snprintf(url, cap, "%s%sv1/traces", base, base[strlen(base) - 1] == '/' ? "" : "/");
	if (n < (int)cap && (!n || !strncmp(url, "http://", 7) || !strncmp(url, "https://", 8)))
		return 0;
	*url = 0;
	return fh_errf(err, -EINVAL, "http://HOST:4318 or https://HOST is wanted%s", set ? ", or off" : "");
}

/* ---- which are sampled ---- */

static void find_ratio(const struct fhd_config *cfg, struct fhd_otlp_sampler *out)
{
	const char *sampler = env("OTEL_TRACES_SAMPLER"), *arg = env("OTEL_TRACES_SAMPLER_ARG");
	char *end = NULL;
	double v;

	*out = (struct fhd_otlp_sampler){.ratio = 1, .obeys = true};
	if (cfg->trace_ratio >= 0) {
		out->ratio = (double)cfg->trace_ratio;
		return;
	}
	if (!sampler)
		return;
	out->obeys = !strncmp(sampler, "parentbased_", 12);
	sampler += out->obeys ? 12 : 0;
	if (is(sampler, "always_off")) {
		out->ratio = 0;
	} else if (is(sampler, "traceidratio")) {
		v = arg ? strtod(arg, &end) : 1;
		if (arg && (end == arg || *end || !(v >= 0 && v <= 1)))
			fh_warn("traces: OTEL_TRACES_SAMPLER_ARG: a share from 0 to 1 is wanted; it is taken as 1");
		else
			out->ratio = v;
	} else if (!is(sampler, "always_on")) {
		fh_warn("traces: OTEL_TRACES_SAMPLER: always_on, always_off or traceidratio is wanted, with or without "
			"parentbased_ before it; it is taken as parentbased_always_on");
		out->obeys = true;
	}
}

bool fhd_otlp_sampled(const struct fh_trace_context *c, const struct fhd_otlp_sampler *s)
{
	uint64_t low = 0;

	if (c->known && s->obeys)
		return c->sampled;
	/* The last 56 bits are random by the standard's second level, and by ours. */
	for (int i = 9; i < 16; i++)
		low = low << 8 | c->trace_id[i];
	return (double)low < s->ratio * 0x1p56;
}

/* ---- all of it ---- */

static void warn_of_grpc(void)
{
	const char *name, *v = env_of(&name, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");

	if (is(v, "grpc"))
		fh_warn("traces: %s=grpc: they are posted as http/json, which a collector takes on port 4318, not on "
			"4317",
			name);
}

int fhd_otlp_settings(const struct fhd_config *cfg, struct fhd_otlp_setup *s, struct fhd_otlp_sampler *sampler,
		      const char **what, struct fh_err *err)
{
	const char *name = "--otlp-headers", *headers = cfg->otlp_headers;
	struct fh_err why;
	bool ours;
	int rc = find_url(cfg, s->url, sizeof(s->url), what, &why);

	ours = **what == '-';
	s->service = "freehold";
	find_ratio(cfg, sampler);
	fhd_otlp_shown(s->url, s->shown, sizeof(s->shown));
	if (!rc && *s->url && !headers)
		headers = env_of(&name, "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS");
	if (!rc && *s->url && headers) {
		rc = fhd_otlp_headers(headers, &s->headers, &why);
		ours = *name == '-';
		*what = rc ? name : *what;
	}
	if (rc && !ours) {
		fh_warn("traces: %s of the environment: %s; there are no traces", *what, why.msg);
		*s->url = 0;
		if (s->log_requests)
			find_resource(s);
		return 0;
	}
	if (!rc && *s->url)
		warn_of_grpc();
	if (!rc && (*s->url || s->log_requests))
		find_resource(s);
	return rc ? fh_errf(err, rc, "%s: %s", *what, why.msg) : 0;
}
