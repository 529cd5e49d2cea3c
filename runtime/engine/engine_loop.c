// SPDX-License-Identifier: Apache-2.0
/*
 * The engine's thread: it turns while there is something to do, looks around
 * for a few microseconds, and then sleeps on a futex.
 *
 * Going to sleep and waking up
 *
 *   engine                      front end
 *   sleeping = 1                submit queue, cancel or head changes
 *   look at bell                bell = 1
 *   sleep while sleeping == 1   look at sleeping; if 1: = 0 and wake
 *
 * All four are sequentially consistent, so at least one of the two sees what
 * the other wrote.  A front end that forgets to ring after it made room in a
 * full ring only costs time: while a reader stalls, the engine sleeps in short
 * naps that grow to FH_NAP_MAX_NS.
 *
 * A polled front end brings words of its clients' that the engine sleeps on as
 * well.  It does its half of the handshake with them in doze(): ask for a
 * wake-up, full fence, look again.
 *
 * Where a front end has no thread the engine sleeps in its nap(), and whoever
 * takes `sleeping` back calls its wake().  That is another's word, so clients of
 * other polled front ends are told to kick.
 */
#include <assert.h>
#include <sched.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/futex.h"
#include "runtime/base/log.h"
#include "runtime/base/region.h"
#include "runtime/engine/engine_priv.h"

#define FH_SPIN_NS 20000
#define FH_YIELDS 2
#define FH_CALIBRATE_NS 300000000u
#define FH_NAP_MIN_NS 1000000u
#define FH_NAP_MAX_NS 64000000u
#define FH_SLEEP_NS 1000000000u /* the heartbeat of an idle engine */

static void wake(struct fh_engine *e)
{
	struct fh_frontend *fe = atomic_load(&e->napper);

	if (fe)
		fe->wake(fe);
	else
		fh_futex_wake(&e->sleeping, 1);
}

void fh_engine_ring(struct fh_engine *e)
{
	atomic_exchange(&e->bell, 1);
	if (atomic_load(&e->sleeping) && atomic_exchange(&e->sleeping, 0))
		wake(e);
}

void fh_engine_kick(struct fh_engine *e)
{
	atomic_store(&e->scan, 1);
	fh_engine_ring(e);
}

static bool has_work(struct fh_engine *e)
{
	return atomic_load_explicit(&e->bell, memory_order_relaxed) || fh_engine_poll(e);
}

/*
 * Wait a little for the next request: without giving the CPU away, or, where it
 * is the only one, by letting those run who have requests for us.
 */
static bool spin(struct fh_engine *e)
{
	uint64_t until;

	for (int i = 0; e->alone && i < FH_YIELDS; i++) {
		sched_yield();
		if (has_work(e))
			return true;
	}
	if (e->alone)
		return false;
	until = fh_now_ns() + FH_SPIN_NS;
	do {
		for (int i = 0; i < 32; i++) {
			if (has_work(e))
				return true;
			fh_cpu_relax();
		}
	} while (fh_now_ns() < until);
	return false;
}

/* Before it is pinned: may the program run on one CPU alone? */
static bool is_alone(void)
{
	cpu_set_t set;

	return !sched_getaffinity(0, sizeof(set), &set) && CPU_COUNT(&set) == 1;
}

static void pin(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set))
		fh_warn("engine: its thread could not be kept on CPU %d", cpu);
}

/* Ask every polled front end for its words; how many there are behind @w[0], or -EAGAIN: there is something to do. */
static int doze(struct fh_engine *e, struct fh_futex_waitv w[FH_FUTEX_WAITV_MAX])
{
	struct fh_sleep_word words[FH_FUTEX_WAITV_MAX];
	int nr = 0, ret = 0;

	for (int i = 0; i < FH_MAX_FRONTENDS && ret >= 0; i++) {
		struct fh_frontend *fe = e->fe[i].fe;

		if (!fe || !fe->polled)
			continue;
		ret = fe->polled->doze(
			fe, words,
			e->no_waitv || atomic_load(&e->napper) ? 0 : (uint32_t)(FH_FUTEX_WAITV_MAX - 1 - nr));
		for (int k = 0; k < ret; k++)
			w[++nr] = fh_futex_entry(words[k].word, words[k].value, true);
	}
	return ret < 0 ? ret : nr;
}

static void rise(struct fh_engine *e)
{
	for (int i = 0; i < FH_MAX_FRONTENDS; i++)
		if (e->fe[i].fe && e->fe[i].fe->polled)
			e->fe[i].fe->polled->rise(e->fe[i].fe);
}

/* Until `sleeping` is 0 or one of @nr words, behind @w[0], has moved. */
static void wait_for_words(struct fh_engine *e, struct fh_futex_waitv *w, int nr, uint64_t ns)
{
	int ret;

	if (!nr) {
		fh_futex_wait(&e->sleeping, 1, ns);
		return;
	}
	w[0] = fh_futex_entry(&e->sleeping, 1, false);
	ret = fh_futex_waitv(w, (uint32_t)nr + 1, ns);
	/* Refused (a filter that came later): from now on clients have to kick. */
	if (ret && ret != -EAGAIN && ret != -ETIMEDOUT && ret != -EINTR)
		e->no_waitv = true;
}

/* False if there was something to do after all. */
static bool sleep_a_while(struct fh_engine *e, uint64_t ns)
{
	struct fh_frontend *napper = atomic_load(&e->napper);
	struct fh_futex_waitv w[FH_FUTEX_WAITV_MAX];
	bool slept = false;
	int nr;

	atomic_store(&e->sleeping, 1);
	nr = doze(e, w);
	if (!atomic_load(&e->bell) && nr >= 0) {
		slept = true;
		if (!napper)
			wait_for_words(e, w, nr, ns);
		else if (!napper->polled->nap(napper, ns))
			atomic_store(&e->napper, NULL);
	}
	atomic_store(&e->sleeping, 0);
	rise(e);
	return slept;
}

/* One step of a made-up sequence that is nobody's: @nr tokens after @pos. Its time; 0 when it failed. */
static uint64_t try_step(struct fh_engine *e, uint32_t nr, uint32_t pos, const uint32_t *blocks)
{
	struct fh_sampling sampling = {.seed = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
	struct fh_slot slot = {0};
	struct fh_batch_seq q = {.q_len = nr,
				 .pos = pos,
				 .nr_blocks = (pos + nr + FH_KV_BLOCK - 1) / FH_KV_BLOCK,
				 .blocks = blocks,
				 .sampling = &sampling,
				 .history = e->batch_tokens,
				 .nr_prompt = nr,
				 .nr_history = nr,
				 .slot = &slot};
	struct fh_batch b = {.tokens = e->batch_tokens, .seqs = &q, .nr_seqs = 1, .nr_tokens = nr};
	struct fh_sched_seq v = {.nr_left = nr, .nr_context = pos};
	struct fh_sched_work w;
	uint64_t begin_ns = fh_now_ns(), ns;

	memset(e->batch_tokens, 0, nr * sizeof(*e->batch_tokens));
	if (e->accel->ops->submit(e->accel, &b) || e->accel->ops->reap(e->accel, true))
		return 0;
	ns = fh_now_ns() - begin_ns;
	fh_sched_work_of(&e->sched.cost, &v, &nr, 1, 0, &w);
	fh_engine_measured(e, &w, ns);
	return ns;
}

/*
 * Nothing is known of what steps cost: run a few, of one token and of some, for
 * a bounded time.  The very first one touches pages for the first time and is
 * forgotten.
 */
static void calibrate(struct fh_engine *e)
{
	uint32_t most = e->cfg.max_step_tokens < 64 ? e->cfg.max_step_tokens : 64, blocks[5], nr_blocks = 0, nr = 1;
	uint64_t begin_ns = fh_now_ns();
	struct fh_sched_cost nothing = e->sched.cost;
	bool first = true;

	while (nr_blocks < 5 && nr_blocks < e->cfg.nr_blocks) {
		blocks[nr_blocks] = fh_engine_take_block(e);
		if (blocks[nr_blocks] == FH_NO_BLOCK)
			break;
		nr_blocks++;
	}
	if (most > nr_blocks * FH_KV_BLOCK)
		most = nr_blocks * FH_KV_BLOCK;
	if (most > e->nr_ctx)
		most = e->nr_ctx;
	for (int i = 0; i < 12 && most && fh_now_ns() - begin_ns < FH_CALIBRATE_NS; i++) {
		nr = i % 3 == 1 && most >= 16 ? 16 : i % 3 == 2 ? most : 1;
		if (!try_step(e, nr, 0, blocks))
			break;
		if (first)
			e->sched.cost = nothing;
		first = false;
	}
	while (nr_blocks)
		fh_kv_unref(&e->kv, blocks[--nr_blocks]);
}

static void *loop(void *arg)
{
	struct fh_engine *e = arg;
	uint64_t nap_ns = FH_NAP_MIN_NS;

	pthread_setname_np(pthread_self(), "fh-engine");
	e->alone = is_alone();
	if (e->cfg.pin_thread)
		pin();
	e->no_waitv = !fh_futex_has_waitv();
	if (e->cfg.calibrate && !fh_sched_cost_known(&e->sched.cost))
		calibrate(e);
	for (;;) {
		if (fh_engine_turn(e)) {
			nap_ns = FH_NAP_MIN_NS;
			continue;
		}
		if (atomic_load(&e->quit) && fh_engine_is_empty(e))
			return NULL;
		/* A nap begins with looking around. */
		if (!atomic_load_explicit(&e->napper, memory_order_relaxed) && spin(e))
			continue;
		if (sleep_a_while(e, e->nr_live ? nap_ns : FH_SLEEP_NS))
			nap_ns = nap_ns < FH_NAP_MAX_NS ? nap_ns * 2 : nap_ns;
	}
}

static void begin_touching(struct fh_accel *a, struct fh_touch *t, size_t *block_bytes)
{
	struct fh_accel_info info = {0};

	a->ops->info(a, &info);
	*block_bytes = info.kv_block_bytes;
	/* Reserved huge pages are there already. */
	if (info.kv && info.kv->base && info.kv->huge != FH_HUGE_TLB)
		fh_touch_start(t, info.kv->base, info.kv->bytes);
}

int fh_engine_start(struct fh_engine *e, struct fh_err *err)
{
	int ret;

	assert(!e->threaded);
	begin_touching(e->accel, &e->touch, &e->block_bytes);
	if (e->draft.accel)
		begin_touching(e->draft.accel, &e->touch_draft, &e->draft_block_bytes);
	e->threaded = true;
	atomic_store(&e->state, FH_ENGINE_RUNNING);
	ret = pthread_create(&e->thread, NULL, loop, e);
	if (ret) {
		e->threaded = false;
		fh_touch_stop(&e->touch);
		fh_touch_stop(&e->touch_draft);
		atomic_store(&e->state, FH_ENGINE_NEW);
		return fh_errf(err, -ret, "engine: no thread: %s", strerror(ret));
	}
	return 0;
}

void fh_engine_stop(struct fh_engine *e, uint32_t drain_ms)
{
	const struct timespec tick = {.tv_nsec = 1000000};
	uint64_t until = fh_now_ns() + (uint64_t)drain_ms * 1000000u;

	if (atomic_load(&e->state) == FH_ENGINE_STOPPED)
		return;
	atomic_store(&e->state, FH_ENGINE_DRAINING);
	while (!fh_engine_is_empty(e) && fh_now_ns() < until) {
		if (!e->threaded)
			fh_engine_turn(e);
		else
			nanosleep(&tick, NULL);
	}
	atomic_store(&e->cancel_all, 1);
	atomic_store(&e->quit, 1);
	if (e->threaded) {
		fh_engine_kick(e);
		pthread_join(e->thread, NULL);
		e->threaded = false;
	}
	/* What was let in at the last moment. */
	while (!fh_engine_is_empty(e)) {
		atomic_store(&e->scan, 1);
		fh_engine_turn(e);
	}
	fh_touch_stop(&e->touch);
	fh_touch_stop(&e->touch_draft);
	atomic_store(&e->state, FH_ENGINE_STOPPED);
}

bool fh_engine_step(struct fh_engine *e)
{
	assert(!e->threaded);
	return fh_engine_turn(e);
}
