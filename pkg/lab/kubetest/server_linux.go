// Package kubetest runs a real Kubernetes API server for tests: a kube-apiserver
// over an etcd, each on a host of its own, which can be killed, cut off, stopped
// and started again. No controller runs: what a test wants in the cluster, but
// for namespaces and the server's own roles, it makes itself.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/etcdtest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

const (
	port = 6443
	// patience is how long a server may take to be ready, next to others that
	// start on the same machine.
	patience = 90 * time.Second
	// issuer is who service accounts' tokens are from, and for.
	issuer = "https://kubernetes.default.svc"
)

// A Server is a Kubernetes API server, and the host that it is on.
type Server struct {
	*lab.Machine
	// Lab is where it runs.
	Lab *lab.Lab

	t       testing.TB
	bin     string
	etcd    *etcdtest.Cluster
	client  *lab.Machine // the host that clients are on
	ca      *authority
	admin   string       // its kubeconfig
	own     *http.Client // the administrator's, on the server's host
	args    []string
	command *lab.Command
	ended   chan struct{} // closed when the process has ended, by itself or not
}

// New starts a server over an etcd of one member. Both end with the test.
func New(t testing.TB) *Server {
	t.Helper()
	return On(t, labtest.New(t, lab.Topology{}))
}

// On starts a server over an etcd of one member on hosts of a lab.
func On(t testing.TB, l *lab.Lab) *Server {
	t.Helper()
	s := &Server{Lab: l, t: t, bin: bin(t), etcd: etcdtest.On(t, l, 1)}
	segment := l.Topology().Segments[0].Name
	s.Machine = labtest.VM(t, l, "kube-apiserver", segment)
	s.client = labtest.VM(t, l, "kube-client", segment)
	s.prepare()
	s.must(s.Start())
	t.Cleanup(func() { s.must(s.Kill()) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s.must(s.Wait(ctx))
	return s
}

// bin is the folder with Kubernetes' programs.
func bin(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("OVERLAY_KUBERNETES")
	if dir == "" {
		t.Fatal("OVERLAY_KUBERNETES doesn't name the folder of kube-apiserver and kubectl: make test builds them and sets it")
	}
	return dir
}

func (s *Server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// prepare makes the certificates and keys, and the command line that names them.
func (s *Server) prepare() {
	s.t.Helper()
	var err error
	s.ca, err = newAuthority()
	s.must(err)
	serving, err := s.ca.issueServer(s.IPv4(), s.IPv6())
	s.must(err)
	accounts, err := newKey()
	s.must(err)
	accountsPEM, err := keyPEM(accounts)
	s.must(err)
	s.args = []string{
		"--bind-address", "::", "--secure-port", strconv.Itoa(port), "--advertise-address", s.IPv4().String(),
		"--etcd-servers", s.etcd.Members[0].URL(),
		"--service-cluster-ip-range", "10.96.0.0/16,fd00:10:96::/112",
		"--tls-cert-file", s.write("server.crt", serving.cert), "--tls-private-key-file", s.write("server.key", serving.key),
		"--client-ca-file", s.write("ca.crt", s.ca.cert), "--anonymous-auth=false",
		"--service-account-issuer", issuer,
		"--service-account-key-file", s.write("accounts.key", accountsPEM), "--service-account-signing-key-file", s.path("accounts.key"),
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
	}
	s.admin = s.Kubeconfig("admin", "system:masters")
	s.own, err = s.newClient()
	s.must(err)
}

// path names a file of the server's host.
func (s *Server) path(name string) string { return filepath.Join(s.Dir(), name) }

// write writes a file of the server's host.
func (s *Server) write(name string, content []byte) string {
	s.t.Helper()
	s.must(os.WriteFile(s.path(name), content, 0o600))
	return s.path(name)
}

// Etcd is where the server keeps its objects.
func (s *Server) Etcd() *etcdtest.Cluster { return s.etcd }

// URL is where clients reach the server.
func (s *Server) URL() string { return fmt.Sprintf("https://%s:%d", s.IPv4(), port) }

// CA is the certificate of the server's authority, as PEM.
func (s *Server) CA() []byte { return s.ca.cert }

// Start starts the server, which keeps its address, its keys and, in its etcd,
// its objects. [Server.Wait] waits until it is ready.
func (s *Server) Start() error {
	if s.command != nil {
		return fmt.Errorf("start %s: it runs", s.Name())
	}
	command := s.Command(context.Background(), filepath.Join(s.bin, "kube-apiserver"), s.args...)
	log, err := os.OpenFile(s.path("kube-apiserver.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	command.Stdout, command.Stderr = log, log
	if err := errors.Join(command.Start(), log.Close()); err != nil { // the process has its own
		return fmt.Errorf("start kube-apiserver (make kubernetes builds it): %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = command.Wait() // says that it was killed
	}()
	s.command, s.ended = command, ended
	return nil
}

// Kill ends the server at once. One that doesn't run is fine.
func (s *Server) Kill() error {
	if s.command == nil {
		return nil
	}
	err := s.command.Kill()
	s.command = nil
	return err
}

// Pause stops the server's process without ending it; Resume lets it go on.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume lets the server go on after Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) error {
	if s.command == nil {
		return fmt.Errorf("send %s to %s: it doesn't run", signal, s.Name())
	}
	return s.command.Process.Signal(signal)
}

// Wait waits until the server says that it is ready.
func (s *Server) Wait(ctx context.Context) error {
	for {
		_, err := s.get(ctx, "/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("kube-apiserver has ended; its log's end:\n%s", s.logEnd())
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver isn't ready: %w; its log's end:\n%s", err, s.logEnd())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Log returns what the server has logged.
func (s *Server) Log() string {
	said, err := os.ReadFile(s.path("kube-apiserver.log"))
	if err != nil {
		return err.Error()
	}
	return string(said)
}

// logEnd returns the last lines of the log, most of which is how etcd's client
// connects.
func (s *Server) logEnd() string {
	const enough = 20
	lines := strings.Split(strings.TrimSpace(s.Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-enough):], "\n")
}

// CutClients takes the carrier from the host that clients are on, those of
// [Server.Dial]; MendClients gives it back.
func (s *Server) CutClients() error { return s.client.Disconnect() }

// MendClients ends CutClients.
func (s *Server) MendClients() error { return s.client.Connect() }
