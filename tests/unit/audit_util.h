/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the audit log share: a folder that goes away, entries, findings. */
#ifndef FH_TESTS_UNIT_AUDIT_UTIL_H
#define FH_TESTS_UNIT_AUDIT_UTIL_H

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/trust/log.h"
#include "runtime/trust/verify.h"

static int remove_it(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline void remove_folder(const char *path)
{
	nftw(path, remove_it, 16, FTW_DEPTH | FTW_PHYS);
}

/* A new folder's name, into @out; the folder is there and empty. */
static inline void new_folder(char out[40])
{
	strcpy(out, "/dev/shm/freehold-audit-XXXXXX");
	if (!mkdtemp(out)) {
		strcpy(out, "/tmp/freehold-audit-XXXXXX");
		cr_assert(mkdtemp(out));
	}
}

static inline struct fh_log *open_log(const char *path, struct fh_log_report *report)
{
	struct fh_log_report mine;
	struct fh_err err = {0};
	struct fh_log *l = NULL;
	int rc = fh_log_open(path, NULL, NULL, &l, report ? report : &mine, &err);

	cr_assert(!rc, "%s", err.msg);
	return l;
}

/* A request of @tenant and its outcome, of about @n bytes. */
static inline void add_pair(struct fh_log *l, const char *tenant, uint64_t nr, size_t n)
{
	struct fh_record r = {.kind = FH_REC_BEGIN};
	char *text = malloc(n + 64);
	uint64_t index;
	int len;

	len = snprintf(text, n + 64, "{\"prompt\": \"%s asks no. %lu: ", tenant, (unsigned long)nr);
	for (; (size_t)len < n; len++)
		text[len] = (char)('a' + (nr * 31 + (uint64_t)len * len) % 26);
	r.num[FH_RN_TIME_US] = 1000000 + nr;
	fh_record_set_str(&r, FH_RS_TENANT, tenant, strlen(tenant));
	cr_assert(!fh_log_append(l, &r, tenant, text, (size_t)len, FH_BODY_FULL, &index));
	r = (struct fh_record){.kind = FH_REC_END};
	r.num[FH_RN_TIME_US] = 1000001 + nr;
	r.num[FH_RN_REF] = index + 1;
	r.num[FH_RN_NR_GENERATED] = nr;
	fh_record_set_str(&r, FH_RS_TENANT, tenant, strlen(tenant));
	cr_assert(!fh_log_append(l, &r, tenant, text, (size_t)len / 2, FH_BODY_FULL, &index));
	free(text);
}

struct findings {
	uint64_t nr;
	char all[8192];
};

static inline void note_finding(void *ctx, const char *text)
{
	struct findings *f = ctx;
	size_t n = strlen(f->all);

	f->nr++;
	/* Whole lines only; what has no room is counted. */
	if (n + strlen(text) + 1 < sizeof(f->all))
		snprintf(f->all + n, sizeof(f->all) - n, "%s\n", text);
}

/* Verify; what was found in @f. */
static inline struct fh_verify verify(const char *path, const char *key, struct findings *f)
{
	struct fh_verify v = {.finding = note_finding, .ctx = f};
	struct fh_err err = {0};
	int rc;

	*f = (struct findings){0};
	rc = fh_verify(path, key, &v, &err);
	cr_assert(!rc || rc == -ENOENT, "%s", err.msg);
	if (rc)
		note_finding(f, err.msg);
	return v;
}

#endif /* FH_TESTS_UNIT_AUDIT_UTIL_H */
