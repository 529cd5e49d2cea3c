// SPDX-License-Identifier: Apache-2.0
/* freehold bench: finds the part that is to be measured. */
#include <stdio.h>
#include <string.h>

#include "tools/bench.h"
#include "tools/cmd.h"

static const char usage[] = "usage: freehold bench datagram --to ADDR:PORT [options]\n"
			    "       freehold bench engine -m MODEL [options]\n"
			    "       freehold bench memory [options]\n"
			    "       freehold bench peak [options]\n"
			    "       freehold bench serve --url URL [options]\n"
			    "       freehold bench speculate -m MODEL [options]\n"
			    "\n"
			    "  datagram   round trips of UDP datagrams, over a kernel socket and over DPDK\n"
			    "  engine     tokens a second of a model: reading a prompt, and writing\n"
			    "  memory     bytes a second that this machine's memory can be read at\n"
			    "  peak       operations a second that its dot-product instructions can do\n"
			    "  serve      latencies of any OpenAI-compatible server under a load\n"
			    "  speculate  what guessing tokens brings on text that repeats itself\n"
			    "\n"
			    "`freehold bench PART --help` explains a part, with examples.\n";

int cmd_bench(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "datagram"))
		return bench_datagram(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "engine"))
		return bench_engine(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "memory"))
		return bench_memory(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "peak"))
		return bench_peak(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "serve"))
		return bench_serve(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "speculate"))
		return bench_speculate(argc - 1, argv + 1);
	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		fputs(usage, stdout);
		return 0;
	}
	if (argc > 1)
		fprintf(stderr, "freehold: bench %s: there is no such part\n\n", argv[1]);
	fputs(usage, stderr);
	return 2;
}
