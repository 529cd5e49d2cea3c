// SPDX-License-Identifier: Apache-2.0
/*
 * What the UDP front end does between start and stop, on a thread of its own or
 * on the engine's (fh_udp_config.on_engine).
 *
 * A turn: take what came, what the engine and the tokenizer have done, run the
 * timers, send what the protocol has to say.  Before its own thread sleeps it
 * says so (fe.sleeping) and looks at its queue once more, as request.h asks.
 *
 * On the engine's thread a turn is in two: what came is taken before the step,
 * everything else follows it.  The engine sleeps in the port's wait(), so that
 * a request is read, run and answered without a queue to wait in or a thread to
 * wake.
 */
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/net/udp_priv.h"

#define BURSTS 2	    /* of received datagrams in a turn, the second where ... */
#define MANY 32		    /* ... so many came in the first: carriers give no more than that or 64 at once */
#define GIVE_UP_US 5000000u /* after cancelling: how long the engine may take to give requests back */
#define GOODBYE_US 500000u  /* and how long the last packets may take */
#define SHOW_US 100000u	    /* how old counters are, on an engine that does not sleep */

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static int take_datagrams(struct fh_udp *u, bool *any)
{
	const struct fh_dgram_ops *ops = u->port->ops;
	struct fh_dgram d[FH_DGRAM_BURST];
	int nr = MANY;

	for (int k = 0; k < BURSTS && nr >= MANY; k++) {
		int kept = 0;

		nr = ops->recv(u->port, d, FH_DGRAM_BURST);
		if (nr <= 0)
			break;
		*any = true;
		u->now_us = fh_now_us();
		for (int i = 0; i < nr; i++)
			if (!fhw_server_recv(u->srv, &d[i], u->now_us))
				d[kept++] = d[i];
		if (kept)
			ops->release(u->port, d, (uint32_t)kept);
	}
	return nr < 0 ? nr : 0;
}

/*
 * Let the protocol fill datagrams until it has nothing to say, or there are none.
 * Empty ones that are left over stay for the next time.
 */
static void send_datagrams(struct fh_udp *u, bool *any)
{
	const struct fh_dgram_ops *ops = u->port->ops;
	uint32_t used, sent;

	do {
		uint64_t now_us = fh_now_us();
		struct fh_dgram *d;

		if (!u->nr_empty) {
			u->nr_empty = ops->alloc(u->port, u->empty, FH_DGRAM_BURST);
			u->empty_at = 0;
		}
		d = u->empty + u->empty_at;
		for (used = 0; used < u->nr_empty && fhw_server_next(u->srv, &d[used], now_us); used++)
			;
		if (!used)
			return;
		*any = true;
		sent = ops->send(u->port, d, used);
		/* Lost before they left. */
		for (uint32_t i = sent; i < used; i++)
			if (d[i].tail)
				d[i].tail->done(d[i].tail);
		if (sent < used)
			ops->release(u->port, d + sent, used - sent);
		u->empty_at += used;
		u->nr_empty -= used;
	} while (!u->nr_empty);
}

/* The engine begins with all that came together, and not with the first, for which it might take the core at once. */
static void ring(struct fh_udp *u)
{
	if (!u->rings)
		return;
	u->rings = false;
	if (u->fe.bursts)
		u->svc->ring(u->svc->ctx);
	else if (u->cfg.on_engine)
		u->svc->kick(u->svc->ctx);
}

static void show_stats(struct fh_udp *u)
{
	if (pthread_mutex_trylock(&u->stats_lock))
		return;
	fhw_server_stats(u->srv, &u->stats);
	u->shown.prompt_bytes = u->prompt_bytes;
	u->shown.text_bytes = u->text_bytes;
	u->shown.copied_bytes = u->copied_bytes + u->stats.copied_bytes;
	u->shown.nr_errors = u->nr_errors;
	pthread_mutex_unlock(&u->stats_lock);
}

static void take_new_keys(struct fh_udp *u)
{
	struct fh_udp_keys *k, old;

	if (!atomic_load_explicit(&u->new_keys, memory_order_relaxed))
		return;
	k = atomic_exchange(&u->new_keys, NULL);
	old = u->keys;
	if (!fhw_server_set_clients(u->srv, (const uint8_t(*)[FHW_KEY_BYTES])k->keys, k->nr)) {
		u->keys = *k;
		*k = old;
		fh_udp_keys_identify(&u->keys, u->guard);
		fh_udp_reqs_recheck(u);
	} else {
		fh_error("udp: no memory for another list of clients; the old one stays");
	}
	fh_udp_keys_free(k);
	free(k);
}

static void take_new_guard(struct fh_udp *u)
{
	struct fh_guard *g;

	if (!atomic_load_explicit(&u->new_guard, memory_order_relaxed))
		return;
	g = atomic_exchange(&u->new_guard, NULL);
	fh_guard_put(u->guard);
	u->guard = g;
	fh_udp_keys_identify(&u->keys, g);
	fh_udp_reqs_recheck(u);
}

/* The first half of a turn: what came. 0 or -errno: the port is broken. */
static int take_in(struct fh_udp *u, bool *any)
{
	take_new_guard(u);
	take_new_keys(u);
	return take_datagrams(u, any);
}

/* The second: what was done, and what there is to say of it. */
static void put_out(struct fh_udp *u, bool *any)
{
	*any |= fh_udp_take_results(u);
	*any |= fh_udp_audit_release(u);
	ring(u);
	fhw_server_tick(u->srv, fh_now_us());
	send_datagrams(u, any);
	fh_turn_spans_flush(&u->spans, u->svc);
}

/* How long it may sleep; UINT64_MAX: until something comes. */
static uint64_t sleep_us(struct fh_udp *u)
{
	uint64_t now_us = fh_now_us(), until_us = fhw_server_next_us(u->srv), timeout_us = UINT64_MAX;

	if (until_us != FHW_NEVER)
		timeout_us = until_us > now_us ? until_us - now_us : 0;
	if (atomic_load_explicit(&u->stop, memory_order_relaxed) && timeout_us > 10000)
		timeout_us = 10000;
	return timeout_us;
}

static int doze(struct fh_udp *u)
{
	uint64_t timeout_us = sleep_us(u);
	int rc;

	show_stats(u);
	atomic_store(&u->fe.sleeping, 1);
	if (fh_spsc_count(&u->fe.ready))
		timeout_us = 0;
	rc = u->port->ops->wait(u->port, timeout_us);
	atomic_store_explicit(&u->fe.sleeping, 0, memory_order_relaxed);
	return rc == -EINTR ? 0 : rc;
}

static uint32_t nr_open(struct fh_udp *u)
{
	struct fhw_server_stats st;

	fhw_server_stats(u->srv, &st);
	return st.nr_open + st.nr_kept;
}

/* True: the loop is to end. */
static bool is_over(struct fh_udp *u)
{
	uint64_t now_us, stop_us;

	if (atomic_load_explicit(&u->draining, memory_order_acquire))
		fhw_server_drain(u->srv);
	if (!atomic_load_explicit(&u->stop, memory_order_acquire))
		return false;
	now_us = fh_now_us();
	stop_us = atomic_load_explicit(&u->stop_us, memory_order_relaxed);
	/* A client that is gone acknowledges nothing any more. */
	if (u->nr_inside || u->waiting || !u->busy_us)
		u->busy_us = now_us;
	if (!u->said && (!nr_open(u) || now_us >= stop_us || now_us - u->busy_us > GOODBYE_US)) {
		u->said = true;
		fhw_server_close_all(u->srv);
		/* Nobody is told anything any more: nothing has to wait for the audit log. */
		u->ending = true;
		atomic_store_explicit(&u->stop_us, stop_us = now_us, memory_order_relaxed);
	}
	return u->said && ((!u->nr_inside && !nr_open(u)) || now_us - stop_us > GIVE_UP_US);
}

/* The port is broken, so that nobody reads any more: what runs would wait for it, and is cancelled. */
static void cancel_all(struct fh_udp *u, int rc)
{
	u->ending = true;
	fhw_server_close_all(u->srv);
	fh_error("udp: the socket or device failed: %s; nothing is served there any more", strerror(-rc));
}

static int begin(struct fh_udp *u)
{
	u->wire.welcome.nr_ctx = u->svc->model.nr_ctx;
	u->wire.welcome.nr_vocab = u->svc->model.nr_vocab;
	snprintf(u->wire.welcome.model, sizeof(u->wire.welcome.model), "%s", u->svc->model.id);
	u->start_rc = fhw_server_create(&u->wire, &u->srv, &u->start_err);
	return u->start_rc;
}

/* ---- a thread of its own ---- */

static void give_back(struct fh_udp *u)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	uint64_t until_us = fh_now_us() + GIVE_UP_US;

	while (u->nr_inside && fh_now_us() < until_us) {
		if (!fh_udp_take_results(u))
			nanosleep(&pause, NULL);
		fh_udp_audit_release(u);
		fh_turn_spans_flush(&u->spans, u->svc);
		ring(u);
	}
}

void *fh_udp_thread(void *arg)
{
	struct fh_udp *u = arg;
	int rc;

	u->fe.bursts = u->svc->ring != NULL;
	rc = begin(u);
	sem_post(&u->opened);
	if (rc)
		return NULL;
	while (!rc) {
		bool over = is_over(u), any = false;

		rc = take_in(u, &any);
		ring(u);
		put_out(u, &any);
		if (over)
			break;
		if (!rc && !any)
			rc = doze(u);
	}
	if (rc) {
		cancel_all(u, rc);
		give_back(u);
	}
	u->port->ops->flush(u->port);
	show_stats(u);
	return NULL;
}

/* ---- the engine's thread ---- */

static struct fh_udp *of_engine(struct fh_frontend *fe)
{
	struct fh_udp *u = container_of(fe, struct fh_udp, fe);

	return atomic_load_explicit(&u->serves, memory_order_acquire) ? u : NULL;
}

static bool poll_in(struct fh_frontend *fe)
{
	struct fh_udp *u = of_engine(fe);
	bool any = false;
	int rc;

	if (!u || u->broken)
		return false;
	rc = take_in(u, &any);
	/* The engine looks at what was submitted next. */
	u->rings = false;
	if (rc) {
		u->broken = rc;
		cancel_all(u, rc);
		any = true;
	}
	return any;
}

/* The last one of them says that it is. */
static void end_on_engine(struct fh_udp *u)
{
	if (!u->broken)
		u->port->ops->flush(u->port);
	show_stats(u);
	atomic_store_explicit(&u->serves, 0, memory_order_relaxed);
	sem_post(&u->ended);
}

static void flush_out(struct fh_frontend *fe)
{
	struct fh_udp *u = of_engine(fe);
	bool any = false, over;
	uint64_t now_us;

	if (!u)
		return;
	over = is_over(u);
	if (u->broken) {
		fh_udp_take_results(u);
		fh_udp_audit_release(u);
		fh_turn_spans_flush(&u->spans, u->svc);
	} else {
		put_out(u, &any);
	}
	/* An engine with work does not nap. */
	now_us = fh_now_us();
	if (now_us - u->shown_us > SHOW_US) {
		u->shown_us = now_us;
		show_stats(u);
	}
	if (over || (u->broken && u->said && !u->nr_inside))
		end_on_engine(u);
}

static bool nap(struct fh_frontend *fe, uint64_t ns)
{
	struct fh_udp *u = container_of(fe, struct fh_udp, fe);
	bool serves = of_engine(fe) != NULL;
	struct fh_dgram d[FH_DGRAM_BURST];
	uint64_t us = ns / 1000, own_us;
	int rc, nr;

	if (u->broken)
		return false;
	if (serves) {
		own_us = sleep_us(u);
		us = own_us < us ? own_us : us;
		show_stats(u);
	}
	rc = u->port->ops->wait(u->port, us);
	/* Nobody is served yet, or any more: what comes all the same must not keep us awake. */
	if (!rc && !serves) {
		nr = u->port->ops->recv(u->port, d, FH_DGRAM_BURST);
		rc = nr < 0 ? nr : 0;
		if (nr > 0)
			u->port->ops->release(u->port, d, (uint32_t)nr);
	}
	if (!rc || rc == -EINTR)
		return true;
	u->broken = rc;
	if (serves)
		cancel_all(u, rc);
	return true;
}

static int no_words(struct fh_frontend *fe, struct fh_sleep_word *words, uint32_t max)
{
	(void)fe;
	(void)words;
	(void)max;
	return 0;
}

static void nothing(struct fh_frontend *fe)
{
	(void)fe;
}

const struct fh_polled_ops fh_udp_polled = {
	.poll = poll_in,
	.flush = flush_out,
	.doze = no_words,
	.rise = nothing,
	.nap = nap,
};

int fh_udp_begin_on_engine(struct fh_udp *u)
{
	int rc = begin(u);

	if (!rc) {
		atomic_store_explicit(&u->serves, 1, memory_order_release);
		u->port->ops->wake(u->port);
	}
	return rc;
}
