// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: methods of strings, lists, dicts and the loop variable.
 */
#include "runtime/model/jinja.h"

#include <string.h>

#define METHOD(fn) static struct fh_jv fn(struct fh_jctx *c, struct fh_jv self, const struct fh_jargs *a)

/* ---- strings ---- */

static struct fh_jv strip(struct fh_jctx *c, struct fh_jv self, const struct fh_jargs *a, bool left, bool right)
{
	struct fh_jv chars = FH_JV_NONE;

	if (fh_jarg(a, 0, "chars", &chars) && chars.type != FH_J_STR && chars.type != FH_J_NONE)
		return fh_jfail(c, "strip arg must be None or str");
	return fh_jstrip(c, self, chars, left, right);
}

METHOD(m_strip)
{
	return strip(c, self, a, true, true);
}

METHOD(m_lstrip)
{
	return strip(c, self, a, true, false);
}

METHOD(m_rstrip)
{
	return strip(c, self, a, false, true);
}

METHOD(m_upper)
{
	(void)a;
	return fh_jrecase(c, self, FH_JCASE_UPPER);
}

METHOD(m_lower)
{
	(void)a;
	return fh_jrecase(c, self, FH_JCASE_LOWER);
}

METHOD(m_title)
{
	(void)a;
	return fh_jrecase(c, self, FH_JCASE_TITLE);
}

METHOD(m_capitalize)
{
	(void)a;
	return fh_jrecase(c, self, FH_JCASE_CAPITALIZE);
}

METHOD(m_replace)
{
	struct fh_jv old = fh_jarg_str(c, a, 0, "old", NULL), new_s = fh_jarg_str(c, a, 1, "new", NULL);
	int64_t count = fh_jarg_int(c, a, 2, "count", -1);

	return c->failed ? FH_JV_UNDEF : fh_jreplace(c, self, old, new_s, count);
}

static bool has_affix(struct fh_jv s, struct fh_jv x, bool end)
{
	return x.n <= s.n && (!x.n || !memcmp(s.s + (end ? s.n - x.n : 0), x.s, x.n));
}

/* One affix, or a tuple of which any may match. */
static struct fh_jv affix(struct fh_jctx *c, struct fh_jv self, const struct fh_jargs *a, bool end)
{
	struct fh_jv x;
	bool yes = false;

	if (!fh_jarg(a, 0, end ? "suffix" : "prefix", &x))
		return fh_jfail(c, "%s needs an argument", end ? "endswith" : "startswith");
	if (x.type == FH_J_STR)
		return fh_jbool(has_affix(self, x, end));
	if (x.type != FH_J_LIST || !x.l->tuple)
		return fh_jfail(c, "%s needs a string or a tuple of strings, not %s", end ? "endswith" : "startswith",
				fh_jtype_name(x));
	for (uint32_t i = 0; i < x.l->n && !yes && !fh_jcharge(c, 1); i++)
		yes = x.l->v[i].type == FH_J_STR && has_affix(self, x.l->v[i], end);
	return fh_jbool(yes);
}

METHOD(m_startswith)
{
	return affix(c, self, a, false);
}

METHOD(m_endswith)
{
	return affix(c, self, a, true);
}

static struct fh_jv without_affix(struct fh_jctx *c, struct fh_jv self, const struct fh_jargs *a, bool end)
{
	struct fh_jv x = fh_jarg_str(c, a, 0, end ? "suffix" : "prefix", NULL);

	if (c->failed || !has_affix(self, x, end))
		return self;
	return fh_jstr(self.s + (end ? 0 : x.n), self.n - x.n);
}

METHOD(m_removeprefix)
{
	return without_affix(c, self, a, false);
}

METHOD(m_removesuffix)
{
	return without_affix(c, self, a, true);
}

/* The last occurrence of @needle that ends at or before @end. */
static const char *rfind(struct fh_jctx *c, struct fh_jv s, size_t end, struct fh_jv needle)
{
	if (needle.n > end)
		return NULL;
	for (const char *p = s.s + end - needle.n; !fh_jcharge(c, 1 + needle.n / 64); p--) {
		if (!needle.n || !memcmp(p, needle.s, needle.n))
			return p;
		if (p == s.s)
			break;
	}
	return NULL;
}

static struct fh_jv find(struct fh_jctx *c, struct fh_jv self, const struct fh_jargs *a, bool last)
{
	struct fh_jv x = fh_jarg_str(c, a, 0, "sub", NULL);
	int64_t from = fh_jarg_int(c, a, 1, "start", 0);
	const char *hit;

	if (c->failed || fh_jcharge(c, self.n / 32))
		return FH_JV_UNDEF;
	if (from < 0)
		from += (int64_t)fh_jutf8_len(self);
	if (from > (int64_t)fh_jutf8_len(self))
		return fh_jint(-1);
	from = from > 0 ? (int64_t)fh_jutf8_at(self, (size_t)from) : 0;
	hit = last ? rfind(c, self, self.n, x) : fh_jfind(self, (size_t)from, x);
	if (!hit || hit < self.s + from)
		return fh_jint(-1);
	return fh_jint((int64_t)fh_jutf8_len(fh_jstr(self.s, (size_t)(hit - self.s))));
}

METHOD(m_find)
{
	return find(c, self, a, false);
}

METHOD(m_rfind)
{
	return find(c, self, a, true);
}

METHOD(m_index)
{
	struct fh_jv i = find(c, self, a, false);

	return i.type == FH_J_INT && i.i < 0 ? fh_jfail(c, "substring not found") : i;
}

METHOD(m_count)
{
	struct fh_jv x = fh_jarg_str(c, a, 0, "sub", NULL);
	size_t at = 0;
	int64_t n = 0;

	if (c->failed)
		return FH_JV_UNDEF;
	if (!x.n)
		return fh_jint((int64_t)fh_jutf8_len(self) + 1);
	for (const char *hit; !fh_jcharge(c, 1) && (hit = fh_jfind(self, at, x)); n++)
		at = (size_t)(hit - self.s) + x.n;
	return fh_jint(n);
}

METHOD(m_join)
{
	struct fh_jv items;
	struct fh_jbuf b = {0};
	struct fh_jlist *l;

	if (!fh_jarg(a, 0, "iterable", &items))
		return fh_jfail(c, "join needs an argument");
	l = fh_jiter(c, items);
	for (uint32_t i = 0; l && i < l->n && !fh_jcharge(c, 1); i++) {
		if (l->v[i].type != FH_J_STR)
			return fh_jfail(c, "sequence item %u: expected str instance, %s found", i,
					fh_jtype_name(l->v[i]));
		if (i)
			fh_jbuf_put(c, &b, self.s, self.n);
		fh_jbuf_put(c, &b, l->v[i].s, l->v[i].n);
	}
	c->out_left += b.n;
	return fh_jbuf_str(&b);
}

static void push_range(struct fh_jctx *c, struct fh_jv list, const char *from, const char *to)
{
	if (!c->failed)
		fh_jlist_push(c, list.l, fh_jstr(from, (size_t)(to - from)));
}

/* Words between runs of white space. */
static void split_space(struct fh_jctx *c, struct fh_jv self, int64_t max, struct fh_jv list)
{
	const char *p = self.s, *end = p + self.n;
	uint32_t cp;

	while (!fh_jcharge(c, 1)) {
		const char *word;
		size_t n;

		while (p < end && (n = fh_jutf8(p, end, &cp), fh_jis_space(cp)))
			p += n;
		if (p == end)
			return;
		word = p;
		if (!max--) {
			push_range(c, list, word, end);
			return;
		}
		while (p < end && (n = fh_jutf8(p, end, &cp), !fh_jis_space(cp)))
			p += n;
		push_range(c, list, word, p);
	}
}

METHOD(m_split)
{
	struct fh_jv sep = FH_JV_NONE, list = fh_jlist_new(c, false);
	int64_t max = fh_jarg_int(c, a, 1, "maxsplit", -1);
	size_t at = 0;

	fh_jarg(a, 0, "sep", &sep);
	if (c->failed || fh_jcharge(c, self.n / 32))
		return FH_JV_UNDEF;
	if (sep.type == FH_J_NONE) {
		split_space(c, self, max, list);
		return list;
	}
	if (sep.type != FH_J_STR || !sep.n)
		return fh_jfail(c, "split needs a separator that is not empty");
	while (max-- && !fh_jcharge(c, 1)) {
		const char *hit = fh_jfind(self, at, sep);

		if (!hit)
			break;
		push_range(c, list, self.s + at, hit);
		at = (size_t)(hit - self.s) + sep.n;
	}
	push_range(c, list, self.s + at, self.s + self.n);
	return list;
}

/* From the right, so @list comes out backwards; white space as the separator. */
static void rsplit_space(struct fh_jctx *c, struct fh_jv self, int64_t max, struct fh_jv list)
{
	while (!fh_jcharge(c, 1)) {
		struct fh_jv s = fh_jstrip(c, self, FH_JV_NONE, false, true);
		const char *p = s.s + s.n;

		if (!s.n)
			return;
		if (!max--) {
			push_range(c, list, s.s, s.s + s.n);
			return;
		}
		while (p > s.s &&
		       fh_jstrip(c, fh_jstr(s.s, (size_t)(p - s.s)), FH_JV_NONE, false, true).n == (size_t)(p - s.s) &&
		       !fh_jcharge(c, 1))
			p--;
		push_range(c, list, p, s.s + s.n);
		self = fh_jstr(s.s, (size_t)(p - s.s));
	}
}

METHOD(m_rsplit)
{
	struct fh_jv sep = FH_JV_NONE, list = fh_jlist_new(c, false);
	int64_t max = fh_jarg_int(c, a, 1, "maxsplit", -1);
	size_t end = self.n;

	fh_jarg(a, 0, "sep", &sep);
	if (c->failed)
		return FH_JV_UNDEF;
	if (sep.type == FH_J_NONE) {
		rsplit_space(c, self, max, list);
	} else if (sep.type != FH_J_STR || !sep.n) {
		return fh_jfail(c, "rsplit needs a separator that is not empty");
	} else {
		while (max-- && !fh_jcharge(c, 1)) {
			const char *hit = rfind(c, self, end, sep);

			if (!hit)
				break;
			push_range(c, list, hit + sep.n, self.s + end);
			end = (size_t)(hit - self.s);
		}
		push_range(c, list, self.s, self.s + end);
	}
	for (uint32_t i = 0; !c->failed && i < list.l->n / 2; i++) {
		struct fh_jv t = list.l->v[i];

		list.l->v[i] = list.l->v[list.l->n - 1 - i];
		list.l->v[list.l->n - 1 - i] = t;
	}
	return list;
}

METHOD(m_splitlines)
{
	struct fh_jv list = fh_jlist_new(c, false);
	bool keep = fh_jarg_bool(a, 0, "keepends", false);
	const char *p = self.s, *end = p + self.n, *line = p;
	uint32_t cp;

	while (p < end && !fh_jcharge(c, 1)) {
		const char *at = p;

		p += fh_jutf8(p, end, &cp);
		if (!((cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 ||
		      cp == 0x2029))
			continue;
		if (cp == '\r' && p < end && *p == '\n')
			p++;
		push_range(c, list, line, keep ? p : at);
		line = p;
	}
	if (line < end)
		push_range(c, list, line, end);
	return c->failed ? FH_JV_UNDEF : list;
}

/* Is every character of the string, which is not empty, of a kind? */
static struct fh_jv all_are(struct fh_jctx *c, struct fh_jv self, char kind)
{
	const char *p = self.s, *end = p + self.n;
	uint32_t cp;
	bool yes = self.n;

	while (yes && p < end && !fh_jcharge(c, 1)) {
		bool is_digit, alpha;

		p += fh_jutf8(p, end, &cp);
		is_digit = cp >= '0' && cp <= '9';
		alpha = fh_jis_alpha(cp);
		yes = kind == 'd' ? is_digit : kind == 's' ? fh_jis_space(cp) : kind == 'a' ? alpha : alpha || is_digit;
	}
	return fh_jbool(yes);
}

METHOD(m_isdigit)
{
	(void)a;
	return all_are(c, self, 'd');
}

METHOD(m_isspace)
{
	(void)a;
	return all_are(c, self, 's');
}

METHOD(m_isalpha)
{
	(void)a;
	return all_are(c, self, 'a');
}

METHOD(m_isalnum)
{
	(void)a;
	return all_are(c, self, 'n');
}

/* '{} {0} {name}'.format(...): plain fields only. */
METHOD(m_format)
{
	const char *p = self.s, *end = p + self.n;
	struct fh_jbuf b = {0};
	uint32_t next = 0;

	for (; p < end && !fh_jcharge(c, 1); p++) {
		const char *close;
		char name[64];
		struct fh_jv v;
		uint32_t i = 0;
		size_t n;

		if (p + 1 < end && (*p == '{' || *p == '}') && p[1] == *p) {
			fh_jbuf_put(c, &b, p++, 1);
			continue;
		}
		if (*p != '{') {
			fh_jbuf_put(c, &b, p, 1);
			continue;
		}
		close = memchr(p, '}', (size_t)(end - p));
		n = close ? (size_t)(close - p) - 1 : sizeof(name);
		if (n >= sizeof(name) || memchr(p + 1, ':', n) || memchr(p + 1, '!', n) || memchr(p + 1, '.', n) ||
		    memchr(p + 1, '[', n))
			return fh_jfail(c, "format: only {}, {0} and {name} are supported");
		memcpy(name, p + 1, n);
		name[n] = 0;
		if (!n)
			i = next++;
		else if (*name >= '0' && *name <= '9')
			for (char *q = name; *q && i < 1000; q++)
				i = i * 10 + (uint32_t)(*q - '0');
		else
			i = a->nr; /* by name only */
		if (!fh_jarg(a, i, name, &v))
			return fh_jfail(c, "format: no argument for '{%s}'", name);
		fh_jprint(c, &b, v);
		p = close;
	}
	c->out_left += b.n;
	return fh_jbuf_str(&b);
}

/* ---- lists ---- */

METHOD(m_append)
{
	struct fh_jv v;

	if (!fh_jarg(a, 0, "object", &v))
		return fh_jfail(c, "append needs an argument");
	fh_jlist_push(c, self.l, v);
	return FH_JV_NONE;
}

METHOD(m_extend)
{
	struct fh_jv v = FH_JV_UNDEF;
	struct fh_jlist *l;

	fh_jarg(a, 0, "iterable", &v);
	l = fh_jiter(c, v);
	for (uint32_t i = 0, n = l ? l->n : 0; i < n && !fh_jcharge(c, 1); i++)
		fh_jlist_push(c, self.l, l->v[i]);
	return FH_JV_NONE;
}

METHOD(m_pop)
{
	int64_t i = fh_jarg_int(c, a, 0, "index", -1);
	struct fh_jlist *l = self.l;
	struct fh_jv v;

	i += i < 0 ? (int64_t)l->n : 0;
	if (i < 0 || i >= (int64_t)l->n)
		return fh_jfail(c, "pop index out of range");
	v = l->v[i];
	memmove(l->v + i, l->v + i + 1, (l->n - (size_t)i - 1) * sizeof(*l->v));
	l->n--;
	return fh_jcharge(c, l->n / 64) ? FH_JV_UNDEF : v;
}

METHOD(m_list_index)
{
	struct fh_jv x = FH_JV_UNDEF;

	fh_jarg(a, 0, "value", &x);
	for (uint32_t i = 0; i < self.l->n && !fh_jcharge(c, 1); i++)
		if (fh_jequal(c, self.l->v[i], x))
			return fh_jint(i);
	return fh_jfail(c, "the value is not in the list");
}

METHOD(m_list_count)
{
	struct fh_jv x = FH_JV_UNDEF;
	int64_t n = 0;

	fh_jarg(a, 0, "value", &x);
	for (uint32_t i = 0; i < self.l->n && !fh_jcharge(c, 1); i++)
		n += fh_jequal(c, self.l->v[i], x);
	return fh_jint(n);
}

/* ---- dicts ---- */

METHOD(m_get)
{
	struct fh_jv key, dflt = FH_JV_NONE;
	const struct fh_jv *v;

	if (!fh_jarg(a, 0, "key", &key))
		return fh_jfail(c, "get needs an argument");
	fh_jarg(a, 1, "default", &dflt);
	v = fh_jdict_get(c, self.d, key);
	return v ? *v : dflt;
}

/* 'k': keys, 'v': values, 'i': pairs */
static struct fh_jv dict_list(struct fh_jctx *c, struct fh_jv self, char what)
{
	struct fh_jv l = fh_jlist_new(c, false);

	for (uint32_t i = 0; i < self.d->n && !fh_jcharge(c, 1); i++) {
		const struct fh_jpair *e = &self.d->e[i];

		fh_jlist_push(c, l.l, what == 'k' ? e->key : what == 'v' ? e->val : fh_jpair(c, e->key, e->val));
	}
	return c->failed ? FH_JV_UNDEF : l;
}

METHOD(m_keys)
{
	(void)a;
	return dict_list(c, self, 'k');
}

METHOD(m_values)
{
	(void)a;
	return dict_list(c, self, 'v');
}

METHOD(m_items)
{
	(void)a;
	return dict_list(c, self, 'i');
}

static void dict_update(struct fh_jctx *c, struct fh_jdict *d, const struct fh_jargs *a)
{
	if (a->nr && a->pos[0].type == FH_J_DICT) {
		for (uint32_t i = 0, n = a->pos[0].d->n; i < n && !fh_jcharge(c, 1); i++)
			fh_jdict_set(c, d, a->pos[0].d->e[i].key, a->pos[0].d->e[i].val);
	} else if (a->nr) {
		struct fh_jlist *l = fh_jiter(c, a->pos[0]);

		for (uint32_t i = 0; l && i < l->n && !fh_jcharge(c, 1); i++) {
			if (l->v[i].type != FH_J_LIST || l->v[i].l->n != 2) {
				fh_jfail(c, "a dict is made of a dict or of pairs");
				return;
			}
			fh_jdict_set(c, d, l->v[i].l->v[0], l->v[i].l->v[1]);
		}
	}
	for (uint32_t i = 0; i < a->nr_kw && !c->failed; i++)
		fh_jdict_set(c, d, fh_jstr(a->kw[i].name->s, a->kw[i].name->n), a->kw[i].val);
}

METHOD(m_update)
{
	dict_update(c, self.d, a);
	return FH_JV_NONE;
}

METHOD(m_copy)
{
	const struct fh_jargs args = {.pos = &self, .nr = 1};
	struct fh_jv d = fh_jdict_new(c, FH_J_DICT);

	(void)a;
	if (!c->failed)
		dict_update(c, d.d, &args);
	return d;
}

/* ---- loop ---- */

METHOD(m_cycle)
{
	return a->nr ? a->pos[self.loop->index0 % a->nr] : fh_jfail(c, "cycle needs an argument");
}

METHOD(m_changed)
{
	struct fh_jv v = fh_jlist_new(c, true);
	struct fh_jloop *l = self.loop;
	bool changed;

	for (uint32_t i = 0; i < a->nr && !c->failed; i++)
		fh_jlist_push(c, v.l, a->pos[i]);
	if (c->failed)
		return v;
	changed = !l->has_changed || !fh_jequal(c, l->last_changed, v);
	l->has_changed = true;
	l->last_changed = v;
	return fh_jbool(changed);
}

struct method {
	uint8_t type;
	const char *name;
	struct fh_jv (*fn)(struct fh_jctx *c, struct fh_jv self, const struct fh_jargs *a);
};

static const struct method methods[] = {
	{FH_J_STR, "strip", m_strip},
	{FH_J_STR, "lstrip", m_lstrip},
	{FH_J_STR, "rstrip", m_rstrip},
	{FH_J_STR, "upper", m_upper},
	{FH_J_STR, "lower", m_lower},
	{FH_J_STR, "title", m_title},
	{FH_J_STR, "capitalize", m_capitalize},
	{FH_J_STR, "replace", m_replace},
	{FH_J_STR, "startswith", m_startswith},
	{FH_J_STR, "endswith", m_endswith},
	{FH_J_STR, "removeprefix", m_removeprefix},
	{FH_J_STR, "removesuffix", m_removesuffix},
	{FH_J_STR, "find", m_find},
	{FH_J_STR, "rfind", m_rfind},
	{FH_J_STR, "index", m_index},
	{FH_J_STR, "count", m_count},
	{FH_J_STR, "join", m_join},
	{FH_J_STR, "split", m_split},
	{FH_J_STR, "rsplit", m_rsplit},
	{FH_J_STR, "splitlines", m_splitlines},
	{FH_J_STR, "isdigit", m_isdigit},
	{FH_J_STR, "isspace", m_isspace},
	{FH_J_STR, "isalpha", m_isalpha},
	{FH_J_STR, "isalnum", m_isalnum},
	{FH_J_STR, "format", m_format},
	{FH_J_LIST, "append", m_append},
	{FH_J_LIST, "extend", m_extend},
	{FH_J_LIST, "pop", m_pop},
	{FH_J_LIST, "index", m_list_index},
	{FH_J_LIST, "count", m_list_count},
	{FH_J_DICT, "get", m_get},
	{FH_J_DICT, "keys", m_keys},
	{FH_J_DICT, "values", m_values},
	{FH_J_DICT, "items", m_items},
	{FH_J_DICT, "update", m_update},
	{FH_J_DICT, "copy", m_copy},
	{FH_J_LOOP, "cycle", m_cycle},
	{FH_J_LOOP, "changed", m_changed},
};

bool fh_jmethod_find(struct fh_jv self, const char *name, size_t n, struct fh_jmethod *out)
{
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
		const struct method *m = &methods[i];

		if (m->type != self.type || strlen(m->name) != n || memcmp(m->name, name, n))
			continue;
		if (self.type == FH_J_LIST && self.l->tuple &&
		    (m->fn == m_append || m->fn == m_extend || m->fn == m_pop))
			return false;
		*out = (struct fh_jmethod){.self = self, .name = m->name, .fn = m->fn};
		return true;
	}
	return false;
}
