// SPDX-License-Identifier: GPL-2.0-only
/*
 * A stand-in for a GPU, for tests: exports pieces of a PCI device's BAR (QEMU's
 * ivshmem-plain, 1af4:1110) as dma-bufs that behave as those of GPU drivers do.
 *
 * Always:
 *   - A buffer's place in the BAR, its pins and its maps are read and written
 *     under its reservation lock.
 *   - A buffer that is pinned does not move.  Moving tells importers,
 *     waits for the buffer's fences, zaps the CPU's mappings, copies, and only
 *     then has a new place; the next fault finds it there.
 *   - A buffer that was taken away has no place: faults give SIGBUS, maps
 *     ENODEV, whoever has its old place now.
 *   - Memory of a BAR has no struct page: an importer that is not ready for
 *     peer-to-peer addresses is refused, and so is a device that does not
 *     reach the BAR.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pci-p2pdma.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "tests/vm/bar/fhbar.h"

#define BAR 2

static struct pci_dev *bar_pdev;
static void __iomem *bar_mem;
static u64 bar_bytes;

/**
 * struct buf - an exported buffer
 * @off: its place
 * @bytes: how long it is
 * @revoked: it has none any more
 * @attached: attachments
 * @pinned: pins
 * @mapped: maps
 */
struct buf {
	u64 off;
	u64 bytes;
	bool revoked;
	unsigned int attached;
	unsigned int pinned;
	unsigned int mapped;
};

/* --- importers ------------------------------------------------------------------- */

static int buf_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct buf *buf = dmabuf->priv;

	/* NVIDIA's asks only those that say that they are dynamic. */
	if (!attach->peer2peer && (dmabuf->ops->pin || attach->importer_ops))
		return -EOPNOTSUPP;
	dma_resv_lock(dmabuf->resv, NULL);
	buf->attached++;
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

static void buf_detach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct buf *buf = dmabuf->priv;

	dma_resv_lock(dmabuf->resv, NULL);
	buf->attached--;
	dma_resv_unlock(dmabuf->resv);
}

static int buf_pin(struct dma_buf_attachment *attach)
{
	struct buf *buf = attach->dmabuf->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	if (buf->revoked)
		return -ENODEV;
	buf->pinned++;
	return 0;
}

static void buf_unpin(struct dma_buf_attachment *attach)
{
	struct buf *buf = attach->dmabuf->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	WARN_ON(!buf->pinned--);
}

/* A device that is none of PCI's only holds the buffer: its addresses go nowhere. */
static bool reaches(struct device *dev)
{
	return !dev_is_pci(dev) || pci_p2pdma_distance(bar_pdev, dev, true) >= 0;
}

/* As NVIDIA's exporter answers: without saying why. */
static struct sg_table *refuse(struct dma_buf_attachment *attach, int rc)
{
	return attach->dmabuf->ops->pin ? ERR_PTR(rc) : NULL;
}

static struct sg_table *buf_map(struct dma_buf_attachment *attach, enum dma_data_direction dir)
{
	struct buf *buf = attach->dmabuf->priv;
	struct sg_table *sgt;
	dma_addr_t addr;

	dma_resv_assert_held(attach->dmabuf->resv);
	if (buf->revoked)
		return refuse(attach, -ENODEV);
	if (!reaches(attach->dev))
		return refuse(attach, -EREMOTEIO);
	sgt = kzalloc(sizeof(*sgt), GFP_KERNEL);
	if (!sgt)
		return refuse(attach, -ENOMEM);
	if (sg_alloc_table(sgt, 1, GFP_KERNEL))
		goto err_sgt;
	addr = dma_map_resource(attach->dev, pci_resource_start(bar_pdev, BAR) + buf->off, buf->bytes, dir,
				DMA_ATTR_SKIP_CPU_SYNC);
	if (dma_mapping_error(attach->dev, addr))
		goto err_table;
	sg_set_page(sgt->sgl, NULL, buf->bytes, 0);
	sg_dma_address(sgt->sgl) = addr;
	sg_dma_len(sgt->sgl) = buf->bytes;
	buf->mapped++;
	return sgt;

err_table:
	sg_free_table(sgt);
err_sgt:
	kfree(sgt);
	return refuse(attach, -ENOMEM);
}

static void buf_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt, enum dma_data_direction dir)
{
	struct buf *buf = attach->dmabuf->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	dma_unmap_resource(attach->dev, sg_dma_address(sgt->sgl), buf->bytes, dir, DMA_ATTR_SKIP_CPU_SYNC);
	sg_free_table(sgt);
	kfree(sgt);
	buf->mapped--;
}

static void buf_release(struct dma_buf *dmabuf)
{
	struct buf *buf = dmabuf->priv;

	WARN_ON(buf->attached || buf->pinned || buf->mapped);
	kfree(buf);
}

/* --- the CPU ----------------------------------------------------------------------- */

static vm_fault_t buf_fault(struct vm_fault *vmf)
{
	struct dma_buf *dmabuf = vmf->vma->vm_private_data;
	u64 at = (u64)vmf->pgoff << PAGE_SHIFT;
	struct buf *buf = dmabuf->priv;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	if (dma_resv_lock_interruptible(dmabuf->resv, NULL))
		return VM_FAULT_NOPAGE;
	if (!buf->revoked && at < buf->bytes)
		ret = vmf_insert_pfn(vmf->vma, vmf->address & PAGE_MASK,
				     (pci_resource_start(bar_pdev, BAR) + buf->off + at) >> PAGE_SHIFT);
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

static const struct vm_operations_struct buf_vm_ops = {.fault = buf_fault};

static int buf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	const vm_flags_t flags = VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
	vma->vm_flags |= flags;
#else
	vm_flags_set(vma, flags);
#endif
	vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);
	vma->vm_private_data = dmabuf;
	vma->vm_ops = &buf_vm_ops;
	return 0;
}

/* The kernel's own number, which no C library knows. */
static int buf_mmap_refused(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	return -ENOTSUPP;
}

#define BUF_OPS                                                                                                        \
	.attach = buf_attach, .detach = buf_detach, .map_dma_buf = buf_map, .unmap_dma_buf = buf_unmap,                \
	.release = buf_release

static const struct dma_buf_ops buf_ops[FHBAR_NR_KINDS] = {
	[FHBAR_DYNAMIC] = {BUF_OPS, .pin = buf_pin, .unpin = buf_unpin, .mmap = buf_mmap},
	[FHBAR_NO_MMAP] = {BUF_OPS, .pin = buf_pin, .unpin = buf_unpin},
	[FHBAR_STATIC] = {BUF_OPS, .mmap = buf_mmap_refused},
};

/* --- the device ---------------------------------------------------------------------- */

static bool in_bar(u64 off, u64 bytes)
{
	return bytes && off < bar_bytes && bytes <= bar_bytes - off && PAGE_ALIGNED(off | bytes);
}

static int bar_export(struct fhbar_export __user *arg)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct fhbar_export cmd;
	struct dma_buf *dmabuf;
	struct buf *buf;
	int fd;

	if (copy_from_user(&cmd, arg, sizeof(cmd)))
		return -EFAULT;
	if (!in_bar(cmd.off, cmd.bytes) || cmd.kind >= FHBAR_NR_KINDS)
		return -EINVAL;
	buf = kzalloc(sizeof(*buf), GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	buf->off = cmd.off;
	buf->bytes = cmd.bytes;
	info.ops = &buf_ops[cmd.kind];
	info.size = cmd.bytes;
	info.flags = O_RDWR | O_CLOEXEC;
	info.priv = buf;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		kfree(buf);
		return PTR_ERR(dmabuf);
	}
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd >= 0 && put_user(fd, &arg->out_fd)) {
		put_unused_fd(fd);
		fd = -EFAULT;
	}
	if (fd < 0) {
		dma_buf_put(dmabuf);
		return fd;
	}
	fd_install(fd, dmabuf->file);
	return 0;
}

static struct dma_buf *ours(int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);

	if (IS_ERR(dmabuf))
		return dmabuf;
	if (dmabuf->ops >= buf_ops && dmabuf->ops < buf_ops + FHBAR_NR_KINDS)
		return dmabuf;
	dma_buf_put(dmabuf);
	return ERR_PTR(-EINVAL);
}

static int move_locked(struct dma_buf *dmabuf, const struct fhbar_move *cmd)
{
	struct buf *buf = dmabuf->priv;
	void *copy;

	if (buf->pinned || !dmabuf->ops->pin)
		return -EBUSY;
	if (!cmd->revoke && !in_bar(cmd->off, buf->bytes))
		return -EINVAL;
	copy = kvmalloc(buf->bytes, GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	dma_buf_move_notify(dmabuf);
	dma_resv_wait_timeout(dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP, false, MAX_SCHEDULE_TIMEOUT);
	unmap_mapping_range(dmabuf->file->f_mapping, 0, 0, 1);
	memcpy_fromio(copy, bar_mem + buf->off, buf->bytes);
	if (cmd->revoke) {
		buf->revoked = true;
	} else {
		memcpy_toio(bar_mem + cmd->off, copy, buf->bytes);
		buf->off = cmd->off;
	}
	kvfree(copy);
	return 0;
}

static int bar_move(struct fhbar_move __user *arg)
{
	struct fhbar_move cmd;
	struct dma_buf *dmabuf;
	int rc;

	if (copy_from_user(&cmd, arg, sizeof(cmd)))
		return -EFAULT;
	dmabuf = ours(cmd.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	dma_resv_lock(dmabuf->resv, NULL);
	rc = move_locked(dmabuf, &cmd);
	dma_resv_unlock(dmabuf->resv);
	dma_buf_put(dmabuf);
	return rc;
}

static int bar_stat(struct fhbar_stat __user *arg)
{
	struct fhbar_stat cmd;
	struct dma_buf *dmabuf;
	struct buf *buf;

	if (copy_from_user(&cmd, arg, sizeof(cmd)))
		return -EFAULT;
	dmabuf = ours(cmd.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	buf = dmabuf->priv;
	dma_resv_lock(dmabuf->resv, NULL);
	cmd.out_attached = buf->attached;
	cmd.out_pinned = buf->pinned;
	cmd.out_mapped = buf->mapped;
	dma_resv_unlock(dmabuf->resv);
	dma_buf_put(dmabuf);
	return copy_to_user(arg, &cmd, sizeof(cmd)) ? -EFAULT : 0;
}

static long bar_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case FHBAR_EXPORT: return bar_export((void __user *)arg);
	case FHBAR_MOVE: return bar_move((void __user *)arg);
	case FHBAR_STAT: return bar_stat((void __user *)arg);
	}
	return -ENOTTY;
}

static const struct file_operations bar_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = bar_ioctl,
};

static struct miscdevice bar_dev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fhbar",
	.mode = 0600,
	.fops = &bar_fops,
};

/* One device; unbinding it by hand while buffers are there is the tester's own fault. */
static int bar_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int rc;

	if (bar_pdev)
		return -EBUSY;
	rc = pcim_enable_device(pdev);
	if (rc)
		return rc;
	bar_bytes = pci_resource_len(pdev, BAR);
	bar_mem = devm_ioremap_wc(&pdev->dev, pci_resource_start(pdev, BAR), bar_bytes);
	if (!bar_mem)
		return -ENOMEM;
	bar_pdev = pdev;
	rc = misc_register(&bar_dev);
	if (rc)
		bar_pdev = NULL;
	return rc;
}

static void bar_remove(struct pci_dev *pdev)
{
	misc_deregister(&bar_dev);
	bar_pdev = NULL;
}

static const struct pci_device_id bar_ids[] = {{PCI_DEVICE(0x1af4, 0x1110)}, {}};
MODULE_DEVICE_TABLE(pci, bar_ids);

static struct pci_driver bar_driver = {
	.name = "fhbar",
	.id_table = bar_ids,
	.probe = bar_probe,
	.remove = bar_remove,
};
module_pci_driver(bar_driver);

MODULE_DESCRIPTION("Freehold's tests: a PCI BAR as the memory of a GPU");
MODULE_AUTHOR("The Freehold project");
MODULE_LICENSE("GPL");
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS(DMA_BUF);
#else
MODULE_IMPORT_NS("DMA_BUF");
#endif
