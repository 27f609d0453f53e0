# The same with Linux's own backend: A PVH guest is saved to a file and restored while it verifies a disk.
# shows: Linux 6.1 blkback with Linux 6.1 blkfront: save and restore under load, PVH guest
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 240
linux_blkback
by=save_here
. /lab/taken_along.sh
