# A PVH guest is saved to a file and restored while it verifies a disk of ours.
# shows: Linux 6.1 blkfront: save and restore under load, PVH guest
# needs: ringfence
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 240
ringfence_backend
by=save_here
. /lab/taken_along.sh
