// SPDX-License-Identifier: Apache-2.0
/*
 * Chat templates: the interface of chat.h, names, and the limits that keep a
 * template from running for ever or growing without bound.
 *
 * A parsed template is immutable; a rendering has all its state on its stack
 * and in an arena of its own, so any number of threads may render at once.
 */
#include "runtime/model/chat.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/model/jinja.h"

/* A long conversation takes a few thousand steps and a few MiB. */
const struct fh_jlimits fh_jlimits_default = {
	.steps = 20000000,
	.mem_bytes = 512u << 20,
	.out_bytes = 64u << 20,
	.depth = 400,
	.range = 100000,
};

/* ---- names ---- */

const struct fh_jname *fh_jname_find(const struct fh_template *t, const char *s, size_t n)
{
	uint32_t hash = fh_jhash(s, n);
	const struct fh_jname *name = t->names[hash % FH_JNAME_BUCKETS];

	while (name && !(name->hash == hash && name->n == n && !memcmp(name->s, s, n)))
		name = name->next;
	return name;
}

const struct fh_jname *fh_jintern(struct fh_template *t, const char *s, uint32_t n)
{
	const struct fh_jname *found = fh_jname_find(t, s, n);
	struct fh_jname *name, **bucket;

	if (found)
		return found;
	name = fh_jarena_alloc(&t->arena, sizeof(*name));
	if (!name)
		return NULL;
	*name = (struct fh_jname){.s = s, .n = n, .hash = fh_jhash(s, n)};
	bucket = &t->names[name->hash % FH_JNAME_BUCKETS];
	name->next = *bucket;
	*bucket = name;
	return name;
}

/* ---- parsing ---- */

/* A copy in the arena with \n for every line end, and without the last one. */
static char *copy_text(struct fh_template *t, const char *text, size_t bytes)
{
	char *out = fh_jarena_alloc(&t->arena, bytes + 1);
	size_t n = 0;

	if (!out)
		return NULL;
	for (size_t i = 0; i < bytes; i++) {
		if (text[i] == '\r' && i + 1 < bytes && text[i + 1] == '\n')
			continue;
		out[n++] = text[i] == '\r' ? '\n' : text[i];
	}
	if (n && out[n - 1] == '\n')
		n--;
	out[n] = 0;
	return out;
}

int fh_template_parse(const char *text, size_t bytes, struct fh_template **out, struct fh_err *err)
{
	struct fh_template *t;
	struct fh_jparser p = {.err = err};
	int rc;

	if (bytes > FH_JMAX_TEXT)
		return fh_errf(err, -EFBIG, "chat template: %zu bytes, more than %u MiB", bytes, FH_JMAX_TEXT >> 20);
	if (bytes && memchr(text, 0, bytes))
		return fh_errf(err, -EINVAL, "chat template: it contains a zero byte");
	t = calloc(1, sizeof(*t));
	if (!t)
		return fh_errf(err, -ENOMEM, "chat template: out of memory");
	t->arena.max = FH_JMAX_PARSE_MEM;
	rc = fh_errf(err, -ENOMEM, "chat template: out of memory");
	t->text = copy_text(t, text, bytes);
	t->name_loop = fh_jintern(t, "loop", 4);
	t->name_caller = fh_jintern(t, "caller", 6);
	if (!t->text || !t->name_loop || !t->name_caller)
		goto err_free;
	rc = fh_jlex(t, err);
	if (rc)
		goto err_free;
	p.t = t;
	t->root = fh_jparse_template(&p);
	rc = -EINVAL;
	if (p.failed || !t->root)
		goto err_free;
	if (err)
		*err = (struct fh_err){0};
	*out = t;
	return 0;

err_free:
	fh_template_free(t);
	return rc;
}

void fh_template_free(struct fh_template *t)
{
	if (!t)
		return;
	fh_jarena_free(&t->arena);
	free(t);
}

/* ---- rendering ---- */

struct fh_jv fh_jfail(struct fh_jctx *c, const char *fmt, ...)
{
	char msg[400];
	va_list ap;

	if (c->failed)
		return FH_JV_UNDEF;
	c->failed = true;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	fh_errf(c->err, -EINVAL, "chat template, line %u: %s", c->line, msg);
	return FH_JV_UNDEF;
}

bool fh_jcharge(struct fh_jctx *c, uint64_t n)
{
	if (c->failed)
		return true;
	if (n > c->steps) {
		fh_jfail(c, "the template takes more than %llu steps", (unsigned long long)c->lim->steps);
		return true;
	}
	c->steps -= n;
	return false;
}

bool fh_jenter(struct fh_jctx *c)
{
	if (!c->depth) {
		fh_jfail(c, "the template, or its data, is nested more than %u deep", c->lim->depth);
		return false;
	}
	if (c->failed)
		return false;
	c->depth--;
	return true;
}

/* The variables that the template mentions; the others cost nothing. */
static void define_globals(struct fh_jctx *c, json_t *vars)
{
	const char *key;
	json_t *val;

	json_object_foreach (vars, key, val) {
		const struct fh_jname *name = fh_jname_find(c->t, key, strlen(key));

		if (name && !c->failed)
			fh_jscope_set(c, c->scope, name, fh_jfrom_json(c, val));
	}
}

int fh_jrender(const struct fh_template *t, const struct fh_jlimits *lim, json_t *vars, char **out, size_t *bytes,
	       struct fh_err *err)
{
	struct fh_jscope globals = {0}, top = {.up = &globals};
	struct fh_err mine = {0};
	struct fh_jbuf buf = {0};
	struct fh_jctx c = {
		.t = t,
		.lim = lim,
		.arena = {.max = lim->mem_bytes},
		.steps = lim->steps,
		.out_left = lim->out_bytes,
		.depth = lim->depth,
		.err = err ? err : &mine,
		.out = &buf,
		.scope = &globals,
	};
	int rc = 0;

	define_globals(&c, vars);
	c.scope = &top;
	fh_jexec(&c, t->root);
	if (c.failed) {
		rc = c.err->code;
		goto out_free;
	}
	*out = malloc(buf.n + 1);
	if (!*out) {
		rc = fh_errf(err, -ENOMEM, "chat template: out of memory");
		goto out_free;
	}
	if (buf.n)
		memcpy(*out, buf.p, buf.n);
	(*out)[buf.n] = 0;
	*bytes = buf.n;
out_free:
	fh_jarena_free(&c.arena);
	return rc;
}

int fh_template_render(const struct fh_template *t, json_t *vars, char **out, size_t *bytes, struct fh_err *err)
{
	return fh_jrender(t, &fh_jlimits_default, vars, out, bytes, err);
}
