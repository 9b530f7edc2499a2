package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
)

// ErrOptions says that something of Options can't be used.
var ErrOptions = errors.New("options of etcd")

// TLS names files with PEM. The client's own are read anew for each connection,
// so that they can be renewed.
type TLS struct {
	// CA has the authorities that the members' certificates are trusted for;
	// "": the system's.
	CA string
	// Cert and Key are the client's own, where the etcd asks for one.
	Cert, Key string
}

// validate checks options and fills the defaults in.
func (o *Options) validate() error {
	if len(o.Endpoints) == 0 {
		return fmt.Errorf("%w: no endpoints", ErrOptions)
	}
	for _, e := range o.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return fmt.Errorf("%w: endpoint %q is not a URL such as https://10.0.0.1:2379", ErrOptions, e)
		}
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if !strings.HasPrefix(o.Prefix, "/") || !strings.HasSuffix(o.Prefix, "/") {
		return fmt.Errorf("%w: prefix %q doesn't begin and end with a slash", ErrOptions, o.Prefix)
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = DefaultRequestTimeout
	}
	if o.Password != "" && o.Username == "" {
		return fmt.Errorf("%w: a password without a user name", ErrOptions)
	}
	secure := func(e string) bool { return strings.HasPrefix(e, "https:") }
	if o.TLS != (TLS{}) && !slices.ContainsFunc(o.Endpoints, secure) {
		return fmt.Errorf("%w: certificates, and no endpoint with https", ErrOptions)
	}
	return nil
}

// config returns the configuration of the connections.
func (t TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("%w: CA: %w", ErrOptions, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: CA: %s has no certificate", ErrOptions, t.CA)
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, fmt.Errorf("%w: of the client's certificate and key one is missing", ErrOptions)
	}
	if t.Cert == "" {
		return c, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("%w: client certificate: %w", ErrOptions, err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return c, nil
}
