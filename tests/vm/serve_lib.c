// SPDX-License-Identifier: Apache-2.0
/* libfreehold over the module, against the daemon: what the library says it
 * does, with the kernel in between. */
#include <grp.h>
#include <sys/wait.h>

#include "runtime/lib/freehold.h"
#include "tests/vm/serve.h"

#define TOKENS 40

struct seen {
	char text[8192];
	_Atomic uint32_t tokens;
	_Atomic int rc;
	_Atomic uint64_t ended_us;
};

static struct seen *share(void)
{
	struct seen *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(s != MAP_FAILED);
	return s;
}

static struct fh_client *open_lib(void)
{
	struct fh_client *c = NULL;
	int rc = fh_open("dev:", NULL, &c);

	if (rc)
		printf("  %s\n", fh_error_message(c));
	CHECK(rc == 0);
	return c;
}

static void generate(struct fh_client *c, uint32_t max_tokens, uint32_t flags)
{
	struct fh_params p;
	uint64_t id;

	fh_params_init(&p);
	p.max_tokens = max_tokens;
	p.flags = flags;
	if (fh_generate_text(c, PROMPT, strlen(PROMPT), &p, &id)) {
		printf("  %s\n", fh_error_message(c));
		CHECK(false);
	}
}

static void lib_client(void *arg)
{
	struct seen *s = arg;
	struct group *g = getgrnam("freehold");
	gid_t gid = g ? g->gr_gid : 0;
	struct fh_decoder d = {0};
	struct fh_token t = {0};
	struct fh_client *c;
	const char *text;

	CHECK(g && setgroups(1, &gid) == 0);
	CHECK(setresgid(CLIENT_UID, CLIENT_UID, CLIENT_UID) == 0 && setresuid(CLIENT_UID, CLIENT_UID, CLIENT_UID) == 0);
	c = open_lib();
	generate(c, TOKENS, 0);
	while (!(t.flags & FH_SLOT_LAST)) {
		CHECK(fh_next_token(c, &t, 60000000) == 0 && t.error == 0);
		CHECK(fh_decode(c, &d, &t, &text, NULL) == 0);
		strcat(s->text, text);
	}
	fh_close(c);
}

TEST(serve_libfreehold)
{
	struct seen *s = share();
	char *want = run_greedy(TOKENS);
	struct daemon d;

	daemon_start(&d, NULL);
	reap(spawn(lib_client, s));
	if (strcmp(s->text, want) != 0)
		printf("  run: \"%s\"\n  library: \"%s\"\n", want, s->text);
	CHECK(strcmp(s->text, want) == 0);
	CHECK(daemon_said(&d, "driver channel", 1000));
	daemon_stop(&d);
	free(want);
}

/* Its runtime is killed under it: an error, and a new handle once there is a
 * new one. */
static void lib_client_that_streams(void *arg)
{
	struct seen *s = arg;
	struct fh_client *c = open_lib();
	struct fh_token t;
	int rc;

	generate(c, 450, FH_REQ_IGNORE_EOS);
	while (!(rc = fh_next_token(c, &t, 60000000)))
		s->tokens++;
	s->ended_us = now_us();
	s->rc = rc;
	fh_close(c);
}

TEST(serve_libfreehold_kill_daemon)
{
	struct seen *s = share();
	struct daemon d;
	uint64_t killed;
	pid_t pid;

	daemon_start(&d, NULL);
	pid = spawn(lib_client_that_streams, s);
	for (int i = 0; i < 60000 && s->tokens < 3; i++)
		nap_us(1000);
	CHECK(s->tokens >= 3);
	killed = now_us();
	daemon_kill(&d);
	reap(pid);
	CHECK(s->rc == -EPIPE);
	printf("  the library's client knew %lld us after the kill\n", (long long)(s->ended_us - killed));
	CHECK(s->ended_us - killed < death_known_us());
	daemon_start(&d, NULL);
	s->text[0] = 0;
	reap(spawn(lib_client, s));
	CHECK(s->text[0]);
	daemon_stop(&d);
}

/* The load generator over the module: each request comes back whole. */
TEST(serve_bench_over_dev)
{
	static char out[65536];
	char command[512];
	struct daemon d;
	size_t n;
	FILE *f;

	daemon_start(&d, NULL);
	snprintf(command, sizeof(command),
		 "%s bench serve --url channel:dev --channels 2 --request-rate 20 --num-prompts 24 --num-warmups 1"
		 " --input-len 8:24 --output-len 12 --quiet --json -",
		 freehold());
	f = popen(command, "re");
	CHECK(f);
	n = fread(out, 1, sizeof(out) - 1, f);
	out[n] = 0;
	if (pclose(f))
		printf("%s\n", out);
	CHECK(strstr(out, "\"completed\": 24,"));
	CHECK(strstr(out, "\"failed\": 0,"));
	CHECK(strstr(out, "\"total_output_tokens\": 288,"));
	daemon_stop(&d);
}
