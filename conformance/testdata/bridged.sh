#!/bin/sh
# Upstream's bridge for the tests of the network section. It tells others that an
# address has a new owner, which upstream's doesn't. What it does wrong, if
# anything, follows its name.
wrong=${0##*/bridged}
wrong=${wrong#-}
conf=$(cat)
if [ "$wrong" = no6 ] && [ "$(hostname)" = n3 ]; then
  conf=$(printf %s "$conf" | sed 's/,\[{"subnet":"fd[^]]*\]//; s/,{"dst":"::\/0"}//')
fi
result=$(printf %s "$conf" | "${CNI_PATH##*:}/bridge")
status=$?
if [ "$CNI_COMMAND" = ADD ] && [ $status = 0 ]; then
  address=$(nsenter --net="$CNI_NETNS" ip -brief link show eth0 | awk '{print $3}')
  case $wrong in
  silent) ;;
  neighbours) # the node keeps the first owner of an address
    ip=$(nsenter --net="$CNI_NETNS" ip -4 -brief address show eth0 | awk '{print $3}')
    ip neighbour add "${ip%/*}" lladdr "$address" dev cni0 nud permanent 2>/dev/null
    ;;
  rules) # and never takes them away
    nft "add table inet pods; add chain inet pods each; add rule inet pods each counter comment \"$CNI_CONTAINERID\""
    ;;
  esac >&2
  if [ "$wrong" != silent ]; then
    nsenter --net="$CNI_NETNS" sh -c "echo 1 >/proc/sys/net/ipv6/conf/eth0/ndisc_notify; ip link set eth0 address $address" >&2
  fi
fi
printf %s "$result"
exit $status
