# A frontend in user space of a guest attacks our backend in dom0; another guest's disk, and that of a Linux guest, go on.
# shows: Hostile frontend: rings, grants, ports and nodes of our backend in dom0
# needs: ringfence
# seconds: 240
ringfence_backend
linux=$(disk_image linux.img 32)
guest_config linux "$(disk $linux xvda)" >/tmp/linux.cfg
for name in attacker bystander; do
  image=$(disk_image $name.img 8)
  extra=noblkfront guest_config $name "$(disk $image xvda)" >/tmp/$name.cfg
done
for name in linux attacker bystander; do xl create -q /tmp/$name.cfg; done
guest_ready linux 60
work=$(start_in linux 'for n in 1 2 3; do fio_verify /dev/xvda 16 --offset=1M || exit 1; done; random_data xvda 1')
for name in attacker bystander; do
  guest_ready $name 60
  start_in $name 'modprobe xen-gntdev; modprobe xen-gntalloc; exec lab-peer agent' >/dev/null
done
lab-peer block $(xl domid attacker) $(xl domid bystander)
kill -0 $backend
wait_in linux $work 120
same_data $linux 1 linux xvda
# What failed is working again, and nothing says otherwise; the empty directories of messages stay, as Linux's do.
[ -z "$(xenstore-ls -f /local/domain/0/error | grep '/error = ')" ]
xenstore-rm /local/domain/0/error
