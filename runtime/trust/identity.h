/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An identity as the log has it.  The struct itself is base's, because front
 * ends fill it in and net/ includes nothing of trust/.
 */
#ifndef FH_TRUST_IDENTITY_H
#define FH_TRUST_IDENTITY_H

#include "runtime/base/identity.h"
#include "runtime/trust/record.h"

/* Everything but the tenant, which fh_audit_begin() and its like set. Borrows from @id. */
static inline void fh_identity_record(const struct fh_identity *id, struct fh_record *r)
{
	r->num[FH_RN_HOW] = id->how;
	if (id->user[0])
		fh_record_set_str(r, FH_RS_USER, id->user, strlen(id->user));
	if (id->has_key_id)
		fh_record_set_str(r, FH_RS_KEY_ID, id->key_id, sizeof(id->key_id));
	if (id->how == FH_ID_PEER) {
		r->num[FH_RN_UID] = id->uid + 1ull;
		r->num[FH_RN_PID] = id->pid;
		r->num[FH_RN_CGROUP] = id->cgroup_id;
	}
}

#endif /* FH_TRUST_IDENTITY_H */
