#!/bin/sh
# A Tidegate job as a shell script: counts the words of its payload.
#
#   tidegate worker --queue words --exec-memory 64MiB --exec ./words.sh
#
# Exit codes: 0 succeeded, standard output is the result; 65 the payload is wrong, no attempt will help; 75 and all
# others: try again. The end of standard error becomes the job's error.
set -eu

payload=$(cat)
if [ -z "$payload" ]; then
  echo "the payload is empty" >&2
  exit 65
fi
if [ "$payload" = "busy" ] && [ "$TIDEGATE_ATTEMPT" = 1 ]; then
  echo "nothing goes at the first attempt" >&2
  exit 75
fi
printf '{"words": %d, "queue": "%s", "attempt": %d}\n' \
  "$(printf '%s' "$payload" | wc -w)" "$TIDEGATE_QUEUE" "$TIDEGATE_ATTEMPT"
