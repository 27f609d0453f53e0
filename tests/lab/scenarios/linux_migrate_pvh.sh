# The same with Linux's own backend: a PVH guest is migrated to the same machine while it verifies a disk.
# shows: Linux 6.1 blkback with Linux 6.1 blkfront: migration to localhost under load, PVH guest
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 300
linux_blkback
by=migrate_here
. /lab/taken_along.sh
