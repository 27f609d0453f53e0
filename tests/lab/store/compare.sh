# Compares what this store says with the record of what Debian's xenstored says.
set +x
guest g
sh /lab/store/script.sh "$(xl domid g)" >/run/transcript
if ! diff -u /lab/store/transcript.debian /run/transcript >/run/transcript.diff; then
  cat /run/transcript.diff
  fail "the transcripts differ in $(grep -c '^[-+]' /run/transcript.diff) lines"
fi
echo "$(wc -l </run/transcript) lines are the same"
