// SPDX-License-Identifier: Apache-2.0
/*
 * libfreehold over shared memory, against a peer that speaks the ABI
 * (chan_peer.h): requests, tokens, text, waiting.  What a broken peer does is in
 * test_lib_faults.c.
 */
#include <signal.h>

#include "tests/unit/lib_util.h"

Test(lib_ring, echo, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_serving(&p);
	struct fh_client_info info = {.size = sizeof(info)};
	struct fh_token t;
	uint64_t id = ask(c, 7, 5);

	cr_expect(p.client_sealed, "the client did not seal its memory");
	for (uint32_t i = 0; i < 5; i++)
		expect_token(c, id, 7 + i % 3, i, i == 4 ? FH_FINISH_LENGTH : 0);
	cr_expect_eq(fh_next_token(c, &t, -1), -ENODATA);
	cr_expect_eq(fh_get_info(c, &info), 0);
	cr_expect_str_eq(info.transport, "unix");
	cr_expect_str_eq(info.where, p.where);
	cr_expect_str_eq(info.model, PEER_MODEL);
	cr_expect(info.nr_ctx == PEER_CTX && info.nr_vocab == PEER_VOCAB);
	cr_expect(info.flags == (FH_INFO_PEER | FH_INFO_VOCAB) && info.pid == (uint32_t)getpid() &&
		  info.uid == getuid());
	cr_expect_eq(fh_token_text(c, PEER_VOCAB, &(const char *){0}, &(size_t){0}), -ERANGE);
	close_both(&p, c);
}

/* What stands in the ring is what was asked for. */
Test(lib_ring, descriptor, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	struct fh_params a;
	struct fh_req_desc d;
	uint64_t id;
	float f;

	fh_params_init(&a);
	a.flags = FH_REQ_IGNORE_EOS | FH_REQ_LOGPROBS | FH_REQ_SEED;
	a.max_tokens = 3;
	a.ttft_us = 4;
	a.tpot_us = 5;
	a.req_class = FH_CLASS_BATCH;
	a.budget_tokens = 6;
	memcpy(a.run_id, "0123456789abcdef", 16);
	a.seed = 1ull << 63;
	a.temperature = 0.5f;
	a.top_k = 8;
	a.min_p = 0.25f;
	a.presence_penalty = -1.5f;
	cr_assert_eq(fh_generate_text(c, "h\xc3\xa9llo", 6, &a, &id), 0);
	cr_assert(peer_peek(&p, &d));
	cr_expect(d.size == sizeof(d) && d.user_data == id && d.prompt_bytes == 6);
	cr_expect_eq(d.flags, FH_REQ_TEXT | FH_REQ_IGNORE_EOS | FH_REQ_LOGPROBS | FH_REQ_SEED);
	cr_expect(d.max_tokens == 3 && d.ttft_us == 4 && d.tpot_us == 5 && d.req_class == FH_CLASS_BATCH &&
		  d.budget_tokens == 6 && d.seed == 1ull << 63 && d.top_k == 8);
	cr_expect(!memcmp(d.run_id, "0123456789abcdef", 16) && !memcmp(peer_prompt(&p, &d), "h\xc3\xa9llo", 6));
	memcpy(&f, &d.temperature, 4);
	cr_expect_float_eq(f, 0.5f, 0);
	memcpy(&f, &d.top_p, 4);
	cr_expect_float_eq(f, 1, 0, "zero means: all");
	memcpy(&f, &d.repetition_penalty, 4);
	cr_expect_float_eq(f, 1, 0, "zero means: none");
	memcpy(&f, &d.presence_penalty, 4);
	cr_expect_float_eq(f, -1.5f, 0);
	peer_consume(&p);
	/* A cancel names the request and nothing else. */
	cr_assert_eq(fh_cancel(c, id), 0);
	cr_assert_eq(fh_cancel(c, id), 0, "twice is once");
	cr_assert(peer_peek(&p, &d));
	cr_expect(d.flags == FH_REQ_CANCEL && d.user_data == id && d.size == sizeof(d));
	peer_consume(&p);
	cr_assert(!peer_peek(&p, &d));
	close_both(&p, c);
}

Test(lib_ring, bad_parameters, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	struct {
		struct fh_params p;
		char newer[8];
	} big = {0};
	struct fh_params a;
	uint32_t id = 1;
	struct fh_token t;

#define REFUSED(code, field, value, says)                                                                              \
	do {                                                                                                           \
		fh_params_init(&a);                                                                                    \
		a.max_tokens = 1;                                                                                      \
		a.field = value;                                                                                       \
		cr_expect_eq(fh_generate(c, &id, 1, &a, NULL), code, #field);                                          \
		cr_expect(strstr(fh_error_message(c), says), "%s", fh_error_message(c));                               \
	} while (0)
	REFUSED(-EINVAL, size, 8, "fh_params_init");
	REFUSED(-EINVAL, flags, FH_REQ_CANCEL, "flags");
	REFUSED(-EINVAL, flags, FH_REQ_TEXT, "flags");
	REFUSED(-EINVAL, max_tokens, 0, "max_tokens");
	REFUSED(-EINVAL, req_class, 3, "req_class");
	REFUSED(-EINVAL, temperature, -1, "temperature");
	REFUSED(-EINVAL, temperature, __builtin_nanf(""), "temperature");
	REFUSED(-EINVAL, top_p, 1.5f, "top_p");
	REFUSED(-EINVAL, min_p, -0.5f, "min_p");
	REFUSED(-EINVAL, typical_p, 2, "typical_p");
	REFUSED(-EINVAL, repetition_penalty, -1, "repetition_penalty");
	cr_expect_eq(fh_generate(c, &id, 1, NULL, NULL), -EINVAL);
	cr_expect_eq(ask_rc(c, 0), -EINVAL);
	cr_expect(strstr(fh_error_message(c), "empty"));
	/* From a program that was built with a later header. */
	fh_params_init(&big.p);
	big.p.max_tokens = 1;
	big.p.size = sizeof(big);
	cr_expect_eq(fh_generate(c, &id, 1, &big.p, NULL), 0);
	big.newer[3] = 1;
	cr_expect_eq(fh_generate(c, &id, 1, &big.p, NULL), -E2BIG);
	cr_expect_eq(ask_rc(c, (1 << 20) / 4 + 1), -E2BIG);
	cr_expect(strstr(fh_error_message(c), "arena_bytes"));
	cr_expect_eq(fh_cancel(c, 0), -ENOENT);
	cr_expect_eq(fh_cancel(c, 12345678), -ENOENT);
	cr_expect_eq(fh_next_token(c, &t, 1000), -ETIMEDOUT);
	close_both(&p, c);
}

Test(lib_ring, options, .timeout = 60)
{
	struct {
		struct fh_open_options o;
		char newer[8];
	} big = {0};
	struct fh_open_options o;
	struct fh_client *c;

	fh_open_options_init(&o);
	o.flags = 1;
	cr_expect_eq(fh_open("unix:/nowhere", &o, &c), -EINVAL);
	fh_close(c);
	fh_open_options_init(&o);
	o.max_requests = 1u << 20;
	cr_expect_eq(fh_open("unix:/nowhere", &o, &c), -EINVAL);
	cr_expect(strstr(fh_error_message(c), "max_requests"));
	fh_close(c);
	o.size = 4;
	cr_expect_eq(fh_open("unix:/nowhere", &o, &c), -EINVAL);
	fh_close(c);
	fh_open_options_init(&big.o);
	big.o.size = sizeof(big);
	cr_expect_eq(fh_open("unix:/nowhere", &big.o, &c), -ENOENT);
	fh_close(c);
	big.newer[0] = 1;
	cr_expect_eq(fh_open("unix:/nowhere", &big.o, &c), -E2BIG);
	fh_close(c);
	fh_close(NULL);
	cr_expect_str_eq(fh_error_message(NULL), "out of memory");
}

Test(lib_ring, where, .timeout = 60)
{
	static const struct {
		const char *where;
		int rc;
		const char *says;
	} table[] = {
		{"unix:/nowhere/s", -ENOENT, "freehold serve"},
		{"unix:", -EINVAL, "names no transport"},
		{"nonsense", -EINVAL, "names no transport"},
		{"https://a", -EPROTONOSUPPORT, "TLS"},
		{"http://", -EINVAL, "HOST"},
		{"http://a:b", -EINVAL, "HOST"},
		{"http://[::1", -EINVAL, "']'"},
		{"http://a/v1", -EINVAL, "HOST"},
		{"http+unix:/nowhere/s", -ENOENT, "No such"},
		{"dev:/nowhere/freehold", -ENOENT, "not loaded"},
		{"dev:/dev/null", -ENOTTY, "channel"},
	};
	char deep[400] = "unix:/";
	struct fh_client *c;

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		int rc = fh_open(table[i].where, NULL, &c);

		cr_expect_eq(rc, table[i].rc, "%s: %d: %s", table[i].where, rc, fh_error_message(c));
		cr_expect(strstr(fh_error_message(c), table[i].says), "%s: %s", table[i].where, fh_error_message(c));
		cr_expect(fh_try_next(c, &(struct fh_token){0}) == rc, "a handle that is not open says so again");
		fh_close(c);
	}
	memset(deep + 6, 'a', 200);
	cr_expect_eq(fh_open(deep, NULL, &c), -ENAMETOOLONG);
	fh_close(c);
	memset(deep + 6, 'a', 300);
	cr_expect_eq(fh_open(deep, NULL, &c), -ENAMETOOLONG);
	fh_close(c);
	setenv("FREEHOLD", "unix:/from/the/environment", 1);
	cr_expect_eq(fh_open(NULL, NULL, &c), -ENOENT);
	cr_expect(strstr(fh_error_message(c), "/from/the/environment"));
	fh_close(c);
}

/* Many requests, more than a ring holds, sleeping and spinning, every token in its place. How often the peer woke us.
 */
static uint64_t many(int32_t spin_us, bool polled)
{
	struct fh_open_options o;
	struct peer p = {0};
	struct fh_client *c;
	struct fh_token t;
	uint32_t next[200] = {0}, begun = 0, over = 0, nr;
	uint64_t nr_woken;
	int rc;

	fh_open_options_init(&o);
	o.max_requests = 16;
	o.cq_entries = 8;
	o.arena_bytes = 4096;
	o.spin_us = spin_us;
	c = open_with(&p, &o);
	peer_serve(&p);
	if (polled)
		cr_assert_geq(fh_fd(c), 0);
	for (nr = 0; over < 200; nr++) {
		while (begun < 200 && begun - over < 16) {
			ask(c, 1000 * begun, 1 + begun % 50);
			begun++;
		}
		if (polled) {
			while ((rc = fh_try_next(c, &t)) == -EAGAIN) {
				struct pollfd f = {.fd = fh_fd(c), .events = POLLIN};

				cr_assert_eq(poll(&f, 1, 5000), 1, "nobody woke us");
			}
		} else {
			rc = fh_next_token(c, &t, 5000000);
		}
		cr_assert_eq(rc, 0, "%d: %s", rc, fh_error_message(c));
		cr_assert_eq(t.index, next[t.user_data / 1000]++);
		cr_assert_eq(t.token, t.user_data + t.index % 3);
		over += t.flags & FH_SLOT_LAST;
	}
	for (uint32_t i = 0; i < 200; i++)
		cr_assert_eq(next[i], 1 + i % 50);
	nr_woken = polled ? p.nr_kicks : p.nr_futex_wakes;
	close_both(&p, c);
	return nr_woken;
}

/* Where the peer has a core and we have none, there is always something when we come: until there was nothing once. */
static void many_until_woken(int32_t spin_us, bool polled)
{
	uint64_t nr_woken = 0;

	for (int i = 0; i < 50 && !nr_woken; i++)
		nr_woken = many(spin_us, polled);
	cr_expect_gt(nr_woken, 0);
}

Test(lib_ring, many_spinning, .timeout = 60)
{
	many(0, false);
}

Test(lib_ring, many_sleeping, .timeout = 60)
{
	many_until_woken(-1, false);
}

Test(lib_ring, many_polled, .timeout = 60)
{
	many_until_woken(0, true);
}

/* Between requests a polled handle is quiet, however old wake-ups fell; and it hears of the server's death. */
Test(lib_ring, idle_polled, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_serving(&p);
	struct pollfd f = {.fd = fh_fd(c), .events = POLLIN};
	struct fh_token t;
	int nr_over = 0, nr_woken = 0, rc;

	for (int n = 0; n < 20; n++) {
		ask(c, 7, 3);
		do {
			rc = fh_try_next(c, &t);
			nr_over += !rc && t.flags & FH_SLOT_LAST;
			if (rc == -EAGAIN)
				cr_assert_eq(poll(&f, 1, 5000), 1, "nobody woke us");
		} while (rc == -EAGAIN || !rc);
		cr_assert_eq(rc, -ENODATA, "%d: %s", rc, fh_error_message(c));
		/* One may have been sent for a token that was read before. */
		while (poll(&f, 1, 5) == 1 && nr_woken++ < 1000)
			cr_assert_eq(fh_try_next(c, &t), -ENODATA);
	}
	cr_expect_eq(nr_over, 20);
	cr_expect_leq(nr_woken, 20);
	atomic_store(&p.stop, true);
	pthread_join(p.thread, NULL);
	p.serving = false;
	peer_die(&p);
	cr_assert_eq(poll(&f, 1, 5000), 1);
	cr_assert_eq(fh_try_next(c, &t), -EPIPE);
	expect_dead(c, -EPIPE);
	close_both(&p, c);
}

/* The arena: prompts of every size, wrapped, full, and empty again. */
Test(lib_ring, arena, .timeout = 60)
{
	struct fh_open_options o;
	struct peer p = {0};
	struct fh_client *c;
	struct fh_req_desc d;
	struct fh_params a;
	uint32_t ids[1024], begun = 0, seen = 0;
	struct fh_token t;

	fh_open_options_init(&o);
	o.arena_bytes = 4000;
	o.max_requests = 8;
	c = open_with(&p, &o);
	cr_assert_eq(ask_rc(c, 1001), -E2BIG);
	fh_params_init(&a);
	a.max_tokens = 1;
	while (seen < 500) {
		uint32_t nr = 1 + begun * 131 % 700;
		int rc;

		for (uint32_t i = 0; i < nr; i++)
			ids[i] = begun * 1000 + i;
		rc = fh_generate(c, ids, nr, &a, NULL);
		if (!rc) {
			begun++;
			continue;
		}
		cr_assert_eq(rc, -EAGAIN);
		cr_assert(peer_peek(&p, &d));
		nr = 1 + seen * 131 % 700;
		cr_assert_eq(d.prompt_bytes, nr * 4);
		cr_assert(d.prompt_off + d.prompt_bytes <= 4000 && !(d.prompt_off % 8));
		for (uint32_t i = 0; i < nr; i++)
			cr_assert_eq(((const uint32_t *)peer_prompt(&p, &d))[i], seen * 1000 + i);
		seen++;
		peer_consume(&p);
		peer_token(&p, d.user_data, 1, 0, FH_FINISH_LENGTH);
		cr_assert_eq(fh_try_next(c, &t), 0);
	}
	/* Emptied, it takes a prompt of its whole size. */
	while (peer_peek(&p, &d)) {
		peer_consume(&p);
		peer_token(&p, d.user_data, 1, 0, FH_FINISH_LENGTH);
		cr_assert_eq(fh_try_next(c, &t), 0);
	}
	cr_assert_eq(fh_generate(c, ids, 1000, &a, NULL), 0);
	close_both(&p, c);
}

Test(lib_ring, cancel, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_serving(&p);
	struct fh_token t = {0};
	uint64_t id = ask(c, 1, 1000000), other = ask(c, 5, 3);
	int others = 0;

	atomic_store(&p.token_us, 100);
	cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
	cr_assert_eq(fh_cancel(c, id), 0);
	do {
		cr_assert_eq(fh_next_token(c, &t, 5000000), 0);
		others += t.id == other;
	} while (t.id != id || !(t.flags & FH_SLOT_LAST));
	cr_expect(t.finish == FH_FINISH_CANCELLED && !t.error && (t.flags & FH_SLOT_NO_TOKEN));
	cr_expect_eq(fh_cancel(c, id), -ENOENT);
	while (!fh_next_token(c, &t, 5000000))
		others += t.id == other;
	cr_expect(others == 3 || others == 2, "%d", others);
	close_both(&p, c);
}

/* A cancel that finds the submission ring full is said later, by itself. */
Test(lib_ring, cancel_without_room, .timeout = 60)
{
	struct fh_open_options o;
	struct peer p = {0};
	struct fh_client *c;
	struct fh_req_desc d;
	struct fh_token t;
	uint64_t id[4], cancelled = 0;

	fh_open_options_init(&o);
	o.max_requests = 2;
	c = open_with(&p, &o);
	cr_assert_eq(p.info.sq_entries, 4);
	/* Two ended before their entries were consumed: a runtime may be slow with one and quick with the other. */
	for (int i = 0; i < 4; i++) {
		id[i] = ask(c, 1, 1);
		if (i < 2) {
			peer_token(&p, id[i], 1, 0, FH_FINISH_LENGTH);
			cr_assert_eq(fh_try_next(c, &t), 0);
		}
	}
	cr_assert_eq(ask_rc(c, 1), -EAGAIN);
	cr_assert_eq(fh_cancel(c, id[3]), 0);
	for (int i = 0; i < 4; i++)
		peer_consume(&p);
	cr_assert(!peer_peek(&p, &d));
	cr_assert_eq(fh_try_next(c, &t), -EAGAIN);
	while (peer_peek(&p, &d)) {
		cancelled = d.flags == FH_REQ_CANCEL ? d.user_data : 0;
		peer_consume(&p);
	}
	cr_expect_eq(cancelled, id[3]);
	close_both(&p, c);
}

/* A reader that makes room in a full ring wakes a runtime that waits for it. */
Test(lib_ring, full_ring, .timeout = 60)
{
	struct fh_open_options o;
	struct peer p = {0};
	struct fh_client *c;
	struct fh_sock_head head;
	struct fh_token t;
	uint64_t id;

	fh_open_options_init(&o);
	o.cq_entries = 4;
	c = open_with(&p, &o);
	id = ask(c, 1, 100);
	for (uint32_t i = 0; i < 4; i++)
		peer_token(&p, id, 1, i, 0);
	cr_assert_eq(peer_room(&p), 0);
	__atomic_store_n(peer_word(&p, FH_AREA_RUNTIME, p.info.runtime_flags_off), FH_RING_NEED_WAKEUP,
			 __ATOMIC_SEQ_CST);
	cr_assert_eq(fh_try_next(c, &t), 0);
	cr_expect_eq(recv(p.sock, &head, sizeof(head), MSG_DONTWAIT), sizeof(head));
	cr_expect_eq(head.type, FH_SOCK_KICK);
	cr_expect_eq(peer_room(&p), 1);
	/* It fills up again while the reader knows of three more. */
	peer_token(&p, id, 1, 4, 0);
	for (int i = 0; i < 4; i++)
		cr_assert_eq(fh_try_next(c, &t), 0);
	cr_expect_eq(recv(p.sock, &head, sizeof(head), MSG_DONTWAIT), sizeof(head));
	close_both(&p, c);
}

Test(lib_ring, holes_are_passed_over, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	struct fh_cqe hole = {.slot = {.flags = FH_SLOT_NO_TOKEN}};
	uint64_t id = ask(c, 1, 2);
	struct fh_token t;

	peer_put(&p, &hole);
	hole.user_data = id;
	peer_put(&p, &hole);
	peer_token(&p, id, 9, 0, 0);
	peer_put(&p, &hole);
	peer_over(&p, id, FH_FINISH_STOP, 0, 0);
	expect_token(c, id, 9, 0, 0);
	cr_assert_eq(fh_try_next(c, &t), 0);
	cr_expect(t.flags == (FH_SLOT_LAST | FH_SLOT_NO_TOKEN) && t.finish == FH_FINISH_STOP);
	/* A ring that is full of nothing is nothing. */
	id = ask(c, 1, 2);
	for (uint32_t i = 0; i < p.info.cq_entries; i++)
		peer_put(&p, &hole);
	cr_assert_eq(fh_try_next(c, &t), -EAGAIN);
	peer_token(&p, id, 9, 0, FH_FINISH_LENGTH);
	expect_token(c, id, 9, 0, FH_FINISH_LENGTH);
	close_both(&p, c);
}

Test(lib_ring, refused_request, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	struct fh_token t;
	uint64_t id = ask(c, 1, 2);

	peer_over(&p, id, FH_FINISH_ERROR, -EAGAIN, 1500);
	cr_assert_eq(fh_next_token(c, &t, -1), 0);
	cr_expect(t.finish == FH_FINISH_ERROR && t.error == -EAGAIN && t.retry_us == 1500);
	/* Nonsense in place of a reason is an error, no crash and no success. */
	id = ask(c, 1, 2);
	peer_over(&p, id, 200, 12345, 0);
	cr_assert_eq(fh_next_token(c, &t, -1), 0);
	cr_expect(t.finish == FH_FINISH_ERROR && t.error == -EPROTO);
	id = ask(c, 1, 2);
	peer_over(&p, id, FH_FINISH_ERROR, 12345, 0);
	cr_assert_eq(fh_next_token(c, &t, -1), 0);
	cr_expect(t.finish == FH_FINISH_ERROR && t.error == -EIO);
	close_both(&p, c);
}

/* Text */

static void decode(struct fh_client *c, struct fh_decoder *d, uint32_t token, uint32_t flags, uint32_t cut,
		   const char *want)
{
	struct fh_token t = {.token = token, .flags = flags, .cut_bytes = cut};
	const char *text;
	size_t n;

	cr_assert_eq(fh_decode(c, d, &t, &text, &n), 0);
	cr_expect_eq(n, strlen(want));
	cr_expect_str_eq(text, want);
}

Test(lib_ring, decoder, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	struct fh_decoder d = {0};

	decode(c, &d, 'a', 0, 0, "a");
	decode(c, &d, 0xe2, 0, 0, "");
	decode(c, &d, 0x82, 0, 0, "");
	decode(c, &d, 256, 0, 0, "");
	decode(c, &d, 0xac, 0, 0, "\xe2\x82\xac");
	/* A character that is never finished: one U+FFFD for what could have begun it. */
	decode(c, &d, 0xf0, 0, 0, "");
	decode(c, &d, 0x9f, 0, 0, "");
	decode(c, &d, 'b', 0, 0,
	       "\xef\xbf\xbd"
	       "b");
	/* Overlong, surrogates, too large, stray. */
	decode(c, &d, 0xc0, 0, 0, "\xef\xbf\xbd");
	decode(c, &d, 0xe0, 0, 0, "");
	decode(c, &d, 0x80, 0, 0, "\xef\xbf\xbd\xef\xbf\xbd");
	decode(c, &d, 0xed, 0, 0, "");
	decode(c, &d, 0xa0, 0, 0, "\xef\xbf\xbd\xef\xbf\xbd");
	decode(c, &d, 0xf5, 0, 0, "\xef\xbf\xbd");
	decode(c, &d, 0x80, 0, 0, "\xef\xbf\xbd");
	/* The end says what is held back; a cut does not. */
	decode(c, &d, 0xe2, FH_SLOT_LAST, 0, "\xef\xbf\xbd");
	decode(c, &d, 0xe2, 0, 0, "");
	decode(c, &d, 0, FH_SLOT_LAST | FH_SLOT_NO_TOKEN, 0, "\xef\xbf\xbd");
	decode(c, &d, 'x', FH_SLOT_LAST | FH_SLOT_CUT, 0, "");
	decode(c, &d, 'x', FH_SLOT_LAST | FH_SLOT_CUT, 1, "x");
	/* A decoder whose memory the program has overwritten. */
	d.nr_held = 1000;
	decode(c, &d, 'y', 0, 0, "y");
	close_both(&p, c);
}

Test(lib_ring, no_vocabulary, .timeout = 60)
{
	struct peer p = {.fault = PEER_NO_VOCAB};
	struct fh_client *c = open_serving(&p);
	struct fh_client_info info = {.size = sizeof(info)};
	struct fh_decoder d = {0};
	const char *text;
	struct fh_token t;
	size_t n;

	ask(c, 1, 1);
	cr_assert_eq(fh_next_token(c, &t, -1), 0);
	cr_expect_eq(fh_decode(c, &d, &t, &text, &n), -ENODATA);
	fh_get_info(c, &info);
	cr_expect(!(info.flags & FH_INFO_VOCAB) && !info.model[0]);
	close_both(&p, c);
}

/* Offsets are checked when they are used: what is sound stays readable. */
Test(lib_ring, bad_vocabulary, .timeout = 60)
{
	struct peer p = {.fault = PEER_BAD_VOCAB};
	struct fh_client *c = open_peer(&p);
	const char *text;
	size_t n;

	cr_expect_eq(fh_token_text(c, 'A', &text, &n), -EPROTO);
	cr_expect_eq(fh_token_text(c, 'B', &text, &n), -EPROTO);
	cr_expect_eq(fh_token_text(c, 'C', &text, &n), 0);
	cr_expect(n == 1 && text[0] == 'C');
	close_both(&p, c);
}

/* Waiting */

static void on_alarm(int sig)
{
	(void)sig;
}

Test(lib_ring, signal_interrupts, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	struct sigaction a = {.sa_handler = on_alarm};
	struct fh_token t;

	ask(c, 1, 1);
	sigaction(SIGALRM, &a, NULL);
	ualarm(20000, 0);
	cr_expect_eq(fh_next_token(c, &t, 10000000), -EINTR);
	close_both(&p, c);
}

Test(lib_ring, timeouts, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	uint64_t begin_ns, took_ns;
	struct fh_token t;

	ask(c, 1, 1);
	cr_expect_eq(fh_next_token(c, &t, 0), -ETIMEDOUT);
	begin_ns = fh_now_ns();
	cr_expect_eq(fh_next_token(c, &t, 130000), -ETIMEDOUT);
	took_ns = fh_now_ns() - begin_ns;
	cr_expect(took_ns >= 130000000u && took_ns < 1000000000u);
	close_both(&p, c);
}
