// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels: creation, acceptance, kicks, and every way in which one ends.
 *
 * Always:
 *   - state only moves downwards, under fh_dev.lock, and both info pages show
 *     it by a store-release after everything that it vouches for ((M) in
 *     uapi/freehold.h).
 *   - A channel is on `waiting` only while its state is FH_CHAN_WAITING and its
 *     client has its info page mapped: the runtime is never shown a channel
 *     whose death would go unseen.
 *   - A channel is on `dead` only while the runtime holds an object of it and
 *     its client is gone.
 *   - Neither ring is ever read here.  The kernel allocates, permits, stamps
 *     and revokes.
 *
 * A side that ends a channel drops its object; pages live on until the last
 * mapping and the last pin are gone.
 */
#include <linux/cred.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "driver/compat.h"
#include "driver/fh.h"
#include "driver/trace.h"

/* --- memory -------------------------------------------------------------------- */

int fh_pages_alloc(struct page ***pages, unsigned long nr)
{
	struct page **array;
	unsigned long i;

	array = kvcalloc(nr, sizeof(*array), GFP_KERNEL_ACCOUNT);
	if (!array)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		array[i] = fatal_signal_pending(current) ? NULL : alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!array[i]) {
			fh_pages_free(array, i);
			return -ENOMEM;
		}
		cond_resched();
	}
	*pages = array;
	return 0;
}

/* By reference: a page that is pinned stays until its pin goes, and is nobody else's before. */
void fh_pages_free(struct page **pages, unsigned long nr)
{
	unsigned long i;

	for (i = 0; i < nr; i++)
		put_page(pages[i]);
	kvfree(pages);
}

static void chan_free(struct fh_chan *chan)
{
	int side;

	if (chan->pages)
		fh_pages_free(chan->pages, chan->nr_pages);
	if (chan->info[FH_SIDE_RUNTIME])
		put_page(virt_to_page(chan->info[FH_SIDE_RUNTIME]));
	for (side = 0; side < FH_NR_SIDES; side++) {
		fh_ident_drop(&chan->ident[side]);
		if (chan->mm[side])
			mmdrop(chan->mm[side]);
		if (chan->wake[side])
			eventfd_ctx_put(chan->wake[side]);
	}
	iput(chan->client_inode);
	kfree(chan);
}

static void chan_free_work(struct work_struct *work)
{
	chan_free(container_of(work, struct fh_chan, free_work));
}

static void chan_last_put(struct kref *ref)
{
	struct fh_chan *chan = container_of(ref, struct fh_chan, ref);

	spin_lock(&fh_dev.lock);
	WARN_ON(!list_empty(&chan->wait_node));
	list_del(&chan->node);
	spin_unlock(&fh_dev.lock);
	trace_fh_chan_free(chan);
	/* The quota at once, so that a client at its limit can try again; the rest where mmap_lock is not held. */
	fh_quota_uncharge(chan->quota, chan->geo.chan_bytes);
	queue_work(fh_dev.free_wq, &chan->free_work);
}

void fh_chan_put(struct fh_chan *chan)
{
	kref_put(&chan->ref, chan_last_put);
}

/* --- the end --------------------------------------------------------------------- */

static void leave_list(struct fh_chan *chan, u32 *nr)
{
	if (!list_empty(&chan->wait_node)) {
		list_del_init(&chan->wait_node);
		(*nr)--;
	}
}

static void show_state(struct fh_chan *chan, enum fh_chan_state state, u32 reason)
{
	int side;

	WRITE_ONCE(chan->state, state);
	for (side = 0; side < FH_NR_SIDES; side++) {
		chan->info[side]->revoke_reason = reason;
		/* (M) pairs with (N): what the info area says is there before the state. */
		smp_store_release(&chan->info[side]->state, state);
	}
}

/* Under fh_dev.lock. */
static bool end_locked(struct fh_chan *chan, enum fh_chan_state state, u32 reason)
{
	lockdep_assert_held(&fh_dev.lock);
	if (chan->state > FH_CHAN_OPEN)
		return false;
	if (chan->state == FH_CHAN_WAITING)
		leave_list(chan, &fh_dev.nr_waiting);
	show_state(chan, state, reason);
	/* Whoever ended it knows; a runtime that did not is told. */
	if (chan->rt_obj && state != FH_CHAN_RUNTIME_DEAD && state != FH_CHAN_REVOKED) {
		list_add_tail(&chan->wait_node, &fh_dev.dead);
		fh_dev.nr_dead++;
	}
	return true;
}

static void wake_side(struct fh_chan *chan, enum fh_side side)
{
	if (chan->wake[side])
		fh_eventfd_signal(chan->wake[side]);
}

/**
 * fh_chan_end() - end a channel, once; the first reason counts
 * @chan: the channel
 * @state: a final state
 * @reason: with FH_CHAN_REVOKED
 *
 * May be called under mmap_lock.
 */
void fh_chan_end(struct fh_chan *chan, enum fh_chan_state state, u32 reason)
{
	bool ended, accepted;

	spin_lock(&fh_dev.lock);
	ended = end_locked(chan, state, reason);
	accepted = chan->rt_obj;
	spin_unlock(&fh_dev.lock);
	if (!ended)
		return;
	trace_fh_chan_end(chan, state, reason);
	wake_side(chan, FH_SIDE_CLIENT);
	if (accepted)
		wake_side(chan, FH_SIDE_RUNTIME);
	wake_up(&fh_dev.runtime_wq);
}

/* The runtime's file is gone, and with it its objects; those that it never accepted end too. */
void fh_chan_refuse_waiting(void)
{
	struct fh_chan *chan;

	spin_lock(&fh_dev.lock);
	fh_dev.runtime = NULL;
	while (!list_empty(&fh_dev.waiting)) {
		chan = list_first_entry(&fh_dev.waiting, struct fh_chan, wait_node);
		/* On the list, so the client's object or mapping holds it: this cannot be the last reference. */
		kref_get(&chan->ref);
		end_locked(chan, FH_CHAN_RUNTIME_DEAD, 0);
		spin_unlock(&fh_dev.lock);
		trace_fh_chan_end(chan, FH_CHAN_RUNTIME_DEAD, 0);
		wake_side(chan, FH_SIDE_CLIENT);
		fh_chan_put(chan);
		spin_lock(&fh_dev.lock);
	}
	spin_unlock(&fh_dev.lock);
}

/* A side's object has left its table: DESTROY, or its file is gone. */
static void chan_obj_close(struct fh_obj *obj, bool file_gone)
{
	struct fh_chan_obj *co = container_of(obj, struct fh_chan_obj, obj);
	struct fh_chan *chan = co->chan;

	if (co->side == FH_SIDE_CLIENT) {
		fh_chan_end(chan, file_gone ? FH_CHAN_CLIENT_DEAD : FH_CHAN_CLOSED, 0);
		return;
	}
	fh_chan_end(chan, file_gone ? FH_CHAN_RUNTIME_DEAD : FH_CHAN_CLOSED, 0);
	spin_lock(&fh_dev.lock);
	leave_list(chan, &fh_dev.nr_dead);
	chan->rt_obj = NULL;
	spin_unlock(&fh_dev.lock);
}

static void chan_obj_release(struct fh_obj *obj)
{
	struct fh_chan_obj *co = container_of(obj, struct fh_chan_obj, obj);

	fh_chan_put(co->chan);
	kfree(co);
}

static const struct fh_obj_ops chan_obj_ops = {
	.close = chan_obj_close,
	.release = chan_obj_release,
};

static struct fh_chan_obj *chan_obj_new(struct fh_ctx *ctx)
{
	struct fh_chan_obj *co = kzalloc(sizeof(*co), GFP_KERNEL_ACCOUNT);

	if (!co)
		return NULL;
	fh_obj_init(&co->obj, FH_OBJ_CHAN, &chan_obj_ops);
	co->side = ctx->side;
	return co;
}

static int wake_get(int fd, struct eventfd_ctx **wake)
{
	struct eventfd_ctx *ctx;

	*wake = NULL;
	if (fd == -1)
		return 0;
	ctx = eventfd_ctx_fdget(fd);
	if (IS_ERR(ctx))
		return PTR_ERR(ctx);
	*wake = ctx;
	return 0;
}

/* --- FH_IOCTL_CHAN_CREATE ----------------------------------------------------------- */

/* Everything that does not need the quota; chan_free() undoes whatever was done. */
static int chan_fill(struct fh_chan *chan, struct fh_ctx *ctx, int wake_fd)
{
	struct page *page;
	int rc, side;

	rc = wake_get(wake_fd, &chan->wake[FH_SIDE_CLIENT]);
	if (rc)
		return rc;
	chan->nr_pages = chan->geo.chan_bytes >> PAGE_SHIFT;
	rc = fh_pages_alloc(&chan->pages, chan->nr_pages);
	if (rc)
		return rc;
	page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!page)
		return -ENOMEM;
	chan->info[FH_SIDE_CLIENT] = page_address(chan->pages[0]);
	chan->info[FH_SIDE_RUNTIME] = page_address(page);
	for (side = 0; side < FH_NR_SIDES; side++)
		*chan->info[side] = chan->geo;
	return 0;
}

static struct fh_chan *chan_new(struct fh_ctx *ctx, const struct fh_chan_create *cmd)
{
	struct fh_chan *chan;
	int rc;

	if (cmd->arena_bytes > (u64)READ_ONCE(fh_arena_mib_max) << 20)
		return ERR_PTR(-EDQUOT);
	chan = kzalloc(sizeof(*chan), GFP_KERNEL_ACCOUNT);
	if (!chan)
		return ERR_PTR(-ENOMEM);
	kref_init(&chan->ref);
	INIT_LIST_HEAD(&chan->wait_node);
	INIT_WORK(&chan->free_work, chan_free_work);
	init_rwsem(&chan->map_lock);
	chan->state = FH_CHAN_WAITING;
	ihold(ctx->inode);
	chan->client_inode = ctx->inode;
	mmgrab(current->mm);
	chan->mm[FH_SIDE_CLIENT] = current->mm;
	fh_ident_take(&chan->ident[FH_SIDE_CLIENT]);

	rc = -EINVAL;
	if (fh_chan_layout(&chan->geo, PAGE_SIZE, cmd->sq_entries, cmd->cq_entries, cmd->arena_bytes))
		goto err_chan;
	chan->geo.state = FH_CHAN_WAITING;
	chan->quota = fh_quota_charge(chan->ident[FH_SIDE_CLIENT].cred->euid, chan->geo.chan_bytes);
	if (IS_ERR(chan->quota)) {
		rc = PTR_ERR(chan->quota);
		goto err_chan;
	}
	rc = chan_fill(chan, ctx, cmd->wake_fd);
	if (rc)
		goto err_quota;

	spin_lock(&fh_dev.lock);
	if (fh_dev.runtime) {
		chan->gen = ++fh_dev.last_gen;
		list_add_tail(&chan->node, &fh_dev.chans);
	} else {
		rc = -ECONNREFUSED;
	}
	spin_unlock(&fh_dev.lock);
	if (rc)
		goto err_quota;
	return chan;

err_quota:
	fh_quota_uncharge(chan->quota, chan->geo.chan_bytes);
err_chan:
	chan_free(chan);
	return ERR_PTR(rc);
}

int fh_ioctl_chan_create(struct fh_ucmd *ucmd)
{
	struct fh_chan_create *cmd = ucmd->cmd;
	struct fh_chan_obj *co;
	int rc;

	if (cmd->flags)
		return -EOPNOTSUPP;
	if (cmd->wake_fd < -1)
		return -EINVAL;
	co = chan_obj_new(ucmd->ctx);
	if (!co)
		return -ENOMEM;
	co->chan = chan_new(ucmd->ctx, cmd);
	if (IS_ERR(co->chan)) {
		rc = PTR_ERR(co->chan);
		kfree(co);
		return rc;
	}
	rc = fh_obj_reserve(ucmd->ctx, &co->obj);
	if (rc)
		goto err_obj;
	co->chan->client_id = co->obj.id;
	cmd->out_chan_id = co->obj.id;
	cmd->out_mmap_off = fh_chan_mmap_off(co->obj.id);
	rc = fh_ucmd_respond(ucmd, sizeof(*cmd));
	if (rc)
		goto err_reserve;
	trace_fh_chan_create(co->chan);
	fh_obj_publish(ucmd->ctx, &co->obj);
	return 0;

err_reserve:
	fh_obj_unreserve(ucmd->ctx, &co->obj);
err_obj:
	fh_obj_put(&co->obj);
	return rc;
}

/* The client has mapped its info page: from now on its death is seen, so the runtime may have the channel. */
void fh_chan_publish(struct fh_chan *chan)
{
	bool ended = false;

	spin_lock(&fh_dev.lock);
	if (!chan->published && chan->state == FH_CHAN_WAITING) {
		if (fh_dev.runtime) {
			list_add_tail(&chan->wait_node, &fh_dev.waiting);
			fh_dev.nr_waiting++;
		} else {
			ended = end_locked(chan, FH_CHAN_RUNTIME_DEAD, 0);
		}
	}
	chan->published = true;
	spin_unlock(&fh_dev.lock);
	if (ended)
		wake_side(chan, FH_SIDE_CLIENT);
	wake_up(&fh_dev.runtime_wq);
}

/* --- FH_IOCTL_CHAN_ACCEPT --------------------------------------------------------------- */

static struct fh_chan *take_waiting(void)
{
	struct fh_chan *chan;

	spin_lock(&fh_dev.lock);
	chan = list_first_entry_or_null(&fh_dev.waiting, struct fh_chan, wait_node);
	if (chan) {
		leave_list(chan, &fh_dev.nr_waiting);
		kref_get(&chan->ref);
	}
	spin_unlock(&fh_dev.lock);
	return chan;
}

/* It could not be accepted after all: it waits on, before all others. */
static void give_back_waiting(struct fh_chan *chan)
{
	spin_lock(&fh_dev.lock);
	if (chan->state == FH_CHAN_WAITING) {
		list_add(&chan->wait_node, &fh_dev.waiting);
		fh_dev.nr_waiting++;
	}
	spin_unlock(&fh_dev.lock);
	wake_up(&fh_dev.runtime_wq);
}

/* The runtime's side of a channel that only this call can reach: it is on no list. */
struct accept_side {
	struct eventfd_ctx *wake;
	struct fh_ident ident;
};

static void commit_accept(struct fh_chan *chan, struct fh_chan_obj *co, struct accept_side *rt)
{
	const struct fh_ident *client = &chan->ident[FH_SIDE_CLIENT];

	mmgrab(current->mm);
	fh_ident_show(client, &rt->ident, chan->gen, &chan->info[FH_SIDE_RUNTIME]->peer);
	fh_ident_show(&rt->ident, client, chan->gen, &chan->info[FH_SIDE_CLIENT]->peer);

	spin_lock(&fh_dev.lock);
	chan->wake[FH_SIDE_RUNTIME] = rt->wake;
	chan->ident[FH_SIDE_RUNTIME] = rt->ident;
	chan->mm[FH_SIDE_RUNTIME] = current->mm;
	chan->rt_obj = &co->obj;
	if (chan->state == FH_CHAN_WAITING) {
		show_state(chan, FH_CHAN_OPEN, 0);
	} else {
		/* It ended while it was being accepted. */
		list_add_tail(&chan->wait_node, &fh_dev.dead);
		fh_dev.nr_dead++;
	}
	spin_unlock(&fh_dev.lock);
	trace_fh_chan_accept(chan);
	wake_side(chan, FH_SIDE_CLIENT);
}

int fh_ioctl_chan_accept(struct fh_ucmd *ucmd)
{
	struct fh_chan_accept *cmd = ucmd->cmd;
	struct accept_side rt = {};
	struct fh_chan_obj *co;
	struct fh_chan *chan;
	int rc;

	if (cmd->flags)
		return -EOPNOTSUPP;
	if (cmd->wake_fd < -1)
		return -EINVAL;
	co = chan_obj_new(ucmd->ctx);
	if (!co)
		return -ENOMEM;
	rc = wake_get(cmd->wake_fd, &rt.wake);
	if (rc)
		goto err_co;
	rc = fh_obj_reserve(ucmd->ctx, &co->obj);
	if (rc)
		goto err_wake;
	chan = take_waiting();
	if (!chan) {
		rc = -EAGAIN;
		goto err_reserve;
	}
	fh_ident_take(&rt.ident);
	cmd->out_chan_id = co->obj.id;
	cmd->out_mmap_off = fh_chan_mmap_off(co->obj.id);
	cmd->out_chan_bytes = chan->geo.chan_bytes;
	fh_ident_show(&chan->ident[FH_SIDE_CLIENT], &rt.ident, chan->gen, &cmd->out_peer);
	rc = fh_ucmd_respond(ucmd, sizeof(*cmd));
	if (rc)
		goto err_chan;
	co->chan = chan;
	commit_accept(chan, co, &rt);
	fh_obj_publish(ucmd->ctx, &co->obj);
	return 0;

err_chan:
	fh_ident_drop(&rt.ident);
	give_back_waiting(chan);
	fh_chan_put(chan);
err_reserve:
	fh_obj_unreserve(ucmd->ctx, &co->obj);
err_wake:
	if (rt.wake)
		eventfd_ctx_put(rt.wake);
err_co:
	kfree(co);
	return rc;
}

/* --- FH_IOCTL_CHAN_KICK, FH_IOCTL_CHAN_REVOKE --------------------------------------------- */

int fh_ioctl_chan_kick(struct fh_ucmd *ucmd)
{
	struct fh_chan_kick *cmd = ucmd->cmd;
	enum fh_chan_state state;
	struct fh_chan_obj *co;
	struct fh_obj *obj;
	int rc = 0;

	if (cmd->flags)
		return -EOPNOTSUPP;
	if (cmd->__reserved)
		return -EINVAL;
	obj = fh_obj_get(ucmd->ctx, cmd->chan_id, FH_OBJ_CHAN);
	if (!obj)
		return -ENOENT;
	co = container_of(obj, struct fh_chan_obj, obj);
	/* Pairs with the release in show_state(): an open channel has both eventfds. */
	state = smp_load_acquire(&co->chan->info[co->side]->state);
	if (state > FH_CHAN_OPEN)
		rc = -EPIPE;
	else if (state == FH_CHAN_OPEN)
		wake_side(co->chan, fh_other(co->side));
	/* While it waits nobody listens; the runtime looks into the ring when it has accepted. */
	fh_obj_put(obj);
	return rc;
}

int fh_ioctl_chan_revoke(struct fh_ucmd *ucmd)
{
	struct fh_chan_revoke *cmd = ucmd->cmd;
	struct fh_chan *chan;
	struct fh_obj *obj;
	int rc = 0;

	if (cmd->flags)
		return -EOPNOTSUPP;
	if (cmd->reason > FH_REVOKE_DRAIN)
		return -EINVAL;
	obj = fh_obj_get(ucmd->ctx, cmd->chan_id, FH_OBJ_CHAN);
	if (!obj)
		return -ENOENT;
	chan = container_of(obj, struct fh_chan_obj, obj)->chan;
	fh_chan_end(chan, FH_CHAN_REVOKED, cmd->reason);
	/* The client may have closed it before, and still write: its pages go all the same. */
	fh_chan_zap(chan);
	if (READ_ONCE(chan->state) != FH_CHAN_REVOKED)
		rc = -EPIPE;
	fh_obj_put(obj);
	return rc;
}
