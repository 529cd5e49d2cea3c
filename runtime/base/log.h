/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: one line an event on stderr, "freehold: LEVEL: text" or JSON with the
 * names of OpenTelemetry's data model of logs.
 *
 * Safe from any thread (one write(2) a line).  Never on the hot path.
 */
#ifndef FH_BASE_LOG_H
#define FH_BASE_LOG_H

#include <stdbool.h>

enum fh_log_level { FH_LOG_ERROR, FH_LOG_WARN, FH_LOG_INFO, FH_LOG_DEBUG };

/* Set once by main() before any thread starts. */
void fh_log_setup(enum fh_log_level max_level, bool json);

void fh_log(enum fh_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define fh_error(...) fh_log(FH_LOG_ERROR, __VA_ARGS__)
#define fh_warn(...) fh_log(FH_LOG_WARN, __VA_ARGS__)
#define fh_info(...) fh_log(FH_LOG_INFO, __VA_ARGS__)
#define fh_debug(...) fh_log(FH_LOG_DEBUG, __VA_ARGS__)

#endif /* FH_BASE_LOG_H */
