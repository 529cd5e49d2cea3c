// SPDX-License-Identifier: Apache-2.0
/*
 * What the audit log costs its writer, without a daemon around it: writes NR
 * chat interactions of TENANTS tenants into the log DIR and prints, as one line
 * of JSON, the time of a record, the log's bytes and where they lie, and the
 * bytes of the same interactions as JSON (request and response bodies as the API
 * has them).
 *
 *   audit_cost [--text FILE] [--turns N] [--publish N] [--texts N] [--length PERCENT] DIR NR [TENANTS [GROUP]]
 *
 * GROUP records are committed and synced together; the default, 64, is what a
 * busy server sees.  Questions and answers are pieces of FILE, none taken twice,
 * so that there are fewer interactions when it ends; without one they are made of
 * words with the frequencies of English function words.  With --turns, N requests
 * are one conversation, each with all that was said before, as chat clients send
 * it.  With --publish the log is published after each N requests, as that of a
 * server with so many in a second is; with --texts after each N questions and answers.
 * --length 10 makes them a tenth as long.  The tests of the command line take their
 * logs from here.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/clock.h"
#include "runtime/trust/audit.h"

#define TURNS_MAX 16
#define SAID_BYTES (TURNS_MAX * 8192)	/* of a conversation; a turn has at most 300 words */
#define BODY_BYTES (SAID_BYTES + 65536) /* --length 1000 */

/* What a tenant's conversation has come to: its messages as the next request repeats them. */
struct chat {
	char *said; /* [SAID_BYTES] */
	size_t n;
	uint32_t turn;
};

struct totals {
	uint64_t ns, nr, nr_records, json_bytes;
};

struct job {
	struct fh_log *log;
	const char *text; /* NULL: words are made up */
	size_t nr_text, text_at;
	uint64_t nr;
	uint32_t nr_turns, nr_tenants, group, publish, texts, percent;
	struct chat *chats; /* [nr_tenants] */
	char *body;	    /* [BODY_BYTES] */
	struct totals t;
	uint64_t sync_ns;
};

static uint64_t rng_state = 0x2545f4914f6cdd1du;
/* By where they lie; for nftw(). */
static uint64_t entry_bytes, hash_bytes, body_bytes, other_bytes;

static uint32_t rng(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state * 2685821657736338717u >> 32) % below);
}

/* Half of what is said are a few short words; the other half are many, with no pattern to find. */
static size_t words(char *out, uint32_t nr)
{
	static const char *const common[] = {"the", "of",   "and", "to", "in",	"a",
					     "is",  "that", "for", "it", "was", "on"};
	size_t n = 0;

	for (uint32_t i = 0; i < nr; i++) {
		if (rng(2)) {
			n += (size_t)sprintf(out + n, "%s ", common[rng(12)]);
			continue;
		}
		/* One of 4,096 words, always spelled alike. */
		uint32_t word = rng(64) * rng(64), len = 4 + word % 6;

		for (uint32_t k = 0; k < len; k++)
			out[n++] = (char)('a' + (word * 2654435761u >> (5 * k % 27)) % 26);
		out[n++] = ' ';
	}
	return n;
}

/* The next piece of the text, of about @nr words, as the inside of a JSON string.  Its bytes; 0: no more. */
static size_t piece(struct job *j, char *out, uint32_t nr)
{
	size_t n = 0, most = (size_t)nr * 11 / 2;

	if (j->nr_text - j->text_at < most + 64)
		return 0;
	/* Up to a blank, if one comes soon. */
	for (size_t i = 0; i < most + 60 && (i < most || j->text[j->text_at - 1] != ' '); i++) {
		char c = j->text[j->text_at++];

		if (c == '"' || c == '\\' || c == '\n')
			out[n++] = '\\';
		out[n++] = (char)(c == '\n' ? 'n' : (uint8_t)c < ' ' ? ' ' : c);
	}
	return n;
}

static size_t say(struct job *j, char *out, uint32_t nr)
{
	nr = nr * j->percent / 100 ? nr * j->percent / 100 : 1;
	return j->text ? piece(j, out, nr) : words(out, nr);
}

static int append(struct job *j, struct fh_record *r, const char *tenant, size_t n, uint64_t *index)
{
	uint64_t begin = fh_now_ns();
	int rc;

	fh_record_set_str(r, FH_RS_TENANT, tenant, strlen(tenant));
	rc = fh_log_append(j->log, r, tenant, j->body, n, FH_BODY_FULL, index);
	j->t.ns += fh_now_ns() - begin;
	j->t.nr_records++;
	if (rc || !j->texts || j->t.nr_records % j->texts)
		return rc;
	begin = fh_now_ns();
	rc = fh_log_publish(j->log);
	j->sync_ns += fh_now_ns() - begin;
	return rc;
}

/* Adds what @who says to the conversation, for the requests after this one. */
static void remember(struct chat *c, const char *who, const char *said, size_t n)
{
	c->n += (size_t)sprintf(c->said + c->n, ",{\"role\":\"%s\",\"content\":\"%.*s\"}", who, (int)n, said);
}

/* 0; -ENODATA: the text has come to its end. */
static int ask(struct job *j, struct chat *c, uint64_t i, const char *tenant, uint64_t *index)
{
	static const uint8_t key_id[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct fh_record r = {.kind = FH_REC_BEGIN};
	size_t n, at;
	char id[32];

	n = (size_t)sprintf(j->body,
			    "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful "
			    "assistant.\"}%.*s,{\"role\":\"user\",\"content\":\"",
			    (int)c->n, c->said);
	at = n;
	n += say(j, j->body + n, 20 + rng(120));
	if (n == at)
		return -ENODATA;
	remember(c, "user", j->body + at, n - at);
	n += (size_t)sprintf(j->body + n, "\"}],\"max_tokens\":200,\"temperature\":0.7}");
	r.num[FH_RN_TIME_US] = 1790000000000000u + i * 1000000;
	r.num[FH_RN_REF] = 1;
	r.num[FH_RN_ENDPOINT] = 2;
	r.num[FH_RN_NR_PROMPT] = 40;
	r.num[FH_RN_MAX_TOKENS] = 200;
	r.num[FH_RN_SEED] = (uint64_t)rng(UINT32_MAX) << 32 | rng(UINT32_MAX);
	snprintf(id, sizeof(id), "%016lx", (unsigned long)r.num[FH_RN_SEED]);
	fh_record_set_str(&r, FH_RS_REQUEST_ID, id, 8);
	fh_record_set_str(&r, FH_RS_KEY_ID, key_id, sizeof(key_id));
	j->t.json_bytes += n;
	return append(j, &r, tenant, n, index);
}

static int answer(struct job *j, struct chat *c, uint64_t i, const char *tenant, uint64_t begin)
{
	struct fh_record r = {.kind = FH_REC_END};
	uint64_t index;
	size_t n, at;

	r.num[FH_RN_TIME_US] = 1790000000500000u + i * 1000000;
	r.num[FH_RN_REF] = begin + 1;
	r.num[FH_RN_STATUS] = 200;
	r.num[FH_RN_FINISH] = 1;
	r.num[FH_RN_NR_GENERATED] = 150;
	n = at = (size_t)sprintf(j->body, "{\"choices\":[{\"index\":0,\"text\":\"");
	n += say(j, j->body + n, 20 + rng(160));
	remember(c, "assistant", j->body + at, n - at);
	n += (size_t)sprintf(j->body + n, "\",\"finish_reason\":\"stop\"}]}");
	/* What the API says around it: id, object, created, model, usage. */
	j->t.json_bytes += n + 260;
	if (++c->turn == j->nr_turns)
		c->turn = c->n = 0;
	return append(j, &r, tenant, n, &index);
}

static int one(struct job *j, uint64_t i)
{
	struct chat *c = &j->chats[i % j->nr_tenants];
	char tenant[32];
	uint64_t index;
	int rc;

	snprintf(tenant, sizeof(tenant), "tenant-%u", (unsigned int)(i % j->nr_tenants));
	rc = ask(j, c, i, tenant, &index);
	if (rc)
		return rc;
	j->t.nr++;
	return answer(j, c, i, tenant, index);
}

static int add_size(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)ftw;
	if (type != FTW_F)
		return 0;
	if (strstr(path, "/tile/entries/"))
		entry_bytes += (uint64_t)st->st_size;
	else if (strstr(path, "/tile/"))
		hash_bytes += (uint64_t)st->st_size;
	else if (strstr(path, "/body/"))
		body_bytes += (uint64_t)st->st_size;
	else
		other_bytes += (uint64_t)st->st_size;
	return 0;
}

static int run(struct job *j)
{
	struct fh_record start = {.kind = FH_REC_START};
	uint64_t index, begin;
	int rc;

	start.num[FH_RN_TIME_US] = 1790000000000000u;
	fh_record_set_str(&start, FH_RS_MODEL, "m", 1);
	rc = fh_log_append(j->log, &start, NULL, NULL, 0, FH_BODY_NONE, &index);
	for (uint64_t i = 0; i < j->nr && !rc; i++) {
		rc = one(j, i);
		begin = fh_now_ns();
		if (!rc && i % j->group == j->group - 1)
			rc = fh_log_commit(j->log, true);
		if (!rc && (j->publish ? !((i + 1) % j->publish) : fh_log_pending(j->log) > 1u << 20))
			rc = fh_log_publish(j->log);
		j->sync_ns += fh_now_ns() - begin;
	}
	return rc == -ENODATA && j->t.nr ? 0 : rc;
}

static void print(const struct job *j)
{
	const struct totals *t = &j->t;
	double nr = (double)t->nr, log_bytes = (double)(entry_bytes + hash_bytes + body_bytes + other_bytes);

	printf("{\"interactions\": %lu, \"append_us_per_record\": %.2f, \"commit_us_per_record\": %.2f, "
	       "\"entry_bytes_per_interaction\": %.1f, \"hash_bytes_per_interaction\": %.1f, "
	       "\"body_bytes_per_interaction\": %.1f, \"log_bytes_per_interaction\": %.1f, "
	       "\"json_bytes_per_interaction\": %.1f, \"log_of_json\": %.3f}\n",
	       (unsigned long)t->nr, (double)t->ns / 1000 / (double)t->nr_records,
	       (double)j->sync_ns / 1000 / (double)t->nr_records, (double)entry_bytes / nr, (double)hash_bytes / nr,
	       (double)body_bytes / nr, log_bytes / nr, (double)t->json_bytes / nr, log_bytes / (double)t->json_bytes);
}

static int read_text(struct job *j, const char *path)
{
	struct fh_dir cwd = {.fd = AT_FDCWD};
	char *p;
	int rc = fh_dir_read(&cwd, path, 1u << 30, &p, &j->nr_text);

	if (rc)
		fprintf(stderr, "audit_cost: %s: %s\n", path, strerror(-rc));
	else
		j->text = p;
	return rc;
}

static int read_args(struct job *j, int argc, char **argv)
{
	static const struct option options[] = {
		{"text", required_argument, NULL, 'f'},	   {"turns", required_argument, NULL, 'n'},
		{"publish", required_argument, NULL, 'p'}, {"texts", required_argument, NULL, 't'},
		{"length", required_argument, NULL, 'l'},  {0}};
	int c, left;

	*j = (struct job){.nr_turns = 1, .nr_tenants = 4, .group = 64, .percent = 100};
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'n')
			j->nr_turns = (uint32_t)atoi(optarg);
		else if (c == 'p')
			j->publish = (uint32_t)atoi(optarg);
		else if (c == 't')
			j->texts = (uint32_t)atoi(optarg);
		else if (c == 'l')
			j->percent = (uint32_t)atoi(optarg);
		else if (c != 'f' || read_text(j, optarg))
			return -EINVAL;
	}
	left = argc - optind;
	if (left > 1)
		j->nr = strtoull(argv[optind + 1], NULL, 10);
	if (left > 2)
		j->nr_tenants = (uint32_t)atoi(argv[optind + 2]);
	if (left > 3)
		j->group = (uint32_t)atoi(argv[optind + 3]);
	if (j->nr && j->nr_tenants && j->group && j->nr_turns && j->nr_turns <= TURNS_MAX && j->percent &&
	    j->percent <= (j->nr_turns > 1 ? 100 : 1000))
		return 0;
	fprintf(stderr,
		"usage: audit_cost [--text FILE] [--turns 1..%d] [--publish N] [--texts N] [--length 1..1000] DIR NR "
		"[TENANTS [GROUP]]\n",
		TURNS_MAX);
	return -EINVAL;
}

static int make_room(struct job *j)
{
	j->body = malloc(BODY_BYTES);
	j->chats = calloc(j->nr_tenants, sizeof(*j->chats));
	for (uint32_t i = 0; j->chats && i < j->nr_tenants; i++) {
		j->chats[i].said = calloc(1, SAID_BYTES);
		if (!j->chats[i].said)
			return -ENOMEM;
	}
	return j->body && j->chats ? 0 : -ENOMEM;
}

int main(int argc, char **argv)
{
	struct fh_log_report report;
	struct fh_err err = {0};
	struct job j;
	int rc, end;

	if (read_args(&j, argc, argv))
		return 2;
	if (fh_log_open(argv[optind], NULL, NULL, &j.log, &report, &err)) {
		fprintf(stderr, "audit_cost: %s\n", err.msg);
		return 1;
	}
	fh_log_set_hold(j.log, FH_AUDIT_HOLD_MS * 1000ull);
	rc = make_room(&j);
	if (!rc)
		rc = run(&j);
	end = fh_log_close(j.log);
	for (uint32_t i = 0; j.chats && i < j.nr_tenants; i++)
		free(j.chats[i].said);
	free(j.chats);
	free(j.body);
	free((char *)j.text);
	if (rc || end) {
		fprintf(stderr, "audit_cost: %s\n", strerror(-(rc ? rc : end)));
		return 1;
	}
	nftw(argv[optind], add_size, 16, FTW_PHYS);
	print(&j);
	return 0;
}
