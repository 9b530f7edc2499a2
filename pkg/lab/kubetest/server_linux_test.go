package kubetest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/kubetest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// patience is how long a test waits for what must happen soon.
const patience = 30 * time.Second

// TestServer: one server that is used in all ways, in order.
func TestServer(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := kubetest.New(t)
	t.Logf("ready in %s", time.Since(began).Round(time.Millisecond))
	for _, part := range []struct {
		name string
		test func(*testing.T, *kubetest.Server)
	}{
		{"answers", testAnswers},
		{"users", testUsers},
		{"service accounts", testServiceAccount},
		{"nobody", testNobody},
		{"own resources", testResources},
		{"requests", testRequests},
		{"clients cut off", testCutClients},
		{"paused", testPause},
		{"killed", testKill},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, s) })
	}
}

func testAnswers(t *testing.T, s *kubetest.Server) {
	if got := kubectl(t, s, "get", "--raw", "/readyz"); got != "ok" {
		t.Errorf("/readyz says %q", got)
	}
	var version struct {
		ServerVersion struct{ GitVersion string }
		ClientVersion struct{ GitVersion string }
	}
	if err := json.Unmarshal([]byte(kubectl(t, s, "version", "--output", "json")), &version); err != nil {
		t.Fatal(err)
	}
	server, client := version.ServerVersion.GitVersion, version.ClientVersion.GitVersion
	if !strings.HasPrefix(server, "v1.") || server != client {
		t.Errorf("server %q and client %q aren't of one version", server, client)
	}
	_, err := s.Kubectl(t.Context(), "get", "nodes", "nobody")
	if err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("a node that isn't there: got %v", err)
	}
}

func testUsers(t *testing.T, s *kubetest.Server) {
	config := s.Kubeconfig("system:node:jane", "carriers", "overlay")
	user := whoami(t, s, "--kubeconfig", config)
	if user.Username != "system:node:jane" || !slices.Contains(user.Groups, "carriers") || !slices.Contains(user.Groups, "overlay") {
		t.Errorf("the server takes the user for %+v", user)
	}
	get := []string{"--kubeconfig", config, "get", "nodes"}
	if _, err := s.Kubectl(t.Context(), get...); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("without a role: got %v", err)
	}
	kubectl(t, s, "create", "clusterrole", "see-nodes", "--verb", "list", "--resource", "nodes")
	kubectl(t, s, "create", "clusterrolebinding", "carriers", "--clusterrole", "see-nodes", "--group", "carriers")
	wait(t, func() error {
		_, err := s.Kubectl(t.Context(), get...)
		return err
	})
}

func testServiceAccount(t *testing.T, s *kubetest.Server) {
	if _, err := s.Token(t.Context(), "kube-system", "overlayd", 10*time.Minute); err == nil {
		t.Error("an account that isn't there has a token")
	}
	kubectl(t, s, "create", "serviceaccount", "overlayd", "--namespace", "kube-system")
	token, err := s.Token(t.Context(), "kube-system", "overlayd", 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, s.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	user := whoami(t, s, "--kubeconfig", os.DevNull, "--server", s.URL(), "--certificate-authority", ca, "--token", token)
	if want := "system:serviceaccount:kube-system:overlayd"; user.Username != want {
		t.Errorf("the server takes the account for %q, want %q", user.Username, want)
	}
}

// testNobody: from another host, without a certificate.
func testNobody(t *testing.T, s *kubetest.Server) {
	if status, err := get(t.Context(), s, s.Dial); err != nil || status != http.StatusUnauthorized {
		t.Errorf("got %d, %v, want %d", status, err, http.StatusUnauthorized)
	}
}

func testResources(t *testing.T, s *kubetest.Server) {
	for range 2 { // applying again changes nothing
		if err := s.Apply(t.Context(), "testdata/widget.yaml"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Apply(t.Context(), "testdata/first.yaml"); err != nil {
		t.Fatal(err)
	}
	if got := kubectl(t, s, "get", "widget", "first", "--output", "jsonpath={.spec.size}"); got != "3" {
		t.Errorf("the object has the size %q", got)
	}
	if err := s.Apply(t.Context(), "testdata/missing.yaml"); err == nil {
		t.Error("a file that isn't there was applied")
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Apply(short, "testdata/conflicting.yaml"); err == nil {
		t.Error("a definition that isn't established was taken for one that is")
	}
}

// testRequests counts with a resource that the server itself asks nothing of.
func testRequests(t *testing.T, s *kubetest.Server) {
	before := requests(t, s)
	kubectl(t, s, "get", "widget", "first")
	kubectl(t, s, "get", "widgets")
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = s.Kubectl(ctx, "get", "widgets", "--watch") // lists first, and ends with its context
	}()
	since := func(name string) int { return requests(t, s)[name] - before[name] }
	wait(t, func() error {
		if since("WATCH widgets") == 0 {
			return errors.New("no watch is counted")
		}
		return nil
	})
	for name, want := range map[string]int{"GET widgets": 1, "LIST widgets": 2, "WATCH widgets": 1, "POST widgets": 0} {
		if got := since(name); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
	cancel()
	<-over
}

// testCutClients: clients don't reach the server, and its administrator does.
func testCutClients(t *testing.T, s *kubetest.Server) {
	if err := s.CutClients(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if status, err := get(short, s, s.Dial); err == nil {
		t.Errorf("a client that is cut off got %d", status)
	}
	kubectl(t, s, "get", "--raw", "/readyz")
	if err := s.MendClients(); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t.Context(), s, s.Dial); err != nil {
		t.Error(err)
	}
}

// testPause: a server that hangs takes connections and doesn't answer.
func testPause(t *testing.T, s *kubetest.Server) {
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if status, err := get(short, s, s.Dial); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that hangs: got %d, %v", status, err)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t.Context(), s, s.Dial); err != nil {
		t.Error(err)
	}
}

// testKill: who has been killed is gone, and comes back with its objects, its
// users and its service accounts' keys.
func testKill(t *testing.T, s *kubetest.Server) {
	token, err := s.Token(t.Context(), "kube-system", "overlayd", 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err == nil {
		t.Error("a server that runs was started")
	}
	for range 2 { // once more is fine
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if status, err := get(t.Context(), s, s.Dial); err == nil {
		t.Errorf("a server that was killed answers %d", status)
	}
	if err := s.Pause(); err == nil {
		t.Error("a server that was killed was paused")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Wait(ctx); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a server that was killed: got %v", err)
	}
	began := time.Now()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("ready again in %s", time.Since(began).Round(time.Millisecond))
	if got := kubectl(t, s, "get", "widgets", "--output", "name"); got != "widget.lab.example.com/first\n" {
		t.Errorf("it comes back with the objects %q", got)
	}
	whoami(t, s, "--kubeconfig", os.DevNull, "--server", s.URL(), "--insecure-skip-tls-verify", "--token", token)
}

// TestOn: the nodes of a lab reach its server, in either segment, and
// another lab's server is another, although it has the same address.
func TestOn(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	a, b := labtest.Node(t, l, "n1", "a"), labtest.Node(t, l, "n2", "b")
	s, other := kubetest.On(t, l), kubetest.New(t)
	for _, node := range []*lab.Node{a, b} {
		dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = node.Do(func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		}
		if status, err := get(t.Context(), s, dial); err != nil || status != http.StatusUnauthorized {
			t.Errorf("from %s: got %d, %v, want %d", node.Name(), status, err, http.StatusUnauthorized)
		}
	}
	kubectl(t, s, "create", "namespace", "here")
	if _, err := other.Kubectl(t.Context(), "get", "namespace", "here"); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("the other server: got %v", err)
	}
}

// TestEnd: nothing is left of a server whose test has ended.
func TestEnd(t *testing.T) {
	t.Parallel()
	var dir string
	t.Run("a test", func(t *testing.T) { dir = kubetest.New(t).Dir() })
	if dir == "" {
		t.FailNow()
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder %s: got %v", dir, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range processes {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), dir) {
			t.Errorf("%s runs still", strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
}

// failing is a test that keeps what it fails with.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Fatal(args ...any) {
	for _, arg := range args {
		if text, ok := arg.(string); ok {
			f.said += text
		}
	}
	runtime.Goexit()
}

// TestWithoutPrograms: what is missing is said, and no test is skipped.
func TestWithoutPrograms(t *testing.T) {
	t.Setenv("OVERLAY_KUBERNETES", "")
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		kubetest.New(f)
	}()
	<-done
	if !strings.Contains(f.said, "OVERLAY_KUBERNETES") || !strings.Contains(f.said, "make test") {
		t.Errorf("it fails with %q", f.said)
	}
}

// kubectl runs kubectl as the administrator.
func kubectl(t *testing.T, s *kubetest.Server, args ...string) string {
	t.Helper()
	out, err := s.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type user struct {
	Username string
	Groups   []string
}

// whoami asks the server whom it takes a client for.
func whoami(t *testing.T, s *kubetest.Server, args ...string) user {
	t.Helper()
	var review struct{ Status struct{ UserInfo user } }
	out := kubectl(t, s, append([]string{"auth", "whoami", "--output", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &review); err != nil {
		t.Fatal(err)
	}
	return review.Status.UserInfo
}

func requests(t *testing.T, s *kubetest.Server) map[string]int {
	t.Helper()
	counts, err := s.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// get asks the server, which has to show a certificate of its authority, for
// something, without a certificate of its own.
func get(ctx context.Context, s *kubetest.Server, dial func(context.Context, string, string) (net.Conn, error)) (status int, err error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA())
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/api", http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, errors.Join(err, response.Body.Close())
}

// wait waits until something goes well.
func wait(t *testing.T, try func() error) {
	t.Helper()
	late := time.After(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-late:
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
