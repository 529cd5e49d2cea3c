// SPDX-License-Identifier: Apache-2.0
/*
 * The exporter: one thread reads finished requests from the server into a bounded
 * queue, one posts them through libcurl, which is loaded at run time.
 *
 * A post is repeated as the OTLP specification has it: after 429, 502, 503 and
 * 504, when the collector says (Retry-After), and else after a second, then twice
 * as long each time with some chance in it, up to half a minute; likewise where no
 * connection comes about.  After MAX_TRIES, or any other answer, what was to be
 * posted is dropped.
 */
#include <dlfcn.h>
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/random.h"
#include "runtime/daemon/otlp.h"

#define MAX_BATCH 512
#define BATCH_MS 500	  /* that the first of a batch waits for others */
#define MAX_TRIES 6	  /* a minute, about */
#define MAX_WAIT_MS 30000 /* between two of them, whatever the collector says */
#define END_MS 2000	  /* for what is left when the server ends */
#define LATE_MS 500	  /* that a post may go on after that: libcurl waits for a name as long as that takes */
#define MAX_ANSWER 65536

/* The part of libcurl's ABI that is used, which has not changed since version 7.66 (curl/curl.h). */
enum {
	OPT_NOPROGRESS = 43,
	OPT_TIMEOUT_MS = 155,
	OPT_CONNECTTIMEOUT_MS = 156,
	OPT_NOSIGNAL = 99,
	OPT_PROTOCOLS = 181,
	OPT_WRITEDATA = 10001,
	OPT_URL = 10002,
	OPT_ERRORBUFFER = 10010,
	OPT_POSTFIELDS = 10015,
	OPT_USERAGENT = 10018,
	OPT_HTTPHEADER = 10023,
	OPT_XFERINFODATA = 10057,
	OPT_WRITEFUNCTION = 20011,
	OPT_XFERINFOFUNCTION = 20219,
	OPT_POSTFIELDSIZE_LARGE = 30120,
	INFO_RESPONSE_CODE = 0x200002,
	INFO_RETRY_AFTER = 0x600039,
	PROTOCOLS_HTTP_HTTPS = 3,
	ERROR_BYTES = 256,
	GLOBAL_ALL = 3,
};

struct curl {
	int (*global_init)(long flags);
	void *(*init)(void);
	int (*setopt)(void *h, int option, ...);
	int (*perform)(void *h);
	int (*getinfo)(void *h, int info, ...);
	void *(*append)(void *list, const char *text);
	const char *(*strerror)(int code);
};

struct exporter {
	const struct fhd_otlp_setup *s;
	struct curl curl;
	void *handle, *headers;
	char error[ERROR_BYTES];
	char answer[MAX_ANSWER];
	size_t nr_answer;
	struct fh_random random;
	bool complained;
	pthread_mutex_t lock;
	pthread_cond_t more;
	/* Under the lock. */
	struct fh_trace_span *queue; /* [max_queue], a ring */
	uint32_t from, nr;
	bool ending;
	uint64_t end_ns; /* when to give up, once it ends */
	struct fh_trace_span batch[MAX_BATCH];
};

static bool load_curl(struct curl *c, char *why, size_t cap)
{
	static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};
	void *lib = dlopen(names[0], RTLD_NOW | RTLD_LOCAL);
	const struct {
		void **at;
		const char *name;
	} wanted[] = {
		{(void **)&c->global_init, "curl_global_init"}, {(void **)&c->init, "curl_easy_init"},
		{(void **)&c->setopt, "curl_easy_setopt"},	{(void **)&c->perform, "curl_easy_perform"},
		{(void **)&c->getinfo, "curl_easy_getinfo"},	{(void **)&c->append, "curl_slist_append"},
		{(void **)&c->strerror, "curl_easy_strerror"},
	};

	if (!lib)
		lib = dlopen(names[1], RTLD_NOW | RTLD_LOCAL);
	for (size_t i = 0; lib && i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		*wanted[i].at = dlsym(lib, wanted[i].name);
		if (!*wanted[i].at)
			lib = NULL;
	}
	if (!lib)
		snprintf(why, cap, "libcurl cannot be loaded (%.120s): install libcurl4", dlerror());
	return lib;
}

static size_t on_answer(const char *data, size_t size, size_t nr, void *ctx)
{
	struct exporter *e = ctx;
	size_t n = size * nr, room = sizeof(e->answer) - 1 - e->nr_answer;

	memcpy(e->answer + e->nr_answer, data, n < room ? n : room);
	e->nr_answer += n < room ? n : room;
	return n;
}

/* How long it may still take; the whole time-out while the server runs. */
static uint64_t left_ms(struct exporter *e)
{
	uint64_t ms = e->s->timeout_s * 1000ull, now_ns = fh_now_ns();

	pthread_mutex_lock(&e->lock);
	if (e->ending)
		ms = e->end_ns > now_ns ? (e->end_ns - now_ns) / 1000000 : 0;
	pthread_mutex_unlock(&e->lock);
	return ms;
}

/* Asked about once a second while a post is under way: not 0 ends it, however long it might still take. */
static int on_progress(void *ctx, int64_t to_get, int64_t got, int64_t to_put, int64_t put)
{
	(void)to_get, (void)got, (void)to_put, (void)put;
	return !left_ms(ctx);
}

static bool open_curl(struct exporter *e, char *why, size_t cap)
{
	const struct curl *c = &e->curl;

	if (!load_curl(&e->curl, why, cap))
		return false;
	if (c->global_init(GLOBAL_ALL) || !(e->handle = c->init())) {
		snprintf(why, cap, "libcurl cannot begin");
		return false;
	}
	e->headers = c->append(NULL, "Content-Type: application/json");
	e->headers = c->append(e->headers, "Expect:");
	for (char **h = e->s->headers; h && *h; h++)
		e->headers = c->append(e->headers, *h);
	c->setopt(e->handle, OPT_URL, e->s->url);
	c->setopt(e->handle, OPT_PROTOCOLS, (long)PROTOCOLS_HTTP_HTTPS);
	c->setopt(e->handle, OPT_HTTPHEADER, e->headers);
	c->setopt(e->handle, OPT_USERAGENT, "freehold");
	c->setopt(e->handle, OPT_NOSIGNAL, 1L);
	c->setopt(e->handle, OPT_ERRORBUFFER, e->error);
	c->setopt(e->handle, OPT_WRITEFUNCTION, on_answer);
	c->setopt(e->handle, OPT_WRITEDATA, e);
	c->setopt(e->handle, OPT_NOPROGRESS, 0L);
	c->setopt(e->handle, OPT_XFERINFOFUNCTION, on_progress);
	c->setopt(e->handle, OPT_XFERINFODATA, e);
	return true;
}

static int64_t realtime_offset_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec - (int64_t)fh_now_ns();
}

/* ---- posting ---- */

/* Once: the status, or 0 and why no answer came. */
static long post(struct exporter *e, const char *text)
{
	const struct curl *c = &e->curl;
	long status = 0, ms = (long)left_ms(e);
	int rc;

	e->nr_answer = 0;
	e->error[0] = 0;
	c->setopt(e->handle, OPT_TIMEOUT_MS, ms ? ms : 1L);
	c->setopt(e->handle, OPT_CONNECTTIMEOUT_MS, ms ? ms : 1L);
	c->setopt(e->handle, OPT_POSTFIELDS, text);
	c->setopt(e->handle, OPT_POSTFIELDSIZE_LARGE, (long long)strlen(text));
	rc = c->perform(e->handle);
	e->answer[e->nr_answer] = 0;
	if (!rc)
		c->getinfo(e->handle, INFO_RESPONSE_CODE, &status);
	if (rc && !e->error[0])
		snprintf(e->error, sizeof(e->error), "%s", c->strerror(rc));
	return status;
}

static bool may_repeat(long status)
{
	return !status || status == 429 || status == 502 || status == 503 || status == 504;
}

/* Sleep before the next try; false: the server has ended, there is none. */
static bool wait_a_while(struct exporter *e, long status, int tries)
{
	uint64_t ms = 1000ull << tries, until_ns;
	struct timespec ts;
	int64_t after_s = 0;
	bool ending;

	ms = ms / 2 + fh_random_next(&e->random) % ms;
	if (status)
		e->curl.getinfo(e->handle, INFO_RETRY_AFTER, &after_s);
	if (after_s > 0)
		ms = (uint64_t)after_s * 1000;
	until_ns = fh_now_ns() + (ms < MAX_WAIT_MS ? ms : MAX_WAIT_MS) * 1000000;
	ts = (struct timespec){.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000)};
	pthread_mutex_lock(&e->lock);
	while (!e->ending && fh_now_ns() < until_ns)
		pthread_cond_timedwait(&e->more, &e->lock, &ts);
	ending = e->ending;
	pthread_mutex_unlock(&e->lock);
	return !ending;
}

/* What the collector did not take of a post that it answered with success. */
static uint64_t nr_rejected(const struct exporter *e, uint32_t nr)
{
	json_t *j = json_loadb(e->answer, e->nr_answer, 0, NULL), *n;
	uint64_t spans = 0;

	n = json_object_get(json_object_get(j, "partialSuccess"), "rejectedSpans");
	if (json_is_integer(n) && json_integer_value(n) > 0)
		spans = (uint64_t)json_integer_value(n);
	else if (json_is_string(n))
		spans = strtoull(json_string_value(n), NULL, 10);
	json_decref(j);
	/* It counts spans, we count requests, which have up to four. */
	spans = (spans + 3) / 4;
	return spans < nr ? spans : nr;
}

static void complain(struct exporter *e, long status, uint32_t nr)
{
	/* Once until it goes well again. */
	if (!e->complained && status)
		fh_warn("traces: %s answers %ld; %u requests are missing there", e->s->shown, status, nr);
	else if (!e->complained)
		fh_warn("traces: %s: %s; %u requests are missing there", e->s->shown, e->error, nr);
	e->complained = true;
}

static void export_batch(struct exporter *e, uint32_t nr)
{
	char *text = fhd_otlp_json(e->s, e->batch, nr, realtime_offset_ns());
	struct fhd_otlp_counters *c = e->s->c;
	uint64_t rejected;
	long status = 0;

	for (int tries = 0; text; tries++) {
		status = post(e, text);
		if (!may_repeat(status) || tries + 1 == MAX_TRIES || !wait_a_while(e, status, tries))
			break;
		atomic_fetch_add(&c->nr_retries, 1);
	}
	free(text);
	if (text && status / 100 == 2) {
		rejected = nr_rejected(e, nr);
		atomic_fetch_add(&c->nr_exported, nr - rejected);
		atomic_fetch_add(&c->nr_failed, rejected);
		e->complained = false;
		return;
	}
	atomic_fetch_add(&c->nr_failed, nr);
	complain(e, status, nr);
}

/* Wait for some; 0: the server has ended, and nothing is left. */
static uint32_t take_batch(struct exporter *e)
{
	uint32_t nr;

	pthread_mutex_lock(&e->lock);
	while (!e->nr && !e->ending)
		pthread_cond_wait(&e->more, &e->lock);
	if (e->nr < MAX_BATCH && !e->ending) {
		uint64_t until_ns = fh_now_ns() + BATCH_MS * 1000000ull;
		struct timespec ts = {.tv_sec = (time_t)(until_ns / 1000000000),
				      .tv_nsec = (long)(until_ns % 1000000000)};

		while (e->nr < MAX_BATCH && !e->ending && !pthread_cond_timedwait(&e->more, &e->lock, &ts))
			;
	}
	nr = e->nr < MAX_BATCH ? e->nr : MAX_BATCH;
	for (uint32_t i = 0; i < nr; i++)
		e->batch[i] = e->queue[(e->from + i) % e->s->max_queue];
	e->from = (e->from + nr) % e->s->max_queue;
	e->nr -= nr;
	atomic_store(&e->s->c->nr_queued, e->nr);
	pthread_mutex_unlock(&e->lock);
	return nr;
}

static void *post_main(void *arg)
{
	struct exporter *e = arg;
	uint32_t nr;

	while ((nr = take_batch(e))) {
		if (left_ms(e))
			export_batch(e, nr);
		else
			atomic_fetch_add(&e->s->c->nr_failed, nr);
	}
	return NULL;
}

/* ---- reading ---- */

static void enqueue(struct exporter *e, const struct fh_trace_span *s)
{
	bool room;

	pthread_mutex_lock(&e->lock);
	room = e->nr < e->s->max_queue;
	if (room)
		e->queue[(e->from + e->nr++) % e->s->max_queue] = *s;
	atomic_store(&e->s->c->nr_queued, e->nr);
	pthread_cond_signal(&e->more);
	pthread_mutex_unlock(&e->lock);
	if (!room)
		atomic_fetch_add(&e->s->c->nr_no_room, 1);
}

static void log_request(const struct exporter *e, const struct fh_trace_span *s)
{
	char *line = fhd_otlp_log_line(e->s, s, realtime_offset_ns());

	if (line && write(STDERR_FILENO, line, strlen(line)) < 0) {
		/* Nobody is left to tell. */
	}
	free(line);
}

static void read_all(struct exporter *e, int fd)
{
	struct fh_trace_span s;
	ssize_t n;

	for (;;) {
		n = recv(fd, &s, sizeof(s), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(s))
			break;
		if (e->s->log_requests)
			log_request(e, &s);
		if (s.sampled && e->handle)
			enqueue(e, &s);
	}
	pthread_mutex_lock(&e->lock);
	e->ending = true;
	e->end_ns = fh_now_ns() + END_MS * 1000000ull;
	pthread_cond_signal(&e->more);
	pthread_mutex_unlock(&e->lock);
}

static void init_waiting(struct exporter *e)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&e->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&e->more, &attr);
	pthread_condattr_destroy(&attr);
}

/* The last post may hang in the search for a name, which nothing ends. */
static void join(pthread_t thread)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += (END_MS + LATE_MS) / 1000;
	ts.tv_nsec += (END_MS + LATE_MS) % 1000 * 1000000;
	ts.tv_sec += ts.tv_nsec / 1000000000;
	ts.tv_nsec %= 1000000000;
	pthread_timedjoin_np(thread, NULL, &ts);
}

void fhd_otlp_run(const struct fhd_otlp_setup *s, int fd, int (*confine)(const void *ctx, struct fh_err *err),
		  const void *ctx)
{
	struct exporter *e = calloc(1, sizeof(*e));
	struct fh_err err = {0};
	pthread_t thread;
	bool threaded = false;

	if (e) {
		e->s = s;
		e->queue = calloc(s->max_queue, sizeof(*e->queue));
		fh_random_seed(&e->random);
		init_waiting(e);
	}
	if (!e || !e->queue) {
		snprintf(err.msg, sizeof(err.msg), "no memory");
	} else if ((!*s->url || open_curl(e, err.msg, sizeof(err.msg))) && !confine(ctx, &err) && *s->url) {
		threaded = !pthread_create(&thread, NULL, post_main, e);
		if (!threaded)
			snprintf(err.msg, sizeof(err.msg), "no thread");
	}
	if (send(fd, err.msg, strlen(err.msg) + 1, MSG_NOSIGNAL) < 0 || *err.msg)
		return;
	read_all(e, fd);
	if (threaded)
		join(thread);
}
