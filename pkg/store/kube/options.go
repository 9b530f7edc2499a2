package kube

import (
	"errors"
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
)

// ErrOptions says that something of Options can't be used.
var ErrOptions = errors.New("options of the Kubernetes API")

// config fills the defaults in and reads the kubeconfig, or what a pod is given.
func (o *Options) config() (*rest.Config, error) {
	if o.Kubeconfig == "" && o.Context != "" {
		return nil, fmt.Errorf("%w: context %q without a kubeconfig", ErrOptions, o.Context)
	}
	if (o.Owner.Node == "") != (o.Owner.UID == "") {
		return nil, fmt.Errorf("%w: owner: of node %q and UID %q one is missing", ErrOptions, o.Owner.Node, o.Owner.UID)
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = DefaultRequestTimeout
	}
	config, err := o.load()
	if err != nil {
		return nil, err
	}
	if file := config.BearerTokenFile; file != "" {
		// By itself, rest reads it each minute. This one does so as well when
		// the API server refuses the token that it had.
		config.BearerToken, config.BearerTokenFile = "", ""
		config.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(file)))
	}
	config.Dial = o.Dial
	if config.UserAgent = o.UserAgent; o.UserAgent == "" {
		config.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	return config, nil
}

func (o *Options) load() (*rest.Config, error) {
	if o.Kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOptions, err)
		}
		return config, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig}
	file, err := rules.Load()
	if err == nil {
		var config *rest.Config
		config, err = clientcmd.NewNonInteractiveClientConfig(*file, o.Context, &clientcmd.ConfigOverrides{}, rules).ClientConfig()
		if err == nil {
			return config, nil
		}
	}
	return nil, fmt.Errorf("%w: kubeconfig %s: %w", ErrOptions, o.Kubeconfig, err)
}
