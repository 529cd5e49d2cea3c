// SPDX-License-Identifier: Apache-2.0
/*
 * Where a server is: the first argument of fh_open(), or the places where one
 * usually is.
 *
 * A place that was named, by the caller or in the environment, is the only one
 * that is tried: a program that asked for a transport does not silently get
 * another.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/chan_sock.h"
#include "runtime/lib/lib_priv.h"

#define DEVICE "/dev/freehold"
#define HTTP_HOST "127.0.0.1"
#define HTTP_PORT "8080"

static int set_where(struct fh_client *c, const char *where)
{
	if (strlen(where) >= sizeof(c->where))
		return fh_errf(&c->err, -ENAMETOOLONG, "fh_open: '%.40s...' is longer than %zu bytes", where,
			       sizeof(c->where) - 1);
	memmove(c->where, where, strlen(where) + 1);
	return 0;
}

/* HOST, HOST:PORT, [V6] or [V6]:PORT, perhaps with a slash at the end. @text is cut to pieces. */
static int split_host(struct fh_client *c, char *text, char **host, char **port)
{
	size_t n = strlen(text);
	char *end;

	if (n && text[n - 1] == '/')
		text[n - 1] = '\0';
	*host = text;
	*port = (char *)"80";
	if (text[0] == '[') {
		end = strchr(text, ']');
		if (!end)
			return fh_errf(&c->err, -EINVAL, "fh_open: '%s': '[' has no ']'", c->where);
		*host = text + 1;
		*end++ = '\0';
		if (*end && *end != ':')
			return fh_errf(&c->err, -EINVAL, "fh_open: '%s': what follows ']' is no port", c->where);
	} else {
		end = text + strcspn(text, ":");
	}
	if (*end == ':') {
		*end++ = '\0';
		*port = end;
	}
	if (!**host || !**port || strchr(*host, '/') || strspn(*port, "0123456789") != strlen(*port))
		return fh_errf(&c->err, -EINVAL, "fh_open: '%s' is no http://HOST[:PORT]", c->where);
	return 0;
}

static int connect_http(struct fh_client *c, const char *rest)
{
	char text[sizeof(c->where)], *host, *port;
	int rc;

	snprintf(text, sizeof(text), "%s", rest);
	rc = split_host(c, text, &host, &port);
	return rc ? rc : fhl_http_open(c, host, port, NULL);
}

/* KEY@HOST:PORT; there is no usual port. */
static int connect_udp(struct fh_client *c, const char *rest)
{
	char text[sizeof(c->where)], *at, *host, *port;
	int rc;

	snprintf(text, sizeof(text), "%s", rest);
	at = strchr(text, '@');
	if (!at)
		return fh_errf(&c->err, -EINVAL, "fh_open: '%s' is no udp://SERVER-KEY@HOST:PORT", c->where);
	*at++ = '\0';
	port = strrchr(at, ':');
	if (!port || strchr(port, ']'))
		return fh_errf(&c->err, -EINVAL, "fh_open: '%s' has no port", c->where);
	rc = split_host(c, at, &host, &port);
	return rc ? rc : fhl_udp_open(c, text, host, port);
}

static int connect_to(struct fh_client *c, const char *where)
{
	int rc = set_where(c, where);

	if (rc)
		return rc;
	if (!strcmp(where, "dev:") || !strcmp(where, "dev"))
		return fhl_dev_open(c, DEVICE);
	if (!strncmp(where, "dev:", 4))
		return fhl_dev_open(c, where + 4);
	if (!strncmp(where, "unix:", 5) && where[5])
		return fhl_unix_open(c, where + 5);
	if (!strncmp(where, "http+unix:", 10) && where[10])
		return fhl_http_open(c, NULL, NULL, where + 10);
	if (!strncmp(where, "http://", 7))
		return connect_http(c, where + 7);
	if (!strncmp(where, "udp://", 6))
		return connect_udp(c, where + 6);
	if (!strncmp(where, "https://", 8))
		return fh_errf(
			&c->err, -EPROTONOSUPPORT,
			"fh_open: '%s': TLS is not spoken here; put a proxy on this host in front, or use http://",
			where);
	return fh_errf(&c->err, -EINVAL,
		       "fh_open: '%s' names no transport: dev:, unix:PATH, http://HOST:PORT, http+unix:PATH or "
		       "udp://KEY@HOST:PORT",
		       where);
}

/* Nobody is at this place, so the next one may be tried; anything else is what the caller should hear. */
static bool is_nobody(int rc)
{
	return rc == -ENOENT || rc == -ECONNREFUSED || rc == -ENXIO || rc == -ENODEV || rc == -EACCES;
}

int fhl_connect(struct fh_client *c, const char *where)
{
	static const char *const usual[] = {"dev:", "unix:" FH_SOCK_PATH, "http://" HTTP_HOST ":" HTTP_PORT};
	const size_t nr = sizeof(usual) / sizeof(usual[0]);
	char tried[320] = "";
	size_t len = 0;
	int rc = -ENOENT;

	if (!where || !*where)
		where = getenv("FREEHOLD");
	if (where && *where)
		return connect_to(c, where);
	for (size_t i = 0; i < nr; i++) {
		rc = connect_to(c, usual[i]);
		if (!is_nobody(rc))
			return rc;
		len += (size_t)snprintf(tried + len, sizeof(tried) - len, "%s%s (%s)", i ? ", " : "", usual[i],
					strerror(-rc));
		len = len < sizeof(tried) ? len : sizeof(tried) - 1;
	}
	c->where[0] = '\0';
	return fh_errf(&c->err, rc,
		       "no server at %s: start `freehold serve`, or name one in the environment variable FREEHOLD",
		       tried);
}
