# GRUB is the guest's kernel, and by its own driver reads from a disk of ours what it boots, and writes there that it did. What it
# boots is Linux, which finds the same disk.
ringfence_backend
image=$(disk_image boot.img 96)
mkdir -p /tmp/boot/boot/grub
cp /lab/vmlinuz /lab/guest.cpio /tmp/boot
{ echo '# GRUB Environment Block'; head -c 999 /dev/zero | tr '\0' '#'; } >/tmp/boot/boot/grub/grubenv
cat >/tmp/boot/boot/grub/grub.cfg <<C
set timeout=0
set written=by-grub
save_env -f /boot/grub/grubenv written
linux /vmlinuz console=hvc0 quiet loglevel=4 panic=1
initrd /guest.cpio
boot
C
mkfs.ext4 -q -d /tmp/boot $image
mark
guest_config g1 "$(disk $image xvda)" | sed "/^ramdisk=/d; /^extra=/d; s|^kernel=.*|kernel=\"/lab/grub-$type\"|" >/tmp/g1.cfg
xl create -q /tmp/g1.cfg
guest_ready g1 150
in_guest g1 30 'fs_mount xvda && grep written=by-grub /mnt/boot/grub/grubenv'
here=$(sha256sum </lab/guest.cpio)
there=$(in_guest g1 30 'sha256sum </mnt/guest.cpio')
[ "$here" = "$there" ]
in_guest g1 30 'umount /mnt && fs_check xvda && random_data xvda 2'
same_data $image 2 g1 xvda
guest_off g1
back_to_mark
