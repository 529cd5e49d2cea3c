/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors that a person will read.
 *
 * Functions return 0 or -errno.  Those whose failure somebody has to mend also
 * fill a struct fh_err: what is wrong, where, and what to do about it.
 */
#ifndef FH_BASE_ERR_H
#define FH_BASE_ERR_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

struct fh_err {
	int code;      /* -errno */
	char msg[512]; /* one line, no newline, always terminated */
};

/**
 * fh_errf() - fill @err and return @code
 * @err: where the message goes; may be NULL
 * @code: -errno
 * @fmt: printf format of the message
 *
 * Return: @code, so that a caller writes `return fh_errf(err, -EINVAL, ...)`.
 */
static inline int __attribute__((format(printf, 3, 4))) fh_errf(struct fh_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return code;
	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	return code;
}

#endif /* FH_BASE_ERR_H */
