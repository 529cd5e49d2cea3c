// SPDX-License-Identifier: Apache-2.0
/*
 * A channel over the kernel module.
 *
 * We own the open device, an eventfd that the kernel signals, and the
 * mappings.  The mapping of the info area is our life as the kernel sees it:
 * the runtime is offered the channel when it is made, and told when it goes.
 *
 * When the runtime takes a channel away, the kernel stores FH_CHAN_REVOKED and
 * then ends our mappings, all but the info area's; whoever touches one after
 * that gets SIGBUS.  The state is looked at before each touch, so what is left
 * is the time of one touch.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/chan_sock.h"
#include "runtime/lib/ring.h"

struct dev_link {
	struct fhl_ring ring; /* first: c->t */
	int fd, wake_fd;
	uint32_t chan_id;
	uint64_t mmap_off;
	struct fh_chan_info info; /* as it was checked */
	void *area[FH_NR_AREAS];
};

static struct dev_link *link_of(struct fhl_ring *r)
{
	return (struct dev_link *)r;
}

/* Waking and sleeping */

static void dev_kick(struct fhl_ring *r)
{
	struct fh_chan_kick k = {.size = sizeof(k), .chan_id = link_of(r)->chan_id};

	/* A channel that is closed shows it in its state. */
	(void)ioctl(link_of(r)->fd, FH_IOCTL_CHAN_KICK, &k);
}

static int dev_check(struct fhl_ring *r)
{
	uint64_t count;

	(void)!read(link_of(r)->wake_fd, &count, sizeof(count));
	if (__atomic_load_n(r->state, __ATOMIC_ACQUIRE) <= FH_CHAN_OPEN)
		return 0;
	return fh_errf(&r->c->err, -EPIPE, "%s: the server is gone; open again once it is back", r->c->where);
}

static int dev_sleep(struct fhl_ring *r, uint32_t seen, int ms)
{
	struct pollfd p = {.fd = link_of(r)->wake_fd, .events = POLLIN};
	uint64_t count;
	int rc = poll(&p, 1, ms);

	(void)seen;
	if (rc < 0 && errno == EINTR)
		return -EINTR;
	if (rc > 0)
		(void)!read(link_of(r)->wake_fd, &count, sizeof(count));
	return 0;
}

static const struct fhl_link_ops dev_link_ops = {
	.kick = dev_kick,
	.check = dev_check,
	.sleep = dev_sleep,
	.need = FH_RING_NEED_WAKEUP,
	.zaps = true,
};

/* Opening */

static int open_device(struct dev_link *l, struct fh_client *c, const char *path)
{
	int rc;

	l->fd = open(path, O_RDWR | O_CLOEXEC);
	if (l->fd < 0) {
		rc = -errno;
		return fh_errf(&c->err, rc, "%s: %s: %s", path, strerror(-rc),
			       rc == -EACCES   ? "this user is not in the group freehold"
			       : rc == -ENOENT ? "the kernel module is not loaded"
					       : "see the kernel's log");
	}
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0)
		return fh_errf(&c->err, -errno, "eventfd: %s", strerror(errno));
	return 0;
}

static int create(struct dev_link *l, struct fh_client *c)
{
	struct fh_chan_create a = {
		.size = sizeof(a),
		.sq_entries = c->opt.sq_entries,
		.cq_entries = c->opt.cq_entries,
		.arena_bytes = c->opt.arena_bytes,
		.wake_fd = l->wake_fd,
	};
	int rc;

	if (ioctl(l->fd, FH_IOCTL_CHAN_CREATE, &a)) {
		rc = -errno;
		return fh_errf(&c->err, rc, "%s: creating a channel: %s: %s", c->where, strerror(-rc),
			       rc == -ECONNREFUSED ? "the module is loaded, but no server has it open"
			       : rc == -EDQUOT	   ? "a limit of the module; close channels, or ask for less memory"
						   : "are the options' sizes right?");
	}
	l->chan_id = a.out_chan_id;
	l->mmap_off = a.out_mmap_off;
	return 0;
}

static int map_one(struct dev_link *l, struct fh_client *c, uint32_t a, uint64_t bytes)
{
	bool ours = a != FH_AREA_INFO && l->info.areas[a].writer == FH_WRITER_CLIENT;
	uint64_t off = l->mmap_off + (a == FH_AREA_INFO ? 0 : l->info.areas[a].off);
	void *p = mmap(NULL, bytes, ours ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, l->fd, (off_t)off);

	if (p == MAP_FAILED)
		return fh_errf(&c->err, -errno, "%s: mmap: %s", c->where, strerror(errno));
	l->area[a] = p;
	return 0;
}

/* The info area tells where the others are. */
static int map_all(struct dev_link *l, struct fh_client *c)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct fh_chan_info info;
	int rc = map_one(l, c, FH_AREA_INFO, page);

	if (rc)
		return rc;
	l->info.areas[FH_AREA_INFO].bytes = page; /* for the undoing */
	memcpy(&info, l->area[FH_AREA_INFO], sizeof(info));
	rc = fhl_ring_check_info(c, &info);
	if (!rc && (info.areas[FH_AREA_INFO].off || info.areas[FH_AREA_INFO].bytes != page))
		rc = fh_errf(&c->err, -EPROTO, "%s: the info area is not one page at the beginning", c->where);
	if (rc)
		return rc;
	l->info = info;
	for (uint32_t a = 0; !rc && a < FH_NR_AREAS; a++)
		if (a != FH_AREA_INFO)
			rc = map_one(l, c, a, info.areas[a].bytes);
	return rc;
}

/* The runtime takes it, or does not. */
static int wait_open(struct dev_link *l, struct fh_client *c)
{
	const struct fh_chan_info *shared = l->area[FH_AREA_INFO];
	struct pollfd p = {.fd = l->wake_fd, .events = POLLIN};
	uint64_t count;

	for (;;) {
		uint32_t state = __atomic_load_n(&shared->state, __ATOMIC_ACQUIRE); /* (N) */
		int left = fhl_left_ms(c->opt.open_deadline_ns, FH_SOCK_LOOK_MS);

		if (state == FH_CHAN_OPEN)
			break;
		if (state > FH_CHAN_OPEN)
			return fh_errf(&c->err, -ECONNREFUSED, "%s: the server did not take the channel", c->where);
		if (!left)
			return fh_errf(&c->err, -ETIMEDOUT, "%s: the server did not take the channel in time",
				       c->where);
		poll(&p, 1, left);
		(void)!read(l->wake_fd, &count, sizeof(count));
	}
	memcpy(&c->peer, &shared->peer, sizeof(c->peer));
	return 0;
}

/* Without one there are ids and no text. */
static int read_vocab(struct fh_client *c)
{
	int fd = open(FH_VOCAB_PATH, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;

	if (fd < 0)
		return 0;
	rc = fhl_vocab_open(c, fd, false);
	close(fd);
	return rc;
}

/* As a transport */

static int dev_fd(struct fh_client *c)
{
	return ((struct dev_link *)c->t)->wake_fd;
}

static void link_free(struct fh_client *c, struct dev_link *l)
{
	fhl_ring_destroy(&l->ring);
	for (uint32_t a = 0; a < FH_NR_AREAS; a++)
		if (l->area[a])
			munmap(l->area[a], l->info.areas[a].bytes);
	fhl_vocab_close(c);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	if (l->fd >= 0)
		close(l->fd);
	free(l);
}

static void dev_close(struct fh_client *c)
{
	link_free(c, c->t);
}

static const struct fhl_ops dev_ops = {
	.name = "dev",
	.submit = fhl_ring_submit,
	.cancel = fhl_ring_cancel,
	.look = fhl_ring_look,
	.arm = fhl_ring_arm,
	.wait = fhl_ring_wait,
	.fd = dev_fd,
	.close = dev_close,
};

int fhl_dev_open(struct fh_client *c, const char *path)
{
	struct dev_link *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return fh_errf(&c->err, -ENOMEM, "out of memory");
	l->fd = l->wake_fd = -1;
	rc = open_device(l, c, path);
	if (!rc)
		rc = create(l, c);
	if (!rc)
		rc = map_all(l, c);
	if (!rc)
		rc = wait_open(l, c);
	if (!rc)
		rc = read_vocab(c);
	if (!rc)
		rc = fhl_ring_init(&l->ring, c, &dev_link_ops, &l->info, l->area[FH_AREA_INFO], l->area);
	if (rc) {
		link_free(c, l);
		return rc;
	}
	c->ops = &dev_ops;
	c->t = l;
	return 0;
}
