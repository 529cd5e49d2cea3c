// SPDX-License-Identifier: Apache-2.0
/*
 * The lines of `freehold top`.  What the server said is foreign: numbers may be
 * missing, and texts may hold what a terminal would obey.
 */
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "runtime/model/unicode.h"
#include "tools/top.h"

#define BAR 24 /* columns of a bar */
#define MAX_TENANTS 64

struct screen {
	const struct top_style *style;
	FILE *out;
	uint32_t nr_lines;
};

/* ---- reading ---- */

/* The member at @path, such as "kv.held"; NULL: there is none. */
static json_t *member(json_t *j, const char *path)
{
	char name[32];

	while (*path && j) {
		size_t n = strcspn(path, ".");

		if (n >= sizeof(name))
			return NULL;
		memcpy(name, path, n);
		name[n] = 0;
		j = json_object_get(j, name);
		path += n + (path[n] == '.');
	}
	return j;
}

static double number(json_t *j, const char *path)
{
	json_t *m = member(j, path);

	return json_is_number(m) ? json_number_value(m) : NAN;
}

/* Without what a terminal would obey: control characters, C1 as UTF-8 has them too. */
static void text(json_t *j, const char *path, char *out, size_t cap)
{
	const char *s = json_string_value(member(j, path));
	size_t n = 0;

	for (s = s ? s : "-"; *s && n + 1 < cap; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == 0xc2 && (unsigned char)s[1] < 0xa0) {
			s += s[1] != 0;
			c = '?';
		}
		out[n++] = c < 0x20 || c == 0x7f ? '?' : (char)c;
	}
	/* Nothing is left of a character that was cut. */
	while (n && *s && ((unsigned char)out[n - 1] & 0xc0) == 0x80)
		n--;
	if (n && *s && (unsigned char)out[n - 1] >= 0xc0)
		n--;
	out[n] = 0;
}

const char *top_tame(char *s)
{
	size_t left = strlen(s);
	uint32_t cp;

	for (char *c = s; left;) {
		size_t n = fh_utf8_decode((const uint8_t *)c, left, &cp);

		if (!n) {
			n = 1;
			*c = '?';
		} else if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0)) {
			memset(c, '?', n);
		}
		c += n;
		left -= n;
	}
	return s;
}

/* ---- numbers for people ---- */

struct word {
	char s[32];
};

static struct word count(double v)
{
	static const char units[] = " kMGTP";
	struct word w;
	int u = 0;

	if (!isfinite(v))
		return (struct word){"-"};
	for (; fabs(v) >= 99999.5 && u < 5; u++)
		v /= 1000;
	snprintf(w.s, sizeof(w.s), u ? "%.1f%c" : v != floor(v) && fabs(v) < 100 ? "%.1f" : "%.0f", v, units[u]);
	return w;
}

static struct word duration(double ms)
{
	struct word w;

	if (!isfinite(ms))
		return (struct word){"-"};
	if (ms >= 1000)
		snprintf(w.s, sizeof(w.s), "%.2f s", ms / 1000 < 1e9 ? ms / 1000 : 1e9);
	else
		snprintf(w.s, sizeof(w.s), ms < 1 ? "%.2f ms" : ms < 10 ? "%.1f ms" : "%.0f ms", ms);
	return w;
}

static struct word age(double s)
{
	struct word w;

	if (!isfinite(s))
		return (struct word){"-"};
	if (s < 90)
		snprintf(w.s, sizeof(w.s), "%.0f s", s);
	else if (s < 5400)
		snprintf(w.s, sizeof(w.s), "%.0f min", s / 60);
	else if (s < 172800)
		snprintf(w.s, sizeof(w.s), "%.1f h", s / 3600);
	else
		snprintf(w.s, sizeof(w.s), "%.0f days", s / 86400 < 1e9 ? s / 86400 : 1e9);
	return w;
}

static struct word money(double v)
{
	struct word w;

	if (!isfinite(v))
		return (struct word){"-"};
	snprintf(w.s, sizeof(w.s), v >= 100 || v == 0 ? "%.0f" : v >= 0.1 ? "%.2f" : "%.2g", v < 1e18 ? v : 1e18);
	return w;
}

/* ---- writing ---- */

static void line(struct screen *s, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static bool is_full(const struct screen *s)
{
	return s->style->rows && s->nr_lines >= s->style->rows;
}

static void line(struct screen *s, const char *name, const char *fmt, ...)
{
	va_list ap;

	if (is_full(s))
		return;
	s->nr_lines++;
	if (name)
		fprintf(s->out, "%s%-11s%s ", s->style->colour ? "\033[2m" : "", name,
			s->style->colour ? "\033[0m" : "");
	va_start(ap, fmt);
	vfprintf(s->out, fmt, ap);
	va_end(ap);
	fputs(s->style->eol, s->out);
}

/* "[#####...]": @share of it, and of what follows @more. */
static void bar(char out[BAR + 3], double share, double more)
{
	int n = isfinite(share) ? (int)lround((share < 0 ? 0 : share > 1 ? 1 : share) * BAR) : 0;
	int m = isfinite(more) ? (int)lround((more < 0 ? 0 : more > 1 ? 1 : more) * BAR) : 0;

	m = m > BAR - n ? BAR - n : m;
	memset(out, '.', BAR + 2);
	out[0] = '[';
	memset(out + 1, '#', (size_t)n);
	memset(out + 1 + n, '=', (size_t)m);
	out[BAR + 1] = ']';
	out[BAR + 2] = 0;
}

static void print_head(struct screen *s, json_t *j)
{
	char model[80], version[32], health[32];
	bool ok;

	text(j, "model", model, sizeof(model));
	text(j, "version", version, sizeof(version));
	text(j, "health", health, sizeof(health));
	ok = !strcmp(health, "ok");
	line(s, NULL, "%sfreehold %s%s  %s  %s%s%s  up %s", s->style->colour ? "\033[1m" : "", version,
	     s->style->colour ? "\033[0m" : "", model, s->style->colour ? (ok ? "\033[32m" : "\033[1;31m") : "", health,
	     s->style->colour ? "\033[0m" : "", age(number(j, "uptime_s")).s);
	line(s, NULL, "%s", "");
}

/* One column a second, in eighths of a line. */
static void print_history(struct screen *s, const struct top_history *h)
{
	static const char *const eighths[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	static const char plain[] = " .:-=+*#@";
	uint32_t most = s->style->columns > 40 ? s->style->columns - 14 : 26;
	uint32_t nr = h->nr < TOP_HISTORY ? h->nr : TOP_HISTORY;
	float top = 1;

	most = most < nr ? most : nr;
	if (!most || is_full(s))
		return;
	for (uint32_t i = h->nr - most; i != h->nr; i++)
		top = fmaxf(top, h->rate[i % TOP_HISTORY]);
	s->nr_lines++;
	fprintf(s->out, "%-11s ", "");
	for (uint32_t i = h->nr - most; i != h->nr; i++) {
		float v = h->rate[i % TOP_HISTORY];
		int e = v > 0 ? 1 + (int)(v / top * 7.0f) : 0;

		if (s->style->utf8)
			fputs(eighths[e > 8 ? 8 : e], s->out);
		else
			fputc(plain[e > 8 ? 8 : e], s->out);
	}
	fputs(s->style->eol, s->out);
}

static void print_requests(struct screen *s, json_t *j)
{
	static const char *const why[] = {"queue_full", "budget", "ttft", "tpot", "others"};
	json_t *refused = member(j, "requests.refused");
	char b[BAR + 3], list[160] = "";
	size_t n = 0;

	bar(b, number(j, "requests.running") / number(j, "requests.max_running"), NAN);
	line(s, "running", "%s %s of %s", b, count(number(j, "requests.running")).s,
	     count(number(j, "requests.max_running")).s);
	bar(b, number(j, "requests.waiting") / number(j, "requests.max_waiting"), NAN);
	line(s, "waiting", "%s %s of %s", b, count(number(j, "requests.waiting")).s,
	     count(number(j, "requests.max_waiting")).s);
	for (size_t i = 0; i < sizeof(why) / sizeof(why[0]) && n < sizeof(list); i++)
		if (number(refused, why[i]) > 0)
			n += (size_t)snprintf(list + n, sizeof(list) - n, "%s %s %s", n ? "," : " (", why[i],
					      count(number(refused, why[i])).s);
	line(s, "requests", "finished %s, %s/s; refused %s%s%s", count(number(j, "requests.finished.total")).s,
	     count(number(j, "rates.finished")).s, count(number(refused, "total")).s, list, n ? ")" : "");
}

static void print_latency(struct screen *s, json_t *j, const char *name, const char *shown)
{
	static const char *const classes[] = {"interactive", "standard", "batch"};
	json_t *l = member(j, name);
	double judged = number(l, "kept") + number(l, "missed");
	char due[200] = "", kept[80] = "";
	size_t n = 0;

	for (int i = 0; i < 3; i++) {
		double ms = number(member(l, "deadline_ms"), classes[i]);

		if (isfinite(ms) && n < sizeof(due))
			n += (size_t)snprintf(due + n, sizeof(due) - n, "%s%s %s",
					      n ? ", " : "; deadlines: ", classes[i], duration(ms).s);
	}
	if (judged > 0)
		snprintf(kept, sizeof(kept), "; %.1f %% of %s in time", 100 * number(l, "kept") / judged,
			 count(judged).s);
	line(s, shown, "p50 %-9s p95 %-9s p99 %-9s%s%s", duration(number(l, "p50_ms")).s,
	     duration(number(l, "p95_ms")).s, duration(number(l, "p99_ms")).s, kept, due);
}

static void print_kv(struct screen *s, json_t *j)
{
	double all = number(j, "kv.blocks"), held = number(j, "kv.held") / all, cached = number(j, "kv.cached") / all;
	char b[BAR + 3];

	bar(b, held, cached);
	if (isfinite(held) && isfinite(cached))
		line(s, "kv cache", "%s %.1f %% held, %.1f %% cached, of %s blocks", b, 100 * held, 100 * cached,
		     count(all).s);
	else
		line(s, "kv cache", "-");
}

static void print_cost(struct screen *s, json_t *j)
{
	if (json_is_object(member(j, "cost")))
		line(s, "cost", "%s since the start, %s an hour at this rate", money(number(j, "cost.since_start")).s,
		     money(number(j, "rates.cost_per_hour")).s);
	if (json_is_object(member(j, "host")))
		line(s, "host", "%s an hour, %s a million tokens", money(number(j, "host.per_hour")).s,
		     money(number(j, "host.per_million")).s);
	if (json_is_object(member(j, "energy")))
		line(s, "energy", "%s W, %s J, %s J a token", count(number(j, "energy.watts")).s,
		     count(number(j, "energy.joules")).s, money(number(j, "energy.joules_per_token")).s);
}

static void print_audit(struct screen *s, json_t *j)
{
	char mode[16], error[80], root[64];

	if (!json_is_object(member(j, "audit")))
		return;
	text(j, "audit.mode", mode, sizeof(mode));
	text(j, "audit.error", error, sizeof(error));
	text(j, "audit.root", root, sizeof(root));
	line(s, "audit", "%s, %s%s%s; %s entries, %s under the signed head%s%s", mode,
	     json_is_string(member(j, "audit.error")) ? "failing: " : "writing",
	     json_is_string(member(j, "audit.error")) ? error : "", number(j, "audit.lost") > 0 ? ", EVENTS LOST" : "",
	     count(number(j, "audit.entries")).s, count(number(j, "audit.published")).s,
	     json_is_string(member(j, "audit.root")) ? " " : "", json_is_string(member(j, "audit.root")) ? root : "");
}

static struct word used(json_t *t, const char *path, bool is_money)
{
	json_t *u = member(t, path);
	struct word of = (is_money ? money : count)(number(u, "limit")), w;

	snprintf(w.s, sizeof(w.s), "%.12s%s%.12s", (is_money ? money : count)(number(u, "used")).s,
		 isfinite(number(u, "limit")) ? " / " : "", isfinite(number(u, "limit")) ? of.s : "");
	return w;
}

static void print_tenants(struct screen *s, json_t *j)
{
	json_t *list = member(j, "tenants"), *t;
	char name[68];
	size_t i;

	if (!json_array_size(list))
		return;
	line(s, NULL, "%s", "");
	line(s, NULL, "%s%-20s  %-20s  %-20s  %-18s  %-16s%s", s->style->colour ? "\033[2m" : "", "tenant",
	     "tokens today", "tokens this month", "money this month", "requests/min",
	     s->style->colour ? "\033[0m" : "");
	json_array_foreach (list, i, t) {
		if (i == MAX_TENANTS)
			break;
		text(t, "tenant", name, sizeof(name));
		line(s, NULL, "%-20s  %-20s  %-20s  %-18s  %-16s", name, used(t, "day.tokens", false).s,
		     used(t, "month.tokens", false).s, used(t, "month.money", true).s,
		     used(t, "minute.requests", false).s);
	}
}

void top_remember(struct top_history *h, json_t *status)
{
	double v = number(status, "rates.generation_tokens");

	h->rate[h->nr++ % TOP_HISTORY] = isfinite(v) && v > 0 && v < 1e12 ? (float)v : 0;
}

void top_print(json_t *j, const struct top_history *h, const struct top_style *style, FILE *out)
{
	struct screen s = {.style = style, .out = out};

	print_head(&s, j);
	line(&s, "throughput", "%s tokens/s generated, %s read, of them %s cached",
	     count(number(j, "rates.generation_tokens")).s, count(number(j, "rates.prompt_tokens")).s,
	     count(number(j, "rates.cached_tokens")).s);
	print_history(&s, h);
	print_requests(&s, j);
	print_latency(&s, j, "ttft", "ttft");
	print_latency(&s, j, "itl", "itl");
	print_kv(&s, j);
	print_cost(&s, j);
	print_audit(&s, j);
	print_tenants(&s, j);
}
