// SPDX-License-Identifier: Apache-2.0
/* What a server says of itself before a run, by one blocking GET; see run.h. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/net/tls_client.h"
#include "tools/load/answer.h"
#include "tools/load/run.h"

#define GET_TIMEOUT_S 10

/* @link: NULL: plain. */
static int send_all(int fd, struct fh_tls_link *link, const char *p, size_t n)
{
	if (link)
		return fh_tls_link_send(link, p, n);
	while (n) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

static ssize_t receive_some(int fd, struct fh_tls_link *link, char *buf, size_t cap)
{
	ssize_t k;

	if (link)
		return fh_tls_link_recv(link, buf, cap);
	do
		k = recv(fd, buf, cap, 0);
	while (k < 0 && errno == EINTR);
	return k >= 0 ? k : errno == EAGAIN ? -ETIMEDOUT : -errno;
}

static int receive(int fd, struct fh_tls_link *link, struct load_answer *a)
{
	char buf[16384];

	while (a->state != LOAD_DONE) {
		ssize_t k = receive_some(fd, link, buf, sizeof(buf));

		if (k < 0)
			return (int)k;
		if (k == 0)
			return load_answer_eof(a, fh_now_ns()) ? 0 : -ECONNRESET;
		if (!load_answer_take(a, buf, (size_t)k, fh_now_ns()))
			return -EPROTO;
	}
	return 0;
}

int load_get(const struct load_target *t, const char *path, struct fh_buf *out, struct fh_err *err)
{
	struct timeval limit = {.tv_sec = GET_TIMEOUT_S};
	struct fh_tls_link *link = NULL;
	struct load_answer a = {0};
	int fd = socket(t->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

	if (fd < 0)
		return fh_errf(err, -errno, "socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	load_get_request(t, path, out);
	rc = connect(fd, (const struct sockaddr *)&t->addr, t->addr_len) ? -errno : out->failed ? -ENOMEM : 0;
	if (!rc && t->over_tls && (rc = fh_tls_dial(t->tls, fd, t->name, &link, err))) {
		fh_buf_reset(out, SIZE_MAX);
		goto out;
	}
	if (!rc)
		rc = send_all(fd, link, out->data, out->len);
	if (!rc)
		rc = receive(fd, link, &a);
	fh_buf_reset(out, SIZE_MAX);
	if (!rc && a.status != 200)
		rc = fh_errf(err, a.status == 401 ? -EACCES : -ENOENT, "GET %s%s: status %d: %.150s", t->url, path,
			     a.status, a.error);
	else if (rc)
		fh_errf(err, rc, "GET %s%s: %s", t->url, path, rc == -EPROTO ? a.error : strerror(-rc));
	else
		fh_buf_put(out, a.line.data, a.line.len);
out:
	load_answer_free(&a);
	fh_tls_link_close(link);
	close(fd);
	return rc;
}

static uint32_t number_in(json_t *o, const char *name)
{
	json_int_t v = json_integer_value(json_object_get(o, name));

	return v > 0 && v <= TRACE_MAX_TOKENS ? (uint32_t)v : 0;
}

/* What /v1/models says; a server without it is asked by the name that was given. */
static int discover_http(struct load_target *t, const char *model, struct fh_err *err)
{
	struct fh_buf body = {0};
	json_t *j = NULL, *m, *meta;
	int rc = load_get(t, "/v1/models", &body, err);

	if (!rc) {
		j = json_loadb(body.data, body.len, 0, NULL);
		m = json_array_get(json_object_get(j, "data"), 0);
		meta = json_object_get(m, "meta");
		if (json_is_string(json_object_get(m, "id")))
			snprintf(t->model, sizeof(t->model), "%s", json_string_value(json_object_get(m, "id")));
		if (!t->nr_ctx || (number_in(m, "max_model_len") && number_in(m, "max_model_len") < t->nr_ctx))
			t->nr_ctx = number_in(m, "max_model_len");
		if (!t->nr_vocab)
			t->nr_vocab = number_in(meta, "n_vocab");
	} else if (rc == -ENOENT && model) {
		rc = 0; /* without the page the name has to be told; it was */
	}
	if (model)
		snprintf(t->model, sizeof(t->model), "%s", model);
	json_decref(j);
	fh_buf_free(&body);
	return rc;
}

int load_discover(struct load_target *t, const char *model, struct fh_err *err)
{
	return t->channel ? load_chan_discover(t, model, err) : discover_http(t, model, err);
}
