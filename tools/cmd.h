/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The subcommands of freehold, one a file.  argv[0] is the subcommand's name;
 * the return value is the exit status: 0, 1 (it failed, and said why on
 * stderr), or 2 (wrong arguments).  Each answers --help with examples.
 */
#ifndef FH_TOOLS_CMD_H
#define FH_TOOLS_CMD_H

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
int cmd_cost(int argc, char **argv);

#endif /* FH_TOOLS_CMD_H */
