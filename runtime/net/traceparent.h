/* SPDX-License-Identifier: Apache-2.0 */
/* The headers traceparent and tracestate of W3C Trace Context (https://www.w3.org/TR/trace-context/, 3.2 and 3.3). */
#ifndef FH_NET_TRACEPARENT_H
#define FH_NET_TRACEPARENT_H

#include <stddef.h>

#include "runtime/base/span.h"
#include "runtime/net/http_parse.h"

/*
 * Read @text [n], any bytes.  False, and @out is zero: it is none, and the request
 * begins a trace of its own.  Versions that are not known yet are read as far as
 * this one goes, as the standard asks.
 */
bool fh_traceparent_parse(const char *text, size_t n, struct fh_trace_context *out);

/*
 * Read the tracestate header that the values @fields [nr], any bytes, are together, in order.  @out gets it without
 * spaces and empty members; if that is longer than it has room for, whole members are left out: first those of more
 * than 128 bytes, then the last ones.  False, and @out is empty: it breaks the standard's grammar, has more than 32
 * members or one key twice, and nothing of it is to be passed on.  Only asked with a traceparent that was good.
 */
bool fh_tracestate_parse(const struct fh_span *fields, uint32_t nr, char out[FH_SPAN_STATE_MAX + 1]);

#endif /* FH_NET_TRACEPARENT_H */
