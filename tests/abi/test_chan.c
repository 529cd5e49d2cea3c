// SPDX-License-Identifier: Apache-2.0
/*
 * Channels: who may map what, what either side sees of the other, entries both
 * ways between two processes, wake-ups, limits.
 */
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/abi/abi.h"

TEST(runtime_is_exclusive)
{
	int ctl = open_runtime();

	CHECK_ERRNO(open(RUNTIME_DEV, O_RDWR), EBUSY);
	CHECK(get_info(ctl).out_caps & FH_CAP_RUNTIME);
	close(ctl);
	CHECK(!(get_info(open_client()).out_caps & FH_CAP_RUNTIME));
	close(open_runtime());
}

TEST(no_runtime_no_channel)
{
	struct chan c;

	CHECK_ERRNO(chan_create(&c, open_client(), 8, 8, 4096), ECONNREFUSED);
}

TEST(create_refuses)
{
	int ctl = open_runtime(), fd = open_client();
	struct chan c;

	(void)ctl;
	CHECK_ERRNO(chan_create(&c, fd, 0, 8, 4096), EINVAL);
	CHECK_ERRNO(chan_create(&c, fd, 3, 8, 4096), EINVAL);
	CHECK_ERRNO(chan_create(&c, fd, 8192, 8, 4096), EINVAL);
	CHECK_ERRNO(chan_create(&c, fd, 8, 0, 4096), EINVAL);
	CHECK_ERRNO(chan_create(&c, fd, 8, 1u << 17, 4096), EINVAL);
	CHECK_ERRNO(chan_create(&c, fd, 8, 8, 0), EINVAL);
	CHECK_ERRNO(chan_create(&c, fd, 8, 8, 1ull << 40), EDQUOT);
	CHECK_ERRNO(chan_create(&c, fd, 8, 8, UINT64_MAX), EDQUOT);
	struct fh_chan_create cmd = {
		.size = sizeof(cmd), .sq_entries = 8, .cq_entries = 8, .arena_bytes = 4096, .wake_fd = 1000};
	CHECK_ERRNO(ioctl(fd, FH_IOCTL_CHAN_CREATE, &cmd), EBADF);
	cmd.wake_fd = -2;
	CHECK_ERRNO(ioctl(fd, FH_IOCTL_CHAN_CREATE, &cmd), EINVAL);
	cmd.wake_fd = fd;
	CHECK_ERRNO(ioctl(fd, FH_IOCTL_CHAN_CREATE, &cmd), EINVAL);
	CHECK(get_info(fd).out_chan_used == 0);
}

/* --- mappings ------------------------------------------------------------------------ */

static void check_rights(struct chan *c, uint32_t me)
{
	for (int i = 0; i < FH_NR_AREAS; i++) {
		uint64_t bytes = c->info->areas[i].bytes;
		bool mine = c->info->areas[i].writer == me;
		char *p = chan_map_area(c, i, PROT_READ);

		CHECK(p != MAP_FAILED);
		if (mine)
			CHECK(mprotect(p, bytes, PROT_READ | PROT_WRITE) == 0);
		else
			CHECK_ERRNO(mprotect(p, bytes, PROT_READ | PROT_WRITE), EACCES);
		CHECK_ERRNO(mprotect(p, bytes, PROT_READ | PROT_EXEC), EACCES);
		CHECK_ERRNO((long)mremap(p, bytes, bytes + 4096, MREMAP_MAYMOVE), EFAULT);
		CHECK(munmap(p, bytes) == 0);

		p = chan_map_area(c, i, PROT_READ | PROT_WRITE);
		if (mine) {
			CHECK(p != MAP_FAILED);
			for (uint64_t at = 0; at < bytes; at += 4096)
				CHECK(p[at] == 0);
			CHECK(munmap(p, bytes) == 0);
		} else {
			CHECK(p == MAP_FAILED && errno == EACCES);
		}
		CHECK(chan_map_area(c, i, PROT_READ | PROT_EXEC) == MAP_FAILED && errno == EACCES);
	}
}

static void check_places(struct chan *c)
{
	int fd = c->fd;
	off_t off = (off_t)c->mmap_off, end = off + (off_t)c->info->chan_bytes;

	/* Across two areas, beyond the end, at no object at all, private. */
	CHECK_ERRNO((long)mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, off), EINVAL);
	CHECK_ERRNO((long)mmap(NULL, c->info->chan_bytes, PROT_READ, MAP_SHARED, fd, off), EINVAL);
	CHECK_ERRNO((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, end), EINVAL);
	CHECK_ERRNO((long)mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, end - 4096), EINVAL);
	CHECK_ERRNO((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0), EINVAL);
	CHECK_ERRNO((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, off + (1ll << 32)), ENOENT);
	CHECK_ERRNO((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 1ll << 62), EINVAL);
	CHECK_ERRNO((long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, off), EINVAL);
}

TEST(mapping_rights)
{
	int ctl = open_runtime();
	struct chan c, r;

	chan_open(&c, open_client());
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	chan_map_info(&r);
	check_rights(&c, FH_WRITER_CLIENT);
	check_rights(&r, FH_WRITER_RUNTIME);
	check_places(&c);
	check_places(&r);
	CHECK(chan_state(&c) == FH_CHAN_OPEN);
}

/* A descriptor that was opened for reading maps nothing for writing. */
TEST(mapping_readonly_file)
{
	int ctl = open_runtime(), fd = open(CLIENT_DEV, O_RDONLY);
	struct chan c;

	(void)ctl;
	CHECK(fd >= 0);
	CHECK(chan_create(&c, fd, 8, 8, 4096) == 0);
	chan_map_info(&c);
	CHECK(chan_map_area(&c, FH_AREA_SQ, PROT_READ | PROT_WRITE) == MAP_FAILED && errno == EACCES);
	char *p = chan_map_area(&c, FH_AREA_SQ, PROT_READ);
	CHECK(p != MAP_FAILED);
	CHECK_ERRNO(mprotect(p, 4096, PROT_READ | PROT_WRITE), EACCES);
}

static void map_of_another(void *arg)
{
	struct chan *c = arg;

	for (int i = 0; i < FH_NR_AREAS; i++)
		CHECK(chan_map_area(c, i, PROT_READ) == MAP_FAILED && errno == EACCES);
}

/* The runtime was told one process's name; another that holds the descriptor is not that process. */
TEST(mapping_by_creator_only)
{
	int ctl = open_runtime();
	struct fh_chan_info copy;
	struct chan c;

	(void)ctl;
	chan_open(&c, open_client());
	copy = *c.info;
	c.info = &copy; /* the child has no mapping of it */
	reap(spawn(map_of_another, &c));
}

/* --- identity ------------------------------------------------------------------------- */

static uint64_t start_time_ticks(pid_t pid)
{
	char path[64], line[1024], *p;
	unsigned long long ticks;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	CHECK(f && fgets(line, sizeof(line), f));
	fclose(f);
	p = strrchr(line, ')');
	CHECK(p && sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			  &ticks) == 1);
	return ticks;
}

TEST(identity)
{
	int ctl = open_runtime(), fd;
	struct fh_peer peer;
	struct stat st;
	struct chan c, r;
	pid_t self = getpid();

	fd = open_client();
	CHECK(setegid(4711) == 0 && seteuid(4712) == 0);
	chan_open(&c, fd);
	CHECK(seteuid(0) == 0 && setegid(0) == 0);
	CHECK(chan_state(&c) == FH_CHAN_WAITING);
	CHECK(c.info->peer.flags == 0);
	CHECK(chan_accept(&r, ctl, &peer) == 0);
	chan_map_all(&r);
	CHECK(peer.uid == 4712 && peer.gid == 4711 && peer.pid == (uint32_t)self);
	CHECK(peer.flags == FH_PEER_VALID);
	CHECK(peer.start_boottime_ns / (1000000000 / (uint64_t)sysconf(_SC_CLK_TCK)) == start_time_ticks(self));
	CHECK(peer.chan_gen >= 1);
	/* The process runs in the root of the hierarchy, whose folder bears its id. */
	if (stat("/tmp/cgroup", &st) == 0 && st.st_dev)
		CHECK(peer.cgroup_id == st.st_ino);
	CHECK(memcmp(&peer, &r.info->peer, sizeof(peer)) == 0);
	CHECK(chan_state(&c) == FH_CHAN_OPEN);
	CHECK(c.info->peer.flags == FH_PEER_VALID && c.info->peer.uid == 0 && c.info->peer.pid == (uint32_t)self);
	CHECK(c.info->peer.chan_gen == peer.chan_gen);
}

struct ns_arg {
	int fd;
	int ready[2];
	int go[2];
};

/* pid 1 and uid 0, where it believes itself to be. */
static void ns_client(void *p)
{
	struct ns_arg *arg = p;
	struct chan c;
	char byte;

	CHECK(getpid() == 1);
	chan_open(&c, arg->fd);
	CHECK(write(arg->ready[1], "r", 1) == 1);
	CHECK(read(arg->go[0], &byte, 1) == 1);
	CHECK(chan_state(&c) == FH_CHAN_OPEN);
	/* The runtime has no pid in here, and a uid that is not mapped. */
	CHECK(c.info->peer.pid == 0 && (c.info->peer.flags & FH_PEER_PID_HIDDEN));
	CHECK(c.info->peer.uid == 65534 && (c.info->peer.flags & FH_PEER_UID_HIDDEN));
}

TEST(identity_in_namespaces)
{
	int ctl = open_runtime();
	struct ns_arg arg = {.fd = open_client()};
	struct fh_peer peer;
	struct chan r;
	char byte;
	pid_t pid;

	CHECK(pipe(arg.ready) == 0 && pipe(arg.go) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		/* uid 4712 of ours becomes nobody's in there; it says so without a map. */
		CHECK(setgroups(0, NULL) == 0 && setgid(4711) == 0 && setuid(4712) == 0);
		if (unshare(CLONE_NEWUSER | CLONE_NEWPID))
			SKIP("user namespaces are not allowed here");
		pid_t inner = spawn(ns_client, &arg);
		reap(inner);
		_exit(0);
	}
	close(arg.ready[1]);
	if (read(arg.ready[0], &byte, 1) != 1) {
		int status;
		CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
		_exit(WEXITSTATUS(status));
	}
	CHECK(chan_accept(&r, ctl, &peer) == 0);
	CHECK(peer.uid == 4712 && peer.gid == 4711);
	CHECK(peer.pid > 1 && peer.pid != (uint32_t)pid);
	CHECK(peer.flags == FH_PEER_VALID);
	CHECK(start_time_ticks((pid_t)peer.pid) > 0);
	CHECK(write(arg.go[1], "g", 1) == 1);
	reap(pid);
}

/* --- entries both ways ---------------------------------------------------------------- */

#define NR_REQUESTS 200
#define NR_TOKENS 5

/* The client's half of the diagram in the header. */
static void submit(struct chan *c, uint32_t *tail, uint64_t user_data, uint32_t prompt)
{
	const struct fh_chan_info *info = c->info;
	uint32_t *head = chan_word(c, FH_AREA_RUNTIME, info->sq_head_off);
	uint32_t at = *tail & (info->sq_entries - 1);
	struct fh_req_desc *d = (struct fh_req_desc *)(c->area[FH_AREA_SQ] + (size_t)at * info->sq_entry_bytes);

	while (*tail - __atomic_load_n(head, __ATOMIC_ACQUIRE) == info->sq_entries)
		sched_yield();
	memcpy(c->area[FH_AREA_ARENA] + at * 4, &prompt, 4);
	*d = (struct fh_req_desc){.size = sizeof(*d),
				  .user_data = user_data,
				  .prompt_off = at * 4,
				  .prompt_bytes = 4,
				  .max_tokens = NR_TOKENS};
	__atomic_store_n(chan_word(c, FH_AREA_CLIENT, info->sq_tail_off), ++*tail, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(chan_word(c, FH_AREA_RUNTIME, info->runtime_flags_off), __ATOMIC_RELAXED) &
	    FH_RING_NEED_WAKEUP)
		CHECK(chan_kick(c) == 0);
}

/* Sleep until *tail has left head, by the rules for NEED_WAKEUP. */
static void wait_for(struct chan *c, int flags_area, uint32_t flags_off, uint32_t *tail, uint32_t head)
{
	uint32_t *flags = chan_word(c, flags_area, flags_off);

	while (__atomic_load_n(tail, __ATOMIC_ACQUIRE) == head) {
		__atomic_store_n(flags, FH_RING_NEED_WAKEUP, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(tail, __ATOMIC_ACQUIRE) == head)
			CHECK(readable(c->wake, POLLIN, 20000));
		__atomic_store_n(flags, 0, __ATOMIC_RELAXED);
		event_take(c->wake);
	}
}

static void ring_client(void *arg)
{
	uint32_t tail = 0, head = 0, sent = 0, done = 0;
	struct chan c;

	(void)arg;
	chan_open(&c, open_client());
	while (chan_state(&c) == FH_CHAN_WAITING)
		CHECK(readable(c.wake, POLLIN, 20000));
	event_take(c.wake);
	while (done < NR_REQUESTS) {
		uint32_t *cq_tail = chan_word(&c, FH_AREA_RUNTIME, c.info->cq_tail_off);

		for (; sent < NR_REQUESTS && sent - done < 8; sent++)
			submit(&c, &tail, 1000 + sent, sent * 3);
		wait_for(&c, FH_AREA_CLIENT, c.info->client_flags_off, cq_tail, head);
		struct fh_cqe *e = (struct fh_cqe *)(c.area[FH_AREA_CQ] + (size_t)(head & (c.info->cq_entries - 1)) *
										  c.info->cq_entry_bytes);
		uint64_t nr = e->user_data - 1000;
		CHECK(nr < NR_REQUESTS && e->error == 0);
		CHECK(e->slot.token == nr * 3 + e->slot.stamp);
		if (e->slot.flags & FH_SLOT_LAST)
			done++;
		__atomic_store_n(chan_word(&c, FH_AREA_CLIENT, c.info->cq_head_off), ++head, __ATOMIC_RELEASE);
	}
	CHECK(head == NR_REQUESTS * NR_TOKENS);
}

static void put_token(struct chan *r, uint32_t *tail, uint64_t user_data, uint32_t prompt, uint32_t stamp)
{
	const struct fh_chan_info *info = r->info;
	uint32_t *head = chan_word(r, FH_AREA_CLIENT, info->cq_head_off);
	struct fh_cqe *e = (struct fh_cqe *)(r->area[FH_AREA_CQ] +
					     (size_t)(*tail & (info->cq_entries - 1)) * info->cq_entry_bytes);

	while (*tail - __atomic_load_n(head, __ATOMIC_ACQUIRE) == info->cq_entries)
		sched_yield();
	*e = (struct fh_cqe){.user_data = user_data,
			     .slot = {.token = prompt + stamp,
				      .stamp = stamp,
				      .flags = stamp == NR_TOKENS ? FH_SLOT_LAST : 0,
				      .finish = stamp == NR_TOKENS ? FH_FINISH_LENGTH : 0}};
	__atomic_store_n(chan_word(r, FH_AREA_RUNTIME, info->cq_tail_off), ++*tail, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(chan_word(r, FH_AREA_CLIENT, info->client_flags_off), __ATOMIC_RELAXED) &
	    FH_RING_NEED_WAKEUP)
		chan_kick(r); /* the last one may find the client gone */
}

TEST(two_processes)
{
	int ctl = open_runtime();
	pid_t pid = spawn(ring_client, NULL);
	uint32_t head = 0, tail = 0;
	struct chan r;

	CHECK(readable(ctl, POLLIN, 20000));
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	chan_map_all(&r);
	for (int served = 0; served < NR_REQUESTS; served++) {
		uint32_t *sq_tail = chan_word(&r, FH_AREA_CLIENT, r.info->sq_tail_off);
		uint32_t prompt;

		wait_for(&r, FH_AREA_RUNTIME, r.info->runtime_flags_off, sq_tail, head);
		/* Fetched once: what is checked below is what is used. */
		struct fh_req_desc d =
			*(struct fh_req_desc *)(r.area[FH_AREA_SQ] +
						(size_t)(head & (r.info->sq_entries - 1)) * r.info->sq_entry_bytes);
		CHECK(d.size == sizeof(d) && d.prompt_bytes == 4 && d.prompt_off < r.info->arena_bytes - 4);
		memcpy(&prompt, r.area[FH_AREA_ARENA] + d.prompt_off, 4);
		__atomic_store_n(chan_word(&r, FH_AREA_RUNTIME, r.info->sq_head_off), ++head, __ATOMIC_RELEASE);
		for (uint32_t stamp = 1; stamp <= d.max_tokens; stamp++)
			put_token(&r, &tail, d.user_data, prompt, stamp);
	}
	reap(pid);
	CHECK(readable(ctl, POLLPRI, 20000));
	CHECK(chan_state(&r) == FH_CHAN_CLIENT_DEAD);
}

/* --- kicks ------------------------------------------------------------------------------ */

TEST(kicks)
{
	int ctl = open_runtime();
	struct chan c, r;

	chan_open(&c, open_client());
	CHECK(chan_kick(&c) == 0); /* nobody there yet: nothing to wake, no error */
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	CHECK(event_take(c.wake) == 1); /* accepted */
	CHECK(event_take(r.wake) == 0);
	CHECK(chan_kick(&c) == 0 && chan_kick(&c) == 0);
	CHECK(event_take(r.wake) == 2 && event_take(c.wake) == 0);
	CHECK(chan_kick(&r) == 0);
	CHECK(event_take(c.wake) == 1 && event_take(r.wake) == 0);
	/* A client that fills its eventfd to the brim does not stop the runtime. */
	uint64_t brim = UINT64_MAX - 1;
	CHECK(write(c.wake, &brim, sizeof(brim)) == sizeof(brim));
	for (int i = 0; i < 100; i++)
		CHECK(chan_kick(&r) == 0);
	CHECK(chan_destroy(&c) == 0);
	CHECK_ERRNO(chan_kick(&r), EPIPE);
	CHECK_ERRNO(chan_kick(&c), ENOENT);
}

TEST(accept_order)
{
	int ctl = open_runtime(), fd = open_client();
	struct fh_peer peer;
	struct chan c[5], r;
	uint64_t first = 0;

	CHECK_ERRNO(chan_accept(&r, ctl, NULL), EAGAIN);
	CHECK(!readable(ctl, POLLIN, 0));
	for (int i = 0; i < 5; i++)
		CHECK(chan_create(&c[i], fd, 1, 1, 1) == 0);
	/* None is shown before its client's death could be seen. */
	CHECK(!readable(ctl, POLLIN, 0));
	CHECK(get_info(ctl).out_nr_waiting == 0);
	for (int i = 0; i < 5; i++)
		chan_map_info(&c[i]);
	CHECK(readable(ctl, POLLIN, 0) && !readable(ctl, POLLPRI, 0));
	CHECK(get_info(ctl).out_nr_waiting == 5);
	CHECK(get_info(fd).out_nr_waiting == 0);
	CHECK(chan_destroy(&c[2]) == 0);
	CHECK(get_info(ctl).out_nr_waiting == 4);
	for (int i = 0; i < 5; i++) {
		if (i == 2)
			continue;
		CHECK(chan_accept(&r, ctl, &peer) == 0);
		first = first ?: peer.chan_gen;
		CHECK(peer.chan_gen == first + (uint64_t)i);
	}
	CHECK_ERRNO(chan_accept(&r, ctl, NULL), EAGAIN);
}

/* An answer that cannot be delivered takes no channel away. */
TEST(accept_undone)
{
	int ctl = open_runtime();
	struct fh_chan_accept *cmd;
	struct chan c, r;

	chan_open(&c, open_client());
	cmd = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(cmd != MAP_FAILED);
	cmd->size = sizeof(*cmd);
	cmd->wake_fd = -1;
	CHECK(mprotect(cmd, 4096, PROT_READ) == 0);
	CHECK_ERRNO(ioctl(ctl, FH_IOCTL_CHAN_ACCEPT, cmd), EFAULT);
	CHECK(chan_state(&c) == FH_CHAN_WAITING && get_info(ctl).out_nr_waiting == 1);
	CHECK(chan_accept(&r, ctl, NULL) == 0);
	CHECK(chan_state(&c) == FH_CHAN_OPEN);
}

/* --- limits ------------------------------------------------------------------------------- */

TEST(limits)
{
	int ctl = open_runtime(), fd = open_client();
	struct fh_info info = get_info(fd);
	struct chan c[4], more;

	(void)ctl;
	param_set("chan_max", 3);
	for (int i = 0; i < 3; i++)
		CHECK(chan_create(&c[i], fd, 8, 8, 4096) == 0);
	CHECK_ERRNO(chan_create(&c[3], fd, 8, 8, 4096), EDQUOT);
	CHECK(get_info(fd).out_chan_used == 3 && get_info(fd).out_chan_max == 3);
	CHECK(get_info(fd).out_chan_bytes_used > 3 * 4096);
	/* Another descriptor is the same user; another user is not. */
	CHECK_ERRNO(chan_create(&more, open_client(), 8, 8, 4096), EDQUOT);
	CHECK(seteuid(4712) == 0);
	CHECK(chan_create(&more, fd, 8, 8, 4096) == 0);
	CHECK(seteuid(0) == 0);
	CHECK(chan_destroy(&c[0]) == 0);
	CHECK(chan_create(&c[0], fd, 8, 8, 4096) == 0);
	param_set("chan_max", info.out_chan_max);

	param_set("chan_mib_max", 1);
	CHECK_ERRNO(chan_create(&c[3], fd, 8, 8, 1 << 20), EDQUOT);
	param_set("chan_mib_max", (unsigned int)(info.out_chan_bytes_max >> 20));
	param_set("arena_mib_max", 1);
	CHECK_ERRNO(chan_create(&c[3], fd, 8, 8, (1 << 20) + 1), EDQUOT);
	CHECK(chan_create(&c[3], fd, 8, 8, 1 << 20) == 0);
	param_set("arena_mib_max", (unsigned int)(info.out_arena_bytes_max >> 20));
}
