// SPDX-License-Identifier: Apache-2.0
/* Chat templates: the tests behind `is`. */
#include "runtime/model/jinja.h"

#include <string.h>

#define TEST_TYPE(fn, cond)                                                                                            \
	static bool fn(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)                                    \
	{                                                                                                              \
		(void)c;                                                                                               \
		(void)a;                                                                                               \
		return cond;                                                                                           \
	}

TEST_TYPE(t_defined, v.type != FH_J_UNDEF)
TEST_TYPE(t_undefined, v.type == FH_J_UNDEF)
TEST_TYPE(t_none, v.type == FH_J_NONE)
TEST_TYPE(t_string, v.type == FH_J_STR)
TEST_TYPE(t_number, fh_jis_num(v))
TEST_TYPE(t_integer, v.type == FH_J_INT)
TEST_TYPE(t_float, v.type == FH_J_FLOAT)
TEST_TYPE(t_boolean, v.type == FH_J_BOOL)
TEST_TYPE(t_true, v.type == FH_J_BOOL && v.b)
TEST_TYPE(t_false, v.type == FH_J_BOOL && !v.b)
TEST_TYPE(t_mapping, v.type == FH_J_DICT)
TEST_TYPE(t_iterable, v.type == FH_J_LIST || v.type == FH_J_DICT || v.type == FH_J_STR || v.type == FH_J_UNDEF ||
			      v.type == FH_J_LOOP)
TEST_TYPE(t_callable, v.type == FH_J_MACRO || v.type == FH_J_FUNC || v.type == FH_J_METHOD || v.type == FH_J_UNDEF)

static bool t_sequence(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)
{
	(void)c;
	(void)a;
	return v.type == FH_J_LIST || v.type == FH_J_DICT || v.type == FH_J_STR || v.type == FH_J_UNDEF;
}

/* All letters of a string, of which there is one at least, are of a case. */
static bool all_case(struct fh_jctx *c, struct fh_jv v, bool upper)
{
	struct fh_jv s = fh_jto_str(c, v);
	const char *p = s.s, *end = p + s.n;
	bool any = false;
	uint32_t cp;

	while (p < end && !fh_jcharge(c, 1)) {
		p += fh_jutf8(p, end, &cp);
		if (!fh_jis_alpha(cp))
			continue;
		any = true;
		if ((upper ? fh_jto_upper(cp) : fh_jto_lower(cp)) != cp)
			return false;
	}
	return any;
}

static bool t_upper(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)
{
	(void)a;
	return all_case(c, v, true);
}

static bool t_lower(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)
{
	(void)a;
	return all_case(c, v, false);
}

static bool compare(struct fh_jctx *c, enum fh_jtok_type op, struct fh_jv v, const struct fh_jargs *a)
{
	if (a->nr != 1) {
		fh_jfail(c, "the test needs one argument");
		return false;
	}
	return fh_jcompare(c, op, v, a->pos[0]);
}

#define TEST_COMPARE(fn, op)                                                                                           \
	static bool fn(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)                                    \
	{                                                                                                              \
		return compare(c, op, v, a);                                                                           \
	}

TEST_COMPARE(t_eq, FH_JT_EQ)
TEST_COMPARE(t_ne, FH_JT_NE)
TEST_COMPARE(t_lt, FH_JT_LT)
TEST_COMPARE(t_le, FH_JT_LE)
TEST_COMPARE(t_gt, FH_JT_GT)
TEST_COMPARE(t_ge, FH_JT_GE)
TEST_COMPARE(t_in, FH_JT_IN)

static bool t_sameas(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)
{
	if (a->nr != 1 || a->pos[0].type != v.type)
		return false;
	return v.type == FH_J_LIST || v.type == FH_J_DICT ? v.s == a->pos[0].s : fh_jequal(c, v, a->pos[0]);
}

static bool divisible(struct fh_jctx *c, struct fh_jv v, struct fh_jv by, int64_t rest)
{
	struct fh_jv r = fh_jbinary(c, FH_JT_MOD, v, by);

	return !c->failed && fh_jequal(c, r, fh_jint(rest));
}

static bool t_divisibleby(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)
{
	if (a->nr != 1) {
		fh_jfail(c, "divisibleby needs one argument");
		return false;
	}
	return divisible(c, v, a->pos[0], 0);
}

static bool t_odd(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)
{
	(void)a;
	return divisible(c, v, fh_jint(2), 1);
}

static bool t_even(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)
{
	(void)a;
	return divisible(c, v, fh_jint(2), 0);
}

/* Not Jinja's own, but some templates count on them. */
static bool affix(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a, bool end)
{
	struct fh_jv x = fh_jarg_str(c, a, 0, "text", NULL);

	if (c->failed || v.type != FH_J_STR || x.n > v.n)
		return false;
	return !x.n || !memcmp(v.s + (end ? v.n - x.n : 0), x.s, x.n);
}

static bool t_startingwith(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)
{
	return affix(c, v, a, false);
}

static bool t_endingwith(struct fh_jctx *c, struct fh_jv v, const struct fh_jargs *a)
{
	return affix(c, v, a, true);
}

static const struct fh_jtest tests[] = {
	{"defined", t_defined},
	{"undefined", t_undefined},
	{"none", t_none},
	{"string", t_string},
	{"number", t_number},
	{"integer", t_integer},
	{"float", t_float},
	{"boolean", t_boolean},
	{"true", t_true},
	{"false", t_false},
	{"mapping", t_mapping},
	{"iterable", t_iterable},
	{"sequence", t_sequence},
	{"callable", t_callable},
	{"upper", t_upper},
	{"lower", t_lower},
	{"equalto", t_eq},
	{"eq", t_eq},
	{"==", t_eq},
	{"ne", t_ne},
	{"!=", t_ne},
	{"lt", t_lt},
	{"lessthan", t_lt},
	{"<", t_lt},
	{"le", t_le},
	{"<=", t_le},
	{"gt", t_gt},
	{"greaterthan", t_gt},
	{">", t_gt},
	{"ge", t_ge},
	{">=", t_ge},
	{"in", t_in},
	{"sameas", t_sameas},
	{"divisibleby", t_divisibleby},
	{"odd", t_odd},
	{"even", t_even},
	{"startingwith", t_startingwith},
	{"endingwith", t_endingwith},
};

const struct fh_jtest *fh_jtest_find(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		if (strlen(tests[i].name) == n && !memcmp(tests[i].name, name, n))
			return &tests[i];
	return NULL;
}
