// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as what a reader of an audit log meets.  The first
 * byte chooses: a record, a signed note or key, a journal, a bundle of entries, a
 * tile's name, a sealed body, a receipt; an 'h': frames of a journal that holds texts.  What is accepted must be just
 * what would have been written.
 */
#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/trust/held.h"
#include "runtime/trust/log.h"
#include "runtime/trust/receipt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_record(const uint8_t *p, size_t n)
{
	uint8_t again[FH_RECORD_MAX];
	struct fh_record r;
	size_t at;

	if (fh_record_decode(p, n, &r, &at)) {
		assert(at <= n);
		return;
	}
	if (!r.nr_unknown) {
		assert(fh_record_encode(&r, again) == n);
		assert(!memcmp(again, p, n));
	}
}

static void try_note(const uint8_t *p, size_t n, struct fh_note_key *key)
{
	char *text = malloc(n + 1), out[FH_NOTE_KEY_MAX];
	struct fh_note_key read;
	struct fh_checkpoint cp;
	struct fh_err err;

	memcpy(text, p, n);
	text[n] = 0;
	if (!fh_note_key_parse(text, &read, &err)) {
		if (read.can_sign)
			fh_note_key_private(&read, out);
		else
			fh_note_key_public(&read, out);
		assert(!strncmp(out, text, strlen(out)));
	}
	/* Nobody can sign with a key that was made just now. */
	assert(fh_note_open(text, n, key, &err) < 0);
	if (!fh_checkpoint_open(text, n, NULL, &cp, &err))
		assert(cp.origin[0]);
	free(text);
}

static void try_journal(const uint8_t *p, size_t n, const struct fh_note_key *key)
{
	struct fh_record_bytes leaf, sealed;
	uint64_t index;
	bool new_file;
	uint8_t *copy = malloc(n + 1);
	size_t used;

	memcpy(copy, p, n);
	/* With the right checksum, so that what is behind it is reached. */
	if (n >= FH_JOURNAL_FRAME_BYTES)
		crypto_generichash(copy, 16, copy + 16, n - 16, key->pub, sizeof(key->pub));
	used = fh_journal_frame(key, copy, n, &index, &leaf, &sealed, &new_file);
	if (used) {
		assert(used <= n && leaf.p + leaf.n == sealed.p && sealed.p + sealed.n == copy + used);
		try_record(leaf.p, leaf.n);
	}
	free(copy);
}

/* Frames with the right checksums: each of as many bytes of record and of text, and as far from the one before, as
 * three bytes say. */
static void try_held(const uint8_t *p, size_t n, const struct fh_note_key *key)
{
	uint8_t *journal = calloc(n / 3 + 1, FH_JOURNAL_FRAME_BYTES + 510);
	struct fh_checkpoint cp = {0};
	struct fh_held_text *t;
	uint64_t index = 0, last = 0;
	size_t at = 0, leaf, text;
	uint32_t nr;

	while (n >= 3) {
		leaf = p[0] < n - 3 ? p[0] : n - 3;
		text = p[1] < n - 3 - leaf ? p[1] : n - 3 - leaf;
		index += (uint64_t)(int64_t)(int8_t)p[2];
		memcpy(journal + at + FH_JOURNAL_FRAME_BYTES, p + 3, leaf + text);
		fh_journal_head(key, index, leaf, text, false, journal + at);
		at += FH_JOURNAL_FRAME_BYTES + leaf + text;
		p += 3 + leaf + text;
		n -= 3 + leaf + text;
	}
	assert(!fh_held_find(key, journal, at, 1000, &t, &nr));
	assert(!t == !nr);
	for (uint32_t i = 0; i < nr; i++) {
		assert(t[i].index < 1000 && (!i || t[i].index > last) && t[i].sealed.n >= FH_TEXT_SEAL_BYTES);
		assert(t[i].leaf.p > journal && t[i].sealed.p + t[i].sealed.n <= journal + at);
		assert(fh_held_index(t[i].sum) == t[i].index);
		last = t[i].index;
	}
	assert(fh_held_are(&cp, t, nr) == !nr);
	free(t);
	free(journal);
}

static void try_bundle(const uint8_t *p, size_t n)
{
	uint32_t at[FH_TILE_WIDTH + 1], nr = n ? p[0] + 1u : 1, whole = fh_bundle_split((const char *)p, n, nr, at);

	assert(whole <= nr && at[whole] <= n);
	for (uint32_t k = 0; k < whole; k++)
		try_record(p + at[k] + 2, at[k + 1] - at[k] - 2);
}

static void try_name(const uint8_t *p, size_t n)
{
	char *name = malloc(n + 1), again[FH_TILE_PATH_MAX];
	uint64_t index;
	uint32_t width;
	int level;

	memcpy(name, p, n);
	name[n] = 0;
	if (fh_tile_parse(name, &level, &index, &width)) {
		fh_tile_path(level, index, width, again);
		assert(!strcmp(again, name));
	}
	(void)fh_tenant_name_ok(name);
	free(name);
}

/* Seal what is given, damage it at a place that is given, and open it. */
static void try_body(const uint8_t *p, size_t n)
{
	struct fh_tenant t = {.name = "t"};
	struct fh_body_reader *r;
	uint8_t *sealed;
	size_t sealed_n;
	char *text;
	bool chapter;
	int rc;

	if (n < 2 || fh_body_reader_create(&r))
		return;
	assert(!fh_body_seal(&t, 5, p + 2, n - 2, false, &sealed, &sealed_n, &chapter) && chapter);
	sealed[(size_t)p[0] * 256 % sealed_n] ^= p[1];
	rc = fh_body_open(r, t.key, t.name, 5, true, true, sealed, sealed_n, n - 2, &text);
	assert(p[1] ? rc == -EBADMSG : !rc && !memcmp(text, p + 2, n - 2));
	free(text);
	free(sealed);
	fh_stream_close(&t);
	fh_body_reader_free(r);
}

/* Nobody can sign for a key that was made just now; with a checkpoint that is ours, the rest is reached. */
static void try_receipt(const uint8_t *p, size_t n, const struct fh_note_key *key)
{
	static const char head[] = "{\"checkpoint\":\"";
	struct fh_checkpoint cp = {.size = 2};
	char note[FH_CHECKPOINT_MAX], *text = malloc(n + 2 * FH_CHECKPOINT_MAX);
	struct fh_receipt r;
	struct fh_err err;
	size_t at = sizeof(head) - 1;
	int len;

	strcpy(cp.origin, key->name);
	len = fh_checkpoint_sign(key, &cp, note);
	assert(len > 0);
	memcpy(text, head, at);
	for (int i = 0; i < len; i++) {
		if (note[i] == '\n')
			text[at++] = '\\';
		text[at++] = note[i] == '\n' ? 'n' : note[i];
	}
	memcpy(text + at, "\",", 2);
	memcpy(text + at + 2, p, n);
	/* The root of all zeros is nobody's. */
	assert(fh_receipt_check(text, at + 2 + n, key, &r, &err) < 0);
	assert(fh_receipt_check((const char *)p, n, key, &r, &err) < 0);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char secret[] = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
	struct fh_note_key known, fresh;
	struct fh_err err;

	if (!size || sodium_init() < 0 || fh_note_key_parse(secret, &known, &err))
		return 0;
	if (data[0] == 'h')
		try_held(data + 1, size - 1, &known);
	switch (data[0] == 'h' ? 2 : data[0] % 7) {
	case 0: try_record(data + 1, size - 1); break;
	case 1:
		fh_note_key_make("fuzz", &fresh);
		try_note(data + 1, size - 1, &fresh);
		break;
	case 2: try_journal(data + 1, size - 1, &known); break;
	case 3: try_bundle(data + 1, size - 1); break;
	case 6: try_receipt(data + 1, size - 1, &known); break;
	case 4: try_name(data + 1, size - 1); break;
	default: try_body(data + 1, size - 1); break;
	}
	return 0;
}
