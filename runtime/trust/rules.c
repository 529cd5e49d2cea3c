// SPDX-License-Identifier: Apache-2.0
/* Rules for processes, certificates and clients over UDP: parsed once, then only read. */
#include "runtime/trust/rules.h"

#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CGROUP_MAX 256
#define CERT_MAX 64
#define UDP_MAX 63 /* as long as names in the list of clients may be */

struct rule {
	bool any, has_uid, has_pid, has_cgroup, has_cert, has_udp, refuse;
	uint32_t uid, pid;
	char cgroup[CGROUP_MAX]; /* below /sys/fs/cgroup */
	char cert[CERT_MAX + 1], udp[UDP_MAX + 1];
	char tenant[FH_IDENTITY_NAME_MAX + 1], user[FH_IDENTITY_NAME_MAX + 1];
};

struct fh_rules {
	uint32_t nr;
	struct rule rule[];
};

static bool read_u32(const char *text, uint32_t *out)
{
	unsigned long long v;
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	*out = (uint32_t)v;
	return !errno && !*end && v <= UINT32_MAX;
}

static int read_uid(struct rule *r, const char *v, const char *text, struct fh_err *err)
{
	const struct passwd *pw;

	r->has_uid = true;
	if (read_u32(v, &r->uid))
		return 0;
	pw = getpwnam(v);
	if (!pw)
		return fh_errf(err, -EINVAL, "rule \"%s\": there is no user '%s'", text, v);
	r->uid = pw->pw_uid;
	return 0;
}

static int read_condition(struct rule *r, const char *word, const char *text, struct fh_err *err)
{
	const char *v = strchr(word, ':');

	if (!strcmp(word, "any")) {
		r->any = true;
		return 0;
	}
	v = v ? v + 1 : "";
	if (!strncmp(word, "uid:", 4) && *v)
		return read_uid(r, v, text, err);
	if (!strncmp(word, "pid:", 4) && read_u32(v, &r->pid) && r->pid) {
		r->has_pid = true;
		return 0;
	}
	if (!strncmp(word, "cgroup:/", 8) && strlen(v) < CGROUP_MAX && !strstr(v, "..")) {
		r->has_cgroup = true;
		strcpy(r->cgroup, v);
		return 0;
	}
	if (!strncmp(word, "cert:", 5) && *v && strlen(v) <= CERT_MAX) {
		r->has_cert = true;
		strcpy(r->cert, v);
		return 0;
	}
	if (!strncmp(word, "udp:", 4) && *v && strlen(v) <= UDP_MAX) {
		r->has_udp = true;
		strcpy(r->udp, v);
		return 0;
	}
	return fh_errf(err, -EINVAL,
		       "rule \"%s\": '%s' is no condition; uid:N, uid:NAME, pid:N, cgroup:/PATH, cert:NAME, udp:NAME "
		       "and any are",
		       text, word);
}

static int read_target(struct rule *r, char *word, const char *text, struct fh_err *err)
{
	char *slash = strchr(word, '/');

	r->refuse = !strcmp(word, "refuse");
	if (r->refuse)
		return 0;
	if (slash)
		*slash++ = 0;
	if (!fh_identity_name_ok(word) || (slash && !fh_identity_name_ok(slash)))
		return fh_errf(err, -EINVAL,
			       "rule \"%s\": it ends with TENANT, TENANT/USER or refuse; names are 1 to 64 of A-Z a-z "
			       "0-9 . _ -, no dot first",
			       text);
	strcpy(r->tenant, word);
	strcpy(r->user, slash ? slash : "");
	return 0;
}

static int parse_rule(struct rule *r, const char *text, struct fh_err *err)
{
	char copy[1024], *save = NULL, *word, *next;
	int rc = 0, nr = 0;

	if (strlen(text) >= sizeof(copy))
		return fh_errf(err, -EINVAL, "rule \"%.40s...\" is too long", text);
	strcpy(copy, text);
	word = strtok_r(copy, " \t", &save);
	for (; word && (next = strtok_r(NULL, " \t", &save)) && !rc; word = next, nr++)
		rc = read_condition(r, word, text, err);
	if (rc)
		return rc;
	if (!word || !nr)
		return fh_errf(err, -EINVAL,
			       "rule \"%s\": conditions and TENANT[/USER] are wanted, such as "
			       "\"uid:1000 acme/alice\"",
			       text);
	if (r->has_cert + r->has_udp + (r->any || r->has_uid || r->has_pid || r->has_cgroup) > 1)
		return fh_errf(err, -EINVAL,
			       "rule \"%s\": a process of this host, a certificate and a client over UDP are never "
			       "the same: a rule for each is needed",
			       text);
	return read_target(r, word, text, err);
}

int fh_rules_parse(const char *const *texts, uint32_t nr, struct fh_rules **out, struct fh_err *err)
{
	struct fh_rules *r;
	int rc = 0;

	if (nr > FH_RULES_MAX)
		return fh_errf(err, -E2BIG, "%u rules; at most %d are possible", nr, FH_RULES_MAX);
	r = calloc(1, sizeof(*r) + nr * sizeof(r->rule[0]));
	if (!r)
		return fh_errf(err, -ENOMEM, "no memory for rules");
	r->nr = nr;
	for (uint32_t i = 0; i < nr && !rc; i++)
		rc = parse_rule(&r->rule[i], texts[i], err);
	if (rc)
		free(r);
	else
		*out = r;
	return rc;
}

void fh_rules_free(struct fh_rules *r)
{
	free(r);
}

uint32_t fh_rules_nr(const struct fh_rules *r)
{
	return r ? r->nr : 0;
}

bool fh_rules_target(const struct fh_rules *r, uint32_t i, const char **tenant, const char **user)
{
	*tenant = r->rule[i].tenant;
	*user = r->rule[i].user;
	return !r->rule[i].refuse;
}

/* A cgroup's id is its folder's inode; a folder that was made anew has another one, so it is looked up each time. */
static bool in_cgroup(const char *path, uint64_t id)
{
	char full[CGROUP_MAX + 32];
	struct stat st;

	if (!id)
		return false;
	snprintf(full, sizeof(full), "/sys/fs/cgroup%s", path);
	return !stat(full, &st) && st.st_ino == id;
}

static enum fh_rules_say say(const struct rule *r, struct fh_identity *who)
{
	if (r->refuse)
		return FH_RULES_REFUSE;
	strcpy(who->tenant, r->tenant);
	strcpy(who->user, r->user);
	return FH_RULES_YES;
}

enum fh_rules_say fh_rules_peer(const struct fh_rules *r, uint32_t uid, uint32_t pid, uint64_t cgroup_id,
				struct fh_identity *who)
{
	for (uint32_t i = 0; r && i < r->nr; i++) {
		const struct rule *k = &r->rule[i];

		/* A pid or cgroup that could not be found out is 0, and no rule's. */
		if (!k->has_cert && !k->has_udp && (!k->has_uid || k->uid == uid) && (!k->has_pid || k->pid == pid) &&
		    (!k->has_cgroup || in_cgroup(k->cgroup, cgroup_id)))
			return say(k, who);
	}
	return FH_RULES_NOTHING;
}

enum fh_rules_say fh_rules_cert(const struct fh_rules *r, const char *common_name, struct fh_identity *who)
{
	for (uint32_t i = 0; r && i < r->nr; i++)
		if (r->rule[i].has_cert && !strcmp(r->rule[i].cert, common_name))
			return say(&r->rule[i], who);
	return FH_RULES_NOTHING;
}

enum fh_rules_say fh_rules_udp(const struct fh_rules *r, const char *name, struct fh_identity *who)
{
	for (uint32_t i = 0; r && i < r->nr; i++)
		if (r->rule[i].has_udp && !strcmp(r->rule[i].udp, name))
			return say(&r->rule[i], who);
	return FH_RULES_NOTHING;
}
