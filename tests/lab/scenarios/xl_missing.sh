# What goes wrong with a disk of ours is what xl prints.
# shows: xl 4.17: says why a disk cannot be attached
# needs: ringfence
# set: all
# seconds: 150
guest_config g1 "$(disk /images/nothing.img xvda)" >/tmp/g1.cfg
fails xl create -q /tmp/g1.cfg >/tmp/xl.out 2>&1
cat /tmp/xl.out
until_true 20 only_dom0
ringfence_backend
fails xl create -q /tmp/g1.cfg >/tmp/xl.out 2>&1
cat /tmp/xl.out
grep -q 'nothing.img' /tmp/xl.out
until_true 20 only_dom0
