# A guest kernel of ours with many disks, each of which has a backend that lies to it in another way, and with one whose backend
# is honest. It says of each what is wrong with it, reads the honest one's files, and ends in order.
# shows: Hostile backend: rings, answers and nodes of our guest kernel's disks
# needs: ringfence, guest-image
# seconds: 200
linux_blkback
image_disks
cat >/tmp/lied.cfg <<C
name="lied"
type="pv"
memory=32
kernel="/lab/guest-image"
extra="patience=2"
on_crash="destroy"
disk=['$(disk $files xvda ro)']
C
xl create -q -p /tmp/lied.cfg
lab-peer lies $(xl domid lied) >/run/lies &
liar=$!
until_true 20 grep -q '^ready' /run/lies
xl unpause lied
until_true 150 gone lied
guest_log lied
guest_log lied | grep -q '^INFO: PASS disk 51712: read 4 files'
fails grep -q panicked $console/guest-lied.log
lies=0
while read disk lie told; do
  [ $disk != ready ] || break
  guest_log lied | grep "^ERROR: FAIL disk $disk: " | grep -q "$told" || fail "$lie: disk $disk does not say $told"
  lies=$((lies + 1))
done </run/lies
guest_log lied | grep -q "^ERROR: FAIL $lies disks"
[ $(guest_log lied | grep -c '^ERROR: FAIL disk') = $lies ]
wait $liar
