// Package etcdtest runs real etcds for tests: Debian's etcd-server, one or more
// members, each on a host of its own, which can be killed, cut off, stopped and
// started again.
package etcdtest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

const (
	clientPort = 2379
	peerPort   = 2380
	// patience is how long a cluster may take to serve.
	patience = 30 * time.Second
)

// A Cluster is an etcd.
type Cluster struct {
	Members []*Member
	// Lab is where it runs.
	Lab *lab.Lab
	// Certificates are those of a secure one.
	Certificates *Certificates
	// client is the host that clients are on.
	client *lab.Machine
}

// A Member is one server.
type Member struct {
	*lab.Machine
	cluster *Cluster
	args    []string
	command *lab.Command
}

// New starts an etcd with a number of members, which ends with the test.
func New(t testing.TB, members int) *Cluster {
	t.Helper()
	return On(t, labtest.New(t, lab.Topology{}), members)
}

// On starts an etcd on hosts of a lab.
func On(t testing.TB, l *lab.Lab, members int) *Cluster {
	t.Helper()
	c := &Cluster{Lab: l}
	return c.start(t, members)
}

// Start starts an etcd on hosts of a lab for who is no test. It ends with the lab.
func Start(ctx context.Context, l *lab.Lab, members int) (*Cluster, error) {
	c := &Cluster{Lab: l}
	return c, c.launch(ctx, members)
}

// NewSecure starts an etcd of one member that wants certificates of its clients.
func NewSecure(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{Lab: labtest.New(t, lab.Topology{}), Certificates: newCertificates(t)}
	return c.start(t, 1)
}

func (c *Cluster) start(t testing.TB, members int) *Cluster {
	t.Helper()
	t.Cleanup(func() {
		for _, m := range c.Members {
			must(t, m.Kill())
		}
	})
	must(t, c.launch(t.Context(), members))
	return c
}

// launch starts the members, and waits until all serve.
func (c *Cluster) launch(ctx context.Context, members int) error {
	if err := c.add(members); err != nil {
		return err
	}
	for _, m := range c.Members {
		if err := m.Start(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, m := range c.Members {
		if err := m.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// add adds the hosts.
func (c *Cluster) add(members int) error {
	var peers []string
	segment := c.Lab.Topology().Segments[0].Name
	for i := range members {
		host, err := c.Lab.AddVM(fmt.Sprintf("etcd%d", i+1), segment)
		if err != nil {
			return err
		}
		c.Members = append(c.Members, &Member{Machine: host, cluster: c})
		peers = append(peers, fmt.Sprintf("%s=http://%s:%d", host.Name(), host.IPv4(), peerPort))
	}
	for _, m := range c.Members {
		m.args = append([]string{
			"--name", m.Name(), "--data-dir", filepath.Join(m.Dir(), "etcd"), "--log-level", "error",
			"--listen-client-urls", c.scheme() + "://0.0.0.0:2379", "--advertise-client-urls", m.URL(),
			"--listen-peer-urls", fmt.Sprintf("http://%s:%d", m.IPv4(), peerPort),
			"--initial-advertise-peer-urls", fmt.Sprintf("http://%s:%d", m.IPv4(), peerPort),
			"--initial-cluster", strings.Join(peers, ","), "--unsafe-no-fsync",
		}, c.Certificates.args()...)
	}
	var err error
	c.client, err = c.Lab.AddVM("etcd-client", segment)
	return err
}

// Endpoints are the members' URLs.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, m := range c.Members {
		all = append(all, m.URL())
	}
	return all
}

// Dial connects to a member from a host that is no member.
func (c *Cluster) Dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = c.client.Do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// Client returns a client of some members, or of all.
func (c *Cluster) Client(endpoints ...string) (*clientv3.Client, error) {
	if len(endpoints) == 0 {
		endpoints = c.Endpoints()
	}
	var secure *tls.Config
	if c.Certificates != nil {
		var err error
		if secure, err = c.Certificates.client(); err != nil {
			return nil, err
		}
	}
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: secure, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithContextDialer(c.Dial)},
	})
}

// URL is where clients reach the member.
func (m *Member) URL() string {
	return fmt.Sprintf("%s://%s:%d", m.cluster.scheme(), m.IPv4(), clientPort)
}

func (c *Cluster) scheme() string {
	if c.Certificates != nil {
		return "https"
	}
	return "http"
}

// Start starts the member; with what it had when it ran before.
func (m *Member) Start() error {
	m.command = m.Command(context.Background(), "etcd", m.args...)
	log, err := os.OpenFile(filepath.Join(m.Dir(), "etcd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	m.command.Stdout, m.command.Stderr = log, log
	if err := m.command.Start(); err != nil {
		return errors.Join(fmt.Errorf("start etcd (Debian's etcd-server, see scripts/setup): %w", err), log.Close())
	}
	return log.Close() // the process has its own
}

// Kill ends the member at once.
func (m *Member) Kill() error {
	if m.command == nil {
		return nil
	}
	err := m.command.Kill()
	_ = m.command.Wait() // says that it was killed
	m.command = nil
	return err
}

// Pause stops the member's process without ending it; Resume lets it go on.
func (m *Member) Pause() error { return m.command.Process.Signal(syscall.SIGSTOP) }

// Resume lets the member go on after Pause.
func (m *Member) Resume() error { return m.command.Process.Signal(syscall.SIGCONT) }

// Wait waits until the member serves, with a leader.
func (m *Member) Wait(ctx context.Context) (err error) {
	client, err := m.cluster.Client(m.URL())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	for {
		once, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), time.Second)
		_, err := client.Get(once, "wait")
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			said, _ := os.ReadFile(filepath.Join(m.Dir(), "etcd.log"))
			return fmt.Errorf("%s doesn't serve: %w; its log:\n%s", m.Name(), err, said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Leader returns the member that leads.
func (c *Cluster) Leader(ctx context.Context) (_ *Member, err error) {
	for _, m := range c.Members {
		client, err := c.Client(m.URL())
		if err != nil {
			return nil, err
		}
		once, cancel := context.WithTimeout(ctx, time.Second)
		s, err := client.Status(once, m.URL())
		cancel()
		if closed := client.Close(); err == nil && closed == nil && s.Leader == s.Header.MemberId {
			return m, nil
		}
	}
	return nil, errors.New("no member leads")
}

// CutClients takes the carrier from the host that clients are on; MendClients
// gives it back.
func (c *Cluster) CutClients() error { return c.client.Disconnect() }

// MendClients ends CutClients.
func (c *Cluster) MendClients() error { return c.client.Connect() }

// Compact forgets all revisions before the newest. It is asked for on a member's
// own host, so that clients may be cut off.
func (c *Cluster) Compact(ctx context.Context) error {
	m := c.Members[0]
	var revision struct {
		Header struct {
			Revision int64 `json:"revision"`
		} `json:"header"`
	}
	out, err := m.Ctl(ctx, "get", "compact", "-w", "json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, &revision); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	_, err = m.Ctl(ctx, "compact", "--physical", strconv.FormatInt(revision.Header.Revision, 10))
	return err
}

// Ctl runs etcdctl on the member's host.
func (m *Member) Ctl(ctx context.Context, args ...string) ([]byte, error) {
	if c := m.cluster.Certificates; c != nil {
		args = append([]string{"--endpoints", m.URL(), "--cacert", c.CA, "--cert", c.Cert, "--key", c.Key}, args...)
	}
	cmd := m.Command(ctx, "etcdctl", args...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("etcdctl %v: %w", args, err)
	}
	return out, nil
}
