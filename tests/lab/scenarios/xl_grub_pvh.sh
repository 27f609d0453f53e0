# GRUB as PVH guest, of 32 bits: `x86_32-abi`.
# shows: GRUB 2.06 (Debian's grub-xen-host): boots Linux from our disk and writes grubenv, PVH of 32 bits
# needs: ringfence, grub
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 240
type=pvh memory=384
. /lab/grub.sh
