# script.sh NUMBER: what a store is asked, in dom0 and in the guest `g` with that number, and what it answers, as a transcript.
# It is the same for every correct store. Not asked is where ours is not to be like Debian's xenstored 4.17:
# - The order of children is nobody's promise (there the order of creation, here of names): listings are sorted.
# - What is no number is none, and 40000 is no domain's: EINVAL. There `x` is 0, so that `get_domain_path x` is dom0's.
# - Permissions for domains that do not exist grant nothing, in both. There they are listed all the same, so that whoever
#   reads a list and writes it back grants it to the next domain of that number.
# - A guest that sets permissions of @releaseDomain, which are dom0's, hears EACCES. There it hears ENOENT.
# - A quota of 10 transactions or 128 watches is that. There it is one more.
# - Equal events that wait become one. How many do depends on how fast the client reads, so it reads after each.
. /lab/lib.sh
id=$1 home=/local/domain/$1

run() {
  echo "\$ $*"
  "$@" 2>&1
  echo "= $?"
}

# sorted COMMAND...: its lines in an order of our own
sorted() {
  echo "\$ $* | sort"
  "$@" 2>&1 | sort
}

# watching COUNT PATH: a xenstore-watch in the background; heard COUNT: until it has said so many lines
watching() { xenstore-watch -n "$@" >/run/watched 2>&1 & watcher=$!; }
heard() { until_true 10 lines $1 || echo "not heard"; }
lines() { [ "$(wc -l </run/watched)" -ge $1 ]; }

tools() {
  run xenstore-write /s/a one /s/b "two words"
  run xenstore-read /s/a /s/b
  run xenstore-read -p /s/a
  run xenstore-read /s/none
  run xenstore-read /s/a /s/none /s/b
  run xenstore-write /s/raw 'a\x01\x7fb'
  run xenstore-read /s/raw
  run xenstore-read -R /s/raw
  run xenstore-write /s/empty ''
  run xenstore-write /s/a/deep/er 1
  run xenstore-write 's p' x
  run xenstore-write /s/b/ x
  sorted xenstore-ls -f /s
  sorted xenstore-ls -fp /s
  run xenstore-ls /s/none
  sorted xenstore-list /s
  sorted xenstore-list -p /s /s/a
  run xenstore-list /s/none
  run xenstore-exists /s/a
  run xenstore-exists /s/none
  run xenstore-chmod /s/a n0 r$id b$id
  sorted xenstore-ls -fp /s/a
  run xenstore-chmod -r /s/a w$id
  sorted xenstore-ls -fp /s/a
  run xenstore-chmod -u /s/a/deep/er n0
  sorted xenstore-ls -fp /s/a
  run xenstore-chmod /s/a q1
  run xenstore-chmod /s/none n0
  run xenstore-rm /s/a/deep/er
  sorted xenstore-ls -f /s/a
  run xenstore-rm -t /s/a/deep
  sorted xenstore-ls -f /s
  run xenstore-rm /s/none
  run xenstore-rm /s/none/none
  run xenstore-rm /s/b /s/none /s/none/none
  sorted xenstore-ls -f /s
  watching 4 /s/w
  heard 1
  run xenstore-write /s/w 1
  heard 2
  run xenstore-write /s/other 1
  run xenstore-write /s/w/below 2
  heard 3
  run xenstore-rm /s/w
  wait $watcher
  run cat /run/watched
  watching 3 /s/x /s/y
  heard 2
  run xenstore-write /s/y 1
  wait $watcher
  run cat /run/watched
  run xenstore-rm /s
  run xenstore-exists /s
  run xenstore-control check
}

# For the guest: nodes that it may read, write, both or neither, and one behind a folder that it may not read.
prepare() {
  xenstore-write $home/for-guest '' $home/for-guest/readable r $home/for-guest/writable w $home/for-guest/both b \
    $home/for-guest/none n $home/for-guest/hidden '' $home/for-guest/hidden/x x
  xenstore-chmod $home/for-guest n0 r$id
  xenstore-chmod $home/for-guest/readable n0 r$id
  xenstore-chmod $home/for-guest/writable n0 w$id
  xenstore-chmod $home/for-guest/both n0 b$id
  xenstore-chmod $home/for-guest/none n0
  xenstore-chmod $home/for-guest/hidden n0
  xenstore-chmod $home/for-guest/hidden/x n0 r$id
  xenstore-write $home/data ''
  xenstore-chmod $home/data n$id
}

transcript() {
  echo "==== tools"
  tools
  echo "==== dom0"
  lab-store /run/xenstored/socket $id </lab/store/dom0.talk 2>&1
  echo "==== dom0's kernel"
  lab-store /dev/xen/xenbus </lab/store/kernel.talk 2>&1
  prepare
  echo "==== guest"
  in_guest g 60 "lab-store /dev/xen/xenbus $id </lab/store/guest.talk 2>&1"
  echo "==== what the guest left"
  sorted xenstore-ls -fp $home/data
  sorted xenstore-ls -fp $home/for-guest
}

# The number of the guest is another one in each boot.
transcript | sed -E "s#/domain/$id([^0-9]|\$)#/domain/GUEST\1#g; s/([ (,][nrwb])$id([ ,)]|\$)/\1GUEST\2/g; s/([ (,][nrwb])$id([ ,)]|\$)/\1GUEST\2/g"
