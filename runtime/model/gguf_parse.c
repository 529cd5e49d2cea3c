// SPDX-License-Identifier: Apache-2.0
/*
 * From the bytes of one GGUF file to its keys and tensors.
 *
 * The rule of this file: no length, count or offset is used before it has been
 * compared with what is left.  Comparisons are written as "wanted > left", never
 * as a sum that could wrap.  Recursion is bounded by GGUF_MAX_NESTING, every
 * loop by the number of bytes, memory by GGUF_MAX_KEYS and GGUF_MAX_TENSORS.
 * The records point into the bytes; the arrays of records are the file's.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/gguf_priv.h"
#include "runtime/model/gguf_types.h"

struct cursor {
	const struct gguf_file *f;
	uint64_t at;
	struct fh_err *err;
};

static uint64_t left(const struct cursor *c)
{
	return c->f->bytes - c->at;
}

/* The next @n bytes, or NULL. */
static const uint8_t *take(struct cursor *c, uint64_t n)
{
	const uint8_t *p = c->f->base + c->at;

	if (n > left(c))
		return NULL;
	c->at += n;
	return p;
}

static int truncated(const struct cursor *c, uint64_t at, const char *what)
{
	return fh_errf(c->err, -EINVAL,
		       "%s: %s at byte %" PRIu64 " does not fit into the %" PRIu64
		       " bytes of the file, which is truncated or damaged: download it again",
		       gguf_path_tail(c->f->path), what, at, c->f->bytes);
}

static int take_u32(struct cursor *c, const char *what, uint32_t *out)
{
	const uint8_t *p = take(c, 4);

	if (!p)
		return truncated(c, c->at, what);
	*out = gguf_le32(p);
	return 0;
}

static int take_u64(struct cursor *c, const char *what, uint64_t *out)
{
	const uint8_t *p = take(c, 8);

	if (!p)
		return truncated(c, c->at, what);
	*out = gguf_le64(p);
	return 0;
}

/* A name: a string that is not empty, not endless, and holds no zero byte, so that C strings can find it. */
static int take_name(struct cursor *c, const char *what, struct fh_str *out)
{
	uint64_t start = c->at, n = 0;
	const uint8_t *p;
	int rc = take_u64(c, what, &n);

	if (rc)
		return rc;
	if (n == 0 || n > GGUF_MAX_NAME)
		return fh_errf(c->err, -EINVAL,
			       "%s: %s at byte %" PRIu64 " is %" PRIu64
			       " bytes long (allowed: 1 to %d); the file is damaged: download it again",
			       gguf_path_tail(c->f->path), what, start, n, GGUF_MAX_NAME);
	p = take(c, n);
	if (!p)
		return truncated(c, start, what);
	*out = (struct fh_str){.p = (const char *)p, .n = n};
	if (memchr(p, 0, n))
		return fh_errf(c->err, -EINVAL,
			       "%s: %s '%s' at byte %" PRIu64
			       " holds a zero byte; the file is damaged: download it again",
			       gguf_path_tail(c->f->path), what, gguf_show(*out).s, start);
	return 0;
}

static bool skip_value(struct cursor *c, uint32_t type, int depth);

static bool skip_string(struct cursor *c)
{
	const uint8_t *p = take(c, 8);

	return p && take(c, gguf_le64(p));
}

/* An array: element type, count, elements. False when it does not fit, or nests too deep. */
static bool skip_array(struct cursor *c, int depth)
{
	const uint8_t *p = take(c, 12);
	uint32_t type, each;
	uint64_t n;

	if (!p || depth >= GGUF_MAX_NESTING)
		return false;
	type = gguf_le32(p);
	n = gguf_le64(p + 4);
	each = gguf_vtype_bytes(type);
	if (each) {
		if (n > left(c) / each)
			return false;
		take(c, n * each);
		return true;
	}
	if (type != FH_GGUF_STR && type != FH_GGUF_ARR)
		return false;
	/* Each element takes 8 bytes or more, so a false count ends the loop early. */
	for (uint64_t i = 0; i < n; i++) {
		if (!skip_value(c, type, depth + 1))
			return false;
	}
	return true;
}

static bool skip_value(struct cursor *c, uint32_t type, int depth)
{
	if (type == FH_GGUF_STR)
		return skip_string(c);
	if (type == FH_GGUF_ARR)
		return skip_array(c, depth);
	return gguf_vtype_bytes(type) && take(c, gguf_vtype_bytes(type));
}

static int parse_key(struct cursor *c, struct gguf_key *k)
{
	uint64_t start;
	int rc = take_name(c, "a key's name", &k->name);

	if (!rc)
		rc = take_u32(c, "a key's type", &k->type);
	if (rc)
		return rc;
	if (k->type > FH_GGUF_F64)
		return fh_errf(c->err, -EINVAL,
			       "%s: key '%s' has value type %" PRIu32 " at byte %" PRIu64
			       ", which GGUF does not define; the file is damaged: download it again",
			       gguf_path_tail(c->f->path), gguf_show(k->name).s, k->type, c->at - 4);
	start = c->at;
	k->value = c->f->base + start;
	if (!skip_value(c, k->type, 0))
		return fh_errf(c->err, -EINVAL,
			       "%s: the value of key '%s' at byte %" PRIu64 " does not fit into the %" PRIu64
			       " bytes of the file, or nests deeper than %d arrays; it is truncated or damaged: "
			       "download it again",
			       gguf_path_tail(c->f->path), gguf_show(k->name).s, start, c->f->bytes, GGUF_MAX_NESTING);
	k->bytes = c->at - start;
	return 0;
}

/* Bytes of @t from its shape and type; -ERANGE when the product does not fit 63 bits. */
static int tensor_bytes(struct fh_tensor *t, const struct fh_gguf_type *type)
{
	uint64_t weights = 1;

	for (int i = 0; i < 4; i++) {
		if (__builtin_mul_overflow(weights, t->ne[i], &weights))
			return -ERANGE;
	}
	if (__builtin_mul_overflow(weights / type->block, type->block_bytes, &t->bytes) || t->bytes > INT64_MAX)
		return -ERANGE;
	return 0;
}

static int check_shape(const struct cursor *c, struct fh_tensor *t)
{
	const struct fh_gguf_type *type = fh_gguf_type(t->type);
	const char *path = gguf_path_tail(c->f->path);

	for (uint32_t i = 0; i < t->nr_dims; i++) {
		if (t->ne[i] == 0)
			return fh_errf(c->err, -EINVAL,
				       "%s: tensor '%s' before byte %" PRIu64 " has no elements (dimension %" PRIu32
				       " is 0); the file is damaged: download it again",
				       path, gguf_show(t->name).s, c->at, i);
	}
	if (!type)
		return fh_errf(c->err, -EINVAL,
			       "%s: tensor '%s' before byte %" PRIu64 " has type number %" PRIu32
			       ", whose size is unknown here; use a file in another quantization (Q4_K_M, Q8_0, F16)",
			       path, gguf_show(t->name).s, c->at, t->type);
	if (t->ne[0] % type->block)
		return fh_errf(c->err, -EINVAL,
			       "%s: tensor '%s' before byte %" PRIu64 " has rows of %" PRIu64
			       ", which are no whole blocks of %s (%" PRIu32 "); the file is damaged: convert it again",
			       path, gguf_show(t->name).s, c->at, t->ne[0], type->name, type->block);
	if (tensor_bytes(t, type))
		return fh_errf(c->err, -EINVAL,
			       "%s: tensor '%s' before byte %" PRIu64
			       " has more elements than 63 bits count; the file is damaged: download it again",
			       path, gguf_show(t->name).s, c->at);
	return 0;
}

/* One tensor's description; its offset, still relative to the data, is left in @offset. */
static int parse_tensor(struct cursor *c, struct fh_tensor *t, uint64_t *offset)
{
	int rc = take_name(c, "a tensor's name", &t->name);

	if (!rc)
		rc = take_u32(c, "a tensor's number of dimensions", &t->nr_dims);
	if (rc)
		return rc;
	if (t->nr_dims > 4)
		return fh_errf(c->err, -EINVAL,
			       "%s: tensor '%s' has %" PRIu32 " dimensions at byte %" PRIu64
			       " (at most 4); the file is damaged: download it again",
			       gguf_path_tail(c->f->path), gguf_show(t->name).s, t->nr_dims, c->at - 4);
	for (uint32_t i = 0; i < 4; i++)
		t->ne[i] = 1;
	for (uint32_t i = 0; i < t->nr_dims && !rc; i++)
		rc = take_u64(c, "a tensor's shape", &t->ne[i]);
	if (!rc)
		rc = take_u32(c, "a tensor's type", &t->type);
	if (!rc)
		rc = take_u64(c, "a tensor's offset", offset);
	if (rc)
		return rc;
	if (t->nr_dims == 0) /* a scalar, as some writers put it */
		t->nr_dims = 1;
	return check_shape(c, t);
}

/* Turn relative offsets into pointers, now that the start of the data is known. */
static int place_tensors(struct gguf_file *f, const uint64_t *offset, uint64_t infos_end, struct fh_err *err)
{
	uint64_t mask = f->alignment - 1, data = (infos_end + mask) & ~mask;

	for (uint64_t i = 0; i < f->nr_tensors; i++) {
		struct fh_tensor *t = &f->tensor[i];

		if (offset[i] & mask)
			return fh_errf(err, -EINVAL,
				       "%s: tensor '%s' lies at offset %" PRIu64
				       " of the data (which begins at byte %" PRIu64
				       "), not a multiple of the alignment %" PRIu32
				       "; the file is damaged: download it again",
				       gguf_path_tail(f->path), gguf_show(t->name).s, offset[i], data, f->alignment);
		if (data > f->bytes || offset[i] > f->bytes - data || t->bytes > f->bytes - data - offset[i])
			return fh_errf(err, -EINVAL,
				       "%s: tensor '%s' wants %" PRIu64 " bytes at offset %" PRIu64
				       " of the data (which begins at byte %" PRIu64
				       "), but the file ends at byte %" PRIu64 ": it is truncated; download it again",
				       gguf_path_tail(f->path), gguf_show(t->name).s, t->bytes, offset[i], data,
				       f->bytes);
		t->data = f->base + data + offset[i];
	}
	return 0;
}

/* What a file is that does not begin with "GGUF"; each answer ends in what to do. */
static const char *what_else(const uint8_t *p, uint64_t n)
{
	static const struct {
		uint8_t at, n;
		char magic[16];
		const char *is;
	} known[] = {
		{0, 15, "version https:/", "a Git LFS pointer, not the model itself: fetch it with `git lfs pull`"},
		{0, 4, "PK\3\4", "a zip archive, perhaps a PyTorch checkpoint: convert it to GGUF first"},
		{0, 4, "lmgg", "a GGML file of 2023: get the model as GGUF"},
		{0, 4, "fmgg", "a GGML file of 2023: get the model as GGUF"},
		{0, 4, "tjgg", "a GGML file of 2023: get the model as GGUF"},
		{0, 2, "\x1f\x8b", "compressed with gzip: unpack it first"},
		{0, 4, "\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"},
		{0, 5,
		 "\xfd"
		 "7zXZ",
		 "compressed with xz: unpack it first"},
		{8, 2, "{\"", "probably safetensors: convert it to GGUF first"},
		{0, 4, "\0\0\0\0",
		 "empty where its header should be, so its download never finished: download it again"},
	};
	uint64_t i = 0;

	for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++) {
		if (n >= (uint64_t)known[k].at + known[k].n && !memcmp(p + known[k].at, known[k].magic, known[k].n))
			return known[k].is;
	}
	while (i < n && i < 64 && isspace(p[i]))
		i++;
	if (i < n && p[i] == '<')
		return "an HTML or XML page, perhaps a login or error page: look at it, and download the model again";
	if (i < n && p[i] == '{')
		return "JSON text: name the .gguf file instead";
	return "not a GGUF file (its first bytes are not \"GGUF\"): name a .gguf file";
}

static int parse_header(struct cursor *c, uint64_t *nr_keys)
{
	struct gguf_file *f = (struct gguf_file *)c->f;
	const char *path = gguf_path_tail(f->path);
	const uint8_t *p;

	if (f->bytes == 0)
		return fh_errf(c->err, -EINVAL, "%s: the file is empty: download it again", path);
	if (f->bytes < 4 || memcmp(f->base, "GGUF", 4))
		return fh_errf(c->err, -EINVAL, "%s: the file is %s", path, what_else(f->base, f->bytes));
	p = take(c, 24);
	if (!p)
		return truncated(c, 0, "the header (24 bytes)");
	f->version = gguf_le32(p + 4);
	f->nr_tensors = gguf_le64(p + 8);
	*nr_keys = gguf_le64(p + 16);
	if (f->version && !(f->version & 0xffff))
		return fh_errf(
			c->err, -EINVAL,
			"%s: the version at byte 4 is byte-swapped: a big-endian file; get the little-endian one, or "
			"convert it",
			path);
	if (f->version < 2 || f->version > 3)
		return fh_errf(c->err, -EINVAL,
			       "%s: GGUF version %" PRIu32 " at byte 4; versions 2 and 3 are supported: %s", path,
			       f->version,
			       f->version < 2 ? "convert the model again with a newer converter"
					      : "a newer release of this program may read it");
	/* The smallest key is name length, a letter, type, a byte; the smallest tensor has no dimension at all. */
	if (*nr_keys > GGUF_MAX_KEYS || *nr_keys > left(c) / 14)
		return fh_errf(c->err, -EINVAL,
			       "%s: the header at byte 16 states %" PRIu64 " keys, more than a file of %" PRIu64
			       " bytes can hold or we accept (%d); it is truncated or damaged: download it again",
			       path, *nr_keys, f->bytes, GGUF_MAX_KEYS);
	if (f->nr_tensors > GGUF_MAX_TENSORS || f->nr_tensors > left(c) / 25)
		return fh_errf(c->err, -EINVAL,
			       "%s: the header at byte 8 states %" PRIu64 " tensors, more than a file of %" PRIu64
			       " bytes can hold or we accept (%d); it is truncated or damaged: download it again",
			       path, f->nr_tensors, f->bytes, GGUF_MAX_TENSORS);
	return 0;
}

static int parse_keys(struct cursor *c, struct gguf_file *f, uint64_t nr_keys)
{
	const struct gguf_key *k;
	uint64_t align = GGUF_ALIGN_DEFAULT, dup = 0;
	int rc;

	for (uint64_t i = 0; i < nr_keys; i++) {
		rc = parse_key(c, &f->key[i]);
		if (rc)
			return rc;
		f->nr_keys++;
	}
	rc = gguf_table_build(&f->key_table, f->key, sizeof(*f->key), f->nr_keys, &dup);
	if (rc == -EEXIST)
		return fh_errf(c->err, -EINVAL,
			       "%s: key '%s' stands twice in the file (again before byte %" PRIu64
			       "); which one is meant cannot be known: convert the model again",
			       gguf_path_tail(f->path), gguf_show(f->key[dup].name).s,
			       (uint64_t)(f->key[dup].value - f->base));
	if (rc)
		return fh_errf(c->err, rc, "%s: no memory for %" PRIu64 " keys", gguf_path_tail(f->path), f->nr_keys);
	k = gguf_file_key(f, "general.alignment");
	if (k && (gguf_key_u64(k, &align) || align < 8 || align > (1 << 20) || (align & (align - 1))))
		return fh_errf(c->err, -EINVAL,
			       "%s: general.alignment at byte %" PRIu64
			       " is no power of two from 8 to 1048576; the file is "
			       "damaged: convert the model again",
			       gguf_path_tail(f->path), (uint64_t)(k->value - f->base));
	f->alignment = (uint32_t)align;
	return 0;
}

int gguf_parse(struct gguf_file *f, struct fh_err *err)
{
	struct cursor c = {.f = f, .err = err};
	uint64_t nr_keys = 0, *offset = NULL;
	int rc = parse_header(&c, &nr_keys);

	if (rc) {
		f->nr_tensors = 0;
		return rc;
	}
	f->key = calloc(nr_keys + 1, sizeof(*f->key));
	f->tensor = calloc(f->nr_tensors + 1, sizeof(*f->tensor));
	offset = calloc(f->nr_tensors + 1, sizeof(*offset));
	if (!f->key || !f->tensor || !offset) {
		rc = fh_errf(err, -ENOMEM, "%s: no memory for %" PRIu64 " keys and %" PRIu64 " tensors",
			     gguf_path_tail(f->path), nr_keys, f->nr_tensors);
		goto out;
	}
	rc = parse_keys(&c, f, nr_keys);
	for (uint64_t i = 0; i < f->nr_tensors && !rc; i++)
		rc = parse_tensor(&c, &f->tensor[i], &offset[i]);
	if (!rc)
		rc = place_tensors(f, offset, c.at, err);
out:
	free(offset);
	return rc;
}
