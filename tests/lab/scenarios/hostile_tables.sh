# A domain attacks the grant tables and event channels of another: pages given up while they are mapped, neighbours of
# pages, references, domains and ports that are none; between guests, and between a guest and dom0.
# shows: Hostile domain: grants and event channels of our platform
# needs: ringfence
# set: all
# seconds: 240
for name in a b c; do
  extra=noblkfront guest_config $name >/tmp/$name.cfg
  xl create -q /tmp/$name.cfg
done
modprobe xen-gntdev; modprobe xen-gntalloc
lab-peer agent &
peers=
for name in a b c; do
  guest_ready $name 60
  start_in $name 'modprobe xen-gntdev; modprobe xen-gntalloc; exec lab-peer agent' >/dev/null
  peers="$peers $(xl domid $name)"
done
set -- $peers
# dom0 as the peer of a guest, and a guest as the peer of dom0.
lab-peer tables $1 0 $3 --keep
lab-peer tables 0 $2 $3 --keep
lab-peer tables $1 $2 $3
# Of dom0's agent.
xenstore-rm /local/domain/0/data
