// SPDX-License-Identifier: Apache-2.0
/*
 * Retention: files of bodies that are older than they have to be are removed.
 *
 * Entries stay, and with them every hash and every proof; what goes are the
 * sealed texts, whole files from the oldest on.
 *
 * A file goes when the entries of all its bodies are old enough (a segment's time
 * is that of its latest text), and all files before it have gone.  What comes
 * after it proves nothing: a host without a battery for its clock starts long
 * ago.  A clock that was ahead keeps what was written then, and after, until that
 * time has come.  The file that is being added to goes like the others; what comes
 * then begins a new one.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/trust/log_priv.h"
#include "runtime/trust/reader.h"

/* Is the entry there, and older than @before_us? */
static bool is_older(struct fh_reader *r, uint64_t i, uint64_t before_us)
{
	struct fh_record_bytes leaf;
	struct fh_record rec;
	size_t bad;

	return !fh_reader_entry(r, i, &leaf) && !fh_record_decode(leaf.p, leaf.n, &rec, &bad) &&
	       rec.num[FH_RN_SEALED_BYTES] && rec.num[FH_RN_TIME_US] < before_us;
}

/* Every body of the file? What cannot be read is not. */
static bool all_older(struct fh_reader *r, uint32_t which, uint64_t before_us)
{
	char path[FH_DIR_PATH_MAX];
	size_t at = 0;

	/* The first is enough for most. */
	if (!is_older(r, r->body_files[which], before_us) || fh_reader_body_file(r, which, path))
		return false;
	while (r->body_n - at >= FH_BODY_FRAME_BYTES) {
		uint64_t index, n = fh_body_frame_read(r->body + at, &index);

		at += FH_BODY_FRAME_BYTES;
		if (n > r->body_n - at || !is_older(r, index, before_us))
			return false;
		at += (size_t)n;
	}
	return at == r->body_n;
}

static uint32_t count_expired(struct fh_reader *r, uint64_t before_us)
{
	uint32_t nr = 0;

	while (nr < r->nr_body_files && all_older(r, nr, before_us))
		nr++;
	return nr;
}

int fh_log_expire(struct fh_log *l, struct fh_reader *r, uint64_t before_us, uint64_t now_us)
{
	struct fh_record rec = {.kind = FH_REC_EXPIRED};
	uint32_t nr = count_expired(r, before_us);
	char path[FH_DIR_PATH_MAX];
	bool all = nr == r->nr_body_files;
	uint64_t index;
	int rc;

	/* Bodies that are to be added to the last file would be added to none. */
	if (all && l->frames.n && nr) {
		all = false;
		nr--;
	}
	if (!nr)
		return 0;
	/* The entry first: a crash in between leaves files that the log says are gone, and the next attempt removes. */
	rec.num[FH_RN_TIME_US] = now_us;
	rec.num[FH_RN_COUNT] = all ? r->cp.size : r->body_files[nr];
	rc = fh_log_append(l, &rec, NULL, NULL, 0, FH_BODY_NONE, &index);
	if (!rc)
		rc = fh_log_commit(l, true);
	if (!rc && all)
		l->body_first = l->body_bytes = l->fill = 0;
	for (uint32_t i = 0; i < nr && !rc; i++) {
		fh_body_path(r->body_files[i], path);
		rc = fh_dir_unlink(&l->dir, path, false);
	}
	if (!rc)
		rc = fh_dir_sync_names(&l->dir);
	return rc ? rc : (int)nr;
}
