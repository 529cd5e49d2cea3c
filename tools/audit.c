// SPDX-License-Identifier: Apache-2.0
/* freehold audit: what an auditor does with a log, without the daemon. */
#define _XOPEN_SOURCE 700
#include "tools/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/trust/held.h"
#include "runtime/trust/log.h"
#include "runtime/trust/verify.h"
#include "tools/cmd.h"

static void usage(void)
{
	fputs("usage: freehold audit verify DIR [--key KEY]\n"
	      "       freehold audit show DIR ENTRY [--key KEY]\n"
	      "       freehold audit export DIR [--from TIME] [--to TIME] [--tenant NAME] [--no-bodies] [--key KEY]\n"
	      "       freehold audit consistency OLD-CHECKPOINT DIR [--key KEY]\n"
	      "       freehold audit verify-receipt RECEIPT --key KEY [--request FILE] [--answer FILE]\n"
	      "       freehold audit rebuild-usage DIR... [--keys FILE] [--check | --force] [--key KEY]\n"
	      "       freehold audit erase-tenant DIR NAME\n"
	      "\n"
	      "Work with an audit log, or a copy of one; no daemon is needed.\n"
	      "\n"
	      "  verify        read all of it and say whether it is what was signed;\n"
	      "                exit status 1, and a line for each finding, if not\n"
	      "  show          one entry, with its text and its proof of inclusion, as JSON\n"
	      "  export        the entries as JSON, one a line\n"
	      "  consistency   is all that OLD-CHECKPOINT vouched for still in the log?  Exit status 3:\n"
	      "                its entries are, but texts could not be compared, and no entry says why\n"
	      "  verify-receipt  does the log hold what this receipt says?  Needs no log\n"
	      "  rebuild-usage  make the usage that budgets and `freehold cost` go by what these logs say\n"
	      "  erase-tenant  remove a tenant's key, and with it all text; proofs still hold\n"
	      "\n"
	      "  --key KEY     the verifier key, or a file with it, that the log must have been\n"
	      "                signed with (default: the log's own key.pub)\n"
	      "  --from TIME   entries from then on, such as 2026-11-29 or 2026-11-29T12:00:00Z\n"
	      "  --to TIME     entries before then\n"
	      "  --tenant NAME entries of this tenant only\n"
	      "  --no-bodies   without the text\n"
	      "  --keys FILE   the database that has the usage (default: " CMD_KEYS_PATH ")\n"
	      "  --check       change nothing: print what differs; exit status 1 if anything does\n"
	      "  --force       also forget what versions used that did not log what was paid\n"
	      "  --request FILE, --answer FILE\n"
	      "                is this what was asked (the body as it was sent), was this the answer\n"
	      "                (its text alone)?\n"
	      "\n"
	      "examples:\n"
	      "  freehold audit verify /var/lib/freehold/audit --key auditor.pub\n"
	      "  freehold audit export /var/lib/freehold/audit --tenant alice --from 2026-11-01 > alice.jsonl\n"
	      "  cp /var/lib/freehold/audit/checkpoint november; ...\n"
	      "  freehold audit verify-receipt receipt.json --key auditor.pub --answer answer.txt\n"
	      "  freehold audit consistency november /var/lib/freehold/audit\n"
	      "  freehold audit rebuild-usage /var/lib/freehold/audit --check\n",
	      stdout);
}

static int fail(const char *fmt, const char *a, const char *b)
{
	fputs("freehold audit: ", stderr);
	fprintf(stderr, fmt, a, b);
	fputc('\n', stderr);
	return 1;
}

bool audit_parse_time(const char *text, uint64_t *us)
{
	static const char *const forms[] = {"%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d", "%s"};

	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		struct tm tm = {0};
		const char *end;
		time_t t;

		if (i == 3) {
			char *stop;

			*us = strtoull(text, &stop, 10) * 1000000;
			return *text && !*stop;
		}
		end = strptime(text, forms[i], &tm);
		if (!end || *end)
			continue;
		t = timegm(&tm);
		*us = (uint64_t)t * 1000000;
		return t >= 0;
	}
	return false;
}

const char *audit_key_text(const char *arg, char out[FH_NOTE_KEY_MAX])
{
	FILE *f = arg && !strchr(arg, '+') ? fopen(arg, "re") : NULL;

	if (!f)
		return arg;
	if (!fgets(out, FH_NOTE_KEY_MAX, f))
		*out = 0;
	fclose(f);
	return out;
}

static void print_time(const char *what, uint64_t us)
{
	time_t t = (time_t)(us / 1000000);
	struct tm tm;
	char text[32];

	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
	printf("%s%s", what, text);
}

static void print_finding(void *ctx, const char *text)
{
	(void)ctx;
	printf("FOUND: %s\n", text);
}

static int audit_verify(const struct audit_args *a)
{
	struct fh_verify v = {.finding = print_finding};
	char key[FH_NOTE_KEY_MAX];
	struct fh_err err = {0};
	int rc = fh_verify(a->words[0], audit_key_text(a->key, key), &v, &err);

	if (rc)
		return fail("%s: %s", a->words[0], err.msg);
	printf("log %s, signed with %s\n", v.cp.origin, v.verifier_key);
	printf("%" PRIu64 " entries, %" PRIu64 " interactions (%" PRIu64 " without an outcome)", v.nr_entries,
	       v.nr_interactions, v.nr_open);
	if (v.nr_entries) {
		print_time(", from ", v.first_us);
		print_time(" to ", v.last_us);
	}
	printf("\n%" PRIu64 " sealed bodies: %" PRIu64 " opened, %" PRIu64 " erased, %" PRIu64 " not readable here\n",
	       v.nr_bodies, v.nr_opened, v.nr_erased, v.nr_bodies - v.nr_opened - v.nr_erased - v.nr_expired);
	if (v.nr_expired)
		printf("%" PRIu64 " of the bodies were removed when they were old enough\n", v.nr_expired);
	if (v.nr_journal)
		printf("%" PRIu64 " entries in the journal, not signed yet\n", v.nr_journal);
	printf(v.nr_findings ? "%" PRIu64 " findings: this is NOT the log that was signed\n"
			     : "verified: every entry, hash and body is as signed\n",
	       v.nr_findings);
	return v.nr_findings ? 1 : 0;
}

#define NOT_COMPARED 3 /* exit status */

static int old_checkpoint(const char *path, const struct fh_reader *r, struct fh_checkpoint *old)
{
	struct fh_err err = {0};
	char note[4096];
	FILE *f = fopen(path, "re");
	size_t n;

	if (!f)
		return fail("%s: %s", path, strerror(errno));
	n = fread(note, 1, sizeof(note), f);
	fclose(f);
	return fh_checkpoint_open(note, n, &r->key, old, &err) ? fail("%s: %s", path, err.msg) : 0;
}

/* By hashes alone: no entry is read, and nobody's key. *nr: of the proof. */
static int check_tree(struct fh_reader *r, const struct fh_checkpoint *old, uint32_t *nr)
{
	struct fh_hash proof[FH_MAX_PROOF];
	struct fh_hashes hashes = fh_reader_hashes(r);
	int rc = 0;

	*nr = 0;
	if (old->size > r->cp.size)
		return -EINVAL;
	if (old->size)
		rc = fh_prove_consistency(&hashes, old->size, r->cp.size, proof, nr);
	if (!rc && old->size && !fh_check_consistency(old->size, r->cp.size, &old->root, &r->cp.root, proof, *nr))
		rc = -EBADMSG;
	return rc;
}

/* What fh_held_check() found. */
static int tell_held(const struct fh_checkpoint *old, int rc, uint64_t nr)
{
	static const char texts[] = "texts that the old checkpoint signed for beside them";

	switch (rc) {
	case 0: printf("%" PRIu64 " %s are as they were\n", old->held.nr, texts); return 0;
	case -ENOKEY:
		printf("%" PRIu64 " %s cannot be compared: of %" PRIu64
		       " the key was erased, or they were removed when they were old enough, as entries of this log "
		       "say\n",
		       old->held.nr, texts, nr);
		return 0;
	case -EKEYREJECTED:
		printf("NOT compared: the %" PRIu64 " %s: of %" PRIu64
		       " key or text is not here or damaged, and no entry says that it was erased or removed\n",
		       old->held.nr, texts, nr);
		return NOT_COMPARED;
	case -EBADMSG:
		printf("NOT consistent: the %" PRIu64 " %s are not those that are here\n", old->held.nr, texts);
		return 1;
	default:
		printf("NOT compared: the %" PRIu64 " %s: %s\n", old->held.nr, texts, strerror(-rc));
		return NOT_COMPARED;
	}
}

/* The texts that the old checkpoint signed for while they were in no body yet. */
static int check_held(const struct audit_args *a, const struct fh_checkpoint *old)
{
	struct fh_opener *op;
	struct fh_reader r;
	uint64_t nr = 0;
	uint32_t nr_proof;
	int rc;

	/* Anew: it may have gone on meanwhile. */
	if (audit_open(a, a->words[1], &r, &op)) {
		printf("NOT compared: the %" PRIu64
		       " texts that the old checkpoint signed for beside them: the log's texts cannot be opened\n",
		       old->held.nr);
		return NOT_COMPARED;
	}
	/* It has become shorter: that is no reason not to compare. */
	rc = check_tree(&r, old, &nr_proof);
	if (rc == -EINVAL)
		rc = -EBADMSG;
	if (!rc)
		rc = fh_held_check(&r, op, old, &nr);
	fh_opener_free(op);
	fh_reader_close(&r);
	return tell_held(old, rc, nr);
}

static int audit_consistency(const struct audit_args *a)
{
	struct fh_checkpoint old;
	char key[FH_NOTE_KEY_MAX];
	struct fh_err err = {0};
	struct fh_reader r;
	uint64_t size;
	uint32_t nr;
	int rc;

	if (fh_reader_open(&r, a->words[1], audit_key_text(a->key, key), &err))
		return fail("%s: %s", a->words[1], err.msg);
	rc = old_checkpoint(a->words[0], &r, &old);
	if (rc) {
		fh_reader_close(&r);
		return rc;
	}
	size = r.cp.size;
	rc = check_tree(&r, &old, &nr);
	fh_reader_close(&r);
	if (rc) {
		printf("NOT consistent: the %" PRIu64
		       " entries of the old checkpoint are not the first of these %" PRIu64 "\n",
		       old.size, size);
		return 1;
	}
	printf("consistent: the %" PRIu64 " entries of the old checkpoint are the first of these %" PRIu64
	       " (proof of %u hashes)\n",
	       old.size, size, nr);
	return old.held.nr ? check_held(a, &old) : 0;
}

/* The log is written by a daemon: leave it a wish, and see it done. */
static int ask_daemon(const char *dir, const char *name)
{
	const struct timespec nap = {.tv_nsec = 100000000};
	struct fh_dir d;
	struct fh_err err;
	char path[FH_DIR_PATH_MAX];
	int fd, rc = fh_dir_open(&d, dir, false, &err);

	if (rc)
		return fail("%s%s", err.msg, "");
	snprintf(path, sizeof(path), "erase/%s", name);
	fd = fh_dir_open_file(&d, path);
	rc = fd < 0 ? fd : 0;
	if (fd >= 0)
		close(fd);
	for (int i = 0; i < 100 && !rc && !faccessat(d.fd, path, F_OK, 0); i++)
		nanosleep(&nap, NULL);
	if (!rc && !faccessat(d.fd, path, F_OK, 0))
		rc = -ETIMEDOUT;
	fh_dir_close(&d);
	if (rc == -ETIMEDOUT)
		return fail("%s: the process that writes this log has not erased %s within 10 s; the wish stays", dir,
			    name);
	return rc ? fail("%s: %s", path, strerror(-rc)) : 0;
}

static int audit_erase(const struct audit_args *a)
{
	const char *dir = a->words[0], *name = a->words[1];
	struct fh_log_report report;
	struct fh_err err = {0};
	char path[4096];
	struct fh_log *l;
	int rc, end;

	if (!fh_tenant_name_ok(name))
		return fail("'%s' is no tenant's name%s", name, "");
	snprintf(path, sizeof(path), "%s/key", dir);
	if (access(path, R_OK))
		return fail("%s: %s", path, strerror(errno));
	snprintf(path, sizeof(path), "%s/tenant/%s", dir, name);
	if (access(path, F_OK))
		return fail("%s: there is no key of tenant %s (erased already?)", dir, name);
	rc = fh_log_open(dir, NULL, NULL, &l, &report, &err);
	if (rc == -EBUSY) {
		rc = ask_daemon(dir, name);
	} else if (rc) {
		return fail("%s: %s", dir, err.msg);
	} else {
		rc = fh_log_erase_tenant(l, name);
		end = fh_log_close(l);
		rc = rc ? rc : end;
		if (rc)
			return fail("%s: %s", dir, strerror(-rc));
	}
	if (!rc)
		printf("the key of tenant %s is erased; its text in this log cannot be read any more\n", name);
	return rc;
}

/* ---- arguments ---- */

static const struct action {
	const char *name;
	uint32_t nr_words;   /* that it wants */
	const char *options; /* that it takes */
	int (*fn)(const struct audit_args *a);
} actions[] = {
	{"verify", 1, "key", audit_verify},
	{"show", 2, "key", audit_show},
	{"export", 1, "key tenant from to no-bodies jsonl", audit_export},
	{"consistency", 2, "key", audit_consistency},
	{"verify-receipt", 1, "key request answer", audit_verify_receipt},
	{"rebuild-usage", 1, "key keys check force", audit_rebuild_usage},
	{"erase-tenant", 2, "", audit_erase},
};

static bool takes(const struct action *act, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = act->options; (p = strstr(p, name)); p += n)
		if ((p == act->options || p[-1] == ' ') && (!p[n] || p[n] == ' '))
			return true;
	return false;
}

static bool set_time(const char *name, const char *value, uint64_t *us)
{
	if (audit_parse_time(value, us))
		return true;
	fprintf(stderr, "freehold audit: --%s %s: a time such as 2026-11-29 or 2026-11-29T12:00:00Z is wanted\n", name,
		value);
	return false;
}

/* One option at argv[*i]. */
static bool set_option(const struct action *act, struct audit_args *a, int argc, char **argv, int *i)
{
	char *name = argv[*i] + 2, *value = strchr(name, '=');

	if (value)
		*value++ = 0;
	if (!takes(act, name)) {
		fprintf(stderr, "freehold audit %s: there is no option '--%s'\n", act->name, name);
		return false;
	}
	if (!strcmp(name, "no-bodies") || !strcmp(name, "jsonl")) {
		a->bodies &= *name != 'n';
		return true;
	}
	if (!strcmp(name, "check") || !strcmp(name, "force")) {
		*(*name == 'c' ? &a->check : &a->force) = true;
		return true;
	}
	if (!value)
		value = *i + 1 < argc ? argv[++*i] : NULL;
	if (!value) {
		fprintf(stderr, "freehold audit: --%s wants a value\n", name);
		return false;
	}
	if (!strcmp(name, "from"))
		return set_time(name, value, &a->from_us);
	if (!strcmp(name, "to"))
		return set_time(name, value, &a->to_us);
	*(!strcmp(name, "key")	     ? &a->key
	  : !strcmp(name, "request") ? &a->request
	  : !strcmp(name, "answer")  ? &a->answer
	  : !strcmp(name, "keys")    ? &a->keys
				     : &a->tenant) = value;
	return true;
}

static int run(const struct action *act, int argc, char **argv)
{
	struct audit_args a = {.to_us = UINT64_MAX, .bodies = true};

	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "--", 2)) {
			if (!set_option(act, &a, argc, argv, &i))
				return 2;
		} else if (a.nr_words == (act->fn == audit_rebuild_usage ? AUDIT_MAX_WORDS : act->nr_words)) {
			fprintf(stderr, "freehold audit %s: '%s' is too much\n", act->name, argv[i]);
			return 2;
		} else {
			a.words[a.nr_words++] = argv[i];
		}
	}
	if (a.nr_words < act->nr_words) {
		fprintf(stderr, "freehold audit %s: something is missing; `freehold audit --help` explains\n",
			act->name);
		return 2;
	}
	return act->fn(&a);
}

int cmd_audit(int argc, char **argv)
{
	if (cmd_wants_help(argc, argv)) {
		usage();
		return 0;
	}
	for (size_t i = 0; argc > 1 && i < sizeof(actions) / sizeof(actions[0]); i++)
		if (!strcmp(argv[1], actions[i].name))
			return run(&actions[i], argc - 1, argv + 1);
	fprintf(stderr, "freehold audit: %s; `freehold audit --help` lists what it does\n",
		argc > 1 ? "there is no such action" : "an action is wanted");
	return 2;
}
