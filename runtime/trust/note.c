// SPDX-License-Identifier: Apache-2.0
/* Signed notes. Everything that is read is bounded and must be just what would be written. */
#include "runtime/trust/note.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define ED25519 1	   /* the algorithm's number in signed-note */
#define SIG_BYTES (4 + 64) /* key id, signature */
#define HELD "texts "
#define DASH "\xe2\x80\x94 " /* an em dash and a space begin a signature line */
#define B64 sodium_base64_VARIANT_ORIGINAL

static bool name_ok(const char *name, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] <= ' ' || name[i] == '+' || name[i] == 0x7f)
			return false;
	return n && n < FH_NOTE_NAME_MAX;
}

/* The first four bytes of SHA-256(NAME || 0x0A || 0x01 || public key), big-endian. */
static uint32_t key_id(const char *name, const uint8_t pub[32])
{
	static const uint8_t between[2] = {'\n', ED25519};
	crypto_hash_sha256_state st;
	uint8_t h[32];

	crypto_hash_sha256_init(&st);
	crypto_hash_sha256_update(&st, (const uint8_t *)name, strlen(name));
	crypto_hash_sha256_update(&st, between, sizeof(between));
	crypto_hash_sha256_update(&st, pub, 32);
	crypto_hash_sha256_final(&st, h);
	return (uint32_t)h[0] << 24 | (uint32_t)h[1] << 16 | (uint32_t)h[2] << 8 | h[3];
}

int fh_note_key_make(const char *name, struct fh_note_key *key)
{
	if (!name_ok(name, strlen(name)))
		return -EINVAL;
	*key = (struct fh_note_key){.can_sign = true};
	strcpy(key->name, name);
	crypto_sign_keypair(key->pub, key->secret);
	key->id = key_id(name, key->pub);
	return 0;
}

static bool from_base64(const char *s, size_t n, uint8_t *out, size_t want)
{
	const char *end;
	size_t got;

	/* libsodium 1.0.18 takes some characters with the highest bit set for those without. */
	for (size_t i = 0; i < n; i++)
		if (s[i] & 0x80)
			return false;
	return !sodium_base642bin(out, want, s, n, NULL, &got, &end, B64) && got == want && end == s + n;
}

static int parse_data(const char *data, size_t n, bool secret, struct fh_note_key *key)
{
	uint8_t raw[33];
	int rc = 0;

	if (!from_base64(data, n, raw, sizeof(raw)) || raw[0] != ED25519)
		rc = -EINVAL;
	else if (secret)
		crypto_sign_seed_keypair(key->pub, key->secret, raw + 1);
	else
		memcpy(key->pub, raw + 1, 32);
	key->can_sign = secret;
	sodium_memzero(raw, sizeof(raw));
	return rc;
}

int fh_note_key_parse(const char *text, struct fh_note_key *key, struct fh_err *err)
{
	static const char before[] = "PRIVATE+KEY+";
	bool secret = !strncmp(text, before, sizeof(before) - 1);
	const char *name = text + (secret ? sizeof(before) - 1 : 0), *id, *data;
	size_t n = strlen(name);
	char want[16];

	*key = (struct fh_note_key){0};
	if (n && name[n - 1] == '\n')
		n--;
	id = memchr(name, '+', n);
	data = id ? memchr(id + 1, '+', n - (size_t)(id + 1 - name)) : NULL;
	if (!data || !name_ok(name, (size_t)(id - name)) ||
	    parse_data(data + 1, n - (size_t)(data + 1 - name), secret, key))
		return fh_errf(err, -EINVAL, "this is no Ed25519 note key (NAME+ID+DATA is wanted)");
	memcpy(key->name, name, (size_t)(id - name));
	key->id = key_id(key->name, key->pub);
	snprintf(want, sizeof(want), "%08x", key->id);
	if (data - id - 1 != 8 || memcmp(id + 1, want, 8))
		return fh_errf(err, -EINVAL, "note key %s: its id is %.*s, but that of its data is %s", key->name,
			       (int)(data - id - 1 < 16 ? data - id - 1 : 16), id + 1, want);
	return 0;
}

static void format_key(const struct fh_note_key *key, const char *before, const uint8_t data[32],
		       char out[FH_NOTE_KEY_MAX])
{
	char text[sodium_base64_ENCODED_LEN(33, B64)];
	uint8_t raw[33] = {ED25519};

	memcpy(raw + 1, data, 32);
	sodium_bin2base64(text, sizeof(text), raw, sizeof(raw), B64);
	snprintf(out, FH_NOTE_KEY_MAX, "%s%s+%08x+%s", before, key->name, key->id, text);
	sodium_memzero(raw, sizeof(raw));
	sodium_memzero(text, sizeof(text));
}

void fh_note_key_public(const struct fh_note_key *key, char out[FH_NOTE_KEY_MAX])
{
	format_key(key, "", key->pub, out);
}

void fh_note_key_private(const struct fh_note_key *key, char out[FH_NOTE_KEY_MAX])
{
	uint8_t seed[32];

	crypto_sign_ed25519_sk_to_seed(seed, key->secret);
	format_key(key, "PRIVATE+KEY+", seed, out);
	sodium_memzero(seed, sizeof(seed));
}

int fh_note_sign(const struct fh_note_key *key, const char *text, char *out, size_t cap)
{
	uint8_t sig[SIG_BYTES] = {(uint8_t)(key->id >> 24), (uint8_t)(key->id >> 16), (uint8_t)(key->id >> 8),
				  (uint8_t)key->id};
	char coded[sodium_base64_ENCODED_LEN(SIG_BYTES, B64)];
	int n;

	crypto_sign_detached(sig + 4, NULL, (const uint8_t *)text, strlen(text), key->secret);
	sodium_bin2base64(coded, sizeof(coded), sig, sizeof(sig), B64);
	n = snprintf(out, cap, "%s\n" DASH "%s %s\n", text, key->name, coded);
	return n < 0 || (size_t)n >= cap ? -ENOSPC : n;
}

/* One line "— NAME BASE64" of @n bytes: 1 a good signature by @key, 0 somebody else's, -EBADMSG a bad one, -EINVAL. */
static int check_line(const char *line, size_t n, const char *text, size_t text_n, const struct fh_note_key *key)
{
	size_t name_n = strlen(key->name), dash = sizeof(DASH) - 1;
	uint8_t sig[SIG_BYTES];
	const char *space;
	uint32_t id;

	if (n < dash || memcmp(line, DASH, dash))
		return -EINVAL;
	line += dash;
	n -= dash;
	space = memchr(line, ' ', n);
	if (!space || !name_ok(line, (size_t)(space - line)))
		return -EINVAL;
	if ((size_t)(space - line) != name_n || memcmp(line, key->name, name_n))
		return 0;
	if (!from_base64(space + 1, n - name_n - 1, sig, sizeof(sig)))
		return -EINVAL;
	id = (uint32_t)sig[0] << 24 | (uint32_t)sig[1] << 16 | (uint32_t)sig[2] << 8 | sig[3];
	if (id != key->id)
		return 0;
	return crypto_sign_verify_detached(sig + 4, (const uint8_t *)text, text_n, key->pub) ? -EBADMSG : 1;
}

/* The text ends with the last empty line. */
static const char *find_signatures(const char *note, size_t n)
{
	for (size_t i = n; i > 1; i--)
		if (note[i - 1] == '\n' && note[i - 2] == '\n')
			return note + i;
	return NULL;
}

int fh_note_open(const char *note, size_t n, const struct fh_note_key *key, struct fh_err *err)
{
	const char *line, *end = note + n, *sigs = n <= FH_NOTE_MAX ? find_signatures(note, n) : NULL;
	size_t text_n;
	bool good = false;

	if (!sigs || sigs == end || end[-1] != '\n')
		return fh_errf(err, -EINVAL, "this is no signed note: no empty line with signature lines after it");
	text_n = (size_t)(sigs - note) - 1;
	for (line = sigs; line < end;) {
		const char *nl = memchr(line, '\n', (size_t)(end - line));
		int rc = check_line(line, (size_t)(nl - line), note, text_n, key);

		if (rc == -EBADMSG)
			return fh_errf(err, rc, "the signature by %s+%08x is wrong: text or signature was changed",
				       key->name, key->id);
		if (rc < 0)
			return fh_errf(err, rc, "signature line at byte %zu: malformed", (size_t)(line - note));
		good |= rc == 1;
		line = nl + 1;
	}
	if (!good)
		return fh_errf(err, -EBADMSG, "there is no signature by %s+%08x", key->name, key->id);
	return (int)text_n;
}

int fh_checkpoint_sign(const struct fh_note_key *key, const struct fh_checkpoint *cp, char out[FH_CHECKPOINT_MAX])
{
	char root[sodium_base64_ENCODED_LEN(FH_HASH_BYTES, B64)], text[FH_NOTE_NAME_MAX + 256];
	int n;

	sodium_bin2base64(root, sizeof(root), cp->root.b, FH_HASH_BYTES, B64);
	n = snprintf(text, sizeof(text), "%s\n%" PRIu64 "\n%s\n", cp->origin, cp->size, root);
	sodium_bin2base64(root, sizeof(root), cp->held.hash.b, FH_HASH_BYTES, B64);
	if (cp->held.nr)
		snprintf(text + n, sizeof(text) - (size_t)n, HELD "%" PRIu64 " %" PRIu64 " %s\n", cp->held.nr,
			 cp->held.first, root);
	return fh_note_sign(key, text, out, FH_CHECKPOINT_MAX);
}

static int parse_size(const char *s, size_t n, uint64_t *out)
{
	*out = 0;
	if (!n || n > 19 || (n > 1 && *s == '0'))
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		if (s[i] < '0' || s[i] > '9')
			return -EINVAL;
		*out = *out * 10 + (uint64_t)(s[i] - '0');
	}
	return 0;
}

/* The line of @n bytes after the root hash: -EINVAL if it begins like that of texts and is none. Others are not ours.
 */
static int parse_held(const char *s, size_t n, struct fh_checkpoint *cp)
{
	const size_t before = sizeof(HELD) - 1;
	const char *first, *hash;

	if (n < before || memcmp(s, HELD, before))
		return 0;
	s += before;
	n -= before;
	first = memchr(s, ' ', n);
	hash = first ? memchr(first + 1, ' ', n - (size_t)(first + 1 - s)) : NULL;
	if (!hash || parse_size(s, (size_t)(first - s), &cp->held.nr) ||
	    parse_size(first + 1, (size_t)(hash - first - 1), &cp->held.first) ||
	    !from_base64(hash + 1, n - (size_t)(hash + 1 - s), cp->held.hash.b, FH_HASH_BYTES))
		return -EINVAL;
	return !cp->held.nr || cp->held.first >= cp->size || cp->held.nr > cp->size - cp->held.first ? -EINVAL : 0;
}

int fh_checkpoint_open(const char *note, size_t n, const struct fh_note_key *key, struct fh_checkpoint *cp,
		       struct fh_err *err)
{
	const char *line[3], *nl[3], *p = note, *end;
	int text_n = key ? fh_note_open(note, n, key, err) : (int)(n < FH_NOTE_MAX ? n : FH_NOTE_MAX);

	if (text_n < 0)
		return text_n;
	end = note + text_n;
	for (int i = 0; i < 3; i++) {
		line[i] = p;
		nl[i] = p < end ? memchr(p, '\n', (size_t)(end - p)) : NULL;
		if (!nl[i])
			return fh_errf(err, -EINVAL, "this is no checkpoint: it has fewer than three lines");
		p = nl[i] + 1;
	}
	*cp = (struct fh_checkpoint){0};
	if (!name_ok(line[0], (size_t)(nl[0] - line[0])) || parse_size(line[1], (size_t)(nl[1] - line[1]), &cp->size) ||
	    !from_base64(line[2], (size_t)(nl[2] - line[2]), cp->root.b, FH_HASH_BYTES))
		return fh_errf(err, -EINVAL, "this is no checkpoint: origin, size and root hash are wanted");
	memcpy(cp->origin, line[0], (size_t)(nl[0] - line[0]));
	nl[0] = p < end ? memchr(p, '\n', (size_t)(end - p)) : NULL;
	if (nl[0] && parse_held(p, (size_t)(nl[0] - p), cp))
		return fh_errf(err, -EINVAL, "this is no checkpoint: its line of texts is malformed");
	return 0;
}
