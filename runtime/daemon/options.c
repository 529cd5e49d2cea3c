// SPDX-License-Identifier: Apache-2.0
/*
 * Options as data.  A value that does not fit is refused with its option, what
 * was given and what would do; nothing is clipped.
 */
#include "runtime/daemon/options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Where a value came from, for messages: an option, or a line of a file. */
struct source {
	const char *file; /* NULL: the command line */
	unsigned int line;
	struct fh_err *err;
};

static int refuse(const struct source *src, const char *name, const char *text, const char *want)
{
	if (src->file)
		return fh_errf(src->err, -EINVAL, "%s:%u: %s = %s: %s", src->file, src->line, name, text, want);
	return fh_errf(src->err, -EINVAL, "--%s %s: %s", name, text, want);
}

static int parse_u64(const char *text, uint64_t *out, bool with_unit)
{
	static const char units[] = "KMGT";
	char *end;
	const char *u;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	*out = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	if (with_unit && *end && (u = strchr(units, toupper((unsigned char)*end)))) {
		unsigned int shift = 10 * (unsigned int)(u - units + 1);

		if (*out > UINT64_MAX >> shift)
			return -EINVAL;
		*out <<= shift;
		end++;
		if (!strcasecmp(end, "iB") || !strcasecmp(end, "B"))
			return 0;
	}
	return *end ? -EINVAL : 0;
}

static int set_number(const struct fhd_option *o, void *at, const char *text, const struct source *src)
{
	char want[96];
	uint64_t v;

	snprintf(want, sizeof(want), "a whole number from %.0f to %.0f is wanted", o->min, o->max);
	if (o->kind == FHD_OPT_SIZE)
		snprintf(want, sizeof(want), "a number of bytes is wanted, such as 512M or 4G");
	if (parse_u64(text, &v, o->kind == FHD_OPT_SIZE) || (double)v < o->min || (o->max > 0 && (double)v > o->max))
		return refuse(src, o->name, text, want);
	if (o->kind == FHD_OPT_U32)
		*(uint32_t *)at = (uint32_t)v;
	else
		*(uint64_t *)at = v;
	return 0;
}

static int set_float(const struct fhd_option *o, float *at, const char *text, const struct source *src)
{
	char want[96], *end;
	double v;

	errno = 0;
	v = strtod(text, &end);
	if (errno || end == text || *end || !(v >= o->min && v <= o->max)) {
		snprintf(want, sizeof(want), "a number from %g to %g is wanted", o->min, o->max);
		return refuse(src, o->name, text, want);
	}
	*at = (float)v;
	return 0;
}

static int set_string(char **at, const char *text, const struct source *src)
{
	char *copy = strdup(text);

	if (!copy)
		return fh_errf(src->err, -ENOMEM, "out of memory");
	free(*at);
	*at = copy;
	return 0;
}

static int set_choice(const struct fhd_option *o, char **at, const char *text, const struct source *src)
{
	size_t n = strlen(text);
	char want[128];

	for (const char *p = o->arg; n; p = strchr(p, '|') + 1) {
		if (!strncmp(p, text, n) && (p[n] == '|' || !p[n]))
			return set_string(at, text, src);
		if (!strchr(p, '|'))
			break;
	}
	snprintf(want, sizeof(want), "one of %s is wanted", o->arg);
	return refuse(src, o->name, text, want);
}

static int add_string(const struct fhd_option *o, struct fhd_strings *at, const char *text, const struct source *src)
{
	if (!src->file && at->from_file) {
		while (at->n)
			free(at->v[--at->n]);
		at->from_file = false;
	}
	if (at->n == FHD_MAX_STRINGS)
		return refuse(src, o->name, text, "there are too many of them");
	at->v[at->n] = NULL;
	if (set_string(&at->v[at->n], text, src))
		return -ENOMEM;
	at->n++;
	at->from_file = src->file;
	return 0;
}

static int set_bool(const struct fhd_option *o, bool *at, const char *text, const struct source *src)
{
	static const char *const words[] = {"yes", "no", "true", "false", "on", "off", "1", "0"};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (!strcasecmp(text, words[i])) {
			*at = (i % 2 == 0) == (o->kind == FHD_OPT_ON);
			return 0;
		}
	}
	return refuse(src, o->name, text, "yes or no is wanted");
}

static int set_value(const struct fhd_option_set *set, const struct fhd_option *o, const char *text,
		     const struct source *src)
{
	void *at = (char *)set->base + o->offset;

	switch (o->kind) {
	case FHD_OPT_ON:
	case FHD_OPT_OFF: return set_bool(o, at, text, src);
	case FHD_OPT_FLOAT: return set_float(o, at, text, src);
	case FHD_OPT_STR: return set_string(at, text, src);
	case FHD_OPT_CHOICE: return set_choice(o, at, text, src);
	case FHD_OPT_LIST: return add_string(o, at, text, src);
	default: return set_number(o, at, text, src);
	}
}

static bool takes_value(const struct fhd_option *o)
{
	return o->kind != FHD_OPT_ON && o->kind != FHD_OPT_OFF;
}

/* By name (of @n bytes), or by @letter. */
static const struct fhd_option *find(const struct fhd_option_set *sets, uint32_t nr_sets, const char *name, size_t n,
				     char letter, const struct fhd_option_set **set)
{
	for (uint32_t s = 0; s < nr_sets; s++) {
		for (uint32_t i = 0; i < sets[s].nr; i++) {
			const struct fhd_option *o = &sets[s].opts[i];

			if (o->kind == FHD_OPT_GROUP)
				continue;
			if (name ? strlen(o->name) == n && !memcmp(o->name, name, n)
				 : o->letter && o->letter == letter) {
				*set = &sets[s];
				return o;
			}
		}
	}
	return NULL;
}

int fhd_options_argv(int argc, char **argv, const struct fhd_option_set *sets, uint32_t nr_sets, struct fh_err *err)
{
	const struct source src = {.err = err};

	for (int i = 1; i < argc; i++) {
		const struct fhd_option_set *set = NULL;
		const struct fhd_option *o = NULL;
		const char *a = argv[i], *value = NULL;
		int rc;

		if (a[0] == '-' && a[1] == '-' && a[2]) {
			value = strchr(a, '=');
			o = find(sets, nr_sets, a + 2, value ? (size_t)(value - a - 2) : strlen(a + 2), 0, &set);
			value += value != NULL;
		} else if (a[0] == '-' && a[1]) {
			o = find(sets, nr_sets, NULL, 0, a[1], &set);
			value = a[2] ? a + 2 : NULL;
		} else {
			return fh_errf(err, -EINVAL, "'%s' is no option", a);
		}
		if (!o)
			return fh_errf(err, -EINVAL, "there is no option '%s'", a);
		if (!takes_value(o) && value)
			return fh_errf(err, -EINVAL, "--%s takes no value", o->name);
		if (takes_value(o) && !value) {
			if (i + 1 == argc)
				return fh_errf(err, -EINVAL, "--%s wants a value: %s", o->name, o->arg);
			value = argv[++i];
		}
		rc = set_value(set, o, value ? value : "yes", &src);
		if (rc)
			return rc;
	}
	return 0;
}

const char *fhd_options_peek(int argc, char **argv, const char *name)
{
	size_t n = strlen(name);

	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "--", 2) || strncmp(argv[i] + 2, name, n))
			continue;
		if (argv[i][2 + n] == '=')
			return argv[i] + 3 + n;
		if (!argv[i][2 + n] && i + 1 < argc)
			return argv[i + 1];
	}
	return NULL;
}

static char *trim(char *s)
{
	char *end = s + strlen(s);

	while (end > s && isspace((unsigned char)end[-1]))
		*--end = 0;
	while (isspace((unsigned char)*s))
		s++;
	return s;
}

/* A comment runs from the line's beginning, or from white space, to its end. */
static void cut_comment(char *line)
{
	for (char *p = line; *p; p++) {
		if ((*p == '#' || *p == ';') && (p == line || isspace((unsigned char)p[-1]))) {
			*p = 0;
			return;
		}
	}
}

static int file_line(char *line, const struct fhd_option_set *sets, uint32_t nr_sets, const struct source *src)
{
	const struct fhd_option_set *set;
	const struct fhd_option *o;
	char *name, *value;

	cut_comment(line);
	name = trim(line);
	if (!*name)
		return 0;
	if (*name == '[') {
		if (name[strlen(name) - 1] == ']')
			return 0;
		return fh_errf(src->err, -EINVAL, "%s:%u: '%s': a section ends with ']'", src->file, src->line, name);
	}
	value = strchr(name, '=');
	if (!value)
		return fh_errf(src->err, -EINVAL, "%s:%u: '%s': expected NAME = VALUE", src->file, src->line, name);
	*value++ = 0;
	name = trim(name);
	value = trim(value);
	o = find(sets, nr_sets, name, strlen(name), 0, &set);
	if (!o || !strcmp(name, "config") || !strcmp(name, "help"))
		return fh_errf(src->err, -EINVAL, "%s:%u: there is no setting '%s'", src->file, src->line, name);
	return set_value(set, o, value, src);
}

int fhd_options_file(const char *path, const struct fhd_option_set *sets, uint32_t nr_sets, struct fh_err *err)
{
	struct source src = {.file = path, .err = err};
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t cap = 0;
	int rc = 0;

	if (!f)
		return fh_errf(err, -errno, "%s: %s", path, strerror(errno));
	errno = 0;
	while (!rc && getline(&line, &cap, f) >= 0) {
		src.line++;
		rc = file_line(line, sets, nr_sets, &src);
	}
	if (!rc && ferror(f))
		rc = fh_errf(err, -EIO, "%s: %s", path, strerror(errno ? errno : EIO));
	free(line);
	fclose(f);
	return rc;
}

void fhd_options_help(FILE *out, const struct fhd_option_set *sets, uint32_t nr_sets)
{
	for (uint32_t s = 0; s < nr_sets; s++) {
		for (uint32_t i = 0; i < sets[s].nr; i++) {
			const struct fhd_option *o = &sets[s].opts[i];
			const char *line = o->help;
			char left[80], letter[8] = "   ";

			if (o->kind == FHD_OPT_GROUP) {
				fprintf(out, "\n%s\n", o->name);
				continue;
			}
			if (o->letter)
				snprintf(letter, sizeof(letter), "-%c,", o->letter);
			snprintf(left, sizeof(left), "%s --%s%s%s", letter, o->name, takes_value(o) ? " " : "",
				 takes_value(o) ? o->arg : "");
			if (strlen(left) > 31) {
				fprintf(out, "  %s\n", left);
				left[0] = 0;
			}
			for (; line; left[0] = 0) {
				const char *nl = strchr(line, '\n');

				fprintf(out, "  %-31s %.*s\n", left, nl ? (int)(nl - line) : (int)strlen(line), line);
				line = nl ? nl + 1 : NULL;
			}
		}
	}
}

void fhd_options_free(const struct fhd_option_set *set)
{
	for (uint32_t i = 0; i < set->nr; i++) {
		const struct fhd_option *o = &set->opts[i];
		void *at = (char *)set->base + o->offset;

		if (o->kind == FHD_OPT_STR || o->kind == FHD_OPT_CHOICE) {
			free(*(char **)at);
			*(char **)at = NULL;
		} else if (o->kind == FHD_OPT_LIST) {
			struct fhd_strings *l = at;

			while (l->n)
				free(l->v[--l->n]);
		}
	}
}
