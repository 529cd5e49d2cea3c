// SPDX-License-Identifier: Apache-2.0
/*
 * The channel front end's life: creation, the I/O thread, drain, stop; how a
 * channel is handed over; statistics.
 *
 * The I/O thread accepts, hands over, hears of deaths and unmaps.  Who owns
 * what is said in chan_priv.h.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/thread.h"
#include "runtime/net/chan_priv.h"

#define SPARE_FILES 128	   /* of the loop's table, beyond max_channels */
#define TAKE_AWAY_MS 2000u /* the engine has so long to let go of the channels when we stop */
#define LOG_LINES 20	   /* in a second, so that who connects in a loop does not fill the disk */

/* ---- the I/O thread ---- */

static void *io_main(void *arg)
{
	struct fh_chans *f = arg;
	bool drained = false;
	int rc = fh_io_start(f->io, &f->start_err);

	for (uint32_t i = 0; i < f->nr_transports && !rc; i++)
		rc = f->transport[i]->start(f->transport[i], &f->start_err);
	f->start_rc = rc;
	sem_post(&f->opened);
	if (rc)
		return NULL;
	while (!rc && !atomic_load_explicit(&f->stop, memory_order_acquire)) {
		rc = fh_io_poll(f->io, UINT64_MAX);
		if (!drained && atomic_load_explicit(&f->draining, memory_order_acquire)) {
			drained = true;
			for (uint32_t i = 0; i < f->nr_transports; i++)
				f->transport[i]->drain(f->transport[i]);
		}
		for (uint32_t i = 0; i < f->nr_transports; i++)
			f->transport[i]->turn(f->transport[i]);
	}
	if (rc)
		fh_error("the channel front end's event loop failed: %s", strerror(-rc));
	return NULL;
}

/* ---- handing over ---- */

static void name_channel(struct fh_chan *c)
{
	const struct fh_peer *p = &c->peer;
	int n = snprintf(c->who, sizeof(c->who), "%s channel %llu (uid %u, pid %u", c->ops->name,
			 (unsigned long long)p->chan_gen, p->uid, p->pid);

	if (p->flags & FH_PEER_NO_CGROUP)
		snprintf(c->who + n, sizeof(c->who) - (size_t)n, ", cgroup unknown)");
	else
		snprintf(c->who + n, sizeof(c->who) - (size_t)n, ", cgroup %llu)", (unsigned long long)p->cgroup_id);
}

/* The objects and words of a channel whose geometry is known to be good. */
static int set_up(struct fh_chans *f, struct fh_chan *c)
{
	const struct fh_chan_info *i = &c->info;
	char *client = c->area[FH_AREA_CLIENT], *runtime = c->area[FH_AREA_RUNTIME];

	c->sq_tail_word = (const _Atomic uint32_t *)(client + i->sq_tail_off);
	c->client_flags = (const _Atomic uint32_t *)(client + i->client_flags_off);
	c->sq_head_word = (_Atomic uint32_t *)(runtime + i->sq_head_off);
	c->runtime_flags = (_Atomic uint32_t *)(runtime + i->runtime_flags_off);
	c->sink = (struct fh_sink){.entries = c->area[FH_AREA_CQ],
				   .nr_entries = i->cq_entries,
				   .entry_bytes = i->cq_entry_bytes,
				   .head_word = (const _Atomic uint32_t *)(client + i->cq_head_off),
				   .tail_word = (_Atomic uint32_t *)(runtime + i->cq_tail_off),
				   .dirty_list = &f->dirty};
	c->owed_tail = &c->owed_head;
	c->sq_taken = calloc((i->sq_entries + 63) / 64, sizeof(*c->sq_taken));
	c->reqs = aligned_alloc(_Alignof(struct fh_chan_req), i->sq_entries * sizeof(*c->reqs));
	if (!c->sq_taken || !c->reqs)
		return -ENOMEM;
	memset(c->reqs, 0, i->sq_entries * sizeof(*c->reqs));
	for (uint32_t k = i->sq_entries; k--;) {
		c->reqs[k].chan = c;
		c->reqs[k].next = c->free;
		c->free = &c->reqs[k];
	}
	return 0;
}

void fh_chans_set_guard(struct fh_chans *f, struct fh_guard *g)
{
	struct fh_guard *old;

	pthread_mutex_lock(&f->guard_lock);
	old = f->guard;
	f->guard = g;
	atomic_fetch_add(&f->guard_nr, 1);
	pthread_mutex_unlock(&f->guard_lock);
	fh_guard_put(old);
	/* Channels whose tenant it locks out are given up. */
	f->svc->kick(f->svc->ctx);
}

/* Whose it is: as a rule says, or else its user's own. */
static int identify(struct fh_chans *f, struct fh_chan *c, struct fh_err *err)
{
	const struct fh_peer *p = &c->peer;
	/* What the kernel did not say is nobody's. */
	uint32_t pid = p->flags & FH_PEER_PID_HIDDEN ? 0 : p->pid;
	uint64_t cgroup_id = p->flags & FH_PEER_NO_CGROUP ? 0 : p->cgroup_id;
	enum fh_guard_verdict v = FH_GUARD_UNKNOWN;
	struct fh_guard *g = NULL;

	pthread_mutex_lock(&f->guard_lock);
	if (f->guard)
		g = fh_guard_get(f->guard);
	c->guard_nr = atomic_load(&f->guard_nr);
	pthread_mutex_unlock(&f->guard_lock);
	if (g)
		v = g->ops->peer(g, p->uid, pid, cgroup_id, &c->grant);
	fh_guard_put(g);
	if (v == FH_GUARD_OK)
		return 0;
	if (v != FH_GUARD_UNKNOWN)
		return fh_errf(err, -EACCES,
			       "access is refused to this process, by a rule or because its tenant is "
			       "locked out");
	c->grant = (struct fh_grant){.tenant_nr = FH_TENANT_UID | p->uid, .endpoints = FH_GRANT_ALL, .model = true};
	fh_identity_peer(&c->grant.who, p->uid, pid, cgroup_id);
	return 0;
}

int fh_chan_open(struct fh_chans *f, struct fh_chan *c, struct fh_err *err)
{
	int ret = fh_chan_check_geometry(&c->info, err);

	c->f = f;
	if (!ret)
		ret = identify(f, c, err);
	if (!ret && atomic_load(&f->draining))
		ret = fh_errf(err, -ESHUTDOWN, "the server is shutting down");
	if (ret)
		goto err_refused;
	if (atomic_fetch_add(&f->st.nr_open, 1) >= f->cfg.max_channels) {
		ret = fh_errf(err, -EDQUOT, "%u channels are open already", f->cfg.max_channels);
		goto err_count;
	}
	ret = set_up(f, c);
	if (ret) {
		fh_errf(err, ret, "no memory for %u requests", c->info.sq_entries);
		goto err_free;
	}
	name_channel(c);
	atomic_fetch_add_explicit(&f->st.nr_accepted, 1, memory_order_relaxed);
	c->next_arrival = atomic_load(&f->arrivals);
	while (!atomic_compare_exchange_weak(&f->arrivals, &c->next_arrival, c))
		;
	f->svc->kick(f->svc->ctx);
	return 0;

err_free:
	free(c->reqs);
	free(c->sq_taken);
err_count:
	atomic_fetch_sub(&f->st.nr_open, 1);
err_refused:
	atomic_fetch_add_explicit(&f->st.nr_refused, 1, memory_order_relaxed);
	return ret;
}

void fh_chan_gone(struct fh_chan *c, uint32_t why)
{
	uint32_t none = 0;

	if (!atomic_compare_exchange_strong(&c->gone, &none, why))
		return;
	atomic_fetch_add(&c->f->nr_gone, 1);
	c->f->svc->kick(c->f->svc->ctx);
}

void fh_chan_kicked(struct fh_chans *f)
{
	atomic_fetch_add_explicit(&f->st.nr_kicks_in, 1, memory_order_relaxed);
	f->svc->kick(f->svc->ctx);
}

/* ---- the log ---- */

bool fh_chan_may_log(struct fh_chans *f)
{
	uint64_t second = fh_io_now_ns(f->io) / 1000000000u;

	if (second != f->log_second) {
		if (f->nr_unlogged)
			fh_warn("channels: %u more lines in a second were left out", f->nr_unlogged);
		f->log_second = second;
		f->nr_logged = f->nr_unlogged = 0;
	}
	if (f->nr_logged < LOG_LINES) {
		f->nr_logged++;
		return true;
	}
	f->nr_unlogged++;
	return false;
}

void fh_chan_log_open(struct fh_chan *c)
{
	if (fh_chan_may_log(c->f))
		fh_info("%s: open, %u + %u entries, %llu KiB for prompts", c->who, c->info.sq_entries,
			c->info.cq_entries, (unsigned long long)c->info.arena_bytes >> 10);
}

void fh_chan_log_end(struct fh_chan *c)
{
	uint32_t gone = atomic_load(&c->gone);

	if (!fh_chan_may_log(c->f))
		return;
	if (c->why)
		fh_log(atomic_load(&c->f->closing) ? FH_LOG_INFO : FH_LOG_WARN, "%s: given up: %s", c->who, c->why);
	else
		fh_info("%s: %s", c->who, gone == FH_CHAN_CLIENT_DEAD ? "its client is gone" : "closed");
}

/* ---- life ---- */

static void set_defaults(struct fh_chans_config *c)
{
	c->max_channels = c->max_channels ? c->max_channels : 512;
	c->max_per_uid = c->max_per_uid ? c->max_per_uid : 256;
	c->max_uid_bytes = c->max_uid_bytes ? c->max_uid_bytes : 1ull << 30;
	c->max_text_bytes = c->max_text_bytes ? c->max_text_bytes : 16u << 20;
}

/* The socket's is the first, see fh_chans_url(). */
static int create_transports(struct fh_chans *f, struct fh_err *err)
{
	int rc = 0;

	if (f->cfg.unix_path) {
		rc = fh_chan_sock_create(f, &f->transport[0], err);
		f->nr_transports += !rc;
	}
	if (!rc && f->cfg.ctl) {
		rc = fh_chan_ctl_create(f, f->cfg.ctl, &f->transport[f->nr_transports], err);
		f->nr_transports += !rc;
	}
	return rc;
}

int fh_chans_create(const struct fh_chans_config *cfg, const struct fh_service *svc, struct fh_chans **out,
		    struct fh_err *err)
{
	struct fh_chans *f = aligned_alloc(_Alignof(struct fh_chans), sizeof(*f));
	struct fh_io_config ioc = {.force_epoll = cfg->force_epoll, .recv_bytes = 256, .nr_recv = 1};
	int rc = 0;

	if (!f)
		return fh_errf(err, -ENOMEM, "no memory for the channel front end");
	memset(f, 0, sizeof(*f));
	f->cfg = *cfg;
	set_defaults(&f->cfg);
	f->svc = svc;
	f->fe.name = "channels";
	f->fe.polled = &fh_chan_polled;
	sem_init(&f->opened, 0, 0);
	pthread_mutex_init(&f->guard_lock, NULL);
	f->guard = cfg->guard ? fh_guard_get(cfg->guard) : NULL;
	f->open = calloc(f->cfg.max_channels, sizeof(*f->open));
	if (!f->open)
		rc = fh_errf(err, -ENOMEM, "no memory for %u channels", f->cfg.max_channels);
	if (!rc && svc->span && fh_turn_spans_open(&f->spans, FH_CHAN_SPANS))
		rc = fh_errf(err, -ENOMEM, "no memory for traces of channels");
	if (!rc && fh_random_seed(&f->random))
		rc = fh_errf(err, -EIO, "getrandom: %s", strerror(errno));
	ioc.max_socks = f->cfg.max_channels + SPARE_FILES;
	if (!rc)
		rc = fh_io_create(&ioc, &f->io, err);
	if (!rc)
		rc = fh_chan_text_create(f, err);
	if (!rc)
		rc = create_transports(f, err);
	if (rc) {
		fh_chans_destroy(f);
		return rc;
	}
	*out = f;
	return 0;
}

struct fh_frontend *fh_chans_frontend(struct fh_chans *f)
{
	return &f->fe;
}

int fh_chans_start(struct fh_chans *f, struct fh_err *err)
{
	int rc = fh_chan_text_start(f, err);

	if (rc)
		return rc;
	rc = fh_thread_start(&f->thread, "fh-chan", io_main, f);
	if (rc)
		return fh_errf(err, rc, "channels: cannot start the I/O thread: %s", strerror(-rc));
	while (sem_wait(&f->opened))
		;
	if (f->start_rc) {
		pthread_join(f->thread, NULL);
		return fh_errf(err, f->start_rc, "%s", f->start_err.msg);
	}
	f->started = true;
	return 0;
}

const char *fh_chans_url(const struct fh_chans *f)
{
	return f->cfg.unix_path ? fh_chan_sock_url(f->transport[0]) : NULL;
}

void fh_chans_drain(struct fh_chans *f)
{
	atomic_store(&f->draining, 1);
	fh_io_wake(f->io);
}

static void wait_for_zero(const _Atomic uint32_t *n, uint32_t ms)
{
	const struct timespec tick = {.tv_nsec = 1000000};
	uint64_t until = fh_now_ns() + (uint64_t)ms * 1000000u;

	while (atomic_load(n) && fh_now_ns() < until)
		nanosleep(&tick, NULL);
}

void fh_chans_stop(struct fh_chans *f, uint32_t drain_ms)
{
	if (!f->started)
		return;
	fh_chans_drain(f);
	wait_for_zero(&f->st.nr_inside, drain_ms);
	/* Their last words may still wait for the audit log. */
	wait_for_zero(&f->st.nr_gated, TAKE_AWAY_MS);
	atomic_store_explicit(&f->closing, 1, memory_order_release);
	f->svc->kick(f->svc->ctx);
	wait_for_zero(&f->st.nr_open, TAKE_AWAY_MS);
	atomic_store_explicit(&f->stop, 1, memory_order_release);
	fh_io_wake(f->io);
	pthread_join(f->thread, NULL);
	f->started = false;
}

void fh_chans_destroy(struct fh_chans *f)
{
	if (!f)
		return;
	fh_chans_stop(f, 0);
	fh_text_worker_stop(&f->text);
	/* Without it, it was never more than half made: there are no channels. */
	if (f->io)
		fh_chan_release_all(f);
	for (uint32_t i = 0; i < f->nr_transports; i++)
		f->transport[i]->destroy(f->transport[i]);
	fh_io_destroy(f->io);
	fh_text_worker_destroy(&f->text);
	fh_guard_put(f->guard);
	pthread_mutex_destroy(&f->guard_lock);
	sem_destroy(&f->opened);
	free(f->open);
	fh_turn_spans_close(&f->spans);
	free(f);
}

/* ---- statistics ---- */

static uint64_t get(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

void fh_chans_stats(struct fh_chans *f, struct fh_chans_stats *out)
{
	const struct fh_chan_counters *st = &f->st;

	*out = (struct fh_chans_stats){
		.nr_open = atomic_load_explicit(&st->nr_open, memory_order_relaxed),
		.nr_inside = atomic_load_explicit(&st->nr_inside, memory_order_relaxed),
		.nr_accepted = get(&st->nr_accepted),
		.nr_refused = get(&st->nr_refused),
		.nr_violations = get(&st->nr_violations),
		.nr_requests = get(&st->nr_requests),
		.nr_request_errors = get(&st->nr_request_errors),
		.nr_kicks_in = get(&st->nr_kicks_in),
		.nr_kicks_out = get(&st->nr_kicks_out),
		.nr_futex_wakes = get(&st->nr_futex_wakes),
		.text_bytes = get(&st->text_bytes),
		.copied_bytes = get(&st->copied_bytes),
	};
}

static void print_one(FILE *out, const char *name, const char *type, const char *help, uint64_t v)
{
	fprintf(out, "# HELP freehold_channel_%s %s\n# TYPE freehold_channel_%s %s\nfreehold_channel_%s %" PRIu64 "\n",
		name, help, name, type, name, v);
}

void fh_chans_metrics(struct fh_chans *f, FILE *out)
{
	struct fh_chans_stats s;

	fh_chans_stats(f, &s);
	print_one(out, "open", "gauge", "Channels that are open.", s.nr_open);
	print_one(out, "requests", "gauge", "Requests of channels whose end was not yet written.", s.nr_inside);
	print_one(out, "opened_total", "counter", "Channels opened.", s.nr_accepted);
	print_one(out, "refused_total", "counter", "Channels refused.", s.nr_refused);
	print_one(out, "violations_total", "counter", "Channels given up because the client broke the rules.",
		  s.nr_violations);
	print_one(out, "requests_total", "counter", "Requests taken from channels.", s.nr_requests);
	print_one(out, "request_errors_total", "counter", "Of them refused or failed.", s.nr_request_errors);
	print_one(out, "kicks_received_total", "counter", "Times that a client woke the engine through its transport.",
		  s.nr_kicks_in);
	print_one(out, "kicks_sent_total", "counter", "Times that a client was woken through its transport.",
		  s.nr_kicks_out);
	print_one(out, "futex_wakes_total", "counter", "Times that a client was woken by a futex.", s.nr_futex_wakes);
	print_one(out, "text_bytes_total", "counter", "Bytes of text tokenized for channels.", s.text_bytes);
	print_one(out, "copied_bytes_total", "counter",
		  "Payload bytes that the CPU copied: prompts, their texts, tokens of sequences that guess.",
		  s.copied_bytes);
}
