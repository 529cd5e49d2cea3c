// SPDX-License-Identifier: Apache-2.0
/* One blocking GET, for what a server says of itself before a run; see run.h. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "tools/load/answer.h"
#include "tools/load/run.h"

#define GET_TIMEOUT_S 10

static int send_all(int fd, const char *p, size_t n)
{
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

static int receive(int fd, struct load_answer *a)
{
	char buf[16384];

	while (a->state != LOAD_DONE) {
		ssize_t k = recv(fd, buf, sizeof(buf), 0);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
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
	struct load_answer a = {0};
	int fd = socket(t->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

	if (fd < 0)
		return fh_errf(err, -errno, "socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	load_get_request(t, path, out);
	rc = connect(fd, (const struct sockaddr *)&t->addr, t->addr_len) ? -errno : out->failed ? -ENOMEM : 0;
	if (!rc)
		rc = send_all(fd, out->data, out->len);
	if (!rc)
		rc = receive(fd, &a);
	fh_buf_reset(out, SIZE_MAX);
	if (!rc && a.status != 200)
		rc = fh_errf(err, a.status == 401 ? -EACCES : -ENOENT, "GET %s%s: status %d: %.150s", t->url, path,
			     a.status, a.error);
	else if (rc)
		fh_errf(err, rc, "GET %s%s: %s", t->url, path, rc == -EPROTO ? a.error : strerror(-rc));
	else
		fh_buf_put(out, a.line.data, a.line.len);
	load_answer_free(&a);
	close(fd);
	return rc;
}
