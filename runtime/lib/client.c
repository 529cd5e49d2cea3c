// SPDX-License-Identifier: Apache-2.0
/*
 * Handles: what the public calls do before and after a transport.
 *
 * A request's id is its generation times FHL_MAX_REQUESTS plus its place in the
 * table, so that an id that has ended, or that the other side made up, is seen
 * to be none.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/lib/lib_priv.h"

static int copy_options(struct fh_client *c, const struct fh_open_options *in)
{
	struct fh_open_options o = {0};
	const char *p = (const char *)in;

	if (in && in->size < offsetof(struct fh_open_options, spin_us) + sizeof(o.spin_us))
		return fh_errf(&c->err, -EINVAL, "fh_open: options->size is %u: call fh_open_options_init() first",
			       in->size);
	for (size_t i = sizeof(o); in && i < in->size; i++)
		if (p[i])
			return fh_errf(&c->err, -E2BIG,
				       "fh_open: the program sets options that this library (%s) does not know: "
				       "install a newer one",
				       FREEHOLD_VERSION);
	/* A program of before some fields came leaves them zero. */
	if (in)
		memcpy(&o, in, in->size < sizeof(o) ? in->size : sizeof(o));
	if (o.flags)
		return fh_errf(&c->err, -EINVAL, "fh_open: options->flags must be 0");
	if (o.max_requests > FHL_MAX_REQUESTS)
		return fh_errf(&c->err, -EINVAL, "fh_open: max_requests is %u; at most %u fit in a handle",
			       o.max_requests, FHL_MAX_REQUESTS);
	c->opt.max_requests = o.max_requests ? o.max_requests : 64;
	/* Twice as many entries: there is room to cancel all of them. */
	for (c->opt.sq_entries = 2; c->opt.sq_entries < 2 * c->opt.max_requests;)
		c->opt.sq_entries *= 2;
	c->opt.cq_entries = o.cq_entries ? o.cq_entries : 1024;
	c->opt.arena_bytes = o.arena_bytes ? o.arena_bytes : 1u << 20;
	c->opt.spin_ns = o.spin_us < 0 ? 0 : o.spin_us ? (uint64_t)o.spin_us * 1000 : 50000;
	c->opt.open_deadline_ns = fh_now_ns() + (o.open_us ? (uint64_t)o.open_us * 1000 : 5000000000u);
	if (o.api_key && !(c->opt.api_key = strdup(o.api_key)))
		return fh_errf(&c->err, -ENOMEM, "out of memory");
	if (o.model && !(c->opt.model = strdup(o.model)))
		return fh_errf(&c->err, -ENOMEM, "out of memory");
	if (o.udp_key_file && !(c->opt.udp_key_file = strdup(o.udp_key_file)))
		return fh_errf(&c->err, -ENOMEM, "out of memory");
	return 0;
}

static int make_table(struct fh_client *c)
{
	c->reqs = calloc(c->opt.max_requests, sizeof(*c->reqs));
	if (!c->reqs)
		return fh_errf(&c->err, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < c->opt.max_requests; i++)
		c->reqs[i].next_free = i + 1 < c->opt.max_requests ? i + 2 : 0;
	c->free_req = 1;
	return 0;
}

int fh_open(const char *where, const struct fh_open_options *options, struct fh_client **out)
{
	struct fh_client *c = calloc(1, sizeof(*c));
	int rc;

	*out = c;
	if (!c)
		return -ENOMEM;
	rc = copy_options(c, options);
	if (!rc)
		rc = make_table(c);
	if (!rc)
		rc = fhl_connect(c, where);
	if (rc)
		c->dead = rc;
	else
		c->err = (struct fh_err){0}; /* of places that were tried before */
	return rc;
}

void fh_close(struct fh_client *c)
{
	if (!c)
		return;
	if (c->ops)
		c->ops->close(c);
	fhl_vocab_close(c);
	free(c->opt.api_key);
	free(c->opt.model);
	free(c->opt.udp_key_file);
	free(c->reqs);
	free(c->scratch);
	free(c);
}

int fhl_die(struct fh_client *c, int code, const char *fmt, ...)
{
	va_list ap;

	if (c->dead)
		return c->dead;
	c->dead = c->err.code = code;
	va_start(ap, fmt);
	vsnprintf(c->err.msg, sizeof(c->err.msg), fmt, ap);
	va_end(ap);
	return code;
}

/* Requests */

struct fhl_req *fhl_req_find(struct fh_client *c, uint64_t id)
{
	uint64_t at = id % FHL_MAX_REQUESTS;

	return id && at < c->opt.max_requests && c->reqs[at].id == id ? &c->reqs[at] : NULL;
}

void fhl_req_put(struct fh_client *c, struct fhl_req *r)
{
	c->nr_unasked -= r->unasked;
	*r = (struct fhl_req){.next_free = c->free_req};
	c->free_req = (uint32_t)(r - c->reqs) + 1;
	c->nr_inflight--;
}

static struct fhl_req *req_get(struct fh_client *c, uint64_t user_data)
{
	uint32_t at = c->free_req;
	struct fhl_req *r;

	if (!at)
		return NULL;
	r = &c->reqs[at - 1];
	c->free_req = r->next_free;
	*r = (struct fhl_req){.id = ++c->last_gen * FHL_MAX_REQUESTS + at - 1, .user_data = user_data};
	c->nr_inflight++;
	return r;
}

void fhl_token_begin(struct fh_token *t, const struct fhl_req *r)
{
	*t = (struct fh_token){.id = r->id, .user_data = r->user_data, .index = r->nr_tokens};
}

static int bad_param(struct fh_client *c, const char *name, double value, const char *want)
{
	return fh_errf(&c->err, -EINVAL, "fh_generate: %s is %g; it must be %s", name, value, want);
}

/* The caller's parameters, as far as this library knows them, checked. */
static int copy_params(struct fh_client *c, const struct fh_params *in, struct fh_params *p)
{
	const char *bytes = (const char *)in;

	if (!in || in->size < sizeof(*p))
		return fh_errf(&c->err, -EINVAL, "fh_generate: params->size is %u: call fh_params_init() first",
			       in ? in->size : 0);
	for (size_t i = sizeof(*p); i < in->size; i++)
		if (bytes[i])
			return fh_errf(&c->err, -E2BIG,
				       "fh_generate: the program sets parameters that this library (%s) does not "
				       "know: install a newer one",
				       FREEHOLD_VERSION);
	*p = *in;
	if (p->flags & ~FHL_FLAGS)
		return fh_errf(&c->err, -EINVAL,
			       "fh_generate: flags has unknown bits (%#x): FH_REQ_IGNORE_EOS, FH_REQ_LOGPROBS and "
			       "FH_REQ_SEED are known",
			       p->flags & ~FHL_FLAGS);
	if (!p->max_tokens)
		return bad_param(c, "max_tokens", 0, "at least 1");
	if (p->req_class > FH_CLASS_BATCH)
		return bad_param(c, "req_class", p->req_class, "one of enum fh_class");
	if (!(p->temperature >= 0 && p->temperature <= 100))
		return bad_param(c, "temperature", (double)p->temperature, "0 (greedy) or more");
	if (!(p->top_p >= 0 && p->top_p <= 1))
		return bad_param(c, "top_p", (double)p->top_p, "between 0 and 1");
	if (!(p->min_p >= 0 && p->min_p <= 1))
		return bad_param(c, "min_p", (double)p->min_p, "between 0 and 1");
	if (!(p->typical_p >= 0 && p->typical_p <= 1))
		return bad_param(c, "typical_p", (double)p->typical_p, "between 0 and 1");
	if (!(p->repetition_penalty >= 0 && p->repetition_penalty <= 100))
		return bad_param(c, "repetition_penalty", (double)p->repetition_penalty, "between 0 and 100");
	p->top_p = p->top_p > 0 ? p->top_p : 1;
	p->typical_p = p->typical_p > 0 ? p->typical_p : 1;
	p->repetition_penalty = p->repetition_penalty > 0 ? p->repetition_penalty : 1;
	return 0;
}

/* Say again what the transport had no room for. */
static int ask_again(struct fh_client *c)
{
	for (uint32_t i = 0; c->nr_unasked && i < c->opt.max_requests; i++) {
		struct fhl_req *r = &c->reqs[i];
		int rc = r->id && r->unasked ? c->ops->cancel(c, r) : -ENOENT;

		if (rc == -ENOENT)
			continue;
		if (rc)
			return rc == -EAGAIN ? 0 : rc;
		r->unasked = false;
		c->nr_unasked--;
	}
	return 0;
}

static int generate(struct fh_client *c, const struct fhl_prompt *prompt, const struct fh_params *params, uint64_t *id)
{
	struct fh_params p;
	struct fhl_req *r;
	int rc;

	if (c->dead)
		return c->dead;
	if (!prompt->data || !prompt->bytes)
		return fh_errf(&c->err, -EINVAL, "fh_generate: the prompt is empty: it needs a token at least");
	rc = copy_params(c, params, &p);
	if (!rc)
		rc = ask_again(c);
	if (rc)
		return rc;
	r = req_get(c, p.user_data);
	if (!r)
		return fh_errf(&c->err, -EAGAIN,
			       "%u requests are in flight on this handle: read tokens until one ends, or open with a "
			       "larger max_requests",
			       c->nr_inflight);
	rc = c->ops->submit(c, r, prompt, &p);
	if (rc) {
		fhl_req_put(c, r);
		return rc;
	}
	if (id)
		*id = r->id;
	return 0;
}

int fh_generate(struct fh_client *c, const uint32_t *ids, size_t nr_ids, const struct fh_params *params, uint64_t *id)
{
	struct fhl_prompt prompt = {.data = ids, .bytes = nr_ids * sizeof(*ids)};

	if (nr_ids > UINT32_MAX / sizeof(*ids))
		return fh_errf(&c->err, -E2BIG, "fh_generate: %zu token ids are more than a request can carry", nr_ids);
	return generate(c, &prompt, params, id);
}

int fh_generate_text(struct fh_client *c, const char *text, size_t text_bytes, const struct fh_params *params,
		     uint64_t *id)
{
	struct fhl_prompt prompt = {.data = text, .bytes = text_bytes, .text = true};

	if (text_bytes > UINT32_MAX)
		return fh_errf(&c->err, -E2BIG, "fh_generate_text: %zu bytes are more than a request can carry",
			       text_bytes);
	return generate(c, &prompt, params, id);
}

int fh_cancel(struct fh_client *c, uint64_t id)
{
	struct fhl_req *r;
	int rc;

	if (c->dead)
		return c->dead;
	r = fhl_req_find(c, id);
	if (!r)
		return fh_errf(&c->err, -ENOENT, "fh_cancel: no request %llu is in flight", (unsigned long long)id);
	if (r->cancel)
		return 0;
	rc = c->ops->cancel(c, r);
	if (rc && rc != -EAGAIN)
		return rc;
	r->cancel = true;
	if (rc) {
		r->unasked = true;
		c->nr_unasked++;
	}
	return 0;
}

/* Tokens */

/* A token, -EAGAIN, or why there will be none. */
static int look(struct fh_client *c, struct fh_token *t)
{
	int rc;

	rc = c->dead ? c->dead : c->nr_unasked ? ask_again(c) : 0;
	if (!rc)
		rc = c->ops->look(c, t);
	if (rc == -EAGAIN && !c->nr_inflight)
		return fh_errf(&c->err, -ENODATA, "no request is in flight on this handle: fh_generate() begins one");
	return rc;
}

int fh_try_next(struct fh_client *c, struct fh_token *t)
{
	int none, rc;

	for (int i = 0;; i++) {
		none = look(c, t);
		if ((none != -EAGAIN && none != -ENODATA) || !c->polled)
			return none;
		/* With nothing in flight, too: a wake-up that was left would keep the descriptor readable. */
		rc = c->ops->arm(c);
		if (rc != -EALREADY)
			return rc ? rc : none;
		/* It cannot go on like this: whatever came is seen by look(), but for a side that plays tricks. */
		if (i == 64)
			return none;
	}
}

int fh_next_token(struct fh_client *c, struct fh_token *t, int64_t timeout_us)
{
	uint64_t until_ns = UINT64_MAX;
	int rc = look(c, t);

	if (rc != -EAGAIN)
		return rc;
	if (timeout_us >= 0)
		until_ns = fh_now_ns() + (uint64_t)timeout_us * 1000;
	for (;;) {
		if (timeout_us >= 0 && fh_now_ns() >= until_ns)
			return fh_errf(&c->err, -ETIMEDOUT, "no token came within %lld us", (long long)timeout_us);
		rc = c->ops->wait(c, until_ns);
		if (!rc)
			rc = look(c, t);
		if (rc != -EAGAIN)
			return rc == -EINTR ? fh_errf(&c->err, rc, "a signal interrupted fh_next_token()") : rc;
	}
}

int fh_fd(struct fh_client *c)
{
	int fd;

	if (c->dead)
		return c->dead;
	fd = c->ops->fd(c);
	if (fd >= 0)
		c->polled = true;
	return fd;
}

/* What it is */

int fh_get_info(const struct fh_client *c, struct fh_client_info *info)
{
	struct fh_client_info mine = {
		.size = sizeof(mine),
		.transport = c->ops ? c->ops->name : "",
		.where = c->where,
		.model = c->model,
		.nr_ctx = c->nr_ctx,
		.nr_vocab = c->nr_vocab,
		.uid = c->peer.uid,
		.gid = c->peer.gid,
		.pid = c->peer.pid,
	};

	if (info->size < sizeof(info->size))
		return -EINVAL;
	if (c->peer.flags & FH_PEER_VALID)
		mine.flags |= FH_INFO_PEER;
	if (c->vocab.map)
		mine.flags |= FH_INFO_VOCAB;
	mine.size = info->size < sizeof(mine) ? info->size : (uint32_t)sizeof(mine);
	memcpy(info, &mine, mine.size);
	return 0;
}

const char *fh_error_message(const struct fh_client *c)
{
	return c ? c->err.msg : "out of memory";
}

const char *fh_library_version(void)
{
	return FREEHOLD_VERSION;
}
