// SPDX-License-Identifier: Apache-2.0
/* The run itself; see run.h. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "tools/load/run_priv.h"

#define TICK_NS 100000000u /* how often signals and progress are looked at */
#define MAX_UNDER_WAY 32768u
#define MIN_MARGIN_NS 20000u
#define MAX_MARGIN_NS 300000u
#define S_NS 1000000000u

static uint32_t total(const struct load_run *r)
{
	return r->out->nr;
}

static uint64_t due_ns(const struct load_run *r, uint32_t i)
{
	return r->begin_ns + r->job->plan->trace->req[i].at_ns;
}

void load_run_failure(struct load_run *r, const char *what)
{
	if (!r->out->first_error[0])
		snprintf(r->out->first_error, sizeof(r->out->first_error), "%s", what);
}

/* ---- a request under way ---- */

void load_run_begin(struct load_flight *f, uint32_t i, uint64_t at_ns)
{
	const struct load_job *job = f->run->job;

	f->nr = i;
	f->last_text_ns = 0;
	if (job->timeout_s > 0)
		fh_io_timer_set(f->run->io, &f->timer, at_ns + (uint64_t)(job->timeout_s * 1e9));
}

static void keep_gap(struct load_flight *f, uint64_t gap)
{
	if (f->nr_gaps == f->cap_gaps) {
		uint32_t cap = f->cap_gaps ? 2 * f->cap_gaps : 64;
		float *grown = realloc(f->gap_ms, cap * sizeof(*grown));

		if (!grown)
			return;
		f->gap_ms = grown;
		f->cap_gaps = cap;
	}
	f->gap_ms[f->nr_gaps++] = (float)((double)gap / 1e6);
}

void load_run_text(struct load_flight *f, uint64_t now)
{
	struct load_run *r = f->run;
	uint64_t second = load_run_since(r, now) / S_NS;

	if (f->last_text_ns) {
		uint64_t gap = now > f->last_text_ns ? now - f->last_text_ns : 0;

		load_hdr_add(&r->gaps, gap);
		if (r->out->itls)
			keep_gap(f, gap);
	}
	f->last_text_ns = now;
	r->nr_text++;
	if (second < r->nr_tokens)
		r->tokens[second]++;
}

static void give_gaps(struct load_run *r, struct load_flight *f)
{
	if (!r->out->itls)
		return;
	r->out->itls[f->nr] = (struct load_itls){.ms = f->gap_ms, .nr = f->nr_gaps};
	f->gap_ms = NULL;
	f->nr_gaps = f->cap_gaps = 0;
}

static void count_missed(struct load_run *r)
{
	if (++r->nr_missed > r->job->max_missed)
		r->stop = true;
}

void load_run_finish(struct load_flight *f, enum load_outcome outcome, int status, uint64_t now)
{
	struct load_run *r = f->run;
	struct load_result *res = &r->out->res[f->nr];
	const struct load_deadline *d = r->job->plan->deadline;

	res->outcome = (uint8_t)outcome;
	res->status = (uint16_t)status;
	res->end_ns = load_run_since(r, now);
	give_gaps(r, f);
	if (outcome == LOAD_OK)
		load_hdr_add(&r->ttft, res->first_ns > res->due_ns ? res->first_ns - res->due_ns : 0);
	else if (outcome == LOAD_REFUSED || outcome == LOAD_UNAVAILABLE)
		r->nr_refused++;
	else
		r->nr_failed++;
	if (!load_is_good(res, &r->job->goals, d ? &d[f->nr] : NULL))
		count_missed(r);
	fh_io_timer_clear(r->io, &f->timer);
	f->nr = LOAD_NONE;
	r->nr_done++;
	r->nr_running--;
	r->slot_ns = now;
}

void load_run_drop(struct load_flight *f)
{
	struct load_run *r = f->run;

	if (f->nr == LOAD_NONE)
		return;
	r->out->res[f->nr].outcome = LOAD_UNSENT;
	r->out->res[f->nr].sent_ns = 0;
	fh_io_timer_clear(r->io, &f->timer);
	f->nr = LOAD_NONE;
}

/* ---- sending ---- */

static void make(struct load_run *r, uint32_t i)
{
	struct fh_buf *b = load_run_bytes(r, i);

	fh_buf_reset(b, SIZE_MAX);
	r->wire->make(r->job->plan, i, b);
	r->made = i + 1;
}

/* Send request @i, which could have left at @ready. */
static void issue(struct load_run *r, uint32_t i, uint64_t ready)
{
	struct load_result *res = &r->out->res[i];

	res->due_ns = load_run_since(r, r->job->closed ? ready : due_ns(r, i));
	res->ready_ns = load_run_since(r, ready);
	res->nr_in = r->job->plan->trace->req[i].nr_prompt;
	r->nr_running++;
	if (r->made <= i)
		make(r, i);
	if (load_run_bytes(r, i)->failed)
		load_run_failure(r, "no memory for a request");
	else if (r->wire->issue(r, i))
		return;
	res->outcome = LOAD_CONNECT;
	res->end_ns = load_run_since(r, fh_now_ns());
	r->nr_running--;
	r->nr_done++;
	r->nr_failed++;
	count_missed(r);
}

static bool slot_free(const struct load_run *r)
{
	return !r->job->max_concurrency || r->nr_running < r->job->max_concurrency;
}

void load_run_issue_due(struct load_run *r)
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
		.at_s = (double)load_run_since(r, now) / 1e9,
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
	size_t need = (size_t)(load_run_since(r, now) / S_NS) + 3;
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
		load_run_issue_due(r);
		now = fh_now_ns();
		wait = next_wait(r, now);
		if (r->wire->turn) {
			uint64_t wanted = r->wire->turn(r);

			wait = wanted < wait ? wanted : wait;
		}
		/* In time that would be slept away, make the bytes of what comes next. */
		if (wait > MIN_MARGIN_NS && r->made < total(r) && r->made < r->next + LOAD_AHEAD) {
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
	r->wire->hang_up(r);
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
	if (s->nr_waited)
		n += (size_t)snprintf(f->bottleneck + n, cap - n,
				      "%u requests waited for room in the rings (more --channels have more); ",
				      s->nr_waited);
	if (n >= 2)
		f->bottleneck[n - 2] = '\0';
}

static int setup(struct load_run *r, struct fh_err *err)
{
	const struct load_job *job = r->job;
	uint32_t nr = (uint32_t)job->plan->trace->nr, most = job->max_concurrency ? job->max_concurrency : nr;
	struct fh_io_config cfg = {.recv_bytes = 16384, .nr_recv = 1024, .force_epoll = job->force_epoll};
	int rc;

	most = most < MAX_UNDER_WAY ? most : MAX_UNDER_WAY;
	cfg.max_socks = most + 128; /* closing ones overlap with new ones */
	r->out->nr = nr;
	r->out->res = calloc(nr ? nr : 1, sizeof(*r->out->res));
	r->out->itls = job->keep_itls ? calloc(nr ? nr : 1, sizeof(*r->out->itls)) : NULL;
	if (!r->out->res || (job->keep_itls && !r->out->itls))
		return fh_errf(err, -ENOMEM, "no memory for %u requests", nr);
	rc = fh_io_create(&cfg, &r->io, err);
	if (!rc)
		rc = fh_io_start(r->io, err);
	if (!rc)
		rc = r->wire->setup(r, most, err);
	if (!rc)
		snprintf(r->out->fig.self.backend, sizeof(r->out->fig.self.backend), "%s", fh_io_backend(r->io));
	return rc;
}

static void teardown(struct load_run *r)
{
	fh_io_destroy(r->io);
	r->wire->free(r);
	for (uint32_t i = 0; i < LOAD_AHEAD; i++)
		fh_buf_free(&r->ahead[i]);
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
	r->wire = job->plan->target->channel ? &load_wire_chan : &load_wire_http;
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
