// SPDX-License-Identifier: Apache-2.0
/*
 * Channels, seen by a well-behaved client: its tokens are what they must be,
 * however small the rings are, however either side sleeps, whoever is beside
 * it; and what is copied on the way is what is said to be.
 */
#include "runtime/engine/engine_priv.h" /* its counters */
#include "tests/unit/chan_rig.h"

#define MODEL "tools/demo/freehold-stories-13M-moe-Q8_0.gguf"

enum { NR_CTX = 1024 };

static const struct fh_chans_config plain;

/* Every ring size, every way to sleep, with and without guesses, with and without memory: the oracle's tokens. */
Test(chan, tokens_are_what_they_must_be)
{
	static const uint32_t sizes[][2] = {{1, 1}, {1, 2}, {2, 1}, {4, 8}, {16, 64}, {64, 4096}};

	for (int kind = 0; kind < 8; kind++) {
		struct fh_chans_config cc = {.no_futex = kind & 1, .force_epoll = kind & 1};
		struct fh_engine_config cfg = kind & 2 ? rig_config_guessing() : rig_config();
		struct rng r = {77 + (uint64_t)kind};
		struct fh_engine_stats st;
		struct fh_chans_stats cs;
		struct chan_rig rig;
		uint64_t nr_ids = 0;

		if (kind & 4) {
			/* They push each other out. */
			cfg.nr_ctx = 288;
			cfg.nr_blocks = 10;
		}
		chan_rig_open(&rig, cfg, cc);
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			for (enum client_sleep how = CLIENT_SPIN; how <= CLIENT_SOCKET; how++) {
				struct client c;

				client_open(&c, chan_rig_url(&rig), sizes[i][0], sizes[i][1], 1 << 16);
				c.how = how;
				nr_ids += work_run(&c, &r, 12, sizes[i][0] < 8 ? sizes[i][0] : 8, cfg.nr_ctx);
				client_close(&c);
			}
		}
		cr_assert(soon(2000, (fh_chans_stats(rig.f, &cs), !cs.nr_open)), "%u channels are left", cs.nr_open);
		fh_engine_stats(rig.g.e, &st);
		cr_assert_eq(st.nr_blocks_free + st.nr_blocks_cached, st.nr_blocks);
		cr_assert_eq(cs.nr_requests, 12u * 18);
		cr_assert_eq(cs.nr_violations + cs.nr_request_errors + cs.nr_refused, 0u);
		if (kind & 4)
			cr_assert_gt(st.nr_preempted, 0);
		if (kind & 2) {
			cr_assert_gt(st.accepted_tokens, 100);
			cr_assert_gt(cs.copied_bytes, nr_ids * 4, "tokens of guessing sequences are copied");
		} else {
			/* The prompt once, and no token. */
			cr_assert_eq(cs.copied_bytes, nr_ids * 4);
			cr_assert_eq(st.copied_bytes, nr_ids * 4);
		}
		if (kind & 1)
			cr_assert_gt(cs.nr_kicks_in, 0u);
		chan_rig_close(&rig);
	}
}

/* The client learns of the model and of its channel before it maps anything of its own. */
Test(chan, geometry_and_vocabulary)
{
	struct chan_rig rig;
	struct fh_vocab *v;
	struct client c, d;
	uint32_t *off;
	char buf[FH_DETOK_MAX];

	chan_rig_open(&rig, rig_config(), plain);
	client_open(&c, chan_rig_url(&rig), 8, 32, 10000);
	cr_assert(c.info.magic == FH_CHAN_MAGIC && c.info.sq_entries == 8 && c.info.cq_entries == 32);
	cr_assert_eq(c.info.arena_bytes, 10000);
	cr_assert_eq(client_state(&c), FH_CHAN_OPEN);
	v = mmap(NULL, 1 << 16, PROT_READ, MAP_SHARED, c.vocab_fd, 0);
	cr_assert_neq((void *)v, MAP_FAILED);
	cr_assert(v->magic == FH_VOCAB_MAGIC && v->nr_tokens == NR_VOCAB && v->nr_ctx == NR_CTX);
	cr_assert(v->model_bytes == 6 && !memcmp((char *)v + v->model_bytes_off, "oracle", 6));
	off = (uint32_t *)((char *)v + v->off_off);
	for (uint32_t i = 0; i < NR_VOCAB; i++) {
		size_t n = fh_token_bytes(rig.g.tok, i, false, buf, sizeof(buf));

		cr_assert_eq(off[i + 1] - off[i], n);
		cr_assert_arr_eq((char *)v + v->bytes_off + off[i], buf, n);
	}
	munmap(v, 1 << 16);
	/* A file of its own each: nobody moves another's position, or has a right to write. */
	cr_assert_eq(fcntl(c.vocab_fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	cr_assert_eq(lseek(c.vocab_fd, 100, SEEK_SET), 100);
	client_open(&d, chan_rig_url(&rig), 8, 32, 10000);
	cr_assert_eq(lseek(d.vocab_fd, 0, SEEK_CUR), 0);
	client_close(&d);
	client_close(&c);
	chan_rig_close(&rig);
}

/* Who is there: the process itself, as the kernel says, with the time at which it began. */
Test(chan, the_peer_is_this_process)
{
	struct fh_peer p;
	int fd[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fd), 0);
	cr_assert_eq(fh_chan_peer(fd[0], &p), 0);
	cr_assert(p.pid == (uint32_t)getpid() && p.uid == geteuid() && p.gid == getegid());
	cr_assert(p.flags & FH_PEER_VALID);
	/* Later than the boot, not later than now. */
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	cr_assert(p.start_boottime_ns > 0 && p.start_boottime_ns <= (uint64_t)now.tv_sec * 1000000000u + 999999999u);
	close(fd[0]);
	close(fd[1]);
}

struct fake_out {
	uint32_t ids[256], nr;
};

static int take_id(void *ctx, const struct fh_slot *slot, const struct fh_top *top)
{
	struct fake_out *o = ctx;

	(void)top;
	if (!(slot->flags & FH_SLOT_NO_TOKEN))
		o->ids[o->nr++] = slot->token;
	return 0;
}

/* On files: the greedy tokens of a channel are those of the fake front end. */
static void compare_with_fake(const char *path, uint32_t max_tokens)
{
	static const char text[] = "Once upon a time, there was a";
	struct fake_out want = {0};
	struct fh_fake_call call;
	struct chan_rig rig;
	struct client c;
	uint32_t *ids, nr, n = 0;
	struct fh_req_desc d;
	struct fh_err err = {0};
	struct fh_cqe e;

	chan_rig_open_model(&rig, path, plain);
	cr_assert_eq(fh_tokenize(rig.g.tok, text, strlen(text), FH_TOK_BOS | FH_TOK_SPECIAL, &ids, &nr), 0);
	fh_fake_call_init(&call);
	call.req.prompt = ids;
	call.req.nr_prompt = nr;
	call.req.max_tokens = max_tokens;
	call.on_slot = take_id;
	call.ctx = &want;
	cr_assert_eq(fh_fake_run(rig.g.f, &call, &err), 0, "%s", err.msg);
	client_open(&c, chan_rig_url(&rig), 4, 64, 1 << 16);
	c.how = CLIENT_FUTEX;
	/* Once as ids, once as text. */
	for (int as_text = 0; as_text < 2; as_text++) {
		memcpy(client_arena(&c), as_text ? (const void *)text : ids, as_text ? strlen(text) : nr * 4);
		d = client_desc(7, 0, nr, max_tokens);
		if (as_text) {
			d.flags = FH_REQ_TEXT;
			d.prompt_bytes = (uint32_t)strlen(text);
		}
		client_submit(&c, &d);
		for (n = 0;; n++) {
			cr_assert(client_next(&c, &e));
			cr_assert(e.user_data == 7 && !e.error, "error %d", e.error);
			if (!(e.slot.flags & FH_SLOT_NO_TOKEN))
				cr_assert_eq(e.slot.token, want.ids[n], "token %u: %u, not %u", n, e.slot.token,
					     want.ids[n]);
			if (e.slot.flags & FH_SLOT_LAST)
				break;
		}
		cr_assert_eq(e.slot.finish, call.finish);
		cr_assert_eq(n + !(e.slot.flags & FH_SLOT_NO_TOKEN), want.nr);
	}
	free(ids);
	client_close(&c);
	chan_rig_close(&rig);
}

Test(chan, a_real_model_says_what_it_says_elsewhere)
{
	compare_with_fake(MODEL, 24);
}

Test(chan, the_null_model_echoes)
{
	compare_with_fake("null:" MODEL, 100);
}

/* What is wrong comes back under its user_data, in the ring; the channel goes on. */
Test(chan, wrong_descriptors_are_answered)
{
	static const float nan = __builtin_nanf(""), minus = -1, two = 2;
	struct fh_req_desc good = client_desc(0, 0, 4, 3), d[20];
	struct chan_rig rig;
	struct client c;
	struct fh_cqe e;
	uint32_t nr = 0;

	chan_rig_open(&rig, rig_config(), plain);
	client_open(&c, chan_rig_url(&rig), 32, 64, 4096);
	for (int i = 0; i < 8; i++)
		client_arena(&c)[i] = 10;
	client_arena(&c)[100] = NR_VOCAB;
	for (int i = 0; i < 20; i++)
		d[i] = good;
	d[nr++].size = 119;
	d[nr++].size = 129;
	d[nr++].flags = 0x80000000;
	d[nr++].prompt_bytes = 0;
	d[nr++].prompt_bytes = 5;
	d[nr++].prompt_off = 2;
	d[nr++].prompt_off = 4096;
	d[nr++].prompt_off = UINT64_MAX - 3;
	d[nr++].prompt_bytes = 8192;
	d[nr++].prompt_bytes = UINT32_MAX & ~3u;
	d[nr++].max_tokens = 0;
	d[nr++].req_class = 3;
	d[nr++].__reserved[2] = 1;
	memcpy(&d[nr++].temperature, &nan, 4);
	memcpy(&d[nr++].temperature, &minus, 4);
	memcpy(&d[nr++].top_p, &two, 4);
	d[nr++].typical_p = 0;
	d[nr++].prompt_off = 400; /* an id that is none, found in the snapshot */
	for (uint32_t i = 0; i < nr; i++) {
		d[i].user_data = 1000 + i;
		client_submit(&c, &d[i]);
	}
	for (uint32_t i = 0; i < nr; i++) {
		cr_assert(client_next(&c, &e));
		cr_assert_eq(e.error, -EINVAL, "descriptor %llu: error %d", (unsigned long long)e.user_data, e.error);
		cr_assert_eq(e.slot.finish, FH_FINISH_ERROR);
		cr_assert_eq(e.slot.flags, FH_SLOT_LAST | FH_SLOT_NO_TOKEN);
		cr_assert(e.user_data >= 1000 && e.user_data < 1000 + nr);
	}
	/* A prompt that does not fit the context. */
	good.user_data = 5;
	good.prompt_bytes = 4096;
	client_submit(&c, &good);
	cr_assert(client_next(&c, &e));
	cr_assert(e.user_data == 5 && e.error == -E2BIG, "error %d", e.error);
	good.prompt_bytes = 16;
	client_submit(&c, &good);
	cr_assert(client_next(&c, &e));
	cr_assert(!e.error && !(e.slot.flags & FH_SLOT_NO_TOKEN));
	client_close(&c);
	chan_rig_close(&rig);
}

/* Without room in the queue: -EAGAIN, and when to come back. */
Test(chan, refusals_say_when)
{
	struct fh_engine_config cfg = rig_config();
	uint32_t nr_again = 0, nr_ended = 0;
	struct chan_rig rig;
	struct client c;
	struct fh_cqe e;

	cfg.max_queue = 1;
	cfg.max_seqs = 1;
	chan_rig_open(&rig, cfg, plain);
	client_open(&c, chan_rig_url(&rig), 16, 4096, 4096);
	for (int i = 0; i < 4; i++)
		client_arena(&c)[i] = 10;
	for (uint32_t i = 0; i < 16; i++) {
		struct fh_req_desc d = client_desc(i, 0, 4, 100);

		d.flags = FH_REQ_IGNORE_EOS;
		client_submit(&c, &d);
	}
	while (nr_ended < 16) {
		cr_assert(client_next(&c, &e));
		if (!(e.slot.flags & FH_SLOT_LAST))
			continue;
		nr_ended++;
		if (e.error) {
			cr_assert_eq(e.error, -EAGAIN);
			cr_assert_gt(e.retry_us, 0u);
			nr_again++;
		}
	}
	cr_assert(nr_again > 0 && nr_again < 16, "%u refused", nr_again);
	client_close(&c);
	chan_rig_close(&rig);
}

/* A device whose steps take a millisecond at least. */
static void work_a_while(void *ctx)
{
	uint64_t until_ns = fh_now_ns() + 1000000;

	(void)ctx;
	while (fh_now_ns() < until_ns)
		;
}

/* What a descriptor says of deadlines and class reaches the scheduler, and its refusal comes back whole. */
Test(chan, deadlines)
{
	struct fh_engine_config cfg = rig_config();
	uint32_t nr_kept = 0, nr_refused = 0;
	struct chan_rig rig = {0};
	struct client c;

	cfg.class[FH_CLASS_INTERACTIVE] = (struct fh_sched_class){.ttft_us = 100, .tpot_us = 100};
	rig_open(&rig.g, cfg);
	rig.g.o->in_step = work_a_while;
	chan_rig_text(&rig, NR_VOCAB, cfg.nr_ctx, "oracle");
	chan_rig_start(&rig, plain);
	client_open(&c, chan_rig_url(&rig), 8, 64, 4096);
	for (int i = 0; i < 4; i++)
		client_arena(&c)[i] = 10;
	/* One at a time; the first ones teach what steps cost. */
	for (uint32_t i = 0; i < 24; i++) {
		struct fh_req_desc d = client_desc(i, 0, 4, 5);
		struct fh_cqe e;

		d.flags = FH_REQ_IGNORE_EOS;
		if (i >= 8 && i % 4 == 0)
			d.ttft_us = 100;
		if (i >= 8 && i % 4 == 1)
			d.req_class = FH_CLASS_INTERACTIVE;
		if (i >= 8 && i % 4 == 2)
			d.ttft_us = d.tpot_us = 3600000000u;
		/* Not even what its class asks for. */
		if (i >= 8 && i % 4 == 3) {
			d.req_class = FH_CLASS_INTERACTIVE;
			d.ttft_us = d.tpot_us = UINT32_MAX;
		}
		client_submit(&c, &d);
		do
			cr_assert(client_next(&c, &e));
		while (!(e.slot.flags & FH_SLOT_LAST));
		cr_assert_eq(e.user_data, i);
		if (i >= 8 && i % 4 < 2) {
			cr_assert_eq(e.slot.finish, FH_FINISH_DEADLINE);
			cr_assert_eq(e.error, -EAGAIN);
			cr_assert_geq(e.retry_us, 1000u);
			cr_assert_eq(e.slot.flags, FH_SLOT_LAST | FH_SLOT_NO_TOKEN);
			nr_refused++;
		} else {
			cr_assert(!e.error && e.slot.finish == FH_FINISH_LENGTH, "%u: error %d", i, e.error);
			nr_kept++;
		}
	}
	cr_assert(nr_kept == 16 && nr_refused == 8);
	cr_assert_eq(atomic_load(&rig.g.e->st.ttft_kept), 4);
	cr_assert_eq(atomic_load(&rig.g.e->st.tpot_kept), 4, "a mean an answer");
	client_close(&c);
	fh_chans_stop(rig.f, 2000);
	fh_engine_stop(rig.g.e, 0);
	/* The channel's user is who pays. */
	cr_assert_gt(rig.g.e->sched.tenants.served[(FH_TENANT_UID | geteuid()) % FH_SCHED_TENANTS], 0);
	chan_rig_close(&rig);
}

/* The device fails a step: its requests end with that, and what comes later runs. */
Test(chan, a_failed_step_is_told)
{
	struct fh_engine_config cfg = rig_config();
	struct chan_rig rig = {0};
	struct rng r = {8};
	struct client c;
	uint32_t nr_ended = 0;

	rig_open(&rig.g, cfg);
	rig.g.o->fail_at = 6;
	chan_rig_text(&rig, NR_VOCAB, cfg.nr_ctx, "oracle");
	chan_rig_start(&rig, plain);
	client_open(&c, chan_rig_url(&rig), 8, 64, 1 << 14);
	for (int i = 0; i < 4; i++)
		client_arena(&c)[i] = 10;
	for (uint32_t i = 0; i < 4; i++) {
		struct fh_req_desc d = client_desc(i, 0, 4, 100);

		d.flags = FH_REQ_IGNORE_EOS;
		client_submit(&c, &d);
	}
	while (nr_ended < 4) {
		struct fh_cqe e;

		cr_assert(client_next(&c, &e));
		if (!(e.slot.flags & FH_SLOT_LAST))
			continue;
		/* Who came after it is not hurt. */
		if (e.error || !nr_ended) {
			cr_assert_eq(e.error, -EIO, "error %d", e.error);
			cr_assert_eq(e.slot.finish, FH_FINISH_ERROR);
			cr_assert(e.slot.flags & FH_SLOT_NO_TOKEN);
		}
		nr_ended++;
	}
	work_run(&c, &r, 10, 8, cfg.nr_ctx);
	client_close(&c);
	chan_rig_close(&rig);
}

/* A request ends when it is asked to, wherever it is, and what it held is free. */
Test(chan, cancel)
{
	struct fh_engine_config cfg = rig_config();
	struct fh_req_desc stop = {.size = sizeof(stop), .flags = FH_REQ_CANCEL, .user_data = 1};
	struct fh_engine_stats st;
	struct chan_rig rig;

	cfg.max_seqs = 1;
	chan_rig_open(&rig, cfg, plain);
	for (int waits = 0; waits < 2; waits++) {
		struct fh_req_desc d = client_desc(1, 0, 4, 900), first = client_desc(2, 0, 4, 900);
		struct client c;
		struct fh_cqe e;

		client_open(&c, chan_rig_url(&rig), 8, 16, 4096);
		for (int i = 0; i < 4; i++)
			client_arena(&c)[i] = 10;
		d.flags = first.flags = FH_REQ_IGNORE_EOS;
		if (waits)
			client_submit(&c, &first);
		client_submit(&c, &d);
		cr_assert(client_next(&c, &e));
		client_submit(&c, &stop);
		do
			cr_assert(client_next(&c, &e));
		while (e.user_data != 1 || !(e.slot.flags & FH_SLOT_LAST));
		cr_assert_eq(e.slot.finish, FH_FINISH_CANCELLED);
		cr_assert_eq(e.error, 0);
		if (waits)
			cr_assert_eq(e.slot.stamp, 1, "it never ran");
		stop.user_data = 2;
		client_submit(&c, &stop);
		stop.user_data = 1;
		cr_assert(soon(5000,
			       (client_poll(&c, &e), fh_engine_stats(rig.g.e, &st), !st.nr_running && !st.nr_waiting)));
		cr_assert_eq(st.nr_blocks_free + st.nr_blocks_cached, st.nr_blocks);
		client_close(&c);
	}
	chan_rig_close(&rig);
}

/* A client that reads nothing stops only itself; when it reads, nothing is missing. */
Test(chan, a_slow_reader_stops_only_itself)
{
	struct fh_engine_config cfg = rig_config();
	struct client slow, quick;
	struct chan_rig rig;
	struct work w[4];
	struct rng r = {5};
	uint32_t nr_ended = 0;

	chan_rig_open(&rig, cfg, plain);
	client_open(&slow, chan_rig_url(&rig), 4, 2, 1 << 16);
	client_open(&quick, chan_rig_url(&rig), 4, 64, 1 << 16);
	slow.how = quick.how = CLIENT_FUTEX;
	for (uint32_t i = 0; i < 4; i++) {
		work_random(&w[i], &r);
		w[i].max_tokens = 60;
		w[i].budget = 0;
		work_submit(&slow, &w[i], i);
	}
	cr_assert(soon(5000, atomic_load(slow.cq_tail) == 2));
	work_run(&quick, &r, 40, 4, cfg.nr_ctx);
	cr_assert_eq(atomic_load(slow.cq_tail), 2u, "the ring was overrun");
	while (nr_ended < 4) {
		struct fh_cqe e;

		cr_assert(client_next(&slow, &e));
		nr_ended += work_take(&w[e.user_data], &e, cfg.nr_ctx);
	}
	client_close(&slow);
	client_close(&quick);
	chan_rig_close(&rig);
}

/* Milliseconds until there is a completion, asleep on the futex or on the socket, without looking in between. */
static uint64_t sleep_until_token(struct client *c)
{
	const struct timespec ts = {.tv_sec = 5};
	struct pollfd pfd = {c->fd, POLLIN, 0};
	uint64_t begin = fh_now_ns();
	struct fh_sock_refused p;

	atomic_store(c->client_flags, c->how == CLIENT_FUTEX ? FH_RING_NEED_FUTEX : FH_RING_NEED_WAKEUP);
	if (atomic_load(c->cq_tail) == c->head) {
		if (c->how == CLIENT_FUTEX)
			syscall(SYS_futex, c->cq_tail, FUTEX_WAIT, c->head, &ts, NULL, 0);
		else
			cr_assert_eq(poll(&pfd, 1, 5000), 1, "no kick");
	}
	atomic_store(c->client_flags, 0);
	while (c->how == CLIENT_SOCKET && recv(c->fd, &p, sizeof(p), MSG_DONTWAIT) > 0)
		;
	return (fh_now_ns() - begin) / 1000000;
}

/* Kicks that reached the engine in the way that @kind of sleepers_are_woken asks for, and the client's; the fewer. */
static uint64_t nr_woken(const struct chan_rig *rig, const struct client *c, int kind)
{
	struct fh_chans_stats cs;
	uint64_t in, out;

	fh_chans_stats(rig->f, &cs);
	in = kind & 1 ? c->nr_kicks : c->nr_futex_kicks;
	out = kind & 2 ? cs.nr_kicks_out : cs.nr_futex_wakes;
	return in < out ? in : out;
}

/*
 * Both sides asleep: each is woken by the other, by every way there is. Without that it would take a second or more.
 * On a busy machine who is to sleep comes late, and finds a token that has come: it goes on until there were sleepers.
 */
Test(chan, sleepers_are_woken)
{
	for (int kind = 0; kind < 4; kind++) {
		struct fh_engine_config cfg = rig_config();
		struct fh_chans_config cc = {.no_futex = kind & 1};
		struct chan_rig rig;
		struct client c;
		struct fh_cqe e;

		chan_rig_open(&rig, cfg, cc);
		client_open(&c, chan_rig_url(&rig), 4, 2, 4096);
		c.how = kind & 2 ? CLIENT_SOCKET : CLIENT_FUTEX;
		for (int i = 0; i < 4; i++)
			client_arena(&c)[i] = 10;
		for (int round = 0; round < 5 || (round < 60 && nr_woken(&rig, &c, kind) < 5); round++) {
			struct fh_req_desc d = client_desc(1, 0, 4, 8);
			uint64_t ms = 0;

			d.flags = FH_REQ_IGNORE_EOS;
			usleep(30000);
			client_submit(&c, &d);
			/* Two entries: the engine has to be told of room, too. */
			for (int n = 0; n < 8; n++) {
				ms += sleep_until_token(&c);
				if (n % 2)
					usleep(2000);
				cr_assert(client_next(&c, &e));
				cr_assert_eq(e.slot.stamp, (uint32_t)n + 1);
			}
			cr_assert_lt(ms, 400u, "kind %d: %llu ms", kind, (unsigned long long)ms);
		}
		cr_assert_geq(nr_woken(&rig, &c, kind), 5u, "kind %d", kind);
		client_close(&c);
		chan_rig_close(&rig);
	}
}

/* ---- many ---- */

enum { MANY = 64 };

struct one_of_many {
	pthread_t thread;
	const char *url;
	uint32_t nr_ctx, i;
};

static void *many_main(void *arg)
{
	struct one_of_many *o = arg;
	struct rng r = {1000 + o->i};
	struct client c;

	client_open(&c, o->url, 4, 16, 1 << 14);
	c.how = o->i % 2 ? CLIENT_FUTEX : CLIENT_SOCKET;
	work_run(&c, &r, 8, 4, o->nr_ctx);
	client_close(&c);
	return NULL;
}

Test(chan, sixty_four_channels_at_once)
{
	struct fh_engine_config cfg = rig_config();
	struct one_of_many o[MANY];
	struct fh_engine_stats st;
	struct fh_chans_stats cs;
	struct chan_rig rig;

	cfg.max_queue = MANY * 4;
	chan_rig_open(&rig, cfg, plain);
	for (uint32_t i = 0; i < MANY; i++) {
		o[i] = (struct one_of_many){.url = chan_rig_url(&rig), .nr_ctx = cfg.nr_ctx, .i = i};
		cr_assert_eq(pthread_create(&o[i].thread, NULL, many_main, &o[i]), 0);
	}
	for (uint32_t i = 0; i < MANY; i++)
		pthread_join(o[i].thread, NULL);
	cr_assert(soon(2000, (fh_chans_stats(rig.f, &cs), !cs.nr_open)));
	fh_engine_stats(rig.g.e, &st);
	cr_assert_eq(cs.nr_requests, MANY * 8u);
	cr_assert_eq(st.nr_blocks_free + st.nr_blocks_cached, st.nr_blocks);
	chan_rig_close(&rig);
}
