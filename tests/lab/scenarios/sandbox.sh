# The process that serves reaches nothing but what it was given, and none serves where the kernel's own backend does.
# shows: Xen 4.17: the sandbox of a backend's process, tried from inside
# shows: Xen 4.17: refuses to serve beside the kernel's xen-blkback, or twice
# needs: ringfence
# seconds: 60
linux_blkback
fails ringfence driver-domain --platform xen 2>/tmp/refused
cat /tmp/refused
grep -q 'modprobe -r xen-blkback' /tmp/refused
rmmod xen-blkback
ringfence driver-domain --platform xen --probe-sandbox >/tmp/probe
cat /tmp/probe
[ "$(grep -c ' denied' /tmp/probe)" -ge 14 ]
fails grep REACHED /tmp/probe
# The control: what is denied is there.
fails ringfence driver-domain --platform xen --sandbox off --probe-sandbox >/tmp/probe
[ "$(grep -c ' REACHED' /tmp/probe)" -ge 10 ]
grep -q 'open /dev/xen/privcmd .*REACHED' /tmp/probe
ringfence_backend
fails ringfence driver-domain --platform xen 2>/tmp/refused
grep -q "locked by process $backend" /tmp/refused
