# Sixteen disks of ours in one guest, all busy at once, each with its own data, served by three threads.
# shows: Linux 6.1 blkfront: 16 disks at once
# needs: ringfence
# set: all
# seconds: 180
ringfence_backend --threads=3
disks=
for letter in a b c d e f g h i j k l m n o p; do
  disks="$disks $(disk $(disk_image $letter.img 8) xvd$letter)"
done
mark
guest g1 $disks
in_guest g1 120 'for disk in /dev/xvd?; do { random_data ${disk#/dev/} 4 || echo "failed $disk"; } & done; wait; [ $(ls /dev/xvd? | wc -l) = 16 ]'
for letter in a b c d e f g h i j k l m n o p; do
  same_data /images/$letter.img 4 g1 xvd$letter
done
[ $(for letter in a b c d e f g h i j k l m n o p; do dd if=/images/$letter.img bs=1M count=4 2>/dev/null | sha256sum; done | sort -u | wc -l) = 16 ]
guest_off g1
back_to_mark
