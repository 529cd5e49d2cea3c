// SPDX-License-Identifier: Apache-2.0
/* Chat templates: the global functions. */
#include "runtime/model/jinja.h"

#include <string.h>
#include <time.h>

/* The template refuses: its own words, without ours around them. */
static struct fh_jv g_raise_exception(struct fh_jctx *c, const struct fh_jargs *a)
{
	struct fh_jv v = a->nr ? fh_jto_str(c, a->pos[0]) : fh_jstr("the chat template refused the messages", 38);

	if (c->failed)
		return FH_JV_UNDEF;
	c->failed = true;
	fh_errf(c->err, -EINVAL, "%.*s", (int)(v.n < 480 ? v.n : 480), v.s);
	return FH_JV_UNDEF;
}

static struct fh_jv g_strftime_now(struct fh_jctx *c, const struct fh_jargs *a)
{
	struct fh_jv fmt = fh_jarg_str(c, a, 0, "format", NULL);
	time_t now = c->lim->now ? (time_t)c->lim->now : time(NULL);
	char text[128], *out;
	struct tm tm;
	size_t n;

	if (c->failed)
		return FH_JV_UNDEF;
	if (fmt.n >= sizeof(text))
		return fh_jfail(c, "strftime_now: a format of more than %zu bytes", sizeof(text) - 1);
	memcpy(text, fmt.s, fmt.n);
	text[fmt.n] = 0;
	if (c->lim->now)
		gmtime_r(&now, &tm);
	else
		localtime_r(&now, &tm);
	out = fh_jarena_alloc(&c->arena, 1024);
	if (!out)
		return fh_jfail(c, "out of memory");
	n = strftime(out, 1024, text, &tm);
	if (!n && fmt.n)
		return fh_jfail(c, "strftime_now: the format prints nothing, or too much");
	return fh_jstr(out, n);
}

static struct fh_jv g_range(struct fh_jctx *c, const struct fh_jargs *a)
{
	struct fh_jv l = fh_jlist_new(c, false);
	int64_t from = 0, to, step = fh_jarg_int(c, a, 2, "step", 1);
	uint64_t n;

	if (a->nr < 1 || a->nr > 3)
		return fh_jfail(c, "range takes 1 to 3 arguments");
	to = fh_jarg_int(c, a, a->nr > 1 ? 1 : 0, "stop", 0);
	if (a->nr > 1)
		from = fh_jarg_int(c, a, 0, "start", 0);
	if (!step)
		return fh_jfail(c, "range: the step must not be zero");
	if (c->failed)
		return FH_JV_UNDEF;
	if (step > 0)
		n = to > from ? ((uint64_t)to - (uint64_t)from - 1) / (uint64_t)step + 1 : 0;
	else
		n = to < from ? ((uint64_t)from - (uint64_t)to - 1) / (0 - (uint64_t)step) + 1 : 0;
	if (n > c->lim->range)
		return fh_jfail(c, "range: more than %u numbers", c->lim->range);
	for (uint64_t i = 0; i < n && !fh_jcharge(c, 1); i++)
		fh_jlist_push(c, l.l, fh_jint((int64_t)((uint64_t)from + i * (uint64_t)step)));
	return l;
}

/* dict(pairs or dict, key=value): the `update` method of an empty one. */
static struct fh_jv make_dict(struct fh_jctx *c, const struct fh_jargs *a, enum fh_jtype type)
{
	struct fh_jv d = fh_jdict_new(c, FH_J_DICT);
	struct fh_jmethod update;

	if (c->failed || !fh_jmethod_find(d, "update", 6, &update))
		return FH_JV_UNDEF;
	update.fn(c, d, a);
	d.type = (uint8_t)type;
	return d;
}

static struct fh_jv g_dict(struct fh_jctx *c, const struct fh_jargs *a)
{
	return make_dict(c, a, FH_J_DICT);
}

static struct fh_jv g_namespace(struct fh_jctx *c, const struct fh_jargs *a)
{
	return make_dict(c, a, FH_J_NS);
}

static const struct fh_jfunc functions[] = {
	{"raise_exception", g_raise_exception},
	{"strftime_now", g_strftime_now},
	{"range", g_range},
	{"dict", g_dict},
	{"namespace", g_namespace},
};

const struct fh_jfunc *fh_jfunc_find(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (strlen(functions[i].name) == n && !memcmp(functions[i].name, name, n))
			return &functions[i];
	return NULL;
}
