// SPDX-License-Identifier: Apache-2.0
/*
 * The audit log in the daemon.  What front ends tell (runtime/base/auditor.h)
 * becomes records here, on their own threads; the log's writer does the rest.
 */
#include "runtime/daemon/audit.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/auditor.h"
#include "runtime/base/log.h"
#include "runtime/trust/audit.h"
#include "runtime/trust/charge.h"
#include "runtime/trust/keytab.h"
#include "runtime/trust/identity.h"

#define MAX_FRONTENDS 8 /* as many as an engine has */
#define SIX_MONTHS 184	/* days, at most */
#define HASH_CHUNK (1u << 20)
#define KEYS_WAIT_MS 5000      /* for a change of keys to become durable */
#define ARENA_BYTES (8u << 20) /* of events of one front end that the writer has not taken yet; more is allocated */

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct auditor {
	struct fh_auditor base;
	struct fhd_audit *a;
	struct fh_audit_source *source;
	struct fh_frontend *fe;
	void (*kick)(void *ctx);
	void *kick_ctx;
};

struct fhd_audit {
	const struct fhd_config *cfg;
	struct fh_audit *audit;
	struct fh_audit_source *main, *hasher, *keys;
	struct auditor fe[MAX_FRONTENDS];
	uint32_t nr_fe;
	pthread_mutex_t wake_lock; /* of quiet */
	bool quiet;		   /* the front ends' threads have ended: nobody is woken any more */
	int fd;
	bool runs;
	/* The thread that hashes the weights. */
	pthread_t hash_thread;
	bool hashing;
	_Atomic uint32_t hash_stop;
	/* The table of keys that the last KEYS entry was about; of the thread that watches them, once it runs. */
	struct fh_guard *keys_told;
	struct fh_identity keys_by;			  /* who has revoked ... */
	char keys_revoked[2 * FH_IDENTITY_KEY_BYTES + 1]; /* this key over HTTP, which was not told yet; "": none */
	uint8_t keys_digest[32];
	uint64_t keys_seq;		       /* of that entry; 0: it was lost */
	const struct fh_gguf *weights, *draft; /* NULL: none */
};

static uint64_t wall_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void set_text(struct fh_record *r, enum fh_record_str tag, const char *text)
{
	if (text && *text)
		fh_record_set_str(r, tag, text, strlen(text));
}

/* ---- what front ends call ---- */

static uint64_t float_bits(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	return bits;
}

static void fill_common(const struct auditor *u, const struct fh_audited *e, struct fh_record *r)
{
	fh_identity_record(e->who, r);
	r->num[FH_RN_TIME_US] = wall_us();
	r->num[FH_RN_ENDPOINT] = e->endpoint;
	r->num[FH_RN_BODY_TYPE] = e->body ? e->body_type : 0;
	/* HTTP is what most requests come by: it is left out. */
	if (e->endpoint == FH_AE_CHANNEL || e->endpoint == FH_AE_UDP)
		set_text(r, FH_RS_FRONTEND, u->fe->name);
}

static void fill_id(const struct fh_audited *e, struct fh_record *r)
{
	set_text(r, FH_RS_REQUEST_ID, e->request_id);
	r->num[FH_RN_SERIAL] = e->serial;
}

_Static_assert(FH_AUDIT_SALT_BYTES == FH_RECEIPT_SALT_BYTES, "receipts");

static void set_commit(const struct fh_audited *e, uint8_t commit[FH_RECEIPT_COMMIT_BYTES], struct fh_record *r)
{
	fh_receipt_commit(e->salt, e->said, e->said_bytes, commit);
	fh_record_set_str(r, FH_RS_COMMIT, commit, FH_RECEIPT_COMMIT_BYTES);
}

static void fill_run(const struct fh_audited *e, struct fh_record *r)
{
	static const uint8_t none[16];

	if (!e->run_id || !memcmp(e->run_id, none, sizeof(none)))
		return;
	fh_record_set_str(r, FH_RS_RUN, e->run_id, sizeof(none));
	r->num[FH_RN_RUN_DEPTH] = e->run_depth;
}

static int audit_ready(struct fh_auditor *a, uint32_t nr)
{
	return fh_audit_ready(container_of(a, struct auditor, base)->source, nr);
}

static int audit_begin(struct fh_auditor *a, const struct fh_audited *e, struct fh_audit_ticket **t, uint64_t *seq)
{
	struct auditor *u = container_of(a, struct auditor, base);
	struct fh_record r = {.kind = FH_REC_BEGIN};
	uint8_t commit[FH_RECEIPT_COMMIT_BYTES];

	fill_common(u, e, &r);
	fill_id(e, &r);
	r.num[FH_RN_FLAGS] = e->stream ? FH_RF_STREAM : 0;
	r.num[FH_RN_N] = e->n;
	r.num[FH_RN_MAX_TOKENS] = e->max_tokens;
	r.num[FH_RN_SEED] = e->seed;
	r.num[FH_RN_NR_PROMPT] = e->nr_prompt;
	r.num[FH_RN_TEMPERATURE] = float_bits(e->temperature);
	r.num[FH_RN_TOP_P] = float_bits(e->top_p);
	r.num[FH_RN_TOP_K] = e->top_k;
	fill_run(e, &r);
	if (e->salt) {
		randombytes_buf(e->salt, FH_AUDIT_SALT_BYTES);
		set_commit(e, commit, &r);
	}
	return (e->admitted ? fh_audit_begin_anyway : fh_audit_begin)(u->source, &r, e->who->tenant, e->body,
								      e->body_bytes, t, seq);
}

static void fill_outcome(const struct fh_audited *e, struct fh_record *r)
{
	r->num[FH_RN_STATUS] = e->status;
	r->num[FH_RN_FINISH] = e->finish;
	r->num[FH_RN_FLAGS] = e->cancelled ? FH_RF_CANCELLED : 0;
	r->num[FH_RN_SEED] = e->seed;
	r->num[FH_RN_NR_GENERATED] = e->nr_generated;
	r->num[FH_RN_NR_CACHED] = e->nr_cached;
	r->num[FH_RN_DURATION_US] = e->duration_us;
	r->num[FH_RN_TTFT_US] = e->ttft_us;
	set_text(r, FH_RS_TEXT, e->why);
}

static uint64_t audit_end(struct fh_auditor *a, struct fh_audit_ticket *t, const struct fh_audited *e)
{
	struct auditor *u = container_of(a, struct auditor, base);
	struct fh_record r = {.kind = FH_REC_END};
	uint8_t commit[FH_RECEIPT_COMMIT_BYTES], charges[FH_CHARGE_BYTES];

	/* Who, where and by what id stands in its begin; the tenant is needed to find the body's key. */
	r.num[FH_RN_TIME_US] = wall_us();
	r.num[FH_RN_BODY_TYPE] = e->body ? e->body_type : 0;
	fill_outcome(e, &r);
	fh_charge_put(e->charge, e->nr_prompt, &r, charges);
	if (!e->salt)
		return fh_audit_end(u->source, t, &r, e->who->tenant, e->body, e->body_bytes);
	set_commit(e, commit, &r);
	return fh_audit_end_with_receipt(u->source, t, &r, e->who->tenant, e->body, e->body_bytes, e->salt, e->cookie,
					 e->promised);
}

static uint64_t audit_refused(struct fh_auditor *a, const struct fh_audited *e)
{
	struct auditor *u = container_of(a, struct auditor, base);
	struct fh_record r = {.kind = FH_REC_REFUSED};
	uint8_t charges[FH_CHARGE_BYTES];

	fill_common(u, e, &r);
	fill_id(e, &r);
	fill_outcome(e, &r);
	fill_run(e, &r);
	/* Over a channel it may have been counted before its prompt was read: its record says no prompt. */
	fh_charge_put(e->charge, 0, &r, charges);
	set_text(&r, FH_RS_TENANT, e->who->tenant);
	return fh_audit_note(u->source, &r);
}

static bool audit_durable(struct fh_auditor *a, uint64_t seq)
{
	return fh_audit_durable(container_of(a, struct auditor, base)->source, seq);
}

static bool audit_receipt(struct fh_auditor *a, void **cookie, char **text)
{
	return fh_audit_receipt(container_of(a, struct auditor, base)->source, cookie, text);
}

static int audit_trouble(struct fh_auditor *a)
{
	struct fh_audit_state st;

	fh_audit_state(container_of(a, struct auditor, base)->a->audit, &st);
	return st.error;
}

static void audit_name_key(struct fh_auditor *a, const void *key, size_t n, uint8_t id[FH_IDENTITY_KEY_BYTES])
{
	fh_audit_keyed_hash(container_of(a, struct auditor, base)->a->audit, key, n, id, FH_IDENTITY_KEY_BYTES);
}

static const struct fh_auditor_ops auditor_ops = {
	.ready = audit_ready,
	.begin = audit_begin,
	.end = audit_end,
	.refused = audit_refused,
	.durable = audit_durable,
	.receipt = audit_receipt,
	.trouble = audit_trouble,
	.name_key = audit_name_key,
};

/* ---- the hash of the weights ---- */

/* BLAKE2b-256 of the file. 0, -ECANCELED or -errno. */
static int hash_file(struct fhd_audit *a, const char *path, uint8_t out[32])
{
	crypto_generichash_state st;
	uint8_t *buf = malloc(HASH_CHUNK);
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
	ssize_t n = 1;

	if (fd < 0 || !buf)
		rc = fd < 0 ? -errno : -ENOMEM;
	crypto_generichash_init(&st, NULL, 0, 32);
	while (!rc && n) {
		n = read(fd, buf, HASH_CHUNK);
		if (n < 0)
			rc = -errno;
		else
			crypto_generichash_update(&st, buf, (size_t)n);
		if (atomic_load(&a->hash_stop))
			rc = -ECANCELED;
	}
	crypto_generichash_final(&st, out, 32);
	if (fd >= 0)
		close(fd);
	free(buf);
	return rc;
}

/* A record for each file of @g. 0, or -ECANCELED. */
static int hash_files(struct fhd_audit *a, const struct fh_gguf *g, const char *what)
{
	for (uint32_t i = 0; g && i < fh_gguf_nr_files(g); i++) {
		const char *path = fh_gguf_file_path(g, i);
		struct fh_record r = {.kind = FH_REC_WEIGHTS};
		uint8_t hash[32];
		int rc = hash_file(a, path, hash);

		if (rc == -ECANCELED)
			return rc;
		r.num[FH_RN_TIME_US] = wall_us();
		r.num[FH_RN_COUNT] = i + 1;
		set_text(&r, FH_RS_MODEL, path);
		set_text(&r, FH_RS_TEXT, what);
		if (rc) {
			fh_error("audit: cannot hash %s: %s", path, strerror(-rc));
			set_text(&r, FH_RS_TEXT, strerror(-rc));
		} else {
			fh_record_set_str(&r, FH_RS_WEIGHTS, hash, sizeof(hash));
		}
		fh_audit_note(a->hasher, &r);
	}
	return 0;
}

/* Large files take a while, and nobody shall wait for it: the hash is a record of its own. */
static void *hash_main(void *arg)
{
	struct fhd_audit *a = arg;

	pthread_setname_np(pthread_self(), "fh-weights");
	setpriority(PRIO_PROCESS, (id_t)gettid(), 19);
	if (!hash_files(a, a->weights, NULL))
		hash_files(a, a->draft, "the draft model");
	return NULL;
}

static void start_hashing(struct fhd_audit *a, const struct fh_gguf *weights, const struct fh_gguf *draft)
{
	int rc;

	a->weights = weights;
	a->draft = draft;
	rc = pthread_create(&a->hash_thread, NULL, hash_main, a);
	a->hashing = !rc;
	if (rc)
		fh_error("audit: no thread to hash the weights: %s", strerror(rc));
}

/* ---- life ---- */

static void wake(void *ctx)
{
	struct auditor *u = ctx;

	pthread_mutex_lock(&u->a->wake_lock);
	if (u->a->quiet)
		;
	else if (u->kick)
		u->kick(u->kick_ctx);
	else
		u->fe->wake(u->fe);
	pthread_mutex_unlock(&u->a->wake_lock);
}

void fhd_audit_quiet(struct fhd_audit *a)
{
	if (!a)
		return;
	pthread_mutex_lock(&a->wake_lock);
	a->quiet = true;
	pthread_mutex_unlock(&a->wake_lock);
}

static enum fh_body_mode body_mode(const struct fhd_config *cfg)
{
	const char *name = cfg->audit_bodies ?: "full";

	if (!strcmp(name, "none"))
		return FH_BODY_NONE;
	return !strcmp(name, "hash") ? FH_BODY_HASH : FH_BODY_FULL;
}

static void say_what_was_mended(const struct fhd_config *cfg, const struct fh_log_report *r, const char *key)
{
	if (r->created)
		fh_info("audit: began a log in %s; its verifier key, for auditors, is %s", cfg->audit_dir, key);
	if (r->nr_replayed || r->torn_bytes || r->body_torn_bytes)
		fh_warn("audit: the log in %s was not ended in order: %" PRIu64 " entries were taken from its journal, "
			"%" PRIu64 " bytes of an entry that nobody was told of were cut off",
			cfg->audit_dir, r->nr_replayed, r->torn_bytes);
	if (r->broken_bytes)
		fh_error("audit: %" PRIu64
			 " bytes of the journal of the log in %s are damaged; they are of entries that lie "
			 "in its tiles too, and nothing is lost, but look at its disk",
			 r->broken_bytes, cfg->audit_dir);
}

int fhd_audit_open(const struct fhd_config *cfg, struct fhd_audit **out, struct fh_err *err)
{
	struct fh_audit_config ac = {
		.dir = cfg->audit_dir,
		.strict = fhd_config_audit_strict(cfg),
		.body = body_mode(cfg),
		.arena_bytes = ARENA_BYTES,
		.retain_us = cfg->audit_retain_days * 86400000000ull,
	};
	struct fh_log_report report = {0};
	struct fhd_audit *a;
	struct fh_err why;
	int rc;

	*out = NULL;
	if (!cfg->audit_dir)
		return 0;
	a = calloc(1, sizeof(*a));
	if (!a)
		return fh_errf(err, -ENOMEM, "out of memory");
	a->cfg = cfg;
	pthread_mutex_init(&a->wake_lock, NULL);
	if (cfg->audit_retain_days && cfg->audit_retain_days < SIX_MONTHS)
		fh_warn("--audit-retain %u: the EU AI Act wants logs kept for six months at least, unless other law "
			"says "
			"otherwise",
			cfg->audit_retain_days);
	rc = fh_audit_open(&ac, &a->audit, &report, &why);
	if (rc) {
		free(a);
		return fh_errf(err, rc, "--audit %s: %s", cfg->audit_dir, why.msg);
	}
	a->fd = fh_log_fd(fh_audit_log(a->audit));
	a->main = fh_audit_attach(a->audit, NULL, NULL);
	a->keys = fh_audit_attach(a->audit, NULL, NULL);
	a->hasher = fh_audit_attach(a->audit, NULL, NULL);
	if (!a->main || !a->hasher || !a->keys) {
		fh_audit_close(a->audit);
		free(a);
		return fh_errf(err, -ENOMEM, "out of memory");
	}
	say_what_was_mended(cfg, &report, fh_audit_verifier_key(a->audit));
	*out = a;
	return 0;
}

int fhd_audit_attach(struct fhd_audit *a, struct fh_frontend *fe, void (*kick)(void *ctx), void *ctx,
		     struct fh_err *err)
{
	struct auditor *u;

	if (!a)
		return 0;
	u = &a->fe[a->nr_fe];
	*u = (struct auditor){
		.base = {.ops = &auditor_ops,
			 .strict = fhd_config_audit_strict(a->cfg),
			 .wants_bodies = body_mode(a->cfg) != FH_BODY_NONE},
		.a = a,
		.fe = fe,
		.kick = fe->wake ? NULL : kick,
		.kick_ctx = ctx,
	};
	u->source = a->nr_fe < MAX_FRONTENDS ? fh_audit_attach(a->audit, wake, u) : NULL;
	if (!u->source)
		return fh_errf(err, -ENOMEM, "audit: no memory for what %s hands over", fe->name);
	a->nr_fe++;
	fe->audit = &u->base;
	return 0;
}

int fhd_audit_start(struct fhd_audit *a, const char *model, const char *settings, const struct fh_gguf *weights,
		    const struct fh_gguf *draft, struct fh_err *err)
{
	struct fh_record r = {.kind = FH_REC_START};
	int rc;

	if (!a)
		return 0;
	r.num[FH_RN_TIME_US] = wall_us();
	r.num[FH_RN_PID] = (uint64_t)getpid();
	r.num[FH_RN_FLAGS] = FH_RF_CHARGES | FH_RF_THOUGHTS;
	set_text(&r, FH_RS_MODEL, model);
	set_text(&r, FH_RS_TEXT, settings);
	fh_audit_note(a->main, &r);
	rc = fh_audit_start(a->audit, err);
	if (rc)
		return rc;
	a->runs = true;
	/* Whatever comes refers to the start: it is to be the first. And who is told that we are ready may read the
	 * log. */
	for (;;) {
		const struct timespec tick = {.tv_nsec = 1000000};
		struct fh_audit_state st;

		fh_audit_state(a->audit, &st);
		if (st.nr_published && fh_audit_durable(a->main, 1))
			break;
		if (st.error)
			return fh_errf(err, st.error, "--audit %s: the log cannot be written: %s", a->cfg->audit_dir,
				       strerror(-st.error));
		nanosleep(&tick, NULL);
	}
	if (weights || draft)
		start_hashing(a, weights, draft);
	return 0;
}

void fhd_audit_keys(struct fhd_audit *a, const char *path)
{
	struct fh_record r = {.kind = FH_REC_KEYS};
	struct fh_dir cwd = {.fd = AT_FDCWD};
	uint8_t hash[32];
	char *text;
	size_t n;
	int rc;

	if (!a || !path)
		return;
	r.num[FH_RN_TIME_US] = wall_us();
	rc = fh_dir_read(&cwd, path, 1u << 24, &text, &n);
	if (rc) {
		set_text(&r, FH_RS_TEXT, strerror(-rc));
	} else {
		fh_audit_keyed_hash(a->audit, text, n, hash, sizeof(hash));
		fh_record_set_str(&r, FH_RS_HASH, hash, sizeof(hash));
		for (char *line = text; line && *line; line = strchr(line, '\n')) {
			line += strspn(line, " \t\r\n");
			r.num[FH_RN_COUNT] += *line && *line != '#';
		}
		sodium_memzero(text, n);
		free(text);
	}
	fh_audit_note(a->main, &r);
}

void fhd_audit_key_by(struct fhd_audit *a, const struct fh_identity *by, const char *id)
{
	if (!a)
		return;
	a->keys_by = *by;
	snprintf(a->keys_revoked, sizeof(a->keys_revoked), "%s", id);
}

/* Whose doing it was, behind the @changes. */
static void set_doer(struct fhd_audit *a, struct fh_record *r, char *changes, size_t cap)
{
	size_t n = strlen(changes);

	if (!a->keys_revoked[0])
		return;
	fh_identity_record(&a->keys_by, r);
	set_text(r, FH_RS_TENANT, a->keys_by.tenant);
	snprintf(changes + n, cap - n, "%s%s over HTTP", n ? "; " : "", a->keys_revoked);
}

#define DOER_BYTES (2 * FH_IDENTITY_KEY_BYTES + sizeof("; over HTTP"))

void fhd_audit_key_table(struct fhd_audit *a, struct fh_guard *g)
{
	struct fh_record r = {.kind = FH_REC_KEYS};
	char changes[FH_RECORD_TEXT_MAX + 1] = "";
	uint8_t hash[32];

	if (!a)
		return;
	fh_keytab_digest(g, hash);
	/* Others keep their usage in the same file: most of what changes there are no keys. */
	if (a->keys_told && !memcmp(hash, a->keys_digest, sizeof(hash))) {
		a->keys_revoked[0] = 0;
		return;
	}
	if (a->keys_told)
		fh_keytab_changes(a->keys_told, g, changes, sizeof(changes) - DOER_BYTES);
	set_doer(a, &r, changes, sizeof(changes));
	set_text(&r, FH_RS_TEXT, changes);
	r.num[FH_RN_TIME_US] = wall_us();
	r.num[FH_RN_COUNT] = fh_keytab_nr_keys(g);
	fh_record_set_str(&r, FH_RS_HASH, hash, sizeof(hash));
	/* One that finds no room is told of with the next look that finds another table. */
	a->keys_seq = fh_audit_note(a->keys, &r);
	if (!a->keys_seq)
		return;
	fh_guard_put(a->keys_told);
	a->keys_told = fh_guard_get(g);
	memcpy(a->keys_digest, hash, sizeof(hash));
	a->keys_revoked[0] = 0;
}

static bool is_strict(const struct fhd_audit *a)
{
	return a && fhd_config_audit_strict(a->cfg);
}

int fhd_audit_key_change(struct fhd_audit *a)
{
	struct fh_audit_state st;

	if (!is_strict(a))
		return 0;
	fh_audit_state(a->audit, &st);
	return st.error ? st.error : fh_audit_ready(a->keys, 1);
}

int fhd_audit_key_changed(struct fhd_audit *a)
{
	const struct timespec nap = {.tv_nsec = 1000000};

	if (!is_strict(a))
		return 0;
	/* The table before was told of: only then is there a number to wait for. */
	for (int ms = 0; !a->keys_seq || !fh_audit_durable(a->keys, a->keys_seq); ms++) {
		if (!a->keys_seq || ms >= KEYS_WAIT_MS)
			return -ETIMEDOUT;
		nanosleep(&nap, NULL);
	}
	return 0;
}

int fhd_audit_stop(struct fhd_audit *a, bool drained)
{
	struct fh_record r = {.kind = FH_REC_STOP};
	int rc;

	if (!a)
		return 0;
	if (a->hashing) {
		atomic_store(&a->hash_stop, 1);
		pthread_join(a->hash_thread, NULL);
	}
	if (a->runs) {
		r.num[FH_RN_TIME_US] = wall_us();
		r.num[FH_RN_FLAGS] = drained ? FH_RF_DRAINED : 0;
		fh_audit_note_last(a->audit, &r);
	}
	rc = fh_audit_close(a->audit);
	fh_guard_put(a->keys_told);
	pthread_mutex_destroy(&a->wake_lock);
	free(a);
	return rc;
}

static void print_one(FILE *out, const char *name, const char *type, const char *help, uint64_t v)
{
	fprintf(out, "# HELP freehold_audit_%s %s\n# TYPE freehold_audit_%s %s\nfreehold_audit_%s %" PRIu64 "\n", name,
		help, name, type, name, v);
}

void fhd_audit_metrics(const struct fhd_audit *a, FILE *out)
{
	struct fh_audit_state st;

	if (!a)
		return;
	fh_audit_state(a->audit, &st);
	print_one(out, "failing", "gauge", "1: the audit log cannot be written now.", st.error != 0);
	print_one(out, "strict", "gauge", "1: nothing is answered that is not logged.",
		  fhd_config_audit_strict(a->cfg));
	print_one(out, "entries", "gauge", "Entries of the audit log.", st.nr_entries);
	print_one(out, "durable_entries", "gauge", "Of them, synced to the disk.", st.nr_durable);
	print_one(out, "published_entries", "gauge", "Of them, in a signed checkpoint.", st.nr_published);
	print_one(out, "lost_total", "counter", "Events that found no room and were counted instead.", st.nr_lost);
	print_one(out, "syncs_total", "counter", "Times that the journal was synced with something in it.",
		  st.nr_syncs);
}

void fhd_audit_vitals(const struct fhd_audit *a, struct fh_vitals_audit *out)
{
	struct fh_audit_state st;

	*out = (struct fh_vitals_audit){0};
	if (!a)
		return;
	fh_audit_state(a->audit, &st);
	*out = (struct fh_vitals_audit){
		.on = true,
		.strict = fhd_config_audit_strict(a->cfg),
		.error = st.error,
		.nr_entries = st.nr_entries,
		.nr_durable = st.nr_durable,
		.nr_lost = st.nr_lost,
	};
	if (!fh_audit_head(a->audit, &out->nr_published, out->root))
		out->nr_published = 0;
}

int fhd_audit_fd(const struct fhd_audit *a)
{
	return a ? a->fd : -1;
}
