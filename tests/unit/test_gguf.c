// SPDX-License-Identifier: Apache-2.0
/*
 * The GGUF reader: every way in which a file can be wrong is built here byte by
 * byte and must be refused with a message that names the place.
 */
#include "runtime/model/gguf_types.h"
#include "tests/unit/gguf_build.h"

/* Open from an allocation of exactly the right size, so that a sanitizer sees one byte too far. */
static int open_copy(const void *p, size_t n, struct fh_gguf **g, struct fh_err *err, void **copy)
{
	*copy = malloc(n ? n : 1);
	cr_assert_not_null(*copy);
	if (n)
		memcpy(*copy, p, n);
	return fh_gguf_open_mem(*copy, n, g, err);
}

/* Opening @b must fail, saying @want somewhere; frees @b. */
static void refused(struct bytes b, const char *want)
{
	struct fh_gguf *g = NULL;
	struct fh_err err = {0};
	void *copy;
	int rc = open_copy(b.p, b.n, &g, &err, &copy);

	cr_expect_lt(rc, 0, "opened, but should have said: %s", want);
	cr_expect_eq(err.code, rc);
	cr_expect_not_null(strstr(err.msg, want), "said '%s', not '%s'", err.msg, want);
	cr_expect_null(strchr(err.msg, '\n'));
	if (!rc)
		fh_gguf_close(g);
	free(copy);
	free(b.p);
}

/* Open a file that must be right; the bytes belong to @copy. */
static struct fh_gguf *opened(struct bytes b, void **copy)
{
	struct fh_gguf *g = NULL;
	struct fh_err err = {0};
	int rc = open_copy(b.p, b.n, &g, &err, copy);

	cr_assert_eq(rc, 0, "%s", err.msg);
	free(b.p);
	return g;
}

/* A small good model: scalars of all types, arrays, three tensors. */
static struct bytes good(uint32_t version)
{
	struct bytes b = header(version, 3, 17);
	uint64_t u64 = UINT64_MAX;
	int64_t i64 = -5;
	double f64 = 0.1;
	float f32 = 1e-5F;

	key_str(&b, "general.architecture", "llama");
	key(&b, "u8", FH_GGUF_U8), put(&b, "\xff", 1);
	key(&b, "i8", FH_GGUF_I8), put(&b, "\xff", 1);
	key(&b, "u16", FH_GGUF_U16), put(&b, "\xff\xff", 2);
	key(&b, "i16", FH_GGUF_I16), put(&b, "\xff\x7f", 2);
	key_u32(&b, "u32", 7);
	key(&b, "i32", FH_GGUF_I32), put(&b, "\xfe\xff\xff\xff", 4);
	key(&b, "f32", FH_GGUF_F32), put(&b, &f32, 4);
	key(&b, "yes", FH_GGUF_BOOL), put(&b, "\1", 1);
	key(&b, "u64", FH_GGUF_U64), put(&b, &u64, 8);
	key(&b, "i64", FH_GGUF_I64), put(&b, &i64, 8);
	key(&b, "f64", FH_GGUF_F64), put(&b, &f64, 8);
	key(&b, "ints", FH_GGUF_ARR), put_u32(&b, FH_GGUF_I16), put_u64(&b, 3), put(&b, "\1\0\xff\xff\3\0", 6);
	key(&b, "strs", FH_GGUF_ARR), put_u32(&b, FH_GGUF_STR), put_u64(&b, 3);
	put_str(&b, "a\"\\"), put_str(&b, ""), put_str(&b, "\xe2\x96\x81x\n");
	key(&b, "none", FH_GGUF_ARR), put_u32(&b, FH_GGUF_F32), put_u64(&b, 0);
	key(&b, "nested", FH_GGUF_ARR), put_u32(&b, FH_GGUF_ARR), put_u64(&b, 2);
	put_u32(&b, FH_GGUF_U8), put_u64(&b, 1), put(&b, "x", 1);
	put_u32(&b, FH_GGUF_STR), put_u64(&b, 1), put_str(&b, "s");
	key_str(&b, "text", "caf\xc3\xa9 \xff\t|");
	tensor(&b, "a.weight", 0, 3, 5, 0);	/* 60 bytes, rows of no multiple of 32 */
	tensor(&b, "b.weight", 2, 64, 2, 64);	/* 72 */
	tensor(&b, "c.weight", 39, 32, 1, 160); /* 17 */
	pad(&b, 32);
	zeros(&b, 160);
	put(&b, "0123456789abcdefg", 17);
	return b;
}

Test(gguf, reads_both_versions)
{
	for (uint32_t version = 2; version <= 3; version++) {
		void *copy;
		struct fh_gguf *g = opened(good(version), &copy);
		const struct fh_tensor *t;

		cr_expect_eq(fh_gguf_version(g), version);
		cr_expect_str_eq(fh_gguf_path(g), "(memory)");
		cr_expect_eq(fh_gguf_nr_tensors(g), 3);
		cr_expect_eq(fh_gguf_nr_keys(g), 17);
		t = fh_gguf_tensor(g, "a.weight");
		cr_assert_not_null(t);
		cr_expect_eq(t, fh_gguf_tensor_at(g, 0));
		cr_expect(t->bytes == 60 && t->nr_dims == 2 && t->ne[0] == 3 && t->ne[1] == 5 && t->ne[2] == 1 &&
			  t->ne[3] == 1);
		cr_expect_eq(fh_gguf_tensor(g, "b.weight")->bytes, 72);
		t = fh_gguf_tensor(g, "c.weight");
		cr_assert_eq(t->bytes, 17);
		cr_expect_arr_eq(t->data, "0123456789abcdefg", 17);
		cr_expect_null(fh_gguf_tensor(g, "d.weight"));
		cr_expect_null(fh_gguf_tensor(g, ""));
		cr_expect_null(fh_gguf_tensor_at(g, 3));
		fh_gguf_close(g);
		free(copy);
	}
}

Test(gguf, integers_convert_without_loss_or_not_at_all)
{
	void *copy;
	struct fh_gguf *g = opened(good(3), &copy);
	uint64_t u = 42;
	uint32_t v = 42;
	float f = 42;

	cr_expect(!fh_gguf_u64(g, "u8", &u) && u == 255);
	cr_expect(!fh_gguf_u64(g, "u16", &u) && u == 65535);
	cr_expect(!fh_gguf_u64(g, "i16", &u) && u == 32767);
	cr_expect(!fh_gguf_u64(g, "u64", &u) && u == UINT64_MAX);
	cr_expect(!fh_gguf_u32(g, "u32", &v) && v == 7);
	cr_expect_eq(fh_gguf_u32(g, "u64", &v), -EINVAL);
	cr_expect_eq(fh_gguf_u32(g, "i32", &v), -EINVAL);
	cr_expect_eq(fh_gguf_u32(g, "f32", &v), -EINVAL);
	cr_expect_eq(fh_gguf_u32(g, "yes", &v), -EINVAL);
	cr_expect_eq(fh_gguf_u32(g, "strs", &v), -EINVAL);
	cr_expect_eq(fh_gguf_u32(g, "absent", &v), -ENOENT);
	cr_expect_eq(v, 7, "a failed call changed its output");
	cr_expect(!fh_gguf_f32(g, "f32", &f) && f == 1e-5F);
	cr_expect(!fh_gguf_f32(g, "f64", &f) && f == 0.1F);
	cr_expect(!fh_gguf_f32(g, "i8", &f) && f == -1);
	cr_expect(!fh_gguf_f32(g, "u64", &f) && f == 0x1p64F);
	cr_expect_eq(fh_gguf_f32(g, "text", &f), -EINVAL);
	cr_expect_eq(fh_gguf_f32(g, "absent", &f), -ENOENT);
	fh_gguf_close(g);
	free(copy);
}

Test(gguf, strings_bools_and_arrays)
{
	void *copy;
	struct fh_gguf *g = opened(good(3), &copy);
	struct fh_gguf_arr a;
	struct fh_str s = {0};
	bool yes = false;

	cr_expect(!fh_gguf_bool(g, "yes", &yes) && yes);
	cr_expect_eq(fh_gguf_bool(g, "u8", &yes), -EINVAL);
	cr_expect_eq(fh_gguf_bool(g, "absent", &yes), -ENOENT);
	cr_expect(!fh_gguf_str(g, "general.architecture", &s) && s.n == 5 && !memcmp(s.p, "llama", 5));
	cr_expect_eq(fh_gguf_str(g, "u32", &s), -EINVAL);
	cr_expect_eq(fh_gguf_str(g, "absent", &s), -ENOENT);
	cr_assert_eq(fh_gguf_arr(g, "ints", &a), 0);
	cr_expect(a.n == 3 && fh_gguf_arr_i64(&a, 1) == -1 && fh_gguf_arr_f64(&a, 2) == 3.0);
	cr_assert_eq(fh_gguf_arr(g, "strs", &a), 0);
	cr_expect(a.type == FH_GGUF_STR && a.n == 3 && !a.data);
	s = fh_gguf_arr_next(&a);
	cr_expect(s.n == 3 && *s.p == 'a');
	s = fh_gguf_arr_next(&a);
	cr_expect_eq(s.n, 0);
	s = fh_gguf_arr_next(&a);
	cr_expect(s.n == 5 && s.p[4] == '\n');
	cr_expect(!fh_gguf_arr(g, "none", &a) && a.n == 0);
	cr_expect_eq(fh_gguf_arr(g, "nested", &a), -EINVAL);
	cr_expect_eq(fh_gguf_arr(g, "u32", &a), -EINVAL);
	cr_expect_eq(fh_gguf_arr(g, "absent", &a), -ENOENT);
	fh_gguf_close(g);
	free(copy);
}

/* Numbers that have no 64-bit integer stay defined. */
Test(gguf, arrays_of_floats_as_integers)
{
	struct bytes b = header(3, 0, 2);
	double d[4] = {1e300, -1e300, __builtin_nan(""), -2.5};
	uint64_t u[1] = {UINT64_MAX};
	struct fh_gguf_arr a;
	struct fh_gguf *g;
	void *copy;

	key(&b, "d", FH_GGUF_ARR), put_u32(&b, FH_GGUF_F64), put_u64(&b, 4), put(&b, d, sizeof(d));
	key(&b, "u", FH_GGUF_ARR), put_u32(&b, FH_GGUF_U64), put_u64(&b, 1), put(&b, u, sizeof(u));
	g = opened(b, &copy);
	cr_assert_eq(fh_gguf_arr(g, "d", &a), 0);
	cr_expect_eq(fh_gguf_arr_i64(&a, 0), INT64_MAX);
	cr_expect_eq(fh_gguf_arr_i64(&a, 1), INT64_MIN);
	cr_expect_eq(fh_gguf_arr_i64(&a, 2), 0);
	cr_expect_eq(fh_gguf_arr_i64(&a, 3), -2);
	cr_assert_eq(fh_gguf_arr(g, "u", &a), 0);
	cr_expect_eq(fh_gguf_arr_i64(&a, 0), INT64_MAX);
	cr_expect_eq(fh_gguf_arr_f64(&a, 0), 0x1p64);
	fh_gguf_close(g);
	free(copy);
}

Test(gguf, values_as_text)
{
	static const char *const want[] = {
		"llama",
		"255",
		"-1",
		"65535",
		"32767",
		"7",
		"-2",
		"1e-05",
		"true",
		"18446744073709551615",
		"-5",
		"0.1",
		"[1, -1, 3]",
		"[\"a\\\"\\\\\", \"\", \"\xe2\x96\x81x\\n\"]",
		"[]",
		"(2 arrays)",
		"caf\xc3\xa9 \\xff\\t|",
	};
	void *copy;
	struct fh_gguf *g = opened(good(3), &copy);
	enum fh_gguf_vtype type;
	char s[64];

	for (uint64_t i = 0; i < 17; i++) {
		cr_expect_eq(fh_gguf_value_text(g, i, s, sizeof(s)), strlen(want[i]));
		cr_expect_str_eq(s, want[i]);
	}
	/* Cut short, never inside a character, always terminated. */
	for (size_t cap = 1; cap < 12; cap++) {
		size_t n = fh_gguf_value_text(g, 16, s, cap);

		cr_expect(n < cap && s[n] == '\0');
		cr_expect(n == 0 || (uint8_t)s[n - 1] != 0xc3);
	}
	cr_expect_eq(fh_gguf_value_text(g, 16, s, 0), 0);
	cr_expect_eq(fh_gguf_value_text(g, 99, s, sizeof(s)), 0);
	cr_expect_eq(fh_gguf_key_at(g, 16, &type).n, 4);
	cr_expect_eq(type, FH_GGUF_STR);
	cr_expect_null(fh_gguf_key_at(g, 17, &type).p);
	fh_gguf_close(g);
	free(copy);
}

/* What people really point us at instead of a model. */
Test(gguf, says_what_else_the_file_is)
{
	static const struct {
		const char *p;
		size_t n;
		const char *want;
	} files[] = {
		{"", 0, "empty"},
		{"GG", 2, "not a GGUF file"},
		{"ELF", 3, "not a GGUF file"},
		{"version https://git-lfs.github.com/spec/v1\noid", 46, "git lfs pull"},
		{"<!DOCTYPE html>", 15, "HTML"},
		{"\n\n  <html>", 10, "HTML"},
		{"{\"error\": 1}", 12, "JSON"},
		{"\x10\0\0\0\0\0\0\0{\"__metadata__\"", 23, "safetensors"},
		{"PK\3\4....", 8, "PyTorch"},
		{"tjgg\1\0\0\0", 8, "GGML file of 2023"},
		{"lmgg\1\0\0\0", 8, "GGML file of 2023"},
		{"\x1f\x8b\x08\x00", 4, "gzip"},
		{"\x28\xb5\x2f\xfd", 4, "zstd"},
		{"\xfd"
		 "7zXZ\0",
		 6, "xz"},
		{"\0\0\0\0\0\0\0\0", 8, "never finished"},
		{"GGUF\3\0\0\0", 8, "truncated"},
	};

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		struct bytes b = {0};

		put(&b, files[i].p, files[i].n);
		refused(b, files[i].want);
	}
}

Test(gguf, refuses_other_versions)
{
	refused(header(1, 0, 0), "version 1 at byte 4");
	refused(header(4, 0, 0), "version 4 at byte 4");
	refused(header(0, 0, 0), "version 0");
	refused(header(3U << 24, 0, 0), "big-endian");
	refused(header(2U << 24, 0, 0), "big-endian");
}

Test(gguf, refuses_counts_that_cannot_be)
{
	refused(header(3, 0, 1), "states 1 keys");
	refused(header(3, 1, 0), "states 1 tensors");
	refused(header(3, UINT64_MAX, 0), "tensors");
	refused(header(3, 0, UINT64_MAX), "keys");
	for (int i = 0; i < 2; i++) { /* enough bytes, still too many */
		struct bytes b = header(3, i ? 0 : (1 << 20) + 1, i ? (1 << 16) + 1 : 0);

		zeros(&b, (1 << 20) * 26);
		refused(b, i ? "65537 keys" : "1048577 tensors");
	}
}

Test(gguf, refuses_bad_names)
{
	struct bytes b = header(3, 0, 1);

	put_u64(&b, 0), zeros(&b, 20);
	refused(b, "a key's name at byte 24 is 0 bytes long");
	b = header(3, 0, 1);
	put_u64(&b, 65536), zeros(&b, 70000);
	refused(b, "65536 bytes long");
	b = header(3, 0, 1);
	put_u64(&b, UINT64_MAX), zeros(&b, 20);
	refused(b, "18446744073709551615 bytes long");
	b = header(3, 0, 1);
	put_u64(&b, 100), zeros(&b, 20);
	refused(b, "a key's name at byte 24 does not fit");
	b = header(3, 0, 1);
	put_u64(&b, 4), put(&b, "a\0b\n", 4), zeros(&b, 20);
	refused(b, "'a?b?' at byte 24 holds a zero byte");
	b = header(3, 1, 0);
	put_u64(&b, 0), zeros(&b, 40);
	refused(b, "a tensor's name at byte 24 is 0 bytes long");
}

Test(gguf, refuses_bad_values)
{
	struct bytes b = header(3, 0, 1);

	key(&b, "odd", 13), zeros(&b, 20);
	refused(b, "'odd' has value type 13 at byte 35");
	b = header(3, 0, 1);
	key(&b, "cut", FH_GGUF_U64), zeros(&b, 7);
	refused(b, "value of key 'cut' at byte 39");
	b = header(3, 0, 1);
	key(&b, "long", FH_GGUF_STR), put_u64(&b, UINT64_MAX);
	refused(b, "'long'");
	b = header(3, 0, 1);
	key(&b, "arr", FH_GGUF_ARR), put_u32(&b, FH_GGUF_U64), put_u64(&b, (uint64_t)1 << 61);
	refused(b, "'arr'");
	b = header(3, 0, 1);
	key(&b, "strs", FH_GGUF_ARR), put_u32(&b, FH_GGUF_STR), put_u64(&b, UINT64_MAX), zeros(&b, 800);
	refused(b, "'strs'");
	b = header(3, 0, 1);
	key(&b, "what", FH_GGUF_ARR), put_u32(&b, 77), put_u64(&b, 0);
	refused(b, "'what'");
	b = header(3, 0, 1);
	key(&b, "head", FH_GGUF_ARR), put_u32(&b, FH_GGUF_U8);
	refused(b, "'head'");
}

/* Arrays in arrays, as deep as the file is long, must not cost us the stack. */
Test(gguf, refuses_deep_nesting)
{
	for (int depth = 3; depth <= 100000; depth = depth < 10 ? depth + 1 : 100 * depth) {
		struct bytes b = header(3, 0, 1);
		void *copy;

		key(&b, "deep", FH_GGUF_ARR);
		for (int i = 1; i < depth; i++)
			put_u32(&b, FH_GGUF_ARR), put_u64(&b, 1);
		put_u32(&b, FH_GGUF_U8), put_u64(&b, 0);
		if (depth <= 4) {
			fh_gguf_close(opened(b, &copy));
			free(copy);
		} else {
			refused(b, "nests deeper than 4");
		}
	}
}

Test(gguf, refuses_duplicates)
{
	struct bytes b = header(3, 0, 3);

	key_u32(&b, "one", 1), key_u32(&b, "two", 1), key_u32(&b, "one", 2);
	refused(b, "key 'one' stands twice");
	b = header(3, 2, 0);
	tensor(&b, "w", 0, 4, 4, 0), tensor(&b, "w", 0, 4, 4, 64);
	pad(&b, 32), zeros(&b, 128);
	refused(b, "tensor 'w' stands twice in the model (again at byte 73)");
}

Test(gguf, alignment)
{
	static const uint32_t bad[] = {0, 1, 4, 24, 1 << 21, UINT32_MAX};
	struct bytes b;
	struct fh_gguf *g;
	void *copy;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		b = header(3, 0, 1);
		key_u32(&b, "general.alignment", bad[i]);
		refused(b, "general.alignment at byte 53");
	}
	b = header(3, 0, 1);
	key_str(&b, "general.alignment", "32");
	refused(b, "general.alignment");
	b = header(3, 1, 1);
	key_u32(&b, "general.alignment", 128);
	tensor(&b, "w", 0, 1, 1, 0);
	pad(&b, 128), put(&b, "\0\0\x80\x3f", 4);
	g = opened(b, &copy);
	cr_expect_eq(((const uint8_t *)fh_gguf_tensor(g, "w")->data)[3], 0x3f);
	fh_gguf_close(g);
	free(copy);
}

static void refused_tensor(uint32_t type, uint64_t ne0, uint64_t ne1, uint64_t offset, const char *want)
{
	struct bytes b = header(3, 1, 0);

	tensor(&b, "blk.0.w", type, ne0, ne1, offset);
	pad(&b, 32), zeros(&b, 64);
	refused(b, want);
}

Test(gguf, refuses_bad_tensors)
{
	struct bytes b = header(3, 1, 0);

	put_str(&b, "five"), put_u32(&b, 5), zeros(&b, 80);
	refused(b, "'five' has 5 dimensions at byte 36");
	refused_tensor(0, 0, 4, 0, "tensor 'blk.0.w' before byte 71 has no elements (dimension 0 is 0)");
	refused_tensor(0, 4, 0, 0, "dimension 1 is 0");
	refused_tensor(4, 32, 1, 0, "tensor 'blk.0.w' before byte 71 has type number 4");
	refused_tensor(250, 32, 1, 0, "type number 250");
	refused_tensor(UINT32_MAX, 32, 1, 0, "type number 4294967295");
	refused_tensor(2, 48, 1, 0, "rows of 48, which are no whole blocks of Q4_0 (32)");
	refused_tensor(12, 128, 1, 0, "no whole blocks of Q4_K (256)");
	refused_tensor(0, (uint64_t)1 << 40, (uint64_t)1 << 40, 0, "63 bits");
	refused_tensor(0, (uint64_t)1 << 62, 2, 0, "63 bits");
	refused_tensor(0, (uint64_t)1 << 61, 1, 0, "63 bits");
	refused_tensor(0, 4, 4, 8,
		       "offset 8 of the data (which begins at byte 96), not a multiple of the alignment 32");
	refused_tensor(0, 4, 4, 64, "but the file ends at byte 160: it is truncated");
	refused_tensor(0, 4, 5, 0, "wants 80 bytes at offset 0");
	refused_tensor(0, 4, 4, UINT64_MAX - 31, "truncated");
	refused_tensor(0, (uint64_t)1 << 60, 1, 0, "truncated");
}

/* No prefix of a good file opens as something else, and none is read past its end. */
Test(gguf, every_truncation_is_refused)
{
	struct bytes b = good(3);

	for (size_t n = 0; n < b.n; n++) {
		struct fh_gguf *g = NULL;
		struct fh_err err = {0};
		void *copy;

		cr_assert_lt(open_copy(b.p, n, &g, &err, &copy), 0, "opened with %zu of %zu bytes", n, b.n);
		cr_assert_gt(strlen(err.msg), 20);
		free(copy);
	}
	free(b.p);
}

/* One wrong byte may pass or fail, but never reads outside (a sanitizer's build shows it). */
Test(gguf, any_wrong_byte_is_survived)
{
	struct bytes b = good(2);
	static const uint8_t flip[] = {0x01, 0x80, 0xff};
	uint64_t passed = 0;

	for (size_t at = 0; at < b.n; at++) {
		for (size_t k = 0; k < sizeof(flip); k++) {
			struct fh_gguf *g = NULL;
			struct fh_err err = {0};
			void *copy;
			char s[64];

			b.p[at] ^= flip[k];
			if (!open_copy(b.p, b.n, &g, &err, &copy)) {
				passed++;
				for (uint64_t i = 0; i < fh_gguf_nr_keys(g); i++)
					fh_gguf_value_text(g, i, s, sizeof(s));
				for (uint64_t i = 0; i < fh_gguf_nr_tensors(g); i++) {
					const struct fh_tensor *t = fh_gguf_tensor_at(g, i);
					const uint8_t *p = t->data;

					cr_assert(p >= (uint8_t *)copy && p + t->bytes <= (uint8_t *)copy + b.n);
				}
				fh_gguf_close(g);
			}
			free(copy);
			b.p[at] ^= flip[k];
		}
	}
	cr_expect_gt(passed, 0); /* the data itself may hold anything */
	free(b.p);
}

/* Names by the thousand: all found, none else. */
Test(gguf, finds_many)
{
	enum { N = 50000 };
	struct bytes b = header(3, N, N);
	struct fh_gguf *g;
	char name[32];
	void *copy;

	for (uint32_t i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "key.%u", i);
		key_u32(&b, name, i);
	}
	for (uint32_t i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "w.%u", i);
		tensor(&b, name, 24, 1, 1, 0);
	}
	pad(&b, 32), zeros(&b, 1);
	g = opened(b, &copy);
	for (uint32_t i = 0; i < N; i += 7) {
		uint32_t v = UINT32_MAX;

		snprintf(name, sizeof(name), "key.%u", i);
		cr_assert(!fh_gguf_u32(g, name, &v) && v == i);
		snprintf(name, sizeof(name), "w.%u", i);
		cr_assert_eq(fh_gguf_tensor(g, name), fh_gguf_tensor_at(g, i));
		snprintf(name, sizeof(name), "x.%u", i);
		cr_assert_null(fh_gguf_tensor(g, name));
	}
	fh_gguf_close(g);
	free(copy);
}

Test(gguf, types)
{
	cr_expect_eq(fh_gguf_type_by_name("q4_k"), 12);
	cr_expect_eq(fh_gguf_type_by_name("BF16"), 30);
	cr_expect_eq(fh_gguf_type_by_name("Q4"), -1);
	cr_expect_eq(fh_gguf_type(39)->block_bytes, 17);
	cr_expect_null(fh_gguf_type(5));
	cr_expect_null(fh_gguf_type(1000));
}
