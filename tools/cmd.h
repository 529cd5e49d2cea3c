/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The subcommands of freehold, one a file.  argv[0] is the subcommand's name;
 * the return value is the exit status: 0, 1 (it failed, and said why on
 * stderr), or 2 (wrong arguments).  Each answers --help with examples.
 */
#ifndef FH_TOOLS_CMD_H
#define FH_TOOLS_CMD_H

#include <stdbool.h>

/* The database that key, budget and cost open without --keys. */
#define CMD_KEYS_PATH "/var/lib/freehold/keys.db"

int cmd_serve(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_score(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_sim(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_audit(int argc, char **argv);
int cmd_udp_key(int argc, char **argv);
int cmd_key(int argc, char **argv);
int cmd_budget(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_cost(int argc, char **argv);

/* Is --help or -h anywhere among the arguments? */
bool cmd_wants_help(int argc, char **argv);
/* Say on stderr why @cmd failed. Returns 1. */
int cmd_failed(const char *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Say what is wrong with the arguments of @cmd, and where they are explained. Returns 2. */
int cmd_wrong(const char *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif /* FH_TOOLS_CMD_H */
