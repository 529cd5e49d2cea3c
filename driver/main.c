// SPDX-License-Identifier: GPL-2.0-only
/*
 * Freehold's two devices: their files, the dispatch of their ioctls, and the
 * module's beginning and end.
 *
 * Always: at most one file of /dev/freehold-ctl is open, and fh_dev.runtime
 * points at its context.  An ioctl works on a kernel copy of its argument,
 * fetched once; only fh_ucmd_respond() writes back.  An open file, a mapping
 * and an exported dma-buf each hold the module, so that fh_exit() meets none
 * of them, only ends that are still queued.
 */
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/poll.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "driver/compat.h"
#include "driver/fh.h"
#include "driver/trace.h"

#define FH_FS_MAGIC 0x46524548 /* "FREH" */

struct fh_device fh_dev;

unsigned int fh_chan_max = 256;
module_param_named(chan_max, fh_chan_max, uint, 0644);
MODULE_PARM_DESC(chan_max, "channels that one uid may have (256)");

unsigned int fh_chan_mib_max = 512;
module_param_named(chan_mib_max, fh_chan_mib_max, uint, 0644);
MODULE_PARM_DESC(chan_mib_max, "memory that the channels of one uid may take, in MiB (512)");

unsigned int fh_arena_mib_max = 64;
module_param_named(arena_mib_max, fh_arena_mib_max, uint, 0644);
MODULE_PARM_DESC(arena_mib_max, "largest arena of a channel, in MiB (64)");

unsigned int fh_mem_mib_max = 1024 * 1024;
module_param_named(mem_mib_max, fh_mem_mib_max, uint, 0644);
MODULE_PARM_DESC(mem_mib_max, "memory that the runtime may hold in regions, in MiB (1048576)");

bool fh_unsafe_dma;
module_param_named_unsafe(unsafe_dma, fh_unsafe_dma, bool, 0444);
MODULE_PARM_DESC(unsafe_dma, "let the runtime learn bus addresses of its regions (off; taints the kernel)");

/* --- files ------------------------------------------------------------------- */

static int fh_open(struct file *file, enum fh_side side)
{
	struct fh_ctx *ctx;
	int rc = 0;

	ctx = kzalloc(sizeof(*ctx), GFP_KERNEL_ACCOUNT);
	if (!ctx)
		return -ENOMEM;
	ctx->side = side;
	xa_init_flags(&ctx->objs, XA_FLAGS_ALLOC1);
	ctx->inode = alloc_anon_inode(fh_dev.mnt->mnt_sb);
	if (IS_ERR(ctx->inode)) {
		rc = PTR_ERR(ctx->inode);
		goto err_ctx;
	}

	spin_lock(&fh_dev.lock);
	if (side == FH_SIDE_CLIENT)
		fh_dev.nr_clients++;
	else if (fh_dev.runtime)
		rc = -EBUSY;
	else
		fh_dev.runtime = ctx;
	spin_unlock(&fh_dev.lock);
	if (rc)
		goto err_inode;

	file->f_mapping = ctx->inode->i_mapping;
	file->private_data = ctx;
	return 0;

err_inode:
	iput(ctx->inode);
err_ctx:
	kfree(ctx);
	return rc;
}

static int fh_open_client(struct inode *inode, struct file *file)
{
	return fh_open(file, FH_SIDE_CLIENT);
}

static int fh_open_runtime(struct inode *inode, struct file *file)
{
	return fh_open(file, FH_SIDE_RUNTIME);
}

static int fh_release(struct inode *inode, struct file *file)
{
	struct fh_ctx *ctx = file->private_data;

	fh_obj_destroy_all(ctx);
	if (ctx->side == FH_SIDE_RUNTIME) {
		/* From here on a new runtime may come: what still waits was meant for this one. */
		fh_chan_refuse_waiting();
	} else {
		spin_lock(&fh_dev.lock);
		fh_dev.nr_clients--;
		spin_unlock(&fh_dev.lock);
	}
	iput(ctx->inode);
	kfree(ctx);
	return 0;
}

static int fh_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct fh_ctx *ctx = file->private_data;
	struct fh_window win;
	struct fh_obj *obj;
	int rc;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	rc = fh_window_find((u64)vma->vm_pgoff << PAGE_SHIFT, &win);
	if (rc)
		return rc;
	obj = fh_obj_get(ctx, win.id, win.mem ? FH_OBJ_MEM : FH_OBJ_CHAN);
	if (!obj)
		return -ENOENT;
	vm_flags_clear(vma, VM_MAYEXEC);
	if (win.mem)
		rc = fh_mem_mmap(container_of(obj, struct fh_mem, obj), vma, win.off);
	else
		rc = fh_chan_mmap(ctx, container_of(obj, struct fh_chan_obj, obj), vma, win.off);
	fh_obj_put(obj);
	return rc;
}

/* The runtime's: readable while a channel waits or a client is gone; urgent for the latter. */
static __poll_t fh_poll_runtime(struct file *file, poll_table *wait)
{
	__poll_t mask = 0;

	poll_wait(file, &fh_dev.runtime_wq, wait);
	spin_lock(&fh_dev.lock);
	if (fh_dev.nr_waiting)
		mask |= EPOLLIN | EPOLLRDNORM;
	if (fh_dev.nr_dead)
		mask |= EPOLLIN | EPOLLRDNORM | EPOLLPRI;
	spin_unlock(&fh_dev.lock);
	return mask;
}

/* --- ioctls -------------------------------------------------------------------- */

static int fh_ioctl_info(struct fh_ucmd *ucmd)
{
	struct fh_info *cmd = ucmd->cmd;

	if (cmd->flags)
		return -EOPNOTSUPP;
	if (cmd->__reserved)
		return -EINVAL;
	cmd->out_abi_version = FH_ABI_VERSION;
	cmd->out_caps = 0;
	if (fh_unsafe_dma)
		cmd->out_caps |= FH_CAP_DMA_MAP;
	if (IS_ENABLED(CONFIG_DMABUF_MOVE_NOTIFY))
		cmd->out_caps |= FH_CAP_DMABUF_DYNAMIC;
	cmd->out_chan_max = READ_ONCE(fh_chan_max);
	cmd->out_chan_bytes_max = (u64)READ_ONCE(fh_chan_mib_max) << 20;
	cmd->out_arena_bytes_max = min_t(u64, (u64)READ_ONCE(fh_arena_mib_max) << 20, FH_ARENA_BYTES_MAX);
	cmd->out_mem_bytes_max = (u64)READ_ONCE(fh_mem_mib_max) << 20;
	cmd->out_mem_bytes_used = 0;
	cmd->out_nr_waiting = 0;
	cmd->out_nr_dead = 0;
	cmd->out_dead_chan_id = 0;
	fh_quota_read(current_euid(), &cmd->out_chan_used, &cmd->out_chan_bytes_used);

	spin_lock(&fh_dev.lock);
	if (fh_dev.runtime)
		cmd->out_caps |= FH_CAP_RUNTIME;
	if (ucmd->ctx->side == FH_SIDE_RUNTIME) {
		cmd->out_mem_bytes_used = fh_dev.mem_bytes;
		cmd->out_nr_waiting = fh_dev.nr_waiting;
		cmd->out_nr_dead = fh_dev.nr_dead;
		if (fh_dev.nr_dead)
			cmd->out_dead_chan_id = list_first_entry(&fh_dev.dead, struct fh_chan, wait_node)->rt_obj->id;
	}
	spin_unlock(&fh_dev.lock);
	return fh_ucmd_respond(ucmd, sizeof(*cmd));
}

static int fh_ioctl_destroy(struct fh_ucmd *ucmd)
{
	struct fh_destroy *cmd = ucmd->cmd;

	return fh_obj_destroy(ucmd->ctx, cmd->id);
}

union fh_ucmd_buffer {
	struct fh_info info;
	struct fh_destroy destroy;
	struct fh_chan_create create;
	struct fh_chan_accept accept;
	struct fh_chan_kick kick;
	struct fh_chan_revoke revoke;
	struct fh_mem_import import;
	struct fh_mem_export export;
	struct fh_dma_map dma_map;
};

struct fh_ioctl_op {
	unsigned int size;
	unsigned int min_size;
	unsigned int cmd;
	int (*execute)(struct fh_ucmd *ucmd);
};

#define FH_IOCTL_OP(_cmd, _fn, _struct, _last)                                                                         \
	[_IOC_NR(_cmd) - FH_CMD_INFO] = {                                                                              \
		.size = sizeof(_struct) + BUILD_BUG_ON_ZERO(sizeof(union fh_ucmd_buffer) < sizeof(_struct)),           \
		.min_size = offsetofend(_struct, _last),                                                               \
		.cmd = _cmd,                                                                                           \
		.execute = _fn,                                                                                        \
	}

/* The last field of each structure's first version: what a caller has to know at least. */
static const struct fh_ioctl_op fh_client_ops[] = {
	FH_IOCTL_OP(FH_IOCTL_INFO, fh_ioctl_info, struct fh_info, __reserved),
	FH_IOCTL_OP(FH_IOCTL_DESTROY, fh_ioctl_destroy, struct fh_destroy, id),
	FH_IOCTL_OP(FH_IOCTL_CHAN_CREATE, fh_ioctl_chan_create, struct fh_chan_create, out_mmap_off),
	FH_IOCTL_OP(FH_IOCTL_CHAN_KICK, fh_ioctl_chan_kick, struct fh_chan_kick, __reserved),
};

static const struct fh_ioctl_op fh_runtime_ops[] = {
	FH_IOCTL_OP(FH_IOCTL_INFO, fh_ioctl_info, struct fh_info, __reserved),
	FH_IOCTL_OP(FH_IOCTL_DESTROY, fh_ioctl_destroy, struct fh_destroy, id),
	FH_IOCTL_OP(FH_IOCTL_CHAN_ACCEPT, fh_ioctl_chan_accept, struct fh_chan_accept, out_peer),
	FH_IOCTL_OP(FH_IOCTL_CHAN_KICK, fh_ioctl_chan_kick, struct fh_chan_kick, __reserved),
	FH_IOCTL_OP(FH_IOCTL_CHAN_REVOKE, fh_ioctl_chan_revoke, struct fh_chan_revoke, reason),
	FH_IOCTL_OP(FH_IOCTL_MEM_IMPORT, fh_ioctl_mem_import, struct fh_mem_import, out_mmap_off),
	FH_IOCTL_OP(FH_IOCTL_MEM_EXPORT, fh_ioctl_mem_export, struct fh_mem_export, out_fd),
	FH_IOCTL_OP(FH_IOCTL_DMA_MAP, fh_ioctl_dma_map, struct fh_dma_map, ranges),
};

/**
 * fh_ucmd_respond() - write the answer back, as much of it as the caller knows
 * @ucmd: the call
 * @cmd_bytes: what the kernel knows
 *
 * Return: 0 or -EFAULT.
 */
int fh_ucmd_respond(struct fh_ucmd *ucmd, size_t cmd_bytes)
{
	return copy_to_user(ucmd->ubuffer, ucmd->cmd, min_t(size_t, ucmd->user_size, cmd_bytes)) ? -EFAULT : 0;
}

static long fh_dispatch(struct file *file, unsigned int cmd, unsigned long arg, const struct fh_ioctl_op *ops,
			unsigned int nr_ops)
{
	const struct fh_ioctl_op *op;
	union fh_ucmd_buffer buf;
	struct fh_ucmd ucmd = {
		.ctx = file->private_data,
		.ubuffer = (void __user *)arg,
		.cmd = &buf,
	};
	unsigned int nr = _IOC_NR(cmd) - FH_CMD_INFO;
	int rc;

	if (nr >= nr_ops)
		return -ENOTTY;
	op = &ops[nr];
	if (!op->execute || op->cmd != cmd)
		return -ENOTTY;
	if (get_user(ucmd.user_size, (u32 __user *)ucmd.ubuffer))
		return -EFAULT;
	if (ucmd.user_size < op->min_size)
		return -EINVAL;
	rc = copy_struct_from_user(ucmd.cmd, op->size, ucmd.ubuffer, ucmd.user_size);
	if (rc)
		return rc;
	return op->execute(&ucmd);
}

static long fh_ioctl_client(struct file *file, unsigned int cmd, unsigned long arg)
{
	return fh_dispatch(file, cmd, arg, fh_client_ops, ARRAY_SIZE(fh_client_ops));
}

static long fh_ioctl_runtime(struct file *file, unsigned int cmd, unsigned long arg)
{
	return fh_dispatch(file, cmd, arg, fh_runtime_ops, ARRAY_SIZE(fh_runtime_ops));
}

static const struct file_operations fh_client_fops = {
	.owner = THIS_MODULE,
	.open = fh_open_client,
	.release = fh_release,
	.unlocked_ioctl = fh_ioctl_client,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = fh_mmap,
	.llseek = noop_llseek,
	.show_fdinfo = fh_show_fdinfo,
};

static const struct file_operations fh_runtime_fops = {
	.owner = THIS_MODULE,
	.open = fh_open_runtime,
	.release = fh_release,
	.unlocked_ioctl = fh_ioctl_runtime,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = fh_mmap,
	.poll = fh_poll_runtime,
	.llseek = noop_llseek,
	.show_fdinfo = fh_show_fdinfo,
};

static struct miscdevice fh_client_dev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "freehold",
	.mode = 0660,
	.fops = &fh_client_fops,
};

static struct miscdevice fh_runtime_dev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "freehold-ctl",
	.mode = 0600,
	.fops = &fh_runtime_fops,
};

/* --- the module ------------------------------------------------------------------- */

static int fh_fs_init(struct fs_context *fc)
{
	return init_pseudo(fc, FH_FS_MAGIC) ? 0 : -ENOMEM;
}

/* Without an owner: its one mount is the module's own, and would keep it from ever being unloaded. */
static struct file_system_type fh_fs_type = {
	.name = "freehold",
	.init_fs_context = fh_fs_init,
	.kill_sb = kill_anon_super,
};

static int fh_device_init(void)
{
	const struct platform_device_info info = {
		.name = "freehold",
		.id = PLATFORM_DEVID_NONE,
		.dma_mask = DMA_BIT_MASK(64),
	};
	int i, rc;

	spin_lock_init(&fh_dev.lock);
	mutex_init(&fh_dev.dma_lock);
	INIT_LIST_HEAD(&fh_dev.chans);
	INIT_LIST_HEAD(&fh_dev.waiting);
	INIT_LIST_HEAD(&fh_dev.dead);
	INIT_LIST_HEAD(&fh_dev.mems);
	INIT_LIST_HEAD(&fh_dev.dmas);
	for (i = 0; i < ARRAY_SIZE(fh_dev.quotas); i++)
		INIT_HLIST_HEAD(&fh_dev.quotas[i]);
	init_waitqueue_head(&fh_dev.runtime_wq);

	fh_dev.free_wq = alloc_workqueue("freehold", WQ_UNBOUND, 0);
	if (!fh_dev.free_wq)
		return -ENOMEM;
	fh_dev.mnt = kern_mount(&fh_fs_type);
	if (IS_ERR(fh_dev.mnt)) {
		rc = PTR_ERR(fh_dev.mnt);
		goto err_wq;
	}
	fh_dev.pdev = platform_device_register_full(&info);
	if (IS_ERR(fh_dev.pdev)) {
		rc = PTR_ERR(fh_dev.pdev);
		goto err_mnt;
	}
	return 0;

err_mnt:
	kern_unmount(fh_dev.mnt);
err_wq:
	destroy_workqueue(fh_dev.free_wq);
	return rc;
}

static void fh_device_exit(void)
{
	platform_device_unregister(fh_dev.pdev);
	/* The last channels may still be on their way out; they hold inodes. */
	destroy_workqueue(fh_dev.free_wq);
	kern_unmount(fh_dev.mnt);
}

static int __init fh_init(void)
{
	int rc;

	/* Two words that device and host write at once, and what rings of older programs rely on. */
	BUILD_BUG_ON(sizeof(struct fh_slot) != 16);
	BUILD_BUG_ON(sizeof(struct fh_req_desc) > FH_SQ_ENTRY_BYTES);
	BUILD_BUG_ON(sizeof(struct fh_chan_info) > PAGE_SIZE);

	rc = fh_device_init();
	if (rc)
		return rc;
	rc = fh_dma_init();
	if (rc)
		goto err_device;
	fh_show_init();
	rc = misc_register(&fh_runtime_dev);
	if (rc)
		goto err_show;
	rc = misc_register(&fh_client_dev);
	if (rc)
		goto err_runtime;
	return 0;

err_runtime:
	misc_deregister(&fh_runtime_dev);
err_show:
	fh_show_exit();
	fh_dma_exit();
err_device:
	fh_device_exit();
	return rc;
}

static void __exit fh_exit(void)
{
	misc_deregister(&fh_client_dev);
	misc_deregister(&fh_runtime_dev);
	fh_show_exit();
	fh_dma_exit();
	fh_device_exit();
}

module_init(fh_init);
module_exit(fh_exit);

MODULE_DESCRIPTION("Freehold: channels between clients and an inference runtime, and pinned memory");
MODULE_AUTHOR("The Freehold project");
MODULE_LICENSE("GPL");
/* Of the ABI: what a program has to know of a module that it finds loaded. */
MODULE_VERSION(__stringify(FH_ABI_VERSION));
FH_IMPORT_NS_DMA_BUF;
