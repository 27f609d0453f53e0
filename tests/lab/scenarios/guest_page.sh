# Section 3 of docs/your-kernel.md, word by word, with the kernel that sections 1 and 2 made.
# shows: Linux 6.1 blkback: the kernel of docs/your-kernel.md reads its disk
# needs: your-kernel
# seconds: 60
linux_blkback
image=$(disk_image disk.img 1)
printf 0123456789abcdef | dd of=$image conv=notrunc
mkdir -p /tmp/kernel/target/release && cd /tmp/kernel
cp /lab/your-kernel target/release/kernel
sed -n '/^## 3/,/^## What/p' /lab/your-kernel.md | sed -n '/^```console/,/^```$/p' |
  sed "/^\`\`\`/d; s,/absolute/path/of/disk.img,$image," >run
sh -e ./run </dev/null
until_true 20 gone kernel
guest_log kernel
guest_log kernel | grep -q 'xvda begins with \[30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 61, 62, 63, 64, 65, 66\]'
cd / && rm -r /tmp/kernel
