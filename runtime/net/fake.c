// SPDX-License-Identifier: Apache-2.0
/*
 * The fake front end; fake.h says how to use it.
 *
 * It keeps the rules of runtime/base/request.h like any other front end: clear
 * `announced` before reading the tail, look once more before sleeping, and
 * kick the engine after making room in a full ring.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/futex.h"
#include "runtime/net/fake.h"

#define SPIN_NS 20000

struct fh_fake {
	struct fh_frontend fe;
	struct fh_service svc;
	bool (*pump)(void *ctx);
	void *pump_ctx;
	struct fh_fake_call open; /* head of the ring of open calls */
	uint32_t nr_open;
	bool skipped; /* slots of a held call were left unread */
	uint64_t last_id;
	struct fh_request *early; /* taken from `ready` while going to sleep */
	bool early_done;
	_Alignas(64) _Atomic uint32_t nr_wakes;
};

static void wake(struct fh_frontend *fe)
{
	struct fh_fake *f = (struct fh_fake *)((char *)fe - offsetof(struct fh_fake, fe));

	atomic_fetch_add(&f->nr_wakes, 1);
	fh_futex_wake(&f->nr_wakes, 1);
}

int fh_fake_create(const struct fh_service *svc, struct fh_fake **out, struct fh_err *err)
{
	struct fh_fake *f = aligned_alloc(_Alignof(struct fh_fake), sizeof(*f));

	if (!f)
		return fh_errf(err, -ENOMEM, "fake front end: out of memory");
	memset(f, 0, sizeof(*f));
	f->svc = *svc;
	f->fe.name = "fake";
	f->fe.wake = wake;
	f->open.next = f->open.prev = &f->open;
	*out = f;
	return 0;
}

static void free_call(struct fh_fake *f, struct fh_fake_call *call)
{
	call->prev->next = call->next;
	call->next->prev = call->prev;
	f->nr_open--;
	if (call->owns_slots)
		free(call->req.slots);
	if (call->owns_top)
		free(call->req.top);
	call->req.slots = call->owns_slots ? NULL : call->req.slots;
	call->req.top = call->owns_top ? NULL : call->req.top;
	call->owns_slots = call->owns_top = false;
}

void fh_fake_destroy(struct fh_fake *f)
{
	if (!f)
		return;
	while (f->open.next != &f->open)
		free_call(f, f->open.next);
	free(f);
}

struct fh_frontend *fh_fake_frontend(struct fh_fake *f)
{
	return &f->fe;
}

void fh_fake_set_pump(struct fh_fake *f, bool (*pump)(void *ctx), void *ctx)
{
	f->pump = pump;
	f->pump_ctx = ctx;
}

void fh_fake_call_init(struct fh_fake_call *call)
{
	memset(call, 0, sizeof(*call));
	fh_sampling_default(&call->req.sampling);
	call->req.sampling.temperature = 0;
}

int fh_fake_submit(struct fh_fake *f, struct fh_fake_call *call, uint32_t *retry_after_ms, struct fh_err *err)
{
	struct fh_request *r = &call->req;
	int ret = -ENOMEM;

	call->done = call->ended = false;
	call->finish = FH_FINISH_NONE;
	/* The answer goes on after a prompt: its first word keeps its space. */
	call->detok = (struct fh_detok){.started = true};
	call->owns_slots = call->owns_top = false;
	r->id = ++f->last_id;
	r->fe = &f->fe;
	r->fe_private = call;
	if (!r->nr_slots)
		r->nr_slots = FH_FAKE_SLOTS;
	if (!r->slots) {
		r->slots = calloc(r->nr_slots, sizeof(*r->slots));
		call->owns_slots = true;
		if (!r->slots)
			goto err_free;
	}
	if (!r->top && r->sampling.nr_top) {
		r->top = calloc((size_t)r->nr_slots * r->sampling.nr_top, sizeof(*r->top));
		call->owns_top = true;
		if (!r->top)
			goto err_free;
	}
	call->prev = f->open.prev;
	call->next = &f->open;
	call->prev->next = call;
	f->open.prev = call;
	f->nr_open++;
	call->submit_ns = fh_now_ns();
	ret = f->svc.submit(f->svc.ctx, r, retry_after_ms, err);
	if (ret)
		free_call(f, call);
	return ret;

err_free:
	if (call->owns_slots) {
		free(r->slots);
		r->slots = NULL;
	}
	return fh_errf(err, ret, "fake front end: no memory for %u token slots", r->nr_slots);
}

static void put_text(struct fh_fake *f, struct fh_fake_call *call, const struct fh_slot *slot)
{
	char text[FH_DETOK_MAX];
	size_t n = 0, held = call->detok.nr_pending;

	if (!(slot->flags & FH_SLOT_NO_TOKEN))
		n = f->svc.text.detokenize(f->svc.text.ctx, &call->detok, slot->token, text, sizeof(text));
	if (slot->flags & FH_SLOT_CUT && n > held + slot->cut_bytes)
		n = held + slot->cut_bytes;
	if (n)
		call->on_text(call->ctx, text, n);
	if (!(slot->flags & FH_SLOT_LAST) || slot->flags & FH_SLOT_CUT)
		return;
	n = f->svc.text.detokenize_end(f->svc.text.ctx, &call->detok, text, sizeof(text));
	if (n)
		call->on_text(call->ctx, text, n);
}

/* Hand out what has been published, and give the slots back. */
static bool read_slots(struct fh_fake *f, struct fh_fake_call *call)
{
	struct fh_request *r = &call->req;
	uint32_t first = atomic_load_explicit(&r->head, memory_order_relaxed), head = first;
	uint32_t tail = atomic_load(&r->tail);

	if (call->hold && !call->ended) {
		f->skipped = true;
		return false;
	}
	for (; head != tail; head++) {
		const struct fh_slot *slot = &r->slots[head & (r->nr_slots - 1)];
		const struct fh_top *top =
			r->top ? r->top + (size_t)(head & (r->nr_slots - 1)) * r->sampling.nr_top : NULL;

		if (slot->flags & FH_SLOT_LAST)
			call->finish = slot->finish;
		if (call->on_slot && call->on_slot(call->ctx, slot, top))
			fh_fake_cancel(f, call);
		if (call->on_text)
			put_text(f, call, slot);
	}
	if (head == first)
		return false;
	atomic_store(&r->head, head);
	/* Read the tail again: the engine may have filled the ring meanwhile, and looked at the head before this. */
	if (atomic_load(&r->tail) - first >= r->nr_slots)
		f->svc.kick(f->svc.ctx);
	return true;
}

static bool take_ready(struct fh_fake *f)
{
	bool done = f->early_done;
	struct fh_request *r = f->early;
	struct fh_fake_call *call;

	f->early = NULL;
	if (!r) {
		void *entry = fh_spsc_pop(&f->fe.ready);

		if (!entry)
			return false;
		r = fh_ready_entry(entry, &done);
	}
	call = r->fe_private;
	atomic_exchange(&r->announced, 0);
	call->ended |= done;
	read_slots(f, call);
	if (!done)
		return true;
	if (call->finish == FH_FINISH_NONE)
		call->finish = r->error			 ? FH_FINISH_ERROR
			       : r->kind == FH_REQ_EMBED ? FH_FINISH_STOP
							 : FH_FINISH_CANCELLED;
	free_call(f, call);
	call->done = true;
	if (call->on_done)
		call->on_done(call->ctx, call);
	return true;
}

/* True when something became ready within a few microseconds. */
static bool look(struct fh_fake *f)
{
	void *entry = fh_spsc_pop(&f->fe.ready);

	if (entry)
		f->early = fh_ready_entry(entry, &f->early_done);
	return entry;
}

static void wait_ready(struct fh_fake *f)
{
	uint64_t until = fh_now_ns() + SPIN_NS;
	uint32_t nr_wakes;

	do {
		for (int i = 0; i < 16; i++) {
			if (look(f))
				return;
			fh_cpu_relax();
		}
	} while (fh_now_ns() < until);
	nr_wakes = atomic_load(&f->nr_wakes);
	atomic_store(&f->fe.sleeping, 1);
	if (!look(f))
		fh_futex_wait(&f->nr_wakes, nr_wakes, 0);
	atomic_store(&f->fe.sleeping, 0);
}

uint32_t fh_fake_poll(struct fh_fake *f, bool wait)
{
	bool any = false;

	/* Calls that were held and no longer are will perhaps not be announced again. */
	if (f->skipped) {
		f->skipped = false;
		for (struct fh_fake_call *call = f->open.next; call != &f->open; call = call->next)
			any |= read_slots(f, call);
	}
	while (take_ready(f))
		any = true;
	if (!wait || any || !f->nr_open)
		return f->nr_open;
	if (f->pump)
		f->pump(f->pump_ctx);
	else
		wait_ready(f);
	while (take_ready(f))
		;
	return f->nr_open;
}

void fh_fake_cancel(struct fh_fake *f, struct fh_fake_call *call)
{
	atomic_store(&call->req.cancel, 1);
	f->svc.kick(f->svc.ctx);
}

int fh_fake_wait(struct fh_fake *f, struct fh_fake_call *call)
{
	while (!call->done)
		fh_fake_poll(f, true);
	return call->req.error;
}

int fh_fake_run(struct fh_fake *f, struct fh_fake_call *call, struct fh_err *err)
{
	int ret = fh_fake_submit(f, call, NULL, err);

	if (ret)
		return ret;
	ret = fh_fake_wait(f, call);
	if (ret)
		fh_errf(err, ret, "the engine gave the request up: %s", strerror(-ret));
	return ret;
}
