/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options as data: one table says what the command line and the configuration
 * file take, where the value goes, what it may be, and how --help explains it.
 */
#ifndef FH_DAEMON_OPTIONS_H
#define FH_DAEMON_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/err.h"

enum fhd_opt_kind {
	FHD_OPT_ON,	/* bool: set by its presence; in a file "yes" or "no" */
	FHD_OPT_OFF,	/* bool: cleared by its presence; in a file likewise */
	FHD_OPT_U32,	/* uint32_t, min..max */
	FHD_OPT_U64,	/* uint64_t, min..max */
	FHD_OPT_SIZE,	/* uint64_t bytes, with K, M, G for powers of 1,024 */
	FHD_OPT_FLOAT,	/* float, min..max */
	FHD_OPT_STR,	/* char *, malloc'ed */
	FHD_OPT_CHOICE, /* char *, malloc'ed, one of `choices`, which '|' separates */
	FHD_OPT_LIST,	/* struct fhd_strings */
	FHD_OPT_GROUP,	/* no option: a heading in --help */
};

#define FHD_MAX_STRINGS 64

struct fhd_strings {
	char *v[FHD_MAX_STRINGS]; /* malloc'ed */
	uint32_t n;
	bool from_file; /* the command line replaces what the file gave */
};

struct fhd_option {
	const char *name; /* without the dashes; in a group the heading */
	char letter;	  /* 0: none */
	uint8_t kind;
	uint32_t offset; /* of the value in the set's struct */
	double min, max;
	const char *arg; /* its name in --help; the choices of a CHOICE */
	const char *help;
};

/* A table and the struct that its offsets are of. */
struct fhd_option_set {
	const struct fhd_option *opts;
	uint32_t nr;
	void *base;
};

/*
 * Read a command line; argv[0] is skipped.  What is no option is refused.
 * -EINVAL with @err naming the option, -ENOMEM.
 */
int fhd_options_argv(int argc, char **argv, const struct fhd_option_set *sets, uint32_t nr_sets, struct fh_err *err);

/*
 * Read "name = value" lines: '#' and ';' begin a comment, "[section]" lines
 * only group.  The names are those of the long options.  @err names file and line.
 */
int fhd_options_file(const char *path, const struct fhd_option_set *sets, uint32_t nr_sets, struct fh_err *err);

/* The value of option @name in @argv, without checking anything else; NULL when it is not there. */
const char *fhd_options_peek(int argc, char **argv, const char *name);

void fhd_options_help(FILE *out, const struct fhd_option_set *sets, uint32_t nr_sets);
/* Free the strings of a set. */
void fhd_options_free(const struct fhd_option_set *set);

#endif /* FH_DAEMON_OPTIONS_H */
