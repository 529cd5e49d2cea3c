// SPDX-License-Identifier: Apache-2.0
/* Receipts: made by the log's writer, checked by anybody. */
#include "runtime/trust/receipt.h"

#include <jansson.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define B64 sodium_base64_VARIANT_ORIGINAL

static const char *const names[FH_NR_RECEIPT] = {"begin", "end"};

void fh_receipt_commit(const uint8_t salt[FH_RECEIPT_SALT_BYTES], const void *text, size_t n,
		       uint8_t out[FH_RECEIPT_COMMIT_BYTES])
{
	crypto_generichash(out, FH_RECEIPT_COMMIT_BYTES, text, n, salt, FH_RECEIPT_SALT_BYTES);
}

/* ---- making ---- */

static json_t *binary(const void *p, size_t n)
{
	size_t cap = sodium_base64_encoded_len(n, B64);
	char *text = malloc(cap);
	json_t *s;

	if (!text)
		return NULL;
	sodium_bin2base64(text, cap, p, n, B64);
	s = json_string(text);
	free(text);
	return s;
}

static int make_part(struct fh_reader *r, uint64_t i, json_t *out)
{
	struct fh_hashes h = fh_reader_hashes(r);
	struct fh_hash leaf_hash, proof[FH_MAX_PROOF];
	struct fh_record_bytes leaf;
	json_t *list = json_array();
	uint32_t nr;
	int rc = fh_reader_entry(r, i, &leaf);

	json_object_set_new(out, "entry", json_integer((json_int_t)i));
	if (!rc) {
		json_object_set_new(out, "leaf", binary(leaf.p, leaf.n));
		fh_leaf_hash(leaf.p, leaf.n, &leaf_hash);
		rc = fh_prove_inclusion(&h, i, r->cp.size, proof, &nr);
	}
	if (!rc && !fh_check_inclusion(i, r->cp.size, &leaf_hash, proof, nr, &r->cp.root))
		rc = -EBADMSG;
	for (uint32_t k = 0; !rc && k < nr; k++)
		json_array_append_new(list, binary(&proof[k], sizeof(proof[k])));
	json_object_set_new(out, "proof", list);
	return rc;
}

int fh_receipt_make(struct fh_reader *r, uint64_t begin, uint64_t end, const uint8_t salt[FH_RECEIPT_SALT_BYTES],
		    char **text)
{
	const uint64_t entry[FH_NR_RECEIPT] = {begin, end};
	json_t *o = json_object();
	int rc = o ? 0 : -ENOMEM;

	*text = NULL;
	json_object_set_new(o, "object", json_string("freehold.receipt"));
	for (int i = 0; i < FH_NR_RECEIPT && !rc; i++) {
		json_t *part = json_object();

		rc = make_part(r, entry[i], part);
		json_object_set_new(o, names[i], part);
	}
	json_object_set_new(o, "salt", binary(salt, FH_RECEIPT_SALT_BYTES));
	json_object_set_new(o, "checkpoint", json_stringn(r->note, r->note_n));
	if (!rc) {
		*text = json_dumps(o, JSON_COMPACT);
		rc = *text ? 0 : -ENOMEM;
	}
	json_decref(o);
	return rc;
}

/* ---- checking ---- */

/* Exactly the bytes that @s stands for: malloc'ed, *n of them; NULL. */
static uint8_t *bytes_of(const json_t *s, size_t most, size_t *n)
{
	size_t len = json_string_length(s);
	const char *end, *text = json_string_value(s);
	uint8_t *out;

	if (!text || len / 4 * 3 > most + 3)
		return NULL;
	/* libsodium 1.0.18 takes some characters with the highest bit set for those without. */
	for (size_t i = 0; i < len; i++)
		if (text[i] & 0x80)
			return NULL;
	out = malloc(most + 4);
	if (out && (sodium_base642bin(out, most, text, len, NULL, n, &end, B64) || end != text + len)) {
		free(out);
		out = NULL;
	}
	return out;
}

static bool hash_of(const json_t *s, struct fh_hash *out)
{
	size_t n;
	uint8_t *p = bytes_of(s, sizeof(*out), &n);
	bool ok = p && n == sizeof(*out);

	if (ok)
		memcpy(out, p, sizeof(*out));
	free(p);
	return ok;
}

static int check_part(const json_t *o, struct fh_receipt *r, int which, struct fh_err *err)
{
	struct fh_receipt_part_entry *p = &r->part[which];
	const json_t *part = json_object_get(o, names[which]), *proof = json_object_get(part, "proof");
	struct fh_hash leaf_hash, hashes[FH_MAX_PROOF];
	json_int_t entry = json_integer_value(json_object_get(part, "entry"));
	size_t n = 0, bad, nr = json_array_size(proof);

	p->leaf = bytes_of(json_object_get(part, "leaf"), FH_RECORD_MAX, &n);
	if (!p->leaf || entry < 0 || !json_is_array(proof) || nr > FH_MAX_PROOF)
		return fh_errf(err, -EINVAL, "this is no receipt: its \"%s\" is incomplete", names[which]);
	for (size_t i = 0; i < nr; i++)
		if (!hash_of(json_array_get(proof, i), &hashes[i]))
			return fh_errf(err, -EINVAL, "this is no receipt: hash %zu of the proof of \"%s\" is none", i,
				       names[which]);
	p->entry = (uint64_t)entry;
	fh_leaf_hash(p->leaf, n, &leaf_hash);
	if (!fh_check_inclusion(p->entry, r->cp.size, &leaf_hash, hashes, (uint32_t)nr, &r->cp.root))
		return fh_errf(err, -EBADMSG, "the log that was signed does not have this \"%s\" as its entry %llu",
			       names[which], (unsigned long long)p->entry);
	if (fh_record_decode(p->leaf, n, &p->rec, &bad))
		return fh_errf(err, -EINVAL, "entry %llu is no record that this version can read",
			       (unsigned long long)p->entry);
	return 0;
}

static int check_all(const json_t *o, const struct fh_note_key *key, struct fh_receipt *r, struct fh_err *err)
{
	const struct fh_receipt_part_entry *b = &r->part[FH_RECEIPT_BEGIN], *e = &r->part[FH_RECEIPT_END];
	const json_t *note = json_object_get(o, "checkpoint");
	struct fh_hash salt;
	int rc = 0;

	if (!json_is_string(note) || !hash_of(json_object_get(o, "salt"), &salt))
		return fh_errf(err, -EINVAL, "this is no receipt: it has no checkpoint, or no salt");
	memcpy(r->salt, &salt, sizeof(r->salt));
	rc = fh_checkpoint_open(json_string_value(note), json_string_length(note), key, &r->cp, err);
	for (int i = 0; i < FH_NR_RECEIPT && !rc; i++)
		rc = check_part(o, r, i, err);
	if (rc)
		return rc;
	if (b->rec.kind != FH_REC_BEGIN || e->rec.kind != FH_REC_END || e->rec.num[FH_RN_REF] != b->entry + 1)
		return fh_errf(err, -EBADMSG, "entry %llu is not the outcome of entry %llu",
			       (unsigned long long)e->entry, (unsigned long long)b->entry);
	return 0;
}

int fh_receipt_check(const char *text, size_t n, const struct fh_note_key *key, struct fh_receipt *out,
		     struct fh_err *err)
{
	json_error_t where;
	json_t *o;
	int rc;

	*out = (struct fh_receipt){0};
	if (n > FH_RECEIPT_MAX)
		return fh_errf(err, -EINVAL, "this is no receipt: it is longer than %u bytes", FH_RECEIPT_MAX);
	o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &where);
	if (!o)
		return fh_errf(err, -EINVAL, "this is no receipt: %s at byte %d", where.text, where.position);
	rc = check_all(o, key, out, err);
	json_decref(o);
	if (rc)
		fh_receipt_free(out);
	return rc;
}

bool fh_receipt_is_text(const struct fh_receipt *r, enum fh_receipt_part part, const void *text, size_t n)
{
	const struct fh_record_bytes *want = &r->part[part].rec.str[FH_RS_COMMIT - 64];
	uint8_t got[FH_RECEIPT_COMMIT_BYTES];

	fh_receipt_commit(r->salt, text, n, got);
	return want->n == sizeof(got) && !memcmp(want->p, got, sizeof(got));
}

void fh_receipt_free(struct fh_receipt *r)
{
	for (int i = 0; i < FH_NR_RECEIPT; i++)
		free(r->part[i].leaf);
	*r = (struct fh_receipt){0};
}
