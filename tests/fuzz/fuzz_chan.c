// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: a hostile client of a channel.
 *
 * The first byte chooses.  Even: the rest is one packet of the handshake, as the
 * socket would deliver it.  Odd: the rest is a programme of three-byte steps
 * that write anything into the pages that a client may write, and let the
 * engine's side look, take prompts, draw tokens and end requests in any order.
 * Whatever is written: no entry of the completion ring is overwritten before
 * it was read, the submission head only moves over what was read, each request
 * object ends once, and the channel can always be taken down.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/net/chan_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SQ = 8, CQ = 8, ARENA = 4096, MAX_IN = SQ };

struct world {
	struct fh_chan chan;
	struct fh_request *in[MAX_IN]; /* what the engine has */
	uint32_t nr_in, nr_released, nr_revoked;
	bool full; /* the engine refuses */
};

static struct world *world; /* of the input in hand: the service has one context for the whole process */

static int submit(void *ctx, struct fh_request *r, uint32_t *retry_after_ms, struct fh_err *err)
{
	(void)ctx;
	(void)err;
	assert(r->max_tokens && r->nr_prompt && r->class <= FH_CLASS_BATCH && r->sink == &world->chan.sink);
	assert(r->sampling.temperature >= 0 && r->sampling.top_p > 0 && r->sampling.top_p <= 1);
	if (r->shared_prompt) {
		const char *p = (const char *)r->prompt, *arena = world->chan.area[FH_AREA_ARENA];

		assert(p >= arena && p + (size_t)r->nr_prompt * 4 <= arena + ARENA && !((uintptr_t)p % 4));
	}
	*retry_after_ms = 5;
	if (world->full)
		return -EAGAIN;
	assert(world->nr_in < MAX_IN);
	world->in[world->nr_in++] = r;
	return 0;
}

static void kick(void *ctx)
{
	(void)ctx;
}

static int tokenize(void *ctx, const char *text, size_t bytes, unsigned int flags, uint32_t **ids, uint32_t *nr)
{
	(void)ctx;
	(void)text;
	(void)bytes;
	(void)flags;
	(void)ids;
	(void)nr;
	return -EINVAL; /* its thread does not run here */
}

static void on_kick(struct fh_chan *c)
{
	(void)c;
}

static void on_revoke(struct fh_chan *c, uint32_t reason)
{
	(void)reason;
	assert(c->why);
	world->nr_revoked++;
}

static void on_release(struct fh_chan *c)
{
	(void)c;
	world->nr_released++;
}

static const struct fh_service service = {.submit = submit, .kick = kick, .text.tokenize = tokenize};
static const struct fh_chan_ops ops = {.name = "fuzz", .kick = on_kick, .revoke = on_revoke, .release = on_release};

/* One front end for all inputs; its threads are never started. */
static struct fh_chans *front_end(void)
{
	static struct fh_chans *f;
	const struct fh_chans_config cfg = {.max_channels = 1, .max_text_bytes = 512, .force_epoll = true};
	struct fh_err err;

	if (!f)
		assert(!fh_chans_create(&cfg, &service, &f, &err));
	return f;
}

static void check(const struct fh_chan *c)
{
	assert(c->sink.tail - c->sink.head <= CQ && c->sq_seen - c->sq_head <= SQ && c->nr_used <= SQ);
	assert(atomic_load(c->sq_head_word) == c->sq_head || c->given_up);
	assert(atomic_load(c->sink.tail_word) == c->sink.shown);
}

/* The engine's last word on request @i, after a token if there is room. */
static void finish(struct fh_chans *f, struct world *w, uint32_t i, bool with_token)
{
	struct fh_request *r = w->in[i];

	w->in[i] = w->in[--w->nr_in];
	if (with_token && fh_sink_room(r->sink)) {
		struct fh_cqe *e = fh_sink_reserve(r->sink, r->user_data, false);

		e->slot.flags = FH_SLOT_LAST;
		r->sink_ended = true;
	}
	f->fe.polled->done(&f->fe, r, with_token ? FH_FINISH_STOP : FH_FINISH_CANCELLED, 0);
}

static void write_client(struct world *w, uint8_t where, uint8_t a, uint8_t b)
{
	char *sq = w->chan.area[FH_AREA_SQ], *words = w->chan.area[FH_AREA_CLIENT];
	uint32_t off = (uint32_t)where * 4 + (a & 3), v = b;

	/* Small numbers, all ones, or a byte. */
	if (a & 0x40)
		v = 0u - b;
	memcpy(sq + off % (SQ * FH_SQ_ENTRY_BYTES - 4), &v, a & 0x80 ? 1 : 4);
	if (a & 0x20)
		memcpy(words + off % (3 * FH_LINE_BYTES - 4), &v, 4);
}

/* A descriptor that is good, but for what the programme wrote before or will write. */
static void write_good(struct world *w, uint8_t at, uint8_t flags, uint8_t n)
{
	const float one = 1;
	struct fh_req_desc d = {.size = sizeof(d),
				.flags = flags & 0x1f,
				.user_data = n & 3,
				.prompt_bytes = 4 + 4u * (n & 15),
				.prompt_off = 16u * n,
				.max_tokens = 3};

	memcpy(&d.top_p, &one, 4);
	memcpy(&d.typical_p, &one, 4);
	memcpy(&d.repetition_penalty, &one, 4);
	memcpy((char *)w->chan.area[FH_AREA_SQ] + (at % SQ) * FH_SQ_ENTRY_BYTES, &d, sizeof(d));
}

static void step(struct fh_chans *f, struct world *w, const uint8_t p[3])
{
	char *words = w->chan.area[FH_AREA_CLIENT];
	_Atomic uint32_t *sq_tail = (_Atomic uint32_t *)(words + w->chan.info.sq_tail_off);
	_Atomic uint32_t *cq_head = (_Atomic uint32_t *)(words + w->chan.info.cq_head_off);
	struct fh_sleep_word sleep[2];

	switch (p[0] & 7) {
	case 0: write_client(w, p[0], p[1], p[2]); break;
	case 1: write_good(w, p[0] >> 3, p[1], p[2]); break;
	case 2: atomic_store(sq_tail, atomic_load(sq_tail) + (p[1] & 1 ? p[2] : p[2] % 3)); break;
	case 3: atomic_store(cq_head, atomic_load(cq_head) + (p[1] & 1 ? p[2] : p[2] % 3)); break;
	case 4:
		w->full = p[1] & 1;
		f->fe.polled->poll(&f->fe);
		f->fe.polled->flush(&f->fe);
		break;
	case 5:
		if (w->nr_in)
			f->fe.polled->admitted(&f->fe, w->in[p[1] % w->nr_in]);
		break;
	case 6:
		if (w->nr_in)
			finish(f, w, p[1] % w->nr_in, p[2] & 1);
		f->fe.polled->flush(&f->fe);
		break;
	default:
		/* The tokenizer is done with what it has; somebody sleeps. */
		fh_text_worker_stop(&f->text);
		f->fe.polled->doze(&f->fe, sleep, p[1] & 1);
		f->fe.polled->rise(&f->fe);
		break;
	}
	if (!w->nr_released)
		check(&w->chan);
}

static void run_programme(const uint8_t *data, size_t size)
{
	struct fh_chans *f = front_end();
	struct world w = {.chan.ops = &ops};
	struct fh_err err;
	char *memory;

	world = &w;
	assert(!fh_chan_layout(&w.chan.info, 4096, SQ, CQ, ARENA));
	memory = aligned_alloc(4096, w.chan.info.chan_bytes);
	memset(memory, 0, w.chan.info.chan_bytes);
	for (int i = 0; i < FH_NR_AREAS; i++)
		w.chan.area[i] = memory + w.chan.info.areas[i].off;
	assert(!fh_chan_open(f, &w.chan, &err));
	for (size_t i = 0; i + 3 <= size && !w.nr_released; i += 3)
		step(f, &w, data + i);

	/* However it stands: the client dies, the engine gives back what it has. */
	fh_chan_gone(&w.chan, FH_CHAN_CLIENT_DEAD);
	f->fe.polled->poll(&f->fe);
	while (w.nr_in)
		finish(f, &w, 0, false);
	fh_text_worker_stop(&f->text);
	f->fe.polled->poll(&f->fe);
	f->fe.polled->flush(&f->fe);
	assert(w.nr_released == 1 && w.nr_revoked <= 1 && !f->nr_open && !atomic_load(&f->st.nr_inside));
	free(memory);
}

static void run_packet(const uint8_t *data, size_t size, uint8_t how)
{
	/* A copy of exactly the right size: AddressSanitizer sees a byte too far. */
	uint8_t *copy = malloc(size ? size : 1);
	struct fh_sock_hello hello;
	struct fh_chan_info info = {0};
	struct fh_err err = {0};
	enum fh_sock_stage stage = (how >> 1) % 3;
	int rc;

	memcpy(copy, data, size);
	rc = fh_sock_packet(copy, size, how >> 4 & 3, stage, &hello, &err);
	assert(!rc || ((rc == -EPROTO || rc == -EINVAL) && err.msg[0]));
	if (!rc && stage == FH_STAGE_HELLO) {
		assert(!fh_chan_layout(&info, hello.page_bytes, hello.sq_entries, hello.cq_entries, hello.arena_bytes));
		assert(!fh_chan_check_geometry(&info, &err));
	}
	/* And as a geometry that a kernel might hand us. */
	if (size >= sizeof(info)) {
		memcpy(&info, copy, sizeof(info));
		fh_chan_check_geometry(&info, &err);
	}
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] & 1)
		run_programme(data + 1, size - 1);
	else
		run_packet(data + 1, size - 1, data[0]);
	return 0;
}
