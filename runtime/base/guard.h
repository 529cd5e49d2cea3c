/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may come in, as front ends ask it: an immutable table behind functions,
 * so that net/ includes nothing of trust/.
 *
 * A table never changes.  When keys change, a new one is made on another thread
 * and handed to each front end, which takes it over between two requests and
 * gives the old one back: no reader waits for a writer, or the other way round.
 * Tables are counted; whoever has one has a reference.
 *
 * A front end also asks the new table, and each second for the sake of keys that
 * expire, about those whom it is answering: who would not be let in any more gets
 * no more tokens.
 */
#ifndef FH_BASE_GUARD_H
#define FH_BASE_GUARD_H

#include <stdatomic.h>
#include <stddef.h>

#include "runtime/base/budget.h"
#include "runtime/base/identity.h"

enum fh_guard_verdict {
	FH_GUARD_OK,
	FH_GUARD_UNKNOWN,  /* nobody that the table knows */
	FH_GUARD_EXPIRED,  /* known, and its time is over */
	FH_GUARD_REVOKED,  /* known, and taken back */
	FH_GUARD_DISABLED, /* known, and its tenant is locked out */
};

/* In fh_grant.endpoints: he may see what all tenants use, list keys and revoke them. Nobody has it but by name. */
#define FH_GRANT_ADMIN (1ull << 63)
#define FH_GRANT_ALL (~FH_GRANT_ADMIN)

/* What a table says of somebody. */
struct fh_grant {
	struct fh_identity who;
	uint32_t tenant_nr;		 /* for the scheduler's fairness between tenants; not 0, FH_TENANT_UID clear */
	uint64_t endpoints;		 /* bit i: the i-th endpoint that the table was made for; FH_GRANT_ADMIN */
	bool model;			 /* the model that is served may be used */
	uint32_t account[FH_BUDGET_RUN]; /* of budgets, by enum fh_budget_kind; 0: none */
};

/* A client's certificate, already verified. Strings are "" where the certificate says nothing. */
struct fh_guard_cert {
	char organization[FH_IDENTITY_NAME_MAX + 1];
	char common_name[FH_IDENTITY_NAME_MAX + 1];
	uint8_t sha256[32]; /* of the whole certificate */
};

struct fh_guard;

struct fh_guard_ops {
	/* Is @tenant locked out? Looks at the table and nowhere else. */
	bool (*locked)(const struct fh_guard *g, const char *tenant);
	/* Would @who, whom this table or one before it let in, be let in at @now_s?  Looks at the table alone. */
	enum fh_guard_verdict (*still)(const struct fh_guard *g, const struct fh_identity *who, uint64_t now_s);
	/* The bearer of @key (not terminated); @now_s: Unix time. Any thread that has a reference. @out only with OK.
	 */
	enum fh_guard_verdict (*bearer)(const struct fh_guard *g, const char *key, size_t n, uint64_t now_s,
					struct fh_grant *out);
	enum fh_guard_verdict (*cert)(const struct fh_guard *g, const struct fh_guard_cert *cert, struct fh_grant *out);
	/* A process of this host. May read the file system (/sys/fs/cgroup). UNKNOWN: no rule speaks of it. */
	enum fh_guard_verdict (*peer)(const struct fh_guard *g, uint32_t uid, uint32_t pid, uint64_t cgroup_id,
				      struct fh_grant *out);
	/* The client @name of the list of those that may come over UDP; @key_id: see fh_identity. */
	enum fh_guard_verdict (*udp)(const struct fh_guard *g, const char *name,
				     const uint8_t key_id[FH_IDENTITY_KEY_BYTES], struct fh_grant *out);
	void (*free)(struct fh_guard *g);
};

struct fh_guard {
	const struct fh_guard_ops *ops;
	_Atomic uint32_t nr_refs;
};

static inline struct fh_guard *fh_guard_get(struct fh_guard *g)
{
	atomic_fetch_add_explicit(&g->nr_refs, 1, memory_order_relaxed);
	return g;
}

/* NULL is fine. */
static inline void fh_guard_put(struct fh_guard *g)
{
	if (g && atomic_fetch_sub_explicit(&g->nr_refs, 1, memory_order_acq_rel) == 1)
		g->ops->free(g);
}

#endif /* FH_BASE_GUARD_H */
