#!/bin/bash
# Leave the gateway up: on config.yaml where there is one, else on config.example.yaml with the receptionist on every
# number. Usage: run.sh OFFHOOK [option of `offhook serve` …]; PUBLIC_URL is where carriers reach this machine.
set -euo pipefail

offhook=$1
shift

say() { echo "offhook: $*" >&2; }

# Set in the environment, or in the .env file beside the configuration, which `offhook serve` reads.
is_set() { [ -n "${!1:-}" ] || { [ -f .env ] && grep -Eq "^(export )?$1=." .env; }; }

if [ -n "${PUBLIC_URL:-}" ]; then
  export OFFHOOK_PUBLIC_URL=$PUBLIC_URL
fi

config=config.yaml
if [ ! -f "$config" ]; then
  config=config.example.yaml
  export OFFHOOK_ROUTES='[{"number": "*", "agent": "front-desk", "record": true}]'
  if [ -z "${OFFHOOK_PUBLIC_URL:-}" ]; then
    say "PUBLIC_URL is not set, so the URLs below are the example's: make run PUBLIC_URL=https://where.carriers.reach.you"
  fi
  # Without its token a carrier's signatures cannot be checked. A random one refuses every call, which is as it should be.
  for carrier in TWILIO:ACCOUNT_SID PLIVO:AUTH_ID; do
    account=${carrier%%:*}_${carrier#*:} token=${carrier%%:*}_AUTH_TOKEN
    if ! is_set "$token" || ! is_set "$account"; then
      say "$account and $token are not both set (in the environment or in .env): calls from ${carrier%%:*} are refused"
      printf -v "$account" '%s' unset
      printf -v "$token" '%s' "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
      export "${account?}" "${token?}"
    fi
  done
fi

exec "$offhook" serve --config "$config" "$@"
