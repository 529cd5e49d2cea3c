// SPDX-License-Identifier: Apache-2.0
/*
 * Opening and closing GGUF files, and finding things in them.
 *
 * A model is one file, or several that name each other: -00001-of-00003.gguf
 * with the keys split.no (from 0), split.count and split.tensors.count.  Any of
 * them may be named; all are opened, and they must agree.  A handle owns its
 * mappings, descriptors and tables, never the bytes given to fh_gguf_open_mem().
 *
 * A mapped file that somebody shortens while we run raises SIGBUS on access,
 * except where it is read with fh_gguf_fetch(); models are to be replaced by
 * rename, not written in place.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/model/gguf_priv.h"

const char *gguf_path_tail(const char *path)
{
	size_t n = strlen(path), max = 200;

	return n > max ? path + n - max : path;
}

struct gguf_shown gguf_show(struct fh_str name)
{
	struct gguf_shown out;
	size_t n = name.n, max = sizeof(out.s) - 4;

	if (n > max)
		n = max;
	for (size_t i = 0; i < n; i++) {
		uint8_t ch = (uint8_t)name.p[i];

		out.s[i] = ch < 0x20 || ch >= 0x7f ? '?' : (char)ch;
	}
	strcpy(out.s + n, name.n > max ? "..." : "");
	return out;
}

const struct gguf_key *gguf_file_key(const struct gguf_file *f, const char *name)
{
	return gguf_table_find(&f->key_table, (struct fh_str){.p = name, .n = strlen(name)});
}

static void file_drop(struct gguf_file *f)
{
	gguf_table_free(&f->key_table);
	free(f->tensor);
	free(f->key);
	if (f->mapped) {
		munmap((void *)f->base, f->bytes);
		close(f->fd);
	}
	free(f->path);
	memset(f, 0, sizeof(*f));
}

/* @fd is @f's to close if it is mapped then. */
static int map_fd(int fd, struct gguf_file *f, struct fh_err *err)
{
	const char *path = gguf_path_tail(f->path);
	struct stat st;
	void *p;

	if (fstat(fd, &st))
		return fh_errf(err, -errno, "%s: %s", path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return fh_errf(err, -EISDIR, "%s: a directory; name the .gguf file in it", path);
	if (!S_ISREG(st.st_mode))
		return fh_errf(err, -EINVAL, "%s: not a regular file, so it cannot be mapped; copy it to one", path);
	if (st.st_size == 0)
		return 0; /* gguf_parse() says so */
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		return fh_errf(err, -errno, "%s: cannot map %" PRIu64 " bytes: %s", path, (uint64_t)st.st_size,
			       strerror(errno));
	f->base = p;
	f->bytes = (uint64_t)st.st_size;
	f->mapped = true;
	f->fd = fd;
	return 0;
}

/* Map and parse one file.  On failure @f is empty again. */
static int file_open(const char *path, struct gguf_file *f, struct fh_err *err)
{
	int fd, rc;

	memset(f, 0, sizeof(*f));
	f->path = strdup(path);
	if (!f->path)
		return fh_errf(err, -ENOMEM, "%s: no memory", gguf_path_tail(path));
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us up */
	if (fd < 0) {
		rc = fh_errf(err, -errno, "%s: cannot open: %s", gguf_path_tail(path), strerror(errno));
		goto err_drop;
	}
	rc = map_fd(fd, f, err);
	if (!f->mapped)
		close(fd);
	if (rc)
		goto err_drop;
	rc = gguf_parse(f, err);
	if (rc)
		goto err_drop;
	return 0;
err_drop:
	file_drop(f);
	return rc;
}

/* What a file says of its place among splits; a file without split.count is alone. */
static int split_place(const struct gguf_file *f, uint64_t *no, uint64_t *count, struct fh_err *err)
{
	const struct gguf_key *k_no = gguf_file_key(f, "split.no"), *k_count = gguf_file_key(f, "split.count");

	*no = 0;
	*count = 1;
	if (!k_count)
		return 0;
	if (gguf_key_u64(k_count, count) || *count == 0 || *count > GGUF_MAX_SPLITS)
		return fh_errf(err, -EINVAL,
			       "%s: split.count at byte %" PRIu64 " is no number from 1 to %d; split the model again",
			       gguf_path_tail(f->path), (uint64_t)(k_count->value - f->base), GGUF_MAX_SPLITS);
	if (*count > 1 && (!k_no || gguf_key_u64(k_no, no) || *no >= *count))
		return fh_errf(err, -EINVAL,
			       "%s: one of %" PRIu64
			       " splits, but its split.no is missing or too large; split the model again",
			       gguf_path_tail(f->path), *count);
	return 0;
}

/* "-00001-of-00003.gguf": 20 characters at the end of a split's name. */
enum { SUFFIX_LEN = 20 };

/* A new string: @path with the numbers of split @no (from 0) of @count. */
static char *split_path(const char *path, uint32_t no, uint32_t count)
{
	size_t stem = strlen(path) - SUFFIX_LEN, size = stem + SUFFIX_LEN + 16;
	char *s = malloc(size);

	if (s)
		snprintf(s, size, "%.*s-%05" PRIu32 "-of-%05" PRIu32 ".gguf", (int)stem, path, no + 1, count);
	return s;
}

/* Does @path end as split @no of @count must? */
static bool split_name_fits(const char *path, uint32_t no, uint32_t count)
{
	char want[SUFFIX_LEN + 16];
	size_t n = strlen(path);

	snprintf(want, sizeof(want), "-%05" PRIu32 "-of-%05" PRIu32 ".gguf", no + 1, count);
	return n > SUFFIX_LEN && !strcmp(path + n - SUFFIX_LEN, want);
}

/* Open split @i of @g->nr_files and check that it belongs to the others. */
static int open_split(struct fh_gguf *g, uint32_t i, struct fh_err *err)
{
	char *path = split_path(g->path, i, g->nr_files);
	uint64_t no, count;
	int rc;

	if (!path)
		return fh_errf(err, -ENOMEM, "%s: no memory", gguf_path_tail(g->path));
	rc = file_open(path, &g->file[i], err);
	if (rc == -ENOENT)
		rc = fh_errf(err, -ENOENT,
			     "%s: missing; the model is split over %" PRIu32
			     " files, all of which must lie in one folder: "
			     "download this one too",
			     gguf_path_tail(path), g->nr_files);
	free(path);
	if (rc)
		return rc;
	rc = split_place(&g->file[i], &no, &count, err);
	if (rc)
		return rc;
	if (no != i || count != g->nr_files)
		return fh_errf(err, -EINVAL,
			       "%s: says that it is split %" PRIu64 " of %" PRIu64
			       ", but its name and the other splits say "
			       "%" PRIu32 " of %" PRIu32 "; the files are mixed up: download them again",
			       gguf_path_tail(g->file[i].path), no + 1, count, i + 1, g->nr_files);
	return 0;
}

/* @g has its first named file, split @no of @count, in file[0]: replace it by all of them, in order. */
static int open_splits(struct fh_gguf *g, uint64_t no, uint64_t count, struct fh_err *err)
{
	struct gguf_file *files;

	if (!split_name_fits(g->path, (uint32_t)no, (uint32_t)count))
		return fh_errf(err, -EINVAL,
			       "%s: split %" PRIu64 " of %" PRIu64 ", so its name must end in -%05" PRIu64
			       "-of-%05" PRIu64 ".gguf, or the others cannot be found: rename it",
			       gguf_path_tail(g->path), no + 1, count, no + 1, count);
	files = calloc(count, sizeof(*files));
	if (!files)
		return fh_errf(err, -ENOMEM, "%s: no memory for %" PRIu64 " splits", gguf_path_tail(g->path), count);
	file_drop(&g->file[0]);
	free(g->file);
	g->file = files;
	g->nr_files = (uint32_t)count;
	for (uint32_t i = 0; i < g->nr_files; i++) {
		int rc = open_split(g, i, err);

		if (rc)
			return rc;
	}
	return 0;
}

const struct gguf_file *gguf_file_of(const struct fh_gguf *g, const void *p)
{
	uint32_t i = 0;

	while (i + 1 < g->nr_files &&
	       ((const uint8_t *)p < g->file[i].base || (const uint8_t *)p >= g->file[i].base + g->file[i].bytes))
		i++;
	return &g->file[i];
}

/* Put the files' tensors into one list and index it. */
static int merge(struct fh_gguf *g, struct fh_err *err)
{
	const struct gguf_key *k = gguf_file_key(&g->file[0], "split.tensors.count");
	uint64_t total = 0, stated, dup = 0;
	int rc;

	for (uint32_t i = 0; i < g->nr_files; i++) {
		total += g->file[i].nr_tensors;
		g->file_bytes += g->file[i].bytes;
	}
	if (total > GGUF_MAX_TENSORS)
		return fh_errf(err, -EINVAL, "%s: the splits state %" PRIu64 " tensors, more than we accept (%d)",
			       gguf_path_tail(g->path), total, GGUF_MAX_TENSORS);
	if (g->nr_files > 1 && k && (gguf_key_u64(k, &stated) || stated != total))
		return fh_errf(err, -EINVAL,
			       "%s: the splits hold %" PRIu64
			       " tensors, but split.tensors.count disagrees; they do not belong "
			       "together: download them again",
			       gguf_path_tail(g->path), total);
	g->tensor = calloc(total + 1, sizeof(*g->tensor));
	if (!g->tensor)
		return fh_errf(err, -ENOMEM, "%s: no memory for %" PRIu64 " tensors", gguf_path_tail(g->path), total);
	for (uint32_t i = 0; i < g->nr_files; i++) {
		struct gguf_file *f = &g->file[i];

		memcpy(g->tensor + g->nr_tensors, f->tensor, f->nr_tensors * sizeof(*f->tensor));
		g->nr_tensors += f->nr_tensors;
		free(f->tensor);
		f->tensor = NULL;
	}
	rc = gguf_table_build(&g->tensor_table, g->tensor, sizeof(*g->tensor), g->nr_tensors, &dup);
	if (rc == -EEXIST) {
		const struct fh_tensor *t = &g->tensor[dup];
		const struct gguf_file *f = gguf_file_of(g, t->name.p);

		return fh_errf(err, -EINVAL,
			       "%s: tensor '%s' stands twice in the model (again at byte %" PRIu64
			       "); which one is meant cannot be known: convert the model again",
			       gguf_path_tail(f->path), gguf_show(t->name).s,
			       (uint64_t)((const uint8_t *)t->name.p - f->base));
	}
	if (rc)
		return fh_errf(err, rc, "%s: no memory for %" PRIu64 " tensors", gguf_path_tail(g->path), total);
	return 0;
}

static struct fh_gguf *handle_new(const char *path, struct fh_err *err)
{
	struct fh_gguf *g = calloc(1, sizeof(*g));

	if (g) {
		g->path = strdup(path);
		g->file = calloc(1, sizeof(*g->file));
		g->nr_files = 1;
	}
	if (!g || !g->path || !g->file) {
		fh_gguf_close(g);
		fh_errf(err, -ENOMEM, "%s: no memory", gguf_path_tail(path));
		return NULL;
	}
	return g;
}

int fh_gguf_open(const char *path, struct fh_gguf **out, struct fh_err *err)
{
	struct fh_gguf *g = handle_new(path, err);
	uint64_t no, count;
	int rc;

	if (!g)
		return -ENOMEM;
	rc = file_open(path, &g->file[0], err);
	if (!rc)
		rc = split_place(&g->file[0], &no, &count, err);
	if (!rc && count > 1)
		rc = open_splits(g, no, count, err);
	if (!rc)
		rc = merge(g, err);
	if (rc) {
		fh_gguf_close(g);
		return rc;
	}
	*out = g;
	return 0;
}

int fh_gguf_open_mem(const void *data, size_t bytes, struct fh_gguf **out, struct fh_err *err)
{
	struct fh_gguf *g = handle_new("(memory)", err);
	uint64_t no, count;
	int rc;

	if (!g)
		return -ENOMEM;
	g->file[0].path = strdup(g->path);
	g->file[0].base = data;
	g->file[0].bytes = bytes;
	if (g->file[0].path)
		rc = gguf_parse(&g->file[0], err);
	else
		rc = fh_errf(err, -ENOMEM, "%s: no memory", g->path);
	if (!rc)
		rc = split_place(&g->file[0], &no, &count, err);
	if (!rc && count > 1)
		rc = fh_errf(err, -EINVAL, "%s: one of %" PRIu64 " splits; splits are opened from files only", g->path,
			     count);
	if (!rc)
		rc = merge(g, err);
	if (rc) {
		fh_gguf_close(g);
		return rc;
	}
	*out = g;
	return 0;
}

void fh_gguf_close(struct fh_gguf *g)
{
	if (!g)
		return;
	gguf_table_free(&g->tensor_table);
	free(g->tensor);
	for (uint32_t i = 0; g->file && i < g->nr_files; i++)
		file_drop(&g->file[i]);
	free(g->file);
	free(g->path);
	free(g);
}

void fh_gguf_willneed(const struct fh_gguf *g)
{
	for (uint32_t i = 0; i < g->nr_files; i++) {
		if (g->file[i].mapped)
			madvise((void *)g->file[i].base, g->file[i].bytes, MADV_WILLNEED);
	}
}

uint32_t fh_gguf_version(const struct fh_gguf *g)
{
	return g->file[0].version;
}

uint64_t fh_gguf_file_bytes(const struct fh_gguf *g)
{
	return g->file_bytes;
}

const char *fh_gguf_path(const struct fh_gguf *g)
{
	return g->path;
}

uint32_t fh_gguf_nr_files(const struct fh_gguf *g)
{
	return g->nr_files;
}

const char *fh_gguf_file_path(const struct fh_gguf *g, uint32_t i)
{
	return g->file[i].path;
}

uint64_t fh_gguf_nr_tensors(const struct fh_gguf *g)
{
	return g->nr_tensors;
}

const struct fh_tensor *fh_gguf_tensor_at(const struct fh_gguf *g, uint64_t i)
{
	return i < g->nr_tensors ? &g->tensor[i] : NULL;
}

const struct fh_tensor *fh_gguf_tensor(const struct fh_gguf *g, const char *name)
{
	return gguf_table_find(&g->tensor_table, (struct fh_str){.p = name, .n = strlen(name)});
}
