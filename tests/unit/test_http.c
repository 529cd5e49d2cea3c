// SPDX-License-Identifier: Apache-2.0
/*
 * The API over loopback sockets, on both backends, in front of a small real
 * service (http_service.h): endpoints, completions, chats, streams, pipelining.
 * Every test ends by stopping the server and checking that the engine has
 * everything back.  fh_http_start() starts threads: ThreadSanitizer runs this.
 */
#include "tests/unit/http_server.h"

HTTP_TEST(simple_endpoints)
{
	struct server *s = server_up(epoll);
	struct reply r;

	r = fetch(s->url, "GET", "/health", "");
	expect_reply(r, 200, "{\"status\":\"ok\"}");
	r = fetch(s->url, "GET", "/version", "");
	expect_reply(r, 200, "{\"version\":\"1.2.3\"}");
	r = fetch(s->url, "GET", "/v1/models", "");
	expect_reply(r, 200, "\"object\":\"list\",\"data\":[{\"id\":\"echo/model\"");
	r = fetch(s->url, "GET", "/v1/models/echo%2Fmodel", "");
	expect_reply(r, 200, "\"created\":1700000000");
	r = fetch(s->url, "GET", "/v1/models/echo/model?x=1", "");
	expect_reply(r, 200, "\"object\":\"model\"");
	r = fetch(s->url, "GET", "/v1/models/other", "");
	expect_reply(r, 404, "model_not_found");
	r = fetch(s->url, "GET", "/nothing", "");
	expect_reply(r, 404, "'/nothing'");
	r = fetch(s->url, "GET", "/v1/completions", "");
	cr_expect_str_eq(reply_header(&r, "Allow"), "POST");
	expect_reply(r, 405, "takes POST");
	r = fetch(s->url, "DELETE", "/v1/models", "");
	expect_reply(r, 405, "takes GET");
	r = fetch(s->url, "HEAD", "/health", "");
	cr_expect_str_eq(reply_header(&r, "Content-Length"), "15");
	expect_reply(r, 200, "");
	r = fetch(s->url, "GET", "/metrics", "");
	cr_expect(strstr(r.body, "freehold_echo_inside 0"));
	cr_expect(strstr(r.body, "freehold_http_request_duration_seconds_bucket{le=\"1e-05\"}"));
	expect_reply(r, 200, "freehold_http_requests_total{endpoint=\"/health\",status=\"200\"} 2");
	atomic_store(&s->e.health, ETIMEDOUT);
	r = fetch(s->url, "GET", "/health", "");
	expect_reply(r, 503, "stalled");
	server_down(s);
}

/* The run that the engine is told of for a request whose head, with a field of @filler bytes, is cut at @cut. */
static uint64_t run_of(struct server *s, struct client *c, const char *run, size_t filler, size_t cut, int nr_pieces)
{
	size_t cap = filler + 512;
	char *head = malloc(cap), piece[65];
	struct reply r;
	int n = snprintf(head, cap,
			 "POST /v1/completions HTTP/1.1\r\nX-Freehold-Run-Id: %s\r\nHost: x\r\nX-Filler: %0*d\r\n"
			 "Content-Length: %d\r\n\r\n",
			 run, (int)filler, 0, 64 * nr_pieces);

	memset(piece, ' ', sizeof(piece) - 1);
	cr_assert(client_send(c, head, cut));
	usleep(cut ? 20000 : 0);
	cr_assert(client_send(c, head + cut, (size_t)n - cut));
	/* Each piece by itself: what the head lay in is received into again. */
	for (int i = 1; i < nr_pieces; i++) {
		usleep(i == 1 ? 20000 : 200);
		cr_assert(client_send(c, piece, 64));
	}
	snprintf(piece, sizeof(piece), "%-64s", "{\"prompt\":\"ab\",\"max_tokens\":1}");
	cr_assert(client_send(c, piece, 64));
	r = client_reply(c);
	expect_reply(r, 200, "text_completion");
	free(head);
	return atomic_load(&s->e.run);
}

HTTP_TEST(a_run_is_that_of_the_head_however_late_the_body)
{
	struct server *s = server_up(epoll);
	struct client c = client_open(s->url);
	uint64_t whole = run_of(s, &c, "agent-7", 1, 0, 1);

	cr_expect_neq(whole, 0);
	cr_expect_eq(run_of(s, &c, "agent-7", 1, 0, 700), whole, "a body in pieces");
	cr_expect_eq(run_of(s, &c, "agent-7", 25000, 20000, 3), whole, "a head in pieces, and long");
	cr_expect_neq(run_of(s, &c, "agent-8", 1, 0, 1), whole);
	/* The next of the same connection that names none has none. */
	cr_assert(client_request(&c, "POST", "/v1/completions", NULL, "{\"prompt\":\"ab\",\"max_tokens\":1}"));
	reply_free(&(struct reply[]){client_reply(&c)}[0]);
	cr_expect_eq(atomic_load(&s->e.run), 0);
	client_close(&c);
	server_down(s);
}

HTTP_TEST(completion)
{
	struct server *s = server_up(epoll);
	struct reply r;

	r = fetch(s->url, "POST", "/v1/completions", "{\"model\":\"echo/model\",\"prompt\":\"ab\",\"max_tokens\":5}");
	cr_expect(strstr(r.body, "\"object\":\"text_completion\""));
	cr_expect(
		strstr(r.body,
		       "\"choices\":[{\"index\":0,\"text\":\"ababa\",\"logprobs\":null,\"finish_reason\":\"length\"}]"),
		"%s", r.body);
	expect_reply(r, 200,
		     "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,\"total_tokens\":8,"
		     "\"prompt_tokens_details\":{\"cached_tokens\":2},\"completion_tokens_details\":{"
		     "\"reasoning_tokens\":0}}}");
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":[104,105],\"echo\":true,\"max_tokens\":2,\"n\":2}");
	expect_reply(r, 200, "{\"index\":1,\"text\":\"hihi\"");
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":[\"x\",\"y\"],\"max_tokens\":1,\"n\":2}");
	expect_reply(r, 200, "{\"index\":3,\"text\":\"y\"");
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"one two\",\"stop\":[\"tw\"]}");
	expect_reply(r, 200, "\"text\":\"one \",\"logprobs\":null,\"finish_reason\":\"stop\"");
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"\xe2\x82\xac\",\"max_tokens\":4}");
	expect_reply(r, 200, "\"text\":\"\xe2\x82\xac\xef\xbf\xbd\"");
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"q\\\"\\n\",\"max_tokens\":3}");
	expect_reply(r, 200, "\"text\":\"q\\\"\\n\"");
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"b\",\"max_tokens\":1,\"logprobs\":2}");
	expect_reply(
		r, 200,
		"\"logprobs\":{\"tokens\":[\"b\"],\"token_logprobs\":[-0.5],\"top_logprobs\":[{\"a\":-0.5,\"b\":-0.5}],"
		"\"text_offset\":[0]}");
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"b\",\"max_tokens\":1,\"best_of\":3}");
	expect_reply(r, 200, "\"completion_tokens\":3");
	server_down(s);
}

HTTP_TEST(chat)
{
	struct server *s = server_up(epoll);
	struct reply r;

	r = fetch(s->url, "POST", "/v1/chat/completions",
		  "{\"messages\":[{\"role\":\"user\",\"content\":\"hey\"}],\"max_completion_tokens\":9}");
	cr_expect(strstr(r.body, "\"object\":\"chat.completion\""));
	expect_reply(r, 200, "\"message\":{\"role\":\"assistant\",\"content\":\"<user>hey\",\"refusal\":null}");
	r = fetch(s->url, "POST", "/v1/chat/completions",
		  "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":"
		  "\"text\",\"text\":"
		  "\"b\"}]}],\"max_tokens\":9,\"logprobs\":true,\"top_logprobs\":1}");
	cr_expect(strstr(r.body, "\"content\":\"<user>a\\nb\""), "%s", r.body);
	expect_reply(
		r, 200,
		"{\"token\":\"<\",\"logprob\":-0.5,\"bytes\":[60],\"top_logprobs\":[{\"token\":\"a\",\"logprob\":-0.5,"
		"\"bytes\":[97]}]}");
	r = fetch(s->url, "POST", "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"raise\"}]}");
	expect_reply(r, 400, "was asked to raise");
	r = fetch(s->url, "POST", "/v1/chat/completions",
		  "{\"stream\":true,\"stream_options\":{\"include_usage\":true},\"max_tokens\":2,"
		  "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
	cr_expect(r.chunked);
	cr_expect(
		strstr(r.body,
		       "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null"));
	cr_expect(strstr(r.body, "\"delta\":{\"content\":\"<\"}"));
	cr_expect(strstr(r.body, "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}],\"usage\":null}\n\n"));
	cr_expect(strstr(r.body, "\"choices\":[],\"usage\":{\"prompt_tokens\":18,\"completion_tokens\":2,"), "%s",
		  r.body);
	expect_reply(r, 200, "data: [DONE]\n\n");
	server_down(s);
}

HTTP_TEST(stream)
{
	struct server *s = server_up(epoll);
	struct client c = client_open(s->url);
	struct reply r;

	client_request(&c, "POST", "/v1/completions", NULL,
		       "{\"prompt\":\"\xf0\x9f\x98\x80z\",\"max_tokens\":1000,\"stream\":true}");
	r = client_reply(&c);
	cr_expect_str_eq(reply_header(&r, "Content-Type"), "text/event-stream; charset=utf-8");
	cr_expect_eq(count(r.body, "\"text\":\"\xf0\x9f\x98\x80\""), 200);
	cr_expect_eq(count(r.body, "\"text\":\"z\""), 200);
	cr_expect_eq(count(r.body, "data: {"), 400);
	cr_expect_eq(count(r.body, "\"finish_reason\":\"length\""), 1);
	expect_reply(r, 200, "\ndata: [DONE]\n\n");
	/* The connection goes on. */
	client_request(&c, "POST", "/v1/completions", NULL,
		       "{\"prompt\":\"ab\",\"max_tokens\":2,\"stream\":true,\"n\":2,\"echo\":true,\"logprobs\":null}");
	r = client_reply(&c);
	cr_expect_eq(count(r.body, "{\"index\":1,\"text\":\"aba\""), 1, "%s", r.body);
	expect_reply(r, 200, "[DONE]");
	client_request(&c, "POST", "/v1/completions", NULL,
		       "{\"prompt\":\"a\",\"max_tokens\":2,\"stream\":true,\"logprobs\":0}");
	r = client_reply(&c);
	expect_reply(r, 200,
		     "\"logprobs\":{\"tokens\":[\"a\"],\"token_logprobs\":[-0.5],\"top_logprobs\":null,\"text_offset\":"
		     "[1]}");
	client_close(&c);
	/* A POST that does not say how long it is. */
	c = client_open(s->url);
	client_puts(&c, "POST /v1/completions HTTP/1.1\r\nHost: a\r\n\r\n");
	r = client_reply(&c);
	expect_reply(r, 411, "Content-Length");
	client_close(&c);
	/* HTTP/1.0 knows no chunks: the end of the connection ends the stream. */
	c = client_open(s->url);
	client_puts(&c, "POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 48\r\n\r\n"
			"{\"prompt\":\"ab\",\"max_tokens\":2,\"stream\":true    }");
	r = client_reply(&c);
	cr_expect(!r.chunked && !strcmp(reply_header(&r, "Connection"), "close"));
	expect_reply(r, 200, "data: [DONE]\n\n");
	client_close(&c);
	server_down(s);
}

HTTP_TEST(token_ids)
{
	struct server *s = server_up(epoll);
	struct reply r = fetch(s->url, "POST", "/v1/completions",
			       "{\"prompt\":\"ab\",\"max_tokens\":3,\"return_token_ids\":true,\"n\":2}");

	cr_expect_eq(count(r.body, "\"prompt_token_ids\":[256,97,98],\"token_ids\":[97,98,97]}"), 2, "%s", r.body);
	reply_free(&r);
	/* Every token has its event: the halves of a character and a token without text, too. */
	r = fetch(s->url, "POST", "/v1/completions",
		  "{\"prompt\":[195,169,257],\"max_tokens\":4,\"return_token_ids\":true,\"ignore_eos\":true,\"stream\":"
		  "true}");
	cr_expect_eq(count(r.body, "data: {"), 4, "%s", r.body);
	cr_expect_eq(count(r.body, "\"prompt_token_ids\":[195,169,257],\"token_ids\":[195]}"), 1, "%s", r.body);
	cr_expect_eq(count(r.body, "prompt_token_ids"), 1, "%s", r.body);
	cr_expect(strstr(r.body, "\"text\":\"\xc3\xa9\",\"logprobs\":null,\"finish_reason\":null,\"token_ids\":[169]"));
	cr_expect(strstr(r.body, "\"text\":\"\",\"logprobs\":null,\"finish_reason\":null,\"token_ids\":[257]"));
	cr_expect(strstr(r.body, "\"finish_reason\":\"length\",\"token_ids\":[195]"), "%s", r.body);
	reply_free(&r);
	r = fetch(s->url, "POST", "/v1/chat/completions",
		  "{\"messages\":[{\"role\":\"u\",\"content\":\"a\"}],\"max_tokens\":2,\"return_token_ids\":true}");
	cr_expect(strstr(r.body, "\"token_ids\":[60,117]}],\"prompt_token_ids\":[60,117,62,97,60"), "%s", r.body);
	reply_free(&r);
	r = fetch(s->url, "POST", "/v1/chat/completions",
		  "{\"messages\":[{\"role\":\"u\",\"content\":\"a\"}],\"max_tokens\":2,\"return_token_ids\":true,"
		  "\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
	cr_expect_eq(count(r.body, "],\"prompt_token_ids\":[60,117,62,97,60"), 1, "%s", r.body);
	cr_expect(strstr(r.body, "\"token_ids\":[117]}],\"usage\":null}"), "%s", r.body);
	reply_free(&r);
	r = fetch(s->url, "POST", "/v1/completions", "{\"prompt\":\"ab\",\"max_tokens\":3}");
	cr_expect(!strstr(r.body, "token_ids"));
	reply_free(&r);
	server_down(s);
}

HTTP_TEST(embeddings_and_tokens)
{
	struct server *s = server_up(epoll);
	struct reply r;

	r = fetch(s->url, "POST", "/v1/embeddings", "{\"input\":[[3],[0]]}");
	cr_expect(strstr(r.body, "\"index\":1,\"embedding\":[0,0.267261237,0.534522474,0.801783741]"), "%s", r.body);
	expect_reply(r, 200, "\"usage\":{\"prompt_tokens\":2,\"total_tokens\":2}");
	r = fetch(s->url, "POST", "/v1/embeddings", "{\"input\":[0],\"encoding_format\":\"base64\"}");
	expect_reply(r, 200, "\"embedding\":\"AAAAAHfWiD531gg/s0FNPw==\"");
	r = fetch(s->url, "POST", "/tokenize", "{\"prompt\":\"hi\",\"return_token_strs\":true}");
	expect_reply(
		r, 200,
		"{\"count\":3,\"max_model_len\":16777216,\"tokens\":[256,104,105],\"token_strs\":[\"\",\"h\",\"i\"]}");
	r = fetch(s->url, "POST", "/tokenize", "{\"prompt\":\"hi\",\"add_special_tokens\":false}");
	expect_reply(r, 200, "\"tokens\":[104,105],\"token_strs\":null");
	r = fetch(s->url, "POST", "/tokenize",
		  "{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}],\"add_generation_prompt\":false}");
	expect_reply(r, 200, "\"tokens\":[60,117,62,120]");
	r = fetch(s->url, "POST", "/detokenize", "{\"tokens\":[104,226,130,172]}");
	expect_reply(r, 200, "{\"prompt\":\"h\xe2\x82\xac\"}");
	r = fetch(s->url, "POST", "/detokenize", "{\"tokens\":[999]}");
	expect_reply(r, 400, "no token id");
	server_down(s);
}

HTTP_TEST(pipelining_and_fragments)
{
	static const char one[] = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Request-Id: id-7\r\nContent-Length: "
				  "30\r\n\r\n{\"prompt\":\"k\",\"max_tokens\":3}\n";
	struct server *s = server_up(epoll);
	struct client c = client_open(s->url);
	char *many = malloc(200 * (sizeof(one) + 64));
	size_t n = 0;
	struct reply r;

	/* Two hundred requests in one write: answered in order. */
	for (int i = 0; i < 200; i++)
		n += (size_t)sprintf(many + n, "%s", i % 2 ? one : "GET /version HTTP/1.1\r\nHost: a\r\n\r\n");
	cr_assert(client_send(&c, many, n));
	for (int i = 0; i < 200; i++) {
		r = client_reply(&c);
		if (i % 2)
			cr_expect_str_eq(reply_header(&r, "X-Request-Id"), "id-7");
		expect_reply(r, 200, i % 2 ? "\"text\":\"kkk\"" : "1.2.3");
	}
	/* One byte at a time. */
	for (size_t i = 0; i < sizeof(one) - 1; i++)
		client_send(&c, one + i, 1);
	r = client_reply(&c);
	expect_reply(r, 200, "\"text\":\"kkk\"");
	/* Chunked, with an extension and a trailer, in two pieces. */
	client_puts(&c, "POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n{\"pro\r\n");
	usleep(20000);
	client_puts(&c, "B\r\nmpt\":\"hi\"} \r\n0\r\nX-Sum: 1\r\n\r\n");
	r = client_reply(&c);
	expect_reply(r, 200, "\"count\":3");
	/* Expect: 100-continue. */
	client_puts(&c, "POST /tokenize HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 15\r\n\r\n");
	r = client_reply(&c);
	cr_expect_eq(r.status, 100);
	reply_free(&r);
	client_puts(&c, "{\"prompt\":\"hi\"}");
	r = client_reply(&c);
	expect_reply(r, 200, "\"count\":3");
	client_close(&c);
	free(many);
	server_down(s);
}

HTTP_TEST(closes_when_asked)
{
	struct server *s = server_up(epoll);
	struct client c = client_open(s->url);
	struct reply r;

	client_puts(&c, "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
	r = client_reply(&c);
	cr_expect_str_eq(reply_header(&r, "Connection"), "close");
	expect_reply(r, 200, "ok");
	cr_expect(client_at_eof(&c));
	client_close(&c);
	c = client_open(s->url);
	client_puts(&c, "GET /health HTTP/1.0\r\n\r\n");
	r = client_reply(&c);
	expect_reply(r, 200, "ok");
	cr_expect(client_at_eof(&c));
	client_close(&c);
	/* Half-closed after a request that is answered at once: the answer still comes. */
	c = client_open(s->url);
	client_puts(&c, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
	shutdown(c.fd, SHUT_WR);
	r = client_reply(&c);
	expect_reply(r, 200, "ok");
	cr_expect(client_at_eof(&c));
	client_close(&c);
	/* After a malformed request the answer arrives although bytes were left unread. */
	c = client_open(s->url);
	client_puts(&c, "GET /health HTTP/1.1\r\nHost : a\r\n\r\ntrailing bytes that nobody reads");
	r = client_reply(&c);
	expect_reply(r, 400, "space before the colon");
	client_close(&c);
	server_down(s);
}
