# A disk that is detached, and a guest that is destroyed, with requests in flight.
# shows: Linux 6.1 blkfront: detach while busy
# shows: Linux 6.1 blkfront: guest destroyed while busy
# needs: ringfence
# set: all
# seconds: 200
ringfence_backend
a=$(disk_image a.img 32) b=$(disk_image b.img 32)
mark
guest g1 "$(disk $a xvda)" "$(disk $b xvdb)"
in_guest g1 20 'wait_disk xvda && wait_disk xvdb'
busy='while [ -b $disk ] && dd if=/dev/urandom of=$disk bs=256k count=64 oflag=direct; do :; done >/dev/null 2>&1'
in_guest g1 10 "(disk=/dev/xvdb; $busy; echo ended >/tmp/ended) & sleep 2"
xl block-detach g1 xvdb
in_guest g1 60 'no_disk xvdb'
in_guest g1 60 'n=0; while [ ! -e /tmp/ended ] && [ $n -lt 300 ]; do n=$((n+1)); usleep 100000; done
  [ -e /tmp/ended ] || { ps -o pid,stat,args | grep "[d]d if"; cat /proc/$(pidof dd)/stack; false; }'
# The other disk never noticed.
in_guest g1 30 'random_data xvda 2'
same_data $a 2 g1 xvda
xl block-attach g1 "$(disk $b xvdb)"
in_guest g1 30 'wait_disk xvdb && random_data xvdb 2'
same_data $b 2 g1 xvdb
start_in g1 "(disk=/dev/xvda; $busy) & (disk=/dev/xvdb; $busy)"
sleep 2
xl destroy g1
until_true 20 only_dom0
back_to_mark
# Nobody else has to suffer for it.
guest g2 "$(disk $a xvda)"
in_guest g2 30 'random_data xvda 2'
guest_off g2
back_to_mark
