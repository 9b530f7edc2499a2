# A node of Flannel on IPv4 and IPv6. The first node runs the etcd.
set -e
if [ "$INDEX" = 1 ]; then
  etcd --data-dir "$SHARED/etcd" --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls "http://$ADDRESS:2379" \
    --listen-peer-urls http://127.0.0.1:2380 --log-level error &
  until ETCDCTL_API=3 etcdctl put /coreos.com/network/config \
    '{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "Backend": {"Type": "vxlan"}}'; do sleep 0.1; done
  echo "http://$ADDRESS:2379" >"$SHARED/endpoint.new"
  mv "$SHARED/endpoint.new" "$SHARED/endpoint"
fi
until [ -e "$SHARED/endpoint" ]; do sleep 0.1; done
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
exec flanneld -etcd-endpoints "$(cat "$SHARED/endpoint")" -iface eth0 -ip-masq
