# A PV guest is saved to a file and restored while it verifies a disk of ours.
# shows: Linux 6.1 blkfront: save and restore under load, PV guest
# needs: ringfence
# seconds: 240
ringfence_backend
by=save_here type=pv vcpus=2 mib=16 loops=4
. /lab/taken_along.sh
