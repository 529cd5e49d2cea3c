// SPDX-License-Identifier: Apache-2.0
/* freehold top: what the dashboard shows, in a terminal.  Asks /v1/freehold/status once a second. */
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "runtime/daemon/options.h"
#include "runtime/net/tls_client.h"
#include "tools/cmd.h"
#include "tools/load/run.h"
#include "tools/top.h"

#define STATUS_PATH "/v1/freehold/status"

struct top_args {
	char *url, *key_file, *ca, *cert, *cert_key;
	float interval;
	bool once, json, help;
};

#define AT(field) offsetof(struct top_args, field)

static const struct fhd_option options[] = {
	{"url", 0, FHD_OPT_STR, AT(url), 0, 0, "URL",
	 "http://HOST:PORT, https://HOST:PORT, or http+unix:PATH of a\nUnix socket (default: http://127.0.0.1:8080)"},
	{"ca-file", 0, FHD_OPT_STR, AT(ca), 0, 0, "FILE",
	 "https: CAs (PEM) that may certify the server (default: those\nof the system)"},
	{"cert", 0, FHD_OPT_STR, AT(cert), 0, 0, "FILE",
	 "https: our own certificate (PEM), for a server that asks for one"},
	{"cert-key", 0, FHD_OPT_STR, AT(cert_key), 0, 0, "FILE", "its private key (PEM)"},
	{"key-file", 0, FHD_OPT_STR, AT(key_file), 0, 0, "FILE",
	 "its first line is the API key (default: OPENAI_API_KEY of\nthe environment, or none)"},
	{"interval", 0, FHD_OPT_FLOAT, AT(interval), 0.2, 3600, "SECONDS", "between two looks (default: 1)"},
	{"once", 0, FHD_OPT_ON, AT(once), 0, 0, NULL, "look twice, so that there are rates, print that and end"},
	{"json", 0, FHD_OPT_ON, AT(json), 0, 0, NULL, "print what the server says, an object a line"},
	{"help", 'h', FHD_OPT_ON, AT(help), 0, 0, NULL, "print this"},
};

static struct fhd_option_set set_of(struct top_args *a)
{
	return (struct fhd_option_set){.opts = options, .nr = sizeof(options) / sizeof(options[0]), .base = a};
}

static void usage(void)
{
	const struct fhd_option_set set = set_of(NULL);

	fputs("usage: freehold top [--url URL] [OPTION...]\n"
	      "\n"
	      "Watch a running server: tokens a second, requests, latencies against their deadlines,\n"
	      "KV cache, cost, the audit log's head, and budgets (of the key's tenant; of all with a\n"
	      "key that has the scope admin).  q ends it.  The same is drawn at / in a browser.\n"
	      "\n",
	      stdout);
	fhd_options_help(stdout, &set, 1);
	fputs("\n"
	      "examples:\n"
	      "  freehold top\n"
	      "  freehold top --url https://gpu1.example:8443 --ca-file /etc/ssl/company.pem --key-file "
	      "~/.freehold-key\n"
	      "  freehold top --url http+unix:/run/freehold/http --key-file ~/.freehold-key\n"
	      "  freehold top --once --json | jq .rates.generation_tokens\n",
	      stdout);
}

static int complain(const char *what)
{
	fprintf(stderr, "freehold top: %s\n", what);
	return 1;
}

/* The first line of @path, into @key. */
static int read_key(const char *path, char key[512], struct fh_err *err)
{
	FILE *in = fopen(path, "re");

	if (!in)
		return fh_errf(err, -errno, "%s: %s", path, strerror(errno));
	if (!fgets(key, 512, in))
		key[0] = 0;
	fclose(in);
	key[strcspn(key, " \t\r\n")] = 0;
	return key[0] ? 0 : fh_errf(err, -EINVAL, "%s: there is no key in the first line", path);
}

static json_t *look(const struct load_target *t, struct fh_err *err)
{
	struct fh_buf body = {0};
	json_error_t why;
	json_t *j = NULL;

	if (!load_get(t, STATUS_PATH, &body, err)) {
		j = json_loadb(body.data ? body.data : "", body.len, 0, &why);
		if (!json_is_object(j)) {
			fh_errf(err, -EPROTO, "%s" STATUS_PATH ": this is no status of a freehold server", t->url);
			json_decref(j);
			j = NULL;
		}
	}
	fh_buf_free(&body);
	return j;
}

/* ---- the terminal ---- */

static volatile sig_atomic_t ended;
static struct termios saved;

static void on_end(int sig)
{
	(void)sig;
	ended = 1;
}

static void terminal_begin(void)
{
	const struct sigaction sa = {.sa_handler = on_end}; /* no SA_RESTART: waiting ends */
	struct termios raw;

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	tcgetattr(STDIN_FILENO, &saved);
	raw = saved;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 0;
	raw.c_cc[VTIME] = 0;
	raw.c_cc[VSUSP] = _POSIX_VDISABLE;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	/* A screen of its own, no cursor, and lines that are too long are cut. */
	fputs("\033[?1049h\033[?25l\033[?7l", stdout);
}

static void terminal_end(void)
{
	fputs("\033[?7h\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &saved);
}

static void measure_terminal(struct top_style *style)
{
	struct winsize ws;

	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) && ws.ws_col && ws.ws_row) {
		style->columns = ws.ws_col;
		style->rows = ws.ws_row - 1u;
	}
}

/* Until the next look is due; false: it is to end. */
static bool wait_key(float seconds)
{
	struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
	char c;

	if (poll(&in, 1, (int)(seconds * 1000)) > 0) {
		ssize_t n = read(STDIN_FILENO, &c, 1);

		if (n <= 0 || c == 'q' || c == 'Q' || c == 4)
			return false;
	}
	return !ended;
}

static void show(const struct load_target *t, struct top_history *h, struct top_style *style)
{
	struct fh_err err;
	json_t *j = look(t, &err);

	measure_terminal(style);
	fputs("\033[H", stdout);
	if (j) {
		top_remember(h, j);
		top_print(j, h, style, stdout);
	} else {
		printf("%s%s", top_tame(err.msg), style->eol);
	}
	fputs("\033[J", stdout);
	fflush(stdout);
	json_decref(j);
}

static int watch(const struct load_target *t, const struct top_args *a)
{
	struct top_style style = {.columns = 80, .rows = 24, .colour = !getenv("NO_COLOR"), .eol = "\033[K\n"};
	struct top_history h = {0};
	struct fh_err err;
	json_t *j = look(t, &err);

	/* Who is not there at first will not come. */
	if (!j)
		return complain(top_tame(err.msg));
	json_decref(j);
	setlocale(LC_CTYPE, "");
	style.utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	terminal_begin();
	do
		show(t, &h, &style);
	while (wait_key(a->interval));
	terminal_end();
	return 0;
}

/* ---- without a terminal ---- */

static int print_json(const struct load_target *t, const struct top_args *a)
{
	struct fh_err err;
	json_t *j = look(t, &err);

	while (j) {
		usleep((useconds_t)(a->interval * 1e6f));
		json_decref(j);
		j = look(t, &err);
		if (!j)
			break;
		if (json_dumpf(j, stdout, JSON_COMPACT | JSON_ENSURE_ASCII) || putchar('\n') == EOF || fflush(stdout)) {
			json_decref(j);
			return complain("nobody reads what is printed");
		}
		if (a->once) {
			json_decref(j);
			return 0;
		}
	}
	return complain(top_tame(err.msg));
}

static int print_once(const struct load_target *t, const struct top_args *a)
{
	const struct top_style style = {.columns = 100, .eol = "\n"};
	const struct top_history none = {0};
	struct fh_err err;
	json_t *j = look(t, &err);

	if (j) {
		json_decref(j);
		usleep((useconds_t)(a->interval * 1e6f));
		j = look(t, &err);
	}
	if (!j)
		return complain(top_tame(err.msg));
	top_print(j, &none, &style, stdout);
	json_decref(j);
	return 0;
}

/* Where it is, and what it takes to talk to it. */
static int reach(struct load_target *t, const struct top_args *a, char key[512], struct fh_err *err)
{
	const struct fh_tls_trust trust = {.ca = a->ca, .cert = a->cert, .key = a->cert_key};
	int rc = 0;

	t->url = a->url ? a->url : "http://127.0.0.1:8080";
	if (a->key_file) {
		rc = read_key(a->key_file, key, err);
		t->api_key = key;
	}
	if (!rc && !strncmp(t->url, "https://", 8))
		rc = fh_tls_dialer_open(&trust, &t->tls, err);
	else if (!rc && (a->ca || a->cert || a->cert_key))
		rc = fh_errf(err, -EINVAL, "--ca-file, --cert and --cert-key are for https://");
	return rc ? rc : load_target_resolve(t, err);
}

int cmd_top(int argc, char **argv)
{
	struct top_args a = {.interval = 1};
	const struct fhd_option_set set = set_of(&a);
	struct load_target t = {.api_key = getenv("OPENAI_API_KEY")};
	struct fh_err err;
	char key[512];
	int status = 0;

	if (fhd_options_argv(argc, argv, &set, 1, &err)) {
		fprintf(stderr, "freehold top: %s\n`freehold top --help` explains it\n", err.msg);
		fhd_options_free(&set);
		return 2;
	}
	if (a.help)
		usage();
	else if (reach(&t, &a, key, &err))
		status = complain(top_tame(err.msg));
	else if (t.channel)
		status = complain("--url: http://HOST:PORT, https://HOST:PORT or http+unix:PATH is wanted");
	else
		status = a.json				      ? print_json(&t, &a)
			 : a.once || !isatty(1) || !isatty(0) ? print_once(&t, &a)
							      : watch(&t, &a);
	fh_tls_dialer_close(t.tls);
	fhd_options_free(&set);
	return status;
}
