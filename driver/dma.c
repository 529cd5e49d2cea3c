// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA maps: a region's bus addresses for one device that user space drives
 * without vfio.
 *
 * That a device does DMA wherever user space tells it to is as good as having
 * the whole memory, so: only if the module was loaded with unsafe_dma=1, which
 * taints the kernel; only for CAP_SYS_RAWIO; not under lockdown; only for a PCI
 * device that has no driver or belongs to uio.  vfio's users map through vfio,
 * and a network interface's driver maps for itself.
 *
 * Always:
 *   - A map is on fh_dev.dmas, under dma_lock, from when it is mapped until it
 *     is unmapped, whichever comes first of DESTROY, the file's end, a driver
 *     that binds to the device, and the device's removal.
 *   - It is mapped under device_lock, so that no driver binds in between; the
 *     bus tells us of one that binds later, under the same lock.
 *   - It uses its region, which cannot be destroyed before it.
 *   - An imported dma-buf is attached with the device itself and pinned: its
 *     addresses hold until they are taken back.
 */
#include <linux/capability.h>
#include <linux/device.h>
#include <linux/device/driver.h>
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/pci.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "driver/fh.h"

#define FH_DMA_RANGES_MAX BIT(20)

/**
 * struct fh_dma - a DMA map
 * @obj: in the runtime's table
 * @node: in fh_dev.dmas, or empty once it is unmapped.  Under fh_dev.dma_lock.
 * @ctx: whose table
 * @mem: what is mapped
 * @dev: for whom
 * @own: the region's pages, or:
 * @attach: the dma-buf's attachment of @dev
 * @sgt: &own, or the exporter's
 */
struct fh_dma {
	struct fh_obj obj;
	struct list_head node;
	struct fh_ctx *ctx;
	struct fh_mem *mem;
	struct device *dev;
	struct sg_table own;
	struct dma_buf_attachment *attach;
	struct sg_table *sgt;
};

/* --- mapping ------------------------------------------------------------------------- */

static void dma_moved(struct dma_buf_attachment *attach)
{
	/* It is pinned: an exporter that moves it all the same breaks its word. */
	WARN_ONCE(1, "freehold: a pinned dma-buf was moved\n");
}

static const struct dma_buf_attach_ops dma_importer_ops = {
	.allow_peer2peer = true,
	.move_notify = dma_moved,
};

static int map_dmabuf(struct fh_dma *dma)
{
	struct dma_buf *dmabuf = dma->mem->dmabuf;
	long left;
	int rc;

	dma->attach = dma_buf_dynamic_attach(dmabuf, dma->dev, &dma_importer_ops, dma);
	if (IS_ERR(dma->attach))
		return fh_exporter_rc(PTR_ERR(dma->attach));
	dma_resv_lock(dmabuf->resv, NULL);
	rc = dma_buf_pin(dma->attach);
	if (rc)
		goto err_lock;
	dma->sgt = dma_buf_map_attachment(dma->attach, DMA_BIDIRECTIONAL);
	if (IS_ERR(dma->sgt)) {
		rc = PTR_ERR(dma->sgt);
		goto err_pin;
	}
	/* The exporter may still be moving what it has just mapped. */
	left = dma_resv_wait_timeout(dmabuf->resv, DMA_RESV_USAGE_KERNEL, true, MAX_SCHEDULE_TIMEOUT);
	if (left < 0) {
		rc = left;
		goto err_map;
	}
	dma_resv_unlock(dmabuf->resv);
	return 0;

err_map:
	dma_buf_unmap_attachment(dma->attach, dma->sgt, DMA_BIDIRECTIONAL);
err_pin:
	dma_buf_unpin(dma->attach);
err_lock:
	dma_resv_unlock(dmabuf->resv);
	dma_buf_detach(dmabuf, dma->attach);
	return fh_exporter_rc(rc);
}

/**
 * fh_sgt_map() - map a region's own pages for a device
 * @mem: not a dma-buf
 * @dev: for whom; no segment is longer than it takes
 * @sgt: filled in
 * @dir: who writes
 *
 * A region may be mapped for several devices, or twice for one, at the same
 * time.  So its caches are not the mapping's matter: they are written back here,
 * and whoever has more to say about a mapping that lasts says it himself.
 *
 * Return: 0 or a negative errno.
 */
int fh_sgt_map(struct fh_mem *mem, struct device *dev, struct sg_table *sgt, enum dma_data_direction dir)
{
	int rc;

	rc = sg_alloc_table_from_pages_segment(sgt, mem->pages, mem->nr_pages, 0, mem->length,
					       dma_get_max_seg_size(dev), GFP_KERNEL_ACCOUNT);
	if (rc)
		return rc;
	rc = dma_map_sgtable(dev, sgt, dir, DMA_ATTR_SKIP_CPU_SYNC);
	if (!rc && !sgt->nents)
		rc = -EIO; /* a device without a mask */
	if (rc) {
		sg_free_table(sgt);
		return rc;
	}
	dma_sync_sgtable_for_device(dev, sgt, dir);
	return 0;
}

void fh_sgt_unmap(struct device *dev, struct sg_table *sgt, enum dma_data_direction dir)
{
	dma_sync_sgtable_for_cpu(dev, sgt, dir);
	dma_unmap_sgtable(dev, sgt, dir, DMA_ATTR_SKIP_CPU_SYNC);
	sg_free_table(sgt);
}

static enum dma_data_direction direction(const struct fh_mem *mem)
{
	return mem->flags & FH_MEM_READONLY ? DMA_TO_DEVICE : DMA_BIDIRECTIONAL;
}

static int map_pages(struct fh_dma *dma)
{
	dma->sgt = &dma->own;
	return fh_sgt_map(dma->mem, dma->dev, &dma->own, direction(dma->mem));
}

static void unmap(struct fh_dma *dma)
{
	struct fh_mem *mem = dma->mem;

	lockdep_assert_held(&fh_dev.dma_lock);
	if (list_empty(&dma->node))
		return;
	list_del_init(&dma->node);
	if (mem->type == FH_MEM_DMABUF) {
		dma_resv_lock(mem->dmabuf->resv, NULL);
		dma_buf_unmap_attachment(dma->attach, dma->sgt, DMA_BIDIRECTIONAL);
		dma_buf_unpin(dma->attach);
		dma_resv_unlock(mem->dmabuf->resv);
		dma_buf_detach(mem->dmabuf, dma->attach);
	} else {
		fh_sgt_unmap(dma->dev, &dma->own, direction(mem));
	}
	put_device(dma->dev);
}

static void dma_close(struct fh_obj *obj, bool file_gone)
{
	struct fh_dma *dma = container_of(obj, struct fh_dma, obj);

	mutex_lock(&fh_dev.dma_lock);
	unmap(dma);
	mutex_unlock(&fh_dev.dma_lock);
	fh_obj_unuse(dma->ctx, &dma->mem->obj);
}

static void dma_release(struct fh_obj *obj)
{
	kfree(container_of(obj, struct fh_dma, obj));
}

static const struct fh_obj_ops dma_obj_ops = {
	.close = dma_close,
	.release = dma_release,
};

/* --- the device ------------------------------------------------------------------------- */

static int target_find(const struct fh_dma_map *cmd, struct device **dev)
{
	struct pci_dev *pdev;

	switch (cmd->target_type) {
	case FH_TARGET_PCI:
		break;
	case FH_TARGET_NETDEV:
		/* An interface has a driver, and that maps for itself. */
		return -EBUSY;
	default:
		return -EOPNOTSUPP;
	}
	if (cmd->target >> 32)
		return -EINVAL;
	pdev = pci_get_domain_bus_and_slot(cmd->target >> 16, (cmd->target >> 8) & 0xff, cmd->target & 0xff);
	if (!pdev)
		return -ENODEV;
	*dev = &pdev->dev;
	return 0;
}

/* Under device_lock. */
static bool target_is_free(struct device *dev)
{
	static const char *const uio[] = { "uio_pci_generic", "igb_uio" };

	return !dev->driver || match_string(uio, ARRAY_SIZE(uio), dev->driver->name) >= 0;
}

static int map_for(struct fh_dma *dma)
{
	int rc;

	device_lock(dma->dev);
	rc = -EBUSY;
	if (!target_is_free(dma->dev))
		goto out;
	/* What a driver would do: without it memory above 4 GiB would be bounced, and the device would see copies. */
	rc = dma_set_mask_and_coherent(dma->dev, DMA_BIT_MASK(64));
	if (rc)
		goto out;
	mutex_lock(&fh_dev.dma_lock);
	rc = dma->mem->type == FH_MEM_DMABUF ? map_dmabuf(dma) : map_pages(dma);
	if (!rc)
		list_add_tail(&dma->node, &fh_dev.dmas);
	mutex_unlock(&fh_dev.dma_lock);
out:
	device_unlock(dma->dev);
	return rc;
}

static int bus_notify(struct notifier_block *nb, unsigned long action, void *data)
{
	struct device *dev = data;
	struct fh_dma *dma, *next;

	if (action != BUS_NOTIFY_BIND_DRIVER && action != BUS_NOTIFY_DEL_DEVICE)
		return NOTIFY_DONE;
	mutex_lock(&fh_dev.dma_lock);
	list_for_each_entry_safe(dma, next, &fh_dev.dmas, node) {
		if (dma->dev == dev) {
			dev_warn(dev, "freehold: unmapped: %s\n",
				 action == BUS_NOTIFY_BIND_DRIVER ? "a driver binds" : "the device goes");
			unmap(dma);
		}
	}
	mutex_unlock(&fh_dev.dma_lock);
	return NOTIFY_OK;
}

static struct notifier_block bus_nb = { .notifier_call = bus_notify };

/* --- FH_IOCTL_DMA_MAP ------------------------------------------------------------------------ */

static struct fh_dma *dma_new(struct fh_ctx *ctx, const struct fh_dma_map *cmd)
{
	struct fh_dma *dma;
	struct fh_obj *obj;
	int rc;

	dma = kzalloc(sizeof(*dma), GFP_KERNEL_ACCOUNT);
	if (!dma)
		return ERR_PTR(-ENOMEM);
	fh_obj_init(&dma->obj, FH_OBJ_DMA, &dma_obj_ops);
	INIT_LIST_HEAD(&dma->node);
	dma->ctx = ctx;
	rc = target_find(cmd, &dma->dev);
	if (rc)
		goto err_dma;
	rc = -ENOENT;
	obj = fh_obj_use(ctx, cmd->mem_id, FH_OBJ_MEM);
	if (!obj)
		goto err_dev;
	dma->mem = container_of(obj, struct fh_mem, obj);
	rc = map_for(dma);
	if (rc)
		goto err_mem;
	return dma;

err_mem:
	fh_obj_unuse(ctx, obj);
err_dev:
	put_device(dma->dev);
err_dma:
	kfree(dma);
	return ERR_PTR(rc);
}

/* The list of ranges, at most @room of them.  Taken under dma_lock: the map may be undone at any time. */
static int ranges_get(struct fh_dma *dma, struct fh_dma_range *ranges, u32 room, u32 *nr)
{
	struct scatterlist *sg;
	int i, rc = -ENODEV;
	u32 sum = 0;

	mutex_lock(&fh_dev.dma_lock);
	if (!list_empty(&dma->node)) {
		for_each_sgtable_dma_sg(dma->sgt, sg, i)
			sum = fh_ranges_add(ranges, room, sum, sg_dma_address(sg), sg_dma_len(sg));
		rc = 0;
	}
	mutex_unlock(&fh_dev.dma_lock);
	*nr = sum;
	return rc;
}

static int dma_respond(struct fh_ucmd *ucmd, struct fh_dma *dma)
{
	struct fh_dma_map *cmd = ucmd->cmd;
	u32 room = cmd->num_ranges, nr;
	struct fh_dma_range *ranges;
	int rc;

	ranges = kvcalloc(max(room, 1u), sizeof(ranges[0]), GFP_KERNEL_ACCOUNT);
	if (!ranges)
		return -ENOMEM;
	rc = ranges_get(dma, ranges, room, &nr);
	if (rc)
		goto out;
	cmd->num_ranges = nr;
	if (nr > room) {
		rc = fh_ucmd_respond(ucmd, sizeof(*cmd)) ?: -EMSGSIZE;
		goto out;
	}
	rc = -EFAULT;
	if (copy_to_user(u64_to_user_ptr(cmd->ranges), ranges, nr * sizeof(ranges[0])))
		goto out;
	cmd->out_dma_id = dma->obj.id;
	rc = fh_ucmd_respond(ucmd, sizeof(*cmd));
out:
	kvfree(ranges);
	return rc;
}

int fh_ioctl_dma_map(struct fh_ucmd *ucmd)
{
	struct fh_dma_map *cmd = ucmd->cmd;
	struct fh_dma *dma;
	int rc;

	if (!fh_unsafe_dma || !capable(CAP_SYS_RAWIO) || security_locked_down(LOCKDOWN_PCI_ACCESS))
		return -EPERM;
	if (cmd->flags)
		return -EOPNOTSUPP;
	if (cmd->num_ranges > FH_DMA_RANGES_MAX)
		return -EINVAL;
	dma = dma_new(ucmd->ctx, cmd);
	if (IS_ERR(dma))
		return PTR_ERR(dma);
	rc = fh_obj_reserve(ucmd->ctx, &dma->obj);
	if (rc)
		goto err_dma;
	cmd->out_dma_id = 0;
	rc = dma_respond(ucmd, dma);
	if (rc)
		goto err_reserve;
	fh_obj_publish(ucmd->ctx, &dma->obj);
	return 0;

err_reserve:
	fh_obj_unreserve(ucmd->ctx, &dma->obj);
err_dma:
	dma_close(&dma->obj, false);
	fh_obj_put(&dma->obj);
	return rc;
}

int fh_dma_init(void)
{
	return bus_register_notifier(&pci_bus_type, &bus_nb);
}

void fh_dma_exit(void)
{
	bus_unregister_notifier(&pci_bus_type, &bus_nb);
}
