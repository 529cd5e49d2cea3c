# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# What the first process of a guest mounts over the host's root, which it has
# read-only: read by the other files here with `.`.  A tree that lies in /tmp
# stays where it is.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mkdir -p /dev/shm
mount -t tmpfs tmp /dev/shm
mount -t tmpfs tmp /run
tree=${0%/tests/vm/*}
mkdir /run/tree
mount --bind "$tree" /run/tree
mount -t tmpfs tmp /tmp
case $tree in
/tmp/*) mkdir -p "$tree" && mount --bind /run/tree "$tree" ;;
esac
umount /run/tree
rmdir /run/tree
