// SPDX-License-Identifier: Apache-2.0
/*
 * libfreehold over shared memory, against a peer that lies, refuses and dies:
 * everything in the memory that the peer may write is wrong in turn, and what
 * comes of it is an error with words, within its time.
 */
#include <pthread.h>

#include "tests/unit/lib_util.h"

/* Lies in the rings */

static void lie_in_words(uint32_t area, uint32_t off_of_word, uint32_t value)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);

	ask(c, 1, 2);
	__atomic_store_n(peer_word(&p, area, off_of_word), value, __ATOMIC_SEQ_CST);
	if (off_of_word == p.info.sq_head_off)
		cr_assert_eq(ask_rc(c, 1), -EPROTO, "%s", fh_error_message(c));
	expect_dead(c, -EPROTO);
	close_both(&p, c);
}

Test(lib_faults, lying_tail, .timeout = 60)
{
	lie_in_words(FH_AREA_RUNTIME, FH_LINE_BYTES, 1025);
	lie_in_words(FH_AREA_RUNTIME, FH_LINE_BYTES, UINT32_MAX);
}

Test(lib_faults, lying_head, .timeout = 60)
{
	lie_in_words(FH_AREA_RUNTIME, 0, 2);
	lie_in_words(FH_AREA_RUNTIME, 0, UINT32_MAX);
}

Test(lib_faults, lying_entries, .timeout = 60)
{
	static const struct {
		uint64_t id_add;
		uint32_t index;
	} lies[] = {{1, 0}, {1ull << 40, 0}, {0, 1}, {0, UINT32_MAX}};

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		struct peer p = {0};
		struct fh_client *c = open_peer(&p);
		uint64_t id = ask(c, 1, 2);

		peer_token(&p, id + lies[i].id_add, 9, lies[i].index, 0);
		expect_dead(c, -EPROTO);
		close_both(&p, c);
	}
	/* An answer to a request that has ended. */
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	uint64_t id = ask(c, 1, 2);

	ask(c, 1, 2);
	peer_token(&p, id, 9, 0, FH_FINISH_STOP);
	expect_token(c, id, 9, 0, FH_FINISH_STOP);
	peer_token(&p, id, 9, 1, 0);
	expect_dead(c, -EPROTO);
	close_both(&p, c);
}

/* A runtime that writes rubbish into all that it may write, while the client works: no crash, whatever it says. */
static void *scribble(void *arg)
{
	struct peer *p = arg;
	uint64_t x = 0x9e3779b97f4a7c15u;

	while (!atomic_load(&p->stop)) {
		for (uint32_t a = FH_AREA_RUNTIME; a <= FH_AREA_CQ; a++) {
			char *base = p->ours + p->info.areas[a].off;

			if (p->info.areas[a].writer != FH_WRITER_RUNTIME)
				continue;
			for (uint64_t k = 0; k < p->info.areas[a].bytes / 8; k++) {
				x ^= x << 13;
				x ^= x >> 7;
				x ^= x << 17;
				/* Small numbers: some of them are believed for a while. */
				__atomic_store_n((uint64_t *)base + k, x & 0x0000000300000003u, __ATOMIC_RELAXED);
			}
		}
	}
	return NULL;
}

Test(lib_faults, rubbish, .timeout = 60)
{
	for (int round = 0; round < 50; round++) {
		struct peer p = {0};
		struct fh_client *c = open_peer(&p);
		struct fh_token t;
		int rc = 0;

		p.serving = true;
		cr_assert_eq(pthread_create(&p.thread, NULL, scribble, &p), 0);
		for (int i = 0; i < 1000 && rc != -EPROTO && rc != -EPIPE; i++) {
			rc = ask_rc(c, 1 + (size_t)i % 100);
			if (rc != -EPROTO)
				rc = fh_next_token(c, &t, 100);
		}
		close_both(&p, c);
	}
}

/* Lies in the info area: each one is refused before anything is mapped. */
#define LIE(name, what)                                                                                                \
	static void lie_##name(struct fh_chan_info *i)                                                                 \
	{                                                                                                              \
		what;                                                                                                  \
	}
LIE(magic, i->magic++)
LIE(version, i->abi_version = 2)
LIE(info_bytes, i->info_bytes = 8)
LIE(page, i->page_bytes = 512)
LIE(page_odd, i->page_bytes = 4097)
LIE(page_none, i->page_bytes = 0)
LIE(sq_none, i->sq_entries = 0)
LIE(sq_odd, i->sq_entries = 100)
LIE(sq_many, i->sq_entries = 1u << 30)
LIE(sq_more, i->sq_entries *= 2; i->sq_entry_bytes = 4096)
LIE(cq_odd, i->cq_entries = 3)
LIE(cq_more, i->cq_entries = 65536)
LIE(sq_entry_small, i->sq_entry_bytes = 64)
LIE(cq_entry_small, i->cq_entry_bytes = 16)
LIE(cq_entry_odd, i->cq_entry_bytes = 33)
LIE(word_out, i->cq_tail_off = 4096)
LIE(word_far, i->sq_head_off = UINT32_MAX - 3)
LIE(word_odd, i->sq_tail_off = 2)
LIE(word_same, i->cq_head_off = i->sq_tail_off)
LIE(areas_few, i->nr_areas = 5)
LIE(area_odd, i->areas[FH_AREA_CQ].off += 8)
LIE(area_far, i->areas[FH_AREA_CQ].off = 1ull << 50)
LIE(area_wrap, i->areas[FH_AREA_ARENA].off = UINT64_MAX - 4095)
LIE(area_long, i->areas[FH_AREA_ARENA].bytes = 1ull << 40)
LIE(area_none, i->areas[FH_AREA_CLIENT].bytes = 0)
LIE(area_overlap, i->areas[FH_AREA_ARENA].off = i->areas[FH_AREA_SQ].off)
LIE(area_writer, i->areas[FH_AREA_CQ].writer = FH_WRITER_CLIENT)
LIE(info_moved, i->areas[FH_AREA_INFO].off = 4096)
LIE(chan_long, i->chan_bytes = 1ull << 60)
LIE(chan_longer, i->chan_bytes += 4096)
LIE(arena_long, i->arena_bytes += 1u << 30)
LIE(arena_none, i->arena_bytes = 0)

Test(lib_faults, lying_info, .timeout = 60)
{
	static void (*const lies[])(struct fh_chan_info *) = {
		lie_magic,	lie_version,	  lie_info_bytes,     lie_page,	      lie_page_odd,	lie_page_none,
		lie_sq_none,	lie_sq_odd,	  lie_sq_many,	      lie_sq_more,    lie_cq_odd,	lie_cq_more,
		lie_word_out,	lie_word_far,	  lie_sq_entry_small, lie_word_odd,   lie_cq_entry_odd, lie_word_same,
		lie_areas_few,	lie_area_odd,	  lie_cq_entry_small, lie_area_far,   lie_area_wrap,	lie_area_long,
		lie_area_none,	lie_area_overlap, lie_area_writer,    lie_info_moved, lie_chan_long,	lie_chan_longer,
		lie_arena_long, lie_arena_none,
	};

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		struct peer p = {.lie = lies[i]};
		struct fh_client *c;
		int rc;

		peer_start(&p);
		rc = fh_open(p.where, NULL, &c);
		cr_expect_eq(rc, -EPROTO, "lie %zu: %d: %s", i, rc, fh_error_message(c));
		fh_close(c);
		peer_join(&p);
		peer_end(&p);
	}
}

Test(lib_faults, handshake_faults, .timeout = 60)
{
	static const struct {
		enum peer_fault fault;
		int rc;
		const char *says;
	} table[] = {
		{PEER_NO_WELCOME, -EPIPE, "closed the socket"},
		{PEER_MUTE, -ETIMEDOUT, "in time"},
		{PEER_REFUSES, -EDQUOT, "256 are open"},
		{PEER_WRONG_PACKET, -EPROTO, "no channel socket"},
		{PEER_NO_FD, -EPROTO, "no memory"},
		{PEER_UNSEALED, -EPROTO, "not sealed"},
		{PEER_SHORT, -EPROTO, "shorter"},
		{PEER_NO_OPEN, -EPIPE, "closed the socket"},
	};
	struct fh_open_options o;

	fh_open_options_init(&o);
	o.open_us = 300000;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct peer p = {.fault = table[i].fault};
		struct fh_client *c;
		int rc;

		peer_start(&p);
		rc = fh_open(p.where, &o, &c);
		cr_expect_eq(rc, table[i].rc, "fault %zu: %d: %s", i, rc, fh_error_message(c));
		cr_expect(strstr(fh_error_message(c), table[i].says), "fault %zu: %s", i, fh_error_message(c));
		fh_close(c);
		peer_join(&p);
		peer_end(&p);
	}
}

/* Deaths */

/* @how: 0 the socket closes, 1 drain, 2 the client's violation, 3 the runtime's state. */
static void die(struct peer *p, int how)
{
	struct fh_chan_info *i = peer_shared(p);

	if (!how) {
		peer_die(p);
		return;
	}
	i->revoke_reason = how == 1 ? FH_REVOKE_DRAIN : FH_REVOKE_PROTOCOL;
	__atomic_store_n(&i->state, how == 3 ? FH_CHAN_RUNTIME_DEAD : FH_CHAN_REVOKED, __ATOMIC_RELEASE);
}

struct death {
	struct peer *p;
	int how;
	uint64_t died_ns;
};

static void *die_later(void *arg)
{
	struct death *d = arg;

	usleep(120000);
	d->died_ns = fh_now_ns();
	die(d->p, d->how);
	return NULL;
}

/* Whoever waits learns of it within 100 ms, however it waits, and what was published before is still read. */
static void death_while(bool polled, int how)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	struct death d = {&p, how, 0};
	uint64_t id = ask(c, 1, 3);
	pthread_t thread;
	struct fh_token t;
	int rc;

	if (polled)
		cr_assert_geq(fh_fd(c), 0);
	peer_token(&p, id, 1, 0, 0);
	expect_token(c, id, 1, 0, 0);
	cr_assert_eq(pthread_create(&thread, NULL, die_later, &d), 0);
	if (polled) {
		while ((rc = fh_try_next(c, &t)) == -EAGAIN) {
			struct pollfd f = {.fd = fh_fd(c), .events = POLLIN};

			/* A state without a kick is seen by those who look. */
			poll(&f, 1, how ? 10 : 5000);
		}
	} else {
		rc = fh_next_token(c, &t, -1);
	}
	pthread_join(thread, NULL);
	cr_expect_eq(rc, -EPIPE, "%d: %s", rc, fh_error_message(c));
	cr_expect_lt(fh_now_ns() - d.died_ns, 100000000u, "it took %llu us",
		     (unsigned long long)(fh_now_ns() - d.died_ns) / 1000);
	if (how == 1)
		cr_expect(strstr(fh_error_message(c), "shutting down"), "%s", fh_error_message(c));
	if (how == 2)
		cr_expect(strstr(fh_error_message(c), "broke the rules"), "%s", fh_error_message(c));
	expect_dead(c, -EPIPE);
	close_both(&p, c);
}

Test(lib_faults, death, .timeout = 60)
{
	for (int how = 0; how <= 3; how++) {
		death_while(false, how);
		death_while(true, how);
	}
}

Test(lib_faults, last_words, .timeout = 60)
{
	for (int how = 0; how <= 3; how++) {
		struct peer p = {0};
		struct fh_client *c = open_peer(&p);
		uint64_t id = ask(c, 1, 9);

		for (uint32_t i = 0; i < 5; i++)
			peer_token(&p, id, 1, i, 0);
		die(&p, how);
		for (uint32_t i = 0; i < 5; i++)
			expect_token(c, id, 1, i, 0);
		expect_dead(c, -EPIPE);
		close_both(&p, c);
	}
}

/* A submission that nobody will read says so. */
Test(lib_faults, submit_to_the_dead, .timeout = 60)
{
	struct fh_open_options o;
	struct peer p = {0};
	struct fh_client *c;

	fh_open_options_init(&o);
	o.arena_bytes = 64;
	c = open_with(&p, &o);
	cr_assert_eq(ask_rc(c, 16), 0);
	cr_assert_eq(ask_rc(c, 16), -EAGAIN);
	peer_die(&p);
	cr_assert_eq(ask_rc(c, 16), -EPIPE);
	expect_dead(c, -EPIPE);
	close_both(&p, c);
}

Test(lib_faults, open_again, .timeout = 60)
{
	struct peer p = {0}, q = {0};
	struct fh_client *c = open_serving(&p), *d;
	uint64_t id;

	d = open_serving(&q);
	id = ask(c, 1, 1);
	expect_token(c, id, 1, 0, FH_FINISH_LENGTH);
	id = ask(d, 4, 1);
	close_both(&p, c);
	expect_token(d, id, 4, 0, FH_FINISH_LENGTH);
	close_both(&q, d);
}

/* The socket is the life of a client: it ends with the handle. */
Test(lib_faults, close_is_seen, .timeout = 60)
{
	struct peer p = {0};
	struct fh_client *c = open_peer(&p);
	struct pollfd f;
	char byte;

	ask(c, 1, 9);
	fh_close(c);
	f = (struct pollfd){.fd = p.sock, .events = POLLIN};
	cr_assert_eq(poll(&f, 1, 1000), 1);
	while (recv(p.sock, &byte, 1, 0) > 0)
		;
	cr_expect_eq(recv(p.sock, &byte, 1, 0), 0);
	peer_end(&p);
}
