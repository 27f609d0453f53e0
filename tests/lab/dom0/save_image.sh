# Our guest kernel, of this type and with these arguments, is saved and restored twice while it writes and verifies a disk;
# with times=3 a copy is saved before.
image_guest saved "$(disk $scratch xvdb)"
if [ "${times:-2}" = 3 ]; then
  # A copy of it is saved, and it goes on as the domain that it is.
  wait_log saved "disk 51728: round 2" 60
  xl save -c saved /images/saved
  rm /images/saved
  wait_log saved "saved as domain $(xl domid saved) .* goes on as domain $(xl domid saved)" 30
fi
for time in 1 2; do
  wait_log saved "disk 51728: round ${time}2" 60
  save_here saved
  wait_log saved "goes on as domain $(xl domid saved)" 30
done
image_passes saved 51728
# Requests were under way each time.
[ $(guest_log saved | grep -c 'with [1-9][0-9]* requests in flight, goes on') = ${times:-2} ]
back_to_mark
