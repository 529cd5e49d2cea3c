// SPDX-License-Identifier: Apache-2.0
/*
 * The channel front end's transport over the kernel module: a client's channel
 * is memory that the module made, and its identity is what the module stamped.
 *
 * The I/O thread accepts (POLLIN of the control device), and learns of ends
 * (POLLPRI, and FH_IOCTL_INFO names the channel).  All clients' kicks come
 * through one eventfd: who kicked does not matter, since the engine looks into
 * all rings when it is woken.
 *
 * Ids.  The module gives the smallest free one to the next channel, and a dead
 * channel has to be destroyed before POLLPRI shows the next dead one, which may
 * be long before the engine is done with it.  So an id is used, and given back,
 * under its channel's lock, and is 0 after: nobody kicks or revokes a channel
 * that has inherited an id.  The mappings stay until the front end has let go.
 *
 * What clients of the module decode tokens with lies in the file FH_VOCAB_PATH,
 * written before the sandbox is entered.
 *
 * The transport owns its channels from accept to destroy; the control
 * descriptor is the caller's, and outlives it.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/chan_sock.h"
#include "runtime/base/log.h"
#include "runtime/base/region.h"
#include "runtime/net/chan_priv.h"

#define MAX_ACCEPTS 64	    /* in a turn: who makes channels in a loop does not keep us from seeing deaths */
#define AGAIN_NS 100000000u /* after the process ran out of something, accept again then */

struct ctl_chan {
	struct fh_chan c; /* first */
	struct ctl *t;
	pthread_mutex_t id_lock;
	uint32_t id; /* the module's; 0: given back */
	/* The I/O thread's. */
	struct ctl_chan *next, **pprev;
};

struct ctl {
	struct fh_chan_transport base; /* first */
	struct fh_ctl *ctl;
	struct fh_io_watch device, kicks;
	struct fh_io_timer again;
	int wake_fd;
	struct ctl_chan *chans;
	_Atomic(struct fh_chan *) released;
	bool draining;
};

static struct ctl *ctl_of(struct fh_chan_transport *t)
{
	return (struct ctl *)t;
}

static struct ctl_chan *chan_of(struct fh_chan *c)
{
	return (struct ctl_chan *)c;
}

/* ---- what the front end asks for; any thread ---- */

static void ctl_kick(struct fh_chan *c)
{
	struct ctl_chan *cc = chan_of(c);

	pthread_mutex_lock(&cc->id_lock);
	if (cc->id)
		fh_ctl_kick(cc->t->ctl, cc->id); /* -EPIPE: it has ended, which we are about to be told */
	pthread_mutex_unlock(&cc->id_lock);
}

static void ctl_revoke(struct fh_chan *c, uint32_t reason)
{
	struct ctl_chan *cc = chan_of(c);

	pthread_mutex_lock(&cc->id_lock);
	if (cc->id)
		fh_ctl_revoke(cc->t->ctl, cc->id, reason);
	pthread_mutex_unlock(&cc->id_lock);
}

static void ctl_release(struct fh_chan *c)
{
	struct ctl *t = chan_of(c)->t;
	struct fh_chan *head = atomic_load_explicit(&t->released, memory_order_relaxed);

	do
		c->next_released = head;
	while (!atomic_compare_exchange_weak_explicit(&t->released, &head, c, memory_order_release,
						      memory_order_relaxed));
	fh_io_wake(t->base.f->io);
}

static const struct fh_chan_ops chan_ops = {
	.name = "driver",
	.transport = FH_SPAN_SHARED_MEMORY,
	.kick = ctl_kick,
	.revoke = ctl_revoke,
	.release = ctl_release,
};

/* ---- a channel's memory; the I/O thread ---- */

static void give_back_id(struct ctl_chan *cc)
{
	pthread_mutex_lock(&cc->id_lock);
	if (cc->id)
		fh_ctl_destroy(cc->t->ctl, cc->id);
	cc->id = 0;
	pthread_mutex_unlock(&cc->id_lock);
}

static void chan_free(struct ctl_chan *cc)
{
	give_back_id(cc);
	for (int i = 0; i < FH_NR_AREAS; i++)
		if (cc->c.area[i])
			munmap(cc->c.area[i], cc->c.info.areas[i].bytes);
	if (cc->pprev) {
		*cc->pprev = cc->next;
		if (cc->next)
			cc->next->pprev = cc->pprev;
	}
	pthread_mutex_destroy(&cc->id_lock);
	free(cc);
}

static void chan_list(struct ctl *t, struct ctl_chan *cc)
{
	cc->next = t->chans;
	if (cc->next)
		cc->next->pprev = &cc->next;
	cc->pprev = &t->chans;
	t->chans = cc;
}

/* The info area says where the others lie; ours alone may we write. */
static int map_areas(struct ctl_chan *cc, uint64_t off)
{
	struct fh_chan_info *info = &cc->c.info;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *p;
	int rc = fh_ctl_map(cc->t->ctl, off, page, false, &p);

	if (rc)
		return rc;
	memcpy(info, p, sizeof(*info)); /* the kernel wrote it, and only its state can still change */
	if (info->magic != FH_CHAN_MAGIC || info->nr_areas < FH_NR_AREAS || info->areas[FH_AREA_INFO].bytes != page) {
		munmap(p, page);
		return -EPROTO;
	}
	cc->c.area[FH_AREA_INFO] = p;
	for (int i = FH_AREA_INFO + 1; i < FH_NR_AREAS && !rc; i++)
		rc = fh_ctl_map(cc->t->ctl, off + info->areas[i].off, info->areas[i].bytes,
				info->areas[i].writer == FH_WRITER_RUNTIME, &cc->c.area[i]);
	return rc;
}

/* ---- accepting ---- */

/* Not to be had: the client learns why, and its place is free. */
static void turn_away(struct ctl_chan *cc, int rc, const struct fh_err *why)
{
	uint32_t reason = rc == -ESHUTDOWN ? FH_REVOKE_DRAIN : rc == -EINVAL ? FH_REVOKE_PROTOCOL : FH_REVOKE_LIMIT;

	if (reason != FH_REVOKE_DRAIN && fh_chan_may_log(cc->t->base.f))
		fh_warn("driver channel of uid %u, pid %u: %s", cc->c.peer.uid, cc->c.peer.pid, why->msg);
	ctl_revoke(&cc->c, reason);
	chan_free(cc);
}

/* Take the channel that has waited longest. 0, -EAGAIN: none waits, or why none could be taken. */
static int accept_one(struct ctl *t)
{
	struct ctl_chan *cc = aligned_alloc(_Alignof(struct ctl_chan), sizeof(*cc));
	struct fh_chan_accept a;
	struct fh_err why = {0};
	int rc = -ENOMEM;

	if (!cc)
		return rc;
	memset(cc, 0, sizeof(*cc));
	rc = fh_ctl_accept(t->ctl, t->wake_fd, &a);
	if (rc) {
		free(cc);
		return rc;
	}
	pthread_mutex_init(&cc->id_lock, NULL);
	cc->t = t;
	cc->id = a.out_chan_id;
	cc->c.ops = &chan_ops;
	cc->c.peer = a.out_peer;
	rc = map_areas(cc, a.out_mmap_off);
	if (rc)
		fh_errf(&why, rc, "cannot map it: %s", strerror(-rc));
	else if (t->draining)
		rc = -ESHUTDOWN;
	chan_list(t, cc);
	if (!rc)
		rc = fh_chan_open(t->base.f, &cc->c, &why);
	if (rc)
		turn_away(cc, rc, &why);
	else
		fh_chan_log_open(&cc->c);
	return 0;
}

/* The device would be reported again at once: leave it alone for a while. */
static void device_stopped(struct fh_io_watch *w)
{
	struct ctl *t = (struct ctl *)((char *)w - offsetof(struct ctl, device));

	fh_io_timer_set(w->io, &t->again, fh_io_now_ns(w->io) + AGAIN_NS);
}

static void device_again(struct fh_io_timer *timer)
{
	struct ctl *t = (struct ctl *)((char *)timer - offsetof(struct ctl, again));

	if (fh_io_watch(t->base.f->io, &t->device, fh_ctl_fd(t->ctl), POLLIN | POLLPRI))
		fh_io_timer_set(t->base.f->io, &t->again, fh_io_now_ns(t->base.f->io) + AGAIN_NS);
}

/* ---- ends ---- */

static struct ctl_chan *find(struct ctl *t, uint32_t id)
{
	struct ctl_chan *cc = t->chans;

	while (cc && cc->id != id) /* only this thread changes an id */
		cc = cc->next;
	return cc;
}

static void ended(struct ctl *t, uint32_t id)
{
	struct ctl_chan *cc = find(t, id);
	const struct fh_chan_info *info = cc ? cc->c.area[FH_AREA_INFO] : NULL;

	if (!cc) {
		fh_ctl_destroy(t->ctl, id);
		return;
	}
	/* (N): pairs with the kernel's release (M). */
	fh_chan_gone(&cc->c, __atomic_load_n(&info->state, __ATOMIC_ACQUIRE));
	give_back_id(cc);
}

static void take_ends(struct ctl *t)
{
	struct fh_info info;

	for (fh_ctl_info(t->ctl, &info); info.out_nr_dead && info.out_dead_chan_id; fh_ctl_info(t->ctl, &info))
		ended(t, info.out_dead_chan_id);
}

static void on_device(struct fh_io_watch *w, uint32_t events)
{
	struct ctl *t = (struct ctl *)((char *)w - offsetof(struct ctl, device));
	int rc = 0;

	if (events & POLLPRI)
		take_ends(t);
	for (int i = 0; i < MAX_ACCEPTS && !rc; i++)
		rc = accept_one(t);
	if ((rc && rc != -EAGAIN) || (events & (POLLERR | POLLHUP)))
		fh_io_unwatch(w);
}

static void on_kick(struct fh_io_watch *w, uint32_t events)
{
	struct ctl *t = (struct ctl *)((char *)w - offsetof(struct ctl, kicks));
	uint64_t n;

	(void)events;
	if (read(t->wake_fd, &n, sizeof(n)) == sizeof(n))
		fh_chan_kicked(t->base.f);
}

/* ---- the transport ---- */

static int ctl_start(struct fh_chan_transport *base, struct fh_err *err)
{
	struct ctl *t = ctl_of(base);
	struct fh_io *io = base->f->io;
	int rc = fh_io_watch(io, &t->device, fh_ctl_fd(t->ctl), POLLIN | POLLPRI);

	if (!rc)
		rc = fh_io_watch(io, &t->kicks, t->wake_fd, POLLIN);
	if (rc)
		return fh_errf(err, rc, "the module's device cannot be watched: %s", strerror(-rc));
	return 0;
}

static void free_released(struct ctl *t)
{
	struct fh_chan *c = atomic_exchange_explicit(&t->released, NULL, memory_order_acquire);

	while (c) {
		struct fh_chan *next = c->next_released;

		fh_chan_log_end(c);
		chan_free(chan_of(c));
		c = next;
	}
}

static void ctl_turn(struct fh_chan_transport *base)
{
	free_released(ctl_of(base));
}

/* Who waits from now on is accepted only to be told. */
static void ctl_drain(struct fh_chan_transport *base)
{
	ctl_of(base)->draining = true;
}

static void ctl_destroy(struct fh_chan_transport *base)
{
	struct ctl *t = ctl_of(base);

	free_released(t);
	close(t->wake_fd);
	free(t);
}

/* ---- the vocabulary ---- */

static int copy_file(int from, int to)
{
	char buf[65536];
	ssize_t n;
	off_t at = 0;

	while ((n = pread(from, buf, sizeof(buf), at)) > 0) {
		if (write(to, buf, (size_t)n) != n)
			return errno ? -errno : -ENOSPC;
		at += n;
	}
	return n ? -errno : 0;
}

/* Into @path, by renaming: whoever reads it meanwhile has the old one or the new one. */
static int put_vocab(int vocab, const char *path, struct fh_err *err)
{
	char new[128];
	int fd, rc;

	/* A service manager makes the folder; whoever starts us by hand may not have. */
	snprintf(new, sizeof(new), "%.*s", (int)(strrchr(path, '/') - path), path);
	mkdir(new, 0755);
	snprintf(new, sizeof(new), "%s.new", path);
	unlink(new); /* whatever lies there: it is not written through */
	fd = open(new, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return fh_errf(err, -errno, "%s: %s", new, strerror(errno));
	/* Whoever may open the device may read it: a umask does not keep them out. */
	rc = fchmod(fd, 0644) ? -errno : copy_file(vocab, fd);
	if (close(fd) && !rc)
		rc = -errno;
	if (!rc && rename(new, path))
		rc = -errno;
	if (!rc)
		return 0;
	unlink(new);
	return fh_errf(err, rc, "%s: %s", path, strerror(-rc));
}

/* The module passes no descriptors, so what clients decode tokens with lies in a file. */
int fh_chan_vocab_file(const struct fh_service *svc, const char *path, struct fh_err *err)
{
	int fd = -1, rc = fh_chan_vocab(svc, &fd, err);

	if (!rc && fd >= 0)
		rc = put_vocab(fd, path, err);
	if (fd >= 0)
		close(fd);
	return rc;
}

int fh_chan_ctl_create(struct fh_chans *f, struct fh_ctl *ctl, struct fh_chan_transport **out, struct fh_err *err)
{
	struct ctl *t = calloc(1, sizeof(*t));
	struct fh_err why;
	int rc;

	if (!t)
		return fh_errf(err, -ENOMEM, "out of memory");
	t->base = (struct fh_chan_transport){
		.name = "driver",
		.f = f,
		.start = ctl_start,
		.turn = ctl_turn,
		.drain = ctl_drain,
		.destroy = ctl_destroy,
	};
	t->ctl = ctl;
	t->device.on_ready = on_device;
	t->device.on_stopped = device_stopped;
	t->kicks.on_ready = on_kick; /* never stopped */
	t->again.fn = device_again;
	t->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (t->wake_fd < 0) {
		rc = fh_errf(err, -errno, "eventfd: %s", strerror(errno));
		free(t);
		return rc;
	}
	if (fh_chan_vocab_file(f->svc, FH_VOCAB_PATH, &why))
		fh_warn("no vocabulary for clients of the module, which see token ids alone: %s", why.msg);
	*out = &t->base;
	return 0;
}
