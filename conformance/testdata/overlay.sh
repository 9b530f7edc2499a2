# An overlay as small as can be, for the tests of the network section: bridge
# and host-local on each node, and here VXLAN between the nodes, which know of
# each other by files in the folder that they share. Its argument is what it does
# wrong, if anything.
set -eu
wrong=${1:-}
here=10.1.$INDEX
here6=fd00:10:1:$INDEX

is() { [ "$wrong" = "$1" ]; }

# quietly does what may have been done in an earlier life of this script.
quietly() { "$@" 2>/dev/null || true; }

# sysctls makes the node a router, whose addresses are used at once. Without the
# last ones the kernel loses fragments of IPv6 that come from a bridge, once it
# tracks connections.
sysctls() {
  echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
  echo 1 >/proc/sys/net/ipv4/ip_forward
  echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
  for file in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do
    [ ! -e "$file" ] || echo 0 >"$file"
  done
}

# device makes the tunnel's end. Its hardware address follows from the node's
# number, so that others know it.
device() {
  mac=02:00:00:00:00:0$INDEX
  if is forgets-address; then # the address is lost with /run
    [ -e /run/mac ] || od -An -N4 -tx1 /dev/urandom | sed 's/^ /02:00:/; s/ /:/g' >/run/mac
    mac=$(cat /run/mac)
  fi
  if is makes-anew && ip link delete vx0 2>/dev/null; then
    sleep 4
  fi
  df=unset
  if is black-hole; then df=set; fi
  quietly ip link add vx0 address "$mac" type vxlan id 1 dstport 4789 local "$ADDRESS" nolearning df "$df"
  quietly ip address add "$here.0/32" dev vx0
  quietly ip address add "$here6::/128" dev vx0 nodad
  ip link set vx0 up
}

# filter has traffic to the outside masqueraded, and all that is done wrong to
# packets.
filter() {
  outside='ip daddr != 10.1.0.0/16' outside6='ip6 daddr != fd00:10:1::/48'
  raw='' input='' output='' forward=''
  case $wrong in
  masquerades-pods) outside='' outside6='' ;;
  masquerades-pods6) outside6='' ;;
  masquerades-nothing) outside='ip daddr 192.0.2.1' outside6='ip6 daddr 2001:db8::1' ;;
  masquerades-no6) outside6='ip6 daddr 2001:db8::1' ;;
  drops-fragments) raw='ip frag-off & 0x1fff != 0 drop; exthdr frag exists drop;' ;;
  drops-udp) forward='oif vx0 meta l4proto udp drop;' ;;
  drops-icmp6) forward='oif vx0 icmpv6 type echo-request drop;' ;;
  drops-own-pods) output='oifname cni0 meta l4proto tcp drop;' ;;
  drops-node-to-pods) output='oif vx0 meta l4proto tcp drop;' ;;
  drops-pods-to-node) input='ip saddr 10.1.0.0/16 drop; ip6 saddr fd00:10:1::/48 meta l4proto tcp drop;' ;;
  black-hole) raw='icmp type destination-unreachable drop;' ;;
  esac
  nft -f - <<EOF
table inet overlay {
}
delete table inet overlay
table inet overlay {
  chain raw { type filter hook prerouting priority -450; $raw }
  chain input { type filter hook input priority 0; $input }
  chain output { type filter hook output priority 0; $output }
  chain forward { type filter hook forward priority 0; $forward }
  chain outside {
    type nat hook postrouting priority 100;
    ip saddr 10.1.0.0/16 $outside masquerade
    ip6 saddr fd00:10:1::/48 $outside6 masquerade
  }
}
EOF
  if is drops-neighbours; then
    nft 'add table bridge overlay; add chain bridge overlay forward { type filter hook forward priority 0; }; add rule bridge overlay forward meta l4proto tcp drop'
  fi
}

# announce tells the others where this node is.
announce() {
  echo "$INDEX $ADDRESS $mac" >"$SHARED/.$INDEX"
  mv "$SHARED/.$INDEX" "$SHARED/node-$INDEX"
}

# reaches says whether pods of a node are to be reached from here.
reaches() {
  case $wrong:$INDEX:$1 in
  no-route-13:1:3 | no-route-12:1:2) return 1 ;;
  hub:2:3 | hub:3:2) return 1 ;;
  *) return 0 ;;
  esac
}

# peer makes the way to the pods of a node.
peer() {
  ip -batch - <<EOF
neighbour replace 10.1.$1.0 lladdr $3 dev vx0 nud permanent
neighbour replace fd00:10:1:$1:: lladdr $3 dev vx0 nud permanent
route replace 10.1.$1.0/24 via 10.1.$1.0 dev vx0 onlink
route replace fd00:10:1:$1::/64 via fd00:10:1:$1:: dev vx0 onlink
EOF
  bridge fdb replace "$3" dev vx0 dst "$2"
}

# through makes the way to the pods of a node lead through the first node.
through() {
  ip -batch - <<EOF
route replace 10.1.$1.0/24 via 10.1.1.0 dev vx0 onlink
route replace fd00:10:1:$1::/64 via fd00:10:1:1:: dev vx0 onlink
EOF
}

# withdraws takes the way to a node's pods away when its daemon has been silent.
# It never comes back.
withdraws() {
  [ -z "$(find "$SHARED/node-$1" -newermt '-1 seconds')" ] || return 1
  quietly ip route delete "10.1.$1.0/24"
  quietly ip route delete "fd00:10:1:$1::/64"
}

known=' '
# learn makes the ways to nodes that aren't known as they are now.
learn() {
  for file in "$SHARED"/node-*; do
    read -r index address there <"$file"
    [ "$index" != "$INDEX" ] || continue
    if is falls-silent && withdraws "$index"; then continue; fi
    key=$index/$address/$there
    case $wrong in
    forgets-address) key=$index ;;
    once-per-address) key=$address ;;
    esac
    case $known in *" $key "*) continue ;; esac
    if reaches "$index"; then
      peer "$index" "$address" "$there"
    elif is hub; then
      through "$index"
    fi
    known="$known$key "
  done
}

sysctls
device
filter
announce
while :; do
  learn
  if is falls-silent; then announce; fi
  sleep 0.05
done
