#!/usr/bin/env bash
# A Kubernetes cluster of two nodes on this machine, and what Samara promises on
# it: docs/kubernetes.md, "Tried". `make accept-cluster` builds what it needs and
# runs it, as root. Nodes are network and mount namespaces; nothing of the machine
# itself is changed. --keep DIR keeps logs there.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/bin:$PWD/bin/k8s:/usr/sbin:/usr/bin:/sbin:/bin"
repo=$PWD
keep=""
[ "${1:-}" = --keep ] && keep=$2
dir=$(mktemp -d /tmp/samara-cluster-XXXXXX)
ns=samara-k8s-$$
pids=()
failed=0

start() { # LOG PROGRAM...: in the background, ended by cleanup
  local log=$dir/log/$1; shift
  "$@" >"$log" 2>&1 </dev/null &
  pids+=($!)
}

on() { local n=$1; shift; nsenter --net="/run/netns/$ns-$n" "$@"; }
k() { on 1 kubectl --kubeconfig "$dir/kubeconfig" "$@"; }
chart() { local verb=$1; shift; on 1 env KUBECONFIG="$dir/kubeconfig" helm "$verb" samara "$@" --namespace samara; }

cleanup() {
  local code=$? p
  trap - EXIT
  # Pods end with their nodes' containerd only if they are told to.
  for p in $(pgrep -f -- "-address $dir/" || true) "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
  sleep 2
  for p in $(pgrep -f -- "$dir/" || true); do kill -9 "$p" 2>/dev/null || true; done
  wait 2>/dev/null || true
  for n in 1 2; do ip netns del "$ns-$n" 2>/dev/null || true; done
  if [ -n "$keep" ]; then mkdir -p "$keep"; cp -r "$dir/log" "$keep/"; fi
  awk '{print $2}' /proc/mounts | grep "^$dir/" | sort -r | xargs -r umount -l 2>/dev/null || true
  rm -rf --one-file-system "$dir"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

wait_for() { # SECONDS WHAT COMMAND...
  local until=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $until ]; then echo "$what: not within the time it may take; logs: --keep DIR" >&2; exit 1; fi
    sleep 0.2
  done
}

row() { # WHAT TARGET MEASURED yes|no
  printf '| %-66s | %-18s | %-26s | %s |\n' "$1" "$2" "$3" "$4"
  if [ "$4" = no ]; then failed=1; fi
}
yes_if() { if "$@" >/dev/null 2>&1; then echo yes; else echo no; fi; }
since() { awk "BEGIN{printf \"%.1f\", $(date +%s.%N) - $1}"; }
at_most() { awk "BEGIN{exit !($1 <= $2)}"; }

network() {
  for n in 1 2; do
    ip netns add "$ns-$n"
    on $n ip link set lo up
  done
  ip link add veth1 netns "$ns-1" type veth peer name veth2 netns "$ns-2"
  for n in 1 2; do
    local other=$((3 - n))
    on $n ip addr add "10.77.0.$n/24" dev "veth$n"
    on $n ip link set "veth$n" up
    # Addresses of Services need a route before kube-proxy sees them; this one leads nowhere.
    on $n ip neigh replace 10.77.0.200 lladdr 02:00:00:00:00:99 dev "veth$n" nud permanent
    on $n ip route add default via 10.77.0.200
    on $n ip route add "10.88.$other.0/24" via "10.77.0.$other"
    on $n sysctl -qw net.ipv4.ip_forward=1
  done
  on 1 ip addr add 10.77.0.9/24 dev veth1 # the upstream's
}

control_plane() {
  openssl genrsa -out "$dir/sa.key" 2048 2>/dev/null
  openssl rsa -in "$dir/sa.key" -pubout -out "$dir/sa.pub" 2>/dev/null
  local token; token=$(openssl rand -hex 16)
  echo "$token,admin,admin,system:masters" >"$dir/tokens.csv"
  cat >"$dir/kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://10.77.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: lab, context: {cluster: lab, user: admin}}]
current-context: lab
Y
  start etcd on 1 etcd --data-dir "$dir/etcd" --unsafe-no-fsync
  start apiserver on 1 kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=10.77.0.1 --cert-dir="$dir/apiserver" \
    --token-auth-file="$dir/tokens.csv" --authorization-mode=RBAC --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true \
    --service-account-issuer=https://lab --service-account-key-file="$dir/sa.pub" --service-account-signing-key-file="$dir/sa.key"
  wait_for 300 "the API server" k get --raw /readyz
  start controllers on 1 kube-controller-manager --kubeconfig="$dir/kubeconfig" --service-account-private-key-file="$dir/sa.key" \
    --leader-elect=false --node-monitor-grace-period=120s --bind-address=127.0.0.1
  start scheduler on 1 kube-scheduler --kubeconfig="$dir/kubeconfig" --leader-elect=false --bind-address=127.0.0.1
  k apply -f - >/dev/null <<Y
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [10.77.0.1], conditions: {ready: true}}]
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
Y
  printf '.:53 {\n bind 10.77.0.1\n errors\n cache 30\n kubernetes cluster.local {\n  kubeconfig %s lab\n }\n}\n' "$dir/kubeconfig" >"$dir/Corefile"
  start dns on 1 coredns -conf "$dir/Corefile"
}

node() { # N: containerd, kubelet and kube-proxy, which see /etc/containerd of their own
  local n=$1 d=$dir/n$1
  mkdir -p "$d"/{etc/certs.d/quay.io,cni,pods}
  echo 'server = "https://quay.io"' >"$d/etc/certs.d/quay.io/hosts.toml" # somebody else's
  cat >"$d/cni/10-bridge.conflist" <<Y
{"cniVersion": "0.4.0", "name": "bridge", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$d/ipam", "ranges": [[{"subnet": "10.88.$n.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
Y
  cat >"$d/etc/config.toml" <<Y
version = 3
root = "$d/containerd"
state = "$d/run"
[grpc]
  address = "$d/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "registry.k8s.io/pause:3.10"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "/etc/containerd/certs.d"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "$d/cni"
Y
  cat >"$d/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupsPerQOS: false
enforceNodeAllocatable: []
cgroupDriver: cgroupfs
failSwapOn: false
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://$d/containerd.sock
podLogsDir: $d/pods
# The disk is the machine's, and how full it is not our matter.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
Y
  cat >"$d/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $2
hostnameOverride: n$n
clusterCIDR: 10.88.0.0/16
clientConnection: {kubeconfig: $dir/kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
Y
  mkdir -p /etc/containerd # to mount over
  start "n$n" on "$n" unshare --mount bash -c '
    set -eu; n=$1 d=$2 dir=$3 repo=$4
    mount --bind "$d/etc" /etc/containerd
    mount --bind "$dir/hosts" /etc/hosts
    SSL_CERT_FILE=$dir/past.crt containerd2 --config /etc/containerd/config.toml >"$dir/log/n$n-containerd" 2>&1 &
    until ctr2 -a "$d/containerd.sock" version >/dev/null 2>&1; do sleep 0.2; done
    for i in pause_3.10 peerd_v0.1.0 seeder_v0.1.0; do ctr2 -a "$d/containerd.sock" -n k8s.io images import --local "$dir/images/$i.tar"; done
    kube-proxy --config "$d/proxy.yaml" >"$dir/log/n$n-proxy" 2>&1 &
    kubelet --config "$d/kubelet.yaml" --kubeconfig "$dir/kubeconfig" --root-dir "$d/kubelet" --cert-dir "$d/pki" --hostname-override "n$n" \
      --node-ip "10.77.0.$n" --node-labels "topology.kubernetes.io/zone=z$n" >"$dir/log/n$n-kubelet" 2>&1 &
    echo $! >"$d/kubelet.pid"
    wait' node "$n" "$d" "$dir" "$repo"
}

files() { (cd "$dir/n$1/etc" && find . -printf '%M %u %g %p\n' | sort && find . -type f -exec sha256sum {} + | sort -k 2); }
as_before() { diff "$dir/n$1.before" <(files "$1"); }

pod() { # NAME NODE IMAGE: runs it, and prints how long the pull took
  k -n lab apply -f - >/dev/null <<Y
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec: {nodeName: n$2, terminationGracePeriodSeconds: 1, tolerations: [{operator: Exists}], containers: [{name: a, image: "$3", imagePullPolicy: Always}]}
Y
  k -n lab wait --for=condition=Ready "pod/$1" --timeout=90s >/dev/null
  k -n lab get events --field-selector "involvedObject.name=$1,reason=Pulled" -o jsonpath='{.items[0].message}' | sed -E 's/.* in ([^ ]+) .*/\1/'
}

status() { # NODE FIELD...: of the status of a node's peerd; fails while there is none
  local ip; ip=$(k -n samara get pods -l app.kubernetes.io/component=peerd --field-selector "spec.nodeName=n$1,status.phase=Running" -o jsonpath='{.items[-1:].status.podIP}')
  on 1 curl -s --max-time 5 "http://$ip:9095/v1/status" | python3 -c 'import functools, json, sys; print(functools.reduce(lambda d, f: d[f], sys.argv[1:], json.load(sys.stdin)))' "${@:2}"
}

pulls() { # NODE: pulls two images in turns, each from nothing, until told to stop; a line for each
  local sock=$dir/n$1/containerd.sock i
  while [ ! -e "$dir/stop" ]; do
    for i in 1 2; do
      if cripull -timeout 2m -endpoint "unix://$sock" pull "registry.lab.test/app:$i" >>"$dir/log/pulls$1" 2>&1; then echo ok; else echo failed; fi
      cripull -endpoint "unix://$sock" remove "registry.lab.test/app:$i" >>"$dir/log/pulls$1" 2>&1 || true
    done
  done
}

past() { # bytes of blobs that nodes had straight from the upstream
  sed -nE 's#.*http.request.uri="?/v2/[^" ]*/blobs/.*http.response.written=([0-9]+).*#\1#p' "$dir/log/past" | awk '{n += $1} END {print n + 0}'
}

ready_after() { # seconds from the first pod's making until the last one was ready
  k get pods -A -l app.kubernetes.io/instance=samara -o json | python3 -c '
import datetime, json, sys
at = lambda s: datetime.datetime.fromisoformat(s.replace("Z", "+00:00"))
pods = json.load(sys.stdin)["items"]
ready = [at(c["lastTransitionTime"]) for p in pods for c in p["status"]["conditions"] if c["type"] == "Ready" and c["status"] == "True"]
assert pods and len(ready) == len(pods), "not all are ready"
print(round((max(ready) - min(at(p["metadata"]["creationTimestamp"]) for p in pods)).total_seconds()))'
}

mkdir -p "$dir"/{log,images}
printf '127.0.0.1 localhost\n10.77.0.9 registry.lab.test\n' >"$dir/hosts"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=registry.lab.test -addext subjectAltName=DNS:registry.lab.test \
  -keyout "$dir/past.key" -out "$dir/past.crt" 2>/dev/null
"$repo/bin/k8s/images" -bin "$repo/bin" -out "$dir/images"
network
control_plane
node 1 iptables
node 2 nftables
wait_for 120 "node 1" k wait --for=condition=Ready node/n1 --timeout=1s
wait_for 120 "node 2" k wait --for=condition=Ready node/n2 --timeout=1s
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "10.77.0.9:5000"}\n' "$dir/registry" >"$dir/registry.yaml"
start upstream on 1 docker-registry serve "$dir/registry.yaml"
upstream=${pids[-1]}
wait_for 20 "the upstream" on 1 curl -sf http://10.77.0.9:5000/v2/
push() { local i; for i; do on 1 crane push --insecure "$dir/images/${i/:/_}.tar" "10.77.0.9:5000/$i" >/dev/null 2>&1; done; }
push app:1 app:2
cp -r "$dir/registry" "$dir/registry-past" # where nodes get these two from when their mirror is away; it is started later
push peerd:v2 seeder:v2
k create namespace lab >/dev/null
wait_for 30 "the default service account" k -n lab get serviceaccount default
for n in 1 2; do files $n >"$dir/n$n.before"; done
cat >"$dir/values.yaml" <<Y
upstreams: {registry.lab.test: "http://10.77.0.9:5000"}
seeder: {persistence: {enabled: false}, config: {quota: 1GiB}, nodeSelector: {kubernetes.io/hostname: n1}}
networkPolicy: {upstreamPorts: [5000]}
setup: {undoSeconds: 20}
Y
install() { chart install "$repo/manifests/chart" --create-namespace -f "$dir/values.yaml" "$@" --wait --timeout 90s >/dev/null; }
uninstall() { chart uninstall "$@" >/dev/null && k delete namespace samara --timeout=60s >/dev/null && k wait --for=delete namespace/samara-setup --timeout=60s >/dev/null; }

row what target measured met
row --- --- --- ---
install --set 'peerd.nodeSelector.kubernetes\.io/hostname=n1'
took=$(ready_after)
row "one node: helm install, every pod ready after" "<= 10 s" "$took s" "$(yes_if at_most "$took" 10)"
uninstall
row "one node: its files after helm uninstall" "as before" "" "$(yes_if as_before 1)"

k create namespace samara >/dev/null
k label namespace samara pod-security.kubernetes.io/enforce=restricted >/dev/null
install
took=$(ready_after)
row "two nodes, restricted enforced: the same" "<= 10 s" "$took s" "$(yes_if at_most "$took" 10)"
row "zones of the peerds" "z1, z2" "$(status 1 zone), $(status 2 zone)" "$(yes_if test "$(status 1 zone)$(status 2 zone)" = z1z2)"
row "pull on node 1 (30 MiB), which can reach only its mirror" works "$(pod a1 1 registry.lab.test/app:1)" yes
pod b1 1 registry.lab.test/app:2 >/dev/null
kill "$upstream"
took=$(pod b2 2 registry.lab.test/app:2)
from=$(status 2 bytes fromPeers)
row "pull on node 2 (40 MiB), upstream stopped: bytes from node 1" "most of them" "$from in $took" "$(yes_if test "$from" -gt $((20 << 20)))"
row "... and from the upstream" 0 "$(status 2 bytes fromUpstream)" "$(yes_if test "$(status 2 bytes fromUpstream)" = 0)"
start upstream2 on 1 docker-registry serve "$dir/registry.yaml"

mirror=$(k -n samara get service samara-mirror -o jsonpath='{.spec.clusterIP}')
for n in 1 2; do
  before=$(status $((3 - n)) clients requests)
  for _ in {1..20}; do on $n curl -sI -o /dev/null --max-time 5 -H 'Accept: */*' "http://$mirror:5050/v2/app/manifests/2?ns=registry.lab.test"; done
  row "20 requests of node $n: those that went to the other's peerd" 0 "$(($(status $((3 - n)) clients requests) - before))" "$(yes_if test "$(status $((3 - n)) clients requests)" = "$before")"
  container=$(pgrep -f 'peerd serve --config=/etc/samara/config/peerd.yaml' | while read -r p; do nsenter -t "$p" -n ip -o -4 addr 2>/dev/null | grep -q "10\.88\.$n\." && echo "$p"; done | head -1 || true)
  kill -9 "$container"
  answer=$(on $n curl -s -o /dev/null --max-time 5 -w '%{exitcode} %{time_total} s' "http://$mirror:5050/v2/" || true)
  row "peerd of node $n killed: a connection is refused" "at once" "${answer#* }" "$(yes_if test "${answer%% *}" = 7)"
  wait_for 60 "peerd of node $n is back" status $n zone
done
k -n samara rollout status daemonset/samara-peerd --timeout=60s >/dev/null

# A rolling upgrade while both nodes pull. Their containerd may go on to the upstream, which has the images that are pulled, not the new daemons.
k -n lab delete pods --all --timeout=60s >/dev/null
printf 'version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "10.77.0.9:443", tls: {certificate: %s, key: %s}}\n' \
  "$dir/registry-past" "$dir/past.crt" "$dir/past.key" >"$dir/past.yaml"
start past on 1 docker-registry serve "$dir/past.yaml"
wait_for 20 "the upstream as nodes see it" on 1 curl -sf --cacert "$dir/past.crt" --resolve registry.lab.test:443:10.77.0.9 https://registry.lab.test/v2/
for n in 1 2; do pulls $n >"$dir/pulls$n" & pids+=($!); done
pulled() { [ "$(wc -l <"$dir/pulls1")" -ge "$1" ] && [ "$(wc -l <"$dir/pulls2")" -ge "$2" ]; }
wait_for 120 "pulls of both nodes" pulled 2 2
row "pulls of both nodes before: bytes past the mirrors" 0 "$(past)" "$(yes_if test "$(past)" = 0)"
began=$(date +%s.%N)
chart upgrade "$repo/manifests/chart" -f "$dir/values.yaml" --set image.registry=registry.lab.test,image.tag=v2 --wait --timeout 300s >/dev/null
row "upgrade of all to images that only the mirror can give" works "$(since "$began") s" yes
wait_for 120 "pulls after the upgrade" pulled $(($(wc -l <"$dir/pulls1") + 3)) $(($(wc -l <"$dir/pulls2") + 3))
touch "$dir/stop"
lost=$(cat "$dir"/pulls? | grep -c failed || true)
row "pulls of both nodes meanwhile: how many, failed" "0 failed" "$(cat "$dir"/pulls? | wc -l), $lost" "$(yes_if test "$lost" = 0)"
row "... bytes past the mirrors, of all" "reported" "$(past) of $(cat "$dir"/pulls? | grep -c ok) x 35 MiB" yes

kubelet=$(cat "$dir/n2/kubelet.pid")
kill -STOP "$kubelet"
row "uninstall while node 2 is away" "fails" "" "$(if chart uninstall --timeout 60s >/dev/null 2>&1; then echo no; else echo yes; fi)"
row "node 1 meanwhile" "as before" "" "$(yes_if as_before 1)"
kill -CONT "$kubelet"
wait_for 60 "node 2 is undone when it comes back" as_before 2
began=$(date +%s.%N)
uninstall
row "uninstall again" works "$(since "$began") s" yes
for n in 1 2; do row "files of node $n" "as before" "" "$(yes_if as_before $n)"; done

k apply -f manifests/daemonset/base/namespace.yaml >/dev/null
{ printf '/key/swarm/psk/1.0.0/\n/base16/\n'; openssl rand -hex 32; } >"$dir/swarm.key"
k -n samara create secret generic samara-swarm-key --from-file="$dir/swarm.key" >/dev/null
kustomize build manifests/daemonset/overlays/trial >"$dir/install.yaml"
kustomize build manifests/daemonset/overlays/containerd/undo >"$dir/undo.yaml"
k apply -f "$dir/install.yaml" >/dev/null
k -n samara rollout status daemonset/samara-peerd --timeout=60s >/dev/null
k -n samara-setup rollout status daemonset/samara-setup --timeout=60s >/dev/null
row "kustomize: nodes are set up" yes "" "$(if as_before 1 >/dev/null || as_before 2 >/dev/null; then echo no; else echo yes; fi)"
k apply -f "$dir/undo.yaml" >/dev/null
k -n samara-setup rollout status daemonset/samara-setup --timeout=60s >/dev/null
for n in 1 2; do row "kustomize: files of node $n after undo" "as before" "" "$(yes_if as_before $n)"; done
k delete -f "$dir/install.yaml" --timeout=90s >/dev/null
exit $failed
