// SPDX-License-Identifier: Apache-2.0
/*
 * What of the module's transport runs without the module: the vocabulary file
 * that its clients read.  The rest is tested in a virtual machine
 * (tests/vm/qemu.sh serve).
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/chan_sock.h"
#include "runtime/net/chan_priv.h"

static const char *const pieces[] = {"", " Once", "", "\xc3", "\xa9t\xc3\xa9", " upon a time"};
#define NR_PIECES (sizeof(pieces) / sizeof(pieces[0]))

static size_t token_bytes(void *ctx, uint32_t id, char *out, size_t cap)
{
	size_t n = strlen(pieces[id]);

	(void)ctx;
	cr_assert(id < NR_PIECES && n <= cap);
	memcpy(out, pieces[id], n);
	return n;
}

static const struct fh_service service = {
	.text.token_bytes = token_bytes,
	.model = {.id = "a model", .nr_vocab = NR_PIECES, .nr_ctx = 512},
};

static char dir[64], path[128];

static void set_up(void)
{
	strcpy(dir, "/tmp/freehold-vocab-XXXXXX");
	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/run/vocabulary", dir);
}

static void clean_up(void)
{
	char sub[128];

	unlink(path);
	snprintf(sub, sizeof(sub), "%s/run", dir);
	rmdir(sub);
	cr_expect_eq(rmdir(dir), 0, "something was left behind");
}

TestSuite(chan_ctl, .init = set_up, .fini = clean_up);

static void check_file(void)
{
	static char buf[4096];
	FILE *f = fopen(path, "re");
	size_t n = f ? fread(buf, 1, sizeof(buf), f) : 0;
	const struct fh_vocab *v = (const struct fh_vocab *)buf;
	const uint32_t *off;

	cr_assert(f && n >= sizeof(*v));
	fclose(f);
	cr_assert(v->magic == FH_VOCAB_MAGIC && v->total_bytes == n && v->nr_tokens == NR_PIECES && v->nr_ctx == 512);
	cr_expect(v->model_bytes == 7 && !memcmp(buf + v->model_bytes_off, "a model", 7));
	off = (const uint32_t *)(buf + v->off_off);
	for (uint32_t i = 0; i < NR_PIECES; i++) {
		cr_assert_eq(off[i + 1] - off[i], strlen(pieces[i]));
		cr_expect(!memcmp(buf + v->bytes_off + off[i], pieces[i], strlen(pieces[i])));
	}
}

/* Its folder is made, and others may read it whatever the umask is. */
Test(chan_ctl, vocabulary_file)
{
	struct fh_err err = {0};
	struct stat st;

	umask(077);
	cr_assert_eq(fh_chan_vocab_file(&service, path, &err), 0, "%s", err.msg);
	check_file();
	cr_assert_eq(stat(path, &st), 0);
	cr_expect_eq(st.st_mode & 07777, 0644);
}

/* What is there is replaced, and nothing that lies in the way is written through. */
Test(chan_ctl, replaces_the_file)
{
	char victim[128], new[160], text[16] = "";
	struct fh_err err = {0};
	FILE *f;

	cr_assert_eq(fh_chan_vocab_file(&service, path, &err), 0, "%s", err.msg);
	f = fopen(path, "we");
	cr_assert(f && fputs("old", f) >= 0 && !fclose(f));
	snprintf(victim, sizeof(victim), "%s/victim", dir);
	f = fopen(victim, "we");
	cr_assert(f && fputs("mine", f) >= 0 && !fclose(f));
	snprintf(new, sizeof(new), "%s.new", path);
	cr_assert_eq(symlink(victim, new), 0);
	cr_assert_eq(fh_chan_vocab_file(&service, path, &err), 0, "%s", err.msg);
	check_file();
	f = fopen(victim, "re");
	cr_assert(f && fgets(text, sizeof(text), f) && !fclose(f));
	cr_expect_str_eq(text, "mine");
	unlink(victim);
}

Test(chan_ctl, says_where_it_cannot_write)
{
	struct fh_err err = {0};

	cr_expect_eq(fh_chan_vocab_file(&service, "/nonexistent/run/vocabulary", &err), -ENOENT);
	cr_expect(strstr(err.msg, "/nonexistent/run/vocabulary"), "%s", err.msg);
	cr_expect_eq(access(path, F_OK), -1);
}
