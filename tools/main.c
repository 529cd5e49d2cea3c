// SPDX-License-Identifier: Apache-2.0
/*
 * freehold: one binary, one subcommand a file.  This file only finds the
 * subcommand; each of them parses its own arguments.
 */
#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"

static const struct command {
	const char *name;
	int (*fn)(int argc, char **argv);
	const char *help;
} commands[] = {
	{"serve", cmd_serve, "serve a model over HTTP, with OpenAI's API"},
	{"run", cmd_run, "complete a prompt, or chat, on the terminal"},
	{"tokenize", cmd_tokenize, "turn text into token ids and back"},
	{"inspect", cmd_inspect, "print what a GGUF file holds"},
	{"score", cmd_score, "print the logits and likelihood of given tokens"},
	{"synth", cmd_synth, "write a model of a real shape with random weights"},
	{"bench", cmd_bench, "measure the engine"},
	{"sim", cmd_sim, "simulate a load: what would be in time, on how many machines"},
	{"doctor", cmd_doctor, "say what this machine offers, and what to mend"},
	{"key", cmd_key, "make, list, revoke and rotate API keys"},
	{"budget", cmd_budget, "limit what tenants, users, keys and agent runs may use"},
	{"cost", cmd_cost, "who used what, and what a million tokens of this host cost"},
	{"top", cmd_top, "watch a running server in the terminal"},
	{"audit", cmd_audit, "verify, read and erase in an audit log"},
	{"udp-key", cmd_udp_key, "make the keys that requests over UDP need"},
};

#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void usage(FILE *out)
{
	fputs("usage: freehold COMMAND [OPTION...]\n"
	      "\n"
	      "Serve open-weight language models (GGUF files) from one Linux host.\n"
	      "\n",
	      out);
	for (size_t i = 0; i < NR_COMMANDS; i++)
		fprintf(out, "  %-9s  %s\n", commands[i].name, commands[i].help);
	fputs("\n"
	      "`freehold COMMAND --help` explains a command, with examples.\n"
	      "`freehold --version` prints the version.\n",
	      out);
}

/* Optimal string alignment: insertions, deletions, replacements, swapped neighbours. */
static unsigned int distance(const char *a, const char *b)
{
	unsigned int rows[3][32];
	unsigned int *before = rows[0], *last = rows[1], *row = rows[2];
	size_t n = strlen(b);

	if (strlen(a) >= 32 || n >= 32)
		return 32;
	for (size_t j = 0; j <= n; j++)
		last[j] = (unsigned int)j;
	for (size_t i = 0; a[i]; i++) {
		unsigned int *spare = before;

		row[0] = (unsigned int)i + 1;
		for (size_t j = 0; j < n; j++) {
			unsigned int best = last[j] + (a[i] != b[j]);

			best = best < last[j + 1] + 1 ? best : last[j + 1] + 1;
			best = best < row[j] + 1 ? best : row[j] + 1;
			if (i && j && a[i] == b[j - 1] && a[i - 1] == b[j] && before[j - 1] + 1 < best)
				best = before[j - 1] + 1;
			row[j + 1] = best;
		}
		before = last;
		last = row;
		row = spare;
	}
	return last[n];
}

static int unknown(const char *name)
{
	const struct command *best = NULL;
	unsigned int least = 3;

	for (size_t i = 0; i < NR_COMMANDS; i++) {
		unsigned int d = distance(name, commands[i].name);

		if (d < least) {
			least = d;
			best = &commands[i];
		}
	}
	fprintf(stderr, "freehold: there is no command '%s'", name);
	if (best)
		fprintf(stderr, "; did you mean '%s'?\n", best->name);
	else
		fputs("; `freehold --help` lists them\n", stderr);
	return 2;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		usage(stderr);
		return 2;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		usage(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("freehold " FREEHOLD_VERSION);
		return 0;
	}
	for (size_t i = 0; i < NR_COMMANDS; i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].fn(argc - 1, argv + 1);
	return unknown(argv[1]);
}
