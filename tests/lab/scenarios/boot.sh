# What the machine is: versions, the nodes of /dev/xen, the store, no guest.
# shows: Xen 4.17: boots, with a Linux dom0
# seconds: 30
xl info | grep -E '^(xen_version|release|virt_caps|nr_cpus|total_memory)'
xl info | grep -q '^xen_version *: 4\.17'
for node in evtchn gntdev gntalloc privcmd hypercall xenbus xenbus_backend; do
  [ -c /dev/xen/$node ]
done
[ -e /proc/xen/xsd_kva ]
[ "$(xenstore-read domid)" = 0 ]
[ "$(count_ports 0)" -gt 0 ]
[ "$(count_grants)" = 0 ]
only_dom0
