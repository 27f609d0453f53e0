# Another file takes the program's place while a guest writes at random and verifies: first the service is told to go on with it
# (SIGHUP, which keeps its process number), then it is ended and started anew. A file that does not know the journals is refused
# while everything goes on. The guest is told nothing.
# shows: Linux 6.1 blkfront: new version of the backend under fio verify
# needs: ringfence
# set: all
# seconds: 300
processes() { grep -c '"ready"' /run/ringfence.log; }
more_than() { [ $(processes) -gt $1 ]; }
connected() { has_state $be 4 && has_state /local/domain/$id/device/vbd/51712 4; }
# place: puts another file with the same content at /tmp/new/ringfence, as a package manager does
place() { cp /usr/bin/ringfence /tmp/new/next && mv /tmp/new/next /tmp/new/ringfence; }
# is_new PROCESS: runs the file that is there now
is_new() { [ /proc/$1/exe -ef /tmp/new/ringfence ]; }

mkdir -p /tmp/new
place
PATH=/tmp/new:$PATH
ringfence_backend
is_new $backend
image=$(disk_image a.img 32)
mark
guest g1 "$(disk $image xvda)"
id=$(xl domid g1) be=/local/domain/0/backend/vbd/$(xl domid g1)/51712
in_guest g1 20 'wait_disk xvda'
in_guest g1 10 'verify_on xvda 16'
for round in 1 2 3; do
  place
  fails is_new $backend
  kill -HUP $backend
  until_true 30 more_than $round
  is_new $backend
  is_new $(served_by)
  connected
  usleep ${round}50000
done

# Something that knows nothing of journals: said so, and nothing is ended.
process=$(served_by)
printf '#!/bin/sh\nexit 1\n' >/tmp/new/next && chmod +x /tmp/new/next && mv /tmp/new/next /tmp/new/ringfence
kill -HUP $backend
until_true 20 grep -q 'upgrade refused' /run/ringfence.log
[ "$(served_by)" = $process ]
[ -e /proc/$process/exe ]
connected

# A journal of a version to come: whoever does not know it does not begin.
place
kill -TERM $backend
wait $backend
connected
journal=/run/ringfence/journal/vbd-$id-51712.journal
cp $journal /tmp/journal
printf '\377' | dd of=$journal bs=1 seek=8 conv=notrunc 2>/dev/null
fails ringfence driver-domain --platform xen
connected
dd if=/tmp/journal of=$journal conv=notrunc 2>/dev/null

# And what SIGTERM left is gone on with by a new file.
ringfence_backend
is_new $backend
in_guest g1 120 'verified xvda && no_complaints'
in_guest g1 30 'random_data xvda 4'
same_data $image 4 g1 xvda
guest_off g1
back_to_mark
