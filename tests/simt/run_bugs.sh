#!/bin/sh
# run_bugs.sh PROGRAM CONFIGURATION [EXPECTED]: runs every bug of bugs_expected.txt under schedules 0..5 and compares
# with what CONFIGURATION (plain, asan or race) must catch. One line a deviation; exit status 1 if there is one.
# VERBOSE=1 prints every outcome (. unnoticed, r reported, v wrong values).
program=$1
case $2 in
  plain) column=2 ;;
  asan) column=3 ;;
  race) column=4 ;;
  *)
    echo "usage: run_bugs.sh PROGRAM plain|asan|race [EXPECTED]" >&2
    exit 2
    ;;
esac
expected=${3:-$(dirname "$0")/bugs_expected.txt}
status=0
bugs=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT

deviation() {
  echo "$1"
  status=1
}

for bug in $(awk '!/^#/ && NF { print $1 }' "$expected"); do
  want=$(awk -v bug="$bug" -v column=$column '$1 == bug { print $column }' "$expected")
  outcomes=""
  caught=0
  reported=0
  for seed in 0 1 2 3 4 5; do
    "$program" "$bug" $seed >"$output" 2>&1
    code=$?
    case $code in
      0) outcomes="$outcomes." ;;
      1)
        outcomes="${outcomes}r"
        caught=$((caught + 1))
        reported=$((reported + 1))
        ;;
      2)
        outcomes="${outcomes}v"
        caught=$((caught + 1))
        ;;
      3) deviation "$bug, schedule $seed: the correct twin fails: $(head -1 "$output")" ;;
      *) deviation "$bug, schedule $seed: exit status $code: $(head -1 "$output")" ;;
    esac
    if [ "$bug" = banks ] && [ "$2" = race ] && ! grep -q "32.0 bank cycles" "$output"; then
      deviation "banks, schedule $seed: the lint missed a 32-way bank conflict"
    fi
  done
  [ "$VERBOSE" ] && printf '%-14s %s\n' "$bug" "$outcomes"
  case $want in
    -) ;;
    r*) [ $reported -ge "${want#r}" ] || deviation "$bug: reported in $reported schedules of 6 ($outcomes), expected ${want#r}" ;;
    *) [ $caught -ge "$want" ] || deviation "$bug: caught in $caught schedules of 6 ($outcomes), expected $want" ;;
  esac
  bugs=$((bugs + 1))
done
[ $bugs -gt 0 ] || deviation "no bugs in $expected"
exit $status
