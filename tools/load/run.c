// SPDX-License-Identifier: Apache-2.0
/* The run itself; see run.h. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/io.h"
#include "tools/load/answer.h"
#include "tools/load/run.h"

#define AHEAD 256u	   /* requests whose bytes are made before they are due */
#define TICK_NS 100000000u /* how often signals and progress are looked at */
#define MAX_SOCKS 32768u
#define MIN_MARGIN_NS 20000u
#define MAX_MARGIN_NS 300000u
#define NONE UINT32_MAX
#define S_NS 1000000000u

struct conn {
	struct fh_io_sock sock;
	struct fh_io_timer timer;
	struct load_run *run;
	struct load_answer answer;
	struct fh_buf req;
	uint32_t nr; /* the request under way; NONE: idle */
	bool opening, used, again;
	bool parked; /* answered before the loop reported that the request had left */
	uint64_t flushed_ns, turn, last_text_ns;
	float *gap_ms; /* with keep_itls */
	uint32_t nr_gaps, cap_gaps;
	struct conn *next; /* in memory that waits to be used again */
};

struct load_run {
	const struct load_job *job;
	struct load_record *out;
	struct fh_io *io;
	struct conn **all, **idle; /* [cap], both */
	struct conn *spare;
	uint32_t nr_all, nr_idle, cap, nr_open;
	struct fh_buf ahead[AHEAD];
	uint32_t next, made; /* requests that were issued; whose bytes were made */
	uint32_t nr_running, nr_done, nr_missed, nr_refused, nr_failed;
	uint64_t begin_ns, turn;
	uint64_t slot_ns;   /* when max_concurrency last let one more go */
	uint64_t margin_ns; /* what a sleep is shortened by */
	struct load_hdr gaps, ttft;
	uint64_t *tokens; /* [nr_tokens] events of each second */
	size_t nr_tokens;
	uint64_t nr_text, text_told, told_ns;
	bool stop, broken;
};

static struct conn *conn_of(struct fh_io_sock *s)
{
	return (struct conn *)((char *)s - offsetof(struct conn, sock));
}

static uint64_t since(const struct load_run *r, uint64_t ns)
{
	return ns > r->begin_ns ? ns - r->begin_ns : 0;
}

static uint32_t total(const struct load_run *r)
{
	return r->out->nr;
}

static uint64_t due_ns(const struct load_run *r, uint32_t i)
{
	return r->begin_ns + r->job->plan->trace->req[i].at_ns;
}

static void failure(struct load_run *r, const char *what)
{
	if (!r->out->first_error[0])
		snprintf(r->out->first_error, sizeof(r->out->first_error), "%s", what);
}

static void issue_due(struct load_run *r);

/* ---- a request's end ---- */

static void keep_gaps(struct load_run *r, struct conn *c)
{
	if (!r->out->itls)
		return;
	r->out->itls[c->nr] = (struct load_itls){.ms = c->gap_ms, .nr = c->nr_gaps};
	c->gap_ms = NULL;
	c->nr_gaps = c->cap_gaps = 0;
}

/* The request on @c is over. */
static void finish(struct conn *c, enum load_outcome outcome, uint64_t now)
{
	struct load_run *r = c->run;
	struct load_result *res = &r->out->res[c->nr];
	const struct load_deadline *d = r->job->plan->deadline;

	res->outcome = (uint8_t)outcome;
	res->status = (uint16_t)c->answer.status;
	res->end_ns = since(r, now);
	if (!res->sent_ns && c->answer.begin_ns)
		res->sent_ns = since(r, c->flushed_ns);
	keep_gaps(r, c);
	if (outcome == LOAD_OK)
		load_hdr_add(&r->ttft, res->first_ns > res->due_ns ? res->first_ns - res->due_ns : 0);
	else if (outcome == LOAD_REFUSED || outcome == LOAD_UNAVAILABLE)
		r->nr_refused++;
	else
		r->nr_failed++;
	if (!load_is_good(res, &r->job->goals, d ? &d[c->nr] : NULL) && ++r->nr_missed > r->job->max_missed)
		r->stop = true;
	fh_io_timer_clear(r->io, &c->timer);
	c->nr = NONE;
	r->nr_done++;
	r->nr_running--;
	r->slot_ns = now;
}

static void fail(struct conn *c, enum load_outcome outcome, const char *what)
{
	failure(c->run, what);
	if (c->nr != NONE)
		finish(c, outcome, fh_now_ns());
	fh_io_close(&c->sock);
}

static void take_figures(struct conn *c, struct load_result *res)
{
	const struct load_answer *a = &c->answer;
	struct load_run *r = c->run;

	res->first_ns = since(r, a->first_ns ? a->first_ns : a->choice_ns);
	res->last_ns = since(r, a->last_choice_ns);
	res->nr_events = a->nr_events;
	res->counted = a->completion_tokens != 0;
	res->nr_out = res->counted ? (uint32_t)a->completion_tokens : a->nr_events;
	res->nr_cached = (uint32_t)a->cached_tokens;
	if (a->prompt_tokens)
		res->nr_in = (uint32_t)a->prompt_tokens;
}

/* The answer on @c is complete: which outcome is it? */
static void on_answer(struct conn *c, uint64_t now)
{
	struct load_answer *a = &c->answer;
	struct load_run *r = c->run;
	enum load_outcome outcome = LOAD_OK;
	char what[256];

	take_figures(c, &r->out->res[c->nr]);
	if (a->status == 429)
		outcome = LOAD_REFUSED;
	else if (a->status == 503)
		outcome = LOAD_UNAVAILABLE;
	else if (a->status != 200)
		outcome = LOAD_HTTP_ERROR;
	else if (a->failed)
		outcome = LOAD_STREAM_ERROR;
	else if (!a->choice_ns)
		outcome = LOAD_EMPTY;
	else if (a->streamed && !a->finished)
		outcome = LOAD_BROKEN; /* it ended with the connection, and not by itself */
	if (outcome != LOAD_OK) {
		snprintf(what, sizeof(what), "status %d%s: %s", a->status, a->failed ? ", then an error" : "",
			 a->error[0]		  ? a->error
			 : outcome == LOAD_BROKEN ? "the stream ended without [DONE] and without a finish_reason"
						  : "no token");
		failure(r, what);
	}
	finish(c, outcome, now);
	c->used = true;
	if (a->closes)
		fh_io_close(&c->sock);
	else if (fh_io_sending(&c->sock))
		c->parked = true;
	else
		r->idle[r->nr_idle++] = c;
}

static void on_text(struct load_answer *a, uint64_t now)
{
	struct conn *c = (struct conn *)((char *)a - offsetof(struct conn, answer));
	struct load_run *r = c->run;
	uint64_t second = since(r, now) / S_NS;

	if (a->nr_events) {
		uint64_t gap = now > c->last_text_ns ? now - c->last_text_ns : 0;

		load_hdr_add(&r->gaps, gap);
		if (r->out->itls && c->nr_gaps == c->cap_gaps) {
			uint32_t cap = c->cap_gaps ? 2 * c->cap_gaps : 64;
			float *grown = realloc(c->gap_ms, cap * sizeof(*grown));

			if (grown) {
				c->gap_ms = grown;
				c->cap_gaps = cap;
			}
		}
		if (c->nr_gaps < c->cap_gaps)
			c->gap_ms[c->nr_gaps++] = (float)((double)gap / 1e6);
	}
	c->last_text_ns = now;
	r->nr_text++;
	if (second < r->nr_tokens)
		r->tokens[second]++;
}

/* ---- connections ---- */

static bool conn_open(struct conn *c);
static void conn_send(struct conn *c);

static void forget_idle(struct load_run *r, struct conn *c)
{
	for (uint32_t i = r->nr_idle; i--;) {
		if (r->idle[i] != c)
			continue;
		memmove(&r->idle[i], &r->idle[i + 1], (r->nr_idle - i - 1) * sizeof(*r->idle));
		r->nr_idle--;
		return;
	}
}

/* The connection is gone, by the peer's will. */
static void on_lost(struct conn *c, ssize_t n, uint64_t now)
{
	struct load_run *r = c->run;
	char what[160];

	if (c->nr == NONE) {
		forget_idle(r, c);
		fh_io_close(&c->sock);
		return;
	}
	if (n == 0 && load_answer_eof(&c->answer, now)) {
		c->answer.closes = true;
		on_answer(c, now);
		return;
	}
	if (c->answer.error[0]) {
		fail(c, LOAD_MALFORMED, c->answer.error);
		return;
	}
	/* It had carried an answer and was closed between two: ask again on a new one (RFC 9112, 9.3.1). */
	if (c->used && !c->answer.begin_ns) {
		c->again = true;
		r->out->fig.self.nr_retried++;
		fh_io_close(&c->sock);
		return;
	}
	snprintf(what, sizeof(what), "%s: %s",
		 c->opening	      ? "no connection"
		 : c->answer.begin_ns ? "the connection was lost"
				      : "no answer",
		 n ? strerror((int)-n) : "closed by the server");
	fail(c, c->opening ? LOAD_CONNECT : LOAD_BROKEN, what);
}

static void on_recv(struct fh_io_sock *s, const char *data, ssize_t n)
{
	struct conn *c = conn_of(s);
	struct load_run *r = c->run;
	uint64_t now = fh_now_ns();

	if (n <= 0) {
		on_lost(c, n, now);
	} else if (c->nr == NONE) {
		/* Nobody asked. */
		forget_idle(r, c);
		fh_io_close(s);
	} else if (!load_answer_take(&c->answer, data, (size_t)n, now)) {
		fail(c, LOAD_MALFORMED, c->answer.error);
	} else if (c->answer.state == LOAD_DONE) {
		on_answer(c, now);
	}
	issue_due(r);
}

static void on_sent(struct fh_io_sock *s, int res)
{
	struct conn *c = conn_of(s);
	struct load_run *r = c->run;

	if (!res && c->parked)
		r->idle[r->nr_idle++] = c;
	c->parked = false;
	/* Failed: on_recv() hears of it too, or of an answer that was sent before. */
	if (res || c->nr == NONE)
		return;
	/*
	 * The loop told the kernel when it flushed; that the send is done shows
	 * in its next turn.  Later than that, or on a connection that was only
	 * being made, it was not done at once.
	 */
	if (c->opening || r->turn > c->turn + 1)
		c->flushed_ns = fh_now_ns();
	c->opening = false;
	r->out->res[c->nr].sent_ns = since(r, c->flushed_ns);
}

static void on_closed(struct fh_io_sock *s)
{
	struct conn *c = conn_of(s);
	struct load_run *r = c->run;

	r->nr_open--;
	if (c->again) {
		c->again = c->used = false;
		if (conn_open(c)) {
			conn_send(c);
			return;
		}
		failure(r, "no new connection");
		finish(c, LOAD_CONNECT, fh_now_ns());
	}
	c->next = r->spare;
	r->spare = c;
}

static void on_timeout(struct fh_io_timer *t)
{
	struct conn *c = (struct conn *)((char *)t - offsetof(struct conn, timer));

	if (c->nr != NONE)
		fail(c, LOAD_TIMEOUT, "a request took longer than --timeout");
}

static const struct fh_io_sock_ops sock_ops = {.on_recv = on_recv, .on_sent = on_sent, .on_closed = on_closed};

static bool conn_open(struct conn *c)
{
	const struct load_target *t = c->run->job->plan->target;
	struct load_run *r = c->run;
	int fd = socket(t->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
	char what[160];

	if (fd < 0)
		goto failed;
	if (t->addr.ss_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (const struct sockaddr *)&t->addr, t->addr_len) && errno != EINPROGRESS)
		goto failed;
	if (fh_io_attach(r->io, &c->sock, &sock_ops, fd))
		goto failed;
	r->nr_open++;
	r->out->fig.self.nr_opened++;
	c->opening = true;
	c->used = c->parked = false;
	fh_io_recv_start(&c->sock);
	return true;
failed:
	snprintf(what, sizeof(what), "cannot connect to %s: %s", t->url, strerror(errno));
	failure(r, what);
	/* These are limits of this side, not the server's. */
	if (errno == EMFILE || errno == ENFILE || errno == EADDRNOTAVAIL)
		r->out->fig.self.nr_unopened++;
	if (fd >= 0)
		close(fd);
	return false;
}

static struct conn *conn_new(struct load_run *r)
{
	struct conn *c = r->spare;

	if (c) {
		r->spare = c->next;
		return c;
	}
	if (r->nr_all == r->cap)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->run = r;
	c->nr = NONE;
	c->timer.fn = on_timeout;
	c->answer.on_text = on_text;
	r->all[r->nr_all++] = c;
	return c;
}

/* ---- sending ---- */

static void make(struct load_run *r, uint32_t i)
{
	struct fh_buf *b = &r->ahead[i % AHEAD];

	fh_buf_reset(b, SIZE_MAX);
	load_plan_request(r->job->plan, i, b);
	r->made = i + 1;
}

/* Let the bytes of c->req go. */
static void conn_send(struct conn *c)
{
	struct load_run *r = c->run;

	load_answer_reset(&c->answer);
	fh_io_send(&c->sock, c->req.data, c->req.len);
	fh_io_flush(r->io);
	c->flushed_ns = fh_now_ns();
	c->turn = r->turn;
}

/* Send request @i, which could have left at @ready. */
static void issue(struct load_run *r, uint32_t i, uint64_t ready)
{
	struct load_result *res = &r->out->res[i];
	struct conn *c = r->nr_idle ? r->idle[--r->nr_idle] : NULL;
	bool fresh = !c;
	struct fh_buf swap;

	res->due_ns = since(r, r->job->closed ? ready : due_ns(r, i));
	res->ready_ns = since(r, ready);
	res->nr_in = r->job->plan->trace->req[i].nr_prompt;
	r->nr_running++;
	if (r->made <= i)
		make(r, i);
	if (!c)
		c = conn_new(r);
	if (!c)
		r->out->fig.self.nr_unopened++;
	if (!c || r->ahead[i % AHEAD].failed || (fresh && !conn_open(c))) {
		failure(r, "no memory, or no descriptor, for one more connection");
		res->outcome = LOAD_CONNECT;
		res->end_ns = since(r, fh_now_ns());
		r->nr_running--;
		r->nr_done++;
		r->nr_failed++;
		if (++r->nr_missed > r->job->max_missed)
			r->stop = true;
		if (c && fresh) {
			c->next = r->spare;
			r->spare = c;
		}
		return;
	}
	c->nr = i;
	swap = c->req;
	c->req = r->ahead[i % AHEAD];
	r->ahead[i % AHEAD] = swap;
	conn_send(c);
	if (r->job->timeout_s > 0)
		fh_io_timer_set(r->io, &c->timer, c->flushed_ns + (uint64_t)(r->job->timeout_s * 1e9));
}

static bool slot_free(const struct load_run *r)
{
	return !r->job->max_concurrency || r->nr_running < r->job->max_concurrency;
}

/* Whatever should have left by now leaves now. */
static void issue_due(struct load_run *r)
{
	while (r->next < total(r) && !r->stop && slot_free(r)) {
		uint64_t due = due_ns(r, r->next), now;

		if (r->job->closed) {
			now = fh_now_ns();
			issue(r, r->next++, r->slot_ns ? r->slot_ns : now);
			continue;
		}
		now = fh_now_ns();
		if (due > now)
			return;
		/* With a free slot at its time it was ready then; else when one became free. */
		issue(r, r->next++, r->job->max_concurrency && r->slot_ns > due ? r->slot_ns : due);
	}
}

/* ---- the loop ---- */

static void tell(struct load_run *r, uint64_t now)
{
	struct load_progress p = {
		.at_s = (double)since(r, now) / 1e9,
		.nr = total(r),
		.nr_sent = r->next,
		.nr_done = r->nr_done,
		.nr_refused = r->nr_refused,
		.nr_failed = r->nr_failed,
		.nr_running = r->nr_running,
		.tokens_per_s = (double)(r->nr_text - r->text_told) * 1e9 / (double)(now - r->told_ns + 1),
		.ttft_p50_ms = load_hdr_quantile(&r->ttft, 0.5) / 1e6,
		.ttft_p99_ms = load_hdr_quantile(&r->ttft, 0.99) / 1e6,
	};

	r->told_ns = now;
	r->text_told = r->nr_text;
	if (r->job->progress)
		r->job->progress(r->job->progress_ctx, &p);
}

static void tick(struct load_run *r, uint64_t now)
{
	size_t need = (size_t)(since(r, now) / S_NS) + 3;
	sigset_t pending;

	if (need > r->nr_tokens) {
		uint64_t *grown = realloc(r->tokens, 2 * need * sizeof(*grown));

		if (grown) {
			memset(grown + r->nr_tokens, 0, (2 * need - r->nr_tokens) * sizeof(*grown));
			r->tokens = grown;
			r->nr_tokens = 2 * need;
		}
	}
	if (now - r->told_ns >= S_NS)
		tell(r, now);
	if (!sigpending(&pending) && sigismember(&pending, SIGINT) == 1)
		r->stop = r->out->interrupted = true;
}

/* Ns until the next request is due, or the next tick. */
static uint64_t next_wait(const struct load_run *r, uint64_t now)
{
	uint64_t due;

	if (r->next == total(r) || r->job->closed || !slot_free(r))
		return TICK_NS;
	due = due_ns(r, r->next);
	if (due <= now)
		return 0;
	return due - now < TICK_NS ? due - now : TICK_NS;
}

/*
 * Poll for at most @wait.  A sleep ends later than asked for, by what this
 * machine takes to wake up just now; so it is asked for that much shorter, and
 * the rest is spent looking.  The margin follows what is observed.
 */
static void poll_turn(struct load_run *r, uint64_t now, uint64_t wait)
{
	uint64_t sleep = wait > r->margin_ns ? wait - r->margin_ns : 0, woke = fh_io_now_ns(r->io);

	if (r->turn++ && now - woke > r->out->fig.self.max_turn_ns)
		r->out->fig.self.max_turn_ns = now - woke;
	r->broken = fh_io_poll(r->io, sleep) != 0;
	woke = fh_io_now_ns(r->io);
	if (!sleep || woke < now + sleep)
		return;
	woke -= now + sleep;
	if (woke > r->margin_ns)
		r->margin_ns += (woke - r->margin_ns) / 2;
	else
		r->margin_ns -= (r->margin_ns - woke) / 32;
	r->margin_ns = r->margin_ns < MIN_MARGIN_NS ? MIN_MARGIN_NS : r->margin_ns;
	r->margin_ns = r->margin_ns > MAX_MARGIN_NS ? MAX_MARGIN_NS : r->margin_ns;
}

static void drive(struct load_run *r)
{
	uint64_t next_tick = 0;

	r->margin_ns = MIN_MARGIN_NS;
	r->begin_ns = r->told_ns = fh_now_ns();
	while (r->nr_done < total(r) && !r->stop && !r->broken) {
		uint64_t now = fh_now_ns(), wait;

		if (now >= next_tick) {
			tick(r, now);
			next_tick = now + TICK_NS;
		}
		issue_due(r);
		now = fh_now_ns();
		wait = next_wait(r, now);
		/* In time that would be slept away, make the bytes of what comes next. */
		if (wait > MIN_MARGIN_NS && r->made < total(r) && r->made < r->next + AHEAD) {
			make(r, r->made < r->next ? r->next : r->made);
			wait = 0;
		}
		poll_turn(r, now, wait);
	}
	r->out->stopped = r->nr_done < total(r);
}

/* Close everything; what was under way counts as not sent, for the run did not wait for it. */
static void hang_up(struct load_run *r)
{
	r->stop = true;
	for (uint32_t i = 0; i < r->nr_all; i++) {
		struct conn *c = r->all[i];

		if (c->nr != NONE) {
			r->out->res[c->nr].outcome = LOAD_UNSENT;
			r->out->res[c->nr].sent_ns = 0;
			fh_io_timer_clear(r->io, &c->timer);
		}
		c->nr = NONE;
		c->again = false;
		if (c->sock.io)
			fh_io_close(&c->sock);
	}
	for (int i = 0; i < 1000 && r->nr_open; i++)
		if (fh_io_poll(r->io, 10000000))
			break;
}

static double cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_THREAD, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* How long this thread has waited for a processor; 0 where the kernel does not say. */
static double run_delay_s(void)
{
	FILE *f = fopen("/proc/thread-self/schedstat", "re");
	unsigned long long on = 0, waited = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%llu %llu", &on, &waited) != 2)
		waited = 0;
	fclose(f);
	return (double)waited / 1e9;
}

static void judge_self(struct load_figures *f)
{
	struct load_self *s = &f->self;
	size_t n = 0, cap = sizeof(f->bottleneck);
	double busy = s->cpu_s / f->duration_s, delayed = s->run_delay_s / f->duration_s;

	if (f->dist[LOAD_SEND_DELAY].p99 > 1)
		n += (size_t)snprintf(f->bottleneck, cap, "1 %% of the requests left %.1f ms late or later; ",
				      f->dist[LOAD_SEND_DELAY].p99);
	if (busy > 0.9)
		n += (size_t)snprintf(f->bottleneck + n, cap - n, "its thread was busy for %.0f %% of the time; ",
				      busy * 100);
	if (delayed > 0.1)
		n += (size_t)snprintf(
			f->bottleneck + n, cap - n,
			"it waited %.0f %% of the time for a core (the server's threads, or others', had them); ",
			delayed * 100);
	if (s->nr_unopened)
		n += (size_t)snprintf(f->bottleneck + n, cap - n,
				      "it had no descriptor, port or memory for %u connections (ulimit -n); ",
				      s->nr_unopened);
	if (n >= 2)
		f->bottleneck[n - 2] = '\0';
}

static int setup(struct load_run *r, struct fh_err *err)
{
	const struct load_job *job = r->job;
	uint32_t nr = (uint32_t)job->plan->trace->nr, socks = job->max_concurrency ? job->max_concurrency : nr;
	struct fh_io_config cfg = {.recv_bytes = 16384, .nr_recv = 1024, .force_epoll = job->force_epoll};
	int rc;

	socks = socks < MAX_SOCKS ? socks : MAX_SOCKS;
	r->cap = socks + 64; /* closing ones overlap with new ones */
	cfg.max_socks = r->cap + 64;
	r->out->nr = nr;
	r->out->res = calloc(nr ? nr : 1, sizeof(*r->out->res));
	r->out->itls = job->keep_itls ? calloc(nr ? nr : 1, sizeof(*r->out->itls)) : NULL;
	r->all = calloc(r->cap, sizeof(struct conn *));
	r->idle = calloc(r->cap, sizeof(struct conn *));
	if (!r->out->res || !r->all || !r->idle || (job->keep_itls && !r->out->itls))
		return fh_errf(err, -ENOMEM, "no memory for %u requests", nr);
	rc = fh_io_create(&cfg, &r->io, err);
	if (!rc)
		rc = fh_io_start(r->io, err);
	if (!rc)
		snprintf(r->out->fig.self.backend, sizeof(r->out->fig.self.backend), "%s", fh_io_backend(r->io));
	return rc;
}

static void teardown(struct load_run *r)
{
	fh_io_destroy(r->io);
	for (uint32_t i = 0; i < r->nr_all; i++) {
		load_answer_free(&r->all[i]->answer);
		fh_buf_free(&r->all[i]->req);
		free(r->all[i]->gap_ms);
		free(r->all[i]);
	}
	for (uint32_t i = 0; i < AHEAD; i++)
		fh_buf_free(&r->ahead[i]);
	free(r->all);
	free(r->idle);
	free(r->tokens);
	free(r);
}

int load_run(const struct load_job *job, struct load_record *out, struct fh_err *err)
{
	struct load_run *r = calloc(1, sizeof(*r));
	double cpu = cpu_s(), waited = run_delay_s();
	sigset_t block, old;
	int rc;

	*out = (struct load_record){0};
	if (!r)
		return fh_errf(err, -ENOMEM, "no memory");
	r->job = job;
	r->out = out;
	rc = setup(r, err);
	if (rc)
		goto out;
	sigemptyset(&block);
	sigaddset(&block, SIGINT);
	sigprocmask(SIG_BLOCK, &block, &old);
	prctl(PR_SET_TIMERSLACK, 1ul); /* the default would add 50 us to every wait */
	drive(r);
	out->fig.self.cpu_s = cpu_s() - cpu;
	out->fig.self.run_delay_s = run_delay_s() - waited;
	if (job->progress)
		tell(r, fh_now_ns());
	hang_up(r);
	if (out->interrupted)
		sigwaitinfo(&block, NULL); /* it has had its effect */
	sigprocmask(SIG_SETMASK, &old, NULL);
	rc = r->broken ? fh_errf(err, -EIO, "the event loop failed")
		       : load_figures(out->res, out->nr, &job->goals, job->plan->deadline, &r->gaps, r->tokens,
				      r->nr_tokens, &out->fig);
	if (!rc)
		judge_self(&out->fig);
out:
	teardown(r);
	return rc;
}

void load_record_free(struct load_record *r)
{
	for (uint32_t i = 0; r->itls && i < r->nr; i++)
		free(r->itls[i].ms);
	free(r->itls);
	free(r->res);
	*r = (struct load_record){0};
}
