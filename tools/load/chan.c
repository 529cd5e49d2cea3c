// SPDX-License-Identifier: Apache-2.0
/*
 * Requests over channels: the wire that is libfreehold's rings; see run_priv.h.
 *
 * A run opens its channels before it begins and spreads requests over them, the
 * emptiest first.  Each channel's descriptor is watched in the run's loop, and
 * tokens are read with fh_try_next() until there is none, between any two of
 * which a request that is due leaves.  A request for which no ring has room
 * waits in the backlog, in order, and is offered again before each poll: the
 * wait is in its times, as a full socket's would be.
 *
 * A channel that is lost fails what is under way on it, is closed, and opened
 * again for a request that finds no other, at most every REOPEN_NS, because
 * fh_open() blocks.  A request that took too long is cancelled and counted at
 * once; what still comes for it is dropped.
 *
 * Memory: asks stay until the run is over; a handle is closed after the loop
 * has let go of its descriptor.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/lib/freehold.h"
#include "tools/load/run_priv.h"

#define MAX_IN_FLIGHT 2000u /* of a channel; libfreehold has room for 2,048 */
#define CQ_ENTRIES 16384u
#define MIN_ARENA (1u << 20)
#define MAX_ARENA (32u << 20) /* a queue's prompts stay in it until they are taken in */
#define REOPEN_NS 250000000u
#define REOPEN_US 20000u
#define RETRY_NS 200000u /* how often a full ring is tried again */

struct chan {
	struct fh_io_watch watch;
	struct load_run *run;
	struct fh_client *client; /* NULL: closed */
	uint32_t nr_asks;	  /* in its rings, those that timed out too */
	bool closing;		  /* the loop still has its descriptor */
	bool stale;		  /* to be read until there is nothing */
};

/* A request. */
struct ask {
	struct load_flight f;
	struct chan *ch; /* NULL: it waits for room */
	uint64_t id;	 /* libfreehold's */
	struct fh_buf prompt;
	uint32_t nr_tokens;
	uint64_t first_ns, last_ns;
	bool orphan; /* it is over for the run, and not for the server */
	struct ask *next;
};

struct chans {
	struct chan *ch; /* [nr] */
	uint32_t nr, nr_all, cap;
	struct ask **all; /* [cap] */
	struct ask *spare;
	struct ask *backlog, **backlog_tail;
	uint64_t arena_bytes, reopen_ns;
	bool pumping;
};

static struct chans *chans_of(const struct load_run *r)
{
	return r->wire_own;
}

static void put_ask(struct ask *a)
{
	struct chans *s = chans_of(a->f.run);

	a->ch = NULL;
	a->orphan = false;
	a->next = s->spare;
	s->spare = a;
}

/* ---- opening ---- */

static int connect_chan(const struct load_target *t, uint64_t arena_bytes, uint32_t open_us, struct fh_client **out,
			struct fh_err *err)
{
	struct fh_open_options o;
	int rc;

	fh_open_options_init(&o);
	o.max_requests = MAX_IN_FLIGHT;
	o.cq_entries = CQ_ENTRIES;
	o.arena_bytes = arena_bytes;
	o.open_us = open_us;
	rc = fh_open(t->channel, &o, out);
	if (!rc)
		return 0;
	fh_errf(err, rc, "%s", fh_error_message(*out));
	fh_close(*out);
	*out = NULL;
	return rc;
}

int load_chan_discover(struct load_target *t, const char *model, struct fh_err *err)
{
	struct fh_client_info info = {.size = sizeof(info)};
	struct fh_client *c;
	int rc = connect_chan(t, 0, 0, &c, err);

	if (rc)
		return rc;
	fh_get_info(c, &info);
	snprintf(t->model, sizeof(t->model), "%s", info.model);
	if (model && info.model[0] && strcmp(model, info.model))
		rc = fh_errf(err, -EINVAL, "%s: the server has the model %s and no %s", t->url, info.model, model);
	if (!t->nr_ctx || (info.nr_ctx && info.nr_ctx < t->nr_ctx))
		t->nr_ctx = info.nr_ctx;
	if (!t->nr_vocab)
		t->nr_vocab = info.nr_vocab;
	fh_close(c);
	return rc;
}

static void on_ready(struct fh_io_watch *w, uint32_t events);

static void on_stopped(struct fh_io_watch *w)
{
	struct chan *ch = (struct chan *)((char *)w - offsetof(struct chan, watch));

	fh_close(ch->client);
	ch->client = NULL;
	ch->closing = false;
	ch->run->nr_open--;
}

static int chan_open(struct chan *ch, uint32_t open_us, struct fh_err *err)
{
	struct load_run *r = ch->run;
	int rc = connect_chan(r->job->plan->target, chans_of(r)->arena_bytes, open_us, &ch->client, err);

	if (rc)
		return rc;
	ch->watch = (struct fh_io_watch){.on_ready = on_ready, .on_stopped = on_stopped};
	rc = fh_fd(ch->client);
	if (rc >= 0)
		rc = fh_io_watch(r->io, &ch->watch, rc, POLLIN);
	if (rc < 0) {
		fh_errf(err, rc, "a channel's descriptor cannot be watched: %s", strerror(-rc));
		fh_close(ch->client);
		ch->client = NULL;
		return rc;
	}
	r->nr_open++;
	r->out->fig.self.nr_opened++;
	return 0;
}

static void chan_close(struct chan *ch)
{
	if (!ch->client || ch->closing)
		return;
	ch->closing = true;
	fh_io_unwatch(&ch->watch);
}

static bool is_open(const struct chan *ch)
{
	return ch->client && !ch->closing;
}

/* ---- a request's end ---- */

static void ask_finish(struct ask *a, enum load_outcome outcome, int status, uint64_t now)
{
	struct load_run *r = a->f.run;
	struct load_result *res = &r->out->res[a->f.nr];

	res->first_ns = load_run_since(r, a->first_ns);
	res->last_ns = load_run_since(r, a->last_ns);
	res->nr_events = res->nr_out = a->nr_tokens;
	res->counted = true;
	load_run_finish(&a->f, outcome, status, now);
}

/* What the end of a request is to the figures, and the status that it would have had over HTTP. */
static enum load_outcome outcome_of(const struct ask *a, const struct fh_token *t, int *status)
{
	*status = 200;
	if (t->finish == FH_FINISH_ERROR) {
		bool refused = t->error == -EAGAIN, ending = t->error == -ESHUTDOWN;
		bool wrong = t->error == -EINVAL || t->error == -E2BIG;

		*status = refused ? 429 : ending ? 503 : wrong ? 400 : 500;
		if (a->nr_tokens)
			return LOAD_STREAM_ERROR;
		return refused ? LOAD_REFUSED : ending ? LOAD_UNAVAILABLE : LOAD_HTTP_ERROR;
	}
	if (t->finish == FH_FINISH_DEADLINE && !a->nr_tokens) {
		*status = 429;
		return LOAD_REFUSED;
	}
	if (t->finish != FH_FINISH_STOP && t->finish != FH_FINISH_LENGTH)
		return LOAD_STREAM_ERROR;
	return a->nr_tokens ? LOAD_OK : LOAD_EMPTY;
}

static void on_last(struct ask *a, const struct fh_token *t, uint64_t now)
{
	static const char *const why[] = {
		[FH_FINISH_CANCELLED] = "the server cancelled it",
		[FH_FINISH_DEADLINE] = "its deadline could not be met",
		[FH_FINISH_BUDGET] = "its budget is used up",
		[FH_FINISH_FILTER] = "a filter ended it",
	};
	const char *said = t->finish < sizeof(why) / sizeof(why[0]) ? why[t->finish] : NULL;
	enum load_outcome outcome;
	char what[256];
	int status;

	a->ch->nr_asks--;
	if (!a->orphan) {
		outcome = outcome_of(a, t, &status);
		if (outcome != LOAD_OK) {
			snprintf(what, sizeof(what), "%s: %s", load_outcome_name(outcome),
				 t->error ? strerror(-t->error)
				 : said	  ? said
					  : "no token");
			load_run_failure(a->f.run, what);
		}
		ask_finish(a, outcome, status, now);
	}
	put_ask(a);
}

static void take(const struct fh_token *t)
{
	struct ask *a = (struct ask *)(uintptr_t)t->user_data;
	uint64_t now = fh_now_ns();

	if (!(t->flags & FH_SLOT_NO_TOKEN) && !a->orphan) {
		a->first_ns = a->nr_tokens++ ? a->first_ns : now;
		a->last_ns = now;
		load_run_text(&a->f, now);
	}
	if (t->flags & FH_SLOT_LAST)
		on_last(a, t, now);
}

static void lost(struct chan *ch)
{
	struct load_run *r = ch->run;
	struct chans *s = chans_of(r);
	char what[256];

	snprintf(what, sizeof(what), "the channel was lost: %s", fh_error_message(ch->client));
	load_run_failure(r, what);
	for (uint32_t i = 0; i < s->nr_all; i++) {
		struct ask *a = s->all[i];

		if (a->ch != ch)
			continue;
		if (!a->orphan)
			ask_finish(a, LOAD_BROKEN, 0, fh_now_ns());
		put_ask(a);
	}
	ch->nr_asks = 0;
	ch->stale = false;
	chan_close(ch);
}

static void on_timeout(struct fh_io_timer *t)
{
	struct ask *a = (struct ask *)((char *)t - offsetof(struct ask, f.timer));

	if (a->f.nr == LOAD_NONE)
		return;
	load_run_failure(a->f.run, "a request took longer than --timeout");
	ask_finish(a, LOAD_TIMEOUT, 0, fh_now_ns());
	a->orphan = true;
	/* In the backlog it has no channel yet, and is put away when its turn comes. */
	if (a->ch) {
		fh_cancel(a->ch->client, a->id);
		a->ch->stale = true;
	}
}

/* ---- reading ---- */

static void drain(struct chan *ch)
{
	struct fh_token t;
	int rc;

	ch->stale = false;
	while (is_open(ch)) {
		rc = fh_try_next(ch->client, &t);
		if (rc == -EAGAIN || rc == -ENODATA)
			return;
		if (rc) {
			lost(ch);
			return;
		}
		take(&t);
		load_run_issue_due(ch->run);
	}
}

/* Read all channels that may have something, those too that got a request meanwhile. */
static void pump(struct chans *s)
{
	bool again = true;

	if (s->pumping)
		return; /* whoever pumps comes to it */
	s->pumping = true;
	while (again) {
		again = false;
		for (uint32_t i = 0; i < s->nr; i++) {
			if (!s->ch[i].stale)
				continue;
			drain(&s->ch[i]);
			again = true;
		}
	}
	s->pumping = false;
}

static void on_ready(struct fh_io_watch *w, uint32_t events)
{
	struct chan *ch = (struct chan *)((char *)w - offsetof(struct chan, watch));

	(void)events; /* a hang-up shows as a token that does not come */
	ch->stale = true;
	pump(chans_of(ch->run));
}

/* ---- sending ---- */

static uint32_t us_of(double ms)
{
	double us = ms * 1e3;

	return us <= 0 ? 0 : us < 1 ? 1 : us < 4e9 ? (uint32_t)us : 4000000000u;
}

/* Submit @a on @ch: 0, or what fh_generate() says. */
static int submit(struct chan *ch, struct ask *a)
{
	struct load_run *r = ch->run;
	const struct load_plan *plan = r->job->plan;
	const struct load_deadline *d = plan->deadline ? &plan->deadline[a->f.nr] : NULL;
	struct fh_params p;
	int rc;

	fh_params_init(&p);
	p.flags = plan->target->ignore_eos ? FH_REQ_IGNORE_EOS : 0;
	p.user_data = (uintptr_t)a;
	p.max_tokens = plan->trace->req[a->f.nr].nr_gen;
	p.ttft_us = d ? us_of(d->ttft_ms) : 0;
	p.tpot_us = d ? us_of(d->tpot_ms) : 0;
	p.temperature = (float)plan->target->temperature;
	rc = plan->prompts.kind == LOAD_PROMPT_IDS
		     ? fh_generate(ch->client, (const uint32_t *)(const void *)a->prompt.data,
				   a->prompt.len / sizeof(uint32_t), &p, &a->id)
		     : fh_generate_text(ch->client, a->prompt.data, a->prompt.len, &p, &a->id);
	if (rc)
		return rc;
	a->ch = ch;
	ch->nr_asks++;
	ch->stale = true;
	r->out->res[a->f.nr].sent_ns = load_run_since(r, fh_now_ns());
	return 0;
}

static struct chan *emptiest(struct chans *s)
{
	struct chan *best = NULL;

	for (uint32_t i = 0; i < s->nr; i++)
		if (is_open(&s->ch[i]) && (!best || s->ch[i].nr_asks < best->nr_asks))
			best = &s->ch[i];
	return best;
}

/* No channel is open: try to have one again. */
static struct chan *reopened(struct chans *s)
{
	uint64_t now = fh_now_ns();
	struct fh_err err;

	if (now < s->reopen_ns)
		return NULL;
	s->reopen_ns = now + REOPEN_NS;
	for (uint32_t i = 0; i < s->nr; i++)
		if (!s->ch[i].client && !chan_open(&s->ch[i], REOPEN_US, &err))
			return &s->ch[i];
	return NULL;
}

/* Send @a: 0, -EAGAIN where no ring has room, or why it cannot be sent. */
static int send_ask(struct chans *s, struct ask *a)
{
	struct load_run *r = a->f.run;

	for (;;) {
		struct chan *ch = emptiest(s);
		char what[256];
		int rc;

		if (!ch)
			ch = reopened(s);
		if (!ch) {
			load_run_failure(r, "no channel is open");
			return -ENOTCONN;
		}
		rc = submit(ch, a);
		if (rc == -EPIPE || rc == -EPROTO) {
			lost(ch);
			continue;
		}
		if (rc && rc != -EAGAIN) {
			snprintf(what, sizeof(what), "%s", fh_error_message(ch->client));
			load_run_failure(r, what);
		}
		return rc;
	}
}

static struct ask *ask_new(struct load_run *r)
{
	struct chans *s = chans_of(r);
	struct ask *a = s->spare;

	if (a) {
		s->spare = a->next;
		return a;
	}
	a = s->nr_all < s->cap ? calloc(1, sizeof(*a)) : NULL;
	if (!a)
		return NULL;
	a->f.run = r;
	a->f.nr = LOAD_NONE;
	a->f.timer.fn = on_timeout;
	s->all[s->nr_all++] = a;
	return a;
}

static bool chan_issue(struct load_run *r, uint32_t i)
{
	struct chans *s = chans_of(r);
	struct fh_buf *bytes = load_run_bytes(r, i), swap;
	struct ask *a = ask_new(r);
	int rc = -EAGAIN;

	if (!a) {
		r->out->fig.self.nr_unopened++;
		load_run_failure(r, "no memory for one more request");
		return false;
	}
	swap = a->prompt;
	a->prompt = *bytes;
	*bytes = swap;
	a->nr_tokens = 0;
	a->first_ns = a->last_ns = 0;
	load_run_begin(&a->f, i, fh_now_ns());
	/* Those who wait go first. */
	if (!s->backlog)
		rc = send_ask(s, a);
	if (rc && rc != -EAGAIN) {
		fh_io_timer_clear(r->io, &a->f.timer);
		a->f.nr = LOAD_NONE;
		put_ask(a);
		return false;
	}
	if (rc) {
		r->out->fig.self.nr_waited++;
		a->next = NULL;
		*s->backlog_tail = a;
		s->backlog_tail = &a->next;
	}
	pump(s);
	return true;
}

static void drop_first(struct chans *s)
{
	struct ask *a = s->backlog;

	s->backlog = a->next;
	if (!s->backlog)
		s->backlog_tail = &s->backlog;
}

static uint64_t chan_turn(struct load_run *r)
{
	struct chans *s = chans_of(r);

	while (s->backlog && !r->stop) {
		struct ask *a = s->backlog;
		int rc = a->orphan ? 0 : send_ask(s, a);

		if (rc == -EAGAIN)
			break;
		drop_first(s);
		if (a->orphan) {
			put_ask(a);
		} else if (rc) {
			ask_finish(a, LOAD_CONNECT, 0, fh_now_ns());
			put_ask(a);
		}
	}
	pump(s);
	return s->backlog ? RETRY_NS : UINT64_MAX;
}

/* ---- as a wire ---- */

/* Room for all prompts at once, within limits. */
static uint64_t arena_for(const struct load_run *r, uint32_t nr_channels)
{
	const struct trace *t = r->job->plan->trace;
	uint64_t bytes = 0, longest = 0;

	for (size_t i = 0; i < t->nr; i++) {
		/* A word of text takes fewer bytes than four tokens' ids. */
		uint64_t n = 16ull * (t->req[i].nr_prompt + 1);

		bytes += n;
		longest = n > longest ? n : longest;
	}
	bytes = bytes / nr_channels + longest;
	bytes = bytes < MAX_ARENA ? bytes : MAX_ARENA;
	bytes = bytes > MIN_ARENA ? bytes : MIN_ARENA;
	return bytes > longest ? bytes : longest;
}

static int chan_setup(struct load_run *r, uint32_t most, struct fh_err *err)
{
	const struct load_target *t = r->job->plan->target;
	struct chans *s = r->wire_own = calloc(1, sizeof(*s));
	uint32_t nr = t->nr_channels ? t->nr_channels : 1;
	int rc = 0;

	if (!s)
		return fh_errf(err, -ENOMEM, "no memory");
	s->backlog_tail = &s->backlog;
	/* The backlog takes what the rings do not, and what timed out stays a while. */
	s->cap = 2 * most + 64;
	s->all = calloc(s->cap, sizeof(struct ask *));
	s->ch = calloc(nr, sizeof(*s->ch));
	if (!s->all || !s->ch)
		return fh_errf(err, -ENOMEM, "no memory for %u requests", most);
	s->arena_bytes = arena_for(r, nr);
	for (; s->nr < nr && !rc; s->nr++) {
		s->ch[s->nr].run = r;
		rc = chan_open(&s->ch[s->nr], 0, err);
	}
	return rc;
}

static void chan_hang_up(struct load_run *r)
{
	struct chans *s = chans_of(r);

	for (uint32_t i = 0; i < s->nr_all; i++)
		load_run_drop(&s->all[i]->f);
	for (uint32_t i = 0; i < s->nr; i++)
		chan_close(&s->ch[i]);
}

static void chan_free(struct load_run *r)
{
	struct chans *s = chans_of(r);

	if (!s)
		return;
	for (uint32_t i = 0; s->ch && i < s->nr; i++)
		fh_close(s->ch[i].client);
	for (uint32_t i = 0; i < s->nr_all; i++) {
		fh_buf_free(&s->all[i]->prompt);
		free(s->all[i]->f.gap_ms);
		free(s->all[i]);
	}
	free(s->all);
	free(s->ch);
	free(s);
}

const struct load_wire load_wire_chan = {
	.setup = chan_setup,
	.make = load_plan_prompt,
	.issue = chan_issue,
	.turn = chan_turn,
	.hang_up = chan_hang_up,
	.free = chan_free,
};
