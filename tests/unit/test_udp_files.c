// SPDX-License-Identifier: Apache-2.0
/*
 * The UDP front end's files and what it makes of its settings: it is created here,
 * with one queue or several, and never runs.
 */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/lib/freehold.h"
#include "runtime/net/dgram_sock.h"
#include "runtime/net/udp_priv.h"

#define A_KEY "CQECAwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#define B_KEY "CgECAwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#define C_KEY "CwECAwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

static char dir[32], key[64], clients[64];
/* Of @clients; and what the file holds when it is opened once more. */
static unsigned int nr_opens;
static const char *later;

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

FILE *fopen(const char *path, const char *mode)
{
	FILE *(*real)(const char *, const char *) = (__typeof__(real))dlsym(RTLD_NEXT, "fopen");

	if (*clients && !strcmp(path, clients) && ++nr_opens > 1 && later)
		write_file(clients, later);
	return real(path, mode);
}

static void files_make(const char *clients_text)
{
	strcpy(dir, "/tmp/fhudpXXXXXX");
	cr_assert(mkdtemp(dir));
	snprintf(key, sizeof(key), "%s/key", dir);
	snprintf(clients, sizeof(clients), "%s/clients", dir);
	write_file(key, A_KEY "\n");
	write_file(clients, clients_text);
}

static void files_remove(void)
{
	unlink(key);
	unlink(clients);
	rmdir(dir);
}

static int create_with(const char *listen, const char *clients_text, struct fh_err *err)
{
	struct fh_udp_config uc = {.listen = listen, .key_file = key, .clients_file = clients};
	struct fh_service svc = {0};
	struct fh_udp *u;
	int rc;

	files_make(clients_text);
	rc = fh_udp_create(&uc, &svc, &u, err);
	if (!rc)
		fh_udp_destroy(u);
	files_remove();
	return rc;
}

/* ---- several queues ---- */

static struct fh_udp *create_queues(uint32_t nr, uint32_t max_requests)
{
	static const struct fh_service svc;
	struct fh_udp_config uc = {
		.nr_ports = nr, .key_file = key, .clients_file = clients, .max_requests = max_requests};
	struct fh_dgram_open o = {.size = sizeof(o), .server = true, .local.ip = {[10] = 0xff, 0xff, 127, 0, 0, 1}};
	struct fh_udp *u = NULL;
	struct fh_err err = {0};

	for (uint32_t i = 0; i < nr; i++)
		cr_assert_eq(fh_dgram_sock_open(&o, &uc.ports[i], &err), 0, "%s", err.msg);
	cr_assert_eq(fh_udp_create(&uc, &svc, &u, &err), 0, "%s", err.msg);
	cr_assert_eq(fh_udp_nr_queues(u), nr);
	return u;
}

/* How many clients the next turn of each queue finds; all have to say the same. */
static uint32_t nr_clients(struct fh_udp *u)
{
	uint32_t nr = fh_udp_nr_clients(u);

	for (; u; u = u->next) {
		const struct fh_udp_keys *k = atomic_load(&u->new_keys);

		cr_assert_eq(k ? k->nr : u->keys.nr, nr);
		cr_assert_eq(fh_udp_nr_clients(u), nr);
	}
	return nr;
}

Test(udp_files, queues_have_the_same_clients)
{
	struct fh_udp *u;
	struct fh_err err;

	fh_log_setup(FH_LOG_ERROR, false);
	files_make("a " A_KEY "\n");
	/* Changed between two looks, to a good one and to a bad one: there is one look. */
	later = "a " A_KEY "\nb " B_KEY "\n";
	u = create_queues(3, 0);
	cr_expect_eq(nr_clients(u), 1);
	cr_expect_arr_eq(u->key.public, u->next->next->key.public, FHW_KEY_BYTES);
	write_file(clients, "a " A_KEY "\nb " B_KEY "\nc " C_KEY "\n");
	nr_opens = 0;
	later = "nobody\n";
	cr_expect_eq(fh_udp_reload(u, &err), 0, "%s", err.msg);
	cr_expect_eq(nr_clients(u), 3);
	/* And one that is bad from the start changes none of them; a good one comes in the place of one not taken yet.
	 */
	write_file(clients, "a\n");
	cr_expect_eq(fh_udp_reload(u, &err), -EINVAL);
	cr_expect_eq(nr_clients(u), 3);
	later = NULL;
	write_file(clients, "b " B_KEY "\nc " C_KEY "\n");
	cr_expect_eq(fh_udp_reload(u, &err), 0, "%s", err.msg);
	cr_expect_eq(nr_clients(u), 2);
	fh_udp_destroy(u);
	files_remove();
}

/* No more is promised than one key gets. */
Test(udp_files, welcome_promises_what_is_kept)
{
	static const struct {
		uint32_t nr_queues, max_requests, promised;
	} of[] = {{1, 0, 256}, {4, 0, 192}, {2, 100, 38}, {1, 1, 1}, {4, 3, 1}};

	fh_log_setup(FH_LOG_ERROR, false);
	files_make("a " A_KEY "\n");
	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		struct fh_udp *u = create_queues(of[i].nr_queues, of[i].max_requests);

		for (const struct fh_udp *at = u; at; at = at->next) {
			cr_expect_eq(at->wire.welcome.max_requests, of[i].promised, "case %zu: %u", i,
				     at->wire.welcome.max_requests);
			cr_expect_leq(at->wire.welcome.max_requests, at->wire.max_client_requests);
		}
		fh_udp_destroy(u);
	}
	files_remove();
}

/* ---- refusals ---- */

Test(udp_files, files_that_are_wrong)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"", "no key in it"},
		{"# nobody\n", "no key in it"},
		{"a\n", ":1: a line is NAME PUBLIC-KEY"},
		{"a " A_KEY "\nb " A_KEY "x\n", ":2: '" A_KEY "x' is no public key"},
		{"a " A_KEY "\nb " A_KEY "\n", ":2: b has the key of a"},
		{"a " A_KEY " more\n", ":1: a line is NAME PUBLIC-KEY"},
		{"0123456789012345678901234567890123456789012345678901234567890123456789 " A_KEY "\n",
		 "the name is longer"},
	};
	struct fh_err err;

	fh_log_setup(FH_LOG_ERROR, false);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_expect_eq(create_with("127.0.0.1:0", bad[i].text, &err), -EINVAL);
		cr_expect(strstr(err.msg, bad[i].says), "%s", err.msg);
	}
	cr_expect_eq(create_with("127.0.0.1:0", "a " A_KEY "\n", &err), 0, "%s", err.msg);
	cr_expect_eq(create_with("[::1]:0", "a " A_KEY " # ours\n", &err), 0, "%s", err.msg);
	cr_expect_eq(create_with("127.0.0.1:66000", "a " A_KEY "\n", &err), -EINVAL);
	cr_expect_eq(create_with("127.0.0.1", "a " A_KEY "\n", &err), -EINVAL);
	cr_expect_eq(create_with("::1:5", "a " A_KEY "\n", &err), -EINVAL);
	cr_expect_eq(create_with("192.0.2.1:9", "a " A_KEY "\n", &err), -EADDRNOTAVAIL, "%s", err.msg);
}

Test(udp_files, places_that_are_none)
{
	static const struct {
		const char *where;
		int rc;
	} bad[] = {
		{"udp://127.0.0.1:9", -EINVAL},		  {"udp://short@127.0.0.1:9", -EINVAL},
		{"udp://" A_KEY "@127.0.0.1", -EINVAL},	  {"udp://" A_KEY "@[::1]", -EINVAL},
		{"udp://" A_KEY "@127.0.0.1:9", -EACCES}, /* no key of our own */
	};

	unsetenv("FREEHOLD_UDP_KEY");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fh_client *c;

		cr_expect_eq(fh_open(bad[i].where, NULL, &c), bad[i].rc, "%s: %s", bad[i].where, fh_error_message(c));
		cr_expect(*fh_error_message(c));
		fh_close(c);
	}
}
