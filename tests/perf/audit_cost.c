// SPDX-License-Identifier: Apache-2.0
/*
 * What the audit log costs its writer, without a daemon around it: writes NR
 * chat interactions of TENANTS tenants into the log DIR and prints, as one line
 * of JSON, the time of a record, the log's bytes, and the bytes of the same
 * interactions as JSON (request and response bodies as the API has them).
 *
 *   audit_cost DIR NR [TENANTS [GROUP]]
 *
 * GROUP records are committed and synced together; the default, 64, is what a
 * busy server sees.  The texts are made of words with the frequencies of English
 * function words, so that they compress about as text does.  The tests of the
 * command line take their logs from here.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/clock.h"
#include "runtime/trust/log.h"

static uint64_t rng_state = 0x2545f4914f6cdd1du;
static uint64_t disk_bytes;

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

struct totals {
	uint64_t ns, nr_records, json_bytes;
};

static int append(struct fh_log *l, struct fh_record *r, const char *tenant, const char *body, size_t n,
		  uint64_t *index, struct totals *t)
{
	uint64_t begin = fh_now_ns();
	int rc;

	fh_record_set_str(r, FH_RS_TENANT, tenant, strlen(tenant));
	rc = fh_log_append(l, r, tenant, body, n, FH_BODY_FULL, index);
	t->ns += fh_now_ns() - begin;
	t->nr_records++;
	return rc;
}

static int one(struct fh_log *l, uint64_t i, uint32_t nr_tenants, char *text, struct totals *t)
{
	static const uint8_t key_id[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct fh_record r = {.kind = FH_REC_BEGIN};
	char tenant[32], id[32];
	uint64_t index;
	size_t n;
	int rc;

	snprintf(tenant, sizeof(tenant), "tenant-%u", (unsigned int)(i % nr_tenants));
	n = (size_t)sprintf(text, "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful "
				  "assistant.\"},{\"role\":\"user\",\"content\":\"");
	n += words(text + n, 20 + rng(120));
	n += (size_t)sprintf(text + n, "\"}],\"max_tokens\":200,\"temperature\":0.7}");
	r.num[FH_RN_TIME_US] = 1790000000000000u + i * 1000000;
	r.num[FH_RN_REF] = 1;
	r.num[FH_RN_ENDPOINT] = 2;
	r.num[FH_RN_NR_PROMPT] = 40;
	r.num[FH_RN_MAX_TOKENS] = 200;
	r.num[FH_RN_SEED] = (uint64_t)rng(UINT32_MAX) << 32 | rng(UINT32_MAX);
	snprintf(id, sizeof(id), "%016lx", (unsigned long)r.num[FH_RN_SEED]);
	fh_record_set_str(&r, FH_RS_REQUEST_ID, id, 8);
	fh_record_set_str(&r, FH_RS_KEY_ID, key_id, sizeof(key_id));
	rc = append(l, &r, tenant, text, n, &index, t);
	t->json_bytes += n;
	if (rc)
		return rc;
	r = (struct fh_record){.kind = FH_REC_END};
	r.num[FH_RN_TIME_US] = 1790000000500000u + i * 1000000;
	r.num[FH_RN_REF] = index + 1;
	r.num[FH_RN_STATUS] = 200;
	r.num[FH_RN_FINISH] = 1;
	r.num[FH_RN_NR_GENERATED] = 150;
	n = (size_t)sprintf(text, "{\"choices\":[{\"index\":0,\"text\":\"");
	n += words(text + n, 20 + rng(160));
	n += (size_t)sprintf(text + n, "\",\"finish_reason\":\"stop\"}]}");
	rc = append(l, &r, tenant, text, n, &index, t);
	/* What the API says around it: id, object, created, model, usage. */
	t->json_bytes += n + 260;
	return rc;
}

static int add_size(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)path;
	(void)ftw;
	if (type == FTW_F)
		disk_bytes += (uint64_t)st->st_size;
	return 0;
}

static int run(struct fh_log *l, uint64_t nr, uint32_t nr_tenants, uint32_t group, struct totals *t, uint64_t *sync_ns)
{
	struct fh_record start = {.kind = FH_REC_START};
	char *text = malloc(1 << 16);
	uint64_t index, begin;
	int rc = text ? 0 : -ENOMEM;

	start.num[FH_RN_TIME_US] = 1790000000000000u;
	fh_record_set_str(&start, FH_RS_MODEL, "m", 1);
	if (!rc)
		rc = fh_log_append(l, &start, NULL, NULL, 0, FH_BODY_NONE, &index);
	for (uint64_t i = 0; i < nr && !rc; i++) {
		rc = one(l, i, nr_tenants, text, t);
		begin = fh_now_ns();
		if (!rc && i % group == group - 1)
			rc = fh_log_commit(l, true);
		if (!rc && fh_log_pending(l) > 1u << 20)
			rc = fh_log_publish(l);
		*sync_ns += fh_now_ns() - begin;
	}
	free(text);
	return rc;
}

int main(int argc, char **argv)
{
	uint64_t nr = argc > 2 ? strtoull(argv[2], NULL, 10) : 0, sync_ns = 0;
	uint32_t nr_tenants = argc > 3 ? (uint32_t)atoi(argv[3]) : 4, group = argc > 4 ? (uint32_t)atoi(argv[4]) : 64;
	struct fh_log_report report;
	struct totals t = {0};
	struct fh_err err = {0};
	struct fh_log *l;
	int rc, end;

	if (!nr || !nr_tenants || !group) {
		fprintf(stderr, "usage: audit_cost DIR NR [TENANTS [GROUP]]\n");
		return 2;
	}
	if (fh_log_open(argv[1], NULL, NULL, &l, &report, &err)) {
		fprintf(stderr, "audit_cost: %s\n", err.msg);
		return 1;
	}
	rc = run(l, nr, nr_tenants, group, &t, &sync_ns);
	end = fh_log_close(l);
	if (rc || end) {
		fprintf(stderr, "audit_cost: %s\n", strerror(-(rc ? rc : end)));
		return 1;
	}
	nftw(argv[1], add_size, 16, FTW_PHYS);
	printf("{\"interactions\": %lu, \"append_us_per_record\": %.2f, \"commit_us_per_record\": %.2f, "
	       "\"log_bytes_per_interaction\": %.1f, \"json_bytes_per_interaction\": %.1f}\n",
	       (unsigned long)nr, (double)t.ns / 1000 / (double)t.nr_records,
	       (double)sync_ns / 1000 / (double)t.nr_records, (double)disk_bytes / (double)nr,
	       (double)t.json_bytes / (double)nr);
	return 0;
}
