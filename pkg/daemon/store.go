package daemon

import (
	"fmt"
	"os"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/etcd"
	"github.com/overlay-cni/overlay-cni/pkg/store/kube"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// OpenStore opens what the configuration says.
func OpenStore(c *config.Store) (store.Store, error) {
	switch {
	case c.Kubernetes != nil:
		return kube.Open(kube.Options{Kubeconfig: c.Kubernetes.Kubeconfig, Context: c.Kubernetes.Context})
	case c.Etcd == nil:
		return local.Open(c.Dir, local.Options{})
	}
	o := etcd.Options{
		Endpoints: c.Etcd.Endpoints, Prefix: c.Etcd.Prefix, Username: c.Etcd.Username,
		TLS: etcd.TLS{CA: c.Etcd.CAFile, Cert: c.Etcd.CertFile, Key: c.Etcd.KeyFile},
	}
	if c.Etcd.PasswordFile != "" {
		password, err := os.ReadFile(c.Etcd.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("store.passwordFile: %w", err)
		}
		o.Password = strings.TrimRight(string(password), "\r\n")
	}
	return etcd.Open(o)
}
