// SPDX-License-Identifier: Apache-2.0
/*
 * Carries Ethernet frames between an interface in a network namespace and a
 * guest's card, whose wire is a pair of UDP sockets (QEMU's `dgram`): one
 * datagram is one frame.
 *
 *   frames NETNS INTERFACE GUEST_PORT
 *
 * Says on which port of 127.0.0.1 it listens, and runs until it is ended.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, ROOM = 10240, BUFFER_BYTES = 8 << 20, ETHER_TYPE_ALL = 3, IGNORE_OUTGOING = 23 };

static char data[BATCH][ROOM];

static void die(const char *what)
{
	fprintf(stderr, "frames: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int udp_socket(const char *guest_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = BUFFER_BYTES;
	socklen_t n = sizeof(a);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || getsockname(fd, (struct sockaddr *)&a, &n))
		die("no socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	printf("%u\n", ntohs(a.sin_port));
	fflush(stdout);
	a.sin_port = htons((uint16_t)atoi(guest_port));
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)))
		die("no way to the guest");
	return fd;
}

static int packet_socket(const char *netns, const char *interface)
{
	struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(ETHER_TYPE_ALL)};
	int room = BUFFER_BYTES, one = 1, fd;
	char path[256];

	snprintf(path, sizeof(path), "/run/netns/%s", netns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(path);
	close(fd);
	a.sll_ifindex = (int)if_nametoindex(interface);
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETHER_TYPE_ALL));
	if (fd < 0 || !a.sll_ifindex || setsockopt(fd, SOL_PACKET, IGNORE_OUTGOING, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&a, sizeof(a)))
		die(interface);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	return fd;
}

/* All that is there, from one to the other; what cannot be sent is lost, as on a wire. */
static void carry(int from, int to)
{
	struct mmsghdr m[BATCH];
	struct iovec v[BATCH];
	int n, sent = 0, rc;

	for (int i = 0; i < BATCH; i++) {
		v[i] = (struct iovec){data[i], ROOM};
		m[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &v[i], .msg_iovlen = 1}};
	}
	n = recvmmsg(from, m, BATCH, MSG_DONTWAIT, NULL);
	for (int i = 0; i < n; i++)
		v[i].iov_len = m[i].msg_len;
	while (sent < n) {
		rc = sendmmsg(to, m + sent, (unsigned int)(n - sent), 0);
		sent += rc < 0 ? 1 : rc;
	}
}

int main(int argc, char **argv)
{
	struct pollfd p[2] = {{.events = POLLIN}, {.events = POLLIN}};

	if (argc != 4) {
		fprintf(stderr, "usage: frames NETNS INTERFACE GUEST_PORT\n");
		return 2;
	}
	p[0].fd = udp_socket(argv[3]);
	p[1].fd = packet_socket(argv[1], argv[2]);
	while (poll(p, 2, -1) >= 0 || errno == EINTR)
		for (int i = 0; i < 2; i++)
			if (p[i].revents)
				carry(p[i].fd, p[!i].fd);
	die("poll");
}
