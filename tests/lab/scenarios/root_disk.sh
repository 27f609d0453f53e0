# A guest whose root file system is on a disk of ours: it boots from it, writes to it, and finds it after a second boot.
# shows: Linux 6.1 blkfront: root disk
# needs: ringfence
# set: all
# seconds: 200
ringfence_backend
image=$(disk_image root.img 160)
mkdir -p /images/tree
(cd /images/tree && cpio -i -d <../../lab/guest.cpio 2>/dev/null)
mkfs.ext4 -q -F -d /images/tree $image
rm -rf /images/tree
extra=root=xvda guest g1 "$(disk $image xvda)"
in_guest g1 20 'grep " / ext4 " /proc/mounts && [ ! -e /kept ] && echo "kept from the first boot" >/kept && sync'
in_guest g1 60 'fio_verify /file 8 && rm /file'
guest_off g1
extra=root=xvda guest g2 "$(disk $image xvda)"
in_guest g2 20 'grep " / ext4 " /proc/mounts && grep "first boot" /kept'
guest_off g2
fsck.ext4 -f -n $image
