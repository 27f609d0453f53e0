# The process that serves is killed while a guest writes, again and again, then its supervisor, and at last both end in order:
# the states stay as they are, another process goes on with ring and port, and the guest, which is told nothing, has its data.
# shows: Linux 6.1 blkfront: goes on when the backend's process is killed and started again
# shows: Linux 6.1 blkfront: goes on when the backend is stopped and started again
# needs: ringfence
# seconds: 240
ended() { ! [ -e /proc/$1/exe ]; }
connected() { has_state $be 4 && has_state /local/domain/$id/device/vbd/51712 4; }
# The guest writes and reads back, until it is told that it is enough; then it says whether all went well.
write() {
  in_guest g1 30 'rm -f /tmp/enough /tmp/went; (once() { dd if=/dev/urandom of=/tmp/a bs=1M count=2 2>/dev/null && dd if=/tmp/a of=/dev/xvda bs=64k oflag=direct conv=fsync 2>/dev/null && [ "$(sha256sum </tmp/a)" = "$(checksum xvda 2)" ]; }; went=well; while [ ! -e /tmp/enough ]; do once || { went=badly; break; }; done; echo $went >/tmp/went) & usleep 500000'
}
enough() { in_guest g1 60 'touch /tmp/enough; until [ -e /tmp/went ]; do usleep 100000; done; grep well /tmp/went'; }

ringfence_backend
image=$(disk_image a.img 16)
mark
guest g1 "$(disk $image xvda)"
id=$(xl domid g1); be=/local/domain/0/backend/vbd/$id/51712
in_guest g1 20 'wait_disk xvda'
write
for round in 1 2 3; do
  kill_serving
  connected
done
enough
same_data $image 2 g1 xvda

# The supervisor dies. Its process ends in order, and keeps the next supervisor away until then.
write
process=$(served_by)
kill -KILL $backend
until_true 20 ended $process
connected
ringfence_backend
enough
same_data $image 2 g1 xvda

write
kill -TERM $backend
wait $backend
grep -q '"served"' /run/ringfence.log
connected
ringfence_backend
enough
same_data $image 2 g1 xvda
guest_off g1
back_to_mark
