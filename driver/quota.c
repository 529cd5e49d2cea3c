// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who may have how much: channels and their memory by uid, and what the
 * runtime's regions hold together.
 *
 * A quota is there while its uid has channels: the first charge makes it, the
 * last uncharge frees it.  All under fh_dev.lock.  The memory itself is
 * charged to the caller's memory cgroup too, by GFP_KERNEL_ACCOUNT.
 */
#include <linux/cred.h>
#include <linux/hash.h>
#include <linux/slab.h>

#include "driver/fh.h"

static struct hlist_head *bucket(kuid_t uid)
{
	return &fh_dev.quotas[hash_32(__kuid_val(uid), ilog2(ARRAY_SIZE(fh_dev.quotas)))];
}

static struct fh_quota *find(kuid_t uid)
{
	struct fh_quota *quota;

	lockdep_assert_held(&fh_dev.lock);
	hlist_for_each_entry(quota, bucket(uid), node) {
		if (uid_eq(quota->uid, uid))
			return quota;
	}
	return NULL;
}

/**
 * fh_quota_charge() - one more channel
 * @uid: whose
 * @bytes: all its memory
 *
 * Return: what fh_quota_uncharge() needs, or ERR_PTR of -EDQUOT or -ENOMEM.
 */
struct fh_quota *fh_quota_charge(kuid_t uid, u64 bytes)
{
	u64 max = (u64)READ_ONCE(fh_chan_mib_max) << 20;
	struct fh_quota *fresh, *quota;

	fresh = kzalloc(sizeof(*fresh), GFP_KERNEL_ACCOUNT);
	if (!fresh)
		return ERR_PTR(-ENOMEM);
	fresh->uid = uid;

	spin_lock(&fh_dev.lock);
	quota = find(uid);
	if (!quota) {
		hlist_add_head(&fresh->node, bucket(uid));
		quota = fresh;
		fresh = NULL;
	}
	if (quota->nr_chans >= READ_ONCE(fh_chan_max) || bytes > max || quota->bytes > max - bytes) {
		if (!quota->nr_chans) {
			hlist_del(&quota->node);
			fresh = quota;
		}
		quota = ERR_PTR(-EDQUOT);
	} else {
		quota->nr_chans++;
		quota->bytes += bytes;
	}
	spin_unlock(&fh_dev.lock);
	kfree(fresh);
	return quota;
}

void fh_quota_uncharge(struct fh_quota *quota, u64 bytes)
{
	bool last;

	spin_lock(&fh_dev.lock);
	quota->bytes -= bytes;
	last = !--quota->nr_chans;
	if (last)
		hlist_del(&quota->node);
	spin_unlock(&fh_dev.lock);
	if (last)
		kfree(quota);
}

void fh_quota_read(kuid_t uid, u32 *nr_chans, u64 *bytes)
{
	struct fh_quota *quota;

	spin_lock(&fh_dev.lock);
	quota = find(uid);
	*nr_chans = quota ? quota->nr_chans : 0;
	*bytes = quota ? quota->bytes : 0;
	spin_unlock(&fh_dev.lock);
}

/* What regions hold: pages, pins, and above all other people's dma-bufs. */
int fh_mem_charge(u64 bytes)
{
	u64 max = (u64)READ_ONCE(fh_mem_mib_max) << 20;
	int rc = -EDQUOT;

	spin_lock(&fh_dev.lock);
	if (bytes <= max && fh_dev.mem_bytes <= max - bytes) {
		fh_dev.mem_bytes += bytes;
		rc = 0;
	}
	spin_unlock(&fh_dev.lock);
	return rc;
}

void fh_mem_uncharge(u64 bytes)
{
	spin_lock(&fh_dev.lock);
	fh_dev.mem_bytes -= bytes;
	spin_unlock(&fh_dev.lock);
}
