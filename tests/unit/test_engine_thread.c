// SPDX-License-Identifier: Apache-2.0
/*
 * The engine in its own thread, front ends in theirs: the queues, the futex and
 * the credits under contention.  To be run with the thread sanitizer, too.
 */
#include <pthread.h>
#include <sys/resource.h>

#include "runtime/base/clock.h"
#include "runtime/engine/engine_priv.h" /* the histograms */
#include "tests/unit/engine_oracle.h"

enum { NR_CLIENTS = 3, NR_EACH = 150, NR_AT_ONCE = 6 };

struct client {
	struct rig *g;
	struct fh_fake *f;
	struct rng r;
	pthread_t thread;
	uint32_t nr_whole, nr_refused;
};

static void *client_main(void *arg)
{
	struct client *c = arg;
	struct job *j = calloc(NR_AT_ONCE, sizeof(*j));
	bool cancelled[NR_AT_ONCE];

	for (int round = 0; round < NR_EACH / NR_AT_ONCE; round++) {
		bool in[NR_AT_ONCE] = {0};

		for (int i = 0; i < NR_AT_ONCE; i++) {
			struct fh_err err = {0};
			uint32_t retry_ms;
			int ret;

			job_random(&j[i], &c->r, 150, 80);
			j[i].call.req.nr_slots = 1u << rnd(&c->r, 5);
			if (rnd(&c->r, 3) == 0) {
				j[i].call.req.nr_stop = 1;
				j[i].call.req.stop[0] = (struct fh_stop){"aabbaabbaabbaabbz", 17};
			}
			cancelled[i] = false;
			ret = fh_fake_submit(c->f, &j[i].call, &retry_ms, &err);
			if (ret) {
				cr_assert_eq(ret, -EAGAIN, "%s", err.msg);
				c->nr_refused++;
				continue;
			}
			in[i] = true;
			for (uint32_t k = rnd(&c->r, 3); k; k--)
				fh_fake_poll(c->f, true);
			if (rnd(&c->r, 5) == 0 && !j[i].call.done) {
				cancelled[i] = true;
				fh_fake_cancel(c->f, &j[i].call);
			}
		}
		while (fh_fake_poll(c->f, true))
			;
		for (int i = 0; i < NR_AT_ONCE; i++) {
			if (!in[i])
				continue;
			if (cancelled[i] && j[i].call.finish == FH_FINISH_CANCELLED) {
				job_check_begun(&j[i], 512);
			} else {
				job_check(&j[i], 512);
				c->nr_whole++;
			}
		}
	}
	for (int i = 0; i < NR_AT_ONCE; i++)
		free(j[i].text);
	free(j);
	return NULL;
}

Test(engine_thread, front_ends_in_their_own_threads)
{
	struct fh_engine_config cfg = rig_config_guessing();
	struct client c[NR_CLIENTS];
	struct fh_engine_stats st;
	struct fh_err err = {0};
	struct rig g;

	cfg.nr_ctx = 512;
	cfg.nr_blocks = 60;
	cfg.max_seqs = 8;
	cfg.max_queue = 12;
	rig_open_on(&g, cfg, RIG_DRAFT_MODEL); /* whole series of tokens are published at once */
	for (int i = 0; i < NR_CLIENTS; i++) {
		c[i] = (struct client){.g = &g, .r = {1000 + (uint64_t)i}};
		cr_assert_eq(fh_fake_create(&g.svc, &c[i].f, &err), 0);
		cr_assert_eq(fh_engine_attach(g.e, fh_fake_frontend(c[i].f), &err), 0, "%s", err.msg);
	}
	cr_assert_eq(fh_engine_start(g.e, &err), 0, "%s", err.msg);
	for (int i = 0; i < NR_CLIENTS; i++)
		pthread_create(&c[i].thread, NULL, client_main, &c[i]);
	for (int i = 0; i < 50; i++) {
		const struct timespec tick = {.tv_nsec = 1000000};

		fh_engine_stats(g.e, &st);
		cr_assert_eq(fh_engine_health(g.e, 10000), 0);
		nanosleep(&tick, NULL);
	}
	for (int i = 0; i < NR_CLIENTS; i++)
		pthread_join(c[i].thread, NULL);
	fh_engine_stop(g.e, 1000);
	cr_assert(fh_engine_check(g.e));
	/* No time is negative, whichever thread's clock was read first. */
	cr_assert_lt(g.e->st.queue.sum_ns, 3600000000000u);
	cr_assert_lt(g.e->st.ttft.sum_ns, 3600000000000u);
	cr_assert_lt(g.e->st.itl.sum_ns, 3600000000000u);
	cr_assert_lt(g.e->st.e2e.sum_ns, 3600000000000u);
	for (int i = 0; i < NR_CLIENTS; i++) {
		cr_assert_gt(c[i].nr_whole, 20);
		fh_engine_detach(g.e, fh_fake_frontend(c[i].f));
		fh_fake_destroy(c[i].f);
	}
	rig_close(&g);
}

/* A reader that holds its slots while the engine sleeps is served again when it reads. */
Test(engine_thread, a_stalled_reader_wakes_the_engine)
{
	const struct timespec nap = {.tv_nsec = 30000000};
	struct fh_engine_config cfg = rig_config();
	struct job *j = calloc(1, sizeof(*j));
	struct rng r = {3};
	struct fh_err err = {0};
	struct rig g;

	cfg.pin_thread = true;
	rig_open(&g, cfg);
	fh_fake_set_pump(g.f, NULL, NULL);
	cr_assert_eq(fh_engine_start(g.e, &err), 0);
	for (int round = 0; round < 5; round++) {
		uint64_t begin;

		job_random(j, &r, 20, 1);
		j->call.req.max_tokens = j->call.req.min_tokens = 200;
		j->call.req.nr_slots = 2;
		j->call.hold = true;
		cr_assert_eq(fh_fake_submit(g.f, &j->call, NULL, &err), 0);
		nanosleep(&nap, NULL);
		fh_fake_poll(g.f, false);
		j->call.hold = false;
		begin = fh_now_us();
		fh_fake_wait(g.f, &j->call);
		cr_assert_lt(fh_now_us() - begin, 5000000);
		job_check(j, 1024);
	}
	fh_engine_stop(g.e, 1000);
	rig_close(&g);
	free(j->text);
	free(j);
}

/* With nothing to do the engine costs nothing. */
Test(engine_thread, idle_is_idle)
{
	const struct timespec wait = {.tv_nsec = 500000000};
	struct rusage a, b;
	struct fh_err err = {0};
	struct rig g;
	uint64_t us;

	rig_open(&g, rig_config());
	cr_assert_eq(fh_engine_start(g.e, &err), 0);
	getrusage(RUSAGE_SELF, &a);
	nanosleep(&wait, NULL);
	getrusage(RUSAGE_SELF, &b);
	us = (uint64_t)(b.ru_utime.tv_sec - a.ru_utime.tv_sec) * 1000000 + (uint64_t)b.ru_utime.tv_usec -
	     (uint64_t)a.ru_utime.tv_usec + (uint64_t)(b.ru_stime.tv_sec - a.ru_stime.tv_sec) * 1000000 +
	     (uint64_t)b.ru_stime.tv_usec - (uint64_t)a.ru_stime.tv_usec;
	cr_assert_lt(us, 5000, "%lu us of CPU in half a second of nothing", us);
	fh_engine_stop(g.e, 0);
	rig_close(&g);
}

static void wait_a_second(void *ctx)
{
	const struct timespec second = {.tv_sec = 1};

	(void)ctx;
	nanosleep(&second, NULL);
}

/* Health tells of a device that hangs, while it hangs. */
Test(engine_thread, health_sees_a_hanging_step)
{
	const struct timespec wait = {.tv_nsec = 400000000};
	struct job *j = calloc(1, sizeof(*j));
	struct rng r = {3};
	struct fh_err err = {0};
	struct rig g;

	rig_open(&g, rig_config());
	fh_fake_set_pump(g.f, NULL, NULL);
	g.o->in_step = wait_a_second;
	cr_assert_eq(fh_engine_start(g.e, &err), 0);
	cr_assert_eq(fh_engine_health(g.e, 100), 0);
	job_random(j, &r, 5, 1);
	cr_assert_eq(fh_fake_submit(g.f, &j->call, NULL, &err), 0);
	nanosleep(&wait, NULL);
	cr_assert_eq(fh_engine_health(g.e, 100), -ETIMEDOUT);
	fh_fake_wait(g.f, &j->call);
	cr_assert_eq(fh_engine_health(g.e, 100), 0);
	fh_engine_stop(g.e, 0);
	rig_close(&g);
	free(j->text);
	free(j);
}
