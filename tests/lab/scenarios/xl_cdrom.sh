# A CD-ROM of ours in a guest: its files are read, nothing can be written.
# shows: Linux 6.1 blkfront: cdrom
# needs: ringfence
# set: all
# seconds: 120
ringfence_backend
image=$(disk_image cd.img 16)
mkdir -p /tmp/cd && head -c 300000 /dev/urandom >/tmp/cd/file && mkfs.ext4 -q -d /tmp/cd $image
sum=$(sha256sum </tmp/cd/file) before=$(sha256sum <$image)
mark
guest g1 "devtype=cdrom,$(disk $image xvda ro)"
back=$(xenstore-read /local/domain/$(xl domid g1)/device/vbd/51712/backend)
xenstore-ls $back
[ "$(xenstore-read $back/device-type)" = cdrom ] && [ $(( $(xenstore-read $back/info) & 5 )) = 5 ]
there=$(in_guest g1 40 'wait_disk xvda && modprobe ext4 && mount -t ext4 -o ro,noload /dev/xvda /mnt && sha256sum </mnt/file && umount /mnt')
[ "$there" = "$sum" ]
in_guest g1 20 '[ $(cat /sys/block/xvda/ro) = 1 ] && ! dd if=/dev/zero of=/dev/xvda bs=4k count=1 2>&1'
[ "$(sha256sum <$image)" = "$before" ]
guest_off g1
back_to_mark
