#!/usr/bin/env bash
# What a container of the image is: head, worker, submit, extract, train, serve, or any other command.
#
#   head      a Ray head that runs no units itself; its dashboard asks for the token
#   worker    a Ray worker of the head at RAY_HEAD_ADDRESS (host:port)
#   submit    teacher-cache submit, to the head's dashboard
#   extract   teacher-cache extract, in this container
#   train     student train, in this container
#   serve     teacher-cache serve, with the configuration that SERVICE_CONFIG names
#
# The token is the cluster's only door, so none opens without it: RAY_AUTH_TOKEN, or a file of it named by
# RAY_AUTH_TOKEN_PATH (a Docker or Kubernetes secret).
set -euo pipefail

fail() {
    echo "entrypoint: $1" >&2
    exit 2
}

require_token() {
    export RAY_AUTH_MODE=token
    if [[ -z "${RAY_AUTH_TOKEN:-}" && ! -s "${RAY_AUTH_TOKEN_PATH:-/nowhere}" ]]; then
        fail "no token: anyone who reaches the cluster could run code on it. Set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file of it."
    fi
}

[[ $# -gt 0 ]] || fail "no command: give head, worker, submit, extract, train, serve, or a program."
command=$1
shift
case "$command" in
    head)
        require_token
        exec ray start --head --block \
            --num-cpus="${HEAD_CPUS:-0}" \
            --port="${RAY_PORT:-6379}" \
            --dashboard-host="${DASHBOARD_HOST:-127.0.0.1}" \
            --dashboard-port="${DASHBOARD_PORT:-8265}" \
            --disable-usage-stats "$@"
        ;;
    worker)
        require_token
        [[ -n "${RAY_HEAD_ADDRESS:-}" ]] || fail "no head: set RAY_HEAD_ADDRESS to its host:port."
        exec ray start --block --address="$RAY_HEAD_ADDRESS" --disable-usage-stats "$@"
        ;;
    submit)
        require_token
        exec teacher-cache submit "$@"
        ;;
    extract)
        exec teacher-cache extract "$@"
        ;;
    train)
        exec student train "$@"
        ;;
    serve)
        [[ -s "${SERVICE_CONFIG:-/nowhere}" ]] || fail "no configuration: set SERVICE_CONFIG to a service.yaml, as docs/service.md describes it."
        exec teacher-cache serve --config "$SERVICE_CONFIG" "$@"
        ;;
    *)
        exec "$command" "$@"
        ;;
esac
