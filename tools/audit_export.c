// SPDX-License-Identifier: Apache-2.0
/*
 * Entries of an audit log as JSON: one a line, or one with its proof.
 *
 * Every field of a record under its own name; hashes as hexadecimal digits; the
 * text of a body as "body", or "erased": true when its tenant's key was erased,
 * "no_key" when it is not here, "expired" when the text was old enough, "lost"
 * when the log says that.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/trust/charge.h"
#include "runtime/trust/reader.h"
#include "tools/audit.h"

static bool is_text(unsigned int tag)
{
	return tag != FH_RS_KEY_ID && tag != FH_RS_WEIGHTS && tag != FH_RS_BODY_HASH && tag != FH_RS_HASH &&
	       tag != FH_RS_COMMIT && tag != FH_RS_RUN && tag != FH_RS_CHARGES;
}

/* Text as it is if it is UTF-8, else as hexadecimal digits under a name that says so. */
static void put_bytes(json_t *o, const char *name, const void *p, size_t n, bool text)
{
	json_t *s = text ? json_stringn(p, n) : NULL;
	char *hex, hex_name[64];

	if (s) {
		json_object_set_new(o, name, s);
		return;
	}
	hex = malloc(2 * n + 1);
	if (!hex)
		return;
	sodium_bin2hex(hex, 2 * n + 1, p, n);
	snprintf(hex_name, sizeof(hex_name), "%s%s", name, text ? "_hex" : "");
	json_object_set_new(o, hex_name, json_string(hex));
	free(hex);
}

/* Numbers that stand for something, by name. */
static const char *name_of(unsigned int tag, uint64_t v)
{
	static const char *const endpoints[] = {"other",    "completion", "chat",    "embed",
						"tokenize", "detokenize", "channel", "udp"};
	static const char *const finishes[] = {"none",	   "stop",   "length", "cancelled",
					       "deadline", "budget", "error",  "filter"};
	static const char *const hows[] = {"none", "key", "certificate", "peer", "public_key"};
	static const char *const bodies[] = {"as_sent", "choices", "tokens"};

	switch (tag) {
	case FH_RN_ENDPOINT: return v < sizeof(endpoints) / sizeof(endpoints[0]) ? endpoints[v] : NULL;
	case FH_RN_FINISH: return v < sizeof(finishes) / sizeof(finishes[0]) ? finishes[v] : NULL;
	case FH_RN_HOW: return v < sizeof(hows) / sizeof(hows[0]) ? hows[v] : NULL;
	case FH_RN_BODY_TYPE: return v < sizeof(bodies) / sizeof(bodies[0]) ? bodies[v] : NULL;
	default: return NULL;
	}
}

static json_t *payers_json(uint64_t v)
{
	static const char *const names[] = {"tenant", "user", "key", "run"};
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (v & 1u << i)
			json_array_append_new(list, json_string(names[i]));
	return list;
}

static json_t *charges_json(const struct fh_record *rec)
{
	struct fh_budget_charge c;
	json_t *list = json_array();

	if (fh_charge_get(rec, 0, &c))
		return list;
	for (uint32_t i = 0; i < c.nr; i++) {
		const struct fh_budget_piece *p = &c.piece[i];
		time_t t = (time_t)(p->minute * 60);
		char when[40], money[40];
		struct tm tm;

		if (!gmtime_r(&t, &tm))
			continue;
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%MZ", &tm);
		snprintf(money, sizeof(money), "%" PRIu64 ".%012" PRIu64, p->money / FH_MONEY_UNIT,
			 p->money % FH_MONEY_UNIT);
		json_array_append_new(list,
				      json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:s}", "minute", when, "requests",
						(json_int_t)p->requests, "prompt", (json_int_t)p->prompt, "cached",
						(json_int_t)p->cached, "completion", (json_int_t)p->completion,
						"reasoning", (json_int_t)p->reasoning, "money", money));
	}
	return list;
}

static void put_num(json_t *o, unsigned int tag, uint64_t v)
{
	const char *name = fh_record_num_name(tag);
	char text[40];
	struct tm tm;
	time_t t;
	float f;

	if (name_of(tag, v)) {
		json_object_set_new(o, name, json_string(name_of(tag, v)));
		return;
	}
	switch (tag) {
	case FH_RN_TIME_US:
		t = (time_t)(v / 1000000);
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", gmtime_r(&t, &tm));
		json_object_set_new(o, "time", json_sprintf("%s.%06uZ", text, (unsigned int)(v % 1000000)));
		break;
	case FH_RN_TEMPERATURE:
	case FH_RN_TOP_P: {
		uint32_t bits = (uint32_t)v;

		memcpy(&f, &bits, sizeof(f));
		json_object_set_new(o, name, json_real((double)f));
		break;
	}
	case FH_RN_REF:
	case FH_RN_UID: json_object_set_new(o, name, json_integer((json_int_t)(v - 1))); break;
	case FH_RN_PAYERS: json_object_set_new(o, name, payers_json(v)); break;
	case FH_RN_MONEY:
		snprintf(text, sizeof(text), "%" PRIu64 ".%012" PRIu64, v / FH_MONEY_UNIT, v % FH_MONEY_UNIT);
		json_object_set_new(o, name, json_string(text));
		break;
	case FH_RN_SEED: /* of 64 bits, which JSON's readers do not have */
		json_object_set_new(o, name, json_sprintf("%" PRIu64, v));
		break;
	default: json_object_set_new(o, name, json_integer((json_int_t)v)); break;
	}
}

static json_t *record_json(uint64_t i, const struct fh_record *rec)
{
	json_t *o = json_object();

	json_object_set_new(o, "entry", json_integer((json_int_t)i));
	json_object_set_new(o, "kind", json_string(fh_record_kind_name(rec->kind)));
	for (unsigned int t = 1; t < FH_NR_RN; t++)
		if (rec->num[t])
			put_num(o, t, rec->num[t]);
	for (unsigned int t = 64; t < FH_NR_RS_END; t++)
		if (t == FH_RS_THOUGHTS) /* stand with the charges */
			continue;
		else if (t == FH_RS_CHARGES && rec->str[t - 64].n)
			json_object_set_new(o, fh_record_str_name(t), charges_json(rec));
		else if (rec->str[t - 64].n)
			put_bytes(o, fh_record_str_name(t), rec->str[t - 64].p, rec->str[t - 64].n, is_text(t));
	if (rec->nr_unknown)
		json_object_set_new(o, "nr_unknown", json_integer(rec->nr_unknown));
	return o;
}

static int put_body(json_t *o, struct fh_opener *op, uint64_t i, const struct fh_record *rec)
{
	char *text;
	size_t n;
	int rc;

	/* That of each entry stands beside that entry. */
	if (rec->kind == FH_REC_BODIES)
		return 0;
	rc = fh_opener_text(op, i, rec, &text, &n);

	if (rc == -ENOKEY)
		json_object_set_new(o, "erased", json_true());
	/* Of a copy that came without them, for one. */
	if (rc == -EKEYREJECTED)
		json_object_set_new(o, "no_key", json_true());
	if (rc == -ENODATA)
		json_object_set_new(o, "lost", json_true());
	/* Its record says that it was there. */
	if (rc == -ENOENT && (rec->num[FH_RN_SEALED_BYTES] || fh_record_in_segment(rec)))
		json_object_set_new(o, "expired", json_true());
	if (rc == -ENOENT || rc == -ENOKEY || rc == -ENODATA || rc == -EKEYREJECTED)
		return 0;
	if (rc)
		return rc;
	put_bytes(o, "body", text, n, true);
	free(text);
	return 0;
}

static int read_record(struct fh_reader *r, uint64_t i, struct fh_record *rec)
{
	struct fh_record_bytes leaf;
	size_t bad;
	int rc = fh_reader_entry(r, i, &leaf);

	return rc ? rc : fh_record_decode(leaf.p, leaf.n, rec, &bad) ? -EBADMSG : 0;
}

/* Whose texts are gone must be known before the first is asked for. */
static int note_erasures(struct fh_reader *r, struct fh_opener *op)
{
	struct fh_record rec;
	int rc = 0;

	for (uint64_t i = 0; i < r->cp.size && !rc; i++) {
		rc = read_record(r, i, &rec);
		if (!rc && rec.kind == FH_REC_ERASED)
			rc = fh_opener_erased(op, &rec.str[FH_RS_TENANT - 64], i);
	}
	return rc;
}

static bool wanted(const struct audit_args *a, const struct fh_record *rec)
{
	const struct fh_record_bytes *t = &rec->str[FH_RS_TENANT - 64];
	uint64_t us = rec->num[FH_RN_TIME_US];

	if (us < a->from_us || us >= a->to_us)
		return false;
	return !a->tenant || (t->n == strlen(a->tenant) && !memcmp(t->p, a->tenant, t->n));
}

static int export_one(const struct audit_args *a, struct fh_reader *r, struct fh_opener *op, uint64_t i)
{
	struct fh_record rec;
	json_t *o;
	int rc = read_record(r, i, &rec);

	if (rc || !wanted(a, &rec))
		return rc;
	o = record_json(i, &rec);
	if (a->bodies)
		rc = put_body(o, op, i, &rec);
	if (!rc && (json_dumpf(o, stdout, JSON_COMPACT) || putchar('\n') == EOF))
		rc = -EIO;
	json_decref(o);
	return rc;
}

#define TRIES 50 /* a writer may go on while we open its log */

static int open_once(const struct audit_args *a, const char *dir, struct fh_reader *r, struct fh_opener **op)
{
	char key[FH_NOTE_KEY_MAX];
	struct fh_err err = {0};
	int rc = fh_reader_open(r, dir, audit_key_text(a->key, key), &err);

	if (rc) {
		fprintf(stderr, "freehold audit: %s: %s\n", dir, err.msg);
		return rc;
	}
	rc = fh_opener_create(r, op);
	if (!rc)
		rc = note_erasures(r, *op);
	if (!rc)
		return 0;
	if (rc != -ESTALE)
		fprintf(stderr, "freehold audit: %s: %s; `freehold audit verify` says where\n", dir, strerror(-rc));
	fh_opener_free(*op);
	fh_reader_close(r);
	return rc;
}

int audit_open(const struct audit_args *a, const char *dir, struct fh_reader *r, struct fh_opener **op)
{
	int rc = -ESTALE;

	for (int i = 0; i < TRIES && rc == -ESTALE; i++)
		rc = open_once(a, dir, r, op);
	if (rc == -ESTALE)
		fprintf(stderr, "freehold audit: %s: it changes faster than it can be opened\n", dir);
	return rc;
}

int audit_export(const struct audit_args *a)
{
	struct fh_opener *op;
	struct fh_reader r;
	int rc = audit_open(a, a->words[0], &r, &op);

	if (rc)
		return 1;
	for (uint64_t i = 0; i < r.cp.size && !rc; i++) {
		rc = export_one(a, &r, op, i);
		if (rc)
			fprintf(stderr,
				"freehold audit: %s: entry %" PRIu64 ": %s; `freehold audit verify` says more\n",
				a->words[0], i, strerror(-rc));
	}
	fh_opener_free(op);
	fh_reader_close(&r);
	return rc ? 1 : 0;
}

/* ---- one entry ---- */

static json_t *hash_json(const struct fh_hash *h)
{
	char text[sodium_base64_ENCODED_LEN(FH_HASH_BYTES, sodium_base64_VARIANT_ORIGINAL)];

	sodium_bin2base64(text, sizeof(text), h->b, sizeof(h->b), sodium_base64_VARIANT_ORIGINAL);
	return json_string(text);
}

static int put_proof(json_t *o, struct fh_reader *r, uint64_t i)
{
	struct fh_hash leaf, proof[FH_MAX_PROOF];
	struct fh_hashes h = fh_reader_hashes(r);
	struct fh_record_bytes bytes;
	json_t *list = json_array();
	uint32_t nr;
	int rc = fh_reader_entry(r, i, &bytes);

	if (!rc) {
		fh_leaf_hash(bytes.p, bytes.n, &leaf);
		rc = fh_prove_inclusion(&h, i, r->cp.size, proof, &nr);
	}
	if (!rc && !fh_check_inclusion(i, r->cp.size, &leaf, proof, nr, &r->cp.root))
		rc = -EBADMSG;
	if (rc) {
		json_decref(list);
		return rc;
	}
	for (uint32_t k = 0; k < nr; k++)
		json_array_append_new(list, hash_json(&proof[k]));
	json_object_set_new(o, "leaf_hash", hash_json(&leaf));
	json_object_set_new(o, "proof", list);
	json_object_set_new(o, "checkpoint", json_stringn(r->note, r->note_n));
	return 0;
}

int audit_show(const struct audit_args *a)
{
	struct fh_opener *op;
	struct fh_record rec;
	struct fh_reader r;
	char *end;
	uint64_t i = strtoull(a->words[1], &end, 10);
	json_t *o = NULL;
	int rc;

	if (*end || !*a->words[1]) {
		fprintf(stderr, "freehold audit show: '%s' is no entry's number\n", a->words[1]);
		return 2;
	}
	if (audit_open(a, a->words[0], &r, &op))
		return 1;
	rc = read_record(&r, i, &rec);
	if (!rc) {
		o = record_json(i, &rec);
		rc = put_proof(o, &r, i);
	}
	if (!rc)
		rc = read_record(&r, i, &rec);
	if (!rc)
		rc = put_body(o, op, i, &rec);
	if (!rc && (json_dumpf(o, stdout, JSON_INDENT(2)) || putchar('\n') == EOF))
		rc = -EIO;
	if (rc == -ENOENT)
		fprintf(stderr, "freehold audit: %s: there is no entry %" PRIu64 "; the log has %" PRIu64 "\n",
			a->words[0], i, r.cp.size);
	else if (rc)
		fprintf(stderr, "freehold audit: %s: entry %" PRIu64 ": %s; `freehold audit verify` says more\n",
			a->words[0], i, strerror(-rc));
	json_decref(o);
	fh_opener_free(op);
	fh_reader_close(&r);
	return rc ? 1 : 0;
}
