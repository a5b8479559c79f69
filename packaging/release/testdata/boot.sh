#!/bin/bash
# Boots this machine's systemd, with nothing but its basic units, on a copy of the
# root file system that goes when it ends. $1 is an empty directory. Run it in
# namespaces of its own: mount, pid, net, uts, ipc, cgroup.
set -eu
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
for d in run tmp dev; do mount -t tmpfs tmpfs $d; done
for d in null zero full random urandom tty; do
  touch dev/$d
  mount --bind /dev/$d dev/$d
done
mkdir -p dev/pts dev/shm run/lock
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 sys/fs/cgroup
else
  mount -t tmpfs tmpfs sys/fs/cgroup
  mkdir sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
  mkdir sys/fs/cgroup/devices # dockerd does not start without
  mount -t cgroup -o devices cgroup sys/fs/cgroup/devices
fi
ip link set lo up
# Not what happens to be installed here.
rm -rf etc/systemd/system/multi-user.target.wants var/lib/kubelet etc/samara var/lib/samara var/lib/private/samara var/lib/docker etc/docker
mkdir -p var/lib/docker
mount -t tmpfs tmpfs var/lib/docker # there is no overlay on an overlay
mkdir .old
pivot_root . .old
umount -l /.old
rmdir /.old
mount --make-rshared / # systemd counts on it: credentials come to a unit as a mount
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=journal
