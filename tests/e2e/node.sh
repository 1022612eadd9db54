#!/usr/bin/env bash
# A Kubernetes cluster of one node in the namespaces that it is started in: etcd, API server, controllers, scheduler,
# kubelet, kube-proxy on containerd, all real; a small DNS server of ours, and ours between pods and the API server, which
# speaks discovery.k8s.io/v1 where the API server is too old for it. Ends when its own process does.
#
#   unshare -n -m -p --propagation private --fork --kill-child --mount-proc node.sh DIR ARCHIVE…
#
# DIR gets logs, kubeconfig, and `ready` once the node is; archives hold the images, the pause image among them. Programs are
# looked for in $KUBE_BIN, then on PATH; PYTHON runs ours.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
shift
export PATH=${KUBE_BIN:+$KUBE_BIN:}$PATH
python=${PYTHON:-python3}
node=10.200.0.1
api=https://$node:26443
mkdir -p "$dir"/{certs,cni,containerd,kubelet}

# -- the machine's side -------------------------------------------------------------------------------------------------
ip link set lo up
ip link add uplink type veth peer name nowhere
ip link set nowhere up
ip addr add $node/24 dev uplink
ip link set uplink up
# Programs that look for the way out want one; it leads nowhere.
ip route add default via 10.200.0.254 dev uplink
echo 1 >/proc/sys/net/ipv4/ip_forward 2>/dev/null || true
echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet 2>/dev/null || true
mount --make-rshared /
ulimit -n "$(ulimit -H -n)"

start() { # NAME COMMAND…: in the background, its output in DIR/NAME.log
    local name=$1
    shift
    "$@" >"$dir/$name.log" 2>&1 &
}
await() { # TRIES COMMAND…: every 0.2 s
    local tries=$1
    shift
    for _ in $(seq "$tries"); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    echo "node.sh: gave up waiting for: $*" >&2
    return 1
}

# -- control plane ------------------------------------------------------------------------------------------------------
openssl genrsa -out "$dir/accounts.key" 2048 2>/dev/null
echo 'admin-of-a-test,admin,admin,"system:masters"' >"$dir/tokens.csv"
cat >"$dir/kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "$api", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: admin-of-a-test}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
CONFIG
chmod 600 "$dir/kubeconfig"
export KUBECONFIG=$dir/kubeconfig

start etcd etcd --data-dir "$dir/etcd" --listen-client-urls http://127.0.0.1:22379 \
    --advertise-client-urls http://127.0.0.1:22379 --listen-peer-urls http://127.0.0.1:22380 --unsafe-no-fsync
start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:22379 --bind-address=0.0.0.0 --advertise-address=$node \
    --secure-port=26443 --cert-dir="$dir/certs" --service-cluster-ip-range=10.96.0.0/16 --token-auth-file="$dir/tokens.csv" \
    --authorization-mode=RBAC --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$dir/accounts.key" --service-account-signing-key-file="$dir/accounts.key" \
    --allow-privileged=true --kubelet-preferred-address-types=InternalIP --endpoint-reconciler-type=none \
    --feature-gates=EndpointSliceTerminatingCondition=true
await 600 kubectl get --raw /readyz
start controllers kube-controller-manager --kubeconfig="$KUBECONFIG" --leader-elect=false --cert-dir="$dir/certs" \
    --service-account-private-key-file="$dir/accounts.key" --root-ca-file="$dir/certs/apiserver.crt" \
    --controllers='*,-nodeipam,-cloud-node-lifecycle,-route' --use-service-account-credentials=true \
    --feature-gates=EndpointSliceTerminatingCondition=true
start scheduler kube-scheduler --kubeconfig="$KUBECONFIG" --leader-elect=false --cert-dir="$dir/certs"
start discovery-v1 "$python" "$here/discovery_v1.py" "$api" "$dir/certs/apiserver.crt" "$dir/certs/apiserver.key" $node 26444
start dns "$python" "$here/cluster_dns.py" "$api" admin-of-a-test $node
# What pods reach as `kubernetes` is ours, which passes everything on.
await 100 kubectl get service kubernetes
kubectl apply -f - >/dev/null <<ENDPOINTS
apiVersion: v1
kind: Endpoints
metadata: {name: kubernetes, namespace: default}
subsets: [{addresses: [{ip: $node}], ports: [{name: https, port: 26444, protocol: TCP}]}]
ENDPOINTS

# -- node ---------------------------------------------------------------------------------------------------------------
cat >"$dir/cni/10-bridge.conflist" <<CNI
{"cniVersion": "0.4.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "$dir/cni-leases"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CNI
cat >"$dir/containerd.toml" <<CONTAINERD
version = 2
root = "$dir/containerd/root"
state = "$dir/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/warmroute/pause:test"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${CNI_BIN:-/usr/lib/cni}"
    conf_dir = "$dir/cni"
CONTAINERD
start containerd containerd -c "$dir/containerd.toml"
await 100 ctr -a "$dir/containerd.sock" version
for archive in "$@"; do ctr -a "$dir/containerd.sock" -n k8s.io images import "$archive" >>"$dir/images.log" 2>&1; done
cat >"$dir/kubelet.yaml" <<KUBELET
kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failSwapOn: false
oomScoreAdj: 0
clusterDNS: [$node]
clusterDomain: cluster.local
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 4s
KUBELET
start kubelet kubelet --config="$dir/kubelet.yaml" --kubeconfig="$KUBECONFIG" --container-runtime=remote \
    --container-runtime-endpoint="unix://$dir/containerd.sock" --root-dir="$dir/kubelet" --cert-dir="$dir/kubelet/pki" \
    --hostname-override=node1 --node-ip=$node --register-node=true
# Without br_netfilter an answer between pods of one bridge would pass by the translation, so all are given the node's address.
start proxy kube-proxy --kubeconfig="$KUBECONFIG" --proxy-mode=iptables --masquerade-all=true --hostname-override=node1 \
    --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 \
    --iptables-min-sync-period=100ms --iptables-sync-period=5s
await 600 kubectl wait --for=condition=Ready node/node1 --timeout=1s
touch "$dir/ready"
wait
