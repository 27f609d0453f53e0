# A PVH guest is migrated to the same machine while it verifies a disk of ours, which both domains have for a moment.
# shows: Linux 6.1 blkfront: migration to localhost under load, PVH guest
# needs: ringfence
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 300
export RUST_LOG=info
ringfence_backend
by=migrate_here
. /lab/taken_along.sh
grep 'another domain of the same machine' /run/ringfence.log
