# A PVH guest starts another kernel (kexec) while disks of ours are connected, with data just written. Linux asks Xen for a soft reset
# of the domain then, and xl 4.17 says that it makes one, but destroys the guest: the new kernel never runs, whoever serves the
# disks. What can be shown is that the backend lets go of everything, and that what was written is there.
# shows: Linux 6.1 blkfront: kexec of the guest, which xl 4.17 destroys
# needs: ringfence, grub
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 240
ringfence_backend
image=$(disk_image a.img 32) kernels=$(disk_image kernels.img 192)
mkfs.ext4 -q $kernels && mkdir -p /tmp/k && mount -t ext4 -o loop $kernels /tmp/k && cp /lab/vmlinuz /lab/guest.cpio /tmp/k && umount /tmp/k
mark
type=pvh memory=768 guest g1 "$(disk $image xvda)" "$(disk $kernels xvdb)"
id=$(xl domid g1)
in_guest g1 30 'wait_disk xvda && wait_disk xvdb && random_data xvda 4'
written=$(in_guest g1 30 'checksum xvda 4')
in_guest g1 120 'fs_mount xvdb && kexec -s -l /mnt/vmlinuz --initrd=/mnt/guest.cpio --command-line="$(cat /proc/cmdline)" && umount /mnt'
start_in g1 'kexec -e'
until_true 90 grep -q 'Action for shutdown reason code 5 is soft-reset' /var/log/xen/xl-g1.log
until_true 60 gone $id
back_to_mark
[ "$(dd if=$image bs=1M count=4 2>/dev/null | sha256sum)" = "$written" ]
