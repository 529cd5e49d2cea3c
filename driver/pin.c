// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pinning what a process already has: memory at an address, or a sealed memfd.
 *
 * Always:
 *   - A pinned page is charged once, to the user (locked_vm, under
 *     RLIMIT_MEMLOCK unless CAP_IPC_LOCK) and to the mm (pinned_vm); a compound
 *     page counts whole, once in a row, as pinning one base page of it keeps
 *     all of it.  Both are uncharged from what was saved, not from `current`.
 *   - No lock of ours is held while pages are pinned: that takes mmap_lock.
 *   - Pages leave by unpin_user_page(), dirty if the pin could write.
 *
 * A memfd is pinned through a mapping that exists only for the call; each page
 * is then checked to belong to the file, so that another thread which replaces
 * that mapping in between gains nothing.
 */
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/hugetlb.h>
#include <linux/magic.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>
#include <linux/shmem_fs.h>

#include "driver/fh.h"

/* Base pages that the pins keep in memory. */
static unsigned long count_charge(struct page **pages, unsigned long nr)
{
	struct page *last = NULL;
	unsigned long i, sum = 0;

	for (i = 0; i < nr; i++) {
		struct page *head = compound_head(pages[i]);

		if (head == last)
			continue;
		last = head;
		sum += compound_nr(head);
	}
	return sum;
}

static int charge(struct fh_mem *mem, unsigned long nr)
{
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	unsigned long now;

	mem->user = get_uid(current_user());
	now = atomic_long_add_return(nr, &mem->user->locked_vm);
	if (now > limit && !capable(CAP_IPC_LOCK)) {
		atomic_long_sub(nr, &mem->user->locked_vm);
		free_uid(mem->user);
		mem->user = NULL;
		return -ENOMEM;
	}
	mmgrab(current->mm);
	mem->mm = current->mm;
	atomic64_add(nr, &mem->mm->pinned_vm);
	mem->charged_pages = nr;
	return 0;
}

static void uncharge(struct fh_mem *mem)
{
	if (!mem->user)
		return;
	atomic64_sub(mem->charged_pages, &mem->mm->pinned_vm);
	atomic_long_sub(mem->charged_pages, &mem->user->locked_vm);
	mmdrop(mem->mm);
	free_uid(mem->user);
	mem->user = NULL;
}

static void unpin(struct page **pages, unsigned long nr, bool dirty)
{
	unpin_user_pages_dirty_lock(pages, nr, dirty);
	kvfree(pages);
}

/* All pages or none; the first try is charged before it, so that a small limit is met before memory is. */
static int pin_range(struct fh_mem *mem, unsigned long addr, bool write)
{
	unsigned int flags = FOLL_LONGTERM | (write ? FOLL_WRITE : 0);
	unsigned long nr = mem->nr_pages, done = 0;
	struct page **pages;
	int rc;

	if (nr > rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT && !capable(CAP_IPC_LOCK))
		return -ENOMEM;
	pages = kvcalloc(nr, sizeof(*pages), GFP_KERNEL_ACCOUNT);
	if (!pages)
		return -ENOMEM;
	while (done < nr) {
		int want = min_t(unsigned long, nr - done, 1024);
		int got = pin_user_pages_fast(addr + (done << PAGE_SHIFT), want, flags, pages + done);

		if (got <= 0) {
			rc = got ?: -EFAULT;
			goto err_pages;
		}
		done += got;
		if (fatal_signal_pending(current)) {
			rc = -EINTR;
			goto err_pages;
		}
		cond_resched();
	}
	rc = charge(mem, count_charge(pages, nr));
	if (rc)
		goto err_pages;
	mem->pages = pages;
	return 0;

err_pages:
	unpin(pages, done, false);
	return rc;
}

void fh_unpin(struct fh_mem *mem)
{
	if (!mem->pages)
		return;
	unpin(mem->pages, mem->nr_pages, !(mem->flags & FH_MEM_READONLY));
	mem->pages = NULL;
	uncharge(mem);
}

int fh_pin_user(struct fh_mem *mem, u64 addr)
{
	if (addr != untagged_addr((unsigned long)addr) || !access_ok((void __user *)(unsigned long)addr, mem->length))
		return -EFAULT;
	return pin_range(mem, addr, !(mem->flags & FH_MEM_READONLY));
}

/* Its seals; -EOPNOTSUPP for a file that has none because it is no memfd. */
static int memfd_seals(struct file *file)
{
	struct inode *inode = file_inode(file);

	/* A device node may lie in a tmpfs too. */
	if (!S_ISREG(inode->i_mode))
		return -EOPNOTSUPP;
	switch (inode->i_sb->s_magic) {
	case TMPFS_MAGIC:
		return READ_ONCE(SHMEM_I(inode)->seals);
#ifdef CONFIG_HUGETLBFS
	case HUGETLBFS_MAGIC:
		return READ_ONCE(HUGETLBFS_I(inode)->seals);
#endif
	default:
		return -EOPNOTSUPP;
	}
}

static bool pages_of(struct fh_mem *mem, struct file *file)
{
	unsigned long i;

	for (i = 0; i < mem->nr_pages; i++) {
		if (page_folio(mem->pages[i])->mapping != file->f_mapping)
			return false;
	}
	return true;
}

int fh_pin_memfd(struct fh_mem *mem, int fd, u64 off)
{
	bool write = !(mem->flags & FH_MEM_READONLY);
	struct file *file = fget(fd);
	unsigned long addr;
	int seals, rc;

	if (!file)
		return -EBADF;
	rc = memfd_seals(file);
	if (rc < 0)
		goto out_file;
	seals = rc;
	/* Sealed against shrinking, or its owner could take the pages out from under their users. */
	rc = -EINVAL;
	if (!(seals & F_SEAL_SHRINK) || off + mem->length > i_size_read(file_inode(file)))
		goto out_file;
	rc = -EACCES;
	if (!(file->f_mode & FMODE_READ) || (write && !(file->f_mode & FMODE_WRITE)))
		goto out_file;
	rc = -EPERM;
	if (write && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)))
		goto out_file;

	addr = vm_mmap(file, 0, mem->length, PROT_READ | (write ? PROT_WRITE : 0), MAP_SHARED, off);
	rc = IS_ERR_VALUE(addr) ? (int)addr : 0;
	if (rc)
		goto out_file;
	rc = pin_range(mem, addr, write);
	vm_munmap(addr, mem->length);
	if (!rc && !pages_of(mem, file)) {
		fh_unpin(mem);
		rc = -EAGAIN;
	}
out_file:
	fput(file);
	return rc;
}
