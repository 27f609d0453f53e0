# The backend's process is killed fifty times while a guest writes at random and verifies: no error, every byte as it was.
# shows: Linux 6.1 blkfront: backend killed 50 times under fio verify
# needs: ringfence
# set: all
# seconds: 400
served_by() { sed -n 's/.*"ready".*"pid":\([0-9]*\).*/\1/p' /run/ringfence.log | tail -1; }
another_than() { [ "$(served_by)" != "$1" ]; }
ringfence_backend
image=$(disk_image a.img 32)
mark
guest g1 "$(disk $image xvda)"
id=$(xl domid g1)
in_guest g1 20 'wait_disk xvda'
in_guest g1 10 '(while [ ! -e /tmp/enough ]; do fio_verify /dev/xvda 16 || { echo badly >/tmp/went; exit; }; echo round; done; echo well >/tmp/went) >/tmp/rounds 2>&1 &'
for round in $(seq 50); do
  process=$(served_by)
  kill -KILL $process
  until_true 30 another_than $process
  case $round in *[05]) sleep 1 ;; *) usleep ${round}0000 ;; esac
done
[ "$(xenstore-read /local/domain/0/backend/vbd/$id/51712/state)" = 4 ]
in_guest g1 120 'touch /tmp/enough; until [ -e /tmp/went ]; do usleep 100000; done; cat /tmp/rounds; grep well /tmp/went && ! dmesg | grep -i "I/O error\|wrong operation\|for further use"'
in_guest g1 30 'random_data xvda 4'
same_data $image 4 g1 xvda
guest_off g1
back_to_mark
