// SPDX-License-Identifier: Apache-2.0
/* Reading a log: the bodies. */
#include <stdlib.h>
#include <string.h>

#include "runtime/trust/reader.h"

int fh_reader_body_file(struct fh_reader *r, uint32_t which, char path[FH_DIR_PATH_MAX])
{
	int rc;

	fh_body_path(r->body_files[which], path);
	if (r->body_file == (int64_t)which)
		return 0;
	free(r->body);
	r->body = NULL;
	r->body_seen = 0;
	r->body_file = -1;
	rc = fh_dir_read(&r->dir, path, FH_BODY_FILE_BYTES + 2 * FH_BODY_MAX, &r->body, &r->body_n);
	if (!rc)
		r->body_file = which;
	return rc;
}

int fh_reader_body(struct fh_reader *r, uint64_t i, struct fh_record_bytes *sealed, char path[FH_DIR_PATH_MAX],
		   uint64_t *at)
{
	uint32_t which = r->nr_body_files;
	int rc;

	while (which && r->body_files[which - 1] > i)
		which--;
	if (!which)
		return -ENOENT;
	rc = fh_reader_body_file(r, which - 1, path);
	if (rc)
		return rc;
	/* Who reads on begins where the last body was found. */
	for (size_t off = r->body_seen && r->body_seen_entry <= i ? r->body_seen : 0;
	     r->body_n - off >= FH_BODY_FRAME_BYTES;) {
		uint64_t index, len = fh_body_frame_read(r->body + off, &index);

		off += FH_BODY_FRAME_BYTES;
		if (len > r->body_n - off || index > i)
			return -EBADMSG;
		if (index == i) {
			r->body_seen = off - FH_BODY_FRAME_BYTES;
			r->body_seen_entry = i;
			*sealed = (struct fh_record_bytes){(uint8_t *)r->body + off, (uint32_t)len};
			*at = off;
			return 0;
		}
		off += len;
	}
	return -ENOENT;
}

/* ---- opening them ---- */

struct open_tenant {
	char name[FH_RECORD_NAME_MAX + 1];
	uint8_t key[FH_BODY_KEY_BYTES];
	int key_rc;
	struct fh_body_reader *body;
	uint64_t next;	    /* entry: bodies before it have been through the stream; 0: none */
	uint64_t erased_at; /* entries before it were sealed with a key that is gone */
	struct open_tenant *more;
};

struct fh_opener {
	struct fh_reader *r;
	struct open_tenant *tenants;
};

int fh_opener_create(struct fh_reader *r, struct fh_opener **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->r = r;
	return 0;
}

void fh_opener_free(struct fh_opener *o)
{
	struct open_tenant *t;

	if (!o)
		return;
	while ((t = o->tenants)) {
		o->tenants = t->more;
		fh_body_reader_free(t->body);
		explicit_bzero(t, sizeof(*t));
		free(t);
	}
	free(o);
}

static struct open_tenant *find_tenant(struct fh_opener *o, const struct fh_record_bytes *name)
{
	struct open_tenant *t;

	for (t = o->tenants; t; t = t->more)
		if (strlen(t->name) == name->n && !memcmp(t->name, name->p, name->n))
			return t;
	if (!name->n || name->n > FH_RECORD_NAME_MAX)
		return NULL;
	t = calloc(1, sizeof(*t));
	if (!t || fh_body_reader_create(&t->body)) {
		free(t);
		return NULL;
	}
	memcpy(t->name, name->p, name->n);
	t->key_rc = fh_tenant_name_ok(t->name) ? fh_tenant_load(&o->r->dir, t->name, t->key) : -EBADMSG;
	t->more = o->tenants;
	o->tenants = t;
	return t;
}

static bool is_body_of(const struct fh_record *rec, const struct open_tenant *t)
{
	const struct fh_record_bytes *name = &rec->str[FH_RS_TENANT - 64];

	return rec->num[FH_RN_SEALED_BYTES] && name->n == strlen(t->name) && !memcmp(name->p, t->name, name->n);
}

/* The entry of @t whose body begins the chapter of entry @i; or t->next, if there is none from there on. */
static int find_chapter(struct fh_opener *o, const struct open_tenant *t, uint64_t i, uint64_t *out)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad;

	for (*out = i;; (*out)--) {
		int rc = fh_reader_entry(o->r, *out, &leaf);

		if (!rc)
			rc = fh_record_decode(leaf.p, leaf.n, &rec, &bad);
		if (rc)
			return -EBADMSG;
		if (is_body_of(&rec, t) && rec.num[FH_RN_CHAPTER])
			return 0;
		if (*out == t->next)
			return t->next ? 0 : -EBADMSG;
	}
}

static int open_one(struct fh_opener *o, struct open_tenant *t, uint64_t i, const struct fh_record *rec, char **text)
{
	struct fh_record_bytes sealed;
	char path[FH_DIR_PATH_MAX];
	uint64_t at;
	int rc = fh_reader_body(o->r, i, &sealed, path, &at);

	if (rc)
		return rc;
	return fh_body_open(t->body, t->key, t->name, i, rec->num[FH_RN_CHAPTER], sealed.p, sealed.n,
			    rec->num[FH_RN_BODY_BYTES], text);
}

int fh_opener_erased(struct fh_opener *o, const struct fh_record_bytes *tenant, uint64_t i)
{
	struct open_tenant *t = find_tenant(o, tenant);

	if (!t)
		return -ENOMEM;
	t->erased_at = i;
	return 0;
}

int fh_opener_text(struct fh_opener *o, uint64_t i, const struct fh_record *rec, char **text, size_t *n)
{
	struct open_tenant *t;
	uint64_t from = i;
	int rc = 0;

	*text = NULL;
	if (!rec->num[FH_RN_SEALED_BYTES])
		return -ENOENT;
	t = find_tenant(o, &rec->str[FH_RS_TENANT - 64]);
	if (!t)
		return -ENOMEM;
	if (t->key_rc || i < t->erased_at)
		return t->key_rc == -ENOENT || !t->key_rc ? -ENOKEY : t->key_rc;
	/* What the stream has seen already need not be seen again. */
	if (t->next > i)
		t->next = 0;
	if (!rec->num[FH_RN_CHAPTER])
		rc = find_chapter(o, t, i, &from);
	*n = (size_t)rec->num[FH_RN_BODY_BYTES];
	for (; from <= i && !rc; from++) {
		struct fh_record_bytes leaf;
		struct fh_record other;
		size_t bad;

		free(*text);
		*text = NULL;
		rc = fh_reader_entry(o->r, from, &leaf);
		if (!rc && fh_record_decode(leaf.p, leaf.n, &other, &bad))
			rc = -EBADMSG;
		if (!rc && is_body_of(&other, t))
			rc = open_one(o, t, from, &other, text);
	}
	t->next = rc ? 0 : i + 1;
	if (rc) {
		free(*text);
		*text = NULL;
	}
	return rc;
}
