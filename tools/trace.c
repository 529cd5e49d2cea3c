// SPDX-License-Identifier: Apache-2.0
/*
 * Traces from files, in the three forms in which they are published.
 *
 * The bytes come from outside: nothing is believed.  A file without order is
 * sorted; a request without a prompt or without an answer (one that failed) is
 * skipped and counted; anything else that does not fit ends the reading with
 * its line.
 */
#include "tools/trace.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_COLUMNS 64
#define MAX_SECONDS 4e9 /* of a time; more than a century would overflow what is made of it */

struct span {
	const char *p;
	size_t n;
};

struct reader {
	struct trace *t;
	const char *name;
	unsigned long line;
	enum trace_format format;
	int at, prompt, gen; /* columns */
	struct fh_err *err;
};

int trace_format_parse(const char *name, enum trace_format *out)
{
	static const char *const names[] = {"auto", "burstgpt", "azure", "mooncake"};

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(name, names[i])) {
			*out = (enum trace_format)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int bad(const struct reader *r, const char *what)
{
	return fh_errf(r->err, -EINVAL, "%s:%lu: %s", r->name, r->line, what);
}

/* In nanoseconds; the fraction of a date in seconds would not survive in a double. */
static int to_ns(const struct reader *r, double at_s, uint64_t *at_ns)
{
	if (!(at_s >= 0 && at_s <= MAX_SECONDS))
		return bad(r, "the time is negative or too large");
	*at_ns = (uint64_t)(at_s * 1e9);
	return 0;
}

static int add(struct reader *r, uint64_t at_ns, double nr_prompt, double nr_gen)
{
	struct trace *t = r->t;

	if (!(nr_prompt >= 0 && nr_prompt <= TRACE_MAX_TOKENS && nr_gen >= 0 && nr_gen <= TRACE_MAX_TOKENS))
		return bad(r, "a number of tokens is negative or too large");
	if (nr_prompt < 1 || nr_gen < 1) {
		t->nr_skipped++;
		return 0;
	}
	if (t->nr == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : 1024;
		struct trace_req *more = realloc(t->req, cap * sizeof(*more));

		if (!more)
			return fh_errf(r->err, -ENOMEM, "%s: no memory for its requests", r->name);
		t->req = more;
		t->cap = cap;
	}
	t->req[t->nr++] =
		(struct trace_req){.at_ns = at_ns, .nr_prompt = (uint32_t)nr_prompt, .nr_gen = (uint32_t)nr_gen};
	return 0;
}

/* ---- CSV ---- */

static struct span trim(struct span s)
{
	while (s.n && isspace((unsigned char)*s.p)) {
		s.p++;
		s.n--;
	}
	while (s.n && isspace((unsigned char)s.p[s.n - 1]))
		s.n--;
	if (s.n >= 2 && s.p[0] == '"' && s.p[s.n - 1] == '"')
		s = (struct span){s.p + 1, s.n - 2};
	return s;
}

/* Fields of a line; a comma in quotes does not divide. */
static int split(struct span line, struct span *f)
{
	bool quoted = false;
	size_t from = 0;
	int nr = 0;

	for (size_t i = 0; i <= line.n && nr < MAX_COLUMNS; i++) {
		if (i < line.n && line.p[i] == '"')
			quoted = !quoted;
		if (i < line.n && (quoted || line.p[i] != ','))
			continue;
		f[nr++] = trim((struct span){line.p + from, i - from});
		from = i + 1;
	}
	return nr;
}

static int find_column(const struct span *f, int nr, const char *name)
{
	for (int i = 0; i < nr; i++)
		if (f[i].n == strlen(name) && !strncasecmp(f[i].p, name, f[i].n))
			return i;
	return -1;
}

static bool csv_header(struct reader *r, struct span line)
{
	struct span f[MAX_COLUMNS];
	int nr = split(line, f);

	r->at = find_column(f, nr, "timestamp");
	r->prompt = find_column(f, nr, "request tokens");
	r->gen = find_column(f, nr, "response tokens");
	if (r->at >= 0 && r->prompt >= 0 && r->gen >= 0) {
		r->format = TRACE_BURSTGPT;
		return true;
	}
	r->prompt = find_column(f, nr, "contexttokens");
	r->gen = find_column(f, nr, "generatedtokens");
	r->format = TRACE_AZURE;
	return r->at >= 0 && r->prompt >= 0 && r->gen >= 0;
}

static bool number(struct span s, double *out)
{
	char text[48], *end;

	if (!s.n || s.n >= sizeof(text) || !isdigit((unsigned char)*s.p))
		return false;
	memcpy(text, s.p, s.n);
	text[s.n] = '\0';
	*out = strtod(text, &end);
	return !*end && isfinite(*out);
}

/* "2023-11-16 18:17:03.9799600", perhaps with a zone behind it, which is the same for all. */
static bool date(struct span s, uint64_t *out)
{
	int year, month, day, hour, minute, used = 0;
	char text[48], *end;
	struct tm tm = {0};
	double second;

	if (s.n >= sizeof(text))
		return false;
	memcpy(text, s.p, s.n);
	text[s.n] = '\0';
	if (sscanf(text, "%4d-%2d-%2d%*1[ T]%2d:%2d:%n", &year, &month, &day, &hour, &minute, &used) != 5 || !used ||
	    !isdigit((unsigned char)text[used]))
		return false;
	second = strtod(text + used, &end);
	if ((*end && *end != '+' && *end != '-' && *end != 'Z') || !(second >= 0 && second < 61))
		return false;
	if (year < 1970 || year > 2090 || month < 1 || month > 12 || day < 1 || day > 31 || hour < 0 || hour > 23 ||
	    minute < 0 || minute > 59)
		return false;
	tm.tm_year = year - 1900;
	tm.tm_mon = month - 1;
	tm.tm_mday = day;
	tm.tm_hour = hour;
	tm.tm_min = minute;
	*out = (uint64_t)timegm(&tm) * 1000000000u + (uint64_t)(second * 1e9 + 0.5);
	return true;
}

static int csv_line(struct reader *r, struct span line)
{
	struct span f[MAX_COLUMNS];
	double at_s = 0, prompt = 0, gen = 0;
	int nr = split(line, f), rc = 0;
	uint64_t at_ns = 0;

	if (nr <= r->at || nr <= r->prompt || nr <= r->gen)
		return bad(r, "the line has too few columns");
	if (r->format == TRACE_AZURE && !date(f[r->at], &at_ns))
		return bad(r, "the time is no date and time of day, such as 2023-11-16 18:17:03.97");
	if (r->format == TRACE_BURSTGPT) {
		if (!number(f[r->at], &at_s))
			return bad(r, "the time is no number of seconds");
		rc = to_ns(r, at_s, &at_ns);
	}
	if (!rc && (!number(f[r->prompt], &prompt) || !number(f[r->gen], &gen)))
		rc = bad(r, "a number of tokens is no number");
	return rc ? rc : add(r, at_ns, prompt, gen);
}

/* ---- JSON lines ---- */

static int add_hashes(struct reader *r, const json_t *ids)
{
	struct trace *t = r->t;
	size_t nr = json_array_size(ids);
	struct trace_req *q;

	if (nr > TRACE_MAX_TOKENS / TRACE_MOONCAKE_BLOCK)
		return bad(r, "it has too many hash_ids");
	if (t->nr_hashes + nr > t->cap_hashes) {
		size_t cap = 2 * (t->nr_hashes + nr);
		uint32_t *more = realloc(t->hash, cap * sizeof(*more));

		if (!more)
			return fh_errf(r->err, -ENOMEM, "%s: no memory for its hashes", r->name);
		t->hash = more;
		t->cap_hashes = cap;
	}
	q = &t->req[t->nr - 1];
	q->hashes_from = t->nr_hashes;
	q->nr_hashes = (uint32_t)nr;
	for (size_t i = 0; i < nr; i++) {
		const json_t *v = json_array_get(ids, i);
		json_int_t id = json_integer_value(v);

		if (!json_is_integer(v) || id < 0 || id > UINT32_MAX)
			return bad(r, "hash_ids must hold whole numbers from 0 on");
		t->hash[t->nr_hashes++] = (uint32_t)id;
	}
	return 0;
}

static int json_line(struct reader *r, struct span line)
{
	json_error_t why;
	json_t *o = json_loadb(line.p, line.n, JSON_REJECT_DUPLICATES, &why), *at, *prompt, *gen, *ids;
	size_t before = r->t->nr;
	uint64_t at_ns = 0;
	int rc;

	if (!json_is_object(o)) {
		json_decref(o);
		return bad(r, "the line is no JSON object");
	}
	at = json_object_get(o, "timestamp");
	prompt = json_object_get(o, "input_length");
	gen = json_object_get(o, "output_length");
	ids = json_object_get(o, "hash_ids");
	if (!json_is_number(at) || !json_is_number(prompt) || !json_is_number(gen))
		rc = bad(r, "timestamp (in ms), input_length and output_length are wanted, as numbers");
	else if (ids && !json_is_array(ids))
		rc = bad(r, "hash_ids must be an array");
	else
		rc = to_ns(r, json_number_value(at) / 1e3, &at_ns);
	if (!rc)
		rc = add(r, at_ns, json_number_value(prompt), json_number_value(gen));
	if (!rc && ids && r->t->nr > before)
		rc = add_hashes(r, ids);
	json_decref(o);
	return rc;
}

/* ---- the whole ---- */

static int first_line(struct reader *r, struct span line)
{
	enum trace_format want = r->format;
	bool csv = line.p[0] != '{' && csv_header(r, line);

	if (line.p[0] == '{') {
		r->format = TRACE_MOONCAKE;
		if (want == TRACE_AUTO || want == TRACE_MOONCAKE)
			return json_line(r, line);
	}
	if (csv && (want == TRACE_AUTO || want == r->format))
		return 0;
	return bad(r, want == TRACE_AUTO
			      ? "this is no trace that is known here: wanted are a CSV file with the header of "
				"BurstGPT or of Azure's LLM inference traces, or Mooncake's JSON lines"
			      : "the first line is not that of the format that was asked for");
}

static int compare(const void *a, const void *b)
{
	const struct trace_req *x = a, *y = b;

	if (x->at_ns != y->at_ns)
		return x->at_ns < y->at_ns ? -1 : 1;
	/* Equal times keep some order that does not depend on the sort. */
	if (x->nr_prompt != y->nr_prompt)
		return x->nr_prompt < y->nr_prompt ? -1 : 1;
	return (x->nr_gen > y->nr_gen) - (x->nr_gen < y->nr_gen);
}

/* In order, from 0 on. */
static void settle(struct trace *t)
{
	bool sorted = true;
	uint64_t first_ns;

	for (size_t i = 1; i < t->nr && sorted; i++)
		sorted = t->req[i].at_ns >= t->req[i - 1].at_ns;
	if (!sorted)
		qsort(t->req, t->nr, sizeof(*t->req), compare);
	first_ns = t->nr ? t->req[0].at_ns : 0;
	for (size_t i = 0; i < t->nr; i++)
		t->req[i].at_ns -= first_ns;
}

int trace_parse(const char *text, size_t bytes, const char *name, enum trace_format format, struct trace *out,
		struct fh_err *err)
{
	struct reader r = {.t = out, .name = name, .format = format, .err = err};
	bool first = true;
	size_t at = 0;
	int rc = 0;

	*out = (struct trace){0};
	while (!rc && at < bytes) {
		const char *nl = memchr(text + at, '\n', bytes - at);
		size_t n = nl ? (size_t)(nl - text) - at : bytes - at;
		struct span line = {text + at, n};

		r.line++;
		at += n + 1;
		if (r.line == 1 && line.n >= 3 && !memcmp(line.p, "\xef\xbb\xbf", 3))
			line = (struct span){line.p + 3, line.n - 3};
		while (line.n && isspace((unsigned char)line.p[line.n - 1]))
			line.n--;
		if (!line.n)
			continue;
		if (first)
			rc = first_line(&r, line);
		else if (r.format == TRACE_MOONCAKE)
			rc = json_line(&r, line);
		else
			rc = csv_line(&r, line);
		first = false;
	}
	if (!rc && !out->nr)
		rc = fh_errf(err, -EINVAL, "%s: there is no request in it", name);
	if (!rc)
		settle(out);
	return rc;
}

int trace_load(const char *path, enum trace_format format, struct trace *out, struct fh_err *err)
{
	size_t n = 0, cap = 0;
	char *text = NULL;
	FILE *f;
	int rc = 0;

	*out = (struct trace){0};
	f = fopen(path, "re");
	if (!f)
		return fh_errf(err, -errno, "cannot read the trace %s: %s", path, strerror(errno));
	while (!rc && !feof(f)) {
		if (n == cap) {
			char *more = realloc(text, cap = cap ? 2 * cap : 1 << 20);

			rc = more ? 0 : fh_errf(err, -ENOMEM, "%s: no memory for it", path);
			text = more ? more : text;
		}
		if (!rc)
			n += fread(text + n, 1, cap - n, f);
		if (ferror(f))
			rc = fh_errf(err, -EIO, "cannot read the trace %s: %s", path, strerror(errno));
	}
	fclose(f);
	if (!rc)
		rc = trace_parse(text, n, path, format, out, err);
	free(text);
	return rc;
}

void trace_free(struct trace *t)
{
	free(t->req);
	free(t->hash);
	*t = (struct trace){0};
}
