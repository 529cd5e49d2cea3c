// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who holds what: /sys/kernel/debug/freehold/{state,channels,regions}, and a
 * file's own objects in /proc/PID/fdinfo.
 *
 * Lists are printed under the lock that guards them: nothing here sleeps.
 * Processes are named as the reader's namespaces know them.  No addresses.
 */
#include <linux/cred.h>
#include <linux/debugfs.h>
#include <linux/pid_namespace.h>
#include <linux/seq_file.h>

#include "driver/fh.h"

static struct dentry *dir;

static const char *state_name(enum fh_chan_state state)
{
	static const char *const names[] = {
		[FH_CHAN_WAITING] = "waiting",
		[FH_CHAN_OPEN] = "open",
		[FH_CHAN_CLOSED] = "closed",
		[FH_CHAN_CLIENT_DEAD] = "client-dead",
		[FH_CHAN_RUNTIME_DEAD] = "runtime-dead",
		[FH_CHAN_REVOKED] = "revoked",
	};

	return names[state];
}

static const char *type_name(enum fh_mem_type type)
{
	static const char *const names[] = {
		[FH_MEM_PAGES] = "pages",
		[FH_MEM_DMABUF] = "dmabuf",
		[FH_MEM_USER] = "user",
		[FH_MEM_MEMFD] = "memfd",
	};

	return names[type];
}

static int state_show(struct seq_file *m, void *unused)
{
	struct list_head *pos;
	u32 nr_chans = 0, nr_mems = 0, nr_dmas = 0;

	mutex_lock(&fh_dev.dma_lock);
	list_for_each(pos, &fh_dev.dmas)
		nr_dmas++;
	mutex_unlock(&fh_dev.dma_lock);
	spin_lock(&fh_dev.lock);
	list_for_each(pos, &fh_dev.chans)
		nr_chans++;
	list_for_each(pos, &fh_dev.mems)
		nr_mems++;
	seq_printf(m, "runtime\t%d\nclients\t%u\n", !!fh_dev.runtime, fh_dev.nr_clients);
	seq_printf(m, "channels\t%u\nwaiting\t%u\ndead\t%u\n", nr_chans, fh_dev.nr_waiting, fh_dev.nr_dead);
	seq_printf(m, "created\t%llu\n", fh_dev.last_gen);
	seq_printf(m, "regions\t%u\nregion_bytes\t%llu\ndma_maps\t%u\n", nr_mems, fh_dev.mem_bytes, nr_dmas);
	spin_unlock(&fh_dev.lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(state);

static int channels_show(struct seq_file *m, void *unused)
{
	struct pid_namespace *ns = task_active_pid_ns(current);
	struct fh_chan *chan;

	seq_puts(m, "gen\tstate\tuid\tpid\tcgroup\tbytes\tsq\tcq\n");
	spin_lock(&fh_dev.lock);
	list_for_each_entry(chan, &fh_dev.chans, node) {
		const struct fh_ident *ident = &chan->ident[FH_SIDE_CLIENT];

		seq_printf(m, "%llu\t%s\t%u\t%d\t%llu\t%llu\t%u\t%u\n", chan->gen, state_name(chan->state),
			   from_kuid_munged(current_user_ns(), ident->cred->euid), pid_nr_ns(ident->pid, ns),
			   ident->cgroup_id, chan->geo.chan_bytes, chan->geo.sq_entries, chan->geo.cq_entries);
	}
	spin_unlock(&fh_dev.lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(channels);

static int regions_show(struct seq_file *m, void *unused)
{
	struct fh_mem *mem;

	seq_puts(m, "id\ttype\tbytes\tcharged_pages\tmoves\n");
	spin_lock(&fh_dev.lock);
	list_for_each_entry(mem, &fh_dev.mems, node)
		seq_printf(m, "%u\t%s\t%llu\t%lu\t%llu\n", mem->obj.id, type_name(mem->type), mem->length,
			   mem->charged_pages, mem->nr_moves);
	spin_unlock(&fh_dev.lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(regions);

static void show_obj(struct seq_file *m, const struct fh_obj *obj)
{
	const struct fh_chan *chan;
	const struct fh_mem *mem;

	switch (obj->type) {
	case FH_OBJ_CHAN:
		chan = container_of(obj, struct fh_chan_obj, obj)->chan;
		seq_printf(m, "freehold-channel-%u:\tgen %llu %s %llu bytes\n", obj->id, chan->gen,
			   state_name(READ_ONCE(chan->state)), chan->geo.chan_bytes);
		break;
	case FH_OBJ_MEM:
		mem = container_of(obj, struct fh_mem, obj);
		seq_printf(m, "freehold-region-%u:\t%s %llu bytes\n", obj->id, type_name(mem->type), mem->length);
		break;
	case FH_OBJ_DMA:
		seq_printf(m, "freehold-dma-%u:\n", obj->id);
		break;
	case FH_OBJ_ANY:
		break;
	}
}

void fh_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct fh_ctx *ctx = file->private_data;
	struct fh_obj *obj;
	unsigned long id;

	seq_printf(m, "freehold-side:\t%s\n", ctx->side == FH_SIDE_CLIENT ? "client" : "runtime");
	xa_lock(&ctx->objs);
	xa_for_each(&ctx->objs, id, obj)
		show_obj(m, obj);
	xa_unlock(&ctx->objs);
}

void fh_show_init(void)
{
	dir = debugfs_create_dir("freehold", NULL);
	debugfs_create_file("state", 0400, dir, NULL, &state_fops);
	debugfs_create_file("channels", 0400, dir, NULL, &channels_fops);
	debugfs_create_file("regions", 0400, dir, NULL, &regions_fops);
}

void fh_show_exit(void)
{
	debugfs_remove(dir);
}
