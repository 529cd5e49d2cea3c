// SPDX-License-Identifier: Apache-2.0
/*
 * freehold run: complete a prompt, or chat, on the terminal.
 *
 * Everything goes through the engine by way of the fake front end, so that what
 * is printed here is what HTTP would answer.  With -p standard output carries
 * the completion and nothing else.
 */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/daemon/core.h"
#include "runtime/net/fake.h"
#include "tools/cmd.h"

struct run_options {
	char *prompt, *system;
	uint32_t nr_tokens;
	float temperature, top_p, min_p, typical_p;
	float repetition_penalty, presence_penalty, frequency_penalty;
	uint32_t top_k;
	uint64_t seed;
	struct fhd_strings stop;
	bool ignore_eos, special, stats;
};

#define AT(field) offsetof(struct run_options, field)
#define SEED_RANDOM UINT64_MAX

static const struct fhd_option options[] = {
	{"generation:", 0, FHD_OPT_GROUP, 0, 0, 0, NULL, NULL},
	{"prompt", 'p', FHD_OPT_STR, AT(prompt), 0, 0, "TEXT", "complete TEXT and end; without it: chat"},
	{"tokens", 'n', FHD_OPT_U32, AT(nr_tokens), 1, 1 << 24, "N",
	 "at most N tokens (default: what the context holds)"},
	{"temp", 0, FHD_OPT_FLOAT, AT(temperature), 0, 100, "T",
	 "temperature; 0 takes the best token always (default: 0.8)"},
	{"seed", 's', FHD_OPT_U64, AT(seed), 0, 1.8e19, "S", "same seed, same text (default: a random one)"},
	{"top-k", 0, FHD_OPT_U32, AT(top_k), 0, 1 << 24, "K", "choose among the K best; 0: all (default: 40)"},
	{"top-p", 0, FHD_OPT_FLOAT, AT(top_p), 0, 1, "P", "among the best that make up P together (default: 0.95)"},
	{"min-p", 0, FHD_OPT_FLOAT, AT(min_p), 0, 1, "P", "not below P times the best one's (default: 0.05)"},
	{"typical-p", 0, FHD_OPT_FLOAT, AT(typical_p), 0, 1, "P", "locally typical sampling; 1: off (default: 1)"},
	{"repetition-penalty", 0, FHD_OPT_FLOAT, AT(repetition_penalty), 0.01, 100, "R",
	 "over prompt and output (default: 1, none)"},
	{"presence-penalty", 0, FHD_OPT_FLOAT, AT(presence_penalty), -2, 2, "R", "over the output (default: 0)"},
	{"frequency-penalty", 0, FHD_OPT_FLOAT, AT(frequency_penalty), -2, 2, "R", "over the output (default: 0)"},
	{"stop", 0, FHD_OPT_LIST, AT(stop), 0, 0, "TEXT", "end before TEXT; may be repeated"},
	{"ignore-eos", 0, FHD_OPT_ON, AT(ignore_eos), 0, 0, NULL, "go on after the model's end of text"},
	{"special", 0, FHD_OPT_ON, AT(special), 0, 0, NULL,
	 "read special tokens in the prompt, such as <|eot_id|>, as such"},
	{"system", 0, FHD_OPT_STR, AT(system), 0, 0, "TEXT", "chat: the system message"},
	{"stats", 0, FHD_OPT_ON, AT(stats), 0, 0, NULL, "print times to standard error at the end"},
};

static void usage(FILE *out)
{
	const struct fhd_option_set set = {.opts = options, .nr = sizeof(options) / sizeof(options[0])};

	fputs("usage: freehold run [-m MODEL] -p PROMPT [-n N] [OPTION...]\n"
	      "       freehold run [-m MODEL] [OPTION...]\n"
	      "\n"
	      "Complete a prompt: the completion, and nothing else, goes to standard output.\n"
	      "Without -p, chat: a line is a message, Ctrl-C stops an answer, Ctrl-D ends.\n",
	      out);
	fhd_config_help(out, FHD_USE_RUN, &set);
	fputs("\n"
	      "examples:\n"
	      "  freehold run -p 'The old King' -n 64\n"
	      "  freehold run -m model.gguf -p 'The capital of France is' -n 8 --temp 0\n"
	      "  freehold run -m model.gguf --system 'Answer in one sentence.'\n",
	      out);
}

/* Ctrl-C: the generation under way ends; with none, the program. */
static volatile sig_atomic_t interrupted;

static void on_sigint(int sig)
{
	(void)sig;
	interrupted = 1;
}

struct session {
	struct fhd_core core;
	struct fh_fake *fake;
	const struct run_options *opt;
	uint64_t seed;
	/* Of the completion under way. */
	bool broken; /* standard output is gone */
	char *text;
	size_t text_bytes;
	FILE *collect;
};

static void on_text(void *ctx, const char *text, size_t bytes)
{
	struct session *s = ctx;

	if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout))
		s->broken = true;
	if (s->collect)
		fwrite(text, 1, bytes, s->collect);
}

static int on_slot(void *ctx, const struct fh_slot *slot, const struct fh_top *top)
{
	const struct session *s = ctx;

	(void)slot;
	(void)top;
	return interrupted || s->broken;
}

static void fill_sampling(struct fh_sampling *to, const struct run_options *o, uint64_t seed)
{
	fh_sampling_default(to);
	to->temperature = o->temperature;
	to->top_p = o->top_p;
	to->min_p = o->min_p;
	to->typical_p = o->typical_p;
	to->top_k = o->top_k;
	to->repetition_penalty = o->repetition_penalty;
	to->presence_penalty = o->presence_penalty;
	to->frequency_penalty = o->frequency_penalty;
	to->seed = seed;
}

static void print_stats(const struct fh_fake_call *call)
{
	const struct fh_request *r = &call->req;
	double ttft = (double)(r->first_token_ns - call->submit_ns) / 1e6;
	double rest = (double)(r->done_ns - r->first_token_ns) / 1e9;

	if (!r->nr_generated)
		return;
	if (isatty(STDOUT_FILENO))
		fputc('\n', stderr);
	fprintf(stderr, "freehold: %u tokens of prompt (%u cached), first token after %.2f ms", r->nr_prompt,
		r->nr_cached_prompt, ttft);
	if (r->nr_generated > 1 && rest > 0)
		fprintf(stderr, "; %u more, %.1f tokens/s", r->nr_generated - 1, (r->nr_generated - 1) / rest);
	fputc('\n', stderr);
}

/* Complete @nr ids.  0, or -errno with @err. */
static int complete(struct session *s, const uint32_t *ids, uint32_t nr, struct fh_err *err)
{
	const struct run_options *o = s->opt;
	struct fh_fake_call call;
	uint32_t room = s->core.nr_ctx > nr ? s->core.nr_ctx - nr : 0;
	int rc;

	if (!room)
		return fh_errf(err, -E2BIG, "the prompt has %u tokens and the context holds %u: use a larger --ctx", nr,
			       s->core.nr_ctx);
	fh_fake_call_init(&call);
	call.req.kind = FH_REQ_GENERATE;
	call.req.prompt = ids;
	call.req.nr_prompt = nr;
	call.req.max_tokens = o->nr_tokens && o->nr_tokens < room ? o->nr_tokens : room;
	call.req.ignore_eos = o->ignore_eos;
	for (uint32_t i = 0; i < o->stop.n; i++)
		call.req.stop[call.req.nr_stop++] =
			(struct fh_stop){.text = o->stop.v[i], .bytes = (uint32_t)strlen(o->stop.v[i])};
	fill_sampling(&call.req.sampling, o, s->seed);
	call.on_text = on_text;
	call.on_slot = on_slot;
	call.ctx = s;
	rc = fh_fake_run(s->fake, &call, err);
	if (!rc && s->broken)
		rc = fh_errf(err, -EPIPE, "standard output is closed");
	if (!rc && o->stats)
		print_stats(&call);
	return rc;
}

static int run_once(struct session *s, struct fh_err *err)
{
	unsigned int flags = FH_TOK_BOS | (s->opt->special ? FH_TOK_SPECIAL : 0);
	uint32_t *ids = NULL, nr = 0;
	int rc;

	rc = fh_tokenize(s->core.tok, s->opt->prompt, strlen(s->opt->prompt), flags, &ids, &nr);
	if (rc)
		return fh_errf(err, rc, "the prompt cannot be tokenized: %s", strerror(-rc));
	if (!nr)
		rc = fh_errf(err, -EINVAL, "the prompt is empty, and the model has no token to begin with");
	else
		rc = complete(s, ids, nr, err);
	free(ids);
	if (!rc && isatty(STDOUT_FILENO))
		putchar('\n');
	return rc;
}

/* ---- chat ---- */

static int add_message(json_t *messages, const char *role, const char *text, size_t bytes)
{
	json_t *s = json_stringn(text, bytes);

	/* What a model or a terminal gives may be no UTF-8. */
	return s ? json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", s)) : -1;
}

/* The ids of the conversation so far, with the beginning of an answer. */
static int conversation(struct session *s, json_t *messages, uint32_t **ids, uint32_t *nr, struct fh_err *err)
{
	const struct fh_text_ops *ops = &s->core.svc.text;
	char *json = json_dumps(messages, JSON_COMPACT), *text = NULL;
	size_t bytes;
	int rc;

	if (!json)
		return fh_errf(err, -ENOMEM, "out of memory");
	rc = ops->apply_template(ops->ctx, json, NULL, true, &text, &bytes, err);
	free(json);
	if (rc)
		return rc;
	rc = ops->tokenize(ops->ctx, text, bytes, FH_TOK_SPECIAL, ids, nr);
	free(text);
	return rc ? fh_errf(err, rc, "the conversation cannot be tokenized: %s", strerror(-rc)) : 0;
}

/* Forget the oldest exchange, but not the system message. */
static bool forget_oldest(const struct session *s, json_t *messages)
{
	size_t first = s->opt->system ? 1 : 0;

	if (json_array_size(messages) < first + 3)
		return false;
	json_array_remove(messages, first);
	json_array_remove(messages, first);
	return true;
}

static int answer(struct session *s, json_t *messages, struct fh_err *err)
{
	uint32_t *ids = NULL, nr = 0;
	int rc;

	for (;;) {
		rc = conversation(s, messages, &ids, &nr, err);
		if (rc || nr < s->core.nr_ctx - s->core.nr_ctx / 8 || !forget_oldest(s, messages))
			break;
		free(ids);
		ids = NULL;
	}
	if (rc)
		return rc;
	s->text = NULL;
	s->collect = open_memstream(&s->text, &s->text_bytes);
	interrupted = 0;
	rc = s->collect ? complete(s, ids, nr, err) : fh_errf(err, -ENOMEM, "out of memory");
	free(ids);
	if (s->collect && !fclose(s->collect) && !rc && add_message(messages, "assistant", s->text, s->text_bytes))
		add_message(messages, "assistant", "", 0);
	s->collect = NULL;
	free(s->text);
	interrupted = 0;
	return rc;
}

/*
 * Prompt for a line and read it, as getline().  On a terminal Ctrl-C makes it
 * fail with EINTR, whenever it comes after the prompt: SIGINT is let through
 * in the wait only, so that none is lost just before it.
 */
static ssize_t read_line(char **line, size_t *cap, bool tty)
{
	struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
	sigset_t set, before;
	ssize_t n = -1;
	int saved;

	errno = 0;
	if (!tty)
		return getline(line, cap, stdin);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, &before);
	fputs("> ", stderr);
	if (ppoll(&p, 1, NULL, &before) > 0)
		n = getline(line, cap, stdin);
	saved = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = saved;
	return n;
}

static int chat(struct session *s, struct fh_err *err)
{
	json_t *messages = json_array();
	bool tty = isatty(STDIN_FILENO);
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	bool asked = false; /* whether Ctrl-C means the end */
	int rc = 0;

	if (tty && !fhd_text_is_chat(s->core.text))
		fprintf(stderr, "freehold: %s has no chat template; it goes on with what you begin\n",
			s->core.model->name);
	if (s->opt->system)
		add_message(messages, "system", s->opt->system, strlen(s->opt->system));
	while (!rc) {
		n = read_line(&line, &cap, tty);
		if (n < 0 && errno == EINTR) { /* Ctrl-C at the prompt: a second one ends */
			if (asked || !tty)
				break;
			asked = true;
			clearerr(stdin);
			fputs("\n(Ctrl-C again, or Ctrl-D, ends)\n", stderr);
			continue;
		}
		if (n < 0)
			break;
		asked = false;
		n -= n && line[n - 1] == '\n';
		if (!n)
			continue;
		if (add_message(messages, "user", line, (size_t)n)) {
			fputs("freehold: that was no UTF-8 text\n", stderr);
			continue;
		}
		rc = answer(s, messages, err);
		putchar('\n');
		if (rc == -E2BIG || rc == -EINVAL) { /* the message's fault, not ours */
			fprintf(stderr, "freehold: %s\n", err->msg);
			json_array_remove(messages, json_array_size(messages) - 1);
			rc = 0;
		}
	}
	if (tty)
		fputc('\n', stderr);
	free(line);
	json_decref(messages);
	return rc;
}

/* ---- start and end ---- */

static int start(struct session *s, const struct fhd_config *cfg, struct fh_err *err)
{
	int rc = fhd_core_open(&s->core, cfg, err);

	if (!rc)
		rc = fhd_core_start(&s->core, err);
	if (!rc)
		rc = fh_fake_create(&s->core.svc, &s->fake, err);
	if (!rc)
		rc = fh_engine_attach(s->core.engine, fh_fake_frontend(s->fake), err);
	if (!rc)
		rc = fh_engine_start(s->core.engine, err);
	return rc;
}

static void stop(struct session *s)
{
	if (s->core.engine)
		fh_engine_stop(s->core.engine, 0);
	if (s->fake) {
		if (s->core.engine)
			fh_engine_detach(s->core.engine, fh_fake_frontend(s->fake));
		fh_fake_destroy(s->fake);
	}
	fhd_core_close(&s->core);
}

static int run(const struct fhd_config *cfg, const struct run_options *o, struct fh_err *err)
{
	struct session s = {.opt = o, .seed = o->seed};
	struct sigaction sa = {.sa_handler = on_sigint};
	sigset_t set;
	int rc;

	if (s.seed == SEED_RANDOM && getrandom(&s.seed, sizeof(s.seed), 0) != sizeof(s.seed))
		s.seed = fh_now_ns();
	signal(SIGPIPE, SIG_IGN);
	/* Only this thread shall take Ctrl-C: it may have to come back from reading a line. */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	rc = start(&s, cfg, err);
	if (!rc)
		sigaction(SIGINT, &sa, NULL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	if (!rc)
		rc = o->prompt ? run_once(&s, err) : chat(&s, err);
	stop(&s);
	return rc;
}

int cmd_run(int argc, char **argv)
{
	struct run_options o = {
		.temperature = 0.8f,
		.top_p = 0.95f,
		.min_p = 0.05f,
		.typical_p = 1.0f,
		.repetition_penalty = 1.0f,
		.top_k = 40,
		.seed = SEED_RANDOM,
	};
	struct fhd_option_set set = {.opts = options, .nr = sizeof(options) / sizeof(options[0]), .base = &o};
	struct fhd_config cfg;
	struct fh_err err = {0};
	int rc;

	rc = fhd_config_load(&cfg, FHD_USE_RUN, argc, argv, &set, &err);
	if (rc) {
		fprintf(stderr, "freehold run: %s\n`freehold run --help` explains the options\n", err.msg);
		fhd_options_free(&set);
		return rc == -EINVAL ? 2 : 1;
	}
	if (cfg.help) {
		usage(stdout);
		return 0;
	}
	fhd_log_setup(&cfg);
	rc = run(&cfg, &o, &err);
	if (rc)
		fprintf(stderr, "freehold: %s\n", err.msg);
	fhd_config_free(&cfg);
	fhd_options_free(&set);
	return rc ? 1 : 0;
}
