/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of libfreehold's rings share: a handle that is open to a peer (chan_peer.h), and what it is asked. */
#ifndef FH_TESTS_LIB_UTIL_H
#define FH_TESTS_LIB_UTIL_H

#include "runtime/lib/freehold.h"
#include "tests/unit/chan_peer.h"

static inline struct fh_client *open_with(struct peer *p, const struct fh_open_options *o)
{
	struct fh_client *c;
	int rc;

	peer_start(p);
	rc = fh_open(p->where, o, &c);
	cr_assert_eq(rc, 0, "%d: %s", rc, fh_error_message(c));
	peer_join(p);
	cr_assert(p->shaken);
	return c;
}

static inline struct fh_client *open_peer(struct peer *p)
{
	return open_with(p, NULL);
}

static inline struct fh_client *open_serving(struct peer *p)
{
	struct fh_client *c = open_peer(p);

	peer_serve(p);
	return c;
}

static inline void close_both(struct peer *p, struct fh_client *c)
{
	fh_close(c);
	peer_end(p);
}

static inline uint64_t ask(struct fh_client *c, uint32_t token, uint32_t nr)
{
	uint32_t ids[3] = {token, token + 1, token + 2};
	struct fh_params p;
	uint64_t id = 0;
	int rc;

	fh_params_init(&p);
	p.max_tokens = nr;
	p.user_data = token;
	rc = fh_generate(c, ids, 3, &p, &id);
	cr_assert_eq(rc, 0, "%d: %s", rc, fh_error_message(c));
	cr_assert_neq(id, 0);
	return id;
}

/* Like ask(), and what fh_generate() says. */
static inline int ask_rc(struct fh_client *c, size_t nr_ids)
{
	uint32_t *ids = calloc(nr_ids ? nr_ids : 1, sizeof(*ids));
	struct fh_params p;
	int rc;

	fh_params_init(&p);
	p.max_tokens = 1;
	rc = fh_generate(c, ids, nr_ids, &p, NULL);
	free(ids);
	return rc;
}

static inline void expect_token(struct fh_client *c, uint64_t id, uint32_t token, uint32_t index, uint32_t finish)
{
	struct fh_token t;
	int rc = fh_next_token(c, &t, 5000000);

	cr_assert_eq(rc, 0, "%d: %s", rc, fh_error_message(c));
	cr_assert(t.id == id && t.token == token && t.index == index && t.finish == finish && !t.error,
		  "id %llx token %u index %u finish %u", (unsigned long long)t.id, t.token, t.index, t.finish);
	cr_assert_eq(t.flags, finish ? FH_SLOT_LAST : 0);
}

/* Dead, with this code, now and later. */
static inline void expect_dead(struct fh_client *c, int code)
{
	struct fh_token t;
	int rc = fh_next_token(c, &t, 2000000);

	cr_assert_eq(rc, code, "%d: %s", rc, fh_error_message(c));
	cr_assert(strlen(fh_error_message(c)) > 10);
	cr_assert_eq(fh_try_next(c, &t), code);
	cr_assert_eq(ask_rc(c, 1), code);
	cr_assert_eq(fh_cancel(c, 1), code);
	cr_assert_eq(fh_fd(c), code);
}

#endif /* FH_TESTS_LIB_UTIL_H */
