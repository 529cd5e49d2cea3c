// SPDX-License-Identifier: Apache-2.0
/* The thread that watches the key database. */
#include "runtime/trust/keywatch.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/log.h"

struct fh_keywatch {
	struct fh_keywatch_config cfg;
	struct fh_keydb *db;
	/* The database's version when the table, or the limits, were read last; not good: that failed. */
	struct seen {
		uint32_t version;
		bool good, failing; /* failing: said so already */
	} keys, budgets;
	struct fh_budget_table *limits; /* not handed on yet */
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t wake;
	bool stop;
	struct fh_guard *guard;
};

static bool is_seen(const struct seen *s, uint32_t version)
{
	return s->good && s->version == version;
}

/*
 * @version was asked for first: a change between the two is seen again, and never
 * missed.  What could not be read is not seen, and is tried at the next look.
 */
static void note(struct seen *s, int rc, uint32_t version)
{
	s->good = !rc;
	s->version = version;
}

static int load_limits(struct fh_keywatch *w, uint32_t version, struct fh_err *err)
{
	int rc;

	if (!w->db || !w->cfg.world.accounts || is_seen(&w->budgets, version))
		return 0;
	free(w->limits);
	w->limits = NULL;
	rc = fh_accounts_limits(w->cfg.world.accounts, w->db, &w->limits, err);
	note(&w->budgets, rc, version);
	return rc;
}

static int load_keys(struct fh_keywatch *w, uint32_t version, struct fh_guard **g, struct fh_err *err)
{
	int rc = fh_keytab_load(w->db, &w->cfg.world, g, err);

	note(&w->keys, rc, version);
	return rc;
}

/* Nobody has limits yet that could stay: without them there is no beginning. */
static int load_first(struct fh_keywatch *w, struct fh_err *err)
{
	uint32_t version = 0;
	int rc = w->db ? fh_keydb_version(w->db, &version, err) : 0;

	if (!rc)
		rc = load_limits(w, version, err);
	return rc ? rc : load_keys(w, version, &w->guard, err);
}

int fh_keywatch_open(const struct fh_keywatch_config *cfg, struct fh_keywatch **out, struct fh_err *err)
{
	struct fh_keywatch *w = calloc(1, sizeof(*w));
	pthread_condattr_t attr;
	int rc = 0;

	if (!w)
		return fh_errf(err, -ENOMEM, "no memory for the watch over keys");
	w->cfg = *cfg;
	w->cfg.poll_ms = cfg->poll_ms ? cfg->poll_ms : 200;
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &attr);
	pthread_condattr_destroy(&attr);
	if (cfg->path)
		rc = fh_keydb_open(cfg->path, false, &w->db, err);
	if (!rc && w->db)
		rc = fh_keydb_relax(w->db, err);
	if (!rc)
		rc = load_first(w, err);
	if (rc)
		fh_keywatch_close(w);
	else
		*out = w;
	return rc;
}

struct fh_guard *fh_keywatch_guard(struct fh_keywatch *w)
{
	struct fh_guard *g;

	pthread_mutex_lock(&w->lock);
	g = fh_guard_get(w->guard);
	pthread_mutex_unlock(&w->lock);
	return g;
}

struct fh_budget_table *fh_keywatch_limits(struct fh_keywatch *w)
{
	struct fh_budget_table *t = w->limits;

	w->limits = NULL;
	return t;
}

struct fh_keydb *fh_keywatch_db(struct fh_keywatch *w)
{
	return w->db;
}

/* Once for each time that it begins. */
static void complain(struct seen *s, int rc, const char *what, const struct fh_err *err)
{
	if (rc && !s->failing)
		fh_error("%s: %s; those that were read before stay good until it can be read again", what, err->msg);
	s->failing = rc;
}

static void hand_on(struct fh_keywatch *w, struct fh_guard *g)
{
	struct fh_guard *old;

	uint8_t before[32], now[32];

	/* Other servers keep their usage in it, and change it once a second. */
	fh_keytab_digest(w->guard, before);
	fh_keytab_digest(g, now);
	if (memcmp(before, now, sizeof(now)))
		fh_info("keys: the database changed; it has %u keys now", fh_keytab_nr_keys(g));
	pthread_mutex_lock(&w->lock);
	old = w->guard;
	w->guard = g;
	pthread_mutex_unlock(&w->lock);
	fh_guard_put(old);
	if (w->cfg.changed)
		w->cfg.changed(w->cfg.ctx, fh_guard_get(g));
}

/* Limits first: whoever comes in by the new table is judged by them. Trouble with them holds back no table. */
static int look(struct fh_keywatch *w)
{
	struct fh_guard *g = NULL;
	struct fh_err err;
	uint32_t version;
	int rc = fh_keydb_version(w->db, &version, &err);

	if (!rc) {
		rc = load_limits(w, version, &err);
		complain(&w->budgets, rc, "budgets", &err);
		rc = is_seen(&w->keys, version) ? 0 : load_keys(w, version, &g, &err);
	}
	complain(&w->keys, rc, "keys", &err);
	if (w->limits && w->cfg.limits)
		w->cfg.limits(w->cfg.ctx, fh_keywatch_limits(w));
	if (g)
		hand_on(w, g);
	return rc;
}

int fh_keywatch_look(struct fh_keywatch *w)
{
	w->keys.good = w->budgets.good = false;
	return look(w);
}

/* False: the end has come. */
static bool nap(struct fh_keywatch *w)
{
	struct timespec until;
	bool stop;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(w->cfg.poll_ms % 1000) * 1000000;
	until.tv_sec += w->cfg.poll_ms / 1000 + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&w->lock);
	while (!w->stop && pthread_cond_timedwait(&w->wake, &w->lock, &until) != ETIMEDOUT)
		;
	stop = w->stop;
	pthread_mutex_unlock(&w->lock);
	return !stop;
}

static void *watch_main(void *arg)
{
	struct fh_keywatch *w = arg;
	bool on;

	do {
		on = nap(w);
		look(w);
		if (w->cfg.tick)
			w->cfg.tick(w->cfg.ctx, w->db);
	} while (on);
	return NULL;
}

int fh_keywatch_start(struct fh_keywatch *w, struct fh_err *err)
{
	int rc;

	if (!w->db)
		return 0;
	rc = pthread_create(&w->thread, NULL, watch_main, w);
	if (rc)
		return fh_errf(err, -rc, "cannot start the thread that watches the keys: %s", strerror(rc));
	pthread_setname_np(w->thread, "fh-keys");
	w->started = true;
	return 0;
}

void fh_keywatch_stop(struct fh_keywatch *w)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	w->started = false;
}

void fh_keywatch_close(struct fh_keywatch *w)
{
	if (!w)
		return;
	fh_keywatch_stop(w);
	fh_guard_put(w->guard);
	free(w->limits);
	fh_keydb_close(w->db);
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
