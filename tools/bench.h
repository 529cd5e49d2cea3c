/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of freehold bench, one a file. argv[0] is the part's name; they return an exit status. */
#ifndef FH_TOOLS_BENCH_H
#define FH_TOOLS_BENCH_H

int bench_datagram(int argc, char **argv);
int bench_engine(int argc, char **argv);
int bench_memory(int argc, char **argv);
int bench_peak(int argc, char **argv);
int bench_serve(int argc, char **argv);
int bench_speculate(int argc, char **argv);

#endif /* FH_TOOLS_BENCH_H */
