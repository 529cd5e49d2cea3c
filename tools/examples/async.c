// SPDX-License-Identifier: Apache-2.0
/*
 * Several requests at once, in an event loop: each line of standard input is a
 * prompt, and its answer is printed when it is whole.
 *
 *	cc async.c $(pkg-config --cflags --libs freehold) -o async
 *	printf '%s\n' 'The King' 'A garden' 'The sea' | ./async 24
 *
 * The second argument says where the server is, as in generate.c.
 */
#include <freehold.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

/* One prompt, and its answer so far. */
struct job {
	char prompt[4096];
	struct fh_decoder decoder;
	char *answer;
	size_t bytes;
};

static int die(struct fh_client *c)
{
	fprintf(stderr, "async: %s\n", fh_error_message(c));
	fh_close(c);
	return 1;
}

static void add_text(struct job *j, const char *text, size_t n)
{
	char *p = realloc(j->answer, j->bytes + n + 1);

	if (!p)
		abort();
	memcpy(p + j->bytes, text, n + 1);
	j->answer = p;
	j->bytes += n;
}

/* A token of some request: user_data says which. Returns 1 when that was its last. */
static int take(struct fh_client *c, const struct fh_token *t)
{
	struct job *j = (struct job *)(uintptr_t)t->user_data;
	const char *text;
	size_t n;

	if (t->finish == FH_FINISH_ERROR)
		fprintf(stderr, "async: '%s': %s\n", j->prompt, fh_error_message(c));
	else if (!fh_decode(c, &j->decoder, t, &text, &n))
		add_text(j, text, n);
	if (!(t->flags & FH_SLOT_LAST))
		return 0;
	printf("%s|%s\n", j->prompt, j->answer ? j->answer : "");
	free(j->answer);
	free(j);
	return 1;
}

/* Begin one more request. 1: done; 0: no more prompts, or no room now; -1: failed. */
static int begin(struct fh_client *c, uint32_t max_tokens)
{
	static struct job *waiting; /* read, and not taken by the library yet */
	struct fh_params p;
	int rc;

	if (!waiting) {
		waiting = calloc(1, sizeof(*waiting));
		if (!waiting || !fgets(waiting->prompt, sizeof(waiting->prompt), stdin)) {
			free(waiting);
			waiting = NULL;
			return 0;
		}
		waiting->prompt[strcspn(waiting->prompt, "\n")] = '\0';
	}
	fh_params_init(&p);
	p.max_tokens = max_tokens;
	p.user_data = (uintptr_t)waiting;
	rc = fh_generate_text(c, waiting->prompt, strlen(waiting->prompt), &p, NULL);
	if (rc == -EAGAIN)
		return 0;
	if (rc)
		return -1;
	waiting = NULL;
	return 1;
}

int main(int argc, char **argv)
{
	uint32_t max_tokens = argc > 1 ? (uint32_t)atoi(argv[1]) : 32, inflight = 0;
	struct epoll_event e = {.events = EPOLLIN};
	struct fh_client *c;
	struct fh_token t;
	int ep = epoll_create1(EPOLL_CLOEXEC), rc;

	if (fh_open(argc > 2 ? argv[2] : NULL, NULL, &c))
		return die(c);
	if (epoll_ctl(ep, EPOLL_CTL_ADD, fh_fd(c), &e)) {
		perror("async: epoll_ctl");
		return 1;
	}
	for (;;) {
		while ((rc = begin(c, max_tokens)) > 0)
			inflight++;
		if (rc < 0)
			return die(c);
		if (!inflight)
			break;
		/* Read until there is nothing; only then may we sleep. */
		while (inflight && !(rc = fh_try_next(c, &t)))
			inflight -= (uint32_t)take(c, &t);
		if (!inflight)
			continue;
		if (rc != -EAGAIN)
			return die(c);
		if (epoll_wait(ep, &e, 1, -1) < 0 && errno != EINTR) {
			perror("async: epoll_wait");
			return 1;
		}
	}
	close(ep);
	fh_close(c);
	return 0;
}
