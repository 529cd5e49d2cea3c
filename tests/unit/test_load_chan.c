// SPDX-License-Identifier: Apache-2.0
/*
 * The load generator over a channel, against a peer that speaks the ABI
 * (chan_peer.h) and follows a script: what it is asked, and what each way to end
 * a request is called in the figures.
 */
#include "tests/unit/chan_peer.h"
#include "tools/load/run.h"

#define NR 12u
#define MS_NS 1000000u
#define MANY 2600u

struct scripted {
	struct peer p;
	pthread_t thread;
	struct fh_req_desc desc[NR];
	uint32_t ids[NR][8];
	uint32_t nr;
	uint64_t waiting; /* the request that nobody answers */
	uint32_t nr_cancelled;
};

static void pause_us(uint32_t us)
{
	nanosleep(&(struct timespec){0, us * 1000L}, NULL);
}

static void tokens(struct peer *p, uint64_t id, uint32_t nr, uint32_t finish)
{
	for (uint32_t i = 0; i < nr; i++) {
		peer_token(p, id, 5 + i, i, i + 1 == nr ? finish : 0);
		pause_us(500);
	}
}

/* Request @n of the script. */
static void answer(struct scripted *s, uint32_t n, uint64_t id)
{
	struct peer *p = &s->p;

	switch (n) {
	case 1: peer_over(p, id, FH_FINISH_ERROR, -EAGAIN, 1000); break;
	case 2: peer_over(p, id, FH_FINISH_ERROR, -EINVAL, 0); break;
	case 3: peer_over(p, id, FH_FINISH_ERROR, -ESHUTDOWN, 0); break;
	case 4:
		tokens(p, id, 1, 0);
		peer_over(p, id, FH_FINISH_ERROR, -EIO, 0);
		break;
	case 5: peer_over(p, id, FH_FINISH_LENGTH, 0, 0); break;
	case 6: s->waiting = id; break;
	case 7: peer_over(p, id, FH_FINISH_DEADLINE, 0, 0); break;
	case 8:
		tokens(p, id, 2, 0);
		peer_over(p, id, FH_FINISH_STOP, 0, 0);
		break;
	case 10: peer_die(p); break;
	default: tokens(p, id, 3, FH_FINISH_LENGTH);
	}
}

static void cancelled(struct scripted *s, uint64_t id)
{
	s->nr_cancelled += id == s->waiting;
	/* On its way when the client gave up: it counts for nothing. */
	tokens(&s->p, id, 1, 0);
	peer_over(&s->p, id, FH_FINISH_CANCELLED, 0, 0);
}

static void *follow(void *arg)
{
	struct scripted *s = arg;
	struct peer *p = &s->p;
	struct fh_req_desc d;

	peer_join(p);
	while (!atomic_load(&p->stop) && p->sock >= 0) {
		if (!p->shaken || !peer_peek(p, &d)) {
			pause_us(200);
			continue;
		}
		if (d.flags & FH_REQ_CANCEL) {
			peer_consume(p);
			cancelled(s, d.user_data);
			continue;
		}
		if (s->nr < NR) {
			s->desc[s->nr] = d;
			memcpy(s->ids[s->nr], peer_prompt(p, &d), d.prompt_bytes < 32 ? d.prompt_bytes : 32);
		}
		peer_consume(p);
		answer(s, s->nr++, d.user_data);
	}
	return NULL;
}

static void begin(struct scripted *s, void *(*fn)(void *))
{
	memset(s, 0, sizeof(*s));
	peer_start(&s->p);
	cr_assert_eq(pthread_create(&s->thread, NULL, fn, s), 0);
}

static void end(struct scripted *s)
{
	atomic_store(&s->p.stop, true);
	pthread_join(s->thread, NULL);
	peer_end(&s->p);
}

static void check_descriptors(const struct scripted *s, const struct load_plan *plan)
{
	for (uint32_t i = 0; i < 10; i++) {
		const struct fh_req_desc *d = &s->desc[i];
		struct fh_buf b = {0};

		load_plan_prompt(plan, i, &b);
		cr_assert(b.len == 4 * plan->trace->req[i].nr_prompt && d->prompt_bytes == b.len);
		cr_expect_arr_eq(s->ids[i], b.data, b.len);
		cr_expect_eq(d->max_tokens, plan->trace->req[i].nr_gen);
		cr_expect_eq(d->flags, FH_REQ_IGNORE_EOS);
		cr_expect(d->ttft_us == 12500 + i && d->tpot_us == 3000, "%u %u", d->ttft_us, d->tpot_us);
		fh_buf_free(&b);
	}
}

static void script(bool epoll)
{
	static const struct {
		enum load_outcome outcome;
		uint32_t nr_out;
		int status;
	} want[NR] = {
		{LOAD_OK, 3, 200},	    {LOAD_REFUSED, 0, 429},	 {LOAD_HTTP_ERROR, 0, 400},
		{LOAD_UNAVAILABLE, 0, 503}, {LOAD_STREAM_ERROR, 1, 500}, {LOAD_EMPTY, 0, 200},
		{LOAD_TIMEOUT, 0, 0},	    {LOAD_REFUSED, 0, 429},	 {LOAD_OK, 2, 200},
		{LOAD_OK, 3, 200},	    {LOAD_BROKEN, 0, 0},	 {LOAD_CONNECT, 0, 0},
	};
	static struct scripted s;
	struct trace_req req[NR];
	struct load_deadline due[NR];
	struct trace trace = {.req = req, .nr = NR};
	struct load_target t = {.url = "channel:", .ignore_eos = true, .stream = true};
	struct load_plan plan = {
		.target = &t, .trace = &trace, .deadline = due, .prompts = {.first_id = 3, .nr_vocab = 200}};
	struct load_job job = {
		.plan = &plan, .timeout_s = 0.2, .max_missed = UINT32_MAX, .force_epoll = epoll, .keep_itls = true};
	struct load_record rec;
	struct fh_err err = {.msg = ""};
	char url[160];

	for (uint32_t i = 0; i < NR; i++) {
		/* The tenth after the seventh has timed out; then the peer dies. */
		req[i] = (struct trace_req){
			.at_ns = (i + (i > 8 ? 40 : 0)) * 10ull * MS_NS, .nr_prompt = 1 + i % 8, .nr_gen = 2 + i};
		due[i] = (struct load_deadline){12.5 + i / 1000.0, 3};
	}
	begin(&s, follow);
	snprintf(url, sizeof(url), "channel:%s", s.p.where);
	t.url = url;
	cr_assert_eq(load_target_resolve(&t, &err), 0, "%s", err.msg);
	cr_assert_str_eq(t.channel, s.p.where);
	cr_assert_eq(load_run(&job, &rec, &err), 0, "%s", err.msg);
	for (uint32_t i = 0; i < NR; i++) {
		const struct load_result *x = &rec.res[i];

		cr_expect_eq(x->outcome, want[i].outcome, "%u: %s, %s", i, load_outcome_name(x->outcome),
			     rec.first_error);
		cr_expect(x->nr_out == want[i].nr_out && x->status == want[i].status, "%u: %u tokens, status %u", i,
			  x->nr_out, x->status);
		if (x->outcome == LOAD_OK)
			cr_expect(x->due_ns <= x->sent_ns && x->sent_ns < x->first_ns && x->first_ns < x->last_ns &&
				  x->last_ns <= x->end_ns);
	}
	cr_expect_eq(rec.itls[0].nr, 2);
	/* Not what the peer's pauses are: who comes late sees two tokens at once. */
	cr_expect_float_eq(rec.itls[0].ms[0] + rec.itls[0].ms[1],
			   (float)(rec.res[0].last_ns - rec.res[0].first_ns) / MS_NS, 0.001f);
	cr_expect_eq(s.nr_cancelled, 1);
	check_descriptors(&s, &plan);
	cr_expect_eq(rec.fig.self.nr_opened, 1);
	load_record_free(&rec);
	end(&s);
}

Test(load_chan, every_end, .timeout = 60)
{
	script(false);
}

Test(load_chan, every_end_with_epoll, .timeout = 60)
{
	script(true);
}

/* Answers nothing until there are as many as a channel takes. */
static void *late(void *arg)
{
	struct scripted *s = arg;
	struct peer *p = &s->p;
	struct fh_req_desc d;
	uint32_t *tail;

	peer_join(p);
	tail = peer_word(p, FH_AREA_CLIENT, p->info.sq_tail_off);
	while (!atomic_load(&p->stop) && __atomic_load_n(tail, __ATOMIC_ACQUIRE) < 2000)
		pause_us(200);
	while (!atomic_load(&p->stop)) {
		if (!peer_room(p) || !peer_peek(p, &d)) {
			pause_us(50);
			continue;
		}
		peer_consume(p);
		peer_token(p, d.user_data, 9, 0, FH_FINISH_LENGTH);
	}
	return NULL;
}

/* More at once than the rings take: the rest waits its turn, and all are answered. */
Test(load_chan, backlog, .timeout = 60)
{
	static struct scripted s;
	static struct trace_req req[MANY];
	struct trace trace = {.req = req, .nr = MANY};
	struct load_target t = {.ignore_eos = true, .stream = true};
	struct load_plan plan = {.target = &t, .trace = &trace, .prompts = {.first_id = 3, .nr_vocab = 200}};
	struct load_job job = {.plan = &plan, .timeout_s = 30, .max_missed = UINT32_MAX};
	struct load_record rec;
	struct fh_err err = {.msg = ""};

	for (uint32_t i = 0; i < MANY; i++)
		req[i] = (struct trace_req){.nr_prompt = 4, .nr_gen = 1};
	begin(&s, late);
	t.url = t.channel = s.p.where;
	cr_assert_eq(load_run(&job, &rec, &err), 0, "%s", err.msg);
	cr_expect_eq(rec.fig.nr_by_outcome[LOAD_OK], MANY, "%u, %s", rec.fig.nr_by_outcome[LOAD_OK], rec.first_error);
	cr_expect_eq(rec.fig.output_tokens, MANY);
	cr_expect_eq(rec.fig.max_concurrent, MANY);
	cr_expect_eq(rec.fig.self.nr_waited, MANY - 2000);
	cr_expect(strstr(rec.fig.bottleneck, "--channels"), "%s", rec.fig.bottleneck);
	load_record_free(&rec);
	end(&s);
}

Test(load_chan, where)
{
	static const char *const good[] = {"channel:dev", "channel:dev:/dev/other", "channel:unix:/a/b"};
	static const char *const bad[] = {"channel:", "channel:unix:", "channel:/a", "channel:http://a:1",
					  "channel:devil"};
	struct fh_err err;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct load_target t = {.url = good[i]};

		cr_assert_eq(load_target_resolve(&t, &err), 0, "%s", err.msg);
		cr_expect_str_eq(t.channel, good[i] + 8);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct load_target t = {.url = bad[i]};

		cr_expect_eq(load_target_resolve(&t, &err), -EINVAL, "%s", bad[i]);
		cr_expect(strstr(err.msg, "channel:unix:PATH"), "%s", err.msg);
	}
	{
		struct load_target t = {.url = "udp://KEY@127.0.0.1:9"};

		cr_assert_eq(load_target_resolve(&t, &err), 0, "%s", err.msg);
		cr_expect_str_eq(t.channel, t.url);
	}
}

/* Nobody there, and a server that refuses: in words. */
Test(load_chan, discovery, .timeout = 60)
{
	struct load_target t = {.url = "channel:unix:/nonexistent/s", .channel = "unix:/nonexistent/s"};
	struct fh_err err = {.msg = ""};
	struct peer p = {0};

	cr_expect_eq(load_discover(&t, NULL, &err), -ENOENT);
	cr_expect(strstr(err.msg, "/nonexistent/s"), "%s", err.msg);
	peer_start(&p);
	t.channel = p.where;
	cr_expect_eq(load_discover(&t, "another", &err), -EINVAL);
	peer_join(&p);
	cr_expect(strstr(err.msg, PEER_MODEL) && strstr(err.msg, "another"), "%s", err.msg);
	cr_expect(t.nr_ctx == PEER_CTX && t.nr_vocab == PEER_VOCAB);
	cr_expect_str_eq(t.model, PEER_MODEL);
	peer_end(&p);
}
