// SPDX-License-Identifier: Apache-2.0
/*
 * The log.  A line is built on the stack and leaves with one write(2), so that
 * lines of several threads never mix.  The two settings are written once,
 * before threads start, and only read afterwards.
 */
#include "runtime/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum fh_log_level log_max = FH_LOG_INFO;
static bool log_json;

static const char *const level_names[] = {"error", "warning", "info", "debug"};
/* As OpenTelemetry's data model of logs has them. */
static const char *const severity_texts[] = {"ERROR", "WARN", "INFO", "DEBUG"};
static const int severity_numbers[] = {17, 13, 9, 5};

void fh_log_setup(enum fh_log_level max_level, bool json)
{
	log_max = max_level;
	log_json = json;
}

/* Append @text to @out as the inside of a JSON string; returns the new length. */
static size_t json_escape(char *out, size_t len, size_t cap, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p && len + 7 < cap; p++) {
		if (*p == '"' || *p == '\\')
			len += (size_t)snprintf(out + len, cap - len, "\\%c", *p);
		else if (*p < 0x20)
			len += (size_t)snprintf(out + len, cap - len, "\\u%04x", *p);
		else
			out[len++] = (char)*p;
	}
	return len;
}

static size_t format_json(char *line, size_t cap, enum fh_log_level level, const char *text)
{
	struct timespec ts;
	size_t len;

	clock_gettime(CLOCK_REALTIME, &ts);
	len = (size_t)snprintf(line, cap,
			       "{\"Timestamp\":%lld%09ld,\"SeverityText\":\"%s\",\"SeverityNumber\":%d,\"Resource\":{"
			       "\"service.name\":\"freehold\"},\"Body\":\"",
			       (long long)ts.tv_sec, ts.tv_nsec, severity_texts[level], severity_numbers[level]);
	len = json_escape(line, len, cap - 3, text);
	memcpy(line + len, "\"}\n", 3);
	return len + 3;
}

void fh_log(enum fh_log_level level, const char *fmt, ...)
{
	char text[1024], line[2304];
	va_list ap;
	size_t len;

	if (level > log_max)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (log_json)
		len = format_json(line, sizeof(line), level, text);
	else if (level == FH_LOG_INFO)
		len = (size_t)snprintf(line, sizeof(line), "freehold: %s\n", text);
	else
		len = (size_t)snprintf(line, sizeof(line), "freehold: %s: %s\n", level_names[level], text);
	if (write(STDERR_FILENO, line, len) < 0)
		return; /* nobody is left to tell */
}
