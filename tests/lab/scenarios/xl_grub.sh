# GRUB as PV guest, of 64 bits.
# shows: GRUB 2.06 (Debian's grub-xen-host): boots Linux from our disk and writes grubenv, PV
# needs: ringfence, grub
# set: all
# seconds: 240
type=pv memory=384
. /lab/grub.sh
