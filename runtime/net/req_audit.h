/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the audit log is told of a request that is token ids in and token ids out, over a channel or over UDP.  When it
 * is told, and what waits for it, is each front end's own affair (chan_audit.c, udp_audit.c).
 */
#ifndef FH_NET_REQ_AUDIT_H
#define FH_NET_REQ_AUDIT_H

#include "runtime/base/auditor.h"
#include "runtime/base/request.h"

/* What @req asks for: of begin(). */
void fh_req_audit_asked(const struct fh_request *req, struct fh_audited *r);
/* How it ended, and @why of the failure @error (NULL: none): of end() and refused(). */
void fh_req_audit_outcome(const struct fh_request *req, enum fh_finish finish, int error, const char *why,
			  struct fh_audited *r);
/* @ids[@nr] are its body, where @a wants bodies. How many bytes are copied for that. */
size_t fh_req_audit_tokens(const struct fh_auditor *a, const uint32_t *ids, uint32_t nr, struct fh_audited *r);

#endif /* FH_NET_REQ_AUDIT_H */
