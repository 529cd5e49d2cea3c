// SPDX-License-Identifier: Apache-2.0
/*
 * The GGUF reader on files rather than bytes: split models, paths that are no
 * files, and every model and vocabulary of the fixtures.
 */
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/gguf_build.h"

/* A folder for files, gone when the test ends well. */
static char dir[64];

static void make_dir(void)
{
	strcpy(dir, "/tmp/fh-gguf-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
}

static int unlink_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static void drop_dir(void)
{
	nftw(dir, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
}

static const char *write_file(const char *name, struct bytes b)
{
	static char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "wb");
	cr_assert_not_null(f);
	cr_assert(b.n == 0 || fwrite(b.p, 1, b.n, f) == b.n);
	fclose(f);
	free(b.p);
	return path;
}

/* Split @no of @count with one tensor @name; @total 0 leaves split.tensors.count out. */
static struct bytes split(uint32_t no, uint32_t count, uint32_t total, const char *name)
{
	struct bytes b = header(3, 1, 3 + (total > 0));

	key_str(&b, no ? "split.note" : "general.architecture", "llama");
	key(&b, "split.no", FH_GGUF_U16), put(&b, &no, 2);
	key(&b, "split.count", FH_GGUF_U16), put(&b, &count, 2);
	if (total)
		key(&b, "split.tensors.count", FH_GGUF_I32), put_u32(&b, total);
	tensor(&b, name, 0, 1, 1, 0);
	pad(&b, 32), put(&b, &no, 4);
	return b;
}

static void refused_path(const char *path, const char *want)
{
	struct fh_gguf *g;
	struct fh_err err = {0};

	cr_expect_lt(fh_gguf_open(path, &g, &err), 0);
	cr_expect_not_null(strstr(err.msg, want), "said '%s', not '%s'", err.msg, want);
}

Test(gguf_files, any_split_opens_all, .init = make_dir, .fini = drop_dir)
{
	static const char *const names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};
	char path[128];

	write_file(names[0], split(0, 3, 3, "a"));
	write_file(names[1], split(1, 3, 3, "b"));
	write_file(names[2], split(2, 3, 0, "c"));
	for (int i = 0; i < 3; i++) {
		struct fh_gguf *g;
		struct fh_err err = {0};
		struct fh_str s;
		const void *at;
		uint32_t word;

		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		cr_assert_eq(fh_gguf_open(path, &g, &err), 0, "%s", err.msg);
		cr_expect_str_eq(fh_gguf_path(g), path);
		cr_expect_eq(fh_gguf_nr_tensors(g), 3);
		cr_expect_eq(*(const uint32_t *)fh_gguf_tensor(g, "c")->data, 2);
		cr_expect_eq(*(const uint32_t *)fh_gguf_tensor(g, "b")->data, 1);
		cr_expect_eq(fh_gguf_str(g, "general.architecture", &s), 0);
		cr_expect_eq(fh_gguf_str(g, "split.note", &s), -ENOENT);
		cr_expect_gt(fh_gguf_file_bytes(g), 300);
		fh_gguf_willneed(g);
		cr_expect_eq(fh_gguf_fetch(g, fh_gguf_tensor(g, "c")->data, 4, &word, &at), 0);
		cr_expect_eq(at, &word, "a file is read");
		cr_expect_eq(word, 2, "from the split that holds the tensor");
		fh_gguf_close(g);
	}
}

Test(gguf_files, refuses_splits_that_disagree, .init = make_dir, .fini = drop_dir)
{
	struct fh_err err = {0};
	struct fh_gguf *g;
	struct bytes b;
	const char *first;

	write_file("m-00002-of-00002.gguf", split(1, 2, 2, "b"));
	first = write_file("m-00001-of-00002.gguf", split(0, 2, 2, "b"));
	refused_path(first, "tensor 'b' stands twice");
	write_file("m-00002-of-00002.gguf", split(1, 3, 2, "c"));
	first = write_file("m-00001-of-00002.gguf", split(0, 2, 2, "b"));
	refused_path(first, "says that it is split 2 of 3");
	write_file("m-00002-of-00002.gguf", split(0, 2, 2, "c"));
	first = write_file("m-00001-of-00002.gguf", split(0, 2, 2, "b"));
	refused_path(first, "split 1 of 2, but its name and the other splits say 2 of 2");
	write_file("m-00002-of-00002.gguf", split(1, 2, 2, "c"));
	first = write_file("m-00001-of-00002.gguf", split(0, 2, 7, "b"));
	refused_path(first, "hold 2 tensors, but split.tensors.count disagrees");
	first = write_file("n-00001-of-00002.gguf", split(0, 2, 2, "b"));
	refused_path(first, "n-00002-of-00002.gguf: missing");
	refused_path(write_file("m.gguf", split(0, 2, 2, "b")), "must end in -00001-of-00002.gguf");
	refused_path(write_file("m-00002-of-00002.gguf", split(0, 2, 2, "b")), "must end in -00001-of-00002.gguf");
	refused_path(write_file("m-00002-of-00002.gguf", split(2, 2, 2, "b")), "split.no is missing or too large");
	refused_path(write_file("m-00001-of-00002.gguf", split(0, 0, 2, "b")), "split.count at byte");
	refused_path(write_file("m-00001-of-00002.gguf", split(0, 5000, 2, "b")), "split.count at byte");
	b = split(0, 2, 2, "b");
	cr_expect_lt(fh_gguf_open_mem(b.p, b.n, &g, &err), 0);
	cr_expect_not_null(strstr(err.msg, "splits are opened from files only"), "%s", err.msg);
	free(b.p);
}

Test(gguf_files, refuses_what_is_no_file, .init = make_dir, .fini = drop_dir)
{
	char path[128];

	refused_path(dir, "a directory");
	snprintf(path, sizeof(path), "%s/absent.gguf", dir);
	refused_path(path, "cannot open: No such file");
	snprintf(path, sizeof(path), "%s/fifo", dir);
	cr_assert_eq(mkfifo(path, 0600), 0);
	refused_path(path, "not a regular file");
	refused_path(write_file("empty.gguf", (struct bytes){0}), "the file is empty");
}

static int nr_opened;

static int open_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	size_t n = strlen(path);
	struct fh_gguf *g;
	struct fh_err err = {0};
	char s[256];

	(void)st, (void)ftw;
	if (flag != FTW_F || n < 5 || strcmp(path + n - 5, ".gguf"))
		return 0;
	cr_expect_eq(fh_gguf_open(path, &g, &err), 0, "%s", err.msg);
	if (err.code)
		return 0;
	nr_opened++;
	cr_expect_gt(fh_gguf_nr_keys(g), 10);
	cr_expect_eq(fh_gguf_nr_tensors(g) == 0, strstr(path, "vocab") != NULL);
	for (uint64_t i = 0; i < fh_gguf_nr_keys(g); i++)
		cr_expect_lt(fh_gguf_value_text(g, i, s, sizeof(s)), sizeof(s));
	for (uint64_t i = 0; i < fh_gguf_nr_tensors(g); i++) {
		const struct fh_tensor *t = fh_gguf_tensor_at(g, i);
		volatile uint8_t last = ((const uint8_t *)t->data)[t->bytes - 1];

		(void)last;
		cr_expect_eq((uintptr_t)t->data % 32, 0);
	}
	fh_gguf_close(g);
	return 0;
}

Test(gguf_files, opens_the_fixtures)
{
	const char *shared = getenv("FREEHOLD_SHARED");
	char path[4096];

	if (!shared)
		shared = "../shared";
	snprintf(path, sizeof(path), "%s/models", shared);
	if (access(path, R_OK))
		cr_skip_test("no fixtures at %s (set FREEHOLD_SHARED)", shared);
	nftw(path, open_one, 8, FTW_PHYS);
	snprintf(path, sizeof(path), "%s/vocab", shared);
	nftw(path, open_one, 8, FTW_PHYS);
	cr_expect_geq(nr_opened, 10);
}
