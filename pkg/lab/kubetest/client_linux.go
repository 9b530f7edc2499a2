package kubetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// Admin is the path of a kubeconfig of a cluster's administrator.
func (s *Server) Admin() string { return s.admin }

// Kubeconfig returns the path of a kubeconfig with a client certificate of a
// user in some groups, who may do what the test binds to them.
func (s *Server) Kubeconfig(user string, groups ...string) string {
	s.t.Helper()
	client, err := s.ca.issueClient(user, groups...)
	s.must(err)
	type object map[string]any
	text, err := json.Marshal(object{ // which is YAML, too
		"apiVersion": "v1", "kind": "Config", "current-context": "lab",
		"clusters": []object{{"name": "lab", "cluster": object{"server": s.URL(), "certificate-authority-data": s.ca.cert}}},
		"users":    []object{{"name": "user", "user": object{"client-certificate-data": client.cert, "client-key-data": client.key}}},
		"contexts": []object{{"name": "lab", "context": object{"cluster": "lab", "user": "user"}}},
	})
	s.must(err)
	file, err := os.CreateTemp(s.Dir(), "*.kubeconfig")
	s.must(err)
	_, err = file.Write(text)
	s.must(errors.Join(err, file.Close()))
	return file.Name()
}

// Token asks the server for a token of a service account that is there. The
// server issues none for less than ten minutes.
func (s *Server) Token(ctx context.Context, namespace, serviceAccount string, d time.Duration) (string, error) {
	token, err := s.Kubectl(ctx, "create", "token", serviceAccount, "--namespace", namespace, "--duration", d.String())
	return strings.TrimSpace(token), err
}

// Dial connects to the server from a host that is not the server's.
func (s *Server) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return dialFrom(ctx, s.client, network, address)
}

func dialFrom(ctx context.Context, from *lab.Machine, network, address string) (conn net.Conn, err error) {
	err = from.Do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Kubectl runs kubectl as the administrator and returns what it prints. It runs
// on the server's own host, so that clients may be cut off.
func (s *Server) Kubectl(ctx context.Context, args ...string) (string, error) {
	command := s.Command(ctx, filepath.Join(s.bin, "kubectl"), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+s.admin, "KUBERC=off", "HOME="+s.Dir()) // where it caches what the server has
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Apply applies the objects of a file, and waits until the resources that it
// defines are established. The server lets who creates the first objects of a
// resource wait until two seconds have passed since.
func (s *Server) Apply(ctx context.Context, file string) error {
	applied, err := s.Kubectl(ctx, "apply", "--filename", file, "--output", "name")
	if err != nil {
		return err
	}
	var definitions []string
	for name := range strings.FieldsSeq(applied) {
		if strings.HasPrefix(name, "customresourcedefinition.apiextensions.k8s.io/") {
			definitions = append(definitions, name)
		}
	}
	if len(definitions) == 0 {
		return nil
	}
	_, err = s.Kubectl(ctx, append([]string{"wait", "--for", "condition=Established", "--timeout", patience.String()}, definitions...)...)
	return err
}

// newClient makes a client of the administrator on the server's own host, which
// connects for each request.
func (s *Server) newClient() (*http.Client, error) {
	admin, err := s.ca.issueClient("lab", "system:masters")
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(admin.cert, admin.key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.ca.cert)
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, RootCAs: roots},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialFrom(ctx, s.Machine, network, address)
		},
	}}, nil
}

// get asks the server for a path as the administrator, from its own host.
func (s *Server) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := s.own.Do(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s: %s", path, response.Status, body)
	}
	return body, nil
}
