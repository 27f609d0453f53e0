# Our guest kernel, of this type and with these arguments, is saved and restored twice while it writes and verifies a disk.
image_guest saved "$(disk $scratch xvdb)"
for time in 1 2; do
  wait_log saved "disk 51728: round ${time}2" 60
  xl save saved /images/saved
  until_true 20 only_dom0
  xl restore /images/saved
  wait_log saved "goes on as domain $(xl domid saved)" 30
  rm /images/saved
done
image_passes saved 51728
# Requests were under way each time.
[ $(guest_log saved | grep -c 'with [1-9][0-9]* requests in flight, goes on') = 2 ]
back_to_mark
