/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who asks, and how that is known.  One small value that front ends fill in
 * when a request has been authenticated and that the audit log, the budgets and
 * the meters read; it is copied, never shared, because keys change while
 * requests run.
 *
 * The tenant is the unit that pays and whose text can be erased: it is never
 * empty, and its characters are those of a file's name.
 */
#ifndef FH_BASE_IDENTITY_H
#define FH_BASE_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define FH_IDENTITY_NAME_MAX 64 /* bytes of a tenant's or a user's name: A-Z a-z 0-9 . _ -, no dot first */
#define FH_IDENTITY_KEY_BYTES 8 /* of what an API key, a certificate or a public key is called in the log */

#define FH_TENANT_NOBODY "anonymous" /* who was asked for nothing, or whose key was not known */

/* The best evidence there is. Numbers stay: they are written into the log. */
enum fh_identity_how {
	FH_ID_NONE = 0,	  /* nobody asked, or what was shown was wrong */
	FH_ID_KEY = 1,	  /* an API key */
	FH_ID_CERT = 2,	  /* a certificate, in the TLS handshake */
	FH_ID_PEER = 3,	  /* uid, pid and cgroup as the kernel stamped them */
	FH_ID_PUBKEY = 4, /* a public key, over UDP */
};

struct fh_identity {
	uint8_t how;			       /* enum fh_identity_how */
	bool has_key_id;		       /* key_id is set */
	char tenant[FH_IDENTITY_NAME_MAX + 1]; /* never empty */
	char user[FH_IDENTITY_NAME_MAX + 1];   /* of that tenant; empty: not known */
	uint8_t key_id[FH_IDENTITY_KEY_BYTES]; /* says which key it was and nothing about its text */
	uint32_t uid, pid;		       /* with FH_ID_PEER; pid 0: hidden */
	uint64_t cgroup_id;		       /* likewise; 0: not known */
};

/* May @name be a tenant's or a user's? */
static inline bool fh_identity_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (!n || n > FH_IDENTITY_NAME_MAX || *name == '.')
		return false;
	return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

static inline void fh_identity_nobody(struct fh_identity *id)
{
	*id = (struct fh_identity){.how = FH_ID_NONE};
	strcpy(id->tenant, FH_TENANT_NOBODY);
}

/* A process of this host: its user is the tenant until a rule says otherwise. */
static inline void fh_identity_peer(struct fh_identity *id, uint32_t uid, uint32_t pid, uint64_t cgroup_id)
{
	*id = (struct fh_identity){.how = FH_ID_PEER, .uid = uid, .pid = pid, .cgroup_id = cgroup_id};
	snprintf(id->tenant, sizeof(id->tenant), "uid-%u", uid);
}

#endif /* FH_BASE_IDENTITY_H */
