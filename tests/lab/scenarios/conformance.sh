# The numbered contracts of the platforms between three domains: grants, event channels, the store, the death of
# processes and domains. First what a backend in dom0 relies on, then all of them between three guests.
# shows: Xen 4.17: the platforms' contracts between three Linux domains
# needs: ringfence
# set: ci
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
only=
for contract in G2 G3 G4 G5 G6 G7 G9 G10 E1 E2 E4 E5 D1 D2 D3; do only="$only --only $contract"; done
lab-peer conformance $1 0 $3 $only
lab-peer conformance $1 $2 $3
# Of dom0's agent.
xenstore-rm /local/domain/0/data
