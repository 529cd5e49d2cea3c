/* SPDX-License-Identifier: Apache-2.0 */
/* The traceparent header of W3C Trace Context (https://www.w3.org/TR/trace-context/, 3.2). */
#ifndef FH_NET_TRACEPARENT_H
#define FH_NET_TRACEPARENT_H

#include <stddef.h>

#include "runtime/base/span.h"

/*
 * Read @text [n], any bytes.  False, and @out is zero: it is none, and the request
 * begins a trace of its own.  Versions that are not known yet are read as far as
 * this one goes, as the standard asks.
 */
bool fh_traceparent_parse(const char *text, size_t n, struct fh_trace_context *out);

#endif /* FH_NET_TRACEPARENT_H */
