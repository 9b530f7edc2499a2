# by-hand.sh : for looking at a finding of docs/comparison.md, as root, after make peers (of Flannel with CNI_PATH=FOLDER:bin/peers):
#
#   unshare --net --mount bash --rcfile conformance/targets/by-hand.sh
#
# makes a shell with a network and state folders of its own, a container c1, and the function run.
mount -t tmpfs run /run
mount -t tmpfs lib /var/lib
ip link set lo up
ip link add eth0 type veth peer name eth1 && ip link set eth0 up
ip netns add c1
PLUGINS=${CNI_PATH:-$PWD/bin/peers}
export CNI_PATH=$PLUGINS CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/c1

# [WITH=...] run COMMAND PLUGIN [FIELDS] : executes a plugin with host-local, as a runtime does and, if WITH is set, by
# that command; FIELDS begin with a comma
run() {
  printf '{"cniVersion": "1.1.0", "name": "pods", "type": "%s", "master": "eth0", "isGateway": true, "ipMasq": true,
    "ipam": {"type": "host-local", "subnet": "10.1.0.0/29", "routes": [{"dst": "0.0.0.0/0"}]}%s}' "$2" "$3" | CNI_COMMAND=$1 PATH=$PLUGINS:$PATH $WITH "$2"
}
PS1='by hand# '
