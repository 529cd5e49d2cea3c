// SPDX-License-Identifier: Apache-2.0
/* API keys: the file, and the comparison that takes as long for any answer. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "runtime/base/log.h"
#include "runtime/net/auth.h"

#define FIELD (FH_AUTH_MAX_KEY + 1)

struct fh_auth {
	uint32_t nr;
	char (*keys)[FIELD]; /* [nr], padded with zeros */
};

static void wipe(void *p, size_t n)
{
	if (p)
		explicit_bzero(p, n);
}

void fh_auth_free(struct fh_auth *a)
{
	if (!a)
		return;
	wipe(a->keys, (size_t)a->nr * FIELD);
	free(a->keys);
	free(a);
}

static int add_key(struct fh_auth *a, const char *path, unsigned int line, const char *key, size_t n,
		   struct fh_err *err)
{
	void *more;

	for (size_t i = 0; i < n; i++)
		if (key[i] <= 0x20 || key[i] >= 0x7f)
			return fh_errf(err, -EINVAL, "%s:%u: a key has a space or a character that HTTP cannot carry",
				       path, line);
	if (n > FH_AUTH_MAX_KEY)
		return fh_errf(err, -EINVAL, "%s:%u: the key is longer than %d bytes", path, line, FH_AUTH_MAX_KEY);
	if (a->nr == FH_AUTH_MAX_KEYS)
		return fh_errf(err, -E2BIG, "%s:%u: more than %d keys", path, line, FH_AUTH_MAX_KEYS);
	more = calloc((size_t)a->nr + 1, FIELD);
	if (!more)
		return fh_errf(err, -ENOMEM, "%s: no memory for its keys", path);
	if (a->nr)
		memcpy(more, a->keys, (size_t)a->nr * FIELD);
	wipe(a->keys, (size_t)a->nr * FIELD);
	free(a->keys);
	a->keys = more;
	memcpy(a->keys[a->nr++], key, n);
	return 0;
}

static int read_keys(struct fh_auth *a, FILE *in, const char *path, struct fh_err *err)
{
	char line[1024];
	unsigned int nr = 0;
	int rc = 0;

	while (!rc && fgets(line, sizeof(line), in)) {
		size_t n = strlen(line), start;

		nr++;
		if (n == sizeof(line) - 1 && line[n - 1] != '\n') {
			rc = fh_errf(err, -EINVAL, "%s:%u: the line is too long", path, nr);
			break;
		}
		while (n && strchr(" \t\r\n", line[n - 1]))
			n--;
		start = strspn(line, " \t");
		if (start < n && line[start] != '#')
			rc = add_key(a, path, nr, line + start, n - start, err);
	}
	wipe(line, sizeof(line));
	if (!rc && !a->nr)
		rc = fh_errf(err, -EINVAL, "%s: no key in it, so nobody could come in; write one key a line", path);
	return rc;
}

int fh_auth_load(const char *path, struct fh_auth **out, struct fh_err *err)
{
	struct fh_auth *a;
	struct stat st;
	FILE *in;
	int rc;

	in = fopen(path, "re");
	if (!in)
		return fh_errf(err, -errno, "cannot read the API keys in %s: %s", path, strerror(errno));
	if (!fstat(fileno(in), &st) && (st.st_mode & 077))
		fh_warn("%s: others than its owner may read the API keys; chmod 600 would end that", path);
	a = calloc(1, sizeof(*a));
	rc = a ? read_keys(a, in, path, err) : fh_errf(err, -ENOMEM, "%s: no memory", path);
	fclose(in);
	if (rc)
		fh_auth_free(a);
	else
		*out = a;
	return rc;
}

struct fh_span fh_auth_bearer(struct fh_span v)
{
	if (v.n < 8 || strncasecmp(v.p, "Bearer ", 7))
		return (struct fh_span){0};
	for (v.p += 7, v.n -= 7; v.n && *v.p == ' '; v.p++, v.n--)
		;
	return v;
}

uint32_t fh_auth_check(const struct fh_auth *a, struct fh_span authorization)
{
	struct fh_span v = fh_auth_bearer(authorization);
	char given[FIELD] = {0};
	uint32_t found = 0;

	if (!v.n || v.n > FH_AUTH_MAX_KEY)
		return 0;
	memcpy(given, v.p, v.n);
	for (uint32_t k = 0; k < a->nr; k++) {
		uint32_t differ = 0;

		for (size_t i = 0; i < FIELD; i++)
			differ |= (unsigned char)(given[i] ^ a->keys[k][i]);
		/* All ones when nothing differed, without a branch. */
		differ = 0 - ((differ - 1) >> 31);
		found = (found & ~differ) | ((k + 1) & differ);
	}
	wipe(given, sizeof(given));
	return found;
}

const char *fh_auth_key(const struct fh_auth *a, uint32_t nr)
{
	return a->keys[nr - 1];
}
