// SPDX-License-Identifier: Apache-2.0
/* Listening sockets: "ADDR:PORT", "[V6]:PORT" and "unix:PATH". */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/net/http_priv.h"

#define BACKLOG 4096 /* the kernel's own limit (somaxconn) cuts it */

static int open_unix(const char *path, struct fh_http_listener *l, struct fh_err *err)
{
	int rc = fh_unix_listen(&l->file, path, SOCK_STREAM, BACKLOG, err);

	if (rc)
		return rc;
	l->fd = l->file.fd;
	snprintf(l->url, sizeof(l->url), "unix:%s", path);
	return 0;
}

static int split_address(const char *addr, char *host, size_t cap, const char **port, struct fh_err *err)
{
	const char *colon = strrchr(addr, ':');
	size_t n = colon ? (size_t)(colon - addr) : 0;

	if (n >= 2 && addr[0] == '[' && addr[n - 1] == ']') {
		addr++;
		n -= 2;
	} else if (memchr(addr, ':', n)) {
		n = 0;
	}
	if (!colon || !n || n >= cap || !colon[1])
		return fh_errf(err, -EINVAL, "\"%s\": an address to listen on is ADDR:PORT, [V6]:PORT or unix:PATH",
			       addr);
	/* getaddrinfo() would take a larger number and cut it. */
	if (strlen(colon + 1) > 5 || colon[1 + strspn(colon + 1, "0123456789")] || atoi(colon + 1) > 65535)
		return fh_errf(err, -EINVAL, "\"%s\": a port is a number from 0 to 65535", colon + 1);
	memcpy(host, addr, n);
	host[n] = '\0';
	*port = colon + 1;
	return 0;
}

static void name_listener(struct fh_http_listener *l)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	char host[INET6_ADDRSTRLEN + 32], port[16];

	if (getsockname(l->fd, (struct sockaddr *)&ss, &len) ||
	    getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV))
		return;
	snprintf(l->url, sizeof(l->url), ss.ss_family == AF_INET6 ? "%s://[%s]:%s" : "%s://%s:%s",
		 l->tls ? "https" : "http", host, port);
}

static int listen_on(const struct addrinfo *ai)
{
	int one = 1, unsent = FH_UNSENT_BYTES, fd, rc;

	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	/*
	 * Connections inherit both, which saves a call for each.  Without the
	 * second the kernel takes megabytes for a reader who falls behind, and
	 * asks for more only when a third of them are gone: a slow reader would
	 * look like a dead one, and a thousand of them fill the host's memory.
	 */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (!bind(fd, ai->ai_addr, ai->ai_addrlen) && !listen(fd, BACKLOG))
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

int fh_listen_open(struct fh_http *h, const char *addr, struct fh_http_listener *l, struct fh_err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *ai;
	const char *port = NULL;
	char host[256];
	int rc;

	l->h = h;
	l->l.on_accept = fh_conn_accept;
	if (!strncmp(addr, "unix:", 5))
		return open_unix(addr + 5, l, err);
	rc = split_address(addr, host, sizeof(host), &port, err);
	if (rc)
		return rc;
	rc = getaddrinfo(host, port, &hints, &ai);
	if (rc)
		return fh_errf(err, -EINVAL, "%s: %s", addr, gai_strerror(rc));
	rc = listen_on(ai);
	freeaddrinfo(ai);
	if (rc < 0)
		return fh_errf(err, rc, "%s: cannot listen: %s%s", addr, strerror(-rc),
			       rc == -EADDRINUSE ? "; another process does; choose another port" : "");
	l->fd = rc;
	name_listener(l);
	return 0;
}

void fh_listen_close(struct fh_http_listener *l)
{
	if (l->file.path[0])
		fh_unix_unlisten(&l->file);
	else if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}
