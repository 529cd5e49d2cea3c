// SPDX-License-Identifier: Apache-2.0
/*
 * The least that a server on a kernel's UDP socket can do: it sends each
 * datagram back and looks at none.  What a server behind DPDK is compared with
 * (tests/perf/dpdk_cost.py).
 *
 *   udp_echo batch|single ADDR PORT
 *
 * batch: recvmmsg() and sendmmsg(), as many as there are at a time, up to 64:
 * at saturation the calls themselves cost next to nothing.  single: recvfrom()
 * and sendto().  Both sleep in the call that reads.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, ROOM = 2048, BUFFER_BYTES = 4 << 20 };

static char data[BATCH][ROOM];
static struct sockaddr_in from[BATCH];
static struct iovec vec[BATCH];
static struct mmsghdr msg[BATCH];

static int echo_batch(int fd)
{
	for (;;) {
		int n, sent = 0, rc;

		for (int i = 0; i < BATCH; i++) {
			vec[i] = (struct iovec){data[i], ROOM};
			msg[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
							 .msg_namelen = sizeof(from[i]),
							 .msg_iov = &vec[i],
							 .msg_iovlen = 1};
		}
		n = recvmmsg(fd, msg, BATCH, MSG_WAITFORONE, NULL);
		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++)
			vec[i].iov_len = msg[i].msg_len;
		while (sent < n) {
			rc = sendmmsg(fd, msg + sent, (unsigned int)(n - sent), 0);
			/* Delivery is nobody's promise; the asker counts. */
			sent += rc < 0 ? 1 : rc;
		}
	}
}

static int echo_single(int fd)
{
	for (;;) {
		socklen_t bytes = sizeof(from[0]);
		ssize_t n = recvfrom(fd, data[0], ROOM, 0, (struct sockaddr *)&from[0], &bytes);

		if (n < 0)
			return -errno;
		sendto(fd, data[0], (size_t)n, 0, (struct sockaddr *)&from[0], bytes);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = BUFFER_BYTES, rc;

	if (argc != 4 || (strcmp(argv[1], "batch") && strcmp(argv[1], "single")) ||
	    inet_pton(AF_INET, argv[2], &a.sin_addr) != 1) {
		fprintf(stderr, "usage: udp_echo batch|single ADDR PORT\n");
		return 2;
	}
	a.sin_port = htons((uint16_t)atoi(argv[3]));
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a))) {
		fprintf(stderr, "udp_echo: %s:%s: %s\n", argv[2], argv[3], strerror(errno));
		return 1;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	puts("ready");
	fflush(stdout);
	rc = strcmp(argv[1], "batch") ? echo_single(fd) : echo_batch(fd);
	fprintf(stderr, "udp_echo: %s\n", strerror(-rc));
	return 1;
}
