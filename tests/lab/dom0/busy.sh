# A disk that is detached, and a guest that is destroyed, with requests in flight. For whichever backend was started.
a=$(disk_image a.img 32) b=$(disk_image b.img 32) c=$(disk_image c.img 32)
mark
guest g1 "$(disk $a xvda)" "$(disk $b xvdb)"
id=$(xl domid g1)
in_guest g1 20 'wait_disk xvda && wait_disk xvdb'
busy='while [ -b $disk ] && dd if=/dev/urandom of=$disk bs=256k count=64 oflag=direct; do :; done >/dev/null 2>&1'
in_guest g1 10 "(disk=/dev/xvdb; $busy) & sleep 2"
xl block-detach g1 xvdb
in_guest g1 60 'no_disk xvdb'
until_true 20 no_node /local/domain/0/backend/vbd/$id/51728
# The writer may wait for ever: Linux's blkfront stops its queue with requests in it, whoever is the backend, and keeps the
# name of the disk then. Neither the other disk nor a new one notices.
in_guest g1 30 'random_data xvda 2'
same_data $a 2 g1 xvda
xl block-attach g1 "$(disk $c xvdc)"
in_guest g1 30 'wait_disk xvdc && random_data xvdc 2'
same_data $c 2 g1 xvdc
start_in g1 "(disk=/dev/xvda; $busy) & (disk=/dev/xvdc; $busy)"
sleep 2
xl destroy g1
until_true 20 only_dom0
back_to_mark
