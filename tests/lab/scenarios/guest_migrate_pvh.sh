# A guest kernel of ours is migrated to the same machine in the middle of its load, as a PVH guest: PV guests cannot be, here.
# With a backend of ours the image would be locked: both domains have it for a moment.
# shows: Linux 6.1 blkback: our guest kernel, PVH, migrated to localhost under load
# needs: guest-image
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 300
linux_blkback
image_disks
mark
type=pvh memory=64 extra=rounds=100000 image_guest moved "$(disk $scratch xvdb)"
wait_log moved "disk 51728: round 5" 60
migrate_here moved
wait_log moved "with [1-9][0-9]* requests in flight, goes on as domain $(xl domid moved)" 60
# Each round is one that was read back right. There may be none yet where it arrived.
rounds() { guest_log moved | grep -c 'disk 51728: round' || true; }
before=$(rounds)
went_on() { [ $(rounds) -gt $((before + 3)) ]; }
until_true 60 went_on
xl shutdown moved
until_true 30 gone moved
fails grep -q FAIL $console/guest-moved.log
back_to_mark
