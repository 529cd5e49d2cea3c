/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small real service behind the HTTP front end, for its tests: an engine
 * thread that keeps the contract of runtime/base/request.h to the letter, and
 * a vocabulary of bytes.
 *
 * Token ids 0..255 are bytes, 256 is BOS and 257 EOS; neither has text.  The
 * engine echoes: token i of the output is byte i of the prompt's ids, over and
 * over.  A prompt that holds EOS ends there.  Stop strings cut as in the real
 * engine.
 */
#ifndef FH_TESTS_HTTP_SERVICE_H
#define FH_TESTS_HTTP_SERVICE_H

#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/service.h"
#include "runtime/net/http.h"

#define ECHO_BOS 256u
#define ECHO_EOS 257u
#define ECHO_VOCAB 258u
#define ECHO_DIM 4u
#define ECHO_MAX 4096

struct echo_engine {
	struct fh_service svc;
	struct fh_frontend *fe;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool kicked, stop;
	struct fh_request *active[ECHO_MAX];
	uint32_t nr_active;
	_Atomic uint32_t nr_inside; /* submitted, not given back */
	_Atomic uint32_t max_queue;
	_Atomic uint32_t nr_cancelled, nr_submitted, health, refuse;
	_Atomic uint32_t token_us;   /* pause between steps */
	_Atomic uint32_t hold, held; /* stop stepping; and it did */
	_Atomic uint32_t fail_at;    /* fail instead of this token; 0: never */
	_Atomic uint32_t late_us;    /* refuse deadlines, and say when to come back; 0: take them */
	/* Of the last request. */
	_Atomic uint32_t ttft_us, tpot_us, class;
	_Atomic uint64_t run; /* the first bytes of its run's number; 0: none */
};

/* Text */

static inline int echo_tokenize(void *ctx, const char *text, size_t bytes, unsigned int flags, uint32_t **ids,
				uint32_t *nr)
{
	uint32_t n = 0;

	(void)ctx;
	*ids = malloc((bytes + 1) * sizeof(**ids));
	if (!*ids)
		return -ENOMEM;
	if (flags & FH_TOK_BOS)
		(*ids)[n++] = ECHO_BOS;
	for (size_t i = 0; i < bytes; i++)
		(*ids)[n++] = (unsigned char)text[i];
	*nr = n;
	return 0;
}

static inline size_t echo_need(unsigned char c)
{
	return c < 0x80 ? 1 : c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
}

static inline size_t echo_detok_end(void *ctx, struct fh_detok *d, char *out, size_t cap)
{
	size_t n = d->nr_pending ? 3 : 0;

	(void)ctx;
	if (n && cap >= 3)
		memcpy(out, "\xef\xbf\xbd", 3);
	d->nr_pending = 0;
	return n;
}

static inline size_t echo_detok(void *ctx, struct fh_detok *d, uint32_t id, char *out, size_t cap)
{
	size_t n = 0;

	if (id > 255)
		return 0;
	if (d->nr_pending && (id & 0xc0) != 0x80)
		n = echo_detok_end(ctx, d, out, cap);
	d->pending[d->nr_pending++] = (uint8_t)id;
	if (!echo_need(d->pending[0])) {
		n += echo_detok_end(ctx, d, out + n, cap - n);
	} else if (d->nr_pending == echo_need(d->pending[0])) {
		memcpy(out + n, d->pending, d->nr_pending);
		n += d->nr_pending;
		d->nr_pending = 0;
	}
	return n;
}

static inline size_t echo_token_bytes(void *ctx, uint32_t id, char *out, size_t cap)
{
	(void)ctx;
	(void)cap;
	out[0] = (char)id;
	return id < 256 ? 1 : 0;
}

static inline int echo_template(void *ctx, const char *messages_json, const char *extra_json, bool generation,
				char **text, size_t *bytes, struct fh_err *err)
{
	json_t *list = json_loads(messages_json, JSON_ALLOW_NUL, NULL), *m;
	FILE *out = open_memstream(text, bytes);
	size_t i;

	(void)ctx;
	(void)extra_json;
	json_array_foreach (list, i, m) {
		const char *content = json_string_value(json_object_get(m, "content"));

		if (content && !strcmp(content, "raise"))
			fh_errf(err, -EINVAL, "the template was asked to raise");
		fprintf(out, "<%s>%s", json_string_value(json_object_get(m, "role")), content ? content : "");
	}
	if (generation)
		fprintf(out, "<assistant>");
	fclose(out);
	json_decref(list);
	if (err->code) {
		free(*text);
		return err->code;
	}
	return 0;
}

/* The engine */

static inline void echo_announce(struct fh_request *r, bool done)
{
	struct fh_frontend *fe = r->fe;

	if (done || !atomic_exchange(&r->announced, 1)) {
		while (fh_spsc_push(&fe->ready, (void *)((uintptr_t)r | (done ? FH_READY_DONE : 0))))
			sched_yield();
		if (atomic_exchange(&fe->sleeping, 0))
			fe->wake(fe);
	}
}

static inline uint32_t echo_token(const struct fh_request *r, uint32_t i)
{
	uint32_t skip = r->prompt[0] == ECHO_BOS && r->nr_prompt > 1;

	return r->prompt[skip + i % (r->nr_prompt - skip)];
}

static inline bool echo_starts(const struct fh_request *r, uint32_t i, const struct fh_stop *stop)
{
	for (uint32_t k = 0; k < stop->bytes; k++)
		if (echo_token(r, i + k) != (unsigned char)stop->text[k])
			return false;
	return i + stop->bytes <= r->max_tokens;
}

static inline void echo_finish(struct echo_engine *e, struct fh_request *r, uint32_t nr)
{
	(void)e;
	r->nr_generated = nr;
	r->nr_cached_prompt = r->nr_prompt > 2 ? 2 : 0;
	r->done_ns = fh_now_ns();
	atomic_fetch_sub(&e->nr_inside, 1);
	echo_announce(r, true);
}

/* One token of @r. True when it has ended. */
static inline bool echo_step(struct echo_engine *e, struct fh_request *r)
{
	uint32_t tail = atomic_load(&r->tail), head = atomic_load(&r->head);
	struct fh_slot *slot = &r->slots[tail & (r->nr_slots - 1)];
	bool cut = false, eos;
	float lp = -0.5f;

	if (r->kind == FH_REQ_EMBED) {
		for (uint32_t i = 0; i < ECHO_DIM; i++)
			r->pooled[i] = (float)(r->prompt[0] + i);
		echo_finish(e, r, 0);
		return true;
	}
	if (atomic_load(&r->cancel)) {
		atomic_fetch_add(&e->nr_cancelled, 1);
		echo_finish(e, r, tail);
		return true;
	}
	if (atomic_load(&e->late_us) && r->ttft_us && !tail) {
		r->error = -EAGAIN;
		r->retry_us = atomic_load(&e->late_us);
		echo_finish(e, r, 0);
		return true;
	}
	if (atomic_load(&e->fail_at) && tail >= atomic_load(&e->fail_at)) {
		r->error = -EIO;
		echo_finish(e, r, tail);
		return true;
	}
	if (tail - head == r->nr_slots)
		return false;
	for (uint32_t k = 0; k < r->nr_stop; k++)
		cut |= echo_starts(r, tail, &r->stop[k]);
	*slot = (struct fh_slot){.token = echo_token(r, tail), .stamp = tail + 1};
	eos = slot->token == ECHO_EOS && !r->ignore_eos;
	if (r->sampling.logprobs) {
		slot->flags |= FH_SLOT_LOGPROB;
		memcpy(&slot->logprob, &lp, sizeof(lp));
		for (uint32_t k = 0; r->top && k < r->sampling.nr_top; k++) {
			r->top[(tail & (r->nr_slots - 1)) * r->sampling.nr_top + k] =
				(struct fh_top){.token = 'a' + k, .logprob = slot->logprob};
		}
	}
	if (cut || eos || tail + 1 >= r->max_tokens) {
		slot->flags |= FH_SLOT_LAST | (cut ? FH_SLOT_CUT : 0);
		slot->finish = cut || eos ? FH_FINISH_STOP : FH_FINISH_LENGTH;
	}
	atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
	if (slot->flags & FH_SLOT_LAST) {
		echo_finish(e, r, tail + 1);
		return true;
	}
	echo_announce(r, false);
	return false;
}

static inline void *echo_main(void *arg)
{
	struct echo_engine *e = arg;

	for (;;) {
		bool progress = false;
		struct fh_request *r;

		while (atomic_load(&e->hold)) {
			atomic_store(&e->held, 1);
			usleep(1000);
		}
		while (e->nr_active < ECHO_MAX && (r = fh_spsc_pop(&e->fe->submit)))
			e->active[e->nr_active++] = r;
		for (uint32_t i = 0; i < e->nr_active;) {
			uint32_t tail;

			r = e->active[i];
			tail = atomic_load(&r->tail);
			if (echo_step(e, r)) {
				e->active[i] = e->active[--e->nr_active];
				progress = true;
				continue;
			}
			progress |= atomic_load(&r->tail) != tail;
			i++;
		}
		if (atomic_load(&e->token_us))
			usleep(atomic_load(&e->token_us));
		if (progress)
			continue;
		pthread_mutex_lock(&e->lock);
		while (!e->kicked && !e->stop)
			pthread_cond_wait(&e->more, &e->lock);
		e->kicked = false;
		if (e->stop) {
			pthread_mutex_unlock(&e->lock);
			return NULL;
		}
		pthread_mutex_unlock(&e->lock);
	}
}

static inline void echo_kick(void *ctx)
{
	struct echo_engine *e = ctx;

	pthread_mutex_lock(&e->lock);
	e->kicked = true;
	pthread_cond_signal(&e->more);
	pthread_mutex_unlock(&e->lock);
}

static inline int echo_submit(void *ctx, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err)
{
	struct echo_engine *e = ctx;
	uint64_t run;

	if (atomic_load(&e->refuse))
		return fh_errf(err, -(int)atomic_load(&e->refuse), "refused as asked");
	if (atomic_load(&e->nr_inside) >= e->max_queue) {
		*retry_after_ms = 1500;
		return -EAGAIN;
	}
	atomic_store(&e->ttft_us, r->ttft_us);
	atomic_store(&e->tpot_us, r->tpot_us);
	atomic_store(&e->class, r->class);
	memcpy(&run, r->run_id, sizeof(run));
	atomic_store(&e->run, run);
	atomic_fetch_add(&e->nr_inside, 1);
	atomic_fetch_add(&e->nr_submitted, 1);
	if (fh_spsc_push(&r->fe->submit, r)) {
		atomic_fetch_sub(&e->nr_inside, 1);
		return -EAGAIN;
	}
	echo_kick(e);
	return 0;
}

static inline void echo_metrics(void *ctx, FILE *out)
{
	fprintf(out, "freehold_echo_inside %u\n", atomic_load(&((struct echo_engine *)ctx)->nr_inside));
}

static inline int echo_health(void *ctx)
{
	return -(int)atomic_load(&((struct echo_engine *)ctx)->health);
}

/* @e: zeroed by the caller. */
static inline void echo_init(struct echo_engine *e)
{
	e->max_queue = ECHO_MAX;
	e->svc = (struct fh_service){
		.ctx = e,
		.submit = echo_submit,
		.kick = echo_kick,
		.metrics = echo_metrics,
		.health = echo_health,
		.text = {.ctx = e,
			 .tokenize = echo_tokenize,
			 .detokenize = echo_detok,
			 .detokenize_end = echo_detok_end,
			 .apply_template = echo_template,
			 .token_bytes = echo_token_bytes},
		.model = {.id = "echo/model",
			  .created = 1700000000,
			  .nr_vocab = ECHO_VOCAB,
			  .nr_ctx = 1u << 24,
			  .dim = ECHO_DIM,
			  .has_template = true,
			  .can_embed = true},
	};
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->more, NULL);
}

static inline void echo_start(struct echo_engine *e, struct fh_frontend *fe)
{
	e->fe = fe;
	fh_spsc_init(&fe->submit, ECHO_MAX);
	fh_spsc_init(&fe->ready, 2 * ECHO_MAX);
	pthread_create(&e->thread, NULL, echo_main, e);
}

static inline void echo_stop(struct echo_engine *e)
{
	pthread_mutex_lock(&e->lock);
	e->stop = true;
	pthread_cond_signal(&e->more);
	pthread_mutex_unlock(&e->lock);
	pthread_join(e->thread, NULL);
	fh_spsc_destroy(&e->fe->submit);
	fh_spsc_destroy(&e->fe->ready);
}

#endif /* FH_TESTS_HTTP_SERVICE_H */
