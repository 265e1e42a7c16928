#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice that it creates and deletes; `--help` says how.
# Nothing here is newer than bash 3.2, which macOS has.
set -euo pipefail

STOPPED=75 # the exit code of a run that is to be started again

usage() {
    cat <<'EOF'
Trains CLIP on a Cloud TPU pod slice: creates the slice, installs this checkout on each of its
workers, runs examples/train.py on all of them, and deletes the slice, also where something failed.

    BUCKET=my-bucket examples/tpu_vm.sh [--dry-run] [-- options of examples/train.py]
    examples/tpu_vm.sh [--dry-run] -- all options of examples/train.py

With BUCKET, vit-base-patch32 is trained for 30 epochs, in batches of 1024, on the TFRecords in
gs://BUCKET/train_tfrecords/; gs://BUCKET/valid_tfrecords/ are held out, checkpoints go to
gs://BUCKET/checkpoints/. Options after -- are added, and win. Without BUCKET they are all there is.

    --dry-run   print each command and run none; what is printed can be run by bash
    --help      print this

Variables of the environment, and what they are where not set:

    TYPE        v5litepod-16; v6e-16, v5p-32, v4-32 and other sizes of these
    VERSION     the stock image of that type
    ZONE        one that has the type; best the region of the bucket
    NAME        eqx-clip, the name of the slice
    PROJECT     gcloud's own setting
    BUCKET      none: where data and checkpoints are, for the options above
    KEEP        0; 1 keeps the slice at the end, and trains on the slice of this NAME if there is one

A run that SIGTERM stopped, or a step that hung, (exit code 75) goes on by itself, on a new slice
where this one was preempted. After a lost connection, or where the workers were ended without a
word, the same command goes on with one more option: `--resume-from-checkpoint latest`. gcloud reaches the workers of a slice only with its key in an SSH agent:

    eval "$(ssh-agent)" && ssh-add ~/.ssh/google_compute_engine
EOF
}

main() {
    dry_run=0 there=0 folder='' archive=eqx_clip.tar.gz
    read_arguments "$@"
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    label=$(date +%Y%m%d-%H%M%S)-$$
    check
    trap clean_up EXIT
    if [[ $dry_run == 0 ]]; then
        folder=$(mktemp -d)
        archive=$folder/$archive
    fi

    run tar -czf "$archive" --exclude __pycache__ -C "$root" \
        pyproject.toml README.md LICENSE src examples
    create
    copy
    local status=0
    train "${options[@]}" || status=$?
    while [[ $status == "$STOPPED" ]]; do
        say 'the run was stopped, and goes on from its last checkpoint'
        is_ready || create_again
        status=0
        train "${options[@]}" --resume-from-checkpoint latest || status=$?
    done
    return "$status"
}

copy() {
    tpu scp "$archive" "$NAME:" --worker=all
}

train() {
    # The connection stays open for days, at times without a word.
    tpu ssh "$NAME" --worker=all --ssh-flag=-oServerAliveInterval=30 \
        --command="$(on_each_worker "$@")"
}

is_ready() {
    [[ $(tpu describe "$NAME" --format='value(state)') == READY ]]
}

# For a slice that was preempted: it is still listed, and of no use.
create_again() {
    [[ $KEEP == 0 ]] || fail "$NAME is not ready; KEEP=1 keeps it: delete it, and start again"
    tpu delete "$NAME" --quiet || say "$NAME is gone"
    create
    copy
}

read_arguments() {
    while [[ $# -gt 0 && $1 != -- ]]; do
        case $1 in
            --dry-run) dry_run=1 ;;
            --help | -h) usage && exit ;;
            *) fail "unknown option $1: options of examples/train.py stand after --; see --help" ;;
        esac
        shift
    done
    NAME=${NAME:-eqx-clip} TYPE=${TYPE:-v5litepod-16} PROJECT=${PROJECT:-} KEEP=${KEEP:-0}
    stock_image
    [[ $# -eq 0 ]] || shift
    [[ -n ${BUCKET:-} || $# -gt 0 ]] || fail 'set BUCKET=name, or say after -- what to train on'
    options=("$@")
    [[ -z ${BUCKET:-} ]] || add_default_options
}

# Google's image and a zone for each generation.
stock_image() {
    local version='' zone=''
    case $TYPE in # and a number: of chips for v5e and v6e, of cores for the others
        v4-*) version=tpu-ubuntu2204-base zone=us-central2-b ;;
        v5litepod-*) version=v2-alpha-tpuv5-lite zone=us-central1-a ;;
        v5p-*) version=v2-alpha-tpuv5 zone=us-central1-a ;;
        v6e-*) version=v2-alpha-tpuv6e zone=us-central1-b ;;
    esac
    VERSION=${VERSION:-$version} ZONE=${ZONE:-$zone}
    [[ -n $VERSION && -n $ZONE ]] || fail "TYPE=$TYPE is not known here: set VERSION and ZONE, too"
}

add_default_options() {
    local bucket=${BUCKET#gs://}
    bucket=gs://${bucket%/}
    options=(
        --train-path "$bucket/train_tfrecords/"
        --valid-path "$bucket/valid_tfrecords/"
        --image-key jpg
        --text-key caption
        --global-batch-size 1024
        --model-name vit-base-patch32
        --learning-rate 3e-3
        --n-epochs 30
        --checkpoint-dir "$bucket/checkpoints/"
        ${options[@]+"${options[@]}"}
    )
}

check() {
    [[ $KEEP == [01] ]] || fail "KEEP must be 0 or 1; it is '$KEEP'"
    [[ -f $root/pyproject.toml ]] || fail "$root is no checkout of eqx_clip, which is what is installed"
    [[ $dry_run == 1 ]] || command -v gcloud >/dev/null ||
        fail "gcloud was not found: install the Google Cloud CLI, then run 'gcloud auth login'"
}

create() {
    there=1 # from here on: an interrupted `create` may have made it
    if [[ $KEEP == 1 && $dry_run == 0 ]] && tpu describe "$NAME" >/dev/null 2>&1; then
        say "training on $NAME, which exists"
        return
    fi
    tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" --labels="eqx_clip_run=$label"
}

# The commands of one worker, for sh. The stock images' Python is 3.10, too old for JAX. uv brings
# one without root, without apt, whose lock is often held in the minutes after a machine's start,
# and whichever Ubuntu the image is. `--target` installs uv where pip refuses the system's own
# folders. gcloud repeats the command when a connection breaks: it can run twice.
on_each_worker() {
    cat <<EOF
set -eu
mkdir -p eqx_clip
tar -xzf eqx_clip.tar.gz -C eqx_clip
cd eqx_clip
python3 -m pip install --quiet --upgrade --target uv uv
uv/bin/uv venv --quiet --allow-existing --python 3.11 env
uv/bin/uv pip install --quiet --python env/bin/python --reinstall-package eqx-clip '.[tpu,train,gcs]'
exec env/bin/python -u examples/train.py $(quote "$@")
EOF
}

# Deletes what this run created, known by its label: never a slice that was there before.
clean_up() {
    set +e
    trap '' INT TERM HUP PIPE # a second Ctrl-C, or one that ended `| tee`, would leave it running
    [[ -z $folder ]] || rm -rf "$folder"
    [[ $there == 1 ]] || return
    local delete=(delete "$NAME" --quiet) by_hand mine
    by_hand=$(dry_run=1 tpu "${delete[@]}")
    if [[ $KEEP == 1 ]]; then
        say "KEEP=1: $NAME costs money until you run: $by_hand"
    elif [[ $dry_run == 1 ]]; then
        printf '%s\n' "$by_hand"
    elif ! mine=$(tpu list --filter="labels.eqx_clip_run=$label" --format='value(name)'); then
        say "could not ask whether $NAME is still there; look, and run: $by_hand"
        exit 1
    elif [[ -n $mine ]] && ! tpu "${delete[@]}"; then
        say "$NAME WAS NOT DELETED, and costs money until you run: $by_hand"
        exit 1
    fi
}

tpu() {
    run gcloud compute tpus tpu-vm "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}
}

# Shows a command, and runs it unless this is a dry run.
run() {
    if [[ $dry_run == 1 ]]; then
        quote "$@"
        echo
    else
        say "$(quote "$@")"
        "$@"
    fi
}

# Words as any shell reads them back.
quote() {
    local word separator=''
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
            printf '%s%s' "$separator" "$word"
        else
            printf "%s'%s'" "$separator" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"
        fi
        separator=' '
    done
}

say() {
    printf '%s\n' "tpu_vm.sh: $*" >&2
}

fail() {
    say "$@"
    exit 2
}

main "$@"
