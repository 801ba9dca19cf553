#!/bin/sh
# Draws a password for the database of compose.yaml, and writes the addresses that hold it. What is there already stays.
set -eu
cd "$(dirname "$0")"
[ -e secrets ] && { echo "secrets/ is there already; remove it, and the volume postgres-data, to begin anew" >&2; exit 1; }
umask 077
mkdir secrets
password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
printf '%s\n' "$password" > secrets/postgres_password
printf 'postgresql://truecopy:%s@postgres:5432/shop\n' "$password" > secrets/shop_store
printf 'postgresql://truecopy:%s@postgres:5432/warehouse\n' "$password" > secrets/warehouse_replica
# Compose mounts the files as they are, and the containers' users are others; the folder keeps everybody else out.
chmod 444 secrets/*
