/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP front end from inside.
 *
 *   http.c           create, start, stop; the I/O thread's loop
 *   http_listen.c    listening sockets
 *   http_conn.c      a connection: reading requests, in order, with limits
 *   http_write.c     a connection: responses, back-pressure, closing
 *   http_auth.c      who asks, and whether he may
 *   http_budget.c    budgets: runs, refusals, warnings
 *   http_tls.c       connections over TLS
 *   http_route.c     endpoints; those that need no engine
 *   http_metrics.c   counters
 *   http_page.c      the dashboard: its page
 *   http_watch.c     ... its numbers, for all who watch together
 *   http_keys.c      ... and its list of keys
 *   helper.c         the threads for long bodies
 *   call.c           an API call: its sequences, from submission to the end
 *   call_text.c      tokens to JSON: streams and whole answers
 *   call_logprobs.c  log-probabilities in OpenAI's two shapes
 *   call_audit.c     what the audit log is told of a call
 *   http_audit.c     ... of a refusal; and answers that wait for the log
 *
 * Everything here belongs to the I/O thread, but for the few atomics in struct
 * fh_http and the helper's queue, which has a lock.
 *
 * Who owns what: a connection owns its buffers and at most one call; a call
 * owns its parsed body and its sequences, which come from a pool.  A call
 * outlives its connection until the engine has given back every sequence.
 */
#ifndef FH_NET_HTTP_PRIV_H
#define FH_NET_HTTP_PRIV_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "runtime/base/auditor.h"
#include "runtime/base/clock.h"
#include "runtime/base/hist.h"
#include "runtime/base/io.h"
#include "runtime/base/random.h"
#include "runtime/net/auth.h"
#include "runtime/net/buf.h"
#include "runtime/net/http.h"
#include "runtime/net/http_parse.h"
#include "runtime/net/openai.h"
#include "runtime/net/tls.h"
#include "runtime/net/unix_listen.h"
#include "runtime/net/watch.h"

#define FH_SEQ_SLOTS 256u	   /* token slots of a sequence: credits of its reader */
#define FH_UNSENT_BYTES 131072	   /* that the kernel keeps for a connection beyond what is under way */
#define FH_OUT_BACKLOG 65536u	   /* a connection with more unsent bytes gets no more tokens */
#define FH_IN_BACKLOG 65536u	   /* pipelined bytes that wait while a request is answered */
#define FH_KEEP_BYTES 16384u	   /* a buffer keeps so much for the next request */
#define FH_LONG_BODY 16384u	   /* bodies above this are parsed by the helper */
#define FH_DISCARD_BYTES 1048576u  /* a refused request's body is read to its end up to this size */
#define FH_RETRY_NEVER UINT32_MAX  /* fh_call.retry_after_ms: trying again is of no use */
#define FH_LINGER_NS 2000000000ull /* how long a closing peer may take to read the last answer */
#define FH_BODY_MEMORY 8u	   /* all bodies together: so many times max_body_bytes */

enum fh_endpoint {
	FH_EP_MODELS,
	FH_EP_MODEL,
	FH_EP_COMPLETIONS,
	FH_EP_CHAT,
	FH_EP_EMBEDDINGS,
	FH_EP_TOKENIZE,
	FH_EP_DETOKENIZE,
	FH_EP_HEALTH,
	FH_EP_METRICS,
	FH_EP_VERSION,
	FH_EP_PAGE,
	FH_EP_STATUS,
	FH_EP_EVENTS,
	FH_EP_KEYS, /* from here on for administrators alone */
	FH_EP_KEY,
	FH_EP_NONE, /* nothing of that name, or no readable request at all */
	FH_NR_EP,
};

#define FH_NR_STATUS 20

struct fh_http_counters {
	uint64_t requests[FH_NR_EP][FH_NR_STATUS];
	uint64_t accepted, refused, recv_bytes, sent_bytes, copied_bytes, tokens, timeouts, client_gone, stalls;
	uint64_t tls_handshakes, tls_failed, tls_offloaded, tls_not_offloaded, tls_rekeys_refused;
	uint64_t tls_key_updates, tls_worn;
	struct fh_hist request_time;  /* last byte of the request to the end of the response */
	struct fh_hist first_byte;    /* last byte of the request to the first of the response */
	struct fh_hist tokenize_time; /* tokenizer and template, a request */
	struct fh_hist done_to_wire;  /* the engine's last word to the send that carries it */
};

struct fh_call;
struct fh_viewer;
struct fh_errand;
struct fh_http_watch;
struct fh_conn_tls;
struct fh_http_tls;

/* FH_CONN_HELLO: its TLS handshake is not over. */
enum fh_conn_state { FH_CONN_HEAD, FH_CONN_BODY, FH_CONN_BUSY, FH_CONN_LINGER, FH_CONN_DEAD, FH_CONN_HELLO };

/* A key that guard number @guard_nr let in, and what it said: who shows it again is not looked up again. */
struct fh_shown {
	char key[64];
	uint32_t n, guard_nr; /* n 0: there is none */
	struct fh_grant grant;
};

struct fh_conn {
	struct fh_io_sock sock;
	struct fh_io_timer timer;
	struct fh_http *h;
	struct fh_conn_tls *tls;       /* NULL: plain */
	struct fh_conn *next, **pprev; /* all connections, or the free list */
	struct fh_conn *next_flush;
	enum fh_conn_state state;
	bool first_turn; /* accepted, not receiving yet */
	bool is_unix;	 /* its listener is a Unix socket */
	bool flush_queued, processing, blocked, head_started;
	bool keep_alive, close_after, linger;
	bool head_only, minor0, has_id;
	bool refuse;		 /* answer err once the body has been read */
	bool first_byte_pending; /* first_byte is not measured yet */
	bool in_chunk;		 /* an HTTP chunk is open in out */
	bool chunked_out;	 /* the response is sent in chunks */
	/* Reading */
	struct fh_buf in;      /* bytes that came and could not be used yet */
	struct fh_buf body;    /* a body that did not come in one piece */
	size_t body_accounted; /* of body, in h->body_bytes */
	size_t scanned;	       /* of the head, see fh_http_head_parse() */
	struct fh_http_head head;
	struct fh_http_chunked chunks;
	uint64_t body_left;
	enum fh_endpoint ep;
	struct fh_grant grant; /* who asks and what he may; with a key of the key file without a name */
	struct fh_shown shown; /* the key that was let in last */
	uint32_t tenant;    /* for the scheduler: the guard's number, or that of the line in the key file; 0: nobody */
	uint8_t run_id[16]; /* of the present request, as fh_request has it */
	char request_id[129];
	char trace_state[FH_SPAN_STATE_MAX + 1]; /* tracestate, where somebody wants traces */
	char path_id[160];    /* of /v1/models/{id} and /v1/freehold/keys/{id}; empty: none that could be read */
	uint32_t limit;	      /* of /v1/freehold/keys; what it is to begin after is in path_id */
	uint64_t admitted_ns; /* when the guard was asked */
	char notice[96];      /* a header line for the answer, with CR LF; empty: none */
	uint64_t serial;      /* in the request id that was made here; 0: the client gave one, or none was needed yet */
	struct fh_oai_error err;
	/* Answering */
	struct fh_call *call;
	struct fh_viewer *viewer; /* who watches over it, or is about to; NULL: nobody */
	struct fh_errand *errand; /* whose answer it waits for */
	/* With an audit log that is strict: nothing is sent before this event of it is durable; 0: none. */
	uint64_t audit_seq;
	bool audit_hold;	    /* nor before the call's outcome was handed to the log */
	bool audit_waits;	    /* on the list of those */
	struct fh_conn *next_audit; /* of that list */
	struct fh_buf out, flight;  /* being filled; being sent */
	size_t chunk_at;	    /* where the open HTTP chunk's size stands in out */
	uint64_t last_sent;	    /* progress of the send, at the last look */
	uint64_t deadline_ns;	    /* of the present state; UINT64_MAX: none */
	uint64_t arrival_ns;	    /* last byte of the present request */
	uint64_t done_ns;	    /* when the engine had its last word, not sent yet; 0: nothing to measure */
	unsigned int status;	    /* of the present response */
};

/* One request in the engine. */
struct fh_seq {
	struct fh_request req;
	struct fh_slot slots[FH_SEQ_SLOTS];
	struct fh_top *top; /* [FH_SEQ_SLOTS, FH_MAX_TOP_LOGPROBS], made when first needed */
	float *pooled;	    /* [dim], likewise */
	struct fh_call *call;
	struct fh_seq *next_free;
	struct fh_detok detok;
	struct fh_buf text;   /* whole answers, and for the audit log: the text so far, escaped */
	struct fh_buf said;   /* for a receipt: the same as it is */
	struct fh_buf lp;     /* log-probabilities so far: content, or tokens */
	struct fh_buf lp_num; /* completions: token_logprobs */
	struct fh_buf lp_top; /* completions: top_logprobs */
	struct fh_buf lp_off; /* completions: text_offset */
	struct fh_buf ids;    /* return_token_ids: those that were not sent yet */
	double sum_logprob;
	uint32_t nr_tokens; /* consumed */
	uint32_t nr_chars;  /* of its text, in code points */
	uint32_t prompt;    /* index into the call's prompts */
	uint32_t index;	    /* choice number, in the answer */
	uint8_t finish;	    /* enum fh_finish, once its last slot was read */
	bool ended;	    /* the engine has given it back */
	bool finished;	    /* and nothing of it is left to read */
	bool opened;	    /* stream: its first chunk was sent */
	bool last_seen;	    /* its slot with FH_SLOT_LAST was read */
};

/* Of a call, while there is an audit log. */
struct fh_call_audit {
	struct fh_identity who;
	struct fh_audit_ticket *ticket; /* NULL: its begin was lost, or refused */
	char request_id[129];		/* that the client gave; empty: serial */
	uint64_t serial;
	const char *raw; /* the request as it was sent [raw_bytes], until it has begun; borrowed */
	size_t raw_bytes;
	uint32_t nr_last; /* sequences whose last slot was read */
	bool begun, ended, keep_text;
	/* A receipt: wanted, and on its way; what it is about; what came, NULL: nothing could be had. */
	bool wants_receipt, pending;
	uint8_t salt[FH_AUDIT_SALT_BYTES];
	char *receipt;
};

struct fh_call {
	struct fh_http *h;
	struct fh_conn *conn; /* NULL: the client has gone */
	struct fh_oai oai;
	struct fh_oai_error err;
	struct fh_seq **seqs;			 /* [nr_seqs] */
	uint32_t nr_seqs, nr_submitted, nr_live; /* live: submitted, not finished */
	uint32_t retry_after_ms;
	uint64_t arrival_ns, done_ns;
	uint32_t tenant, ttft_us, tpot_us; /* as the header had them */
	enum fh_http_priority priority;
	struct fh_budget_ask budget;
	uint8_t run_id[16];
	uint64_t created;
	char id[48];
	struct fh_buf prefix; /* stream: what every chunk begins with, up to the index */
	struct fh_buf body;   /* for the helper */
	struct fh_buf answer; /* the whole answer, once it is known */
	size_t body_accounted;
	bool streaming; /* the header is out */
	bool failed;	/* err is the answer */
	bool stalled;	/* tokens wait in the slots for the connection to drain */
	bool in_helper;
	bool waiting; /* on the list of calls with sequences that found the queue full */
	struct fh_call *next_job, *next_waiting;
	/* Usage, over all sequences that have ended. */
	uint64_t nr_generated, nr_cached, nr_reasoning;
	struct fh_budget_charge charge;
	struct fh_call_audit audit;
	struct fh_trace_span *span; /* NULL: nobody wants to know; malloc'ed */
};

struct fh_helper;

/* The dashboard's page, and what browsers are told of it. */
struct fh_page {
	const char *text;
	size_t bytes;
	char headers[640]; /* lines with CR LF */
};

struct fh_http {
	struct fh_frontend fe;
	struct fh_io *io;
	const struct fh_service *svc;
	struct fh_http_config cfg;
	struct fh_http_listener {
		struct fh_io_listener l;
		struct fh_http *h;
		int fd;
		bool tls;
		char url[160];
		struct fh_unix_listener file; /* of a Unix socket */
	} listeners[FH_HTTP_MAX_LISTEN];
	uint32_t nr_listen;
	pthread_t thread;
	sem_t opened; /* the I/O thread has tried to begin; start_rc says how it went */
	int start_rc;
	struct fh_err start_err;
	bool started;
	_Atomic uint32_t stop;		    /* set by fh_http_stop() */
	_Atomic uint64_t stop_ns;	    /* when to give up draining */
	_Atomic(struct fh_auth *) new_auth; /* to be taken over by the I/O thread */
	struct fh_auth *auth;
	struct fh_guard *guard;		      /* who may come in; NULL: none was given */
	uint32_t guard_nr;		      /* counts them: which one it is */
	_Atomic(struct fh_guard *) new_guard; /* to be taken over by the I/O thread */
	uint64_t checked_s;		      /* when calls were last held against it; 0: it is new */
	uint32_t public_eps;		      /* a bit an endpoint */
	struct fh_http_tls *tls;	      /* NULL: no listener speaks it */
	char key_file[512];
	bool draining, accepting;
	struct fh_conn *conns, *free_conns;
	uint32_t nr_conns;
	struct fh_conn *flush_head, **flush_tail;
	struct fh_seq *free_seqs;
	uint32_t nr_seqs_made, nr_seqs_out; /* allocated; of those, in calls */
	uint32_t nr_calls;		    /* alive, with or without connection */
	struct fh_call *waiting_head, **waiting_tail;
	uint64_t body_bytes; /* memory of all request bodies */
	struct fh_helper *helper;
	uint64_t id_nonce, id_count;
	struct fh_random random;    /* seeds for requests without one */
	struct fh_conn *audit_head; /* connections whose answers wait for the audit log */
	struct fh_buf audit_body;   /* where answers are put together for it */
	uint64_t date_s;
	char date[32];
	struct fh_http_watch *watch; /* NULL: there are no numbers */
	struct fh_page page;
	_Atomic(struct fh_errand *) errands; /* done, for the I/O thread to take */
	struct fh_http_counters c;
};

/* http_conn.c */
struct fh_io_sock *fh_conn_accept(struct fh_io_listener *l, const struct fh_io_sock_ops **ops);
/* Read on: a response is complete, or the backlog has gone. */
void fh_conn_resume(struct fh_conn *c);
/* Close now; the call, if any, is cancelled. */
void fh_conn_abort(struct fh_conn *c);
/* Close when what is ready has been sent; nobody is being answered. */
void fh_conn_finish(struct fh_conn *c);
/* Close now, but for what TLS has to say of it. */
void fh_conn_break(struct fh_conn *c);
/* A response is complete: the next request, or the end. */
void fh_conn_done(struct fh_conn *c);
void fh_conn_free_all(struct fh_http *h);
/* Bytes of requests, out of TLS where there is any. */
void fh_conn_input(struct fh_conn *c, const char *data, size_t n);
/* The peer sends no more (0), or is lost (-errno). */
void fh_conn_eof(struct fh_conn *c, ssize_t n);
/* False: all request bodies together would use too much memory. */
bool fh_body_account(struct fh_http *h, size_t *accounted, size_t now);

/* http_write.c */
void fh_conn_arm(struct fh_conn *c, uint64_t after_ms);
/* A whole response. @extra: further header lines with CR LF, or NULL. */
void fh_conn_respond(struct fh_conn *c, unsigned int status, const char *type, const char *extra, const char *body,
		     size_t n);
void fh_conn_respond_error(struct fh_conn *c, const struct fh_oai_error *err, const char *extra);
/* What is in @b, which is freed; without memory for it the connection ends. */
void fh_conn_respond_json(struct fh_conn *c, unsigned int status, const char *extra, struct fh_buf *b);
#define FH_NO_STORE "Cache-Control: no-store\r\n"
/* A response of unknown length: its header, then pieces between begin and flush, then the end. */
void fh_conn_stream_begin(struct fh_conn *c);
void fh_conn_piece(struct fh_conn *c); /* what is put into c->out from here on is payload */
void fh_conn_stream_end(struct fh_conn *c);
void fh_conn_swap(struct fh_conn *c);  /* out is sent next; flight is empty */
void fh_conn_flush(struct fh_conn *c); /* send at the end of this turn */
void fh_conn_unflush(struct fh_conn *c);
void fh_conn_continue(struct fh_conn *c);
void fh_flush_all(struct fh_http *h);
bool fh_conn_backlogged(const struct fh_conn *c);
void fh_conn_on_sent(struct fh_io_sock *s, int res);

/* http_auth.c */
int fh_http_read_public(struct fh_http *h, struct fh_err *err);
void fh_http_take_guard(struct fh_http *h);
/* For administrators alone? */
bool fh_endpoint_is_admin(enum fh_endpoint ep);
/* Calls of whom the guard would not let in any more end. *timeout_ns: how long the loop may sleep. */
void fh_http_recheck(struct fh_http *h, uint64_t *timeout_ns);
/* Sets c->grant and c->tenant from c->head. False: c->refuse is set, and c->err is the answer. */
bool fh_conn_admit(struct fh_conn *c);
/* Would it still be let in, some time after it was?  False: c->refuse is set, and c->err is the answer. */
bool fh_conn_still_admitted(struct fh_conn *c);

/* http_budget.c */
/* Keeps the run that c->head names in c->run_id. */
void fh_conn_run(struct fh_conn *c);
/* What the call draws on. */
void fh_call_budget(struct fh_call *call, const struct fh_conn *c);
/* The words of a refusal, into @what, and its code. */
const char *fh_budget_refusal(const struct fh_budget_word *w, char *what, size_t cap, uint32_t *retry_ms);
/* A warning for the header of the answer. */
void fh_conn_notice(struct fh_conn *c, const struct fh_budget_word *w);

/* http_tls.c */
int fh_http_tls_create(struct fh_http *h, struct fh_err *err);
int fh_http_tls_start(struct fh_http *h, struct fh_err *err);
void fh_http_tls_stop(struct fh_http *h);
void fh_http_tls_destroy(struct fh_http *h);
/* Do connections have to be descriptors, so that keys can be put into them? */
bool fh_http_tls_with_fds(const struct fh_http *h);
/* Handshakes that have come a step further. */
void fh_http_tls_results(struct fh_http *h);
/* A new connection that begins with a handshake; -ENOMEM. */
int fh_conn_tls_open(struct fh_conn *c);
void fh_conn_tls_close(struct fh_conn *c);
void fh_conn_tls_recv(struct fh_conn *c, const char *data, size_t n);
/* Move what is in c->out, sealed unless the kernel does that, to the empty c->flight. False: the connection is lost. */
bool fh_conn_tls_seal(struct fh_conn *c);
bool fh_conn_tls_pending(const struct fh_conn *c);
/* With nothing else to send: the kernel is given an alert to send, if there is one. */
bool fh_conn_tls_alert(struct fh_conn *c);
/* Does the kernel seal, so that closing has to wait until it has sent everything? */
bool fh_conn_tls_offloaded(const struct fh_conn *c);
/* Its key has sealed what it may: it takes no further request. */
bool fh_conn_tls_worn(const struct fh_conn *c);
/*
 * All has been handed to the kernel, and the connection is to be closed.  True: not yet, for the kernel may hold
 * records that it would forget; it will be asked again.
 */
bool fh_conn_tls_draining(struct fh_conn *c);
/* The certificate that the client showed and that was verified; NULL: none. */
const struct fh_guard_cert *fh_conn_cert(const struct fh_conn *c);

/* http_route.c */
/* What c->head asks for: sets c->ep, or c->err and c->refuse. */
void fh_route(struct fh_conn *c);
/* The whole request is here. Answers it, or makes a call. @body valid during the call only. */
void fh_dispatch(struct fh_conn *c, const char *body, size_t n);

/* The header line of a 405. */
const char *fh_endpoint_allow(enum fh_endpoint ep);
/* "ok", or what is wrong; *rc: -errno, 0: requests are answered. */
const char *fh_http_health(struct fh_http *h, int *rc);

/* http_page.c */
int fh_page_open(struct fh_page *p, struct fh_err *err);
void fh_conn_answer_page(struct fh_conn *c);

/* http_watch.c */
int fh_http_watch_create(struct fh_http *h, struct fh_err *err);
void fh_http_watch_destroy(struct fh_http *h);
/* Its head has been read, and it may: keep by what. -ENOMEM. */
int fh_viewer_open(struct fh_conn *c);
/* It watches no more. False: it did not. */
bool fh_viewer_close(struct fh_conn *c);
/* All streams end: the server drains. */
void fh_viewers_end(struct fh_http *h);
void fh_conn_answer_status(struct fh_conn *c);
void fh_conn_answer_events(struct fh_conn *c);
void fh_watch_metrics(const struct fh_http *h, FILE *out);

/* http_keys.c */
/* What stands behind the '?' of a list of keys. False: c->refuse is set, and c->err is the answer. */
bool fh_conn_keys_query(struct fh_conn *c, struct fh_span query);
void fh_conn_answer_keys(struct fh_conn *c);
/* It waits no more. */
void fh_errand_forget(struct fh_conn *c);
/* Answers that have come. */
void fh_errands_take(struct fh_http *h);
void fh_errands_free(struct fh_http *h);

/* http_listen.c */
int fh_listen_open(struct fh_http *h, const char *addr, struct fh_http_listener *l, struct fh_err *err);
void fh_listen_close(struct fh_http_listener *l);

/* http_metrics.c */
void fh_metrics_count(struct fh_http *h, enum fh_endpoint ep, unsigned int status);
void fh_metrics_print(struct fh_http *h, FILE *out);
const char *fh_endpoint_name(enum fh_endpoint ep);
const char *const *fh_endpoint_names(void); /* [FH_NR_EP] */

/* helper.c */
int fh_helper_create(struct fh_http *h, struct fh_err *err);
void fh_helper_destroy(struct fh_http *h);
void fh_helper_submit(struct fh_http *h, struct fh_call *call);
/* The next call that has been parsed, or NULL. */
struct fh_call *fh_helper_next(struct fh_http *h);

/* call.c */
void fh_call_start(struct fh_conn *c, enum fh_oai_kind kind, const char *body, size_t n);
/* After parsing: answer, or submit. */
void fh_call_parsed(struct fh_call *call);
void fh_call_cancel(struct fh_call *call);
/* Whoever asked may not any more: no answer but this error. */
void fh_call_revoke(struct fh_call *call, unsigned int status, const char *code, const char *what);
void fh_call_resume(struct fh_call *call);
void fh_call_discard(struct fh_call *call);
/* Its receipt, which it owns from here on, or NULL: it can end now. */
void fh_call_receipt(struct fh_call *call, char *receipt);
void fh_calls_drain_ready(struct fh_http *h);
void fh_seqs_free_all(struct fh_http *h);

/* call_text.c */
/* Read what the engine has published, as far as the connection can take it. */
void fh_seq_consume(struct fh_seq *s);
/* The whole answer of a call that does not stream. */
void fh_call_put_answer(struct fh_call *call, struct fh_buf *b);
/* Usage, where it was asked for, and [DONE]. */
void fh_call_put_stream_end(struct fh_call *call);
void fh_call_put_stream_error(struct fh_call *call);
/* An event with the receipt. */
void fh_call_put_receipt(struct fh_call *call);

/* call_audit.c; all but the first do nothing while there is no audit log. */
/* Who asks, and what: @body is there until fh_call_parsed(). Call it only with an audit log. */
void fh_call_audit_open(struct fh_call *call, const char *body, size_t n);
/* The request was read: it begins. False: the log is strict and cannot be written; call->err says so. */
bool fh_call_audit_begin(struct fh_call *call);
/* Its last slot was read. */
void fh_call_audit_last(struct fh_seq *s);
/* It has ended; @answer: what was sent, where that is no text of choices, or NULL. The first time counts. */
void fh_call_audit_end(struct fh_call *call, const char *answer, size_t n);

/* call_span.c */
/* If somebody wants to know: who asks, and as part of what. */
void fh_call_span_open(struct fh_call *call, const struct fh_conn *c);
/* One of its sequences has ended. */
void fh_call_span_seq(struct fh_seq *seq);
/* It is over: hand it over. The first time counts. */
void fh_call_span_end(struct fh_call *call);

/* http_audit.c */
/* A request gets its id, so that the log and the client are told the same one. */
void fh_conn_audit_name(struct fh_conn *c);
/* Who he is for the audit log, where the guard did not say: from c->tenant. */
void fh_conn_identify(struct fh_conn *c);
/* c->err is the answer, and no call was made. False: it cannot be logged, and must not be given. */
bool fh_conn_audit_refusal(struct fh_conn *c);
/* Send nothing before the log has @seq. */
void fh_conn_audit_wait(struct fh_conn *c, uint64_t seq);
/* May what is in c->out be sent?  If not, it will be. */
bool fh_conn_audit_allows(struct fh_conn *c);
void fh_conn_audit_forget(struct fh_conn *c);
/* Flush those whose events have become durable, and end calls whose receipts have come. */
void fh_audit_release(struct fh_http *h);

/* call_logprobs.c */
/* A token with its probability and alternatives: into the sequence's buffers. */
void fh_seq_add_logprobs(struct fh_seq *s, const struct fh_slot *slot, const struct fh_top *top);
/* The "logprobs" value of an answer or a chunk, from the buffers, which are emptied. */
void fh_seq_put_logprobs(struct fh_seq *s, struct fh_buf *b);

#endif /* FH_NET_HTTP_PRIV_H */
