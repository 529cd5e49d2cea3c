/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of `freehold audit`: a function an action, in audit.c and audit_export.c. argv[0] is the action's name. */
#ifndef FH_TOOLS_AUDIT_H
#define FH_TOOLS_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

#define AUDIT_MAX_WORDS 16

/* Options that all actions share; those that an action does not take are refused by name. */
struct audit_args {
	const char *words[AUDIT_MAX_WORDS]; /* what is no option */
	uint32_t nr_words;
	const char *key;	      /* --key */
	const char *tenant;	      /* --tenant */
	uint64_t from_us, to_us;      /* --from, --to: 0 and UINT64_MAX if not given */
	bool bodies;		      /* --no-bodies clears it */
	const char *request, *answer; /* --request, --answer: files */
	const char *keys;	      /* --keys: the key database */
	bool check, force;	      /* --check, --force */
};

struct fh_opener;
struct fh_reader;
/* Open a log and what opens its texts, with the erasures known.  -errno: it was told; nothing is open. */
int audit_open(const struct audit_args *a, const char *dir, struct fh_reader *r, struct fh_opener **op);
int audit_export(const struct audit_args *a);
int audit_show(const struct audit_args *a);
int audit_verify_receipt(const struct audit_args *a);
int audit_rebuild_usage(const struct audit_args *a);

/* What --key takes: a key, or the name of a file that holds one, which is read into @out. */
const char *audit_key_text(const char *arg, char out[256]);

/* "2026-11-29", "2026-11-29T12:00:00Z" or seconds since 1970, UTC. False: none of them. */
bool audit_parse_time(const char *text, uint64_t *us);

#endif /* FH_TOOLS_AUDIT_H */
