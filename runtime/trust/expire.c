// SPDX-License-Identifier: Apache-2.0
/*
 * Retention: files of bodies that are older than they have to be are removed.
 *
 * Entries stay, and with them every hash and every proof; what goes are the
 * sealed texts, whole files from the oldest on.  A file goes when the first entry
 * of the file after it is old enough, so that every body in it is; the last one,
 * which is being added to, never does.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/trust/log_priv.h"
#include "runtime/trust/reader.h"

static int entry_time(struct fh_reader *r, uint64_t i, uint64_t *us)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad;
	int rc = fh_reader_entry(r, i, &leaf);

	if (!rc && fh_record_decode(leaf.p, leaf.n, &rec, &bad))
		rc = -EBADMSG;
	*us = rc ? UINT64_MAX : rec.num[FH_RN_TIME_US];
	return rc;
}

/* How many files have expired. */
static uint32_t count_expired(struct fh_reader *r, uint64_t before_us)
{
	uint32_t nr = 0;
	uint64_t us;

	while (nr + 1 < r->nr_body_files && r->body_files[nr + 1] < r->cp.size &&
	       !entry_time(r, r->body_files[nr + 1], &us) && us < before_us)
		nr++;
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
