# What the guest kernel of images/guest takes. The clock counts instructions, so a nanosecond is one: see cost_ringfence.sh.
# set: all
# boot: cost
# seconds: 500
# cpus: 1
# thread: single
# qemu: -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm
# xen: dom0_max_vcpus=1
# shows: Linux 6.1 blkback: our guest kernel, size, memory and instructions
# needs: guest-image
linux_blkback
image_disks
# part NTH FIELD: of the NTH program header; 32 is its size in the file, 40 in memory
part() { echo $(od -A n -t u8 -j $((64 + 56 * $1 + $2)) -N 8 /lab/guest-image); }
figure "guest kernel (blkfront, ext4): code and constants, bytes: $(part 0 32)"
figure "guest kernel (blkfront, ext4): data, bytes: $(part 1 32)"
figure "guest kernel (blkfront, ext4): data and stack in memory, bytes: $(part 1 40)"
# first_sector NAME: how long it ran
first_sector() { guest_log $1 | sed -n 's/.*first sector was read after \([0-9]*\) ns.*/\1/p' | head -1; }
for type in pv pvh; do
  memory=64 image_guest $type "$(disk $files xvda ro)"
  image_passes $type 51712
  figure "guest kernel, $type with 64 MiB: instructions from its entry to its first sector, with those of Xen for it: $(first_sector $type)"
done
type=pv
for memory in 2 3 4 5 6 8 10 12 16; do
  image_guest small$memory "$(disk $files xvda ro)" "$(disk $scratch xvdb)" || continue
  until_true 60 gone small$memory
  guest_log small$memory
  ! guest_log small$memory | grep -q 'PASS all' || break
done
guest_log small$memory | grep -q 'PASS all'
figure "guest kernel, pv: memory with which it reads and writes its disks, MiB: $memory"
