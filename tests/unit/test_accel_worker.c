// SPDX-License-Identifier: Apache-2.0
/*
 * An accelerator in a process of its own, with the CPU inside: the same bits as
 * without, and what becomes of it when the process dies, hangs or says that its
 * device failed.  The model is the built-in one.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/accel/worker.h"
#include "runtime/base/clock.h"
#include "runtime/model/model.h"

#define MODEL "tools/demo/freehold-stories-13M-moe-Q8_0.gguf"
#define NR_PROMPT 12u
#define NR_TOKENS 6u

/* What the accelerator inside shall do, in memory that all processes see. */
enum { WELL, HANG, FAIL, REFUSE_LOAD };
static _Atomic int *mood;
static _Atomic int *nr_loads;
static struct fh_accel_ops moody;

static int moody_submit(struct fh_accel *a, const struct fh_batch *b)
{
	if (*mood == HANG)
		for (;;)
			pause();
	return *mood == FAIL ? -EIO : fh_accel_cpu.submit(a, b);
}

static int moody_load(struct fh_accel *a, const struct fh_model *m, struct fh_err *err)
{
	++*nr_loads;
	return *mood == REFUSE_LOAD ? fh_errf(err, -ENOMEM, "no room for it") : fh_accel_cpu.load(a, m, err);
}

static int moody_open(const struct fh_accel_config *cfg, struct fh_accel **out, struct fh_err *err)
{
	int rc = fh_accel_cpu.open(cfg, out, err);

	if (!rc)
		(*out)->ops = &moody;
	return rc;
}

static void setup(void)
{
	int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(shared, MAP_FAILED);
	mood = (_Atomic int *)shared;
	nr_loads = (_Atomic int *)shared + 1;
	moody = fh_accel_cpu;
	moody.open = moody_open;
	moody.load = moody_load;
	moody.submit = moody_submit;
}

static struct fh_model *open_model(void)
{
	struct fh_err err = {.msg = ""};
	struct fh_model *m;

	cr_assert_eq(fh_model_open(MODEL, &m, &err), 0, "%s", err.msg);
	return m;
}

static const struct fh_accel_config config = {
	.nr_threads = 1, .max_seqs = 2, .max_tokens = 32, .max_logits = 4, .max_blocks_per_seq = 4};

static struct fh_accel *start(struct fh_accel *a, const struct fh_model *m)
{
	struct fh_err err = {.msg = ""};

	cr_assert_eq(a->ops->load(a, m, &err), 0, "%s", err.msg);
	cr_assert_gt(a->ops->kv_block_bytes(a), 0);
	cr_assert_eq(a->ops->kv_alloc(a, 8, &err), 0, "%s", err.msg);
	return a;
}

static struct fh_accel *open_worker(const struct fh_model *m, uint32_t timeout_ms)
{
	const struct fh_worker_config w = {.inner = &moody, .model = m, .step_timeout_ms = timeout_ms};
	struct fh_err err = {.msg = ""};
	struct fh_accel *a;

	cr_assert_eq(fh_worker_open(&w, &config, &a, &err), 0, "%s", err.msg);
	return a;
}

struct result {
	struct fh_slot slots[NR_TOKENS];
	struct fh_top top[NR_TOKENS][3];
	float *logits; /* [NR_TOKENS, vocab] */
};

/* A prompt and some tokens after it, with all that comes out beside them. 0, or what a step said. */
static int generate(struct fh_accel *a, const struct fh_model *m, struct result *r)
{
	static const struct fh_logit_bias bias = {17, 1.5f};
	uint32_t blocks[] = {3, 1, 5, 6}, history[NR_PROMPT + NR_TOKENS], banned[] = {4, 5};
	struct fh_sampling p;

	fh_sampling_default(&p);
	p.seed = 42;
	p.repetition_penalty = 1.2f;
	p.bias = &bias;
	p.nr_bias = 1;
	p.logprobs = true;
	p.nr_top = 3;
	memset(r->slots, 0, sizeof(r->slots));
	for (uint32_t i = 0; i < NR_PROMPT; i++)
		history[i] = 100 + i * 7;
	for (uint32_t i = 0; i < NR_TOKENS; i++) {
		struct fh_batch_seq s = {.seq = 1,
					 .q_len = i ? 1 : NR_PROMPT,
					 .pos = i ? NR_PROMPT + i - 1 : 0,
					 .nr_blocks = 4,
					 .blocks = blocks,
					 .sampling = &p,
					 .index = i,
					 .history = history,
					 .nr_prompt = NR_PROMPT,
					 .nr_history = NR_PROMPT + i,
					 .banned = banned,
					 .nr_banned = 2,
					 .slot = &r->slots[i],
					 .top = r->top[i],
					 .logits = r->logits + (size_t)i * m->nr_vocab};
		struct fh_batch b = {.nr_seqs = 1, .nr_tokens = s.q_len, .tokens = history + s.pos, .seqs = &s};
		int rc;

		s.logits_from = s.q_len - 1;
		rc = a->ops->submit(a, &b);
		if (!rc)
			rc = a->ops->reap(a, true);
		if (rc)
			return rc;
		history[NR_PROMPT + i] = r->slots[i].token;
	}
	return 0;
}

static struct result new_result(const struct fh_model *m)
{
	struct result r = {.logits = calloc(NR_TOKENS * m->nr_vocab, sizeof(float))};

	cr_assert_not_null(r.logits);
	return r;
}

static void expect_same(const struct fh_model *m, const struct result *a, const struct result *b)
{
	cr_expect_eq(memcmp(a->slots, b->slots, sizeof(a->slots)), 0);
	cr_expect_eq(memcmp(a->top, b->top, sizeof(a->top)), 0);
	cr_expect_eq(memcmp(a->logits, b->logits, sizeof(float) * NR_TOKENS * m->nr_vocab), 0);
}

/* Until it is ready again; how often it said that what it held is lost. */
static int wait_ready(struct fh_accel *a)
{
	uint64_t until = fh_now_ns() + 60000000000u;
	int nr_lost = 0, rc;

	while ((rc = a->ops->ready(a)) && fh_now_ns() < until) {
		nr_lost += rc == -EIO;
		usleep(1000);
	}
	cr_assert_eq(rc, 0, "it does not come back");
	return nr_lost;
}

Test(worker, same_bits_as_without, .init = setup)
{
	struct fh_model *m = open_model();
	struct result plain = new_result(m), worker = new_result(m);
	struct fh_accel_info info;
	struct fh_err err;
	struct fh_accel *a;
	uint8_t *block, *again;
	size_t bytes;

	cr_assert_eq(fh_accel_cpu.open(&config, &a, &err), 0);
	cr_assert_eq(generate(start(a, m), m, &plain), 0);
	a->ops->close(a);
	a = start(open_worker(m, 0), m);
	cr_assert_eq(a->ops->ready(a), 0);
	cr_assert_eq(generate(a, m, &worker), 0);
	expect_same(m, &plain, &worker);
	a->ops->info(a, &info);
	cr_expect_eq(info.nr_vocab, m->nr_vocab);
	cr_expect_eq(info.nr_blocks, 8);
	bytes = a->ops->kv_block_bytes(a);
	block = malloc(bytes);
	again = calloc(1, bytes);
	cr_expect_eq(a->ops->kv_swap(a, 3, block, true), 0);
	cr_expect_eq(a->ops->kv_copy(a, 2, 3), 0);
	cr_expect_eq(a->ops->kv_swap(a, 2, again, true), 0);
	cr_expect_eq(memcmp(block, again, bytes), 0);
	cr_expect_eq(a->ops->kv_copy(a, 99, 3), -EINVAL);
	a->ops->close(a);
	free(block);
	free(again);
	free(plain.logits);
	free(worker.logits);
	fh_model_close(m);
}

/* Broken batches are refused, and nothing else happens. */
Test(worker, refuses_broken_batches, .init = setup)
{
	struct fh_model *m = open_model();
	struct fh_accel *a = start(open_worker(m, 0), m);
	uint32_t tokens[64] = {0}, blocks[] = {0, 1, 2, 99};
	struct fh_batch_seq s = {.seq = 0, .q_len = 4, .nr_blocks = 4, .blocks = blocks};
	struct fh_batch b = {.nr_seqs = 1, .nr_tokens = 4, .tokens = tokens, .seqs = &s};
	int pid = fh_worker_pid(a);

	s.seq = 2;
	cr_expect_eq(a->ops->submit(a, &b), -EINVAL);
	s.seq = 0;
	s.nr_blocks = 5;
	cr_expect_eq(a->ops->submit(a, &b), -EINVAL);
	s.nr_blocks = 4;
	s.pos = 100;
	cr_expect_eq(a->ops->submit(a, &b), -EINVAL, "block 99 is none");
	b.nr_tokens = 64;
	cr_expect_eq(a->ops->submit(a, &b), -EINVAL);
	b.nr_tokens = 4;
	s.pos = 0;
	cr_expect_eq(a->ops->submit(a, &b), 0);
	cr_expect_eq(a->ops->submit(a, &b), -EINVAL, "one step at a time");
	cr_expect_eq(a->ops->reap(a, true), 0);
	cr_expect_eq(a->ops->ready(a), 0);
	cr_expect_eq(fh_worker_pid(a), pid);
	a->ops->close(a);
	fh_model_close(m);
}

static void check_comes_back(int what, uint32_t timeout_ms)
{
	struct fh_model *m = open_model();
	struct result before = new_result(m), after = new_result(m);
	struct fh_accel *a = start(open_worker(m, timeout_ms), m);
	int pid = fh_worker_pid(a);

	cr_assert_eq(generate(a, m, &before), 0);
	*mood = what;
	cr_expect_eq(generate(a, m, &after), -EIO);
	cr_expect_eq(generate(a, m, &after), -EIO, "as long as nobody has asked whether it is ready");
	*mood = WELL;
	/* The step said it: the engine is not told twice. */
	cr_expect_eq(wait_ready(a), 0);
	cr_expect_neq(fh_worker_pid(a), pid);
	cr_expect_eq(*nr_loads, 2);
	cr_assert_eq(generate(a, m, &after), 0);
	expect_same(m, &before, &after);
	a->ops->close(a);
	free(before.logits);
	free(after.logits);
	fh_model_close(m);
}

Test(worker, a_step_that_hangs, .init = setup)
{
	check_comes_back(HANG, 300);
}

Test(worker, a_device_that_fails, .init = setup)
{
	check_comes_back(FAIL, 0);
}

Test(worker, dies_while_nothing_runs, .init = setup)
{
	struct fh_model *m = open_model();
	struct result r = new_result(m);
	struct fh_accel *a = start(open_worker(m, 0), m);
	int rc;

	cr_assert_eq(kill(fh_worker_pid(a), SIGKILL), 0);
	while (!(rc = a->ops->ready(a)))
		usleep(100); /* nobody has noticed yet */
	cr_expect_eq(rc, -EIO);
	cr_expect_eq(wait_ready(a), 0, "it says so once");
	cr_expect_eq(generate(a, m, &r), 0);
	a->ops->close(a);
	free(r.logits);
	fh_model_close(m);
}

/* The model does not fit any more: it is tried again until it does. */
Test(worker, loads_again_when_it_can, .init = setup)
{
	struct fh_model *m = open_model();
	struct result r = new_result(m);
	struct fh_accel *a = start(open_worker(m, 0), m);

	*mood = REFUSE_LOAD;
	cr_assert_eq(kill(fh_worker_pid(a), SIGKILL), 0);
	while (*nr_loads < 3)
		usleep(1000);
	cr_expect_neq(a->ops->ready(a), 0);
	*mood = WELL;
	wait_ready(a);
	cr_expect_eq(generate(a, m, &r), 0);
	a->ops->close(a);
	free(r.logits);
	fh_model_close(m);
}

/* What fails at the start is the caller's to know, with the reason. */
Test(worker, tells_why_it_does_not_start, .init = setup)
{
	struct fh_model *m = open_model();
	struct fh_accel_config bad = config;
	struct fh_worker_config w = {.inner = &moody, .model = m};
	struct fh_err err = {.msg = ""};
	struct fh_accel *a;

	bad.max_seqs = 0;
	cr_expect_eq(fh_worker_open(&w, &bad, &a, &err), -EINVAL);
	cr_expect_not_null(strstr(err.msg, "max_seqs is 0"), "%s", err.msg);
	*mood = REFUSE_LOAD;
	a = open_worker(m, 0);
	cr_expect_eq(a->ops->load(a, m, &err), -ENOMEM);
	cr_expect_str_eq(err.msg, "no room for it");
	a->ops->close(a);
	fh_model_close(m);
}
