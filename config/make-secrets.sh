#!/bin/sh
# Make the secrets that docker-compose.yml mounts, in secrets/ or the folder that is named. Those that are there stay.
#
#     config/make-secrets.sh [FOLDER]
#
# The folder is yours alone. The files in it may be read by anybody, since in the containers others than you read them.
set -eu

folder=${1:-$(dirname "$0")/../secrets}
redis=${REDIS_AT:-redis:6379} # where the services find the Redis

mkdir -p "$folder"
chmod 700 "$folder"

make() { # NAME: whatever comes in becomes the file, unless it is there
  [ -s "$folder/$1" ] && return 0
  cat >"$folder/.new"
  chmod 444 "$folder/.new"
  mv "$folder/.new" "$folder/$1"
}

random() { # 43 letters and digits, 256 bits
  head -c 512 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' | head -c 43
}

random | make redis_password
printf 'redis://:%s@%s/0' "$(cat "$folder/redis_password")" "$redis" | make redis_url
random | make scaleplug_secret
random | make grafana_password
