// SPDX-License-Identifier: Apache-2.0
/*
 * Retention: files of bodies that are older than they have to be are removed.
 *
 * Entries stay, and with them every hash and every proof; what goes are the
 * sealed texts, whole files from the oldest on; the last one, which is being added
 * to, never goes.
 *
 * A file goes when the first entry of the file after it is old enough, and so are
 * the file's own first and last entries and those of all files before it.  The
 * one after it alone does not prove it: a host without a battery for its clock
 * starts long ago, and what it writes then makes nothing old.  A clock that was
 * ahead keeps what was written then, and after, until that time has come.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/trust/log_priv.h"
#include "runtime/trust/reader.h"

#define NR_LAST 64u /* entries before the end of a file that are looked at */

/* Is every body of the entries in [from, to) older than @before_us? What cannot be read is not. */
static bool all_older(struct fh_reader *r, uint64_t from, uint64_t to, uint64_t before_us)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad;

	for (; from < to; from++) {
		if (fh_reader_entry(r, from, &leaf) || fh_record_decode(leaf.p, leaf.n, &rec, &bad))
			return false;
		if ((rec.kind == FH_REC_BEGIN || rec.kind == FH_REC_END) && rec.num[FH_RN_TIME_US] >= before_us)
			return false;
	}
	return true;
}

/* How many files have expired. */
static uint32_t count_expired(struct fh_reader *r, uint64_t before_us)
{
	uint32_t nr = 0;

	for (; nr + 1 < r->nr_body_files && r->body_files[nr + 1] < r->cp.size; nr++) {
		uint64_t first = r->body_files[nr], next = r->body_files[nr + 1];
		/* The last ones: a start writes entries without bodies before the next file begins. */
		uint64_t last = next - first > NR_LAST ? next - NR_LAST : first;

		if (!all_older(r, first, first + 1, before_us) || !all_older(r, last, next + 1, before_us))
			break;
	}
	return nr;
}

int fh_log_expire(struct fh_log *l, struct fh_reader *r, uint64_t before_us, uint64_t now_us)
{
	struct fh_record rec = {.kind = FH_REC_EXPIRED};
	uint32_t nr = count_expired(r, before_us);
	char path[FH_DIR_PATH_MAX];
	uint64_t index;
	int rc;

	if (!nr)
		return 0;
	/* The entry first: a crash in between leaves files that the log says are gone, and the next attempt removes. */
	rec.num[FH_RN_TIME_US] = now_us;
	rec.num[FH_RN_COUNT] = r->body_files[nr];
	rc = fh_log_append(l, &rec, NULL, NULL, 0, FH_BODY_NONE, &index);
	if (!rc)
		rc = fh_log_commit(l, true);
	for (uint32_t i = 0; i < nr && !rc; i++) {
		fh_body_path(r->body_files[i], path);
		rc = fh_dir_unlink(&l->dir, path, false);
	}
	if (!rc)
		rc = fh_dir_sync_names(&l->dir);
	return rc ? rc : (int)nr;
}
