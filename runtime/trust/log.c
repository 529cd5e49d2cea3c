// SPDX-License-Identifier: Apache-2.0
/* The writer: append and commit, and the tenants' keys. */
#include "runtime/trust/log_priv.h"

#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NEW_FILE 0x80000000u /* in the length of a sealed body: it begins a file of bodies */

int fh_grow_put(struct fh_grow *g, const void *p, size_t n)
{
	if (g->cap - g->n < n) {
		size_t cap = g->cap ? g->cap : 4096;
		uint8_t *more;

		while (cap - g->n < n)
			cap *= 2;
		more = realloc(g->p, cap);
		if (!more)
			return -ENOMEM;
		g->p = more;
		g->cap = cap;
	}
	if (n)
		memcpy(g->p + g->n, p, n);
	g->n += n;
	return 0;
}

void fh_grow_free(struct fh_grow *g)
{
	free(g->p);
	*g = (struct fh_grow){0};
}

static void put_le(uint8_t *out, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		out[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get_le(const uint8_t *p, int bytes)
{
	uint64_t v = 0;

	for (int i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << 8 * i;
	return v;
}

static void frame_sum(const struct fh_note_key *key, const uint8_t *rest, size_t n, uint8_t out[16])
{
	crypto_generichash(out, 16, rest, n, key->pub, sizeof(key->pub));
}

size_t fh_journal_frame(const struct fh_note_key *key, const uint8_t *p, size_t n, uint64_t *index,
			struct fh_record_bytes *leaf, struct fh_record_bytes *sealed, bool *new_file)
{
	uint64_t leaf_n, sealed_n, all;
	uint8_t sum[16];

	if (n < FH_JOURNAL_FRAME_BYTES)
		return 0;
	*index = get_le(p + 16, 8);
	leaf_n = get_le(p + 24, 4);
	sealed_n = get_le(p + 28, 4);
	*new_file = sealed_n & NEW_FILE;
	sealed_n &= ~(uint64_t)NEW_FILE;
	all = FH_JOURNAL_FRAME_BYTES + leaf_n + sealed_n;
	if (leaf_n > FH_RECORD_MAX || all > n)
		return 0;
	frame_sum(key, p + 16, all - 16, sum);
	if (memcmp(sum, p, 16))
		return 0;
	*leaf = (struct fh_record_bytes){p + FH_JOURNAL_FRAME_BYTES, (uint32_t)leaf_n};
	*sealed = (struct fh_record_bytes){leaf->p + leaf_n, (uint32_t)sealed_n};
	return (size_t)all;
}

void fh_journal_head(const struct fh_note_key *key, uint64_t index, size_t leaf_n, size_t sealed_n, bool new_file,
		     uint8_t *frame)
{
	put_le(frame + 16, index, 8);
	put_le(frame + 24, leaf_n, 4);
	put_le(frame + 28, sealed_n | (new_file ? NEW_FILE : 0), 4);
	frame_sum(key, frame + 16, FH_JOURNAL_FRAME_BYTES - 16 + leaf_n + sealed_n, frame);
}

int fh_log_put_frame(struct fh_log *l, const uint8_t *leaf, size_t leaf_n, const uint8_t *sealed, size_t sealed_n,
		     bool new_file)
{
	uint8_t head[FH_JOURNAL_FRAME_BYTES] = {0};
	size_t from = l->frames.n;
	int rc;

	rc = fh_grow_put(&l->frames, head, sizeof(head));
	if (!rc)
		rc = fh_grow_put(&l->frames, leaf, leaf_n);
	if (!rc)
		rc = fh_grow_put(&l->frames, sealed, sealed_n);
	if (rc) {
		l->frames.n = from;
		return rc;
	}
	fh_journal_head(&l->key, l->nr, leaf_n, sealed_n, new_file, l->frames.p + from);
	l->nr++;
	return 0;
}

/* ---- tenants ---- */

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static struct fh_tenant *add_tenant(struct fh_log *l, const char *name)
{
	struct fh_tenant *t;

	if (l->nr_tenants == l->cap_tenants) {
		uint32_t cap = l->cap_tenants ? 2 * l->cap_tenants : 16;

		/* No realloc(): it would leave keys behind. */
		t = calloc(cap, sizeof(*t));
		if (!t)
			return NULL;
		if (l->tenants) {
			memcpy(t, l->tenants, l->nr_tenants * sizeof(*t));
			sodium_memzero(l->tenants, l->nr_tenants * sizeof(*t));
		}
		free(l->tenants);
		l->tenants = t;
		l->cap_tenants = cap;
	}
	t = &l->tenants[l->nr_tenants++];
	*t = (struct fh_tenant){0};
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->id = ++l->last_id;
	return t;
}

static int log_tenant(struct fh_log *l, struct fh_tenant *t)
{
	struct fh_record r = {.kind = FH_REC_TENANT};
	uint8_t hash[32];
	uint64_t index;

	fh_tenant_key_hash(t->key, hash);
	r.num[FH_RN_TIME_US] = now_us();
	fh_record_set_str(&r, FH_RS_TENANT, t->name, strlen(t->name));
	fh_record_set_str(&r, FH_RS_HASH, hash, sizeof(hash));
	return fh_log_append(l, &r, NULL, NULL, 0, FH_BODY_NONE, &index);
}

/*
 * A key that lies in the folder may be one whose record a crash has forgotten: a
 * key is logged by every run that first uses it, and readers take the last.
 */
int fh_log_tenant(struct fh_log *l, const char *name, struct fh_tenant **out)
{
	struct fh_tenant *t;
	int rc;

	for (uint32_t i = 0; i < l->nr_tenants; i++) {
		if (!strcmp(l->tenants[i].name, name)) {
			*out = &l->tenants[i];
			return 0;
		}
	}
	t = add_tenant(l, name);
	if (!t)
		return -ENOMEM;
	rc = fh_tenant_load(&l->dir, name, t->key);
	if (rc == -ENOENT)
		rc = fh_tenant_make(&l->dir, name, t->key);
	if (!rc)
		rc = log_tenant(l, t);
	if (rc) {
		sodium_memzero(t, sizeof(*t));
		l->nr_tenants--;
		return rc;
	}
	*out = t;
	return 0;
}

static void forget_tenant(struct fh_log *l, uint32_t i)
{
	fh_stream_close(&l->tenants[i]);
	fh_texts_free(&l->tenants[i].texts);
	sodium_memzero(l->tenants[i].key, sizeof(l->tenants[i].key));
	l->tenants[i] = l->tenants[--l->nr_tenants];
	sodium_memzero(&l->tenants[l->nr_tenants], sizeof(l->tenants[0]));
}

/*
 * The entry first: after a crash between the two the log says that a key is gone
 * which is still there, which the verifier tells and a second attempt mends.  The
 * other way round a key would be missing and nothing would say why.
 */
int fh_log_erase_tenant(struct fh_log *l, const char *name)
{
	struct fh_record r = {.kind = FH_REC_ERASED};
	uint8_t key[FH_BODY_KEY_BYTES];
	uint64_t index;
	int rc;

	if (!fh_tenant_name_ok(name))
		return -EINVAL;
	rc = fh_tenant_load(&l->dir, name, key);
	sodium_memzero(key, sizeof(key));
	/* A key that was damaged is erased like any other. */
	if (rc && rc != -EBADMSG)
		return rc;
	/* Readers take what a segment holds to be from before its entry. */
	for (uint32_t i = 0; i < l->nr_tenants; i++) {
		rc = strcmp(l->tenants[i].name, name) ? 0 : fh_log_seal_tenant(l, &l->tenants[i]);
		if (rc)
			return rc;
	}
	r.num[FH_RN_TIME_US] = now_us();
	fh_record_set_str(&r, FH_RS_TENANT, name, strlen(name));
	rc = fh_log_append(l, &r, NULL, NULL, 0, FH_BODY_NONE, &index);
	if (!rc)
		rc = fh_log_commit(l, true);
	if (!rc)
		rc = fh_tenant_erase(&l->dir, name);
	for (uint32_t i = 0; i < l->nr_tenants && !rc; i++) {
		if (!strcmp(l->tenants[i].name, name)) {
			forget_tenant(l, i);
			break;
		}
	}
	return rc;
}

struct erasures {
	struct fh_log *l;
	int nr;
};

static int erase_one(void *ctx, const char *name)
{
	struct erasures *e = ctx;
	char path[FH_DIR_PATH_MAX];
	int rc;

	if (!fh_tenant_name_ok(name))
		return 0; /* nobody's wish */
	rc = fh_log_erase_tenant(e->l, name);
	if (rc && rc != -ENOENT)
		return rc;
	e->nr += !rc;
	snprintf(path, sizeof(path), "erase/%.64s", name);
	return fh_dir_unlink(&e->l->dir, path, false);
}

int fh_log_do_erasures(struct fh_log *l)
{
	struct erasures e = {l, 0};
	int rc = fh_dir_list(&l->dir, "erase", erase_one, &e);

	return rc ? rc : e.nr;
}

void fh_log_keyed_hash(const struct fh_log *l, const void *p, size_t n, uint8_t *out, size_t out_n)
{
	uint8_t seed[32];

	crypto_sign_ed25519_sk_to_seed(seed, l->key.secret);
	crypto_generichash(out, out_n, p, n, seed, sizeof(seed));
	sodium_memzero(seed, sizeof(seed));
}

/* ---- append ---- */

int fh_log_append(struct fh_log *l, struct fh_record *r, const char *tenant, const void *body, size_t n,
		  enum fh_body_mode mode, uint64_t *index)
{
	uint8_t leaf[FH_RECORD_MAX], hash[32];
	struct fh_tenant *t;
	int rc = 0;

	if (tenant && body && n && mode == FH_BODY_FULL) {
		rc = fh_log_tenant(l, tenant, &t);
		if (!rc)
			rc = fh_log_append_text(l, r, t, body, n);
	} else {
		if (body && mode == FH_BODY_HASH) {
			fh_log_keyed_hash(l, body, n, hash, sizeof(hash));
			fh_record_set_str(r, FH_RS_BODY_HASH, hash, sizeof(hash));
			r->num[FH_RN_FLAGS] |= FH_RF_HASH_ONLY;
		}
		if (body && mode == FH_BODY_NONE)
			r->num[FH_RN_FLAGS] |= FH_RF_NO_BODY;
		r->num[FH_RN_BODY_BYTES] = body ? n : 0;
		rc = fh_log_put_frame(l, leaf, fh_record_encode(r, leaf), NULL, 0, false);
	}
	/* After the record of a new tenant. */
	l->now_us = r->num[FH_RN_TIME_US];
	*index = l->nr - 1;
	return rc;
}

/* ---- commit ---- */

int fh_log_commit(struct fh_log *l, bool sync)
{
	int rc;

	if (l->nr_written < l->frames.n) {
		rc = fh_dir_write(&l->dir, l->journal_fd, "journal", l->journal_at + l->nr_written,
				  l->frames.p + l->nr_written, l->frames.n - l->nr_written);
		if (rc)
			return rc;
		l->nr_written = l->frames.n;
		l->nr_at_write = l->nr;
	}
	if (!sync || l->nr_synced == l->nr_written)
		return 0;
	rc = fh_dir_sync(&l->dir, l->journal_fd, "journal");
	if (!rc)
		rc = fh_dir_sync_names(&l->dir);
	if (rc) {
		/* The kernel may have dropped what it could not write: all of it goes out again. */
		l->nr_written = l->nr_synced;
		return rc;
	}
	l->nr_synced = l->nr_written;
	l->nr_durable = l->nr_at_write;
	return 0;
}

uint64_t fh_log_size(const struct fh_log *l)
{
	return l->nr;
}

uint64_t fh_log_durable(const struct fh_log *l)
{
	return l->nr_durable;
}

uint64_t fh_log_published(const struct fh_log *l)
{
	return l->edge.tree.nr;
}

const struct fh_hash *fh_log_root(const struct fh_log *l)
{
	return &l->root;
}

size_t fh_log_pending(const struct fh_log *l)
{
	return l->frames.n;
}

void fh_log_set_hold(struct fh_log *l, uint64_t us)
{
	l->hold_us = us;
}

void fh_log_set_time(struct fh_log *l, uint64_t us)
{
	l->now_us = us;
}

void fh_log_set_file_age(struct fh_log *l, uint64_t us)
{
	l->file_age_us = us;
}

const struct fh_note_key *fh_log_key(const struct fh_log *l)
{
	return &l->key;
}

const char *fh_log_verifier_key(const struct fh_log *l)
{
	return l->verifier_key;
}

int fh_log_fd(const struct fh_log *l)
{
	return l->dir.fd;
}

void fh_log_free(struct fh_log *l)
{
	for (uint32_t i = 0; i < l->nr_tenants; i++) {
		fh_stream_close(&l->tenants[i]);
		fh_texts_free(&l->tenants[i].texts);
	}
	if (l->tenants)
		sodium_memzero(l->tenants, l->nr_tenants * sizeof(*l->tenants));
	free(l->tenants);
	free(l->held);
	free(l->held_of);
	fh_grow_free(&l->published);
	fh_grow_free(&l->frames);
	fh_grow_free(&l->edge.bundle);
	if (l->journal_fd >= 0)
		close(l->journal_fd);
	if (l->lock_fd >= 0)
		close(l->lock_fd);
	fh_dir_close(&l->dir);
	sodium_memzero(l, sizeof(*l));
	free(l);
}

void fh_log_abandon(struct fh_log *l)
{
	if (l)
		fh_log_free(l);
}

int fh_log_close(struct fh_log *l)
{
	int rc;

	l->hold_us = 0;
	rc = fh_log_publish(l);
	fh_log_free(l);
	return rc;
}
