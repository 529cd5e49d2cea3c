/* SPDX-License-Identifier: Apache-2.0 */
/* A strict auditor that loses outcomes when it is told to, as one without memory does. */
#ifndef FH_TESTS_UNIT_AUDIT_LOSSY_H
#define FH_TESTS_UNIT_AUDIT_LOSSY_H

#include <stdatomic.h>
#include <string.h>

#include "runtime/base/auditor.h"

struct lossy {
	struct fh_auditor base;
	_Atomic uint32_t lose, nr_lost;
	uint64_t nr; /* events; its front end's thread's */
};

static inline int lossy_ready(struct fh_auditor *a, uint32_t nr)
{
	(void)a;
	(void)nr;
	return 0;
}

static inline int lossy_begin(struct fh_auditor *a, const struct fh_audited *r, struct fh_audit_ticket **t,
			      uint64_t *seq)
{
	(void)r;
	*t = (struct fh_audit_ticket *)a;
	*seq = ++((struct lossy *)a)->nr;
	return 0;
}

static inline uint64_t lossy_end(struct fh_auditor *a, struct fh_audit_ticket *t, const struct fh_audited *r)
{
	struct lossy *l = (struct lossy *)a;

	(void)t;
	(void)r;
	if (!atomic_load(&l->lose))
		return ++l->nr;
	atomic_fetch_add(&l->nr_lost, 1);
	return 0;
}

static inline uint64_t lossy_refused(struct fh_auditor *a, const struct fh_audited *r)
{
	(void)r;
	return ++((struct lossy *)a)->nr;
}

static inline bool lossy_durable(struct fh_auditor *a, uint64_t seq)
{
	(void)a;
	(void)seq;
	return true;
}

static inline bool lossy_receipt(struct fh_auditor *a, void **cookie, char **text)
{
	(void)a;
	(void)cookie;
	(void)text;
	return false;
}

static inline int lossy_trouble(struct fh_auditor *a)
{
	(void)a;
	return 0;
}

static inline void lossy_name_key(struct fh_auditor *a, const void *key, size_t n, uint8_t id[FH_IDENTITY_KEY_BYTES])
{
	(void)a;
	(void)key;
	(void)n;
	memset(id, 0, FH_IDENTITY_KEY_BYTES);
}

static const struct fh_auditor_ops lossy_ops = {
	.ready = lossy_ready,
	.begin = lossy_begin,
	.end = lossy_end,
	.refused = lossy_refused,
	.durable = lossy_durable,
	.receipt = lossy_receipt,
	.trouble = lossy_trouble,
	.name_key = lossy_name_key,
};

#endif /* FH_TESTS_UNIT_AUDIT_LOSSY_H */
