// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: whole templates in the styles that published models use
 * (chat/NAME.jinja; chat/cases.json holds variables and the text that Python's
 * Jinja2 3.1 prints for them with trim_blocks and lstrip_blocks on),
 * expressions, errors, and the limits that an untrusted template runs into.
 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/chat.h"
#include "runtime/model/jinja.h"

/* Render @text with the JSON object @vars; the result or the error, malloc'ed. */
static char *render(const char *text, const char *vars, int *rc)
{
	json_t *v = json_loads(vars, 0, NULL);
	struct fh_template *t = NULL;
	struct fh_err err = {0};
	char *out = NULL;
	size_t bytes;

	cr_assert(v, "broken variables in the test: %s", vars);
	*rc = fh_template_parse(text, strlen(text), &t, &err);
	if (!*rc)
		*rc = fh_template_render(t, v, &out, &bytes, &err);
	fh_template_free(t);
	json_decref(v);
	return *rc ? strdup(err.msg) : out;
}

static void expect(const char *text, const char *vars, const char *want)
{
	int rc;
	char *got = render(text, vars, &rc);

	cr_expect(!rc && !strcmp(got, want), "%s\n  want: %s\n  got (%d): %s", text, want, rc, got);
	free(got);
}

static void expect_error(const char *text, const char *part)
{
	int rc;
	char *got = render(text, "{\"messages\": [], \"x\": 1}", &rc);

	cr_expect(rc < 0 && strstr(got, part), "%s\n  want an error with: %s\n  got (%d): %s", text, part, rc, got);
	free(got);
}

static char *read_file(const char *name)
{
	char path[512];
	const char *slash = strrchr(__FILE__, '/');
	FILE *f;
	char *text;
	size_t n;

	snprintf(path, sizeof(path), "%.*s/chat/%s", (int)(slash - __FILE__), __FILE__, name);
	f = fopen(path, "rb");
	cr_assert(f, "%s: %s (run from the repository's root)", path, strerror(errno));
	text = calloc(1, 1 << 20);
	n = fread(text, 1, (1 << 20) - 1, f);
	cr_assert(n > 0 && n < (1 << 20) - 1);
	fclose(f);
	return text;
}

Test(chat, whole_templates)
{
	char *text = read_file("cases.json");
	json_t *cases = json_loads(text, 0, NULL), *c;
	size_t i;

	cr_assert(json_array_size(cases) > 50);
	free(text);
	json_array_foreach (cases, i, c) {
		const char *name = json_string_value(json_object_get(c, "template"));
		const char *want = json_string_value(json_object_get(c, "want"));
		const char *error = json_string_value(json_object_get(c, "error"));
		char *vars = json_dumps(json_object_get(c, "vars"), 0), *got;
		int rc;

		text = read_file(name);
		got = render(text, vars, &rc);
		if (want)
			cr_expect(!rc && !strcmp(got, want), "case %zu, %s\n  want: %s\n  got (%d): %s", i, name, want,
				  rc, got);
		else
			cr_expect(rc == -EINVAL && strstr(got, error), "case %zu, %s\n  want error: %s\n  got (%d): %s",
				  i, name, error, rc, got);
		free(got);
		free(vars);
		free(text);
	}
	json_decref(cases);
}

Test(chat, numbers_print_as_in_python)
{
	expect("{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }}", "{}",
	       "3 -4 2 -2 3.0 1024 0.5");
	expect("{{ 1e15 }} {{ 1e16 }} {{ 1e-4 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1.5e300 * 1e10 }} {{ -0.0 }}", "{}",
	       "1000000000000000.0 1e+16 0.0001 1e-05 0.30000000000000004 inf -0.0");
	expect("{{ true + 1 }} {{ true == 1 }} {{ 1 < 2 < 3 }} {{ 2.5 | round }} {{ 3.14159 | round(2) }}", "{}",
	       "2 True True 2.0 3.14");
}

Test(chat, values_print_as_in_python)
{
	expect("{{ [1, 'a', none, true, 2.0, (1,), {'k': \"it's\"}] }}", "{}",
	       "[1, 'a', None, True, 2.0, (1,), {'k': \"it's\"}]");
	expect("{{ x | tojson }}", "{\"x\": {\"b\": [1, null], \"a\": \"é<\\n\\u0001\\\"\"}}",
	       "{\"b\": [1, null], \"a\": \"é<\\n\\u0001\\\"\"}");
	expect("{{ {'a': [1], 'b': {}} | tojson(indent=2) }}", "{}", "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}");
	expect("{{ [1, 'é'] | tojson(separators=(',', ':'), ensure_ascii=true) }}", "{}", "[1,\"\\u00e9\"]");
	expect("[{{ none }}|{{ undefined_thing }}|{{ '' }}]", "{}", "[None||]");
}

Test(chat, strings)
{
	expect("{{ s[1:3] }}{{ s[::-1] }}{{ s[-1] }} {{ s | length }} {{ s | upper }}", "{\"s\": \"aé日b\"}",
	       "é日b日éab 4 AÉ日B");
	expect("{{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ 'a b c'.rsplit(' ', 1) }}", "{}",
	       "['a', 'b,c'] ['a', 'b'] ['a b', 'c']");
	expect("{{ 'xxabcxx'.strip('x') }} {{ 'abc'.startswith(('x', 'ab')) }} {{ 'abc'.replace('', '-') }}", "{}",
	       "abc True -a-b-c-");
	expect("{{ '%s=%05d|%-4s|' % ('k', 42, 'a') }} {{ 'a' 'b' ~ 1 }}", "{}", "k=00042|a   | ab1");
}

Test(chat, sequences)
{
	const char *vars = "{\"m\": [{\"r\": \"u\", \"n\": 2}, {\"r\": \"a\", \"n\": 1}, {\"r\": \"u\"}]}";

	expect("{{ m | selectattr('r', 'equalto', 'u') | list | length }} {{ m | map(attribute='r') | join }}", vars,
	       "2 uau");
	expect("{{ m | rejectattr('n', 'defined') | list }} {{ m | map(attribute='n', default=0) | sum }}", vars,
	       "[{'r': 'u'}] 3");
	expect("{{ [3, 1, 2] | sort | last }} {{ {'b': 1, 'A': 2} | dictsort }} {{ [1, 1, 2] | unique | list }}", vars,
	       "3 [('A', 2), ('b', 1)] [1, 2]");
	expect("{{ range(10, 0, -3) | list }} {{ m[::-1] | map(attribute='r') | list }} {{ m[5] is defined }}", vars,
	       "[10, 7, 4, 1] ['u', 'a', 'u'] False");
}

Test(chat, date_is_formatted)
{
	static const char text[] = "{{ strftime_now('%d %b %Y %H:%M') }}";
	struct fh_jlimits lim = fh_jlimits_default;
	struct fh_template *t;
	json_t *vars = json_object();
	char *out;
	size_t n;

	lim.now = 1735689600;
	cr_assert_eq(fh_template_parse(text, strlen(text), &t, NULL), 0);
	cr_assert_eq(fh_jrender(t, &lim, vars, &out, &n, NULL), 0);
	cr_expect_str_eq(out, "01 Jan 2025 00:00");
	free(out);
	fh_template_free(t);
	json_decref(vars);
}

Test(chat, errors_name_the_line)
{
	expect_error("a\n\n{{ messages[0].role }}", "line 3: 'an index out of range' is undefined");
	expect_error("{{ foo.bar }}", "'foo' is undefined");
	expect_error("a\n{% if x %}\nb", "the 'if' of line 2 has no 'endif'");
	expect_error("{{ x | frobnicate }}", "no filter named 'frobnicate'");
	expect_error("{{ x is frobnicated }}", "no test named 'frobnicated'");
	expect_error("\n{{ 'abc }}", "line 2: a string is not closed");
	expect_error("{% include 'x' %}", "no statement 'include'");
	expect_error("{{ raise_exception('No, ' ~ x) }}", "No, 1");
	expect_error("{{ 1 + 'a' }}", "unsupported operand types for +: 'int' and 'str'");
	expect_error("{{ 9223372036854775807 + 1 }}", "does not fit in 64 bits");
	expect_error("{{ 1 // 0 }}", "division by zero");
	expect_error("{% set x.y = 1 %}", "'x' is no namespace");
	expect_error("{% break %}", "outside a loop");
	expect_error("{{ (((((1) }}", "unexpected '}'");
	expect_error("{{ x.strip() }}", "'int' object has no method 'strip'");
	expect_error("{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "takes 1 arguments, 2 given");
}

Test(chat, an_exception_is_the_templates_own_words)
{
	int rc;
	char *got = render("x\n{{ raise_exception('Only user and assistant!') }}", "{}", &rc);

	cr_expect_eq(rc, -EINVAL);
	cr_expect_str_eq(got, "Only user and assistant!");
	free(got);
}

/* Each would run or grow without end. */
Test(chat, hostile_templates_end)
{
	char *deep;

	expect_error("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "more than");
	expect_error("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested more than");
	expect_error("{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
		     "MiB");
	expect_error("{{ 'x' * 9999999999 }}", "MiB");
	expect_error("{{ [0] * 9999999999 }}", "MiB");
	expect_error("{{ range(999999999) }}", "more than 100000 numbers");
	expect_error("{{ '%4095s' % 'x' * 1000000 }}", "MiB");
	expect_error("{% set l = [] %}{% set _ = l.append(l) %}{{ l }}", "nested more than");
	expect_error("{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}", "nested more than");
	expect_error("{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}"
		     "{{ n.l == n.l[:] }}",
		     "");
	deep = malloc(100001);
	memset(deep, '(', 100000);
	memcpy(deep, "{{", 2);
	deep[100000] = 0;
	expect_error(deep, "nested too deeply");
	for (int i = 2; i + 4 <= 100000; i += 4)
		memcpy(deep + i, "not ", 4);
	memcpy(deep + 99996, "1 }}", 4);
	expect_error(deep, "nested more than");
	memset(deep + 2, '-', 99993);
	expect_error(deep, "nested more than");
	free(deep);
}

Test(chat, deep_data_is_refused_or_printed)
{
	char vars[2600] = "{\"d\": ";
	int rc;
	char *got;

	for (int i = 0; i < 1000; i++)
		strcat(vars, "[");
	for (int i = 0; i < 1000; i++)
		strcat(vars, "]");
	strcat(vars, "}");
	got = render("{{ d | tojson }}", vars, &rc);
	cr_expect_eq(rc, -EINVAL);
	cr_expect(strstr(got, "nested more than"), "%s", got);
	free(got);
}

Test(chat, a_failed_rendering_leaves_the_template_usable)
{
	static const char text[] = "{% if fail %}{{ raise_exception('no') }}{% endif %}{{ x }}";
	json_t *bad = json_loads("{\"fail\": true}", 0, NULL), *good = json_loads("{\"x\": 5}", 0, NULL);
	struct fh_template *t;
	struct fh_err err;
	char *out;
	size_t n;

	cr_assert_eq(fh_template_parse(text, strlen(text), &t, &err), 0);
	for (int i = 0; i < 3; i++) {
		cr_expect_eq(fh_template_render(t, bad, &out, &n, &err), -EINVAL);
		cr_assert_eq(fh_template_render(t, good, &out, &n, NULL), 0);
		cr_expect_str_eq(out, "5");
		free(out);
	}
	fh_template_free(t);
	json_decref(bad);
	json_decref(good);
}

Test(chat, a_large_message_is_quick)
{
	size_t n = 8u << 20;
	char *big = malloc(n + 1), *out;
	json_t *vars = json_object();
	struct fh_template *t;
	struct fh_err err = {0};
	size_t bytes;
	static const char text[] =
		"{% for m in messages %}{{ '<' + m.content | trim + '>' }}{{ m.content.split('q')[-1] | "
		"length }}{{ m.content | replace('b', 'c') | upper | length }}{% endfor %}";

	memset(big, 'a', n);
	big[n] = 0;
	json_object_set_new(vars, "messages", json_pack("[{s:s}]", "content", big));
	cr_assert_eq(fh_template_parse(text, strlen(text), &t, &err), 0);
	cr_assert_eq(fh_template_render(t, vars, &out, &bytes, &err), 0, "%s", err.msg);
	cr_expect_eq(bytes, n + 2 + 7 + 7);
	free(out);
	fh_template_free(t);
	json_decref(vars);
	free(big);
}
