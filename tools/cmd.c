// SPDX-License-Identifier: Apache-2.0
/* What subcommands say when something is wrong. */
#include "tools/cmd.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool cmd_wants_help(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	return false;
}

static void say(const char *cmd, const char *fmt, va_list args)
{
	fprintf(stderr, "freehold %s: ", cmd);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
}

int cmd_failed(const char *cmd, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(cmd, fmt, args);
	va_end(args);
	return 1;
}

int cmd_wrong(const char *cmd, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(cmd, fmt, args);
	va_end(args);
	fprintf(stderr, "`freehold %s --help` explains it\n", cmd);
	return 2;
}
