// SPDX-License-Identifier: Apache-2.0
/* The bytes of requests; see plan.h. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "tools/load/plan.h"

#define DEFAULT_VOCAB 32000u

#define WANTED "want http://HOST:PORT, http+unix:PATH, channel:dev, channel:unix:PATH or udp://KEY@HOST:PORT"

static int resolve_unix(struct load_target *t, const char *path, struct fh_err *err)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&t->addr;

	if (!*path || strlen(path) >= sizeof(un->sun_path))
		return fh_errf(err, -EINVAL, "%s: the path of a Unix socket has 1 to %zu bytes", t->url,
			       sizeof(un->sun_path) - 1);
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path, path);
	t->addr_len = sizeof(*un);
	strcpy(t->host, "localhost");
	return 0;
}

/* The rings: what follows is for fh_open(), but for its HTTP, which is spoken here. */
static int resolve_channel(struct load_target *t, const char *where, struct fh_err *err)
{
	bool dev = !strcmp(where, "dev") || !strncmp(where, "dev:", 4);

	if (!dev && (strncmp(where, "unix:", 5) || !where[5]))
		return fh_errf(err, -EINVAL, "%s: " WANTED, t->url);
	t->channel = where;
	return 0;
}

static int resolve_http(struct load_target *t, struct fh_err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	const char *s = strstr(t->url, "//") + 2, *rest;
	char *name = t->name, port[8], *colon;
	int rc;

	strcpy(port, t->over_tls ? "443" : "80");
	rest = s + strcspn(s, "/");
	if (rest == s || rest - s >= (long)sizeof(t->name) || strlen(rest) >= sizeof(t->prefix))
		return fh_errf(err, -EINVAL, "%s: " WANTED, t->url);
	snprintf(t->host, sizeof(t->host), "%.*s", (int)(rest - s), s);
	snprintf(t->prefix, sizeof(t->prefix), "%s", rest);
	while (t->prefix[0] && t->prefix[strlen(t->prefix) - 1] == '/')
		t->prefix[strlen(t->prefix) - 1] = '\0';
	snprintf(name, sizeof(t->name), "%.*s", (int)(rest - s), s + (*s == '['));
	colon = strrchr(name, *s == '[' ? ']' : ':');
	if (colon && *colon == ']') {
		*colon++ = '\0';
		colon = *colon == ':' ? colon : NULL;
	}
	if (colon) {
		*colon = '\0';
		snprintf(port, sizeof(port), "%.7s", colon + 1);
	}
	rc = getaddrinfo(name, port, &hints, &found);
	if (rc)
		return fh_errf(err, -EINVAL, "%s: %s", t->url, gai_strerror(rc));
	memcpy(&t->addr, found->ai_addr, found->ai_addrlen);
	t->addr_len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

int load_target_resolve(struct load_target *t, struct fh_err *err)
{
	const char *s = t->url;

	t->prefix[0] = '\0';
	t->channel = NULL;
	if (!strncmp(s, "channel:", 8))
		return resolve_channel(t, s + 8, err);
	/* libfreehold's, too: the same handle, with other packets. */
	if (!strncmp(s, "udp://", 6)) {
		t->channel = s;
		return 0;
	}
	if (!strncmp(s, "http+unix:", 10))
		return resolve_unix(t, s + 10, err);
	if (!strncmp(s, "unix:", 5))
		return resolve_unix(t, s + 5, err);
	t->over_tls = t->tls && !strncmp(s, "https://", 8);
	if (t->over_tls)
		return resolve_http(t, err);
	if (!strncmp(s, "https://", 8))
		return fh_errf(err, -EINVAL, "%s: no TLS here", s);
	if (strncmp(s, "http://", 7))
		return fh_errf(err, -EINVAL, "%s: " WANTED, s);
	return resolve_http(t, err);
}

/* A generator of its own for purpose @what of @i: what one takes moves no other. */
static struct trace_rng fork_rng(uint64_t seed, uint64_t what, uint64_t i)
{
	struct trace_rng r;

	trace_rng_init(&r, seed ^ (what * 0xd1342543de82ef95u) ^ (i * 0xaf251af3b0f025b5u));
	return r;
}

/* @nr ids; in JSON each with its comma behind it. */
static void put_ids(const struct load_plan *plan, struct trace_rng *r, uint32_t nr, struct fh_buf *b)
{
	const struct load_prompts *p = &plan->prompts;
	uint32_t vocab = p->nr_vocab ? p->nr_vocab : DEFAULT_VOCAB, first = p->first_id < vocab ? p->first_id : 0;

	for (uint32_t i = 0; i < nr; i++) {
		uint32_t id = first + (uint32_t)((trace_rng_next(r) >> 32) * (vocab - first) >> 32);

		if (plan->target->channel) {
			fh_buf_put(b, &id, sizeof(id));
			continue;
		}
		fh_buf_u64(b, id);
		fh_buf_lit(b, ",");
	}
}

static void put_words(const struct load_prompts *p, struct trace_rng *r, uint32_t nr_tokens, struct fh_buf *b)
{
	static const char *const words[64] = {
		"harbour", "lantern", "seven",	 "quiet",   "river",   "copper",  "window",   "garden",
		"winter",  "letter",  "under",	 "before",  "stone",   "morning", "yellow",   "market",
		"bridge",  "silver",  "paper",	 "north",   "captain", "measure", "island",   "carried",
		"slowly",  "always",  "engine",	 "number",  "second",  "orange",  "because",  "between",
		"thunder", "village", "doctor",	 "forest",  "answer",  "simple",  "question", "mountain",
		"travel",  "kitchen", "history", "machine", "several", "water",	  "people",   "little",
		"against", "through", "evening", "reason",  "travels", "summer",  "picture",  "theory",
		"common",  "during",  "nothing", "thought", "country", "problem", "city",     "science"};
	uint32_t nr = (uint32_t)(nr_tokens * p->words_per_token + 0.5);

	for (uint32_t i = 0; i < (nr ? nr : 1); i++) {
		fh_buf_puts(b, words[trace_rng_next(r) >> 58]);
		fh_buf_lit(b, " ");
	}
}

static void put_random(const struct load_plan *plan, struct trace_rng *r, uint32_t nr, struct fh_buf *b)
{
	if (plan->prompts.kind == LOAD_PROMPT_IDS)
		put_ids(plan, r, nr, b);
	else
		put_words(&plan->prompts, r, nr, b);
}

/* The shared part, if this request has one, then what is its own. */
static void put_prompt(const struct load_plan *plan, uint32_t i, struct fh_buf *b)
{
	const struct load_prompts *p = &plan->prompts;
	const struct trace_req *t = &plan->trace->req[i];
	uint32_t left = t->nr_prompt;
	struct trace_rng r = fork_rng(p->seed, 3, i);

	if (t->nr_hashes) {
		for (uint32_t k = 0; k < t->nr_hashes && left; k++) {
			uint32_t nr = left < TRACE_MOONCAKE_BLOCK ? left : TRACE_MOONCAKE_BLOCK;
			struct trace_rng block = fork_rng(p->seed ^ p->salt, 4, plan->trace->hash[t->hashes_from + k]);

			put_random(plan, &block, nr, b);
			left -= nr;
		}
	} else if (p->nr_prefix && trace_rng_unit(&r) <= p->prefix_share) {
		struct trace_rng prefix = fork_rng(p->seed ^ p->salt, 5, 0);
		uint32_t nr = p->nr_prefix < left ? p->nr_prefix : left - 1;

		put_random(plan, &prefix, nr, b);
		left -= nr;
	}
	r = fork_rng(p->seed ^ p->salt, 6, i);
	put_random(plan, &r, left, b);
}

void load_plan_prompt(const struct load_plan *p, uint32_t i, struct fh_buf *out)
{
	const struct load_prompts *x = &p->prompts;

	if (x->kind == LOAD_PROMPT_DATASET) {
		const struct load_text *t = &x->data->text[i % x->data->nr];

		fh_buf_put(out, t->text, t->bytes);
		return;
	}
	put_prompt(p, i, out);
	if (x->kind == LOAD_PROMPT_WORDS && out->len)
		out->len--; /* the last space */
}

static void put_body(const struct load_plan *plan, uint32_t i, struct fh_buf *b)
{
	const struct load_target *t = plan->target;
	const struct load_prompts *p = &plan->prompts;

	fh_buf_lit(b, "{");
	if (t->model[0]) {
		fh_buf_lit(b, "\"model\":\"");
		fh_buf_json(b, t->model, strlen(t->model));
		fh_buf_lit(b, "\",");
	}
	fh_buf_puts(b, t->chat ? "\"messages\":[{\"role\":\"user\",\"content\":" : "\"prompt\":");
	fh_buf_puts(b, p->kind == LOAD_PROMPT_IDS ? "[" : "\"");
	if (p->kind == LOAD_PROMPT_DATASET)
		fh_buf_json(b, p->data->text[i % p->data->nr].text, p->data->text[i % p->data->nr].bytes);
	else
		put_prompt(plan, i, b);
	if (p->kind != LOAD_PROMPT_DATASET && b->len)
		b->len--; /* the last comma or space */
	fh_buf_puts(b, p->kind == LOAD_PROMPT_IDS ? "]" : "\"");
	fh_buf_puts(b, t->chat ? "}]" : "");
	fh_buf_printf(b, ",\"max_tokens\":%u,\"temperature\":%g,\"stream\":%s", plan->trace->req[i].nr_gen,
		      t->temperature, t->stream ? "true,\"stream_options\":{\"include_usage\":true}" : "false");
	if (t->ignore_eos)
		fh_buf_lit(b, ",\"ignore_eos\":true");
	if (t->extra) {
		fh_buf_lit(b, ",");
		fh_buf_puts(b, t->extra);
	}
	fh_buf_lit(b, "}");
}

static void put_headers(const struct load_target *t, struct fh_buf *b)
{
	fh_buf_printf(b, "Host: %s\r\nUser-Agent: freehold-bench\r\n", t->host);
	if (t->api_key) {
		fh_buf_lit(b, "Authorization: Bearer ");
		fh_buf_puts(b, t->api_key);
		fh_buf_lit(b, "\r\n");
	}
	for (uint32_t i = 0; i < t->nr_headers; i++) {
		fh_buf_puts(b, t->header[i]);
		fh_buf_lit(b, "\r\n");
	}
}

void load_plan_request(const struct load_plan *p, uint32_t i, struct fh_buf *out)
{
	static const char length[] = "Content-Length: ";
	const struct load_deadline *d = p->deadline ? &p->deadline[i] : NULL;
	size_t hole, body;
	char digits[12];

	fh_buf_lit(out, "POST ");
	fh_buf_puts(out, p->target->prefix);
	fh_buf_puts(out, p->target->path);
	fh_buf_lit(out, " HTTP/1.1\r\n");
	put_headers(p->target, out);
	if (d && d->ttft_ms > 0)
		fh_buf_printf(out, "x-freehold-ttft-ms: %.3f\r\n", d->ttft_ms);
	if (d && d->tpot_ms > 0)
		fh_buf_printf(out, "x-freehold-tpot-ms: %.3f\r\n", d->tpot_ms);
	fh_buf_lit(out, "Content-Type: application/json\r\n");
	fh_buf_puts(out, length);
	hole = out->len;
	fh_buf_lit(out, "          \r\n\r\n"); /* spaces before a value mean nothing */
	body = out->len;
	put_body(p, i, out);
	if (out->failed)
		return;
	memcpy(out->data + hole, digits, (size_t)snprintf(digits, sizeof(digits), "%10zu", out->len - body));
}

void load_get_request(const struct load_target *t, const char *path, struct fh_buf *out)
{
	fh_buf_lit(out, "GET ");
	fh_buf_puts(out, t->prefix);
	fh_buf_puts(out, path);
	fh_buf_lit(out, " HTTP/1.1\r\n");
	put_headers(t, out);
	fh_buf_lit(out, "\r\n");
}
