package config

import (
	"net/url"
	"strings"
)

// Store says where the nodes agree: in a directory, in an etcd, or in the
// Kubernetes API.
type Store struct {
	// Dir is where the embedded store is, when there is none of the others.
	Dir        string
	Etcd       *Etcd
	Kubernetes *Kubernetes
}

// Kubernetes says where the API server is, and as whom it is asked.
type Kubernetes struct {
	// Kubeconfig is a file; "": what Kubernetes gives a pod.
	Kubeconfig string
	// Context of the kubeconfig; "": its current one.
	Context string
}

// Etcd says where an etcd is, and as whom it is asked.
type Etcd struct {
	Endpoints []string
	// Prefix of all keys; "": the store's default.
	Prefix string
	// CAFile, CertFile and KeyFile hold PEM.
	CAFile, CertFile, KeyFile string
	Username                  string
	// PasswordFile holds the password and nothing else.
	PasswordFile string
}

// String names the store for people.
func (s *Store) String() string {
	switch {
	case s.Etcd != nil:
		return "etcd " + strings.Join(s.Etcd.Endpoints, ", ")
	case s.Kubernetes != nil && s.Kubernetes.Kubeconfig != "":
		return "Kubernetes by " + s.Kubernetes.Kubeconfig
	case s.Kubernetes != nil:
		return "Kubernetes"
	}
	return s.Dir
}

// parse reads "store" of a daemon.
func (s *Store) parse(d *decoder) {
	sub, kind := storeKind(d)
	if sub == nil {
		return
	}
	switch kind {
	case "local":
		absolutePath(sub, "path", &s.Dir)
	case "etcd":
		s.Etcd = parseEtcd(sub)
	case "kubernetes":
		s.Kubernetes = parseKubernetes(sub)
	default:
		sub.fail("type", []byte(kind), "must be local, etcd or kubernetes")
	}
	d.join(sub.finish())
}

// localStore reads "store" of a plugin: it asks no server, which is the daemon's
// to do.
func localStore(d *decoder, dir *string) {
	sub, kind := storeKind(d)
	if sub == nil {
		return
	}
	switch kind {
	case "local":
		absolutePath(sub, "path", dir)
	case "etcd", "kubernetes":
		sub.fail("type", []byte(kind), "must be local here: only overlayd asks a server")
	default:
		sub.fail("type", []byte(kind), "must be local")
	}
	d.join(sub.finish())
}

// storeKind begins to read "store"; the decoder is nil when there is none.
func storeKind(d *decoder) (*decoder, string) {
	s, ok := d.object("store")
	if !ok {
		return nil, ""
	}
	kind := "local"
	field(s, "type", "a string", &kind)
	return s, kind
}

func parseKubernetes(d *decoder) *Kubernetes {
	k := &Kubernetes{}
	absolutePath(d, "kubeconfig", &k.Kubeconfig)
	if field(d, "context", "a string", &k.Context) && k.Kubeconfig == "" {
		d.fail("context", []byte(k.Context), "needs kubeconfig")
	}
	return k
}

func parseEtcd(d *decoder) *Etcd {
	e := &Etcd{}
	if !field(d, "endpoints", "a list of URLs", &e.Endpoints) || len(e.Endpoints) == 0 {
		d.fail("endpoints", nil, "at least one is needed, such as https://10.0.0.1:2379")
	}
	for _, text := range e.Endpoints {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			d.fail("endpoints", []byte(text), "is not a URL such as https://10.0.0.1:2379")
		}
	}
	if field(d, "prefix", "a string", &e.Prefix) && (!strings.HasPrefix(e.Prefix, "/") || !strings.HasSuffix(e.Prefix, "/")) {
		d.fail("prefix", []byte(e.Prefix), "must begin and end with a slash")
	}
	absolutePath(d, "caFile", &e.CAFile)
	absolutePath(d, "certFile", &e.CertFile)
	absolutePath(d, "keyFile", &e.KeyFile)
	if (e.CertFile == "") != (e.KeyFile == "") {
		d.fail("certFile", []byte(e.CertFile), "and keyFile go together")
	}
	field(d, "username", "a string", &e.Username)
	absolutePath(d, "passwordFile", &e.PasswordFile)
	if e.PasswordFile != "" && e.Username == "" {
		d.fail("passwordFile", []byte(e.PasswordFile), "needs username")
	}
	return e
}
